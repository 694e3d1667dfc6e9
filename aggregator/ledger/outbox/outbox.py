"""The outbox: events are claimed, sent by somebody else, and settled.

Rules
- A claim is committed before the first byte leaves: it names its events, and each of them counts an attempt.
- A claimed row is due again when its claim runs out, and settling a part of a claim can renew the rest. So a process that
  died leaves nothing behind but the question whether its events arrived; they go out again as the same bytes.
- What is claimed and settled is stamped by the ledger's clock, within the transaction. A host whose clock differs claims
  nothing, and settles what it has in the air all the same.
- A claim is counted, in the ledger and beside it, before anything of it leaves: a ledger that was wound back claims nothing.
- A claim settles only its own rows, by compare-and-set on the claim and its owner (a ledger that was wound back gives out
  numbers again): whoever comes late changes nothing.
- A process claims only what its configuration knows: events of a meter or a sink that was removed wait, and cost nothing.
- Feeds take turns, and what is new goes before what a backfill planned: nobody waits behind another meter's month. Of a
  backlog the oldest leaves first, and in every fourth claim the newest, unless a feed keeps an order.
- Nothing here decides; `retry` does.
"""

import datetime as dt
import json
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from aggregator.core import retry
from aggregator.core.model import ClaimId, Event, EventId, Outcome
from aggregator.errors import LedgerFailedOver, LedgerStopped
from aggregator.ledger import combinations
from aggregator.ledger.at_rest import to_outbox, to_rest
from aggregator.ledger.database import Connection, Database, Part, array
from aggregator.ledger.identity import WHAT_TO_DO, LedgerIdentity
from aggregator.ledger.outbox.turns import Turns
from aggregator.ledger.passes.reassert import note_newer_than
from aggregator.ledger.review import moves
from aggregator.ledger.review.decisions import Decider, Verb, note
from aggregator.ledger.review.parked import take_back_held
from aggregator.runtime import failpoints
from aggregator.runtime.redact import storable

PUT_OFF_AT_MOST = dt.timedelta(minutes=1)
"""How long what was put off waits once the ledger's clock was set back: what another process has in the air is answered, or
given up, by then."""

FEEDS = "select id from aggregator.feed where sink_id = %(sink_id)s order by id"

OPEN_CLAIM = """
insert into aggregator.claim (sink_id, owner, claimed_at, events)
values (%(sink_id)s, %(owner)s, %(now)s, %(events)s::bigint[]) returning id
"""

# `exposed_at` and `attempted_at` are returned as they were before this attempt. Both sides of the join are given the ids:
# with one of them alone, the planner reads all of a short table for the other. What may have arrived one way goes the same
# way again: a sink with several is not known to remember an identifier in all of them.
TAKE = """
update aggregator.outbox
   set claim_id = %(claim)s, due_at = %(until)s, attempts = outbox.attempts + 1,
       exposed_at = coalesce(outbox.exposed_at, %(now)s), attempted_at = %(now)s,
       transport = case when outbox.exposed_at is null then %(transport)s else outbox.transport end
  from aggregator.outbox as old, aggregator.feed, aggregator.meter
 where outbox.event_id = any(%(events)s::bigint[]) and old.event_id = outbox.event_id
   and old.event_id = any(%(events)s::bigint[]) and feed.id = outbox.feed_id and meter.id = feed.meter_id
returning outbox.event_id, meter.name, outbox.customer, outbox.window_start, outbox.revision, outbox.delta, outbox.total,
          outbox.at, outbox.identifier, outbox.attempts, old.exposed_at, old.attempted_at,
          coalesce(outbox.transport, ''), outbox.combination
"""

# Each session counts in a row of its own, and in the order of the key: nobody waits for another's commit, and never two for
# each other.
COUNT_VERDICTS = """
    insert into aggregator.verdict_count as known (feed_id, part, accepted, refused, in_doubt, due)
    select feed_id, mod(pg_backend_pid(), 16), count(*) filter (where state = 'accepted'),
           count(*) filter (where state = 'refused'), count(*) filter (where state = 'in_doubt'),
           count(*) filter (where state = 'due')
      from settled where uncounted = 0 group by feed_id order by feed_id
        on conflict (feed_id, part) do update
           set accepted = known.accepted + excluded.accepted, refused = known.refused + excluded.refused,
               in_doubt = known.in_doubt + excluded.in_doubt, due = known.due + excluded.due
"""

