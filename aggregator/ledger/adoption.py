"""What an adoption asks of the ledger and writes into it: all of it in one transaction, or nothing.

Rules
- The meters are held first, then their outboxes, the identity last: the order in which passes and claims take them, so that
  none waits for the other in a ring. Every meter gets a new epoch: a pass that began before commits nothing.
- The identity must be as it was when the sinks were asked: stopped, in the same generation, with the same count.
- Nothing that an event says is changed, and none is deleted: what is withdrawn is void, what is taken over is a new event.
- Of customers that are left, nothing is touched: their events go out as they are, under their names, which a sink may know.
"""

import datetime as dt
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from itertools import groupby
from operator import attrgetter
from typing import NamedTuple

from psycopg.types.range import TimestamptzRange

from aggregator.core import dimensions as apart_by
from aggregator.core.dimensions import Dimensions
from aggregator.core.model import Span
from aggregator.core.rebase import Moved, SlotComparison, rebase
from aggregator.errors import LedgerError
from aggregator.ledger import combinations
from aggregator.ledger.at_rest import to_rest
from aggregator.ledger.database import Connection, Part, streamed
from aggregator.ledger.identity import Pinned
from aggregator.ledger.meters import Feed
from aggregator.ledger.passes.changes import stage
from aggregator.ledger.passes.copy_format import NULL, copy, instant, text
from aggregator.ledger.passes.spool import Spool
from aggregator.ledger.passes.writer import BATCH

TAKEN_OVER = "taken over from the sink's own totals"
WITHDRAWN = "withdrawn: the ledger was re-based on the sink's own totals"

LAST_CLAIM = "select claimed_at from aggregator.claim order by id desc limit 1"

OPEN_CANCELLATIONS = """
select event_id from aggregator.cancellation
 where settled_at is null and (unsure or state in ('taken', 'lapsed')) order by 1 limit 20
"""

UNREAD = "select window_start from aggregator.unread where meter_id = %(meter_id)s order by 1"

FEEDS = """
select meter.name, sink.name from aggregator.feed
  join aggregator.meter on meter.id = feed.meter_id join aggregator.sink on sink.id = feed.sink_id
 order by 1, 2
"""

# What was planned before the feed had its terms is compared, too.
OUTERMOST = """
select min(window_start), max(window_start) from aggregator.slot
 where feed_id = %(feed_id)s and window_start >= %(oldest)s and window_start < %(end)s
"""

CREATE_COUNTED = """
create temporary table counted (
    window_start timestamptz, customer text collate "C", total numeric, kept_at timestamptz, combination bigint
) on commit drop
"""

COUNTED = "window_start, customer, total, kept_at, combination"

# Every slot of a feed over a span, as the ledger, the source (`reading`) and the sink (`counted`) have it. Of a slot with an
# unusable row, a window that is sealed, could not be read or is not the feed's any more, the source's word is not known.
# A customer whom a mapping has named of late may have been billed for what seems to be another one's: it has a row anyway.
STANDS = """
with waiting as (
    select event.slot_id, sum(event.delta) as delta, count(*) as events
      from (select event_id from aggregator.outbox where feed_id = %(feed_id)s
             union select event_id from aggregator.parked where feed_id = %(feed_id)s) as open
      join aggregator.event on event.id = open.event_id
     group by event.slot_id
), slot as (
    select * from aggregator.slot
     where feed_id = %(feed_id)s and window_start >= %(start)s and window_start < %(end)s
), seen as (
    select window_start, customer, combination, sum(quantity) as quantity, bool_or(reason is not null) as spoilt
      from reading
     where customer is not null and combination is not null
       and window_start >= greatest(%(start)s, %(since)s) and window_start < %(until)s
     group by window_start, customer, combination
), named as (
    select distinct %(start)s::timestamptz as window_start, customer.customer, 0::bigint as combination
      from aggregator.customer join aggregator.mapping on mapping.id = customer.mapping_id
     where customer.customer is not null and customer.seen_at >= %(start)s
       and mapping.name in (select definition.customers
                              from aggregator.feed join aggregator.definition using (meter_id)
                             where feed.id = %(feed_id)s)
)
select found.customer, found.window_start, found.slot_id, coalesce(found.revision, 0), coalesce(found.quantity, 0),
       coalesce(found.total, 0), coalesce(waiting.delta, 0), coalesce(waiting.events, 0), coalesce(carry.amount, 0),
       case when found.window_start < greatest(%(readable)s, %(since)s) or found.window_start >= %(until)s
                 or found.window_start = any(%(unread)s) or found.spoilt then null
            else coalesce(found.truth, 0) end,
       found.counted,
       case when %(shadowed)s and found.tail is not null
            then (select event.state = 'shadow' from aggregator.event where event.id = found.tail) else false end,
       found.stamped_at, found.kept_at, found.combination
  from (
        select customer, window_start, combination, slot.id as slot_id, slot.revision, slot.quantity, slot.total, slot.tail,
               slot.stamped_at, seen.quantity as truth, seen.spoilt, counted.total as counted, counted.kept_at
          from slot
          full join seen using (window_start, customer, combination)
          full join counted using (window_start, customer, combination)
          full join named using (window_start, customer, combination)
       ) as found
  left join waiting on waiting.slot_id = found.slot_id
  left join aggregator.carry on carry.feed_id = %(feed_id)s and carry.customer = found.customer
                            and carry.combination = found.combination
 order by found.customer, found.combination, found.window_start
"""

