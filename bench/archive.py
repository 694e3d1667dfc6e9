"""A month of very many events leaves the ledger for a file: what each step takes, and what questions take then.

    python -m bench.archive [--customers 10000] [--days 10]

One meter with one sink, by the hour; the ledger is filled by SQL in the shape that passes and claims leave it in. Seconds of
processor time are those of this process and of Postgres, each apart, per event.
"""

import argparse
import datetime as dt
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from aggregator.archive.archiver import Archiver
from aggregator.archive.places import Directory
from aggregator.archive.reader import ArchiveReader, bring_back
from aggregator.core.archive import span_of
from aggregator.core.model import Meter
from aggregator.core.usage import By
from aggregator.ledger.archived import Archived
from aggregator.ledger.archives import Archives
from aggregator.ledger.database import Database, ledger_id_of, migrate
from aggregator.ledger.facts import Facts
from aggregator.ledger.meters import Meters
from aggregator.ledger.usage import UsageReport
from aggregator.runtime import failpoints
from aggregator.runtime.embedded_postgres import EmbeddedPostgres
from bench.memory import peak_megabytes
from bench.million import HOUR, LEASE
from bench.processor import tree_seconds

MONTH = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
NOW = dt.datetime(2026, 12, 1, tzinfo=dt.UTC)

METER = Meter(
    name="api_requests",
    source="app",
    query="",
    fingerprint="f" * 64,
    sinks=("far",),
    window=HOUR,
    start_at=MONTH,
    delay=HOUR,
    revisit=HOUR,
)

FILL = """
create temporary table made as
select nextval('aggregator.event_id') as id, slot.*,
       encode(sha256(convert_to(%(begins)s || '18:' || customer || extract(epoch from start)::bigint || ':3600:0', 'utf8')),
              'hex') as name
  from (select start, 'cus_' || substr(md5(customer::text), 1, 14) as customer, (random() * 1000)::int + 1 as much
          from generate_series(%(month)s::timestamptz, %(month)s::timestamptz + %(days)s * interval '1 day'
                               - interval '1 hour', interval '1 hour') as start
         cross join generate_series(1, %(customers)s) as customer order by start, 2) as slot;
insert into aggregator.slot (id, window_start, stamped_at, tail, feed_id, revision, customer, quantity, total)
select id, start, start + interval '59 min', id, 1, 1, customer, much, much from made order by start, customer;
insert into aggregator.event_at_rest (id, pass_id, feed_id, window_start, at, planned_at, exposed_at, settled_at, state,
       customer, identifier, delta, transport, request_id)
select id, extract(epoch from start)::bigint / 3600, 1, start, start + interval '59 min', start + interval '66 min',
       start + interval '67 min', start + interval '68 min', 'confirmed', customer,
       'agg_' || left(name, 20), much, 'v1', 'req_' || substr(name, 45, 14) from made order by id;
insert into aggregator.claim (sink_id, owner, claimed_at, events, settled_at)
select 1, gen_random_uuid(), start + interval '67 min', array_agg(id order by id), start + interval '68 min'
  from made group by start, id / 1000 order by start;
update aggregator.meter set mark = %(now)s;
update aggregator.feed set read_until = %(now)s;
"""

STEPS = {
    "month_closed": "close",
    "archive_made": "write",
    "archive_verified": "read back",
    "month_removed": "remove",
}


class Watch:
    """Tells what passed between two looks: seconds by the clock, and of both processes."""

    def __init__(self, server: EmbeddedPostgres) -> None:
        self._server = int((server.directory / "postmaster.pid").read_text().splitlines()[0])
        self._last = self._now()

    def _now(self) -> tuple[float, float, float]:
        used = resource.getrusage(resource.RUSAGE_SELF)
        return time.perf_counter(), used.ru_utime + used.ru_stime, tree_seconds(self._server)

    def passed(self) -> tuple[float, float, float]:
        """Return what passed since the last look."""
        before, self._last = self._last, self._now()
        wall, own, server = (now - then for now, then in zip(self._last, before, strict=True))
        return wall, own, server


