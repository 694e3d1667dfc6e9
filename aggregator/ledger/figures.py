"""What the ledger says of itself in numbers, for whoever asks again and again: monitoring.

Rules
- Nothing here looks through events or slots: what only grows is counted as it is written (`pass_count`, `verdict_count`),
  and what waits is found through the outbox and through what is parked, which are what there is left to do.
- The events that wait are looked up by their key, whatever the server believes of the size of its tables. Of a million that
  takes half a second, and some megabytes of the server's.
- What waits is one statement's word, so an event is counted in one state, however fast it moves on.
"""

import datetime as dt
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from operator import itemgetter
from typing import Any, NamedTuple, TypeVar

from aggregator.ledger.archives import OLD, Old
from aggregator.ledger.database import Connection, Part
from aggregator.ledger.review.checks import COVERAGE, Coverage

# What few meters have is looked up once for all of them.
METERS = """
select meter.name, meter.mark, meter.silent_since, meter.waits_since, last.started_at, coalesce(last.failed, false),
       coalesce(unread.windows, 0), coalesce(guarded.windows, 0), unstable.meter_id is not null
  from aggregator.meter
  left join (select meter_id, count(*) as windows from aggregator.unread group by 1) as unread on unread.meter_id = meter.id
  left join (select meter_id, count(*) as windows from aggregator.guarded group by 1) as guarded
    on guarded.meter_id = meter.id
  left join aggregator.unstable on unstable.meter_id = meter.id and unstable.fingerprint = meter.fingerprint
  left join lateral (
        select started_at, error is not null as failed from aggregator.pass
         where meter_id = meter.id order by id desc limit 1
       ) as last on true
 order by meter.name
"""

# Counted up before anything is joined: each figure stands in many rows.
FEEDS = """
select meter.name, sink.name, feed.stopped_at is not null, coalesce(counted.accepted, 0), coalesce(counted.refused, 0),
       coalesce(counted.in_doubt, 0), coalesce(counted.due, 0)
  from aggregator.feed
  join aggregator.meter on meter.id = feed.meter_id
  join aggregator.sink on sink.id = feed.sink_id
  left join (select feed_id, sum(accepted)::bigint as accepted, sum(refused)::bigint as refused,
                    sum(in_doubt)::bigint as in_doubt, sum(due)::bigint as due
               from aggregator.verdict_count group by feed_id) as counted on counted.feed_id = feed.id
 order by meter.name, sink.name
"""

SINKS = "select name, halted_at from aggregator.sink order by name"

PASSES = """
select meter.name, kind, failed, passes, seconds, rows, planned
  from aggregator.pass_count join aggregator.meter on meter.id = pass_count.meter_id
 order by meter.name, kind, failed
"""

STOPPED = "select stopped_at is not null from aggregator.identity"

WAITING = """
with summed as (
    select feed_id, case when claim_id is null then 'due' else 'sending' end as state, count(*) as events,
           sum(delta) as units, min(planned_at) as oldest, min(at) as first_use, min(exposed_at) as first_sent
      from aggregator.outbox group by 1, 2
     union all
    select parked.feed_id, parked.state::text, count(*), sum(event.delta), min(parked.since), min(event.at),
           min(event.exposed_at)
      from aggregator.parked
     cross join lateral (select * from aggregator.event where event.id = parked.event_id offset 0) as event
     where parked.dismissed_at is null
     group by 1, 2
)
select meter.name, sink.name, summed.state, summed.events, summed.units, summed.oldest, summed.first_use, summed.first_sent
  from summed
  join aggregator.feed on feed.id = summed.feed_id
  join aggregator.meter on meter.id = feed.meter_id
  join aggregator.sink on sink.id = feed.sink_id
"""

LATENESS = """
select meter.name, late.seconds, late.slots
  from (select meter_id, seconds, sum(slots)::bigint as slots
          from aggregator.lateness where day >= %(day)s group by 1, 2) as late
  join aggregator.meter on meter.id = late.meter_id
"""

UNMAPPED = """
select meter.name, case when waits then 'without_id' else 'unusable' end, sum(rows)::bigint, coalesce(sum(quantity), 0)
  from aggregator.unmapped join aggregator.meter on meter.id = unmapped.meter_id
 group by 1, 2 order by 1, 2
"""


