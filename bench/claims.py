"""What a claim costs while very many events wait: processor time per event to pick, lock, record and settle it.

    python -m bench.claims [--events N] [--rounds N] [--piece N] [--against CHECKOUT]

The outbox is filled for 1, 10 and 100 feeds, half of each new and half planned by a backfill, and worked off in batches of
100 and of 1,000. What counts is the time of the ledger's session and of this process, as the kernel tells it (Linux): what
waits for the disk costs nothing here. With another checkout of the product beside, whichever ledger it has, both are
measured in turns, piece by piece, so that their ratio holds on a machine that is busy with other things.
"""

import argparse
import datetime as dt
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Container, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import psycopg

from aggregator.core.model import Outcome, State
from aggregator.ledger.database import Database, migrate
from aggregator.ledger.outbox.outbox import Outbox
from aggregator.runtime.embedded_postgres import EmbeddedPostgres
from bench.checkouts import HOME, Checkout, checkout, python_of

FEEDS = (1, 10, 100)
BATCHES = (100, 1_000)
RUN = 1_000
"""Events of one feed that follow each other, as a pass writes them."""

SETTLED_AT_ONCE = 200
"""As delivery settles them, of whichever batch."""

PIECE = 10_000
"""Events between two looks at the clocks, unless told otherwise."""

START = dt.datetime(2026, 11, 1, tzinfo=dt.UTC)
MINUTE = dt.timedelta(minutes=1)
FILLED = START + dt.timedelta(hours=1)

SINK = "insert into aggregator.sink (name) values ('far') returning id"

FEED = """
with meter as (
    insert into aggregator.meter (name, fingerprint, window_seconds, start_at, mark)
    values (%(name)s, 'f', 3600, %(start)s, %(start)s) returning id
)
insert into aggregator.feed (meter_id, sink_id, since, read_until)
select id, %(sink)s, %(start)s, %(start)s from meter returning id
"""

OUTBOX = """
insert into aggregator.outbox (event_id, slot_id, pass_id, sink_id, feed_id, revision, window_start, at, planned_at, due_at,
                               backfill, customer, identifier, delta, total)
select n, n, 1, %(sink)s, (%(feeds)s::int[])[n / %(run)s %% cardinality(%(feeds)s::int[]) + 1], 0,
       %(start)s, %(start)s, %(start)s, %(start)s, n / (%(run)s * cardinality(%(feeds)s::int[])) %% 2 = 0,
       'cus_' || n, 'agg_' || n, 2, 2
  from generate_series(0, %(events)s - 1) as n
"""

# What a checkout has whose events are all in one table, and whose outbox but names those that are due.
EVENTS = """
insert into aggregator.event
       (id, slot_id, pass_id, feed_id, revision, window_start, at, planned_at, state, customer, identifier, delta, total)
select n, n, 1, (%(feeds)s::int[])[n / %(run)s %% cardinality(%(feeds)s::int[]) + 1], 0,
       %(start)s, %(start)s, %(start)s, 'due', 'cus_' || n, 'agg_' || n, 2, 2
  from generate_series(0, %(events)s - 1) as n
"""

DUE = """
insert into aggregator.outbox (event_id, sink_id, feed_id, due_at{column})
select id, %(sink)s, feed_id, %(start)s{value} from aggregator.event order by id
"""


class Used(NamedTuple):
    """Microseconds of processor time per event."""

    ledger: float
    here: float

    @property
    def whole(self) -> float:
        """What both took."""
        return self.ledger + self.here


