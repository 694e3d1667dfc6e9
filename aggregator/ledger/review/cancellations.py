"""Events that a person wants back from a sink: asked for, tried, and settled once it is known what became of them.

Rules
- What is wanted is on record before the sink is asked, and each try before it is made. A try without a recorded answer may
  have been carried out.
- Until it is known to be done, the event stays what it is: it counts as booked, so that nothing of it is planned again. Then
  it is refused, like one that the sink rejected later, and its quantity is owed as the source says.
- A correction of the same slot that is held meanwhile was made for what the sink held before. It goes with the event, and
  the slot is read again.
- A row is known by its number and by when it was asked for: a ledger that was set back gives out numbers again, and an
  answer that comes late must not settle what another event is asked for under the same number.
- Rows are locked in one order everywhere: meter, outbox, parked, event, feed; a cancellation comes after them.
"""

import datetime as dt
from collections.abc import Collection, Sequence
from decimal import Decimal
from typing import Any, NamedTuple

from aggregator.core.model import EventId, Span, State
from aggregator.core.readbacks import EventsInSpan
from aggregator.core.states import CancellationState, is_settled, may_go_on
from aggregator.core.windows import MINUTE, floor
from aggregator.ledger.database import Connection, Part
from aggregator.ledger.review.decisions import Decider, Verb, note
from aggregator.ledger.review.in_doubt import events_in_span
from aggregator.ledger.review.parked import LOCK_SLOTS, take_back_held
from aggregator.ledger.review.rejections import refuse_known

CANDIDATES = """
select event.id, meter.name, event.customer, event.window_start, event.delta, event.at, event.identifier,
       event.state::text, coalesce(event.exposed_at, event.attempted_at, event.settled_at),
       (select state from aggregator.cancellation where event_id = event.id and settled_at is null),
       event.attempted_at is not null
  from aggregator.event
  join aggregator.feed on feed.id = event.feed_id
  join aggregator.meter on meter.id = feed.meter_id
 where event.id = any(%(events)s) and feed.sink_id = %(sink_id)s
 order by event.id
"""

# How far the other events of the slot are, by a number that only grows: one for each that is planned, one more for each that
# came to nothing. No time can tell: a pass that began before it was asked may be committed after it, as of when it began.
ASK = """
insert into aggregator.cancellation (event_id, sink_id, state, asked_at, next_at, others)
select event.id, %(sink_id)s, 'asked', %(now)s, %(now)s,
       (select count(*) + count(*) filter (where other.state = 'void') from aggregator.events_of(event.slot_id) as other
         where other.id <> event.id)
  from aggregator.event
 where event.id = any(%(events)s) and event.state in ('accepted', 'confirmed') and event.attempted_at is not null
 order by event.id
    on conflict (event_id) where settled_at is null do nothing
returning event_id
"""

# What is held because it lowers a bill, where the event before it may be taken back instead. What the sink would not take
# back once, or a person has decided about, is left alone. It is looked up and asked for in one: in between, what is held
# might be withdrawn.
LOWERED = """
select earlier.id
  from aggregator.parked
  join aggregator.event as held on held.id = parked.event_id and held.delta < 0
  join aggregator.feed on feed.id = held.feed_id and feed.sink_id = %(sink_id)s
  join aggregator.meter on meter.id = feed.meter_id and meter.name = any(%(meters)s)
  join lateral (
        select * from aggregator.events_of(held.slot_id) as before
         where before.id <> held.id and before.state <> 'void'
         order by before.revision desc limit 1
       ) as earlier on true
 where parked.state = 'held' and parked.guard is null and parked.dismissed_at is null
   and earlier.state in ('accepted', 'confirmed') and earlier.delta > 0 and earlier.attempted_at is not null
   and not exists (select from aggregator.identity where stopped_at is not null)
   and coalesce(earlier.exposed_at, earlier.attempted_at, earlier.settled_at) > %(since)s
   and not exists (select from aggregator.cancellation where event_id = earlier.id)
 order by earlier.id limit %(limit)s
"""

ASK_LOWERED = ASK.replace("%(events)s", "".join(("array(", LOWERED, ")")))

OPEN = """
select cancellation.id, event.id, feed.id, meter.name, event.customer, event.delta, event.at, event.identifier,
       coalesce(event.exposed_at, event.attempted_at, event.settled_at),
       cancellation.state, cancellation.tries, cancellation.tried_at, cancellation.unsure, cancellation.seen_at,
       cancellation.asked_at, cancellation.answer, coalesce(event.transport, '')
  from aggregator.cancellation
  join aggregator.event on event.id = cancellation.event_id
  join aggregator.feed on feed.id = event.feed_id
  join aggregator.meter on meter.id = feed.meter_id
 where cancellation.settled_at is null
   and (%(sink_id)s::integer is null or cancellation.sink_id = %(sink_id)s)
   and (%(now)s::timestamptz is null or (cancellation.state <> 'lapsed' and cancellation.next_at <= %(now)s))
   and (%(events)s::bigint[] is null or event.id = any(%(events)s))
 order by cancellation.next_at, cancellation.id limit %(limit)s
"""

