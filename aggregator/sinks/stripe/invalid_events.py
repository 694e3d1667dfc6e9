"""What Stripe's messages on invalid events say. Pure: what was fetched or delivered in, values out.

Rules
- A report counts more than it names: it has samples. What it names is refused by name, the rest is read back.
- A sample names an event of ours by the event's identifier, or by the `Idempotency-Key` of the call that brought it: Stripe
  says "idempotency key", and calls it an identifier (docs.stripe.com/api/v2/core/events/event-types). So a key of ours
  begins with the identifier of its event (`meter_events`), and either is recognised. Anything else is somebody else's.
- The list of codes is open. Each is a reason to refuse, but for one that says the event was there before: that one is
  booked, and to bill it again would bill it twice.
- `no_meter_found` belongs to no meter. Event names of ours in its words say whose events it is about; what it leaves open is
  looked for with every meter of the sink.
- Whatever is missing, or of another kind than expected, is trouble that is said, and never an error that holds up the rest.

The shapes are those of docs.stripe.com/api/v2/core/events/event-types, and of
docs.stripe.com/billing/subscriptions/usage-based/recording-usage-in-bulk for imports.
"""

import datetime as dt
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from aggregator.core.model import Rejection, Report, Span
from aggregator.core.notifications import Notification, ParsedNotification, Unimported
from aggregator.runtime.redact import storable

ERROR_REPORT = "v1.billing.meter.error_report_triggered"
NO_METER = "v1.billing.meter.no_meter_found"
IMPORT_FAILED = "data_management.import_set.failed"
IMPORT_SUCCEEDED = "data_management.import_set.succeeded"

FETCHED = (ERROR_REPORT, NO_METER)
"""Messages that say only that there is something: what, is fetched by their id."""

WHOLE = (IMPORT_FAILED, IMPORT_SUCCEEDED)
"""Messages that say everything themselves."""

LATE = "v2.core.health.meter_event_summaries_delayed.firing"
ON_TIME = "v2.core.health.meter_event_summaries_delayed.resolved"

HEALTH = (LATE, ON_TIME)
"""Messages that summaries are delayed, and that they are not any more: their types say it. Stripe has them in a preview, so
they are asked for by themselves: a list with an unknown type may be refused."""

IDENTIFIER = re.compile(r"(agg_[0-9A-Za-z]{20})(?:\.|$)")
"""An identifier of ours, alone or at the beginning of an `Idempotency-Key` of ours."""

INVALID = frozenset(
    {
        "archived_meter",
        "meter_event_customer_not_found",
        "meter_event_dimension_count_too_high",
        "meter_event_invalid_value",
        "meter_event_no_customer_defined",
        "meter_event_value_not_found",
        "meter_event_value_too_many_digits",
        "missing_dimension_payload_keys",
        "no_meter",
        "timestamp_in_future",
        "timestamp_too_far_in_past",
    }
)
"""The codes that are known. Only of one that is not, the words are looked at."""

THERE_BEFORE = re.compile(r"duplicate|already exists with identifier", re.IGNORECASE)

FILE = re.compile(r"[^/\\\s]+\.(?:csv|jsonl?)(?![\w.])", re.IGNORECASE)

LONGEST_REASON = 500
"""Of somebody else's words. What is longer says no more."""

MOST_FILES = 50

Fields = Mapping[str, object]


class _Sample(NamedTuple):
    identifier: str | None
    reason: str


class _Errors(NamedTuple):
    """What a report comes to: how many events it is about and how many were invalid, which are ours, and all the words."""

    events: int
    rejected: int
    named: tuple[Rejection, ...]
    samples: tuple[_Sample, ...]


def read_report(
    message: Fields, meter: str | None, event_names: Mapping[str, Collection[str]]
) -> ParsedNotification:
    """Read a fetched message about invalid events.

    `meter` is the meter of ours that it is related to, None if there is none; `event_names` are those of all our meters of
    the sink, by meter.
    """
    notification, data = notification_of(message), _mapping(message.get("data"))
    errors = _errors(_mapping(data.get("reason")))
    try:
        span = Span(_instant(data.get("validation_start")), _instant(data.get("validation_end")))
    except ValueError:
        # Without a span nothing can be read back; what is named is refused all the same.
        span = Span(notification.created_at, notification.created_at)
    if notification.kind == NO_METER and meter is None:
        reports = tuple(_without_meter(notification.id, span, errors, event_names))
    else:
        reports = (Report(notification.id, meter or "", span, errors.rejected, errors.named),)
    unclear = not errors.events or span.start >= span.end
    trouble = "the report does not say how many events, or of when" if unclear else None
    return ParsedNotification(notification, reports, trouble=trouble)


def read_import(message: Fields) -> ParsedNotification:
    """Read a message about a bulk import: the whole of it was delivered. One without errors says nothing of ours."""
    notification = notification_of(message)
    imported = _mapping(_mapping(message.get("data")).get("object"))
    failed = _text(imported.get("failed_reason"))
    status = _text(imported.get("status"))
    if notification.kind == IMPORT_SUCCEEDED and not (failed or "error" in status):
        return ParsedNotification(notification)
    files = tuple(sorted({name for text in _texts(imported) for name in FILE.findall(text)}))[:MOST_FILES]
    errors = _mapping(_mapping(imported.get("result")).get("errors"))
    rows = " ".join(f"{key} {value}" for key, value in errors.items() if isinstance(value, str | int))
    reason = failed or f"{status or 'with errors'} {rows}".strip()
    return ParsedNotification(
        notification, unimported=(Unimported(files, f"import set {_text(imported.get('id'))}: {reason}"),)
    )


