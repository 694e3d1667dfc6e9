"""Events whose fate is not known, or turned out otherwise: in doubt, rejected later, to be read back from the sink.

Rules
- What a sink's figure was compared with is read again before anything is concluded from it, in the same transaction. If it
  has changed meanwhile, the figure proves nothing any more and nothing is written.
- Rejections are in `rejections`, what a person decides is in `parked`; an event is settled by the same statements by either.
"""

import datetime as dt
from collections.abc import Sequence
from typing import NamedTuple

from psycopg.types.range import TimestamptzRange

from aggregator.core.model import EventId, Report, Span, State
from aggregator.core.readbacks import Conclusion, EventsInSpan, EventState, Finding
from aggregator.core.windows import DAY
from aggregator.ledger.database import Connection
from aggregator.ledger.review import unacknowledged
from aggregator.ledger.review.parked import ABSENT, LOCK_PARKED, PRESENT
from aggregator.ledger.review.rejections import REPORTED_WITHIN, refuse_missing, take_report
from aggregator.ledger.review.unacknowledged import Unacknowledged

CLOCKS_DIFFER = dt.timedelta(minutes=1)
"""By how much the sink's clock may differ from ours: so much wider is the span in which it may have received an event."""

MOST_PLACES = 100_000
"""As many customers and hours of one read-back are held in memory at once; the rest comes the next time."""

# The minutes with events in doubt whose time has come. What was looked at longest ago comes first.
OPEN = """
select feed.id, meter.name, event.customer, date_trunc('minute', event.at) as minute
  from aggregator.parked
  join aggregator.event on event.id = parked.event_id
  join aggregator.feed on feed.id = parked.feed_id
  join aggregator.meter on meter.id = feed.meter_id
 where parked.state = 'in_doubt' and feed.sink_id = %(sink_id)s
   and coalesce(parked.look_at, coalesce(event.attempted_at, parked.since) + %(proof)s) <= %(now)s
 group by feed.id, meter.name, event.customer, minute
 order by min(coalesce(parked.look_at, coalesce(event.attempted_at, parked.since) + %(proof)s)), feed.id, event.customer
 limit %(limit)s
"""

# All events of a customer in a span, by way of the slots whose windows touch it: an event lies inside its window. What was
# given up after it had left, and was never rejected, may be there nevertheless; what was planned in shadow cannot be.
# What is being cancelled is on its way, too.
LOOK = """
select event.id, event.at, event.delta,
       case when exists (select from aggregator.cancellation
                          where cancellation.event_id = event.id and cancellation.settled_at is null)
            then 'sending' else event.state::text end,
       coalesce(event.attempted_at, event.settled_at, event.exposed_at),
       event.state = 'in_doubt'
           or (event.state = 'accepted' and %(received_end)s::timestamptz is not null
               and event.exposed_at < %(received_end)s
               and coalesce(event.settled_at, event.attempted_at) >= %(received_start)s),
       event.state in ('void', 'refused') and event.exposed_at is not null
           and not exists (select from aggregator.rejection join aggregator.feed on feed.id = event.feed_id
                            where rejection.sink_id = feed.sink_id and rejection.identifier = event.identifier),
       event.total
  from aggregator.slot
 cross join lateral aggregator.events_of(slot.id, slot.revision > 1) as event
 where slot.feed_id = %(feed)s and slot.customer = %(customer)s
   and slot.window_start < %(end)s
   and slot.window_start > %(start)s - make_interval(secs => (
           select greatest(meter.window_seconds, max(definition.window_seconds))
             from aggregator.feed
             join aggregator.meter on meter.id = feed.meter_id
             left join aggregator.definition on definition.meter_id = meter.id
            where feed.id = %(feed)s group by meter.id))
   and event.at >= %(start)s and event.at < %(end)s and event.state <> 'shadow'
 order by event.id
"""


