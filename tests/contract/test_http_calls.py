"""Connections for calls that carry events: against a server that says, byte for byte, what a test wants it to say."""

import asyncio
import datetime as dt
import gzip
import ipaddress
import socket
import ssl
import threading
import zlib
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from aggregator.sinks import http_calls
from aggregator.sinks.http_calls import HttpCalls, Received
from aggregator.sinks.responses import NoResponse

SECONDS = 20
"""How long a test waits for something that happens at once, before it fails."""

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nRequest-Id: req_1\r\n\r\nhi"

GZIPPED = gzip.compress(b"hi", mtime=0)
MANY_ZEROS = gzip.compress(bytes(5_000_000), mtime=0)


class Script(NamedTuple):
    """What a server says to the n-th request on each of its connections, in pieces, and what it was asked on which."""

    url: str
    connections: list[list[bytes]]


class Close(NamedTuple):
    """An end of the connection, instead of more bytes."""


Piece = bytes | Close | threading.Event
"""What is sent at once; or the end; or something that is waited for."""


@contextmanager
def saying(*answers: list[list[Piece]], tls: ssl.SSLContext | None = None) -> Iterator[Script]:
    """Serve connections: the n-th answers its requests, one after the other, as the n-th of `answers` says."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(SECONDS)
        script = Script(f"{'https' if tls else 'http'}://127.0.0.1:{listening.getsockname()[1]}", [])
        ended = threading.Event()

        def serve(connection: socket.socket, said: list[list[Piece]], asked: list[bytes]) -> None:
            with connection:
                for pieces in said:
                    request = read(connection)
                    if request is None:
                        return
                    asked.append(request)
                    for piece in pieces:
                        if isinstance(piece, Close):
                            return
                        if isinstance(piece, threading.Event):
                            assert piece.wait(SECONDS)
                        else:
                            connection.sendall(piece)
                ended.wait(SECONDS)

        def accept() -> None:
            for said in answers:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                connection.settimeout(SECONDS)
                script.connections.append([])
                try:
                    secured = tls.wrap_socket(connection, server_side=True) if tls else connection
                except OSError:
                    continue
                thread = threading.Thread(target=serve, args=(secured, said, script.connections[-1]))
                thread.start()
                threads.append(thread)

        threads = [threading.Thread(target=accept)]
        threads[0].start()
        try:
            yield script
        finally:
            ended.set()
            listening.shutdown(socket.SHUT_RDWR)
            for thread in threads:
                thread.join(SECONDS)
                assert not thread.is_alive()


def read(connection: socket.socket) -> bytes | None:
    """Read one request; None if the other side has gone."""
    request = b""
    try:
        while b"\r\n\r\n" not in request:
            part = connection.recv(65_536)
            if not part:
                return None
            request += part
        head, _, body = request.partition(b"\r\n\r\n")
        [length] = [
            int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.startswith(b"Content-Length")
        ]
        while len(body) < length:
            body += connection.recv(65_536)
    except OSError:
        return None
    return head + b"\r\n\r\n" + body


Told = Received | NoResponse
Use = Callable[[HttpCalls], Awaitable[object]]


def asking(
    url: str, use: Callable[[HttpCalls], Awaitable[list[Told]]], *, seconds: float = SECONDS, ca: str = ""
) -> list[Told]:
    """Use connections to an address, close them, and return what came of it."""

    async def used() -> list[Told]:
        calls = HttpCalls(url, ca_file=ca or CA, timeout_seconds=seconds)
        try:
            return await use(calls)
        finally:
            await calls.close()

    return asyncio.run(used())


async def post(calls: HttpCalls, body: bytes = b"{}") -> Told:
    """Make one call."""
    return await calls.post(lambda: calls.head("/v1/x", {"User-Agent": "test"}), body, Idempotency_Key="k1")


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what another thread, or the connection, does."""
    async with asyncio.timeout(SECONDS):
        while not condition():  # noqa: ASYNC110 - what is waited for is no event of this loop
            await asyncio.sleep(0.01)


def times(number: int) -> Callable[[HttpCalls], Awaitable[list[Told]]]:
    """Make so many calls, one after the other."""

    async def several(calls: HttpCalls) -> list[Told]:
        return [await post(calls) for _ in range(number)]

    return several


def stripe_authorities() -> str:
    """Return any list of authorities."""
    import stripe

    return stripe.ca_bundle_path


CA = stripe_authorities()


def silent(told: Told) -> NoResponse:
    """Return what is said of a call without an answer."""
    assert isinstance(told, NoResponse)
    return told


