"""Writes the planner's decisions about one feed: by COPY, in batches, straight into the tables where they stay.

What is new is copied into place. What changes, slots that were there and carries, is copied beside and merged at the end,
in one statement each.
"""

import datetime as dt
from collections.abc import Iterable
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import chain
from struct import Struct

from aggregator.core import dimensions as apart_by
from aggregator.core.dimensions import Dimensions
from aggregator.core.model import Change, Decision, Planned, State, WriteModel
from aggregator.ledger import usage_days
from aggregator.ledger.database import Connection
from aggregator.ledger.meters import Feed
from aggregator.ledger.passes.copy_format import (
    FALSE_FIELD,
    NULL,
    NULL_FIELD,
    TRUE_FIELD,
    copy,
    copy_binary,
    instant,
    microseconds,
    number_field,
    text,
    text_field,
)
from aggregator.ledger.review import moves

Whose = tuple[str, Dimensions]
"""The customer and combination that a carry is of."""

BATCH = 2_500
"""Decisions that are copied at once. A handful of batches is in memory, some kilobytes for each decision; larger ones cost
as much processor time."""

CREATE_CHANGED = """
create temporary table if not exists slot_change (
    feed_id integer, revision integer, window_start timestamptz, customer text collate "C", combination bigint,
    quantity numeric, total numeric, stamped_at timestamptz, tail bigint
) on commit drop
"""

CREATE_CARRIES = """
create temporary table if not exists carry_change (
    feed_id integer, customer text collate "C", combination bigint, amount numeric
) on commit drop
"""

UPDATE_SLOTS = """
update aggregator.slot
   set id = case when slot.revision = 0 then coalesce(new.tail, slot.id) else slot.id end,
       quantity = new.quantity, total = new.total, revision = new.revision,
       stamped_at = new.stamped_at, tail = coalesce(new.tail, slot.tail), replan = false
  from slot_change as new
 where slot.feed_id = new.feed_id and slot.window_start = new.window_start and slot.customer = new.customer
   and slot.combination = new.combination
"""

UPSERT_CARRIES = """
insert into aggregator.carry (feed_id, customer, combination, amount)
select feed_id, customer, combination, amount from carry_change where amount <> 0
    on conflict (feed_id, customer, combination) do update set amount = excluded.amount
"""

DELETE_CARRIES = """
delete from aggregator.carry using carry_change as gone
 where gone.amount = 0 and carry.feed_id = gone.feed_id and carry.customer = gone.customer
   and carry.combination = gone.combination
"""

SLOT_CHANGE = "feed_id, revision, window_start, customer, combination, quantity, total, stamped_at, tail"
PARKED = "event_id, feed_id, state, reason, since, guard"
CARRY = "feed_id, customer, combination, amount"

# In binary, what differs from row to row comes first, and what is alike in all rows of a pass last, written once.
SLOT = "id, revision, window_start, combination, stamped_at, tail, customer, quantity, total, feed_id"
SLOT_NUMBERS = Struct(">hiqiiiqiqiqiq")
SLOT_NUMBERS_UNSAID = Struct(">hiqiiiqiqii")
"""Of a slot without an event, whose instant and tail are null."""
SAID = "revision, at, window_start, combination, customer, identifier, delta, total, quantity, reason"
ALIKE = "pass_id, feed_id, planned_at"
OUTBOX = f"event_id, slot_id, {SAID}, {ALIKE}, sink_id, due_at, backfill"
OUTBOX_NUMBERS = Struct(">hiqiqiiiqiqiq")
AT_REST = f"id, slot_id, {SAID}, {ALIKE}, state, attempts"
"""What says of an event what it says of nearly all is null there: see `aggregator.event_at_rest`."""
ALIKE_IN_EVENTS = Struct(">iqiiiq")
ALIKE_IN_OUTBOX = Struct(">iiiq")
ALIKE_IN_SLOTS = Struct(">ii")
AT_REST_NUMBER = Struct(">hiq")
INTEGER_FIELD, NUMBER_FIELD = Struct(">ii"), Struct(">iq")

DUE, HELD, SHADOW = State.DUE, State.HELD, State.SHADOW

STATES = {state: state.value for state in State}
"""The names of states, looked up: an Enum's `value` costs more than a row's whole formatting."""


@dataclass(slots=True)
class Lines:
    """One batch of decisions for COPY, by the table they go to: fields of rows in binary, or lines of text."""

    slots: list[bytes] = field(default_factory=list)
    due: list[bytes] = field(default_factory=list)
    at_rest: list[bytes] = field(default_factory=list)
    changed_slots: list[str] = field(default_factory=list)
    parked: list[str] = field(default_factory=list)
    carries: list[str] = field(default_factory=list)


