"""Meter events: what is taken, what is refused and how, what counts."""

from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any

import pytest
import stripe
from stripe import StripeClient

from aggregator.sandbox import RunningSandbox
from aggregator.sandbox.customers import Customers
from aggregator.sandbox.errors import ApiError
from aggregator.sandbox.events import Events
from aggregator.sandbox.form import Params, parse_form
from aggregator.sandbox.meters import Meters
from aggregator.sandbox.refusals import refuse_v1
from aggregator.sandbox.rules import Rules
from aggregator.sandbox.sent import read_form
from aggregator.sandbox.settings import MeterSpec
from tests.contract.sandbox.sandbox_calls import (
    DAY,
    HOUR,
    NOON,
    call,
    connect,
    event_form,
    post_event,
    reasons,
    send,
    used,
)


def test_an_accepted_event_is_echoed(stripe_client: StripeClient) -> None:
    """The answer repeats the event, payload values as strings, and has no id."""
    event = send(stripe_client, "25", identifier="e-1", timestamp=NOON - 60)
    assert event.to_dict() == {
        "object": "billing.meter_event",
        "created": event.created,
        "event_name": "api_requests",
        "identifier": "e-1",
        "livemode": False,
        "payload": {"stripe_customer_id": "cus_a", "value": "25"},
        "timestamp": NOON - 60,
    }
    assert 0 <= event.created - NOON < 60


def test_identifier_and_timestamp_are_made_up_when_absent(stripe_client: StripeClient) -> None:
    """Two events without an identifier are two events, stamped with the time of receipt."""
    first, second = send(stripe_client), send(stripe_client)
    assert first.identifier != second.identifier
    assert first.timestamp == first.created
    assert used(stripe_client) == 2.0


def test_a_duplicate_identifier_is_refused_as_stripe_refuses_it(
    stripe_client: StripeClient, sandbox: RunningSandbox
) -> None:
    """The repeat gets a 400 with the known words, no code, and is not to be retried."""
    send(stripe_client, identifier="e-1")
    with pytest.raises(stripe.InvalidRequestError) as refusal:
        send(stripe_client, identifier="e-1")
    assert refusal.value.http_status == 400
    assert refusal.value.user_message == "An event already exists with identifier e-1."
    assert refusal.value.code is None
    assert refusal.value.headers is not None
    assert refusal.value.headers["stripe-should-retry"] == "false"
    assert used(stripe_client) == 1.0
    assert sandbox.stats()["duplicates_refused"] == 1


@pytest.mark.parametrize("other", [{"value": "9"}, {"customer": "cus_b"}, {"event_name": "logins"}])
def test_an_identifier_is_unique_across_values_customers_and_meters(
    stripe_client: StripeClient, other: dict[str, Any]
) -> None:
    """Whatever else differs, a remembered identifier is refused."""
    send(stripe_client, identifier="e-1")
    with pytest.raises(stripe.InvalidRequestError, match="already exists"):
        send(stripe_client, identifier="e-1", **other)


def test_identifiers_of_test_and_live_mode_are_apart(
    stripe_client: StripeClient, live_client: StripeClient
) -> None:
    """One identifier may be used once in each mode."""
    assert send(stripe_client, identifier="e-1").livemode is False
    assert send(live_client, identifier="e-1").livemode is True


def test_an_identifier_is_refused_until_its_memory_runs_out(
    stripe_client: StripeClient, sandbox: RunningSandbox
) -> None:
    """A resend a little less than 24 hours later is a duplicate."""
    send(stripe_client, identifier="e-1")
    sandbox.set_time(NOON + DAY - 60)
    with pytest.raises(stripe.InvalidRequestError, match="already exists"):
        send(stripe_client, identifier="e-1")


