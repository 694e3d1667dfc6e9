"""Compares source, ledger and sink, meter by meter, and puts right what differs if that is wanted.

Rules
- A source is asked once for all sinks of a meter, before the ledger, and what it proves to show is all that is compared.
- Each part sees what it may see: a source is read by `collection`, a sink by `reconciliation`; here they only meet.
- What differs is kept on disk, so that nothing waits for who looks at it, and memory stays bounded.
"""

import datetime as dt
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from decimal import Decimal
from functools import cache, partial
from typing import NamedTuple

from aggregator.collection.open_windows import read_open
from aggregator.core import definitions, planner
from aggregator.core.drift import Repair, same
from aggregator.core.model import ZERO, Definition, Span, WriteModel
from aggregator.core.notifications import late_since
from aggregator.core.shown import counted
from aggregator.core.windows import floor
from aggregator.errors import SinkError
from aggregator.ledger.drift import Asked, DayLine, FeedLine
from aggregator.ledger.passes.spool import Spool
from aggregator.ledger.review.repairs import Done, Naming, Proposal
from aggregator.ledger.usage import UsageFeed
from aggregator.reconciliation.checker import CUSTOMERS_AT_ONCE, Checker
from aggregator.reconciliation.drift_finder import DriftFinder, Found, Line, Summary
from aggregator.reconciliation.notification_poller import LOOKBACK
from aggregator.runtime.disk_list import DiskList
from aggregator.sinks.protocol import TellsCombinations
from aggregator.wiring.app import App

MOST_UNBALANCED, MOST_NAMED = 1_000, 3
"""How many customers are found of whom the ledger contradicts itself, and how many of them are named."""


class Question(NamedTuple):
    """What is compared: whole UTC days of some meters, of all customers or of one."""

    span: Span
    meters: Sequence[str]
    now: dt.datetime
    customer: str | None = None
    sources: bool = True
    """Whether sources are asked, too."""
    every_hour: bool = False
    """Whether sinks are asked for the hours of every day."""
    shows: int = 0
    """How many customers of each feed have a line of their own."""


class Unmapped(NamedTuple):
    """What of a meter can be billed to nobody: by the source, and by the ledger."""

    source: Decimal
    ledger: Decimal

    @property
    def new(self) -> bool:
        """Whether there is some that was not read yet, or that has a customer by now."""
        return self.source != self.ledger


class Compared(NamedTuple):
    """What came of one feed."""

    line: Line
    summary: Summary
    found: DiskList[Found]
    read_until: dt.datetime
    """Up to where source and ledger were compared."""
    notes: list[str]
    unbalanced: frozenset[str]
    """Customers of whom the ledger contradicts itself."""
    unmapped: Unmapped | None
    """Of all sinks of its meter; None if the source was not asked, or for one customer only."""

    @property
    def unfinished(self) -> bool:
        """Whether anything differs, or was not compared."""
        new = self.unmapped is not None and self.unmapped.new
        return bool(self.summary.differing or self.unseen or new)

    @property
    def unseen(self) -> bool:
        """Whether something was not compared, or means nothing."""
        return bool(self.summary.unasked or self.summary.left_out or self.unbalanced)


def reconcile(app: App, question: Question, stack: ExitStack) -> Iterator[Compared]:
    """Yield what differs of each feed, by meter and sink; lists live as long as `stack`.

    Raises SourceError or SinkError if one of them does not answer.
    """
    late = cache(partial(_late, app, now=question.now))
    for meter in question.meters:
        feeds = [each for each in app.ledger.usage.feeds(meter, question.span) if each.sink in app.sinks]
        if not feeds or meter not in app.registered:
            continue
        holding = app.definitions(meter)
        with Spool() as spool:
            asked, notes = _read(app, question, meter, feeds, holding, spool)
            unmapped = _unmapped(app, question, feeds[0], asked, proven=not notes)
            for feed in feeds:
                compared = _compare(app, question, feed, asked, notes, late, stack)
                yield compared._replace(unmapped=unmapped)


def _late(app: App, sink: str, now: dt.datetime) -> str | None:
    """Return what a sink says of its totals being late: as far as it was heard, and as it says now if it can be asked.

    Nothing is written. One that cannot be asked that says nothing of it.
    """
    polled = app.late(sink)() if sink in app.sink_ids else None
    if sink not in app.notification_clients or app.config.polls(sink) is None:
        return polled
    with suppress(SinkError):
        said = app.notification_clients[sink].health(Span(now - LOOKBACK, now))
        newest = max(said, key=lambda each: each.notification.created_at, default=None)
        if newest is not None:
            return late_since(newest.notification.created_at) if newest.totals_late else None
    return polled


