"""Gauges: what there is now, sampled once for each instant that is due, comes to the same whenever it is read."""

import datetime as dt
from decimal import Decimal

import pytest

from aggregator.core.sampling import Gauges, Missing, Sample
from aggregator.ledger.database import Database
from tests.postgres.sampled_world import EVERY, SampledWorld
from tests.postgres.test_counters import by_window

AVERAGE = Gauges(Sample.AVERAGE, Missing.CARRY_LAST, EVERY)


def lives(world: SampledWorld, states: list[tuple[float, object]], until: float) -> None:
    """Let a customer's gauge be set at minutes after the start, and rounds run each ten minutes; None: nobody is there."""
    given = dict(states)
    minute = 0.0
    while minute <= until:
        if minute in given:
            if given[minute] is None:
                minute += 10
                continue
            world.application.set("cus_a", given[minute])
        world.pass_by(0, minute)
        minute += 10


@pytest.mark.parametrize(
    ("sample", "expected"), [(Sample.LAST, 4), (Sample.MAX, 10), (Sample.AVERAGE, Decimal(5))]
)
def test_a_window_comes_to_what_is_declared_of_its_samples(
    database: Database, sample: Sample, expected: Decimal
) -> None:
    """Its last sample, its highest, or the average over its time."""
    world = SampledWorld(database, Gauges(sample, Missing.CARRY_LAST, EVERY))
    lives(world, [(0, 4), (20, 10), (30, 4)], 70)
    assert by_window(world, "cus_a")[0] == expected
    assert world.booked("cus_a") == expected


@pytest.mark.parametrize(
    ("missing", "sample", "read", "booked"),
    [
        (Missing.CARRY_LAST, Sample.AVERAGE, 6, 6),
        (Missing.HOLD, Sample.AVERAGE, 6, 0),
        (Missing.NOTHING, Sample.AVERAGE, 4, 4),
        (Missing.CARRY_LAST, Sample.LAST, 6, 6),
        (Missing.NOTHING, Sample.MAX, 6, 6),
    ],
)
def test_time_without_a_sample_comes_to_what_is_declared(
    database: Database, missing: Missing, sample: Sample, read: int, booked: int
) -> None:
    """A sample stands for twenty minutes; what is missing after that is carried on, held with its reason, or nothing."""
    world = SampledWorld(database, Gauges(sample, missing, EVERY))
    lives(world, [(0, 6), (30, None), (40, None), (50, None)], 70)
    assert by_window(world, "cus_a")[0] == read
    assert world.booked("cus_a") == booked
    held = world.rows("select reason from aggregator.parked where state = 'held'")
    if missing is Missing.HOLD:
        said = "20 minutes of the window have no sample, the last one is of 2026-11-01 00:20:00Z"
        assert held == [(said,)]
    else:
        assert held == []


def test_windows_from_before_the_first_sample_hold_nothing_up(database: Database) -> None:
    """A daemon that begins in the afternoon reads the morning, too, whenever it reads old windows again."""
    world = SampledWorld(database, Gauges(Sample.AVERAGE, Missing.HOLD, EVERY))
    world.application.set("cus_a", 6)
    for minutes in range(150, 200, 10):
        world.pass_by(0, minutes)
    assert by_window(world, "cus_a") == {2: 3}
    assert world.booked("cus_a") == 3


def test_a_window_without_any_sample_is_no_silent_zero(database: Database) -> None:
    """Nobody was there for three hours: what stood before stands on, or each of the windows waits for a person."""
    world = SampledWorld(database, Gauges(Sample.LAST, Missing.HOLD, EVERY))
    lives(world, [(0, 7)], 70)
    world.pass_by(4, 10)
    assert by_window(world, "cus_a") == dict.fromkeys(range(4), 7)
    assert world.booked("cus_a") == 14
    assert world.one("select count(*) from aggregator.parked where state = 'held'") == 2


def test_who_is_missing_in_a_sample_had_nothing(database: Database) -> None:
    """A customer who leaves at half past is billed for half of the hour, and for nothing from then on."""
    world = SampledWorld(database, AVERAGE)
    world.application.set("cus_a", 8)
    for minute in range(0, 130, 10):
        if minute == 30:
            world.application.take("cus_a")
        world.pass_by(0, minute)
    assert by_window(world, "cus_a") == {0: 4}


def test_averages_are_exact_decimals(database: Database) -> None:
    """A third is cut off far behind what is billed, and never comes to more than it is."""
    world = SampledWorld(database, AVERAGE)
    lives(world, [(0, 1), (20, 0), (60, "0.1")], 130)
    read = by_window(world, "cus_a")
    assert read == {0: Decimal("0.333333333333333333"), 1: Decimal("0.1")}


def test_a_sample_with_an_unusable_number_leaves_its_customer_as_he_is(database: Database) -> None:
    """NULL is not zero: the window of that customer is not touched, and named; others are billed."""
    world = SampledWorld(database, AVERAGE)
    world.application.set("cus_b", 3)
    world.application.set("cus_a", None)
    for minute in range(0, 80, 10):
        world.pass_by(0, minute)
    assert by_window(world, "cus_a") == {}
    assert by_window(world, "cus_b") == {0: 3}
    assert world.rows("select customer, reason from aggregator.unmapped") == [("cus_a", "quantity is NULL")]


def test_reading_again_changes_nothing(database: Database) -> None:
    """Samples stay as they are, so a window comes to the same in each round, by another process, and after any change."""
    world = SampledWorld(database, AVERAGE)
    lives(world, [(0, 4), (20, 10), (50, 1)], 70)
    before = world.rows(
        "select slot.*, event.identifier from aggregator.slot join aggregator.event on tail = event.id"
    )
    world.application.set("cus_a", 99)
    other = SampledWorld(database, AVERAGE, world.application, sinks=[world.sink])
    for hours in (1.5, 1.6):
        other.pass_by(hours)
    assert before == world.rows(
        "select slot.*, event.identifier from aggregator.slot join aggregator.event on tail = event.id "
        "where slot.window_start < '2026-11-01T01:00Z'"
    )


def test_samples_are_kept_as_long_as_declared_and_the_one_before_them(database: Database) -> None:
    """What is dropped was read; the sample that stands for the first windows that are left stays, and all records."""
    world = SampledWorld(database, AVERAGE)
    lives(world, [(0, 4)], 70)
    for day in (10, 20, 30, 37, 40, 50, 80):
        world.pass_by(24 * day)
    assert world.one("select count(*) from aggregator.sampling where dropped_at is not null") == 12
    kept = world.rows("select at from aggregator.sample order by at")
    assert [at for (at,) in kept] == [world.now - dt.timedelta(days=days) for days in (40, 30, 0)]
    with pytest.raises(Exception, match="a sample never changes"):
        world.execute("update aggregator.sample set value = 1")
