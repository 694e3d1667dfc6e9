"""Whose reports a sink hears, and which imports: the official library against the sandbox, account by account."""

import datetime as dt
import json
from collections.abc import Callable, Iterator
from decimal import Decimal
from functools import partial
from typing import Any

import pytest
import stripe

from aggregator.core.model import Answer, Event, EventId, Span
from aggregator.core.notifications import Notification, ParsedNotification, Unimported
from aggregator.errors import AccountRefused, SinkError, SinkHalted, SinkUnreachable
from aggregator.runtime.clock import utcnow
from aggregator.sandbox import MeterSpec, RunningSandbox, SandboxOptions, running
from aggregator.sinks.stripe import StripeMeter, StripeNotificationClient, StripeSink
from aggregator.sinks.stripe.account_context import Addresses
from aggregator.sinks.stripe.limits import Rates
from tests.contract.making import making
from tests.contract.scripted import Asked, serving
from tests.contract.scripted import Told as Scripted

KEY = "rk_test_0123456789abcdefghij"
SECRET = "whsec_1"
MINUTE = dt.timedelta(minutes=1)
AT = utcnow().replace(second=0, microsecond=0) - 60 * MINUTE
METERS = {"api": StripeMeter(event_name="api_requests")}

EACH_ITS_OWN = Addresses(by_customer=True)
ONE = Addresses("acct_1")
OWN = Addresses()

MakeTeller = Callable[..., tuple[StripeSink, StripeNotificationClient]]


@pytest.fixture(scope="module")
def shared_sandbox() -> Iterator[RunningSandbox]:
    """One sandbox for all tests here."""
    with running(SandboxOptions(meters=(MeterSpec("api_requests"),))) as sandbox:
        yield sandbox


@pytest.fixture
def sandbox(shared_sandbox: RunningSandbox) -> RunningSandbox:
    """The sandbox as at the start, with three connected accounts; what is invalid is reported at once."""
    shared_sandbox.reset()
    shared_sandbox.set_connected("acct_1", "acct_2", "acct_3")
    shared_sandbox.set_rules(report_window_seconds=0)
    shared_sandbox.set_faults(reject_later=1.0, reject_after_seconds=0)
    return shared_sandbox


@pytest.fixture
def hearing() -> Iterator[MakeTeller]:
    """Make sinks with what listens to them, and close them at the end."""
    with making(
        partial(StripeSink, "stripe"),
        api_key=KEY,
        mode="test",
        rates=Rates(1_000, 1_000, stream_by_event=True),
        timeout=dt.timedelta(seconds=5),
        max_in_flight=16,
        meters=METERS,
    ) as made:

        def make(url: str, addresses: Addresses) -> tuple[StripeSink, StripeNotificationClient]:
            sink = made(url, addresses=addresses)
            return sink, StripeNotificationClient(sink, METERS, secrets=(SECRET,), livemode=False)

        yield make


def send(sink: StripeSink, customer: str, number: int = 1) -> str:
    """Send an event, which is accepted; return its identifier."""
    name = f"agg_{number:020x}"
    event = Event(EventId(number), "api", customer, AT, 0, Decimal(5), Decimal(5), AT, name, 1, None)
    [verdict] = sink.send([event], lambda: True)
    assert verdict.answer is Answer.ACCEPTED, verdict
    return name


def lately() -> Span:
    return Span(utcnow() - 60 * MINUTE, utcnow() + MINUTE)


def signed(message: dict[str, Any]) -> tuple[bytes, str]:
    """Return a delivery as Stripe signs it."""
    body = json.dumps(message)
    return body.encode(), stripe.WebhookSignature.generate_signature_header(body, SECRET)


def thin(sandbox: RunningSandbox, account: str | None) -> dict[str, Any]:
    """Return what a webhook is told of the latest report of an account."""
    event = sandbox.reports(account=account)[-1]
    return {key: value for key, value in event.items() if key != "data"}


# -- each customer its own ------------------------------------------------------------------------


