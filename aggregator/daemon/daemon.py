"""The daemon: an alarm clock per meter, delivery lanes per sink, and signals. It decides nothing about money.

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
import queue
import signal
import threading
import types
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import NamedTuple

from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.jobstores.base import JobLookupError
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.base import BaseTrigger
from apscheduler.triggers.combining import OrTrigger
from apscheduler.triggers.cron import CronTrigger
from apscheduler.triggers.interval import IntervalTrigger

from aggregator.collection.collector import Collected, Collector
from aggregator.config import Meter, cron
from aggregator.daemon.halted_sink import Halt
from aggregator.daemon.jobs import SINKS, Listening
from aggregator.daemon.readiness import Readiness
from aggregator.daemon.watchdog import Watching, report_set_back
from aggregator.daemon.webhook import Address
from aggregator.delivery.sender import Delivered
from aggregator.errors import (
    AggregatorError,
    ClocksApart,
    InvariantBroken,
    LeaseLost,
    LedgerError,
    LedgerStopped,
)
from aggregator.reconciliation.reconciler import Reconciled, Reconciler
from aggregator.runtime import log
from aggregator.runtime.clock import Clock, monotonic
from aggregator.wiring.app import App, not_sent

WORKERS = 3
"""Batches of one sink in the air at once: while one is being claimed or settled, the others keep the sink busy."""

IDLE_SECONDS = 1.0
"""How soon delivery notices what other processes planned. Our own plans wake it at once."""

RECONCILE_SECONDS = 60.0
"""How often a sink is read back for what is in doubt. None of that is urgent: it waits for a day in any case."""

RETRY_SECONDS = 5.0
"""How long a lane waits after the ledger did not answer, or the sink took nothing of a whole batch."""

LISTEN_SECONDS = 0.5
"""How long a signal may go unheard that reached another thread than the main one."""

STOP_SECONDS = 20.0
"""How long stopping waits for what is in the air: less than the 30 seconds after which Kubernetes kills."""

MOST_COLLECTIONS = 8
"""Meters collected at the same time. Each holds one connection to its source and one to the ledger."""

JOBS_OF_A_SINK = 3
"""It is read back, heard, and its cancellations are looked after: each by one thread at most, so that a sink that is slow to
answer keeps neither meters nor other sinks waiting."""

SHORTEST_PERIOD = timedelta(seconds=5)
LONGEST_PERIOD = timedelta(minutes=5)

EVER = datetime.max.replace(tzinfo=UTC)
"""By then all is due that is owed."""

Build = Callable[[], AbstractContextManager[App]]


def period(meter: Meter) -> timedelta:
    """Return how often a meter is collected: as configured, else a quarter of its window, within bounds."""
    return meter.every or min(max(meter.window / 4, SHORTEST_PERIOD), LONGEST_PERIOD)


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


def _next(trigger: BaseTrigger, after: datetime) -> datetime | None:
    """Return when a meter that was read at a time is to be read again."""
    due: datetime | None = trigger.get_next_fire_time(after, after)
    return due


def _listed(values: Iterable[int]) -> str:
    return ",".join(map(str, sorted(values)))


class Daemon:
    """Runs until it is told to stop. `build` gives a fresh App from the files as they are then.

    `clock` is this host's wall clock, by which alarms are set; everything else goes by the ledger's. `address` is where
    sinks' messages are delivered to, None for nowhere.
    """

    def __init__(self, build: Build, clock: Clock, address: Address | None = None) -> None:
        self._build = build
        self._address = address
        self._clock = clock
        self._signals: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._log = log.logger()

    def run(self) -> int:
        """Run until SIGTERM or SIGINT; return the signal. Raises what building the first App raises."""
        with self._listening():
            running = self._prepared()
            try:
                running.work.start()
                while (told := self._next_signal()) == signal.SIGHUP:
                    running = self._reloaded(running)
                self._log.info(log.DAEMON_STOPPING, signal=signal.Signals(told).name)
                running.work.stop()
            finally:
                running.parts.close()
            self._log.info(log.DAEMON_STOPPED, signal=signal.Signals(told).name)
            return told

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
        """Return what works from now on: what the files say, or what worked before if that cannot be built."""
        try:
            replacement = self._prepared()
        except Exception as error:  # noqa: BLE001 - whatever is wrong with the new one, the old one works
            if not isinstance(error, AggregatorError):
                self._log.exception(log.UNEXPECTED, part="reload")
            reason = str(error) or type(error).__name__
            self._log.error(log.CONFIG_REFUSED, reason=reason, kept="the configuration that was running")
            return running
        try:
            running.work.stop()
            running.parts.close()
        except Exception:  # noqa: BLE001 - what is given back badly must not keep the new one from working
            self._log.exception(log.UNEXPECTED, part="reload")
        same = replacement.app.config == running.app.config
        told = log.CONFIG_UNCHANGED if same else log.CONFIG_RELOADED
        self._log.info(told, meters=sorted(replacement.app.collections))
        replacement.work.start()
        return replacement

    def _next_signal(self) -> int:
        """Wait for the next signal.

        The system may give a signal to any thread, and only this one runs Python's handlers: one that sleeps for ever would
        never hear of it (docs.python.org/3/library/signal.html, "Signals and threads").
        """
        while True:
            with suppress(queue.Empty):
                return self._signals.get(timeout=LISTEN_SECONDS)

    @contextmanager
    def _listening(self) -> Iterator[None]:
        """Take signals as notes in a queue; afterwards, and for a second signal to stop, the defaults hold."""

        def note(number: int, _frame: types.FrameType | None) -> None:
            if number != signal.SIGHUP:
                signal.signal(number, signal.SIG_DFL)
            self._signals.put(number)

        before = {
            number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class Running(NamedTuple):
    """What works: an App, its work, and how its parts are given back."""

    app: App
    work: "Work"
    parts: ExitStack


class Work:
    """One App at work: the scheduler for its meters, the lanes for its sinks."""

    def __init__(self, app: App, clock: Clock, address: Address | None = None) -> None:
        self._app = app
        self._readiness = Readiness()
        self._listening = Listening(app, clock, address, self._readiness)
        self._clock = clock
        self._stopping = threading.Event()
        self._begun = threading.Event()
        self._wake = {sink: threading.Condition() for sink in app.sink_ids}
        self._reconciliations = {sink: app.reconciliation(sink) for sink in app.sink_ids}
        self._halts = {
            sink: Halt(
                sink,
                self,
                partial(app.resume, sink),
                partial(self._waits, sink),
                self._stopping,
            )
            for sink in app.sink_ids
        }
        self._collecting: set[str] = set()
        self._reported_stop: str | None = None
        self._apart: set[str] = set()
        self._watching = Watching(app.ledger.database, app.ledger.outbox, self._ring, clock)
        self._idle = threading.Condition()
        self._log = log.logger()
        self._scheduler = BackgroundScheduler(
            timezone=UTC,
            executors={
                "default": ThreadPoolExecutor(MOST_COLLECTIONS),
                SINKS: ThreadPoolExecutor(JOBS_OF_A_SINK * max(1, len(app.sinks))),
            },
            job_defaults={"max_instances": 1, "coalesce": True, "misfire_grace_time": None},
        )
        self._workers = [
            threading.Thread(target=self._deliver, args=(sink,), name=f"{sink}-{number}", daemon=True)
            for sink in app.sink_ids
            for number in range(WORKERS)
        ]

    def prepare(self) -> None:
        """Make everything ready, its threads included, and begin nothing yet. What can fail fails here."""
        for name, collection in self._app.collections.items():
            meter = self._app.config.meters[name]
            trigger, now = alarm(meter), self._clock()
            self._readiness.expect(name, self._app.ledger.instant(), partial(_next, trigger))
            self._scheduler.add_job(self._collect, trigger, args=[collection], id=name, next_run_time=now)
        for sink, reconciliation in self._reconciliations.items():
            self._readiness.expect_sink(sink)
            self._scheduler.add_job(
                self._reconcile,
                IntervalTrigger(seconds=RECONCILE_SECONDS, timezone=UTC),
                args=[sink, reconciliation],
                id=f"sink {sink}",
                executor=SINKS,
                next_run_time=self._clock(),
            )
        report_set_back(self._log, self._app.ledger.outbox, self._app.ledger.instant())
        self._listening.start(self._scheduler)
        self._scheduler.start(paused=True)
        for worker in self._workers:
            worker.start()

    def start(self) -> None:
        """Begin: every meter at once, then by its clock; every sink at once, then whenever something is due."""
        self._scheduler.resume()
        self._begun.set()
        self._watching.start()
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
        for collection in self._app.collections.values():
            collection.stop()
        for first_use in self._app.first_uses.values():
            first_use.stop()
        for sink in self._app.sinks.values():
            sink.stop()
        for reconciliation in self._reconciliations.values():
            reconciliation.stop()
        for condition in self._wake.values():
            with condition:
                condition.notify_all()
        for halt in self._halts.values():
            halt.wake()
        for worker in self._workers:
            if worker.ident is not None:
                worker.join(max(0.0, until - monotonic()))
        self._listening.stop(until)
        if self._scheduler.running:
            self._scheduler.shutdown(wait=False)
        with self._idle:
            self._idle.wait_for(lambda: not self._collecting, max(0.0, until - monotonic()))

    def _collect(self, collection: Collector) -> None:
        """Run one round of a meter, so that stopping can wait for it."""
        name = collection.meter.name
        with self._idle:
            self._collecting.add(name)
        self._readiness.began(name, self._app.ledger.instant())
        try:
            self._round(name, collection)
        finally:
            with self._idle:
                self._collecting.discard(name)
                self._idle.notify_all()

    def _round(self, name: str, collection: Collector) -> None:
        """Run one round of a meter and say in one line what it did."""
        failed, stopped = None, False
        try:
            result = collection.run_once(self._app.ledger.now())
        except LeaseLost as error:
            failed = str(error)
            self._log.warning(log.PASS_SKIPPED, meter=name, reason=failed)
        except ClocksApart as error:
            failed = str(error)
            if self._is_news(name):
                self._log.error(log.PASS_FAILED, meter=name, reason=failed)
        except InvariantBroken as error:
            failed, stopped = str(error), True
            self._log.critical(log.METER_STOPPED, meter=name, reason=failed)
            self._scheduler.remove_job(name)
        except LedgerStopped as error:
            failed = str(error)
            self._report_stopped(error)
        except AggregatorError as error:
            failed = str(error)
            self._log.error(log.PASS_FAILED, meter=name, reason=failed)
        except Exception as error:  # noqa: BLE001 - the outermost loop: one meter's bug must not end the others
            failed = type(error).__name__
            self._log.exception(log.UNEXPECTED, meter=name)
        else:
            self._apart.discard(name)
            self._report(result)
            if result.planned:
                self._rouse(collection)
        self._readiness.ended(name, self._app.ledger.instant(), failed, stopped=stopped)

    def _reconcile(self, sink: str, reconciliation: Reconciler) -> None:
        """Read a sink back for what is in doubt, and say what came of it."""
        while not self._stopping.is_set():
            try:
                result = reconciliation.run_once(self._app.ledger.now())
            except ClocksApart:
                return  # it is said, and nothing of this is urgent
            except AggregatorError as error:
                self._log.error(log.RECONCILIATION_FAILED, sink=sink, reason=str(error))
                return
            except Exception:  # noqa: BLE001 - the outermost loop: one sink's bug must not end the others
                self._log.exception(log.UNEXPECTED, sink=sink)
                return
            report_reconciled(self._log, sink, result)
            if not result.more:
                return

    def _report(self, result: Collected) -> None:
        report_warnings(self._log, result)
        if result.busy:
            self._log.debug(log.PASS_SKIPPED, meter=result.meter, reason="another process has the meter")
        elif result.changed or result.deferred or result.moved:
            self._log.info(log.PASS_COMMITTED, **result.figures())
        else:
            self._log.debug(log.PASS_UNCHANGED, **result.figures())

    def _report_stopped(self, error: LedgerStopped) -> None:
        """Say once why the ledger is stopped; everything goes on by itself once it is adopted."""
        self._readiness.ledger_stopped(str(error))
        with self._idle:
            told, self._reported_stop = self._reported_stop, str(error)
        if told != str(error):
            self._log.critical(log.LEDGER_STOPPED, reason=str(error))

    def _is_news(self, name: str) -> bool:
        """Tell whether it was not said yet of a meter that it is not read while the clocks differ."""
        with self._idle:
            told = name in self._apart
            self._apart.add(name)
        return not told

    def _ring(self) -> None:
        """Let every alarm ring now, and count the next ones from here: this host's clock is not what they were set by."""
        for job in self._scheduler.get_jobs():
            with suppress(JobLookupError):  # it is stopped for good
                self._scheduler.modify_job(job.id, next_run_time=self._clock())

    def _rouse(self, collection: Collector) -> None:
        for sink in collection.meter.sinks:
            with self._wake[sink]:
                self._wake[sink].notify_all()

    def _deliver(self, sink: str) -> None:
        """Deliver to a sink for as long as nobody says stop; while it refuses us as a whole, wait until it does not."""
        self._begun.wait()
        delivery, halt = self._app.delivery(sink), self._halts[sink]
        outage = False
        if sink in self._app.refused:
            halt.wait_out(self._app.refused[sink])
        while not self._stopping.is_set():
            try:
                result = delivery.run_once(self._app.ledger.now())
            except LedgerStopped as error:
                self._report_stopped(error)
                self._stopping.wait(RETRY_SECONDS)
                continue
            except ClocksApart:  # it is said once, of all of them
                self._stopping.wait(IDLE_SECONDS)
                continue
            except AggregatorError as error:
                self._log.error(log.DELIVERY_FAILED, sink=sink, reason=str(error))
                self._stopping.wait(RETRY_SECONDS)
                continue
            except Exception:  # noqa: BLE001 - the outermost loop: one sink's bug must not end the others
                self._log.exception(log.UNEXPECTED, sink=sink)
                self._stopping.wait(RETRY_SECONDS)
                continue
            self._tell(sink, result)
            outage = self._report_outage(sink, result, outage=outage)
            if result.halted:
                halt.wait_out(result.halted)
                continue
            if result.accepted:
                halt.took()
            if result.fruitless:
                self._stopping.wait(RETRY_SECONDS)
            elif not result.claimed:
                with self._wake[sink]:
                    self._wake[sink].wait(IDLE_SECONDS)

    def _report_outage(self, sink: str, result: Delivered, *, outage: bool) -> bool:
        """Say once that a sink takes nothing, and once that it does again; return whether it takes nothing."""
        if result.fruitless and not outage:
            self._log.warning(log.DELIVERY_WAITING, sink=sink, reason=result.waits_for)
            return True
        if result.accepted and outage:
            self._log.info(log.DELIVERY_RESUMED, sink=sink)
            return False
        return outage

    def _tell(self, sink: str, result: Delivered) -> None:
        if result.claimed:
            self._log.info(log.BATCH_DELIVERED, sink=sink, **result.figures())
        report_files(self._log, sink, result)
        report_first_uses(self._log, sink, result)
        for event, reason in result.refusals.items():
            self._log.warning(log.EVENT_REFUSED, sink=sink, event_id=event, reason=reason)

    def halted(self, sink: str, reason: str) -> None:
        """Say that a sink refuses us as a whole."""
        self._readiness.halted(sink, reason)
        self._log.critical(log.SINK_HALTED, sink=sink, reason=reason)
        with suppress(LedgerError):
            self._app.ledger.outbox.halt(self._app.sink_ids[sink], reason, self._app.ledger.instant())

    def resumed(self, sink: str) -> None:
        """Say that it does not any more."""
        self._readiness.resumed(sink)
        self._log.info(log.SINK_RESUMED, sink=sink)
        with suppress(LedgerError):
            self._app.ledger.outbox.resume(self._app.sink_ids[sink])

    def _waits(self, sink: str) -> bool:
        """Tell whether anything is to be sent to a sink, now or later: what may not leave shows nothing of it."""
        return self._app.ledger.outbox.more_due(self._app.sink_ids[sink], 0, EVER, self._app.feeds_of(sink))


