"""The ledger in memory: files."""

import datetime as dt
import uuid
from collections.abc import Iterator, Mapping, Sequence

from aggregator.core.model import (
    Bounds,
    ClaimId,
    Event,
    EventId,
    Outcome,
    Span,
    State,
    Written,
)
from aggregator.ledger.outbox.files import NEVER, Due, FileClaim
from tests.simulation.memory import ClaimRow, EventRow, FileRow, MemoryLedger
from tests.simulation.memory_identity import MemoryIdentity
from tests.simulation.memory_outbox import MemoryOutbox

PAGE = 20
"""Events in memory while a file is made: few, so that something happens between pages."""


class MemoryFiles:
    """The verbs about files."""

    def __init__(
        self,
        ledger: MemoryLedger,
        owner: uuid.UUID,
        hold: dt.timedelta,
        identity: MemoryIdentity,
        outbox: MemoryOutbox,
    ) -> None:
        self._ledger = ledger
        self._owner = owner
        self._identity = identity
        self._outbox = outbox
        self.hold = hold

    def due(self, sink_id: int, now: dt.datetime) -> list[Due]:
        """Return what waits to be written, by meter."""
        tables = self._ledger.tables
        found: dict[tuple[str, int], list[dt.datetime]] = {}
        for event_id, row in tables.outbox.items():
            if row.sink_id == sink_id and row.claim_id is None and row.due_at <= now:
                event = tables.events[event_id]
                found.setdefault((event.meter, event.feed_id), []).append(row.due_at)
        return [Due(*key, len(each), min(each)) for key, each in sorted(found.items())]

    def take_over(self, sink_id: int, place: str, now: dt.datetime) -> FileClaim | None:
        """Take over the oldest file of a sink that was begun in this place and left. Raises LedgerStopped."""
        tables, now = self._ledger.tables, self._ledger.clock()
        left = [
            claim
            for claim, row in tables.files.items()
            if (row.sink_id, row.place) == (sink_id, place)
            and row.written_at is None
            and row.held_until <= now
        ]
        if not left:
            return None
        claim = min(left)
        row, held = tables.files[claim], tables.claims[claim]
        count = self._identity.count_claim(now, claim, made_at=held.claimed_at)
        held.owner = self._owner
        row.held_until, row.tries, row.reason = now + self.hold, row.tries + 1, None
        self._identity.noted(count)
        return FileClaim(claim, held.claimed_at, len(held.events), row.tries)

    def claim_whole(
        self,
        sink_id: int,
        place: str,
        around: Mapping[int, int],
        bounds: Bounds,
        now: dt.datetime,
        *,
        by_hand: bool,
        span: Span | None = None,
    ) -> FileClaim | None:
        """Choose the events of a new file, and record the attempt; None unless one is to be closed. Raises LedgerStopped."""
        tables, now = self._ledger.tables, self._ledger.clock()
        picked = [event for event in sorted(tables.outbox) if self._fits(event, sink_id, around, now, span)]
        picked = picked[: bounds.records]
        chosen: list[EventId] = []
        size = 0
        for event in picked:
            size += _weight(tables.events[event]) + around[tables.events[event].feed_id]
            if chosen and size > bounds.bytes:
                break
            chosen.append(event)
        if not chosen:
            return None
        old = min(tables.outbox[event].due_at for event in chosen) <= now - bounds.wait
        if not (len(chosen) >= bounds.records or len(chosen) < len(picked) or old):
            return None
        count = self._identity.count_claim(now, ClaimId(self._ledger.claim_ids.latest + 1))
        claim = ClaimId(next(self._ledger.claim_ids))
        tables.claims[claim] = ClaimRow(sink_id, self._owner, now, tuple(chosen))
        tables.files[claim] = FileRow(sink_id, place, by_hand, now + self.hold)
        for event in chosen:
            tables.outbox[event].claim_id, tables.outbox[event].due_at = claim, NEVER
            row = tables.events[event]
            self._ledger.move(row, State.SENDING)
            row.attempts, row.exposed_at, row.attempted_at = row.attempts + 1, row.exposed_at or now, now
        self._identity.noted(count)
        return FileClaim(claim, now, len(chosen), 1)

    def _fits(
        self, event: EventId, sink_id: int, feeds: Mapping[int, int], now: dt.datetime, span: Span | None
    ) -> bool:
        held, row = self._ledger.tables.outbox[event], self._ledger.tables.events[event]
        free = held.sink_id == sink_id and held.claim_id is None and held.due_at <= now
        return free and row.feed_id in feeds and (span is None or row.window_start in span)

    def members(self, claim: FileClaim) -> Iterator[list[Event]]:
        """Yield the events of a claim by their ids, a page at a time."""
        held = self._ledger.tables.claims.get(claim.id)
        events = held.events if held is not None else ()  # a restore may have forgotten it
        for first in range(0, claim.events, PAGE):
            page = (self._ledger.tables.events[event] for event in events[first : first + PAGE])
            yield [row.as_event(None)._replace(transport="") for row in page]

    def renew(self, claim: FileClaim, now: dt.datetime) -> bool:
        """Hold a claim for another while; False if it is somebody else's by now."""
        row = self._mine(claim)
        if row is not None:
            row.held_until = self._ledger.clock() + self.hold
        return row is not None

    def put_off(self, claim: FileClaim, until: dt.datetime, reason: str | None) -> None:
        """Leave a claim to whoever takes it over after that."""
        row = self._mine(claim)
        if row is not None:
            row.held_until, row.reason = until, reason

    def settle_unfit(self, claim: FileClaim, outcomes: Sequence[Outcome], now: dt.datetime) -> int:
        """Record what became of members that are in no file; return how many that changed."""
        return self._outbox.settle_members(claim.id, outcomes, self._ledger.clock())

    def settle(self, claim: FileClaim, written: Written | None, now: dt.datetime) -> int:
        """Record that a claim's file is written, and what is in it accepted; return how many events that were."""
        tables, row, accepted = self._ledger.tables, self._mine(claim), 0
        now = self._ledger.clock()
        if row is None:
            return 0
        if written is None:
            del tables.files[claim.id]
        else:
            for event in tables.claims[claim.id].events:
                held = tables.outbox.get(event)
                if held is None or held.claim_id != claim.id:
                    continue
                del tables.outbox[event]
                self._ledger.move(tables.events[event], State.ACCEPTED)
                settled = tables.events[event]
                settled.request_id, settled.reason, settled.settled_at = written.name, None, now
                accepted += 1
            row.name, row.sha256, row.written_at, row.reason = written.name, written.sha256, now, None
        tables.claims[claim.id].settled_at = now
        return accepted

    def _mine(self, claim: FileClaim) -> FileRow | None:
        row = self._ledger.tables.files.get(claim.id)
        owned = row is not None and self._ledger.tables.claims[claim.id].owner == self._owner
        return row if row is not None and owned and row.written_at is None else None


def _weight(event: EventRow) -> int:
    """Return what differs from record to record, in bytes: customers here have plain names."""
    number = max(len(str(event.delta)), len(str(event.total)))
    return len(event.customer) + 2 + len(event.identifier) + number