# In a window that an adoption or a repair compared, what was sent and forgotten may lie at any time, also if it comes to
# nothing: only the whole window's figure has all of it. A repair compares whole hours, or longer windows as a whole, and
# writes what it takes over into one window of them: all the others of that hour have nothing of it on record.
COMPARED = """
with longest as (
    select meter.id as meter_id,
           make_interval(secs => greatest(meter.window_seconds, max(definition.window_seconds))) as length
      from aggregator.feed
      join aggregator.meter on meter.id = feed.meter_id
      left join aggregator.definition on definition.meter_id = meter.id
     where feed.id = %(feed)s group by meter.id
), near as (
    select slot.id, slot.revision, slot.window_start, slot.window_start + longest.length as window_end, longest.meter_id
      from aggregator.slot cross join longest
     where slot.feed_id = %(feed)s and slot.customer = %(customer)s
       and slot.window_start < %(end)s::timestamptz + %(farthest)s
       and slot.window_start > %(start)s::timestamptz - %(farthest)s - longest.length
), compared as (
    select near.window_start as since, near.window_end as until
      from near
     where exists (select from aggregator.pass
                    where pass.meter_id = near.meter_id and pass.kind = 'adoption' and pass.span @> near.window_start)
     union all
    select least(near.window_start, lower(pass.span)), greatest(near.window_end, upper(pass.span))
      from near
     cross join lateral aggregator.events_of(near.id, near.revision > 1) as event
      join aggregator.pass on pass.id = event.pass_id and pass.kind = 'repair'
)
select min(since), max(until) from compared where since < %(end)s and until > %(start)s
"""

FARTHEST = DAY
"""A repair compares no more than a day at once."""

UNCLEAR = """
with seen as (
    update aggregator.parked set reason = %(reason)s, look_at = %(look_at)s
     where event_id = any(%(events)s) and state = 'in_doubt' returning event_id
)
update aggregator.event_at_rest as event set reason = %(reason)s from seen where event.id = seen.event_id
returning event.id
"""

PUT_OFF = """
update aggregator.parked set look_at = %(look_at)s where event_id = any(%(events)s) and state = 'in_doubt'
"""

CONFIRM = """
update aggregator.event_at_rest set state = 'confirmed' where id = any(%(events)s) and state = 'accepted' returning id
"""

# What was concluded stays on record with its figures: for an event that is sent again, it is the proof that it may be.
NOTE_PROOF = """
insert into aggregator.readback (feed_id, span, reason, asked_at, due_at, done_at, found)
values (%(feed)s, %(span)s, %(asked)s, %(now)s, %(now)s, %(now)s, %(found)s)
"""

DUE_READBACK = """
select readback.id, readback.feed_id, meter.name, readback.span, readback.unacknowledged
  from aggregator.readback
  join aggregator.feed on feed.id = readback.feed_id
  join aggregator.meter on meter.id = feed.meter_id
 where feed.sink_id = %(sink_id)s and readback.done_at is null and readback.due_at <= %(now)s
 order by readback.due_at, readback.id limit 1
"""

PLACES = """
select event.customer, date_trunc('hour', event.at)
  from aggregator.event
 where event.feed_id = %(feed)s and event.state = 'accepted'
   and event.planned_at >= %(since)s and event.planned_at < %(end)s
   and event.exposed_at < %(end)s and coalesce(event.settled_at, event.attempted_at) >= %(start)s
 group by 1, 2 order by 1, 2 limit %(limit)s
"""

NOTE_FOUND = """
update aggregator.readback set found = concat_ws(E'\\n', found, %(found)s::text) where id = %(id)s and done_at is null
"""

CLOSE_READBACK = """
update aggregator.readback
   set done_at = %(now)s, found = concat_ws(E'\\n', found, %(found)s::text), nothing_found = %(nothing)s and found is null
 where id = %(id)s and done_at is null
"""

PUT_OFF_READBACK = "update aggregator.readback set due_at = %(due_at)s where id = %(id)s and done_at is null"


class Readback(NamedTuple):
    """A meter's events of one span that are to be compared with the sink's own totals."""

    id: int
    feed: int
    meter: str
    received: Span
    """When the sink received them, by its own clock."""
    unacknowledged: bool = False
    """Whether it is about all that was sent then, by our clock: the sink had no word on each event."""


class Settled(NamedTuple):
    """How many events changed their state by what was found; `stale` if the figure had nothing to say any more."""

    present: int = 0
    absent: int = 0
    unclear: int = 0
    confirmed: int = 0
    rejected: int = 0
    stale: bool = False


