"""Lets a question see what was archived as if it were still here.

Rules
- A question's transaction sees one instant, so that what is removed meanwhile is neither missed nor seen twice.
- What is archived is laid beside what is here, in views of the transaction's own that bear the tables' names. The question's
  own statements read those, so no statement is written twice. Nothing in the ledger is written.
- No more is fetched than the question needs: sums by hour or by month stay in the ledger; the file is read where windows of
  customers, or single events, are asked for.
"""

import datetime as dt
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import Enum
from typing import NamedTuple, Protocol

from psycopg import errors as pg

from aggregator.core.archive import Row
from aggregator.core.model import Span
from aggregator.errors import ArchiveError, LedgerError
from aggregator.ledger.archives import ARCHIVE, AS_ATTEMPTS, AS_EVENTS, AS_SLOTS, FROM_ARCHIVE, Archive
from aggregator.ledger.database import Connection

Beside = Callable[[str], str]
"""Makes of a statement one that sees what is archived, too."""

OF_SLOTS = re.compile(r"\baggregator\.(slot)\b")
OF_ALL = re.compile(r"\baggregator\.(slot|event|attempt|events_of)\b")
"""The tables in whose place a view stands: where sums are enough, that of slots alone."""

SLOT = "id, window_start, combination, stamped_at, tail, feed_id, revision, replan, customer, quantity, total"

# A sum in the place of the slots that it is of: it has no events, so of what was billed it says as much as they did.
OF_SUMS = """
create temporary view slot as
select {slot} from aggregator.slot
 union all
select 0::bigint, {window_start}, {combination}, null::timestamptz, null::bigint, feed_id, 0, false,
       {customer} collate "C", quantity, total
  from aggregator.{table}
"""

TABLES_OF_ROWS = (
    "create temporary table archived (like aggregator.archived_row)",
    "create temporary table archived_slot (like aggregator.slot)",
    "create temporary table archived_event (like aggregator.event)",
    "create temporary table archived_attempt (like aggregator.attempt)",
)
COPY = f"copy pg_temp.archived ({', '.join(Row._fields)}) from stdin"
# An attempt may still be here, for the sake of other events; then it names the archived ones, too.
GONE_ATTEMPTS = "having not exists (select from aggregator.attempt where attempt.id = tried.id)"
FILL = (
    f"insert into pg_temp.archived_slot {AS_SLOTS.format(rows='archived')}",
    f"insert into pg_temp.archived_event {AS_EVENTS.format(rows='archived')}",
    f"insert into pg_temp.archived_attempt {AS_ATTEMPTS.format(rows='archived')} {GONE_ATTEMPTS}",
    "create index on pg_temp.archived_slot (feed_id, window_start, customer, combination)",
    "create index on pg_temp.archived_event (id)",
    "create index on pg_temp.archived_event (slot_id, revision)",
    "create index on pg_temp.archived_attempt using gin (events)",
    "analyze pg_temp.archived_slot",
    "analyze pg_temp.archived_event",
    """
    create temporary view slot as
    select * from aggregator.slot union all select * from pg_temp.archived_slot
    """,
    """
    create temporary view event as
    select * from aggregator.event union all select * from pg_temp.archived_event
    """,
    """
    create temporary view attempt as
    select * from aggregator.attempt union all select * from pg_temp.archived_attempt
    """,
    """
    create function pg_temp.events_of(slot bigint, others boolean default true) returns setof aggregator.event
    language sql stable rows 1 as $$
        select * from pg_temp.event where id = slot and revision = 0
         union all
        select * from pg_temp.event where others and slot_id = slot and revision > 0
    $$
    """,
)

OF_FEEDS = f"""
select {ARCHIVE} {FROM_ARCHIVE}
 where archive.meter_id in (select meter_id from aggregator.feed where id = any(%(feeds)s))
   and month < %(end)s and removed_until > greatest(month, %(start)s)
 order by meter.name, month
"""  # noqa: S608 - our own text


class Detail(Enum):
    """How much of what is archived a question needs."""

    HOURS = "what all customers used, by hour"
    MONTHS = "what each customer used, by month"
    WINDOWS = "each slot with its events"


