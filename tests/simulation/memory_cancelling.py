"""The ledger in memory: cancellations."""

import datetime as dt
from collections.abc import Collection, Sequence

from aggregator.core.model import EventId, Span, State
from aggregator.core.readbacks import EventsInSpan
from aggregator.core.states import BOOKED, CancellationState, is_settled, may_go_on
from aggregator.core.windows import MINUTE, floor
from aggregator.errors import InvariantBroken
from aggregator.ledger.review.cancellations import TAKEN_OVER_SINCE, Wanted
from aggregator.ledger.review.decisions import Decider
from tests.simulation.apart import customer_of
from tests.simulation.memory import CancellationRow, EventRow, MemoryLedger
from tests.simulation.memory_in_doubt import MemoryInDoubt
from tests.simulation.memory_parked import event_before, take_back_held


class MemoryCancellations:
    """The verbs about cancellations."""

    def __init__(self, ledger: MemoryLedger, in_doubt: MemoryInDoubt) -> None:
        self._ledger = ledger
        self._in_doubt = in_doubt

    def ask_lowered(
        self, sink_id: int, meters: Collection[str], since: dt.datetime, now: dt.datetime, limit: int
    ) -> list[int]:
        """Put on record that events are wanted back behind which a decrease is held that would lower them."""
        tables, found = self._ledger.tables, []
        if tables.identity.stopped_at is not None:
            return []
        known = {row.event_id for row in tables.cancellations.values()}
        for event_id, parked in tables.parked.items():
            held = tables.events[event_id]
            if parked.state is not State.HELD or parked.guard is not None or held.delta >= 0:
                continue
            earlier = event_before(self._ledger, held)
            if (
                (held.sink_id, held.meter in meters) == (sink_id, True)
                and earlier is not None
                and earlier.state in BOOKED
                and earlier.delta > 0
                and earlier.attempted_at is not None
                and _received(earlier) > since
                and earlier.id not in known
            ):
                found.append(int(earlier.id))
        return self.ask(sink_id, sorted(found)[:limit], now)

    def ask(
        self, sink_id: int, events: Sequence[int], now: dt.datetime, decider: Decider | None = None
    ) -> list[int]:
        """Put on record that these are wanted back; return those that count as booked and were not wanted already."""
        tables, asked = self._ledger.tables, []
        for event_id in sorted(events):
            event = tables.events[EventId(event_id)]
            if event.state in BOOKED and event.attempted_at is not None and not self._is_open(event.id):
                number = next(self._ledger.cancellation_ids)
                row = CancellationRow(
                    number, event.id, sink_id, CancellationState.ASKED, now, now, self._others(event)
                )
                tables.cancellations[number] = row
                asked.append(event_id)
        return asked

    def wanted(
        self,
        sink_id: int | None = None,
        *,
        now: dt.datetime | None = None,
        events: Sequence[int] | None = None,
        limit: int,
    ) -> list[Wanted]:
        """Return cancellations that are not settled; with `now`, those that are to be looked after by then."""
        rows = [
            row
            for row in self._ledger.tables.cancellations.values()
            if row.settled_at is None
            and sink_id in (None, row.sink_id)
            and (now is None or (row.state is not CancellationState.LAPSED and row.next_at <= now))
            and (events is None or row.event_id in events)
        ]
        return [self._wanted(row) for row in sorted(rows, key=lambda row: (row.next_at, row.id))[:limit]]

    def _wanted(self, row: CancellationRow) -> Wanted:
        event = self._ledger.tables.events[row.event_id]
        whose = customer_of(event.customer)
        return Wanted(
            row.id, event.id, event.feed_id, event.meter, whose, event.delta, event.at, event.identifier,
            _received(event), row.state, row.tries, row.tried_at, row.unsure, row.seen_at, row.asked_at, row.answer,
            event.transport,
        )  # fmt: skip

    def begin(self, wanted: Wanted, now: dt.datetime, until: dt.datetime) -> Wanted | None:
        """Record a try before it is made; None if it is settled or somebody else tries. Nobody does until `until`."""
        row, stopped = self._row(wanted), self._ledger.tables.identity.stopped_at is not None
        at = self._ledger.clock()
        if (
            row is None
            or (row.state, row.tries) != (CancellationState.ASKED, wanted.tries)
            or row.next_at > at
            or stopped
        ):
            return None
        row.tries, row.tried_at, row.next_at, row.unsure = row.tries + 1, at, at + (until - now), True
        return wanted._replace(tries=wanted.tries + 1, tried_at=at)

    def answered(
        self,
        wanted: Wanted,
        state: CancellationState,
        answer: str,
        now: dt.datetime,
        next_at: dt.datetime,
        *,
        unsure: bool,
    ) -> bool:
        """Record how a cancellation stands now, if it stands as `wanted` has it."""
        row = self._row(wanted)
        if (
            row is None
            or row.settled_at is not None
            or (row.state, row.tries) != (wanted.state, wanted.tries)
        ):
            return False
        if not may_go_on(row.state, state):
            raise InvariantBroken(f"a cancellation goes on only: {row.id} from {row.state} to {state}")
        row.state, row.answer, row.next_at, row.unsure = state, answer, next_at, unsure
        row.settled_at = now if is_settled(state) else None
        return True

    def seen(self, wanted: Wanted, now: dt.datetime) -> None:
        """Note that the sink's totals show the event."""
        row = self._row(wanted)
        if row is not None and row.settled_at is None:
            row.seen_at = now

    def look(self, wanted: Wanted) -> EventsInSpan:
        """Return all events of the customer in the event's minute, the event itself in question."""
        minute = floor(wanted.at, MINUTE)
        span = Span(minute, minute + MINUTE)
        in_span = self._in_doubt.in_span(wanted.feed, wanted.meter, wanted.customer, span)
        events = tuple(
            each._replace(state=State.ACCEPTED, asked=True) if each.id == wanted.event else each
            for each in in_span.events
        )
        return in_span._replace(events=events)

    def settle(self, wanted: Wanted, answer: str, now: dt.datetime) -> bool:
        """Record that the sink has taken an event back, with all that follows: it is refused, and owed."""
        if not self.answered(wanted, CancellationState.DONE, answer, now, now, unsure=False):
            return False
        event = self._ledger.tables.events[wanted.event]
        if not self._in_doubt.refuse_known(event, f"cancelled: {answer}", now):
            return not self._lapse(wanted, f"{answer}; {TAKEN_OVER_SINCE}")
        take_back_held(self._ledger, event, "it corrected an event that is cancelled", now)
        if self._others(event) != self._ledger.tables.cancellations[wanted.id].others:
            self._ledger.slot_of(event).replan = True
        meter = self._ledger.tables.meters[self._ledger.tables.feeds[event.feed_id].meter_id]
        meter.reread_from = min(meter.reread_from or event.window_start, event.window_start)
        return True

    def _lapse(self, wanted: Wanted, answer: str) -> bool:
        """Let a person decide about an event that counts as booked all the same."""
        if self._ledger.tables.events[wanted.event].state not in BOOKED:
            return False
        row = self._ledger.tables.cancellations[wanted.id]
        row.state, row.settled_at, row.answer = CancellationState.LAPSED, None, answer
        return True

    def _row(self, wanted: Wanted) -> CancellationRow | None:
        """Return the row, unless a restore has given its number to another one."""
        row = self._ledger.tables.cancellations.get(wanted.id)
        return row if row is not None and row.asked_at == wanted.asked_at else None

    def _others(self, event: EventRow) -> int:
        """Return how far the other events of a slot are: one for each, one more for each that came to nothing."""
        return sum(
            2 if other.state is State.VOID else 1
            for other in self._ledger.tables.events.values()
            if other.slot_id == event.slot_id and other.id != event.id
        )

    def _is_open(self, event: EventId) -> bool:
        rows = self._ledger.tables.cancellations.values()
        return any(row.event_id == event and row.settled_at is None for row in rows)


def _received(event: EventRow) -> dt.datetime:
    at = event.exposed_at or event.attempted_at or event.settled_at
    assert at is not None, "what is booked has left"
    return at
