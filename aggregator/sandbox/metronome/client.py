"""The control calls of the Metronome part as methods, and the calls that set up what a test or a trial needs."""

import json
from collections.abc import Iterable, Mapping
from decimal import Decimal
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlencode, urlsplit

TIMEOUT_SECONDS = 60.0


class MetronomeControl:
    """Reads and steers the Metronome part of the sandbox at a URL."""

    def __init__(self, sandbox_url: str) -> None:
        self.url = f"{sandbox_url}/metronome"

    def call(self, method: str, path: str, body: object = None, **query: str) -> Any:
        """Make one call below `/metronome` and return its JSON. Raise ValueError with the answer's words if it refuses."""
        parts = urlsplit(self.url)
        connection = HTTPConnection(parts.hostname or "", parts.port, timeout=TIMEOUT_SECONDS)
        headers = {"Authorization": "Bearer control", "Content-Type": "application/json"}
        try:
            target = f"{parts.path}{path}?{urlencode(query)}"
            connection.request(method, target, None if body is None else json.dumps(body), headers)
            response = connection.getresponse()
            answer = json.loads(response.read(), parse_float=Decimal)
        finally:
            connection.close()
        if response.status != 200:
            raise ValueError(answer["message"])
        return answer

    def totals(self, event_type: str, key: str = "quantity") -> dict[str, Decimal]:
        """Return the exact sum of one property of what each customer was sent, by the name it was sent under."""
        found = self.call("GET", "/_sandbox/totals", event_type=event_type, property=key)["totals"]
        return {who: Decimal(much) for who, much in found.items()}

    def events(self) -> list[dict[str, Any]]:
        """Return all events in the order received, duplicates among them."""
        found: list[dict[str, Any]] = self.call("GET", "/_sandbox/events")["events"]
        return found

    def stats(self) -> dict[str, Any]:
        """Return the counters."""
        found: dict[str, Any] = self.call("GET", "/_sandbox/stats")
        return found

    def set_rules(self, **rules: object) -> None:
        """Replace the rules; without arguments they are the defaults."""
        self.call("PUT", "/_sandbox/rules", rules)

    def set_faults(self, **settings: object) -> None:
        """Replace the fault settings; without arguments there are no faults."""
        self.call("PUT", "/_sandbox/faults", settings)

    def set_keys(
        self,
        *,
        revoked: Iterable[str] = (),
        restricted: Iterable[str] = (),
        without_invoices: Iterable[str] = (),
    ) -> None:
        """Say which tokens answer 401, which 403, and which 403 where invoices are read."""
        body = {
            "revoked": list(revoked),
            "restricted": list(restricted),
            "without_invoices": list(without_invoices),
        }
        self.call("PUT", "/_sandbox/keys", body)

    def reset(self) -> None:
        """Forget everything and start as at first."""
        self.call("POST", "/_sandbox/reset")

    def add_customer(self, name: str, *aliases: str) -> str:
        """Make a customer with ingest aliases and return its id."""
        body = {"name": name, "ingest_aliases": list(aliases)}
        return str(self.call("POST", "/v1/customers", body)["data"]["id"])

    def set_billable(self, customer: str, value: str, effective_at: str) -> None:
        """Make a customer, by its id, `billable` or `unbillable` from an instant on."""
        body = {"customer_id": customer, "billable_status": value, "effective_at": effective_at}
        self.call("POST", "/v1/customers/setBillableStatus", body)

    def add_contract(self, customer: str, starting_at: str, ending_before: str | None = None) -> str:
        """Make a contract of a customer, by its id, and return the contract's."""
        ends = {} if ending_before is None else {"ending_before": ending_before}
        body = {"customer_id": customer, "starting_at": starting_at, **ends}
        return str(self.call("POST", "/v1/contracts/create", body)["data"]["id"])

    def invoices(self, customer: str) -> list[dict[str, Any]]:
        """Return the invoices of a customer, by its id, the earliest period first."""
        found: list[dict[str, Any]] = self.call("GET", f"/v1/customers/{customer}/invoices")["data"]
        return found

    def add_metric(
        self,
        event_type: str,
        key: str = "quantity",
        aggregation: str = "SUM",
        filters: Iterable[Mapping[str, object]] = (),
        group_keys: Iterable[Iterable[str]] = (),
    ) -> str:
        """Make a metric over one property of one type of event and return its id."""
        body = {
            "name": event_type,
            "aggregation_type": aggregation,
            "aggregation_key": key,
            "event_type_filter": {"in_values": [event_type]},
            "property_filters": [{"name": key, "exists": True}, *filters],
        }
        grouped = [list(each) for each in group_keys]
        if grouped:
            body["group_keys"] = grouped
        return str(self.call("POST", "/v1/billable-metrics/create", body)["data"]["id"])
