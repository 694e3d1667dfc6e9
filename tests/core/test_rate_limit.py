"""The pace: never above what is allowed, slower when told so, back to full speed by itself."""

from itertools import combinations
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.core.rate_limit import LONGEST_PAUSE_SECONDS, RECOVERY_SECONDS, Pace

A_HAIR = 1e-6


class Step(NamedTuple):
    """Some time goes by, calls come, and some of them are answered with a refusal."""

    gap_seconds: float
    calls: int
    throttled: bool
    pause_seconds: float


rates = st.floats(0.5, 5_000)
steps = st.lists(
    st.builds(Step, st.floats(0, 20), st.integers(0, 8), st.booleans(), st.floats(0, 5)), max_size=12
)


def leave_times(pace: Pace, steps: list[Step]) -> list[float]:
    """Return when each call leaves if it waits for as long as it is told; the calls of a step ask at once."""
    now, times = 1_000.0, []
    for step in steps:
        now += step.gap_seconds
        times += [now + pace.take(now) for _ in range(step.calls)]
        if step.throttled:
            pace.throttled(now, step.pause_seconds)
    return sorted(times)


@given(rate=rates, steps=steps)
def test_no_stretch_of_time_has_more_calls_than_allowed(rate: float, steps: list[Step]) -> None:
    """In any t seconds at most rate * t + burst calls leave, whatever refusals and lulls there are."""
    pace = Pace(rate)
    times = leave_times(pace, steps)
    for (first, begin), (last, end) in combinations(enumerate(times), 2):
        assert last - first + 1 <= rate * (end - begin) + pace.burst + A_HAIR * max(1, rate)


@given(rate=rates, calls=st.integers(2, 300))
def test_a_crowd_is_let_go_at_the_configured_rate(rate: float, calls: int) -> None:
    """Calls that come together leave one after another, no slower than the rate."""
    pace = Pace(rate)
    waits = [pace.take(0.0) for _ in range(calls)]
    assert waits == sorted(waits)
    assert waits[-1] == pytest.approx(max(0.0, (calls - pace.burst) / rate))


@given(rate=rates, crowds=st.lists(st.integers(1, 100), min_size=1, max_size=20))
def test_calls_that_leave_together_count_each(rate: float, crowds: list[int]) -> None:
    """Several taken at once wait as long as the last of them would, taken one by one."""
    together, alone = Pace(rate), Pace(rate)
    for calls in crowds:
        waits = [alone.take(0.0) for _ in range(calls)]
        assert together.take(0.0, calls) == pytest.approx(waits[-1])


@given(rate=rates, steps=steps)
def test_the_full_rate_comes_back(rate: float, steps: list[Step]) -> None:
    """After any history, half a minute without refusals (beyond a pause asked for) restores the configured rate."""
    pace = Pace(rate)
    gaps = sum(step.gap_seconds for step in steps)
    end = max([1_000.0, *leave_times(pace, steps)]) + gaps
    pace.take(end + LONGEST_PAUSE_SECONDS + RECOVERY_SECONDS + A_HAIR)
    assert pace.rate == pytest.approx(rate)


@given(rate=rates, refusals=st.integers(1, 60))
def test_the_rate_never_falls_below_the_floor(rate: float, refusals: int) -> None:
    """However many refusals come, one call a second still leaves (or the configured rate, if that is lower)."""
    pace = Pace(rate)
    for second in range(refusals):
        pace.throttled(float(second))
    assert min(1.0, rate) <= pace.rate <= rate


def test_one_wave_of_refusals_counts_once() -> None:
    """A hundred refusals within a second halve the rate once; one more a second later halves it again."""
    pace = Pace(1_000)
    for hundredth in range(100):
        pace.throttled(hundredth / 100)
    assert 500 <= pace.rate < 540
    before = pace.rate
    pace.throttled(1.0)
    assert pace.rate < before * 0.6


def test_the_rate_grows_back_evenly() -> None:
    """Fifteen seconds restore half of the configured rate."""
    pace = Pace(1_000)
    for second in range(20):
        pace.throttled(float(second))
    low = pace.rate
    pace.take(19.0 + RECOVERY_SECONDS / 2)
    assert pace.rate == pytest.approx(low + 500)


def test_a_pause_holds_every_call() -> None:
    """Asked to come back in five seconds, nothing leaves for five seconds, even what could have left at once."""
    pace = Pace(100)
    pace.throttled(10.0, pause_seconds=5.0)
    assert pace.take(10.0) == pytest.approx(5.0)
    assert pace.take(12.0) == pytest.approx(3.0)


def test_a_pause_is_bounded() -> None:
    """A far side that asks for a year is given half a minute."""
    pace = Pace(100)
    pace.throttled(0.0, pause_seconds=31_536_000.0)
    assert pace.take(0.0) == pytest.approx(LONGEST_PAUSE_SECONDS)


def test_a_clock_that_stands_or_falls_back_earns_nothing() -> None:
    """Time that does not move forward lets nothing extra go."""
    pace = Pace(10, burst=1)
    assert pace.take(5.0) == 0
    assert pace.take(4.0) >= 0.1
    assert pace.take(5.0) >= 0.2
