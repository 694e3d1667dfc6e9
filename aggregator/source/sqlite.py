"""SQLite: a file opened to read, its lack of a statement timeout made up for, and what its errors mean.

Rules
- A query runs under an authorizer that allows reading and nothing else: a file opened read-only does not keep ATTACH and
  VACUUM INTO from writing another.
"""

import datetime as dt
import sqlite3
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from aggregator.runtime import clock
from aggregator.source.dialects import LOCK_SECONDS, Dialect, Fault, Reading, Renew, Table, first_line
from aggregator.source.stand_ins import literal_rows
from aggregator.source.stopping import stop_with

SQLITE_TABLES = sa.text(
    "select distinct tbl_name from sqlite_master where rootpage in :pages order by 1"
).bindparams(sa.bindparam("pages", expanding=True))

STEPS_BETWEEN_CHECKS = 20_000
"""How many steps SQLite takes between two looks at the clock: about a millisecond."""


def _sqlite_engine(url: sa.URL, _: str) -> sa.Engine:
    engine = sa.create_engine(
        "sqlite://",
        creator=partial(_open_file, Path(url.database or "").absolute()),
        poolclass=sa.NullPool,
        # By name, so that a parameter in a comment does not change their count.
        paramstyle="named",
        hide_parameters=True,
    )
    stop_with(engine, _stop)
    return engine


class _Opened(sqlite3.Connection):
    """A connection that can be stopped. An interrupt that comes before a statement begins is forgotten, so that it is
    noted, and looked at with the clock (sqlite.org/c3ref/interrupt.html)."""

    stopped = False


def _stop(connection: _Opened) -> None:
    connection.stopped = True


def _open_file(path: Path) -> sqlite3.Connection:
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    connection = sqlite3.connect(
        f"{path.as_uri()}?mode=ro",
        uri=True,
        timeout=LOCK_SECONDS,
        isolation_level=None,  # we say BEGIN ourselves
        factory=_Opened,
        check_same_thread=False,  # a read may be given up by another thread than the one that began it
    )
    # Text that is not UTF-8 must not stop the fetch; its surrogates show it up as a customer key that is unusable.
    connection.text_factory = partial(str, encoding="utf-8", errors="surrogateescape")
    return connection


def _begin_sqlite(connection: sa.Connection, reading: Reading) -> Renew:
    driver = connection.connection.driver_connection
    assert isinstance(driver, _Opened)
    deadline = _Deadline(reading.statement_timeout.total_seconds())
    driver.set_progress_handler(lambda: driver.stopped or deadline.has_passed(), STEPS_BETWEEN_CHECKS)
    connection.exec_driver_sql("begin")
    connection.exec_driver_sql(
        "select 1 from sqlite_master"
    ).close()  # the snapshot begins with the first read
    driver.set_authorizer(_only_reading)
    return deadline.renew


class _Deadline:
    """SQLite has no statement timeout: it asks us now and then whether to go on."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.renew()

    def renew(self) -> None:
        self._until = clock.monotonic() + self._seconds

    def has_passed(self) -> bool:
        return clock.monotonic() > self._until


SQLITE_READING = {
    sqlite3.SQLITE_SELECT,
    sqlite3.SQLITE_READ,
    sqlite3.SQLITE_FUNCTION,
    sqlite3.SQLITE_RECURSIVE,
    sqlite3.SQLITE_TRANSACTION,  # our own rollback
}


SQLITE_DESCRIBING = {
    *("table_info", "table_xinfo", "index_list", "index_info", "foreign_key_list"),
    "database_list",  # asked where a table is named with its schema
}
"""Pragmas that only tell what a table looks like (sqlite.org/pragma.html)."""


def _only_reading(action: int, name: str | None, *_: object) -> int:
    if action == sqlite3.SQLITE_PRAGMA and (name or "").lower() in SQLITE_DESCRIBING:
        return sqlite3.SQLITE_OK
    return sqlite3.SQLITE_OK if action in SQLITE_READING else sqlite3.SQLITE_DENY


SQLITE_TRANSIENT = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_PROTOCOL,
}


def _sqlite_fault(error: BaseException) -> Fault:
    # Python 3.11 warns of several statements; later versions raise ProgrammingError.
    if isinstance(error, sqlite3.Warning) or "one statement at a time" in str(error):
        return Fault.NOT_A_READ
    if not isinstance(error, sqlite3.Error | SQLAlchemyError | UnicodeError):
        return Fault.UNEXPECTED
    # The low byte is the code, the rest says more (sqlite.org/rescode.html).
    match getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF:
        case sqlite3.SQLITE_INTERRUPT:
            return Fault.TIMED_OUT
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_AUTH:
            return Fault.NOT_A_READ
        case code if code in SQLITE_TRANSIENT:
            return Fault.TRANSIENT
        case _:
            return Fault.REFUSED


def _sqlite_reads_whole(
    connection: sa.Connection, statement: sa.TextClause, bounds: dict[str, object]
) -> str | None:
    """Look for a table that is gone through, and not searched (sqlite.org/eqp.html)."""
    for *_, step in connection.execute(sa.text(f"explain query plan {statement.text}"), bounds):
        words = str(step).split()
        if words[0] == "SCAN" and "USING" not in words and not words[1].startswith("("):
            return words[1]
    return None


def _sqlite_tables(connection: sa.Connection, query: str, values: Mapping[str, object]) -> list[Table]:
    """Look up what the program of a query opens, by the first page of each table (sqlite.org/opcode.html)."""
    program = connection.execute(sa.text(f"explain {query}"), dict(values)).all()
    pages = [step.p2 for step in program if step.opcode == "OpenRead" and step.p3 == 0]
    found = connection.execute(SQLITE_TABLES, {"pages": pages}).scalars()
    return [
        Table(name, foreign=False, subscribed=False, materialised=False, filtered=False) for name in found
    ]


SQLITE_REUSED = sa.text(
    "select name from sqlite_master where type = 'table' and name in :names and sql not like '%autoincrement%'"
).bindparams(sa.bindparam("names", expanding=True))


def _sqlite_disordered(connection: sa.Connection, query: str, values: Mapping[str, object]) -> list[str]:
    """Look whether any table that a query reads keeps its ids from being dealt again (sqlite.org/autoinc.html)."""
    names = [table.name for table in _sqlite_tables(connection, query, values)]
    reused = set(connection.execute(SQLITE_REUSED, {"names": names}).scalars())
    if not names or not reused.issuperset(names):
        return []
    return [
        f"table {names[0]} deals the id of a deleted row again: declare its key `integer primary key autoincrement`"
    ]


SQLITE = Dialect(
    name="sqlite",
    engine=_sqlite_engine,
    begin=_begin_sqlite,
    # What CURRENT_TIMESTAMP and datetime() write. As text it sorts right against fractions and offsets behind it; a column
    # written with a `T` must be asked for as datetime(column).
    bound=lambda instant: f"{instant.astimezone(dt.UTC):%Y-%m-%d %H:%M:%S}",
    fault=_sqlite_fault,
    said=first_line,
    naive_is_utc=True,
    from_number="datetime(column, 'unixepoch')",
    kind=lambda _: None,  # each value has a type of its own
    reads_whole=_sqlite_reads_whole,
    tables=_sqlite_tables,
    stand_in=lambda *given: literal_rows(*given[2:]),
    one_writer=True,
    disordered=_sqlite_disordered,
)
