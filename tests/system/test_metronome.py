"""From an application database to Metronome: collection, ledger, delivery, and what the far side has in the end."""

import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from aggregator.core.windows import DAY, HOUR, floor
from aggregator.ledger.database import Database
from aggregator.runtime.clock import utcnow
from aggregator.sandbox.metronome import MetronomeControl
from tests.postgres.restore import back_up, restore
from tests.system.harness import METER, World, differing, until

TOKEN = "token_0123456789abcdefghij"
PAGE = Path(__file__).parents[2] / "docs" / "metronome.md"

REQUESTS = """
create table account (id int primary key, metronome_alias text not null);
create table api_request (account_id int not null, created_at timestamptz not null);
insert into account values (1, 'acme'), (2, 'globex');
grant select on account, api_request to usage_reader;
"""


@pytest.fixture
def metronome(world: World) -> MetronomeControl:
    """Metronome, with a metric for the meter and a test customer; the world's one meter feeds it and nothing else."""
    control = MetronomeControl(world.sandbox.url)
    control.reset()
    control.add_metric(METER)
    control.add_customer("tester", "tester")
    world.config["sinks"] = {
        "metronome": {
            "type": "metronome",
            "api_key": TOKEN,
            "quantity_encoding": "text",
            "self_test_customer": "tester",
            "api_base": control.url,
            "timeout": "5s",
        }
    }
    world.meter["sinks"] = ["metronome"]
    world.meter["decimals"] = 2
    return control


def settled(world: World, metronome: MetronomeControl) -> Callable[[], bool]:
    """Say whether Metronome has what was used, and nothing waits."""
    return lambda: metronome.totals(METER) == world.used() and not world.waiting()


def quiet(world: World, metronome: MetronomeControl) -> None:
    """Pass after pass, until nothing is left to be sent; then everything must agree."""
    until(lambda: world.once().code == 0, "a pass leaves nothing to be sent", seconds=300)
    assert settled(world, metronome)(), differing(world.used(), metronome.totals(METER))


def reread(world: World) -> None:
    """Read every window now, which passes by themselves do once a day."""
    end = floor(utcnow(), HOUR)
    ran = world.run("backfill", "--from", f"{world.start:%Y-%m-%dT%H:%MZ}", "--to", f"{end:%Y-%m-%dT%H:%MZ}")
    assert ran.code == 0, ran.said


@pytest.mark.parametrize("encoding", ["text", "number"])
def test_what_was_used_is_what_metronome_has(
    world: World, metronome: MetronomeControl, encoding: str
) -> None:
    """To the last digit, and each event once; events of one batch share a request, each customer costs one at the most."""
    world.config["sinks"]["metronome"]["quantity_encoding"] = encoding
    world.use_much(customers=20, minutes=30)
    world.use("cus_big", Decimal("12345678901234567.25"), minute=3)
    ran = world.once()
    assert ran.code == 0, ran.said
    assert ran.json["sinks"]["metronome"] == {"claimed": 601, "accepted": 601, "waiting": 0}
    assert settled(world, metronome)(), differing(world.used(), metronome.totals(METER))
    assert metronome.stats()["accepted"] == 601
    customers = len(world.used())  # Metronome is asked about each before its first event leaves
    assert metronome.stats()["requests"] < 20 + customers
    assert world.once().code == 0
    assert metronome.stats()["accepted"] == 601, "a second pass sends nothing"


def test_a_correction_is_an_event_of_its_own(world: World, metronome: MetronomeControl) -> None:
    """Late usage goes out as the difference; what lowers a bill does too, where the meter applies it."""
    world.meter["decreases"] = "apply"
    world.meter["shrink_guard"] = "100%"
    world.use("cus_a", 5, minute=1)
    world.use("cus_a", 3, minute=1, second=40)
    assert world.once().code == 0
    world.use("cus_a", Decimal("2.5"), minute=1, second=50)
    assert world.once().code == 0
    assert metronome.totals(METER) == {"cus_a": Decimal("10.5")}
    world.source("delete from usage where quantity = 3")
    quiet(world, metronome)
    assert [each["properties"]["quantity"] for each in metronome.events()] == ["8", "2.5", "-3"]


