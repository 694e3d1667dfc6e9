"""Usage that moved from one customer to another: a decrease that is held, and the increase that belongs to it.

When a customer's id changes at the source, all that was billed to the old id is to be lowered, which waits for a person, and
all of it is owed for the new id. Sent at once, the sink would hold both until then. So the two wait together.

Rules
- A pair is two slots of one window and one combination of dimensions: one fell to zero in this pass and is held for it, the
  other began in this pass, at exactly the quantity that the first one had.
- Many customers may have the same number in a window. Two customers are believed if some window, or all of their windows
  together, fit these two and nobody else, if neither fits a third, and if most of what one lost is what the other gained.
- `parked.moved_with` of each names the other's event. All pairs of the same two customers are one move: a person decides
  about it as a whole.
- A pair stays one while what is planned anew for a side still lowers or raises. If not, it is none any more: an increase
  goes out as any other, a decrease stays held.
- Where a mapping of customers says which id became which, nobody has to be told apart: whatever its decrease in a window
  belongs to waits with it, and is not planned before it: see ON_ITS_WAY in `passes.changes`. Where several ids became one,
  or one several, there are no pairs: each event waits by itself.
- Where customers move from one sink to another, what one lost at the one sink may be what another gains at the other. Then
  the increase waits there for the decrease here: both sinks together would hold it twice until then. They are no pair, since
  each is the matter of its own feed.
- Only where decreases wait for a person; not where a customer's last number is billed, since there the windows that follow
  bill the new id in any case.
"""

import datetime as dt
from collections.abc import Sequence
from decimal import Decimal
from typing import NamedTuple

from aggregator.core.model import Decreases, EventId, WriteModel
from aggregator.core.shown import counted
from aggregator.ledger.at_rest import to_outbox, to_rest
from aggregator.ledger.database import Connection
from aggregator.ledger.meters import Feed, Lease, Registered

MOVED = "what another customer had here before it lost it: it waits with that decrease"
"""Why an increase is held."""

MOVED_AMONG = (
    "what another customer had here, by a mapping that changed: release it with the decreases of that window"
)
"""Why an increase is held that belongs to several decreases, or to one with others."""

MOVED_ACROSS = (
    "what another customer had here at another sink, by a mapping that changed: release it with the decreases of that "
    "window there"
)
"""Why an increase is held whose decrease waits at the sink from which, or to which, customers move."""

CREATE_FALLEN = """
create temporary table if not exists fallen (
    window_start timestamptz, combination bigint, customer text collate "C", quantity numeric, event_id bigint
) on commit drop
"""

# Before the slots are changed: what held usage, holds none now, and waits for a person because of that. Usage that moves on
# from one that waits itself is still lacking where it came from.
NOTE_FALLEN = """
insert into fallen (window_start, combination, customer, quantity, event_id)
select slot.window_start, slot.combination, slot.customer, slot.quantity, new.tail
  from slot_change as new
  join aggregator.parked on parked.event_id = new.tail and parked.state = 'held'
  join aggregator.slot on slot.feed_id = new.feed_id and slot.window_start = new.window_start
                      and slot.customer = new.customer and slot.combination = new.combination
 where new.quantity = 0 and slot.quantity > 0
 union all
select slot.window_start, slot.combination, event.customer, slot.quantity, parked.event_id
  from slot_change as new
  join aggregator.slot on slot.feed_id = new.feed_id and slot.window_start = new.window_start
                      and slot.customer = new.customer and slot.combination = new.combination
  join aggregator.parked on parked.feed_id = new.feed_id and parked.moved_with = slot.tail
  join aggregator.event on event.id = parked.event_id and event.delta < 0
 where new.quantity = 0 and slot.quantity > 0
"""

# Each step is linear in what fell and what began: who has the same number as a thousand others is never compared with them
# one by one. An increase behind another event of its slot may be sent again where totals are sent, and would leave by that.
NOTE_BEGUN = """
create temporary table begun on commit drop as
    select slot.window_start, slot.combination, slot.customer, slot.quantity, event.id as event_id
      from aggregator.slot
      join aggregator.event on event.id = slot.tail and event.pass_id = %(pass_id)s and event.state = 'due'
                           and event.delta > 0 and event.total = event.delta and (%(adds)s or event.revision = 0)
     where slot.feed_id = %(feed_id)s and slot.quantity > 0
       and slot.window_start in (select window_start from fallen)
"""

