"""The daemon's threads: a sink that does not answer keeps nobody else waiting."""

import datetime as dt
import io
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import NoReturn, cast

import pytest

from aggregator.collection.rounds import Collected
from aggregator.config import Ledger
from aggregator.config.monitoring import Monitoring
from aggregator.daemon import daemon
from aggregator.daemon.daemon import MOST_COLLECTIONS, Daemon, Work
from aggregator.delivery.sender import Delivered
from aggregator.errors import ClocksApart
from aggregator.reconciliation.canceller import Round
from aggregator.reconciliation.checker import Checked
from aggregator.reconciliation.notification_poller import Taken
from aggregator.reconciliation.reconciler import Reconciled
from aggregator.runtime import log
from aggregator.runtime.clock import Clock, utcnow
from aggregator.wiring.app import App

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


class Unasked:
    """A sink of which everything was compared."""

    def run_once(self, now: dt.datetime) -> Checked:
        """Compare nothing."""
        assert now.tzinfo is not None
        return Checked()

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


class Rounds:
    """A loop body that counts its rounds, and does nothing."""

    def __init__(self, counting: Counting, result: Callable[[], object]) -> None:
        self._counting = counting
        self._result = result

    def run_once(self, now: dt.datetime) -> object:
        """Do nothing."""
        self._counting.run_once(now)
        return self._result()

    def stop(self) -> None:
        """Go on doing nothing."""


class InTime:
    """A ledger that answers at once, whose clock may differ from this host's."""

    notifications = None

    def __init__(self) -> None:
        self.apart: str | None = None
        self.refused = threading.Semaphore(0)
        self.database = self.outbox = self

    def now(self) -> dt.datetime:
        """Return the present instant, if the clocks agree."""
        if self.apart is not None:
            self.refused.release()
            raise ClocksApart(self.apart)
        return utcnow()

    def instant(self) -> dt.datetime:
        """Return the present instant."""
        return utcnow()

    def clocks_apart(self) -> str | None:
        """Say whether the clocks agree."""
        return self.apart

    def look_for_waits(self) -> None:
        """Find none."""

    def slow(self) -> str | None:
        """Take no time."""
        return None

    def clock_set_back(self, now: dt.datetime) -> str | None:
        """Go forward."""
        assert now.tzinfo is not None
        return None


def app_with(meter: object, **parts: object) -> App:
    """Return an App of one meter, with nothing behind it but what is given."""
    its = {
        "config": SimpleNamespace(
            ledger=Ledger(),
            meters={"m": meter},
            customers={},
            polls=lambda _: dt.timedelta(hours=1),
            monitoring=Monitoring(),
        ),
        "ledger": InTime(),
        "first_uses": {},
        "sinks": {},
        "sink_ids": {},
        "notification_sinks": {},
        "reconciliation": lambda _: Quiet(),
        "checking": lambda _, **__: Unasked(),
        "health_poller": lambda _: Quiet(),
        "summing_up": lambda _: Quiet(),
        "collections": {"m": Counting()},
        "glance": lambda _: SimpleNamespace(unchanged=lambda _: None),
        "unconfigured_meters": lambda _: [],
        "unconfigured": list,
        "unsafe_sources": dict,
        "refused_sources": dict,
        "limited_sources": dict,
        "unverified": {},
        "moved_files": list,
        "unpromised": {},
    }
    return cast("App", SimpleNamespace(**(its | parts)))


OFTEN = SimpleNamespace(source="app", cron=None, every=dt.timedelta(milliseconds=100))


@pytest.fixture
def said() -> io.StringIO:
    """What is logged."""
    stream = io.StringIO()
    log.configure(stream=stream)
    return stream


@contextmanager
def at_work(app: App, clock: Clock = utcnow) -> Iterator[Work]:
    """Let an App work, and stop it at the end."""
    work = Work(app, clock)
    work.prepare()
    work.start()
    try:
        yield work
    finally:
        work.stop()


