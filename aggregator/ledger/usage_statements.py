"""The statements behind `usage`: which slots a question is about, what of them is not billed, and how that makes lines.

Rules
- Of a day that is summed up the sums are read, and of all others the slots: the same figures by a shorter way.
- Where only some customers are asked for, nothing is looked through for others: each of their slots is one look-up by the
  whole key, window by window, on every version of the server.
- Only what is asked for is in a statement: to plan the rest would take the server longer than to look a customer up.
- What is told of everything is of a customer or, where lines are by a dimension, of a combination: `{who}` is which.
"""

from enum import Enum

from aggregator.core.usage import By, Usage
from aggregator.ledger.usage_days import KEPT, MADE_DAYS, NEITHER_MADE_NOR_KEPT, NOT_MADE

# What an event is a part of, by its state: 1 billed, 2 under way, 3 held, 4 refused, 5 dismissed, 6 shadow. After them come
# 7 carried, 8 unmapped and 9 open. What was withdrawn is a part of nothing.
PART = """
       case when event.state in ('accepted', 'confirmed') then 1
            when event.state in ('due', 'sending', 'in_doubt') then 2
            when parked.dismissed_at is not null then 5
            when event.state = 'held' then 3
            when event.state = 'refused' then 4
            when event.state = 'shadow' then 6 end
"""

# The slots of everybody in a stretch of time.
OF_ALL = """
       (select * from aggregator.slot
         where slot.feed_id = %(feed)s and slot.window_start >= {since} and slot.window_start < {until})
"""

# Those of some customers: which windows there are at all, one after the other by the key, and in each of them each customer.
OF_SOME = """
       (with recursive known (window_start) as (
             (select slot.window_start from aggregator.slot
               where feed_id = %(feed)s and slot.window_start >= {since} and slot.window_start < {until}
               order by slot.window_start limit 1)
              union all
             select (select slot.window_start from aggregator.slot
                      where feed_id = %(feed)s and slot.window_start > known.window_start and slot.window_start < {until}
                      order by slot.window_start limit 1)
               from known where known.window_start is not null
        )
        select its.* from known
         cross join unnest(%(customers)s::text[]) as whose
         cross join lateral (select * from aggregator.slot
                              where feed_id = %(feed)s and slot.window_start = known.window_start
                                and customer = whose offset 0) as its)
"""

SPAN = {"since": "%(start)s", "until": "%(end)s"}
UNMADE = {"since": "rest.since", "until": "rest.until"}

# What slots say, and what of them was planned in shadow: customer or combination, window, used, billed, shadow, carried.
# What a slot comes to is billed but for what is not, which is taken off later.
OF_SLOTS = "select {who}, window_start, quantity, total, null::numeric, quantity - total from {slots} as slot"
IN_SHADOW = """
 union all
select slot.{who}, slot.window_start, null, -event.delta, event.delta, null
  from {slots} as slot join aggregator.event on event.id = slot.id
 where event.state = 'shadow' and event.revision = 0
 union all
select slot.{who}, slot.window_start, null, -event.delta, event.delta, null
  from {slots} as slot join aggregator.event on event.slot_id = slot.id
 where event.state = 'shadow' and event.revision > 0 and slot.revision > 1
"""

OF_UNMADE = """
 union all
select its.* from {rest} cross join lateral ({of_slots}) as its
"""

MADE_BY_DAY = f"""
select its.{{who}}, its.day as window_start, its.quantity, its.total - its.shadow, its.shadow, its.quantity - its.total
  from {MADE_DAYS}
 cross join unnest(%(customers)s::text[]) as whose
 cross join lateral (select * from aggregator.usage_of_day
                      where feed_id = %(feed)s and day = made.day and customer = whose offset 0) as its
"""  # noqa: S608 - our own text

MADE_BY_HOUR = f"""
select null::text, its.hour, its.quantity, its.total - its.shadow, its.shadow, its.quantity - its.total
  from {MADE_DAYS}
  join aggregator.usage_of_hour as its on its.feed_id = %(feed)s and its.day = made.day
"""  # noqa: S608 - our own text