class InDoubt(Unacknowledged):
    """The verbs about events in doubt, rejections and read-backs. Each is one short transaction."""

    def open(self, sink_id: int, now: dt.datetime, proof: dt.timedelta, limit: int) -> list[EventsInSpan]:
        """Return minutes with events in doubt that the sink's figures can settle by now, with all of ours in them."""
        values = {"sink_id": sink_id, "now": now, "proof": proof, "limit": limit}
        with self._database.transaction() as connection:
            return [
                events_in_span(
                    connection, feed, meter, customer, Span(minute, minute + dt.timedelta(minutes=1))
                )
                for feed, meter, customer, minute in connection.execute(OPEN, values).fetchall()
            ]

    def look(self, readback: Readback, customer: str, span: Span) -> EventsInSpan:
        """Return all events of a customer in a span, those in question marked that a read-back is about."""
        with self._database.transaction() as connection:
            return events_in_span(
                connection, readback.feed, readback.meter, customer, span, _widened(readback.received)
            )

    def settle(
        self,
        in_span: EventsInSpan,
        conclusions: Sequence[Conclusion],
        now: dt.datetime,
        look_at: dt.datetime,
    ) -> Settled:
        """Record what a figure showed, if the ledger stands as it was compared; what is unclear waits until `look_at`."""
        doubted = {event.id for event in in_span.asked if event.state is State.IN_DOUBT}
        by_finding = {
            finding: [each for each in conclusions if each.finding is finding] for finding in set(Finding)
        }
        present, absent, unclear = (
            by_finding[finding] for finding in (Finding.PRESENT, Finding.ABSENT, Finding.UNCLEAR)
        )
        with self._database.transaction() as connection:
            connection.execute(LOCK_PARKED, {"events": [each.event for each in conclusions]})
            if _again(connection, in_span) != in_span:
                return Settled(stale=True)
            missing = [each.event for each in absent if each.event not in doubted]
            settled = Settled(
                present=_apply(connection, PRESENT, _of(present, doubted), now, "seen"),
                absent=_apply(connection, ABSENT, _of(absent, doubted), now, "not there"),
                unclear=_put_down(connection, _of(unclear, doubted), look_at),
                confirmed=_confirm(connection, [each for each in present if each.event not in doubted]),
                rejected=refuse_missing(connection, missing, conclusions[0].reason, now),
            )
            if settled.present or settled.absent or settled.rejected:
                _note_proof(connection, in_span, conclusions, now)
        return settled

    def put_off(self, in_span: EventsInSpan, look_at: dt.datetime) -> None:
        """Leave the events in doubt of an excerpt alone until then."""
        self._run(PUT_OFF, {"events": [event.id for event in in_span.asked], "look_at": look_at})

    def take_report(
        self, sink_id: int, report: Report, now: dt.datetime, proof: dt.timedelta | None
    ) -> tuple[list[EventId], bool]:
        """Take a sink's report; return the events that are refused by it, and whether a read-back is asked for.

        One that counts more than it names leaves open which: all that the sink received in the span is read back once its
        totals are sure to show it. `proof` is how long that takes; None if the sink cannot be read back.
        """
        with self._database.transaction() as connection:
            return take_report(connection, sink_id, report, now, proof)

    def readback(self, sink_id: int, now: dt.datetime) -> Readback | None:
        """Return the read-back that is due for longest, or None."""
        values = {"sink_id": sink_id, "now": now}
        row = self._row(DUE_READBACK, values)
        return Readback(row[0], row[1], row[2], Span(row[3].lower, row[3].upper), row[4]) if row else None

    def places(self, readback: Readback) -> list[tuple[str, dt.datetime]]:
        """Return the customers and hours with accepted events that a read-back is about, `MOST_PLACES` at most."""
        received = _widened(readback.received)
        values = {
            "feed": readback.feed,
            "start": received.start,
            "end": received.end,
            "since": received.start - REPORTED_WITHIN,
            "limit": MOST_PLACES,
        }
        statement = unacknowledged.PLACES if readback.unacknowledged else PLACES
        return [(row[0], row[1]) for row in self._rows(statement, values)]

    def note(self, readback: Readback, found: str) -> None:
        """Add to what a read-back found."""
        self._run(NOTE_FOUND, {"id": readback.id, "found": found})

    def close_readback(self, readback: Readback, found: str, now: dt.datetime, *, nothing: bool) -> None:
        """Note that everything a read-back is about has been looked at."""
        self._run(CLOSE_READBACK, {"id": readback.id, "found": found, "now": now, "nothing": nothing})

    def put_off_readback(self, readback: Readback, due_at: dt.datetime) -> None:
        """Come back to a read-back later."""
        self._run(PUT_OFF_READBACK, {"id": readback.id, "due_at": due_at})


