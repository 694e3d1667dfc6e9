"""Tests of a usage query: it reads given rows on its own engine, and what comes of that is compared with what is expected.

Rules
- It is read as a pass reads it: the same columns, instants and windows. Nothing is written anywhere.
- More is read than what is expected, one window on either side: usage that lands there is a difference.
"""

import datetime as dt
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import NamedTuple

from aggregator.core.dimensions import Dimensions
from aggregator.core.model import ZERO, Reading, Span
from aggregator.source import Source
from aggregator.source.stand_ins import Rows

Place = tuple[str | None, dt.datetime, Dimensions | None]
"""A customer, None for nobody who can be billed, the start of a window, and a combination, None for none."""


class Case(NamedTuple):
    """Rows, what they are to come to, and where it is read."""

    rows: Rows
    usage: Mapping[Place, Decimal]
    span: Span


class Difference(NamedTuple):
    """What is expected of a customer in a window, and what the query gives; None where there is nothing."""

    customer: str | None
    window: dt.datetime
    dimensions: Dimensions | None
    expected: Decimal | None
    given: Decimal | None
    reason: str | None = None
    """Why no customer can be billed for it, or no quantity be made of it."""


def around(usage: Mapping[Place, Decimal], window: dt.timedelta) -> Span:
    """Return where usage is looked for: from one window before what is expected to one behind it."""
    starts = [start for _, start, _ in usage]
    return Span(min(starts) - window, max(starts) + 2 * window)


def _sampled(source: Source, query: str, case: Case, counters: bool) -> Iterator[list[Reading]]:  # noqa: FBT001 - as it is read
    """Yield what one sample gives, as of the window in which it is expected."""
    start = min((start for _, start, _ in case.usage), default=case.span.start)
    with source.sampling(query, case.span.end, counters=counters) as asking:
        for batch in asking.batches():
            yield [Reading(start, each.customer, each.value, None, each.reason) for each in batch]


def differences(
    source: Source,
    query: str,
    window: dt.timedelta,
    case: Case,
    dimensions: Sequence[str] = (),
    *,
    counters: bool | None = None,
) -> list[Difference]:
    """Read the case, and return in what it differs, in the order of time. Raises SourceError if it cannot be read.

    `counters` says of a meter that is sampled whether it has counters; what its query gives is compared as of one window.
    """
    given: dict[Place, Decimal] = {}
    reasons: dict[Place, str] = {}
    unusable: set[Place] = set()
    text = source.over(query, case.rows, case.span)
    if counters is None:
        batches = source.read(text, case.span, window, dimensions=dimensions)
    else:
        batches = _sampled(source, text, case, counters)
    for batch in batches:
        for reading in batch:
            place = reading.customer, reading.window_start, reading.dimensions
            if reading.quantity is None:
                unusable.add(place)
            else:
                given[place] = given.get(place, ZERO) + reading.quantity
            if reading.reason is not None:
                reasons[place] = reading.reason
    places = sorted({*given, *case.usage, *unusable}, key=_order)
    return [
        Difference(*place, case.usage.get(place), given.get(place), reasons.get(place))
        for place in places
        if place in unusable or case.usage.get(place, ZERO) != given.get(place, ZERO)
    ]


def _order(place: Place) -> tuple[dt.datetime, str, Dimensions]:
    customer, start, dimensions = place
    return start, customer or "", dimensions or ()
