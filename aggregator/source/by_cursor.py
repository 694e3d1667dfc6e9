"""A source that is read by a cursor: asked where its rows end, and for the rows of a stretch, each of them once.

Rules
- Whatever a query returns, its rows lie within the stretch that was asked for: a query that ignores its bounds is refused,
  since its rows would be added again and again.
- A cursor is a whole number or an instant, and of one kind for good.
"""

import datetime as dt
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from decimal import Decimal
from functools import partial
from typing import Any

import sqlalchemy as sa

from aggregator.core import definitions, deltas
from aggregator.core.deltas import TICK, Cursor, Top, Writers
from aggregator.core.model import EPOCH, Definition, Reading, Span
from aggregator.core.windows import floor
from aggregator.runtime import clock
from aggregator.source.rows import (
    DOUBLE_NOISE,
    PADDED,
    Instants,
    OutOfRange,
    Places,
    Refuse,
    Rows,
    places,
)
from aggregator.source.snapshot import Shape, Snapshot, names_of

MOST_STRETCHES = 50
"""Up to so many stretches are looked ahead for one goal: what lies behind them is the next goal's."""

STRETCH, UPTO, RECOUNT = "after|upto", "after", "start|end|upto"
"""What is filled in of the queries."""

EVER = Span(EPOCH, dt.datetime.max.replace(tzinfo=dt.UTC))


