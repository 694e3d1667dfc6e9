"""Later rejections: an accepted event that is found invalid stops counting, and a report tells of it (B5)."""

import json
from typing import Any

import pytest
import stripe
from stripe import StripeClient
from stripe.events import (
    V1BillingMeterErrorReportTriggeredEvent,
    V1BillingMeterErrorReportTriggeredEventNotification,
)

from aggregator.sandbox import Rules, RunningSandbox
from aggregator.sandbox.reports import Findings, Invalid
from tests.contract.sandbox.sandbox_calls import (
    DAY,
    HOUR,
    NOON,
    connect,
    event_form,
    kinds,
    meter_id,
    post_event,
    reasons,
    send,
    used,
)

GONE = "meter_event_customer_not_found"


def named(reports: list[dict[str, Any]]) -> list[str]:
    """Return every identifier that is named, in the order of the reports."""
    return [name for report in reports for _, names in kinds(report).values() for name in names]


# -- what becomes of the event --------------------------------------------------------------------


def test_a_rejected_event_counts_until_it_is_found_invalid(
    sandbox: RunningSandbox, stripe_client: StripeClient
) -> None:
    """The answer was a 200; an hour later totals, summaries and the log say that it does not count."""
    sandbox.set_faults(reject_later=1.0, reject_after_seconds=HOUR, times=1)
    send(stripe_client, "5", identifier="e-1")
    send(stripe_client, "2", identifier="e-2")
    assert (sandbox.totals("api_requests"), used(stripe_client)) == ({"cus_a": 7}, 7.0)
    assert (reasons(sandbox), sandbox.reports()) == ([None, None], [])
    sandbox.set_time(NOON + HOUR + 60)
    assert (sandbox.totals("api_requests"), used(stripe_client)) == ({"cus_a": 2}, 2.0)
    assert reasons(sandbox) == [GONE, None]
    assert named(sandbox.reports()) == ["e-1"]


def test_a_rejected_event_may_never_count(sandbox: RunningSandbox, stripe_client: StripeClient) -> None:
    """Without `count_until_rejected` it is missing from the first, long before the report."""
    sandbox.set_faults(reject_later=1.0, reject_after_seconds=HOUR, count_until_rejected=False)
    send(stripe_client, "5", identifier="e-1")
    assert (sandbox.totals("api_requests"), used(stripe_client)) == ({"cus_a": 0}, 0.0)
    assert sandbox.reports() == []
    sandbox.set_time(NOON + HOUR + 60)
    assert named(sandbox.reports()) == ["e-1"]


def test_the_delay_of_a_rejection_lies_within_its_range(
    sandbox: RunningSandbox, stripe_client: StripeClient
) -> None:
    """None is found before the least, all are by the most, and some in between."""
    sandbox.set_faults(reject_later=1.0, reject_after_seconds=[HOUR, 3 * HOUR])
    for number in range(40):
        send(stripe_client, identifier=f"e-{number}")
    sandbox.set_time(NOON + HOUR - 60)
    assert sandbox.totals("api_requests") == {"cus_a": 40}
    sandbox.set_time(NOON + 2 * HOUR)
    assert 5 < sandbox.totals("api_requests")["cus_a"] < 35
    sandbox.set_time(NOON + 3 * HOUR + 60)
    assert sandbox.totals("api_requests") == {"cus_a": 0}


def test_chosen_customers_events_are_always_rejected(
    sandbox: RunningSandbox, stripe_client: StripeClient
) -> None:
    """Nobody else's are, and chances may be kept to others."""
    sandbox.set_faults(reject_customers=["cus_bad"], only_customers=["cus_other"], reject_code="no_meter")
    send(stripe_client, customer="cus_bad", identifier="e-1")
    send(stripe_client, customer="cus_good", identifier="e-2")
    sandbox.set_time(NOON + 60)
    assert reasons(sandbox) == ["no_meter", None]
    assert [kinds(report) for report in sandbox.reports()] == [{"no_meter": (1, ["e-1"])}]


