"""The proof by killing: a daemon under load and faults is killed again and again, and nothing is lost or doubled.

Before it is killed, its connections to the ledger are cut, every other time.

    python -m tests.system.kill --kills 50

prints what was done and what it came to, and exits 1 if anything is lost, doubled, or ever too much.
"""

import argparse
import sys
from dataclasses import dataclass
from decimal import Decimal
from random import Random

from aggregator.clock import monotonic, utcnow
from aggregator.windows import floor
from tests.system.harness import MINUTE, Load, Watch, World, own_world, show, wait

FAULTS = {
    "latency_seconds": [0.0, 0.05],
    "too_many_requests": 0.05,
    "error_before": 0.05,
    "error_after": 0.05,
    "drop_before": 0.05,
    "drop_after": 0.05,
}
"""Of four calls one goes wrong, in every way that leaves open whether the event was booked, and in those that do not."""

KILL_WITHIN_SECONDS = 2.0
"""Most are killed so soon after they said that they had started: in the middle of reading, committing, sending."""

BEFORE_IT_STARTS = 5
"""One in so many is killed at a random moment of its start."""

CLAIMS_RUN_OUT_SECONDS = 90.0
"""What the last one killed had claimed is due again within a minute; the rest is for its being sent."""

CUT = """
select count(pg_terminate_backend(pid)) from pg_stat_activity
 where datname = current_database() and pid <> pg_backend_pid()
"""

CUSTOMERS = 25
ROWS_PER_SECOND = 150


@dataclass
class Killed:
    """What a run came to."""

    kills: int
    connections_cut: int = 0
    seconds: float = 0.0
    customers: int = 0
    rows: int = 0
    used: Decimal = Decimal(0)
    events: int = 0
    corrections: int = 0
    claims_left: int = 0
    answered_429: int = 0
    answered_500: int = 0
    dropped: int = 0
    duplicates_refused: int = 0
    double_counted: int = 0
    lost: Decimal = Decimal(0)
    doubled: Decimal = Decimal(0)
    looks: int = 0
    wrong: tuple[str, ...] = ()

    @property
    def good(self) -> bool:
        """Nothing lost, nothing doubled, never too much."""
        return not (self.lost or self.doubled or self.double_counted or self.wrong)


def kill_again_and_again(world: World, kills: int, seed: int = 1) -> Killed:
    """Kill the daemon at random moments, then leave one in peace; return what it came to."""
    began, random, result = monotonic(), Random(seed), Killed(kills)
    newest = floor(utcnow() + MINUTE / 12, MINUTE) + MINUTE
    world.use_much(CUSTOMERS, minutes=120)
    world.sandbox.set_faults(**FAULTS, seed=seed)
    load = Load(world, customers=CUSTOMERS, rows_per_second=ROWS_PER_SECOND, newest=newest, seed=seed)
    with Watch(world) as watch, load:
        for number in range(kills):
            early = number % BEFORE_IT_STARTS == BEFORE_IT_STARTS - 1
            daemon = world.daemon(started=not early)
            wait(random.uniform(0, KILL_WITHIN_SECONDS))
            if number % 2:
                result.connections_cut += world.one(CUT)
                wait(random.uniform(0, 1))
            daemon.kill()
        result.claims_left = world.one("select count(*) from aggregator.claim where settled_at is null")
        load.stop()
        stats = world.sandbox.stats()
        world.sandbox.set_faults()
        survivor = world.daemon()
        world.quiet(seconds=CLAIMS_RUN_OUT_SECONDS)
        survivor.stop()
        watch.look()
    take_stock(world, result)
    for name in ("answered_429", "answered_500", "dropped"):
        setattr(result, name, stats[name])
    result.looks, result.wrong = watch.looks, tuple(watch.wrong)
    result.seconds = monotonic() - began
    return result


def take_stock(world: World, result: Killed) -> None:
    """Compare the two sides to the unit, and count what it took."""
    used, billed = world.used(), world.billed()
    apart = [used.get(who, Decimal(0)) - billed.get(who, Decimal(0)) for who in used.keys() | billed.keys()]
    result.lost = sum((much for much in apart if much > 0), Decimal(0))
    result.doubled = -sum((much for much in apart if much < 0), Decimal(0))
    result.customers, result.used = len(used), sum(used.values(), Decimal(0))
    [(result.rows,)] = world.source("select count(*) from usage")
    [(result.events, result.corrections)] = world.ledger(
        "select count(*), count(*) filter (where revision > 0) from aggregator.event where state = 'accepted'"
    )
    stats = world.sandbox.stats()
    result.double_counted = stats["double_counted"]
    result.duplicates_refused = stats["duplicates_refused"]


def main() -> int:
    """Run it by itself, on a Postgres of its own."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    with own_world() as world:
        world.create_usage()
        result = kill_again_and_again(world, given.kills, given.seed)
    show(vars(result))
    return 0 if result.good else 1


if __name__ == "__main__":
    sys.exit(main())
