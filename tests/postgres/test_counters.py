"""Counters: increases are billed once, whatever falls, vanishes, comes late or is killed between."""

import datetime as dt
import random
from decimal import Decimal

import pytest

from aggregator.core.model import ZERO
from aggregator.core.sampling import Counters, FirstValue, Resets, Sampled
from aggregator.errors import QueryRejected, SourceUnreachable
from aggregator.ledger.database import Database
from tests.postgres.sampled_world import EVERY, SampledWorld
from tests.postgres.world import HOUR, START

RESTART = Counters(Resets.RESTART)


def by_window(world: SampledWorld, customer: str) -> dict[int, Decimal]:
    """Return what the ledger has read of a customer, by the hour after the start."""
    rows = world.rows(
        "select window_start, quantity from aggregator.slot where customer = %s and quantity <> 0", customer
    )
    return {(start - START) // HOUR: quantity for start, quantity in rows}


def test_increases_are_billed_to_the_window_of_the_newer_sample(database: Database) -> None:
    """The first value bills nothing; what a counter rose by over the edge of a window belongs to the newer one."""
    world = SampledWorld(database, RESTART)
    for hours, minutes, value in [
        (0, 10, 1_000),
        (0, 50, 1_007),
        (1, 0, 1_010),
        (1, 50, 1_030),
        (2, 10, "1030.5"),
    ]:
        world.application.set("cus_a", value)
        world.pass_by(hours, minutes)
    world.pass_by(3, 10)
    assert by_window(world, "cus_a") == {0: 7, 1: 23, 2: Decimal("0.5")}
    assert world.booked("cus_a") == 30


@pytest.mark.parametrize(
    ("resets", "read", "booked"), [(Resets.RESTART, 25, 25), (Resets.HOLD, 25, 0), (Resets.IGNORE, 15, 15)]
)
def test_a_counter_that_fell_comes_to_what_is_declared(
    database: Database, resets: Resets, read: int, booked: int
) -> None:
    """It began at zero, or went on from there; where a person is to look, the window waits with its figures."""
    world = SampledWorld(database, Counters(resets))
    for minutes, value in [(10, 100), (20, 110), (30, 10), (40, 15)]:
        world.application.set("cus_a", value)
        world.pass_by(0, minutes)
    world.pass_by(1, 10)
    assert by_window(world, "cus_a") == {0: read}
    assert world.booked("cus_a") == booked
    held = world.rows("select reason from aggregator.parked where state = 'held'")
    if resets is Resets.HOLD:
        [(reason,)] = held
        assert reason == "its counter fell from 110 to 10 at 2026-11-01 00:30:00Z (`resets: hold`)"
    else:
        assert held == []


def test_a_counter_that_fell_to_zero_is_a_reset_as_any_other(database: Database) -> None:
    """It comes to nothing by itself, and what it rises by afterwards waits as well, if a person is to be asked."""
    world = SampledWorld(database, Counters(Resets.HOLD))
    for minutes, value in [(10, 100), (20, 0), (30, 500)]:
        world.application.set("cus_a", value)
        world.pass_by(0, minutes)
    world.pass_by(1, 10)
    assert by_window(world, "cus_a") == {0: 500}
    assert world.booked("cus_a") == 0


def test_a_changed_policy_holds_from_the_next_window_on(database: Database) -> None:
    """What fell before stays billed by what was declared then, also when a late value lets its window be read again."""
    world = SampledWorld(database, RESTART)
    app = world.application
    for hours, minutes, value in [(0, 10, 100), (0, 20, 30), (1, 10, 30)]:
        app.set("cus_a", value)
        world.pass_by(hours, minutes)
    after = SampledWorld(database, Counters(Resets.IGNORE), app, sinks=[world.sink])
    app.history.append(Sampled("cus_b", "", Decimal(1), START + dt.timedelta(minutes=30)))
    app.history.append(Sampled("cus_b", "", Decimal(9), START + dt.timedelta(minutes=40)))
    for hours, minutes, value in [(1, 20, 35), (2, 10, 5), (2, 20, 7), (3, 10, 7)]:
        app.set("cus_a", value)
        after.pass_by(hours, minutes)
    assert by_window(after, "cus_a") == {0: 30, 1: 5, 2: 2}
    assert by_window(after, "cus_b") == {0: 8}


def test_a_counter_without_its_series_is_another_one(database: Database) -> None:
    """Its first value bills nothing: what the counter stands at was billed under the other name, or before."""
    world = SampledWorld(database, RESTART)
    app = world.application
    for minutes, value in ((10, 100), (20, 130)):
        app.set("cus_a", value, "meter-1")
        world.pass_by(0, minutes)
    app.take("cus_a", "meter-1")
    for hours, value in ((1.2, 140), (1.4, 145), (2.2, 145)):
        app.set("cus_a", value)
        world.pass_by(hours)
    assert by_window(world, "cus_a") == {0: 30, 1: 5}


def test_the_first_value_counts_whole_if_that_is_declared(database: Database) -> None:
    """A device that begins at zero when it is installed is billed from its first value on."""
    world = SampledWorld(database, Counters(Resets.RESTART, FirstValue.WHOLE))
    world.application.set("cus_a", 12)
    world.pass_by(0, 30)
    world.pass_by(1, 10)
    assert by_window(world, "cus_a") == {0: 12}


def test_each_of_a_customers_counters_rises_by_itself(database: Database) -> None:
    """One that vanishes and comes back is billed by what it rose meanwhile; one that is new bills nothing at first."""
    world = SampledWorld(database, RESTART)
    app = world.application
    app.set("cus_a", 100, "meter-1")
    app.set("cus_a", 500, "meter-2")
    world.pass_by(0, 10)
    app.set("cus_a", 130, "meter-1")
    app.take("cus_a", "meter-2")
    app.set("cus_a", 7, "meter-3")
    world.pass_by(0, 50)
    app.set("cus_a", 540, "meter-2")
    world.pass_by(2, 10)
    world.pass_by(3, 10)
    assert by_window(world, "cus_a") == {0: 30, 2: 40}


def test_what_rose_while_nobody_was_there_is_in_the_window_of_the_next_sample(database: Database) -> None:
    """Three days without a daemon lose nothing, and nothing is billed into the windows between."""
    world = SampledWorld(database, RESTART)
    world.application.set("cus_a", 100)
    world.pass_by(0, 10)
    world.application.set("cus_a", 400)
    world.pass_by(72, 10)
    world.pass_by(73, 10)
    assert by_window(world, "cus_a") == {72: 300}


def test_an_instant_of_its_own_says_where_an_increase_belongs(database: Database) -> None:
    """A device that reports late is billed in the window it reports of; a value that is no newer is not taken."""
    world = SampledWorld(database, RESTART)
    app = world.application
    key = ("cus_a", "")
    for at_hours, at_minutes, of_minutes, value in [
        (0, 10, 5, 10),
        (0, 50, 45, 30),
        (1, 20, 58, 50),
        (1, 40, 30, 20),
    ]:
        app.set("cus_a", value)
        app.dated[key] = START + dt.timedelta(minutes=of_minutes)
        world.pass_by(at_hours, at_minutes)
    assert by_window(world, "cus_a") == {0: 40}
    assert world.rows("select stale from aggregator.sampling order by due") == [(0,), (0,), (0,), (1,)]


def test_several_values_of_one_counter_in_one_sample_are_taken_in_their_order(database: Database) -> None:
    """A table that keeps past values catches up what happened while nobody looked, reset and all; twice changes nothing."""
    world = SampledWorld(database, RESTART)
    for minutes, value in [(5, 10), (65, 30), (70, 4), (130, 9)]:
        at = START + dt.timedelta(minutes=minutes)
        world.application.history.append(Sampled("cus_a", "", Decimal(value), at))
    for hours in (0.2, 2.5, 2.7, 3.2):
        world.pass_by(hours)
    assert by_window(world, "cus_a") == {1: 24, 2: 5}


def test_two_values_at_one_instant_are_refused(database: Database) -> None:
    """Two devices of a customer that are not told apart: which is which cannot be known, and nothing is written."""
    world = SampledWorld(database, RESTART)
    world.application.history = 2 * [Sampled("cus_a", "", Decimal(1), None)]
    with pytest.raises(QueryRejected, match="return as `series` what tells a customer's counters apart"):
        world.pass_by(0, 10)
    assert world.one("select count(*) from aggregator.sampling") == 0


def test_rows_that_nobody_can_be_billed_for_are_named(database: Database) -> None:
    """A device without a customer rises too, and is told of; without a `series` it cannot be known again."""
    world = SampledWorld(database, RESTART)
    app = world.application
    for minutes, value in ((10, 5), (20, 9)):
        app.set(None, value, "meter-9")
        app.set("cus_a", None)
        world.pass_by(0, minutes)
    app.take(None, "meter-9")
    app.set(None, 3)
    world.pass_by(1, 10)
    assert world.rows("select reason, quantity from aggregator.unmapped") == [("no customer", 4)]
    assert world.rows("select unusable, unusable_reason from aggregator.sampling order by due") == [
        (1, "quantity is NULL"),
        (1, "quantity is NULL"),
        (2, "quantity is NULL"),
    ]


def test_a_source_that_is_down_keeps_windows_waiting(database: Database) -> None:
    """No window is read without the sample that was due: the round says why, and nothing is lost when it answers again."""
    world = SampledWorld(database, RESTART)
    world.application.set("cus_a", 100)
    world.pass_by(0, 10)
    world.application.down = True
    world.application.set("cus_a", 140)
    with pytest.raises(SourceUnreachable):
        world.pass_by(1, 10)
    assert "it is down" in world.one("select error from aggregator.pass where error is not null")
    world.application.down = False
    world.pass_by(1, 20)
    world.pass_by(2, 10)
    assert by_window(world, "cus_a") == {1: 40}


def test_two_daemons_take_one_sample(database: Database) -> None:
    """Whoever comes second finds the sample of this instant taken; a process without the meter cannot write one."""
    world = SampledWorld(database, RESTART)
    world.application.set("cus_a", 1)
    world.at(0, 10)
    other = SampledWorld(database, RESTART, world.application, sinks=[world.sink])
    for minutes in (10, 14, 20, 25):
        world.at(0, minutes)
        other.at(0, minutes)
        world.collect()
        other.collect()
    assert world.application.asked == 2
    assert world.one("select count(*) from aggregator.sampling") == 2


def test_random_lives_come_to_what_the_counters_rose_by(database: Database) -> None:
    """Resets, gaps, devices that come and go: the sum equals what was used in truth while samples stood for it."""
    chance = random.Random(12)
    world = SampledWorld(database, RESTART)
    app = world.application
    seen: dict[tuple[str, str], Decimal] = {}
    truth: dict[str, Decimal] = {}
    for tick in range(1, 50):
        for customer in ("cus_a", "cus_b"):
            for series in ("1", "2"):
                key = customer, series
                event = chance.random()
                if event < 0.1:
                    app.states.pop(key, None)
                elif event < 0.2:
                    app.set(customer, chance.randrange(3), series)
                else:
                    app.set(
                        customer, (app.states.get(key) or ZERO) + Decimal(chance.randrange(100)) / 8, series
                    )
        if chance.random() < 0.3:
            continue  # nobody is there
        for (whose, series), value in app.states.items():
            assert whose is not None
            assert value is not None
            before = seen.get((whose, series))
            if before is not None:
                truth[whose] = truth.get(whose, ZERO) + (value - before if value >= before else value)
            seen[whose, series] = value
        world.now = START + tick * EVERY
        world.collect()
        if chance.random() < 0.3:
            world.deliver()
    world.now += 2 * HOUR
    world.collect()
    world.deliver()
    world.check_balance()
    for customer, used in truth.items():
        assert sum(by_window(world, customer).values()) == used