def test_a_resend_after_the_memory_counts_twice(stripe_client: StripeClient, sandbox: RunningSandbox) -> None:
    """25 hours later the same event is accepted and counted again, and the sandbox says so."""
    send(stripe_client, "5", identifier="e-1", timestamp=NOON)
    sandbox.set_time(NOON + 25 * HOUR)
    send(stripe_client, "5", identifier="e-1", timestamp=NOON)
    assert used(stripe_client) == 10.0
    assert sandbox.stats()["double_counted"] == 1


def test_memory_is_measured_from_receipt(stripe_client: StripeClient, sandbox: RunningSandbox) -> None:
    """An event stamped thirty days ago is remembered as long as any other."""
    send(stripe_client, identifier="e-1", timestamp=NOON - 30 * DAY)
    with pytest.raises(stripe.InvalidRequestError, match="already exists"):
        send(stripe_client, identifier="e-1", timestamp=NOON - 30 * DAY)


def test_the_length_of_memory_is_settable(stripe_client: StripeClient, sandbox: RunningSandbox) -> None:
    """With a memory of an hour, two hours are enough to be counted twice."""
    sandbox.set_rules(identifier_memory_seconds=HOUR)
    send(stripe_client, identifier="e-1")
    sandbox.set_time(NOON + 2 * HOUR)
    send(stripe_client, identifier="e-1")
    assert sandbox.stats()["double_counted"] == 1


@pytest.mark.parametrize(
    ("timestamp", "reason"),
    [
        (NOON - 35 * DAY, None),
        (NOON - 35 * DAY - 1, "timestamp_too_old"),
        (NOON + 300, None),
        (NOON + 301, "timestamp_in_future"),
    ],
)
def test_the_timestamp_lies_within_35_days_back_and_5_minutes_ahead(
    timestamp: int, reason: str | None
) -> None:
    """Both bounds are allowed, a second beyond either is not."""
    meters = Meters(livemode=False, tag="test_", note=lambda kind, record: None)
    meters.make(MeterSpec("api_requests"), NOON)
    customers = Customers(livemode=False, note=lambda kind, record: None)
    events = Events(
        tag="test_", context=None, note=lambda kind, record: None, meters=meters, customers=customers
    )
    form = f"event_name=api_requests&payload[stripe_customer_id]=cus_a&payload[value]=1&timestamp={timestamp}"
    draft = events.draft(read_form(Params(parse_form(form))))
    if reason is None:
        event = events.take(draft, NOON + 0.9, Rules(), refuse_v1)
        assert event is not None
        assert event.timestamp == timestamp
        return
    with pytest.raises(ApiError) as refusal:
        events.take(draft, NOON + 0.9, Rules(), refuse_v1)
    assert refusal.value.reason == reason


def test_too_old_is_told_with_the_oldest_allowed_timestamp(stripe_client: StripeClient) -> None:
    """The words are those that senders match on."""
    with pytest.raises(stripe.InvalidRequestError) as refusal:
        send(stripe_client, timestamp=NOON - 36 * DAY)
    words, _, oldest = str(refusal.value.user_message).rpartition(" ")
    assert words == (
        "The event timestamp cannot be more than 35 days in past. Expected a timestamp greater than or equal to"
    )
    assert 0 <= int(oldest.rstrip(".")) - (NOON - 35 * DAY) < 60


@pytest.mark.parametrize(
    "value", ["0", "-3", "0.25", "123456789012345", "-1234567.12345678", "000000000000000000001"]
)
def test_values_of_up_to_15_digits_count_exactly(
    stripe_client: StripeClient, sandbox: RunningSandbox, value: str
) -> None:
    """Zero, negative and decimal values are as good as any; leading zeros are no digits."""
    send(stripe_client, value)
    assert sandbox.totals("api_requests") == {"cus_a": Decimal(value)}


@pytest.mark.parametrize("value", ["1234567890123456", "-12345678.12345678", "0.1234567890123456"])
def test_more_than_15_digits_are_refused_at_once(sandbox: RunningSandbox, value: str) -> None:
    """A 400 names the value."""
    answer = post_event(sandbox.url, event_form(value))
    assert answer.status == 400
    assert value in answer.json["error"]["message"]


