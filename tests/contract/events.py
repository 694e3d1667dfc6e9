"""Events as the ledger hands them to a sink, and what a sink says of them."""

import datetime as dt
from collections.abc import Callable, Sequence
from decimal import Decimal
from itertools import count

import pytest

from aggregator.core.model import Answer, Event, EventId, Verdict
from aggregator.errors import SinkHalted
from aggregator.sinks.protocol import Sink

numbers = count(1)


def always() -> bool:
    """Nothing stands in the way of leaving."""
    return True


def about_to_leave(
    window_start: dt.datetime,
    customer: str = "cus_1",
    delta: Decimal | int | str = 1,
    meter: str = "api",
    transport: str = "",
) -> Event:
    """An event that is about to be sent for the first time; its instant is half an hour into its window."""
    number = next(numbers)
    return Event(
        id=EventId(number),
        meter=meter,
        customer=customer,
        window_start=window_start,
        revision=0,
        delta=Decimal(delta),
        total=Decimal(delta),
        at=window_start + dt.timedelta(minutes=30),
        identifier=f"agg_{number:020x}",
        attempts=1,
        exposed_at=None,
        transport=transport,
    )


def in_order(verdicts: Sequence[Verdict], events: Sequence[Event]) -> list[Verdict]:
    """The verdicts in the order of the events, after a look that there is exactly one for each."""
    assert sorted(verdict.event for verdict in verdicts) == sorted(event.id for event in events)
    by_event = {verdict.event: verdict for verdict in verdicts}
    return [by_event[event.id] for event in events]


def answers(verdicts: Sequence[Verdict], events: Sequence[Event]) -> list[Answer]:
    """The same, of which only the answers count."""
    return [verdict.answer for verdict in in_order(verdicts, events)]


def judged(sink: Sink, *events: Event, may_leave: Callable[[], bool] = always) -> list[Verdict]:
    """Send events and return the verdicts in their order."""
    return in_order(list(sink.send(events, may_leave)), events)


def send(sink: Sink, *events: Event) -> list[Answer]:
    """Send events and return the answers in their order."""
    return [verdict.answer for verdict in judged(sink, *events)]


def send_one(sink: Sink, event: Event) -> Verdict:
    """Send one event and return its verdict."""
    (verdict,) = sink.send([event], always)
    return verdict


def until_halted(sink: Sink, events: Sequence[Event]) -> tuple[list[Verdict], str]:
    """Send events to a sink that must halt; return the verdicts and what it says."""
    verdicts: list[Verdict] = []
    with pytest.raises(SinkHalted) as halted:
        verdicts.extend(sink.send(events, always))
    return verdicts, str(halted.value)
