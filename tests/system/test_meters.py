"""`aggregator meters` as processes: what is shown, what is asked, what is done at Stripe, and how it ends."""

import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pygohcl
import pytest

from tests.system.harness import (
    COMMAND_SECONDS,
    KEY,
    METER,
    OTHER_METER,
    Ran,
    Sandbox,
    World,
    environment,
    sandbox_process,
)

RESTRICTED = "rk_test_0123456789abcdefghij"
NEW = "exports"


@pytest.fixture(scope="module")
def sandbox_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """A sandbox with the two meters, and more than a page of others made after them."""
    others = [f"--meter=other_{number:03}:sum" for number in range(110)]
    meters = [f"--meter={name}:sum" for name in (METER, OTHER_METER)]
    with sandbox_process(
        tmp_path_factory.mktemp("sandbox"), *meters, *others, "--meter=logins:count"
    ) as sandbox:
        yield sandbox


def add_meter(world: World, name: str = NEW, **stripe: Any) -> None:
    """Configure one more meter, with this under `stripe`."""
    world.config["meters"][name] = {**world.meter, "stripe": stripe}


def diff(world: World, *names: str) -> Ran:
    """Compare."""
    world.write()
    return world.run("meters", "diff", *names, "--json")


def statuses(ran: Ran) -> dict[str, str]:
    """How each meter stands."""
    return {each["meter"]: each["meter_state"] for each in ran.json["meters"]}


def at_terminal(world: World, *arguments: str, answer: str) -> tuple[int, str]:
    """Run a command whose input is a terminal, and answer its question."""
    keyboard, terminal = pty.openpty()
    try:
        os.write(keyboard, f"{answer}\n".encode())
        ran = subprocess.run(
            [sys.executable, "-m", "aggregator", *arguments],
            cwd=world.directory,
            env=environment(world.directory),
            stdin=terminal,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=COMMAND_SECONDS,
            check=False,
        )
    finally:
        os.close(keyboard)
        os.close(terminal)
    return ran.returncode, ran.stdout.decode()


# -- diff -----------------------------------------------------------------------------------------


def test_equal_is_0(world: World) -> None:
    """The meter stands on the second page of the account's list."""
    ran = diff(world)
    assert (ran.code, ran.json["outcome"], statuses(ran)) == (0, "equal", {METER: "equal"})
    assert "All meters are equal." in world.run("meters", "diff").out


def test_missing_and_a_display_name_are_3(world: World) -> None:
    """Both can be applied; which key differs, and how, is there for programs and for people."""
    add_meter(world, display_name="Exports")
    world.meter["stripe"] = {"display_name": "API requests"}
    ran = diff(world)
    assert (ran.code, ran.json["outcome"]) == (3, "to_apply")
    assert statuses(ran) == {NEW: "missing", METER: "renamed"}
    [renamed] = [each for each in ran.json["meters"] if each["meter"] == METER]
    [difference] = renamed["differences"]
    assert (difference["what"], difference["here"], difference["stripe"]) == (
        "display_name",
        "API requests",
        METER,
    )
    said = world.run("meters", "diff")
    assert said.code == 3
    assert "does not exist" in said.out
    assert "2 to apply: `aggregator meters apply`" in said.out


def test_what_cannot_be_changed_is_4(world: World) -> None:
    """With what differs and both ways out; one that can be applied beside it changes nothing about that."""
    add_meter(world)
    world.config["meters"]["logins"] = {**world.meter}
    hourly = {"event_time_window": "hour"}
    world.meter.update(window="1h", start_at=f"{world.start:%Y-%m-%dT%H:00Z}", stripe=hourly)
    ran = diff(world)
    assert (ran.code, ran.json["outcome"]) == (4, "person_needed")
    assert statuses(ran) == {NEW: "missing", METER: "fixed", "logins": "fixed"}
    [fixed] = [each for each in ran.json["meters"] if each["meter"] == METER]
    assert "another `stripe.event_name`" in fixed["advice"]
    assert "T00:00Z" in fixed["advice"]
    said = world.run("meters", "diff")
    assert said.code == 4
    assert "1 to apply: `aggregator meters apply`; 2 for a person." in said.out


def test_only_the_named_meters_are_compared(world: World) -> None:
    """One that is not configured is told in one line."""
    add_meter(world)
    assert statuses(diff(world, METER)) == {METER: "equal"}
    ran = world.run("meters", "diff", "nothing")
    assert (ran.code, ran.out) == (2, "")
    assert "There is no meter nothing" in ran.err


