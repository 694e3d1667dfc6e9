"""The commit barrier in a pass: what waits, for how long, and what is said of it."""

import datetime as dt

import pytest

from aggregator.core.model import Fence
from tests.postgres.world import HOUR, MINUTE, START, World

PATIENCE = 15 * MINUTE


@pytest.fixture
def waiting(world: World) -> World:
    """A meter that waits for writers."""
    world.collection.patience = PATIENCE
    return world


def transactions(
    world: World, xmin: int, xmax: int, *, standby: bool = False, fresh: dt.datetime | None = None
) -> None:
    """Let the source say so now."""
    world.source.transactions = Fence(world.now, xmin, xmax, None, False, standby, fresh, "pid 7 (psql)")


def test_a_window_waits_for_a_transaction_that_may_write_into_it(waiting: World) -> None:
    """A row that is committed long after its window's end is in the first event all the same (B6)."""
    world = waiting
    world.source.use("cus_a", START + 10 * MINUTE, 3)
    world.at(1, 1)
    transactions(world, 90, 100)
    world.collect()
    world.at(1, 6)
    transactions(world, 99, 140)
    result = world.collect()
    assert (result.mark, result.waits_for, result.waits_anew) == (START, "pid 7 (psql)", True)
    assert world.one("select waits_for from aggregator.meter") == "pid 7 (psql)"
    assert not world.collect().waits_anew
    world.source.use("cus_a", START + 50 * MINUTE, 4)
    world.at(1, 8)
    transactions(world, 101, 160)
    result = world.collect()
    assert (result.mark, result.waits_for, result.planned) == (START + HOUR, None, 1)
    world.deliver()
    assert world.rows("select revision, delta from aggregator.event") == [(0, 7)]
    assert world.rows("select waits_for, waits_since, unfenced_at from aggregator.meter") == [
        (None, None, None)
    ]


def test_waiting_ends_after_the_declared_time(waiting: World) -> None:
    """A forgotten transaction does not stop billing: it is said, and what comes later is found by reading again."""
    world = waiting
    world.source.use("cus_a", START, 3)
    for minute in range(1, 20):
        world.at(1, minute)
        transactions(world, 90, 100 + minute)
        assert world.collect().mark == START
    world.at(1, 20)
    transactions(world, 90, 120)
    result = world.collect()
    assert (result.mark, result.unfenced, result.waits_for) == (START + HOUR, True, "pid 7 (psql)")
    assert world.one("select unfenced_at from aggregator.meter") == world.now
    assert world.one("select waits_since from aggregator.meter") == START + HOUR + 5 * MINUTE
    world.source.use("cus_a", START + MINUTE, 2)
    world.at(1, 30)
    transactions(world, 121, 121)
    world.deliver()
    world.collect()
    world.deliver()
    assert world.booked("cus_a") == 5


def test_a_standby_without_proof_is_never_believed(waiting: World) -> None:
    """However long: what a lagging standby does not show may be anything."""
    world = waiting
    world.source.use("cus_a", START, 3)
    world.at(5, 0)
    transactions(world, 100, 100, standby=True)
    result = world.collect()
    assert result.mark == START
    assert result.waits_for is not None
    assert "standby" in result.waits_for
    transactions(world, 100, 100, standby=True, fresh=START + 2 * HOUR + MINUTE)
    assert world.collect().mark == START + 2 * HOUR


def test_another_process_goes_on_with_what_was_noted(waiting: World) -> None:
    """Fences are in the ledger: a restart costs no waiting."""
    world = waiting
    world.source.use("cus_a", START, 3)
    world.at(1, 1)
    transactions(world, 90, 100)
    world.collect()
    other = world.beside()
    other.collection.patience = PATIENCE
    other.at(1, 6)
    transactions(other, 100, 130)
    assert other.collect().mark == START + HOUR


def test_a_source_that_cannot_tell_is_read_after_settle(waiting: World) -> None:
    """Other databases have no such numbers: there, `delay` and reading again are all there is."""
    world = waiting
    world.at(1, 6)
    assert world.collect().mark == START + HOUR
