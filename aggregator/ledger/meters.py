"""Meters in the ledger: who they are, how far they have been read, and who may write for them just now.

Rules
- A lease is for efficiency; what keeps two writers apart is the epoch. Every lease has a new one, and a pass commits only
  under the epoch it was given.
- A meter that is defined anew is read by the new definition from its first unread window on. The way it is read changes only
  while nothing of it is on the books.
- Leases are timed by the ledger's own clock, since the hosts' clocks differ.
- A holder whose lease has run out, and whose session waits for a client that has been silent for long, is ended.
"""

import datetime as dt
import uuid
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

from psycopg.errors import InsufficientPrivilege

from aggregator.core import definitions
from aggregator.core.changed import Touched
from aggregator.core.commit_barrier import Noted
from aggregator.core.feed_terms import FeedCoverage
from aggregator.core.model import EPOCH, Definition, Differing, Meter
from aggregator.core.renaming import Memory, report_read
from aggregator.errors import LeaseLost, LedgerError, MeterRefused
from aggregator.ledger import feeds as lines
from aggregator.ledger import meter_names, silent_holder
from aggregator.ledger.database import Connection, Database, Part
from aggregator.ledger.feeds import LOCK_MARK, Feed, as_it_is, fed_until
from aggregator.ledger.passes import silence, silent_customers, touched
from aggregator.ledger.passes.silence import Silence
from aggregator.ledger.passes.silent_customers import SilentCustomers

__all__ = ["Feed", "Lease", "Left", "Meters", "Registered"]

# Registering inserts what is missing and reads what is there. It locks no row that exists, so that it never waits for a
# pass that is being committed.
ADD_SINK = "insert into aggregator.sink (name) values (%(name)s) on conflict do nothing"
FIND_SINK = "select id from aggregator.sink where name = %(name)s"

ADD_METER = """
insert into aggregator.meter (name, fingerprint, read, window_seconds, start_at, mark)
values (%(name)s, %(fingerprint)s, %(read)s, %(window_seconds)s, %(start_at)s, %(start_at)s)
    on conflict do nothing
"""

FIND_METER = """
select id, coalesce(formerly[1], name), read, fingerprint, start_at from aggregator.meter where name = %(name)s
"""

CHANGE_READ = "update aggregator.meter set read = %(read)s where id = %(meter_id)s"

FIND_NAME = "select name from aggregator.meter where id = %(meter_id)s"

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

# Whoever is in the middle of a pass under what was configured before has lost the meter: it would read windows beyond the
# new definition's beginning by the old one.
REDEFINE_METER = """
update aggregator.meter
   set fingerprint = %(fingerprint)s, window_seconds = %(window_seconds)s, start_at = %(start_at)s,
       mark = case when mark = start_at then %(start_at)s else greatest(mark, %(start_at)s) end,
       hourly_at = null, daily_at = null,
       epoch = epoch + 1, lease_owner = null, lease_until = null
 where name = %(name)s
"""

# Whoever is in the middle of a commit holds the row; skipping it is the answer "not now".
ACQUIRE = """
update aggregator.meter
   set lease_owner = %(owner)s, lease_until = clock_timestamp() + %(length)s, epoch = epoch + 1
 where id = (select id from aggregator.meter
              where id = %(meter_id)s
                and name = %(name)s
                and (lease_until is null or lease_until <= clock_timestamp())
                for update skip locked)
returning epoch, mark, reread_from, swept, seen_until, clock_timestamp(), hourly_at, daily_at, waits_for,
          archived_until
"""

FIND_DEFINITIONS = """
select since, fingerprint, query, make_interval(secs => window_seconds), dimensions, customers
  from aggregator.definition
 where meter_id = %(meter_id)s order by since
"""

FIND_DEFINITIONS_OF_MANY = """
select meter_id, since, fingerprint, query, make_interval(secs => window_seconds), dimensions, customers
  from aggregator.definition where meter_id = any(%(meters)s) order by meter_id, since
"""

FORGET_DEFINITIONS = "delete from aggregator.definition where meter_id = %(meter_id)s and since >= %(since)s"

ADD_DEFINITION = """
insert into aggregator.definition (meter_id, since, fingerprint, query, window_seconds, dimensions, customers)
values (%(meter_id)s, %(since)s, %(fingerprint)s, %(query)s, %(window_seconds)s, %(dimensions)s, %(customers)s)
"""

FIND_NOTED = "select until, xid::bigint from aggregator.fence where meter_id = %(meter_id)s order by until"

FIND_UNREAD = (
    "select window_start, next_at <= %(now)s from aggregator.unread where meter_id = %(meter_id)s order by 1"
)

