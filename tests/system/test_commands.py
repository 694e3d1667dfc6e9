"""The other commands as processes: their exit codes, and one clear message for each thing that can be wrong.

That none of them ever shows a traceback is asserted by `World.run`.
"""

import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from aggregator.runtime.clock import utcnow
from tests.system.harness import COMMAND_SECONDS, METER, Ran, Sandbox, World, environment, sandbox_process

NOWHERE = "postgresql://nobody@127.0.0.1:1/nothing?connect_timeout=2"


@pytest.fixture(scope="module")
def counting_sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """A sandbox whose meter counts events instead of summing them."""
    with sandbox_process(tmp_path_factory.mktemp("counting"), "--meter", f"{METER}:count") as sandbox:
        yield sandbox


def check(world: World) -> tuple[Ran, list[str]]:
    """Run `check`, and return what it finds wrong."""
    world.write()
    ran = world.run("check", "--json")
    return ran, [each["text"] for each in ran.json["findings"] if each["verdict"] == "wrong"]


def only_complaint(ran: Ran, code: int) -> str:
    """Return the one line of a command that could not be carried out."""
    assert (ran.code, ran.out) == (code, ""), ran.said
    [line] = ran.err.splitlines()
    return line


def watched(world: World, *arguments: str) -> tuple[int, str]:
    """Run a command whose standard error is a terminal; return its code and what is seen there."""
    keeper, terminal = pty.openpty()
    try:
        ran = subprocess.run(
            [sys.executable, "-m", "aggregator", *arguments],
            cwd=world.directory,
            env=environment(world.directory),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=terminal,
            timeout=COMMAND_SECONDS,
            check=False,
        )
        return ran.returncode, os.read(keeper, 64_000).decode()
    finally:
        os.close(keeper)
        os.close(terminal)


def test_check_finds_all_well(world: World) -> None:
    """Exit code 0, for people and for programs; and the ledger is ready afterwards."""
    world.use("cus_a", 1, minute=1)
    ran, wrong = check(world)
    assert (ran.code, ran.json["ok"], wrong) == (0, True, [])
    said = world.run("check")
    assert said.code == 0
    assert "All is well" in said.out
    assert world.sandbox.stats()["accepted"] == 0, "a check sends nothing"


def test_check_says_that_a_sink_goes_elsewhere_and_stops_nothing(world: World) -> None:
    """The ledger goes on for whoever goes to the account of before."""
    world.use("cus_1", 5, 60)
    world.once()
    world.sandbox.set_connected("acct_2")
    world.sink["stripe_account"] = "acct_2"
    _, wrong = check(world)
    assert any("goes to acct_2" in text for text in wrong), wrong
    del world.sink["stripe_account"]
    assert check(world)[1] == []
    assert world.once().code == 0


def test_a_run_with_the_wrong_account_sends_nothing_and_hinders_nobody(world: World) -> None:
    """Set back, everything goes on: a slip of the configuration is no reason to wait for an adoption."""
    world.use("cus_1", 5, 60)
    world.once()
    world.sandbox.set_connected("acct_2")
    world.use("cus_1", 3, 61)
    world.sink["stripe_account"] = "acct_2"
    stopped = world.once()
    [logged, said] = stopped.err.splitlines()
    assert (stopped.code, json.loads(logged)["event"]) == (1, "ledger_stopped"), (
        "whoever watches the log sees it"
    )
    assert "goes to acct_2" in said
    assert "Set the sink back" in said
    code, seen = watched(world, "run", "--once")
    assert (code, seen.splitlines()) == (1, [said]), "whoever sits at a terminal is told once"
    assert world.sandbox.stats()["accepted"] == 1
    del world.sink["stripe_account"]
    assert world.once().code == 0
    assert world.billed() == world.used()


