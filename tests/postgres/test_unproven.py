"""A source that must prove its freshness: what it has not proven to see is neither read, compared nor lowered."""

import datetime as dt
import sqlite3
from contextlib import closing
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest

from aggregator.collection.backfill import Backfill
from aggregator.core.forecast import Forecast
from aggregator.core.model import Decreases, Fence, Span
from aggregator.ledger.database import Database
from aggregator.ledger.passes.stats import Tally
from aggregator.source import Source
from tests.postgres.world import HOUR, METER, MINUTE, START, World

APPLY = replace(METER, decreases=Decreases.APPLY, shrink_guard=Decimal(1))


def shows(world: World, fresh_until: dt.datetime | None, *, standby: bool = True) -> None:
    """Let the source prove to be fresh until then; it is what it says: a standby, or a primary with `freshness`."""
    world.source.transactions = Fence(
        at=world.now,
        xmin=100,
        xmax=100,
        oldest_start=None,
        sees_starts=False,
        standby=standby,
        fresh_until=fresh_until,
        holder=None,
        declared=not standby,
    )


@pytest.fixture(params=[True, False], ids=["standby", "declared"])
def standby(request: pytest.FixtureRequest) -> bool:
    """What kind of source must prove something."""
    return bool(request.param)


@pytest.fixture
def world(database: Database, standby: bool) -> World:
    """Three hours of a hundred units each, billed while the source was fresh; then the source lags, and lacks them."""
    world = World(database, meter=APPLY)
    for hour in range(3):
        world.source.use("cus_a", START + hour * HOUR, 100)
    world.at(3, 10)
    shows(world, world.now, standby=standby)
    world.collect()
    world.deliver()
    assert world.booked("cus_a") == 300
    return world


def lagging(world: World, fresh_until: dt.datetime | None, *, standby: bool) -> None:
    """Let the source lack all that was used from the second hour on."""
    world.source.uses = [use for use in world.source.uses if use[1] < START + HOUR]
    shows(world, fresh_until, standby=standby)


@pytest.mark.parametrize("fresh_until", [None, START + HOUR, START + 3 * HOUR])
def test_a_revisit_lowers_nothing_that_is_not_proven(
    world: World, standby: bool, fresh_until: dt.datetime | None
) -> None:
    """Also where the proof lies behind the windows, but before what was shown already."""
    lagging(world, fresh_until, standby=standby)
    world.at(4, 10)
    result = world.collect()
    assert (result.planned, result.corrections) == (0, 0)
    assert result.mark == START + 3 * HOUR
    assert result.waits_for is not None
    assert "has not shown" in result.waits_for
    assert world.one("select waits_for from aggregator.meter") == result.waits_for
    world.deliver()
    assert world.booked("cus_a") == 300


def test_a_backfill_reads_nothing_that_is_not_proven(world: World, standby: bool) -> None:
    """It says from where on, and why; the mark stays where it was."""
    lagging(world, START + 2 * HOUR, standby=standby)
    world.at(6, 10)
    span = Span(START, START + 6 * HOUR)
    job = Backfill(world.collection, world.meters.definitions(world.registered), span)
    done = job.run(world.now, lambda: None)
    assert (done.rows, done.new, done.corrections, done.left_from) == (0, 0, 0, START)
    assert done.left_why is not None
    assert world.one("select mark from aggregator.meter") == START + 3 * HOUR
    dry = job.dry_run(world.now)
    assert dry.left_from == START + 2 * HOUR, "who only looks is told the same of the proof"


def test_what_is_proven_is_read_up_to_there(database: Database, standby: bool) -> None:
    """A backfill ahead of the mark commits whole windows within the proof, and goes on from there another time."""
    world = World(database, meter=APPLY)
    for hour in range(6):
        world.source.use("cus_a", START + hour * HOUR, 100)
    world.at(6, 10)
    shows(world, START + 2 * HOUR + 30 * MINUTE, standby=standby)
    result = world.backfill(Span(START, START + 6 * HOUR))
    assert (result.left_from, result.mark, result.planned) == (START + 2 * HOUR, START + 2 * HOUR, 2)
    shows(world, world.now, standby=standby)
    result = world.backfill(Span(START, START + 6 * HOUR))
    assert (result.left_from, result.mark, result.planned) == (None, START + 6 * HOUR, 4)


