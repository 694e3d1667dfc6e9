"""Every answer is of the type that Stripe's library declares for it."""

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import pytest
import stripe
from stripe import StripeClient, StripeObject
from stripe._stripe_object import UntypedStripeObject
from stripe.billing import Meter, MeterEvent, MeterEventAdjustment, MeterEventSummary
from stripe.events import V1BillingMeterErrorReportTriggeredEvent, V1BillingMeterNoMeterFoundEvent
from stripe.v2.billing import MeterEvent as MeterEventV2
from stripe.v2.billing import MeterEventAdjustment as MeterEventAdjustmentV2
from stripe.v2.billing import MeterEventSession

from aggregator.sandbox import RunningSandbox
from aggregator.sandbox.meter_usage import PATH
from aggregator.sandbox.routes import FIXED, NAMED
from tests.contract.sandbox.declared import fields, mistakes
from tests.contract.sandbox.sandbox_calls import (
    DAY,
    NOON,
    call,
    event_form,
    event_v2,
    meter_id,
    meter_usage,
    post_json,
    send,
    stream,
    streamer,
)

METER = "/v1/billing/meters/{id}"
CANCEL = {"event_name": "api_requests", "type": "cancel"}


UNDECLARED = ".type is 'data_management.import_set."
"""Of these Stripe's page on bulk imports speaks, and its library's list of types does not."""


class World(NamedTuple):
    """What the calls below may speak of."""

    url: str
    meter: str
    event: str
    token: str

    def get(self, path: str) -> Any:
        """Return the JSON of a GET."""
        return self._good(call(self.url, "GET", path))

    def usage(self, **query: Any) -> Any:
        """Return the JSON of a call for meter usage."""
        return self._good(meter_usage(self.url, **query))

    def form(self, path: str, **form: str) -> Any:
        """Return the JSON of a POST of version 1."""
        return self._good(call(self.url, "POST", path, form))

    def json(self, path: str, body: object, token: str | None = None) -> Any:
        """Return the JSON of a POST of version 2."""
        headers = {"Authorization": f"Bearer {token}"} if token else None
        return self._good(post_json(self.url, path, body, headers))

    @staticmethod
    def _good(answer: Any) -> Any:
        assert answer.status == 200, answer.json
        return answer.json


class MeterUsageRow(StripeObject):
    """As the library's preview releases declare it (stripe 16.1.0b1, 16.1.0a4); those of ours have no such class."""

    dimensions: UntypedStripeObject[str] | None
    ends_at: int
    id: str
    meter: str | None
    object: Literal["billing.analytics.meter_usage_row"]
    starts_at: int
    value: float


class MeterUsageRows(StripeObject):
    """A list, with the `total` that Stripe's page shows (docs.stripe.com/api/billing/analytics/meter-usage/object)."""

    object: Literal["list"]
    data: list[MeterUsageRow]
    has_more: bool
    total: int
    url: str


class MeterUsage(StripeObject):
    """As the library's preview releases declare it."""

    livemode: bool
    object: Literal["billing.analytics.meter_usage"]
    refreshed_at: int
    rows: MeterUsageRows


class Listed(NamedTuple):
    """The type of a list's items."""

    item: type[StripeObject]


SUMMARIES = f"customer=cus_a&start_time={NOON - DAY}&end_time={NOON + DAY}"
NEW_METER = {"display_name": "New", "event_name": "new", "default_aggregation[formula]": "sum"}

Make = Callable[[World], Any]
Declared = type[StripeObject] | Listed | None

