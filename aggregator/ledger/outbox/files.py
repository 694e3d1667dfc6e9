"""Files: events of the outbox are claimed as a whole, written by somebody else, and settled as a whole.

Rules
- Which events a file holds is committed before a byte of it is written, and never changes. A claim whose owner is gone is
  taken over as a whole, before a new one is opened: whoever has it makes the same file.
- A claim is counted, as any other; so is one that is taken over.
- Only its owner settles a claim, by compare-and-set; and no claim of another kind takes its events meanwhile.
- The oldest go first, of whichever meter. A file takes all that fits of the meters that may share it, and is closed by the
  age of what waits; shares within it would change nothing for whoever reads it as a whole. What is new waits longer only
  behind a backfill of more than a file, and then as long as its files take to be written.
"""

import datetime as dt
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from aggregator.core.model import Bounds, ClaimId, Event, Outcome, Span, Written
from aggregator.ledger import combinations
from aggregator.ledger.at_rest import to_rest
from aggregator.ledger.database import Database, Part
from aggregator.ledger.identity import LedgerIdentity
from aggregator.ledger.outbox.outbox import COUNT_VERDICTS, SETTLE, claiming, document
from aggregator.runtime import failpoints

PAGE = 10_000
"""Events in memory while a file is made."""

NEVER = dt.datetime(9999, 1, 1, tzinfo=dt.UTC)
"""When the events of an open file are due: to no other claim. How long its owner may go on with it stands on the file."""

DUE = """
select meter.name, feed.id, count(*), min(outbox.due_at)
  from aggregator.outbox
  join aggregator.feed on feed.id = outbox.feed_id
  join aggregator.meter on meter.id = feed.meter_id
 where outbox.sink_id = %(sink_id)s and outbox.claim_id is null and outbox.due_at <= %(now)s
 group by 1, 2 order by 1
"""

TAKE_OVER = """
select file.claim_id, claim.claimed_at, cardinality(claim.events), file.tries + 1
  from aggregator.file join aggregator.claim on claim.id = file.claim_id
 where file.sink_id = %(sink_id)s and file.place = %(place)s and file.written_at is null and file.held_until <= %(now)s
 order by file.claim_id limit 1
   for update of file skip locked
"""

OWN = """
with mine as (update aggregator.claim set owner = %(owner)s where id = %(claim)s)
update aggregator.file set held_until = %(until)s, tries = tries + 1, reason = null where claim_id = %(claim)s
"""

# One at a time chooses: two beside each other would take every other row, and make two files of what fits in one.
HOLD_SINK = "select id from aggregator.sink where id = %(sink_id)s for no key update"

# As many of the oldest as fit, unless they are few and young. Another claim's rows are passed over. What a record takes is
# never more than what is summed up here: its customer as JSON text, its quantity, its identifier, and what is around them.
OPEN = """
with picked as materialized (
    select outbox.* from aggregator.outbox
     where outbox.sink_id = %(sink_id)s and outbox.feed_id = any(%(feeds)s) and outbox.claim_id is null
       and outbox.due_at <= %(now)s
       and (%(start)s::timestamptz is null
            or outbox.window_start >= %(start)s and outbox.window_start < %(end)s)
     order by outbox.event_id limit %(records)s
       for update of outbox skip locked
), weighed as (
    select picked.event_id as id, picked.due_at, row_number() over w as n,
           sum(octet_length(to_json(picked.customer)::text) + octet_length(picked.identifier)
               + greatest(octet_length(picked.delta::text), octet_length(picked.total::text)) + feed.around) over w as size
      from picked
      join unnest(%(feeds)s::int[], %(around)s::int[]) as feed (id, around) on feed.id = picked.feed_id
    window w as (order by picked.event_id rows unbounded preceding)
), chosen as (
    select id, due_at from weighed where size <= %(bytes)s or n = 1
)
insert into aggregator.claim (sink_id, owner, claimed_at, events)
select %(sink_id)s, %(owner)s, %(now)s, array_agg(id order by id) from chosen
having count(*) >= %(records)s or count(*) < (select count(*) from picked) or min(due_at) <= %(closing)s
returning id, cardinality(events)
"""

