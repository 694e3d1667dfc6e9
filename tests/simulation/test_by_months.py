"""Months that become old, are archived and come back, through kills, lost answers, damaged files and ledgers set back."""

import random
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest

from aggregator.collection import schedule
from tests.conftest import TEMPLATE
from tests.simulation import memory_archives
from tests.simulation.by_months import drawn_by_months, going_on
from tests.simulation.conditions import HOUR, Conditions, drawn, keeping_apart, short
from tests.simulation.life import Life, Lived, outcome
from tests.simulation.memory_archives import MemoryArchives
from tests.simulation.memory_outbox import MemoryOutbox
from tests.simulation.memory_passes import MemoryPasses
from tests.simulation.mutation import Made, made
from tests.simulation.postgres import differences, in_postgres

SEEDS = (*range(1, 10), 19)
SHOWING_ALL = (1, 19)
"""Lives that have between them what these lives are about."""

SEED_IN_POSTGRES = 32

real_held = MemoryPasses._held
real_earliest = schedule.earliest
real_restore = MemoryArchives.restore
real_spent = MemoryArchives.remove_spent_claims


def lived(seed: int) -> Lived:
    """Live the life of a seed that goes on after months."""
    return outcome(Life(seed, conditions=drawn_by_months(seed, drawn)))


@cache
def as_it_is(seed: int) -> Lived:
    """Live it once."""
    return lived(seed)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_life_of_months_ends_with_everything_equal(seed: int) -> None:
    """What left is in the files to the last row, is counted once, and is never billed again."""
    life = as_it_is(seed)
    assert life.rule is None, f"{life.trace}\n\n{life.rule}: {life.facts}"


def test_these_lives_have_what_they_are_about() -> None:
    """Months that leave, come back and leave again, with all that happens to them on the way."""
    sought = {
        "a month is out of the ledger",
        "a month is brought back",
        "a month is let go again",
        "a month waits for a person",
        "an archive is damaged",
        "usage of a closed month is written",
        "something is written beside an old event",
        "remove committed, answer lost",
        "close committed, answer lost",
        "ledger wound back",
    }
    for seed in SHOWING_ALL:
        sought -= {mark for mark, times in as_it_is(seed).marks.items() if times}
    assert sought == set()


def test_archives_in_memory_are_the_twin_of_the_real_ones(
    create_database: Callable[[str | None], str],
) -> None:
    """The same life over Postgres, with usage that is kept apart, ends in the same rows, and in the same sums."""

    def conditions() -> Conditions:
        dice = random.Random(SEED_IN_POSTGRES)
        conditions = going_on(keeping_apart(short(dice)), dice)
        conditions.notes, conditions.daemons, conditions.meters = 0, 1, 1
        conditions.window = max(conditions.window, 12 * HOUR)
        return conditions

    with in_postgres(create_database(TEMPLATE)) as ledger:
        real = Life(SEED_IN_POSTGRES, ledger, conditions())
        twin = Life(SEED_IN_POSTGRES, conditions=conditions())
        first = outcome(real)
        assert first.rule is None, f"{first.trace}\n\n{first.rule}: {first.facts}"
        assert outcome(twin).rule is None
        assert differences(real.ledger.tables(), twin.ledger.tables()) == []
    for mark in ("a month is out of the ledger", "a month is brought back"):
        assert first.marks[mark], mark


def removed_unseen() -> Made:
    """A day is removed without a look at whether the file has it as it is."""
    return [(memory_archives, "_differ", lambda *_: False)]


def counts_twice() -> Made:
    """A month that is brought back is still in the sums of what has left."""
    return [(memory_archives, "_forget_sums", lambda *_: None)]


def restored_beside() -> Made:
    """A month that is brought back is still shown from its file, too."""

    def restore(self: MemoryArchives, archive: Any, rows: Any) -> bool:
        row = self._ledger.tables.archives.get(archive.id)
        until = row.removed_until if row is not None else None
        done = real_restore(self, archive, rows)
        if done and row is not None and until is not None:
            row.removed_until = until
        return done

    return [(MemoryArchives, "restore", restore)]


def plans_in_a_closed_month() -> Made:
    """Who goes on after months reads again what it would have read then, and plans it, closed or not."""

    def held(self: MemoryPasses, lease: Any, _span: Any = None) -> Any:
        return real_held(self, lease)

    def earliest(meter: Any, lease: Any, now: Any) -> Any:
        return real_earliest(meter, lease._replace(archived_until=None), now)

    return [(MemoryPasses, "_held", held), (schedule, "earliest", earliest)]


def released_from_a_closed_month() -> Made:
    """What was dismissed is sent after all, though its month is on its way out of the ledger."""
    return [(MemoryOutbox, "_is_closed", lambda *_: False)]


def closed_while_something_waits() -> Made:
    """A month is closed because it is old, whatever of it waits."""
    return [(memory_archives, "_open", lambda *_: iter(()))]


def no_host_is_told() -> Made:
    """Old claims go, and a host that has sent nothing since takes its ledger for one that was set back."""

    def spent(self: MemoryArchives, *values: Any) -> None:
        real_spent(self, *values)
        self._ledger.tables.identity.claims_kept_from = None

    return [(MemoryArchives, "remove_spent_claims", spent)]


BUGS = {
    removed_unseen: 3,
    counts_twice: 1,
    restored_beside: 1,
    plans_in_a_closed_month: 5,
    released_from_a_closed_month: 2,
    closed_while_something_waits: 36,
    no_host_is_told: 74,
}
"""What goes wrong, and a life that shows it, which is lived first."""


@pytest.mark.parametrize(("bug", "shown_by"), BUGS.items(), ids=lambda each: getattr(each, "__name__", ""))
def test_a_bug_made_on_purpose_is_found(bug: Callable[[], Made], shown_by: int) -> None:
    """What these lives cannot find, they do not prove."""
    with made(bug()):
        found = any(lived(seed).rule for seed in (shown_by, *SEEDS))
    assert found, f"{bug.__doc__} Nobody noticed."