ANSWERS: dict[tuple[str, str], tuple[Declared, Make]] = {
    ("POST", "/v1/billing/meters"): (Meter, lambda w: w.form("/v1/billing/meters", **NEW_METER)),
    ("GET", "/v1/billing/meters"): (Listed(Meter), lambda w: w.get("/v1/billing/meters")),
    ("GET", METER): (Meter, lambda w: w.get(f"/v1/billing/meters/{w.meter}")),
    ("POST", METER): (Meter, lambda w: w.form(f"/v1/billing/meters/{w.meter}", display_name="Other")),
    ("POST", f"{METER}/deactivate"): (Meter, lambda w: w.form(f"/v1/billing/meters/{w.meter}/deactivate")),
    ("POST", f"{METER}/reactivate"): (Meter, lambda w: w.form(f"/v1/billing/meters/{w.meter}/reactivate")),
    ("GET", f"{METER}/event_summaries"): (
        Listed(MeterEventSummary),
        lambda w: w.get(f"/v1/billing/meters/{w.meter}/event_summaries?{SUMMARIES}"),
    ),
    ("POST", "/v1/billing/meter_events"): (
        MeterEvent,
        lambda w: w.form("/v1/billing/meter_events", **event_form()),
    ),
    ("POST", "/v1/billing/meter_event_adjustments"): (
        MeterEventAdjustment,
        lambda w: w.form("/v1/billing/meter_event_adjustments", **CANCEL, **{"cancel[identifier]": "e-1"}),
    ),
    ("GET", PATH): (
        MeterUsage,
        lambda w: w.usage(customer="cus_a", starts_at=NOON - DAY, ends_at=NOON + DAY),
    ),
    ("POST", "/v1/customers"): (stripe.Customer, lambda w: w.form("/v1/customers", name="Ada")),
    ("GET", "/v1/customers"): (Listed(stripe.Customer), lambda w: w.get("/v1/customers")),
    ("GET", "/v1/customers/{id}"): (stripe.Customer, lambda w: w.get("/v1/customers/cus_a")),
    ("GET", "/v1/account"): (stripe.Account, lambda w: w.get("/v1/account")),
    ("GET", "/v1/events"): (Listed(stripe.Event), lambda w: w.get("/v1/events")),
    ("POST", "/v2/billing/meter_events"): (
        MeterEventV2,
        lambda w: w.json("/v2/billing/meter_events", event_v2()),
    ),
    ("POST", "/v2/billing/meter_event_adjustments"): (
        MeterEventAdjustmentV2,
        lambda w: w.json("/v2/billing/meter_event_adjustments", {**CANCEL, "cancel": {"identifier": "e-1"}}),
    ),
    ("POST", "/v2/billing/meter_event_session"): (
        MeterEventSession,
        lambda w: w.json("/v2/billing/meter_event_session", {}),
    ),
    ("POST", "/v2/billing/meter_event_stream"): (
        None,
        lambda w: w.json("/v2/billing/meter_event_stream", {"events": [event_v2()]}, w.token),
    ),
    ("GET", "/v2/core/events"): (
        Listed(V1BillingMeterErrorReportTriggeredEvent),
        lambda w: w.get("/v2/core/events?types[0]=v1.billing.meter.error_report_triggered"),
    ),
    ("GET", "/v2/core/events/{id}"): (
        V1BillingMeterErrorReportTriggeredEvent,
        lambda w: w.get(f"/v2/core/events/{w.event}"),
    ),
}


@pytest.fixture
def world(sandbox: RunningSandbox, stripe_client: StripeClient) -> World:
    """A sandbox in which every kind of object is to be found."""
    stripe_client.v1.customers.create({"name": "Ada", "metadata": {"team": "blue"}})
    send(stripe_client, identifier="e-1")
    send(stripe_client, "many", identifier="e-2")
    sandbox.set_rules(meter_usage=True)
    sandbox.import_set("failed", "usage-1.csv", reason="no column value")
    sandbox.set_time(NOON + 20)
    token = stripe_client.v2.billing.meter_event_session.create().authentication_token
    return World(sandbox.url, meter_id(stripe_client), sandbox.reports()[0]["id"], token)


def test_every_endpoint_is_checked() -> None:
    """The table above has each that the sandbox speaks, and no other."""
    assert ANSWERS.keys() == FIXED.keys() | NAMED.keys()


@pytest.mark.parametrize("endpoint", ANSWERS, ids=" ".join)
def test_an_answer_is_of_its_declared_type(world: World, endpoint: tuple[str, str]) -> None:
    """All required fields, each of its kind, none made up, in nested classes as well."""
    declared, make = ANSWERS[endpoint]
    answer = make(world)
    if isinstance(declared, Listed):
        assert answer["data"]
        found = [each for item in answer["data"] for each in mistakes(item, declared.item)]
        assert [each for each in found if UNDECLARED not in each] == []
        v1 = {"object", "data", "has_more", "url"}
        v2 = {"data", "next_page_url", "previous_page_url"}
        assert answer.keys() == (v2 if endpoint[1].startswith("/v2") else v1)
    elif declared is None:
        assert answer == {}
    else:
        assert mistakes(answer, declared) == []


