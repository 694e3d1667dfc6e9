"""What of the accepted events was compared with the sinks' totals, what is still to be, and what differed.

Rules
- Every claim is looked through once, in its order: the events in it that the sink took are to be compared, by customer. What
  was not settled yet stops the look, so that nothing is passed over.
- What was compared is struck off only as it was listed: what came meanwhile is compared again.
- What differs is kept until it is compared again, each combination of dimensions by itself where the sink tells them apart.
  Nothing is put right by this.
"""

import datetime as dt
from collections.abc import Sequence
from decimal import Decimal
from typing import NamedTuple

from psycopg.types.json import Jsonb

from aggregator.core import dimensions as apart_by
from aggregator.core.dimensions import Dimensions
from aggregator.core.notifications import late_since
from aggregator.ledger.database import Part

CLAIMS_AT_ONCE = 500
"""How many claims are looked through at once: a quarter of a million events, in a second or two."""

BEGIN = """
insert into aggregator.checking (sink_id) values (%(sink)s) on conflict do nothing
"""

HOLD = "select listed_claim from aggregator.checking where sink_id = %(sink)s for update"

NEXT_CLAIMS = """
select id from aggregator.claim
 where sink_id = %(sink)s and id > %(listed)s and claimed_at <= %(until)s
   and id < coalesce((select min(id) from aggregator.claim where sink_id = %(sink)s and settled_at is null),
                     9223372036854775807)
 order by id limit %(limit)s
"""

# An event counts with the claim that brought it through; one that a read-back settled was compared by that already.
# In the order of the key, so that two who list do not wait for each other.
LIST = """
with sent as (
    select event.feed_id, event.customer, min(claim.claimed_at) as since, min(event.window_start) as first_window,
           max(event.window_start) as last_window, count(*) as events, bool_or(event.attempts > 1) as suspicious
      from aggregator.claim cross join lateral unnest(claim.events) as sent (id)
      join aggregator.event on event.id = sent.id
      join aggregator.feed on feed.id = event.feed_id
     where claim.id = any(%(claims)s) and feed.sink_id = %(sink)s and event.state in ('accepted', 'confirmed')
       and (claim.id, event.id) not in (select claim_id, unnest(events) from aggregator.attempt
                                         where claim_id = any(%(claims)s))
     group by 1, 2
), added as (
    insert into aggregator.unchecked (feed_id, customer, since, first_window, last_window, events, suspicious, next_at)
    select feed_id, customer, since, first_window, last_window, events,
           suspicious or exists (select from aggregator.drift
                                  where drift.feed_id = sent.feed_id and drift.customer = sent.customer), %(now)s
      from sent order by feed_id, customer
        on conflict (feed_id, customer) do update
       set since = least(unchecked.since, excluded.since),
           first_window = least(unchecked.first_window, excluded.first_window),
           last_window = greatest(unchecked.last_window, excluded.last_window),
           events = unchecked.events + excluded.events, suspicious = unchecked.suspicious or excluded.suspicious
)
select coalesce(sum(events), 0)::bigint from sent
"""

LISTED = """
update aggregator.checking set listed_claim = %(claim)s, listed = listed + %(events)s where sink_id = %(sink)s
"""

# Suspicious customers first, then by the age of what is unchecked; of one feed at a time, since a range is read at once.
DUE = """
with first as (
    select unchecked.feed_id from aggregator.unchecked join aggregator.feed on feed.id = unchecked.feed_id
     where feed.sink_id = %(sink)s and unchecked.feed_id = any(%(feeds)s) and next_at <= %(now)s
     order by unchecked.suspicious desc, unchecked.since limit 1
)
select feed_id, customer, since, first_window, last_window, events, suspicious
  from aggregator.unchecked
 where feed_id = (select feed_id from first) and next_at <= %(now)s
 order by suspicious desc, since, customer limit %(limit)s
"""

STRIKE_OFF = """
with gone as (
    delete from aggregator.unchecked
     using unnest(%(customers)s::text[], %(events)s::bigint[]) as done (customer, events)
     where unchecked.feed_id = %(feed)s and unchecked.customer = done.customer collate "C" and unchecked.events = done.events
    returning unchecked.events
)
update aggregator.checking
   set checked = checked + (select coalesce(sum(events), 0) from gone)::bigint, checked_at = %(now)s
 where sink_id = (select sink_id from aggregator.feed where id = %(feed)s)
"""

PUT_OFF = """
update aggregator.unchecked set next_at = %(next_at)s
 where feed_id = %(feed)s and customer = any(%(customers)s)
"""

FORGET = """
delete from aggregator.drift
 where feed_id = %(feed)s and customer = any(%(customers)s)
   and window_start >= %(start)s and window_start < %(end)s
"""

FOUND = """
insert into aggregator.drift
       (feed_id, customer, window_start, window_end, cause, amount, reason, found_at, combination, dimensions)
values (%(feed)s, %(customer)s, %(start)s, %(end)s, %(cause)s, %(amount)s, %(reason)s, %(found_at)s, %(combination)s,
        %(dimensions)s)
    on conflict (feed_id, customer, window_start, combination, cause) do update
   set amount = excluded.amount, reason = excluded.reason
"""

LATE = "select late_since from aggregator.checking where sink_id = %(sink)s and late_since is not null"

