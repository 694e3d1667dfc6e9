"""A server that answers meter events as Stripe would and does nothing else, so that it is not what is measured.

    python -m bench.light [--latency SECONDS]

It prints its address, and runs until its input ends. It takes version 1 of the API
(docs.stripe.com/api/billing/meter-event), echoes each event, and remembers the identifiers: `GET /held` says how many calls
came, how many events and what they sum up to. It has one meter and no usage from before.
"""

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Callable
from decimal import Decimal
from typing import cast
from urllib.parse import parse_qsl

import httptools

METER = {
    "id": "mtr_light",
    "object": "billing.meter",
    "created": 1700000000,
    "customer_mapping": {"event_payload_key": "stripe_customer_id", "type": "by_id"},
    "default_aggregation": {"formula": "sum"},
    "display_name": "API requests",
    "event_name": "api_requests",
    "event_time_window": None,
    "livemode": False,
    "status": "active",
    "status_transitions": {"deactivated_at": None},
    "updated": 1700000000,
    "value_settings": {"event_payload_key": "value"},
}
NOTHING = {"object": "list", "data": [], "has_more": False, "next_page_url": None, "url": "/v1"}


class Held:
    """The events that came, by identifier."""

    def __init__(self) -> None:
        self.calls = 0
        self.values: dict[str, str] = {}

    def take(self, body: bytes) -> tuple[int, object]:
        """Take an event from a form; return a status and an answer."""
        form = dict(parse_qsl(body.decode()))
        identifier = form.get("identifier") or f"made_{len(self.values)}"
        self.calls += 1
        if identifier in self.values:
            error = {
                "type": "invalid_request_error",
                "message": f"An event already exists with identifier {identifier}.",
            }
            return 400, {"error": error}
        self.values[identifier] = form["payload[value]"]
        return 200, {
            "object": "billing.meter_event",
            "created": int(time.time()),  # noqa: TID251 - a program of its own
            "event_name": form["event_name"],
            "identifier": identifier,
            "livemode": False,
            "payload": {
                "stripe_customer_id": form["payload[stripe_customer_id]"],
                "value": form["payload[value]"],
            },
            "timestamp": int(form.get("timestamp", 0)),
        }

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, object]:
        """Return the status and the answer to a request."""
        match method, path:
            case "POST", "/v1/billing/meter_events":
                return self.take(body)
            case "GET", "/held":
                total = sum(map(Decimal, self.values.values()))
                return 200, {"calls": self.calls, "events": len(self.values), "total": str(total)}
            case "GET", "/v1/billing/meters":
                return 200, {**NOTHING, "data": [METER]}
            case "GET", "/v1/billing/meters/mtr_light":
                return 200, METER
            case "GET", "/v1/account":
                return 200, {"id": "acct_light", "object": "account"}
            case "GET", "/v2/core/events":
                return 200, {"data": [], "next_page_url": None, "previous_page_url": None}
            case "GET", _ if path.startswith("/v1/"):
                return 200, NOTHING
            case _:
                return 404, {
                    "error": {"type": "invalid_request_error", "message": f"There is no {method} {path}."}
                }


class Connection(asyncio.Protocol):
    """One connection, whose requests are answered in turn."""

    def __init__(self, held: Held, latency: float) -> None:
        self._held = held
        self._latency = latency
        self._parser = httptools.HttpRequestParser(self)
        self._url = b""
        self._body: list[bytes] = []
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take a connection."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's does not inherit from it

    def data_received(self, data: bytes) -> None:
        """Take what came."""
        self._parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        """Begin a request."""
        self._url, self._body = url, []

    def on_body(self, body: bytes) -> None:
        """Go on with it."""
        self._body.append(body)

    def on_message_complete(self) -> None:
        """Answer it, now or later."""
        path = self._url.partition(b"?")[0].decode()
        method = self._parser.get_method().decode()
        status, answer = self._held.answer(method, path, b"".join(self._body))
        body = json.dumps(answer).encode()
        head = (
            f"HTTP/1.1 {status} {'OK' if status == 200 else 'No'}\r\nContent-Type: application/json\r\n"
            f"Request-Id: req_{self._held.calls}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        if self._latency:
            asyncio.get_running_loop().call_later(self._latency, self._write, head.encode() + body)
        else:
            self._write(head.encode() + body)

    def _write(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)


async def serve(latency: float) -> None:
    """Listen on a free port of loopback, print the address, and end with the input."""
    loop = asyncio.get_running_loop()
    held = Held()
    server = await loop.create_server(lambda: Connection(held, latency), "127.0.0.1", 0, backlog=1_024)
    host, port = server.sockets[0].getsockname()
    print(f"http://{host}:{port}", flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    server.close()


def _run() -> Callable[..., None]:
    try:
        import uvloop
    except ModuleNotFoundError:
        return asyncio.run
    return uvloop.run


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="bench.light", description="Answer meter events, and do nothing else."
    )
    parser.add_argument("--latency", type=float, default=0.0, help="Answer after so many seconds.")
    given = parser.parse_args()
    _run()(serve(given.latency))


if __name__ == "__main__":
    main()
