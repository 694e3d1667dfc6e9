"""One pass over one span of one meter, as one transaction: all of it is committed, or nothing is.

Rules
- SQL finds what changed, the planner decides, COPY writes. A slot that did not change costs no Python.
- The meter's row is locked first, and the epoch compared: whoever lost the lease commits nothing.
- Slots, events, carries, rows set aside, the mark and the record of the pass go together. Nothing is sent from here.
- Writing goes in batches between fetches from one cursor, so that memory stays bounded whatever the number of customers.
  One thread talks to the server meanwhile, so that its work and the planner's overlap.
"""

import datetime as dt
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any, NamedTuple

from psycopg.types.range import TimestamptzRange

from aggregator.errors import LeaseLost
from aggregator.ledger.database import Connection, Database
from aggregator.ledger.meters import Feed, Lease, Registered
from aggregator.ledger.spool import Spool
from aggregator.ledger.tally import Tally
from aggregator.ledger.writer import BATCH, Writer
from aggregator.model import ZERO, Change, Decision, EventId, Span, Tail

UNBOOKED = (ZERO, 0, None)
"""Total, revision and first instant of a slot that has had no event."""

UNTROUBLED = (Tail.CLEAR, None, ZERO)
"""What stands in the way of a slot that nothing stands in the way of."""

Decide = Callable[[Feed, Iterable[Change]], Iterable[Decision]]
"""What the planner makes of the changes of one feed."""

# The sorts and hashes over a million readings stay in memory with this; a transaction has a handful of them at most.
# Compiling the query would cost more than it saves.
WORK_MEMORY = "select set_config('work_mem', '128MB', true), set_config('jit', 'off', true)"

HOLD_METER = """
select mark, reread_from from aggregator.meter
 where id = %(meter_id)s and epoch = %(epoch)s and lease_owner = %(owner)s
   for update
"""

CREATE_STAGING = """
create temporary table reading (
    window_start timestamptz not null,
    customer     text collate "C",
    quantity     numeric,
    at           timestamptz,
    reason       text
) on commit drop
"""

COPY_READINGS = f"copy reading ({Spool.COLUMNS}) from stdin"

# What differs between what was read and what the ledger holds. The span was read completely, so a slot without a reading
# stands at zero. Ordered by customer, because the carry flows through a customer's slots one after the other.
# A slot with an unusable row is `spoilt`: it stays as it is. What a new slot does not have is null, and costs nothing.
CHANGED = """
select found.slot_id,
       nextval('aggregator.event_id'),
       found.customer, found.window_start, found.before, found.now, found.at,
       found.total, found.revision, found.stamped_at,
       carry.amount,
       case when outbox.event_id is not null or parked.state = 'in_doubt' then 'unsettled'
            when parked.event_id is not null then 'parked' end,
       case when parked.state <> 'in_doubt' then parked.event_id end,
       case when parked.state <> 'in_doubt' then waiting.delta end,
       case when found.slot_id is null then nextval('aggregator.slot_id') end
  from (
        select window_start, customer, slot.quantity as before, coalesce(seen.quantity, 0) as now, seen.at,
               slot.id as slot_id, slot.total, slot.revision, slot.stamped_at, slot.tail
          from (
                select window_start, customer, sum(quantity) as quantity, max(at) as at,
                       bool_or(reason is not null) as spoilt
                  from reading
                 where customer is not null and window_start >= %(since)s
                 group by window_start, customer
               ) as seen
          full join (
                select * from aggregator.slot
                 where feed_id = %(feed_id)s
                   and window_start >= greatest(%(start)s, %(since)s) and window_start < %(end)s
               ) as slot using (window_start, customer)
         where coalesce(seen.quantity, 0) <> coalesce(slot.quantity, 0) and not coalesce(seen.spoilt, false)
       ) as found
  left join aggregator.carry on carry.feed_id = %(feed_id)s and carry.customer = found.customer
  left join aggregator.outbox on outbox.event_id = found.tail
  left join aggregator.parked on parked.event_id = found.tail
  left join aggregator.event as waiting on waiting.id = parked.event_id
 order by found.customer, found.window_start
"""

REPLACE_PARKED = """
with gone as (
    delete from aggregator.parked
     where event_id = any(%(events)s) and state in ('held', 'refused') returning event_id
)
update aggregator.event
   set state = 'void', settled_at = %(now)s, reason = 'replaced by a newer plan'
  from gone where event.id = gone.event_id and event.state in ('held', 'refused')
"""

FORGET_ASIDE = """
delete from aggregator.aside
 where meter_id = %(meter_id)s and window_start >= %(start)s and window_start < %(end)s
"""

SET_ASIDE = """
insert into aggregator.aside (meter_id, window_start, reason, customer, rows, quantity)
select %(meter_id)s, window_start, reason, customer, count(*), sum(quantity)
  from reading where reason is not null
 group by window_start, reason, customer
"""