COVERAGE = """
select sink.name, checking.listed, checking.checked, checking.checked_at, left_over.since, coalesce(left_over.customers, 0),
       coalesce(left_over.events, 0)::bigint, coalesce(found.places, 0), coalesce(found.lacks, 0), coalesce(found.beyond, 0)
  from aggregator.checking
  join aggregator.sink on sink.id = checking.sink_id
  left join lateral (
        select min(unchecked.since) as since, count(*) as customers, sum(unchecked.events) as events
          from aggregator.unchecked join aggregator.feed on feed.id = unchecked.feed_id
         where feed.sink_id = checking.sink_id
       ) as left_over on true
  left join lateral (
        select count(*) as places, sum(drift.amount) filter (where drift.amount > 0) as lacks,
               -sum(drift.amount) filter (where drift.amount < 0) as beyond
          from aggregator.drift join aggregator.feed on feed.id = drift.feed_id
         where feed.sink_id = checking.sink_id
       ) as found on true
 order by sink.name
"""

DRIFT = """
select meter.name, sink.name, drift.customer, drift.window_start, drift.window_end, drift.cause, drift.amount, drift.reason,
       drift.found_at, drift.dimensions
  from aggregator.drift
  join aggregator.feed on feed.id = drift.feed_id
  join aggregator.meter on meter.id = feed.meter_id
  join aggregator.sink on sink.id = feed.sink_id
 order by drift.found_at, drift.feed_id, drift.customer, drift.window_start, drift.combination limit %(limit)s
"""


class Unchecked(NamedTuple):
    """A customer of whom events were accepted and not compared yet."""

    feed: int
    customer: str
    since: dt.datetime
    """When the oldest of them was sent."""
    first_window: dt.datetime
    last_window: dt.datetime
    events: int
    suspicious: bool
    """Whether one of them was sent more than once, or something of the customer differed before."""


class Drift(NamedTuple):
    """Something that differs from what a sink has: whose it is, and since when it is known."""

    meter: str
    sink: str
    customer: str
    start: dt.datetime
    end: dt.datetime
    cause: str
    amount: Decimal
    reason: str
    found_at: dt.datetime
    dimensions: Dimensions = ()
    """Of which combination it is; empty where the sum of all was compared."""

    @property
    def combination(self) -> str:
        """The same as people read it."""
        return apart_by.shown(self.dimensions)


class Coverage(NamedTuple):
    """How much of what a sink accepted was compared with its totals."""

    sink: str
    listed: int
    """Accepted events whose totals must be there by now."""
    checked: int
    checked_at: dt.datetime | None
    oldest: dt.datetime | None
    """When the oldest event was sent that was not compared yet; None if all were."""
    customers: int
    """Of how many customers something was not compared yet."""
    unchecked: int
    places: int
    """Differences that are known."""
    lacks: Decimal
    """What the sink has too little by them."""
    beyond: Decimal
    """What it has too much."""


class Checks(Part):
    """The verbs about what was compared. Each is one short transaction."""

    def list_sent(self, sink_id: int, until: dt.datetime, now: dt.datetime) -> bool:
        """List what was sent up to an instant and taken since; tell whether there is more to list."""
        values = {"sink": sink_id, "until": until, "now": now, "limit": CLAIMS_AT_ONCE}
        with self._database.transaction() as connection:
            connection.execute(BEGIN, values)
            [(listed,)] = connection.execute(HOLD, values).fetchall()
            claims = [
                row[0] for row in connection.execute(NEXT_CLAIMS, {**values, "listed": listed}).fetchall()
            ]
            if claims:
                [(events,)] = connection.execute(LIST, {**values, "claims": claims}).fetchall()
                connection.execute(LISTED, {**values, "claim": claims[-1], "events": events})
        return len(claims) == CLAIMS_AT_ONCE

    def due(self, sink_id: int, feeds: Sequence[int], now: dt.datetime, limit: int) -> list[Unchecked]:
        """Return the customers of one feed that are to be compared next."""
        values = {"sink": sink_id, "feeds": list(feeds), "now": now, "limit": limit}
        return [Unchecked._make(row) for row in self._rows(DUE, values)]

    def compared(
        self,
        feed: int,
        done: Sequence[Unchecked],
        span: tuple[dt.datetime, dt.datetime],
        found: Sequence[Drift],
        now: dt.datetime,
    ) -> None:
        """Strike off customers that were compared over a span, and keep what differs there in place of what did."""
        compared = {
            "feed": feed,
            "customers": [each.customer for each in done],
            "events": [each.events for each in done],
            "start": span[0],
            "end": span[1],
            "now": now,
        }
        with self._database.transaction() as connection:
            connection.execute(STRIKE_OFF, compared)
            connection.execute(FORGET, compared)
            for each in found:
                number, named = apart_by.number(each.dimensions), Jsonb(dict(each.dimensions))
                values = {**each._asdict(), "feed": feed, "combination": number, "dimensions": named}
                connection.execute(FOUND, values)

    def put_off(self, feed: int, customers: Sequence[str], next_at: dt.datetime) -> None:
        """Compare customers later: nothing can be concluded of them yet."""
        self._run(PUT_OFF, {"feed": feed, "customers": list(customers), "next_at": next_at})

    def late(self, sink_id: int) -> str | None:
        """Say that the sink says its totals are late; None if it does not."""
        row = self._row(LATE, {"sink": sink_id})
        return late_since(row[0]) if row else None

    def coverage(self) -> list[Coverage]:
        """Return how much of what each sink accepted was compared."""
        return [Coverage._make(row) for row in self._rows(COVERAGE)]

    def drift(self, limit: int) -> list[Drift]:
        """Return what is known to differ, the longest known first."""
        return [
            Drift._make((*row, apart_by.of_mapping(named)))
            for *row, named in self._rows(DRIFT, {"limit": limit})
        ]