HOLD_METERS = """
update aggregator.meter
   set epoch = epoch + 1, lease_owner = null, lease_until = null
 where id in (select id from aggregator.meter order by id for update)
"""

# A restore is noticed only at the next claim, or by the next host that has lost one. What is sampled before that rises from
# a value of the backup, so it holds what was billed since. Nobody knows when that was: so all that was ever sampled is in
# doubt that a sink has not counted.
DOUBT_SAMPLED = """
update aggregator.meter
   set doubtful_until = greatest(start_at, doubtful_until,
                                 (select max(at) from aggregator.sampling where meter_id = meter.id),
                                 (select max(at) from aggregator.series where meter_id = meter.id))
 where read = 'counters'
"""

# The next pass reads everything again that is re-based here.
READ_AGAIN = """
update aggregator.meter
   set reread_from = case when %(start)s < mark then least(reread_from, %(start)s) else reread_from end,
       hourly_at = null, daily_at = null, swept = null
 where id = %(meter_id)s
"""

FORGET_GUARDED = "delete from aggregator.guarded where meter_id = %(meter_id)s and window_start >= %(start)s"

# Whose usage a key's is may have changed in what the ledger has forgotten: then it was billed to another customer. What was
# in doubt for an earlier adoption and can be billed no more is let go.
FORGET_DOUBTFUL = (
    "delete from aggregator.doubtful_window where meter_id = %(meter_id)s and window_start < %(start)s"
)

ADD_DOUBTFUL = """
insert into aggregator.doubtful_window (meter_id, window_start)
select %(meter_id)s, window_start from unnest(%(doubtful)s::timestamptz[]) as window_start
 where exists (select from aggregator.definition where meter_id = %(meter_id)s and customers is not null)
 order by window_start on conflict do nothing
"""

RECORD = """
insert into aggregator.pass (meter_id, kind, span, goal, started_at, seconds, epoch, fingerprint)
select id, 'adoption', %(span)s, %(span)s, %(now)s, 0, epoch, fingerprint from aggregator.meter where id = %(meter_id)s
returning id
"""

FINISH_RECORD = "update aggregator.pass set changed = %(changed)s where id = %(pass_id)s"

HOLD_OUTBOX = "select from aggregator.outbox where feed_id = %(feed_id)s order by event_id for update"

FIND_OPEN = """
create temporary table withdrawn on commit drop as
select event.id from aggregator.event
 where event.id in (select event_id from aggregator.outbox where feed_id = %(feed_id)s
                     union select event_id from aggregator.parked where feed_id = %(feed_id)s)
   and event.window_start >= %(start)s and event.window_start < %(end)s
   and event.customer <> all(%(left)s)
   and not exists (select from aggregator.slot join aggregator.event as latest on latest.id = slot.tail
                    where (slot.feed_id, slot.window_start, slot.customer, slot.combination)
                        = (event.feed_id, event.window_start, event.customer, event.combination)
                      and latest.state = 'shadow')
"""

WITHDRAW = (
    "update aggregator.outbox set claim_id = null where event_id in (select id from withdrawn) and claim_id is not null",
    """
    update aggregator.event_at_rest set state = 'void', settled_at = %(now)s, reason = %(withdrawn)s
     where id in (select id from withdrawn)
    """,
    f"""
    with gone as (delete from aggregator.outbox where event_id in (select id from withdrawn) returning *)
    {to_rest("gone", state="'void'", reason="%(withdrawn)s", settled_at="%(now)s")} from gone
    """,  # noqa: S608 - our own text
    "delete from aggregator.parked where event_id in (select id from withdrawn)",
    "drop table withdrawn",
    """
    update aggregator.slot set replan = false
     where feed_id = %(feed_id)s and replan and window_start >= %(start)s and window_start < %(end)s
       and customer <> all(%(left)s)
    """,
    """
    update aggregator.readback set done_at = %(now)s, found = 'settled by an adoption'
     where feed_id = %(feed_id)s and done_at is null
    """,
)

