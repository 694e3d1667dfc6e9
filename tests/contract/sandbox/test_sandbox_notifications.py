"""Thin events: what version 2 lists and returns of the reports, as Stripe's library reads it."""

import json
from itertools import pairwise
from typing import Any, cast

import pytest
import stripe
from stripe import StripeClient
from stripe.events import (
    UnknownEventNotification,
    V1BillingMeterErrorReportTriggeredEvent,
    V1BillingMeterErrorReportTriggeredEventNotification,
    V1BillingMeterNoMeterFoundEvent,
    V1BillingMeterNoMeterFoundEventNotification,
)

from aggregator.sandbox import RunningSandbox
from tests.contract.sandbox.sandbox_calls import (
    DAY,
    HOUR,
    NOON,
    call,
    connected,
    event_form,
    event_v2,
    iso,
    kinds,
    meter_id,
    post_event,
    send,
    stream,
    streamer,
)

PATH = "/v2/core/events"
REPORT = "v1.billing.meter.error_report_triggered"
NO_METER = "v1.billing.meter.no_meter_found"
SECRET = "whsec_test"


def reported(sandbox: RunningSandbox, client: StripeClient, count: int) -> list[str]:
    """Have so many reports made, ten seconds apart, and return their ids."""
    for number in range(count):
        sandbox.set_time(NOON + 10 * number)
        send(client, "many", identifier=f"e-{number}")
    sandbox.set_time(NOON + 10 * count + 10)
    return [report["id"] for report in sandbox.reports()]


def thin(event: dict[str, Any]) -> str:
    """Return the body of the notification of an event."""
    return json.dumps({key: value for key, value in event.items() if key != "data"})


def test_an_event_is_retrieved_by_its_id(sandbox: RunningSandbox, stripe_client: StripeClient) -> None:
    """It is the report, in the class that the library has for it."""
    (name,) = reported(sandbox, stripe_client, 1)
    event = stripe_client.v2.core.events.retrieve(name)
    assert isinstance(event, V1BillingMeterErrorReportTriggeredEvent)
    assert event.to_dict() == sandbox.reports()[0]
    assert event.data.reason.error_types[0].sample_errors[0].request.identifier == "e-0"
    assert event.data.developer_message_summary == "There is 1 invalid event"
    assert event.fetch_related_object().event_name == "api_requests"


def test_a_notification_leads_to_its_event(sandbox: RunningSandbox, stripe_client: StripeClient) -> None:
    """Signed, parsed and fetched by the library, with the meter it is about."""
    reported(sandbox, stripe_client, 1)
    body = thin(sandbox.reports()[0])
    header = stripe.WebhookSignature.generate_signature_header(body, SECRET)
    told = stripe_client.parse_event_notification(body, header, SECRET)
    assert isinstance(told, V1BillingMeterErrorReportTriggeredEventNotification)
    assert told.fetch_event().data.reason.error_count == 1
    assert told.fetch_related_object().id == meter_id(stripe_client)


def test_a_sample_may_name_the_key_of_its_call(sandbox: RunningSandbox, stripe_client: StripeClient) -> None:
    """As Stripe's words for the field have it; an event that was rejected later too. A call without a key has none."""
    sandbox.set_rules(sample_identifier="idempotency_key", report_window_seconds=0)
    send(stripe_client, "many", identifier="e-1", key="k-1")
    sandbox.set_faults(reject_later=1.0)
    send(stripe_client, identifier="e-2", key="k-2")
    post_event(sandbox.url, event_form(identifier="e-3"))
    names = [name for report in sandbox.reports() for _, some in kinds(report).values() for name in some]
    assert names == ["k-1", "k-2", "e-3"]


@pytest.mark.parametrize(("rule", "related"), [("empty", {}), ("null", None)])
def test_events_without_a_meter_are_told_of_in_a_class_of_their_own(
    sandbox: RunningSandbox, stripe_client: StripeClient, rule: str, related: object
) -> None:
    """There is no related object; whether it is empty or null is a rule."""
    sandbox.set_rules(no_meter_related_object=rule)
    stream(streamer(stripe_client, sandbox.url), event_v2(event_name="nothing", identifier="e-1"))
    sandbox.set_time(NOON + 20)
    (report,) = sandbox.reports()
    told = stripe_client.parse_event_notification_without_verification(thin(report))
    assert isinstance(told, V1BillingMeterNoMeterFoundEventNotification)
    event = told.fetch_event()
    assert isinstance(event, V1BillingMeterNoMeterFoundEvent)
    (kind,) = event.data.reason.error_types
    assert (kind.code, kind.sample_errors[0].request.identifier) == ("no_meter", "e-1")
    assert kind.sample_errors[0].error_message == "No meter was found matching event_name nothing."
    assert report["related_object"] == related


