"""What was usual: the same hour of the weeks before, with which guards compare what a pass has read.

Rules
- Of single customers, it is looked up with what changed (`changes`), for those only who use more than `unusual_from`.
- Of a whole window it is looked up once the pass has written it, and only where the pass raises it. If it is swollen, the
  pass is written again with the increases of that window held.
- What waits because of a swollen window goes by itself, once a pass finds the window swollen no more.
- Windows of another length are not compared, whatever the query was: an edited query is the likeliest mistake.
- Where no limit is set, nothing of this is asked.
"""

import datetime as dt
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import NamedTuple

from aggregator.core import definitions, guards
from aggregator.core.guards import LEAST_WEEKS, STRETCH, WEEKS
from aggregator.core.model import Definition, Guards, Meter, Span, Swollen
from aggregator.ledger.at_rest import to_outbox
from aggregator.ledger.database import Connection
from aggregator.ledger.meters import Feed
from aggregator.ledger.passes.reassert import note_newer_than
from aggregator.ledger.passes.stats import Tally

# Of each window that the pass raised, or in which something waits because it was swollen: what it comes to, without what a
# guard holds of single customers, or what a person has left at that; how much of it waits; and what was usual.
TOTALS = """
with asked as (
    select unnest(%(raised)s::timestamptz[]) as window_start
     union
    select event.window_start from aggregator.parked join aggregator.event on event.id = parked.event_id
     where parked.feed_id = %(feed_id)s and parked.guard = 'max_total_change' and parked.dismissed_at is null
       and event.window_start >= %(start)s and event.window_start < %(end)s
), compared as (
    select asked.window_start, week,
           date_bin(%(stretch)s, asked.window_start, 'epoch') - week * interval '168 hours'
           + number * %(window)s::interval as past
      from asked
     cross join generate_series(1, %(weeks)s) as week
     cross join generate_series(0, %(windows)s - 1) as number
), needed as (
    select window_start from asked union select past from compared where past >= %(compared_since)s
), summed as (
    select slot.window_start,
           sum(slot.total) - coalesce(sum(waiting.delta) filter (where not holds), 0) as counted,
           coalesce(sum(waiting.delta) filter (where holds), 0) as waiting
      from needed
      join aggregator.slot on slot.feed_id = %(feed_id)s and slot.window_start = needed.window_start
      left join (
            select event.id, event.delta, parked.guard = 'max_total_change' and parked.dismissed_at is null as holds
              from aggregator.parked join aggregator.event on event.id = parked.event_id
             where parked.feed_id = %(feed_id)s and parked.guard not in ('shrink_guard', 'repair')
               and parked.event_id <> all(%(voided)s)
           ) as waiting on waiting.id = slot.tail
     group by slot.window_start
), usual as (
    select window_start, max(most) as quantity
      from (select compared.window_start, week, max(counted - waiting) as most
              from compared join summed on summed.window_start = compared.past
             where counted > waiting group by 1, 2) as weekly
     group by window_start having count(*) >= %(least_weeks)s
)
select asked.window_start, counted, waiting, usual.quantity
  from asked join summed using (window_start) left join usual using (window_start)
"""

# But for what a newer plan is about to replace, or to withdraw.
LET_GO = f"""
with gone as (
    delete from aggregator.parked using aggregator.event, aggregator.slot
     where parked.feed_id = %(feed_id)s and {{these}} and parked.dismissed_at is null
       and parked.moved_with is null and parked.event_id <> all(%(voided)s)
       and event.id = parked.event_id
       and slot.feed_id = parked.feed_id and slot.window_start = event.window_start and slot.customer = event.customer
       and slot.combination = event.combination and slot.tail = event.id
    returning parked.event_id
), taken as (
    delete from aggregator.event_at_rest as event using gone where event.id = gone.event_id returning event.*
)
{to_outbox("taken", sink="%(sink_id)s", due_at="%(now)s", reason="null")} from taken
returning event_id
"""  # noqa: S608 - our own text

LET_WINDOWS_GO = LET_GO.format(
    these="parked.guard = 'max_total_change' and event.window_start = any(%(windows)s)"
)


class Past(NamedTuple):
    """With what guards compare: windows of one length, from an instant on."""

    guards: Guards
    window: dt.timedelta
    since: dt.datetime

    @property
    def sums(self) -> bool:
        """Whether whole windows are compared, too."""
        return self.guards.max_total_change is not None

    @property
    def watches_customers(self) -> bool:
        """Whether single customers are looked at."""
        return self.guards.max_per_customer_window is not None or self.guards.max_change is not None

    def values(self) -> dict[str, object]:
        """Return what the statements need of it."""
        stretch = max(STRETCH, self.window)
        return {
            "weeks": WEEKS,
            "least_weeks": LEAST_WEEKS,
            "stretch": stretch,
            "window": self.window,
            "windows": stretch // self.window,
            "compared_since": self.since,
            "compares": self.guards.max_change is not None,
            "unusual_from": self.guards.unusual_from,
        }


def past_of(meter: Meter, known: Sequence[Definition], instant: dt.datetime) -> Past | None:
    """Return with what the guards of a meter compare windows from an instant on; None if they hold nothing."""
    if not meter.guards.holds:
        return None
    window = definitions.at(known, instant).window
    return Past(meter.guards, window, definitions.same_windows_since(known, instant))


class Swelled(Exception):
    """Windows come to unusually much: what was written is rolled back, and written again with their increases held."""

    def __init__(self, feed: Feed, windows: Mapping[dt.datetime, Swollen]) -> None:
        self.feed = feed
        self.windows = windows


def check(
    connection: Connection, feed: Feed, span: Span, past: Past | None, tally: Tally, now: dt.datetime
) -> None:
    """Raise Swelled if a window that the pass raised is swollen; release what waits in those that are not any more."""
    if past is None or not past.sums:
        return
    raised, tally.raised = tally.raised, {}
    values = {
        **past.values(),
        "feed_id": feed.id,
        "sink_id": feed.sink_id,
        "raised": list(raised),
        "start": span.start,
        "end": span.end,
        "voided": tally.voided,
        "now": now,
    }
    rows = connection.execute(TOTALS, values).fetchall()
    swollen = {
        start: Swollen(each, usual)
        for start, each, waiting, usual in rows
        if usual is not None
        and guards.is_swollen(each, each - waiting - raised.get(start, Decimal(0)), usual, past.guards)
    }
    anew = {start: each for start, each in swollen.items() if start in raised}
    if anew:
        raise Swelled(feed, anew)
    over = [start for start, _, waiting, _ in rows if waiting and start not in swollen]
    if over:
        gone = connection.execute(LET_WINDOWS_GO, {**values, "windows": over}).fetchall()
        note_newer_than(connection, [row[0] for row in gone], now)
