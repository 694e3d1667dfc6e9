"""Which problems of an event are refused at once, endpoint by endpoint, and in which words.

Version 1 has no table of errors; what is known of it comes from those who met it. Version 2 has one:
docs.stripe.com/api/v2/billing/meter-event/create. The stream refuses nothing: everything is reported later
(docs.stripe.com/api/v2/billing/meter-event-stream/create). Each function returns the refusal, or None for "later".
"""

from collections.abc import Callable

from aggregator.sandbox import validation
from aggregator.sandbox.errors import ApiError, duplicate_identifier, invalid
from aggregator.sandbox.meters import Meter
from aggregator.sandbox.reports import Invalid
from aggregator.sandbox.rules import Rules
from aggregator.sandbox.sent import Sent

Refuse = Callable[[Invalid, Sent, Meter | None, Rules], ApiError | None]

CUSTOMER_CODES = {validation.NO_CUSTOMER, validation.UNKNOWN_CUSTOMER}
VALUE_CODES = {validation.NO_VALUE, validation.INVALID_VALUE}
TIMESTAMP_REASONS = {validation.TOO_OLD: "timestamp_too_old", validation.IN_FUTURE: "timestamp_in_future"}

# Where version 2 has another word for it at once than in a report.
CODES_V2 = {
    validation.NO_CUSTOMER: "payload_no_customer_defined",
    validation.NO_VALUE: "payload_no_value_defined",
    validation.INVALID_VALUE: "payload_invalid_value",
    validation.TOO_MANY_DIGITS: "payload_invalid_value",
}


def refuse_v1(problem: Invalid, sent: Sent, meter: Meter | None, rules: Rules) -> ApiError | None:
    """Return version 1's refusal of a problem, or None when it is reported later."""
    code, message = problem
    if code == validation.DUPLICATE:
        return duplicate_identifier(sent.identifier or "")
    if code in {validation.NO_METER, validation.ARCHIVED}:
        message = f'No active meter found for event name "{sent.event_name}".'
        return ApiError(400, message, reason="no_active_meter")
    if code in TIMESTAMP_REASONS:
        return invalid(message, "timestamp", reason=TIMESTAMP_REASONS[code])
    if code == validation.TOO_MANY_DIGITS and meter is not None:
        return invalid(message, f"payload[{meter.value_key}]", reason="too_many_digits")
    at_once = (code in CUSTOMER_CODES and rules.sync_customer_errors) or (
        code in VALUE_CODES and rules.sync_value_errors
    )
    return ApiError(400, message, reason=code) if at_once else None


def refuse_v2(problem: Invalid, _sent: Sent, _meter: Meter | None, rules: Rules) -> ApiError | None:
    """Return version 2's refusal of a problem, or None when it is reported later."""
    code, message = problem
    if code == validation.DUPLICATE:
        return ApiError(400, message, reason="duplicate_identifier", code=code)
    later = (code in TIMESTAMP_REASONS and not rules.v2_sync_timestamp_errors) or (
        code == validation.UNKNOWN_CUSTOMER and not rules.sync_customer_errors
    )
    if later:
        return None
    return ApiError(400, message, reason=TIMESTAMP_REASONS.get(code, code), code=CODES_V2.get(code, code))
