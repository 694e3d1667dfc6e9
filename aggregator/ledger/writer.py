"""Writes the planner's decisions about one feed: by COPY, in batches, straight into the tables where they stay.

What is new is copied into place. What changes, slots that were there and carries, is copied beside and merged at the end,
in one statement each.
"""

import datetime as dt
from collections.abc import Iterable, Iterator
from decimal import Decimal

from aggregator.ledger.copytext import copy, instant, number, text
from aggregator.ledger.database import Connection
from aggregator.ledger.meters import Feed
from aggregator.model import Change, Decision, Planned, State

BATCH = 5_000

CREATE_CHANGED = """
create temporary table if not exists slot_change (
    feed_id integer, revision integer, window_start timestamptz, customer text collate "C",
    quantity numeric, total numeric, stamped_at timestamptz, tail bigint
) on commit drop
"""

CREATE_CARRIES = """
create temporary table if not exists carry_change (feed_id integer, customer text collate "C", amount numeric)
    on commit drop
"""

UPDATE_SLOTS = """
update aggregator.slot
   set quantity = new.quantity, total = new.total, revision = new.revision,
       stamped_at = new.stamped_at, tail = coalesce(new.tail, slot.tail)
  from slot_change as new
 where slot.feed_id = new.feed_id and slot.window_start = new.window_start and slot.customer = new.customer
"""

UPSERT_CARRIES = """
insert into aggregator.carry (feed_id, customer, amount)
select feed_id, customer, amount from carry_change where amount <> 0
    on conflict (feed_id, customer) do update set amount = excluded.amount
"""

DELETE_CARRIES = """
delete from aggregator.carry using carry_change as gone
 where gone.amount = 0 and carry.feed_id = gone.feed_id and carry.customer = gone.customer
"""

SLOT = "id, feed_id, revision, window_start, customer, quantity, total, stamped_at, tail"
SLOT_CHANGE = "feed_id, revision, window_start, customer, quantity, total, stamped_at, tail"
EVENT = (
    "id, slot_id, run_id, feed_id, revision, window_start, at, planned_at, state, customer, identifier,"
    " delta, total, reason"
)
OUTBOX = "event_id, sink_id, feed_id, due_at"
PARKED = "event_id, feed_id, state, reason, since"
CARRY = "feed_id, customer, amount"


class Writer:
    """Takes the decisions about one feed in the order of customers; `write` is called once."""

    def __init__(self, connection: Connection, feed: Feed, run_id: int, now: dt.datetime) -> None:
        self._connection = connection
        self._feed = feed
        self._run_id = run_id
        self._now = instant(now)
        self._carries = _Carries()

    def write(self, decisions: Iterable[Decision]) -> None:
        """Write every decision; at most a batch of them is in memory."""
        self._connection.execute(CREATE_CHANGED)
        self._connection.execute(CREATE_CARRIES)
        batch: list[Decision] = []
        for decision in decisions:
            batch.append(decision)
            if len(batch) >= BATCH:
                self._write(batch)
                batch.clear()
        self._write(batch)
        self._copy("carry_change", CARRY, [self._carry(*moved) for moved in self._carries.close()])
        for statement in (UPDATE_SLOTS, UPSERT_CARRIES, DELETE_CARRIES):
            self._connection.execute(statement)
        self._connection.execute("truncate slot_change, carry_change")

    def _write(self, batch: list[Decision]) -> None:
        acted = [decision for decision in batch if not decision.deferred]
        planned = [(decision.change, decision.event) for decision in acted if decision.event is not None]
        due = [event for _, event in planned if event.state is State.DUE]
        parked = [event for _, event in planned if event.state is not State.DUE]
        moved = [moved for decision in batch for moved in self._carries.take(decision)]
        new = [f"{d.change.slot}\t{self._slot(d)}" for d in acted if not d.change.known]
        self._copy("aggregator.slot", SLOT, new)
        self._copy("slot_change", SLOT_CHANGE, [self._slot(d) for d in acted if d.change.known])
        self._copy("aggregator.event", EVENT, [self._event(*pair) for pair in planned])
        self._copy("aggregator.outbox", OUTBOX, [self._due(event) for event in due])
        self._copy("aggregator.parked", PARKED, [self._parked(event) for event in parked])
        self._copy("carry_change", CARRY, [self._carry(*pair) for pair in moved])

    def _copy(self, table: str, columns: str, lines: list[str]) -> None:
        if lines:
            copy(self._connection, table, columns, lines)

    def _slot(self, decision: Decision) -> str:
        change, event = decision.change, decision.event
        revision, stamped_at, tail = change.revision, change.stamped_at, None
        if event is not None:
            revision, stamped_at, tail = revision + 1, stamped_at or event.at, event.id
        return (
            f"{self._feed.id}\t{revision}\t{change.window_start.isoformat()}\t{text(change.customer)}\t{change.now}"
            f"\t{decision.total}\t{instant(stamped_at)}\t{number(tail)}\n"
        )

    def _event(self, change: Change, event: Planned) -> str:
        return (
            f"{event.id}\t{change.slot}\t{self._run_id}\t{self._feed.id}\t{event.revision}"
            f"\t{change.window_start.isoformat()}\t{event.at.isoformat()}\t{self._now}\t{event.state.value}"
            f"\t{text(change.customer)}\t{event.identifier}\t{event.delta}\t{event.total}\t{text(event.reason)}\n"
        )

    def _due(self, event: Planned) -> str:
        return f"{event.id}\t{self._feed.sink_id}\t{self._feed.id}\t{self._now}\n"

    def _parked(self, event: Planned) -> str:
        return f"{event.id}\t{self._feed.id}\t{event.state.value}\t{text(event.reason)}\t{self._now}\n"

    def _carry(self, customer: str, amount: Decimal) -> str:
        return f"{self._feed.id}\t{text(customer)}\t{amount}\n"


class _Carries:
    """Follows the carry through the decisions, which stand together by customer; tells where each one ended, if it moved."""

    def __init__(self) -> None:
        self._customer: str | None = None
        self._first = self._last = Decimal(0)

    def take(self, decision: Decision) -> Iterator[tuple[str, Decimal]]:
        """Take the next decision; yield the customer before it, if another one begins and its carry moved."""
        if decision.change.customer != self._customer:
            yield from self.close()
            self._customer, self._first = decision.change.customer, decision.change.carry
        self._last = decision.carry

    def close(self) -> Iterator[tuple[str, Decimal]]:
        """Yield the customer at hand, if its carry moved."""
        if self._customer is not None and self._last != self._first:
            yield self._customer, self._last
        self._customer = None
