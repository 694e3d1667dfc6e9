"""Rows become readings. Pure: what a driver fetched goes in, readings or a plain refusal come out.

Rules
- What is wrong with one row's customer or number is set aside under its reason, and every other row goes on. What is wrong
  with the query (a column's name, type or time zone, a row outside the span) refuses the query.
- A batch is converted column by column. The types found in a column choose how: the common case runs at the speed of
  `map`, and a type that turns up late is still seen.
- The value of a dimension becomes text without blanks around it: a model, not a number. NULL and blank are no value: a row
  without one belongs to no combination, as one without a customer belongs to nobody, and is set aside.
- A quantity becomes a Decimal. A float is rounded to the 15 digits that it surely has, and carries along how much of it may
  be noise: a sum of floats depends on the order in which rows are read. SQLite has no other fractions; elsewhere an exact
  type (numeric, decimal) is the one to return.
"""

import datetime as dt
import math
import re
import unicodedata
import uuid
from collections.abc import Callable, Iterable, Sequence
from decimal import Context, Decimal, DecimalException, Inexact, Overflow, Rounded, Subnormal
from itertools import repeat
from operator import attrgetter
from types import NoneType
from typing import NamedTuple, cast

from aggregator.core.dimensions import Dimensions
from aggregator.core.model import ZERO, Reading, Span
from aggregator.core.planner import plain
from aggregator.core.windows import floor
from aggregator.errors import QueryRejected

KNOWN = ("customer", "quantity", "at", "window")

LONGEST_KEY = 500
"""Longer than any billing system's customer id; what is longer is a document in the wrong column."""

LONGEST_VALUE = 100
"""Longer than the name of any model, region or plan; what is longer is no dimension, and would burden every event."""

DIGITS = 60
"""More than any count of anything; a number with more is a mistake, and would burden every sum it enters."""

EXACT = Context(prec=DIGITS, Emax=DIGITS, Emin=-DIGITS, traps=[Inexact, Overflow, Rounded, Subnormal])
"""Refuses to round: its `create_decimal` raises where a number does not fit."""

FLOAT_DIGITS = 15
"""What every double can hold of a decimal (DBL_DIG); the digits behind them are not the number's own."""

EXACT_INTEGERS = 2**53
"""Below it a double counts without a gap: such an integer is what it says."""

DOUBLE_NOISE = Decimal("1e-11")
"""By what share a sum of doubles may move with the order of its rows: a million additions, each half a unit of the 16th
digit off, and all in one direction."""

SINGLE_NOISE = Decimal("1e-5")
"""The same of four-byte floats, which have seven digits: a hundred additions in one direction, or a great many in both."""

CACHED_COMBINATIONS = 10_000
"""More than one meter is to have; the cache of them is emptied once it holds as many."""

SINGLE_FLOATS = {"float4", "float32", "real"}
"""What databases call a floating-point number of four bytes."""

CACHED_WINDOWS = 10_000
"""A query may return any instant as `window`; the cache from those to windows is emptied once it holds this many."""

ZONED = "a timestamptz (`{column} at time zone 'UTC'`, with the zone it was written in)"
"""What to return for a column without a time zone, where a database has a type with one."""

PADDED = {"bpchar"}
"""What databases call a text that is filled up with blanks, which are no part of its value
(postgresql.org/docs/current/datatype-character.html)."""

ISO_INSTANT = re.compile(r"\d{4}-\d\d-\d\d(?:[ T]\d\d.*)?")

ZONE = attrgetter("tzinfo")

NEW_READING = tuple.__new__
"""Makes a Reading of an iterable as `Reading._make` does, without a Python frame for each of a million."""

VALUES = (str, int, float, Decimal, uuid.UUID, dt.date, NoneType)
"""What the value of a dimension can be made of; `bool` is an `int`."""

WORDS = {
    NoneType: "NULL",
    bool: "boolean",
    bytes: "bytes",
    dt.date: "date",
    float: "floating point",
    int: "integer",
    str: "text",
    Decimal: "numeric",
    dt.datetime: "timestamp",
}

Column = Sequence[object]
Flaws = dict[int, list[str]]
Refuse = Callable[[str], QueryRejected]


class OutOfRange(str):
    """An instant that a database can hold and Python cannot, as the database writes it: `infinity`, or year 10000."""

    __slots__ = ()


class Places(NamedTuple):
    """Where the known columns stand in a row."""

    customer: int
    quantity: int
    at: int | None
    window: int | None
    dimensions: tuple[tuple[str, int], ...] = ()
    """By the name of each dimension, in the order of the names."""
    cursor: int | None = None
    """Where rows are read by a cursor."""


