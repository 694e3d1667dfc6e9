"""What a sink's own figure proves of events whose fate is not known. Pure: figures and instants in, findings out.

Rules
- A figure proves something once nothing of ours is on its way into the stretch of time that it covers, and the last attempt
  for it lies as far back as the sink needs to count (`Limits.proof`). Before that: wait.
- What the figure shows beyond the events that are booked for sure must be the sum of those in question that arrived. If
  exactly one selection of them has that sum, each is present or absent. None, or several: nobody is sure, and a person gets
  the figures.
- A sink's figure may be a binary fraction. It is compared to within half a unit of the smallest decimal of ours, and not at
  all where such a number has no room for the unit.
"""

import datetime as dt
from collections.abc import Iterable
from decimal import Decimal
from enum import StrEnum
from itertools import combinations
from typing import NamedTuple

from aggregator.core.model import ZERO, EventId, Span, State
from aggregator.core.states import BOOKED, UNDER_WAY

MOST_IN_QUESTION = 12
"""4,096 selections are tried at once; with more, some selection has the right sum by accident."""

MOST_UNITS = 2**50
"""A double carries 53 bits. Three are left for what rounding adds up to on the far side: any sum of 15 digits fits."""

LOOK_AGAIN = dt.timedelta(hours=6)
"""What no figure can decide is looked at four times a day: it costs a call, and the sink's figures may yet change."""

LOOK_SOON = dt.timedelta(minutes=30)
"""What waits for an event that is on its way is looked at again by then: it may settle at any moment."""


class Finding(StrEnum):
    """What is known of an event after the sink was read back."""

    PRESENT = "present"
    ABSENT = "absent"
    UNCLEAR = "unclear"


class EventState(NamedTuple):
    """How an event stands in the ledger just now."""

    id: EventId
    at: dt.datetime
    delta: Decimal
    state: State
    attempted_at: dt.datetime | None
    """When the latest attempt began, or when it was settled where that is not on record."""
    asked: bool
    """Whether it is in question: in doubt, or accepted and to be seen in the sink's totals."""
    maybe_sent: bool = False
    """Whether it was given up without knowing if it had arrived: it may be in the figure, and nobody asks about it."""
    total: Decimal = ZERO
    """Where its window stands with it."""


class EventsInSpan(NamedTuple):
    """All events of ours for one customer of one meter at one sink whose instants lie within a span of whole minutes."""

    feed: int
    meter: str
    customer: str
    span: Span
    events: tuple[EventState, ...]
    received: Span | None = None
    """If set, accepted events that the sink received within it are in question too."""

    imprecise: bool = False
    """Whether the span cuts a window that an adoption compared: what was sent and forgotten lies anywhere in it."""

    @property
    def asked(self) -> tuple[EventState, ...]:
        """The events in question."""
        return tuple(event for event in self.events if event.asked)

    def __str__(self) -> str:
        return f"{self.meter} of {self.customer} in {self.span}"


class Conclusion(NamedTuple):
    """What was found of one event, with the figures in words."""

    event: EventId
    finding: Finding
    reason: str


def proves_at(in_span: EventsInSpan, now: dt.datetime, proof: dt.timedelta) -> dt.datetime:
    """Return from when the sink's figure for the excerpt proves anything; not later than `now` means that it does.

    `proof` is how long after an attempt the sink's totals show it.
    """
    if any(event.state in UNDER_WAY for event in in_span.events):
        return now + LOOK_SOON
    touched = [
        event.attempted_at
        for event in in_span.events
        if event.attempted_at is not None and (event.asked or event.state in BOOKED)
    ]
    return max(touched, default=now - proof) + proof


def agrees(in_span: EventsInSpan, figure: Decimal) -> bool:
    """Tell whether the figure is what the ledger has as booked, with nothing unsure: then every event is in it."""
    unsure = in_span.imprecise or any(
        event.state is State.IN_DOUBT or event.maybe_sent for event in in_span.events
    )
    if unsure or not comparable(in_span, figure):
        return False
    return same(figure, _booked(in_span.events), in_span)


def all_present(in_span: EventsInSpan, figure: Decimal) -> list[Conclusion]:
    """Rule that each event in question is present, as `agrees` has shown."""
    reason = f"the sink has {figure} for {in_span}, as we have"
    return [Conclusion(event.id, Finding.PRESENT, reason) for event in in_span.asked]


def decide(in_span: EventsInSpan, figure: Decimal) -> list[Conclusion]:
    """Rule on each event in question by the sink's figure for the excerpt, read when `proves_at` allowed it."""
    assert not any(event.state in UNDER_WAY for event in in_span.events), "what is on its way proves nothing"
    open_ones = [event for event in in_span.events if event.asked or event.maybe_sent]
    story = _story(in_span, figure)
    if not comparable(in_span, figure):
        return unclear(in_span, f"{story}: too large to be compared to the unit")
    if in_span.imprecise:
        return unclear(in_span, f"{story}: what an adoption took over lies somewhere in the window")
    if len(open_ones) > MOST_IN_QUESTION:
        return unclear(in_span, f"{story}: more than {MOST_IN_QUESTION} events are in question")
    sure = _booked([event for event in in_span.events if not event.asked])
    fitting = [
        chosen
        for count in range(len(open_ones) + 1)
        for chosen in combinations(open_ones, count)
        if same(figure, sure + sum((event.delta for event in chosen), ZERO), in_span)
    ]
    if len(fitting) != 1:
        ways = f"{len(fitting)} ways explain this" if fitting else "nothing explains this"
        return unclear(in_span, f"{story}: {ways}")
    present = {event.id for event in fitting[0]}
    return [
        Conclusion(event.id, Finding.PRESENT if event.id in present else Finding.ABSENT, story)
        for event in in_span.asked
    ]


def unclear(in_span: EventsInSpan, reason: str) -> list[Conclusion]:
    """Rule that nobody can tell, and why."""
    return [Conclusion(event.id, Finding.UNCLEAR, reason) for event in in_span.asked]


def _booked(events: Iterable[EventState]) -> Decimal:
    return sum((event.delta for event in events if event.state in BOOKED), ZERO)


def _unit(in_span: EventsInSpan) -> Decimal:
    """Return the finest unit in which the events are planned: a delta is written to its meter's decimals."""
    exponents = [event.delta.as_tuple().exponent for event in in_span.events]
    return Decimal(1).scaleb(min((each for each in exponents if isinstance(each, int)), default=0))


def comparable(in_span: EventsInSpan, figure: Decimal) -> bool:
    """Tell whether the figure is a number that has room for the unit."""
    if not figure.is_finite():
        return False
    largest = max(abs(figure), sum((abs(event.delta) for event in in_span.events), ZERO))
    return largest < MOST_UNITS * _unit(in_span)


def same(figure: Decimal, ours: Decimal, in_span: EventsInSpan) -> bool:
    """Tell whether two figures are the same to within half a unit."""
    return 2 * abs(figure - ours) < _unit(in_span)


def _story(in_span: EventsInSpan, figure: Decimal) -> str:
    sure = _booked([event for event in in_span.events if not event.asked])
    figures = f"the sink has {figure} for {in_span}, we have {sure} for sure and in question {_named(in_span.asked)}"
    given_up = [event for event in in_span.events if event.maybe_sent]
    return f"{figures}, and gave up {_named(given_up)}" if given_up else figures


def _named(events: Iterable[EventState]) -> str:
    return ", ".join(f"{event.delta} (event {event.id})" for event in events)
