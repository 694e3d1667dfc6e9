"""What one scrape of /metrics costs, by how much the ledger holds: seconds, and processor time of ours and of Postgres.

    python -m bench.scrape [--events 10000000] [--feeds 500] [--waiting 20000] [--scrapes 20]

A ledger is filled by SQL: so many settled events, spread over the feeds, passes and counts for each meter, and of the events
some that wait. Then /metrics is made again and again by the function that the daemon answers with.
"""

import argparse
import tempfile
import time
from pathlib import Path
from statistics import median

import psycopg

from aggregator.config import load
from aggregator.core.model import Limits
from aggregator.ledger.database import migrate
from aggregator.monitoring.endpoints import MetricsEndpoint
from aggregator.monitoring.metrics import Context, Figures, LedgerCollector
from aggregator.runtime.embedded_postgres import EmbeddedPostgres
from aggregator.runtime.garbage import seldom_collected
from aggregator.sinks.stripe.limits import LIMITS
from aggregator.wiring.app import open_ledger
from bench.processor import tree_seconds
from bench.stand import postmaster

SETTINGS = ("fsync = off", "synchronous_commit = off", "full_page_writes = off", "max_wal_size = '8GB'")

FILL = (
    "insert into aggregator.sink (name) values ('stripe')",
    """
    insert into aggregator.meter (name, fingerprint, window_seconds, start_at, mark)
    select 'meter_' || n, 'f', 3600, now() - interval '40 days', date_trunc('hour', now())
      from generate_series(1, %(feeds)s) as n
    """,
    """
    insert into aggregator.feed (meter_id, sink_id, since, read_until, cleared_at)
    select meter.id, sink.id, meter.start_at, meter.mark, now() from aggregator.meter, aggregator.sink
    """,
    """
    insert into aggregator.pass (meter_id, kind, span, goal, started_at, seconds, epoch, fingerprint)
    select id, 'live', tstzrange(mark - interval '1 hour', mark), tstzrange(mark - interval '1 hour', mark), now(), 0.01, 1,
           'f' from aggregator.meter, generate_series(1, 200)
    """,
    """
    insert into aggregator.pass_count
    select id, 'live', failed, 200, 2.0, 1000, 900 from aggregator.meter, (values (false), (true)) as outcome (failed)
    """,
    """
    insert into aggregator.verdict_count
    select feed.id, state::aggregator.event_state, part, 1250
      from aggregator.feed, unnest(array['accepted', 'refused', 'due']) as state, generate_series(0, 15) as part
    """,
    """
    insert into aggregator.lateness
    select id, current_date - back, seconds, 10, 10
      from aggregator.meter, generate_series(0, 34) as back, unnest(array[0, 60, 300, 900]) as seconds
    """,
    """
    insert into aggregator.event (id, slot_id, pass_id, feed_id, revision, window_start, at, planned_at, settled_at, state,
                                  attempts, customer, identifier, delta, total)
    select n, n, 1, 1 + mod(n, %(feeds)s), 0, at, at, at, at,
           (case when n <= %(waiting)s then 'due' else 'accepted' end)::aggregator.event_state,
           1, 'cus_' || mod(n, 10000), 'filled ' || n, 7, 7
      from (select n, date_trunc('hour', now()) - (n %% 800) * interval '1 hour' as at
              from generate_series(1, %(events)s) as n) as made
    """,
    """
    insert into aggregator.outbox (event_id, sink_id, feed_id, due_at)
    select id, 1, feed_id, now() from aggregator.event where id <= %(waiting)s
    """,
    "analyze",
)


def main() -> None:
    """Fill, scrape, and say what it took."""
    parser = argparse.ArgumentParser(prog="python -m bench.scrape", description=__doc__)
    parser.add_argument("--events", type=int, default=10_000_000)
    parser.add_argument("--feeds", type=int, default=500)
    parser.add_argument("--waiting", type=int, default=20_000)
    parser.add_argument("--scrapes", type=int, default=20)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as home, EmbeddedPostgres(Path(home) / "pg") as server:
        fill(server, {"events": given.events, "feeds": given.feeds, "waiting": given.waiting})
        measure(server, Path(home), given.feeds, given.scrapes)


def fill(server: EmbeddedPostgres, size: dict[str, int]) -> None:
    """Make a ledger of that size."""
    began = time.perf_counter()
    with psycopg.connect(server.url(), autocommit=True) as connection:
        for setting in SETTINGS:
            connection.execute(f"alter system set {setting}".encode())
        connection.execute("select pg_reload_conf()")
        connection.execute("create database ledger")
    migrate(server.url("ledger"))
    with psycopg.connect(server.url("ledger"), autocommit=True) as connection:
        for statement in FILL:
            connection.execute(statement.encode(), size if "%(" in statement else None)
    with psycopg.connect(server.url(), autocommit=True) as connection:
        for setting in SETTINGS:
            connection.execute(f"alter system reset {setting.partition(' ')[0]}".encode())
        connection.execute("select pg_reload_conf()")
    print(f"filled in {time.perf_counter() - began:.0f} s: {size}", flush=True)


def measure(server: EmbeddedPostgres, home: Path, feeds: int, scrapes: int) -> None:
    """Scrape again and again."""
    path = home / "aggregator.yaml"
    path.write_text(configuration(server.url("ledger"), feeds))
    config = load(path, {})

    def limits(_meter: str, _sink: str) -> Limits:
        return LIMITS

    with seldom_collected(), open_ledger(config, may_migrate=False) as ledger:
        scrape = MetricsEndpoint(LedgerCollector(config, Figures(ledger), Context(limits=limits)))
        first = time.perf_counter()
        body = scrape().body
        print(
            f"first scrape: {1000 * (time.perf_counter() - first):.0f} ms, {body.count(b'aggregator_')} lines"
        )
        took, ours, theirs = [], [], []
        for _ in range(scrapes):
            time.sleep(1)  # noqa: TID251 - a benchmark lets time pass
            began, cpu, postgres = time.perf_counter(), time.process_time(), tree_seconds(postmaster(server))
            scrape()
            took.append(time.perf_counter() - began)
            ours.append(time.process_time() - cpu)
            theirs.append(tree_seconds(postmaster(server)) - postgres)
    print(
        f"scrape, median of {scrapes}: {1000 * median(took):.1f} ms (fastest {1000 * min(took):.1f}), "
        f"our processor {1000 * median(ours):.1f} ms, Postgres {1000 * median(theirs):.1f} ms"
    )


def configuration(ledger: str, feeds: int) -> str:
    """Return a configuration with so many meters and one sink."""
    meters = "\n".join(
        f"  meter_{n}: {{source: app, sinks: [stripe], window: 1h, start_at: 2026-11-01T00:00Z, query: "
        "'select customer, quantity from usage where at >= :start and at < :end'}"
        for n in range(1, feeds + 1)
    )
    return (
        f"ledger: {{url: '{ledger}'}}\n"
        "sources: {app: {url: 'sqlite:///app.db'}}\n"
        "sinks: {stripe: {type: stripe, api_key: rk_test_1, mode: test}}\n"
        f"meters:\n{meters}\n"
    )


if __name__ == "__main__":
    main()
