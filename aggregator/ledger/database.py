"""The way into the ledger's Postgres: one pool, short transactions, and nothing that outlives a transaction.

Rules
- No session state: settings are local to the transaction, locks are row locks or transaction locks, statements are not
  prepared. So a pooler in transaction mode between us and Postgres changes nothing
  (pgbouncer.org/features.html, "SQL feature map for pooling modes").
- What we rely on is set with every transaction: a server, a database and a role each have defaults of their own
  (postgresql.org/docs/current/sql-alterrole.html).
- `synchronous_commit` is on in every transaction: a committed intent must survive a crash, or it is sent twice.
- A transaction that stands idle for a minute is ended by the server: a paused process must not hold a meter for ever.
- A connection whose other end is gone without a word is given up within a minute or so.
- What an instant is compared with counts by the ledger's own clock, which every transaction hears: see `clock`.
"""

import datetime as dt
import logging
import re
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple, Self

import psycopg
from psycopg import errors as pg
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import TransactionStatus
from psycopg_pool import ConnectionPool, PoolTimeout

import aggregator
from aggregator.errors import (
    AggregatorError,
    ClocksApart,
    InvariantBroken,
    LedgerError,
    LedgerOutdated,
    LedgerUnreachable,
)
from aggregator.ledger import waits
from aggregator.ledger.clock import LedgerClock
from aggregator.ledger.waits import SLOW_SECONDS, Phase, Underway, Waiting
from aggregator.runtime.clock import monotonic
from aggregator.runtime.redact import redacted

# Where nobody has set logging up, Python would print what the pool logs: a server's words, which may repeat a password. The
# errors that we raise have them without.
logging.getLogger("psycopg.pool").addHandler(logging.NullHandler())

CURSORS = count()
"""Gives each cursor of the server's a name of its own."""


class Connection(psycopg.Connection[tuple[Any, ...]]):
    """A session of the ledger, within a transaction."""

    at: dt.datetime
    """When the transaction began, by the ledger's clock."""


REVISION = "0001"
"""The newest migration: what this version of the code works with."""

OLDEST_SERVER = 140_000
"""Postgres 14, in the server's own notation."""

PASSWORDS = re.compile(r"//[^:/@]*:([^@]+)@|[?&](?:ssl)?password=([^&]+)")
"""Where a URL holds them."""

CONNECT_TIMEOUT_SECONDS = 10
POOL_SIZE = 16
POOL_WAIT_SECONDS = 30.0

KEEP_ALIVE = {
    "keepalives_idle": 20,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,
}
"""How soon we notice that the other end is gone (postgresql.org/docs/current/libpq-connect.html). By default the system
takes two hours where we wait for an answer, and a quarter of an hour where we wait for bytes to be taken."""

# With `row_security` off a row-level policy is an error and never a row that is missing. `array_nulls` off would make words
# of the nulls in our arrays. `transaction_timeout` came with Postgres 17; naming it before would be an error.
BEGIN = """
select set_config('TimeZone', 'UTC', true),
       set_config('DateStyle', 'ISO, MDY', true),
       set_config('IntervalStyle', 'postgres', true),
       set_config('client_encoding', 'UTF8', true),
       set_config('extra_float_digits', '1', true),
       set_config('bytea_output', 'hex', true),
       set_config('standard_conforming_strings', 'on', true),
       set_config('array_nulls', 'on', true),
       set_config('search_path', 'pg_catalog, pg_temp', true),
       set_config('row_security', 'off', true),
       set_config('synchronous_commit', 'on', true),
       set_config('statement_timeout', '300s', true),
       set_config('lock_timeout', '30s', true),
       set_config('idle_in_transaction_session_timeout', '60s', true),
       case when current_setting('transaction_timeout', true) is not null
            then set_config('transaction_timeout', '0', true) end,
       clock_timestamp()
"""

ENDED = {
    "25P03": "the server ended our transaction because it stood idle for too long, as when this process was paused",
    "25P04": "the server ended our transaction because of a `transaction_timeout`",
    "57P05": "the server ended our session because of an `idle_session_timeout`",
}
"""What a server says that has ended a session or a transaction by a time limit: none of it has to do with what we asked."""

