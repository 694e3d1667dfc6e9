"""Customers that have fallen silent: usage at this hour in each of the weeks before, and now none at all.

Rules
- Nothing is held for it: no usage bills nothing. It is said, as what is not billed for want of rows is found by nobody else.
- The newest hour that is read completely is looked at, once; a longer window, as a whole. What came before has passed: who
  is silent still is found silent in this one.
- Little usage rests for an hour without anything being wrong: it counts from `unusual_from` units on.
- A customer is silent until it has usage again, in that hour by late rows, or later; or until that has become usual.
"""

import datetime as dt
from collections.abc import Sequence
from typing import NamedTuple

from aggregator.core.guards import STRETCH, WEEK, WEEKS
from aggregator.core.model import Guards
from aggregator.core.windows import floor
from aggregator.ledger.database import Connection

# By its windows, as each is found by the key.
USED_AGAIN = """
delete from aggregator.silent_customer as silent
 where silent.meter_id = %(meter_id)s
   and (silent.since < %(forgotten)s
        or exists (select from generate_series(silent.since, silent.since + %(stretch)s::interval - interval '1 microsecond',
                                               %(window)s::interval) as started
                     join aggregator.slot on slot.feed_id = any(%(feeds)s) and slot.window_start = started
                                         and slot.customer = silent.customer and slot.quantity > 0)
        or silent.customer in (select slot.customer from aggregator.slot
                                where slot.feed_id = any(%(feeds)s) and slot.quantity > 0
                                  and slot.window_start >= %(read_from)s and slot.window_start < %(mark)s
                                  and slot.window_start >= silent.since))
"""

NOTE_SILENT = """
with used as (
    select slot.customer, week, slot.feed_id, sum(slot.quantity) as quantity
      from generate_series(0, %(weeks)s) as week
      join aggregator.slot
        on slot.feed_id = any(%(feeds)s) and slot.quantity > 0
       and slot.window_start >= %(since)s - week * interval '168 hours'
       and slot.window_start < %(until)s - week * interval '168 hours'
     group by 1, 2, 3
), always as (
    select customer, min(quantity) as least
      from (select customer, week, max(quantity) as quantity from used group by 1, 2) as weekly
     group by customer having count(*) = %(weeks)s and min(week) = 1
)
insert into aggregator.silent_customer (meter_id, customer, since, usual)
select %(meter_id)s, customer, %(since)s, least from always where least >= %(unusual_from)s
    on conflict (meter_id, customer) do nothing
"""

COUNT = "select count(*) from aggregator.silent_customer where meter_id = %(meter_id)s"


class SilentCustomers(NamedTuple):
    """How many customers are silent that never were before, and how many of them since this round."""

    now: int = 0
    anew: int = 0


def look(
    connection: Connection,
    meter_id: int,
    feeds: Sequence[int],
    window: dt.timedelta,
    guards: Guards,
    read_from: dt.datetime,
    mark: dt.datetime,
) -> SilentCustomers:
    """Find out which customers have fallen silent in what a round has read from `read_from` up to the mark, and note it."""
    stretch = max(STRETCH, window)
    until = floor(mark, stretch)
    values = {
        "meter_id": meter_id,
        "feeds": list(feeds),
        "window": window,
        "stretch": stretch,
        "since": until - stretch,
        "until": until,
        "weeks": WEEKS,
        "unusual_from": guards.unusual_from,
        "forgotten": until - WEEKS * WEEK,
        "read_from": read_from,
        "mark": mark,
    }
    connection.execute(USED_AGAIN, values)
    anew = connection.execute(NOTE_SILENT, values).rowcount if read_from < until else 0
    row = connection.execute(COUNT, values).fetchone()
    assert row is not None
    return SilentCustomers(row[0], anew)
