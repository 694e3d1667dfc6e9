"""A ledger that has been in use for long, made by SQL: in minutes, what passes and claims would take days to write.

One meter with one sink is read by the hour, of so many customers. Each window was planned by a pass and read again without
finding anything; one slot in a hundred had a correction, one claim in a hundred got no answer at first. All of it is
accepted, and days are summed up. What is written here is what the ledger's own verbs write, row by row, but for the moment.
"""

import datetime as dt
from typing import Any, NamedTuple

import psycopg

from aggregator.core.model import Meter
from aggregator.ledger.meters import Lease, Meters

HOUR = dt.timedelta(hours=1)
CLAIMED_AT_ONCE = 100
OLD = 48
"""Hours of which nothing was corrected yet, so that reading them again finds nothing."""

SINK = "far"

CUSTOMERS = """
create table public.grown_customer as
    select row_number() over (order by name collate "C") - 1 as number, name
      from (select 'cus_' || upper(substr(md5(number::text), 1, 14)) as name
              from generate_series(1, %(customers)s) as number) as named
"""

# Numbers of events follow their windows, as passes give them; those of corrections come behind all of them.
EVENTS = """
with made as (
    select 1 + hour::bigint * %(customers)s + customer.number as id,
           %(hours)s::bigint * %(customers)s + 1 + hour * (%(customers)s / 100) + customer.number / 100 as second,
           %(since)s::timestamptz + hour * interval '1 hour' as window_start, customer.name, hour,
           %(since)s::timestamptz + hour * interval '1 hour' + interval '66 min'
           + customer.number / %(at_once)s * interval '100 ms' as claimed_at,
           hour < %(hours)s - %(old)s and customer.number %% 100 = 0 as corrected
      from generate_series(%(from)s::int, %(to)s::int - 1) as hour cross join public.grown_customer as customer
), slots as (
    insert into aggregator.slot (id, window_start, stamped_at, tail, feed_id, revision, customer, quantity, total)
    select id, window_start, window_start + interval '30 min',
           case when corrected then second else id end,
           %(feed)s, case when corrected then 2 else 1 end, name, case when corrected then 2 else 1 end,
           case when corrected then 2 else 1 end
      from made order by made.id
), corrections as (
    insert into aggregator.event_at_rest (id, slot_id, pass_id, feed_id, revision, window_start, at, planned_at, exposed_at,
                                          settled_at, state, customer, identifier, delta, total, transport, request_id)
    select second, id, 2 * hour + 2, %(feed)s, 1, window_start,
           window_start + interval '29 min', window_start + interval '1 day', window_start + interval '1 day',
           window_start + interval '1 day', 'accepted', name,
           'agg_' || substr(md5(id::text), 1, 20), 1, 2, 'v1', 'req_' || substr(md5(name || id), 1, 14)
      from made where corrected order by made.id
)
insert into aggregator.event_at_rest (id, pass_id, feed_id, window_start, at, planned_at, exposed_at, settled_at, state,
                                      customer, identifier, delta, transport, request_id)
select id, 2 * hour + 1, %(feed)s, window_start, window_start + interval '30 min', window_start + interval '65 min',
       claimed_at, claimed_at, 'accepted',
       name, 'agg_' || substr(md5(id::text), 1, 20), 1, 'v1', 'req_' || substr(md5(name || id), 1, 14)
  from made order by made.id
"""

