"""Version 2 and the stream over HTTP, against a server that follows a script: sessions, batches, and who is to blame."""

import datetime as dt
import threading
from collections.abc import Callable, Iterator
from decimal import Decimal
from functools import partial
from typing import Any

import pytest

from aggregator.core.model import Answer, Event, WriteModel
from aggregator.errors import SinkHalted
from aggregator.runtime.clock import utcnow
from aggregator.sinks.stripe import StripeMeter, StripeSink
from aggregator.sinks.stripe.limits import Rates
from tests.contract.events import about_to_leave, judged, send
from tests.contract.making import making
from tests.contract.scripted import (
    BROKEN,
    EVENTS_V1,
    EVENTS_V2,
    SECONDS,
    SESSION,
    STREAM,
    Asked,
    Server,
    Told,
    refusal,
    serving,
    session,
)

KEY = "sk_test_0123456789abcdefghij"
AT = utcnow().replace(microsecond=0) - dt.timedelta(hours=1)

EXPIRED = {"code": "billing_meter_event_session_expired", "type": "temporary_session_expired"}

MakeSink = Callable[..., StripeSink]


@pytest.fixture
def server() -> Iterator[Server]:
    """A server that takes everything until it is told otherwise."""
    with serving() as server:
        yield server


@pytest.fixture
def make_sink(server: Server) -> Iterator[MakeSink]:
    """Make sinks over the server, by the stream unless told otherwise, and close them at the end."""
    with making(
        partial(StripeSink, "stripe"),
        api_key=KEY,
        mode="test",
        rates=Rates(10_000.0, 100_000.0, stream_by_event=True),
        timeout=dt.timedelta(seconds=SECONDS),
        max_in_flight=16,
        meters={"api": StripeMeter(event_name="api_requests")},
    ) as made:
        yield lambda transport="stream", **settings: made(server.url, transport=transport, **settings)


def usage(customer: str | None = None, **changed: Any) -> Event:
    """An event that is about to be sent for the first time, of a customer of its own unless told otherwise."""
    event = about_to_leave(AT.replace(minute=0, second=0))._replace(at=AT)
    return event._replace(customer=customer or f"cus_{event.id}", **changed)


# -- what goes over the wire ----------------------------------------------------------------------


def test_version_2_over_the_wire(server: Server, make_sink: MakeSink) -> None:
    """Instants in RFC 3339 of whole seconds, every value a text."""
    event = usage("cus_7", delta=Decimal("1E+3"), at=AT.replace(microsecond=999_999))
    assert send(make_sink("v2"), event) == [Answer.ACCEPTED]
    (asked,) = server.asked
    assert asked.path == EVENTS_V2
    assert asked.body == {
        "event_name": "api_requests",
        "identifier": event.identifier,
        "timestamp": f"{AT:%Y-%m-%dT%H:%M:%SZ}",
        "payload": {"stripe_customer_id": "cus_7", "value": "1000"},
    }
    assert asked.headers["authorization"] == f"Bearer {KEY}"


def test_the_stream_over_the_wire(server: Server, make_sink: MakeSink) -> None:
    """A session by the key, then the events under the session's token; everything goes to `api_base`."""
    events = [usage(), usage()]
    verdicts = judged(make_sink(), *events)
    assert [(each.answer, each.request_id) for each in verdicts] == [(Answer.ACCEPTED, "req_script")] * 2
    opening, stream = server.asked
    assert (opening.path, opening.headers["authorization"]) == (SESSION, f"Bearer {KEY}")
    assert (stream.path, stream.headers["authorization"]) == (STREAM, "Bearer token_1")
    assert KEY not in str(stream)
    assert stream.identifiers == [event.identifier for event in events]
    assert stream.body["events"][0] == {
        "event_name": "api_requests",
        "identifier": events[0].identifier,
        "timestamp": f"{AT:%Y-%m-%dT%H:%M:%SZ}",
        "payload": {"stripe_customer_id": events[0].customer, "value": "1"},
    }


def test_where_events_replace_each_other_the_stream_says_the_total(
    server: Server, make_sink: MakeSink
) -> None:
    """The write model is the meter's, whichever way its events go."""
    meter = StripeMeter(event_name="stored_gb", event_time_window="hour")
    sink = make_sink(meters={"api": meter})
    assert sink.limits_for("api").write_model is WriteModel.OVERWRITE
    assert not sink.limits_for("api").answers
    judged(sink, usage(delta=Decimal(2), total=Decimal(9)))
    assert server.to(STREAM)[0].body["events"][0]["payload"]["value"] == "9"


