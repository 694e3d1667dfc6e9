"""A source that is read by a cursor: rows are taken in once, and what they come to is read by windows, as any source is.

Rows are added up in the ledger, and passes read the sums from there. So windows, revisits, corrections, guards and
identifiers are the same as for any meter: what is owed is what the sums say minus what is booked, and a window in which rows
arrive late is read again. The source itself is asked for each row once.

Rules
- A goal is noted before anything is read: where the rows end, and who is writing just then. Rows are read up to it once all
  of those have ended, in stretches, each of them committed with the cursor.
- Windows are complete up to the instant at which the barrier before the newest rows was noted; later ones wait.
- A query that is changed holds for the rows that are taken in from then on. Those that were added stay as they are.
- A recount compares whole windows with what was added, up to where the cursor stands, so that no row counts twice.
"""

import datetime as dt
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from decimal import Decimal
from typing import NamedTuple, Protocol

from aggregator.collection.asking import OfAllWindows
from aggregator.core import definitions, deltas, windows
from aggregator.core.deltas import Cursor, Goal, Top, Writers
from aggregator.core.model import ZERO, Definition, Differing, Fence, Meter, Reading, Span
from aggregator.errors import QueryRejected, QueryTimedOut, SourceError
from aggregator.ledger.meters import Lease
from aggregator.ledger.passes.running_totals import CursorState, RunningTotals
from aggregator.ledger.passes.spool import Spool
from aggregator.runtime import failpoints

LOOKS = 4
"""How often a round looks for more rows: once for what was noted before, and until what was open when it began has ended."""

PAUSES_SECONDS = 0.0, 0.05, 0.2, 0.5, 1.0
"""How long a round waits for open transactions: most of them end in a moment. For longer ones there is the next round."""

DAY = dt.timedelta(days=1)


class Rows(Protocol):
    """An open snapshot of a source, asked for rows by their cursor."""

    def top(self, upto_query: str, after: Cursor) -> Top:
        """Return where the rows end, and who is writing after that."""
        ...

    def end_of_stretch(self, upto_query: str, after: Cursor) -> Cursor | None:
        """Return where the next stretch ends; None if there are no rows."""
        ...

    def writers(self, *, by_instant: bool) -> tuple[Writers | None, dt.datetime]:
        """Return who may still commit rows with cursors from before, and when that was asked."""
        ...

    def disordered(self, query: str, after: Cursor) -> list[str]:
        """Say why what a query reads has no order that a cursor can follow."""
        ...

    def read(
        self, query: str, after: Cursor, upto: Cursor, known: Sequence[Definition]
    ) -> Iterator[list[Reading]]:
        """Yield the rows of a stretch."""
        ...


class Recounts(Protocol):
    """An open snapshot of a source in which windows are counted anew."""

    def recount(
        self, query: str, span: Span, upto: Cursor, known: Sequence[Definition]
    ) -> Iterator[list[Reading]]:
        """Yield what windows come to in the rows up to a cursor."""
        ...


class Snapshot(Rows, Recounts, Protocol):
    """All that a snapshot is asked."""


class Source(Protocol):
    """What is asked of an application database."""

    name: str

    @property
    def kind(self) -> str: ...  # noqa: D102

    def by_cursor(self) -> AbstractContextManager[Snapshot]:
        """Open a snapshot that is asked for rows by their cursor."""
        ...

    def filled(self, query: str, span: Span, **beside: Cursor) -> str:
        """Return a query with a span filled in, and with cursors."""
        ...

    def rows_behind(
        self, query: str, span: Span, customer: str, most: int
    ) -> tuple[list[str], list[tuple[object, ...]], bool]:
        """Return the columns and rows behind what a customer used."""
        ...


@dataclass(slots=True)
class Taken:
    """What a round took in."""

    rows: int = 0
    reread_from: dt.datetime | None = None
    """From where windows are to be read again that were read before."""
    waits_for: str | None = None
    """For what the next rows wait."""

    def touched(self, since: dt.datetime | None) -> None:
        """Note windows that are to be read again."""
        self.reread_from = min(filter(None, (self.reread_from, since)), default=None)


@dataclass(slots=True)
class Differs:
    """What a recount found."""

    slots: int = 0
    missed: Decimal = field(default=ZERO)
    taken_back: Decimal = field(default=ZERO)


class Sums(NamedTuple):
    """What a meter's rows come to that were taken in so far, for whoever takes them as they are."""

    meter_id: int
    totals: RunningTotals

    def read(
        self,
        query: str,  # noqa: ARG002 - it gave the rows that were added
        span: Span,
        window: dt.timedelta,  # noqa: ARG002
        *,
        dimensions: Sequence[str] = (),  # noqa: ARG002 - the sums are kept apart
        step: dt.timedelta | None = None,  # noqa: ARG002 - nothing takes long
        allow: Callable[[Fence | None], dt.datetime] | None = None,  # noqa: ARG002 - they prove nothing, and need not
    ) -> Iterator[list[Reading]]:
        """Yield what the rows of a span come to."""
        yield from self.totals.readings(self.meter_id, span)


