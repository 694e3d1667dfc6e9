"""What was read of each window is kept as evidence: of the readings themselves, when anything of it has changed."""

import datetime as dt
from dataclasses import replace
from decimal import Decimal
from itertools import permutations

import psycopg
import pytest

from aggregator.core.model import Meter, Span
from aggregator.ledger.database import Database
from tests.fakes import FakeSink
from tests.postgres.test_glance import look
from tests.postgres.world import HOUR, METER, MINUTE, START, World

Kept = list[tuple[dt.datetime, int, Decimal]]


def kept(world: World) -> Kept:
    """Return what is kept: of each window and pass, the rows and their sum."""
    return world.rows(
        "select window_start, rows, quantity from aggregator.evidence order by pass_id, window_start"
    )


def checksums(world: World) -> list[int]:
    return [
        row[0]
        for row in world.rows("select checksum from aggregator.evidence order by pass_id, window_start")
    ]


def test_a_window_is_kept_when_it_is_read_first_and_when_it_changes(world: World) -> None:
    """Rows of nobody are rows, and no part of the sum; reading the same again keeps nothing, by a pass or a glance."""
    for customer, quantity in (("cus_a", 3), ("cus_a", 4), ("cus_b", 5), (None, 9)):
        world.source.use(customer, START, quantity)
    world.source.use("cus_a", START + HOUR, 1)
    world.at(2, 5)
    world.collect()
    first: Kept = [(START, 4, Decimal(12)), (START + HOUR, 1, Decimal(1))]
    assert kept(world) == first
    world.deliver()
    for minute in (10, 15, 20):
        world.at(2, minute)
        world.collect()
    look(world)
    assert kept(world) == first
    world.source.use("cus_b", START, 2)
    world.at(2, 25)
    world.collect()
    assert kept(world) == [*first, (START, 5, Decimal(14))]
    passes = world.rows(
        "select distinct pass.id, changed from aggregator.evidence join aggregator.pass on pass.id = pass_id"
    )
    assert {changed for _, changed in passes} == {3, 1}, "each is of the pass that changed something"


def test_a_window_that_was_emptied_is_kept_as_empty(world: World) -> None:
    """No row at all is what was read, too; a window that never had one is not worth a line."""
    world.source.use("cus_a", START, 3)
    world.at(2, 5)
    world.collect()
    world.deliver()
    world.source.uses.clear()
    world.at(2, 10)
    world.collect()
    assert kept(world) == [(START, 1, Decimal(3)), (START, 0, Decimal(0))]
    assert checksums(world)[1] == 0


def test_the_order_of_rows_makes_no_difference(database: Database, world: World) -> None:
    """Nor how a number is written; but who used it does, and how much each."""
    uses = [("cus_a", "1.50"), ("cus_b", "2"), ("cus_c", "3")]
    found = set()
    for number, order in enumerate(permutations(uses)):
        other = World(database, meter=named(f"meter_{number}"), sinks=[world.sink])
        for customer, quantity in order:
            other.source.use(
                customer, START, Decimal(quantity + "0" * (number % 2) if "." in quantity else quantity)
            )
        other.at(1, 5)
        other.collect()
        found.add(checksum_of(other))
    assert len(found) == 1
    swapped = [("cus_b", "1.5"), ("cus_a", "2"), ("cus_c", "3")]
    shifted = [("cus_a", "2.5"), ("cus_b", "1"), ("cus_c", "3")]
    for number, changed in enumerate((swapped, shifted)):
        other = World(database, meter=named(f"other_{number}"), sinks=[world.sink])
        for customer, quantity in changed:
            other.source.use(customer, START, Decimal(quantity))
        other.at(1, 5)
        other.collect()
        assert checksum_of(other) not in found, "the sum is the same, and the customers are not"
        found.add(checksum_of(other))


def named(name: str) -> Meter:
    return replace(METER, name=name)


def checksum_of(world: World) -> int:
    """Return the only checksum of a meter."""
    found = world.one(
        "select checksum from aggregator.evidence join aggregator.meter on meter.id = meter_id where name = %s",
        world.meter.name,
    )
    return int(found)


def test_two_sinks_of_a_meter_keep_one(database: Database) -> None:
    """What was read is the meter's, whatever it feeds."""
    world = World(database, sinks=[FakeSink("one"), FakeSink("two")])
    world.source.use("cus_a", START, 3)
    world.at(1, 5)
    world.collect()
    world.deliver()
    world.source.use("cus_a", START, 4)
    world.at(1, 10)
    world.collect()
    assert kept(world) == [(START, 1, Decimal(3)), (START, 2, Decimal(7))]


def test_a_range_that_is_filled_in_twice_is_kept_once(world: World) -> None:
    """Ahead of the mark as well, where every window is read as if for the first time."""
    world.source.use("cus_a", START + 5 * HOUR, 3)
    world.at(8)
    ahead = Span(START + 4 * HOUR, START + 6 * HOUR)
    world.backfill(ahead)
    world.backfill(ahead)
    world.source.use("cus_a", START + 4 * HOUR, 1)
    world.backfill(ahead)
    assert kept(world) == [(START + 5 * HOUR, 1, Decimal(3)), (START + 4 * HOUR, 1, Decimal(1))]


def test_what_was_said_of_a_customer_stays_with_each_event(database: Database) -> None:
    """To the last digit, where less than that could be billed; it never changes."""
    world = World(database)
    for quantity in ("2.75", "0.5", "3"):
        world.source.use("cus_a", START, Decimal(quantity))
        world.at(1, 5 + len(world.source.uses))
        world.collect()
        world.deliver()
    assert world.rows("select revision, total, quantity from aggregator.event order by id") == [
        (0, 2, Decimal("2.75")),
        (1, 3, Decimal("3.25")),
        (2, 6, Decimal("6.25")),
    ]
    world.source.use("cus_b", START, 4)
    world.at(1, 30)
    world.collect()
    assert world.one("select quantity from aggregator.event where customer = 'cus_b'") is None
    with pytest.raises(Exception, match="what an event says never changes"):
        world.execute("update aggregator.event_at_rest set quantity = 1 where customer = 'cus_a'")


def test_evidence_adds_up_with_the_slots(world: World) -> None:
    """What was read of a window is what its slots came to: by the readings themselves, and by what was made of them."""
    for number in range(50):
        world.source.use(f"cus_{number % 7}", START + number * MINUTE, number)
    world.at(1, 5)
    world.collect()
    assert (
        world.rows(
            "select evidence.quantity from aggregator.evidence"
            " except select sum(slot.quantity) from aggregator.slot group by window_start"
        )
        == []
    )


def test_the_latest_is_found_by_its_window(world: World, ledger_url: str) -> None:
    """A long history is never read as a whole."""
    with psycopg.connect(ledger_url, autocommit=True) as connection:
        connection.execute(
            "insert into aggregator.evidence"
            " select 1, %s + hour * interval '1 hour', 1, 1, 1, 1 from generate_series(1, 20000) as hour", [START],
        )  # fmt: skip
        connection.execute("analyze aggregator.evidence")
        plan = connection.execute(
            "explain select * from aggregator.evidence where meter_id = 1 and window_start = now()"
            " order by meter_id desc, window_start desc, pass_id desc limit 1"
        ).fetchall()
    assert "evidence_pkey" in str(plan)
