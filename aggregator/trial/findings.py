"""What answers of a query say about the query. Pure: answers and text in, findings out.

Rules
- An error is what would bill wrong, and is proven by what the query answered. What may be meant so is a warning.
- A finding says what happened, by how much, and which line to change.
- Within one snapshot the same question has the same answer: what differs there is the query's own doing.
"""

import datetime as dt
import re
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from enum import StrEnum
from itertools import combinations
from typing import NamedTuple

from aggregator.core.dimensions import Dimensions
from aggregator.core.model import ZERO, Span
from aggregator.core.shown import counted
from aggregator.core.windows import HOUR
from aggregator.trial import text

Sums = Mapping[tuple[str | None, dt.datetime | None], Decimal]
"""What was used, by customer and, where the query tells, window."""

NOISE = Decimal("1e-9")
"""By what share sums of floats may differ; what is found here is larger by far."""

STRIPE_CUSTOMER = re.compile(r"(?:acct_\w+/)?(?:cus|acct)_\w+")
"""`cus_...`, behind its account where accounts are named; an account may be a customer itself."""

ZONE_TOLERANCE = dt.timedelta(minutes=5)
HALF_HOUR = HOUR / 2
NEAREST_BEHIND = 3
FURTHEST_ZONE = dt.timedelta(hours=14)
"""Local time is at most so far from UTC."""

SLOW_SECONDS = 0.5
"""A window that takes longer is worth a word about indexes."""

STATE = (
    "It returns a state, such as a number of seats, and not usage: summed up, the state is billed again in each "
    "window. To bill the newest number instead, set `formula: last` under `stripe:`"
)


class Severity(StrEnum):
    """Whether a query would bill wrong, may do so, or could not be tried in some way."""

    ERROR = "wrong"
    WARNING = "warning"
    NOTE = "note"


class Kind(StrEnum):
    """What was found."""

    TYPE = "type"
    FLOAT = "float"
    REFUSED = "refused"
    NO_ROWS = "no rows"
    NO_RECENT_ROWS = "no recent rows"
    BOUNDS_IGNORED = "bounds ignored"
    START_IGNORED = "start ignored"
    ROUNDED = "rounded bounds"
    CAST = "cast of a bound"
    TEXT_TIMES = "times as text"
    EDGE = "edge"
    STATE = "state"
    RANDOM = "not deterministic"
    PRESENT = "depends on when it is read"
    DEPENDS = "depends on where a reading begins"
    NOT_ADDITIVE = "not additive"
    LIMIT = "limit"
    SAME = "same everywhere"
    AHEAD = "ahead of now"
    BEHIND = "hours behind"
    UNMAPPED = "no customers"
    CUSTOMER_FORM = "no customers of the sink"
    CUSTOMER_UNKNOWN = "customers not found at the sink"
    MULTIPLIED = "multiplied rows"
    REPEATED = "repeated rows"
    SLOW = "no index"
    GUARD = "guard"
    COMBINATIONS = "combinations of dimensions"
    UNTRIED = "not tried"


class Finding(NamedTuple):
    """One thing that a trial came to."""

    kind: Kind
    severity: Severity
    text: str


def error(kind: Kind, said: str) -> Finding:
    """Return what would bill wrong."""
    return Finding(kind, Severity.ERROR, said)


def warning(kind: Kind, said: str) -> Finding:
    """Return what may not be meant so."""
    return Finding(kind, Severity.WARNING, said)


def note(said: str) -> Finding:
    """Return what could not be tried."""
    return Finding(Kind.UNTRIED, Severity.NOTE, said)


# Without rows


def words(query: str, *, dialect: str) -> list[Finding]:
    """Judge what can have one meaning only, whatever the rows are."""
    found = []
    cast = text.cast_of_bound(query)
    if cast is not None and dialect == "sqlite":
        said = (
            f"{cast} turns a bound into a number: in SQLite, '2026-11-20 05:00:00' becomes the year, 2026, and "
            "every text is larger than any number. So each window has either all of history or nothing. Write "
            "`:start` and `:end` without a cast, and `datetime(column)` if the column is not written like "
            "`2026-11-20 05:00:00`"
        )
        found.append(error(Kind.CAST, said))
    return found


