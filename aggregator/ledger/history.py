"""What passes and deliveries did, and what waits, as the ledger has it on record. Nothing here writes.

Rules
- What is looked at is bounded, however long the history: of each meter the newest passes, and of all claims the newest.
- What became of a delivery is worked out of what its events have on them: nothing is counted beside them while it is sent.
"""

import datetime as dt
from collections.abc import Iterator
from typing import NamedTuple

from aggregator.core.history import DeliveryRecord, DeliveryState, History, PassRecord, Wait, WaitKind
from aggregator.core.model import Span
from aggregator.ledger.database import Connection, Part

MOST_CLAIMS = 1_000
"""Claims that are looked through for those of a meter. They name up to half a million events."""

METERS = "select name from aggregator.meter order by name"

# Of a meter's passes only the newest may have been renewed since it was made, so that their ids are in the order of time.
PASSES = """
select pass.id, meter.name, pass.kind, lower(pass.span), upper(pass.span), pass.started_at, pass.seconds, pass.rows,
       pass.changed, pass.planned, pass.held, pass.refused, pass.deferred, pass.error,
       coalesce(pass.since, pass.started_at), pass.times
  from aggregator.meter
 cross join lateral (
        select * from aggregator.pass where meter_id = meter.id {only} order by meter_id desc, id desc limit %(limit)s
       ) as pass
 where (%(meter)s::text is null or meter.name = %(meter)s) and pass.started_at >= %(since)s
 order by pass.started_at desc, pass.id desc limit %(limit)s
"""

ALL_PASSES = PASSES.format(only="")
FAILED_PASSES = PASSES.format(only="and error is not null")

NEWEST_CLAIMS = "select id from aggregator.claim order by id desc limit %(most)s"

# Claims of which something did not end well: by what was noted of their events, by files, and those that nobody closed.
FAILED_CLAIMS = """
(select claim_id from aggregator.attempt group by claim_id order by claim_id desc limit %(most)s)
 union
(select claim_id from aggregator.file where rejected_at is not null or reason is not null
  order by claim_id desc limit %(most)s)
 union
(select id from aggregator.claim where settled_at is null order by id desc limit %(most)s)
"""

# An event of a claim that has no attempt noted by it, and was not tried since, was taken if it is settled. A file is taken,
# or not, as a whole, and may hold a million events: those are not looked at.
DELIVERIES = """
with named as ({claims}), found as (
    select claim.*, sink.name as sink, cardinality(claim.events) as many, file.claim_id is not null as is_file,
           file.name as file, file.written_at, file.rejected_at, file.held_until,
           coalesce(file.rejected_reason, file.reason) as file_reason
      from aggregator.claim
      join aggregator.sink on sink.id = claim.sink_id
      left join aggregator.file on file.claim_id = claim.id
     where claim.id in (select * from named) and claim.claimed_at >= %(since)s
       and (%(meter)s::text is null or claim.sink_id in (
            select feed.sink_id from aggregator.feed join aggregator.meter on meter.id = feed.meter_id
             where meter.name = %(meter)s))
       and (%(meter)s::text is null
            or case when file.claim_id is null
                    then exists (select from unnest(claim.events) as one (id)
                                   join aggregator.event on event.id = one.id
                                   join aggregator.feed on feed.id = event.feed_id
                                   join aggregator.meter on meter.id = feed.meter_id
                                  where meter.name = %(meter)s)
                    else coalesce(%(meter)s = any(file.meters), true) end)
     order by claim.id desc limit %(limit)s
)
select found.id, found.sink, found.claimed_at, coalesce(found.settled_at, found.written_at), found.many,
       case when found.is_file then (found.written_at is not null and found.rejected_at is null)::int * found.many
            else counted.accepted end,
       coalesce(counted.again, 0),
       case when found.is_file then (found.rejected_at is not null)::int * found.many else counted.refused end,
       coalesce(counted.in_doubt, 0),
       case when found.is_file
            then (found.written_at is null and found.held_until > %(now)s)::int * found.many else counted.under_way end,
       found.file, case when found.is_file then found.file_reason else counted.reason end
  from found
  left join lateral (
        select count(*) filter (where attempt.event_id is null and event.attempted_at = found.claimed_at
                                  and event.state not in ('due', 'sending')) as accepted,
               count(*) filter (where attempt.answer::aggregator.event_state = 'due') as again,
               count(*) filter (where attempt.answer::aggregator.event_state = 'refused') as refused,
               count(*) filter (where attempt.answer::aggregator.event_state = 'in_doubt') as in_doubt,
               count(*) filter (where outbox.claim_id = found.id and outbox.due_at > %(now)s) as under_way,
               min(attempt.reason) as reason
          from unnest(found.events) as one (id)
          join aggregator.event on event.id = one.id
          left join (select unnest(events) as event_id, answer, reason
                       from aggregator.attempt where claim_id = found.id) as attempt on attempt.event_id = one.id
          left join aggregator.outbox on outbox.event_id = one.id
         where not found.is_file
       ) as counted on true
 order by found.id desc
"""

NEWEST_DELIVERIES = DELIVERIES.format(claims=NEWEST_CLAIMS)
FAILED_DELIVERIES = DELIVERIES.format(claims=FAILED_CLAIMS)

