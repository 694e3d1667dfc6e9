"""Asks a source what a past range comes to by the old and by the new definition of a meter. Nothing is written.

Rules
- Both are asked in one snapshot, where the kind of database has one and both read the same source: then rows that come
  meanwhile make no difference. Where it is not so, that is said.
- A definition that fails keeps nobody from seeing what the other one gives: the failure is said in its place.
- A meter that is read by a cursor is counted anew over the range: by its `recount_query`, or by all its rows.
- A meter whose source tells a state and no history is counted from the samples that the ledger keeps, by what either
  definition declares. What no sample shows is said in a sentence, and never guessed.
"""

import datetime as dt
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from functools import partial
from typing import NamedTuple, Protocol

from aggregator.core import commit_barrier, definitions, sampling, windows
from aggregator.core.deltas import Cursor
from aggregator.core.model import EPOCH, Definition, Fence, Reading, Span
from aggregator.core.sampling import Gauges
from aggregator.core.shown import duration, minute
from aggregator.errors import SourceError
from aggregator.plan.usage import Comparison, TooMany, Usage, alone, compared
from aggregator.source import SideBySide, Source

Resolve = Callable[[str, list[Reading]], list[Reading]]
"""Given a mapping and readings of keys, the readings of customers. Raises SourceError."""

SAMPLED = frozenset({"counters", "gauges"})
"""How a meter is read whose source tells a state and no history."""

MOST_ROWS = 5_000_000
"""So many rows of a meter that is read by a cursor are looked through, where no `recount_query` asks for a range alone."""

LAST_NUMBER, LAST_INSTANT = 2**63 - 1, dt.datetime(2200, 1, 1, tzinfo=dt.UTC)
"""Behind every cursor there is. The instant is one that every kind of database can have."""


class TooManyRows(Exception):
    """There are more rows than are looked through."""


class ByCursor(NamedTuple):
    """How a meter is counted anew that is read by a cursor."""

    start_after: Cursor
    recount_query: str | None


class KeptSamples(Protocol):
    """What is kept of the samples of one meter."""

    @property
    def definitions(self) -> Sequence[Definition]:
        """By which queries they were taken, in the order of time."""
        ...

    def first(self) -> dt.datetime | None:
        """Return the instant of the first sample; None if there is none."""
        ...

    def read(self, definition: str, span: Span, window: dt.timedelta) -> Iterator[list[Reading]]:
        """Yield what they come to by a definition. Raises SourceError for a span of which none are kept any more."""
        ...


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
    by_cursor: ByCursor | None = None
    place: str = ""
    """Which database its source is, as far as that is known: the source's name may stand for another one by now."""


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
    kept: KeptSamples | None = None,
) -> MeterFigures:
    """Return what a range of a meter comes to by two definitions; None stands for one that there is not.

    `kept` gives the samples of a meter that the ledger has some of.
    """
    figures = MeterFigures(meter, old.sinks if old else (), new.sinks if new else ())
    sides = [Side(name, how) for name, how in ((OLD, old), (NEW, new)) if how is not None]
    unreadable = [why for side in sides for why in _why_not(side, span, sources)]
    if unreadable:
        figures.notes += dict.fromkeys(unreadable)
        return figures
    found = (
        _from_samples(figures, sides, span, kept, resolve)
        if any(side.how.read in SAMPLED for side in sides)
        else _readings(figures, sides, span, sources, resolve)
    )
    figures.notes = list(dict.fromkeys(figures.notes))
    if len(found) == len(sides):
        figures.comparison = compared(found.get(OLD), found.get(NEW), most_movers)
    elif found:
        figures.comparison = alone(found.get(OLD), found.get(NEW))
    return figures


def _why_not(side: Side, span: Span, sources: Mapping[str, Source]) -> Iterator[str]:
    """Say why a definition cannot be asked for the range."""
    how = side.how
    if how.read not in SAMPLED and how.source not in sources:
        yield f"source {how.source}, from which it is read by {side.called}, is no longer configured"
        return
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
    left, snapshots, one_state = list(_askable(figures, sides)), 0, True
    while left:
        source = sources[left[0].how.source]
        together = [side for side in left if side.how.source == source.name]
        snapshots += 1
        asked: Side | None = None
        try:
            with source.side_by_side() as snapshot:
                one_state = snapshot.one_state
                _note_proof(figures, source.name, snapshot.fence, span)
                for side in together:
                    asked = side
                    left.remove(side)
                    usage = _bounded(figures, partial(_rows, side.how, snapshot, span), side.how, resolve)
                    if usage is not None:
                        found[side.called] = usage
        except SourceError as error:
            failed = asked or left.pop(0)
            figures.notes.append(f"it cannot be read by {failed.called}: {error}")
            figures.failed |= failed.called == NEW
    if len(found) == 2 and (snapshots > 1 or not one_state):
        figures.notes.append("the two are not of one snapshot: rows that came in between make a difference")
    return found


def _askable(figures: MeterFigures, sides: Sequence[Side]) -> Iterator[Side]:
    """Yield what can be asked where it is, and note what is to be known of the rest, and of how it is counted."""
    *before, after = sides
    for side in before:
        if side.how.source == after.how.source and side.how.place not in ("", after.how.place):
            figures.notes.append(
                f"by {side.called} it is read from {side.how.place}, which source {side.how.source} does not name any "
                "more, so only what the new database says is shown"
            )
            continue
        yield side
        if _recounted_alike(side.how, after.how):
            figures.notes.append(
                "it has another query beside the same `recount_query`: the figures are by the latter, which counts windows "
                "anew once a day, and takes back what the query makes of them"
            )
    yield after


