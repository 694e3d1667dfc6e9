"""The sinks of a meter in a configuration: by name, or with the terms on which they are fed."""

import datetime as dt
from pathlib import Path

import pytest

from aggregator.config import load
from aggregator.core.model import Terms
from aggregator.errors import ConfigError
from aggregator.wiring.app import meter_of
from tests.core.test_config import ENV, complaints, line_of, written

SINKS = "meters.calls.sinks"
AT = dt.datetime(2026, 12, 1, tzinfo=dt.UTC)

MISTAKES = [
    ("{shadow: true}", ".sink: is missing: write, for example, `sink: stripe`"),
    ("{sink: strip}", ".sink: there is no `strip` under `sinks:`: did you mean `stripe`?"),
    ("{sink: stripe, bill_form: x}", ".bill_form: is not a known key: did you mean `bill_from`?"),
    ("{sink: stripe, shadow: 1}", ".shadow: must be `true` or `false`, but is a whole number"),
    (
        "{sink: stripe, bill_from: 2026-12-01}",
        ".bill_from: has no time zone, and guessing one would bill the wrong hours",
    ),
    (
        "{sink: stripe, bill_until: 2026-12-01T00:30Z}",
        ".bill_until: must be the start of a window, in UTC; the nearest to it are `2026-12-01T00:00Z`",
    ),
    (
        "{sink: stripe, bill_from: 2026-10-31T23:00Z}",
        ".bill_from: lies before `start_at`, and nothing before that is ever billed: move one of the two",
    ),
    (
        "{sink: stripe, bill_from: 2026-12-01T00:00Z, bill_until: 2026-12-01T00:00Z}",
        ".bill_until: is not after `bill_from`, so that no window would be billed",
    ),
]


def test_names_and_terms_may_stand_beside_each_other(tmp_path: Path) -> None:
    """A name is a sink without terms; both forms give the names under `sinks`, and the core gets the terms."""
    path = tmp_path / "aggregator.yaml"
    other = {
        f"sinks.other.{key}": value
        for key, value in (("type", "stripe"), ("api_key", "${KEY}"), ("mode", "test"))
    }
    entry = "{sink: other, bill_from: 2026-12-01T01:00+01:00, bill_until: 2026-12-02T00:00Z, shadow: true}"
    path.write_text(written({SINKS: f"[stripe, {entry}]", **other}))
    meter = load(path, ENV).meters["calls"]
    assert meter.sinks == ("stripe", "other")
    core = meter_of(meter)
    assert core.sinks == ("stripe", "other")
    assert core.terms_of("stripe") == Terms("stripe")
    assert core.terms_of("other") == Terms("other", AT, AT + dt.timedelta(days=1), shadow=True)


@pytest.mark.parametrize(("entry", "message"), MISTAKES)
def test_a_mistake_in_the_terms_is_named_with_its_place(tmp_path: Path, entry: str, message: str) -> None:
    """One wrong key of an entry gives one complaint, at its line and path, that says what to do."""
    text = written({SINKS: f"[{entry}]"})
    [found] = complaints(tmp_path, text)
    assert found.startswith(f"{line_of(text, SINKS)}: {SINKS}[0]{message}")


def test_a_mistake_is_found_on_its_own_line(tmp_path: Path) -> None:
    """An entry over several lines is complained of where its key stands, also where it comes from `defaults`."""
    entry = "\n      - sink: stripe\n        bill_until: 2026-12-01T00:30Z"
    text = written({SINKS: entry})
    [found] = complaints(tmp_path, text)
    assert found.startswith(
        f"{line_of(text, SINKS) + 2}: {SINKS}[0].bill_until: must be the start of a window"
    )
    inherited = written({SINKS: None, "defaults.sinks": entry})
    [found] = complaints(tmp_path, inherited)
    assert found.startswith(f"{line_of(inherited, 'defaults.sinks') + 2}: {SINKS}[0].bill_until")


def test_two_meters_may_not_share_an_event_name_through_a_sink_with_terms(tmp_path: Path) -> None:
    """Terms do not hide that two meters would add up at a sink."""
    twin = {key.replace("calls", "twin"): value for key, value in written_keys().items()}
    twin |= {"meters.twin.sinks": "[{sink: stripe, shadow: true}]", "meters.twin.stripe.event_name": "calls"}
    path = tmp_path / "aggregator.yaml"
    path.write_text(written(dict(twin)))
    with pytest.raises(ConfigError, match="sends the same event name as meter"):
        load(path, ENV)


def written_keys() -> dict[str, str]:
    """Return the keys of the one meter of a right configuration."""
    from tests.core.test_config import RIGHT

    return {key: value for key, value in RIGHT.items() if key.startswith("meters.calls.")}
