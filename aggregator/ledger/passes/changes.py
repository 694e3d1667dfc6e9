"""What differs between what was read and what the ledger holds: staged by COPY, found by SQL, handed on slot by slot."""

import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from decimal import Decimal
from functools import cache
from typing import Any

from aggregator.core.model import ZERO, Change, Span, Tail, Together, WriteModel
from aggregator.ledger.combinations import Known
from aggregator.ledger.database import Connection
from aggregator.ledger.meters import Feed, Registered
from aggregator.ledger.passes.spool import Spool
from aggregator.ledger.passes.together import AND_TOGETHER, TOGETHER, TOGETHER_OF_EACH, USUAL
from aggregator.ledger.passes.usual import Past
from aggregator.ledger.passes.writer import BATCH

UNBOOKED = (ZERO, 0, None)
"""Total, revision and first instant of a slot that has had no event."""

UNTROUBLED = (Tail.CLEAR, None, ZERO)
"""What stands in the way of a slot that nothing stands in the way of."""

AWAITING = (Tail.UNSETTLED, None, ZERO)
"""What stands in the way of a new slot whose usage is still on its way for another customer."""

UNASKED = (False, None, False)
"""What guards ask about a slot by itself, if none does."""

UNKNOWN = (False, False, False, False, *UNASKED)
"""What there is to tell of a slot that the ledger does not have."""

NEW = (*UNBOOKED, ZERO, *UNTROUBLED, *UNKNOWN)
"""The rest of a new slot whose customer is owed nothing, as nearly all are."""

NO_COMBINATIONS: Known = {0: ()}

build = tuple.__new__
"""Reached a million times in a pass: a named tuple's own constructor takes twice as long."""

WORTH_A_LOOK = 10_000
"""Readings of which it is first asked for all feeds at once whether anything differs: comparing more takes longer than
planning what it saves."""

MANY_APART = 10_000
"""Readings of which it is worth being told how many slots they are."""

COLUMNS = 18
"""How many columns a row has where nothing more is asked."""

# The sorts and hashes over a million readings stay in memory with this; a transaction has a handful of them at most.
# Compiling the query would cost more than it saves.
WORK_MEMORY = "select set_config('work_mem', '128MB', true), set_config('jit', 'off', true)"

CREATE_STAGING = """
create temporary table reading (
    window_start timestamptz not null,
    customer     text collate "C",
    combination  bigint,
    quantity     numeric,
    at           timestamptz,
    reason       text
) on commit drop
"""

# Of columns that go together the server multiplies what it knows of each, up to a tenth of the rows: ten times too few slots
# where usage is kept apart, so that a hash of them is planned in memory and then written to files
# (postgresql.org/docs/current/planner-stats.html, "Multivariate N-Distinct Counts").
APART = (
    "create statistics pg_temp.reading_apart (ndistinct) on window_start, customer, combination from reading"
)

COPY_READINGS = f"copy reading ({Spool.COLUMNS}) from stdin"

# A sum of floats depends on the order of the rows: one number comes out as many, all within `noise` of it. Of those the one
# with the fewest decimals is meant, the meter's own to begin with: 7.99999999999998 is 8, and is not to be floored to 7.
MEANT = """
with noisy as (
    delete from reading
     where customer is not null and combination is not null
       and not exists (select from reading as flawed where flawed.reason is not null
                          and flawed.window_start = reading.window_start and flawed.customer = reading.customer
                          and flawed.combination = reading.combination)
    returning window_start, customer, combination, quantity, at
), summed as (
    select window_start, customer, combination, sum(quantity) as quantity, max(at) as at
      from noisy group by window_start, customer, combination
)
insert into reading (window_start, customer, combination, quantity, at)
select window_start, customer, combination,
       coalesce((select round(quantity, places) from generate_series(%(decimals)s, %(decimals)s + 12) as places
                  where abs(round(quantity, places) - quantity)
                        <= least(%(unit)s / 100, greatest(%(unit)s / 1e9, abs(quantity) * %(noise)s))
                  order by places limit 1), quantity), at
  from summed
"""

OWN = {"feed_id": "its.id", "since": "its.since", "until": "its.until", "zeros": "its.last"}
OF_A_FEED = re.compile(rf"%\(({'|'.join(OWN)})\)s")
"""What is a feed's own where the statement is about one."""

