"""`aggregator statement`: every entry of a customer, corrections by themselves, in the sums of `aggregator usage`."""

import csv
import datetime as dt
import io
import json
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from aggregator.cli.statement import COLUMNS, statement
from aggregator.cli.usage import usage
from aggregator.core.model import Span, State, WriteModel
from aggregator.core.statement import Days, Entry
from aggregator.errors import UsageError
from aggregator.ledger.database import Database
from tests.fakes import LIMITS, FakeSink
from tests.postgres.configured import written
from tests.postgres.world import HOUR, METER, MINUTE, START, World

Call = Callable[..., Result]
PERIOD = ("--period", "2026-11")
SINK = "type: stripe, api_key: sk_test_1, mode: test, api_base: 'http://127.0.0.1:1'"
DAY = dt.timedelta(days=1)


@pytest.fixture
def call(ledger_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    """Run a command over the ledger of this test, whose server is fast for not being durable."""
    monkeypatch.setattr("aggregator.wiring.opening.unfit", lambda database: [])
    path = written(tmp_path, ledger_url, SINK)
    return lambda command, *arguments: CliRunner().invoke(command, [*arguments, "--config", str(path)])


@pytest.fixture
def billed(world: World) -> World:
    """A customer with two days of usage: one window was corrected twice, one is refused, and a fraction is carried."""
    for hour in (1, 2, 26):
        world.source.use("=cus_a", START + hour * HOUR, 10)
        world.source.use("cus_b", START + hour * HOUR, 1)
    world.at(27, 5)
    world.collect()
    world.deliver()
    world.source.use("=cus_a", START + 26 * HOUR + MINUTE, Decimal("5.75"))
    world.at(27, 10)
    world.collect()
    world.deliver()
    world.source.use("=cus_a", START + 26 * HOUR + 2 * MINUTE, -3)
    world.at(27, 15)
    world.collect()
    world.source.use("=cus_a", START + 26 * HOUR + 3 * MINUTE, -1)
    world.at(27, 20)
    world.collect()  # what was held is withdrawn, and held anew
    world.sink.refused = {"=cus_a"}
    world.source.use("=cus_a", START + 27 * HOUR, 7)
    world.at(28, 5)
    world.collect()
    world.deliver()
    return world


def lines(text: str) -> list[list[str]]:
    """Return the cells of the lines of tables, without rulers and titles."""
    return [line.split() for line in text.splitlines() if line[:1] == " " and line.strip(" ─")]


def test_each_day_and_each_correction_has_a_line(billed: World, call: Call) -> None:
    """What was first billed of a day, what corrections changed of it, what is not billed; and each of these by itself."""
    ran = call(statement, "=cus_a", *PERIOD)
    assert ran.exception is None, ran.output
    head, total, *_ = ran.output.splitlines()
    assert head.startswith("Statement for =cus_a, 2026-11-01 to 2026-11-30 (UTC), as of ")
    assert total == (
        "api_requests to fake: 38.75 used, 35 billed, -4 held, 7 refused, 0.75 carried; read up to 2026-11-02T04:00Z."
    )
    days, entries = ran.output.split("corrections, and what is not billed")
    assert lines(days) == [
        ["day", "windows", "usage", "corrections", "billed", "not", "billed"],
        ["2026-11-01", "2", "20", "0", "20", "0"],
        ["2026-11-02", "2", "10", "5", "15", "3"],
    ]
    assert [row[:10] for row in lines(entries)[1:]] == [
        ["2026-11-02", "02:00", "2026-11-02", "03:10", "7", "correction", "5", "10", "15", "accepted"],
        ["2026-11-02", "02:00", "2026-11-02", "03:20", "9", "correction", "-4", "15", "11", "held"],
        ["2026-11-02", "03:00", "2026-11-02", "04:05", "10", "usage", "7", "0", "7", "refused"],
    ]
    assert "no such customer" in entries


def test_sums_are_those_of_usage(billed: World, call: Call) -> None:
    """On the line of the meter, and by adding up entries; for each customer."""
    for customer in ("=cus_a", "cus_b"):
        told = json.loads(call(statement, customer, *PERIOD, "--json").output)
        [feed] = told["feeds"]
        [known] = json.loads(call(usage, "--customer", customer, *PERIOD, "--json").output)["feeds"]
        assert feed["total"] == known["total"]
        taken = [each for each in feed["entries"] if each["state"] in ("accepted", "confirmed")]
        assert sum(Decimal(each["quantity"]) for each in taken) == Decimal(feed["total"]["billed"])
        assert sum(Decimal(day["billed"]) for day in feed["days"]) == Decimal(feed["total"]["billed"])
        assert {each["entry"] for each in feed["entries"] if each["revision"]} <= {"correction"}
    assert told["customer"] == "cus_b"


def test_spreadsheets_get_every_entry(billed: World, call: Call) -> None:
    """One line each, with what a person or an auditor may ask for; no name in it is taken for a formula."""
    rows = list(csv.DictReader(io.StringIO(call(statement, "=cus_a", *PERIOD, "--csv").output)))
    assert list(rows[0]) == list(COLUMNS)
    assert {row["customer"] for row in rows} == {"'=cus_a"}
    assert [(row["entry"], row["quantity"], row["state"]) for row in rows] == [
        ("usage", "10", "accepted"),
        ("usage", "10", "accepted"),
        ("usage", "10", "accepted"),
        ("correction", "5", "accepted"),
        ("correction", "-4", "held"),
        ("usage", "7", "refused"),
    ]
    assert rows[3]["source_said"] == "15.75"
    assert rows[3]["request_id"].startswith("req_")
    assert rows[3]["identifier"].startswith("agg_")
    assert (rows[0]["from"], rows[0]["to"]) == ("2026-11-01T01:00:00Z", "2026-11-01T02:00:00Z")


def test_what_is_left_out_is_counted(billed: World, call: Call) -> None:
    """Of the table of single entries; the days and the sums are of all."""
    shown = call(statement, "=cus_a", *PERIOD, "--limit", "1").output
    assert "2 more; see --limit, --csv and --json." in shown
    assert "more; see" not in call(statement, "=cus_a", *PERIOD, "--limit", "0").output


def test_a_range_and_a_customer_may_have_nothing(billed: World, call: Call) -> None:
    """Which is said; a range that cuts windows, or two forms at once, cannot be had."""
    assert "Nothing of cus_x is on record in that time." in call(statement, "cus_x", *PERIOD).output
    assert json.loads(call(statement, "cus_x", *PERIOD, "--json").output)["feeds"] == []
    first = json.loads(
        call(statement, "=cus_a", "--from", "2026-11-01", "--to", "2026-11-02", "--json").output
    )
    assert [len(feed["entries"]) for feed in first["feeds"]] == [2]
    cut = call(statement, "=cus_a", "--from", "2026-11-01T00:30Z", "--to", "2026-11-02")
    assert isinstance(cut.exception, UsageError)
    assert "is not a window boundary of api_requests" in str(cut.exception)
    assert isinstance(call(statement, "=cus_a", *PERIOD, "--csv", "--json").exception, UsageError)


def test_where_the_last_number_is_billed_days_have_that(database: Database, call: Call) -> None:
    """Changes do not add up there, so there is no sum of them."""
    sink = FakeSink(limits=replace(LIMITS, write_model=WriteModel.LAST))
    world = World(database, meter=replace(METER, name="seats", latest=True), sinks=[sink])
    world.execute("update aggregator.feed set ordered = true")
    for hour, seats in ((1, 5), (2, 7), (26, 4)):
        world.source.use("cus_a", START + hour * HOUR, seats)
    world.at(27, 5)
    world.collect()
    for _ in range(3):
        world.deliver()
    shown = call(statement, "cus_a", *PERIOD).output
    assert "seats to fake: 4 used, 4 billed; read up to" in shown
    assert lines(shown) == [
        ["day", "windows", "last", "number", "not", "billed"],
        ["2026-11-01", "2", "7", "0"],
        ["2026-11-02", "1", "4", "0"],
    ]


def entry(
    hour: int, revision: int, delta: int, total: int, state: State = State.ACCEPTED, **more: Any
) -> Entry:
    """Return an entry of a window that begins so many hours after the start."""
    start = START + hour * HOUR
    known = Entry(
        1, Span(start, start + HOUR), revision, Decimal(delta), Decimal(total), Decimal(total), state, False, START, None,
        "agg_1", None, None,
    )  # fmt: skip
    return known._replace(**more)


def test_days_count_windows_and_keep_corrections_apart() -> None:
    """Whenever a correction was made, it counts for the day of its window."""
    days = Days()
    entries = [entry(1, 0, 10, 10), entry(1, 1, -4, 6), entry(2, 0, 3, 3, State.DUE), entry(30, 0, 8, 8)]
    assert list(days.counting(entries)) == entries
    first, second = days.found
    assert (first.windows, first.usage, first.corrections, first.billed, first.waiting) == (2, 10, -4, 6, 3)
    assert (second.day - first.day, second.windows, second.billed) == (DAY, 1, 8)
    assert entry(1, 1, 4, 14, State.HELD, dismissed=True).stands == "dismissed"
    assert entry(1, 1, 4, 14).before == 10