NOTE = """
insert into aggregator.file (claim_id, sink_id, place, by_hand, held_until)
values (%(claim)s, %(sink_id)s, %(place)s, %(by_hand)s, %(until)s)
"""

TAKE = """
update aggregator.outbox
   set claim_id = %(claim)s, due_at = %(never)s, attempts = attempts + 1, exposed_at = coalesce(exposed_at, %(now)s),
       attempted_at = %(now)s
  from (select unnest(events) as event_id from aggregator.claim where id = %(claim)s) as mine
 where outbox.event_id = mine.event_id
"""

# What is in a file is sent once, whoever writes it: nothing exposes an event before.
MEMBERS = """
select event.id, meter.name, event.customer, event.window_start, event.revision, event.delta, event.total,
       event.at, event.identifier, event.attempts, null, null, '', event.combination
  from aggregator.event
  join aggregator.feed on feed.id = event.feed_id
  join aggregator.meter on meter.id = feed.meter_id
 where event.id = any((select events[%(first)s:%(last)s] from aggregator.claim where id = %(claim)s)::bigint[])
 order by event.id
"""

RENEW = """
update aggregator.file set held_until = %(until)s
  from aggregator.claim
 where file.claim_id = %(claim)s and claim.id = file.claim_id and claim.owner = %(owner)s and file.written_at is null
returning file.claim_id
"""

PUT_OFF = """
update aggregator.file set held_until = %(until)s, reason = %(reason)s
  from aggregator.claim
 where file.claim_id = %(claim)s and claim.id = file.claim_id and claim.owner = %(owner)s and file.written_at is null
"""

HOLD = """
select claim.id from aggregator.claim join aggregator.file on file.claim_id = claim.id
 where claim.id = %(claim)s and claim.owner = %(owner)s and file.written_at is null for update
"""

# What a sink reported as invalid meanwhile is refused already, and stays so.
ACCEPT = f"""
with mine as (
    delete from aggregator.outbox
     using (select unnest(events) as event_id from aggregator.claim where id = %(claim)s) as member
     where outbox.event_id = member.event_id and outbox.claim_id = %(claim)s
    returning outbox.*
), rests as ({to_rest("mine", state="'accepted'", reason="null", settled_at="%(now)s", request_id="%(name)s")} from mine
), settled as (
    select event_id as id, feed_id, 'accepted' as state, 0 as uncounted from mine
), counted as ({COUNT_VERDICTS})
select count(*) from settled
"""  # noqa: S608 - our own text

WRITTEN = """
update aggregator.file
   set name = %(name)s, meters = %(meters)s, first_window = %(first_window)s, last_window = %(last_window)s,
       records = %(records)s, bytes = %(bytes)s, sha256 = %(sha256)s, written_at = %(now)s, reason = null
 where claim_id = %(claim)s
"""

CLOSE_CLAIM = "update aggregator.claim set settled_at = %(now)s where id = %(claim)s"
DROP = "delete from aggregator.file where claim_id = %(claim)s"


class Due(NamedTuple):
    """What waits to be written of one meter."""

    meter: str
    feed: int
    events: int
    oldest: dt.datetime


class FileClaim(NamedTuple):
    """A file to be made by this process, and no other."""

    id: ClaimId
    claimed_at: dt.datetime
    """When its events were chosen: what is too old by then is too old whoever writes it."""
    events: int
    tries: int


