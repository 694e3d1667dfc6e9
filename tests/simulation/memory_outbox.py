"""The ledger in memory: the outbox."""

import datetime as dt
import uuid
from collections.abc import Sequence
from dataclasses import replace

from aggregator.core.model import ClaimId, EventId, Outcome, State
from aggregator.core.states import following
from aggregator.errors import InvariantBroken
from aggregator.ledger.identity import WHAT_TO_DO
from aggregator.ledger.outbox.outbox import GIVEN_UP, Claim
from aggregator.ledger.outbox.turns import NEWEST_EVERY
from aggregator.ledger.review.decisions import Decider
from tests.simulation.memory import ClaimRow, EventRow, MemoryLedger, OutboxRow, ParkedRow
from tests.simulation.memory_identity import MemoryIdentity
from tests.simulation.memory_moves import whole
from tests.simulation.memory_parked import take_back_held
from tests.simulation.memory_reassert import note_newer_than


class MemoryOutbox:
    """The verbs about the outbox."""

    def __init__(
        self,
        ledger: MemoryLedger,
        owner: uuid.UUID,
        leave: dt.timedelta,
        answer: dt.timedelta,
        identity: MemoryIdentity,
    ) -> None:
        self._ledger = ledger
        self._identity = identity
        self._owner = owner
        self._made: dict[int, int] = {}
        self._leave = leave
        self._hold = leave + answer

    def more_due(
        self, sink_id: int, count: int, now: dt.datetime, feeds: Sequence[int] | None = None
    ) -> bool:
        """Tell whether more than `count` events of a sink are due and may leave, of some of its feeds or of all."""
        due = self._due(sink_id, now, feeds).values()
        return sum(self._let_go(event) for each in due for event in each) > count

    def _due(
        self, sink_id: int, now: dt.datetime, feeds: Sequence[int] | None
    ) -> dict[tuple[bool, int], list[EventId]]:
        """Return what is due of some feeds of a sink, or of all: by feed, what is new and what a backfill planned."""
        tables, found = self._ledger.tables, dict[tuple[bool, int], list[EventId]]()
        for event_id, row in sorted(tables.outbox.items()):
            feed = tables.events[event_id].feed_id
            if row.sink_id == sink_id and row.due_at <= now and (feeds is None or feed in feeds):
                found.setdefault((row.backfill, feed), []).append(event_id)
        return found

    def _let_go(self, event: EventId) -> bool:
        """Tell whether an event may leave, by what its sink was asked."""
        tables = self._ledger.tables
        return event <= tables.feeds[tables.events[event].feed_id].cleared_until

    def _pick(self, sink_id: int, limit: int, now: dt.datetime, feeds: Sequence[int] | None) -> list[EventId]:
        """Choose what a claim takes: what is new goes first, and feeds have equal shares, as far as they need them."""
        behind, ready = self._behind(), self._due(sink_id, now, feeds)
        made, known = self._made.get(sink_id, 0), self._ledger.tables.feeds.values()
        those = [
            feed for feed in known if (feed.id in feeds if feeds is not None else feed.sink_id == sink_id)
        ]
        newest = made % NEWEST_EVERY == NEWEST_EVERY - 1 and not any(feed.ordered for feed in those)
        picked: list[EventId] = []
        for backfill in (False, True):
            turns = [each for (kind, _), each in sorted(ready.items()) if kind is backfill]
            share = -(-limit // max(1, len(turns)))
            free = [
                sorted(
                    (event for event in each if event not in behind and self._let_go(event)), reverse=newest
                )
                for each in turns
            ]
            picked += [event for each in free for event in each[:share]]
            picked += [event for each in free for event in each[share:]]
        if picked:
            self._made[sink_id] = made + 1
        return sorted(picked[:limit])

    def claim(
        self,
        sink_id: int,
        limit: int,
        now: dt.datetime,
        transport: str = "",
        feeds: Sequence[int] | None = None,
    ) -> Claim | None:
        """Take up to `limit` due events of a sink, and record the attempt; None if nothing is due. Raises LedgerStopped."""
        tables, now = self._ledger.tables, self._ledger.clock()
        picked = tuple(self._pick(sink_id, limit, now, feeds))
        if not picked:
            return None
        count = self._identity.count_claim(now, ClaimId(self._ledger.claim_ids.latest + 1), self._owner)
        claim = ClaimId(next(self._ledger.claim_ids))
        tables.claims[claim] = ClaimRow(sink_id, self._owner, now, picked)
        events = []
        for event_id in picked:
            row = tables.events[event_id]
            tables.outbox[event_id].claim_id, tables.outbox[event_id].due_at = claim, now + self._hold
            self._ledger.move(row, State.SENDING)
            before, row.exposed_at = row.exposed_at, row.exposed_at or now
            latest, row.attempted_at = row.attempted_at, now
            row.transport = row.transport if before else transport
            row.attempts += 1
            events.append(row.as_event(before, latest))
        self._identity.noted(count)
        return Claim(claim, tuple(events), self._leave.total_seconds(), now)

    def stop(self, event: EventId, reason: str, now: dt.datetime) -> None:
        """Mark the ledger as stopped: what a sink said of an event shows that the ledger has forgotten something.

        Of what was planned before an adoption that is known, and was settled by it: it has a name of an earlier generation.
        """
        row = self._ledger.tables.events[event]
        if all(row.planned_at > adopted for adopted in self._ledger.tables.adopted):
            self._identity.stop(f"{reason} {WHAT_TO_DO}", now)

    @property
    def stopped(self) -> bool:
        """Whether the ledger is known to be stopped."""
        return self._identity.stopped_seen

    def _behind(self) -> set[EventId]:
        """Return the events for which an earlier one of the same customer must be settled first."""
        tables = self._ledger.tables
        ordered = {feed.id for feed in tables.feeds.values() if feed.ordered}
        first: set[tuple[int, str]] = set()
        behind = set()
        for event_id in sorted(tables.outbox) if ordered else ():
            row = tables.events[event_id]
            place = (row.feed_id, row.customer)
            if row.feed_id in ordered and place in first:
                behind.add(event_id)
            first.add(place)
        return behind

    def settle(
        self, claim: ClaimId, outcomes: Sequence[Outcome], now: dt.datetime, *, renew: bool = True
    ) -> int:
        """Record what became of events of a claim; return how many were still the claim's to settle."""
        if not outcomes:
            return 0
        now = self._ledger.clock()
        tables, settled = self._ledger.tables, self.settle_members(claim, outcomes, now)
        row_of_claim = tables.claims.get(claim)
        if row_of_claim is None:
            return settled  # forgotten by a restore
        for event_id in row_of_claim.events:
            row = tables.outbox.get(event_id)
            if renew and row is not None and row.claim_id == claim:
                row.due_at = now + self._hold
        if not any(
            event_id in tables.outbox and tables.outbox[event_id].claim_id == claim
            for event_id in row_of_claim.events
        ):
            row_of_claim.settled_at = now
        return settled

    def settle_members(self, claim: ClaimId, outcomes: Sequence[Outcome], now: dt.datetime) -> int:
        """Record what became of events of a claim, and nothing about the claim; return how many were its own."""
        mine = [outcome for outcome in outcomes if self._is_mine(outcome.event, claim)]
        for outcome in mine:
            if outcome.state not in following(State.SENDING):
                raise InvariantBroken(f"an event moves forward only: {outcome.event} to {outcome.state}")
        for outcome in mine:
            self._settle(self._ledger.tables.events[outcome.event], outcome, now)
        return len(mine)

    def _is_mine(self, event: EventId, claim: ClaimId) -> bool:
        row = self._ledger.tables.outbox.get(event)
        return (
            row is not None
            and row.claim_id == claim
            and self._ledger.tables.claims[claim].owner == self._owner
            and self._ledger.tables.events[event].state is State.SENDING
        )

    def _settle(self, event: EventRow, outcome: Outcome, now: dt.datetime) -> None:
        tables = self._ledger.tables
        self._ledger.move(event, outcome.state)
        event.reason, event.exposed_at = outcome.reason, outcome.exposed_at
        event.request_id = outcome.request_id or event.request_id
        if not outcome.counts:
            event.attempts, event.attempted_at = event.attempts - 1, outcome.attempted_at
        event.settled_at = None if outcome.state is State.DUE else now
        if outcome.state is State.DUE:
            assert outcome.due_at is not None
            tables.outbox[event.id] = replace(tables.outbox[event.id], claim_id=None, due_at=outcome.due_at)
            return
        del tables.outbox[event.id]
        if outcome.state in {State.REFUSED, State.IN_DOUBT}:
            tables.parked[event.id] = ParkedRow(event.feed_id, outcome.state, outcome.reason or "", now)

    def halt(self, sink_id: int, reason: str, now: dt.datetime) -> None:
        """Note that a sink refuses us as a whole."""
        self._ledger.tables.halted[sink_id] = reason

    def resume(self, sink_id: int) -> None:
        """Note that a sink takes events (again)."""
        self._ledger.tables.halted.pop(sink_id, None)

    def give_up(
        self, feeds: Sequence[int], now: dt.datetime, decider: Decider | None = None
    ) -> tuple[int, int]:
        """Take what waits of some feeds out of the outbox; return how many are refused, and how many are in doubt."""
        tables, figures = self._ledger.tables, {State.REFUSED: 0, State.IN_DOUBT: 0}
        for event_id, row in list(tables.outbox.items()):
            event = tables.events[event_id]
            if event.feed_id in feeds and (row.claim_id is None or row.due_at <= now):
                del tables.outbox[event_id]
                state = State.REFUSED if event.exposed_at is None else State.IN_DOUBT
                self._ledger.move(event, state)
                event.reason, event.settled_at = GIVEN_UP, now
                parked = tables.parked[event_id] = ParkedRow(event.feed_id, state, GIVEN_UP, now)
                parked.dismissed_at = now if state is State.REFUSED else None
                figures[state] += 1
        return figures[State.REFUSED], figures[State.IN_DOUBT]

    def release(self, events: Sequence[int], now: dt.datetime, decider: Decider | None = None) -> list[int]:
        """Let held or refused events go, on a person's word; return those that were. Who it was changes nothing.

        What the sink took before and rejected later is planned anew; everything else is due as it was planned.
        """
        tables, released, due, again = self._ledger.tables, [], [], []
        for event in whole(tables, map(EventId, events)):
            parked = tables.parked.get(event)
            if parked is None or parked.state is State.IN_DOUBT or self._is_closed(event):
                continue
            row = tables.events[event]
            if parked.was_accepted:
                self._replan(row)
                again.append(row)
            else:
                del tables.parked[event]
                self._ledger.move(row, State.DUE)
                row.settled_at = row.reason = None
                tables.outbox[event] = OutboxRow(row.sink_id, now)
                due.append(event)
            released.append(int(event))
        for row in again:
            take_back_held(self._ledger, row, "planned anew with an event before it", now)
        note_newer_than(self._ledger, due, now)
        return sorted(released)

    def _is_closed(self, event: EventId) -> bool:
        """Tell whether an event is of a month that is closed: nothing of it goes any more."""
        tables = self._ledger.tables
        row = tables.events[event]
        until = tables.meters[tables.feeds[row.feed_id].meter_id].archived_until
        return until is not None and row.window_start < until

    def _replan(self, row: EventRow) -> None:
        self._ledger.slot_of(row).replan = True
        meter = self._ledger.tables.meters[self._ledger.tables.feeds[row.feed_id].meter_id]
        meter.reread_from = min(meter.reread_from or row.window_start, row.window_start)
