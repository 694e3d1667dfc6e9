"""`aggregator usage`: every unit stands in one figure, on every line, whatever the history; and what the command prints."""

import random
import re
import tracemalloc
from decimal import Decimal
from itertools import product
from typing import NoReturn

import psycopg
import pytest

from aggregator.core.model import Reading, Span
from aggregator.core.usage import By, Usage, sum_of
from aggregator.ledger import usage
from aggregator.ledger.database import Database
from aggregator.ledger.passes.spool import Spool
from aggregator.ledger.usage import ALL_ROWS, MANY, OpenWindows, UsageFeed, UsageReport, question
from aggregator.ledger.usage_days import UsageDays
from tests import usage_by_hand
from tests.postgres.made_usage import CUSTOMERS, HOUR, HOURS, START, Made

WHOLE = Span(START, START + (HOURS + 3) * HOUR)
PART = Span(START + 11 * HOUR, START + 50 * HOUR)
GROUPINGS = (None, *By)


def spool_of(seen: list[usage_by_hand.Seen]) -> Spool:
    """Return readings as a pass brings them over."""
    spool = Spool()
    spool.add([Reading(each.window_start, each.customer, each.quantity, None, each.reason) for each in seen])
    return spool


@pytest.mark.parametrize("seed", range(3))
def test_every_line_of_any_history_adds_up(seed: int, database: Database, ledger_url: str) -> None:
    """By any grouping, of any range and customer, with open windows or without: as each event's state says, to the unit."""
    dice = random.Random(seed)
    report = UsageReport(database)
    met: set[str] = set()
    with psycopg.connect(ledger_url, autocommit=True) as connection:
        made = Made(connection, dice)
        for number in range(3):
            made.meter(f"meter_{number}")
        assert UsageDays(database).sum_up(sink_id=1).days >= 3, (
            "of the one sink; the other's slots are looked at"
        )
        for feed, span, live in product(report.feeds(None, WHOLE), (WHOLE, PART), (False, True)):
            since = START + 48 * HOUR
            seen = list(made.seen(since)) if live else []
            with spool_of(seen) as spool:
                opened = OpenWindows(since, spool, Decimal("0.001")) if live else None
                by_hand = (since, seen) if live else None
                for customer in (None, *CUSTOMERS[:1]):
                    totals = {}
                    for by in GROUPINGS:
                        lines = list(report.lines(feed, span, by, customer=customer, opened=opened))
                        assert lines == usage_by_hand.lines(connection, feed, span, by, customer, by_hand)
                        if customer and not live:
                            assert report.of_customer(feed, span, customer, by) == lines
                            many = report.of_customer(feed._replace(waiting=MANY), span, customer, by)
                            assert many == lines, "what waits is found by the customer's slots as well"
                        totals[by] = Usage()
                        for line in lines:
                            assert line.usage.used == sum(line.usage[1:]), line
                            met.update(name for name, amount in line.usage._asdict().items() if amount)
                            totals[by] = totals[by].plus(line.usage)
                    adding = [By.CUSTOMER] if feed.last else list(By)
                    assert [totals[by] for by in adding] == [totals[None]] * len(adding)
    assert met == set(Usage._fields)


@pytest.mark.parametrize("by", [None, By.HOUR, By.DAY, By.MONTH])
def test_customers_who_are_asked_for_together_have_each_their_own(
    by: By | None, database: Database, ledger_url: str
) -> None:
    """The same lines as alone, whoever else is asked for; nobody has lines of others, or of somebody who does not exist."""
    report = UsageReport(database)
    with psycopg.connect(ledger_url, autocommit=True) as connection:
        made = Made(connection, random.Random(5))
        for number in range(2):
            made.meter(f"meter_{number}")
    UsageDays(database).sum_up(sink_id=1)
    names = [*CUSTOMERS, "cus_nobody", "", "cus_", "%"]
    together = report.of_customers(PART, names, by).feeds
    assert [each.feed for each in together] == report.feeds(None, PART)
    assert {whose for each in together for whose in each.lines} == set(CUSTOMERS)
    for each, customer in product(together, names):
        alone = report.of_customer(each.feed, PART, customer, by)
        assert each.lines.get(customer, []) == alone
        total = sum_of(line.usage for line in report.of_customer(each.feed, PART, customer))
        assert each.totals.get(customer, Usage()) == total
    assert [each.feed.meter for each in report.of_customers(PART, names, by, ["meter_1"]).feeds] == [
        "meter_1"
    ] * 2
    assert not any(each.lines for each in report.of_customers(PART, names, by, None, 3).feeds), (
        "there are four feeds"
    )