# With rows


def total(sums: Sums) -> Decimal:
    """Return how much was used, whatever its sign."""
    return sum((abs(each) for each in sums.values()), ZERO)


def by_customer(sums: Sums) -> dict[str | None, Decimal]:
    """Return what each customer used, whatever the window."""
    found: dict[str | None, Decimal] = {}
    for (customer, _), much in sums.items():
        found[customer] = found.get(customer, ZERO) + much
    return {customer: much for customer, much in found.items() if much}


def same(one: Decimal, other: Decimal) -> bool:
    """Tell whether two numbers are one but for noise."""
    return abs(one - other) <= NOISE * max(abs(one), abs(other))


def alike(one: Sums, other: Sums) -> bool:
    """Tell whether two answers say the same of every customer."""
    left, right = by_customer(one), by_customer(other)
    return left.keys() == right.keys() and all(same(much, right[customer]) for customer, much in left.items())


def rereadings(readings: Sequence[Sums], span: Span, query: str) -> list[Finding]:
    """Judge several readings of one stretch in one snapshot."""
    first = readings[0]
    for other in readings[1:]:
        differ = [
            key for key in first.keys() | other.keys() if not same(first.get(key, ZERO), other.get(key, ZERO))
        ]
        if differ:
            sums = ", then ".join(f"{total(each):f}" for each in readings)
            where = text.at_random(query)
            said = (
                f"the query does not repeat: {span}, read {len(readings)} times in one snapshot, gave {sums}. Each "
                f"reading would correct the one before. {_change(where, 'remove whatever is random')}"
            )
            return [error(Kind.RANDOM, said)]
    return []


def later(readings: Sequence[Sums], span: Span, query: str) -> list[Finding]:
    """Judge several readings of one stretch, one after the other, of a query that names the present instant."""
    where = text.present(query)
    cure = "count up to `:end`, as in `least(coalesce(ended_at, :end), :end)`"
    if not any(alike(one, other) for one, other in combinations(readings, 2)):
        sums = ", then ".join(f"{total(each):f}" for each in readings)
        said = f"the query depends on when it is read: {span}, read again a moment later, gave {sums}. "
        said += "Each pass would correct the one before. "
        return [error(Kind.PRESENT, said + _change(where, cure))]
    if text.counts_up_to_the_present(query):
        said = "the quantity depends on the current time: the same window may give another number when it is read tomorrow. "
        return [warning(Kind.PRESENT, said + _change(where, cure))]
    return []


def cut(
    whole: Sums, parts: Sequence[tuple[Span, Sums]], span: Span, query: str, *, by_window: bool
) -> list[Finding]:
    """Judge one reading of several windows against a reading of each by itself."""
    apart: dict[tuple[str | None, dt.datetime | None], Decimal] = {}
    for _, sums in parts:
        for key, much in sums.items():
            apart[key] = apart.get(key, ZERO) + much
    together: Sums = whole
    if not by_window:
        together = {(customer, None): much for customer, much in by_customer(whole).items()}
        apart = {(customer, None): much for customer, much in by_customer(apart).items()}
    if text.limit(query) is not None:
        return []  # what that cuts off is a matter of its own
    differ = [
        key
        for key in together.keys() | apart.keys()
        if not same(together.get(key, ZERO), apart.get(key, ZERO))
    ]
    if not differ:
        return []
    key = min(differ, key=str)
    here, there = together.get(key, ZERO), apart.get(key, ZERO)
    neighbours = text.looks_at_neighbours(query)
    said = (
        f"the result depends on where a reading begins and ends: customer {key[0]!r} has {here:f} if {span} is "
        f"read at once, and {there:f} if its windows are read one by one. "
    )
    if not by_window and neighbours is None:
        if text.may_not_add_up(query):
            return []
        return [
            warning(
                Kind.NOT_ADDITIVE,
                said + "The sum over the windows is what is billed: check that you want that",
            )
        ]
    if neighbours is not None:
        cure = (
            f"{neighbours} looks at earlier rows, but rows before `:start` are not read: let the inner query begin "
            "earlier (`:start - interval '2 hours'`), and in the outer query keep only the rows from `:start` on"
        )
    else:
        cure = "Count each row by itself, in the window that its own time is in"
    return [error(Kind.DEPENDS, said + cure)]


