"""Changed definitions: old windows are read by the old query, new ones by the new; a restatement is asked for."""

from dataclasses import replace
from decimal import Decimal

from aggregator.ledger.database import Database
from aggregator.model import Reading, Span
from tests.fakes import FakeSource
from tests.postgres.world import HOUR, METER, MINUTE, START, World

DOUBLE = replace(METER, query="double", fingerprint="d" * 64)
QUARTER = replace(METER, window=15 * MINUTE, fingerprint="q" * 64)


class Worded(FakeSource):
    """A source that understands two queries: as it is, and everything doubled."""

    def read(self, query, span, window, *, step=None):  # type: ignore[no-untyped-def]
        """Yield the readings of the query."""
        for batch in super().read(query, span, window):
            yield [
                Reading(
                    r.window_start,
                    r.customer,
                    (r.quantity or 0) * Decimal(2 if query == "double" else 1),
                    r.at,
                )
                for r in batch
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
    assert after.collection.restate(Span(START + HOUR, START + 3 * HOUR), new, after.now)
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