OF_METER = "(%(meter)s::text is null or meter.name = %(meter)s)"

# A window that the source could not give is named by itself.
LAST_FAILED = f"""
select meter.name, last.times, coalesce(last.since, last.started_at), last.error
  from aggregator.meter
 cross join lateral (select * from aggregator.pass where meter_id = meter.id order by meter_id desc, id desc limit 1) as last
 where last.error is not null and {OF_METER}
   and not exists (select from aggregator.unread
                    where unread.meter_id = meter.id and unread.window_start = lower(last.span)
                      and upper(last.span) - lower(last.span) = make_interval(secs => meter.window_seconds))
 order by 1
"""  # noqa: S608 - our own text

UNREAD = f"""
select meter.name, count(*), min(unread.since), min(unread.next_at), min(unread.reason), min(unread.window_start),
       max(unread.window_start) + make_interval(secs => min(meter.window_seconds))
  from aggregator.unread join aggregator.meter on meter.id = unread.meter_id
 where {OF_METER} group by 1 order by 1
"""  # noqa: S608 - our own text

GUARDED = f"""
select meter.name, count(*), min(guarded.since) from aggregator.guarded join aggregator.meter on meter.id = guarded.meter_id
 where {OF_METER} group by 1 order by 1
"""  # noqa: S608 - our own text

# What holds a whole sink or feed up is said in place of the reasons of single events.
DUE = f"""
select meter.name, sink.name, waiting.events, feed.stopped_at, waiting.next_at,
       coalesce(feed.stopped_reason, 'the sink is halted: ' || sink.halted_reason)
  from (select feed_id, count(*) as events, min(due_at) filter (where due_at < '9999-01-01') as next_at
          from aggregator.outbox group by feed_id) as waiting
  join aggregator.feed on feed.id = waiting.feed_id
  join aggregator.meter on meter.id = feed.meter_id
  join aggregator.sink on sink.id = feed.sink_id
 where {OF_METER} order by 1, 2
"""  # noqa: S608 - our own text

PARKED = f"""
select meter.name, sink.name, parked.state::text, count(*), min(parked.since), min(parked.look_at), min(parked.reason)
  from aggregator.parked
  join aggregator.feed on feed.id = parked.feed_id
  join aggregator.meter on meter.id = feed.meter_id
  join aggregator.sink on sink.id = feed.sink_id
 where parked.dismissed_at is null and {OF_METER} group by 1, 2, 3 order by 1, 2, 3
"""  # noqa: S608 - our own text


class Asked(NamedTuple):
    """Whose history is asked for: how many records of each kind, since when, and whether only of what failed."""

    meter: str | None
    limit: int
    since: dt.datetime
    failed: bool = False


class Records(Part):
    """The question what happened."""

    def meters(self) -> list[str]:
        """Return the names of all meters that the ledger knows."""
        return [name for (name,) in self._rows(METERS)]

    def history(self, asked: Asked, now: dt.datetime) -> History:
        """Return what passes and deliveries did, the newest first, and what waits."""
        with self._database.transaction() as connection:
            return History(
                now,
                _passes(connection, asked),
                _deliveries(connection, asked, now),
                list(_waits(connection, asked)),
            )


def _passes(connection: Connection, asked: Asked) -> list[PassRecord]:
    statement = FAILED_PASSES if asked.failed else ALL_PASSES
    return [
        PassRecord(number, meter, kind, Span(start, end), *rest)
        for number, meter, kind, start, end, *rest in connection.execute(statement, asked._asdict())
    ]


def _deliveries(connection: Connection, asked: Asked, now: dt.datetime) -> list[DeliveryRecord]:
    values = {
        **asked._asdict(),
        "now": now,
        "most": MOST_CLAIMS if asked.meter or asked.failed else asked.limit,
    }
    if not asked.failed:
        return [DeliveryRecord._make(row) for row in connection.execute(NEWEST_DELIVERIES, values)]
    values["limit"] = MOST_CLAIMS  # what is under way has not failed, and is left out behind it
    found = (DeliveryRecord._make(row) for row in connection.execute(FAILED_DELIVERIES, values))
    failed = (DeliveryState.IN_PART, DeliveryState.FAILED, DeliveryState.NO_ANSWER)
    return [each for each in found if each.state in failed][: asked.limit]


def _waits(connection: Connection, asked: Asked) -> Iterator[Wait]:
    values = asked._asdict()
    for meter, times, since, error in connection.execute(LAST_FAILED, values):
        yield Wait(WaitKind.FAILED, meter, None, times, since, None, error)
    for meter, count, since, next_at, reason, start, end in connection.execute(UNREAD, values):
        yield Wait(WaitKind.UNREAD, meter, None, count, since, next_at, reason, Span(start, end))
    for meter, count, since in connection.execute(GUARDED, values):
        yield Wait(WaitKind.GUARDED, meter, None, count, since, None, None)
    for meter, sink, count, since, next_at, reason in connection.execute(DUE, values):
        yield Wait(WaitKind.DUE, meter, sink, count, since, next_at, reason)
    for meter, sink, state, count, since, look_at, reason in connection.execute(PARKED, values):
        kind = WaitKind(state.replace("_", " "))
        yield Wait(kind, meter, sink, count, since, look_at, reason)
