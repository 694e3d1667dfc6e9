"""Guards against too much: what is suspicious waits, grouped by customer, and everybody else's usage goes out."""

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from aggregator.core.model import Decreases, Guards, Span, WriteModel
from aggregator.ledger.database import Database
from aggregator.ledger.passes.changes import statement_for
from aggregator.ledger.passes.usual import past_of
from aggregator.ledger.review.parked import Choice, ParkedEvents
from tests.postgres.test_replacing_sinks import Replacing, ReplacingSink
from tests.postgres.world import HOUR, METER, MINUTE, START, World

WEEK = 168
CUSTOMERS = [f"cus_{number}" for number in range(10)]
BY_CHANGE = Guards(max_change=Decimal(5), unusual_from=Decimal(20))
BY_TOTAL = Guards(max_total_change=Decimal(3), unusual_from=Decimal(20))
BY_NUMBER = Guards(max_per_customer_window=Decimal(50))


def made(database: Database, guards: Guards, weeks: int = 3, **settings: Any) -> World:
    """Return ten customers of ten units each in the same hour of so many weeks, billed."""
    world = World(database, meter=replace(METER, guards=guards, **settings))
    for week in range(weeks):
        for customer in CUSTOMERS:
            world.source.use(customer, START + week * WEEK * HOUR, 10)
    if weeks:
        go_on(world, (weeks - 1) * WEEK + 1, 5)
    return world


def go_on(world: World, hours: float, minutes: float = 0) -> None:
    """Let a round of both run, at a time."""
    world.at(hours, minutes)
    world.collect()
    world.deliver()


def use(world: World, week: float, much: int, customers: list[str] = CUSTOMERS) -> None:
    """Let customers use so much in the hour of a week."""
    for customer in customers:
        world.source.use(customer, START + week * WEEK * HOUR, much)


def held(world: World) -> list[tuple[object, ...]]:
    """Return who is held, by which guard, and how much."""
    return world.rows(
        "select customer, guard, delta from aggregator.parked join aggregator.event on id = event_id order by 1, 2"
    )


def billed(world: World) -> Decimal:
    """Return what the sink holds of all."""
    return sum(world.sink.booked.values(), Decimal(0))


def decide(world: World, verb: str) -> None:
    """Release or dismiss all that waits."""
    events = [row[0] for row in world.rows("select event_id from aggregator.parked order by 1")]
    if verb == "release":
        world.outbox.release(events, world.now)
    else:
        ParkedEvents(world.database).dismiss(events, world.now)


@pytest.mark.parametrize("guards", [BY_CHANGE, BY_NUMBER], ids=["change", "number"])
def test_one_customer_beyond_a_limit_is_held_and_all_others_are_billed(
    database: Database, guards: Guards
) -> None:
    """Once a person releases it, the sink holds what the source says."""
    world = made(database, guards)
    use(world, 3, 10, CUSTOMERS[1:])
    use(world, 3, 100, CUSTOMERS[:1])
    world.at(3 * WEEK + 1, 5)
    result = world.collect()
    world.deliver()
    [guard] = {row[1] for row in held(world)}
    assert guard == ("max_change" if guards is BY_CHANGE else "max_per_customer_window")
    assert held(world) == [("cus_0", guard, 100)]
    assert (result.beyond, result.beyond_units, result.held, result.needs_person) == (1, 100, 1, True)
    assert billed(world) == 390
    decide(world, "release")
    go_on(world, 3 * WEEK + 2, 5)
    assert billed(world) == 490
    world.check_balance()


@pytest.mark.parametrize("weeks", [0, 1])
def test_who_has_no_history_is_not_unusual(database: Database, weeks: int) -> None:
    """A customer that is new, and one with usage in a single week before, may use whatever it is."""
    world = made(database, BY_CHANGE, weeks)
    use(world, weeks, 10_000)
    go_on(world, weeks * WEEK + 1, 5)
    assert held(world) == []
    assert billed(world) == weeks * 100 + 100_000


