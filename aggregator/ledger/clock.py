"""The ledger's clock: what everything is stamped with and compared by that a sink's memory or limits are counted from.

Rules
- Every transaction hears it, together with its settings. Between two of them it goes on with a clock of this host that
  nobody sets, and that goes on while the machine sleeps.
- This host's wall clock is a second witness, and nothing is ever stamped with it. While the two are further apart than the
  skew that is allowed, one of them is wrong and nobody can tell which: nothing is read, claimed or sent here. What is in the
  air meanwhile is settled all the same.
"""

import datetime as dt
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from aggregator.errors import ClocksApart
from aggregator.runtime.clock import Clock, boottime, utcnow

ZERO = dt.timedelta(0)


class _LedgerTime(NamedTuple):
    """What a server's clock showed between two moments of a clock that nobody sets."""

    at: dt.datetime
    before: float
    after: float


class LedgerClock:
    """The clock of a ledger's server, as one process knows it.

    `host` is this host's wall clock, `elapsed` one that nobody sets.
    """

    def __init__(
        self, skew: dt.timedelta, host: Clock = utcnow, elapsed: Callable[[], float] = boottime
    ) -> None:
        self._skew = skew
        self._host = host
        self._elapsed = elapsed
        self._latest: _LedgerTime | None = None
        self._lock = threading.Lock()

    @contextmanager
    def hearing(self) -> Iterator[Callable[[dt.datetime], None]]:
        """Ask the server for its clock inside the block, and say what it showed by the function that is given."""
        before = self._elapsed()

        def latest(at: dt.datetime) -> None:
            found = _LedgerTime(at, before, self._elapsed())
            with self._lock:
                if self._latest is None or self._latest.before <= before:
                    self._latest = found

        yield latest

    def __call__(self) -> dt.datetime:
        """Return the ledger's present instant, as it was last heard and has gone on since."""
        latest = self._latest
        assert latest is not None, "a ledger's clock is heard when it is opened"
        return latest.at + dt.timedelta(seconds=self._elapsed() - latest.after)

    def ahead(self) -> dt.timedelta:
        """Return how far this host's clock is ahead of the ledger's; negative if it is behind, zero if nobody can tell.

        What the answer took on its way is no difference of clocks.
        """
        latest = self._latest
        assert latest is not None, "a ledger's clock is heard when it is opened"
        on_its_way = dt.timedelta(seconds=latest.after - latest.before)
        apart = self._host() - self()
        return apart if apart < ZERO else max(ZERO, apart - on_its_way)

    def apart(self) -> str | None:
        """Say by how much the two clocks differ, and what to do; None if they agree."""
        ahead = self.ahead()
        if abs(ahead) <= self._skew:
            return None
        which = "ahead of" if ahead > ZERO else "behind"
        return (
            f"This host's clock is {abs(ahead).total_seconds():.0f} s {which} the ledger's, which shows "
            f"{self():%Y-%m-%d %H:%M:%S}Z. Nothing is read or sent from here until they agree: set the wrong one right "
            "(NTP)."
        )

    def check(self) -> None:
        """Raise ClocksApart if the two clocks differ by too much."""
        reason = self.apart()
        if reason is not None:
            raise ClocksApart(reason)