def test_a_decrease_after_its_invoice_is_finalized(world: World, metronome: MetronomeControl) -> None:
    """It is refused and listed, others go on; more usage replaces it; with the invoice void, a person releases it."""
    world.meter.update(decreases="apply", shrink_guard="100%")
    customer = metronome.add_customer("A", "cus_a")
    metronome.add_customer("B", "cus_b")
    world.use("cus_a", 5, minute=1)
    world.use("cus_a", 3, minute=1, second=40)
    world.use("cus_b", 4, minute=1)
    assert world.once().code == 0
    month = world.start.replace(day=1, hour=0, minute=0)
    following = (month + 32 * DAY).replace(day=1)
    world.sandbox.set_clock((following + DAY + HOUR - utcnow()).total_seconds())
    world.source("delete from usage where quantity = 3")
    world.use("cus_b", 1, minute=1, second=30)
    ran = world.once()
    assert ran.json["sinks"]["metronome"] == {"claimed": 2, "accepted": 1, "refused": 1, "waiting": 0}, (
        ran.said
    )
    assert metronome.totals(METER) == {"cus_a": 8, "cus_b": 5}
    [refused] = world.run("events", "list", "--json").json["events"]
    assert (refused["state"], refused["customer"], Decimal(refused["delta"])) == ("refused", "cus_a", -3)
    assert "is finalized" in refused["reason"]
    balance = """
    select sum(delta) filter (where state <> 'void'), sum(delta) filter (where state = 'accepted'),
           (select sum(quantity) from aggregator.slot where customer = 'cus_a')
      from aggregator.event where customer = 'cus_a'
    """
    assert world.ledger(balance) == [(5, 8, 5)], "what is refused is named, and makes up the difference"
    world.use("cus_a", 4, minute=1, second=50)
    quiet(world, metronome)
    assert world.run("events", "list", "--json").json["events"] == []
    assert [each["properties"]["quantity"] for each in metronome.events()][-1] == "1"
    world.source("delete from usage where quantity = 4 and customer = 'cus_a'")
    world.once()
    [refused] = world.run("events", "list", "--json").json["events"]
    assert Decimal(refused["delta"]) == -4
    invoice = next(each["id"] for each in metronome.invoices(customer) if each["status"] == "FINALIZED")
    metronome.call("POST", "/v1/invoices/void", {"id": invoice})
    released = world.run("events", "release", str(refused["event"]))
    assert released.code == 0, released.said
    quiet(world, metronome)
    metronome.call("POST", "/v1/invoices/regenerate", {"id": invoice})
    [anew] = [each for each in metronome.invoices(customer) if each["status"] == "FINALIZED"]
    assert anew["line_items"][0]["quantity"] == 5


def test_lost_answers_cost_nothing_and_double_nothing(world: World, metronome: MetronomeControl) -> None:
    """Requests that arrive in part, answers that are lost, 429s: pass after pass, until all is there once."""
    metronome.set_rules(ingested_before_error=37)
    metronome.set_faults(error_after=0.3, drop_after=0.2, error_before=0.1, too_many_requests=0.1, seed=7)
    world.use_much(customers=20, minutes=30)
    world.write()
    assert world.once().code == 3
    assert metronome.stats()["faults_struck"] > 0
    metronome.set_faults()
    quiet(world, metronome)
    stats = metronome.stats()
    assert stats["duplicates"] > 0, "something was sent again that had arrived"
    assert (stats["double_counted"], stats["accepted"] - stats["duplicates"]) == (0, 600)


def test_one_bad_customer_holds_nobody_up(world: World, metronome: MetronomeControl) -> None:
    """Its events are refused with Metronome's words; everybody else's are booked in the same pass."""
    metronome.set_rules(refuse_customers=["cus_7"])
    world.use_much(customers=20, minutes=5)
    ran = world.once()
    assert ran.json["sinks"]["metronome"]["accepted"] == 95, ran.said
    assert metronome.totals(METER) == {who: much for who, much in world.used().items() if who != "cus_7"}
    refused = world.ledger("select customer, state, reason from aggregator.event where state <> 'accepted'")
    assert {(who, state) for who, state, _ in refused} == {("cus_7", "refused")}
    assert len(refused) == 5
    assert all("is refused by a rule of the sandbox (400)" in error for _, _, error in refused)