def limited(counts: Iterable[int], query: str) -> list[Finding]:
    """Judge how many rows readings had, if the query itself has a limit."""
    skips = text.offset(query)
    if skips is not None:
        said = f"{skips} skips the first rows, whichever customers they belong to, so they are never billed. Remove it"
        return [error(Kind.LIMIT, said)]
    found = text.limit(query)
    if found is None:
        return []
    line, most = found
    if most > 1 and most in counts:
        said = f"{line} cuts the result off: a reading had {most} rows, and further ones are never billed. Remove the limit"
        return [error(Kind.LIMIT, said)]
    said = f"{line} silently cuts off a result of more than {counted(most, 'row')}. Remove the limit"
    return [warning(Kind.LIMIT, said)] if most > 1 else []


class Outside(NamedTuple):
    """What a query answers where there should be nothing, beside what it answers for a window with usage."""

    window: Span
    used: Sums
    empty: Sums
    """For no time at all, at the window's end."""
    within: Sums
    """For no time at all, in the middle of the window."""
    past: Sums
    """For a window of long ago."""
    long_ago: dt.datetime
    history: Sums | None = None
    """For all time up to the window's end, where that was asked."""


def outside(found: Outside, query: str, *, latest: bool) -> list[Finding]:
    """Judge whether the bounds are heeded. `latest` is whether the newest number of a customer is what is billed."""
    line = text.bounds(query)
    if found.used and alike(found.past, found.used):
        said = (
            f"the bounds are ignored: the window {found.window} gives {total(found.used):f}, and so does a window in "
            f"{found.long_ago:%Y}. All of that would be billed again in each window. "
        )
        return [
            error(
                Kind.BOUNDS_IGNORED, said + _change(line, "compare the time of use with `:start` and `:end`")
            )
        ]
    empty = found.empty if total(found.empty) else found.within
    if not total(empty):
        return []
    said = f"it returns {total(empty):f} for an empty span (`:start` = `:end` = {found.window.end:%Y-%m-%dT%H:%MZ})"
    moved = text.rounded(query) or text.widened(query)
    if moved is not None:
        how = "rounded" if text.rounded(query) else "moved"
        said += f", and {total(found.used):f} for the window {found.window}: the bounds are {how}, so windows overlap. "
        return [error(Kind.ROUNDED, said + _change(moved, "write `>= :start` and `< :end`"))]
    if found.history is not None and alike(found.history, empty):
        if latest or text.names_what_is_gone(query):
            said += (
                ", and the same for all of history: it counts what exists now. When a window is read again, "
                "whatever has ended since is missing. Count what existed at `:end`: `begun_at < :end and (ended_at "
                "is null or ended_at >= :end) and :start < :end`"
            )
            return [] if latest and text.names_what_is_gone(query) else [warning(Kind.STATE, said)]
        said += ", and the same for all of history: `:start` makes no difference, so each window bills all before it again. "
        said += f"Compare the time of use with `:start`, too: {line}"
        return [error(Kind.START_IGNORED, said)]
    if latest:
        return []
    return [warning(Kind.STATE, f"{said}. {STATE}")]


