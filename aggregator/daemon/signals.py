"""What a process is told by signals while it runs: to reload, or to end. Whoever listens takes them one by one."""

import queue
import signal
import types
from contextlib import suppress
from typing import Self

LISTEN_SECONDS = 0.5
"""How long a signal may go unheard that reached another thread than the main one."""

AWAITED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Signals:
    """Takes signals as notes in a queue, within `with`; afterwards, and for a second signal to end, the defaults hold."""

    def __init__(self) -> None:
        self._notes: queue.SimpleQueue[int] = queue.SimpleQueue()

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._note) for number in AWAITED}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame: types.FrameType | None) -> None:
        if number != signal.SIGHUP:
            signal.signal(number, signal.SIG_DFL)
        self._notes.put(number)

    def next(self) -> int:
        """Wait for the next signal.

        The system may give a signal to any thread, and only this one runs Python's handlers: one that sleeps for ever would
        never hear of it (docs.python.org/3/library/signal.html, "Signals and threads").
        """
        while True:
            with suppress(queue.Empty):
                return self._notes.get(timeout=LISTEN_SECONDS)
