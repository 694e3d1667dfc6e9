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
from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Any, NamedTuple

from aggregator.core.model import ZERO, Definition, Span
from aggregator.core.usage import By, Line, Usage
from aggregator.core.windows import DAY
from aggregator.ledger.database import Part
from aggregator.ledger.meters import definitions_of
from aggregator.ledger.passes.changes import WORK_MEMORY, stage
from aggregator.ledger.passes.spool import Spool
from aggregator.ledger.usage_days import MADE_DAYS, NOT_MADE

# A cursor is planned to give its first rows soon; here all of them are wanted.
ALL_ROWS = "select set_config('cursor_tuple_fraction', '1', true)"

FEEDS = """
select feed.id, meter.name, sink.name, meter.id, feed.ordered, feed.shadow or feed.shadow_until is not null,
       feed.since, feed.until, meter.mark, feed.read_until, meter.reread_from,
       (select count(*) from aggregator.unread
         where unread.meter_id = meter.id and window_start >= %(start)s and window_start < %(end)s)
  from aggregator.feed
  join aggregator.meter on meter.id = feed.meter_id
  join aggregator.sink on sink.id = feed.sink_id
 where %(meter)s::text is null or meter.name = %(meter)s
 order by meter.name, sink.name
"""

# What an event is a part of, by its state: 1 billed, 2 under way, 3 held, 4 refused, 5 dismissed, 6 shadow. After them come
# 7 carried, 8 unmapped and 9 open. What was withdrawn is a part of nothing.
PART = """
       case when event.state in ('accepted', 'confirmed') then 1
            when event.state in ('due', 'sending', 'in_doubt') then 2
            when parked.dismissed_at is not null then 5
            when event.state = 'held' then 3
            when event.state = 'refused' then 4
            when event.state = 'shadow' then 6 end
"""

WITHIN = """
 where slot.feed_id = %(feed)s and slot.window_start >= %(start)s and slot.window_start < %(end)s
   and (%(customer)s::text is null or slot.customer = %(customer)s)
"""

SLOTS = f"from aggregator.slot {WITHIN}"

# The same of one customer, by days where these are summed up, else slot by slot. A day is one look-up by the whole key.
SLOTS_BY_DAY = f"""
from (select its.customer, its.day as window_start, its.quantity, its.total
        from {MADE_DAYS}
        cross join lateral (select * from aggregator.usage_of_day
                             where feed_id = %(feed)s and day = made.day and customer = %(customer)s offset 0) as its
       union all
      select its.customer, its.window_start, its.quantity, its.total
        from {NOT_MADE}
        cross join lateral (select * from aggregator.slot
                             where feed_id = %(feed)s and window_start >= rest.since and window_start < rest.until
                               and customer = %(customer)s offset 0) as its
     ) as slot
"""  # noqa: S608 - our own text

SLOTS_AND_EVENTS = f"""
  from aggregator.slot
  join aggregator.event on event.slot_id = slot.id
  left join aggregator.parked on parked.event_id = event.id
 {WITHIN}
"""

# What was planned and is not billed, which is little: it waits to be sent or for a person. What was planned in shadow waits
# nowhere, so where a feed was in shadow once it is looked for.
NOT_BILLED = f"""
select event.customer, event.window_start, {PART} as part, event.delta
  from (select event_id from aggregator.outbox where feed_id = %(feed)s
         union all
        select event_id from aggregator.parked where feed_id = %(feed)s) as waiting
  join aggregator.event on event.id = waiting.event_id
  left join aggregator.parked on parked.event_id = event.id
 where event.window_start >= %(start)s and event.window_start < %(end)s
   and (%(customer)s::text is null or event.customer = %(customer)s)
"""  # noqa: S608 - our own text
IN_SHADOW = f"""
 union all
select event.customer, event.window_start, {PART}, event.delta {SLOTS_AND_EVENTS} and event.state = 'shadow'
"""

# Of a customer and window with an unusable row, all that is usable was named (`quantity` is not null), and waits until the
# window is read without such a row. What the slot has of an earlier reading is not counted twice.
UNMAPPED = """
select unmapped.customer collate "C" as customer, unmapped.window_start, unmapped.quantity, slot.quantity as known
  from aggregator.unmapped
  left join aggregator.slot on slot.feed_id = %(feed)s and slot.window_start = unmapped.window_start
                           and slot.customer = unmapped.customer
 where unmapped.meter_id = %(meter)s and unmapped.quantity is not null
   and unmapped.window_start >= greatest(%(start)s, %(since)s)
   and unmapped.window_start < least(%(end)s, %(until)s, %(open_from)s)
   and (%(customer)s::text is null or unmapped.customer = %(customer)s)
"""