FORGET_NOTED = """
delete from aggregator.fence where meter_id = %(meter_id)s and not (until = any(%(until)s))
"""

NOTE = """
insert into aggregator.fence (meter_id, until, xid)
select %(meter_id)s, until, xid from unnest(%(until)s::timestamptz[], %(xids)s::numeric[]) as noted (until, xid)
    on conflict (meter_id, until) do update set xid = excluded.xid
"""

WAITS = """
update aggregator.meter
   set waits_since = case when %(waits_for)s::text is null then null else coalesce(waits_since, %(now)s) end,
       waits_for = %(waits_for)s,
       unfenced_at = case when %(given_up)s then %(now)s else unfenced_at end
 where id = %(meter_id)s and epoch = %(epoch)s and lease_owner = %(owner)s
"""

# A backfill may have read windows ahead of the mark.
NEWEST_SLOT = """
select max(newest.window_start) from aggregator.feed
  join lateral (select window_start from aggregator.slot where feed_id = feed.id order by window_start desc limit 1)
       as newest on true
 where feed.meter_id = %(meter_id)s
"""

HOLD = """
select from aggregator.meter
 where id = %(meter_id)s and epoch = %(epoch)s and lease_owner = %(owner)s for update
"""

FIND_MARK = "select mark from aggregator.meter where id = %(meter_id)s"

RENEW = """
update aggregator.meter set lease_until = clock_timestamp() + %(length)s
 where id = %(meter_id)s and epoch = %(epoch)s and lease_owner = %(owner)s
"""

RELEASE = """
update aggregator.meter set lease_owner = null, lease_until = null, left_epoch = epoch, left_as = %(left_as)s
 where id = %(meter_id)s and epoch = %(epoch)s and lease_owner = %(owner)s
returning mark, reread_from, swept, seen_until, hourly_at, daily_at
"""

ONLY_READS = (
    "The configuration has something that the ledger does not know yet, and the ledger's role may only read: start the "
    "daemon with this configuration first."
)

FIND_UNSTABLE = "select fingerprint from aggregator.unstable where meter_id = %(meter_id)s"

NOTE_UNSTABLE = """
insert into aggregator.unstable (meter_id, fingerprint, window_start, customer, first, second)
values (%(meter_id)s, %(fingerprint)s, %(start)s, %(customer)s, %(first)s, %(second)s)
    on conflict (meter_id, fingerprint) do nothing
"""


class Registered(NamedTuple):
    """A configured meter, as the ledger knows it."""

    id: int
    meter: Meter
    feeds: tuple[Feed, ...]
    first_name: str = ""
    """What it was called at first, if it has another name now."""

    @property
    def identity(self) -> str:
        """What its events' identifiers name it: that never changes."""
        return self.first_name or self.meter.name


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
    hourly_at: dt.datetime | None
    """When the last two days were last read again in full; `daily_at`, when all that can still be billed was."""
    daily_at: dt.datetime | None
    waits_for: str | None
    """What the source kept windows waiting for, in the last pass."""
    definitions: tuple[Definition, ...] = ()
    noted: tuple[Noted, ...] = ()
    unread: tuple[dt.datetime, ...] = ()
    """Starts of windows that the source could not give, and that are not to be asked for yet."""
    unread_due: tuple[dt.datetime, ...] = ()
    """Starts of those that are to be asked for again, however old."""
    seen_until: dt.datetime | None = None
    """Up to when the source had surely shown everything when the meter was last read."""
    coverages: tuple[FeedCoverage, ...] = ()
    """What each of the feeds bills, and how far it is, in their order."""
    unstable: frozenset[str] = frozenset()
    """Fingerprints of definitions that are proven to give another number each time they are read."""
    took_from: str | None = None
    """Whose session had to be ended for it, in words."""
    touched: Touched | None = None
    archived_until: dt.datetime | None = None
    """Up to where its months are archived: nothing before that is read or planned any more."""

    @property
    def is_mapped(self) -> bool:
        """Whether the query of any stretch of time returns keys, which a mapping makes customers."""
        return definitions.are_mapped(self.definitions)

    @property
    def key(self) -> dict[str, object]:
        """What a statement knows it by, which holds as long as nobody else has the meter."""
        return {"meter_id": self.registered.id, "epoch": self.epoch, "owner": self.owner}


class Left(NamedTuple):
    """A meter as it was given back: what the next lease of it will say, unless something happens meanwhile."""

    mark: dt.datetime
    reread_from: dt.datetime | None
    swept: dt.datetime | None
    seen_until: dt.datetime | None
    hourly_at: dt.datetime | None
    daily_at: dt.datetime | None


