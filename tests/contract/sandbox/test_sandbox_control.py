"""The control calls: the truth that proofs read, and the levers that tests pull."""

import pytest
from stripe import StripeClient

from aggregator.sandbox import RunningSandbox
from tests.contract.sandbox.sandbox_calls import NOON, call, event_form, post_event, send, used


def test_totals_are_exact_strings_per_customer(stripe_client: StripeClient, sandbox: RunningSandbox) -> None:
    """No float comes near them, and they tell how many events there are and how many count."""
    for customer, value in (
        ("cus_a", "999999999999999"),
        ("cus_a", "0.000001"),
        ("cus_b", "-2.50"),
        ("x", "1"),
    ):
        send(stripe_client, value, customer=customer)
    assert sandbox.control("GET", "totals", event_name="api_requests") == {
        "event_name": "api_requests",
        "livemode": False,
        "events": 4,
        "counted": 3,
        "totals": {"cus_a": "999999999999999.000001", "cus_b": "-2.5"},
    }


def test_totals_are_read_per_mode(live_client: StripeClient, sandbox: RunningSandbox) -> None:
    """Live mode is asked for by name."""
    send(live_client, "4")
    assert sandbox.totals("api_requests") == {}
    assert sandbox.totals("api_requests", livemode=True) == {"cus_a": 4}


def test_totals_of_a_windowed_meter_leave_out_what_was_replaced(
    stripe_client: StripeClient, sandbox: RunningSandbox
) -> None:
    """The exact total is what the summaries show."""
    send(stripe_client, "5", event_name="stored_gb", timestamp=NOON)
    send(stripe_client, "7", event_name="stored_gb", timestamp=NOON)
    assert sandbox.totals("stored_gb") == {"cus_a": 7}
    assert used(stripe_client, event_name="stored_gb") == 7.0


def test_the_log_tells_each_event_and_whether_it_counts(
    stripe_client: StripeClient, sandbox: RunningSandbox
) -> None:
    """In the order of receipt, numbered from 1."""
    send(stripe_client, "5.50", identifier="e-1", timestamp=NOON)
    send(stripe_client, "many", identifier="e-2", timestamp=NOON)
    first, second = sandbox.events()
    assert 0 <= first.pop("received_at") - NOON < 60
    assert first == {
        "sequence": 1,
        "identifier": "e-1",
        "event_name": "api_requests",
        "customer": "cus_a",
        "value": "5.5",
        "timestamp": NOON,
        "counted": True,
        "reason": None,
    }
    assert (second["counted"], second["reason"], second["value"]) == (
        False,
        "meter_event_invalid_value",
        None,
    )


def test_the_log_is_filtered_and_sliced(stripe_client: StripeClient, sandbox: RunningSandbox) -> None:
    """By customer, event name or identifier, with limit and offset."""
    for number in range(5):
        send(stripe_client, customer="cus_a", identifier=f"a-{number}")
        send(stripe_client, customer="cus_b", identifier=f"b-{number}", event_name="logins")
    assert [event["identifier"] for event in sandbox.events(customer="cus_a", limit=2, offset=1)] == [
        "a-1",
        "a-2",
    ]
    assert [event["sequence"] for event in sandbox.events(event_name="logins", limit=2)] == [2, 4]
    assert len(sandbox.events(identifier="b-3")) == 1
    assert sandbox.control("GET", "events", limit=1)["matching"] == 10


def test_stats_tell_what_was_asked_and_what_became_of_it(sandbox: RunningSandbox) -> None:
    """Control calls are not among the requests; refusals are counted by reason."""
    post_event(sandbox.url, event_form(identifier="e-1"))
    post_event(sandbox.url, event_form(identifier="e-1"))
    post_event(sandbox.url, event_form(colour="red"))
    assert sandbox.stats() == {
        "requests": 3,
        "in_flight": 0,
        "accepted": 1,
        "duplicates_refused": 1,
        "refused": {"unknown_parameter": 1},
        "dropped": 0,
        "replayed": 0,
        "delivered_late": 0,
        "answered_429": 0,
        "answered_500": 0,
        "double_counted": 0,
        "faults_struck": 0,
        "on_their_way": 0,
    }


def test_reset_forgets_everything_but_the_meters_of_the_start(
    stripe_client: StripeClient, sandbox: RunningSandbox
) -> None:
    """Events, identifiers, rules, faults, keys, clock and counters are as at first."""
    send(stripe_client, identifier="e-1")
    sandbox.set_rules(strict_customers=True)
    sandbox.set_faults(error_before=1.0)
    sandbox.set_keys(revoked=["sk_test_sandbox"])
    sandbox.reset()
    assert sandbox.stats()["accepted"] == 0
    assert sandbox.control("GET", "clock")["offset_seconds"] == 0.0
    assert send(stripe_client, identifier="e-1").identifier == "e-1"


def test_the_clock_goes_on_from_its_offset(sandbox: RunningSandbox) -> None:
    """Setting the offset again replaces it."""
    before = sandbox.set_clock(0)["now"]
    after = sandbox.set_clock(90_000)["now"]
    assert 90_000 <= after - before < 90_060


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "clock", {}),
        ("POST", "clock", {"offset_seconds": "far"}),
        ("POST", "clock", [1]),
        ("PUT", "rules", {"strict": True}),
        ("PUT", "rules", {"strict_customers": "yes"}),
        ("PUT", "rules", {"processing_delay_seconds": -1}),
        ("PUT", "rules", {"processing_delay_seconds": [2, 1]}),
        ("PUT", "rules", {"processing_delay_seconds": [1]}),
        ("PUT", "rules", {"rejected_identifier_used": 1}),
        ("PUT", "rules", {"report_samples": 1.5}),
        ("PUT", "rules", {"report_window_seconds": -1}),
        ("PUT", "keys", {"revoked": "sk_test_a"}),
        ("GET", "totals", None),
        ("GET", "totals?event_name=nothing", None),
        ("GET", "events?limit=all", None),
        ("GET", "events?livemode=maybe", None),
    ],
)
def test_a_control_call_that_cannot_be_used_is_a_400(
    sandbox: RunningSandbox, method: str, path: str, body: object
) -> None:
    """It says why, in JSON."""
    with pytest.raises(ValueError, match=r"control call cannot be used|Missing required param"):
        sandbox.control(method, path if "?" not in path else path + "&", body)


def test_rules_can_be_read_back(sandbox: RunningSandbox) -> None:
    """The answer of GET can be sent with PUT, ranges too."""
    sandbox.set_rules(processing_delay_seconds=[60, 120], report_samples=2, rejected_identifier_used=False)
    shown = sandbox.control("GET", "rules")
    assert (shown["processing_delay_seconds"], shown["report_samples"]) == ([60, 120], 2)
    assert sandbox.set_rules(**shown) == shown


def test_a_control_body_that_is_not_json_is_a_400(sandbox: RunningSandbox) -> None:
    """A form where JSON belongs is refused."""
    assert call(sandbox.url, "PUT", "/_sandbox/faults", {"late": "1"}).status == 400
