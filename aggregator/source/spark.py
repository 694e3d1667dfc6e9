"""Spark SQL: what a session relies on, and what its errors mean. spark_session.py asks, spark_text.py looks at texts.

Rules
- A server of Spark is its HiveThriftServer2 (spark.apache.org/docs/latest/sql-distributed-sql-engine.html). It has no
  transactions and no session that may only read: each query sees the tables as they are when it begins.
- The session is in UTC whatever zone the server is in, errors are errors and not NULL (ANSI), a product keeps its decimal
  places or is refused, and a file that is gone or broken is an error.
- Rows are collected as they are fetched, in the server as well.
"""

import datetime as dt
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any
from weakref import WeakSet

import sqlalchemy as sa
from sqlalchemy.engine.default import DefaultDialect
from sqlalchemy.exc import InvalidRequestError, SQLAlchemyError
from sqlalchemy.sql.compiler import IdentifierPreparer

from aggregator.source.dialects import Dialect, Fault, Reading, Renew, first_line, not_idle
from aggregator.source.spark_session import (
    Address,
    NotARead,
    ServerError,
    Session,
    Stopped,
    TooSlow,
    literal,
    quoted,
)

PORT = 10_000

MECHANISMS = ("PLAIN", "LDAP", "NOSASL", "GSSAPI")
OPTIONS = ("auth", "ssl", "ca_cert", "kerberos_service_name")
"""What a URL may set."""

SETTINGS = {
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.ansi.enabled": "true",
    "spark.sql.decimalOperations.allowPrecisionLoss": "false",
    "spark.sql.files.ignoreMissingFiles": "false",
    "spark.sql.files.ignoreCorruptFiles": "false",
    "spark.sql.thriftServer.incrementalCollect": "true",
}
"""What a read relies on, whatever is set for the server (spark.apache.org/docs/latest/configuration.html#spark-sql)."""


class SqlDialect(DefaultDialect):
    """What SQLAlchemy has to know of Spark for text with bound values and plain selects."""

    name = driver = "spark"
    supports_statement_cache = True
    default_paramstyle = (
        "pyformat"  # it doubles each per cent sign of a text, so that no text is taken for a value
    )

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.identifier_preparer = IdentifierPreparer(self, initial_quote="`")

    @classmethod
    def import_dbapi(cls) -> Any:
        """Return the driver. Raises ImportError."""
        from impala import dbapi

        return dbapi

    def initialize(self, connection: sa.Connection) -> None:
        """Ask nothing: all that is needed is known."""

    def get_table_names(self, connection: sa.Connection, schema: str | None = None, **_: Any) -> list[str]:
        """Return the tables of a schema, views among them."""
        where = f" in {quoted(schema)}" if schema else ""
        return [str(row[1]) for row in _session(connection).ask(f"show tables{where}")]

    def get_view_names(self, *_: Any, **__: Any) -> list[str]:
        """Return none: they are named with the tables."""
        return []

    def get_columns(
        self, connection: sa.Connection, table_name: str, schema: str | None = None, **_: Any
    ) -> Any:
        """Return the columns of a table or view, with their types as far as they say what a column may mean."""
        table = ".".join(quoted(each) for each in (schema, table_name) if each)
        return [
            {"name": name, "type": _reflected(kind), "nullable": True, "default": None}
            for name, kind in _session(connection).described(f"select * from {table}")  # noqa: S608 - a name, in quotes
        ]

    def get_foreign_keys(self, *_: Any, **__: Any) -> Any:
        """Return none: there are none."""
        return []


sa.dialects.registry.register("aggregator_spark", __name__, "SqlDialect")


def _reflected(kind: str) -> Any:
    """Return SQLAlchemy's type for one of Spark's; NullType for what is none of text, number or instant."""
    match kind.partition("(")[0]:
        case "timestamp" | "timestamp_ltz" | "timestamp_ntz":
            return sa.DateTime(timezone=not kind.endswith("ntz"))
        case "float" | "double":
            return sa.Double()
        case "decimal" | "tinyint" | "smallint" | "int" | "bigint":
            return sa.Numeric()
        case "string" | "varchar" | "char":
            return sa.String()
    return sa.types.NullType()


def _engine(url: sa.URL, _: str) -> sa.Engine:
    address = _address(url)
    opened: WeakSet[Session] = WeakSet()

    def connect() -> Session:
        session = Session(address, SETTINGS, url.database)
        opened.add(session)
        return session

    engine = sa.create_engine(
        "aggregator_spark://",
        creator=connect,
        poolclass=sa.NullPool,
        hide_parameters=True,
    )

    def stop(_: sa.Engine) -> None:
        for each in list(opened):
            each.stop()

    sa.event.listen(engine, "engine_disposed", stop)
    return engine


def _address(url: sa.URL) -> Address:
    """Return where the server is. Raises OSError for a URL that does not say it."""
    options = {name: value for name, value in url.query.items() if isinstance(value, str)}
    for name in url.query:
        if name not in OPTIONS:
            raise OSError(
                f"the URL of a Spark server takes the options {', '.join(OPTIONS)}, and not `{name}`"
            )
    mechanism = options.get("auth", "PLAIN").upper()
    if mechanism not in MECHANISMS:
        raise OSError(f"the option `auth` of a Spark URL is one of {', '.join(MECHANISMS)}")
    if not url.host:
        raise OSError("the URL of a Spark server names its host: spark://reader@host:10000/schema")
    ca_cert = options.get("ca_cert")
    return Address(
        host=url.host,
        port=url.port or PORT,
        user=url.username or "aggregator",
        password=url.password,
        mechanism=mechanism,
        ssl=ca_cert is not None or options.get("ssl", "false").lower() in {"true", "1"},
        ca_cert=ca_cert,
        kerberos_service=options.get("kerberos_service_name", "hive"),
    )


