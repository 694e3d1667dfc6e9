"""The Stripe sink over HTTP: against the sandbox, which keeps Stripe's rules, and against a server that follows a script.

No test waits for time to pass: what has to happen first is waited for.
"""

import datetime as dt
import json
import logging
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from decimal import Decimal
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import SimpleQueue
from typing import Any
from urllib.parse import parse_qsl, urlencode
from urllib.request import Request, urlopen

import pytest

from aggregator.core.model import (
    Answer,
    Event,
    Span,
    Verdict,
    WriteModel,
)
from aggregator.errors import SinkError, SinkHalted, SinkUnreachable
from aggregator.runtime.clock import utcnow
from aggregator.sandbox import MeterSpec, RunningSandbox, SandboxOptions, running
from aggregator.sinks.protocol import Sink
from aggregator.sinks.stripe import StripeMeter, StripeSink
from aggregator.sinks.stripe.limits import Rates
from aggregator.sinks.stripe.wire import API_VERSION
from tests.contract.events import about_to_leave, always, answers, send, send_one, until_halted
from tests.contract.making import making

KEY = "sk_test_0123456789abcdefghij"
LIVE_KEY = "sk_live_0123456789abcdefghij"
SECONDS = 20
"""How long a test waits for something that happens at once, before it fails."""

NOW = utcnow().replace(second=0, microsecond=0)
HOUR_AGO = NOW - dt.timedelta(hours=1)

FILLERS = tuple(MeterSpec(f"filler_{number:03}") for number in range(120))
METERS = (
    MeterSpec("api_requests"),
    *FILLERS,
    MeterSpec("logins", "count"),
    MeterSpec("seats", "last"),
    MeterSpec("stored_gb", "sum", "hour"),
)


# -- what the tests share -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shared_sandbox() -> Iterator[RunningSandbox]:
    """One sandbox for all tests here."""
    with running(SandboxOptions(meters=METERS)) as sandbox:
        yield sandbox


@pytest.fixture
def sandbox(shared_sandbox: RunningSandbox) -> RunningSandbox:
    """The sandbox, as it was at the start."""
    shared_sandbox.reset()
    return shared_sandbox


@pytest.fixture
def make_sink() -> Iterator[Callable[..., StripeSink]]:
    """Make sinks for the meter `api` and close them when the test ends."""
    with making(
        partial(StripeSink, "stripe"),
        api_key=KEY,
        mode="test",
        timeout=dt.timedelta(seconds=SECONDS),
        max_in_flight=16,
        meters={"api": StripeMeter(event_name="api_requests")},
    ) as made:

        def make(url: str, *, calls_per_second: float = 10_000.0, **settings: Any) -> StripeSink:
            rates = Rates(calls_per_second, calls_per_second, stream_by_event=True)
            return made(url, **{"rates": rates, **settings})

        yield make


MakeSink = Callable[..., StripeSink]

usage = partial(about_to_leave, HOUR_AGO)


def pass_on(verdicts: Iterator[Verdict], to: SimpleQueue[Verdict]) -> None:
    """Put verdicts into a queue as they come."""
    for verdict in verdicts:
        to.put(verdict)


class Call(dict[str, str]):
    """One request that the scripted server got: its form, and its headers."""

    headers: dict[str, str]


@dataclass
class Reply:
    """What the scripted server says, once its gate is open; `cut` breaks off within the body.

    Without a body it echoes the event, changed as `echo` says. Without a gate the server's own counts.
    """

    status: int = 200
    body: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    echo: dict[str, object] = field(default_factory=dict)
    cut: bool = False
    gate: threading.Event | None = field(default=None, repr=False)


class Script:
    """A server that answers with the given replies, the last one for ever, and remembers what it was asked.

    Each call is put into `arrived`, and then waits at a gate before it is answered.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.replies = [Reply()]
        self.calls: list[Call] = []
        self.arrived: SimpleQueue[Call] = SimpleQueue()
        self.gate = threading.Event()
        self.gate.set()

    def answer(self, call: Call) -> Reply:
        """Take note of a call and return what to say."""
        self.calls.append(call)
        reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        self.arrived.put(call)
        assert (reply.gate or self.gate).wait(SECONDS)
        return reply


@pytest.fixture
def script() -> Iterator[Script]:
    """A scripted server."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    server.script = Script(f"http://127.0.0.1:{server.server_port}")  # type: ignore[attr-defined]  # carried along
    yield server.script  # type: ignore[attr-defined]  # as above
    server.script.gate.set()  # type: ignore[attr-defined]  # as above
    server.shutdown()
    thread.join()
    server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(self.path.partition("?")[2])

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers["Content-Length"])).decode())

    def _answer(self, raw: str) -> None:
        call = Call(parse_qsl(raw))
        call.headers = {name.lower(): value for name, value in self.headers.items()}
        reply = self.server.script.answer(call)  # type: ignore[attr-defined]  # put there by the fixture
        body = reply.body if reply.body is not None else json.dumps(_echo(call) | reply.echo)
        self.send_response(reply.status)
        self.send_header("Request-Id", "req_script")
        self.send_header("Content-Length", str(len(body) + 10 * reply.cut))
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body.encode())
        self.close_connection = reply.cut

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - named so by the base class
        """Say nothing."""


def _echo(call: Call) -> dict[str, object]:
    return {
        "object": "billing.meter_event",
        "event_name": call["event_name"],
        "identifier": call["identifier"],
        "livemode": False,
        "timestamp": int(call["timestamp"]),
    }


def refusal(message: str, **error: str) -> str:
    """The body of a refusal in Stripe's shape."""
    return json.dumps({"error": {"type": "invalid_request_error", "message": message} | error})


# -- one event ------------------------------------------------------------------------------------