def test_about_as_many_are_rejected_as_the_chance_says(
    sandbox: RunningSandbox, stripe_client: StripeClient
) -> None:
    """A third of them, more or less."""
    sandbox.set_faults(reject_later=0.3)
    for _ in range(100):
        send(stripe_client)
    assert 15 < reasons(sandbox).count(GONE) < 50


def test_an_event_refused_or_replayed_is_not_rejected_later(sandbox: RunningSandbox) -> None:
    """Only what a call has added to the log is rejected by it, never what lay there before."""
    post_event(sandbox.url, event_form("5", identifier="e-1"), key="k-1")
    sandbox.set_faults(reject_later=1.0)
    assert post_event(sandbox.url, event_form("5", identifier="e-1"), key="k-1").status == 200
    assert post_event(sandbox.url, event_form("5", identifier="e-1")).status == 400
    sandbox.set_time(NOON + 60)
    assert (reasons(sandbox), sandbox.reports()) == ([None], [])


def test_the_chance_of_a_rejection_is_kept_to_events_of_chosen_customers(
    sandbox: RunningSandbox, stripe_client: StripeClient
) -> None:
    """Others are spared, and no other call has an event rejected, even if faults touch every call."""
    send(stripe_client, customer="cus_bad", identifier="e-1")
    sandbox.set_faults(reject_later=1.0, only_customers=["cus_bad"])
    send(stripe_client, customer="cus_good", identifier="e-2")
    sandbox.set_faults(reject_later=1.0, applies_to="all")
    used(stripe_client)
    sandbox.set_time(NOON + 60)
    assert (reasons(sandbox), sandbox.reports()) == ([None, None], [])


def test_an_event_is_found_invalid_once(sandbox: RunningSandbox, stripe_client: StripeClient) -> None:
    """What is wrong by itself is not rejected a second time by a fault."""
    sandbox.set_rules(report_window_seconds=0)
    sandbox.set_faults(reject_customers=["cus_a"], reject_code="no_meter")
    send(stripe_client, "many", identifier="e-1")
    assert [kinds(report) for report in sandbox.reports()] == [{"meter_event_invalid_value": (1, ["e-1"])}]


def test_within_a_window_the_event_before_a_rejected_one_counts_again(
    sandbox: RunningSandbox, stripe_client: StripeClient
) -> None:
    """An invalid event takes nobody's place for good."""
    send(stripe_client, "5", event_name="stored_gb", timestamp=NOON)
    sandbox.set_faults(reject_later=1.0, reject_after_seconds=HOUR)
    send(stripe_client, "7", event_name="stored_gb", timestamp=NOON)
    assert (sandbox.totals("stored_gb"), reasons(sandbox)) == ({"cus_a": 7}, ["replaced", None])
    sandbox.set_time(NOON + HOUR + 60)
    assert (sandbox.totals("stored_gb"), reasons(sandbox)) == ({"cus_a": 5}, [None, GONE])


# -- its identifier -------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["5", "many"])
def test_a_rejected_event_has_used_up_its_identifier(
    sandbox: RunningSandbox, stripe_client: StripeClient, value: str
) -> None:
    """By default a corrected event needs an identifier of its own."""
    sandbox.set_faults(reject_customers=["cus_a"])
    send(stripe_client, value, identifier="e-1")
    sandbox.set_time(NOON + 60)
    with pytest.raises(stripe.InvalidRequestError, match="already exists"):
        send(stripe_client, identifier="e-1")


@pytest.mark.parametrize("value", ["5", "many"])
def test_a_rejected_identifier_may_be_free_again(
    sandbox: RunningSandbox, stripe_client: StripeClient, value: str
) -> None:
    """By the other rule it can be used once more, when the event is found invalid and no sooner, and then no more."""
    sandbox.set_rules(rejected_identifier_used=False, processing_delay_seconds=HOUR)
    sandbox.set_faults(reject_customers=["cus_a"], reject_after_seconds=HOUR)
    send(stripe_client, value, identifier="e-1")
    sandbox.set_faults()
    with pytest.raises(stripe.InvalidRequestError, match="already exists"):
        send(stripe_client, "2", identifier="e-1")
    sandbox.set_time(NOON + HOUR + 60)
    send(stripe_client, "2", identifier="e-1")
    with pytest.raises(stripe.InvalidRequestError, match="already exists"):
        send(stripe_client, "2", identifier="e-1")
    assert sandbox.totals("api_requests") == {"cus_a": 2}
    assert sandbox.stats()["double_counted"] == 0


