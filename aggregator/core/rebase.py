"""What a ledger must say once it believes a sink's own totals: the arithmetic of an adoption. Pure.

Rules
- What the sink has counted of a slot is what the slot stands at. What differs from what the ledger had booked is one event
  that is never sent.
- What was not settled is withdrawn: it is either among what the sink has counted, or is planned again.
- Where a total overwrites only what lies in the same stretch of the sink's time, a slot is stamped where the sink has its
  number: stamped elsewhere, what comes later would be billed beside it.
- The balance holds afterwards, exactly: quantities = totals + carry, per customer, combination and feed.
- The next pass must find whole units only, and none below zero unless the customer is owed less than the sink has counted: a
  fraction spread over windows in another way than before would raise one window at once, and lower the other only once
  somebody agrees. So a slot's quantity is set to what the source says, less the whole units that are still owed.
"""

import datetime as dt
from collections.abc import Iterable, Sequence
from decimal import Decimal
from heapq import heapify, heappop, heapreplace
from typing import NamedTuple

from aggregator.core import planner
from aggregator.core.dimensions import Dimensions
from aggregator.core.model import ZERO, SlotId
from aggregator.core.planner import EXACT, add, floor, subtract


class SlotComparison(NamedTuple):
    """One slot, as the ledger, the source and the sink have it. Without a slot, the ledger's numbers are zero."""

    customer: str
    window_start: dt.datetime
    slot: SlotId | None
    revision: int
    """How many events it has had."""
    quantity: Decimal
    total: Decimal
    waiting: Decimal
    """By how much its events that are not settled change it; part of `total`."""
    withdrawn: int
    """How many those are."""
    carry: Decimal
    """What the customer is owed of the meter, of this combination, in parts too small to bill."""
    truth: Decimal | None
    """What the source says; None where it cannot be known."""
    counted: Decimal | None
    """What the sink has counted, if it was looked up; None: what is booked."""
    shadow: bool = False
    """Whether its latest event was planned in shadow: the sink lacks it and is not to get it, so the slot stays as it is."""
    stamped_at: dt.datetime | None = None
    """The instant that its events take, where they overwrite each other; None if it has had none."""
    kept_at: dt.datetime | None = None
    """The instant that overwrites what the sink has, if it was looked up; None where any instant in the window does."""
    dimensions: Dimensions = ()
    """Of which combination it is."""

    @property
    def booked(self) -> Decimal:
        """What the ledger believes the sink to have."""
        return subtract(self.total, self.waiting)

    @property
    def stands_at(self) -> Decimal:
        """What the sink has."""
        return self.booked if self.counted is None else self.counted

    @property
    def is_nothing(self) -> bool:
        """Whether neither the ledger nor the source has anything of it."""
        return self.slot is None and not self.truth

    def exceeds(self, unit: Decimal) -> bool:
        """Tell whether the sink has more than the source says, beyond what parts of a `unit` come to."""
        return self.truth is not None and subtract(self.stands_at, self.truth) >= unit

    @property
    def misplaced(self) -> bool:
        """Whether its next event would not overwrite what the sink has."""
        return self.kept_at is not None and self.kept_at != self.stamped_at

    @property
    def differs(self) -> bool:
        """Whether an adoption changes it."""
        return bool(self.withdrawn) or self.stands_at != self.booked or self.misplaced


class Moved(NamedTuple):
    """Where a slot stands after an adoption, and by how much the sink differed from what was booked."""

    comparison: SlotComparison
    quantity: Decimal
    total: Decimal
    delta: Decimal