def test_an_event_is_accepted_and_booked(sandbox: RunningSandbox, make_sink: MakeSink) -> None:
    """A 200 is an acceptance; the request's id is kept and the customer's total is the delta."""
    verdict = send_one(make_sink(sandbox.url), usage("cus_1", "12.5"))
    assert verdict.answer is Answer.ACCEPTED
    assert (verdict.request_id or "").startswith("req_")
    assert sandbox.totals("api_requests") == {"cus_1": Decimal("12.5")}


def test_what_goes_over_the_wire(script: Script, make_sink: MakeSink) -> None:
    """The event's own name, identifier and instant, the keys of the Stripe meter, and a pinned API version."""
    meter = StripeMeter(event_name="calls", customer_key="who", value_key="much")
    event = usage("cus_7", 3)
    assert send(make_sink(script.url, meters={"api": meter}), event) == [Answer.ACCEPTED]
    (call,) = script.calls
    assert call == {
        "event_name": "calls",
        "identifier": event.identifier,
        "timestamp": str(int(event.at.timestamp())),
        "payload[who]": "cus_7",
        "payload[much]": "3",
    }
    assert call.headers["authorization"] == f"Bearer {KEY}"
    assert call.headers["stripe-version"] == API_VERSION
    assert "x-stripe-client-telemetry" not in call.headers