# What differs between what was read and what the ledger holds. The span was read completely, so a slot without a reading
# stands at zero. What is billed by its last number is billed by a zero too, so a new slot at zero is a change there.
# A slot with an unusable row is `spoilt`: it stays as it is; one without a usable dimension belongs to none. Only windows
# that the feed bills are looked at.
# A float that differs by no more than the order of its rows can make is what it was: it is compared with what is booked, and
# not with the reading before, so that no usage is lost little by little.
DIFFERING = """
        select window_start, customer, combination, slot.quantity as before, coalesce(seen.quantity, 0) as now, seen.at,
               slot.id as slot_id, slot.total, slot.revision, slot.stamped_at, slot.tail, slot.replan, false as newer
          from (
                select window_start, customer, combination, sum(quantity) as quantity, max(at) as at,
                       bool_or(reason is not null) as spoilt
                  from reading
                 where customer is not null and combination is not null
                   and window_start >= %(since)s and window_start < %(until)s
                 group by window_start, customer, combination
               ) as seen
          full join (
                select * from aggregator.slot
                 where feed_id = %(feed_id)s
                   and window_start >= greatest(%(start)s, %(since)s) and window_start < least(%(end)s, %(until)s)
               ) as slot using (window_start, customer, combination)
         where ((coalesce(seen.quantity, 0) <> coalesce(slot.quantity, 0)
                 and (%(exact)s or abs(coalesce(seen.quantity, 0) - coalesce(slot.quantity, 0))
                                   > least(%(unit)s / 2, greatest(%(unit)s / 1e9, 2 * %(noise)s
                                           * greatest(abs(seen.quantity), abs(slot.quantity))))))
                or slot.replan or (%(zeros)s and slot.id is null))
           and not coalesce(seen.spoilt, false)
"""

# Of which feeds anything differs at all. Most readings differ for none, and what follows is planned for each feed anew.
DIFFERS = f"""
select its.id
  from unnest(%(feeds)s::int[], %(sinces)s::timestamptz[], %(untils)s::timestamptz[], %(last)s::boolean[])
       as its (id, since, until, last)
 where exists ({re.sub(OF_A_FEED, lambda found: OWN[found[1]], DIFFERING)})
"""  # noqa: S608 - our own text

# Where a customer is billed by the newest window, all that is newer than one that differs goes along, whether it was read or
# not: it is sent again behind that, in the order of the windows and in the same pass. One after the other they would wait
# for each other, pass after pass. What was rejected, or left at that by a person, is not said without a word.
AND_NEWER = """
         union all
        select slot.window_start, slot.customer, slot.combination, slot.quantity, slot.quantity, null, slot.id, slot.total,
               slot.revision, slot.stamped_at, slot.tail, slot.replan, true
          from (select customer, combination, min(window_start) as since
                  from differing group by customer, combination) as oldest
          join aggregator.slot on slot.feed_id = %(feed_id)s and slot.customer = oldest.customer
                              and slot.combination = oldest.combination
                              and slot.window_start > oldest.since and slot.revision > 0
         where slot.window_start >= %(since)s
           and (%(newer_until)s::timestamptz is null or slot.window_start < %(newer_until)s)
           and not exists (select from differing where differing.slot_id = slot.id)
           and not exists (select from aggregator.parked
                            where parked.event_id = slot.tail and parked.state = 'refused'
                              and (parked.was_accepted or parked.dismissed_at is not null))
"""

