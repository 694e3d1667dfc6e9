"""Parity: whether two sinks of a meter were given the same, and, if asked for, whether they have it.

Rules
- What is compared is what was planned: accepted, under way, waiting for a person, and in shadow. So a sink that is only
  tried out is compared with the one that bills as if it had been sent everything.
- What a sink says itself is compared with what it accepted; what is under way may be among it or not.
- The ledger is read first, and its transaction is over before a sink is asked. Only a few customers are in memory at once.
"""

import datetime as dt
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import NamedTuple

from aggregator.core.model import ZERO, Span
from aggregator.core.planner import add
from aggregator.core.windows import DAY
from aggregator.ledger.parity import Place, Side
from aggregator.sinks.asking import by_customer
from aggregator.sinks.protocol import Totals

Said = Mapping[dt.datetime, Decimal]


class Compared(NamedTuple):
    """What two sinks have of one customer in one day or window, and what each of them says of it itself, if asked."""

    place: Place
    one_says: Decimal | None = None
    other_says: Decimal | None = None

    @property
    def equal(self) -> bool:
        """Whether the same was planned for both, and each has what it accepted."""
        return (
            self.place.one.planned == self.place.other.planned
            and _has(self.place.one, self.one_says)
            and _has(self.place.other, self.other_says)
        )


@dataclass(slots=True)
class Parity:
    """What a comparison came to: how many places there were, how many differ, and the sums of each sink."""

    places: int = 0
    different: int = 0
    sums: list[Side] = field(default_factory=lambda: [Side(), Side()])
    says: list[Decimal | None] = field(default_factory=lambda: [None, None])

    def counting(self, compared: Iterable[Compared]) -> Iterator[Compared]:
        """Take everything into account, and pass on what differs."""
        for each in compared:
            self.places += 1
            self.sums = [self.sums[0].plus(each.place.one), self.sums[1].plus(each.place.other)]
            for number, said in enumerate((each.one_says, each.other_says)):
                if said is not None:
                    self.says[number] = add(self.says[number] or ZERO, said)
            if not each.equal:
                self.different += 1
                yield each


def compare(
    places: Iterable[Place], meter: str, span: Span, sinks: Sequence[Totals | None] = (None, None)
) -> Iterator[Compared]:
    """Yield every place, with what those sinks say of it that are given; the span is made of whole days then.

    A day that a sink has something in and the ledger nothing is yielded too, of customers that the ledger knows. Raises
    SinkError.
    """
    if not any(sinks):
        yield from map(Compared, places)
        return

    def ask(known: list[Place]) -> list[Compared]:
        customer = known[0].customer
        one, other = (None if sink is None else sink.breakdown(meter, customer, span, DAY) for sink in sinks)
        days = {place.start: place for place in known}
        starts = sorted({*days, *(one or ()), *(other or ())})
        return [
            Compared(
                days.get(start) or Place(customer, start, Side(), Side()),
                _said(one, start),
                _said(other, start),
            )
            for start in starts
        ]

    for found in by_customer(places, ask):
        yield from found


def _said(said: Said | None, start: dt.datetime) -> Decimal | None:
    return None if said is None else said.get(start, ZERO)


def _has(side: Side, says: Decimal | None) -> bool:
    """Tell whether what a sink says is what it accepted, give or take what is under way."""
    least, most = sorted((side.accepted, add(side.accepted, side.under_way)))
    return says is None or least <= says <= most