def _recounted_alike(old: HowRead, new: HowRead) -> bool:
    if old.by_cursor is None or new.by_cursor is None or old.query == new.query:
        return False
    return old.by_cursor.recount_query == new.by_cursor.recount_query is not None


def _bounded(
    figures: MeterFigures, rows: Callable[[], Iterator[list[Reading]]], how: HowRead, resolve: Resolve
) -> Usage | None:
    """Return what rows come to; None if there are too many, which is said. A snapshot takes any exception for its own."""
    usage = Usage(how.unit, how.latest)
    try:
        for batch in rows():
            usage.add(batch if how.customers is None else resolve(how.customers, batch))
    except TooMany:
        figures.notes.append("it has more customers than are compared")
    except TooManyRows:
        figures.notes.append(
            f"it has more than {MOST_ROWS:,} rows, and no `recount_query` by which the range alone could be counted: what "
            "that would have come to is not shown"
        )
    else:
        return usage
    return None


def _rows(how: HowRead, snapshot: SideBySide, span: Span) -> Iterator[list[Reading]]:
    """Yield the rows of the range; of a meter that is read by a cursor, as if they were counted now."""
    if how.by_cursor is None:
        yield from snapshot.read(how.query, span, how.window, how.dimensions)
        return
    after, recount = how.by_cursor
    upto: Cursor = LAST_INSTANT if isinstance(after, dt.datetime) else LAST_NUMBER
    known = [Definition(EPOCH, "", how.query, how.window, how.dimensions)]
    if recount is not None:
        yield from snapshot.by_cursor.recount(recount, span, upto, known)
        return
    rows = 0
    for batch in snapshot.by_cursor.read(how.query, after, upto, known):
        rows += len(batch)
        if rows > MOST_ROWS:
            raise TooManyRows
        yield [each for each in batch if span.start <= each.window_start < span.end]


def _from_samples(
    figures: MeterFigures, sides: Sequence[Side], span: Span, kept: KeptSamples | None, resolve: Resolve
) -> dict[str, Usage]:
    """Return what the samples that are kept come to by each side; what they do not show is said in the notes."""
    first = kept.first() if kept is not None else None
    if kept is None or first is None:
        figures.notes.append(
            "it is sampled, and no sample of it was taken yet: its source tells nothing of the past, so what the range "
            "would have come to is not known"
        )
        return {}
    if first >= span.end:
        figures.notes.append(f"its first sample is of {minute(first)}, so nothing is known of the range")
        return {}
    if first > span.start:
        figures.notes.append(
            f"its first sample is of {minute(first)}: nothing is known, or counted, of before"
        )
    since = definitions.at(kept.definitions, span.start).since
    taken_by = [each.query for each in kept.definitions if since <= each.since < span.end]
    if len({_asked(each) for each in taken_by}) > 1:
        figures.notes.append("its samples of the range were taken by several queries, one after the other")
    found: dict[str, Usage] = {}
    try:
        for side in sides:
            how = _by_what_was_sampled(figures, side, taken_by[-1])
            if how is not None:
                rows = partial(kept.read, how.query, span, how.window)
                usage = _bounded(figures, rows, how, resolve)
                if usage is not None:
                    found[side.called] = usage
    except SourceError as error:
        figures.notes.append(str(error))
    return found


def _by_what_was_sampled(figures: MeterFigures, side: Side, taken_by: str) -> HowRead | None:
    """Return how samples are counted that were taken by another definition; None if they say nothing of that."""
    how = side.how
    if how.read not in SAMPLED or _asked(how.query) != _asked(taken_by):
        figures.notes.append(
            f"its samples were taken by another query than that of {side.called}: what that would have given then, its "
            "source cannot be asked any more"
        )
        return None
    declared, before = sampling.declared(how.query), sampling.declared(taken_by)
    if isinstance(declared, Gauges) != isinstance(before, Gauges):
        figures.notes.append(f"its samples were not taken for {how.read}, as {side.called} has it")
        return None
    if isinstance(declared, Gauges) and isinstance(before, Gauges) and declared.every != before.every:
        figures.notes.append(
            f"its samples were taken every {duration(before.every)}: so they are counted by {side.called}, too, which has "
            f"{duration(declared.every)}"
        )
        query = sampling.definition(declared._replace(every=before.every), _asked(how.query))
        return how._replace(query=query)
    return how


def _asked(definition: str) -> str:
    """Return what a source is asked for a sample: a definition without how the samples are counted."""
    return definition.partition("\n")[2]


def _note_proof(figures: MeterFigures, source: str, fence: Fence | None, span: Span) -> None:
    """Say how much of the range a source that has to prove it has proven to show."""
    proven = None if fence is None else commit_barrier.proven_until(fence)
    if proven is not None and proven < span.end:
        shows = f"all up to {minute(proven)} only" if proven > span.start else "nothing of that"
        note = f"source {source} may lack some of it: it has proven to show {shows}"
        figures.notes += [note] if note not in figures.notes else []