def report_start(logger: log.Log, app: App, now: datetime) -> None:
    """Say what a person should know of a configuration that begins to work."""
    for unconfigured_meter in app.unconfigured_meters(now):
        logger.warning(log.METER_REMOVED, **unconfigured_meter)
    for waits in app.unconfigured():
        logger.warning(
            log.BACKLOG_UNCONFIGURED,
            meter=waits.meter,
            sink=waits.sink,
            events=waits.events,
            units=str(waits.units),
            since=str(waits.since),
            reason=not_sent(app.config, waits),
        )
    for source, faults in app.unsafe_sources().items():
        logger.warning(log.SOURCE_UNSAFE, source=source, reason=" ".join(faults))
    for sink, reason in app.unverified.items():
        if sink in app.refused:
            continue  # it is said by whoever sends to it
        logger.warning(log.SINK_UNVERIFIED, sink=sink, reason=reason)
    for each in app.moved_files():
        logger.error(log.FILES_MOVED, **each.told())
    for sink, sentences in app.unpromised.items():
        for sentence in sentences:
            logger.warning(log.SINK_CANNOT_PROMISE, sink=sink, reason=sentence)


def report_warnings(logger: log.Log, result: Collected) -> None:
    """Say what a person should know of a round of collection: windows that wait, or shrank, or could not be had."""
    if result.took_from:
        logger.warning(log.SESSION_ENDED, meter=result.meter, session=result.took_from)
    if result.waits_anew:
        logger.info(log.BARRIER_WAITING, meter=result.meter, waits_for=result.waits_for)
    if result.unfenced:
        logger.warning(log.BARRIER_GIVEN_UP, meter=result.meter, waited_for=result.waits_for)
    if result.guarded:
        logger.warning(log.SHRINK_HELD, meter=result.meter, windows=result.guarded, held=result.held)
    if result.silent_anew:
        logger.warning(log.METER_SILENT, meter=result.meter, since=str(result.silent_since))
    for reason in result.unstable:
        logger.error(log.QUERY_UNSTABLE, meter=result.meter, reason=reason)
    if result.unread:
        logger.error(log.WINDOW_UNREAD, meter=result.meter, windows=result.unread)
    for reason in result.lost:
        logger.error(log.WINDOWS_LOST, meter=result.meter, reason=reason)


def report_files(logger: log.Log, sink: str, result: Delivered) -> None:
    """Say which files were written."""
    for file in result.files:
        logger.info(log.FILE_WRITTEN, sink=sink, file=file.name, records=file.records, bytes=file.bytes)


def report_first_uses(logger: log.Log, sink: str, result: Delivered) -> None:
    """Say which feeds may send from now on, and which may not."""
    for told in result.first_uses:
        match told.kind:
            case "stopped":
                logger.error(log.FEED_STOPPED, sink=sink, meter=told.meter, reason=told.text)
            case "waiting":
                logger.warning(log.FEED_WAITING, sink=sink, meter=told.meter, reason=told.text)
            case _:
                logger.info(log.FEED_CLEARED, sink=sink, meter=told.meter, reason=told.text)


def report_reconciled(logger: log.Log, sink: str, result: Reconciled) -> None:
    """Say what reading a sink back has settled, and what it could not."""
    for reason in result.unsettled:
        logger.warning(log.EVENT_UNCLEAR, sink=sink, reason=reason)
    if result.figures():
        logger.info(log.RECONCILED, sink=sink, **result.figures())
