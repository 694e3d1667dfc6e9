"""Rows that are read by a cursor, through kills, pauses, two daemons and ledgers that are set back."""

from collections.abc import Callable
from typing import Any

import pytest

from aggregator.core import deltas
from aggregator.ledger.passes.spool import Spool
from tests.simulation.by_cursor import drawn_by_cursor
from tests.simulation.conditions import drawn
from tests.simulation.life import Life, Lived, outcome
from tests.simulation.memory_totals import MemoryRunningTotals
from tests.simulation.mutation import Made, made

SEEDS = range(1, 31)

real_add = MemoryRunningTotals.add


def lived(seed: int) -> Lived:
    """Live the life of a seed with a cursor."""
    return outcome(Life(seed, conditions=drawn_by_cursor(seed, drawn)))


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
    recounts_without_reading_again,
    barrier_ignored,
    cursor_moved_without_sums,
    sums_added_without_cursor,
    anybody_adds,
)


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.__name__)
def test_a_bug_made_on_purpose_is_found(bug: Callable[[], Made]) -> None:
    """What these lives cannot find, they do not prove."""
    with made(bug()):
        assert any(lived(seed).rule for seed in SEEDS), f"{bug.__doc__} Nobody noticed."
