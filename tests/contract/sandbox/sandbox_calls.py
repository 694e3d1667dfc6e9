"""Calls that the sandbox's tests make: Stripe's own library where it can say it, plain HTTP where it cannot."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from http.client import HTTPConnection, HTTPMessage
from typing import Any, NamedTuple
from urllib.parse import urlencode, urlsplit

from stripe import StripeClient
from stripe.billing import MeterEvent, MeterEventAdjustment, MeterEventSummary
from stripe.params.billing import MeterEventCreateParams, MeterListEventSummariesParams
from stripe.params.v2.billing import MeterEventStreamCreateParamsEvent
from stripe.v2.billing import MeterEvent as MeterEventV2
from stripe.v2.billing import MeterEventAdjustment as MeterEventAdjustmentV2

from aggregator.sandbox import ControlClient

# 2026-01-15 12:00 UTC, where every test starts.
NOON = 1_768_478_400
MINUTE, HOUR, DAY = 60, 3600, 86400

EVENTS = "/v1/billing/meter_events"
TEST_KEY = "sk_test_sandbox"
LIVE_KEY = "sk_live_sandbox"


class Answer(NamedTuple):
    """One HTTP answer."""

    status: int
    headers: HTTPMessage
    json: dict[str, Any]


def connect(url: str, key: str = TEST_KEY) -> StripeClient:
    """Return the official client, pointed at the sandbox and told not to retry."""
    return StripeClient(
        key,
        base_addresses={"api": url, "connect": url, "files": url, "meter_events": url},
        max_network_retries=0,
    )


def send(
    client: StripeClient,
    value: str = "1",
    *,
    customer: str = "cus_a",
    event_name: str = "api_requests",
    identifier: str | None = None,
    timestamp: int | None = None,
    key: str | None = None,
) -> MeterEvent:
    """Create one meter event."""
    params: MeterEventCreateParams = {
        "event_name": event_name,
        "payload": {"stripe_customer_id": customer, "value": value},
    }
    if identifier is not None:
        params["identifier"] = identifier
    if timestamp is not None:
        params["timestamp"] = timestamp
    return client.v1.billing.meter_events.create(params, {"idempotency_key": key} if key else {})


def meter_id(client: StripeClient, event_name: str = "api_requests") -> str:
    """Return the id of the meter with an event name."""
    meters = client.v1.billing.meters.list({"limit": 100})
    return next(meter.id for meter in meters.auto_paging_iter() if meter.event_name == event_name)


def summaries(
    client: StripeClient,
    start: int,
    end: int,
    *,
    customer: str = "cus_a",
    event_name: str = "api_requests",
    grouping: Any = None,
) -> list[MeterEventSummary]:
    """Return every summary of a range, all pages of it."""
    params: MeterListEventSummariesParams = {"customer": customer, "start_time": start, "end_time": end}
    if grouping is not None:
        params["value_grouping_window"] = grouping
    listing = client.v1.billing.meters.event_summaries.list(meter_id(client, event_name), params)
    return list(listing.auto_paging_iter())


def used(client: StripeClient, start: int = NOON - DAY, end: int = NOON + DAY, **query: Any) -> float:
    """Return the one value of an ungrouped range."""
    (row,) = summaries(client, start, end, **query)
    return row.aggregated_value


def meter_usage(url: str, version: str = "2025-09-30.preview", **query: object) -> Answer:
    """Ask for meter usage; names with brackets are given as they are."""
    return call(
        url,
        "GET",
        f"/v1/billing/analytics/meter_usage?{urlencode(query)}",
        headers={"Stripe-Version": version},
    )


def call(
    url: str,
    method: str,
    path: str,
    form: dict[str, str] | None = None,
    headers: dict[str, str] | None = None,
    body: str | None = None,
) -> Answer:
    """Make one plain HTTP call with a test key, with a form or with a body as it is."""
    parts = urlsplit(url)
    connection = HTTPConnection(parts.hostname or "", parts.port, timeout=20)
    try:
        sent = {"Authorization": f"Bearer {TEST_KEY}", **(headers or {})}
        connection.request(method, path, urlencode(form) if form else body, sent)
        response = connection.getresponse()
        return Answer(response.status, response.headers, json.loads(response.read()))
    finally:
        connection.close()


def event_form(value: str = "1", **other: str) -> dict[str, str]:
    """Return the form of a good event, with fields replaced or added."""
    form = {"event_name": "api_requests", "payload[stripe_customer_id]": "cus_a", "payload[value]": value}
    return form | other


def post_event(url: str, form: dict[str, str], key: str | None = None) -> Answer:
    """Post one event as plain HTTP."""
    return call(url, "POST", EVENTS, form, {"Idempotency-Key": key} if key else None)


def reasons(sandbox: ControlClient) -> list[str | None]:
    """Return for each accepted event why it does not count, or None."""
    return [event["reason"] for event in sandbox.events()]


# -- version 2 ------------------------------------------------------------------------------------


def connected(url: str, account: str, key: str = TEST_KEY) -> StripeClient:
    """Return the official client for a connected account."""
    return StripeClient(key, base_addresses={"api": url}, stripe_account=account, max_network_retries=0)


def iso(seconds: float) -> str:
    """Return unix seconds as version 2 writes them."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def event_v2(
    value: str = "1",
    *,
    customer: str = "cus_a",
    event_name: str = "api_requests",
    identifier: str | None = None,
    timestamp: int | None = None,
    **payload: str,
) -> MeterEventStreamCreateParamsEvent:
    """Return the parameters of one event of version 2 or of the stream."""
    event: MeterEventStreamCreateParamsEvent = {
        "event_name": event_name,
        "payload": {"stripe_customer_id": customer, "value": value, **payload},
    }
    if identifier is not None:
        event["identifier"] = identifier
    if timestamp is not None:
        event["timestamp"] = iso(timestamp)
    return event


