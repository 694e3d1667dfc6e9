"""The calls that carry events, and what is asked before each start: a request of bytes, and its answer, over connections
that are used again and again.

An official library builds each request, logs it and wraps its answer anew, and a client made for everything still takes
twice as long as all the rest of an event's way. What is alike in every call is made up once here, and of HTTP/1.1 there is
only what such a call needs; answers are read by httptools.

Rules
- One request, one answer, one connection at a time. Nothing is repeated, no redirect is followed, no cookie kept, and
  nothing comes from the environment: a call goes to the address that is configured.
- A call ends within its time as a whole. Whatever breaks once its first byte was given to the connection leaves open whether
  it arrived; only what fails before, which is connecting, is proof that it did not.
- A connection on which anything came that was not asked for is not used again: an answer must never be taken for that of
  another request.
- An idle connection is closed before the far side does that, which would leave a call on it without an answer.
"""

import asyncio
import ssl
import zlib
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import NamedTuple, cast
from urllib.parse import urlsplit

import httptools

from aggregator.sinks.responses import NoResponse

CONNECT_SHARE = 0.5
"""Share of the timeout for making a connection, name look-up and TLS included.

Below 1, so that a call which never left can be told from one that did.
"""

KEEP_ALIVE_SECONDS = 15.0

MOST_BYTES = 4_000_000
"""More than any answer to events has; what is longer is not read to its end."""


