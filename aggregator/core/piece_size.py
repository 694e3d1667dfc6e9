"""How many windows a query is asked for at once: as many as it has time for, by how long the last ones took. Pure.

Rules
- What took too long is tried with half of it; what went well, with twice as much, if twice the time is still allowed.
- A reading that was short because nothing more was left tells how fast it goes, and lets nothing grow.
- It is a guess, and costs a repeated reading at most. So it lives as long as its process, and no longer.
"""

import datetime as dt
from collections.abc import Iterator

from aggregator.core.windows import WINDOWS_PER_READ

PIECES_OF_A_WINDOW = 4
"""A window that takes too long is asked for in so many pieces, each of those in so many again, down to `split`."""

SHARE = 0.8
"""How much of the time allowed a piece may be expected to take: the next one may have more rows."""


def grown(most: int, windows: int, seconds: float, allowed: dt.timedelta | None) -> int:
    """Return how many windows to ask for, after so many of `most` took so long; without `allowed`, whatever it took."""
    fits = WINDOWS_PER_READ
    if allowed is not None and seconds > 0:
        fits = int(windows * SHARE * allowed.total_seconds() / seconds)
    if windows < most:
        return most if fits >= windows else windows
    return max(1, min(2 * most, fits, WINDOWS_PER_READ))


def shrunk(windows: int) -> int:
    """Return how many windows to ask for, after so many took too long."""
    return max(1, windows // 2)


class PieceSizes:
    """The sizes of one meter's pieces, by the definition that they are read by. `allowed` is what one query may take."""

    def __init__(self, allowed: dt.timedelta | None) -> None:
        self._allowed = allowed
        self._most: dict[str, int] = {}

    def begin(self, fingerprint: str, windows: int) -> None:
        """Begin with so many, as long as nothing is known; otherwise it is tried with the most there may be."""
        self._most.setdefault(fingerprint, windows)

    def most(self, fingerprint: str) -> int:
        """Return how many windows to ask for."""
        return self._most.get(fingerprint, WINDOWS_PER_READ)

    def went_well(self, fingerprint: str, windows: int, seconds: float) -> None:
        """Take a reading into account."""
        self._most[fingerprint] = grown(self.most(fingerprint), windows, seconds, self._allowed)

    def took_too_long(self, fingerprint: str, windows: int) -> None:
        """Take a reading into account that was stopped."""
        self._most[fingerprint] = shrunk(windows)


def steps(window: dt.timedelta, shortest: dt.timedelta | None) -> Iterator[dt.timedelta]:
    """Yield how long the pieces of a window may be, ever shorter; none if it must be read as a whole."""
    if shortest is None or shortest >= window:
        return
    step = window / PIECES_OF_A_WINDOW
    while step > shortest:
        yield step
        step /= PIECES_OF_A_WINDOW
    yield shortest
