"""`aggregator run --once`, as cron or systemd would start it: what it does, and what its exit code tells."""

import json

from aggregator.core.windows import floor
from aggregator.runtime.clock import utcnow
from tests.system.harness import HOUR, KEY, METER, OTHER_METER, Ran, World

NOWHERE = "postgresql://nobody@127.0.0.1:1/nothing?connect_timeout=2"


def logged(ran: Ran, event: str) -> list[dict[str, object]]:
    """Return the lines of one event; every line of the log is JSON, since nobody watches."""
    lines = [json.loads(line) for line in ran.err.splitlines()]
    return [line for line in lines if line["event"] == event]


def test_done_is_0(world: World) -> None:
    """What was used is billed to the unit; a JSON answer, and a log of JSON lines."""
    world.use_much(customers=20, minutes=30)
    ran = world.once()
    assert ran.code == 0, ran.said
    assert ran.out.count("\n") == 1, "a scheduler may keep the last line alone"
    assert ran.json["outcome"] == "done"
    assert ran.json["meters"][METER]["planned"] == 600
    assert ran.json["sinks"]["stripe"] == {"claimed": 600, "accepted": 600, "waiting": 0}
    assert world.billed() == world.used()
    assert len(logged(ran, "pass_committed")) == len(logged(ran, "batch_delivered")) == 1


NEEDLESS = {
    "alembic",
    "mako",
    "uvicorn",
    "boto3",
    "botocore",
    "metronome",
    "websockets",
    "watchfiles",
    "yaml",
    "stripe",
    "aiohttp",
    "requests",
    "httpx",
}
"""What is for other work than this: Stripe's library, and what it loads, for questions that are seldom asked."""


def test_a_run_loads_what_it_needs(world: World) -> None:
    """The tables are there, no deliveries are listened to, and there is no other sink than Stripe."""
    world.write()
    assert world.run("migrate").code == 0
    world.use_much(customers=2, minutes=2)
    ran = world.run("run", "--once", PYTHONPROFILEIMPORTTIME="1")
    assert ran.code == 0, ran.said
    lines = [line for line in ran.err.splitlines() if line.startswith("import time:")]
    loaded = {line.rpartition("|")[2].strip().partition(".")[0] for line in lines}
    assert loaded >= {"aggregator", "sqlalchemy", "httptools"}
    assert not loaded & NEEDLESS


def test_a_source_that_is_away_is_1_and_the_other_meters_go_on(world: World) -> None:
    """One meter's trouble is logged and recorded with its reason, and delays no other (B18, invariant 10)."""
    world.use_much(customers=5, minutes=5)
    world.config["sources"]["away"] = {"url": NOWHERE}
    world.config["meters"][OTHER_METER] = {**world.meter, "source": "away"}
    ran = world.once()
    assert (ran.code, ran.json["outcome"]) == (1, "failed")
    [failed] = logged(ran, "pass_failed")
    assert failed["meter"] == OTHER_METER
    assert "Source away cannot be read" in str(failed["reason"])
    assert world.billed() == world.used()
    errors = {row["meter"]: row["error"] for row in world.run("status", "--json").json["meters"]}
    assert "Source away cannot be read" in errors[OTHER_METER]
    assert errors[METER] is None


def test_a_sink_that_is_busy_is_3_and_the_next_pass_sends_the_rest(world: World) -> None:
    """429s are not tried for ever within one pass: the events wait, and their attempts are counted."""
    world.use_much(customers=5, minutes=2)
    world.sandbox.set_faults(too_many_requests=1.0)
    ran = world.once()
    assert (ran.code, ran.json["outcome"], ran.json["sinks"]["stripe"]["waiting"]) == (3, "work_left", 10)
    assert world.billed() == {}
    world.sandbox.set_faults()
    world.quiet_by_passes()


def test_a_sink_that_is_away_is_3(world: World) -> None:
    """Nothing has left, so nothing is in doubt; the next pass sends it."""
    world.use_much(customers=2, minutes=2)
    address, world.sink["api_base"] = world.sink["api_base"], "http://127.0.0.1:1"
    ran = world.once()
    assert (ran.code, ran.json["outcome"], ran.json["sinks"]["stripe"]["waiting"]) == (3, "work_left", 4)
    assert world.one("select count(*) from aggregator.event where exposed_at is not null") == 0
    world.sink["api_base"] = address
    world.quiet_by_passes()


