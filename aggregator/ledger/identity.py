"""What a ledger belongs to, and whether it is still the ledger that sent what it says: its identity and its claim counter.

Rules
- A ledger is pinned to its server and database when it is first opened, and each sink to its account when it is first used.
- Every claim counts. In a sound ledger the new count is higher than any that was ever seen; a lower one means that the
  ledger was wound back, and has forgotten what was sent since (a standby that takes over may lack the
  latest commits: postgresql.org/docs/current/warm-standby.html). Then nothing is claimed, read or sent until it is adopted.
- Each host knows its own last claim by its number and its owner: with several hosts, what one of them counted says little of
  what the others did.
- A server on another timeline of its write-ahead log was promoted, or restored from a backup
  (postgresql.org/docs/current/continuous-archiving.html, "Timelines"). It may lack what any host did last, and none of those
  that go on can know: nothing is claimed, unless the user has said why nothing can be missing.
- What cannot be known is not compared: a server whose identifier this role may not read, an account a sink does not name.
- The generation is read again with every pass and claim, so that no process plans under the names of a past one.
"""

import datetime as dt
from typing import Any, Literal, NamedTuple

import psycopg

from aggregator.errors import LedgerFailedOver, LedgerStopped
from aggregator.ledger.database import Connection, Database, Part
from aggregator.runtime.claim_counter import ClaimCount, ClaimCounter

Failover = Literal["may_lose", "one_host", "lossless"]

# Not every managed server lets a plain role read it (postgresql.org/docs/current/functions-info.html, "Control Data
# Functions"); asking without the right would end the transaction.
# A role that only looks records no place either: the first one that writes does.
MAY = """
select has_function_privilege('pg_catalog.pg_control_system()', 'execute'),
       has_table_privilege('aggregator.identity', 'update')
"""

IDENTIFY = "(select system_identifier from pg_control_system())"

# The first eight digits of a segment's name are its timeline. A server that is not quite Postgres may not have it.
TIMELINE = "('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::bigint"

# Whoever takes a file over becomes the owner of its claim.
AROUND = """
select {cluster}, {timeline},
       %(claim_id)s::bigint is null
       or exists (select from aggregator.claim
                   where id = %(claim_id)s and claimed_at = %(claimed_at)s
                     and (owner = %(owner)s or %(owner)s::uuid is null))
       or exists (select from aggregator.identity where %(claimed_at)s::timestamptz < claims_kept_from),
       not exists (select from aggregator.host where id is distinct from %(host)s),
       (select claimed_at from aggregator.claim where id = %(made)s)
"""

LOOK = """
select ledger_id::text, generation, claims_made, cluster, database_oid, stopped_at, stopped_reason,
       (select oid::bigint from pg_database where datname = current_database()), timeline, stopped_by_failover
  from aggregator.identity
"""

BEAT = """
update aggregator.identity set claims_made = claims_made + 1, claimed_at = greatest(claimed_at, %(now)s)
returning ledger_id::text, generation, claims_made, cluster, database_oid, stopped_at, stopped_reason,
          (select oid::bigint from pg_database where datname = current_database()), timeline, stopped_by_failover
"""

RECORD_PLACE = """
update aggregator.identity
   set cluster = coalesce(cluster, %(cluster)s), database_oid = coalesce(database_oid, %(database_oid)s),
       timeline = coalesce(timeline, %(timeline)s)
 where database_oid is null or (cluster is null and %(cluster)s::bigint is not null)
    or (timeline is null and %(timeline)s::bigint is not null)
"""

MOVE_TIMELINE = """
update aggregator.identity set timeline = %(timeline)s where timeline is distinct from %(timeline)s and stopped_at is null
"""

FOLLOW = """
update aggregator.identity
   set timeline = %(timeline)s, stopped_at = null, stopped_reason = null, stopped_by_failover = false, stopped_on = null
"""

NOTE_HOST = "insert into aggregator.host (id) values (%(host)s) on conflict do nothing"

SYNCHRONOUS = "select current_setting('synchronous_standby_names') <> ''"

# Where nothing was ever about to be sent, nothing can be missing: a key or a bucket that was misspelt is simply corrected.
RECORD_ACCOUNT = """
update aggregator.sink set account = %(account)s
 where name = %(sink)s
   and (account is null or not exists (select from aggregator.claim where claim.sink_id = sink.id))
"""
FIND_ACCOUNT = "select account from aggregator.sink where name = %(sink)s"

FIND_ACCOUNTS = """
select name, account from aggregator.sink
 where account is not null and exists (select from aggregator.claim where claim.sink_id = sink.id)
"""

