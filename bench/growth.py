"""What a pass, a claim and a look cost as the ledger grows: 1 and 10 million events side by side, and more if there is room.

    python -m bench.growth [--events 1000000 10000000] [--customers 10000] [--runs 5] [--plans]

A ledger of each size is made by SQL (`grown`), in a server of its own and one after the other. The same work is done in all:

- a pass of a new window, which reads the two hours before it again;
- a pass over the last two days, in which nothing has changed;
- a claim of a tenth of a window, and its verdicts;
- usage of four days by day, of all customers and of one; what is on record of one customer's window; the status.

Beside the seconds by the clock stand the processor time of this process and of Postgres: machines are busy, and the ratio of
those is what tells. Each is of some runs. With `--plans`, what every statement of it reads at the largest size is
printed, with the pages it touched at each. A million events take about 0.4 GB, and ten seconds to be made.
"""

import argparse
import datetime as dt
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from decimal import Decimal
from pathlib import Path
from statistics import mean, median
from typing import NamedTuple

import psycopg

from aggregator.core import planner
from aggregator.core.model import Change, Decision, Decreases, EventId, Outcome, Reading, Span, State
from aggregator.core.usage import By
from aggregator.ledger.database import Database, ledger_id_of, migrate
from aggregator.ledger.facts import Facts
from aggregator.ledger.meters import Feed, Meters
from aggregator.ledger.outbox.outbox import Outbox
from aggregator.ledger.passes.passes import Pass, Passes
from aggregator.ledger.passes.spool import Spool
from aggregator.ledger.reports import Reports
from aggregator.ledger.review.checks import Checks
from aggregator.ledger.usage import UsageReport
from aggregator.runtime.embedded_postgres import EmbeddedPostgres
from bench.grown import HOUR, Grown, customers_of, grow
from bench.million import LEASE, LIMITS
from bench.plans import Explained, explaining
from bench.processor import tree_seconds
from bench.stand import postmaster, seldom_collected

UNTIL = dt.datetime(2026, 11, 30, 12, tzinfo=dt.UTC)
"""Up to where every ledger was read."""

OUTLINE = (
    "alter system set fsync = off",
    "alter system set max_wal_size = '4GB'",
    "alter system set shared_buffers = '512MB'",
    "alter system set autovacuum = off",
    "alter system set jit = off",
)

SIZES = """
select relname, pg_total_relation_size(oid) from pg_class
 where relnamespace = 'aggregator'::regnamespace and relkind = 'r' and pg_total_relation_size(oid) > 1000000
 order by 2 desc
"""


class Cost(NamedTuple):
    """Seconds: by the clock, of our processor time, of that of Postgres."""

    wall: float
    ours: float
    postgres: float


