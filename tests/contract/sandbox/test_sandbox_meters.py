"""Meters: made, changed, switched off and on, listed."""

import pytest
import stripe
from stripe import StripeClient
from stripe.billing import Meter

from aggregator.sandbox import MeterSpec, RunningSandbox, parse_meter
from tests.contract.sandbox.sandbox_calls import call, meter_id, send, used


def create(client: StripeClient, event_name: str = "tokens") -> Meter:
    """Make a sum meter."""
    return client.v1.billing.meters.create(
        {"display_name": "Tokens", "event_name": event_name, "default_aggregation": {"formula": "sum"}}
    )


def test_a_created_meter_has_stripes_shape_and_defaults(stripe_client: StripeClient) -> None:
    """What is not said is `stripe_customer_id`, `value`, no window, active."""
    meter = create(stripe_client)
    assert meter.to_dict() == {
        "id": meter.id,
        "object": "billing.meter",
        "created": meter.created,
        "customer_mapping": {"event_payload_key": "stripe_customer_id", "type": "by_id"},
        "default_aggregation": {"formula": "sum"},
        "display_name": "Tokens",
        "event_name": "tokens",
        "event_time_window": None,
        "livemode": False,
        "status": "active",
        "status_transitions": {"deactivated_at": None},
        "updated": meter.created,
        "value_settings": {"event_payload_key": "value"},
    }
    assert meter.id.startswith("mtr_test_")
    assert stripe_client.v1.billing.meters.retrieve(meter.id).to_dict() == meter.to_dict()


def test_a_meter_reads_the_payload_keys_it_was_given(stripe_client: StripeClient) -> None:
    """Customer and value are found under the meter's own names."""
    stripe_client.v1.billing.meters.create(
        {
            "display_name": "Tokens",
            "event_name": "tokens",
            "default_aggregation": {"formula": "sum"},
            "event_time_window": "day",
            "customer_mapping": {"type": "by_id", "event_payload_key": "who"},
            "value_settings": {"event_payload_key": "tokens"},
        }
    )
    stripe_client.v1.billing.meter_events.create(
        {"event_name": "tokens", "payload": {"who": "cus_a", "tokens": "5"}}
    )
    assert used(stripe_client, event_name="tokens") == 5.0


def test_an_event_name_serves_one_meter(stripe_client: StripeClient) -> None:
    """A second meter for it is refused, an inactive first one notwithstanding."""
    meter = create(stripe_client)
    with pytest.raises(stripe.InvalidRequestError, match="exists already"):
        create(stripe_client)
    stripe_client.v1.billing.meters.deactivate(meter.id)
    with pytest.raises(stripe.InvalidRequestError, match="exists already"):
        create(stripe_client)


def test_only_the_display_name_changes(stripe_client: StripeClient, sandbox: RunningSandbox) -> None:
    """An update of anything else is an unknown parameter."""
    meter = create(stripe_client)
    renamed = stripe_client.v1.billing.meters.update(meter.id, {"display_name": "Words"})
    assert (renamed.display_name, renamed.event_name) == ("Words", "tokens")
    answer = call(sandbox.url, "POST", f"/v1/billing/meters/{meter.id}", {"event_name": "words"})
    assert (answer.status, answer.json["error"]["code"]) == (400, "parameter_unknown")


def test_an_inactive_meter_takes_no_events_until_reactivated(stripe_client: StripeClient) -> None:
    """Deactivation refuses events and shows when; reactivation undoes both, and nothing counted is lost."""
    meter = create(stripe_client)
    send(stripe_client, event_name="tokens")
    inactive = stripe_client.v1.billing.meters.deactivate(meter.id)
    assert inactive.status == "inactive"
    assert inactive.status_transitions.deactivated_at is not None
    with pytest.raises(stripe.InvalidRequestError, match="No active meter found"):
        send(stripe_client, event_name="tokens")
    active = stripe_client.v1.billing.meters.reactivate(meter.id)
    assert (active.status, active.status_transitions.deactivated_at) == ("active", None)
    send(stripe_client, event_name="tokens")
    assert used(stripe_client, event_name="tokens") == 2.0


def test_meters_are_listed_newest_first_and_by_status(stripe_client: StripeClient) -> None:
    """The list pages and filters."""
    names = [f"m{number}" for number in range(12)]
    created = [create(stripe_client, name) for name in names]
    listed = list(stripe_client.v1.billing.meters.list({"limit": 5}).auto_paging_iter())
    assert [meter.event_name for meter in listed[:12]] == names[::-1]
    stripe_client.v1.billing.meters.deactivate(created[3].id)
    inactive = stripe_client.v1.billing.meters.list({"status": "inactive"})
    assert [meter.event_name for meter in inactive.data] == ["m3"]


def test_modes_have_their_own_meters(stripe_client: StripeClient, live_client: StripeClient) -> None:
    """The meters of the start are in both, a created one only where it was created."""
    assert meter_id(stripe_client).startswith("mtr_test_")
    assert meter_id(live_client).startswith("mtr_live_")
    create(stripe_client)
    with pytest.raises(stripe.InvalidRequestError, match="No active meter"):
        send(live_client, event_name="tokens")


def test_an_unknown_meter_is_not_found(stripe_client: StripeClient) -> None:
    """Its id is in the path, so it is a 404."""
    with pytest.raises(stripe.InvalidRequestError) as refusal:
        stripe_client.v1.billing.meters.retrieve("mtr_none")
    assert (refusal.value.http_status, refusal.value.code) == (404, "resource_missing")


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"display_name": None}, "display_name"),
        ({"display_name": "x" * 251}, "display_name"),
        ({"event_name": None}, "event_name"),
        ({"default_aggregation[formula]": None}, "default_aggregation[formula]"),
        ({"default_aggregation[formula]": "max"}, "default_aggregation[formula]"),
        ({"default_aggregation[window]": "day"}, "default_aggregation[window]"),
        ({"customer_mapping[type]": "by_name"}, "customer_mapping[type]"),
        ({"event_time_window": "week"}, "event_time_window"),
        ({"metadata[a]": "b"}, "metadata"),
    ],
)
def test_a_meter_that_stripe_would_not_take_is_refused(
    sandbox: RunningSandbox, change: dict[str, str | None], param: str
) -> None:
    """Missing, overlong, unknown: a 400 naming the parameter."""
    form = {"display_name": "Tokens", "event_name": "tokens", "default_aggregation[formula]": "sum"} | change
    given = {name: value for name, value in form.items() if value is not None}
    answer = call(sandbox.url, "POST", "/v1/billing/meters", given)
    assert (answer.status, answer.json["error"]["param"]) == (400, param)


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("api_requests:sum", MeterSpec("api_requests", "sum")),
        ("seats:last", MeterSpec("seats", "last")),
        ("stored_gb:sum:hour", MeterSpec("stored_gb", "sum", "hour")),
    ],
)
def test_a_meter_can_be_written_in_one_word(text: str, spec: MeterSpec) -> None:
    """Event name, formula and, if any, window."""
    assert parse_meter(text) == spec


@pytest.mark.parametrize(
    "text", ["", "api_requests", ":sum", "a:max", "a:sum:week", "a:sum:hour:more", "a:sum:"]
)
def test_a_word_that_is_no_meter_is_refused(text: str) -> None:
    """The message says how to write one."""
    with pytest.raises(ValueError, match="Write event_name:formula"):
        parse_meter(text)