REST = (
    """
    insert into aggregator.claim (sink_id, owner, claimed_at, events, settled_at)
    select %(sink)s, gen_random_uuid(), at, array(select generate_series(first, first + %(at_once)s - 1)), at
      from generate_series(1, %(hours)s::bigint * %(customers)s, %(at_once)s) as first
     cross join lateral (
            select %(since)s::timestamptz + first / %(customers)s * interval '1 hour' + interval '66 min'
                   + first %% %(customers)s / %(at_once)s * interval '100 ms' as at) as claimed
    """,
    """
    insert into aggregator.attempt (claim_id, at, answer, reason, events)
    select id, claimed_at, 'due', 'no answer within 30 seconds (ReadTimeout)', events
      from aggregator.claim where id %% 100 = 0
    """,
    """
    insert into aggregator.pass (meter_id, kind, span, goal, started_at, seconds, rows, changed, planned, epoch, fingerprint,
                                 since, times)
    select %(meter)s, 'live', tstzrange(start, start + interval '1 hour'), tstzrange(start, start + interval '1 hour'),
           start + interval '65 min' + again * interval '5 min', 1, %(customers)s, (1 - again) * %(customers)s,
           (1 - again) * %(customers)s, 2 * hour + again, 'f', null, case again when 0 then 1 else 10 end
      from generate_series(0, %(hours)s - 1) as hour cross join generate_series(0, 1) as again
     cross join lateral (select %(since)s::timestamptz + hour * interval '1 hour' as start) as its
     order by hour, again
    """,
    """
    insert into aggregator.evidence (meter_id, window_start, pass_id, rows, quantity, checksum)
    select %(meter)s, %(since)s::timestamptz + hour * interval '1 hour', 2 * hour + 1, %(customers)s, %(customers)s, hour
      from generate_series(0, %(hours)s - 1) as hour
    """,
    """
    insert into aggregator.usage_day (feed_id, day, changed_at, made_at)
    select %(feed)s, day, day + interval '26 hours', case when day < %(until)s::timestamptz - interval '2 days'
                                                          then day + interval '28 hours' end
      from (select distinct date_trunc('day', window_start, 'UTC') as day from aggregator.evidence) as days
    """,
    """
    insert into aggregator.usage_of_hour (feed_id, day, hour, slots, quantity, total, shadow)
    select %(feed)s, day, window_start, rows, rows, rows, 0
      from aggregator.evidence
      join aggregator.usage_day on day = date_trunc('day', window_start, 'UTC') and made_at is not null
    """,
    """
    insert into aggregator.usage_of_combination (feed_id, day, combination, quantity, total, shadow)
    select feed_id, day, 0, sum(quantity), sum(total), 0 from aggregator.usage_of_hour group by 1, 2
    """,
    """
    insert into aggregator.usage_of_day (feed_id, day, customer, quantity, total, shadow)
    select %(feed)s, day, name, 24, 24, 0 from aggregator.usage_day cross join public.grown_customer
     where made_at is not null order by 1, 2, 3
    """,
    """
    insert into aggregator.lateness (meter_id, day, seconds, slots, quantity)
    select %(meter)s, day::date, seconds, 1000, 1000
      from aggregator.usage_day cross join (values (0), (3600), (86400)) as late (seconds)
     where day > %(until)s::timestamptz - interval '35 days'
    """,
    """
    insert into aggregator.pass_count (meter_id, kind, failed, passes, seconds, rows, planned)
    select %(meter)s, 'live', false, %(hours)s * 11, %(hours)s, %(hours)s::bigint * %(customers)s,
           %(hours)s::bigint * %(customers)s
    """,
    """
    insert into aggregator.verdict_count (feed_id, part, accepted, refused, in_doubt, due)
    select %(feed)s, part, %(hours)s::bigint * %(customers)s / 16, 0, 0, 0 from generate_series(0, 15) as part
    """,
    "select setval('aggregator.event_id', (select max(id) + 1 from aggregator.event_at_rest))",
    "update aggregator.meter set mark = %(until)s, hourly_at = %(until)s, daily_at = %(until)s where id = %(meter)s",
    "update aggregator.feed set read_until = %(until)s, cleared_until = 1::bigint << 62 where meter_id = %(meter)s",
)
"""Beside slots and events, whatever else a year of passes and claims leaves behind."""


class Grown(NamedTuple):
    """What was made: whose windows, from when on and until when, of how many customers."""

    lease: Lease
    since: dt.datetime
    until: dt.datetime
    customers: int

    @property
    def feed(self) -> int:
        """The one feed."""
        return self.lease.registered.feeds[0].id

    @property
    def sink(self) -> int:
        """The one sink."""
        return self.lease.registered.feeds[0].sink_id


def grow(
    connection: psycopg.Connection[Any],
    meters: Meters,
    events: int,
    customers: int,
    until: dt.datetime,
    name: str = "api_requests",
) -> Grown:
    """Fill an empty ledger with so many events, up to a window's start, and take its meter. The connection autocommits."""
    hours = events // customers
    since = until - hours * HOUR
    registered = meters.register([_meter(name, since)])[name]
    [feed] = registered.feeds
    values = {
        "customers": customers,
        "hours": hours,
        "old": OLD,
        "since": since,
        "until": until,
        "feed": feed.id,
        "sink": feed.sink_id,
        "meter": registered.id,
        "at_once": CLAIMED_AT_ONCE,
    }
    connection.execute("set session_replication_role = replica")
    connection.execute("set synchronous_commit = off")
    connection.execute("set timezone = 'UTC'")
    connection.execute(CUSTOMERS, values)
    step = max(1, 500_000 // customers)
    for begins in range(0, hours, step):
        connection.execute(EVENTS, {**values, "from": begins, "to": min(begins + step, hours)})
    for statement in REST:
        connection.execute(statement.encode(), values)
    connection.execute("set session_replication_role = default")
    connection.execute("vacuum (analyze)")
    lease = meters.acquire(registered)
    assert lease is not None, "nobody else has a meter that was made just now"
    return Grown(lease, since, until, customers)


def customers_of(connection: psycopg.Connection[Any]) -> list[str]:
    """Return the customers, in their order."""
    return [name for (name,) in connection.execute("select name from public.grown_customer order by number")]


def _meter(name: str, since: dt.datetime) -> Meter:
    return Meter(
        name=name,
        source="app",
        query="",
        fingerprint="f",
        sinks=(SINK,),
        window=HOUR,
        start_at=since,
        delay=dt.timedelta(minutes=5),
        revisit=dt.timedelta(days=35),
    )
