"""The endpoints: which there are, and what each does. They know nothing of faults or HTTP."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from aggregator.sandbox.errors import ApiError
from aggregator.sandbox.metronome.contracts import Contracts
from aggregator.sandbox.metronome.customers import Customers
from aggregator.sandbox.metronome.events import PAST_SECONDS, Log, read_batch
from aggregator.sandbox.metronome.invoices import Invoices
from aggregator.sandbox.metronome.invoices import rows as invoice_rows
from aggregator.sandbox.metronome.metrics import Metrics
from aggregator.sandbox.metronome.settings import MetronomeRules
from aggregator.sandbox.metronome.usage import group_rows, read_group_query, read_query
from aggregator.sandbox.metronome.usage import rows as usage_rows
from aggregator.sandbox.metronome.wire import bad_request, instant, loads, read_object

INGEST = "/v1/ingest"


class State:
    """All that the Metronome part knows."""

    def __init__(self) -> None:
        self.rules = MetronomeRules()
        self.log = Log()
        self.customers = Customers()
        self.contracts = Contracts()
        self.metrics = Metrics()
        self.invoices = Invoices()


class Request(NamedTuple):
    """One call that passed the gate. `name` is the id in its path, `most` how many events of a batch may be taken in."""

    state: State
    body: bytes
    query: Mapping[str, str]
    now: float
    name: str = ""
    most: int | None = None

    @property
    def seen_by(self) -> float:
        """Return until when an event must have been received to be seen."""
        return self.now - self.state.rules.usage_delay_seconds

    @property
    def status_at(self) -> float | None:
        """Return by when a customer is shown to be billable or not; None if this client does not see that."""
        return self.now if self.state.rules.shows_billable_status else None


def ingest(request: Request) -> object:
    """POST /v1/ingest. The answer says nothing but that the events were taken."""
    state = request.state
    good, broken = read_batch(loads(request.body), request.now, state.rules)
    if broken is None or state.rules.bad_event == "partial":
        for event in good[: request.most]:
            state.log.take(event, state.rules)
    if broken is not None:
        raise broken
    return {}


def list_usage(request: Request) -> object:
    """POST /v1/usage."""
    state = request.state
    query = read_query(read_object(request.body), state.customers, state.metrics)
    return _page(list(usage_rows(query, state.log, request.seen_by, state.rules)), request)


def list_usage_by_group(request: Request) -> object:
    """POST /v1/usage/groups."""
    state = request.state
    asked = read_group_query(read_object(request.body), state.customers, state.metrics)
    return _page(list(group_rows(asked, state.log, request.seen_by, state.rules)), request)


def search_events(request: Request) -> object:
    """POST /v1/events/search; the answer is a bare array."""
    state = request.state
    wanted = read_object(request.body).get("transactionIds")
    if not isinstance(wanted, list):
        raise bad_request("transactionIds is required, as a list.")
    oldest = request.now - PAST_SECONDS
    found = [
        each
        for each in state.log.events
        if each.transaction_id in wanted and oldest <= each.received_at <= request.seen_by
    ]
    return [
        {
            "id": f"{number:08x}",
            "transaction_id": each.transaction_id,
            "customer_id": each.customer_id,
            "event_type": each.event_type,
            "timestamp": instant(each.timestamp),
            "properties": each.properties,
            "is_duplicate": each.duplicate,
            "processed_at": instant(each.received_at),
            "matched_customer": {"id": owner.id, "name": owner.name} if owner else None,
            "matched_billable_metrics": [
                metric.json() for metric in state.metrics.listed() if metric.matches(each)
            ],
        }
        for number, each in enumerate(found)
        for owner in [state.customers.owner(each.customer_id)]
    ]


def create_customer(request: Request) -> object:
    """POST /v1/customers."""
    body = read_object(request.body)
    aliases = body.get("ingest_aliases", [])
    return {"data": request.state.customers.create(body.get("name"), aliases, request.now).json()}


def list_customers(request: Request) -> object:
    """GET /v1/customers."""
    ids = [each for key, each in request.query.items() if key.startswith("customer_ids")]
    found = request.state.customers.listed(request.query.get("ingest_alias"), ids)
    return _page([each.json(request.status_at) for each in found], request)


def retrieve_customer(request: Request) -> object:
    """GET /v1/customers/{id}."""
    return {"data": request.state.customers.get(request.name).json(request.status_at)}


def set_billable_status(request: Request) -> object:
    """POST /v1/customers/setBillableStatus."""
    request.state.customers.set_status(read_object(request.body))
    return {}


def create_contract(request: Request) -> object:
    """POST /v1/contracts/create."""
    made = request.state.contracts.create(read_object(request.body), request.state.customers)
    return {"data": {"id": made.id}}


def list_contracts(request: Request) -> object:
    """POST /v2/contracts/list."""
    found = request.state.contracts.listed(read_object(request.body), request.state.customers)
    return {"data": [each.json() for each in found]}


def set_aliases(request: Request) -> object:
    """POST /v1/customers/{id}/setIngestAliases."""
    request.state.customers.rename(request.name, read_object(request.body).get("ingest_aliases"))
    return {}


def list_invoices(request: Request) -> object:
    """GET /v1/customers/{id}/invoices."""
    state = request.state
    customer = state.customers.get(request.name)
    found = state.invoices.of(customer, state.log, request.now)
    events = list(state.log.of([customer.id, *customer.aliases], request.seen_by))
    shown = invoice_rows(found, customer, events, state.metrics, request.query, request.now, state.rules)
    return _page(list(shown), request)


def void_invoice(request: Request) -> object:
    """POST /v1/invoices/void."""
    wanted = str(read_object(request.body).get("id"))
    return {"data": {"id": request.state.invoices.void(wanted, request.now, request.state.rules).id}}


def regenerate_invoice(request: Request) -> object:
    """POST /v1/invoices/regenerate."""
    wanted = str(read_object(request.body).get("id"))
    return {"data": {"id": request.state.invoices.regenerate(wanted, request.now).id}}


def create_metric(request: Request) -> object:
    """POST /v1/billable-metrics/create."""
    return {"data": {"id": request.state.metrics.create(read_object(request.body), request.now).id}}


def list_metrics(request: Request) -> object:
    """GET /v1/billable-metrics."""
    archived = request.query.get("include_archived") == "true"
    return _page([each.json() for each in request.state.metrics.listed(archived=archived)], request)


def retrieve_metric(request: Request) -> object:
    """GET /v1/billable-metrics/{id}."""
    return {"data": request.state.metrics.get(request.name).json()}


def archive_metric(request: Request) -> object:
    """POST /v1/billable-metrics/archive."""
    wanted = read_object(request.body).get("id")
    return {"data": {"id": request.state.metrics.archive(str(wanted), request.now).id}}


Handler = Callable[[Request], object]

ROUTES: tuple[tuple[str, re.Pattern[str], Handler], ...] = tuple(
    (method, re.compile(pattern.replace("{id}", "([^/]+)")), handler)
    for method, pattern, handler in (
        ("POST", INGEST, ingest),
        ("POST", "/v1/usage", list_usage),
        ("POST", "/v1/usage/groups", list_usage_by_group),
        ("POST", "/v1/events/search", search_events),
        ("POST", "/v1/customers", create_customer),
        ("GET", "/v1/customers", list_customers),
        ("POST", "/v1/customers/setBillableStatus", set_billable_status),
        ("POST", "/v1/contracts/create", create_contract),
        ("POST", "/v2/contracts/list", list_contracts),
        ("GET", "/v1/customers/{id}", retrieve_customer),
        ("POST", "/v1/customers/{id}/setIngestAliases", set_aliases),
        ("GET", "/v1/customers/{id}/invoices", list_invoices),
        ("POST", "/v1/invoices/void", void_invoice),
        ("POST", "/v1/invoices/regenerate", regenerate_invoice),
        ("POST", "/v1/billable-metrics/create", create_metric),
        ("POST", "/v1/billable-metrics/archive", archive_metric),
        ("GET", "/v1/billable-metrics", list_metrics),
        ("GET", "/v1/billable-metrics/{id}", retrieve_metric),
    )
)


def find_route(method: str, path: str) -> tuple[Handler, str]:
    """Return what handles a call, and the id in its path. Raise ApiError when there is nothing."""
    for wanted, pattern, handler in ROUTES:
        found = pattern.fullmatch(path)
        if found and wanted == method:
            return handler, found[1] if found.groups() else ""
    raise ApiError(404, f"There is no {method} {path}.", reason="unknown_route")


def _page(rows: Sequence[object], request: Request) -> object:
    """Return the rows of one page, and the cursor of the next."""
    cursor, limit = request.query.get("next_page", "0"), request.query.get("limit", "100")
    if not cursor.isdecimal() or not limit.isdecimal() or not 1 <= int(limit) <= 100:
        raise bad_request("next_page must be a cursor, and limit from 1 to 100.")
    first = int(cursor)
    beyond = first + min(int(limit), request.state.rules.page_rows)
    return {"data": list(rows[first:beyond]), "next_page": str(beyond) if beyond < len(rows) else None}
