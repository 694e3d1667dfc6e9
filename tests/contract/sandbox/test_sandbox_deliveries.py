"""Requests that arrive late, or twice, or are never answered: the sender cannot know, and the sandbox tells the truth."""

import pytest
import stripe
from stripe import StripeClient

from aggregator.sandbox import ControlClient, MeterSpec, RunningSandbox, SandboxOptions, running
from tests.contract.sandbox.sandbox_calls import (
    DAY,
    HOUR,
    MINUTE,
    NOON,
    call,
    connect,
    event_form,
    meter_id,
    post_event,
    reasons,
    send,
    used,
)


def send_unheard(client: StripeClient, value: str = "1", *, identifier: str | None = None) -> None:
    """Send an event whose answer does not come."""
    with pytest.raises(stripe.APIConnectionError):
        send(client, value, identifier=identifier)


def received(sandbox: ControlClient) -> list[tuple[str, int]]:
    """Return for each accepted event its identifier and how many minutes after noon it was received."""
    return [(event["identifier"], int(event["received_at"] - NOON) // MINUTE) for event in sandbox.events()]


# -- late -----------------------------------------------------------------------------------------


def test_a_late_request_takes_effect_when_its_time_has_come(
    sandbox: RunningSandbox, stripe_client: StripeClient
) -> None:
    """The sender sees a broken connection; a jump of the clock is as good as the wait."""
    sandbox.set_faults(deliver_late=1.0, late_delivery_seconds=HOUR, times=1)
    send_unheard(stripe_client, "5", identifier="e-1")
    sandbox.set_time(NOON + HOUR - MINUTE)
    assert (used(stripe_client), sandbox.stats()["on_their_way"]) == (0.0, 1)
    sandbox.set_time(NOON + HOUR + MINUTE)
    assert (used(stripe_client), sandbox.stats()["on_their_way"]) == (5.0, 0)
    assert sandbox.stats()["delivered_late"] == 1


def test_late_requests_take_effect_each_at_its_own_moment(
    sandbox: RunningSandbox, stripe_client: StripeClient
) -> None:
    """However far the clock jumps, receipt is dated as if it had gone there step by step, in order."""
    for hours in (3, 1, 2):
        sandbox.set_faults(deliver_late=1.0, late_delivery_seconds=hours * HOUR)
        send_unheard(stripe_client, identifier=f"after-{hours}")
    sandbox.set_faults()
    sandbox.set_time(NOON + DAY)
    send(stripe_client, identifier="today")
    assert received(sandbox) == [("after-1", 60), ("after-2", 120), ("after-3", 180), ("today", 1440)]


def test_the_delay_of_a_late_request_lies_within_its_range(
    sandbox: RunningSandbox, stripe_client: StripeClient
) -> None:
    """None before the least, all by the most, some in between."""
    sandbox.set_faults(deliver_late=1.0, late_delivery_seconds=[HOUR, 3 * HOUR])
    for number in range(20):
        send_unheard(stripe_client, identifier=f"e-{number}")
    sandbox.set_time(NOON + HOUR - MINUTE)
    assert sandbox.events() == []
    sandbox.set_time(NOON + 2 * HOUR)
    assert 0 < len(sandbox.events()) < 20
    sandbox.set_time(NOON + 3 * HOUR + MINUTE)
    assert len(sandbox.events()) == 20


def test_a_late_request_whose_resend_came_first_is_a_duplicate(
    sandbox: RunningSandbox, stripe_client: StripeClient
) -> None:
    """While the identifier is remembered it counts once; afterwards the late one counts again (B4)."""
    sandbox.set_faults(deliver_late=1.0, late_delivery_seconds=HOUR, times=1)
    send_unheard(stripe_client, "5", identifier="e-1")
    send(stripe_client, "5", identifier="e-1")
    sandbox.set_time(NOON + HOUR + MINUTE)
    assert (used(stripe_client), sandbox.stats()["duplicates_refused"]) == (5.0, 1)
    sandbox.set_faults(deliver_late=1.0, late_delivery_seconds=25 * HOUR, times=1)
    send_unheard(stripe_client, "7", identifier="e-2")
    send(stripe_client, "7", identifier="e-2")
    sandbox.set_time(NOON + 27 * HOUR)
    assert (sandbox.totals("api_requests"), sandbox.stats()["double_counted"]) == ({"cus_a": 19}, 1)


def test_a_resend_after_the_late_request_is_the_duplicate(
    sandbox: RunningSandbox, stripe_client: StripeClient
) -> None:
    """The late request is there before whoever calls next, be it with the same event."""
    sandbox.set_faults(deliver_late=1.0, late_delivery_seconds=HOUR, times=1)
    send_unheard(stripe_client, "5", identifier="e-1")
    sandbox.set_time(NOON + 2 * HOUR)
    with pytest.raises(stripe.InvalidRequestError, match="already exists"):
        send(stripe_client, "5", identifier="e-1")
    assert received(sandbox) == [("e-1", 60)]


def test_a_late_request_is_judged_when_it_arrives(
    sandbox: RunningSandbox, stripe_client: StripeClient
) -> None:
    """A meter deactivated, or a timestamp grown too old in between: it is refused, and nobody hears of it."""
    sandbox.set_faults(deliver_late=1.0, late_delivery_seconds=HOUR)
    with pytest.raises(stripe.APIConnectionError):
        send(stripe_client, timestamp=NOON - 35 * DAY + MINUTE)
    with pytest.raises(stripe.APIConnectionError):
        send(stripe_client, event_name="logins")
    sandbox.set_faults()
    stripe_client.v1.billing.meters.deactivate(meter_id(stripe_client, "logins"))
    sandbox.set_time(NOON + 2 * HOUR)
    assert sandbox.events() == []
    assert sandbox.stats()["refused"] == {"timestamp_too_old": 1, "no_active_meter": 1}


def test_a_late_request_keeps_its_idempotency_key(sandbox: RunningSandbox) -> None:
    """If the answer to the resend was kept under the same key, the late one does nothing more."""
    sandbox.set_faults(deliver_late=1.0, late_delivery_seconds=HOUR, times=1)
    with pytest.raises(ConnectionError):
        post_event(sandbox.url, event_form("5"), key="k-1")
    post_event(sandbox.url, event_form("5"), key="k-1")
    sandbox.set_time(NOON + 2 * HOUR)
    assert sandbox.totals("api_requests") == {"cus_a": 5}
    assert sandbox.stats()["replayed"] == 1


def test_a_late_event_may_be_found_invalid_too(sandbox: RunningSandbox, stripe_client: StripeClient) -> None:
    """The time until then runs from its arrival."""
    sandbox.set_faults(
        deliver_late=1.0, late_delivery_seconds=HOUR, reject_later=1.0, reject_after_seconds=HOUR
    )
    send_unheard(stripe_client, "5", identifier="e-1")
    sandbox.set_time(NOON + 2 * HOUR - MINUTE)
    assert reasons(sandbox) == [None]
    sandbox.set_time(NOON + 2 * HOUR + MINUTE)
    assert reasons(sandbox) == ["meter_event_customer_not_found"]


def test_any_call_may_arrive_late(sandbox: RunningSandbox, stripe_client: StripeClient) -> None:
    """With `applies_to: all` a customer comes to be later."""
    sandbox.set_faults(deliver_late=1.0, late_delivery_seconds=HOUR, applies_to="all")
    with pytest.raises(stripe.APIConnectionError):
        stripe_client.v1.customers.create({"name": "Ada"})
    sandbox.set_faults()
    assert stripe_client.v1.customers.list().data == []
    sandbox.set_time(NOON + HOUR + MINUTE)
    assert [customer.name for customer in stripe_client.v1.customers.list().data] == ["Ada"]


def test_a_reset_forgets_what_is_on_its_way(sandbox: RunningSandbox, stripe_client: StripeClient) -> None:
    """It belongs to a state that is no more."""
    sandbox.set_faults(deliver_late=1.0, late_delivery_seconds=HOUR)
    send_unheard(stripe_client)
    sandbox.reset()
    sandbox.set_clock(10 * DAY)
    assert (sandbox.events(), sandbox.stats()["delivered_late"]) == ([], 0)


# -- twice ----------------------------------------------------------------------------------------


def test_a_doubled_request_is_a_duplicate_while_the_identifier_is_remembered(
    sandbox: RunningSandbox, stripe_client: StripeClient
) -> None:
    """It is answered as ever; the second arrival is refused."""
    sandbox.set_faults(deliver_twice=1.0, late_delivery_seconds=HOUR)
    assert send(stripe_client, "5", identifier="e-1").identifier == "e-1"
    sandbox.set_time(NOON + HOUR + MINUTE)
    assert (used(stripe_client), sandbox.stats()["duplicates_refused"]) == (5.0, 1)
    assert sandbox.stats()["delivered_late"] == 1


def test_a_doubled_request_counts_twice_when_the_identifier_is_forgotten(
    sandbox: RunningSandbox, stripe_client: StripeClient
) -> None:
    """Its `Idempotency-Key`, though still known, does not keep it from it: the worst case."""
    sandbox.set_rules(identifier_memory_seconds=HOUR)
    sandbox.set_faults(deliver_twice=1.0, late_delivery_seconds=2 * HOUR)
    send(stripe_client, "5", identifier="e-1", key="k-1")
    sandbox.set_time(NOON + 3 * HOUR)
    assert (used(stripe_client), sandbox.stats()["double_counted"]) == (10.0, 1)


def test_a_request_refused_at_first_may_be_taken_when_it_arrives_again(
    sandbox: RunningSandbox, stripe_client: StripeClient
) -> None:
    """Six minutes ahead is too far, and an hour later it is not."""
    sandbox.set_faults(deliver_twice=1.0, late_delivery_seconds=HOUR)
    with pytest.raises(stripe.InvalidRequestError, match="5 minutes ahead"):
        send(stripe_client, "5", identifier="e-1", timestamp=NOON + 10 * MINUTE)
    sandbox.set_time(NOON + HOUR + MINUTE)
    assert received(sandbox) == [("e-1", 60)]


# -- never answered -------------------------------------------------------------------------------


@pytest.mark.parametrize(("processes", "counted"), [(False, 0.0), (True, 5.0)])
def test_a_black_hole_answers_nothing(
    sandbox: RunningSandbox, stripe_client: StripeClient, processes: object, counted: float
) -> None:
    """Neither events nor summaries; whether the event was taken shows when it ends."""
    meter_id(stripe_client)
    sandbox.set_faults(black_hole=True, black_hole_processes=processes)
    send_unheard(stripe_client, "5", identifier="e-1")
    with pytest.raises(stripe.APIConnectionError):
        used(stripe_client)
    assert sandbox.stats()["dropped"] == 2
    sandbox.set_faults()
    assert used(stripe_client) == counted


@pytest.mark.parametrize("processes", [False, True])
def test_a_black_hole_does_not_even_refuse(sandbox: RunningSandbox, processes: object) -> None:
    """A duplicate, a bad parameter, a path that is none: all are dropped, for every customer and without a limit."""
    post_event(sandbox.url, event_form(identifier="e-1"))
    sandbox.set_faults(
        black_hole=True, black_hole_processes=processes, only_customers=["cus_z"], times=0, error_before=1.0
    )
    for form in (event_form(identifier="e-1"), event_form(colour="red"), event_form(event_name="nothing")):
        with pytest.raises(ConnectionError):
            post_event(sandbox.url, form)
    with pytest.raises(ConnectionError):
        call(sandbox.url, "GET", "/v1/nothing")
    assert len(sandbox.events()) == 1


def test_control_calls_are_answered_in_a_black_hole(sandbox: RunningSandbox) -> None:
    """Whoever made it can end it."""
    sandbox.set_faults(black_hole=True)
    assert call(sandbox.url, "GET", "/_sandbox/stats").status == 200


def test_a_request_put_off_before_a_black_hole_still_arrives(
    sandbox: RunningSandbox, stripe_client: StripeClient
) -> None:
    """What the hole drops is answers and new requests."""
    sandbox.set_faults(deliver_late=1.0, late_delivery_seconds=HOUR)
    send_unheard(stripe_client, "5")
    sandbox.set_faults(black_hole=True)
    sandbox.set_time(NOON + 2 * HOUR)
    assert sandbox.totals("api_requests") == {"cus_a": 5}


# -- in a file ------------------------------------------------------------------------------------


def test_late_events_and_findings_outlive_the_process(tmp_path_factory: pytest.TempPathFactory) -> None:
    """After a restart the same is counted, the same is rejected, and the reports are the same."""
    state = tmp_path_factory.mktemp("sandbox") / "state.jsonl"
    options = SandboxOptions(meters=(MeterSpec("api_requests"),), state=state)
    with running(options) as sandbox:
        sandbox.set_time(NOON)
        client = connect(sandbox.url)
        sandbox.set_faults(deliver_late=1.0, late_delivery_seconds=HOUR, times=1)
        send_unheard(client, "5", identifier="late")
        sandbox.set_faults(reject_later=1.0, reject_after_seconds=2 * HOUR, times=1)
        send(client, "7", identifier="rejected")
        send(client, "many", identifier="unreadable")
        sandbox.set_time(NOON + 90 * MINUTE)
        before = sandbox.events(), sandbox.totals("api_requests"), sandbox.reports()
        assert (before[1], len(before[2])) == ({"cus_a": 12}, 1)
    with running(options) as sandbox:
        assert (sandbox.events(), sandbox.totals("api_requests"), sandbox.reports()) == before
        sandbox.set_time(NOON + 3 * HOUR)
        assert sandbox.totals("api_requests") == {"cus_a": 5}
        assert len(sandbox.reports(after=before[2][0]["id"])) == 1
