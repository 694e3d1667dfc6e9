"""What is taken in: the field rules, the two bounds of time, and which events are known already.

From docs.metronome.com, send usage events, and the ingest endpoint of the API reference: a bare array of 1 to 100 events;
`transaction_id` of 1 to 128 characters, `customer_id`, `event_type` and an RFC 3339 `timestamp` are required, `properties`
are not; a timestamp may lie 34 days back and 24 hours ahead. A transaction_id that is still remembered is not taken in
again, whatever else the event says, and the answer does not tell. An event that no metric matches is taken in all the same.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from aggregator.sandbox.errors import ApiError
from aggregator.sandbox.metronome.settings import MOST_EVENTS, MetronomeRules
from aggregator.sandbox.metronome.wire import bad_request, read_instant

PAST_SECONDS = 34 * 86400
AHEAD_SECONDS = 24 * 3600
LONGEST_ID = 128
KNOWN = {"transaction_id", "customer_id", "event_type", "timestamp", "properties"}


class Usage(NamedTuple):
    """One event that was sent. `duplicate` says that it was known already, so that it never counts."""

    transaction_id: str
    customer_id: str
    event_type: str
    timestamp: float
    properties: Mapping[str, object]
    received_at: float
    duplicate: bool = False


class Log:
    """All events in the order received, and what is remembered of them."""

    def __init__(self) -> None:
        self.events: list[Usage] = []
        self.by_customer: dict[str, list[Usage]] = {}
        self._known_since: dict[str, float] = {}
        self.double_counted = 0
        """Events that count although their transaction_id counted before: the memory had run out."""

    def take(self, event: Usage, rules: MetronomeRules) -> None:
        """Take one event in; one that is still known is noted as a duplicate."""
        since = self._known_since.get(event.transaction_id)
        if since is not None and event.received_at - since < rules.transaction_memory_seconds:
            self.events.append(event._replace(duplicate=True))
            return
        self.double_counted += since is not None
        self._known_since[event.transaction_id] = event.received_at
        self.events.append(event)
        self.by_customer.setdefault(event.customer_id, []).append(event)

    def of(self, customers: Sequence[str], seen_by: float) -> Iterator[Usage]:
        """Yield the events that count of a customer, by all its names, received by then."""
        for customer in customers:
            yield from (each for each in self.by_customer.get(customer, ()) if each.received_at <= seen_by)


def read_batch(body: object, now: float, rules: MetronomeRules) -> tuple[list[Usage], ApiError | None]:
    """Read a request: the events that keep all rules, and what the first one that does not breaks.

    Raise ApiError for what is no batch at all.
    """
    if not isinstance(body, list):
        raise bad_request("The body must be an array of events.", reason="no_array")
    if not 1 <= len(body) <= MOST_EVENTS:
        raise bad_request(f"A request holds 1 to {MOST_EVENTS} events, not {len(body)}.", reason="batch_size")
    good: list[Usage] = []
    first: ApiError | None = None
    for position, item in enumerate(body):
        try:
            good.append(_read(item, position, now, rules))
        except ApiError as error:
            first = first or error
    return good, first


def _read(item: object, position: int, now: float, rules: MetronomeRules) -> Usage:
    where = f"[{position}]"
    if not isinstance(item, dict):
        raise bad_request(f"{where} must be an object.", reason="bad_event")
    unknown = sorted(item.keys() - KNOWN)
    if unknown:
        raise bad_request(f"{where} has the unknown field {unknown[0]}.", reason="unknown_field")
    transaction_id = _text(item, "transaction_id", where)
    if len(transaction_id) > LONGEST_ID:
        raise bad_request(f"{where}.transaction_id is longer than {LONGEST_ID} characters.", reason="long_id")
    customer_id, event_type = _text(item, "customer_id", where), _text(item, "event_type", where)
    timestamp = read_instant(item.get("timestamp"), f"{where}.timestamp")
    if timestamp < now - PAST_SECONDS:
        raise bad_request(f"{where}.timestamp lies more than 34 days back.", reason="timestamp_too_old")
    if timestamp > now + AHEAD_SECONDS:
        raise bad_request(f"{where}.timestamp lies more than 24 hours ahead.", reason="timestamp_in_future")
    properties = item.get("properties", {})
    if not isinstance(properties, dict):
        raise bad_request(f"{where}.properties must be an object.", reason="bad_properties")
    if customer_id in rules.refuse_customers:
        raise bad_request(f"{where} is refused by a rule of the sandbox.", reason="refused_customer")
    return Usage(transaction_id, customer_id, event_type, timestamp, properties, now)


def _text(item: Mapping[str, object], name: str, where: str) -> str:
    value = item.get(name)
    if not isinstance(value, str) or not value:
        raise bad_request(f"{where}.{name} is required, as text.", reason="missing_field")
    return value
