"""The meter event stream: sessions, batches, and errors that only the reports tell of."""

from typing import Any

import pytest
import stripe
from stripe import StripeClient

from aggregator.sandbox import MeterSpec, RunningSandbox, SandboxOptions, running
from tests.contract.sandbox.sandbox_calls import (
    DAY,
    HOUR,
    LIVE_KEY,
    MINUTE,
    NOON,
    Answer,
    connect,
    connected,
    event_v2,
    kinds,
    meter_id,
    post_json,
    reasons,
    send,
    send_v2,
    stream,
    streamer,
    used,
)

PATH = "/v2/billing/meter_event_stream"
REPORT = "v1.billing.meter.error_report_triggered"
NO_METER = "v1.billing.meter.no_meter_found"


@pytest.fixture
def stream_client(sandbox: RunningSandbox, stripe_client: StripeClient) -> StripeClient:
    """A client with the token of a session."""
    return streamer(stripe_client, sandbox.url)


def post(sandbox: RunningSandbox, token: str, events: object, key: str | None = None) -> Answer:
    """Post to the stream as plain HTTP."""
    headers = {"Authorization": f"Bearer {token}", **({"Idempotency-Key": key} if key else {})}
    return post_json(sandbox.url, PATH, {"events": events}, headers)


def token_of(client: StripeClient) -> str:
    """Return the token of a new session."""
    return client.v2.billing.meter_event_session.create().authentication_token


# -- sessions -------------------------------------------------------------------------------------


def test_a_session_is_good_for_a_quarter_of_an_hour(stripe_client: StripeClient) -> None:
    """Its times are RFC 3339, and each session has a token of its own."""
    session = stripe_client.v2.billing.meter_event_session.create()
    created, expires = session.created, session.expires_at
    assert (created[:17], expires[:17]) == ("2026-01-15T12:00:", "2026-01-15T12:15:")
    assert token_of(stripe_client) != session.authentication_token


def test_a_session_that_has_run_out_is_told_by_its_type(
    sandbox: RunningSandbox, stream_client: StripeClient
) -> None:
    """A 401 with code, doc_url, message and type, which the library knows; nothing is recorded."""
    sandbox.set_time(NOON + 15 * MINUTE - 30)
    stream(stream_client, event_v2())
    sandbox.set_time(NOON + 16 * MINUTE)
    with pytest.raises(stripe.TemporarySessionExpiredError) as refusal:
        stream(stream_client, event_v2())
    assert refusal.value.http_status == 401
    assert isinstance(refusal.value.json_body, dict)
    error = refusal.value.json_body["error"]
    assert error.keys() == {"code", "doc_url", "message", "type"}
    assert error["code"] == "billing_meter_event_session_expired"
    assert len(sandbox.events()) == 1


def test_a_session_may_be_short_and_its_end_a_400(
    sandbox: RunningSandbox, stripe_client: StripeClient
) -> None:
    """As one of Stripe's own tests has it."""
    sandbox.set_rules(session_seconds=60, session_expired_status=400)
    client = streamer(stripe_client, sandbox.url)
    sandbox.set_time(NOON + 2 * MINUTE)
    with pytest.raises(stripe.TemporarySessionExpiredError) as refusal:
        stream(client, event_v2())
    assert refusal.value.http_status == 400


@pytest.mark.parametrize("key", ["sk_test_sandbox", "mest_test_nonsense", ""])
def test_only_a_token_opens_the_stream(sandbox: RunningSandbox, key: str) -> None:
    """Neither a secret key nor a token that nobody was given."""
    assert post(sandbox, key, [event_v2()]).status == 401


def test_a_token_opens_nothing_else(sandbox: RunningSandbox, stripe_client: StripeClient) -> None:
    """It is no key."""
    with pytest.raises(stripe.AuthenticationError):
        send_v2(connect(sandbox.url, token_of(stripe_client)))


def test_a_session_belongs_to_its_account_and_mode(sandbox: RunningSandbox) -> None:
    """Its events go where its key would have put them."""
    for value, client in enumerate((connected(sandbox.url, "acct_other"), connect(sandbox.url, LIVE_KEY))):
        stream(streamer(client, sandbox.url), event_v2(str(value + 1)))
    assert sandbox.totals("api_requests", account="acct_other") == {"cus_a": 1}
    assert sandbox.totals("api_requests", livemode=True) == {"cus_a": 2}
    assert sandbox.totals("api_requests") == {}


