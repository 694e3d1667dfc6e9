"""MySQL and MariaDB: sessions, settings, and what their errors mean. mysql_session.py asks, mysql_grants.py looks at grants.

Rules
- Both have no settings of a transaction, so they are the session's. It is ours alone, and ends with the read.
- START TRANSACTION READ ONLY lets CREATE and DROP through. SET SESSION TRANSACTION READ ONLY does not, MyISAM's tables
  included (mariadb.com/kb/en/set-transaction/).
- A TIMESTAMP is an instant, which a session in UTC shows in UTC: it comes out as such. A DATETIME says of no zone
  (dev.mysql.com/doc/refman/8.4/en/datetime.html): it comes out without one, and is UTC only by declaration.
"""

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.exc import InvalidRequestError, SQLAlchemyError

from aggregator.source import mysql_grants
from aggregator.source.dialects import LOCK_SECONDS, Dialect, Fault, Reading, Renew, first_line, not_idle
from aggregator.source.mysql_session import WARNED, Altered, BrokenOff, NotARead, Session, Sessions
from aggregator.source.mysql_text import table_named
from aggregator.source.rows import OutOfRange
from aggregator.source.stand_ins import hexadecimal_json

CONNECT_SECONDS = 10

IDLE_SECONDS = 60
"""How long a session may stand idle, or not take what it is sent: a paused process must not keep a snapshot open."""

NO_LIMIT = 2**64 - 1
"""What `sql_select_limit` is where nothing is set: less would cut results off without a word."""


class Driver(NamedTuple):
    """One of the drivers that are understood, by SQLAlchemy's name for it."""

    package: str
    options: Callable[[str], dict[str, object]]
    """How it connects, beside what the URL says, with an application name."""


def _pymysql(application: str) -> dict[str, object]:
    from pymysql.converters import conversions

    return {"charset": "utf8mb4", "program_name": application, "conv": {**conversions, **INSTANTS}}


def _mysqlclient(_: str) -> dict[str, object]:
    from MySQLdb.converters import conversions

    # It allows several statements unless told otherwise, and lets a server ask for files of this host.
    return {
        "charset": "utf8mb4",
        "multi_statements": False,
        "local_infile": False,
        "conv": {**conversions, **INSTANTS},
    }


def _connector(_: str) -> dict[str, object]:
    return {"local_infile": False, "converter": INSTANTS}


DRIVERS = {
    "pymysql": Driver("'usage-aggregator[mysql]'", _pymysql),
    "mysqldb": Driver("mysqlclient", _mysqlclient),
    "mariadbconnector": Driver("mariadb", _connector),
}
DEFAULT_DRIVER = "pymysql"


def _mysql_engine(url: sa.URL, application_name: str) -> sa.Engine:
    """Any driver but those that are understood is replaced by PyMySQL, which a URL without one means, too.

    SQLAlchemy's dialect of MariaDB refuses MySQL, while that of MySQL asks which of the two it is: so it is always that.
    """
    name = url.get_driver_name() if "+" in url.drivername else DEFAULT_DRIVER
    driver = DRIVERS.get(name, DRIVERS[DEFAULT_DRIVER])
    known = name if name in DRIVERS else DEFAULT_DRIVER
    try:
        options = {"connect_timeout": CONNECT_SECONDS, **driver.options(application_name)}
        engine = sa.create_engine(
            url.set(drivername=f"mysql+{known}"),
            poolclass=sa.NullPool,
            hide_parameters=True,
            connect_args={option: value for option, value in options.items() if option not in url.query},
        )
    except ImportError as error:
        raise ImportError(f"{error}; `pip install {driver.package}`, then restart") from None
    sessions = Sessions()

    def connect(dialect: Any, _: object, arguments: Any, options: Any) -> Session:
        return sessions.connect(partial(dialect.dbapi.connect, *arguments, **options))

    sa.event.listen(engine, "do_connect", connect)
    sa.event.listen(engine, "engine_disposed", lambda _: sessions.stop())
    return engine


# Instants


def _instant(value: Any) -> object:
    """Return a TIMESTAMP as drivers have it, as text or as an instant without a zone: it is UTC in our sessions."""
    found = _local(value)
    return found.replace(tzinfo=dt.UTC) if isinstance(found, dt.datetime) else found


