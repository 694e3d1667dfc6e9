"""Events that wait for a person: looked up, and decided about by hand.

Rules
- A person's word changes an event only from the state it was meant for: whoever comes late changes nothing.
- What was decided about an event in doubt stays on record beside what the sink's figures decided.
"""

import datetime as dt
from collections.abc import Sequence
from decimal import Decimal
from typing import NamedTuple

from aggregator.core.model import Span
from aggregator.core.readbacks import Finding
from aggregator.ledger import usage_days
from aggregator.ledger.at_rest import to_outbox
from aggregator.ledger.database import Connection, Part
from aggregator.ledger.review import moves
from aggregator.ledger.review.decisions import Decider, Verb, note
from aggregator.ledger.review.held_by_guards import HeldByGuard, held_by_guards

LOCK_PARKED = """
select event_id from aggregator.parked where event_id = any(%(events)s) order by event_id for update
"""

PRESENT = """
with gone as (
    delete from aggregator.parked where event_id = any(%(events)s) and state = 'in_doubt' returning event_id
)
update aggregator.event_at_rest as event set state = 'accepted', settled_at = %(now)s, reason = %(reason)s
  from gone where event.id = gone.event_id and event.state = 'in_doubt'
returning event.id
"""

# Nothing of it arrived, so nothing exposes it: it goes out again as it was planned, under the same identifier.
ABSENT = f"""
with gone as (
    delete from aggregator.parked where event_id = any(%(events)s) and state = 'in_doubt' returning event_id
), taken as (
    delete from aggregator.event_at_rest as event using gone
     where event.id = gone.event_id and event.state = 'in_doubt' returning event.*
)
{to_outbox("taken", sink="feed.sink_id", due_at="%(now)s", reason="%(reason)s", exposed_at="null::timestamptz")}
  from taken join aggregator.feed on feed.id = taken.feed_id
returning event_id
"""  # noqa: S608 - our own text

# A slot's newest event, if it is held, was made for what an earlier one of these events was. The slot stands again where it
# stood before it, and the next pass plans what is owed in one.
TAKE_BACK_HELD = """
with tail as (
    select distinct slot.feed_id, slot.window_start, slot.customer, slot.combination, held.id as held, held.delta,
           (select earlier.id from aggregator.events_of(slot.id) as earlier
             where earlier.id <> held.id and earlier.state <> 'void'
             order by earlier.revision desc limit 1) as before
      from aggregator.event as gone
      join aggregator.slot on slot.feed_id = gone.feed_id and slot.window_start = gone.window_start
                          and slot.customer = gone.customer and slot.combination = gone.combination
      join aggregator.event as held on held.id = slot.tail and held.state = 'held'
     where gone.id = any(%(events)s)
), unparked as (
    delete from aggregator.parked using tail where parked.event_id = tail.held returning parked.event_id
), voided as (
    update aggregator.event_at_rest as event
       set state = 'void', settled_at = %(now)s, reason = %(reason)s
      from unparked where event.id = unparked.event_id and event.state = 'held'
)
update aggregator.slot
   set quantity = slot.quantity - tail.delta, total = slot.total - tail.delta, tail = tail.before, replan = true
  from tail join unparked on unparked.event_id = tail.held
 where slot.feed_id = tail.feed_id and slot.window_start = tail.window_start and slot.customer = tail.customer
   and slot.combination = tail.combination
"""

NOTE_WORD = """
insert into aggregator.readback (feed_id, span, reason, asked_at, due_at, done_at, found)
select feed_id, tstzrange(date_trunc('minute', at), date_trunc('minute', at) + interval '1 minute'),
       'events in question: ' || id, %(now)s, %(now)s, %(now)s, 'event ' || id || ' ' || %(reason)s
  from aggregator.event where id = any(%(events)s)
"""

# The longest waiting first, or the newest; `dismissed` ones only when asked for, since somebody has decided about them.
WAITING = """
select event.id, meter.name, sink.name, event.customer, event.window_start, event.revision, event.delta, event.total,
       parked.state::text, parked.reason, parked.since, event.at, event.identifier,
       coalesce(event.attempted_at, event.settled_at), parked.was_accepted, coalesce(slot.replan, false),
       parked.dismissed_at, parked.look_at,
       event.window_start >= feed.since and (feed.until is null or event.window_start < feed.until), parked.guard,
       event.window_start < coalesce(meter.archived_until, '-infinity')
  from aggregator.parked
  join aggregator.event on event.id = parked.event_id
  join aggregator.feed on feed.id = parked.feed_id
  join aggregator.meter on meter.id = feed.meter_id
  join aggregator.sink on sink.id = feed.sink_id
  left join aggregator.slot on slot.feed_id = event.feed_id and slot.window_start = event.window_start
                           and slot.customer = event.customer and slot.combination = event.combination
 where (%(ids)s::bigint[] is null or event.id = any(%(ids)s))
   and (%(meter)s::text is null or meter.name = %(meter)s)
   and (%(state)s::text is null or parked.state::text = %(state)s)
   and (%(customer)s::text is null or event.customer = %(customer)s)
   and (%(guard)s::text is null or parked.guard = %(guard)s)
   and (%(start)s::timestamptz is null or event.window_start >= %(start)s)
   and (%(end)s::timestamptz is null or event.window_start < %(end)s)
   and (%(file)s::text is null or event.request_id = %(file)s)
   and not (%(undecided)s and coalesce(slot.replan, false))
   and (%(dismissed)s or parked.dismissed_at is null)
 order by case when %(newest_first)s then parked.since end desc, case when %(newest_first)s then event.id end desc,
       parked.since, event.id
 limit %(limit)s
"""

