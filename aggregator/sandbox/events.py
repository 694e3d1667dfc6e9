"""Meter events: which are taken, under which identifiers, and what becomes of them.

From docs.stripe.com/api/billing/meter-event/create: an identifier is unique for a rolling period, and the answer is 200 as
soon as the event is taken. Taken is not counted: what is wrong with an event may be found out later, so such an event is
kept with the code that Stripe reports (`reports`), and never counts. Its identifier is used up all the same, unless the
rules say otherwise.

There is one memory of identifiers for version 1, version 2 and the stream. A duplicate in the stream is no event at all: it
is only reported.
"""

from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import NamedTuple
from uuid import uuid4

from aggregator.sandbox.adjustments import Cancellation, Cancellations, Request
from aggregator.sandbox.combinations import Combinations
from aggregator.sandbox.customers import Customers
from aggregator.sandbox.errors import ApiError
from aggregator.sandbox.journal import Note, Record
from aggregator.sandbox.meters import Meter, Meters
from aggregator.sandbox.refusals import Refuse
from aggregator.sandbox.reports import Findings, Invalid
from aggregator.sandbox.rules import Rules
from aggregator.sandbox.sent import Sent
from aggregator.sandbox.series import Event, Extra, Series, Sight, lag
from aggregator.sandbox.validation import DUPLICATE, Examined, examine


class Draft(NamedTuple):
    """An event that is not decided on yet, and its meter if there is one."""

    sent: Sent
    meter: Meter | None

    @property
    def customer(self) -> str | None:
        """Return whose event it is, as far as it says."""
        return None if self.meter is None else self.sent.payload.get(self.meter.customer_key) or None


