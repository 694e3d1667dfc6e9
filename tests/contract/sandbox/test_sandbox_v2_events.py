"""Meter events through version 2: JSON, an error table of its own, and one memory of identifiers with version 1."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import stripe
from stripe import StripeClient

from aggregator.sandbox import RunningSandbox
from tests.contract.sandbox.sandbox_calls import (
    DAY,
    HOUR,
    LIVE_KEY,
    NOON,
    Answer,
    call,
    cancel_v2,
    connect,
    event_v2,
    kinds,
    meter_id,
    post_json,
    reasons,
    send,
    send_v2,
    used,
)

PATH = "/v2/billing/meter_events"


def post(sandbox: RunningSandbox, event: object, key: str | None = None) -> Answer:
    """Post one event as plain HTTP."""
    return post_json(sandbox.url, PATH, event, {"Idempotency-Key": key} if key else None)


def test_an_event_is_answered_with_itself(sandbox: RunningSandbox, stripe_client: StripeClient) -> None:
    """Times are RFC 3339, payload values are texts, and it counts."""
    event = send_v2(stripe_client, "5.5", identifier="e-1", timestamp=NOON - HOUR)
    assert event.to_dict() | {"created": ""} == {
        "object": "v2.billing.meter_event",
        "created": "",
        "event_name": "api_requests",
        "identifier": "e-1",
        "livemode": False,
        "payload": {"stripe_customer_id": "cus_a", "value": "5.5"},
        "timestamp": "2026-01-15T11:00:00.000Z",
    }
    assert event.created.startswith("2026-01-15T12:00:")
    assert used(stripe_client) == 5.5


def test_identifier_and_timestamp_are_made_when_left_out(stripe_client: StripeClient) -> None:
    """The identifier is new each time, the timestamp is the time of receipt."""
    first, second = send_v2(stripe_client), send_v2(stripe_client)
    assert first.identifier != second.identifier
    assert first.timestamp.startswith("2026-01-15T12:00:")


def test_a_fraction_of_a_second_is_kept(sandbox: RunningSandbox) -> None:
    """Two events of one second keep their order by timestamp, whatever the order of receipt."""
    for value, instant in (("2", "11:00:00.750Z"), ("1", "12:00:00.250+01:00")):
        event = {**event_v2(value, event_name="seats"), "timestamp": f"2026-01-15T{instant}"}
        assert (
            post(sandbox, event).json["timestamp"] == f"2026-01-15T11:00:00.{750 if value == '2' else 250}Z"
        )
    assert sandbox.totals("seats") == {"cus_a": 2}


def test_versions_share_one_memory_of_identifiers(
    sandbox: RunningSandbox, stripe_client: StripeClient
) -> None:
    """An identifier of one is a duplicate in the other, in the words of each."""
    send(stripe_client, identifier="e-1")
    with pytest.raises(stripe.InvalidRequestError) as refusal:
        send_v2(stripe_client, identifier="e-1")
    assert (refusal.value.http_status, refusal.value.code) == (400, "duplicate_meter_event")
    send_v2(stripe_client, identifier="e-2")
    with pytest.raises(stripe.InvalidRequestError, match="An event already exists with identifier e-2"):
        send(stripe_client, identifier="e-2")
    assert (used(stripe_client), sandbox.stats()["duplicates_refused"]) == (2.0, 2)


def test_an_identifier_may_be_unique_per_event_name_only(
    sandbox: RunningSandbox, stripe_client: StripeClient
) -> None:
    """By a rule; each name then remembers its own, and a cancellation finds its own."""
    send_v2(stripe_client, "5", identifier="e-1")
    with pytest.raises(stripe.InvalidRequestError):
        send_v2(stripe_client, identifier="e-1", event_name="stored_gb")
    sandbox.set_rules(identifier_scope="event_name")
    send_v2(stripe_client, "7", identifier="e-1", event_name="stored_gb")
    for event_name in ("api_requests", "stored_gb"):
        with pytest.raises(stripe.InvalidRequestError, match="already exists"):
            send(stripe_client, identifier="e-1", event_name=event_name)
    assert sandbox.stats()["double_counted"] == 0
    cancel_v2(stripe_client, "e-1")
    assert reasons(sandbox) == ["cancelled", None]
    sandbox.set_time(NOON + 2 * DAY)
    send(stripe_client, identifier="e-1")
    assert sandbox.stats()["double_counted"] == 0
    send(stripe_client, identifier="e-1", event_name="stored_gb")
    assert sandbox.stats()["double_counted"] == 1


def test_an_identifier_is_forgotten_as_in_version_1(
    sandbox: RunningSandbox, stripe_client: StripeClient
) -> None:
    """After the memory has run out it counts again, across versions."""
    send(stripe_client, identifier="e-1", timestamp=NOON)
    sandbox.set_time(NOON + DAY + 1)
    send_v2(stripe_client, identifier="e-1", timestamp=NOON)
    assert (used(stripe_client), sandbox.stats()["double_counted"]) == (2.0, 1)


@pytest.mark.parametrize(
    ("event", "code"),
    [
        (event_v2(event_name="nothing"), "no_meter"),
        (event_v2(event_name="logins"), "archived_meter"),
        (event_v2("many"), "payload_invalid_value"),
        (event_v2("1234567890123456"), "payload_invalid_value"),
        ({"event_name": "api_requests", "payload": {"value": "1"}}, "payload_no_customer_defined"),
        (
            {"event_name": "api_requests", "payload": {"stripe_customer_id": "cus_a"}},
            "payload_no_value_defined",
        ),
    ],
)
def test_an_event_is_refused_with_a_code_of_the_table(
    sandbox: RunningSandbox, stripe_client: StripeClient, event: object, code: str
) -> None:
    """The error has a code and a message, nothing else; nothing is recorded."""
    stripe_client.v1.billing.meters.deactivate(meter_id(stripe_client, "logins"))
    answer = post(sandbox, event)
    assert (answer.status, answer.json["error"]["code"]) == (400, code)
    assert answer.json["error"].keys() == {"code", "message"}
    assert (sandbox.events(), sandbox.reports()) == ([], [])


@pytest.mark.parametrize(
    "event",
    [
        {},
        {"event_name": "api_requests"},
        {"event_name": "api_requests", "payload": "1"},
        {"event_name": 1, "payload": {}},
        {**event_v2(), "identifier": 5},
        {**event_v2(), "identifier": ""},
        {**event_v2(), "timestamp": NOON},
        {**event_v2(), "timestamp": "2026-01-15"},
        {**event_v2(), "timestamp": "2026-01-15T12:00:00"},
        {**event_v2(), "timestamp": "2026-13-15T12:00:00Z"},
        {**event_v2(), "colour": "red"},
        [],
        "event",
    ],
)
def test_what_is_no_event_is_refused(sandbox: RunningSandbox, event: object) -> None:
    """Among it unix seconds, which version 1 takes and version 2 does not."""
    answer = post(sandbox, event)
    assert answer.status == 400
    assert answer.json["error"]["message"]
    assert sandbox.events() == []


def test_a_body_that_is_no_json_is_refused(sandbox: RunningSandbox) -> None:
    """A form, for example."""
    assert call(sandbox.url, "POST", PATH, {"event_name": "api_requests"}).status == 400


@pytest.mark.parametrize(
    "body", ["[" * 100_000, '{"event_name": ' + "9" * 5000 + "}", '{"payload": {"value": NaN}}', "\ud800"]
)
def test_a_hostile_body_is_refused(sandbox: RunningSandbox, body: str) -> None:
    """Nesting without end, a number without end, words that are no JSON."""
    answer = call(sandbox.url, "POST", PATH, body=body.encode("utf-8", "surrogatepass").decode("latin-1"))
    assert answer.status == 400


def test_half_a_character_does_no_harm(sandbox: RunningSandbox) -> None:
    """JSON can say it; the event is taken, shown and found processed."""
    sandbox.set_rules(processing_delay_seconds=[0, 1])
    event = event_v2(identifier="e-\ud800", customer="cus_\ud800")
    assert post(sandbox, event).status == 200
    assert len(sandbox.events()) == 1


def test_unknown_fields_may_be_taken(sandbox: RunningSandbox) -> None:
    """Version 2 does not say that it refuses them; a rule decides."""
    sandbox.set_rules(v2_unknown_fields=True)
    assert post(sandbox, {**event_v2(), "colour": "red"}).status == 200


def test_a_number_is_no_text(sandbox: RunningSandbox) -> None:
    """The library sends 5 as a number; it is refused, unless the rules take it for its text."""
    event = {"event_name": "api_requests", "payload": {"stripe_customer_id": "cus_a", "value": 5}}
    assert post(sandbox, event).json["error"]["code"] == "payload_invalid_value"
    sandbox.set_rules(v2_number_values=True)
    assert post(sandbox, event).json["payload"]["value"] == "5"
    assert sandbox.totals("api_requests") == {"cus_a": 5}


@pytest.mark.parametrize("value", ["1.5", "-1", "0"])
def test_only_whole_values_above_zero_may_be_taken(sandbox: RunningSandbox, value: str) -> None:
    """As the table says to the letter; without the rule they are taken, as they are in version 1."""
    assert post(sandbox, event_v2(value)).status == 200
    sandbox.set_rules(v2_whole_values=True)
    assert post(sandbox, event_v2(value)).json["error"]["code"] == "payload_invalid_value"
    assert post(sandbox, event_v2("2")).status == 200


@pytest.mark.parametrize(
    ("seconds", "code"),
    [(NOON - 36 * DAY, "timestamp_too_far_in_past"), (NOON + HOUR, "timestamp_in_future")],
)
def test_a_timestamp_out_of_bounds_is_reported_later(
    sandbox: RunningSandbox, stripe_client: StripeClient, seconds: int, code: str
) -> None:
    """The table has no code for it; a rule makes it a 400."""
    send_v2(stripe_client, identifier="e-1", timestamp=seconds)
    assert (reasons(sandbox), used(stripe_client)) == ([code], 0.0)
    sandbox.set_time(NOON + 20)
    (report,) = sandbox.reports()
    assert kinds(report) == {code: (1, ["e-1"])}
    sandbox.set_rules(v2_sync_timestamp_errors=True)
    with pytest.raises(stripe.InvalidRequestError) as refusal:
        send_v2(stripe_client, identifier="e-2", timestamp=seconds)
    assert refusal.value.code == code


def test_an_unknown_customer_is_reported_later(sandbox: RunningSandbox, stripe_client: StripeClient) -> None:
    """Or refused at once, with the rule that version 1 has for it."""
    sandbox.set_rules(strict_customers=True)
    send_v2(stripe_client)
    assert reasons(sandbox) == ["meter_event_customer_not_found"]
    sandbox.set_rules(strict_customers=True, sync_customer_errors=True)
    with pytest.raises(stripe.InvalidRequestError, match="No such customer"):
        send_v2(stripe_client)


def test_errors_may_have_a_type(sandbox: RunningSandbox) -> None:
    """The table requires none; a rule adds it."""
    sandbox.set_rules(v2_error_types=True)
    assert post(sandbox, event_v2("many")).json["error"]["type"] == "invalid_request_error"


def test_a_second_call_in_flight_for_a_customer_and_meter_is_a_conflict(
    sandbox: RunningSandbox, stripe_client: StripeClient
) -> None:
    """Whichever version the first one came through."""
    sandbox.set_faults(latency_seconds=1.5, only_customers=["cus_a"])
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(send, stripe_client)
        while sandbox.stats()["in_flight"] == 0:
            assert not first.done()
        answer = post(sandbox, event_v2())
        other = post(sandbox, event_v2(customer="cus_b"))
        assert not first.done()
    assert (answer.status, answer.json["error"]["code"]) == (409, "too_many_concurrent_requests")
    assert other.status == 200


@pytest.mark.parametrize(
    ("fault", "error", "counted"),
    [
        ({"too_many_requests": 1.0}, stripe.RateLimitError, 0),
        ({"error_before": 1.0}, stripe.APIError, 0),
        ({"error_after": 1.0}, stripe.APIError, 1),
        ({"drop_before": 1.0}, stripe.APIConnectionError, 0),
        ({"drop_after": 1.0}, stripe.APIConnectionError, 1),
        ({"refuse_customers": ["cus_a"]}, stripe.InvalidRequestError, 0),
    ],
)
def test_faults_strike_version_2_too(
    sandbox: RunningSandbox, stripe_client: StripeClient, fault: dict[str, Any], error: type, counted: int
) -> None:
    """Before or after the event is recorded, as in version 1."""
    sandbox.set_faults(**fault)
    with pytest.raises(error):
        send_v2(stripe_client, identifier="e-1")
    assert len(sandbox.events()) == counted


@pytest.mark.parametrize(
    "make",
    [
        lambda client: cancel_v2(client, "e-1"),
        lambda client: client.v2.billing.meter_event_session.create(),
        lambda client: client.v2.core.events.list(),
    ],
)
def test_faults_strike_every_call_of_version_2(
    sandbox: RunningSandbox, stripe_client: StripeClient, make: Callable[[StripeClient], Any]
) -> None:
    """With `applies_to: all`, and only then."""
    send(stripe_client, identifier="e-1")
    for fault, error in (
        ({"too_many_requests": 1.0}, stripe.RateLimitError),
        ({"error_before": 1.0}, stripe.APIError),
        ({"error_after": 1.0}, stripe.APIError),
        ({"drop_after": 1.0}, stripe.APIConnectionError),
        ({"rate_limit_per_second": 0.001, "drop_before": 1.0}, stripe.APIConnectionError),
    ):
        sandbox.set_faults(**fault, applies_to="all")
        with pytest.raises(error):
            make(stripe_client)
        sandbox.set_faults(**fault)
        make(stripe_client)


def test_events_of_version_2_can_be_found_invalid_later(
    sandbox: RunningSandbox, stripe_client: StripeClient
) -> None:
    """By the fault that version 1 has for it."""
    sandbox.set_faults(reject_later=1.0, reject_after_seconds=HOUR)
    send_v2(stripe_client)
    assert reasons(sandbox) == [None]
    sandbox.set_time(NOON + 2 * HOUR)
    assert reasons(sandbox) == ["meter_event_customer_not_found"]


def test_the_rate_limit_is_shared_with_version_1(
    sandbox: RunningSandbox, stripe_client: StripeClient
) -> None:
    """One after the other through either; the next is a 429."""
    sandbox.set_faults(rate_limit_per_second=0.001)
    send(stripe_client)
    with pytest.raises(stripe.RateLimitError):
        send_v2(stripe_client)


def test_a_kept_answer_is_repeated_and_an_error_is_not_kept(sandbox: RunningSandbox) -> None:
    """A retry of a success repeats it; a retry of a 500 is done anew, unless the rules keep it as version 1 does."""
    first = post(sandbox, event_v2(identifier="e-1"), key="k-1")
    again = post(sandbox, event_v2(identifier="e-1"), key="k-1")
    assert (again.json, again.headers["idempotent-replayed"]) == (first.json, "true")
    sandbox.set_faults(error_after=1.0, times=1)
    assert post(sandbox, event_v2(identifier="e-2"), key="k-2").status == 500
    assert (
        post(sandbox, event_v2(identifier="e-2"), key="k-2").json["error"]["code"] == "duplicate_meter_event"
    )
    sandbox.set_rules(v2_keeps_errors=True)
    sandbox.set_faults(error_after=1.0, times=1)
    assert post(sandbox, event_v2(identifier="e-3"), key="k-3").status == 500
    assert post(sandbox, event_v2(identifier="e-3"), key="k-3").status == 500


def test_a_key_with_another_event_is_an_idempotency_error(sandbox: RunningSandbox) -> None:
    """Version 2 knows it by its type."""
    post(sandbox, event_v2("1"), key="k-1")
    assert post(sandbox, event_v2("2"), key="k-1").json["error"]["type"] == "idempotency_error"


def test_modes_are_apart(sandbox: RunningSandbox) -> None:
    """A live key's events are live."""
    assert send_v2(connect(sandbox.url, LIVE_KEY), identifier="e-1").livemode is True
    assert send_v2(connect(sandbox.url), identifier="e-1").livemode is False