# The first reason stays, and so does its time, unless the ledger may have been set back to a time when it was stopped
# already: then others may have sent a moment ago. Restored files need a server that is started, a standby that takes over
# was started at another time, and a dump that is read in again makes another database. A host that has sent since the stop
# has it in its file.
STOP = """
update aggregator.identity
   set stopped_at = %(now)s, stopped_reason = coalesce(stopped_reason, %(reason)s),
       stopped_by_failover = case when stopped_at is null then %(failover)s else stopped_by_failover end,
       stopped_on = place.now
  from (select format('database %%s of the server started at %%s', oid,
                      to_char(pg_postmaster_start_time() at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS.US')) as now
          from pg_database where datname = current_database()) as place
 where stopped_at is null or stopped_at < %(known_at)s or stopped_on <> place.now
"""

WHAT_TO_DO = "Nothing is read or sent until `aggregator adopt` has compared the ledger with what the sinks have counted."

UNSYNCHRONOUS = (
    "`failover: lossless` is declared, and its server has no synchronous standby (`synchronous_standby_names` is empty): "
    "unless the storage itself is replicated, a standby that takes over may lack the latest commits, and what they say was "
    "sent is sent again"
)

SEVERAL_HOSTS = (
    "`failover: one_host` is declared, and other hosts, or other state directories, have sent from this ledger: after a "
    "failover nothing is sent before `aggregator adopt`"
)

SET_BACK = (
    "Nothing is read or sent like this. Set the sink back; if it is meant, let `aggregator adopt` compare the ledger with "
    "what the sinks have counted."
)


class Pinned(NamedTuple):
    """What the ledger says it is, and where it lies now."""

    ledger_id: str
    generation: int
    claims_made: int
    cluster: int | None
    database_oid: int | None
    stopped_at: dt.datetime | None
    stopped_reason: str | None
    lies_in: int
    """The object identifier of the database it lies in now."""
    timeline: int | None = None
    """The timeline of its server at the latest claim; None where nobody could tell."""
    stopped_by_failover: bool = False
    """Whether it was stopped because its server may lack commits: then a person's word that it lacks none lifts it."""
    lies_on: int | None = None
    """The system identifier of the server it lies on now; None where it may not be read."""
    runs_on: int | None = None
    """The timeline that server is on now; None where it does not say."""
    mine: bool = True
    """Whether the last claim of this host is there."""
    alone: bool = False
    """Whether no other host is known ever to have claimed anything."""
    made_at: dt.datetime | None = None
    """When the claim was made that is being counted."""


