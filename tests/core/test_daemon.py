"""The daemon's threads: a sink that does not answer keeps nobody else waiting."""

import datetime as dt
import threading
from types import SimpleNamespace
from typing import cast

from aggregator.clock import utcnow
from aggregator.collected import Collected
from aggregator.daemon import MOST_COLLECTIONS, Work
from aggregator.intake import Taken
from aggregator.reconciliation import Reconciled
from aggregator.wiring import App

SOON_SECONDS = 20.0
"""Far longer than anything takes here that takes place at all."""

SINKS = [f"stripe_{number}" for number in range(MOST_COLLECTIONS + 1)]


class Slow:
    """A sink that is asked, and gives no answer before it is told to."""

    takes_deliveries = False

    def __init__(self, answered: threading.Event) -> None:
        self.asked = threading.Event()
        self._answered = answered

    def run_once(self, now: dt.datetime) -> Taken:
        """Ask."""
        assert now.tzinfo is not None
        self.asked.set()
        assert self._answered.wait(SOON_SECONDS)
        return Taken()

    def stop(self) -> None:
        """Ask nothing more."""


class Quiet:
    """A sink's figures, which nobody has a question to."""

    def run_once(self, now: dt.datetime) -> Reconciled:
        """Find nothing."""
        assert now.tzinfo is not None
        return Reconciled()

    def stop(self) -> None:
        """Ask nothing more."""


class Counting:
    """A meter that is read, and says how often."""

    meter = SimpleNamespace(name="m", sinks=())

    def __init__(self) -> None:
        self.read = threading.Semaphore(0)

    def run_once(self, now: dt.datetime) -> Collected:
        """Read it."""
        self.read.release()
        return Collected("m", now, busy=False)

    def stop(self) -> None:
        """Read nothing more."""


def test_sinks_that_do_not_answer_keep_no_meter_and_no_other_sink_waiting() -> None:
    """As many as there are threads for meters are asked, and one more: each is asked, and the meter is read meanwhile."""
    answered, counting = threading.Event(), Counting()
    slow = {sink: Slow(answered) for sink in SINKS}
    meter = SimpleNamespace(cron=None, every=dt.timedelta(milliseconds=100))
    app = SimpleNamespace(
        config=SimpleNamespace(meters={"m": meter}, polls=lambda _: dt.timedelta(hours=1)),
        ledger=SimpleNamespace(notices=None),
        sinks=slow,
        sink_ids={},
        hears=dict.fromkeys(SINKS, 1),
        intake=slow.__getitem__,
        reconciliation=lambda _: Quiet(),
        collections={"m": counting},
        strangers=lambda _: [],
        unsafe_sources=dict,
        unverified={},
        elsewhere=list,
        unpromised={},
    )
    work = Work(cast("App", app), utcnow)
    work.start()
    try:
        assert all(each.asked.wait(SOON_SECONDS) for each in slow.values())
        while counting.read.acquire(blocking=False):
            pass
        assert counting.read.acquire(timeout=SOON_SECONDS)
    finally:
        answered.set()
        work.stop()