def alike_everywhere(windows: Sequence[tuple[Span, Sums]], whole: Sums, query: str) -> list[Finding]:
    """Judge windows that all say the same, and together no more than one of them."""
    used = [(span, sums) for span, sums in windows if total(sums)]
    if len(used) < 3 or text.may_not_add_up(query):
        return []
    if all(alike(sums, whole) for _, sums in used):
        if text.names_what_is_gone(query):
            return [warning(Kind.STATE, f"{len(used)} different windows all give {total(whole):f}. {STATE}")]
        said = (
            f"{len(used)} different windows all give {total(whole):f}, and so do all of them together: it counts "
            "what exists, at whatever time. "
            f"{_change(text.bounds(query), 'compare the time of use with `:start` and `:end`')}"
        )
        return [error(Kind.SAME, said)]
    return []


class Edge(NamedTuple):
    """What is around an instant at which there is usage."""

    at: dt.datetime
    twice: bool
    """Whether a reading that ends there has it, as well as one that begins there."""
    begins: bool
    """Whether a reading that begins there has it."""
    before: bool
    """Whether the reading of the moment before has it."""


def edge(found: Edge, query: str) -> list[Finding]:
    """Judge whether a row on a boundary belongs to the window that begins there, and to no other."""
    if found.twice:
        said = f"a row at {found.at} is billed twice: in the window that ends there and in the one that begins there. "
    elif found.begins:
        return []
    elif found.before:
        said = f"a row at {found.at} is in the window that ends there, but it belongs to the one that begins there. "
    else:
        said = (
            f"a row at {found.at} is never billed: neither the window before it nor the one after it has it. "
        )
    line = text.narrowed(query) or text.inclusive(query)
    return [error(Kind.EDGE, said + _change(line, "write `>= :start` and `< :end`"))]


def last_instant(day: Span, whole: Sums, last: Sums, query: str, *, dialect: str) -> list[Finding]:
    """Judge a day of which everything lies in its last instant."""
    if not total(whole) or not alike(whole, last):
        return []
    said = f"all usage of {day.start:%Y-%m-%d}, {total(whole):f}, is found at the last instant of that day. "
    rounded = text.rounded(query)
    if rounded is None and dialect == "sqlite":
        column = text.bound_column(query)
        name = column[1] if column else "used_at"
        said += (
            "SQLite compares text, and the `T` in 2026-11-20T05:30:00 sorts after the space in a bound. Write "
            f"`datetime({name}) >= :start and datetime({name}) < :end`, and return `datetime({name})`"
        )
        return [error(Kind.TEXT_TIMES, said)]
    return [error(Kind.ROUNDED, said + _change(rounded, "write `>= :start` and `< :end`"))]


def column_of_times(sample: object, table: str, column: str) -> list[Finding]:
    """Judge a value of the column that SQLite compares with a bound, which is text like 2026-11-20 05:00:00."""
    if isinstance(sample, int | float) and not isinstance(sample, bool):
        unit = " / 1000" if abs(sample) > 1e11 else ""
        said = (
            f"column {table}.{column} holds numbers ({sample}), and SQLite takes every text for larger than any "
            f"number: no row is ever found. Write `{column}{unit} >= unixepoch(:start) and {column}{unit} < "
            "unixepoch(:end)`"
        )
        return [error(Kind.TEXT_TIMES, said)]
    if isinstance(sample, str) and re.match(r"\d{4}-\d\d-\d\dT", sample):
        said = (
            f"column {table}.{column} holds text with a `T` ({sample}), which sorts after the space in a bound. Write "
            f"`datetime({column}) >= :start and datetime({column}) < :end`, and return `datetime({column})`"
        )
        return [error(Kind.TEXT_TIMES, said)]
    return []


