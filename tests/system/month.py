"""A month on a Stripe meter that keeps the newest number of each hour, with answers lost and the daemon killed at random.

Rows are written, changed and deleted all over the last thirty days while a daemon bills its hours live, answers get lost,
and backfills of the whole month run beside it, so that every hour is told again and again. In the end each customer's hours
at the sandbox are the source's, to the unit.

    python -m tests.system.month --kills 40 --rows 60000

prints what it came to, and exits 1 on any difference.
"""

import argparse
import datetime as dt
import sys
from dataclasses import dataclass
from decimal import Decimal
from random import Random

import psycopg

from aggregator.core.windows import floor
from aggregator.runtime.clock import monotonic, utcnow
from tests.system.harness import METER, PlannedUsage, World, own_world, show, until, wait

DAYS = 30
HOUR = dt.timedelta(hours=1)
CUSTOMERS = 20
FAULTS = {"drop_after": 0.1, "error_after": 0.06, "error_before": 0.04}
"""One call in five goes wrong. With more, some event goes wrong so often in a row that it waits for minutes."""
BATCHES_PER_SECOND = 10

QUERY = """
select customer, sum(quantity) as quantity, max(used_at) as at, date_trunc('hour', used_at) as window
  from usage where used_at >= :start and used_at < :end group by customer, date_trunc('hour', used_at)
"""

INSERT = """
insert into usage (customer, quantity, used_at)
select 'cus_' || floor(random() * %s), 1 + floor(random() * 9),
       %s::timestamptz + random() * (%s::timestamptz - %s::timestamptz)
  from generate_series(1, %s)
"""
CHANGE = (
    "update usage set quantity = quantity + 1 where id in (select id from usage order by random() limit %s)"
)
# An hour's first row stays: an hour that loses everything is lowered only by another read an hour later.
DELETE = """
delete from usage where id in (
    select id from (select id, row_number() over (partition by date_trunc('hour', used_at) order by id) as nth
                      from usage) as row
     where nth > 1 order by random() limit %s)
"""

USED_BY_HOUR = "select customer, date_trunc('hour', used_at), sum(quantity) from usage group by 1, 2"


@dataclass
class Month:
    """What a run came to."""

    kills: int
    rows: int = 0
    hours: int = 0
    events: int = 0
    corrections: int = 0
    answers_lost: int = 0
    backfills: int = 0
    used: Decimal = Decimal(0)
    billed: Decimal = Decimal(0)
    hours_that_differ: int = 0
    seconds: float = 0.0

    @property
    def good(self) -> bool:
        """Every hour of every customer is what was used, and there was something to get wrong."""
        return self.rows > 0 and self.used == self.billed and not self.hours_that_differ


