"""The sandbox's clock: the machine's, plus an offset that a test may set.

Every rule that speaks of hours (identifier memory, the 35 days, processing delay) asks this clock, so that a test
can jump a day in no time. Nothing else in the sandbox reads the time.
"""

import time


class Clock:
    """Unix seconds, shifted by an offset."""

    def __init__(self, offset_seconds: float = 0.0) -> None:
        self.offset_seconds = offset_seconds

    def now(self) -> float:
        """Return unix seconds as the sandbox sees them."""
        return time.time() + self.offset_seconds  # noqa: TID251 - the sandbox's one place that reads the clock


class StoppedClock(Clock):
    """A clock that stands still: what was put off is done at the moment it was put off to."""

    def __init__(self, at: float) -> None:
        super().__init__()
        self._at = at

    def now(self) -> float:
        """Return the moment at which it stands."""
        return self._at


def machine_time() -> int:
    """Return the machine's whole unix seconds, for a signature that somebody with a clock of his own checks."""
    return int(time.time())  # noqa: TID251 - the sandbox's one place that reads the clock


def monotonic() -> float:
    """Return seconds for measuring a pace; no offset moves them."""
    return time.monotonic()
