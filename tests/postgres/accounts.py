"""A world whose source knows the application's own keys, and a mapping from those to billing customers."""

import datetime as dt
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any

from aggregator.collection.mapped_source import MappedSource
from aggregator.collection.mapping import Looked, Mapping
from aggregator.core.customers import Listed, Moved
from aggregator.ledger.customers import Customers
from aggregator.ledger.database import Database
from tests.postgres.world import HOUR, METER, MINUTE, START, World

PAST = dt.timedelta(days=35)
EVERY = 5 * MINUTE

Rows = Sequence[tuple[str, str | None]]


class Accounts(World):
    """A world whose source knows accounts, and a mapping from those to customers that a test changes."""

    def __init__(self, database: Database, moved: Moved = Moved.FUTURE, **settings: Any) -> None:
        meter = settings.pop("meter", METER)
        super().__init__(database, meter=replace(meter, customers="accounts"), **settings)
        self.customers = Customers(database)
        self.listed: list[Listed] = []
        self.broken: Exception | None = None
        self.mapping = Mapping("accounts", self._read, self.customers, moved=moved, every=EVERY, past=PAST)
        source: Any = self.source
        source.name = "app"
        self.collection.source = MappedSource(
            source, self.customers, lambda: self.meters.definitions(self.registered)
        )

    def _read(self) -> Any:
        if self.broken:
            raise self.broken
        yield self.listed

    def says(self, *rows: tuple[str, str | None]) -> Looked:
        """Let the mapping list these, and read it, a pace after the last time."""
        self.listed = [Listed(key, customer, f"Name of {key}") for key, customer in rows]
        return self.look()

    def look(self) -> Looked:
        """Read the mapping as it is, a pace after the last time."""
        self.now += EVERY
        return self.mapping.run_once(self.now)

    def round(self) -> None:
        """Read what is due and what is to be read again, and send."""
        self.now += MINUTE
        self.collect()
        self.deliver()

    def everything(self) -> dict[str, Decimal]:
        """Return what the sink holds, by customer."""
        return {customer: much for (_, customer), much in self.sink.booked.items() if much}

    def held(self) -> dict[str, Decimal]:
        """Return what waits for a person, by customer."""
        return dict(
            self.rows(
                "select customer, sum(delta) from aggregator.parked join aggregator.event on event.id = event_id"
                " where parked.state = 'held' group by 1"
            )
        )

    def use(self, key: str, *quantities: int, since: int = 0) -> None:
        """Let a key use so much in each hour, from one on."""
        for hour, quantity in enumerate(quantities, since):
            self.source.use(key, START + hour * HOUR, quantity)
