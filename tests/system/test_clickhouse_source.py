"""A ClickHouse source as the product's own commands see it: checked, billed to the unit by a pass and by the daemon."""

import datetime as dt
import signal
from collections.abc import Iterator
from decimal import Decimal

import pytest

from tests.clickhouse import ClickHouse, clickhouse
from tests.system.harness import METER, MINUTE, Totals, World, until

pytestmark = pytest.mark.direct

BY_MINUTE = """
select customer, sum(toDecimal256(quantity, 2)) as quantity, max(used_at) as at, toStartOfMinute(used_at, 'UTC') as window
  from used where used_at >= :start and used_at < :end group by customer, window
"""


@pytest.fixture(scope="module")
def house() -> Iterator[ClickHouse]:
    """An engine in New York's zone."""
    with clickhouse() as server:
        yield server


@pytest.fixture
def used(house: ClickHouse, world: World) -> ClickHouse:
    """A table with an hour of usage, in a zone that is not the session's, and the world's meter on it."""
    world.config["sources"]["house"] = {"url": house.url()}
    world.meter.update(source="house", query=BY_MINUTE)
    house.run(
        "drop table if exists used",
        "create table used (customer Nullable(String), quantity Decimal(20, 2), used_at DateTime64(3, 'Asia/Kathmandu'))"
        " engine = MergeTree order by used_at",
    )
    for who in range(3):
        add(house, world, *((f"cus_{who}", 1 + (who * 7 + minute) % 9, minute) for minute in range(60)))
    return house


def add(house: ClickHouse, world: World, *rows: tuple[str, int, int]) -> None:
    """Let customers use something in the last millisecond of minutes."""
    values = ", ".join(
        f"('{customer}', {quantity}, toDateTime64('{instant(world, minute)}', 3, 'UTC'))"
        for customer, quantity, minute in rows
    )
    house.run(f"insert into used values {values}")


def instant(world: World, minute: int) -> str:
    at = world.start + minute * MINUTE + dt.timedelta(seconds=59, milliseconds=999)
    return f"{at:%Y-%m-%d %H:%M:%S}.999"


def total(house: ClickHouse) -> Totals:
    return {
        customer: Decimal(quantity)
        for customer, quantity in house.run("select customer, sum(quantity) from used group by 1")
    }


def test_what_a_pass_bills_is_what_was_used(world: World, used: ClickHouse) -> None:
    """And what comes late; `check` has no objection to the meter."""
    world.write()
    checked = world.run("check", "--json")
    verdicts = {each["verdict"] for each in checked.json["findings"] if each["what"] == f"meter {METER}"}
    assert verdicts <= {"ok", "note"}, checked.json
    assert world.once().code == 0
    assert world.billed() == total(used)
    add(used, world, ("cus_1", 1000, 3), ("cus_new", 5, 59))
    assert world.once().code == 0
    assert world.billed() == total(used)
    assert world.billed()["cus_new"] == 5


def test_the_daemon_bills_it_while_it_comes(world: World, used: ClickHouse) -> None:
    """What is inserted while it runs is billed by itself, and nothing twice."""
    daemon = world.daemon()
    until(lambda: world.billed() == total(used), "the first hour is billed")
    add(used, world, ("cus_0", 700, 90), ("cus_late", 3, 40))
    until(lambda: world.billed() == total(used), "what came later is billed")
    assert daemon.stop() == -signal.SIGTERM
    assert world.billed() == total(used)
