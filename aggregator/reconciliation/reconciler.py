"""Reconciliation: what is in doubt is settled by the sink's own figures, and what it reported is followed up.

Rules
- The ledger is read, the sink is asked, the ledger is written: three steps, and no ledger transaction is open while the sink
  is talked to. What changed meanwhile makes the figure worthless, and it is asked for again later.
- Nothing here decides; `readbacks` does.
- A figure that cannot be had for one customer leaves that customer's events as they are. A sink that cannot be reached, or
  refuses us as a whole, ends the round: what was settled before stays settled.
- It never sees a source, and it sends nothing: what is due again is delivery's.
"""

import datetime as dt
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

from aggregator.core import newest, readbacks
from aggregator.core.counts import Counts
from aggregator.core.model import Report, Span, WriteModel
from aggregator.core.readbacks import Conclusion, EventsInSpan, Finding
from aggregator.core.windows import HOUR, MINUTE, floor, is_ahead
from aggregator.errors import AggregatorError, SinkError, SinkHalted, SinkUnreachable
from aggregator.ledger.review.in_doubt import MOST_PLACES, InDoubt, Readback, Settled
from aggregator.sinks.protocol import Totals

MINUTES_AT_ONCE = 100
"""Minutes in doubt per round: each costs a call, and a sink that is asked must not be kept from taking events."""

PLACES_AT_ONCE = 100
"""Customers and hours of a read-back per round, each of them a call, and up to sixty more where the figures differ."""

FIRST_LOOK_BACK = dt.timedelta(days=3)
"""How far back a sink that gives no answer per event is read when that begins: what was sent earlier had its answers, or is
older than any process that is still about to begin."""

Decide = Callable[[EventsInSpan, Decimal], list[Conclusion]]
"""Rules on the events in question of an excerpt by the sink's figure."""


@dataclass(slots=True)
class Reconciled(Counts):
    """What one round did: how many events were found present, absent or unclear, wait for more time, and so on.

    `stale` counts figures that said nothing any more, `rejected` accepted events that are refused now, `readbacks` those
    asked for or brought to an end.
    """

    present: int = 0
    absent: int = 0
    unclear: int = 0
    waiting: int = 0
    stale: int = 0
    confirmed: int = 0
    rejected: int = 0
    readbacks: int = 0
    unsettled: list[str] = field(default_factory=list)
    """What a person should look at, with the figures."""

    @property
    def needs_person(self) -> bool:
        """Whether the sink's figures left something open."""
        return bool(self.unclear)


@dataclass(slots=True)
class _Reading:
    """A read-back under way: which customers and hours are still to be looked at, and what it came to so far."""

    readback: Readback
    left: deque[tuple[str, dt.datetime]]
    whole: bool
    """Whether what was to be looked at is all there was."""
    confirmed: int = 0
    rejected: int = 0
    unclear: int = 0
    again: int = 0
    """Places where nothing could be proven yet."""


