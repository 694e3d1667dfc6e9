"""A customer that had usage at this hour in every week before and has none now is told of; nothing is held for it."""

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from aggregator.core.model import Guards
from aggregator.ledger.database import Database
from aggregator.ledger.reports import Reports, SilentCustomer
from tests.postgres.world import HOUR, METER, MINUTE, START, World

WEEK = 168
ZERO = Guards(unusual_zero=True, unusual_from=Decimal(5))
AT = 4 * WEEK


def made(database: Database, guards: Guards = ZERO, **settings: Any) -> World:
    """Return four weeks of the same hour: cus_a has ten units in each, cus_b four, and cus_c ten in three of them."""
    world = World(database, meter=replace(METER, guards=guards, **settings))
    for week in range(4):
        at = START + week * WEEK * HOUR + 7 * MINUTE
        world.source.use("cus_a", at, 10)
        world.source.use("cus_b", at, 4)
        if week != 2:
            world.source.use("cus_c", at, 10)
        world.at(week * WEEK + 1, 5)
        assert world.collect().silent_customers == 0
    return world


def silent(world: World) -> list[SilentCustomer]:
    """Return who is listed."""
    return Reports(world.database).silent_customers()


def test_who_always_had_usage_and_has_none_is_told_of_once(database: Database) -> None:
    """Not who had little, or was missing in one of the weeks; it is news once, and a person is wanted while it lasts."""
    world = made(database)
    world.at(AT + 1, 5)
    result = world.collect()
    assert (result.silent_customers, result.silent_customers_anew, result.needs_person) == (1, 1, True)
    assert silent(world) == [SilentCustomer("api_requests", "cus_a", START + AT * HOUR, Decimal(10), 1)]
    world.at(AT + 1, 10)
    result = world.collect()
    assert (result.silent_customers, result.silent_customers_anew, result.needs_person) == (1, 0, True)
    assert world.one("select count(*) from aggregator.parked") == 0


@pytest.mark.parametrize("hours", [0, 2], ids=["late rows of that hour", "usage later"])
def test_a_customer_that_is_heard_of_again_is_not_silent(database: Database, hours: int) -> None:
    """By rows of that hour that came late, or by new usage."""
    world = made(database)
    world.at(AT + 1, 5)
    world.collect()
    world.source.use("cus_a", START + (AT + hours) * HOUR + MINUTE, 1)
    world.at(AT + hours + 1, 10)
    result = world.collect()
    assert (result.silent_customers, result.needs_person) == (0, False)
    assert silent(world) == []


def test_a_hour_that_was_passed_over_is_not_brought_up_later(database: Database) -> None:
    """Only the newest hour that is read is looked at: who is silent still is silent in that one, too."""
    world = made(database)
    world.at(AT + 2, 5)
    assert world.collect().silent_customers == 0


def test_after_four_weeks_it_is_what_is_usual(database: Database) -> None:
    """A customer that has left is not listed for ever."""
    world = made(database)
    world.at(AT + 1, 5)
    world.collect()
    world.at(AT + 4 * WEEK, 5)
    assert world.collect().silent_customers == 1
    world.at(AT + 4 * WEEK + 1, 5)
    assert world.collect().silent_customers == 0


def test_long_windows_are_looked_at_as_a_whole(database: Database) -> None:
    """A day is compared with the same day of the weeks before, once it is over."""
    world = World(database, meter=replace(METER, guards=ZERO, window=24 * HOUR))
    for week in range(4):
        world.source.use("cus_a", START + week * WEEK * HOUR + week * HOUR, 10)
        world.at(week * WEEK + 24, 5)
        world.collect()
    world.at(AT + 23, 5)
    assert world.collect().silent_customers == 0
    world.at(AT + 24, 5)
    assert world.collect().silent_customers == 1


def test_short_windows_are_looked_at_by_the_hour(database: Database) -> None:
    """Nobody has usage in each five minutes: while the hour is not over, nobody is silent."""
    world = made(database, window=5 * MINUTE)
    world.at(AT, 55)
    assert world.collect().silent_customers == 0
    world.at(AT + 1, 5)
    assert world.collect().silent_customers == 1


def test_nobody_is_asked_for_who_did_not_say_so(database: Database) -> None:
    """Without `unusual_zero` nothing is looked up."""
    world = made(database, Guards(max_change=Decimal(5), unusual_from=Decimal(5)))
    world.at(AT + 1, 5)
    assert world.collect().silent_customers == 0
    assert silent(world) == []
