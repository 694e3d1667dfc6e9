"""How many bytes a ledger takes per event: its slot, the event, and all of their indexes, by table and index.

    python -m bench.size [--slots 100000] [--retries 3] [--against CHECKOUT]

One meter with one sink is read window by window, of 5,000 customers with ids as Stripe makes them. Each window is planned,
claimed and settled before the next one begins, once at the first try and once after some tries that bring no answer; each
answer has a request id of its own. Autovacuum is off, so that its moment decides nothing: each window ends with a vacuum,
as half an hour of a real ledger does.
"""

import argparse
import base64
import datetime as dt
import hashlib
import json
import tempfile
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path

import psycopg

from aggregator.core import planner
from aggregator.core.model import Change, Decision, EventId, Outcome, Reading, Span, State
from aggregator.ledger.database import Database, migrate
from aggregator.ledger.meters import Feed, Meters
from aggregator.ledger.outbox.outbox import Outbox
from aggregator.ledger.passes.passes import Pass, Passes
from aggregator.ledger.passes.spool import Spool
from aggregator.runtime.embedded_postgres import EmbeddedPostgres
from bench.checkouts import HOME, Checkout, checkout
from bench.hourly import meter_of, policy_of
from bench.million import HOUR, LEASE, LIMITS, START

CUSTOMERS = 5_000
BATCH = 1_000
SETTLED_AT_ONCE = 200
"""As delivery settles them, of whichever batch."""

LATER = START + 60 * 24 * HOUR
"""When all of it is sent."""

NO_ANSWER = "no answer within 30 seconds (ReadTimeout)"

OUTLINE = ("alter system set autovacuum = off", "alter system set fsync = off", "select pg_reload_conf()")

SIZES = """
select relname, case when relkind = 'i' then pg_relation_size(pg_class.oid) else pg_table_size(pg_class.oid) end
  from pg_class
 where relnamespace = 'aggregator'::regnamespace and relkind in ('r', 'i') and pg_relation_size(pg_class.oid) > 0
 order by relname
"""

OF_EACH = ("slot", "event")
"""What the names of the tables of slots and events, and of their indexes, begin with."""

Sizes = dict[str, float]
"""Bytes per event, by table and index."""


def customer(number: int) -> str:
    """Return an id as Stripe's are: `cus_` and 14 characters."""
    return f"cus_{base64.b32encode(hashlib.sha256(str(number).encode()).digest())[:14].decode()}"


