"""A ledger that is set back, of meters that are sampled: what was sampled since is lost, and may be billed already."""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path

import pytest

from aggregator.adoption.adopter import Adopter
from aggregator.core.sampling import Counters, FirstValue, Gauges, Missing, Reads, Resets, Sample, Sampled
from aggregator.ledger.database import Database
from tests.postgres.restore import PinnedWorld, back_up, restore
from tests.postgres.sampled_world import EVERY, SampledWorld
from tests.postgres.world import MINUTE, START

pytestmark = pytest.mark.usefixtures("says_what_changed")


class PinnedSampledWorld(SampledWorld, PinnedWorld):
    """A daemon that samples, with a heartbeat in a state directory."""

    def adoption(self, *, without_readback: Sequence[str] = (), leave: Sequence[str] = ()) -> Adopter:
        """Return what adopts this ledger, from samples."""
        reads = {self.meter.name: self.sampled}
        return Adopter(
            self.ledger, [self.registered], reads, self.sinks, without_readback=without_readback, leave=leave
        )


def set_back(database: Database, directory: Path, reads: Reads, states: Sequence[int]) -> PinnedSampledWorld:
    """Return a world whose ledger lost its second hour and was adopted; `states` are what stood there, sample by sample."""
    world = PinnedSampledWorld(database, reads, directory=directory)
    assert world.identity.check(world.now) is None
    pass_by(world, dict(zip((10, 50, 70), states, strict=False)))
    backup = back_up(database)
    pass_by(world, dict(zip((110, 130), states[3:], strict=True)))
    restore(database, backup)
    world.adopt()
    return world


def go_on(world: PinnedSampledWorld, state: int, rounds: int = 12) -> None:
    """Let samples be taken for two hours, or for so many rounds of ten minutes."""
    world.application.set("cus_a", state)
    for _ in range(rounds):
        world.now += 10 * MINUTE
        world.collect()
        world.deliver()


def test_what_a_counter_rose_by_since_the_backup_waits_for_a_person(
    database: Database, tmp_path: Path
) -> None:
    """Some of it is billed already, in a window that the ledger has lost; both sides wait, and go together."""
    world = set_back(database, tmp_path, Counters(Resets.RESTART), [100, 107, 107, 120, 120])
    assert world.booked("cus_a") == 20
    go_on(world, 125)
    assert world.booked("cus_a") == 20
    held = world.rows(
        "select delta, parked.reason from aggregator.parked join aggregator.event on event.id = event_id order by delta"
    )
    assert [delta for delta, _ in held] == [-13, 18]
    assert "rose from 107 at 2026-11-01 01:10:00Z to 125, and the ledger was adopted since" in held[1][1]
    release(world)
    assert world.booked("cus_a") == 25
    world.check_balance()


def test_a_gauge_goes_on_with_what_stood_before(database: Database, tmp_path: Path) -> None:
    """What was sampled since the backup is lost; the sample before stands for it, and comes to what was billed."""
    world = set_back(database, tmp_path, Gauges(Sample.LAST, Missing.CARRY_LAST, EVERY), [5] * 5)
    assert world.booked("cus_a") == 10
    go_on(world, 5)
    windows = world.one("select count(*) from aggregator.slot where quantity = 5")
    assert world.booked("cus_a") == 5 * windows > 10
    assert world.rows("select reason from aggregator.parked") == []
    world.check_balance()


def test_samples_before_a_restore_is_noticed_wait(database: Database, tmp_path: Path) -> None:
    """It rose from a value of the backup, so it holds what was billed since: it is not billed again on its own."""
    world = PinnedSampledWorld(database, Counters(Resets.RESTART), directory=tmp_path)
    pass_by(world, {10: 100, 50: 107, 70: 107})
    backup = back_up(database)
    pass_by(world, {110: 120, 130: 120})
    assert world.booked("cus_a") == 20
    restore(database, backup)
    world.application.set("cus_a", 125)
    for minutes in (140, 150):
        world.at(0, minutes)
        world.collect()
    world.adopt()
    go_on(world, 125)
    assert world.booked("cus_a") == 20
    release(world)
    assert world.booked("cus_a") == 25
    world.check_balance()


def test_a_forgotten_counter_is_not_taken_for_new(database: Database, tmp_path: Path) -> None:
    """Its first value may have been billed as a whole; one that first shows up later is new, and billed."""
    reads = Counters(Resets.RESTART, FirstValue.WHOLE)
    world = PinnedSampledWorld(database, reads, directory=tmp_path)
    world.application.set("cus_b", 3)
    world.pass_by(0, 10)
    backup = back_up(database)
    pass_by(world, {70: 100, 130: 100})
    assert world.booked("cus_a") == 100
    restore(database, backup)
    world.adopt()
    go_on(world, 100, rounds=2)
    world.application.set("cus_c", 8)
    go_on(world, 100, rounds=8)
    assert (world.booked("cus_a"), world.booked("cus_b"), world.booked("cus_c")) == (100, 3, 8)
    [(reason,)] = world.rows(
        "select parked.reason from aggregator.parked join aggregator.event on event.id = event_id where delta > 0"
    )
    assert "first seen at 100, and the ledger was adopted since" in reason
    world.check_balance()


def test_history_that_a_table_keeps_is_billed_once_from_the_start(database: Database, tmp_path: Path) -> None:
    """A first sample brings all since `start_at`; after a restore the same is brought again, and nothing waits."""
    world = PinnedSampledWorld(database, Counters(Resets.RESTART), directory=tmp_path)
    world.application.history = [
        Sampled("cus_a", "", Decimal(value), START + minutes * MINUTE)
        for minutes, value in ((-60, 90), (-10, 100), (30, 107), (90, 120), (150, 125))
    ]
    world.at(0, 80)
    world.application.history, later = world.application.history[:3], world.application.history[3:]
    world.collect()
    world.deliver()
    assert world.booked("cus_a") == 7
    backup = back_up(database)
    world.application.history += later
    world.pass_by(0, 190)
    assert world.booked("cus_a") == 25
    restore(database, backup)
    world.adopt()
    for _ in range(3):
        world.now += EVERY
        world.collect()
        world.deliver()
    assert world.booked("cus_a") == 25
    assert world.rows("select reason from aggregator.parked") == []
    world.check_balance()


def pass_by(world: PinnedSampledWorld, states: Mapping[int, int]) -> None:
    """Let rounds run, so many minutes after the start, with what stands there of cus_a."""
    for minutes, state in states.items():
        world.application.set("cus_a", state)
        world.pass_by(0, minutes)


def release(world: PinnedSampledWorld) -> None:
    """Let all go out that waits for a person."""
    waiting = [event for (event,) in world.rows("select event_id from aggregator.parked")]
    world.outbox.release(waiting, world.now)
    world.deliver()
