"""Arithmetic of samples: increases add up, averages lie between, gaps are seen, and all of it to the last decimal."""

import datetime as dt
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.core import samples
from aggregator.core.model import EPOCH, ZERO, Span
from aggregator.core.sampling import (
    Counters,
    FirstValue,
    Gauges,
    Missing,
    Reads,
    Resets,
    Sample,
    declared,
    definition,
)

MINUTE = dt.timedelta(minutes=1)
EVERY = 5 * MINUTE
WINDOW = Span(EPOCH + 60 * MINUTE, EPOCH + 120 * MINUTE)

amounts = st.decimals(min_value=0, max_value=10**12, allow_nan=False, places=6)
instants = st.lists(
    st.integers(0, 120 * 60 * 10**6 - 1).map(lambda us: EPOCH + dt.timedelta(microseconds=us)),
    min_size=1,
    max_size=30,
    unique=True,
).map(sorted)
hows = st.builds(Gauges, st.sampled_from(Sample), st.sampled_from(Missing), st.just(EVERY))


@given(st.lists(amounts, min_size=1), st.sampled_from([Resets.RESTART, Resets.HOLD]))
def test_increases_add_up_to_what_was_used(used: list[Decimal], resets: Resets) -> None:
    """Whatever a counter rose by between samples, with a restart at any of them, is the sum of its increases."""
    how, value, previous, found = Counters(resets), ZERO, None, ZERO
    for number, each in enumerate(used):
        restarts = number % 3 == 2 and each < value
        value = each if restarts else value + each
        found += samples.increase(value, previous, how).amount
        previous = value
    assert found == sum(used[1:], ZERO)


@given(amounts, st.none() | amounts, st.sampled_from(Resets), st.sampled_from(FirstValue))
def test_an_increase_is_never_negative(
    value: Decimal, previous: Decimal | None, resets: Resets, first: FirstValue
) -> None:
    """What fell is a reset and nothing is taken back; the first value bills nothing unless that is declared."""
    found = samples.increase(value, previous, Counters(resets, first))
    assert found.amount >= 0
    assert found.reset == (previous is not None and value < previous)
    if previous is None:
        assert found.amount == (value if first is FirstValue.WHOLE else 0)


def test_a_counter_below_zero_bills_nothing() -> None:
    """It fell, and began with no number that anybody can have used."""
    assert samples.increase(Decimal(-5), Decimal(3), Counters(Resets.RESTART)) == (ZERO, True)
    assert samples.increase(Decimal(-5), None, Counters(Resets.RESTART, FirstValue.WHOLE)).amount == 0


@given(instants, st.data(), hows)
def test_a_window_of_a_gauge_equals_what_is_counted_by_hand(
    sampled: list[dt.datetime], data: st.DataObject, how: Gauges
) -> None:
    """Microsecond by microsecond in fractions: which sample stands, what time has none, and what all of it comes to."""
    before = [at for at in sampled if at <= WINDOW.start][-1:]
    sampled = [*before, *(at for at in sampled if at > WINDOW.start)]
    values = {at: data.draw(amounts) for at in sampled}
    covered = samples.coverage(WINDOW, sampled, how, WINDOW.end)
    area, missing, stood = Fraction(0), dt.timedelta(0), []
    edges = sorted({WINDOW.start, WINDOW.end, *sampled, *(at + 2 * EVERY for at in sampled)})
    for start, end in pairwise(edges):
        held = [at for at in sampled if at <= start]
        if not held or start not in WINDOW:
            continue
        within = start < held[-1] + 2 * EVERY
        missing += dt.timedelta(0) if within else end - start
        if within or how.missing is not Missing.NOTHING:
            stood.append(values[held[-1]])
            area += Fraction(values[held[-1]]) * Fraction((end - start) // dt.timedelta(microseconds=1))
    in_window = [at for at in sampled if at in WINDOW]
    gap = missing > dt.timedelta(0) and not (how.sample is Sample.LAST and in_window)
    assert covered.has_gap == gap
    found = samples.gauge(covered, values, how)
    if how.sample is Sample.AVERAGE:
        exact = area / Fraction(3600 * 10**6)
        assert Fraction(0) <= exact - Fraction(found) < Fraction(1, 10**18)
    elif how.sample is Sample.MAX:
        assert found == max(stood, default=ZERO)
    elif gap and how.missing is Missing.NOTHING:
        assert found == 0
    else:
        assert found == (values[sampled[-1]] if sampled and (stood or in_window) else ZERO)


def test_an_open_window_counts_up_to_the_present() -> None:
    """What has not come yet is no gap, and nothing is carried into it."""
    how = Gauges(Sample.AVERAGE, Missing.CARRY_LAST, EVERY)
    covered = samples.coverage(WINDOW, [WINDOW.start], how, WINDOW.start + 15 * MINUTE)
    assert covered.missing == 5 * MINUTE
    assert samples.gauge(covered, {WINDOW.start: Decimal(8)}, how) == 2


@pytest.mark.parametrize(
    "reads",
    [
        Counters(Resets.HOLD, FirstValue.WHOLE),
        Gauges(Sample.MAX, Missing.NOTHING, dt.timedelta(seconds=90)),
    ],
)
def test_a_definition_says_how_its_samples_are_read(reads: Reads) -> None:
    """What was declared comes back exactly; a query without that line is no such definition."""
    assert declared(definition(reads, "select 1 -- read: gauges")) == reads
    with pytest.raises(ValueError, match="is no definition"):
        declared("select 1")


def test_before_the_first_sample_there_is_neither_usage_nor_a_gap() -> None:
    """Nobody was there to take one: a window that was over by then comes to nothing, and is no gap."""
    for how in (Gauges(sample, missing, EVERY) for sample in Sample for missing in Missing):
        covered = samples.coverage(WINDOW, [], how, WINDOW.end)
        assert covered == samples.Coverage(WINDOW, (), dt.timedelta(0))
        assert not covered.has_gap
        assert samples.gauge(covered, {}, how) == 0
