"""The files of a configuration: the one that is named, and those it includes.

Rules
- `include:` is relative to the file it stands in. A pattern that matches nothing is a mistake: it would bill nothing.
- Each file is read once. A file that includes itself, directly or not, is a mistake, as is one included twice.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from aggregator.config.documents import (
    LONGEST_FILE,
    Document,
    Location,
    Problems,
    harmless,
    is_plain,
    read_text,
)
from aggregator.config.parsing import parse
from aggregator.errors import Problem


@dataclass
class Files:
    """What was read, the top file first."""

    env: Mapping[str, str]
    problems: Problems
    documents: list[Document] = field(default_factory=list)
    complete: bool = True
    """Whether every file could be read, so that a name that was not found is surely not there."""
    _seen: dict[Path, Path] = field(default_factory=dict)

    def read_top(self, path: Path) -> None:
        """Read the file the configuration starts from, and what it includes."""
        try:
            self._read(path, ())
        except FileNotFoundError:
            self._unreadable(path, "there is no such file: write one with `aggregator init`, or name another")
        except OSError as error:
            self._unreadable(
                path, f"cannot be read ({error.strerror}): correct its permissions, or name another"
            )

    def _unreadable(self, path: Path, message: str) -> None:
        self.complete = False
        self.problems.add(Problem(str(path), None, "", message))

    def _read(self, path: Path, above: tuple[Path, ...]) -> None:
        self._seen[path.resolve()] = path
        try:
            text = read_text(path, LONGEST_FILE)
        except ValueError as error:
            return self._unreadable(path, f"{error}: give a YAML file in UTF-8")
        if not text and not is_plain(path):
            return self._unreadable(
                path, "is a pipe, which can be read only once: give a file to a daemon that is to reload"
            )
        document = parse(path, text, self.env, self.problems)
        if document is None:
            self.complete = False
            return None
        self.documents.append(document)
        return self._include(document, (*above, path.resolve()))

    def _include(self, document: Document, above: tuple[Path, ...]) -> None:
        patterns = document.data.get("include", [])
        if patterns is None:
            return
        if not isinstance(patterns, list):
            document.problem(("include",), "must be a list: write, for example, `include: [meters/*.yaml]`")
            self.complete = False
            return
        for index, pattern in enumerate(patterns):
            self._include_matches(document, ("include", index), pattern, above)

    def _include_matches(
        self, document: Document, location: Location, pattern: object, above: tuple[Path, ...]
    ) -> None:
        matches = _matches(document.directory, pattern) if isinstance(pattern, str) else []
        if not matches:
            self.complete = False
            document.problem(location, _no_match(document.text(location)))
        for path in matches:
            self._include_one(document, location, path, above)

    def _include_one(
        self, document: Document, location: Location, path: Path, above: tuple[Path, ...]
    ) -> None:
        if path.resolve() in above:
            document.problem(
                location, f"leads back to {path}, which includes this file: narrow it or remove it"
            )
        elif path.resolve() in self._seen:
            document.problem(location, f"includes {path} for the second time: include it once")
        else:
            try:
                self._read(path, above)
            except OSError as error:
                self.complete = False
                document.problem(
                    location, f"{path} cannot be read ({error.strerror}): correct its permissions"
                )


def _matches(directory: Path, pattern: str) -> list[Path]:
    """Return the files a path or pattern stands for, in order of name."""
    try:
        absolute = Path(pattern)
        if absolute.is_absolute():
            directory, pattern = Path(absolute.anchor), str(absolute.relative_to(absolute.anchor))
        return sorted(path for path in directory.glob(pattern) if path.is_file())
    except (ValueError, NotImplementedError, OSError):
        return []


def _no_match(written: str | None) -> str:
    shown = written if written is not None and harmless(written) else "this"
    return (
        f"no file matches {shown}: correct the path, which is relative to the file it stands in, or remove it"
    )
