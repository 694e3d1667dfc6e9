"""DuckDB: a file opened to read, or files of Parquet and CSV; its lack of a statement timeout made up for.

Rules
- A database is opened read-only, and only if it is there: DuckDB would make an empty one.
- The session is in UTC whatever zone the process is in, since DuckDB takes the process's.
- What is sent is one SELECT that holds no other statement: since version 2, DuckDB takes `copy` and `insert` as the body
  of a CTE, and calls the whole a SELECT.
- A query reaches no file but the database, or those its source names; no extension is loaded or fetched, and no variable of
  ours is taken for a table.
- Each statement and each fetch has its time. DuckDB works within our process and knows no timeout, so it works in a thread
  of its own; who waits for it can interrupt it, and hears signals meanwhile.
"""

import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakSet

import sqlalchemy as sa
from sqlalchemy.engine.default import DefaultDialect
from sqlalchemy.exc import SQLAlchemyError

from aggregator.runtime import clock
from aggregator.source.dialects import Dialect, Fault, Reading, Renew, first_line
from aggregator.source.file_views import Files, FileViews, Listing, Unfit

IN_MEMORY = {"", ":memory:"}

OPTIONS = ("memory_limit", "threads", "temp_directory", "max_temp_directory_size")
"""What a URL may set (duckdb.org/docs/current/configuration/overview): how much of this machine a query may use."""

OURS = {"access_mode": "read_only", "read_only": "true", "timezone": "utc"}
"""What is so in any case; a URL may say it, and nothing else of it."""

MOST_MEMORY = 2**30
"""Bytes that DuckDB may use unless the URL says otherwise: it would take four fifths of the machine, within our process."""

UNITS = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}

SETTINGS = {
    "allow_community_extensions": "false",
    "allow_persistent_secrets": "false",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "python_enable_replacements": "false",
}
"""What connections to one database have in common: those of one process share it, and must agree."""

SESSION = (
    "set TimeZone = 'UTC'",
    "set enable_progress_bar = false",  # it would be drawn into what a command prints
    "set streaming_buffer_size = '100KB'",  # rows that wait to be fetched: a tenth of what it takes otherwise
)

WRITES = {"copy", "insert", "update", "delete", "merge"}
"""What may stand as the body of a CTE beside a SELECT."""

AGAIN_SECONDS = 0.05
"""An interrupt that comes just before the work begins is forgotten, so it is said again."""

TRANSIENT = {
    "ConnectionException",
    "FatalException",
    "HTTPException",
    "IOException",
    "InternalException",
    "InterruptException",
    "OutOfMemoryException",
    "SerializationException",
    "TransactionException",
}
"""DuckDB's classes of errors that no change of the query would cure
(duckdb.org/docs/current/clients/python/reference): a lock, a disk, a file of another version, memory."""


Result = TypeVar("Result")


class TooSlow(Exception):
    """A statement had its time."""


class Stopped(Exception):
    """The source was closed while it was read."""


class NoRead(Exception):
    """What was to be asked is not one SELECT."""


def duckdb_dialect(files: Mapping[str, Files]) -> Dialect:
    """Return what is known of DuckDB, with views of files to be read."""
    return Dialect(
        name="duckdb",
        engine=partial(_engine, FileViews(files)),
        begin=_begin,
        # With its zone, as `at time zone` needs it; a column without one is compared in the session's zone, which is UTC.
        bound=lambda instant: instant,
        fault=_fault,
        said=_said,
        naive_is_utc=False,
        from_number="to_timestamp(column)",
        kind=_kind,
        stand_in=_stand_in,
    )


