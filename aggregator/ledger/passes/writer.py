"""Writes the planner's decisions about one feed: by COPY, in batches, straight into the tables where they stay.

What is new is copied into place. What changes, slots that were there and carries, is copied beside and merged at the end,
in one statement each.
"""

import datetime as dt
from collections.abc import Iterable
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from decimal import Decimal

from aggregator.core.model import Decision, State, WriteModel
from aggregator.ledger import usage_days
from aggregator.ledger.database import Connection
from aggregator.ledger.meters import Feed
from aggregator.ledger.passes.copy_format import NULL, copy, instant, text
from aggregator.ledger.review import moves

BATCH = 2_500
"""Decisions that are copied at once. A handful of batches is in memory, some kilobytes for each decision; larger ones cost
as much processor time."""

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
       stamped_at = new.stamped_at, tail = coalesce(new.tail, slot.tail), replan = false
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
    "id, slot_id, pass_id, feed_id, revision, window_start, at, planned_at, state, customer, identifier,"
    " delta, total, quantity, reason"
)
OUTBOX = "event_id, sink_id, feed_id, due_at, backfill"
PARKED = "event_id, feed_id, state, reason, since, guard"
CARRY = "feed_id, customer, amount"

DUE, HELD, SHADOW = State.DUE, State.HELD, State.SHADOW

STATES = {state: state.value for state in State}
"""The names of states, looked up: an Enum's `value` costs more than a row's whole formatting."""


@dataclass(slots=True)
class Lines:
    """One batch of decisions as lines for COPY, by the table they go to."""

    slots: list[str] = field(default_factory=list)
    changed_slots: list[str] = field(default_factory=list)
    events: list[str] = field(default_factory=list)
    due: list[str] = field(default_factory=list)
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
        self._pass_id = pass_id
        self._now = instant(now)
        # Where order counts, nothing overtakes what was planned before it.
        self._waits_behind = "t" if backfill and feed.model is not WriteModel.LAST else "f"
        self._starts: dict[dt.datetime, str] = {}
        self._carries = _Carries()
        self._may_move = may_move
        self.fell = False

    def write(self, decisions: Iterable[Decision]) -> None:
        """Write every decision; a few batches of them are in memory at most."""
        sending = self._io.submit(self._prepare)
        batch: list[Decision] = []
        try:
            for decision in decisions:
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
        for table, columns, rows in (
            ("aggregator.slot", SLOT, lines.slots),
            ("slot_change", SLOT_CHANGE, lines.changed_slots),
            ("aggregator.event", EVENT, lines.events),
            ("aggregator.outbox", OUTBOX, lines.due),
            ("aggregator.parked", PARKED, lines.parked),
            ("carry_change", CARRY, lines.carries),
        ):
            if rows:
                copy(self._connection, table, columns, rows)

    def _format(self, batch: list[Decision]) -> Lines:
        """Write the lines of a batch. A million decisions come through here: what is written twice is formatted once."""
        lines = Lines()
        feed, sink, run, planned_at = self._feed.id, self._feed.sink_id, self._pass_id, self._now
        behind, take, starts = self._waits_behind, self._carries.take, self._starts
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
            customer = text(change.customer)
            revision, stamped_at, tail, stands_at = change.revision, change.stamped_at, "", str(total)
            at = None if stamped_at is None else instant(stamped_at)
            quantity = str(change.now)
            if event is not None:
                event_id, _, delta, _, stamp, identifier, its_state, reason, guard = event
                at_event, state, why = (
                    stamp.isoformat(),
                    STATES[its_state],
                    NULL if reason is None else text(reason),
                )
                lines.events.append(
                    f"{event_id}\t{change.slot}\t{run}\t{feed}\t{revision}\t{start}\t{at_event}\t{planned_at}\t{state}"
                    f"\t{customer}\t{identifier}\t{stands_at if delta is total else delta}\t{stands_at}"
                    f"\t{NULL if quantity == stands_at else quantity}\t{why}\n"
                )
                if its_state is DUE:
                    lines.due.append(f"{event_id}\t{sink}\t{feed}\t{planned_at}\t{behind}\n")
                elif its_state is not SHADOW:
                    by = NULL if guard is None else guard.value
                    lines.parked.append(f"{event_id}\t{feed}\t{state}\t{why}\t{planned_at}\t{by}\n")
                revision, at, tail = revision + 1, at or at_event, str(event_id)
            slot = f"{feed}\t{revision}\t{start}\t{customer}\t{quantity}\t{stands_at}\t{at or NULL}\t{tail or NULL}\n"
            if change.known:
                lines.changed_slots.append(slot)
            else:
                lines.slots.append(f"{change.slot}\t{slot}")
        return lines

    def _start(self, window_start: dt.datetime) -> str:
        known = self._starts.get(window_start)
        return known or self._starts.setdefault(window_start, instant(window_start))

    def _carry(self, customer: str, amount: Decimal) -> str:
        return f"{self._feed.id}\t{text(customer)}\t{amount!s}\n"


class _Carries:
    """Follows the carry through the decisions, which stand together by customer; tells where each one ended, if it moved."""

    def __init__(self) -> None:
        self._customer: str | None = None
        self._first = self._last = Decimal(0)

    def take(self, decision: Decision) -> tuple[str, Decimal] | None:
        """Take the next decision; return the customer before it, if another one begins and its carry moved."""
        change, moved = decision.change, None
        if change.customer != self._customer:
            moved = self.close()
            self._customer, self._first = change.customer, change.carry
        self._last = decision.carry
        return moved

    def close(self) -> tuple[str, Decimal] | None:
        """Return the customer at hand, if its carry moved."""
        customer, self._customer = self._customer, None
        return None if customer is None or self._last == self._first else (customer, self._last)
