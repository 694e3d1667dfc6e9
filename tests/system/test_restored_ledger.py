"""A ledger restored from a backup, with real processes: it stops, is adopted, and ends equal."""

from aggregator.ledger.database import Database
from tests.postgres.restore import back_up, restore
from tests.system.harness import World


def test_a_restored_ledger_stops_is_adopted_and_ends_equal(world: World) -> None:
    """Set back behind what was sent, it sends nothing; adopted, it sends what is missing, and not a unit twice."""
    for minute in (60, 59, 58):
        world.use("cus_1", 5, minute)
    assert world.once().code in {0, 3}
    assert world.ledger_url is not None
    with Database(world.ledger_url) as database:
        backup = back_up(database)
        for minute in (57, 56, 55):
            world.use("cus_1", 7, minute)
            world.use("cus_2", 3, minute)
        world.once()
        assert world.billed() == world.used()
        restore(database, backup)
    world.use("cus_3", 2, 54)
    sent = world.sent()
    stopped = world.run("run", "--once")
    assert stopped.code == 1
    assert "wound back" in stopped.said
    assert world.sent() == sent
    looked = world.run("adopt")
    assert (looked.code, "Nothing was changed" in looked.said) == (0, True), looked.said
    early = world.run("adopt", "--yes")
    assert (early.code, "Too early" in early.said) == (1, True), early.said
    adopted = world.run("adopt", "--yes", "--quiet", "0s", "--json")
    assert adopted.code == 0, adopted.said
    [compared] = adopted.json["compared"]
    assert (compared["taken_over"], compared["missing"]) == ("30", "0")
    world.once()
    assert world.billed() == world.used()
