"""Passes that found nothing new, of many meters at once, and without a lease: the ledger says whether nothing has happened.

Rules
- A meter that is held, or was last given back by a round that left it otherwise, or in which anything is to be read again,
  is left alone: a pass of its own looks at it. Whose round that was does not matter, so several processes need no more
  leases than one.
- What is written is that it was looked at: in the record of the last pass, if that found nothing either, else in a new one.
- Rows are locked in the order of their ids, and those that somebody else holds are left alone: nobody waits for anybody.
"""

import datetime as dt
import uuid
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from psycopg.types.range import TimestamptzRange

from aggregator.core.commit_barrier import Noted
from aggregator.ledger import feeds as lines
from aggregator.ledger.database import Connection
from aggregator.ledger.feeds import as_it_is
from aggregator.ledger.meters import Lease, Registered, definitions_of_many
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

# What the source took is known of the newest day.
LEFT_AS = """
select meter.id, meter.epoch, meter.mark, meter.seen_until, meter.hourly_at, meter.daily_at, meter.left_as,
       clock_timestamp(), coalesce(cost.seconds / cost.readings, 0), meter.silent_since,
       (select count(*) from aggregator.silent_customer where silent_customer.meter_id = meter.id)
  from aggregator.meter
  left join lateral (
        select seconds, readings from aggregator.reading_cost
         where reading_cost.meter_id = meter.id and not old order by day desc limit 1) as cost on true
 where meter.id = any(%(meters)s) and meter.left_epoch = meter.epoch and meter.left_as is not null
   and meter.reread_from is null and meter.swept is null
"""

NOTED_OF_ALL = """
select meter_id, until, xid::bigint from aggregator.fence where meter_id = any(%(meters)s) order by meter_id, until
"""

UNSTABLE_OF_ALL = "select meter_id, fingerprint from aggregator.unstable where meter_id = any(%(meters)s)"

NOBODY = uuid.UUID(int=0)
"""Whose lease it is that only says how a meter was left: nothing can be committed under it."""


class LeftAs(NamedTuple):
    """How a round left a meter: under a lease of nobody's, with its digest, and how long such a reading took of late."""

    lease: Lease
    left_as: bytes
    seconds: float
    silent_since: dt.datetime | None = None
    """Since when there has been no usage, and of how many customers there has been none: each round says so."""
    silent_customers: int = 0


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


def left_as(connection: Connection, registered: Sequence[Registered]) -> dict[str, LeftAs]:
    """Return, by name, how the last rounds left those of these meters in which they left nothing to be done or said.

    It is asked for in several statements, between which another round may end: whether all of it is true at one instant, and
    still is, is for `note` to say, by the digest that is made of it.
    """
    known = {each.id: each for each in registered}
    values = {"meters": list(known)}
    rows = connection.execute(LEFT_AS, values).fetchall()
    noted: dict[int, list[Noted]] = defaultdict(list)
    unstable: dict[int, set[str]] = defaultdict(set)
    for meter_id, *each in connection.execute(NOTED_OF_ALL, values):
        noted[meter_id].append(Noted._make(each))
    defined = definitions_of_many(connection, list(known))
    for meter_id, fingerprint in connection.execute(UNSTABLE_OF_ALL, values):
        unstable[meter_id].add(fingerprint)
    feeds = [feed for meter_id, *_ in rows for feed in known[meter_id].feeds]
    coverages = dict(zip((feed.id for feed in feeds), lines.coverages(connection, feeds), strict=True))
    found = {}
    for meter_id, epoch, mark, seen_until, hourly_at, daily_at, digest, given_at, *rest in rows:
        meter = known[meter_id]
        of_feeds = tuple(coverages[feed.id] for feed in meter.feeds)
        lease = Lease(
            meter._replace(feeds=tuple(map(as_it_is, meter.feeds, of_feeds))),
            NOBODY,
            epoch,
            mark,
            reread_from=None,
            swept=None,
            fed_until=mark,
            given_at=given_at,
            hourly_at=hourly_at,
            daily_at=daily_at,
            waits_for=None,
            definitions=defined[meter_id],
            noted=tuple(noted[meter_id]),
            seen_until=seen_until,
            coverages=of_feeds,
            unstable=frozenset(unstable[meter_id]),
        )
        found[meter.meter.name] = LeftAs(lease, digest, *rest)
    return found
