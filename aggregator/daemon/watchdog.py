"""What a daemon watches besides its work: this host's clock, and a ledger that does not answer in time.

Rules
- Each trouble is said once when it begins, and once when it is over. Nothing here decides about money.
- The alarm clock of the daemon goes by this host's wall clock. When that is set, every alarm is set anew, and rings at once:
  what is due is computed by the ledger's clock in any case.
- Whether the wall clock was set is told by one that nobody sets and that goes on while the machine sleeps. Neither a process
  that was stopped nor a laptop that slept is a clock that was set.
"""

import datetime as dt
import threading
from collections.abc import Callable
from typing import NamedTuple

from aggregator.errors import AggregatorError
from aggregator.ledger.database import Database
from aggregator.ledger.outbox.outbox import Outbox
from aggregator.runtime import log
from aggregator.runtime.clock import Clock, boottime

LOOK_SECONDS = 1.0
"""How often is looked: a clock that is set back stops everything until somebody notices."""

JUMP = dt.timedelta(seconds=5)
"""A clock that is corrected by less than that delays nothing that anybody would notice. Smaller corrections are common: NTP
steps a clock from an eighth of a second on (ntp.org/documentation/4.2.8-series/ntpd)."""

AT_ONE_MOMENT_SECONDS = 0.5
"""Two clocks that were read further apart than that say nothing about each other: the process stood still in between."""

SET_BACK_EVERY = 60
"""Looks between two questions to the ledger whether its own clock was set back."""


class Moment(NamedTuple):
    """What two clocks showed at one moment: the wall clock, and one that nobody sets."""

    wall: dt.datetime
    elapsed: float


def jumped(before: Moment, now: Moment) -> dt.timedelta:
    """Return by how much the wall clock was set forward between two moments; negative if it was set back."""
    return now.wall - before.wall - dt.timedelta(seconds=now.elapsed - before.elapsed)


class ClockWatch:
    """Tells when this host's wall clock was set."""

    def __init__(self, wall: Clock, elapsed: Callable[[], float] = boottime) -> None:
        self._wall = wall
        self._elapsed = elapsed
        self._before = self._moment()

    def jumped(self) -> dt.timedelta | None:
        """Return by how much the clock was set since the last look; None if it was not, or nobody can tell."""
        before, now = self._before, self._moment()
        if now is None:
            return None
        self._before = now
        by = jumped(before, now) if before is not None else dt.timedelta(0)
        return by if abs(by) > JUMP else None

    def _moment(self) -> Moment | None:
        """Read both clocks; None if the process stood still in between."""
        began = self._elapsed()
        wall = self._wall()
        ended = self._elapsed()
        return Moment(wall, ended) if ended - began <= AT_ONE_MOMENT_SECONDS else None


class Trouble:
    """Something that is said when it begins, and when it is over."""

    def __init__(self, begins: Callable[[str], object], over: Callable[[], object]) -> None:
        self._begins = begins
        self._over = over
        self._standing = False

    def stands(self, reason: str | None) -> None:
        """Take what there is to say now, None if there is nothing."""
        if reason is not None and not self._standing:
            self._begins(reason)
        elif reason is None and self._standing:
            self._over()
        self._standing = reason is not None


class Watching:
    """The watch over one App at work, on two threads: the ledger may keep one of them waiting.

    `wall` is this host's clock, by which alarms are set; `wake` lets all of them ring, and sets them anew.
    """

    def __init__(self, database: Database, outbox: Outbox, wake: Callable[[], object], wall: Clock) -> None:
        self._database = database
        self._outbox = outbox
        self._wake = wake
        self._clock = ClockWatch(wall)
        self._log = log.logger()
        self._stopping = threading.Event()
        self._slow = Trouble(
            lambda reason: self._log.error(log.LEDGER_SLOW, reason=reason),
            lambda: self._log.info(log.LEDGER_IN_TIME),
        )
        self._apart = Trouble(lambda reason: self._log.error(log.CLOCKS_APART, reason=reason), self._agree)
        self._looks = 0
        self._threads = [
            threading.Thread(target=self._repeat, args=(look,), name=name, daemon=True)
            for name, look in (("clock-watch", self.look_at_clock), ("ledger-watch", self.look_at_ledger))
        ]

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Look no more. What a look waits for is not waited for."""
        self._stopping.set()

    def look_at_clock(self) -> None:
        """See whether this host's clock was set; if so, say by how much, and set all alarms anew."""
        by = self._clock.jumped()
        if by is not None:
            self._log.warning(log.CLOCK_JUMPED, seconds=round(by.total_seconds(), 3))
            self._wake()

    def look_at_ledger(self) -> None:
        """See whether the ledger answers in time, and whether its clock is this host's, and goes forward."""
        self._database.look_for_waits()
        self._slow.stands(self._database.slow())
        self._apart.stands(self._database.clocks_apart())
        if self._looks % SET_BACK_EVERY == 0:
            report_set_back(self._log, self._outbox, self._database.instant())
        self._looks += 1

    def _agree(self) -> None:
        self._log.info(log.CLOCKS_AGREE)
        self._wake()

    def _repeat(self, look: Callable[[], None]) -> None:
        while not self._stopping.is_set():
            try:
                look()
            except AggregatorError:
                pass  # that the ledger does not answer is said by whoever works with it
            except Exception:  # noqa: BLE001 - the outermost loop of this thread: the watch goes on
                self._log.exception(log.UNEXPECTED, part="watch")
            self._stopping.wait(LOOK_SECONDS)


def report_set_back(logger: log.Log, outbox: Outbox, now: dt.datetime) -> None:
    """Say that the ledger's own clock was set back, if it was; what follows is done by then."""
    reason = outbox.clock_set_back(now)
    if reason is not None:
        logger.error(log.LEDGER_CLOCK_SET_BACK, reason=reason)