# What was read from the source just now, beside what the ledger has of the same windows: a backfill, or a pass since then,
# may have read them. As in a pass, absence means zero, and a customer with an unusable row stays as known.
OPEN = """
select customer, window_start, coalesce(seen.quantity, case when seen.spoilt then slot.quantity end, 0) as quantity,
       slot.quantity as known, case when customer is null or seen.spoilt then 8 else 9 end as part
  from (
        select window_start, customer, sum(quantity) as quantity, bool_or(reason is not null) as spoilt
          from reading
         where window_start >= greatest(%(start)s, %(since)s, %(open_from)s)
           and window_start < least(%(end)s, %(until)s)
           and (%(customer)s::text is null or customer = %(customer)s)
         group by window_start, customer
       ) as seen
  full join (
        select window_start, customer, quantity from aggregator.slot
         where feed_id = %(feed)s and window_start >= greatest(%(start)s, %(since)s, %(open_from)s)
           and window_start < least(%(end)s, %(until)s)
           and (%(customer)s::text is null or customer = %(customer)s)
       ) as slot using (window_start, customer)
"""

NOTHING_OPEN = """
select null::text collate "C" as customer, null::timestamptz as window_start, null::numeric as quantity,
       null::numeric as known, null::integer as part
 where false
"""

# The line that a window of a customer is a part of.
WHOSE = "case when %(by)s::text = 'customer' then customer end as customer"
WHEN = "case when %(by)s::text <> 'customer' then date_trunc(%(by)s::text, window_start, 'UTC') end as start"

# Where a slot stands is what was planned for it, so that what is billed is that, less what is not.
ADDED = f"""
with unmapped as ({UNMAPPED}), not_billed as ({NOT_BILLED} {{in_shadow}}), amount as (
    select customer, window_start, 1 as part, total as amount, quantity as used, quantity - total as carried {{slots}}
     union all
    select customer, window_start, 1, -delta, null, null from not_billed
     union all
    select customer, window_start, part, delta, null, null from not_billed
     union all
    select customer, window_start, 8, quantity - coalesce(known, 0), quantity - coalesce(known, 0), null from unmapped
    {{and_opened}}
)
select * from (
select {WHOSE}, {WHEN}, sum(used) as used,
       sum(amount) filter (where part = 1), sum(amount) filter (where part = 2), sum(amount) filter (where part = 3),
       sum(amount) filter (where part = 4), sum(amount) filter (where part = 5), sum(amount) filter (where part = 6),
       sum(carried), sum(amount) filter (where part = 8), sum(amount) filter (where part = 9)
  from amount
 group by 1, 2
) as line {{order}}
"""  # noqa: S608 - our own text

# Of each customer and line, the newest number among those that are certain so far, part by part: the greatest of arrays that
# begin with the window. Within a window, later events are newer, then what was read, then what could not be billed, and then
# what was read just now. Each part is how far the number moves with it.
LAST = f"""
with unmapped as ({UNMAPPED}), opened as ({{opened}}), said as (
    select slot.customer, slot.window_start, {PART} as part, event.revision as place, event.total as number
    {SLOTS_AND_EVENTS} and event.state <> 'void'
     union all
    select customer, window_start, 7, 1000000000, quantity {SLOTS}
     union all
    select customer, window_start, 8, 1000000001, sum(quantity) from unmapped group by customer, window_start
     union all
    select customer, window_start, part, 1000000002, quantity from opened
), numbered as (
    select customer, {WHEN}, part, array[extract(epoch from window_start), place, number] as number
      from said
), newest as (
    select customer, start,
           coalesce((max(number) filter (where part <= 1))[3], 0) as one,
           coalesce((max(number) filter (where part <= 2))[3], 0) as two,
           coalesce((max(number) filter (where part <= 3))[3], 0) as three,
           coalesce((max(number) filter (where part <= 4))[3], 0) as four,
           coalesce((max(number) filter (where part <= 5))[3], 0) as five,
           coalesce((max(number) filter (where part <= 6))[3], 0) as six,
           coalesce((max(number) filter (where part <= 7))[3], 0) as seven,
           coalesce((max(number) filter (where part <= 8))[3], 0) as eight,
           coalesce((max(number) filter (where part <= 9))[3], 0) as nine
      from numbered group by 1, 2
)
select * from (
select {WHOSE}, start, sum(nine) as used,
       sum(one), sum(two - one), sum(three - two), sum(four - three), sum(five - four), sum(six - five), sum(seven - six),
       sum(eight - seven), sum(nine - eight)
  from newest
 group by 1, 2
) as line {{order}}
"""  # noqa: S608 - our own text

