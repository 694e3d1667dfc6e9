"""A meter that gets another name, with real processes: it goes on, or it is refused, and bills nothing twice."""

from typing import Any

import pytest

from tests.system.harness import METER, MINUTE, World, until

NEW = "api_calls"


@pytest.fixture
def billed(world: World) -> World:
    """A world whose usage was billed by the meter `requests`."""
    return bill(world)


def bill(world: World) -> World:
    """Let the meter `requests` bill usage."""
    world.use_much(customers=4, minutes=30)
    assert world.once().code == 0
    assert world.billed() == world.used()
    return world


def rename(world: World, **more: Any) -> None:
    """Call the meter something else, and let it keep its event name."""
    meter = world.config["meters"].pop(METER)
    world.config["meters"][NEW] = {**meter, "stripe": {"event_name": METER}, **more}
    world.write()


def test_a_renamed_meter_is_refused_everywhere(billed: World) -> None:
    """By check, run --once, backfill and a daemon: nothing is written, and nothing is billed again."""
    rename(billed)
    check = billed.run("check", "--json")
    [wrong] = [each for each in check.json["findings"] if each["verdict"] == "wrong"]
    assert (check.code, wrong["what"]) == (1, f"meter {NEW}")
    assert f"`renamed_from: {METER}`" in wrong["text"]
    for arguments in (["run", "--once"], ["run"], ["backfill", "--from", f"{billed.start:%Y-%m-%dT%H:%MZ}"]):
        ran = billed.run(*arguments)
        assert ran.code == 1, ran.said
        assert f"`renamed_from: {METER}`" in ran.err
    assert billed.ledger("select name from aggregator.meter") == [(METER,)]
    assert billed.billed() == billed.used()


def test_a_renamed_meter_goes_on_under_its_new_name(billed: World) -> None:
    """With its mark, its slots and its identifiers: late rows are corrections, and nothing is billed again."""
    rename(billed, renamed_from=METER)
    assert billed.run("check").code == 0
    billed.use("cus_1", 7, 3)
    assert billed.once().code == 0
    assert billed.billed() == billed.used()
    billed.use("cus_2", 2, 40)
    assert billed.once().code == 0
    assert billed.billed() == billed.used()
    assert billed.ledger("select name, formerly from aggregator.meter") == [(NEW, [METER])]
    assert f"{NEW} was called {METER} before" in billed.run("status").out
    billed.config["meters"][METER] = billed.config["meters"].pop(NEW) | {"stripe": {}}
    del billed.config["meters"][METER]["renamed_from"]
    again = billed.once()
    assert (again.code, f"is the former name of {NEW}" in again.err) == (1, True), again.said
    assert billed.billed() == billed.used()


def test_a_daemon_of_before_loses_a_renamed_meter(billed: World) -> None:
    """It says so, writes nothing more, and the new configuration bills what comes."""
    old = billed.daemon()
    until(lambda: old.log("pass_unchanged") or old.log("pass_committed"), "the old daemon works")
    rename(billed, renamed_from=METER)
    assert billed.run("run", "--once").code in {0, 3}

    def told() -> bool:  # a pass that was under way has lost its meter first, and says that of it
        return any(f"is called {NEW} now" in each["reason"] for each in old.log("pass_skipped", meter=METER))

    until(told, "the old daemon says what its meter is called now", seen=lambda: old.err[-2000:])
    billed.use("cus_1", 5, 50)
    assert billed.run("run", "--once").code in {0, 3}
    until(lambda: billed.billed() == billed.used(), "the new configuration bills")


def test_a_daemon_that_reloads_a_renamed_meter_goes_on_as_it_was(billed: World) -> None:
    """SIGHUP with a configuration that would bill again is refused; with `renamed_from` it is taken."""
    import signal

    daemon = billed.daemon()
    rename(billed)
    daemon.tell(signal.SIGHUP)
    assert f"`renamed_from: {METER}`" in daemon.logged("config_refused")["reason"]
    billed.config["meters"][NEW]["renamed_from"] = METER
    billed.write()
    daemon.tell(signal.SIGHUP)
    daemon.logged("config_reloaded")
    billed.use("cus_1", 5, 50)
    until(lambda: billed.billed() == billed.used(), "it goes on under the new name")


def test_another_meter_begins_where_the_first_one_ended(world: World) -> None:
    """The old one is taken away: the new one bills from its mark on, and check says whom it follows."""
    world.meter["delay"] = "2m"
    bill(world)
    mark = world.one("select mark from aggregator.meter")
    rename(world, start_at=f"{mark:%Y-%m-%dT%H:%MZ}")
    check = world.run("check", "--json")
    assert check.code == 0, check.said
    assert any(f"which {METER} fed up to" in each["text"] for each in check.json["findings"])
    assert world.once().code == 0
    assert world.billed() == world.used()
    at = mark + MINUTE / 2
    world.source("insert into usage (customer, quantity, used_at) values ('cus_1', 3, %s)", at)
    world.config["meters"][NEW]["delay"] = "0s"
    until(
        lambda: world.once().code == 0 and world.billed() == world.used(),
        "the new meter bills",
    )


def test_another_event_name_under_the_same_meter_is_refused(billed: World) -> None:
    """Corrections of what was billed would go where that is not; two configurations of one meter must agree."""
    billed.meter["stripe"] = {"event_name": "more"}
    ran = billed.once()
    assert ran.code == 1, ran.said
    assert "corrections of what was sent would go where that is not" in ran.err
    assert billed.run("check").code == 1
    assert billed.sandbox.totals("more") == {}


def test_a_renamed_sink_bills_nothing_again(billed: World) -> None:
    """In front of the same account it begins at the mark; told to begin before, it is refused."""
    billed.config["sinks"]["live"] = billed.config["sinks"].pop("stripe")
    billed.meter["sinks"] = [{"sink": "live", "bill_from": f"{billed.start:%Y-%m-%dT%H:%MZ}"}]
    ran = billed.once()
    assert (ran.code, "Call it stripe again" in ran.err) == (1, True), ran.said
    assert billed.run("check").code == 1
    billed.meter["sinks"] = ["live"]
    assert billed.once().code == 0
    assert billed.billed() == billed.used()


@pytest.mark.parametrize("former", [NEW, "more"])
def test_a_former_name_that_is_still_configured_is_refused(billed: World, former: str) -> None:
    """The configuration itself says so."""
    billed.config["meters"]["more"] = {**billed.meter, "renamed_from": METER}
    billed.config["meters"][NEW] = {
        **billed.meter,
        "renamed_from": former,
        "stripe": {"event_name": "more_calls"},
    }
    billed.write()
    ran = billed.run("check")
    assert ran.code == 2, ran.said
    assert "renamed_from" in ran.err
