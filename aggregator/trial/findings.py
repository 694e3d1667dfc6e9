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
    "it tells of a state and not of usage, and summed, each window bills the state once more. If the newest number is to be "
    "billed, as for seats, set `formula: last` (`stripe:`)"
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
            f"{cast} makes a number of a bound: SQLite takes the year, 2026, of '2026-11-20 05:00:00', and every text is "
            "larger than any number. So all of history is in every window, or nothing ever is. Write `:start` and `:end` as "
            "they are, and `datetime(column)` where the column is not written as `2026-11-20 05:00:00`"
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
                f"the same stretch {span}, read again in one snapshot, gave {sums}: each reading would be corrected by the "
                f"next. {_change(where, 'leave out what chance has a part in')}"
            )
            return [error(Kind.RANDOM, said)]
    return []


def later(readings: Sequence[Sums], span: Span, query: str) -> list[Finding]:
    """Judge several readings of one stretch, one after the other, of a query that names the present instant."""
    where = text.present(query)
    cure = "count up to `:end`, as in `least(coalesce(ended_at, :end), :end)`"
    if not any(alike(one, other) for one, other in combinations(readings, 2)):
        sums = ", then ".join(f"{total(each):f}" for each in readings)
        said = f"the same stretch {span}, read again a moment later, gave {sums}: each pass would correct the one before. "
        return [error(Kind.PRESENT, said + _change(where, cure))]
    if text.counts_up_to_the_present(query):
        said = "its quantity is made of the present instant: a window that is read again tomorrow may say something else. "
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
        f"what it answers depends on where a reading begins and ends: customer {key[0]!r} has {here:f} when the span {span} "
        f"is read at once, and {there:f} when it is cut into its windows. "
    )
    if not by_window and neighbours is None:
        if text.may_not_add_up(query):
            return []
        return [
            warning(
                Kind.NOT_ADDITIVE, said + "Summed over windows it bills the latter: see that this is meant"
            )
        ]
    if neighbours is not None:
        cure = (
            f"{neighbours} looks at the rows before, and those before `:start` are not there: let the inner query begin "
            "earlier (`:start - interval '2 hours'`), and choose from `:start` on outside of it"
        )
    else:
        cure = "Let each row count by itself, in the one window that its own time lies in"
    return [error(Kind.DEPENDS, said + cure)]


def limited(counts: Iterable[int], query: str) -> list[Finding]:
    """Judge how many rows readings had, if the query itself has a limit."""
    skips = text.offset(query)
    if skips is not None:
        said = f"{skips} leaves out the first rows, whoever they are about, and nobody is billed for them. Leave it out"
        return [error(Kind.LIMIT, said)]
    found = text.limit(query)
    if found is None:
        return []
    line, most = found
    if most > 1 and most in counts:
        said = f"{line} cuts it off: a reading had {most} rows, and what is beyond is never billed. Leave the limit out"
        return [error(Kind.LIMIT, said)]
    said = f"{line} cuts off what is beyond {counted(most, 'row')}, and nobody is told. Leave the limit out"
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
            f"the bounds are ignored: window {found.window} gives {total(found.used):f}, and so does a window in "
            f"{found.long_ago:%Y}. Each window would bill all of it again. "
        )
        return [
            error(
                Kind.BOUNDS_IGNORED, said + _change(line, "compare the time of use with `:start` and `:end`")
            )
        ]
    empty = found.empty if total(found.empty) else found.within
    if not total(empty):
        return []
    said = f"it gives {total(empty):f} for no time at all (`:start` = `:end` = {found.window.end:%Y-%m-%dT%H:%MZ}), "
    moved = text.rounded(query) or text.widened(query)
    if moved is not None:
        how = "rounded" if text.rounded(query) else "moved"
        said += f"and {total(found.used):f} for the window {found.window}: the bounds are {how}, and windows overlap. "
        return [error(Kind.ROUNDED, said + _change(moved, "write `>= :start` and `< :end`, as they are"))]
    if found.history is not None and alike(found.history, empty):
        if latest or text.names_what_is_gone(query):
            said += (
                "and as much since ever: it counts what is there now. Windows that are read again will lose what has ended "
                "since. Count as of `:end`: `begun_at < :end and (ended_at is null or ended_at >= :end) and :start < :end`"
            )
            return [] if latest and text.names_what_is_gone(query) else [warning(Kind.STATE, said)]
        said += f"and as much since ever: `:start` makes no difference, and each window bills all before it again. {line}"
        return [error(Kind.START_IGNORED, said)]
    if latest:
        return []
    said += STATE
    return [warning(Kind.STATE, said)]