def read_health(message: Fields) -> ParsedNotification:
    """Read a message on summaries being late. Raises ValueError if it has no name."""
    return ParsedNotification(notification_of(message), totals_late=message.get("type") == LATE)


def related_meter(message: Fields) -> str | None:
    """Return the id of the Stripe meter that a message is related to; None if there is none."""
    related = _mapping(message.get("related_object"))
    return _text(related.get("id")) or None if _text(related.get("type")) == "billing.meter" else None


def notification_of(message: Fields) -> Notification:
    """Return which message it is. Raises ValueError if it does not say."""
    name, kind = message.get("id"), message.get("type")
    if not (isinstance(name, str) and isinstance(kind, str) and 0 < len(name) <= 255):
        raise ValueError("it has no id, or no type")
    return Notification(name, kind, _instant(message.get("created")), _account(message))


def _account(message: Fields) -> str | None:
    """Return the connected account of which a message is; None if it is of the key's own, or does not say.

    Version 1 calls it `account`. Version 2 has a context, which is a way from the key's account to the one it ends with
    (docs.stripe.com/context).
    """
    key = "account" if message.get("object") == "event" else "context"
    return _text(message.get(key)).rpartition("/")[2] or None


def ours(named: object) -> str | None:
    """Return the identifier of our event that a sample names, by itself or at the beginning of a key; None for others'."""
    found = IDENTIFIER.match(named) if isinstance(named, str) else None
    return found[1] if found else None


def _errors(reason: Fields) -> _Errors:
    counted, there, samples = 0, 0, []
    for kind in _list(reason.get("error_types")):
        of_kind = _mapping(kind)
        code, count = _text(of_kind.get("code")) or "no code", _count(of_kind.get("error_count"))
        found = [_sample(code, each) for each in _list(of_kind.get("sample_errors"))]
        counted += max(count, len(found))
        if _was_there(code, found):
            there += max(count, len(found))
        else:
            samples += found
    events = max(_count(reason.get("error_count")), counted)
    named = {each.identifier: each.reason for each in samples if each.identifier}
    return _Errors(events, events - there, tuple(Rejection(*each) for each in named.items()), tuple(samples))


def _was_there(code: str, samples: Sequence[_Sample]) -> bool:
    """Tell whether these errors say of events that they were booked before. Words count where the code is not known."""
    if code in INVALID:
        return False
    if THERE_BEFORE.search(code):
        return True
    return bool(samples) and all(THERE_BEFORE.search(each.reason) for each in samples)


def _sample(code: str, sample: object) -> _Sample:
    parts = _mapping(sample)
    request = _mapping(parts.get("request"))
    # An older page had `id` and `idempotency_key` in the place of `identifier`.
    names = (ours(request.get(key)) for key in ("identifier", "idempotency_key", "id"))
    words = _text(parts.get("error_message"))
    return _Sample(next(filter(None, names), None), f"{code}: {words}"[:LONGEST_REASON])


def _without_meter(
    name: str, span: Span, errors: _Errors, event_names: Mapping[str, Collection[str]]
) -> Iterator[Report]:
    """Yield the reports that a message without a meter comes to, one per meter that may be meant."""
    unconfigured_meters = [each for each in errors.samples if each.identifier is None]
    unnamed = errors.rejected - len(errors.samples)
    meant = [
        meter
        for meter, names in event_names.items()
        if unnamed > 0
        or any(_speaks_of(event_name, each.reason) for each in unconfigured_meters for event_name in names)
    ]
    for meter in meant:
        yield Report(name, meter, span, errors.rejected, errors.named)
    if not meant:
        # All that is not ours is accounted for: it speaks of event names that we do not have.
        yield Report(name, "", span, len(errors.named), errors.named)


def _speaks_of(event_name: str, words: str) -> bool:
    return re.search(rf"(?<![\w-]){re.escape(event_name)}(?![\w-])", words) is not None


def _texts(value: object, depth: int = 0) -> Iterator[str]:
    """Yield the texts in a value of JSON."""
    if isinstance(value, str):
        yield value
    elif depth < 10 and isinstance(value, Mapping | list):
        inner: Iterable[object] = value.values() if isinstance(value, Mapping) else value
        for each in inner:
            yield from _texts(each, depth + 1)


def _instant(value: object) -> dt.datetime:
    """Read RFC 3339, or the unix seconds of version 1. Raises ValueError."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**40:
        return dt.datetime.fromtimestamp(value, dt.UTC)
    if not isinstance(value, str):
        raise ValueError("it has no time")  # noqa: TRY004 - one error for all that cannot be read
    instant = dt.datetime.fromisoformat(value)
    return instant.replace(tzinfo=dt.UTC) if instant.tzinfo is None else instant.astimezone(dt.UTC)


def _mapping(value: object) -> Fields:
    return value if isinstance(value, Mapping) else {}


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _text(value: object) -> str:
    """Return a text as it can be stored: JSON may hold what no database takes."""
    return storable(value) if isinstance(value, str) else ""


def _count(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0
