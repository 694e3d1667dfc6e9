"""Differences put right, as far as the ledger does that: planned anew, taken over from the sink, or proposed to a person.

Rules
- Nothing is sent by this. What is owed is planned by the next pass, and goes the way of everything else.
- What was compared is read again first, in the same transaction, with the meter held. If anything of it has changed, nothing
  is written.
- An event that the sink's totals lack is refused, as one that the sink rejected: the next pass plans it anew.
- What the sink holds and nobody accounts for is taken over by an event that is never sent, as an adoption does. What is
  missing beyond that is owed again; what is too much becomes a second event, which is held whatever the meter says of
  decreases. A pass that finds another number in the window meanwhile replaces it, and what replaces it is held as well.
- Where source and sink agree and the ledger alone does not, each window is taken over as the source has it: the next pass
  finds nothing there. Several windows may lie in one place, and only their sum is known from the sink.
- A slot has at most one event that is not settled. While one waits, its slot is left as it is.
"""

import datetime as dt
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import NamedTuple

from psycopg.types.range import TimestamptzRange

from aggregator.core.drift import Cause, Difference, Place, Repair
from aggregator.core.model import ZERO, EventId, SlotId, Span, State
from aggregator.core.planner import add, subtract
from aggregator.ledger import usage_days
from aggregator.ledger.database import Connection, Part
from aggregator.ledger.drift import Customer, FeedLine, Slot, customer_of
from aggregator.ledger.outbox.outbox import REPLAN
from aggregator.ledger.review.parked import take_back_held
from aggregator.ledger.review.rejections import FIND_MISSING, refuse_known

TAKEN_OVER = "taken over from the sink's own totals, by a reconciliation"

HOLD_METER = "select mark from aggregator.meter where id = %(meter)s for update"

# The next pass reads the window, however old it is, and plans what is owed of it.
READ_AGAIN = """
update aggregator.meter
   set reread_from = case when %(start)s < mark then least(reread_from, %(start)s) else reread_from end,
       hourly_at = null, swept = null
 where id = %(meter)s
"""

RECORD = """
insert into aggregator.pass (meter_id, kind, span, goal, started_at, seconds, changed, held, epoch, fingerprint)
select id, 'repair', %(span)s, %(span)s, %(now)s, 0, %(changed)s, %(held)s, epoch, fingerprint
  from aggregator.meter where id = %(meter)s
returning id
"""

NEXT_EVENT = "select nextval('aggregator.event_id')"

ADD_SLOT = """
insert into aggregator.slot (id, feed_id, revision, window_start, customer, quantity, total)
values (nextval('aggregator.event_id'), %(feed)s, 0, %(start)s, %(customer)s, 0, 0)
returning id
"""

ADD_EVENT = """
insert into aggregator.event_at_rest
       (id, slot_id, pass_id, feed_id, revision, window_start, at, planned_at, settled_at, state, attempts, customer,
        identifier, delta, total, quantity, reason)
values (%(id)s, nullif(%(slot)s, %(id)s), %(pass)s, %(feed)s, nullif(%(revision)s, 0), %(start)s, %(at)s, %(now)s,
        %(settled)s, %(state)s, 0, %(customer)s, %(identifier)s, %(delta)s, %(total)s, %(said)s, %(reason)s)
"""

PARK = """
insert into aggregator.parked (event_id, feed_id, state, reason, since, guard)
values (%(id)s, %(feed)s, 'held', %(reason)s, %(now)s, 'repair')
"""

MOVE_SLOT = """
update aggregator.slot
   set id = %(slot)s, quantity = %(quantity)s, total = %(total)s, revision = %(revision)s, tail = %(tail)s,
       stamped_at = coalesce(stamped_at, %(at)s)
 where feed_id = %(feed)s and window_start = %(start)s and customer = %(customer)s
"""

OPEN = frozenset({State.DUE, State.SENDING, State.IN_DOUBT, State.HELD, State.REFUSED})
"""With an event in one of these states, a slot is left as it is."""


TAKES_OVER = frozenset({Repair.TAKE_OVER, Repair.PROPOSE})


