"""Running totals and cursors in memory: the verbs of `ledger.passes.running_totals` with the same meaning."""

import datetime as dt
from collections.abc import Iterable, Iterator
from decimal import Decimal

from aggregator.core.deltas import Cursor, Goal
from aggregator.core.model import ZERO, Reading, Span
from aggregator.errors import LeaseLost, LedgerStopped
from aggregator.ledger.meters import Lease
from aggregator.ledger.passes.running_totals import CursorState, Recounted
from aggregator.ledger.passes.spool import Spool
from tests.simulation.apart import shown
from tests.simulation.memory import MemoryLedger
from tests.simulation.memory_identity import MemoryIdentity
from tests.simulation.memory_passes import readings_of

Key = tuple[int, dt.datetime, str, str]
"""Meter, window, customer and flaw."""

Total = tuple[Decimal | None, int, dt.datetime | None]
"""The sum of rows, how many, and the last use."""

NONE: Total = (None, 0, None)


class MemoryRunningTotals:
    """The verbs about running totals, and about the cursors that they belong to."""

    def __init__(self, ledger: MemoryLedger, identity: MemoryIdentity) -> None:
        self._ledger = ledger
        self._identity = identity

    def begin(self, meter_id: int, after: Cursor) -> CursorState:
        """Return how far a meter is; the first time, it begins after this cursor."""
        new = CursorState(after, None, None, None, 0, None, ZERO, ZERO, None)
        return self._ledger.tables.cursors.setdefault(meter_id, new)

    def find(self, meter_id: int) -> CursorState | None:
        """Return how far a meter is; None before anything was read of it."""
        return self._ledger.tables.cursors.get(meter_id)

    def note(self, lease: Lease, after: Cursor, goal: Goal) -> None:
        """Put on record up to where will be read from a cursor on. Raises LeaseLost."""
        state = self._held(lease, after)
        self._ledger.tables.cursors[lease.registered.id] = state._replace(goal=goal)

    def add(self, lease: Lease, spool: Spool, after: Cursor, upto: Cursor) -> dt.datetime | None:
        """Add the rows of a stretch, and move the cursor over it. Raises LeaseLost."""
        state = self._held(lease, after)
        tables, meter = self._ledger.tables, lease.registered.id
        touched: list[dt.datetime] = []
        for each in readings_of(spool):
            if each.window_start < lease.registered.meter.start_at:
                continue
            flaw = each.reason or ""
            key = (meter, each.window_start, (each.customer or "") if not flaw else "", flaw)
            quantity, rows, at = tables.totals.get(key, (None, 0, None))
            if each.quantity is not None:
                quantity = (quantity or ZERO) + each.quantity
            latest = max(filter(None, (at, each.at)), default=None)
            tables.totals[key] = (quantity, rows + 1, latest)
            touched.append(each.window_start)
        state = state._replace(after=upto, rows=state.rows + spool.rows)
        if state.goal is not None and state.goal.upto == upto:
            state = _reached(state, state.goal)
        tables.cursors[meter] = state
        return self._reread(meter, touched)

    def recount(
        self, lease: Lease, spool: Spool, span: Span, after: Cursor, now: dt.datetime
    ) -> tuple[Recounted, dt.datetime | None]:
        """Let what was counted anew of a span stand in place of what was added. Raises LeaseLost."""
        state, tables, meter = self._held(lease, after), self._ledger.tables, lease.registered.id
        old = {key: total for key, total in tables.totals.items() if key[0] == meter and key[1] in span}
        new = _summed(meter, readings_of(spool))
        differs = [key for key in {**old, **new} if old.get(key, NONE)[:2] != new.get(key, NONE)[:2]]
        grew = [(new.get(key, NONE)[0] or ZERO) - (old.get(key, NONE)[0] or ZERO) for key in differs]
        missed = sum((each for each in grew if each > 0), ZERO)
        taken_back = -sum((each for each in grew if each < 0), ZERO)
        for key in differs:
            tables.totals.pop(key, None)
        tables.totals.update({key: new[key] for key in differs if key in new})
        tables.cursors[meter] = state._replace(
            missed=state.missed + missed,
            taken_back=state.taken_back + taken_back,
            differed_at=now if differs else state.differed_at,
        )
        return Recounted(len(differs), missed, taken_back), self._reread(meter, [key[1] for key in differs])

    def recounted(self, lease: Lease, now: dt.datetime) -> None:
        """Note that a recount came to its end. Raises LeaseLost."""
        cursors, meter = self._ledger.tables.cursors, lease.registered.id
        cursors[meter] = self._held(lease, cursors[meter].after)._replace(recounted_at=now)

    def _reread(self, meter: int, touched: list[dt.datetime]) -> dt.datetime | None:
        row = self._ledger.tables.meters[meter]
        if not touched or min(touched) >= row.mark:
            return None
        row.reread_from = min(filter(None, (row.reread_from, min(touched))))
        return row.reread_from

    def readings(self, meter_id: int, span: Span) -> Iterator[list[Reading]]:
        """Yield what the rows of a span come to, as one transaction sees it."""
        found: list[Reading] = []
        for (meter, start, customer, flaw), total in sorted(
            self._ledger.tables.totals.items(), key=lambda item: item[0]
        ):
            if meter == meter_id and start in span:
                found += _readings(start, customer, flaw, *total)
        return iter([shown(found)] if found else [])

    def _held(self, lease: Lease, after: Cursor) -> CursorState:
        tables = self._ledger.tables
        row, state = tables.meters[lease.registered.id], tables.cursors[lease.registered.id]
        if (row.epoch, row.lease_owner) != (lease.epoch, lease.owner) or state.after != after:
            raise LeaseLost
        stopped = self._identity.stopped()
        if stopped is not None:
            raise LedgerStopped(stopped)
        return state


def _summed(meter: int, rows: Iterable[Reading]) -> dict[Key, Total]:
    sums: dict[Key, Total] = {}
    for each in rows:
        flaw = each.reason or ""
        key = (meter, each.window_start, (each.customer or "") if not flaw else "", flaw)
        quantity, count, at = sums.get(key, NONE)
        if each.quantity is not None:
            quantity = (quantity or ZERO) + each.quantity
        sums[key] = (quantity, count + 1, max(filter(None, (at, each.at)), default=None))
    return sums


def _reached(state: CursorState, goal: Goal) -> CursorState:
    return state._replace(
        goal=None,
        ended_until=max(filter(None, (state.ended_until, goal.noted_at))),
        taken_until=max(filter(None, (state.taken_until, goal.complete_until)), default=None),
    )


def _readings(
    start: dt.datetime,
    customer: str,
    flaw: str,
    quantity: Decimal | None,
    rows: int,
    at: dt.datetime | None,
) -> Iterator[Reading]:
    if not flaw:
        yield Reading(start, customer, quantity, at)
        return
    yield Reading(start, None, quantity, None, flaw, dimensions=None)
    for _ in range(rows - 1):
        yield Reading(start, None, None if quantity is None else ZERO, None, flaw, dimensions=None)
