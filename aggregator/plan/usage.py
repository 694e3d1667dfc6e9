"""What one definition of a meter makes of a range, customer by customer; and two of them beside each other. Pure.

Rules
- Every sum is exact. What is billed is the floor of what was used, at the meter's decimals, as the planner has it; of a
  meter that bills the last number, that of the newest window. What was carried before the range is left out.
- What is kept grows with the customers and is bounded: of a meter with more than `MOST` nothing is compared.
"""

import datetime as dt
import hashlib
import heapq
from collections.abc import Iterable
from dataclasses import dataclass, field
from decimal import Decimal
from functools import reduce
from typing import NamedTuple

from aggregator.core.model import ZERO, Reading
from aggregator.core.planner import add, floor, subtract

MOST = 250_000
"""Customers of a meter that are told apart: some 100 MB, as each has two figures."""


class TooMany(Exception):
    """There are more customers than are told apart."""


@dataclass(slots=True)
class Usage:
    """What a range comes to by one definition. `unit` is the least that is billed; `latest`, whether the last number is."""

    unit: Decimal
    latest: bool = False
    most: int = MOST
    rows: int = 0
    unmapped_rows: int = 0
    unmapped_quantity: Decimal = ZERO
    _used: dict[str, Decimal] = field(default_factory=dict)
    _newest: dict[str, dt.datetime] = field(default_factory=dict)

    def add(self, readings: Iterable[Reading]) -> None:
        """Take in readings, in any order. Raises TooMany."""
        for each in readings:
            self.rows += 1
            if each.reason is not None or each.customer is None or each.quantity is None:
                self.unmapped_rows += 1
                self.unmapped_quantity = add(self.unmapped_quantity, each.quantity or ZERO)
            else:
                self._count(each.customer, each.window_start, each.quantity)

    def _count(self, customer: str, start: dt.datetime, quantity: Decimal) -> None:
        if customer not in self._used and len(self._used) >= self.most:
            raise TooMany
        before = self._used.get(customer, ZERO)
        if self.latest:
            newest = self._newest.setdefault(customer, start)
            if start < newest:
                return
            if start > newest:
                self._newest[customer], before = start, ZERO
        self._used[customer] = add(before, quantity)

    def billed(self) -> dict[str, Decimal]:
        """Return what each customer would be billed."""
        return {customer: floor(used, self.unit) for customer, used in self._used.items()}


class Mover(NamedTuple):
    """What one customer would be billed before and after; None: by that definition they have no usage at all."""

    customer: str
    before: Decimal | None
    after: Decimal | None

    @property
    def difference(self) -> Decimal:
        """Return by how much it changes."""
        return subtract(self.after or ZERO, self.before or ZERO)


class Total(NamedTuple):
    """What a range comes to by one definition, all customers together."""

    billed: Decimal
    customers: int
    rows: int
    unmapped_rows: int
    unmapped_quantity: Decimal


class Comparison(NamedTuple):
    """A range by two definitions; None of a meter that was not there, or will not be."""

    before: Total | None
    after: Total | None
    differing: int
    """How many customers would be billed something else, those who come and go included."""
    new: int
    """How many would be billed by the new definition only; `gone`, by the old one only."""
    gone: int
    movers: tuple[Mover, ...]
    """Those who differ most, by the absolute difference."""
    digest: str
    """Of what every customer comes to by both, and of what is unmapped."""
    is_whole: bool = True
    """Whether whatever there is was read; False: by one of the two it could not be, so nobody knows what differs."""

    @property
    def difference(self) -> Decimal | None:
        """Return by how much the total changes; None where nobody knows."""
        if not self.is_whole:
            return None
        return subtract(
            self.after.billed if self.after else ZERO, self.before.billed if self.before else ZERO
        )


def compared(before: Usage | None, after: Usage | None, most_movers: int) -> Comparison:
    """Put two readings of a range beside each other; name that many customers of those who differ."""
    old = before.billed() if before else {}
    new = after.billed() if after else {}
    pairs = [Mover(each, old.get(each), new.get(each)) for each in old.keys() | new.keys()]
    differing = [each for each in pairs if each.difference]
    first = heapq.nlargest(most_movers, sorted(differing), key=lambda each: each.difference.copy_abs())
    return Comparison(
        _total(before, old),
        _total(after, new),
        len(differing),
        sum(not each.before for each in differing),
        sum(not each.after for each in differing),
        tuple(first),
        _digest(pairs, before, after),
    )


def alone(before: Usage | None, after: Usage | None) -> Comparison:
    """Return what a range comes to by the one definition of two by which it could be read: nobody knows what differs."""
    found = compared(before, after, 0)
    return found._replace(differing=0, new=0, gone=0, is_whole=False)


def _total(usage: Usage | None, billed: dict[str, Decimal]) -> Total | None:
    if usage is None:
        return None
    total = reduce(add, billed.values(), ZERO)
    return Total(total, len(billed), usage.rows, usage.unmapped_rows, usage.unmapped_quantity)


def _digest(pairs: Iterable[Mover], *usages: Usage | None) -> str:
    lines = sorted(f"{each.customer}\t{_written(each.before)}\t{_written(each.after)}" for each in pairs)
    lines += [f"{each.unmapped_rows}\t{_written(each.unmapped_quantity)}" if each else "" for each in usages]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _written(quantity: Decimal | None) -> str:
    """Write a quantity: one text for each number, however many zeros it was read with."""
    text = "" if quantity is None else f"{quantity:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
