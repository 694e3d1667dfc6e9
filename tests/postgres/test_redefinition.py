"""Changed definitions: old windows are read by the old query, new ones by the new; a restatement is asked for."""

import datetime as dt
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal

import pytest

from aggregator.collection.backfill import Backfill
from aggregator.core.deltas import Deltas
from aggregator.core.model import Reading, Span
from aggregator.core.sampling import Counters, Gauges, Missing, Resets, Sample, Sampling, definition
from aggregator.errors import LeaseLost, MeterRefused
from aggregator.ledger import meter_names
from aggregator.ledger.database import Database
from tests.fakes import FakeSource
from tests.postgres.world import HOUR, METER, MINUTE, START, World

DOUBLE = replace(METER, query="double", fingerprint="d" * 64)
QUARTER = replace(METER, window=15 * MINUTE, fingerprint="q" * 64)

COUNTERS = Counters(Resets.RESTART)
GAUGES = Gauges(Sample.MAX, Missing.CARRY_LAST, 10 * MINUTE)
READ = {
    "windows": METER,
    "deltas": replace(METER, fingerprint="e" * 64, deltas=Deltas(0, "select 1")),
    **{
        name: replace(
            METER,
            query=definition(reads, ""),
            fingerprint=name.ljust(64, "x"),
            sampling=Sampling(reads, "", 10 * MINUTE, 35 * 24 * HOUR),
        )
        for name, reads in (("counters", COUNTERS), ("gauges", GAUGES))
    },
}


class Worded(FakeSource):
    """A source that understands two queries: as it is, and everything doubled."""

    def answer(
        self, query: str, span: Span, window: dt.timedelta, step: dt.timedelta | None = None
    ) -> list[Reading]:
        """Return the readings of the query."""
        times = 2 if query == "double" else 1
        return [
            Reading(r.window_start, r.customer, (r.quantity or 0) * Decimal(times), r.at)
            for r in super().answer(query, span, window, step)
        ]


def test_a_new_query_changes_nothing_that_was_billed(database: Database) -> None:
    """It holds from the next window on; not one correction is made (H-44)."""
    source = Worded()
    for hour in range(4):
        source.use("cus_a", START + hour * HOUR, 10)
    world = World(database, source=source)
    world.at(2, 5)
    world.collect()
    world.deliver()
    after = World(database, source=source, meter=DOUBLE)
    after.at(4, 5)
    result = after.collect()
    assert (result.planned, result.corrections) == (2, 0)
    after.deliver()
    assert after.rows("select total from aggregator.slot order by window_start") == [
        (10,),
        (10,),
        (20,),
        (20,),
    ]
    source.use("cus_a", START, 1)
    after.at(5, 10)
    after.collect()
    after.deliver()
    assert after.one("select total from aggregator.slot order by window_start limit 1") == 11, (
        "late rows by the old query"
    )


def test_a_query_that_is_changed_back_leaves_no_trace(database: Database) -> None:
    """Definitions that nobody read by are forgotten."""
    World(database)
    World(database, meter=DOUBLE)
    world = World(database)
    assert world.rows("select fingerprint from aggregator.definition") == [(METER.fingerprint,)]


def test_a_restatement_reads_old_windows_by_the_new_query(database: Database) -> None:
    """Only the span that was asked for, and only once it was asked for (H-44)."""
    source = Worded()
    for hour in range(4):
        source.use("cus_a", START + hour * HOUR, 10)
    world = World(database, source=source)
    world.at(4, 5)
    world.collect()
    world.deliver()
    after = World(database, source=source, meter=DOUBLE)
    after.sinks = world.sinks
    after.at(4, 6)
    new = after.meters.definitions(after.registered)[-1]
    assert new.fingerprint == DOUBLE.fingerprint
    assert after.collection.restate(Span(START + HOUR, START + 3 * HOUR), new)
    after.backfill(Span(START, START + 4 * HOUR))
    after.deliver()
    assert after.rows("select total from aggregator.slot order by window_start") == [
        (10,),
        (20,),
        (20,),
        (10,),
    ]
    assert after.booked("cus_a") == 60
    after.at(5, 5)
    assert after.collect().corrections == 0
    after.check_balance()


def test_another_window_length_begins_at_a_common_boundary(database: Database) -> None:
    """No use is in two windows, and none in no window (H-54)."""
    source = FakeSource()
    for minute in range(0, 240, 5):
        source.use("cus_a", START + minute * MINUTE, 1)
    world = World(database, source=source)
    world.at(2, 5)
    world.collect()
    world.deliver()
    after = World(database, source=source, meter=QUARTER)
    after.sinks = world.sinks
    after.at(4, 5)
    after.collect()
    after.deliver()
    assert after.booked("cus_a") == 48
    starts = [row[0] for row in after.rows("select window_start from aggregator.slot order by 1")]
    assert starts[:3] == [START, START + HOUR, START + 2 * HOUR]
    assert starts[3] == START + 2 * HOUR + 15 * MINUTE
    source.use("cus_a", START + 30 * MINUTE, 1)
    after.at(5, 10)
    after.collect()
    after.deliver()
    assert after.booked("cus_a") == 49
    after.check_balance()


def test_a_longer_window_waits_for_its_boundary(database: Database) -> None:
    """Until then the old length goes on."""
    world = World(database, meter=QUARTER)
    world.at(0, 36)
    world.collect()
    after = World(database, source=world.source)
    after.at(2, 6)
    after.collect()
    assert after.source.reads[-2:] == [Span(START, START + HOUR), Span(START + HOUR, START + 2 * HOUR)]
    assert after.one("select mark from aggregator.meter") == START + 2 * HOUR


