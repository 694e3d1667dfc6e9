"""A query on trial: asked for any stretch of time, as often as it takes, in one snapshot.

What it answers is handed on as it came from the driver, beside the readings that it makes. Which tables it would read whole,
and which keys a table has more than once, is asked here, too.
"""

import datetime as dt
from collections.abc import Callable
from contextlib import closing
from decimal import Decimal
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from aggregator.core.model import ZERO, Differing, Reading, Span
from aggregator.source.rows import PADDED, Instants, Places, Rows
from aggregator.source.snapshot import Snapshot

MOST_ROWS = 100_000
"""More than enough to judge by, and a few tens of megabytes."""


LATER = "a moment later: the query counts up to the present instant"


class Answer(NamedTuple):
    """What the query answered for a stretch of time: `rows` as the driver gave them, up to MOST_ROWS of them."""

    names: tuple[str, ...]
    kinds: tuple[str | None, ...]
    places: Places
    rows: list[tuple[object, ...]]
    whole: bool
    """Whether these are all rows."""


class Trying:
    """Asks one query, within the snapshot that is open."""

    def __init__(
        self,
        snapshot: Snapshot,
        statement: sa.TextClause,
        places_of: Callable[[sa.CursorResult[Any]], Places],
        kinds_of: Callable[[sa.CursorResult[Any]], list[str | None]],
        instants: Instants,
    ) -> None:
        self._snapshot = snapshot
        self._statement = statement
        self._places_of = places_of
        self._kinds_of = kinds_of
        self._instants = instants
        self.dialect = snapshot.dialect.name
        self.naive_is_utc = instants.naive_is_utc
        self.zoned = instants.zoned
        self.least = snapshot.dialect.least
        """The shortest time by which two bounds can differ."""

    def ask(self, span: Span) -> Answer:
        """Ask for a stretch of time, which may have no length."""
        with closing(self._snapshot.ask(self._statement, span)) as result:
            found = self._places_of(result)
            names, kinds = tuple(result.keys()), tuple(self._kinds_of(result))
            rows: list[tuple[object, ...]] = []
            for batch in self._snapshot.batches(result):
                rows.extend(tuple(row) for row in batch)
                if len(rows) > MOST_ROWS:
                    return Answer(names, kinds, found, rows, whole=False)
        return Answer(names, kinds, found, rows, whole=True)

    def readings(self, answer: Answer, span: Span, length: dt.timedelta) -> list[Reading]:
        """Return the readings that an answer for windows makes. Raises QueryRejected as a pass would."""
        return self._rows(answer, answer.places, span, length).readings(answer.rows)

    def amounts(self, answer: Answer, span: Span, length: dt.timedelta) -> list[Reading]:
        """Return the same without a look at instants, so that it does for any stretch."""
        bare = answer.places._replace(at=None, window=None)
        return self._rows(answer, bare, span, length).readings(answer.rows)

    def _rows(self, answer: Answer, found: Places, span: Span, length: dt.timedelta) -> Rows:
        padded = answer.kinds[found.customer] in PADDED
        return Rows(found, self._instants, span, length, self._instants.refuse, padded=padded)

    def whole(self, span: Span, length: dt.timedelta) -> list[Reading] | None:
        """Ask for a window; return what it used, None if that is too much to compare."""
        answer = self.ask(span)
        return self.amounts(answer, span, length) if answer.whole else None

    def instants(self, answer: Answer) -> list[dt.datetime]:
        """Return the instants of the column `at`, as far as they are such."""
        place = answer.places.at
        values = [] if place is None else [row[place] for row in answer.rows if row[place] is not None]
        found = (self._instants.read("at", value) for value in values)
        return [each for each in found if isinstance(each, dt.datetime)]

    def read_whole(self, span: Span) -> str | None:
        """Return a table of which all would be read for a stretch of it, as no index serves; None if that cannot be told."""
        reads = self._snapshot.dialect.reads_whole
        if reads is None:
            return None
        bound = self._snapshot.dialect.bound
        return reads(
            self._snapshot.connection, self._statement, {"start": bound(span.start), "end": bound(span.end)}
        )

    def sample(self, table: str, column: str) -> object:
        """Return one value of a column; None if there is none. On Postgres a mistake would end the snapshot."""
        where = _table(table, column)
        found = sa.select(where.c[column]).where(where.c[column].is_not(None)).limit(1)
        self._snapshot.renew()
        try:
            return self._snapshot.connection.scalar(found)
        except SQLAlchemyError:
            return None  # what looked like a table and its column is something else

    def keys_more_than_once(self, table: str, column: str) -> tuple[int, object]:
        """Return how many values a column has more than once, and one of them; to be asked last, see `sample`."""
        where = _table(table, column)
        key = where.c[column]
        groups = (
            sa.select(key.label("key"))
            .where(key.is_not(None))
            .group_by(key)
            .having(sa.func.count() > 1)
            .subquery()
        )
        self._snapshot.renew()
        asked = sa.select(sa.func.count(), sa.func.min(groups.c.key))
        try:
            many, example = self._snapshot.connection.execute(asked).one()
        except SQLAlchemyError:
            return 0, None
        return many, example


def differing(first: list[Reading] | None, second: list[Reading] | None) -> Differing | None:
    """Return the first customer of whom two readings say two things, noise apart; None as well where that cannot be told."""
    if first is None or second is None:
        return None
    noise = max((each.noise for each in (*first, *second)), default=ZERO)
    before, after = _by_customer(first), _by_customer(second)
    for customer in sorted(before.keys() | after.keys(), key=str):
        one, other = before.get(customer, ZERO), after.get(customer, ZERO)
        if abs(one - other) > noise * max(abs(one), abs(other)):
            return Differing(customer, one, other)
    return None


def _by_customer(readings: list[Reading]) -> dict[str | None, Decimal]:
    found: dict[str | None, Decimal] = {}
    for each in readings:
        found[each.customer] = found.get(each.customer, ZERO) + (each.quantity or ZERO)
    return found


def _table(name: str, column: str) -> sa.TableClause:
    schema, _, table = name.rpartition(".")
    return sa.table(table, sa.column(column), schema=schema or None)