def alike_everywhere(windows: Sequence[tuple[Span, Sums]], whole: Sums, query: str) -> list[Finding]:
    """Judge windows that all say the same, and together no more than one of them."""
    used = [(span, sums) for span, sums in windows if total(sums)]
    if len(used) < 3 or text.may_not_add_up(query):
        return []
    if all(alike(sums, whole) for _, sums in used):
        if text.names_what_is_gone(query):
            return [warning(Kind.STATE, f"{len(used)} disjoint windows all give {total(whole):f}: {STATE}")]
        said = (
            f"{len(used)} disjoint windows all give {total(whole):f}, and so do all of them together: it counts what is "
            f"there, whenever that was. {_change(text.bounds(query), 'compare the time of use with `:start` and `:end`')}"
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
        said = f"a row at {found.at} is in the reading that ends there and the one that begins there: it is billed twice. "
    elif found.begins:
        return []
    elif found.before:
        said = (
            f"a row at {found.at} is in the reading that ends there, and not in the one that begins there. "
        )
    else:
        said = f"a row at {found.at} is in neither the reading that ends there nor the one that begins there: it is lost. "
    line = text.narrowed(query) or text.inclusive(query)
    return [error(Kind.EDGE, said + _change(line, "write `>= :start` and `< :end`"))]


def last_instant(day: Span, whole: Sums, last: Sums, query: str, *, dialect: str) -> list[Finding]:
    """Judge a day of which everything lies in its last instant."""
    if not total(whole) or not alike(whole, last):
        return []
    said = f"all that {day.start:%Y-%m-%d} has, {total(whole):f}, is found in the last instant of the day and nowhere else. "
    rounded = text.rounded(query)
    if rounded is None and dialect == "sqlite":
        column = text.bound_column(query)
        name = column[1] if column else "used_at"
        said += (
            "SQLite compares text, and the `T` in 2026-11-20T05:30:00 sorts behind the space in a bound: write "
            f"`datetime({name}) >= :start and datetime({name}) < :end`, and return `datetime({name})`"
        )
        return [error(Kind.TEXT_TIMES, said)]
    return [error(Kind.ROUNDED, said + _change(rounded, "write `>= :start` and `< :end`, as they are"))]


def column_of_times(sample: object, table: str, column: str) -> list[Finding]:
    """Judge a value of the column that SQLite compares with a bound, which is text like 2026-11-20 05:00:00."""
    if isinstance(sample, int | float) and not isinstance(sample, bool):
        unit = " / 1000" if abs(sample) > 1e11 else ""
        said = (
            f"column {table}.{column} holds numbers ({sample}), and every text is larger than any number: nothing is ever "
            f"found. Write `{column}{unit} >= unixepoch(:start) and {column}{unit} < unixepoch(:end)`"
        )
        return [error(Kind.TEXT_TIMES, said)]
    if isinstance(sample, str) and re.match(r"\d{4}-\d\d-\d\dT", sample):
        said = (
            f"column {table}.{column} holds text with a `T` ({sample}), which sorts behind the space in a bound: write "
            f"`datetime({column}) >= :start and datetime({column}) < :end`, and return `datetime({column})`"
        )
        return [error(Kind.TEXT_TIMES, said)]
    return []


def ahead(newest: dt.datetime, now: dt.datetime, *, naive: bool, steady: bool) -> list[Finding]:
    """Judge usage that lies in the future. `steady`: it comes in every hour until then, and ends where a time zone could."""
    by = newest - now
    if by <= ZONE_TOLERANCE:
        return []
    said = f"its newest usage is at {newest:%Y-%m-%dT%H:%MZ}, {_lasting(by)} ahead of now"
    if steady:
        return [
            error(
                Kind.AHEAD,
                f"{said}: local times are taken for UTC, and billed in other windows. {_zone(naive=naive)}",
            )
        ]
    return [
        warning(
            Kind.AHEAD,
            f"{said}: it is billed when its time has come, in the window that it names",
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
    said = f"its usage comes all the time, and ends at {newest:%Y-%m-%dT%H:%MZ}, {_lasting(by)} ago: if these are "
    return [
        warning(
            Kind.BEHIND,
            f"{said}local times, {hours} h behind UTC, they are taken for UTC. {_zone(naive=True)}",
        )
    ]


def _zone(*, naive: bool) -> str:
    if naive:
        return (
            "Convert both ways: `used_at >= :start at time zone 'Europe/Paris'`, and `max(used_at at time zone "
            "'Europe/Paris') as at`, with the zone they were written in (docs/queries.md)"
        )
    return "Look at how the rows are written: the application's session has another time zone than the times it writes"


def _lasting(time: dt.timedelta) -> str:
    minutes = int(time.total_seconds() // 60)
    return f"{minutes // 60} h {minutes % 60} min"


def unmapped(keys: Sequence[str | None], window: Span) -> list[Finding]:
    """Judge a window of which nothing can be billed, since no row says to whom."""
    if not keys or any(key is not None for key in keys):
        return []
    rows = counted(len(keys), "row")
    said = (
        f"none of the {rows} of {window} has a customer: all of it is unmapped, and nobody is billed for it"
    )
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
        f"{len(without)} of {counted(len(named), 'key')} that used something in {window} have no customer by the mapping "
        f"({some}): their usage waits until they have"
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
        f"{len(strange)} of {len(named)} customers are no customers of Stripe ({shown}), and {sink} refuses their usage: "
        "return the id that begins with `cus_`, which your customer table should hold"
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
        f"{counted(len(several), 'customer comes', 'customers come')} in several rows that are the same in every way, "
        f"as {customer!r} with {len(group)} "
        f"times {group[0].quantity}: a join finds them more than once, and their usage is multiplied. Group by `customer` "
        "alone, and see that the table it comes from has each customer once"
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
        f"{join.line} joins with {table} by {column}, and {table} has {counted(keys, 'key')} more than once, "
        f"as {example!r}: "
    )
    names_customer = text.tables_of(query, text.column(query, "customer") or "") == {table}
    if quantified == {join.bounded} or (not quantified and names_customer):
        said += f"each such row counts the same usage again. Make {table}.{column} unique, or join with "
        return [error(Kind.MULTIPLIED, f"{said}`(select distinct ...)`")]
    said += "each such row counts. If that is meant, name its column in the quantity: `sum(line.pieces)`"
    return [warning(Kind.MULTIPLIED, said)]


def slow(seconds: float, table: str | None, query: str, dialect: str) -> list[Finding]:
    """Judge a window that took long because a whole table was read."""
    if table is None or seconds < SLOW_SECONDS:
        return []
    bound = text.bound_column(query)
    column = bound[1] if bound else "its time column"
    how = "concurrently" if dialect == "postgresql" else f"{column.split()[-1]}_index"
    said = (
        f"one window took {seconds:.1f} s, since all of table {table} is read for it: `create index {how} on {table} "
        f"({column})`"
    )
    return [warning(Kind.SLOW, said)]


def nothing(since: dt.datetime, query: str) -> list[Finding]:
    """Judge a query that found nothing at all."""
    said = (
        f"it returns no usage since {since:%Y-%m-%d}, so nothing else about it could be tried: see that the names and times "
        f"in it are right ({text.bounds(query)}), and check again once there is usage"
    )
    return [warning(Kind.NO_ROWS, said)]


def stale(newest: Span, until: dt.datetime, length: dt.timedelta) -> list[Finding]:
    """Judge a query whose newest usage is old."""
    silent = until - newest.end
    if silent < max(dt.timedelta(days=1), 3 * length):
        return []
    said = f"it returns nothing for the last {silent // length} windows: its newest usage lies in {newest}"
    return [warning(Kind.NO_RECENT_ROWS, said)]


def _change(line: text.Line | None, cure: str) -> str:
    return f"{cure[0].upper()}{cure[1:]}" if line is None else f"Change {line}: {cure}"
