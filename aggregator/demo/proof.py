"""The proof: three parties are asked what each customer used, and the answers must be equal.

    source    the application's database, in SQL of its own
    ledger    what aggregator read, and what it billed: the floor, at the meter's decimals
    sandbox   the official library, asking for the meter's event summaries

What is smaller than a meter's last decimal is not billed yet: it is carried, and shown. What belongs to no customer of
Stripe's is never sent: it is named.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import ROUND_FLOOR, Decimal
from typing import NamedTuple

from aggregator.core.model import ZERO, Span
from aggregator.demo.product import ACCOUNTS, Product
from aggregator.ledger.reports import Reports
from aggregator.ledger.reports import Total as Booked

NAMES = {account.customer: account.name for account in ACCOUNTS}
NOBODY = Booked("", ZERO, ZERO, ZERO)

AskSandbox = Callable[[str, str, Span], Decimal]
"""Meter, customer and span to what the sandbox has counted."""


class Line(NamedTuple):
    """What is known of one customer, or of several together."""

    name: str
    source: Decimal
    ledger: Decimal
    billed: Decimal
    sandbox: Decimal
    equal: bool

    @property
    def carried(self) -> Decimal:
        """What was used, and is too small to be billed yet."""
        return self.ledger - self.billed


@dataclass(frozen=True, slots=True)
class Proof:
    """What came of asking about one meter. `unmapped` is used by nobody that Stripe knows: per source, per ledger."""

    meter: str
    span: Span
    lines: list[Line]
    unmapped: tuple[Decimal, Decimal]

    @property
    def holds(self) -> bool:
        """Whether all that was asked agrees, and there was something to ask about."""
        return bool(self.lines) and all(line.equal for line in self.lines) and len(set(self.unmapped)) == 1

    @property
    def whole(self) -> Line:
        """All customers together."""
        return summed(f"all {len(self.lines)} customers", self.lines)


def compare(
    decimals: int,
    source: Mapping[str, Decimal],
    ledger: Mapping[str, Booked],
    sandbox: Mapping[str, Decimal],
) -> list[Line]:
    """Put the three answers side by side, the greatest use first; whom any of them knows gets a line."""
    unit = Decimal(1).scaleb(-decimals)
    lines = []
    for customer in source.keys() | ledger.keys() | {who for who, much in sandbox.items() if much}:
        used, booked = source.get(customer, ZERO), ledger.get(customer, NOBODY)
        held = sandbox.get(customer, ZERO)
        owed = used.quantize(unit, ROUND_FLOOR)
        equal = used == booked.quantity and owed == booked.billed == held
        name = NAMES.get(customer, customer)
        lines.append(Line(name, used, booked.quantity, booked.billed, held, equal))
    return sorted(lines, key=lambda line: (-line.source, line.name))


def summed(name: str, lines: list[Line]) -> Line:
    """Add lines up. Differences that cancel each other are still differences."""
    return Line(
        name,
        sum((line.source for line in lines), ZERO),
        sum((line.ledger for line in lines), ZERO),
        sum((line.billed for line in lines), ZERO),
        sum((line.sandbox for line in lines), ZERO),
        all(line.equal for line in lines),
    )


def prove(
    meter: str, decimals: int, span: Span, product: Product, reports: Reports, ask: AskSandbox
) -> Proof:
    """Ask all three about a meter over a span."""
    source = product.used(meter, span)
    unmapped = source.pop(None, ZERO)
    customers = {who: much for who, much in source.items() if who is not None}
    ledger = {total.customer: total for total in reports.totals(meter, "sandbox", span)}
    known = {account.customer for account in ACCOUNTS if account.customer} | customers.keys() | ledger.keys()
    sandbox = {customer: ask(meter, customer, span) for customer in known}
    set_aside = sum((row.quantity or ZERO for row in reports.unmapped() if row.meter == meter), ZERO)
    return Proof(meter, span, compare(decimals, customers, ledger, sandbox), (unmapped, set_aside))