# One statement, so that a batch costs one round trip. Every part sees the rows as they were before; none touches a row
# that another one does.
SETTLE = f"""
with given as (
    select event_id, state, due_at, reason, request_id, exposed_at, coalesce(uncounted, 0) as uncounted, attempted_at
      from json_to_recordset(%(outcomes)s::json) as outcome (
        event_id bigint, state aggregator.event_state, due_at timestamptz, reason text, request_id text,
        exposed_at timestamptz, uncounted int, attempted_at timestamptz)
), mine as (
    select given.* from given join aggregator.outbox on outbox.event_id = given.event_id
     where outbox.claim_id = %(claim)s
       and exists (select from aggregator.claim where id = %(claim)s and owner = %(owner)s)
       for update of outbox
), kept as (
    update aggregator.outbox
       set claim_id = null, due_at = mine.due_at, reason = mine.reason,
           request_id = coalesce(mine.request_id, outbox.request_id), exposed_at = mine.exposed_at,
           attempts = outbox.attempts - mine.uncounted,
           attempted_at = case when mine.uncounted = 1 then mine.attempted_at else outbox.attempted_at end
      from mine where outbox.event_id = mine.event_id and mine.state = 'due'
    returning outbox.event_id, outbox.feed_id, mine.state as became, mine.reason as said, mine.request_id as answered,
              mine.uncounted
), gone as (
    delete from aggregator.outbox using mine where outbox.event_id = mine.event_id and mine.state <> 'due'
    returning outbox.*, mine.state as became, mine.reason as said, mine.request_id as answered, mine.uncounted,
              mine.exposed_at as first_at, mine.attempted_at as before_at
), rests as ({
    to_rest(
        "gone",
        state="gone.became",
        reason="gone.said",
        settled_at="%(now)s",
        exposed_at="gone.first_at",
        attempted_at="case when gone.uncounted = 1 then gone.before_at else gone.attempted_at end",
        attempts="gone.attempts - gone.uncounted",
        request_id="coalesce(gone.answered, gone.request_id)",
    )
} from gone), settled as (
    select event_id as id, feed_id, became as state, said as reason, answered as request_id, uncounted from gone
     union all
    select event_id, feed_id, became, said, answered, uncounted from kept
), parked as (
    insert into aggregator.parked (event_id, feed_id, state, reason, since)
    select id, feed_id, state, coalesce(reason, ''), %(now)s from settled where state in ('refused', 'in_doubt')
), noted as (
    insert into aggregator.attempt (claim_id, at, answer, reason, events, request_ids)
    select %(claim)s, %(now)s, state::text, reason, array_agg(id order by id),
           case when count(request_id) > 0 then array_agg(request_id order by id) end
      from settled where state <> 'accepted' and uncounted = 0 group by state, reason
), counted as ({COUNT_VERDICTS})
select count(*), (select stopped_at is not null from aggregator.identity) from settled
"""  # noqa: S608 - our own text

# Settling is a sign of life: what is still on its way stays claimed for another while.
# The claim names its rows, so that no long outbox is searched for them.
RENEW_CLAIM = """
update aggregator.outbox set due_at = %(until)s
 where event_id = any(array(select unnest(events) from aggregator.claim where id = %(claim)s))
   and claim_id = %(claim)s
"""

CLOSE_CLAIM = """
update aggregator.claim set settled_at = %(now)s
 where id = %(claim)s
   and not exists (select from aggregator.outbox
                    where event_id = any(claim.events) and claim_id = %(claim)s)
"""

ADOPTED_SINCE = """
select exists (select from aggregator.event
                 join aggregator.pass on pass.id = event.pass_id
                 join aggregator.pass as later
                   on later.meter_id = pass.meter_id and later.kind = 'adoption' and later.id > pass.id
                where event.id = %(event)s)
"""

HALT = "update aggregator.sink set halted_at = %(now)s, halted_reason = %(reason)s where id = %(sink_id)s"
RESUME = "update aggregator.sink set halted_at = null, halted_reason = null where id = %(sink_id)s and halted_at is not null"

