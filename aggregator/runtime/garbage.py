"""What is made while a process starts stays until it ends, so it is not searched for garbage.

Most of a start is to import modules, some hundred thousand objects, which Python's collector of cycles would walk through
again and again: a sixth of the processor time of a start. Afterwards they are set apart from what it walks through
(docs.python.org/3/library/gc.html#gc.freeze), so that it does not come back to them while events are sent.
"""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[Callable[[], None]]:
    """Collect nothing until the function that is given is called, once all has begun, or until the end of the block."""

    def begun() -> None:
        if not gc.isenabled():
            gc.freeze()
            gc.enable()

    gc.disable()
    try:
        yield begun
    finally:
        gc.enable()