class Reader(Protocol):
    """Reads archives, wherever they lie."""

    def rows(self, archive: Archive, span: Span, customers: Sequence[str] | None) -> Iterator[Row]:
        """Yield the rows of a span, of some customers or of all. Raises ArchiveError where they cannot be had."""
        ...

    def find(self, archive: Archive, number: int | None, identifier: str) -> Row | None:
        """Return the row of an event, by its number or by its identifier; None if it is in none. Raises the same."""
        ...


class Question(NamedTuple):
    """Whose windows are asked for."""

    feeds: Sequence[int]
    span: Span
    customers: Sequence[str] | None = None
    detail: Detail = Detail.WINDOWS
    starts: Sequence[dt.datetime] | None = None
    """If only single windows are asked for, these."""


class Archived:
    """What questions see of archives. Without a `reader` only sums can be asked for."""

    def __init__(self, reader: Reader | None = None) -> None:
        self.reader = reader

    def beside(self, connection: Connection, question: Question) -> Beside:
        """Lay what is archived beside what is here, for the rest of a transaction that sees one instant.

        Raises ArchiveError where an archive is needed and cannot be had.
        """
        values = {"feeds": list(question.feeds), "start": question.span.start, "end": question.span.end}
        found = [Archive._make(row) for row in connection.execute(OF_FEEDS, values)]
        if not found:
            return lambda statement: statement
        try:
            tables = self._lay(connection, question, found)
        except pg.InsufficientPrivilege as error:
            raise LedgerError(
                "Some of these windows are archived. To show them, this role must be allowed to make temporary tables: "
                "`aggregator grants` prints what each role needs."
            ) from error
        return lambda statement: tables.sub(r"pg_temp.\1", statement)

    def _lay(
        self, connection: Connection, question: Question, archives: Sequence[Archive]
    ) -> re.Pattern[str]:
        """Make the views that a question needs; return in whose place they stand."""
        match _enough(question, archives):
            case Detail.HOURS:
                columns = {"window_start": "hour", "customer": "''", "combination": "0::bigint"}
                connection.execute(OF_SUMS.format(slot=SLOT, table="archived_hour", **columns))
                return OF_SLOTS
            case Detail.MONTHS:
                columns = {"window_start": "month", "customer": "customer", "combination": "combination"}
                connection.execute(OF_SUMS.format(slot=SLOT, table="archived_usage", **columns))
                return OF_SLOTS
            case Detail.WINDOWS:
                for statement in TABLES_OF_ROWS:
                    connection.execute(statement)
                with connection.cursor().copy(COPY) as copy:
                    for row in self._rows(question, archives):
                        copy.write_row(row)
                for statement in FILL:
                    connection.execute(statement)
                return OF_ALL

    def find(self, archive: Archive, number: int | None, identifier: str) -> Row | None:
        """Return the row of an event that was removed, by its number or by its identifier; None if it is in none."""
        row = self._reader_of(archive).find(archive, number, identifier)
        return row if row is not None and row.window_start in archive.removed else None

    def _reader_of(self, archive: Archive) -> Reader:
        if self.reader is None:
            raise ArchiveError(
                f"{archive.meter} of {archive.month:%Y-%m} is archived in {archive.place}: let `ledger.archive` of the "
                "configuration say so."
            )
        return self.reader

    def _rows(self, question: Question, archives: Iterable[Archive]) -> Iterator[Row]:
        feeds, starts = set(question.feeds), None if question.starts is None else set(question.starts)
        for archive in archives:
            span = Span(
                max(archive.month, question.span.start), min(archive.removed_until, question.span.end)
            )
            for row in self._reader_of(archive).rows(archive, span, question.customers):
                if row.feed_id in feeds and (starts is None or row.window_start in starts):
                    yield row


def _enough(question: Question, archives: Iterable[Archive]) -> Detail:
    """Return the least detail that answers a question: sums do where it begins and ends between them."""
    start, end = question.span
    if question.detail is Detail.MONTHS and all(
        start <= archive.month and archive.removed_until <= end for archive in archives
    ):
        return Detail.MONTHS
    if question.detail is Detail.HOURS and not any(_within_hour(instant) for instant in question.span):
        return Detail.HOURS
    return Detail.WINDOWS


def _within_hour(instant: dt.datetime) -> bool:
    return bool(instant.minute or instant.second or instant.microsecond)
