"""What the ledger holds of one customer, beside what a sink has counted: days first, and windows where a day does not fit.

A sink is asked for as little as that needs: one call for all days, then one for the hours of a day that differs.
"""

import datetime as dt
from collections.abc import Iterator, Mapping
from decimal import Decimal

from aggregator import definitions, planner
from aggregator.model import ZERO, Span
from aggregator.rebase import Stand, fits
from aggregator.sinks import Destination
from aggregator.windows import DAY, HOUR, floor


class Comparison:
    """Compares one customer's slots with what a sink has counted, from days down to windows."""

    def __init__(self, sink: Destination, meter: str, stands: list[Stand], unit: Decimal) -> None:
        self._sink = sink
        self._meter = meter
        self._customer = stands[0].customer
        self._stands = {stand.window_start: stand for stand in stands}
        self._carry = stands[0].carry
        self._unit = unit

    def compare(self, span: Span, window: dt.timedelta) -> Iterator[tuple[Stand, Decimal]]:
        """Yield each slot that was looked up, with what the sink has counted of it."""
        steps = [DAY, HOUR, window] if window < HOUR and not HOUR % window else [DAY, window]
        yield from self._within(span, window, steps if window < DAY else [window])

    def _within(
        self, span: Span, window: dt.timedelta, steps: list[dt.timedelta]
    ) -> Iterator[tuple[Stand, Decimal]]:
        step, *finer = steps
        whole = Span(definitions.ceiling(span.start, step), floor(span.end, step))
        if whole.start >= whole.end:
            if span.start < span.end:
                yield from self._within(span, window, finer)
            return
        if span.start < whole.start:
            yield from self._within(Span(span.start, whole.start), window, finer)
        counted = self._counted(whole, step)
        held: dict[dt.datetime, list[Stand]] = {}
        for stand in self._stands.values():
            if stand.window_start in whole:
                held.setdefault(floor(stand.window_start, step), []).append(stand)
        for start in sorted(counted.keys() | held.keys()):
            much, stands = counted.get(start, ZERO), held.get(start, [])
            if not finer:
                if not any(stand.shadow for stand in stands):
                    yield stands[0] if stands else self._new(start), much
            elif fits(stands, much, self._unit):
                yield from ((stand, stand.booked) for stand in stands if stand.withdrawn and not stand.shadow)
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

    def _new(self, start: dt.datetime) -> Stand:
        """Return a slot that neither the ledger nor the source knows."""
        return Stand(self._customer, start, None, 0, ZERO, ZERO, ZERO, 0, self._carry, ZERO, None)


def _steps(span: Span, step: dt.timedelta) -> Iterator[dt.datetime]:
    start = span.start
    while start < span.end:
        yield start
        start += step