class Work:
    """The ledger's verbs over one ledger that has grown, each on the next window or batch."""

    def __init__(self, database: Database, grown: Grown, customers: Sequence[str]) -> None:
        self._database = database
        self._grown = grown
        self._customers = customers
        self._passes = Passes(database, LEASE, time.monotonic)
        self._outbox = Outbox(database, uuid.uuid4(), LEASE, HOUR)
        self._ledger = str(ledger_id_of(database).ledger_id)
        self._mark = grown.until
        self._lease = grown.lease

    def live(self) -> None:
        """Read a new window, and the two before it again."""
        self._mark += HOUR
        tally = self._pass(Span(self._mark - 3 * HOUR, self._mark))
        assert (tally, len(self._customers)) == (len(self._customers), tally), "one event for each customer"

    def revisit(self) -> None:
        """Read the two days before what was read lately again: nothing has changed."""
        until = self._grown.until
        assert self._pass(Span(until - 47 * HOUR, until)) == 0

    def deliver(self) -> None:
        """Claim a batch, and let all of it be accepted."""
        batch = len(self._customers) // 10
        claim = self._outbox.claim(self._grown.sink, batch, self._now)
        assert claim is not None
        assert len(claim.events) == batch
        outcomes = [
            Outcome(EventId(each.id), State.ACCEPTED, request_id=f"req_{each.id:014d}", exposed_at=self._now)
            for each in claim.events
        ]
        assert self._outbox.settle(claim.id, outcomes, self._now) == batch

    def usage(self) -> None:
        """Ask what became of four days, day by day."""
        [feed] = UsageReport(self._database).feeds(None, self._four_days)
        assert len(list(UsageReport(self._database).lines(feed, self._four_days, By.DAY))) in (4, 5)

    def usage_of_customer(self) -> None:
        """Ask the same of one customer."""
        report = UsageReport(self._database)
        [feed] = report.feeds(None, self._four_days)
        assert report.of_customer(feed, self._four_days, self._customers[7], By.DAY)

    def explain(self) -> None:
        """Ask what is on record of a customer's windows of a day, which is old enough to have been corrected."""
        facts = Facts(self._database)
        [feed] = facts.feeds(None)
        day = Span(self._grown.until - 84 * HOUR, self._grown.until - 60 * HOUR)
        facts.known(feed, self._customers[0], day)
        starts = [day.start + number * HOUR for number in range(24)]
        assert len(facts.windows(feed, self._customers[0], starts)) == 24

    def status(self) -> None:
        """Ask what `status` asks of every feed, and how fast its sink goes."""
        reports = Reports(self._database)
        assert reports.status()
        reports.unmapped(10)
        reports.unread(10)
        reports.lateness(self._grown.until - 14 * 24 * HOUR)
        reports.backlogs(self._now - HOUR / 6, self._now)
        Checks(self._database).coverage()
        Meters(self._database, uuid.uuid4(), LEASE).memory()

    @property
    def _now(self) -> dt.datetime:
        return self._mark + HOUR / 10

    @property
    def _four_days(self) -> Span:
        return Span(self._grown.until - 96 * HOUR, self._grown.until)

    def _pass(self, span: Span) -> int:
        """Read a span, and return how many events that led to."""
        policy = planner.Policy(
            ledger=self._ledger,
            sink=self._lease.registered.feeds[0].sink,
            meter="api_requests",
            window=HOUR,
            decimals=0,
            decreases=Decreases.HOLD,
            limits=LIMITS,
            now=self._now,
        )

        def decide(
            feed: Feed, changes: Iterable[Change], *, guarded: bool, **_: object
        ) -> Iterable[Decision]:
            assert not guarded, f"nothing of {feed.sink} shrinks"
            return planner.plan(changes, policy)

        with Spool() as spool:
            start = span.start
            while start < span.end:
                at = start + HOUR / 2
                spool.add(Reading(start, each, Decimal(1), at) for each in self._customers)
                start += HOUR
            this = Pass("live", span, span, self._now, self._lease.definitions[0])
            return self._passes.commit(self._lease, spool, this, decide).planned


WORK: Mapping[str, Callable[[Work], None]] = {
    "a pass of a new window": Work.live,
    "a pass over two days, unchanged": Work.revisit,
    "a batch claimed and settled": Work.deliver,
    "usage of four days": Work.usage,
    "usage of a customer": Work.usage_of_customer,
    "what is on record of a day": Work.explain,
    "status": Work.status,
}


class Ledger(NamedTuple):
    """What was found of one size."""

    events: int
    costs: dict[str, Cost]
    sizes: dict[str, int]
    explained: dict[str, list[Explained]]


def measure(events: int, customers: int, runs: int, *, plans: bool) -> Ledger:
    """Make a ledger of that size, do the work in it, and take it away again."""
    with _grown(events, customers) as (work, server, url):
        costs = {}
        for name, done in WORK.items():
            done(work)  # once before: what is read at first is read into memory
            costs[name] = _middle([_cost(lambda done=done: done(work), server) for _ in range(runs)])  # type: ignore[misc]
        explained = {}
        for name, done in WORK.items() if plans else ():
            with explaining() as explained[name]:
                done(work)
        with psycopg.connect(url) as connection:
            sizes: dict[str, int] = dict(connection.execute(SIZES.encode()).fetchall())
        return Ledger(events, costs, sizes, explained)


@contextmanager
def _grown(events: int, customers: int) -> Iterator[tuple[Work, int, str]]:
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="growth-")))
        with (
            EmbeddedPostgres(directory / "pg") as server,
            psycopg.connect(server.url(), autocommit=True) as connection,
        ):
            for statement in OUTLINE:
                connection.execute(statement.encode())
        server = stack.enter_context(EmbeddedPostgres(directory / "pg"))
        url = server.url()
        migrate(url)
        database = stack.enter_context(Database(url, name="bench"))
        connection = stack.enter_context(psycopg.connect(url, autocommit=True))
        began = time.monotonic()
        grown = grow(connection, Meters(database, uuid.uuid4(), LEASE), events, customers, UNTIL)
        print(f"  {events:,} events made in {time.monotonic() - began:.0f} s", flush=True)
        stack.enter_context(seldom_collected())
        yield Work(database, grown, customers_of(connection)), postmaster(server), url


