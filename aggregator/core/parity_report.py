"""What two sinks have of a customer over a period, beside what the source says: figures, a verdict, and a digest. Pure.

Rules
- A sink's total is what it says itself; where it cannot be asked, what it accepted. Beside that stands what was planned for
  it in shadow, which it never gets: both together are what it would have billed alone.
- Each sink's total and shadow must come to what the source says, and so must what both were billed: less a fraction that is
  too small to bill, which each of them carries.
- Where both are sent the same, because one of them makes no invoice of it yet, each is held against the source by itself.
- What is still on its way, or waits for a person, is no difference, and nothing that can be signed.
- The digest is made of the lines and of nothing else. Whoever has the same lines gets the same digest.
"""

import datetime as dt
from collections.abc import Iterable
from decimal import Decimal
from enum import StrEnum
from hashlib import sha256
from typing import NamedTuple

from aggregator.core.model import ZERO, Span
from aggregator.core.planner import add, plain, subtract


class Sum(NamedTuple):
    """What one sink has of a customer over a period."""

    says: Decimal | None = None
    """What it has counted itself; None if it was not asked."""
    accepted: Decimal = ZERO
    shadow: Decimal = ZERO
    """What was planned, and is never sent."""
    is_open: bool = False
    """Whether something is under way, or waits for a person."""

    @property
    def total(self) -> Decimal:
        """What it bills."""
        return self.accepted if self.says is None else self.says

    @property
    def whole(self) -> Decimal:
        """What it would bill if it were the only one."""
        return add(self.total, self.shadow)


class Finding(StrEnum):
    """What the figures of a customer come to."""

    EQUAL = "equal"
    OPEN = "open"  # something is on its way, or waits for a person
    TWICE = "billed twice"
    MISSING = "not billed"
    DIFFERS = "differs"


class ReportLine(NamedTuple):
    """One meter of one customer over a period."""

    meter: str
    customer: str
    span: Span
    old: Sum
    new: Sum
    source: Decimal
    unit: Decimal
    """The least that is billed."""
    moves_at: dt.datetime | None
    """Since when the new sink bills the customer; None: it does not yet."""
    parallel: bool = False
    """Whether the new sink is sent what the old one bills."""

    @property
    def difference(self) -> Decimal:
        """What the new sink has more than the old one, each as if it were the only one."""
        return subtract(self.new.whole, self.old.whole)

    @property
    def verdict(self) -> Finding:
        """Say what the figures come to."""
        if self.old.is_open or self.new.is_open:
            return Finding.OPEN
        if not self.parallel:
            unbilled = subtract(self.source, add(self.old.total, self.new.total))
            if unbilled < 0:
                return Finding.TWICE
            if unbilled >= 2 * self.unit:
                return Finding.MISSING
        each = (subtract(self.source, side.whole) for side in (self.old, self.new))
        if all(abs(much) < self.unit for much in each):
            return Finding.EQUAL
        return Finding.DIFFERS


HEADINGS = (
    "meter", "customer", "from", "to", "moves_at", "old_total", "old_shadow", "new_total", "new_shadow", "source_total",
    "difference", "verdict",
)  # fmt: skip


def cells(line: ReportLine) -> tuple[str, ...]:
    """Return a line as texts, in the order of the headings: instants in UTC, numbers in plain digits."""
    amounts = (
        line.old.total, line.old.shadow, line.new.total, line.new.shadow, line.source, line.difference,
    )  # fmt: skip
    return (
        line.meter,
        line.customer,
        _instant(line.span.start),
        _instant(line.span.end),
        "" if line.moves_at is None else _instant(line.moves_at),
        *map(plain, amounts),
        line.verdict.value,
    )


def digest(lines: Iterable[ReportLine], sinks: tuple[str, str]) -> str:
    """Return the SHA-256 of the lines, in the order of meters and customers, in hexadecimal.

    Each line is its cells with a tab between and a line feed behind; before them stand the names of the sinks, likewise.
    """
    ordered = sorted(lines, key=lambda line: (line.meter, line.customer))
    rows = ["\t".join(sinks), *("\t".join(cells(line)) for line in ordered)]
    return sha256("".join(f"{row}\n" for row in rows).encode()).hexdigest()


def _instant(instant: dt.datetime) -> str:
    return f"{instant:%Y-%m-%dT%H:%M:%SZ}"
