"""Usage that is kept apart by more than its customer, on a real ledger: from the source to the sink, and corrected."""

from collections import defaultdict
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest
from psycopg.types.json import Jsonb

from aggregator.core.dimensions import Dimensions, number
from aggregator.core.model import Decreases, Span
from aggregator.core.usage import By
from aggregator.errors import InvariantBroken, LedgerError, LedgerStopped, QueryRejected
from aggregator.ledger.database import Database
from aggregator.ledger.facts import Facts
from aggregator.ledger.review import moves
from aggregator.ledger.usage import UsageReport
from tests.fakes import FakeSource
from tests.postgres.restore import PinnedWorld, back_up, restore
from tests.postgres.world import HOUR, METER, MINUTE, START, World

pytestmark = pytest.mark.usefixtures("says_what_changed")

BY_MODEL = replace(METER, dimensions=("model", "region"), fingerprint="d" * 64)

LARGE = (("model", "large"), ("region", "eu"))
SMALL = (("model", "small"), ("region", "eu"))


def world_of(database: Database, **changed: object) -> World:
    """Return a world whose meter has dimensions."""
    return World(database, meter=replace(BY_MODEL, **changed))  # type: ignore[arg-type]


def taken(world: World) -> dict[tuple[str, Dimensions], Decimal]:
    """Return what the sink was given, by customer and combination."""
    sums: dict[tuple[str, Dimensions], Decimal] = defaultdict(Decimal)
    for event in world.sink.identifiers.values():
        sums[event.customer, event.dimensions] += event.delta
    return sums


def test_each_combination_has_an_event_of_its_own(database: Database) -> None:
    """One event per customer, window and combination, with its names and values, under an identifier of its own."""
    world = world_of(database)
    for minute in range(3):
        world.source.use("cus_a", START + minute * MINUTE, 2, model="large", region="eu")
        world.source.use("cus_a", START + minute * MINUTE, 5, model="small", region="eu")
    world.source.use("cus_b", START, 7, model="large", region="eu")
    world.at(1, 6)
    assert world.collect().planned == 3
    assert world.deliver().accepted == 3
    assert taken(world) == {("cus_a", LARGE): 6, ("cus_a", SMALL): 15, ("cus_b", LARGE): 7}
    assert world.one("select count(distinct identifier) from aggregator.event") == 3
    assert world.rows("select dimensions from aggregator.combination order by dimensions ->> 'model'") == [
        (dict(LARGE),),
        (dict(SMALL),),
    ]
    world.check_balance()
    assert world.collect().changed == 0


def test_a_correction_is_of_its_combination(database: Database) -> None:
    """What comes late for one combination changes nothing of another, and neither does what goes."""
    world = world_of(database, decreases=Decreases.APPLY, shrink_guard=Decimal(1))
    for model, quantity in (("large", 2), ("small", 5)):
        world.source.use("cus_a", START, quantity, model=model, region="eu")
    world.at(1, 6)
    world.collect()
    world.deliver()
    world.source.use("cus_a", START, 10, model="large", region="eu")
    world.source.kept_apart.pop(1)
    world.source.use("cus_a", START, 1, model="small", region="eu")
    world.at(1, 20)
    assert world.collect().planned == 2
    world.deliver()
    assert taken(world) == {("cus_a", LARGE): 12, ("cus_a", SMALL): 1}
    world.check_balance()


def test_usage_that_changes_its_combination_is_lowered_there_and_billed_here(database: Database) -> None:
    """A row that gets another model afterwards is a decrease, which waits for a person, and an increase."""
    world = world_of(database, shrink_guard=Decimal(1))
    world.source.use("cus_a", START, 4, model="large", region="eu")
    world.source.use("cus_a", START, 4, model="small", region="eu")
    world.at(1, 6)
    world.collect()
    world.deliver()
    world.source.kept_apart[0][3]["model"] = "small"
    world.at(1, 20)
    assert world.collect().held == 1
    world.deliver()
    assert taken(world) == {("cus_a", LARGE): 4, ("cus_a", SMALL): 8}
    [(delta, combination)] = world.rows(
        "select event.delta, dimensions from aggregator.event join aggregator.parked on event_id = event.id"
        " join aggregator.combination on combination.id = event.combination"
    )
    assert (delta, combination) == (-4, dict(LARGE))


