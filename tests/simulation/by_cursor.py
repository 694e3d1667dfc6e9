"""Lives in which rows are read by a cursor: ids are dealt when transactions begin, and rows appear when those commit.

These lives have dice of their own, and bugs on purpose of their own: `test_by_cursor` lives them.
"""

import datetime as dt
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from aggregator.collection.cursor_source import CursorSource
from aggregator.core.deltas import Cursor, Deltas, Top, Writers
from aggregator.core.model import Definition, Fence, Meter, Reading, Span, WriteModel
from aggregator.core.windows import floor
from aggregator.errors import SourceUnreachable
from aggregator.ledger.passes.running_totals import RunningTotals
from tests.simulation.apart import shown
from tests.simulation.application import Application, Row
from tests.simulation.conditions import DAY, Conditions
from tests.simulation.gates import Gate

STRETCH = 5
"""Rows of one stretch."""

MOST_STRETCHES = 4

RECOUNT = 20 * DAY
"""Longer than any life: what a cursor passed over is found in whichever window it lies."""


def reading_by_cursor(conditions: Conditions) -> Conditions:
    """Let rows be read once, and so never change; the source is the primary, and shows what is there."""
    conditions.by_cursor = True
    conditions.updates = conditions.deletes = conditions.moves = conditions.poison = 0.0
    conditions.empty_read = 0.0
    conditions.spells = conditions.standbys = conditions.new_ids = conditions.backfills = 0
    conditions.held_before = False
    if conditions.write_model is WriteModel.LAST:
        conditions.write_model = WriteModel.DELTA
    return conditions


def settings(table: str) -> Deltas:
    """Return how a meter over a table is read."""
    return Deltas(0, table, recount=RECOUNT, recount_query=table)


class Rows:
    """One instant of the application, asked for rows by their cursor. Every query is the name of a table."""

    def __init__(self, gate: Gate, application: Application) -> None:
        self._gate = gate
        self._application = application

    def top(self, upto_query: str, after: Cursor) -> Top:
        """Return where the rows end, and who is writing after that."""
        upto = after
        for _ in range(MOST_STRETCHES):
            end = self.end_of_stretch(upto_query, upto)
            if end is None:
                break
            upto = end
        else:
            end = upto
        writers, at = self.writers(by_instant=False)
        return Top(at, upto, end is None, writers)

    def end_of_stretch(self, upto_query: str, after: Cursor) -> Cursor | None:
        """Return where the next stretch ends; None if there are no rows."""
        assert isinstance(after, int)
        behind = sorted(number for number in self._application.tables[upto_query].rows if number > after)
        return behind[:STRETCH][-1] if behind else None

    def writers(self, *, by_instant: bool) -> tuple[Writers, dt.datetime]:
        """Return who has dealt itself ids and has not ended, and when that was asked."""
        assert not by_instant
        return Writers(self._application.writers(), frozenset(), "a writer"), self._gate.scheduler.now

    def disordered(self, query: str, after: Cursor) -> list[str]:
        """Say nothing: ids are dealt in order."""
        return []

    def read(
        self, query: str, after: Cursor, upto: Cursor, known: Sequence[Definition]
    ) -> Iterator[list[Reading]]:
        """Yield the rows of a stretch in two batches, of the instant at which it is asked."""
        assert isinstance(after, int)
        assert isinstance(upto, int)
        rows = self._application.tables[query].rows.items()
        found = [_reading(row, known) for number, row in sorted(rows) if after < number <= upto]
        self._gate.marks["rows taken in by a cursor"] += len(found)
        found, half = shown(found), len(found) // 2
        yield found[:half]
        self._gate.step()
        yield found[half:]

    def recount(
        self, query: str, span: Span, upto: Cursor, known: Sequence[Definition]
    ) -> Iterator[list[Reading]]:
        """Yield the rows of whole windows up to a cursor, of the instant at which it is asked."""
        assert isinstance(upto, int)
        rows = self._application.tables[query].rows.items()
        found = [_reading(row, known) for number, row in sorted(rows) if number <= upto and row.at in span]
        self._gate.marks.saw("counted anew")
        yield shown(found)


def _reading(row: Row, known: Sequence[Definition]) -> Reading:
    return Reading(
        floor(row.at, known[-1].window),
        row.customer,
        row.quantity,
        row.at,
        None if row.customer is not None else "no customer",
        dimensions=() if row.customer is not None else None,
    )


class Database:
    """The application database, as a process reaches it."""

    name = "application"
    kind = "simulated"

    def __init__(self, gate: Gate, application: Application) -> None:
        self._gate = gate
        self._application = application

    @contextmanager
    def by_cursor(self) -> Iterator[Rows]:
        """Open one instant. Raises SourceUnreachable."""
        gate = self._gate
        gate.step()
        if gate.random.random() < gate.conditions.query_fails:
            gate.marks.saw("query failed")
            raise SourceUnreachable
        yield Rows(gate, self._application)

    def filled(self, query: str, span: Span, **beside: Cursor) -> str:
        """Return the query: nobody pastes it."""
        return query

    def rows_behind(
        self, query: str, span: Span, customer: str, most: int
    ) -> tuple[list[str], list[tuple[object, ...]], bool]:
        """Return nothing: nobody asks."""
        return [], [], False


class LivedCursorSource(CursorSource):
    """The real one, which tells whoever watches what its sums were complete up to when they were read."""

    def __init__(
        self, meter: Meter, meter_id: int, gate: Gate, application: Application, totals: RunningTotals
    ) -> None:
        super().__init__(
            meter,
            meter_id,
            Database(gate, application),
            totals,
            pause=lambda _: gate.step(dt.timedelta(milliseconds=200)),
            present=lambda: gate.scheduler.now,
        )
        self._gate = gate

    def read(
        self,
        query: str,
        span: Span,
        window: dt.timedelta,
        *,
        dimensions: Sequence[str] = (),
        step: dt.timedelta | None = None,
        allow: Callable[[Fence | None], dt.datetime] | None = None,
    ) -> Iterator[list[Reading]]:
        """Yield what was taken in."""
        process = self._gate.process
        process.complete.discard(query)
        state = self._totals.find(self._meter_id)
        if state is not None and state.taken_until is not None:
            process.shown[query] = state.taken_until
        yield from super().read(query, span, window, dimensions=dimensions, step=step, allow=allow)
        process.complete.add(query)


def drawn_by_cursor(seed: int, drawn: Callable[[int, Any, Any], Conditions]) -> Conditions:
    """Draw a life as any other, and let its rows be read by a cursor; in some lives ids follow no order."""
    conditions = drawn(seed, random.Random(seed), random.Random(f"{seed}: restores"))
    conditions.astray = random.Random(f"{seed}: astray").choice([0.0, 0.05, 0.3])
    return reading_by_cursor(conditions)