class Writer:
    """Takes the decisions about one feed in the order of customers; `write` is called once.

    `io` is the one thread that talks to the server: while it copies one batch, the next is planned and formatted here. What
    a `backfill` plans goes out behind what is new. Where usage `may_move` to another customer, `fell` tells whether a slot
    fell to zero, and is held for it; which ones is noted.
    """

    def __init__(
        self,
        connection: Connection,
        io: Executor,
        feed: Feed,
        pass_id: int,
        now: dt.datetime,
        *,
        backfill: bool = False,
        may_move: bool = False,
    ) -> None:
        self._connection = connection
        self._io = io
        self._feed = feed
        self._now = instant(now)
        planned_at = microseconds(now)
        # Where order counts, nothing overtakes what was planned before it.
        behind = TRUE_FIELD if backfill and feed.model is not WriteModel.LAST else FALSE_FIELD
        self._alike_in_slots = ALIKE_IN_SLOTS.pack(4, feed.id)
        alike = ALIKE_IN_EVENTS.pack(8, pass_id, 4, feed.id, 8, planned_at)
        self._alike_in_outbox = alike + ALIKE_IN_OUTBOX.pack(4, feed.sink_id, 8, planned_at) + behind
        self._alike_at_rest = {
            state: alike + text_field(name) + INTEGER_FIELD.pack(4, 0) for state, name in STATES.items()
        }
        self._starts: dict[dt.datetime, int] = {}
        self._carries = _Carries()
        self._may_move = may_move
        self.fell = False

    def write(self, decisions: Iterable[Decision]) -> None:
        """Write every decision; a few batches of them are in memory at most. Where there is none, nothing is asked."""
        coming = iter(decisions)
        first = next(coming, None)
        if first is None:
            return
        sending = self._io.submit(self._prepare)
        batch: list[Decision] = []
        try:
            for decision in chain((first,), coming):
                batch.append(decision)
                if len(batch) >= BATCH:
                    sending = self._hand_over(batch, sending)
                    batch = []
        except Exception:
            sending.result()  # what failed first is the cause: the fetch after it only found the transaction broken
            raise
        sending = self._hand_over(batch, sending)
        sending.result()
        self._io.submit(self._finish).result()

    def _hand_over(self, batch: list[Decision], before: Future[None]) -> Future[None]:
        """Format a batch while the one before it is being copied, then have it copied."""
        lines = self._format(batch)
        before.result()
        return self._io.submit(self._send, lines)

    def _prepare(self) -> None:
        self._connection.execute(CREATE_CHANGED)
        self._connection.execute(CREATE_CARRIES)

    def _finish(self) -> None:
        moved = self._carries.close()
        if moved is not None:
            self._send(Lines(carries=[self._carry(*moved)]))
        if self.fell:
            moves.note_fallen(self._connection)
        for statement in (UPDATE_SLOTS, UPSERT_CARRIES, DELETE_CARRIES):
            self._connection.execute(statement)
        self._connection.execute("truncate slot_change, carry_change")
        usage_days.changed(self._connection, self._feed.id, self._starts)

    def _send(self, lines: Lines) -> None:
        for table, columns, fields in (
            ("aggregator.slot", SLOT, lines.slots),
            ("aggregator.outbox", OUTBOX, lines.due),
            ("aggregator.event_at_rest", AT_REST, lines.at_rest),
        ):
            if fields:
                copy_binary(self._connection, table, columns, fields)
        for table, columns, rows in (
            ("slot_change", SLOT_CHANGE, lines.changed_slots),
            ("aggregator.parked", PARKED, lines.parked),
            ("carry_change", CARRY, lines.carries),
        ):
            if rows:
                copy(self._connection, table, columns, rows)

    def _format(self, batch: list[Decision]) -> Lines:
        """Write the rows of a batch. A million decisions come through here: what is written twice is formatted once."""
        lines = Lines()
        take, starts, alike = self._carries.take, self._starts, self._alike_in_slots
        for decision in batch:
            change, deferred, total, _, _, event = decision
            moved = take(decision)
            if moved is not None:
                lines.carries.append(self._carry(*moved))
            if deferred:
                continue
            if self._may_move and not change.now and (change.parked or (event and event.state is HELD)):
                self.fell = True
            start = starts.get(change.window_start) or self._start(change.window_start)
            customer = text_field(change.customer)
            stands_at = number_field(str(total))
            quantity = stands_at if change.now is total else number_field(str(change.now))
            at, apart = 0, apart_by.number(change.dimensions) if change.dimensions else 0
            if event is not None:
                at = microseconds(event.at)
                self._event(lines, change, event, (at, start, apart), (customer, stands_at, quantity))
            if change.known:
                lines.changed_slots.append(self._changed(change, total, event))
                continue
            if event is None:
                numbers = SLOT_NUMBERS_UNSAID.pack(
                    10, 8, change.slot, 4, change.revision, 8, start, 8, apart, -1, -1
                )
            else:
                numbers = SLOT_NUMBERS.pack(
                    10, 8, change.slot, 4, change.revision + 1, 8, start, 8, apart, 8, at, 8, event.id
                )
            lines.slots += (numbers, customer, quantity, stands_at, alike)
        return lines

    def _event(
        self,
        lines: Lines,
        change: Change,
        event: Planned,
        numbers: tuple[int, int, int],
        written: tuple[bytes, bytes, bytes],
    ) -> None:
        """Write an event into the outbox, or where it rests: its instant and its window's, its combination; its customer,
        where it stands, what the source said.
        """
        number, _, delta, total, _, identifier, state, reason, guard = event
        at, start, apart = numbers
        customer, stands_at, quantity = written
        revision = change.revision
        changes_by = stands_at if delta is total else number_field(str(delta))
        said = NULL_FIELD if quantity == stands_at else quantity
        why = NULL_FIELD if reason is None else text_field(reason)
        if state is DUE:
            slot = change.slot if revision else number  # a slot goes by its first event
            lines.due += (
                OUTBOX_NUMBERS.pack(18, 8, number, 8, slot, 4, revision, 8, at, 8, start, 8, apart),
                customer,
                text_field(identifier),
                changes_by,
                stands_at,
                said,
                why,
                self._alike_in_outbox,
            )
            return
        lines.at_rest += (
            AT_REST_NUMBER.pack(17, 8, number),
            NUMBER_FIELD.pack(8, change.slot) + INTEGER_FIELD.pack(4, revision)
            if revision
            else 2 * NULL_FIELD,
            NUMBER_FIELD.pack(8, at) + NUMBER_FIELD.pack(8, start),
            NUMBER_FIELD.pack(8, apart) if apart else NULL_FIELD,
            customer,
            text_field(identifier),
            changes_by,
            NULL_FIELD if changes_by == stands_at else stands_at,
            said,
            why,
            self._alike_at_rest[state],
        )
        if state is not SHADOW:
            by = NULL if guard is None else guard.value
            why_text = NULL if reason is None else text(reason)
            lines.parked.append(
                f"{number}\t{self._feed.id}\t{STATES[state]}\t{why_text}\t{self._now}\t{by}\n"
            )

    def _changed(self, change: Change, total: Decimal, event: Planned | None) -> str:
        """Write a slot that the ledger has already, as it is from now on."""
        revision, stamped_at, tail = change.revision, change.stamped_at, NULL
        if event is not None:
            revision, stamped_at, tail = revision + 1, stamped_at or event.at, str(event.id)
        return (
            f"{self._feed.id}\t{revision}\t{instant(change.window_start)}\t{text(change.customer)}"
            f"\t{apart_by.number(change.dimensions)}\t{change.now!s}\t{total!s}\t{instant(stamped_at)}\t{tail}\n"
        )

    def _start(self, window_start: dt.datetime) -> int:
        return self._starts.setdefault(window_start, microseconds(window_start))

    def _carry(self, whose: Whose, amount: Decimal) -> str:
        customer, dimensions = whose
        return f"{self._feed.id}\t{text(customer)}\t{apart_by.number(dimensions)}\t{amount!s}\n"


class _Carries:
    """Follows the carry through the decisions, which stand together by customer and combination; tells where each one ended,
    if it moved.
    """

    def __init__(self) -> None:
        self._customer: str | None = None
        self._dimensions: Dimensions = ()
        self._first = self._last = Decimal(0)

    def take(self, decision: Decision) -> tuple[Whose, Decimal] | None:
        """Take the next decision; return whose the one before it was, if another one begins and that carry moved."""
        change, moved = decision.change, None
        if change.customer != self._customer or change.dimensions != self._dimensions:
            moved = self.close()
            self._customer, self._dimensions, self._first = change.customer, change.dimensions, change.carry
        self._last = decision.carry
        return moved

    def close(self) -> tuple[Whose, Decimal] | None:
        """Return whose the carry at hand is, if it moved."""
        customer, self._customer = self._customer, None
        if customer is None or self._last == self._first:
            return None
        return (customer, self._dimensions), self._last
