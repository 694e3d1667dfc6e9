"""Meter events: which are accepted, which of the accepted ones count.

From docs.stripe.com/api/billing/meter-event/create: a flat payload of strings, an identifier unique for a rolling
period, a timestamp in the past 35 days or up to 5 minutes ahead, 200 as soon as the event is taken. Taken is not
counted: an unknown customer or an unreadable value is found out later, so such an event is kept with the code that
Stripe reports (`reports`), and never counts. Its identifier is used up all the same, unless the rules say otherwise.

From docs.stripe.com/billing/subscriptions/usage-based/meters/configure: on a meter with an `event_time_window` the most
recently received event of each customer's UTC hour or day, by the event's timestamp, is the one that counts.

An event counts once it is processed, `processing_delay_seconds` after it was received; one that is found invalid counts no
more. Both are worked out when somebody asks; nothing runs in the background.
"""

from collections.abc import Iterable, Iterator
from decimal import Decimal
from typing import NamedTuple
from uuid import uuid4
from zlib import crc32

from aggregator.sandbox.checks import Seconds
from aggregator.sandbox.customers import Customers
from aggregator.sandbox.errors import ApiError, duplicate_identifier, invalid, missing_param
from aggregator.sandbox.form import Params
from aggregator.sandbox.journal import Note, Record
from aggregator.sandbox.meters import Meter, Meters
from aggregator.sandbox.reports import Findings, Invalid
from aggregator.sandbox.rules import Rules
from aggregator.sandbox.values import MAX_SIGNIFICANT_DIGITS, read_value, significant_digits

# docs.stripe.com/billing/subscriptions/usage-based/recording-usage-api: rolling seconds back, clock drift ahead.
OLDEST_SECONDS = 35 * 86400
AHEAD_SECONDS = 5 * 60


class Event(NamedTuple):
    """One accepted event. `reason` is why it never counts, or None. Named tuples, since there may be millions."""

    sequence: int
    identifier: str
    event_name: str
    customer: str | None
    value: Decimal | None
    timestamp: int
    received_at: float
    reason: str | None


class Draft(NamedTuple):
    """The parts of a create call that were read before anything is decided."""

    meter: Meter
    payload: dict[str, str]
    customer: str | None


class Sight(NamedTuple):
    """What somebody who asks can see: what was processed by now. Without a delay it is everything."""

    now: float
    delay_seconds: Seconds | None = None

    def among(self, events: Iterable[Event]) -> list[Event]:
        """Return those events that are processed."""
        delay = self.delay_seconds
        if delay is None:
            return list(events)
        if isinstance(delay, tuple):
            return [each for each in events if each.received_at + lag(each.identifier, delay) <= self.now]
        received_by = self.now - delay
        return [event for event in events if event.received_at <= received_by]


def lag(identifier: str, delay: Seconds) -> float:
    """Return how long the processing of an event takes: within a range by chance, but always the same."""
    if not isinstance(delay, tuple):
        return delay
    least, most = delay
    return least + (most - least) * crc32(identifier.encode()) / 0xFFFFFFFF