AND_OPENED = f"""
     union all
    select customer, window_start, part, quantity - coalesce(known, 0), quantity - coalesce(known, 0), null
      from ({OPEN}) as opened
"""  # noqa: S608 - our own text

# Lines by time have no customer, and those by customer no time.
ORDER = "order by start, customer is null, used desc, customer"

SOME = " limit %(limit)s offset %(offset)s"

LAST_AND_OPEN, LAST_ALONE = (LAST.format(opened=opened, order=ORDER) for opened in (OPEN, NOTHING_OPEN))

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


class OpenWindows(NamedTuple):
    """What the source has of the windows from an instant on, which were not read when it was asked."""

    since: dt.datetime
    readings: Spool
    unit: Decimal
    """The least that is billed of the meter."""


class UsageReport(Part):
    """The question what became of usage."""

    def feeds(self, meter: str | None, span: Span) -> list[UsageFeed]:
        """Return the feeds that a meter has or had, or those of all meters, by meter and sink."""
        values = {"meter": meter, "start": span.start, "end": span.end}
        return [UsageFeed._make(row) for row in self._rows(FEEDS, values)]

    def definitions(self, feed: UsageFeed) -> tuple[Definition, ...]:
        """Return by which queries, and in which windows, the feed's meter is read, in the order of time."""
        with self._database.transaction() as connection:
            return definitions_of(connection, feed.meter_id)

    def lines(
        self,
        feed: UsageFeed,
        span: Span,
        by: By | None = None,
        *,
        customer: str | None = None,
        opened: OpenWindows | None = None,
    ) -> Iterator[Line]:
        """Yield the lines of a feed over a span: by time, or by customer, who used most first and what is nobody's last.

        The transaction lasts as long as the iterator.
        """
        statement, values = question(feed, span, by, customer, opened)
        with self._database.transaction() as connection:
            connection.execute(WORK_MEMORY)
            connection.execute(ALL_ROWS)
            if opened is not None:
                stage(connection, opened.readings, opened.unit)
            with connection.cursor(name="usage") as cursor:
                cursor.itersize = 5_000
                for row in cursor.execute(statement, values):
                    yield _line(feed, row)

    def of_customer(self, feed: UsageFeed, span: Span, customer: str, by: By | None = None) -> list[Line]:
        """Return the same lines of one customer at once: there is one for a day or an hour at most."""
        statement, values = question(feed, span, by, customer)
        return [_line(feed, row) for row in self._rows(statement, values)]

    def some_customers(self, feed: UsageFeed, span: Span, limit: int, offset: int) -> list[Line]:
        """Return a few of the lines by customer, in the same order."""
        statement, values = question(feed, span, By.CUSTOMER)
        with self._database.transaction() as connection:
            connection.execute(WORK_MEMORY)
            rows = connection.execute(statement + SOME, {**values, "limit": limit, "offset": offset})
            return [_line(feed, row) for row in rows]


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
    customer: str | None = None,
    opened: OpenWindows | None = None,
) -> tuple[str, dict[str, object]]:
    """Return the statement that gives the lines, and its values."""
    values = {
        "feed": feed.id,
        "meter": feed.meter_id,
        "start": span.start,
        "end": span.end,
        "since": feed.since,
        "until": feed.until or FOREVER,
        "open_from": opened.since if opened else FOREVER,
        "by": by,
        "customer": customer,
    }
    if feed.last:
        return LAST_ALONE if opened is None else LAST_AND_OPEN, values
    # Only what is asked for: to plan the rest would take the server longer than to look a customer up.
    by_days = opened is None and _by_days(span, by, customer)
    statement = ADDED.format(
        slots=SLOTS_BY_DAY if by_days else SLOTS,
        in_shadow=IN_SHADOW if feed.shadowed else "",
        and_opened="" if opened is None else AND_OPENED,
        order=ORDER,
    )
    return statement, values


def _by_days(span: Span, by: By | None, customer: str | None) -> bool:
    """Tell whether sums of days serve: for one customer, in lines of whole days, over not too many."""
    return customer is not None and by is not By.HOUR and span.end - span.start <= MOST_DAYS * DAY