# What a file is being made of is due to nobody else, however long that takes.
NEXT_DUE = """
select min(due_at) filter (where due_at < '9999-01-01'), count(*)
  from aggregator.outbox where sink_id = %(sink_id)s and feed_id = any(%(feeds)s)
"""

# Mostly there is nothing at all. Each sink is looked after once a second, and to look through a thousand feeds costs more.
FIRST = "select event_id from aggregator.outbox order by event_id limit 1"

# Only of what may leave: what waits for a person's word, however much, says nothing of how the rest is to go.
MORE_DUE = """
select exists (
    select from (
            select id, case when cleared_at is null then cleared_until else 9223372036854775807 end as until
              from aggregator.feed where id = any(%(feeds)s::int[])
           ) as feed
     cross join (values (false), (true)) as kind (backfill)
     cross join lateral (
            select from aggregator.outbox
             where (outbox.feed_id, outbox.backfill) >= (feed.id, kind.backfill)
               and (outbox.feed_id, outbox.backfill, outbox.event_id) <= (feed.id, kind.backfill, feed.until)
               and outbox.due_at <= %(now)s
           ) as due
    offset %(count)s)
"""

# Nothing of it was sent, or nobody knows: what has left may have arrived. A claim that has run out is nobody's.
GIVE_UP = f"""
with gone as (
    delete from aggregator.outbox
     where feed_id = any(%(feeds)s) and (claim_id is null or due_at <= %(now)s)
    returning *, case when exposed_at is null then 'refused' else 'in_doubt' end::aggregator.event_state as became
), rests as ({to_rest("gone", state="gone.became", reason="%(reason)s", settled_at="%(now)s")} from gone), settled as (
    select event_id as id, feed_id, became as state from gone
), parked as (
    insert into aggregator.parked (event_id, feed_id, state, reason, since, dismissed_at)
    select id, feed_id, state, %(reason)s, %(now)s, case when state = 'refused' then %(now)s::timestamptz end from settled
)
select count(*) filter (where state = 'refused'), count(*) filter (where state = 'in_doubt'),
       coalesce(array_agg(id), array[]::bigint[])
  from settled
"""  # noqa: S608 - our own text

GIVEN_UP = "given up by a person: nothing in the configuration sends it any more"

RELEASE = f"""
with gone as (
    delete from aggregator.parked
     where event_id = any(%(events)s) and state in ('held', 'refused') and not was_accepted
    returning event_id
), taken as (
    delete from aggregator.event_at_rest as event using gone
     where event.id = gone.event_id and event.state in ('held', 'refused') returning event.*
)
{to_outbox("taken", sink="feed.sink_id", due_at="%(now)s", reason="null")}
  from taken join aggregator.feed on feed.id = taken.feed_id
returning event_id
"""  # noqa: S608 - our own text

# What the sink took and rejected later has used up its identifier: sent again it would be a duplicate, counted as accepted
# and yet not booked. The meter's next pass plans it anew, under the next revision, if the window still goes
# through the sink. The meter is held first, as by a pass; for what was dismissed, too, since that keeps no month open.
HOLD_METERS = """
select id from aggregator.meter
 where id in (select feed.meter_id from aggregator.parked join aggregator.feed on feed.id = parked.feed_id
               where parked.event_id = any(%(events)s)
                 and (parked.was_accepted or feed.ordered or parked.dismissed_at is not null))
 order by id for update
"""

# Nothing of a closed month goes any more: no sink takes it, no pass plans it, and it may be on its way to an archive.
OF_OPEN_MONTHS = """
select event.id
  from aggregator.event
  join aggregator.feed on feed.id = event.feed_id
  join aggregator.meter on meter.id = feed.meter_id
 where event.id = any(%(events)s) and event.window_start >= coalesce(meter.archived_until, '-infinity')
"""

REPLAN = """
with again as (
    update aggregator.parked set dismissed_at = null
      from aggregator.event join aggregator.feed on feed.id = event.feed_id
     where parked.event_id = any(%(events)s) and parked.state = 'refused' and parked.was_accepted
       and event.id = parked.event_id
       and event.window_start >= feed.since and (feed.until is null or event.window_start < feed.until)
    returning parked.event_id
), named as (
    select event.* from again join aggregator.event on event.id = again.event_id
), marked as (
    update aggregator.slot set replan = true from named
     where slot.feed_id = named.feed_id and slot.window_start = named.window_start and slot.customer = named.customer
       and slot.combination = named.combination
), reread as (
    update aggregator.meter set reread_from = least(meter.reread_from, old.start)
      from (select feed.meter_id, min(named.window_start) as start
              from named join aggregator.feed on feed.id = named.feed_id group by 1) as old
     where meter.id = old.meter_id
)
select event_id from again
"""


