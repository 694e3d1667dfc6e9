"""Months that leave the ledger for an archive: closed, written, verified, removed day by day, and brought back.

Rules
- Months are closed in order, and never opened again: nothing before `archived_until` is read or planned.
- What can leave is one statement of the ledger's (`aggregator.archivable`), for whoever writes it and whoever removes it.
- A day is removed by the ledger itself (`aggregator.remove_archived`), and only if it has what was read back from the
  archive. How far that went is written in the same transaction: whoever reads both in one snapshot misses nothing, and sees
  nothing twice.
- Sums by month and customer, and by hour, stay.
"""

import datetime as dt
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from aggregator.core.archive import Day, Row, span_of
from aggregator.core.model import Definition, Span
from aggregator.errors import InvariantBroken, LedgerStopped
from aggregator.ledger.at_rest import to_rest
from aggregator.ledger.database import Connection, Database, Part, streamed
from aggregator.ledger.identity import LedgerIdentity
from aggregator.ledger.meters import definitions_of

ARCHIVERS = 1_786_302_541
"""The class of the advisory locks by which only one process writes a month of a meter."""

METERS = """
select meter.id, meter.name, coalesce(meter.formerly[1], meter.name), meter.archived_until
  from aggregator.meter
 where %(meters)s::text[] is null or meter.name = any(%(meters)s)
 order by meter.name
"""

# Months that have slots and no archive. Each is looked for by the key of the slots.
MONTHS = """
select month
  from (select min(its.first) as first from aggregator.feed cross join lateral (
               select min(window_start) as first from aggregator.slot where slot.feed_id = feed.id) as its
         where feed.meter_id = {meter}) as oldest
 cross join lateral generate_series(date_trunc('month', oldest.first, 'UTC'), %(before)s::timestamptz, '1 month') as month
 where month < %(before)s
   and not exists (select from aggregator.archive where archive.meter_id = {meter} and archive.month = month.month)
   and exists (select from aggregator.feed cross join lateral (
                      select from aggregator.slot where slot.feed_id = feed.id and window_start >= month
                         and window_start < month + interval '1 month' limit 1) as its
                where feed.meter_id = {meter})
"""
UNWRITTEN = MONTHS.format(meter="%(meter)s") + " order by month"

# The same of all meters, and months of which not all is removed yet.
OLD = f"""
select meter.id, meter.name, min(old.month), count(*)
  from aggregator.meter
 cross join lateral (
        {MONTHS.format(meter="meter.id")}
         union
        select month from aggregator.archive
         where meter_id = meter.id and removed_at is null and restored_at is null and month < %(before)s
       ) as old
 group by 1, 2 order by 2
"""  # noqa: S608 - our own text

FEEDS = """
select feed.id, sink.name from aggregator.feed join aggregator.sink on sink.id = feed.sink_id
 where feed.meter_id = %(meter)s order by feed.id
"""

# What speaks against closing a meter up to an instant: each counted, in the words of what there is.
OPEN = """
select what, many from (
    select 'not read to its end' as what, count(*) as many from aggregator.meter where id = %(meter)s and mark < %(end)s
     union all
    select 'not planned to its end for a sink', count(*) from aggregator.feed
     where meter_id = %(meter)s and read_until < least(%(end)s, until) and since < %(end)s
     union all
    select 'waiting to be read again', count(*) from aggregator.meter where id = %(meter)s and reread_from < %(end)s
     union all
    select 'events waiting to be sent', count(*)
      from aggregator.feed join aggregator.outbox on outbox.feed_id = feed.id
     where feed.meter_id = %(meter)s and outbox.window_start < %(end)s
     union all
    select 'events waiting for a person, or for proof', count(*)
      from aggregator.feed join aggregator.parked on parked.feed_id = feed.id and parked.dismissed_at is null
      join aggregator.event on event.id = parked.event_id
     where feed.meter_id = %(meter)s and event.window_start < %(end)s
     union all
    select 'events being taken back', count(*)
      from aggregator.cancellation join aggregator.event on event.id = cancellation.event_id
      join aggregator.feed on feed.id = event.feed_id
     where feed.meter_id = %(meter)s and event.window_start < %(end)s and cancellation.settled_at is null
     union all
    select 'spans to be compared with a sink', count(*)
      from aggregator.feed join aggregator.readback on readback.feed_id = feed.id
     where feed.meter_id = %(meter)s and readback.done_at is null and lower(readback.span) < %(end)s
     union all
    select 'customers to be compared with a sink', count(*)
      from aggregator.feed join aggregator.unchecked on unchecked.feed_id = feed.id
     where feed.meter_id = %(meter)s and unchecked.first_window < %(end)s
     union all
    select 'totals to be said again', count(*)
      from aggregator.feed join aggregator.reassertion on reassertion.feed_id = feed.id
     where feed.meter_id = %(meter)s and reassertion.window_start < %(end)s
     union all
    select 'windows that shrank, and are to be read once more', count(*)
      from aggregator.guarded where meter_id = %(meter)s and window_start < %(end)s
     union all
    select 'files to be uploaded and confirmed', count(*)
      from aggregator.file
     where by_hand and written_at is not null and confirmed_at is null and rejected_at is null
       and (select name from aggregator.meter where id = %(meter)s) = any(meters) and first_window < %(end)s
) as each where many > 0
"""

