"""Asks a source what a past range comes to by the old and by the new definition of a meter. Nothing is written.

Rules
- Both are asked in one snapshot, where the kind of database has one and both read the same source: then rows that come
  meanwhile make no difference. Where it is not so, that is said.
- A definition that fails keeps nobody from seeing what the other one gives: the failure is said in its place.
- A meter whose past cannot be asked for, since its source tells a state or is read by a cursor, is not read at all.
"""

import datetime as dt
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import NamedTuple

from aggregator.core import commit_barrier, windows
from aggregator.core.model import Fence, Reading, Span
from aggregator.core.shown import minute
from aggregator.errors import SourceError
from aggregator.plan.usage import Comparison, TooMany, Usage, compared
from aggregator.source import Source

Resolve = Callable[[str, list[Reading]], list[Reading]]
"""Given a mapping and readings of keys, the readings of customers. Raises SourceError."""

PAST_UNKNOWN = {
    "deltas": "its rows are read once, by a cursor, so a past range cannot be read by another query",
    "counters": "it is sampled, and its source tells nothing of the past",
    "gauges": "it is sampled, and its source tells nothing of the past",
}
"""Why a meter has no figures, by how it is read."""


class HowRead(NamedTuple):
    """All that decides what a meter bills of a range: by which query it is read, and how that is counted."""

    source: str
    query: str
    window: dt.timedelta
    dimensions: tuple[str, ...]
    customers: str | None
    unit: Decimal
    latest: bool
    read: str
    sinks: tuple[str, ...]


@dataclass(slots=True)
class MeterFigures:
    """What a range of one meter comes to before and after; without figures, `notes` say why."""

    meter: str
    sinks_before: tuple[str, ...]
    sinks_after: tuple[str, ...]
    comparison: Comparison | None = None
    notes: list[str] = field(default_factory=list)
    failed: bool = False
    """Whether the new definition could not be asked."""


class Side(NamedTuple):
    """One of the two definitions, and what it is called in a sentence."""

    called: str
    how: HowRead


OLD, NEW = "what holds now", "the new definition"


def read_both(
    meter: str,
    old: HowRead | None,
    new: HowRead | None,
    span: Span,
    sources: Mapping[str, Source],
    resolve: Resolve,
    most_movers: int,
) -> MeterFigures:
    """Return what a range of a meter comes to by two definitions; None stands for one that there is not."""
    figures = MeterFigures(meter, old.sinks if old else (), new.sinks if new else ())
    sides = [Side(name, how) for name, how in ((OLD, old), (NEW, new)) if how is not None]
    unreadable = [why for side in sides for why in _why_not(side, span, sources)]
    if unreadable:
        figures.notes += dict.fromkeys(unreadable)
        return figures
    found = _readings(figures, sides, span, sources, resolve)
    if len(found) == len(sides):
        figures.comparison = compared(found.get(OLD), found.get(NEW), most_movers)
    elif NEW in found:
        alone = compared(None, found[NEW], 0)  # nobody knows who is new
        figures.comparison = alone._replace(differing=0, new=0)
    figures.failed = new is not None and NEW not in found
    return figures


def _why_not(side: Side, span: Span, sources: Mapping[str, Source]) -> Iterator[str]:
    """Say why a definition cannot be asked for the range."""
    how = side.how
    if how.read in PAST_UNKNOWN:
        yield PAST_UNKNOWN[how.read]
    elif how.source not in sources:
        yield f"source {how.source}, from which it is read by {side.called}, is not configured any more"
    else:
        for instant in span:
            if not windows.is_boundary(instant, how.window):
                yield f"{minute(instant)} is no boundary of its windows by {side.called}: give whole days"


def _readings(
    figures: MeterFigures,
    sides: Sequence[Side],
    span: Span,
    sources: Mapping[str, Source],
    resolve: Resolve,
) -> dict[str, Usage]:
    """Return what each side comes to; those that fail are missing, and said in the notes."""
    found: dict[str, Usage] = {}
    left, snapshots, one_state = list(sides), 0, True
    while left:
        source = sources[left[0].how.source]
        together = [side for side in left if side.how.source == source.name]
        snapshots += 1
        try:
            with source.side_by_side() as snapshot:
                one_state = snapshot.one_state
                _note_proof(figures, source.name, snapshot.fence, span)
                for side in together:
                    found[side.called] = _read(side, snapshot.read, span, resolve)
                    left.remove(side)
        except SourceError as error:
            figures.notes.append(f"it cannot be read by {left[0].called}: {error}")
            left.pop(0)
        except TooMany:
            figures.notes.append("it has more customers than are compared")
            return {}
    if len(found) == 2 and (snapshots > 1 or not one_state):
        figures.notes.append("the two are not of one snapshot: rows that came in between make a difference")
    return found


def _read(side: Side, read: Callable[..., Iterator[list[Reading]]], span: Span, resolve: Resolve) -> Usage:
    how = side.how
    usage = Usage(how.unit, how.latest)
    for batch in read(how.query, span, how.window, how.dimensions):
        usage.add(batch if how.customers is None else resolve(how.customers, batch))
    return usage


def _note_proof(figures: MeterFigures, source: str, fence: Fence | None, span: Span) -> None:
    """Say how much of the range a source that has to prove it has proven to show."""
    proven = None if fence is None else commit_barrier.proven_until(fence)
    if proven is not None and proven < span.end:
        shows = f"all up to {minute(proven)} only" if proven > span.start else "nothing of that"
        note = f"source {source} may lack some of it: it has proven to show {shows}"
        figures.notes += [note] if note not in figures.notes else []
