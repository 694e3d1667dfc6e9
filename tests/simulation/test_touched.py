"""Lives in which the source is asked which windows were touched, and no other old one is read again."""

import random
from collections.abc import Callable
from typing import Any

import pytest

from aggregator.collection.collector import Collector
from aggregator.collection.revisits import Revisits
from aggregator.core import changed
from tests.conftest import TEMPLATE
from tests.simulation.conditions import DAY, HOUR, MINUTE, Conditions, drawn, short
from tests.simulation.life import Life, Lived, outcome
from tests.simulation.mutation import Made, made
from tests.simulation.postgres import differences, in_postgres

SEEDS = (101, 103, 105, 106, 108)
ALONE = range(101, 116)
"""Lives in which nothing but answers finds what comes late."""
SHORT = (101, 103, 108)
IN_POSTGRES = (122,)

LONGEST = 6 * HOUR + MINUTE
"""No transaction of these lives is open for longer."""


def asking(conditions: Conditions) -> Conditions:
    """Let the source be asked. It is the primary, and old windows change often."""
    conditions.asked = LONGEST
    conditions.standbys = 0
    if conditions.revisit < DAY:
        conditions.revisit = 30 * DAY
    conditions.late, conditions.backdated = 0.25, 0.1
    conditions.deletes, conditions.updates = max(conditions.deletes, 0.05), max(conditions.updates, 0.1)
    return conditions


def alone(conditions: Conditions) -> Conditions:
    """Let nothing be read again but what is named: neither by a full reading, nor by hand."""
    asking(conditions).fully = 90 * DAY
    conditions.spells = conditions.new_ids = conditions.backfills = 0
    conditions.restores = conditions.clock_jumps = 0
    conditions.held_before = conditions.fails_over = False
    conditions.empty_read = conditions.rejects = 0.0
    conditions.days = max(conditions.days, 4)
    conditions.window = min(conditions.window, 3 * HOUR)
    return conditions


def waiting_for_who_writes(conditions: Conditions) -> Conditions:
    """Let the lag be shorter than any transaction: who is open is seen, and waited for."""
    alone(conditions).asked = MINUTE
    conditions.patience, conditions.sees_starts, conditions.late = 10 * DAY, True, 0.6
    conditions.query_fails = max(conditions.query_fails, 0.1)
    return conditions


def lived(seed: int, kind: Callable[[Conditions], Conditions] = asking) -> Lived:
    """Live the life of a seed, asking."""
    conditions = drawn(seed, random.Random(seed), random.Random(f"{seed}: restores"))
    return outcome(Life(seed, conditions=kind(conditions)))


@pytest.mark.parametrize("seed", SEEDS)
def test_a_life_that_asks_ends_with_everything_equal(seed: int) -> None:
    """Whoever was killed, set back or late: what was touched is read again, and what an answer lacks, fully."""
    life = lived(seed)
    assert life.rule is None, f"{life.trace}\n\n{life.rule}: {life.facts}"


@pytest.mark.parametrize("kind", [alone, waiting_for_who_writes])
@pytest.mark.parametrize("seed", SHORT)
def test_answers_alone_find_all_that_was_touched(seed: int, kind: Callable[[Conditions], Conditions]) -> None:
    """No full reading comes to their help, once the first one is over."""
    life = lived(seed, kind)
    assert life.rule is None, f"{life.trace}\n\n{life.rule}: {life.facts}"
    assert life.marks["windows named as touched"]
    assert not life.marks["missed by `changed`"]


@pytest.mark.parametrize("seed", IN_POSTGRES)
def test_the_ledger_in_memory_is_the_real_one_s_twin(
    seed: int, create_database: Callable[[str | None], str]
) -> None:
    """The same life over Postgres ends in the same tables, the mark of what was touched among them."""
    with in_postgres(create_database(TEMPLATE)) as ledger:
        real = Life(seed, ledger, asking(short(random.Random(seed))))
        twin = Life(seed, conditions=asking(short(random.Random(seed))))
        found = outcome(real)
        assert found.rule is None, f"{found.trace}\n\n{found.rule}: {found.facts}"
        assert outcome(twin).rule is None
        assert real.ledger.tables().touched
        assert differences(real.ledger.tables(), twin.ledger.tables()) == []


def mark_moved_with_the_first_reading() -> Made:
    """The mark moves with the first reading of a round, and whoever dies before the last has passed over the others."""
    real = Collector._completing

    def completing(self: Any, this: Any, asked: Any, *rest: Any) -> Any:
        done = real(self, this, asked, *rest)
        return done if asked is None else done._replace(touched=asked.until)

    return [(Collector, "_completing", completing)]


def mark_moved_before_reading() -> Made:
    """The mark moves as soon as the source was asked."""
    real = Revisits.ask

    def ask(self: Any, question: Any, lease: Any, now: Any) -> Any:
        asked = real(self, question, lease, now)
        if asked is not None and asked.since is not None:
            return asked._replace(windows=frozenset())
        return asked

    return [(Revisits, "ask", ask)]


def open_transactions_passed_over() -> Made:
    """The next question begins where the one before was asked: what was open then is never named."""
    return [(changed, "shown_until", lambda now, *_: now)]


BUGS = (
    mark_moved_with_the_first_reading,
    mark_moved_before_reading,
    open_transactions_passed_over,
)


@pytest.mark.parametrize("bug", BUGS, ids=lambda each: each.__name__)
def test_a_bug_made_on_purpose_is_found(bug: Callable[[], Made]) -> None:
    """What these lives cannot find, they do not prove."""
    with made(bug()):
        assert any(lived(seed, waiting_for_who_writes).rule for seed in ALONE), (
            f"{bug.__doc__} Nobody noticed."
        )
