"""When Python's collector of cycles searches for garbage: not while a process starts, and seldom afterwards.

Most of a start is to import modules, some hundred thousand objects, which it would walk through again and again: a sixth of
the processor time of a start. What is made by then stays until the process ends, so it is set apart from what is walked
through (docs.python.org/3/library/gc.html#gc.freeze).

Nearly all that is made later is gone as soon as nobody uses it, without that collector. A pass holds batches of
thousands of decisions, a claim thousands of events; by default it walks through them whenever 700 objects more were made
than went.
"""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SELDOM = 50_000
"""So many objects more than went: some megabytes, if all of them were cycles."""


@contextmanager
def seldom_collected() -> Iterator[None]:
    """Search for garbage seldom, until the end of the block. For a process as a whole: blocks lie within each other."""
    first, *others = gc.get_threshold()
    gc.set_threshold(SELDOM, *others)
    try:
        yield
    finally:
        gc.set_threshold(first, *others)


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