class Proposal(NamedTuple):
    """What an event is to be called and stamped; made by who knows the meter."""

    identifier: str
    at: dt.datetime
    refused: str | None = None
    """Why it could never be sent."""


Naming = Callable[[str, dt.datetime, int, dt.datetime | None], Proposal]
"""Names the event of a customer, window and revision, where the slot's first event has that instant."""


class Done(NamedTuple):
    """What became of a place: events planned anew, units taken over, an event that is held, or why nothing was done."""

    planned: tuple[EventId, ...] = ()
    taken_over: Decimal = Decimal(0)
    held: EventId | None = None
    read_again: bool = False
    left: str | None = None


class Repairs(Part):
    """The verb that puts a place right."""

    def put_right(
        self,
        line: FeedLine,
        place: Place,
        differences: Sequence[Difference],
        name: Naming,
        now: dt.datetime,
    ) -> Done:
        """Put right what differs in a place, if it still stands as it was compared."""
        wanted = {each.repair for each in differences} - {Repair.NONE}
        if not wanted:
            return Done()
        values = {"meter": line.meter_id, "start": place.span.start, "now": now}
        with self._database.transaction() as connection:
            connection.execute(HOLD_METER, values)
            rows = customer_of(connection, line.feed, place.customer, place.span, place.dimensions)
            if not _stands(rows, place):
                return Done(left="it has changed since it was compared: ask again")
            done = Done()
            for difference in differences:
                if difference.repair is Repair.PLAN:
                    done = done._replace(planned=self._plan_anew(connection, line, place, difference, now))
                if difference.repair in TAKES_OVER or (difference.repair is Repair.PLAN and not done.planned):
                    done = _TakingOver(connection, line, place, rows, name, now).run(difference)
            if (done.left is None and done.held is None) or Repair.READ in wanted:
                done = done._replace(read_again=connection.execute(READ_AGAIN, values).rowcount == 1)
        return done

    def _plan_anew(
        self,
        connection: Connection,
        line: FeedLine,
        place: Place,
        difference: Difference,
        now: dt.datetime,
    ) -> tuple[EventId, ...]:
        """Take events for rejected, and have them planned anew; none if that does not go for all of them.

        Of what an adoption or another repair has compared since, the sink's word was taken already.
        """
        events = list(difference.events)
        known = connection.execute(FIND_MISSING, {"events": events}).fetchall()
        if len(known) != len(events) or not _billed(line, place.span):
            return ()
        refused = refuse_known(
            connection, events, f"accepted, but not in the sink's own totals: {difference.reason}", now
        )
        assert len(refused) == len(events), "what stands as it was compared is still accepted"
        again = [row[0] for row in connection.execute(REPLAN, {"events": refused, "now": now}).fetchall()]
        take_back_held(connection, again, "planned anew with an event before it", now)
        return tuple(refused)