def test_each_account_is_asked_in_its_own_context(sandbox: RunningSandbox, hearing: MakeTeller) -> None:
    """What it lists and says is its own, of its own meter, and about its own customers."""
    sink, notification_client = hearing(sandbox.url, EACH_ITS_OWN)
    names = {f"acct_{number}": send(sink, f"acct_{number}/cus_a", number) for number in (1, 2)}
    assert notification_client.listed(lately()) == []
    for account, name in names.items():
        [notification] = notification_client.listed(lately(), account)
        assert notification.account == account
        told = notification_client.fetched(notification.id, account)
        assert told is not None
        assert told.notification == notification
        [report] = told.reports
        assert (report.meter, report.whose) == ("api", f"{account}/")
        assert [each.identifier for each in report.named] == [name]
    assert notification_client.listed(lately(), "acct_3") == []


def test_the_context_goes_with_every_page(sandbox: RunningSandbox, hearing: MakeTeller) -> None:
    """More than a page holds, each once."""
    sink, notification_client = hearing(sandbox.url, EACH_ITS_OWN)
    for number in range(130):
        send(sink, "acct_2/cus_a", number + 1)
    listed = notification_client.listed(lately(), "acct_2")
    assert len({notification.id for notification in listed}) == len(listed) == 130


def test_what_is_asked_names_its_account(hearing: MakeTeller) -> None:
    """Thin events by the header that a notification's context is for, meters by the one of version 1."""
    message = {
        "id": "evt_1",
        "object": "v2.core.event",
        "type": "v1.billing.meter.error_report_triggered",
        "created": "2026-11-20T15:12:12.000Z",
        "livemode": False,
        "related_object": {"id": "mtr_1", "type": "billing.meter", "url": "/v1/billing/meters/mtr_1"},
        "data": {},
    }

    def answer(asked: Asked) -> Scripted | None:
        if asked.path == "/v2/core/events":
            return Scripted(200, {"data": [message], "next_page_url": None, "previous_page_url": None})
        if asked.path == "/v2/core/events/evt_1":
            return Scripted(200, message)
        return Scripted(404, {"error": {"message": "No such meter", "code": "resource_missing"}})

    with serving() as server:
        server.answer = answer
        _, notification_client = hearing(server.url, EACH_ITS_OWN)
        [notification] = notification_client.listed(lately(), "acct_7")
        assert notification.account == "acct_7", "whose it is, even if it does not say so itself"
        notification_client.fetched("evt_1", "acct_7")
        told = [
            (each.path, each.headers.get("stripe-context"), each.headers.get("stripe-account"))
            for each in server.asked
        ]
        assert told == [
            ("/v2/core/events", "acct_7", None),
            ("/v2/core/events/evt_1", "acct_7", None),
            ("/v1/billing/meters/mtr_1", None, "acct_7"),
        ]


def test_an_account_that_is_closed_is_its_own_trouble(sandbox: RunningSandbox, hearing: MakeTeller) -> None:
    """It is said with its name; a key that may not read events, too, and one that is no good is everybody's."""
    _, notification_client = hearing(sandbox.url, EACH_ITS_OWN)
    with pytest.raises(AccountRefused, match=r"acct_gone cannot be used.*Let its owner connect it again"):
        notification_client.listed(lately(), "acct_gone")
    with pytest.raises(AccountRefused):
        notification_client.fetched("evt_1", "acct_gone")
    sandbox.set_permissions(KEY, "meters_read")
    with pytest.raises(SinkError, match="account acct_1 of sink stripe") as raised:
        notification_client.listed(lately(), "acct_1")
    assert not isinstance(raised.value, AccountRefused | SinkHalted | SinkUnreachable)
    sandbox.set_keys(revoked=[KEY])
    with pytest.raises(SinkHalted):
        notification_client.listed(lately(), "acct_1")


def test_a_delivery_is_fetched_where_it_belongs(sandbox: RunningSandbox, hearing: MakeTeller) -> None:
    """Its context says where; one of the platform's own is about nobody, since nothing goes there."""
    sink, notification_client = hearing(sandbox.url, EACH_ITS_OWN)
    name = send(sink, "acct_2/cus_a")
    notification = notification_client.delivered(*signed(thin(sandbox, "acct_2")))
    assert isinstance(notification, Notification)
    assert notification.account == "acct_2"
    told = notification_client.fetched(notification.id, notification.account)
    assert told is not None
    assert [each.identifier for each in told.reports[0].named] == [name]
    with pytest.raises(SinkError):
        notification_client.fetched(notification.id, "acct_1")
    own, _ = hearing(sandbox.url, OWN)
    send(own, "cus_a", 2)
    assert notification_client.delivered(*signed(thin(sandbox, None))) is None
    assert notification_client.fetched(sandbox.reports()[-1]["id"]) is None


