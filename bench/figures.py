"""What one measurement came to, and how it travels between processes: a line of JSON for each figure."""

import json
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field

from bench.processor import tree_seconds

PARTS = ("client", "ledger", "sandbox")
"""Whose processor time is told apart: this process's, Postgres's (the source's query included) and the far side's."""


@dataclass
class Figure:
    """One piece of work: how many events it was, seconds by the clock, and seconds of processor time of each part."""

    name: str
    events: int = 0
    wall: float = 0.0
    seconds: dict[str, float] = field(default_factory=dict)
    peak_megabytes: float | None = None

    def of(self, key: str) -> float | None:
        """Return microseconds per event of a part or the `whole`, seconds by the clock (`wall`), or megabytes (`peak`)."""
        if key == "wall":
            return self.wall
        if key == "peak":
            return self.peak_megabytes
        if key == "whole":
            return 1e6 * sum(self.seconds.values()) / self.events if len(self.seconds) > 1 else None
        spent = self.seconds.get(key)
        return None if spent is None else 1e6 * spent / self.events


@dataclass(frozen=True)
class Missing:
    """Work that cannot be measured on a checkout, and why."""

    why: str


@contextmanager
def measured(figure: Figure, processes: Mapping[str, int]) -> Iterator[Figure]:
    """Fill a figure with what the block takes; `processes` are the roots of the parts beside this process."""
    before = {part: tree_seconds(root) for part, root in processes.items()}
    client, wall = time.process_time(), time.monotonic()
    yield figure
    figure.wall = time.monotonic() - wall
    figure.seconds = {"client": time.process_time() - client}
    figure.seconds |= {part: tree_seconds(root) - before[part] for part, root in processes.items()}


def dumped(found: Sequence[Figure] | Missing) -> str:
    """Write down the figures of one measurement, or why there are none."""
    return json.dumps(
        {"missing": found.why} if isinstance(found, Missing) else [asdict(each) for each in found]
    )


def loaded(line: str) -> list[Figure] | Missing:
    """Read them again."""
    found = json.loads(line)
    return Missing(found["missing"]) if isinstance(found, dict) else [Figure(**each) for each in found]


COLUMNS = {
    "wall": "s",
    "client": "client",
    "ledger": "ledger",
    "sandbox": "sandbox",
    "whole": "whole",
    "peak": "MB",
}
WIDTH = 17


def heading() -> str:
    """Return the line above the figures."""
    return f"{'':<60}" + "".join(f" {text:>{WIDTH}}" for text in COLUMNS.values())


def line(name: str, figures: Sequence[Figure]) -> str:
    """Return the medians of several runs of one piece of work, with the least and the most of each."""
    return _cells(name, [[each.of(key) for each in figures] for key in COLUMNS])


def ratios(name: str, theirs: Sequence[Figure], ours: Sequence[Figure]) -> str:
    """Return how many times as much the one takes as the other, run by run: median, least and most."""
    cells = []
    for key in COLUMNS:
        pairs = [(one.of(key), other.of(key)) for one, other in zip(theirs, ours, strict=True)]
        cells.append([one / other if one is not None and other else None for one, other in pairs])
    return _cells(name, cells)


def _cells(name: str, columns: Sequence[Sequence[float | None]]) -> str:
    return f"{name:<60}" + "".join(f" {_cell(column):>{WIDTH}}" for column in columns)


def _cell(column: Sequence[float | None]) -> str:
    known = [each for each in column if each is not None]
    if not known:
        return "-"
    digits = 2 if statistics.median(known) < 10 else 1 if statistics.median(known) < 100 else 0
    spread = "" if len(known) == 1 else f" ({min(known):.{digits}f}-{max(known):.{digits}f})"
    return f"{statistics.median(known):.{digits}f}{spread}"
