"""Cancellations of meter events.

From docs.stripe.com/api/billing/meter-event-adjustment: one event is cancelled by its identifier, within 24 hours of its
receipt; the answer says `pending` or `complete`, and nothing tells later which it is. A cancelled event leaves the
summaries. What Stripe answers to an identifier unknown, too old or cancelled before is not documented, nor whether the
identifier is free again, nor what a meter with a window falls back to: `rules` has each.

Here a cancellation is pending until it takes effect, which `adjustment_delay_seconds` says.
"""

from collections.abc import Mapping
from typing import NamedTuple

from aggregator.sandbox.errors import ApiError, invalid, missing_param
from aggregator.sandbox.form import Params
from aggregator.sandbox.journal import Note, Record
from aggregator.sandbox.paging import Row
from aggregator.sandbox.rules import Rules
from aggregator.sandbox.times import instant

TYPES = ("cancel",)


class Request(NamedTuple):
    """What a call asks to have cancelled."""

    event_name: str
    identifier: str


class Cancellation(NamedTuple):
    """One cancelled event. `restores` says that an event it had replaced in its window counts again."""

    id: str
    sequence: int
    event_name: str
    identifier: str
    created: float
    effective_at: float
    at_once: bool
    restores: bool

    def status(self, now: float) -> str:
        """Return how far it is."""
        done = self.at_once or (now > self.created and now >= self.effective_at)
        return "complete" if done else "pending"


class Cancellations:
    """The cancelled events of one account and mode."""

    def __init__(self, tag: str, note: Note) -> None:
        self._tag = tag
        self._note = note
        self._by_sequence: dict[int, Cancellation] = {}

    def __len__(self) -> int:
        return len(self._by_sequence)

    def all(self) -> list[Cancellation]:
        """Return every cancellation, the earliest first."""
        return list(self._by_sequence.values())

    def of(self, sequence: int) -> Cancellation | None:
        """Return the cancellation of an event, or None."""
        return self._by_sequence.get(sequence)

    def add(self, sequence: int, request: Request, now: float, delay: float, rules: Rules) -> Cancellation:
        """Cancel the event with this sequence."""
        at_once = rules.adjustment_complete_at_once
        cancellation = Cancellation(
            f"mtr_event_adj_{self._tag}{len(self) + 1:08d}",
            sequence,
            *request,
            now,
            now if at_once else now + delay,
            at_once,
            rules.cancel_restores_previous,
        )
        self._note("cancellation", cancellation._asdict())
        self._by_sequence[sequence] = cancellation
        return cancellation

    def covers(self, sequence: int, now: float) -> bool:
        """Say whether an event is out of the summaries."""
        cancellation = self._by_sequence.get(sequence)
        return cancellation is not None and now >= cancellation.effective_at

    def gives_way(self, sequence: int, now: float) -> bool:
        """Say whether an event is out as if it had never been, so that one before it may count again."""
        cancellation = self._by_sequence.get(sequence)
        return cancellation is not None and cancellation.restores and now >= cancellation.effective_at

    def restore(self, record: Record) -> None:
        """Take a cancellation back from the state file."""
        cancellation = Cancellation(**record)
        self._by_sequence[cancellation.sequence] = cancellation


def read_form(params: Params) -> Request:
    """Read the parameters of version 1. Raise ApiError when they are malformed."""
    params.only("event_name", "type", "cancel")
    event_name = params.required("event_name", limit=100)
    if params.choice("type", TYPES) is None:
        raise missing_param("type")
    cancel = params.section("cancel")
    cancel.only("identifier")
    return Request(event_name, cancel.required("identifier", limit=100))


def read_object(body: Mapping[str, object], rules: Rules) -> Request:
    """Read the body of version 2. Raise ApiError when it is malformed, or cancels nothing."""
    unknown = [key for key in body if key not in {"event_name", "type", "cancel"}]
    if unknown and not rules.v2_unknown_fields:
        raise invalid(f"Received unknown parameter: {unknown[0]}", unknown[0], code="parameter_unknown")
    event_name, kind, cancel = body.get("event_name"), body.get("type"), body.get("cancel")
    if not isinstance(event_name, str) or not event_name:
        raise missing_param("event_name")
    identifier = cancel.get("identifier") if isinstance(cancel, dict) else None
    if kind != "cancel" or not isinstance(identifier, str) or not identifier:
        message = 'An adjustment must have "type": "cancel" and "cancel": {"identifier": "..."}.'
        raise ApiError(400, message, reason="bad_cancel", code="invalid_cancel_configuration")
    return Request(event_name, identifier)


def show_v1(cancellation: Cancellation, now: float, *, livemode: bool) -> Row:
    """Return the object of version 1."""
    return {
        "object": "billing.meter_event_adjustment",
        "cancel": {"identifier": cancellation.identifier},
        "event_name": cancellation.event_name,
        "livemode": livemode,
        "status": cancellation.status(now),
        "type": "cancel",
    }


def show_v2(cancellation: Cancellation, now: float, *, livemode: bool) -> Row:
    """Return the object of version 2."""
    return {
        **show_v1(cancellation, now, livemode=livemode),
        "id": cancellation.id,
        "object": "v2.billing.meter_event_adjustment",
        "created": instant(cancellation.created),
    }
