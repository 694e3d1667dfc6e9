"""Outgrowing one machine: the same usage through a Spark cluster, ClickHouse and one Postgres; what it costs and comes to.

    python -m bench.scaling --rows 100000000
    python -m bench.scaling --rows 1000000 --engines postgres clickhouse
    python -m bench.scaling --rows 100000000 --engines spark --url clickhouse://... --query clickhouse.sql

Rows are made in pieces, as folders of Parquet files below `--lake`, a day each: 18 bytes a row. Postgres gets the same rows
of the first day by COPY, a piece at a time. Spark is a standalone cluster: a master, two workers with a core each, and its
Thrift server, on loopback. ClickHouse is its engine, by chdb behind the front of our tests; it reads the same files through
a view. Any other engine is yours, with the rows of the lake in it, and `--query` as its SQL.

A daemon reads each of them from the first window on, into a ledger of its own; then three days are read again by `aggregator
backfill`, which is what a revisit reads. What the events come to is compared with what DuckDB makes of the files, by a
checksum over all of them: customer, hour and quantity to the last digit. So equal means equal bills.
"""

import argparse
import datetime as dt
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

import psycopg

from aggregator.runtime import clock
from aggregator.runtime.embedded_postgres import EmbeddedPostgres
from bench.lake import Usage, csv_of, make_day, slots_of
from bench.memory import peak_megabytes_of
from bench.processor import tree_seconds
from bench.stand import postmaster
from tests.clickhouse import clickhouse
from tests.spark import HOME, environment, free_port, spark

CONFIG = """
ledger: {{url: '{ledger}', lease: 1h}}
sources: {{app: {{url: '{source}', statement_timeout: 6h}}}}
sinks: {{files: {{type: csv, directory: '{directory}'}}}}
meters:
  usage:
    source: app
    sinks: [files]
    window: 1h
    start_at: {start}
    delay: 0s
    revisit: 3d
    decimals: 6
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

ON_CLICKHOUSE = """
select customer, sum(toDecimal256(quantity, 6)) as quantity, toStartOfHour(used_at, 'UTC') as window
  from usage
 where day >= toDate(:start, 'UTC') and day <= toDate(:end, 'UTC')
   and used_at >= :start and used_at < :end
 group by customer, toStartOfHour(used_at, 'UTC')
"""

EVENTS = """
select customer, to_char(window_start at time zone 'UTC', 'YYYY-MM-DD HH24'), sum(delta), count(*)
  from aggregator.event where window_start >= %s and window_start < %s group by 1, 2 order by 2, customer collate "C"
"""

FAILED = b'"pass_failed"'
"""As a daemon's log has it, which would try again in minutes."""

MARKS = "select mark from aggregator.meter"

REVISITED_DAYS = 3
BYTES_A_ROW = 30
"""Of the lake, with room: 18 were measured."""
LOOK_SECONDS = 0.2

NAMES = {"postgres": "one Postgres", "spark": "Spark", "clickhouse": "ClickHouse"}


class Engine(NamedTuple):
    """What is asked: where it is, how, and the process that all of its work is below."""

    url: str
    query: str
    process: int | None


class Events(NamedTuple):
    """What the events of a stretch of time come to."""

    many: int
    total: str
    checksum: str


class Cost(NamedTuple):
    """What a process took until it had done a thing, and what its engine did meanwhile."""

    seconds: float
    own: float
    engine: float | None
    megabytes: float


class Outcome(NamedTuple):
    """One engine's."""

    name: str
    rows: int
    read: Cost
    revisit: Cost
    events: Events
    equal: bool


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


@contextmanager
def columns(lake: Path) -> Iterator[Engine]:
    """Put up ClickHouse's engine, with a view of the lake; the folder of a row is its column `day`."""
    with clickhouse("UTC") as server:
        files = f"file('{lake.absolute()}/day=*/*.parquet', Parquet)"
        server.run(f"create view usage as select customer, used_at, quantity, day from {files}")
        yield Engine(server.url(), ON_CLICKHOUSE, server.process.pid)


