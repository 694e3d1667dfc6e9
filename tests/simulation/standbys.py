"""Standbys that answer for the application database by turns: each has what the primary had committed a while ago.

Rules
- A standby replays commits in their order. It is seconds behind, and now and then stands still for minutes or hours.
- Whoever connects gets any of them: the next connection may show less than the one before.
- A standby mostly proves up to when it has surely seen everything; sometimes it cannot.
"""

import datetime as dt
import random

from aggregator.core.model import Fence, Span
from tests.simulation.application import Application, Table
from tests.simulation.conditions import HOUR, MINUTE, SECOND, Conditions
from tests.simulation.marks import Marks
from tests.simulation.scheduler import Scheduler


class Standby:
    """One of them."""

    def __init__(
        self,
        scheduler: Scheduler,
        application: Application,
        behind: dt.timedelta,
        stalls: list[Span],
        proves: float,
    ) -> None:
        self.tables = {name: Table(table.window) for name, table in application.tables.items()}
        self.until = scheduler.now
        """Up to when it has replayed what the primary committed."""
        self.stalls = stalls
        self._scheduler = scheduler
        self._application = application
        self._behind = behind
        self.proves = proves
        self._done = self._fences = 0

    def catch_up(self) -> None:
        """Replay what is due by now."""
        application, now = self._application, self._scheduler.now
        stall = next((stall for stall in self.stalls if now in stall), None)
        self.until = max(self.until, (stall.start if stall else now) - self._behind)
        while self._done < len(application.log) and application.log[self._done].at <= self.until:
            _, meter, row = application.log[self._done]
            self._done += 1
            if isinstance(row, int):
                self.tables[meter].drop(row)
            else:
                self.tables[meter].put(row)

    def fence(self, dice: float) -> Fence:
        """Say what was open on the primary by then, as far as a standby can."""
        fences = self._application.fences
        while self._fences + 1 < len(fences) and fences[self._fences + 1].at <= self.until:
            self._fences += 1
        then = fences[self._fences]
        proof = self.until if dice < self.proves else None
        return then._replace(
            at=self._scheduler.now, oldest_start=None, sees_starts=False, standby=True, fresh_until=proof
        )


class Standbys:
    """The standbys of one life, behind one address; none, if the primary answers itself."""

    def __init__(
        self,
        scheduler: Scheduler,
        conditions: Conditions,
        application: Application,
        random: random.Random,
        marks: Marks,
        end: dt.datetime,
    ) -> None:
        self._random = random
        self._marks = marks
        proves = random.choice([1.0, 1.0, 0.8])
        self.all = [
            Standby(
                scheduler,
                application,
                SECOND * random.randint(0, 300),
                self._stalls(scheduler.now, end),
                proves,
            )
            for _ in range(conditions.standbys)
        ]
        if self.all:
            application.replicate()

    def _stalls(self, start: dt.datetime, end: dt.datetime) -> list[Span]:
        found = []
        for _ in range(self._random.choice([0, 1, 3, 6])):
            begins = start + (end - start) * self._random.random()
            found.append(Span(begins, begins + self._random.choice([10 * MINUTE, 3 * HOUR, 20 * HOUR])))
        return found

    def rest(self) -> None:
        """Let all of them go on, and prove it."""
        for each in self.all:
            each.stalls.clear()
            each.proves = 1.0

    def any(self) -> Standby | None:
        """Return the one that a new connection leads to."""
        if not self.all:
            return None
        chosen = self._random.choice(self.all)
        chosen.catch_up()
        self._marks["a standby is read that shows less than another"] += any(
            each.until > chosen.until for each in self.all
        )
        return chosen

    def fence(self, standby: Standby) -> Fence:
        """Say what a standby says of itself."""
        return standby.fence(self._random.random())