def test_check_names_everything_that_is_wrong_at_once(world: World) -> None:
    """An unreachable source, a wrong column, a Stripe meter that does not exist: exit code 1, a sentence each (B21)."""
    world.config["sources"]["away"] = {"url": NOWHERE}
    world.config["meters"]["another"] = {**world.meter, "source": "away"}
    world.meter["query"] = world.meter["query"].replace("quantity) as quantity", "quantitty) as quantity")
    ran, wrong = check(world)
    assert ran.code == 1
    assert any("Source away cannot be read" in text for text in wrong)
    assert any("quantitty" in text and "does not exist" in text for text in wrong)
    assert any("event name another does not exist" in text for text in wrong)
    assert len(wrong) == 3
    assert "3 things to put right" in world.run("check").out


def test_check_refuses_a_meter_that_counts(world: World, counting_sandbox: Sandbox) -> None:
    """A summary sent to a meter that counts would bill one, whatever was used."""
    world.sink["api_base"] = counting_sandbox.url
    ran, wrong = check(world)
    assert ran.code == 1
    assert len(wrong) == 1
    assert "counts events" in wrong[0]
    world.use("cus_a", 5, minute=1)
    assert "counts events" in only_complaint(world.once(), 1)
    assert world.one("select count(*) from aggregator.event") == 0


def test_check_says_when_the_ledger_or_the_sink_is_away(world: World) -> None:
    """Each is named, with what to look at."""
    world.config["ledger"]["url"] = NOWHERE
    world.sink["api_base"] = "http://127.0.0.1:1"
    ran, wrong = check(world)
    assert ran.code == 1
    assert len(wrong) == 2
    assert "ledger" in wrong[0]
    assert "cannot be reached" in wrong[1]


def test_check_says_when_the_key_is_refused(world: World) -> None:
    """And does not repeat it."""
    world.sandbox.set_keys(revoked=["sk_test_sandbox"])
    ran, wrong = check(world)
    assert ran.code == 1
    assert len(wrong) == 1
    assert "API key of sink stripe" in wrong[0]
    assert "sk_test_sandbox" not in ran.said


def mode_mismatch(config: dict[str, Any]) -> None:
    config["sinks"]["stripe"]["mode"] = "live"


def wrong_unit(config: dict[str, Any]) -> None:
    config["meters"][METER]["window"] = "7m"


def write_query(config: dict[str, Any]) -> None:
    config["meters"][METER]["query"] = "delete from usage where used_at >= :start and used_at < :end"


@pytest.mark.parametrize(
    ("spoil", "told"),
    [(mode_mismatch, "the key is a test key"), (wrong_unit, "window"), (write_query, "only ever read")],
)
def test_a_configuration_that_cannot_be_used_is_told_in_one_line(world: World, spoil: Any, told: str) -> None:
    """Exit code 2, with file, line and path."""
    spoil(world.config)
    path = world.write()
    line = only_complaint(world.run("check"), 2)
    assert told in line
    assert path.name in line


def test_no_configuration_file(world: World) -> None:
    """Every command that needs one says so in one line, and how to begin."""
    for command in (
        ["check"],
        ["status"],
        ["run", "--once"],
        ["migrate"],
        ["backfill", "--from", "2026-11-01"],
    ):
        line = only_complaint(world.run(*command), 2)
        assert "there is no such file" in line
        assert "aggregator init" in line


def test_preview_shows_what_would_be_sent_and_writes_nothing(world: World) -> None:
    """For people and for programs; unknown meters and wrong columns are told in one line."""
    world.use("cus_a", 3, minute=1)
    world.use("cus_a", 4, minute=1)
    world.write()
    bounds = ("--from", f"{world.start:%Y-%m-%dT%H:%MZ}")
    ran = world.run("preview", METER, *bounds, "--json")
    assert ran.code == 0
    [event] = ran.json["events"]
    assert (event["customer"], event["delta"], event["state"]) == ("cus_a", "7", "due")
    assert ran.json["sinks"]["stripe"]["to_be_sent"] == "7"
    assert "cus_a" in world.run("preview", METER, *bounds).out
    assert world.one("select count(*) from aggregator.event") == 0
    assert world.sent() == 0
    assert "There is no meter request" in only_complaint(world.run("preview", "request", *bounds), 2)
    world.meter["query"] = (
        world.meter["query"]
        .replace("as customer", "as who")
        .replace("select customer", "select customer as who")
    )
    world.write()
    assert "customer" in only_complaint(world.run("preview", METER, *bounds), 1)


