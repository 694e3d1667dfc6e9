"""JSON with exact numbers, in and out, and instants as Metronome writes them."""

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal

from aggregator.sandbox.errors import ApiError

INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)")
"""RFC 3339 with a year of four digits."""


def bad_request(message: str, *, reason: str = "bad_request") -> ApiError:
    """Return a 400. Metronome does not say what its body holds; a `message` is all that ours does."""
    return ApiError(400, message, reason=reason)


def not_found(message: str) -> ApiError:
    """Return a 404."""
    return ApiError(404, message, reason="not_found")


def loads(body: bytes) -> object:
    """Read JSON; every number is a Decimal of all its digits. Raise ApiError if it is not JSON."""
    try:
        return json.loads(body, parse_float=Decimal, parse_int=Decimal)
    except ValueError as error:
        raise bad_request(f"The body is not JSON: {error}.") from error


def read_object(body: bytes) -> Mapping[str, object]:
    """Read a JSON object. Raise ApiError if it is something else."""
    value = loads(body or b"{}")
    if not isinstance(value, dict):
        raise bad_request("The body must be a JSON object.")
    return value


def dumps(value: object) -> bytes:
    """Write JSON; a Decimal becomes a number with all its digits."""
    return _text(value).encode()


def _text(value: object) -> str:
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{json.dumps(str(key))}:{_text(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(_text, value)) + "]"
    return json.dumps(value)


def read_instant(text: object, name: str) -> float:
    """Read an RFC 3339 instant as unix seconds. Raise ApiError if it is none."""
    if not isinstance(text, str) or not INSTANT.fullmatch(text):
        raise bad_request(f"{name} must be an RFC 3339 instant with its zone.", reason="bad_timestamp")
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError as error:
        raise bad_request(f"{name} is no instant: {error}.", reason="bad_timestamp") from error


def instant(seconds: float) -> str:
    """Write unix seconds as Metronome shows them."""
    shown = datetime.fromtimestamp(seconds, UTC)
    return shown.isoformat(timespec="milliseconds" if shown.microsecond else "seconds").replace("+00:00", "Z")
