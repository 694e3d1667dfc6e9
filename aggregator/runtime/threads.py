"""How the threads of this process take turns.

One thread talks to the ledger while another plans and formats. The interpreter runs one of them at a time, and lets a thread
that waits for it wait 5 ms (docs.python.org/3/library/sys.html#sys.setswitchinterval), while the database waits for the rest
of a COPY. A pass over a million customers is a fifth faster with turns of half a millisecond.
"""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

TURN_SECONDS = 0.0005

_lock = threading.Lock()
_before: list[float] = []
"""How long turns were before the first block began, once for each block that has not ended."""


@contextmanager
def short_turns() -> Iterator[None]:
    """Let waiting threads have the interpreter sooner, until the last of such blocks ends, in whatever order they do.

    A daemon that reloads builds its new parts before it closes the old ones.
    """
    with _lock:
        _before.append(_before[0] if _before else sys.getswitchinterval())
        sys.setswitchinterval(TURN_SECONDS)
    try:
        yield
    finally:
        with _lock:
            before = _before.pop()
            if not _before:
                sys.setswitchinterval(before)
