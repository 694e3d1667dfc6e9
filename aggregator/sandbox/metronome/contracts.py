"""Contracts: from when until when a customer's usage is put on invoices at all. Nothing is priced here.

From the API reference: `POST /v1/contracts/create` needs a customer and `starting_at`, `ending_before` is optional and not
in the contract any more; `POST /v2/contracts/list` lists those of a customer, or only those in effect at a `covering_date`.
Both begin on an hour, which the sandbox does not ask for.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from uuid import uuid4

from aggregator.sandbox.metronome.customers import Customers
from aggregator.sandbox.metronome.wire import bad_request, instant, read_instant


@dataclass
class Contract:
    """One contract, in effect in `[start, end)`; without an end, for ever."""

    id: str
    customer: str
    start: float
    end: float | None

    def json(self) -> dict[str, object]:
        """Return the object that calls answer with."""
        ends = {} if self.end is None else {"ending_before": instant(self.end)}
        return {"id": self.id, "customer_id": self.customer, "starting_at": instant(self.start), **ends}

    def covers(self, at: float) -> bool:
        """Say whether it is in effect at an instant."""
        return self.start <= at and (self.end is None or at < self.end)


class Contracts:
    """All contracts, in the order made."""

    def __init__(self) -> None:
        self._made: list[Contract] = []

    def create(self, given: Mapping[str, object], customers: Customers) -> Contract:
        """Make a contract. Raise ApiError for a customer that there is not, or times that make no sense."""
        customer = customers.get(str(given.get("customer_id")))
        start = read_instant(given.get("starting_at"), "starting_at")
        until = given.get("ending_before")
        end = None if until is None else read_instant(until, "ending_before")
        if end is not None and end <= start:
            raise bad_request("ending_before must be later than starting_at.")
        contract = Contract(str(uuid4()), customer.id, start, end)
        self._made.append(contract)
        return contract

    def listed(self, given: Mapping[str, object], customers: Customers) -> list[Contract]:
        """Return the contracts of a customer, or those in effect at `covering_date`."""
        customer = customers.get(str(given.get("customer_id")))
        covering = given.get("covering_date")
        at = None if covering is None else read_instant(covering, "covering_date")
        return [
            each for each in self._made if each.customer == customer.id and (at is None or each.covers(at))
        ]
