"""Samples: what counters and gauges stood at, taken once for each instant at which one is due, and kept as evidence.

Rules
- A sample is written by whoever holds the meter, in one transaction with what is known of each counter from then on. So two
  processes never take the same, and a counter's increase is never worked out from a value that another process has replaced.
- A sample never changes. A value of a counter that is no newer than the one that is known is not taken.
- The last sample before what is dropped stays, since it may stand for what follows. Nothing is dropped that was not read.
"""

import datetime as dt
from collections.abc import Iterable, Iterator
from decimal import Decimal
from typing import NamedTuple

from aggregator.core.model import Span
from aggregator.core.sampling import Counters, Reads, Sampled
from aggregator.errors import QueryRejected
from aggregator.ledger.database import Connection, Database, Part, streamed
from aggregator.ledger.identity import LedgerIdentity
from aggregator.ledger.meters import Lease
from aggregator.ledger.passes.copy_format import instant, number, text
from aggregator.ledger.passes.holding import hold
from aggregator.ledger.passes.spool import LinesOnDisk
from aggregator.runtime import failpoints

MARGIN = dt.timedelta(days=1)
"""Samples are kept for so much longer: a window that is read again may have begun a window's length before."""

FIRST = "select min(at) from aggregator.sampling where meter_id = %(meter_id)s"

NEWEST = "select max(at) from aggregator.sampling where meter_id = %(meter_id)s"

LAST_DUE = "select max(due) from aggregator.sampling where meter_id = %(meter_id)s"

GENERATION = "select generation from aggregator.identity"

# A counter that nobody knew before an adoption may be one that the ledger has forgotten, and whose first value was billed.
IS_FIRST_SINCE = """
select doubtful_until is not null and not exists (
           select from aggregator.sampling
            where meter_id = meter.id and at > meter.doubtful_until and sampling.id <> %(id)s)
  from aggregator.meter where id = %(meter_id)s
"""

CREATE_SAMPLED = """
create temporary table sampled (
    customer text collate "C" not null,
    name     text collate "C" not null,
    at       timestamptz not null,
    value    numeric,
    reason   text
) on commit drop
"""

COPY_SAMPLED = "copy sampled (customer, name, at, value, reason) from stdin"

# Instants of one meter only go forward: one that is not newer, as of a standby that stands still, gives no sample.
BEGIN = """
insert into aggregator.sampling (meter_id, due, at, rows, unusable, unusable_reason)
select %(meter_id)s, %(due)s, %(at)s, %(rows)s, %(unusable)s, %(unusable_reason)s
 where not exists (select from aggregator.sampling where meter_id = %(meter_id)s and at >= %(at)s)
    on conflict (meter_id, due) do nothing
returning id
"""

FIND_TWICE = """
select customer, name, at from sampled where value is not null group by customer, name, at having count(*) > 1
 order by 1, 2, 3 limit 1
"""

ADD_SERIES = """
insert into aggregator.series (meter_id, customer, name)
select distinct %(meter_id)s::integer, customer, name from sampled where value is not null or %(gauges)s
 order by 2, 3 on conflict (meter_id, customer, name) do nothing
"""

ADD_GAUGES = """
insert into aggregator.sample (meter_id, at, series_id, value, reason)
select %(meter_id)s, sampled.at, series.id,
       case when sampled.customer = '' or bool_and(sampled.value is not null) then coalesce(sum(sampled.value), 0) end,
       min(sampled.reason)
  from sampled join aggregator.series
    on series.meter_id = %(meter_id)s and series.customer = sampled.customer and series.name = sampled.name
 group by series.id, sampled.customer, sampled.at
 order by sampled.at, series.id
"""

COUNT_STALE = """
update aggregator.sampling
   set stale = (select count(*) from sampled join aggregator.series
                    on series.meter_id = %(meter_id)s and series.customer = sampled.customer
                       and series.name = sampled.name
                 where sampled.at < series.at or (sampled.at = series.at and sampled.value <> series.value))
 where id = %(id)s
"""

ADD_COUNTERS = """
with fresh as (
    select series.id, sampled.at, sampled.value,
           series.at as known_at, series.value as known, series.generation as known_in
      from sampled join aggregator.series
        on series.meter_id = %(meter_id)s and series.customer = sampled.customer and series.name = sampled.name
     where sampled.value is not null and (series.at is null or sampled.at > series.at)
), chained as (
    select id, at, value, coalesce(lag(value) over by_time, known) as previous,
           coalesce(lag(at) over by_time, known_at) as previous_at,
           lag(at) over by_time is null and coalesce(known_in <> %(generation)s, %(is_first_since)s) as adopted,
           lead(at) over by_time is null as newest
      from fresh window by_time as (partition by id order by at)
), written as (
    insert into aggregator.sample (meter_id, at, series_id, value, previous, previous_at, adopted)
    select %(meter_id)s, at, id, value, previous, previous_at, adopted from chained order by at, id
)
update aggregator.series set at = chained.at, value = chained.value, generation = %(generation)s
  from chained where series.id = chained.id and chained.newest
"""