class Files(Part):
    """The verbs about files. A claim is held for `hold`, and renewed as its file is being made."""

    def __init__(
        self, database: Database, owner: uuid.UUID, hold: dt.timedelta, identity: LedgerIdentity | None = None
    ) -> None:
        super().__init__(database)
        self._owner = owner
        self._identity = identity
        self.hold = hold

    def due(self, sink_id: int, now: dt.datetime) -> list[Due]:
        """Return what waits to be written, by meter."""
        return [Due._make(row) for row in self._rows(DUE, {"sink_id": sink_id, "now": now})]

    def take_over(self, sink_id: int, place: str, now: dt.datetime) -> FileClaim | None:
        """Take over the oldest file of a sink that was begun in this place and left; None if there is none.

        Raises what claiming from the outbox raises; then nothing is taken.
        """
        with claiming(self._database, self._identity, now) as (connection, made):
            at = connection.at
            row = connection.execute(TAKE_OVER, {"sink_id": sink_id, "place": place, "now": at}).fetchone()
            if row is None:
                return None
            made.append(row[0])
            connection.execute(OWN, {"claim": row[0], "owner": self._owner, "until": at + self.hold})
        return FileClaim._make(row)

    def claim_whole(
        self,
        sink_id: int,
        place: str,
        around: Mapping[int, int],
        bounds: Bounds,
        now: dt.datetime,
        *,
        by_hand: bool,
        span: Span | None = None,
    ) -> FileClaim | None:
        """Choose the events of a new file, record the attempt, and commit; None unless a file is to be closed.

        `around` names the feeds that may share it, each with the bytes of a record besides what differs. With `span`, only
        events of windows in it. Raises what claiming from the outbox raises; then nothing is taken.
        """
        values: dict[str, object] = {
            "sink_id": sink_id,
            "owner": self._owner,
            "place": place,
            "by_hand": by_hand,
            "feeds": list(around),
            "around": list(around.values()),
            "records": bounds.records,
            "bytes": bounds.bytes,
            "never": NEVER,
            "start": span.start if span else None,
            "end": span.end if span else None,
        }
        with claiming(self._database, self._identity, now) as (connection, made):
            at = connection.at
            values |= {"closing": at - bounds.wait, "now": at, "until": at + self.hold}
            connection.execute(HOLD_SINK, values)
            row = connection.execute(OPEN, values).fetchone()
            if row is None:
                return None
            made.append(row[0])
            values["claim"] = row[0]
            for statement in (NOTE, TAKE):
                connection.execute(statement, values)
        return FileClaim(row[0], at, row[1], 1)

    def members(self, claim: FileClaim) -> Iterator[list[Event]]:
        """Yield the events of a claim by their ids, some thousands at a time; no transaction is open between."""
        for first in range(1, claim.events + 1, PAGE):
            values = {"claim": claim.id, "first": first, "last": first + PAGE - 1}
            with self._database.transaction() as connection:
                rows = connection.execute(MEMBERS, values, binary=True).fetchall()
                found = combinations.events(connection, rows)
            yield found

    def renew(self, claim: FileClaim, now: dt.datetime) -> bool:
        """Hold a claim for another while; False if it is somebody else's by now."""
        with self._database.transaction(now) as connection:
            values = {"claim": claim.id, "owner": self._owner, "until": connection.at + self.hold}
            return connection.execute(RENEW, values).fetchone() is not None

    def put_off(self, claim: FileClaim, until: dt.datetime, reason: str | None) -> None:
        """Leave a claim to whoever takes it over after that."""
        values = {"claim": claim.id, "owner": self._owner, "until": until, "reason": reason}
        self._run(PUT_OFF, values)

    def settle_unfit(self, claim: FileClaim, outcomes: Sequence[Outcome], now: dt.datetime) -> int:
        """Record what became of members that are in no file; return how many that changed."""
        with self._database.transaction(now) as connection:
            values = {
                "claim": claim.id,
                "owner": self._owner,
                "now": connection.at,
                "outcomes": document(outcomes),
            }
            row = connection.execute(SETTLE, values).fetchone()
        assert row is not None
        return int(row[0])

    def settle(self, claim: FileClaim, written: Written | None, now: dt.datetime) -> int:
        """Record that a claim's file is written, and what is in it accepted; or, without a file, that nothing was to write.

        Return how many events were accepted: none if the claim is somebody else's by now.
        """
        accepted = 0
        with self._database.transaction(now) as connection:
            values: dict[str, object] = {"claim": claim.id, "owner": self._owner, "now": connection.at}
            if connection.execute(HOLD, values).fetchone() is None:
                return 0
            if written is None:
                connection.execute(DROP, values)
            else:
                values |= {**written._asdict(), "meters": list(written.meters)}
                row = connection.execute(ACCEPT, values).fetchone()
                assert row is not None
                accepted = int(row[0])
                connection.execute(WRITTEN, values)
            connection.execute(CLOSE_CLAIM, values)
            failpoints.passing("settle_written")
        failpoints.passing("settle_committed")
        return accepted