class _TakingOver:
    """Takes over what a sink holds of one place, within a transaction that holds the meter."""

    def __init__(
        self,
        connection: Connection,
        line: FeedLine,
        place: Place,
        rows: Customer,
        name: Naming,
        now: dt.datetime,
    ) -> None:
        self._connection = connection
        self._line = line
        self._place = place
        self._rows = rows
        self._name = name
        self._now = now

    def run(self, difference: Difference) -> Done:
        """Take over by how much the sink differs from what is booked; what is too much is proposed, where that is wanted."""
        more = subtract(self._place.held_by_sink, self._place.booked)
        if self._place.dimensions:
            return Done(
                left="what one combination has too much or too little is not taken over: put it right there by hand"
            )
        if any(slot.combination for slot in self._rows.slots):
            return Done(
                left="the sink tells what all combinations of the customer's dimensions come to, and not of which of them "
                "this is: put it right there by hand"
            )
        if not _billed(self._line, self._place.span):
            return Done(left="its window is not billed through this sink (`bill_from`, `bill_until`)")
        open_ones = [event.id for start, event in self._rows.events if event.state in OPEN]
        if open_ones:
            return Done(left=f"event {open_ones[0]} of it is not settled yet: decide about that first")
        parts = self._parts(difference, more)
        slot, proposal = parts[0][0], None
        if difference.repair is Repair.PROPOSE:
            proposal = self._name(self._place.customer, slot.window_start, slot.revision + 1, slot.stamped_at)
            if proposal.refused is not None:
                return Done(left=proposal.refused)
        values = {
            "meter": self._line.meter_id,
            "feed": self._line.feed,
            "span": TimestamptzRange(*self._place.span),
            "now": self._now,
            "customer": self._place.customer,
            "changed": len(parts),
            "held": int(proposal is not None),
        }
        [(values["pass"],)] = self._connection.execute(RECORD, values)
        for each, much in parts:
            taken = self._name(self._place.customer, each.window_start, each.revision, each.stamped_at)
            at = each.stamped_at or each.window_start
            slot = self._add(values, each, much, taken._replace(at=at), TAKEN_OVER, said=each.quantity)
        if proposal is None:
            return Done(taken_over=more)
        reason = f"too much by a reconciliation: {difference.reason}"
        [(before, _)] = parts
        self._add(values, slot, subtract(ZERO, more), proposal, reason, said=before.quantity, held=True)
        return Done(taken_over=more, held=EventId(self._tail))

    def _parts(self, difference: Difference, more: Decimal) -> list[tuple[Slot, Decimal]]:
        """Return which slots take it, and how much each: the one that stands highest, or all that differ at the source."""
        slots = {slot.window_start: slot for slot in self._rows.slots}
        if difference.cause is Cause.UNEXPLAINED:
            return [
                (slots.get(window.start) or self._new(window.start), subtract(window.source, window.read))
                for window in self._place.windows
                if window.source is not None and window.source != window.read
            ]
        if not slots:
            return [(self._new(self._place.span.start), more)]
        return [(max(slots.values(), key=lambda slot: (slot.total, slot.window_start)), more)]

    def _new(self, start: dt.datetime) -> Slot:
        values = {"feed": self._line.feed, "start": start, "customer": self._place.customer}
        [(number,)] = self._connection.execute(ADD_SLOT, values)
        return Slot(SlotId(number), start, ZERO, ZERO, 0)

    def _add(
        self,
        values: dict[str, object],
        slot: Slot,
        delta: Decimal,
        proposal: Proposal,
        reason: str,
        *,
        said: Decimal,
        held: bool = False,
    ) -> Slot:
        """Add the next event of a slot, of which the source `said` so much; return how the slot stands then."""
        [(self._tail,)] = self._connection.execute(NEXT_EVENT)
        moved = slot._replace(
            id=slot.id if slot.revision else SlotId(self._tail),
            quantity=add(slot.quantity, delta),
            total=add(slot.total, delta),
            revision=slot.revision + 1,
        )
        of_event = {
            **values,
            "id": self._tail,
            "slot": moved.id,
            "start": slot.window_start,
            "revision": slot.revision,
            "at": proposal.at,
            "settled": None if held else self._now,
            "state": State.HELD.value if held else State.CONFIRMED.value,
            "identifier": proposal.identifier,
            "delta": delta,
            "total": moved.total,
            "said": None if said == moved.total else said,
            "reason": reason,
        }
        self._connection.execute(ADD_EVENT, of_event)
        if held:
            self._connection.execute(PARK, of_event)
        self._connection.execute(
            MOVE_SLOT,
            {
                **of_event,
                "quantity": moved.quantity,
                "total": moved.total,
                "revision": moved.revision,
                "tail": self._tail,
            },
        )
        usage_days.changed(self._connection, self._line.feed, [moved.window_start])
        return moved


def _billed(line: FeedLine, span: Span) -> bool:
    """Tell whether a window goes through the feed by the terms of now."""
    return line.since <= span.start and (line.until is None or span.end <= line.until)


def _stands(rows: Customer, place: Place) -> bool:
    """Tell whether a place stands as it was compared."""
    known = {window.start: (window.read, window.total) for window in place.windows}
    now = rows.place(place.span, None, {})
    stands = {window.start: (window.read, window.total) for window in now.windows}
    unknown = {start: figures for start, figures in known.items() if start not in stands}
    return (
        tuple(event for _, event in rows.events) == place.events
        and all(known.get(start) == figures for start, figures in stands.items())
        and not any(read or total for read, total in unknown.values())
    )
