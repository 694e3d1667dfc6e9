"""What one scrape of /metrics costs, by how much the ledger holds: seconds, and processor time of ours and of Postgres.

    python -m bench.scrape [--events 10000000] [--feeds 500] [--waiting 20000] [--scrapes 20] [--against CHECKOUT]

A ledger is filled by SQL: so many settled events, spread over the feeds, passes and counts for each meter, and of the events
some that wait. Then /metrics is made again and again by the function that the daemon answers with; every question is asked
anew each time, and waited for. Last, it is asked for as in earnest, once a second: what takes long is not waited for then,
but rests. With another checkout both scrape in turns, each a ledger of its own, by its own migrations.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median, quantiles
from typing import Any, TypeVar

import psycopg
from psycopg.conninfo import conninfo_to_dict

from aggregator.config import load
from aggregator.core.model import Limits
from aggregator.ledger.database import migrate
from aggregator.monitoring import latest
from aggregator.monitoring.endpoints import MetricsEndpoint
from aggregator.monitoring.metrics import Context, Figures, LedgerCollector
from aggregator.runtime.embedded_postgres import EmbeddedPostgres
from aggregator.runtime.garbage import seldom_collected
from aggregator.sinks.stripe.limits import LIMITS

try:
    from aggregator.wiring.opening import open_ledger
except ImportError:  # a checkout that does not know it
    from aggregator.wiring.app import open_ledger  # type: ignore[attr-defined]
from bench.checkouts import HOME, Checkout, checkout
from bench.processor import tree_seconds
from bench.stand import postmaster
from bench.turns import Ask, asked_by_lines

Way = TypeVar("Way")

SETTINGS = ("fsync = off", "synchronous_commit = off", "full_page_writes = off", "max_wal_size = '8GB'")

EARNEST, SCRAPES_IN_EARNEST = "in earnest", 10

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
    "{verdicts}",
    """
    insert into aggregator.lateness (meter_id, day, seconds, slots, quantity)
    select id, current_date - back, seconds, 10, 10
      from aggregator.meter, generate_series(0, 34) as back, unnest(array[0, 60, 300, 900]) as seconds
    """,
    "{events}",
    "analyze",
)


COLUMNS = (
    "select column_name from information_schema.columns where table_schema = 'aggregator' and table_name = %s"
)

VERDICTS = {
    "accepted": """
    insert into aggregator.verdict_count (feed_id, part, accepted, refused, in_doubt, due)
    select feed.id, part, 1250, 1250, 0, 1250 from aggregator.feed, generate_series(0, 15) as part
    """,
    "state": """
    insert into aggregator.verdict_count (feed_id, state, part, events)
    select feed.id, state::aggregator.event_state, part, 1250
      from aggregator.feed, unnest(array['accepted', 'refused', 'due']) as state, generate_series(0, 15) as part
    """,
}
"""How a ledger counts attempts, by a column that it has: one row for all states, or one for each, as older ones do."""

EVENTS = {
    "identifier": (
        """
    insert into aggregator.outbox (event_id, slot_id, pass_id, sink_id, feed_id, revision, window_start, at, planned_at,
                                   due_at, customer, identifier, delta, total)
    select n, n, 1, 1, 1 + mod(n, %(feeds)s), 0, at, at, at, now(), 'cus_' || mod(n, 10000), 'filled ' || n, 7, 7
      from (select n, date_trunc('hour', now()) - (n %% 800) * interval '1 hour' as at
              from generate_series(1, %(waiting)s) as n) as made
    """,
        """
    insert into aggregator.event_at_rest (id, pass_id, feed_id, window_start, at, planned_at, exposed_at, settled_at, state,
                                          customer, identifier, delta)
    select n, 1, 1 + mod(n, %(feeds)s), at, at, at, at, at, 'accepted', 'cus_' || mod(n, 10000), 'filled ' || n, 7
      from (select n, date_trunc('hour', now()) - (n %% 800) * interval '1 hour' as at
              from generate_series(%(waiting)s + 1, %(events)s) as n) as made
    """,
    ),
    "event_id": (
        """
    insert into aggregator.event (id, slot_id, pass_id, feed_id, revision, window_start, at, planned_at, exposed_at,
                                  attempted_at, settled_at, state, attempts, customer, identifier, delta, total)
    select n, n, 1, 1 + mod(n, %(feeds)s), 0, at, at, at, sent_at, sent_at, sent_at,
           (case when n <= %(waiting)s then 'due' else 'accepted' end)::aggregator.event_state,
           case when n <= %(waiting)s then 0 else 1 end, 'cus_' || mod(n, 10000), 'filled ' || n, 7, 7
      from (select n, at, case when n > %(waiting)s then at end as sent_at
              from generate_series(1, %(events)s) as n
             cross join lateral (select date_trunc('hour', now()) - (n %% 800) * interval '1 hour' as at) as its) as made
    """,
        """
    insert into aggregator.outbox (event_id, sink_id, feed_id, due_at)
    select id, 1, feed_id, now() from aggregator.event where id <= %(waiting)s
    """,
    ),
}
"""How a ledger has events, by a column of its outbox: whole there or else at rest, or all in one table, as older ones do."""


def main() -> None:
    """Fill, scrape, and say what it took."""
    parser = argparse.ArgumentParser(prog="python -m bench.scrape", description=__doc__)
    parser.add_argument("--events", type=int, default=10_000_000)
    parser.add_argument("--feeds", type=int, default=500)
    parser.add_argument("--waiting", type=int, default=20_000)
    parser.add_argument("--scrapes", type=int, default=20, help="How many make a turn.")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--against", type=Path, help="Another checkout, measured in turns with this one.")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    parser.add_argument("--migrate", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.migrate is not None:
        migrate(given.migrate)
        return
    if given.work is not None:
        work(given.work, given.feeds)
        return
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = stack.enter_context(EmbeddedPostgres(home / "pg"))
        sides = [stack.enter_context(checkout(root)) for root in (HOME, given.against) if root]
        size = {"events": given.events, "feeds": given.feeds, "waiting": given.waiting}
        ledgers = [server.url(f"ledger_{number}") for number in range(len(sides))]
        for side, url in zip(sides, ledgers, strict=True):
            fill(server, side, url, size)
        workers = [
            stack.enter_context(
                asked_by_lines(side, "bench.scrape", "--work", url, "--feeds", str(given.feeds))
            )
            for side, url in zip(sides, ledgers, strict=True)
        ]
        measure(server, workers, given.scrapes, given.turns, [str(side.root) for side in sides])


def measure(
    server: EmbeddedPostgres, workers: Sequence[Ask], scrapes: int, turns: int, names: Sequence[str]
) -> None:
    """Let each scrape in turns, and print what that took."""
    found: list[list[tuple[float, ...]]] = [[] for _ in workers]
    in_earnest: list[list[float]] = [[] for _ in workers]
    for turn in range(turns + 1):
        for those, ask in zip(found, workers, strict=True):
            before = tree_seconds(postmaster(server))
            [wall, ours, lines] = [float(word) for word in ask(str(scrapes)).split()]
            postgres = 1000 * (tree_seconds(postmaster(server)) - before) / scrapes
            if turn:
                those.append((wall, ours, postgres, ours + postgres, lines))
        for earnest, ask in zip(in_earnest, workers, strict=True):
            earnest.extend(float(word) for word in ask(EARNEST).split())
    for name, those, earnest in zip(names, found, in_earnest, strict=True):
        wall, ours, postgres, both, lines = (median(column) for column in zip(*those, strict=True))
        print(
            f"{name}: {lines:,.0f} lines; a scrape by the clock {wall:.1f} ms; processor time: ours {ours:.1f} ms, "
            f"Postgres {postgres:.1f} ms, both {both:.1f} ms (median of {turns} turns of {scrapes}); "
            f"once a second by the clock {median(earnest):.1f} ms, 95 % within {quantiles(earnest, n=20)[-1]:.1f} ms"
        )


def fill(server: EmbeddedPostgres, side: Checkout, url: str, size: dict[str, int]) -> None:
    """Make a ledger of that size, as a checkout has it. Raises SystemExit if it cannot make one."""
    began = time.perf_counter()
    with psycopg.connect(server.url(), autocommit=True) as connection:
        for setting in SETTINGS:
            connection.execute(f"alter system set {setting}".encode())
        connection.execute("select pg_reload_conf()")
        connection.execute(f"create database {conninfo_to_dict(url)['dbname']}".encode())
    made = side.call("bench.scrape", "--migrate", url)
    if made.returncode:
        raise SystemExit(f"{side.root} makes no ledger: {made.stderr[-2000:]}")
    with psycopg.connect(url, autocommit=True) as connection:
        parts = {
            "{verdicts}": (fitting(connection, "verdict_count", VERDICTS),),
            "{events}": fitting(connection, "outbox", EVENTS),
        }
        for statement in FILL:
            for text in parts.get(statement, (statement,)):
                connection.execute(text.encode(), size if "%(" in text else None)
    with psycopg.connect(server.url(), autocommit=True) as connection:
        for setting in SETTINGS:
            connection.execute(f"alter system reset {setting.partition(' ')[0]}".encode())
        connection.execute("select pg_reload_conf()")
    print(f"{side.root}: filled in {time.perf_counter() - began:.0f} s: {size}", flush=True)


def fitting(connection: psycopg.Connection[Any], table: str, ways: Mapping[str, Way]) -> Way:
    """Return the first of several ways whose column a table of the ledger has."""
    columns = {name for (name,) in connection.execute(COLUMNS, (table,))}
    return next(way for column, way in ways.items() if column in columns)


def work(url: str, feeds: int) -> None:
    """Answer each line, a number of scrapes, with milliseconds by the clock and of our processor for one, and its lines.

    `EARNEST` is answered with the milliseconds of some scrapes, one a second.
    """
    earnest = latest.REST, latest.QUICK_SECONDS

    def limits(_meter: str, _sink: str) -> Limits:
        return LIMITS

    with tempfile.TemporaryDirectory() as home:
        path = Path(home) / "aggregator.yaml"
        path.write_text(configuration(url, feeds))
        config = load(path, {})
        with seldom_collected(), open_ledger(config, may_migrate=False) as ledger:
            scrape = MetricsEndpoint(LedgerCollector(config, Figures(ledger, config), Context(limits=limits)))
            body = scrape().body
            for line in sys.stdin:
                if line.strip() == EARNEST:
                    latest.REST, latest.QUICK_SECONDS = earnest
                    print(*(1000 * each for each in once_a_second(scrape)), flush=True)
                    continue
                latest.REST, latest.QUICK_SECONDS = (
                    0,
                    60.0,
                )  # each scrape asks anew, and waits for all answers
                began, cpu, scrapes = time.perf_counter(), time.process_time(), int(line)
                for _ in range(scrapes):
                    body = scrape().body
                took = (time.perf_counter() - began, time.process_time() - cpu)
                print(*(1000 * each / scrapes for each in took), body.count(b"\naggregator_"), flush=True)


def once_a_second(scrape: MetricsEndpoint) -> Iterator[float]:
    """Yield how many seconds each of some scrapes takes."""
    for _ in range(SCRAPES_IN_EARNEST):
        time.sleep(1)  # noqa: TID251 - a benchmark lets time pass
        began = time.perf_counter()
        scrape()
        yield time.perf_counter() - began


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
