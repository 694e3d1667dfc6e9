"""What a sink that keeps the newest number must be told again: where a slot stands, by an event that changes nothing.

Rules
- A late number must not stay. An event that was given up after it had left may still arrive behind the one that replaced it;
  so the slot is said again, later than any request is still on its way.
- Where a customer's last number is billed, and the sink may go by arrival, a correction of an old window would stand behind
  the newer ones: they are said again, in their order.
- It is noted in the transaction of the pass that causes it, and done by the pass that next reads the window once it is due.
  Until then the window counts as one to be read again, however old it is and whatever `revisit` says.
"""

import datetime as dt
from collections.abc import Sequence

from aggregator.ledger.database import Connection
from aggregator.ledger.meters import Feed
from aggregator.model import EventId, Span, WriteModel

LATEST_ARRIVAL = dt.timedelta(hours=1)
"""No request arrives later than this after it left: connections time out within minutes."""

TAKE_UP = """
with due as (
    delete from aggregator.reassertion
     where feed_id = %(feed_id)s and due_at <= %(now)s and window_start >= %(start)s and window_start < %(end)s
    returning window_start, customer
)
update aggregator.slot set replan = true from due
 where slot.feed_id = %(feed_id)s and slot.window_start = due.window_start and slot.customer = due.customer
   and slot.revision > 0
"""

NOTE_GIVEN_UP = """
insert into aggregator.reassertion (feed_id, window_start, customer, due_at)
select feed_id, window_start, customer, %(due_at)s from aggregator.event
 where id = any(%(events)s) and exposed_at is not null and feed_id = any(%(feeds)s)
    on conflict (feed_id, window_start, customer) do update set due_at = excluded.due_at
"""

NOTE_NEWER = """
insert into aggregator.reassertion (feed_id, window_start, customer, due_at)
select slot.feed_id, slot.window_start, slot.customer, %(now)s
  from (
        select customer, min(window_start) as since from aggregator.event
         where planned_at = %(now)s and run_id = %(run_id)s and feed_id = %(feed_id)s
         group by customer
       ) as said
  join aggregator.slot on slot.feed_id = %(feed_id)s and slot.customer = said.customer
                      and slot.window_start > said.since and slot.revision > 0
  left join aggregator.event as with_it on with_it.id = slot.tail and with_it.run_id = %(run_id)s
 where with_it.id is null
    on conflict (feed_id, window_start, customer) do nothing
"""

OLDEST = "select min(window_start) from aggregator.reassertion where feed_id = any(%(feeds)s)"


NOTE_NEWER_THAN = """
with said as (
    select event.feed_id, event.customer, min(event.window_start) as since
      from aggregator.event join aggregator.feed on feed.id = event.feed_id and feed.ordered
     where event.id = any(%(events)s) group by 1, 2
), noted as (
    insert into aggregator.reassertion (feed_id, window_start, customer, due_at)
    select slot.feed_id, slot.window_start, slot.customer, %(now)s
      from said join aggregator.slot on slot.feed_id = said.feed_id and slot.customer = said.customer
                                    and slot.window_start > said.since and slot.revision > 0
     where not (slot.tail = any(%(events)s))
        on conflict (feed_id, window_start, customer) do update set due_at = excluded.due_at
    returning feed_id, window_start
)
update aggregator.meter set reread_from = least(meter.reread_from, old.start)
  from (select feed.meter_id, min(noted.window_start) as start
          from noted join aggregator.feed on feed.id = noted.feed_id group by 1) as old
 where meter.id = old.meter_id
"""


def note_newer_than(connection: Connection, events: Sequence[int], now: dt.datetime) -> None:
    """Note the windows that are newer than events that were held, and leave only now; they are to be read again."""
    if events:
        connection.execute(NOTE_NEWER_THAN, {"events": list(events), "now": now})


def take_up(connection: Connection, feed: Feed, span: Span, now: dt.datetime) -> None:
    """Mark what of a span is to be said again by now, for the pass that is about to compare it."""
    if feed.model is not WriteModel.DELTA:
        values = {"feed_id": feed.id, "start": span.start, "end": span.end, "now": now}
        connection.execute(TAKE_UP, values)


def note_given_up(
    connection: Connection, feeds: Sequence[Feed], events: Sequence[EventId], now: dt.datetime
) -> None:
    """Note the slots of events that were given up, replaced by newer ones, though they may have left."""
    replacing = [feed.id for feed in feeds if feed.model is not WriteModel.DELTA]
    if replacing and events:
        values = {"events": list(events), "feeds": replacing, "due_at": now + LATEST_ARRIVAL}
        connection.execute(NOTE_GIVEN_UP, values)


def note_newer(connection: Connection, feed: Feed, run_id: int, now: dt.datetime) -> None:
    """Note the windows that are newer than what a pass has just said."""
    if feed.model is WriteModel.LAST:
        connection.execute(NOTE_NEWER, {"feed_id": feed.id, "run_id": run_id, "now": now})


def waiting(connection: Connection, feeds: Sequence[Feed]) -> dt.datetime | None:
    """Return the oldest window that is still to be said again, be it due or not; None if there is none."""
    replacing = [feed.id for feed in feeds if feed.model is not WriteModel.DELTA]
    row = connection.execute(OLDEST, {"feeds": replacing}).fetchone() if replacing else None
    return row[0] if row else None
