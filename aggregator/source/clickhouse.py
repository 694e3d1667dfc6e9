"""ClickHouse: sessions, settings, and what its errors mean. clickhouse_session.py asks.

Rules
- It has no transactions, so every query sees another state: what takes several is refused (`snapshot`).
- Settings go along with each request, and are asked back before anything else: the session is in UTC and reads only.
- A DateTime is an instant, whatever zone it is shown in: it arrives as one
  (clickhouse.com/docs/sql-reference/data-types/datetime).
- No result is cut short: limits of a profile that end a query early without an error are set to be errors.
"""

import datetime as dt
import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine.default import DefaultDialect
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.sql.compiler import SQLCompiler

from aggregator.source import clickhouse_grants
from aggregator.source.clickhouse_session import (
    MARK,
    Connection,
    NotARead,
    Stopped,
    Unfit,
    unwrapped,
)
from aggregator.source.clickhouse_text import line_of_the_user
from aggregator.source.dialects import Dialect, Fault, Reading, Renew, first_line, not_idle
from aggregator.source.stopping import stop_with

CONNECT_SECONDS = 10

PATIENCE_SECONDS = 10
"""How much longer than its statement timeout a server may say nothing."""

OPTIONS = ("secure", "verify", "ca_cert", "client_cert", "client_cert_key", "server_host_name")
"""What a URL may set: how to connect, and nothing of what a query means (clickhouse.com/docs/integrations/python)."""

TRUE = {"1", "true", "yes", "on"}

MUST = {"session_timezone": "UTC", "readonly": "2", "join_use_nulls": "1", "prefer_column_name_to_alias": "1"}
"""What a read is wrong without: a join without a match gives NULL and not 0, and a name in WHERE is the column's and not
that of what is returned under the same name (clickhouse.com/docs/operations/settings/settings)."""

THROW = (
    "distinct_overflow_mode",
    "group_by_overflow_mode",
    "join_overflow_mode",
    "read_overflow_mode",
    "read_overflow_mode_leaf",
    "result_overflow_mode",
    "set_overflow_mode",
    "sort_overflow_mode",
    "timeout_overflow_mode",
    "timeout_overflow_mode_leaf",
    "transfer_overflow_mode",
)
"""What is done at a limit: `break` and `any` give part of a result
(clickhouse.com/docs/operations/settings/query-complexity)."""

WHOLE = {
    **dict.fromkeys(THROW, "throw"),
    "date_time_overflow_behavior": "throw",  # else an instant that does not fit becomes another one
    "limit": "0",
    "offset": "0",
    "skip_unavailable_shards": "0",
    "use_query_cache": "0",
}
"""What would let a result be another one without a word, where a profile sets it. Older servers lack some."""

TIMEOUT = "max_execution_time"
OURS = (*MUST, *THROW, TIMEOUT, "date_time_overflow_behavior")
"""What no query may set for itself."""

# The client warns of each error that it raises as well.
logging.getLogger("clickhouse_connect").addHandler(logging.NullHandler())
logging.getLogger("clickhouse_connect").propagate = False


class Compiler(SQLCompiler):
    """Marks values, so that each is bound with its type."""

    def bindparam_string(self, name: str, *values: Any, **options: Any) -> str:
        """Return a mark in place of a value."""
        return f"{MARK}{super().bindparam_string(name, *values, **options).removeprefix(':')}{MARK}"


