"""What a sink rejects after it had accepted it: events it names, and events it only counts.

Rules
- An event that the sink rejected is refused, whatever stood about it here before; its row of the outbox goes, so that an
  answer that arrives later finds nothing to settle.
- A rejection counts once. One that names an event we do not have, or have replaced, is put on record and changes nothing.
- What is said for some customers says nothing of another's event, and leaves no record that would stand in the way of what
  is said for that one.
- Files that are imported have no sink that tells of them: what their rows came to is told to a sink that sends to the same
  account. An identifier is named by nobody who has not seen it, so whoever names one of a file's says something of it.
- What a report names may have been sent once more after the sink had forgotten it, and have been taken then; or an adoption
  may have compared its window since, with what else was sent there and is forgotten. Where the sink's totals can be read,
  they decide about it, as about what is only counted.
- Rows are locked in one order everywhere: meter, outbox, parked, event, feed.
"""

import datetime as dt
from collections.abc import Sequence

from psycopg.types.range import TimestamptzRange

from aggregator.core.model import EventId, Rejection, Report
from aggregator.ledger.at_rest import to_rest
from aggregator.ledger.database import Connection
from aggregator.ledger.review.parked import LOCK_PARKED

REPORTED_WITHIN = dt.timedelta(days=60)
"""How old a plan may be that a rejection names: a sink takes events for 35 days, and reports within minutes or days."""

USUALLY_WITHIN = dt.timedelta(days=3)
"""Where it is looked for first: most events are sent at once, and a report comes soon after."""

REMEMBERED = dt.timedelta(hours=20)
"""Until then a sink that has rejected an event surely takes none with its identifier: less than the 24 hours of
docs.stripe.com/api/billing/meter-event/create, for clocks that differ."""

LOCK_OUTBOX = """
select event_id from aggregator.outbox where event_id = any(%(events)s) order by event_id for update
"""

RECORD_REJECTIONS = """
insert into aggregator.rejection (sink_id, identifier, reason, received_at)
select %(sink_id)s, given.identifier, given.reason, %(now)s
  from unnest(%(identifiers)s::text[], %(reasons)s::text[]) as given (identifier, reason)
    on conflict (sink_id, identifier) do nothing
returning identifier, reason
"""

# The sink's word for what it holds was not taken since. A repair takes it for an hour, in which several windows may lie, and
# writes it into one of them.
NOT_TAKEN_OVER = """
       not exists (
        select from aggregator.events_of(event.slot_id) as newer join aggregator.pass on pass.id = newer.pass_id
         where newer.revision > event.revision and pass.kind in ('adoption', 'repair')
       )
   and not exists (
        select from aggregator.slot as near
         cross join lateral aggregator.events_of(near.id, near.revision > 1) as newer
          join aggregator.pass on pass.id = newer.pass_id and pass.kind = 'repair' and pass.span @> event.window_start
         where near.feed_id = event.feed_id and near.customer = event.customer
           and near.window_start >= date_trunc('hour', event.window_start, 'UTC')
           and near.window_start < date_trunc('hour', event.window_start, 'UTC') + interval '1 hour'
           and newer.id > event.id
       )
"""

# Identifiers have no index: one scan for all of them, of what was planned since a while. An adoption has taken over what the
# sink had counted by then, rejections included: what it replaced is not owed again. What was taken back before it was sent
# has lost its slot, and what is planned in its place goes by the same identifier. Up to `until` the word of a report counts.
FIND_REJECTED = f"""
select event.id, event.identifier,
       event.attempted_at > %(until)s
       or exists (
            select from aggregator.pass join aggregator.feed on feed.meter_id = pass.meter_id
             where feed.id = event.feed_id and pass.kind = 'adoption' and pass.span @> event.window_start
               and pass.started_at > event.attempted_at and %(until)s::timestamptz is not null)
  from aggregator.event
 where event.identifier = any(%(identifiers)s) and event.planned_at >= %(since)s
   and exists (
        select from aggregator.slot
         where (slot.feed_id, slot.window_start, slot.customer, slot.combination)
               = (event.feed_id, event.window_start, event.customer, event.combination)
           and slot.id = event.slot_id
       )
   and event.feed_id in (
        select id from aggregator.feed
         where sink_id = %(sink_id)s
            or %(whose)s = '' and sink_id in (select file.sink_id from aggregator.file where not by_hand))
   and starts_with(event.customer, %(whose)s)
   and {NOT_TAKEN_OVER}"""  # noqa: S608 - our own text

