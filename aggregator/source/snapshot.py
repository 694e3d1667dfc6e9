"""A transaction that is open on a source: it is asked with bounds, and its rows are fetched in batches."""

import datetime as dt
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import sqlalchemy as sa

from aggregator.core.model import Fence, Reading, Span
from aggregator.source.dialects import Dialect, Renew
from aggregator.source.rows import Refuse

if TYPE_CHECKING:
    from aggregator.source.by_cursor import ByCursor

BATCH = 5_000
"""Rows fetched at once: enough that the round trip costs nothing, a few megabytes at most."""

SHORTEST_STEP = dt.timedelta(minutes=1)
"""Events have their instants by the minute; what is asked for in shorter pieces would cost more than it could save."""


class Snapshot(NamedTuple):
    """One open transaction."""

    connection: sa.Connection
    dialect: Dialect
    renew: Renew
    asked: object = None
    """What was asked before it began, if it is to prove something."""

    def ask(self, statement: sa.TextClause, span: Span, batch: int = BATCH) -> sa.CursorResult[Any]:
        """Run the query over a span; rows are fetched in batches as they are taken."""
        self.renew()
        values = {"start": self.dialect.bound(span.start), "end": self.dialect.bound(span.end)}
        return self.connection.execute(statement, values, execution_options={"yield_per": batch})

    def batches(self, result: sa.CursorResult[Any]) -> Iterator[list[sa.Row[Any]]]:
        """Fetch batch by batch."""
        self.renew()
        while rows := result.fetchmany(BATCH):
            yield list(rows)
            self.renew()


class Glimpse(NamedTuple):
    """An open snapshot: what it proves, and what asks it a query."""

    fence: Fence | None
    read: Callable[..., Iterator[list[Reading]]]
    """Given a query, a span, the length of its windows, and the query's dimensions, if it has any."""


class SideBySide(NamedTuple):
    """An open snapshot in which any queries are asked: what it proves, what asks them, and whether they see one state."""

    fence: Fence | None
    read: Callable[..., Iterator[list[Reading]]]
    """Given what `Glimpse.read` is; a query that returns no `window` is asked once per window."""
    one_state: bool
    """False of a kind of database that keeps no snapshot: each query may see another state."""
    by_cursor: "ByCursor"
    """What asks it for rows by their cursor."""


class Shape(NamedTuple):
    """Which of the optional columns a query returns."""

    returns_window: bool
    returns_at: bool


def pieces(span: Span, step: dt.timedelta | None) -> Iterator[Span]:
    """Yield the span in consecutive pieces of at most `step`; whole without one."""
    start = span.start
    while start < span.end:
        end = span.end if step is None else min(start + step, span.end)
        yield Span(start, end)
        start = end


def names_of(result: sa.CursorResult[Any], refuse: Refuse, what: str = "a usage query") -> list[str]:
    """Return the names of the columns that a query gives; one that gives no rows is refused, by what it is."""
    if not result.returns_rows:
        raise refuse(f"{what} may only read, and must return rows: write one `select`")
    return list(result.keys())


def declared_fence(at: dt.datetime, fresh_until: dt.datetime | None) -> Fence:
    """Return what is known of a database whose transactions and clock nobody can ask: what its `freshness` query says."""
    return Fence(
        at=at,
        xmin=0,
        xmax=0,
        oldest_start=None,
        sees_starts=False,
        standby=False,
        fresh_until=fresh_until,
        holder=None,
        declared=True,
    )