def test_little_is_never_unusual(database: Database) -> None:
    """Up to `unusual_from` nothing is, however little was usual."""
    world = World(database, meter=replace(METER, guards=BY_CHANGE))
    for week in range(2):
        use(world, week, 1)
        go_on(world, week * WEEK + 1, 5)
    use(world, 2, 20, CUSTOMERS[1:])
    use(world, 2, 21, CUSTOMERS[:1])
    go_on(world, 2 * WEEK + 1, 5)
    assert held(world) == [("cus_0", "max_change", 21)]


def test_another_hour_and_weeks_long_gone_are_not_compared(database: Database) -> None:
    """Only the same hour of the four weeks before counts."""
    world = made(database, BY_CHANGE, weeks=2)
    for hours in (2 * WEEK + 1, 6 * WEEK):
        for customer in CUSTOMERS:
            world.source.use(customer, START + hours * HOUR, 1_000)
        go_on(world, hours + 1, 5)
    assert held(world) == []


def test_short_windows_are_compared_with_the_whole_hour(database: Database) -> None:
    """Who makes a call an hour makes it in another minute each time."""
    world = World(database, meter=replace(METER, guards=BY_CHANGE, window=5 * MINUTE))
    for week, minute in enumerate([3, 52, 33]):
        world.source.use("cus_a", START + week * WEEK * HOUR + minute * MINUTE, 30)
        go_on(world, week * WEEK + 1, 5)
    world.source.use("cus_a", START + 3 * WEEK * HOUR + 21 * MINUTE, 151)
    go_on(world, 3 * WEEK + 1, 5)
    assert held(world) == [("cus_a", "max_change", 151)]


def test_what_a_guard_holds_is_no_measure_until_it_is_released(database: Database) -> None:
    """A mistake that goes on for weeks does not become what is usual; what a person confirms does."""
    world = made(database, BY_CHANGE)
    for week in (3, 4):
        use(world, week, 100)
        go_on(world, week * WEEK + 1, 5)
    assert len(held(world)) == 20
    decide(world, "release")
    use(world, 5, 120)
    go_on(world, 5 * WEEK + 1, 5)
    assert held(world) == []
    assert billed(world) == 300 + 2_000 + 1_200


@pytest.mark.parametrize("guards", [BY_CHANGE, BY_NUMBER, BY_TOTAL], ids=["change", "number", "total"])
def test_a_late_row_of_what_was_released_goes_by_itself(database: Database, guards: Guards) -> None:
    """Nobody is asked again about each correction of a window of which a person knows; only about as much once more."""
    world = made(database, guards)
    use(world, 3, 100)
    go_on(world, 3 * WEEK + 1, 5)
    decide(world, "release")
    use(world, 3, 1)
    go_on(world, 3 * WEEK + 1, 10)
    go_on(world, 3 * WEEK + 1, 15)
    assert held(world) == []
    assert billed(world) == 1_310
    use(world, 3, 400)
    go_on(world, 3 * WEEK + 1, 20)
    assert len(held(world)) == 10
    assert billed(world) == 1_310


def test_a_change_of_what_is_held_is_held_in_its_place(database: Database) -> None:
    """One event waits for each customer and window, with the newest number."""
    world = made(database, BY_NUMBER)
    use(world, 3, 100, ["cus_0"])
    go_on(world, 3 * WEEK + 1, 5)
    use(world, 3, 1, ["cus_0"])
    go_on(world, 3 * WEEK + 1, 10)
    assert held(world) == [("cus_0", "max_per_customer_window", 101)]
    world.check_balance()


def test_a_mistake_that_is_put_right_at_the_source_needs_nobody(database: Database) -> None:
    """Once the number is not too much any more, it goes out."""
    world = made(database, BY_NUMBER)
    use(world, 3, 100, ["cus_0"])
    go_on(world, 3 * WEEK + 1, 5)
    world.source.uses.pop()
    use(world, 3, 11, ["cus_0"])
    go_on(world, 3 * WEEK + 1, 10)
    assert held(world) == []
    assert billed(world) == 311
    world.check_balance()


