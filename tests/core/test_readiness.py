"""Whether the daemon is ready: late meters, halted sinks, a stopped ledger, and whatever else is looked at, each by name."""

import datetime as dt

import pytest

from aggregator.readiness import LATE_AFTER, LONG_PASS, Readiness, Reason

NOW = dt.datetime(2026, 11, 1, 12, tzinfo=dt.UTC)
MINUTE = dt.timedelta(minutes=1)


def every_minute(after: dt.datetime) -> dt.datetime:
    """Return when a meter is due again."""
    return after + MINUTE


@pytest.fixture
def readiness() -> Readiness:
    """One meter, which begins now."""
    made = Readiness()
    made.expect("m", NOW, every_minute)
    return made


def whats(readiness: Readiness, at: dt.datetime) -> list[tuple[str, str | None]]:
    return [(reason.what, reason.of) for reason in readiness.reasons(at)]


def test_a_meter_that_is_read_in_time_is_no_reason(readiness: Readiness) -> None:
    """As long as the next pass is not due for longer than it may be."""
    readiness.began("m", NOW)
    readiness.ended("m", NOW + MINUTE)
    assert whats(readiness, NOW + 2 * MINUTE + LATE_AFTER) == []
    assert whats(readiness, NOW + 3 * MINUTE + LATE_AFTER) == [("late", "m")]


def test_a_meter_that_fails_becomes_late_and_says_why(readiness: Readiness) -> None:
    """One failed pass is none; many are, with the last one's words; one that succeeds ends it."""
    readiness.ended("m", NOW + MINUTE, "the source is away")
    assert whats(readiness, NOW + MINUTE) == []
    [reason] = readiness.reasons(NOW + LATE_AFTER + 2 * MINUTE)
    assert reason.reason == "it was last read at 2026-11-01T12:00:00Z: the source is away"
    readiness.ended("m", NOW + LATE_AFTER + 2 * MINUTE)
    assert whats(readiness, NOW + LATE_AFTER + 3 * MINUTE) == []


def test_a_long_pass_is_late_only_after_long(readiness: Readiness) -> None:
    """A first look back takes its time; one that never ends is noticed."""
    readiness.began("m", NOW)
    assert whats(readiness, NOW + LONG_PASS) == []
    assert whats(readiness, NOW + LONG_PASS + MINUTE) == [("late", "m")]


def test_a_stopped_meter_is_a_reason_at_once(readiness: Readiness) -> None:
    """It will not be read again by itself."""
    readiness.ended("m", NOW, "an invariant broke", stopped=True)
    assert readiness.reasons(NOW) == [Reason("stopped", "m", "an invariant broke")]


def test_a_halted_sink_and_a_stopped_ledger_are_reasons_until_they_are_not(readiness: Readiness) -> None:
    """Both ends are noted; further checks come last."""
    readiness.halted("stripe", "refused")
    readiness.ledger_stopped("wound back")
    assert whats(readiness, NOW) == [("ledger", None), ("halted", "stripe")]
    readiness.resumed("stripe")
    readiness.ended("m", NOW)
    assert whats(readiness, NOW) == []
    checked = Readiness(lambda now: [Reason("ledger", None, f"{now:%H} o'clock")])
    assert checked.reasons(NOW) == [Reason("ledger", None, "12 o'clock")]
