"""Of which feeds nothing differs is asked for all of them at once: those that would find nothing by themselves."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from decimal import Decimal
from typing import Any

import psycopg
import pytest

from aggregator.core.model import Reading, Span, Terms, WriteModel
from aggregator.ledger.database import Database
from aggregator.ledger.meters import Feed
from aggregator.ledger.passes import changes
from aggregator.ledger.passes.spool import Spool
from tests.fakes import FakeSink
from tests.postgres.world import HOUR, METER, MINUTE, START, World

SINKS = ("by_delta", "by_last", "from_the_second_hour", "until_the_second_hour")
SPAN = Span(START, START + 2 * HOUR)
NOISE = Decimal("1e-15")


@pytest.fixture
def world(database: Database) -> World:
    """A meter with four sinks, of which one begins and one ends in the middle; two windows of it were read."""
    terms = (Terms(SINKS[2], bill_from=START + HOUR), Terms(SINKS[3], bill_until=START + HOUR))
    world = World(
        database,
        meter=replace(METER, terms=(*map(Terms, SINKS[:2]), *terms)),
        sinks=[FakeSink(name) for name in SINKS],
    )
    world.source.use("cus_a", START, 10)
    world.source.use("cus_b", START + HOUR, 20)
    world.at(2, 6)
    world.collect()
    return world


def nothing(_: World) -> None:
    pass


def more_in_the_first_hour(world: World) -> None:
    world.source.use("cus_a", START + MINUTE, 1)


def less_in_the_second_hour(world: World) -> None:
    del world.source.uses[1]


def nothing_of_somebody_new(world: World) -> None:
    world.source.use("cus_c", START, 0)


def a_number_that_differs_by_its_noise(world: World) -> None:
    world.source.use("cus_a", START, Decimal("1e-14"))


def what_is_to_be_planned_anew(world: World) -> None:
    world.execute(
        "update aggregator.slot set replan = true where customer = 'cus_b' and feed_id = %s",
        feed(world, 2).id,
    )


def an_unusable_row_beside_more(world: World) -> None:
    more_in_the_first_hour(world)
    world.source.use("cus_a", START + MINUTE, Decimal("NaN"))


def feed(world: World, number: int) -> Feed:
    return world.registered.feeds[number]


def readings(world: World) -> list[Reading]:
    return [
        each._replace(quantity=None, reason="not a number")
        if each.quantity and each.quantity.is_nan()
        else each
        for batch in world.source.read("", SPAN, HOUR)
        for each in batch
    ]


@pytest.mark.parametrize("noise", [Decimal(0), NOISE])
@pytest.mark.parametrize(
    ("happens", "differ"),
    [
        (nothing, set()),
        (more_in_the_first_hour, {0, 1, 3}),
        (less_in_the_second_hour, {0, 1, 2}),
        (nothing_of_somebody_new, {1}),
        (a_number_that_differs_by_its_noise, {0, 1, 3}),
        (what_is_to_be_planned_anew, {2}),
        (an_unusable_row_beside_more, set()),
    ],
)
def test_nothing_differs_of_a_feed_where_it_would_find_nothing_by_itself(
    world: World, happens: Callable[[World], None], differ: set[int], noise: Decimal
) -> None:
    """Whatever it books by, from whenever and until whenever it bills; and a float within its noise is what it was."""
    happens(world)
    if noise and happens is a_number_that_differs_by_its_noise:
        differ = set()
    feeds = [
        each._replace(model=WriteModel.LAST if number == 1 else WriteModel.DELTA)
        for number, each in enumerate(world.registered.feeds)
    ]
    with Spool() as spool, world.database.transaction() as connection, ThreadPoolExecutor(1) as io:
        spool.add(readings(world))
        spool.noise = noise
        changes.bring(connection, spool)
        found = {each.id for each in feeds if list(of(connection, io, each, noise))}
        assert found == {feeds[number].id for number in differ}
        assert changes.same(connection, feeds, SPAN, spool, METER.unit) == {each.id for each in feeds} - found


def of(connection: psycopg.Connection[Any], io: ThreadPoolExecutor, feed: Feed, noise: Decimal) -> Any:
    return changes.changes(connection, io, feed, SPAN, None, noise=noise, unit=METER.unit)  # type: ignore[arg-type]


def test_it_is_not_asked_where_it_saves_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one feed, or of very many readings, each feed is looked at by itself."""
    monkeypatch.setattr(changes, "WORTH_A_LOOK", 1)
    with Spool() as spool, world.database.transaction() as connection:
        spool.add(readings(world))
        changes.bring(connection, spool)
        assert changes.same(connection, world.registered.feeds, SPAN, spool, METER.unit) == set()
        monkeypatch.undo()
        assert changes.same(connection, world.registered.feeds[:1], SPAN, spool, METER.unit) == set()
