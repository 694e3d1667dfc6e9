"""Webhooks: signed notifications, tried again, twice, out of order, to loopback alone."""

import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest
import stripe
from stripe import StripeClient
from stripe.events import V1BillingMeterErrorReportTriggeredEventNotification

from aggregator.sandbox import MeterSpec, RunningSandbox, SandboxOptions, running
from tests.contract.sandbox.receiver import Received, Receiver, receiving
from tests.contract.sandbox.sandbox_calls import LIVE_KEY, NOON, connect, connected, send

SECRET = "whsec_test"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A receiver that answers 200."""
    with receiving() as server:
        yield server


def wrong_event(sandbox: RunningSandbox, client: StripeClient, identifier: str) -> None:
    """Send an event that is reported at once."""
    sandbox.set_rules(report_window_seconds=0)
    send(client, "many", identifier=identifier)


def told(client: StripeClient, received: Received) -> Any:
    """Return the notification that the library makes of a delivery, its signature checked."""
    return client.parse_event_notification(received.body, received.signature, SECRET)


def types(receiver: Receiver, count: int) -> list[str]:
    """Return the types of the next deliveries."""
    return [json.loads(receiver.next().body)["type"] for _ in range(count)]


def settled(sandbox: RunningSandbox, count: int, **query: Any) -> list[dict[str, Any]]:
    """Return what became of so many tries, as soon as there are so many."""
    for _ in range(100_000):
        deliveries = sandbox.webhook_deliveries(**query)
        if len(deliveries) >= count:
            return deliveries
    raise AssertionError("The deliveries did not come to an end.")


def test_a_report_is_delivered_signed(
    sandbox: RunningSandbox, stripe_client: StripeClient, receiver: Receiver
) -> None:
    """The library checks the signature, knows the type, and fetches the event, which the delivery does not hold."""
    sandbox.add_webhook(receiver.url, SECRET)
    wrong_event(sandbox, stripe_client, "e-1")
    received = receiver.next()
    notification = told(stripe_client, received)
    assert isinstance(notification, V1BillingMeterErrorReportTriggeredEventNotification)
    (kind,) = notification.fetch_event().data.reason.error_types
    assert kind.sample_errors[0].request.identifier == "e-1"
    assert json.loads(received.body).keys() == {
        "id",
        "object",
        "type",
        "created",
        "livemode",
        "context",
        "reason",
        "related_object",
    }
    assert received.content_type.startswith("application/json")


@pytest.mark.parametrize("change", ["body", "secret", "time"])
def test_a_signature_is_of_this_body_this_secret_and_this_time(
    sandbox: RunningSandbox, stripe_client: StripeClient, receiver: Receiver, change: str
) -> None:
    """Anything else and the library refuses it."""
    sandbox.add_webhook(receiver.url, SECRET)
    sandbox.notify("v9.weather.changed")
    body, signature, _ = receiver.next()
    if change == "body":
        body = body.replace(b"weather", b"climate")
    if change == "time":
        signature = signature.replace("t=1", "t=2")
    with pytest.raises(stripe.SignatureVerificationError):
        stripe_client.parse_event_notification(body, signature, "whsec_x" if change == "secret" else SECRET)


def test_a_delivery_that_fails_is_tried_again(sandbox: RunningSandbox, receiver: Receiver) -> None:
    """The same body each time, until it is taken; then no more."""
    receiver.statuses.extend([500, 302])
    sandbox.add_webhook(receiver.url, SECRET, retry_seconds=0.01)
    made = sandbox.notify("v9.weather.changed")
    assert len({receiver.next().body for _ in range(3)}) == 1
    deliveries = settled(sandbox, 3)
    assert [(each["event"], each["attempt"], each["status"]) for each in deliveries] == [
        (made["id"], 1, 500),
        (made["id"], 2, 302),
        (made["id"], 3, 200),
    ]
    sandbox.notify("v9.weather.improved")
    assert types(receiver, 1) == ["v9.weather.improved"]


def test_tries_have_an_end(sandbox: RunningSandbox, receiver: Receiver) -> None:
    """After so many the next notification has its turn."""
    receiver.statuses.extend([500, 500])
    sandbox.add_webhook(receiver.url, SECRET, attempts=2, retry_seconds=0.01)
    sandbox.notify("v9.lost")
    settled(sandbox, 2)
    sandbox.notify("v9.found")
    assert types(receiver, 3) == ["v9.lost", "v9.lost", "v9.found"]


def test_a_receiver_that_is_gone_is_tried_again(sandbox: RunningSandbox) -> None:
    """A refused connection has no status."""
    with receiving() as gone:
        url = gone.url
    sandbox.add_webhook(url, SECRET, attempts=2, retry_seconds=0.01)
    sandbox.notify("v9.weather.changed")
    assert [each["status"] for each in settled(sandbox, 2)] == [None, None]


def test_a_notification_may_come_twice(sandbox: RunningSandbox, receiver: Receiver) -> None:
    """The same id, the same body."""
    sandbox.add_webhook(receiver.url, SECRET, twice=True)
    sandbox.notify("v9.weather.changed")
    assert receiver.next().body == receiver.next().body


def test_notifications_may_come_out_of_order(sandbox: RunningSandbox, receiver: Receiver) -> None:
    """Every other one is overtaken by the next."""
    sandbox.add_webhook(receiver.url, SECRET, out_of_order=True, hold_seconds=2)
    for number in range(4):
        sandbox.notify(f"v9.{number}")
    assert types(receiver, 4) == ["v9.1", "v9.3", "v9.0", "v9.2"]


def test_a_webhook_hears_of_nothing_before_it_was_registered(
    sandbox: RunningSandbox, receiver: Receiver
) -> None:
    """Only of what comes later, of its own mode and account."""
    sandbox.notify("v9.before")
    sandbox.set_time(NOON + 60)
    sandbox.add_webhook(receiver.url, SECRET)
    sandbox.notify("v9.live", livemode=True)
    sandbox.notify("v9.other", account="acct_other")
    sandbox.notify("v9.after")
    assert types(receiver, 1) == ["v9.after"]
    settled(sandbox, 1)
    assert receiver.is_empty()


def test_a_webhook_may_hear_of_connected_accounts(
    sandbox: RunningSandbox, stripe_client: StripeClient, receiver: Receiver
) -> None:
    """Each notification says whose it is, and the library fetches the event there."""
    sandbox.add_webhook(receiver.url, SECRET, connect=True)
    wrong_event(sandbox, connected(sandbox.url, "acct_other"), "e-1")
    notification = told(stripe_client, receiver.next())
    assert str(notification.context) == "acct_other"
    assert notification.fetch_event().data.reason.error_count == 1


def test_a_live_webhook_hears_live_events(sandbox: RunningSandbox, receiver: Receiver) -> None:
    """It is registered with `livemode`."""
    sandbox.add_webhook(receiver.url, SECRET, livemode=True)
    client = connect(sandbox.url, LIVE_KEY)
    wrong_event(sandbox, client, "e-1")
    assert told(client, receiver.next()).livemode is True


def test_a_webhook_can_be_changed_and_switched_off(sandbox: RunningSandbox, receiver: Receiver) -> None:
    """The one with the same URL; what it missed in the meantime it does not get."""
    sandbox.add_webhook(receiver.url, SECRET, enabled=False)
    assert [each["enabled"] for each in sandbox.control("GET", "webhooks")["webhooks"]] == [False]
    with receiving() as other:
        sandbox.add_webhook(other.url, SECRET)
        sandbox.notify("v9.missed")
        assert types(other, 1) == ["v9.missed"]
    sandbox.set_time(NOON + 60)
    sandbox.add_webhook(receiver.url, SECRET)
    sandbox.notify("v9.heard")
    assert types(receiver, 1) == ["v9.heard"]
    assert receiver.is_empty()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"url": "http://example.com:80/"}, "on this machine"),
        ({"url": "https://127.0.0.1:8443/"}, "on this machine"),
        ({"url": "http://127.0.0.1/"}, "with its port"),
        ({"url": "http://10.0.0.1:80/"}, "on this machine"),
        ({"url": "http://localhost.example.com:80/"}, "on this machine"),
        ({"url": 5}, "on this machine"),
        ({"secret": ""}, "secret"),
        ({"attempts": 0}, "attempts"),
        ({"attempts": 21}, "attempts"),
        ({"retry_seconds": -1}, "retry_seconds"),
        ({"twice": 1}, "twice"),
        ({"colour": "red"}, "Unknown: colour"),
    ],
)
def test_a_webhook_that_cannot_be_is_refused(
    sandbox: RunningSandbox, settings: dict[str, Any], words: str
) -> None:
    """Above all a URL that is not on this machine."""
    webhook = {"url": "http://127.0.0.1:9/", "secret": SECRET, **settings}
    with pytest.raises(ValueError, match=words):
        sandbox.control("POST", "webhooks", webhook)
    assert sandbox.control("GET", "webhooks")["webhooks"] == []


def test_webhooks_outlive_the_process(tmp_path_factory: pytest.TempPathFactory, receiver: Receiver) -> None:
    """After a restart what was delivered is not delivered again, and the rest is."""
    state = tmp_path_factory.mktemp("sandbox") / "state.jsonl"
    options = SandboxOptions(meters=(MeterSpec("api_requests"),), state=state)
    with running(options) as sandbox:
        sandbox.add_webhook(receiver.url, SECRET)
        sandbox.notify("v9.first")
        assert types(receiver, 1) == ["v9.first"]
        settled(sandbox, 1)
    with running(options) as sandbox:
        sandbox.notify("v9.second")
        assert types(receiver, 1) == ["v9.second"]
        settled(sandbox, 1)
        assert receiver.is_empty()


def test_deliveries_go_on_after_a_restart(
    tmp_path_factory: pytest.TempPathFactory, receiver: Receiver
) -> None:
    """The first call of any kind is enough; what came to be while nobody delivered is delivered then."""
    state = tmp_path_factory.mktemp("sandbox") / "state.jsonl"
    options = SandboxOptions(meters=(MeterSpec("api_requests"),), state=state)
    with running(options) as sandbox:
        sandbox.set_time(NOON)
        sandbox.add_webhook(receiver.url, SECRET, retry_seconds=60)
        receiver.statuses.append(500)
        send(connect(sandbox.url), "many", identifier="e-1")
        sandbox.set_time(NOON + 20)
        assert settled(sandbox, 1)[0]["status"] == 500
        first = receiver.next()
    with running(options) as sandbox:
        connect(sandbox.url).v1.accounts.retrieve_current()
        assert receiver.next().body == first.body


def test_a_slow_receiver_does_not_hold_up_another(sandbox: RunningSandbox, receiver: Receiver) -> None:
    """Nor the sandbox; a receiver that never answers is given up after its time."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        sandbox.add_webhook(url, SECRET, timeout_seconds=0.3, attempts=1)
        sandbox.add_webhook(receiver.url, SECRET)
        sandbox.notify("v9.weather.changed")
        assert types(receiver, 1) == ["v9.weather.changed"]
        statuses = {each["url"]: each["status"] for each in settled(sandbox, 2)}
    assert statuses == {url: None, receiver.url: 200}
