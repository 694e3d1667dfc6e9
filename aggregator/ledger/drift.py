"""What the ledger has of customers and days, beside what the source says now; and single places, with their events.

Rules
- The server makes one line per customer and UTC day, and they come in batches: memory stays bounded whatever there is.
- A day's line says whether it is worth a closer look; then the slots and events of that customer alone are read.
- Whoever had usage in the weeks around the span has a line, too: somebody else may have sent something of them.
- Nothing here writes, except what was read from the source just now into a table of the transaction's own.
"""

import datetime as dt
from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import NamedTuple

from aggregator.core import age_limits
from aggregator.core import dimensions as apart_by
from aggregator.core.dimensions import Dimensions
from aggregator.core.drift import KnownEvent, Place, Window
from aggregator.core.model import ZERO, EventId, SlotId, Span, State
from aggregator.core.planner import add
from aggregator.ledger.archived import Archived, Beside, Question
from aggregator.ledger.combinations import together
from aggregator.ledger.database import Connection, Database, Part, streamed
from aggregator.ledger.passes.changes import WORK_MEMORY, stage
from aggregator.ledger.passes.spool import Spool
from aggregator.ledger.usage import ALL_ROWS

AROUND = age_limits.FURTHEST
"""How far before and after a span a customer may have had usage to be asked about."""

NO_READING = """
create temporary table reading (
    window_start timestamptz, customer text collate "C", combination bigint, quantity numeric, at timestamptz, reason text
) on commit drop
"""

# A slot and its events, summed. What the source says is not known of windows that it could not give, or has not been asked
# for (`asked_from`, `asked_until`), nor of a slot with an unusable row. A float that differs by less than half a unit is
# what it was. Each side is summed by itself and joined in full: that is done by sorting or hashing, whatever the server
# believes of how many rows there are.
DAYS = """
with held as (
    select * from aggregator.slot
     where slot.feed_id = %(feed)s and slot.window_start >= %(start)s and slot.window_start < %(end)s
       and (%(customers)s::text[] is null or slot.customer = any(%(customers)s))
), said as (
    select held.*, event.state, event.delta, coalesce(event.attempted_at, event.settled_at) as sent_at
      from held left join aggregator.event on event.id = held.id and event.revision = 0
     union all
    select held.*, event.state, event.delta, coalesce(event.attempted_at, event.settled_at)
      from held join aggregator.event on event.slot_id = held.id and event.revision > 0
     where held.revision > 1
), slot as (
    select customer, combination, window_start, max(quantity) as read, max(total) as total,
           coalesce(sum(delta) filter (where state in ('accepted', 'confirmed')), 0) as booked,
           coalesce(sum(delta) filter (where state <> 'void'), 0) as planned,
           count(*) filter (where state in ('accepted', 'confirmed')) as events,
           max(sent_at) filter (where state in ('accepted', 'confirmed')) as sent_at,
           coalesce(bool_or(state in ('due', 'sending', 'held', 'refused', 'in_doubt')), false) as waits
      from said
     group by window_start, customer, combination
), seen as (
    select customer, window_start, combination, sum(quantity) as quantity, bool_or(reason is not null) as spoilt
      from reading
     where customer is not null and combination is not null
       and window_start >= greatest(%(start)s, %(since)s) and window_start < least(%(end)s, %(until)s)
       and (%(customers)s::text[] is null or customer = any(%(customers)s))
     group by customer, window_start, combination
), beside as (
    select customer, window_start, combination, coalesce(read, 0) as read, coalesce(total, 0) as total,
           coalesce(booked, 0) as booked, coalesce(planned, 0) as planned, coalesce(events, 0) as events,
           sent_at, coalesce(waits, false) as waits,
           case when %(asked)s and window_start >= greatest(%(asked_from)s, %(since)s)
                 and window_start < least(%(asked_until)s, %(until)s) and not coalesce(spoilt, false)
                 and not window_start = any(array(
                         select unread.window_start from aggregator.unread where unread.meter_id = %(meter)s))
                then coalesce(quantity, 0) end as source
      from slot full join seen using (customer, window_start, combination)
), each_combination as (
    select *, source is not null and source <> read
              and (%(exact)s or abs(source - read) > %(unit)s / 2) as differs
      from beside
), differing as (
    select customer, window_start, sum(case when differs then source else read end) as source, sum(read) as read,
           sum(booked) as booked, sum(planned) as planned, sum(total) as total, sum(events) as events,
           max(sent_at) as sent_at, bool_or(waits or planned <> total) as waits, bool_or(differs) as differs
      from each_combination group by 1, 2
), day as (
    select customer, date_trunc('day', window_start, 'UTC') as start,
           sum(source) as source, sum(read) as read, sum(booked) as booked,
           sum(planned) as planned, sum(events) as events, max(sent_at) as sent_at, bool_or(waits or differs) as odd,
           array_agg(window_start) filter (where differs) as starts, array_agg(source) filter (where differs) as numbers
      from differing group by 1, 2
), which as (
    select customer, date_trunc('day', window_start, 'UTC') as start, array_agg(combination) as combinations,
           array_agg(window_start) as starts, array_agg(source) as numbers
      from each_combination where differs group by 1, 2
), known as (
    select distinct customer from aggregator.slot
     where feed_id = %(feed)s and window_start >= %(start)s - %(around)s and window_start < %(end)s + %(around)s
       and (%(customers)s::text[] is null or customer = any(%(customers)s))
     union select unnest(%(customers)s::text[]) collate "C"
)
select customer, start, coalesce(day.source, 0), coalesce(day.read, 0), coalesce(day.booked, 0),
       coalesce(day.planned, 0), coalesce(day.events, 0), coalesce(day.odd, false),
       day.sent_at, coalesce(day.starts, '{}'), coalesce(day.numbers, '{}'),
       which.combinations, which.starts, which.numbers
  from known full join day using (customer) left join which using (customer, start)
 order by 1, 2
"""