# Nobody else tries meanwhile, and nobody at all while the ledger is stopped. Until an answer is on record, it may have been
# carried out.
BEGIN = """
update aggregator.cancellation
   set tries = tries + 1, tried_at = %(now)s, next_at = %(until)s, unsure = true
 where id = %(id)s and asked_at = %(asked_at)s and state = 'asked' and tries = %(tries)s and next_at <= %(now)s
   and not exists (select from aggregator.identity where stopped_at is not null)
returning id
"""

# A state that is an end settles the row.
ANSWERED = """
update aggregator.cancellation
   set state = %(state)s, answer = %(answer)s, next_at = %(next_at)s, unsure = %(unsure)s,
       settled_at = case when %(settled)s then %(now)s::timestamptz end
 where id = %(id)s and asked_at = %(asked_at)s and settled_at is null and state = %(was)s and tries = %(tries)s
returning event_id
"""

TAKEN_OVER_SINCE = (
    "but an adoption has taken its slot over meanwhile, so nobody knows what is owed: compare the slot"
)

LAPSE = """
update aggregator.cancellation set state = 'lapsed', settled_at = null, answer = %(answer)s
 where id = %(id)s
   and exists (select from aggregator.event where event.id = %(event)s and state in ('accepted', 'confirmed'))
returning id
"""

SEEN = """
update aggregator.cancellation set seen_at = %(now)s
 where id = %(id)s and asked_at = %(asked_at)s and settled_at is null
"""

STOPPED = "select true from aggregator.identity where stopped_at is not null"

HOLD_METER = """
select meter.id from aggregator.meter
 where id = (select feed.meter_id from aggregator.feed where feed.id = %(feed)s) for update
"""

# What the source has said since the event was asked back counted on it. So that is planned anew, and waits for nobody.
CHANGED_SINCE = """
update aggregator.slot set replan = true
  from aggregator.event as gone
 where gone.id = %(event)s
   and slot.feed_id = gone.feed_id and slot.window_start = gone.window_start and slot.customer = gone.customer
   and slot.combination = gone.combination
   and (select others from aggregator.cancellation where id = %(id)s)
       <> (select count(*) + count(*) filter (where other.state = 'void') from aggregator.events_of(gone.slot_id) as other
            where other.id <> gone.id)
"""

READ_AGAIN = """
update aggregator.meter set reread_from = least(meter.reread_from, event.window_start)
  from aggregator.event join aggregator.feed on feed.id = event.feed_id
 where event.id = %(event)s and meter.id = feed.meter_id
"""


class Candidate(NamedTuple):
    """An event that somebody wants back; `open` is how far that is already, if it is wanted already."""

    event: int
    meter: str
    customer: str
    window_start: dt.datetime
    delta: Decimal
    at: dt.datetime
    identifier: str
    state: str
    received_at: dt.datetime
    """When the sink may have received it first."""
    open: str | None
    left: bool
    """Whether it ever left under its name: what an adoption has taken over has not."""


class Wanted(NamedTuple):
    """A cancellation that is not settled."""

    id: int
    event: EventId
    feed: int
    meter: str
    customer: str
    delta: Decimal
    at: dt.datetime
    identifier: str
    received_at: dt.datetime
    state: CancellationState
    tries: int
    tried_at: dt.datetime | None
    unsure: bool
    """Whether a try may have been carried out of which no answer is known."""
    seen_at: dt.datetime | None
    """When the sink's totals last showed the event."""
    asked_at: dt.datetime
    answer: str | None
    transport: str = ""
    """How the event went to the sink, in the sink's own word."""


