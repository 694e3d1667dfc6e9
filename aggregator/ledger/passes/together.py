"""What guards look at where usage is kept apart: all combinations of a customer and window together.

Rules
- It is looked up once for each customer and window of which anything differs, whatever the number of combinations: as what
  the ledger has of them, and by how much that changes.
- What waits, or was refused before it left, was not let go.
- What a guard holds of a customer goes by itself once another combination came to less, so that the customer is within the
  limits. But for what this pass has planned itself: it knows of slots that are deferred.
"""

import datetime as dt
from collections.abc import Iterable, Mapping

from aggregator.core import guards
from aggregator.core.model import Swollen, Together
from aggregator.ledger.database import Connection
from aggregator.ledger.meters import Feed
from aggregator.ledger.passes.reassert import note_newer_than
from aggregator.ledger.passes.records import Pass
from aggregator.ledger.passes.stats import Tally
from aggregator.ledger.passes.usual import LET_GO, Past

# What was usual for `its` customer at the hour of its window. Window by window, as each is found by the key: all windows of
# an hour would be looked through for all customers.
USUAL = """
  left join lateral (
        select max(past.quantity) as quantity
          from (
                select week, max(quantity) as quantity
                  from (
                        select week, number, sum(slot.quantity) as quantity
                          from generate_series(1, %(weeks)s) as week
                         cross join generate_series(0, %(windows)s - 1) as number
                          join aggregator.slot
                            on slot.feed_id = %(feed_id)s and slot.customer = {its}.customer
                           and slot.window_start = date_bin(%(stretch)s, {its}.window_start, 'epoch')
                                                   - week * interval '168 hours' + number * %(window)s::interval
                         where slot.quantity > 0 and slot.window_start >= %(compared_since)s
                           and not exists (select from aggregator.parked as held
                                            where held.event_id = slot.tail
                                              and held.guard not in ('shrink_guard', 'repair'))
                         group by week, number
                       ) as windows
                 group by week
               ) as past
         where %(compares)s and {its}.now > %(unusual_from)s
        having count(*) >= %(least_weeks)s
       ) as usual on true
"""

# What the ledger has of `its` customer and window, and how much of that was let go.
IN_LEDGER = """
 cross join lateral (
        select coalesce(sum(slot.quantity), 0) as quantity,
               coalesce(sum(slot.total - coalesce(waiting.delta, 0)), 0) as passed
          from aggregator.slot
          left join lateral (
                select event.delta
                  from aggregator.parked join aggregator.event on event.id = parked.event_id
                 where parked.event_id = slot.tail and parked.event_id <> all(%(voided)s::bigint[])
                   and (parked.state = 'held' or (parked.state = 'refused' and event.attempted_at is null))
               ) as waiting on true
         where slot.feed_id = %(feed_id)s and slot.window_start = {its}.window_start and slot.customer = {its}.customer
       ) as had
"""

# Of each customer and window of which anything differs.
TOGETHER = f"""
select its.window_start, its.customer, its.now, its.passed, usual.quantity as usual
  from (
        select moved.window_start, moved.customer, had.quantity + moved.more as now, had.passed
          from (select window_start, customer, sum(now - coalesce(before, 0)) as more
                  from differing group by window_start, customer) as moved
        {IN_LEDGER.format(its="moved")}
       ) as its
{USUAL.format(its="its")}
"""  # noqa: S608 - our own text

TOGETHER_OF_EACH = (
    " left join together on together.window_start = found.window_start and together.customer = found.customer"
)

AND_TOGETHER = ", together.usual, together.now, together.passed"

# Of each of some windows and customers of which anything waits that an earlier pass has planned.
WAITING = f"""
select its.window_start, its.customer, its.now, its.passed, usual.quantity
  from (
        select held.window_start, held.customer, had.quantity as now, had.passed
          from (select distinct event.window_start, event.customer
                  from aggregator.parked join aggregator.event on event.id = parked.event_id
                 where parked.feed_id = %(feed_id)s and parked.guard in ('max_per_customer_window', 'max_change')
                   and parked.dismissed_at is null and parked.event_id <> all(%(voided)s::bigint[])
                   and event.pass_id <> %(pass_id)s
                   and (event.window_start, event.customer) in (
                        select * from unnest(%(starts)s::timestamptz[], %(customers)s::text[]))) as held
        {IN_LEDGER.format(its="held")}
       ) as its
{USUAL.format(its="its")}
"""  # noqa: S608 - our own text

LET_CUSTOMERS_GO = LET_GO.format(
    these="""parked.guard in ('max_per_customer_window', 'max_change') and event.pass_id <> %(pass_id)s
       and (event.window_start, event.customer) in (
            select * from unnest(%(starts)s::timestamptz[], %(customers)s::text[]))"""
)


def let_go(
    connection: Connection,
    feed: Feed,
    this: Pass,
    past: Past | None,
    tally: Tally,
    swollen: Mapping[dt.datetime, Swollen],
) -> None:
    """Release what guards hold of customers who came within the limits, but for windows that are swollen."""
    lowered, tally.lowered = tally.lowered, set()
    if past is None or not past.watches_customers or not lowered:
        return
    values = {
        **past.values(),
        "feed_id": feed.id,
        "sink_id": feed.sink_id,
        "pass_id": tally.pass_id,
        "voided": tally.voided,
        "now": this.now,
        **_named(lowered),
    }
    over = [
        (start, customer)
        for start, customer, used, passed, usual in connection.execute(WAITING, values)
        if start not in swollen and guards.of_customer(Together(used, passed), usual, past.guards) is None
    ]
    if over:
        gone = connection.execute(LET_CUSTOMERS_GO, {**values, **_named(over)}).fetchall()
        note_newer_than(connection, [row[0] for row in gone], this.now)


def _named(some: Iterable[tuple[dt.datetime, str]]) -> dict[str, object]:
    starts, customers = zip(*some, strict=True)
    return {"starts": list(starts), "customers": list(customers)}
