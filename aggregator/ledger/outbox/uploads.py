"""What is on record of files: which there are, what they hold, and a person's word that they are uploaded, or not taken.

Rules
- A file that was written stays on record.
- That a file is uploaded is said once: what is confirmed already is refused, so that nobody uploads it a second time.
- What a rejected file held is refused, like events that a sink took and found invalid later: its identifiers are used up, so
  what is released is planned anew. That says where a window stands by then, so it never sets back what a later file said.
- Rows are locked in one order everywhere: meter, file, outbox, parked, event, feed.
"""

import datetime as dt
from collections.abc import Sequence
from typing import NamedTuple

from aggregator.core.model import EventId, Span
from aggregator.core.shown import counted
from aggregator.errors import UsageError
from aggregator.ledger.database import Connection, Part
from aggregator.ledger.review.decisions import Decider, Verb, note
from aggregator.ledger.review.rejections import refuse_known

MOST_NAMED = 10
"""As many rows that do not fit are named."""

LISTED = """
select file.name, sink.name, file.place, file.by_hand, file.meters, file.first_window, file.last_window, file.records,
       file.bytes, file.sha256, file.written_at, file.confirmed_at, file.claim_id, cardinality(claim.events), file.reason,
       file.rejected_at, file.rejected_reason
  from aggregator.file
  join aggregator.claim on claim.id = file.claim_id
  join aggregator.sink on sink.id = file.sink_id
 where (%(sink)s::text is null or sink.name = %(sink)s)
   and (not %(unconfirmed)s or (file.by_hand and file.confirmed_at is null and file.rejected_at is null))
 order by file.claim_id desc limit %(limit)s
"""

OF_RANGE = """
select file.name, sink.name, file.place, file.by_hand, file.meters, file.first_window, file.last_window, file.records,
       file.bytes, file.sha256, file.written_at, file.confirmed_at, file.claim_id, cardinality(claim.events), file.reason,
       file.rejected_at, file.rejected_reason
  from aggregator.file
  join aggregator.claim on claim.id = file.claim_id
  join aggregator.sink on sink.id = file.sink_id
 where sink.id = %(sink_id)s and %(meter)s = any(file.meters)
   and file.first_window < %(end)s and file.last_window >= %(start)s
 order by file.claim_id
"""

STATES = """
select event.state::text, count(*) from aggregator.event
  join aggregator.feed on feed.id = event.feed_id
  join aggregator.meter on meter.id = feed.meter_id
 where feed.sink_id = %(sink_id)s and meter.name = %(meter)s
   and event.window_start >= %(start)s and event.window_start < %(end)s
 group by event.state order by event.state
"""

ASKED = """
select name, confirmed_at, rejected_at from aggregator.file where name = any(%(names)s) order by claim_id for update
"""

CONFIRM_EVENTS = """
update aggregator.event_at_rest as event set state = 'confirmed'
  from (select unnest(claim.events) as event_id, file.name
          from aggregator.file join aggregator.claim on claim.id = file.claim_id where file.name = any(%(names)s)) as member
 where event.id = member.event_id and event.state = 'accepted' and event.request_id = member.name
returning event.id
"""

CONFIRM = "update aggregator.file set confirmed_at = %(now)s where name = any(%(names)s)"

ASKED_ONE = "select confirmed_at, rejected_at, by_hand from aggregator.file where name = %(name)s for update"

HOLD_METERS = """
select id from aggregator.meter
 where name = any((select meters from aggregator.file where name = %(name)s)::text[]) order by id for update
"""

ACCEPTED = """
select event.id from aggregator.file
  join aggregator.claim on claim.id = file.claim_id
  join lateral unnest(claim.events) as listed (event_id) on true
  join aggregator.event on event.id = listed.event_id
 where file.name = %(name)s and event.request_id = file.name and event.state = 'accepted'
"""

# In one file a customer has one event of a meter at an instant: a window has one unsettled event at a time.
NAMED = """
with member as (
    select event.id, event.identifier, event.customer, extract(epoch from event.at)::bigint as timestamp,
           event.state = 'accepted' as accepted
      from aggregator.file
      join aggregator.claim on claim.id = file.claim_id
      join lateral unnest(claim.events) as listed (event_id) on true
      join aggregator.event on event.id = listed.event_id
     where file.name = %(name)s and event.request_id = file.name
), given as (
    select * from unnest(%(identifiers)s::text[], %(customers)s::text[], %(timestamps)s::bigint[])
      with ordinality as numbered (identifier, customer, timestamp, number)
)
select given.number, member.id, member.accepted from given join member on member.identifier = given.identifier
 union all
select given.number, member.id, member.accepted from given join member using (customer, timestamp)
 where given.identifier is null
"""

REJECT = """
update aggregator.file set rejected_at = %(now)s, rejected_reason = %(reason)s where name = %(name)s
"""


class Row(NamedTuple):
    """A row of a file, as Stripe gives those back that it did not take: by its identifier, or by customer and timestamp."""

    identifier: str | None
    customer: str | None
    timestamp: int | None


class Rejected(NamedTuple):
    """What came of a person's word that a file, or rows of it, came to nothing."""

    events: int
    """How many are refused by it."""
    already_at: dt.datetime | None
    """When it was said of the whole file before; then nothing is changed."""
    by_hand: bool