def test_a_process_that_is_killed_doubles_nothing(world: World, metronome: MetronomeControl) -> None:
    """Right after a request was answered, and before anybody took note: the same bytes go out again, and count once."""
    world.use_much(customers=20, minutes=30)
    world.write()
    ran = world.start_process("run", "--once", "--json", AGGREGATOR_KILL_AT="answer_unread:2")
    assert ran.ended() == -9
    assert metronome.stats()["accepted"] > 0
    world.ledger("update aggregator.outbox set due_at = now()")  # the claim has run out
    quiet(world, metronome)
    stats = metronome.stats()
    assert stats["duplicates"] > 0
    assert (stats["double_counted"], stats["accepted"] - stats["duplicates"]) == (0, 600)


def test_a_ledger_that_was_set_back_is_adopted_from_metronomes_usage(
    world: World, metronome: MetronomeControl
) -> None:
    """Where windows are whole hours: what was sent and forgotten is taken over, and the rest is sent, not a unit twice."""
    world.start = floor(utcnow(), HOUR) - 30 * HOUR
    world.meter.update(window="1h", start_at=f"{world.start:%Y-%m-%dT%H:%MZ}")
    for customer in ("cus_1", "cus_2", "cus_3"):
        metronome.add_customer(customer, customer)
    for hour in (1, 5, 26):
        world.use("cus_1", 5, 60 * hour)
    quiet(world, metronome)
    assert world.ledger_url is not None
    with Database(world.ledger_url) as database:
        backup = back_up(database)
        for hour in (1, 6, 27):
            world.use("cus_1", Decimal("7.25"), 60 * hour + 1)
            world.use("cus_2", 3, 60 * hour)
        reread(world)
        quiet(world, metronome)
        restore(database, backup)
    world.use("cus_3", 2, 60 * 2)
    stopped = world.run("run", "--once")
    assert (stopped.code, "wound back" in stopped.said) == (1, True), stopped.said
    adopted = world.run("adopt", "--yes", "--quiet", "0s", "--json")
    assert adopted.code == 0, adopted.said
    [compared] = adopted.json["compared"]
    assert (compared["taken_over"], compared["missing"]) == ("30.75", "0")
    reread(world)
    quiet(world, metronome)
    assert metronome.totals(METER) == {"cus_1": Decimal("36.75"), "cus_2": 9, "cus_3": 2}


def test_a_customer_that_metronome_does_not_know_does_not_end_an_adoption(
    world: World, metronome: MetronomeControl
) -> None:
    """It is named with what to do; with its alias given to somebody, all are adopted, and nothing is billed twice."""
    world.start = floor(utcnow(), HOUR) - 30 * HOUR
    world.meter.update(window="1h", start_at=f"{world.start:%Y-%m-%dT%H:%MZ}")
    metronome.add_customer("cus_1", "cus_1")
    for customer in ("cus_1", "cus_new"):
        world.use(customer, 5, 60)
    quiet(world, metronome)
    assert world.ledger_url is not None
    with Database(world.ledger_url) as database:
        backup = back_up(database)
        for customer in ("cus_1", "cus_new"):
            world.use(customer, Decimal("7.25"), 61)
        reread(world)
        quiet(world, metronome)
        restore(database, backup)
    world.use("cus_1", 1, 60 * 2)
    assert world.run("run", "--once").code == 1
    refused = world.run("adopt", "--yes", "--quiet", "0s")
    assert (refused.code, "cus_new: a sink does not know them" in refused.said) == (1, True), refused.said
    looked = world.run("adopt", "--json")
    [left] = looked.json["left"]
    assert (left["customer"], left["sink"]) == ("cus_new", "metronome")
    assert "Give the alias to one customer there." in left["reason"]
    assert looked.json["compared"][0]["taken_over"] == "7.25"
    metronome.add_customer("New", "cus_new")
    adopted = world.run("adopt", "--yes", "--quiet", "0s", "--json")
    assert (adopted.code, adopted.json["left"]) == (0, []), adopted.said
    reread(world)
    quiet(world, metronome)
    assert metronome.totals(METER) == {"cus_1": Decimal("13.25"), "cus_new": Decimal("12.25")}


