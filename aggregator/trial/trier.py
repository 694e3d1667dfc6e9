"""Tries a query out: asks the source for stretches of closed windows, and has the answers judged.

Rules
- Everything that is compared comes from one snapshot, so that rows which come meanwhile make no difference.
- The trial has so many seconds, and says what it did not come to. No statement may take more than a third of them.
- A stretch without usage proves nothing: closed windows with usage are looked for, further and further back.
- No sink is talked to while the snapshot is open. What is left of the time then is for looking up customers, and one call
  may be under way when it ends.
"""

import datetime as dt
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from decimal import Decimal
from typing import Protocol

from aggregator.core import windows
from aggregator.core.guards import STRETCH, WEEK, WEEKS
from aggregator.core.model import Meter, Reading, Span
from aggregator.errors import QueryRejected, QueryTimedOut, SinkError
from aggregator.source.trying import Answer, Trying
from aggregator.trial import combinations, findings, lookup, past_guards, text
from aggregator.trial.columns import WITHOUT_ZONE, Column, types
from aggregator.trial.findings import Edge, Finding, Kind, Outside, Row, Severity, Sums
from aggregator.trial.lookup import Register

LONG_AGO = dt.datetime(2000, 1, 1, tzinfo=dt.UTC)
"""Before any usage that is still billed."""

FURTHEST_BACK = dt.timedelta(days=400)
FURTHEST_AHEAD = dt.timedelta(days=40)
GROWTH = 4
"""How much further back each next look goes."""

SIDE_BY_SIDE = 8
"""How many windows are read at once and one by one."""

HALVINGS = 48
"""More than it takes to find an instant in a day, to the microsecond."""

HALF_HOURS_OF_STEADY_USAGE = 8

SHARE_OF_A_STATEMENT = 3

LOOK_BACK, MOST_STRETCHES = dt.timedelta(days=7), 168
"""How far back guards are judged: a week has days of all kinds. Each hour is compared with those of four weeks before."""


class Source(Protocol):
    """What a trial asks of an application database."""

    def trying(
        self, query: str, timeout: dt.timedelta, dimensions: Sequence[str] = ()
    ) -> AbstractContextManager[Trying]:
        """Open a snapshot in which the query can be asked for any stretch."""
        ...


class OutOfTime(Exception):
    """The seconds of the trial have run out."""