class Cancellations(Part):
    """The verbs about cancellations. Each is one short transaction."""

    def candidates(self, sink_id: int, events: Sequence[int]) -> list[Candidate]:
        """Return those of these events that went to a sink."""
        rows = self._rows(CANDIDATES, {"sink_id": sink_id, "events": list(events)})
        return [Candidate._make(row) for row in rows]

    def ask(
        self, sink_id: int, events: Sequence[int], now: dt.datetime, decider: Decider | None = None
    ) -> list[int]:
        """Put on record that these are wanted back; return those that count as booked and were not wanted already."""
        values = {"sink_id": sink_id, "events": list(events), "now": now}
        with self._database.transaction() as connection:
            done = [row[0] for row in connection.execute(ASK, values)]
            note(connection, Verb.CANCEL, done, decider, now)
        return done

    def ask_lowered(
        self, sink_id: int, meters: Collection[str], since: dt.datetime, now: dt.datetime, limit: int
    ) -> list[int]:
        """Put on record that events of these meters, received since then, are wanted back where a held decrease lowers them.

        Return which those are.
        """
        values = {"sink_id": sink_id, "meters": list(meters), "since": since, "now": now, "limit": limit}
        return [row[0] for row in self._rows(ASK_LOWERED, values)]

    def wanted(
        self,
        sink_id: int | None = None,
        *,
        now: dt.datetime | None = None,
        events: Sequence[int] | None = None,
        limit: int,
    ) -> list[Wanted]:
        """Return cancellations that are not settled; with `now`, those that are to be looked after by then."""
        values = {
            "sink_id": sink_id,
            "now": now,
            "events": None if events is None else list(events),
            "limit": limit,
        }
        return [_wanted(row) for row in self._rows(OPEN, values)]

    def undecided(self, sink_id: int, events: Sequence[int], *, limit: int) -> list[Wanted]:
        """Return those of these that wait for a person's word: nobody can tell, or nobody asks as the ledger is stopped."""
        values = {"sink_id": sink_id, "now": None, "events": list(events), "limit": limit}
        with self._database.transaction() as connection:
            stopped = connection.execute(STOPPED).fetchone() is not None
            found = [_wanted(row) for row in connection.execute(OPEN, values)]
        taken = CancellationState.TAKEN
        begun = (each for each in found if each.unsure or each.state is taken) if stopped else ()
        return sorted({*begun, *(each for each in found if each.state is CancellationState.LAPSED)})

    def begin(self, wanted: Wanted, now: dt.datetime, until: dt.datetime) -> Wanted | None:
        """Record a try before it is made; None if it is settled or somebody else tries. Nobody does until `until`.

        `now` is what the caller takes for the ledger's time: a round may have stood still since. The ledger's own clock has
        the say. Raises ClocksApart if this host's differs.
        """
        with self._database.transaction(now, clocks_agree=True) as connection:
            at = connection.at
            values = {
                "id": wanted.id,
                "asked_at": wanted.asked_at,
                "tries": wanted.tries,
                "now": at,
                "until": at + (until - now),
            }
            begun = connection.execute(BEGIN, values).fetchone()
        return wanted._replace(tries=wanted.tries + 1, tried_at=at) if begun else None

    def answered(
        self,
        wanted: Wanted,
        state: CancellationState,
        answer: str,
        now: dt.datetime,
        next_at: dt.datetime,
        *,
        unsure: bool,
    ) -> bool:
        """Record how a cancellation stands now, if it stands as `wanted` has it; `done` is for `delay`."""
        assert state is not CancellationState.DONE, (
            "a cancellation is done together with what follows from it"
        )
        values = _values(wanted, state, answer, now, next_at, unsure=unsure)
        return self._row(ANSWERED, values) is not None

    def seen(self, wanted: Wanted, now: dt.datetime) -> None:
        """Note that the sink's totals show the event."""
        self._run(SEEN, {"id": wanted.id, "asked_at": wanted.asked_at, "now": now})

    def look(self, wanted: Wanted) -> EventsInSpan:
        """Return all events of the customer in the event's minute, the event itself in question."""
        minute = floor(wanted.at, MINUTE)
        with self._database.transaction() as connection:
            in_span = events_in_span(
                connection, wanted.feed, wanted.meter, wanted.customer, Span(minute, minute + MINUTE)
            )
        events = tuple(
            each._replace(state=State.ACCEPTED, asked=True) if each.id == wanted.event else each
            for each in in_span.events
        )
        return in_span._replace(events=events)

    def settle(self, wanted: Wanted, answer: str, now: dt.datetime) -> bool:
        """Record that the sink has taken an event back, with all that follows: it is refused, and owed."""
        with self._database.transaction() as connection:
            connection.execute(HOLD_METER, {"feed": wanted.feed})
            connection.execute(LOCK_SLOTS, {"events": [wanted.event]})
            values = _values(wanted, CancellationState.DONE, answer, now, now, unsure=False)
            if connection.execute(ANSWERED, values).fetchone() is None:
                return False
            if refuse_known(connection, [wanted.event], f"cancelled: {answer}", now):
                _owe_again(connection, wanted, now)
                return True
            lapse = {"id": wanted.id, "event": wanted.event, "answer": f"{answer}; {TAKEN_OVER_SINCE}"}
            return connection.execute(LAPSE, lapse).fetchone() is None


def _wanted(row: tuple[Any, ...]) -> Wanted:
    wanted = Wanted._make(row)
    return wanted._replace(state=CancellationState(wanted.state))


def _owe_again(connection: Connection, wanted: Wanted, now: dt.datetime) -> None:
    take_back_held(connection, [wanted.event], "it corrected an event that is cancelled", now)
    connection.execute(CHANGED_SINCE, {"event": wanted.event, "id": wanted.id})
    connection.execute(READ_AGAIN, {"event": wanted.event})


def _values(
    wanted: Wanted,
    state: CancellationState,
    answer: str,
    now: dt.datetime,
    next_at: dt.datetime,
    *,
    unsure: bool,
) -> dict[str, object]:
    assert may_go_on(wanted.state, state), f"a cancellation goes on only: from {wanted.state} to {state}"
    return {
        "id": wanted.id,
        "asked_at": wanted.asked_at,
        "was": wanted.state,
        "tries": wanted.tries,
        "state": state,
        "settled": is_settled(state),
        "answer": answer,
        "now": now,
        "next_at": next_at,
        "unsure": unsure,
    }
