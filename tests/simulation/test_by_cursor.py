"""Rows that are read by a cursor, through kills, pauses, two daemons and ledgers that are set back."""

from collections.abc import Callable
from typing import Any

import pytest

from aggregator.core import deltas
from aggregator.ledger.passes.spool import Spool
from tests.simulation import by_cursor
from tests.simulation.by_cursor import drawn_by_cursor
from tests.simulation.conditions import drawn
from tests.simulation.life import Life, Lived, outcome
from tests.simulation.memory_totals import MemoryRunningTotals
from tests.simulation.mutation import Made, made

SEEDS = range(1, 31)

real_add = MemoryRunningTotals.add


def lived(seed: int, *, recounted: bool = True) -> Lived:
    """Live the life of a seed with a cursor; without recounts, and without rows that only those would find."""
    conditions = drawn_by_cursor(seed, drawn)
    if recounted:
        return outcome(Life(seed, conditions=conditions))
    conditions.astray = 0.0
    with made([(by_cursor, "RECOUNT", None)]):
        return outcome(Life(seed, conditions=conditions))


@pytest.mark.parametrize("seed", SEEDS)
def test_a_life_by_cursor_ends_with_everything_equal(seed: int) -> None:
    """Every row is billed once, whoever was killed, set back or late."""
    life = lived(seed)
    assert life.rule is None, f"{life.trace}\n\n{life.rule}: {life.facts}"
    assert life.marks["rows taken in by a cursor"], "nothing was read by a cursor"


def barrier_ignored() -> Made:
    """The cursor goes where rows end now, whoever is writing."""
    return [(deltas, "may_go", lambda *_: True)]


def cursor_moved_without_sums() -> Made:
    """The cursor moves in a transaction of its own, and now and then its process ends behind that."""

    def add(self: MemoryRunningTotals, lease: Any, spool: Spool, after: Any, upto: Any) -> Any:
        if spool.rows and upto % 7 == 0:
            with Spool() as nothing:
                return real_add(self, lease, nothing, after, upto)
        return real_add(self, lease, spool, after, upto)

    return [(MemoryRunningTotals, "add", add)]


def sums_added_without_cursor() -> Made:
    """The sums are added in a transaction of their own, and now and then its process ends behind that."""

    def add(self: MemoryRunningTotals, lease: Any, spool: Spool, after: Any, upto: Any) -> Any:
        cursors, meter = self._ledger.tables.cursors, lease.registered.id
        before = cursors[meter]
        done = real_add(self, lease, spool, after, upto)
        if spool.rows and upto % 7 == 0 and not before.rows % 2:
            cursors[meter] = before._replace(rows=before.rows + 1)
        return done

    return [(MemoryRunningTotals, "add", add)]


def anybody_adds() -> Made:
    """Neither the epoch is compared, nor where the cursor stood when the rows were read."""

    def held(self: MemoryRunningTotals, lease: Any, after: Any) -> Any:
        return self._ledger.tables.cursors[lease.registered.id]

    return [(MemoryRunningTotals, "_held", held)]


def recounts_without_reading_again() -> Made:
    """What a recount found is not read again: it is on record, and nobody is billed for it."""
    return [(MemoryRunningTotals, "_reread", lambda *_: None)]


BUGS = (
    (recounts_without_reading_again, True, 4),
    (barrier_ignored, False, 1),
    (cursor_moved_without_sums, False, 1),
    (sums_added_without_cursor, False, 1),
    (anybody_adds, False, 7),
)
"""What goes wrong; whether rows are recounted meanwhile, which would mend most of it; and a life that shows it."""


@pytest.mark.parametrize(
    ("bug", "recounted", "shown_by"), BUGS, ids=lambda each: getattr(each, "__name__", "")
)
def test_a_bug_made_on_purpose_is_found(bug: Callable[[], Made], shown_by: int, *, recounted: bool) -> None:
    """What these lives cannot find, they do not prove."""
    with made(bug()):
        found = any(lived(seed, recounted=recounted).rule for seed in (shown_by, *SEEDS))
    assert found, f"{bug.__doc__} Nobody noticed."


@pytest.mark.parametrize("seed", SEEDS[:5])
def test_without_recounts_every_row_is_billed_once_as_well(seed: int) -> None:
    """By the cursor alone, if ids follow an order."""
    life = lived(seed, recounted=False)
    assert life.rule is None, f"{life.trace}\n\n{life.rule}: {life.facts}"