FIND_PAIRS = """
create temporary table believed on commit drop as
with in_one_window as (
    select lost.customer as lost, gained.customer as gained
      from (select window_start, combination, quantity, min(customer) as customer from fallen
             group by 1, 2, 3 having count(*) = 1) as lost
      join (select window_start, combination, quantity, min(customer) as customer from begun
             group by 1, 2, 3 having count(*) = 1) as gained using (window_start, combination, quantity)
), all_lost as (
    select customer, count(*) as windows,
           array_agg(row (window_start, combination, quantity) order by window_start, combination) as all_of_it
      from fallen group by 1
), all_gained as (
    select customer,
           array_agg(row (window_start, combination, quantity) order by window_start, combination) as all_of_it
      from begun group by 1
), in_all_windows as (
    select lost.customer as lost, gained.customer as gained
      from (select all_of_it, min(customer) as customer from all_lost group by 1 having count(*) = 1) as lost
      join (select all_of_it, min(customer) as customer from all_gained group by 1 having count(*) = 1) as gained
           using (all_of_it)
), alone as (
    select lost, gained
      from (select lost, gained, count(*) over (partition by lost) as ways, count(*) over (partition by gained) as ways_back
              from (select * from in_one_window union select * from in_all_windows) as found) as counted
     where ways = 1 and ways_back = 1
), pair as (
    select lost, fallen.event_id as lowers, begun.event_id as raises, count(*) over (partition by lost) as windows
      from alone
      join fallen on fallen.customer = lost
      join begun on begun.customer = gained and begun.window_start = fallen.window_start
                and begun.combination = fallen.combination and begun.quantity = fallen.quantity
)
select lowers, raises from pair join all_lost on all_lost.customer = pair.lost
 where 2 * pair.windows > all_lost.windows
"""

HOLD = f"""
with gone as (
    delete from aggregator.outbox using believed where event_id = raises returning outbox.*
), waits as ({to_rest("gone", state="'held'", reason="%(reason)s", settled_at="null")} from gone
), named as (
    update aggregator.parked set moved_with = raises from believed where event_id = lowers
), parked as (
    insert into aggregator.parked (event_id, feed_id, state, reason, since, moved_with)
    select raises, %(feed_id)s, 'held', %(reason)s, %(now)s, lowers from believed
)
select count(*) from believed
"""  # noqa: S608 - our own text

# Which decreases and increases of a window belong together, by how the meter's mapping changed: also over customers in
# between, who lost as much as they gained. Who gained more than it lost at once has an increase that waits: what it lost is
# in that.
FIND_DECLARED = """
create temporary table declared on commit drop as
with recursive change as (
    select distinct customer_change.before, customer_change.after
      from aggregator.customer_change
      join aggregator.mapping on mapping.id = customer_change.mapping_id
     where customer_change.moves
       and mapping.name in (select customers from aggregator.definition where meter_id = %(meter_id)s)
), waiting as materialized (
    select event.id, event.customer, event.window_start, event.combination, event.delta < 0 as is_decrease
      from aggregator.parked join aggregator.event on event.id = parked.event_id
     where parked.feed_id = any(%(lost_at)s) and parked.state = 'held' and parked.dismissed_at is null
       and (parked.moved_with is null or event.delta > 0)
), reached as (
    select waiting.id, change.after as customer from waiting join change on change.before = waiting.customer
     union
    select reached.id, change.after from reached join change on change.before = reached.customer
), found as (
    select waiting.id as lowers, raises.id as raises, waiting.is_decrease
      from reached
      join waiting using (id)
      join aggregator.slot on slot.feed_id = %(feed_id)s and slot.window_start = waiting.window_start
                          and slot.customer = reached.customer and slot.combination = waiting.combination
      join aggregator.event as raises on raises.id = slot.tail and raises.pass_id = %(pass_id)s and raises.state = 'due'
                                     and raises.delta > 0 and (%(adds)s or raises.revision = 0)
)
select lowers, raises,
       %(lost_at)s = array[%(feed_id)s] and is_decrease
       and count(*) over (partition by lowers) = 1 and count(*) over (partition by raises) = 1 as paired
  from found
"""

HOLD_DECLARED = f"""
with waiting as (
    select raises, bool_and(paired) as paired, min(lowers) as lowers from declared group by raises
), gone as (
    delete from aggregator.outbox using waiting where event_id = raises
    returning outbox.*, case when paired then %(reason)s else %(among)s end as why
), waits as ({to_rest("gone", state="'held'", reason="gone.why", settled_at="null")} from gone
), named as (
    update aggregator.parked set moved_with = raises from waiting where event_id = lowers and paired
)
insert into aggregator.parked (event_id, feed_id, state, reason, since, moved_with)
select raises, %(feed_id)s, 'held', case when paired then %(reason)s else %(among)s end, %(now)s,
       case when paired then lowers end
  from waiting
"""  # noqa: S608 - our own text

