"""What a sink that keeps the newest number must be told again: where a slot stands, by an event that changes nothing.

Rules
- A late number must not stay. An event that was given up after it had left may still arrive behind the one that replaced it;
  so the slot is sent again, later than any request is still on its way.
- Where a customer's last number is billed, and the sink may go by arrival, a correction of an old window would stand behind
  the newer ones: they are sent again, in their order and by the same pass. All of them, not just the newest: where a billing
  period ends the ledger does not know, and each has a newest window. One whose event is still owed cannot be said yet; it is
  noted, and said with all that is newer than it.
- Of two files that lie in a folder, the older may be taken last. A total that follows another so soon is said once more.
- To say a slot again, a change that is held is withdrawn, and found by the next pass. If a person had dismissed it, and it
  is the same again, that still counts: it was withdrawn for our reasons, not for theirs.
- It is noted in the transaction of the pass that causes it, and done by the pass that next reads the window; once it is due
  that is one of the next, however old the window is.
"""

import datetime as dt
from collections.abc import Sequence

from aggregator.core.model import EventId, Span, WriteModel
from aggregator.ledger.database import Connection
from aggregator.ledger.meters import Feed

LATEST_ARRIVAL = dt.timedelta(hours=6)
"""No request arrives later than this after it left: it is a condition of the promise, in docs/promise.md."""

# A total that was rejected, or that a person has left at that, is not where the slot stands: to say it again would send it
# without anybody's word. Once it is released, it is said in any case.
TAKE_UP = """
with due as (
    delete from aggregator.reassertion
     where feed_id = %(feed_id)s and due_at <= %(now)s and window_start >= %(start)s and window_start < %(end)s
    returning window_start, customer, combination
)
update aggregator.slot set replan = true from due
 where slot.feed_id = %(feed_id)s and slot.window_start = due.window_start and slot.customer = due.customer
   and slot.combination = due.combination
   and slot.revision > 0
   and not exists (select from aggregator.parked
                    where parked.event_id = slot.tail and parked.state = 'refused'
                      and (parked.was_accepted or parked.dismissed_at is not null))
"""

# Where order counts, a round does not pass over what was noted a moment after it began. Windows that are not read any more,
# or not for the feed, would have the meter read them again for ever.
WAITING = """
select min(reassertion.window_start) from aggregator.reassertion join aggregator.feed on feed.id = reassertion.feed_id
 where feed.id = any(%(feeds)s) and (feed.ordered or reassertion.due_at <= %(now)s)
   and reassertion.window_start >= greatest(feed.since, %(sealed)s::timestamptz)
   and (feed.until is null or reassertion.window_start < feed.until)
"""

# What the sink took and rejected has arrived already, and its identifier is used up: nothing of it comes late. To say the
# slot again would be to have it rejected again, every few hours, before a person has put right what the reason says. But of
# an event that may have arrived before its last attempt, the sink may have rejected one copy and counted another.
NOTE_GIVEN_UP = """
insert into aggregator.reassertion (feed_id, window_start, customer, combination, due_at)
select feed_id, window_start, customer, combination, %(due_at)s from aggregator.event
 where id = any(%(events)s) and exposed_at is not null and feed_id = any(%(feeds)s)
   and (exposed_at < attempted_at
        or not exists (select from aggregator.parked where parked.event_id = event.id and parked.was_accepted))
    on conflict (feed_id, window_start, customer, combination) do update set due_at = excluded.due_at
"""

# What the pass has said itself, in its order, was noted for nothing.
SAID = """
delete from aggregator.reassertion using aggregator.event
 where event.planned_at = %(now)s and event.pass_id = %(pass_id)s and event.feed_id = %(feed_id)s and event.state = 'due'
   and reassertion.feed_id = event.feed_id and reassertion.window_start = event.window_start
   and reassertion.customer = event.customer and reassertion.combination = event.combination
   and reassertion.due_at <= %(now)s
"""

# What is held, or is refused at once, says nothing to the sink: no newer window is sent again for it, before it is released.
# Else each decrease that is held would have all windows behind it sent again, those that are held among them, which have to
# be held again then.
NOTE_NEWER = """
insert into aggregator.reassertion (feed_id, window_start, customer, combination, due_at)
select slot.feed_id, slot.window_start, slot.customer, slot.combination, %(now)s
  from (
        select customer, combination, min(window_start) as since from aggregator.event
         where planned_at = %(now)s and pass_id = %(pass_id)s and feed_id = %(feed_id)s and state = 'due'
         group by customer, combination
       ) as said
  join aggregator.slot on slot.feed_id = %(feed_id)s and slot.customer = said.customer
                      and slot.combination = said.combination
                      and slot.window_start > said.since and slot.revision > 0
  left join aggregator.event as with_it on with_it.id = slot.tail and with_it.pass_id = %(pass_id)s
 where with_it.id is null
    on conflict (feed_id, window_start, customer, combination) do nothing
"""