def _local(value: Any, kind: type[dt.date] = dt.datetime) -> object:
    """Return a DATETIME, or a DATE. '0000-00-00' is one to the server; to Python it is out of range."""
    if value is None or isinstance(value, kind):
        return value
    text = value.decode() if isinstance(value, bytes) else str(value)
    try:
        return kind.fromisoformat(text)
    except ValueError:
        return OutOfRange(text)


def _day(value: Any) -> object:
    return _local(value, dt.date)


KINDS = {
    0: "numeric",
    1: "tinyint",
    2: "int2",
    3: "int4",
    4: "float4",
    5: "double",
    7: "timestamptz",
    8: "int8",
    9: "int4",
    10: "date",
    11: "time",
    12: "datetime",
    13: "int2",
    16: "bytea",
    245: "json",
    246: "numeric",
    249: "text",
    250: "text",
    251: "text",
    252: "text",
    253: "varchar",
    254: "varchar",
}
"""The types of columns in the protocol (dev.mysql.com/doc/dev/mysql-server/latest/field__types_8h.html), by the names that
the trial of a query knows. A TIMESTAMP is an instant here: what Postgres calls `timestamptz`."""

INSTANTS = {7: _instant, 10: _day, 12: _local}
"""What makes a value of a column of a type."""


def _bound(instant: dt.datetime) -> str:
    """Return an instant as text: each of the drivers sends an instant as text in any case, and drops its zone."""
    return instant.astimezone(dt.UTC).replace(tzinfo=None).isoformat(sep=" ")


# The snapshot

WHO = sa.text("select version(), connection_id()")

SETTINGS = {
    "time_zone": "+00:00",
    "net_write_timeout": IDLE_SECONDS,
    "wait_timeout": IDLE_SECONDS,
    "lock_wait_timeout": LOCK_SECONDS,
    "sql_select_limit": NO_LIMIT,
    "sql_auto_is_null": 0,  # else `id is null` finds the row that was inserted last
}
"""What a read relies on, whatever is set for the server (mariadb.com/kb/en/server-system-variables/)."""

KEPT = "max_error_count"
"""How many warnings are kept of a statement. Anybody may set that in MariaDB; in MySQL it takes a privilege
(dev.mysql.com/doc/refman/9.7/en/server-system-variables.html#sysvar_max_error_count), so there it must do as it is."""

NORMAL = 1024
"""What MySQL keeps where nothing is set."""

MODE = sa.text("""
set session sql_mode = replace(replace(@@session.sql_mode, 'PAD_CHAR_TO_FULL_LENGTH', ''), 'TIME_ROUND_FRACTIONAL', '')
""")
"""What would give keys of type CHAR blanks behind them, and move instants into the next second. Other modes stay as they are
set: a query is written for them."""


def _begin_mysql(connection: sa.Connection, reading: Reading) -> Renew:
    version, number = connection.execute(WHO).one()
    maria = "mariadb" in version.lower()
    seconds = reading.statement_timeout.total_seconds()
    limit = ("max_statement_time", seconds) if maria else ("max_execution_time", max(1, int(seconds * 1000)))
    settings = {**SETTINGS, **dict([limit])}
    if maria:
        settings[KEPT] = WARNED
    names = ", ".join(f"session {name} = :{name}" for name in settings)
    connection.execute(sa.text(f"set {names}"), settings)
    connection.execute(MODE)
    connection.execute(sa.text("set session transaction isolation level repeatable read, read only"))
    connection.execute(sa.text("start transaction with consistent snapshot, read only"))
    read_only = "@@session.tx_read_only" if maria else "@@session.transaction_read_only"
    opened = connection.execute(
        sa.text(
            f"select {read_only}, @@session.time_zone, @@session.sql_mode, connection_id(), @@session.{KEPT}"
        )
    ).one()
    if not opened[0] or opened[1] != SETTINGS["time_zone"] or opened[3] != number:
        raise InvalidRequestError(
            "the server gives no read-only session in UTC; connect to it without a proxy"
        )
    if opened[4] < WARNED:
        raise InvalidRequestError(
            f"the server keeps {opened[4]} warnings of a query, so a number that was cut to fit its type would go "
            f"unnoticed: `set persist {KEPT} = {NORMAL}`"
        )
    session = connection.connection.dbapi_connection
    assert isinstance(session, Session)
    session.begun(number, backslashes="NO_BACKSLASH_ESCAPES" not in opened[2], unsigned=maria)
    return not_idle


# Errors