def test_preview_says_what_stays_a_fraction_and_what_belongs_to_nobody(world: World) -> None:
    """Per customer and sink: what would be sent, what would be carried, and what nobody would pay."""
    for minute in range(3):
        world.use("cus_a", Decimal("0.4"), minute=minute)
    world.use("cus_b", Decimal("0.5"), minute=1)
    world.use(None, 9, minute=1)
    world.write()
    bounds = ("--from", f"{world.start:%Y-%m-%dT%H:%MZ}")
    ran = world.run("preview", METER, *bounds, "--json")
    figures = ran.json["sinks"]["stripe"]
    assert (figures["source"], figures["to_be_sent"], figures["carried"]) == ("1.7", "1", "0.7"), ran.said
    assert {(each["customer"], each["carried"]) for each in ran.json["customers"]} == {
        ("cus_a", "0.2"),
        ("cus_b", "0.5"),
    }
    assert (ran.json["unmapped_rows"], ran.json["unmapped_quantity"]) == (1, "9")
    said = world.run("preview", METER, *bounds).out
    assert "1 event now, 1 units to be sent, 0.7 units carried" in said
    assert "1 row with a quantity of 9 can be billed to nobody" in said


def test_init_writes_a_starter_once(world: World) -> None:
    """Never over an existing file; what it writes says which variables are missing when it is checked."""
    before = utcnow()
    ran = world.run("init", "--config", "new.yaml")
    assert ran.code == 0
    begins = re.search(r"start_at: (\S+)", Path(world.directory / "new.yaml").read_text())
    assert begins is not None
    assert begins[1] in {f"{now:%Y-%m}-01T00:00Z" for now in (before, utcnow())}
    assert "exists already" in only_complaint(world.run("init", "--config", "new.yaml"), 2)
    unset = world.run("check", "--config", "new.yaml")
    assert unset.code == 2
    assert "APP_DATABASE_URL" in unset.err


def test_schema_is_json(world: World) -> None:
    """Editors complete by it."""
    assert "meters" in json.loads(world.run("schema").out)["properties"]


def test_migrate_makes_an_empty_database_a_ledger(world: World, source_url: str) -> None:
    """Twice does no harm; without it, and with `migrate: false`, commands say what to run."""
    world.config["ledger"] = {"url": source_url, "migrate": False}
    world.write()
    assert "aggregator migrate" in only_complaint(world.run("status"), 1)
    for _ in range(2):
        ran = world.run("migrate")
        assert ran.code == 0
        assert "is at revision" in ran.out
    assert "no meter yet" in world.run("status").out


def test_a_ledger_that_is_away_is_told_in_one_line(world: World) -> None:
    """By every command that needs it."""
    world.config["ledger"]["url"] = NOWHERE
    world.write()
    for command in (["status"], ["migrate"], ["backfill", "--from", "2026-11-01"]):
        assert "ledger" in only_complaint(world.run(*command), 1)


def test_wrong_arguments_are_2(world: World) -> None:
    """What was meant is named where it can be."""
    world.write()
    assert world.run("backfil").code == 2
    assert world.run("run", "--onec").code == 2
    assert "is not a time" in world.run("backfill", "--from", "yesterday").err


def test_check_tries_each_query_out(world: World) -> None:
    """A query that takes both ends of a window passes a look at its columns, and not a trial."""
    for minute in range(1, 40):
        world.use("cus_a", 1, minute=minute)
    assert check(world)[1] == []
    world.meter["query"] = world.meter["query"].replace("used_at < :end", "used_at <= :end")
    ran, wrong = check(world)
    assert ran.code == 1
    assert len(wrong) == 1
    assert "is billed twice" in wrong[0]
    assert "<= :end" in wrong[0]
    assert world.run("check", "--no-trial").code == 0
