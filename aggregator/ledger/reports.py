"""What the ledger says of itself: for `status`, for proofs, and for whoever asks why a number is what it is.

Everything shown is derived from rows that were committed with what they count; no counter is kept beside them.
"""

import datetime as dt
from collections.abc import Collection, Iterator
from decimal import Decimal
from typing import NamedTuple

from aggregator.core.lateness import Late
from aggregator.core.model import ZERO, Span
from aggregator.ledger.database import Part, streamed

STATUS = """
select meter.name, sink.name, meter.mark, meter.start_at, meter.window_seconds,
       coalesce(waiting.due, 0), coalesce(waiting.sending, 0), waiting.oldest,
       coalesce(parked.held, 0), coalesce(parked.refused, 0), coalesce(parked.in_doubt, 0),
       coalesce(unmapped.rows, 0)::bigint, coalesce(unmapped.quantity, 0),
       last.started_at, failed.error, failed.started_at, sink.halted_reason,
       meter.waits_for, meter.waits_since, meter.unfenced_at, meter.silent_since,
       (select count(*) from aggregator.unread where unread.meter_id = meter.id),
       (select count(*) from aggregator.guarded where guarded.meter_id = meter.id),
       exists (select from aggregator.unstable
                where unstable.meter_id = meter.id and unstable.fingerprint = meter.fingerprint),
       feed.since, feed.until, feed.shadow and not feed.parted, feed.shadow_until, lower(feed.lost), upper(feed.lost),
       case when feed.until is not null
            then (select max(window_start) from aggregator.slot
                   where slot.feed_id = feed.id and window_start >= feed.until and tail is not null) end,
       feed.stopped_reason, feed.stopped_at, feed.cleared_at, feed.cleared_by, feed.parted
  from aggregator.feed
  join aggregator.meter on meter.id = feed.meter_id
  join aggregator.sink on sink.id = feed.sink_id
  left join (
        select feed_id, count(*) filter (where claim_id is null) as due,
               count(*) filter (where claim_id is not null) as sending, min(due_at) as oldest
          from aggregator.outbox group by feed_id
       ) as waiting on waiting.feed_id = feed.id
  left join (
        select feed_id, count(*) filter (where state = 'held') as held,
               count(*) filter (where state = 'refused') as refused,
               count(*) filter (where state = 'in_doubt') as in_doubt
          from aggregator.parked where dismissed_at is null group by feed_id
       ) as parked on parked.feed_id = feed.id
  left join (
        select meter_id, sum(rows) as rows, sum(quantity) as quantity from aggregator.unmapped group by meter_id
       ) as unmapped on unmapped.meter_id = meter.id
  left join lateral (
        select started_at, id from aggregator.pass where meter_id = meter.id order by id desc limit 1
       ) as last on true
  left join lateral (
        select started_at, error from aggregator.pass
         where meter_id = meter.id and id = last.id and error is not null
       ) as failed on true
 order by meter.name, sink.name
"""

UNMAPPED = """
select meter.name, reason, customer, sum(rows)::bigint, sum(quantity), min(window_start), max(window_start)
  from aggregator.unmapped join aggregator.meter on meter.id = unmapped.meter_id
 group by 1, 2, 3 order by 4 desc limit %(limit)s
"""

TOTALS = """
select slot.customer, sum(slot.quantity),
       sum(slot.total) - coalesce(sum(unsent.parked), 0) - coalesce(sum(unsent.shadow), 0),
       coalesce(sum(unsent.parked), 0), coalesce(sum(unsent.shadow), 0)
  from aggregator.slot
  join aggregator.feed on feed.id = slot.feed_id
  join aggregator.meter on meter.id = feed.meter_id
  join aggregator.sink on sink.id = feed.sink_id
  left join lateral (
        select sum(event.delta) filter (where event.state <> 'shadow') as parked,
               sum(event.delta) filter (where event.state = 'shadow') as shadow
          from aggregator.events_of(slot.id, slot.revision > 1) as event
         where event.state in ('held', 'refused', 'in_doubt', 'shadow')
       ) as unsent on true
 where meter.name = %(meter)s and sink.name = %(sink)s
   and slot.window_start >= %(start)s and slot.window_start < %(end)s
 group by slot.customer order by slot.customer
"""

# The day is worked out once, and not for each row.
LATENESS = """
select meter.name, seconds, slots::bigint, quantity
  from (select meter_id, seconds, sum(slots) as slots, sum(quantity) as quantity
          from aggregator.lateness where day >= (select %(since)s::timestamptz::date) group by 1, 2) as late
  join aggregator.meter on meter.id = late.meter_id
 order by 1, 2
"""

UNREAD = """
select meter.name, window_start, reason, since, tries, next_at
  from aggregator.unread join aggregator.meter on meter.id = unread.meter_id
 order by since limit %(limit)s
"""

