"""What the daemon does besides: it hears what sinks tell by themselves, and looks after cancellations.

Rules
- Each is a loop body of another module, repeated, and said in one line. One sink's trouble is that sink's.
- That a sink does not let itself be asked is said once, until it does again.
"""

import threading
from collections.abc import Callable
from datetime import UTC, timedelta

from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.interval import IntervalTrigger

from aggregator.daemon.readiness import Readiness
from aggregator.daemon.reporting import report_refused, report_round, report_taken
from aggregator.daemon.webhook import Address, Web
from aggregator.errors import AggregatorError, ClocksApart
from aggregator.reconciliation.canceller import Canceller
from aggregator.reconciliation.notification_poller import NotificationPoller
from aggregator.runtime import log
from aggregator.runtime.clock import Clock, monotonic
from aggregator.wiring.app import App

CANCEL_EVERY = timedelta(minutes=1)

SINKS = "sinks"
"""Whose threads talk to sinks: others than those that read meters, which are few."""


class Listening:
    """One App's ears. `clock` is this host's wall clock, by which alarms are set.

    `address` is where deliveries come in, None if nothing is to reach us.
    """

    def __init__(
        self, app: App, clock: Clock, address: Address | None, readiness: Readiness | None = None
    ) -> None:
        self._app = app
        self._clock = clock
        self._pollers = {sink: app.notification_poller(sink) for sink in app.notification_sinks}
        self._cancelling = {
            sink: app.cancelling(sink) for sink in app.notification_sinks if sink in app.sink_ids
        }
        self._refused: dict[str, dict[str, str]] = {sink: {} for sink in self._pollers}
        self._log = log.logger()
        self._stopping = threading.Event()
        self._idle = threading.Condition()
        self._at_work = 0
        self._web = (
            Web(
                address,
                self._pollers,
                app.ledger.notifications,
                app.ledger.instant,
                app.ledger.database.slow,
                readiness,
            )
            if address
            else None
        )

    def start(self, scheduler: BackgroundScheduler) -> None:
        """Begin, by the daemon's clock."""
        for sink, notification_poller in self._pollers.items():
            every = self._app.config.polls(sink)
            if every:
                self._every(scheduler, f"reports {sink}", every, self._hear, sink, notification_poller)
        for sink, cancelling in self._cancelling.items():
            self._every(scheduler, f"cancellations {sink}", CANCEL_EVERY, self._cancel, sink, cancelling)
        if self._web:
            self._web.start()

    def stop(self, until: float) -> None:
        """Begin nothing new, and wait for what is under way."""
        self._stopping.set()
        for notification_poller in self._pollers.values():
            notification_poller.stop()
        for cancelling in self._cancelling.values():
            cancelling.stop()
        if self._web:
            self._web.stop()
        with self._idle:
            self._idle.wait_for(lambda: not self._at_work, max(0.0, until - monotonic()))

    def _every(
        self,
        scheduler: BackgroundScheduler,
        name: str,
        every: timedelta,
        work: Callable[..., None],
        *arguments: object,
    ) -> None:
        trigger = IntervalTrigger(seconds=every.total_seconds(), timezone=UTC)
        scheduler.add_job(
            self._run,
            trigger,
            args=(work, *arguments),
            id=name,
            next_run_time=self._clock(),
            executor=SINKS,
        )

    def _run(self, work: Callable[..., None], sink: str, *arguments: object) -> None:
        """Do one round of something, so that stopping can wait for it, and say what went wrong."""
        with self._idle:
            self._at_work += 1
        try:
            if not self._stopping.is_set():
                work(sink, *arguments)
        except ClocksApart:
            return  # it is said once, of everything
        except AggregatorError as error:
            self._log.error(log.REPORTS_FAILED, sink=sink, reason=str(error))
        except Exception:  # noqa: BLE001 - the outermost loop: one sink's bug must not end the others
            self._log.exception(log.UNEXPECTED, sink=sink)
        finally:
            with self._idle:
                self._at_work -= 1
                self._idle.notify_all()

    def _hear(self, sink: str, notification_poller: NotificationPoller) -> None:
        """Ask a sink what it tells, and say what came of it."""
        while not self._stopping.is_set():
            taken = notification_poller.run_once(self._app.ledger.instant())
            report_taken(self._log, sink, taken)
            report_refused(self._log, sink, taken, self._refused[sink])
            if not taken.more:
                return

    def _cancel(self, sink: str, cancelling: Canceller) -> None:
        """Look after a sink's cancellations, and say what came of it."""
        report_round(self._log, sink, cancelling.run_once(self._app.ledger.now()))