def test_meters_in_accounts_of_customers_are_made_elsewhere(world: World) -> None:
    """Which accounts there are, the configuration does not say."""
    world.sink["accounts"] = "by_customer"
    ran = diff(world)
    assert ran.code == 2
    assert "by a configuration that names it as `stripe_account`" in ran.err


def test_an_account_that_does_not_answer_is_1(world: World) -> None:
    """And keeps no other from being compared."""
    world.config["sinks"]["away"] = {**world.sink, "api_base": "http://127.0.0.1:1"}
    world.meter["sinks"] = ["stripe", "away"]
    ran = diff(world)
    assert (ran.code, ran.json["outcome"]) == (1, "failed")
    away, here = ran.json["meters"]
    assert (away["sink"], away["meter_state"], here["meter_state"]) == ("away", None, "equal")
    assert "cannot be reached" in away["error"]


def test_meters_of_others_are_named_and_left_alone(world: World) -> None:
    """Only where all meters are compared; they change nothing about how it ends, and `apply` does not touch them."""
    ran = diff(world)
    assert ran.code == 0
    names = [each["event_name"] for each in ran.json["elsewhere"]]
    assert len(names) == 112
    assert (METER in names, "other_000" in names) == (False, True)
    said = world.run("meters", "diff")
    assert "Left alone at stripe: logins, " in said.out
    assert "and 102 more (--json has all)" in said.out
    assert diff(world, METER).json["elsewhere"] == []


def test_the_ledger_is_compared_if_asked_for(world: World) -> None:
    """An event name that it has not fed so far is 4; a meter that is no longer configured is only named."""
    add_meter(world)
    world.use_much(customers=1, minutes=1)
    world.write()
    assert world.run("meters", "apply", "--yes").code == 0
    assert world.once().code == 0
    equal = world.run("meters", "diff", "--ledger", "--json")
    assert (equal.code, equal.json["ledger"]) == (0, []), equal.said
    del world.config["meters"][NEW]
    world.meter["stripe"] = {"event_name": OTHER_METER}
    world.write()
    ran = world.run("meters", "diff", "--ledger", "--json")
    assert (ran.code, ran.json["outcome"]) == (4, "person_needed"), ran.said
    wrong, gone = ran.json["ledger"]
    assert (wrong["meter"], wrong["is_wrong"]) == (METER, True)
    assert f"as event name {METER} so far, not as {OTHER_METER}" in wrong["text"]
    assert (gone["meter"], gone["is_wrong"]) == (NEW, False)
    assert "no longer configured" in gone["text"]
    said = world.run("meters", "diff", "--ledger")
    assert (said.code, "1 for a person." in said.out) == (4, True)
    world.config["ledger"] = {"url": "postgresql://nobody@127.0.0.1:1/nothing?connect_timeout=2"}
    world.write()
    assert world.run("meters", "diff", "--ledger").code == 1


# -- export ---------------------------------------------------------------------------------------


def test_export_writes_what_terraform_takes_over(world: World) -> None:
    """What is there is imported by its id, what is missing comes without; nobody else's meter is among them."""
    add_meter(world, display_name='Exports "$${var.secret}"')
    world.write()
    ran = world.run("meters", "export", "--terraform")
    assert ran.code == 0, ran.said
    found = pygohcl.loads(ran.out)
    resources = found["resource"]["stripe_billing_meter"]
    assert set(resources) == {METER, NEW}
    assert resources[NEW]["display_name"] == 'Exports "${var.secret}"'
    [known] = diff(world, METER).json["meters"]
    assert found["import"] == {"to": f"stripe_billing_meter.{METER}", "id": known["stripe_id"]}
    assert statuses(diff(world))[NEW] == "missing", "nothing was made"


def test_a_file_is_for_one_account(world: World) -> None:
    """With several Stripe sinks one is chosen; without --terraform there is nothing to write."""
    world.config["sinks"]["away"] = {**world.sink, "api_base": "http://127.0.0.1:1"}
    world.meter["sinks"] = ["stripe", "away"]
    world.write()
    several = world.run("meters", "export", "--terraform")
    assert (several.code, several.out) == (2, "")
    assert "Choose a Stripe sink with --sink" in several.err
    assert world.run("meters", "export", "--terraform", "--sink", "stripe").code == 0
    assert world.run("meters", "export", "--terraform", "--sink", "away").code == 1
    assert world.run("meters", "export").code == 2


# -- apply ----------------------------------------------------------------------------------------


