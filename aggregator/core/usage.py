"""What became of usage, in figures that add up. Pure.

Rules
- `used` is what the source said, and every other figure is a part of it: each unit of a line stands in exactly one of them.
  So `used` is the sum of the parts on every line, whatever the lines are about.
- Figures add up over lines, too, except over time where a customer is billed by the last number: there, a line has the
  newest number of its stretch of time.
- `carried` is what a line leaves to others, less what it bills for others: a fraction is billed with a later window.
  It may be below zero. Over all of a customer's windows it is the carry, which is not.
"""

import datetime as dt
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from typing import NamedTuple

from aggregator.core import planner
from aggregator.core.model import ZERO, Span


class By(StrEnum):
    """What usage is summed by. A window belongs to the hour, day or month in which it begins."""

    HOUR = "hour"
    DAY = "day"
    MONTH = "month"
    CUSTOMER = "customer"


class Usage(NamedTuple):
    """How much was used, and what became of it."""

    used: Decimal = ZERO
    billed: Decimal = ZERO
    """What the sink has: accepted or confirmed."""
    under_way: Decimal = ZERO
    """What is due, being sent or in doubt."""
    held: Decimal = ZERO
    refused: Decimal = ZERO
    dismissed: Decimal = ZERO
    """What was held or refused, and given up by a person."""
    shadow: Decimal = ZERO
    """What is planned in shadow, and never sent."""
    carried: Decimal = ZERO
    unmapped: Decimal = ZERO
    """What can be billed to nobody."""
    open: Decimal = ZERO
    """What the source has now in windows that were not read yet."""

    @property
    def adds_up(self) -> bool:
        """Whether what was used is the sum of what became of it."""
        return self.used == planner.total(self[1:])

    @property
    def not_billed(self) -> Decimal:
        """What of it is not billed, and may still be: not what was given up, nor what is planned in shadow."""
        return self.used - self.billed - self.dismissed - self.shadow

    def plus(self, other: "Usage") -> "Usage":
        """Return the sum of two lines."""
        return Usage._make(map(planner.add, self, other))


class Line(NamedTuple):
    """The usage of a customer, of a stretch of time that begins at `start`, or of all together, if neither is given.

    Where lines are by a dimension, it is that of all combinations with this `value` of it.
    """

    customer: str | None
    start: dt.datetime | None
    usage: Usage
    name: str | None = None
    """What people call the customer, if anybody says so."""
    value: str | None = None
    """Of the dimension that lines are by; None for what has no value of it."""


def sum_of(usages: Iterable[Usage]) -> Usage:
    """Return what some figures come to that add up."""
    first, *others = list(usages) or [Usage()]
    return Usage._make(map(planner.total, zip(first, *others, strict=True))) if others else first


def month(text: str) -> Span:
    """Return the UTC month that is written as `2026-11`. Raises ValueError."""
    first = dt.datetime.strptime(text, "%Y-%m").replace(tzinfo=dt.UTC)
    return month_of(first)


def month_of(instant: dt.datetime) -> Span:
    """Return the UTC month that an instant lies in."""
    first = instant.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    years, months = divmod(first.month, 12)
    return Span(first, first.replace(year=first.year + years, month=months + 1))


@dataclass(slots=True)
class Sum:
    """What lines come to: how many there are, their total if they add up, and which of their figures are not all zero."""

    adds_up: bool
    lines: int = 0
    total: Usage = field(default_factory=Usage)
    found: set[str] = field(default_factory=set)

    def counting(self, lines: Iterable[Line]) -> Iterator[Line]:
        """Take every line into account, and pass it on."""
        for line in lines:
            self.lines += 1
            self.total = self.total.plus(line.usage)
            if len(self.found) < len(Usage._fields):
                self.found.update(
                    name for name, amount in zip(Usage._fields, line.usage, strict=True) if amount
                )
            yield line
