"""The databases that `test_every_source` asks for all facts: each a `Case`, and a line in `CASES`.

A new dialect is one more line: its name, what gives its URL, and the facts that it does not prove. Another line for a server
whose sessions begin in another zone need ask for `TIMES` only.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import psycopg
import pytest
from psycopg import sql

from aggregator.source.contract.fact import Fact
from aggregator.source.contract.facts import FACTS
from tests.clickhouse import ClickHouse
from tests.contract.engines import register
from tests.mariadb import Maria
from tests.spark import Spark


def postgres(request: pytest.FixtureRequest) -> str:
    """Return a fresh database of a real Postgres."""
    url: str = request.getfixturevalue("source_url")
    return url


def postgres_in_kathmandu(request: pytest.FixtureRequest) -> str:
    """Return one whose sessions begin in Kathmandu, with the date style of another country."""
    url = postgres(request)
    with psycopg.connect(url, autocommit=True) as connection:
        name = sql.Identifier(connection.info.dbname)
        for setting in ("timezone = 'Asia/Kathmandu'", "datestyle = 'German'"):
            connection.execute(sql.SQL("alter database {} set " + setting).format(name))
    return url


def sqlite(request: pytest.FixtureRequest) -> str:
    """Return an empty file."""
    path: Path = request.getfixturevalue("tmp_path") / "app.db"
    path.touch()
    return f"sqlite:///{path}"


def unknown(request: pytest.FixtureRequest) -> str:
    """Return the same under a name that nobody here knows."""
    register()
    return sqlite(request).replace("sqlite", "otherdb")


def mariadb_in_new_york(request: pytest.FixtureRequest) -> str:
    """Return an empty database of a real MariaDB, whose server is in New York."""
    server: Maria = request.getfixturevalue("mariadb_server")
    return server.url()


def mysql_in_new_york(request: pytest.FixtureRequest) -> str:
    """Return an empty database of a real MySQL, whose server is in New York."""
    server: Maria = request.getfixturevalue("mysql_server")
    return server.url()


def duckdb_file(request: pytest.FixtureRequest) -> str:
    """Return an empty database of DuckDB."""
    path: Path = request.getfixturevalue("tmp_path") / "app.duckdb"
    duckdb.connect(str(path)).close()
    return f"duckdb:///{path}"


def clickhouse_in_new_york(request: pytest.FixtureRequest) -> str:
    """Return a database of ClickHouse's engine, whose sessions begin in New York."""
    server: ClickHouse = request.getfixturevalue("clickhouse_server")
    return server.url()


def spark_in_kathmandu(request: pytest.FixtureRequest) -> str:
    """Return a schema of a real Spark, in New York, whose sessions begin in Kathmandu."""
    server: Spark = request.getfixturevalue("spark_server")
    return server.url


def pglite_in_kathmandu(request: pytest.FixtureRequest) -> str:
    """Return a real PGlite, whose one session begins in Kathmandu."""
    url: str = request.getfixturevalue("pglite_server")
    return url


class Case(NamedTuple):
    """One kind of database: what gives its URL, how a source of it is set, and the facts that it does not prove."""

    name: str
    url: Callable[[pytest.FixtureRequest], str]
    unproven: frozenset[str] = frozenset()
    wrong: frozenset[str] = frozenset()
    """What is known to be wrong with it, and is said in `cannot_promise`."""
    settings: dict[str, Any] = {}  # noqa: RUF012 - read only
    facts: tuple[Fact, ...] = FACTS
    group: str = "mariadb"
    """Tests of one group share the servers that they need."""


FLOATS_ONLY = frozenset({"microseconds", "decimals", "wide sums"})
"""SQLite has no exact fractions, and compares bounds in whole seconds."""

# Up to Python 3.11, sqlite3 writes a datetime by itself, with its microseconds; it warns of that later on, so text is bound.
BY_ITSELF = frozenset({"microseconds"} if sys.version_info < (3, 12) else ())

RUNS_ON = frozenset({"cancel"})
"""A statement under way ends by its timeout, or with the process; in PGlite it ends by itself."""

NEVER_STOPS = frozenset({"timeout"})
"""PGlite takes a timeout and does not keep it."""

BUT_STOPPING = tuple(fact for fact in FACTS if fact.name not in {"given up", "timeout", "cancel"})
"""A busy machine plans the sums that are to be stopped for longer than they may take, and was seen to run them afterwards.
tests/core/test_source_spark.py shows that whatever runs is stopped."""

TIMES = FACTS[: 1 + [fact.name for fact in FACTS].index("usual shape")]
"""All that a zone could change."""

CASES = (
    Case("postgres", postgres),
    Case("postgres in Kathmandu", postgres_in_kathmandu, facts=TIMES),
    Case("sqlite", sqlite, FLOATS_ONLY),
    # What it makes of a number is a DATETIME. Its usual collations take keys for one that differ in case or accents.
    Case("mariadb in New York", mariadb_in_new_york, frozenset({"keys"}), settings={"timezone": "UTC"}),
    Case(
        "mysql in New York",
        mysql_in_new_york,
        frozenset({"keys"}),
        settings={"timezone": "UTC"},
        group="mysql",
    ),
    Case("duckdb", duckdb_file),
    Case("clickhouse in New York", clickhouse_in_new_york),
    Case("spark in Kathmandu", spark_in_kathmandu, facts=BUT_STOPPING, group="spark"),
    Case("pglite in Kathmandu", pglite_in_kathmandu, RUNS_ON, NEVER_STOPS, group="pglite"),
    Case(
        "unknown",
        unknown,
        FLOATS_ONLY - BY_ITSELF | {"mistakes"} | RUNS_ON,
        frozenset({"timeout", "only reads"}),
        {"timezone": "UTC"},
    ),
)