def test_the_report_without_a_meter_is_of_its_declared_type(
    sandbox: RunningSandbox, stripe_client: StripeClient
) -> None:
    """Stripe's documents show it with an empty `related_object`, which the library does not declare."""
    stream(streamer(stripe_client, sandbox.url), event_v2(event_name="nothing"))
    sandbox.set_time(NOON + 20)
    (report,) = sandbox.reports()
    event = call(sandbox.url, "GET", f"/v2/core/events/{report['id']}").json
    assert mistakes(event, V1BillingMeterNoMeterFoundEvent) == [
        ".related_object is not declared in V1BillingMeterNoMeterFoundEvent"
    ]


# -- the checker itself ---------------------------------------------------------------------------


GOOD: dict[str, Any] = {
    "id": "mtr_1",
    "object": "billing.meter",
    "created": 1,
    "customer_mapping": {"event_payload_key": "stripe_customer_id", "type": "by_id"},
    "default_aggregation": {"formula": "sum"},
    "display_name": "A",
    "event_name": "a",
    "event_time_window": None,
    "livemode": False,
    "status": "active",
    "status_transitions": {"deactivated_at": None},
    "updated": 1,
    "value_settings": {"event_payload_key": "value"},
}


@pytest.mark.parametrize(
    ("change", "mistake"),
    [
        (
            {"created": "2026-01-15T12:00:00.000Z"},
            ".created is '2026-01-15T12:00:00.000Z', not <class 'int'>",
        ),
        ({"created": True}, ".created is True, not <class 'int'>"),
        ({"livemode": None}, ".livemode is None, not <class 'bool'>"),
        ({"object": "meter"}, ".object is 'meter', not one of ('billing.meter',)"),
        ({"colour": "red"}, ".colour is not declared in Meter"),
        ({"event_time_window": 1}, ".event_time_window is 1, not one of ('day', 'hour')"),
        ({"default_aggregation": {"formula": 1}}, ".default_aggregation.formula is 1, not one of"),
        ({"customer_mapping": {"type": "by_id"}}, ".customer_mapping.event_payload_key is missing"),
        ({"status_transitions": []}, ".status_transitions is [], not a StatusTransitions"),
    ],
)
def test_a_wrong_answer_is_found(change: Mapping[str, object], mistake: str) -> None:
    """Each seeded mistake is named with its place; without it there is none."""
    assert mistakes(GOOD, Meter) == []
    (found,) = mistakes({**GOOD, **change}, Meter)
    assert found.startswith(mistake)


@pytest.mark.parametrize("name", sorted(GOOD.keys() - {"event_time_window"}))
def test_a_missing_field_is_found(name: str) -> None:
    """Every one that is not Optional."""
    assert mistakes({key: value for key, value in GOOD.items() if key != name}, Meter) == [
        f".{name} is missing"
    ]


def test_a_mistake_in_a_list_within_is_found() -> None:
    """Down to the sample of an error report."""
    declared, _ = fields(V1BillingMeterErrorReportTriggeredEvent)["data"]
    sample = {"error_message": "No.", "request": {"identifier": 5}}
    kind = {"code": "no_meter", "error_count": 1, "sample_errors": [sample]}
    data = {
        "developer_message_summary": "There is 1 invalid event",
        "reason": {"error_count": 1, "error_types": [kind]},
        "validation_start": "2026-01-15T12:00:00.000Z",
        "validation_end": "2026-01-15T12:00:10.000Z",
    }
    assert mistakes(data, declared) == [
        ".reason.error_types[0].sample_errors[0].request.identifier is 5, not <class 'str'>"
    ]


def test_a_declaration_that_cannot_be_read_is_an_error() -> None:
    """It does not pass for want of understanding."""
    with pytest.raises(TypeError, match="cannot read"):
        mistakes(1, complex)