def test_apply_makes_what_is_missing_and_then_nothing(world: World) -> None:
    """With --yes; a second time there is nothing to apply, and `run` and `check` find all well."""
    add_meter(world, formula="last", display_name="Exports", value_key="n")
    world.meter["stripe"] = {"display_name": "API requests"}
    world.write()
    ran = world.run("meters", "apply", "--yes", "--json")
    assert (ran.code, ran.json["outcome"]) == (0, "equal"), ran.said
    assert {(each["meter"], each["did"]) for each in ran.json["done"]} == {
        (NEW, "created"),
        (METER, "renamed"),
    }
    assert statuses(ran) == {NEW: "equal", METER: "equal"}
    again = world.run("meters", "apply", "--yes")
    assert (again.code, "All meters are equal." in again.out) == (0, True)
    assert diff(world).code == 0
    assert world.run("check").code == 0


def test_a_dry_run_changes_nothing(world: World) -> None:
    """It shows the plan, needs no yes, and takes none."""
    add_meter(world)
    world.write()
    for arguments in (["--dry-run"], ["--dry-run", "--yes"]):
        ran = world.run("meters", "apply", *arguments)
        assert ran.code == 3
        assert "does not exist" in ran.out
        assert "1 to apply; nothing was changed." in ran.out
    assert statuses(diff(world))[NEW] == "missing"


def test_where_nobody_can_be_asked_it_needs_a_yes(world: World) -> None:
    """Exit code 2, with the question and the remedy; nothing is done."""
    add_meter(world)
    world.write()
    ran = world.run("meters", "apply")
    assert ran.code == 2
    assert (
        "Create 1 meter in test mode (sink stripe, account acct_sandbox)? You cannot be asked here: "
        "give --yes." in ran.err
    )
    assert world.run("meters", "apply", "--json").code == 2
    assert statuses(diff(world))[NEW] == "missing"


def test_at_a_terminal_it_asks(world: World) -> None:
    """A no changes nothing; live mode is said in words; a yes does it."""
    world.sink.update(api_key="sk_live_sandbox", mode="live")
    add_meter(world)
    world.write()
    code, said = at_terminal(world, "meters", "apply", answer="n")
    assert code == 3
    assert (
        "Create 1 meter in LIVE mode, which bills real customers (sink stripe, account acct_sandbox)?" in said
    )
    assert "Nothing was changed." in said
    assert statuses(diff(world))[NEW] == "missing"
    code, said = at_terminal(world, "meters", "apply", answer="y")
    assert (code, "1 of 1 done." in said) == (0, True), said
    assert diff(world).code == 0


def test_what_only_a_person_can_put_right_is_left_alone(world: World) -> None:
    """The missing one is made, the other is as it was, and the exit code says that somebody is needed."""
    add_meter(world)
    world.config["meters"]["logins"] = {**world.meter}
    world.write()
    ran = world.run("meters", "apply", "--yes", "--json")
    assert (ran.code, ran.json["outcome"]) == (4, "person_needed")
    assert statuses(ran) == {NEW: "equal", METER: "equal", "logins": "fixed"}
    again = world.run("meters", "apply", "--yes")
    assert (again.code, "Nothing to apply." in again.out) == (4, True)


def test_two_at_once_are_one(world: World) -> None:
    """Two people apply the same at the same time: both are told that it is done, and there is one meter."""
    add_meter(world)
    world.write()
    both = [world.start_process("meters", "apply", "--yes", "--json") for _ in range(2)]
    assert [each.ended(COMMAND_SECONDS) for each in both] == [0, 0], [each.out + each.err for each in both]
    assert diff(world).code == 0


def test_a_failure_half_way_says_what_was_done(world: World) -> None:
    """A sink whose key may not is told once and not tried again, the other is served, and another run does the rest."""
    world.config["sinks"]["production"] = {**world.sink, "api_key": "sk_live_sandbox", "mode": "live"}
    for name in ("first", "second"):
        add_meter(world, name)
        world.config["meters"][name]["sinks"] = ["stripe", "production"]
    world.write()
    world.sandbox.set_permissions(KEY, "meters_read")
    ran = world.run("meters", "apply", "--yes", "--json")
    assert (ran.code, ran.json["outcome"]) == (1, "failed")
    assert [(each["meter"], each["sink"], each["did"]) for each in ran.json["done"]] == [
        ("first", "production", "created"),
        ("first", "stripe", "failed"),
        ("second", "production", "created"),
        ("second", "stripe", "not_tried"),
    ]
    assert "rak_billing_meter_write" in ran.json["done"][1]["text"]
    again = world.run("meters", "apply", "--yes")
    assert again.code == 1
    assert "0 of 2 done; run it again for the rest" in again.out
    world.sandbox.set_keys()
    assert world.run("meters", "apply", "--yes").code == 0
    assert diff(world).code == 0


# -- deactivate and reactivate --------------------------------------------------------------------