def test_a_key_that_was_revoked_is_4_and_burns_nothing(world: World) -> None:
    """The sink is halted as a whole, said once and loudly; events keep their attempts and go out with the right key."""
    world.use_much(customers=5, minutes=2)
    world.sandbox.set_keys(revoked=[KEY])
    ran = world.once()
    assert (ran.code, ran.json["outcome"]) == (4, "person_needed")
    [halted] = logged(ran, "sink_halted")
    assert "does not accept the API key of sink stripe" in str(halted["reason"])
    assert KEY not in ran.said
    assert world.one("select max(attempts) from aggregator.event") == 0
    assert "halted" in world.run("status").out
    world.sandbox.set_keys()
    assert world.once().code == 0
    assert world.billed() == world.used()
    assert "is halted" not in world.run("status").out


def test_a_key_that_was_revoked_is_4_with_nothing_to_send_too(world: World) -> None:
    """Whoever scheduled it hears of it before usage waits for it, and `status` shows it until the key is good again."""
    world.use_much(customers=2, minutes=2)
    assert world.once().code == 0
    world.sandbox.set_keys(revoked=[KEY])
    ran = world.once()
    assert (ran.code, ran.json["outcome"]) == (4, "person_needed")
    [halted] = logged(ran, "sink_halted")
    assert "does not accept the API key of sink stripe" in str(halted["reason"])
    assert "is halted" in world.run("status").out
    world.sandbox.set_keys()
    assert world.once().code == 0
    assert "is halted" not in world.run("status").out


def test_a_configuration_that_cannot_be_used_is_2(world: World) -> None:
    """Every mistake at once, with file and line, and nothing was begun."""
    world.meter["windw"] = "1h"
    world.meter["delay"] = "soon"
    ran = world.once()
    assert ran.code == 2
    assert ran.out == ""
    assert "windw" in ran.err
    assert "delay" in ran.err
    assert len(ran.err.splitlines()) == 2


def test_a_ledger_that_is_away_is_1(world: World) -> None:
    """One message that says what to look at."""
    world.config["ledger"]["url"] = NOWHERE
    ran = world.once()
    assert ran.code == 1
    assert "ledger" in ran.err
    assert len(ran.err.splitlines()) == 1, ran.err


def test_without_json_it_prints_nothing_but_its_log(world: World) -> None:
    """Standard output belongs to whoever asked for JSON."""
    world.use("cus_a", 1, minute=1)
    world.write()
    ran = world.run("run", "--once")
    assert (ran.code, ran.out) == (0, "")
    assert world.billed() == world.used()


def test_a_meter_that_falls_silent_is_said(world: World) -> None:
    """No error says that rows are hidden or no longer written: `run --once` wants a person, and `status` says since when."""
    world.start = floor(utcnow(), HOUR) - 9 * HOUR
    world.meter["start_at"] = f"{world.start:%Y-%m-%dT%H:%MZ}"
    for hour in range(7):
        world.use("cus_a", 1, minute=60 * hour + 59)
    ran = world.once()
    assert ran.code == 4, ran.said
    silent = world.start + 7 * HOUR
    assert "has had no usage since" not in ran.out
    assert ran.json["outcome"] == "person_needed"
    said = world.run("status").out
    assert f"{METER} has had no usage since {silent:%Y-%m-%d %H:%M}" in said
    world.use("cus_a", 1, minute=60 * 9 - 1)
    assert world.once().code == 0
    assert "has had no usage since" not in world.run("status").out


def test_a_first_backfill_has_an_estimate_by_the_declared_rate(world: World) -> None:
    """Before anything was sent, `status` estimates by the sink's rate, and says so; afterwards by what it took lately."""
    world.sink["rate_limit"] = 2
    for number in range(30):
        world.use(f"cus_{number}", 1, minute=80)
    world.sandbox.set_keys(revoked=[KEY])
    world.once()
    world.sandbox.set_keys()
    said = world.run("status").out
    assert (
        "30 events wait, 0 of them from a backfill; nothing was sent lately; at the declared rate of 2/s that"
        in said
    )
    [backlog] = world.run("status", "--json").json["backlogs"]
    assert (backlog["per_second"], backlog["declared_per_second"], backlog["seconds_left"]) == (None, 2, 15)
