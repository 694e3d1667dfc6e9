"""One pass over one span of one meter, as one transaction: all of it is committed, or nothing is.

Rules
- SQL finds what changed, the planner decides, COPY writes. A slot that did not change costs no Python.
- The readings are brought over first, and then the meter's row is locked and the epoch compared: whoever lost the lease
  commits nothing, and whoever is paused while bringing much over holds nobody up.
- No time limit of the server ends a COPY whose client is silent. So a holder says by an advisory lock which session it is,
  and whoever finds its lease run out, and that session waiting for its client, ends it (`silent_holder`).
- Slots, events, carries, unmapped rows, the mark and the record of the pass go together. Nothing is sent from here.
- A window that loses too much at once is believed at the second reading: until then decreases are held, and the mark stays.
  The increases of one that is swollen are held, and the mark goes on.
- A window that the source cannot give is noted as unread, and the mark goes on behind it: the others do not wait for it.
- Writing goes in batches between fetches from one cursor, so that memory stays bounded whatever the number of customers.
  One thread talks to the server meanwhile, so that its work and the planner's overlap.
"""

import datetime as dt
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import NamedTuple, Protocol

from psycopg.types.range import TimestamptzRange

from aggregator.core import definitions
from aggregator.core.model import Change, Decision, Definition, EventId, Span, Swollen, WriteModel
from aggregator.errors import LeaseLost, LedgerStopped, LedgerUnreachable
from aggregator.ledger import combinations, customers
from aggregator.ledger.database import Connection, Database, Part
from aggregator.ledger.feeds import MOVE_FEEDS
from aggregator.ledger.identity import LedgerIdentity
from aggregator.ledger.meters import RENEW, Feed, Lease, Registered
from aggregator.ledger.passes import (
    evidence,
    reassert,
    records,
    shrink_guard,
    together,
    touched,
    unchanged,
    usual,
)
from aggregator.ledger.passes.changes import changes, note_unmapped, same, stage
from aggregator.ledger.passes.holding import hold, refuse_closed
from aggregator.ledger.passes.records import Pass
from aggregator.ledger.passes.shrink_guard import Fallen, Shrunk
from aggregator.ledger.passes.spool import Spool
from aggregator.ledger.passes.stats import Tally
from aggregator.ledger.passes.unchanged import LeftAs, Unchanged
from aggregator.ledger.passes.usual import Past, Swelled
from aggregator.ledger.passes.writer import Writer
from aggregator.ledger.review import moves
from aggregator.runtime import failpoints

__all__ = ["Decide", "Pass", "Passes"]

SIGN_OF_LIFE_SECONDS = 1.0
"""How often staging renews the lease: often enough for the shortest one."""

REPLACE_PARKED = """
with gone as (
    delete from aggregator.parked
     where event_id = any(%(events)s) and state in ('held', 'refused') returning event_id, was_accepted
)
update aggregator.event_at_rest as event
   set state = 'void', settled_at = %(now)s, reason = 'replaced by a newer plan'
  from gone where event.id = gone.event_id and event.state in ('held', 'refused')
returning event.id, gone.was_accepted
"""

# A slot may have several events that the sink rejected; each pass plans one of them anew. Only after one of those comes the
# next: what is held or refused at once is so again, pass after pass, and would be replaced for ever without their turn.
REPLAN_NEXT = """
with left_over as (
    update aggregator.slot set replan = true
      from aggregator.event as gone
     cross join lateral aggregator.events_of(gone.slot_id) as other
      join aggregator.parked on parked.event_id = other.id and parked.was_accepted and parked.dismissed_at is null
     where gone.id = any(%(events)s) and slot.feed_id = gone.feed_id and slot.window_start = gone.window_start
       and slot.customer = gone.customer and slot.combination = gone.combination
       and not exists (select from aggregator.parked as held where held.event_id = slot.tail and held.state = 'held')
    returning slot.window_start
)
select min(window_start) from left_over
"""