class CursorSource:
    """One meter's source. `pause` waits for so many seconds, `present` gives the instant by the ledger's clock."""

    def __init__(
        self,
        meter: Meter,
        meter_id: int,
        source: Source,
        totals: RunningTotals,
        *,
        pause: Callable[[float], object],
        present: Callable[[], dt.datetime],
    ) -> None:
        assert meter.deltas is not None, "it is read by a cursor"
        self.name = source.name
        self._meter = meter
        self._meter_id = meter_id
        self._deltas = meter.deltas
        self._source = source
        self._totals = totals
        self._pause = pause
        self._present = present
        self._waits_for: str | None = None

    # What passes read, and whoever else asks for windows: the sums.

    def fence(self) -> Fence:
        """Say up to when the sums are complete."""
        state = self._totals.find(self._meter_id)
        until = None if state is None else state.taken_until
        lacking = self._waits_for or "rows that are not taken in yet"
        return Fence(
            at=self._present(),
            xmin=0,
            xmax=0,
            oldest_start=None,
            sees_starts=False,
            standby=False,
            fresh_until=until,
            holder=self._waits_for,
            declared=True,
            lacking=lacking,
        )

    def read(
        self,
        query: str,  # noqa: ARG002 - it gave the rows that were added
        span: Span,
        window: dt.timedelta,  # noqa: ARG002
        *,
        dimensions: Sequence[str] = (),  # noqa: ARG002 - the sums are kept apart
        step: dt.timedelta | None = None,  # noqa: ARG002 - nothing takes long
        allow: Callable[[Fence | None], dt.datetime] | None = None,
    ) -> Iterator[list[Reading]]:
        """Yield what the rows of a span come to that were taken in so far."""
        if allow is not None:
            span = Span(span.start, allow(self.fence()))
        if span.start < span.end:
            yield from self._totals.readings(self._meter_id, span)

    def sums(self) -> Sums:
        """Return what was taken in, for whoever needs no proof that it is all there is."""
        return Sums(self._meter_id, self._totals)

    def columns(self, query: str, span: Span, dimensions: Sequence[str] = ()) -> OfAllWindows:  # noqa: ARG002 - all of them
        """Say what the sums have."""
        return OfAllWindows()

    def reread(
        self,
        query: str,  # noqa: ARG002
        span: Span,  # noqa: ARG002
        window: dt.timedelta,  # noqa: ARG002
        dimensions: Sequence[str] = (),  # noqa: ARG002
    ) -> Differing | None:
        """Find nothing: sums that were kept do not change by themselves."""
        return None

    def filled(self, query: str, span: Span) -> str:
        """Return what gives a window's rows up to the cursor: the recount, or else all rows that the cursor has passed."""
        state = self._totals.find(self._meter_id)
        after = self._deltas.start_after
        upto = after if state is None else state.after
        if self._deltas.recount_query is not None:
            return self._source.filled(self._deltas.recount_query, span, upto=upto)
        return self._source.filled(query, span, after=after, upto=upto)

    def rows_behind(
        self, query: str, span: Span, customer: str, most: int
    ) -> tuple[list[str], list[tuple[object, ...]], bool]:
        """Ask the source itself for the rows behind a number."""
        return self._source.rows_behind(query, span, customer, most)

    # What moves the cursor.

    def take_in(self, lease: Lease, go_on: Callable[[], None]) -> Taken:
        """Read all rows that may be read by now, and add them. `go_on` raises if the meter was lost meanwhile.

        Raises SourceError where nothing shows that rows are complete, and as a reading does; LeaseLost.
        """
        state, taken, began = self._totals.begin(self._meter_id, self._deltas.start_after), Taken(), None
        self._waits_for = None
        for _ in range(LOOKS):
            if state.goal is None:
                top = self._look(lease, state.after)
                began = began or top.at
                noted = deltas.goal(top, state.ended_until)
                self._totals.note(lease, state.after, noted)
                failpoints.passing("goal_noted")
                state = state._replace(goal=noted)
            goal = self._wait(lease, state)
            if goal is None:
                break
            state = self._read(lease, state._replace(goal=goal), goal, taken, go_on)
            if began is not None and state.taken_until is not None and state.taken_until >= began:
                break
        taken.waits_for = self._waits_for
        return taken

    def _look(self, lease: Lease, after: Cursor) -> Top:
        """Look where the rows end. Raises QueryRejected where no cursor can be trusted."""
        lag = self._deltas.lag
        with self._source.by_cursor() as rows:
            disorder = rows.disordered(self._query(lease), after) if lag is None else []
            top = rows.top(self._deltas.upto_query, after)
        if disorder:
            raise QueryRejected(
                f"Source {self.name}: {disorder[0]}. A cursor would pass over rows; or set `deltas: lag:`, and `recount:` "
                "to find what that misses."
            )
        if top.writers is None and lag is None:
            raise QueryRejected(f"Source {self.name}: {unprotected(self._source.kind)}")
        return top

    def _wait(self, lease: Lease, state: CursorState) -> Goal | None:
        """Wait a moment for those who were writing when the goal was noted; return the goal once none is left."""
        goal, lag = state.goal, self._deltas.lag
        assert goal is not None, "a goal is noted first"
        if deltas.may_go(goal, goal.noted_at, lag):
            return goal
        by_instant = isinstance(goal.upto, dt.datetime)
        for seconds in PAUSES_SECONDS:
            self._pause(seconds)
            with self._source.by_cursor() as rows:
                now, at = rows.writers(by_instant=by_instant)
            if now is not None:
                goal = deltas.waited(goal, now)
            if deltas.may_go(goal, at, lag):
                return goal
            if not goal.waits_for:
                break  # only the lag is left, and that takes longer
        if goal.waits_for:
            self._waits_for = (
                now.holder if now is not None else None
            ) or "transactions that are open in the source"
        else:
            self._waits_for = f"the `lag` of {lag} behind the newest rows"
        if goal != state.goal:
            self._totals.note(lease, state.after, goal)
        return None

    def _read(
        self, lease: Lease, state: CursorState, goal: Goal, taken: Taken, go_on: Callable[[], None]
    ) -> CursorState:
        """Read up to the goal, stretch by stretch, and return where the cursor stands then."""
        after = state.after
        while True:
            with self._spool() as spool:
                upto = self._stretch(lease, after, goal.upto, spool, go_on)
                failpoints.passing("deltas_read")
                taken.touched(self._totals.add(lease, spool, after, upto))
                taken.rows += spool.rows
            after = upto
            if after == goal.upto:
                found = self._totals.find(self._meter_id)
                assert found is not None, "a cursor that was moved is there"
                return found

    def _stretch(
        self, lease: Lease, after: Cursor, limit: Cursor, spool: Spool, go_on: Callable[[], None]
    ) -> Cursor:
        """Read the next stretch, from a snapshot of its own, and return where it ends."""
        if after == limit:
            return limit
        try:
            with self._source.by_cursor() as rows:
                end = rows.end_of_stretch(self._deltas.upto_query, after)
                upto = limit if end is None or deltas.is_after(end, limit) else end
                for batch in rows.read(self._query(lease), after, upto, lease.definitions):
                    spool.add(batch)
                    go_on()
        except QueryTimedOut as error:
            raise SourceError(
                f"{error} Here, lower the limit in `upto_query`, so that a stretch has fewer rows."
            ) from None
        return upto

    def _spool(self) -> Spool:
        return Spool(meter=self._meter.name, most_combinations=self._meter.max_combinations)

    def _query(self, lease: Lease) -> str:
        """Return the query that holds for rows that are taken in now."""
        return lease.definitions[-1].query

    def recount_due(self, now: dt.datetime) -> Span | None:
        """Return which windows are to be counted anew by now; None if none are."""
        if self._deltas.recount is None:
            return None
        state = self._totals.find(self._meter_id)
        if state is None or state.taken_until is None:
            return None
        if state.recounted_at is not None and dt.timedelta(0) <= now - state.recounted_at < DAY:
            return None
        return Span(now - self._deltas.recount, state.taken_until)

    def recount(
        self, lease: Lease, span: Span, now: dt.datetime, go_on: Callable[[], None]
    ) -> tuple[Differs, dt.datetime | None]:
        """Count the whole windows of a span anew, and let that stand in place of what was added.

        Return what differed, and from where windows are to be read again. Raises as a reading does; LeaseLost.
        """
        query, known = self._deltas.recount_query, lease.definitions
        assert query is not None, "the configuration sees to it"
        found, taken = Differs(), Taken()
        state = self._totals.begin(self._meter_id, self._deltas.start_after)
        for definition, piece in definitions.readable(known, self._whole(span, now, known), ()):
            whole = Span(piece.start, min(piece.end, windows.floor(span.end, definition.window)))
            if whole.start >= whole.end:
                continue
            with self._spool() as spool:
                with self._source.by_cursor() as rows:
                    for batch in rows.recount(query, whole, state.after, known):
                        spool.add(batch)
                        go_on()
                differs, since = self._totals.recount(lease, spool, whole, state.after, now)
            taken.touched(since)
            found.slots += differs.slots
            found.missed += differs.missed
            found.taken_back += differs.taken_back
        return found, taken.reread_from

    def recounted(self, lease: Lease, now: dt.datetime) -> None:
        """Note that a recount of all that is to be counted anew came to its end."""
        self._totals.recounted(lease, now)

    def _whole(self, span: Span, now: dt.datetime, known: Sequence[Definition]) -> Span:
        """Return a span without what lies before the first window, or is gone from the source."""
        start = max(span.start, self._meter.start_at)
        sealed = self._meter.sealed_until(now)
        if sealed is not None and sealed > start:
            start = sealed
        start = definitions.ceiling(start, definitions.at(known, start).window)
        return Span(start, max(start, span.end))


def unprotected(kind: str) -> str:
    """Say why rows of this kind of database are not read by a cursor as they come, and what to do."""
    return (
        f"{kind} does not show here which transactions are open, and rows become visible in another order than that of "
        "their ids, instants or row numbers: a cursor would pass over some. Set `deltas: lag:` to more than your longest "
        "transaction, and `recount:` to find what that misses; or use `read: windows`."
    )
