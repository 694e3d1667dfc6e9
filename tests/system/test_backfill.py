"""`aggregator backfill` as a process: as often as one likes, interrupted where one likes."""

import datetime as dt
import signal

import pytest

from tests.system.harness import (
    HOUR,
    LOCK,
    METER,
    OTHER_METER,
    SLOW_QUERY,
    UNLOCK,
    WHILE_LOCKED,
    Process,
    Ran,
    World,
    until,
)

MINUTES = 60


def backfill(world: World, *options: str) -> Ran:
    """Read the first hour again."""
    return world.run("backfill", *bounds(world), "--json", *options)


def bounds(world: World, hours: int = 1) -> tuple[str, ...]:
    """Return the options that name the first hour."""
    return (
        "--from",
        f"{world.start:%Y-%m-%dT%H:%MZ}",
        "--to",
        f"{world.start + hours * HOUR:%Y-%m-%dT%H:%MZ}",
    )


def interrupted(world: World, number: int) -> Process:
    """Start a backfill and end it by a signal in the middle of its reading, which takes long until then."""
    world.meter["query"] = SLOW_QUERY.format(seconds=WHILE_LOCKED.format(seconds=1))
    world.write()
    world.source(LOCK)
    process = world.start_process("backfill", *bounds(world))
    until(lambda: minutes_read(world) >= 3, "some pieces are committed", seen=lambda: process.err)
    process.tell(number)
    process.ended()
    world.source(UNLOCK)
    return process


def minutes_read(world: World) -> int:
    """Return how many windows are in pieces that are committed, each as often as it was read."""
    return int(
        world.one(
            "select coalesce(sum(extract(epoch from upper(span) - lower(span))), 0) / 60 from aggregator.pass "
            "where kind = 'backfill'"
        )
    )


def test_the_second_and_the_third_time_send_nothing(world: World) -> None:
    """A backfill three times has the effect of one (B13)."""
    world.use_much(customers=10, minutes=MINUTES)
    world.write()
    first = backfill(world)
    assert first.code == 0, first.said
    assert first.json["meters"][0]["new"] == 600
    assert world.billed() == world.used()
    sent = world.sent()
    for _ in range(2):
        again = backfill(world)
        assert (again.code, again.json["meters"][0]["new"], again.json["sinks"]["stripe"]) == (
            0,
            0,
            {"waiting": 0},
        )
        assert again.json["meters"][0]["unchanged"] == 600
    assert world.sent() == sent == 600


def test_over_a_range_that_live_covered_it_sends_nothing(world: World) -> None:
    """Live and backfill are the same code over different spans."""
    world.use_much(customers=10, minutes=MINUTES)
    assert world.once().code == 0
    again = backfill(world)
    assert (again.code, again.json["meters"][0]["new"], again.json["sinks"]["stripe"]) == (
        0,
        0,
        {"waiting": 0},
    )
    assert world.sent() == 600
    assert world.billed() == world.used()


def test_live_over_a_range_that_was_backfilled_sends_nothing(world: World) -> None:
    """The other way round, too; and the daemon goes on where the backfill ended."""
    world.use_much(customers=10, minutes=MINUTES)
    world.write()
    assert backfill(world).code == 0
    ran = world.once()
    assert (ran.code, ran.json["meters"][METER]["planned"]) == (0, 0)
    assert world.sent() == 600


def test_a_dry_run_writes_and_sends_nothing(world: World) -> None:
    """It says what it would do, and the ledger is as it was."""
    world.use_much(customers=10, minutes=MINUTES)
    world.write()
    ran = backfill(world, "--dry-run")
    assert (ran.code, ran.json["dry_run"], ran.json["meters"][0]["new"]) == (0, True, 600)
    for table in ("slot", "event", "outbox", "pass", "claim"):
        assert world.one(f"select count(*) from aggregator.{table}") == 0, table
    assert world.sent() == 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)])
def test_interrupted_in_the_middle_and_run_again_it_is_complete(world: World, number: int, code: int) -> None:
    """It goes on where it stopped, and totals are right (B13)."""
    world.use_much(customers=10, minutes=MINUTES)
    first = interrupted(world, number)
    assert first.code == code, first.err
    assert "Traceback" not in first.err
    assert minutes_read(world) < MINUTES
    again = until(lambda: finished(backfill(world)), "the meter is free again")
    assert again.json["meters"][0]["resumed_at"] is not None
    assert minutes_read(world) == MINUTES, (
        "no piece is read twice, and each grows as long as it is read in time"
    )
    assert world.billed() == world.used()
    assert world.sent() == 600


def finished(ran: Ran) -> Ran:
    """Return what a backfill did, given that it went well."""
    assert ran.code == 0, ran.said
    return ran