# Another process works by another configuration: what it reads is not removed. It was read lately, and since one without it
# was taken over; right after a meter is taken away, none was.
READ_ELSEWHERE = """
exists (select from aggregator.pass as last
         where last.id = (select max(id) from aggregator.pass where meter_id = meter.id)
           and last.started_at > %(now)s::timestamptz
                                 - greatest(interval '1 hour', 4 * meter.window_seconds * interval '1 second')
           and exists (select from aggregator.configuration
                        where not configuration.meters ? meter.name and configuration.loaded_at < last.started_at))
"""

UNCONFIGURED_METERS = f"""
select meter.name, meter.mark,
       (select count(*) from aggregator.outbox join aggregator.feed on feed.id = outbox.feed_id
         where feed.meter_id = meter.id),
       (select count(*) from aggregator.parked join aggregator.feed on feed.id = parked.feed_id
         where feed.meter_id = meter.id and parked.dismissed_at is null)
  from aggregator.meter
 where not (meter.name = any(%(names)s)) and meter.mark > %(billable)s and not {READ_ELSEWHERE}
 order by meter.name
"""  # noqa: S608 - our own text

# What nothing in a configuration would send: its feeds are looked up first, and are few.
UNCONFIGURED = f"""
select feed.id, meter.name, sink.name, count(*), sum(outbox.delta), min(outbox.planned_at), min(outbox.window_start)
  from aggregator.feed
  join aggregator.meter on meter.id = feed.meter_id
  join aggregator.sink on sink.id = feed.sink_id
  join aggregator.outbox on outbox.feed_id = feed.id
 where not exists (select from unnest(%(meters)s::text[], %(sinks)s::text[]) as known (meter, sink)
                    where known.meter = meter.name and known.sink = sink.name)
   and not (meter.name <> all(%(meters)s) and {READ_ELSEWHERE})
 group by 1, 2, 3 order by 2, 3
"""  # noqa: S608 - the same

# How fast a sink took events lately, by the claims that were answered in full.
PACES = """
select sink.name, waiting.events, waiting.backfill, lately.per_second
  from aggregator.sink
  join (select sink_id, count(*) as events, count(*) filter (where backfill) as backfill
          from aggregator.outbox where due_at <= %(now)s or claim_id is not null group by sink_id
       ) as waiting on waiting.sink_id = sink.id
  left join lateral (
        select sum(cardinality(claim.events))
               / nullif(extract(epoch from max(claim.settled_at) - min(claim.claimed_at)), 0)::float as per_second
          from aggregator.claim
         where claim.sink_id = sink.id and claim.claimed_at > %(since)s and claim.settled_at is not null
       ) as lately on true
 order by sink.name
"""

KNOWN_EVENTS = """
select count(*) from aggregator.event
  join aggregator.feed on feed.id = event.feed_id
  join aggregator.meter on meter.id = feed.meter_id
 where meter.name = %(meter)s and event.window_start >= %(start)s and event.window_start < %(end)s
   and event.state <> 'void'
"""


# The most usual first: what lacks most.
SILENT_CUSTOMERS = """
select meter.name, customer, since, usual, count(*) over (partition by meter.id)
  from aggregator.silent_customer join aggregator.meter on meter.id = silent_customer.meter_id
 order by usual desc, meter.name, customer limit %(limit)s
"""


class FeedStatus(NamedTuple):
    """How one meter stands with one sink."""

    meter: str
    sink: str
    mark: dt.datetime
    start_at: dt.datetime
    window_seconds: int
    due: int
    sending: int
    oldest_due_at: dt.datetime | None
    held: int
    refused: int
    in_doubt: int
    unmapped_rows: int
    unmapped_quantity: Decimal
    last_run_at: dt.datetime | None
    error: str | None
    error_at: dt.datetime | None
    halted: str | None
    waits_for: str | None
    """What in the source keeps windows waiting that have settled; since when; when one was last read in spite of it."""
    waits_since: dt.datetime | None
    unfenced_at: dt.datetime | None
    silent_since: dt.datetime | None
    """Since when it has had no usage, if it always had some before."""
    unread: int
    """Windows that the source could not give."""
    guarded: int
    """Windows that shrank so much that a second reading must confirm it."""
    unstable: bool
    """Whether its query is proven to give another number each time it is read."""
    since: dt.datetime
    """Only windows from here on go through this feed, and only those before `until`."""
    until: dt.datetime | None
    shadow: bool
    """Whether nothing of it is sent; `shadow_until`, up to where the meter had been read when that ended."""
    shadow_until: dt.datetime | None
    lost_from: dt.datetime | None
    """From where, and until where, it lacks windows that the source no longer has."""
    lost_until: dt.datetime | None
    last_beyond: dt.datetime | None
    """The last window at or after `until` that was planned before the feed had that end."""
    stopped: str | None
    """What the sink holds that this ledger never sent, so that nothing is sent to it; and since when."""
    stopped_at: dt.datetime | None
    cleared_at: dt.datetime | None
    """Since when all of it may be sent, and who or what said so; None while the sink is still to be asked."""
    cleared_by: str | None
    parted: bool = False
    """Whether customers move to it, or away, at times of their own."""


