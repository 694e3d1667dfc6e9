"""How late usage arrives, as a histogram, and which `delay` would have waited for it. Pure.

What was found late by a reading that came late counts as that late, so every step is an upper bound.
"""

import datetime as dt
from collections.abc import Mapping
from decimal import Decimal
from typing import NamedTuple

STEPS = tuple(
    int(dt.timedelta(minutes=minutes).total_seconds())
    for minutes in (1, 5, 15, 30, 60, 120, 360, 720, 1_440, 2_880, 10_080, 50_400)
)
"""From a minute to 35 days, in seconds. In time is 0."""

ENOUGH = Decimal("0.999")
"""The share of all usage that should be there when a window is first read; the rest is cheap to correct."""


class Late(NamedTuple):
    """How much was found within one step: slots, and their quantity."""

    slots: int
    quantity: Decimal


def step_of(late: dt.timedelta) -> int:
    """Return the shortest step that holds this lateness, in seconds."""
    seconds = late.total_seconds()
    return next((step for step in STEPS if seconds <= step), STEPS[-1])


def in_time(histogram: Mapping[int, Late]) -> Decimal | None:
    """Return the share of all usage that was there when its window was first read; None if there was none."""
    whole = sum((late.quantity for late in histogram.values()), Decimal(0))
    return histogram.get(0, Late(0, Decimal(0))).quantity / whole if whole > 0 else None


def suggest(histogram: Mapping[int, Late], delay: dt.timedelta) -> dt.timedelta | None:
    """Return the shortest `delay` that would have waited for nearly all of it; None if the present one does."""
    whole = sum((late.quantity for late in histogram.values()), Decimal(0))
    covered = Decimal(0)
    for step in sorted(histogram):
        covered += histogram[step].quantity
        if whole <= 0 or covered >= ENOUGH * whole:
            longer = dt.timedelta(seconds=step)
            return longer if step and longer > delay else None
    return None
