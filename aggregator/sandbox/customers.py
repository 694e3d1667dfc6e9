"""Customers: enough of docs.stripe.com/api/customers for usage to have somebody to belong to.

Unless the sandbox is strict, every `cus_...` is a customer without being created, and so is every `acct_...`, since an
account may be the customer of an event. Such a customer can be retrieved but is not listed.
"""

from collections.abc import Iterable

from aggregator.sandbox.errors import not_found
from aggregator.sandbox.form import Params
from aggregator.sandbox.journal import Note, Record
from aggregator.sandbox.paging import Row

TEXTS = ("name", "email", "description", "phone")


class Customers:
    """The customers of one account and mode."""

    def __init__(self, *, livemode: bool, note: Note) -> None:
        self._livemode = livemode
        self._note = note
        self._by_id: dict[str, Row] = {}

    def create(self, params: Params, now: int) -> Row:
        """Make a customer; of Stripe's many parameters it takes name, email, description, phone and metadata."""
        params.only(*TEXTS, "metadata")
        name = f"cus_{'live' if self._livemode else 'test'}{len(self._by_id) + 1:010d}"
        texts = {key: params.text(key) for key in TEXTS}
        return self._keep(self._object(name, now, texts, params.section("metadata").strings()))

    def add(self, name: str, now: int) -> Row:
        """Make a customer with a given id, or return the one that is there."""
        return self._by_id.get(name) or self._keep(self._object(name, now, {}, {}))

    def get(self, name: str, *, strict: bool) -> Row:
        """Return a customer. Raise ApiError if there is none by the rules in force."""
        if not self.exists(name, strict=strict):
            raise not_found("customer", name)
        return self._by_id.get(name) or self._object(name, 0, {}, {})

    def exists(self, name: str, *, strict: bool) -> bool:
        """Say whether usage may be recorded for this id."""
        return name in self._by_id or (not strict and name.startswith(("cus_", "acct_")))

    def newest_first(self) -> Iterable[Row]:
        """Return the created customers in the order of a list call."""
        return reversed(self._by_id.values())

    def restore(self, record: Record) -> None:
        """Take a customer back from the state file."""
        customer = record["customer"]
        self._by_id[customer["id"]] = customer

    def _keep(self, customer: Row) -> Row:
        self._note("customer", {"customer": customer})
        self._by_id[str(customer["id"])] = customer
        return customer

    def _object(self, name: str, now: int, texts: dict[str, str | None], metadata: dict[str, str]) -> Row:
        return {
            "id": name,
            "object": "customer",
            "created": now,
            **{key: texts.get(key) for key in TEXTS},
            "livemode": self._livemode,
            "metadata": metadata,
        }