# -- batches --------------------------------------------------------------------------------------


def test_a_batch_is_counted_and_answered_with_nothing(
    sandbox: RunningSandbox, stripe_client: StripeClient
) -> None:
    """A hundred events of several meters in one call; the answer is an empty object."""
    events = [
        event_v2(str(n), event_name="api_requests" if n % 2 else "stored_gb", timestamp=NOON)
        for n in range(100)
    ]
    answer = post(sandbox, token_of(stripe_client), events)
    assert (answer.status, answer.json) == (200, {})
    assert used(stripe_client) == sum(range(1, 100, 2))
    assert used(stripe_client, event_name="stored_gb") == 98.0


@pytest.mark.parametrize("count", [0, 101])
def test_a_batch_of_a_size_not_allowed_is_refused(
    sandbox: RunningSandbox, stripe_client: StripeClient, count: int
) -> None:
    """None of it is recorded; a rule takes it as it is."""
    events = [event_v2() for _ in range(count)]
    assert post(sandbox, token_of(stripe_client), events).status == 400
    assert sandbox.events() == []
    sandbox.set_rules(stream_size_errors=False)
    assert post(sandbox, token_of(stripe_client), events).status == 200
    assert sandbox.stats()["accepted"] == count


@pytest.mark.parametrize(
    "events",
    [None, "event", {"0": event_v2()}, ["event"], [event_v2(), {}], [{**event_v2(), "timestamp": 1}]],
)
def test_what_is_no_batch_is_refused_whole(
    sandbox: RunningSandbox, stripe_client: StripeClient, events: object
) -> None:
    """One event that breaks the shape of the call keeps out the others; the message says where it is."""
    answer = post(sandbox, token_of(stripe_client), events)
    assert (answer.status, sandbox.events()) == (400, [])
    assert "events" in answer.json["error"]["message"]


def test_the_stream_shares_the_memory_of_identifiers(
    sandbox: RunningSandbox, stripe_client: StripeClient, stream_client: StripeClient
) -> None:
    """With both versions, in both directions, and within a batch."""
    send(stripe_client, identifier="v1")
    send_v2(stripe_client, identifier="v2")
    stream(stream_client, *(event_v2(identifier=name) for name in ("v1", "v2", "s1", "s1", "s2")))
    for again in (send, send_v2):
        with pytest.raises(stripe.InvalidRequestError):
            again(stripe_client, identifier="s1")
    assert used(stripe_client) == 4.0
    assert sandbox.stats()["duplicates_refused"] == 5


# -- reports --------------------------------------------------------------------------------------


def test_all_that_is_wrong_is_reported_and_only_there(
    sandbox: RunningSandbox, stripe_client: StripeClient, stream_client: StripeClient
) -> None:
    """Each event by its code, one report per meter, one for those without a meter; the good one counts."""
    stripe_client.v1.billing.meters.deactivate(meter_id(stripe_client, "logins"))
    sandbox.set_rules(strict_customers=True)
    sandbox.add_customers("cus_a")
    stream(
        stream_client,
        event_v2("5", identifier="good"),
        event_v2(identifier="unknown", event_name="nothing"),
        event_v2(identifier="archived", event_name="logins"),
        event_v2(identifier="stranger", customer="cus_z"),
        event_v2("many", identifier="words"),
        event_v2("1234567890123456", identifier="digits"),
        event_v2(identifier="old", timestamp=NOON - 36 * DAY),
        event_v2(identifier="new", timestamp=NOON + HOUR),
        event_v2(identifier="good"),
        {"event_name": "api_requests", "identifier": "nobody", "payload": {"value": "1"}},
        {"event_name": "api_requests", "identifier": "empty", "payload": {"stripe_customer_id": "cus_a"}},
    )
    assert (used(stripe_client), sandbox.reports()) == (5.0, [])
    sandbox.set_time(NOON + 20)
    found = {
        (report["type"], report["related_object"].get("id")): kinds(report) for report in sandbox.reports()
    }
    assert found == {
        (NO_METER, None): {"no_meter": (1, ["unknown"])},
        (REPORT, meter_id(stripe_client, "logins")): {"archived_meter": (1, ["archived"])},
        (REPORT, meter_id(stripe_client)): {
            "meter_event_customer_not_found": (1, ["stranger"]),
            "meter_event_invalid_value": (1, ["words"]),
            "meter_event_value_too_many_digits": (1, ["digits"]),
            "timestamp_too_far_in_past": (1, ["old"]),
            "timestamp_in_future": (1, ["new"]),
            "duplicate_meter_event": (1, ["good"]),
            "meter_event_no_customer_defined": (1, ["nobody"]),
            "meter_event_value_not_found": (1, ["empty"]),
        },
    }


