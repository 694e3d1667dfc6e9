"""The one place where the clock is read. Everywhere else time is an argument."""

import datetime as dt
import time
from collections.abc import Callable

Clock = Callable[[], dt.datetime]


def utcnow() -> dt.datetime:
    """Return the present instant, aware, in UTC."""
    return dt.datetime.now(dt.UTC)  # noqa: TID251 - this is the one place


def wall_nanoseconds() -> int:
    """Return this host's wall clock in nanoseconds since 1970, for what is to stand beside other hosts' records."""
    return time.time_ns()


def monotonic() -> float:
    """Return seconds on a clock that is not set back, for measuring how long something took."""
    return time.monotonic()


def boottime() -> float:
    """Return seconds on a clock that goes on while the machine sleeps, for deadlines that others count on.

    Linux's monotonic clock stands still while the machine is suspended (clock_gettime(2)); elsewhere it is all there is.
    """
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()