class Series:
    """The events of one customer of one meter that may count, in the order received."""

    __slots__ = ("customer", "events", "latest")

    def __init__(self, customer: str) -> None:
        self.customer = customer
        self.events: list[Event] = []
        self.latest: dict[int, int] = {}

    def add(self, event: Event, window_seconds: int | None) -> None:
        """Append an event and remember it as the last of its window."""
        self.events.append(event)
        if window_seconds is not None:
            self.latest[event.timestamp // window_seconds] = event.sequence

    def replaced(self, event: Event, window_seconds: int | None) -> bool:
        """Say whether a later event took this one's place in its window, none of them being invalid."""
        return window_seconds is not None and self.latest[event.timestamp // window_seconds] != event.sequence


class Events:
    """The accepted events of one account and mode."""

    def __init__(self, *, livemode: bool, note: Note, meters: Meters, customers: Customers) -> None:
        self._livemode = livemode
        self._note = note
        self._meters = meters
        self._customers = customers
        # When each identifier was last accepted. Never pruned: it is how a second count is noticed.
        self._accepted_at: dict[str, float] = {}
        self._series: dict[str, dict[str, Series]] = {}
        self.log: list[Event] = []
        self.findings = Findings(livemode=livemode, note=note)
        self.double_counted = 0

    def draft(self, params: Params) -> Draft:
        """Read the parameters and find the meter. Raise ApiError when it is malformed or there is none."""
        params.only("event_name", "payload", "identifier", "timestamp")
        event_name = params.required("event_name", limit=100)
        payload = params.section("payload").strings()
        if not payload:
            raise missing_param("payload")
        meter = self._meters.for_event(event_name)
        if meter is None:
            raise _no_meter(event_name)
        return Draft(meter, payload, payload.get(meter.customer_key) or None)

    def accept(self, draft: Draft, params: Params, now: float, rules: Rules) -> dict[str, object]:
        """Take one event and return the object Stripe answers with. Raise ApiError when it is refused."""
        if draft.meter.status == "inactive":
            raise _no_meter(draft.meter.event_name)
        timestamp = _timestamp(params, now)
        value, invalid_value = _value(draft, rules)
        wrong = self._invalid_customer(draft, rules) or invalid_value
        identifier = params.text("identifier", limit=100) or str(uuid4())
        self._refuse_duplicate(identifier, now, rules)
        event = Event(
            sequence=len(self.log) + 1,
            identifier=identifier,
            event_name=draft.meter.event_name,
            customer=draft.customer,
            value=value,
            timestamp=timestamp,
            received_at=now,
            reason=None if wrong is None else wrong.code,
        )
        self._note("event", _record(event))
        self._remember(event, draft.meter)
        if wrong is not None:
            found_at = now + lag(identifier, rules.processing_delay_seconds)
            self._find(event, draft.meter, wrong, found_at, rules, counts=False)
        return {
            "object": "billing.meter_event",
            "created": int(now),
            "event_name": event.event_name,
            "identifier": identifier,
            "livemode": self._livemode,
            "payload": draft.payload,
            "timestamp": timestamp,
        }

    def reject_last(self, wrong: Invalid, found_at: float, rules: Rules, *, counts: bool) -> None:
        """Have the event accepted last found invalid at a moment; `counts` says whether it counts until then."""
        event = self.log[-1]
        meter = self._meters.for_event(event.event_name)
        if event.reason is None and meter is not None:
            self._find(event, meter, wrong, found_at, rules, counts=counts)

    def by_customer(self, meter: Meter, sight: Sight) -> Iterator[tuple[str, list[Event]]]:
        """Yield each customer who has events of the meter, with those that count among what can be seen."""
        for series in self._series.get(meter.event_name, {}).values():
            yield series.customer, self._counting(series, meter, sight)

    def counting(self, meter: Meter, customer: str, sight: Sight) -> list[Event]:
        """Return a customer's events that count among what can be seen."""
        series = self._series.get(meter.event_name, {}).get(customer)
        return [] if series is None else self._counting(series, meter, sight)

    def fate(self, event: Event, now: float) -> str | None:
        """Return why an accepted event does not count, or None when it does."""
        meter = self._meters.for_event(event.event_name)
        if event.reason is not None or meter is None or event.customer is None:
            return event.reason
        finding = self.findings.of(event.sequence)
        if finding is not None and not self.findings.spares(event.sequence, now):
            return finding.code
        series = self._series[event.event_name][event.customer]
        if not series.replaced(event, meter.window_seconds):
            return None
        if self.findings and event in self._counting(series, meter, Sight(now)):
            return None
        return "replaced"

    def _counting(self, series: Series, meter: Meter, sight: Sight) -> list[Event]:
        events = sight.among(series.events)
        if self.findings:
            events = [each for each in events if self.findings.spares(each.sequence, sight.now)]
        window_seconds = meter.window_seconds
        if window_seconds is None:
            return events
        return list({event.timestamp // window_seconds: event for event in events}.values())

    def _find(
        self, event: Event, meter: Meter, wrong: Invalid, found_at: float, rules: Rules, *, counts: bool
    ) -> None:
        where = event.sequence, event.identifier, meter.id
        span_seconds = rules.report_window_seconds
        self.findings.add(where, wrong, found_at, counts=counts, span_seconds=span_seconds)

    def restore(self, record: Record) -> None:
        """Take an event back from the state file."""
        value = record.pop("value")
        event = Event(sequence=len(self.log) + 1, value=None if value is None else Decimal(value), **record)
        meter = self._meters.for_event(event.event_name)
        if meter is not None:
            self._remember(event, meter)

    def _refuse_duplicate(self, identifier: str, now: float, rules: Rules) -> None:
        before = self._accepted_at.get(identifier)
        if before is None or now - before >= rules.identifier_memory_seconds:
            return
        if rules.rejected_identifier_used or not self.findings.found(identifier, now):
            raise duplicate_identifier(identifier)

    def _invalid_customer(self, draft: Draft, rules: Rules) -> Invalid | None:
        if draft.customer is None:
            message = f"Customer mapping key {draft.meter.customer_key} not found in payload."
            return _later("meter_event_no_customer_defined", message, at_once=rules.sync_customer_errors)
        if self._customers.exists(draft.customer, strict=rules.strict_customers):
            return None
        message = f"No such customer: '{draft.customer}'"
        return _later("meter_event_customer_not_found", message, at_once=rules.sync_customer_errors)

    def _remember(self, event: Event, meter: Meter) -> None:
        if event.identifier in self._accepted_at:
            # Counted twice, unless the one before has turned out to be invalid.
            self.double_counted += not self.findings.found(event.identifier, event.received_at)
            self.findings.accepted_again(event.identifier)
        self._accepted_at[event.identifier] = event.received_at
        if event.reason is None and event.customer is not None:
            by_customer = self._series.setdefault(meter.event_name, {})
            series = by_customer.get(event.customer)
            if series is None:
                series = by_customer[event.customer] = Series(event.customer)
            event = event._replace(event_name=meter.event_name, customer=series.customer)
            series.add(event, meter.window_seconds)
        self.log.append(event)


def _no_meter(event_name: str) -> ApiError:
    message = f'No active meter found for event name "{event_name}".'
    return ApiError(400, message, reason="no_active_meter")


def _timestamp(params: Params, now: float) -> int:
    timestamp = params.integer("timestamp")
    if timestamp is None:
        return int(now)
    oldest = int(now) - OLDEST_SECONDS
    if timestamp < oldest:
        message = (
            "The event timestamp cannot be more than 35 days in past. "
            f"Expected a timestamp greater than or equal to {oldest}."
        )
        raise invalid(message, "timestamp", reason="timestamp_too_old")
    latest = int(now) + AHEAD_SECONDS
    if timestamp > latest:
        message = f"The event timestamp lies more than 5 minutes ahead. The latest allowed now is {latest}."
        raise invalid(message, "timestamp", reason="timestamp_in_future")
    return timestamp


def _value(draft: Draft, rules: Rules) -> tuple[Decimal | None, Invalid | None]:
    """Return the value, or why there is none. A `count` meter looks at no value."""
    meter = draft.meter
    if meter.formula == "count":
        return None, None
    text = draft.payload.get(meter.value_key)
    if text is None:
        message = f"Value key {meter.value_key} not found in payload."
        return None, _later("meter_event_value_not_found", message, at_once=rules.sync_value_errors)
    value = read_value(text)
    if value is None:
        message = f"The value {text!r} is not a number in plain digits."
        return None, _later("meter_event_invalid_value", message, at_once=rules.sync_value_errors)
    if significant_digits(text) > MAX_SIGNIFICANT_DIGITS:
        message = f"The value can have at most {MAX_SIGNIFICANT_DIGITS} significant digits, but it is {text}."
        raise invalid(message, f"payload[{meter.value_key}]", reason="too_many_digits")
    return value, None


def _later(code: str, message: str, *, at_once: bool) -> Invalid:
    """Return what to report later, or refuse now where the rules say so."""
    if at_once:
        raise ApiError(400, message, reason=code)
    return Invalid(code, message)


def _record(event: Event) -> Record:
    return {
        "identifier": event.identifier,
        "event_name": event.event_name,
        "customer": event.customer,
        "value": None if event.value is None else str(event.value),
        "timestamp": event.timestamp,
        "received_at": event.received_at,
        "reason": event.reason,
    }