# The ledger's clock stands before a claim that it has stamped. What was put off by it as it was would wait for it to come
# there again, and by then look as if it had been sent just now.
SET_BACK = """
with before as (
    select claimed_at from aggregator.identity where claimed_at > %(now)s + %(turned)s for update
), lowered as (
    update aggregator.identity set claimed_at = %(now)s from before
), due as (
    update aggregator.outbox set due_at = %(until)s from before
     where outbox.due_at > %(until)s and outbox.due_at < '9999-01-01'
), given as (
    update aggregator.file set held_until = %(until)s from before
     where file.written_at is null and file.held_until > %(until)s
)
select claimed_at from before
"""

# Whatever else was put off by more than it ever is. What is sent again must follow any request that is still on its way.
SET_BACK_ELSEWHERE = (
    "update aggregator.unread set next_at = %(now)s where next_at > %(now)s + interval '1 day'",
    """
    update aggregator.reassertion set due_at = %(now)s + interval '6 hours' where due_at > %(now)s + interval '6 hours'
    """,
    "update aggregator.parked set look_at = %(now)s where look_at > %(now)s + interval '6 hours'",
    """
    update aggregator.event_at_rest as event set attempted_at = %(now)s
      from aggregator.parked
     where event.id = parked.event_id and parked.state = 'in_doubt'
       and coalesce(event.attempted_at, event.exposed_at) > %(now)s
    """,
    """
    update aggregator.cancellation set next_at = %(until)s
     where settled_at is null and next_at > %(now)s + interval '15 minutes'
    """,
)


PLANNED_BY = """
select distinct event.pass_id
  from aggregator.claim
  join lateral unnest(claim.events[1:%(most)s]) as listed (event_id) on true
  join aggregator.event on event.id = listed.event_id
 where claim.id = %(claim)s and event.pass_id is not null
 order by 1
"""


class Claim(NamedTuple):
    """Events that this process, and no other, is about to send."""

    id: ClaimId
    events: tuple[Event, ...]
    leave_seconds: float
    """How long after the claim was taken or renewed its events may leave: the rest of its time is for the answers."""
    at: dt.datetime
    """When it was taken, by the ledger's clock."""