def test_a_request_holds_a_hundred_and_no_customer_is_in_two(server: Server, make_sink: MakeSink) -> None:
    """Two events of one customer and meter are never in two requests that are in flight."""
    under_way: set[str] = set()
    met: list[str] = []

    def watch(asked: Asked) -> None:
        if asked.path != STREAM:
            return
        customers = [event["payload"]["stripe_customer_id"] for event in asked.body["events"]]
        with server.lock:
            met.extend(who for who in customers if who in under_way)
            under_way.update(customers)
        threading.Event().wait(0.002)  # a moment in which others would be met
        with server.lock:
            under_way.difference_update(customers)

    server.answer = watch
    events = [usage(f"cus_{number % 150}") for number in range(450)]
    assert send(make_sink(), *events) == [Answer.ACCEPTED] * 450
    assert met == []
    sizes = [len(asked.identifiers) for asked in server.to(STREAM)]
    assert max(sizes) == 100
    assert sum(sizes) == 450


# -- sessions -------------------------------------------------------------------------------------


@pytest.mark.parametrize("formula", ["sum", "last"])
def test_a_customers_events_go_together_in_their_order(
    server: Server, make_sink: MakeSink, formula: str
) -> None:
    """Of one customer one request is in flight, with all that waits; where the last number counts, with one event of it."""
    sink = make_sink(meters={"api": StripeMeter(event_name="api_requests", formula=formula)})  # type: ignore[arg-type]
    theirs, others = [usage("cus_1") for _ in range(4)], [usage()]
    assert send(sink, *theirs, *others) == [Answer.ACCEPTED] * 5
    asked = [each.identifiers for each in server.to(STREAM)]
    names = [event.identifier for event in theirs]
    assert [name for each in asked for name in each if name in names] == names
    if formula == "last":
        assert all(len(set(each) & set(names)) == 1 for each in asked)
        assert len(asked) == 4
    else:
        assert set(names) <= set(asked[0])


def test_one_session_serves_many_requests(server: Server, make_sink: MakeSink) -> None:
    """However many wait for the first one."""
    sink = make_sink()
    send(sink, *(usage() for _ in range(1_000)))
    send(sink, usage())
    assert len(server.to(SESSION)) == 1


def test_a_session_is_renewed_before_it_ends(server: Server, make_sink: MakeSink) -> None:
    """Thirteen minutes after it was asked for, by the clock that does not jump."""
    now = [0.0]
    sink = make_sink(monotonic=lambda: now[0])
    for minutes, sessions in ((0, 1), (12, 1), (13.5, 2), (20, 2), (27, 3)):
        now[0] = minutes * 60.0
        assert send(sink, usage()) == [Answer.ACCEPTED]
        assert server.sessions == sessions


def test_a_short_session_is_used_all_the_same(server: Server, make_sink: MakeSink) -> None:
    """Should Stripe's ever last less than they do: for the most of their time, not for one request."""
    now = [0.0]
    told = session("short")
    assert isinstance(told.body, dict)
    short = told._replace(body=told.body | {"expires_at": "2026-11-01T12:01:00.000Z"})
    server.answer = lambda asked: short if asked.path == SESSION else None
    sink = make_sink(monotonic=lambda: now[0])
    for seconds, asked in ((0.0, 1), (40.0, 1), (50.0, 2)):
        now[0] = seconds
        assert send(sink, usage()) == [Answer.ACCEPTED]
        assert len(server.to(SESSION)) == asked


def test_the_old_session_does_while_a_new_one_cannot_be_had(server: Server, make_sink: MakeSink) -> None:
    """It is renewed early so that a hiccup costs nothing."""
    now = [0.0]
    sink = make_sink(monotonic=lambda: now[0])
    send(sink, usage())
    server.answer = lambda asked: refusal(503) if asked.path == SESSION else None
    now[0] = 14 * 60.0
    assert send(sink, usage()) == [Answer.ACCEPTED]
    now[0] = 16 * 60.0
    assert send(sink, usage()) == [Answer.BUSY]
    assert len(server.to(STREAM)) == 2