class Meters(Part):
    """The verbs about meters. `lease` is how long a holder may be silent before another process may take over."""

    def __init__(self, database: Database, owner: uuid.UUID, lease: dt.timedelta) -> None:
        super().__init__(database)
        self._owner = owner
        self._lease = lease

    def register(self, meters: Iterable[Meter]) -> Mapping[str, Registered]:
        """Make the configured meters, sinks and feeds known to the ledger; what is known already stays as it is.

        A definition that differs from the one in the ledger holds from the first unread window on.
        """
        with self._database.transaction() as connection:
            return register_all(connection, meters)

    def look(
        self, meters: Iterable[Meter]
    ) -> tuple[dict[str, Registered], dict[str, tuple[Definition, ...]]]:
        """Return what registering would give, and how each meter would be read; nothing is written.

        Raises LedgerError for a role that may only read, where something would be.
        """
        with only_looking(self._database) as connection:
            found = register_all(connection, meters)
            known = {name: definitions_of(connection, each.id) for name, each in found.items()}
        return found, known

    def memory(self) -> Memory:
        """Return what is known of all meters: their names, and what they feed."""
        with self._database.transaction() as connection:
            return meter_names.memory(connection)

    def acquire(self, registered: Registered) -> Lease | None:
        """Take the meter for this process; None while another one has it. Raises LeaseLost if it has another name now."""
        with self._database.transaction() as connection:
            mine = {
                "meter_id": registered.id,
                "name": registered.meter.name,
                "owner": self._owner,
                "length": self._lease,
            }
            row, took_from = connection.execute(ACQUIRE, mine).fetchone(), None
            if row is None:
                took_from = silent_holder.end(connection, registered.id, registered.meter.name)
                row = connection.execute(ACQUIRE, mine).fetchone() if took_from else None
            if row is None:
                _check_name(connection, registered)
                return None
            coverages = lines.coverages(connection, registered.feeds)
            feeds = tuple(map(as_it_is, registered.feeds, coverages))
            epoch, mark, reread_from, swept, seen_until, *rest, archived_until = row
            lease = Lease(
                registered._replace(feeds=feeds),
                self._owner,
                epoch,
                mark,
                reread_from,
                swept,
                fed_until(coverages, mark),
                *rest,
            )
            values = {"meter_id": registered.id, "now": lease.given_at}
            unread = connection.execute(FIND_UNREAD, values).fetchall()
            return lease._replace(
                seen_until=seen_until,
                definitions=definitions_of(connection, registered.id),
                noted=tuple(Noted._make(each) for each in connection.execute(FIND_NOTED, values)),
                unread=tuple(start for start, due in unread if not due),
                unread_due=tuple(start for start, due in unread if due),
                coverages=tuple(coverages),
                unstable=frozenset(each for (each,) in connection.execute(FIND_UNSTABLE, values)),
                took_from=took_from,
                archived_until=archived_until,
                touched=touched.find(connection, registered.id),
            )

    def definitions(self, registered: Registered) -> tuple[Definition, ...]:
        """Return by which queries, and in which windows, the meter is read, in the order of time."""
        with self._database.transaction() as connection:
            return definitions_of(connection, registered.id)

    def note_unstable(
        self, lease: Lease, fingerprint: str, window_start: dt.datetime, differing: Differing
    ) -> None:
        """Remember that a definition gives another number each time it is read, and by what that was proven."""
        values = {
            "meter_id": lease.registered.id,
            "fingerprint": fingerprint,
            "start": window_start,
            **differing._asdict(),
        }
        self._run(NOTE_UNSTABLE, values)

    def redefine(self, lease: Lease, changed: Iterable[Definition]) -> None:
        """Let other definitions hold from now on, as a restatement wants it. Raises LeaseLost."""
        with self._database.transaction() as connection:
            if connection.execute(HOLD, lease.key).fetchone() is None:
                raise LeaseLost
            connection.execute(FORGET_DEFINITIONS, {**lease.key, "since": "-infinity"})
            for definition in changed:
                connection.execute(ADD_DEFINITION, _columns(lease.registered.id, definition))

    def note(
        self,
        lease: Lease,
        noted: Sequence[Noted],
        *,
        waits_for: str | None,
        given_up: bool,
        now: dt.datetime,
    ) -> None:
        """Remember what the commit barrier is to wait for, and say what it waits for now. Raises LeaseLost."""
        with self._database.transaction() as connection:
            values = {
                **lease.key,
                "until": [each.until for each in noted],
                "xids": [each.xid for each in noted],
                "waits_for": waits_for,
                "given_up": given_up,
                "now": now,
            }
            if connection.execute(WAITS, values).rowcount != 1:
                raise LeaseLost
            connection.execute(FORGET_NOTED, values)
            connection.execute(NOTE, values)

    def silence(self, lease: Lease) -> Silence:
        """Find out whether the meter has fallen silent, as far as it is read by now, and note it."""
        meter = lease.registered.meter
        with self._database.transaction() as connection:
            found = connection.execute(FIND_MARK, {"meter_id": lease.registered.id}).fetchone()
            assert found is not None, "a meter that is held is there"
            return silence.look(
                connection, lease.registered.id, lease.epoch, meter.window, meter.start_at, found[0]
            )

    def silent_customers(self, lease: Lease) -> SilentCustomers:
        """Find out which customers have fallen silent in what was read under this lease, and note it.

        Nobody asks unless the meter's guards say so.
        """
        registered = lease.registered
        with self._database.transaction() as connection:
            held = connection.execute(HOLD, lease.key).fetchone()
            found = connection.execute(FIND_MARK, {"meter_id": registered.id}).fetchone()
            if held is None or found is None:
                raise LeaseLost
            feeds = [feed.id for feed in registered.feeds]
            meter = registered.meter
            return silent_customers.look(
                connection, registered.id, feeds, meter.window, meter.guards, lease.mark, found[0]
            )

    def seal(self, lease: Lease, coverages: Sequence[FeedCoverage]) -> Lease:
        """Note what the feeds lack that the source no longer has; return the lease as it is then. Raises LeaseLost."""
        with self._database.transaction() as connection:
            if connection.execute(HOLD, lease.key).fetchone() is None:
                raise LeaseLost
            for feed, coverage in zip(lease.registered.feeds, coverages, strict=True):
                lines.change(connection, feed.id, coverage)
        return lease._replace(coverages=tuple(coverages), fed_until=fed_until(coverages, lease.mark))

    def renew(self, lease: Lease) -> bool:
        """Give a sign of life; False if the lease is lost already."""
        return self._run(RENEW, {**lease.key, "length": self._lease}) == 1

    def release(self, lease: Lease, left_as: bytes | None = None) -> Left | None:
        """Give the meter back, and return how it stands by then; None if the lease was lost already.

        `left_as` is a digest of all that the round saw and left, if it left nothing to be done: a round of any process to
        which all of it is the same would do nothing.
        """
        row = self._row(RELEASE, {**lease.key, "left_as": left_as})
        return None if row is None else Left._make(row)


