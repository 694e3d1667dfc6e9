"""A small world whose application tells a state and no history: counters and gauges in memory, and a real ledger."""

import datetime as dt
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import NamedTuple

from aggregator.collection.collector import Collector
from aggregator.collection.sampled import SampledSource
from aggregator.core.model import Meter
from aggregator.core.sampling import Reads, Sampled, Sampling, definition
from aggregator.errors import SourceUnreachable
from aggregator.ledger.database import Database
from aggregator.ledger.samples import Samples
from tests.postgres.world import METER, MINUTE, World

QUERY = "select customer, value as quantity from state"
EVERY = 10 * MINUTE
KEPT = dt.timedelta(days=35)


class Asked(NamedTuple):
    """What an application shows at an instant."""

    at: dt.datetime
    rows: list[Sampled]

    def batches(self) -> Iterator[list[Sampled]]:
        """Yield the rows, one batch each."""
        yield from ([row] for row in self.rows)


@dataclass
class Application:
    """What stands in an application's database now, by customer and series."""

    name: str = "app"
    states: dict[tuple[str | None, str], Decimal | None] = field(default_factory=dict)
    dated: dict[tuple[str | None, str], dt.datetime] = field(default_factory=dict)
    """When a counter stood there, if the application knows."""
    history: list[Sampled] = field(default_factory=list)
    """Rows that it shows besides, from their instants on: of a table that keeps past values."""
    down: bool = False
    asked: int = 0

    def set(self, customer: str | None, value: object, series: str = "") -> None:
        """Let a customer's counter or gauge stand somewhere."""
        self.states[customer, series] = None if value is None else Decimal(str(value))

    def take(self, customer: str | None, series: str = "") -> None:
        """Let a counter or gauge vanish."""
        del self.states[customer, series]

    @contextmanager
    def sampling(self, query: str, now: dt.datetime, *, counters: bool) -> Iterator[Asked]:
        """Show what there is now."""
        assert query == QUERY
        self.asked += 1
        if self.down:
            raise SourceUnreachable("Source app cannot be read: it is down")
        past = [row for row in self.history if row.at is None or row.at <= now]
        yield Asked(
            now,
            past
            + [
                Sampled(
                    customer,
                    series if counters else "",
                    value,
                    self.dated.get((customer, series)),
                    "quantity is NULL" if value is None else "no customer" if customer is None else None,
                )
                for (customer, series), value in self.states.items()
            ],
        )


class SampledWorld(World):
    """One daemon that samples an application."""

    def __init__(
        self,
        database: Database,
        reads: Reads,
        application: Application | None = None,
        meter: Meter = METER,
        **settings: object,
    ) -> None:
        self.application = application or Application()
        sampling = Sampling(reads, QUERY, EVERY, KEPT)
        text = definition(reads, QUERY)
        meter = replace(
            meter, query=text, fingerprint=text[:64].ljust(64, "x"), sampling=sampling, retained=KEPT
        )
        super().__init__(database, meter=meter, **settings)  # type: ignore[arg-type]  # as they are there
        self.samples = Samples(database)
        self.sampled = SampledSource(
            self.meter, self.registered.id, self.application, self.samples, lambda: self.now
        )
        ledger_name = self.collection._ledger_name
        self.collection = Collector(
            self.registered,
            self.sampled,
            self.meters,
            self.passes,
            ledger_name=ledger_name,
            limits={sink.name: sink.limits for sink in self.sinks.values()},
            elapsed=itertools.count().__next__,
            sampler=self.sampled,
        )

    def pass_by(self, hours: float, minutes: float = 0) -> None:
        """Let a round run at an instant after the start, and deliver what it planned."""
        self.at(hours, minutes)
        self.collect()
        self.deliver()
        self.check_balance()
