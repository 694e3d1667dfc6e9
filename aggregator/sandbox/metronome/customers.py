"""Customers and their ingest aliases: the names under which their events may come.

From the API reference: an alias belongs to one customer; `setIngestAliases` replaces the whole set; an alias that moves
takes all its usage along. So usage is looked up by the aliases of the moment. An event may come before its customer.

A customer is billable or unbillable from an instant on (`setBillableStatus`), and shows which of both it is by now. That a
status which is set ahead shows only once its time has come, and that all are billable at first, is assumed.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from uuid import uuid4

from aggregator.sandbox.metronome.wire import bad_request, instant, not_found, read_instant

STATUSES = ("billable", "unbillable")


@dataclass
class Customer:
    """One customer."""

    id: str
    name: str
    aliases: list[str]
    created_at: float
    statuses: list[tuple[float, str]] = field(default_factory=list)
    """Since when it is billable or unbillable, in the order in which that was set."""

    def status(self, now: float) -> dict[str, object]:
        """Return whether it is billable by now, and since when."""
        begun = [each for each in self.statuses if each[0] <= now]
        since, value = max(begun, key=lambda each: each[0], default=(self.created_at, "billable"))
        return {"value": value, "effective_at": instant(since)}

    def json(self, now: float | None = None) -> dict[str, object]:
        """Return the object that calls answer with; with its billable status, if that is shown to this client."""
        shown = {} if now is None else {"current_billable_status": self.status(now)}
        return {
            **shown,
            "id": self.id,
            "external_id": self.aliases[0] if self.aliases else self.id,
            "ingest_aliases": list(self.aliases),
            "name": self.name,
            "customer_config": {},
            "custom_fields": {},
            "created_at": instant(self.created_at),
            "updated_at": instant(self.created_at),
        }


class Customers:
    """All customers, in the order made."""

    def __init__(self) -> None:
        self._by_id: dict[str, Customer] = {}

    def create(self, name: object, aliases: object, now: float) -> Customer:
        """Make a customer. Raise ApiError if an alias belongs to another one."""
        if not isinstance(name, str) or not name:
            raise bad_request("name is required, as text.")
        customer = Customer(str(uuid4()), name, self._free(aliases, None), now)
        self._by_id[customer.id] = customer
        return customer

    def rename(self, customer: str, aliases: object) -> None:
        """Replace a customer's aliases; one that another customer has moves."""
        found, names = self.get(customer), _names(aliases)
        for other in self._by_id.values():
            if other is not found:
                other.aliases = [each for each in other.aliases if each not in names]
        found.aliases = names

    def set_status(self, given: Mapping[str, object]) -> None:
        """Make a customer billable or unbillable from an instant on. Raise ApiError if that cannot be read."""
        found, value = self.get(str(given.get("customer_id"))), given.get("billable_status")
        if value not in STATUSES:
            raise bad_request(f"billable_status must be one of {', '.join(STATUSES)}.")
        found.statuses.append((read_instant(given.get("effective_at"), "effective_at"), str(value)))

    def get(self, customer: str) -> Customer:
        """Return a customer by its own id. Raise ApiError if there is none."""
        if customer not in self._by_id:
            raise not_found(f"There is no customer {customer}.")
        return self._by_id[customer]

    def listed(self, alias: str | None, ids: Iterable[str] = ()) -> list[Customer]:
        """Return all customers, or those who have an alias, or one of these ids."""
        wanted = set(ids)
        return [
            each
            for each in self._by_id.values()
            if (alias is None or alias in each.aliases) and (not wanted or each.id in wanted)
        ]

    def owner(self, name: str) -> Customer | None:
        """Return whose events come under a name: an id, or an alias."""
        return self._by_id.get(name) or next((each for each in self.listed(name)), None)

    def _free(self, aliases: object, owner: Customer | None) -> list[str]:
        names = _names(aliases)
        for name in names:
            other = self.owner(name)
            if other is not None and other is not owner:
                raise bad_request(f"The alias {name} belongs to customer {other.id}.", reason="alias_taken")
        return names


def _names(aliases: object) -> list[str]:
    if not isinstance(aliases, list) or not all(isinstance(each, str) and each for each in aliases):
        raise bad_request("ingest_aliases must be a list of texts.")
    return list(dict.fromkeys(aliases))