class SilentCustomer(NamedTuple):
    """A customer without usage that had some at this hour in every week before."""

    meter: str
    customer: str
    since: dt.datetime
    usual: Decimal
    """The least that it had then."""
    of: int
    """How many customers of the meter are silent."""


class Unread(NamedTuple):
    """A window that the source could not give."""

    meter: str
    window_start: dt.datetime
    reason: str
    since: dt.datetime
    tries: int
    next_at: dt.datetime


class UnconfiguredMeter(NamedTuple):
    """A meter that the ledger knows and the configuration does not, though it has windows that can still be billed."""

    meter: str
    mark: dt.datetime
    waiting: int
    parked: int


class Unconfigured(NamedTuple):
    """What waits to be sent of a meter, or to a sink, that a configuration does not have."""

    feed: int
    meter: str
    sink: str
    events: int
    units: Decimal
    since: dt.datetime
    """When the oldest of them was planned."""
    first_window: dt.datetime


class Backlog(NamedTuple):
    """What waits at a sink, how much of it a backfill planned, and how many events a second it took lately, if any."""

    sink: str
    events: int
    backfill: int
    per_second: float | None


class Unmapped(NamedTuple):
    """What the source said that can be billed to nobody."""

    meter: str
    reason: str
    customer: str | None
    rows: int
    quantity: Decimal | None
    first_window: dt.datetime
    last_window: dt.datetime


class Total(NamedTuple):
    """What the ledger holds for one customer: what was read, what is billed, what waits for a person, what is never sent."""

    customer: str
    quantity: Decimal
    billed: Decimal
    parked: Decimal
    shadow: Decimal = ZERO


class Reports(Part):
    """The questions that can be asked of a ledger. Nothing here writes."""

    def status(self) -> list[FeedStatus]:
        """Return how every meter stands with every sink it feeds."""
        return [FeedStatus._make(row) for row in self._rows(STATUS)]

    def unmapped(self, limit: int = 20) -> list[Unmapped]:
        """Return what could be billed to nobody, the most rows first."""
        return [Unmapped._make(row) for row in self._rows(UNMAPPED, {"limit": limit})]

    def lateness(self, since: dt.datetime) -> dict[str, dict[int, Late]]:
        """Return, by meter, how late usage was found since a day, in steps of seconds; what was in time stands under 0."""
        found: dict[str, dict[int, Late]] = {}
        for meter, seconds, *late in self._rows(LATENESS, {"since": since}):
            found.setdefault(meter, {})[seconds] = Late._make(late)
        return found

    def silent_customers(self, limit: int = 20) -> list[SilentCustomer]:
        """Return the customers that have fallen silent, those first that used most."""
        return [SilentCustomer._make(row) for row in self._rows(SILENT_CUSTOMERS, {"limit": limit})]

    def unread(self, limit: int = 20) -> list[Unread]:
        """Return the windows that the source could not give, the oldest trouble first."""
        return [Unread._make(row) for row in self._rows(UNREAD, {"limit": limit})]

    def unconfigured_meters(
        self, names: Collection[str], billable: dt.datetime, now: dt.datetime | None = None
    ) -> list[UnconfiguredMeter]:
        """Return the meters that are not among these names and were read beyond `billable`: they had windows since.

        With `now`, those that another process reads are left out.
        """
        values = {"names": list(names), "billable": billable, "now": now}
        return [UnconfiguredMeter._make(row) for row in self._rows(UNCONFIGURED_METERS, values)]

    def unconfigured(
        self, feeding: Collection[tuple[str, str]], now: dt.datetime | None = None
    ) -> list[Unconfigured]:
        """Return what waits to be sent that is of none of these meters and sinks, by meter and sink.

        With `now`, what is of a meter that another process reads is left out: that sends it.
        """
        meters, sinks = [meter for meter, _ in feeding], [sink for _, sink in feeding]
        values = {"meters": meters, "sinks": sinks, "now": now}
        return [Unconfigured._make(row) for row in self._rows(UNCONFIGURED, values)]

    def backlogs(self, since: dt.datetime, now: dt.datetime) -> list[Backlog]:
        """Return what waits at each sink, and how fast it took events since an instant."""
        rows = self._rows(PACES, {"since": since, "now": now})
        return [Backlog._make(row) for row in rows]

    def totals(self, meter: str, sink: str, span: Span) -> Iterator[Total]:
        """Yield what the ledger holds per customer over a span of whole windows, in the order of customers."""
        values = {"meter": meter, "sink": sink, "start": span.start, "end": span.end}
        with self._database.transaction() as connection:
            yield from map(Total._make, streamed(connection, TOTALS, values))

    def known_events(self, meter: str, span: Span) -> int:
        """Return how many events the ledger has for a span: what a backfill of it would find done already."""
        values = {"meter": meter, "start": span.start, "end": span.end}
        row = self._row(KNOWN_EVENTS, values)
        assert row is not None
        return int(row[0])