def ahead(newest: dt.datetime, now: dt.datetime, *, naive: bool, steady: bool) -> list[Finding]:
    """Judge usage that lies in the future. `steady`: it comes in every hour until then, and ends where a time zone could."""
    by = newest - now
    if by <= ZONE_TOLERANCE:
        return []
    said = f"the newest usage is at {newest:%Y-%m-%dT%H:%MZ}, {_lasting(by)} in the future"
    if steady:
        return [
            error(
                Kind.AHEAD,
                f"{said}: local times are read as UTC, and billed in the wrong windows. {_zone(naive=naive)}",
            )
        ]
    return [
        warning(
            Kind.AHEAD,
            f"{said}. It is billed when that time has come",
        )
    ]


def behind(newest: dt.datetime, gap: dt.timedelta, now: dt.datetime) -> list[Finding]:
    """Judge usage without a time zone that came all the time, `gap` apart at its end, and ends whole hours ago.

    Where nearly all live who write local times behind UTC, those are three hours or more. One or two are what a load that
    runs by the hour is late by.
    """
    by = now - newest
    late = by % HOUR
    if late > HOUR - ZONE_TOLERANCE:
        late = dt.timedelta(0)
    hours = round((by - late) / HOUR)
    if not NEAREST_BEHIND <= hours <= FURTHEST_ZONE / HOUR or late > min(gap, HALF_HOUR) + ZONE_TOLERANCE:
        return []
    said = f"usage comes steadily, but the newest is from {newest:%Y-%m-%dT%H:%MZ}, {_lasting(by)} ago. If these are "
    return [
        warning(
            Kind.BEHIND,
            f"{said}local times, {hours} h behind UTC, they are read as UTC by mistake. {_zone(naive=True)}",
        )
    ]


def _zone(*, naive: bool) -> str:
    if naive:
        return (
            "Convert in both places, with the zone that they were written in: `used_at >= :start at time zone "
            "'Europe/Paris'`, and `max(used_at at time zone 'Europe/Paris') as at` (docs/queries.md)"
        )
    return "Check how the rows are written: the session of the application is in another time zone than the times it writes"


