"""Who is billed for the usage of a key: mappings as they were read, what each key had before, and what waits for a customer.

Rules
- What a mapping says is compared with what is known in SQL, and written in one transaction with all that follows from it:
  from where meters read again, and that whoever reads one under what was known before commits nothing.
- A key that gets a customer has it from where it had none: for all that waits. One that loses it has none in windows that
  begin from now on; what was billed stays.
- A key whose customer changes keeps the old one in windows before; from where is a declared choice. Where it is from now
  on, it is from the first window that nobody has read.
- Nothing is deleted that was billed by: what a key had is cut off where the next one begins.
"""

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import NamedTuple

from aggregator.core.customers import Difference, Held, Listed, Moved
from aggregator.errors import QueryRejected
from aggregator.ledger.database import Connection, Part
from aggregator.ledger.passes.copy_format import copy, text
from aggregator.runtime import failpoints

ADD = "insert into aggregator.mapping (name) values (%(name)s) on conflict do nothing"

# One process after the other takes a mapping over; what it says next is compared with what the one before wrote.
HOLD = """
select id, case when doubted_at <= %(now)s - %(apart)s then differing end
  from aggregator.mapping where name = %(name)s for update
"""

CREATE_LISTED = """
create temporary table listed (key text collate "C", customer text collate "C", name text) on commit drop
"""

DOUBLES = """
select key, min(customer), max(customer) from listed
 where customer is not null group by key having min(customer) <> max(customer) order by key limit 3
"""

# In windows that begin from `starts` on, a key has what was read.
CREATE_DIFFERING = """
create temporary table differing on commit drop as
with said as (
    select key, max(customer) as customer, max(name) as name from listed group by key
), found as (
    select key, current.customer as before, said.customer as after, said.name,
           current.key is not null as known, said.key is not null as is_listed, current.since,
           current.name is distinct from said.name as renamed
      from (select * from aggregator.customer where mapping_id = %(mapping)s and until = 'infinity') as current
      full join said using (key)
)
select found.*,
       case when before is not null and after is not null and %(all)s then %(oldest)s
            when before is not null then %(now)s
            when known then since
            else coalesce((select max(until) from aggregator.customer as earlier
                            where earlier.mapping_id = %(mapping)s and earlier.key = found.key), '-infinity')
       end as starts
  from found
 where before is distinct from after or (is_listed and (not known or renamed))
"""

COUNT = """
select (select count(*) from aggregator.customer
         where mapping_id = %(mapping)s and until = 'infinity' and customer is not null),
       (select count(distinct key) from listed where customer is not null),
       count(*) filter (where before is not null and after is null),
       count(*) filter (where before <> after),
       count(*) filter (where before is null and after is not null)
  from differing
"""

RENAME = """
update aggregator.customer set name = differing.name from differing
 where mapping_id = %(mapping)s and customer.key = differing.key and until = 'infinity' and renamed and known
   and before is not distinct from after
"""

END_BEGUN = """
delete from aggregator.customer using differing
 where mapping_id = %(mapping)s and customer.key = differing.key and customer.since >= starts
   and before is distinct from after
"""

END_EARLIER = """
update aggregator.customer set until = starts from differing
 where mapping_id = %(mapping)s and customer.key = differing.key and customer.until > starts
   and before is distinct from after
"""

BEGIN = """
insert into aggregator.customer (mapping_id, key, since, until, customer, name, seen_at)
select %(mapping)s, key, starts, 'infinity', after, name, %(now)s from differing
 where is_listed and (before is distinct from after or not known)
"""

NOTE_CHANGES = """
insert into aggregator.customer_change (mapping_id, key, seen_at, before, after, holds_from, moves)
select %(mapping)s, key, %(now)s, before, after, starts, %(all)s and before is not null and after is not null from differing
 where before is distinct from after and known
"""

# In the order of ids, so that two who do this wait for each other and never in a ring.
HOLD_METERS = """
select id, mark from aggregator.meter
 where id in (select meter_id from aggregator.definition where customers = %(name)s) order by id for update
"""

# A list may take long to read: by now, windows may have been read that begin after its instant.
BEGIN_UNREAD = """
update differing set starts = greatest(starts, %(unread)s) where before is not null and (after is null or not %(all)s)
"""

BILL_WHAT_WAITED = """
update aggregator.meter set reread_from = least(reread_from, waiting.first)
  from (select meter_id, min(window_start) as first
          from aggregator.unmapped join differing on differing.key = unmapped.customer and window_start >= starts
         where meter_id = any(%(meters)s) and unmapped.waits and before is null and after is not null
         group by meter_id) as waiting
 where meter.id = waiting.meter_id
"""

MOVE_WHAT_WAS_BILLED = """
update aggregator.meter set reread_from = least(reread_from, greatest(start_at, %(oldest)s)) where id = any(%(meters)s)
"""

