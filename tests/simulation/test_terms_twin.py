"""Terms in the ledger in memory: the same rounds over it and over Postgres end in the same rows."""

import datetime as dt
import itertools
import random
import uuid
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import psycopg
import pytest

from aggregator.collection.collector import Collector
from aggregator.core.model import Meter, Span, Terms
from aggregator.delivery.first_use import FirstUse
from aggregator.delivery.sender import Sender
from aggregator.ledger.database import Database
from aggregator.ledger.meters import Meters
from aggregator.ledger.outbox.first_use import FirstUses
from aggregator.ledger.outbox.outbox import Outbox
from aggregator.ledger.passes.passes import Passes
from tests.conftest import TEMPLATE
from tests.fakes import FakeSink, FakeSource
from tests.postgres.world import HOUR, METER, MINUTE, START
from tests.simulation.memory import MemoryLedger, MemoryMeters
from tests.simulation.memory_first_use import MemoryFirstUses
from tests.simulation.memory_identity import Disk, MemoryIdentity
from tests.simulation.memory_outbox import MemoryOutbox
from tests.simulation.memory_passes import MemoryPasses
from tests.simulation.postgres import Unpinned, differences, read

SINKS = ("one", "two")
OWNER = uuid.UUID(int=7)
LEASE, LEAVE, ANSWER = dt.timedelta(days=400), dt.timedelta(seconds=40), dt.timedelta(seconds=20)


class Rounds:
    """Rounds of one process over a ledger, with its own sinks and the source of both."""

    def __init__(self, source: FakeSource, meters: Any, passes: Any, outbox: Any, first: Any) -> None:
        self.source, self.meters, self.passes, self.outbox = source, meters, passes, outbox
        self.first = first
        self.sinks = {name: FakeSink(name) for name in SINKS}

    def round(self, meter: Meter, now: dt.datetime, backfill: Span | None) -> None:
        """Register, read and send."""
        registered = self.meters.register([meter])[meter.name]
        collection = Collector(
            registered,
            self.source,
            self.meters,
            self.passes,
            ledger_name=Unpinned().name,
            limits={name: sink.limits for name, sink in self.sinks.items()},
            elapsed=itertools.count().__next__,
        )
        collection.run_once(now)
        if backfill is not None:
            collection.backfill(backfill, backfill, now)
        for feed in registered.feeds:
            sink = self.sinks[feed.sink]
            clear = FirstUse(self.first, sink, feed.sink_id).run_once
            delivery = Sender(self.outbox, sink, feed.sink_id, lambda: now, clear=clear)
            for _ in range(20):
                if not delivery.run_once(now).claimed:
                    break


def some_terms(chance: random.Random) -> Terms | None:
    """Return terms of some kind, or none."""
    begin = START + chance.randrange(0, 60) * HOUR if chance.random() < 0.5 else None
    end = (begin or START) + chance.randrange(1, 60) * HOUR if chance.random() < 0.4 else None
    return Terms(chance.choice(SINKS), begin, end, chance.random() < 0.4) if chance.random() < 0.7 else None


@pytest.mark.parametrize("seed", range(1, 5))
def test_the_ledger_in_memory_has_the_same_terms(
    seed: int, create_database: Callable[[str | None], str]
) -> None:
    """Terms that change at random, late rows, a source that forgets, and backfills: both ledgers and both sinks agree."""
    chance = random.Random(seed)
    source = FakeSource()
    now = START
    url = create_database(TEMPLATE)
    memory = MemoryLedger(lambda: now)
    identity = MemoryIdentity(memory, Disk())
    with Database(url) as database:
        real = Rounds(
            source,
            Meters(database, OWNER, LEASE),
            Passes(database, LEASE, lambda: 0.0),
            Outbox(database, OWNER, LEAVE, ANSWER),
            FirstUses(database),
        )
        twin = Rounds(
            source,
            MemoryMeters(memory, OWNER, LEASE),
            MemoryPasses(memory, LEASE, identity),
            MemoryOutbox(memory, OWNER, LEAVE, ANSWER, identity),
            MemoryFirstUses(memory),
        )
        meter = replace(METER, sinks=SINKS)
        for number in range(1, 16):
            now = START + (4 * number + chance.randrange(4)) * HOUR + 10 * MINUTE
            hours = int((now - START) / HOUR)
            for _ in range(chance.randrange(6)):
                when = (
                    START + chance.randrange(max(0, hours - 20), hours) * HOUR + chance.randrange(60) * MINUTE
                )
                source.use(chance.choice(("cus_a", "cus_b", "cus_c")), when, chance.randrange(1, 5))
            if chance.random() < 0.4:
                given = some_terms(chance)
                kept = tuple(each for each in meter.terms if given is None or each.sink != given.sink)
                meter = replace(meter, terms=kept if given is None else (*kept, given))
            if chance.random() < 0.2:
                meter = replace(meter, sinks=chance.choice((SINKS, ("one",), ("two",))))
            retained = START + chance.randrange(max(1, hours - 8)) * HOUR if chance.random() < 0.2 else None
            meter = replace(meter, retained=retained)
            start = START + chance.randrange(hours) * HOUR
            backfill = Span(start, START + hours * HOUR) if chance.random() < 0.2 else None
            for each in (real, twin):
                each.round(meter, now, backfill)
        with psycopg.connect(url) as connection:
            tables = read(connection)
    for one in (tables, memory.tables):
        one.identity = replace(one.identity)
        for row in one.meters.values():
            row.lease_until = None
    found = differences(tables, memory.tables)
    assert found == [], "\n".join(map(str, found))
    assert {name: dict(sink.slots) for name, sink in real.sinks.items()} == {
        name: dict(sink.slots) for name, sink in twin.sinks.items()
    }
