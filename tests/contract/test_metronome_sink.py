"""The Metronome sink over HTTP: against the sandbox, which keeps Metronome's rules, and against a server with a script.

No test waits for time to pass: what has to happen first is waited for.
"""

import datetime as dt
import itertools
import json
import logging
import socket
import sys
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import SimpleQueue
from typing import Any, cast

import pytest

from aggregator.core.dimensions import Dimensions
from aggregator.core.model import (
    Answer,
    Encoding,
    Event,
    Span,
    Verdict,
)
from aggregator.errors import CustomerUnknown, MetersMixed, SinkError, SinkHalted, SinkUnreachable
from aggregator.runtime.clock import utcnow
from aggregator.sandbox import SandboxOptions, running
from aggregator.sandbox.metronome import MetronomeControl
from aggregator.sinks.metronome import MetronomeMeter, MetronomeSink
from aggregator.sinks.protocol import Sink
from aggregator.sinks.read_allowance import ReadAllowance
from tests.contract.events import about_to_leave, always, answers, send, send_one, until_halted
from tests.contract.making import making

TOKEN = "token_0123456789abcdefghij"
SECONDS = 20
"""How long a test waits for something that happens at once, before it fails."""

NOW = utcnow().replace(microsecond=0)
HOUR, DAY = dt.timedelta(hours=1), dt.timedelta(days=1)
YESTERDAY = NOW.replace(hour=0, minute=0, second=0) - DAY
NOON = YESTERDAY + 12 * HOUR
WHOLE = Span(YESTERDAY, YESTERDAY + DAY)
"""The day that the events here belong to."""


# -- what the tests share -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shared_sandbox() -> Iterator[MetronomeControl]:
    """One sandbox for all tests here."""
    with running(SandboxOptions()) as sandbox:
        yield MetronomeControl(sandbox.url)


@pytest.fixture
def sandbox(shared_sandbox: MetronomeControl) -> MetronomeControl:
    """The sandbox, as it was at the start, with a metric that sums."""
    shared_sandbox.reset()
    shared_sandbox.add_metric("api_requests")
    return shared_sandbox


@pytest.fixture
def make_sink() -> Iterator[Callable[..., MetronomeSink]]:
    """Make sinks for the meter `api` and close them when the test ends."""
    with making(
        partial(MetronomeSink, "metronome"),
        api_key=TOKEN,
        encoding=Encoding.TEXT,
        events_per_second=100_000.0,
        timeout=dt.timedelta(seconds=SECONDS),
        max_in_flight=4,
        meters={"api": MetronomeMeter(event_type="api_requests")},
        test_customer="tester",
        trial_patience=dt.timedelta(0),
    ) as make:
        yield make


MakeSink = Callable[..., MetronomeSink]

usage = partial(about_to_leave, NOON)


def several(size: int, bad: Sequence[int] = ()) -> list[Event]:
    """So many events; those at the places in `bad` are of a customer that the sandbox can be told to refuse."""
    return [usage("cus_bad" if place in bad else f"cus_{place}", place + 1) for place in range(size)]


def sums(events: Sequence[Event]) -> dict[str, Decimal]:
    """What each customer is owed by these events."""
    totals: dict[str, Decimal] = {}
    for event in events:
        totals[event.customer] = totals.get(event.customer, Decimal(0)) + event.delta
    return totals


@dataclass
class Call:
    """One request that the scripted server got."""

    method: str
    path: str
    body: bytes
    headers: dict[str, str]

    @property
    def identifiers(self) -> list[str]:
        """The events in it."""
        return [each["transaction_id"] for each in json.loads(self.body)]


@dataclass
class Reply:
    """What the scripted server says once its gate is open; `cut` breaks off within the body, `drip` never ends it."""

    status: int = 200
    body: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    cut: bool = False
    drip: bool = False


class Script:
    """A server that answers with the given replies, the last one for ever, and remembers what it was asked."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.replies = [Reply()]
        self.calls: list[Call] = []
        self.arrived: SimpleQueue[Call] = SimpleQueue()
        self.gate = threading.Event()
        self.gate.set()
        self.waits: Callable[[Call], bool] = lambda call: True
        """Which calls the gate keeps waiting."""
        self.over = threading.Event()
        self._lock = threading.Lock()

    def answer(self, call: Call) -> Reply:
        """Take note of a call and return what to say."""
        with self._lock:
            self.calls.append(call)
            reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        self.arrived.put(call)
        assert not self.waits(call) or self.gate.wait(SECONDS)
        return reply


class _Server(ThreadingHTTPServer):
    script: Script


@pytest.fixture
def script() -> Iterator[Script]:
    """A scripted server."""
    server = _Server(("127.0.0.1", 0), _Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    server.script = Script(f"http://127.0.0.1:{server.server_port}")
    yield server.script
    server.script.over.set()
    server.script.gate.set()
    server.shutdown()
    thread.join()
    server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        reply = self.server.script.answer(Call(self.command, self.path, body, headers))
        with suppress(ConnectionError):  # whoever asked may have given up
            self._send(reply)
        self.close_connection = reply.cut or reply.drip

    def _send(self, reply: Reply) -> None:
        self.send_response(reply.status)
        self.send_header("X-Request-Id", "req_script")
        self.send_header("Content-Length", str(len(reply.body) + 1_000 * (reply.cut or reply.drip)))
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(reply.body.encode())
        if reply.drip:
            self._drip()

    def _drip(self) -> None:
        """Send a byte now and then, for as long as anybody listens."""
        for _ in range(900):
            if self.server.script.over.wait(0.05):
                return
            self.wfile.write(b" ")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - named so by the base class
        """Say nothing."""


# -- one request ----------------------------------------------------------------------------------


def test_events_are_accepted_and_booked(sandbox: MetronomeControl, make_sink: MakeSink) -> None:
    """A 200 is an acceptance of each, and a customer's total is the sum of its deltas."""
    events = [usage("cus_1", "12.5"), usage("cus_2", 3), usage("cus_1", "-0.5")]
    assert send(make_sink(sandbox.url), *events) == [Answer.ACCEPTED] * 3
    assert sandbox.totals("api_requests") == {"cus_1": 12, "cus_2": 3}


@pytest.mark.parametrize(("encoding", "quantity"), [(Encoding.TEXT, '"3"'), (Encoding.NUMBER, "3")])
def test_what_goes_over_the_wire(
    script: Script, make_sink: MakeSink, encoding: Encoding, quantity: str
) -> None:
    """A bare array, the event's own identifier and instant, the meter's type and properties, and the token."""
    meter = MetronomeMeter(event_type="calls", quantity_property="much", properties={"region": "eü"})
    event = usage("cus_7", 3)._replace(at=NOON.replace(microsecond=250_000))
    assert send(make_sink(script.url, meters={"api": meter}, encoding=encoding), event) == [Answer.ACCEPTED]
    (call,) = script.calls
    assert call.body.decode() == (
        f'[{{"transaction_id": "{event.identifier}", "customer_id": "cus_7", "event_type": "calls", '
        f'"timestamp": "{NOON:%Y-%m-%d}T12:00:00.250000Z", "properties":{{"much":{quantity},"region":"e\\u00fc"}}}}]'
    )
    assert (call.method, call.path) == ("POST", "/v1/ingest")
    assert call.headers["authorization"] == f"Bearer {TOKEN}"
    assert call.headers["content-type"] == "application/json"
    assert "idempotency-key" not in call.headers


EXACT = ["12345678901234567.25", "0.1", "1E+3", "1E-7", "-2.50", "9999999999999999.999999999999"]


@pytest.mark.parametrize("encoding", Encoding)
@pytest.mark.parametrize("delta", EXACT)
def test_every_digit_arrives_and_comes_back(
    sandbox: MetronomeControl, make_sink: MakeSink, encoding: Encoding, delta: str
) -> None:
    """Nothing on the way there or back makes a float of a quantity."""
    sandbox.add_customer("one", "cus_1")
    sink = make_sink(sandbox.url, encoding=encoding)
    assert send(sink, usage("cus_1", delta), usage("cus_1", -1)) == [Answer.ACCEPTED] * 2
    expected = Decimal(delta) - 1
    assert sandbox.totals("api_requests") == {"cus_1": expected}
    assert sink.total("api", "cus_1", WHOLE) == expected


@pytest.mark.parametrize("delta", EXACT)
def test_numbers_are_written_in_plain_digits(script: Script, make_sink: MakeSink, delta: str) -> None:
    """No exponent ever goes out, however a number is held."""
    sink = make_sink(script.url, encoding=Encoding.NUMBER)
    send(sink, usage("cus_1", delta))
    written = json.loads(script.calls[-1].body, parse_float=str, parse_int=str)[0]["properties"]["quantity"]
    assert Decimal(written) == Decimal(delta)
    assert "e" not in written.lower()


