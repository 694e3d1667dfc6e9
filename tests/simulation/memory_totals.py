"""Running totals and cursors in memory: the verbs of `ledger.passes.running_totals` with the same meaning."""

import datetime as dt
from collections.abc import Iterator
from decimal import Decimal

from aggregator.core.deltas import Cursor, Goal
from aggregator.core.model import ZERO, Reading, Span
from aggregator.errors import LeaseLost, LedgerStopped
from aggregator.ledger.meters import Lease
from aggregator.ledger.passes.running_totals import CursorState
from aggregator.ledger.passes.spool import Spool
from tests.simulation.apart import shown
from tests.simulation.memory import MemoryLedger
from tests.simulation.memory_identity import MemoryIdentity
from tests.simulation.memory_passes import readings_of


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
        row = tables.meters[meter]
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
