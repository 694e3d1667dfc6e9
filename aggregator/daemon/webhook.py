"""What is delivered to us over HTTP: a sink's messages, signed; and whether we are alive.

    POST /webhooks/stripe/{sink}    200 taken, or nothing to us; 400 not signed by one of the sink's secrets; 503 come again
    GET  /readyz, /healthz          200 if the ledger answers, and some meter is read in time and some sink takes; else 503
    GET  /livez                     200 while the process answers at all

Rules
- 200 is said once what was delivered is committed in the ledger. What could not be fetched or written is 503, and the sender
  delivers it again.
- Nothing is believed, nor looked at, before its signature is. Why one is not is not said.
- Everything has a bound: head and body, the time each takes to come, the connections (`connections`), and how many
  deliveries are worked on at once. Whoever is one too many is told to come again. Probes have a thread of their own.
- The socket is bound once, before anything else, and lasts over a reload: whoever calls meanwhile waits in its backlog.
"""

import asyncio
import json
import socket
import threading
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from aggregator.daemon.readiness import Readiness, Reason
from aggregator.daemon.reporting import report_taken
from aggregator.errors import AggregatorError, LedgerError, UsageError
from aggregator.ledger.notifications import Notifications
from aggregator.reconciliation.notification_poller import NotificationPoller, NotSigned
from aggregator.runtime import log
from aggregator.runtime.clock import Clock

PREFIX = "/webhooks/stripe/"
PROBES = {"/healthz", "/livez", "/readyz"}

LARGEST_BODY = 256 * 1024
"""A notification has a few hundred bytes, an import set's a few thousand."""

BODY_SECONDS = 10.0
MOST_HEADERS = 100
MOST_AT_WORK = 4
"""Deliveries worked on at once: each may hold a connection to the ledger, of which collection needs its share."""

MOST_WAITING = 32
READY_SECONDS = 3.0
"""How long a probe waits for the ledger: less than most probes wait for us."""

BACKLOG = 128
STOP_SECONDS = 5
"""How long stopping waits for deliveries that are being worked on. What is cut off is delivered again."""

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class Reply(NamedTuple):
    """A status, and a few words."""

    status: int
    words: Mapping[str, object]


class _Refused(Exception):
    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.reply = Reply(status, {"error": reason})


class Address:
    """Where we listen, bound for as long as the process lives."""

    def __init__(self, text: str) -> None:
        host, colon, port = text.strip().rpartition(":")
        host = host.strip("[]")
        if not colon or not host or not port.isdigit() or int(port) > 65535:
            raise UsageError(f"{text} is no address to listen on; write HOST:PORT, such as 127.0.0.1:8080.")
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._listener.bind((host, int(port)))
            self._listener.listen(BACKLOG)
        except OSError as error:
            self._listener.close()
            raise UsageError(f"Cannot listen on {text}: {error.strerror}. Choose another port.") from None

    @property
    def url(self) -> str:
        """Where it is, with the real port if any was asked for."""
        host, port = self._listener.getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def lend(self) -> socket.socket:
        """Return the socket for a server to listen on, and to close."""
        return self._listener.dup()

    def close(self) -> None:
        """Listen no more."""
        self._listener.close()


