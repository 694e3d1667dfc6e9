"""The proof by commit order: rows become visible long after the time they carry, and in another order than their ids.

Writers hold transactions open for anything from a moment to a minute. A row is stamped with its transaction's start, as
`default now()` does, gets its id when it is inserted, and appears when its transaction commits. The daemon bills each minute
of it live. Beside it, two plain cursors follow the same table as many jobs do: one by `id`, one by the time.

    python -m tests.system.torture --writers 32 --rows 1000000 --longest 60

prints what it came to, and exits 1 if anything is lost, doubled, or ever too much.
"""

import argparse
import sys
import threading
from dataclasses import dataclass
from decimal import Decimal
from random import Random
from typing import Any, Self

import psycopg

from aggregator.core.windows import floor
from aggregator.runtime.clock import monotonic, utcnow
from tests.system.harness import MINUTE, PlannedUsage, Process, Watch, World, own_world, show, wait

CUSTOMERS = 100

LENGTHS = ((0.90, 0.002), (0.08, 0.1), (0.02, 1.0))
"""Shares of transactions, and up to which part of the longest each of that share lasts: most are short, some are not."""

MEAN_LENGTH = sum(share * part / 2 for share, part in LENGTHS)
ROLLED_BACK = 0.03
STATEMENTS = 3
"""At most so many inserts per transaction, spread over its length: its ids lie among those of others."""

PAUSE_SECONDS = 0.02
CURSOR_SECONDS = 1.0
LOOK_SECONDS = 10.0
LAST_MOMENT_SECONDS = 0.5
"""The last transactions begin this long before a minute ends, so that the last window closes while they are open."""

INSERT = """
insert into usage (customer, quantity, used_at)
select 'cus_' || floor(random() * %s), 1 + floor(random() * 9), now() from generate_series(1, %s)
"""


@dataclass
class Tortured:
    """What a run came to."""

    writers: int
    rows: int = 0
    transactions: int = 0
    rolled_back: int = 0
    longest_seconds: float = 0.0
    committed_out_of_order: int = 0
    """Transactions that committed after one that had begun later."""
    kills: int = 0
    windows: int = 0
    events: int = 0
    corrections: int = 0
    looks: int = 0
    double_counted: int = 0
    used: Decimal = Decimal(0)
    lost: Decimal = Decimal(0)
    doubled: Decimal = Decimal(0)
    id_cursor_lost_percent: float = 0.0
    time_cursor_lost_percent: float = 0.0
    wrong: tuple[str, ...] = ()
    seconds_until_equal: float = 0.0
    seconds: float = 0.0

    @property
    def good(self) -> bool:
        """Nothing lost, nothing doubled, at no moment too much."""
        return self.rows > 0 and not (self.lost or self.doubled or self.double_counted or self.wrong)


class Writers:
    """Write so many rows within so many seconds, each writer on a connection and a thread of its own."""

    def __init__(self, world: World, count: int, *, rows: int, longest: float, seconds: float, seed: int):
        self._url = world.source_url
        self._rows, self._longest, self._seconds = rows, longest, seconds
        self._most_at_once = max(1, round(4 * rows * MEAN_LENGTH * longest / (count * seconds)))
        self._lock = threading.Lock()
        self._planned = 0
        self._latest_start = 0.0
        self._began = monotonic()
        self.result = Tortured(count)
        self.trouble: list[str] = []
        self._threads = [
            threading.Thread(target=self._work, args=(Random(f"{seed}-{number}"), number))
            for number in range(count)
        ]

    def __enter__(self) -> Self:
        self._began = monotonic()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for thread in self._threads:
            thread.join()

    @property
    def at_work(self) -> bool:
        """Whether any transaction is still to come, or open."""
        return any(thread.is_alive() for thread in self._threads)

    def _work(self, random: Random, number: int) -> None:
        """Write until the time is over. The first writer ends with the longest transaction there may be."""
        try:
            with psycopg.connect(self._url, autocommit=True) as connection:
                while (left := self._seconds - (monotonic() - self._began)) > 0:
                    [part] = random.choices([part for _, part in LENGTHS], [share for share, _ in LENGTHS])
                    rows = self._owed(random)
                    if rows:
                        length = random.uniform(0, part * self._longest)
                        # The first one ends in time to begin its last in this minute: what is written later is of the next.
                        self._transact(connection, random, rows, min(length, left) if number == 0 else length)
                    else:
                        wait(min(PAUSE_SECONDS, left))
                if number == 0:
                    self._transact(connection, random, self._most_at_once, self._longest)
        except psycopg.Error as error:
            self.trouble.append(f"a writer failed: {error}")

    def _owed(self, random: Random) -> int:
        """Return how many rows to write now, so that all are written evenly over the time there is."""
        with self._lock:
            share = min(1.0, (monotonic() - self._began + 1) / self._seconds)
            rows = min(round(self._rows * share) - self._planned, random.randint(1, self._most_at_once))
            self._planned += max(0, rows)
            return max(0, rows)

    def _transact(
        self, connection: psycopg.Connection[tuple[object, ...]], random: Random, rows: int, length: float
    ) -> None:
        """Insert rows in one transaction, spread over its length. A few are rolled back, and written by the next."""
        moments = sorted([0.0, *(random.uniform(0, length) for _ in range(random.randrange(STATEMENTS)))])
        dropped = random.random() < ROLLED_BACK and length < self._longest
        began = monotonic()
        with connection.transaction(force_rollback=dropped):
            for number, moment in enumerate(moments):
                wait(max(0.0, began + moment - monotonic()))
                share = rows * (number + 1) // len(moments) - rows * number // len(moments)
                connection.execute(INSERT, (CUSTOMERS, share))
            wait(max(0.0, began + length - monotonic()))
        with self._lock:
            self._planned -= rows * dropped
            self.result.rolled_back += dropped
            self.result.transactions += 1
            self.result.longest_seconds = max(self.result.longest_seconds, monotonic() - began)
            self.result.committed_out_of_order += began < self._latest_start
            self._latest_start = max(self._latest_start, began)