def rebase(comparisons: Sequence[SlotComparison], unit: Decimal) -> tuple[list[Moved], Decimal] | None:
    """Return where the slots of one customer's combination stand once the sink is believed, and the carry; None if nothing
    differs.

    `stands` holds every slot in the time that is re-based and every window that the source has something in, in their order:
    what was too small to bill in a window may have been billed in another one. `unit` is the smallest that is billed.
    """
    comparisons = [comparison for comparison in comparisons if not comparison.shadow]
    if not any(comparison.differs for comparison in comparisons):
        return None
    carry = comparisons[0].carry
    # The balance tells what the slots that are not at hand have been read beyond what they stand at.
    elsewhere = subtract(
        carry, planner.total(subtract(comparison.quantity, comparison.total) for comparison in comparisons)
    )
    known = [comparison for comparison in comparisons if comparison.truth is not None]
    quantities = {
        comparison.window_start: add(comparison.stands_at, subtract(comparison.quantity, comparison.total))
        for comparison in comparisons
    }
    if known:
        errors = [subtract(comparison.truth or ZERO, comparison.stands_at) for comparison in known]
        unknown = planner.total(
            subtract(comparison.quantity, comparison.total)
            for comparison in comparisons
            if comparison.truth is None
        )
        owed = add(add(elsewhere, unknown), planner.total(errors))
        whole = floor(owed, unit)
        carry = subtract(owed, whole)
        for comparison, share in zip(known, shares(errors, whole, unit), strict=True):
            quantities[comparison.window_start] = subtract(comparison.truth or ZERO, share)
    moved = [
        Moved(
            comparison,
            quantities[comparison.window_start],
            comparison.stands_at,
            subtract(comparison.stands_at, comparison.booked),
        )
        for comparison in comparisons
    ]
    rest = planner.total(subtract(each.quantity, each.total) for each in moved)
    assert add(elsewhere, rest) == carry, f"the balance of {comparisons[0].customer} is lost"
    assert carry >= ZERO, f"the carry of {comparisons[0].customer} is {carry}"
    return [each for each in moved if each.comparison.slot is not None or each.quantity or each.total], carry


def shares(errors: Sequence[Decimal], whole: Decimal, unit: Decimal) -> list[Decimal]:
    """Divide what is owed in whole units among windows, each as near as can be to what it lacks.

    Where there are fractions, a window may have been billed what others were owed: then none is lowered as long as the
    others have units to give. Without fractions each window gets exactly what it lacks.
    """
    counts = [int(EXACT.divide_int(error, unit)) for error in errors]
    if any(EXACT.remainder(error, unit) for error in errors):
        counts = [max(0, count) for count in counts]
    left = int(EXACT.divide_int(whole, unit)) - sum(counts)
    lacks = [
        (subtract(error, EXACT.multiply(unit, count)), place)
        for place, (error, count) in enumerate(zip(errors, counts, strict=True))
    ]
    if left > 0:
        _give(counts, [(lack.copy_negate(), place) for lack, place in lacks], left, unit)
    while left < 0:
        giving = [each for each in lacks if counts[each[1]] > 0] or lacks
        most = sum(counts[place] for _, place in giving) if giving is not lacks else -left
        taken = min(-left, most)
        _give(counts, giving, -taken, unit)
        left += taken
    return [EXACT.multiply(unit, count) for count in counts]


def _give(counts: list[int], order: list[tuple[Decimal, int]], units: int, unit: Decimal) -> None:
    """Give so many units, or take them if it is below zero, one by one, always to the place whose turn it is by `order`."""
    step, turns = (1, units) if units > 0 else (-1, -units)
    lowest = 0 if units < 0 and all(counts[place] > 0 for _, place in order) else None
    heapify(order)
    for _ in range(turns):
        lack, place = order[0]
        counts[place] += step
        if counts[place] == lowest:
            heappop(order)
        else:
            heapreplace(order, (add(lack, unit), place))


def fits(comparisons: Iterable[SlotComparison], counted: Decimal, unit: Decimal) -> bool:
    """Tell whether what a sink has counted over some windows is what is booked for them, and surely for each of them.

    Where the next pass would change one of the windows, a sum that agrees is not enough: what is too much in one of them may
    be missing in another.
    """
    every = [comparison for comparison in comparisons if not comparison.shadow]
    if planner.total(comparison.booked for comparison in every) != counted:
        return False
    if not counted and not any(comparison.booked for comparison in every):
        return True
    return all(
        comparison.truth is None or subtract(comparison.truth, comparison.booked).copy_abs() < unit
        for comparison in every
    )