# Whose usage of a window moved to another customer, by a mapping that changed, while what was billed of it is still on its
# way: neither side is planned until that is settled, and then both are in one pass, so that they leave or wait together.
# Where customers move between two sinks, it may be on its way to the other one: of what is planned there, all that is under
# way of the customer of before is waited for, since this feed has the decrease in shadow.
ON_ITS_WAY = """
behind as (
        select distinct lost.window_start, change.after as customer, lost.combination
          from differing as lost
          join aggregator.customer_change as change on change.before = lost.customer and change.moves
          join aggregator.mapping on mapping.id = change.mapping_id
           and mapping.name in (select definition.customers
                                  from aggregator.feed join aggregator.definition using (meter_id)
                                 where feed.id = %(feed_id)s)
          left join aggregator.outbox on outbox.event_id = lost.tail
          left join aggregator.parked on parked.event_id = lost.tail
         where lost.now < lost.before and (outbox.event_id is not null or parked.state = 'in_doubt')
         union
        select there.window_start, change.after, there.combination
          from (select distinct case when from_feed = %(feed_id)s then to_feed else from_feed end as feed_id
                  from aggregator.cutover where %(feed_id)s in (from_feed, to_feed)) as partner
          join aggregator.customer_change as change on change.moves
          join aggregator.mapping on mapping.id = change.mapping_id
           and mapping.name in (select definition.customers
                                  from aggregator.feed join aggregator.definition using (meter_id)
                                 where feed.id = %(feed_id)s)
          join aggregator.slot as there on there.feed_id = partner.feed_id and there.customer = change.before
                                       and there.window_start >= %(start)s and there.window_start < %(end)s
          left join aggregator.outbox on outbox.event_id = there.tail
          left join aggregator.parked on parked.event_id = there.tail
         where %(parted)s and (outbox.event_id is not null or parked.state = 'in_doubt')
)
"""

# Ordered by customer and combination, because a carry flows through the slots of both one after the other. What a new slot
# does not have is null, and costs nothing; its own number is the one that is reserved for its first event. Only where a feed
# was in shadow once, it is looked whether a slot's latest event is. Where customers move from one feed to another, both look
# at the same instant for what is new: `core.cutover.is_shadow` says the same.
WHAT_IS_KNOWN = """
select found.slot_id,
       nextval('aggregator.event_id'),
       found.customer, found.window_start, found.before, found.now, found.at,
       found.total, found.revision, found.stamped_at,
       carry.amount,
       case when outbox.event_id is not null or parked.state = 'in_doubt'{awaits} then 'unsettled'
            when parked.guard = 'shrink_guard' then 'guarded'
            when parked.guard = 'repair' then 'proposed'
            when parked.guard is not null then 'limited'
            when parked.event_id is not null then 'parked' end,
       case when parked.state <> 'in_doubt' then parked.event_id end,
       case when parked.state <> 'in_doubt' then waiting.delta end,
       found.replan,
       case when %(shadowed)s and found.tail is not null
            then (select event.state = 'shadow' from aggregator.event where event.id = found.tail)
            when %(parted)s
            then coalesce((select case when cutover.from_feed = %(feed_id)s then cutover.at <= found.window_start
                                       else cutover.at > found.window_start and not cutover.parallel end
                             from aggregator.cutover
                            where %(feed_id)s in (cutover.from_feed, cutover.to_feed)
                              and (cutover.customer = found.customer or cutover.customer is null)
                            order by cutover.customer nulls last limit 1), %(rest_shadowed)s)
            else false end,
       found.newer, found.combination
"""

OF_EACH = """
  left join aggregator.carry on carry.feed_id = %(feed_id)s and carry.customer = found.customer
                            and carry.combination = found.combination
  left join aggregator.outbox on outbox.event_id = found.tail
  left join aggregator.parked as last on last.event_id = found.tail
  left join lateral (
        select case when found.replan and last.event_id is null
                    then (select min(parked.event_id)
                            from aggregator.events_of(found.slot_id) as event
                            join aggregator.parked on parked.event_id = event.id
                           where parked.was_accepted and parked.dismissed_at is null)
               end as event_id
       ) as rejected on true
  left join aggregator.parked on parked.event_id = coalesce(last.event_id, rejected.event_id)
  left join aggregator.event as waiting on waiting.id = parked.event_id
 order by found.customer, found.combination, found.window_start
"""

# Whether a guard holds all that a slot ever had, so that where it stands was never said.
UNSAID = """,
       parked.guard not in ('shrink_guard', 'repair')
       and not exists (select from aggregator.events_of(found.slot_id) as said
                        where said.exposed_at is not null or said.state in ('accepted', 'confirmed'))
"""

PASSED = ", parked.state = 'refused' and waiting.attempted_at is not null"


AWAITS = " or (behind.customer is not null and found.now > coalesce(found.before, 0))"

DIFFERING_ONCE = f"differing as materialized ({DIFFERING})"

BEHIND = "left join behind using (window_start, customer, combination)"


