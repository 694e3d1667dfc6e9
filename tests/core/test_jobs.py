"""The table of jobs: one pass goes through it in order, and the daemon and one pass alike do what stands in it."""

import threading
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import cast

import pytest

from aggregator.cli.exit_codes import ExitCode
from aggregator.cli.run import run_once
from aggregator.config import Ledger
from aggregator.core.counts import Counts
from aggregator.daemon import jobs
from aggregator.reconciliation.checker import Checked
from aggregator.wiring.app import App
from tests.core.test_daemon import OFTEN, SOON_SECONDS, Counting, Quiet, Rounds, app_with, at_work


def test_meters_of_one_source_whose_alarms_ring_together_are_looked_at_together() -> None:
    """By their period, whether it is written or follows from the window, or by their line of a crontab."""
    hour, minute = timedelta(hours=1), timedelta(minutes=1)
    meters = {
        "a": SimpleNamespace(source="app", cron=None, every=None, window=hour),
        "b": SimpleNamespace(source="app", cron=None, every=5 * minute, window=24 * hour),
        "c": SimpleNamespace(source="app", cron=None, every=minute, window=hour),
        "d": SimpleNamespace(source="other", cron=None, every=None, window=hour),
        "e": SimpleNamespace(source="app", cron="*/5 * * * *", every=None, window=hour),
        "f": SimpleNamespace(source="app", cron="*/5 * * * *", every=None, window=minute),
    }
    app = app_with(
        OFTEN, config=SimpleNamespace(meters=meters), collections=dict.fromkeys(meters), glance=tuple
    )
    assert jobs.glances(app) == {
        "a": ("a", "b"),
        "b": ("a", "b"),
        "c": ("c",),
        "d": ("d",),
        "e": ("e", "f"),
        "f": ("e", "f"),
    }


class Done(Counts):
    """What came of a job that does nothing: somebody has to look at it."""

    @property
    def needs_person(self) -> bool:
        """Tell that somebody has."""
        return True


def test_one_pass_goes_from_thing_to_thing() -> None:
    """Meters first; then what each sink tells, and its cancellations; then each is read back, delivered to, and compared."""
    app = app_with(
        OFTEN,
        collections={"m": Counting(), "a": Counting()},
        config=SimpleNamespace(
            ledger=Ledger(),
            meters={"m": OFTEN, "a": OFTEN},
            customers={},
            polls=lambda _: timedelta(hours=1),
        ),
        notification_sinks={"s": 1, "imports": 2},
        notification_poller=lambda _: Quiet(),
        health_poller=lambda _: Quiet(),
        sink_ids={"s": 1, "r": 3},
        cancelling=lambda _: Quiet(),
        delivery=lambda _, at_once: Quiet(),
    )
    assert [task.name for task in jobs.tasks(app, once=True)] == [
        "collect a",
        "collect m",
        "health imports",
        "reports imports",
        "health s",
        "reports s",
        "cancellations s",
        "reconcile r",
        "deliver r",
        "check r",
        "sum up r",
        "reconcile s",
        "deliver s",
        "check s",
        "sum up s",
    ]


def test_a_row_that_is_added_is_done_by_the_daemon_and_by_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """And it is told to stop with the others; what came of it counts for how the pass ended."""
    counting, stopped = Counting(), threading.Event()

    class Added(Rounds):
        def stop(self) -> None:
            stopped.set()

    added: jobs.Job[Counts] = jobs.Job(
        "added",
        "sink",
        lambda _: ["s"],
        jobs.SINKS,
        due=lambda _app, _sink: jobs.every(timedelta(hours=1)),
        body=lambda _app, _sink: cast("jobs.Body[Counts]", Added(counting, Done)),
        report=lambda _reporter, _result: None,
        failed="added_failed",
    )
    monkeypatch.setattr(jobs, "JOBS", (*jobs.JOBS, added))
    with at_work(app_with(OFTEN)):
        assert counting.read.acquire(timeout=SOON_SECONDS)
    assert stopped.is_set()
    assert run_once(app_with(OFTEN)) is ExitCode.PERSON_NEEDED
    assert counting.read.acquire(blocking=False)


class Comparing:
    """Compares a hundred customers a round, of as many as there are, in five seconds of a clock that tests move."""

    def __init__(self, customers: int) -> None:
        self.left = customers
        self.elapsed = 0.0
        self.at_once = 0

    def checking(self, _sink: str, at_once: int) -> "Comparing":
        """Return what compares so many at once."""
        self.at_once = at_once
        return self

    def run_once(self, _now: datetime) -> Checked:
        """Compare some."""
        some = min(self.left, self.at_once)
        self.left -= some
        self.elapsed += 5.0
        done = Checked(customers=some, differing=1, found=[f"{some} more"])
        done.more = self.left > 0
        return done

    def stop(self) -> None:
        """Nothing is to be stopped."""


@pytest.mark.parametrize(("customers", "left"), [(30, 0), (250, 0), (10_000, 9_700)])
def test_one_pass_compares_for_a_while_only(customers: int, left: int) -> None:
    """Whoever runs it by cron waits no longer, however much is due; and is told of all that differs."""
    comparing = Comparing(customers)
    body = jobs.CheckedForAWhile(cast("App", comparing), "s", lambda: comparing.elapsed)
    done = body.run_once(datetime.max.replace(tzinfo=UTC))
    assert (comparing.left, done.customers, done.more) == (left, customers - left, left > 0)
    assert len(done.found) == done.differing == -(-(customers - left) // 100)