DROP = """
with last as (
    select max(at) as at from aggregator.sampling where meter_id = %(meter_id)s and at <= %(before)s
), dropped as (
    update aggregator.sampling set dropped_at = clock_timestamp() from last
     where meter_id = %(meter_id)s and sampling.at < last.at and dropped_at is null
)
delete from aggregator.sample using last where meter_id = %(meter_id)s and sample.at < last.at
"""

DROPPED_UNTIL = """
select max(at) from aggregator.sampling where meter_id = %(meter_id)s and dropped_at is not null
"""

# What was sampled before an adoption may have been so after a restore that nobody had noticed yet: it rose from a value that
# the ledger had fallen back to.
COUNTERS = """
select sample.at, series.customer, series.name, sample.value, sample.previous, sample.previous_at,
       sample.adopted or coalesce(sample.at <= meter.doubtful_until, false)
  from aggregator.sample join aggregator.series on series.id = sample.series_id
  join aggregator.meter on meter.id = sample.meter_id
 where sample.meter_id = %(meter_id)s and sample.at >= %(start)s and sample.at < %(end)s
   and (%(customer)s::text is null or series.customer = %(customer)s)
 order by sample.at, series.name
"""

# Since when nobody sampled is seen between two samples: that is a gap in all windows between.
STATES = """
select meter.name, last.at, last.rows, last.stale, last.unusable, last.unusable_reason,
       (select count(*) from aggregator.series
         where series.meter_id = meter.id and series.at < last.at - interval '1 day')
  from aggregator.meter
  join lateral (select * from aggregator.sampling where meter_id = meter.id order by due desc limit 1) as last on true
 order by 1
"""

GAPS = """
select before, at from (
    select at, lag(at) over (order by at) as before from aggregator.sampling
     where meter_id = (select id from aggregator.meter where name = %(meter)s) and at >= %(since)s
) as sampling where at - before > %(longest)s order by at desc limit %(limit)s
"""

LAST_BEFORE = """
select max(at) from aggregator.sampling where meter_id = %(meter_id)s and at <= %(start)s
"""

SAMPLED = """
select at from aggregator.sampling where meter_id = %(meter_id)s and at >= %(since)s and at < %(end)s order by at
"""

GAUGES = """
select series.customer, sample.at, sample.value, sample.reason
  from aggregator.sample join aggregator.series on series.id = sample.series_id
 where sample.meter_id = %(meter_id)s and sample.at >= %(since)s and sample.at < %(end)s
   and (%(customer)s::text is null or series.customer = %(customer)s)
 order by series.customer, sample.at
"""


class CounterSample(NamedTuple):
    """What a counter stood at, and what it had stood at before."""

    at: dt.datetime
    customer: str
    series: str
    value: Decimal
    previous: Decimal | None
    previous_at: dt.datetime | None
    adopted: bool
    """Whether the ledger was adopted since: what it rose by may be billed already, by what the ledger has forgotten."""


class SamplingState(NamedTuple):
    """The last sample of a meter, and how many of its counters have had no newer value for a day before that."""

    meter: str
    at: dt.datetime
    rows: int
    stale: int
    unusable: int
    unusable_reason: str | None
    silent: int


class GaugeSample(NamedTuple):
    """What a gauge stood at; a value of None is unusable, and `reason` says why."""

    customer: str
    at: dt.datetime
    value: Decimal | None
    reason: str | None


class SampleSpool(LinesOnDisk):
    """Takes the rows of one sample on their way to the ledger, on disk. A context manager."""

    def __init__(self, reads: Reads) -> None:
        super().__init__()
        self.counters = isinstance(reads, Counters)
        self.rows = 0
        self.unusable = 0
        self.unusable_reason: str | None = None

    def add(self, rows: Iterable[Sampled], at: dt.datetime) -> None:
        """Take in rows that were read at an instant; those without a usable number, or a counter to go by, are counted."""
        lines = []
        for customer, series, value, own_at, reason in rows:
            self.rows += 1
            if value is None:
                self._note(reason or "no usable number")
                if self.counters:  # as if it had not been there: the next value says by how much it rose
                    continue
            elif self.counters and customer is None and not series:
                self._note(f"{reason or 'no customer'}, and no `series` to know the counter by")
                continue
            lines.append(
                f"{text(customer or '')}\t{text(series)}\t{instant(own_at or at)}\t{number(value)}\t{text(reason)}\n"
            )
        self.write(lines)

    def _note(self, reason: str) -> None:
        self.unusable += 1
        self.unusable_reason = self.unusable_reason or reason


