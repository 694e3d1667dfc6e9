"""What a Postgres says of its transactions: which have surely ended, which had begun, and which one is the oldest.

Rules
- What had been replayed is asked before the snapshot, and of the same server. The clock and what had surely ended are asked
  first, what had begun is asked after them. A transaction in between is then counted among those still to be waited for,
  and never among those that are over.
- No transaction that had written by `at` has an id of `xmax` or higher. The snapshot's own xmax is one past the highest id
  that has *ended*, and a writer that is open may have that id or a higher one; the next id to be given out bounds them all
  (postgresql.org/docs/current/functions-info.html: pg_snapshot_xmax, age).
- Reading ids takes no privileges. When others began may be read by members of pg_read_all_stats only, and a standby
  does not know it of the primary's transactions.
- A transaction of another database cannot write into this one, so nobody waits for it: that of a ledger on the same server
  least of all. Whose an id is, is asked after the snapshot; one that is found nowhere may be anybody's.
- Nothing that anybody typed is repeated but the names of applications, databases and prepared transactions.
"""

import datetime as dt
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import NamedTuple

import sqlalchemy as sa

from aggregator.core.model import EPOCH, Fence
from aggregator.source.dialects import Freshness

REPLAY_MARGIN = dt.timedelta(seconds=1)
"""Commits stand in the log in about the order of the instants they carry: a process may be held up between taking the
instant and writing it."""

LONGEST_NAME = 63
"""As long as Postgres lets a name be; the identifier of a prepared transaction may be longer."""

ENDED = sa.text("""
select clock_timestamp() as at,
       pg_snapshot_xmin(pg_current_snapshot())::text::bigint as xmin,
       pg_snapshot_xmax(pg_current_snapshot())::text::bigint as seen_until,
       array(select id::text::bigint from pg_snapshot_xip(pg_current_snapshot()) as id order by 1) as running,
       pg_is_in_recovery() as standby,
       (extract(epoch from pg_postmaster_start_time()) * 1000000)::bigint as started_at,
       inet_server_addr()::text as address, inet_server_port() as port
""")

BEFORE = sa.text("""
-- As numbers and text: in this transaction nothing is set by us.
select (extract(epoch from pg_postmaster_start_time()) * 1000000)::bigint as started_at,
       inet_server_addr()::text as address, inet_server_port() as port,
       (extract(epoch from pg_last_xact_replay_timestamp()) * 1000000)::bigint as replayed_at
""")

BEGUN = sa.text("""
with own as (
    -- Sessions of ours only read: they have no id, our role, and our name.
    select pid from pg_stat_activity
     where pid = pg_backend_pid()
        or (usename = session_user and application_name like 'aggregator%' and backend_xid is null)
)
select pg_snapshot_xmax(snapshot)::text::bigint + age(pg_snapshot_xmax(snapshot)::xid) as xmax,
       -- With track_activities off nobody's beginning is noted.
       pg_has_role(current_user, 'pg_read_all_stats', 'usage')
         and current_setting('track_activities')::boolean
         and not pg_is_in_recovery() as sees_starts,
       (select min(xact_start) from pg_stat_activity
         where datname = current_database()
           and backend_type not in ('autovacuum worker', 'walsender')
           and pid not in (select pid from own)) as oldest_start
  from pg_current_snapshot() as snapshot
""")

ELSEWHERE = sa.text("""
-- Ids of transactions of other databases, as the 32 bits by which sessions and prepared transactions are listed.
select backend_xid::text::bigint from pg_stat_activity
 where backend_xid is not null and datname <> current_database()
union all
select transaction::text::bigint from pg_prepared_xacts where database <> current_database()
""")

HOLDERS = sa.text("""
-- The transaction with this very id: the lowest that is open is always one of its own, never a part of another.
select pid, application_name as name, datname as database, xact_start as since, backend_xid is not null as writes
  from pg_stat_activity
 where backend_xid = cast(cast(:xmin as text) as xid)
    or (cast(:oldest_start as timestamptz) is not null
        and xact_start = :oldest_start and datname = current_database() and pid <> pg_backend_pid())
union all
select null, gid, database, prepared, true
  from pg_prepared_xacts
 where transaction = cast(cast(:xmin as text) as xid)
 order by writes desc, since
""")

IS_OPEN = sa.text("select pg_xact_status(cast(cast(:xmin as text) as xid8)) = 'in progress'")


UNTRACKED = sa.text("""
select quote_ident(rolname) as role, quote_ident(datname) as database
  from pg_db_role_setting as kept
  left join pg_roles on pg_roles.oid = setrole
  left join pg_database on pg_database.oid = setdatabase
 where exists (select from unnest(setconfig) as setting
                where setting ~* '^track_activities=(of|f|n|0)')
   and (setdatabase = 0 or datname = current_database())
 order by 1, 2
""")


