"""Deliveries over real HTTP, signed as Stripe signs, fetched from the sandbox, acknowledged once they are in the ledger."""

import datetime as dt
import json
import resource
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.client import HTTPConnection
from itertools import cycle, repeat
from pathlib import Path
from typing import Any, NamedTuple, cast
from urllib.parse import urlsplit

import h11
import pytest
import stripe

from aggregator.daemon.webhook import LARGEST_BODY, MOST_AT_WORK, Web
from aggregator.errors import UsageError
from aggregator.ledger.database import Database
from aggregator.ledger.notifications import Notifications
from aggregator.ledger.review.checks import Checks
from aggregator.monitoring.readiness import Readiness, Reason
from aggregator.reconciliation.notification_poller import NotificationPoller
from aggregator.runtime.clock import utcnow
from aggregator.sandbox import MeterSpec, RunningSandbox, SandboxOptions, running
from aggregator.sinks.stripe import StripeMeter, StripeNotificationClient, StripeSink
from aggregator.sinks.stripe.limits import Rates
from aggregator.web import connections
from aggregator.web.listener import Address
from tests.fakes import FakeSink
from tests.postgres.world import START, World

KEY = "rk_test_0123456789abcdefghij"
SECRET, OTHER_SECRET = "whsec_first", "whsec_second"
KIND = "v1.billing.meter.error_report_triggered"
PATH = "/webhooks/stripe/fake"


class Reply(NamedTuple):
    """What was answered."""

    status: int
    words: dict[str, Any]


class Site:
    """Our side, listening, with its ledger behind it and the sandbox as Stripe."""

    def __init__(
        self, database: Database, sandbox: RunningSandbox, url: str, readiness: Readiness, noted: list[Reason]
    ) -> None:
        self.slow: str | None = None
        self.database = database
        self.readiness = readiness
        self.noted = noted
        self.sandbox = sandbox
        self.url = url

    def call(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> Reply:
        """Make a call."""
        parts = urlsplit(self.url)
        connection = HTTPConnection(parts.hostname or "", parts.port, timeout=20)
        try:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            return Reply(answer.status, json.loads(answer.read()))
        finally:
            connection.close()

    def deliver(
        self,
        message: dict[str, Any] | str,
        *,
        secret: str = SECRET,
        at: int | None = None,
        signature: str | None = None,
    ) -> Reply:
        """Deliver a message as Stripe does, with the official library's own signature."""
        body = message if isinstance(message, str) else json.dumps(message)
        header = signature or stripe.WebhookSignature.generate_signature_header(body, secret, at)
        return self.call("POST", PATH, body.encode(), {"Stripe-Signature": header})

    def notifications(self) -> list[tuple[Any, ...]]:
        """What is on record."""
        with self.database.transaction() as connection:
            return connection.execute("select id, kind, came_by from aggregator.notification").fetchall()


@pytest.fixture(scope="module")
def shared_sandbox() -> Iterator[RunningSandbox]:
    """One sandbox for all tests here."""
    with running(SandboxOptions(meters=(MeterSpec("api_requests"),))) as sandbox:
        yield sandbox


@pytest.fixture
def site(database: Database, shared_sandbox: RunningSandbox) -> Iterator[Site]:
    """A site that listens for two sinks, one of them without a secret."""
    shared_sandbox.reset()
    world = World(database)
    sink = StripeSink(
        "fake",
        api_key=KEY,
        mode="test",
        api_base=shared_sandbox.url,
        rates=Rates(1_000, 1_000, stream_by_event=True),
        timeout=dt.timedelta(seconds=2),
        max_in_flight=16,
        meters={"api_requests": StripeMeter(event_name="api_requests")},
    )
    sink_id = world.registered.feeds[0].sink_id

    def ears(*secrets: str) -> NotificationPoller:
        notification_client = StripeNotificationClient(sink, {}, secrets=secrets, livemode=False)
        return NotificationPoller(
            Notifications(database), notification_client, FakeSink().limits_for, sink_id
        )

    poller, unsubscribed = ears(SECRET, OTHER_SECRET), ears()
    address = Address("127.0.0.1:0")
    noted: list[Reason] = []
    readiness = Readiness(lambda _: noted)
    made = Site(database, shared_sandbox, address.url, readiness, noted)
    web = Web(
        address,
        {"fake": poller, "deaf": unsubscribed},
        Notifications(database),
        utcnow,
        lambda: made.slow,
        readiness,
    )
    web.start()
    yield made
    web.stop()
    address.close()
    sink.close()


def told(site: Site, kind: str = KIND) -> dict[str, Any]:
    """Let the sandbox make up a message; return what a webhook is told of it."""
    event = site.sandbox.notify(kind)
    return {key: value for key, value in event.items() if key != "data"}


def test_what_stripe_says_of_late_totals_is_taken(site: Site) -> None:
    """From then on nothing is called missing; until it says that they are on time again, in whatever order that comes."""
    checks = Checks(site.database)
    with site.database.transaction() as connection:
        [(sink_id,)] = connection.execute("select id from aggregator.sink where name = 'fake'")
    kind = "v2.core.health.meter_event_summaries_delayed"
    assert checks.late(sink_id) is None
    firing, resolved = told(site, f"{kind}.firing"), told(site, f"{kind}.resolved")
    resolved["created"] = f"{utcnow() + dt.timedelta(minutes=5):%Y-%m-%dT%H:%M:%SZ}"
    assert site.deliver(firing).status == 200
    said = checks.late(sink_id)
    assert said is not None
    assert said.startswith("it says that its totals are late since 20")
    assert site.deliver(resolved).status == 200
    assert checks.late(sink_id) is None
    assert site.deliver({**firing, "id": "evt_late"}).status == 200
    assert checks.late(sink_id) is None, "what was said before comes too late to count"


def test_a_delivery_is_taken(site: Site) -> None:
    """It is fetched by its id, on record, and acknowledged."""
    message = told(site)
    assert site.deliver(message) == Reply(200, {"taken": 1})
    assert site.notifications() == [(message["id"], KIND, "webhook")]


def test_a_second_delivery_changes_nothing(site: Site) -> None:
    """Replayed, or delivered twice at the same moment: 200 each time, and on record once."""
    message = told(site)
    with ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(lambda _: site.deliver(message), range(16)))
    assert {reply.status for reply in replies} == {200}
    assert sum(reply.words["taken"] for reply in replies) == 1
    assert len(site.notifications()) == 1