def test_the_api_version_does_not_move_with_the_library(
    script: Script, make_sink: MakeSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another release of the library, with another version of the API in it, changes nothing."""
    monkeypatch.setattr("stripe._api_version._ApiVersion.CURRENT", "2099-01-01.future")
    send(make_sink(script.url), usage())
    assert script.calls[0].headers["stripe-version"] == API_VERSION


@pytest.mark.parametrize(
    ("delta", "written"),
    [
        ("1E+3", "1000"),
        ("0.00001", "0.00001"),
        ("1E-7", "0.0000001"),
        ("-2.50", "-2.5"),
        ("123456789012345", "123456789012345"),
    ],
)
def test_numbers_are_written_in_plain_digits(
    script: Script, make_sink: MakeSink, delta: str, written: str
) -> None:
    """No exponent ever goes out, however a number is held."""
    send(make_sink(script.url), usage("cus_1", delta))
    assert script.calls[0]["payload[value]"] == written


def test_each_attempt_has_an_idempotency_key_of_its_own(script: Script, make_sink: MakeSink) -> None:
    """Sent again, everything is the same but the key: a saved answer must not stand in for the truth."""
    script.replies = [Reply(500, refusal("An error.")), Reply()]
    sink, event = make_sink(script.url), usage()
    assert send(sink, event) == [Answer.UNKNOWN]
    assert send(sink, event) == [Answer.ACCEPTED]
    first, second = script.calls
    assert first == second
    assert first.headers["idempotency-key"] != second.headers["idempotency-key"]


def test_the_same_identifier_again_is_a_duplicate(sandbox: RunningSandbox, make_sink: MakeSink) -> None:
    """Sent twice, it is booked once."""
    sink, event = make_sink(sandbox.url), usage("cus_1", 5)
    assert send(sink, event) == [Answer.ACCEPTED]
    assert send(sink, event) == [Answer.DUPLICATE]
    assert sandbox.totals("api_requests") == {"cus_1": Decimal(5)}


@pytest.mark.parametrize(
    ("fault", "again"),
    [
        ("drop_before", Answer.ACCEPTED),
        ("drop_after", Answer.DUPLICATE),
        ("error_before", Answer.ACCEPTED),
        ("error_after", Answer.DUPLICATE),
    ],
)
def test_a_lost_answer_is_unknown_and_a_resend_finds_out(
    sandbox: RunningSandbox, make_sink: MakeSink, fault: str, again: Answer
) -> None:
    """A broken connection or a 500 leaves it open; the same bytes again settle it, booked once."""
    sandbox.set_faults(**{fault: 1.0}, times=1)
    sink, event = make_sink(sandbox.url), usage("cus_1", 5)
    assert send(sink, event) == [Answer.UNKNOWN]
    assert send(sink, event) == [again]
    assert sandbox.totals("api_requests") == {"cus_1": Decimal(5)}
    assert sandbox.stats()["replayed"] == 0


def test_no_answer_in_time_is_unknown(script: Script, make_sink: MakeSink) -> None:
    """After the timeout nobody knows what became of the event."""
    script.gate.clear()
    verdict = send_one(make_sink(script.url, timeout=dt.timedelta(seconds=2)), usage())
    assert (verdict.answer, verdict.reason) == (Answer.UNKNOWN, "no answer within 2 s")


def test_half_an_answer_is_unknown(script: Script, make_sink: MakeSink) -> None:
    """An answer that breaks off in its body is none."""
    script.replies = [Reply(cut=True)]
    assert send(make_sink(script.url), usage()) == [Answer.UNKNOWN]


@pytest.mark.parametrize(
    "reply",
    [
        Reply(200, "<html>welcome</html>"),
        Reply(200, ""),
        Reply(200, "[]"),
        Reply(200, "{}"),
        Reply(502, "<html>bad gateway</html>"),
        Reply(502, '{"error": "bad gateway"}'),
        Reply(503, '"down"'),
        Reply(200, echo={"identifier": "agg_other"}),
        Reply(200, echo={"event_name": "other"}),
    ],
    ids=repr,
)
def test_an_answer_that_makes_no_sense_is_unknown(script: Script, make_sink: MakeSink, reply: Reply) -> None:
    """What cannot be read, or speaks of another event, is neither yes nor no."""
    script.replies = [reply]
    verdict = send_one(make_sink(script.url), usage())
    assert verdict.answer is Answer.UNKNOWN
    assert verdict.reason


def test_nobody_there_is_busy(make_sink: MakeSink) -> None:
    """If no connection comes about, nothing left: the event is not exposed."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as closed:
        port = closed.server_port
    verdict = send_one(make_sink(f"http://127.0.0.1:{port}"), usage())
    assert verdict.answer is Answer.BUSY
    assert "cannot be reached" in (verdict.reason or "")


def test_a_connection_that_does_not_come_about_is_busy(make_sink: MakeSink) -> None:
    """A peer who takes the connection but never shakes hands has not been sent the event."""
    with socket.create_server(("127.0.0.1", 0)) as mute:
        url = f"https://127.0.0.1:{mute.getsockname()[1]}"
        verdict = send_one(make_sink(url, timeout=dt.timedelta(seconds=1)), usage())
    assert (verdict.answer, verdict.reason) == (
        Answer.BUSY,
        "cannot be reached: connecting took too long",
    )


def test_a_refusal_keeps_stripes_words(sandbox: RunningSandbox, make_sink: MakeSink) -> None:
    """An event that is too old is refused, and the reason is Stripe's."""
    event = usage()._replace(at=NOW - dt.timedelta(days=36))
    verdict = send_one(make_sink(sandbox.url), event)
    assert verdict.answer is Answer.REFUSED
    assert (verdict.reason or "").startswith("The event timestamp cannot be more than 35 days in past.")


def test_a_refused_customer_holds_nobody_up(sandbox: RunningSandbox, make_sink: MakeSink) -> None:
    """One customer whose events are always refused does not delay or stop the others."""
    sandbox.set_faults(refuse_customers=["cus_bad"])
    events = [usage("cus_bad"), usage("cus_1"), usage("cus_bad"), usage("cus_2")]
    assert send(make_sink(sandbox.url), *events) == [
        Answer.REFUSED,
        Answer.ACCEPTED,
        Answer.REFUSED,
        Answer.ACCEPTED,
    ]


def test_a_missing_object_refuses_one_event_only(script: Script, make_sink: MakeSink) -> None:
    """A 404 about a customer is no word on the endpoint."""
    missing = refusal("No such customer: 'cus_1'", code="resource_missing")
    script.replies = [Reply(404, missing), Reply()]
    sink = make_sink(script.url)
    assert send(sink, usage()) == [Answer.REFUSED]
    assert send(sink, usage()) == [Answer.ACCEPTED]


def test_a_meter_that_no_longer_feeds_the_sink_waits(sandbox: RunningSandbox, make_sink: MakeSink) -> None:
    """An event of a meter that was taken out of the configuration is kept; the others go."""
    events = [usage(meter="gone"), usage()]
    assert send(make_sink(sandbox.url), *events) == [Answer.BUSY, Answer.ACCEPTED]


# -- too many -------------------------------------------------------------------------------------


def test_a_rate_limit_slows_the_sink_down(script: Script, make_sink: MakeSink) -> None:
    """A 429 is busy, carries Stripe's wish for when to come again, and halves the rate."""
    script.replies = [Reply(429, refusal("Too many.", code="rate_limit"), {"Retry-After": "7"})]
    sink = make_sink(script.url, calls_per_second=100.0)
    verdict = send_one(sink, usage())
    assert (verdict.answer, verdict.retry_after) == (Answer.BUSY, 7.0)
    assert verdict.reason == "Too many (429, rate_limit)"
    assert sink.calls_per_second == pytest.approx(50, rel=0.05)


def test_a_lock_does_not_slow_the_sink_down(script: Script, make_sink: MakeSink) -> None:
    """A lock on one object says nothing about the account's limit."""
    script.replies = [Reply(429, refusal("Locked.", code="lock_timeout"))]
    sink = make_sink(script.url, calls_per_second=100.0)
    assert send(sink, usage()) == [Answer.BUSY]
    assert sink.calls_per_second == pytest.approx(100)


def test_a_conflict_is_busy(script: Script, make_sink: MakeSink) -> None:
    """A 409 was turned away before anything was done."""
    script.replies = [Reply(409, refusal("Concurrently.", code="too_many_concurrent_requests")), Reply()]
    sink, event = make_sink(script.url), usage()
    assert send(sink, event) == [Answer.BUSY]
    assert send(sink, event) == [Answer.ACCEPTED]


def test_a_slow_sink_is_given_small_batches(make_sink: MakeSink) -> None:
    """Test mode's rate would keep 1,000 events waiting; what the sink asks for fits its rate."""
    assert make_sink("http://sink.test", calls_per_second=1_000).limits.batch == 1_000
    assert make_sink("http://sink.test", calls_per_second=25).limits.batch == 125


def test_an_event_waits_for_its_turn_only_so_long(script: Script, make_sink: MakeSink) -> None:
    """What has not left in time is given back, so that its claim does not run out here; what has left is waited for."""
    script.gate.clear()
    sink = make_sink(script.url, max_in_flight=1, patience=dt.timedelta(seconds=0.5))
    events = [usage(f"cus_{number}") for number in range(3)]
    verdicts = sink.send(events, always)
    assert [next(verdicts).answer, next(verdicts).answer] == [Answer.UNSENT] * 2
    script.gate.set()
    assert next(verdicts).answer is Answer.ACCEPTED
    assert len(script.calls) == 1


# -- one at a time per customer -------------------------------------------------------------------


def test_one_call_in_flight_per_customer_and_meter(sandbox: RunningSandbox, make_sink: MakeSink) -> None:
    """However many threads send, Stripe never sees two calls for one customer of one meter at once."""
    sandbox.set_faults(latency_seconds=0.01)
    sink = make_sink(sandbox.url)
    batches = [[usage(f"cus_{number % 3}") for number in range(12)] for _ in range(4)]
    with ThreadPoolExecutor(len(batches)) as pool:
        said = list(pool.map(lambda batch: send(sink, *batch), batches))
    assert said == [[Answer.ACCEPTED] * 12] * 4
    assert sandbox.stats()["refused"] == {}
    assert sandbox.totals("api_requests") == {f"cus_{number}": Decimal(16) for number in range(3)}


def test_customers_do_not_wait_for_each_other(script: Script, make_sink: MakeSink) -> None:
    """While one customer's call is in flight, others leave; their second events wait."""
    script.gate.clear()
    sink = make_sink(script.url)
    events = [usage("cus_1"), usage("cus_1"), usage("cus_2"), usage("cus_2")]
    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(send, sink, *events)
        together = {script.arrived.get(timeout=SECONDS)["payload[stripe_customer_id]"] for _ in range(2)}
        assert together == {"cus_1", "cus_2"}
        assert len(script.calls) == 2
        script.gate.set()
        assert sending.result(SECONDS) == [Answer.ACCEPTED] * 4


def test_two_meters_that_share_an_event_name_share_the_turn(script: Script, make_sink: MakeSink) -> None:
    """What must not overlap is decided by the meter at Stripe, not by ours."""
    script.gate.clear()
    shared = StripeMeter(event_name="api_requests")
    sink = make_sink(script.url, meters={"api": shared, "other": shared})
    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(send, sink, usage(meter="api"), usage(meter="other"), usage("cus_2"))
        arrived = [script.arrived.get(timeout=SECONDS)["payload[stripe_customer_id]"] for _ in range(2)]
        assert sorted(arrived) == ["cus_1", "cus_2"]
        script.gate.set()
        assert sending.result(SECONDS) == [Answer.ACCEPTED] * 3


def test_customers_are_forgotten_once_they_are_idle(sandbox: RunningSandbox, make_sink: MakeSink) -> None:
    """Nothing about a customer stays behind: memory does not grow with their number."""
    sink = make_sink(sandbox.url)
    send(sink, *(usage(f"cus_{number % 40}") for number in range(80)))
    connection = sink._loop.now
    assert connection is not None
    sink.stop()
    sink.close()
    assert connection.dispatcher._chains == {}
    assert connection.dispatcher._batches == set()


# -- halts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "what"), [("revoked", "does not accept"), ("restricted", "lacks a permission")]
)
def test_a_refused_key_halts_the_sink(
    sandbox: RunningSandbox, make_sink: MakeSink, kind: str, what: str
) -> None:
    """A 401 or 403 stops everything at once; no attempt counts, and the message says what to do but not the key."""
    sandbox.control("PUT", "keys", {kind: [KEY]})
    sink = make_sink(sandbox.url, max_in_flight=1)
    events = [usage(f"cus_{number}") for number in range(5)]
    verdicts, said = until_halted(sink, events)
    assert answers(verdicts, events) == [Answer.UNSENT] * 5
    assert sandbox.stats()["requests"] == 1
    assert what in said
    assert "`api_key`" in said
    assert KEY not in said
    assert all(KEY not in (verdict.reason or "") for verdict in verdicts)


