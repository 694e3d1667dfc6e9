"""A meter that always had usage and has none any more is told of; what was quiet before is not."""

import datetime as dt
from dataclasses import replace

import pytest

from aggregator.ledger.database import Database
from tests.postgres.world import HOUR, METER, MINUTE, START, World


def used(world: World, hours: range, every: dt.timedelta = HOUR) -> None:
    """Let a customer use something in each stretch of so many hours."""
    for hour in hours:
        at = START + hour * HOUR
        while at < START + (hour + 1) * HOUR:
            world.source.use("cus_a", at)
            at += every


@pytest.mark.parametrize(("window", "told_at"), [(HOUR, 9), (5 * MINUTE, 10)])
def test_no_usage_at_all_where_there_always_was_some_is_told_once(
    database: Database, window: dt.timedelta, told_at: int
) -> None:
    """After an hour without any, or two of shorter windows; it is news once, and stays until usage comes again."""
    world = World(database, meter=replace(METER, window=window))
    used(world, range(8), window)
    world.at(told_at - 1, 10)
    assert world.collect().silent_since is None
    world.at(told_at, 10)
    result = world.collect()
    assert (result.silent_since, result.silent_anew) == (START + 8 * HOUR, True)
    assert world.one("select silent_since from aggregator.meter") == START + 8 * HOUR
    world.at(told_at + 1, 10)
    result = world.collect()
    assert (result.silent_since, result.silent_anew) == (START + 8 * HOUR, False)
    used(world, range(told_at + 1, told_at + 2))
    world.at(told_at + 2, 10)
    assert world.collect().silent_since is None
    assert world.one("select silent_since from aggregator.meter") is None


def test_what_was_quiet_before_is_nothing_unusual(database: Database) -> None:
    """One hour without usage among those looked back to, as every night may have."""
    world = World(database)
    used(world, range(5))
    used(world, range(6, 12))
    world.at(14, 10)
    assert world.collect().silent_since is None


def test_usage_that_vanishes_later_was_usage(database: Database) -> None:
    """Rows that are hidden from us are taken back from the hours before, too: the silence is said all the same."""
    world = World(database)
    used(world, range(8))
    world.at(8, 10)
    world.collect()
    world.deliver()
    world.source.uses.clear()
    for hour in range(9, 12):
        world.at(hour, 10)
        world.collect()
        world.deliver()
    world.at(12, 10)
    assert world.collect().silent_since == START + 8 * HOUR
    assert world.one("select max(quantity) from aggregator.slot") == 0


def test_a_meter_too_young_to_tell_is_left_alone(database: Database) -> None:
    """Five stretches are no habit."""
    world = World(database)
    used(world, range(5))
    world.at(7, 10)
    assert world.collect().silent_since is None


def test_a_long_silence_becomes_what_is_usual(database: Database) -> None:
    """After as long as it had usage before."""
    world = World(database)
    used(world, range(8))
    world.at(16, 10)
    assert world.collect().silent_since == START + 8 * HOUR
    world.at(17, 10)
    assert world.collect().silent_since is None
