"""What passes and deliveries did, as the ledger has it on record: each event stands in one count, whatever became of it."""

import datetime as dt
import json
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from click.testing import CliRunner

from aggregator.cli.runs import runs
from aggregator.core.history import DeliveryRecord, DeliveryState, History, Wait, WaitKind
from aggregator.core.model import Answer, Event, Span
from aggregator.errors import QueryRejected, QueryTimedOut, UsageError
from aggregator.ledger.database import Database
from aggregator.ledger.history import Asked, Records
from tests.postgres.configured import written
from tests.postgres.test_glance import look
from tests.postgres.world import HOUR, METER, MINUTE, START, World

METER_NAME = METER.name
SINK = "type: stripe, api_key: sk_test_1, mode: test, api_base: 'http://127.0.0.1:1'"


def history(world: World, meter: str | None = None, *, limit: int = 50, failed: bool = False) -> History:
    """Ask for all that happened."""
    asked = Asked(meter, limit, START, failed)
    return Records(world.database).history(asked, world.now)


def counts(each: DeliveryRecord) -> dict[str, int]:
    """Return the counts of a delivery that are not zero."""
    names = ("accepted", "again", "refused", "in_doubt", "under_way", "no_answer")
    found = {name: getattr(each, name) for name in names}
    assert sum(found.values()) == each.events, each
    return {name: count for name, count in found.items() if count}


@pytest.fixture
def owing(world: World) -> World:
    """A world that owes ten customers one event each."""
    for number in range(10):
        world.source.use(f"cus_{number}", START, number + 1)
    world.at(1, 5)
    world.collect()
    return world


def test_passes_that_found_nothing_are_one_line_that_counts_them(owing: World) -> None:
    """By rounds and by glances alike; and what a pass did stays a line of its own."""
    owing.deliver()
    for minute in (10, 15):
        owing.at(1, minute)
        owing.collect()
    owing.at(1, 20)
    assert look(owing), "a glance found nothing, either"
    idle, first = history(owing).passes
    assert (first.changed, first.planned, first.rows, first.times) == (10, 10, 10, 1)
    assert (first.at, first.since, first.span) == (
        START + HOUR + 5 * MINUTE,
        first.at,
        Span(START, START + HOUR),
    )
    assert (idle.changed, idle.times, idle.error) == (0, 3, None)
    assert (idle.since, idle.at) == (START + HOUR + 10 * MINUTE, START + HOUR + 20 * MINUTE)


def test_passes_that_failed_in_the_same_way_are_counted_and_wait(world: World) -> None:
    """Since when, how often, and why; another error is another line, and a pass that works ends the wait."""
    world.source.use("cus_1", START, 1)
    for minute, reason in ((5, "no such column"), (10, "no such column"), (15, "no such table")):
        world.at(1, minute)
        world.source.failure = QueryRejected(reason)
        with pytest.raises(QueryRejected):
            world.collect()
    found = history(world, failed=True)
    assert [(each.error, each.times, each.since) for each in found.passes] == [
        ("no such table", 1, START + HOUR + 15 * MINUTE),
        ("no such column", 2, START + HOUR + 5 * MINUTE),
    ]
    [wait] = found.waits
    assert wait[:5] == (WaitKind.FAILED, METER_NAME, None, 1, START + HOUR + 15 * MINUTE)
    assert "`aggregator run --once`" in wait.what_to_do
    world.source.failure = None
    world.at(1, 20)
    world.collect()
    assert [each.kind for each in history(world).waits] == [WaitKind.DUE]
    assert len(history(world, failed=True).passes) == 2
    assert history(world, failed=True).deliveries == []


def test_every_event_of_a_delivery_stands_in_one_count(owing: World) -> None:
    """What was taken, what goes again, what was refused: in the delivery in which it happened, also once it went again."""
    answers = {"cus_0": Answer.REFUSED, "cus_1": Answer.BUSY, "cus_2": Answer.UNKNOWN, "cus_3": Answer.UNSENT}

    def fault(event: Event) -> Answer | None:
        owing.now += dt.timedelta(milliseconds=1)
        return answers.pop(event.customer, None)

    owing.sink.fault = fault
    owing.sink.says = lambda event: (f"not now, {event.customer}", "req_1")
    owing.deliver()
    *_, first = history(owing).deliveries
    assert counts(first) == {"accepted": 6, "again": 2, "refused": 1, "no_answer": 1}
    assert (first.state, first.reason) == (DeliveryState.IN_PART, "not now, cus_0")
    owing.deliver_later()
    newest, given_back, first = history(owing).deliveries
    assert counts(given_back) == {"accepted": 1}
    assert counts(first) == {"accepted": 6, "again": 2, "refused": 1, "no_answer": 1}
    assert newest.state is DeliveryState.DONE
    assert newest.seconds == 0.002, "two events"
    assert sum(each.accepted for each in history(owing).deliveries) == 9
    assert [each.id for each in history(owing, failed=True).deliveries][-1] == first.id
    assert newest.id not in {each.id for each in history(owing, failed=True).deliveries}
    [wait] = history(owing).waits
    assert (wait.kind, wait.sink, wait.number) == (WaitKind.REFUSED, "fake", 1)
    assert wait.commands == (
        "aggregator events list --meter api_requests --state refused",
        "aggregator events release --meter api_requests --state refused",
    )


