"""A query that is changed: nothing that was billed moves, until a person asks for it; and a meter that is taken away."""

import re

import psycopg

from tests.system.harness import METER, MINUTE, OTHER_METER, QUERY, World, as_reader, until

DOUBLED = QUERY.replace("sum(quantity)", "sum(2 * quantity)")


def changed(world: World) -> None:
    """Let every unit count twice from now on."""
    assert DOUBLED != QUERY
    world.meter["query"] = DOUBLED
    world.write()


def test_a_changed_query_moves_nothing_that_was_billed(world: World) -> None:
    """Not by a pass, and not by a backfill of the same range."""
    world.use("cus_a", 5, minute=80)
    assert world.once().code == 0
    changed(world)
    assert world.once().code == 0
    bounds = ("--from", f"{world.start:%Y-%m-%dT%H:%MZ}")
    ran = world.run("backfill", *bounds, "--json")
    assert (ran.code, ran.json["meters"][0]["corrections"]) == (0, 0), ran.said
    assert world.billed() == {"cus_a": 5}
    assert ran.json["meters"][0]["read_by_an_older_query"], "and it says so"
    for command in (("backfill", *bounds), ("preview", METER, *bounds)):
        assert f"`aggregator restate {METER} --from {bounds[1]}" in world.run(*command).out


def test_a_restatement_shows_its_difference_first(world: World) -> None:
    """Without --yes nothing is written; with it, the old windows are billed by the present query, once."""
    world.use("cus_a", 5, minute=80)
    world.use("cus_b", 2, minute=90)
    assert world.once().code == 0
    nothing = world.run("restate", METER, "--from", f"{world.start:%Y-%m-%dT%H:%MZ}")
    assert (nothing.code, "read by its present query already" in nothing.err) == (2, True), nothing.said
    changed(world)
    bounds = ("--from", f"{world.start:%Y-%m-%dT%H:%MZ}")
    shown = world.run("restate", METER, *bounds, "--json")
    assert (shown.code, shown.json["done"], shown.json["meters"][0]["corrections"]) == (3, False, 2), (
        shown.said
    )
    assert shown.json["quantities"] == {"stripe": {"old": "7", "new": "14"}}
    [first, second] = shown.json["meters"][0]["customers"]
    assert (first["customer"], first["difference"], second["customer"]) == ("cus_a", "5", "cus_b")
    said = world.run("restate", METER, *bounds)
    assert (said.code, "7 as it was billed, 14 by the present query (+7)" in said.out) == (3, True), said.said
    assert world.once().code == 0
    assert world.billed() == {"cus_a": 5, "cus_b": 2}
    done = world.run("restate", METER, *bounds, "--yes")
    assert done.code == 0, done.said
    assert "sends the corrections" in done.out
    assert world.once().code == 0
    assert world.billed() == {"cus_a": 10, "cus_b": 4}
    assert world.once().code == 0
    assert world.billed() == {"cus_a": 10, "cus_b": 4}


def test_status_says_which_configuration_is_in_force(world: World) -> None:
    """Since when, what it changed and from which window that holds; and what the files say beyond it."""
    world.use("cus_a", 5, minute=80)
    assert world.once().code == 0
    said = world.run("status").out
    assert "Configuration: in force since" in said
    assert "The files here differ" not in said
    world.meter["delay"] = "7s"
    changed(world)
    said = world.run("status").out
    assert "The files here differ" in said
    assert f"{METER}: another query." in said
    assert world.once().code == 0
    said = world.run("status").out
    assert re.search(rf"{METER}: another query; holds from the window \d{{4}}-\d\d-\d\d", said)
    assert f"{METER}: delay 7s (was 0s); holds at once." in said
    assert "The files here differ" not in said
    found = world.run("status", "--json").json["configuration"]
    assert [each["key"] for each in found["changed"]] == ["delay", "query"]
    assert found["changed"][1]["holds_from"] is not None
    assert found["not_in_force"] == []


def test_a_meter_that_is_taken_away_is_reported(world: World) -> None:
    """Its windows could still be billed: the log, `status` and `check` say that nobody reads them (B21)."""
    world.use("cus_a", 5, minute=80)
    world.once()
    world.config["meters"]["renamed"] = {
        **world.config["meters"].pop(METER),
        "stripe": {"event_name": OTHER_METER},
    }
    ran = world.once()
    assert f'"meter": "{METER}"' in ran.err
    assert "meter_removed" in ran.err
    assert f"{METER} is in the ledger and not in the configuration" in world.run("status").out
    assert "no longer configured" in world.run("check").out


def test_lateness_is_shown_and_a_settle_suggested(world: World) -> None:
    """What comes after its window was read is counted by how late it was found."""
    world.use("cus_a", 50, minute=80)
    world.once()
    world.use("cus_a", 50, minute=80)
    world.once()
    shown = world.run("lateness", "--json")
    assert [(step["slots"], step["quantity"]) for step in shown.json["steps"]] == [(1, "50"), (1, "50")]
    assert shown.json["suggested_settle_seconds"][METER] == 1_800
    assert "delay: 30m" in world.run("lateness").out
    assert "50.0% of its usage came after" in world.run("status").out


def test_a_transaction_that_holds_windows_back_is_named(world: World) -> None:
    """`status` says for whom a meter waits; once it has ended, its rows are in the first event (B6)."""
    world.config["sources"]["app"]["wait_for_writers"] = "1h"
    insert = "insert into usage (customer, quantity, used_at) values ('cus_a', 7, %s)"
    with psycopg.connect(world.source_url, application_name="nightly import") as connection:
        connection.execute(insert, [world.start + 95 * MINUTE])

        def named() -> bool:
            """Others' transactions in the same server may hold it back as well, for a moment."""
            said.append(world.once().err)
            return "nightly import" in world.run("status").out

        said: list[str] = []
        until(named, "status names the transaction")
        assert "barrier_waiting" in "".join(said)
        assert world.billed() == {}

    def billed() -> bool:
        return world.once().code == 0 and world.billed() == {"cus_a": 7}

    until(billed, "what was committed late is billed")
    assert world.one("select max(revision) from aggregator.event") == 0


def test_a_source_that_may_be_written_is_refused(world: World) -> None:
    """`check` says what the role may do and how to make a better one; `run` says it and goes on."""
    assert as_reader(world.source_url) == world.config["sources"]["app"]["url"]
    world.config["sources"]["app"]["url"] = world.source_url
    world.write()
    ran = world.run("check")
    assert (ran.code, "superuser" in ran.out) == (1, True), ran.said
    assert "source_unsafe" in world.once().err