class ByCursor:
    """Asks for rows by their cursor, within the snapshot that is open."""

    def __init__(
        self,
        snapshot: Snapshot,
        statement: Callable[[str, str], sa.TextClause],
        kinds_of: Callable[[sa.CursorResult[Any]], list[str | None]],
        instants: Instants,
        refuse: Refuse,
    ) -> None:
        self._snapshot = snapshot
        self._statement = statement
        self._kinds_of = kinds_of
        self._instants = instants
        self._refuse = refuse
        self._dialect = snapshot.dialect

    def top(self, upto_query: str, after: Cursor) -> Top:
        """Return where the rows end, and who is writing after that was looked at."""
        upto = after
        for _ in range(MOST_STRETCHES):
            end = self.end_of_stretch(upto_query, upto)
            if end is None:
                break
            upto = end
        else:
            end = upto
        writers, at = self.writers(by_instant=isinstance(after, dt.datetime))
        if isinstance(upto, dt.datetime) and isinstance(after, dt.datetime):
            upto = max(after, min(upto, at - TICK))
        return Top(at, upto, end is None, writers)

    def end_of_stretch(self, upto_query: str, after: Cursor) -> Cursor | None:
        """Return where the stretch of rows after a cursor ends; None if there are none."""
        result = self._ask(upto_query, UPTO, {"after": after})
        with closing(result):
            if not result.returns_rows or len(result.keys()) != 1:
                raise self._refuse("the `upto_query` must return one value: one column and one row")
            row = result.fetchone()
        if row is None or row[0] is None:
            return None
        upto = self._cursor(row[0], "`upto_query` returns")
        self._compare(upto, after)
        if not deltas.is_after(upto, after):
            raise self._refuse(
                f"the `upto_query` returns {upto}, which does not lie after `:after`, {after}: ask for higher ones only"
            )
        return upto

    def writers(self, *, by_instant: bool) -> tuple[Writers | None, dt.datetime]:
        """Return who may still commit rows with cursors from before, and when that was asked, by the database's clock."""
        self._snapshot.renew()
        connection = self._snapshot.connection
        if self._dialect.fence is not None:
            at = self._dialect.fence(connection, None, self._snapshot.asked).at
        else:
            at = clock.utcnow()
        if self._dialect.one_writer and not by_instant:
            return Writers(frozenset(), frozenset()), at
        ask = self._dialect.writers
        return None if ask is None else ask(connection, by_instant=by_instant), at

    def disordered(self, query: str, after: Cursor) -> list[str]:
        """Say why what a query reads has no order that a cursor can follow, a sentence each."""
        if isinstance(after, dt.datetime) and self._dialect.least > dt.timedelta(microseconds=1):
            return [f"instants of {self._dialect.name} are compared by the second: use an id as the cursor"]
        if self._dialect.disordered is None:
            return []
        self._snapshot.renew()
        values = self._bound({"after": after, "upto": after})
        return self._dialect.disordered(
            self._snapshot.connection, self._statement(query, STRETCH).text, values
        )

    def read(
        self, query: str, after: Cursor, upto: Cursor, known: Sequence[Definition]
    ) -> Iterator[list[Reading]]:
        """Yield the rows of a stretch in batches, each in the window that its instant lies in by then.

        They are kept apart by the dimensions of the latest definition.

        Raises QueryRejected for a row that lies outside of the stretch.
        """
        self._compare(upto, after)
        with closing(self._ask(query, STRETCH, {"after": after, "upto": upto})) as result:
            found = self._places(result, known[-1].dimensions, by_cursor=True)
            rows = self._rows(result, found, partial(_window_by, known))
            for batch in self._snapshot.batches(result):
                self._check_cursors([row[found.cursor] for row in batch], after, upto)  # type: ignore[index]
                yield rows.readings(batch)

    def shape(self, query: str, after: Cursor, dimensions: Sequence[str] = ()) -> Shape:
        """Ask for no rows, and say what the query returns."""
        with closing(self._ask(query, STRETCH, {"after": after, "upto": after})) as result:
            found = self._places(result, dimensions, by_cursor=True)
        return Shape(found.window is not None, found.at is not None)

    def recount(
        self, query: str, span: Span, upto: Cursor, known: Sequence[Definition]
    ) -> Iterator[list[Reading]]:
        """Yield what windows of a span come to in the rows up to a cursor. Raises QueryRejected without `window`."""
        with closing(
            self._ask(query, RECOUNT, {"start": span.start, "end": span.end, "upto": upto})
        ) as result:
            found = self._places(result, known[-1].dimensions)
            if found.window is None:
                raise self._refuse("the `recount_query` returns no column `window`")
            rows = self._rows(result, found, partial(_window_by, known), span)
            for batch in self._snapshot.batches(result):
                yield rows.readings(batch)

    def _rows(
        self,
        result: sa.CursorResult[Any],
        found: Places,
        window_of: Callable[[dt.datetime], Span],
        span: Span = EVER,
    ) -> Rows:
        padded = self._kinds_of(result)[found.customer] in PADDED
        return RowsOfAnyWindow(
            found, self._instants, span, window_of, self._refuse, DOUBLE_NOISE, padded=padded
        )

    def _places(
        self, result: sa.CursorResult[Any], dimensions: Sequence[str], *, by_cursor: bool = False
    ) -> Places:
        found = places(names_of(result, self._refuse), self._refuse, dimensions, by_cursor=by_cursor)
        if by_cursor and found.cursor is None:
            raise self._refuse(
                "the query returns no column `cursor`: with `read: deltas`, each row says where it lies"
            )
        if found.window is None and found.at is None:
            raise self._refuse(
                "the query returns neither `at` nor `window`: with `read: deltas`, each row says when it was used"
            )
        return found

    def _ask(self, query: str, names: str, values: Mapping[str, Cursor]) -> sa.CursorResult[Any]:
        self._snapshot.renew()
        return self._snapshot.connection.execute(
            self._statement(query, names), self._bound(values), execution_options={"yield_per": 5_000}
        )

    def _bound(self, values: Mapping[str, Cursor]) -> dict[str, object]:
        bound = self._dialect.bound
        return {
            name: bound(value) if isinstance(value, dt.datetime) else value for name, value in values.items()
        }

    def _check_cursors(self, column: Sequence[object], after: Cursor, upto: Cursor) -> None:
        for value in set(column):
            cursor = self._cursor(value, "a row's `cursor` is")
            self._compare(cursor, after)
            if not deltas.is_after(cursor, after) or deltas.is_after(cursor, upto):
                raise self._refuse(
                    f"a row's `cursor` is {cursor}, outside of what was asked for, after {after} and up to {upto}: the "
                    "WHERE clause must take rows with `cursor > :after and cursor <= :upto`, by what is given as `cursor`"
                )

    def _cursor(self, value: object, what: str) -> Cursor:
        """Return a cursor as one of the two kinds there are."""
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        if isinstance(value, Decimal) and value.is_finite() and value == value.to_integral_value():
            return int(value)
        if isinstance(value, dt.datetime):
            instant = self._instants.read("cursor", value)
            if not isinstance(instant, OutOfRange):
                return instant
        raise self._refuse(
            f"{what} {str(value)[:40]!a}, which is neither a whole number nor an instant: return a key of the table "
            "that grows, or the instant at which a row was written"
        )

    def _compare(self, cursor: Cursor, other: Cursor) -> None:
        try:
            deltas.is_after(cursor, other)
        except TypeError:
            raise self._refuse(
                f"the cursor is {cursor} now, and it was {other}: a number and an instant do not follow each other; "
                "begin a new meter for another cursor"
            ) from None


class RowsOfAnyWindow(Rows):
    """Converts rows that each say by themselves in which window they lie: by `window`, or by `at`."""

    def __init__(
        self,
        found: Places,
        instants: Instants,
        asked: Span,
        window_of: Callable[[dt.datetime], Span],
        refuse: Refuse,
        noise: Decimal,
        *,
        padded: bool,
    ) -> None:
        if found.window is None:
            found = found._replace(window=found.at)
        super().__init__(found, instants, asked, dt.timedelta(days=1), refuse, noise, padded=padded)
        self._window_of = window_of

    def _whole(self, instant: dt.datetime) -> Span:
        return self._window_of(instant)


def _window_by(known: Sequence[Definition], instant: dt.datetime) -> Span:
    """Return the window that an instant lies in, by the definition that holds there."""
    length = definitions.at(known, instant).window
    start = floor(instant, length)
    return Span(start, start + length)