def columns(
    names: Sequence[str], refuse: Refuse, known: Sequence[str] = KNOWN, otherwise: str = ""
) -> dict[str, int]:
    """Return where the known columns stand, in any order and letter case; any other set of columns is refused.

    `otherwise` says when a column that is not known would be.
    """
    lower = [name.lower() for name in names]
    found = f"; found: {', '.join(names) or 'no columns'}; known: {', '.join(known)}"
    unknown = [name for name in names if name.lower() not in known]
    if unknown:
        raise refuse(f"the query returns a column it may not, `{unknown[0]}`{otherwise}{found}")
    for name in known:
        if lower.count(name) > 1:
            raise refuse(f"the query returns `{name}` more than once{found}")
    for name in ("customer", "quantity"):
        if name not in lower:
            raise refuse(f"the query returns no column `{name}`{found}")
    return {name: index for index, name in enumerate(lower)}


def places(
    names: Sequence[str], refuse: Refuse, dimensions: Sequence[str] = (), *, by_cursor: bool = False
) -> Places:
    """Find the columns of a usage query, with those of the dimensions."""
    known = (*KNOWN, "cursor", *dimensions) if by_cursor else (*KNOWN, *dimensions)
    place = columns(names, refuse, known, ", unless `dimensions` of the meter names it")
    for name in dimensions:
        if name not in place:
            raise refuse(
                f"the query returns no column `{name}`, which `dimensions` of the meter names; found: {', '.join(names)}; "
                f"known: {', '.join(known)}"
            )
    apart = tuple((name, place[name]) for name in sorted(dimensions))
    at, window, cursor = place.get("at"), place.get("window"), place.get("cursor")
    return Places(place["customer"], place["quantity"], at, window, apart, cursor)


def noise_of(kind: str | None) -> Decimal:
    """Return by what share of it a float of a column of this type may be off."""
    return SINGLE_NOISE if kind in SINGLE_FLOATS else DOUBLE_NOISE


class Instants(NamedTuple):
    """Reads the instants of one source, of whatever type its driver returns.

    `naive_is_utc` where a timestamp without a time zone is UTC, by declaration or by the database's own convention.
    `from_number` is the SQL that makes an instant of epoch seconds, `zoned` what to return for a `{column}` without a zone.
    """

    naive_is_utc: bool
    from_number: str
    refuse: Refuse
    zoned: str = ZONED

    def read(self, column: str, value: object) -> dt.datetime | OutOfRange:
        """Return the instant in UTC."""
        if isinstance(value, OutOfRange):
            return value
        moment = self._moment(column, value)
        if moment.utcoffset() is not None:
            try:
                return moment.astimezone(dt.UTC)
            except OverflowError:
                return OutOfRange(value)
        if self.naive_is_utc:
            return moment.replace(tzinfo=dt.UTC)
        raise self.refuse(
            f"column `{column}` holds {value}, which has no time zone: return {self.zoned.format(column=column)}, or set "
            "`timezone: UTC` on the source if it is UTC"
        )

    def _moment(self, column: str, value: object) -> dt.datetime:
        match value:
            case dt.datetime():
                return value
            case dt.date():
                return dt.datetime.combine(value, dt.time.min)
            case bool() | None:
                pass
            case int() | float() | Decimal():
                raise self.refuse(
                    f"column `{column}` holds a number ({value}): make an instant of it with `{self.from_number}`"
                )
            case str() if ISO_INSTANT.fullmatch(value):
                try:
                    return dt.datetime.fromisoformat(value)
                except ValueError:
                    pass
        raise self.refuse(f"column `{column}` holds {_shown(value)}, which is no instant: return a timestamp")