class Received(NamedTuple):
    """An answer as it came, with the names of its headers in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class HttpCalls:
    """Connections to one address: as many as there are calls at once. Made, used and closed on one event loop."""

    def __init__(self, base: str, *, ca_file: str, timeout_seconds: float) -> None:
        """Raises ValueError if `base` is no web address."""
        parts = urlsplit(base)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{base} is no web address")
        self._host, self._base = parts.hostname, parts.path.rstrip("/")
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._named = parts.netloc.rpartition("@")[2]
        self._encrypted, self._ca_file = parts.scheme == "https", ca_file
        self.timeout_seconds = timeout_seconds
        self._loop = asyncio.get_running_loop()
        self._open: set[_Connection] = set()
        self._idle: list[_Connection] = []

    @property
    def idle(self) -> int:
        """How many connections wait for the next call."""
        return len(self._idle)

    @cached_property
    def _tls(self) -> ssl.SSLContext | None:
        """Made for the first connection: reading the authorities takes longer than many calls."""
        return ssl.create_default_context(cafile=self._ca_file) if self._encrypted else None

    def head(self, path: str, headers: Mapping[str, str], method: str = "POST") -> bytes:
        """Return how calls to a path begin. Raises ValueError if it cannot be sent as lines of plain text."""
        if " " in _line("path", path).removeprefix("path: "):
            raise ValueError("the path cannot be sent: it has a space")
        lines = [f"{method} {self._base}{path} HTTP/1.1", _line("Host", self._named)]
        lines += [_line(name, value) for name, value in headers.items()]
        lines += [_line("Accept", "*/*"), _line("Accept-Encoding", "gzip, deflate")]
        return "".join(f"{line}\r\n" for line in lines).encode("latin-1")

    async def post(self, head: Callable[[], bytes], body: bytes, **headers: str) -> Received | NoResponse:
        """Make one request, with these headers of its own, an underscore for each hyphen; return what came of it.

        `head` may raise ValueError. Nothing is raised that is no interruption.
        """
        try:
            own = "".join(f"{_line(name.replace('_', '-'), value)}\r\n" for name, value in headers.items())
            request = b"%sContent-Length: %d\r\n%s\r\n%s" % (head(), len(body), own.encode("latin-1"), body)
        except ValueError as error:
            return NoResponse(left=False, what=f"not sent: {error}")
        return await self._exchange(request)

    async def get(self, path: str, headers: Mapping[str, str]) -> Received | NoResponse:
        """Ask for what is at a path, with its query; return what came of it. Nothing is raised that is no interruption."""
        try:
            request = b"%s\r\n" % self.head(path, headers, "GET")
        except ValueError as error:
            return NoResponse(left=False, what=f"not sent: {error}")
        return await self._exchange(request)

    async def _exchange(self, request: bytes) -> Received | NoResponse:
        until = self._loop.time() + self.timeout_seconds
        connection = self._kept() or await self._connect()
        if isinstance(connection, NoResponse):
            return connection
        answer = connection.ask(request, until)
        try:
            return await answer
        finally:
            if not answer.done():
                connection.close()

    async def close(self) -> None:
        """Close the connections."""
        for connection in list(self._open):
            connection.close()

    def _kept(self) -> "_Connection | None":
        """Return the connection that was used last, of those that still can be."""
        while self._idle:
            connection = self._idle.pop()
            if not connection.is_spent():
                return connection
            connection.close()
        return None

    async def _connect(self) -> "_Connection | NoResponse":
        try:
            async with asyncio.timeout(self.timeout_seconds * CONNECT_SHARE):
                _, connection = await self._loop.create_connection(
                    lambda: _Connection(self._loop, self._open, self._idle, self.timeout_seconds),
                    self._host,
                    self._port,
                    ssl=self._tls,
                )
        except TimeoutError:
            return NoResponse(left=False, what="cannot be reached: connecting took too long")
        except Exception as error:  # noqa: BLE001 - the system's, TLS's, or a name's that is none: nothing has left
            return NoResponse(left=False, what=f"cannot be reached: {self._named}: {error}")
        return connection


class _Connection(asyncio.Protocol):
    """One connection: idle, or with one request whose `answer` is awaited."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        open_: "set[_Connection]",
        idle: "list[_Connection]",
        timeout_seconds: float,
    ) -> None:
        self._loop = loop
        self._open = open_
        self._idle = idle
        self._timeout_seconds = timeout_seconds
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._answer: asyncio.Future[Received | NoResponse] | None = None
        self._until = 0.0
        """When its answer has to be there; while idle, when it is to be closed."""
        self._timer: asyncio.TimerHandle | None = None
        self._headers: dict[str, str] = {}
        self._body: list[bytes] = []
        self._bytes = 0
        self._complete = False

    # -- what the pool asks of it ----------------------------------------------------------------

    def ask(self, request: bytes, until: float) -> "asyncio.Future[Received | NoResponse]":
        """Send a request, and return the answer to wait for."""
        assert self._transport is not None, "it is open"
        assert self._answer is None, "one request at a time"
        self._answer = answer = self._loop.create_future()
        self._until, self._complete = until, False
        if self._timer is None or self._timer.when() > until:
            self._watch()
        self._transport.write(request)
        return answer

    def is_spent(self) -> bool:
        """Whether it must not be used any more."""
        return self._transport is None or self._transport.is_closing() or self._loop.time() >= self._until

    def close(self) -> None:
        """Let go of it at once."""
        self._say(NoResponse(left=True, what="the connection was closed before the answer came"))
        if self in self._idle:
            self._idle.remove(self)
        if self._transport is not None:
            self._transport.abort()

    # -- what the transport tells it -------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's own is not derived from it
        self._open.add(self)

    def data_received(self, data: bytes) -> None:
        self._bytes += len(data)
        if self._answer is None:
            self.close()
        elif self._bytes > MOST_BYTES:
            self._fail("the answer is too long")
        else:
            try:
                self._parser.feed_data(data)
            except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
                self._fail(f"the answer could not be read ({type(error).__name__})")

    def connection_lost(self, exc: Exception | None) -> None:
        name = type(exc).__name__ if exc else "it was closed"
        self._say(NoResponse(left=True, what=f"the connection broke before the answer came ({name})"))
        if self._timer is not None:
            self._timer.cancel()
        self._open.discard(self)
        self.close()

    # -- what the parser tells it ----------------------------------------------------------------

    def on_message_begin(self) -> None:
        """Begin an answer: one that nobody waits for ends the connection."""
        if self._complete:
            self.close()
        self._headers, self._body = {}, []

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header."""
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        """Take a part of the body."""
        self._body.append(body)

    def on_message_complete(self) -> None:
        """Pass the answer on; the connection is idle then, unless it is to be closed."""
        status = self._parser.get_status_code()
        if 100 <= status < 200:  # another one follows
            return
        self._complete, self._bytes = True, 0
        try:
            body = _decoded(b"".join(self._body), self._headers.get("content-encoding"))
        except ValueError as error:
            self._fail(f"the answer could not be read ({error})")
            return
        self._say(Received(status, self._headers, body))
        if self._parser.should_keep_alive():
            self._until = self._loop.time() + KEEP_ALIVE_SECONDS
            self._idle.append(self)
        else:
            self.close()

    def _watch(self) -> None:
        """End what has taken too long; look again when the next thing may have."""
        if self._timer is not None:
            self._timer.cancel()
        left = self._until - self._loop.time()
        if left > 0:
            self._timer = self._loop.call_later(left, self._watch)
        elif self._answer is None:
            self.close()
        else:
            self._fail(f"no answer within {self._timeout_seconds:g} s")

    def _fail(self, what: str) -> None:
        self._say(NoResponse(left=True, what=what))
        self.close()

    def _say(self, said: Received | NoResponse) -> None:
        answer, self._answer = self._answer, None
        if answer is not None and not answer.done():
            answer.set_result(said)


def _line(name: str, value: str) -> str:
    """Return a header. Raises ValueError if it would not be one line of plain text."""
    if not (value.isascii() and value.isprintable()):
        raise ValueError(f"{name} cannot be sent: it is not plain text of one line")
    return f"{name}: {value}"


def _decoded(body: bytes, encoding: str | None) -> bytes:
    """Undo what the far side did to a body. Raises ValueError if that cannot be done."""
    if not encoding or encoding.lower() == "identity":
        return body
    if encoding.lower() not in ("gzip", "deflate"):
        raise ValueError(f"encoded as {encoding[:20]}")
    reader = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)
    try:
        plain = reader.decompress(body, MOST_BYTES)
    except zlib.error as error:
        raise ValueError(str(error)) from error
    if not reader.eof:
        raise ValueError("cut short, or too long")
    return plain