READ_ONLY_BY_DEFAULT = (
    "`default_transaction_read_only` is on for this database or role, and aggregator writes all the same. If somebody froze "
    "the database on purpose, as before a move, stop aggregator; else set it off."
)

SETTINGS = """
select current_setting('server_version_num')::int,
       current_setting('fsync'),
       current_setting('full_page_writes'),
       pg_is_in_recovery(),
       current_setting('server_encoding')
"""


class Database:
    """A pool of connections to the ledger. Close it, or use it as a context manager.

    `url_now` gives the URL as it is by now, if it stands in a file; it is asked for each new connection. `clock` is the
    ledger's own; without it, the time is what the callers say it is.
    """

    def __init__(
        self,
        url: str,
        *,
        name: str = "aggregator",
        size: int = POOL_SIZE,
        url_now: Callable[[], str | None] = lambda: None,
        clock: LedgerClock | None = None,
    ) -> None:
        self.url = url
        self.clock = clock
        self._url_now = url_now
        self._name = name
        self._underway = Underway()
        self._pool: ConnectionPool[Connection] = ConnectionPool(
            self._current,
            connection_class=Connection,
            min_size=0,
            max_size=size,
            timeout=POOL_WAIT_SECONDS,
            max_idle=60.0,
            open=True,
            name=name,
            reconnect_timeout=CONNECT_TIMEOUT_SECONDS,
            check=ConnectionPool.check_connection,
            configure=configure,
            kwargs={"autocommit": True, **_options(url, name)},
        )
        self._begun: dict[int, float] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _current(self) -> str:
        """Return the URL as it is by now, if it stands in a file: a password may have been rotated."""
        self.url = self._url_now() or self.url
        return self.url

    def close(self) -> None:
        """Give every connection back to the server."""
        self._pool.close()

    @contextmanager
    def transaction(
        self,
        now: dt.datetime | None = None,
        *,
        clocks_agree: bool = False,
        wait_seconds: float | None = None,
        snapshot: bool = False,
        looks: bool = False,
    ) -> Iterator[Connection]:
        """Run one transaction under our settings; it commits at the end, or not at all.

        With `snapshot`, all of its statements see the ledger at one instant, and it fails if it would write what another
        transaction has written since; one that only `looks` sees one instant, too, and leaves nothing behind.

        Its connection knows when it began by the ledger's clock: `now`, where only the callers know the time. With
        `clocks_agree`, nothing is done while this host's clock differs from that one. A session is waited for as long as
        `wait_seconds`, or half a minute, where all are in use or none can be had.

        Raises LedgerUnreachable where another try may succeed, InvariantBroken where Postgres itself refused what we
        asked because it would break an invariant, ClocksApart, and LedgerError for the rest.
        """
        try:
            with (
                self._underway.transaction() as stands,
                self._pool.connection(wait_seconds) as connection,
                self._busy(connection),
                self._ending(connection),
                _seeing(connection, snapshot=snapshot or looks),
                connection.transaction(force_rollback=looks),
            ):
                self._begin(connection, now)
                stands(Phase.WORKING)
                if clocks_agree and self.clock is not None:
                    self.clock.check()
                yield connection
                stands(Phase.COMMITTING)
        except PoolTimeout as error:
            raise LedgerUnreachable(f"The ledger cannot be reached: {self._reason()}") from error
        except pg.IntegrityError as error:
            raise InvariantBroken(f"The ledger refused what would break an invariant: {error}") from error
        except (pg.UndefinedTable, pg.InvalidSchemaName, pg.UndefinedColumn) as error:
            raise LedgerOutdated(
                f"The ledger lacks a part ({error.diag.message_primary}); run `aggregator migrate`."
            ) from error
        except (psycopg.OperationalError, psycopg.InternalError) as error:
            # Internal is what psycopg calls it when a session dies behind a pooler: more answers come than it expects.
            raise LedgerUnreachable(f"The ledger did not answer: {said(error, self.url)}") from error
        except psycopg.Error as error:
            raise LedgerError(f"The ledger refused a statement: {one_line(error)}{_hint(error)}") from error

    @contextmanager
    def _busy(self, connection: Connection) -> Iterator[None]:
        """Remember since when a connection is in use."""
        self._begun[id(connection)] = monotonic()
        try:
            yield
        finally:
            del self._begun[id(connection)]

    @contextmanager
    def _ending(self, connection: Connection) -> Iterator[None]:
        """Say that a session was lost while it was worked on, whatever the library made of that.

        What ends a session between two messages of a protocol may surface as anything, a ValueError of psycopg's included.
        A session that lives is idle once its transaction has ended, well or not; so what is raised on one is our own, and
        so is each of our errors.
        """
        try:
            yield
        except (AggregatorError, psycopg.OperationalError, psycopg.InternalError, psycopg.IntegrityError):
            raise  # these have a meaning of their own
        except Exception as error:
            if connection.info.transaction_status == TransactionStatus.IDLE:
                raise
            raise LedgerUnreachable(
                f"The ledger's session ended while it was used: {type(error).__name__}: {error_text(error, self.url)}"
            ) from error

    def _begin(self, connection: Connection, now: dt.datetime | None) -> None:
        """Make our settings, and learn when it is."""
        if self.clock is None:
            connection.execute(BEGIN)
            if now is not None:
                connection.at = now
            return
        with self.clock.hearing() as note_time:
            row = connection.execute(BEGIN).fetchone()
            assert row is not None, "a select of constants gives a row"
            connection.at = row[-1].astimezone(dt.UTC)
            note_time(connection.at)

    def instant(self) -> dt.datetime:
        """Return the ledger's present instant, whatever this host's clock shows."""
        assert self.clock is not None, "whoever asks for the time has opened the ledger with its clock"
        return self.clock()

    def now(self) -> dt.datetime:
        """Return the ledger's present instant. Raises ClocksApart while this host's clock differs, and LedgerUnreachable."""
        reason = self.clocks_apart()
        if reason is not None:
            raise ClocksApart(reason)
        return self.instant()

    def clocks_apart(self) -> str | None:
        """Say by how much this host's clock differs from the ledger's; None if they agree. Raises LedgerUnreachable."""
        if self.clock is None or self.clock.apart() is None:
            return None
        with self.transaction():
            pass  # what was heard last may be old: a host whose machine stood still goes on with it
        return self.clock.apart()

    def slow(self) -> str | None:
        """Say what of this process takes too long in the ledger; None if nothing does. It asks nobody, so it never waits."""
        return self._underway.slow()

    def look_for_waits(self) -> None:
        """Ask the server what holds up our transactions, if any takes long: `slow` tells what it said."""
        if not self._underway.overdue():
            self._underway.found(None)
            return
        try:
            found = self.waiting()
        except LedgerUnreachable as error:
            self._underway.found(str(error))
        else:
            self._underway.found(str(found[0]) if found else None)

    def waiting(self) -> list[Waiting]:
        """Return which sessions of ours, of whatever process, wait in the ledger's server. Raises LedgerUnreachable.

        On a connection of its own: the pool's may all be waiting.
        """
        try:
            name = f"{self._name} (looks for waits)"
            with psycopg.connect(self._current(), autocommit=True, **_options(self.url, name)) as connection:
                return waits.ask(connection, SLOW_SECONDS)
        except psycopg.Error as error:
            raise LedgerUnreachable(f"The ledger did not answer: {said(error, self.url)}") from error

    def _reason(self) -> str:
        """Say why no connection could be had, by trying once outside of the pool."""
        try:
            psycopg.connect(self.url, **_options(self.url, "aggregator")).close()
        except psycopg.Error as error:
            return error_text(error, self.url) + "; check `ledger.url` and that Postgres is up."
        begun = sorted(self._begun.values())
        if len(begun) < self._pool.max_size:
            return "a new connection works, but those we had were lost and are still being replaced; it is tried again."
        return (
            f"all {len(begun)} connections are in use, the oldest for {monotonic() - begun[0]:.0f} s. Either the ledger is "
            "slow, or the network to it was cut: what does not answer is then given up within two minutes."
        )


