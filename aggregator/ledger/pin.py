"""What a ledger belongs to, and whether it is still the ledger that sent what it says: its pin and its heartbeat.

Rules
- A ledger is pinned to its server and database when it is first opened, and each sink to its account when it is first used.
- Every claim counts. In a sound ledger the new count is higher than any that was ever seen; a lower one means that the
  ledger was wound back, and has forgotten what was sent since (a standby that takes over may lack the
  latest commits: postgresql.org/docs/current/warm-standby.html). Then nothing is claimed, read or sent until it is adopted.
- What cannot be known is not compared: a server whose identifier this role may not read, an account a sink does not name.
- The generation is read again with every pass and claim, so that no process plans under the names of a past one.
"""

import datetime as dt
from typing import NamedTuple

from aggregator.errors import LedgerStopped
from aggregator.heartbeat import Beat, Heartbeat
from aggregator.ledger.database import Connection, Database

# Not every managed server lets a plain role read it (postgresql.org/docs/current/functions-info.html, "Control Data
# Functions"); asking without the right would end the transaction.
MAY_IDENTIFY = "select has_function_privilege('pg_catalog.pg_control_system()', 'execute')"

IDENTIFY = "select system_identifier from pg_control_system()"

LOOK = """
select ledger_id::text, generation, beat, cluster, database_oid, stopped_at, stopped_reason,
       (select oid::bigint from pg_database where datname = current_database())
  from aggregator.pin
"""

BEAT = """
update aggregator.pin set beat = beat + 1, claimed_at = greatest(claimed_at, %(now)s)
returning ledger_id::text, generation, beat, cluster, database_oid, stopped_at, stopped_reason,
          (select oid::bigint from pg_database where datname = current_database())
"""

PIN_PLACE = """
update aggregator.pin
   set cluster = coalesce(cluster, %(cluster)s), database_oid = coalesce(database_oid, %(database_oid)s)
 where database_oid is null or (cluster is null and %(cluster)s::bigint is not null)
"""

# Where nothing was ever about to be sent, nothing can be missing: a key or a bucket that was misspelt is simply corrected.
PIN_ACCOUNT = """
update aggregator.sink set account = %(account)s
 where name = %(sink)s
   and (account is null or not exists (select from aggregator.claim where claim.sink_id = sink.id))
"""
FIND_ACCOUNT = "select account from aggregator.sink where name = %(sink)s"

FIND_ACCOUNTS = """
select name, account from aggregator.sink
 where account is not null and exists (select from aggregator.claim where claim.sink_id = sink.id)
"""

STOPPED = "select generation, stopped_reason from aggregator.pin"

STOP = """
update aggregator.pin set stopped_at = %(now)s, stopped_reason = %(reason)s where stopped_at is null
"""

WHAT_TO_DO = "Nothing is read or sent until `aggregator adopt` has compared the ledger with what the sinks have counted."

SET_BACK = (
    "Nothing is read or sent like this. Set the sink back; if it is meant, let `aggregator adopt` compare the ledger with "
    "what the sinks have counted."
)


class Pinned(NamedTuple):
    """What the ledger says it is, and where it lies now."""

    ledger_id: str
    generation: int
    beat: int
    cluster: int | None
    database_oid: int | None
    stopped_at: dt.datetime | None
    stopped_reason: str | None
    lies_in: int
    """The object identifier of the database it lies in now."""
    lies_on: int | None = None
    """The system identifier of the server it lies on now; None where it may not be read."""