def test_a_fraction_is_carried_within_its_combination(database: Database) -> None:
    """Two halves of two models are no whole of either; what is too small is carried for each by itself."""
    world = world_of(database)
    for hour in range(3):
        for model in ("large", "small"):
            world.source.use("cus_a", START + hour * HOUR, Decimal("0.4"), model=model, region="eu")
    world.at(2, 6)
    assert world.collect().planned == 0
    assert world.rows("select amount from aggregator.carry") == [(Decimal("0.8"),)] * 2
    world.at(3, 6)
    assert world.collect().planned == 2
    world.deliver()
    assert taken(world) == {("cus_a", LARGE): 1, ("cus_a", SMALL): 1}
    assert world.rows("select amount from aggregator.carry") == [(Decimal("0.2"),)] * 2
    world.check_balance()


def test_a_row_without_a_value_is_named_and_holds_up_nothing(database: Database) -> None:
    """It is unmapped with its customer and its reason; all other usage of the customer goes out."""
    world = world_of(database)
    world.source.use("cus_a", START, 3, model=None, region="eu")
    world.source.use("cus_a", START, 5, model="small", region="eu")
    world.at(1, 6)
    world.collect()
    world.deliver()
    assert taken(world) == {("cus_a", SMALL): 5}
    named = world.rows("select customer, reason, rows, quantity, combination from aggregator.unmapped")
    assert named == [("cus_a", "dimension `model` is NULL or blank", 1, 3, None)]


def test_a_customer_that_gets_another_id_moves_with_all_its_combinations(database: Database) -> None:
    """What one customer lost and another gained is one move, combination by combination."""
    world = world_of(database)
    for model, quantity in (("large", 2), ("small", 5), ("tiny", 2)):
        world.source.use("cus_old", START, quantity, model=model, region="eu")
    world.source.use("cus_else", START, 100, model="large", region="eu")
    world.at(1, 6)
    world.collect()
    world.deliver()
    world.source.kept_apart = [
        ("cus_new" if who == "cus_old" else who, at, much, values)
        for who, at, much, values in world.source.kept_apart
    ]
    world.at(1, 20)
    world.collect()
    with database.transaction() as connection:
        [move] = moves.open_moves(connection, 10)
    assert (move.from_customer, move.to_customer, move.windows, move.quantity) == ("cus_old", "cus_new", 3, 9)


def test_dimensions_begin_with_the_next_window(database: Database) -> None:
    """A meter that gains one reads what was billed without it as before, and what is new by it; one that loses it, too."""
    source = FakeSource()
    for hour in range(4):
        for model, quantity in (("large", 2), ("small", 5)):
            source.use("cus_a", START + hour * HOUR, quantity, model=model, region="eu")
    before = World(database, meter=replace(METER, dimensions=()), source=source)
    before.at(1, 6)
    before.collect()
    with_them = World(database, meter=BY_MODEL, source=source, sinks=[before.sink])
    with_them.at(2, 6)
    with_them.collect()
    without = World(database, meter=replace(METER, fingerprint="e" * 64), source=source, sinks=[before.sink])
    without.at(4, 6)
    assert without.collect().held == 0
    without.deliver()
    assert taken(without) == {("cus_a", ()): 21, ("cus_a", LARGE): 2, ("cus_a", SMALL): 5}
    assert without.rows("select dimensions from aggregator.definition order by since") == [
        ([],),
        (["model", "region"],),
        ([],),
    ]


def test_more_combinations_than_allowed_are_refused_before_the_first_event(database: Database) -> None:
    """The column that has too many values is named, nothing is planned, and the mark stays; what is known goes on."""
    world = world_of(database, max_combinations=3, revisit=0 * HOUR)
    for model in ("m0", "m1", "m2"):
        world.source.use("cus_a", START, 1, model=model, region="eu")
    world.at(1, 6)
    assert world.collect().planned == 3
    world.source.use("cus_a", START + HOUR, 1, model="m9", region="eu")
    world.at(2, 6)
    with pytest.raises(QueryRejected, match="more than 3 combinations; `model` alone has 4 values"):
        world.collect()
    assert world.one("select count(*) from aggregator.combination") == 3
    assert world.one("select mark from aggregator.meter") == START + HOUR
    again = World(
        database, meter=replace(BY_MODEL, max_combinations=4), source=world.source, sinks=[world.sink]
    )
    again.at(2, 7)
    assert again.collect().planned == 1


