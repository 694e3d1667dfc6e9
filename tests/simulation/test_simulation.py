"""The real core and shells live through simulated faults; `make sim` and `make mutants` do more of the same."""

import random
from collections.abc import Callable

import pytest

from aggregator.core.sampling import Counters, Gauges, Missing, Resets, Sample
from tests.conftest import TEMPLATE
from tests.simulation.by_samples import being_sampled
from tests.simulation.conditions import (
    Conditions,
    cancelling,
    hearing,
    in_files,
    in_places,
    keeping_apart,
    newest,
    short,
)
from tests.simulation.hunting import MUTANTS, concerned, hunt
from tests.simulation.life import Life, live, outcome
from tests.simulation.mutation import Mutant
from tests.simulation.postgres import differences, in_postgres

SEEDS = range(1, 61)
BROKE_ONCE = (2291,)
"""Lives that found a mistake beyond those: a cancellation of an event that a ledger, wound back, does not have."""

SEEDS_IN_POSTGRES = range(1, 4)
NEWEST_IN_POSTGRES = (12, 13)
FILES_IN_POSTGRES = (22, 23)
CANCELLING_IN_POSTGRES = (32, 39, 43)
HEARING_IN_POSTGRES = (51, 57)
PLACES_IN_POSTGRES = (61, 62)
APART_IN_POSTGRES = (71, 72)
SAMPLED_IN_POSTGRES = (81, 82)
QUICK = {
    "claim_after_send": range(1, 6),
    "timeout_is_refused": range(3, 21),
    "stale_plan": range(1, 21),
    "commit_without_epoch": range(1, 41),
    "mark_jumps_a_gap": range(1, 6),
    "carry_dropped": range(1, 31),
    "window_end_as_instant": range(1, 6),
    "beat_not_compared": range(1, 16),
    "generation_not_raised": range(1, 16),
    "unsettled_not_withdrawn": range(1, 16),
    "newer_not_said_again": range(204, 241),
    "file_named_anew": range(1, 61),
    "earlier_try_forgotten": range(8, 201),
    "shrinking_believed": range(9, 31),
    "believed_at_once": range(12, 31),
    "wrong_clock_goes_on": range(14, 41),
    "back_in_time": range(35, 61),
    "taken_beside_the_ledger": range(51, 101),
    "identifier_without_dimensions": range(26, 61),
    "carry_without_dimensions": range(26, 61),
    "compared_without_dimensions": range(26, 61),
}
"""Some of the mutants, with the lives among which each must be found: few meet the rarer ones."""


def as_drawn(conditions: Conditions) -> Conditions:
    """Leave a life as it was drawn."""
    return conditions


def by_counters(conditions: Conditions) -> Conditions:
    """Let counters be sampled that people are asked about once they fall."""
    return being_sampled(conditions, Counters(Resets.HOLD), conditions.window / 2)


def by_gauges(conditions: Conditions) -> Conditions:
    """Let gauges be sampled, and averages be billed."""
    every = conditions.window / 2
    return being_sampled(conditions, Gauges(Sample.AVERAGE, Missing.CARRY_LAST, every), every)


@pytest.mark.parametrize("seed", [*SEEDS, *BROKE_ONCE])
def test_a_life_ends_with_everything_equal(seed: int) -> None:
    """Nothing is lost, doubled or over at any moment, whatever goes wrong (B1, B2, B3, B4, B5, B6, B7, B11, B12, B13)."""
    lived = live(seed)
    assert lived.rule is None, f"{lived.trace}\n\n{lived.rule}: {lived.facts}\nagain: make sim SEED={seed}"


def test_a_life_can_be_lived_again() -> None:
    """A seed decides everything: the same one ends in the same ledger, after the same steps."""
    first, second = Life(7), Life(7)
    assert outcome(first) == outcome(second)
    assert str(first.trace) == str(second.trace)
    assert differences(first.ledger.tables(), second.ledger.tables()) == []


@pytest.mark.parametrize(
    ("seed", "kind"),
    [
        *((seed, as_drawn) for seed in SEEDS_IN_POSTGRES),
        *((seed, newest) for seed in NEWEST_IN_POSTGRES),
        *((seed, in_files) for seed in FILES_IN_POSTGRES),
        *((seed, cancelling) for seed in CANCELLING_IN_POSTGRES),
        *((seed, hearing) for seed in HEARING_IN_POSTGRES),
        *((seed, in_places) for seed in PLACES_IN_POSTGRES),
        *((seed, keeping_apart) for seed in APART_IN_POSTGRES),
        *zip(SAMPLED_IN_POSTGRES, (by_counters, by_gauges), strict=True),
    ],
)
def test_the_ledger_in_memory_is_the_real_one_s_twin(
    seed: int, kind: Callable[[Conditions], Conditions], create_database: Callable[[str | None], str]
) -> None:
    """The same life over Postgres keeps every rule, and ends in the same meters, slots, events and claims."""
    with in_postgres(create_database(TEMPLATE)) as ledger:
        real = Life(seed, ledger, kind(short(random.Random(seed))))
        twin = Life(seed, conditions=kind(short(random.Random(seed))))
        lived = outcome(real)
        assert lived.rule is None, f"{lived.trace}\n\n{lived.rule}: {lived.facts}"
        assert outcome(twin).rule is None
        assert differences(real.ledger.tables(), twin.ledger.tables()) == []


@pytest.mark.parametrize("each", MUTANTS, ids=lambda each: each.name)
def test_a_bug_can_be_made_in_the_code_as_it_is(each: Mutant) -> None:
    """What a bug replaces is there, where it is looked for: a name that has moved would end the search for all of them."""
    before = [vars(owner)[name] for owner, name in each.places()]
    with each.patch():
        assert [vars(owner)[name] for owner, name in each.places()] != before
    assert [vars(owner)[name] for owner, name in each.places()] == before


def test_a_life_names_the_bugs_that_can_change_it() -> None:
    """A bug of the planner is in what every life calls; one of the sender is not, in a life in which files are written."""
    can_change = concerned(1)
    assert "mark_jumps_a_gap" in can_change
    assert "claim_after_send" not in can_change


@pytest.mark.parametrize(("name", "among"), QUICK.items())
def test_a_bug_made_on_purpose_is_found(name: str, among: range) -> None:
    """What the simulation cannot find, it does not prove."""
    seed, rule = hunt(name, among)
    assert seed, f"{name} survived {len(among)} lives from {among.start} on"
    assert rule