def test_what_is_dismissed_is_not_billed(database: Database) -> None:
    """It stays on record; the same number read again brings it back to nobody."""
    world = made(database, BY_NUMBER)
    use(world, 3, 100, ["cus_0"])
    go_on(world, 3 * WEEK + 1, 5)
    decide(world, "dismiss")
    go_on(world, 3 * WEEK + 3, 5)
    assert billed(world) == 300
    assert ParkedEvents(world.database).waiting(Choice(), 10) == []


def test_a_decrease_is_not_a_matter_of_these_guards(database: Database) -> None:
    """What falls is held or applied as the meter says, whatever was usual."""
    world = made(database, replace(BY_CHANGE, max_total_change=Decimal(3)), decreases=Decreases.APPLY)
    world.source.uses[-1] = ("cus_9", START + 2 * WEEK * HOUR, Decimal(1))
    go_on(world, 2 * WEEK + 1, 10)
    assert held(world) == []
    assert billed(world) == 291


def test_a_swollen_window_holds_its_increases_and_lets_them_go_by_itself(database: Database) -> None:
    """All customers together come to too much: they wait until the source is put right, and go without a word."""
    world = made(database, BY_TOTAL)
    use(world, 3, 31)
    use(world, 3 + 1 / WEEK, 31)
    world.at(3 * WEEK + 2, 5)
    result = world.collect()
    world.deliver()
    assert {row[1] for row in held(world)} == {"max_total_change"}
    assert (result.beyond, result.beyond_units) == (10, 310)
    assert billed(world) == 610, "the hour after it has no history, and went"
    world.source.uses = [
        use if use[1] != START + 3 * WEEK * HOUR or use[0] != "cus_0" else ("cus_0", use[1], Decimal(11))
        for use in world.source.uses
    ]
    go_on(world, 3 * WEEK + 2, 10)
    assert held(world) == []
    assert billed(world) == 610 + 290
    world.check_balance()


def test_late_rows_of_a_swollen_window_wait_with_the_rest(database: Database) -> None:
    """Else it would leave bit by bit."""
    world = made(database, BY_TOTAL)
    use(world, 3, 40)
    go_on(world, 3 * WEEK + 1, 5)
    use(world, 3, 1, ["cus_3", "cus_new"])
    go_on(world, 3 * WEEK + 1, 10)
    assert len(held(world)) == 11
    assert billed(world) == 300
    world.check_balance()


def test_one_customer_who_is_held_does_not_make_its_window_swollen(database: Database) -> None:
    """Everybody else's usage goes out, though all together came to too much."""
    world = made(database, replace(BY_TOTAL, max_change=Decimal(5)))
    use(world, 3, 10, CUSTOMERS[1:])
    use(world, 3, 250, CUSTOMERS[:1])
    go_on(world, 3 * WEEK + 1, 5)
    assert held(world) == [("cus_0", "max_change", 250)]
    assert billed(world) == 390


def test_what_a_person_dismissed_of_a_swollen_window_stays_dismissed(database: Database) -> None:
    """It is not released with the rest once the window is not swollen any more."""
    world = made(database, BY_TOTAL)
    use(world, 3, 31)
    go_on(world, 3 * WEEK + 1, 5)
    [event] = [each.event for each in ParkedEvents(database).waiting(Choice(customer="cus_9"), 10)]
    ParkedEvents(database).dismiss([event], world.now)
    lower = ("cus_0", START + 3 * WEEK * HOUR, Decimal(11))
    world.source.uses = [use for use in world.source.uses if use[:2] != lower[:2]] + [lower]
    go_on(world, 3 * WEEK + 1, 10)
    assert held(world) == [("cus_9", "max_total_change", 31)]
    assert billed(world) == 300 + 8 * 31 + 11