HOLD = "select archived_until from aggregator.meter where id = %(meter)s for update"
CLOSE = "update aggregator.meter set archived_until = %(end)s where id = %(meter)s"

LOCK = "select pg_try_advisory_xact_lock(%(class)s, %(meter)s)"
UNHURRIED = """
select set_config('statement_timeout', '2h', true), set_config('work_mem', '64MB', true),
       set_config('cursor_tuple_fraction', '1', true)
"""

# In the order in which archives hold it: a customer's rows lie together, so that few of many are read.
ROWS = """
select * from aggregator.archivable(%(meter)s, %(start)s, %(end)s)
 order by customer, window_start, feed_id, combination, revision
"""

COMBINATIONS = "select id, dimensions from aggregator.combination where meter_id = %(meter)s"

RECORD = """
insert into aggregator.archive (meter_id, month, place, name, bytes, sha256, slots, events, first_event, last_event,
                                written_at, removed_until)
values (%(meter_id)s, %(month)s, %(place)s, %(name)s, %(bytes)s, %(sha256)s, %(slots)s, %(events)s, %(first_event)s,
        %(last_event)s, clock_timestamp(), %(month)s)
    on conflict (meter_id, month) do nothing
"""

ARCHIVE = """
       archive.id, archive.meter_id, meter.name, month, place, archive.name, bytes, sha256, slots, events, first_event,
       last_event, written_at, verified_at, removed_until, removed_at, restored_at
"""
FROM_ARCHIVE = "from aggregator.archive join aggregator.meter on meter.id = archive.meter_id"

LISTED = f"""
select {ARCHIVE} {FROM_ARCHIVE}
 where %(meters)s::text[] is null or meter.name = any(%(meters)s)
 order by meter.name, month
"""

FORGET = "delete from aggregator.archive where id = %(archive)s and removed_until = month"

VERIFIED = """
update aggregator.archive set verified_at = clock_timestamp() where id = %(archive)s and sha256 = %(sha256)s
"""
FORGET_DAYS = "delete from aggregator.archive_day where archive_id = %(archive)s"
DAY = """
insert into aggregator.archive_day (archive_id, day, slots, events, quantity, total, digest)
values (%(archive)s, %(day)s, %(slots)s, %(events)s, %(quantity)s, %(total)s, %(digest)s)
"""
DAYS = """
select day, slots, events, quantity, total, digest from aggregator.archive_day where archive_id = %(archive)s order by day
"""

NEXT_DAY = """
select from aggregator.archive where id = %(archive)s and removed_until = %(day)s and restored_at is null for update
"""
REMOVE = "select aggregator.remove_archived(%(archive)s, %(day)s)"
REMOVED = "update aggregator.archive set removed_at = clock_timestamp() where id = %(archive)s and removed_at is null"
SPENT = "select aggregator.remove_spent_claims(%(after)s, %(before)s)"

# It is written again, as it is by then.
LET_GO = """
delete from aggregator.archive
 where removed_until = month and restored_at is not null and month = %(month)s
   and meter_id = (select id from aggregator.meter where name = %(meter)s)
"""