class Claims:
    """One filled outbox, worked off piece by piece."""

    def __init__(self, url: str, sink: int) -> None:
        self._sink = sink
        self._database = Database(url, name="bench", size=1)
        self._outbox = Outbox(self._database, uuid.uuid4(), 10 * MINUTE, MINUTE)

    def piece(self, batch: int, events: int) -> Used:
        """Claim and settle so many events in batches, and return what it took."""
        session = self._session()
        ledger, here = _session_seconds(session), time.process_time()
        for _ in range(events // batch):
            claim = self._outbox.claim(self._sink, batch, FILLED)
            assert claim is not None, "more wait than are claimed"
            assert len(claim.events) == batch, "more wait than are claimed"
            for low in range(0, batch, SETTLED_AT_ONCE):
                those = claim.events[low : low + SETTLED_AT_ONCE]
                outcomes = [Outcome(event.id, State.ACCEPTED, request_id="req") for event in those]
                assert self._outbox.settle(claim.id, outcomes, FILLED) == len(those)
        here = time.process_time() - here
        ledger = _session_seconds(session) - ledger
        assert session == self._session(), "one session did it all"
        done = events // batch * batch
        return Used(1e6 * ledger / done, 1e6 * here / done)

    def _session(self) -> int:
        with self._database.transaction() as connection:
            return connection.info.backend_pid

    def close(self) -> None:
        """Leave the outbox as it is."""
        self._database.close()


def _fill(url: str, feeds: int, events: int) -> int:
    """Let so many events wait; return the sink."""
    migrate(url)
    with psycopg.connect(url, autocommit=True) as connection:
        [sink] = connection.execute(SINK).fetchone() or [0]
        ids = []
        for number in range(feeds):
            values = {"name": f"meter_{number}", "start": START, "sink": sink}
            ids += [row[0] for row in connection.execute(FEED, values)]
        found = connection.execute(
            "select table_name || '.' || column_name from information_schema.columns"
            " where table_schema = 'aggregator' and column_name in ('cleared_at', 'backfill', 'identifier')"
        )
        columns = {row[0] for row in found}
        if "feed.cleared_at" in columns:
            connection.execute("update aggregator.feed set cleared_at = now()")
        values = {"feeds": ids, "run": RUN, "start": START, "events": events, "sink": sink}
        for statement in _waiting(columns):
            connection.execute(statement.encode(), values)
        connection.execute("vacuum (analyze)")
        connection.execute("checkpoint")
    return int(sink)


def _waiting(columns: Container[str]) -> tuple[str, ...]:
    """Return what lets events wait, in a ledger that has these columns."""
    if "outbox.identifier" in columns:
        return (OUTBOX,)
    kinds = "outbox.backfill" in columns
    due = DUE.format(
        column=", backfill" if kinds else "",
        value=", id / (%(run)s * cardinality(%(feeds)s::int[])) %% 2 = 0" if kinds else "",
    )
    return (EVENTS, due)


def _session_seconds(process: int) -> float:
    """Return how long a session of the ledger has been on a processor (docs.kernel.org/scheduler/sched-stats.html)."""
    return int(Path(f"/proc/{process}/schedstat").read_text().split()[0]) / 1e9


def work(events: int) -> None:
    """Answer one line with another: `FEEDS BATCH EVENTS` with what it took."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = stack.enter_context(EmbeddedPostgres(directory / "pg"))
        with psycopg.connect(server.url(), autocommit=True) as connection:
            connection.execute("alter system set fsync = off")
            connection.execute("alter system set max_wal_size = '8GB'")
            connection.execute("select pg_reload_conf()")
        filled: dict[int, Claims] = {}
        for line in sys.stdin:
            feeds, batch, count = (int(word) for word in line.split())
            if feeds not in filled:
                with psycopg.connect(server.url(), autocommit=True) as connection:
                    connection.execute(f"create database feeds_{feeds}".encode())
                url = server.url(f"feeds_{feeds}")
                filled[feeds] = Claims(url, _fill(url, feeds, events))
                stack.callback(filled[feeds].close)
            print(*filled[feeds].piece(batch, count), flush=True)


class Worker:
    """A process that measures one checkout."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def piece(self, feeds: int, batch: int, events: int) -> Used:
        """Let it claim and settle so many events, and return what it took."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(feeds, batch, events, file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        assert line, "the measuring process ended; it says why above"
        return Used(*(float(word) for word in line.split()))


@contextmanager
def worker(events: int, side: Checkout) -> Iterator[Worker]:
    """Start a process that measures a checkout."""
    call = [str(python_of(side.root)), "-m", "bench.claims", "--work", "--events", str(events)]
    with subprocess.Popen(
        call, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=side.place, env=side.environment
    ) as process:
        yield Worker(process)
        assert process.stdin is not None
        process.stdin.close()


def compare(workers: Sequence[Worker], feeds: int, batch: int, rounds: int, piece: int) -> list[list[Used]]:
    """Measure each of some workers in turns; return what each took. A batch before that counts for nothing."""
    found: list[list[Used]] = [[] for _ in workers]
    for number in range(rounds + 1):
        for those, each in zip(found, workers, strict=True):
            used = each.piece(feeds, batch, piece if number else batch)
            if number:
                those.append(used)
    return found


def report(events: int, rounds: int, piece: int, here: Checkout, there: Checkout | None = None) -> None:
    """Print what claims cost here, and on another checkout how many times as much. At least what is claimed waits."""
    events = max(events, len(BATCHES) * rounds * piece + sum(BATCHES))
    print(f"{events:,} events wait; microseconds of processor time per event: whole (ledger + process)")
    with ExitStack() as stack:
        workers = [stack.enter_context(worker(events, side)) for side in (here, there) if side]
        for feeds in FEEDS:
            for batch in BATCHES:
                found = compare(workers, feeds, batch, rounds, piece)
                figures = [_figures(used) for used in found]
                if there:
                    ratios = [other.whole / ours.whole for ours, other in zip(*found, strict=True)]
                    figures.append(f"  there times as much: {statistics.median(ratios):.2f}")
                print(f"claim and settle of {feeds:>4} feed(s), batches of {batch:>5}:", *figures, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.claims", description="Measure what a claim costs.")
    parser.add_argument("--events", type=int, default=1_000_000, help="How many wait at the beginning.")
    parser.add_argument("--rounds", type=int, default=5, help="How often each is measured (default 5).")
    parser.add_argument(
        "--piece", type=int, default=PIECE, help="Events between two looks at the clocks (default 10,000)."
    )
    parser.add_argument("--against", type=Path, help="Another checkout, measured in turns with this one.")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        work(given.events)
        return
    with ExitStack() as stack:
        here = stack.enter_context(checkout(HOME))
        there = stack.enter_context(checkout(given.against)) if given.against else None
        report(given.events, given.rounds, given.piece, here, there)


def _figures(used: Sequence[Used]) -> str:
    ledger, here = (statistics.median(part) for part in zip(*used, strict=True))
    return f"{statistics.median(each.whole for each in used):7.1f} ({ledger:.1f} + {here:.1f})"


if __name__ == "__main__":
    main()