@pytest.mark.parametrize("by", [None, *By])
@pytest.mark.parametrize("customer", [None, CUSTOMERS[0]])
def test_feeds_that_are_asked_for_together_have_each_their_own_lines(
    by: By | None,
    customer: str | None,
    database: Database,
    ledger_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The same lines as alone and in the same order, whatever is a feed's own, and none where it has none."""
    report = UsageReport(database)
    with psycopg.connect(ledger_url, autocommit=True) as connection:
        made = Made(connection, random.Random(7))
        for number in range(8):
            made.meter(f"meter_{number}")
        connection.execute("insert into aggregator.sink (name) values ('three')")
        connection.execute(
            "insert into aggregator.feed (meter_id, sink_id, since, read_until)"
            " select meter.id, 3, mark, mark from aggregator.meter"
        )
    UsageDays(database).sum_up(sink_id=1)
    feeds = report.feeds(None, PART)
    alone = [(feed, list(report.lines(feed, PART, by, customer=customer))) for feed in feeds]

    def refuse(*_: object, **__: object) -> NoReturn:
        raise AssertionError("a statement for one feed")

    monkeypatch.setattr(usage, "WORTH_ONE_STATEMENT", 1)
    monkeypatch.setattr(usage, "FEEDS_AT_ONCE", 3)
    monkeypatch.setattr(report, "lines", refuse)
    together = [
        (feed, list(lines)) for feed, lines in report.lines_of_each(feeds, PART, by, customer=customer)
    ]
    assert together == alone
    assert by is None or not all(lines for _, lines in together), "the third sink has nothing"


@pytest.fixture
def large(database: Database, ledger_url: str) -> UsageFeed:
    """A feed with one window that many customers have, and many windows that few have."""
    with psycopg.connect(ledger_url, autocommit=True) as connection:
        connection.execute("insert into aggregator.sink (name) values ('one')")
        connection.execute(
            "insert into aggregator.meter (name, fingerprint, window_seconds, start_at, mark)"
            " values ('requests', 'f', 3600, %s, %s)",
            [START, START],
        )
        connection.execute(
            "insert into aggregator.feed (meter_id, sink_id, since, read_until) values (1, 1, %s, %s)",
            [START, START],
        )
        for windows, customers in ((range(1), 60_000), (range(1, 5_000), 10)):
            connection.execute(
                """
                with billed as (
                    insert into aggregator.slot (id, feed_id, revision, window_start, customer, quantity, total, tail)
                    select nextval('aggregator.event_id'), 1, 1, %s + hour * interval '1 hour', 'cus_' || who, 2, 2,
                           currval('aggregator.event_id')
                      from generate_series(%s::int, %s::int) as hour, generate_series(1, %s::int) as who
                    returning *
                )
                insert into aggregator.event_at_rest (id, pass_id, feed_id, window_start, at, planned_at, state, customer,
                                                      identifier, delta)
                select tail, 1, 1, window_start, window_start, window_start, 'accepted', customer, 'agg_' || id, 2
                  from billed
                """,
                [START, windows.start, windows.stop - 1, customers],
            )
        connection.execute("vacuum analyze aggregator.slot, aggregator.event_at_rest")
    [feed] = UsageReport(database).feeds("requests", WHOLE)
    return feed


def test_memory_stays_bounded_whatever_the_number_of_customers(database: Database, large: UsageFeed) -> None:
    """Sixty thousand lines take no more memory here than a few thousand."""
    tracemalloc.start()
    try:
        found = sum(1 for _ in UsageReport(database).lines(large, Span(START, START + HOUR), By.CUSTOMER))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found == 60_000
    assert peak < 16 << 20


@pytest.mark.parametrize("by", GROUPINGS)
def test_a_range_is_found_by_its_windows(database: Database, large: UsageFeed, by: By | None) -> None:
    """A day of a large feed is read by the slots' own key, and no table but the few that wait is read as a whole."""
    statement, values = question(large, Span(START + 100 * HOUR, START + 124 * HOUR), by)
    with database.transaction() as connection:
        connection.execute(ALL_ROWS)
        plan = "\n".join(
            row[0] for row in psycopg.ClientCursor(connection).execute(f"explain {statement}", values)
        )
    assert "slot_pkey" in plan
    assert "Seq Scan on slot" not in plan
    assert "Seq Scan on event" not in plan


def test_a_customer_is_found_by_the_whole_key(database: Database, large: UsageFeed) -> None:
    """However many others a window has: of its slots, one is read, by servers that cannot skip within a key as well."""
    statement, values = question(large, Span(START, START + 3 * HOUR), None, ["cus_7", "cus_9"])
    with database.transaction() as connection:
        plan = "\n".join(
            row[0]
            for row in psycopg.ClientCursor(connection).execute(
                f"explain (analyze, costs off, timing off, summary off) {statement}", values
            )
        )
    found = re.findall(r"slot_pkey on slot.*\n\s+Index Cond: (.*)", plan)
    assert any("customer = " in condition and "window_start = " in condition for condition in found), plan
    assert not any("customer = " in condition and "window_start = " not in condition for condition in found)
    assert "Seq Scan on slot" not in plan
