"""What became of usage, by customer or by time: from what was read and planned, in one pass over a range of a feed.

Rules
- The slots of a feed are found by their key, its windows. Of events only those are looked at that are not billed; those
  that are make up the rest of where a slot stands, and are many. Tests hold that against the states of all events.
- The server makes the lines, and they come in batches: memory stays bounded whatever the number of customers.
- All lines of a feed are one statement's word: what a daemon commits meanwhile is in all of them or in none.
- Where a customer is billed by the last number, figures are steps: what the sink has, by how much what is under way changes
  that, then what is held, and so on up to what the source says. All events are looked at there.
- Nothing here writes, except what was read from the source just now into a table of the transaction's own.
"""

import datetime as dt
from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal
from itertools import groupby, islice
from typing import Any, NamedTuple

from psycopg.types.json import Jsonb

from aggregator.core.model import ZERO, Definition, Span
from aggregator.core.usage import By, Line, Usage, sum_of
from aggregator.core.windows import DAY
from aggregator.ledger import usage_statements as statements
from aggregator.ledger.archived import Archived, Beside, Detail, Question
from aggregator.ledger.customers import names_of
from aggregator.ledger.database import Connection, Database, Part, streamed
from aggregator.ledger.meters import definitions_of_many
from aggregator.ledger.passes.changes import WORK_MEMORY, stage
from aggregator.ledger.passes.spool import Spool

# A cursor is planned to give its first rows soon; here all of them are wanted.
ALL_ROWS = "select set_config('cursor_tuple_fraction', '1', true)"

FEEDS = """
select feed.id, meter.name, sink.name, meter.id, feed.ordered,
       feed.shadow or feed.shadow_until is not null or feed.parted,
       feed.since, feed.until, meter.mark, feed.read_until, meter.reread_from,
       (select count(*) from aggregator.unread
         where unread.meter_id = meter.id and window_start >= %(start)s and window_start < %(end)s),
       meter.window_seconds,
       (select count(*) from (select from aggregator.outbox where outbox.feed_id = feed.id limit %(many)s) as its),
       array(select distinct unnest(dimensions) from aggregator.definition where definition.meter_id = meter.id order by 1),
       feed.shadow and not feed.parted, meter.archived_until
  from aggregator.feed
  join aggregator.meter on meter.id = feed.meter_id
  join aggregator.sink on sink.id = feed.sink_id
 where %(meters)s::text[] is null or meter.name = any(%(meters)s)
 order by meter.name, sink.name
"""

SOME = " limit %(limit)s offset %(offset)s"

MANY = 10_000
"""As far as is counted what waits to be sent."""

FEEDS_AT_ONCE = 200
"""Feeds whose lines one statement gives: so many that planning it is nothing, so few that others wait for nobody."""

WORTH_ONE_STATEMENT = 8
"""Of fewer feeds each has a statement of its own, which is planned for what is known of that feed."""

MOST_DAYS = 400
"""Of longer spans the days are not gone through one by one."""

FOREVER = dt.datetime.max.replace(tzinfo=dt.UTC)
"""Later than every window: for what has no end."""


class UsageFeed(NamedTuple):
    """A feed whose usage is asked for, and how far it is."""

    id: int
    meter: str
    sink: str
    meter_id: int
    last: bool
    """Whether a customer is billed by the last number, so that numbers do not add up over time."""
    shadowed: bool
    """Whether some of it may have been planned in shadow."""
    since: dt.datetime
    until: dt.datetime | None
    mark: dt.datetime
    read_until: dt.datetime
    """Up to where this feed was planned for; behind the mark, or at its own end."""
    changes_from: dt.datetime | None
    """From where on a change waits for an event to be settled, so that it is not counted yet."""
    unread: int
    """How many windows of the range the source could not give."""
    window_seconds: int = 3_600
    waiting: int = 0
    """How many events wait to be sent; `MANY` stands for that and more."""
    dimensions: Sequence[str] = ()
    """By what its usage is kept apart, or was, in alphabetical order."""
    shadow: bool = False
    """Whether nothing of it is sent now."""
    archived_until: dt.datetime | None = None
    """Up to where its months are archived."""