MADE_BY_COMBINATION = f"""
select its.combination, its.day, its.quantity, its.total - its.shadow, its.shadow, its.quantity - its.total
  from {MADE_DAYS}
  join aggregator.usage_of_combination as its on its.feed_id = %(feed)s and its.day = made.day
"""  # noqa: S608 - our own text

OF_KEPT = f"""
 union all
select null::text, its.hour, its.quantity, its.total - its.shadow, its.shadow, its.quantity - its.total from {KEPT}
"""  # noqa: S608 - our own text

# What was planned and is not billed, which is little: it waits to be sent or for a person.
NOT_BILLED = f"""
select event.customer, event.combination, event.window_start, {PART} as part, event.delta
  from (select event_id from aggregator.outbox where feed_id = %(feed)s
         union all
        select event_id from aggregator.parked where feed_id = %(feed)s) as waiting
  join aggregator.event on event.id = waiting.event_id
  left join aggregator.parked on parked.event_id = event.id
 where event.window_start >= %(start)s and event.window_start < %(end)s
   and (%(customers)s::text[] is null or event.customer = any(%(customers)s))
"""  # noqa: S608 - our own text

# The same where more waits than some customers have slots: by these.
NOT_BILLED_OF_SOME = f"""
select event.customer, event.combination, event.window_start, {PART} as part, event.delta
  from {OF_SOME.format(**SPAN)} as slot
 cross join lateral aggregator.events_of(slot.id, slot.revision > 1) as event
  left join aggregator.parked on parked.event_id = event.id
 where event.state in ('due', 'sending', 'in_doubt', 'held', 'refused')
"""  # noqa: S608 - our own text

# Of a customer and window with an unusable row, all that is usable was named (`quantity` is not null), and waits until the
# window is read without such a row. What the slot has of an earlier reading is not counted twice.
UNMAPPED = """
select unmapped.customer collate "C" as customer, unmapped.combination, unmapped.window_start, unmapped.quantity,
       slot.quantity as known
  from aggregator.unmapped
  left join aggregator.slot on slot.feed_id = %(feed)s and slot.window_start = unmapped.window_start
                           and slot.customer = unmapped.customer and slot.combination = unmapped.combination
 where unmapped.meter_id = %(meter)s and unmapped.quantity is not null
   and unmapped.window_start >= greatest(%(start)s, %(since)s)
   and unmapped.window_start < least(%(end)s, %(until)s, %(open_from)s)
   and (%(customers)s::text[] is null or unmapped.customer = any(%(customers)s))
"""

# What was read from the source just now, beside what the ledger has of the same windows: a backfill, or a pass since then,
# may have read them. As in a pass, absence means zero, and a customer with an unusable row stays as known.
OPEN = """
select customer, combination, window_start,
       coalesce(seen.quantity, case when seen.spoilt then slot.quantity end, 0) as quantity,
       slot.quantity as known, case when customer is null or seen.spoilt then 8 else 9 end as part
  from (
        select window_start, customer, combination, sum(quantity) as quantity, bool_or(reason is not null) as spoilt
          from reading
         where window_start >= greatest(%(start)s, %(since)s, %(open_from)s)
           and window_start < least(%(end)s, %(until)s)
           and (%(customers)s::text[] is null or customer = any(%(customers)s))
         group by window_start, customer, combination
       ) as seen
  full join (
        select window_start, customer, combination, quantity from aggregator.slot
         where feed_id = %(feed)s and window_start >= greatest(%(start)s, %(since)s, %(open_from)s)
           and window_start < least(%(end)s, %(until)s)
           and (%(customers)s::text[] is null or customer = any(%(customers)s))
       ) as slot using (window_start, customer, combination)
"""

NOTHING_OPEN = """
select null::text collate "C" as customer, null::timestamptz as window_start, null::numeric as quantity,
       null::numeric as known, null::integer as part
 where false
"""

# The line that a window of a customer is a part of.
WHOSE = "case when %(by)s::text = 'customer' or %(each)s then customer end as customer"
WHEN = "case when %(by)s::text <> 'customer' then date_trunc(%(by)s::text, window_start, 'UTC') end as start"

