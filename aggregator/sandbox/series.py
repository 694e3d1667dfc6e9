"""The events of one customer of one meter, and which of them count for somebody who asks.

An event counts once it is processed, `processing_delay_seconds` after it was received; one that is found invalid or is
cancelled counts no more. All is worked out when somebody asks; nothing runs in the background.

From docs.stripe.com/billing/subscriptions/usage-based/meters/configure: on a meter with an `event_time_window` the most
recently received event of each UTC hour or day, by the event's timestamp, is the one that counts. Whether events with other
payload besides customer and value replace one another is not documented; a rule says so.
"""

from collections.abc import Iterable
from decimal import Decimal
from typing import Literal, NamedTuple
from zlib import crc32

from aggregator.sandbox.adjustments import Cancellations
from aggregator.sandbox.checks import Seconds
from aggregator.sandbox.reports import Findings

Extra = tuple[tuple[str, str], ...]


class Event(NamedTuple):
    """One accepted event. `reason` is why it never counts, or None. Named tuples, since there may be millions.

    `extra` is its payload besides customer and value.
    """

    sequence: int
    identifier: str
    event_name: str
    customer: str | None
    value: Decimal | None
    timestamp: float
    received_at: float
    reason: str | None
    extra: Extra = ()


class Sight(NamedTuple):
    """What somebody who asks can see: what was processed by now. Without a delay it is everything.

    `last_by` and `per_payload` are the rules of those names.
    """

    now: float
    delay_seconds: Seconds | None = None
    last_by: Literal["timestamp", "receipt"] = "timestamp"
    per_payload: bool = False

    def among(self, events: Iterable[Event]) -> list[Event]:
        """Return those events that are processed."""
        delay = self.delay_seconds
        if delay is None:
            return list(events)
        if isinstance(delay, tuple):
            return [each for each in events if each.received_at + lag(each.identifier, delay) <= self.now]
        received_by = self.now - delay
        return [event for event in events if event.received_at <= received_by]


class Series:
    """The events of one customer of one meter that may count, in the order received."""

    __slots__ = ("customer", "events")

    def __init__(self, customer: str) -> None:
        self.customer = customer
        self.events: list[Event] = []

    def counting(
        self, window_seconds: int | None, sight: Sight, findings: Findings, cancellations: Cancellations
    ) -> list[Event]:
        """Return the events that count among what can be seen."""
        events, now = sight.among(self.events), sight.now
        if findings:
            events = [each for each in events if findings.spares(each.sequence, now)]
        if cancellations:
            events = [each for each in events if not cancellations.gives_way(each.sequence, now)]
        if window_seconds is not None:
            events = list({_slot(each, window_seconds, sight): each for each in events}.values())
        if cancellations:
            events = [each for each in events if not cancellations.covers(each.sequence, now)]
        return events


def lag(identifier: str, delay: Seconds) -> float:
    """Return how long the processing of an event takes: within a range by chance, but always the same."""
    if not isinstance(delay, tuple):
        return delay
    least, most = delay
    return least + (most - least) * crc32(identifier.encode("utf-8", "replace")) / 0xFFFFFFFF


def _slot(event: Event, window_seconds: int, sight: Sight) -> tuple[float, Extra]:
    return event.timestamp // window_seconds, event.extra if sight.per_payload else ()
