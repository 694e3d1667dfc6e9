"""Usage by hour, for pages that are looked at again and again: what an hour holds, and in which span anything changed since.

Rules
- An hour's sums are what its slots say; whoever keeps them keeps them as long as no pass changed a window of it.
- What is not billed yet is looked up each time: events settle without a pass.
- A customer is looked for in a few windows only, by the key of the slots.
"""

import datetime as dt
from collections.abc import Iterator
from decimal import Decimal
from typing import NamedTuple

from aggregator.core.model import Span
from aggregator.ledger.database import Part
from aggregator.ledger.passes.changes import WORK_MEMORY
from aggregator.ledger.usage import ALL_ROWS
from aggregator.ledger.usage_days import MADE_DAYS, NOT_MADE

# Of days that are summed up, their hours; of the others, their slots.
HOURS = f"""
select its.hour, its.slots, its.quantity, its.total
  from {MADE_DAYS}
  join aggregator.usage_of_hour as its on its.feed_id = %(feed)s and its.day = made.day
 union all
select its.* from {NOT_MADE}
 cross join lateral (
        select date_trunc('hour', window_start, 'UTC'), count(*), sum(quantity), sum(total)
          from aggregator.slot
         where feed_id = %(feed)s and window_start >= rest.since and window_start < rest.until
         group by 1) as its
 order by 1
"""  # noqa: S608 - our own text

# What was planned and is not billed: it waits to be sent, or for a person.
NOT_BILLED = """
select date_trunc('hour', event.window_start, 'UTC'), sum(event.delta)
  from (select event_id from aggregator.outbox where feed_id = %(feed)s
         union all
        select event_id from aggregator.parked where feed_id = %(feed)s) as waiting
  join aggregator.event on event.id = waiting.event_id
 where event.window_start >= %(start)s and event.window_start < %(end)s and event.state <> 'void'
 group by 1
"""

CHANGED = """
select coalesce(max(id), %(since)s), min(lower(span)) filter (where changed > 0), max(upper(span)) filter (where changed > 0)
  from aggregator.pass where meter_id = %(meter)s and id > %(since)s
"""

NEWEST = "select coalesce(max(id), 0) from aggregator.pass where meter_id = %(meter)s"

# The newest windows of a feed, one after the other by the key: a scan of all its slots would be long.
LATEST = """
with recursive latest (window_start, number) as (
    select (select max(window_start) from aggregator.slot where feed_id = %(feed)s), 1
     union all
    select (select max(window_start) from aggregator.slot where feed_id = %(feed)s and window_start < latest.window_start),
           number + 1
      from latest where latest.window_start is not null and number < %(windows)s
)
select window_start from latest where window_start is not null
"""

NAMED = f"""
select distinct customer from (
    select found.customer from ({LATEST}) as latest
      cross join lateral (
        select customer from aggregator.slot
         where feed_id = %(feed)s and slot.window_start = latest.window_start
           and customer >= %(first)s collate "C" and customer < %(last)s collate "C"
         order by customer limit %(limit)s) as found
) as named order by customer limit %(limit)s
"""  # noqa: S608 - our own text


class HourSums(NamedTuple):
    """What an hour holds: how many slots, how much was used, and where it stands at the sink once all is sent."""

    start: dt.datetime
    slots: int
    used: Decimal
    total: Decimal


class Changes(NamedTuple):
    """The newest pass of a meter, and the span in which passes changed anything since another one."""

    newest: int
    span: Span | None


class UsageWindows(Part):
    """The questions what hours hold, and who is in them."""

    def sums(self, feed: int, span: Span) -> list[HourSums]:
        """Return the hours of a feed that hold anything, in their order."""
        values = {"feed": feed, "start": span.start, "end": span.end}
        with self._database.transaction() as connection:
            connection.execute(WORK_MEMORY)
            connection.execute(ALL_ROWS)
            return [HourSums._make(row) for row in connection.execute(HOURS, values)]

    def not_billed(self, feed: int, span: Span) -> dict[dt.datetime, Decimal]:
        """Return by hour what of its total is not billed yet."""
        values = {"feed": feed, "start": span.start, "end": span.end}
        return dict(self._rows(NOT_BILLED, values))

    def newest_pass(self, meter: int) -> int:
        """Return the newest pass of a meter; 0 if there is none."""
        row = self._row(NEWEST, {"meter": meter})
        assert row is not None
        return int(row[0])

    def changed(self, meter: int, since: int) -> Changes:
        """Return in which span passes of a meter changed anything after one of them."""
        row = self._row(CHANGED, {"meter": meter, "since": since})
        assert row is not None
        newest, start, end = row
        return Changes(newest, Span(start, end) if start is not None else None)

    def customers(self, feed: int, prefix: str, limit: int, windows: int = 24) -> Iterator[str]:
        """Yield customers whose names begin so, of those that had usage in the newest windows."""
        values = {
            "feed": feed,
            "first": prefix,
            "last": prefix + "\U0010ffff",
            "limit": limit,
            "windows": windows,
        }
        for (customer,) in self._rows(NAMED, values):
            yield customer
