"""Postgres: how a read-only snapshot is opened, and what its errors mean. transactions.py and roles.py ask it the rest.

Rules
- Nothing is set for a session, and statements are not prepared: what a read relies on is set within its transaction. So a
  pooler in transaction mode between us and Postgres changes nothing (pgbouncer.org/features.html, "SQL
  feature map for pooling modes").
- A query runs as `DECLARE ... CURSOR FOR` with bound values, which the server takes as one statement and as a SELECT
  only. READ ONLY alone is no fence: `select 1; commit; delete ...` leaves it.
"""

import datetime as dt
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import psycopg
import sqlalchemy as sa
from psycopg.adapt import Buffer, Loader
from psycopg.pq import Format
from sqlalchemy.exc import InvalidRequestError, SQLAlchemyError

from aggregator.source import roles, tables, transactions, writers
from aggregator.source.dialects import LOCK_SECONDS, Dialect, Fault, Reading, Renew, first_line, not_idle
from aggregator.source.rows import OutOfRange
from aggregator.source.stand_ins import json_rows
from aggregator.source.stopping import stop_with

CONNECT_SECONDS = 10

CANCEL_SECONDS = 2
"""How long it is waited for word that a query was told to stop: whoever closes a source is about to end."""

HUNG_UP = "server closed the connection unexpectedly"
"""What libpq says of a server that took a connection and ended it without a word."""

HUNG_UP_PAUSES = 0.05, 0.2, 0.5
"""In seconds: a slot is free again once its server has seen the end of the last connection."""

IDLE_SECONDS = 60
"""How long a transaction may stand idle: a paused process must not keep a snapshot open in somebody's database."""

SETTINGS: dict[str, str | None] = {
    "TimeZone": "UTC",
    # The driver reads instants and intervals in these styles only. Whether 01/02 in a query's text is in January stays as
    # it is set for the role.
    "DateStyle": "ISO",
    "IntervalStyle": "postgres",
    "bytea_output": "hex",
    "extra_float_digits": "1",
    "standard_conforming_strings": "on",
    # A query means what SQL says: `= null` is never true, and an index gives all it finds.
    "transform_null_equals": "off",
    "gin_fuzzy_search_limit": "0",
    "lock_timeout": f"{LOCK_SECONDS}s",
    "idle_in_transaction_session_timeout": f"{IDLE_SECONDS}s",
    # A long read is bounded statement by statement; this would end it in the middle each time (servers from 17 on).
    "transaction_timeout": "0",
    # A cursor is planned for its first tenth only, unless the server is told that all of it will be fetched.
    "cursor_tuple_fraction": "1.0",
    # A query whose client is gone stops within 2 s. Servers have this since version 14, and not on every platform.
    "client_connection_check_interval": "2s",
    # Which tables a query means is as it is set for the role, not as a pooler's other clients have left it on a session.
    "search_path": None,
}
"""What a read relies on, whatever is set for the role, the database or the server
(postgresql.org/docs/current/runtime-config-client.html). None is what the session began with."""

ENCODING = "UTF8"
"""What we speak with every server, unless the URL names another `client_encoding`: a server without one (SQL_ASCII) gives
its bytes unchanged, and refuses in words what is not of the encoding."""

OPENING = sa.text("""
select (select count(set_config(name, wanted.setting, true))
          from unnest(cast(:names as text[]), cast(:settings as text[])) as wanted (name, setting)
          join (select name from pg_settings) as known using (name)
         where name <> 'client_connection_check_interval' or version() ~ 'linux'),
       current_setting('transaction_isolation') in ('repeatable read', 'serializable')
         and current_setting('transaction_read_only')::boolean as one_read_only_snapshot
""")


def _postgres_engine(url: sa.URL, application_name: str) -> sa.Engine:
    """Whatever driver the URL names, psycopg 3 is used: the rules above are its behaviour."""
    settings: dict[str, object] = {
        "application_name": application_name,
        "connect_timeout": CONNECT_SECONDS,
        "client_encoding": ENCODING,
    }
    engine = sa.create_engine(
        url.set(drivername="postgresql+psycopg"),
        poolclass=sa.NullPool,
        use_native_hstore=False,
        hide_parameters=True,
        connect_args={name: value for name, value in settings.items() if name not in url.query}
        | {"prepare_threshold": None},
    )
    sa.event.listen(engine, "do_connect", _connected)
    sa.event.listen(engine, "connect", _tolerate_infinity)
    stop_with(engine, _cancel)
    return engine


def _cancel(connection: psycopg.Connection[Any]) -> None:
    """Have the server stop what a connection asks, by a request beside it; a pooler passes it on."""
    with suppress(psycopg.Error):  # it may have ended meanwhile, and else its own timeout stops it later
        connection.cancel_safe(timeout=CANCEL_SECONDS)


def _connected(_: object, __: object, args: list[Any], settings: dict[str, Any]) -> psycopg.Connection[Any]:
    """Connect, a few times where the server hangs up: PGlite takes one connection at a time, and is slow to let go."""
    for pause in HUNG_UP_PAUSES:
        try:
            return psycopg.connect(*args, **settings)
        except psycopg.OperationalError as error:
            if HUNG_UP not in str(error):
                raise
        threading.Event().wait(pause)
    return psycopg.connect(*args, **settings)


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
            except (psycopg.DataError, ValueError, OverflowError):
                return OutOfRange(bytes(data).decode(errors="replace"))

    return Tolerant


