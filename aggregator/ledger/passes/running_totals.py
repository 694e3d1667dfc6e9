"""What the rows that a cursor has passed come to: added up in the ledger, and read by passes as a source is read.

Rules
- The cursor moves in the transaction that adds what it passed. So every row is added once, whoever is killed in between,
  and a ledger that is set back has both as they were.
- Whoever adds holds the meter, by its epoch, and says where the cursor stood when the rows were read.
- A goal is on record before anything is read up to it.
- What is added to a window that was read before has that window read again, from the ledger: the source is not asked.
- A row that can be billed to nobody is kept by its reason and holds nobody up: it would not be read again when it is mended.
"""

import datetime as dt
from collections.abc import Iterator
from decimal import Decimal
from itertools import repeat
from typing import Any, NamedTuple

from aggregator.core import deltas
from aggregator.core.deltas import Cursor, Goal
from aggregator.core.dimensions import Dimensions
from aggregator.core.model import ZERO, Reading, Span
from aggregator.errors import LeaseLost
from aggregator.ledger import combinations
from aggregator.ledger.database import CURSORS, Connection, Database, Part
from aggregator.ledger.identity import LedgerIdentity
from aggregator.ledger.meters import Lease
from aggregator.ledger.passes.changes import bring
from aggregator.ledger.passes.holding import hold
from aggregator.ledger.passes.spool import Spool
from aggregator.runtime import failpoints

BATCH = 5_000

BEGIN = (
    "insert into aggregator.cursor (meter_id, after) values (%(meter_id)s, %(after)s) on conflict do nothing"
)

FIND = """
select after, goal, noted_at, complete_until, waits_for, looked_again, ended_until, taken_until, rows,
       recounted_at, missed, taken_back, differed_at
  from aggregator.cursor where meter_id = %(meter_id)s
"""

OF_ALL = """
select meter.name, after, goal, noted_at, complete_until, cursor.waits_for, looked_again, ended_until, taken_until, rows,
       recounted_at, missed, taken_back, differed_at
  from aggregator.cursor join aggregator.meter on meter.id = cursor.meter_id order by meter.name
"""

NOTE = """
update aggregator.cursor
   set goal = %(goal)s, noted_at = %(noted_at)s, complete_until = %(complete_until)s,
       waits_for = %(waits_for)s, looked_again = %(looked_again)s
 where meter_id = %(meter_id)s and after = %(after)s
"""

MOVE = """
update aggregator.cursor set after = %(upto)s, rows = rows + %(rows)s
 where meter_id = %(meter_id)s and after = %(after)s
"""

REACH = """
update aggregator.cursor
   set ended_until = greatest(ended_until, noted_at), taken_until = greatest(taken_until, complete_until),
       goal = null, noted_at = null, complete_until = null, waits_for = '{}', looked_again = false
 where meter_id = %(meter_id)s and goal = after
"""

BY_WINDOW = """
select %(meter_id)s::integer as meter_id, window_start,
       case when reason is null then customer else '' end as customer,
       case when reason is null then combination else 0 end as combination, coalesce(reason, '') as flaw,
       sum(quantity) as quantity, count(*) as rows, max(at) as at, %(noise)s::numeric as noise
  from reading
 where window_start >= %(start)s and (%(end)s::timestamptz is null or window_start < %(end)s)
 group by 2, 3, 4, 5
"""

COLUMNS = "meter_id, window_start, customer, combination, flaw, quantity, rows, at, noise"

ADD = f"""
with added as (
    insert into aggregator.running_total ({COLUMNS})
    {BY_WINDOW} order by 2, 3, 4, 5
    on conflict (meter_id, window_start, customer, combination, flaw) do update
       set quantity = case when running_total.quantity is null then excluded.quantity
                           else running_total.quantity + coalesce(excluded.quantity, 0) end,
           rows = running_total.rows + excluded.rows, at = greatest(running_total.at, excluded.at),
           noise = greatest(running_total.noise, excluded.noise)
    returning window_start
)
select min(window_start) from added
"""  # noqa: S608 - our own text

REREAD = """
update aggregator.meter set reread_from = least(reread_from, %(touched)s)
 where id = %(meter_id)s and mark > %(touched)s
returning reread_from
"""

# A float may come out a little differently when it is summed anew: that is no difference.
RECOUNT = f"""
create temporary table recounted on commit drop as
select window_start, customer, combination, flaw, old.quantity as before, new.quantity as quantity, new.rows, new.at,
       new.noise, new.meter_id is null as gone
  from (select * from aggregator.running_total
         where meter_id = %(meter_id)s and window_start >= %(start)s and window_start < %(end)s) as old
  full join ({BY_WINDOW}) as new using (window_start, customer, combination, flaw)
 where (old.meter_id is null) <> (new.meter_id is null)
    or (old.quantity is null) <> (new.quantity is null)
    or (flaw <> '' and old.rows <> new.rows)
    or abs(old.quantity - new.quantity)
       > greatest(old.noise, new.noise) * greatest(abs(old.quantity), abs(new.quantity))
"""  # noqa: S608 - our own text