class SqlDialect(DefaultDialect):
    """What SQLAlchemy has to know of DuckDB for text with bound values and plain selects."""

    name = driver = "duckdb"
    supports_statement_cache = True
    default_paramstyle = (
        "numeric_dollar"  # by number, so that a parameter in a comment does not change their count
    )

    @classmethod
    def import_dbapi(cls) -> Any:
        """Return the driver. Raises ImportError with what to install."""
        try:
            import duckdb
        except ImportError as error:
            raise ImportError(f"{error}: `pip install 'usage-aggregator[duckdb]'`") from None
        return duckdb

    def initialize(self, connection: sa.Connection) -> None:
        """Ask nothing: all that is needed is known."""

    def get_table_names(self, connection: sa.Connection, *_: Any, **__: Any) -> list[str]:
        """Return all tables, of every schema."""
        return list(connection.scalars(sa.text("select table_name from duckdb_tables() where not internal")))

    def get_view_names(self, connection: sa.Connection, *_: Any, **__: Any) -> list[str]:
        """Return all views, of every schema; those of files are among them."""
        return list(connection.scalars(sa.text("select view_name from duckdb_views() where not internal")))

    def get_columns(
        self, connection: sa.Connection, table_name: str, schema: str | None = None, **_: Any
    ) -> Any:
        """Return the columns of a table or view, with their types as far as they say what a column may mean."""
        where = {"name": table_name, "schema": schema}
        return [
            {"name": name, "type": _reflected(kind), "nullable": True, "default": None}
            for name, kind in connection.execute(COLUMNS, where)
        ]

    def get_foreign_keys(
        self, connection: sa.Connection, table_name: str, schema: str | None = None, **_: Any
    ) -> Any:
        """Return which columns lead to a row of another table."""
        return [
            {
                "name": None,
                "constrained_columns": own,
                "referred_schema": schema,
                "referred_table": table,
                "referred_columns": referred,
                "options": {},
            }
            for own, table, referred in connection.execute(REFERENCES, {"name": table_name, "schema": schema})
        ]


