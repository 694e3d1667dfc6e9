"""Raw rows out of each kind of database: what memory and time a process takes that reads two million of them as a pass does.

    python -m bench.raw_rows [--rows 2000000] [--engines ClickHouse Spark]

The database makes the rows, except in files: each has a customer, a quantity, an instant and a window. `before` is what the
process takes when it has asked for one row: Python, aggregator, the driver. Exits with 1 if all is more than 150 MB.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import duckdb

from aggregator.runtime.clock import monotonic
from aggregator.runtime.embedded_postgres import EmbeddedPostgres
from tests.clickhouse import clickhouse
from tests.mariadb import Maria, mariadb
from tests.mysql import MISSING as WITHOUT_MYSQL
from tests.mysql import mysql
from tests.pglite import MISSING as WITHOUT_PGLITE
from tests.pglite import pglite
from tests.spark import MISSING as WITHOUT_SPARK
from tests.spark import spark

MOST_MEGABYTES = 150

READER = """
import datetime as dt, json, sys
from aggregator.core.model import Span
from aggregator.source import Source
from aggregator.source.file_views import Files
from bench.memory import peak_megabytes
settings, query, many = json.loads(sys.argv[1])
settings["files"] = {name: Files(**each) for name, each in settings.get("files", {}).items()}
start, hour = dt.datetime(2026, 6, 1, 12, tzinfo=dt.UTC), dt.timedelta(hours=1)
source = Source("app", statement_timeout=hour, **settings)
def rows(many):
    return sum(len(batch) for batch in source.read(query.replace("MANY", str(many)), Span(start, start + hour), hour))
found = [rows(1), peak_megabytes(), rows(many), peak_megabytes()]
source.close()
print(json.dumps(found))
"""

AT = "2026-06-01 12:30:00"
BOUNDS = ":start < :end"

POSTGRES = f"""
select 'cus_' || n as customer, n / 100.0 as quantity, timestamptz '{AT}+00' as at, timestamptz '{AT}+00' as window
  from generate_series(1, MANY) n where {BOUNDS}
"""
MYSQL = f"""
select concat('cus_', n) as customer, n / 100 as quantity, timestamp '{AT}' as at, timestamp '{AT}' as `window`
  from (select seq + more as n from seq_1_to_1000000 join (select 0 as more union all select 1000000) as twice) as numbers
 where n <= MANY and {BOUNDS}
"""
DUCKDB = f"""
select 'cus_' || range as customer, cast(range as decimal(20, 2)) as quantity, timestamptz '{AT}+00' as "at",
       timestamptz '{AT}+00' as "window" from range(MANY) where {BOUNDS}
"""
FILES = (
    f'select customer, quantity, used_at as "at", used_at as "window" from used where n < MANY and {BOUNDS}'
)
IN_FILES = f"""
select 'cus_' || range as customer, cast(range as decimal(20, 2)) as quantity, timestamptz '{AT}+00' as used_at, range as n
  from range(MANY)
"""
TYPES = {"n": "bigint", "quantity": "decimal(20,2)", "used_at": "timestamptz"}
CLICKHOUSE = f"""
select concat('cus_', toString(number)) as customer, toDecimal64(number, 2) as quantity, toDateTime('{AT}', 'UTC') as at,
       toDateTime('{AT}', 'UTC') as window from numbers(MANY) where {BOUNDS}
"""
SPARK = f"""
select concat('cus_', id) as customer, cast(id as decimal(20, 2)) as quantity, timestamp'{AT}Z' as at,
       timestamp'{AT}Z' as window from range(MANY) where {BOUNDS}
"""
SQLITE = f"""
with recursive made(n) as (select 1 union all select n + 1 from made where n < MANY)
select 'cus_' || n as customer, n as quantity, '{AT}' as at, '{AT}' as window from made where {BOUNDS}
"""

Settings = dict[str, object]


@contextmanager
def _postgres() -> Iterator[Settings]:
    with tempfile.TemporaryDirectory() as name, EmbeddedPostgres(Path(name)) as server:
        yield {"url": server.url()}


@contextmanager
def _by_url(server: Callable[[], AbstractContextManager[Maria]]) -> Iterator[Settings]:
    with server() as running:
        yield {"url": running.url(), "timezone": "UTC"}


@contextmanager
def _pglite() -> Iterator[Settings]:
    with pglite("UTC") as url:
        yield {"url": url}


@contextmanager
def _clickhouse() -> Iterator[Settings]:
    with clickhouse() as server:
        yield {"url": server.url()}


@contextmanager
def _spark() -> Iterator[Settings]:
    with spark() as server:
        yield {"url": server.url}


@contextmanager
def _empty(name: str) -> Iterator[Settings]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        if path.suffix == ".duckdb":
            duckdb.connect(str(path)).close()
        else:
            path.touch()
        yield {"url": f"{path.suffix[1:]}:///{path}"}


@contextmanager
def _lake(name: str, rows: int) -> Iterator[Settings]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        duckdb.sql(f"copy ({IN_FILES.replace('MANY', str(rows))}) to '{path}'")
        declared = {} if path.suffix == ".parquet" else {"columns": TYPES}
        yield {"url": "duckdb://", "files": {"used": {"path": str(path), **declared}}}


def engines(rows: int) -> Iterator[tuple[str, str, AbstractContextManager[Settings]]]:
    """Yield each by its name, with a query for MANY rows, and what runs it."""
    yield "Postgres", POSTGRES, _postgres()
    yield "MariaDB", MYSQL, _by_url(mariadb)
    if WITHOUT_MYSQL is None:
        yield "MySQL", MYSQL, _by_url(mysql)
    yield "DuckDB", DUCKDB, _empty("app.duckdb")
    yield "Parquet", FILES, _lake("used.parquet", rows)
    yield "CSV", FILES, _lake("used.csv", rows)
    yield "ClickHouse", CLICKHOUSE, _clickhouse()
    if WITHOUT_SPARK is None:
        yield "Spark", SPARK, _spark()
    yield "SQLite", SQLITE, _empty("app.sqlite")
    if WITHOUT_PGLITE is None:
        yield "PGlite", POSTGRES, _pglite()


def main() -> int:
    """Read from one engine after the other."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--engines", nargs="*", help="Only these.")
    given = parser.parse_args()
    print(f"{'engine':<12}{'rows':>12}{'before, MB':>14}{'in all, MB':>14}{'seconds':>10}")
    good = True
    for name, query, started in engines(given.rows):
        if given.engines and name not in given.engines:
            continue
        with started as settings:
            began = monotonic()
            asked = json.dumps([settings, query, given.rows])
            done = subprocess.run(
                [sys.executable, "-c", READER, asked], capture_output=True, text=True, check=False
            )
            seconds = monotonic() - began
        assert done.returncode == 0, f"{name}: {done.stderr}"
        one, before, many, peak = json.loads(done.stdout)
        assert (one, many) == (1, given.rows), (name, one, many)
        good = good and peak <= MOST_MEGABYTES
        print(f"{name:<12}{many:>12,}{before:>14.0f}{peak:>14.0f}{seconds:>10.1f}", flush=True)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