# The same, of events that the sink's totals lack.
FIND_MISSING = f"""
select event.id from aggregator.event
 where event.id = any(%(events)s)
   and {NOT_TAKEN_OVER}"""  # noqa: S608 - our own text

FORGET = """
delete from aggregator.rejection
 where sink_id = %(sink_id)s and identifier = any(%(identifiers)s) and event_id is null
"""

NAME_REJECTED = """
update aggregator.rejection set event_id = given.event_id
  from unnest(%(events)s::bigint[], %(identifiers)s::text[]) as given (event_id, identifier)
 where rejection.sink_id = %(sink_id)s and rejection.identifier = given.identifier
"""

# One that was refused at once before is marked all the same: its identifier is known to the sink, and not to be used again.
REFUSE = f"""
with given as (
    select * from unnest(%(events)s::bigint[], %(reasons)s::text[]) as given (event_id, reason)
), marked as (
    update aggregator.parked set was_accepted = true
      from given where parked.event_id = given.event_id and parked.state = 'refused'
), gone as (
    delete from aggregator.outbox using given where outbox.event_id = given.event_id returning outbox.*, given.reason as why
), rests as ({to_rest("gone", state="'refused'", reason="gone.why", settled_at="%(now)s")} from gone
), changed as (
    update aggregator.event_at_rest as event set state = 'refused', reason = given.reason, settled_at = %(now)s
      from given
     where event.id = given.event_id and event.state in ('in_doubt', 'accepted', 'confirmed')
    returning event.id, event.feed_id, event.reason
), refused as (
    select event_id as id, feed_id, why as reason from gone union all select id, feed_id, reason from changed
), parked as (
    insert into aggregator.parked (event_id, feed_id, state, reason, since, was_accepted)
    select id, feed_id, 'refused', reason, %(now)s, true from refused
        on conflict (event_id) do update
       set state = 'refused', reason = excluded.reason, since = excluded.since, was_accepted = true, look_at = null
)
select id from refused
"""  # noqa: S608 - our own text

# What the readback concluded itself is put beside what the sink reported, so that a report that comes later finds it done.
RECORD_FOUND_MISSING = """
insert into aggregator.rejection (sink_id, identifier, reason, received_at, event_id)
select feed.sink_id, event.identifier, %(reason)s, %(now)s, event.id
  from aggregator.event join aggregator.feed on feed.id = event.feed_id
 where event.id = any(%(events)s)
    on conflict (sink_id, identifier) do nothing
"""

OF_OURS = """
select count(*) from aggregator.rejection
 where sink_id = %(sink_id)s and identifier = any(%(identifiers)s) and event_id is not null
"""

# A process that was started before a meter got another name tells of it under the one it knows; that is nobody else's.
FIND_FEED = """
select feed.id from aggregator.feed join aggregator.meter on meter.id = feed.meter_id
 where feed.sink_id = %(sink_id)s and (meter.name = %(meter)s or %(meter)s = any(meter.formerly))
   for no key update of feed
"""

ASK_READBACK = """
insert into aggregator.readback (feed_id, span, reason, report, asked_at, due_at)
select %(feed)s, %(span)s, %(reason)s, %(report)s, %(now)s, %(due_at)s
 where not exists (select from aggregator.readback where feed_id = %(feed)s and report = %(report)s)
returning id
"""