def test_a_halted_sink_stays_halted(sandbox: RunningSandbox, make_sink: MakeSink) -> None:
    """Even after the cause has gone, this sink sends nothing unless it is asked to; a new one does."""
    sandbox.set_keys(revoked=[KEY])
    sink, event = make_sink(sandbox.url), usage()
    _, first = until_halted(sink, [event])
    sandbox.set_keys()
    verdicts, again = until_halted(sink, [event])
    assert [verdict.answer for verdict in verdicts] == [Answer.UNSENT]
    assert again == first
    assert until_halted(sink, [])[0] == []
    assert send(make_sink(sandbox.url), event) == [Answer.ACCEPTED]


def test_a_key_in_an_answer_is_not_repeated(script: Script, make_sink: MakeSink) -> None:
    """Should an answer quote the key in full, we do not."""
    script.replies = [Reply(401, refusal(f"Invalid API Key provided: {KEY}"))]
    verdicts, said = until_halted(make_sink(script.url), [usage()])
    assert KEY not in said + str(verdicts)


def test_a_halt_waits_for_what_has_left(script: Script, make_sink: MakeSink) -> None:
    """Other calls in flight get their own verdicts before the halt is raised, in every send."""
    no, yes = threading.Event(), threading.Event()
    script.replies = [Reply(401, refusal("No."), gate=no), Reply(gate=yes)]
    sink = make_sink(script.url, max_in_flight=2)
    mine, theirs = [usage("cus_1"), usage("cus_2"), usage("cus_3")], [usage("cus_4")]
    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(until_halted, sink, mine)
        for _ in range(2):
            script.arrived.get(timeout=SECONDS)
        no.set()
        assert answers(until_halted(sink, theirs)[0], theirs) == [Answer.UNSENT]
        assert not sending.done()
        yes.set()
        said = answers(sending.result(SECONDS)[0], mine)
    assert sorted(said[:2]) == [Answer.ACCEPTED, Answer.UNSENT]
    assert said[2] is Answer.UNSENT


def test_a_wrong_address_halts(script: Script, make_sink: MakeSink) -> None:
    """A 404 on the endpoint means that this is not Stripe's API."""
    script.replies = [Reply(404, "<html>not here</html>")]
    verdicts, said = until_halted(make_sink(script.url), [usage()])
    assert [verdict.answer for verdict in verdicts] == [Answer.UNSENT]
    assert "`api_base`" in said


def test_the_wrong_mode_halts(sandbox: RunningSandbox, make_sink: MakeSink) -> None:
    """A live key in a sink that is set to test mode: one event is in doubt, and nothing more leaves."""
    sink = make_sink(sandbox.url, api_key=LIVE_KEY, max_in_flight=1)
    events = [usage("cus_1"), usage("cus_2")]
    verdicts, said = until_halted(sink, events)
    assert answers(verdicts, events) == [Answer.UNKNOWN, Answer.UNSENT]
    assert "set to test mode" in said


# -- stopping -------------------------------------------------------------------------------------