# The same by a dimension: by the value of it that a combination has. The dictionary lacks what only the source has so far.
VALUE = 'named.dimensions ->> %(dimension)s collate "C" as customer'
NAMED = """
  left join (select id, dimensions from aggregator.combination where meter_id = %(meter)s
              union
             select id, dimensions from jsonb_to_recordset(%(combinations)s::jsonb) as seen (id bigint, dimensions jsonb)
            ) as named on named.id = amount.combination
"""

ADDED = f"""
with unmapped as ({UNMAPPED}), not_billed as ({{not_billed}}),
     amount ({{who}}, window_start, used, billed, shadow, carried, part, amount) as (
    select *, null::integer, null::numeric from ({{read}}) as its
     union all
    select {{who}}, window_start, null, -delta, null, null, part, delta from not_billed
     union all
    select {{who}}, window_start, quantity - coalesce(known, 0), null, null, null, 8, quantity - coalesce(known, 0)
      from unmapped
    {{and_opened}}
)
select * from (
select {{whose}}, {WHEN}, sum(used) as used,
       sum(billed), sum(amount) filter (where part = 2), sum(amount) filter (where part = 3),
       sum(amount) filter (where part = 4), sum(amount) filter (where part = 5), sum(shadow),
       sum(carried), sum(amount) filter (where part = 8), sum(amount) filter (where part = 9)
  from amount {{named}}
 group by 1, 2
) as line {{order}}
"""  # noqa: S608 - our own text

AND_OPENED = f"""
     union all
    select {{who}}, window_start, quantity - coalesce(known, 0), null, null, null, part, quantity - coalesce(known, 0)
      from ({OPEN}) as opened
"""  # noqa: S608 - our own text

# Of each customer and line, the newest number among those that are certain so far, part by part: the greatest of arrays that
# begin with the window. Within a window, later events are newer, then what was read, then what could not be billed, and then
# what was read just now. Each part is how far the number moves with it.
LAST = f"""
with unmapped as ({UNMAPPED}), opened as ({{opened}}), said as (
    select slot.customer, slot.window_start, {PART} as part, 0 as place, event.total as number
      from {{slots}} as slot
      join aggregator.event on event.id = slot.id
      left join aggregator.parked on parked.event_id = event.id
     where event.state <> 'void' and event.revision = 0
     union all
    select slot.customer, slot.window_start, {PART} as part, event.revision as place, event.total as number
      from {{slots}} as slot
      join aggregator.event on event.slot_id = slot.id
      left join aggregator.parked on parked.event_id = event.id
     where event.state <> 'void' and event.revision > 0 and slot.revision > 1
     union all
    select customer, window_start, 7, 1000000000, quantity from {{slots}} as slot
     union all
    select customer, window_start, 8, 1000000001, sum(quantity) from unmapped group by customer, window_start
     union all
    select customer, window_start, part, 1000000002, quantity from opened
), numbered as (
    select customer, {WHEN}, part, array[extract(epoch from window_start), place, number] as number
      from said
), newest as (
    select customer, start,
           coalesce((max(number) filter (where part <= 1))[3], 0) as one,
           coalesce((max(number) filter (where part <= 2))[3], 0) as two,
           coalesce((max(number) filter (where part <= 3))[3], 0) as three,
           coalesce((max(number) filter (where part <= 4))[3], 0) as four,
           coalesce((max(number) filter (where part <= 5))[3], 0) as five,
           coalesce((max(number) filter (where part <= 6))[3], 0) as six,
           coalesce((max(number) filter (where part <= 7))[3], 0) as seven,
           coalesce((max(number) filter (where part <= 8))[3], 0) as eight,
           coalesce((max(number) filter (where part <= 9))[3], 0) as nine
      from numbered group by 1, 2
)
select * from (
select {WHOSE}, start, sum(nine) as used,
       sum(one), sum(two - one), sum(three - two), sum(four - three), sum(five - four), sum(six - five), sum(seven - six),
       sum(eight - seven), sum(nine - eight)
  from newest
 group by 1, 2
) as line {{order}}
"""  # noqa: S608 - our own text