# What is brought back comes by a table of the transaction's own; the ledger has it again once all is as it was removed.
INCOMING = "create temporary table incoming (like aggregator.archived_row) on commit drop"
COPY_IN = f"copy pg_temp.incoming ({', '.join(Row._fields)}) from stdin"
HOLD_ARCHIVE = """
select removed_until, restored_at from aggregator.archive where id = %(archive)s for update
"""
DIFFERING_DAYS = """
with came as (
    select date_trunc('day', window_start, 'UTC') as day,
           sum(aggregator.archive_digest(row(incoming.*)::aggregator.archived_row)) as digest
      from pg_temp.incoming group by 1
)
select count(*) from came
  full join (select day, digest from aggregator.archive_day where archive_id = %(archive)s and day < %(until)s) as known
      using (day)
 where came.digest is distinct from known.digest
"""
# What rows of an archive say, as the tables have it. Numbers come with as many decimals as a file has places for.
AS_SLOTS = """
(id, window_start, combination, stamped_at, tail, feed_id, revision, replan, customer, quantity, total)
select slot_id, window_start, combination, stamped_at, tail, feed_id, slot_revision, false, customer, trim_scale(quantity),
       trim_scale(total)
  from pg_temp.{rows} where revision is null or revision = 0
 order by feed_id, window_start, customer, combination
"""
# In the order of the columns of `aggregator.event`.
AS_EVENTS = """
select event_id as id, slot_id, pass_id, feed_id, revision, window_start, at, planned_at, exposed_at, attempted_at,
       settled_at, combination, state::aggregator.event_state as state, attempts, customer, identifier,
       trim_scale(delta) as delta, trim_scale(event_total) as total, trim_scale(event_quantity) as quantity, transport,
       request_id, reason
  from pg_temp.{rows} where event_id is not null order by event_id
"""
AS_ATTEMPTS = """
(id, claim_id, at, answer, reason, events, request_ids) overriding system value
select tried.id, min(tried.claim), min(tried.at), min(tried.answer), min(tried.reason),
       array_agg(event_id order by event_id), array_agg(tried.request order by event_id)
  from pg_temp.{rows}
 cross join lateral json_to_recordset(tries::json) as tried
       (id bigint, claim bigint, at timestamptz, answer text, reason text, request text)
 where tries is not null group by tried.id
"""

BRING_BACK = (
    to_rest("its", number="id", state="its.state", reason="its.reason", settled_at="its.settled_at")
    + f"from ({AS_EVENTS.format(rows='incoming')}) as its",
    f"insert into aggregator.slot {AS_SLOTS.format(rows='incoming')}",
    f"insert into aggregator.attempt {AS_ATTEMPTS.format(rows='incoming')} on conflict (id) do nothing",
    """
    delete from aggregator.archived_hour using aggregator.feed
     where archived_hour.feed_id = feed.id and feed.meter_id = %(meter)s and hour >= %(month)s and hour < %(until)s
    """,
    """
    delete from aggregator.archived_usage using aggregator.feed
     where archived_usage.feed_id = feed.id and feed.meter_id = %(meter)s and archived_usage.month = %(month)s
    """,
    """
    update aggregator.archive set removed_until = month, removed_at = null, restored_at = clock_timestamp()
     where id = %(archive)s
    """,
)

SIZES = """
select relname, pg_total_relation_size(pg_class.oid), pg_relation_size(pg_class.oid), greatest(reltuples, 0)::bigint
  from pg_class where relnamespace = to_regnamespace('aggregator') and relkind = 'r' order by 2 desc, 1
"""


class ArchivedMeter(NamedTuple):
    """A meter, as far as it is archived."""

    id: int
    name: str
    first_name: str
    """What its events' identifiers name it."""
    archived_until: dt.datetime | None


class Archive(NamedTuple):
    """A month of a meter that was written to a file."""

    id: int
    meter_id: int
    meter: str
    month: dt.datetime
    place: str
    name: str
    bytes: int
    sha256: str
    slots: int
    events: int
    first_event: int | None
    last_event: int | None
    written_at: dt.datetime
    verified_at: dt.datetime | None
    removed_until: dt.datetime
    removed_at: dt.datetime | None
    restored_at: dt.datetime | None

    @property
    def span(self) -> Span:
        """The month."""
        return span_of(self.month)

    @property
    def removed(self) -> Span:
        """What of it the ledger does not have any more."""
        return Span(self.month, self.removed_until)