def events_in_span(
    connection: Connection, feed: int, meter: str, customer: str, span: Span, received: Span | None = None
) -> EventsInSpan:
    """Return all events of a customer of a feed in a span, within a transaction.

    The span is widened to whole windows where an adoption has compared them, and to all that a repair has compared at once.
    """
    given, span = span, _uncut(connection, feed, customer, span)
    imprecise = span != given and _uncut(connection, feed, customer, span) != span
    values = {
        "feed": feed,
        "customer": customer,
        "start": span.start,
        "end": span.end,
        "received_start": received.start if received else None,
        "received_end": received.end if received else None,
    }
    rows = connection.execute(LOOK, values).fetchall()
    events = tuple(
        EventState(EventId(event), at, delta, State(state), attempted_at, asked, maybe_sent, total)
        for event, at, delta, state, attempted_at, asked, maybe_sent, total in rows
    )
    return EventsInSpan(feed, meter, customer, span, events, received, imprecise)


def _uncut(connection: Connection, feed: int, customer: str, span: Span) -> Span:
    """Return a span with the whole of every window that it touches and that an adoption or a repair compared."""
    values = {"feed": feed, "customer": customer, "start": span.start, "end": span.end, "farthest": FARTHEST}
    [(start, end)] = connection.execute(COMPARED, values)
    return span if start is None else Span(min(span.start, start), max(span.end, end))


def _again(connection: Connection, in_span: EventsInSpan) -> EventsInSpan:
    return events_in_span(
        connection, in_span.feed, in_span.meter, in_span.customer, in_span.span, in_span.received
    )


def _widened(received: Span) -> Span:
    return Span(received.start - CLOCKS_DIFFER, received.end + CLOCKS_DIFFER)


def _of(conclusions: Sequence[Conclusion], doubted: set[EventId]) -> list[Conclusion]:
    return [each for each in conclusions if each.event in doubted]


def _apply(
    connection: Connection, statement: str, conclusions: Sequence[Conclusion], now: dt.datetime, what: str
) -> int:
    """Settle events in doubt by one of the statements above; return how many."""
    if not conclusions:
        return 0
    values = {
        "events": [each.event for each in conclusions],
        "now": now,
        "reason": f"{what}: {conclusions[0].reason}",
    }
    done = connection.execute(statement, values).fetchall()
    assert len(done) == len(conclusions), "what stands as it was compared is still in doubt"
    return len(done)


def _put_down(connection: Connection, conclusions: Sequence[Conclusion], look_at: dt.datetime) -> int:
    for each in conclusions:
        connection.execute(UNCLEAR, {"events": [each.event], "reason": each.reason, "look_at": look_at})
    return len(conclusions)


def _confirm(connection: Connection, conclusions: Sequence[Conclusion]) -> int:
    return len(connection.execute(CONFIRM, {"events": [each.event for each in conclusions]}).fetchall())


def _note_proof(
    connection: Connection, in_span: EventsInSpan, conclusions: Sequence[Conclusion], now: dt.datetime
) -> None:
    said = [f"event {each.event} {each.finding}" for each in conclusions]
    values = {
        "feed": in_span.feed,
        "span": TimestamptzRange(*in_span.span),
        "asked": "events in question: " + ", ".join(str(each.event) for each in conclusions),
        "now": now,
        "found": f"{', '.join(said)}: {conclusions[0].reason}",
    }
    connection.execute(NOTE_PROOF, values)
