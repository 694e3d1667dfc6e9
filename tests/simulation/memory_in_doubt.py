"""The ledger in memory: events in doubt, what a sink rejects later, and read-backs."""

import datetime as dt
from collections import defaultdict
from collections.abc import Sequence

from aggregator.core.model import (
    EventId,
    Rejection,
    Report,
    Span,
    State,
)
from aggregator.core.readbacks import Conclusion, EventsInSpan, EventState, Finding
from aggregator.core.windows import floor
from aggregator.ledger.review.in_doubt import CLOCKS_DIFFER, MOST_PLACES, Readback, Settled
from aggregator.ledger.review.rejections import REMEMBERED, REPORTED_WITHIN
from aggregator.ledger.review.unacknowledged import Uncovered
from tests.simulation.apart import customer_of
from tests.simulation.conditions import HOUR, MINUTE
from tests.simulation.memory import EventRow, MemoryLedger, OutboxRow, ParkedRow, ReadbackRow

REFUSABLE = {State.DUE, State.SENDING, State.IN_DOUBT, State.ACCEPTED, State.CONFIRMED}


class MemoryInDoubt:
    """The verbs about events in doubt, rejections and read-backs."""

    def __init__(self, ledger: MemoryLedger) -> None:
        self._ledger = ledger

    def open(self, sink_id: int, now: dt.datetime, proof: dt.timedelta, limit: int) -> list[EventsInSpan]:
        """Return minutes with events in doubt that the sink's figures can settle by now, with all of ours in them."""
        tables = self._ledger.tables
        found: dict[tuple[int, str, str, dt.datetime], dt.datetime] = {}
        for event_id, parked in tables.parked.items():
            event = tables.events[event_id]
            if parked.state is not State.IN_DOUBT or event.sink_id != sink_id:
                continue
            look_at = parked.look_at or (event.attempted_at or parked.since) + proof
            if look_at <= now:
                key = (event.feed_id, event.meter, customer_of(event.customer), floor(event.at, MINUTE))
                found[key] = min(look_at, found.get(key, look_at))
        ordered = sorted(found, key=lambda key: (found[key], key[0], key[2]))
        return [
            self.in_span(feed, meter, customer, Span(minute, minute + MINUTE))
            for feed, meter, customer, minute in ordered[:limit]
        ]

    def look(self, readback: Readback, customer: str, span: Span) -> EventsInSpan:
        """Return all events of a customer in a span, those in question marked that a read-back is about."""
        return self.in_span(readback.feed, readback.meter, customer, span, _widened(readback.received))

    def settle(
        self, in_span: EventsInSpan, conclusions: Sequence[Conclusion], now: dt.datetime, look_at: dt.datetime
    ) -> Settled:
        """Record what a figure showed, if the ledger stands as it was compared; what is unclear waits until `look_at`."""
        again = self.in_span(in_span.feed, in_span.meter, in_span.customer, in_span.span, in_span.received)
        if again != in_span:
            return Settled(stale=True)
        doubted = {event.id for event in in_span.asked if event.state is State.IN_DOUBT}
        counts: dict[str, int] = defaultdict(int)
        for conclusion in conclusions:
            event = self._ledger.tables.events[conclusion.event]
            if conclusion.event in doubted:
                counts[self._settle_doubt(event, conclusion, now, look_at)] += 1
            elif conclusion.finding is Finding.PRESENT and event.state is State.ACCEPTED:
                self._ledger.move(event, State.CONFIRMED)
                counts["confirmed"] += 1
            elif conclusion.finding is Finding.ABSENT:
                reason = f"accepted, but not in the sink's own totals: {conclusions[0].reason}"
                counts["rejected"] += self.refuse_known(event, reason, now)
        return Settled(
            present=counts["present"],
            absent=counts["absent"],
            unclear=counts["unclear"],
            confirmed=counts["confirmed"],
            rejected=counts["rejected"],
        )

    def _settle_doubt(
        self, event: EventRow, conclusion: Conclusion, now: dt.datetime, look_at: dt.datetime
    ) -> str:
        tables = self._ledger.tables
        if conclusion.finding is Finding.UNCLEAR:
            parked = tables.parked[event.id]
            parked.reason, parked.look_at, event.reason = conclusion.reason, look_at, conclusion.reason
            return "unclear"
        del tables.parked[event.id]
        if conclusion.finding is Finding.PRESENT:
            self._ledger.move(event, State.ACCEPTED)
            event.settled_at, event.reason = now, f"seen: {conclusion.reason}"
            return "present"
        self._ledger.move(event, State.DUE)
        event.exposed_at = event.settled_at = None
        event.reason = f"not there: {conclusion.reason}"
        tables.outbox[event.id] = OutboxRow(event.sink_id, now)
        return "absent"

    def put_off(self, in_span: EventsInSpan, look_at: dt.datetime) -> None:
        """Leave the events in doubt of an excerpt alone until then."""
        for event in in_span.asked:
            parked = self._ledger.tables.parked.get(event.id)
            if parked is not None and parked.state is State.IN_DOUBT:
                parked.look_at = look_at

    def _reject(self, sink_id: int, rejections: Sequence[Rejection], now: dt.datetime) -> list[EventId]:
        """Record what a sink rejected after it had accepted it; return the events that are refused by it now."""
        tables, fresh = self._ledger.tables, dict[str, str]()
        for identifier, reason in {each.identifier: each.reason for each in rejections}.items():
            if (sink_id, identifier) not in tables.rejections:
                tables.rejections[sink_id, identifier] = fresh[identifier] = reason
        return [
            event.id
            for event in list(tables.events.values())
            if event.identifier in fresh
            and event.sink_id == sink_id
            and event.planned_at >= now - REPORTED_WITHIN
            and not self._was_taken_over(event)
            and self._refuse(event, fresh[event.identifier], now)
        ]

    def refuse_known(self, event: EventRow, reason: str, now: dt.datetime) -> bool:
        """Refuse an event that is known not to count at the sink, unless an adoption has put that right."""
        if self._was_taken_over(event):
            return False
        self._ledger.tables.rejections.setdefault((event.sink_id, event.identifier), reason)
        return self._refuse(event, reason, now)

    def _was_taken_over(self, event: EventRow) -> bool:
        """Tell whether an adoption has put right what this event left."""
        return any(
            other.slot_id == event.slot_id and other.revision > event.revision and other.taken_over
            for other in self._ledger.tables.events.values()
        )

    def _refuse(self, event: EventRow, reason: str, now: dt.datetime) -> bool:
        """Refuse an event, whatever stood about it; True if it was not refused or replaced before."""
        tables = self._ledger.tables
        if event.state is State.REFUSED and event.id in tables.parked:
            tables.parked[event.id].was_accepted = True
        if event.state not in REFUSABLE:
            return False
        self._ledger.move(event, State.REFUSED)
        event.reason, event.settled_at = reason, now
        tables.outbox.pop(event.id, None)
        tables.parked[event.id] = ParkedRow(event.feed_id, State.REFUSED, reason, now, was_accepted=True)
        return True

    def take_report(
        self, sink_id: int, report: Report, now: dt.datetime, proof: dt.timedelta | None
    ) -> tuple[list[EventId], bool]:
        """Take a sink's report; return the events that are refused by it, and whether a read-back is asked for."""
        tables = self._ledger.tables
        until = report.span.end + REMEMBERED
        unsure = {
            event.identifier
            for event in tables.events.values()
            if proof is not None and self._may_be_taken(event, until)
        }
        sure = [each for each in report.named if each.identifier not in unsure]
        refused = self._reject(sink_id, sure, now)
        identifiers = {each.identifier for each in sure}
        ours = any(
            (event.sink_id, event.identifier) == (sink_id, each)
            for event in tables.events.values()
            for each in identifiers
        )
        named = len(identifiers) if ours else 0
        feed = self._feed_called(sink_id, report.meter)
        if feed is None:
            return refused, False
        known = any((row.feed_id, row.report) == (feed, report.id) for row in tables.readbacks.values())
        if proof is None or report.rejected <= named or known:
            return refused, False
        number = next(self._ledger.readback_ids)
        tables.readbacks[number] = ReadbackRow(number, feed, report.span, report.id, report.span.end + proof)
        return refused, True

    def _may_be_taken(self, event: EventRow, until: dt.datetime) -> bool:
        """Tell whether the sink may have taken an event, or others in its place, since it was rejected."""
        if event.attempted_at is None:
            return False
        meter = self._ledger.tables.meters[self._ledger.tables.feeds[event.feed_id].meter_id]
        return event.attempted_at > until or any(
            event.window_start in span and at > event.attempted_at for span, at in meter.adopted
        )

    def _feed_called(self, sink_id: int, meter: str) -> int | None:
        """Return the feed of a meter, by the name it has or had; None if there is none."""
        for feed in self._ledger.tables.feeds.values():
            row = self._ledger.tables.meters[feed.meter_id]
            if feed.sink_id == sink_id and meter in (row.name, *row.formerly):
                return feed.id
        return None

    def readback(self, sink_id: int, now: dt.datetime) -> Readback | None:
        """Return the read-back that is due for longest, or None."""
        tables = self._ledger.tables
        due = [
            row
            for row in tables.readbacks.values()
            if row.done_at is None and row.due_at <= now and tables.feeds[row.feed_id].sink_id == sink_id
        ]
        if not due:
            return None
        row = min(due, key=lambda row: (row.due_at, row.id))
        return Readback(row.id, row.feed_id, tables.meters[tables.feeds[row.feed_id].meter_id].name, row.span)

    def uncovered(self, sink_id: int, earliest: dt.datetime) -> list[Uncovered]:
        """Return nothing: the sinks of the simulation answer."""
        return []

    def ask_readback(self, feed: int, span: Span, now: dt.datetime) -> bool:
        """Ask for nothing, for the same reason."""
        return False

    def places(self, readback: Readback) -> list[tuple[str, dt.datetime]]:
        """Return the customers and hours with accepted events that a read-back is about."""
        start, end = _widened(readback.received)
        found = {
            (customer_of(event.customer), floor(event.at, HOUR))
            for event in self._ledger.tables.events.values()
            if event.feed_id == readback.feed
            and event.state is State.ACCEPTED
            and start - REPORTED_WITHIN <= event.planned_at < end
            and event.exposed_at is not None
            and event.exposed_at < end
            and (event.settled_at or event.attempted_at or start) >= start
        }
        return sorted(found)[:MOST_PLACES]

    def note(self, readback: Readback, found: str) -> None:
        """Add to what a read-back found."""
        row = self._ledger.tables.readbacks.get(readback.id)
        if row is not None and row.done_at is None:
            row.found = found if row.found is None else f"{row.found}\n{found}"

    def close_readback(self, readback: Readback, found: str, now: dt.datetime, *, nothing: bool) -> None:
        """Note that everything a read-back is about has been looked at."""
        self.note(readback, found)
        row = self._ledger.tables.readbacks.get(readback.id)
        if row is not None:
            row.done_at = row.done_at or now

    def put_off_readback(self, readback: Readback, due_at: dt.datetime) -> None:
        """Come back to a read-back later."""
        row = self._ledger.tables.readbacks.get(readback.id)
        if row is not None and row.done_at is None:
            row.due_at = due_at

    def in_span(
        self, feed: int, meter: str, customer: str, span: Span, received: Span | None = None
    ) -> EventsInSpan:
        """Return all events of a customer of a feed in a span, widened to whole windows where an adoption compared them."""
        span = self._uncut(feed, customer, span)
        found = sorted(
            (
                event
                for event in self._ledger.tables.events.values()
                if event.feed_id == feed
                and customer_of(event.customer) == customer
                and event.at in span
                and event.state is not State.SHADOW
            ),
            key=lambda event: event.id,
        )
        meter_state = tuple(self._initial_state(event, received) for event in found)
        imprecise = self._uncut(feed, customer, span) != span
        return EventsInSpan(feed, meter, customer, span, meter_state, received, imprecise)

    def _uncut(self, feed: int, customer: str, span: Span) -> Span:
        """Return a span with the whole of every window that it touches and that an adoption compared."""
        tables = self._ledger.tables
        meter = tables.meters[tables.feeds[feed].meter_id]
        length = max(each.window for each in tables.definitions[meter.id])
        touched = [
            start
            for start, customers in tables.slots[feed].items()
            if customer in map(customer_of, customers)
            and start < span.end
            and start + length > span.start
            and any(start in span for span, _ in meter.adopted)
        ]
        if not touched:
            return span
        return Span(min(span.start, *touched), max(span.end, max(touched) + length))

    def _initial_state(self, event: EventRow, received: Span | None) -> EventState:
        settled = event.settled_at or event.attempted_at
        accepted = (
            event.state is State.ACCEPTED
            and received is not None
            and event.exposed_at is not None
            and event.exposed_at < received.end
            and settled is not None
            and settled >= received.start
        )
        rows = self._ledger.tables.cancellations.values()
        leaving = any(row.event_id == event.id and row.settled_at is None for row in rows)
        given_up = event.state in {State.VOID, State.REFUSED} and event.exposed_at is not None
        return EventState(
            event.id,
            event.at,
            event.delta,
            State.SENDING if leaving else event.state,
            event.attempted_at or event.settled_at or event.exposed_at,
            event.state is State.IN_DOUBT or accepted,
            given_up and (event.sink_id, event.identifier) not in self._ledger.tables.rejections,
            event.total,
        )


def _widened(received: Span) -> Span:
    return Span(received.start - CLOCKS_DIFFER, received.end + CLOCKS_DIFFER)
