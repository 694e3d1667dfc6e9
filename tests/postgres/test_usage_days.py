"""Sums of days: they say what the slots say, at any time, and are made again only once a day is quiet."""

import datetime as dt
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal

import psycopg
import pytest

from aggregator.core.model import Span
from aggregator.core.usage import By
from aggregator.ledger import usage_days
from aggregator.ledger.database import Database
from aggregator.ledger.usage import UsageReport
from aggregator.ledger.usage_days import UsageDays
from aggregator.ledger.usage_windows import UsageWindows
from tests.postgres.world import HOUR, START, World

pytestmark = pytest.mark.usefixtures("says_what_changed")
DAY = dt.timedelta(days=1)
NOW = dt.timedelta(0)


@pytest.fixture
def read(world: World) -> World:
    """A meter of which two days and an hour were read."""
    for hour in range(49):
        world.source.use("cus_a", START + hour * HOUR, 2)
        world.source.use("cus_b", START + hour * HOUR, 3)
    world.now = START + 2 * DAY + 2 * HOUR
    world.collect()
    world.deliver()
    return world


@pytest.fixture
def other(ledger_url: str) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    """Somebody else in the ledger."""
    with psycopg.connect(ledger_url) as connection:
        yield connection


def used(database: Database, customer: str, span: Span) -> Decimal:
    """What a customer used, as it is asked for one customer; and what all used, hour by hour."""
    report = UsageReport(database)
    [feed] = report.feeds(None, span)
    [line] = report.of_customer(feed, span, customer)
    return line.usage.used


def test_a_day_is_summed_up_once_it_is_over_and_quiet(read: World, database: Database) -> None:
    """Days that are not over are not, nor those of which something has just changed, nor any of them twice."""
    days = UsageDays(database)
    assert days.sum_up(1).days == 0, "an hour has not passed since"
    assert days.sum_up(1, NOW).days == 2
    assert days.sum_up(1, NOW).days == 0
    assert used(database, "cus_a", Span(START, START + 3 * DAY)) == 98
    assert used(database, "cus_a", Span(START + HOUR, START + 2 * DAY)) == 94
    whole = Span(START, START + 3 * DAY)
    assert UsageWindows(database).slots(1, whole) == {START + hour * HOUR: 2 for hour in range(49)}
    report = UsageReport(database)
    [feed] = report.feeds(None, whole)
    lines = list(report.lines(feed, whole, By.HOUR))
    assert [(each.start, each.usage.used) for each in lines] == [
        (START + hour * HOUR, 5) for hour in range(49)
    ]


def test_what_changes_in_a_day_counts_at_once(read: World, database: Database) -> None:
    """A later reading of a day that is summed up is seen by whoever asks next, and the day is summed up anew."""
    days = UsageDays(database)
    days.sum_up(1, NOW)
    read.source.use("cus_a", START + DAY + 5 * HOUR, 40)
    read.now += HOUR
    read.collect()
    assert used(database, "cus_a", Span(START, START + 2 * DAY)) == 96 + 40
    assert days.sum_up(1, NOW).days == 1
    assert used(database, "cus_a", Span(START, START + 2 * DAY)) == 96 + 40
    assert used(database, "cus_b", Span(START, START + 2 * DAY)) == 144


def test_sums_are_what_is_read(
    read: World, database: Database, other: psycopg.Connection[tuple[object, ...]]
) -> None:
    """Of a day that is made no slot is looked at: that is what it is made for."""
    UsageDays(database).sum_up(1, NOW)
    for table in ("usage_of_day", "usage_of_hour"):
        other.execute(
            f"update aggregator.{table} set quantity = quantity + 1000, total = total + 1000".encode()
        )
    other.commit()
    span = Span(START, START + 2 * DAY)
    assert used(database, "cus_a", span) == 96 + 2000
    report = UsageReport(database)
    [line] = report.lines(report.feeds(None, span)[0], span)
    assert line.usage.used == 5 * 48 + 48_000


def test_whoever_changes_a_day_meanwhile_is_not_overlooked(
    read: World, database: Database, other: psycopg.Connection[tuple[object, ...]]
) -> None:
    """While a transaction that has changed a slot is open the day is left alone; one that says so later undoes the sums."""
    days, says = (
        UsageDays(database),
        "update aggregator.usage_day set made_at = null, changed_at = now() where day = %s",
    )
    more = "update aggregator.slot set quantity = quantity + 1 where customer = 'cus_a' and window_start = %s"
    other.execute(more.encode(), [START])
    other.execute(says.encode(), [START])
    assert days.sum_up(1, NOW).days == 1, "the other day"
    other.commit()
    other.execute(more.encode(), [START])
    assert days.sum_up(1, NOW).days == 1, "without what is not committed"
    other.execute(says.encode(), [START])
    other.commit()
    assert used(database, "cus_a", Span(START, START + DAY)) == 50


def test_what_was_kept_counts_only_as_long_as_its_day_stands(read: World, database: Database) -> None:
    """Sums of days that are not made are used again, but not those of a day that has changed since, or is made."""
    span = Span(START, START + 3 * DAY)
    days, report, windows = UsageDays(database), UsageReport(database), UsageWindows(database)
    [feed] = report.feeds(None, span)
    before = list(report.lines(feed, span, By.HOUR))
    hours = json.loads(days.kept(feed.id, span))
    assert list(report.lines(feed, span, By.HOUR, kept=json.dumps(hours))) == before
    assert len(hours) == len(before) == 49
    kept = json.dumps([{**hour, "quantity": "1000", "total": "1000", "slots": "7"} for hour in hours])
    found = [line.usage.used for line in report.lines(feed, span, By.HOUR, kept=kept)]
    assert found == [1000] * 49, "no slot is looked at"
    assert list(windows.slots(feed.id, span, kept).values()) == [7] * 49
    with database.transaction() as connection:
        usage_days.changed(connection, feed.id, [START + DAY])
    found = [line.usage.used for line in report.lines(feed, span, By.HOUR, kept=kept)]
    assert found == [1000] * 24 + [5] * 24 + [1000]
    assert list(windows.slots(feed.id, span, kept).values()) == [7] * 24 + [2] * 24 + [7]
    days.sum_up(1, NOW)
    found = [line.usage.used for line in report.lines(feed, span, By.HOUR, kept=kept)]
    assert found == [5] * 48 + [1000]
    assert [line.usage.used for line in report.lines(feed, span, By.DAY, kept=kept)] == [120, 120, 1000]


def test_two_that_sum_up_do_not_hinder_each_other(read: World, database: Database) -> None:
    """Each day is made once, whoever comes first."""
    days = UsageDays(database)
    with ThreadPoolExecutor(4) as threads:
        assert sum(done.days for done in threads.map(lambda _: days.sum_up(1, NOW), range(8))) == 2
    assert used(database, "cus_b", Span(START, START + 2 * DAY)) == 144
