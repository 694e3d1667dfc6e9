"""A sink that refuses us as a whole: one thread asks it from time to time, the others wait, until it comes back.

Rules
- What it is asked books nothing. Only when it lets us in, to the same account as before, is anything sent again.
- The pauses between two questions double, up to a bound, until it has taken something.
- Both ends are said once. It is back once it took something, or once it lets us in and nothing waits for it.
- What it answered before it came back is no news afterwards.
"""

import threading
from collections.abc import Callable

from aggregator.errors import AggregatorError, SinkHalted

FIRST_PAUSE_SECONDS = 5.0
"""A key that is being rolled, or an incident at the sink, is often over after a few seconds."""

LONGEST_PAUSE_SECONDS = 300.0
"""A sink that was away for a day is noticed within five minutes of its return."""


class Halt:
    """One sink's. `ask` raises SinkHalted as long as the sink refuses us; `waits` tells whether anything is to be sent.

    `begins` reports that it is halted, and why; `over` that it is back.
    """

    def __init__(
        self,
        begins: Callable[[str], object],
        over: Callable[[], object],
        ask: Callable[[], None],
        waits: Callable[[], bool],
        stopping: threading.Event,
    ) -> None:
        self._begins = begins
        self._over = over
        self._ask = ask
        self._waits = waits
        self._stopping = stopping
        self._changed = threading.Condition()
        self._asking = False
        self.returns = 0
        """How often it has let us in again."""
        self._said: str | None = None
        self._pause = FIRST_PAUSE_SECONDS

    def wait_out(self, reason: str, returns: int) -> None:
        """Come back once the sink may be sent to again, or the daemon stops.

        `returns` is how often it had let us in again before it was asked what it answered with `reason`.
        """
        with self._changed:
            if returns < self.returns:
                return
            if self._asking:
                self._changed.wait_for(lambda: not self._asking or self._stopping.is_set())
                return
            self._asking = True
        try:
            self._say(reason)
            self._keep_asking()
        finally:
            with self._changed:
                self._asking = False
                self._changed.notify_all()

    def took(self) -> None:
        """Note that the sink has taken something."""
        self._pause = FIRST_PAUSE_SECONDS
        if self._said is not None:
            with self._changed:
                said, self._said = self._said, None
            if said is not None:
                self._over()

    def wake(self) -> None:
        """Let those who wait see that the daemon stops."""
        with self._changed:
            self._changed.notify_all()

    def _keep_asking(self) -> None:
        while not self._stopping.wait(self._pause):
            self._pause = min(2 * self._pause, LONGEST_PAUSE_SECONDS)
            try:
                self._ask()
                idle = not self._waits()
            except SinkHalted as halted:
                self._say(str(halted))
            except AggregatorError:
                continue  # nobody can tell just now
            else:
                self.returns += 1
                if idle:
                    self.took()
                return

    def _say(self, reason: str) -> None:
        with self._changed:
            said, self._said = self._said, reason
        if said != reason:
            self._begins(reason)