def _session(connection: sa.Connection) -> Session:
    session = connection.connection.driver_connection
    assert isinstance(session, Session)
    return session


def _begin(connection: sa.Connection, reading: Reading) -> Renew:
    session = _session(connection)
    seconds = reading.statement_timeout.total_seconds()
    session.begin(seconds)
    # So that the server stops by itself what nobody waits for any more, for whatever reason.
    session.ask(f"set spark.sql.thriftServer.queryTimeout={math.ceil(seconds)}s")
    [[_, ansi]] = session.ask("set spark.sql.ansi.enabled")
    [[zone]] = session.ask("select current_timezone()")
    if (zone, ansi) != ("UTC", "true"):
        raise InvalidRequestError(
            "the server gives no session in UTC with ANSI on; connect to it without a proxy"
        )
    return not_idle


# What errors mean

STATE = re.compile(r"SQLSTATE: (?P<state>[0-9A-Z]{5})(?P<place>;? ?\(?line \d+,? pos \d+\)?)?")
NAMED = re.compile(r"\[[A-Z][A-Z0-9_]*(?:\.[A-Z0-9_]+)*\] ")
PLACE = re.compile(r"line (\d+),? pos \d+")

MISTAKES = ("07", "0A", "21", "22", "2F", "38", "39", "42", "54", "P0")
"""Classes of SQLSTATE that no other attempt would cure: the query or its data must change
(spark.apache.org/docs/latest/sql-error-conditions-sqlstates.html)."""

BYPASS = re.compile(
    r" ?(?:Use [`']try_\w+[`'][^.]*\.|If necessary set \"spark\.sql\.ansi\.enabled\"[^.]*\"false\"[^.]*\.)"
)
"""Spark's advice to let what does not fit become NULL, which would be usage that nobody is billed for."""

TOO_LARGE = "22003"

LONGEST = 400

CAST = "; add up a wider type, `sum(cast(... as decimal(38, 0)))`, or one with fewer decimal places"


def _state(error: ServerError) -> str | None:
    found = STATE.search(str(error))
    return error.state or (found["state"] if found else None)


def _fault(error: BaseException) -> Fault:
    match error:
        case TooSlow():
            return Fault.TIMED_OUT
        case NotARead():
            return Fault.NOT_A_READ
        case Stopped():
            return Fault.TRANSIENT
        case ServerError():
            state = _state(error) or ""
            return Fault.REFUSED if state.startswith(MISTAKES) else Fault.TRANSIENT
        case SQLAlchemyError() | UnicodeError():
            return Fault.REFUSED
    names = {kind.__name__ for kind in type(error).__mro__}
    return Fault.TRANSIENT if names & {"TException", "EOFError"} else Fault.UNEXPECTED


def _said(error: BaseException) -> str:
    """Return Spark's own words: without Java's names, plan and stack, and without advice to lose what does not fit.

    Lines are counted from the first with text, which is the query's own.
    """
    if not isinstance(error, ServerError):
        return first_line(error)
    text = str(error)
    found = STATE.search(text)
    if found is None:
        words = text.partition("\n\tat ")[0].rpartition("Error running query: ")[2]
        words = " ".join(words.split()) or first_line(error)
        return words if len(words) <= LONGEST else f"{words[:LONGEST]}..."
    head = text[: found.start()]
    begins = [each.start() for each in NAMED.finditer(head)]
    words = BYPASS.sub("", " ".join(head[begins[-1] if begins else 0 :].split())).rstrip(".")
    line = PLACE.search(found["place"] or "")
    where = f" (line {int(line[1]) - 1})" if line else ""
    return f"{words}{where}{CAST if found['state'] == TOO_LARGE else ''}"


KINDS = {
    "bigint": "int8",
    "binary": "bytea",
    "char": "bpchar",
    "decimal": "numeric",
    "double": "float8",
    "float": "float4",
    "int": "int4",
    "smallint": "int2",
    "string": "text",
    "timestamp": "timestamptz",
    "timestamp_ltz": "timestamptz",
    "timestamp_ntz": "timestamp",
}
"""Spark's types by the names that a trial knows them by."""


def _kind(code: object) -> str | None:
    name = str(code).partition("(")[0]
    return None if name == "void" else KINDS.get(name, name)


def _stand_in(
    connection: sa.Connection, table: str, columns: Sequence[str], rows: Sequence[Mapping[str, object]]
) -> str:
    """Return a select of rows, each value made what its column's type makes of its text."""
    kinds = dict(_session(connection).described(f"select * from {table}"))  # noqa: S608 - a name, of the file
    given = rows or [{}]
    selects = (
        ", ".join(f"cast({_given(row.get(name))} as {kinds[name]}) as {quoted(name)}" for name in columns)
        for row in given
    )
    return "\nunion all ".join(f"select {each}" for each in selects) + ("" if rows else " where false")


def _given(value: object) -> str:
    return "null" if value is None else literal(str(value))


SPARK = Dialect(
    name="spark",
    engine=_engine,
    extra="spark",
    begin=_begin,
    bound=lambda instant: instant,
    fault=_fault,
    said=_said,
    naive_is_utc=False,
    from_number="timestamp_seconds(column)",
    zoned="a TIMESTAMP (`to_utc_timestamp({column}, 'UTC')`, with the zone it was written in)",
    kind=_kind,
    least=dt.timedelta(microseconds=1),
    stand_in=_stand_in,
    snapshot=False,
    cannot_promise=(
        "spark: the queries of one span may see different states; what takes several is refused, so return `window`.",
        "spark: each query is parsed as one that reads before it runs, but no session is read-only: let its user only read.",
    ),
)
"""HiveThriftServer2."""
