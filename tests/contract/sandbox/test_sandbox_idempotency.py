"""`Idempotency-Key`: an answer is given again, not made again."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import stripe
from stripe import StripeClient

from aggregator.sandbox import RunningSandbox, SandboxOptions, running
from aggregator.sandbox.idempotency import Idempotency
from aggregator.sandbox.settings import MeterSpec
from aggregator.sandbox.wire import Reply
from tests.contract.sandbox.sandbox_calls import DAY, NOON, call, event_form, post_event, send, used


def test_the_same_request_under_one_key_is_answered_again(
    sandbox: RunningSandbox, stripe_client: StripeClient
) -> None:
    """Body and status are those of the first time, a header says so, and nothing is counted twice."""
    first, second = (post_event(sandbox.url, event_form("5"), key="k-1") for _ in range(2))
    assert (second.status, second.json) == (first.status, first.json)
    assert first.headers["idempotent-replayed"] is None
    assert second.headers["idempotent-replayed"] == "true"
    assert used(stripe_client) == 5.0
    assert sandbox.stats()["replayed"] == 1


def test_other_parameters_under_one_key_are_refused(stripe_client: StripeClient) -> None:
    """The library sees its idempotency error."""
    send(stripe_client, "5", key="k-1")
    with pytest.raises(stripe.IdempotencyError) as refusal:
        send(stripe_client, "6", key="k-1")
    assert refusal.value.http_status == 400
    assert "Try using a key other than 'k-1'" in str(refusal.value)


def test_a_key_is_kept_for_24_hours(stripe_client: StripeClient, sandbox: RunningSandbox) -> None:
    """Just before, the answer is given again; after, the request is done again."""
    post_event(sandbox.url, event_form("5", timestamp=str(NOON)), key="k-1")
    sandbox.set_time(NOON + DAY - 60)
    post_event(sandbox.url, event_form("5", timestamp=str(NOON)), key="k-1")
    assert used(stripe_client) == 5.0
    sandbox.set_time(NOON + DAY + 60)
    post_event(sandbox.url, event_form("5", timestamp=str(NOON)), key="k-1")
    assert used(stripe_client) == 10.0


def test_a_500_after_processing_is_answered_again(
    sandbox: RunningSandbox, stripe_client: StripeClient
) -> None:
    """The event counts once; its key only ever tells of the error."""
    sandbox.set_faults(error_after=1.0)
    assert post_event(sandbox.url, event_form("5"), key="k-1").status == 500
    sandbox.set_faults()
    again = post_event(sandbox.url, event_form("5"), key="k-1")
    assert (again.status, again.headers["idempotent-replayed"]) == (500, "true")
    assert used(stripe_client) == 5.0


def test_refusals_are_not_kept(sandbox: RunningSandbox) -> None:
    """After a bad parameter, a 429 or a 500 before processing the key is free for any request."""
    assert post_event(sandbox.url, event_form("5", colour="red"), key="k-1").status == 400
    sandbox.set_faults(too_many_requests=1.0)
    assert post_event(sandbox.url, event_form("5"), key="k-1").status == 429
    sandbox.set_faults(error_before=1.0)
    assert post_event(sandbox.url, event_form("6"), key="k-1").status == 500
    sandbox.set_faults()
    assert post_event(sandbox.url, event_form("7"), key="k-1").status == 200


def test_a_lost_answer_is_found_under_its_key(sandbox: RunningSandbox, stripe_client: StripeClient) -> None:
    """The retry of a call whose connection was cut after processing gets the answer that was lost."""
    sandbox.set_faults(drop_after=1.0, times=1)
    with pytest.raises(stripe.APIConnectionError):
        send(stripe_client, "5", identifier="e-1", key="k-1")
    assert send(stripe_client, "5", identifier="e-1", key="k-1").identifier == "e-1"
    assert used(stripe_client) == 5.0


def test_keys_of_both_modes_are_apart(stripe_client: StripeClient, live_client: StripeClient) -> None:
    """The same key means two requests."""
    send(stripe_client, "5", key="k-1")
    send(live_client, "6", key="k-1")
    assert used(live_client) == 6.0


def test_a_key_in_use_is_refused(sandbox: RunningSandbox) -> None:
    """While the first request under a key is in flight a second one gets a 409."""
    sandbox.set_faults(latency_seconds=1.5, applies_to="all")
    form = {"name": "Ada"}
    headers = {"Idempotency-Key": "k-1"}
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(call, sandbox.url, "POST", "/v1/customers", form, headers)
        while sandbox.stats()["in_flight"] == 0:
            assert not first.done()
        second = call(sandbox.url, "POST", "/v1/customers", form, headers)
        assert (second.status, second.json["error"]["code"]) == (409, "idempotency_key_in_use")
        assert first.result().status == 200


def test_a_key_of_more_than_255_characters_is_refused(sandbox: RunningSandbox) -> None:
    """255 are allowed."""
    assert post_event(sandbox.url, event_form(), key="k" * 255).status == 200
    assert post_event(sandbox.url, event_form(), key="k" * 256).status == 400


def test_what_is_kept_is_bounded() -> None:
    """Beyond the limit the oldest answer goes, and so does what is older than a day."""
    kept = Idempotency(limit=2, note=lambda kind, record: None)
    for number in range(3):
        kept.save(f"k-{number}", "f", Reply(200, b"{}"), now=NOON + number)
    assert kept.find("k-0", "f", NOON + 3) is None
    assert kept.find("k-1", "f", NOON + 3) is not None
    kept.save("k-9", "f", Reply(200, b"{}"), now=NOON + 2 * DAY)
    assert len(kept._saved) == 1


def test_the_limit_is_an_option() -> None:
    """A sandbox told to keep one answer forgets the one before."""
    options = SandboxOptions(meters=(MeterSpec("api_requests"),), idempotency_limit=1)
    with running(options) as small:
        for key in ("k-1", "k-2", "k-1"):
            assert post_event(small.url, event_form("5"), key=key).status == 200
        assert small.totals("api_requests") == {"cus_a": 15}