def unseen(connection: sa.Connection) -> list[str]:
    """Say whose transactions do not show when they began: rows stamped with their start come unseen."""
    sentences = []
    for role, database in connection.execute(UNTRACKED):
        whose = " ".join(
            filter(None, [f"role {role}" if role else "", f"database {database}" if database else ""])
        )
        sentences.append(
            f"`track_activities` is off for {whose}: when its transactions began is not seen, so long ones are not waited "
            f"for; `alter {'role ' + role if role else 'database ' + str(database)} reset track_activities`"
        )
    return sentences


class Before(NamedTuple):
    """What a server said before the snapshot: which one it is, and what it had replayed, in microseconds since 1970."""

    server: tuple[object, ...]
    replayed_at: int | None


def before(connection: sa.Connection) -> Before:
    """Ask what a standby has replayed. That goes on while a snapshot stands, so it proves nothing of one taken earlier."""
    row = connection.execute(BEFORE).one()
    return Before(tuple(row[:3]), row.replayed_at)


def fence(connection: sa.Connection, freshness: Freshness | None, asked: object) -> Fence:
    """Ask, within the transaction that is open. `asked` is what `before` said of the server before that began."""
    ended = connection.execute(ENDED).one()
    fresh_until = (
        freshness() if freshness is not None else _fresh_until(ended, asked) if ended.standby else None
    )
    begun = connection.execute(BEGUN).one()
    xmin = _ended_until(connection, ended, begun.xmax)
    oldest_start = begun.oldest_start if begun.sees_starts else None
    return Fence(
        at=ended.at,
        xmin=xmin,
        xmax=begun.xmax,
        oldest_start=oldest_start,
        sees_starts=begun.sees_starts,
        standby=ended.standby,
        fresh_until=fresh_until,
        holder=_holder(connection, ended, xmin, begun.xmax, oldest_start),
        declared=freshness is not None,
    )


def _ended_until(connection: sa.Connection, ended: sa.Row[tuple[object, ...]], xmax: int) -> int:
    """Return below which id every transaction that may have written here has ended, as the snapshot shows it.

    A standby lists neither what runs on its primary nor whose it is.
    """
    xmin: int = ended.xmin
    if ended.standby or xmin == xmax:
        return xmin
    elsewhere = set(connection.scalars(ELSEWHERE))
    return ended_until(ended.running, ended.seen_until, xmax, {xid % 2**32 for xid in elsewhere})


def ended_until(running: Sequence[int], seen_until: int, xmax: int, elsewhere: AbstractSet[int]) -> int:
    """Return the lowest id that may still write here, or `xmax` if none may.

    `running` are the ids below `seen_until` that the snapshot shows as open; from `seen_until` on all are open to it, also
    those that have committed since. `elsewhere` are the ids of transactions that are open in other databases.
    """
    for xid in running:
        if xid % 2**32 not in elsewhere:
            return xid
    return next((xid for xid in range(seen_until, xmax) if xid % 2**32 not in elsewhere), xmax)


def _fresh_until(ended: sa.Row[tuple[object, ...]], asked: object) -> dt.datetime | None:
    """Return up to when a standby has surely replayed; None if another server was asked, by a pooler in between.

    A commit that was replayed proves those before it. How long ago that was proves nothing: it grows while the primary has
    nothing to say, and when the connection to it is lost.
    """
    if not isinstance(asked, Before) or asked.replayed_at is None:
        return None
    if asked.server != (ended.started_at, ended.address, ended.port):
        return None
    return EPOCH + dt.timedelta(microseconds=asked.replayed_at) - REPLAY_MARGIN


def _holder(
    connection: sa.Connection,
    ended: sa.Row[tuple[object, ...]],
    xmin: int,
    xmax: int,
    oldest_start: dt.datetime | None,
) -> str | None:
    """Name who holds back the ids, and who began first, in one line; None if nobody does."""
    if xmin == xmax and oldest_start is None:
        return None
    xid = xmin if xmin < xmax else 0
    found = connection.execute(HOLDERS, {"xmin": _short(xid), "oldest_start": oldest_start}).all()
    named = [_named(each, ended.at) for each in found]
    if not any(each.writes for each in found) and xid and connection.scalar(IS_OPEN, {"xmin": str(xid)}):
        unseen = "a transaction on the primary" if ended.standby else "a transaction this role may not see"
        named.insert(0, f"{unseen} (id {xid})")
    return "; ".join(named) or None


def _short(xid: int) -> str:
    """Return an id as the 32 bits by which sessions and prepared transactions are listed."""
    return str(xid % 2**32)


def _named(found: sa.Row[tuple[object, ...]], at: dt.datetime) -> str:
    name = ascii(str(found.name)[:LONGEST_NAME])
    since = "" if found.since is None else f" for {_lasted(at - found.since)}"
    if found.pid is None:
        return f"prepared transaction {name} in database {found.database}, neither committed nor rolled back{since}"
    return f"pid {found.pid} ({name}) in database {found.database}, in a transaction{since}"


def _lasted(time: dt.timedelta) -> str:
    """Return a length of time in whole seconds; a transaction that began just now may seem to begin later."""
    return str(max(dt.timedelta(0), dt.timedelta(seconds=int(time.total_seconds()))))