def _unmapped(
    app: App, question: Question, feed: UsageFeed, asked: Asked | None, *, proven: bool
) -> Unmapped | None:
    """Return what can be billed to nobody; by the ledger alone where the source has not proven to show all."""
    if asked is None or question.customer is not None:
        return None
    known = app.ledger.drift.unmapped(feed.meter_id, asked.span)
    said = asked.readings.unmapped_quantity if proven else known
    return Unmapped(known if same(said, known, asked.unit) else said, known)


def _read(
    app: App,
    question: Question,
    meter: str,
    feeds: Sequence[UsageFeed],
    holding: Sequence[Definition],
    spool: Spool,
) -> tuple[Asked | None, list[str]]:
    """Read what the source says now of windows that were read before; return that, and what is to be said of it."""
    configured = app.registered[meter].meter
    if not question.sources:
        return None, []
    start = max(question.span.start, min(feed.since for feed in feeds))
    sealed = configured.sealed_until(question.now)
    if sealed is not None and sealed > start:
        start = definitions.ceiling(sealed, definitions.at(holding, sealed).window)
    span = Span(start, min(question.span.end, feeds[0].mark))
    if span.start >= span.end:
        return None, [f"Nothing of {meter} was read of that time yet."]
    unread = app.ledger.adoption.unread(feeds[0].meter_id)
    proven = read_open(app.read_from(meter), holding, span, spool, unread)
    notes = []
    if proven is not None and proven < span.end:
        span = Span(span.start, max(span.start, floor(proven, definitions.at(holding, proven).window)))
        notes.append(
            f"Source {configured.source} has proven to show all up to {span.end:%Y-%m-%dT%H:%MZ} only."
        )
    return Asked(span, spool, configured.unit), notes


def _compare(
    app: App,
    question: Question,
    feed: UsageFeed,
    asked: Asked | None,
    notes: Sequence[str],
    late: Callable[[str], str | None],
    stack: ExitStack,
) -> Compared:
    line = _line(app, feed, question.span)
    lines, shadow = line.feed, line.shadow
    if asked is not None:
        asked = asked._replace(span=Span(asked.span.start, min(asked.span.end, feed.read_until)))
    finder = DriftFinder(
        app.ledger.drift,
        line,
        app.sinks[feed.sink],
        question.now,
        late(feed.sink),
        every_hour=question.every_hour,
        shows=question.shows,
        may_ask=may_ask(app, feed.sink),
    )
    found = stack.enter_context(DiskList[Found]())
    with DiskList[DayLine]() as kept:
        kept.keep(
            app.ledger.drift.days(lines, question.span, asked, question.customer and [question.customer])
        )
        found.keep(finder.compare(kept.all()))
    said = list(notes)
    if shadow:
        said.append(f"{feed.meter} is in shadow for {feed.sink}: nothing is sent there, so it was not asked.")
    elif not finder.summary.asked:
        said.append(f"{feed.sink} has no totals of {feed.meter} that could be compared, so it was not asked.")
    said += finder.summary.unasked
    said += _looks(finder.summary)
    if finder.late is not None:
        said.append(f"{feed.sink} is not believed where it lacks something: {finder.late}.")
    if finder.summary.left_out:
        said.append(
            f"Not compared: {counted(finder.summary.left_out, 'customer')} of {feed.meter}, since {feed.sink} was asked as "
            "often today as `reads_per_day` allows. Go on after midnight UTC, or allow more."
        )
    unbalanced = app.ledger.drift.unbalanced(feed.id, question.customer, MOST_UNBALANCED)
    for customer, much in unbalanced[:MOST_NAMED]:
        said.append(
            f"The ledger contradicts itself: for {customer} and {feed.meter}, {planner.plain(much)} more was read than was "
            f"planned for {feed.sink} and is carried. Nothing is repaired there; docs/reconcile.md says what to do."
        )
    until = asked.span.end if asked is not None else question.span.start
    return Compared(line, finder.summary, found, until, said, frozenset(each for each, _ in unbalanced), None)