FORGET_GONE = """
delete from aggregator.running_total using recounted
 where gone and running_total.meter_id = %(meter_id)s and running_total.window_start = recounted.window_start
   and running_total.customer = recounted.customer and running_total.combination = recounted.combination
   and running_total.flaw = recounted.flaw
"""

SET_ANEW = f"""
insert into aggregator.running_total ({COLUMNS})
select %(meter_id)s, window_start, customer, combination, flaw, quantity, rows, at, noise from recounted where not gone
    on conflict (meter_id, window_start, customer, combination, flaw) do update
       set quantity = excluded.quantity, rows = excluded.rows, at = coalesce(excluded.at, running_total.at),
           noise = excluded.noise
"""  # noqa: S608 - our own text

DIFFERED = """
select count(*), min(window_start),
       coalesce(sum(greatest(coalesce(quantity, 0) - coalesce(before, 0), 0)), 0),
       coalesce(sum(greatest(coalesce(before, 0) - coalesce(quantity, 0), 0)), 0)
  from recounted
"""

NOTE_DIFFERED = """
update aggregator.cursor
   set missed = missed + %(missed)s, taken_back = taken_back + %(taken_back)s,
       differed_at = case when %(differs)s then %(now)s else differed_at end
 where meter_id = %(meter_id)s and after = %(after)s
"""

RECOUNTED = "update aggregator.cursor set recounted_at = %(now)s where meter_id = %(meter_id)s"

READINGS = """
select window_start, customer, flaw, quantity, rows, at, noise, combination from aggregator.running_total
 where meter_id = %(meter_id)s and window_start >= %(start)s and window_start < %(end)s
 order by window_start, customer
"""


class CursorState(NamedTuple):
    """How far a meter is that is read by a cursor."""

    after: Cursor
    goal: Goal | None
    ended_until: dt.datetime | None
    """Every transaction that was open then had ended when the rows were last looked at."""
    taken_until: dt.datetime | None
    """Windows that end by then are complete."""
    rows: int
    recounted_at: dt.datetime | None
    missed: Decimal
    """What recounts found that the cursor had not; `taken_back`, what they did not find any more: all in all."""
    taken_back: Decimal
    differed_at: dt.datetime | None

    def figures(self) -> dict[str, object]:
        """Return it for programs."""
        left_out = {"goal", "ended_until"}
        return {name: value for name, value in self._asdict().items() if name not in left_out}


class NamedCursor(NamedTuple):
    """How far the cursor of a meter is."""

    meter: str
    state: CursorState


class Recounted(NamedTuple):
    """What a recount of a span found to differ: in how many slots, and by how much."""

    slots: int
    missed: Decimal
    taken_back: Decimal