# What is usable of a slot that has an unusable row waits with it, and is named.
SET_WITHHELD_ASIDE = """
insert into aggregator.aside (meter_id, window_start, reason, customer, rows, quantity)
select %(meter_id)s, window_start, 'withheld: another row of this customer and window is unusable',
       customer, count(*), sum(quantity)
  from reading
 where reason is null
   and (window_start, customer) in (select window_start, customer from reading
                                     where reason is not null and customer is not null)
 group by window_start, customer
"""

MOVE_MARK = """
update aggregator.meter
   set mark = case when %(start)s <= mark and mark < %(end)s then %(end)s else mark end,
       reread_from = %(reread_from)s,
       swept = %(swept)s,
       lease_until = greatest(lease_until, clock_timestamp() + %(length)s)
 where id = %(meter_id)s
"""

MOVE_FEEDS = """
update aggregator.feed set read_until = %(end)s
 where id = any(%(feeds)s) and %(start)s <= read_until and read_until < %(end)s
"""

RECORD_RUN = """
insert into aggregator.run
       (meter_id, kind, span, goal, started_at, seconds, rows, changed, planned, held, refused, deferred, epoch, fingerprint,
        error)
values (%(meter_id)s, %(kind)s, %(span)s, %(goal)s, %(started_at)s, %(seconds)s, %(rows)s, %(changed)s, %(planned)s,
        %(held)s, %(refused)s, %(deferred)s, %(epoch)s, %(fingerprint)s, %(error)s)
returning id
"""

FINISH_RUN = """
update aggregator.run
   set seconds = %(seconds)s, changed = %(changed)s, planned = %(planned)s, held = %(held)s, refused = %(refused)s,
       deferred = %(deferred)s
 where id = %(run_id)s
"""

# A pass that did nothing, or failed in the same way, says no more than the one before it: the newest of a row of them stays.
FORGET_LIKE = """
delete from aggregator.run as old using aggregator.run as new
 where new.id = %(run_id)s
   and old.id = (select max(id) from aggregator.run where meter_id = new.meter_id and id < new.id)
   and old.kind = 'live' and new.kind = 'live'
   and old.changed = 0 and new.changed = 0 and old.deferred = 0 and new.deferred = 0
   and old.error is not distinct from new.error
"""

RESUME_BACKFILL = """
select upper(span) from aggregator.run
 where meter_id = %(meter_id)s and kind = 'backfill' and goal = %(goal)s and error is null
   and fingerprint = %(fingerprint)s and started_at > %(recent)s
 order by id desc limit 1
"""


RESUME_WITHIN = dt.timedelta(hours=1)
"""A backfill that was interrupted longer ago begins anew."""


class Pass(NamedTuple):
    """What is to be done in one pass, and on whose behalf."""

    kind: str
    span: Span
    goal: Span
    now: dt.datetime
    swept: dt.datetime | None = None


class Passes:
    """The verbs about passes. `lease` is how long a holder may be silent; `elapsed` tells seconds, to measure with."""

    def __init__(self, database: Database, lease: dt.timedelta, elapsed: Callable[[], float]) -> None:
        self._database = database
        self._lease = lease
        self._elapsed = elapsed

    def commit(self, lease: Lease, spool: Spool, this: Pass, decide: Decide) -> Tally:
        """Compare what was read with the ledger, plan, and commit it all with the mark.

        Raises LeaseLost when another process holds the meter by now, InvariantBroken when the database refuses the plan;
        in both cases nothing was written.
        """
        began = self._elapsed()
        tally = Tally(rows=spool.rows, aside=spool.aside)
        with self._database.transaction() as connection:
            held = connection.execute(HOLD_METER, _whose(lease)).fetchone()
            if held is None:
                raise LeaseLost
            mark, reread_from = held
            _stage(connection, spool)
            run_id = self._record(connection, lease, this, tally, began, None)
            with ThreadPoolExecutor(1, "ledger-io") as io:
                for feed in lease.registered.feeds:
                    decisions = decide(feed, _changes(connection, io, feed, this.span))
                    Writer(connection, io, feed, run_id, this.now).write(tally.counting(decisions))
            _void(connection, tally.voided, this.now)
            _set_aside(connection, lease.registered, this.span)
            waiting = [_left_to_read(reread_from, this.span, mark), tally.oldest_deferred]
            values = {
                "meter_id": lease.registered.id,
                "feeds": [feed.id for feed in lease.registered.feeds],
                "start": this.span.start,
                "end": this.span.end,
                "reread_from": min((start for start in waiting if start is not None), default=None),
                "swept": this.swept,
                "length": self._lease,
            }
            connection.execute(MOVE_MARK, values)
            connection.execute(MOVE_FEEDS, values)
            connection.execute(
                FINISH_RUN, {**_figures(tally), "run_id": run_id, "seconds": self._elapsed() - began}
            )
            connection.execute(FORGET_LIKE, {"run_id": run_id})
        return tally

    def preview(
        self, registered: Registered, spool: Spool, span: Span, decide: Decide
    ) -> Iterator[tuple[Feed, Decision]]:
        """Yield what a pass would do, and write nothing. Close the iterator to end its transaction early."""
        with self._database.transaction() as connection, ThreadPoolExecutor(1, "ledger-io") as io:
            _stage(connection, spool)
            for feed in registered.feeds:
                for decision in decide(feed, _changes(connection, io, feed, span)):
                    yield feed, decision

    def record_failure(self, lease: Lease, this: Pass, seconds: float, error: str) -> None:
        """Note that a pass failed, and why; nothing else of it is in the ledger."""
        with self._database.transaction() as connection:
            run_id = self._record(connection, lease, this, Tally(), self._elapsed() - seconds, error)
            connection.execute(FORGET_LIKE, {"run_id": run_id})

    def resume_backfill(self, registered: Registered, goal: Span, now: dt.datetime) -> dt.datetime | None:
        """Return how far a backfill of exactly this range by this definition came that was interrupted just now, or None.

        After a while, or under another query, what was read may no longer be what there is: then it begins anew, which
        costs reading and nothing else.
        """
        values = {
            "meter_id": registered.id,
            "goal": TimestamptzRange(*goal),
            "fingerprint": registered.meter.fingerprint,
            "recent": now - RESUME_WITHIN,
        }
        with self._database.transaction() as connection:
            row = connection.execute(RESUME_BACKFILL, values).fetchone()
        return row[0] if row and row[0] < goal.end else None

    def _record(
        self, connection: Connection, lease: Lease, this: Pass, tally: Tally, began: float, error: str | None
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
                "seconds": self._elapsed() - began,
                "rows": tally.rows,
                "epoch": lease.epoch,
                "fingerprint": lease.registered.meter.fingerprint,
                "error": error,
            },
        ).fetchone()
        assert row is not None
        return int(row[0])


