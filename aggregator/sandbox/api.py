"""The endpoints of `/v1`: which there are, and what each calls.

Handlers take a request and return the object to answer; refusals are raised. They neither wait nor know of faults,
idempotency or HTTP. A path that is not in the table is a 404 in Stripe's shape.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from aggregator.sandbox.errors import unknown_route
from aggregator.sandbox.events import Draft
from aggregator.sandbox.form import Params
from aggregator.sandbox.paging import PARAMS as PAGING
from aggregator.sandbox.paging import page
from aggregator.sandbox.store import Account, Store
from aggregator.sandbox.summaries import list_summaries

EVENTS_PATH = "/v1/billing/meter_events"
ACCOUNT_PATH = "/v1/account"


@dataclass(slots=True)
class Request:
    """One authenticated call. `name` is the object's id in the path; `draft` is set for meter events only."""

    store: Store
    account: Account
    params: Params
    name: str = ""
    draft: Draft | None = None

    @property
    def now(self) -> int:
        """Return whole unix seconds."""
        return int(self.store.clock.now())


Handler = Callable[[Request], dict[str, object]]


class Route(NamedTuple):
    """A handler and the id found in the path."""

    handler: Handler
    name: str


def create_event(request: Request) -> dict[str, object]:
    """POST /v1/billing/meter_events."""
    draft = request.draft or request.account.events.draft(request.params)
    store = request.store
    return request.account.events.accept(draft, request.params, store.clock.now(), store.rules)


def create_meter(request: Request) -> dict[str, object]:
    """POST /v1/billing/meters."""
    return request.account.meters.create(request.params, request.now).json()


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
    meter = account.meters.get(request.name)
    return list_summaries(account.events, meter, request.params, request.store.sight())


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
        "settings": {"dashboard": {"display_name": "Sandbox", "timezone": "Etc/UTC"}},
        "type": "standard",
    }


FIXED: dict[tuple[str, str], Handler] = {
    ("POST", EVENTS_PATH): create_event,
    ("POST", "/v1/billing/meters"): create_meter,
    ("GET", "/v1/billing/meters"): list_meters,
    ("POST", "/v1/customers"): create_customer,
    ("GET", "/v1/customers"): list_customers,
    ("GET", ACCOUNT_PATH): retrieve_account,
}

NAMED: tuple[tuple[str, re.Pattern[str], Handler], ...] = tuple(
    (method, re.compile(pattern.replace("{id}", "([^/]+)")), handler)
    for method, pattern, handler in (
        ("GET", "/v1/billing/meters/{id}/event_summaries", list_event_summaries),
        ("GET", "/v1/billing/meters/{id}", retrieve_meter),
        ("POST", "/v1/billing/meters/{id}", update_meter),
        ("POST", "/v1/billing/meters/{id}/deactivate", deactivate_meter),
        ("POST", "/v1/billing/meters/{id}/reactivate", reactivate_meter),
        ("GET", "/v1/customers/{id}", retrieve_customer),
    )
)


def find_route(method: str, path: str) -> Route:
    """Return the route of a call. Raise ApiError when there is none."""
    handler = FIXED.get((method, path))
    if handler is not None:
        return Route(handler, "")
    for wanted, pattern, named in NAMED:
        found = pattern.fullmatch(path)
        if found and wanted == method:
            return Route(named, found[1])
    raise unknown_route(method, path)