CLOSE_CLAIMS = """
update aggregator.claim set settled_at = %(now)s
 where settled_at is null
   and not exists (select from aggregator.outbox where event_id = any(claim.events) and claim_id = claim.id)
"""

CREATE_MOVED = """
create temporary table moved (
    slot_id bigint, event_id bigint, known boolean, revision integer, window_start timestamptz, customer text collate "C",
    quantity numeric, total numeric, delta numeric, identifier text, kept_at timestamptz, combination bigint
) on commit drop
"""

MOVED = "slot_id, known, revision, window_start, customer, quantity, total, delta, identifier, kept_at, combination"

CREATE_CARRIES = """
create temporary table carries (customer text collate "C", combination bigint, amount numeric) on commit drop
"""

WRITE = (
    "update moved set event_id = nextval('aggregator.event_id') where delta <> 0",
    """
    update moved set slot_id = coalesce(event_id, slot_id, nextval('aggregator.event_id')) where revision = 0
    """,
    """
    insert into aggregator.event_at_rest
           (id, slot_id, pass_id, feed_id, revision, window_start, at, planned_at, settled_at, state, attempts, customer,
            identifier, delta, total, reason, combination)
    select event_id, nullif(slot_id, event_id), %(pass_id)s, %(feed_id)s, nullif(revision, 0), window_start,
           coalesce(kept_at, window_start), %(now)s, %(now)s, 'confirmed', 0, customer, identifier, delta, total,
           %(taken_over)s, nullif(combination, 0)
      from moved where delta <> 0 order by event_id
    """,
    """
    insert into aggregator.slot
           (id, feed_id, revision, window_start, customer, quantity, total, stamped_at, tail, combination)
    select slot_id, %(feed_id)s, case when event_id is null then 0 else 1 end, window_start, customer, quantity, total,
           coalesce(kept_at, case when event_id is not null then window_start end), event_id, combination
      from moved where not known order by slot_id
    """,
    """
    update aggregator.slot
       set id = moved.slot_id, quantity = moved.quantity, total = moved.total, tail = coalesce(moved.event_id, slot.tail),
           revision = slot.revision + case when moved.event_id is null then 0 else 1 end,
           stamped_at = coalesce(
               moved.kept_at, slot.stamped_at, case when moved.event_id is not null then moved.window_start end
           )
      from moved
     where moved.known and slot.feed_id = %(feed_id)s and slot.window_start = moved.window_start
       and slot.customer = moved.customer and slot.combination = moved.combination
    """,
    """
    insert into aggregator.usage_day (feed_id, day, changed_at)
    select distinct %(feed_id)s::integer, date_trunc('day', window_start, 'UTC'), statement_timestamp()
      from moved order by 2
        on conflict (feed_id, day) do update set changed_at = excluded.changed_at, made_at = null
    """,
    """
    delete from aggregator.carry using carries
     where feed_id = %(feed_id)s and carry.customer = carries.customer and carry.combination = carries.combination
    """,
    """
    insert into aggregator.carry (feed_id, customer, combination, amount)
    select %(feed_id)s, customer, combination, amount from carries where amount <> 0
    """,
    "drop table moved, carries, counted",
)

# Where the last number is billed, windows are floored one by one, and nothing adds up.
UNBALANCED = """
select slot.customer from aggregator.slot
  join aggregator.feed on feed.id = slot.feed_id and not feed.ordered
  left join aggregator.carry on carry.feed_id = slot.feed_id and carry.customer = slot.customer
                            and carry.combination = slot.combination
 where slot.feed_id = %(feed_id)s
 group by slot.customer, slot.combination
having sum(slot.quantity) <> sum(slot.total) + coalesce(max(carry.amount), 0) limit 1
"""

RECORD_ACCOUNT = "update aggregator.sink set account = %(account)s where name = %(sink)s"

# What the sinks hold is known now, or a person has said that it may stay; of what is not configured, neither is so.
CLEAR_FEEDS = """
update aggregator.feed
   set cleared_until = 9223372036854775807, cleared_at = %(now)s, cleared_by = 'an adoption', asked = '{}',
       stopped_at = null, stopped_reason = null
 where id = any(%(feeds)s) and cleared_at is null
"""