COLUMNS = sa.text("""
select column_name, data_type from duckdb_columns()
 where table_name = :name and schema_name = coalesce(:schema, current_schema()) order by column_index
""")
REFERENCES = sa.text("""
select constraint_column_names, referenced_table, referenced_column_names from duckdb_constraints()
 where constraint_type = 'FOREIGN KEY' and table_name = :name and schema_name = coalesce(:schema, current_schema())
""")
NUMBERS = ("DECIMAL", "TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "U")


def _reflected(kind: str) -> Any:
    """Return SQLAlchemy's type for one of DuckDB's; NullType for what is none of text, number, day or instant."""
    if kind.startswith("TIMESTAMP"):
        return sa.DateTime(timezone=kind.endswith("ZONE"))
    if kind == "DATE":
        return sa.Date()
    if kind in {"DOUBLE", "FLOAT"}:
        return sa.Double()
    if kind == "VARCHAR":
        return sa.String()
    return sa.Numeric() if kind.startswith(NUMBERS) and kind != "UUID" else sa.types.NullType()


sa.dialects.registry.register("aggregator_duckdb", __name__, "SqlDialect")


def _engine(views: FileViews, url: sa.URL, _: str) -> sa.Engine:
    path, options = _place(views, url)
    opened: WeakSet[Connection] = WeakSet()
    closed = threading.Event()
    engine = sa.create_engine(
        "aggregator_duckdb://",
        creator=lambda: _opened(_open(path, options, views), opened, closed),
        poolclass=sa.NullPool,
        paramstyle="numeric_dollar",
        hide_parameters=True,
    )

    def stop(_: sa.Engine) -> None:
        closed.set()
        for each in list(opened):
            each.stop()

    sa.event.listen(engine, "engine_disposed", stop)
    return engine


def _place(views: FileViews, url: sa.URL) -> tuple[Path | None, dict[str, str]]:
    """Return the file of the database, None for none, and what else a URL sets. Raises OSError."""
    options = {name: value for name, value in url.query.items() if isinstance(value, str)}
    for name, value in OURS.items():
        if options.pop(name, value).lower() != value:
            raise OSError(f"the option `{name}` of a DuckDB URL can only be {value}")
    for name in url.query:
        if name not in OPTIONS and name not in OURS:
            raise OSError(f"a DuckDB URL takes the options {', '.join(OPTIONS)}, and not `{name}`")
    where = url.database or ""
    if url.host or where.startswith(("md:", "motherduck:")):
        raise OSError("a DuckDB URL names a file: duckdb:////absolute/path")
    if where not in IN_MEMORY:
        if views:
            raise OSError("`files` go with `url: duckdb://`, and not with a database")
        return Path(where).absolute(), options
    if not views:
        raise OSError(
            "a database in memory is empty: name a file, as in duckdb:////absolute/path, or folders under `files`"
        )
    return None, options


def _opened(connection: "Connection", opened: "WeakSet[Connection]", closed: threading.Event) -> "Connection":
    """Note a connection, so that it is stopped when the source is closed, or has been meanwhile."""
    opened.add(connection)
    if closed.is_set():
        connection.stop()
    return connection


def _open(path: Path | None, options: Mapping[str, str], views: FileViews) -> "Connection":
    import duckdb

    _new_enough(duckdb.__version__)
    if path is not None and not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    common: dict[str, Any] = {**SETTINGS, "temp_directory": _temporary(), **options}
    if path is None:
        driver = duckdb.connect(":memory:", config=common)
    else:
        driver = duckdb.connect(
            str(path), read_only=True, config={**common, "enable_external_access": "false"}
        )
    try:
        for setting in SESSION:
            driver.execute(setting)
        if "memory_limit" not in options:
            _limit(driver)
    except BaseException:
        driver.close()
        raise
    return Connection(driver, views)


def _temporary() -> str:
    """Return where goes what does not fit into memory; DuckDB would put it beside the database."""
    return str(Path(tempfile.gettempdir()) / "aggregator-duckdb")


def _new_enough(version: str) -> None:
    """Before version 2, a sum of decimals beyond 38 digits goes round without an error."""
    if int(version.partition(".")[0]) < 2:
        raise OSError(
            f"DuckDB {version} lets a sum that is too large come out as another number: `pip install 'duckdb>=2'`, which "
            "reads the same files"
        )


def _limit(driver: Any) -> None:
    [(has,)] = driver.execute("select current_setting('memory_limit')").fetchall()
    number, _, unit = str(has).partition(" ")
    if float(number) * UNITS.get(unit, 1) > MOST_MEMORY:
        driver.execute(f"set memory_limit = '{MOST_MEMORY}B'")


def _literal(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _begin(connection: sa.Connection, reading: Reading) -> Renew:
    driver = connection.connection.driver_connection
    assert isinstance(driver, Connection)
    return driver.begin(reading.statement_timeout.total_seconds())


class Connection:
    """One session, as SQLAlchemy wants it (PEP 249), in which one statement at a time is asked."""

    def __init__(self, driver: Any, views: FileViews) -> None:
        self._driver = driver
        self._views = views
        self._worker = _Worker(driver.interrupt)
        self._seconds = 0.0
        self._listings: list[Listing] = []
        self.asked: Cursor | None = None

    def begin(self, seconds: float) -> Renew:
        """Open the transaction; return what is called before each statement and each fetch."""
        self._seconds = seconds
        self.run(self._prepare)
        return self._check_files

    def _prepare(self, driver: Any) -> None:
        if self._views:
            listings = self._views.listed()
            self._listings = list(listings.values())
            paths = ", ".join(_literal(path) for listing in self._listings for path in listing.stamps)
            driver.execute(f"set allowed_paths = [{paths}]")
            driver.execute("set enable_external_access = false")
            for view in self._views.views(self._ask, listings):
                driver.execute(view)
        driver.execute("begin transaction read only")
        [(zone,)] = self._ask("select current_setting('TimeZone')", [])
        assert zone == "UTC", "the session is in UTC"

    def _ask(self, statement: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        found: list[tuple[Any, ...]] = self._driver.execute(statement, list(values)).fetchall()
        return found

    def _check_files(self) -> None:
        for listing in self._listings:
            listing.check()

    def run(self, work: Callable[[Any], Result]) -> Result:
        """Do something with the driver, for as long as a statement may take. Raises TooSlow and Stopped."""
        return self._worker.run(partial(work, self._driver), self._seconds)

    def stop(self) -> None:
        """Let what is under way end, and nothing more be asked."""
        self._worker.stop()

    def cursor(self) -> "Cursor":
        """Return what asks one statement."""
        return Cursor(self)

    def commit(self) -> None:
        """There is nothing to commit."""

    def rollback(self) -> None:
        """End the transaction, if there is one."""
        import duckdb

        with suppress(duckdb.TransactionException):  # none is open
            self._driver.execute("rollback")

    def close(self) -> None:
        """Let go of the database, and of its lock."""
        self._worker.end()
        self._driver.close()


class Cursor:
    """One statement and its rows."""

    arraysize = 1
    rowcount = -1
    lastrowid = None

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.description: Any = None

    def execute(self, statement: str, values: Sequence[object] = ()) -> None:
        """Ask. Raises NoRead for anything but one SELECT."""
        self.description = self._connection.run(partial(_ask, statement=statement, values=values))
        self._connection.asked = self

    def fetchmany(self, size: int = 1) -> list[Any]:
        """Return the next rows."""
        assert self._connection.asked is self, "one statement at a time"
        found: list[Any] = self._connection.run(lambda driver: driver.fetchmany(size))
        return found

    def fetchone(self) -> Any:
        """Return the next row, or None."""
        return next(iter(self.fetchmany(1)), None)

    def fetchall(self) -> list[Any]:
        """Return all rows that are left."""
        assert self._connection.asked is self, "one statement at a time"
        found: list[Any] = self._connection.run(lambda driver: driver.fetchall())
        return found

    def close(self) -> None:
        """Let the next statement take the place of this one."""


def _ask(driver: Any, statement: str, values: Sequence[object]) -> Any:
    driver.execute(_one_select(driver, statement), list(values))
    return driver.description


def _one_select(driver: Any, statement: str) -> Any:
    import duckdb

    found = driver.extract_statements(statement)
    if len(found) != 1 or found[0].type != duckdb.StatementType.SELECT:
        kinds = ", ".join(str(each.type).rpartition(".")[2].lower() for each in found)
        raise NoRead(f"write one `select`; this is {kinds or 'no statement'}")
    tokens = [
        (statement[start:end].strip().lower(), kind)
        for (start, kind), end in _with_ends(duckdb.tokenize(statement), len(statement))
        if kind != duckdb.token_type.comment
    ]
    for (before, _), (word, kind) in pairwise(tokens):
        if before == "(" and word in WRITES and kind == duckdb.token_type.keyword:
            raise NoRead(f"`({word}` begins another statement; put the name of a column into quotes")
    return found[0]


def _with_ends(tokens: Sequence[tuple[int, Any]], length: int) -> Iterator[tuple[tuple[int, Any], int]]:
    yield from zip(tokens, [*(start for start, _ in tokens[1:]), length], strict=True)


class _Worker:
    """A thread in which DuckDB works. It lives as long as the connection."""

    def __init__(self, interrupt: Callable[[], None]) -> None:
        self._interrupt = interrupt
        self._changed = threading.Condition()
        self._work: Callable[[], Any] | None = None
        self._outcome: tuple[Any, BaseException | None] | None = None
        self._stopped = threading.Event()
        self._ended = False
        self._thread = threading.Thread(target=self._loop, name="duckdb", daemon=True)
        self._thread.start()

    def run(self, work: Callable[[], Result], seconds: float) -> Result:
        """Return what the work returns, or raise what it raises; TooSlow after so many seconds, Stopped once stopped."""
        with self._changed:
            if self._stopped.is_set():
                raise Stopped("the source is closed")
            until = clock.monotonic() + seconds
            self._work, self._outcome = work, None
            self._changed.notify_all()
            cut = True
            try:
                self._changed.wait_for(
                    lambda: self._outcome or self._stopped.is_set(), until - clock.monotonic()
                )
                cut = self._outcome is None
            finally:
                result, error = self._interrupted()
        # What came all the same would be followed by the interrupt, which DuckDB remembers until the next fetch.
        if cut and (error is None or type(error).__name__ == "InterruptException"):
            error = (
                Stopped("the source is closed") if self._stopped.is_set() else TooSlow("it was interrupted")
            )
        if error is not None:
            raise error
        found: Result = result
        return found

    def _interrupted(self) -> tuple[Any, BaseException | None]:
        """Return the outcome, whatever it takes."""
        while self._outcome is None:
            self._interrupt()
            self._changed.wait(AGAIN_SECONDS)
        return self._outcome

    def stop(self) -> None:
        """Interrupt what runs, and let nothing more begin."""
        with self._changed:
            self._stopped.set()
            self._changed.notify_all()

    def end(self) -> None:
        """End the thread."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        self._thread.join()

    def _loop(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._work or self._ended)
                work, self._work = self._work, None
            if work is None:
                return
            outcome: tuple[Any, BaseException | None]
            try:
                outcome = work(), None
            except BaseException as error:  # noqa: BLE001 - it is raised where the work is waited for
                outcome = None, error
            with self._changed:
                self._outcome = outcome
                self._changed.notify_all()


def _fault(error: BaseException) -> Fault:
    if isinstance(error, TooSlow):
        return Fault.TIMED_OUT
    if isinstance(error, NoRead):
        return Fault.NOT_A_READ
    names = {kind.__name__ for kind in type(error).__mro__}
    if isinstance(error, Stopped) or names & TRANSIENT:
        return Fault.TRANSIENT
    known = isinstance(error, Unfit | SQLAlchemyError | UnicodeError) or names & {"Error", "Warning"}
    return Fault.REFUSED if known else Fault.UNEXPECTED


HINTS = {
    "PermissionException": "; a query reaches no files but those that the source names under `files`",
    "OutOfMemoryException": "; give it more by `?memory_limit=4GB` in the URL of the source",
}


TELLING = ("Candidate", "Did you mean", "Expected Number", "Value with", "Invalid unicode", "file = ")
"""How those of DuckDB's further lines begin that say what is wrong and where."""


def _said(error: BaseException) -> str:
    """Return DuckDB's first line, what it proposes, and the line of the query: what is sent begins with a line of ours."""
    lines = [line.strip() for line in str(error).splitlines()]
    more = [line for line in lines[1:] if line.startswith(TELLING)]
    for line in lines[1:]:
        number, found, text = line.removeprefix("LINE ").partition(": ")
        if line.startswith("LINE ") and found and number.isdigit():
            more.append(f"(line {int(number) - 1}: {text.strip()})")
    return " ".join([first_line(error), *more]) + HINTS.get(type(error).__name__, "")


def _stand_in(
    connection: sa.Connection, table: str, columns: Sequence[str], rows: Sequence[Mapping[str, object]]
) -> str:
    """Return a select of rows, each value made what its column's type makes of its text."""
    asked = f"select column_name, column_type from (describe select * from {table})"  # noqa: S608 - a name, of the file
    kinds = {name: kind for name, kind in connection.execute(sa.text(asked))}  # noqa: C416 - rows are no pairs to mypy
    given = rows or [{}]
    selects = (
        ", ".join(f"cast({_given(row.get(name))} as {kinds[name]}) as {_quoted(name)}" for name in columns)
        for row in given
    )
    return "\nunion all ".join(f"select {each}" for each in selects) + ("" if rows else " where false")


def _given(value: object) -> str:
    return "null" if value is None else _literal(str(value))


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


KINDS = {
    "bigint": "int8",
    "blob": "bytea",
    "decimal": "numeric",
    "double": "float8",
    "float": "float4",
    "integer": "int4",
    "smallint": "int2",
    "time with time zone": "timetz",
    "timestamp with time zone": "timestamptz",
    "timestamp_ms": "timestamp",
    "timestamp_s": "timestamp",
}
"""DuckDB's types by the names that a trial knows them by."""


def _kind(code: object) -> str | None:
    name = str(code).lower().partition("(")[0].strip('"')
    return None if name == "null" else KINDS.get(name, name)
