"""What each customer used in a day, and all of them in an hour: summed up once the day is quiet.

So a month of a customer is some thirty rows, and not a row for each window. Where usage is kept apart, there is one for each
combination; and of all customers together, too.

Rules
- Whoever changes a slot says so of its day, in the same transaction (`changed`). That takes the day's row, and so does
  whoever sums it up before looking at its slots: of the two, the later one sees what the other did, or undoes it.
- A day is summed up once its meter is read beyond it and nothing of it has changed for `QUIET`: what changes again and again
  is not summed up again and again.
- Of a month that is closed no day is summed up anew: some of its slots are archived, of which others keep the sums.
- A day that is not made is read from its slots. So sums are only ever a shorter way to the same figures.
- Whoever looks at such a day again and again may keep what its hours came to: it counts only where the statement that uses
  it finds the day's row as it was.
"""

import datetime as dt
import json
import threading
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass

from aggregator.core.counts import Counts
from aggregator.core.model import Span
from aggregator.core.windows import DAY, floor
from aggregator.ledger.database import Connection, Database, Part

QUIET = dt.timedelta(hours=1)
MOST_AT_ONCE = 40
"""Days that one round sums up; each is a transaction of its own. The first round after an upgrade has a month to do."""

CHANGED = """
insert into aggregator.usage_day (feed_id, day, changed_at)
select %(feed)s, day, clock_timestamp() from unnest(%(days)s::timestamptz[]) as day order by day
    on conflict (feed_id, day) do update set changed_at = excluded.changed_at, made_at = null
"""

CHANGED_BY_EVENTS = """
insert into aggregator.usage_day (feed_id, day, changed_at)
select distinct feed_id, date_trunc('day', window_start, 'UTC'), statement_timestamp()
  from aggregator.event where id = any(%(events)s) order by 1, 2
    on conflict (feed_id, day) do update set changed_at = excluded.changed_at, made_at = null
"""

DUE = """
select usage_day.feed_id, usage_day.day
  from aggregator.usage_day
  join aggregator.feed on feed.id = usage_day.feed_id
  join aggregator.meter on meter.id = feed.meter_id
 where feed.sink_id = %(sink)s and usage_day.made_at is null and usage_day.changed_at < clock_timestamp() - %(quiet)s
   and meter.mark >= usage_day.day + interval '24 hours'
   and usage_day.day >= coalesce(meter.archived_until, '-infinity')
 order by usage_day.day desc limit %(limit)s
"""

# A day of many customers is summed up without a temporary file.
MORE_MEMORY = "select set_config('work_mem', '64MB', true)"

LOCK = """
select from aggregator.usage_day where feed_id = %(feed)s and day = %(day)s and made_at is null for update skip locked
"""

# What of a slot was planned in shadow. That stays so, and where a feed never was in shadow it is not looked for.
SHADOW = """
       sum(case when (select shadow or shadow_until is not null or parted from aggregator.feed where id = %(feed)s)
                then (select coalesce(sum(delta), 0)
                        from aggregator.events_of(slot.id, slot.revision > 1)
                       where state = 'shadow')
                else 0 end)
"""

# Each in its place: what was summed up before goes, and what there is now comes.
SUM_UP = (
    "delete from aggregator.usage_of_day where feed_id = %(feed)s and day = %(day)s",
    "delete from aggregator.usage_of_hour where feed_id = %(feed)s and day = %(day)s",
    "delete from aggregator.usage_of_combination where feed_id = %(feed)s and day = %(day)s",
    f"""
    insert into aggregator.usage_of_day (feed_id, day, customer, combination, quantity, total, shadow)
    select %(feed)s, %(day)s, customer, combination, sum(quantity), sum(total), {SHADOW}
      from aggregator.slot
     where feed_id = %(feed)s and window_start >= %(day)s and window_start < %(day)s + interval '24 hours'
     group by customer, combination order by customer, combination
    """,  # noqa: S608 - our own text
    """
    insert into aggregator.usage_of_combination (feed_id, day, combination, quantity, total, shadow)
    select feed_id, day, combination, sum(quantity), sum(total), sum(shadow)
      from aggregator.usage_of_day where feed_id = %(feed)s and day = %(day)s
     group by feed_id, day, combination order by combination
    """,
    f"""
    insert into aggregator.usage_of_hour (feed_id, day, hour, slots, quantity, total, shadow)
    select %(feed)s, %(day)s, date_trunc('hour', window_start, 'UTC') as hour, count(*), sum(quantity), sum(total), {SHADOW}
      from aggregator.slot
     where feed_id = %(feed)s and window_start >= %(day)s and window_start < %(day)s + interval '24 hours'
     group by hour order by hour
    """,  # noqa: S608 - our own text
    "update aggregator.usage_day set made_at = clock_timestamp() where feed_id = %(feed)s and day = %(day)s",
)

# The parts of a span that are not whole days that are made: their slots are looked at. The planner is kept from looking at
# slots first and asking for days then.
NOT_MADE = """
       (select greatest(start, %(start)s) as since, least(start + interval '24 hours', %(end)s) as until
          from generate_series(date_trunc('day', %(start)s::timestamptz, 'UTC'),
                               %(end)s::timestamptz - interval '1 microsecond', interval '24 hours') as start
         where not exists (select from aggregator.usage_day
                            where usage_day.feed_id = %(feed)s and usage_day.day = start and usage_day.made_at is not null
                              and start >= %(start)s and start + interval '24 hours' <= %(end)s)
        offset 0) as rest
"""