class OpenWindows(NamedTuple):
    """What the source has of the windows from an instant on, which were not read when it was asked."""

    since: dt.datetime
    readings: Spool
    unit: Decimal
    """The least that is billed of the meter."""


class OfCustomers(NamedTuple):
    """What some customers used of a feed: the lines of each that used anything, and what they come to."""

    feed: UsageFeed
    lines: dict[str, list[Line]]
    totals: dict[str, Usage]


class Asked(NamedTuple):
    """What some customers are called, as far as a mapping says it, and what they used of each feed."""

    names: dict[str, str]
    feeds: list[OfCustomers]


class ValuesOfDimension(NamedTuple):
    """Some of the lines by a dimension, what all of them come to, and how many there are."""

    lines: list[Line]
    total: Usage
    lines_in_all: int


class UsageReport(Part):
    """The question what became of usage."""

    def __init__(self, database: Database, archived: Archived | None = None) -> None:
        super().__init__(database)
        self._archived = archived or Archived()

    def feeds(self, meter: str | None, span: Span) -> list[UsageFeed]:
        """Return the feeds that a meter has or had, or those of all meters, by meter and sink."""
        with self._database.transaction() as connection:
            return _feeds(connection, None if meter is None else [meter], span)

    def definitions(self, feeds: Iterable[UsageFeed]) -> dict[str, tuple[Definition, ...]]:
        """Return by which queries, and in which windows, the meters of feeds are read, by name and in the order of time."""
        names = {feed.meter_id: feed.meter for feed in feeds}
        with self._database.transaction() as connection:
            found = definitions_of_many(connection, list(names))
        return {name: found[meter_id] for meter_id, name in names.items()}

    def lines(
        self,
        feed: UsageFeed,
        span: Span,
        by: By | None = None,
        *,
        customer: str | None = None,
        dimension: str | None = None,
        opened: OpenWindows | None = None,
        kept: str | None = None,
    ) -> Iterator[Line]:
        """Yield the lines of a feed over a span: by time, or by customer, who used most first and what is nobody's last.

        With a `dimension` in the place of `by` there is a line for each value of it, in the same order.

        With what is `kept` of days (`UsageDays.kept`), lines of all customers by time cost less; they are the same. The
        transaction lasts as long as the iterator.
        """
        some = customer and [customer]
        statement, values = question(feed, span, by, some, opened, kept, dimension)
        with self._database.transaction(looks=True) as connection:
            connection.execute(WORK_MEMORY)
            connection.execute(ALL_ROWS)
            beside = self._beside(connection, [feed], span, by, some, dimension)
            if opened is not None:
                stage(connection, opened.readings, opened.unit)
            for row in streamed(connection, beside(statement), values):
                yield _named(_line(feed, row), customers=dimension is None)

    def lines_of_each(
        self,
        feeds: Sequence[UsageFeed],
        span: Span,
        by: By | None = None,
        *,
        customer: str | None = None,
        dimension: str | None = None,
    ) -> Iterator[tuple[UsageFeed, Iterator[Line]]]:
        """Yield the same lines of many feeds, feed by feed: take those of one before the next. Nothing is open in them."""

        def asked(feed: UsageFeed) -> tuple[str, dict[str, object]]:
            return question(feed, span, by, customer and [customer], dimension=dimension)

        for statement, alike in groupby(feeds, lambda feed: asked(feed)[0]):
            while some := list(islice(alike, FEEDS_AT_ONCE)):
                if len(some) < WORTH_ONE_STATEMENT:
                    for feed in some:
                        yield feed, self.lines(feed, span, by, customer=customer, dimension=dimension)
                    continue
                values = {**asked(some[0])[1], **_own(some)}
                with self._database.transaction(looks=True) as connection:
                    connection.execute(WORK_MEMORY)
                    connection.execute(ALL_ROWS)
                    beside = self._beside(connection, some, span, by, customer and [customer], dimension)
                    rows = streamed(connection, beside(statements.of_many(statement)), values)
                    yield from _of_many(some, rows, named=dimension is None)

    def of_customer(self, feed: UsageFeed, span: Span, customer: str, by: By | None = None) -> list[Line]:
        """Return the same lines of one customer at once: there is one for a day or an hour at most."""
        with self._database.transaction(looks=True) as connection:
            beside = self._beside(connection, [feed], span, by, [customer])
            return _of_customers(connection, feed, span, [customer], by, beside).get(customer, [])

    def of_customers(
        self,
        span: Span,
        customers: Sequence[str],
        by: By | None = None,
        meters: Sequence[str] | None = None,
        most: int | None = None,
    ) -> Asked:
        """Return what each of some customers used, of all meters or of some, by meter and sink.

        What they have in common is found once: of many that ask at the same time, each costs little. Of more
        than `most` feeds nothing is looked up.
        """
        found = []
        with self._database.transaction(looks=True) as connection:
            feeds = _feeds(connection, meters, span)
            if most is not None and len(feeds) > most:
                return Asked({}, [OfCustomers(feed, {}, {}) for feed in feeds])
            names = names_of(connection, customers)
            beside: Beside = str
            if any(feed.archived_until is not None and span.start < feed.archived_until for feed in feeds):
                beside = self._beside(connection, feeds, span, by, customers)
            for feed in feeds:
                lines = _of_customers(connection, feed, span, customers, by, beside)
                totals = lines
                if by is not None and feed.last:
                    totals = _of_customers(connection, feed, span, customers, None, beside)
                found.append(
                    OfCustomers(
                        feed,
                        lines,
                        {whose: sum_of(line.usage for line in several) for whose, several in totals.items()},
                    )
                )
        return Asked(names, found)

    def some_values(
        self,
        feed: UsageFeed,
        span: Span,
        dimension: str,
        limit: int,
        offset: int,
        customer: str | None = None,
    ) -> ValuesOfDimension:
        """Return a few of the lines by a dimension, in the same order, of one customer or of all."""
        statement, values = question(feed, span, None, customer and [customer], dimension=dimension)
        with self._database.transaction(looks=True) as connection:
            connection.execute(WORK_MEMORY)
            beside = self._beside(connection, [feed], span, None, customer and [customer], dimension)
            found = connection.execute(
                beside(statements.SOME_AND_ALL.format(lines=statement)),
                {**values, "limit": limit, "offset": offset},
            )
            total, *some = found.fetchall()
        lines = [_line(feed, row[:-2]) for row in some]
        return ValuesOfDimension(
            [line._replace(customer=None, value=line.customer) for line in lines],
            _line(feed, total[:-2]).usage,
            total[-2],
        )

    def some_customers(self, feed: UsageFeed, span: Span, limit: int, offset: int) -> list[Line]:
        """Return a few of the lines by customer, in the same order."""
        statement, values = question(feed, span, By.CUSTOMER)
        with self._database.transaction(looks=True) as connection:
            connection.execute(WORK_MEMORY)
            beside = self._beside(connection, [feed], span, By.CUSTOMER)
            rows = connection.execute(beside(statement + SOME), {**values, "limit": limit, "offset": offset})
            return [_line(feed, row) for row in rows]

    def _beside(
        self,
        connection: Connection,
        feeds: Sequence[UsageFeed],
        span: Span,
        by: By | None,
        customers: Sequence[str] | None = None,
        dimension: str | None = None,
    ) -> Beside:
        """Lay what is archived of a span beside the ledger's own, in no more detail than the lines need."""
        if any(feed.last or feed.shadowed for feed in feeds):
            detail = Detail.WINDOWS
        elif customers is None and dimension is None and by is not By.CUSTOMER:
            detail = Detail.HOURS
        else:
            detail = Detail.WINDOWS if by in (By.HOUR, By.DAY) else Detail.MONTHS
        return self._archived.beside(
            connection, Question([feed.id for feed in feeds], span, customers, detail)
        )