class Trial:
    """Tries one meter's query. `elapsed` tells seconds.

    `stripe` names a sink that knows customers as Stripe does, `registers` are of the meter's sinks that can look them up.
    `mapping` has the customers of keys, if the query returns those.
    """

    def __init__(
        self,
        meter: Meter,
        source: Source,
        *,
        seconds: float,
        elapsed: Callable[[], float],
        stripe: str | None = None,
        registers: Sequence[Register] = (),
        mapping: Mapping[str, str | None] | None = None,
    ) -> None:
        self._meter = meter
        self._query = meter.query
        self._length = meter.window
        self._source = source
        self._seconds = seconds
        self._timeout = dt.timedelta(seconds=max(1.0, seconds / SHARE_OF_A_STATEMENT))
        self._elapsed = elapsed
        self._stripe = stripe
        self._registers = registers
        self._mapping = mapping
        self._customers: list[str | None] = []
        self._until = 0.0
        self._counts: list[int] = []
        self._slowest = 0.0
        self._tried = ""
        self._closed = LONG_AGO

    def run(self, now: dt.datetime) -> list[Finding]:
        """Return what is found, the gravest first. Raises SourceError where the source cannot be asked at all."""
        self._until = self._elapsed() + self._seconds
        found: list[Finding] = []
        self._tried = "nothing"
        try:
            with self._source.trying(self._query, self._timeout, self._meter.dimensions) as trying:
                for each in self._found(trying, now):
                    found.append(each)  # noqa: PERF402 - what was found before a step fails is kept
        except QueryTimedOut:
            said = f"a statement took more than {self._timeout.total_seconds():g} s; tried before that: {self._tried}"
            cure = "Allow more time with `--trial-seconds`, and make an index on the time column"
            found.append(findings.note(f"{said}. {cure}"))
        except QueryRejected as error:
            found.append(findings.error(Kind.REFUSED, str(error)))
        found += self._lookups()
        order = list(Severity)
        return sorted(found, key=lambda each: order.index(each.severity))

    def _found(self, trying: Trying, now: dt.datetime) -> Iterator[Finding]:
        """Yield what the steps find, until one explains all that would follow or the time has run out."""
        try:
            for doing, step in self._steps(trying, now):
                self._tried = doing
                yield from step
                if any(each.kind in ENDS for each in step):
                    return
        except OutOfTime:
            yield findings.note(
                f"the {self._seconds:g} s of the trial ran out; tried before that: {self._tried}"
            )

    def _steps(self, trying: Trying, now: dt.datetime) -> Iterator[tuple[str, list[Finding]]]:
        """Yield what was tried and what came of it, step by step."""
        query, meter = self._query, self._meter
        end = windows.settled_until(now, meter.delay, self._length)
        self._closed = end
        first = self._ask(trying, Span(end, end))
        columns = [Column(*each) for each in zip(first.names, first.kinds, strict=True)]
        naive, zoned = trying.naive_is_utc, trying.zoned
        yield "types", types(columns, naive_is_utc=naive, zoned=zoned, dialect=trying.dialect)
        yield "words", findings.words(query, dialect=trying.dialect)
        if trying.dialect == "sqlite":
            yield "the column of times", self._times(trying)
        newest = self._newest(trying, end)
        if newest is None:
            yield "whether there is usage", findings.nothing(end - FURTHEST_BACK, query)
            return
        yield "whether there is usage", findings.stale(newest, end, self._length)
        began = self._elapsed()
        answer = self._ask(trying, newest)
        self._slowest = self._elapsed() - began
        yield "bounds", self._outside(trying, newest, answer)
        yield "rows", self._rows(trying, newest, answer)
        yield from self._stretch(trying, newest, by_window=first.places.window is not None)
        if not self._whole_windows_only(trying, newest):
            yield "edges", self._edges(trying, newest, answer)
            if not meter.latest:
                yield "times of today", self._today(trying, now, columns)
        if self._slowest >= findings.SLOW_SECONDS:
            yield "indexes", findings.slow(self._slowest, trying.read_whole(newest), query, trying.dialect)
        yield "limit", findings.limited(self._counts, query)
        yield "joins", self._joins(trying)
        if meter.guards.holds or meter.guards.unusual_zero:
            by_window = first.places.window is not None
            yield "guards", past_guards.judged(self._past(trying, newest, by_window=by_window), meter.guards)

    # What there is

    def _check_time(self) -> None:
        if self._elapsed() > self._until:
            raise OutOfTime

    def _ask(self, trying: Trying, span: Span) -> Answer:
        self._check_time()
        answer = trying.ask(span)
        self._counts.append(len(answer.rows))
        return answer

    def _used(self, trying: Trying, span: Span) -> Sums:
        """Return what was used in any stretch, by customer."""
        return _sums(trying.amounts(self._ask(trying, span), span, self._length), by_window=False)

    def _any(self, trying: Trying, span: Span) -> bool:
        return bool(findings.total(self._used(trying, span)))

    def _newest(self, trying: Trying, end: dt.datetime) -> Span | None:
        """Return the newest closed window with usage, or None if none is found."""
        until, step = end, self._length
        while end - until < FURTHEST_BACK:
            span = Span(until - step, until)
            if self._any(trying, span):
                return self._narrowed(trying, span, self._length)
            until, step = span.start, min(step * GROWTH, FURTHEST_BACK // self._length * self._length)
        return None

    def _narrowed(self, trying: Trying, span: Span, length: dt.timedelta) -> Span:
        """Return the last stretch of this length that has usage, of a span with usage."""
        while windows.count(span, length) > 1:
            middle = windows.floor(span.start + (span.end - span.start) / 2, length)
            later = Span(middle, span.end)
            span = later if self._any(trying, later) else Span(span.start, middle)
        return span

    def _past(self, trying: Trying, newest: Span, *, by_window: bool) -> list[past_guards.Stretch]:
        """Return stretches of closed windows, back from the newest with usage, each with the same of the weeks before.

        It takes half of the time that is left at most, and returns what it came to.
        """
        length, guards = max(STRETCH, self._length), self._meter.guards
        compares = guards.unusual_zero or (guards.max_change or guards.max_total_change) is not None
        weeks = WEEKS if compares else 0
        until = self._elapsed() + (self._until - self._elapsed()) / 2
        end = windows.floor(newest.start, length) + length
        found: list[past_guards.Stretch] = []
        with suppress(OutOfTime, QueryTimedOut):
            for number in range(min(LOOK_BACK // length, MOST_STRETCHES)):
                if self._elapsed() > until:
                    break
                span = Span(end - (number + 1) * length, end - number * length)
                used, *before = [
                    self._by_window(trying, Span(span.start - week * WEEK, span.end - week * WEEK), by_window)
                    for week in range(weeks + 1)
                ]
                found.append(past_guards.Stretch(span, used, before, whole=span.end <= self._closed))
        return found

    def _by_window(self, trying: Trying, span: Span, by_window: bool) -> past_guards.Usage:  # noqa: FBT001 - as the query is
        """Return what each customer used in each closed window of a stretch."""
        end = min(span.end, self._closed)
        parts = [Span(span.start, end)] if by_window and span.start < end else []
        if not by_window:
            parts = [each for each in windows.tile(span, self._length) if each.end <= end]
        found: dict[dt.datetime, dict[str, Decimal]] = {}
        for part in parts:
            answer = self._ask(trying, part)
            if not answer.whole:
                raise OutOfTime  # more than is looked at
            for each in trying.readings(answer, part, self._length):
                if each.customer is not None and each.quantity and each.quantity > 0:
                    used = found.setdefault(each.window_start, {})
                    used[each.customer] = used.get(each.customer, Decimal(0)) + each.quantity
        return found

    # One step each

    def _times(self, trying: Trying) -> list[Finding]:
        bound = text.bound_column(self._query)
        if bound is None:
            return []
        return findings.column_of_times(trying.sample(*bound), *bound)

    def _outside(self, trying: Trying, window: Span, answer: Answer) -> list[Finding]:
        middle = windows.floor(window.start + self._length / 2, windows.MINUTE)
        outside = Outside(
            window,
            _sums(trying.amounts(answer, window, self._length), by_window=False),
            self._used(trying, Span(window.end, window.end)),
            self._used(trying, Span(middle, middle)),
            self._used(trying, Span(LONG_AGO, LONG_AGO + self._length)),
            LONG_AGO,
        )
        if findings.total(outside.empty) or findings.total(outside.within):
            outside = outside._replace(history=self._used(trying, Span(LONG_AGO, window.end)))
        return findings.outside(outside, self._query, latest=self._meter.latest)

    def _rows(self, trying: Trying, window: Span, answer: Answer) -> list[Finding]:
        """Judge the rows of one window, each by itself."""
        readings = trying.readings(answer, window, self._length)
        rows = [
            Row(each.customer, each.window_start, each.quantity, each.at, each.dimensions)
            for each in readings
        ]
        keys = [row.customer for row in rows]
        found = findings.repeated(rows, self._query) + findings.unmapped(keys, window)
        found += combinations.judged(readings, self._meter, window)
        self._customers = keys
        if self._mapping is not None:
            found += findings.without_customer(keys, self._mapping, window)
            self._customers = [key and self._mapping.get(key) for key in keys]
        if self._stripe is not None:
            found += findings.customers(self._customers, self._stripe)
        return found

    def _lookups(self) -> Iterator[Finding]:
        """Look up a few of the customers of one window at each sink that knows customers."""
        for register in self._registers:
            reasons: list[str | None] = []
            for customer in register.sample(self._customers):
                if self._elapsed() > self._until:
                    yield lookup.out_of_time(self._seconds, register.name)
                    break
                try:
                    reasons.append(register.why_unknown(customer))
                except SinkError as error:
                    yield lookup.silent(error, register.name)
                    break
            yield from lookup.unknown([each for each in reasons if each], len(reasons), register.name)

    def _stretch(
        self, trying: Trying, newest: Span, *, by_window: bool
    ) -> Iterator[tuple[str, list[Finding]]]:
        """Judge a stretch of windows, read again, and one by one."""
        span = Span(newest.end - SIDE_BY_SIDE * self._length, newest.end)
        whole = self._windowed(trying, span, by_window=by_window)
        again = [self._windowed(trying, span, by_window=by_window) for _ in range(2)]
        yield "reading twice", findings.rereadings([whole, *again], span, self._query)
        if text.present(self._query) is not None:
            later = [self._later(span, by_window=by_window) for _ in range(2)]
            yield "reading later", findings.later([whole, *later], span, self._query)
        if self._meter.latest and not by_window:
            return
        parts = [
            (each, self._windowed(trying, each, by_window=by_window))
            for each in windows.tile(span, self._length)
        ]
        yield "cutting into windows", findings.cut(whole, parts, span, self._query, by_window=by_window)
        if not by_window:
            yield "windows beside each other", findings.alike_everywhere(parts, whole, self._query)
        if self._length < windows.DAY:
            start = windows.floor(newest.start, windows.DAY)
            day = Span(start, start + windows.DAY)
            last = self._used(trying, Span(day.end - trying.least, day.end))
            if findings.total(last):
                whole_day = self._used(trying, day)
                yield (
                    "the last instant of a day",
                    findings.last_instant(day, whole_day, last, self._query, dialect=trying.dialect),
                )

    def _later(self, span: Span, *, by_window: bool) -> Sums:
        """Read a stretch in a snapshot of its own, as a later pass does."""
        self._check_time()  # before it is opened: whatever is raised within is taken for the source's trouble
        with self._source.trying(self._query, self._timeout, self._meter.dimensions) as trying:
            return self._summed(trying, trying.ask(span), span, by_window=by_window)

    def _windowed(self, trying: Trying, span: Span, *, by_window: bool) -> Sums:
        return self._summed(trying, self._ask(trying, span), span, by_window=by_window)

    def _summed(self, trying: Trying, answer: Answer, span: Span, *, by_window: bool) -> Sums:
        if by_window:
            return _sums(trying.readings(answer, span, self._length), by_window=True)
        return _sums(trying.amounts(answer, span, self._length), by_window=False)

    def _whole_windows_only(self, trying: Trying, window: Span) -> bool:
        """Tell whether the bounds are rounded to windows, as of a table that has one row per day. That is right as long as
        whole windows are asked for, and then nothing can be asked of shorter stretches."""
        if text.rounded(self._query) is None:
            return False
        last = self._used(trying, Span(window.end - trying.least, window.end))
        return bool(last) and findings.alike(last, self._used(trying, window))

    def _edges(self, trying: Trying, window: Span, answer: Answer) -> list[Finding]:
        """Judge what becomes of a row that lies on a boundary, by making its own instant one."""
        if text.looks_at_neighbours(self._query) is not None:
            return []
        at = self._instant(trying, window, answer)
        if at is None:
            return []
        least = trying.least
        twice = any(self._any(trying, Span(each, each)) for each in (at, at + least))
        begins = self._any(trying, Span(at, at + least))
        before = not begins and self._any(trying, Span(at - least, at))
        return findings.edge(Edge(at, twice, begins, before), self._query)

    def _instant(self, trying: Trying, window: Span, answer: Answer) -> dt.datetime | None:
        """Return an instant at which there is a row: as the query says, or found by halving."""
        narrowed = text.narrowed(self._query) is not None and not text.makes_rows(self._query)
        whole = [each for each in trying.instants(answer) if not (each - LONG_AGO) % trying.least]
        for each in sorted(whole)[-1:]:
            around = Span(each - trying.least, each + trying.least)
            return each if narrowed or self._any(trying, around) else None
        if text.may_not_add_up(self._query):
            return None
        start, end = window
        for _ in range(HALVINGS):
            if end - start <= trying.least:
                return start
            middle = start + (end - start) / 2 // trying.least * trying.least
            if self._any(trying, Span(start, middle)):
                end = middle
            elif self._any(trying, Span(middle, end)):
                start = middle
            elif self._any(trying, Span(middle - trying.least, middle + trying.least)):
                return middle
            elif narrowed and end - start < self._length:
                return middle  # there is one between `start` and `end`, and in no part of that
            else:
                return None  # no row at all: only whole windows have any, such as those that `generate_series` makes
        return None

    def _today(self, trying: Trying, now: dt.datetime, columns: Sequence[Column]) -> list[Finding]:
        """Judge the newest usage against the present instant."""
        kinds = {column.kind for column in columns if column.name.lower() in {"at", "window"}}
        naive = trying.naive_is_utc and (kinds <= {*WITHOUT_ZONE, None})
        present = windows.floor(now, windows.MINUTE) + windows.MINUTE
        furthest = findings.FURTHEST_ZONE + windows.HOUR
        newest = self._last(trying, Span(present, present + furthest))
        if newest is not None:
            beyond = Span(present + furthest, present + furthest + FURTHEST_AHEAD)
            open_ended = self._any(trying, Span(beyond.end - windows.HOUR, beyond.end))
            if open_ended and newest == present + furthest:
                return []  # what has no end yet lasts up to any `:end` that is asked for
            hours = [Span(present + n * windows.HOUR, present + (n + 1) * windows.HOUR) for n in range(15)]
            steady = all(self._any(trying, each) for each in hours if each.end <= newest)
            steady = steady and not self._any(trying, beyond)
            return findings.ahead(newest, now, naive=naive, steady=steady)
        if not naive or not kinds:
            return []
        newest = self._last(trying, Span(present - furthest, present))
        if newest is None or not findings.behind(newest, findings.HALF_HOUR, now):
            return []
        half = findings.HALF_HOUR
        before = (Span(newest - (n + 1) * half, newest - n * half) for n in range(HALF_HOURS_OF_STEADY_USAGE))
        if not all(self._any(trying, each) for each in before):
            return []
        last_but_one = self._last(trying, Span(newest - half, newest - windows.MINUTE))
        gap = half if last_but_one is None else newest - last_but_one
        return findings.behind(newest, gap, now)

    def _last(self, trying: Trying, span: Span) -> dt.datetime | None:
        """Return the last minute of a stretch that has usage; None if none has."""
        if not self._any(trying, span):
            return None
        return self._narrowed(trying, span, windows.MINUTE).end

    def _joins(self, trying: Trying) -> list[Finding]:
        """Judge joins whose other side has a key more than once."""
        found: list[Finding] = []
        for join in text.joins(self._query):
            self._check_time()
            others = [side for side in (join.left, join.right) if side[0] != join.bounded]
            repeated = [
                (table, column, *trying.keys_more_than_once(table, column)) for table, column in others
            ]
            if repeated and all(many for _, _, many, _ in repeated):
                table, column, many, example = repeated[0]
                found += findings.multiplied(join, table, column, many, example, self._query)
        return found


ENDS = {
    Kind.TYPE,
    Kind.CAST,
    Kind.TEXT_TIMES,
    Kind.BOUNDS_IGNORED,
    Kind.START_IGNORED,
    Kind.ROUNDED,
    Kind.STATE,
    Kind.RANDOM,
    Kind.PRESENT,
    Kind.DEPENDS,
}
"""What explains whatever else would be found."""


def _sums(readings: Sequence[Reading], *, by_window: bool) -> Sums:
    found: dict[tuple[str | None, dt.datetime | None], Decimal] = {}
    for each in readings:
        if each.quantity:
            key = (each.customer, each.window_start if by_window else None)
            found[key] = found.get(key, Decimal(0)) + each.quantity
    return {key: much for key, much in found.items() if much}
