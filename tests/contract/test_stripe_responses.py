"""The closed table of Stripe's answers: what each means for the event, for the pace and for the sink."""

import ssl
from typing import NamedTuple

import aiohttp
import pytest
from aiohttp.client_reqrep import ConnectionKey

from aggregator.core.model import Answer
from aggregator.sinks.responses import NoResponse, judge_silence
from aggregator.sinks.stripe.client import silence
from aggregator.sinks.stripe.responses import Echo, Refusal, judge_echo, judge_refusal

SENT = Echo("agg_1", "api_requests", livemode=False)

DUPLICATE = "An event already exists with identifier agg_1."
TOO_OLD = (
    "The event timestamp cannot be more than 35 days in past. "
    "Expected a timestamp greater than or equal to 1758141836."
)
CONCURRENT = "Cannot create multiple usage events for the same customer, meter concurrently."
INVALID = "invalid_request_error"


class Row(NamedTuple):
    """One line of the table."""

    what: str
    refusal: Refusal
    answer: Answer
    halts: bool = False
    slows: bool = False


TABLE = [
    Row("v1 knows the identifier", Refusal(400, DUPLICATE, INVALID), Answer.DUPLICATE),
    Row(
        "v2 knows the identifier",
        Refusal(400, "Already submitted.", code="duplicate_meter_event"),
        Answer.DUPLICATE,
    ),
    Row("too old", Refusal(400, TOO_OLD, INVALID), Answer.REFUSED),
    Row("in the future", Refusal(400, "The timestamp is too far ahead.", INVALID), Answer.REFUSED),
    Row(
        "unknown customer",
        Refusal(400, "No such customer: 'cus_1'", INVALID, "resource_missing"),
        Answer.REFUSED,
    ),
    Row(
        "unknown customer, as 404",
        Refusal(404, "No such customer: 'cus_1'", INVALID, "resource_missing"),
        Answer.REFUSED,
    ),
    Row(
        "unknown customer, as 404 without a code",
        Refusal(404, "No such customer: 'cus_1'", INVALID),
        Answer.REFUSED,
    ),
    Row(
        "no active meter", Refusal(400, 'No active meter found for event name "x".', INVALID), Answer.REFUSED
    ),
    Row("invalid value", Refusal(400, "Invalid value.", code="payload_invalid_value"), Answer.REFUSED),
    Row(
        "too many digits",
        Refusal(400, "The value can have at most 15 significant digits.", INVALID),
        Answer.REFUSED,
    ),
    Row(
        "a 400 nobody has heard of", Refusal(400, "The moon is full.", "lunar_error", "moon"), Answer.REFUSED
    ),
    Row("a 402 nobody has heard of", Refusal(402, "Pay first.", "card_error"), Answer.REFUSED),
    Row("a 418", Refusal(418, "A teapot."), Answer.REFUSED),
    Row(
        "a 4xx that asks to be tried again",
        Refusal(424, "A dependency failed.", should_retry="true"),
        Answer.UNKNOWN,
    ),
    Row("a 4xx that asks not to be", Refusal(400, "Bad.", should_retry="false"), Answer.REFUSED),
    Row("key not accepted", Refusal(401, "Invalid API Key provided."), Answer.UNSENT, halts=True),
    Row("key expired", Refusal(401, "Expired.", code="api_key_expired"), Answer.UNSENT, halts=True),
    Row(
        "not a secret key",
        Refusal(400, "Not allowed.", code="secret_key_required"),
        Answer.UNSENT,
        halts=True,
    ),
    Row("permission missing", Refusal(403, "The key may not do this."), Answer.UNSENT, halts=True),
    Row("no such endpoint", Refusal(404, "Unrecognized request URL."), Answer.UNSENT, halts=True),
    Row("a 404 of somebody else", Refusal(404, readable=False), Answer.UNSENT, halts=True),
    Row("a 401 of somebody else", Refusal(401, readable=False), Answer.UNSENT, halts=True),
    Row("took too long to send", Refusal(408, "Timed out."), Answer.UNKNOWN),
    Row(
        "two at once for a customer",
        Refusal(409, CONCURRENT, code="too_many_concurrent_requests"),
        Answer.BUSY,
    ),
    Row("conflict", Refusal(409, "Conflict."), Answer.BUSY),
    Row("idempotency, as 409", Refusal(409, "Key in use.", "idempotency_error"), Answer.UNKNOWN),
    Row("idempotency, as 400", Refusal(400, "Other parameters.", "idempotency_error"), Answer.UNKNOWN),
    Row("rate limit", Refusal(429, "Too many.", INVALID, "rate_limit"), Answer.BUSY, slows=True),
    Row("rate limit without a code", Refusal(429, "Too many."), Answer.BUSY, slows=True),
    Row("rate limit, as 400", Refusal(400, "Too many.", INVALID, "rate_limit"), Answer.BUSY, slows=True),
    Row("a lock on one object", Refusal(429, "Locked.", INVALID, "lock_timeout"), Answer.BUSY),
    Row("a 429 of somebody else", Refusal(429, readable=False), Answer.UNKNOWN, slows=True),
    Row("a 400 of somebody else", Refusal(400, readable=False), Answer.UNKNOWN),
    Row("server error", Refusal(500, "An error.", "api_error"), Answer.UNKNOWN),
    Row("server error, with the words of a duplicate", Refusal(500, DUPLICATE), Answer.UNKNOWN),
    Row("bad gateway", Refusal(502, readable=False), Answer.UNKNOWN),
    Row("unavailable", Refusal(503, "Unavailable.", "api_error"), Answer.UNKNOWN),
    Row("a 200 without a readable body", Refusal(200, readable=False), Answer.UNKNOWN),
    Row("a redirect", Refusal(302, readable=False), Answer.UNKNOWN),
]


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.what)
def test_refusals(row: Row) -> None:
    """Each refusal has one meaning."""
    judged = judge_refusal(row.refusal, "stripe")
    assert judged.answer is row.answer
    assert (judged.halt is not None) == row.halts
    assert judged.throttled == row.slows