def test_the_list_is_newest_first_and_pages(sandbox: RunningSandbox, stripe_client: StripeClient) -> None:
    """The library walks through all pages; each page says where the next and the one before are."""
    names = reported(sandbox, stripe_client, 7)
    events = stripe_client.v2.core.events.list({"limit": 3})
    assert [event.id for event in events.auto_paging_iter()] == names[::-1]
    pages = [call(sandbox.url, "GET", f"{PATH}?limit=3").json]
    while pages[-1]["next_page_url"]:
        pages.append(call(sandbox.url, "GET", pages[-1]["next_page_url"]).json)
    assert [len(page["data"]) for page in pages] == [3, 3, 1]
    assert pages[0]["previous_page_url"] is None
    for before, page in pairwise(pages):
        assert call(sandbox.url, "GET", page["previous_page_url"]).json["data"] == before["data"]


def test_a_page_holds_twenty_unless_told(sandbox: RunningSandbox, stripe_client: StripeClient) -> None:
    """And an empty list is one page."""
    assert stripe_client.v2.core.events.list().data == []
    sandbox.set_rules(report_window_seconds=0)
    for _ in range(21):
        send(stripe_client, "many")
    assert len(stripe_client.v2.core.events.list().data) == 20


def test_the_list_can_be_narrowed(sandbox: RunningSandbox, stripe_client: StripeClient) -> None:
    """By type, by related object, by time; the filters go along from page to page."""
    names = reported(sandbox, stripe_client, 4)
    stream(streamer(stripe_client, sandbox.url), event_v2(event_name="nothing"))
    sandbox.set_time(NOON + HOUR)
    events = stripe_client.v2.core.events

    def listed(**params: Any) -> list[str]:
        return [event.id for event in events.list(cast("Any", {"limit": 1, **params})).auto_paging_iter()]

    assert len(listed()) == 5
    assert listed(types=[REPORT]) == listed(object_id=meter_id(stripe_client)) == names[::-1]
    assert len(listed(types=[NO_METER])) == 1
    assert len(listed(types=[NO_METER, REPORT])) == 5
    assert listed(types=["v1.nothing"]) == listed(object_id="mtr_nothing") == []
    at = iso(NOON + 20)
    assert listed(created={"gt": at}, types=[REPORT]) == names[:1:-1]
    assert listed(created={"gte": at}, types=[REPORT]) == names[:0:-1]
    assert listed(created={"lt": at}) == names[:1]
    assert listed(created={"lte": at}) == names[1::-1]


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=101",
        "page=nonsense",
        "page=after:evt_nothing",
        "created[gte]=1768478400",
        "created[since]=2026-01-15T12:00:00Z",
        "colour=red",
        "&".join(f"types[{number}]=a" for number in range(21)),
    ],
)
def test_a_list_that_cannot_be_given_is_refused(sandbox: RunningSandbox, query: str) -> None:
    """Rather than read as another."""
    answer = call(sandbox.url, "GET", f"{PATH}?{query}")
    assert (answer.status, "code" in answer.json["error"]) == (400, True)


def test_events_are_kept_for_thirty_days(sandbox: RunningSandbox, stripe_client: StripeClient) -> None:
    """Afterwards they are neither listed nor found."""
    (name,) = reported(sandbox, stripe_client, 1)
    sandbox.set_time(NOON + 30 * DAY)
    assert stripe_client.v2.core.events.retrieve(name).id == name
    sandbox.set_time(NOON + 30 * DAY + HOUR)
    assert stripe_client.v2.core.events.list().data == []
    with pytest.raises(stripe.InvalidRequestError) as refusal:
        stripe_client.v2.core.events.retrieve(name)
    assert refusal.value.http_status == 404


def test_an_event_of_a_connected_account_says_whose_it_is(
    sandbox: RunningSandbox, stripe_client: StripeClient
) -> None:
    """The library fetches it in that context; from the own account it is not to be found. No id is used twice."""
    other = connected(sandbox.url, "acct_other")
    send(other, "many")
    send(stripe_client, "many")
    sandbox.set_time(NOON + 20)
    (report,) = sandbox.reports(account="acct_other")
    told = stripe_client.parse_event_notification_without_verification(thin(report))
    assert str(told.context) == "acct_other"
    assert isinstance(told, V1BillingMeterErrorReportTriggeredEventNotification)
    assert told.fetch_event().id == report["id"]
    assert told.fetch_related_object().id == meter_id(other) != meter_id(stripe_client)
    with pytest.raises(stripe.InvalidRequestError):
        stripe_client.v2.core.events.retrieve(report["id"])
    assert [event["id"] for event in sandbox.reports()] != [report["id"]]


def test_an_event_of_an_unknown_type_can_be_made(
    sandbox: RunningSandbox, stripe_client: StripeClient
) -> None:
    """It is listed among the others, and the library reads it without knowing it."""
    reported(sandbox, stripe_client, 1)
    made = sandbox.notify("v9.weather.changed")
    told = stripe_client.parse_event_notification_without_verification(thin(made))
    assert isinstance(told, UnknownEventNotification)
    assert told.fetch_event().type == "v9.weather.changed"
    assert [event.type for event in stripe_client.v2.core.events.list()] == ["v9.weather.changed", REPORT]
    with pytest.raises(ValueError, match="send"):
        sandbox.control("POST", "notifications", {})