def send_v2(client: StripeClient, value: str = "1", **other: Any) -> MeterEventV2:
    """Create one meter event through version 2."""
    return client.v2.billing.meter_events.create(event_v2(value, **other))


def streamer(client: StripeClient, url: str) -> StripeClient:
    """Return a client whose key is the token of a new session."""
    return connect(url, client.v2.billing.meter_event_session.create().authentication_token)


def stream(client: StripeClient, *events: MeterEventStreamCreateParamsEvent) -> None:
    """Send events through the stream."""
    client.v2.billing.meter_event_stream.create({"events": list(events)})


def post_json(url: str, path: str, body: object, headers: dict[str, str] | None = None) -> Answer:
    """Post JSON as plain HTTP with a test key."""
    return call(url, "POST", path, None, headers, json.dumps(body))


def kinds(report: Mapping[str, Any]) -> dict[str, tuple[int, list[str]]]:
    """Return of a report, by code, how many errors it counts and which identifiers it names."""
    return {
        kind["code"]: (
            kind["error_count"],
            [sample["request"]["identifier"] for sample in kind["sample_errors"]],
        )
        for kind in report["data"]["reason"]["error_types"]
    }


def cancel(
    client: StripeClient, identifier: str, event_name: str = "api_requests", key: str | None = None
) -> MeterEventAdjustment:
    """Cancel one event through version 1."""
    return client.v1.billing.meter_event_adjustments.create(
        {"event_name": event_name, "type": "cancel", "cancel": {"identifier": identifier}},
        {"idempotency_key": key} if key else {},
    )


def cancel_v2(
    client: StripeClient, identifier: str, event_name: str = "api_requests"
) -> MeterEventAdjustmentV2:
    """Cancel one event through version 2."""
    return client.v2.billing.meter_event_adjustments.create(
        {"event_name": event_name, "type": "cancel", "cancel": {"identifier": identifier}}
    )