class LedgerIdentity(Part):
    """The verbs about the identity, for one process. `claim_counter` is the file beside the ledger.

    `failover` is what the user has said of a standby that takes over: `may_lose` commits, is `lossless`, or there is but
    `one_host` whose own last claim tells.
    """

    def __init__(
        self, database: Database, claim_counter: ClaimCounter, failover: Failover = "may_lose"
    ) -> None:
        super().__init__(database)
        self._claim_counter = claim_counter
        self._failover: Failover = failover
        self.unguarded = claim_counter.unusable()
        """Why a ledger that is set back would not be noticed here; None if it would."""
        self._host = claim_counter.host() if self.unguarded is None else None
        self._host_noted = False
        self.stopped_seen = False
        """Whether the ledger was stopped when this process last looked: nothing more may leave then."""
        with database.transaction() as connection:
            may_identify, self._may_write = connection.execute(MAY).fetchone() or (False, False)
            self._around = AROUND.format(
                cluster=IDENTIFY if may_identify else "null::bigint",
                timeline=TIMELINE if _shows_timeline(connection) else "null::bigint",
            )
            found, _ = self._look(connection)
        self._ledger_id, self._generation = found.ledger_id, found.generation

    def name(self) -> str:
        """Return what the names of events begin with: this ledger, in its generation."""
        return named(self._ledger_id, self._generation)

    def pinned(self) -> Pinned:
        """Return what the ledger says of itself."""
        with self._database.transaction() as connection:
            return self._look(connection)[0]

    def check(self, now: dt.datetime, *, stops: bool = False, adopting: bool = False) -> str | None:
        """Return why nothing may be read or sent, None if all is well; a ledger without an identity gets one.

        With `stops`, as before anything is sent, a ledger that is not what it was is marked so for every process. A failover
        is not: each host sees that by itself, and those that know that nothing is missing go on, until somebody is
        `adopting` the ledger.
        """
        with self._database.transaction() as connection:
            found, known = self._look(connection)
            self._generation = found.generation
            trouble = found.stopped_reason or _mismatch(found, known, where=self._claim_counter)
            self.stopped_seen = trouble is not None
            after = None if trouble else failed_over(found, self._failover)
            if trouble is None and after is None and self._may_write:
                place = {"cluster": found.lies_on, "database_oid": found.lies_in, "timeline": found.runs_on}
                connection.execute(RECORD_PLACE, place)
        if trouble is not None and stops:
            self.stop(trouble, now)
        if after is not None and adopting:
            self.stop(after, now, failover=True)
        return trouble or after

    def follow(self) -> str | None:
        """Go on after a failover, on a person's word that it lost nothing; return what speaks against it all the same."""
        with self._database.transaction() as connection:
            found, known = self._look(connection)
            stopped = None if found.stopped_by_failover else found.stopped_reason
            trouble = stopped or _mismatch(found, known, where=self._claim_counter)
            if trouble is None:
                connection.execute(FOLLOW, {"timeline": found.runs_on})
        return trouble

    def remarks(self) -> list[str]:
        """Say what is worth knowing of what was declared: one sentence each."""
        with self._database.transaction() as connection:
            synchronous = connection.execute(SYNCHRONOUS).fetchone()
            found, _ = self._look(connection)
        if self._failover == "lossless" and synchronous == (False,):
            return [UNSYNCHRONOUS]
        if self._failover == "one_host" and not found.alone:
            return [SEVERAL_HOSTS]
        return []

    def account(self, sink: str, account: str | None, now: dt.datetime, *, stops: bool = False) -> str | None:
        """Pin a sink to its account at its first use; return why it may not be used, if it belonged to another one.

        That is a matter of one process and its configuration: those that go to the account of before do nothing wrong. With
        `stops`, as when an adoption begins, the ledger is marked as stopped for all of them.
        """
        if account is None:
            return None
        with self._database.transaction() as connection:
            connection.execute(RECORD_ACCOUNT, {"sink": sink, "account": account})
            row = connection.execute(FIND_ACCOUNT, {"sink": sink}).fetchone()
        before = None if row is None else row[0]
        if not stops:
            return account_changed(sink, account, before)
        trouble = account_changed(sink, account, before, WHAT_TO_DO)
        if trouble is not None:
            self.stop(trouble, now)
        return trouble

    def accounts(self) -> dict[str, str]:
        """Return to which account each sink went that something was claimed for."""
        return dict(self._rows(FIND_ACCOUNTS))

    def count_claim(
        self, connection: Connection, now: dt.datetime, claim_id: int | None = None, owner: str | None = None
    ) -> ClaimCount:
        """Count a claim, as the last thing in its transaction. Raises LedgerStopped: then nothing of it may be committed."""
        row = connection.execute(BEAT, {"now": now}).fetchone()
        known = self.known()
        found = self._compared(connection, row, known, made=claim_id)
        self._generation = found.generation
        trouble = found.stopped_reason or _mismatch(found, known, where=self._claim_counter, counted=True)
        self.stopped_seen = trouble is not None
        if trouble is not None:
            raise LedgerStopped(trouble)
        after = failed_over(found, self._failover)
        if after is not None:
            raise LedgerFailedOver(after)
        if found.runs_on is not None and found.runs_on != found.timeline:
            connection.execute(MOVE_TIMELINE, {"timeline": found.runs_on})
        if self._host is not None and not self._host_noted:
            connection.execute(NOTE_HOST, {"host": self._host})
        return ClaimCount(
            found.ledger_id,
            found.generation,
            found.claims_made,
            found.lies_on,
            now,
            claim_id,
            owner,
            found.made_at,
        )

    def noted(self, count: ClaimCount) -> None:
        """Write the count of a committed claim beside the ledger, before anything of it is sent. Raises LedgerError."""
        self._host_noted = True
        if self.unguarded is None:
            self._claim_counter.note(count)

    def stop(self, reason: str, now: dt.datetime, *, failover: bool = False) -> None:
        """Mark the ledger as stopped, for every process; the first reason stays.

        If it may have been set back to a time when it was stopped already, it is stopped from now on.
        """
        self.stopped_seen = True
        known = self.known()
        known_at = known.at if known is not None and known.ledger_id == self._ledger_id else None
        self._run(STOP, {"reason": reason, "now": now, "failover": failover, "known_at": known_at})

    def stopped(self, connection: Connection) -> str | None:
        """Return why the ledger is stopped, None if it is not; and learn its generation, for `name`.

        Inside the transaction of a pass, once it holds its meter: an adoption waits for that, so both stay as they are.
        """
        found, _ = self._look(connection)
        self._generation = found.generation
        return found.stopped_reason or failed_over(found, self._failover)

    def adopted(self, pinned: Pinned, now: dt.datetime) -> None:
        """Begin to count anew beside the ledger, after an adoption was committed."""
        self._generation = pinned.generation
        if self.unguarded is None:
            self._claim_counter.replace(
                ClaimCount(pinned.ledger_id, pinned.generation, pinned.claims_made, pinned.cluster, now)
            )

    def known(self) -> ClaimCount | None:
        """Return what the file beside the ledger says."""
        return self._claim_counter.known() if self.unguarded is None else None

    def _look(self, connection: Connection) -> tuple[Pinned, ClaimCount | None]:
        """Return what the identity says, and what the file beside the ledger said before.

        The file first: what another process commits in between is in the ledger by then, and would be missing in it else.
        """
        known = self.known()
        return self._compared(connection, connection.execute(LOOK).fetchone(), known), known

    def _compared(
        self,
        connection: Connection,
        row: tuple[Any, ...] | None,
        known: ClaimCount | None,
        made: int | None = None,
    ) -> Pinned:
        """Return what the identity says, and what can be known of the server and of the claims."""
        assert row is not None, "a ledger has its identity"
        found = Pinned(*row)
        same = known is not None and known.ledger_id == found.ledger_id
        values = {
            "claim_id": known.claim_id if known is not None and same else None,
            "claimed_at": known.claimed_at if known is not None else None,
            "owner": known.owner if known is not None else None,
            "host": self._host,
            "made": made,
        }
        around = connection.execute(self._around, values).fetchone()
        assert around is not None, "one row"
        lies_on, runs_on, mine, alone, made_at = around
        return found._replace(
            lies_on=lies_on,
            runs_on=runs_on,
            mine=mine,
            alone=alone and self._host is not None,
            made_at=made_at,
        )


