"""Restricted keys, connected accounts, and what each of them may not do."""

from collections.abc import Callable
from typing import Any

import pytest
import stripe
from stripe import StripeClient

from aggregator.sandbox import RunningSandbox
from aggregator.sandbox.permissions import PERMISSIONS
from tests.contract.sandbox.sandbox_calls import (
    NOON,
    call,
    cancel,
    cancel_v2,
    connect,
    connected,
    event_v2,
    meter_id,
    send,
    send_v2,
    stream,
    streamer,
    used,
)

KEY = "rk_test_restricted_1234567890"

CALLS: list[tuple[str, Callable[[StripeClient], Any]]] = [
    ("meters_read", lambda client: client.v1.billing.meters.list()),
    ("meters_read", lambda client: client.v1.billing.meters.retrieve("mtr_test_00000001")),
    (
        "meters_read",
        lambda client: client.v1.billing.meters.event_summaries.list(
            "mtr_test_00000001", {"customer": "cus_a", "start_time": NOON, "end_time": NOON + 60}
        ),
    ),
    (
        "meters_write",
        lambda client: client.v1.billing.meters.create(
            {"display_name": "New", "event_name": "new", "default_aggregation": {"formula": "sum"}}
        ),
    ),
    ("meters_write", lambda client: client.v1.billing.meters.deactivate("mtr_test_00000001")),
    ("meter_events_write", send),
    ("meter_events_write", send_v2),
    ("meter_event_adjustments_write", lambda client: cancel(client, "e-1")),
    ("meter_event_adjustments_write", lambda client: cancel_v2(client, "e-1")),
    ("sessions_write", lambda client: client.v2.billing.meter_event_session.create()),
    ("customers_read", lambda client: client.v1.customers.list()),
    ("customers_write", lambda client: client.v1.customers.create({"name": "Ada"})),
    ("account_read", lambda client: client.v1.accounts.retrieve_current()),
    ("events_read", lambda client: client.v2.core.events.list()),
    ("snapshot_events_read", lambda client: client.v1.events.list()),
]


@pytest.mark.parametrize(("permission", "make"), CALLS)
def test_a_call_needs_its_permission_and_no_other(
    sandbox: RunningSandbox, stripe_client: StripeClient, permission: str, make: Callable[[StripeClient], Any]
) -> None:
    """With it alone the call passes; with all but it the call is a 403 that names it, and not the key."""
    send(stripe_client, identifier="e-1")
    client = connect(sandbox.url, KEY)
    sandbox.set_permissions(KEY, permission)
    make(client)
    others = PERMISSIONS.keys() - {permission, permission.replace("_read", "_write")}
    sandbox.set_permissions(KEY, *sorted(others))
    with pytest.raises(stripe.PermissionError) as refusal:
        make(client)
    message = str(refusal.value.user_message)
    assert refusal.value.http_status == 403
    assert f"Having the '{PERMISSIONS[permission]}' permission would allow" in message
    assert "on account 'acct_sandbox'" in message
    assert "restricted_123" not in message


def test_every_permission_is_asked_for_somewhere() -> None:
    """None of them is a word without effect."""
    assert {permission for permission, _ in CALLS} == set(PERMISSIONS)


def test_to_write_includes_to_read(sandbox: RunningSandbox) -> None:
    """As the dashboard has it."""
    sandbox.set_permissions(KEY, "meters_write")
    assert meter_id(connect(sandbox.url, KEY))


def test_other_keys_may_do_everything(sandbox: RunningSandbox, stripe_client: StripeClient) -> None:
    """Permissions are a key's own; the stream asks for none, its session did."""
    sandbox.set_permissions(KEY, "sessions_write")
    send(stripe_client)
    send(connect(sandbox.url, "rk_test_other"))
    stream(streamer(connect(sandbox.url, KEY), sandbox.url), event_v2())
    assert used(stripe_client) == 3.0


