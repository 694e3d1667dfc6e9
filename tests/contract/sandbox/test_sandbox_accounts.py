"""Keys, modes, accounts and customers, and the shape of every answer."""

from base64 import b64encode

import pytest
import stripe
from stripe import StripeClient

from aggregator.sandbox import RunningSandbox
from tests.contract.sandbox.sandbox_calls import EVENTS, call, connect, event_form, send, used


@pytest.mark.parametrize(
    ("key", "livemode"),
    [("sk_test_a", False), ("rk_test_a", False), ("sk_live_a", True), ("rk_live_a", True)],
)
def test_the_prefix_of_a_key_is_its_mode(sandbox: RunningSandbox, key: str, livemode: object) -> None:
    """Secret and restricted keys alike."""
    assert send(connect(sandbox.url, key)).livemode is livemode


@pytest.mark.parametrize("key", ["pk_test_a", "whsec_a", "nonsense"])
def test_any_other_key_is_refused(sandbox: RunningSandbox, key: str) -> None:
    """The library sees an authentication error."""
    with pytest.raises(stripe.AuthenticationError) as refusal:
        send(connect(sandbox.url, key))
    assert refusal.value.http_status == 401


def test_a_call_without_a_key_is_refused(sandbox: RunningSandbox) -> None:
    """It is a 401 in Stripe's shape."""
    answer = call(sandbox.url, "POST", EVENTS, event_form(), {"Authorization": ""})
    assert (answer.status, answer.json["error"]["type"]) == (401, "invalid_request_error")


@pytest.mark.parametrize(("token", "status"), [("sk_test_a:", 200), ("sk_nope:", 401)])
def test_a_key_may_come_as_basic_authentication(sandbox: RunningSandbox, token: str, status: int) -> None:
    """As `curl -u sk_test_...:` sends it."""
    headers = {"Authorization": "Basic " + b64encode(token.encode()).decode()}
    assert call(sandbox.url, "GET", "/v1/account", headers=headers).status == status


def test_keys_can_be_revoked_and_restricted_while_it_runs(
    sandbox: RunningSandbox, stripe_client: StripeClient
) -> None:
    """A revoked key is a 401, a restricted one a 403, and neither shows whole in the message."""
    sandbox.set_keys(revoked=["sk_test_revoked_1234567890"], restricted=["rk_test_restricted_1234567890"])
    with pytest.raises(stripe.AuthenticationError) as revoked:
        send(connect(sandbox.url, "sk_test_revoked_1234567890"))
    with pytest.raises(stripe.PermissionError) as restricted:
        send(connect(sandbox.url, "rk_test_restricted_1234567890"))
    assert "revoked_123" not in str(revoked.value)
    assert restricted.value.http_status == 403
    send(stripe_client)


def test_the_account_can_be_asked_for(stripe_client: StripeClient) -> None:
    """Its id is the one the sandbox was started with."""
    account = stripe_client.v1.accounts.retrieve_current()
    assert (account.id, account.object) == ("acct_sandbox", "account")


def test_a_key_may_do_all_but_read_the_account(sandbox: RunningSandbox) -> None:
    """As a restricted key may be set up: a 403 for the account, and events pass."""
    sandbox.set_keys(no_account=["rk_test_a"])
    client = connect(sandbox.url, "rk_test_a")
    with pytest.raises(stripe.PermissionError):
        client.v1.accounts.retrieve_current()
    send(client)
    assert connect(sandbox.url).v1.accounts.retrieve_current().id == "acct_sandbox"


def test_another_account_has_its_own_state_and_the_meters_of_the_start(
    stripe_client: StripeClient, sandbox: RunningSandbox
) -> None:
    """`Stripe-Account` names it; identifiers and usage are apart."""
    other = stripe.StripeClient(
        "sk_test_a", base_addresses={"api": sandbox.url}, stripe_account="acct_other", max_network_retries=0
    )
    send(stripe_client, "1", identifier="e-1")
    send(other, "2", identifier="e-1")
    assert (used(stripe_client), used(other)) == (1.0, 2.0)
    assert other.v1.accounts.retrieve_current().id == "acct_other"
    assert sandbox.totals("api_requests", account="acct_other") == {"cus_a": 2}