class Cursors(PlannedUsage):
    """What many jobs do: remember the greatest `id`, or the latest time, and ask for what is greater."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._url = world.source_url
        self.seen_by_id = self.seen_by_time = 0

    def _work(self) -> None:
        by_id = "select count(*), coalesce(max(id), %s) from usage where id > %s"
        by_time = "select count(*), coalesce(max(used_at), %s) from usage where used_at > %s"
        last: int = 0
        with psycopg.connect(self._url, autocommit=True) as connection:
            [(latest,)] = connection.execute("select now() - interval '1 day'").fetchall()
            going_on = True
            while going_on:
                going_on = not self._stopping.wait(CURSOR_SECONDS)
                [(count, last)] = connection.execute(by_id, (last, last)).fetchall()
                self.seen_by_id += count
                [(count, latest)] = connection.execute(by_time, (latest, latest)).fetchall()
                self.seen_by_time += count


def torture(
    world: World,
    *,
    writers: int,
    rows: int,
    longest: float,
    seconds: float,
    kills: int = 0,
    seed: int = 1,
    patience_seconds: float,
) -> Tortured:
    """Write for about so many seconds while the daemon bills live, wait until both sides agree, and compare.

    It is rounded up so that writing ends with a minute, and the longest transactions end in the next one.
    """
    began = monotonic()
    world.meter["start_at"] = f"{floor(utcnow(), MINUTE):%Y-%m-%dT%H:%MZ}"
    world.config["sources"]["app"]["wait_for_writers"] = "15m"
    daemon = world.daemon()
    watch = Watch(world)
    left = -(utcnow() - floor(utcnow(), MINUTE)).total_seconds() - LAST_MOMENT_SECONDS
    while left < seconds:
        left += MINUTE.total_seconds()
    working = Writers(world, writers, rows=rows, longest=longest, seconds=left, seed=seed)
    with Cursors(world) as cursors:
        with working:
            daemon = _look_and_kill(world, daemon, watch, working, Random(seed), kills, left)
        written = monotonic()
    result = working.result
    result.kills = kills
    [(result.rows,)] = world.source("select count(*) from usage")
    result.id_cursor_lost_percent = 100 * (1 - cursors.seen_by_id / result.rows)
    result.time_cursor_lost_percent = 100 * (1 - cursors.seen_by_time / result.rows)
    world.quiet(seconds=patience_seconds)
    result.seconds_until_equal = monotonic() - written
    daemon.stop()
    watch.look()
    take_stock(world, result)
    result.looks, result.wrong = watch.looks, (*working.trouble, *watch.wrong)
    result.seconds = monotonic() - began
    return result


def _look_and_kill(
    world: World, daemon: Process, watch: Watch, working: Writers, random: Random, kills: int, seconds: float
) -> Process:
    """Look at the sandbox now and then while the writers are at work, and kill the daemon as often as asked for."""
    began = looked = monotonic()
    killing = sorted(random.uniform(0, seconds) for _ in range(kills))
    while working.at_work:
        wait(PAUSE_SECONDS * 10)
        if killing and monotonic() - began > killing[0]:
            killing.pop(0)
            daemon.kill()
            daemon = world.daemon()
        if monotonic() - looked > LOOK_SECONDS:
            watch.look()
            looked = monotonic()
    return daemon


def take_stock(world: World, result: Tortured) -> None:
    """Compare the two sides to the unit, and count what it took."""
    used, billed = world.used(), world.billed()
    apart = [used.get(who, Decimal(0)) - billed.get(who, Decimal(0)) for who in used.keys() | billed.keys()]
    result.lost = sum((much for much in apart if much > 0), Decimal(0))
    result.doubled = -sum((much for much in apart if much < 0), Decimal(0))
    result.used = sum(used.values(), Decimal(0))
    [(result.events, result.corrections, result.windows)] = world.ledger("""
        select count(*), count(*) filter (where revision > 0), count(distinct window_start)
          from aggregator.event where state = 'accepted'
    """)
    result.double_counted = world.sandbox.stats()["double_counted"]


def arguments(told: str, *, rows: int, seconds: float, kills: int) -> dict[str, Any]:
    """Return what the command line asks of `torture`; `told` is its help, and the rest what holds where it says nothing."""
    parser = argparse.ArgumentParser(description=told, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--writers", type=int, default=32)
    parser.add_argument("--rows", type=int, default=rows)
    parser.add_argument("--longest", type=float, default=60, help="Seconds that a transaction may last.")
    parser.add_argument(
        "--seconds", type=float, default=seconds, help="How long transactions are begun, at least."
    )
    parser.add_argument("--kills", type=int, default=kills, help="How often the daemon is killed meanwhile.")
    parser.add_argument("--seed", type=int, default=1)
    return vars(parser.parse_args())


def main() -> int:
    """Run it by itself, on a Postgres of its own."""
    given = arguments(__doc__ or "", rows=1_000_000, seconds=240, kills=0)
    with own_world() as world:
        world.create_usage()
        result = torture(world, **given, patience_seconds=300)
    show(vars(result))
    return 0 if result.good else 1


if __name__ == "__main__":
    sys.exit(main())