def test_with_windows_of_minutes_it_counts_as_one_that_cannot_be_read_back(
    world: World, metronome: MetronomeControl
) -> None:
    """Metronome shows no less than an hour, so an adoption says that a person must look."""
    world.use("cus_1", 5, 1)
    quiet(world, metronome)
    assert world.ledger_url is not None
    with Database(world.ledger_url) as database:
        backup = back_up(database)
        world.use("cus_1", 5, 2)
        quiet(world, metronome)
        restore(database, backup)
    refused = world.run("adopt", "--yes", "--quiet", "0s")
    assert (refused.code, "--without-readback" in refused.said) == (1, True), refused.said


def test_check_sends_a_test_event_when_it_is_told_to(world: World, metronome: MetronomeControl) -> None:
    """It finds a metric that is missing without sending anything, and text that counts as zero by a test event."""
    world.write()
    told: list[dict[str, Any]] = world.run("check", "--json").json["findings"]
    assert {"what": "sink metronome", "verdict": "ok"}.items() <= told[-1].items()
    assert metronome.stats()["accepted"] == 0
    counted = world.run("check", "--json", "--send-test-event")
    assert counted.code == 0, counted.said
    assert counted.json["findings"][-1]["text"] == "a test event was counted as it was sent"
    assert metronome.totals(METER) == {"tester": Decimal("1.25")}
    world.meter["metronome"] = {"event_type": "other"}
    world.write()
    missing = world.run("check", "--json", "--send-test-event")
    assert missing.code == 1
    assert "no billable metric of Metronome is for event type other" in missing.out
    assert metronome.stats()["accepted"] == 1


def test_a_token_without_invoices_is_told_of_and_sends(world: World, metronome: MetronomeControl) -> None:
    """By `check` as a note, and by the log once at the start; nothing is kept back for it."""
    metronome.set_keys(without_invoices=[TOKEN])
    world.use("cus_1", 5, 1)
    world.write()
    checked = world.run("check", "--json")
    notes = [
        each["text"]
        for each in checked.json["findings"]
        if (each["what"], each["verdict"]) == ("sink metronome", "note")
    ]
    assert (checked.code, ["may not read customers and invoices" in note for note in notes]) == (0, [True]), (
        checked.said
    )
    ran = world.once()
    assert (ran.code, ran.said.count('"event": "sink_cannot_promise"')) == (0, 1), ran.said
    assert settled(world, metronome)()


def test_the_page_shows_a_configuration_that_works(world: World, metronome: MetronomeControl) -> None:
    """What docs/metronome.md begins with bills what was used, when Metronome is where the sandbox is."""
    metronome.add_metric("api_requests", filters=[{"name": "product", "in_values": ["api"]}])
    metronome.add_customer("Acme", "acme")
    start = floor(utcnow(), DAY) - 3 * DAY
    shown = PAGE.read_text().split("```yaml\n")[1].split("```")[0]
    config = YAML(typ="safe", pure=True).load(shown)
    config["sources"]["app"]["wait_for_writers"] = "0s"
    config["sinks"]["metronome"]["api_base"] = metronome.url
    config["meters"]["api_requests"]["start_at"] = f"{start:%Y-%m-%dT%H:%MZ}"
    config["ledger"] = {"url": world.ledger_url}
    (world.directory / "shown.yaml").write_text(json.dumps(config))
    world.source(REQUESTS)
    for account in (1, 1, 2):
        world.source("insert into api_request values (%s, %s)", account, start + DAY)
    ran = world.run(
        *("run", "--once", "--config", "shown.yaml"),
        APP_DATABASE_URL=world.config["sources"]["app"]["url"],
        METRONOME_TOKEN=TOKEN,
    )
    assert ran.code == 0, ran.said
    assert metronome.totals("api_requests") == {"acme": 2, "globex": 1}
    assert {each["properties"]["product"] for each in metronome.events()} == {"api"}