@pytest.mark.parametrize(
    "told",
    [
        refusal(401, **EXPIRED),
        refusal(400, **EXPIRED),
        refusal(400, code=EXPIRED["code"]),
        refusal(401, type=EXPIRED["type"]),
        refusal(401, "Invalid API Key provided: token"),
    ],
)
def test_an_expired_session_is_renewed_and_the_same_request_made_again(
    server: Server, make_sink: MakeSink, told: Told
) -> None:
    """In every form that is known of it: nothing was taken, so nothing is exposed, and the bytes are the same."""
    server.answer = lambda asked: told if asked.headers["authorization"] == "Bearer token_1" else None
    assert send(make_sink(), *(usage() for _ in range(3))) == [Answer.ACCEPTED] * 3
    first, second = server.to(STREAM)
    assert first.body == second.body
    assert second.headers["authorization"] == "Bearer token_2"


def test_a_session_that_expires_at_once_is_no_reason_to_go_on(server: Server, make_sink: MakeSink) -> None:
    """After one renewal the events come again later; the sink goes on."""
    server.answer = lambda asked: refusal(401, **EXPIRED) if asked.path == STREAM else None
    assert send(make_sink(), usage(), usage()) == [Answer.BUSY] * 2
    assert len(server.to(STREAM)) == 2


def test_a_token_that_is_never_accepted_halts(server: Server, make_sink: MakeSink) -> None:
    """Refused as a key is, even under a new session: a person must look."""
    server.answer = lambda asked: refusal(401, "Who are you?") if asked.path == STREAM else None
    with pytest.raises(SinkHalted):
        judged(make_sink(), usage())


def test_who_may_no_longer_leave_after_a_renewal_does_not(server: Server, make_sink: MakeSink) -> None:
    """The question is asked right before the request leaves, also before the second one."""
    may = threading.Event()
    may.set()

    def answer(asked: Asked) -> Told | None:
        if asked.path == STREAM:
            return refusal(401, **EXPIRED)
        if len(server.to(SESSION)) == 2:
            may.clear()
        return None

    server.answer = answer
    (verdict,) = judged(make_sink(), usage(), may_leave=may.is_set)
    assert verdict.answer is Answer.UNSENT
    assert len(server.to(STREAM)) == 1


def test_who_may_no_longer_leave_once_the_session_is_there_does_not(
    server: Server, make_sink: MakeSink
) -> None:
    """Asking for a session may take a while."""
    may = threading.Event()
    may.set()
    server.answer = lambda asked: may.clear()
    (verdict,) = judged(make_sink(), usage(), may_leave=may.is_set)
    assert verdict.answer is Answer.UNSENT
    assert server.to(STREAM) == []


def test_who_was_given_back_while_the_session_was_opened_does_not_leave(
    server: Server, make_sink: MakeSink
) -> None:
    """Told to stop meanwhile: nothing begins that has not begun."""
    sink = make_sink()
    server.answer = lambda asked: sink.stop()
    assert send(sink, usage()) == [Answer.UNSENT]
    assert server.to(STREAM) == []


@pytest.mark.parametrize(
    "told", [refusal(503), refusal(429), BROKEN, Told(200, {}), refusal(400, "Not for you.")]
)
def test_without_a_session_nothing_leaves(server: Server, make_sink: MakeSink, told: Told) -> None:
    """Whatever keeps it from coming: the events come again, and none is exposed."""
    server.answer = lambda asked: told if asked.path == SESSION else None
    (verdict,) = judged(make_sink(), usage())
    assert verdict.answer is Answer.BUSY
    assert "no session for the stream" in (verdict.reason or "")
    assert server.to(STREAM) == []


def test_a_session_that_cannot_be_had_is_asked_for_once_a_second(server: Server, make_sink: MakeSink) -> None:
    """Not once for each request that waits for it."""
    now = [0.0]
    server.answer = lambda asked: refusal(503) if asked.path == SESSION else None
    sink = make_sink(monotonic=lambda: now[0])
    for seconds, asked in ((0.0, 1), (0.5, 1), (1.5, 2)):
        now[0] = seconds
        assert send(sink, *(usage() for _ in range(500))) == [Answer.BUSY] * 500
        assert len(server.to(SESSION)) == asked


def test_a_key_that_may_not_open_sessions_halts(server: Server, make_sink: MakeSink) -> None:
    """As it does for any other call."""
    server.answer = lambda asked: refusal(401, "Invalid API Key.") if asked.path == SESSION else None
    with pytest.raises(SinkHalted, match="does not accept the API key"):
        judged(make_sink(), usage())


