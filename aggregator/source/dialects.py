"""What differs between kinds of databases: a `Dialect` holds all of it. Each of the modules beside makes one.

Rules
- No setting outlives the read: each is local to the transaction, which is always rolled back, or where a database has none
  of a transaction, to a session of our own.
- What a dialect cannot keep it says, in `cannot_promise`.
"""

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import NamedTuple, Protocol

import sqlalchemy as sa

from aggregator.core import query_text
from aggregator.core.deltas import Writers
from aggregator.core.model import Fence
from aggregator.source.rows import ZONED

LOCK_SECONDS = 5
"""A reader waits for a lock only behind a schema change; better to come back than to queue up in front of writers."""


class Fault(Enum):
    """What a database's error means for whoever asked."""

    TRANSIENT = auto()  # it may pass by itself
    TIMED_OUT = auto()  # the statement timeout
    NOT_A_READ = auto()  # it was asked for something else than a read
    REFUSED = auto()  # the query or its data must change
    UNPROVEN = auto()  # ours: the database did not show that bounds arrive as the instants meant
    UNEXPECTED = auto()  # no error of the database: its driver, or something below it, gave up


class Unproven(Exception):
    """A database did not show that `:start` arrives as the instant meant; its text says what was seen, and what to write."""


UNPROVEN_BOUNDS, SEVERAL_STATES = "unproven_bounds", "several_states"
"""What the user of a source may accept: that nothing shows what its bounds mean; that the queries of one span see several
states."""

Renew = Callable[[], None]
"""Called before each statement and each fetch: the statement timeout runs from there."""


Freshness = Callable[[], dt.datetime | None]
"""Asks a source up to when it surely has all rows."""


class AsksForWriters(Protocol):
    """Asks a database who may still commit rows whose cursor, an id or an instant, was taken before."""

    def __call__(self, connection: sa.Connection, *, by_instant: bool) -> Writers | None:
        """Return them; None if this server cannot tell."""
        ...


class Table(NamedTuple):
    """A table that a query reads, and what keeps its rows from being all there are just now."""

    name: str
    foreign: bool
    subscribed: bool
    """Rows come from another server, by logical replication."""
    materialised: bool
    """It is a view that shows what it held when it was last refreshed."""
    filtered: bool
    """Row-level security decides which rows the role sees."""
    stamped: tuple[str, ...] = ()
    """Columns whose default is the instant at which a statement began, maybe long before its transaction."""


class Reading(NamedTuple):
    """How a transaction is to read."""

    statement_timeout: dt.timedelta
    filtered: bool = False
    """Whether row-level security may hide rows from the role."""
    accepts: frozenset[str] = frozenset()
    """What the user accepts that is not proven."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """One kind of database."""

    name: str
    engine: Callable[[sa.URL, str], sa.Engine]
    """Make an engine from URL and application name. It connects when first used and keeps no idle connection."""
    begin: Callable[[sa.Connection, "Reading"], Renew]
    """Open the transaction in which everything is read."""
    bound: Callable[[dt.datetime], object]
    """The value that the driver compares correctly with an instant."""
    fault: Callable[[BaseException], Fault]
    said: Callable[[BaseException], str]
    """The database's own words on one line."""
    naive_is_utc: bool
    from_number: str
    """The SQL that makes an instant of epoch seconds."""
    zoned: str = ZONED
    """What to return for a `{column}` without a time zone."""
    kind: Callable[[object], str | None]
    """The database's name for the type of a column, of what its driver says of the column; None if it does not say."""
    least: dt.timedelta = dt.timedelta(seconds=1)
    """The shortest time by which two bounds differ for the database."""
    literal: Callable[[dt.datetime], str] | None = None
    """How an instant is written into a query that is to be pasted, if not as `bound` is."""
    reads_whole: Callable[[sa.Connection, sa.TextClause, dict[str, object]], str | None] | None = None
    """Name a table of which all would be read for a query between bounds, as no index serves; None if that is not known."""
    before: Callable[[sa.Connection], object] | None = None
    """What is to be asked before a snapshot that is to prove something, in a transaction of its own; for `fence`."""
    fence: Callable[[sa.Connection, Freshness | None, object], Fence] | None = None
    """What its transactions have come to, as the open snapshot shows it; None where that cannot be asked."""
    unseen: Callable[[sa.Connection], list[str]] | None = None
    """Whose transactions cannot be seen, a sentence each; None where that cannot be asked."""
    tables: Callable[[sa.Connection, str, Mapping[str, object]], list[Table]] | None = None
    """Which tables a query reads, by its plan; None where that cannot be asked."""
    stand_in: Callable[[sa.Connection, str, Sequence[str], Sequence[Mapping[str, object]]], str] | None = None
    """Make the select that gives rows as a table of these columns has them; None where it is not known how."""
    unsafe: Callable[[sa.Connection], list[str]] | None = None
    """What its role may do beyond reading; None where nothing but reading is possible, or it cannot be asked."""
    cannot_promise: tuple[str, ...] = ()
    """What is not certain with this kind of database: one sentence each."""
    extra: str | None = None
    """The extra of this package that brings the driver."""
    snapshot: bool = True
    """Whether the queries of one span see one state of the database."""
    writers: "AsksForWriters | None" = None
    """Which transactions may still commit rows whose cursor they took before; None where that cannot be asked."""
    one_writer: bool = False
    """Whether ids are visible in the order in which they are dealt, since one transaction at a time writes."""
    disordered: Callable[[sa.Connection, str, Mapping[str, object]], list[str]] | None = None
    """Why the ids of the tables that a query reads are no cursor, a sentence each; None where that cannot be asked."""
    limits: Callable[[sa.Connection], list[str]] | None = None
    """What is not certain with this very server, a sentence each; None where that is always the same."""


def not_idle() -> None:
    """Do nothing: the server itself keeps the time."""


def first_line(error: BaseException) -> str:
    """Return an error's text up to its first line break."""
    return " ".join(str(error).split("\n", 1)[0].split()) or type(error).__name__


def pasted(dialect: Dialect, value: int | dt.datetime) -> object:
    """Return a bound as it stands in a query that a person pastes."""
    if dialect.literal is not None and isinstance(value, dt.datetime):
        return query_text.Written(dialect.literal(value))
    bound = value if isinstance(value, int) else dialect.bound(value)
    zoned = isinstance(bound, dt.datetime) and dialect.name in {"postgresql", "duckdb"}
    return bound.replace(tzinfo=None) if isinstance(bound, dt.datetime) and not zoned else bound