def test_a_request_holds_a_hundred_events(script: Script, make_sink: MakeSink) -> None:
    """What is more goes in further requests, each event in one of them."""
    events = several(250)
    assert send(make_sink(script.url), *events) == [Answer.ACCEPTED] * 250
    assert sorted(len(call.identifiers) for call in script.calls) == [50, 100, 100]
    sent = sorted(each for call in script.calls for each in call.identifiers)
    assert sent == sorted(event.identifier for event in events)


def test_requests_are_in_flight_together(script: Script, make_sink: MakeSink) -> None:
    """As many as may be wait for their answers at once, and no more."""
    script.gate.clear()
    sink, events = make_sink(script.url, max_in_flight=3), several(500)
    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(send, sink, *events)
        for _ in range(3):
            script.arrived.get(timeout=SECONDS)
        assert script.arrived.empty()
        script.gate.set()
        assert sending.result(SECONDS) == [Answer.ACCEPTED] * 500


@pytest.mark.parametrize("headers", [{}, {"x-should-retry": "true", "retry-after": "1"}])
def test_the_library_repeats_nothing(script: Script, make_sink: MakeSink, headers: dict[str, str]) -> None:
    """One attempt of ours is one request, whatever the answer asks for; and sent again it is the same bytes."""
    script.replies = [Reply(500, '{"message": "oops"}', headers), Reply()]
    sink, events = make_sink(script.url), several(3)
    assert send(sink, *events) == [Answer.UNKNOWN] * 3
    assert len(script.calls) == 1
    assert send(sink, *events) == [Answer.ACCEPTED] * 3
    assert script.calls[0].body == script.calls[1].body


def test_a_duplicate_is_accepted_and_counts_once(sandbox: MetronomeControl, make_sink: MakeSink) -> None:
    """Metronome does not tell, so a resend looks like any other; the first of two contents stays."""
    sink, event = make_sink(sandbox.url), usage("cus_1", 5)
    assert send(sink, event, usage("cus_2", 1)) == [Answer.ACCEPTED] * 2
    assert send(sink, event._replace(delta=Decimal(7))) == [Answer.ACCEPTED]
    assert sandbox.totals("api_requests") == {"cus_1": 5, "cus_2": 1}
    assert sandbox.stats()["duplicates"] == 1


@pytest.mark.parametrize("fault", ["drop_before", "drop_after", "error_before", "error_after"])
def test_a_lost_answer_is_unknown_and_a_resend_settles_it(
    sandbox: MetronomeControl, make_sink: MakeSink, fault: str
) -> None:
    """A broken connection or a 500 leaves all of a request open; the same bytes again settle it, booked once."""
    sandbox.set_faults(**{fault: 1.0}, times=1)
    sink, events = make_sink(sandbox.url), several(5)
    assert send(sink, *events) == [Answer.UNKNOWN] * 5
    assert send(sink, *events) == [Answer.ACCEPTED] * 5
    assert sandbox.totals("api_requests") == sums(events)


@pytest.mark.parametrize("fault", ["drop_after", "error_after"])
@pytest.mark.parametrize("arrived", range(6))
def test_a_request_that_arrived_in_part_is_unknown_as_a_whole(
    sandbox: MetronomeControl, make_sink: MakeSink, fault: str, arrived: int
) -> None:
    """Wherever it broke off, the resend brings the rest and doubles nothing."""
    sandbox.set_rules(ingested_before_error=arrived)
    sandbox.set_faults(**{fault: 1.0}, times=1)
    sink, events = make_sink(sandbox.url), several(5)
    assert send(sink, *events) == [Answer.UNKNOWN] * 5
    assert sandbox.totals("api_requests") == sums(events[:arrived])
    assert send(sink, *events) == [Answer.ACCEPTED] * 5
    assert sandbox.totals("api_requests") == sums(events)
    assert sandbox.stats()["double_counted"] == 0


def test_no_answer_in_time_is_unknown(script: Script, make_sink: MakeSink) -> None:
    """After the timeout nobody knows what became of the events."""
    script.gate.clear()
    verdict = send_one(make_sink(script.url, timeout=dt.timedelta(seconds=1)), usage())
    assert (verdict.answer, verdict.reason) == (Answer.UNKNOWN, "no answer within 1 s")


def test_an_answer_that_never_ends_is_unknown(script: Script, make_sink: MakeSink) -> None:
    """The timeout is for the call as a whole: a byte now and then does not keep a claim waiting."""
    script.replies = [Reply(drip=True)]
    verdict = send_one(make_sink(script.url, timeout=dt.timedelta(seconds=1)), usage())
    assert (verdict.answer, verdict.reason) == (Answer.UNKNOWN, "no answer within 1 s")


def test_half_an_answer_is_unknown(script: Script, make_sink: MakeSink) -> None:
    """An answer that breaks off in its body is none."""
    script.replies = [Reply(cut=True)]
    verdict = send_one(make_sink(script.url), usage())
    assert verdict.answer is Answer.UNKNOWN
    assert "connection broke" in (verdict.reason or "")


@pytest.mark.parametrize(
    "reply",
    [
        Reply(200, "<html>please log in</html>"),
        Reply(302, headers={"Location": "/elsewhere"}),
        Reply(307, headers={"Location": "/elsewhere"}),
        Reply(408, "timeout"),
        Reply(409, "{}"),
        Reply(500, ""),
        Reply(502, "<html>bad gateway</html>"),
        Reply(503, '"down"'),
        Reply(504, '{"message": "slow"}'),
    ],
    ids=repr,
)
def test_an_answer_that_leaves_it_open_is_unknown(script: Script, make_sink: MakeSink, reply: Reply) -> None:
    """What is neither yes nor no is followed by no other call, and said of all events."""
    script.replies = [reply]
    verdicts = list(make_sink(script.url).send(several(3), always))
    assert {verdict.answer for verdict in verdicts} == {Answer.UNKNOWN}
    assert all(verdict.reason and "<" not in verdict.reason for verdict in verdicts)
    assert len(script.calls) == 1


@pytest.mark.parametrize("status", [200, 201, 202, 204])
@pytest.mark.parametrize("body", ["", "{}", "null"])
def test_any_success_is_an_acceptance(script: Script, make_sink: MakeSink, status: int, body: str) -> None:
    """The body of an answer is not documented, so nothing depends on it; its id is kept."""
    script.replies = [Reply(status, "" if status == 204 else body)]
    verdict = send_one(make_sink(script.url), usage())
    assert (verdict.answer, verdict.request_id) == (Answer.ACCEPTED, "req_script")


def test_nobody_there_is_busy(make_sink: MakeSink) -> None:
    """If no connection comes about, nothing left: the events are not exposed."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as closed:
        port = closed.server_port
    verdict = send_one(make_sink(f"http://127.0.0.1:{port}"), usage())
    assert verdict.answer is Answer.BUSY
    assert "cannot be reached" in (verdict.reason or "")


def test_a_connection_that_does_not_come_about_is_busy(make_sink: MakeSink) -> None:
    """A peer who takes the connection but never shakes hands has not been sent anything."""
    with socket.create_server(("127.0.0.1", 0)) as mute:
        url = f"https://127.0.0.1:{mute.getsockname()[1]}"
        verdict = send_one(make_sink(url, timeout=dt.timedelta(seconds=1)), usage())
    assert (verdict.answer, verdict.reason) == (Answer.BUSY, "cannot be reached: connecting took too long")


def test_too_many_is_busy_and_slows_down(sandbox: MetronomeControl, make_sink: MakeSink) -> None:
    """A 429 did nothing; Metronome's wish for when to come again is passed on, and the pace halves."""
    sandbox.set_rules(retry_after_seconds=7)
    sandbox.set_faults(too_many_requests=1.0, times=1)
    sink, events = make_sink(sandbox.url), several(3)
    verdicts = list(sink.send(events, always))
    assert [(verdict.answer, verdict.retry_after) for verdict in verdicts] == [(Answer.BUSY, 7.0)] * 3
    assert sink.events_per_second < 60_000
    assert sandbox.totals("api_requests") == {}


@pytest.mark.parametrize(("said", "polled"), [("soon", None), ("-1", None), ("nan", None), ("1e9", 3600.0)])
def test_a_wish_that_makes_no_sense_is_not_heeded(
    script: Script, make_sink: MakeSink, said: str, polled: float | None
) -> None:
    """A slip in a header parks nothing for days."""
    script.replies = [Reply(429, headers={"Retry-After": said})]
    assert send_one(make_sink(script.url), usage()).retry_after == polled


# -- one bad event among many ---------------------------------------------------------------------


def refusing(sandbox: MetronomeControl, bad_event: str) -> None:
    """Have one customer's events break a rule."""
    sandbox.set_rules(refuse_customers=["cus_bad"], bad_event=bad_event)