def test_sums_are_exact_where_floats_are_not(stripe_client: StripeClient, sandbox: RunningSandbox) -> None:
    """A tenth and two tenths are three tenths."""
    send(stripe_client, "0.1")
    send(stripe_client, "0.2")
    assert sandbox.control("GET", "totals", event_name="api_requests")["totals"] == {"cus_a": "0.3"}


@pytest.mark.parametrize(
    "value", ["many", "1e3", "1E+3", "", " 5", "+5", "0x10", "NaN", "Infinity", "1_000", "٣"]
)
def test_an_unreadable_value_is_accepted_and_never_counts(sandbox: RunningSandbox, value: str) -> None:
    """Only plain digits are a value; the rest is found out later."""
    assert post_event(sandbox.url, event_form(value)).status == 200
    assert reasons(sandbox) == ["meter_event_invalid_value"]
    assert sandbox.totals("api_requests") == {}


def test_unreadable_and_missing_values_can_be_refused_at_once(sandbox: RunningSandbox) -> None:
    """With `sync_value_errors` they are a 400 and leave nothing."""
    sandbox.set_rules(sync_value_errors=True)
    assert post_event(sandbox.url, event_form("many")).status == 400
    form = {"event_name": "api_requests", "payload[stripe_customer_id]": "cus_a"}
    assert post_event(sandbox.url, form).status == 400
    assert sandbox.events() == []


@pytest.mark.parametrize(
    ("missing", "reason"),
    [("value", "meter_event_value_not_found"), ("stripe_customer_id", "meter_event_no_customer_defined")],
)
def test_a_payload_without_a_key_of_the_meter_never_counts(
    sandbox: RunningSandbox, missing: str, reason: str
) -> None:
    """The event is accepted; the log says what it lacks."""
    form = event_form()
    del form[f"payload[{missing}]"]
    assert post_event(sandbox.url, form).status == 200
    assert reasons(sandbox) == [reason]


def test_a_missing_customer_can_be_refused_at_once(sandbox: RunningSandbox) -> None:
    """With `sync_customer_errors` the answer names the key that is not there."""
    sandbox.set_rules(sync_customer_errors=True)
    answer = post_event(sandbox.url, {"event_name": "api_requests", "payload[value]": "1"})
    assert answer.status == 400
    assert answer.json["error"]["message"] == "Customer mapping key stripe_customer_id not found in payload."


def test_a_count_meter_needs_no_value(sandbox: RunningSandbox, stripe_client: StripeClient) -> None:
    """An event without a value, or with any, counts one."""
    form = {"event_name": "logins", "payload[stripe_customer_id]": "cus_a"}
    post_event(sandbox.url, form)
    post_event(sandbox.url, form | {"payload[value]": "many"})
    assert used(stripe_client, event_name="logins") == 2.0


def test_any_customer_id_will_do_unless_strict(sandbox: RunningSandbox, stripe_client: StripeClient) -> None:
    """`cus_` and `acct_` ids count without being created; anything else is no customer."""
    for customer in ("cus_new", "acct_new", "somebody"):
        send(stripe_client, customer=customer)
    assert reasons(sandbox) == [None, None, "meter_event_customer_not_found"]


def test_a_strict_sandbox_knows_only_created_customers(
    sandbox: RunningSandbox, stripe_client: StripeClient
) -> None:
    """An unknown customer's event is accepted and never counts."""
    sandbox.set_rules(strict_customers=True)
    created = stripe_client.v1.customers.create({"name": "Ada"})
    send(stripe_client, customer=created.id)
    send(stripe_client, customer="cus_new")
    assert reasons(sandbox) == [None, "meter_event_customer_not_found"]
    assert sandbox.totals("api_requests") == {created.id: Decimal(1)}


