"""One HTTP call as the sandbox sees it: what came in, what goes out.

Every answer is JSON and carries a `Request-Id`, on every status, because Stripe's libraries refuse anything else.
"""

import json
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, NamedTuple

from aggregator.sandbox.errors import ApiError, Header

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

# The key under which the server hands us a way to close the connection without an answer.
DROP_CONNECTION = "sandbox.drop_connection"

# Stripe's largest body here is a hundred events; a limit, so that memory cannot be filled from outside.
MAX_BODY_BYTES = 1_000_000

_encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode


class Headers(NamedTuple):
    """The request headers that matter to the sandbox."""

    authorization: bytes = b""
    idempotency_key: bytes = b""
    account: bytes = b""
    context: bytes = b""
    version: bytes = b""


class Reply(NamedTuple):
    """What is to be answered."""

    status: int
    body: bytes
    headers: tuple[Header, ...] = ()


class ClientGone(Exception):
    """The client closed the connection before its request was complete."""


def to_json(value: object) -> bytes:
    """Return compact JSON."""
    return _encode(value).encode("utf-8", "replace")


def ok(value: object) -> Reply:
    """Return a 200."""
    return Reply(200, to_json(value))


def refusal(error: ApiError) -> Reply:
    """Return the answer for a refused request."""
    return Reply(error.status, to_json(error.json()), error.headers)


def refusal_v2(error: ApiError, *, typed: bool) -> Reply:
    """Return the answer for a refused request of version 2."""
    return Reply(error.status, to_json(error.json_v2(typed=typed)), error.headers)


def read_object(body: bytes) -> dict[str, object]:
    """Return the JSON object of a body; none at all is an empty one. Raise ApiError for anything else."""
    try:
        value = json.loads(body or b"{}")
    except (ValueError, RecursionError) as error:
        raise ApiError(400, f"The body is not JSON: {error}.", reason="bad_json") from error
    if not isinstance(value, dict):
        raise ApiError(400, "The body must be a JSON object.", reason="bad_json")
    return value


def read_headers(pairs: Iterable[Header]) -> Headers:
    """Pick the headers that matter; names come in lower case, as ASGI has them."""
    authorization = idempotency_key = account = context = version = b""
    for name, value in pairs:
        if name == b"authorization":
            authorization = value
        elif name == b"idempotency-key":
            idempotency_key = value
        elif name == b"stripe-account":
            account = value
        elif name == b"stripe-context":
            context = value
        elif name == b"stripe-version":
            version = value
    return Headers(authorization, idempotency_key, account, context, version)


async def read_body(receive: Receive) -> bytes:
    """Return the whole body. Raise ClientGone if it never came, ApiError if it is too large."""
    body: bytes = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        body += message.get("body", b"")
        if len(body) > MAX_BODY_BYTES:
            raise ApiError(413, f"The body is larger than {MAX_BODY_BYTES} bytes.", reason="body_too_large")
        if not message.get("more_body", False):
            return body


async def send_reply(send: Send, reply: Reply, request_id: bytes) -> None:
    """Send one complete answer."""
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(reply.body)).encode()),
        (b"request-id", request_id),
        *reply.headers,
    ]
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": reply.body})