def _cost(work: Callable[[], None], server: int) -> Cost:
    postgres, ours, wall = tree_seconds(server), time.process_time(), time.monotonic()
    work()
    took, ours = time.monotonic() - wall, time.process_time() - ours
    return Cost(took, ours, tree_seconds(server) - postgres)


def _middle(costs: Sequence[Cost]) -> Cost:
    """Return the middle of the clock, and the mean of processor times: those of Postgres come in steps of 10 ms."""
    walls, ours, postgres = zip(*costs, strict=True)
    return Cost(median(walls), mean(ours), mean(postgres))


def report(ledgers: Sequence[Ledger]) -> None:
    """Print the costs side by side, and how many times the smallest ledger's they are; then the sizes."""
    first = ledgers[0]
    print(
        f"{'milliseconds: clock / ours / Postgres':<34}"
        + "".join(f"{each.events:>26,}" for each in ledgers)
        + "   processor time"
    )
    for name in WORK:
        costs = [each.costs[name] for each in ledgers]
        base = costs[0].ours + costs[0].postgres
        ratios = [(each.ours + each.postgres) / base if base else float("nan") for each in costs[1:]]
        print(
            f"{name:<34}"
            + "".join(
                f"{1e3 * each.wall:>10.0f} /{1e3 * each.ours:>6.0f} /{1e3 * each.postgres:>6.0f}"
                for each in costs
            )
            + "   "
            + ", ".join(f"x {each:.2f}" for each in ratios)
        )
    for name in first.explained:
        pages = [sum(each.pages for each in ledger.explained[name]) for ledger in ledgers]
        print(f"  {name}: pages touched " + " -> ".join(f"{each:,}" for each in pages))
    print(f"{'MB, indexes too':<34}" + "".join(f"{each.events:>26,}" for each in ledgers))
    for name in dict.fromkeys(name for each in reversed(ledgers) for name in each.sizes):
        print(f"{name:<34}" + "".join(f"{each.sizes.get(name, 0) / 1e6:>26,.1f}" for each in ledgers))
    total = [sum(each.sizes.values()) for each in ledgers]
    print(
        f"{'bytes an event, all in all':<34}"
        + "".join(f"{size / each.events:>26,.0f}" for size, each in zip(total, ledgers, strict=True))
    )


def report_plans(ledgers: Sequence[Ledger]) -> None:
    """Print what each statement reads in the largest ledger, and the pages that it touched in each, all in all."""
    for name, statements in ledgers[-1].explained.items():
        print(f"\n{name}")
        for statement in dict.fromkeys(each.statement for each in statements if each.nodes):
            done = [each for each in statements if each.statement == statement]
            pages = [
                sum(each.pages for each in ledger.explained[name] if each.statement == statement)
                for ledger in ledgers
            ]
            print(f"  {done[0].name[:110]}\n    pages {' -> '.join(f'{each:,}' for each in pages)}")
            nodes = [node for each in done for node in each.nodes]
            for read in dict.fromkeys(map(str, nodes)):
                print(f"    {read} ({sum(node.rows for node in nodes if str(node) == read):,} rows)")


def main() -> None:
    """Measure each size, and print them side by side."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.growth", description="Measure ledgers as they grow."
    )
    parser.add_argument("--events", type=int, nargs="+", default=[1_000_000, 10_000_000])
    parser.add_argument("--customers", type=int, default=10_000)
    parser.add_argument("--runs", type=int, default=5, help="How often each work is measured (default 5).")
    parser.add_argument("--plans", action="store_true", help="Also print what each statement reads.")
    given = parser.parse_args()
    ledgers = [
        measure(events, given.customers, given.runs, plans=given.plans) for events in sorted(given.events)
    ]
    report(ledgers)
    if given.plans:
        report_plans(ledgers)


if __name__ == "__main__":
    main()
