"""What is put off to a later moment of the sandbox's clock, such as a request that takes long to arrive.

Nothing runs in the background: whoever calls the sandbox first has everything done that is due by then, in order and each at
its own moment. So a jump of the clock has the same effect as waiting. A sandbox that ends forgets what was put off, as a
network forgets what was on its way.
"""

from collections.abc import Callable, Iterator
from heapq import heappop, heappush
from itertools import count
from typing import NamedTuple


class Due(NamedTuple):
    """Something to do, and when; of equal moments what was put off first comes first."""

    at: float
    order: int
    action: Callable[[], None]


class Later:
    """What waits, the earliest first."""

    def __init__(self) -> None:
        self._waiting: list[Due] = []
        self._order = count()

    def __len__(self) -> int:
        return len(self._waiting)

    def put_off(self, at: float, action: Callable[[], None]) -> None:
        """Have something done at a moment in unix seconds."""
        heappush(self._waiting, Due(at, next(self._order), action))

    def take(self, now: float) -> Iterator[Due]:
        """Take out what is due by now, the earliest first."""
        while self._waiting and self._waiting[0].at <= now:
            yield heappop(self._waiting)