def test_no_patience_for_writers_is_no_waiver_of_the_proof(database: Database, standby: bool) -> None:
    """`wait_for_writers: 0s` is about open transactions; these worlds have none of that patience."""
    world = World(database, meter=APPLY)
    world.source.use("cus_a", START, 100)
    world.at(2, 10)
    shows(world, None, standby=standby)
    assert world.collect().mark == START
    shows(world, START + HOUR, standby=standby)
    result = world.collect()
    assert (result.mark, result.planned, result.unfenced) == (START + HOUR, 1, False)


def test_a_proof_that_was_not_there_for_the_rows_counts_for_nothing(database: Database) -> None:
    """Two standbys behind one address: the one that is asked has seen everything, the one that answers has not."""
    world = World(database, meter=APPLY)
    world.source.use("cus_a", START, 100)
    world.at(2, 10)
    shows(world, world.now)
    fresh = world.source.transactions
    assert fresh is not None
    answers = iter([fresh, fresh._replace(fresh_until=None)])
    world.source.fence = lambda: next(answers)  # type: ignore[method-assign]
    result = world.collect()
    assert (result.mark, result.planned, result.left_from) == (START, 0, START)


def test_a_preview_looks_at_nothing_that_is_not_proven(world: World, standby: bool) -> None:
    """It says from where on it did not, and why."""
    lagging(world, START + 90 * MINUTE, standby=standby)
    tally = Tally()
    known = world.meters.definitions(world.registered)
    span = Span(START, START + 3 * HOUR)
    decided = list(world.collection.preview(span, world.now, tally, known, Forecast()))
    assert (decided, tally.left_from) == ([], START + HOUR)
    assert tally.left_why is not None


def test_a_load_is_read_up_to_what_it_says_of_itself(database: Database, tmp_path: Path) -> None:
    """A database that is no Postgres, filled by a load: what that has not brought over is not read, nor taken back."""
    loaded = dt.datetime(2025, 3, 1, tzinfo=dt.UTC)
    file = tmp_path / "warehouse.db"
    source = Source(
        "warehouse",
        f"sqlite:///{file}",
        statement_timeout=MINUTE,
        freshness="select max(complete_until) from load",
    )
    query = "select customer, quantity, used_at as at from usage where used_at >= :start and used_at < :end"
    world = World(
        database,
        meter=replace(APPLY, query=query, start_at=loaded),
        source=source,  # type: ignore[arg-type]  # the real one reads as the fake does
    )
    world.now = loaded + 4 * HOUR + 10 * MINUTE
    marks = []
    with closing(sqlite3.connect(file)) as warehouse:
        warehouse.execute("create table usage (customer text, quantity integer, used_at text)")
        warehouse.execute("create table load (complete_until text)")
        for hour in (1, 3):
            warehouse.execute(
                "insert into usage values ('cus_a', 100, ?)", [f"2025-03-01 {hour - 1:02d}:30:00"]
            )
            warehouse.execute("insert into load values (?)", [f"2025-03-01 {hour:02d}:00:00"])
            warehouse.commit()
            marks.append(world.collect().mark)
        warehouse.execute("delete from usage")  # it is loaded anew, and shows less than before
        warehouse.execute("update load set complete_until = '2025-03-01 01:00:00'")
        warehouse.commit()
        again = world.collect()
    assert marks == [loaded + HOUR, loaded + 3 * HOUR]
    assert (again.mark, again.planned, again.corrections) == (loaded + 3 * HOUR, 0, 0)
    world.deliver()
    assert world.booked("cus_a") == 200
