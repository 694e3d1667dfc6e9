"""The daemon's threads: a sink that does not answer keeps nobody else waiting."""

import datetime as dt
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import NoReturn, cast

import pytest

from aggregator.clock import utcnow
from aggregator.collected import Collected
from aggregator.daemon import MOST_COLLECTIONS, Daemon, Work
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


def app_with(meter: object, **parts: object) -> App:
    """Return an App of one meter, with nothing behind it but what is given."""
    its = {
        "config": SimpleNamespace(meters={"m": meter}, polls=lambda _: dt.timedelta(hours=1)),
        "ledger": SimpleNamespace(notices=None),
        "sinks": {},
        "sink_ids": {},
        "hears": {},
        "reconciliation": lambda _: Quiet(),
        "collections": {"m": Counting()},
        "strangers": lambda _: [],
        "unsafe_sources": dict,
        "unverified": {},
        "elsewhere": list,
        "unpromised": {},
    }
    return cast("App", SimpleNamespace(**(its | parts)))


OFTEN = SimpleNamespace(cron=None, every=dt.timedelta(milliseconds=100))


def test_sinks_that_do_not_answer_keep_no_meter_and_no_other_sink_waiting() -> None:
    """As many as there are threads for meters are asked, and one more: each is asked, and the meter is read meanwhile."""
    answered, counting = threading.Event(), Counting()
    slow = {sink: Slow(answered) for sink in SINKS}
    app = app_with(
        OFTEN,
        sinks=slow,
        hears=dict.fromkeys(SINKS, 1),
        intake=slow.__getitem__,
        collections={"m": counting},
    )
    work = Work(app, utcnow)
    work.prepare()
    work.start()
    try:
        assert all(each.asked.wait(SOON_SECONDS) for each in slow.values())
        while counting.read.acquire(blocking=False):
            pass
        assert counting.read.acquire(timeout=SOON_SECONDS)
    finally:
        answered.set()
        work.stop()


def broken(*_: object) -> NoReturn:
    """Fail as nobody expects."""
    raise RuntimeError("nobody thought of that")


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(broken, id="reading the files"),
        pytest.param(lambda: app_with(OFTEN, strangers=broken), id="asking the ledger"),
        pytest.param(lambda: app_with(SimpleNamespace(cron="0 0 * * 9", every=None)), id="making an alarm"),
        pytest.param(
            lambda: app_with(OFTEN, sink_ids={"s": 1}, reconciliation=broken), id="making the parts"
        ),
    ],
)
def test_a_reload_that_fails_in_any_way_leaves_what_worked(wrong: Callable[[], App]) -> None:
    """Whatever is raised, and wherever: the meters that were read go on being read, and the next reload can succeed."""
    counting = Counting()
    good = app_with(OFTEN, collections={"m": counting})
    apps: list[Callable[[], App]] = [lambda: good, wrong, lambda: app_with(OFTEN)]

    @contextmanager
    def build() -> Iterator[App]:
        yield apps.pop(0)()

    daemon = Daemon(build, utcnow)
    running = daemon._prepared()
    running.work.start()
    same = daemon._reloaded(running)
    try:
        assert same is running
        while counting.read.acquire(blocking=False):
            pass
        assert counting.read.acquire(timeout=SOON_SECONDS)
    finally:
        after = daemon._reloaded(same)
        after.work.stop()
    assert after.app is not good