# What replaces one side, or both, waits in its place: in a window that moved, more usage of the new id waits along.
KEEP = f"""
with pair as materialized (
    select lost.id as lowers, gained.id as raises, gained.feed_id, gained.state = 'due' as begins
      from aggregator.parked
      join aggregator.event as lowered on lowered.id = parked.event_id and lowered.delta < 0
      join aggregator.event as raised on raised.id = parked.moved_with
      join aggregator.slot as one on one.feed_id = lowered.feed_id and one.window_start = lowered.window_start
                                 and one.customer = lowered.customer and one.combination = lowered.combination
      join aggregator.slot as other on other.feed_id = raised.feed_id and other.window_start = raised.window_start
                                   and other.customer = raised.customer and other.combination = raised.combination
      join aggregator.event as lost on lost.id = one.tail and lost.state = 'held' and lost.delta < 0
      join aggregator.event as gained on gained.id = other.tail and gained.delta > 0
                                     and (gained.state = 'held' or (gained.state = 'due' and gained.pass_id = %(pass_id)s))
     where parked.feed_id = any(%(feeds)s) and parked.moved_with is not null
       and (lowered.id = any(%(voided)s) or raised.id = any(%(voided)s))
       and lost.id <> all(%(voided)s) and gained.id <> all(%(voided)s)
), gone as (
    delete from aggregator.outbox using pair where event_id = raises returning outbox.*
), waits as ({to_rest("gone", state="'held'", reason="%(reason)s", settled_at="null")} from gone
), named as (
    update aggregator.parked
       set moved_with = case when event_id = lowers then raises else lowers end, dismissed_at = null
      from pair where event_id in (lowers, raises)
)
insert into aggregator.parked (event_id, feed_id, state, reason, since, moved_with)
select raises, feed_id, 'held', %(reason)s, %(now)s, lowers from pair where begins
"""  # noqa: S608 - our own text

# Whatever became of the other side, a pair is one only while both sides wait.
PART = f"""
with alone as (
    select parked.event_id, parked.feed_id,
           event.delta > 0 and parked.dismissed_at is null and parked.guard is null as leaves
      from aggregator.parked join aggregator.event on event.id = parked.event_id
     where parked.feed_id = any(%(feeds)s) and parked.moved_with is not null
       and not exists (select from aggregator.parked as other
                        where other.event_id = parked.moved_with and other.moved_with = parked.event_id)
), stays as (
    update aggregator.parked set moved_with = null
      from alone where parked.event_id = alone.event_id and not alone.leaves
), gone as (
    delete from aggregator.parked using alone where parked.event_id = alone.event_id and alone.leaves
    returning parked.event_id
), taken as (
    delete from aggregator.event_at_rest as event using gone where event.id = gone.event_id returning event.*
)
{to_outbox("taken", sink="feed.sink_id", due_at="%(now)s", reason="null")}
  from taken join aggregator.feed on feed.id = taken.feed_id
"""  # noqa: S608 - our own text

WHOLE = """
with meant as (
    select distinct parked.feed_id, least(event.customer, other.customer) as one,
           greatest(event.customer, other.customer) as another
      from aggregator.parked
      join aggregator.event on event.id = parked.event_id
      join aggregator.event as other on other.id = parked.moved_with
     where parked.event_id = any(%(events)s)
)
select parked.event_id
  from meant
  join aggregator.parked on parked.feed_id = meant.feed_id and parked.moved_with is not null
  join aggregator.event on event.id = parked.event_id
  join aggregator.event as other on other.id = parked.moved_with
 where least(event.customer, other.customer) = meant.one and greatest(event.customer, other.customer) = meant.another
 order by 1
"""

OPEN = """
select meter.name, sink.name, lowers.customer, raises.customer, count(*), sum(raises.delta),
       min(raises.window_start), max(raises.window_start), min(parked.since), min(lowers.id)
  from aggregator.parked
  join aggregator.event as lowers on lowers.id = parked.event_id and lowers.delta < 0
  join aggregator.event as raises on raises.id = parked.moved_with
  join aggregator.feed on feed.id = parked.feed_id
  join aggregator.meter on meter.id = feed.meter_id
  join aggregator.sink on sink.id = feed.sink_id
 where parked.moved_with is not null and parked.dismissed_at is null and (%(meter)s::text is null or meter.name = %(meter)s)
 group by 1, 2, 3, 4 order by min(lowers.id) limit %(limit)s
"""