@pytest.mark.parametrize("secret", [SECRET, OTHER_SECRET])
def test_any_of_the_secrets_may_have_signed(site: Site, secret: str) -> None:
    """A destination for thin events and one for others have a secret each; so have the old and the new one in a change."""
    assert site.deliver(told(site), secret=secret).status == 200


def test_a_signature_may_be_one_of_several(site: Site) -> None:
    """While a secret is changed, Stripe signs with both."""
    body = json.dumps(told(site))
    header = stripe.WebhookSignature.generate_signature_header(body, SECRET)
    at, _, ours = header.partition(",")
    assert site.deliver(body, signature=f"{at},v1={'0' * 64},{ours},v0=old").status == 200


def wrong_signatures(body: str) -> dict[str, str]:
    """Ways not to be signed."""
    now = int(utcnow().timestamp())
    sign = stripe.WebhookSignature.generate_signature_header
    return {
        "wrong secret": sign(body, "whsec_wrong"),
        "too old": sign(body, SECRET, now - 301),
        "too far ahead": sign(body, SECRET, now + 320),
        "another body": sign(body + " ", SECRET),
        "none": "",
        "nonsense": "t=,v1=",
        "no time": "v1=" + "0" * 64,
        "time moved": sign(body, SECRET, now - 100).replace(f"t={now - 100}", f"t={now}"),
        "other scheme": sign(body, SECRET).replace("v1=", "v0="),
        "endless time": f"t={'9' * 400},v1=00",
        "not ascii": "t=1,v1=\xff",
    }


@pytest.mark.parametrize("how", wrong_signatures(""))
def test_what_is_not_signed_is_not_believed(site: Site, how: str) -> None:
    """400 with the same words whatever is wrong; nothing is fetched or written."""
    body = json.dumps(told(site))
    before = site.sandbox.stats()["requests"]
    reply = site.deliver(body, signature=wrong_signatures(body)[how] or " ")
    assert reply == Reply(400, {"error": "not a signed message of this sink"})
    assert site.notifications() == []
    assert site.sandbox.stats()["requests"] == before


