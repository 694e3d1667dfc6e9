"""The hosts that simulated processes run on: each has a clock of its own, and a disk that no restore of a ledger reaches.

Rules
- The ledger's clock is simulated time itself. A host's clock differs from it by a little, and now and then by hours, ahead
  or behind, until somebody sets it right.
- A host's clock jumps between two calls of its processes as well as while they stand still: nobody is told.
"""

import datetime as dt
import random
from collections.abc import Sequence

from tests.simulation.conditions import HOUR, MINUTE, SECOND, Conditions
from tests.simulation.marks import Marks
from tests.simulation.memory_identity import Disk
from tests.simulation.scheduler import Scheduler
from tests.simulation.trace import Trace

SKEW = MINUTE
"""How far a host's clock may be from the ledger's, as in `wiring`."""

ZERO = dt.timedelta(0)
JUMPS = (-30 * HOUR, -6 * HOUR, -2 * MINUTE, 2 * MINUTE, 5 * HOUR, 21 * HOUR, 30 * HOUR)


class Host:
    """One of them. `ahead` is by how much its clock is ahead of the ledger's."""

    def __init__(self, name: str, ahead: dt.timedelta) -> None:
        self.name = name
        self.ahead = ahead
        self.disk = Disk()
        self.dead = False

    @property
    def is_right(self) -> bool:
        """Whether its clock is as near to the ledger's as it must be."""
        return abs(self.ahead) <= SKEW


class Hosts:
    """The hosts of one life, and what happens to their clocks. Dice of their own leave everything else as it was."""

    def __init__(
        self, scheduler: Scheduler, conditions: Conditions, random: random.Random, marks: Marks, trace: Trace
    ) -> None:
        self._scheduler = scheduler
        self._random = random
        self._marks = marks
        self._trace = trace
        self.all: Sequence[Host] = [
            Host(f"host {number + 1}", SKEW * random.uniform(-0.9, 0.9) if conditions.clock_jumps else ZERO)
            for number in range(conditions.hosts)
        ]

    def of(self, name: str) -> Host:
        """Return the host of a process: each daemon has always the same."""
        number = int(name.rpartition(" ")[2]) if name[-1].isdigit() else 1
        return self.all[(number - 1) % len(self.all)]

    def kill(self, host: Host, back_after: dt.timedelta) -> None:
        """Let a host die; what comes back in its place has its disk, or a new one."""
        self._trace.tell(host.name, "dies")
        self._marks.saw("a host dies with the ledger's primary")
        host.dead = True
        if self._random.random() < 0.5:
            host.disk = Disk()

        def comes_back() -> None:
            host.dead = False

        self._scheduler.after(back_after, comes_back)

    def plan(self, start: dt.datetime, end: dt.datetime, jumps: int) -> None:
        """Draw when clocks jump, and for how long they are wrong."""
        for _ in range(jumps):
            host, by = self._random.choice(self.all), self._random.choice(JUMPS)
            begins = start + (end - start) * self._random.random()
            length = self._random.choice([10 * MINUTE, 3 * HOUR, 30 * HOUR])
            self._scheduler.at(begins, lambda host=host, by=by: self._set(host, host.ahead + by))  # type: ignore[misc]
            self._scheduler.at(min(begins + length, end), lambda host=host: self._correct(host))  # type: ignore[misc]

    def _set(self, host: Host, ahead: dt.timedelta) -> None:
        self._marks.saw("a host's clock jumps")
        self._trace.tell("the clock of", host.name, "is ahead by", ahead)
        host.ahead = ahead

    def _correct(self, host: Host) -> None:
        self._trace.tell("the clock of", host.name, "is set right")
        host.ahead = SECOND * self._random.uniform(-30, 30)
