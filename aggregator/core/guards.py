"""Guards against too much: which increase waits for a person, and why. Pure.

Rules
- What counts is what a customer used in a window, whatever was billed of it before, and whatever carry comes to it. Where
  usage is kept apart by dimensions, it is that of all combinations together, and so is what was usual: a thousand
  combinations hide nothing. Beyond a limit, every increase of that customer in that window is held. Once a combination
  comes to less and the customer is within the limits, what waits of the others is released by itself.
- Usual is the most in one window of the same hour (or, of longer windows, in the same window) of the four weeks before.
  What a guard holds was never usual. With usage in fewer than two of those weeks a customer has no
  history, and is never unusual: neither is anybody new, nor a meter that began lately. Weeks are counted in UTC.
- Up to `unusual_from` units nothing is unusual.
- What the sink holds already was released once, by the guards as they were then or by a person. A window that stands beyond
  the limit is held again only when it grows by more than the limit once more: no late row is asked about again.
- A window is swollen if all of it comes to unusually much; what a guard holds of single customers does not count. Every
  increase in it is held, and released by itself once the window is not swollen any more.
- Who is unusual by himself is said to be so, in a swollen window too.
"""

import datetime as dt
from collections.abc import Mapping
from decimal import Decimal

from aggregator.core.model import Change, Guard, Guards, Swollen, Together

WEEK = dt.timedelta(days=7)
WEEKS = 4
"""How many weeks are looked back: a month has days of all kinds, and what is older says little of now."""

LEAST_WEEKS = 2
"""In how many of them there must have been usage: what was once may have been an accident."""

STRETCH = dt.timedelta(hours=1)
"""What is compared with the same of past weeks; a longer window is compared as a whole. Who makes a call an hour makes it in
another minute each time."""


def beyond(now: Decimal, limit: Decimal, passed: Decimal) -> bool:
    """Tell whether a quantity is too much, of which `passed` was released before."""
    return now > limit and (passed <= limit or now - passed > limit)


def limit_of(times: Decimal, usual: Decimal, guards: Guards) -> Decimal:
    """Return up to where a quantity is not unusual."""
    return max(times * usual, guards.unusual_from)


def tripped_by(
    change: Change, booked: Decimal, guards: Guards, swollen: Mapping[dt.datetime, Swollen]
) -> Guard | None:
    """Return the guard that holds an increase of a slot that stands at `booked` so far; None if it may go."""
    used = change.together or Together(change.now, change.total if change.passed else booked)
    guard = of_customer(used, change.usual, guards)
    return Guard.TOTAL if guard is None and change.window_start in swollen else guard


def of_customer(used: Together, usual: Decimal | None, guards: Guards) -> Guard | None:
    """Return the guard that holds the increases of a customer in a window; None if no guard of single customers does."""
    most, times = guards.max_per_customer_window, guards.max_change
    if most is not None and beyond(used.now, most, used.passed):
        return Guard.CUSTOMER
    if (
        times is not None
        and usual is not None
        and beyond(used.now, limit_of(times, usual, guards), used.passed)
    ):
        return Guard.CHANGE
    return None


def is_swollen(now: Decimal, passed: Decimal, usual: Decimal, guards: Guards) -> bool:
    """Tell whether a window comes to unusually much in all."""
    assert guards.max_total_change is not None, "nobody asks about totals that are not limited"
    return beyond(now, limit_of(guards.max_total_change, usual, guards), passed)


def reason(guard: Guard, change: Change, guards: Guards, swollen: Mapping[dt.datetime, Swollen]) -> str:
    """Say why an increase is held, with the figures."""
    used = change.together.now if change.together else change.now
    units = f"{used:f} units{' of all combinations' if change.dimensions else ''}"
    if guard is Guard.CUSTOMER:
        return f"{units} in one window, above `max_per_customer_window: {guards.max_per_customer_window:f}`"
    if guard is Guard.CHANGE:
        assert change.usual is not None, "who has no history is not unusual"
        return (
            f"{units} in one window, and {change.usual:f} at most at this hour of the past {WEEKS} weeks: "
            f"above `max_change: {guards.max_change:f}x`"
        )
    window = swollen[change.window_start]
    return (
        f"its window comes to {window.now:f} units in all, and to {window.usual:f} at most at this hour of the past {WEEKS} "
        f"weeks: above `max_total_change: {guards.max_total_change:f}x`"
    )
