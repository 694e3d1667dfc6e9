"""What is wrong with an event that arrived whole: all of it, in the codes of Stripe's error reports.

The codes are those of docs.stripe.com/api/v2/core/events/event-types, `v1.billing.meter.error_report_triggered`. Whether a
problem is refused at once or reported later depends on the endpoint and on the rules, see `refusals`.
"""

from collections.abc import Mapping
from decimal import Decimal
from typing import NamedTuple

from aggregator.sandbox.customers import Customers
from aggregator.sandbox.meters import Meter
from aggregator.sandbox.reports import Invalid
from aggregator.sandbox.rules import Rules
from aggregator.sandbox.sent import Sent
from aggregator.sandbox.values import MAX_SIGNIFICANT_DIGITS, read_value, significant_digits

# docs.stripe.com/billing/subscriptions/usage-based/recording-usage-api: rolling seconds back, clock drift ahead.
OLDEST_SECONDS = 35 * 86400
AHEAD_SECONDS = 5 * 60

NO_METER = "no_meter"
ARCHIVED = "archived_meter"
TOO_OLD = "timestamp_too_far_in_past"
IN_FUTURE = "timestamp_in_future"
NO_CUSTOMER = "meter_event_no_customer_defined"
UNKNOWN_CUSTOMER = "meter_event_customer_not_found"
NO_VALUE = "meter_event_value_not_found"
INVALID_VALUE = "meter_event_invalid_value"
TOO_MANY_DIGITS = "meter_event_value_too_many_digits"
# Stripe's reports have no code for a duplicate; this is the one that version 2 answers with.
DUPLICATE = "duplicate_meter_event"


class Examined(NamedTuple):
    """What an event comes to, and its problems, the gravest first."""

    customer: str | None
    value: Decimal | None
    timestamp: float
    problems: tuple[Invalid, ...]


def examine(sent: Sent, meter: Meter | None, customers: Customers, now: float, rules: Rules) -> Examined:
    """Return what an event says and what is wrong with it."""
    timestamp = int(now) if sent.timestamp is None else sent.timestamp
    if meter is None:
        wrong = Invalid(NO_METER, f"No meter was found matching event_name {sent.event_name}.")
        return Examined(None, None, timestamp, (wrong,))
    problems: tuple[Invalid, ...] = ()
    if meter.deactivated_at is not None:
        problems = (Invalid(ARCHIVED, f"The meter for event_name {sent.event_name} is not active."),)
    if not int(now) - OLDEST_SECONDS <= timestamp <= int(now) + AHEAD_SECONDS:
        problems += (_mistimed(timestamp, int(now)),)
    customer = sent.payload.get(meter.customer_key) or None
    if customer is None:
        message = f"Customer mapping key {meter.customer_key} not found in payload."
        problems += (Invalid(NO_CUSTOMER, message),)
    elif not customers.exists(customer, strict=rules.strict_customers):
        problems += (Invalid(UNKNOWN_CUSTOMER, f"No such customer: '{customer}'"),)
    if sent.flaw is not None:
        return Examined(customer, None, timestamp, (*problems, Invalid(INVALID_VALUE, sent.flaw)))
    if meter.formula == "count":
        return Examined(customer, None, timestamp, problems)
    value = _value(sent.payload, meter.value_key, whole=sent.whole)
    if isinstance(value, Invalid):
        return Examined(customer, None, timestamp, (*problems, value))
    return Examined(customer, value, timestamp, problems)


def _mistimed(timestamp: float, now: int) -> Invalid:
    if timestamp < now:
        message = (
            "The event timestamp cannot be more than 35 days in past. "
            f"Expected a timestamp greater than or equal to {now - OLDEST_SECONDS}."
        )
        return Invalid(TOO_OLD, message)
    latest = now + AHEAD_SECONDS
    message = f"The event timestamp lies more than 5 minutes ahead. The latest allowed now is {latest}."
    return Invalid(IN_FUTURE, message)


def _value(payload: Mapping[str, str], key: str, *, whole: bool) -> Decimal | Invalid:
    text = payload.get(key)
    if text is None:
        return Invalid(NO_VALUE, f"Value key {key} not found in payload.")
    value = read_value(text)
    if value is None:
        return Invalid(INVALID_VALUE, f"The value {text!r} is not a number in plain digits.")
    if len(text) > MAX_SIGNIFICANT_DIGITS and significant_digits(text) > MAX_SIGNIFICANT_DIGITS:
        message = f"The value can have at most {MAX_SIGNIFICANT_DIGITS} significant digits, but it is {text}."
        return Invalid(TOO_MANY_DIGITS, message)
    if whole and (value <= 0 or value != value.to_integral_value()):
        return Invalid(INVALID_VALUE, f"The value must be a positive integer, but it is {text}.")
    return value