def test_a_context_is_a_way_that_ends_with_the_account(sandbox: RunningSandbox, hearing: MakeTeller) -> None:
    """As where an organisation has a platform which has accounts."""
    sink, notification_client = hearing(sandbox.url, EACH_ITS_OWN)
    send(sink, "acct_2/cus_a")
    notification = notification_client.delivered(
        *signed(thin(sandbox, "acct_2") | {"context": "acct_9/acct_2"})
    )
    assert isinstance(notification, Notification)
    assert notification.account == "acct_2"


def test_an_event_that_says_it_is_of_another_account_is_not_believed(hearing: MakeTeller) -> None:
    """Whoever answers with the event of another account is not taken at his word."""
    message = {
        "id": "evt_1",
        "object": "v2.core.event",
        "type": "v1.billing.meter.no_meter_found",
        "created": "2026-11-20T15:12:12.000Z",
        "context": "acct_2",
        "data": {},
    }
    with serving() as server:
        server.answer = lambda _: Scripted(200, message)
        _, notification_client = hearing(server.url, EACH_ITS_OWN)
        with pytest.raises(SinkError, match="is of account acct_2, not of acct_1"):
            notification_client.fetched("evt_1", "acct_1")


# -- one account ----------------------------------------------------------------------------------


def test_one_account_hears_its_own(sandbox: RunningSandbox, hearing: MakeTeller) -> None:
    """Asked or told: what is delivered for another account is nothing to it."""
    sink, notification_client = hearing(sandbox.url, ONE)
    other, _ = hearing(sandbox.url, Addresses("acct_2"))
    name = send(sink, "cus_a")
    send(other, "cus_a", 2)
    [notification] = notification_client.listed(lately())
    told = notification_client.fetched(notification.id, notification.account)
    assert told is not None
    assert [(report.whose, report.named[0].identifier) for report in told.reports] == [("", name)]
    assert notification_client.delivered(*signed(thin(sandbox, "acct_1"))) == notification
    assert notification_client.delivered(*signed(thin(sandbox, "acct_2"))) is None
    assert isinstance(
        notification_client.delivered(*signed(thin(sandbox, "acct_1") | {"context": None})), Notification
    )


def test_the_keys_own_account_hears_nothing_of_others(sandbox: RunningSandbox, hearing: MakeTeller) -> None:
    """What is said to be of another account, and is not found in its own, is nothing to it."""
    other, _ = hearing(sandbox.url, ONE)
    send(other, "cus_a")
    _, notification_client = hearing(sandbox.url, OWN)
    notification = notification_client.delivered(*signed(thin(sandbox, "acct_1")))
    assert isinstance(notification, Notification)
    assert notification_client.fetched(notification.id, notification.account) is None
    with pytest.raises(SinkError):
        notification_client.fetched(notification.id)


# -- imports --------------------------------------------------------------------------------------


def test_imports_that_failed_are_listed(sandbox: RunningSandbox, hearing: MakeTeller) -> None:
    """With file and reason; what went well is passed over, and so is what is older."""
    _, notification_client = hearing(sandbox.url, OWN)
    failed = sandbox.import_set("failed", "usage-1.csv", reason="no column value")
    sandbox.import_set("succeeded", "usage-2.csv")
    partly = sandbox.import_set("succeeded_with_errors", "usage-3.csv", errors=3)
    told = {each.notification.id: each.unimported for each in notification_client.imports(lately())}
    assert told.keys() == {failed["id"], partly["id"]}
    impset = failed["data"]["object"]["id"]
    assert told[failed["id"]] == (Unimported(("usage-1.csv",), f"import set {impset}: no column value"),)
    assert "succeeded_with_errors row_count 3" in told[partly["id"]][0].reason
    assert notification_client.imports(Span(utcnow() - 90 * MINUTE, utcnow() - 60 * MINUTE)) == []