def test_a_word_that_is_no_account_is_refused(sandbox: RunningSandbox) -> None:
    """It is a 403, as for an account the key cannot reach."""
    answer = call(sandbox.url, "GET", "/v1/account", headers={"Stripe-Account": "somebody"})
    assert (answer.status, answer.json["error"]["code"]) == (403, "account_invalid")


def test_customers_are_created_retrieved_and_listed(stripe_client: StripeClient) -> None:
    """The list is newest first, pages, and filters by e-mail."""
    names = [f"Customer {number}" for number in range(12)]
    created = [
        stripe_client.v1.customers.create(
            {"name": name, "email": f"{name[9:]}@example.com", "metadata": {"n": "1"}}
        )
        for name in names
    ]
    assert created[0].id.startswith("cus_")
    assert stripe_client.v1.customers.retrieve(created[0].id).to_dict() == created[0].to_dict()
    listed = list(stripe_client.v1.customers.list({"limit": 5}).auto_paging_iter())
    assert [customer.name for customer in listed] == names[::-1]
    found = stripe_client.v1.customers.list({"email": "7@example.com"}).data
    assert [customer.name for customer in found] == ["Customer 7"]


def test_any_customer_can_be_retrieved_unless_strict(
    stripe_client: StripeClient, sandbox: RunningSandbox
) -> None:
    """A customer nobody created is there, or a 404 when the sandbox is strict."""
    assert stripe_client.v1.customers.retrieve("cus_new").id == "cus_new"
    sandbox.set_rules(strict_customers=True)
    with pytest.raises(stripe.InvalidRequestError) as refusal:
        stripe_client.v1.customers.retrieve("cus_new")
    assert (refusal.value.http_status, refusal.value.code) == (404, "resource_missing")


def test_customers_can_be_made_with_given_ids(stripe_client: StripeClient, sandbox: RunningSandbox) -> None:
    """So that a strict sandbox can know the ids of an application's database."""
    sandbox.add_customers("cus_ada", "cus_bob")
    sandbox.set_rules(strict_customers=True)
    assert stripe_client.v1.customers.retrieve("cus_ada").id == "cus_ada"
    assert [customer.id for customer in stripe_client.v1.customers.list().data] == ["cus_bob", "cus_ada"]


def test_modes_have_their_own_customers(stripe_client: StripeClient, live_client: StripeClient) -> None:
    """A customer of one mode is not listed in the other."""
    stripe_client.v1.customers.create({"name": "Ada"})
    assert live_client.v1.customers.list().data == []


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/billing/meter_events"),
        ("POST", "/v1/charges"),
        ("GET", "/v2/billing/meter_event_stream"),
        ("GET", "/"),
        ("DELETE", "/v1/billing/meters/mtr_test_00000001"),
        ("GET", "/_sandbox/nothing"),
    ],
)
def test_an_unknown_path_is_a_404_in_stripes_shape(sandbox: RunningSandbox, method: str, path: str) -> None:
    """The body is JSON and names the call."""
    answer = call(sandbox.url, method, path)
    assert answer.status == 404
    assert answer.json["error"]["type"] == "invalid_request_error"
    assert f"{method}: {path}" in answer.json["error"]["message"]


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/v1/account"), ("POST", EVENTS), ("GET", "/_sandbox/stats")]
)
def test_every_answer_is_json_with_a_request_id(sandbox: RunningSandbox, method: str, path: str) -> None:
    """Good or bad, and no two ids are the same."""
    first, second = (call(sandbox.url, method, path) for _ in range(2))
    assert first.headers["content-type"] == "application/json"
    assert first.headers["request-id"].startswith("req_")
    assert first.headers["request-id"] != second.headers["request-id"]


def test_a_body_too_large_is_refused(sandbox: RunningSandbox) -> None:
    """A megabyte of payload gets an answer, not a place in memory."""
    answer = call(sandbox.url, "POST", EVENTS, {"event_name": "x" * 1_100_000})
    assert answer.status == 413