@cache
def statement_for(model: WriteModel, *, limited: bool, moving: bool, apart: bool = False) -> str:
    """Return how to find what differs, where a sink books by `model`: what nobody asks for is not looked up.

    What is newer goes along where a customer's last number is billed; `limited` adds what guards ask, once for all
    combinations of a customer and window where usage is kept `apart`; `moving` what waits for a customer that had the usage
    before.
    """
    unsaid, newer = limited or model is not WriteModel.DELTA, model is WriteModel.LAST
    assert not (newer and moving), "who has the last number billed is billed by the next one in any case"
    together = limited and apart
    before = _before(newer=newer, moving=moving, together=together)
    known = WHAT_IS_KNOWN.format(awaits=AWAITS if moving else "") + (UNSAID if unsaid else "")
    found = "select * from differing" if before else DIFFERING
    found = "".join(("from (", found, AND_NEWER if newer else "", ") as found"))
    usual = ""
    if limited:
        known += PASSED + (AND_TOGETHER if together else ", usual.quantity")
        usual = TOGETHER_OF_EACH if together else USUAL.format(its="found")
    return "\n".join((before, known, found, BEHIND if moving else "", usual, OF_EACH))


def _before(*, newer: bool, moving: bool, together: bool) -> str:
    """Return what a statement begins with: what is looked at more than once."""
    several = [ON_ITS_WAY] if moving else []
    several += [f"together as materialized ({TOGETHER})"] if together else []
    return "with " + ", ".join((DIFFERING_ONCE, *several)) if newer or several else ""


FORGET_UNMAPPED = """
delete from aggregator.unmapped
 where meter_id = %(meter_id)s and window_start >= %(start)s and window_start < %(end)s
"""

# What is set aside though it names somebody, and nothing else of it is unusable, waits for a customer of that key.
NOTE_UNMAPPED = """
insert into aggregator.unmapped (meter_id, window_start, reason, customer, combination, rows, quantity, waits)
select %(meter_id)s, window_start, reason, customer, combination, count(*), sum(quantity),
       customer is not null and combination is not null and bool_and(quantity is not null)
  from reading where reason is not null
 group by window_start, reason, customer, combination
"""

# What is usable of a slot that has an unusable row waits with it, and is named.
NOTE_UNMAPPED_WITHHELD = """
insert into aggregator.unmapped (meter_id, window_start, reason, customer, combination, rows, quantity)
select %(meter_id)s, window_start, 'withheld: another row of this customer and window is unusable',
       customer, combination, count(*), sum(quantity)
  from reading
 where reason is null
   and (window_start, customer, combination) in (select window_start, customer, combination from reading
                                                  where reason is not null and customer is not null)
 group by window_start, customer, combination
"""


def stage(
    connection: Connection, spool: Spool, unit: Decimal, alive: Callable[[], None] = lambda: None
) -> None:
    """Bring the readings into the transaction; floats as the numbers they mean, where `unit` is the least that is billed.

    `alive` is called between blocks: who has much to bring gives a sign of life meanwhile.
    """
    bring(connection, spool, alive)
    if spool.noise:
        values = {"unit": unit, "decimals": -unit.adjusted(), "noise": spool.noise}
        connection.execute(MEANT, values)
    if spool.combinations and spool.rows > MANY_APART:
        connection.execute(APART)
    connection.execute("analyze reading")


def bring(connection: Connection, spool: Spool, alive: Callable[[], None] = lambda: None) -> None:
    """Bring what a spool holds into the transaction, as it is."""
    connection.execute(WORK_MEMORY)
    connection.execute(CREATE_STAGING)
    with connection.cursor().copy(COPY_READINGS) as copy:
        for block in spool.blocks():
            copy.write(block)
            alive()


def same(
    connection: Connection, feeds: Sequence[Feed], span: Span, spool: Spool, unit: Decimal
) -> frozenset[int]:
    """Return of which feeds nothing that was staged differs from what the ledger holds; none where that costs too much."""
    if len(feeds) == 1 or spool.rows > WORTH_A_LOOK:
        return frozenset()
    values = {
        "feeds": [feed.id for feed in feeds],
        "sinces": [feed.since for feed in feeds],
        "untils": [feed.until or span.end for feed in feeds],
        "last": [feed.model is WriteModel.LAST for feed in feeds],
        "start": span.start,
        "end": span.end,
        **_exactness(spool.noise, unit),
    }
    differ = {feed for (feed,) in connection.execute(DIFFERS, values)}
    return frozenset(feed.id for feed in feeds) - differ