class Reconciler:
    """Reads one sink back. One at a time per sink is enough; several do no harm, since what is stale is not written."""

    def __init__(
        self,
        in_doubt: InDoubt,
        sink: Totals,
        sink_id: int,
        late: Callable[[], str | None] = lambda: None,
    ) -> None:
        """`late` is what the sink says of its totals being late: until it says no more, nothing is judged by them."""
        self._in_doubt = in_doubt
        self._sink = sink
        self._sink_id = sink_id
        self._late = late
        self._reading: _Reading | None = None
        self._look_again_at: dt.datetime | None = None
        self._silent = bool(sink.limits.silent_way) and sink.limits.answers
        self._stopping = threading.Event()

    def run_once(self, now: dt.datetime) -> Reconciled:
        """Look at what is due by `now`: minutes in doubt first, then read-backs.

        A sink that cannot be read back leaves everything to a person. Raises SinkUnreachable or SinkHalted.
        """
        result = Reconciled()
        wait = self._sink.limits.proof
        if wait is not None and self._late() is None:
            self._settle_in_doubt(now, wait, result)
            self._ask(now, wait, result)
            self._read_back(now, wait, result)
        return result

    def take(self, report: Report, now: dt.datetime) -> Reconciled:
        """Take what the sink reports of events it had accepted. Taking a report twice has the effect of once."""
        wait = self._sink.limits_for(report.meter).proof_of_one
        refused, readback = self._in_doubt.take_report(self._sink_id, report, now, wait)
        return Reconciled(rejected=len(refused), readbacks=int(readback))

    def stop(self) -> None:
        """Ask nothing more; a round that is under way ends after the call it waits for."""
        self._stopping.set()

    def _ask(self, now: dt.datetime, wait: dt.timedelta, result: Reconciled) -> None:
        """Ask for the read-back of what was sent long enough ago, if nobody has said of each event what became of it."""
        until = floor(now - wait, HOUR)
        earliest = until - FIRST_LOOK_BACK
        if self._sink.limits.answers:
            self._ask_what_was_silent(earliest, now, result)
            return
        for feed, meter, since in self._in_doubt.uncovered(self._sink_id, earliest):
            if self._proves(meter) and until - since >= HOUR:
                result.readbacks += self._in_doubt.ask_readback(feed, Span(since, until), now)

    def _ask_what_was_silent(self, earliest: dt.datetime, now: dt.datetime, result: Reconciled) -> None:
        """Ask for the read-back of what was sent without answers before the sink was set to give them.

        Looked for once, and then every hour for as long as an event whose answer was lost still goes the way it went.
        """
        waits = self._look_again_at is not None and is_ahead(self._look_again_at, now, HOUR)
        if waits or not self._silent:
            return
        found, self._silent = self._in_doubt.sent_silently(
            self._sink_id, self._sink.limits.silent_way, earliest
        )
        self._look_again_at = now + HOUR
        for feed, meter, span in found:
            if self._proves(meter):
                result.readbacks += self._in_doubt.ask_readback(feed, span, now)

    def _proves(self, meter: str) -> bool:
        """Tell whether the sink's totals can show single events of a meter."""
        limits = self._sink.limits_for(meter)
        return limits.write_model is WriteModel.DELTA or limits.newest_of is not None

    def _settle_in_doubt(self, now: dt.datetime, wait: dt.timedelta, result: Reconciled) -> None:
        due = self._in_doubt.open(self._sink_id, now, wait, MINUTES_AT_ONCE)
        for in_span in due:
            if self._stopping.is_set():
                return
            ready_at = readbacks.proves_at(in_span, now, wait)
            if ready_at > now:
                result.waiting += len(in_span.asked)
                self._in_doubt.put_off(in_span, ready_at)
            else:
                self._settle(in_span, self._conclusions(in_span, now), now, result)
        result.more = len(due) == MINUTES_AT_ONCE

    def _conclusions(self, in_span: EventsInSpan, now: dt.datetime) -> list[Conclusion]:
        """Ask the sink for its figure, and rule by it. Raises SinkUnreachable or SinkHalted, with the excerpt put off."""
        try:
            return readbacks.decide(in_span, self._figure(in_span))
        except (SinkUnreachable, SinkHalted):
            self._in_doubt.put_off(in_span, now + readbacks.LOOK_SOON)
            raise
        except SinkError as error:
            return readbacks.unclear(in_span, f"the sink has no figure for {in_span}: {error}")

    def _figure(self, in_span: EventsInSpan) -> Decimal:
        return self._sink.total(in_span.meter, in_span.customer, in_span.span)

    def _settle(
        self, in_span: EventsInSpan, conclusions: Sequence[Conclusion], now: dt.datetime, result: Reconciled
    ) -> Settled:
        settled = self._in_doubt.settle(in_span, conclusions, now, now + readbacks.LOOK_AGAIN)
        result.add_counts(settled)
        if settled.stale:
            self._in_doubt.put_off(in_span, now + readbacks.LOOK_SOON)
        elif any(conclusion.finding is Finding.UNCLEAR for conclusion in conclusions):
            result.unsettled.append(conclusions[0].reason)
        return settled

    def _read_back(self, now: dt.datetime, wait: dt.timedelta, result: Reconciled) -> None:
        """Go on with the read-back under way, or begin with the next one that is due."""
        reading = self._reading or self._begin(now)
        if reading is None:
            return
        self._reading = reading
        for _ in range(min(PLACES_AT_ONCE, len(reading.left))):
            if self._stopping.is_set():
                return
            customer, hour = reading.left.popleft()
            try:
                self._look(reading, customer, hour, now, wait, result)
            except AggregatorError:
                reading.left.append((customer, hour))  # the others first, the next time
                raise
        if reading.left:
            result.more = True
        else:
            self._end(reading, now, result)

    def _begin(self, now: dt.datetime) -> _Reading | None:
        readback = self._in_doubt.readback(self._sink_id, now)
        if readback is None:
            return None
        places = self._in_doubt.places(readback)
        whole, stretch = len(places) < MOST_PLACES, self._stretch(readback)
        begins = dict.fromkeys((customer, floor(hour, stretch)) for customer, hour in places)
        return _Reading(readback, deque(begins), whole)

    def _stretch(self, readback: Readback) -> dt.timedelta:
        """Return what is compared at once: an hour, or that of which the sink keeps the newest event."""
        return self._sink.limits_for(readback.meter).newest_of or HOUR

    def _end(self, reading: _Reading, now: dt.datetime, result: Reconciled) -> None:
        self._reading = None
        if reading.again or not reading.whole:
            self._in_doubt.put_off_readback(reading.readback, now + readbacks.LOOK_AGAIN)
            return
        found = f"{reading.confirmed} confirmed, {reading.rejected} rejected, {reading.unclear} unclear"
        nothing = not (reading.confirmed or reading.rejected or reading.unclear)
        self._in_doubt.close_readback(reading.readback, found, now, nothing=nothing)
        result.readbacks += 1

    def _look(
        self,
        reading: _Reading,
        customer: str,
        hour: dt.datetime,
        now: dt.datetime,
        wait: dt.timedelta,
        result: Reconciled,
    ) -> None:
        """Compare one customer's hour with the sink; where the two differ, each minute that has events in question."""
        stretch = Span(hour, hour + self._stretch(reading.readback))
        if self._sink.limits_for(reading.readback.meter).newest_of is not None:
            self._look_at(reading, customer, stretch, newest.decide, now, wait, result)
            return
        whole = self._in_doubt.look(reading.readback, customer, stretch)
        if not whole.asked:
            return
        if readbacks.proves_at(whole, now, wait) <= now:
            figure = self._figure_or_none(whole, reading)
            if figure is None:
                return
            if readbacks.agrees(whole, figure):
                settled = self._settle(whole, readbacks.all_present(whole, figure), now, result)
                self._count(reading, settled, 0)
                return
        for start in sorted({floor(event.at, MINUTE) for event in whole.asked}):
            self._look_at(reading, customer, Span(start, start + MINUTE), readbacks.decide, now, wait, result)

    def _look_at(
        self,
        reading: _Reading,
        customer: str,
        span: Span,
        decide: Decide,
        now: dt.datetime,
        wait: dt.timedelta,
        result: Reconciled,
    ) -> None:
        """Rule on what is in question in a span that shows single events."""
        in_span = self._in_doubt.look(reading.readback, customer, span)
        if not in_span.asked:
            return
        if readbacks.proves_at(in_span, now, wait) > now:
            reading.again += 1
            result.waiting += len(in_span.asked)
            return
        figure = self._figure_or_none(in_span, reading)
        if figure is None:
            return
        conclusions = decide(in_span, figure)
        unclear = [conclusion for conclusion in conclusions if conclusion.finding is Finding.UNCLEAR]
        if unclear:
            self._in_doubt.note(reading.readback, unclear[0].reason)
        self._count(reading, self._settle(in_span, conclusions, now, result), len(unclear))

    def _figure_or_none(self, in_span: EventsInSpan, reading: _Reading) -> Decimal | None:
        """Return the sink's figure; None, on record, if it has none here. Raises what concerns the whole sink."""
        try:
            return self._figure(in_span)
        except (SinkUnreachable, SinkHalted):
            raise
        except SinkError as error:
            reading.again += len(in_span.asked)  # so that what was asked for is not taken for done
            self._in_doubt.note(reading.readback, f"the sink has no figure for {in_span}: {error}")
            return None

    def _count(self, reading: _Reading, settled: Settled, unclear: int) -> None:
        reading.confirmed += settled.confirmed
        reading.rejected += settled.rejected
        reading.unclear += unclear
        reading.again += settled.stale
