"""Corners of the protocol in which usage could be lost in silence: moved beginnings, sinks that come and go, odd clocks."""

import datetime as dt
import zoneinfo
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal

import pytest

from aggregator.collection.backfill import Backfill
from aggregator.core.model import Answer, Decreases, Reading, Span
from aggregator.delivery.sender import Sender
from aggregator.errors import InvariantBroken, QueryRejected
from aggregator.ledger.database import Database
from aggregator.ledger.passes import changes, writer
from aggregator.source.rows import Instants, Places, Rows
from tests.fakes import FakeSink
from tests.postgres.world import HOUR, METER, MINUTE, START, World


def test_a_start_at_in_the_future_may_be_corrected(database: Database) -> None:
    """While nothing has been read, an earlier `start_at` takes the mark with it."""
    world = World(database, meter=replace(METER, start_at=START + 720 * HOUR))
    world.at(1, 5)
    world.collect()
    corrected = World(database, source=world.source)
    corrected.source.use("cus_a", START + 10 * MINUTE)
    corrected.at(960)
    corrected.collect()
    assert corrected.one("select sum(quantity) from aggregator.slot") == 1


def test_a_later_start_at_lowers_nothing_that_was_billed(database: Database) -> None:
    """Slots before the new beginning are left alone, also while an old change waits to be read again."""
    meter = replace(METER, decreases=Decreases.APPLY)
    world = World(database, meter=meter)
    for customer in ("cus_a", "cus_b"):
        world.source.use(customer, START + MINUTE, 7)
    world.at(1, 5)
    world.collect()
    world.sink.fault = lambda event: Answer.BUSY if event.customer == "cus_a" else None
    Sender(world.outbox, world.sink, world.registered.feeds[0].sink_id, lambda: world.now).run_once(world.now)
    world.source.use("cus_a", START + 2 * MINUTE, 1)
    world.at(2, 5)
    world.collect()
    world.sink.fault = lambda event: None
    later = World(
        database, meter=replace(meter, start_at=START + 2 * HOUR), source=world.source, sinks=[world.sink]
    )
    for hour in (3, 4):
        later.at(hour, 5)
        later.collect()
        later.deliver()
    assert (world.booked("cus_a"), world.booked("cus_b")) == (7, 7)


def test_a_sink_that_was_away_is_caught_up(database: Database) -> None:
    """A sink taken off a meter for a week and put back gets what it missed, far beyond `revisit`."""
    kept, away = FakeSink("kept"), FakeSink("away")
    both = World(database, sinks=[kept, away])
    both.at(1, 5)
    both.collect()
    both.source.use("cus_a", START + 2 * HOUR)
    alone = World(database, sinks=[kept], source=both.source)
    alone.at(24 * 7)
    alone.collect()
    again = World(database, sinks=[kept, away], source=both.source)
    again.at(24 * 7 + 1, 5)
    again.collect()
    again.deliver()
    assert [sink.booked["api_requests", "cus_a"] for sink in (kept, away)] == [1, 1]


def test_a_sink_that_joins_while_an_old_process_still_reads_misses_nothing(database: Database) -> None:
    """In a rolling deploy the old process moves the mark once more; the new sink is planned for all the same."""
    meter = replace(METER, revisit=dt.timedelta(0))
    first, second = FakeSink("first"), FakeSink("second")
    old = World(database, meter=meter, sinks=[first])
    old.at(1, 5)
    old.collect()
    new = World(database, meter=meter, sinks=[first, second], source=old.source)
    old.source.use("cus_a", START + HOUR)
    old.at(2, 5)
    old.collect()
    new.at(3, 5)
    new.collect()
    new.deliver()
    assert [sink.booked["api_requests", "cus_a"] for sink in (first, second)] == [1, 1]


def test_a_backfill_that_was_interrupted_long_ago_begins_anew(world: World) -> None:
    """Rows may have been imported since: the range is read from its beginning."""
    goal = Span(START, START + 10 * HOUR)
    world.at(240)
    world.collection.backfill(Span(START, START + 5 * HOUR), goal, world.now)
    world.at(264)
    world.source.use("cus_a", START + HOUR)
    Backfill(world.collection, world.meters.definitions(world.registered), goal).run(world.now, lambda: None)
    world.deliver()
    assert world.booked("cus_a") == 1


def test_a_backfill_counts_once_what_can_be_billed_to_nobody(world: World) -> None:
    """Both where it is only looked at and where it is written."""
    world.source.use(None, START, 5)
    world.source.use("cus_a", START, 1)
    world.at(3)
    job = Backfill(
        world.collection, world.meters.definitions(world.registered), Span(START, START + 2 * HOUR)
    )
    assert job.dry_run(world.now).unmapped_rows == 1
    assert job.run(world.now, lambda: None).unmapped_rows == 1


def test_what_is_withheld_with_an_unusable_row_has_a_name(world: World) -> None:
    """The good rows of a slot with a bad one are not billed, and counted where one looks (invariant 1)."""

    def read(query: str, span: Span, window: dt.timedelta, **options: object) -> Iterator[list[Reading]]:
        if START in span:
            yield [
                Reading(START, "cus_a", Decimal(1000), START),
                Reading(START, "cus_a", None, None, "quantity is NULL"),
            ]

    world.source.read = read  # type: ignore[method-assign]
    world.at(1, 5)
    world.collect()
    named = world.rows("select reason, rows, quantity from aggregator.unmapped order by reason")
    assert named == [
        ("quantity is NULL", 1, None),
        ("withheld: another row of this customer and window is unusable", 1, 1000),
    ]


def test_the_first_thing_that_failed_is_what_is_reported(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What Postgres refused stops the meter by its own name, not by the broken transaction it left behind."""
    monkeypatch.setattr(changes, "BATCH", 10)
    monkeypatch.setattr(writer, "BATCH", 10)
    for number in range(15):
        world.source.use(f"cus_{number:03}", START)
    world.execute(
        """
        insert into aggregator.outbox (event_id, slot_id, pass_id, sink_id, feed_id, revision, window_start, at, planned_at,
                                       due_at, customer, identifier, delta, total)
        values (1, 1, 1, 1, 1, 0, %s, %s, %s, %s, 'x', 'y', 1, 1)
        """,
        START,
        START,
        START,
        START,
    )
    world.at(1, 5)
    with pytest.raises(InvariantBroken):
        world.collect()


def test_the_hour_that_comes_twice_is_two_windows() -> None:
    """Two instants an hour apart that differ only in `fold` are equal as keys; they are told apart (H-14)."""
    zone = zoneinfo.ZoneInfo("Europe/Berlin")
    first = dt.datetime(2026, 10, 25, 2, 30, tzinfo=zone)
    day = Span(dt.datetime(2026, 10, 25, tzinfo=dt.UTC), dt.datetime(2026, 10, 26, tzinfo=dt.UTC))
    rows = Rows(Places(0, 1, None, 2), Instants(False, "", QueryRejected), day, HOUR, QueryRejected)
    readings = rows.readings([("cus_a", 1, first), ("cus_a", 1, first.replace(fold=1))])
    assert [reading.window_start.hour for reading in readings] == [0, 1]