def _shows_timeline(connection: Connection) -> bool:
    """Tell whether the server says on which timeline it is: not every service that speaks Postgres does, to every role."""
    try:
        with connection.transaction():
            return connection.execute(f"select {TIMELINE}").fetchone() is not None
    except psycopg.Error:
        return False


def named(ledger_id: str, generation: int) -> str:
    """Return what the names of a ledger's events begin with; each generation has names of its own."""
    return f"{ledger_id}/{generation}" if generation else ledger_id


def account_changed(sink: str, account: str | None, before: str | None, then: str = SET_BACK) -> str | None:
    """Say that a sink goes to another account than before, and what to do; None if it does not, or nobody knows."""
    if account is None or before in (None, account):
        return None
    return (
        f"Sink {sink} goes to {account} now, and the ledger holds what was sent to {before}. Sent there, all of it would be "
        f"missing here. {then}"
    )


def _mismatch(
    found: Pinned, known: ClaimCount | None, *, where: ClaimCounter, counted: bool = False
) -> str | None:
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
    if found.generation == known.generation and not found.mine:
        return (
            f"The ledger was wound back: the last claim of this host, number {known.claim_id} {seen}, is not in it any "
            "more. It was restored from a backup, or failed over to a server that lacked the latest commits; it has "
            f"forgotten what was sent since, and would send it again. {WHAT_TO_DO}"
        )
    if (found.generation, found.claims_made - counted) >= known.order:
        return None
    return (
        f"The ledger was wound back: it counts {found.claims_made - counted} claims in generation {found.generation}, and "
        f"this host has seen {known.claims_made} in generation {known.generation}, the last one {seen}. It was restored "
        "from a backup, or failed over to a server that lacked the latest commits; it has forgotten what was sent since, "
        f"and would send it again. {WHAT_TO_DO}"
    )


def failed_over(found: Pinned, failover: Failover) -> str | None:
    """Say that the ledger's server may lack commits, and what to do; None if it is as it was, or nothing can be missing.

    What this host can see of its own is there by now. What others did last, nobody here can know.
    """
    if None in (found.timeline, found.runs_on) or found.timeline == found.runs_on:
        return None
    if failover == "lossless" or (failover == "one_host" and found.alone):
        return None
    return (
        f"The ledger's server went from timeline {found.timeline} to {found.runs_on}: a standby was promoted, or a backup "
        "was restored. It may lack the latest commits, and with them the memory of what another host has sent, which would "
        "be sent again. If nothing was lost, as after a planned switchover or with a synchronous standby, say `aggregator "
        f"adopt --nothing-lost`, or `failover: lossless` under `ledger:`. If that is not certain: {WHAT_TO_DO}"
    )


def _copied(pinned: str, now: str) -> str:
    return (
        f"The ledger belongs to {pinned}, and now lies in {now}: it is a copy, or was moved. If the other one goes on, both "
        "would send the same usage; if it does not, this one may lack what was sent last. Stop the other one. "
        f"{WHAT_TO_DO}"
    )
