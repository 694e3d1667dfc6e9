"""A customer's id changes: what the old id loses and the new id gains wait together, and go in one step."""

from dataclasses import replace
from decimal import Decimal

import pytest

from aggregator.core.model import Decreases, Span, WriteModel
from aggregator.ledger.database import Database
from aggregator.ledger.review.parked import ParkedEvents
from tests.postgres.test_replacing_sinks import Replacing
from tests.postgres.world import HOUR, METER, START, World


def use(world: World, customer: str, *quantities: float | Decimal) -> None:
    """Let a customer use so much in each of the first hours."""
    for hour, quantity in enumerate(quantities):
        if quantity:
            world.source.use(customer, START + hour * HOUR, Decimal(quantity))


def rename(world: World, before: str, after: str) -> None:
    """Change a customer's id at the source, in all that was ever used."""
    world.source.uses = [(after if who == before else who, at, much) for who, at, much in world.source.uses]


def billed(world: World) -> World:
    """Read and send the first three hours."""
    world.at(3, 10)
    world.collect()
    world.deliver()
    return world


def again(world: World) -> None:
    """Read everything once more, a moment later, and send what is due."""
    world.now += HOUR / 60
    world.backfill(Span(START, START + 3 * HOUR))
    world.deliver()


def held(world: World) -> dict[str, Decimal]:
    """Return what is held, by customer."""
    return dict(
        world.rows(
            "select customer, sum(delta) from aggregator.parked join aggregator.event on event.id = event_id"
            " where parked.state = 'held' group by 1"
        )
    )


def all_booked(world: World) -> Decimal:
    """Return what the sink holds in all."""
    return sum(world.sink.booked.values(), Decimal(0))


@pytest.fixture
def world(database: Database) -> World:
    """Two customers that are billed for three hours."""
    world = World(database)
    use(world, "cus_old", 5, 7, 9)
    use(world, "cus_else", 4, 4, 4)
    return billed(world)


@pytest.fixture
def parked(database: Database) -> ParkedEvents:
    """What waits for a person."""
    return ParkedEvents(database)


def test_a_changed_id_bills_nobody_twice(world: World, parked: ParkedEvents) -> None:
    """Both sides wait, named as one move; the sink never holds more than was used."""
    rename(world, "cus_old", "cus_new")
    again(world)
    assert held(world) == {"cus_old": -21, "cus_new": 21}
    assert (world.booked("cus_old"), world.booked("cus_new"), all_booked(world)) == (21, 0, 33)
    [move] = parked.moved(10)
    assert (move.from_customer, move.to_customer, move.windows, move.quantity) == (
        "cus_old",
        "cus_new",
        3,
        21,
    )
    assert move.describe().startswith("cus_old -> cus_new: 3 windows, 21 units of api_requests to fake moved")
    again(world)
    assert held(world) == {"cus_old": -21, "cus_new": 21}, "reading it again changes nothing"
    world.check_balance()


@pytest.mark.parametrize("side", ["cus_old", "cus_new"])
def test_one_word_lets_both_sides_go(world: World, parked: ParkedEvents, side: str) -> None:
    """Whichever of its events is released: all of the move goes, and nothing else."""
    world.source.uses = [use for use in world.source.uses if use[:2] != ("cus_else", START)]
    rename(world, "cus_old", "cus_new")
    again(world)
    event = world.one(
        "select max(event_id) from aggregator.parked join aggregator.event on id = event_id where customer = %s",
        side,
    )
    assert len(world.outbox.release([event], world.now)) == 6
    world.deliver()
    assert (world.booked("cus_old"), world.booked("cus_new"), world.booked("cus_else")) == (0, 21, 12)
    assert held(world) == {"cus_else": -4}
    assert parked.moved(10) == []
    world.check_balance()


def test_one_word_leaves_both_sides_at_that(world: World, parked: ParkedEvents) -> None:
    """A move that is dismissed leaves the old id billed, and the new one not; its release takes that back."""
    rename(world, "cus_old", "cus_new")
    again(world)
    event = world.one("select min(event_id) from aggregator.parked")
    assert len(parked.dismiss([event], world.now)) == 6
    again(world)
    assert (world.booked("cus_old"), world.booked("cus_new"), parked.moved(10)) == (21, 0, [])
    assert len(world.outbox.release([event], world.now)) == 6
    world.deliver()
    assert (world.booked("cus_old"), world.booked("cus_new")) == (0, 21)