def test_stop_gives_back_what_has_not_left(script: Script, make_sink: MakeSink) -> None:
    """On stop the waiting events are UNSENT at once; the one in flight is waited for and counts."""
    script.gate.clear()
    sink = make_sink(script.url, max_in_flight=1)
    events = [usage(f"cus_{number}") for number in range(4)]
    verdicts: SimpleQueue[Verdict] = SimpleQueue()
    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(pass_on, sink.send(events, always), verdicts)
        script.arrived.get(timeout=SECONDS)
        sink.stop()
        given_back = [verdicts.get(timeout=SECONDS) for _ in range(3)]
        assert [verdict.answer for verdict in given_back] == [Answer.UNSENT] * 3
        script.gate.set()
        last = verdicts.get(timeout=SECONDS)
        sending.result(SECONDS)
    assert (last.event, last.answer) == (events[0].id, Answer.ACCEPTED)
    assert len(script.calls) == 1


@pytest.mark.parametrize("used", [True, False])
def test_nothing_leaves_after_stop(sandbox: RunningSandbox, make_sink: MakeSink, used: bool) -> None:
    """A stopped sink gives everything back, whether it was ever used or not."""
    sink = make_sink(sandbox.url)
    if used:
        send(sink, usage())
    before = sandbox.stats()["requests"]
    sink.stop()
    assert send(sink, usage()) == [Answer.UNSENT]
    sink.close()
    assert send(sink, usage()) == [Answer.UNSENT]
    assert sandbox.stats()["requests"] == before


def test_a_sender_who_goes_away_sends_nothing_more(script: Script, make_sink: MakeSink) -> None:
    """If the verdicts are no longer read, what has not left stays here."""
    second = threading.Event()
    script.replies = [Reply(), Reply(gate=second)]
    sink = make_sink(script.url, max_in_flight=1)
    verdicts = sink.send([usage(f"cus_{number}") for number in range(9)], always)
    assert next(verdicts).answer is Answer.ACCEPTED
    for _ in range(2):
        script.arrived.get(timeout=SECONDS)
    verdicts.close()  # type: ignore[attr-defined]  # the iterator is a generator
    second.set()
    assert send(sink, usage("cus_10")) == [Answer.ACCEPTED]
    assert len(script.calls) == 3


def test_close_ends_the_thread(sandbox: RunningSandbox, make_sink: MakeSink) -> None:
    """Closing, even twice, leaves no thread behind."""
    sink = make_sink(sandbox.url)
    send(sink, usage())
    assert "sink-stripe" in {thread.name for thread in threading.enumerate()}
    sink.close()
    sink.close()
    assert "sink-stripe" not in {thread.name for thread in threading.enumerate()}


def test_nothing_secret_is_logged(
    sandbox: RunningSandbox, make_sink: MakeSink, caplog: pytest.LogCaptureFixture
) -> None:
    """At INFO neither the key nor a customer's id is written anywhere, whatever the answers are."""
    sandbox.set_rules(sync_customer_errors=True)
    with caplog.at_level(logging.INFO):
        send(make_sink(sandbox.url), usage("cus_1"), usage("nobody"))
    assert KEY not in caplog.text
    assert "cus_1" not in caplog.text
    assert "nobody" not in caplog.text


def test_it_is_a_sink(make_sink: MakeSink) -> None:
    """It offers what delivery asks for, and its limits are Stripe's."""
    sink: Sink = make_sink("http://sink.test")
    assert sink.limits.write_model is WriteModel.DELTA
    assert sink.limits.memory == dt.timedelta(hours=20)
    assert sink.limits.past < dt.timedelta(days=35)
    assert (sink.limits.significant_digits, sink.limits.identifier_length) == (15, 100)


# -- before the first event: preflight ------------------------------------------------------------


def post(url: str, path: str, **form: str) -> dict[str, Any]:
    """Make one call to the sandbox as somebody at their desk would."""
    request = Request(
        f"{url}{path}", urlencode(form).encode(), {"Authorization": f"Bearer {KEY}"}, method="POST"
    )
    with urlopen(request, timeout=SECONDS) as response:
        found: dict[str, Any] = json.load(response)
        return found


def meter(event_name: str, **differing: Any) -> dict[str, StripeMeter]:
    """The settings of one meter of ours, `api`."""
    return {"api": StripeMeter(event_name=event_name, **differing)}


@pytest.mark.parametrize("event_name", ["api_requests", "filler_000", "filler_119"])
def test_a_meter_that_fits_raises_no_problem(
    sandbox: RunningSandbox, make_sink: MakeSink, event_name: str
) -> None:
    """An active meter that sums, with our keys, is found on whichever page it stands."""
    assert make_sink(sandbox.url, meters=meter(event_name)).preflight(["api"]) == []


@pytest.mark.parametrize(
    ("event_name", "words"),
    [
        ("nothing", "does not exist"),
        ("logins", "counts events"),
        ("seats", "aggregates by last, but we send for sum"),
        ("stored_gb", "the newest event of each hour replaces the others"),
    ],
)
def test_a_meter_that_does_not_fit_is_named(
    sandbox: RunningSandbox, make_sink: MakeSink, event_name: str, words: str
) -> None:
    """Each problem names our meter, Stripe's, and what is wrong."""
    (problem,) = make_sink(sandbox.url, meters=meter(event_name)).preflight(["api"])
    assert "Meter api" in problem
    assert event_name in problem
    assert words in problem


