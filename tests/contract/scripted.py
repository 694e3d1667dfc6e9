"""A server that answers as a test tells it to, call by call, and remembers what it was asked: for JSON and for forms."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlsplit

SECONDS = 20
"""How long a test waits for something that happens at once, before it fails."""

SESSION = "/v2/billing/meter_event_session"
STREAM = "/v2/billing/meter_event_stream"
EVENTS_V2 = "/v2/billing/meter_events"
EVENTS_V1 = "/v1/billing/meter_events"


class Told(NamedTuple):
    """What to answer: a status and a body; status 0 breaks the connection off."""

    status: int
    body: object


class Asked(NamedTuple):
    """One request as it came."""

    method: str
    path: str
    body: dict[str, Any]
    headers: dict[str, str]
    raw: str = ""

    @property
    def identifiers(self) -> list[str]:
        """The identifiers of its events."""
        return [event["identifier"] for event in self.body["events"]]


def refusal(status: int, message: str = "No.", **error: str) -> Told:
    """A refusal in Stripe's shape."""
    return Told(status, {"error": {"message": message, **error}})


def session(token: str, *, livemode: bool = False) -> Told:
    """A session that lasts for a quarter of an hour."""
    return Told(
        200,
        {
            "object": "v2.billing.meter_event_session",
            "id": f"mes_{token}",
            "authentication_token": token,
            "created": "2026-11-01T12:00:00.000Z",
            "expires_at": "2026-11-01T12:15:00.000Z",
            "livemode": livemode,
        },
    )


def taken(asked: Asked) -> Told:
    """What Stripe says to what it takes."""
    if asked.path == EVENTS_V2:
        return Told(200, {**asked.body, "object": "v2.billing.meter_event", "livemode": False})
    if asked.path == EVENTS_V1:
        body = {**asked.body, "timestamp": int(asked.body["timestamp"])}
        return Told(200, {**body, "object": "billing.meter_event", "livemode": False})
    return Told(200, {})


@dataclass
class Server:
    """Sessions are numbered `token_1`, `token_2`, ... and everything is taken, unless `answer` says otherwise."""

    url: str
    asked: list[Asked] = field(default_factory=list)
    answer: Callable[[Asked], Told | None] = lambda asked: None
    sessions: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def reply(self, asked: Asked) -> Told:
        """Take note of a request, and return what to say."""
        with self.lock:
            self.asked.append(asked)
        told = self.answer(asked)
        if told is None and asked.path == SESSION:
            with self.lock:
                self.sessions += 1
                told = session(f"token_{self.sessions}")
        return told or taken(asked)

    def to(self, path: str) -> list[Asked]:
        """The requests to one path."""
        return [asked for asked in self.asked if asked.path == path]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(dict(parse_qsl(urlsplit(self.path).query)))

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        as_json = "json" in (self.headers.get("Content-Type") or "")
        self._answer(json.loads(raw or "{}") if as_json else dict(parse_qsl(raw)), raw)

    def _answer(self, body: dict[str, Any], raw: str = "") -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        asked = Asked(self.command, urlsplit(self.path).path, body, headers, raw)
        told: Told = self.server.scripted.reply(asked)  # type: ignore[attr-defined]  # put there by `serving`
        if told.status == 0:
            self.close_connection = True
            return
        text = json.dumps(told.body).encode()
        self.send_response(told.status)
        self.send_header("Request-Id", "req_script")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - named so by the base class
        """Say nothing."""


BROKEN = Told(0, None)
"""The connection is broken off instead of an answer."""


@contextmanager
def serving() -> Iterator[Server]:
    """A scripted server while it lasts."""
    http = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    server = Server(f"http://127.0.0.1:{http.server_port}")
    http.scripted = server  # type: ignore[attr-defined]  # carried along
    try:
        yield server
    finally:
        http.shutdown()
        thread.join()
        http.server_close()