# Whoever reads a meter just now has read it as it was before: that pass is lost, and the next one sees what is so by now.
LET_NOBODY_GO_ON = """
update aggregator.meter set epoch = epoch + 1, lease_owner = null, lease_until = null where id = any(%(meters)s)
"""

BELIEVED = """
update aggregator.mapping
   set read_at = %(now)s, looked_at = %(now)s, doubted_at = null, doubted = null, differing = null, failed_at = null,
       failure = null
 where id = %(mapping)s
"""

DOUBTED = """
update aggregator.mapping
   set looked_at = %(now)s, failed_at = null, failure = null,
       doubted_at = case when differing = %(differing)s then doubted_at else %(now)s end,
       doubted = %(doubt)s, differing = %(differing)s
 where id = %(mapping)s
"""

FAILED = """
update aggregator.mapping
   set looked_at = %(now)s, failed_at = coalesce(failed_at, %(now)s), failure = %(reason)s where name = %(name)s
"""

LOOKED_AT = "select looked_at, read_at from aggregator.mapping where name = %(name)s"

LOOK_UP = """
select key, nullif(since, '-infinity'), nullif(until, 'infinity'), customer
  from aggregator.customer join aggregator.mapping on mapping.id = customer.mapping_id
 where mapping.name = %(name)s and key = any(%(keys)s) and customer is not null
"""

KEYS = """
select distinct key from aggregator.customer join aggregator.mapping on mapping.id = customer.mapping_id
 where mapping.name = %(name)s and customer = %(customer)s and since <= %(start)s and until > %(start)s order by key
"""

# The one that holds now says what a customer is called; of several keys, the first name by letters.
NAMES = """
select customer, (array_agg(name order by until desc, name))[1] from aggregator.customer
 where customer = any(%(customers)s) and name is not null group by customer
 union all
select key, (array_agg(name order by until desc, name))[1] from aggregator.customer
 where key = any(%(customers)s) and customer is null and until = 'infinity' and name is not null group by key
"""

MAPPED_METERS = "select distinct meter_id from aggregator.definition where customers is not null"

# What waits although its key has a customer by now: a pass had looked it up a moment before.
READY = """
select min(window_start) from aggregator.unmapped
  join aggregator.definition as held on held.meter_id = unmapped.meter_id and held.customers is not null
                                    and held.since <= window_start
  join aggregator.mapping on mapping.name = held.customers
  join aggregator.customer on customer.mapping_id = mapping.id and customer.key = unmapped.customer
                          and customer.customer is not null and customer.since <= window_start
                          and customer.until > window_start
 where unmapped.meter_id = %(meter_id)s and unmapped.waits
   and (%(sealed)s::timestamptz is null or window_start >= %(sealed)s)
   and not exists (select from aggregator.definition as later
                    where later.meter_id = held.meter_id and later.since > held.since and later.since <= window_start)
"""

STATES = """
select mapping.name, read_at, doubted_at, doubted, failed_at, failure,
       (select count(*) from aggregator.customer
         where mapping_id = mapping.id and until = 'infinity' and customer is not null)
  from aggregator.mapping order by mapping.name
"""

WAITING = """
select meter.name, count(distinct customer), sum(quantity), min(window_start), max(window_start)
  from aggregator.unmapped join aggregator.meter on meter.id = unmapped.meter_id
 where unmapped.waits group by 1 order by 1
"""


class Adopted(NamedTuple):
    """What came of reading a mapping: how it differs from what was known, and why that is not believed yet, if so."""

    difference: Difference
    gained: int
    """Keys that have a customer and had none."""
    doubt: str | None


class MappingState(NamedTuple):
    """How a mapping was last read."""

    mapping: str
    read_at: dt.datetime | None
    doubted_at: dt.datetime | None
    doubted: str | None
    failed_at: dt.datetime | None
    failure: str | None
    keys: int
    """That have a customer."""


class WaitingUsage(NamedTuple):
    """What of a meter waits for customers: of how many keys, how much, and in windows since when."""

    meter: str
    keys: int
    quantity: Decimal
    first_window: dt.datetime
    last_window: dt.datetime


