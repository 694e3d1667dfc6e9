"""The endpoints of `/v2` but for the stream: JSON in both directions, RFC 3339 times, an error table of its own.

From docs.stripe.com/api/v2/billing/meter-event and docs.stripe.com/api/v2/core/events.
"""

from aggregator.sandbox import adjustments
from aggregator.sandbox.errors import unknown_param
from aggregator.sandbox.refusals import refuse_v2
from aggregator.sandbox.request import Endpoint, Request
from aggregator.sandbox.sent import read_object
from aggregator.sandbox.times import instant


def read_event(request: Request) -> None:
    """Read the event of a call and find its meter."""
    sent = read_object(request.body, request.rules)
    request.draft(sent, f"No meter was found matching event_name {sent.event_name}.", refuse_v2)


def create_event(request: Request) -> dict[str, object]:
    """POST /v2/billing/meter_events."""
    return {"object": "v2.billing.meter_event", **request.take(refuse_v2, instant)}


def create_adjustment(request: Request) -> dict[str, object]:
    """POST /v2/billing/meter_event_adjustments."""
    now, account, rules = request.store.clock.now(), request.account, request.rules
    wanted = adjustments.read_object(request.body, rules)
    cancellation = account.events.cancel(wanted, now, rules, code=rules.cancel_code_v2)
    return adjustments.show_v2(cancellation, now, livemode=account.livemode)


def create_session(request: Request) -> dict[str, object]:
    """POST /v2/billing/meter_event_session."""
    for key in request.body:
        if not request.rules.v2_unknown_fields:
            raise unknown_param(key)
    return request.store.open_session(request.account).json()


def list_events(request: Request) -> dict[str, object]:
    """GET /v2/core/events."""
    store = request.store
    return request.account.notifications.page(request.params, store.clock.now(), store.rules)


def retrieve_event(request: Request) -> dict[str, object]:
    """GET /v2/core/events/{id}."""
    store = request.store
    return request.account.notifications.get(request.name, store.clock.now(), store.rules)


FIXED: dict[tuple[str, str], Endpoint] = {
    ("POST", "/v2/billing/meter_events"): Endpoint(create_event, "meter_events_write", read_event),
    ("POST", "/v2/billing/meter_event_adjustments"): Endpoint(
        create_adjustment, "meter_event_adjustments_write"
    ),
    ("POST", "/v2/billing/meter_event_session"): Endpoint(create_session, "sessions_write"),
    ("GET", "/v2/core/events"): Endpoint(list_events, "events_read"),
}

NAMED: dict[tuple[str, str], Endpoint] = {
    ("GET", "/v2/core/events/{id}"): Endpoint(retrieve_event, "events_read"),
}
