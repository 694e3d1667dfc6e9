"""What differs between databases: all of it, one `Dialect` per kind.

Rules
- Nothing is set for a session: every setting is local to the transaction, which is always rolled back, and statements are
  not prepared. So a pooler in transaction mode between us and Postgres changes nothing
  (pgbouncer.org/features.html, "SQL feature map for pooling modes").
- A Postgres query runs as `DECLARE ... CURSOR FOR` with bound values, which the server takes as one statement and as
  a SELECT only. READ ONLY alone is no fence: `select 1; commit; delete ...` leaves it.
- A SQLite query runs under an authorizer that allows reading and nothing else: a file opened read-only does not keep
  ATTACH and VACUUM INTO from writing another.
"""

import datetime as dt
import re
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import sqlalchemy as sa
from psycopg.adapt import Buffer, Loader
from psycopg.pq import Format
from sqlalchemy.exc import InvalidRequestError

from aggregator import clock
from aggregator.source.rows import OutOfRange

CONNECT_SECONDS = 10
LOCK_SECONDS = 5
"""A reader waits for a lock only behind a schema change; better to come back than to queue up in front of writers."""

IDLE_SECONDS = 60
"""How long a transaction may stand idle: a paused process must not keep a snapshot open in somebody's database."""

STEPS_BETWEEN_CHECKS = 20_000
"""How many steps SQLite takes between two looks at the clock: about a millisecond."""

OPENING = sa.text("""
select set_config('TimeZone', 'UTC', true),
       set_config('statement_timeout', :statement_timeout, true),
       set_config('lock_timeout', :lock_timeout, true),
       set_config('idle_in_transaction_session_timeout', :idle_timeout, true),
       -- A cursor is planned for its first tenth only, unless the server is told that all of it will be fetched.
       set_config('cursor_tuple_fraction', '1.0', true),
       -- A query whose client is gone stops within 2 s. Servers have this since version 14, and not on every platform.
       (select set_config(name, '2s', true) from pg_settings
         where name = 'client_connection_check_interval' and version() ~ 'linux'),
       current_setting('transaction_isolation') in ('repeatable read', 'serializable')
         and current_setting('transaction_read_only')::boolean as one_read_only_snapshot
""")


class Fault(Enum):
    """What a database's error means for whoever asked."""

    TRANSIENT = auto()  # it may pass by itself
    TIMED_OUT = auto()  # the statement timeout
    NOT_A_READ = auto()  # it was asked for something else than a read
    REFUSED = auto()  # the query or its data must change


Renew = Callable[[], None]
"""Called before each statement and each fetch: the statement timeout runs from there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """One kind of database."""

    name: str
    engine: Callable[[sa.URL, str], sa.Engine]
    """Make an engine from URL and application name. It connects when first used and keeps no idle connection."""
    begin: Callable[[sa.Connection, dt.timedelta], Renew]
    """Open the transaction in which everything is read, with the statement timeout."""
    bound: Callable[[dt.datetime], object]
    """The value that the driver compares correctly with an instant."""
    fault: Callable[[BaseException], Fault]
    said: Callable[[BaseException], str]
    """The database's own words on one line."""
    naive_is_utc: bool
    from_number: str
    """The SQL that makes an instant of epoch seconds."""
    cannot_promise: tuple[str, ...] = ()
    """What is not certain with this kind of database: one sentence each."""


def dialect_of(url: sa.URL) -> Dialect:
    """Return what is known of the kind of database a URL names."""
    match url.get_backend_name():
        case "postgresql" | "postgres":
            return POSTGRES
        case "sqlite":
            return SQLITE
        case other:
            return _unknown(other)


def _not_idle() -> None:
    """Do nothing: the server itself keeps the time."""


def _first_line(error: BaseException) -> str:
    return " ".join(str(error).split("\n", 1)[0].split()) or type(error).__name__


# Postgres


def _postgres_engine(url: sa.URL, application_name: str) -> sa.Engine:
    """Whatever driver the URL names, psycopg 3 is used: the rules above are its behaviour."""
    settings: dict[str, object] = {"application_name": application_name, "connect_timeout": CONNECT_SECONDS}
    engine = sa.create_engine(
        url.set(drivername="postgresql+psycopg"),
        poolclass=sa.NullPool,
        use_native_hstore=False,
        hide_parameters=True,
        connect_args={name: value for name, value in settings.items() if name not in url.query}
        | {"prepare_threshold": None},
    )
    sa.event.listen(engine, "connect", _tolerate_infinity)
    return engine


def _tolerate_infinity(connection: psycopg.Connection[Any], _: object) -> None:
    """Let an instant beyond Python's range arrive as such: psycopg would give up the whole fetch over it."""
    for name in ("timestamptz", "timestamp", "date"):
        oid = connection.adapters.types[name].oid
        plain = connection.adapters.get_loader(oid, Format.TEXT)
        assert plain is not None, f"psycopg reads {name}"
        connection.adapters.register_loader(oid, _tolerant(plain))


def _tolerant(plain: Callable[..., Any]) -> type[Loader]:
    class Tolerant(Loader):
        def __init__(self, oid: int, context: Any = None) -> None:
            super().__init__(oid, context)
            self._plain = plain(oid, context).load

        def load(self, data: Buffer) -> Any:
            try:
                return self._plain(data)
            except psycopg.DataError:
                return OutOfRange(bytes(data).decode())

    return Tolerant


