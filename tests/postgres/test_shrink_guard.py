"""The shrink guard: what disappears at once is believed at the second reading, and sealed windows are not read at all."""

import datetime as dt
from dataclasses import replace
from decimal import Decimal

import pytest

from aggregator.core.model import Decreases, Span
from aggregator.errors import SourceError
from aggregator.ledger.database import Database
from tests.postgres.world import HOUR, METER, START, World

APPLY = replace(METER, decreases=Decreases.APPLY)


@pytest.fixture
def world(database: Database) -> World:
    """A meter that lowers what was billed by itself, with ten customers of ten units each in the first hour, billed."""
    world = World(database, meter=APPLY)
    for number in range(10):
        world.source.use(f"cus_{number}", START, 10)
    world.at(1, 5)
    world.collect()
    world.deliver()
    return world


def test_an_empty_result_takes_nothing_back(world: World) -> None:
    """A source that is empty for a while, as in the middle of a load, costs nobody anything (B18)."""
    rows, world.source.uses = world.source.uses, []
    world.at(2, 5)
    result = world.collect()
    assert (result.guarded, result.held, result.moved) == (1, 10, False)
    assert world.deliver().claimed == 0
    world.source.uses = rows
    world.at(2, 10)
    result = world.collect()
    assert (result.planned, result.held, result.moved) == (0, 0, True)
    assert world.deliver().claimed == 0
    assert world.booked("cus_0") == 10
    assert world.one("select count(*) from aggregator.parked") == 0
    world.check_balance()


def test_a_second_reading_confirms_what_is_gone(world: World) -> None:
    """Rows that are still gone an hour later are taken off the bill, once (B14)."""
    world.source.uses = world.source.uses[:5]
    world.at(2, 5)
    assert world.collect().guarded == 1
    world.at(2, 10)
    assert world.collect().guarded == 0, "a quick second look confirms nothing"
    assert world.deliver().claimed == 0
    world.at(3, 6)
    world.collect()
    assert world.deliver().accepted == 5
    assert sum(world.sink.booked.values()) == 50
    assert world.one("select count(*) from aggregator.guarded") == 0
    world.at(5)
    world.collect()
    assert world.deliver().claimed == 0
    world.check_balance()


def test_a_small_decrease_is_no_matter_for_the_guard(world: World) -> None:
    """Below the share that the meter declares, its own rule holds at once."""
    world.source.uses[0] = ("cus_0", START, Decimal(1))
    assert world.collect().guarded == 0
    world.deliver()
    assert world.booked("cus_0") == 1


@pytest.mark.parametrize(("left", "guarded"), [(81, 0), (80, 0), (79, 1)])
def test_the_share_is_exact(world: World, left: int, guarded: int) -> None:
    """More than 20 % of a window's total trips it, however it is spread."""
    world.source.uses = [("cus_0", START, Decimal(left)) if number == 0 else None for number in range(1)]  # type: ignore[misc]
    world.source.uses += [(f"cus_{number}", START, Decimal(0)) for number in range(1, 10)]
    assert world.collect().guarded == guarded


def test_usage_that_moves_to_another_customer_is_no_loss(world: World) -> None:
    """What one loses and another one gains leaves the window as large as it was."""
    world.source.uses = [("cus_other", START, Decimal(100))]
    assert world.collect().guarded == 0


def test_a_meter_that_holds_decreases_goes_on_holding_them(database: Database) -> None:
    """Confirmed by a second reading, the decrease waits for a person all the same."""
    world = World(database)
    world.source.use("cus_a", START, 10)
    world.at(1, 5)
    world.collect()
    world.deliver()
    world.source.uses.clear()
    world.collect()
    assert "second read" in world.one("select reason from aggregator.parked")
    world.at(3)
    world.collect()
    assert world.rows("select guard is not null, reason from aggregator.parked") == [
        (False, "lowers what was planned before")
    ]
    assert world.deliver().claimed == 0


def test_a_person_may_confirm_sooner(world: World) -> None:
    """Whoever knows why the rows are gone releases the events."""
    world.source.uses = world.source.uses[:5]
    world.collect()
    events = [row[0] for row in world.rows("select event_id from aggregator.parked")]
    assert len(world.outbox.release(events, world.now)) == 5
    world.deliver()
    assert sum(world.sink.booked.values()) == 50
    world.check_balance()


def test_growth_meanwhile_is_billed(world: World) -> None:
    """Only decreases wait."""
    world.source.uses = [("cus_0", START, Decimal(11))]
    assert world.collect().guarded == 1
    world.deliver()
    assert world.booked("cus_0") == 11
    assert world.booked("cus_1") == 10


def test_sealed_windows_are_never_read_again(database: Database) -> None:
    """Rows that retention removed take nothing off any bill, by no way of reading (H-9)."""
    world = World(database, meter=replace(APPLY, retained=dt.timedelta(days=2)))
    for hour in range(96):
        world.source.use("cus_a", START + hour * HOUR, 1)
        if hour % 12 == 11:
            world.at(hour + 1, 5)
            world.collect()
            world.deliver()
    world.at(96, 5)
    kept = START + 50 * HOUR
    world.source.uses = [use for use in world.source.uses if use[1] >= kept]
    result = world.collect()
    assert (result.changed, result.guarded) == (0, 0)
    assert min(span.start for span in world.source.reads[-2:]) >= world.now - dt.timedelta(days=2)
    assert world.booked("cus_a") == 96


def test_retention_that_overtakes_the_mark_is_an_error(database: Database) -> None:
    """Windows that were never read and whose rows are gone cannot be billed: that is said, not passed over."""
    world = World(database, meter=replace(METER, retained=dt.timedelta(days=2)))
    world.at(24 * 3)
    with pytest.raises(SourceError, match="keeps rows only from 2026-11-02T00:00Z"):
        world.collect()
    assert world.one("select mark from aggregator.meter") == START
    assert "data_retained_from" in world.one("select error from aggregator.pass")


def test_a_backfill_is_guarded_too(world: World) -> None:
    """It is the same code."""
    world.source.uses.clear()
    assert world.backfill(Span(START, START + HOUR)).guarded == 1
    assert world.deliver().claimed == 0
