"""What the ledger holds of one customer, beside what a sink has counted: days first, and windows where a day does not fit.

A sink is asked for as little as that needs: one call for all days, then one for the hours of a day that differs. Where a
window holds several of the hours of which a sink keeps the newest number, it matters in which of them the number lies: then
all hours are asked for, and no sum over them will do.

Where usage is kept apart by dimensions, each combination is compared as if it were a customer. The sink tells all of them at
once, so nothing is asked twice; and what it has of combinations that neither ledger nor source knows is compared, too.
"""

import datetime as dt
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import NamedTuple, Protocol

from aggregator.core import definitions, planner
from aggregator.core.dimensions import Dimensions
from aggregator.core.model import ZERO, Definition, Limits, Span, WriteModel
from aggregator.core.rebase import SlotComparison, fits
from aggregator.core.windows import DAY, HOUR, floor
from aggregator.sinks.protocol import TellsCombinations

Figures = Mapping[dt.datetime, Decimal]


class Totals(Protocol):
    """What is asked of a sink."""

    def limits_for(self, meter: str) -> Limits:
        """Return what holds for a meter's events."""
        ...

    def total(self, meter: str, customer: str, span: Span) -> Decimal:
        """Return what was counted of a span."""
        ...

    def breakdown(self, meter: str, customer: str, span: Span, step: dt.timedelta) -> Figures:
        """Return the same by hours or days."""
        ...


class TotalsApart(Totals, TellsCombinations, Protocol):
    """The same of a sink that tells combinations apart."""


class Found(NamedTuple):
    """One slot that was looked up: `stand` says what the sink has counted of it."""

    comparison: SlotComparison
    places: tuple[tuple[dt.datetime, Decimal], ...] = ()
    """In which hours it has counted that, and how much in each, where it matters."""


class Comparison:
    """Compares one customer's slots with what a sink has counted, from days down to windows."""

    def __init__(self, sink: Totals, meter: str, comparisons: list[SlotComparison], unit: Decimal) -> None:
        self._sink = sink
        self._meter = meter
        self._customer = comparisons[0].customer
        self._comparisons = {comparison.window_start: comparison for comparison in comparisons}
        self._carry = comparisons[0].carry
        self._dimensions = comparisons[0].dimensions
        self._unit = unit
        limits = sink.limits_for(meter)
        self._newest_of = limits.newest_of if limits.write_model is WriteModel.OVERWRITE else None

    def compare(self, span: Span, window: dt.timedelta) -> Iterator[Found]:
        """Yield each slot that was looked up, with what the sink has counted of it."""
        if self._newest_of is not None and window > self._newest_of:
            yield from self._placed(span, window, self._newest_of)
            return
        steps = [DAY, HOUR, window] if window < HOUR and not HOUR % window else [DAY, window]
        yield from self._within(span, window, steps if window < DAY else [window])

    def _placed(self, span: Span, window: dt.timedelta, stretch: dt.timedelta) -> Iterator[Found]:
        """Look every slot up, and in which of the stretches that a window holds the sink has its number."""
        counted: dict[dt.datetime, list[tuple[dt.datetime, Decimal]]] = defaultdict(list)
        for start, much in sorted(self._sink.breakdown(self._meter, self._customer, span, stretch).items()):
            counted[floor(start, window)].append((start, much))
        known = {
            comparison.window_start
            for comparison in self._comparisons.values()
            if comparison.window_start in span
        }
        for start in sorted(counted.keys() | known):
            comparison, places = self._comparisons.get(start) or self._new(start), counted[start]
            if not comparison.shadow:
                total = ZERO
                for _, much in places:
                    total = planner.add(total, much)
                kept_at = _kept_at(comparison, places, stretch)
                yield Found(comparison._replace(counted=total, kept_at=kept_at), tuple(places))

    def _within(self, span: Span, window: dt.timedelta, steps: list[dt.timedelta]) -> Iterator[Found]:
        step, *finer = steps
        whole = Span(definitions.ceiling(span.start, step), floor(span.end, step))
        if whole.start >= whole.end:
            if span.start < span.end:
                yield from self._within(span, window, finer)
            return
        if span.start < whole.start:
            yield from self._within(Span(span.start, whole.start), window, finer)
        counted = self._counted(whole, step)
        held: dict[dt.datetime, list[SlotComparison]] = {}
        for comparison in self._comparisons.values():
            if comparison.window_start in whole:
                held.setdefault(floor(comparison.window_start, step), []).append(comparison)
        for start in sorted(counted.keys() | held.keys()):
            much, comparisons = counted.get(start, ZERO), held.get(start, [])
            if not finer:
                if not any(comparison.shadow for comparison in comparisons):
                    comparison = comparisons[0] if comparisons else self._new(start)
                    yield Found(comparison._replace(counted=much))
            elif fits(comparisons, much, self._unit):
                yield from (
                    Found(comparison._replace(counted=comparison.booked))
                    for comparison in comparisons
                    if comparison.withdrawn and not comparison.shadow
                )
            else:
                yield from self._within(Span(start, start + step), window, finer)
        if whole.end < span.end:
            yield from self._within(Span(whole.end, span.end), window, finer)

    def _counted(self, span: Span, step: dt.timedelta) -> Mapping[dt.datetime, Decimal]:
        """Ask the sink for each step of a span; what it gives by days and hours is asked for at once."""
        if step == DAY:
            return self._sink.breakdown(self._meter, self._customer, span, DAY)
        if step % HOUR:
            return {
                start: self._sink.total(self._meter, self._customer, Span(start, start + step))
                for start in _steps(span, step)
            }
        sums: dict[dt.datetime, Decimal] = {}
        for start, much in self._sink.breakdown(self._meter, self._customer, span, HOUR).items():
            sums[floor(start, step)] = planner.add(sums.get(floor(start, step), ZERO), much)
        return sums

    def _new(self, start: dt.datetime) -> SlotComparison:
        return nothing_of(self._customer, start, self._dimensions)._replace(carry=self._carry)