def test_a_payload_that_is_no_text_is_reported(sandbox: RunningSandbox, stripe_client: StripeClient) -> None:
    """A number or something nested; with a rule a number is taken for its text."""
    payloads = [{"stripe_customer_id": "cus_a", "value": value} for value in (5, ["5"], None)]
    events = [{"event_name": "api_requests", "payload": payload} for payload in payloads]
    assert post(sandbox, token_of(stripe_client), events).status == 200
    assert reasons(sandbox) == ["meter_event_invalid_value"] * 3
    sandbox.set_rules(v2_number_values=True)
    post(sandbox, token_of(stripe_client), events[:1])
    assert sandbox.totals("api_requests") == {"cus_a": 5}


def test_duplicates_may_go_unreported(sandbox: RunningSandbox, stream_client: StripeClient) -> None:
    """Stripe's table of reports has no code for them."""
    sandbox.set_rules(stream_reports_duplicates=False)
    stream(stream_client, event_v2(identifier="e-1"), event_v2(identifier="e-1"))
    sandbox.set_time(NOON + 20)
    assert (sandbox.reports(), sandbox.stats()["duplicates_refused"]) == ([], 1)


def test_a_duplicate_leaves_the_first_event_as_it_was(
    sandbox: RunningSandbox, stripe_client: StripeClient, stream_client: StripeClient
) -> None:
    """It counts on, and its identifier is neither free nor remembered for longer."""
    sandbox.set_rules(rejected_identifier_used=False)
    stream(stream_client, event_v2("5", identifier="e-1"))
    sandbox.set_time(NOON + 10 * MINUTE)
    stream(stream_client, event_v2("7", identifier="e-1"))
    sandbox.set_time(NOON + HOUR)
    with pytest.raises(stripe.InvalidRequestError, match="already exists"):
        send(stripe_client, identifier="e-1")
    assert used(stripe_client) == 5.0
    sandbox.set_time(NOON + DAY + MINUTE)
    send(stripe_client, identifier="e-1")


# -- faults ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "error", "counted"),
    [
        ({"too_many_requests": 1.0}, stripe.RateLimitError, 0),
        ({"error_before": 1.0}, stripe.APIError, 0),
        ({"error_after": 1.0}, stripe.APIError, 2),
        ({"drop_before": 1.0}, stripe.APIConnectionError, 0),
        ({"drop_after": 1.0}, stripe.APIConnectionError, 2),
        ({"black_hole": True, "black_hole_processes": True}, stripe.APIConnectionError, 2),
    ],
)
def test_faults_strike_a_batch_whole(
    sandbox: RunningSandbox, stream_client: StripeClient, fault: dict[str, Any], error: type, counted: int
) -> None:
    """Before or after all of it is recorded."""
    sandbox.set_faults(**fault)
    with pytest.raises(error):
        stream(stream_client, event_v2(), event_v2())
    assert len(sandbox.events()) == counted


def test_a_late_batch_is_judged_when_it_arrives(sandbox: RunningSandbox, stream_client: StripeClient) -> None:
    """By then its session has run out, and nobody hears of it; a batch that comes sooner is taken."""
    sandbox.set_faults(deliver_late=1.0, late_delivery_seconds=5 * MINUTE, times=1)
    with pytest.raises(stripe.APIConnectionError):
        stream(stream_client, event_v2(identifier="e-1"))
    sandbox.set_time(NOON + 6 * MINUTE)
    sandbox.set_faults(deliver_late=1.0, late_delivery_seconds=HOUR, times=1)
    with pytest.raises(stripe.APIConnectionError):
        stream(stream_client, event_v2(identifier="e-2"))
    sandbox.set_time(NOON + 2 * HOUR)
    assert [event["identifier"] for event in sandbox.events()] == ["e-1"]
    assert sandbox.stats()["refused"] == {"session_expired": 1}