MOVE_MARK = """
update aggregator.meter
   set mark = case when %(moves)s and %(start)s <= mark and mark < %(end)s then %(end)s else mark end,
       hourly_at = case when %(hourly)s then %(now)s else hourly_at end,
       daily_at = case when %(daily)s then %(now)s else daily_at end,
       reread_from = %(reread_from)s,
       swept = %(swept)s,
       seen_until = greatest(seen_until, %(seen)s),
       lease_until = greatest(lease_until, clock_timestamp() + %(length)s)
 where id = %(meter_id)s
"""

READ_AT_LAST = """
delete from aggregator.unread
 where meter_id = %(meter_id)s and window_start >= %(start)s and window_start < %(end)s
"""

# It is asked for again after an hour, two, four, and then once a day.
SET_UNREAD = """
insert into aggregator.unread (meter_id, window_start, reason, since, next_at)
values (%(meter_id)s, %(start)s, %(reason)s, %(now)s, %(now)s + interval '1 hour')
    on conflict (meter_id, window_start) do update
       set reason = excluded.reason, tries = unread.tries + 1,
           next_at = %(now)s + least(interval '1 hour' * power(2, unread.tries), interval '1 day')
"""

RESUME_BACKFILL = """
select lower(span), upper(span), fingerprint from aggregator.pass
 where meter_id = %(meter_id)s and kind = 'backfill' and goal = %(goal)s and error is null
   and started_at > %(recent)s
 order by id desc limit 1
"""

RESUME_WITHIN = dt.timedelta(hours=1)
"""A backfill that was interrupted longer ago begins anew."""


class Decide(Protocol):
    """What the planner makes of the changes of one feed.

    `guarded` is whether the shrink guard holds every decrease; `swollen`, in which windows every increase is held.
    """

    def __call__(  # noqa: D102
        self, feed: Feed, changes: Iterable[Change], *, guarded: bool, swollen: Mapping[dt.datetime, Swollen]
    ) -> Iterable[Decision]: ...


class Held(NamedTuple):
    """What a pass holds, because it was found when it was written before: windows that fell, and those that are swollen."""

    fallen: Sequence[Fallen] = ()
    swollen: Mapping[int, Mapping[dt.datetime, Swollen]] = {}
    """By feed."""

    def and_swollen(self, swelled: Swelled) -> "Held":
        """Return the same with more windows that are swollen."""
        windows = {**self.swollen.get(swelled.feed.id, {}), **swelled.windows}
        return self._replace(swollen={**self.swollen, swelled.feed.id: windows})


ARCHIVED_UNTIL = "select archived_until from aggregator.meter where id = %(meter_id)s"
DOUBTFUL = "select window_start from aggregator.doubtful_window where meter_id = %(meter_id)s"