@pytest.mark.parametrize("seconds", [-290, 290])
def test_a_signature_of_five_minutes_ago_or_ahead_is_good_enough(site: Site, seconds: int) -> None:
    """Clocks differ, and deliveries take their time."""
    assert site.deliver(told(site), at=int(utcnow().timestamp()) + seconds).status == 200


@pytest.mark.parametrize("body", ["", "{", "[]", "null", '"text"', "[" * 100_000, '{"type": 5}', "\\ud800"])
def test_a_signed_body_that_makes_no_sense_is_harmless(site: Site, body: str) -> None:
    """It is refused or ignored, and nothing is written."""
    assert site.deliver(body).status in (200, 400)
    assert site.notifications() == []


def test_a_kind_that_nobody_knows_is_acknowledged(site: Site) -> None:
    """Whoever subscribes to more than we know of need not have it delivered again and again."""
    assert site.deliver(told(site, "v1.billing.meter.created")) == Reply(200, {"taken": 0})
    assert site.notifications() == []


def test_a_message_of_the_other_mode_is_nothing_to_us(site: Site) -> None:
    """A live message at a test sink is acknowledged and left."""
    assert site.deliver(told(site) | {"livemode": True}) == Reply(200, {"taken": 0})
    assert site.notifications() == []


def test_what_cannot_be_fetched_is_to_be_delivered_again(site: Site) -> None:
    """503 until the sink can be asked; the next delivery is taken."""
    message = told(site)
    site.sandbox.set_permissions(KEY, "meters_read")
    assert site.deliver(message) == Reply(503, {"error": "try again"})
    assert site.notifications() == []
    site.sandbox.set_keys()
    assert site.deliver(message).status == 200
    assert site.deliver(message | {"id": "evt_unknown"}).status == 503


def test_an_import_that_failed_is_taken_from_the_delivery_itself(site: Site) -> None:
    """It says everything, and is signed."""
    imported = {"id": "impset_1", "failed_reason": "no column value", "file": "usage/a-1.csv"}
    message = {
        "id": "evt_9",
        "object": "event",
        "type": "data_management.import_set.failed",
        "created": 1_790_000_000,
        "livemode": False,
        "data": {"object": imported},
    }
    assert site.deliver(message) == Reply(200, {"taken": 1})
    assert site.notifications() == [("evt_9", "data_management.import_set.failed", "webhook")]


def test_a_huge_body_is_turned_away(site: Site) -> None:
    """By its length alone, and by its bytes where it does not say its length."""
    assert site.call("POST", PATH, b"x", {"Content-Length": str(LARGEST_BODY + 1)}).status == 413
    chunks = (b"x" * 65_536 for _ in range(LARGEST_BODY // 65_536 + 1))
    parts = urlsplit(site.url)
    connection = HTTPConnection(parts.hostname or "", parts.port, timeout=20)
    try:
        connection.request("POST", PATH, chunks, {"Transfer-Encoding": "chunked"}, encode_chunked=True)
        assert connection.getresponse().status == 413
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", PATH, 405),
        ("POST", "/webhooks/stripe/unknown", 404),
        ("POST", "/webhooks/stripe/deaf", 404),
        ("POST", "/webhooks/stripe/", 404),
        ("GET", "/", 404),
        ("POST", "/healthz", 405),
    ],
)
def test_there_is_nothing_else(site: Site, method: str, path: str, status: int) -> None:
    """A sink that is not there and one without a secret look alike."""
    assert site.call(method, path, b"").status == status


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_it_is_ready(site: Site, path: str) -> None:
    """The ledger answers, and nobody has a reason against it; nothing was read yet."""
    ready: dict[str, Any] = {
        "ready": True,
        "ledger": "answers",
        "last_pass_seconds_ago": None,
        "reasons": [],
    }
    assert site.call("GET", path) == Reply(200, ready)


def test_a_ledger_that_does_not_commit_in_time_is_not_healthy(site: Site) -> None:
    """It answers who only reads, and what was written waits: that is said with its reason, for as long as it lasts."""
    site.slow = "A transaction of the ledger has waited for 12 s to be committed."
    reason = {"what": "ledger", "of": None, "reason": site.slow}
    unready = Reply(503, {"ready": False, "ledger": "does not answer in time", "reasons": [reason]})
    assert site.call("GET", "/healthz") == unready
    site.slow = None
    assert site.call("GET", "/healthz").status == 200


