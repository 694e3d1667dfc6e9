"""Cancellations: one event by its identifier, within a day of its receipt."""

from collections.abc import Callable
from typing import Any

import pytest
import stripe
from stripe import StripeClient

from aggregator.sandbox import MeterSpec, RunningSandbox, SandboxOptions, running
from tests.contract.sandbox.sandbox_calls import (
    DAY,
    HOUR,
    MINUTE,
    NOON,
    call,
    cancel,
    cancel_v2,
    connect,
    event_v2,
    meter_id,
    post_json,
    reasons,
    send,
    send_v2,
    stream,
    streamer,
    used,
)

PATHS = "/v1/billing/meter_event_adjustments", "/v2/billing/meter_event_adjustments"
Cancel = Callable[..., Any]
both = pytest.mark.parametrize("cancelling", [cancel, cancel_v2])


def test_a_cancelled_event_leaves_the_summaries(sandbox: RunningSandbox, stripe_client: StripeClient) -> None:
    """The others stay; the log says why it does not count."""
    send(stripe_client, "5", identifier="e-1")
    send(stripe_client, "2", identifier="e-2")
    answer = cancel(stripe_client, "e-1")
    assert answer.to_dict() == {
        "object": "billing.meter_event_adjustment",
        "cancel": {"identifier": "e-1"},
        "event_name": "api_requests",
        "livemode": False,
        "status": "pending",
        "type": "cancel",
    }
    assert (used(stripe_client), sandbox.totals("api_requests")) == (2.0, {"cus_a": 2})
    assert reasons(sandbox) == ["cancelled", None]


def test_version_2_cancels_as_well(sandbox: RunningSandbox, stripe_client: StripeClient) -> None:
    """Its answer has an id and a time; any event can be cancelled, through whichever endpoint it came."""
    send(stripe_client, "5", identifier="v1")
    send_v2(stripe_client, "5", identifier="v2")
    stream(streamer(stripe_client, sandbox.url), event_v2("5", identifier="s"))
    answers = [cancel_v2(stripe_client, name) for name in ("v1", "v2", "s")]
    assert [answer.id for answer in answers] == [f"mtr_event_adj_test_{n:08d}" for n in (1, 2, 3)]
    assert answers[0].created.startswith("2026-01-15T12:00:")
    assert answers[0].object == "v2.billing.meter_event_adjustment"
    assert used(stripe_client) == 0.0


@both
def test_a_cancellation_is_pending_until_it_takes_effect(
    sandbox: RunningSandbox, stripe_client: StripeClient, cancelling: Cancel
) -> None:
    """Asked again later it is complete; nothing else tells."""
    sandbox.set_rules(adjustment_delay_seconds=HOUR)
    send(stripe_client, "5", identifier="e-1")
    assert cancelling(stripe_client, "e-1").status == "pending"
    sandbox.set_time(NOON + HOUR - MINUTE)
    assert (used(stripe_client), sandbox.adjustments()[0]["status"]) == (5.0, "pending")
    sandbox.set_time(NOON + HOUR + MINUTE)
    assert (used(stripe_client), sandbox.adjustments()[0]["status"]) == (0.0, "complete")
    assert cancelling(stripe_client, "e-1").status == "complete"


@both
def test_a_cancellation_may_be_complete_at_once(
    sandbox: RunningSandbox, stripe_client: StripeClient, cancelling: Cancel
) -> None:
    """Whatever the delay says."""
    sandbox.set_rules(adjustment_complete_at_once=True, adjustment_delay_seconds=HOUR)
    send(stripe_client, "5", identifier="e-1")
    assert cancelling(stripe_client, "e-1").status == "complete"
    assert used(stripe_client) == 0.0


def test_the_day_counts_from_receipt(sandbox: RunningSandbox, stripe_client: StripeClient) -> None:
    """An event of ten days ago that was sent today can be cancelled; one received a day ago cannot."""
    send(stripe_client, "5", identifier="old", timestamp=NOON - 10 * DAY)
    sandbox.set_time(NOON + DAY - MINUTE)
    cancel(stripe_client, "old")
    send(stripe_client, "7", identifier="new")
    sandbox.set_time(NOON + 3 * DAY)
    with pytest.raises(stripe.InvalidRequestError) as refusal:
        cancel(stripe_client, "new")
    assert (refusal.value.http_status, refusal.value.code) == (400, "out_of_window")
    assert sandbox.totals("api_requests") == {"cus_a": 7}


def test_the_window_is_settable(sandbox: RunningSandbox, stripe_client: StripeClient) -> None:
    """A minute, for example."""
    sandbox.set_rules(cancel_window_seconds=60)
    send(stripe_client, identifier="e-1")
    sandbox.set_time(NOON + 2 * MINUTE)
    with pytest.raises(stripe.InvalidRequestError):
        cancel(stripe_client, "e-1")


