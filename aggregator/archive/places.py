"""Where files of an archive lie: in a directory, or in a bucket. A file appears whole, and never in place of another.

Raises ArchiveError for whatever goes wrong, with what to do about it.
"""

import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Protocol

from aggregator.errors import ArchiveError, SinkError
from aggregator.runtime.durable import sync_directory
from aggregator.sinks.files.bucket import PART_BYTES, Bucket
from aggregator.sinks.files.directory import clear, content_of, unfinished

MOST_FETCHED = 8
"""Files that are kept: far more than are read at once."""

BRING_IT_BACK = "Bring the file back from a backup, or let `ledger.archive` say where the archive is now."


class Place(Protocol):
    """Where files lie."""

    where: str
    """In words, as the ledger remembers it."""

    def making(self) -> AbstractContextManager[tuple[Path, BinaryIO]]:
        """Give a file to write, as a context; whatever is left of it is gone at its end."""
        ...

    def publish(self, path: Path, name: str) -> None:
        """Let a file that was made lie there under its name. One of the same name and content is there already."""
        ...

    def fetched(self, name: str) -> AbstractContextManager[Path]:
        """Give a file to read, as a context."""
        ...

    def names(self) -> set[str]:
        """Return the names of all archives that lie there."""
        ...

    def close(self) -> None:
        """Give back connections."""
        ...


class Directory:
    """A directory that every host can reach which runs aggregator."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.where = str(directory)

    @contextmanager
    def making(self) -> Iterator[tuple[Path, BinaryIO]]:
        """Give a hidden file in the same directory: only a hard link gives it its name."""
        with self._explained():
            self._directory.mkdir(parents=True, exist_ok=True)
            clear(self._directory)
            with unfinished(self._directory) as (path, file):
                yield path, file

    def publish(self, path: Path, name: str) -> None:
        """Give a file that was made its name."""
        final = self._directory / name
        with self._explained():
            try:
                os.link(path, final)
            except FileExistsError:
                if content_of(final) != content_of(path):
                    raise ArchiveError(
                        f"{final} is there already and is another file: move it away."
                    ) from None
            sync_directory(self._directory)

    @contextmanager
    def fetched(self, name: str) -> Iterator[Path]:
        """Give the file where it lies."""
        path = self._directory / name
        if not path.is_file():
            raise ArchiveError(f"The archive {path} is not there. {BRING_IT_BACK}")
        yield path

    def names(self) -> set[str]:
        """Return the names of all archives that lie there."""
        with self._explained():
            return {path.name for path in self._directory.glob("*.parquet")}

    def close(self) -> None:
        """Nothing is open."""

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise ArchiveError(
                f"The archive cannot be written to {self._directory}: {error.strerror or error}. Make room there, or let "
                "this user write there; nothing leaves the ledger meanwhile."
            ) from error


class InBucket:
    """A bucket, under a prefix. A file is fetched whole to be read; the last few are kept."""

    def __init__(self, bucket: Bucket, name: str, prefix: str) -> None:
        self._bucket = bucket
        self._prefix = prefix
        self.where = f"s3://{name}/{prefix}"
        self._fetched: tempfile.TemporaryDirectory[str] | None = None
        self._fetching = threading.Lock()

    @contextmanager
    def making(self) -> Iterator[tuple[Path, BinaryIO]]:
        """Give a temporary file of this host."""
        with tempfile.TemporaryDirectory(prefix="aggregator-archive-") as directory:
            path = Path(directory) / "archive.parquet"
            with path.open("wb") as file:
                yield path, file

    def publish(self, path: Path, name: str) -> None:
        """Put a file that was made into the bucket."""
        size, content = content_of(path)
        key = self._prefix + name
        with _explained(), path.open("rb") as file:
            if size < PART_BYTES:
                put: bool | None = self._bucket.put(key, file, size, content)
            else:
                put = self._bucket.put_in_parts(key, file, content, lambda: True)
            if not put and self._bucket.find(key) != (size, content):
                raise ArchiveError(
                    f"{self.where}{name} is there already and is another object: move it away."
                )

    @contextmanager
    def fetched(self, name: str) -> Iterator[Path]:
        """Give a copy of the file, fetched once."""
        with self._fetching:  # many may ask for the same at once
            if self._fetched is None:
                self._fetched = tempfile.TemporaryDirectory(prefix="aggregator-archive-")
            path = Path(self._fetched.name) / name
            if not path.exists():
                self._make_room(path.parent)
                self._fetch(name, path)
        yield path

    def _fetch(self, name: str, path: Path) -> None:
        part = path.with_suffix(".part")
        with _explained():
            with part.open("wb") as file:
                there = self._bucket.get(self._prefix + name, file)
            if not there:
                part.unlink()
                raise ArchiveError(f"The archive {self.where}{name} is not there. {BRING_IT_BACK}")
            part.rename(path)

    def _make_room(self, directory: Path) -> None:
        """Remove those that were fetched first; whoever reads one has it open."""
        for path in sorted(directory.iterdir(), key=lambda each: each.stat().st_mtime)[:-MOST_FETCHED]:
            path.unlink(missing_ok=True)

    def names(self) -> set[str]:
        """Return the names of all archives that lie there."""
        with _explained():
            keys = self._bucket.keys(self._prefix)
            return {key.removeprefix(self._prefix) for key in keys if key.endswith(".parquet")}

    def close(self) -> None:
        """Give back connections, and remove what was fetched."""
        self._bucket.close()
        if self._fetched is not None:
            with suppress(OSError):
                self._fetched.cleanup()


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except SinkError as error:
        raise ArchiveError(str(error)) from error
