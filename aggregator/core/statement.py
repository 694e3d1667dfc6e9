"""What a customer was billed over a time, entry by entry, as on a bank's statement. Pure.

Rules
- Each event is an entry: what was first billed of a window, or a correction of it, with its own date. Corrections are never
  merged into what they correct.
- What was withdrawn, or replaced by a newer plan, is no entry. What is not billed stands among the entries with its state,
  and never in the sum of what is.
"""

import datetime as dt
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from typing import NamedTuple

from aggregator.core.dimensions import Dimensions
from aggregator.core.model import ZERO, Span, State
from aggregator.core.planner import add, subtract
from aggregator.core.states import BOOKED


class Entry(NamedTuple):
    """One event, as far as it matters on a bill."""

    event: int
    window: Span
    revision: int
    delta: Decimal
    total: Decimal
    quantity: Decimal
    """What the source said of the window when this was planned."""
    state: State
    dismissed: bool
    planned_at: dt.datetime
    settled_at: dt.datetime | None
    identifier: str
    request_id: str | None
    reason: str | None
    dimensions: Dimensions = ()
    """The combination that it is of."""

    @property
    def kind(self) -> str:
        """What it is: the first that was said of a window, or a correction of that."""
        return "correction" if self.revision else "usage"

    @property
    def before(self) -> Decimal:
        """Where the window stood before."""
        return subtract(self.total, self.delta)

    @property
    def billed(self) -> bool:
        """Whether the sink has it."""
        return self.state in BOOKED

    @property
    def stands(self) -> str:
        """How it stands, in words."""
        return "dismissed" if self.dismissed else self.state.value.replace("_", " ")


class Day(NamedTuple):
    """What windows that begin on one day in UTC came to."""

    day: dt.date
    windows: int = 0
    usage: Decimal = ZERO
    """What was first billed of them."""
    corrections: Decimal = ZERO
    """What corrections changed of that, whenever they were made."""
    waiting: Decimal = ZERO
    """What of them is not billed, or not yet."""
    newest: Decimal = ZERO
    """The last number that was billed, for meters that bill that."""

    @property
    def billed(self) -> Decimal:
        """What was billed of the day, all together."""
        return add(self.usage, self.corrections)


class OfCombination(NamedTuple):
    """What all windows of one combination of dimensions came to."""

    dimensions: Dimensions
    usage: Decimal = ZERO
    corrections: Decimal = ZERO
    waiting: Decimal = ZERO

    @property
    def billed(self) -> Decimal:
        """What was billed of it, all together."""
        return add(self.usage, self.corrections)


def by_combination(entries: Iterable[Entry]) -> list[OfCombination]:
    """Add entries up by combination, in the order of names and values."""
    found: dict[Dimensions, OfCombination] = {}
    for entry in entries:
        sums = found.get(entry.dimensions, OfCombination(entry.dimensions))
        if not entry.billed:
            sums = sums._replace(waiting=add(sums.waiting, entry.delta))
        elif entry.revision:
            sums = sums._replace(corrections=add(sums.corrections, entry.delta))
        else:
            sums = sums._replace(usage=add(sums.usage, entry.delta))
        found[entry.dimensions] = sums
    return [found[each] for each in sorted(found)]


@dataclass(slots=True)
class Days:
    """Adds entries up by day, as they go by in the order of their windows."""

    found: list[Day] = field(default_factory=list)
    _latest: dt.datetime | None = None

    def counting(self, entries: Iterable[Entry]) -> Iterator[Entry]:
        """Take every entry into account, and pass it on."""
        for entry in entries:
            self.count(entry)
            yield entry

    def count(self, entry: Entry) -> None:
        """Take one entry into account."""
        day = entry.window.start.date()
        if not self.found or self.found[-1].day != day:
            self.found.append(Day(day))
        last = self.found[-1]
        if entry.window.start != self._latest:
            self._latest = entry.window.start
            last = last._replace(windows=last.windows + 1)
        if not entry.billed:
            last = last._replace(waiting=add(last.waiting, entry.delta))
        elif entry.revision:
            last = last._replace(corrections=add(last.corrections, entry.delta), newest=entry.total)
        else:
            last = last._replace(usage=add(last.usage, entry.delta), newest=entry.total)
        self.found[-1] = last
