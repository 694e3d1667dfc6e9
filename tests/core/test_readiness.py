"""Whether the daemon is ready: late meters, halted sinks, a stopped ledger, and whatever else is looked at, each by name."""

import datetime as dt

import pytest

from aggregator.monitoring.readiness import LATE_AFTER, LONG_PASS, Readiness, Reason

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
    return [(reason.what, reason.of) for reason in readiness.state(at).reasons]


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
    [reason] = readiness.state(NOW + LATE_AFTER + 2 * MINUTE).reasons
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
    assert readiness.state(NOW) == (False, [Reason("stopped", "m", "an invariant broke")])


def test_a_halted_sink_and_a_stopped_ledger_are_reasons_until_they_are_not(readiness: Readiness) -> None:
    """Both ends are noted; further checks come last."""
    readiness.halted("stripe", "refused")
    readiness.ledger_stopped("wound back")
    assert whats(readiness, NOW) == [("ledger", None), ("halted", "stripe")]
    readiness.resumed("stripe")
    readiness.ended("m", NOW)
    assert whats(readiness, NOW) == []
    checked = Readiness(lambda now: [Reason("ledger", None, f"{now:%H} o'clock")])
    assert checked.state(NOW) == (False, [Reason("ledger", None, "12 o'clock")])


def test_one_late_meter_is_named_and_takes_nothing_out_of_service(readiness: Readiness) -> None:
    """The other is read in time; when that is late too, nothing of the daemon works."""
    readiness.expect("n", NOW, every_minute)
    late = NOW + LATE_AFTER + 2 * MINUTE
    readiness.ended("m", NOW, "the source is away")
    readiness.ended("n", late)
    ready, [reason] = readiness.state(late)
    assert (ready, reason.what, reason.of) == (True, "late", "m")
    assert reason.reason.endswith("the source is away")
    later = late + LATE_AFTER + 2 * MINUTE
    assert whats(readiness, later) == [("late", "m"), ("late", "n")]
    assert not readiness.state(later).ready
    readiness.ended("m", later)
    assert readiness.state(later).ready


def test_a_stopped_meter_counts_as_one_that_is_not_read(readiness: Readiness) -> None:
    """With the other late beside it, no meter is read."""
    readiness.expect("n", NOW, every_minute)
    readiness.ended("n", NOW, "an invariant broke", stopped=True)
    assert readiness.state(NOW).ready
    assert not readiness.state(NOW + LATE_AFTER + 2 * MINUTE).ready


def test_one_halted_sink_is_named_and_takes_nothing_out_of_service(readiness: Readiness) -> None:
    """The other takes what it is sent; when that refuses us too, nothing is taken."""
    for sink in ("stripe", "metronome"):
        readiness.expect_sink(sink)
    readiness.halted("stripe", "refused")
    assert readiness.state(NOW) == (True, [Reason("halted", "stripe", "refused")])
    readiness.halted("metronome", "refused")
    assert not readiness.state(NOW).ready
    readiness.resumed("stripe")
    assert readiness.state(NOW) == (True, [Reason("halted", "metronome", "refused")])


def test_a_ledger_that_is_not_what_it_was_is_enough(readiness: Readiness) -> None:
    """However well the meters did until then."""
    readiness.expect("n", NOW, every_minute)
    readiness.ledger_stopped("wound back")
    assert readiness.state(NOW) == (False, [Reason("ledger", None, "wound back")])