def test_what_a_process_was_sending_when_it_died_is_shown(owing: World) -> None:
    """Under way while its claim holds; then without an answer; and so it stays when another has sent it again."""
    claim = owing.outbox.claim(owing.registered.feeds[0].sink_id, 4, owing.now)
    assert claim is not None
    [only] = history(owing).deliveries
    assert (counts(only), only.state, only.seconds) == ({"under_way": 4}, DeliveryState.UNDER_WAY, None)
    assert history(owing, failed=True).deliveries == []
    owing.now += 5 * MINUTE
    [only] = history(owing, failed=True).deliveries
    assert (counts(only), only.state) == ({"no_answer": 4}, DeliveryState.NO_ANSWER)
    owing.deliver()
    again, first = history(owing).deliveries
    assert counts(first) == {"no_answer": 4}
    assert counts(again) == {"accepted": 10}


def test_a_meter_has_the_deliveries_that_had_something_of_it(database: Database, owing: World) -> None:
    """And only those, though another meter feeds the same sink."""
    owing.deliver()
    other = World(database, meter=replace(METER, name="seats"), sinks=[owing.sink])
    other.source.use("cus_1", START, 1)
    other.at(1, 6)
    other.collect()
    other.deliver()
    assert len(history(other).deliveries) == 2
    [mine] = history(other, METER_NAME).deliveries
    assert mine.events == 10
    [its] = history(other, "seats").deliveries
    assert its.events == 1
    assert {each.meter for each in history(other).passes} == {METER_NAME, "seats"}
    assert {each.meter for each in history(other, "seats").passes} == {"seats"}
    assert len(history(other, limit=1).passes) == 1


def test_windows_that_could_not_be_read_can_be_read_by_a_command(world: World) -> None:
    """It names the range from the first of them to the end of the last; the failed pass is not named a second time."""
    world.source.failure = QueryTimedOut("takes too long")
    world.at(2, 5)
    world.collect()
    [wait] = history(world).waits
    assert (wait.kind, wait.number, wait.windows) == (WaitKind.UNREAD, 2, Span(START, START + 2 * HOUR))
    assert wait.commands == (
        "aggregator backfill api_requests --from 2026-11-01T00:00Z --to 2026-11-01T02:00Z",
    )
    assert wait.next_at == world.now + HOUR


def test_commands_can_be_pasted_whatever_a_meter_is_called() -> None:
    """A name that a shell would take apart is quoted."""
    wait = Wait(WaitKind.HELD, "api; rm *", "stripe", 1, None, None, None)
    assert wait.commands[0] == "aggregator events list --meter 'api; rm *' --state held"


def test_the_command_shows_both_and_says_how_to_go_on(
    owing: World, tmp_path: Path, ledger_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tables for people with the columns that have something, JSON for programs, and a word where nothing is found."""
    monkeypatch.setattr("aggregator.wiring.opening.unfit", lambda database: [])
    path = written(tmp_path, ledger_url, SINK)
    owing.sink.refused = {"cus_7"}
    owing.deliver()

    def call(*arguments: str) -> str:
        ran = CliRunner().invoke(runs, [*arguments, "--config", str(path)], catch_exceptions=False)
        return ran.output

    shown = call()
    assert "passes, newest first" in shown
    assert "deliveries, newest first" in shown
    assert "no such customer" in shown
    assert "no answer" not in shown
    assert "api_requests to fake: 1 event is refused since 2026-11-01 01:05: no such customer. " in shown
    assert "`aggregator events release --meter api_requests --state refused`" in shown
    known = json.loads(call("api_requests", "--json"))
    assert [each["planned"] for each in known["passes"]] == [10]
    assert [(each["accepted"], each["refused"], each["state"]) for each in known["deliveries"]] == [
        (9, 1, "in part")
    ]
    assert (
        known["waits"][0]["commands"][1] == "aggregator events release --meter api_requests --state refused"
    )
    assert json.loads(call("--since", "1d", "--json"))["passes"] == [], "all of it was in November"
    assert "Nothing was read or sent in that time." in call("--since", "1h")
    assert "Nothing has failed in that time." in call("--failed", "--since", "1h")
    with pytest.raises(UsageError, match="There is no meter seats, neither in the configuration nor"):
        call("seats")
    assert "write 2026-11-01, or 2d for two days ago" in CliRunner().invoke(runs, ["--since", "soon"]).output


def test_the_newest_are_found_without_reading_all(owing: World, ledger_url: str) -> None:
    """Neither a long history of passes nor one of claims is read as a whole: their own keys lead to the newest."""
    from aggregator.ledger.history import ALL_PASSES, FAILED_DELIVERIES, FAILED_PASSES, NEWEST_DELIVERIES

    with psycopg.connect(ledger_url, autocommit=True) as connection:
        connection.execute(
            "insert into aggregator.pass (meter_id, kind, span, goal, started_at, seconds, epoch, fingerprint)"
            " select 1, 'live', 'empty', 'empty', %s, 0, 1, '' from generate_series(1, 20000)", [START],
        )  # fmt: skip
        connection.execute(
            "insert into aggregator.claim (sink_id, owner, claimed_at, settled_at, events)"
            " select 1, gen_random_uuid(), %s, %s, '{}' from generate_series(1, 20000)", [START, START],
        )  # fmt: skip
        connection.execute("analyze aggregator.pass, aggregator.claim")
        values = {
            "meter": None,
            "limit": 20,
            "most": 1000,
            "since": START - dt.timedelta(days=1),
            "now": START,
        }
        for statement in (ALL_PASSES, FAILED_PASSES, NEWEST_DELIVERIES, FAILED_DELIVERIES):
            plan = "\n".join(
                row[0]
                for row in psycopg.ClientCursor(connection).execute(f"explain {statement}".encode(), values)
            )
            assert "Seq Scan on pass" not in plan, plan
            assert "Seq Scan on claim" not in plan, plan