def _begin_postgres(connection: sa.Connection, reading: Reading) -> Renew:
    connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
    wanted = {
        **SETTINGS,
        # Off: where a policy would hide rows from the role, the server refuses the query instead.
        "row_security": "on" if reading.filtered else "off",
        "client_encoding": str(connection.engine.url.query.get("client_encoding", ENCODING)),
        "statement_timeout": f"{max(1, reading.statement_timeout // dt.timedelta(milliseconds=1))}ms",
    }
    opened = connection.execute(OPENING, {"names": list(wanted), "settings": list(wanted.values())}).one()
    if not opened.one_read_only_snapshot:
        raise InvalidRequestError("the server gives no read-only snapshot; connect to it without a proxy")
    return not_idle


POSTGRES_TRANSIENT = {"08", "28", "3D", "40", "53", "55", "57", "58", "72", "F0", "XX"}
"""Classes of SQLSTATE that no change of the query would cure: connection, login, conflict with recovery or with others,
resources, locks, shutdown, disk (postgresql.org/docs/current/errcodes-appendix.html)."""

POSTGRES_ENDED = {"25P03", "25P04"}
"""The server ended a transaction that stood idle, or lasted, too long: the query is not to blame."""

POSTGRES_NOT_A_READ = {"0A000", "25001", "25006", "42601"}
"""Refused by DECLARE CURSOR, by READ ONLY, or by the grammar: a write, several statements, or no SELECT at all."""


def _postgres_fault(error: BaseException) -> Fault:
    state = error.sqlstate if isinstance(error, psycopg.Error) else None
    if state is None:
        # A session that dies behind a pooler leaves more answers than psycopg expects: an InternalError of its own.
        broken = isinstance(error, psycopg.OperationalError | psycopg.InterfaceError | psycopg.InternalError)
        if broken:
            return Fault.TRANSIENT
        known = isinstance(error, psycopg.Error | SQLAlchemyError | UnicodeError)
        return Fault.REFUSED if known else Fault.UNEXPECTED
    if state == "57014":
        return Fault.TIMED_OUT
    if state in POSTGRES_NOT_A_READ:
        return Fault.NOT_A_READ
    transient = state[:2] in POSTGRES_TRANSIENT or state in POSTGRES_ENDED
    return Fault.TRANSIENT if transient else Fault.REFUSED


def _postgres_said(error: BaseException) -> str:
    """Our DECLARE takes the first line of what is sent, so the query's own first line is the server's second."""
    where = re.search(r"^LINE (\d+): (.*)$", str(error), re.MULTILINE)
    line = f" (line {int(where[1]) - 1}: {where[2].strip()})" if where else ""
    hidden = HIDDEN_ROWS if _hides_rows(error) else ""
    return first_line(error) + line + hidden


HIDDEN_ROWS = (
    ". What a policy hides would be taken for no usage: `alter role ... bypassrls` for the role of the source, or for the "
    "owner of the view that reads the table; or, where the policies show it all that is to be billed, `row_security: "
    "allowed` on the source"
)


def _hides_rows(error: BaseException) -> bool:
    """Tell whether the server would have to leave rows out (postgresql.org/docs/current/runtime-config-client.html,
    row_security). It has no code of its own for that; where it is raised is the same in every language."""
    return isinstance(error, psycopg.Error) and error.diag.source_function == "check_enable_rls"


def _postgres_kind(code: object) -> str | None:
    """Return the name of a type by its oid; one that is not built in goes by its number."""
    known = psycopg.adapters.types.get(code) if isinstance(code, int) else None
    return None if known is None else known.name


NO_WHOLE_TABLES = sa.text("select set_config('enable_seqscan', 'off', true)")


def _postgres_reads_whole(
    connection: sa.Connection, statement: sa.TextClause, bounds: dict[str, object]
) -> str | None:
    """Ask for the plan that avoids reading whole tables: one that does so still, by a filter, has no index to use."""
    connection.execute(NO_WHOLE_TABLES)
    [[plan]] = connection.execute(sa.text(f"explain (format json) {statement.text}"), bounds).all()
    steps = [plan[0]["Plan"]]
    while steps:
        step = steps.pop()
        if step["Node Type"] == "Seq Scan" and "Filter" in step:
            return str(step["Relation Name"])
        steps += step.get("Plans", ())
    return None


def _postgres_stand_in(
    _: sa.Connection, table: str, __: Sequence[str], rows: Sequence[Mapping[str, object]]
) -> str:
    """Let each value be what its column's type makes of it (postgresql.org/docs/current/functions-json.html)."""
    return f"select * from jsonb_populate_recordset(null::{table}, {json_rows(rows)}::jsonb)"  # noqa: S608 - of the file


PGLITE_LIMITS = (
    "PGlite: it does not keep `statement_timeout`, so a query runs until it ends; keep the queries cheap.",
    "PGlite: it takes one connection at a time, so nothing is read while anything else is connected, or the reverse.",
)
"""Postgres in one process, as WebAssembly (pglite.dev/docs/pglite-socket)."""


def _postgres_limits(connection: sa.Connection) -> list[str]:
    """Know PGlite by its version: in all else it answers as Postgres does."""
    version = str(connection.scalar(sa.text("select version()")))
    return list(PGLITE_LIMITS) if "PGlite" in version else []


POSTGRES = Dialect(
    name="postgresql",
    engine=_postgres_engine,
    begin=_begin_postgres,
    bound=lambda instant: instant,
    fault=_postgres_fault,
    said=_postgres_said,
    naive_is_utc=False,
    from_number="to_timestamp(column)",
    kind=_postgres_kind,
    least=dt.timedelta(microseconds=1),
    reads_whole=_postgres_reads_whole,
    before=transactions.before,
    unseen=transactions.unseen,
    fence=transactions.fence,
    tables=tables.tables,
    stand_in=_postgres_stand_in,
    unsafe=roles.unsafe,
    limits=_postgres_limits,
    writers=writers.writers,
    disordered=writers.disordered,
)