# No generation is ever used twice: see `Adopter.adopt`.
ADOPT = """
update aggregator.identity
   set generation = %(generation)s, cluster = %(cluster)s, database_oid = %(database_oid)s, timeline = %(timeline)s,
       stopped_at = null, stopped_reason = null, stopped_by_failover = false, stopped_on = null
 where stopped_at = %(stopped_at)s and generation = %(before)s and claims_made = %(claims_made)s
"""


class Line(NamedTuple):
    """One feed that is re-based, over which span, and what is known of its source."""

    meter_id: int
    feed: Feed
    span: Span
    unit: Decimal
    readable: dt.datetime
    """Before this the source no longer has its rows."""
    unread: tuple[dt.datetime, ...]
    """Windows that the source could not give."""


class Counted(NamedTuple):
    """What a sink has counted of one customer in one window."""

    window_start: dt.datetime
    customer: str
    total: Decimal
    kept_at: dt.datetime | None
    """See `SlotComparison.kept_at`."""
    dimensions: Dimensions = ()


Naming = Callable[[Line, SlotComparison], str]
"""What an event that is taken over is called."""


class Rebased(NamedTuple):
    """A line with its readings, what its sink has counted where that was looked up, and whom it has no figures of."""

    line: Line
    readings: Spool
    counted: Callable[[], Iterable[Counted]]
    left: frozenset[str] = frozenset()


class Adopting(Part):
    """The verbs about adopting a ledger."""

    def last_claim(self) -> dt.datetime | None:
        """Return when the ledger last claimed events, as far as it knows."""
        row = self._row(LAST_CLAIM)
        return row[0] if row else None

    def being_cancelled(self) -> list[int]:
        """Return events of which it is not known whether a sink has taken them back."""
        return [row[0] for row in self._rows(OPEN_CANCELLATIONS)]

    def feeds(self) -> list[tuple[str, str]]:
        """Return the meter and the sink of every feed that the ledger knows, configured or not."""
        return self._rows(FEEDS)

    def unread(self, meter_id: int) -> tuple[dt.datetime, ...]:
        """Return the windows of a meter that the source could not give."""
        return tuple(start for (start,) in self._rows(UNREAD, {"meter_id": meter_id}))

    def outermost(self, feed_id: int, oldest: dt.datetime, end: dt.datetime) -> Span | None:
        """Return the starts of the first and the last window in which a feed has a slot; None if it has none."""
        [row] = self._rows(OUTERMOST, {"feed_id": feed_id, "oldest": oldest, "end": end})
        return None if row[0] is None else Span(*row)

    def comparisons(self, line: Line, readings: Spool) -> Iterator[SlotComparison]:
        """Yield every slot of a line that the ledger or the source knows, by customer; the sink was not asked yet."""
        with self._database.transaction() as connection:
            stage(connection, readings, line.unit)
            connection.execute(CREATE_COUNTED)
            known = combinations.together(connection, line.meter_id, readings.combinations)
            yield from _comparisons(connection, line, known)

    def adopt(
        self,
        rebased: Sequence[Rebased],
        pinned: Pinned,
        generation: int,
        accounts: Mapping[str, str],
        feeds: Collection[int],
        name: Naming,
        now: dt.datetime,
    ) -> None:
        """Re-base every line on what its sink has counted, and let the ledger go on under a new generation.

        `feeds` may send from now on, without their sinks being asked what they hold.
        Raises LedgerError, and changes nothing, if the ledger is not as `pinned` says any more.
        """
        with self._database.transaction() as connection:
            connection.execute(HOLD_METERS)
            connection.execute(DOUBT_SAMPLED)
            for readings, of_a_meter in groupby(rebased, attrgetter("readings")):
                lines = list(of_a_meter)
                stage(connection, readings, lines[0].line.unit)
                for each in lines:
                    _rebase(connection, each, name, now)
                connection.execute("drop table reading")
            connection.execute(CLOSE_CLAIMS, {"now": now})
            connection.execute(CLEAR_FEEDS, {"feeds": list(feeds), "now": now})
            for sink, account in accounts.items():
                connection.execute(RECORD_ACCOUNT, {"sink": sink, "account": account})
            values = {
                "generation": generation,
                "cluster": pinned.lies_on,
                "database_oid": pinned.lies_in,
                "timeline": pinned.runs_on,
                "stopped_at": pinned.stopped_at,
                "before": pinned.generation,
                "claims_made": pinned.claims_made,
            }
            if connection.execute(ADOPT, values).rowcount != 1:
                raise LedgerError(
                    "The ledger was adopted or stopped by somebody else meanwhile; nothing was changed."
                )