class Rows:
    """Converts the rows of one result.

    `asked` is the span the query was given, whole windows or a piece of one; where it returns no `window` column, every row
    belongs to the window that holds that span. `noise` is what a float of the column `quantity` may be off by. `padded`
    says that the column `customer` is filled up with blanks.
    """

    def __init__(
        self,
        found: Places,
        instants: Instants,
        asked: Span,
        length: dt.timedelta,
        refuse: Refuse,
        noise: Decimal = DOUBLE_NOISE,
        *,
        padded: bool = False,
    ) -> None:
        self._places = found
        self._instants = instants
        self._asked = asked
        self._length = length
        self._refuse = refuse
        self._noise = noise
        self._padded = padded
        self._windows: dict[object, Span] = {}
        self._combinations: dict[tuple[object, ...], tuple[Dimensions | None, str | None]] = {}

    def readings(self, rows: Sequence[Sequence[object]]) -> list[Reading]:
        """Return one reading per row, in order; raises QueryRejected where the query is at fault."""
        if not rows:
            return []
        columns = list(zip(*rows, strict=True))
        flaws: Flaws = {}
        customers = _customers(columns[self._places.customer], flaws, self._refuse, padded=self._padded)
        quantities = _quantities(columns[self._places.quantity], flaws, self._refuse)
        noise = self._noise if float in set(map(type, columns[self._places.quantity])) else ZERO
        windows = self._windows_of(columns, len(rows))
        ats: Sequence[dt.datetime | None] = [None] * len(rows)
        if self._places.at is not None:
            ats = self._ats(columns[self._places.at], quantities, flaws)
            self._check_inside(ats, windows, customers)
        combinations: Iterable[Dimensions | None] = repeat(())
        if self._places.dimensions:
            combinations = self._combined([columns[place] for _, place in self._places.dimensions], flaws)
        values = zip(
            [window[0] for window in windows],
            customers,
            quantities,
            ats,
            repeat(None),
            repeat(noise),
            combinations,
            strict=False,
        )
        readings = list(map(NEW_READING, repeat(Reading), values))
        for index, reasons in flaws.items():
            readings[index] = readings[index]._replace(at=None, reason="; ".join(reasons))
        return readings

    def _combined(self, columns: Sequence[Column], flaws: Flaws) -> list[Dimensions | None]:
        """Return the combination of each row; None where a dimension has no usable value."""
        for (name, _), column in zip(self._places.dimensions, columns, strict=True):
            for kind in set(map(type, column)):
                if not issubclass(kind, VALUES) or issubclass(kind, dt.datetime | OutOfRange):
                    raise self._refuse(
                        f"column `{name}` holds {_word(kind)}: return a dimension as text, number or boolean"
                    )
        if len(self._combinations) > CACHED_COMBINATIONS:
            self._combinations.clear()
        # A type is part of the key: 1, true and 1.0 are equal, and are three texts.
        keys = list(zip(*columns, *(map(type, column) for column in columns), strict=True))
        for key in set(keys).difference(self._combinations):
            self._combinations[key] = self._combination(key[: len(columns)])
        found = list(map(self._combinations.__getitem__, keys))
        for index, (_, flaw) in enumerate(found):
            if flaw is not None:
                flaws.setdefault(index, []).append(flaw)
        return [combination for combination, _ in found]

    def _combination(self, values: Sequence[object]) -> tuple[Dimensions | None, str | None]:
        """Return the combination of these values; None, and why, if one of them is none."""
        names = [name for name, _ in self._places.dimensions]
        texts = list(map(_value_as_text, values))
        for name, text in zip(names, texts, strict=True):
            flaw = _unusable_value(text)
            if flaw is not None:
                return None, f"dimension `{name}` {flaw}"
        return tuple(zip(names, texts, strict=True)), None

    def _windows_of(self, columns: Sequence[Column], count: int) -> Sequence[Span]:
        if self._places.window is None:
            return [self._whole(self._asked.start)] * count
        column = columns[self._places.window]
        for kind in set(map(type, column)):
            if not issubclass(kind, dt.date | str):
                self._instants.read("window", next(value for value in column if type(value) is kind))
        if len(self._windows) > CACHED_WINDOWS:
            self._windows.clear()
        if any(getattr(value, "fold", 0) for value in column):
            # Two instants an hour apart, at the end of summer time, are equal as keys: each is looked at by itself.
            return [self._window(value) for value in column]
        for value in set(column).difference(self._windows):
            self._windows[value] = self._window(value)
        return list(map(self._windows.__getitem__, column))

    def _window(self, value: object) -> Span:
        """Return the window that holds an instant of the `window` column."""
        instant = self._instants.read("window", value)
        if not isinstance(instant, OutOfRange):
            window = self._whole(instant)
            if window.start < self._asked.end and self._asked.start < window.end:
                return window
        raise self._refuse(
            f"a row's `window` is {value}, outside of the span it was asked for, {self._asked}: "
            "the WHERE clause must take rows from `:start` on and before `:end`, by the instant that makes `window`"
        )

    def _whole(self, instant: dt.datetime) -> Span:
        start = floor(instant, self._length)
        return Span(start, start + self._length)

    def _ats(
        self, column: Column, quantities: list[Decimal | None], flaws: Flaws
    ) -> Sequence[dt.datetime | None]:
        """Return the column in UTC; an instant that is none voids its row's quantity."""
        if set(map(type, column)) == {dt.datetime}:
            moments = cast("Sequence[dt.datetime]", column)
            if None not in map(ZONE, moments):
                return list(map(dt.datetime.astimezone, moments, repeat(dt.UTC)))
        ats: list[dt.datetime | None] = []
        for index, value in enumerate(column):
            at = None if value is None else self._instants.read("at", value)
            if isinstance(at, OutOfRange):
                quantities[index] = None
                flaws.setdefault(index, []).append(
                    "at is infinite" if at.endswith("infinity") else f"at is out of range: {at}"
                )
                at = None
            ats.append(at)
        return ats

    def _check_inside(
        self,
        ats: Sequence[dt.datetime | None],
        windows: Sequence[Span],
        customers: Sequence[str | None],
    ) -> None:
        first, last = self._asked
        for index, (at, (start, end)) in enumerate(zip(ats, windows, strict=True)):
            if at is not None and not (start <= at < end and first <= at < last):
                whole = start >= first and end <= last
                outside = f"its window {windows[index]}" if whole else f"the span asked for, {self._asked}"
                raise self._refuse(
                    f"the row of customer {_shown(customers[index])} has `at` {at}, outside of {outside}: "
                    "the WHERE clause must take rows from `:start` on and before `:end`, by the instant given as `at`"
                )


