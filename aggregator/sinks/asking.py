"""Asks a sink about many customers beside each other, with only a few of them in memory."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby, islice
from operator import attrgetter
from typing import TypeVar

ASKED_AT_ONCE = 8
"""How many customers are asked for beside each other."""

CUSTOMERS_AT_ONCE = 256
"""How many customers are in memory at once."""

ROWS_AT_ONCE = 250_000
"""Of fewer customers if they have so much: a month of hours of three hundred combinations."""

Known = TypeVar("Known")
Said = TypeVar("Said")


def by_customer(
    known: Iterable[Known], ask: Callable[[list[Known]], Said], *, at_once: int = ASKED_AT_ONCE
) -> Iterator[Said]:
    """Yield what comes of asking about each customer, in the order of `known`, which is by customer."""
    customers = (list(each) for _, each in groupby(known, attrgetter("customer")))
    with ThreadPoolExecutor(at_once, "asking") as pool:
        while some := _some(customers):
            yield from pool.map(ask, some)


def _some(customers: Iterator[list[Known]]) -> list[list[Known]]:
    """Return the next customers that are held in memory together."""
    some: list[list[Known]] = []
    rows = 0
    for each in islice(customers, CUSTOMERS_AT_ONCE):
        some.append(each)
        rows += len(each)
        if rows >= ROWS_AT_ONCE:
            break
    return some