class _Answers:
    """What a sink tells of all combinations of one customer, each span asked for once."""

    def __init__(self, sink: TotalsApart, meter: str, customer: str) -> None:
        self.sink = sink
        self.tells = True
        self.combinations: set[Dimensions] = set()
        """Of which it has anything, as far as it was asked."""
        self._meter = meter
        self._customer = customer
        self._said: dict[tuple[Span, dt.timedelta], Mapping[Dimensions, Figures]] = {}

    def figures(self, dimensions: Dimensions, span: Span, step: dt.timedelta) -> Figures:
        """Return what it has of one combination."""
        said = self._said.get((span, step))
        if said is None:
            found = self.sink.by_combination(self._meter, self._customer, span, step)
            self.tells = self.tells and found is not None
            said = self._said[span, step] = found or {}
            self.combinations |= {each for each, much in said.items() if much}
        return said.get(dimensions, {})


class _Combination:
    """One combination of one customer, as if it were all that a sink has."""

    def __init__(self, answers: _Answers, dimensions: Dimensions) -> None:
        self._answers = answers
        self._dimensions = dimensions

    def limits_for(self, meter: str) -> Limits:
        """Return what holds for all."""
        return self._answers.sink.limits_for(meter)

    def total(self, meter: str, customer: str, span: Span) -> Decimal:
        """Give none: combinations are counted by hours and days."""
        raise AssertionError(f"{meter} of {customer} in {span} is made of whole hours")

    def breakdown(self, _meter: str, _customer: str, span: Span, step: dt.timedelta) -> Figures:
        """Return what the sink has of it."""
        return self._answers.figures(self._dimensions, span, step)


def compare_apart(
    sink: TotalsApart,
    meter: str,
    comparisons: Sequence[SlotComparison],
    unit: Decimal,
    pieces: Sequence[tuple[Definition, Span]],
) -> list[Found] | None:
    """Return each slot of a customer that was looked up, of each combination; None if the sink has one figure for all.

    Windows are made of whole hours.
    """
    customer, start = comparisons[0].customer, comparisons[0].window_start
    known: dict[Dimensions, list[SlotComparison]] = defaultdict(list)
    for each in comparisons:
        known[each.dimensions].append(each)
    answers = _Answers(sink, meter, customer)
    done: set[Dimensions] = set()
    found: list[Found] = []
    while left := (known.keys() | answers.combinations) - done:
        for dimensions in sorted(left):
            its_own = known.get(dimensions) or [nothing_of(customer, start, dimensions)]
            who = Comparison(_Combination(answers, dimensions), meter, its_own, unit)
            for definition, piece in pieces:
                found += who.compare(piece, definition.window)
            done.add(dimensions)
    return found if answers.tells else None


def nothing_of(customer: str, start: dt.datetime, dimensions: Dimensions) -> SlotComparison:
    """Return a slot that neither the ledger nor the source knows."""
    return SlotComparison(
        customer, start, None, 0, ZERO, ZERO, ZERO, 0, ZERO, ZERO, None, dimensions=dimensions
    )


def _kept_at(
    comparison: SlotComparison, places: list[tuple[dt.datetime, Decimal]], stretch: dt.timedelta
) -> dt.datetime | None:
    """Return the instant that meets what the sink has: the ledger's own, if it lies there or the sink has nothing."""
    at, starts = comparison.stamped_at, [start for start, _ in places]
    if not starts or (at is not None and floor(at, stretch) in starts):
        return at
    return starts[0]


def _steps(span: Span, step: dt.timedelta) -> Iterator[dt.datetime]:
    start = span.start
    while start < span.end:
        yield start
        start += step
