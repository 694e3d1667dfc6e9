"""What a daemon says to the outside: how often it looks, and for what."""

import datetime as dt
from types import SimpleNamespace
from typing import cast

import pytest

from aggregator.config.monitoring import Monitoring
from aggregator.daemon.outside import look_seconds, outside_of
from aggregator.monitoring.readiness import Readiness
from aggregator.wiring.app import App

TOLD_AT = "json://127.0.0.1/told"


def app_that_tells(**settings: object) -> App:
    """Return an App with nothing but how it is watched."""
    config = SimpleNamespace(monitoring=Monitoring.model_validate(settings), meters={})
    ledger = SimpleNamespace(figures=SimpleNamespace(progress=None, waiting=None), instant=None)
    return cast("App", SimpleNamespace(config=config, ledger=ledger))


@pytest.mark.parametrize(
    ("after", "seconds"), [("5m", 15.0), ("15s", 15.0), ("14s", 14.0), ("2s", 2.0), ("1s", 1.0), ("0s", 1.0)]
)
def test_it_looks_as_often_as_people_want_to_be_told(after: str, seconds: float) -> None:
    """Each quarter of a minute, more often for those who are told sooner, and never more than once a second."""
    app = app_that_tells(notify=TOLD_AT, notify_after=after)
    assert look_seconds(app.config.monitoring.notify_after) == seconds
    [telling] = outside_of(app, Readiness())
    assert telling._every == seconds


def test_that_it_lives_is_said_by_its_own_clock() -> None:
    """However soon people are told of troubles."""
    app = app_that_tells(
        notify=TOLD_AT, notify_after="2s", heartbeat_url="http://127.0.0.1/alive", heartbeat_every="40s"
    )
    assert [each._every for each in outside_of(app, Readiness())] == [40.0, 2.0]


def test_where_nobody_is_to_be_told_nothing_is_started() -> None:
    """Neither a call nor a look."""
    assert outside_of(app_that_tells(), Readiness()) == []
    assert look_seconds(dt.timedelta(days=1)) == 15.0