WINDOWS = """
select id, window_start, quantity, total, revision, stamped_at, combination from aggregator.slot
 where feed_id = %(feed)s and customer = %(customer)s and window_start >= %(start)s and window_start < %(end)s
   and (%(combination)s::bigint is null or combination = %(combination)s)
 order by window_start, combination
"""

EVENTS = """
select event.window_start, event.id, event.revision, event.delta, event.total, event.state::text, event.attempts,
       coalesce(event.attempted_at, event.settled_at), event.exposed_at is not null,
       coalesce(parked.was_accepted, false)
           or exists (select from aggregator.rejection join aggregator.feed on feed.id = event.feed_id
                       where rejection.sink_id = feed.sink_id and rejection.identifier = event.identifier
                         and rejection.event_id = event.id),
       parked.dismissed_at is not null
  from aggregator.slot
 cross join lateral aggregator.events_of(slot.id, slot.revision > 1) as event
  left join aggregator.parked on parked.event_id = event.id
 where slot.feed_id = %(feed)s and slot.customer = %(customer)s
   and slot.window_start >= %(start)s and slot.window_start < %(end)s
   and (%(combination)s::bigint is null or slot.combination = %(combination)s)
 order by event.id
"""

COMBINATIONS = """
select coalesce(combination.dimensions, '{}'), date_trunc('day', slot.window_start, 'UTC'),
       coalesce(sum(event.delta) filter (where event.state in ('accepted', 'confirmed')), 0)
  from aggregator.slot
  join aggregator.feed on feed.id = slot.feed_id
  left join aggregator.combination on combination.meter_id = feed.meter_id and combination.id = slot.combination
  left join lateral aggregator.events_of(slot.id, slot.revision > 1) as event on true
 where slot.feed_id = %(feed)s and slot.customer = %(customer)s
   and slot.window_start >= %(start)s and slot.window_start < %(end)s
 group by 1, 2
"""

# What was withheld with an unusable row stands under another reason, and would be counted twice.
UNMAPPED = """
select coalesce(sum(quantity), 0) from aggregator.unmapped
 where meter_id = %(meter)s and window_start >= %(start)s and window_start < %(end)s and reason not like 'withheld: %%'
"""