@pytest.mark.parametrize("bad_event", ["whole", "partial"])
@pytest.mark.parametrize("place", range(7))
def test_only_the_event_that_is_to_blame_is_refused(
    sandbox: MetronomeControl, make_sink: MakeSink, bad_event: str, place: int
) -> None:
    """Wherever it stands, and whether or not a refused request is taken in part: all others are booked, once."""
    refusing(sandbox, bad_event)
    events = several(7, bad=[place])
    verdicts = list(make_sink(sandbox.url).send(events, always))
    expected = [Answer.REFUSED if at == place else Answer.ACCEPTED for at in range(7)]
    assert answers(verdicts, events) == expected
    (refused,) = [verdict for verdict in verdicts if verdict.answer is Answer.REFUSED]
    assert refused.reason == "[0] is refused by a rule of the sandbox (400)"
    assert sandbox.totals("api_requests") == sums([each for each in events if each.customer != "cus_bad"])
    assert sandbox.stats()["double_counted"] == 0


@pytest.mark.parametrize("place", [0, 1, 49, 50, 63, 99])
def test_finding_it_takes_few_requests(sandbox: MetronomeControl, make_sink: MakeSink, place: int) -> None:
    """Among a hundred: the request, and two halves for each of at most seven steps."""
    refusing(sandbox, "whole")
    events, before = several(100, bad=[place]), sandbox.stats()["requests"]
    assert send(make_sink(sandbox.url), *events).count(Answer.REFUSED) == 1
    assert sandbox.stats()["requests"] - before <= 1 + 2 * 7


@pytest.mark.parametrize("bad", [[0, 99], [10, 11], list(range(0, 100, 9)), list(range(100))], ids=len)
def test_several_bad_events_are_each_found(
    sandbox: MetronomeControl, make_sink: MakeSink, bad: list[int]
) -> None:
    """Never more than two requests per event, even if all are bad."""
    refusing(sandbox, "whole")
    events, before = several(100, bad), sandbox.stats()["requests"]
    said = send(make_sink(sandbox.url), *events)
    assert [place for place, answer in enumerate(said) if answer is Answer.REFUSED] == bad
    assert said.count(Answer.ACCEPTED) == 100 - len(bad)
    assert sandbox.stats()["requests"] - before < 2 * 100


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_half_without_an_answer_is_unknown(script: Script, make_sink: MakeSink, status: int) -> None:
    """A refused request may have been taken in part, so that "not now" to a half of it is no proof that nothing arrived."""
    script.replies = [Reply(status, '{"message": "bad"}'), Reply(429), Reply(500)]
    verdicts = list(make_sink(script.url, max_in_flight=1).send(several(4), always))
    assert [verdict.answer for verdict in verdicts] == [Answer.UNKNOWN] * 4
    assert "was part of a request that was refused" in (verdicts[0].reason or "")
    assert len(script.calls) == 3


def test_a_half_that_may_not_leave_is_unknown(script: Script, make_sink: MakeSink) -> None:
    """Each half is asked about anew; what does not leave after its request was refused is not said to have stayed here."""
    script.replies = [Reply(400, "bad")]
    allowed = iter([True])
    events = several(4)
    said = answers(list(make_sink(script.url).send(events, lambda: next(allowed, False))), events)
    assert said == [Answer.UNKNOWN] * 4
    assert len(script.calls) == 1


def test_a_half_that_meets_a_halt_is_unknown(script: Script, make_sink: MakeSink) -> None:
    """The token may be withdrawn in between: what was refused with others before may have been taken in."""
    script.replies = [Reply(400, "bad"), Reply(401)]
    verdicts, _ = until_halted(make_sink(script.url, max_in_flight=1), several(4))
    assert [verdict.answer for verdict in verdicts] == [Answer.UNKNOWN] * 4
    assert len(script.calls) == 2


@pytest.mark.parametrize(
    ("at", "words"),
    [
        (NOW - 35 * DAY, "[0].timestamp lies more than 34 days back (400)"),
        (NOW + 2 * DAY, "[0].timestamp lies more than 24 hours ahead (400)"),
    ],
)
def test_a_refusal_keeps_metronomes_words(
    sandbox: MetronomeControl, make_sink: MakeSink, at: dt.datetime, words: str
) -> None:
    """What is outside the bounds of time is refused, and the reason is the far side's."""
    verdict = send_one(make_sink(sandbox.url), usage()._replace(at=at))
    assert (verdict.answer, verdict.reason) == (Answer.REFUSED, words)


# -- all or nothing: halts, stops, and who may leave ----------------------------------------------


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (401, "does not accept the token of sink metronome"),
        (403, "lacks a permission"),
        (404, "is not at the address of sink metronome"),
    ],
)
def test_a_refusal_of_us_halts_the_sink(script: Script, make_sink: MakeSink, status: int, words: str) -> None:
    """Nothing is said of the events but that they did not leave; it stays so, and the token is not repeated."""
    script.replies = [Reply(status, json.dumps({"message": f"No. You sent {TOKEN}."}))]
    sink, events = make_sink(script.url, max_in_flight=1), several(250)
    verdicts, said = until_halted(sink, events)
    assert answers(verdicts, events) == [Answer.UNSENT] * 250
    assert words in said
    assert TOKEN not in said + str(verdicts)
    assert len(script.calls) == 1
    again, _ = until_halted(sink, [usage()])
    assert [verdict.answer for verdict in again] == [Answer.UNSENT]
    assert len(script.calls) == 1


@pytest.mark.parametrize("keys", [{"revoked": [TOKEN]}, {"restricted": [TOKEN]}])
def test_a_withdrawn_token_halts(
    sandbox: MetronomeControl, make_sink: MakeSink, keys: dict[str, list[str]]
) -> None:
    """Also as the sandbox has it: for events, for preflight and for totals."""
    sandbox.set_keys(**keys)
    sink = make_sink(sandbox.url)
    with pytest.raises(SinkHalted):
        sink.preflight(["api"])
    with pytest.raises(SinkHalted):
        sink.total("api", "cus_1", WHOLE)
    verdicts, _ = until_halted(sink, [usage()])
    assert verdicts[0].answer is Answer.UNSENT