def test_an_identifier_is_remembered_though_an_earlier_event_of_it_was_rejected(
    sandbox: RunningSandbox, stripe_client: StripeClient
) -> None:
    """What counts is the event accepted last: resent after a day it is counted twice, and said to be."""
    sandbox.set_faults(reject_later=1.0, times=1)
    for day in range(3):
        sandbox.set_time(NOON + day * (DAY + 60))
        send(stripe_client, "5", identifier="e-1")
    assert sandbox.totals("api_requests") == {"cus_a": 10}
    assert sandbox.stats()["double_counted"] == 1


# -- the report -----------------------------------------------------------------------------------


def test_a_report_counts_all_and_names_some(sandbox: RunningSandbox, stripe_client: StripeClient) -> None:
    """Of seven unreadable values five are named, in the order of receipt; another kind stands apart."""
    sandbox.set_time(NOON)
    for number in range(7):
        send(stripe_client, "many", identifier=f"v-{number}")
    send(stripe_client, customer="nobody", identifier="c-1")
    sandbox.set_time(NOON + 60)
    counted = {"meter_event_invalid_value": 0, GONE: 0}
    names: list[str] = []
    for report in sandbox.reports():
        for code, (count, some) in kinds(report).items():
            counted[code] += count
            names += some
    assert counted == {"meter_event_invalid_value": 7, GONE: 1}
    assert names[:5] == [f"v-{number}" for number in range(5)]


@pytest.mark.parametrize(("samples", "names"), [(0, []), (1, ["e-0"]), (9, ["e-0", "e-1", "e-2"])])
def test_how_many_a_report_names_can_be_set(
    sandbox: RunningSandbox, stripe_client: StripeClient, samples: int, names: list[str]
) -> None:
    """At most so many; the count stays the same."""
    sandbox.set_rules(report_samples=samples, report_window_seconds=DAY)
    for number in range(3):
        send(stripe_client, "many", identifier=f"e-{number}")
    sandbox.set_time(NOON + DAY)
    (report,) = sandbox.reports()
    assert kinds(report) == {"meter_event_invalid_value": (3, names)}
    assert report["data"]["reason"]["error_count"] == 3


def test_stripes_library_reads_a_report(sandbox: RunningSandbox, stripe_client: StripeClient) -> None:
    """It has the shape of the event that Stripe shows, and of its notification, which has no data."""
    sandbox.set_rules(report_window_seconds=HOUR)
    send(stripe_client, "many", identifier="e-1")
    sandbox.set_time(NOON + HOUR)
    (report,) = sandbox.reports()
    event = stripe_client.deserialize(report, api_mode="V2")
    assert isinstance(event, V1BillingMeterErrorReportTriggeredEvent)
    (kind,) = event.data.reason.error_types
    (sample,) = kind.sample_errors
    assert (event.data.reason.error_count, kind.error_count) == (1, 1)
    assert event.data.developer_message_summary == "There is 1 invalid event"
    assert (kind.code, sample.request.identifier) == ("meter_event_invalid_value", "e-1")
    assert sample.error_message == "The value 'many' is not a number in plain digits."
    del report["data"]
    notification = stripe_client.parse_event_notification_without_verification(json.dumps(report))
    assert isinstance(notification, V1BillingMeterErrorReportTriggeredEventNotification)
    assert notification.related_object.id == meter_id(stripe_client)
    assert notification.fetch_related_object().event_name == "api_requests"


def test_a_report_is_there_when_its_span_is_over(
    sandbox: RunningSandbox, stripe_client: StripeClient
) -> None:
    """Not before; the span is the one in which the event was found invalid, not the one of its receipt."""
    sandbox.set_rules(report_window_seconds=10)
    sandbox.set_faults(reject_later=1.0, reject_after_seconds=HOUR)
    send(stripe_client)
    sandbox.set_time(NOON + HOUR - 30)
    assert sandbox.reports() == []
    sandbox.set_time(NOON + HOUR + 60)
    (report,) = sandbox.reports()
    data = report["data"]
    assert data["validation_start"][:17] == "2026-01-15T13:00:"
    assert (data["validation_start"][-6:], data["validation_end"][-6:]) == ("0.000Z", "0.000Z")
    assert report["created"] == data["validation_end"] > data["validation_start"]


