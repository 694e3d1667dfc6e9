"""Old windows are read again where the source says that they were touched, and no others."""

import datetime as dt
import re
from dataclasses import replace
from pathlib import Path
from textwrap import dedent
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest

from aggregator.cli.revisits import costs
from aggregator.core.model import EPOCH, Changed, Fence, Span
from aggregator.errors import QueryRejected, SourceUnreachable
from aggregator.ledger.database import Database
from aggregator.ledger.figures import Figures, RevisitCost
from aggregator.source import Source
from tests.postgres.world import HOUR, METER, MINUTE, START, World

ROOT = Path(__file__).parents[2]
DAY = 24 * HOUR
QUESTION = Changed("select window", "c" * 64, 10 * MINUTE, 7 * DAY)


@pytest.fixture
def world(database: Database) -> World:
    """Return a meter that was read for two days, and asked once."""
    world = World(database, meter=replace(METER, revisit=30 * DAY, changed=QUESTION))
    for hour in range(48):
        world.source.use("cus_1", START + hour * HOUR)
    world.now = START + 2 * DAY + 10 * MINUTE
    world.collect()
    world.deliver()
    world.source.reads.clear()
    return world


def touch(world: World, window: dt.datetime, *, told: bool = True) -> None:
    """Let a customer use something in an old window, and the source tell of it."""
    world.source.use("cus_1", window + MINUTE)
    if told:
        world.source.touches.append((world.now, window + MINUTE))


def since(world: World) -> dt.datetime:
    """Return up to when what was touched has been read."""
    found: dt.datetime = world.one("select since from aggregator.touched")
    return found


def test_only_what_was_touched_is_read_again(world: World) -> None:
    """And billed; a window that changed and was not named keeps what is billed."""
    touch(world, START)
    touch(world, START + 5 * HOUR, told=False)
    world.now += HOUR
    result = world.collect()
    old = [span for span in world.source.reads if span.end <= START + DAY]
    assert old == [Span(START, START + HOUR)]
    assert (result.touched, result.changed) == (1, 1)
    assert since(world) == world.now
    assert world.source.asked_since[-1] == world.now - HOUR - QUESTION.lag


def test_a_customer_whose_usage_is_gone_has_zero(world: World) -> None:
    """A window is read whole, so who is not in it has none."""
    world.source.uses = [use for use in world.source.uses if use[1] != START]
    world.source.touches.append((world.now, START))
    world.now += HOUR
    assert world.collect().guarded == 1
    world.now += HOUR
    world.collect()
    assert world.rows("select state::text, guard from aggregator.parked") == [("held", None)]
    assert world.one("select delta from aggregator.event where revision = 1") == -1


def test_it_is_asked_once_an_hour(world: World) -> None:
    """Rounds in between read what is young."""
    asked = len(world.source.asked_since)
    world.now += 30 * MINUTE
    world.collect()
    assert len(world.source.asked_since) == asked
    world.now += 30 * MINUTE
    world.collect()
    assert len(world.source.asked_since) == asked + 1


def test_what_no_answer_names_is_found_by_a_full_reading_and_counted(world: World) -> None:
    """What was named in time, or while all was read, is no omission."""
    touch(world, START + HOUR, told=False)
    world.now += 7 * DAY
    touch(world, START + 3 * HOUR)
    result = world.collect()
    assert (result.missed_by_changed, result.missed_from) == (1, START + HOUR)
    assert result.figures()["missed_by_changed"] == 1
    assert world.rows("select missed, missed_at from aggregator.touched") == [(1, world.now)]
    assert world.one("select quantity from aggregator.slot where window_start = %s", START + HOUR) == 2


def test_a_question_that_fails_delays_no_new_window(world: World) -> None:
    """It is said after those were read, and asked again from the same instant; nothing moves."""
    before = since(world)
    world.source.unanswered = SourceUnreachable("The table of changes is gone.")
    world.source.use("cus_1", START + 2 * DAY)
    world.now += HOUR
    with pytest.raises(SourceUnreachable, match="table of changes"):
        world.collect()
    assert world.one("select mark from aggregator.meter") == START + 2 * DAY + HOUR
    assert since(world) == before
    world.source.unanswered = None
    touch(world, START)
    assert world.collect().touched == 1