@pytest.mark.parametrize(
    ("event_name", "differing", "words"),
    [
        ("api_requests", {"formula": "last"}, "aggregates by sum, but we send for last"),
        ("api_requests", {"event_time_window": "hour"}, "every event adds up there"),
        ("stored_gb", {"event_time_window": "day"}, "has an event time window of one hour"),
        ("stored_gb", {"event_time_window": "hour"}, ""),
        ("seats", {"formula": "last"}, ""),
    ],
)
def test_what_is_configured_of_a_meter_must_be_what_stripe_has(
    sandbox: RunningSandbox, make_sink: MakeSink, event_name: str, differing: dict[str, str], words: str
) -> None:
    """A total sent to a meter that sums bills twice, and an increase sent to one that replaces too little."""
    problems = make_sink(sandbox.url, meters=meter(event_name, **differing)).preflight(["api"])
    assert [words in problem for problem in problems] == ([True] if words else [])


def test_keys_that_differ_are_both_named(sandbox: RunningSandbox, make_sink: MakeSink) -> None:
    """Customer and value key of ours and of the Stripe meter stand in the sentences."""
    meters = meter("api_requests", customer_key="customer", value_key="tokens")
    customer, value = make_sink(sandbox.url, meters=meters).preflight(["api"])
    assert "stripe_customer_id" in customer
    assert "we send customer" in customer
    assert "under value" in value
    assert "we send tokens" in value


def test_an_inactive_meter_is_named(sandbox: RunningSandbox, make_sink: MakeSink) -> None:
    """A meter that was deactivated exists, but takes no events."""
    made = post(
        sandbox.url,
        "/v1/billing/meters",
        **{"display_name": "Old", "event_name": "old", "default_aggregation[formula]": "sum"},
    )
    post(sandbox.url, f"/v1/billing/meters/{made['id']}/deactivate")
    (problem,) = make_sink(sandbox.url, meters=meter("old")).preflight(["api"])
    assert "is not active" in problem


def test_a_key_of_the_other_mode_is_noticed(sandbox: RunningSandbox, make_sink: MakeSink) -> None:
    """What the account says of its meters' mode counts, not how the key looks."""
    (problem,) = make_sink(sandbox.url, api_key=LIVE_KEY).preflight(["api"])
    assert "is in live mode, but the sink is set to test mode" in problem


def test_a_refused_key_is_a_sentence(sandbox: RunningSandbox, make_sink: MakeSink) -> None:
    """A key that is not accepted is said plainly, and is not quoted."""
    sandbox.set_keys(revoked=[KEY])
    with pytest.raises(SinkHalted, match="does not accept the API key of sink stripe") as halted:
        make_sink(sandbox.url).preflight(["api"])
    assert KEY not in str(halted.value)


def test_no_network_is_a_sentence(make_sink: MakeSink) -> None:
    """So is an address where nobody answers."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as closed:
        port = closed.server_port
    with pytest.raises(SinkUnreachable, match=r"^Stripe gave no answer to sink stripe: cannot be reached"):
        make_sink(f"http://127.0.0.1:{port}").preflight(["api"])


# -- who we are: the account ----------------------------------------------------------------------


@pytest.mark.parametrize(("key", "mode"), [(KEY, "test"), (LIVE_KEY, "live")])
def test_the_account_is_named_with_its_mode(
    sandbox: RunningSandbox, make_sink: MakeSink, key: str, mode: str
) -> None:
    """Two modes of one account are told apart."""
    assert make_sink(sandbox.url, api_key=key, mode=mode).account() == f"acct_sandbox {mode}"


def test_a_key_that_may_not_read_the_account_names_none(sandbox: RunningSandbox, make_sink: MakeSink) -> None:
    """A restricted key is no error: it sends, and is not told whose it is."""
    sandbox.set_keys(no_account=[KEY])
    sink = make_sink(sandbox.url)
    assert sink.account() is None
    assert send(sink, usage()) == [Answer.ACCEPTED]


def test_the_account_without_an_answer(sandbox: RunningSandbox, make_sink: MakeSink, script: Script) -> None:
    """Trouble that may pass, a key that is not accepted, and an answer that names nobody are three different things."""
    sandbox.set_faults(black_hole=True)
    with pytest.raises(SinkUnreachable):
        make_sink(sandbox.url).account()
    sandbox.set_faults()
    sandbox.set_keys(revoked=[KEY])
    with pytest.raises(SinkHalted):
        make_sink(sandbox.url).account()
    script.replies = [Reply(body='{"object": "account", "id": 5}')]
    with pytest.raises(SinkError, match="does not name an account"):
        make_sink(script.url).account()


@pytest.mark.parametrize("code", ["platform_api_key_expired", "api_key_expired"])
def test_a_key_that_has_expired_is_not_taken_for_a_restricted_one(
    script: Script, make_sink: MakeSink, code: str
) -> None:
    """Whatever the status, it halts."""
    script.replies = [Reply(403, refusal("Expired.", code=code))]
    with pytest.raises(SinkHalted):
        make_sink(script.url).account()


# -- afterwards: totals ---------------------------------------------------------------------------

SPAN = Span(HOUR_AGO, NOW)
HOUR, DAY, MINUTE = dt.timedelta(hours=1), dt.timedelta(days=1), dt.timedelta(minutes=1)


def used_at(at: dt.datetime, delta: Decimal | int | str = 1, customer: str = "cus_1") -> Event:
    """Usage at an instant."""
    return usage(customer, delta)._replace(at=at)


def rows(*pairs: tuple[dt.datetime, object], more: bool = False) -> str:
    """A page of summaries in Stripe's shape, of what begins when and shows what."""
    data = [
        {
            "id": f"mtrusg_{start:%d%H%M}",
            "object": "billing.meter_event_summary",
            "start_time": int(start.timestamp()),
            "aggregated_value": value,
        }
        for start, value in pairs
    ]
    return json.dumps({"object": "list", "data": data, "has_more": more, "url": "/"})


ONE_METER = json.dumps(
    {
        "object": "list",
        "data": [{"id": "mtr_1", "object": "billing.meter", "event_name": "api_requests"}],
        "has_more": False,
        "url": "/",
    }
)