def test_a_number_that_stands_for_two_combinations_stops_us(database: Database) -> None:
    """The ledger has it for one of them: nothing is written."""
    world = world_of(database)
    world.source.use("cus_a", START, 1, model="large", region="eu")
    world.at(1, 6)
    world.execute(
        "insert into aggregator.combination (id, meter_id, dimensions) values (%s, %s, %s)",
        number(LARGE),
        world.registered.id,
        Jsonb({"model": "other", "region": "eu"}),
    )
    with pytest.raises(InvariantBroken, match="have one number"):
        world.collect()
    assert world.one("select count(*) from aggregator.event") == 0


def test_an_adoption_leaves_what_one_figure_cannot_tell_apart(database: Database, tmp_path: Path) -> None:
    """The sink has one figure for all combinations: nothing is taken over before a person has named the customer."""
    world = PinnedWorld(database, tmp_path, meter=BY_MODEL)
    for model, quantity in (("large", Decimal("2.4")), ("small", Decimal("5.4"))):
        world.source.use("cus_a", START, quantity, model=model, region="eu")
    world.at(1, 6)
    world.collect()
    world.deliver()
    backup = back_up(world.database)
    world.source.use("cus_b", START + HOUR, 1, model="large", region="eu")
    world.at(2, 6)
    world.collect()
    world.deliver()
    restore(world.database, backup)
    world.source.use("cus_c", START + HOUR, 1, model="large", region="eu")
    world.collect()
    with pytest.raises(LedgerStopped):
        world.deliver()
    with pytest.raises(LedgerError, match=r"cus_a.*one figure for all combinations.*--leave"):
        world.adopt()
    world.adopt(leave=["cus_a", "cus_b", "cus_c"])
    assert world.rows("select sum(total) from aggregator.slot where customer = 'cus_a'") == [(7,)]
    assert world.rows("select count(*) from aggregator.carry where customer = 'cus_a'") == [(2,)]
    world.check_balance()


def test_each_combination_of_a_window_is_on_record_by_itself(database: Database) -> None:
    """What was read of it, and its events; what was used is the sum of them, unless it is told by a dimension."""
    world = world_of(database)
    for model, quantity in (("large", 2), ("small", 5)):
        world.source.use("cus_a", START, quantity, model=model, region="eu")
    world.source.use("cus_a", START, 9, model=None, region="eu")
    world.at(1, 6)
    world.collect()
    world.deliver()
    facts = Facts(database)
    [feed] = facts.feeds()
    hour = Span(START, START + HOUR)
    assert facts.known(feed, "cus_a", hour).plain[2:] == (1, 7, 7)
    windows = facts.windows(feed, "cus_a", [START])
    assert [
        (window.dimensions, window.quantity, window.total, [event.delta for event in window.events])
        for window in windows
    ] == [(LARGE, 2, 2, [2]), (SMALL, 5, 5, [5])]
    assert {window.without_value for window in windows} == {"dimension `model` is NULL or blank"}
    assert sorted(entry.delta for entry in facts.entries(feed, "cus_a", hour)) == [2, 5]
    report = UsageReport(database)
    [of_feed] = report.feeds(None, hour)
    [line] = report.lines(of_feed, hour, By.CUSTOMER)
    assert (line.customer, line.usage.used, line.usage.billed, line.usage.unmapped) == ("cus_a", 16, 7, 9)


def test_a_combination_that_is_named_twice_is_one(database: Database) -> None:
    """Many meters may read the same values; each counts those that it has read."""
    world = world_of(database)
    other = world_of(database, name="other")
    for each in (world, other):
        each.source.use("cus_a", START, 1, model="large", region="eu")
        each.at(1, 6)
        each.collect()
        each.deliver()
        assert taken(each) == {("cus_a", LARGE): 1}
    assert world.rows("select count(*), count(distinct id) from aggregator.combination") == [(2, 1)]
