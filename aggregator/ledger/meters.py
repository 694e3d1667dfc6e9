"""Meters in the ledger: who they are, how far they have been read, and who may write for them just now.

Rules
- A lease is for efficiency; what keeps two writers apart is the epoch. Every lease has a new one, and a pass commits only
  under the epoch it was given.
- Leases are timed by the ledger's own clock, since the hosts' clocks differ.
"""

import datetime as dt
import uuid
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from aggregator.errors import LedgerError
from aggregator.ledger.database import Connection, Database
from aggregator.model import Meter

# Registering inserts what is missing and reads what is there. It locks no row that exists, so that it never waits for a
# pass that is being committed.
ADD_SINK = "insert into aggregator.sink (name) values (%(name)s) on conflict do nothing"
FIND_SINK = "select id from aggregator.sink where name = %(name)s"

ADD_METER = """
insert into aggregator.meter (name, fingerprint, window_seconds, start_at, mark)
values (%(name)s, %(fingerprint)s, %(window_seconds)s, %(start_at)s, %(start_at)s)
    on conflict do nothing
"""

FIND_METER = "select id, window_seconds, fingerprint, start_at from aggregator.meter where name = %(name)s"

# A later start_at takes the mark with it: nothing before it is billed. So does an earlier one while nothing has been read;
# afterwards the mark stays, and what lies before the old beginning is open to a backfill.
REDEFINE_FEEDS = """
update aggregator.feed
   set since = case when feed.since = meter.start_at then %(start_at)s else feed.since end,
       read_until = case when feed.read_until = meter.start_at then %(start_at)s
                         else greatest(feed.read_until, %(start_at)s) end
  from aggregator.meter
 where meter.name = %(name)s and feed.meter_id = meter.id
"""

REDEFINE_METER = """
update aggregator.meter
   set fingerprint = %(fingerprint)s, start_at = %(start_at)s,
       mark = case when mark = start_at then %(start_at)s else greatest(mark, %(start_at)s) end
 where name = %(name)s
"""

# A sink that joins a meter later begins at the mark: what was billed before, elsewhere, is not billed again.
ADD_FEED = """
insert into aggregator.feed (meter_id, sink_id, since, read_until)
select id, %(sink_id)s, mark, mark from aggregator.meter where id = %(meter_id)s
    on conflict do nothing
"""

FIND_FEED = "select id, since from aggregator.feed where meter_id = %(meter_id)s and sink_id = %(sink_id)s"

# Whoever is in the middle of a commit holds the row; skipping it is the answer "not now".
ACQUIRE = """
update aggregator.meter
   set lease_owner = %(owner)s, lease_until = clock_timestamp() + %(length)s, epoch = epoch + 1
 where id = (select id from aggregator.meter
              where id = %(meter_id)s
                and (lease_until is null or lease_until <= clock_timestamp())
                for update skip locked)
returning epoch, mark, reread_from, swept,
          (select min(read_until) from aggregator.feed where id = any(%(feeds)s)), clock_timestamp()
"""

RENEW = """
update aggregator.meter set lease_until = clock_timestamp() + %(length)s
 where id = %(meter_id)s and epoch = %(epoch)s and lease_owner = %(owner)s
"""

RELEASE = """
update aggregator.meter set lease_owner = null, lease_until = null
 where id = %(meter_id)s and epoch = %(epoch)s and lease_owner = %(owner)s
"""


class Feed(NamedTuple):
    """One meter's line into one sink. Nothing before `since` goes through it."""

    id: int
    sink: str
    sink_id: int
    since: dt.datetime


class Registered(NamedTuple):
    """A configured meter, as the ledger knows it."""

    id: int
    meter: Meter
    feeds: tuple[Feed, ...]


class Lease(NamedTuple):
    """The right to commit for a meter, as long as `epoch` is its epoch; and how far the meter was when it was given."""

    registered: Registered
    owner: uuid.UUID
    epoch: int
    mark: dt.datetime
    reread_from: dt.datetime | None
    swept: dt.datetime | None
    fed_until: dt.datetime
    """Up to where the meter was planned for the one of its sinks that lags most."""
    given_at: dt.datetime
    """When the lease was given, by the ledger's own clock."""


class Meters:
    """The verbs about meters. `lease` is how long a holder may be silent before another process may take over."""

    def __init__(self, database: Database, owner: uuid.UUID, lease: dt.timedelta) -> None:
        self._database = database
        self._owner = owner
        self._lease = lease

    def register(self, meters: Iterable[Meter]) -> Mapping[str, Registered]:
        """Make the configured meters, sinks and feeds known to the ledger; what is known already stays as it is.

        Raises LedgerError when a meter's windows have another length than the ledger's.
        """
        with self._database.transaction() as connection:
            # In the order of names, so that two processes that start together wait for each other and never in a ring.
            ordered = sorted(meters, key=lambda meter: meter.name)
            sinks = {name for meter in ordered for name in meter.sinks}
            sink_ids = {name: _known(connection, ADD_SINK, FIND_SINK, name=name)[0] for name in sorted(sinks)}
            return {meter.name: _register(connection, meter, sink_ids) for meter in ordered}

    def acquire(self, registered: Registered) -> Lease | None:
        """Take the meter for this process; None while another one has it."""
        with self._database.transaction() as connection:
            row = connection.execute(
                ACQUIRE,
                {
                    "meter_id": registered.id,
                    "owner": self._owner,
                    "length": self._lease,
                    "feeds": [feed.id for feed in registered.feeds],
                },
            ).fetchone()
        return Lease(registered, self._owner, *row) if row else None

    def renew(self, lease: Lease) -> bool:
        """Give a sign of life; False if the lease is lost already."""
        return self._write(RENEW, lease)

    def release(self, lease: Lease) -> bool:
        """Give the meter back; False if the lease was lost already."""
        return self._write(RELEASE, lease)

    def _write(self, statement: str, lease: Lease) -> bool:
        values = {
            "meter_id": lease.registered.id,
            "epoch": lease.epoch,
            "owner": lease.owner,
            "length": self._lease,
        }
        with self._database.transaction() as connection:
            return connection.execute(statement, values).rowcount == 1


def _register(connection: Connection, meter: Meter, sink_ids: Mapping[str, int]) -> Registered:
    length = int(meter.window.total_seconds())
    values = {
        "name": meter.name,
        "fingerprint": meter.fingerprint,
        "window_seconds": length,
        "start_at": meter.start_at,
    }
    meter_id, known_length, *defined = _known(connection, ADD_METER, FIND_METER, **values)
    if known_length != length:
        raise LedgerError(
            f"Meter {meter.name} has windows of {known_length} s in the ledger and of {length} s in the configuration; "
            f"set `window` back, or give the meter with the new length a new name and a later `start_at`."
        )
    if defined != [meter.fingerprint, meter.start_at]:
        connection.execute(REDEFINE_FEEDS, values)
        connection.execute(REDEFINE_METER, values)
    feeds = []
    for sink in meter.sinks:
        feed_id, since = _known(connection, ADD_FEED, FIND_FEED, meter_id=meter_id, sink_id=sink_ids[sink])
        feeds.append(Feed(feed_id, sink, sink_ids[sink], since))
    return Registered(meter_id, meter, tuple(feeds))


def _known(connection: Connection, add: str, find: str, **values: object) -> tuple[Any, ...]:
    """Return a row, added first if it is missing."""
    row = connection.execute(find, values).fetchone()
    if row is None:
        connection.execute(add, values)
        row = connection.execute(find, values).fetchone()
    assert row is not None, "what was added is there"
    return row