class _Looked(Exception):
    """Ends the transaction of somebody who only looks: it is rolled back."""


@contextmanager
def only_looking(database: Database) -> Iterator[Connection]:
    """Give a transaction of which nothing stays, to see what registering would make of a ledger.

    Raises LedgerError for a role that may only read, where something would be written.
    """
    try:
        with suppress(_Looked), database.transaction() as connection:
            yield connection
            raise _Looked
    except LedgerError as error:
        if isinstance(error.__cause__, InsufficientPrivilege):
            raise LedgerError(ONLY_READS) from error
        raise


def register_all(connection: Connection, meters: Iterable[Meter]) -> dict[str, Registered]:
    """Make meters, sinks and feeds known, within a transaction. Raises MeterRefused."""
    # In the order of names, so that two processes that start together wait for each other and never in a ring.
    ordered = sorted(meters, key=lambda meter: meter.name)
    meter_names.settle(connection, ordered)
    sinks = {name for meter in ordered for name in meter.sinks}
    sink_ids = {name: _known(connection, ADD_SINK, FIND_SINK, name=name)[0] for name in sorted(sinks)}
    return {meter.name: _register(connection, meter, sink_ids) for meter in ordered}


def _register(connection: Connection, meter: Meter, sink_ids: Mapping[str, int]) -> Registered:
    values = {
        "name": meter.name,
        "fingerprint": meter.fingerprint,
        "read": meter.read,
        "query": meter.query,
        "window_seconds": int(meter.window.total_seconds()),
        "start_at": meter.start_at,
    }
    meter_id, identity, read, *defined = _known(connection, ADD_METER, FIND_METER, **values)
    if read != meter.read:
        _change_read(connection, meter_id, meter, read)
    if defined != [meter.fingerprint, meter.start_at]:
        connection.execute(REDEFINE_FEEDS, values)
        connection.execute(REDEFINE_METER, values)
    _define(connection, meter_id, meter)
    feeds = tuple(lines.register(connection, meter_id, meter, sink, sink_ids[sink]) for sink in meter.sinks)
    for feed in feeds:
        meter_names.note(connection, feed.id, meter.outlet_of(feed.sink))
    return Registered(meter_id, meter, feeds, "" if identity == meter.name else identity)