@pytest.mark.parametrize(
    ("rules", "cancelling", "code"),
    [
        ({}, cancel, "resource_missing"),
        ({"cancel_unknown_code": "no_such_event"}, cancel, "no_such_event"),
        ({}, cancel_v2, "invalid_cancel_configuration"),
        ({"cancel_code_v2": "not_found"}, cancel_v2, "not_found"),
    ],
)
def test_an_unknown_identifier_is_refused(
    sandbox: RunningSandbox, stripe_client: StripeClient, rules: dict[str, str], cancelling: Cancel, code: str
) -> None:
    """So is one of another event name; the code is a rule."""
    sandbox.set_rules(**rules)
    send(stripe_client, identifier="e-1")
    for event_name, identifier in (("api_requests", "e-2"), ("logins", "e-1")):
        with pytest.raises(stripe.InvalidRequestError) as refusal:
            cancelling(stripe_client, identifier, event_name)
        assert (refusal.value.http_status, refusal.value.code) == (400, code)


@pytest.mark.parametrize(
    ("rules", "cancelling", "code"),
    [
        ({"cancel_late_code": "too_late"}, cancel, "too_late"),
        ({}, cancel_v2, "invalid_cancel_configuration"),
    ],
)
def test_the_code_for_too_late_is_a_rule(
    sandbox: RunningSandbox, stripe_client: StripeClient, rules: dict[str, str], cancelling: Cancel, code: str
) -> None:
    """In version 2 it is the only one that is declared."""
    sandbox.set_rules(**rules)
    send(stripe_client, identifier="e-1")
    sandbox.set_time(NOON + 2 * DAY)
    with pytest.raises(stripe.InvalidRequestError) as refusal:
        cancelling(stripe_client, "e-1")
    assert refusal.value.code == code


@both
def test_cancelling_twice_does_nothing_more(
    sandbox: RunningSandbox, stripe_client: StripeClient, cancelling: Cancel
) -> None:
    """It is answered as before; with a rule it is refused."""
    send(stripe_client, identifier="e-1")
    first, second = cancelling(stripe_client, "e-1"), cancelling(stripe_client, "e-1")
    assert second.to_dict() | {"status": "pending"} == first.to_dict()
    assert len(sandbox.adjustments()) == 1
    sandbox.set_rules(cancel_twice_refused=True)
    with pytest.raises(stripe.InvalidRequestError) as refusal:
        cancelling(stripe_client, "e-1")
    assert refusal.value.code == "already_canceled"


def test_a_cancelled_identifier_stays_used(sandbox: RunningSandbox, stripe_client: StripeClient) -> None:
    """Unless the rules have it free; then it counts once, and as no double."""
    send(stripe_client, "5", identifier="e-1")
    cancel(stripe_client, "e-1")
    with pytest.raises(stripe.InvalidRequestError, match="already exists"):
        send(stripe_client, "7", identifier="e-1")
    sandbox.set_rules(cancelled_identifier_free=True)
    send(stripe_client, "7", identifier="e-1")
    assert (used(stripe_client), sandbox.stats()["double_counted"]) == (7.0, 0)
    cancel(stripe_client, "e-1")
    assert used(stripe_client) == 0.0


@pytest.mark.parametrize(("restores", "left"), [(False, 0.0), (True, 5.0)])
def test_a_cancelled_event_of_a_window_leaves_it_empty_or_as_before(
    sandbox: RunningSandbox, stripe_client: StripeClient, restores: object, left: float
) -> None:
    """Which of the two is a rule; the other windows stay, and a later event counts in either case."""
    sandbox.set_rules(cancel_restores_previous=restores)
    for value, identifier in (("5", "e-1"), ("7", "e-2")):
        send(stripe_client, value, identifier=identifier, event_name="stored_gb", timestamp=NOON)
    send(stripe_client, "1", identifier="e-3", event_name="stored_gb", timestamp=NOON - HOUR)
    cancel(stripe_client, "e-2", "stored_gb")
    assert used(stripe_client, NOON, NOON + HOUR, event_name="stored_gb") == left
    assert used(stripe_client, event_name="stored_gb") == left + 1
    assert reasons(sandbox) == [None if restores else "replaced", "cancelled", None]
    send(stripe_client, "3", event_name="stored_gb", timestamp=NOON)
    assert used(stripe_client, NOON, NOON + HOUR, event_name="stored_gb") == 3.0


