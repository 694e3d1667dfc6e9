"""The record of passes: what each did, or why it did nothing; how late usage was found; how far a backfill came."""

import datetime as dt
from typing import NamedTuple

from psycopg.types.range import TimestamptzRange

from aggregator.core import windows
from aggregator.core.model import Definition, Span
from aggregator.ledger.database import Connection
from aggregator.ledger.meters import Lease, Registered
from aggregator.ledger.passes.stats import Tally

RECORD_RUN = """
insert into aggregator.pass
       (meter_id, kind, span, goal, started_at, seconds, rows, changed, planned, held, refused, deferred, epoch, fingerprint,
        error)
values (%(meter_id)s, %(kind)s, %(span)s, %(goal)s, %(started_at)s, %(seconds)s, %(rows)s, %(changed)s, %(planned)s,
        %(held)s, %(refused)s, %(deferred)s, %(epoch)s, %(fingerprint)s, %(error)s)
returning id
"""

FINISH = """
update aggregator.pass
   set seconds = %(seconds)s, changed = %(changed)s, planned = %(planned)s, held = %(held)s, refused = %(refused)s,
       deferred = %(deferred)s
 where id = %(pass_id)s
"""

# A pass that did nothing, or failed in the same way, says no more than the one before it: the newest of a row of them stays,
# and knows how many they were, and since when.
FORGET_LIKE = """
with gone as (
    delete from aggregator.pass as old using aggregator.pass as new
     where new.id = %(pass_id)s
       and old.id = (select max(id) from aggregator.pass where meter_id = new.meter_id and id < new.id)
       and old.kind = 'live' and new.kind = 'live'
       and old.changed = 0 and new.changed = 0 and old.deferred = 0 and new.deferred = 0
       and old.error is not distinct from new.error
    returning coalesce(old.since, old.started_at) as since, old.times
)
update aggregator.pass set since = gone.since, times = pass.times + gone.times from gone where pass.id = %(pass_id)s
"""

COUNT = """
insert into aggregator.pass_count (meter_id, kind, failed, passes, seconds, rows, planned)
select meter_id, kind, error is not null, 1, seconds, rows, planned from aggregator.pass where id = %(pass_id)s
    on conflict (meter_id, kind, failed) do update
       set passes = pass_count.passes + 1, seconds = pass_count.seconds + excluded.seconds,
           rows = pass_count.rows + excluded.rows, planned = pass_count.planned + excluded.planned
"""

COUNT_LATENESS = """
insert into aggregator.lateness (meter_id, day, seconds, slots, quantity)
select %(meter_id)s, %(now)s::timestamptz::date, seconds, slots, quantity
  from unnest(%(seconds)s::int[], %(slots)s::bigint[], %(quantities)s::numeric[]) as found (seconds, slots, quantity)
    on conflict (meter_id, day, seconds) do update
       set slots = lateness.slots + excluded.slots, quantity = lateness.quantity + excluded.quantity
"""

FORGET_LATENESS = (
    "delete from aggregator.lateness where meter_id = %(meter_id)s and day < %(now)s::timestamptz::date - 35"
)


COUNT_COST = """
insert into aggregator.reading_cost (meter_id, day, old, readings, rows, seconds)
values (%(meter_id)s, %(now)s::timestamptz::date, %(old)s, 1, %(rows)s, %(seconds)s)
    on conflict (meter_id, day, old) do update
       set readings = reading_cost.readings + 1, rows = reading_cost.rows + excluded.rows,
           seconds = reading_cost.seconds + excluded.seconds
"""

FORGET_COST = "delete from aggregator.reading_cost where meter_id = %(meter_id)s and day < %(now)s::timestamptz::date - 35"


class Pass(NamedTuple):
    """What is to be done in one pass, and on whose behalf."""

    kind: str
    span: Span
    goal: Span
    now: dt.datetime
    definition: Definition
    swept: dt.datetime | None = None
    hourly: bool = False
    """Whether the last two days have been read again in full with this pass; `daily`, whether all that is billable was."""
    daily: bool = False
    rest_read: bool = False
    """Whether all from the span's end to the mark was read before in this round; `rest_waits`, the oldest change there that
    waits for an unsettled event."""
    rest_waits: dt.datetime | None = None
    seen: dt.datetime | None = None
    """Up to when the source surely showed everything at this reading, if it says so."""
    more: bool = False
    """Whether another pass of the round reads on where this one ends, and sends again what is newer there."""
    read_seconds: float = 0.0
    """How long the source took to give it."""
    touched: dt.datetime | None = None
    """Up to when all that the source named as touched has been read with this pass, and those before it."""


def begin(connection: Connection, lease: Lease, this: Pass, tally: Tally, seconds: float) -> int:
    """Record a pass that is being written; return the record's id, for what it writes."""
    return _record(connection, lease, this, tally, seconds, None)


def finish(connection: Connection, pass_id: int, tally: Tally, seconds: float) -> None:
    """Complete the record of a pass."""
    connection.execute(FINISH, {**_figures(tally), "pass_id": pass_id, "seconds": seconds})
    connection.execute(COUNT, {"pass_id": pass_id})
    connection.execute(FORGET_LIKE, {"pass_id": pass_id})


def note_failure(connection: Connection, lease: Lease, this: Pass, seconds: float, error: str) -> None:
    """Record that a pass failed, and why."""
    pass_id = _record(connection, lease, this, Tally(), seconds, error)
    connection.execute(COUNT, {"pass_id": pass_id})
    connection.execute(FORGET_LIKE, {"pass_id": pass_id})


def count_live(connection: Connection, registered: Registered, this: Pass, tally: Tally) -> None:
    """Count what a live pass found late, and what it cost the source."""
    count_lateness(connection, registered, this, tally)
    near = windows.near(tally.mark, registered.meter.revisit, this.definition.window)
    values = {
        "meter_id": registered.id,
        "now": this.now,
        "old": this.span.end <= near,
        "rows": tally.rows,
        "seconds": this.read_seconds,
    }
    connection.execute(COUNT_COST, values)
    if this.hourly:
        connection.execute(FORGET_COST, values)


def count_lateness(connection: Connection, registered: Registered, this: Pass, tally: Tally) -> None:
    """Add to the histogram how late the changes of a pass were found."""
    found = tally.lateness(this.now, this.definition.window)
    if found:
        values = {
            "meter_id": registered.id,
            "now": this.now,
            "seconds": list(found),
            "slots": [late.slots for late in found.values()],
            "quantities": [late.quantity for late in found.values()],
        }
        connection.execute(COUNT_LATENESS, values)
        connection.execute(FORGET_LATENESS, values)


def _record(
    connection: Connection, lease: Lease, this: Pass, tally: Tally, seconds: float, error: str | None
) -> int:
    row = connection.execute(
        RECORD_RUN,
        {
            **_figures(tally),
            "meter_id": lease.registered.id,
            "kind": this.kind,
            "span": TimestamptzRange(*this.span),
            "goal": TimestamptzRange(*this.goal),
            "started_at": this.now,
            "seconds": seconds,
            "rows": tally.rows,
            "epoch": lease.epoch,
            "fingerprint": this.definition.fingerprint,
            "error": error,
        },
    ).fetchone()
    assert row is not None, "an insert returns its row"
    return int(row[0])


def _figures(tally: Tally) -> dict[str, int]:
    return {
        "changed": tally.changed,
        "planned": tally.planned,
        "held": tally.held,
        "refused": tally.refused,
        "deferred": tally.deferred,
    }