def test_a_list_of_imports_is_read_to_its_last_page(sandbox: RunningSandbox, hearing: MakeTeller) -> None:
    """A page has a hundred, of what went well, too."""
    _, notification_client = hearing(sandbox.url, OWN)
    sandbox.import_set("failed", "usage-0.csv")
    for number in range(120):
        sandbox.import_set("succeeded", f"usage-{number}.csv")
    assert [each.unimported[0].files for each in notification_client.imports(lately())] == [("usage-0.csv",)]


def test_the_same_event_comes_either_way(sandbox: RunningSandbox, hearing: MakeTeller) -> None:
    """Listed and delivered it says the same, under the same id: so it counts once."""
    _, notification_client = hearing(sandbox.url, OWN)
    event = sandbox.import_set("failed", "usage-1.csv", reason="no column value")
    assert notification_client.imports(lately()) == [notification_client.delivered(*signed(event))]


@pytest.mark.parametrize(("addresses", "account"), [(OWN, None), (ONE, "acct_1"), (EACH_ITS_OWN, None)])
def test_imports_are_those_of_the_account_that_is_configured(
    sandbox: RunningSandbox, hearing: MakeTeller, addresses: Addresses, account: str | None
) -> None:
    """Of those that customers name, the platform's."""
    _, notification_client = hearing(sandbox.url, addresses)
    mine = sandbox.import_set("failed", "usage-1.csv", account=account)
    other = sandbox.import_set("failed", "usage-2.csv", account="acct_3")
    assert [each.notification.id for each in notification_client.imports(lately())] == [mine["id"]]
    assert isinstance(notification_client.delivered(*signed(mine)), ParsedNotification)
    if addresses is not EACH_ITS_OWN:
        assert notification_client.delivered(*signed(other)) is None


def test_imports_may_be_refused(sandbox: RunningSandbox, hearing: MakeTeller) -> None:
    """By the key's permission, or since Stripe does not list their types; reports are listed as ever."""
    sink, notification_client = hearing(sandbox.url, OWN)
    send(sink, "cus_a")
    sandbox.set_permissions(KEY, "events_read", "meters_read")
    with pytest.raises(SinkHalted, match="permission"):
        notification_client.imports(lately())
    assert len(notification_client.listed(lately())) == 1
    sandbox.set_keys()
    sandbox.set_rules(report_window_seconds=0, import_events_listed=False)
    with pytest.raises(SinkError, match="cannot be listed") as raised:
        notification_client.imports(lately())
    assert not isinstance(raised.value, SinkHalted | SinkUnreachable)
    assert len(notification_client.listed(lately())) == 1


HEALTH = "v2.core.health.meter_event_summaries_delayed"


def test_that_summaries_are_late_is_asked_for(sandbox: RunningSandbox, hearing: MakeTeller) -> None:
    """In both directions, and nothing else is listed with it. Meanwhile the sandbox's summaries show nothing new."""
    sandbox.set_faults()
    sink, client = hearing(sandbox.url, OWN)
    send(sink, "cus_a", 1)
    assert client.health(lately()) == []
    whole = Span(AT, AT + MINUTE)
    assert sink.total("api", "cus_a", whole) == 5
    fired = sandbox.notify(f"{HEALTH}.firing")
    sandbox.notify("v1.something.else")
    [told] = client.health(lately())
    assert (told.notification.id, told.totals_late) == (fired["id"], True)
    sandbox.set_clock(20)
    send(sink, "cus_a", 2)
    assert sink.total("api", "cus_a", whole) == 5, "what came since does not show"
    sandbox.notify(f"{HEALTH}.resolved")
    assert [each.totals_late for each in client.health(lately())] == [False, True]
    assert sink.total("api", "cus_a", whole) == 10


def test_messages_on_late_summaries_may_not_be_known(sandbox: RunningSandbox, hearing: MakeTeller) -> None:
    """They are in a preview: the list is refused for their types, and reports are listed as ever."""
    sink, client = hearing(sandbox.url, OWN)
    send(sink, "cus_a")
    sandbox.set_rules(report_window_seconds=0, health_events_listed=False)
    with pytest.raises(SinkError, match="cannot be listed") as raised:
        client.health(lately())
    assert not isinstance(raised.value, SinkHalted | SinkUnreachable)
    assert len(client.listed(lately())) == 1
