"""One meter event as it was sent, whichever endpoint it came through, and how each of them writes it.

Version 1 is a form: unix seconds, every value a text. Version 2 and the stream are JSON: RFC 3339, values that ought to be
texts. What breaks the shape of a call is refused here; whether the event is any good is for `validation` to say.
"""

from collections.abc import Mapping
from typing import NamedTuple

from aggregator.sandbox.errors import ApiError, invalid, missing_param, unknown_param
from aggregator.sandbox.form import Params, shape
from aggregator.sandbox.rules import Rules
from aggregator.sandbox.times import read_instant

FIELDS = ("event_name", "payload", "identifier", "timestamp")
_FIELDS = frozenset(FIELDS)

# docs.stripe.com/api/billing/meter-event/create. Version 2 states no limit for the identifier.
MAX_NAME_CHARACTERS = 100

# docs.stripe.com/api/v2/billing/meter-event-stream/create
MAX_STREAM_EVENTS = 100


class Sent(NamedTuple):
    """What a sender says of one event. `flaw` is what is wrong with the form of its payload, in words.

    `whole` says that the endpoint takes whole values above 0 only.
    """

    event_name: str
    payload: Mapping[str, str]
    identifier: str | None
    timestamp: float | None
    flaw: str | None = None
    whole: bool = False


def read_form(params: Params) -> Sent:
    """Read the parameters of version 1. Raise ApiError when they are malformed."""
    params.only(*FIELDS)
    event_name = params.required("event_name", limit=MAX_NAME_CHARACTERS)
    payload = params.section("payload").strings()
    if not payload:
        raise missing_param("payload")
    identifier = params.text("identifier", limit=MAX_NAME_CHARACTERS)
    return Sent(event_name, payload, identifier, params.integer("timestamp"))


def read_object(event: object, rules: Rules, name: str = "") -> Sent:
    """Read one event of version 2; `name` is where it stands in its list. Raise ApiError when it is malformed."""
    if not isinstance(event, dict):
        raise invalid(f"{name or 'The body'} must be an object, but it is {shape(event)}.", name)
    event_name, payload = event.get("event_name"), event.get("payload")
    identifier, written = event.get("identifier"), event.get("timestamp")
    if not (
        isinstance(event_name, str)
        and event_name
        and isinstance(payload, dict)
        and (identifier is None or (isinstance(identifier, str) and identifier))
        and (written is None or isinstance(written, str))
    ):
        raise _malformed(event, name)
    if not rules.v2_unknown_fields and not event.keys() <= _FIELDS:
        raise unknown_param(_within(name, next(key for key in event if key not in _FIELDS)))
    timestamp = None if written is None else read_instant(written)
    if written is not None and timestamp is None:
        where = _within(name, "timestamp")
        raise invalid(f"{where} must be an RFC 3339 time with a zone, but it is {written!r}.", where)
    for value in payload.values():
        if type(value) is not str:
            return _with_texts(Sent(event_name, payload, identifier, timestamp), rules)
    return Sent(event_name, payload, identifier, timestamp, None, rules.v2_whole_values)


def read_batch(body: Mapping[str, object], rules: Rules) -> list[Sent]:
    """Read the events of one call of the stream. Raise ApiError when they are no list, or their number is refused."""
    for key in body:
        if key != "events" and not rules.v2_unknown_fields:
            raise unknown_param(key)
    events = body.get("events")
    if events is None:
        raise missing_param("events")
    if not isinstance(events, list):
        raise invalid(f"events must be a list, but it is {shape(events)}.", "events")
    if rules.stream_size_errors and not 1 <= len(events) <= MAX_STREAM_EVENTS:
        message = f"events must hold 1 to {MAX_STREAM_EVENTS} events, but it holds {len(events)}."
        raise invalid(message, "events", reason="stream_size")
    return [read_object(event, rules, f"events[{place}]") for place, event in enumerate(events)]


def _with_texts(sent: Sent, rules: Rules) -> Sent:
    """Return an event whose payload holds something else than texts with texts, and with what is wrong about it."""
    flaw = None
    written: Mapping[str, object] = sent.payload
    for key, value in written.items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not isinstance(value, str) and not (number and rules.v2_number_values):
            flaw = flaw or f"payload[{key}] must be a string, but it is {shape(value)}."
    payload = {key: str(value) for key, value in written.items()}
    return sent._replace(payload=payload, flaw=flaw, whole=rules.v2_whole_values)


def _malformed(event: Mapping[str, object], within: str) -> ApiError:
    """Return the refusal of the first field that is missing or of the wrong kind."""
    for key in ("event_name", "payload"):
        if event.get(key) is None:
            return missing_param(_within(within, key))
    for key in ("event_name", "identifier", "timestamp"):
        value, name = event.get(key), _within(within, key)
        if value == "":
            return invalid(f"{name} is an empty string. Leave it out or give it a value.", name)
        if value is not None and not isinstance(value, str):
            return invalid(f"{name} must be a string, but it is {shape(value)}.", name)
    name = _within(within, "payload")
    return invalid(f"{name} must be a map, but it is {shape(event['payload'])}.", name)


def _within(name: str, key: str) -> str:
    return f"{name}.{key}" if name else key
