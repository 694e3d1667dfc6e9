"""Cutovers in the ledger in memory: customers who move at random, over it and over Postgres, end in the same rows."""

import datetime as dt
import random
from collections.abc import Callable
from dataclasses import replace

import psycopg
import pytest

from aggregator.core.model import Span, Terms
from aggregator.errors import UsageError
from aggregator.ledger.cutovers import Cutovers
from aggregator.ledger.database import Database
from aggregator.ledger.meters import Meters
from aggregator.ledger.outbox.first_use import FirstUses
from aggregator.ledger.outbox.outbox import Outbox
from aggregator.ledger.passes.passes import Passes
from tests.conftest import TEMPLATE
from tests.fakes import FakeSource
from tests.postgres.world import HOUR, METER, MINUTE, START
from tests.simulation.memory import MemoryLedger, MemoryMeters
from tests.simulation.memory_cutovers import MemoryCutovers
from tests.simulation.memory_first_use import MemoryFirstUses
from tests.simulation.memory_identity import Disk, MemoryIdentity
from tests.simulation.memory_outbox import MemoryOutbox
from tests.simulation.memory_passes import MemoryPasses
from tests.simulation.postgres import differences, read
from tests.simulation.test_terms_twin import ANSWER, LEASE, LEAVE, OWNER, SINKS, Rounds

CUSTOMERS = ("cus_a", "cus_b", "cus_c")


def outcome(cutovers: Cutovers | MemoryCutovers, chance: random.Random, now: dt.datetime) -> int | None:
    """Set or withdraw a cutover at random; return how many it was for, or None if it was refused."""
    whose = None if chance.random() < 0.2 else chance.sample(CUSTOMERS, chance.randrange(1, 3))
    at = now.replace(minute=0) + chance.randrange(-3, 12) * HOUR
    try:
        if chance.random() < 0.2:
            return cutovers.withdraw(*SINKS, [METER.name], whose)
        return cutovers.set(*SINKS, [METER.name], at, whose, parallel=False, by="somebody", reason=None)
    except UsageError:
        return None


@pytest.mark.parametrize("seed", range(1, 4))
def test_the_ledger_in_memory_has_the_same_cutovers(
    seed: int, create_database: Callable[[str | None], str]
) -> None:
    """Late rows, backfills, cutovers set, moved and taken back: both ledgers agree, and one sink is sent each window."""
    chance = random.Random(seed)
    source, now = FakeSource(), START
    url = create_database(TEMPLATE)
    memory = MemoryLedger(lambda: now)
    identity = MemoryIdentity(memory, Disk())
    terms = (Terms("two", START, None, shadow=True),)
    meter = replace(METER, sinks=SINKS, terms=terms)
    moved = 0
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
        for number in range(1, 13):
            now = START + (4 * number + chance.randrange(4)) * HOUR + 10 * MINUTE
            hours = int((now - START) / HOUR)
            for _ in range(chance.randrange(9)):
                when = (
                    START + chance.randrange(max(0, hours - 12), hours) * HOUR + chance.randrange(60) * MINUTE
                )
                source.use(chance.choice(CUSTOMERS), when, chance.randrange(1, 5))
            start = START + chance.randrange(hours) * HOUR
            backfill = Span(start, START + hours * HOUR) if chance.random() < 0.3 else None
            for each in (real, twin):
                each.round(meter, now, backfill)
            state = chance.getstate()
            done = outcome(Cutovers(database), chance, now)
            chance.setstate(state)
            assert outcome(MemoryCutovers(memory), chance, now) == done
            moved += done or 0
        with psycopg.connect(url) as connection:
            tables = read(connection)
    for one in (tables, memory.tables):
        one.identity = replace(one.identity)
        for row in one.meters.values():
            row.lease_until = None
    found = differences(tables, memory.tables)
    assert found == [], "\n".join(map(str, found))
    assert moved, "somebody moves"
    sent = [{key for key, much in real.sinks[name].slots.items() if much} for name in SINKS]
    assert not sent[0] & sent[1]
    assert [dict(real.sinks[name].slots) for name in SINKS] == [
        dict(twin.sinks[name].slots) for name in SINKS
    ]
