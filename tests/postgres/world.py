"""A small world to test in: one ledger in real Postgres, a source and sinks in memory, and a clock that stands still."""

import datetime as dt
import itertools
import uuid
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any

from aggregator.collection.collector import Collector
from aggregator.collection.revisits import Revisits
from aggregator.collection.rounds import Collected
from aggregator.core.model import Meter, Span
from aggregator.delivery.sender import Delivered, Sender
from aggregator.ledger.database import Database, ledger_id_of
from aggregator.ledger.meters import Lease, Meters, Registered
from aggregator.ledger.outbox.first_use import FirstUses
from aggregator.ledger.outbox.outbox import Outbox
from aggregator.ledger.passes.passes import Passes
from tests.fakes import FakeSink, FakeSource

MINUTE = dt.timedelta(minutes=1)
HOUR = dt.timedelta(hours=1)
START = dt.datetime(2026, 11, 1, tzinfo=dt.UTC)
METER = Meter(
    name="api_requests",
    source="app",
    query="",
    fingerprint="f" * 64,
    sinks=("fake",),
    window=HOUR,
    start_at=START,
    delay=5 * MINUTE,
    revisit=dt.timedelta(days=3),
)


class World:
    """One daemon's view. `beside` gives a second daemon on the same ledger, source and sinks."""

    def __init__(
        self,
        database: Database,
        *,
        meter: Meter = METER,
        source: FakeSource | None = None,
        sinks: Sequence[FakeSink] | None = None,
        lease: dt.timedelta = dt.timedelta(minutes=1),
    ) -> None:
        self.database = database
        self.source = source or FakeSource()
        self.sinks = {sink.name: sink for sink in sinks or [FakeSink()]}
        self.now = START
        self.lease = lease
        self.owner = uuid.uuid4()
        self.meter = replace(meter, sinks=tuple(self.sinks))
        self.meters = Meters(database, self.owner, lease)
        self.passes = Passes(database, lease, itertools.count().__next__)
        self.outbox = Outbox(database, self.owner, dt.timedelta(seconds=40), dt.timedelta(seconds=20))
        self.registered: Registered = self.meters.register([self.meter])[self.meter.name]
        feeds = [feed.id for feed in self.registered.feeds]
        FirstUses(database).clear_for_good(feeds, "a test that is about something else", START)
        ledger_id = str(ledger_id_of(database).ledger_id)
        self.collection = Collector(
            self.registered,
            self.source,
            self.meters,
            self.passes,
            ledger_name=lambda: ledger_id,
            limits={sink.name: sink.limits for sink in self.sinks.values()},
            elapsed=itertools.count().__next__,
            revisits=Revisits(self.meter, self.source, dt.timedelta(0)) if self.meter.changed else None,
        )

    @property
    def sink(self) -> FakeSink:
        """The one sink."""
        return next(iter(self.sinks.values()))

    def beside(self) -> "World":
        """Return a second daemon on the same everything."""
        other = World(
            self.database,
            meter=self.meter,
            source=self.source,
            sinks=list(self.sinks.values()),
            lease=self.lease,
        )
        other.now = self.now
        return other

    def at(self, hours: float, minutes: float = 0) -> dt.datetime:
        """Return an instant so long after the start, and set the clock to it."""
        self.now = START + hours * HOUR + minutes * MINUTE
        return self.now

    def collect(self) -> Collected:
        """Let one round of collection run."""
        return self.collection.run_once(self.now)

    def backfill(self, span: Span) -> Collected:
        """Read a range again."""
        return self.collection.backfill(span, span, self.now)

    def deliver(self) -> Delivered:
        """Let delivery run until nothing is due any more; return the sum of what it did."""
        whole = Delivered()
        for feed in self.registered.feeds:
            delivery = Sender(self.outbox, self.sinks[feed.sink], feed.sink_id, lambda: self.now)
            for _ in range(1_000):
                part = delivery.run_once(self.now)
                whole.add(part)
                if not part.claimed or part.halted:
                    break
            else:
                raise AssertionError("delivery does not come to an end")
        return whole

    def deliver_later(self) -> Delivered:
        """Let delivery run once what waits to be tried again is due, without a pass of collection between."""
        self.now += 5 * MINUTE
        return self.deliver()

    def hold(self) -> Lease | None:
        """Take the meter."""
        return self.meters.acquire(self.registered)

    def rows(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """Ask the ledger."""
        with self.database.transaction() as connection:
            return connection.execute(statement, values).fetchall()

    def one(self, statement: str, *values: Any) -> Any:
        """Ask the ledger for one value."""
        [(value,)] = self.rows(statement, *values)
        return value

    def execute(self, statement: str, *values: Any) -> None:
        """Tell the ledger."""
        with self.database.transaction() as connection:
            connection.execute(statement, values)

    def booked(self, customer: str) -> Decimal:
        """Return what the sink holds for a customer."""
        return self.sink.booked[self.meter.name, customer]

    def check_balance(self) -> None:
        """Assert the balance of every feed, customer and combination, and of every slot (invariant 5)."""
        unbalanced = self.rows("""
            select slot.feed_id, slot.customer, sum(slot.quantity), sum(slot.total), coalesce(max(carry.amount), 0)
              from aggregator.slot
              left join aggregator.carry on carry.feed_id = slot.feed_id and carry.customer = slot.customer
                                        and carry.combination = slot.combination
             group by 1, 2, slot.combination having sum(slot.quantity) <> sum(slot.total) + coalesce(max(carry.amount), 0)
        """)
        assert unbalanced == []
        adrift = self.rows("""
            select slot.id, slot.total, sum(event.delta) from aggregator.slot
              join aggregator.event on event.slot_id = slot.id and event.state <> 'void'
             group by 1, 2 having sum(event.delta) <> slot.total
        """)
        assert adrift == []
        nameless = self.rows("""
            select slot.id from aggregator.slot left join aggregator.event on event.id = slot.id and event.slot_id = slot.id
             where (slot.revision > 0) <> (event.id is not null)
        """)
        assert nameless == []
        with_holes = self.rows("""
            select slot_id from aggregator.event group by 1 having count(*) <> max(revision) + 1 or min(revision) <> 0
        """)
        assert with_holes == []
