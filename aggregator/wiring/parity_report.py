"""Gathers what two sinks and the source have of each customer over a period.

Rules
- It is a reconciliation, of both sinks at once: the source is read once, and each sink is asked for its own figures.
- Nothing is written.
"""

import datetime as dt
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import NamedTuple

from aggregator.core.cutover import Cutover
from aggregator.core.model import Span
from aggregator.core.parity_report import ReportLine, Sum
from aggregator.errors import UsageError
from aggregator.ledger.parity import Side
from aggregator.ledger.usage import UsageFeed
from aggregator.reconciliation.drift_finder import CustomerLine
from aggregator.wiring.app import App
from aggregator.wiring.reconciling import Compared, Question, reconcile

MOST_CUSTOMERS = 100_000
"""Of one meter: all lines are in memory at once, to be put in order and signed."""

NOTHING = Side()


class Pair(NamedTuple):
    """A meter's feeds into two sinks."""

    meter: str
    old: UsageFeed
    new: UsageFeed


def pairs(app: App, meters: list[str], sinks: tuple[str, str], span: Span) -> list[Pair]:
    """Return those of some meters that feed both sinks. Raises UsageError for what cannot be compared over the span."""
    found = []
    for meter in meters:
        feeds = {feed.sink: feed for feed in app.ledger.usage.feeds(meter, span)}
        if all(sink in feeds and sink in app.sinks for sink in sinks):
            pair = Pair(meter, feeds[sinks[0]], feeds[sinks[1]])
            _refuse(pair, span)
            found.append(pair)
    if not found:
        raise UsageError(f"No meter has fed both {sinks[0]} and {sinks[1]} so far.")
    return found


def _refuse(pair: Pair, span: Span) -> None:
    if pair.new.last:
        raise UsageError(
            f"Meter {pair.meter} bills a customer's last number, so a period has no sum: compare it by `aggregator parity`."
        )
    since = max(pair.old.since, pair.new.since)
    if span.start < since:
        raise UsageError(
            f"Both sinks have {pair.meter} from {since:%Y-%m-%dT%H:%MZ} on only: compare from the next midnight on."
        )


def lines(app: App, found: list[Pair], question: Question, stack: ExitStack) -> Iterator[ReportLine]:
    """Yield each meter's customers. Raises SourceError or SinkError if one of them does not answer."""
    asked = question._replace(meters=[pair.meter for pair in found], shows=MOST_CUSTOMERS)
    compared = {(each.line.meter, each.line.sink): each for each in reconcile(app, asked, stack)}
    moves = app.ledger.cutovers.known()
    for pair in found:
        old, new = (compared[pair.meter, feed.sink] for feed in (pair.old, pair.new))
        if max(old.summary.customers, new.summary.customers) > MOST_CUSTOMERS:
            raise UsageError(
                f"{pair.meter} has more than {MOST_CUSTOMERS:,} customers in that time: take --customer."
            )
        known = {
            each.customer: Cutover(each.customer, each.at, each.parallel)
            for each in moves
            if pair.meter in each.meters and (each.from_sink, each.to_sink) == (pair.old.sink, pair.new.sink)
        }
        planned = _planned(app, pair, question.span)
        rest_sent = not pair.new.shadowed
        by_customer = [{line.customer: line for line in each.summary.greatest} for each in (old, new)]
        for customer in sorted(by_customer[0].keys() | by_customer[1].keys() | planned.keys()):
            if question.customer not in (None, customer):
                continue
            cutover = known.get(customer, known.get(None))
            sides = planned.get(customer, (NOTHING, NOTHING))
            sums = [
                _sum(side, each, by.get(customer))
                for side, each, by in zip(sides, (old, new), by_customer, strict=True)
            ]
            source = max(by.get(customer, CustomerLine(customer)).source for by in by_customer)
            parallel = rest_sent if cutover is None else cutover.parallel
            yield ReportLine(
                pair.meter, customer, question.span, sums[0], sums[1], source, old.line.unit,
                _moved_at(cutover, question.span), parallel,
            )  # fmt: skip


def _moved_at(cutover: Cutover | None, span: Span) -> dt.datetime | None:
    """Return when a customer moved, if that was before the end of the span: what comes later is none of its affair."""
    return None if cutover is None or cutover.at >= span.end else cutover.at


def _planned(app: App, pair: Pair, span: Span) -> Mapping[str, tuple[Side, Side]]:
    """Return what was planned for both sinks, by customer."""
    found: dict[str, tuple[Side, Side]] = {}
    for place in app.ledger.parity.places(pair.old.id, pair.new.id, span, by_day=True):
        old, new = found.get(place.customer, (NOTHING, NOTHING))
        found[place.customer] = old.plus(place.one), new.plus(place.other)
    return found


def _sum(side: Side, compared: Compared, line: CustomerLine | None) -> Sum:
    says = line.in_sink if line is not None and compared.summary.asked else None
    return Sum(says, side.accepted, side.shadow, is_open=bool(side.under_way or side.waiting))