def streamed(
    connection: Connection, statement: str, values: Mapping[str, object], at_once: int = 5_000
) -> Iterator[tuple[Any, ...]]:
    """Yield what a statement gives by a cursor of the server's, so that however much it is, little is in memory."""
    with connection.cursor(name=f"rows_{next(CURSORS)}") as cursor:
        cursor.itersize = at_once
        yield from cursor.execute(statement, values)


class Part:
    """A part of the ledger: the verbs about one thing. Each is a short transaction, unless it says otherwise."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def _rows(self, statement: str, values: Mapping[str, object] | None = None) -> list[tuple[Any, ...]]:
        """Return what one statement gives, in a transaction of its own."""
        with self._database.transaction() as connection:
            return connection.execute(statement, values).fetchall()

    def _row(self, statement: str, values: Mapping[str, object] | None = None) -> tuple[Any, ...] | None:
        """Return the first row of what it gives."""
        with self._database.transaction() as connection:
            return connection.execute(statement, values).fetchone()

    def _run(self, statement: str, values: Mapping[str, object] | None = None) -> int:
        """Run one statement that gives nothing; return how many rows it is about."""
        with self._database.transaction() as connection:
            return connection.execute(statement, values).rowcount


def _options(url: str, name: str) -> dict[str, Any]:
    """Return how we connect; what the URL says of keeping a connection alive holds."""
    known: dict[str, Any] = {}
    with suppress(psycopg.ProgrammingError):  # a URL that cannot be read is said when it is used
        known = conninfo_to_dict(url)
    return {
        "prepare_threshold": None,
        "application_name": name,
        "connect_timeout": CONNECT_TIMEOUT_SECONDS,
        "client_encoding": "utf8",
        **{key: value for key, value in KEEP_ALIVE.items() if key not in known},
    }


def configure(connection: Connection) -> None:
    """Let every transaction of a connection begin as one that reads what is committed, and writes.

    A server, database or role that defaults to another isolation level, or to reading only, would have two processes that
    do what they should fail for each other's sake.
    """
    connection.isolation_level = psycopg.IsolationLevel.READ_COMMITTED
    connection.read_only = False
    connection.deferrable = False


@contextmanager
def _seeing(connection: Connection, *, snapshot: bool) -> Iterator[None]:
    """Let the next transaction of a connection see one instant only, if that is wanted."""
    if snapshot:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    try:
        yield
    finally:
        if snapshot and connection.info.transaction_status == TransactionStatus.IDLE:
            connection.isolation_level = psycopg.IsolationLevel.READ_COMMITTED


def _hint(error: psycopg.Error) -> str:
    """Say what to do about a refusal that the server's words alone leave open."""
    if error.diag.source_function == "check_enable_rls":
        return (
            ". Row-level security must not hide rows of the ledger from its role: let the role own the tables, or give it "
            "`bypassrls`."
        )
    if isinstance(error, pg.InsufficientPrivilege):
        return "; `aggregator grants` prints what each role of the ledger needs."
    return ""