def _lasting(time: dt.timedelta) -> str:
    minutes = int(time.total_seconds() // 60)
    return f"{minutes // 60} h {minutes % 60} min"


def unmapped(keys: Sequence[str | None], window: Span) -> list[Finding]:
    """Judge a window of which nothing can be billed, since no row says to whom."""
    if not keys or any(key is not None for key in keys):
        return []
    rows = counted(len(keys), "row")
    said = f"none of the {rows} of {window} has a customer, so all of it is unmapped and billed to nobody"
    return [warning(Kind.UNMAPPED, said)]


def without_customer(
    keys: Iterable[str | None], mapping: Mapping[str, str | None], window: Span
) -> list[Finding]:
    """Judge the keys of a window by what a mapping lists."""
    named = sorted({key for key in keys if key is not None})
    without = [key for key in named if mapping.get(key) is None]
    if not without:
        return []
    some = ", ".join(repr(key[:40]) for key in without[:3])
    said = (
        f"{len(without)} of {counted(len(named), 'key')} with usage in {window} have no customer in the mapping "
        f"({some}): their usage waits until they have one"
    )
    if len(without) == len(named):
        return [warning(Kind.UNMAPPED, said)]
    return [note(said)]


def customers(keys: Iterable[str | None], sink: str) -> list[Finding]:
    """Judge customers against the form that a Stripe sink knows them by."""
    named = sorted({key for key in keys if key is not None})
    strange = [key for key in named if not STRIPE_CUSTOMER.fullmatch(key)]
    if not strange:
        return []
    shown = ", ".join(repr(key[:40]) for key in strange[:3])
    said = (
        f"{len(strange)} of {len(named)} customers are not ids of Stripe customers ({shown}), so {sink} will "
        "refuse their usage. Return the id that begins with `cus_`; your customer table should have it"
    )
    if len(strange) == len(named):
        return [error(Kind.CUSTOMER_FORM, said)]
    return [warning(Kind.CUSTOMER_FORM, said)]


class Row(NamedTuple):
    """One row of a window, as it was read."""

    customer: str | None
    window: dt.datetime
    quantity: Decimal | None
    at: dt.datetime | None
    dimensions: Dimensions | None = ()


def repeated(rows: Iterable[Row], query: str) -> list[Finding]:
    """Judge a query that sums, and yet gives a customer several rows of a window that are all the same."""
    if not text.is_grouped(query):
        return []
    found: dict[tuple[str | None, dt.datetime, Dimensions | None], list[Row]] = {}
    for row in rows:
        found.setdefault((row.customer, row.window, row.dimensions), []).append(row)
    several = {key: group for key, group in found.items() if len(group) > 1 and key[0] is not None}
    if not several or not all(len(set(group)) == 1 for group in several.values()):
        return []
    (customer, *_), group = next(iter(several.items()))
    sure = group[0].at is not None or len(several) > 3 or (group[0].quantity or ZERO) >= 10
    if not sure:
        return []
    said = (
        f"{counted(len(several), 'customer has', 'customers have')} several identical rows, such as {customer!r} with "
        f"{len(group)} times {group[0].quantity}: a join finds them more than once, and multiplies their usage. "
        "Group by `customer` alone, and make sure that its table has each customer once"
    )
    return [error(Kind.REPEATED, said)]


def multiplied(
    join: text.Join, table: str, column: str, keys: int, example: object, query: str
) -> list[Finding]:
    """Judge a join whose other side has a key more than once.

    That is how the lines of an order are summed, and wrong where the lines are not what is summed.
    """
    quantity = text.column(query, "quantity") or ""
    quantified = text.tables_of(query, quantity)
    if quantified == {table} or re.search(r"\bdistinct\b|\b(?:max|min)\s*\(", quantity, re.IGNORECASE):
        return []
    said = (
        f"{join.line} joins {table} by {column}, and {counted(keys, 'key is', 'keys are')} in {table} more than "
        f"once, such as {example!r}: "
    )
    names_customer = text.tables_of(query, text.column(query, "customer") or "") == {table}
    if quantified == {join.bounded} or (not quantified and names_customer):
        said += f"each such row counts the same usage once more. Make {table}.{column} unique, or join "
        return [error(Kind.MULTIPLIED, f"{said}`(select distinct ...)`")]
    said += "each such row counts. If you want that, use a column of that table for the quantity, as in `sum(line.pieces)`"
    return [warning(Kind.MULTIPLIED, said)]


def slow(seconds: float, table: str | None, query: str, dialect: str) -> list[Finding]:
    """Judge a window that took long because a whole table was read."""
    if table is None or seconds < SLOW_SECONDS:
        return []
    bound = text.bound_column(query)
    column = bound[1] if bound else "its time column"
    how = "concurrently" if dialect == "postgresql" else f"{column.split()[-1]}_index"
    said = (
        f"one window took {seconds:.1f} s, because the whole table {table} is read for it. Make an index: `create "
        f"index {how} on {table} ({column})`"
    )
    return [warning(Kind.SLOW, said)]


def nothing(since: dt.datetime, query: str) -> list[Finding]:
    """Judge a query that found nothing at all."""
    said = (
        f"it returns no usage since {since:%Y-%m-%d}, so nothing else could be tried. Check the names and times in it "
        f"({text.bounds(query)}), and run the check again once there is usage"
    )
    return [warning(Kind.NO_ROWS, said)]


def stale(newest: Span, until: dt.datetime, length: dt.timedelta) -> list[Finding]:
    """Judge a query whose newest usage is old."""
    silent = until - newest.end
    if silent < max(dt.timedelta(days=1), 3 * length):
        return []
    said = f"it returns nothing for the last {silent // length} windows: the newest usage is in {newest}"
    return [warning(Kind.NO_RECENT_ROWS, said)]


def _change(line: text.Line | None, cure: str) -> str:
    return f"{cure[0].upper()}{cure[1:]}" if line is None else f"Change {line}: {cure}"