def test_off_and_on_again(world: World) -> None:
    """With a plain warning; `diff` says inactive and asks for a person; saying it twice is no error."""
    world.write()
    off = world.run("meters", "deactivate", METER, "--yes")
    assert off.code == 0, off.said
    assert "Stripe takes no event" in off.out
    assert "no price can use" in off.out
    ran = diff(world)
    assert (ran.code, statuses(ran)) == (4, {METER: "inactive"})
    assert "is not active" in world.once().err
    assert "inactive already" in world.run("meters", "deactivate", METER, "--yes").out
    assert world.run("meters", "apply", "--yes").code == 4, (
        "apply touches nothing but names and what is missing"
    )
    assert world.run("meters", "reactivate", METER, "--yes").code == 0
    assert diff(world).code == 0
    assert "active already" in world.run("meters", "reactivate", METER, "--yes").out


def test_a_meter_with_events_on_their_way_is_not_switched_off(world: World) -> None:
    """Unless --yes says so."""
    world.use("cus_a", 1, minute=1)
    world.sandbox.set_faults(too_many_requests=1.0)
    assert world.once().code == 3
    ran = world.run("meters", "deactivate", METER)
    assert ran.code == 2
    assert f"Stripe would refuse 1 event of {METER}, due or being sent to stripe" in ran.err
    world.sandbox.set_faults()
    assert statuses(diff(world)) == {METER: "equal"}
    anyway = world.run("meters", "deactivate", METER, "--yes")
    assert (anyway.code, "Stripe will refuse 1 event of" in anyway.out) == (0, True)
    assert statuses(diff(world)) == {METER: "inactive"}


def test_switching_off_asks_first(world: World) -> None:
    """Where there is nobody to ask it needs --yes, and a no changes nothing."""
    world.write()
    ran = world.run("meters", "deactivate", METER)
    assert ran.code == 2
    assert "give --yes" in ran.err
    code, said = at_terminal(world, "meters", "deactivate", METER, answer="n")
    assert (code, "Nothing was changed." in said) == (3, True)
    assert diff(world).code == 0
    code, said = at_terminal(world, "meters", "deactivate", METER, answer="y")
    assert (code, "is inactive." in said) == (0, True)
    code, said = at_terminal(world, "meters", "reactivate", METER, answer="y")
    assert (code, "in test mode (sink stripe, account acct_sandbox)?" in said) == (0, True)


def test_which_meter_is_meant_has_to_be_clear(world: World) -> None:
    """Several sinks, none of that name, no meter there: one line each."""
    world.config["sinks"]["other"] = {**world.sink, "api_key": "sk_live_sandbox", "mode": "live"}
    world.meter["sinks"] = ["stripe", "other"]
    add_meter(world)
    world.config["meters"][NEW]["sinks"] = ["stripe"]
    world.write()
    for arguments, code, words in (
        ([METER], 2, "Choose a sink with --sink: stripe, other."),
        ([METER, "--sink", "nowhere"], 2, "feeds no Stripe sink nowhere"),
        ([NEW], 1, "does not exist"),
        (["nothing"], 2, "There is no meter nothing"),
    ):
        ran = world.run("meters", "deactivate", *arguments, "--yes")
        assert (ran.code, ran.out) == (code, ""), ran.said
        assert words in ran.err
    assert world.run("meters", "deactivate", METER, "--sink", "other", "--yes").code == 0
    assert {each["sink"]: each["meter_state"] for each in diff(world, METER).json["meters"]} == {
        "stripe": "equal",
        "other": "inactive",
    }


# -- check ----------------------------------------------------------------------------------------


def findings(world: World, what: str) -> list[tuple[str, str]]:
    """What `check` says of one thing."""
    world.write()
    found = world.run("check", "--json").json["findings"]
    return [(each["verdict"], each["text"]) for each in found if each["what"] == what]


def test_check_says_what_the_key_may_do(world: World) -> None:
    """Too much, all that is of use, enough, too little."""
    [(verdict, text)] = findings(world, "key of stripe")
    assert (verdict, "full secret key" in text) == ("note", True)
    world.sink["api_key"] = RESTRICTED
    enough = ["meter_events_write", "meters_read", "account_read", "customers_read", "events_read"]
    world.sandbox.set_permissions(RESTRICTED, *enough)
    [(verdict, text)] = findings(world, "key of stripe")
    assert verdict == "ok"
    world.sandbox.set_permissions(RESTRICTED, *enough[:-1])
    [(verdict, text), (rest, _)] = findings(world, "key of stripe")
    assert (verdict, rest, "`Events: read`" in text) == ("note", "ok", True)
    world.sandbox.set_permissions(RESTRICTED, *[each for each in enough if each != "customers_read"])
    [(verdict, text), (rest, _)] = findings(world, "key of stripe")
    assert (verdict, rest, "`Customers: read`" in text) == ("note", "ok", True)
    world.sandbox.set_permissions(RESTRICTED, *enough[1:])
    [(verdict, text)] = findings(world, "key of stripe")
    assert verdict == "wrong"
    assert "`Meter events: write`" in text
    assert world.run("check").code == 1