# What waits for a customer's id is unmapped as well, and has a cliff of its own.
WITHOUT_ID = """
select meter.name, sum(unmapped.quantity), min(window_start)
  from aggregator.unmapped join aggregator.meter on meter.id = unmapped.meter_id
 where unmapped.waits group by 1 order by 1
"""

RECOUNTS = """
select meter.name, missed, taken_back, differed_at
  from aggregator.cursor join aggregator.meter on meter.id = cursor.meter_id order by 1
"""

MISSED = """
select meter.name, missed, missed_at, since
  from aggregator.touched join aggregator.meter on meter.id = touched.meter_id order by 1
"""

REVISITS = """
select meter.name, count(*), sum(readings)::bigint, sum(rows)::bigint, sum(seconds)
  from aggregator.reading_cost join aggregator.meter on meter.id = meter_id
 where old and day >= %(now)s::timestamptz::date - 7 and day < %(now)s::timestamptz::date
 group by 1 order by 1
"""

# Samples are few and found by their instants. What counts of a gap is what lies within the time that is looked at.
SAMPLES = """
select asked.meter, last.at, coalesce(gaps.missing, interval '0')
  from unnest(%(meters)s::text[], %(stands)s::interval[]) as asked (meter, stands)
  join aggregator.meter on meter.name = asked.meter
  join lateral (select max(at) as at from aggregator.sampling where meter_id = meter.id) as last on last.at is not null
  left join lateral (
        select sum(at - greatest(before, %(since)s::timestamptz)) as missing
          from (select at, lag(at) over (order by at) as before from aggregator.sampling
                 where meter_id = meter.id
                   and at >= coalesce((select max(at) from aggregator.sampling as earlier
                                        where earlier.meter_id = meter.id and earlier.at <= %(since)s), %(since)s)
               ) as followed
         where at - before > asked.stands) as gaps on true
 order by 1
"""


class MeterFigures(NamedTuple):
    """How one meter is read."""

    meter: str
    mark: dt.datetime
    silent_since: dt.datetime | None
    waits_since: dt.datetime | None
    """Since when a window waits for the source's transactions."""
    last_pass_at: dt.datetime | None
    failing: bool
    """Whether its last pass failed."""
    unread: int
    guarded: int
    unstable: bool


class FeedFigures(NamedTuple):
    """One meter's line into one sink, and how many attempts at its events ended in each state."""

    meter: str
    sink: str
    stopped: bool
    """Whether the sink holds what this ledger never sent."""
    accepted: int = 0
    refused: int = 0
    in_doubt: int = 0
    due: int = 0
    """To be sent again."""


class SinkFigures(NamedTuple):
    """Since when a sink refuses us as a whole, if it does."""

    sink: str
    halted_at: dt.datetime | None


class PassFigures(NamedTuple):
    """How many passes of a kind a meter had, and what they came to."""

    meter: str
    kind: str
    failed: bool
    passes: int
    seconds: float
    rows: int
    planned: int


class WaitingFigures(NamedTuple):
    """What of a feed waits in one state."""

    meter: str
    sink: str
    state: str
    events: int
    units: Decimal
    oldest_at: dt.datetime
    """Since when the oldest waits: since it was planned, or since it is parked."""
    first_use_at: dt.datetime
    """The earliest instant at which any of it was used: a sink takes no event that is too old."""
    first_sent_at: dt.datetime | None
    """When the first attempt began, of those that may have arrived."""


class Progress(NamedTuple):
    """What the ledger has done, and how it stands: everything that is cheap to tell."""

    meters: Sequence[MeterFigures]
    feeds: Sequence[FeedFigures]
    sinks: Sequence[SinkFigures]
    passes: Sequence[PassFigures]
    stopped: bool


class UnmappedFigures(NamedTuple):
    """What a meter has of rows that can be billed to nobody: as they are, or until a mapping has an id for their keys."""

    meter: str
    kind: str
    """`unusable` or `without_id`."""
    rows: int
    units: Decimal


class WithoutIdFigures(NamedTuple):
    """What of a meter waits until its mapping gives a customer, and the oldest window of that."""

    meter: str
    units: Decimal
    first_window: dt.datetime


class RecountFigures(NamedTuple):
    """What recounts of a meter found that is read by a cursor, all in all, and when they last found anything."""

    meter: str
    missed: Decimal
    taken_back: Decimal
    differed_at: dt.datetime | None