def test_what_the_new_id_uses_from_then_on_is_billed_at_once(world: World) -> None:
    """Only the windows that moved wait."""
    rename(world, "cus_old", "cus_new")
    again(world)
    world.source.use("cus_new", START + 3 * HOUR, 8)
    world.at(4, 10)
    world.collect()
    world.deliver()
    assert (world.booked("cus_new"), held(world)["cus_new"]) == (8, 21)
    world.check_balance()


def test_several_ids_change_at_once(database: Database, parked: ParkedEvents) -> None:
    """Customers that have the same number in one window are told apart by their other windows."""
    world = World(database)
    for number in range(1, 5):
        use(world, f"cus_{number}", 1 + number // 2, 1 + number % 2, 6)
    billed(world)
    for number in range(1, 5):
        rename(world, f"cus_{number}", f"new_{number}")
    again(world)
    assert {(move.from_customer, move.to_customer, move.windows) for move in parked.moved(10)} == {
        (f"cus_{number}", f"new_{number}", 3) for number in range(1, 5)
    }
    world.check_balance()


def test_who_cannot_be_told_apart_is_no_move(database: Database, parked: ParkedEvents) -> None:
    """Two customers with the same numbers throughout: the decreases wait, and the increases are billed as ever."""
    world = World(database)
    use(world, "cus_a", 5, 7, 0)
    use(world, "cus_b", 5, 7, 0)
    billed(world)
    rename(world, "cus_a", "new_a")
    rename(world, "cus_b", "new_b")
    again(world)
    assert parked.moved(10) == []
    assert held(world) == {"cus_a": -12, "cus_b": -12}
    assert (world.booked("new_a"), world.booked("new_b")) == (12, 12)


@pytest.mark.parametrize(("moved", "windows"), [((5, 7, 8), 2), ((5, 6, 8), 0)])
def test_most_of_what_was_lost_must_have_been_gained(
    world: World, parked: ParkedEvents, moved: tuple[int, ...], windows: int
) -> None:
    """One window of three that differs leaves a move of two; one that happens to be equal is none."""
    world.source.uses = [each for each in world.source.uses if each[0] != "cus_old"]
    use(world, "cus_new", *moved)
    again(world)
    assert [move.windows for move in parked.moved(10)] == ([windows] if windows else [])
    assert held(world)["cus_old"] == -21
    assert world.booked("cus_new") == sum(moved) - (12 if windows else 0)
    world.check_balance()


def test_an_id_that_is_changed_back_leaves_nothing(world: World) -> None:
    """Both sides are withdrawn, and the bill stays what it was."""
    rename(world, "cus_old", "cus_new")
    again(world)
    rename(world, "cus_new", "cus_old")
    again(world)
    assert held(world) == {}
    assert (world.booked("cus_old"), world.booked("cus_new"), all_booked(world)) == (21, 0, 33)
    world.check_balance()


def test_an_id_that_changes_twice_is_a_move_to_the_last(world: World, parked: ParkedEvents) -> None:
    """What waits for the old id waits for the third one then; the second has nothing."""
    rename(world, "cus_old", "cus_new")
    again(world)
    rename(world, "cus_new", "cus_newest")
    again(world)
    assert held(world) == {"cus_old": -21, "cus_newest": 21}
    [move] = parked.moved(10)
    assert (move.from_customer, move.to_customer, move.windows) == ("cus_old", "cus_newest", 3)
    world.outbox.release([move.event], world.now)
    world.deliver()
    assert (world.booked("cus_old"), world.booked("cus_new"), world.booked("cus_newest")) == (0, 0, 21)
    world.check_balance()


def test_more_usage_in_a_window_that_moved_waits_along(world: World, parked: ParkedEvents) -> None:
    """Whatever is planned anew for a side takes its place, so that the sink never holds more than was used."""
    rename(world, "cus_old", "cus_new")
    again(world)
    world.source.use("cus_new", START, 1)
    world.source.use("cus_old", START + HOUR, 3)
    world.source.use("cus_new", START + 2 * HOUR, 2)
    world.source.use("cus_old", START + 2 * HOUR, 2)
    again(world)
    assert [(move.windows, move.quantity) for move in parked.moved(10)] == [(3, 24)]
    assert (held(world), all_booked(world)) == ({"cus_old": -16, "cus_new": 24}, 33)
    world.check_balance()
    world.outbox.release([parked.moved(10)[0].event], world.now)
    world.deliver()
    assert (world.booked("cus_old"), world.booked("cus_new"), held(world)) == (5, 24, {})
    world.check_balance()


def test_usage_of_the_old_id_that_is_back_frees_what_waited_for_it(
    world: World, parked: ParkedEvents
) -> None:
    """In a window in which nothing is to be lowered any more, the new id's usage is billed; the others go on waiting."""
    rename(world, "cus_old", "cus_new")
    again(world)
    world.source.use("cus_old", START + HOUR, 7)
    again(world)
    assert [move.windows for move in parked.moved(10)] == [2]
    assert (world.booked("cus_new"), world.booked("cus_old")) == (7, 21)
    assert held(world) == {"cus_old": -14, "cus_new": 14}
    world.check_balance()


def test_usage_of_the_new_id_that_is_gone_leaves_the_decrease(world: World, parked: ParkedEvents) -> None:
    """A decrease that nobody's increase belongs to waits for a person by itself."""
    rename(world, "cus_old", "cus_new")
    again(world)
    world.source.uses = [each for each in world.source.uses if each[0] != "cus_new"]
    again(world)
    assert (held(world), parked.moved(10)) == ({"cus_old": -21}, [])
    assert world.one("select count(*) from aggregator.parked where moved_with is not null") == 0
    world.check_balance()


def test_the_guard_holds_a_move_too(world: World, parked: ParkedEvents) -> None:
    """Where another customer's usage vanishes in the same windows, it is a move all the same, also once that is believed."""
    rename(world, "cus_old", "cus_new")
    world.source.uses = [each for each in world.source.uses if each[0] != "cus_else"]
    again(world)
    assert world.one(
        "select bool_and(guard = 'shrink_guard') from aggregator.parked join aggregator.event on id = event_id"
        " where delta < 0"
    )
    assert [move.windows for move in parked.moved(10)] == [3]
    world.now += 2 * HOUR
    again(world)
    assert not world.one("select bool_or(guard is not null) from aggregator.parked")
    assert held(world) == {"cus_old": -21, "cus_new": 21, "cus_else": -12}
    assert all_booked(world) == 33


@pytest.mark.parametrize("decreases", [Decreases.APPLY, Decreases.CANCEL])
def test_where_no_person_is_waited_for_nothing_else_waits(database: Database, decreases: Decreases) -> None:
    """A meter that lowers what was billed by itself bills the new id at once."""
    world = World(database, meter=replace(METER, decreases=decreases))
    use(world, "cus_old", 5, 7, 9)
    billed(world)
    rename(world, "cus_old", "cus_new")
    again(world)
    assert world.booked("cus_new") == 21


def test_fractions_are_compared_as_they_are(database: Database, parked: ParkedEvents) -> None:
    """What is billed of a window depends on the windows before it; what was used there does not."""
    world = World(database)
    use(world, "cus_old", 5.5, 7.75, 9.5)
    billed(world)
    rename(world, "cus_old", "cus_new")
    again(world)
    [move] = parked.moved(10)
    assert (move.windows, move.quantity) == (3, 22)
    assert all_booked(world) == 22
    world.outbox.release([move.event], world.now)
    world.deliver()
    assert (world.booked("cus_old"), world.booked("cus_new")) == (0, 22)
    world.check_balance()


@pytest.mark.parametrize("model", [WriteModel.OVERWRITE, WriteModel.LAST])
def test_sinks_that_keep_a_total(database: Database, model: WriteModel) -> None:
    """Where totals overwrite each other both sides wait; where the last number is billed, the new id's goes at once."""
    world = Replacing(database, model, decreases=Decreases.HOLD)
    use(world, "cus_old", 5, 7, 9)
    billed(world)
    rename(world, "cus_old", "cus_new")
    again(world)
    waits = "select count(*) from aggregator.parked where moved_with is not null"
    assert world.one(waits) == (6 if model is WriteModel.OVERWRITE else 0)
    world.now += 7 * HOUR
    again(world)
    assert world.one(waits) == (6 if model is WriteModel.OVERWRITE else 0)
    assert world.booked("cus_new") == (0 if model is WriteModel.OVERWRITE else 21)


def test_usage_that_fits_two_others_is_no_move(world: World, parked: ParkedEvents) -> None:
    """What one lost is found with two new ids, window by window: neither is believed, though one has most of it."""
    world.source.uses = [
        (who if who != "cus_old" else "cus_x" if at < START + 2 * HOUR else "cus_y", at, much)
        for who, at, much in world.source.uses
    ]
    again(world)
    assert held(world) == {"cus_old": -21}
    assert (world.booked("cus_x"), world.booked("cus_y")) == (12, 9)
    assert parked.moved(10) == []
