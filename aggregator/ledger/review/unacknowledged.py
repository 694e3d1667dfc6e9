"""Read-backs of what a sink took without a word on each event: asked for by themselves, stretch by stretch.

Rules
- A stretch is of the times at which events were claimed. The stretches of a feed follow one another without a gap, so that
  every event that was ever sent lies in one.
- A stretch in which nothing was found makes room for the next one: a feed that is idle leaves no heap of records.
"""

import datetime as dt
from typing import NamedTuple

from psycopg.types.range import TimestamptzRange

from aggregator.core.model import Span
from aggregator.ledger.database import Part

REASON = "no answer per event"
"""What such a read-back says of why it was asked for."""

# A feed that was never read back begins with the sink's first claim, if that was not too long ago.
UNCOVERED = """
select feed.id, meter.name,
       coalesce(
           (select max(upper(readback.span)) from aggregator.readback
             where readback.feed_id = feed.id and readback.unacknowledged),
           (select greatest(%(earliest)s, date_trunc('hour', min(claim.claimed_at))) from aggregator.claim
             where claim.sink_id = feed.sink_id having count(*) > 0)
       )
  from aggregator.feed join aggregator.meter on meter.id = feed.meter_id
 where feed.sink_id = %(sink_id)s
 order by feed.id
"""

LOCK_FEED = "select id from aggregator.feed where id = %(feed)s for no key update"

REPLACE = """
update aggregator.readback set span = %(span)s, asked_at = %(now)s, due_at = %(now)s, done_at = null, found = null,
       nothing_found = false
 where id = (select id from aggregator.readback where feed_id = %(feed)s and unacknowledged order by id desc limit 1)
   and upper(span) = %(since)s and done_at is not null and nothing_found
returning id
"""

ASK = """
insert into aggregator.readback (feed_id, span, reason, unacknowledged, asked_at, due_at)
select %(feed)s, %(span)s, %(reason)s, true, %(now)s, %(now)s
 where not exists (select from aggregator.readback
                    where feed_id = %(feed)s and unacknowledged and upper(span) > %(since)s)
returning id
"""

# What a sink that answers now was sent by a way without answers, and was not read back. A claim is known by its first and
# its last event: what lies between the first such claim and the last one is read back, whatever way it went. Claims are
# looked at first, by those two alone: mostly none went that way, and then none of the other events is looked up.
SENT_SILENTLY = """
with read as (
    select feed.id as feed_id, max(upper(readback.span)) as until
      from aggregator.feed left join aggregator.readback on readback.feed_id = feed.id and readback.unacknowledged
     where feed.sink_id = %(sink_id)s group by 1
), silent as materialized (
    select claim.claimed_at, claim.events from aggregator.claim
     where claim.sink_id = %(sink_id)s and claim.claimed_at >= %(earliest)s
       and %(transport)s in ((select transport from aggregator.event where id = claim.events[1]),
                       (select transport from aggregator.event where id = claim.events[cardinality(claim.events)]))
)
select feed.id, meter.name,
       greatest(date_trunc('hour', min(silent.claimed_at)), read.until),
       date_trunc('hour', max(silent.claimed_at)) + interval '1 hour'
  from silent
 cross join unnest(silent.events) as sent (event_id)
  join aggregator.event on event.id = sent.event_id and event.transport = %(transport)s and event.state = 'accepted'
  join aggregator.feed on feed.id = event.feed_id
  join aggregator.meter on meter.id = feed.meter_id
  join read on read.feed_id = feed.id
 where silent.claimed_at >= greatest(%(earliest)s, read.until)
 group by feed.id, meter.name, read.until order by feed.id
"""

# An event whose answer was lost goes the same way again.
UNDER_WAY = """
select exists (select from aggregator.outbox
                where sink_id = %(sink_id)s and transport = %(transport)s and exposed_at is not null)
"""

# By way of the claims, which have a time: an event may have been planned long before it was sent.
PLACES = """
select event.customer, date_trunc('hour', event.at)
  from aggregator.claim
 cross join unnest(claim.events) as sent (event_id)
  join aggregator.event on event.id = sent.event_id
 where claim.claimed_at >= %(start)s and claim.claimed_at < %(end)s
   and event.feed_id = %(feed)s and event.state = 'accepted'
 group by 1, 2 order by 1, 2 limit %(limit)s
"""


class Uncovered(NamedTuple):
    """A feed whose events have been read back up to the ones that were sent at `since`."""

    feed: int
    meter: str
    since: dt.datetime


class Unacknowledged(Part):
    """The verbs about read-backs that are asked for by themselves."""

    def uncovered(self, sink_id: int, earliest: dt.datetime) -> list[Uncovered]:
        """Return up to when each feed of a sink that gives no answer per event has been read back."""
        rows = self._rows(UNCOVERED, {"sink_id": sink_id, "earliest": earliest})
        return [Uncovered._make(row) for row in rows if row[2] is not None]

    def sent_silently(
        self, sink_id: int, transport: str, earliest: dt.datetime
    ) -> tuple[list[tuple[int, str, Span]], bool]:
        """Return which stretches of which feeds went by a way without answers, unread; and whether more may come."""
        values = {"sink_id": sink_id, "transport": transport, "earliest": earliest}
        with self._database.transaction() as connection:
            more = connection.execute(UNDER_WAY, values).fetchone()
            rows = connection.execute(SENT_SILENTLY, values).fetchall()
        return [(feed, meter, Span(start, end)) for feed, meter, start, end in rows], more == (True,)

    def ask_readback(self, feed: int, span: Span, now: dt.datetime) -> bool:
        """Ask that all that was sent through a feed in a span is read back; False if somebody else has."""
        values: dict[str, object] = {
            "feed": feed,
            "span": TimestamptzRange(*span),
            "since": span.start,
            "now": now,
            "reason": REASON,
        }
        with self._database.transaction() as connection:
            connection.execute(LOCK_FEED, values)
            return any(connection.execute(each, values).fetchone() is not None for each in (REPLACE, ASK))