class Outbox(Part):
    """The verbs about the outbox. A claim lasts `leave`, in which its events may leave, and `answer` for the last answer.

    `identity` counts the claims, and finds out whether the ledger was wound back; without it nobody does.
    """

    def __init__(
        self,
        database: Database,
        owner: uuid.UUID,
        leave: dt.timedelta,
        answer: dt.timedelta,
        identity: LedgerIdentity | None = None,
    ) -> None:
        super().__init__(database)
        self._owner = owner
        self._leave = leave
        self._hold = leave + answer
        self._identity = identity
        self._turns = Turns()

    def planned_by(self, claim: ClaimId, most: int = 500) -> list[int]:
        """Return which passes planned the first events of a claim, by the numbers of their records."""
        return [row[0] for row in self._rows(PLANNED_BY, {"claim": claim, "most": most})]

    def claim(
        self,
        sink_id: int,
        limit: int,
        now: dt.datetime,
        transport: str = "",
        feeds: Sequence[int] | None = None,
    ) -> Claim | None:
        """Take up to `limit` due events of a sink, record the attempt, and commit; None if nothing is due.

        `now` is what the caller takes for the ledger's time; the ledger's own clock has the say. `transport` is how they
        are to go, but for those that may have gone another way before; `feeds`, of which feeds they may be: left out, of
        all that the sink has.

        Raises LedgerStopped if the ledger is not what it was, which every process knows from then on; ClocksApart if this
        host's clock differs from the ledger's. Then nothing is taken.
        """
        with claiming(self._database, self._identity, now, str(self._owner)) as (connection, made):
            at = connection.at
            if connection.execute(FIRST).fetchone() is None:
                return None
            those = _feeds(connection, sink_id, feeds)
            events = self._turns.pick(connection, sink_id, those, limit, at)
            if not events:
                return None
            values = {
                "sink_id": sink_id,
                "owner": self._owner,
                "now": at,
                "until": at + self._hold,
                "events": array(events),
                "transport": transport,
            }
            opened = connection.execute(OPEN_CLAIM, values).fetchone()
            assert opened is not None
            made.append(opened[0])
            rows = connection.execute(TAKE, {**values, "claim": opened[0]}, binary=True).fetchall()
            found = tuple(sorted(combinations.events(connection, rows)))
        assert len(rows) == len(events), "what is locked stays"
        return Claim(ClaimId(made[0]), found, self._leave.total_seconds(), at)

    def stop(self, event: EventId, reason: str, now: dt.datetime) -> None:
        """Mark the ledger as stopped: what a sink said of an event shows that the ledger has forgotten something.

        Of what was planned before an adoption that is known, and was settled by it.
        """
        if self._identity is None:
            return
        adopted = self._row(ADOPTED_SINCE, {"event": event}) == (True,)
        if not adopted:
            self._identity.stop(f"{reason} {WHAT_TO_DO}", now)

    @property
    def stopped(self) -> bool:
        """Whether the ledger is known to be stopped: nothing more of a claim may leave then."""
        return self._identity is not None and self._identity.stopped_seen

    def settle(
        self, claim: ClaimId, outcomes: Sequence[Outcome], now: dt.datetime, *, renew: bool = True
    ) -> int:
        """Record what became of events of a claim; return how many were still the claim's to settle.

        With `renew`, what is left of it stays claimed for another while; that costs an update of each row.
        """
        if not outcomes:
            return 0
        with self._database.transaction(now) as connection:
            at = connection.at
            values = {"claim": claim, "owner": self._owner, "now": at, "outcomes": document(outcomes)}
            row = connection.execute(SETTLE, values).fetchone()
            if renew:
                connection.execute(RENEW_CLAIM, {"claim": claim, "until": at + self._hold})
            connection.execute(CLOSE_CLAIM, {"claim": claim, "now": at})
            failpoints.passing("settle_written")
        failpoints.passing("settle_committed")
        assert row is not None
        if (
            self._identity is not None and row[1]
        ):  # by another process: what is on its way is settled, and no more leaves
            self._identity.stopped_seen = True
        return int(row[0])

    def halt(self, sink_id: int, reason: str, now: dt.datetime) -> None:
        """Note that a sink refuses us as a whole, for `status` to show."""
        self._run(HALT, {"sink_id": sink_id, "reason": reason, "now": now})

    def resume(self, sink_id: int) -> None:
        """Note that a sink takes events (again)."""
        self._run(RESUME, {"sink_id": sink_id})

    def more_due(
        self, sink_id: int, count: int, now: dt.datetime, feeds: Sequence[int] | None = None
    ) -> bool:
        """Tell whether more than `count` events of a sink are due and may leave, of some of its feeds or of all."""
        with self._database.transaction() as connection:
            those = array(_feeds(connection, sink_id, feeds))
            row = connection.execute(MORE_DUE, {"feeds": those, "count": count, "now": now}).fetchone()
        return row is not None and bool(row[0])

    def clock_set_back(self, now: dt.datetime) -> str | None:
        """Say that the ledger's clock was set back, if it was, and let all be due that was put off by it as it was.

        What had left by then is in doubt once it is claimed: `retry` knows it by its stamp. Said once.
        """
        with self._database.transaction(now) as connection:
            at = connection.at
            values = {"now": at, "turned": retry.CLOCK_TURNED, "until": at + PUT_OFF_AT_MOST}
            row = connection.execute(SET_BACK, values).fetchone()
            if row is None:
                return None
            for statement in SET_BACK_ELSEWHERE:
                connection.execute(statement, values)
        return (
            f"The ledger's clock shows {at:%Y-%m-%d %H:%M:%S}Z, and has stamped a claim with {row[0]:%Y-%m-%d %H:%M:%S}Z: "
            "it was set back, or another server took over whose clock is behind. Events that had left by then without an "
            "answer are in doubt, and settled by the sinks' own figures; everything else goes on. See that the clock is "
            "right (NTP)."
        )

    def waiting(self, sink_id: int, feeds: Sequence[int] | None = None) -> tuple[dt.datetime | None, int]:
        """Return when the next event of a sink is due, and how many are in its outbox, of some of its feeds or of all."""
        with self._database.transaction() as connection:
            those = _feeds(connection, sink_id, feeds)
            [row] = connection.execute(NEXT_DUE, {"sink_id": sink_id, "feeds": those})
        return row[0], row[1]

    def give_up(
        self, feeds: Sequence[int], now: dt.datetime, decider: Decider | None = None
    ) -> tuple[int, int]:
        """Take what waits of some feeds out of the outbox, on a person's word. Who decides is put on record.

        Return how many are refused and dismissed, since nothing of them has left, and how many are in doubt.
        """
        values = {"feeds": list(feeds), "now": now, "reason": GIVEN_UP}
        with self._database.transaction() as connection:
            [(refused, in_doubt, events)] = connection.execute(GIVE_UP, values)
            note(connection, Verb.GIVE_UP, events, decider, now)
        return refused, in_doubt

    def release(self, events: Sequence[int], now: dt.datetime, decider: Decider | None = None) -> list[int]:
        """Let held or refused events go, on a person's word; return those that were. Who decides is put on record.

        They are due as they were planned, but for what the sink took before and rejected later: that is planned anew.
        With one event of a move, all of it goes. Nothing of a month that is closed to be archived does.
        """
        with self._database.transaction() as connection:
            values = {"events": moves.whole(connection, events), "now": now}
            connection.execute(HOLD_METERS, values)
            values["events"] = [number for (number,) in connection.execute(OF_OPEN_MONTHS, values)]
            due = connection.execute(RELEASE, values).fetchall()
            again = connection.execute(REPLAN, values).fetchall()
            # A decrease that is held behind it would be planned again in its place, and held again, for ever.
            take_back_held(connection, [row[0] for row in again], "planned anew with an event before it", now)
            note_newer_than(connection, [row[0] for row in due], now)
            done = sorted(row[0] for row in [*due, *again])
            note(connection, Verb.RELEASE, done, decider, now)
        return done