DAYS = replace(METER, window=24 * HOUR, fingerprint="w" * 64)


class Meddling(FakeSource):
    """A source during whose reading something happens, once."""

    meanwhile: Callable[[], object] | None = None

    def read(self, query, span, window, **options):  # type: ignore[no-untyped-def]
        """Yield the readings, then let it happen."""
        yield from super().read(query, span, window, **options)
        if self.meanwhile is not None:
            happens, self.meanwhile = self.meanwhile, None
            happens()


def test_a_pass_that_is_under_way_does_not_outlive_its_definition(database: Database) -> None:
    """It would write windows of the old length where those of the new one begin: both would be billed (B12)."""
    source = Meddling()
    for hour in range(72):
        source.use("cus_a", START + hour * HOUR + MINUTE, 1)
    world = World(database, source=source)
    source.meanwhile = lambda: World(database, source=source, meter=DAYS)
    world.at(40, 5)
    with pytest.raises(LeaseLost):
        world.collect()
    days = World(database, source=source, meter=DAYS)
    days.sinks = world.sinks
    for hours in (41, 49, 73):
        days.at(hours, 10)
        days.collect()
        days.deliver()
    assert days.booked("cus_a") == 72
    assert days.one("select count(*) from aggregator.parked") == 0


def test_another_length_begins_behind_what_was_read_ahead(database: Database) -> None:
    """A backfill may have read windows that the mark has not come to."""
    source = FakeSource()
    for hour in range(72):
        source.use("cus_a", START + hour * HOUR + MINUTE, 1)
    world = World(database, source=source)
    world.at(60, 5)
    world.backfill(Span(START + 24 * HOUR, START + 48 * HOUR))
    world.deliver()
    days = World(database, source=source, meter=DAYS)
    days.sinks = world.sinks
    days.at(73)
    days.collect()
    days.deliver()
    assert days.booked("cus_a") == 72
    assert days.one("select count(*) from aggregator.parked") == 0


def test_whoever_only_looks_changes_nothing(database: Database) -> None:
    """A preview of a new query shows what it would give, and the daemon goes on by the old one."""
    source = Worded()
    for hour in range(4):
        source.use("cus_a", START + hour * HOUR, 10)
    world = World(database, source=source)
    world.at(2, 5)
    world.collect()
    world.deliver()
    registered, known = world.meters.look([replace(DOUBLE, sinks=world.meter.sinks)])
    assert [each.fingerprint for each in known[METER.name]] == [METER.fingerprint, DOUBLE.fingerprint]
    assert registered[METER.name].meter.query == "double"
    world.at(4, 5)
    world.collect()
    world.deliver()
    assert world.booked("cus_a") == 40


def test_a_finished_backfill_over_two_definitions_is_no_interrupted_one(database: Database) -> None:
    """What was imported since is found by running it again."""
    source = FakeSource()
    for hour in range(8):
        source.use("cus_a", START + hour * HOUR, 1)
    world = World(database, source=source)
    world.at(4, 5)
    world.collect()
    two = World(database, source=source, meter=DOUBLE)
    two.at(8, 5)
    two.collect()
    two.deliver()
    known = two.meters.definitions(two.registered)
    goal = Span(START, START + 8 * HOUR)
    for expected in (8, 13):
        done = Backfill(two.collection, known, goal).run(two.now, lambda: None)
        two.deliver()
        assert (done.resumed_at, two.booked("cus_a")) == (None, expected)
        two.source.use("cus_a", START + HOUR, 5)
        two.at(8, 10)


@pytest.mark.parametrize("before", READ)
@pytest.mark.parametrize("now", READ)
def test_the_way_a_meter_is_read_stays_once_it_is_billed(
    database: Database, monkeypatch: pytest.MonkeyPatch, before: str, now: str
) -> None:
    """Each reader knows of its own readings only: the configuration is refused, and the one before stays in force."""
    if before == now:
        World(database, meter=READ[before])
        World(database, meter=READ[now])
        return
    source = FakeSource()
    source.use("cus_a", START, 10)
    world = World(database, meter=READ[before], source=source)
    world.at(2, 5)
    world.collect()
    refused = (
        f"is read by `read: {before}`, and is to be read by `read: {now}`.*`start_at: 2026-11-01T02:00Z`"
    )
    kept = "select read, fingerprint, mark, epoch from aggregator.meter"
    [found] = world.rows(kept)
    assert found[0] == before
    with pytest.raises(MeterRefused, match=refused):
        world.meters.register([replace(READ[now], sinks=world.meter.sinks)])
    with pytest.raises(MeterRefused, match=refused):
        world.meters.look([replace(READ[now], sinks=world.meter.sinks)])
    # A pass that is committed after the look at the books is seen under the meter's lock.
    monkeypatch.setattr(meter_names, "settle", lambda *_: None)
    with pytest.raises(MeterRefused, match=refused):
        world.meters.register([replace(READ[now], sinks=world.meter.sinks)])
    assert world.rows(kept) == [found]
    assert [each.fingerprint for each in world.meters.definitions(world.registered)] == [found[1]]


def test_a_meter_with_nothing_on_the_books_may_be_read_in_another_way(database: Database) -> None:
    """Nothing can be billed twice: the new way holds from the beginning, and no definition of the old one is left."""
    world = World(database, meter=READ["windows"])
    world.at(2, 5)
    world.collect()
    after = World(database, meter=READ["counters"])
    assert after.rows("select read from aggregator.meter") == [("counters",)]
    [known] = after.meters.definitions(after.registered)
    assert known.fingerprint == READ["counters"].fingerprint
