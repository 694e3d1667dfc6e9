"""Asking a sink about customers beside each other: in their order, with few of them in memory."""

from collections.abc import Iterator
from typing import NamedTuple

import pytest

from aggregator.sinks import asking
from aggregator.sinks.asking import by_customer


class Row(NamedTuple):
    """Something of a customer."""

    customer: str


@pytest.mark.parametrize(("rows_at_once", "most"), [(1_000, 9), (4, 6), (1, 3)])
def test_who_has_much_is_held_in_memory_with_fewer_others(
    monkeypatch: pytest.MonkeyPatch, rows_at_once: int, most: int
) -> None:
    """Usage that is kept apart has many rows for each customer; each customer is asked about as a whole all the same."""
    monkeypatch.setattr(asking, "ROWS_AT_ONCE", rows_at_once)
    read = held = 0

    def rows() -> Iterator[Row]:
        nonlocal read
        for customer in ("cus_a", "cus_b", "cus_c"):
            for _ in range(3):
                read += 1
                yield Row(customer)

    said: list[int] = []
    for size in by_customer(rows(), len, at_once=1):
        held = max(held, read - sum(said))
        said.append(size)
    assert said == [3, 3, 3]
    assert held <= most + 1, "and the first row of the next one"