def test_a_session_of_the_other_mode_halts(server: Server, make_sink: MakeSink) -> None:
    """Before a single event has left."""
    server.answer = lambda asked: session("token", livemode=True) if asked.path == SESSION else None
    with pytest.raises(SinkHalted, match="is set to test mode, but Stripe records its events in live mode"):
        judged(make_sink(), usage())
    assert server.to(STREAM) == []


# -- what a whole request is told -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("told", "answer"),
    [
        (refusal(429), Answer.BUSY),
        (refusal(400, type="rate_limit"), Answer.BUSY),
        (refusal(409, code="too_many_concurrent_requests"), Answer.BUSY),
        (refusal(500), Answer.UNKNOWN),
        (refusal(503), Answer.UNKNOWN),
        (Told(200, []), Answer.UNKNOWN),
        (Told(200, {"message": "Blocked by your network."}), Answer.UNKNOWN),
        (BROKEN, Answer.UNKNOWN),
    ],
)
def test_a_request_without_a_word_on_its_events(
    server: Server, make_sink: MakeSink, told: Told, answer: Answer
) -> None:
    """What it is told holds for all of them, and it is made once."""
    server.answer = lambda asked: told if asked.path == STREAM else None
    assert send(make_sink(), *(usage() for _ in range(5))) == [answer] * 5
    assert len(server.to(STREAM)) == 1


@pytest.mark.parametrize("place", [0, 1, 49, 99])
def test_only_the_one_to_blame_is_refused(server: Server, make_sink: MakeSink, place: int) -> None:
    """A request whose content is refused is halved until it is found; all others are accepted."""
    events = [usage() for _ in range(100)]
    bad = events[place]

    def answer(asked: Asked) -> Told | None:
        return (
            refusal(400, "Bad value.")
            if asked.path == STREAM and bad.identifier in asked.identifiers
            else None
        )

    server.answer = answer
    verdicts = judged(make_sink(), *events)
    assert verdicts[place].answer is Answer.REFUSED
    assert "Bad value" in (verdicts[place].reason or "")
    assert {each.answer for n, each in enumerate(verdicts) if n != place} == {Answer.ACCEPTED}
    assert len(server.to(STREAM)) <= 15
    taken = [
        name
        for asked in server.to(STREAM)
        if bad.identifier not in asked.identifiers
        for name in asked.identifiers
    ]
    assert sorted(taken) == sorted(event.identifier for event in events if event is not bad)


def test_a_known_identifier_among_many_does_not_hold_up_the_rest(server: Server, make_sink: MakeSink) -> None:
    """Should the stream ever refuse one at once, the request with it may have put it there: it counts as taken."""
    events = [usage() for _ in range(4)]
    known = events[2].identifier
    server.answer = lambda asked: (
        refusal(400, code="duplicate_meter_event")
        if asked.path == STREAM and known in asked.identifiers
        else None
    )
    assert send(make_sink(), *events) == [Answer.ACCEPTED] * 4


def test_a_known_identifier_alone_was_put_there_by_somebody_else(server: Server, make_sink: MakeSink) -> None:
    """No request before it can have brought it."""
    server.answer = lambda asked: refusal(400, code="duplicate_meter_event") if asked.path == STREAM else None
    assert send(make_sink(), usage()) == [Answer.DUPLICATE]


@pytest.mark.parametrize("place", [0, 1, 2, 3])
def test_a_refused_request_may_keep_its_other_events(server: Server, make_sink: MakeSink, place: int) -> None:
    """Whether it does is not documented: who is there already by the second request is accepted, and billed once."""
    events = [usage() for _ in range(4)]
    bad = events[place].identifier
    kept: set[str] = set()

    def answer(asked: Asked) -> Told | None:
        if asked.path != STREAM:
            return None
        there = kept.intersection(asked.identifiers)
        kept.update(name for name in asked.identifiers if name != bad)
        if bad in asked.identifiers:
            return refusal(400, "Bad value.")
        return refusal(400, code="duplicate_meter_event") if there else None

    server.answer = answer
    expected = [Answer.ACCEPTED] * 4
    expected[place] = Answer.REFUSED
    assert send(make_sink(), *events) == expected


def test_who_was_in_a_refused_request_and_not_sent_again_may_have_been_taken(
    server: Server, make_sink: MakeSink
) -> None:
    """Nobody has said that a refused request is refused in full: what has no later word is unknown, not unsent."""
    sink = make_sink()

    def answer(asked: Asked) -> Told | None:
        if asked.path != STREAM:
            return None
        if len(asked.identifiers) == 2:
            return refusal(400, "Bad value.")
        return refusal(429)

    server.answer = answer
    assert send(sink, usage(), usage()) == [Answer.UNKNOWN] * 2