@pytest.mark.parametrize("readable", [True, False])
def test_every_status_has_a_meaning(readable: bool) -> None:
    """No status without a usable answer passes for an acceptance, and none of 2xx, 3xx and 5xx for a refusal."""
    for status in range(200, 600):
        answer = judge_refusal(Refusal(status, "Something.", readable=readable), "stripe").answer
        assert answer not in (Answer.ACCEPTED, Answer.DUPLICATE)
        assert answer is Answer.UNKNOWN or 400 <= status < 500


def test_a_reason_is_stripes_own_words() -> None:
    """Whoever reads the reason sees what Stripe said, the status and the code."""
    judged = judge_refusal(Refusal(400, "No such customer: 'cus_1'.", code="resource_missing"), "stripe")
    assert judged.reason == "No such customer: 'cus_1' (400, resource_missing)"


@pytest.mark.parametrize(
    ("status", "what_to_do"),
    [(401, "Correct `api_key`"), (403, "Grant it"), (404, "Correct `api_base`")],
)
def test_a_halt_says_what_to_do(status: int, what_to_do: str) -> None:
    """The sink, what happened, and what a person has to do stand in one message."""
    halt = judge_refusal(Refusal(status, "No."), "billing").halt
    assert halt is not None
    assert "sink billing" in halt
    assert what_to_do in halt


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("7", 7.0),
        ("0", 0.0),
        ("1.5", 1.5),
        ("999999999", 3600.0),
        ("-1", None),
        ("inf", None),
        ("nan", None),
        ("", None),
        ("Wed, 21 Oct 2026 07:28:00 GMT", None),
        (None, None),
    ],
)
@pytest.mark.parametrize("status", [429, 409, 503])
def test_retry_after(status: int, header: str | None, seconds: float | None) -> None:
    """A wish in seconds is honoured within reason; anything else is as if it were not there."""
    assert judge_refusal(Refusal(status, "Later.", retry_after=header), "stripe").retry_after == seconds


def test_no_second_chance_for_what_is_refused() -> None:
    """A Retry-After on a refusal changes nothing."""
    assert judge_refusal(Refusal(400, "Never.", retry_after="5"), "stripe").retry_after is None


def test_an_echo_that_agrees_is_an_acceptance() -> None:
    """Identifier, event name and mode are as sent; the request's id is kept."""
    judged = judge_echo(SENT._replace(request_id="req_1"), SENT, "stripe")
    assert (judged.answer, judged.request_id, judged.halt) == (Answer.ACCEPTED, "req_1", None)


@pytest.mark.parametrize(
    "echo",
    [
        SENT._replace(identifier="agg_2"),
        SENT._replace(identifier=None),
        SENT._replace(event_name="other"),
        SENT._replace(livemode=None),
        Echo(None, None, None),
    ],
)
def test_an_echo_of_something_else_is_no_answer(echo: Echo) -> None:
    """An answer about another event leaves open what became of this one, and says so."""
    judged = judge_echo(echo, SENT, "stripe")
    assert judged.answer is Answer.UNKNOWN
    assert judged.halt is None
    assert "not about this event" in (judged.reason or "")


def test_the_wrong_mode_halts() -> None:
    """Recording in the other mode stops everything, and the event is in doubt."""
    judged = judge_echo(SENT._replace(livemode=True), SENT, "stripe")
    assert judged.answer is Answer.UNKNOWN
    assert judged.halt is not None
    assert "test mode" in judged.halt
    assert "live mode" in judged.halt


HERE = ConnectionKey(
    "stripe.test", 443, is_ssl=True, ssl=True, proxy=None, proxy_auth=None, proxy_headers_hash=None
)

NEVER_LEFT: list[BaseException] = [
    aiohttp.ClientConnectorError(HERE, ConnectionRefusedError(111, "refused")),
    aiohttp.ClientConnectorDNSError(HERE, OSError(-2, "name not known")),
    aiohttp.ClientConnectorCertificateError(HERE, ssl.SSLCertVerificationError("expired")),
    aiohttp.ConnectionTimeoutError("connecting"),
    aiohttp.InvalidURL("http://"),
]
MAY_HAVE_LEFT: list[BaseException] = [
    TimeoutError(),
    aiohttp.ServerTimeoutError(),
    aiohttp.SocketTimeoutError(),
    aiohttp.ServerDisconnectedError(),
    aiohttp.ClientOSError(104, "reset"),
    aiohttp.ClientPayloadError(),
    ConnectionResetError(),
    AttributeError("no such thing"),
]


@pytest.mark.parametrize("error", NEVER_LEFT, ids=repr)
def test_without_a_connection_nothing_left(error: BaseException) -> None:
    """A failure to connect is proof that the event is not booked."""
    judged = judge_silence(silence(error, 10))
    assert judged.answer is Answer.BUSY
    assert "cannot be reached" in (judged.reason or "")


@pytest.mark.parametrize("error", MAY_HAVE_LEFT, ids=repr)
def test_anything_else_leaves_it_open(error: BaseException) -> None:
    """Once connected, whatever breaks may have come after the booking."""
    assert judge_silence(silence(error, 10)).answer is Answer.UNKNOWN


def test_silence_names_the_timeout() -> None:
    """The reason says how long was waited."""
    assert silence(TimeoutError(), 10) == NoResponse(left=True, what="no answer within 10 s")