def test_a_total_says_what_was_booked(sandbox: RunningSandbox, make_sink: MakeSink) -> None:
    """The sum of a customer's events within the span, exactly; nothing for whoever used nothing."""
    sink = make_sink(sandbox.url)
    send(sink, usage("cus_1", "0.1"), usage("cus_1", "0.2"), usage("cus_2", 9))
    assert sink.total("api", "cus_1", SPAN) == Decimal("0.3")
    assert sink.total("api", "cus_3", SPAN) == 0
    assert sink.total("api", "cus_1", Span(HOUR_AGO - HOUR, HOUR_AGO)) == 0


def test_a_total_of_one_minute_is_that_minutes(sandbox: RunningSandbox, make_sink: MakeSink) -> None:
    """Its first second belongs to it and the next minute's first does not: one event alone can be proved (B4)."""
    sink = make_sink(sandbox.url)
    at = HOUR_AGO + 7 * MINUTE
    second = dt.timedelta(seconds=1)
    for event in (
        used_at(at - second, 1000),
        used_at(at, "12345678.9012345"),
        used_at(at + 59 * second, "0.0000005"),
        used_at(at + MINUTE, 1000),
    ):
        assert send(sink, event) == [Answer.ACCEPTED]
    assert sink.total("api", "cus_1", Span(at, at + MINUTE)) == Decimal("12345678.901235")
    assert sink.total("api", "cus_1", Span(at + 2 * MINUTE, at + 3 * MINUTE)) == 0


@pytest.mark.parametrize("value", ["999999999999999", "0.1", "0.000001", "-12.5", "123456789.012345"])
def test_fifteen_digits_come_back_as_they_went(
    sandbox: RunningSandbox, make_sink: MakeSink, value: str
) -> None:
    """Stripe shows a float, and its shortest form has the digits that were sent (B16)."""
    sink = make_sink(sandbox.url)
    send(sink, usage("cus_1", value))
    assert sink.total("api", "cus_1", SPAN) == Decimal(value)
    assert sum(sink.breakdown("api", "cus_1", whole(SPAN, DAY), DAY).values()) == Decimal(value)


def whole(span: Span, step: dt.timedelta) -> Span:
    """The whole UTC hours or days around a span."""
    seconds = int(step.total_seconds())
    start, end = (int(bound.timestamp()) for bound in span)
    first, last = start // seconds * seconds, -(-end // seconds) * seconds
    return Span(dt.datetime.fromtimestamp(first, dt.UTC), dt.datetime.fromtimestamp(last, dt.UTC))


@pytest.mark.parametrize("step", [HOUR, DAY])
def test_a_breakdown_is_read_to_its_last_page(
    sandbox: RunningSandbox, make_sink: MakeSink, step: dt.timedelta
) -> None:
    """More hours than one page holds, each with its own quantity; the steps are in UTC and add up to the total."""
    sink = make_sink(sandbox.url)
    span = whole(Span(NOW - 30 * DAY, NOW - DAY), step)
    used = {span.start + number * 5 * HOUR: number + 1 for number in range(125)}
    send(sink, *(used_at(at + 3 * MINUTE, quantity) for at, quantity in used.items()))
    expected: dict[dt.datetime, Decimal] = {}
    for at, quantity in used.items():
        start = whole(Span(at, at), step).start
        expected[start] = expected.get(start, Decimal(0)) + quantity
    assert sink.breakdown("api", "cus_1", span, step) == expected
    assert len(expected) > (100 if step == HOUR else 20)
    assert sink.total("api", "cus_1", span) == sum(expected.values()) == 125 * 126 // 2


def test_a_breakdown_leaves_out_what_cancels_out(sandbox: RunningSandbox, make_sink: MakeSink) -> None:
    """An hour whose corrections make it zero is as one in which nothing was counted, as Stripe may show or not show it."""
    sink = make_sink(sandbox.url)
    span = whole(Span(NOW - 3 * HOUR, NOW - 3 * HOUR), HOUR)
    span = Span(span.start, span.start + 2 * HOUR)
    send(sink, used_at(span.start, 5), used_at(span.start, -5), used_at(span.start + HOUR, 2))
    assert sink.breakdown("api", "cus_1", span, HOUR) == {span.start + HOUR: 2}
    assert sink.breakdown("api", "cus_2", span, HOUR) == {}


def test_what_stripe_would_refuse_is_not_asked(sandbox: RunningSandbox, make_sink: MakeSink) -> None:
    """Spans off their steps, and steps that there are not, are mistakes of ours."""
    sink = make_sink(sandbox.url)
    at = HOUR_AGO.replace(minute=30)
    for span in (
        Span(at + dt.timedelta(seconds=1), NOW),
        Span(at, at + dt.timedelta(seconds=90)),
        Span(at + dt.timedelta(microseconds=1), NOW),
    ):
        with pytest.raises(AssertionError, match="whole steps"):
            sink.total("api", "cus_1", span)
    for step in (HOUR, DAY):
        with pytest.raises(AssertionError, match="whole steps"):
            sink.breakdown("api", "cus_1", Span(at, at + step), step)
    for step in (MINUTE, 2 * HOUR):
        with pytest.raises(AssertionError, match="breaks nothing down"):
            sink.breakdown("api", "cus_1", whole(SPAN, DAY), step)
    assert sandbox.stats()["requests"] == 0


FULL_HOUR = whole(Span(HOUR_AGO, HOUR_AGO + MINUTE), HOUR)