def _looks(summary: Summary) -> Iterator[str]:
    """Say what was compared by a quick look only, and why there was none."""
    if summary.no_overview is not None:
        yield summary.no_overview
    if summary.fresh_to is None and summary.asked_again:
        yield (
            f"Compared by event summaries, since something differs or is newer than `meter_usage` shows: "
            f"{counted(summary.asked_again, 'customer')} of {summary.meter}."
        )
    if summary.fresh_to is not None:
        yield (
            f"Compared by `meter_usage`, as {summary.sink} had it at {summary.fresh_to:%Y-%m-%dT%H:%MZ}: "
            f"{counted(summary.by_overview, 'customer')} of {summary.meter}. By event summaries, since something differs "
            f"or is newer: {summary.asked_again}."
        )


def checking(app: App, sink: str, at_once: int = CUSTOMERS_AT_ONCE) -> Checker:
    """Return what compares a sink's totals with what it accepted, so many customers a round."""
    meters = {
        feed.id: name for name, known in app.registered.items() for feed in known.feeds if feed.sink == sink
    }

    def line(feed_id: int, span: Span) -> Line | None:
        """Return by what a feed is compared: as it stands now, and only with its sink."""
        name = meters.get(feed_id)
        for feed in app.ledger.usage.feeds(name, span) if name else ():
            if feed.id == feed_id:
                return _line(app, feed, span)
        return None

    return Checker(
        app.ledger.checks,
        app.ledger.drift,
        app.sinks[sink],
        app.sink_ids[sink],
        meters,
        line,
        may_ask=may_ask(app, sink),
        late=app.late(sink),
        at_once=at_once,
    )


def _line(app: App, feed: UsageFeed, span: Span) -> Line:
    configured = app.registered[feed.meter].meter
    lines = FeedLine(feed.id, feed.meter_id, feed.since, feed.until)
    known = app.definitions(feed.meter)
    again_from = feed.mark - configured.revisit
    return Line(
        feed.meter,
        feed.sink,
        lines,
        span,
        known,
        configured.unit,
        again_from,
        feed.shadow,
        _tells_apart(app, feed),
    )


def _tells_apart(app: App, feed: UsageFeed) -> bool:
    """Tell whether a feed's usage is kept apart by dimensions of which its sink can tell all that there ever were."""
    named = set(feed.dimensions)
    tells = isinstance(app.sinks[feed.sink], TellsCombinations)
    return tells and bool(named) and named <= set(app.registered[feed.meter].meter.dimensions)


def may_ask(app: App, sink: str) -> Callable[[], bool]:
    """Return what tells whether a sink may still be asked today."""
    allowance = app.allowances.get(sink)
    return (lambda: True) if allowance is None else (lambda: allowance.left)


def repair(app: App, compared: Compared, now: dt.datetime) -> Iterator[tuple[Found, Done]]:
    """Put right what differs of a feed, as far as that can be done; yield what became of each place."""
    name = naming(app, compared.line, now)
    for found in compared.found.all():
        if found.place.customer in compared.unbalanced:
            continue
        if any(each.repair is not Repair.NONE for each in found.differences):
            done = app.ledger.repairs.put_right(compared.line.feed, found.place, found.differences, name, now)
            yield found, done


def naming(app: App, line: Line, now: dt.datetime) -> Naming:
    """Return what names and stamps the events of a feed, as the planner would."""
    meter = app.registered[line.meter].identity
    limits = app.sinks[line.sink].limits_for(line.meter)

    def name(customer: str, start: dt.datetime, revision: int, stamped_at: dt.datetime | None) -> Proposal:
        window = definitions.at(line.known, start).window
        model = limits.write_model
        at = planner.stamp(start, window, revision, used_at=None, stamped_at=stamped_at, model=model)
        refused = None
        if at < now - limits.past:
            refused = (
                f"{line.sink} takes nothing older than {limits.past_days} days: put it right there by hand"
            )
        elif model is WriteModel.DELTA and not limits.negatives:
            refused = f"{line.sink} takes no quantity below zero: put it right there by hand"
        named = planner.Identifiers(app.ledger.identity.name(), line.sink, meter, window)
        return Proposal(named.of(customer, start, revision), at, refused)

    return name


def total_of(compared: Sequence[Compared], cause: str) -> tuple[int, Decimal]:
    """Return how many differences of a cause there are in all, and what they come to."""
    found = [each.summary.causes[cause] for each in compared if cause in each.summary.causes]
    return sum(count for count, _ in found), sum((amount for _, amount in found), ZERO)