def test_a_first_backfill_is_not_flooded(database: Database) -> None:
    """Windows that are read together have no history in the ledger yet, however customers grew meanwhile."""
    world = World(database, meter=replace(METER, guards=BY_CHANGE))
    for week in range(4):
        use(world, week, 10 ** (week + 1))
    go_on(world, 3 * WEEK + 1, 5)
    assert held(world) == []
    assert billed(world) == 10 * (10 + 100 + 1_000 + 10_000)


def test_a_backfill_is_guarded_too(database: Database) -> None:
    """What it finds of old windows is compared with the weeks before those."""
    world = made(database, replace(BY_CHANGE, max_per_customer_window=Decimal(5_000)))
    go_on(world, 3 * WEEK + 60, 5)
    use(world, 2, 100, ["cus_1"])
    use(world, 0, 6_000, ["cus_2"])
    use(world, 0, 1_000, ["cus_3"])
    world.at(4 * WEEK, 5)
    world.backfill(Span(START, START + 3 * WEEK * HOUR))
    world.deliver()
    assert held(world) == [("cus_1", "max_change", 100), ("cus_2", "max_per_customer_window", 6_000)]
    assert billed(world) == 1_300


def test_windows_of_another_length_are_not_compared(database: Database) -> None:
    """A day has more than an hour had; another query of the same length is compared, being the likeliest mistake."""
    world = made(database, BY_CHANGE)
    daily = replace(world.meter, window=24 * HOUR, fingerprint="d" * 64)
    other = World(database, meter=daily, source=world.source, sinks=list(world.sinks.values()))
    use(other, 3, 100)
    go_on(other, 3 * WEEK + 25, 5)
    assert held(other) == []


def test_another_query_is_compared_with_what_the_old_one_gave(database: Database) -> None:
    """Whoever forgets a join bills ten times as much: that is what is held."""
    world = made(database, BY_CHANGE)
    edited = replace(world.meter, query="another", fingerprint="e" * 64)
    other = World(database, meter=edited, source=world.source, sinks=list(world.sinks.values()))
    use(other, 3, 100)
    go_on(other, 3 * WEEK + 1, 5)
    assert len(held(other)) == 10


def test_without_guards_nothing_is_asked() -> None:
    """A meter without limits is compared by a statement that knows of no week before, and by no other."""
    assert past_of(METER, (), START) is None
    for model in WriteModel:
        for limited in (False, True):
            for apart in (False, True):
                text = statement_for(model, limited=limited, moving=False, apart=apart)
                assert ("168 hours" in text) == limited
    assert "said" not in statement_for(WriteModel.DELTA, limited=False, moving=False)


def guarded(database: Database, model: WriteModel, **limits: Any) -> Replacing:
    """Return a world whose sink keeps the newest number, with guards."""
    world = Replacing(database, model)
    meter = replace(world.meter, guards=Guards(**limits))
    world.meter = world.collection.meter = meter
    world.registered = world.collection.registered = world.registered._replace(meter=meter)
    return world


def test_a_total_that_is_too_much_leaves_the_one_before_it(database: Database) -> None:
    """A sink that overwrites keeps the number it has until a person releases the higher one."""
    world = guarded(database, WriteModel.OVERWRITE, max_per_customer_window=Decimal(50))
    world.source.use("cus_a", START, 40)
    world.round(1)
    world.source.use("cus_a", START, 60)
    world.round(1, 10)
    assert world.told.kept("cus_a") == {START: 40}
    decide(world, "release")
    world.round(1, 15)
    assert world.told.kept("cus_a") == {START: 100}
    world.check_balance()


@pytest.mark.parametrize("by_arrival", [False, True])
def test_of_the_last_number_the_one_before_counts_meanwhile(database: Database, *, by_arrival: bool) -> None:
    """Seats that are suspiciously many are not said; a corrected older window puts no zero in their place."""
    world = guarded(database, WriteModel.LAST, max_per_customer_window=Decimal(50))
    world.source.use("cus_a", START, 7)
    world.round(1)
    world.source.use("cus_a", START + HOUR, 700)
    world.round(2)
    world.source.use("cus_a", START, 1)
    for minutes in (10, 15, 20):
        world.round(2, minutes)
    assert isinstance(world.sink, ReplacingSink)
    assert world.sink.last("cus_a", by_arrival=by_arrival) == 8
    assert held(world) == [("cus_a", "max_per_customer_window", 700)]
    decide(world, "release")
    for minutes in (25, 30):
        world.round(2, minutes)
    assert world.sink.last("cus_a", by_arrival=by_arrival) == 700
    assert held(world) == []


