"""Stripe's summaries are late, and it says so to whoever asks: commands believe nothing by them meanwhile."""

from tests.system.harness import World

KIND = "v2.core.health.meter_event_summaries_delayed"
LATE_SINCE = "select count(*) from aggregator.checking where late_since is not null"


def test_nothing_is_called_missing_while_summaries_are_late(world: World) -> None:
    """One pass hears it by asking, and so does the comparison, which writes nothing; once it is over, all is equal."""
    world.use("cus_a", 5, minute=1)
    world.sandbox.notify(f"{KIND}.firing")
    world.config["sinks"]["stripe"]["timeout"] = "5s"
    world.write()
    assert world.run("run", "--once", "--first-time", "--json").code in (0, 3)
    assert world.one(LATE_SINCE) == 1
    world.quiet_by_passes()
    compared = world.run("reconcile", "--json")
    assert "totals are late since" in " ".join(compared.said.split()), compared.said
    assert '"missing"' not in compared.out
    world.sandbox.notify(f"{KIND}.resolved")
    compared = world.run("reconcile", "--json")
    assert "totals are late since" not in compared.said
    assert world.one(LATE_SINCE) == 1, "comparing writes nothing"
    world.once()
    assert world.one(LATE_SINCE) == 0
