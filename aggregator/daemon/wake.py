"""What wakes those who wait for something to send. A call is heard also by who was at work when it came.

Who works reads how many calls there were before it looks for work, and waits for one beyond those once it has found none. A
call in between, as when the daemon stops or a meter has planned an event, ends that wait at once.
"""

import threading


class Wake:
    """Calls whoever waits, or is about to wait. Any number of threads may wait, and any may call."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._calls = 0

    @property
    def calls(self) -> int:
        """How many calls there were so far."""
        return self._calls

    def call(self) -> None:
        """Wake whoever waits."""
        with self._condition:
            self._calls += 1
            self._condition.notify_all()

    def wait(self, calls: int, seconds: float) -> bool:
        """Wait for a call beyond so many, for so many seconds at most; tell whether there was one."""
        with self._condition:
            return self._condition.wait_for(lambda: self._calls > calls, seconds)
