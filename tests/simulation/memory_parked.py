"""The ledger in memory: what waits for a person, and what is held behind an event that came to nothing."""

import datetime as dt
from collections.abc import Sequence

from aggregator.core.model import EventId, State
from tests.simulation.memory import EventRow, MemoryLedger
from tests.simulation.memory_moves import whole


class MemoryParked:
    """The verbs of a person about what waits."""

    def __init__(self, ledger: MemoryLedger) -> None:
        self._ledger = ledger

    def dismiss(self, events: Sequence[int], now: dt.datetime) -> list[int]:
        """Leave held or refused events at that; with one event of a move, all of it."""
        parked, done = self._ledger.tables.parked, []
        for event in whole(self._ledger.tables, map(EventId, events)):
            row = parked.get(event)
            if row is not None and row.state is not State.IN_DOUBT:
                row.dismissed_at = now
                done.append(int(event))
        return done


def take_back_held(ledger: MemoryLedger, gone: EventRow, reason: str, now: dt.datetime) -> None:
    """Withdraw a held correction that was made for what the sink held before, and have the slot planned anew."""
    tables, slot = ledger.tables, ledger.slot_of(gone)
    held = tables.events[slot.tail] if slot.tail is not None else None
    if held is None or held.state is not State.HELD:
        return
    before = event_before(ledger, held)
    del tables.parked[held.id]
    ledger.move(held, State.VOID)
    held.settled_at, held.reason = now, reason
    slot.quantity, slot.total = slot.quantity - held.delta, slot.total - held.delta
    slot.tail, slot.replan = before.id if before else None, True


def event_before(ledger: MemoryLedger, held: EventRow) -> EventRow | None:
    """Return the newest event of a slot that stands, but for one."""
    others = (
        event
        for event in ledger.tables.events.values()
        if event.slot_id == held.slot_id and event.id != held.id and event.state is not State.VOID
    )
    return max(others, key=lambda event: event.revision, default=None)
