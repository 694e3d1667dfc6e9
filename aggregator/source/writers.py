"""Postgres: which transactions may still commit rows whose ids were dealt before; and which ids are dealt in no order.

A transaction that takes an id from a sequence holds a lock on that sequence until it ends, also before it has an id of its
own and before it has written anything. So the locks show who may still commit a row with a lower id, and to see them takes
no privileges (postgresql.org/docs/current/view-pg-locks.html). An instant that a transaction stamps may be that of its
start:
there, every transaction of the database counts, whatever it does.

Rules
- The rows are looked at first, and then the locks: they are shown as they are, in no snapshot. Who has taken a lower id is
  among them, or has ended.
- Virtual transaction ids are not used twice while a server runs. One that is prepared loses its own, and has no session.
- On a standby the primary's transactions do not show: there is nothing to wait for, and so no answer.
"""

from collections.abc import Mapping

import sqlalchemy as sa

from aggregator.core.deltas import Writers
from aggregator.source.tables import tables

OPEN = sa.text("""
select distinct held.virtualtransaction as transaction, held.pid, activity.application_name as name, activity.xact_start
  from pg_locks as held
  left join pg_stat_activity as activity using (pid)
  left join pg_class as locked on locked.oid = held.relation
 where held.granted
   and (held.pid is null or held.pid <> pg_backend_pid())
   and (
        (held.locktype = 'relation' and held.mode = 'RowExclusiveLock' and held.relation >= 16384
         and held.database = (select oid from pg_database where datname = current_database())
         and coalesce(locked.relkind, 'r') in ('r', 'p', 'S'))
        or
        (cast(:by_instant as boolean) and held.locktype = 'virtualxid' and activity.datname = current_database()
         and not (usename = session_user and application_name like 'aggregator%' and backend_xid is null)
         and coalesce(backend_type, '') not in ('autovacuum worker', 'walsender'))
       )
 order by activity.xact_start nulls last, held.pid
""")

IN_RECOVERY = sa.text("select pg_is_in_recovery()")

SEQUENCES = sa.text("""
with recursive named as (
    select cast(cast(each as text) as regclass)::oid as oid from unnest(cast(:tables as text[])) as each
), dealt as (
    select refobjid as of, objid as sequence from pg_depend
     where classid = 'pg_class'::regclass and refclassid = 'pg_class'::regclass and deptype in ('a', 'i')
    union
    select adrelid, refobjid from pg_attrdef
      join pg_depend on classid = 'pg_attrdef'::regclass and objid = pg_attrdef.oid and refclassid = 'pg_class'::regclass
)
select distinct sequence::regclass::text as name, seqcache > 1 as cached, seqincrement < 0 or seqcycle as backwards
  from named join dealt on dealt.of = named.oid join pg_sequence on seqrelid = dealt.sequence
 where seqcache > 1 or seqincrement < 0 or seqcycle
 order by 1
""")


def writers(connection: sa.Connection, *, by_instant: bool) -> Writers | None:
    """Return which transactions are open that may commit rows with cursors from before; None on a standby."""
    if connection.scalar(IN_RECOVERY):
        return None
    found = connection.execute(OPEN, {"by_instant": by_instant}).all()
    return Writers(
        frozenset(each.transaction for each in found if each.pid is not None),
        frozenset(each.transaction for each in found if each.pid is None),
        _named(found[0]) if found else None,
    )


def _named(found: sa.Row[tuple[object, ...]]) -> str:
    if found.pid is None:
        return "a prepared transaction that is neither committed nor rolled back"
    since = (
        "" if found.xact_start is None else f", in a transaction since {found.xact_start:%Y-%m-%dT%H:%M:%SZ}"
    )
    return f"pid {found.pid} ({str(found.name or '')[:63]!a}){since}"


def disordered(connection: sa.Connection, query: str, values: Mapping[str, object]) -> list[str]:
    """Say why ids of the tables that a query reads are dealt in no order, or appear in none."""
    read = tables(connection, query, values)
    said = [
        f"rows of {each.name} come from another server, in an order of their own"
        for each in read
        if each.foreign or each.subscribed
    ]
    for each in connection.execute(SEQUENCES, {"tables": [table.name for table in read]}):
        if each.cached:
            said.append(
                f"sequence {each.name} deals ids in blocks, which a session may use much later: "
                f"`alter sequence {each.name} cache 1`"
            )
        if each.backwards:
            said.append(f"sequence {each.name} counts down, or begins anew at its end")
    return said