def test_without_a_window_each_event_has_its_report_at_once(
    sandbox: RunningSandbox, stripe_client: StripeClient
) -> None:
    """For tests that have no time to lose."""
    sandbox.set_rules(report_window_seconds=0)
    for number in range(3):
        send(stripe_client, "many", identifier=f"e-{number}")
    assert named(sandbox.reports()) == ["e-0", "e-1", "e-2"]
    assert len(sandbox.reports()) == 3


def test_what_is_not_processed_yet_is_not_reported_yet(
    sandbox: RunningSandbox, stripe_client: StripeClient
) -> None:
    """An unreadable value is found out by processing, which takes its time."""
    sandbox.set_rules(processing_delay_seconds=HOUR, report_window_seconds=0)
    send(stripe_client, "many", identifier="e-1")
    assert sandbox.reports() == []
    sandbox.set_time(NOON + HOUR + 60)
    assert named(sandbox.reports()) == ["e-1"]


def test_reports_are_read_on_from_the_last_one_seen(
    sandbox: RunningSandbox, stripe_client: StripeClient
) -> None:
    """`after` leaves out what was read; what was read stays as it is, and an id that is none is refused."""
    sandbox.set_rules(report_window_seconds=0)
    send(stripe_client, "many", identifier="e-1")
    (first,) = sandbox.reports()
    assert sandbox.reports(after=first["id"]) == []
    send(stripe_client, "many", identifier="e-2")
    (second,) = sandbox.reports(after=first["id"])
    assert (named([second]), sandbox.reports()) == (["e-2"], [first, second])
    with pytest.raises(ValueError, match="evt_nothing"):
        sandbox.reports(after="evt_nothing")


def test_meters_modes_and_accounts_have_reports_of_their_own(
    sandbox: RunningSandbox, stripe_client: StripeClient, live_client: StripeClient
) -> None:
    """Each names its meter; the ids of live mode say so."""
    sandbox.set_rules(report_window_seconds=HOUR)
    other = connect(sandbox.url)
    form = event_form("many", identifier="o-1")
    send(stripe_client, "many", identifier="t-1")
    send(stripe_client, "many", event_name="seats", identifier="t-2")
    send(live_client, "many", identifier="l-1")
    other.raw_request("post", "/v1/billing/meter_events", **_nested(form), stripe_account="acct_other")
    sandbox.set_time(NOON + HOUR)
    meters = [report["related_object"]["id"] for report in sandbox.reports()]
    assert meters == [meter_id(stripe_client), meter_id(stripe_client, "seats")]
    assert named(sandbox.reports()) == ["t-1", "t-2"]
    (live,) = sandbox.reports(livemode=True)
    assert (named([live]), live["livemode"], live["id"][:9]) == (["l-1"], True, "evt_live_")
    assert named(sandbox.reports(account="acct_other")) == ["o-1"]


def _nested(form: dict[str, str]) -> dict[str, Any]:
    flat = {name: value for name, value in form.items() if "[" not in name}
    payload = {name[8:-1]: value for name, value in form.items() if "[" in name}
    return {**flat, "payload": payload}


def test_a_finding_that_comes_too_late_for_its_report_gets_another() -> None:
    """Whatever the clock does, a report that was read never changes, and nothing is left out."""
    findings = Findings(tag="test_", context=None, note=lambda kind, record: None)
    wrong = Invalid(GONE, "gone")
    findings.add((1, "e-1", "mtr_1"), wrong, 101.0, counts=True, span_seconds=10.0)
    (first,) = [dict(report) for report in findings.reports(110.0, Rules())]
    findings.add((2, "e-2", "mtr_1"), wrong, 102.0, counts=True, span_seconds=10.0)
    reports = findings.reports(110.0, Rules())
    assert reports[0] == first
    assert named(list(reports)) == ["e-1", "e-2"]
    assert len({report["id"] for report in reports}) == 2