def one_line(error: Exception) -> str:
    """Return an error's text on one line, without the caret and context lines that drivers add."""
    return " ".join(str(error).split("\n", 1)[0].split()) or type(error).__name__


def said(error: psycopg.Error, url: str) -> str:
    """Return an error's text as `error_text` does, in clear words where the server ended the session by a time limit."""
    meant = ENDED.get(error.sqlstate or "")
    return (
        f"{meant}; nothing of it was written ({error_text(error, url)})" if meant else error_text(error, url)
    )


def error_text(error: Exception, url: str) -> str:
    """Return an error's text on one line without the secrets of our URL, in case the server repeats them."""
    found = (secret for pair in PASSWORDS.findall(url) for secret in pair)
    return redacted(one_line(error), (url, *found))


class Identity(NamedTuple):
    """What a ledger says of itself."""

    ledger_id: uuid.UUID
    revision: str


def ledger_id_of(database: Database) -> Identity:
    """Return which ledger this is. Raises LedgerOutdated if its schema is not the one this version works with.

    It is asked first of all, when no session is in use: one that cannot be had by then is not waited for any longer.
    """
    with database.transaction(wait_seconds=CONNECT_TIMEOUT_SECONDS) as connection:
        if connection.execute("select to_regclass('aggregator.alembic_version')").fetchone() == (None,):
            raise LedgerOutdated("The ledger is empty; run `aggregator migrate` to create its tables.")
        row = connection.execute("select version_num from aggregator.alembic_version").fetchone()
        revision = row[0] if row else ""
        if revision != REVISION:
            raise LedgerOutdated(
                f"The ledger is at revision {revision or 'none'} and this version works with {REVISION}; "
                "run `aggregator migrate`, or install the version that fits."
            )
        found = connection.execute("select ledger_id from aggregator.identity").fetchone()
    assert found is not None, "the ledger has lost its identity row"
    return Identity(found[0], revision)