def test_an_unknown_customer_can_be_refused_at_once(
    sandbox: RunningSandbox, stripe_client: StripeClient
) -> None:
    """With `sync_customer_errors` it is a 400."""
    sandbox.set_rules(strict_customers=True, sync_customer_errors=True)
    with pytest.raises(stripe.InvalidRequestError, match="No such customer: 'cus_new'"):
        send(stripe_client, customer="cus_new")


def test_an_event_for_no_meter_is_refused(stripe_client: StripeClient) -> None:
    """The 400 has the known words."""
    with pytest.raises(stripe.InvalidRequestError) as refusal:
        send(stripe_client, event_name="nothing")
    assert refusal.value.user_message == 'No active meter found for event name "nothing".'


@pytest.mark.parametrize(
    ("form", "param"),
    [
        (event_form(colour="red"), "colour"),
        (event_form(**{"cancel[identifier]": "x"}), "cancel"),
        (event_form(identifier="x" * 101), "identifier"),
        (event_form(event_name="x" * 101), "event_name"),
        (event_form(timestamp="yesterday"), "timestamp"),
        (event_form(timestamp="1.5"), "timestamp"),
        (event_form(**{"payload[value][deep]": "1"}), "payload[value]"),
        ({"payload[value]": "1"}, "event_name"),
        ({"event_name": "api_requests"}, "payload"),
        ({"event_name": "api_requests", "payload": "1"}, "payload"),
    ],
)
def test_a_malformed_call_is_refused_by_the_name_of_its_parameter(
    sandbox: RunningSandbox, form: dict[str, str], param: str
) -> None:
    """Unknown, missing, overlong and misshapen parameters are a 400 and leave nothing."""
    if "payload[value][deep]" in form:
        del form["payload[value]"]
    answer = post_event(sandbox.url, form)
    assert answer.status == 400
    assert answer.json["error"]["type"] == "invalid_request_error"
    assert answer.json["error"]["param"] == param
    assert sandbox.events() == []


@pytest.mark.parametrize(
    ("name", "kind"), [("payload[value][deep]", "a map"), ("payload[value][]", "a list")]
)
def test_a_nested_payload_value_is_refused_by_its_kind(sandbox: RunningSandbox, name: str, kind: str) -> None:
    """The message says what was found instead of a string."""
    answer = post_event(sandbox.url, {"event_name": "api_requests", name: "1"})
    assert kind in answer.json["error"]["message"]


def test_expand_is_taken_by_every_endpoint(sandbox: RunningSandbox) -> None:
    """It is a parameter of all of v1 and changes nothing here."""
    assert post_event(sandbox.url, event_form(**{"expand[]": "x"})).status == 200
    assert call(sandbox.url, "GET", "/v1/billing/meters?expand[0]=data").status == 200


def test_a_second_call_for_one_customer_and_meter_is_refused_while_the_first_is_in_flight(
    sandbox: RunningSandbox, stripe_client: StripeClient
) -> None:
    """The second gets a 409 with its code; another customer and another meter get through."""
    sandbox.set_faults(latency_seconds=1.5, only_customers=["cus_a"])
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(send, stripe_client, identifier="e-1")
        while sandbox.stats()["in_flight"] == 0:
            assert not first.done()
        second = connect(sandbox.url)
        with pytest.raises(stripe.APIError) as refusal:
            send(second, identifier="e-2")
        send(second, customer="cus_b")
        assert not first.done()
        assert first.result().identifier == "e-1"
    assert refusal.value.http_status == 409
    assert refusal.value.error is not None
    assert refusal.value.error.code == "too_many_concurrent_requests"
    assert refusal.value.error.message == (
        "Cannot create multiple usage events for the same customer, meter concurrently."
    )
    sandbox.set_faults()
    assert send(stripe_client, identifier="e-2").identifier == "e-2"