class Customers(Part):
    """The verbs about mappings."""

    def looked_at(self, name: str) -> dt.datetime | None:
        """Return when a mapping was last read by any process, whatever came of it; None if never."""
        row = self._row(LOOKED_AT, {"name": name})
        return row[0] if row else None

    def is_known(self, name: str) -> bool:
        """Tell whether a mapping was ever read and believed."""
        row = self._row(LOOKED_AT, {"name": name})
        return row is not None and row[1] is not None

    def take_over(
        self,
        name: str,
        listed: Iterable[Sequence[Listed]],
        moved: Moved,
        now: dt.datetime,
        *,
        oldest: dt.datetime,
        apart: dt.timedelta,
    ) -> Adopted:
        """Compare what a mapping lists with what is known, and let it hold, unless it is to be read once more.

        `oldest` is the first instant of which all sinks still take usage: of older windows nothing moves. What is not
        believed at once is once another read says the same that is so far `apart`. Raises QueryRejected if it gives a key
        two customers.
        """
        with self._database.transaction() as connection:
            connection.execute(ADD, {"name": name})
            row = connection.execute(HOLD, {"name": name, "now": now, "apart": apart}).fetchone()
            assert row is not None, "what was added is there"
            mapping, before = row
            _stage(connection, listed)
            _refuse_doubles(connection, name)
            values = {
                "name": name,
                "mapping": mapping,
                "now": now,
                "oldest": oldest,
                "all": moved is Moved.ALL,
            }
            connection.execute(CREATE_DIFFERING, values)
            counts = connection.execute(COUNT, values).fetchone()
            assert counts is not None, "counts give a row"
            *differing, gained = counts
            difference = Difference(*differing)
            doubt = difference.doubt(before)
            if doubt is not None:
                connection.execute(DOUBTED, {**values, "doubt": doubt, "differing": difference.differing})
                return Adopted(difference, gained, doubt)
            _write(connection, values, difference)
            failpoints.passing("customers_written")
            return Adopted(difference, gained, None)

    def note_failure(self, name: str, reason: str, now: dt.datetime) -> None:
        """Note that a mapping cannot be read, and why; what is known of it goes on."""
        with self._database.transaction() as connection:
            connection.execute(ADD, {"name": name})
            connection.execute(FAILED, {"name": name, "reason": reason, "now": now})

    def look_up(self, name: str, keys: Iterable[str]) -> Mapping[str, Sequence[Held]]:
        """Return which customers these keys had and have, by a mapping."""
        found: dict[str, list[Held]] = {}
        for key, *held in self._rows(LOOK_UP, {"name": name, "keys": list(keys)}):
            found.setdefault(key, []).append(Held._make(held))
        return found

    def keys(self, name: str, customer: str, start: dt.datetime) -> list[str]:
        """Return whose usage is a customer's in a window that begins at `start`."""
        values = {"name": name, "customer": customer, "start": start}
        return [key for (key,) in self._rows(KEYS, values)]

    def names(self, customers: Iterable[str]) -> dict[str, str]:
        """Return what people call customers, as far as a mapping says it; also keys that have no customer yet."""
        with self._database.transaction() as connection:
            return names_of(connection, customers)

    def mapped_meters(self) -> set[int]:
        """Return the meters that are read by a mapping at some time, by their ids."""
        return {meter for (meter,) in self._rows(MAPPED_METERS)}

    def states(self) -> list[MappingState]:
        """Return how each mapping was last read."""
        return [MappingState._make(row) for row in self._rows(STATES)]

    def waiting(self) -> list[WaitingUsage]:
        """Return what waits for customers, by meter."""
        return [WaitingUsage._make(row) for row in self._rows(WAITING)]


def names_of(connection: Connection, customers: Iterable[str]) -> dict[str, str]:
    """Return what people call customers, as `Customers.names` does, in a transaction that goes on."""
    return dict(connection.execute(NAMES, {"customers": sorted({*customers})}).fetchall())


def _stage(connection: Connection, listed: Iterable[Sequence[Listed]]) -> None:
    connection.execute(CREATE_LISTED)
    for batch in listed:
        rows = [f"{text(each.key)}\t{text(each.customer)}\t{text(each.name)}\n" for each in batch]
        if rows:
            copy(connection, "listed", "key, customer, name", rows)
    connection.execute("analyze listed")


def _refuse_doubles(connection: Connection, name: str) -> None:
    doubles = connection.execute(DOUBLES).fetchall()
    if doubles:
        said = "; ".join(f"key {key!r} has {one!r} and {other!r}" for key, one, other in doubles)
        raise QueryRejected(
            f"Mapping {name} gives a key two customers: {said}. Let it give one for each key. Until then the customers that "
            "are known go on."
        )


def _write(connection: Connection, values: Mapping[str, object], difference: Difference) -> None:
    """Let what was read hold, and let meters read again what follows from it."""
    marks = dict(connection.execute(HOLD_METERS, values).fetchall())
    meters = list(marks)
    if marks:
        connection.execute(BEGIN_UNREAD, {**values, "unread": max(marks.values())})
    for statement in (RENAME, END_BEGUN, END_EARLIER, BEGIN, NOTE_CHANGES):
        connection.execute(statement, values)
    connection.execute(BILL_WHAT_WAITED, {**values, "meters": meters})
    if difference.changed and values["all"]:
        connection.execute(MOVE_WHAT_WAS_BILLED, {**values, "meters": meters})
    if difference.differing:
        connection.execute(LET_NOBODY_GO_ON, {"meters": meters})
    connection.execute(BELIEVED, values)


def ready(connection: Connection, meter_id: int, sealed: dt.datetime | None) -> dt.datetime | None:
    """Return the oldest window of a meter that waits for a customer whom its key has by now.

    `sealed` is before when none can be read.
    """
    row = connection.execute(READY, {"meter_id": meter_id, "sealed": sealed}).fetchone()
    return row[0] if row else None