def test_a_token_in_an_answer_is_not_repeated(server: Server, make_sink: MakeSink) -> None:
    """Who answers may repeat what was sent, the session's token included."""
    server.answer = lambda asked: (
        refusal(400, f"What is {asked.headers['authorization']}?", code="token_1")
        if asked.path == STREAM
        else None
    )
    (verdict,) = judged(make_sink(), usage())
    assert verdict.answer is Answer.REFUSED
    assert "token_1" not in str(verdict)


@pytest.mark.parametrize(
    ("told", "answer"),
    [
        (refusal(400, code="duplicate_meter_event"), Answer.DUPLICATE),
        (refusal(400, code="no_meter"), Answer.REFUSED),
        (refusal(400, code="archived_meter"), Answer.REFUSED),
        (refusal(400, code="payload_invalid_value"), Answer.REFUSED),
        (refusal(400, code="payload_no_customer_defined"), Answer.REFUSED),
        (refusal(400, code="payload_no_value_defined"), Answer.REFUSED),
        (refusal(409, code="too_many_concurrent_requests"), Answer.BUSY),
        (refusal(400, code="too_many_concurrent_requests"), Answer.BUSY),
        (refusal(429, type="rate_limit"), Answer.BUSY),
        (refusal(500), Answer.UNKNOWN),
    ],
)
def test_the_errors_of_version_2(server: Server, make_sink: MakeSink, told: Told, answer: Answer) -> None:
    """Its table, though an error there may have a code and a message and nothing else."""
    server.answer = lambda asked: told
    assert send(make_sink("v2"), usage()) == [answer]


# -- which way ------------------------------------------------------------------------------------


@pytest.mark.parametrize("transport", ["v1", "v2", "stream", "auto"])
@pytest.mark.parametrize(("earlier", "path"), [("v1", EVENTS_V1), ("v2", EVENTS_V2), ("stream", STREAM)])
def test_what_may_have_arrived_one_way_goes_the_same_way_again(
    server: Server, make_sink: MakeSink, transport: str, earlier: str, path: str
) -> None:
    """Whatever the sink is set to meanwhile: no two ways are known to remember an identifier together."""
    event = usage(exposed_at=utcnow(), attempts=2, transport=earlier)
    assert send(make_sink(transport), event) == [Answer.ACCEPTED]
    assert [asked.path for asked in server.asked if asked.path != SESSION] == [path]


def test_both_ways_at_once_keep_a_customers_events_apart(server: Server, make_sink: MakeSink) -> None:
    """Of a customer and a meter one request is in flight, whichever way it goes."""
    first = threading.Event()
    arrived = threading.Event()

    def answer(asked: Asked) -> None:
        if asked.path == EVENTS_V1:
            arrived.set()
            assert first.wait(SECONDS)

    server.answer = answer
    sink = make_sink("auto")
    called, streamed = usage("cus_1", transport="v1"), usage("cus_1", transport="stream")
    sending = threading.Thread(target=send, args=(sink, called, streamed))
    sending.start()
    assert arrived.wait(SECONDS)
    assert send(sink, usage(transport="stream")) == [Answer.ACCEPTED]
    assert streamed.identifier not in [name for asked in server.to(STREAM) for name in asked.identifiers]
    first.set()
    sending.join()
    assert server.to(STREAM)[-1].identifiers == [streamed.identifier]


def test_what_each_transport_declares(make_sink: MakeSink) -> None:
    """The stream has no answers and large batches; `auto` goes by version 1 and names what is above."""
    v1, v2, stream, auto = (make_sink(transport).limits for transport in ("v1", "v2", "stream", "auto"))
    assert (v1.transport, v1.answers, v1.batch, v1.bulk) == ("v1", True, 1_000, None)
    assert (v2.transport, v2.answers, v2.batch, v2.bulk) == ("v2", True, 1_000, None)
    assert (stream.transport, stream.answers, stream.batch, stream.bulk) == ("stream", False, 5_000, None)
    assert (auto.transport, auto.answers, auto.batch, auto.bulk) == (
        "v1",
        False,
        1_000,
        ("stream", 10_000, 5_000),
    )
    assert v1.memory == stream.memory
    assert v1.proof == stream.proof
