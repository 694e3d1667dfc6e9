"""Who may write for a meter: leases for efficiency, epochs for safety."""

import datetime as dt
from dataclasses import replace
from decimal import Decimal

import pytest

from aggregator.core.model import Reading, Span
from aggregator.errors import LeaseLost
from aggregator.ledger.database import Database
from aggregator.ledger.meters import Lease
from aggregator.ledger.passes.passes import Pass
from aggregator.ledger.passes.spool import Spool
from tests.postgres.world import HOUR, START, World

SPAN = Span(START, START + HOUR)


def commit(world: World, lease: Lease | None, quantity: int = 10) -> None:
    """Commit one reading under a lease."""
    assert lease is not None
    with Spool() as spool:
        spool.add([Reading(START, "cus_a", Decimal(quantity), None)])
        world.passes.commit(
            lease,
            spool,
            Pass("live", SPAN, SPAN, world.now, lease.definitions[0]),
            world.collection._decide(world.now, lease.definitions[0]),
        )


def run_out(world: World) -> None:
    """Let the lease of the meter run out."""
    world.execute("update aggregator.meter set lease_until = clock_timestamp() - interval '1 second'")


def test_one_process_at_a_time_has_the_meter(world: World) -> None:
    """While one holds the meter another is told that it is busy, and gets it afterwards (B12)."""
    other = world.beside()
    lease = world.hold()
    assert lease is not None
    assert other.hold() is None
    other.at(1, 5)
    assert other.collect().busy
    assert world.meters.release(lease)
    assert other.hold() is not None


def test_each_lease_has_an_epoch_of_its_own(world: World) -> None:
    """Epochs only grow."""
    epochs = []
    for _ in range(3):
        lease = world.hold()
        assert lease is not None
        epochs.append(lease.epoch)
        world.meters.release(lease)
    assert epochs == [1, 2, 3]


def test_a_former_holder_commits_nothing(world: World) -> None:
    """A process that slept past its lease while another worked affects no row (invariant 9)."""
    world.at(1, 5)
    slept = world.hold()
    assert slept is not None
    run_out(world)
    other = world.beside()
    fresh = other.hold()
    assert fresh is not None
    commit(other, fresh, 10)
    other.meters.release(fresh)
    with pytest.raises(LeaseLost):
        commit(world, slept, 99)
    assert world.rows("select quantity from aggregator.slot") == [(10,)]
    assert world.one("select count(*) from aggregator.event") == 1
    assert not world.meters.renew(slept)
    assert not world.meters.release(slept)


def test_who_knows_a_meter_by_a_former_name_has_lost_it(world: World) -> None:
    """Also in the middle of a pass: under both names the same windows would be planned by two configurations."""
    world.at(1, 5)
    lease = world.hold()
    world.meters.register([replace(world.meter, name="calls", renamed_from=world.meter.name)])
    with pytest.raises(LeaseLost):
        commit(world, lease)
    with pytest.raises(LeaseLost):
        world.hold()
    assert world.one("select count(*) from aggregator.slot") == 0


def test_a_process_that_took_its_meter_twice_commits_under_the_later_lease_only(world: World) -> None:
    """One thread of it slept past its lease and another took the meter anew: they have one owner, and two epochs."""
    world.at(1, 5)
    slept = world.hold()
    assert slept is not None
    run_out(world)
    fresh = world.hold()
    assert fresh is not None
    assert (slept.owner, slept.epoch + 1) == (fresh.owner, fresh.epoch)
    commit(world, fresh, 10)
    with pytest.raises(LeaseLost):
        commit(world, slept, 99)
    assert world.rows("select quantity from aggregator.slot") == [(10,)]


def test_a_lease_that_ran_out_but_was_not_taken_still_commits(world: World) -> None:
    """Nobody else came: the work of a slow pass is not thrown away."""
    world.at(1, 5)
    lease = world.hold()
    assert lease is not None
    run_out(world)
    commit(world, lease)
    assert world.one("select count(*) from aggregator.event") == 1


def test_a_holder_in_the_middle_of_a_commit_is_not_disturbed(world: World, database: Database) -> None:
    """Taking over passes over a meter whose row is locked, even when its lease has run out."""
    lease = world.hold()
    assert lease is not None
    run_out(world)
    with database.transaction() as connection:
        connection.execute("select 1 from aggregator.meter for update")
        assert world.beside().hold() is None


def test_a_mark_outlives_its_process(world: World) -> None:
    """The mark moves in the transaction that commits the slots, and a new process goes on from there."""
    world.source.use("cus_a", START)
    world.at(1, 5)
    world.collect()
    other = world.beside()
    lease = other.hold()
    assert lease is not None
    assert lease.mark == START + HOUR
    assert lease.owner == other.owner
    assert dt.timedelta(0) < other.lease