def take_report(
    connection: Connection, sink_id: int, report: Report, now: dt.datetime, proof: dt.timedelta | None
) -> tuple[list[EventId], bool]:
    """Take a sink's report, within a transaction; return the events refused by it, and whether a read-back is asked for.

    One that names nobody we know is followed up as if it named nobody.
    """
    until = report.span.end + REMEMBERED if proof is not None else None
    refused, unsure = _reject(connection, sink_id, report.named, now, report.whose, until)
    identifiers = list({each.identifier for each in report.named} - unsure)
    row = connection.execute(OF_OURS, {"sink_id": sink_id, "identifiers": identifiers}).fetchone()
    named = 0 if row == (0,) else len(identifiers)
    # Held from here on, so that a second delivery of the same report finds what the first one asked for.
    feed = connection.execute(FIND_FEED, {"sink_id": sink_id, "meter": report.meter}).fetchone()
    if feed is None or proof is None or report.rejected <= named:
        return refused, False
    values = {
        "feed": feed[0],
        "span": TimestamptzRange(*report.span),
        "report": report.id,
        "reason": f"report {report.id} counts {report.rejected} rejected events and names {named}",
        "now": now,
        "due_at": report.span.end + proof,
    }
    return refused, connection.execute(ASK_READBACK, values).fetchone() is not None


def refuse_missing(connection: Connection, events: list[EventId], why: str, now: dt.datetime) -> int:
    """Refuse accepted events that the sink's totals lack, within a transaction; return how many."""
    return len(refuse_known(connection, events, f"accepted, but not in the sink's own totals: {why}", now))


def refuse_known(
    connection: Connection, events: list[EventId], reason: str, now: dt.datetime
) -> list[EventId]:
    """Refuse accepted events that are known not to count at the sink, within a transaction; return those that were."""
    if not events:
        return []
    events = [EventId(row[0]) for row in connection.execute(FIND_MISSING, {"events": events})]
    connection.execute(RECORD_FOUND_MISSING, {"events": events, "reason": reason, "now": now})
    return _refuse(connection, events, [reason] * len(events), now)


def _reject(
    connection: Connection,
    sink_id: int,
    rejections: Sequence[Rejection],
    now: dt.datetime,
    whose: str,
    until: dt.datetime | None,
) -> tuple[list[EventId], set[str]]:
    """Record what a sink rejected; return the events refused by it now, and the names of those that it may have taken since.

    Those are what was sent once more after `until`, and what an adoption has compared; none if `until` is None. An event
    that never existed, or that a newer plan has replaced, is put on record and changes nothing. `whose` is what the
    customers' names begin with that this can be about.
    """
    named = {each.identifier: each.reason for each in rejections}
    values: dict[str, object] = {
        "sink_id": sink_id,
        "now": now,
        "identifiers": list(named),
        "reasons": list(named.values()),
    }
    fresh: dict[str, str] = dict(connection.execute(RECORD_REJECTIONS, values).fetchall())
    if not fresh:
        return [], set()
    found: dict[str, EventId] = {}
    unsure: set[str] = set()
    for age in (USUALLY_WITHIN, REPORTED_WITHIN):
        left = fresh.keys() - found.keys()
        if left:
            values = {
                "sink_id": sink_id,
                "since": now - age,
                "identifiers": list(left),
                "whose": whose,
                "until": until,
            }
            for event, name, may_be_taken in connection.execute(FIND_REJECTED, values):
                found[name] = event
                if may_be_taken:
                    unsure.add(name)
    for name in unsure:
        del found[name]
    forgotten = list(fresh.keys() - found.keys() if whose else unsure)
    if forgotten:
        connection.execute(FORGET, {"sink_id": sink_id, "identifiers": forgotten})
    events, identifiers = list(found.values()), list(found)
    connection.execute(NAME_REJECTED, {"sink_id": sink_id, "events": events, "identifiers": identifiers})
    return _refuse(connection, events, [fresh[identifier] for identifier in identifiers], now), unsure


def _refuse(
    connection: Connection, events: list[EventId], reasons: list[str], now: dt.datetime
) -> list[EventId]:
    connection.execute(LOCK_OUTBOX, {"events": events})
    connection.execute(LOCK_PARKED, {"events": events})
    values = {"events": events, "reasons": reasons, "now": now}
    return [EventId(row[0]) for row in connection.execute(REFUSE, values)]
