"""A meter that is taken away, or a customer's account, while events wait: they are named, and nothing hangs."""

import copy

from tests.system.harness import KEY, METER, OTHER_METER, World

ANOTHER = "acct_1Another"


def with_backlog(world: World) -> None:
    """Let a meter be read while its sink refuses us: what it plans waits."""
    world.sandbox.set_keys(revoked=[KEY])
    assert world.once().code == 4
    world.sandbox.set_keys()


def replaced(world: World) -> None:
    """Take the meter out of the configuration; another one is in it, which sends as ever."""
    world.config["meters"] = {OTHER_METER: copy.deepcopy(world.meter)}


def test_a_removed_meter_with_a_backlog_is_named_until_it_is_given_up(world: World) -> None:
    """`run --once` sends everything else, ends, and wants a person; so does `status`, until `events give-up`."""
    world.use("cus_a", 5, minute=80)
    world.use("cus_b", 2, minute=81)
    with_backlog(world)
    replaced(world)
    for _ in range(2):
        ran = world.once()
        assert ran.code == 4, ran.said
        assert '"event": "backlog_unconfigured"' in ran.err
        assert world.sandbox.totals(OTHER_METER) == {"cus_a": 5, "cus_b": 2}
    assert world.one("select max(attempts) from aggregator.event where feed_id = 1") in {0, 1}
    said = world.run("status").out
    assert f"2 events of {METER} to sink stripe, 7 units, waiting since" in said
    assert f"`aggregator events give-up --meter {METER} --sink stripe`" in said
    given = world.run("events", "give-up", "--meter", METER, "--sink", "stripe")
    assert (given.code, f"2 events of {METER} to stripe given up" in given.out) == (0, True), given.said
    assert world.once().code == 0
    assert f" of {METER} to sink stripe" not in world.run("status").out
    assert world.sandbox.totals(METER) == {}


def test_a_meter_that_another_process_reads_is_not_removed(world: World) -> None:
    """Two teams share a ledger, each with its own configuration: what the other's meter owes is the other's, for a while."""
    theirs, ours = copy.deepcopy(world.config), copy.deepcopy(world.config)
    ours["meters"] = {OTHER_METER: copy.deepcopy(world.meter)}
    world.use("cus_a", 5, minute=80)
    world.config = ours
    assert world.once().code == 0
    world.config = theirs
    with_backlog(world)
    world.config = ours
    ran = world.once()
    assert (ran.code, f'"{METER}"' in ran.err) == (0, False), ran.said
    said = world.run("status").out
    assert f" of {METER} to sink stripe" not in said
    assert f"{METER} is in the ledger and not in the configuration" not in said
    refused = world.run("events", "give-up", "--meter", METER, "--sink", "stripe")
    assert (refused.code, f"Another process reads meter {METER}" in refused.err) == (2, True), refused.said
    for table, column in (("pass", "started_at"), ("configuration", "loaded_at")):
        world.ledger(f"update aggregator.{table} set {column} = {column} - interval '61 minutes' returning 1")
    assert world.once().code == 4
    said = world.run("status").out
    assert f"1 event of {METER} to sink stripe, 5 units, waiting since" in said
    assert f"{METER} is in the ledger and not in the configuration" in said


def test_a_customer_whose_account_is_gone_is_refused_by_name(world: World) -> None:
    """With an account for each customer: one that was disconnected, and one that was never named, hold nobody else up."""
    world.sink["accounts"] = "by_customer"
    world.sandbox.set_connected("acct_gone", ANOTHER)
    world.use("acct_gone/cus_a", 5, minute=80)
    world.use(f"{ANOTHER}/cus_b", 2, minute=80)
    world.use("cus_c", 3, minute=80)
    with_backlog(world)
    world.sandbox.set_connected(ANOTHER)
    ran = world.once()
    assert ran.code == 4, ran.said
    assert world.sandbox.totals(METER, account=ANOTHER) == {"cus_b": 2}
    assert world.waiting() == 0
    listed = world.run("events", "list").out
    for customer in ("acct_gone/cus_a", "cus_c"):
        assert customer in listed
        assert customer in world.run("status").out