def measure(slots: int, retries: int) -> Sizes:
    """Fill a ledger with so many slots, of which each event was tried in vain before; return what it takes."""
    windows = max(slots // CUSTOMERS, 1)
    customers = sorted(customer(number) for number in range(slots // windows))
    with _ledger() as url, Database(url, name="bench") as database:
        planning = _Planning(database)
        outbox = Outbox(database, uuid.uuid4(), LEASE, HOUR)
        for number in range(windows):
            planning.window(START + number * HOUR, customers)
            for _ in range(retries):
                _try(outbox, planning.sink, len(customers), answered=False)
            _try(outbox, planning.sink, len(customers), answered=True)
            _vacuum(url)
        return _sizes(url)


@contextmanager
def _ledger() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as directory, EmbeddedPostgres(Path(directory) / "pg") as server:
        with psycopg.connect(server.url(), autocommit=True) as connection:
            for statement in OUTLINE:
                connection.execute(statement.encode())
        migrate(server.url())
        yield server.url()


class _Planning:
    """One meter, and the lease under which its windows are planned."""

    def __init__(self, database: Database) -> None:
        self._database = database
        meters = Meters(database, uuid.uuid4(), LEASE)
        meter = meter_of("stripe", START)
        registered = meters.register([meter])[meter.name]
        [feed] = registered.feeds
        self.sink = feed.sink_id
        self._run("update aggregator.feed set cleared_at = now()")
        lease = meters.acquire(registered)
        assert lease is not None
        self._lease = lease
        self._passes = Passes(database, LEASE, time.monotonic)

    def window(self, start: dt.datetime, customers: Iterable[str]) -> None:
        """Plan an event for each customer in a window."""
        policy = policy_of(self._database, "stripe", LIMITS, start + 2 * HOUR)

        def decide(
            feed: Feed, changes: Iterable[Change], *, guarded: bool, **_: object
        ) -> Iterable[Decision]:
            assert not guarded, f"nothing of {feed.sink} shrinks"
            return planner.plan(changes, policy)

        span = Span(start, start + HOUR)
        with Spool() as spool:
            spool.add(
                [
                    Reading(start, each, Decimal(number % 997 + 1), start + HOUR / 2)
                    for number, each in enumerate(customers)
                ]
            )
            this = Pass("live", span, span, policy.now, self._lease.definitions[0])
            self._passes.commit(self._lease, spool, this, decide)

    def _run(self, statement: str) -> None:
        with self._database.transaction() as connection:
            connection.execute(statement.encode())


def _try(outbox: Outbox, sink: int, events: int, *, answered: bool) -> None:
    """Claim all that waits, and let each of it be accepted, or be tried again."""
    done = 0
    while done < events:
        claim = outbox.claim(sink, BATCH, LATER)
        assert claim is not None, "all that waits is claimed once"
        for low in range(0, len(claim.events), SETTLED_AT_ONCE):
            those = claim.events[low : low + SETTLED_AT_ONCE]
            outcomes = [_accepted(each.id) if answered else _due_again(each.id) for each in those]
            assert outbox.settle(claim.id, outcomes, LATER) == len(those)
        done += len(claim.events)


def _accepted(event: EventId) -> Outcome:
    return Outcome(event, State.ACCEPTED, request_id=f"req_{event:014d}", exposed_at=LATER)


def _due_again(event: EventId) -> Outcome:
    return Outcome(event, State.DUE, LATER, NO_ANSWER, None, LATER)


def _vacuum(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("vacuum (analyze)")


def _sizes(url: str) -> Sizes:
    with psycopg.connect(url) as connection:
        [events] = connection.execute("select count(*) from aggregator.event").fetchone() or (0,)
        found = connection.execute(SIZES.encode()).fetchall()
    return {name: size / events for name, size in found}


def report(slots: int, retries: int, sides: Iterable[Checkout]) -> None:
    """Print what each checkout takes at the first try, and after several."""
    for side in sides:
        print(f"{side.root}: bytes per event, {slots:,} slots with an accepted event each")
        found = []
        for tries in (0, retries):
            done = side.call("bench.size", "--work", "--slots", str(slots), "--retries", str(tries))
            if done.returncode:
                raise SystemExit(done.stderr)
            found.append(json.loads(done.stdout))
        print(f"{'':<32} {'at once':>9} {f'{retries} tries before':>16}")
        names = sorted({name for each in found for name, size in each.items() if size >= 1})
        for name in sorted(names, key=lambda name: (not name.startswith(OF_EACH), name)):
            print(
                f"{name:<32}"
                + "".join(f" {each.get(name, 0):>{9 + 7 * n}.1f}" for n, each in enumerate(found))
            )
        whole = [sum(size for name, size in each.items() if name.startswith(OF_EACH)) for each in found]
        print(f"{'slots and events, indexes too':<32} {whole[0]:>9.1f} {whole[1]:>16.1f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="bench.size", description="Measure what an event takes in the ledger."
    )
    parser.add_argument("--slots", type=int, default=100_000, help="How many slots (default 100,000).")
    parser.add_argument(
        "--retries", type=int, default=3, help="How often each event is tried in vain before."
    )
    parser.add_argument("--against", type=Path, help="Another checkout, measured after this one.")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        print(json.dumps(measure(given.slots, given.retries)))
        return
    with checkout(HOME) as here:
        report(given.slots, given.retries, [here])
    if given.against:
        with checkout(given.against) as there:
            report(given.slots, given.retries, [there])


if __name__ == "__main__":
    main()
