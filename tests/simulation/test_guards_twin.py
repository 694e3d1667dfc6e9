"""Guards in the ledger in memory: the same rounds over it and over Postgres hold the same, and end in the same rows."""

import datetime as dt
import itertools
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from aggregator.collection.collector import Collector
from aggregator.core.model import Decreases, Guard, Guards, Meter, State, WriteModel
from aggregator.delivery.sender import Sender
from aggregator.ledger.database import Database
from aggregator.ledger.meters import Meters
from aggregator.ledger.outbox.first_use import FirstUses
from aggregator.ledger.outbox.outbox import Outbox
from aggregator.ledger.passes.passes import Passes
from aggregator.ledger.review.parked import ParkedEvents
from tests.conftest import TEMPLATE
from tests.fakes import LIMITS, FakeSink, FakeSource
from tests.postgres.world import HOUR, METER, MINUTE, START
from tests.simulation.apart import DIMENSION
from tests.simulation.memory import MemoryLedger, MemoryMeters
from tests.simulation.memory_first_use import MemoryFirstUses
from tests.simulation.memory_identity import Disk, MemoryIdentity
from tests.simulation.memory_outbox import MemoryOutbox
from tests.simulation.memory_parked import MemoryParked
from tests.simulation.memory_passes import MemoryPasses
from tests.simulation.postgres import Unpinned, differences, read
from tests.simulation.test_terms_twin import ANSWER, LEASE, LEAVE, OWNER

WEEK = 168
WEEKS = 6
Use = tuple[str | None, dt.datetime, Decimal]
CUSTOMERS = ("cus_a", "cus_b", "cus_c", "cus_d")


class Rounds:
    """Rounds of one process over a ledger whose sink takes numbers in one way."""

    def __init__(self, source: FakeSource, model: WriteModel, *parts: Any) -> None:
        self.source, self.model = source, model
        self.now = START
        self.meters, self.passes, self.outbox, self.first, self.parked = parts
        self.sink = FakeSink("fake", replace(LIMITS, write_model=model))

    def round(self, meter: Meter, now: Any) -> int:
        """Register, read and send; return how many events guards held."""
        registered = self.meters.register([meter])[meter.name]
        feeds = tuple(feed._replace(model=self.model) for feed in registered.feeds)
        self.first.clear_for_good([feed.id for feed in feeds], "a test that is about something else", now)
        collection = Collector(
            registered._replace(feeds=feeds),
            self.source,
            self.meters,
            self.passes,
            ledger_name=Unpinned().name,
            limits={"fake": self.sink.limits},
            elapsed=itertools.count().__next__,
        )
        held = collection.run_once(now).beyond
        delivery = Sender(self.outbox, self.sink, feeds[0].sink_id, lambda: now)
        for _ in range(20):
            if not delivery.run_once(now).claimed:
                break
        return held


def some_guards(chance: random.Random) -> Guards:
    """Return limits of some kind, low enough to be met."""
    if chance.random() < 0.4:
        return Guards(max_total_change=Decimal("1.5"), unusual_from=Decimal(8))
    return Guards(
        max_per_customer_window=Decimal(40) if chance.random() < 0.8 else None,
        max_change=Decimal(3) if chance.random() < 0.7 else None,
        max_total_change=Decimal(2) if chance.random() < 0.7 else None,
        unusual_from=Decimal(chance.choice((1, 8))),
    )


def some_use(uses: list[Use], chance: random.Random, week: int) -> list[Use]:
    """Let customers use something in two hours of a week, now and then far too much; or put all of that right."""
    begun, uses = START + week * WEEK * HOUR, list(uses)
    for _ in range(chance.randrange(1, 7)):
        much = chance.choice((1, 2, 5, 5, 5, 10, 60, 300))
        uses.append((chance.choice(CUSTOMERS), begun + chance.randrange(120) * MINUTE, Decimal(much)))
    if chance.random() < 0.4:
        uses = [use for use in uses if use[1] < begun or use[2] <= 10]
    return uses


def told(chance: random.Random) -> Iterator[tuple[dt.datetime, Guards | None, list[Use]]]:
    """Yield when a round is, which guards hold from then on, and all usage by then.

    It begins with what chance rarely brings: a window that is swollen and put right, and an hour that is held while the one
    before it changes.
    """
    uses: list[Use] = []
    whole = Guards(max_total_change=Decimal("1.5"), unusual_from=Decimal(8))
    for week in range(3):
        uses += [(customer, START + week * WEEK * HOUR, Decimal(5)) for customer in CUSTOMERS]
        more: list[Use] = [("cus_a", uses[-1][1], Decimal(60))] if week == 2 else []
        yield START + (week * WEEK + 2) * HOUR + 10 * MINUTE, whole, uses + more
    begun = uses[-1][1]
    yield begun + 2 * HOUR + 15 * MINUTE, None, list(uses)
    single = Guards(max_per_customer_window=Decimal(40))
    uses.append(("cus_a", begun + HOUR, Decimal(700)))
    yield begun + 2 * HOUR + 20 * MINUTE, single, list(uses)
    for minutes in (25, 30):
        uses.append(("cus_a", begun, Decimal(1)))
        yield begun + 2 * HOUR + minutes * MINUTE, None, list(uses)
    for week, part in itertools.product(range(3, WEEKS), range(5)):
        uses = some_use(uses, chance, week)
        meant = some_guards(chance) if chance.random() < 0.3 else None
        yield START + (week * WEEK + 2 + part) * HOUR + 10 * MINUTE, meant, list(uses)