@pytest.mark.parametrize("restores", [False, True])
def test_cancelling_a_replaced_event_changes_nothing(
    sandbox: RunningSandbox, stripe_client: StripeClient, restores: object
) -> None:
    """It did not count anyway."""
    sandbox.set_rules(cancel_restores_previous=restores)
    for value, identifier in (("5", "e-1"), ("7", "e-2")):
        send(stripe_client, value, identifier=identifier, event_name="stored_gb", timestamp=NOON)
    cancel(stripe_client, "e-1", "stored_gb")
    assert used(stripe_client, event_name="stored_gb") == 7.0


def test_a_last_meter_falls_back_to_the_event_before(
    sandbox: RunningSandbox, stripe_client: StripeClient
) -> None:
    """A cancelled event was never the last."""
    for value, identifier in (("5", "e-1"), ("7", "e-2")):
        send(stripe_client, value, identifier=identifier, event_name="seats")
    cancel(stripe_client, "e-2", "seats")
    assert used(stripe_client, event_name="seats") == 5.0


@pytest.mark.parametrize(
    "form",
    [
        {"type": "cancel", "cancel[identifier]": "e-1"},
        {"event_name": "api_requests", "cancel[identifier]": "e-1"},
        {"event_name": "api_requests", "type": "cancel"},
        {"event_name": "api_requests", "type": "void", "cancel[identifier]": "e-1"},
        {"event_name": "api_requests", "type": "cancel", "identifier": "e-1"},
        {"event_name": "api_requests", "type": "cancel", "cancel[identifier]": "e-1", "cancel[end]": "1"},
    ],
)
def test_what_cancels_nothing_is_refused(
    sandbox: RunningSandbox, stripe_client: StripeClient, form: dict[str, str]
) -> None:
    """Among it an identifier that does not stand within `cancel`."""
    send(stripe_client, identifier="e-1")
    assert call(sandbox.url, "POST", PATHS[0], form).status == 400
    assert sandbox.adjustments() == []


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"event_name": "api_requests", "type": "cancel"}, "invalid_cancel_configuration"),
        ({"event_name": "api_requests", "type": "cancel", "cancel": {}}, "invalid_cancel_configuration"),
        (
            {"event_name": "api_requests", "type": "x", "cancel": {"identifier": "e"}},
            "invalid_cancel_configuration",
        ),
        ({"type": "cancel", "cancel": {"identifier": "e"}}, "parameter_missing"),
        ({"event_name": "api_requests", "type": "cancel", "identifier": "e"}, "parameter_unknown"),
    ],
)
def test_version_2_has_a_code_for_it(sandbox: RunningSandbox, body: object, code: str) -> None:
    """The declared one where the configuration is at fault."""
    answer = post_json(sandbox.url, PATHS[1], body)
    assert (answer.status, answer.json["error"]["code"]) == (400, code)


def test_an_invalid_event_can_be_cancelled(sandbox: RunningSandbox, stripe_client: StripeClient) -> None:
    """It did not count, and does not."""
    send(stripe_client, "many", identifier="e-1")
    assert cancel(stripe_client, "e-1").status == "pending"
    assert reasons(sandbox) == ["meter_event_invalid_value"]


def test_an_inactive_meter_does_not_keep_from_cancelling(
    sandbox: RunningSandbox, stripe_client: StripeClient
) -> None:
    """It takes no events, but its events are there."""
    send(stripe_client, identifier="e-1")
    stripe_client.v1.billing.meters.deactivate(meter_id(stripe_client))
    cancel(stripe_client, "e-1")
    assert used(stripe_client) == 0.0


def test_faults_strike_cancellations_as_other_calls(
    sandbox: RunningSandbox, stripe_client: StripeClient
) -> None:
    """With `applies_to: all` the answer may be lost, and a retry under the same key repeats it."""
    send(stripe_client, "5", identifier="e-1")
    sandbox.set_faults(drop_after=1.0, applies_to="all", times=1)
    with pytest.raises(stripe.APIConnectionError):
        cancel(stripe_client, "e-1", key="k-1")
    assert used(stripe_client) == 0.0
    assert cancel(stripe_client, "e-1", key="k-1").status == "pending"
    assert sandbox.stats()["replayed"] == 1


def test_cancellations_outlive_the_process(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A restart loses none, and what was pending becomes complete."""
    state = tmp_path_factory.mktemp("sandbox") / "state.jsonl"
    options = SandboxOptions(meters=(MeterSpec("api_requests"),), state=state)
    with running(options) as sandbox:
        sandbox.set_time(NOON)
        sandbox.set_rules(adjustment_delay_seconds=HOUR)
        client = connect(sandbox.url)
        send(client, "5", identifier="e-1")
        send(client, "2", identifier="e-2")
        before = cancel_v2(client, "e-1").to_dict()
    with running(options) as sandbox:
        client = connect(sandbox.url)
        assert used(client) == 7.0
        assert cancel_v2(client, "e-1").to_dict() == before
        sandbox.set_time(NOON + 2 * HOUR)
        assert used(client) == 2.0
