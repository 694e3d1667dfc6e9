"""What a range would come to, added up from decisions as they go by: per sink, and per customer. No I/O.

Rules
- Every sum is exact. What is kept grows with the customers whose usage differs, and is bounded: of those beyond `MOST`
  only the sums are known.
- A range is looked at in pieces, none of which is committed. So what a customer is owed in parts too small to bill is
  carried on here from piece to piece, as committed pieces would carry it on in the ledger.
"""

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from typing import NamedTuple

from aggregator.core.model import ZERO, Change, Decision, State

MOST = 100_000
"""Customers that are told apart: some 40 MB. Whoever looks at more of them looks at sums."""


@dataclass(slots=True)
class Figures:
    """What the windows that differ hold of somebody, and what would become of that."""

    old: Decimal = ZERO
    """What the ledger has of them."""
    new: Decimal = ZERO
    """What the source says of them now."""
    events: int = 0
    sent: Decimal = ZERO
    """By how much the events that would be sent change what is billed."""
    held: Decimal = ZERO
    refused: Decimal = ZERO
    shadow: Decimal = ZERO
    deferred: int = 0
    """Windows whose change waits for an event that is not settled yet."""
    carried: Decimal = ZERO
    """What would be owed afterwards in parts too small to bill."""

    def count(self, decision: Decision) -> None:
        """Take one decision into account."""
        self.old += decision.change.before
        self.new += decision.change.now
        self.deferred += decision.deferred
        if decision.event is None:
            return
        self.events += 1
        match decision.event.state:
            case State.HELD:
                self.held += decision.event.delta
            case State.REFUSED:
                self.refused += decision.event.delta
            case State.SHADOW:
                self.shadow += decision.event.delta
            case _:
                self.sent += decision.event.delta


class Mover(NamedTuple):
    """One customer of a meter at one sink, and what the range would come to for them."""

    sink: str
    customer: str
    figures: Figures


@dataclass(slots=True)
class Forecast:
    """What a range of one meter would come to, by sink and customer."""

    most: int = MOST
    sinks: dict[str, Figures] = field(default_factory=dict)
    others: int = 0
    """Customers beyond those that are told apart, counted once per piece of the range."""
    _customers: dict[tuple[str, str], Figures] = field(default_factory=dict)
    _carried: dict[tuple[str, str], Decimal] = field(default_factory=dict)
    _other: tuple[tuple[str, str], Figures] | None = None

    def carrying(self, sink: str, changes: Iterable[Change]) -> Iterator[Change]:
        """Give each customer's changes the carry that an earlier piece left."""
        if not self._carried:
            yield from changes
            return
        for change in changes:
            carry = self._carried.get((sink, change.customer))
            yield change if carry is None else change._replace(carry=carry)

    def count(self, sink: str, decision: Decision) -> None:
        """Take one decision into account."""
        who, carry = (sink, decision.change.customer), decision.carry
        whole = self.sinks.setdefault(sink, Figures())
        whole.count(decision)
        if who in self._carried or carry != decision.change.carry:
            self._carried[who] = carry
        figures = self._customers.get(who)
        if figures is None and len(self._customers) < self.most:
            figures = self._customers[who] = Figures()
        if figures is None:
            figures = self._another(who)
        figures.count(decision)
        whole.carried += carry - figures.carried
        figures.carried = carry

    def _another(self, who: tuple[str, str]) -> Figures:
        """Return what holds one customer beyond those that are told apart: only as long as nobody else comes."""
        if self._other is None or self._other[0] != who:
            self.others += 1
            self._other = who, Figures()
        return self._other[1]

    def movers(self, limit: int | None) -> list[Mover]:
        """Return the customers whose usage differs most, of all sinks; all of them without a limit."""
        most = heapq.nsmallest(
            len(self._customers) if limit is None else limit,
            self._customers.items(),
            key=lambda each: (-abs(each[1].new - each[1].old), each[0][1], each[0][0]),
        )
        return [Mover(sink, customer, figures) for (sink, customer), figures in most]

    def moved(self, sink: str) -> Decimal:
        """Return by how much the quantity of a sink's windows would change."""
        figures = self.sinks.get(sink)
        return figures.new - figures.old if figures else ZERO

    @property
    def customers(self) -> int:
        """How many customers differ, each counted once per sink."""
        return len(self._customers) + self.others

    @property
    def differs(self) -> bool:
        """Whether a window holds another quantity than the ledger has, or an event would be planned."""
        return bool(self.sinks)
