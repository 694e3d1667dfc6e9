"""Shares of a sink's rate limit in the ledger: what processes hold together is never more than the limit."""

import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from aggregator.core.rate_shares import LEASE_SECONDS, Asked
from aggregator.ledger.database import Database
from aggregator.ledger.outbox.rate_shares import RateShares
from tests.postgres.world import START, World

LIMIT = 100.0
LEASE = timedelta(seconds=LEASE_SECONDS)


def asks(used: float = 0.0, wanted: float = LIMIT, route: str = "v1") -> list[Asked]:
    """What a process asks that could use all of the limit."""
    return [Asked(route, LIMIT, wanted, used)]


@pytest.fixture
def sink(world: World) -> int:
    """The number of a sink that the ledger knows."""
    return world.registered.feeds[0].sink_id


def process(database: Database) -> RateShares:
    """The shares of one more process."""
    return RateShares(database, uuid.uuid4())


def test_the_first_has_all_and_the_second_waits_until_it_has_made_room(database: Database, sink: int) -> None:
    """What one may use is another's only once the first has said that it uses less."""
    one, two = process(database), process(database)
    assert one.renew(sink, asks(), START) == [100]
    assert two.renew(sink, asks(), START) == [0]
    assert one.renew(sink, asks(used=100), START) == [50]
    assert two.renew(sink, asks(), START) == [0], "the answer may be lost"
    assert one.renew(sink, asks(used=50), START) == [50]
    assert two.renew(sink, asks(), START) == [50]


def test_what_a_killed_process_held_is_free_when_it_is_over(database: Database, sink: int) -> None:
    """By the ledger's clock."""
    gone, other = process(database), process(database)
    gone.renew(sink, asks(), START)
    assert other.renew(sink, asks(), START + LEASE - timedelta(milliseconds=1)) == [0]
    assert other.renew(sink, asks(), START + LEASE) == [100]


def test_what_is_given_back_is_free_at_once(database: Database, sink: int) -> None:
    """All of it, or one route of several."""
    one, two = process(database), process(database)
    one.renew(sink, [*asks(), *asks(route="stream")], START)
    assert one.renew(sink, [*asks(used=100), *asks(route="stream", wanted=0.0)], START) == [100, 0]
    assert two.renew(sink, [*asks(), *asks(route="stream")], START) == [0, 100]
    one.release(sink)
    assert two.renew(sink, asks(), START) == [100]


def test_routes_and_sinks_do_not_share(world: World, database: Database, sink: int) -> None:
    """Each has a limit of its own."""
    other_sink = world.one("insert into aggregator.sink (name) values ('other') returning id")
    one, two = process(database), process(database)
    one.renew(sink, asks(), START)
    assert two.renew(sink, asks(route="v1 acct_1"), START) == [100]
    assert two.renew(other_sink, asks(), START) == [100]


def test_whole_numbers_and_others_go_together(database: Database, sink: int) -> None:
    """A limit is what the configuration says, often a whole number; what is wanted of another route is a part of one."""
    both = [Asked("v1", 1_000, 1_000, 0), Asked("reads", 100, 12.5, 0.0)]
    assert process(database).renew(sink, both, START) == [1_000, 100]


def test_a_clock_that_was_set_back_holds_nothing_for_long(database: Database, sink: int) -> None:
    """What was held by the clock as it was is over as soon as what is held by the clock as it is."""
    gone, other = process(database), process(database)
    gone.renew(sink, asks(), START + timedelta(days=1))
    assert other.renew(sink, asks(), START) == [0]
    assert other.renew(sink, asks(), START + LEASE) == [100]


def test_who_asks_at_the_same_time_never_gets_the_same_part(database: Database, sink: int) -> None:
    """One after the other is answered, and the later ones have what is left."""
    processes = [process(database) for _ in range(8)]
    with ThreadPoolExecutor(len(processes)) as pool:
        shares = list(pool.map(lambda each: each.renew(sink, asks(), START), processes))
    assert sum(share for [share] in shares) == 100


def test_a_claim_is_not_held_up_by_who_asks(world: World, database: Database, sink: int) -> None:
    """Nor by the lock that it takes."""
    world.source.use("cus_a", START, 1)
    world.at(1, 5)
    world.collect()
    with database.transaction(START) as connection:
        connection.execute("select from aggregator.sink where id = %s for no key update", (sink,))
        assert world.outbox.claim(sink, 10, world.now) is not None
