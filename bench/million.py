"""A pass over many customers: what it takes to stage, plan and commit it, an unchanged revisit, and peak memory.

Measures the ledger and the planner alone: the readings lie in a spool already, as they do when a source has been read.
"""

import datetime as dt
import tempfile
import time
import uuid
from collections.abc import Iterable
from decimal import Decimal
from pathlib import Path

from aggregator.core import planner
from aggregator.core.model import (
    Change,
    Decision,
    Limits,
    Reading,
    Span,
    WriteModel,
)
from aggregator.ledger.database import Database, migrate
from aggregator.ledger.meters import Feed, Meters
from aggregator.ledger.passes.passes import Pass, Passes
from aggregator.ledger.passes.spool import Spool
from aggregator.runtime.embedded_postgres import EmbeddedPostgres
from aggregator.runtime.threads import short_turns
from bench.figures import Figure, measured
from bench.hourly import meter_of, policy_of
from bench.memory import peak_megabytes
from bench.stand import postmaster, seldom_collected

HOUR = dt.timedelta(hours=1)
START = dt.datetime(2026, 11, 1, tzinfo=dt.UTC)
LEASE = dt.timedelta(minutes=10)
LIMITS = Limits(
    write_model=WriteModel.DELTA,
    memory=20 * HOUR,
    proof=None,
    past=dt.timedelta(days=35),
    significant_digits=15,
    identifier_length=100,
    batch=500,
    rate=1_000.0,
)


MODELS, TOKEN_TYPES = 10, 5
"""What each customer's usage is kept apart by, where it is: fifty combinations."""


def measure(customers: int) -> list[Figure]:
    """Commit one window with so many customers, then read it again unchanged."""
    return _of(readings(customers), "customers")


def measure_apart(slots: int) -> list[Figure]:
    """Do the same with as many slots of a fiftieth of the customers, each with two dimensions."""
    return _of(readings_apart(slots), "slots with two dimensions")


def _of(read: Iterable[list[Reading]], what: str) -> list[Figure]:
    with tempfile.TemporaryDirectory() as directory, EmbeddedPostgres(Path(directory) / "pg") as server:
        migrate(server.url())
        with short_turns(), seldom_collected(), Database(server.url()) as database, Spool() as spool:
            for batch in read:
                spool.add(batch)
            return _measure(database, spool, postmaster(server), what)


def readings(customers: int, at_once: int = 5_000) -> Iterable[list[Reading]]:
    """Yield one reading per customer, in batches."""
    for low in range(0, customers, at_once):
        yield [
            Reading(START, f"cus_{number:010d}", Decimal(number % 997 + 1), START + HOUR / 2)
            for number in range(low, min(low + at_once, customers))
        ]


def readings_apart(slots: int, at_once: int = 5_000) -> Iterable[list[Reading]]:
    """Yield as many readings, of each customer one for every combination."""
    each = MODELS * TOKEN_TYPES
    apart = [
        (("model", f"model-{number % MODELS}"), ("token_type", f"type-{number // MODELS}"))
        for number in range(each)
    ]
    for low in range(0, slots, at_once):
        yield [
            Reading(
                START,
                f"cus_{number // each:010d}",
                Decimal(number % 997 + 1),
                START + HOUR / 2,
                dimensions=apart[number % each],
            )
            for number in range(low, min(low + at_once, slots))
        ]


def _measure(database: Database, spool: Spool, server: int, what: str) -> list[Figure]:
    meters = Meters(database, uuid.uuid4(), LEASE)
    meter = meter_of("stripe", START)
    registered = meters.register([meter])[meter.name]
    passes = Passes(database, LEASE, time.monotonic)
    policy = policy_of(database, "stripe", LIMITS, START + 2 * HOUR)

    def decide(feed: Feed, changes: Iterable[Change], *, guarded: bool, **_: object) -> Iterable[Decision]:
        assert not guarded, f"nothing of {feed.sink} shrinks"
        return planner.plan(changes, policy)

    span = Span(START, START + HOUR)
    lease = meters.acquire(registered)
    assert lease is not None
    figures = []
    for work in ("stage, plan, commit", "the same window unchanged"):
        figure = Figure(f"{spool.rows:,} {what}, one window: {work}", spool.rows)
        with measured(figure, {"ledger": server}):
            tally = passes.commit(
                lease, spool, Pass("live", span, span, policy.now, lease.definitions[0]), decide
            )
        assert tally.rows == spool.rows
        figures.append(figure)
    for figure in figures:
        figure.peak_megabytes = peak_megabytes()
    return figures