# By what a day's row is known again: whoever changes a slot of the day writes it anew.
VERSION = "usage_day.xmin::text || ' ' || usage_day.changed_at::text"

# Hours of days that are not made, which somebody summed up before and has kept: they count as long as the day stands as it
# did. It is this statement that finds that, in the same snapshot as all else it reads.
KEPT = f"""
       (select kept.* from json_to_recordset(%(kept)s::json) as kept (
              day timestamptz, version text, hour timestamptz, slots bigint, quantity numeric, total numeric, shadow numeric)
          join aggregator.usage_day on usage_day.feed_id = %(feed)s and usage_day.day = kept.day
           and usage_day.made_at is null and {VERSION} = kept.version) as its
"""  # noqa: S608 - our own text

NEITHER_MADE_NOR_KEPT = NOT_MADE.replace(
    "usage_day.made_at is not null",
    f"""(usage_day.made_at is not null or {VERSION} in (
                                 select version from json_to_recordset(%(kept)s::json) as kept (version text)))""",  # noqa: S608 - our own text
)

# And the days of a span that are made.
MADE_DAYS = """
       (select day from aggregator.usage_day
         where feed_id = %(feed)s and made_at is not null
           and day >= %(start)s and day + interval '24 hours' <= %(end)s) as made
"""


UNMADE = f"""
select day, {VERSION} from aggregator.usage_day
  join aggregator.feed on feed.id = feed_id join aggregator.meter on meter.id = feed.meter_id
 where feed_id = %(feed)s and made_at is null and day >= coalesce(meter.archived_until, '-infinity')
   and day >= %(start)s and day + interval '24 hours' <= %(end)s
"""  # noqa: S608 - our own text

SUMS = f"""
select its.*, {VERSION} from aggregator.usage_day
 cross join lateral (
        select date_trunc('hour', window_start, 'UTC') as hour, count(*) as slots, sum(quantity) as quantity,
               sum(total) as total, {SHADOW} as shadow
          from aggregator.slot
         where feed_id = %(feed)s and window_start >= %(day)s and window_start < %(day)s + interval '24 hours'
         group by 1) as its
 where feed_id = %(feed)s and day = %(day)s
"""  # noqa: S608 - our own text

MOST_KEPT = 256
"""Days that are kept as sums of their hours, some KiB each."""

NOTHING_KEPT = "[]"
COLUMNS = ("hour", "slots", "quantity", "total", "shadow")


@dataclass(slots=True)
class SummedUp(Counts):
    """What a round came to."""

    days: int = 0


class UsageDays(Part):
    """The verbs about sums of days. It is never in doubt what they come to, so whoever comes first does it."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self._kept: OrderedDict[tuple[int, dt.datetime], tuple[str, list[dict[str, str]]]] = OrderedDict()
        self._lock = threading.Lock()

    def kept(self, feed: int, span: Span) -> str:
        """Return the hours of a span's days that are not made, for statements that take `kept`.

        They are summed up here once for each change, and only where somebody looks. Whether they still hold is for the
        statement to find: what has changed meanwhile it reads itself.
        """
        values = {"feed": feed, "start": span.start, "end": span.end}
        return json.dumps([hour for row in self._rows(UNMADE, values) for hour in self._hours(feed, *row)])

    def _hours(self, feed: int, day: dt.datetime, version: str) -> list[dict[str, str]]:
        with self._lock:
            known, hours = self._kept.get((feed, day), ("", []))
        if known == version:
            return hours
        with self._database.transaction() as connection:
            connection.execute(MORE_MEMORY)
            rows = connection.execute(SUMS, {"feed": feed, "day": day}).fetchall()
        hours = [dict(zip(("day", *COLUMNS, "version"), map(str, (day, *row)), strict=True)) for row in rows]
        with self._lock:
            self._kept[feed, day] = (hours[0]["version"] if hours else "", hours)
            self._kept.move_to_end((feed, day))
            while len(self._kept) > MOST_KEPT:
                self._kept.popitem(last=False)
        return hours

    def sum_up(self, sink_id: int, quiet: dt.timedelta = QUIET) -> SummedUp:
        """Sum up the newest days of a sink's meters that are quiet and not made."""
        found = SummedUp()
        for feed, day in self._rows(DUE, {"sink": sink_id, "quiet": quiet, "limit": MOST_AT_ONCE}):
            found.days += self._make({"feed": feed, "day": day})
        return found

    def _make(self, values: dict[str, object]) -> bool:
        """Sum up one day; False if somebody else is about it, or did it."""
        with self._database.transaction() as connection:
            if connection.execute(LOCK, values).fetchone() is None:
                return False
            connection.execute(MORE_MEMORY)
            for statement in SUM_UP:
                connection.execute(statement, values)
        return True


def changed(connection: Connection, feed: int, windows: Iterable[dt.datetime]) -> None:
    """Say that slots of a feed changed in these windows."""
    days = sorted({floor(start, DAY) for start in windows})
    if days:
        connection.execute(CHANGED, {"feed": feed, "days": days})


def changed_by(connection: Connection, events: Iterable[int]) -> None:
    """Say that slots changed that these events are of."""
    connection.execute(CHANGED_BY_EVENTS, {"events": list(events)})


class SummingUp:
    """Sums up the days of a sink, a few at a time."""

    def __init__(self, days: UsageDays, sink_id: int) -> None:
        self._days = days
        self._sink_id = sink_id

    def run_once(self, _now: dt.datetime) -> SummedUp:
        """Sum up what is quiet by now."""
        return self._days.sum_up(self._sink_id)

    def stop(self) -> None:
        """Nothing is to be stopped: a round is short."""
