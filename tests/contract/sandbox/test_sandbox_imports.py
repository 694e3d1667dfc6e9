"""Import sets: what an import came to, listed and delivered as a snapshot event."""

import json

import pytest
import stripe
from stripe import StripeClient

from aggregator.sandbox import MeterSpec, RunningSandbox, SandboxOptions, running
from aggregator.sandbox.imports import FAILED, SUCCEEDED
from tests.contract.sandbox.receiver import receiving
from tests.contract.sandbox.sandbox_calls import DAY, NOON, call, connect, send

SECRET = "whsec_test"
BOTH = [FAILED, SUCCEEDED]


def test_an_import_that_failed_is_listed(sandbox: RunningSandbox, stripe_client: StripeClient) -> None:
    """With its reason and its file, under the type that says how it ended."""
    made = sandbox.import_set("failed", "usage-1.csv", reason="no column value")
    sandbox.import_set("succeeded_with_errors", "usage-2.csv", errors=3)
    later, first = stripe_client.v1.events.list({"types": BOTH}).data
    assert (first.id, first.type, later.type) == (made["id"], FAILED, SUCCEEDED)
    assert first.data.object["failed_reason"] == "no column value"
    assert first.data.object["file"]["filename"] == "usage-1.csv"
    assert later.data.object["status"] == "succeeded_with_errors"
    assert later.data.object["result"]["errors"]["row_count"] == 3


def test_the_list_is_narrowed_and_paged(sandbox: RunningSandbox, stripe_client: StripeClient) -> None:
    """By type and by time; the library reads it to its last page, newest first."""
    for number in range(25):
        sandbox.set_time(NOON + number)
        sandbox.import_set("succeeded" if number % 2 else "failed", f"usage-{number}.csv")
    created = [event.created for event in stripe_client.v1.events.list({"limit": 10}).auto_paging_iter()]
    assert created == [NOON + number for number in reversed(range(25))]
    failed = stripe_client.v1.events.list({"type": FAILED, "created": {"gte": NOON + 2, "lt": NOON + 6}})
    assert [event.created for event in failed.data] == [NOON + 4, NOON + 2]
    sandbox.set_time(NOON + 31 * DAY)
    assert stripe_client.v1.events.list().data == []


@pytest.mark.parametrize("query", ["type=a&types[]=b", "created[gte]=yesterday", "limit=101", "colour=red"])
def test_a_list_that_cannot_be_given_is_refused(sandbox: RunningSandbox, query: str) -> None:
    """A parameter that is none is a 400."""
    assert call(sandbox.url, "GET", f"/v1/events?{query}").status == 400


def test_the_types_may_be_refused(sandbox: RunningSandbox, stripe_client: StripeClient) -> None:
    """Whether the list has them is not documented, so that can be set."""
    sandbox.set_rules(import_events_listed=False)
    with pytest.raises(stripe.InvalidRequestError):
        stripe_client.v1.events.list({"types": BOTH})
    assert stripe_client.v1.events.list({"type": "invoice.paid"}).data == []


def test_an_import_of_a_connected_account_is_its_own(
    sandbox: RunningSandbox, stripe_client: StripeClient
) -> None:
    """It is listed for that account alone, and names it."""
    sandbox.import_set("failed", "usage-1.csv", account="acct_1")
    assert stripe_client.v1.events.list().data == []
    [event] = stripe_client.v1.events.list(None, {"stripe_account": "acct_1"}).data
    assert event.account == "acct_1"


def test_a_webhook_is_told_of_the_whole(sandbox: RunningSandbox, stripe_client: StripeClient) -> None:
    """Signed, with all that the list has; one for thin events hears nothing of it, and the other nothing of those."""
    sandbox.set_rules(report_window_seconds=0)
    with receiving() as whole, receiving() as thin:
        sandbox.add_webhook(whole.url, SECRET, snapshots=True)
        sandbox.add_webhook(thin.url, SECRET)
        made = sandbox.import_set("failed", "usage-1.csv", reason="no column value")
        send(stripe_client, "many", identifier="e-1")
        received = whole.next()
        event = stripe_client.construct_event(received.body, received.signature, SECRET)
        assert event.id == made["id"]
        assert json.loads(received.body) == made
        assert json.loads(thin.next().body)["object"] == "v2.core.event"
        assert {each["event"] for each in sandbox.webhook_deliveries() if each["url"] == whole.url} <= {
            made["id"]
        }


@pytest.mark.parametrize(
    "wrong", [{"status": "lost"}, {"status": "failed", "errors": -1}, {"state": "failed"}]
)
def test_an_import_that_cannot_be_is_refused(sandbox: RunningSandbox, wrong: dict[str, object]) -> None:
    """A misspelt word makes no event."""
    with pytest.raises(ValueError, match=r"must be|Unknown"):
        sandbox.control("POST", "imports", wrong)


def test_imports_outlive_the_process(tmp_path_factory: pytest.TempPathFactory) -> None:
    """They are in the state file."""
    options = SandboxOptions(
        meters=(MeterSpec("api_requests"),), state=tmp_path_factory.mktemp("state") / "log"
    )
    with running(options) as sandbox:
        made = sandbox.import_set("failed", "usage-1.csv")
    with running(options) as sandbox:
        assert [event.id for event in connect(sandbox.url).v1.events.list().data] == [made["id"]]
