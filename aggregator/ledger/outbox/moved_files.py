"""Files that were begun in one place, when their sink writes to another by now; and a person's word that they are not there.

Rules
- Nobody but a person can know whether such a file lies where it was begun: its writer may have died after the file got its
  name, and before the ledger was told. So it is never written anywhere else by itself, or it might be billed twice.
- It keeps nothing else waiting: a slot has one unsettled event at a time, so what is written elsewhere meanwhile is never a
  newer number of the same window.
- On a person's word its events are due again as they were planned, and go into another file. Not before its writer has
  surely ended: one that was only paused would still give the file its name.
"""

import datetime as dt
from collections.abc import Mapping
from typing import NamedTuple

from aggregator.core.shown import counted
from aggregator.errors import UsageError
from aggregator.ledger.database import Part
from aggregator.ledger.review.decisions import Decider, Verb, note

LATEST_WRITE = dt.timedelta(hours=1)
"""No file gets its name later than this after its writer's last sign of life: calls to a store time out within minutes."""

FIND = """
select sink.name, place.place, file.place, count(*), sum(cardinality(claim.events)), min(claim.events[1]),
       max(claim.events[cardinality(claim.events)]), max(file.held_until)
  from aggregator.file
  join aggregator.claim on claim.id = file.claim_id
  join aggregator.sink on sink.id = file.sink_id
  join unnest(%(sinks)s::text[], %(places)s::text[]) as place (sink, place) on place.sink = sink.name
 where file.written_at is null and file.place <> place.place
 group by 1, 2, 3 order by 1, 3
"""

LOCK = """
select file.claim_id, file.held_until from aggregator.file join aggregator.sink on sink.id = file.sink_id
 where sink.name = %(sink)s and file.place = %(place)s and file.written_at is null
 order by file.claim_id for update of file
"""

MEMBERS = "select unnest(events) from aggregator.claim where id = any(%(claims)s) order by 1"

# What is on record of a try that did not end well; and then as if it had not been made. A sink that finds an event invalid
# meanwhile has taken its row: there is nothing to be due again.
GIVE_BACK = """
with mine as (
    select event_id, claim_id from aggregator.outbox where claim_id = any(%(claims)s) order by event_id for update
), due as (
    update aggregator.outbox set claim_id = null, due_at = %(now)s, exposed_at = null
      from mine where outbox.event_id = mine.event_id
    returning outbox.event_id as id, mine.claim_id
), noted as (
    insert into aggregator.attempt (claim_id, at, answer, reason, events)
    select claim_id, %(now)s, 'due', %(reason)s, array_agg(id order by id) from due group by claim_id
)
select id from due
"""

CLOSE_CLAIMS = "update aggregator.claim set settled_at = %(now)s where id = any(%(claims)s)"
DROP = "delete from aggregator.file where claim_id = any(%(claims)s)"


class MovedFile(NamedTuple):
    """Files of a sink that were begun in one place, when it writes to another, and that are not known to be finished."""

    sink: str
    place: str
    """Where the sink writes now."""
    begun_in: str
    files: int
    events: int
    first: int
    last: int
    """The lowest and the highest event in them: a file is numbered by the lowest of its own."""
    held_until: dt.datetime

    def figures(self) -> dict[str, object]:
        """Return it for the log and for other programs."""
        figures = {"begun_in": self.begun_in, "place": self.place, "files": self.files, "events": self.events}
        return {"sink": self.sink, **figures, "reason": str(self)}

    def __str__(self) -> str:
        return (
            f"Begun in {self.begun_in} and not finished: {counted(self.files, 'file')} of sink {self.sink}, with "
            f"{counted(self.events, 'event')}; the sink writes to {self.place} now. "
            "Nobody knows whether they lie where they were begun, so "
            f"they are written nowhere else, and their usage waits. Set the place back until `aggregator files list` shows "
            "none that waits; what an export began, the same export finishes. Or look there: if no name lies between "
            f"usage-{self.first:015d} and usage-{self.last:015d}-z, say "
            f"`aggregator files move {self.sink} --from {self.begun_in}`."
        )


class Places(Part):
    """The verbs about files that were begun elsewhere. Each is one short transaction."""

    def moved_files(self, places: Mapping[str, str]) -> list[MovedFile]:
        """Return the open files of sinks that write elsewhere by now; `places` says where each of them does."""
        values = {"sinks": list(places), "places": list(places.values())}
        return [MovedFile._make(row) for row in self._rows(FIND, values)]

    def events_in(self, sink: str, place: str) -> set[int]:
        """Return the events of the open files of a sink that were begun in a place."""
        with self._database.transaction() as connection:
            rows = connection.execute(LOCK, {"sink": sink, "place": place}).fetchall()
            found = connection.execute(MEMBERS, {"claims": [claim for claim, _ in rows]})
            return {event for (event,) in found}

    def move(
        self, sink: str, place: str, now: dt.datetime, decider: Decider | None = None
    ) -> tuple[int, int]:
        """Take a person's word that no open file of a sink lies in a place: its events are due again.

        Who says so is put on record. Return how many files and events. Raises UsageError, and changes nothing, if there is
        none, or if somebody may still be writing one.
        """
        with self._database.transaction() as connection:
            rows = connection.execute(LOCK, {"sink": sink, "place": place}).fetchall()
            if not rows:
                raise UsageError(
                    f"No file of sink {sink} that was begun in {place} is open. See `aggregator files list`."
                )
            ended = max(until for _, until in rows) + LATEST_WRITE
            if now < ended:
                raise UsageError(
                    f"Somebody may still be writing to {place}. Look there, and say it, after {ended:%Y-%m-%d %H:%M:%S}Z: "
                    "what appeared there later would be billed twice."
                )
            values = {
                "claims": [claim for claim, _ in rows],
                "now": now,
                "reason": f"not in {place}, on a person's word",
            }
            given = [event for (event,) in connection.execute(GIVE_BACK, values)]
            connection.execute(DROP, values)
            connection.execute(CLOSE_CLAIMS, values)
            note(connection, Verb.MOVE, given, decider, now)
        return len(rows), len(given)