class Passes(Part):
    """The verbs about passes. `lease` is how long a holder may be silent; `elapsed` tells seconds, to measure with.

    `identity` tells whether the ledger is still the one it was; without it nobody asks.
    """

    def __init__(
        self,
        database: Database,
        lease: dt.timedelta,
        elapsed: Callable[[], float],
        identity: LedgerIdentity | None = None,
    ) -> None:
        super().__init__(database)
        self._identity = identity
        self._lease = lease
        self._elapsed = elapsed

    def commit(self, lease: Lease, spool: Spool, this: Pass, decide: Decide) -> Tally:
        """Compare what was read with the ledger, plan, and commit it all with the mark.

        Raises LeaseLost when another process holds the meter by now, LedgerStopped when the ledger is not to be written,
        QueryRejected when the meter has more combinations than it may, InvariantBroken when the database refuses the plan;
        MonthClosed when windows of the span are archived; in each case nothing was written.
        """
        held = Held()
        while True:  # what falls is found once, and of what is swollen there is more each time
            try:
                return self._commit(lease, spool, this, decide, held)
            except Shrunk as shrunk:
                held = held._replace(fallen=shrunk.windows)
            except Swelled as swelled:
                held = held.and_swollen(swelled)

    def _commit(self, lease: Lease, spool: Spool, this: Pass, decide: Decide, held: Held) -> Tally:
        """Write the pass, with what is to be held. Raises Shrunk and Swelled for what it finds of that only now."""
        began = self._elapsed()
        registered, fallen = lease.registered, held.fallen
        past = usual.past_of(registered.meter, lease.definitions, this.span.start)
        with self._database.transaction() as connection:
            stage(connection, spool, registered.meter.unit, self._signs_of_life(lease))
            failpoints.passing("readings_staged")
            mark, reread_from = hold(connection, lease, self._identity, this.span)
            known = combinations.take_in(connection, registered, spool.combinations)
            tally = Tally(rows=spool.rows, unmapped_rows=spool.unmapped_rows, mark=mark, guarded=len(fallen))
            tally.adds_up = past is not None and past.sums
            pass_id = tally.pass_id = records.begin(connection, lease, this, tally, self._elapsed() - began)
            reassert.take_up(connection, registered.feeds, this.span, this.now)
            alike = same(connection, registered.feeds, this.span, spool, registered.meter.unit)
            with ThreadPoolExecutor(1, "ledger-io") as io:
                for feed, coverage in zip(registered.feeds, lease.coverages, strict=True):
                    tally.mark = min(mark, coverage.read_until)
                    may_move = moves.may_move(registered, feed)
                    swollen = held.swollen.get(feed.id, {})
                    found = changes(
                        connection,
                        io,
                        feed,
                        this.span,
                        past,
                        noise=spool.noise,
                        unit=registered.meter.unit,
                        more=this.more,
                        combinations=known,
                        moving=lease.is_mapped and feed.model is not WriteModel.LAST,
                    )
                    changed = () if feed.id in alike else found
                    decisions = decide(feed, changed, guarded=bool(fallen), swollen=swollen)
                    backfill = this.kind == "backfill"
                    writer = Writer(
                        connection, io, feed, pass_id, this.now, backfill=backfill, may_move=may_move
                    )
                    writer.write(tally.counting(decisions))
                    tally.reread.update(tally.moved)
                    if writer.fell:
                        tally.held += moves.hold(connection, feed, pass_id, this.now)
                    if lease.is_mapped and may_move:
                        tally.held += moves.hold_declared(connection, registered.id, feed, pass_id, this.now)
                    reassert.note(connection, feed, pass_id, this.now)
                    _guard(connection, lease, feed, this, past, tally, held)
            tally.held += moves.hold_across(connection, lease, pass_id, this.now)
            if tally.changed:
                evidence.note(connection, registered, pass_id, mark, tally.reread)
            reassert.note_given_up(connection, registered.feeds, tally.voided, this.now)
            moves.keep(connection, registered.feeds, pass_id, tally.voided, this.now)
            once_more = _void(connection, tally.voided, this.now)
            moves.part(connection, registered.feeds, this.now)
            note_unmapped(connection, registered, this.span)
            shrink_guard.note_or_believe(connection, registered, this.span, this.now, fallen)
            left = (_left_to_read(reread_from, this, mark), tally.oldest_deferred, once_more)
            oldest = _oldest_waiting(connection, lease, left, this.now)
            self._move(connection, lease, this, oldest, stays=bool(fallen))
            connection.execute(READ_AT_LAST, _where(lease, this))
            if this.kind == "live":
                records.count_live(connection, registered, this, tally)
            records.finish(connection, pass_id, tally, self._elapsed() - began)
            failpoints.passing("pass_written")
        failpoints.passing("pass_committed")
        return tally

    def set_unread(self, lease: Lease, this: Pass, reason: str) -> None:
        """Note one window as unread that the source could not give; the mark goes on behind it. Raises LeaseLost."""
        with self._database.transaction() as connection:
            _, reread_from = hold(connection, lease, self._identity, this.span)
            connection.execute(SET_UNREAD, {**_where(lease, this), "now": this.now, "reason": reason})
            this = this._replace(hourly=False, daily=False, touched=None)
            self._move(connection, lease, this, reread_from, stays=False)
            records.note_failure(connection, lease, this, 0.0, reason)

    def _move(
        self,
        connection: Connection,
        lease: Lease,
        this: Pass,
        reread_from: dt.datetime | None,
        *,
        stays: bool,
    ) -> None:
        """Move the mark over the span, if it stood in it and may go on, and note what is to be read again, and when."""
        values = {
            **_where(lease, this),
            "feeds": [feed.id for feed in lease.registered.feeds],
            "now": this.now,
            "moves": not stays,
            "hourly": this.hourly and not stays,
            "daily": this.daily and not stays,
            "reread_from": reread_from,
            "swept": this.swept,
            "seen": this.seen,
            "length": self._lease,
        }
        connection.execute(MOVE_MARK, values)
        connection.execute(MOVE_FEEDS, values)
        changed = lease.registered.meter.changed
        if this.touched is not None and changed is not None and not stays:
            touched.move(connection, lease.registered.id, changed, this.touched, this.now)

    def _signs_of_life(self, lease: Lease) -> Callable[[], None]:
        """Return what renews the lease from time to time, on another connection; the epoch decides in any case.

        It does not wait for one: the transaction that it speaks for is open meanwhile, and would wait with it.
        """
        latest = self._elapsed()

        def alive() -> None:
            nonlocal latest
            if self._elapsed() - latest >= SIGN_OF_LIFE_SECONDS:
                latest = self._elapsed()
                with (
                    suppress(LedgerUnreachable),
                    self._database.transaction(wait_seconds=SIGN_OF_LIFE_SECONDS) as connection,
                ):
                    connection.execute(RENEW, {**lease.key, "length": self._lease})

        return alive

    def doubtful_windows(self, registered: Registered) -> frozenset[dt.datetime]:
        """Return of which windows, by their starts, an adoption could not tell whose usage they hold."""
        return frozenset(start for (start,) in self._rows(DOUBTFUL, {"meter_id": registered.id}))

    def preview(
        self, registered: Registered, spool: Spool, span: Span, decide: Decide, known: Sequence[Definition]
    ) -> Iterator[tuple[Feed, Decision]]:
        """Yield what a pass would do, and write nothing. Close the iterator to end its transaction early.

        Whether a window is swollen shows when it is written: nothing is held for that here.
        """
        past = usual.past_of(registered.meter, known, span.start)
        is_mapped = definitions.are_mapped(known)
        with self._database.transaction() as connection, ThreadPoolExecutor(1, "ledger-io") as io:
            [until] = connection.execute(ARCHIVED_UNTIL, {"meter_id": registered.id}).fetchone() or [None]
            refuse_closed(registered.meter.name, until, span)
            unit = registered.meter.unit
            stage(connection, spool, unit)
            apart = combinations.known_to(connection, registered, spool.combinations)
            for feed in registered.feeds:
                found = changes(
                    connection,
                    io,
                    feed,
                    span,
                    past,
                    noise=spool.noise,
                    unit=unit,
                    combinations=apart,
                    moving=is_mapped and feed.model is not WriteModel.LAST,
                )
                for decision in decide(feed, found, guarded=False, swollen={}):
                    yield feed, decision

    def record_failure(self, lease: Lease, this: Pass, seconds: float, error: str) -> None:
        """Note that a pass failed, and why; nothing else of it is in the ledger."""
        with self._database.transaction() as connection:
            records.note_failure(connection, lease, this, seconds, error)

    def note_missed(self, lease: Lease, windows: int, now: dt.datetime) -> None:
        """Count windows in which a full reading found what the source had never named. Raises LeaseLost."""
        with self._database.transaction() as connection:
            hold(connection, lease, self._identity)
            touched.note_missed(connection, lease.registered.id, windows, now)

    def note_unchanged(self, found: Sequence[Unchanged], now: dt.datetime, seconds: float) -> set[int]:
        """Note that meters were looked at, without a lease, and nothing is new; return the ids of those with no more to do.

        Raises LedgerStopped when the ledger is not to be written.
        """
        with self._database.transaction() as connection:
            noted = unchanged.note(connection, found, now, seconds)
            stopped = self._identity.stopped(connection) if self._identity is not None else None
            if stopped is not None:
                raise LedgerStopped(stopped)
            return noted

    def left_as(self, registered: Sequence[Registered]) -> dict[str, LeftAs]:
        """Return, by name, how the last rounds left those of these meters in which they left nothing to be done or said."""
        with self._database.transaction() as connection:
            return unchanged.left_as(connection, registered)

    def resume_backfill(
        self, registered: Registered, goal: Span, known: Sequence[Definition], now: dt.datetime
    ) -> dt.datetime | None:
        """Return how far a backfill of exactly this range by these definitions came that was interrupted just now, or None.

        After a while, or under another query, what was read may no longer be what there is: then it begins anew, which
        costs reading and nothing else.
        """
        values = {"meter_id": registered.id, "goal": TimestamptzRange(*goal), "recent": now - RESUME_WITHIN}
        row = self._row(RESUME_BACKFILL, values)
        if row is None or row[1] >= goal.end or definitions.at(known, row[0]).fingerprint != row[2]:
            return None
        return row[1]  # type: ignore[no-any-return]  # the end of a span