class SqlDialect(DefaultDialect):
    """What SQLAlchemy has to know of ClickHouse for text with bound values and plain selects."""

    name = driver = "clickhouse"
    supports_statement_cache = True
    default_paramstyle = "named"
    statement_compiler = Compiler

    @classmethod
    def import_dbapi(cls) -> Any:
        """Return the driver. Raises ImportError with what to install."""
        try:
            import clickhouse_connect.dbapi
        except ImportError as error:
            raise ImportError(f"{error}: `pip install 'usage-aggregator[clickhouse]'`") from None
        return clickhouse_connect.dbapi

    def initialize(self, connection: sa.Connection) -> None:
        """Ask nothing: all that is needed is known."""

    def get_table_names(self, connection: sa.Connection, schema: str | None = None, **_: Any) -> list[str]:
        """Return the tables of a database."""
        return list(connection.scalars(TABLES, {"schema": schema or "", "views": 0}))

    def get_view_names(self, connection: sa.Connection, schema: str | None = None, **_: Any) -> list[str]:
        """Return the views of a database."""
        return list(connection.scalars(TABLES, {"schema": schema or "", "views": 1}))

    def get_columns(
        self, connection: sa.Connection, table_name: str, schema: str | None = None, **_: Any
    ) -> Any:
        """Return the columns of a table or view, with their types as far as they say what a column may mean."""
        return [
            {"name": name, "type": _reflected(unwrapped(kind)), "nullable": True, "default": None}
            for name, kind, _ in connection.execute(COLUMNS, {"name": table_name, "schema": schema or ""})
        ]

    def get_indexes(
        self, connection: sa.Connection, table_name: str, schema: str | None = None, **_: Any
    ) -> Any:
        """Return the columns by which parts of a table are left out: those of its key and of its partitions."""
        return [
            {"name": name, "column_names": [name], "unique": False}
            for name, _, prunes in connection.execute(COLUMNS, {"name": table_name, "schema": schema or ""})
            if prunes
        ]

    def get_pk_constraint(self, *_: Any, **__: Any) -> Any:
        """No column of a table is told apart from all others."""
        return {"constrained_columns": [], "name": None}

    def get_foreign_keys(self, *_: Any, **__: Any) -> Any:
        """There are none."""
        return []


TABLES = sa.text("""
select name from system.tables
 where database = if(:schema = '', currentDatabase(), :schema) and (engine like '%View') = (:views = 1) order by name
""")
COLUMNS = sa.text("""
select name, type, toUInt8(is_in_partition_key or is_in_primary_key) from system.columns
 where database = if(:schema = '', currentDatabase(), :schema) and table = :name order by position
""")


def _reflected(kind: str) -> Any:
    """Return SQLAlchemy's type for one of ClickHouse's; NullType for what is none of text, number or instant."""
    if kind.startswith("DateTime"):
        return sa.DateTime(timezone=True)
    if kind.startswith("Float"):
        return sa.Double()
    if kind.startswith(("String", "FixedString", "Enum")):
        return sa.String()
    return sa.Numeric() if kind.startswith(("Decimal", "Int", "UInt")) else sa.types.NullType()


sa.dialects.registry.register("aggregator_clickhouse", __name__, "SqlDialect")


# Connections


def _engine(url: sa.URL, application_name: str) -> sa.Engine:
    arguments = _arguments(url)
    engine = sa.create_engine(
        "aggregator_clickhouse://",
        paramstyle="named",
        creator=lambda: Connection(_client(arguments, application_name), OURS),
        poolclass=sa.NullPool,
        hide_parameters=True,
    )
    stop_with(engine, Connection.stop)
    return engine


def _arguments(url: sa.URL) -> dict[str, Any]:
    """Return what the client takes of a URL. Raises OSError for what it cannot mean."""
    options = {name: value for name, value in url.query.items() if isinstance(value, str)}
    for name in url.query:
        if name not in OPTIONS:
            raise OSError(f"a ClickHouse URL takes the options {', '.join(OPTIONS)}, and not `{name}`")
    secure = url.get_backend_name() == "clickhouses" or options.pop("secure", "").lower() in TRUE
    options.pop("secure", None)
    return {
        "host": url.host or "localhost",
        "port": url.port or (8443 if secure else 8123),
        "username": url.username or "default",
        "password": url.password or "",
        "database": url.database or None,
        "interface": "https" if secure else "http",
        **options,
    }


def _client(arguments: Mapping[str, Any], application_name: str) -> Any:
    import clickhouse_connect

    return clickhouse_connect.get_client(
        **arguments,
        client_name=application_name,
        connect_timeout=CONNECT_SECONDS,
        autogenerate_session_id=False,  # a session on the server takes one query at a time, and outlives us
        autogenerate_query_id=False,
        show_clickhouse_errors="scrub",  # the server's words, and not its address and version
        tz_mode="aware",
        tz_source="server",
        dedicated_pool=True,
        query_retries=0,
    )