def _change_read(connection: Connection, meter_id: int, meter: Meter, before: str) -> None:
    """Let a meter be read in another way, from its beginning. Raises MeterRefused if anything of it is on the books."""
    # Whoever commits a pass meanwhile holds the meter.
    [[mark]] = connection.execute(LOCK_MARK, {"meter_id": meter_id}).fetchall()
    if connection.execute(NEWEST_SLOT, {"meter_id": meter_id}).fetchall() != [(None,)]:
        raise MeterRefused(report_read(meter.name, before, meter.read, mark))
    connection.execute(FORGET_DEFINITIONS, {"meter_id": meter_id, "since": EPOCH})
    connection.execute(CHANGE_READ, {"meter_id": meter_id, "read": meter.read})


def _check_name(connection: Connection, registered: Registered) -> None:
    """Raise LeaseLost if a meter has got another name since it was registered."""
    row = connection.execute(FIND_NAME, {"meter_id": registered.id}).fetchone()
    if row is not None and row[0] != registered.meter.name:
        raise LeaseLost(
            f"Meter {registered.meter.name} is called {row[0]} now, by a newer configuration; nothing was written. Restart "
            "with that one, or end this process."
        )


def _define(connection: Connection, meter_id: int, meter: Meter) -> None:
    """Let the configured definition hold from the first window on that nobody has read; the first one, for ever.

    Definitions that nobody has read by yet are forgotten: what follows begins where what was read by ends.
    """
    known = definitions_of(connection, meter_id)
    if not known:
        connection.execute(
            ADD_DEFINITION,
            _columns(meter_id, _definition(EPOCH, meter)),
        )
        return
    if known[-1].fingerprint == meter.fingerprint:
        return
    # Whoever commits a pass meanwhile holds the meter: so the mark that we see is the one that the definition follows.
    row = connection.execute(LOCK_MARK, {"meter_id": meter_id}).fetchone()
    assert row is not None, "a registered meter stays"
    unread = row[0]
    newest = connection.execute(NEWEST_SLOT, {"meter_id": meter_id}).fetchone()
    if newest is not None and newest[0] is not None:
        unread = max(unread, newest[0] + definitions.at(known, newest[0]).window)
    kept = [each for each in known if each.since < unread] or [known[0]]
    connection.execute(FORGET_DEFINITIONS, {"meter_id": meter_id, "since": max(unread, kept[-1].since)})
    if kept[-1].fingerprint != meter.fingerprint:
        since = definitions.begins(kept[-1], meter.window, unread)
        new = _definition(since, meter)
        connection.execute(ADD_DEFINITION, _columns(meter_id, new))


def definitions_of(connection: Connection, meter_id: int) -> tuple[Definition, ...]:
    """Return by which queries, and in which windows, a meter is read, in the order of time."""
    rows = connection.execute(FIND_DEFINITIONS, {"meter_id": meter_id})
    return tuple(
        Definition._make((*columns, tuple(dimensions), mapping)) for *columns, dimensions, mapping in rows
    )


def definitions_of_many(
    connection: Connection, meters: Sequence[int]
) -> defaultdict[int, tuple[Definition, ...]]:
    """Return the same of many meters, by their ids."""
    found: defaultdict[int, tuple[Definition, ...]] = defaultdict(tuple)
    for meter_id, *columns, dimensions, mapping in connection.execute(
        FIND_DEFINITIONS_OF_MANY, {"meters": list(meters)}
    ):
        found[meter_id] += (Definition._make((*columns, tuple(dimensions), mapping)),)
    return found


def _definition(since: dt.datetime, meter: Meter) -> Definition:
    """Return how a meter is read from an instant on, as it is configured."""
    return Definition(since, meter.fingerprint, meter.query, meter.window, meter.dimensions, meter.customers)


def _columns(meter_id: int, definition: Definition) -> dict[str, object]:
    return {
        "meter_id": meter_id,
        "since": definition.since,
        "fingerprint": definition.fingerprint,
        "query": definition.query,
        "window_seconds": int(definition.window.total_seconds()),
        "dimensions": list(definition.dimensions),
        "customers": definition.customers,
    }


def _known(connection: Connection, add: str, find: str, **values: object) -> tuple[Any, ...]:
    """Return a row, added first if it is missing."""
    row = connection.execute(find, values).fetchone()
    if row is None:
        connection.execute(add, values)
        row = connection.execute(find, values).fetchone()
    assert row is not None, "what was added is there"
    return row