@pytest.mark.parametrize(
    ("page", "words"),
    [
        (rows((FULL_HOUR.start - HOUR, 5)), "outside|no sense"),
        (rows((FULL_HOUR.end, 5)), "outside|no sense"),
        (rows((FULL_HOUR.start, None)), "a NoneType, which is no quantity"),
        (rows((FULL_HOUR.start, "5")), "a str, which is no quantity"),
        (rows((FULL_HOUR.start, float("nan"))), "nan, which is no quantity"),
        (
            '{"object": "list", "data": [{"id": "a", "aggregated_value": 5}], "has_more": false}',
            "no time but at a NoneType",
        ),
        (rows(more=True), "no summaries of api on a page"),
    ],
)
def test_an_answer_that_makes_no_sense_is_no_total(
    script: Script, make_sink: MakeSink, page: str, words: str
) -> None:
    """A number that cannot be trusted is an error, never a quantity."""
    script.replies = [Reply(body=ONE_METER), Reply(body=page)]
    sink = make_sink(script.url)
    with pytest.raises(SinkError, match=words):
        sink.total("api", "cus_1", FULL_HOUR)
    with pytest.raises(SinkError, match=words):
        sink.breakdown("api", "cus_1", Span(*whole(Span(FULL_HOUR.start, HOUR_AGO + MINUTE), HOUR)), HOUR)


@pytest.mark.parametrize("starts", [(0, 0), (0, 30)])
def test_a_breakdown_with_an_hour_twice_or_off_its_step_is_none(
    script: Script, make_sink: MakeSink, starts: tuple[int, int]
) -> None:
    """Adding it up would bill or clear it wrongly."""
    start = whole(SPAN, DAY).start
    page = rows(*((start + minutes * MINUTE, 5) for minutes in starts))
    script.replies = [Reply(body=ONE_METER), Reply(body=page)]
    with pytest.raises(SinkError, match="make no sense"):
        make_sink(script.url).breakdown("api", "cus_1", whole(SPAN, DAY), HOUR)


def test_a_total_in_several_rows_and_pages_is_their_sum(script: Script, make_sink: MakeSink) -> None:
    """Should Stripe cut a span into rows, none is forgotten, and each page is asked for after the last one's last row."""
    later = HOUR_AGO + 30 * MINUTE
    script.replies = [
        Reply(body=ONE_METER),
        Reply(body=rows((HOUR_AGO, 5), (HOUR_AGO + MINUTE, 7), more=True)),
        Reply(body=rows((later, 0.5))),
    ]
    assert make_sink(script.url).total("api", "cus_1", SPAN) == Decimal("12.5")
    assert [call.get("starting_after") for call in script.calls] == [
        None,
        None,
        f"mtrusg_{HOUR_AGO + MINUTE:%d%H%M}",
    ]


def test_a_list_without_an_end_is_given_up(script: Script, make_sink: MakeSink) -> None:
    """There is a bound to what is read."""
    script.replies = [Reply(body=ONE_METER), Reply(body=rows((HOUR_AGO, 5), more=True))]
    with pytest.raises(SinkError, match="ask for a shorter span"):
        make_sink(script.url).total("api", "cus_1", SPAN)
    assert len(script.calls) == 1 + 100


def test_totals_of_a_meter_that_was_removed(script: Script, make_sink: MakeSink) -> None:
    """It cannot be asked about, which is no word on Stripe: others are asked about as before."""
    with pytest.raises(SinkError, match="removed no longer feeds sink stripe") as told:
        make_sink(script.url).total("removed", "cus_1", SPAN)
    assert type(told.value) is SinkError
    assert script.calls == []


def test_totals_of_what_is_not_there(sandbox: RunningSandbox, make_sink: MakeSink) -> None:
    """A meter that Stripe does not have is an error that says so."""
    sink = make_sink(sandbox.url, meters=meter("nothing"))
    with pytest.raises(SinkError, match="no meter with event name nothing"):
        sink.total("api", "cus_1", SPAN)
    with pytest.raises(SinkError, match="no meter with event name nothing"):
        sink.breakdown("api", "cus_1", whole(SPAN, DAY), DAY)


@pytest.mark.parametrize("ask", ["total", "breakdown"])
def test_totals_without_an_answer(sandbox: RunningSandbox, make_sink: MakeSink, ask: str) -> None:
    """Trouble that may pass is told from a key that is not accepted."""

    def asked() -> object:
        sink = make_sink(sandbox.url)
        span = whole(SPAN, DAY)
        return (
            sink.total("api", "cus_1", span) if ask == "total" else sink.breakdown("api", "cus_1", span, DAY)
        )

    sandbox.set_faults(error_before=1.0, applies_to="all")
    with pytest.raises(SinkUnreachable):
        asked()
    sandbox.set_faults(black_hole=True)
    with pytest.raises(SinkUnreachable):
        asked()
    sandbox.reset()
    sandbox.set_keys(revoked=[KEY])
    with pytest.raises(SinkHalted):
        asked()


def test_a_summary_moves_when_stripe_has_processed_the_event(
    sandbox: RunningSandbox, make_sink: MakeSink
) -> None:
    """Until then the total does not know of it, and a later rejection takes it away again."""
    sandbox.set_rules(processing_delay_seconds=600)
    sandbox.set_faults(reject_later=1.0, reject_after_seconds=3600, times=1)
    sink = make_sink(sandbox.url)
    send(sink, usage("cus_1", 5))
    assert sink.total("api", "cus_1", SPAN) == 0
    sandbox.set_clock(660)
    assert sink.total("api", "cus_1", SPAN) == 5
    sandbox.set_clock(3660)
    assert sink.total("api", "cus_1", SPAN) == 0


def test_what_may_no_longer_leave_is_given_back(script: Script, make_sink: MakeSink) -> None:
    """After a pause in which the claim may have passed to another process, nothing more leaves: it is UNSENT (B12)."""
    allowed = iter([True, True, False])
    sink = make_sink(script.url, max_in_flight=1)
    events = [usage(f"cus_{number}") for number in range(5)]
    said = answers(list(sink.send(events, lambda: next(allowed, False))), events)
    assert said == [Answer.ACCEPTED] * 2 + [Answer.UNSENT] * 3