class Move(NamedTuple):
    """Usage that one customer lost and another one gained, waiting for a person on both sides."""

    meter: str
    sink: str
    from_customer: str
    to_customer: str
    windows: int
    quantity: Decimal
    """What the new customer is to be billed for it."""
    first_window: dt.datetime
    last_window: dt.datetime
    since: dt.datetime
    event: int
    """One of its events: a word about this one is a word about all of them."""

    def describe(self) -> str:
        """Say what moved, and what to do about it."""
        windows = counted(self.windows, "window")
        return (
            f"{self.from_customer} -> {self.to_customer}: {windows}, {self.quantity.normalize():f} units of {self.meter} to "
            f"{self.sink} moved (a customer's id changed?). Both sides wait: `aggregator events release {self.event}` lets "
            "all of it go in one step."
        )


def may_move(registered: Registered, feed: Feed) -> bool:
    """Tell whether decreases of a feed wait for a person, and an increase can wait with them."""
    return registered.meter.decreases is Decreases.HOLD and feed.model is not WriteModel.LAST


def note_fallen(connection: Connection) -> None:
    """Note which slots a pass is about to set to zero and holds a decrease for; called before they change."""
    connection.execute(CREATE_FALLEN)
    connection.execute(NOTE_FALLEN)
    connection.execute("analyze fallen")


def hold(connection: Connection, feed: Feed, pass_id: int, now: dt.datetime) -> int:
    """Have increases wait with the decreases that they belong to; return how many. What fell has been noted."""
    values = {
        "feed_id": feed.id,
        "pass_id": pass_id,
        "adds": feed.model is WriteModel.DELTA,
        "reason": MOVED,
        "now": now,
    }
    connection.execute(NOTE_BEGUN, values)
    connection.execute("analyze begun")
    # Only what was noted is read here, and how many rows each step gives is beyond guessing: after one wrong guess a planner
    # would compare row by row, for minutes instead of a second.
    connection.execute("set local enable_nestloop = off")
    connection.execute(FIND_PAIRS)
    connection.execute("set local enable_nestloop = default")
    connection.execute("analyze believed")
    row = connection.execute(HOLD, values).fetchone()
    connection.execute("drop table fallen, begun, believed")
    assert row is not None
    return int(row[0])


def hold_declared(
    connection: Connection,
    meter_id: int,
    feed: Feed,
    pass_id: int,
    now: dt.datetime,
    lost_at: Sequence[Feed] | None = None,
) -> int:
    """Have increases wait with the decreases that they belong to by a mapping that changed; return how many.

    The decreases are those of the same feed, or of others (`lost_at`), between which and this one customers move.
    """
    values = {
        "meter_id": meter_id,
        "feed_id": feed.id,
        "lost_at": [feed.id] if lost_at is None else [each.id for each in lost_at],
        "pass_id": pass_id,
        "adds": feed.model is WriteModel.DELTA,
        "reason": MOVED,
        "among": MOVED_AMONG if lost_at is None else MOVED_ACROSS,
        "now": now,
    }
    connection.execute(FIND_DECLARED, values)
    held = connection.execute(HOLD_DECLARED, values).rowcount
    connection.execute("drop table declared")
    return held


def hold_across(connection: Connection, lease: Lease, pass_id: int, now: dt.datetime) -> int:
    """Have increases wait for decreases at the other sink, where customers move from one to the other; return how many.

    Once all feeds are planned. Without a mapping nothing moves between customers.
    """
    registered = lease.registered
    if not lease.is_mapped:
        return 0
    parted = [feed for feed in registered.feeds if feed.parted and may_move(registered, feed)]
    return sum(
        hold_declared(
            connection, registered.id, feed, pass_id, now, [other for other in parted if other.id != feed.id]
        )
        for feed in parted
    )


def keep(
    connection: Connection, feeds: Sequence[Feed], pass_id: int, voided: Sequence[EventId], now: dt.datetime
) -> None:
    """Let what was planned anew for a side of a pair take its place; `voided` is what it replaces, and is still parked."""
    values = {
        "feeds": [feed.id for feed in feeds],
        "pass_id": pass_id,
        "voided": list(voided),
        "reason": MOVED,
        "now": now,
    }
    if voided:
        connection.execute(KEEP, values)


def part(connection: Connection, feeds: Sequence[Feed], now: dt.datetime) -> None:
    """Release what waits for a decrease that does not wait any more."""
    connection.execute(PART, {"feeds": [feed.id for feed in feeds], "now": now})


def whole(connection: Connection, events: Sequence[int]) -> list[int]:
    """Return these events, and all others of the moves that they belong to."""
    rows = connection.execute(WHOLE, {"events": list(events)}).fetchall()
    return sorted({*events, *(row[0] for row in rows)})


def open_moves(connection: Connection, limit: int, meter: str | None = None) -> list[Move]:
    """Return the moves that wait for a person, those first that were planned first."""
    return [Move._make(row) for row in connection.execute(OPEN, {"limit": limit, "meter": meter})]