# The same change, right behind the one event that said where the slot stands when it was withdrawn.
# The decision is noted for the new event as well, as it was made, so that this holds however often the slot is said again.
# What holds usage that moved is decided as a whole.
LEAVE_AT_THAT = """
with again as (
    select event.id, decision.decided_at, decision.who, decision.reason
      from aggregator.parked
      join aggregator.event on event.id = parked.event_id and event.pass_id = %(pass_id)s
     cross join lateral aggregator.events_of(event.slot_id) as said
     cross join lateral aggregator.events_of(event.slot_id) as before
     cross join lateral (
            select * from aggregator.decision where decision.events @> array[before.id] order by decision.id desc limit 1
           ) as decision
     where parked.feed_id = %(feed_id)s and parked.state = 'held' and parked.dismissed_at is null
       and parked.moved_with is null
       and said.revision = event.revision - 1 and said.delta = 0
       and before.revision = event.revision - 2 and before.state = 'void'
       and (before.delta, before.total) = (event.delta, event.total)
       and decision.verb = 'dismiss'
), left_at as (
    update aggregator.parked set dismissed_at = %(now)s from again where parked.event_id = again.id
)
insert into aggregator.decision (decided_at, verb, who, reason, events)
select decided_at, 'dismiss', who, reason, array_agg(id order by id) from again group by decided_at, who, reason
"""

# What says the same as the one before it is right whichever of the two is taken last. So what is said once more comes to an
# end: another total lies as far behind it as is waited, while the file of the same one may have been written only just now.
NOTE_CLOSE = """
insert into aggregator.reassertion (feed_id, window_start, customer, combination, due_at)
select event.feed_id, event.window_start, event.customer, event.combination, %(due_at)s from aggregator.event
 where event.planned_at = %(now)s and event.pass_id = %(pass_id)s and event.feed_id = %(feed_id)s and event.revision > 0
   and exists (select from aggregator.events_of(event.slot_id) as before
                where before.revision < event.revision
                  and before.total <> event.total
                  and before.state in ('accepted', 'confirmed') and before.settled_at > %(since)s)
    on conflict (feed_id, window_start, customer, combination) do update set due_at = excluded.due_at
"""

NOTE_NEWER_THAN = """
with said as (
    select event.feed_id, event.customer, event.combination, min(event.window_start) as since
      from aggregator.event join aggregator.feed on feed.id = event.feed_id and feed.ordered
     where event.id = any(%(events)s) group by 1, 2, 3
), noted as (
    insert into aggregator.reassertion (feed_id, window_start, customer, combination, due_at)
    select slot.feed_id, slot.window_start, slot.customer, slot.combination, %(now)s
      from said join aggregator.slot on slot.feed_id = said.feed_id and slot.customer = said.customer
                                    and slot.combination = said.combination
                                    and slot.window_start > said.since and slot.revision > 0
     where not (slot.tail = any(%(events)s))
        on conflict (feed_id, window_start, customer, combination) do update set due_at = excluded.due_at
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


def take_up(connection: Connection, feeds: Sequence[Feed], span: Span, now: dt.datetime) -> None:
    """Mark what of a span is to be sent again by now, for the pass that is about to compare it."""
    for feed in feeds:
        if feed.model is not WriteModel.DELTA:
            values = {"feed_id": feed.id, "start": span.start, "end": span.end, "now": now}
            connection.execute(TAKE_UP, values)


def waiting(
    connection: Connection, feeds: Sequence[Feed], sealed: dt.datetime | None, now: dt.datetime
) -> dt.datetime | None:
    """Return the oldest window that is to be sent again, so that it is read; `sealed` is before when none can be."""
    replacing = [feed.id for feed in feeds if feed.model is not WriteModel.DELTA]
    if not replacing:
        return None
    values = {"feeds": replacing, "sealed": sealed, "now": now}
    row = connection.execute(WAITING, values).fetchone()
    return row[0] if row else None


def note_given_up(
    connection: Connection, feeds: Sequence[Feed], events: Sequence[EventId], now: dt.datetime
) -> None:
    """Note the slots of events that were given up, replaced by newer ones, though they may have left."""
    replacing = [feed.id for feed in feeds if feed.model is not WriteModel.DELTA]
    if replacing and events:
        values = {"events": list(events), "feeds": replacing, "due_at": now + LATEST_ARRIVAL}
        connection.execute(NOTE_GIVEN_UP, values)


def _note_newer(connection: Connection, feed: Feed, pass_id: int, now: dt.datetime) -> None:
    """Note the windows that are newer than what a pass has just said, as far as it has not said them again itself."""
    if feed.model is WriteModel.LAST:
        values = {"feed_id": feed.id, "pass_id": pass_id, "now": now}
        connection.execute(SAID, values)
        connection.execute(NOTE_NEWER, values)


def note(connection: Connection, feed: Feed, pass_id: int, now: dt.datetime) -> None:
    """Note what is to be said again for what a pass has just written, and what a person has left at that already."""
    _leave_at_that(connection, feed, pass_id, now)
    _note_newer(connection, feed, pass_id, now)
    _note_close(connection, feed, pass_id, now)


def _leave_at_that(connection: Connection, feed: Feed, pass_id: int, now: dt.datetime) -> None:
    """Dismiss what a pass holds once more although a person had dismissed it before the slot was said again."""
    if feed.model is not WriteModel.DELTA:
        connection.execute(LEAVE_AT_THAT, {"feed_id": feed.id, "pass_id": pass_id, "now": now})


def _note_close(connection: Connection, feed: Feed, pass_id: int, now: dt.datetime) -> None:
    """Note the slots whose total a pass has changed so soon after the one before it that this may count last."""
    if feed.model is WriteModel.OVERWRITE and not feed.keeps_order:
        values = {"feed_id": feed.id, "pass_id": pass_id, "now": now}
        connection.execute(
            NOTE_CLOSE, {**values, "since": now - LATEST_ARRIVAL, "due_at": now + LATEST_ARRIVAL}
        )