class Bench:
    """An engine, a ledger for it, and the configuration of both."""

    def __init__(
        self, server: EmbeddedPostgres, name: str, engine: Engine, usage: Usage, directory: Path
    ) -> None:
        self.engine, self.usage, self.directory = engine, usage, directory / name
        self.directory.mkdir()
        with closing(psycopg.connect(server.url(), autocommit=True)) as connection:
            connection.execute(f"create database ledger_{name}".encode())
        self.ledger = server.url(f"ledger_{name}")
        self.config = self.directory / "aggregator.yaml"
        self.config.write_text(
            CONFIG.format(
                ledger=self.ledger,
                source=engine.url,
                directory=self.directory / "files",
                start=f"{usage.first_day:%Y-%m-%dT%H:%MZ}",
                query="\n".join(f"      {line}" for line in engine.query.strip().splitlines()),
            )
        )

    def read(self) -> Cost:
        """Let a daemon read everything, and stop it as soon as all of it is planned."""
        end = self.usage.start_of(self.usage.days)

        def read() -> bool:
            with psycopg.connect(self.ledger) as connection:
                [(there,)] = connection.execute("select to_regclass('aggregator.meter') is not null")
                marks = connection.execute(MARKS).fetchall() if there else []
                return any(mark >= end for (mark,) in marks)

        return self._cost(["run", "--first-time"], read)

    def revisit(self) -> Cost:
        """Read the last days again, whole."""
        days = min(REVISITED_DAYS, self.usage.days)
        span = ["--from", self._instant(self.usage.days - days), "--to", self._instant(self.usage.days)]
        return self._cost(["backfill", "--no-send", "--first-time", *span], lambda: False)

    def _instant(self, day: int) -> str:
        return self.usage.start_of(day).isoformat()

    def _cost(self, command: list[str], done: Callable[[], bool]) -> Cost:
        """Run a command until it ends by itself, or has done what it was to do."""
        before, began, pause, megabytes = self._spent(), clock.monotonic(), threading.Event(), 0.0
        log = self.directory / f"{command[0]}.log"
        with log.open("wb") as said:
            process = subprocess.Popen(
                [sys.executable, "-m", "aggregator", *command, "--config", str(self.config)],
                stdout=said,
                stderr=said,
            )
        try:
            while (ended := os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is None:
                megabytes = max(megabytes, peak_megabytes_of(process.pid))
                if done():
                    break
                assert FAILED not in log.read_bytes(), log.read_text()[-4000:]
                pause.wait(LOOK_SECONDS)
            seconds, own, after = clock.monotonic() - began, tree_seconds(process.pid), self._spent()
        finally:
            process.send_signal(signal.SIGTERM)
            code = process.wait()
        assert ended is None or code in {0, 3}, log.read_text()[-4000:]
        spent = None if before is None or after is None else after - before
        if spent is not None and self.engine.process == os.getpid():
            spent -= own
        return Cost(seconds, own, spent, megabytes)

    def _spent(self) -> float | None:
        return None if self.engine.process is None else tree_seconds(self.engine.process)

    def events(self) -> Events:
        """Return what its ledger's events come to."""
        end = self.usage.start_of(self.usage.days)
        with (
            psycopg.connect(self.ledger) as connection,
            connection.cursor("events") as cursor,
        ):
            return summed(cursor.execute(EVENTS, (self.usage.first_day, end)))


def summed(rows: Iterable[tuple[str, str, Decimal, int]]) -> Events:
    """Add up customers, hours, quantities and how many events each has."""
    checksum, total, many = hashlib.sha256(), Decimal(0), 0
    for customer, hour, quantity, events in rows:
        checksum.update(f"{customer} {hour} {quantity.normalize():f}\n".encode())
        total, many = total + quantity, many + events
    return Events(many, f"{total.normalize():f}", checksum.hexdigest()[:16])


def compared(name: str, bench: Bench, wanted: Events) -> Outcome:
    """Read everything, read the last days again, and compare."""
    read, revisit = bench.read(), bench.revisit()
    found = bench.events()
    rows = bench.usage.days * bench.usage.per_day
    return Outcome(NAMES.get(name, name), rows, read, revisit, found, found == wanted)


HEADINGS: tuple[str, ...] = (
    *("read from", "rows", "seconds", "CPU", "engine's", "memory of the daemon"),
    *("revisit of", "seconds", "CPU", "engine's", "memory of it"),
    *("events", "total", "checksum", "totals equal"),
)


def table(outcomes: Iterable[Outcome], usage: Usage) -> str:
    """Show them in columns."""

    def cells(cost: Cost) -> tuple[str, ...]:
        engine = "-" if cost.engine is None else f"{cost.engine:.0f} s"
        return f"{cost.seconds:.0f}", f"{cost.own:.1f} s", engine, f"{cost.megabytes:.0f} MB"

    lines = [HEADINGS]
    for each in outcomes:
        again = min(REVISITED_DAYS * usage.per_day, each.rows)
        read = (each.name, f"{each.rows:,}", *cells(each.read), f"{again:,}", *cells(each.revisit))
        many, total, checksum = each.events
        lines.append((*read, f"{many:,}", total, checksum, "yes" if each.equal else "no"))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )


