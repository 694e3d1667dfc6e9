"""A lost answer and a day that passes: the real processes settle it by the sandbox's own totals, over real HTTP."""

import pytest

from tests.system.harness import World

DAYS_LATER = "27 hours"
SECONDS_LATER = 27 * 3_600.0

PASSES = f"""
update aggregator.outbox
   set exposed_at = exposed_at - interval '{DAYS_LATER}', attempted_at = attempted_at - interval '{DAYS_LATER}',
       due_at = due_at - interval '{DAYS_LATER}'
"""
"""A day passes, as far as the ledger can tell."""


@pytest.mark.parametrize("arrived", [True, False])
def test_a_clock_a_day_ahead_after_a_lost_answer_never_doubles(world: World, *, arrived: bool) -> None:
    """The sandbox has forgotten the identifier by then; what it has counted says whether the event goes out again (B4)."""
    world.use("cus_a", 7, minute=90)
    world.sandbox.set_faults(**{"drop_after" if arrived else "drop_before": 1.0})
    assert world.once().code == 3
    world.sandbox.set_faults()
    assert world.billed() == ({"cus_a": 7} if arrived else {})

    world.ledger(PASSES)
    world.sandbox.set_clock(offset_seconds=SECONDS_LATER)

    ran = world.once()
    assert (ran.code, ran.json["sinks"]["stripe"]["in_doubt"]) == (4, 1)
    assert world.sandbox.stats()["accepted"] == (1 if arrived else 0), "in doubt, nothing is sent again"
    ran = world.once()
    assert (ran.code, ran.err.count("reconciled")) == (0, 1), ran.said
    assert world.billed() == world.used() == {"cus_a": 7}
    stats = world.sandbox.stats()
    assert (stats["accepted"], stats["double_counted"]) == (1, 0)
    assert world.ledger("select state::text, attempts from aggregator.event") == [
        ("accepted", 1 if arrived else 2)
    ]
