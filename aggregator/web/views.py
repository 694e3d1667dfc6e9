"""What each page shows: figures, taken from the ledger when it is asked for."""

import datetime as dt
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from itertools import islice
from typing import NamedTuple, TypeVar

from aggregator.collection.usage import Question, ask
from aggregator.config.changes import blocks_of, changed_configuration, settings_of
from aggregator.core.lateness import in_time
from aggregator.core.model import Span
from aggregator.core.usage import By, Line, Usage, sum_of
from aggregator.core.windows import DAY, HOUR, floor
from aggregator.ledger.history import Asked as WantedRuns
from aggregator.ledger.reports import FeedStatus
from aggregator.ledger.review.parked import Choice
from aggregator.ledger.usage import UsageFeed
from aggregator.web.application import Refused
from aggregator.web.asking import day_of, instant_of, number_of, period_of
from aggregator.web.breakdowns import Breakdown, breakdown
from aggregator.web.charts import Chart, Point, chart
from aggregator.web.health import Health, Pace, health, pace_of
from aggregator.web.reviews import explanation, reconciliation
from aggregator.web.site import Asked, Backend, Page, View

LINES = 100
"""Rows of a table on one page: what helps people who cannot see takes long for more."""

APART = ("dismissed", "shadow")
"""What is neither billed nor may be: a statement shows it only where there is any."""

MOST_FILES = 200
MOST_DECISIONS = 20
MOST_RUNS = 30
MOST_FEEDS_OF_A_CUSTOMER = 60
LONG_AGO = dt.datetime(2000, 1, 1, tzinfo=dt.UTC)
LATENESS_WITHIN = dt.timedelta(days=14)

Row = TypeVar("Row")


class MeterRow(NamedTuple):
    """A meter and a sink, and how they stand."""

    status: FeedStatus
    health: Health
    lag: dt.timedelta


class MeterUsage(NamedTuple):
    """What a customer used of a meter in a period, and what became of it, for one sink."""

    feed: UsageFeed
    usage: Usage
    chart: Chart | None
    notes: list[str]
    breakdown: Breakdown | None = None
    """By a dimension, if that is asked for."""


def overview(backend: Backend, asked: Asked) -> Page:
    """Show every meter, and what needs somebody."""
    ledger, now = backend.ledger, asked.now
    rows = list(meter_rows(backend, now))
    stopped = ledger.identity.check(now)
    lateness = ledger.reports.lateness(now - LATENESS_WITHIN)
    values = {
        "rows": rows,
        "troubles": [row for row in rows if row.health.level != "good"],
        "stopped": stopped,
        "apart": ledger.database.clocks_apart(),
        "unmapped": ledger.reports.unmapped(10),
        "files": len(ledger.uploads.listed(sink=None, unconfirmed=True, limit=MOST_FILES)),
        "late": {name: in_time(state) for name, state in sorted(lateness.items())},
        "now": now,
    }
    return Page("overview.html", values)


def meter_rows(backend: Backend, now: dt.datetime) -> Iterator[MeterRow]:
    """Yield how each meter stands with each sink."""
    for row in backend.ledger.reports.status():
        yield MeterRow(row, health(row, now, pace(backend, row.meter)), now - row.mark)


def pace(backend: Backend, meter: str) -> Pace | None:
    """Return how soon a meter is read by the configuration; None if it is not in there."""
    configured = backend.config.meters.get(meter)
    return (
        pace_of(configured.delay, configured.every, configured.window, by_cron=configured.cron is not None)
        if configured
        else None
    )


