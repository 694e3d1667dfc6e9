"""What is done again and again: one table of jobs, walked by the daemon and by `run --once` alike.

Rules
- A row says of what there is such a job, who does it, a round of what it is, when it is due, and how its result is reported.
  Neither shell knows more of a job, so a new job is a new row.
- Jobs of the same things stand together. `run --once` goes from thing to thing, and does all of its jobs in this order: what
  bills first, then what compares and sums up, each for so long only that whoever runs it by cron does not notice.
- Each round is `run_once(now)` of some other module. One meter's or sink's trouble is its own.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import Any, Generic, Protocol, TypeVar

from apscheduler.triggers.base import BaseTrigger
from apscheduler.triggers.combining import OrTrigger
from apscheduler.triggers.cron import CronTrigger
from apscheduler.triggers.interval import IntervalTrigger

from aggregator.collection.glance import Glance
from aggregator.config import Meter, cron
from aggregator.config.sampling import period as period_of
from aggregator.core.counts import Counts
from aggregator.daemon.reporting import (
    Reporter,
    report_archived,
    report_cancelled,
    report_checked,
    report_collected,
    report_customers,
    report_delivered,
    report_health,
    report_notifications,
    report_reconciled,
)
from aggregator.delivery.sender import Delivered, drain
from aggregator.reconciliation.checker import Checked
from aggregator.runtime import log
from aggregator.runtime.clock import monotonic
from aggregator.wiring.app import App

METERS = "default"
SINKS = "sinks"
"""Whose threads talk to sinks: others than those that read meters, which are few."""

SENDING = "sending"
"""Threads of their own, which send to a sink for as long as anything is due to it."""

WORKERS = 3
"""Batches of one sink in the air at once: while one is being claimed or settled, the others keep the sink busy."""

RECONCILE_EVERY = timedelta(minutes=1)
"""How often a sink is read back for what is in doubt. None of that is urgent: it waits for a day in any case."""

CHECK_EVERY = timedelta(minutes=1)
"""How often it is looked for what is to be compared with a sink's totals: what there is goes on without a pause."""

CHECK_SECONDS, CHECKED_AT_ONCE = 15.0, 100
"""How long `run --once` goes on with that for a sink, and for how many customers at once: at the pace of a sink that takes
twenty reads a second, those are five seconds. It comes after sending, so that nothing that is to be billed waits for it."""

SUM_UP_EVERY = timedelta(minutes=5)
"""How often it is looked for days whose usage is summed up by customer. Without that a page and the API are only slower."""

HEALTH_EVERY = timedelta(minutes=1)
"""How often a sink is asked whether its totals are late: as often as it is judged by them."""

CANCEL_EVERY = timedelta(minutes=1)

ARCHIVE_EVERY = timedelta(hours=1)
ARCHIVE_SECONDS = 30.0
"""How long `run --once` goes on with a month that leaves the ledger; the next run goes on with it."""

Result = TypeVar("Result", bound=Counts)
Result_co = TypeVar("Result_co", bound=Counts, covariant=True)


class Body(Protocol[Result_co]):
    """What a job repeats."""

    def run_once(self, now: datetime) -> Result_co:
        """Do one round, and return what it came to."""
        ...

    def stop(self) -> None:
        """Begin nothing more; a round that is under way comes to its end."""
        ...


@dataclass(frozen=True, slots=True)
class Job(Generic[Result]):
    """One row of the table."""

    name: str
    kind: str
    """What it is done for, as a line of the log calls it: a meter, or a sink."""
    things: Callable[[App], Iterable[str]]
    """For which of those."""
    pool: str
    """Whose threads do it."""
    due: Callable[[App, str], BaseTrigger | None] | None
    """What wakes it, of those for whom it is done at all; None for what is done for as long as anything is owed."""
    body: Callable[[App, str], Body[Result]]
    """What it repeats."""
    report: Callable[[Reporter, Result], None]
    failed: str
    """The event of the log that says that a round failed."""
    answers: str | None = None
    """Where `run --once --json` has its figures. A job without them can wait: that it failed is no failure of the pass."""
    heeds_clock: bool = True
    """Whether it is left alone while this host's clock differs from the ledger's."""
    beside: int = 1
    """How many of it the daemon has beside each other."""
    once: Callable[[App, str], Body[Result]] | None = None
    """What stands for its body in `run --once`, if another does."""
    glances: Callable[[App], Mapping[str, Glance]] = lambda _: {}
    """What first looks whether there is anything to do, for several at once."""


