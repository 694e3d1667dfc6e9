"""A pass over many customers: seconds to stage, plan and commit, seconds for an unchanged revisit, and peak memory.

Measures the ledger and the planner alone: the readings lie in a spool already, as they do when a source has been read.
"""

import datetime as dt
import sys
import tempfile
import time
import uuid
from collections.abc import Iterable
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

from aggregator.core import planner
from aggregator.core.model import (
    Change,
    Decision,
    Decreases,
    Limits,
    Meter,
    Reading,
    Span,
    WriteModel,
)
from aggregator.ledger.database import Database, ledger_id_of, migrate
from aggregator.ledger.meters import Feed, Meters
from aggregator.ledger.passes.passes import Pass, Passes
from aggregator.ledger.passes.spool import Spool
from aggregator.runtime.embedded_postgres import EmbeddedPostgres
from aggregator.runtime.threads import short_turns
from bench.memory import peak_megabytes

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


class Figures(NamedTuple):
    """Seconds, and megabytes of this process at its peak."""

    first_seconds: float
    unchanged_seconds: float
    peak_megabytes: float


def measure(customers: int) -> Figures:
    """Commit one window with so many customers, then read it again unchanged."""
    with tempfile.TemporaryDirectory() as directory, EmbeddedPostgres(Path(directory) / "pg") as server:
        migrate(server.url())
        with short_turns(), Database(server.url()) as database, Spool() as spool:
            for batch in readings(customers):
                spool.add(batch)
            return _measure(database, spool)


def readings(customers: int, at_once: int = 5_000) -> Iterable[list[Reading]]:
    """Yield one reading per customer, in batches."""
    for low in range(0, customers, at_once):
        yield [
            Reading(START, f"cus_{number:010d}", Decimal(number % 997 + 1), START + HOUR / 2)
            for number in range(low, min(low + at_once, customers))
        ]


def _measure(database: Database, spool: Spool) -> Figures:
    meters = Meters(database, uuid.uuid4(), LEASE)
    meter = Meter(
        name="api_requests",
        source="app",
        query="",
        fingerprint="",
        sinks=("stripe",),
        window=HOUR,
        start_at=START,
        delay=HOUR,
        revisit=HOUR,
    )
    registered = meters.register([meter])[meter.name]
    passes = Passes(database, LEASE, time.monotonic)
    policy = planner.Policy(
        ledger=str(ledger_id_of(database).ledger_id),
        sink="stripe",
        meter=meter.name,
        window=HOUR,
        decimals=0,
        decreases=Decreases.HOLD,
        limits=LIMITS,
        now=START + 2 * HOUR,
    )

    def decide(feed: Feed, changes: Iterable[Change], *, guarded: bool) -> Iterable[Decision]:
        assert not guarded, f"nothing of {feed.sink} shrinks"
        return planner.plan(changes, policy)

    span = Span(START, START + HOUR)
    lease = meters.acquire(registered)
    assert lease is not None
    seconds = []
    for _ in range(2):
        began = time.monotonic()
        tally = passes.commit(
            lease, spool, Pass("live", span, span, policy.now, lease.definitions[0]), decide
        )
        seconds.append(time.monotonic() - began)
        assert tally.rows == spool.rows
    peak = peak_megabytes()
    return Figures(seconds[0], seconds[1], peak)


if __name__ == "__main__":
    print(*measure(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000))
