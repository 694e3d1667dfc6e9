"""The shrink guard: a window that loses too much at once is believed at the second reading.

Rules
- What trips it is a window that was read before and lost all, or more than the meter's share, of its total in one pass.
- What a guard against too much holds is no part of that total: it was never believed. That it goes is no loss, and as long
  as it is there it hides none.
- Then the pass is written again with every decrease held, and the mark stays where it is.
- Held events whose slots stand as they were when they are read again an hour later are believed: the meter's own rule for
  decreases holds for them from then on. A person may release them sooner.
"""

import datetime as dt
from collections.abc import Sequence
from decimal import Decimal
from typing import NamedTuple

from aggregator.core.model import Decreases, Span
from aggregator.core.planner import LOWERS
from aggregator.ledger.at_rest import to_outbox
from aggregator.ledger.database import Connection
from aggregator.ledger.meters import Feed, Registered
from aggregator.ledger.passes.reassert import note_newer_than
from aggregator.ledger.passes.stats import Tally

BELIEVED_AFTER = dt.timedelta(hours=1)
"""How long after a window shrank suspiciously a second reading confirms it: longer than most loads and restores take."""

# What the windows of a feed hold now that the pass has written them, without what a guard against too much holds of them.
STANDING = """
select slot.window_start, sum(slot.quantity) - coalesce(sum(held.delta), 0)
  from aggregator.slot
  left join (
        select event.id, event.delta
          from aggregator.parked join aggregator.event on event.id = parked.event_id
         where parked.feed_id = %(feed_id)s and parked.guard not in ('shrink_guard', 'repair')
           and parked.event_id <> all(%(voided)s)
       ) as held on held.id = slot.tail
 where slot.feed_id = %(feed_id)s and slot.window_start = any(%(windows)s)
 group by slot.window_start
"""

NOTE_GUARDED = """
insert into aggregator.guarded (meter_id, window_start, before, now, since)
select %(meter_id)s, window_start, before, now, %(now)s
  from unnest(%(windows)s::timestamptz[], %(before)s::numeric[], %(after)s::numeric[])
       as shrunk (window_start, before, now)
    on conflict (meter_id, window_start) do update set now = excluded.now, since = excluded.since
"""

# Held events whose slots were read again and did not change. The meter's own rule holds for them from now on.
BELIEVE = f"""
with ripe as (
    select parked.event_id from aggregator.parked
      join aggregator.event on event.id = parked.event_id
     where parked.feed_id = any(%(feeds)s) and parked.guard = 'shrink_guard' and parked.since <= %(ripe)s
       and event.window_start >= %(start)s and event.window_start < %(end)s
       and parked.dismissed_at is null
       and not exists (select from reading where reading.reason is not null
                          and reading.window_start = event.window_start and reading.customer = event.customer
                          and reading.combination = event.combination)
), released as (
    delete from aggregator.parked using ripe where %(applies)s and parked.event_id = ripe.event_id
    returning parked.event_id
), taken as (
    delete from aggregator.event_at_rest as event using released where event.id = released.event_id returning event.*
), due as ({to_outbox("taken", sink="feed.sink_id", due_at="%(now)s", reason="null")}
      from taken join aggregator.feed on feed.id = taken.feed_id
), kept as (
    update aggregator.parked set guard = null, reason = %(reason)s
      from ripe where not %(applies)s and parked.event_id = ripe.event_id
)
select event_id from released
"""  # noqa: S608 - our own text

# Of a window that is too old to be billed, or that is as it was, nothing is held: it is read again all the same.
OLDEST_GUARDED = """
select least(
    (select min(event.window_start) from aggregator.parked join aggregator.event on event.id = parked.event_id
      where parked.feed_id = any(%(feeds)s) and parked.guard = 'shrink_guard' and parked.dismissed_at is null),
    (select min(window_start) from aggregator.guarded
      where meter_id = %(meter_id)s and window_start >= coalesce(%(sealed)s::timestamptz, '-infinity')))
"""

FORGET_GUARDED = """
delete from aggregator.guarded
 where meter_id = %(meter_id)s and window_start >= %(start)s and window_start < %(end)s and since <= %(ripe)s
"""


class Fallen(NamedTuple):
    """A window that lost too much: what it held before, and what it holds now."""

    start: dt.datetime
    before: Decimal
    after: Decimal


class Shrunk(Exception):
    """Windows lost too much at once: what was written is rolled back, and written again with decreases held."""

    def __init__(self, windows: list[Fallen]) -> None:
        self.windows = windows


def check(connection: Connection, registered: Registered, feed: Feed, tally: Tally) -> None:
    """Raise Shrunk if a window that was read before lost too much: all of it, or more than the meter's share."""
    fallen = {start: moved for start, moved in tally.moved.items() if moved < 0}
    tally.moved.clear()
    if not fallen:
        return
    share = registered.meter.shrink_guard
    values = {"feed_id": feed.id, "windows": list(fallen), "voided": tally.voided}
    rows = connection.execute(STANDING, values)
    shrunk = [
        Fallen(start, after - fallen[start], after)
        for start, after in rows
        if after == 0 or -fallen[start] > share * (after - fallen[start])
    ]
    if shrunk:
        raise Shrunk(shrunk)


def note_or_believe(
    connection: Connection, registered: Registered, span: Span, now: dt.datetime, fallen: Sequence[Fallen]
) -> None:
    """Note which windows shrank; or, after a pass in which none did, believe what was held for a second reading."""
    values: dict[str, object] = {"meter_id": registered.id, "now": now}
    if fallen:
        starts, before, after = zip(*fallen, strict=True)
        values |= {"windows": list(starts), "before": list(before), "after": list(after)}
        connection.execute(NOTE_GUARDED, values)
        return
    values |= {
        "feeds": [feed.id for feed in registered.feeds],
        "start": span.start,
        "end": span.end,
        "ripe": now - BELIEVED_AFTER,
        "applies": registered.meter.decreases is Decreases.APPLY,
        "reason": LOWERS,
    }
    gone = connection.execute(BELIEVE, values).fetchall()
    connection.execute(FORGET_GUARDED, values)
    note_newer_than(connection, [row[0] for row in gone], now)


def waiting(connection: Connection, registered: Registered, sealed: dt.datetime | None) -> dt.datetime | None:
    """Return the oldest window that is to be read a second time, so that it is, however old it is.

    Before `sealed` the source has no rows any more.
    """
    feeds = [feed.id for feed in registered.feeds]
    values = {"feeds": feeds, "meter_id": registered.id, "sealed": sealed}
    row = connection.execute(OLDEST_GUARDED, values).fetchone()
    return row[0] if row else None