TIMED_OUT = {
    1317,  # KILL QUERY: by an administrator, or by what some servers have for a timeout
    1969,  # max_statement_time
    3024,  # max_execution_time
}
NOT_A_READ = {1290, 1792, 1836}
"""Refused as the transaction, or the server, is read-only."""

TRANSIENT = {
    *(1021, 1028, 1030, 1037, 1038, 1041),  # disk and memory
    *(
        1040,
        1042,
        1043,
        1047,
        1053,
        1077,
        1079,
        1129,
        1130,
        1135,
        1158,
        1159,
        1160,
        1161,
        1203,
        1226,
    ),  # connections
    *(1044, 1045, 1049, 1698, 1862, 4151),  # a login, which somebody is about to change or to grant
    *(1205, 1213, 1412, 1637, 1927, 3159, 4031),  # others who change what is read, or end the session
}
"""What no change of the query would cure (mariadb.com/kb/en/mariadb-error-code-reference/)."""

OF_THE_CLIENT = range(2000, 3000)
"""Errors that the driver makes itself: no connection, or one that broke off."""


def _number(error: BaseException) -> int | None:
    """Return the server's number of an error, wherever a driver keeps it."""
    for found in (getattr(error, "errno", None), *error.args[:1]):
        if isinstance(found, int) and not isinstance(found, bool):
            return found
    return None


def _mysql_fault(error: BaseException) -> Fault:
    if isinstance(error, NotARead):
        return Fault.NOT_A_READ
    if isinstance(error, Altered):
        return Fault.REFUSED
    number = _number(error)
    known = {kind.__name__ for kind in type(error).__mro__} & {"Error", "SQLAlchemyError", BrokenOff.__name__}
    if number is None or not known:
        if isinstance(error, SQLAlchemyError | UnicodeError):
            return Fault.REFUSED
        return Fault.TRANSIENT if known else Fault.UNEXPECTED
    if number in TIMED_OUT:
        return Fault.TIMED_OUT
    if number in NOT_A_READ:
        return Fault.NOT_A_READ
    return Fault.TRANSIENT if number in TRANSIENT or number in OF_THE_CLIENT or not number else Fault.REFUSED


def _mysql_said(error: BaseException) -> str:
    """Return the server's words and its number. It counts lines from the first with text, which is the query's own."""
    number = _number(error)
    words = next((each for each in reversed(error.args) if isinstance(each, str)), None)
    if number is None or words is None:
        return first_line(error)
    return f"{' '.join(words.split())} ({number})"


def _mysql_reads_whole(
    connection: sa.Connection, statement: sa.TextClause, bounds: dict[str, object]
) -> str | None:
    """Look for a table of which all is read and filtered, and for which no index was ever considered.

    The form is named, as MySQL 9 draws a tree if it is not.
    """
    for step in connection.execute(
        sa.text(f"explain format=traditional {statement.text}"), bounds
    ).mappings():
        whole = step["type"] in {"ALL", "index"} and "Using where" in (step["Extra"] or "")
        if whole and not step["possible_keys"] and not step["table"].startswith("<"):
            return table_named(statement.text, step["table"])
    return None


def _mysql_stand_in(
    connection: sa.Connection, table: str, _: Sequence[str], rows: Sequence[Mapping[str, object]]
) -> str:
    """Let each value be what its column's type makes of it (mariadb.com/kb/en/json_table/)."""
    columns = ", ".join(
        f"`{each.Field}` {each.Type} path '$.\"{each.Field}\"'"
        for each in connection.execute(sa.text(f"show columns from {table}"))
    )
    return f"select * from json_table(convert({hexadecimal_json(rows)} using utf8mb4), '$[*]' columns ({columns})) as given"  # noqa: S608


MYSQL = Dialect(
    name="mysql",
    engine=_mysql_engine,
    begin=_begin_mysql,
    bound=_bound,
    fault=_mysql_fault,
    said=_mysql_said,
    naive_is_utc=False,
    from_number="from_unixtime(column)",
    zoned="a column of type TIMESTAMP, or text that names UTC (`date_format({column}, '%Y-%m-%dT%H:%i:%sZ')`)",
    kind=lambda code: KINDS.get(code) if isinstance(code, int) else None,
    least=dt.timedelta(microseconds=1),
    reads_whole=_mysql_reads_whole,
    stand_in=_mysql_stand_in,
    unsafe=mysql_grants.unsafe,
    limits=mysql_grants.limits,
)
