"""Outgrowing one machine: the same usage on one Postgres, on a Spark cluster, or on any source; what it costs and comes to.

    python -m bench.scaling --engine postgres --days 1
    python -m bench.scaling --engine spark --days 10
    python -m bench.scaling --engine clickhouse://... --query clickhouse.sql --days 10

Rows are made in pieces, as folders of Parquet files below `--lake`, a day each; Postgres gets the same rows by COPY, a piece
at a time. Spark is a standalone cluster: a master, two workers with a core each, and its Thrift server, on loopback. Any
other engine is yours, with the rows of the lake in it, and `--query` as its SQL.

Each pass is a command of its own, `aggregator backfill --no-send`, so that its memory and its processor time are its own.
What it comes to is the checksum of all events: customer, hour and quantity to the last digit. Equal lines mean equal bills.
"""

import argparse
import datetime as dt
import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

import psycopg

from aggregator.runtime import clock
from aggregator.runtime.embedded_postgres import EmbeddedPostgres
from bench.lake import Usage, csv_of, make_day
from bench.processor import tree_seconds
from bench.stand import postmaster
from tests.spark import HOME, environment, free_port, spark

CONFIG = """
ledger: {{url: '{ledger}', lease: 1h}}
sources: {{app: {{url: '{source}', statement_timeout: 1h}}}}
sinks: {{files: {{type: csv, directory: '{directory}'}}}}
meters:
  usage:
    source: app
    sinks: [files]
    window: 1h
    start_at: {start}
    delay: 0s
    revisit: 3d
    query: |
{query}
"""

ON_POSTGRES = """
select customer, sum(quantity) as quantity, date_trunc('hour', used_at) as "window"
  from usage where used_at >= :start and used_at < :end
 group by customer, date_trunc('hour', used_at)
"""

ON_SPARK = """
select customer, sum(quantity) as quantity, date_trunc('hour', used_at) as window
  from parquet.`{lake}`
 where day >= to_date(:start) and day <= to_date(:end)
   and used_at >= :start and used_at < :end
 group by customer, date_trunc('hour', used_at)
"""

EVENTS = """
select customer, to_char(window_start at time zone 'UTC', 'YYYY-MM-DD HH24'), sum(coalesce(quantity, total)), count(*)
  from aggregator.event group by 1, 2 order by customer collate "C", 2
"""


class Engine(NamedTuple):
    """What is asked: where it is, how, and the process that all of its work is below."""

    url: str
    query: str
    process: int | None


class Events(NamedTuple):
    """What the events of a day come to."""

    many: int
    total: str
    checksum: str


@contextmanager
def postgres(server: EmbeddedPostgres, usage: Usage, directory: Path) -> Iterator[Engine]:
    """Load the rows into one Postgres."""
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute("create database app")
    url = server.url("app")
    piece = directory / "piece.csv"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "create table usage (id bigint, customer text, used_at timestamptz, quantity numeric(18, 6))"
        )
        for day in range(usage.days):
            for query in usage.pieces(day):
                csv_of(piece, query)
                with (
                    piece.open("rb") as rows,
                    connection.cursor().copy("copy usage from stdin (format csv)") as copy,
                ):
                    while block := rows.read(1 << 20):
                        copy.write(block)
        piece.unlink()
        connection.execute("create index on usage (used_at)")
        connection.execute("vacuum (analyze) usage")
    yield Engine(url, ON_POSTGRES, postmaster(server))


@contextmanager
def cluster(lake: Path, directory: Path) -> Iterator[Engine]:
    """Put up a master, two workers and the Thrift server; the lake is read by its path."""
    master, port = free_port(), free_port()
    with ExitStack() as stack:
        address = f"spark://127.0.0.1:{master}"
        deploy = "org.apache.spark.deploy"
        own = ("--host", "127.0.0.1", "--port")
        _run(stack, directory, f"{deploy}.master.Master", *own, str(master), "--webui-port", str(port))
        for _ in range(2):
            worker = ("--cores", "1", "--memory", "1g", "--webui-port", "0", address)
            _run(stack, directory, f"{deploy}.worker.Worker", *own, "0", *worker)
        conf = {"spark.executor.memory": "900m", "spark.cores.max": "2", "spark.sql.shuffle.partitions": "4"}
        server = stack.enter_context(spark(master=address, conf=conf))
        yield Engine(server.url, ON_SPARK.format(lake=lake.absolute()), os.getpid())


def _run(stack: ExitStack, directory: Path, program: str, *arguments: str) -> None:
    """Run one of Spark's programs until the stack ends."""
    log = stack.enter_context((directory / f"{program}-{free_port()}.log").open("wb"))
    process = subprocess.Popen(
        ["setpriv", "--pdeathsig=TERM", "bash", str(HOME / "bin" / "spark-class"), program, *arguments],
        stdout=log,
        stderr=log,
        cwd=directory,
        env={**environment(directory), "SPARK_DAEMON_MEMORY": "256m"},
        start_new_session=True,
    )
    stack.callback(process.wait)
    stack.callback(process.terminate)


