"""What goes over the wire for meter events, byte for byte as Stripe's official library writes it.

The library takes several times as long over a request as sending it does, so these three calls are written here. So are the
questions before each start, since loading it would take a quarter of that. All are held to the library, release by release,
by tests that capture what both send.

Rules
- The body is a function of the event and of its meter's settings: an event that is sent again is the same.
- Numbers go out as plain digits: no exponent, which Stripe's parser is not known to take. Version 2 wants text, too.
- Headers name the library's release and the API version (docs.stripe.com/api/versioning), and who is calling
  (docs.stripe.com/building-plugins, setAppInfo).
"""

import importlib.metadata
import importlib.util
import json
import pathlib
import platform
import re
from collections.abc import Mapping, Sequence
from enum import StrEnum
from functools import cache, lru_cache
from typing import TypedDict
from urllib.parse import quote_plus, urlencode

from aggregator import __version__
from aggregator.sinks.credentials import APP_NAME

API_VERSION = "2026-10-28.endive"
"""docs.stripe.com/api/versioning; raised on purpose, together with the tests."""


API_BASE, STREAM_BASE = "https://api.stripe.com", "https://meter-events.stripe.com"
"""Where Stripe is, and where it takes the stream."""

PLAIN = re.compile(r"[A-Za-z0-9_.~-]*")
"""What stands in a form as it is: an identifier of ours, and nearly every customer's."""

REMEMBERED = 4_096
"""Texts of forms that are kept as they are written: names of fields, small numbers, and customers that come again."""


class Path(StrEnum):
    """Where events are sent."""

    V1 = "/v1/billing/meter_events"
    V2 = "/v2/billing/meter_events"
    STREAM = "/v2/billing/meter_event_stream"


class Document(TypedDict):
    """An event as version 2 and the stream want it."""

    event_name: str
    identifier: str
    timestamp: str
    payload: Mapping[str, str]


def form(event_name: str, identifier: str, at: int, payload: Mapping[str, str]) -> bytes:
    """Return the body of a call of version 1; `at` is in unix seconds."""
    fields = "".join([f"&payload[{_quoted(key)}]={_quoted(value)}" for key, value in payload.items()])
    named = identifier if PLAIN.fullmatch(identifier) else _quoted(identifier)
    return f"event_name={_quoted(event_name)}&identifier={named}&timestamp={at}{fields}".encode()


@lru_cache(REMEMBERED)
def _quoted(text: str) -> str:
    """Write a name or a value of a form; brackets stay, wherever they stand."""
    return quote_plus(text).replace("%5B", "[").replace("%5D", "]")


def document(event: Document) -> bytes:
    """Return the body of a call of version 2."""
    return json.dumps(event).encode()


def stream(events: Sequence[Document]) -> bytes:
    """Return the body of a request of the stream."""
    return json.dumps({"events": events}).encode()


def headers(path: Path, key: str, account: str | None = None) -> dict[str, str]:
    """Return what every call to a path says beside its body, but for its `Idempotency-Key`.

    `key` is an API key, or the token of a stream's session; `account` a connected account.
    """
    version, content = (
        ("v1", "application/x-www-form-urlencoded") if path is Path.V1 else ("v2", "application/json")
    )
    return {**_said(version, key), **(in_account(account)), "Content-Type": content}


def asking(path: str, key: str) -> dict[str, str]:
    """Return what every call says that asks for what is at a path, beside whose account that is."""
    return _said(path.split("/")[1], key)


def in_account(account: str | None) -> dict[str, str]:
    """Return what a call for a connected account says."""
    return {"Stripe-Account": account} if account else {}


def in_context(account: str | None) -> dict[str, str]:
    """Return what it says where an account is called a context."""
    return {"Stripe-Context": account} if account else {}


def _said(version: str, key: str) -> dict[str, str]:
    client = {
        "bindings_version": library(),
        "lang": "python",
        "httplib": "aiohttp",
        "lang_version": platform.python_version(),
        "application": {"name": APP_NAME, "partner_id": None, "url": None, "version": __version__},
    }
    return {
        "X-Stripe-Client-User-Agent": json.dumps(client),
        "User-Agent": f"Stripe/{version} PythonBindings/{library()} {APP_NAME}/{__version__}",
        "Authorization": f"Bearer {key}",
        "Stripe-Version": API_VERSION,
    }


def query(path: str, params: Mapping[str, str | int]) -> str:
    """Return a path with what is asked of it."""
    return f"{path}?{urlencode(params)}" if params else path


@cache
def library() -> str:
    """Return the release of the library, without loading it."""
    return importlib.metadata.version("stripe")


def authorities() -> str:
    """Return the library's own list of authorities, by which certificates are verified, without loading it."""
    found = importlib.util.find_spec("stripe")
    assert found is not None
    assert found.origin is not None
    return str(pathlib.Path(found.origin).parent / "data" / "ca-certificates.crt")