def _customers(column: Column, flaws: Flaws, refuse: Refuse, *, padded: bool) -> Sequence[str | None]:
    """Return the keys as text, None where a row cannot be billed to anybody."""
    for kind in set(map(type, column)):
        if not issubclass(kind, str | int | uuid.UUID | NoneType) or issubclass(kind, bool | OutOfRange):
            raise refuse(f"column `customer` holds {_word(kind)}: return the customer's key as text")
    keys = [value if isinstance(value, str) else "" if value is None else str(value) for value in column]
    if padded:
        keys = [key.rstrip(" ") for key in keys]
    customers: list[str | None] = list(keys)
    for index, key in enumerate(keys):
        if key.isprintable() and 0 < len(key) <= LONGEST_KEY and not key.endswith(" "):
            continue
        reason = _unusable(key)
        if reason is not None:
            customers[index] = None
            flaws[index] = [reason]
    return customers


def _unusable(key: str) -> str | None:
    """Say why a key names no customer; None if it does."""
    if not key.strip():
        return "no customer"
    if len(key) > LONGEST_KEY:
        return f"customer key is unusable: {len(key)} characters long ({key[:20]!a}...)"
    if any(unicodedata.category(character) in {"Cc", "Cs"} for character in key):
        return f"customer key is unusable: holds control characters or broken text ({key[:20]!a})"
    if key.endswith(" "):
        return f"customer key is unusable: blanks behind it, as a CHAR column has; return trim(...) ({_shown(key)})"
    return None


def _value_as_text(value: object) -> str:
    """Write the value of a dimension as text without blanks around it; nothing for NULL."""
    match value:
        case None:
            return ""
        case bool():
            return "true" if value else "false"
        case float():
            return plain(_decimal(value)) if math.isfinite(value) else str(value)
        case Decimal():
            return plain(value) if value.is_finite() else str(value)
    return str(value).strip()


def _unusable_value(text: str) -> str | None:
    """Say why a text is no value of a dimension; None if it is."""
    if not text:
        return "is NULL or blank"
    if len(text) > LONGEST_VALUE:
        return f"is unusable: {len(text)} characters long ({text[:20]!a}...)"
    if not text.isprintable() and any(unicodedata.category(character) in {"Cc", "Cs"} for character in text):
        return f"is unusable: holds control characters or broken text ({text[:20]!a})"
    return None


def _quantities(column: Column, flaws: Flaws, refuse: Refuse) -> list[Decimal | None]:
    """Return the numbers as Decimals, None where a row's is none."""
    if set(map(type, column)) <= {int, Decimal}:
        try:
            exact: list[Decimal] = list(map(EXACT.create_decimal, column))  # type: ignore[arg-type]
        except DecimalException:
            pass
        else:
            if all(map(Decimal.is_finite, exact)):
                return list(exact)
    return [_quantity(index, value, flaws, refuse) for index, value in enumerate(column)]


def _quantity(index: int, value: object, flaws: Flaws, refuse: Refuse) -> Decimal | None:
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal | None):
        raise refuse(
            f"column `quantity` holds {_word(type(value))}: return a number, such as count(*) or sum(...)"
        )
    if value is None:
        flaw = "quantity is NULL"
    else:
        number = _decimal(value) if isinstance(value, float) else Decimal(value)
        try:
            if number.is_finite():
                return EXACT.create_decimal(number)
            flaw = f"quantity is {number}"
        except DecimalException:
            flaw = f"quantity has more than {DIGITS} digits"
    flaws.setdefault(index, []).append(flaw)
    return None


def _decimal(value: float) -> Decimal:
    """Return the decimal that a float stands for: ten times 0.1 is added up to 0.9999999999999999, and was 1."""
    if value.is_integer() and abs(value) < EXACT_INTEGERS:
        return Decimal(int(value))
    return Decimal(f"{value:.{FLOAT_DIGITS}g}")


def _word(kind: type) -> str:
    return WORDS.get(kind, kind.__name__)


def _shown(value: object) -> str:
    """Return enough of a value to find it by."""
    return ascii(value[:40]) if isinstance(value, str) else _word(type(value))
