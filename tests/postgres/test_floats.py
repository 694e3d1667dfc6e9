"""Quantities in floating point: what the order of rows changes is no usage, and what was used is billed in full."""

import datetime as dt
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import psycopg
import pytest

from aggregator.core.model import Span
from aggregator.ledger.database import Database
from aggregator.source import Source
from tests.postgres.world import HOUR, METER, START, World

BY_WINDOW = """
select customer, sum(amount) as quantity, max(used_at) as at, date_trunc('hour', used_at) as window
  from usage where used_at >= :start and used_at < :end group by customer, date_trunc('hour', used_at)
"""
ONE_WINDOW = "select customer, sum(amount) as quantity from usage where used_at >= :start and used_at < :end group by 1"
RAW = "select customer, amount as quantity from usage where used_at >= :start and used_at < :end"

TWO = Span(START, START + 2 * HOUR)

Make = Callable[..., World]
Run = Callable[[str], None]


@pytest.fixture
def make(database: Database, source_url: str) -> Make:
    """Make a daemon whose meter reads the application database by a query."""

    def make(query: str = BY_WINDOW, decimals: int = 0, url: str = source_url) -> World:
        source = Source("app", url, statement_timeout=dt.timedelta(seconds=20))
        meter = replace(METER, query=query, fingerprint=query, decimals=decimals)
        return World(database, meter=meter, source=source)  # type: ignore[arg-type]  # the real one reads as the fake does

    return make


@pytest.fixture
def run(source_url: str) -> Iterator[Run]:
    """Run a statement in the application database."""
    with psycopg.connect(source_url, autocommit=True) as connection:

        def execute(statement: str) -> None:
            connection.execute(statement.encode())

        yield execute


def table(kind: str, rows: str) -> str:
    return f"""
        create table usage (customer text, used_at timestamptz, amount {kind}, shuffle double precision);
        insert into usage select customer, '{START:%Y-%m-%dT%H:%MZ}'::timestamptz + used, amount, random() from ({rows})
               as made (customer, used, amount)
    """


def begun(make: Make, run: Run, kind: str, rows: str, decimals: int = 0) -> World:
    """A daemon that has read rows with amounts of a kind for the first time."""
    run(table(kind, rows))
    world = make(decimals=decimals)
    world.at(2)
    world.collect()
    return world


MIXED = """
select 'cus_' || c, i * interval '1 second', (1 + (c * 7919 + i * 104729) % 1000) * 10.0 ^ ((c + i) % 9 - 6)
  from generate_series(1, 60) c, generate_series(0, 7000, 37) i
"""
TENTHS = (
    "select 'cus_' || c, i * interval '1 second', 0.1 from generate_series(1, 200) c, generate_series(1, c) i"
)


@pytest.mark.parametrize("decimals", [0, 2, 6])
@pytest.mark.parametrize("query", [BY_WINDOW, ONE_WINDOW, RAW])
def test_the_order_of_rows_changes_no_bill(make: Make, run: Run, query: str, decimals: int) -> None:
    """Between passes the table is clustered, vacuumed and updated: nothing is corrected or held."""
    run(table("double precision", MIXED))
    run("create index by_shuffle on usage (shuffle)")
    run("create index by_amount on usage (amount desc)")
    world = make(query, decimals)
    world.at(3)
    first = world.collect()
    assert first.rows == world.backfill(TWO).rows
    assert first.planned
    for step in ("cluster usage using by_shuffle", "cluster usage using by_amount", "vacuum full usage",
                 "update usage set shuffle = random() where customer < 'cus_3'"):  # fmt: skip
        run(step)
        again = world.backfill(TWO)
        assert (again.changed, again.deferred, again.planned, again.held) == (0, 0, 0, 0), step
    world.check_balance()