class Web:
    """The server, on a thread of its own."""

    def __init__(
        self,
        address: Address,
        takers: Mapping[str, NotificationPoller],
        notifications: Notifications,
        clock: Clock,
        slow: Callable[[], str | None] = lambda: None,
        readiness: Readiness | None = None,
    ) -> None:
        """`clock` is the ledger's; `slow` says what takes too long there, and asks nobody."""
        import uvicorn

        from aggregator.daemon.connections import LONGEST_HEAD, protocol

        self._address = address
        self._application = Application(takers, notifications, clock, slow, readiness or Readiness())
        self._server = uvicorn.Server(
            uvicorn.Config(
                self._application,
                http=protocol(),
                h11_max_incomplete_event_size=LONGEST_HEAD,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_keep_alive=5,
                timeout_graceful_shutdown=STOP_SECONDS,
            )
        )
        self._thread = threading.Thread(target=self._serve, name="web", daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()
        log.logger().info(log.WEB_STARTED, url=self._address.url)

    def stop(self) -> None:
        """Take nothing more, wait for what is being worked on, and come back."""
        self._server.should_exit = True
        if self._thread.is_alive():
            self._thread.join(STOP_SECONDS + 2)
        self._application.close()

    def _serve(self) -> None:
        try:
            self._server.run(sockets=[self._address.lend()])
        except Exception:  # noqa: BLE001 - the outermost loop of this thread
            log.logger().exception(log.UNEXPECTED, part="web")


class Application:
    """Answers HTTP calls. Deliveries are worked on in threads, since the ledger and the sinks are waited for there."""

    def __init__(
        self,
        takers: Mapping[str, NotificationPoller],
        notifications: Notifications,
        clock: Clock,
        slow: Callable[[], str | None],
        readiness: Readiness,
    ) -> None:
        self._slow = slow
        self._takers = takers
        self._notifications = notifications
        self._clock = clock
        self._readiness = readiness
        self._workers = ThreadPoolExecutor(MOST_AT_WORK, "web")
        self._prober = ThreadPoolExecutor(1, "web-ready")
        self._probing: asyncio.Future[Reply] | None = None
        self._waiting = 0
        self._log = log.logger()

    def close(self) -> None:
        """Give the threads back."""
        self._workers.shutdown(wait=False, cancel_futures=True)
        self._prober.shutdown(wait=False, cancel_futures=True)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one call."""
        if scope["type"] != "http":
            return
        try:
            reply = await self._answer(scope, receive)
        except _Refused as refused:
            reply = refused.reply
        except Exception:  # noqa: BLE001 - the outermost loop: whoever called is told to come again
            self._log.exception(log.UNEXPECTED, part="web")
            reply = Reply(503, {"error": "try again"})
        await _send(send, reply)

    async def _answer(self, scope: Scope, receive: Receive) -> Reply:
        path, method = scope["path"], scope["method"]
        if len(scope["headers"]) > MOST_HEADERS:
            raise _Refused(431, "too many headers")
        if path in PROBES:
            _only(method, "GET", "HEAD")
            return Reply(200, {"alive": True}) if path == "/livez" else await self._ready()
        sink = path.removeprefix(PREFIX)
        taker = self._takers.get(sink) if path.startswith(PREFIX) else None
        if taker is None or not taker.takes_deliveries:
            raise _Refused(404, "nothing is here")
        _only(method, "POST")
        body = await _body(scope, receive)
        signature = _header(scope, b"stripe-signature")
        return await self._at_work(lambda: self._take(sink, taker, body, signature))

    async def _at_work(self, work: Callable[[], Reply]) -> Reply:
        if self._waiting >= MOST_WAITING:
            raise _Refused(503, "too much at once, try again")
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._workers, work)
        finally:
            self._waiting -= 1

    def _take(self, sink: str, taker: NotificationPoller, body: bytes, signature: str) -> Reply:
        try:
            taken = taker.deliver(body, signature, self._clock())
        except NotSigned:
            self._log.warning(log.WEBHOOK_REFUSED, sink=sink, bytes=len(body))
            return Reply(400, {"error": "not a signed message of this sink"})
        except AggregatorError as error:
            self._log.error(log.WEBHOOK_FAILED, sink=sink, reason=str(error))
            return Reply(503, {"error": "try again"})
        report_taken(self._log, sink, taken)
        return Reply(200, {"taken": taken.messages})

    async def _ready(self) -> Reply:
        """Answer a probe. Those that come at once share one look, which outlasts a probe that gives up."""
        if (slow := self._slow()) is not None:
            return self._unready("does not answer in time", slow)
        if self._probing is None or self._probing.done():
            self._probing = asyncio.get_running_loop().run_in_executor(self._prober, self._look)
        try:
            return await asyncio.wait_for(asyncio.shield(self._probing), READY_SECONDS)
        except TimeoutError:
            return self._unready(f"does not answer within {READY_SECONDS:g} seconds", None)

    def _look(self) -> Reply:
        try:
            last = self._notifications.last_pass_at()
            age = (self._clock() - last).total_seconds() if last else None
            ready, reasons = self._readiness.state(self._clock())
        except LedgerError as error:
            return self._unready("does not answer", str(error))
        said = {"ready": ready, "ledger": "answers", "last_pass_seconds_ago": age}
        return Reply(200 if ready else 503, {**said, "reasons": [each._asdict() for each in reasons]})

    def _unready(self, ledger: str, why: str | None) -> Reply:
        reason = Reason("ledger", None, why or f"the ledger {ledger}")
        return Reply(503, {"ready": False, "ledger": ledger, "reasons": [reason._asdict()]})


def _only(method: str, *allowed: str) -> None:
    if method not in allowed:
        raise _Refused(405, f"only {allowed[0]}")


def _header(scope: Scope, name: bytes) -> str:
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == name), "")


async def _body(scope: Scope, receive: Receive) -> bytes:
    """Read the body as it came: what is signed is its bytes."""
    length = _header(scope, b"content-length")
    if length.isdigit() and int(length) > LARGEST_BODY:
        raise _Refused(413, "too large")
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise _Refused(400, "gone")
                body += message.get("body", b"")
                if len(body) > LARGEST_BODY:
                    raise _Refused(413, "too large")
                if not message.get("more_body"):
                    return bytes(body)
    except TimeoutError:
        raise _Refused(408, "too slow") from None


async def _send(send: Send, reply: Reply) -> None:
    body = json.dumps(reply.words).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if reply.status >= 400:
        headers.append((b"connection", b"close"))  # what of a body has not come is not waited for
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
