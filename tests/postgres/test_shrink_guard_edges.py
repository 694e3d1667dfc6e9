"""Edges of the shrink guard and of windows set aside, in which usage was once billed wrongly or forgotten."""

import datetime as dt
from dataclasses import replace
from decimal import Decimal

import pytest

from aggregator.core.model import Decreases, Reading, Span
from aggregator.ledger.database import Database
from aggregator.ledger.review.parked import ParkedEvents
from tests.fakes import FakeSource
from tests.postgres.test_unread import Slow
from tests.postgres.world import HOUR, METER, START, World

APPLY = replace(METER, decreases=Decreases.APPLY)
CUSTOMERS = [f"cus_{number}" for number in range(10)]


class Spoiling(FakeSource):
    """A source whose numbers of the first hour can turn unusable."""

    spoilt = False

    def answer(
        self, query: str, span: Span, window: dt.timedelta, step: dt.timedelta | None = None
    ) -> list[Reading]:
        """Return the readings, or rows without a number."""
        if self.spoilt and START in span:
            return [Reading(START, customer, None, None, "quantity is NULL") for customer in CUSTOMERS]
        return super().answer(query, span, window, step)


@pytest.fixture
def world(database: Database) -> World:
    """Ten customers of ten units each in the first hour, billed; decreases are applied."""
    world = World(database, meter=APPLY, source=Spoiling())
    for customer in CUSTOMERS:
        world.source.use(customer, START, 10)
    world.at(1, 5)
    go_on(world)
    return world


def go_on(world: World) -> None:
    """Let a round of both run."""
    world.collect()
    world.deliver()


def billed(world: World) -> Decimal:
    """Return what the sink holds of all."""
    return sum(world.sink.booked.values(), Decimal(0))


def test_a_table_that_is_loaded_again_bit_by_bit_takes_nothing_back(world: World) -> None:
    """What replaces a guarded decrease is guarded as well: the first rows that are back must not release the rest (B18)."""
    world.source.uses = []
    world.at(2, 5)
    assert world.collect().guarded == 1
    world.source.uses = [(customer, START, Decimal(1)) for customer in CUSTOMERS]
    world.at(2, 10)
    go_on(world)
    assert billed(world) == 100
    world.at(3, 15)
    go_on(world)
    assert billed(world) == 10, "it stays so for an hour"
    world.check_balance()


def test_what_a_person_has_dismissed_is_not_believed(world: World) -> None:
    """A decrease that somebody left at that is not sent an hour later."""
    world.source.uses = []
    world.at(2, 5)
    world.collect()
    events = [row[0] for row in world.rows("select event_id from aggregator.parked")]
    ParkedEvents(world.database).dismiss(events, world.now)
    for hours in (3, 4):
        world.at(hours, 10)
        go_on(world)
    assert billed(world) == 100


def test_an_unusable_row_confirms_nothing(world: World) -> None:
    """Only a second reading that says the same does."""
    assert isinstance(world.source, Spoiling)
    world.source.uses = []
    world.at(2, 5)
    world.collect()
    world.source.spoilt = True
    world.at(3, 10)
    go_on(world)
    assert billed(world) == 100


def test_a_window_behind_a_mark_that_stayed_is_guarded(world: World) -> None:
    """A guarded pass leaves the mark, and yet its newer windows were read and billed."""
    for customer in CUSTOMERS:
        world.source.use(customer, START + HOUR, 10)
    world.source.uses = [use for use in world.source.uses if use[1] >= START + HOUR]
    world.at(2, 5)
    go_on(world)
    world.source.uses = []
    world.at(2, 10)
    assert world.collect().guarded == 1
    world.deliver()
    assert billed(world) == 200


def test_a_decrease_at_the_edge_of_revisit_is_confirmed_all_the_same(database: Database) -> None:
    """A window that is held for a second reading gets it, however old it has become."""
    world = World(database, meter=replace(APPLY, revisit=dt.timedelta(days=3)))
    world.source.use("cus_a", START, 10)
    world.at(1, 5)
    go_on(world)
    world.at(49, 5)
    world.collect()
    world.source.uses = []
    for hours in range(73, 80):
        world.at(hours, 30)
        go_on(world)
    assert billed(world) == 0
    assert world.one("select count(*) from aggregator.parked") == 0


def test_a_window_set_aside_is_asked_for_again_however_old_it_is(database: Database) -> None:
    """Its time comes though `revisit` has passed it."""
    source = Slow(lambda _: False)
    world = World(database, source=source, meter=replace(METER, revisit=3 * HOUR))
    for hour in range(12):
        source.use("cus_a", START + hour * HOUR, 1)
    world.at(12, 5)
    go_on(world)
    assert world.booked("cus_a") == 11
    source.slow = False
    world.at(14, 10)
    go_on(world)
    assert world.booked("cus_a") == 12
    assert world.one("select count(*) from aggregator.unread") == 0


def test_a_window_too_old_to_be_billed_is_read_a_second_time_too(world: World) -> None:
    """Nothing of it is held, since its decreases are refused at once. Its month would stay open for ever."""
    used, world.source.uses = world.source.uses, []
    world.at(24 * 90, 5)
    assert world.collect().guarded == 1
    world.at(24 * 90, 10)
    world.collect()
    assert world.one("select mark from aggregator.meter") == START + 24 * 90 * HOUR
    assert world.one("select count(*) from aggregator.parked where state = 'held'") == 0
    world.source.uses = used
    world.at(24 * 90 + 1, 15)
    go_on(world)
    assert world.one("select sum(quantity) from aggregator.slot") == 100
    assert world.one("select count(*) from aggregator.guarded") == 0
    assert billed(world) == 100