def test_a_reading_that_fails_leaves_the_mark(world: World) -> None:
    """What was named before is named again, and read."""
    touch(world, START)
    before, world.source.failure = since(world), QueryRejected("No.")
    world.now += HOUR
    with pytest.raises(QueryRejected):
        world.collect()
    assert since(world) == before
    world.source.failure = None
    world.now += HOUR
    assert world.collect().changed == 1


def test_another_question_begins_with_a_full_reading(world: World) -> None:
    """What the one before had named is nothing that this one can go on from."""
    other = replace(world.meter, changed=QUESTION._replace(fingerprint="d" * 64))
    touch(world, START + 5 * HOUR, told=False)
    beside = World(world.database, meter=other, source=world.source, sinks=list(world.sinks.values()))
    beside.now = world.now + HOUR
    result = beside.collect()
    assert (result.changed, result.missed_by_changed) == (1, 0)
    assert beside.one("select fingerprint from aggregator.touched") == "d" * 64
    assert since(beside) == beside.now


def test_a_clock_that_was_set_back_leaves_nothing_out(world: World) -> None:
    """The mark never moves back by itself, and is asked from all the same."""
    before = since(world)
    world.execute("update aggregator.meter set hourly_at = null")
    world.now -= 5 * MINUTE
    world.collect()
    assert since(world) == before


def test_the_mark_goes_no_further_than_a_reading_saw(world: World) -> None:
    """Another server may have answered, which lacked what the question had seen."""
    touch(world, START)
    world.now += HOUR
    seen = world.now - 30 * MINUTE
    world.source.transactions = Fence(
        seen, 5, 5, None, sees_starts=False, standby=False, fresh_until=None, holder=None
    )
    world.collect()
    assert since(world) == seen


# As the documentation has it


def test_the_questions_of_the_documentation_name_what_was_touched(source_url: str) -> None:
    """A row that is inserted, changed, moved or deleted touches its window, and the one that it left."""
    text = (ROOT / "docs" / "revisits.md").read_text()
    [trigger] = re.findall(r"```sql\n(.*?)```", text, re.DOTALL)
    by_column, by_trigger = (
        re.search(r"query: \|?\s*(select distinct.*?>= :since)", block, re.DOTALL)
        for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    )
    assert by_column is not None
    assert by_trigger is not None
    with psycopg.connect(source_url, autocommit=True) as connection:
        connection.execute(
            "create table api_request (customer_id text, created_at timestamptz, updated_at timestamptz default now())"
        )
        connection.execute(trigger)
        for hour in range(4):
            connection.execute("insert into api_request values ('cus_1', %s)", [START + hour * HOUR])
        connection.execute("delete from api_request_touched")
        connection.execute(
            "update api_request set created_at = %s where created_at = %s", [START + 9 * HOUR, START]
        )
        connection.execute("delete from api_request where created_at = %s", [START + HOUR])
    source = Source("app", source_url, statement_timeout=MINUTE)
    assert asked(source, by_column[1]) == {START + 2 * HOUR, START + 3 * HOUR, START + 9 * HOUR}
    assert asked(source, by_trigger[1]) == {START, START + HOUR, START + 9 * HOUR}


def asked(source: Source, query: str) -> set[dt.datetime]:
    """Return what a question names since the epoch."""
    with source.touched(dedent(query)) as touching:
        assert touching.fence is not None
        return {each for batch in touching.since(EPOCH) for each in batch}


# What it costs


def test_what_old_windows_cost_is_counted_by_day(world: World) -> None:
    """Without what is new or young; days that are not over are left out."""
    touch(world, START)
    world.now += HOUR
    world.collect()
    figures = Figures(world.database)
    assert figures.revisit_costs(world.now) == []
    [cost] = figures.revisit_costs(world.now + DAY)
    assert (cost.meter, cost.days, cost.readings, cost.rows) == ("api_requests", 1, 1, 2)
    assert cost.seconds > 0


def test_check_says_what_a_day_of_revisits_costs() -> None:
    """And names the other way where it is much."""
    meters: Any = {"api": SimpleNamespace(name="api", changed=None, read="windows")}
    said = dict(
        costs([RevisitCost("api", 2, 48, 70_000_000, 9_000.0), RevisitCost("gone", 1, 1, 1, 1.0)], meters)
    )
    cost = "revisits of old windows cost its source 4500.0 s a day, for 35,000,000 rows in 24.0 readings"
    hint = "with `changed`, it says itself which were touched; see docs/revisits.md"
    assert said == {"api": f"{cost}: {hint}"}