class Pin:
    """The verbs about the pin, for one process. `heartbeat` is the file beside the ledger."""

    def __init__(self, database: Database, heartbeat: Heartbeat) -> None:
        self._database = database
        self._heartbeat = heartbeat
        with database.transaction() as connection:
            row = connection.execute(MAY_IDENTIFY).fetchone()
            self._identifies = row == (True,)
            found = self._look(connection)
        self._ledger_id, self._generation = found.ledger_id, found.generation
        self.unguarded = heartbeat.unusable()
        """Why a ledger that is set back would not be noticed here; None if it would."""

    def name(self) -> str:
        """Return what the names of events begin with: this ledger, in its generation."""
        return named(self._ledger_id, self._generation)

    def pinned(self) -> Pinned:
        """Return what the ledger says of itself."""
        with self._database.transaction() as connection:
            return self._look(connection)

    def check(self, now: dt.datetime, *, stops: bool = False) -> str | None:
        """Return why nothing may be read or sent, None if all is well; a ledger without a pin is pinned.

        With `stops`, as before anything is sent, a ledger that is not what it was is marked so for every process.
        """
        with self._database.transaction() as connection:
            found = self._look(connection)
            self._generation = found.generation
            trouble = found.stopped_reason or _mismatch(found, self._known(), where=self._heartbeat)
            if trouble is None:
                place = {"cluster": found.lies_on, "database_oid": found.lies_in}
                connection.execute(PIN_PLACE, place)
        if trouble is not None and stops:
            self.stop(trouble, now)
        return trouble

    def account(self, sink: str, account: str | None, now: dt.datetime, *, stops: bool = False) -> str | None:
        """Pin a sink to its account at its first use; return why it may not be used, if it belonged to another one.

        That is a matter of one process and its configuration: those that go to the account of before do nothing wrong. With
        `stops`, as when an adoption begins, the ledger is marked as stopped for all of them.
        """
        if account is None:
            return None
        with self._database.transaction() as connection:
            connection.execute(PIN_ACCOUNT, {"sink": sink, "account": account})
            row = connection.execute(FIND_ACCOUNT, {"sink": sink}).fetchone()
        before = None if row is None else row[0]
        if not stops:
            return elsewhere(sink, account, before)
        trouble = elsewhere(sink, account, before, WHAT_TO_DO)
        if trouble is not None:
            self.stop(trouble, now)
        return trouble

    def accounts(self) -> dict[str, str]:
        """Return to which account each sink went that something was claimed for."""
        with self._database.transaction() as connection:
            return dict(connection.execute(FIND_ACCOUNTS).fetchall())

    def beat(self, connection: Connection, now: dt.datetime) -> Beat:
        """Count a claim, as the last thing in its transaction. Raises LedgerStopped: then nothing of it may be committed."""
        server = self._server(connection)
        row = connection.execute(BEAT, {"now": now}).fetchone()
        assert row is not None, "a ledger has its pin"
        found = Pinned._make((*row, server))
        self._generation = found.generation
        trouble = found.stopped_reason or _mismatch(found, self._known(), where=self._heartbeat, counted=True)
        if trouble is not None:
            raise LedgerStopped(trouble)
        return Beat(found.ledger_id, found.generation, found.beat, found.lies_on, now)

    def noted(self, beat: Beat) -> None:
        """Write the count of a committed claim beside the ledger, before anything of it is sent. Raises LedgerError."""
        if self.unguarded is None:
            self._heartbeat.note(beat)

    def stop(self, reason: str, now: dt.datetime) -> None:
        """Mark the ledger as stopped, for every process; the first reason stays."""
        with self._database.transaction() as connection:
            connection.execute(STOP, {"reason": reason, "now": now})

    def stopped(self, connection: Connection) -> str | None:
        """Return why the ledger is stopped, None if it is not; and learn its generation, for `name`.

        Inside the transaction of a pass, once it holds its meter: an adoption waits for that, so both stay as they are.
        """
        row = connection.execute(STOPPED).fetchone()
        assert row is not None, "a ledger has its pin"
        self._generation = row[0]
        return None if row[1] is None else str(row[1])

    def known(self) -> Beat | None:
        """Return what the file beside the ledger says."""
        return self._known()

    def adopted(self, pinned: Pinned, now: dt.datetime) -> None:
        """Begin to count anew beside the ledger, after an adoption was committed."""
        self._generation = pinned.generation
        if self.unguarded is None:
            self._heartbeat.replace(
                Beat(pinned.ledger_id, pinned.generation, pinned.beat, pinned.cluster, now)
            )

    def _known(self) -> Beat | None:
        return self._heartbeat.known() if self.unguarded is None else None

    def _look(self, connection: Connection) -> Pinned:
        row = connection.execute(LOOK).fetchone()
        assert row is not None, "a ledger has its pin"
        return Pinned._make((*row, self._server(connection)))

    def _server(self, connection: Connection) -> int | None:
        row = connection.execute(IDENTIFY).fetchone() if self._identifies else None
        return row[0] if row else None


def named(ledger_id: str, generation: int) -> str:
    """Return what the names of a ledger's events begin with; each generation has names of its own."""
    return f"{ledger_id}/{generation}" if generation else ledger_id


def elsewhere(sink: str, account: str | None, before: str | None, then: str = SET_BACK) -> str | None:
    """Say that a sink goes to another account than before, and what to do; None if it does not, or nobody knows."""
    if account is None or before in (None, account):
        return None
    return (
        f"Sink {sink} goes to {account} now, and the ledger holds what was sent to {before}. Sent there, all of it would be "
        f"missing here. {then}"
    )


def _mismatch(found: Pinned, known: Beat | None, *, where: Heartbeat, counted: bool = False) -> str | None:
    """Say in what a ledger is not what it was, what that means and what to do; None if all is well.

    `counted` says that its count includes a claim that is being made.
    """
    if found.cluster is not None and found.lies_on is not None and found.cluster != found.lies_on:
        return _copied(f"the server {found.cluster}", str(found.lies_on))
    if found.database_oid is not None and found.database_oid != found.lies_in:
        return _copied(f"the database with the number {found.database_oid}", str(found.lies_in))
    if known is None:
        return None
    seen = f"at {known.at:%Y-%m-%d %H:%M:%S} UTC ({where.path})"
    if known.ledger_id != found.ledger_id:
        return (
            f"This is the ledger {found.ledger_id}, and this host last sent from the ledger {known.ledger_id}, {seen}. A "
            "new ledger knows nothing of what was sent, and would send all of it again since `start_at`. If the other "
            f"ledger goes on elsewhere, give this one a `state_dir` of its own. {WHAT_TO_DO}"
        )
    if (found.generation, found.beat - counted) >= known.order:
        return None
    return (
        f"The ledger was wound back: it counts {found.beat - counted} claims in generation {found.generation}, and this "
        f"host has seen {known.beat} in generation {known.generation}, the last one {seen}. It was restored from a backup, "
        "or failed over to a server that lacked the latest commits; it has forgotten what was sent since, and would send it "
        f"again. {WHAT_TO_DO}"
    )


def _copied(pinned: str, now: str) -> str:
    return (
        f"The ledger belongs to {pinned}, and now lies in {now}: it is a copy, or was moved. If the other one goes on, both "
        "would send the same usage; if it does not, this one may lack what was sent last. Stop the other one. "
        f"{WHAT_TO_DO}"
    )