def test_a_ledger_that_does_not_answer_is_not_ready(site: Site) -> None:
    """And a delivery is to come again; the process lives all the same."""
    message = told(site)
    site.database.close()
    for path in ("/healthz", "/readyz"):
        status, words = site.call("GET", path)
        assert (status, words["ledger"]) == (503, "does not answer")
        assert [reason["what"] for reason in words["reasons"]] == ["ledger"]
    assert site.call("GET", "/livez") == Reply(200, {"alive": True})
    assert site.deliver(message).status == 503


def test_one_late_meter_is_named_with_a_200(site: Site) -> None:
    """As long as another is read in time; when none is, it is a 503."""
    site.readiness.expect("exports", utcnow() - dt.timedelta(hours=1), lambda at: at)
    site.readiness.expect("api_requests", utcnow(), lambda at: at + dt.timedelta(hours=1))
    status, words = site.call("GET", "/readyz")
    assert (status, words["ready"]) == (200, True)
    assert [(each["what"], each["of"]) for each in words["reasons"]] == [("late", "exports")]
    site.readiness.ended("api_requests", utcnow(), "an invariant broke", stopped=True)
    status, words = site.call("GET", "/readyz")
    assert (status, words["ready"], len(words["reasons"])) == (503, False, 2)


def test_what_was_noted_is_a_reason(site: Site) -> None:
    """A sink that refuses us, a meter that is late, and whatever else is looked at: 503, and each is named."""
    site.noted.append(Reason("ledger", None, "a statement waits"))
    site.readiness.halted("stripe", "the key was refused")
    site.readiness.expect("api_requests", utcnow() - dt.timedelta(hours=1), lambda at: at)
    status, words = site.call("GET", "/readyz")
    assert status == 503
    assert [(each["what"], each["of"]) for each in words["reasons"]] == [
        ("halted", "stripe"),
        ("late", "api_requests"),
        ("ledger", None),
    ]
    assert words["reasons"][0]["reason"] == "the key was refused"