class Cost(NamedTuple):
    """What a command took."""

    seconds: float
    own: float
    engine: float | None
    megabytes: float


def passed(config: Path, engine: Engine, start: dt.datetime, end: dt.datetime) -> Cost:
    """Read a stretch of time by a command of its own."""
    before = tree_seconds(engine.process) if engine.process else None
    began = clock.monotonic()
    command = [sys.executable, "-m", "aggregator", "backfill", "--no-send", "--first-time"]
    command += ["--from", start.isoformat(), "--to", end.isoformat(), "--config", str(config)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert process.stdout is not None
    said = process.stdout.read().decode()
    process.stdout.close()
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode in {0, 3}, said
    own = used.ru_utime + used.ru_stime
    after = tree_seconds(engine.process) if engine.process else None
    spent = None if before is None or after is None else after - before
    if spent is not None and engine.process == os.getpid():
        spent -= own
    return Cost(clock.monotonic() - began, own, spent, used.ru_maxrss / 1024)


def events_of(ledger: str, start: dt.datetime, end: dt.datetime) -> Events:
    """Return what the ledger's events of a stretch of time come to."""
    checksum, total, many = hashlib.sha256(), Decimal(0), 0
    between = EVENTS.replace(
        "aggregator.event", "aggregator.event where window_start >= %s and window_start < %s"
    )
    with psycopg.connect(ledger) as connection:
        for customer, hour, quantity, events in connection.execute(between, (start, end)):
            checksum.update(f"{customer} {hour} {quantity.normalize():f}\n".encode())
            total, many = total + quantity, many + events
    return Events(many, f"{total:f}", checksum.hexdigest()[:16])


def show(name: str, cost: Cost, events: Events) -> None:
    """Print a line."""
    engine = "-" if cost.engine is None else f"{cost.engine:.1f}"
    print(
        f"{name:20} {cost.seconds:8.1f} s  own {cost.own:5.1f} s {cost.megabytes:4.0f} MB  engine {engine:>6} s of CPU "
        f"{events.many:,} events, {events.total}, {events.checksum}",
        flush=True,
    )


def main() -> None:
    """Make the lake, put up the engine, and measure passes over it."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--engine", default="spark", help="postgres, spark, or the URL of a source")
    parser.add_argument("--query", type=Path, help="the SQL, for a URL")
    parser.add_argument("--days", type=int, default=1)
    parser.add_argument("--rows-a-day", type=int, default=10_000_000)
    parser.add_argument("--customers", type=int, default=2_000)
    parser.add_argument("--first-day", help="a date; events older than a sink takes are not planned")
    parser.add_argument("--lake", type=Path, default=Path(tempfile.gettempdir()) / "aggregator-lake")
    of = parser.parse_args()
    first = f"{clock.utcnow() - dt.timedelta(days=20):%Y-%m-%d}" if of.first_day is None else of.first_day
    start = dt.datetime.fromisoformat(first).replace(tzinfo=dt.UTC)
    usage = Usage(start, of.days, of.rows_a_day, of.customers)
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = stack.enter_context(EmbeddedPostgres(directory / "pg"))
        if of.engine == "postgres":
            engine = stack.enter_context(postgres(server, usage, directory))
        else:
            size = sum(make_day(of.lake, usage, day) for day in range(of.days))
            print(f"{of.days * of.rows_a_day:,} rows in {size / 1e6:,.0f} MB of Parquet files", flush=True)
            engine = (
                stack.enter_context(cluster(of.lake, directory))
                if of.engine == "spark"
                else Engine(of.engine, of.query.read_text(), None)
            )
        measure(server, engine, usage, directory)


def measure(server: EmbeddedPostgres, engine: Engine, usage: Usage, directory: Path) -> None:
    """Read an hour, each day, and the last day again."""
    with closing(psycopg.connect(server.url(), autocommit=True)) as connection:
        connection.execute("create database ledger")
    ledger = server.url("ledger")
    config = directory / "aggregator.yaml"
    query = "\n".join(f"      {line}" for line in engine.query.strip().splitlines())
    config.write_text(
        CONFIG.format(
            ledger=ledger,
            source=engine.url,
            directory=directory / "files",
            start=f"{usage.first_day:%Y-%m-%dT%H:%MZ}",
            query=query,
        )
    )

    def one(name: str, start: dt.datetime, end: dt.datetime) -> None:
        show(name, passed(config, engine, start, end), events_of(ledger, start, end))

    hour = dt.timedelta(hours=1)
    one("an hour", usage.first_day, usage.first_day + hour)
    for day in range(usage.days):
        one(f"day {day + 1}", usage.start_of(day), usage.start_of(day + 1))
    last = usage.start_of(usage.days - 1)
    one("the last day again", last, last + 24 * hour)
    whole = events_of(ledger, usage.first_day, usage.start_of(usage.days))
    print(f"all: {whole.many:,} events, {whole.total}, {whole.checksum}")


if __name__ == "__main__":
    main()