@contextmanager
def pair(model: WriteModel, url: str) -> Iterator[tuple[Database, MemoryLedger, Rounds, Rounds]]:
    """Give a ledger and the one in memory, with rounds over each; both read the same source."""
    source = FakeSource()
    memory = MemoryLedger(lambda: twin.now)
    identity = MemoryIdentity(memory, Disk())
    with Database(url) as database:
        real = Rounds(
            source,
            model,
            Meters(database, OWNER, LEASE),
            Passes(database, LEASE, lambda: 0.0),
            Outbox(database, OWNER, LEAVE, ANSWER),
            FirstUses(database),
            ParkedEvents(database),
        )
        twin = Rounds(
            source,
            model,
            MemoryMeters(memory, OWNER, LEASE),
            MemoryPasses(memory, LEASE, identity),
            MemoryOutbox(memory, OWNER, LEAVE, ANSWER, identity),
            MemoryFirstUses(memory),
            MemoryParked(memory),
        )
        yield database, memory, real, twin


def unlike(database: Database, memory: MemoryLedger) -> list[object]:
    """Return in what both differ, but for who they are and until when somebody holds their meters."""
    with database.transaction() as connection:
        tables = read(connection)
    for table in (tables, memory.tables):
        table.identity = replace(table.identity)
        for row in table.meters.values():
            row.lease_until = None
    return list(differences(tables, memory.tables))


def propose(database: Database, memory: MemoryLedger, chance: random.Random) -> None:
    """Let some decreases that wait be what a repair has proposed."""
    tables = memory.tables
    lowers = [event for event, row in sorted(tables.parked.items()) if row.state is State.HELD]
    proposed = [event for event in lowers if tables.events[event].delta < 0 and chance.random() < 0.4]
    for event in proposed:
        tables.parked[event].guard = Guard.REPAIR
    with database.transaction() as connection:
        connection.execute(
            "update aggregator.parked set guard = 'repair' where event_id = any(%s)", (proposed,)
        )


def by_model(uses: list[Use]) -> list[tuple[str | None, dt.datetime, Decimal, dict[str, str | None]]]:
    """Keep usage apart by one of three models: whoever uses too much does so by several of them together."""
    return [(who, at, much, {DIMENSION: f"m{at.minute % 3}"}) for who, at, much in uses]


@pytest.mark.parametrize(
    ("model", "apart"),
    [*((model, False) for model in WriteModel), (WriteModel.DELTA, True)],
    ids=str,
)
@pytest.mark.parametrize("seed", range(1, 3))
def test_the_ledger_in_memory_has_the_same_guards(
    seed: int, model: WriteModel, create_database: Callable[[str | None], str], *, apart: bool
) -> None:
    """Usage that jumps, limits that change, releases and dismissals at random: both ledgers and both sinks agree."""
    chance = random.Random(seed)
    held = 0
    with pair(model, create_database(TEMPLATE)) as (database, memory, real, twin):
        source = real.source
        decreases = chance.choice((Decreases.HOLD, Decreases.APPLY))
        meter = replace(METER, latest=model is WriteModel.LAST, decreases=decreases)
        meter = replace(meter, dimensions=(DIMENSION,) if apart else ())
        for step, (at, meant, uses) in enumerate(told(chance)):
            now = real.now = twin.now = at
            source.uses, source.kept_apart = ([], by_model(uses)) if apart else (uses, [])
            real.sink.refused = twin.sink.refused = {"cus_d"} if step > 6 and chance.random() < 0.4 else set()
            meter = replace(meter, guards=meant or meter.guards)
            one, other = real.round(meter, now), twin.round(meter, now)
            assert one == other
            held += one
            if step > 6:
                waiting = [event for event in sorted(memory.tables.parked) if chance.random() < 0.2]
                left = waiting[1::2]
                for each in (real, twin):
                    each.parked.dismiss(left, now)
                    each.outbox.release([event for event in waiting if event not in left], now)
                propose(database, memory, chance)
        found = unlike(database, memory)
    assert held, "nothing was ever held, so that nothing was compared"
    assert found == [], "\n".join(map(str, found))
    assert dict(real.sink.slots) == dict(twin.sink.slots)


def test_what_a_person_left_at_that_is_said_again_by_neither(
    create_database: Callable[[str | None], str],
) -> None:
    """Where the last number is billed, newer windows follow an older one that changes: not one that a person dismissed."""
    with pair(WriteModel.LAST, create_database(TEMPLATE)) as (database, memory, real, twin):
        source, meter = real.source, replace(METER, latest=True)
        for hour, (uses, refused) in enumerate(
            (([5], set()), ([5, 7], {"cus_a"}), ([6, 7], set()), ([6, 7, 8], set()), ([9, 7, 8], set()))
        ):
            source.uses = [("cus_a", START + at * HOUR, Decimal(much)) for at, much in enumerate(uses)]
            for each in (real, twin):
                each.now = START + (hour + 1) * HOUR + 10 * MINUTE
                each.sink.refused = refused
                each.round(meter, each.now)
            for each in (real, twin):
                each.parked.dismiss(sorted(memory.tables.parked), each.now)
        assert unlike(database, memory) == []
        for each in (real, twin):
            assert [event.total for event in each.sink.received] == [5, 7, 6, 8, 9, 8], "7 is left at that"