@dataclass(frozen=True, slots=True)
class Task:
    """A job of one meter or sink."""

    job: Job[Any]
    of: str
    app: App
    trigger: BaseTrigger | None
    body: Body[Any]
    reporter: Reporter
    glance: Glance | None = None
    """What first looks whether there is anything to do at all."""

    @property
    def name(self) -> str:
        """What no other task is called."""
        return f"{self.job.name} {self.of}"

    @property
    def whose(self) -> dict[str, str]:
        """Whose it is, for the log."""
        return {self.job.kind: self.of}

    def round(self) -> Any:
        """Do one round, report it, and return what it came to. Raises what the body raises."""
        ledger = self.app.ledger
        result = self.glance.unchanged(self.of) if self.glance is not None else None
        if result is None:
            result = self.body.run_once(ledger.now() if self.job.heeds_clock else ledger.instant())
        self.job.report(self.reporter, result)
        return result


def tasks(app: App, *, once: bool = False) -> list[Task]:
    """Return every job of every meter and sink, in the order in which one pass does them."""
    found = []
    for things, jobs in groupby(JOBS, key=lambda job: job.things):
        rows = [(job, job.glances(app)) for job in jobs]
        for of in sorted(things(app)):
            found += [
                task for job, looks in rows for task in _tasks_of(job, app, of, looks.get(of), once=once)
            ]
    return found


def _tasks_of(job: Job[Any], app: App, of: str, glance: Glance | None, *, once: bool) -> Iterator[Task]:
    trigger = job.due and job.due(app, of)
    if job.due is not None and trigger is None:
        return
    body = (job.once if once else None) or job.body
    for _ in range(1 if once else job.beside):
        yield Task(job, of, app, trigger, body(app, of), Reporter(of, log.logger(), once=once), glance)


def glances(app: App) -> dict[str, Glance]:
    """Return, by meter, what looks at it: meters of one source whose alarms ring together are looked at together."""
    together: dict[tuple[str, timedelta | None, str | None], list[str]] = {}
    for meter in sorted(app.collections):
        configured = app.config.meters[meter]
        rings = None if configured.cron else period(configured)
        together.setdefault((configured.source, rings, configured.cron), []).append(meter)
    return {meter: glance for these in together.values() for glance in [app.glance(these)] for meter in these}


def waiting(app: App, sink: str) -> tuple[datetime | None, int]:
    """Return when something is due to a sink next, and how many events wait."""
    return app.ledger.outbox.waiting(app.sink_ids[sink], app.feeds_of(sink))


class Drained:
    """Sends all that is due to a sink, with as many workers as the daemon has, and counts what is left for later."""

    def __init__(self, app: App, sink: str, progress: Callable[[Delivered], None] = lambda _: None) -> None:
        self._app = app
        self._sink = sink
        self._progress = progress
        self._workers = [app.delivery(sink, at_once=True) for _ in range(WORKERS)]

    def run_once(self, _now: datetime) -> Delivered:
        """Deliver until nothing is due any more."""
        whole = drain(self._workers, self._app.ledger.now, self._progress)
        whole.next_at, whole.waiting = waiting(self._app, self._sink)
        return whole

    def stop(self) -> None:
        """Let nothing more leave."""
        for worker in self._workers:
            worker.stop()


class CheckedForAWhile:
    """Compares what is due at a sink, a few customers at a time, until a while is over: whoever runs once is to end soon."""

    def __init__(self, app: App, sink: str, elapsed: Callable[[], float] = monotonic) -> None:
        self._checker = app.checking(sink, at_once=CHECKED_AT_ONCE)
        self._elapsed = elapsed

    def run_once(self, now: datetime) -> Checked:
        """Compare until nothing more is due, or the time is over; what is left is compared the next time."""
        began = self._elapsed()
        whole = self._checker.run_once(now)
        while whole.more and self._elapsed() - began < CHECK_SECONDS:
            whole.add(self._checker.run_once(now))
        return whole

    def stop(self) -> None:
        """Ask nothing more."""
        self._checker.stop()


def every(period: timedelta | None) -> BaseTrigger | None:
    """Return what wakes a job each time so much has passed; None for what is not done, such as each zero seconds."""
    return IntervalTrigger(seconds=period.total_seconds(), timezone=UTC) if period else None


def period(meter: Meter) -> timedelta:
    """Return how often a meter is collected: as configured, else a quarter of its window, within bounds."""
    return meter.every or period_of(None, meter.window)