def _whose(lease: Lease) -> dict[str, object]:
    return {"meter_id": lease.registered.id, "epoch": lease.epoch, "owner": lease.owner}


def _figures(tally: Tally) -> dict[str, int]:
    return {
        "changed": tally.changed,
        "planned": tally.planned,
        "held": tally.held,
        "refused": tally.refused,
        "deferred": tally.deferred,
    }


def _stage(connection: Connection, spool: Spool) -> None:
    """Bring the readings into the transaction, and sum them per slot."""
    connection.execute(WORK_MEMORY)
    connection.execute(CREATE_STAGING)
    with connection.cursor().copy(COPY_READINGS) as copy:
        for block in spool.blocks():
            copy.write(block)
    connection.execute("analyze reading")


def _changes(connection: Connection, io: Executor, feed: Feed, span: Span) -> Iterator[Change]:
    """Yield the slots of a feed that differ from what was read, customer by customer.

    `io` fetches a batch ahead, between whatever else it has to do on the connection.
    """
    values = {"feed_id": feed.id, "start": span.start, "end": span.end, "since": feed.since}
    cursor = connection.cursor(name=f"changed_{feed.id}")
    try:
        io.submit(cursor.execute, CHANGED, values, binary=True).result()
        upcoming = io.submit(cursor.fetchmany, BATCH)
        while rows := upcoming.result():
            upcoming = io.submit(cursor.fetchmany, BATCH)
            for row in rows:
                yield _change(row)
    finally:
        io.submit(cursor.close).result()


def _change(row: tuple[Any, ...]) -> Change:
    """Make a change of a row of CHANGED, in which null stands for what a new or an untroubled slot has."""
    slot, event, customer, start, before, now, at, *booked, carry, tail, parked, delta, new = row
    carry = carry or ZERO
    if slot is None:
        return Change._make(
            (new, event, customer, start, ZERO, now, at, *UNBOOKED, carry, *UNTROUBLED, False)
        )
    trouble = (Tail(tail), parked, delta or ZERO) if tail else UNTROUBLED
    return Change._make((slot, event, customer, start, before, now, at, *booked, carry, *trouble, True))


def _left_to_read(since: dt.datetime | None, span: Span, mark: dt.datetime) -> dt.datetime | None:
    """Return from where old windows are still to be read again for changes that waited, now that a span was read.

    `since` is where the oldest of them was; what waited behind the span's end is not settled by having read the span.
    """
    if since is None or since not in span:
        return since
    return span.end if span.end < mark else None


def _void(connection: Connection, events: list[EventId], now: dt.datetime) -> None:
    """Withdraw parked events that newer plans replace. If a person released one meanwhile, nothing is committed."""
    if not events:
        return
    done = connection.execute(REPLACE_PARKED, {"events": events, "now": now}).rowcount
    if done != len(events):
        raise LeaseLost("A parked event was released while it was being replaced; nothing was written.")


def _set_aside(connection: Connection, registered: Registered, span: Span) -> None:
    values = {"meter_id": registered.id, "start": span.start, "end": span.end}
    connection.execute(FORGET_ASIDE, values)
    connection.execute(SET_ASIDE, values)
    connection.execute(SET_WITHHELD_ASIDE, values)
