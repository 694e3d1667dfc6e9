"""The rules: how the sandbox decides where Stripe's behaviour is settable, contradictory or not documented.

They are replaced whole while it runs, through `/_sandbox/rules`. docs/sandbox.md says of each how sure its default is.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from aggregator.sandbox.checks import (
    SECONDS_WANTED,
    Seconds,
    at_least_zero,
    is_count,
    is_seconds,
    refuse_unknown,
    require,
    with_pairs,
)

# Stripe promises at least 24 hours (docs.stripe.com/api/billing/meter-event/create). The sandbox forgets exactly
# then, because the harm of a resend after the promise has run out must be possible to see.
IDENTIFIER_MEMORY_SECONDS = 24 * 3600.0

# docs.stripe.com/api/v2/core/events/event-types shows reports over ten seconds each.
REPORT_WINDOW_SECONDS = 10.0
REPORT_SAMPLES = 5

# docs.stripe.com/billing/subscriptions/usage-based/recording-usage-api: a session is good for 15 minutes.
SESSION_SECONDS = 15 * 60.0

# docs.stripe.com/billing/subscriptions/usage-based/meters/configure: 24 hours from receipt.
CANCEL_WINDOW_SECONDS = 24 * 3600.0

# Stripe states none: far more than a month of days of thirty meters.
METER_USAGE_ROWS = 1000

RANGES = ("processing_delay_seconds", "adjustment_delay_seconds")
SECONDS = (
    "identifier_memory_seconds",
    "report_window_seconds",
    "session_seconds",
    "cancel_window_seconds",
    "meter_usage_lag_seconds",
)
CHOICES: dict[str, tuple[object, ...]] = {
    "identifier_scope": ("account", "event_name"),
    "sample_identifier": ("event", "idempotency_key"),
    "last_by": ("timestamp", "receipt"),
    "session_expired_status": (401, 400),
    "no_meter_related_object": ("empty", "null"),
    "meter_usage_status": (404, 403, 400),
}


@dataclass(frozen=True)
class Rules:
    """How strict the sandbox is.

    `strict_customers`: only customers that were created exist. Otherwise any `cus_...` or `acct_...` does.
    `sync_customer_errors`: an unknown or missing customer is a 400. Otherwise a 200 which never counts.
    `sync_value_errors`: an unreadable or missing value is a 400 in v1. Otherwise a 200 which never counts.
    `processing_delay_seconds`: from receipt until an event shows in summaries; two numbers mean a range.
    `rejected_identifier_used`: an event that was found invalid keeps its identifier. Otherwise it may be used again.
    `identifier_scope`: an identifier is unique within the `account`, or for each `event_name` by itself.
    `report_window_seconds`: a report tells what was found within so long, and is there when that time is over; with 0
    each event has a report of its own, at once.
    `report_samples`: of each kind of error a report names at most so many events; it counts them all.
    `sample_identifier`: a sample names the `event` by its identifier, or the call by its `idempotency_key` if it had one.
    `no_meter_related_object`: what the report without a meter has for one: `{}`, or null.
    `health_events_listed`: the list of thin events may be asked for those on summaries being late. Otherwise it is a 400.
    `import_events_listed`: `GET /v1/events` may be asked for the events of import sets. Otherwise it is a 400.

    `v2_whole_values`: v2 takes only whole values above 0. `v2_number_values`: v2 takes a JSON number for its text.
    `v2_sync_timestamp_errors`: a timestamp out of bounds is a 400 in v2. Otherwise it is reported later.
    `v2_unknown_fields`: v2 takes fields that it does not know. `v2_error_types`: v2's 400 and 409 have a `type` as well.
    `v2_restricted_keys`: v2 takes restricted keys. `v2_keeps_errors`: v2 keeps a 500 under its `Idempotency-Key` as v1 does.

    `session_seconds`: how long a session's token is good. `session_expired_status`: 401, or 400.
    `stream_size_errors`: no event, or more than a hundred in one call, is a 400. Otherwise they are all taken.
    `stream_keeps_answers`: the stream knows an `Idempotency-Key` again. `stream_reports_duplicates`: in error reports.

    `adjustment_complete_at_once`: a cancellation answers `complete`. Otherwise it answers `pending`, and takes effect
    `adjustment_delay_seconds` later. `cancel_window_seconds`: how long after its receipt an event can be cancelled.
    `cancel_unknown_code`, `cancel_late_code`: v1's codes for an identifier unknown or too old; `cancel_code_v2`: v2's.
    `cancel_twice_refused`: a second cancellation is a 400. Otherwise it is answered like the first.
    `cancelled_identifier_free`: the identifier of a cancelled event may be used again at once.
    `cancel_restores_previous`: on a meter with a window, the event before the cancelled one counts again.

    `last_by`: a `last` meter goes by `timestamp`, of equal ones by receipt, or by `receipt` alone.
    `window_per_payload`: on a meter with a window, events with other payload besides customer and value stand apart.
    `summaries_oldest_first`, `summaries_empty_buckets`: the order of buckets, and whether those without events have a row.
    `summaries_know_customers`: summaries of a customer who does not exist are a 400. Otherwise he used nothing.

    `dimensions`: a meter may be made with `dimension_payload_keys`, as in a private preview of Stripe's. Otherwise that is
    an unknown parameter. `dimension_combinations_per_hour`, `dimension_combinations_per_customer`: how many combinations of
    their values a meter takes in an hour, and of a customer at all; an event of another one is reported, and never counts.

    `meter_usage`: the account has the preview of meter usage. Otherwise a call for it is refused with `meter_usage_status`.
    `meter_usage_lag_seconds`: how old what it shows is. `meter_usage_rows`: how many rows an answer has at most.
    """

    strict_customers: bool = False
    sync_customer_errors: bool = False
    sync_value_errors: bool = False
    identifier_memory_seconds: float = IDENTIFIER_MEMORY_SECONDS
    processing_delay_seconds: Seconds = 0.0
    rejected_identifier_used: bool = True
    report_window_seconds: float = REPORT_WINDOW_SECONDS
    identifier_scope: Literal["account", "event_name"] = "account"
    report_samples: int = REPORT_SAMPLES
    sample_identifier: Literal["event", "idempotency_key"] = "event"
    no_meter_related_object: Literal["empty", "null"] = "empty"
    health_events_listed: bool = True
    import_events_listed: bool = True
    v2_whole_values: bool = False
    v2_number_values: bool = False
    v2_sync_timestamp_errors: bool = False
    v2_unknown_fields: bool = False
    v2_error_types: bool = False
    v2_restricted_keys: bool = True
    v2_keeps_errors: bool = False
    session_seconds: float = SESSION_SECONDS
    session_expired_status: Literal[401, 400] = 401
    stream_size_errors: bool = True
    stream_keeps_answers: bool = True
    stream_reports_duplicates: bool = True
    adjustment_complete_at_once: bool = False
    adjustment_delay_seconds: Seconds = 0.0
    cancel_window_seconds: float = CANCEL_WINDOW_SECONDS
    cancel_unknown_code: str = "resource_missing"
    cancel_late_code: str = "out_of_window"
    cancel_code_v2: str = "invalid_cancel_configuration"
    cancel_twice_refused: bool = False
    cancelled_identifier_free: bool = False
    cancel_restores_previous: bool = False
    last_by: Literal["timestamp", "receipt"] = "timestamp"
    window_per_payload: bool = False
    summaries_oldest_first: bool = False
    summaries_empty_buckets: bool = False
    summaries_know_customers: bool = False
    dimensions: bool = False
    dimension_combinations_per_hour: int = 10_000
    dimension_combinations_per_customer: int = 100
    meter_usage: bool = False
    meter_usage_status: Literal[404, 403, 400] = 404
    meter_usage_lag_seconds: float = 0.0
    meter_usage_rows: int = METER_USAGE_ROWS

    def __post_init__(self) -> None:
        for name, kind in type(self).__annotations__.items():
            value = getattr(self, name)
            if kind is bool:
                require(isinstance(value, bool), name, "true or false")
            elif kind is str:
                require(isinstance(value, str) and value, name, "a text")
        for name in SECONDS:
            require(at_least_zero(getattr(self, name)), name, "a number of seconds, 0 or more")
        for name in RANGES:
            require(is_seconds(getattr(self, name)), name, SECONDS_WANTED)
        for name, choices in CHOICES.items():
            require(getattr(self, name) in choices, name, f"one of {', '.join(map(str, choices))}")
        for name in (
            "report_samples",
            "dimension_combinations_per_hour",
            "dimension_combinations_per_customer",
            "meter_usage_rows",
        ):
            require(is_count(getattr(self, name)), name, "a count")


def read_rules(data: Mapping[str, Any]) -> Rules:
    """Build rules from JSON. Raise ValueError for a name or a value that is not one."""
    refuse_unknown(data, Rules)
    return Rules(**with_pairs(data, RANGES))