def body(told: Told) -> bytes:
    """Return the body of an answer."""
    assert isinstance(told, Received)
    return told.body


# -- what is sent, and what comes back ------------------------------------------------------------


def test_a_request_is_one_message_and_its_answer_comes_back() -> None:
    """Line by line."""
    with saying([[OK]]) as script:
        [told] = asking(f"{script.url}/base/", times(1))
    assert told == Received(200, {"content-length": "2", "request-id": "req_1"}, b"hi")
    [[request]] = script.connections
    assert request.decode() == (
        "POST /base/v1/x HTTP/1.1\r\n"
        f"Host: {script.url.removeprefix('http://')}\r\n"
        "User-Agent: test\r\n"
        "Accept: */*\r\n"
        "Accept-Encoding: gzip, deflate\r\n"
        "Content-Length: 2\r\n"
        "Idempotency-Key: k1\r\n"
        "\r\n{}"
    )


@pytest.mark.parametrize(
    "pieces",
    [
        [bytes([byte]) for byte in OK],
        [b"HTTP/1.1 100 Continue\r\n\r\n", OK],
        [b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + OK],
        [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nh\r\n", b"1\r\ni\r\n0\r\n\r\n"],
        [b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi"],
        [b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi", Close()],
        [
            b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 22\r\n\r\n",
            gzip.compress(b"hi", mtime=0),
        ],
        [b"HTTP/1.1 200 OK\r\nContent-Encoding: deflate\r\nContent-Length: 10\r\n\r\n", zlib.compress(b"hi")],
    ],
    ids=["byte by byte", "continue", "early hints", "chunked", "1.0", "close", "gzip", "deflate"],
)
def test_an_answer_is_read_however_it_comes(pieces: list[Piece]) -> None:
    """In pieces, after interim answers, chunked, packed, by an old server."""
    with saying([pieces]) as script:
        [told] = asking(script.url, times(1))
    assert body(told) == b"hi"


def test_a_redirect_is_not_followed() -> None:
    """It could lead anywhere."""
    with saying([[b"HTTP/1.1 307 Moved\r\nLocation: /v1/y\r\nContent-Length: 0\r\n\r\n"]]) as script:
        [told] = asking(script.url, times(1))
    assert isinstance(told, Received)
    assert told.status == 307
    assert len(script.connections) == 1


# -- connections are used again, and only if that is safe -----------------------------------------


def test_a_connection_is_used_again() -> None:
    """Three calls, one connection."""
    with saying([[OK], [OK], [OK]]) as script:
        assert [body(told) for told in asking(script.url, times(3))] == [b"hi"] * 3
    assert [len(asked) for asked in script.connections] == [3]


def test_calls_at_the_same_time_have_connections_of_their_own() -> None:
    """And each gets its own answer, in whichever order they come."""
    gate = threading.Event()
    first: list[Piece] = [gate, OK.replace(b"hi", b"1!")]
    second: list[Piece] = [OK.replace(b"hi", b"2!"), gate]

    async def together(calls: HttpCalls) -> list[Told]:
        slow = asyncio.create_task(post(calls))
        await until(lambda: bool(script.connections and script.connections[0]))
        quick = await post(calls)
        gate.set()
        return [await slow, quick]

    with saying([first], [second]) as script:
        assert [body(told) for told in asking(script.url, together)] == [b"1!", b"2!"]


@pytest.mark.parametrize(
    "answer",
    [
        [b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi"],
        [OK + OK],
        [OK + b"rubbish"],
        [OK, Close()],
    ],
    ids=["it says so", "a second answer", "more than an answer", "closed"],
)
def test_a_connection_that_cannot_be_trusted_is_not_used_again(answer: list[Piece]) -> None:
    """What nobody asked for must not be taken for the answer to the next request."""

    async def after_a_while(calls: HttpCalls) -> list[Told]:
        first = await post(calls)
        await until(lambda: not calls.idle)
        return [first, await post(calls)]

    with saying([answer], [[OK.replace(b"hi", b"2!")]]) as script:
        assert [body(told) for told in asking(script.url, after_a_while)] == [b"hi", b"2!"]
    assert [len(asked) for asked in script.connections] == [1, 1]


def test_what_comes_while_nothing_is_asked_ends_the_connection() -> None:
    """It would be taken for the answer to the next request."""
    more = threading.Event()

    async def with_more(calls: HttpCalls) -> list[Told]:
        first = await post(calls)
        assert calls.idle == 1
        more.set()
        await until(lambda: not calls.idle)
        return [first, await post(calls)]

    with saying([[OK, more, OK.replace(b"hi", b"no")]], [[OK.replace(b"hi", b"2!")]]) as script:
        assert [body(told) for told in asking(script.url, with_more)] == [b"hi", b"2!"]


def test_an_idle_connection_is_closed_by_us(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the far side does it under a call."""
    monkeypatch.setattr(http_calls, "KEEP_ALIVE_SECONDS", 0.05)

    async def idle(calls: HttpCalls) -> list[Told]:
        first = await post(calls)
        await until(lambda: not calls.idle)
        return [first, await post(calls)]

    with saying([[OK], [OK]], [[OK]]) as script:
        assert [body(told) for told in asking(script.url, idle, seconds=0.2)] == [b"hi", b"hi"]
    assert [len(asked) for asked in script.connections] == [1, 1]


# -- without an answer ----------------------------------------------------------------------------


def test_an_address_that_nobody_listens_at_is_proof_that_nothing_left() -> None:
    """The call may be made again."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    [told] = asking(f"http://127.0.0.1:{port}", times(1))
    assert not silent(told).left
    assert silent(told).what.startswith(f"cannot be reached: 127.0.0.1:{port}: ")


@pytest.mark.parametrize("host", ["nowhere.invalid", "a..b"])
def test_a_name_that_is_none_is_proof_that_nothing_left(host: str) -> None:
    """Whether it cannot be found, or cannot be a name."""
    [told] = asking(f"http://{host}", times(1))
    assert not silent(told).left


def test_a_connection_that_takes_too_long_is_proof_that_nothing_left() -> None:
    """A server that never accepts: its queue is full, so the system keeps trying."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        address = full.getsockname()
        waiting = []
        for _ in range(4):
            queued = socket.socket()
            queued.setblocking(False)
            queued.connect_ex(address)
            waiting.append(queued)
        [told] = asking(f"http://127.0.0.1:{address[1]}", times(1), seconds=0.4)
        for queued in waiting:
            queued.close()
    assert silent(told) == NoResponse(left=False, what="cannot be reached: connecting took too long")


@pytest.mark.parametrize(
    ("pieces", "what"),
    [
        ([Close()], "the connection broke before the answer came"),
        ([OK[:-1], Close()], "the connection broke before the answer came"),
        ([b"HTTP/1.1 200 OK\r\n\r\nno end", Close()], "the connection broke before the answer came"),
        ([b"SSH-2.0-OpenSSH_9.9\r\n"], "the answer could not be read"),
        (
            [b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n"],
            "the answer could not be read",
        ),
        (
            [b"HTTP/1.1 200 OK\r\nContent-Encoding: br\r\nContent-Length: 2\r\n\r\nhi"],
            "the answer could not be read",
        ),
        (
            [b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\nhi"],
            "the answer could not be read",
        ),
        (
            [b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 11\r\n\r\n", GZIPPED[:11]],
            "cut short",
        ),
        ([b"HTTP/1.1 200 OK\r\nX: " + b"x" * 5_000_000], "the answer is too long"),
        (
            [b"HTTP/1.1 200 OK\r\nContent-Length: 9000000\r\n\r\n" + b"x" * 5_000_000],
            "the answer is too long",
        ),
        (
            [
                b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(MANY_ZEROS),
                MANY_ZEROS,
            ],
            "too long",
        ),
    ],
    ids=[
        "closed",
        "cut",
        "without an end",
        "not HTTP",
        "another protocol",
        "unknown coding",
        "not gzip",
        "gzip cut",
        "long head",
        "long body",
        "unpacks",
    ],
)
def test_whatever_breaks_after_the_request_may_have_arrived(pieces: list[Piece], what: str) -> None:
    """And the next call has a connection of its own."""
    with saying([pieces], [[OK]]) as script:
        first, second = asking(script.url, times(2))
    assert silent(first).left
    assert what in silent(first).what
    assert body(second) == b"hi"


def test_an_answer_that_takes_too_long() -> None:
    """It may have arrived all the same."""
    gate = threading.Event()
    with saying([[gate]]) as script:
        [told] = asking(script.url, times(1), seconds=0.2)
        gate.set()
    assert silent(told) == NoResponse(left=True, what="no answer within 0.2 s")


def test_a_short_timeout_holds_on_a_connection_that_was_idle() -> None:
    """It is shorter than an idle connection is kept."""
    gate = threading.Event()
    with saying([[OK], [gate]]) as script:
        _, told = asking(script.url, times(2), seconds=2)
        gate.set()
    assert silent(told).what == "no answer within 2 s"


def test_a_call_that_is_given_up_takes_its_connection_with_it() -> None:
    """Its answer, when it comes, must not be taken for that of another."""
    gate = threading.Event()

    async def given_up(calls: HttpCalls) -> list[Told]:
        task = asyncio.create_task(post(calls))
        await until(lambda: bool(script.connections and script.connections[0]))
        task.cancel()
        await asyncio.wait([task])
        return [await post(calls)]

    with saying([[gate, OK]], [[OK.replace(b"hi", b"2!")]]) as script:
        assert [body(told) for told in asking(script.url, given_up)] == [b"2!"]
        gate.set()


def test_closing_ends_what_is_under_way() -> None:
    """Nobody waits for it any more."""
    gate = threading.Event()

    async def closed(calls: HttpCalls) -> list[Told]:
        task = asyncio.create_task(post(calls))
        await until(lambda: bool(script.connections and script.connections[0]))
        await calls.close()
        return [await task]

    with saying([[gate]]) as script:
        [told] = asking(script.url, closed)
        gate.set()
    assert silent(told).left


# -- what is refused before it is sent -------------------------------------------------------------


@pytest.mark.parametrize("value", ["a\r\nX: 1", "a\nb", "é", "a\0"])
def test_a_header_is_one_line_of_plain_text(value: str) -> None:
    """Neither those that calls share nor a call's own."""

    async def both(calls: HttpCalls) -> list[Told]:
        shared = await calls.post(lambda: calls.head("/v1/x", {"Authorization": value}), b"")
        own = await calls.post(lambda: calls.head("/v1/x", {}), b"", Idempotency_Key=value)
        return [shared, own]

    unsent = [silent(each) for each in asking("http://127.0.0.1:1", both)]
    assert not any(each.left for each in unsent)
    assert [each.what.split(" cannot be sent")[0] for each in unsent] == [
        "not sent: Authorization",
        "not sent: Idempotency-Key",
    ]


@pytest.mark.parametrize("address", ["", "ftp://x", "http://", "127.0.0.1"])
def test_what_is_no_web_address_is_refused(address: str) -> None:
    """Before anything is opened."""
    with pytest.raises(ValueError, match="is no web address"):
        asking(address, times(1))


# -- TLS -------------------------------------------------------------------------------------------


class Certified(NamedTuple):
    """A certificate for an address, with its key, which is its own authority."""

    path: str
    context: ssl.SSLContext


def certified(directory: Path, address: str) -> Certified:
    """Make a certificate."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=3650))
        .not_valid_after(now + dt.timedelta(days=36500))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = directory / f"{address}.pem"
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(secret + made.public_bytes(serialization.Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return Certified(str(path), context)


def test_over_tls(tmp_path: Path) -> None:
    """Under an authority that is known."""
    made = certified(tmp_path, "127.0.0.1")
    with saying([[OK], [OK]], tls=made.context) as script:
        assert [body(told) for told in asking(script.url, times(2), ca=made.path)] == [b"hi", b"hi"]
    assert [len(asked) for asked in script.connections] == [2]


def test_a_certificate_that_nobody_vouches_for_is_proof_that_nothing_left(tmp_path: Path) -> None:
    """The request is not sent."""
    made = certified(tmp_path, "127.0.0.1")
    with saying([[OK]], tls=made.context) as script:
        [told] = asking(script.url, times(1))
    assert not silent(told).left
    assert "certificate" in silent(told).what.lower()
    assert script.connections == [[]]


def test_a_certificate_of_another_address_is_proof_that_nothing_left(tmp_path: Path) -> None:
    """The request is not sent."""
    made = certified(tmp_path, "127.0.0.2")
    with saying([[OK]], tls=made.context) as script:
        [told] = asking(script.url, times(1), ca=made.path)
    assert not silent(told).left
    assert script.connections == [[]]


# -- on both loops ----------------------------------------------------------------------------------


def test_it_is_the_same_on_uvloop() -> None:
    """Its transports are of another make."""
    uvloop = pytest.importorskip("uvloop", reason="uvloop is not made for this platform")

    async def used(url: str) -> list[Told]:
        calls = HttpCalls(url, ca_file=CA, timeout_seconds=SECONDS)
        told = [await post(calls), await post(calls)]
        await calls.close()
        return told

    with saying([[OK], [OK]]) as script, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert [body(told) for told in runner.run(used(script.url))] == [b"hi", b"hi"]