@pytest.mark.parametrize("kind", ["double precision", "real"])
def test_tenths_add_up_to_wholes(make: Make, run: Run, kind: str) -> None:
    """Ten times 0.1 is one, twenty times is two, and so on, however the database comes to add them up."""
    world = begun(make, run, kind, TENTHS)
    world.deliver()
    assert {c: world.booked(f"cus_{c}") for c in range(1, 201)} == {c: c // 10 for c in range(1, 201)}
    world.check_balance()


def test_tenths_add_up_over_windows(make: Make, run: Run) -> None:
    """What is left over of one window is not short of what makes a whole with the next."""
    hours = """
        select 'cus_a', (h * 60 + i % 60) * interval '1 minute', 0.1
          from generate_series(0, 9) h, generate_series(1, 73) i
    """
    run(table("double precision", hours))
    world = make()
    world.at(12)
    world.collect()
    world.deliver()
    assert world.booked("cus_a") == 73
    world.check_balance()


def test_little_usage_is_not_lost_in_noise(make: Make, run: Run) -> None:
    """A large sum that grows by less than noise with every pass is billed once it has grown by more."""
    world = begun(make, run, "double precision", "select 'cus_a', interval '1 minute', 1e12::float8")
    for step in range(1, 31):
        run("update usage set amount = amount + 0.1")
        world.deliver()
        world.backfill(TWO)
        owed = Decimal(10**12) + step / Decimal(10) - world.one("select quantity from aggregator.slot")
        assert 0 <= owed <= Decimal("0.5")
    world.deliver()
    assert 10**12 + 2 <= world.booked("cus_a") <= 10**12 + 3
    world.check_balance()


def test_what_is_seen_at_the_decimals_is_billed(make: Make, run: Run) -> None:
    """A change that the meter's decimals show is no noise, however small beside the sum."""
    world = begun(make, run, "double precision", "select 'cus_a', interval '1 minute', 1234567.123456", 6)
    world.deliver()
    run("update usage set amount = 1234567.123457")
    world.backfill(TWO)
    world.deliver()
    assert world.booked("cus_a") == Decimal("1234567.123457")


def test_noise_beside_the_last_digit_neither_corrects_nor_holds(make: Make, run: Run) -> None:
    """A unit up or down in the fifteenth digit is nothing that a meter of whole units, or of three decimals, bills."""
    world = begun(make, run, "double precision", "select 'cus_a', interval '1 minute', 123456789.123457", 3)
    for amount in ("123456789.123456", "123456789.123458", "123456789.1234571"):
        run(f"update usage set amount = {amount}")
        again = world.backfill(TWO)
        assert (again.changed, again.deferred) == (0, 0)


def test_what_cancels_out_is_nothing(make: Make, run: Run) -> None:
    """What is left of usage that was taken back is not billed, and owes nobody a unit."""
    run(
        table(
            "double precision",
            """values ('cus_a', interval '1 minute', 0.1), ('cus_a', interval '2 minutes', 0.2),
                      ('cus_a', interval '3 minutes', -0.3), ('cus_b', interval '1 minute', -0.1),
                      ('cus_b', interval '2 minutes', -0.2), ('cus_b', interval '3 minutes', 0.3)""",
        )
    )
    world = make()
    world.at(2)
    result = world.collect()
    assert (result.planned, result.held) == (0, 0)


def test_sqlite_sums_floats_as_well(make: Make, tmp_path: Path) -> None:
    """In SQLite, rows that are written again in another order change no bill, and tenths add up."""
    path = tmp_path / "app.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as app:
        app.execute("create table usage (customer, amount, used_at)")
        rows = [
            (f"cus_{c}", (1 + (c * 7919 + i * 104729) % 1000) * 10.0 ** ((c + i) % 9 - 6), f"2026-11-01 00:{i % 60:02}:00")
            for c in range(20)
            for i in range(200)
        ]  # fmt: skip
        rows += [("cus_tenths", 0.1, "2026-11-01 00:10:00")] * 10
        app.execute("begin")
        app.executemany("insert into usage values (?, ?, ?)", rows)
        app.execute("commit")
        world = make(ONE_WINDOW, url=f"sqlite:///{path}")
        world.at(2)
        world.collect()
        app.execute("create table other as select * from usage order by amount desc")
        app.execute("delete from usage")
        app.execute("insert into usage select * from other")
        again = world.backfill(TWO)
        assert (again.changed, again.deferred) == (0, 0)
    world.deliver()
    assert world.booked("cus_tenths") == 1
    world.check_balance()


def test_exact_numbers_are_compared_exactly(make: Make, run: Run) -> None:
    """A numeric differs by whatever it differs: tolerance is for floats."""
    world = begun(make, run, "numeric", "select 'cus_a', interval '1 minute', 1000000000000", 6)
    world.deliver()
    run("update usage set amount = amount + 0.000001")
    assert world.backfill(TWO).changed == 1