class Old(NamedTuple):
    """Months of a meter that are old enough to be archived, and are still in the ledger."""

    meter_id: int
    meter: str
    first: dt.datetime
    """The oldest of them."""
    months: int


class Size(NamedTuple):
    """What a table takes."""

    table: str
    bytes: int
    """With its indexes."""
    heap: int
    rows: int
    """As the server estimates."""


class Written(NamedTuple):
    """A file that was written of a month."""

    place: str
    name: str
    bytes: int
    sha256: str
    slots: int
    events: int
    first_event: int | None
    last_event: int | None


class Archives(Part):
    """The verbs about archives."""

    def __init__(self, database: Database, identity: LedgerIdentity | None = None) -> None:
        super().__init__(database)
        self._identity = identity

    def meters(self, names: Iterable[str] | None = None) -> list[ArchivedMeter]:
        """Return every meter that the ledger knows, or some, by name."""
        values = {"meters": None if names is None else list(names)}
        return [ArchivedMeter._make(row) for row in self._rows(METERS, values)]

    def listed(self, meters: Iterable[str] | None = None) -> list[Archive]:
        """Return the archives of all meters, or of some, by meter and month."""
        values = {"meters": None if meters is None else list(meters)}
        return [Archive._make(row) for row in self._rows(LISTED, values)]

    def unwritten(self, meter_id: int, before: dt.datetime) -> list[dt.datetime]:
        """Return the months of a meter before an instant that have slots and no archive, the oldest first."""
        rows = self._rows(UNWRITTEN, {"meter": meter_id, "before": before})
        return [month.astimezone(dt.UTC) for (month,) in rows]

    def old(self, before: dt.datetime) -> list[Old]:
        """Return of each meter which months before an instant are still here, in whole or in part, if there are any."""
        return [Old._make(row) for row in self._rows(OLD, {"before": before})]

    def definitions(self, meter_id: int) -> tuple[Definition, ...]:
        """Return by which queries, and in which windows, a meter is read, in the order of time."""
        with self._database.transaction() as connection:
            return definitions_of(connection, meter_id)

    def feeds(self, meter_id: int) -> dict[int, str]:
        """Return the sinks of a meter by the number of its feed."""
        return dict(self._rows(FEEDS, {"meter": meter_id}))

    def combinations(self, meter_id: int) -> dict[int, dict[str, str]]:
        """Return what the meter's combinations of dimensions stand for, by number."""
        return dict(self._rows(COMBINATIONS, {"meter": meter_id}))

    def open(self, meter_id: int, end: dt.datetime) -> list[str]:
        """Say what speaks against closing a meter up to an instant: one phrase each, none if nothing does."""
        with self._database.transaction() as connection:
            return _open(connection, meter_id, end)

    def close(self, meter_id: int, end: dt.datetime) -> list[str]:
        """Close a meter up to an instant, unless something speaks against it, which is returned.

        A pass that is under way is waited for. Raises LedgerStopped where the ledger is not to be written.
        """
        with self._database.transaction() as connection:
            self._go_on(connection)
            values = {"meter": meter_id, "end": end}
            row = connection.execute(HOLD, values).fetchone()
            if row is None or (row[0] is not None and row[0] >= end):
                return []
            speaks_against = _open(connection, meter_id, end)
            if not speaks_against:
                connection.execute(CLOSE, values)
            return speaks_against

    def _go_on(self, connection: Connection) -> None:
        stopped = self._identity.stopped(connection) if self._identity is not None else None
        if stopped is not None:
            raise LedgerStopped(stopped)

    def rows(self, meter_id: int, span: Span) -> Iterator[Row]:
        """Yield what of a span can leave, all as it stands at one instant; nothing if another process is writing it.

        The transaction lasts as long as the iterator.
        """
        with self._database.transaction(snapshot=True) as connection:
            connection.execute(UNHURRIED)
            if connection.execute(LOCK, {"class": ARCHIVERS, "meter": meter_id}).fetchone() != (True,):
                return
            values = {"meter": meter_id, "start": span.start, "end": span.end}
            yield from map(Row._make, streamed(connection, ROWS, values))

    def record(self, meter_id: int, month: dt.datetime, written: Written) -> None:
        """Record a file that was written, if there is none of that month."""
        self._run(RECORD, {"meter_id": meter_id, "month": month, **written._asdict()})

    def forget(self, archive: Archive) -> None:
        """Forget a file of which nothing was removed yet, so that the month is written again."""
        self._run(FORGET, {"archive": archive.id})

    def verified(self, archive: Archive, days: Mapping[dt.datetime, Day]) -> None:
        """Record what was found in a file that was read back."""
        with self._database.transaction() as connection:
            connection.execute(FORGET_DAYS, {"archive": archive.id})
            several = [{"archive": archive.id, "day": day, **found._asdict()} for day, found in days.items()]
            connection.cursor().executemany(DAY, several)
            connection.execute(VERIFIED, {"archive": archive.id, "sha256": archive.sha256})

    def days(self, archive: Archive) -> dict[dt.datetime, Day]:
        """Return what was found in it."""
        rows = self._rows(DAYS, {"archive": archive.id})
        return {day: Day._make((*rest, int(digest))) for day, *rest, digest in rows}

    def remove(self, archive: Archive, day: dt.datetime) -> bool:
        """Remove one day, the first that is left; False if another process is at it, or was.

        Raises InvariantBroken if the ledger has of it what the archive has not, LedgerUnreachable if something of it was
        written meanwhile; nothing was removed then.
        """
        with self._database.transaction(snapshot=True) as connection:
            self._go_on(connection)
            connection.execute(UNHURRIED)
            values = {"archive": archive.id, "day": day}
            if connection.execute(NEXT_DAY, values).fetchone() is None:
                return False
            connection.execute(REMOVE, values)
            return True

    def removed(self, archive: Archive) -> None:
        """Record that all days are removed."""
        self._run(REMOVED, {"archive": archive.id})

    def remove_spent_claims(self, before: dt.datetime, going_on: Iterator[bool]) -> None:
        """Remove claims made before an instant of which no event is left, for as long as `going_on` says so."""
        after: int | None = 0
        while after is not None and next(going_on):
            row = self._row(SPENT, {"after": after, "before": before})
            after = row[0] if row else None

    def let_go(self, meter: str, month: dt.datetime) -> bool:
        """Let a month that was brought back be archived anew; False if none was."""
        return bool(self._run(LET_GO, {"meter": meter, "month": month}))

    def restore(self, archive: Archive, rows: Iterable[Row]) -> bool:
        """Bring back what was removed, as a whole; False if it is here. `rows` are those of the file.

        Raises InvariantBroken if they are not what was removed; nothing was written then.
        """
        values = {"archive": archive.id, "meter": archive.meter_id, "month": archive.month}
        with self._database.transaction() as connection:
            connection.execute(UNHURRIED)
            row = connection.execute(HOLD_ARCHIVE, values).fetchone()
            if row is None or row[0] == archive.month:
                return False
            until = row[0]
            connection.execute(INCOMING)
            with connection.cursor().copy(COPY_IN) as copy:
                for each in rows:
                    if each.window_start < until:
                        copy.write_row(each)
            values["until"] = until
            differing = connection.execute(DIFFERING_DAYS, values).fetchone()
            if differing != (0,):
                raise InvariantBroken(
                    f"{archive.name} is not what was removed from the ledger, so nothing of it was brought back. Fetch the "
                    "file as it was written from a backup."
                )
            for statement in BRING_BACK:
                connection.execute(statement, values)
        return True

    def sizes(self) -> list[Size]:
        """Return what each table takes, the largest first."""
        return [Size._make(row) for row in self._rows(SIZES)]


def _open(connection: Connection, meter_id: int, end: dt.datetime) -> list[str]:
    rows = connection.execute(OPEN, {"meter": meter_id, "end": end}).fetchall()
    return [what if what.startswith(("not", "waiting")) else f"{many:,} {what}" for what, many in rows]