def test_windows_behind_a_held_one_are_billed(database: Database) -> None:
    """Of the last number: a newer window that is not too much is said, and is still the last after the release."""
    world = guarded(database, WriteModel.LAST, max_per_customer_window=Decimal(50))
    world.source.use("cus_a", START, 700)
    world.round(1)
    world.source.use("cus_a", START + HOUR, 9)
    world.round(2)
    assert world.told.last("cus_a", by_arrival=True) == 9
    decide(world, "release")
    for minutes in (10, 15):
        world.round(2, minutes)
    assert world.told.last("cus_a", by_arrival=True) == 9


def runaway(database: Database, much: int, **settings: Any) -> World:
    """Return ten customers of ten units each in one hour, and so much more of one of them that a guard holds it."""
    world = made(database, BY_NUMBER, weeks=1, decreases=Decreases.APPLY, **settings)
    world.source.use("cus_new", START, much)
    go_on(world, 1, 20)
    assert held(world) == [("cus_new", "max_per_customer_window", much)]
    return world


def left(world: World, much: int) -> None:
    """Let the one customer have used so much instead."""
    world.source.uses = [use for use in world.source.uses if use[0] != "cus_new"]
    world.source.use("cus_new", START, much)


@pytest.mark.parametrize("much", [0, 7, 60])
def test_a_held_runaway_that_is_put_right_is_no_loss(database: Database, much: int) -> None:
    """Nothing of it was ever billed, so no window shrank: the mark goes on, and what others correct is sent at once."""
    world = runaway(database, 5_000)
    left(world, much)
    world.source.uses[0] = ("cus_0", START, Decimal(8))
    world.at(2, 5)
    result = world.collect()
    world.deliver()
    assert (result.guarded, result.moved) == (0, True)
    assert world.one("select count(*) from aggregator.guarded") == 0
    assert (billed(world), world.booked("cus_0")) == (98 + (much if much <= 50 else 0), 8)
    world.check_balance()


@pytest.mark.parametrize("much", [1_000, 5_000, 9_000])
def test_a_held_runaway_hides_no_loss_of_others(database: Database, much: int) -> None:
    """What is held is no part of the window, whether it stands, falls or rises: what others lose is believed later only."""
    world = runaway(database, 5_000)
    left(world, much)
    world.source.uses = [use for use in world.source.uses if use[0] in ("cus_new", "cus_0")]
    world.at(2, 5)
    result = world.collect()
    world.deliver()
    assert (result.guarded, result.moved, billed(world)) == (1, False, 100)
    assert world.rows("select before, now from aggregator.guarded") == [(100, 10)]


def test_a_swollen_window_that_is_put_right_is_no_loss(database: Database) -> None:
    """A load that had doubled rows is corrected, and the window is billed without waiting for a second reading."""
    world = made(database, BY_TOTAL, decreases=Decreases.APPLY)
    use(world, 3, 40)
    go_on(world, 3 * WEEK + 1, 5)
    assert (len(held(world)), billed(world)) == (10, 300)
    world.source.uses = world.source.uses[:30]
    use(world, 3, 10)
    world.at(3 * WEEK + 2, 5)
    result = world.collect()
    world.deliver()
    assert (result.guarded, held(world), billed(world)) == (0, [], 400)
    world.check_balance()


def test_a_released_runaway_counts_when_it_is_put_right(database: Database) -> None:
    """A person has let it go, so that it was billed: that it disappears is believed at the second reading."""
    world = runaway(database, 5_000)
    decide(world, "release")
    world.deliver()
    left(world, 7)
    world.at(2, 5)
    assert world.collect().guarded == 1
