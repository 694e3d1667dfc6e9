"""Up to when what a source names as touched has been read again; and what full readings found beyond that."""

import datetime as dt

from aggregator.core.changed import Touched
from aggregator.core.model import Changed
from aggregator.ledger.database import Connection

FIND = "select since, fingerprint from aggregator.touched where meter_id = %(meter_id)s"

# It never moves back, unless it is about another question.
MOVE = """
insert into aggregator.touched (meter_id, fingerprint, since, read_at)
values (%(meter_id)s, %(fingerprint)s, %(since)s, %(now)s)
    on conflict (meter_id) do update
       set since = case when touched.fingerprint = excluded.fingerprint then greatest(touched.since, excluded.since)
                        else excluded.since end,
           fingerprint = excluded.fingerprint, read_at = excluded.read_at
"""

NOTE_MISSED = """
update aggregator.touched set missed = missed + %(windows)s, missed_at = %(now)s where meter_id = %(meter_id)s
"""


def find(connection: Connection, meter_id: int) -> Touched | None:
    """Return how far a meter is; None if its source was never asked."""
    row = connection.execute(FIND, {"meter_id": meter_id}).fetchone()
    return None if row is None else Touched._make(row)


def move(
    connection: Connection, meter_id: int, changed: Changed, since: dt.datetime, now: dt.datetime
) -> None:
    """Note up to when what was named by a question has been read, in the transaction of the last of those readings."""
    values = {"meter_id": meter_id, "fingerprint": changed.fingerprint, "since": since, "now": now}
    connection.execute(MOVE, values)


def note_missed(connection: Connection, meter_id: int, windows: int, now: dt.datetime) -> None:
    """Count windows in which a full reading found what no answer had named."""
    connection.execute(NOTE_MISSED, {"meter_id": meter_id, "windows": windows, "now": now})
