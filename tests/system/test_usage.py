"""`aggregator usage` as a process: over a ledger that daemons write, for people, for programs and for spreadsheets."""

import csv
import io
from decimal import Decimal
from typing import Any

import pytest

from aggregator.core.usage import Usage
from aggregator.runtime.clock import utcnow
from tests.system.harness import METER, MINUTE, Ran, World

NOWHERE = "postgresql://nobody@127.0.0.1:1/nothing?connect_timeout=2"
TABLES = "select table_name from information_schema.tables where table_schema = 'aggregator'"


def everything(world: World) -> dict[str, list[tuple[Any, ...]]]:
    """Return every row of every table of the ledger."""
    return {
        name: sorted(world.ledger(f"select t::text from aggregator.{name} t"))
        for (name,) in world.ledger(TABLES)
    }


@pytest.fixture
def billed(world: World) -> World:
    """A world of which all was billed that can be: one customer's events are refused, some rows are of nobody."""
    world.config["meters"][METER]["decimals"] = 0
    world.use("cus_a", Decimal("1234567.5"), 1)
    world.use("cus_a", Decimal("10.75"), 2)
    world.use("=cus_b", 5, 2)
    world.use(None, 7, 3)
    world.use("cus_a", Decimal("0.5"), 3)
    world.sandbox.set_faults(refuse_customers=["=cus_b"])
    world.once()
    return world


def usage(world: World, *arguments: str) -> Ran:
    """Run it over everything since the beginning."""
    return world.run("usage", "--from", f"{world.start:%Y-%m-%dT%H:%MZ}", *arguments)


def lines(ran: Ran) -> list[list[str]]:
    """Return the cells of the lines that tell of usage or head a table, without rulers and titles."""
    return [line.split() for line in ran.out.splitlines() if line[:1] == " " and line.strip(" ─")]


def figures(line: dict[str, Any]) -> Usage:
    """Return the figures of a line, as exact numbers."""
    return Usage._make(Decimal(line[name]) for name in Usage._fields)


def test_each_unit_stands_in_one_column(billed: World) -> None:
    """What is billed, refused, carried and unmapped is what was used, for each customer and together."""
    by_customer = usage(billed, METER, "--by", "customer")
    assert by_customer.code == 0
    assert lines(by_customer) == [
        ["customer", "used", "billed", "refused", "carried", "unmapped"],
        ["cus_a", "1,234,578.75", "1,234,578", "0", "0.75", "0"],
        ["=cus_b", "5", "0", "5", "0", "0"],
        ["(no", "customer)", "7", "0", "0", "0", "7"],
        ["total", "1,234,590.75", "1,234,578", "5", "0.75", "7"],
    ]
    assert lines(usage(billed)) == [
        ["meter", "sink", "used", "billed", "refused", "carried", "unmapped"],
        [METER, "stripe", "1,234,590.75", "1,234,578", "5", "0.75", "7"],
    ]
    assert f"{METER} is read up to" in by_customer.out


def test_programs_get_every_line(billed: World) -> None:
    """One JSON document, whose lines add up; and CSV in which no customer is taken for a formula."""
    told = usage(billed, METER, "--by", "customer", "--limit", "1", "--json").json
    [feed] = told["feeds"]
    assert (told["by"], feed["meter"], feed["sink"]) == ("customer", METER, "stripe")
    assert [line["customer"] for line in feed["lines"]] == ["cus_a", "=cus_b", None]
    found = [figures(line) for line in feed["lines"]]
    assert all(each.adds_up for each in found)
    total = found[0].plus(found[1]).plus(found[2])
    assert total == figures(feed["total"])
    rows = list(csv.DictReader(io.StringIO(usage(billed, "--by", "customer", "--csv").out)))
    assert [row["customer"] for row in rows] == ["cus_a", "'=cus_b", ""]
    assert [Decimal(row["used"]) for row in rows] == [each.used for each in found]
    assert list(rows[0]) == ["meter", "sink", "customer", *Usage._fields]


def test_lines_by_time_are_those_of_their_windows(billed: World) -> None:
    """Of one customer, each hour of the range that has usage; in the same total."""
    told = usage(billed, METER, "--customer", "cus_a", "--by", "hour", "--json").json
    [feed] = told["feeds"]
    assert told["customer"] == "cus_a"
    hours = {f"{billed.start + minute * MINUTE:%Y-%m-%dT%H:00:00Z}" for minute in (1, 2, 3)}
    assert {line["from"] for line in feed["lines"]} == hours
    assert feed["total"]["used"] == "1234578.75"


def test_live_adds_what_the_source_has_now(billed: World) -> None:
    """Windows that are not read yet stand in a column of their own, with the time; the ledger is as it was."""
    billed.source(
        "insert into usage (customer, quantity, used_at) values ('cus_c', 40, now()), (null, 2, now())"
    )
    before = everything(billed)
    ran = usage(billed, METER, "--by", "customer", "--live")
    [heading, *others] = lines(ran)
    assert heading == ["customer", "used", "billed", "refused", "carried", "unmapped", "open"]
    assert ["cus_c", "40", "0", "0", "0", "0", "40"] in others
    assert ["(no", "customer)", "9", "0", "0", "0", "9", "0"] in others
    assert "; open is what source app had of later windows at" in ran.out
    assert f"{utcnow():%Y-%m-%d}" in ran.out
    assert everything(billed) == before
    assert "cus_c" not in usage(billed, METER, "--by", "customer").out
    billed.source("delete from usage where customer = 'cus_c' or (customer is null and quantity = 2)")
    assert lines(usage(billed, "--live"))[0][-1] == "open", "nothing is a figure, too"


def test_only_live_needs_the_source(billed: World) -> None:
    """With a source that is down everything is shown that was read; with --live, one sentence says what is wrong."""
    billed.config["sources"]["app"]["url"] = NOWHERE
    billed.write()
    assert usage(billed).code == 0
    ran = usage(billed, "--live")
    assert (ran.code, ran.out, len(ran.err.splitlines())) == (1, "", 1)
    assert "Source app" in ran.err


def test_more_lines_than_are_shown_are_counted(billed: World) -> None:
    """The total is of all of them, whatever is shown."""
    ran = usage(billed, METER, "--by", "customer", "--limit", "1")
    assert [line[0] for line in lines(ran)] == ["customer", "cus_a", "total"]
    assert "2 more; see --limit, --csv and --json." in ran.out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ("nothing",),
            "There is no meter nothing, neither in the configuration nor in the ledger; there are: requests.",
        ),
        (("--csv", "--json"), "Give either --csv or --json, not both."),
        (("--period", "2026-13"), "'2026-13' is not a month; write 2026-11."),
        (("--period", "2026-11", "--from", "2026-11-02"), "--period is a range already"),
        (("--to", "2026-11-02"), "also give --from"),
        (("--from", "2026-11-02", "--to", "2026-11-01"), "give --from a time before --to"),
        (
            ("--from", "2026-11-01T00:00:30Z", "--to", "2026-11-02"),
            "is not a window boundary of requests; use",
        ),
        (("--from", "2999-01-01"), "the end of today"),
        (("--by", "week"), "lines are by one of hour, day, month, customer"),
        (("--live",), "Nothing of any meter was read yet"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_call_that_cannot_be_served_is_explained(
    world: World, arguments: tuple[str, ...], said: str
) -> None:
    """Exit code 2, and a sentence that names the thing and what to do."""
    world.use("cus_a", 1, 1)
    if arguments == ("--live",):
        world.write()
    else:
        world.once()
    ran = world.run("usage", *arguments)
    assert (ran.code, ran.out) == (2, "")
    assert said in ran.err