def _feeds(connection: Connection, meters: Sequence[str] | None, span: Span) -> list[UsageFeed]:
    values = {
        "meters": None if meters is None else list(meters),
        "start": span.start,
        "end": span.end,
        "many": MANY,
    }
    return [UsageFeed._make(row) for row in connection.execute(FEEDS, values)]


def _of_many(
    feeds: Sequence[UsageFeed], rows: Iterable[tuple[Any, ...]], *, named: bool
) -> Iterator[tuple[UsageFeed, Iterator[Line]]]:
    """Yield each feed with its lines, by rows that begin with the place of their feed."""
    coming = groupby(rows, lambda row: row[0])
    number, found = next(coming, (None, iter(())))
    for place, feed in enumerate(feeds, 1):
        lines = found if number == place else iter(())
        yield feed, (_named(_line(feed, row[1:-1]), customers=named) for row in lines)
        if number == place:
            number, found = next(coming, (None, iter(())))


def _own(feeds: Sequence[UsageFeed]) -> dict[str, object]:
    """Return what is each feed's own, for a statement about all of them."""
    return {
        "feeds": [feed.id for feed in feeds],
        "meters": [feed.meter_id for feed in feeds],
        "sinces": [feed.since for feed in feeds],
        "untils": [feed.until or FOREVER for feed in feeds],
    }