def test_interrupted_while_it_sends_it_ends_at_once_and_hands_back_the_rest(world: World) -> None:
    """Ctrl-C does not wait until everything is sent; what has not left is due at once, with no attempt counted."""
    world.use_much(customers=20, minutes=MINUTES)
    world.sink["timeout"] = "10s"
    world.write()
    world.sandbox.set_faults(latency_seconds=0.5)
    process = world.start_process("backfill", *bounds(world))
    until(lambda: world.sandbox.stats()["accepted"] > 20, "some events are sent", seen=lambda: process.err)
    process.tell(signal.SIGINT)
    assert process.ended() == 130, process.err
    assert world.one("select count(*) from aggregator.outbox where claim_id is not null") == 0
    assert world.one("select count(*) from aggregator.event where state = 'due' and attempts > 0") == 0
    world.sandbox.set_faults()
    assert backfill(world).code == 0
    assert world.billed() == world.used()
    assert world.sent() == 1200


def test_a_range_that_cannot_be_billed_is_refused_with_the_reason(world: World) -> None:
    """Too old for the sink, off the grid, before `start_at`, not ready yet: exit code 2, one sentence, nothing done."""
    world.meter["start_at"] = "2020-01-01T00:00Z"
    world.meter["query"] = world.meter["query"]
    world.write()
    old = world.run("backfill", "--from", f"{world.start - dt.timedelta(days=40):%Y-%m-%dT%H:%MZ}")
    assert old.code == 2
    assert "days" in old.err
    off_grid = world.run("backfill", "--from", f"{world.start:%Y-%m-%dT%H:%M}:30Z")
    assert (off_grid.code, "not a window boundary" in off_grid.err) == (2, True)
    early = world.run("backfill", "--from", f"{world.start:%Y-%m-%dT%H:%MZ}", "--to", "2100-01-01")
    assert (early.code, "are ready up to" in early.err) == (2, True)
    unknown = world.run("backfill", "request", *bounds(world))
    assert (unknown.code, "There is no meter request" in unknown.err) == (2, True)
    for ran in (old, off_grid, early, unknown):
        assert len(ran.err.splitlines()) == 1, ran.err
    assert world.one("select count(*) from aggregator.pass") == 0


def test_a_source_that_is_away_keeps_no_other_meter(world: World) -> None:
    """The others are read and sent; what failed is said at the end, and by exit code 1."""
    world.use_much(customers=3, minutes=30)
    world.config["sources"]["away"] = {"url": "postgresql://nobody@127.0.0.1:1/nothing?connect_timeout=2"}
    world.config["meters"] = {OTHER_METER: {**world.meter, "source": "away"}, **world.config["meters"]}
    world.write()
    ran = backfill(world)
    assert ran.code == 1
    assert f"{OTHER_METER} was not read to the end: Source away cannot be read" in ran.err
    assert [meter["meter"] for meter in ran.json["meters"]] == [METER]
    assert world.billed() == world.used()


def test_what_a_busy_sink_did_not_take_is_said(world: World) -> None:
    """Events that still wait after a backfill are counted, and the exit code tells (3)."""
    world.use_much(customers=3, minutes=2)
    world.sandbox.set_faults(too_many_requests=1.0)
    world.write()
    ran = world.run("backfill", "--from", f"{world.start:%Y-%m-%dT%H:%MZ}")
    assert ran.code == 3, ran.said
    assert "6 events still wait for stripe" in ran.said


def test_sigterm_in_the_middle_gives_back_what_is_held(world: World) -> None:
    """A backfill that is told to end leaves no claim open: what had not left is due at once, and goes out once (B1)."""
    world.use_much(customers=50, minutes=4)
    world.sandbox.set_faults(latency_seconds=0.5)
    world.sink["rate_limit"] = 20
    world.write()
    process = world.start_process("backfill", "--from", f"{world.start:%Y-%m-%dT%H:%MZ}")
    until(lambda: world.sent() > 5, "events are being sent", seen=lambda: process.err)
    assert process.stop() == 128 + signal.SIGTERM
    assert world.one("select count(*) from aggregator.event where state = 'sending'") == 0
    world.sandbox.set_faults()
    world.sink["rate_limit"] = 1000
    assert world.once().code == 0
    assert world.billed() == world.used()


@pytest.mark.parametrize("command", ["backfill", "preview"])
def test_nobody_is_blamed_for_what_was_not_given(world: World, command: str) -> None:
    """A range that begins in the future is `--from`'s fault, where no `--to` was given."""
    world.write()
    ran = world.run(command, METER, "--from", "2999-01-01")
    assert ran.code == 2, ran.said
    assert "--from 2999-01-01T00:00Z lies behind the last window" in ran.err
    assert "--to" not in ran.err