def said(text: str) -> None:
    """Print a line at once, with the time."""
    print(f"{clock.utcnow():%H:%M:%S} {text}", flush=True)


def main() -> int:
    """Make the lake, put up the engines one after the other, and measure a daemon over each."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--days", type=int, default=10, help="over how many days")
    parser.add_argument("--customers", type=int, default=2_000)
    parser.add_argument("--engines", nargs="*", choices=list(NAMES), default=list(NAMES))
    parser.add_argument("--url", help="a source of yours")
    parser.add_argument("--query", type=Path, help="its SQL")
    parser.add_argument(
        "--first-day", type=dt.date.fromisoformat, help="the last day is yesterday unless you say"
    )
    parser.add_argument("--lake", type=Path, default=Path(tempfile.gettempdir()) / "aggregator-lake")
    of = parser.parse_args()
    first = of.first_day or clock.utcnow().date() - dt.timedelta(days=of.days)
    usage = Usage(dt.datetime.combine(first, dt.time(), dt.UTC), of.days, of.rows // of.days, of.customers)
    lake = of.lake / f"{usage.per_day}-a-day-of-{usage.customers}"
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        wanted, wanted_of_a_day = make(lake, usage)
        server = stack.enter_context(EmbeddedPostgres(directory / "pg"))
        outcomes = []
        for name in [*of.engines, *(["yours"] if of.url else [])]:
            those = usage._replace(days=1) if name == "postgres" else usage
            with engine_of(name, server, those, lake, directory, of) as engine:
                said(f"{NAMES.get(name, name)} is up")
                bench = Bench(server, name, engine, those, directory)
                outcomes.append(compared(name, bench, wanted_of_a_day if name == "postgres" else wanted))
            print(table(outcomes, usage), flush=True)
    return 0 if all(each.equal for each in outcomes) else 1


def make(lake: Path, usage: Usage) -> tuple[Events, Events]:
    """Make the files; return what the events of all days, and of the first, are to come to."""
    lake.mkdir(parents=True, exist_ok=True)
    needed = usage.days * usage.per_day * BYTES_A_ROW
    assert shutil.disk_usage(lake).free > needed, f"{lake} has no room for {needed / 1e9:.1f} GB"
    size = sum(make_day(lake, usage, day) for day in range(usage.days))
    said(f"{usage.days * usage.per_day:,} rows in {size / 1e6:,.0f} MB of Parquet files below {lake}")
    wanted = summed(each for day in range(usage.days) for each in slots_of(lake, usage, day))
    of_a_day = summed(slots_of(lake, usage, 0))
    said(f"they come to {wanted.many:,} slots, {wanted.total}, {wanted.checksum}")
    return wanted, of_a_day


@contextmanager
def engine_of(
    name: str, server: EmbeddedPostgres, usage: Usage, lake: Path, directory: Path, of: argparse.Namespace
) -> Iterator[Engine]:
    """Put one up."""
    if name == "postgres":
        with postgres(server, usage, directory) as engine:
            yield engine
    elif name == "spark":
        with cluster(lake, directory) as engine:
            yield engine
    elif name == "clickhouse":
        with columns(lake) as engine:
            yield engine
    else:
        yield Engine(of.url, of.query.read_text(), None)


if __name__ == "__main__":
    sys.exit(main())