ASKED_BACK = "select timezone(), getSetting('readonly'), getSetting('join_use_nulls')"


def _begin(connection: sa.Connection, reading: Reading) -> Renew:
    driver = connection.connection.driver_connection
    assert isinstance(driver, Connection)
    client = driver.client
    seconds = reading.statement_timeout.total_seconds()
    for name, value in {**MUST, **WHOLE, TIMEOUT: f"{seconds:.3f}"}.items():
        _set(client, name, value)
    client.timeout = type(client.timeout)(connect=CONNECT_SECONDS, read=seconds + PATIENCE_SECONDS)
    [(zone, reads_only, nulls)] = client.query(ASKED_BACK).result_rows
    if zone != "UTC" or not nulls or int(reads_only) not in {1, 2}:
        raise Unfit(
            "the server gives no read-only session in UTC; connect to it without a proxy that drops settings"
        )
    return not_idle


def _set(client: Any, name: str, value: str) -> None:
    """Have a setting go along with each request, unless it is so in any case."""
    known = client.server_settings.get(name)
    if known is None:
        if name in MUST:
            raise Unfit(
                f"ClickHouse {client.server_version} does not know `{name}`: version 23.6 or later is needed"
            )
        return
    if known.value == value or (name == "readonly" and known.value == "1"):
        return
    if known.readonly and (name != TIMEOUT or not 0 < float(known.value) <= float(value)):
        raise Unfit(
            f"the user may not set `{name}`, which is {known.value or 'not set'} and must be {value}: give its profile "
            "`readonly = 2`, which lets a session that only reads have its settings, or that very value"
        )
    if not known.readonly:
        client.set_client_setting(name, value)


# Errors

TIMED_OUT = {159, 160}
NOT_A_READ = {164}
TRANSIENT = {
    *(202, 203, 241, 243, 439, 745),  # load, memory, disk
    *(198, 209, 210, 279, 32, 95, 96, 1000, 425, 499),  # networks, and what lies behind a server
    *(192, 193, 194, 201, 516),  # a login, which somebody is about to change, and a quota
    *(
        216,
        225,
        236,
        369,
        373,
        394,
        999,
    ),  # what others do: a query that was killed, a replica or its keeper that is away
}
"""What no change of the query would cure (github.com/ClickHouse/ClickHouse: src/Common/ErrorCodes.cpp)."""


def _fault(error: BaseException) -> Fault:
    if isinstance(error, NotARead):
        return Fault.NOT_A_READ
    if isinstance(error, Unfit):
        return Fault.REFUSED
    if isinstance(error, Stopped):
        return Fault.TRANSIENT
    code = getattr(error, "code", None)
    if isinstance(code, int):
        if code in TIMED_OUT:
            return Fault.TIMED_OUT
        if code in NOT_A_READ:
            return Fault.NOT_A_READ
        return Fault.TRANSIENT if code in TRANSIENT else Fault.REFUSED
    names = [kind.__name__ for kind in type(error).__mro__]
    if (
        "OperationalError" in names or names[0] == "DatabaseError"
    ):  # no answer of ClickHouse: a proxy's, or none at all
        return Fault.TRANSIENT
    known = isinstance(error, SQLAlchemyError | UnicodeError) or "ClickHouseError" in names
    return Fault.REFUSED if known else Fault.UNEXPECTED


LONGEST = 400
BEFORE_ITS_WORDS = re.compile(r"^.*?DB::Exception: (?:Code: \d+\. DB::Exception: )?", re.DOTALL)
HINTS = {
    497: '; grant it: docs/engines.md, "ClickHouse"',
    241: "; raise `max_memory_usage` for its user, or let the query return less",
}


def _said(error: BaseException) -> str:
    """Return the server's words with its number, without what the client puts before them."""
    code = getattr(error, "code", None)
    if code is None:
        return first_line(error)
    words = " ".join(line_of_the_user(BEFORE_ITS_WORDS.sub("", str(error))).split())
    short = words if len(words) <= LONGEST else f"{words[:LONGEST]}..."
    return f"{short} ({code}){HINTS.get(code, '')}"