def _begin_postgres(connection: sa.Connection, statement_timeout: dt.timedelta) -> Renew:
    connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
    opened = connection.execute(
        OPENING,
        {
            "statement_timeout": f"{max(1, statement_timeout // dt.timedelta(milliseconds=1))}ms",
            "lock_timeout": f"{LOCK_SECONDS}s",
            "idle_timeout": f"{IDLE_SECONDS}s",
        },
    ).one()
    if not opened.one_read_only_snapshot:
        raise InvalidRequestError("the server gives no read-only snapshot; connect to it without a proxy")
    return _not_idle


POSTGRES_TRANSIENT = {"08", "28", "3D", "40", "53", "55", "57", "58", "72", "F0", "XX"}
"""Classes of SQLSTATE that no change of the query would cure: connection, login, conflict with recovery or with others,
resources, locks, shutdown, disk (postgresql.org/docs/current/errcodes-appendix.html)."""

POSTGRES_NOT_A_READ = {"0A000", "25001", "25006", "42601"}
"""Refused by DECLARE CURSOR, by READ ONLY, or by the grammar: a write, several statements, or no SELECT at all."""


def _postgres_fault(error: BaseException) -> Fault:
    state = error.sqlstate if isinstance(error, psycopg.Error) else None
    if state is None:
        broken = isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
        return Fault.TRANSIENT if broken else Fault.REFUSED
    if state == "57014":
        return Fault.TIMED_OUT
    if state in POSTGRES_NOT_A_READ:
        return Fault.NOT_A_READ
    return Fault.TRANSIENT if state[:2] in POSTGRES_TRANSIENT else Fault.REFUSED


def _postgres_said(error: BaseException) -> str:
    """Our DECLARE takes the first line of what is sent, so the query's own first line is the server's second."""
    where = re.search(r"^LINE (\d+): (.*)$", str(error), re.MULTILINE)
    line = f" (line {int(where[1]) - 1}: {where[2].strip()})" if where else ""
    return _first_line(error) + line


POSTGRES = Dialect(
    name="postgresql",
    engine=_postgres_engine,
    begin=_begin_postgres,
    bound=lambda instant: instant,
    fault=_postgres_fault,
    said=_postgres_said,
    naive_is_utc=False,
    from_number="to_timestamp(column)",
)


# SQLite


def _sqlite_engine(url: sa.URL, _: str) -> sa.Engine:
    return sa.create_engine(
        "sqlite://",
        creator=partial(_open_file, Path(url.database or "").absolute()),
        poolclass=sa.NullPool,
        # By name, so that a parameter in a comment does not change their count.
        paramstyle="named",
        hide_parameters=True,
    )


def _open_file(path: Path) -> sqlite3.Connection:
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    connection = sqlite3.connect(
        f"{path.as_uri()}?mode=ro",
        uri=True,
        timeout=LOCK_SECONDS,
        isolation_level=None,  # we say BEGIN ourselves
        check_same_thread=False,  # a read may be given up by another thread than the one that began it
    )
    # Text that is not UTF-8 must not stop the fetch; its surrogates show it up as a customer key that is unusable.
    connection.text_factory = partial(str, encoding="utf-8", errors="surrogateescape")
    return connection


def _begin_sqlite(connection: sa.Connection, statement_timeout: dt.timedelta) -> Renew:
    driver = connection.connection.driver_connection
    assert isinstance(driver, sqlite3.Connection)
    deadline = _Deadline(statement_timeout.total_seconds())
    driver.set_progress_handler(deadline.has_passed, STEPS_BETWEEN_CHECKS)
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


def _only_reading(action: int, *_: object) -> int:
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


SQLITE = Dialect(
    name="sqlite",
    engine=_sqlite_engine,
    begin=_begin_sqlite,
    # What CURRENT_TIMESTAMP and datetime() write. As text it sorts right against fractions and offsets behind it; a column
    # written with a `T` must be asked for as datetime(column).
    bound=lambda instant: f"{instant.astimezone(dt.UTC):%Y-%m-%d %H:%M:%S}",
    fault=_sqlite_fault,
    said=_first_line,
    naive_is_utc=True,
    from_number="datetime(column, 'unixepoch')",
)


# Any other


def _unknown(name: str) -> Dialect:
    return Dialect(
        name=name,
        engine=lambda url, _: sa.create_engine(url, poolclass=sa.NullPool, hide_parameters=True),
        begin=lambda *_: _not_idle,
        bound=lambda instant: instant,
        fault=_unknown_fault,
        said=_first_line,
        naive_is_utc=False,
        from_number="a conversion to a timestamp with time zone",
        cannot_promise=(
            f"{name}: the queries of one span may see different states; return `window`, so that it is one query.",
            f"{name}: no statement timeout is set; set one for the role.",
            f"{name}: nothing but the role's privileges keeps a query from writing.",
            f"{name}: the session's time zone is not set; compare instants that carry one.",
            f"{name}: the driver may hold a whole result in memory.",
            f"{name}: a mistake in a query may be taken for trouble that passes by itself.",
        ),
    )


def _unknown_fault(error: BaseException) -> Fault:
    """Go by the names that every driver shares (PEP 249)."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return Fault.TRANSIENT if names & {"OperationalError", "InterfaceError"} else Fault.REFUSED