def _guard(
    connection: Connection, lease: Lease, feed: Feed, this: Pass, past: Past | None, tally: Tally, held: Held
) -> None:
    """Let guards look at what was written of a feed. Raises Shrunk and Swelled for what is to be held."""
    if not held.fallen:
        shrink_guard.check(connection, lease.registered, feed, tally)
    usual.check(connection, feed, this.span, past, tally, this.now)
    together.let_go(connection, feed, this, past, tally, held.swollen.get(feed.id, {}))


def _where(lease: Lease, this: Pass) -> dict[str, object]:
    return {"meter_id": lease.registered.id, "start": this.span.start, "end": this.span.end}


def _oldest_waiting(
    connection: Connection,
    lease: Lease,
    left: Iterable[dt.datetime | None],
    now: dt.datetime,
) -> dt.datetime | None:
    """Return from where old windows are to be read again: for what was left, for a second look, to be sent again, or for a
    customer who is known by now.
    """
    registered = lease.registered
    sealed = registered.meter.sealed_until(now)
    waiting = [
        *left,
        shrink_guard.waiting(connection, registered, sealed),
        reassert.waiting(connection, registered.feeds, sealed, now),
        customers.ready(connection, registered.id, sealed) if lease.is_mapped else None,
    ]
    return min((each for each in waiting if each), default=None)


def _left_to_read(since: dt.datetime | None, this: Pass, mark: dt.datetime) -> dt.datetime | None:
    """Return from where old windows are still to be read again for changes that waited, now that a span was read.

    `since` is where the oldest of them was; what waited behind the span's end is not settled by having read the span.
    """
    if since is None or since not in this.span:
        return since
    if this.rest_read:
        return this.rest_waits
    return this.span.end if this.span.end < mark else None


def _void(connection: Connection, events: list[EventId], now: dt.datetime) -> dt.datetime | None:
    """Withdraw parked events that newer plans replace. If a person released one meanwhile, nothing is committed.

    Return the oldest window in which another event that came to nothing is still to be planned anew; None if none is.
    """
    if not events:
        return None
    gone = connection.execute(REPLACE_PARKED, {"events": events, "now": now}).fetchall()
    if len(gone) != len(events):
        raise LeaseLost("A parked event was released while it was being replaced; nothing was written.")
    rejected = [event for event, was_accepted in gone if was_accepted]
    row = connection.execute(REPLAN_NEXT, {"events": rejected}).fetchone() if rejected else None
    return row[0] if row else None