# What its types are


KINDS = {
    "bool": "bool",
    "float32": "float32",
    "float64": "float64",
    "string": "varchar",
    "fixedstring": "varchar",
    "date": "date",
    "date32": "date",
    "datetime": "timestamptz",
    "datetime64": "timestamptz",
    "uuid": "uuid",
    "json": "json",
}
"""ClickHouse's types by the names that a trial knows them by: a DateTime is an instant."""


def _kind(code: object) -> str | None:
    name = unwrapped(str(code)).partition("(")[0].lower()
    if name.startswith(("int", "uint")) and name.lstrip("uint").isdigit():
        return "int8"
    if name.startswith("decimal"):
        return "numeric"
    return KINDS.get(name, name)


def _literal(instant: dt.datetime) -> str:
    """Return an instant as it is pasted: a literal that carries its zone."""
    return f"toDateTime64('{instant.astimezone(dt.UTC):%Y-%m-%d %H:%M:%S}', 6, 'UTC')"


def _stand_in(
    connection: sa.Connection, table: str, columns: Sequence[str], rows: Sequence[Mapping[str, object]]
) -> str:
    """Return a select of rows, each value made what its column's type makes of its text; one left out is its default."""
    found = connection.execute(sa.text(f"select * from {table} where 1 = 0"))  # noqa: S608 - a name, of the file
    kinds = {column[0]: str(column[1]) for column in found.cursor.description}
    found.close()
    given = rows or [{}]
    selects = (
        ", ".join(f"{_given(row.get(name), kinds[name])} as {_quoted(name)}" for name in columns)
        for row in given
    )
    return "\nunion all ".join(f"select {each}" for each in selects) + ("" if rows else " where 1 = 0")


def _given(value: object, kind: str) -> str:
    if value is None:
        return f"defaultValueOfTypeName({_text(kind)})"
    text = _text(str(value))
    if unwrapped(kind).startswith("DateTime"):
        text = f"parseDateTime64BestEffort({text}, 6, 'UTC')"
    return f"cast({text}, {_text(kind)})"


def _text(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _quoted(name: str) -> str:
    return "`" + name.replace("\\", "\\\\").replace("`", "\\`") + "`"


READ = re.compile(r"ReadFromMergeTree \((?P<table>[^)]+)\)(?P<how>.*?)(?=ReadFrom|\Z)", re.DOTALL)


def _reads_whole(
    connection: sa.Connection, statement: sa.TextClause, bounds: dict[str, object]
) -> str | None:
    """Look for a table of which no part is left out by its key or its partitions, as the plan says
    (clickhouse.com/docs/sql-reference/statements/explain)."""
    asked = sa.text(f"select explain from (explain indexes = 1 {statement.text})")  # noqa: S608 - the user's own text
    plan = "\n".join(map(str, connection.scalars(asked, bounds)))
    for found in READ.finditer(plan):
        conditions = re.findall(r"Condition: (.*)", found["how"])
        if all(each.strip() == "true" for each in conditions):
            return found["table"]
    return None


CLICKHOUSE = Dialect(
    name="clickhouse",
    engine=_engine,
    begin=_begin,
    bound=lambda instant: instant,
    fault=_fault,
    said=_said,
    naive_is_utc=False,
    from_number="toDateTime(column, 'UTC')",
    zoned="a DateTime (`toDateTime({column}, 'UTC')`)",
    kind=_kind,
    least=dt.timedelta(microseconds=1),
    literal=_literal,
    reads_whole=_reads_whole,
    stand_in=_stand_in,
    unsafe=clickhouse_grants.unsafe,
    limits=clickhouse_grants.limits,
    extra="clickhouse",
    snapshot=False,
    cannot_promise=(
        "clickhouse: the queries of one span may see different states; what takes several is refused, so return `window`.",
        "clickhouse: arithmetic on integers goes round without an error, as in `a * b`. Sums that may are refused.",
    ),
)