@contextmanager
def claiming(
    database: Database, identity: LedgerIdentity | None, now: dt.datetime, owner: str | None = None
) -> Iterator[tuple[Connection, list[int]]]:
    """Run a transaction that ends in a claim, and count it; what stops the ledger is known to every process.

    What it yields besides takes the number of the claim. Without one there was nothing to claim, and nothing is counted.
    """
    count = None
    made: list[int] = []
    try:
        with database.transaction(now, clocks_agree=True) as connection:
            yield connection, made
            if not made:
                return
            if identity is not None:
                count = identity.count_claim(connection, connection.at, made[0], owner)
            failpoints.passing("claim_written")
    except LedgerFailedOver:
        raise  # each host sees that for itself, and some may know that nothing is missing
    except LedgerStopped as stopped:
        if identity is not None:
            identity.stop(str(stopped), now)
        raise
    failpoints.passing("claim_committed")
    if identity is not None and count is not None:
        identity.noted(count)


def _feeds(connection: Connection, sink_id: int, feeds: Sequence[int] | None) -> list[int]:
    """Return the feeds that are meant; all of a sink that the ledger knows, if none are named."""
    if feeds is not None:
        return list(feeds)
    return [row[0] for row in connection.execute(FEEDS, {"sink_id": sink_id})]


def document(outcomes: Iterable[Outcome]) -> str:
    """Return outcomes as JSON, of which the server makes rows: an array for each column takes several times as long.

    What an outcome does not have is left out, and is null there. What a sink said is made fit to be stored: its bytes are
    somebody else's. The events of a claim share an instant, which is written once.
    """
    instants: dict[dt.datetime, str] = {}
    rows = []
    for event, state, due_at, reason, request_id, exposed_at, counts, attempted_at in outcomes:
        row: dict[str, object] = {"event_id": event, "state": state}
        for name, at in (("due_at", due_at), ("exposed_at", exposed_at), ("attempted_at", attempted_at)):
            if at is not None:
                row[name] = instants.get(at) or instants.setdefault(at, at.isoformat())
        if reason is not None:
            row["reason"] = storable(reason)
        if request_id is not None:
            row["request_id"] = storable(request_id)
        if not counts:
            row["uncounted"] = 1
        rows.append(row)
    return json.dumps(rows)