class RunningTotals(Part):
    """The verbs about running totals, and about the cursors that they belong to.

    `identity` tells whether the ledger is still the one it was; without it nobody asks.
    """

    def __init__(self, database: Database, identity: LedgerIdentity | None = None) -> None:
        super().__init__(database)
        self._identity = identity

    def begin(self, meter_id: int, after: Cursor) -> CursorState:
        """Return how far a meter is; the first time, it begins after this cursor."""
        with self._database.transaction() as connection:
            values = {"meter_id": meter_id, "after": deltas.written(after)}
            connection.execute(BEGIN, values)
            row = connection.execute(FIND, values).fetchone()
            assert row is not None, "a cursor that was begun is there"
            return _state(row)

    def find(self, meter_id: int) -> CursorState | None:
        """Return how far a meter is; None before anything was read of it."""
        row = self._row(FIND, {"meter_id": meter_id})
        return None if row is None else _state(row)

    def of_all(self) -> list[NamedCursor]:
        """Return how far every meter is that is read by a cursor, by name."""
        return [NamedCursor(meter, _state(tuple(row))) for meter, *row in self._rows(OF_ALL, {})]

    def note(self, lease: Lease, after: Cursor, goal: Goal) -> None:
        """Put on record up to where will be read from a cursor on, and for whom that waits. Raises LeaseLost."""
        with self._database.transaction() as connection:
            hold(connection, lease, self._identity)
            values = {
                **lease.key,
                "after": deltas.written(after),
                "goal": deltas.written(goal.upto),
                "noted_at": goal.noted_at,
                "complete_until": goal.complete_until,
                "waits_for": sorted(goal.waits_for),
                "looked_again": goal.looked_again,
            }
            if connection.execute(NOTE, values).rowcount != 1:
                raise LeaseLost

    def add(self, lease: Lease, spool: Spool, after: Cursor, upto: Cursor) -> dt.datetime | None:
        """Add the rows of a stretch, and move the cursor over it, and over the goal that ends there.

        Return from where windows are to be read again for it; None if no window is. Raises LeaseLost, and has added nothing,
        if another process has the meter or the cursor stands elsewhere.
        """
        with self._database.transaction() as connection:
            bring(connection, spool)
            hold(connection, lease, self._identity)
            values = {
                **lease.key,
                "after": deltas.written(after),
                "upto": deltas.written(upto),
                "rows": spool.rows,
                "noise": spool.noise,
                "start": lease.registered.meter.start_at,
                "end": None,
            }
            if connection.execute(MOVE, values).rowcount != 1:
                raise LeaseLost
            combinations.take_in(connection, lease.registered, spool.combinations)
            touched = connection.execute(ADD, values).fetchone()
            connection.execute(REACH, values)
            reread_from = self._reread(connection, lease, touched[0] if touched else None)
            failpoints.passing("deltas_added")
        failpoints.passing("deltas_committed")
        return reread_from

    def recount(
        self, lease: Lease, spool: Spool, span: Span, after: Cursor, now: dt.datetime
    ) -> tuple[Recounted, dt.datetime | None]:
        """Let what was counted anew of a span stand in place of what was added; return in what that differs.

        It was counted up to the cursor `after`. Return as well from where windows are to be read again. Raises LeaseLost.
        """
        with self._database.transaction() as connection:
            bring(connection, spool)
            hold(connection, lease, self._identity)
            values: dict[str, object] = {
                **lease.key,
                "after": deltas.written(after),
                "noise": spool.noise,
                "start": span.start,
                "end": span.end,
                "now": now,
            }
            combinations.take_in(connection, lease.registered, spool.combinations)
            connection.execute(RECOUNT, values)
            row = connection.execute(DIFFERED).fetchone()
            assert row is not None, "a count gives a row"
            slots, touched, missed, taken_back = row
            connection.execute(FORGET_GONE, values)
            connection.execute(SET_ANEW, values)
            values |= {"missed": missed, "taken_back": taken_back, "differs": bool(slots)}
            if connection.execute(NOTE_DIFFERED, values).rowcount != 1:
                raise LeaseLost
            return Recounted(slots, missed, taken_back), self._reread(connection, lease, touched)

    def recounted(self, lease: Lease, now: dt.datetime) -> None:
        """Note that a recount came to its end."""
        with self._database.transaction() as connection:
            hold(connection, lease, self._identity)
            connection.execute(RECOUNTED, {**lease.key, "now": now})

    def readings(self, meter_id: int, span: Span) -> Iterator[list[Reading]]:
        """Yield what the rows of a span come to, in batches. Close the iterator to end its transaction early."""
        values = {"meter_id": meter_id, "start": span.start, "end": span.end}
        with (
            self._database.transaction() as connection,
            connection.cursor(name=f"totals_{next(CURSORS)}") as cursor,
        ):
            cursor.execute(READINGS, values, binary=True)
            while rows := cursor.fetchmany(BATCH):
                apart = combinations.named(connection, {row[-1] for row in rows})
                yield [reading for row in rows for reading in _readings(row, apart[row[-1]])]

    def _reread(
        self, connection: Connection, lease: Lease, touched: dt.datetime | None
    ) -> dt.datetime | None:
        if touched is None:
            return None
        row = connection.execute(REREAD, {**lease.key, "touched": touched}).fetchone()
        return None if row is None else row[0]


def _state(row: tuple[Any, ...]) -> CursorState:
    after, goal, noted_at, complete_until, waits_for, looked_again, *rest = row
    noted = None
    if goal is not None:
        noted = Goal(deltas.read(goal), noted_at, complete_until, frozenset(waits_for), looked_again)
    return CursorState(deltas.read(after), noted, *rest)


def _readings(row: tuple[Any, ...], apart: Dimensions) -> Iterator[Reading]:
    """Yield one reading for a customer; for what can be billed to nobody, one for each of the rows that it stands for."""
    start, customer, reason, quantity, rows, at, noise, _ = row
    if not reason:
        yield Reading(start, customer, quantity, at, None, noise, apart)
        return
    yield Reading(start, None, quantity, None, reason, dimensions=None)
    rest = Reading(start, None, None if quantity is None else ZERO, None, reason, dimensions=None)
    yield from repeat(rest, rows - 1)