# Lines by time have no customer, and those by customer no time; a dimension's values stand where customers do.
ORDER = "order by start, customer is null, used desc, customer"

# The same of many feeds in one statement, which is planned once: what is a feed's own is not a value then, but its column.
OF_MANY = """
select many.number, its.*
  from unnest(%(feeds)s::int[], %(meters)s::int[], %(sinces)s::timestamptz[], %(untils)s::timestamptz[])
       with ordinality as many (feed, meter, since, until, number)
 cross join lateral (select *, row_number() over () as place from ({lines}) as line) as its
 order by many.number, its.place
"""
OWN = ("feed", "meter", "since", "until")

# A stretch of those lines, behind what all of them come to and how many there are.
SOME_AND_ALL = f"""
with line (customer, start, {", ".join(Usage._fields)}) as materialized ({{lines}})
select null, null, {", ".join(f"sum({each})" for each in Usage._fields)}, count(*), 0 as place from line
 union all
select its.*, null, row_number() over () from (select * from line limit %(limit)s offset %(offset)s) as its
 order by place
"""  # noqa: S608 - our own text


class Sums(Enum):
    """Which sums of days serve a question, if any do."""

    NONE = "none"
    OF_CUSTOMERS = "of customers, by day"
    OF_ALL = "of all customers, by hour"
    OF_COMBINATIONS = "of all customers, by day and combination"


def sums_for(by: By | None, *, some: bool, many_days: bool, by_dimension: bool = False) -> Sums:
    """Return which sums serve: for some customers, or by a dimension, those of whole days, else those of hours."""
    if many_days or (some and by is By.HOUR) or (not some and by is By.CUSTOMER):
        return Sums.NONE
    if some:
        return Sums.OF_CUSTOMERS
    return Sums.OF_COMBINATIONS if by_dimension else Sums.OF_ALL


def added(
    sums: Sums,
    *,
    some: bool,
    shadowed: bool,
    opened: bool,
    many_wait: bool,
    kept: bool = False,
    by_dimension: bool = False,
) -> str:
    """Return the statement for lines of amounts that add up."""
    assert sums is not Sums.OF_ALL or not by_dimension, "sums of hours do not tell combinations apart"
    who = "combination" if by_dimension else "customer"

    def of_slots(stretch: dict[str, str]) -> str:
        slots = (OF_SOME if some else OF_ALL).format(**stretch)
        return (OF_SLOTS + (IN_SHADOW if shadowed else "")).format(slots=slots, who=who)

    if sums is Sums.NONE:
        read = of_slots(SPAN)
    else:
        made = {
            Sums.OF_CUSTOMERS: MADE_BY_DAY.format(who=who),
            Sums.OF_COMBINATIONS: MADE_BY_COMBINATION,
            Sums.OF_ALL: MADE_BY_HOUR + (OF_KEPT if kept else ""),
        }[sums]
        rest = NEITHER_MADE_NOR_KEPT if kept else NOT_MADE
        read = made + OF_UNMADE.format(rest=rest, of_slots=of_slots(UNMADE))
    return ADDED.format(
        read=read,
        not_billed=NOT_BILLED_OF_SOME if some and many_wait else NOT_BILLED,
        and_opened=AND_OPENED.format(who=who) if opened else "",
        who=who,
        whose=VALUE if by_dimension else WHOSE,
        named=NAMED if by_dimension else "",
        order=ORDER,
    )


def of_many(statement: str) -> str:
    """Return the statement that gives the lines of many feeds, one feed after the other, by what gives those of one."""
    for own in OWN:
        statement = statement.replace(f"%({own})s", f"many.{own}")
    return OF_MANY.format(lines=statement)


def last(*, some: bool, opened: bool) -> str:
    """Return the statement for lines of a customer's last number."""
    slots = (OF_SOME if some else OF_ALL).format(**SPAN)
    return LAST.format(slots=slots, opened=OPEN if opened else NOTHING_OPEN, order=ORDER)
