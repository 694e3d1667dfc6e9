"""Passes that found nothing new, of many meters at once, and without a lease: the ledger says whether nothing has happened.

Rules
- A meter that is held, or was last given back by a round that left it otherwise, or in which anything is to be read again,
  is left alone: a pass of its own looks at it. Whose round that was does not matter, so several processes need no more
  leases than one.
- What is written is that it was looked at: in the record of the last pass, if that found nothing either, else in a new one.
- Rows are locked in the order of their ids, and those that somebody else holds are left alone: nobody waits for anybody.
"""

import datetime as dt
from collections.abc import Sequence
from typing import NamedTuple

from psycopg.types.range import TimestamptzRange

from aggregator.ledger.database import Connection
from aggregator.ledger.meters import Lease
from aggregator.ledger.passes.records import Pass

NOTE = """
with said as (
    select * from unnest(%(meters)s::int[], %(left_as)s::bytea[], %(hourly)s::timestamptz[], %(daily)s::timestamptz[],
                         %(spans)s::tstzrange[], %(rows)s::bigint[], %(fingerprints)s::text[], %(seen)s::timestamptz[])
               as said (meter_id, left_as, hourly_at, daily_at, span, rows, fingerprint, seen)
), held as (
    select meter.id, said.span, said.rows, said.fingerprint, said.seen, meter.epoch
      from aggregator.meter join said on meter.id = said.meter_id
     where meter.left_epoch = meter.epoch and meter.left_as = said.left_as
       and meter.reread_from is null and meter.swept is null
       and meter.hourly_at is not distinct from said.hourly_at
       and meter.daily_at is not distinct from said.daily_at
       and not exists (select from aggregator.guarded where guarded.meter_id = meter.id)
       and not exists (select from aggregator.feed join aggregator.reassertion on reassertion.feed_id = feed.id
                        where feed.meter_id = meter.id)
       and not exists (select from aggregator.feed join aggregator.parked on parked.feed_id = feed.id
                        where feed.meter_id = meter.id and parked.moved_with is not null)
     order by meter.id for update of meter skip locked
), last as (
    select held.*, pass.id as pass_id,
           pass.kind = 'live' and pass.changed = 0 and pass.deferred = 0 and pass.error is null as found_nothing
      from held cross join lateral (
            select * from aggregator.pass where pass.meter_id = held.id order by id desc limit 1) as pass
), renewed as (
    update aggregator.pass
       set span = last.span, goal = last.span, started_at = %(now)s, seconds = %(seconds)s, rows = last.rows,
           since = coalesce(pass.since, pass.started_at), times = pass.times + 1
      from last where pass.id = last.pass_id and last.found_nothing
), added as (
    insert into aggregator.pass (meter_id, kind, span, goal, started_at, seconds, rows, epoch, fingerprint)
    select id, 'live', span, span, %(now)s, %(seconds)s, rows, epoch, fingerprint
      from last where not found_nothing order by id
), shown as (
    update aggregator.meter set seen_until = greatest(meter.seen_until, last.seen)
      from last where meter.id = last.id and last.seen is not null
)
select id from last
"""


class Unchanged(NamedTuple):
    """What a glance found as a round had left it: the lease of that round, its digest, and what was read again."""

    lease: Lease
    left_as: bytes
    this: Pass
    rows: int


def note(connection: Connection, found: Sequence[Unchanged], now: dt.datetime, seconds: float) -> set[int]:
    """Note that meters were looked at; return the ids of those in which the ledger has nothing else to do."""
    rows = connection.execute(
        NOTE,
        {
            "meters": [each.lease.registered.id for each in found],
            "left_as": [each.left_as for each in found],
            "hourly": [each.lease.hourly_at for each in found],
            "daily": [each.lease.daily_at for each in found],
            "spans": [TimestamptzRange(*each.this.span) for each in found],
            "rows": [each.rows for each in found],
            "fingerprints": [each.this.definition.fingerprint for each in found],
            "seen": [each.this.seen for each in found],
            "now": now,
            "seconds": seconds / len(found),
        },
    )
    return {meter for (meter,) in rows}