class FileRow(NamedTuple):
    """A file as the ledger has it; one without a name is being written, or waits for it."""

    name: str | None
    sink: str
    place: str
    by_hand: bool
    meters: list[str] | None
    first_window: dt.datetime | None
    last_window: dt.datetime | None
    records: int | None
    bytes: int | None
    sha256: str | None
    written_at: dt.datetime | None
    confirmed_at: dt.datetime | None
    claim: int
    events: int
    reason: str | None
    rejected_at: dt.datetime | None = None
    rejected_reason: str | None = None


class Uploads(Part):
    """The verbs about files that are written. Each is one short transaction."""

    def listed(self, *, sink: str | None, unconfirmed: bool, limit: int) -> list[FileRow]:
        """Return files, the newest first; with `unconfirmed` those that wait for a person to say that they are uploaded."""
        values = {"sink": sink, "unconfirmed": unconfirmed, "limit": limit}
        return [FileRow._make(row) for row in self._rows(LISTED, values)]

    def of_range(self, sink_id: int, meter: str, span: Span) -> list[FileRow]:
        """Return the files of a sink that may hold windows of the meter in a range, the oldest first."""
        values = {"sink_id": sink_id, "meter": meter, "start": span.start, "end": span.end}
        return [FileRow._make(row) for row in self._rows(OF_RANGE, values)]

    def states(self, sink_id: int, meter: str, span: Span) -> dict[str, int]:
        """Return how many events a sink is owed of a meter in a range, by their state."""
        values = {"sink_id": sink_id, "meter": meter, "start": span.start, "end": span.end}
        return dict(self._rows(STATES, values))

    def confirm(self, names: Sequence[str], now: dt.datetime, decider: Decider | None = None) -> int:
        """Take a person's word that files were uploaded; return how many events are confirmed by it.

        Who says so is put on record. Raises UsageError, and changes nothing, if one is unknown, or confirmed or rejected
        already.
        """
        with self._database.transaction() as connection:
            values = {"names": list(names), "now": now}
            known = {name: word for name, *word in connection.execute(ASKED, values)}
            faults = [f"there is no file {name}" for name in names if name not in known]
            for name, (confirmed_at, rejected_at) in known.items():
                if confirmed_at:
                    faults.append(f"{name} was confirmed at {confirmed_at:%Y-%m-%d %H:%M}Z already")
                elif rejected_at:
                    faults.append(
                        f"{name} was rejected at {rejected_at:%Y-%m-%d %H:%M}Z, so nothing of it counts"
                    )
            if faults:
                raise UsageError(f"Nothing was confirmed: {'; '.join(faults)}. See `aggregator files list`.")
            done = [row[0] for row in connection.execute(CONFIRM_EVENTS, values)]
            connection.execute(CONFIRM, values)
            note(connection, Verb.CONFIRM, done, decider, now)
        return len(done)

    def reject(
        self,
        name: str,
        reason: str,
        now: dt.datetime,
        rows: Sequence[Row] | None = None,
        who: str | None = None,
    ) -> Rejected:
        """Take a person's word that nothing of a file was taken, or none of some rows: their events are refused.

        Who says so is put on record. What is not accepted any more stays as it is. Raises UsageError, and changes nothing,
        if the file is unknown or confirmed, or has no such row.
        """
        with self._database.transaction() as connection:
            values: dict[str, object] = {"name": name, "reason": reason, "now": now}
            connection.execute(HOLD_METERS, values)
            asked = connection.execute(ASKED_ONE, values).fetchone()
            if asked is None:
                raise UsageError(f"There is no file {name}. See `aggregator files list`.")
            confirmed_at, rejected_at, by_hand = asked
            if confirmed_at is not None:
                raise UsageError(
                    f"{name} was confirmed at {confirmed_at:%Y-%m-%d %H:%M}Z, so it cannot be rejected: what it "
                    "holds counts as billed."
                )
            if rejected_at is not None:
                return Rejected(0, rejected_at, by_hand)
            if rows is None:
                events = [EventId(event) for (event,) in connection.execute(ACCEPTED, values)]
                connection.execute(REJECT, values)
            else:
                events = _named(connection, name, rows)
            refused = refuse_known(connection, events, f"file {name} was not taken: {reason}", now)
            note(connection, Verb.REJECT, refused, Decider(who, reason) if who else None, now)
        return Rejected(len(refused), None, by_hand)


def _named(connection: Connection, name: str, rows: Sequence[Row]) -> list[EventId]:
    """Return the accepted events of some rows of a file. Raises UsageError for a row that is of none."""
    values = {
        "name": name,
        "identifiers": [row.identifier for row in rows],
        "customers": [row.customer for row in rows],
        "timestamps": [row.timestamp for row in rows],
    }
    found = connection.execute(NAMED, values).fetchall()
    strange = sorted(set(range(1, len(rows) + 1)) - {number for number, _, _ in found})
    if strange:
        which = ", ".join(map(str, strange[:MOST_NAMED])) + (", ..." if len(strange) > MOST_NAMED else "")
        raise UsageError(
            f"Nothing was rejected: of {counted(len(rows), 'row')}, those are of no event in {name}: {which}."
        )
    return sorted({EventId(event) for _, event, accepted in found if accepted})
