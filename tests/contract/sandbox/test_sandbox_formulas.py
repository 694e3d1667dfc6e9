"""What counts under which formula where Stripe leaves it open: by which order, and in which window."""

import pytest
import stripe
from stripe import StripeClient

from aggregator.sandbox import MeterSpec, RunningSandbox, SandboxOptions, running
from tests.contract.sandbox.sandbox_calls import (
    DAY,
    HOUR,
    NOON,
    connect,
    event_v2,
    reasons,
    send,
    send_v2,
    stream,
    streamer,
    summaries,
    used,
)


@pytest.mark.parametrize(("last_by", "last"), [("timestamp", 7.0), ("receipt", 5.0)])
def test_the_last_is_by_timestamp_or_by_receipt(
    sandbox: RunningSandbox, stripe_client: StripeClient, last_by: str, last: float
) -> None:
    """An event that was received last and happened first."""
    sandbox.set_rules(last_by=last_by)
    send(stripe_client, "7", event_name="seats", timestamp=NOON)
    send(stripe_client, "5", event_name="seats", timestamp=NOON - HOUR)
    assert used(stripe_client, event_name="seats") == last
    assert sandbox.totals("seats") == {"cus_a": last}


@pytest.mark.parametrize("last_by", ["timestamp", "receipt"])
def test_of_equal_timestamps_the_one_received_last_is_the_last(
    sandbox: RunningSandbox, stripe_client: StripeClient, last_by: str
) -> None:
    """By either rule."""
    sandbox.set_rules(last_by=last_by)
    for value in ("7", "5"):
        send(stripe_client, value, event_name="seats", timestamp=NOON)
    assert used(stripe_client, event_name="seats") == 5.0


def test_a_rule_for_last_that_is_none_is_refused(sandbox: RunningSandbox) -> None:
    """The message says which there are."""
    with pytest.raises(ValueError, match="last_by must be one of timestamp, receipt"):
        sandbox.set_rules(last_by="value")


@pytest.mark.parametrize(("event_name", "length"), [("stored_gb", HOUR), ("peak_gb", DAY)])
def test_the_event_received_last_has_the_window(
    sandbox: RunningSandbox, stripe_client: StripeClient, event_name: str, length: int
) -> None:
    """Whatever its timestamp within, whichever endpoint it came through, whatever else is in its payload."""
    start = NOON // length * length
    send(stripe_client, "9", event_name=event_name, timestamp=start + 60)
    send_v2(stripe_client, "8", event_name=event_name, timestamp=start + 50, region="eu")
    stream(
        streamer(stripe_client, sandbox.url),
        event_v2("7", event_name=event_name, timestamp=start + 40, region="us"),
        event_v2("6", event_name=event_name, timestamp=start + 10, region="eu"),
        event_v2("1", event_name=event_name, timestamp=start - 1),
        event_v2("2", event_name=event_name, timestamp=start, customer="cus_b"),
    )
    assert used(stripe_client, start, start + DAY, event_name=event_name) == 6.0
    assert sandbox.totals(event_name) == {"cus_a": 7, "cus_b": 2}
    assert reasons(sandbox) == ["replaced"] * 3 + [None] * 3


def test_other_payload_may_have_a_window_of_its_own(
    sandbox: RunningSandbox, stripe_client: StripeClient
) -> None:
    """By a rule; then the events of each region replace one another only."""
    sandbox.set_rules(window_per_payload=True)
    for value, region in (("9", "eu"), ("8", "us"), ("7", "eu")):
        send_v2(stripe_client, value, event_name="stored_gb", timestamp=NOON, region=region)
    send(stripe_client, "1", event_name="stored_gb", timestamp=NOON)
    assert used(stripe_client, event_name="stored_gb") == 16.0
    assert reasons(sandbox) == ["replaced", None, None, None]
    assert [event.get("extra") for event in sandbox.events()] == [
        {"region": "eu"},
        {"region": "us"},
        {"region": "eu"},
        None,
    ]
    sandbox.set_rules()
    assert used(stripe_client, event_name="stored_gb") == 1.0


def test_a_count_looks_at_no_value(sandbox: RunningSandbox, stripe_client: StripeClient) -> None:
    """Through any endpoint, with a value, with none, or with one that is no number."""
    for value in ("5", "many"):
        send(stripe_client, value, event_name="logins")
        send_v2(stripe_client, value, event_name="logins")
    payload = {"stripe_customer_id": "cus_a"}
    stream(streamer(stripe_client, sandbox.url), {"event_name": "logins", "payload": payload})
    assert used(stripe_client, event_name="logins") == 5.0


@pytest.mark.parametrize(("formula", "total"), [("count", 2), ("last", 3), ("sum", 8)])
def test_a_window_holds_one_event_under_every_formula(formula: str, total: int) -> None:
    """A count of windows, the last window, the sum of windows."""
    spec = MeterSpec("pages", formula, "hour")  # type: ignore[arg-type]  # one of FORMULAS
    with running(SandboxOptions(meters=(spec,))) as sandbox:
        sandbox.set_time(NOON)
        client = connect(sandbox.url)
        for value, at in (("9", NOON - HOUR), ("5", NOON - HOUR), ("7", NOON), ("3", NOON)):
            send(client, value, event_name="pages", timestamp=at)
        assert sandbox.totals("pages") == {"cus_a": total}


def test_fractions_of_a_second_fall_into_their_bucket(
    sandbox: RunningSandbox, stripe_client: StripeClient
) -> None:
    """The last millisecond of an hour is of that hour, and bounds stay whole seconds."""
    for instant in ("11:59:59.999Z", "12:00:00.000Z"):
        stripe_client.v2.billing.meter_events.create(
            {
                "event_name": "api_requests",
                "payload": {"stripe_customer_id": "cus_a", "value": "1"},
                "timestamp": f"2026-01-15T{instant}",
            }
        )
    rows = summaries(stripe_client, NOON - HOUR, NOON + HOUR, grouping="hour")
    assert [(row.start_time, row.aggregated_value) for row in rows] == [(NOON, 1.0), (NOON - HOUR, 1.0)]
    assert {type(bound) for row in rows for bound in (row.start_time, row.end_time)} == {int}


def test_what_else_is_in_a_payload_outlives_the_process(tmp_path_factory: pytest.TempPathFactory) -> None:
    """So that windows are the same after a restart."""
    state = tmp_path_factory.mktemp("sandbox") / "state.jsonl"
    options = SandboxOptions(meters=(MeterSpec("stored_gb", "sum", "hour"),), state=state)
    with running(options) as sandbox:
        sandbox.set_time(NOON)
        for region in ("eu", "us"):
            send_v2(connect(sandbox.url), "5", event_name="stored_gb", timestamp=NOON, region=region)
        before = sandbox.events()
    with running(options) as sandbox:
        assert sandbox.events() == before
        sandbox.set_rules(window_per_payload=True)
        assert sandbox.totals("stored_gb") == {"cus_a": 10}
        with pytest.raises(stripe.InvalidRequestError, match="already exists"):
            send(connect(sandbox.url), event_name="stored_gb", identifier=before[0]["identifier"])