def test_without_the_library_it_halts_and_says_what_to_install(
    make_sink: MakeSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is an extra: whoever has not installed it is told so, and no event is lost."""
    monkeypatch.setitem(sys.modules, "metronome", None)
    sink = make_sink("http://127.0.0.1:9")
    with pytest.raises(SinkHalted, match=r"pip install 'usage-aggregator\[metronome\]'"):
        sink.preflight(["api"])
    verdicts, said = until_halted(sink, [usage()])
    assert [verdict.answer for verdict in verdicts] == [Answer.UNSENT]
    assert "metronome is not installed" in said


def test_an_event_of_a_meter_that_is_gone_waits(script: Script, make_sink: MakeSink) -> None:
    """It says what to do, and does not keep the others from leaving."""
    events = [usage(meter="gone"), usage()]
    verdicts = list(make_sink(script.url).send(events, always))
    assert answers(verdicts, events) == [Answer.BUSY, Answer.ACCEPTED]
    assert "meter gone no longer feeds sink metronome" in (verdicts[0].reason or "")


def test_what_may_no_longer_leave_is_given_back(script: Script, make_sink: MakeSink) -> None:
    """After a pause in which the claim may have passed to another process, nothing more leaves: it is UNSENT."""
    allowed = iter([True, True])
    sink, events = make_sink(script.url, max_in_flight=1), several(400)
    said = answers(list(sink.send(events, lambda: next(allowed, False))), events)
    assert said == [Answer.ACCEPTED] * 200 + [Answer.UNSENT] * 200
    assert len(script.calls) == 2


def test_stop_gives_back_what_has_not_left_and_waits_for_what_has(
    script: Script, make_sink: MakeSink
) -> None:
    """The request in flight is answered, the rest is UNSENT, and so is whatever comes later."""
    script.gate.clear()
    sink, events = make_sink(script.url, max_in_flight=1), several(300)
    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(send, sink, *events)
        script.arrived.get(timeout=SECONDS)
        sink.stop()
        script.gate.set()
        assert sending.result(SECONDS) == [Answer.ACCEPTED] * 100 + [Answer.UNSENT] * 200
    assert send(sink, usage()) == [Answer.UNSENT]
    sink.close()
    sink.close()


def test_a_stop_between_halves_leaves_them_unknown(script: Script, make_sink: MakeSink) -> None:
    """The request was refused when nothing more might leave: whether its events arrived is open."""
    script.gate.clear()
    script.replies = [Reply(400, "bad")]
    sink, events = make_sink(script.url), several(10)
    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(send, sink, *events)
        script.arrived.get(timeout=SECONDS)
        sink.stop()
        script.gate.set()
        assert sending.result(SECONDS) == [Answer.UNKNOWN] * 10
    assert len(script.calls) == 1


def test_when_nobody_listens_any_more_nothing_more_leaves(script: Script, make_sink: MakeSink) -> None:
    """Whoever breaks off after the first verdicts has what is left given back; only what was in the air arrives."""
    sink = make_sink(script.url, max_in_flight=1)
    asked = itertools.count(1)

    def may_leave() -> bool:
        if next(asked) == 2:
            script.gate.clear()  # this request is in the air until the gate opens, and no further one leaves
        return True

    *events, last = several(1_001)
    verdicts = sink.send(events, may_leave)
    assert next(verdicts).answer is Answer.ACCEPTED
    verdicts.close()  # type: ignore[attr-defined]  # it is a generator
    script.gate.set()
    assert send(sink, last) == [Answer.ACCEPTED], "what others send goes on, after all that was left"
    assert len(script.calls) <= 3


def test_an_event_that_waits_too_long_is_given_back(script: Script, make_sink: MakeSink) -> None:
    """A claim must not run out in the queue: what has not left in time is UNSENT."""
    script.gate.clear()
    sink = make_sink(script.url, max_in_flight=1, patience=dt.timedelta(seconds=0.5))
    events = several(200)
    said: list[Verdict] = []
    with ThreadPoolExecutor(1) as pool:
        verdicts = sink.send(events, always)
        first = pool.submit(lambda: [next(verdicts) for _ in range(100)])
        said += first.result(SECONDS)
        assert {verdict.answer for verdict in said} == {Answer.UNSENT}
        script.gate.set()
        said += pool.submit(list, verdicts).result(SECONDS)
    assert answers(said, events) == [Answer.ACCEPTED] * 100 + [Answer.UNSENT] * 100


def test_the_pace_counts_events(script: Script, make_sink: MakeSink) -> None:
    """The burst leaves at once; the next request would have to wait for its events' worth of time."""
    sink = make_sink(script.url, events_per_second=10.0, patience=dt.timedelta(seconds=0.5))
    events = several(150)
    assert send(sink, *events) == [Answer.ACCEPTED] * 100 + [Answer.UNSENT] * 50


def test_several_threads_may_send(sandbox: MetronomeControl, make_sink: MakeSink) -> None:
    """Each gets the verdicts of its own events."""
    sink = make_sink(sandbox.url)
    parts = [several(130) for _ in range(6)]
    with ThreadPoolExecutor(6) as pool:
        said = list(pool.map(lambda part: send(sink, *part), parts))
    assert said == [[Answer.ACCEPTED] * 130] * 6
    assert sandbox.totals("api_requests") == sums([event for part in parts for event in part])


def test_nothing_comes_from_the_environment(
    script: Script, make_sink: MakeSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither another address, nor another token, nor a proxy."""
    monkeypatch.setenv("METRONOME_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("METRONOME_BEARER_TOKEN", "other")
    monkeypatch.setenv("METRONOME_CUSTOM_HEADERS", "Authorization: Bearer other")
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert send(make_sink(script.url), usage()) == [Answer.ACCEPTED]
    assert script.calls[0].headers["authorization"] == f"Bearer {TOKEN}"


def test_the_library_writes_no_log(
    script: Script, make_sink: MakeSink, caplog: pytest.LogCaptureFixture
) -> None:
    """A line per call would hold nothing that we do not know."""
    with caplog.at_level(logging.INFO):
        send(make_sink(script.url), *several(300))
    assert [record for record in caplog.records if record.name != "asyncio"] == []


def test_the_limits_are_metronomes(make_sink: MakeSink) -> None:
    """What the rest of the program goes by; a slow sink is given few events at once."""
    sink: Sink = make_sink("http://127.0.0.1:9", events_per_second=5_000.0, encoding=Encoding.NUMBER)
    limits = sink.limits_for("api")
    assert limits == sink.limits
    assert (limits.memory, limits.past, limits.future) == (33 * DAY, 34 * DAY - HOUR, 23 * HOUR)
    assert (limits.identifier_length, limits.batch, limits.rate) == (128, 1_000, 5_000.0)
    assert (limits.encoding, limits.negatives) == (Encoding.NUMBER, True)
    assert make_sink("http://127.0.0.1:9", events_per_second=1.0).limits.batch == 20


@pytest.mark.parametrize(
    ("minutes", "readable"), [((60,), True), ((60, 1440), True), ((1,), False), ((60, 30), False)]
)
def test_what_can_be_read_back_depends_on_the_windows(
    make_sink: MakeSink, minutes: tuple[int, ...], readable: bool
) -> None:
    """Usage is shown by whole hours: it proves something of windows that are made of such, and only if all are."""
    meters = {
        f"m{length}": MetronomeMeter(event_type="calls", window=dt.timedelta(minutes=length))
        for length in minutes
    }
    sink = make_sink("http://127.0.0.1:9", meters=meters)
    assert (sink.limits.proof is not None) == readable


# -- beforehand: preflight ------------------------------------------------------------------------


def test_a_metric_that_sums_fits(sandbox: MetronomeControl, make_sink: MakeSink) -> None:
    """Nothing is said, and nothing was sent."""
    sink: Sink = make_sink(sandbox.url)
    assert sink.preflight(["api"]) == []
    assert sink.account() is None
    assert sandbox.stats()["accepted"] == 0


@pytest.mark.parametrize(
    ("metric", "meter", "words"),
    [
        ({"event_type": "other"}, {}, "no billable metric of Metronome is for event type calls"),
        ({"aggregation": "COUNT"}, {}, "is a COUNT, which makes something else of a summary"),
        ({"aggregation": "MAX"}, {}, "is a MAX"),
        ({"key": "much"}, {}, "sums much, but we send quantity: set `metronome.quantity_property: much`"),
        (
            {"filters": [{"name": "region", "exists": True}]},
            {},
            "wants the property region, which we do not send",
        ),
        (
            {"filters": [{"name": "region", "in_values": ["us"]}]},
            {"properties": {"region": "eu"}},
            "does not take eu for the property region",
        ),
        (
            {"filters": [{"name": "region", "not_in_values": ["eu"]}]},
            {"properties": {"region": "eu"}},
            "does not take eu",
        ),
        (
            {"filters": [{"name": "region", "exists": False}]},
            {"properties": {"region": "eu"}},
            "wants events without the property region",
        ),
        ({}, {"metric_id": "nothing"}, "has no billable metric nothing"),
    ],
)
def test_a_metric_that_does_not_fit_is_named(
    sandbox: MetronomeControl, make_sink: MakeSink, metric: dict[str, Any], meter: dict[str, Any], words: str
) -> None:
    """What would be taken and billed wrongly, or never, is said before anything is sent."""
    sandbox.reset()
    sandbox.add_metric(**{"event_type": "calls"} | metric)
    sink = make_sink(sandbox.url, meters={"api": MetronomeMeter(event_type="calls", **meter)})
    (problem,) = sink.preflight(["api"])
    assert problem.startswith("Meter api: ")
    assert words in problem


@pytest.mark.parametrize(
    ("metric", "meter"),
    [
        ({"filters": [{"name": "region", "in_values": ["eu"]}]}, {"properties": {"region": "eu"}}),
        ({"filters": [{"name": "region", "not_in_values": ["us"]}]}, {}),
        ({"key": "much"}, {"quantity_property": "much"}),
    ],
)
def test_a_metric_with_filters_that_we_pass_fits(
    sandbox: MetronomeControl, make_sink: MakeSink, metric: dict[str, Any], meter: dict[str, Any]
) -> None:
    """And what we send is counted by it."""
    sandbox.reset()
    sandbox.add_customer("one", "cus_1")
    sandbox.add_metric("calls", **metric)
    sink = make_sink(sandbox.url, meters={"api": MetronomeMeter(event_type="calls", **meter)})
    assert sink.preflight(["api"]) == []
    send(sink, usage("cus_1", 5))
    assert sink.total("api", "cus_1", WHOLE) == 5


def test_a_meter_that_was_removed_cannot_be_asked_about(
    sandbox: MetronomeControl, make_sink: MakeSink
) -> None:
    """That is said, and breaks nothing: others are asked about as before."""
    sandbox.add_customer("one", "cus_1")
    with pytest.raises(SinkError, match=r"removed no longer feeds sink .*: put it back"):
        make_sink(sandbox.url).total("removed", "cus_1", WHOLE)


def test_one_fitting_metric_among_others_is_enough(sandbox: MetronomeControl, make_sink: MakeSink) -> None:
    """Others may count the same events for other ends; which one to read is to be named only if two sum."""
    sandbox.add_metric("api_requests", aggregation="MAX")
    sink = make_sink(sandbox.url)
    assert sink.preflight(["api"]) == []
    second = sandbox.add_metric("api_requests")
    assert sink.preflight(["api"]) == []
    sandbox.add_customer("one", "cus_1")
    with pytest.raises(SinkError, match=r"has 2 billable metrics that sum .* Name the one"):
        sink.total("api", "cus_1", WHOLE)
    named = make_sink(
        sandbox.url, meters={"api": MetronomeMeter(event_type="api_requests", metric_id=second)}
    )
    assert named.preflight(["api"]) == []
    assert named.total("api", "cus_1", WHOLE) == 0


def test_a_metric_by_sql_is_trusted_when_it_is_named(sandbox: MetronomeControl, make_sink: MakeSink) -> None:
    """What a query makes of an event only a test event can tell."""
    body = {"name": "by query", "sql": "select sum(quantity) as value from events"}
    metric = sandbox.call("POST", "/v1/billable-metrics/create", body)["data"]["id"]
    meter = MetronomeMeter(event_type="anything", metric_id=metric)
    assert make_sink(sandbox.url, meters={"api": meter}).preflight(["api"]) == []


def test_metrics_are_read_to_the_last_page(sandbox: MetronomeControl, make_sink: MakeSink) -> None:
    """One that stands on the third page is found; an archived one is not."""
    sandbox.set_rules(page_rows=3)
    for number in range(7):
        sandbox.add_metric(f"filler_{number}")
    old = sandbox.add_metric("late")
    meters = {"api": MetronomeMeter(event_type="late")}
    assert make_sink(sandbox.url, meters=meters).preflight(["api"]) == []
    sandbox.call("POST", "/v1/billable-metrics/archive", {"id": old})
    assert "is for event type late" in make_sink(sandbox.url, meters=meters).preflight(["api"])[0]
    meters = {"api": MetronomeMeter(event_type="late", metric_id=old)}
    assert "is archived" in make_sink(sandbox.url, meters=meters).preflight(["api"])[0]


def test_preflight_without_an_answer(sandbox: MetronomeControl, make_sink: MakeSink, script: Script) -> None:
    """Trouble that may pass, and an answer that makes no sense, are two different things."""
    sandbox.set_faults(error_before=1.0, applies_to="all")
    with pytest.raises(SinkUnreachable, match=r"did not say what sink metronome asked"):
        make_sink(sandbox.url).preflight(["api"])
    sandbox.set_faults(black_hole=True)
    with pytest.raises(SinkUnreachable, match="gave no answer to sink metronome"):
        make_sink(sandbox.url).preflight(["api"])
    for body in ("[]", "{}", '{"data": 5}', '{"data": [5]}', "oops"):
        script.replies = [Reply(400), Reply(body=body)]
        with pytest.raises(SinkError, match=r"no JSON|no list"):
            make_sink(script.url).preflight(["api"])


# -- afterwards: totals ---------------------------------------------------------------------------


def used_at(at: dt.datetime, delta: Decimal | int | str = 1, customer: str = "cus_1") -> Event:
    """Usage at an instant."""
    return usage(customer, delta)._replace(at=at)


@pytest.fixture
def counted(sandbox: MetronomeControl) -> MetronomeControl:
    """A sandbox that knows the customer."""
    sandbox.add_customer("one", "cus_1", "cus_one")
    return sandbox


def test_hours_and_days_add_up(counted: MetronomeControl, make_sink: MakeSink) -> None:
    """Each hour has its own, both bounds of a span are kept, and hours without usage have no entry."""
    sink, start = make_sink(counted.url), YESTERDAY - 2 * DAY
    used = {start + number * 5 * HOUR: Decimal(number + 1) for number in range(13)}
    send(sink, *(used_at(at + dt.timedelta(minutes=59, seconds=59), much) for at, much in used.items()))
    whole = Span(start, YESTERDAY + DAY)
    assert sink.breakdown("api", "cus_1", whole, HOUR) == used
    days = sink.breakdown("api", "cus_1", whole, DAY)
    assert list(days) == [start, start + DAY, start + 2 * DAY]
    assert sink.total("api", "cus_1", whole) == sum(used.values()) == sum(days.values())
    part = Span(start + 5 * HOUR, start + 25 * HOUR)
    assert sink.breakdown("api", "cus_1", part, HOUR) == {at: much for at, much in used.items() if at in part}
    assert sink.total("api", "cus_1", part) == 2 + 3 + 4 + 5
    assert sink.total("api", "cus_1", Span(part.start, part.start + HOUR)) == 2


def test_usage_is_read_to_the_last_page(counted: MetronomeControl, make_sink: MakeSink) -> None:
    """Hours that stand on later pages are counted too."""
    counted.set_rules(page_rows=7)
    sink = make_sink(counted.url)
    send(sink, *(used_at(YESTERDAY + hour * HOUR) for hour in range(24)))
    assert sink.total("api", "cus_1", Span(YESTERDAY, YESTERDAY + 23 * HOUR)) == 23


def test_what_cancels_out_has_no_entry(counted: MetronomeControl, make_sink: MakeSink) -> None:
    """Corrections are summed as they are, below zero too."""
    sink = make_sink(counted.url)
    send(sink, used_at(NOON, 5), used_at(NOON, -5), used_at(NOON + HOUR, 2), used_at(NOON + 2 * HOUR, -3))
    assert sink.breakdown("api", "cus_1", WHOLE, HOUR) == {NOON + HOUR: 2, NOON + 2 * HOUR: -3}


def test_a_customer_is_known_by_any_of_its_names(counted: MetronomeControl, make_sink: MakeSink) -> None:
    """By its aliases and its id; an alias that moves takes its usage along; a name that nobody has, has no figure."""
    sink = make_sink(counted.url)
    own = counted.add_customer("two", "cus_2")
    send(sink, used_at(NOON, 5, "cus_1"), used_at(NOON, 7, own))
    assert [sink.total("api", name, WHOLE) for name in ("cus_1", "cus_one", "cus_2", own)] == [5, 5, 7, 7]
    counted.call("POST", f"/v1/customers/{own}/setIngestAliases", {"ingest_aliases": ["cus_1", "cus_2"]})
    assert sink.total("api", "cus_1", WHOLE) == 12
    for nobody in ("cus_9", "01234567-89ab-cdef-0123-456789abcdef"):
        with pytest.raises(CustomerUnknown, match=f"no customers with the ingest alias {nobody}"):
            sink.total("api", nobody, WHOLE)


@pytest.mark.parametrize(
    ("span", "step"),
    [
        (Span(NOON, NOON + dt.timedelta(minutes=1)), HOUR),
        (Span(NOON + dt.timedelta(minutes=30), NOON + HOUR), HOUR),
        (Span(NOON, NOON + HOUR), DAY),
        (WHOLE, dt.timedelta(minutes=1)),
    ],
)
def test_what_metronome_does_not_count_by_has_no_figure(
    counted: MetronomeControl, make_sink: MakeSink, span: Span, step: dt.timedelta
) -> None:
    """It is an error of the sink that says where to look instead, and nothing is asked."""
    sink, before = make_sink(counted.url), counted.stats()["requests"]
    with pytest.raises(SinkError, match=r"by whole UTC hours and days.* event search"):
        sink.breakdown("api", "cus_1", span, step)
    if (span.end - span.start) % HOUR:
        with pytest.raises(SinkError, match="by whole UTC hours and days"):
            sink.total("api", "cus_1", span)
    assert counted.stats()["requests"] == before


def test_usage_shows_when_metronome_has_counted(counted: MetronomeControl, make_sink: MakeSink) -> None:
    """Until then the total does not know of it."""
    counted.set_rules(usage_delay_seconds=600)
    sink = make_sink(counted.url)
    send(sink, used_at(NOON, 5))
    assert sink.total("api", "cus_1", WHOLE) == 0
    counted.set_rules()
    assert sink.total("api", "cus_1", WHOLE) == 5


CUSTOMER = json.dumps({"data": [{"id": "c"}], "next_page": None})


def row(at: dt.datetime = NOON, value: object = 5, **changes: object) -> dict[str, object]:
    """A row of usage."""
    start = at.isoformat().replace("+00:00", "Z")
    return {"billable_metric_id": "m", "customer_id": "c", "start_timestamp": start, "value": value} | changes


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([row(value="5")], "shows '5', which is no quantity"),
        ([row(value=True)], "shows True, which is no quantity"),
        ([row(), row()], "makes no sense at"),
        ([row(NOON + dt.timedelta(minutes=5))], "makes no sense at"),
        ([row(start_timestamp="noon")], "begins at no time but at 'noon'"),
        ([row(start_timestamp="2026-11-01T00:00:00")], "which has no zone"),
        ([row(customer_id="d")], "about somebody or something else"),
        ([row(billable_metric_id="n")], "about somebody or something else"),
    ],
)
def test_usage_that_makes_no_sense_is_no_total(
    script: Script, make_sink: MakeSink, rows: list[dict[str, object]], words: str
) -> None:
    """A number that cannot be trusted is an error, never a quantity."""
    script.replies = [Reply(body=CUSTOMER), Reply(body=json.dumps({"data": rows}))]
    meter = MetronomeMeter(event_type="calls", metric_id="m")
    sink = make_sink(script.url, meters={"api": meter})
    with pytest.raises(SinkError, match=words):
        sink.breakdown("api", "cus_1", WHOLE, HOUR)


def test_what_usage_is_asked_for(script: Script, make_sink: MakeSink) -> None:
    """Between the UTC midnights around the span, for one metric and one customer; a null counts as nothing."""
    script.replies = [
        Reply(body=CUSTOMER),
        Reply(body=json.dumps({"data": [row(), row(NOON - HOUR, None)], "next_page": "p2"})),
        Reply(body=json.dumps({"data": [row(NOON + HOUR, 2)], "next_page": None})),
    ]
    meter = MetronomeMeter(event_type="calls", metric_id="m")
    sink = make_sink(script.url, meters={"api": meter})
    assert sink.total("api", "cus 1", Span(NOON - HOUR, NOON + HOUR)) == 5
    alias, first, second = script.calls
    assert (alias.method, alias.path) == ("GET", "/v1/customers?ingest_alias=cus+1")
    assert (first.path, second.path) == ("/v1/usage", "/v1/usage?next_page=p2")
    assert first.body == second.body
    assert json.loads(first.body) == {
        "starting_on": f"{YESTERDAY:%Y-%m-%d}T00:00:00Z",
        "ending_before": f"{YESTERDAY + DAY:%Y-%m-%d}T00:00:00Z",
        "window_size": "HOUR",
        "billable_metrics": [{"id": "m"}],
        "customer_ids": ["c"],
    }


def test_a_list_without_an_end_is_given_up(script: Script, make_sink: MakeSink) -> None:
    """A cursor that leads back to itself ends it."""
    script.replies = [Reply(body=json.dumps({"data": [], "next_page": "again"}))]
    with pytest.raises(SinkError, match="goes round in a circle"):
        make_sink(script.url).total("api", "cus_1", WHOLE)
    assert len(script.calls) == 2


# -- several meters in one metric -----------------------------------------------------------------

REGIONS = {
    name: MetronomeMeter(event_type="calls", properties={"region": name, "team": "core"})
    for name in ("eu", "us")
}
FILTERS = [{"name": "region", "exists": True}, {"name": "team", "exists": True}]


def shared_metric(sandbox: MetronomeControl, *group_keys: Sequence[str]) -> None:
    """Make one metric of all calls, with a customer who has two names."""
    sandbox.add_metric("calls", filters=FILTERS, group_keys=group_keys)
    sandbox.add_customer("one", "cus_1", "also_1")


def use_both(sandbox: MetronomeControl, make_sink: MakeSink) -> MetronomeSink:
    """Use three here and five there, in two hours of each."""
    sink = make_sink(sandbox.url, meters=REGIONS)
    events = [used_at(NOON, 1), used_at(NOON + HOUR, 2)]
    there = [used_at(NOON, 4, "also_1"), used_at(NOON + 3 * HOUR, 1)]
    sent = [each._replace(meter="eu", identifier=f"eu_{number}") for number, each in enumerate(events)]
    sent += [each._replace(meter="us", identifier=f"us_{number}") for number, each in enumerate(there)]
    assert {each.answer for each in sink.send(sent, always)} == {Answer.ACCEPTED}
    return sink


@pytest.mark.parametrize(
    "group_keys",
    [[["region"]], [["team"], ["region"]], [["team", "region"]], [["team", "region"], ["region"]]],
    ids=str,
)
@pytest.mark.parametrize("page_rows", [100, 1])
def test_meters_of_one_metric_are_told_apart_by_its_groups(
    sandbox: MetronomeControl, make_sink: MakeSink, group_keys: list[list[str]], page_rows: int
) -> None:
    """Each has the usage of its own properties, by hours and days, under any name of the customer, to the last page."""
    shared_metric(sandbox, *group_keys)
    sink = use_both(sandbox, make_sink)
    sandbox.set_rules(page_rows=page_rows)
    assert sink.breakdown("eu", "cus_1", WHOLE, HOUR) == {NOON: 1, NOON + HOUR: 2}
    assert sink.breakdown("us", "cus_1", WHOLE, HOUR) == {NOON: 4, NOON + 3 * HOUR: 1}
    assert (sink.total("eu", "also_1", WHOLE), sink.total("us", "cus_1", WHOLE)) == (3, 5)
    assert sink.total("eu", "cus_1", Span(NOON + HOUR, NOON + 2 * HOUR)) == 2
    assert sink.cannot_promise() == []


@pytest.mark.parametrize("group_keys", [[], [["team"]]], ids=str)
def test_meters_that_nothing_tells_apart_have_no_figure(
    sandbox: MetronomeControl, make_sink: MakeSink, group_keys: list[list[str]]
) -> None:
    """What both come to is neither's: that is said beforehand, with what to do, and instead of a figure."""
    shared_metric(sandbox, *group_keys)
    sink = use_both(sandbox, make_sink)
    with pytest.raises(MetersMixed, match="adds up eu and us, and has no group key by which these differ"):
        sink.breakdown("eu", "cus_1", WHOLE, HOUR)
    both = sink.cannot_promise()
    assert [each.split(" adds up ")[1][:9] for each in both] == ["eu and us", "us and eu"]
    assert all("nothing is compared" in each for each in both)


def test_who_is_alone_in_a_metric_is_asked_for_as_a_whole(
    sandbox: MetronomeControl, make_sink: MakeSink
) -> None:
    """With metrics that take one region each there is nothing to tell apart, and a stranger of the region is seen."""
    sandbox.add_customer("one", "cus_1", "also_1")
    for name in REGIONS:
        only = {"name": "region", "in_values": [name]}
        sandbox.add_metric("calls", filters=[only, FILTERS[1]], group_keys=[["team"]])
    sink = use_both(sandbox, make_sink)
    stray = {"transaction_id": "stray", "customer_id": "cus_1", "event_type": "calls"}
    properties = {"quantity": "10", "region": "eu", "team": "other"}
    moment = NOON.isoformat().replace("+00:00", "Z")
    sandbox.call("POST", "/v1/ingest", [{**stray, "timestamp": moment, "properties": properties}])
    assert (sink.total("eu", "cus_1", WHOLE), sink.total("us", "cus_1", WHOLE)) == (13, 5)


TOKENS = {
    name: MetronomeMeter(
        event_type="tokens",
        properties={"region": name},
        dimensions={"kind": "token_type", "model": "llm_model"},
    )
    for name in ("eu", "us")
}
GROUPED = ("llm_model", "token_type", "region")


@pytest.mark.parametrize("page_rows", [100, 1])
def test_combinations_are_told_apart_by_a_group_key_that_has_all_of_them(
    sandbox: MetronomeControl, make_sink: MakeSink, page_rows: int
) -> None:
    """By hours and days, of the meter alone; what lacks a dimension stands under those that it has."""
    filters = [{"name": each} for each in GROUPED]
    sandbox.add_metric(
        "tokens", filters=filters, group_keys=[["llm_model"], ["llm_model", "region"], GROUPED]
    )
    sandbox.add_customer("one", "cus_1")
    sink = make_sink(sandbox.url, meters=TOKENS)
    small, large = (("kind", "in"), ("model", "small")), (("kind", "out"), ("model", "large"))
    uses: list[tuple[str, dt.datetime, int, Dimensions]]
    uses = [("eu", NOON, 1, small), ("eu", NOON, 2, large), ("eu", NOON + HOUR, 4, large)]
    uses += [("us", NOON, 8, large), ("eu", NOON, 16, ()), ("eu", NOON, 32, small[1:])]
    events = [
        used_at(at, much)._replace(meter=meter, identifier=f"tokens_{much}", dimensions=dimensions)
        for meter, at, much, dimensions in uses
    ]
    assert {each.answer for each in sink.send(events, always)} == {Answer.ACCEPTED}
    sandbox.set_rules(page_rows=page_rows)
    sink.limit_reads(allowance := ReadAllowance(1_000.0, None, lambda reads: reads))
    assert sink.by_combination("eu", "cus_1", WHOLE, HOUR) == {
        small: {NOON: 1},
        large: {NOON: 2, NOON + HOUR: 4},
        (): {NOON: 16},
        small[1:]: {NOON: 32},
    }
    assert allowance.reads == (2 if page_rows == 100 else 2 + 4), "each further page counts"
    found = sink.by_combination("us", "cus_1", WHOLE, DAY)
    assert found == {large: {YESTERDAY: 8}}
    with pytest.raises(CustomerUnknown):
        sink.by_combination("us", "cus_2", WHOLE, DAY)


def test_what_no_value_of_ours_can_be_is_named_as_a_ledger_can_keep_it(
    sandbox: MetronomeControl, make_sink: MakeSink
) -> None:
    """Somebody else may send what no text in Postgres can hold; what is merely unusual is as it was sent."""
    sandbox.add_metric("tokens", filters=[{"name": each} for each in GROUPED], group_keys=[GROUPED])
    sandbox.add_customer("one", "cus_1")
    for number, model in enumerate(("a\0b", "\ud800", "grand mod\u00e8le\u00a02")):
        event = {
            "transaction_id": f"stray_{number}",
            "customer_id": "cus_1",
            "event_type": "tokens",
            "timestamp": f"{NOON:%Y-%m-%dT%H:%M:%SZ}",
            "properties": {"quantity": "1", "llm_model": model, "token_type": "in", "region": "eu"},
        }
        sandbox.call("POST", "/v1/ingest", [event])
    found = make_sink(sandbox.url, meters=TOKENS).by_combination("eu", "cus_1", WHOLE, DAY)
    assert found is not None
    assert sorted(dict(each)["model"] for each in found) == [
        r"'\ud800'",
        r"'a\x00b'",
        "grand mod\u00e8le\u00a02",
    ]


def test_without_such_a_group_key_no_combination_has_a_figure(
    sandbox: MetronomeControl, make_sink: MakeSink
) -> None:
    """One that lacks a dimension, or has what differs between events, or does not tell the meters apart, is none."""
    names = [*GROUPED, "request"]
    keys = [["llm_model", "region"], [*GROUPED, "request"], GROUPED[:2]]
    sandbox.add_metric("tokens", filters=[{"name": each} for each in names], group_keys=keys)
    sandbox.add_customer("one", "cus_1")
    sink = make_sink(sandbox.url, meters=TOKENS)
    assert sink.by_combination("eu", "cus_1", WHOLE, DAY) is None
    assert make_sink(sandbox.url, meters=REGIONS).by_combination("eu", "cus_1", WHOLE, DAY) is None


def test_what_usage_by_group_is_asked_for(script: Script, make_sink: MakeSink) -> None:
    """One metric, one customer, the whole group key, and our values of it alone; rows in the older form count, too."""
    metric = {
        "id": "m",
        "name": "calls",
        "aggregation_type": "SUM",
        "aggregation_key": "quantity",
        "group_keys": [["team"], ["region", "team"], ["region"], ["elsewhere"]],
    }
    old = {"starting_on": "2026-11-01T00:00:00Z", "group_key": "region", "group_value": "eu", "value": 2}
    start = f"{YESTERDAY:%Y-%m-%d}T00:00:00Z"
    script.replies = [
        Reply(body=json.dumps({"data": metric})),
        Reply(body=CUSTOMER),
        Reply(body=json.dumps({"data": [{**old, "starting_on": start}], "next_page": None})),
    ]
    meters = {name: replace(meter, metric_id="m") for name, meter in REGIONS.items()}
    assert make_sink(script.url, meters=meters).total("eu", "cus_1", WHOLE) == 2
    call = script.calls[2]
    assert (call.method, call.path) == ("POST", "/v1/usage/groups?limit=100")
    assert json.loads(call.body) == {
        "billable_metric_id": "m",
        "customer_id": "c",
        "starting_on": start,
        "ending_before": f"{YESTERDAY + DAY:%Y-%m-%d}T00:00:00Z",
        "window_size": "DAY",
        "group_key": ["region"],
        "group_filters": {"region": ["eu"]},
    }


@pytest.mark.parametrize(
    "group", [{"region": "us"}, {"region": None}, {"region": "eu", "team": "core"}, None]
)
def test_usage_of_another_group_is_no_total(
    script: Script, make_sink: MakeSink, group: dict[str, str] | None
) -> None:
    """What was not asked for is an error, never a quantity."""
    metric = {"id": "m", "aggregation_type": "SUM", "aggregation_key": "quantity", "group_keys": [["region"]]}
    start = f"{YESTERDAY:%Y-%m-%d}T00:00:00Z"
    script.replies = [
        Reply(body=json.dumps({"data": metric})),
        Reply(body=CUSTOMER),
        Reply(body=json.dumps({"data": [{"starting_on": start, "group": group, "value": 2}]})),
    ]
    meters = {name: replace(meter, metric_id="m") for name, meter in REGIONS.items()}
    with pytest.raises(SinkError, match="about somebody or something else"):
        make_sink(script.url, meters=meters).total("eu", "cus_1", WHOLE)


# -- decreases, and the invoices that they are to lower -------------------------------------------

LAST_MONTH = NOW.replace(day=1, hour=0, minute=0, second=0) - HOUR
"""Within what Metronome takes, whatever the day; its invoice is finalized once nothing is waited for any more."""


def draft_at() -> dt.datetime:
    """Return an instant whose invoice is a draft: now, since a month may have turned after `NOW`."""
    return utcnow().replace(microsecond=0)


@pytest.fixture
def invoiced(sandbox: MetronomeControl) -> MetronomeControl:
    """A sandbox where last month's invoices are finalized and this month's are not, with two customers."""
    sandbox.set_rules(invoice_grace_seconds=0)
    for name in ("cus_1", "cus_2"):
        sandbox.add_customer(name, name)
    return sandbox


def test_a_decrease_is_sent_while_its_invoice_is_a_draft(
    invoiced: MetronomeControl, make_sink: MakeSink
) -> None:
    """After a question about its customer and one about the invoices; what adds is sent without any."""
    sink, before = make_sink(invoiced.url), invoiced.stats()["requests"]
    assert send(sink, used_at(draft_at(), 5), used_at(LAST_MONTH, 3)) == [Answer.ACCEPTED] * 2
    assert invoiced.stats()["requests"] - before == 1, "nothing is asked"
    assert send(sink, used_at(draft_at(), -2)) == [Answer.ACCEPTED]
    assert invoiced.stats()["requests"] - before == 4
    assert invoiced.totals("api_requests") == {"cus_1": 6}


def test_a_decrease_of_a_finalized_invoice_is_refused(
    invoiced: MetronomeControl, make_sink: MakeSink
) -> None:
    """With what to do, and nothing of it leaves; all others of the batch do."""
    sink = make_sink(invoiced.url)
    send(sink, used_at(LAST_MONTH, 9))
    events = [
        used_at(LAST_MONTH, -4),
        used_at(LAST_MONTH, 1),
        used_at(draft_at(), -1, "cus_2"),
        used_at(LAST_MONTH, -1),
    ]
    verdicts = {verdict.event: verdict for verdict in sink.send(events, always)}
    refused, accepted = Answer.REFUSED, Answer.ACCEPTED
    assert [verdicts[event.id].answer for event in events] == [refused, accepted, accepted, refused]
    reason = verdicts[events[0].id].reason or ""
    assert "is finalized" in reason
    assert (
        "Give a credit there and dismiss this event; or void the invoice there, release this event" in reason
    )
    assert invoiced.totals("api_requests") == {"cus_1": 10, "cus_2": -1}


def test_a_voided_invoice_stands_in_nobodys_way(invoiced: MetronomeControl, make_sink: MakeSink) -> None:
    """Once it is void the decrease is sent, and what is regenerated knows of it."""
    send(make_sink(invoiced.url), used_at(LAST_MONTH, 9))
    customer = invoiced.call("GET", "/v1/customers", ingest_alias="cus_1")["data"][0]["id"]
    old = invoiced.invoices(customer)[0]["id"]
    assert send(make_sink(invoiced.url), used_at(LAST_MONTH, -4)) == [Answer.REFUSED]
    invoiced.call("POST", "/v1/invoices/void", {"id": old})
    assert send(make_sink(invoiced.url), used_at(LAST_MONTH, -4)) == [Answer.ACCEPTED]
    invoiced.call("POST", "/v1/invoices/regenerate", {"id": old})
    shown = [each["line_items"][0]["quantity"] for each in invoiced.invoices(customer)[:2]]
    assert shown == [0, 5], "the first was finalized before anything came in"


def invoice(status: str, start: dt.datetime | None, end: dt.datetime | None, **changes: object) -> object:
    """An invoice as the API shows it, as far as anybody looks."""
    bounds = {"start_timestamp": start and start.isoformat(), "end_timestamp": end and end.isoformat()}
    return {"id": "inv_1", "status": status, "type": "USAGE"} | bounds | changes


ENDS, BEGINS = (NOON + dt.timedelta(minutes=minutes) for minutes in (30, 31))
"""An instant at which an invoice ends that does not cover `usage`, and one that does."""

FINAL = invoice("FINALIZED", NOON, BEGINS)


@pytest.mark.parametrize(
    ("invoices", "refused"),
    [
        ([], False),
        ([FINAL], True),
        ([invoice("VOID", NOON, BEGINS)], False),
        ([FINAL, invoice("DRAFT", NOON, BEGINS)], False),
        ([FINAL, invoice("DRAFT", BEGINS, BEGINS + DAY)], True),
        ([invoice("FINALIZED", NOON, ENDS)], False),
        ([invoice("FINALIZED", ENDS, BEGINS)], True),
        ([invoice("FINALIZED", BEGINS, NOON + DAY)], False),
        ([invoice("FINALIZED", NOON, BEGINS, type="SCHEDULED")], False),
        ([invoice("FINALIZED", None, None)], False),
        ([invoice("FINALIZED", NOON.replace(tzinfo=None), BEGINS.replace(tzinfo=None))], False),
    ],
)
def test_which_invoices_stand_in_the_way(
    script: Script, make_sink: MakeSink, invoices: list[object], refused: bool
) -> None:
    """Only a finalized usage invoice that covers the instant, where no draft does."""
    script.replies = [Reply(body=CUSTOMER), Reply(body=json.dumps({"data": invoices})), Reply()]
    answer = send(make_sink(script.url), usage("cus 1", -1))
    assert answer == [Answer.REFUSED if refused else Answer.ACCEPTED]
    assert [call.path for call in script.calls[:2]] == [
        "/v1/customers?ingest_alias=cus+1",
        "/v1/customers/c/invoices?limit=100&skip_zero_qty_line_items=true&type=USAGE",
    ]


def test_many_decreases_cost_one_question_and_share_requests(script: Script, make_sink: MakeSink) -> None:
    """What was said of a customer holds for a while, and then it is asked again."""
    now = [1_000.0]
    empty = Reply(body=json.dumps({"data": []}))
    script.replies = [Reply(body=CUSTOMER), empty, Reply(), Reply(), Reply(), Reply(), Reply(body=CUSTOMER)]
    script.replies += [empty, Reply()]
    sink = make_sink(script.url, monotonic=lambda: now[0])
    assert send(sink, *(usage("cus_1", -1) for _ in range(250))) == [Answer.ACCEPTED] * 250
    assert [call.method for call in script.calls] == ["GET", "GET", "POST", "POST", "POST"]
    assert sorted(len(call.identifiers) for call in script.calls[2:]) == [50, 100, 100]
    now[0] += 29
    assert send(sink, usage("cus_1", -1)) == [Answer.ACCEPTED]
    now[0] += 2
    assert send(sink, usage("cus_1", -1)) == [Answer.ACCEPTED]
    assert [call.method for call in script.calls[5:]] == ["POST", "GET", "GET", "POST"]


def test_a_decrease_of_a_customer_that_nobody_knows_is_sent(
    invoiced: MetronomeControl, make_sink: MakeSink
) -> None:
    """It has no invoice yet; its usage waits for it."""
    assert send(make_sink(invoiced.url), used_at(LAST_MONTH, -4, "cus_9")) == [Answer.ACCEPTED]


@pytest.mark.parametrize("reply", [Reply(500), Reply(429), Reply(cut=True)])
def test_without_an_answer_a_decrease_waits(script: Script, make_sink: MakeSink, reply: Reply) -> None:
    """Nothing of it has left, so it comes again later. Others are not asked about for a moment."""
    now = [1_000.0]
    sink = make_sink(script.url, monotonic=lambda: now[0])
    takes = [usage("cus_1", -1), usage("cus_1", -2)]
    script.replies = [reply, Reply(body=CUSTOMER), Reply(body='{"data": []}'), Reply()]
    verdicts = list(sink.send(takes, always))
    assert answers(verdicts, takes) == [Answer.BUSY] * 2
    assert "nobody knows yet whether its invoice is still a draft" in (verdicts[0].reason or "")
    assert send(sink, usage("cus_2", -1)) == [Answer.BUSY]
    assert [call.method for call in script.calls] == ["GET"]
    now[0] += 6
    assert send(sink, *takes) == [Answer.ACCEPTED] * 2


@pytest.mark.parametrize("reply", [Reply(403), Reply(404), Reply(400), Reply(body="oops"), Reply(body="{}")])
def test_a_question_without_a_use_keeps_nothing_back(
    script: Script, make_sink: MakeSink, reply: Reply
) -> None:
    """A token that may not read invoices, and an answer that makes no sense: the decrease is sent as if none was asked."""
    script.replies = [Reply(body=CUSTOMER), reply, Reply()]
    assert send(make_sink(script.url), usage("cus_1", -1)) == [Answer.ACCEPTED]


def test_nothing_waits_for_the_answer_about_a_decrease(script: Script, make_sink: MakeSink) -> None:
    """What adds is sent and said while the question is open; stopped then, the decrease is given back."""
    script.waits = lambda call: call.method == "GET"
    script.gate.clear()
    sink = make_sink(script.url)
    takes, adds = usage("cus_1", -1), usage("cus_1", 5)
    verdicts = sink.send([takes, adds], always)
    assert next(verdicts) == Verdict(adds.id, Answer.ACCEPTED, request_id="req_script")
    sink.stop()
    assert [(verdict.event, verdict.answer) for verdict in verdicts] == [(takes.id, Answer.UNSENT)]
    script.gate.set()
    sink.close()
    assert [call.method for call in script.calls if call.method == "POST"] == ["POST"]


def test_a_decrease_that_was_given_back_does_not_leave_later(script: Script, make_sink: MakeSink) -> None:
    """Whoever asked has gone before the question was answered: another may be sending it by then."""
    script.waits = lambda call: call.method == "GET"
    script.gate.clear()
    script.replies = [Reply(body=CUSTOMER)]
    sink = make_sink(script.url)
    adds, again = usage("cus_1", 5), usage("cus_1", -2)
    verdicts = cast("Generator[Verdict]", sink.send([usage("cus_1", -1), adds], always))
    assert next(verdicts).event == adds.id
    verdicts.close()
    script.gate.set()
    assert send(sink, again) == [Answer.ACCEPTED]
    sent = [each for call in script.calls if call.method == "POST" for each in call.identifiers]
    assert sent == [adds.identifier, again.identifier]


def test_a_token_that_may_not_read_invoices_is_named(invoiced: MetronomeControl, make_sink: MakeSink) -> None:
    """It sends all the same; what that means, and what to do, is for whoever checks."""
    sink = make_sink(invoiced.url)
    assert sink.cannot_promise() == []
    invoiced.set_keys(without_invoices=[TOKEN])
    assert sink.preflight(["api"]) == []
    [said] = sink.cannot_promise()
    assert "may not read customers and invoices" in said
    assert "grant it, or look there before you release a decrease" in said
    assert send(sink, used_at(LAST_MONTH, -1)) == [Answer.ACCEPTED]
    invoiced.set_keys(restricted=[TOKEN])
    assert sink.cannot_promise() == [said]
    invoiced.set_keys()
    invoiced.set_faults(error_before=1.0, applies_to="all")
    with pytest.raises(SinkUnreachable):
        sink.cannot_promise()
    invoiced.reset()
    assert make_sink(invoiced.url).cannot_promise() == [], "nobody is there whose invoices could be asked for"


# -- a test event ---------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", Encoding)
def test_a_test_event_is_counted_as_it_was_sent(
    sandbox: MetronomeControl, make_sink: MakeSink, encoding: Encoding
) -> None:
    """It goes to the test customer alone, and may be repeated."""
    sandbox.add_customer("tester", "tester")
    sink = make_sink(sandbox.url, encoding=encoding)
    assert sink.send_test_event("api", NOW) is None
    assert sink.send_test_event("api", NOW) is None
    assert sandbox.totals("api_requests") == {"tester": Decimal("2.5")}


def test_a_quantity_that_counts_as_zero_is_found(sandbox: MetronomeControl, make_sink: MakeSink) -> None:
    """Where text adds up to zero without an error, the remedy is named, and it works."""
    sandbox.add_customer("tester", "tester")
    sandbox.set_rules(text_quantities="zero")
    said = make_sink(sandbox.url).send_test_event("api", NOW)
    assert said is not None
    assert "was sent to tester as text and counted as 0" in said
    assert "set `quantity_encoding: number`" in said
    assert make_sink(sandbox.url, encoding=Encoding.NUMBER).send_test_event("api", NOW) is None


def test_a_quantity_that_counts_as_another_is_found(sandbox: MetronomeControl, make_sink: MakeSink) -> None:
    """As where a metric counts events: what was sent and what was counted are both named."""
    sandbox.add_customer("tester", "tester")
    counts = sandbox.add_metric("api_requests", aggregation="COUNT")
    meter = MetronomeMeter(event_type="api_requests", metric_id=counts)
    said = make_sink(sandbox.url, meters={"api": meter}).send_test_event("api", NOW)
    assert "of 1.25 sent to tester, Metronome counted 1." in (said or "")


def test_a_test_event_needs_somebody_to_go_to(sandbox: MetronomeControl, make_sink: MakeSink) -> None:
    """Without a test customer, or with one that Metronome does not know, nothing is sent."""
    with pytest.raises(SinkError, match="has no `self_test_customer`"):
        make_sink(sandbox.url, test_customer=None).send_test_event("api", NOW)
    said = make_sink(sandbox.url).send_test_event("api", NOW)
    assert "has no customer tester: create one" in (said or "")
    assert sandbox.stats()["accepted"] == 0


def test_a_test_event_without_an_answer(sandbox: MetronomeControl, make_sink: MakeSink) -> None:
    """Nothing is concluded from it."""
    sandbox.add_customer("tester", "tester")
    sandbox.set_faults(error_after=1.0)
    with pytest.raises(SinkError, match="did not take the test event of meter api"):
        make_sink(sandbox.url).send_test_event("api", NOW)