def alarm(meter: Meter) -> BaseTrigger:
    """Return what wakes a meter.

    APScheduler counts Monday as 0, and takes the two kinds of day together where cron takes either; so it is given lists,
    and weekdays by name.
    """
    if meter.cron is None:
        return IntervalTrigger(seconds=period(meter).total_seconds(), timezone=UTC)
    line = cron.parse(meter.cron)
    return OrTrigger(
        [
            CronTrigger(
                minute=_listed(line.minutes),
                hour=_listed(line.hours),
                day=_listed(days.days),
                month=_listed(days.months),
                day_of_week=",".join(cron.WEEKDAYS[day] for day in sorted(days.weekdays)),
                timezone=UTC,
            )
            for days in line.days
        ]
    )


def _listed(values: Iterable[int]) -> str:
    return ",".join(map(str, sorted(values)))


def mappings(app: App) -> Iterable[str]:
    """Return the mappings of customers that are read."""
    return app.config.customers


def meters(app: App) -> Iterable[str]:
    """Return the meters that are read."""
    return app.collections


def polled_sinks(app: App) -> Iterable[str]:
    """Return the sinks that tell something by themselves."""
    return app.notification_sinks


def fed_sinks(app: App) -> Iterable[str]:
    """Return the sinks that meters feed."""
    return app.sink_ids


def archived_ledgers(app: App) -> Iterable[str]:
    """Return the ledger, if months leave it."""
    return () if app.config.ledger.keep is None else ("ledger",)


JOBS: tuple[Job[Any], ...] = (
    Job(
        "customers",
        "mapping",
        mappings,
        SINKS,
        due=lambda app, mapping: every(app.config.customers[mapping].every),
        body=lambda app, mapping: app.mapping(mapping),
        report=report_customers,
        failed=log.CUSTOMERS_FAILED,
    ),
    Job(
        "collect",
        "meter",
        meters,
        METERS,
        due=lambda app, meter: alarm(app.config.meters[meter]),
        body=lambda app, meter: app.collections[meter],
        report=report_collected,
        failed=log.PASS_FAILED,
        answers="meters",
        glances=glances,
    ),
    Job(
        "health",
        "sink",
        polled_sinks,
        SINKS,
        due=lambda app, sink: every(HEALTH_EVERY) if app.config.polls(sink) else None,
        body=lambda app, sink: app.health_poller(sink),
        report=report_health,
        failed=log.REPORTS_FAILED,
        heeds_clock=False,
    ),
    Job(
        "reports",
        "sink",
        polled_sinks,
        SINKS,
        due=lambda app, sink: every(app.config.polls(sink)),
        body=lambda app, sink: app.notification_poller(sink),
        report=report_notifications,
        failed=log.REPORTS_FAILED,
        heeds_clock=False,
    ),
    Job(
        "cancellations",
        "sink",
        polled_sinks,
        SINKS,
        due=lambda app, sink: every(CANCEL_EVERY) if sink in app.sink_ids else None,
        body=lambda app, sink: app.cancelling(sink),
        report=report_cancelled,
        failed=log.REPORTS_FAILED,
    ),
    Job(
        "reconcile",
        "sink",
        fed_sinks,
        SINKS,
        due=lambda _app, _sink: every(RECONCILE_EVERY),
        body=lambda app, sink: app.reconciliation(sink),
        report=report_reconciled,
        failed=log.RECONCILIATION_FAILED,
    ),
    Job(
        "deliver",
        "sink",
        fed_sinks,
        SENDING,
        due=None,
        body=lambda app, sink: app.delivery(sink),
        report=report_delivered,
        failed=log.DELIVERY_FAILED,
        answers="sinks",
        beside=WORKERS,
        once=Drained,
    ),
    Job(
        "check",
        "sink",
        fed_sinks,
        SINKS,
        due=lambda _app, _sink: every(CHECK_EVERY),
        body=lambda app, sink: app.checking(sink),
        once=CheckedForAWhile,
        report=report_checked,
        failed=log.CHECK_FAILED,
    ),
    Job(
        "sum up",
        "sink",
        fed_sinks,
        SINKS,
        due=lambda _app, _sink: every(SUM_UP_EVERY),
        body=lambda app, sink: app.summing_up(sink),
        report=lambda _reporter, _result: None,
        failed=log.SUMMING_UP_FAILED,
        heeds_clock=False,
    ),
    Job(
        "archive",
        "ledger",
        archived_ledgers,
        METERS,
        due=lambda _app, _ledger: every(ARCHIVE_EVERY),
        body=lambda app, _ledger: app.archiving(),
        once=lambda app, _ledger: app.archiving(ARCHIVE_SECONDS),
        report=report_archived,
        failed=log.ARCHIVE_FAILED,
    ),
)
