"""A sink is built with the settings that the file gives it, each of its own kind."""

import datetime as dt
from pathlib import Path
from typing import Any

import pytest

from aggregator.config import load
from aggregator.wiring.sinks import build_sink

CONFIG = """
ledger: {url: 'postgresql:///nowhere'}
sources: {app: {url: 'sqlite:////nowhere'}}
sinks:
  stripe: {type: stripe, api_key: sk_test_1, mode: test, api_base: 'http://127.0.0.1:1', timeout: 7s, max_in_flight: 5}
  metronome:
    {type: metronome, api_key: token, quantity_encoding: text, api_base: 'http://127.0.0.1:1', timeout: 7s, max_in_flight: 5}
  s3: {type: s3, bucket: acme-usage, prefix: usage/, region: eu-central-1, timeout: 7s}
meters:
  api_requests:
    source: app
    sinks: [stripe, metronome, s3]
    window: 1h
    start_at: 2026-11-01T00:00Z
    stripe: {event_name: calls, event_time_window: hour}
    query: select customer, 1 as quantity from use where at >= :start and at < :end
"""


@pytest.fixture
def built(tmp_path: Path) -> dict[str, Any]:
    """Each sink of the configuration, by its name."""
    path = tmp_path / "aggregator.yaml"
    path.write_text(CONFIG)
    config = load(path, {})
    return {name: build_sink(config, name) for name in config.sinks}


@pytest.mark.parametrize("sink", ["stripe", "metronome"])
def test_what_is_called_over_http_gets_its_address_and_its_bounds(built: dict[str, Any], sink: str) -> None:
    """A duration arrives as one, and not as the file writes it."""
    its = built[sink]
    assert its._timeout == dt.timedelta(seconds=7)
    assert (its._api_base, its._max_in_flight) == ("http://127.0.0.1:1", 5)


def test_a_bucket_gets_its_place_and_its_bound(built: dict[str, Any]) -> None:
    """The folder, the region, and how long a call may take."""
    its = built["s3"]
    assert its._bucket._timeout == dt.timedelta(seconds=7)
    assert its.place == "s3://acme-usage/usage/"


def test_a_meter_is_at_stripe_what_the_file_says(built: dict[str, Any]) -> None:
    """By another event name, and with the newest event of an hour."""
    meter = built["stripe"]._meters["api_requests"]
    assert (meter.event_name, meter.event_time_window, meter.formula) == ("calls", "hour", "sum")