# Where the last number is billed, windows are floored one by one, and nothing adds up.
UNBALANCED = """
select slot.customer, sum(slot.quantity) - sum(slot.total) - coalesce(max(carry.amount), 0)
  from (select feed_id, customer, combination, quantity, total from aggregator.slot where feed_id = %(feed)s
         union all
        select feed_id, customer, combination, quantity, total from aggregator.archived_usage where feed_id = %(feed)s
       ) as slot
  join aggregator.feed on feed.id = slot.feed_id and not feed.ordered
  left join aggregator.carry on carry.feed_id = slot.feed_id and carry.customer = slot.customer
                            and carry.combination = slot.combination
 where slot.feed_id = %(feed)s and (%(customer)s::text is null or slot.customer = %(customer)s)
 group by slot.customer, slot.combination having sum(slot.quantity) <> sum(slot.total) + coalesce(max(carry.amount), 0)
 order by 1 limit %(limit)s
"""

FOREVER = dt.datetime.max.replace(tzinfo=dt.UTC)


class Asked(NamedTuple):
    """What the source said just now of a meter's windows."""

    span: Span
    readings: Spool
    unit: Decimal
    """The least that is billed."""


class FeedLine(NamedTuple):
    """A feed that is compared: whose it is, and within what it bills."""

    feed: int
    meter_id: int
    since: dt.datetime
    until: dt.datetime | None


class DayLine(NamedTuple):
    """One customer and UTC day by the ledger, or a customer of whom there is nothing, with no day."""

    customer: str
    start: dt.datetime | None
    source: Decimal
    """What the source says; what it said, where it was not asked."""
    read: Decimal
    booked: Decimal
    planned: Decimal
    """What events come to that are booked or yet to be settled: what was read beyond that is carried."""
    events: int
    """How many events the sink has accepted."""
    odd: bool
    """Whether something waits, differs at the source, or contradicts itself: single windows are to be looked at."""
    sent_at: dt.datetime | None = None
    """When the newest of the events was sent that the sink has accepted."""
    changed: tuple[tuple[dt.datetime, Decimal], ...] = ()
    """Windows of which the source says something else than was read, and what."""
    changed_apart: tuple[tuple[Dimensions, dt.datetime, Decimal], ...] = ()
    """The same of each combination that differs, where usage is kept apart by dimensions."""


class Slot(NamedTuple):
    """A slot as it stands, so that whoever writes by it can see that it still does."""

    id: SlotId
    window_start: dt.datetime
    quantity: Decimal
    total: Decimal
    revision: int
    stamped_at: dt.datetime | None = None
    """The instant of its first event."""
    combination: int = 0


class Customer(NamedTuple):
    """The slots and events of one customer over a span."""

    customer: str
    slots: tuple[Slot, ...]
    events: tuple[tuple[dt.datetime, KnownEvent], ...]
    """With the starts of their windows."""
    dimensions: Dimensions | None = None
    """Of which combination they are; None: of all."""

    def place(self, span: Span, sink: Decimal | None, source: dict[dt.datetime, Decimal]) -> Place:
        """Return what of it lies in a span, beside what the sink has of that, and the source where it differs."""
        windows: dict[dt.datetime, Window] = {}
        for slot in self.slots:
            start = slot.window_start
            if start in span:
                read, total = slot.quantity, slot.total
                if start in windows:  # of another combination: the sink tells what all of them come to
                    read, total = add(windows[start].read, read), add(windows[start].total, total)
                windows[start] = Window(start, source.get(start), read, total)
        for start in source.keys() - windows.keys():
            if start in span:
                windows[start] = Window(start, source[start], ZERO, ZERO)
        events = tuple(event for start, event in self.events if start in span)
        known = tuple(windows[start] for start in sorted(windows))
        return Place(self.customer, span, known, events, sink, self.dimensions)


