"""How often a sink may be asked: reads a second, by the pace of its connection, and reads a day, counted in the ledger.

Rules
- Every figure that is asked of a sink counts, whoever asks. What must be known to send at all, or to settle an event in
  doubt, is never refused for it; who merely compares looks first whether anything is left.
- The day's count is kept for all processes together. A process takes a few reads at once from it, so that the ledger is not
  asked for each.
"""

import threading
from collections.abc import Callable

BLOCK = 20
"""How many reads a process takes at once from the day's: a count that is too high by that costs little."""


class ReadAllowance:
    """The allowance of one sink. `book` adds reads to the day's count, and returns what that comes to."""

    def __init__(self, per_second: float, per_day: int | None, book: Callable[[int], int]) -> None:
        self.per_second = per_second
        self.per_day = per_day
        self._book = book
        self._lock = threading.Lock()
        self._ahead = 0
        self._used = 0
        self.reads = 0
        """How many this process has made."""

    def take(self, reads: int = 1) -> None:
        """Count reads that are about to be made. Raises LedgerError if the ledger cannot be asked when it has to."""
        with self._lock:
            self.reads += reads
            self._ahead -= reads
            if self._ahead < 0:
                self._take_block(reads)

    @property
    def left(self) -> bool:
        """Whether anything is left of the day's, as far as this process knows; all the others' reads are among it."""
        if self.per_day is None:
            return True
        with self._lock:
            if self._ahead <= 0:
                self._take_block(0)
            return self._used <= self.per_day

    def _take_block(self, reads: int) -> None:
        block = max(BLOCK, reads)
        self._used = self._book(block)
        self._ahead = max(0, self._ahead) + block - reads
