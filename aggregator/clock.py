"""The one place where the clock is read. Everywhere else time is an argument."""

import datetime as dt
import time
from collections.abc import Callable

Clock = Callable[[], dt.datetime]


def utcnow() -> dt.datetime:
    """Return the present instant, aware, in UTC."""
    return dt.datetime.now(dt.UTC)  # noqa: TID251 - this is the one place


def monotonic() -> float:
    """Return seconds on a clock that is not set back, for measuring how long something took."""
    return time.monotonic()