def _named(line: Line, *, customers: bool) -> Line:
    """Return a line of a customer, or of a value of a dimension, which stands in the same place."""
    return line if customers else line._replace(customer=None, value=line.customer)


def _of_customers(
    connection: Connection,
    feed: UsageFeed,
    span: Span,
    customers: Sequence[str],
    by: By | None,
    beside: Beside,
) -> dict[str, list[Line]]:
    """Return the lines of some customers, each in their order."""
    statement, values = question(feed, span, by, customers)
    found: dict[str, list[Line]] = {}
    for whose, start, *amounts in connection.execute(beside(statement), {**values, "each": True}):
        line = _line(feed, (whose if by is By.CUSTOMER else None, start, *amounts))
        found.setdefault(whose, []).append(line)
    return found


def _line(feed: UsageFeed, row: Sequence[Any]) -> Line:
    """Return a line as the server gives it. What is billed to somebody is money: it must add up."""
    whose, start, *amounts = row
    line = Line(whose, start, Usage._make(amount or ZERO for amount in amounts))
    assert line.usage.adds_up, f"the usage of {feed.meter} for {feed.sink} does not add up: {line}"
    return line


def question(
    feed: UsageFeed,
    span: Span,
    by: By | None = None,
    customers: Sequence[str] | None = None,
    opened: OpenWindows | None = None,
    kept: str | None = None,
    dimension: str | None = None,
) -> tuple[str, dict[str, object]]:
    """Return the statement that gives the lines, and its values."""
    assert dimension is None or (by is None and not feed.last), "no dimension keeps last numbers apart"
    some = customers is not None
    values = {
        "feed": feed.id,
        "meter": feed.meter_id,
        "start": span.start,
        "end": span.end,
        "since": feed.since,
        "until": feed.until or FOREVER,
        "open_from": opened.since if opened else FOREVER,
        "by": by,
        "each": False,
        "dimension": dimension,
        "combinations": _seen_in(opened),
        "kept": kept,
        "customers": list(customers) if customers is not None else None,
    }
    if feed.last:
        return statements.last(some=some, opened=opened is not None), values
    statement = statements.added(
        statements.sums_for(
            by,
            some=some,
            many_days=span.end - span.start > MOST_DAYS * DAY,
            by_dimension=dimension is not None,
        ),
        some=some,
        shadowed=feed.shadowed,
        opened=opened is not None,
        many_wait=_many_wait(feed, span, len(customers or ())),
        kept=kept is not None,
        by_dimension=dimension is not None,
    )
    return statement, values


def _seen_in(opened: OpenWindows | None) -> Jsonb:
    """Return the combinations that were read just now: the dictionary may lack some of them."""
    seen = {} if opened is None else opened.readings.combinations
    return Jsonb([{"id": number, "dimensions": dict(combination)} for combination, number in seen.items()])


def _many_wait(feed: UsageFeed, span: Span, customers: int) -> bool:
    """Tell whether more waits to be sent than so many customers have slots, each of which is looked up twice."""
    windows = (min(span.end, feed.mark) - span.start) // dt.timedelta(seconds=feed.window_seconds)
    return feed.waiting >= min(MANY, 2 * customers * max(windows, 1))
