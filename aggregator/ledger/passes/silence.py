"""A meter that has fallen silent: usage in every stretch of time of late, and now none at all.

Nothing is wrong with no usage, and no error says that rows are hidden, that a table got another name, or that nobody writes
any more. What was never silent before is worth a word.

Rules
- A stretch is an hour, or a window where that is longer: in a minute anybody may rest. Of windows shorter than that, two
  hours without usage are a silence: uses an hour apart are not.
- Every stretch of the last seven days had usage, nights and Sundays too. A younger meter is watched from its sixth stretch
  on: somebody looks at it then, and a word too many costs less than a day that is not billed.
- What had usage once had usage, whatever the source says of it now: rows that are hidden vanish from what was read before
  as well, and must not take the word back with them.
- After as long a silence as was looked back, it is nothing unusual any more.
"""

import datetime as dt
from typing import NamedTuple

from aggregator.ledger.database import Connection

STRETCH = dt.timedelta(hours=1)
LOOKED_BACK = dt.timedelta(days=7)
LEAST = 6

# What was taken back to zero has had two events at least, and not all of them of nothing.
HAD_USAGE = """(slot.quantity <> 0 or slot.revision > 1 and exists (
                        select from aggregator.events_of(slot.id) as event where event.delta <> 0))"""

LAST_USE = f"""
select max(newest.window_start) from aggregator.feed
  join lateral (select window_start from aggregator.slot
                 where feed_id = feed.id and window_start < %(mark)s and {HAD_USAGE}
                 order by window_start desc limit 1) as newest on true
 where feed.meter_id = %(meter_id)s
"""  # noqa: S608 - the condition is ours, and has no values in it

NEVER_SILENT = f"""
select bool_and(exists (
         select from aggregator.feed join aggregator.slot on slot.feed_id = feed.id
          where feed.meter_id = %(meter_id)s and {HAD_USAGE}
            and slot.window_start >= %(until)s - (number + 1) * %(stretch)s::interval
            and slot.window_start < %(until)s - number * %(stretch)s::interval))
  from generate_series(0, %(count)s - 1) as number
"""  # noqa: S608 - the same

NOTE = """
update aggregator.meter set silent_since = %(since)s
 where id = %(meter_id)s and epoch = %(epoch)s and silent_since is distinct from %(since)s
returning 1
"""


class Silence(NamedTuple):
    """Since when a meter has had no usage, if that is unusual; and whether that is news."""

    since: dt.datetime | None
    is_new: bool


def look(
    connection: Connection,
    meter_id: int,
    epoch: int,
    window: dt.timedelta,
    start_at: dt.datetime,
    mark: dt.datetime,
) -> Silence:
    """Find out whether a meter that was read up to its mark has fallen silent, and note it."""
    values = {"meter_id": meter_id, "epoch": epoch, "mark": mark}
    since = _since(connection, values, window, start_at, mark)
    changed = connection.execute(NOTE, {**values, "since": since}).fetchone()
    return Silence(since, since is not None and changed is not None)


def _since(
    connection: Connection,
    values: dict[str, object],
    window: dt.timedelta,
    start_at: dt.datetime,
    mark: dt.datetime,
) -> dt.datetime | None:
    row = connection.execute(LAST_USE, values).fetchone()
    if row is None or row[0] is None:
        return None
    until: dt.datetime = row[0] + window
    stretch = max(STRETCH, window)
    count = min(LOOKED_BACK, until - start_at) // stretch
    least = stretch if window >= STRETCH else 2 * stretch
    if count < LEAST or not least <= mark - until <= count * stretch:
        return None
    found = connection.execute(
        NEVER_SILENT, {**values, "until": until, "stretch": stretch, "count": count}
    ).fetchone()
    return until if found is not None and found[0] else None