def meter(backend: Backend, asked: Asked) -> Page:
    """Show a meter's usage over a month by day, or over a day by hour."""
    name, now = asked.path["meter"], asked.now
    rows = [row for row in meter_rows(backend, now) if row.status.meter == name]
    if not rows:
        raise Refused(404, f"there is no meter {name[:100]} in the ledger")
    sink = asked.query.get("sink") or rows[0].status.sink
    row = next((row for row in rows if row.status.sink == sink), None)
    if row is None:
        raise Refused(404, f"{name} does not feed {sink[:100]}")
    period = period_of(asked)
    day = day_of(asked)
    span = Span(day, day + DAY) if day else period.span
    feed = _feed(backend, name, sink, span)
    apart = breakdown(backend.ledger, asked, feed, span, LINES)
    kept = backend.ledger.usage_days.kept(feed.id, span)
    hours, drawn, total = _over_time(backend, feed, span, kept, by_day=day is None)
    page, more = _page(asked, [] if apart else hours[::-1], 24)
    values = {
        "name": name,
        "row": row,
        "rows": rows,
        "period": period,
        "day": day,
        "feed": feed,
        "breakdown": apart,
        "chart": chart(
            [Point(each.start, each.usage.used, each.usage.billed) for each in drawn if each.start <= now],
            f"{name} {'by hour' if day else 'by day'}",
            "%H:%M" if day else "%d %b",
        ),
        "total": total,
        "figures": _figures([total]),
        "hours": page,
        "hour_figures": _figures(each.usage for each in page),
        "slots": backend.ledger.usage_windows.slots(feed.id, span, kept) if page else {},
        "hourly": feed.last or row.status.window_seconds <= 3_600,
        "one_slot_each": row.status.window_seconds >= 3_600 and not feed.dimensions,
        "page": number_of(asked),
        "more": more,
        "one_day": DAY,
        "now": now,
    }
    return Page("meter.html", values)


class Stretch(NamedTuple):
    """What was used in an hour or a day."""

    start: dt.datetime
    usage: Usage