def test_slow_callers_keep_nobody_out(site: Site) -> None:
    """Connections that send nothing hold no worker: a delivery beside many of them is taken."""
    parts = urlsplit(site.url)
    idle = [socket.create_connection((parts.hostname, parts.port), timeout=20) for _ in range(40)]
    try:
        for each in idle:
            each.sendall(f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n".encode())
        assert site.deliver(told(site)).status == 200
    finally:
        for each in idle:
            each.close()


def opened(site: Site) -> socket.socket:
    """Return a connection that has said nothing yet."""
    parts = urlsplit(site.url)
    return socket.create_connection((parts.hostname, parts.port), timeout=20)


def resident() -> int:
    """Return how many MiB this process holds, in which the listener is, too."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() >> 20


def fed_up(connection: socket.socket, sent: Iterator[bytes], most: int) -> int:
    """Send until the other side has had enough; return how many bytes it took to say so, at most so many."""
    count = 0
    with suppress(ConnectionError):
        for part in sent:
            connection.sendall(part)
            count += len(part)
            if count >= most:
                break
    return count


@pytest.mark.parametrize(
    ("begin", "part"),
    [
        pytest.param(b"GET /healthz HTTP/1.1\r\nX: ", b"x" * 65_536, id="a header that never ends"),
        pytest.param(b"GET /healthz HTTP/1.1\r\n", b"X: y\r\n" * 8_192, id="headers that never end"),
        pytest.param(b"GET /", b"x" * 65_536, id="a request line that never ends"),
        pytest.param(b"", b"\r\n" * 32_768, id="nothing but line ends"),
        pytest.param(
            f"POST {PATH} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode(),
            b"1;" + b"x" * 65_534,
            id="a chunk's extension that never ends",
        ),
    ],
)
def test_a_head_that_never_ends_is_cut_off(site: Site, begin: bytes, part: bytes) -> None:
    """After little more than a head may have: neither memory nor time is spent on hundreds of megabytes."""
    before = resident()
    with opened(site) as connection:
        connection.sendall(begin)
        sent = fed_up(connection, repeat(part), most=256 << 20)
    assert sent < 64 << 20
    assert resident() - before < 32
    assert site.call("GET", "/healthz").status == 200


def test_a_head_with_too_many_headers_is_refused(site: Site) -> None:
    """Also where they are short enough together."""
    many = {f"X-{number}": "y" for number in range(101)}
    assert site.call("GET", "/healthz", headers=many).status == 431


HALVES = {
    "nothing": b"",
    "half a request line": b"POST /webh",
    "half a head": f"POST {PATH} HTTP/1.1\r\nHost: x\r\n".encode(),
    "half a body": f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf".encode(),
}


@pytest.mark.parametrize("said", HALVES.values(), ids=HALVES)
def test_a_crowd_of_slow_callers_keeps_nobody_out(site: Site, said: bytes) -> None:
    """Three hundred that never finish: signed deliveries and probes come through, and the crowd is thinned out."""
    crowd = [opened(site) for _ in range(300)]
    try:
        for each in crowd:
            with suppress(ConnectionError):
                each.sendall(said)
        for _ in range(3):
            assert site.deliver(told(site)).status == 200
            assert site.call("GET", "/healthz").status == 200
            assert site.call("GET", "/livez").status == 200
        crowd[0].settimeout(20)
        with suppress(ConnectionError):
            assert crowd[0].recv(1) == b"", "the oldest made room"
    finally:
        for each in crowd:
            each.close()


def test_who_is_slow_is_let_go(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A head has a deadline of its own, however steadily its bytes come, and so has a second one on the same connection."""
    monkeypatch.setitem(connections.PATIENCE, h11.IDLE, 0.2)
    for first in (b"", b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"):
        with opened(site) as slow:
            slow.sendall(first)
            dripped = fed_up(slow, dripping(), most=1_000)
            assert dripped < 1_000
    assert site.call("GET", "/livez").status == 200


def dripping() -> Iterator[bytes]:
    """One byte every now and then, as long as somebody waits for them."""
    pause = threading.Event()
    for byte in cycle(b"GET / HTTP/1.1 "):
        pause.wait(0.02)
        yield bytes([byte])


class Stuck:
    """A taker that is not done before it is told."""

    takes_deliveries = True

    def __init__(self) -> None:
        self.at_work = 0
        self.most = 0
        self.lock = threading.Lock()
        self.full = threading.Event()
        self.go = threading.Event()

    def deliver(self, body: bytes, signature: str, now: dt.datetime) -> Any:
        with self.lock:
            self.at_work += 1
            self.most = max(self.most, self.at_work)
            if self.at_work == MOST_AT_WORK:
                self.full.set()
        self.go.wait(20)
        with self.lock:
            self.at_work -= 1
        raise UsageError("it came to nothing")


def test_more_than_can_be_worked_on_is_told_to_come_again() -> None:
    """A few are worked on at once, some wait, the rest get a 503 at once; stopping ends what is under way."""

    class Alive:
        def last_pass_at(self) -> dt.datetime | None:
            return START

    stuck, address = Stuck(), Address("127.0.0.1:0")
    takers = {"fake": cast("NotificationPoller", stuck)}
    web = Web(address, takers, cast("Notifications", Alive()), lambda: START)
    web.start()
    parts = urlsplit(address.url)

    def deliver(_: int) -> int:
        connection = HTTPConnection(parts.hostname or "", parts.port, timeout=20)
        try:
            connection.request("POST", PATH, b"{}")
            status = connection.getresponse().status
            if status == 503 and not stuck.go.is_set():
                turned_away.set()
            return status
        finally:
            connection.close()

    turned_away = threading.Event()
    with ThreadPoolExecutor(60) as pool:
        calls = [pool.submit(deliver, number) for number in range(60)]
        assert stuck.full.wait(20)
        assert turned_away.wait(20)
        stuck.go.set()
        statuses = [call.result() for call in calls]
    web.stop()
    address.close()
    assert set(statuses) == {503}
    assert stuck.most == MOST_AT_WORK


@pytest.mark.parametrize("text", ["8080", "host:", ":80", "127.0.0.1:x", "127.0.0.1:99999"])
def test_an_address_that_is_none_is_said(text: str) -> None:
    """The remedy is in the message."""
    with pytest.raises(UsageError, match="HOST:PORT"):
        Address(text)


def test_a_port_that_is_taken_is_said() -> None:
    """Before anything is read or sent."""
    address = Address("127.0.0.1:0")
    with pytest.raises(UsageError, match="another port"):
        Address(address.url.removeprefix("http://"))
    address.close()
