"""A query that gives another number each time it is read: it is found out in one snapshot, and stopped for a person."""

import datetime as dt
from collections.abc import Callable, Iterator
from dataclasses import replace

import psycopg
import pytest

from aggregator.core.planner import FREE_REVISIONS
from aggregator.ledger.database import Database
from aggregator.source import Source
from tests.postgres.world import METER, START, World

RANDOM = """
select customer, sum(quantity * (1 + floor(random() * 1000000))) as quantity from usage
 where used_at >= :start and used_at < :end group by 1
"""
UP_TO_NOW = """
select customer, sum(abs(extract(epoch from now() - used_at)) * 1000000) as quantity from usage
 where used_at >= :start and used_at < :end group by 1
"""
STEADY = "select customer, sum(quantity) as quantity from usage where used_at >= :start and used_at < :end group by 1"

Run = Callable[[str], None]
Read = Callable[[World, int], None]


@pytest.fixture
def run(source_url: str) -> Iterator[Run]:
    """Run a statement in the application database."""
    with psycopg.connect(source_url, autocommit=True) as connection:

        def execute(statement: str) -> None:
            connection.execute(statement.encode())

        execute("create table usage (customer text, used_at timestamptz, quantity numeric)")
        execute(
            f"insert into usage select 'cus_' || c, '{START:%Y-%m-%dT%H:%MZ}', c from generate_series(1, 3) c"
        )
        yield execute


def world_of(database: Database, url: str, query: str) -> World:
    source = Source("app", url, statement_timeout=dt.timedelta(seconds=20))
    meter = replace(METER, query=query, fingerprint=query[:64].ljust(64, "x"))
    return World(database, meter=meter, source=source)  # type: ignore[arg-type]  # the real one reads as the fake does


def passes(world: World, count: int) -> list[str]:
    """Let so many passes go, each with all that it planned delivered; return what they say of unstable queries."""
    said: list[str] = []
    for number in range(count):
        world.at(1, 10 + number)
        said += world.collect().unstable
        world.deliver()
    return said


def events(world: World, customer: str = "cus_1") -> list[tuple[int, str]]:
    return world.rows(
        "select revision, state from aggregator.event where customer = %s order by revision", customer
    )


def test_a_query_that_changes_by_itself_comes_to_rest(database: Database, source_url: str, run: Run) -> None:
    """After five events of a window nothing more of it goes, and no more is planned: a person is asked."""
    world = world_of(database, source_url, RANDOM)
    said = passes(world, 30)
    assert len(said) == 1
    assert "when it was read again in one snapshot" in said[0]
    for number in range(1, 4):
        found = events(world, f"cus_{number}")
        assert len(found) <= 2 * FREE_REVISIONS
        assert found[-1][1] == "held"
    booked = dict(world.sink.booked)
    assert passes(world, 10) == []
    assert world.sink.booked == booked
    world.check_balance()


def test_a_query_that_counts_up_to_the_present_comes_to_rest(
    database: Database, source_url: str, run: Run
) -> None:
    """In one snapshot it always says the same, and with every pass more."""
    world = world_of(database, source_url, UP_TO_NOW)
    [said] = passes(world, 30)
    assert "when it was read again a moment later" in said
    assert events(world)[-1][1] == "held"
    booked = dict(world.sink.booked)
    assert passes(world, 10) == []
    assert world.sink.booked == booked
    world.check_balance()


def test_a_query_that_only_names_the_present_is_never_held(
    database: Database, source_url: str, run: Run
) -> None:
    """What it says of a window changes with its rows alone."""
    world = world_of(database, source_url, STEADY.replace("group by", "and used_at <> now() group by"))
    for number in range(20):
        run("update usage set quantity = quantity + 1")
        world.at(1, 10 + number)
        assert world.collect().unstable == []
        world.deliver()
    assert world.one("select count(*) from aggregator.parked") == 0


def test_a_persons_word_lets_five_more_go(database: Database, source_url: str, run: Run) -> None:
    """What is released is sent; then it goes on, up to the next five."""
    world = world_of(database, source_url, RANDOM)
    passes(world, 20)
    [(event, revision)] = world.rows(
        "select event_id, revision from aggregator.parked join aggregator.event on event.id = event_id"
        " where customer = 'cus_1'"
    )
    assert world.outbox.release([event], world.now)
    world.deliver()
    passes(world, 20)
    last = events(world)[-1]
    assert revision < last[0] <= revision + 2 * FREE_REVISIONS
    assert last[1] == "held"
    world.check_balance()


def test_usage_that_keeps_coming_is_never_held(database: Database, source_url: str, run: Run) -> None:
    """A window that grows in each of forty passes is billed each time: what it says in one snapshot is always the same."""
    world = world_of(database, source_url, STEADY)
    for number in range(40):
        run("update usage set quantity = quantity + 1")
        world.at(1, 10 + number)
        assert world.collect().unstable == []
        world.deliver()
    assert world.booked("cus_1") == 41
    assert len(events(world)) == 40
    assert world.one("select count(*) from aggregator.parked") == 0


def test_reading_twice_costs_little(world: World) -> None:
    """A window that keeps growing is looked at with its fifth event, its ninth, its seventeenth, and so on."""
    for number in range(40):
        world.source.use("cus_1", START)
        world.at(1, 10 + number)
        world.collect()
        world.deliver()
    assert len(world.source.reread_spans) == 4
    assert world.booked("cus_1") == 40


def test_a_mended_query_goes_on_by_itself(database: Database, source_url: str, run: Run) -> None:
    """What is proven of a definition is said of no other."""
    world = world_of(database, source_url, RANDOM)
    passes(world, 20)
    mended = world_of(database, source_url, STEADY)
    lease = mended.hold()
    assert lease is not None
    assert mended.meter.fingerprint not in lease.unstable
