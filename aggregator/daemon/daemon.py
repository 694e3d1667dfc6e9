"""The daemon: an alarm clock per meter, workers per sink, and signals. It decides nothing about money.

Rules
- The alarm clock only wakes us; what is due is computed anew each time. A late or missed wake-up is a delay, so no grace
  is set, and several missed ones count as one.
- Each loop body is `run_once(now)` of some other module; here it is repeated, and its result is logged in one line.
- SIGTERM and SIGINT: begin nothing new, wait for what is in the air, hand back what is held, and end by the same signal.
- SIGHUP: build everything anew from the files, threads and alarms included. If that fails, however, the old configuration
  goes on.
- A sink that refuses us as a whole is asked from time to time, and comes back by itself.
- One meter's trouble stops that meter, one sink's trouble that sink. Only a ledger that is not what it was stops everything.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.jobstores.base import JobLookupError
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.base import BaseTrigger

from aggregator.daemon.halted_sink import Halt
from aggregator.daemon.jobs import METERS, SENDING, SINKS, Task, tasks
from aggregator.daemon.outside import outside_of
from aggregator.daemon.reloading import reloaded
from aggregator.daemon.reporting import report_start
from aggregator.daemon.signals import Signals
from aggregator.daemon.wake import Wake
from aggregator.daemon.watchdog import Watching, report_set_back
from aggregator.delivery.sender import Delivered
from aggregator.errors import (
    AggregatorError,
    ClocksApart,
    InvariantBroken,
    LeaseLost,
    LedgerError,
    LedgerStopped,
    SourceError,
    SourceUnreachable,
)
from aggregator.monitoring.readiness import Readiness
from aggregator.runtime import log
from aggregator.runtime.clock import Clock, monotonic
from aggregator.wiring.app import App

if TYPE_CHECKING:
    from aggregator.config import Config
    from aggregator.daemon.webhook import Web
    from aggregator.web.listener import Address

IDLE_SECONDS = 1.0
"""How soon delivery notices what other processes planned. Our own plans wake it at once."""

BESIDE_IDLE_SECONDS = 10.0
"""The same for those that deliver beside the first one of a sink, which wakes them once it has found something: looking
costs more the more meters there are."""

RETRY_SECONDS = 5.0
"""How long a worker waits after the ledger did not answer, or the sink took nothing of a whole batch."""

STOP_SECONDS = 20.0
"""How long stopping waits for what is in the air: less than the 30 seconds after which Kubernetes kills."""

MOST_COLLECTIONS = 8
"""Meters collected at the same time. Each holds one connection to its source and one to the ledger."""

EVER = datetime.max.replace(tzinfo=UTC)
"""By then all is due that is owed."""

Build = Callable[[], AbstractContextManager[App]]


def _next(trigger: BaseTrigger, after: datetime) -> datetime | None:
    """Return when a meter that was read at a time is to be read again."""
    due: datetime | None = trigger.get_next_fire_time(after, after)
    return due


def _with_first(tasks: Iterable[Task]) -> Iterator[tuple[Task, bool]]:
    """Yield tasks, each with whether it is the first of its job for its sink or meter."""
    seen: set[str] = set()
    for task in tasks:
        yield task, task.name not in seen
        seen.add(task.name)


class Daemon:
    """Runs until it is told to stop. `build` gives a fresh App from the files as they are then.

    `clock` is this host's wall clock, by which alarms are set; everything else goes by the ledger's. `address` is where
    sinks' messages are delivered to, None for nowhere.
    """

    def __init__(self, build: Build, clock: Clock, address: "Address | None" = None) -> None:
        self._build = build
        self._address = address
        self._clock = clock
        self._log = log.logger()

    def run(self) -> int:
        """Run until SIGTERM or SIGINT; return the signal. Raises what building the first App raises."""
        with Signals() as signals:
            running = self._prepared()
            try:
                running.work.start()
                while (received := signals.next()) == signal.SIGHUP:
                    running = self._reloaded(running)
                self._log.info(log.DAEMON_STOPPING, signal=signal.Signals(received).name)
                running.work.stop()
            finally:
                running.parts.close()
            self._log.info(log.DAEMON_STOPPED, signal=signal.Signals(received).name)
            return received

    def _prepared(self) -> "Running":
        """Build everything from the files as they are, up to where nothing is left that could fail."""
        with ExitStack() as parts:
            app = parts.enter_context(self._build())
            work = Work(app, self._clock, self._address)
            try:
                report_start(self._log, app, app.ledger.instant())
                work.prepare()
            except BaseException:
                work.stop()
                raise
            return Running(app, work, parts.pop_all())

    def _reloaded(self, running: "Running") -> "Running":
        """Return what works from now on, at work."""
        replacement = reloaded(self._log, self._prepared, running)
        if replacement is not running:
            replacement.work.start()
        return replacement


class Running(NamedTuple):
    """What works: an App, its work, and how its parts are given back."""

    app: App
    work: "Work"
    parts: ExitStack

    @property
    def config(self) -> "Config":
        """By what it works."""
        return self.app.config

    @property
    def meters(self) -> Iterable[str]:
        """The meters that are read."""
        return self.app.collections

    def close(self) -> None:
        """Begin nothing new, wait for what is in the air, and give everything back."""
        self.work.stop()
        self.parts.close()


class Work:
    """One App at work: the scheduler for what is done from time to time, the workers for its sinks."""

    def __init__(self, app: App, clock: Clock, address: "Address | None" = None) -> None:
        self._app = app
        self._clock = clock
        self._readiness = Readiness()
        self._tasks = tasks(app)
        self._takers = (
            {sink: app.notification_poller(sink) for sink in app.notification_sinks} if address else {}
        )
        self._web = self._listener(address) if address else None
        self._outside = outside_of(app, self._readiness)
        self._stopping = threading.Event()
        self._begun = threading.Event()
        self._wake = {sink: Wake() for sink in app.sink_ids}
        self._halts = {
            sink: Halt(
                partial(self._halted, sink),
                partial(self._resumed, sink),
                partial(app.resume, sink),
                partial(self._waits, sink),
                self._stopping,
            )
            for sink in app.sink_ids
        }
        self._at_work = 0
        self._reported_stop: str | None = None
        self._apart: set[str] = set()
        self._watching = Watching(app.ledger.database, app.ledger.outbox, self._ring, clock)
        self._idle = threading.Condition()
        self._log = log.logger()
        self._scheduler = BackgroundScheduler(
            timezone=UTC,
            executors={
                METERS: ThreadPoolExecutor(MOST_COLLECTIONS),
                # a thread each, so that a sink that is slow to answer keeps neither meters nor other sinks waiting
                SINKS: ThreadPoolExecutor(max(1, sum(task.job.pool == SINKS for task in self._tasks))),
            },
            job_defaults={"max_instances": 1, "coalesce": True, "misfire_grace_time": None},
        )
        self._workers = [
            threading.Thread(
                target=self._deliver, args=(task, first), name=f"{task.of}-{number}", daemon=True
            )
            for number, (task, first) in enumerate(_with_first(self._tasks))
            if task.job.pool == SENDING
        ]

    def _listener(self, address: "Address") -> "Web":
        from aggregator.daemon.metrics import metrics_of
        from aggregator.daemon.webhook import Web
        from aggregator.web.serving import Served

        app, ledger = self._app, self._app.ledger
        pages = Served(address, app.config, ledger, app.meter_source)
        return Web(
            address,
            self._takers,
            ledger.notifications,
            ledger.instant,
            ledger.database.slow,
            self._readiness,
            pages,
            scrape=metrics_of(app, self._readiness),
            scrape_token=app.config.monitoring.scrape_token_revealed(),
        )

    def prepare(self) -> None:
        """Make everything ready, its threads included, and begin nothing yet. What can fail fails here."""
        now = self._clock()
        for task in self._tasks:
            if task.trigger is not None:
                self._schedule(task, task.trigger, now)
        for sink in self._app.sink_ids:
            self._readiness.expect_sink(sink)
        report_set_back(self._log, self._app.ledger.outbox, self._app.ledger.instant())
        if self._web:
            self._web.start()
        self._scheduler.start(paused=True)
        for worker in self._workers:
            worker.start()

    def _schedule(self, task: Task, trigger: BaseTrigger, now: datetime) -> None:
        """Let a task be done at once when work begins, and then whenever it is due: those of one period at one instant."""
        pool = task.job.pool
        if pool == METERS:
            self._readiness.expect(task.of, self._app.ledger.instant(), partial(_next, trigger))
        self._scheduler.add_job(
            self._read if pool == METERS else self._ask,
            trigger,
            args=[task],
            id=task.name,
            executor=pool,
            next_run_time=now,
        )

    def start(self) -> None:
        """Begin: every meter at once, then by its clock; every sink at once, then whenever something is due."""
        self._scheduler.resume()
        self._begun.set()
        self._watching.start()
        for each in self._outside:
            each.start()
        self._log.info(
            log.DAEMON_STARTED,
            pid=os.getpid(),
            meters=sorted(self._app.collections),
            sinks=sorted(self._app.sinks),
        )

    def stop(self) -> None:
        """Begin nothing new, wait for what is in the air, and come back."""
        until = monotonic() + STOP_SECONDS
        self._stopping.set()
        self._begun.set()
        self._watching.stop()
        for each in self._outside:
            each.stop()
        for part in (*self._app.first_uses.values(), *self._app.sinks.values()):
            part.stop()
        for body in (*(task.body for task in self._tasks), *self._takers.values()):
            body.stop()
        for wake in self._wake.values():
            wake.call()
        for halt in self._halts.values():
            halt.wake()
        for worker in self._workers:
            if worker.ident is not None:
                worker.join(max(0.0, until - monotonic()))
        if self._web:
            self._web.stop()
        if self._scheduler.running:
            self._scheduler.shutdown(wait=False)
        with self._idle:
            self._idle.wait_for(lambda: not self._at_work, max(0.0, until - monotonic()))

    @contextmanager
    def _waited_for(self) -> Iterator[None]:
        """Let stopping wait for what is done meanwhile."""
        with self._idle:
            self._at_work += 1
        try:
            yield
        finally:
            with self._idle:
                self._at_work -= 1
                self._idle.notify_all()

    def _read(self, task: Task) -> None:
        """Run one round of a meter, and note how it ended."""
        if self._stopping.is_set():
            return
        with self._waited_for():
            self._readiness.began(task.of, self._app.ledger.instant())
            failed, stopped = None, False
            try:
                result = task.round()
            except Exception as error:  # noqa: BLE001 - the outermost loop: one meter's bug must not end the others
                failed, stopped = self._report_failed(task, error), isinstance(error, InvariantBroken)
                if isinstance(error, SourceError):
                    self._reached(task.of, up=not isinstance(error, SourceUnreachable))
            else:
                self._reached(task.of, up=True)
                self._apart.discard(task.of)
                if result.planned:
                    self._rouse(task.of)
            self._readiness.ended(task.of, self._app.ledger.instant(), failed, stopped=stopped)

    def _reached(self, meter: str, *, up: bool) -> None:
        self._readiness.reached(self._app.config.meters[meter].source, up=up)

    def _ask(self, task: Task) -> None:
        """Do rounds of something about a sink for as long as there is more."""
        with self._waited_for():
            try:
                while not self._stopping.is_set() and task.round().more:
                    pass
            except Exception as error:  # noqa: BLE001 - the outermost loop: one sink's bug must not end the others
                self._report_failed(task, error)

    def _report_failed(self, task: Task, error: Exception) -> str:
        """Say why a round failed, and return it."""
        reason, reads = str(error), task.job.pool == METERS
        match error:
            case LeaseLost():
                self._log.warning(log.PASS_SKIPPED, **task.whose, reason=reason)
            case ClocksApart() if not reads or not self._is_news(task.of):
                pass  # it is said once of every meter, and once of everything else
            case InvariantBroken() if reads:
                self._log.critical(log.METER_STOPPED, **task.whose, reason=reason)
                self._scheduler.remove_job(task.name)
            case LedgerStopped():
                self._report_stopped(error)
            case AggregatorError():
                self._log.error(task.job.failed, **task.whose, reason=reason)
            case _:
                self._log.exception(log.UNEXPECTED, **task.whose)
                return type(error).__name__
        return reason

    def _report_stopped(self, error: LedgerStopped) -> None:
        """Say once why the ledger is stopped; everything goes on by itself once it is adopted."""
        self._readiness.ledger_stopped(str(error))
        with self._idle:
            before, self._reported_stop = self._reported_stop, str(error)
        if before != str(error):
            self._log.critical(log.LEDGER_STOPPED, reason=str(error))

    def _is_news(self, name: str) -> bool:
        """Tell whether it was not said yet of a meter that it is not read while the clocks differ."""
        with self._idle:
            known = name in self._apart
            self._apart.add(name)
        return not known

    def _ring(self) -> None:
        """Let every alarm ring now, and count the next ones from here: this host's clock is not what they were set by."""
        now = self._clock()
        for job in self._scheduler.get_jobs():
            with suppress(JobLookupError):  # it is stopped for good
                self._scheduler.modify_job(job.id, next_run_time=now)

    def _rouse(self, meter: str) -> None:
        for sink in self._app.collections[meter].meter.sinks:
            self._wake[sink].call()

    def _deliver(self, task: Task, first: bool) -> None:  # noqa: FBT001 - an argument of a thread
        """Deliver to a sink for as long as nobody says stop; while it refuses us as a whole, wait until it does not."""
        self._begun.wait()
        sink = task.of
        halt, wake, outage = self._halts[sink], self._wake[sink], False
        if sink in self._app.refused:
            halt.wait_out(self._app.refused[sink], 0)
        while True:
            returns, calls = halt.returns, wake.calls
            if self._stopping.is_set():
                return
            try:
                result = task.round()
            except Exception as error:  # noqa: BLE001 - the outermost loop: one sink's bug must not end the others
                self._report_failed(task, error)
                self._stopping.wait(IDLE_SECONDS if isinstance(error, ClocksApart) else RETRY_SECONDS)
                continue
            outage = self._report_outage(sink, result, outage=outage)
            if result.halted:
                halt.wait_out(result.halted, returns)
                continue
            if result.accepted:
                halt.took()
            if result.fruitless:
                self._stopping.wait(RETRY_SECONDS)
            elif not result.claimed:
                wake.wait(calls, IDLE_SECONDS if first else BESIDE_IDLE_SECONDS)
            elif first:
                wake.call()

    def _report_outage(self, sink: str, result: Delivered, *, outage: bool) -> bool:
        """Say once that a sink takes nothing, and once that it does again; return whether it takes nothing."""
        if result.fruitless and not outage:
            self._log.warning(log.DELIVERY_WAITING, sink=sink, reason=result.waits_for)
            return True
        if result.accepted and outage:
            self._log.info(log.DELIVERY_RESUMED, sink=sink)
            return False
        return outage

    def _halted(self, sink: str, reason: str) -> None:
        """Say that a sink refuses us as a whole."""
        self._readiness.halted(sink, reason)
        self._log.critical(log.SINK_HALTED, sink=sink, reason=reason)
        with suppress(LedgerError):
            self._app.ledger.outbox.halt(self._app.sink_ids[sink], reason, self._app.ledger.instant())

    def _resumed(self, sink: str) -> None:
        """Say that it does not any more."""
        self._readiness.resumed(sink)
        self._log.info(log.SINK_RESUMED, sink=sink)
        with suppress(LedgerError):
            self._app.ledger.outbox.resume(self._app.sink_ids[sink])

    def _waits(self, sink: str) -> bool:
        """Tell whether anything is to be sent to a sink, now or later: what may not leave shows nothing of it."""
        return self._app.ledger.outbox.more_due(self._app.sink_ids[sink], 0, EVER, self._app.feeds_of(sink))
