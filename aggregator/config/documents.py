"""One YAML file as plain values, and where each of them stands.

Rules
- What the file says may be quoted in a message if it looks harmless; what the environment says, never.
- The first complaint about a place stands; the rest would only echo it.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from aggregator.errors import Problem

Step = str | int
Location = tuple[Step, ...]

# More than anybody writes by hand, and small enough to hold.
LONGEST_FILE = 1_000_000
LONGEST_SECRET = 65_536

STANDARD_TAG = "tag:yaml.org,2002:"
_LOOKS_SECRET = re.compile(r"://|@|[sr]k_(?:test|live)_|passw", re.IGNORECASE)
_LOOKS_PLAIN = re.compile(r"[\w .,:+*/${}\-]{1,80}")


def harmless(text: str) -> bool:
    """Tell whether a text from a file may be repeated in a message: short, plain, and unlike any secret."""
    return _LOOKS_PLAIN.fullmatch(text) is not None and _LOOKS_SECRET.search(text) is None


def is_plain(path: Path) -> bool:
    """Tell whether this is a file that can be read as often as one likes, or nothing at all."""
    return path.is_file() or not path.exists()


def read_text(path: Path, limit: int) -> str:
    """Return a file's text; OSError if it cannot be read, ValueError says why it is not usable."""
    with path.open("rb") as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise ValueError(f"is longer than {limit:,} bytes")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError("is not UTF-8 text") from None


def read_value(path: Path, limit: int) -> str:
    """Return the one value that a file holds, without the line end that editors add. Raises what `read_text` does."""
    return re.sub(r"\r?\n\Z", "", read_text(path, limit))


@dataclass
class Problems:
    """What is wrong so far."""

    found: dict[tuple[str, int | None, str], Problem] = field(default_factory=dict)

    def add(self, problem: Problem) -> None:
        """Note a problem, unless one is known for the same place."""
        self.found.setdefault((problem.file, problem.line, problem.path), problem)

    def sorted(self) -> list[Problem]:
        """Return them by file and line."""
        return sorted(self.found.values(), key=lambda p: (p.file, p.line or 0))


@dataclass(frozen=True)
class Document:
    """One file: its values, and where each of them stands."""

    path: Path
    data: dict[str, object]
    root: Node
    problems: Problems

    @property
    def directory(self) -> Path:
        """From where its paths lead: where the file lies, or where we are if it is a pipe, which lies nowhere."""
        return self.path.parent if is_plain(self.path) else Path.cwd()

    def line(self, location: Location) -> int:
        """Return the line of a key, or of the nearest block around it that is there."""
        node, line = self.root, line_of(self.root)
        for step in location:
            child = _child(node, step)
            if child is None:
                break
            node, line = child
        return line

    def text(self, location: Location) -> str | None:
        """Return what the file says at this place before any variable is replaced, if that is text."""
        node: Node | None = self.root
        for step in location:
            child = _child(node, step)
            node = child[0] if child else None
        return str(node.value) if isinstance(node, ScalarNode) else None

    def problem(self, location: Location, message: str) -> None:
        """Note that something is wrong here."""
        place = Problem(str(self.path), self.line(location), dotted(location), message)
        self.problems.add(place)

    def has_problem(self, location: Location) -> bool:
        """Tell whether something is known to be wrong here."""
        return (str(self.path), self.line(location), dotted(location)) in self.problems.found


def line_of(node: Node) -> int:
    """Return the line a node starts on, counted from 1."""
    return int(node.start_mark.line) + 1


def dotted(location: Location) -> str:
    """Return a place as people write it: `meters.api_requests.sinks[0]`."""
    path = ""
    for step in location:
        if isinstance(step, int):
            path += f"[{step}]"
        else:
            path += ("." if path else "") + (step if harmless(step) else "...")
    return path


def _child(node: Node | None, step: Step) -> tuple[Node, int] | None:
    if isinstance(node, SequenceNode) and isinstance(step, int) and step < len(node.value):
        item = node.value[step]
        return item, line_of(item)
    if isinstance(node, MappingNode):
        return next(((value, line_of(key)) for key, value in pairs(node) if key.value == step), None)
    return None


def pairs(node: MappingNode) -> Iterator[tuple[Node, Node]]:
    """Yield a mapping's own pairs, then those that `<<` brings in, from each merged mapping once."""
    waiting, seen = [node], set[int]()
    while waiting:
        current = waiting.pop(0)
        if id(current) in seen:
            continue
        seen.add(id(current))
        for key, value in current.value:
            if not _is_merge(key):
                yield key, value
                continue
            merged = value.value if isinstance(value, SequenceNode) else [value]
            waiting.extend(each for each in merged if isinstance(each, MappingNode))


def _is_merge(key: Node) -> bool:
    return bool(key.tag == f"{STANDARD_TAG}merge")