class Application(PlannedUsage):
    """Writes, changes and deletes rows of the whole month on a thread of its own, for about so many rows."""

    def __init__(self, world: World, *, rows: int, seconds: float) -> None:
        super().__init__()
        self._world = world
        self._each = max(1, round(rows / (seconds * BATCHES_PER_SECOND)))

    def _work(self) -> None:
        end = floor(utcnow(), HOUR)
        start = end - DAYS * 24 * HOUR
        with psycopg.connect(self._world.source_url, autocommit=True) as connection:
            while not self._stopping.wait(1 / BATCHES_PER_SECOND):
                with connection.transaction():
                    connection.execute(INSERT, (CUSTOMERS, start, end, start, self._each))
                    connection.execute(CHANGE, (1 + self._each // 20,))
                    connection.execute(DELETE, (1 + self._each // 40,))


def month(
    world: World, *, kills: int, rows: int, seconds: float, seed: int, patience_seconds: float
) -> Month:
    """Let it all happen for so many seconds, then leave it in peace, and compare hour by hour."""
    began, random, result = monotonic(), Random(seed), Month(kills)
    _configure(world)
    world.sandbox.set_faults(**FAULTS)
    moments = sorted(random.uniform(0, seconds) for _ in range(kills))
    with Application(world, rows=rows, seconds=seconds):
        wait(0.5)
        daemon = world.daemon()
        backfill = world.start_process("backfill", *_range(world))
        for moment in [*moments, seconds]:
            wait(max(0.0, began + moment - monotonic()))
            victim = random.choice([daemon, daemon, backfill])
            victim.kill()
            if victim is daemon:
                daemon = world.daemon(started=False)
            if backfill.code is not None:
                backfill = world.start_process("backfill", *_range(world))
                result.backfills += 1
    backfill.ended(patience_seconds)
    stats = world.sandbox.stats()
    result.answers_lost = stats["dropped"] + stats["answered_500"]
    world.sandbox.set_faults()
    _come_to_rest(world, patience_seconds)
    for statement in (CHANGE, DELETE):  # so that in any case hours are corrected that were billed before
        world.source(statement, CUSTOMERS)
    _come_to_rest(world, patience_seconds)
    daemon.stop()
    _compare(world, result)
    result.seconds = monotonic() - began
    return result


def _come_to_rest(world: World, seconds: float) -> None:
    until(
        lambda: world.run("backfill", *_range(world)).code == 0 and _at_rest(world),
        "a backfill of the month leaves nothing to be planned or sent",
        seconds=seconds,
        seen=lambda: world.ledger(
            "select reread_from, (select count(*) from aggregator.outbox), (select count(*) from aggregator.parked) "
            "from aggregator.meter"
        ),
    )


def _at_rest(world: World) -> bool:
    """Tell whether nothing is to be sent, and no change waits to be planned behind an event that was on its way."""
    return not world.waiting() and world.one("select reread_from is null from aggregator.meter")


def _configure(world: World) -> None:
    world.start = floor(utcnow(), HOUR) - DAYS * 24 * HOUR
    world.meter.update(
        window="1h",
        start_at=f"{world.start:%Y-%m-%dT%H:%MZ}",
        query=QUERY,
        decreases="apply",
        shrink_guard="100%",
        stripe={"event_time_window": "hour"},
    )
    world.meter.pop("revisit", None)


def _range(world: World) -> tuple[str, ...]:
    return (
        "--from",
        f"{world.start:%Y-%m-%dT%H:%MZ}",
        "--to",
        f"{world.start + DAYS * 24 * HOUR:%Y-%m-%dT%H:%MZ}",
    )


def _compare(world: World, result: Month) -> None:
    """Hold what each customer's hours came to at the sandbox against the source."""
    used = {(who, hour.timestamp()): much for who, hour, much in world.source(USED_BY_HOUR)}
    kept: dict[tuple[str, float], Decimal] = {}
    offset = 0
    while page := world.sandbox.events(offset=offset, limit=100_000):
        offset += len(page)
        for event in page:  # in the order in which they were received: the newest of an hour counts
            kept[event["customer"], event["timestamp"] // 3600 * 3600.0] = Decimal(event["value"])
    result.hours_that_differ = sum(
        used.get(key, Decimal(0)) != kept.get(key, Decimal(0)) for key in used.keys() | kept.keys()
    )
    result.hours, result.used = len(used), sum(used.values(), Decimal(0))
    result.billed = sum(world.sandbox.totals(METER).values(), Decimal(0))
    [(result.rows,)] = world.source("select count(*) from usage")
    [(result.events, result.corrections)] = world.ledger(
        "select count(*), count(*) filter (where revision > 0) from aggregator.event where state = 'accepted'"
    )


def main() -> int:
    """Run it by itself, on a Postgres of its own."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--rows", type=int, default=60_000)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    with own_world(f"{METER}:sum:hour") as world:
        world.create_usage()
        result = month(world, **vars(given), patience_seconds=300)
    show(vars(result))
    return 0 if result.good else 1


if __name__ == "__main__":
    sys.exit(main())
