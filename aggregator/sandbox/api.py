"""The endpoints of `/v1`.

Handlers take a request and return the object to answer; refusals are raised. They neither wait nor know of faults,
idempotency or HTTP.
"""

from aggregator.sandbox import adjustments
from aggregator.sandbox.errors import not_found
from aggregator.sandbox.meter_usage import PATH as METER_USAGE
from aggregator.sandbox.meter_usage import retrieve_meter_usage
from aggregator.sandbox.paging import PARAMS as PAGING
from aggregator.sandbox.paging import page
from aggregator.sandbox.refusals import refuse_v1
from aggregator.sandbox.request import Endpoint, Request
from aggregator.sandbox.sent import read_form
from aggregator.sandbox.summaries import list_summaries, read_query


def read_event(request: Request) -> None:
    """Read the event of a call and find its meter."""
    request.draft(read_form(request.params), "", refuse_v1)


def create_event(request: Request) -> dict[str, object]:
    """POST /v1/billing/meter_events."""
    return {"object": "billing.meter_event", **request.take(refuse_v1, int)}


def create_adjustment(request: Request) -> dict[str, object]:
    """POST /v1/billing/meter_event_adjustments."""
    now, account = request.store.clock.now(), request.account
    cancellation = account.events.cancel(adjustments.read_form(request.params), now, request.rules)
    return adjustments.show_v1(cancellation, now, livemode=account.livemode)


def create_meter(request: Request) -> dict[str, object]:
    """POST /v1/billing/meters."""
    return request.account.meters.create(
        request.params, request.now, dimensions=request.rules.dimensions
    ).json()


def list_meters(request: Request) -> dict[str, object]:
    """GET /v1/billing/meters."""
    request.params.only("status", *PAGING)
    status = request.params.choice("status", ("active", "inactive"))
    wanted = [each for each in request.account.meters.newest_first() if status in {None, each.status}]
    return page([meter.json() for meter in wanted], request.params, "/v1/billing/meters")


def retrieve_meter(request: Request) -> dict[str, object]:
    """GET /v1/billing/meters/{id}."""
    request.params.only()
    return request.account.meters.get(request.name).json()


def update_meter(request: Request) -> dict[str, object]:
    """POST /v1/billing/meters/{id}."""
    return request.account.meters.update(request.name, request.params, request.now).json()


def deactivate_meter(request: Request) -> dict[str, object]:
    """POST /v1/billing/meters/{id}/deactivate."""
    return request.account.meters.deactivate(request.name, request.params, request.now).json()


def reactivate_meter(request: Request) -> dict[str, object]:
    """POST /v1/billing/meters/{id}/reactivate."""
    return request.account.meters.reactivate(request.name, request.params, request.now).json()


def list_event_summaries(request: Request) -> dict[str, object]:
    """GET /v1/billing/meters/{id}/event_summaries."""
    account = request.account
    meter, rules = account.meters.get(request.name), request.rules
    if rules.summaries_know_customers:
        customer = read_query(request.params).customer
        if not account.customers.exists(customer, strict=rules.strict_customers):
            raise not_found("customer", customer, param="customer", status=400)
    return list_summaries(account.events, meter, request.params, request.store.sight(account), rules)


def create_customer(request: Request) -> dict[str, object]:
    """POST /v1/customers."""
    return request.account.customers.create(request.params, request.now)


def list_customers(request: Request) -> dict[str, object]:
    """GET /v1/customers."""
    request.params.only("email", *PAGING)
    email = request.params.text("email")
    wanted = [each for each in request.account.customers.newest_first() if email in {None, each["email"]}]
    return page(wanted, request.params, "/v1/customers")


def retrieve_customer(request: Request) -> dict[str, object]:
    """GET /v1/customers/{id}."""
    request.params.only()
    return request.account.customers.get(request.name, strict=request.store.rules.strict_customers)


def list_events(request: Request) -> dict[str, object]:
    """GET /v1/events: snapshot events, of which there are those of import sets."""
    return request.account.imports.page(request.params, request.store.clock.now(), request.rules)


def retrieve_account(request: Request) -> dict[str, object]:
    """GET /v1/account; which mode the key is of, an account does not say."""
    request.params.only()
    return {
        "id": request.account.name,
        "object": "account",
        "charges_enabled": True,
        "country": "US",
        "default_currency": "usd",
        "details_submitted": True,
        "email": None,
        "metadata": {},
        "payouts_enabled": True,
        "settings": {
            "branding": {"icon": None, "logo": None, "primary_color": None, "secondary_color": None},
            "card_payments": {"statement_descriptor_prefix": None},
            "dashboard": {"display_name": "Sandbox", "timezone": "Etc/UTC"},
            "payments": {"statement_descriptor": None},
        },
        "type": "standard",
    }


FIXED: dict[tuple[str, str], Endpoint] = {
    ("POST", "/v1/billing/meter_events"): Endpoint(create_event, "meter_events_write", read_event),
    ("POST", "/v1/billing/meter_event_adjustments"): Endpoint(
        create_adjustment, "meter_event_adjustments_write"
    ),
    ("POST", "/v1/billing/meters"): Endpoint(create_meter, "meters_write"),
    ("GET", "/v1/billing/meters"): Endpoint(list_meters, "meters_read"),
    ("POST", "/v1/customers"): Endpoint(create_customer, "customers_write"),
    ("GET", "/v1/customers"): Endpoint(list_customers, "customers_read"),
    ("GET", METER_USAGE): Endpoint(retrieve_meter_usage, "meters_read"),
    ("GET", "/v1/account"): Endpoint(retrieve_account, "account_read"),
    ("GET", "/v1/events"): Endpoint(list_events, "snapshot_events_read"),
}

NAMED: dict[tuple[str, str], Endpoint] = {
    ("GET", "/v1/billing/meters/{id}/event_summaries"): Endpoint(list_event_summaries, "meters_read"),
    ("GET", "/v1/billing/meters/{id}"): Endpoint(retrieve_meter, "meters_read"),
    ("POST", "/v1/billing/meters/{id}"): Endpoint(update_meter, "meters_write"),
    ("POST", "/v1/billing/meters/{id}/deactivate"): Endpoint(deactivate_meter, "meters_write"),
    ("POST", "/v1/billing/meters/{id}/reactivate"): Endpoint(reactivate_meter, "meters_write"),
    ("GET", "/v1/customers/{id}"): Endpoint(retrieve_customer, "customers_read"),
}