def _comparisons(connection: Connection, line: Line, known: combinations.Known) -> Iterator[SlotComparison]:
    values = {
        "feed_id": line.feed.id,
        "start": line.span.start,
        "end": line.span.end,
        "readable": line.readable,
        "unread": list(line.unread),
        "since": line.feed.since,
        "until": line.feed.until or line.span.end,
        "shadowed": line.feed.shadowed,
    }
    for *row, number in streamed(connection, STANDS, values):
        yield SlotComparison._make((*row, known[number]))


def _rebase(connection: Connection, rebased: Rebased, name: Naming, now: dt.datetime) -> None:
    """Re-base one line, whose readings are staged."""
    line = rebased.line
    values = {
        "meter_id": line.meter_id,
        "feed_id": line.feed.id,
        "start": line.span.start,
        "end": line.span.end,
        "span": TimestamptzRange(*line.span),
        "now": now,
        "withdrawn": WITHDRAWN,
        "taken_over": TAKEN_OVER,
        "left": sorted(rebased.left),
    }
    [(values["pass_id"],)] = connection.execute(RECORD, values)
    connection.execute(HOLD_OUTBOX, values)
    for statement in (CREATE_COUNTED, CREATE_MOVED, CREATE_CARRIES):
        connection.execute(statement)
    seen = dict(rebased.readings.combinations)
    copy(connection, "counted", COUNTED, _counted(rebased, seen))
    known = combinations.together(connection, line.meter_id, seen)
    changed = 0
    moved: list[str] = []
    carries: list[str] = []
    doubtful: set[dt.datetime] = set()
    of: set[Dimensions] = set()
    alone = attrgetter("customer", "dimensions")
    for (customer, dimensions), comparisons in groupby(_comparisons(connection, line, known), alone):
        found = None if customer in rebased.left else rebase(list(comparisons), line.unit)
        if found is not None:
            slots, carry = found
            changed += len(slots)
            of.add(dimensions)
            moved += (_line_of(each, name(line, each.comparison)) for each in slots)
            carries.append(f"{text(customer)}\t{apart_by.number(dimensions)}\t{carry!s}\n")
            doubtful |= {each.comparison.window_start for each in slots if each.comparison.exceeds(line.unit)}
        if len(moved) >= BATCH:
            _copy_moved(connection, moved, carries)
    _copy_moved(connection, moved, carries)
    combinations.remember(connection, line.meter_id, of)
    connection.execute(FIND_OPEN, values)
    values["doubtful"] = sorted(doubtful)
    for statement in (*WITHDRAW, *WRITE, READ_AGAIN, FORGET_GUARDED, FORGET_DOUBTFUL, ADD_DOUBTFUL):
        connection.execute(statement, values)
    connection.execute(FINISH_RECORD, {**values, "changed": changed})
    unbalanced = connection.execute(UNBALANCED, values).fetchone()
    assert unbalanced is None, f"the balance of {unbalanced} is lost"


def _counted(rebased: Rebased, seen: dict[Dimensions, int]) -> Iterator[str]:
    """Write lines of what the sink has counted; its combinations are added to those that were `seen`."""
    for each in rebased.counted():
        number = apart_by.number(each.dimensions)
        if number:
            seen[each.dimensions] = number
        begins = f"{instant(each.window_start)}\t{text(each.customer)}\t{each.total!s}"
        yield f"{begins}\t{_maybe(each.kept_at)}\t{number}\n"


def _copy_moved(connection: Connection, moved: list[str], carries: list[str]) -> None:
    """Send what was decided so far, and begin anew."""
    copy(connection, "moved", MOVED, moved)
    copy(connection, "carries", "customer, combination, amount", carries)
    moved.clear()
    carries.clear()


def _line_of(moved: Moved, identifier: str) -> str:
    comparison = moved.comparison
    known = comparison.slot is not None
    slot = str(comparison.slot) if known else NULL
    return (
        f"{slot}\t{'t' if known else 'f'}\t{comparison.revision}\t{instant(comparison.window_start)}"
        f"\t{text(comparison.customer)}\t{moved.quantity!s}\t{moved.total!s}\t{moved.delta!s}\t{identifier}"
        f"\t{_maybe(comparison.kept_at)}\t{apart_by.number(comparison.dimensions)}\n"
    )


def _maybe(at: dt.datetime | None) -> str:
    return NULL if at is None else instant(at)
