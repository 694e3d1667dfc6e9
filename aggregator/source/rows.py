"""Rows become readings. Pure: what a driver fetched goes in, readings or a plain refusal come out.

Rules
- What one customer's row does wrong is set aside under its reason, and every other row goes on. What the query as a whole
  does wrong (a column's name, type or time zone, a row outside the span) refuses the query.
- A batch is converted column by column: the types found in a column choose how it is converted, so the common case runs
  at the speed of `map`, and a type that appears late is still seen.
- Numbers become Decimal. A float becomes the shortest decimal that stands for it, `Decimal(repr(value))`; SQLite has no
  other fractions, elsewhere an exact type (numeric, decimal) should be returned.
"""

import datetime as dt
import re
import unicodedata
import uuid
from collections.abc import Callable, Iterator, Sequence
from decimal import Clamped, Context, Decimal, DecimalException, Overflow, Rounded, Subnormal
from itertools import repeat
from types import NoneType
from typing import NamedTuple

from aggregator.errors import QueryRejected
from aggregator.model import Reading, Span
from aggregator.windows import floor

KNOWN = ("customer", "quantity", "at", "window")

LONGEST_KEY = 500
"""Longer than any billing system's customer id; what is longer is a document in the wrong column."""

DIGITS = 60
"""More than any count of anything; what has more is a mistake, and would slow every sum that it enters."""

EXACT = Context(prec=DIGITS, Emax=DIGITS, Emin=-DIGITS, traps=[Rounded, Overflow, Subnormal])
"""Refuses to round: `create_decimal` raises where a number does not fit `DIGITS` digits."""
assert not EXACT.traps[Clamped], "a zero with a long tail is still a zero"

CACHED_WINDOWS = 10_000
"""Queries may return any instant as `window`; the cache from those to windows is emptied when it holds this many."""

INSTANT = re.compile(r"\d{4}-\d\d-\d\d(?:[ T].*)?", re.DOTALL)

WORDS = {
    NoneType: "NULL",
    bool: "boolean",
    bytes: "bytes",
    dt.date: "date",
    dt.datetime: "timestamp",
    float: "floating point",
    int: "integer",
    str: "text",
}

type_of = type
Column = Sequence[object]
Flaws = dict[int, list[str]]
Refuse = Callable[[str], QueryRejected]


class OutOfRange(str):
    """An instant that the database can hold and Python cannot, as the database writes it: `infinity`, year 10000."""

    __slots__ = ()


class Places(NamedTuple):
    """Where the known columns stand in a row."""

    customer: int
    quantity: int
    at: int | None
    window: int | None


def places(names: Sequence[str], refuse: Refuse) -> Places:
    """Find the known columns, in any order and letter case; raise what `refuse` makes of any other set of columns."""
    lower = [name.lower() for name in names]
    found = f"it returns {', '.join(names)}; a usage query returns customer, quantity and, if wanted, at and window"
    for name in lower:
        if name not in KNOWN:
            raise refuse(f"the query returns an unknown column `{name}`: {found}")
        if lower.count(name) > 1:
            raise refuse(f"the query returns `{name}` more than once: {found}")
    for name in ("customer", "quantity"):
        if name not in lower:
            raise refuse(f"the query returns no column `{name}`: {found}")
    at = lower.index("at") if "at" in lower else None
    window = lower.index("window") if "window" in lower else None
    return Places(lower.index("customer"), lower.index("quantity"), at, window)


class Instants(NamedTuple):
    """Reads instants of whatever type a driver returns, for one source.

    `naive_is_utc` where a timestamp without a time zone is declared, or by convention of the database, to be UTC.
    `number_remedy` is the SQL that makes an instant of epoch seconds.
    """

    naive_is_utc: bool
    number_remedy: str
    refuse: Refuse

    def read(self, column: str, value: object) -> dt.datetime | OutOfRange:
        """Return the instant in UTC."""
        if isinstance(value, OutOfRange):
            return value
        found = self._moment(column, value)
        if found.utcoffset() is not None:
            return found.astimezone(dt.UTC)
        if self.naive_is_utc:
            return found.replace(tzinfo=dt.UTC)
        raise self.refuse(
            f"column `{column}` holds {value}, which has no time zone: return timestamptz "
            f"(`{column} at time zone 'UTC'`), or set `timezone: UTC` on the source if that is what it is"
        )

    def _moment(self, column: str, value: object) -> dt.datetime:
        if isinstance(value, dt.datetime):
            return value
        if isinstance(value, dt.date):
            return dt.datetime(value.year, value.month, value.day)  # noqa: DTZ001 - `read` demands its zone
        if isinstance(value, int | float | Decimal):
            raise self.refuse(
                f"column `{column}` holds a number ({value}): return an instant, `{self.number_remedy}`"
            )
        if isinstance(value, str) and INSTANT.fullmatch(value):
            try:
                return dt.datetime.fromisoformat(value)
            except ValueError:
                pass
        raise self.refuse(f"column `{column}` holds {_shown(value)}, which is no instant: return a timestamp")


class Readings:
    """Converts the rows of one result.

    `asked` is the span that the query was given; rows without a `window` column belong to it as one window.
    """

    def __init__(
        self, where: Places, instants: Instants, asked: Span, length: dt.timedelta, refuse: Refuse
    ) -> None:
        self._where = where
        self._instants = instants
        self._asked = asked
        self._length = length
        self._refuse = refuse
        self._windows: dict[object, Span] = {}

    def convert(self, rows: Sequence[Sequence[object]]) -> list[Reading]:
        """Return one reading per row, in order; raises QueryRejected where the query itself is at fault."""
        columns: list[Column] = list(zip(*rows, strict=True))
        where, flaws = self._where, Flaws()
        customers = _customers(columns[where.customer], flaws, self._refuse)
        quantities = _quantities(columns[where.quantity], flaws, self._refuse)
        windows = self._windows_of(columns, len(rows))
        instants: Column = [None] * len(rows)
        if where.at is not None:
            instants = self._ats(columns[where.at], flaws)
            self._check_inside(windows, instants, columns[where.customer])
        starts = [window[0] for window in windows]
        readings = list(map(Reading._make, zip(starts, customers, quantities, instants, repeat(None))))
        for index, reasons in flaws.items():
            readings[index] = readings[index]._replace(at=None, reason="; ".join(reasons))
        return readings

    def _windows_of(self, columns: list[Column], count: int) -> list[Span]:
        if self._where.window is None:
            return [self._asked] * count
        column = columns[self._where.window]
        if len(self._windows) > CACHED_WINDOWS:
            self._windows.clear()
        for value in set(map(_hashed, column)).difference(self._windows):
            self._windows[value] = self._window(value)
        return list(map(self._windows.__getitem__, column))

    def _window(self, value: object) -> Span:
        """Return the window that holds an instant of the `window` column."""
        instant = self._instants.read("window", value)
        if isinstance(instant, OutOfRange) or instant not in self._asked:
            raise self._refuse(
                f"a row's `window` is {value}, outside of {self._asked}, the span asked for: "
                "let the WHERE clause take rows from `:start` on and before `:end`, by the same column"
            )
        start = floor(instant, self._length)
        return Span(start, start + self._length)

    def _ats(self, column: Column, flaws: Flaws) -> Column:
        kinds = set(map(type_of, column))
        if kinds <= {NoneType, dt.datetime}:
            moments = [value for value in column if isinstance(value, dt.datetime)]
            if all(moment.tzinfo is not None for moment in moments):
                return [value and value.astimezone(dt.UTC) for value in column]  # type: ignore[attr-defined]
        return [self._at(index, value, flaws) for index, value in enumerate(column)]