def test_check_looks_up_a_few_customers(world: World) -> None:
    """Who is not at Stripe is named and stops nothing; a key that may not look is no fault; nobody there is a note."""
    for minute in range(90, 100):
        for number in range(20):
            world.use(f"cus_{number:02}", 1, minute)
    world.sandbox.set_rules(strict_customers=True)
    world.sandbox.add_customers(*(f"cus_{number:02}" for number in range(20)))
    what = f"meter {METER}"
    assert not any("looked up" in text for _, text in findings(world, what))
    world.source("update usage set customer = customer || '_gone'")
    [(verdict, text)] = [each for each in findings(world, what) if "looked up" in each[1]]
    assert verdict == "warning"
    assert "5 of 5 customers that were looked up at stripe are not there" in text
    assert re.search(r"No such customer: 'cus_\d\d_gone'", text)
    assert world.run("check").code == 0
    world.sink["api_key"] = RESTRICTED
    world.sandbox.set_permissions(RESTRICTED, "meter_events_write", "meters_read", "account_read")
    [(verdict, text)] = [each for each in findings(world, what) if "may not look up" in each[1]]
    assert (verdict, "That is fine" in text) == ("note", True)
    assert world.run("check").code == 0


def test_check_says_how_to_make_what_is_missing(world: World) -> None:
    """The command, and whether this key may."""
    add_meter(world)
    world.sink["api_key"] = RESTRICTED
    world.sandbox.set_permissions(RESTRICTED, "meter_events_write", "meters_read", "account_read")
    [wrong] = [text for verdict, text in findings(world, "sink stripe") if verdict == "wrong"]
    assert "`aggregator meters apply`" in wrong
    assert [verdict for verdict, text in findings(world, "key of stripe") if "Meters: write" in text] == [
        "note"
    ]


def test_check_mentions_a_display_name(world: World) -> None:
    """It is no mistake."""
    world.meter["stripe"] = {"display_name": "API requests"}
    notes = [text for verdict, text in findings(world, f"meter {METER}") if verdict == "note"]
    assert any("is displayed as" in text for text in notes)
    assert world.run("check").code == 0


@pytest.mark.parametrize("readable", [True, False])
def test_two_sinks_of_one_account_do_not_count_twice(world: World, readable: bool) -> None:
    """One meter to both, or two meters of one event name: `check` and `run` refuse, also where the account is not told."""
    if not readable:
        world.sandbox.set_keys(no_account=[KEY])
    world.config["sinks"]["second"] = {**world.sink}
    world.meter["sinks"] = ["stripe", "second"]
    [(verdict, text)] = findings(world, "sinks")
    assert verdict == "wrong"
    assert "which is the same account" in text
    world.use("cus_a", 1, minute=1)
    ran = world.once()
    assert (ran.code, "which is the same account" in ran.err) == (1, True)
    world.meter["sinks"] = ["stripe"]
    add_meter(world, event_name=METER)
    world.config["meters"][NEW]["sinks"] = ["second"]
    assert len(findings(world, "sinks")) == 1
    world.config["meters"][NEW]["stripe"] = {"event_name": OTHER_METER}
    assert findings(world, "sinks") == []
    assert world.once().code == 0


def test_nothing_is_made_by_check(world: World) -> None:
    """Whatever the key may do."""
    world.sink["api_key"] = RESTRICTED
    assert [verdict for verdict, _ in findings(world, "key of stripe")] == ["ok"]
    assert world.sandbox.stats()["accepted"] == 0
    assert diff(world).code == 0


def test_why_an_account_could_not_be_asked_is_said_once(world: World) -> None:
    """The key's refusal stands at the first meter of the account, and the others point to it; programs get it at each."""
    add_meter(world)
    world.sink["api_key"] = RESTRICTED
    world.sandbox.set_permissions(RESTRICTED, "meter_events_write")
    world.write()
    ran = world.run("meters", "diff")
    world.sandbox.set_keys()
    assert ran.code == 1, ran.said
    assert ran.out.count("lacks a permission") == 1, ran.out
    assert ran.out.count("as exports") == 1, ran.out
