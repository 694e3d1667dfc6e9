"""Compares what a sink accepted with its own totals, all the time: every event once, as soon as its totals must be there.

Rules
- Customers come one feed after the other: suspicious ones first, then those whose oldest unchecked event is the oldest.
- A sink is asked within its allowance. What is left goes on in the next round, or the next day.
- Combinations of dimensions are compared one by one where the sink tells them apart: what is exchanged between two of them
  comes to nothing in their sum. As many combinations and days as a page of the answer holds cost no further read. So these
  customers are compared over their own days, and not over those of somebody whose usage came late.
- While a sink says that its totals are late, nothing is asked: what they lack they may yet have.
- What differs goes on record and is said. To put it right is for a person (`aggregator reconcile --repair`).
- What cannot be judged yet, since something of it is on its way, is looked at again some hours later.
"""

import datetime as dt
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from aggregator.core.counts import Counts
from aggregator.core.drift import Cause
from aggregator.core.model import Span
from aggregator.core.windows import DAY, floor
from aggregator.ledger.drift import DriftReport
from aggregator.ledger.review.checks import Checks, Drift, Unchecked
from aggregator.reconciliation.drift_finder import PROOF, DriftFinder, Found, Line, readable
from aggregator.sinks.protocol import Totals

CUSTOMERS_AT_ONCE = 500
"""Customers of a round: half a minute at the pace of a sink that takes twenty reads a second."""

AGAIN_AFTER = dt.timedelta(hours=6)
"""When a customer is looked at again of whom nothing can be concluded yet, or whom the sink does not know."""

KEPT = frozenset({Cause.DUPLICATE, Cause.FOREIGN, Cause.MISSING, Cause.UNEXPLAINED})
"""What goes on record. The rest is on record already, as an event that waits."""

LineOf = Callable[[int, Span], Line | None]
"""Returns by what a feed is compared; None if that is not configured here."""


@dataclass(slots=True)
class Checked(Counts):
    """What one round compared. `waiting` counts customers of whom nothing can be concluded yet."""

    customers: int = 0
    events: int = 0
    differing: int = 0
    waiting: int = 0
    reads: int = 0
    found: list[str] = field(default_factory=list)
    """What differs, in sentences."""
    late: str | None = None
    """What the sink says of its totals being late."""
    no_overview: str | None = None
    """Why there was no quick look at customers, although the sink is set to have one."""

    @property
    def needs_person(self) -> bool:
        """Whether something differs."""
        return bool(self.differing)

    def add(self, other: "Checked") -> None:
        """Take another round into account, which went on where this one ended."""
        self.add_counts(other)
        self.found += other.found
        self.more, self.late, self.no_overview = other.more, other.late, other.no_overview


class Checker:
    """Checks one sink. `lines` says by what each of its feeds is compared, `late` what the sink says of its totals."""

    def __init__(
        self,
        checks: Checks,
        report: DriftReport,
        sink: Totals,
        sink_id: int,
        feeds: Mapping[int, str],
        lines: LineOf,
        *,
        may_ask: Callable[[], bool] = lambda: True,
        late: Callable[[], str | None] = lambda: None,
        at_once: int = CUSTOMERS_AT_ONCE,
    ) -> None:
        self._checks = checks
        self._report = report
        self._sink = sink
        self._sink_id = sink_id
        self._feeds = [feed for feed, meter in feeds.items() if readable(sink.limits_for(meter))]
        self._lines = lines
        self._may_ask = may_ask
        self._late = late
        self._at_once = at_once
        self._stopping = threading.Event()

    def stop(self) -> None:
        """Ask nothing more; a round that is under way ends with the customers it has begun with."""
        self._stopping.set()

    def run_once(self, now: dt.datetime) -> Checked:
        """List what is to be compared by now, and compare some of it. Raises SinkError."""
        result = Checked()
        if not self._feeds:
            return result
        proof = self._sink.limits.proof or PROOF
        result.more = self._checks.list_sent(self._sink_id, now - proof, now)
        result.late = self._late()
        if result.late is not None or not self._may_ask():
            return result
        due = self._checks.due(self._sink_id, self._feeds, now, self._at_once)
        if due and not self._stopping.is_set():
            self._compare_feed(due, now, result)
            left = self._may_go_on() and self._checks.due(self._sink_id, self._feeds, now, 1)
            result.more |= bool(left)  # of this feed, or of another
        return result

    def _compare_feed(self, due: Sequence[Unchecked], now: dt.datetime, result: Checked) -> None:
        """Compare customers of one feed over the days that their events lie in."""
        feed = due[0].feed
        line = self._lines(feed, _days_of(due))
        if line is None or line.shadow:
            self._checks.put_off(feed, [each.customer for each in due], now + AGAIN_AFTER)
            return
        for some in _by_first_day(due) if line.is_apart else [due]:
            if not self._may_go_on():
                return
            self._compare(line._replace(span=_days_of(some)), some, now, result)

    def _compare(self, line: Line, due: Sequence[Unchecked], now: dt.datetime, result: Checked) -> None:
        feed, span = line.feed.feed, line.span
        finder = DriftFinder(self._report, line, self._sink, now, may_ask=self._may_go_on)
        customers = [each.customer for each in due]
        found = list(finder.compare(list(self._report.days(line.feed, span, customers=customers))))
        waiting = {each.place.customer for each in found if _unsure(each)} | set(finder.unseen)
        done = [each for each in due if each.customer not in waiting]
        drifts = [
            Drift(
                line.meter,
                line.sink,
                each.place.customer,
                each.place.span.start,
                each.place.span.end,
                difference.cause.value,
                difference.amount,
                difference.reason,
                now,
                each.place.dimensions or (),
            )
            for each in found
            for difference in each.differences
            if difference.cause in KEPT and each.place.customer not in waiting
        ]
        self._checks.compared(feed, done, span, drifts, now)
        if waiting:
            self._checks.put_off(feed, sorted(waiting), now + AGAIN_AFTER)
        result.customers += len(done)
        result.events += sum(each.events for each in done)
        result.differing += len(drifts)
        result.waiting += len(waiting)
        result.reads += finder.summary.reads
        result.no_overview = finder.summary.no_overview
        result.found += [
            f"{line.meter} of {_whose(each)} in {Span(each.start, each.end)}: {each.reason}"
            for each in drifts
        ]

    def _may_go_on(self) -> bool:
        return not self._stopping.is_set() and self._may_ask()


def _unsure(found: Found) -> bool:
    """Tell whether the sink's figure says nothing of a place yet."""
    return found.place.sink is not None and any(each.cause is Cause.PENDING for each in found.differences)


def _days_of(due: Sequence[Unchecked]) -> Span:
    """Return the days that the events of customers lie in."""
    return Span(
        floor(min(each.first_window for each in due), DAY),
        floor(max(each.last_window for each in due), DAY) + DAY,
    )


def _by_first_day(due: Sequence[Unchecked]) -> list[list[Unchecked]]:
    """Return customers by the first of their days, those first who come first: no more groups than a sink takes days."""
    groups: dict[dt.datetime, list[Unchecked]] = {}
    for each in due:
        groups.setdefault(floor(each.first_window, DAY), []).append(each)
    return list(groups.values())


def _whose(drift: Drift) -> str:
    """Name the customer, and the combination if that is known."""
    return f"{drift.customer} ({drift.combination})" if drift.dimensions else drift.customer