DISMISS = """
update aggregator.parked set dismissed_at = %(now)s
 where event_id = any(%(events)s) and state in ('held', 'refused') returning event_id
"""

LOCK_SLOTS = """
select parked.event_id
  from aggregator.event as gone
 cross join lateral aggregator.events_of(gone.slot_id) as event
  join aggregator.parked on parked.event_id = event.id
 where gone.id = any(%(events)s) order by parked.event_id for update of parked
"""


class Waiting(NamedTuple):
    """An event that waits for a person, or for proof from its sink."""

    event: int
    meter: str
    sink: str
    customer: str
    window_start: dt.datetime
    revision: int
    delta: Decimal
    total: Decimal
    state: str
    reason: str
    since: dt.datetime
    at: dt.datetime
    identifier: str
    attempted_at: dt.datetime | None
    was_accepted: bool
    replan: bool
    """Whether the next pass of its meter plans it anew."""
    dismissed_at: dt.datetime | None
    look_at: dt.datetime | None
    fed: bool
    """Whether its window goes through its sink by the terms of now."""
    guard: str | None
    """Which guard holds it, by its key in the configuration."""
    closed: bool
    """Whether its month is closed to be archived: nothing of it is planned or sent any more."""


class Choice(NamedTuple):
    """Which waiting events are meant: those that fit all that is given."""

    ids: tuple[int, ...] | None = None
    meter: str | None = None
    state: str | None = None
    customer: str | None = None
    span: Span | None = None
    dismissed: bool = False
    file: str | None = None
    guard: str | None = None
    undecided: bool = False
    """Only those that the next pass does not plan anew by itself."""


class ParkedEvents(Part):
    """The verbs about events that wait for a person. Each is one short transaction."""

    def waiting(self, choice: Choice, limit: int, *, newest_first: bool = False) -> list[Waiting]:
        """Return the events meant that wait for a person or for proof, those that wait longest first."""
        start, end = choice.span or (None, None)
        values = {
            "ids": None if choice.ids is None else list(choice.ids),
            "meter": choice.meter,
            "state": choice.state,
            "customer": choice.customer,
            "guard": choice.guard,
            "start": start,
            "end": end,
            "dismissed": choice.dismissed,
            "file": choice.file,
            "undecided": choice.undecided,
            "newest_first": newest_first,
            "limit": limit,
        }
        return [Waiting._make(row) for row in self._rows(WAITING, values)]

    def dismiss(self, events: Sequence[int], now: dt.datetime, decider: Decider | None = None) -> list[int]:
        """Leave held or refused events at that, on a person's word; return those that were. A newer plan replaces them.

        With one event of a move, all of it is left at that. Who decides is put on record.
        """
        with self._database.transaction() as connection:
            values = {"events": moves.whole(connection, events), "now": now}
            done = [row[0] for row in connection.execute(DISMISS, values)]
            note(connection, Verb.DISMISS, done, decider, now)
        return done

    def moved(self, limit: int, meter: str | None = None) -> list[moves.Move]:
        """Return the usage that moved from one customer to another and waits for a person."""
        with self._database.transaction() as connection:
            return moves.open_moves(connection, limit, meter)

    def held_by_guards(
        self, limit: int, meter: str | None = None, customer: str | None = None
    ) -> list[HeldByGuard]:
        """Return what guards against too much hold, by customer or by window, the most units first."""
        with self._database.transaction() as connection:
            return held_by_guards(connection, limit, meter, customer)

    def settle_by_hand(
        self, events: Sequence[int], finding: Finding, now: dt.datetime, decider: Decider | None = None
    ) -> list[int]:
        """Settle events in doubt on a person's word, as present or absent; return those that were in doubt.

        Who decides is put on record.
        """
        assert finding is not Finding.UNCLEAR, "a person's word is yes or no"
        statement = PRESENT if finding is Finding.PRESENT else ABSENT
        values = {"events": list(events), "now": now, "reason": f"{finding} on a person's word"}
        with self._database.transaction() as connection:
            connection.execute(LOCK_PARKED, values)
            done = [row[0] for row in connection.execute(statement, values)]
            connection.execute(NOTE_WORD, {**values, "events": done})
            verb = Verb.MARK_ACCEPTED if finding is Finding.PRESENT else Verb.MARK_MISSING
            note(connection, verb, done, decider, now)
        return done


def take_back_held(connection: Connection, events: Sequence[int], reason: str, now: dt.datetime) -> None:
    """Withdraw what is held as a correction of events that came to nothing: it was made for what the sink held before.

    The next pass plans the slots anew. The meter is held by the transaction.
    """
    values = {"events": list(events), "now": now, "reason": reason}
    connection.execute(LOCK_SLOTS, values)
    connection.execute(TAKE_BACK_HELD, values)
    usage_days.changed_by(connection, events)