class Samples(Part):
    """The verbs about samples. `identity` tells whether the ledger is still the one it was; without it nobody asks."""

    def __init__(self, database: Database, identity: LedgerIdentity | None = None) -> None:
        super().__init__(database)
        self._identity = identity

    def last_due(self, meter_id: int) -> dt.datetime | None:
        """Return for which instant the last sample of a meter was taken; None if there is none."""
        row = self._row(LAST_DUE, {"meter_id": meter_id})
        return row[0] if row else None

    def take(
        self, lease: Lease, spool: SampleSpool, *, due: dt.datetime, at: dt.datetime, keep_from: dt.datetime
    ) -> bool:
        """Write the sample that is due at an instant, which the source gave as of `at`; False if it is there already.

        Samples from before `keep_from` are dropped. Raises LeaseLost when another process holds the meter by now,
        QueryRejected for two values of one counter at one instant, LedgerStopped when the ledger is not to be written.
        """
        values = {"meter_id": lease.registered.id, "due": due, "at": at, "rows": spool.rows}
        values |= {"unusable": spool.unusable, "unusable_reason": spool.unusable_reason}
        with self._database.transaction() as connection:
            mark, _ = hold(connection, lease, self._identity)
            begun = connection.execute(BEGIN, values).fetchone()
            if begun is None:
                return False
            self._write(connection, lease, spool, begun[0])
            drop = {"meter_id": lease.registered.id, "before": min(keep_from, mark) - MARGIN}
            connection.execute(DROP, drop)
            failpoints.passing("sample_written")
        failpoints.passing("sample_committed")
        return True

    def _write(self, connection: Connection, lease: Lease, spool: SampleSpool, sampling_id: int) -> None:
        connection.execute(CREATE_SAMPLED)
        with connection.cursor().copy(COPY_SAMPLED) as copy:
            for block in spool.blocks():
                copy.write(block)
        connection.execute("analyze sampled")
        [[generation]] = connection.execute(GENERATION).fetchall()
        values = {
            "meter_id": lease.registered.id,
            "gauges": not spool.counters,
            "generation": generation,
            "id": sampling_id,
        }
        if spool.counters:
            twice = connection.execute(FIND_TWICE).fetchone()
            if twice is not None:
                raise QueryRejected(_report_twice(lease.registered.meter.name, *twice))
        connection.execute(ADD_SERIES, values)
        if spool.counters:
            [[values["is_first_since"]]] = connection.execute(IS_FIRST_SINCE, values).fetchall()
            connection.execute(COUNT_STALE, values)
            connection.execute(ADD_COUNTERS, values)
        else:
            connection.execute(ADD_GAUGES, values)

    def first(self, meter_id: int) -> dt.datetime | None:
        """Return when a meter was first sampled; None if it never was."""
        row = self._row(FIRST, {"meter_id": meter_id})
        return row[0] if row else None

    def newest(self, meter_id: int) -> dt.datetime | None:
        """Return the instant of a meter's newest sample; None if there is none."""
        row = self._row(NEWEST, {"meter_id": meter_id})
        return row[0] if row else None

    def states(self) -> list[SamplingState]:
        """Return what is known of each meter that is sampled, by name."""
        return [SamplingState._make(row) for row in self._rows(STATES)]

    def gaps(self, meter: str, longest: dt.timedelta, since: dt.datetime, limit: int = 5) -> list[Span]:
        """Return between which samples more time passed than `longest`, the newest first."""
        values = {"meter": meter, "longest": longest, "since": since, "limit": limit}
        return [Span(*row) for row in self._rows(GAPS, values)]

    def dropped_until(self, meter_id: int) -> dt.datetime | None:
        """Return up to when samples of a meter are kept no more; None if all are there."""
        row = self._row(DROPPED_UNTIL, {"meter_id": meter_id})
        return row[0] if row else None

    def counters(self, meter_id: int, span: Span, customer: str | None = None) -> Iterator[CounterSample]:
        """Yield what counters stood at within a span, of all customers or one. Its transaction is open meanwhile."""
        values = {"meter_id": meter_id, "start": span.start, "end": span.end, "customer": customer}
        with self._database.transaction() as connection:
            yield from map(CounterSample._make, streamed(connection, COUNTERS, values))

    def sampled(self, meter_id: int, span: Span) -> list[dt.datetime]:
        """Return the instants of samples, from the last one at the start of a span or before it to its end, in order."""
        values: dict[str, object] = {"meter_id": meter_id, "start": span.start, "end": span.end}
        with self._database.transaction() as connection:
            [[last]] = connection.execute(LAST_BEFORE, values).fetchall()
            rows = connection.execute(SAMPLED, {**values, "since": last or span.start}).fetchall()
        return [at for (at,) in rows]

    def gauges(
        self, meter_id: int, since: dt.datetime, end: dt.datetime, customer: str | None = None
    ) -> Iterator[GaugeSample]:
        """Yield what gauges stood at, customer by customer, in the order of time. Its transaction is open meanwhile."""
        values = {"meter_id": meter_id, "since": since, "end": end, "customer": customer}
        with self._database.transaction() as connection:
            yield from map(GaugeSample._make, streamed(connection, GAUGES, values))


def _report_twice(meter: str, customer: str, series: str, at: dt.datetime) -> str:
    whose = f"customer {customer!r}" if customer else "nobody"
    which = f", `series` {series!r}" if series else ""
    return (
        f"{meter}: a counter of {whose}{which} has two values at {at:%Y-%m-%dT%H:%M:%SZ}: return as `series` what tells a "
        "customer's counters apart, such as the id of a device, and each counter once"
    )
