"""Which customers and windows there are, for pages: how many slots an hour has, and who is in the newest windows.

A customer is looked for in a few windows only, by the key of the slots.
"""

import datetime as dt
from collections.abc import Iterator

from aggregator.core.model import Span
from aggregator.ledger.database import Part
from aggregator.ledger.usage_days import KEPT, MADE_DAYS, NEITHER_MADE_NOR_KEPT, NOTHING_KEPT

# Of days that are summed up, their hours; of the others, their slots, and those that are archived.
SLOTS = f"""
select hour, sum(slots)::bigint from (
select its.hour, its.slots
  from {MADE_DAYS}
  join aggregator.usage_of_hour as its on its.feed_id = %(feed)s and its.day = made.day
 union all
select its.hour, its.slots from {KEPT}
 union all
select its.* from {NEITHER_MADE_NOR_KEPT}
 cross join lateral (
        select date_trunc('hour', window_start, 'UTC'), count(*)
          from aggregator.slot
         where feed_id = %(feed)s and window_start >= rest.since and window_start < rest.until
         group by 1) as its
 union all
select hour, slots from aggregator.archived_hour where feed_id = %(feed)s and hour >= %(start)s and hour < %(end)s
) as each group by 1 order by 1
"""  # noqa: S608 - our own text

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
        select distinct customer from aggregator.slot
         where feed_id = %(feed)s and slot.window_start = latest.window_start
           and customer >= %(first)s collate "C" and customer < %(last)s collate "C"
         order by customer limit %(limit)s) as found
) as named order by customer limit %(limit)s
"""  # noqa: S608 - our own text


class UsageWindows(Part):
    """The questions how many slots hours have, and who is in them."""

    def slots(self, feed: int, span: Span, kept: str = NOTHING_KEPT) -> dict[dt.datetime, int]:
        """Return how many slots each hour of a feed has that has any, in their order; `kept` is of days of the span."""
        values = {"feed": feed, "start": span.start, "end": span.end, "kept": kept}
        return dict(self._rows(SLOTS, values))

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