class TouchedFigures(NamedTuple):
    """In how many windows full readings of a meter found what its source had never named, and when they last did.

    `since` is up to when what it named has been read.
    """

    meter: str
    missed: int
    missed_at: dt.datetime | None
    since: dt.datetime


class RevisitCost(NamedTuple):
    """What it cost the source to be read again, of old windows, in some days."""

    meter: str
    days: int
    readings: int
    rows: int
    seconds: float


class SampleFigures(NamedTuple):
    """When a meter was last sampled, and for how long no sample stood within the time that was asked for."""

    meter: str
    sampled_at: dt.datetime
    missing: dt.timedelta


class UsageFigures(NamedTuple):
    """What the usage itself shows, and how it stands with the sinks' own totals."""

    unmapped: Sequence[UnmappedFigures]
    lateness: Mapping[str, Mapping[int, int]]
    """By meter, how many slots were found within each step of seconds; 0 for those in time."""
    coverage: Sequence[Coverage]
    without_id: Sequence[WithoutIdFigures] = ()
    recounts: Sequence[RecountFigures] = ()
    samples: Sequence[SampleFigures] = ()
    touched: Sequence[TouchedFigures] = ()
    old: Sequence[Old] = ()
    """Months that are to be archived, and are still here."""


Figure = TypeVar("Figure")


class Figures(Part):
    """The questions of monitoring. Nothing here writes."""

    def progress(self) -> Progress:
        """Return what was done, and how each meter, feed and sink stands."""
        with self._database.transaction() as connection:
            return Progress(
                _asked(connection, METERS, MeterFigures._make),
                _asked(connection, FEEDS, FeedFigures._make),
                _asked(connection, SINKS, SinkFigures._make),
                _asked(connection, PASSES, PassFigures._make),
                stopped=_asked(connection, STOPPED, tuple) == [(True,)],
            )

    def waiting(self) -> list[WaitingFigures]:
        """Return what waits, by feed and state. It takes as long as there are events that wait."""
        with self._database.transaction() as connection:
            return sorted(_asked(connection, WAITING, WaitingFigures._make), key=itemgetter(0, 1, 2))

    def usage(
        self,
        late_since: dt.datetime,
        stands: Mapping[str, dt.timedelta],
        gaps_since: dt.datetime,
        old_before: dt.datetime | None = None,
    ) -> UsageFigures:
        """Return what the usage itself shows: what waits for whom, how late it came, and what was compared or is missing.

        `stands` says of each meter that is sampled for how long a sample does. Time without one that goes on is not counted:
        `sampled_at` tells of that. Months before `old_before` are to be archived; without it, none is.
        """
        late: dict[str, dict[int, int]] = {}
        with self._database.transaction() as connection:
            for meter, seconds, slots in _asked(connection, LATENESS, tuple, {"day": _day(late_since)}):
                late.setdefault(meter, {})[seconds] = slots
            asked = {"meters": list(stands), "stands": list(stands.values()), "since": gaps_since}
            return UsageFigures(
                _asked(connection, UNMAPPED, UnmappedFigures._make),
                late,
                _asked(connection, COVERAGE, Coverage._make),
                _asked(connection, WITHOUT_ID, WithoutIdFigures._make),
                _asked(connection, RECOUNTS, RecountFigures._make),
                _asked(connection, SAMPLES, SampleFigures._make, asked) if stands else (),
                _asked(connection, MISSED, TouchedFigures._make),
                _asked(connection, OLD, Old._make, {"before": old_before}) if old_before is not None else (),
            )

    def touched(self) -> list[TouchedFigures]:
        """Return what full readings found, of each meter whose source is asked what was touched."""
        return [TouchedFigures._make(row) for row in self._rows(MISSED)]

    def revisit_costs(self, now: dt.datetime) -> list[RevisitCost]:
        """Return what old windows cost that were read again, by meter, in the last seven days that are over."""
        return [RevisitCost._make(row) for row in self._rows(REVISITS, {"now": now})]


def _asked(
    connection: Connection,
    statement: str,
    make: Callable[[Iterable[Any]], Figure],
    values: Mapping[str, object] | None = None,
) -> list[Figure]:
    """Return what is made of each row of an answer. Thousands of figures cost half as much in binary."""
    return list(map(make, connection.execute(statement, values, binary=True)))


def _day(instant: dt.datetime) -> dt.date:
    return instant.astimezone(dt.UTC).date()