class Events:
    """The accepted events of one account and mode."""

    def __init__(
        self, *, tag: str, context: str | None, note: Note, meters: Meters, customers: Customers
    ) -> None:
        self._note = note
        self._meters = meters
        self._customers = customers
        # The sequence of the event accepted last under each identifier. Never pruned: it is how a second count is noticed.
        self._last: dict[str, int] = {}
        # The same for those events whose identifier was accepted later under another event name.
        self._elsewhere: dict[tuple[str, str], int] = {}
        self._series: dict[str, dict[str, Series]] = {}
        self._combinations = Combinations()
        self.log: list[Event] = []
        self.findings = Findings(tag=tag, context=context, note=note)
        self.cancellations = Cancellations(tag, note)
        self.double_counted = 0

    def draft(self, sent: Sent) -> Draft:
        """Find the meter of an event."""
        return Draft(sent, self._meters.for_event(sent.event_name))

    def take(
        self, draft: Draft, now: float, rules: Rules, refuse: Refuse | None = None, key: str = ""
    ) -> Event | None:
        """Take one event. What is wrong is refused with an ApiError, or reported; None for a duplicate that is reported.

        `key` is the `Idempotency-Key` of the call.
        """
        sent, meter = draft
        examined = self._examined(draft, now, rules)
        duplicate = self._remembers(sent, now, rules)
        if refuse is not None and (duplicate or examined.problems):
            _refuse(refuse, draft, examined, rules, duplicate=duplicate)
        if duplicate:
            self._report_duplicate(draft, now, rules)
            return None
        wrong = examined.problems[0] if examined.problems else None
        event = Event(
            len(self.log) + 1,
            sent.identifier or str(uuid4()),
            sent.event_name if meter is None else meter.event_name,
            examined.customer,
            examined.value,
            examined.timestamp,
            now,
            None if wrong is None else wrong.code,
            () if meter is None else _extra(sent, meter),
        )
        self._note("event", _record(event))
        self._remember(event)
        if wrong is not None:
            found_at = now + lag(event.identifier, rules.processing_delay_seconds)
            self.find(event, wrong, found_at, rules, counts=False, key=key)
        return event

    def _examined(self, draft: Draft, now: float, rules: Rules) -> Examined:
        """Say what is wrong with an event, its dimensions last: they are counted where all else is right."""
        sent, meter = draft
        examined = examine(sent, meter, self._customers, now, rules)
        if meter is None or examined.problems:
            return examined
        wrong = self._combinations.problem(meter, sent.payload, examined.customer, examined.timestamp, rules)
        return examined if wrong is None else examined._replace(problems=(wrong,))

    def find(
        self, event: Event, wrong: Invalid, found_at: float, rules: Rules, *, counts: bool, key: str = ""
    ) -> None:
        """Have an event found invalid at a moment; `counts` says whether it counts until then."""
        meter = self._meters.for_event(event.event_name)
        where = event.sequence, event.identifier, "" if meter is None else meter.id
        span = rules.report_window_seconds
        self.findings.add(where, wrong, found_at, counts=counts, span_seconds=span, key=key)

    def cancel(self, request: Request, now: float, rules: Rules, *, code: str | None = None) -> Cancellation:
        """Cancel an event. Raise ApiError if it cannot be; `code` replaces the codes of version 1."""
        sequence = self._find(request.identifier, request.event_name)
        event = None if sequence is None else self.log[sequence - 1]
        if event is None:
            message = f"No meter event {request.event_name} has the identifier {request.identifier}."
            raise ApiError(400, message, reason="cancel_unknown", code=code or rules.cancel_unknown_code)
        before = self.cancellations.of(event.sequence)
        if before is not None:
            if rules.cancel_twice_refused:
                message = f"The meter event with identifier {request.identifier} is cancelled already."
                raise ApiError(400, message, reason="cancelled_before", code="already_canceled")
            return before
        if now - event.received_at > rules.cancel_window_seconds:
            hours = f"{rules.cancel_window_seconds / 3600:g}"
            message = (
                f"A meter event can be cancelled within {hours} hours of its receipt, and this one is older."
            )
            raise ApiError(400, message, reason="cancel_late", code=code or rules.cancel_late_code)
        delay = lag(event.identifier, rules.adjustment_delay_seconds)
        return self.cancellations.add(event.sequence, request, now, delay, rules)

    def by_customer(self, meter: Meter, sight: Sight) -> Iterator[tuple[str, list[Event]]]:
        """Yield each customer who has events of the meter, with those that count among what can be seen."""
        for series in self._series.get(meter.event_name, {}).values():
            yield series.customer, self._counting(series, meter, sight)

    def counting(self, meter: Meter, customer: str, sight: Sight) -> list[Event]:
        """Return a customer's events that count among what can be seen."""
        series = self._series.get(meter.event_name, {}).get(customer)
        return [] if series is None else self._counting(series, meter, sight)

    def fates(self, sight: Sight) -> Callable[[Event], str | None]:
        """Return a function that says why an accepted event does not count, or None when it does."""
        counted: dict[int, set[int]] = {}

        def fate(event: Event) -> str | None:
            meter = self._meters.for_event(event.event_name)
            if event.reason is not None or meter is None or event.customer is None:
                return event.reason
            if not self.findings.spares(event.sequence, sight.now):
                finding = self.findings.of(event.sequence)
                return None if finding is None else finding.code
            if self.cancellations.covers(event.sequence, sight.now):
                return "cancelled"
            if meter.window_seconds is None:
                return None
            series = self._series[event.event_name][event.customer]
            if id(series) not in counted:
                counted[id(series)] = {each.sequence for each in self._counting(series, meter, sight)}
            return None if event.sequence in counted[id(series)] else "replaced"

        return fate

    def restore(self, record: Record) -> None:
        """Take an event back from the state file."""
        value, extra = record.pop("value"), record.pop("extra", ())
        event = Event(
            sequence=len(self.log) + 1,
            value=None if value is None else Decimal(value),
            extra=tuple((key, text) for key, text in extra),
            **record,
        )
        self._remember(event)

    def _counting(self, series: Series, meter: Meter, sight: Sight) -> list[Event]:
        return series.counting(meter.window_seconds, sight, self.findings, self.cancellations)

    def _find(self, identifier: str, event_name: str) -> int | None:
        """Return the sequence of the last event of this name under an identifier."""
        sequence = self._last.get(identifier)
        if sequence is None or self.log[sequence - 1].event_name == event_name:
            return sequence
        return self._elsewhere.get((event_name, identifier))

    def _remembers(self, sent: Sent, now: float, rules: Rules) -> bool:
        """Say whether the identifier of an event cannot be used now."""
        identifier = sent.identifier
        if identifier is None:
            return False
        whole = rules.identifier_scope == "account"
        sequence = self._last.get(identifier) if whole else self._find(identifier, sent.event_name)
        if sequence is None or now - self.log[sequence - 1].received_at >= rules.identifier_memory_seconds:
            return False
        if rules.cancelled_identifier_free and self.cancellations.of(sequence) is not None:
            return False
        return rules.rejected_identifier_used or not self.findings.found(sequence, now)

    def _report_duplicate(self, draft: Draft, now: float, rules: Rules) -> None:
        if not rules.stream_reports_duplicates:
            return
        identifier = draft.sent.identifier or ""
        where = 0, identifier, "" if draft.meter is None else draft.meter.id
        found_at = now + lag(identifier, rules.processing_delay_seconds)
        span = rules.report_window_seconds
        self.findings.add(where, _duplicate(identifier), found_at, counts=False, span_seconds=span)

    def _remember(self, event: Event) -> None:
        before = self._last.get(event.identifier)
        if before is not None:
            self._accepted_again(event, before)
        self._last[event.identifier] = event.sequence
        meter = self._meters.for_event(event.event_name)
        if meter is not None and event.reason is None and event.customer is not None:
            self._combinations.remember(meter, dict(event.extra), event.customer, event.timestamp)
        if event.reason is None and event.customer is not None:
            by_customer = self._series.setdefault(event.event_name, {})
            series = by_customer.get(event.customer)
            if series is None:
                series = by_customer[event.customer] = Series(event.customer)
            elif series.customer is not event.customer:
                event = event._replace(customer=series.customer)
            series.events.append(event)
        self.log.append(event)

    def _accepted_again(self, event: Event, before: int) -> None:
        """Take note that an identifier has another event from now on."""
        other = self.log[before - 1].event_name
        same = self._find(event.identifier, event.event_name)
        if other != event.event_name:
            self._elsewhere[other, event.identifier] = before
        # Counted twice, unless the one before has turned out to be invalid, is cancelled, or is of another meter.
        if same is not None and not self.findings.found(same, event.received_at):
            self.double_counted += self.cancellations.of(same) is None


def _refuse(refuse: Refuse, draft: Draft, examined: Examined, rules: Rules, *, duplicate: bool) -> None:
    """Raise the refusal of the first problem that is refused at once; being a duplicate comes last."""
    problems = list(examined.problems)
    if duplicate:
        problems.append(_duplicate(draft.sent.identifier or ""))
    for problem in problems:
        error = refuse(problem, draft.sent, draft.meter, rules)
        if error is not None:
            raise error


def _duplicate(identifier: str) -> Invalid:
    return Invalid(DUPLICATE, f"An event already exists with identifier {identifier}.")


def _extra(sent: Sent, meter: Meter) -> Extra:
    payload = sent.payload
    if len(payload) == 2 and meter.customer_key in payload and meter.value_key in payload:
        return ()
    known = {meter.customer_key, meter.value_key}
    return tuple(sorted((key, text) for key, text in payload.items() if key not in known))


def _record(event: Event) -> Record:
    record = {
        "identifier": event.identifier,
        "event_name": event.event_name,
        "customer": event.customer,
        "value": None if event.value is None else str(event.value),
        "timestamp": event.timestamp,
        "received_at": event.received_at,
        "reason": event.reason,
    }
    return {**record, "extra": event.extra} if event.extra else record