@contextmanager
def filled(customers: int, days: int) -> Iterator[tuple[EmbeddedPostgres, Database, int]]:
    """Give a ledger with a month of events, and how many there are."""
    with (
        tempfile.TemporaryDirectory(prefix="bench-archive-") as directory,
        EmbeddedPostgres(Path(directory) / "pg") as server,
    ):
        with psycopg.connect(server.url(), autocommit=True) as connection:
            connection.execute("create database ledger")
        migrate(server.url("ledger"))
        with Database(server.url("ledger")) as database:
            Meters(database, ledger_id_of(database).ledger_id, LEASE).register([METER])
            with psycopg.connect(server.url("ledger"), autocommit=True) as connection:
                connection.execute("set timezone = 'UTC'")
                for statement in filter(str.strip, FILL.split(";\n")):
                    begins = (str(ledger_id_of(database).ledger_id), "far", METER.name)
                    values = {
                        "month": MONTH,
                        "days": days,
                        "customers": customers,
                        "now": NOW,
                        "begins": "".join(f"{len(text)}:{text}" for text in begins),
                    }
                    connection.execute(statement, values)
                connection.execute("vacuum (analyze)")
            yield server, database, customers * days * 24


def main() -> None:
    """Print a line for each step, for the sizes, and for each question."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    options.add_argument("--customers", type=int, default=10_000)
    options.add_argument("--days", type=int, default=10)
    chosen = options.parse_args()
    with (
        filled(chosen.customers, chosen.days) as (server, database, events),
        tempfile.TemporaryDirectory() as place,
    ):
        archives, directory = Archives(database), Directory(Path(place))
        archiver = Archiver(archives, directory, 3, lambda: str(ledger_id_of(database).ledger_id))
        before = sum(
            table.bytes for table in archives.sizes() if table.table in {"slot", "event_at_rest", "claim"}
        )
        watch = Watch(server)

        def passing(name: str) -> None:
            if name in STEPS:
                show(STEPS[name], *watch.passed(), events)

        failpoints.passing = passing
        result = archiver.run_once(NOW)
        assert (result.removed, result.troubles) == (1, []), result
        show("remove claims", *watch.passed(), events)
        [archive] = archives.listed()
        print(f"{events:,} events: {before / events:.0f} bytes each in slots, events and claims", end="; ")
        print(f"{archive.bytes / events:.1f} in the file. Peak of this process: {peak_megabytes():.0f} MB.")
        ask(database, directory, watch)
        watch.passed()
        bring_back(directory, archives, archive)
        show("bring back", *watch.passed(), events)


def show(what: str, wall: float, own: float, server: float, events: int) -> None:
    """Print what a step took."""
    each = f"{own / events * 1e6:6.1f} us own and {server / events * 1e6:6.1f} us of Postgres an event"
    print(f"{what:14} {wall:7.2f} s  {each}; peak {peak_megabytes():.0f} MB", flush=True)


def ask(database: Database, directory: Directory, watch: Watch) -> None:
    """Print what questions take of a month that is archived."""
    archived = Archived(ArchiveReader(directory))
    usage, facts = UsageReport(database, archived), Facts(database, archived)
    span = span_of(MONTH)
    [feed] = usage.feeds(None, span)
    customer = next(line.customer for line in usage.lines(feed, span, By.CUSTOMER) if line.customer)
    watch.passed()
    questions: dict[str, Callable[[], object]] = {
        "usage by day": lambda: list(usage.lines(feed, span, By.DAY)),
        "usage by customer": lambda: list(usage.lines(feed, span, By.CUSTOMER)),
        "usage of one, by hour": lambda: list(usage.lines(feed, span, By.HOUR, customer=customer)),
        "statement of one": lambda: list(facts.entries(facts.feeds()[0], customer, span)),
        "explain one window": lambda: facts.windows(facts.feeds()[0], customer, [MONTH]),
    }
    for what, question in questions.items():
        question()
        wall, own, server = watch.passed()
        print(
            f"{what:22} {wall * 1e3:8.0f} ms ({own * 1e3:.0f} own, {server * 1e3:.0f} of Postgres)",
            flush=True,
        )


if __name__ == "__main__":
    main()