def unfit(database: Database) -> list[str]:
    """Say what speaks against keeping a ledger on this server: one sentence each, none if it is fit."""
    with database.transaction() as connection:
        row = connection.execute(SETTINGS).fetchone()
    assert row is not None
    version, fsync, full_page_writes, standby, encoding = row
    faults = []
    if version < OLDEST_SERVER:
        faults.append(f"The ledger's Postgres is {version // 10_000}; use 14 or newer.")
    if fsync != "on" or full_page_writes != "on":
        faults.append("The ledger's Postgres may lose commits in a crash; set fsync and full_page_writes on.")
    if encoding != "UTF8":
        faults.append(f"The ledger's database has the encoding {encoding}; give `ledger.url` one with UTF8.")
    if standby:
        faults.append("The ledger's Postgres is a read-only standby; give `ledger.url` the primary.")
    return faults


def remarks(database: Database) -> list[str]:
    """Say what is worth knowing of the server, although it is fit to keep a ledger: one sentence each."""
    with database.transaction() as connection:
        row = connection.execute("select current_setting('default_transaction_read_only')").fetchone()
    return [READ_ONLY_BY_DEFAULT] if row == ("on",) else []


def migrate(url: str) -> None:
    """Bring the ledger to the newest revision; nothing happens if it is there. Safe to run from many processes at once.

    Raises LedgerUnreachable, LedgerOutdated if the ledger is at a revision that this version does not know, or LedgerError
    with the reason.
    """
    if _is_current(url):
        return
    import sqlalchemy as sa
    from alembic import command
    from alembic.config import Config
    from alembic.script.revision import ResolutionError
    from alembic.util import CommandError

    settings = Config()
    settings.set_main_option("script_location", str(_scripts()))
    engine = sa.create_engine("postgresql+psycopg://", creator=lambda: _connect(url), poolclass=sa.NullPool)
    try:
        with engine.begin() as connection:
            settings.attributes["connection"] = connection
            command.upgrade(settings, "head")
    except sa.exc.OperationalError as error:
        raise LedgerUnreachable(f"The ledger cannot be migrated: {error_text(error, url)}") from error
    except (sa.exc.SQLAlchemyError, CommandError) as error:
        if isinstance(error.__cause__, ResolutionError):
            raise LedgerOutdated(
                f"The ledger is at revision {error.__cause__.argument}, which this version does not know: install the "
                "version that made it, or, if that was never released, begin a new ledger in another database."
            ) from error
        if isinstance(error.__cause__, pg.InsufficientPrivilege):
            raise LedgerError(
                f"The ledger cannot be migrated by this role: {error_text(error.__cause__, url)}; run `aggregator migrate` "
                "as the role that owns the ledger (docs/roles.md)."
            ) from error
        raise LedgerError(f"The ledger cannot be migrated: {error_text(error, url)}") from error
    finally:
        engine.dispose()


def _is_current(url: str) -> bool:
    """Tell whether nothing is to be done; what looks for migrations takes most of a second to load."""
    try:
        with _connect(url) as connection:
            connection.execute(BEGIN)
            if connection.execute("select to_regclass('aggregator.alembic_version')").fetchone() == (None,):
                return False
            rows = connection.execute("select version_num from aggregator.alembic_version").fetchall()
    except psycopg.Error:
        return False  # what is wrong is said by the migration itself
    return rows == [(REVISION,)]


def _connect(url: str) -> Connection:
    connection = Connection.connect(url, **_options(url, "aggregator migrate"))
    configure(connection)
    return connection


def _scripts() -> Path:
    """Return where the migrations lie: inside the package once installed, beside it in a checkout."""
    package = Path(aggregator.__file__).parent
    inside = package / "migrations"
    return inside if inside.is_dir() else package.parent / "migrations"


def array(numbers: Iterable[int]) -> str:
    """Write an array of integers as Postgres reads it: the driver goes over each in Python, several times."""
    return f"{{{','.join(map(str, numbers))}}}"
