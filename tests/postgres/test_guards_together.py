"""Guards where usage is kept apart: a customer's combinations are judged together, and what they hold is one group."""

from collections import Counter
from dataclasses import replace
from decimal import Decimal
from typing import Any

from aggregator.core.model import Guards
from aggregator.ledger.database import Database
from aggregator.ledger.review.held_by_guards import held_by_guards
from tests.postgres.test_guards import BY_NUMBER, WEEK, decide, go_on, held
from tests.postgres.world import HOUR, METER, START, World

APART = replace(METER, dimensions=("model",), fingerprint="d" * 64)
MANY = 300


def world_of(database: Database, guards: Guards, **settings: Any) -> World:
    """Return a world whose meter is kept apart by a model."""
    return World(database, meter=replace(APART, guards=guards, **settings))


def use(world: World, customer: str, models: dict[str, int], week: int = 0) -> None:
    """Let a customer use so much of some models in the hour of a week."""
    for model, much in models.items():
        world.source.use(customer, START + week * WEEK * HOUR, much, model=model)


def booked(world: World) -> Counter[str]:
    """Return what the sink holds of each customer."""
    found: Counter[str] = Counter()
    for event in world.sink.identifiers.values():
        found[event.customer] += int(event.delta)
    return found


def test_a_runaway_over_many_combinations_is_held_as_one(database: Database) -> None:
    """None of its combinations is much; all of them wait, in one group, and everybody else's usage goes out."""
    world = world_of(database, Guards(max_per_customer_window=Decimal(MANY - 1)))
    use(world, "cus_runaway", {f"m{number}": 1 for number in range(MANY)})
    use(world, "cus_a", {"m0": MANY - 2, "m1": 1})
    world.at(1, 6)
    result = world.collect()
    world.deliver()
    assert (result.beyond, result.beyond_units) == (MANY, MANY)
    assert booked(world) == {"cus_a": MANY - 1}
    with database.transaction() as connection:
        [group] = held_by_guards(connection, 10)
    assert (group.customer, group.windows, group.events, group.units) == ("cus_runaway", 1, MANY, MANY)
    assert group.release == (
        "aggregator events release --meter api_requests --guard max_per_customer_window --customer cus_runaway"
    )
    assert world.one("select reason from aggregator.parked limit 1") == (
        f"{MANY} units of all combinations in one window, above `max_per_customer_window: {MANY - 1}`"
    )
    decide(world, "release")
    go_on(world, 2, 6)
    assert booked(world)["cus_runaway"] == MANY
    use(world, "cus_runaway", {"m0": 1, "new": 1})
    go_on(world, 2, 20)
    assert (held(world), booked(world)["cus_runaway"]) == ([], MANY + 2), "it was let go once"
    world.check_balance()


def test_what_went_before_it_was_too_much_stays_and_the_rest_waits(database: Database) -> None:
    """Increases of every combination wait once the customer is beyond, also of one that had gone; a decrease does not."""
    world = world_of(database, BY_NUMBER)
    use(world, "cus_a", {"large": 40})
    go_on(world, 1, 6)
    use(world, "cus_a", {"small": 11, "large": 1})
    go_on(world, 1, 20)
    assert booked(world) == {"cus_a": 40}
    assert {each[2] for each in held(world)} == {1, 11}
    world.check_balance()


def test_who_is_within_the_limit_again_is_released(database: Database) -> None:
    """The runaway combination is put right: what waited of the others goes by itself, though nothing of it has changed."""
    world = world_of(database, BY_NUMBER)
    use(world, "cus_a", {"large": 5_000, "small": 11})
    use(world, "cus_b", {"large": 60, "small": 1})
    go_on(world, 1, 6)
    assert len(held(world)) == 4
    world.source.kept_apart = [each for each in world.source.kept_apart if each[2] < 5_000]
    use(world, "cus_a", {"large": 7})
    for minutes in (6, 20):
        go_on(world, 2, minutes)
    assert booked(world) == {"cus_a": 18}
    assert [each[0] for each in held(world)] == ["cus_b"] * 2
    world.check_balance()


def test_what_a_person_left_at_that_is_not_released(database: Database) -> None:
    """Dismissed is dismissed, whatever becomes of the rest."""
    world = world_of(database, BY_NUMBER)
    use(world, "cus_a", {"large": 5_000, "small": 11})
    go_on(world, 1, 6)
    decide(world, "dismiss")
    world.source.kept_apart = [each for each in world.source.kept_apart if each[2] < 5_000]
    for minutes in (6, 20):
        go_on(world, 2, minutes)
    assert booked(world) == {}
    assert (each := held(world)[-1])[2] == 11, each


def test_usual_is_what_all_combinations_came_to(database: Database) -> None:
    """Ten models of ten units each are usual: one model of a hundred is not unusual then, and ten of sixty are."""
    world = world_of(database, Guards(max_change=Decimal(5), unusual_from=Decimal(20)))
    for week in range(2):
        for customer in ("cus_a", "cus_b"):
            use(world, customer, {f"m{number}": 10 for number in range(10)}, week)
        go_on(world, week * WEEK + 1, 6)
    use(world, "cus_a", {"other": 500}, 2)
    use(world, "cus_b", {f"m{number}": 51 for number in range(10)}, 2)
    go_on(world, 2 * WEEK + 1, 6)
    assert {(each[0], each[1]) for each in held(world)} == {("cus_b", "max_change")}
    assert len(held(world)) == 10
    assert booked(world) == {"cus_a": 700, "cus_b": 200}
    assert world.one("select reason from aggregator.parked limit 1") == (
        "510 units of all combinations in one window, and 100 at most at this hour of the past 4 weeks: above "
        "`max_change: 5x`"
    )
    world.check_balance()
