"""Windows that the source cannot give: split, set aside by name, and asked for again; the others go on. And lateness."""

import datetime as dt
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from aggregator.collection.backfill import Backfill
from aggregator.core.model import Reading, Span
from aggregator.core.piece_size import PieceSizes
from aggregator.errors import QueryTimedOut
from aggregator.ledger.database import Database
from tests.fakes import FakeSource
from tests.postgres.world import HOUR, METER, MINUTE, START, World

SLOW = START + 3 * HOUR


class Slow(FakeSource):
    """A source in which one window takes too long, unless it is asked for in pieces short enough."""

    def __init__(self, fits: Callable[[dt.timedelta], bool]) -> None:
        super().__init__()
        self.fits = fits
        self.slow = True

    def read(
        self,
        query: str,
        span: Span,
        window: dt.timedelta,
        *,
        step: dt.timedelta | None = None,
        **options: Any,
    ) -> Iterator[list[Reading]]:
        """Yield the readings, or time out."""
        if self.slow and SLOW in span and not (step and self.fits(step)):
            raise QueryTimedOut
        yield from super().read(query, span, window, step=step, **options)


def filled(database: Database, source: FakeSource, **changes: object) -> World:
    """Return a world with one use in each of eight hours."""
    world = World(database, source=source, meter=replace(METER, **changes))  # type: ignore[arg-type]
    for hour in range(8):
        source.use("cus_a", START + hour * HOUR, 1)
    world.at(8, 5)
    return world


def test_one_window_that_times_out_does_not_stop_the_others(database: Database) -> None:
    """It is found by halving, set aside with its reason, and the mark goes on (H-55)."""
    world = filled(database, Slow(lambda _: False))
    result = world.collect()
    assert (result.unread, result.mark) == (1, START + 8 * HOUR)
    world.deliver()
    assert world.booked("cus_a") == 7
    [(start, reason)] = world.rows("select window_start, reason from aggregator.unread")
    assert start == SLOW
    assert "statement_timeout" in reason
    assert world.one("select mark from aggregator.meter") == START + 8 * HOUR


def test_it_is_asked_for_again_and_billed_in_the_end(database: Database) -> None:
    """Not in every pass, but after an hour; once it comes, it is as if nothing had been."""
    source = Slow(lambda _: False)
    world = filled(database, source)
    world.collect()
    source.reads.clear()
    world.at(8, 30)
    world.collect()
    assert all(SLOW not in span for span in source.reads)
    source.slow = False
    world.at(9, 10)
    world.collect()
    world.deliver()
    assert world.booked("cus_a") == 8
    assert world.one("select count(*) from aggregator.unread") == 0


def test_a_query_that_may_be_split_is(database: Database) -> None:
    """Down to a minute, in one snapshot; the pieces add up."""
    asked: list[dt.timedelta] = []

    def fits(step: dt.timedelta) -> bool:
        asked.append(step)
        return step <= MINUTE

    world = filled(database, Slow(fits), split=MINUTE)
    assert world.collect().unread == 0
    world.deliver()
    assert world.booked("cus_a") == 8
    assert asked == [15 * MINUTE, 3.75 * MINUTE, MINUTE]


def test_lateness_is_measured(database: Database) -> None:
    """What came in time and what came late are told apart, by how late it was found."""
    world = filled(database, FakeSource())
    world.collect()
    world.deliver()
    world.source.use("cus_b", START + 7 * HOUR, 5)
    world.at(8, 20)
    world.collect()
    world.source.use("cus_c", START + 6 * HOUR, 2)
    world.at(9, 40)
    world.collect()
    rows = world.rows("select seconds, slots, quantity from aggregator.lateness order by 1")
    assert rows == [(0, 8, 8), (1_800, 1, 5), (21_600, 1, 2)]
    world.backfill(Span(START, START + HOUR))
    world.source.use("cus_d", START, 2)
    world.backfill(Span(START, START + HOUR))
    assert world.rows("select seconds, slots, quantity from aggregator.lateness order by 1") == rows, (
        "not a backfill's"
    )


ALL_OF_IT = dt.timedelta(seconds=1.25)
"""Readings take a second by this world's clock: with so much allowed, nothing grows."""


class Narrow(FakeSource):
    """A source that has no time for more than three windows at once."""

    stopped = 0

    def read(self, query: str, span: Span, window: dt.timedelta, **options: Any) -> Iterator[list[Reading]]:
        """Yield the readings, or time out."""
        if (span.end - span.start) / window > 3:
            self.stopped += 1
            raise QueryTimedOut
        yield from super().read(query, span, window, **options)


def test_what_the_source_has_time_for_is_kept(database: Database) -> None:
    """Sixteen windows are halved down to two, once: by halving alone, seven pieces would be stopped."""
    source = Narrow()
    world = filled(database, source)
    world.collection.sizes = PieceSizes(ALL_OF_IT)
    world.at(16, 5)
    world.collect()
    assert source.stopped == 3
    assert world.one("select mark from aggregator.meter") == START + 16 * HOUR
    assert min(span.start for span in source.reads) == START
    assert world.rows("select count(*) from aggregator.unread") == [(0,)]


def test_a_backfill_takes_ever_larger_pieces(database: Database) -> None:
    """It begins with a fortieth of its range, and doubles."""
    world = filled(database, FakeSource())
    world.at(240, 5)
    world.collection = world.beside().collection
    known = world.meters.definitions(world.registered)
    took: list[int] = []
    job = Backfill(world.collection, known, Span(START, START + 240 * HOUR))
    job.run(world.now, lambda: None, took.append)
    assert took == [6, 12, 24, 48, 96, 54]
