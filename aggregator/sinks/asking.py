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

Known = TypeVar("Known")
Said = TypeVar("Said")


def by_customer(
    known: Iterable[Known], ask: Callable[[list[Known]], Said], *, at_once: int = ASKED_AT_ONCE
) -> Iterator[Said]:
    """Yield what comes of asking about each customer, in the order of `known`, which is by customer."""
    customers = (list(each) for _, each in groupby(known, attrgetter("customer")))
    with ThreadPoolExecutor(at_once, "asking") as pool:
        while some := list(islice(customers, CUSTOMERS_AT_ONCE)):
            yield from pool.map(ask, some)