def test_faults_of_single_customers_touch_their_events_alone(
    sandbox: RunningSandbox, stream_client: StripeClient
) -> None:
    """Refused and rejected customers are reported, as there is no other answer."""
    sandbox.set_faults(refuse_customers=["cus_b"], reject_customers=["cus_c"], reject_after_seconds=5)
    stream(stream_client, *(event_v2(customer=f"cus_{name}", identifier=name) for name in "abc"))
    assert reasons(sandbox) == [None, "meter_event_customer_not_found", None]
    sandbox.set_time(NOON + 20)
    assert reasons(sandbox)[2] == "meter_event_customer_not_found"
    assert sorted(
        name for report in sandbox.reports() for _, names in kinds(report).values() for name in names
    ) == [
        "b",
        "c",
    ]


@pytest.mark.parametrize(
    ("settings", "passed"),
    [
        ({"rate_limit_per_second": 150}, 2),
        ({"rate_limit_per_second": 150, "stream_counts_requests": True}, 5),
        ({"rate_limit_per_second": 0.001, "stream_rate_limit_per_second": 250}, 3),
        ({"stream_rate_limit_per_second": 1, "stream_counts_requests": True}, 1),
    ],
)
def test_the_rate_limit_counts_events(
    sandbox: RunningSandbox, stripe_client: StripeClient, settings: dict[str, Any], passed: int
) -> None:
    """Or calls; it is the one of the other endpoints, or one of its own. A batch may overdraw it once."""
    token = token_of(stripe_client)
    sandbox.set_faults(**settings)
    statuses = [post(sandbox, token, [event_v2()] * 100).status for _ in range(5)]
    assert statuses == [200] * passed + [429] * (5 - passed)


def test_a_stream_limit_leaves_the_others_alone(
    sandbox: RunningSandbox, stripe_client: StripeClient, stream_client: StripeClient
) -> None:
    """Two buckets."""
    sandbox.set_faults(rate_limit_per_second=1, stream_rate_limit_per_second=1)
    stream(stream_client, *[event_v2()] * 100)
    send(stripe_client)
    with pytest.raises(stripe.RateLimitError):
        stream(stream_client, event_v2())


@pytest.mark.parametrize(("keeps", "duplicates"), [(True, 0), (False, 1)])
def test_a_repeated_call_is_known_by_its_idempotency_key(
    sandbox: RunningSandbox, stripe_client: StripeClient, keeps: object, duplicates: int
) -> None:
    """Unless the rules say that the stream knows none; then only the identifiers keep it from counting twice."""
    sandbox.set_rules(stream_keeps_answers=keeps)
    token = token_of(stripe_client)
    for _ in range(2):
        assert post(sandbox, token, [event_v2("5", identifier="e-1")], key="k-1").json == {}
    assert sandbox.stats()["duplicates_refused"] == duplicates
    assert sandbox.totals("api_requests") == {"cus_a": 5}


def test_sessions_and_streamed_events_outlive_the_process(tmp_path_factory: pytest.TempPathFactory) -> None:
    """After a restart the token is good, the events count, and the reports are the same."""
    state = tmp_path_factory.mktemp("sandbox") / "state.jsonl"
    options = SandboxOptions(meters=(MeterSpec("api_requests"),), state=state)
    with running(options) as sandbox:
        sandbox.set_time(NOON)
        token = token_of(connect(sandbox.url))
        good = event_v2("5", identifier="e-1", region="eu")
        batch = [good, event_v2(event_name="nothing", identifier="e-2"), good]
        post(sandbox, token, batch, key="k-1")
        sandbox.set_time(NOON + 20)
        before = sandbox.events(), sandbox.reports()
        assert len(before[1]) == 2
    with running(options) as sandbox:
        assert (sandbox.events(), sandbox.reports()) == before
        assert "idempotent-replayed" in post(sandbox, token, batch, key="k-1").headers
        stream(connect(sandbox.url, token), event_v2("7", identifier="e-1"), event_v2("1", identifier="e-3"))
        assert sandbox.totals("api_requests") == {"cus_a": 6}
        sandbox.set_time(NOON + 16 * MINUTE)
        with pytest.raises(stripe.TemporarySessionExpiredError):
            stream(connect(sandbox.url, token), event_v2())
