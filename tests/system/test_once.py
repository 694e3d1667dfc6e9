"""`aggregator run --once`, as cron or systemd would start it: what it does, and what its exit code tells."""

import json

from tests.system.harness import METER, World


def test_one_pass_bills_what_was_used(world: World) -> None:
    """Exit code 0, a JSON answer, a log of JSON lines, and totals that are right to the unit."""
    world.use_much(customers=20, minutes=30)
    ran = world.once()
    assert ran.code == 0, ran.said
    assert ran.json["outcome"] == "done"
    assert ran.json["meters"][METER]["planned"] == 600
    assert ran.json["sinks"]["stripe"] == {"claimed": 600, "accepted": 600, "waiting": 0}
    assert world.billed() == world.used()
    assert {json.loads(line)["event"] for line in ran.err.splitlines()} == {
        "pass_committed",
        "batch_delivered",
    }
