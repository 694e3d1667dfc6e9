"""What samples come to: by how much a counter rose, and what a window of a gauge is. Pure, and exact.

Rules
- A counter's increase belongs to the window in which the newer of two samples lies. So increases add up to what the counter
  rose in all, whenever it was sampled, and no window is asked twice for the same.
- A counter that fell never comes to less than nothing.
- A sample of a gauge stands until the next one, for no longer than it is declared to. What no sample stands for is a gap,
  which is named. Before the very first sample there is no gap: nobody was there to take one.
- A customer who is missing in a sample had zero then. That is no gap: the query gives all there is.
"""

import datetime as dt
from collections.abc import Mapping, Sequence
from decimal import ROUND_FLOOR, Context, Decimal, Inexact, InvalidOperation
from typing import NamedTuple

from aggregator.core.model import ZERO, Span
from aggregator.core.planner import plain, total
from aggregator.core.sampling import Counters, FirstValue, Gauges, Missing, Resets, Sample

MICROSECOND = dt.timedelta(microseconds=1)

EXACT = Context(prec=200, traps=[InvalidOperation, Inexact])
"""Samples have 60 digits at most, and a day 11: nothing that is added or multiplied here is ever rounded."""

AVERAGE_PLACES = Decimal("1e-18")
"""An average is cut off there, if it does not end before: far below anything that is billed, and never too high."""

CUT = Context(prec=200, rounding=ROUND_FLOOR)


class Increase(NamedTuple):
    """What a sample of a counter comes to."""

    amount: Decimal
    reset: bool = False
    """Whether the counter had fallen."""


def increase(value: Decimal, previous: Decimal | None, how: Counters) -> Increase:
    """Return by how much a counter rose to a value; `previous` is its value before, None of a first one."""
    if previous is None:
        return Increase(value if how.first_value is FirstValue.WHOLE and value > 0 else ZERO)
    if value >= previous:
        return Increase(EXACT.subtract(value, previous))
    return Increase(ZERO if how.resets is Resets.IGNORE or value < 0 else value, reset=True)


class Stretch(NamedTuple):
    """A part of a window, and the instant of the sample that stands for it."""

    span: Span
    sampled_at: dt.datetime


class Coverage(NamedTuple):
    """Which samples stand for which parts of a window, in the order of time."""

    window: Span
    stretches: tuple[Stretch, ...]
    missing: dt.timedelta
    """For how much of it none stood, and one was due."""

    @property
    def has_gap(self) -> bool:
        """Whether one was missing."""
        return self.missing > dt.timedelta(0)


def coverage(window: Span, sampled: Sequence[dt.datetime], how: Gauges, until: dt.datetime) -> Coverage:
    """Say which samples stand for a window, as far as it lies before `until`, the present.

    `sampled` are the instants of all samples from the last one before the window to its end, in order; empty if none was
    taken by then.
    """
    if not sampled:
        return Coverage(window, (), dt.timedelta(0))
    end = min(window.end, until)
    stretches: list[Stretch] = []
    missing = dt.timedelta(0)
    for at, following in zip(sampled, [*sampled[1:], end], strict=True):
        begins, ends = max(at, window.start), min(following, end)
        stands = min(ends, at + how.stands)
        counted = stands if how.missing is Missing.NOTHING else ends
        if begins < counted:
            stretches.append(Stretch(Span(begins, counted), at))
        missing += max(ends - max(begins, stands), dt.timedelta(0))
    if how.sample is Sample.LAST:
        # What it comes to is its last sample: only a window without any has a gap.
        within = any(window.start <= at < end for at in sampled)
        missing = dt.timedelta(0) if within else missing
    return Coverage(window, tuple(stretches), missing)


def gauge(covered: Coverage, values: Mapping[dt.datetime, Decimal], how: Gauges) -> Decimal:
    """Return what a window of a gauge comes to of one customer, whose `values` are by the instants of samples."""
    standing = [(stretch.span, values.get(stretch.sampled_at, ZERO)) for stretch in covered.stretches]
    counts_as_zero = covered.has_gap and how.missing is Missing.NOTHING
    if not standing or (counts_as_zero and how.sample is Sample.LAST):
        return ZERO
    if how.sample is Sample.LAST:
        return standing[-1][1]
    if how.sample is Sample.MAX:
        return max([*(value for _, value in standing), *([ZERO] if counts_as_zero else [])])
    area = total(EXACT.multiply(value, _length(span)) for span, value in standing)
    return Decimal(plain(CUT.quantize(CUT.divide(area, _length(covered.window)), AVERAGE_PLACES)))


def _length(span: Span) -> Decimal:
    return Decimal((span.end - span.start) // MICROSECOND)