def _over_time(
    backend: Backend, feed: UsageFeed, span: Span, kept: str, *, by_day: bool
) -> tuple[list[Stretch], list[Stretch], Usage]:
    """Return the hours of a span that hold anything, the stretches that are drawn, and what all come to.

    Where the last number is billed, hours do not add up, and to look at all of a month would take long: only a day has them.
    """
    report = backend.ledger.usage
    if feed.last:
        found = _stretches(report.lines(feed, span, By.DAY if by_day else By.HOUR))
        total = sum_of(line.usage for line in report.lines(feed, span))
    else:
        found = _stretches(report.lines(feed, span, By.HOUR, kept=kept))
        total = sum_of(each.usage for each in found)
    hours = [] if feed.last and by_day else found
    step = DAY if by_day else HOUR
    drawn: dict[dt.datetime, list[Usage]] = {}
    for each in found:
        drawn.setdefault(floor(each.start, step), []).append(each.usage)
    starts = [span.start + step * number for number in range((span.end - span.start) // step)]
    return hours, [Stretch(start, sum_of(drawn.get(start, ()))) for start in starts], total


def _stretches(lines: Iterable[Line]) -> list[Stretch]:
    return [Stretch(line.start, line.usage) for line in lines if line.start is not None]


def window(backend: Backend, asked: Asked) -> Page:
    """Show the customers of a meter in a window: who used most first."""
    name, sink = asked.path["meter"], asked.query.get("sink", "")
    start = instant_of(asked.path["start"])
    rows = [row for row in backend.ledger.reports.status() if row.meter == name]
    status = next((row for row in rows if row.sink == sink), rows[0] if rows else None)
    if status is None:
        raise Refused(404, f"there is no meter {name[:100]} in the ledger")
    length = max(HOUR, dt.timedelta(seconds=status.window_seconds))
    span = Span(floor(start, length), floor(start, length) + length)
    feed = _feed(backend, name, status.sink, span)
    report = backend.ledger.usage
    first = (number_of(asked) - 1) * LINES
    found = report.some_customers(feed, span, LINES + 1, first)
    total = sum_of(line.usage for line in report.lines(feed, span))
    count = sum(backend.ledger.usage_windows.slots(feed.id, span).values())
    values = {
        "name": name,
        "sink": status.sink,
        "span": span,
        "before": span.start - length,
        "after": span.end if span.end <= asked.now else None,
        "lines": found[:LINES],
        "names": backend.ledger.customers.names(line.customer for line in found if line.customer),
        "figures": _figures([total]),
        "total": total,
        "count": count,
        "page": number_of(asked),
        "more": len(found) > LINES,
        "one_slot_each": status.window_seconds >= 3_600 and not feed.dimensions,
        "read": feed.mark >= span.end,
        "now": asked.now,
    }
    return Page("window.html", values)


def customers(backend: Backend, asked: Asked) -> Page:
    """Find a customer: by how its name begins, among those that had usage lately."""
    prefix = asked.query.get("begins", "").strip()[:200]
    feeds = backend.ledger.usage.feeds(None, Span(asked.now, asked.now))
    found: dict[str, list[str]] = {}
    for feed in feeds[:MOST_FEEDS_OF_A_CUSTOMER]:
        for name in backend.ledger.usage_windows.customers(feed.id, prefix, LINES):
            meters = found.setdefault(name, [])
            if feed.meter not in meters:
                meters.append(feed.meter)
    rows = sorted(found.items())
    names = backend.ledger.customers.names(found)
    values = {
        "begins": prefix,
        "rows": rows[:LINES],
        "names": names,
        "more": len(rows) > LINES,
        "now": asked.now,
    }
    return Page("customers.html", values)


def customer(backend: Backend, asked: Asked) -> Page:
    """Show what a customer used in a month of every meter, and what is not billed yet; with `live`, as the source has it.

    By a dimension, of the one meter that has it.
    """
    whose, period = asked.path["customer"], period_of(asked)
    live = bool(asked.query.get("live"))
    if live and backend.source_of is None:
        raise Refused(409, "no source can be asked here")
    by = asked.query.get("meter", "") if asked.query.get("by") else None
    found = list(_used(backend, whose, period.span, asked.now, live=live, meter=by))
    if by is not None:
        found = [
            each._replace(breakdown=breakdown(backend.ledger, asked, each.feed, period.span, LINES, whose))
            for each in found
            if each.feed.sink == asked.query.get("sink")
        ]
    values = {
        "whose": whose,
        "name": backend.ledger.customers.names([whose]).get(whose),
        "period": period,
        "found": [each for each in found if any(each.usage)],
        "nothing": [each.feed.meter for each in found if not any(each.usage)],
        "figures": _figures(each.usage for each in found),
        "apart": [name for name in APART if any(getattr(each.usage, name) for each in found)],
        "waiting": backend.ledger.parked.waiting(Choice(customer=whose), LINES),
        "live": live,
        "by": by,
        "can_ask": backend.source_of is not None,
        "now": asked.now,
    }
    return Page("statement.html" if asked.query.get("statement") else "customer.html", values)


def _used(
    backend: Backend, whose: str, span: Span, now: dt.datetime, *, live: bool, meter: str | None = None
) -> Iterator[MeterUsage]:
    """Yield what a customer used of each meter, or of one, for each sink."""
    question = Question(span, now, By.DAY, meter, whose)
    report = backend.ledger.usage
    if not report.feeds(meter, span):
        return
    with ExitStack() as stack:
        source_of = backend.source_of if live else None
        for each in islice(
            ask(report, question, backend.config.meters, stack, source_of), MOST_FEEDS_OF_A_CUSTOMER
        ):
            lines = list(each.lines.all())
            usage = each.sum.total
            if not each.sum.adds_up:
                usage = sum_of(line.usage for line in report.lines(each.feed, span, customer=whose))
            yield MeterUsage(each.feed, usage, _by_day(lines, span, now, each.feed.meter), each.notes)


def _by_day(lines: Iterable[Line], span: Span, now: dt.datetime, what: str) -> Chart | None:
    found = {line.start: line.usage for line in lines}
    if not found:
        return None
    days = [span.start + DAY * number for number in range((span.end - span.start) // DAY)]
    points = [
        Point(day, found.get(day, Usage()).used, found.get(day, Usage()).billed) for day in days if day <= now
    ]
    return chart(points, f"{what} by day", "%d %b")


def events(backend: Backend, asked: Asked) -> Page:
    """Show what waits for a person, grouped as it was asked for, with what can be done about it."""
    query = asked.query
    state = query.get("state") if query.get("state") in ("held", "refused", "in_doubt") else None
    choice = Choice(
        meter=query.get("meter") or None,
        state=state,
        customer=query.get("customer") or None,
        dismissed=bool(query.get("dismissed")),
    )
    parked = backend.ledger.parked
    found = parked.waiting(choice, LINES + 1)
    values = {
        "rows": found[:LINES],
        "more": len(found) > LINES,
        "choice": choice,
        "moves": parked.moved(LINES, choice.meter),
        "decided": backend.ledger.decisions.about(each.event for each in found[:LINES]),
        "decisions": backend.ledger.decisions.latest(MOST_DECISIONS),
        "meters": sorted({row.meter for row in backend.ledger.reports.status()}),
        "done": query.get("done", "")[:500],
        "now": asked.now,
    }
    return Page("events.html", values)


def files(backend: Backend, asked: Asked) -> Page:
    """Show files that a person must upload, then those that were written lately."""
    uploads = backend.ledger.uploads
    waiting = uploads.listed(sink=None, unconfirmed=True, limit=MOST_FILES)
    names = {row.name for row in waiting}
    others = [row for row in uploads.listed(sink=None, unconfirmed=False, limit=50) if row.name not in names]
    values = {
        "waiting": [row for row in waiting if row.name],
        "others": [row for row in others if row.name],
        "done": asked.query.get("done", "")[:500],
        "now": asked.now,
    }
    return Page("files.html", values)


def runs(backend: Backend, asked: Asked) -> Page:
    """Show what passes and deliveries did lately, and what waits with the way to try again."""
    name, failed = asked.query.get("meter") or None, bool(asked.query.get("failed"))
    meters = backend.ledger.records.meters()
    if name is not None and name not in meters:
        raise Refused(404, f"there is no meter {name[:100]} in the ledger")
    found = backend.ledger.records.history(WantedRuns(name, MOST_RUNS, LONG_AGO, failed), asked.now)
    values = {"found": found, "meters": meters, "meter": name, "failed": failed}
    return Page("runs.html", values)


def configuration(backend: Backend, asked: Asked) -> Page:
    """Show the settings of the meters that are in force, what they changed, and what the files say that is not."""
    in_force, before = backend.ledger.configurations.latest()
    here = settings_of(backend.config.meters)
    values = {
        "in_force": in_force,
        "changed": changed_configuration(before.meters, in_force.meters, before.blocks, in_force.blocks)
        if in_force and before
        else [],
        "not_yet": changed_configuration(in_force.meters, here, in_force.blocks, blocks_of(backend.config))
        if in_force
        else [],
        "since": backend.ledger.configurations.defined_since(),
        "meters": sorted((in_force.meters if in_force else here).items()),
        "now": asked.now,
    }
    return Page("configuration.html", values)


VIEWS: dict[str, View] = {
    "/": overview,
    "/meters/{meter}": meter,
    "/meters/{meter}/{start}": window,
    "/customers": customers,
    "/customers/{customer:path}": customer,
    "/events": events,
    "/explain": explanation,
    "/reconciliation": reconciliation,
    "/runs": runs,
    "/files": files,
    "/configuration": configuration,
}
"""Each page by its address."""


def _feed(backend: Backend, meter: str, sink: str, span: Span) -> UsageFeed:
    found = [feed for feed in backend.ledger.usage.feeds(meter, span) if feed.sink == sink]
    if not found:
        raise Refused(404, f"{meter[:100]} does not feed {sink[:100]}")
    return found[0]


def _page(asked: Asked, rows: list[Row], size: int) -> tuple[list[Row], bool]:
    first = (number_of(asked) - 1) * size
    return rows[first : first + size], len(rows) > first + size


def _figures(usages: Iterable[Usage]) -> list[str]:
    """Return which figures a table shows: what is zero on every line is left out."""
    found = {name for usage in usages for name, amount in zip(Usage._fields, usage, strict=True) if amount}
    return [name for name in Usage._fields if name in found | {"used", "billed"}]