class DriftReport(Part):
    """The questions of a reconciliation. Nothing here writes."""

    def __init__(self, database: Database, archived: Archived | None = None) -> None:
        super().__init__(database)
        self._archived = archived or Archived()

    def days(
        self,
        line: FeedLine,
        span: Span,
        asked: Asked | None = None,
        customers: Sequence[str] | None = None,
    ) -> Iterator[DayLine]:
        """Yield what the ledger has of customers and days, by customer; the transaction lasts as long as the iterator.

        Whoever had usage not long before or after has a line without a day, if there is none of the span.
        """
        values = {
            "feed": line.feed,
            "meter": line.meter_id,
            "since": line.since,
            "until": line.until or FOREVER,
            "start": span.start,
            "end": span.end,
            "around": AROUND,
            "customers": None if customers is None else list(customers),
            "asked": asked is not None,
            "asked_from": asked.span.start if asked else span.start,
            "asked_until": asked.span.end if asked else span.start,
            "exact": asked is None or not asked.readings.noise,
            "unit": asked.unit if asked else Decimal(1),
        }
        with self._database.transaction(looks=True) as connection:
            connection.execute(WORK_MEMORY)
            connection.execute(ALL_ROWS)
            beside = self._archived.beside(connection, Question([line.feed], span, customers))
            if asked is None:
                connection.execute(NO_READING)
            else:
                stage(connection, asked.readings, asked.unit)
            known = together(connection, line.meter_id, asked.readings.combinations if asked else {})
            for *figures, starts, numbers, which, those, says in streamed(connection, beside(DAYS), values):
                apart = zip(map(known.__getitem__, which), those, says, strict=True) if which else ()
                yield DayLine._make((*figures, tuple(zip(starts, numbers, strict=True)), tuple(apart)))

    def customer(
        self, feed: int, customer: str, span: Span, dimensions: Dimensions | None = None
    ) -> Customer:
        """Return the slots and events of one customer in a span, of all combinations or one."""
        with self._database.transaction(looks=True) as connection:
            beside = self._archived.beside(connection, Question([feed], span, [customer]))
            return customer_of(connection, feed, customer, span, dimensions, beside)

    def combinations(
        self, feed: int, customer: str, span: Span
    ) -> dict[Dimensions, dict[dt.datetime, Decimal]]:
        """Return what the sink has taken of each combination of a customer, by the days in which it has slots."""
        values = {"feed": feed, "customer": customer, "start": span.start, "end": span.end}
        found: dict[Dimensions, dict[dt.datetime, Decimal]] = {}
        with self._database.transaction(looks=True) as connection:
            beside = self._archived.beside(connection, Question([feed], span, [customer]))
            for named, day, much in connection.execute(beside(COMBINATIONS), values):
                found.setdefault(apart_by.of_mapping(named), {})[day] = much
        return found

    def unmapped(self, meter_id: int, span: Span) -> Decimal:
        """Return what was read of a meter in a span and can be billed to nobody, as far as it has a usable number."""
        [(much,)] = self._rows(UNMAPPED, {"meter": meter_id, "start": span.start, "end": span.end})
        return much  # type: ignore[no-any-return]

    def unbalanced(self, feed: int, customer: str | None, limit: int) -> list[tuple[str, Decimal]]:
        """Return customers whose readings are not what was planned for them and what is carried, and by how much."""
        return self._rows(UNBALANCED, {"feed": feed, "customer": customer, "limit": limit})


def customer_of(
    connection: Connection,
    feed: int,
    customer: str,
    span: Span,
    dimensions: Dimensions | None = None,
    beside: Beside = str,
) -> Customer:
    """Return the slots and events of one customer in a span, of all combinations or one, within a transaction.

    With what is archived `beside` the ledger's own, if the transaction has laid it there.
    """
    combination = None if dimensions is None else apart_by.number(dimensions)
    values: dict[str, object] = {"feed": feed, "customer": customer, "start": span.start, "end": span.end}
    values["combination"] = combination
    slots = tuple(Slot._make(row) for row in connection.execute(beside(WINDOWS), values).fetchall())
    events = tuple(
        (start, KnownEvent(EventId(event), revision, delta, total, State(state), *rest))
        for start, event, revision, delta, total, state, *rest in connection.execute(
            beside(EVENTS), values
        ).fetchall()
    )
    return Customer(customer, slots, events, dimensions)