def test_sinks_that_do_not_answer_keep_no_meter_and_no_other_sink_waiting() -> None:
    """As many as there are threads for meters are asked, and one more: each is asked, and the meter is read meanwhile."""
    answered, counting = threading.Event(), Counting()
    slow = {sink: Slow(answered) for sink in SINKS}
    app = app_with(
        OFTEN,
        sinks=slow,
        notification_sinks=dict.fromkeys(SINKS, 1),
        notification_poller=slow.__getitem__,
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


class Lane:
    """One of those that deliver to a sink: it says when it looks, and finds what is put there for it."""

    def __init__(self) -> None:
        self.looked = threading.Semaphore(0)
        self.finds = 0

    def run_once(self, now: dt.datetime) -> Delivered:
        """Look, and send what is found."""
        assert now.tzinfo is not None
        found, self.finds = self.finds, 0
        self.looked.release()
        return Delivered(claimed=found, accepted=found)

    def stop(self) -> None:
        """Send nothing more."""


def test_what_the_first_lane_of_a_sink_finds_wakes_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """They do not look by themselves each second, since that costs something for each meter."""
    monkeypatch.setattr(daemon, "BESIDE_IDLE_SECONDS", 1_000.0)
    lanes: list[Lane] = []

    def delivery(_: str) -> Lane:
        lanes.append(Lane())
        return lanes[-1]

    app = app_with(OFTEN, sink_ids={"s": 1}, refused={}, resume=broken, delivery=delivery)
    with at_work(app):
        first, *others = lanes
        assert all(lane.looked.acquire(timeout=SOON_SECONDS) for lane in lanes)
        assert first.looked.acquire(timeout=SOON_SECONDS), "it looks each second"
        assert not any(lane.looked.acquire(blocking=False) for lane in others)
        first.finds = 1
        assert all(lane.looked.acquire(timeout=SOON_SECONDS) for lane in others)


class Busy(Lane):
    """One that is at work until it is told to go on."""

    def __init__(self) -> None:
        super().__init__()
        self.go_on = threading.Semaphore(0)

    def run_once(self, now: dt.datetime) -> Delivered:
        """Look, and take long to find nothing."""
        result = super().run_once(now)
        assert self.go_on.acquire(timeout=SOON_SECONDS)
        return result


@pytest.mark.parametrize("stops", [False, True], ids=["a meter has planned something", "the daemon stops"])
def test_a_call_that_comes_while_a_lane_is_at_work_is_heard(
    monkeypatch: pytest.MonkeyPatch, *, stops: bool
) -> None:
    """It looks again at once, or ends, where it would wait for the next call: nobody calls twice."""
    monkeypatch.setattr(daemon, "IDLE_SECONDS", 1_000.0)
    monkeypatch.setattr(daemon, "BESIDE_IDLE_SECONDS", 1_000.0)
    lanes: list[Busy] = []

    def delivery(_: str) -> Busy:
        lanes.append(Busy())
        return lanes[-1]

    meter = Counting()
    meter.meter = SimpleNamespace(name="m", sinks=("s",))
    seldom = SimpleNamespace(source="app", cron=None, every=dt.timedelta(hours=1))
    of_sink = {"sink_ids": {"s": 1}, "refused": {}, "resume": broken, "delivery": delivery}
    work = Work(app_with(seldom, collections={"m": meter}, **of_sink), utcnow)
    work.prepare()
    work.start()
    stopping = threading.Thread(target=work.stop)
    try:
        assert all(lane.looked.acquire(timeout=SOON_SECONDS) for lane in lanes)
        if not stops:
            work._rouse("m")
            for lane in lanes:
                lane.go_on.release()
            assert all(lane.looked.acquire(timeout=SOON_SECONDS) for lane in lanes)
        calls = work._wake["s"].calls
        stopping.start()
        assert work._wake["s"].wait(calls, SOON_SECONDS), "it calls everybody"
        for lane in lanes:
            lane.go_on.release()
        stopping.join(SOON_SECONDS)
        assert [worker for worker in work._workers if worker.is_alive()] == []
    finally:
        for lane in lanes:
            lane.go_on.release(9)


def broken(*_: object) -> NoReturn:
    """Fail as nobody expects."""
    raise RuntimeError("nobody thought of that")


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(broken, id="reading the files"),
        pytest.param(lambda: app_with(OFTEN, unconfigured_meters=broken), id="asking the ledger"),
        pytest.param(
            lambda: app_with(SimpleNamespace(source="app", cron="0 0 * * 9", every=None)),
            id="making an alarm",
        ),
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


@pytest.mark.parametrize("ahead", [dt.timedelta(hours=-6), dt.timedelta(hours=6)])
@pytest.mark.parametrize("cron", [None, "0 0 1 1 *"])
def test_a_clock_that_is_set_stops_no_meter(ahead: dt.timedelta, cron: str | None, said: io.StringIO) -> None:
    """Alarms were set by the clock as it was, hours from now: all of them ring at once, and one line says by how much."""
    counting, by = Counting(), [dt.timedelta(0)]
    meter = SimpleNamespace(source="app", cron=cron, every=dt.timedelta(hours=6))
    with at_work(app_with(meter, collections={"m": counting}), lambda: utcnow() + by[0]):
        assert counting.read.acquire(timeout=SOON_SECONDS)
        by[0] = ahead
        if ahead > dt.timedelta(0):
            by[0] = ahead - dt.timedelta(hours=12)  # the alarm clock itself goes by the real time
        assert counting.read.acquire(timeout=SOON_SECONDS)
    lines = [json.loads(line) for line in said.getvalue().splitlines()]
    jumps = [line["seconds"] for line in lines if line["event"] == log.CLOCK_JUMPED]
    assert [round(seconds) for seconds in jumps] == [round(by[0].total_seconds())]


def test_while_the_clocks_differ_nothing_is_read_or_sent_and_that_is_said_once(said: io.StringIO) -> None:
    """Nobody reads, delivers, reads back or cancels; what sinks tell is still heard; and all goes on once they agree."""
    ledger, counting, polled = InTime(), Counting(), Slow(threading.Event())
    polled._answered.set()
    ledger.apart = "This host's clock is 30 h ahead of the ledger's."
    delivered, read_back, cancelled = Counting(), Counting(), Counting()
    parts = {
        "sinks": {"stripe": polled},
        "sink_ids": {"stripe": 1},
        "notification_sinks": {"stripe": 1},
        "notification_poller": lambda _: polled,
        "resume": lambda _: None,
        "refused": {},
        "delivery": lambda _: Rounds(delivered, Delivered),
        "reconciliation": lambda _: Rounds(read_back, Reconciled),
        "cancelling": lambda _: Rounds(cancelled, Round),
    }
    with at_work(app_with(OFTEN, collections={"m": counting}, ledger=ledger, **parts)):
        assert polled.asked.wait(SOON_SECONDS)
        assert all(ledger.refused.acquire(timeout=SOON_SECONDS) for _ in range(10))
        works = (counting, delivered, read_back, cancelled)
        assert [each.read.acquire(blocking=False) for each in works] == [False] * 4
        ledger.apart = None
        assert [each.read.acquire(timeout=SOON_SECONDS) for each in works] == [True] * 4
    events = [json.loads(line)["event"] for line in said.getvalue().splitlines()]
    assert [events.count(name) for name in (log.CLOCKS_APART, log.CLOCKS_AGREE, log.PASS_FAILED)] == [1, 1, 1]
