"""What is on record of files: which there are, what they hold, and a person's word that they are uploaded.

Rules
- A file that was written stays on record.
- That a file is uploaded is said once: what is confirmed already is refused, so that nobody uploads it a second time.
"""

import datetime as dt
from collections.abc import Sequence
from typing import NamedTuple

from aggregator.errors import UsageError
from aggregator.ledger.database import Database
from aggregator.model import Span

LISTED = """
select file.name, sink.name, file.place, file.by_hand, file.meters, file.first_window, file.last_window, file.records,
       file.bytes, file.sha256, file.written_at, file.confirmed_at, file.claim_id, cardinality(claim.events), file.reason
  from aggregator.file
  join aggregator.claim on claim.id = file.claim_id
  join aggregator.sink on sink.id = file.sink_id
 where (%(sink)s::text is null or sink.name = %(sink)s)
   and (not %(unconfirmed)s or (file.confirmed_at is null and file.by_hand))
 order by file.claim_id desc limit %(limit)s
"""

OF_RANGE = """
select file.name, sink.name, file.place, file.by_hand, file.meters, file.first_window, file.last_window, file.records,
       file.bytes, file.sha256, file.written_at, file.confirmed_at, file.claim_id, cardinality(claim.events), file.reason
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
select name, confirmed_at from aggregator.file where name = any(%(names)s) order by claim_id for update
"""

CONFIRM_EVENTS = """
update aggregator.event set state = 'confirmed'
  from (select unnest(claim.events) as event_id, file.name
          from aggregator.file join aggregator.claim on claim.id = file.claim_id where file.name = any(%(names)s)) as member
 where event.id = member.event_id and event.state = 'accepted' and event.request_id = member.name
returning event.id
"""

CONFIRM = "update aggregator.file set confirmed_at = %(now)s where name = any(%(names)s)"


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


class Uploads:
    """The verbs about files that are written. Each is one short transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def listed(self, *, sink: str | None, unconfirmed: bool, limit: int) -> list[FileRow]:
        """Return files, the newest first; with `unconfirmed` those that wait for a person to say that they are uploaded."""
        values = {"sink": sink, "unconfirmed": unconfirmed, "limit": limit}
        with self._database.transaction() as connection:
            return [FileRow._make(row) for row in connection.execute(LISTED, values)]

    def of_range(self, sink_id: int, meter: str, span: Span) -> list[FileRow]:
        """Return the files of a sink that may hold windows of the meter in a range, the oldest first."""
        values = {"sink_id": sink_id, "meter": meter, "start": span.start, "end": span.end}
        with self._database.transaction() as connection:
            return [FileRow._make(row) for row in connection.execute(OF_RANGE, values)]

    def states(self, sink_id: int, meter: str, span: Span) -> dict[str, int]:
        """Return how many events a sink is owed of a meter in a range, by their state."""
        values = {"sink_id": sink_id, "meter": meter, "start": span.start, "end": span.end}
        with self._database.transaction() as connection:
            return dict(connection.execute(STATES, values).fetchall())

    def confirm(self, names: Sequence[str], now: dt.datetime) -> int:
        """Take a person's word that files were uploaded; return how many events are confirmed by it.

        Raises UsageError, and changes nothing, if one is unknown or confirmed already.
        """
        with self._database.transaction() as connection:
            values = {"names": list(names), "now": now}
            known: dict[str, dt.datetime | None] = dict(connection.execute(ASKED, values).fetchall())
            told = [f"there is no file {name}" for name in names if name not in known]
            told += [
                f"{name} was confirmed at {at:%Y-%m-%d %H:%M}Z already" for name, at in known.items() if at
            ]
            if told:
                raise UsageError(f"Nothing was confirmed: {'; '.join(told)}. See `aggregator files list`.")
            done = connection.execute(CONFIRM_EVENTS, values).fetchall()
            connection.execute(CONFIRM, values)
        return len(done)