def _exactness(noise: Decimal, unit: Decimal) -> dict[str, object]:
    return {"exact": not noise, "noise": noise, "unit": unit}


def changes(
    connection: Connection,
    io: Executor,
    feed: Feed,
    span: Span,
    past: Past | None,
    *,
    noise: Decimal = ZERO,
    unit: Decimal = Decimal(1),
    more: bool = False,
    combinations: Known = NO_COMBINATIONS,
    moving: bool = False,
) -> Iterator[Change]:
    """Yield the slots of a feed that differ from what was read, and what is newer where that counts, customer by customer.

    `noise` is by what share the same rows may come out differently, and `unit` the least that is billed.
    `io` fetches a batch ahead, between whatever else it has to do on the connection. With `more`, another pass takes up what
    is newer than the span. `past` is what guards compare with, if there are any. `combinations` are those of the meter.
    `moving` is whether usage that moved to another customer is planned with the decrease that it leaves behind.
    """
    values = {
        "feed_id": feed.id,
        "start": span.start,
        "end": span.end,
        "since": feed.since,
        "zeros": feed.model is WriteModel.LAST,
        "until": feed.until or span.end,
        "newer_until": span.end if more else feed.until,
        "shadowed": feed.shadowed,
        "parted": feed.parted,
        "rest_shadowed": feed.rest_shadowed,
        **_exactness(noise, unit),
    }
    if past is not None:
        values |= {**past.values(), "voided": []}
    apart = len(combinations) > 1
    statement = statement_for(feed.model, limited=past is not None, moving=moving, apart=apart)
    cursor = connection.cursor(name=f"changed_{feed.id}")
    try:
        io.submit(cursor.execute, statement, values, binary=True).result()
        upcoming = io.submit(cursor.fetchmany, BATCH)
        while rows := upcoming.result():
            upcoming = io.submit(cursor.fetchmany, BATCH)
            for row in rows:
                yield _change(row, combinations) if len(row) == COLUMNS else _asked_about(row, combinations)
    finally:
        io.submit(cursor.close).result()


def _change(row: tuple[Any, ...], combinations: Known) -> Change:
    """Make a change of a row of CHANGED, in which null stands for what a new or an untroubled slot has."""
    slot, event, customer, start, before, now, at, *rest = row
    *booked, carry, tail, parked, delta, again, shadow, newer, combination = rest
    apart = combinations[combination]
    if slot is None:
        trouble = AWAITING if tail else UNTROUBLED
        known = NEW if carry is None and not tail else (*UNBOOKED, carry or ZERO, *trouble, *UNKNOWN)
        new = build(Change, (event, event, customer, start, ZERO, now, at, *known, apart, None))
        return new._replace(shadow=True) if shadow else new
    trouble = (Tail(tail), parked, delta or ZERO) if tail else UNTROUBLED
    ours = (*booked, carry or ZERO, *trouble, True, again, shadow, newer, *UNASKED, apart, None)
    return build(Change, (slot, event, customer, start, before, now, at, *ours))


def _asked_about(row: tuple[Any, ...], combinations: Known) -> Change:
    """Make a change of a longer row: whether nothing of the slot was said, and what guards ask."""
    unsaid, passed, usual, now, let_go = (*row[COLUMNS:], None, None, None, None)[:5]
    together = None if now is None else Together(now, let_go)
    change = _change(row[:COLUMNS], combinations)
    if unsaid or passed or usual is not None or together is not None:
        return change._replace(unsaid=bool(unsaid), usual=usual, passed=bool(passed), together=together)
    return change


def note_unmapped(connection: Connection, registered: Registered, span: Span) -> None:
    """Name what of a span can be billed to nobody, in place of what was named of it before."""
    values = {"meter_id": registered.id, "start": span.start, "end": span.end}
    connection.execute(FORGET_UNMAPPED, values)
    connection.execute(NOTE_UNMAPPED, values)
    connection.execute(NOTE_UNMAPPED_WITHHELD, values)
