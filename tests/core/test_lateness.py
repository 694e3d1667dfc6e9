"""Lateness: how it is counted, and what it suggests."""

import datetime as dt
from decimal import Decimal

import pytest

from aggregator.core.lateness import (
    STEPS,
    Late,
    in_time,
    step_of,
    suggest,
)

MINUTE = dt.timedelta(minutes=1)


def late(slots: int, quantity: int) -> Late:
    """Return one step."""
    return Late(slots, Decimal(quantity))


@pytest.mark.parametrize(
    ("minutes", "step"), [(0, 60), (1, 60), (1.1, 300), (60, 3_600), (99_999, STEPS[-1])]
)
def test_a_step_holds_all_up_to_its_length(minutes: float, step: int) -> None:
    """The last one holds the rest."""
    assert step_of(minutes * MINUTE) == step


def test_the_shortest_settle_that_is_enough_is_suggested() -> None:
    """One thousandth may come later; nothing is suggested where the present setting does."""
    histogram = {0: late(9, 9_000), 300: late(1, 900), 3_600: late(1, 95), 86_400: late(1, 5)}
    assert suggest(histogram, MINUTE) == dt.timedelta(hours=1)
    assert suggest(histogram, dt.timedelta(hours=1)) is None
    assert suggest({0: late(1, 1_000), 300: late(1, 1)}, MINUTE) is None
    assert in_time(histogram) == Decimal("0.9")


def test_nothing_read_suggests_nothing() -> None:
    """Nor does usage that sums to nothing."""
    assert suggest({}, MINUTE) is None
    assert suggest({0: late(1, 0)}, MINUTE) is None
    assert in_time({}) is None