def test_permissions_are_shown_and_checked(sandbox: RunningSandbox) -> None:
    """A word that is none is refused, and the keys stay as they were."""
    sandbox.set_permissions(KEY, "meters_read")
    with pytest.raises(ValueError, match="Unknown permissions: meters_delete"):
        sandbox.set_permissions(KEY, "meters_delete")
    with pytest.raises(ValueError, match="list of names"):
        sandbox.control("PUT", "keys", {"permissions": {KEY: "meters_read"}})
    with pytest.raises(ValueError, match="permissions must be"):
        sandbox.control("PUT", "keys", {"permissions": ["meters_read"]})
    assert sandbox.control("GET", "keys")["permissions"] == {KEY: ["meters_read"]}


def test_version_2_may_refuse_restricted_keys(sandbox: RunningSandbox) -> None:
    """One of Stripe's pages once said that it does; a rule."""
    send_v2(connect(sandbox.url, KEY))
    sandbox.set_rules(v2_restricted_keys=False)
    with pytest.raises(stripe.PermissionError):
        send_v2(connect(sandbox.url, KEY))
    send(connect(sandbox.url, KEY))


# -- connected accounts ---------------------------------------------------------------------------


def test_only_connected_accounts_can_be_named(sandbox: RunningSandbox, stripe_client: StripeClient) -> None:
    """Any, until there is a list; the own account is always one of them."""
    send(connected(sandbox.url, "acct_a"))
    sandbox.set_connected("acct_b")
    with pytest.raises(stripe.PermissionError) as refusal:
        send(connected(sandbox.url, "acct_a"))
    assert refusal.value.http_status == 403
    assert "account 'acct_a'" in str(refusal.value.user_message)
    assert connected(sandbox.url, "acct_b").v1.accounts.retrieve_current().id == "acct_b"
    send(connected(sandbox.url, "acct_sandbox"))
    send(stripe_client)
    assert sandbox.totals("api_requests") == {"cus_a": 2}
    assert sandbox.control("PUT", "accounts", {"connected": None}) == {"connected": None}
    send(connected(sandbox.url, "acct_a"))


def test_a_connected_account_is_a_world_of_its_own(
    sandbox: RunningSandbox, stripe_client: StripeClient
) -> None:
    """Its meters have other ids, its customers are not the own ones, an identifier is free, a kept answer is not known."""
    other = connected(sandbox.url, "acct_other")
    assert meter_id(other) != meter_id(stripe_client)
    with pytest.raises(stripe.InvalidRequestError):
        other.v1.billing.meters.retrieve(meter_id(stripe_client))
    stripe_client.v1.customers.create({"name": "Ada"})
    assert other.v1.customers.list().data == []
    send(stripe_client, "1", identifier="e-1", key="k-1")
    assert send(other, "2", identifier="e-1", key="k-1").payload["value"] == "2"
    cancel(other, "e-1")
    assert (used(stripe_client), used(other)) == (1.0, 0.0)


def test_the_context_header_names_an_account_too(sandbox: RunningSandbox) -> None:
    """As the library sends it when it fetches the event of a notification."""
    for path, name in (("/v1/account", "id"), ("/v2/core/events", "data")):
        assert name in call(sandbox.url, "GET", path, headers={"Stripe-Context": "acct_other"}).json
    answer = call(sandbox.url, "GET", "/v1/account", headers={"Stripe-Context": "acct_other"})
    assert answer.json["id"] == "acct_other"


def test_each_account_has_its_own_limit(sandbox: RunningSandbox, stripe_client: StripeClient) -> None:
    """What one uses up another still has; connected accounts may have a limit of another size."""
    other = connected(sandbox.url, "acct_other")
    sandbox.set_faults(rate_limit_per_second=0.001)
    send(stripe_client)
    send(other)
    for client in (stripe_client, other):
        with pytest.raises(stripe.RateLimitError):
            send(client)
    sandbox.set_faults(rate_limit_per_second=1000, connected_rate_limit_per_second=0.001)
    for _ in range(3):
        send(stripe_client)
    send(other)
    with pytest.raises(stripe.RateLimitError):
        send(other)
