"""Who holds a meter in silence: its lease has run out, and its session waits for a client that has not been heard for long.

It is paused, or gone without a word, and would hold the meter for as long as it sleeps. No time limit of the server ends it.
"""

from aggregator.errors import LeaseLost
from aggregator.ledger.database import Connection

HOLDERS = 0x61676772
"""Which advisory locks say what session is committing a pass, by meter: `aggr` in ASCII."""

SILENT_SECONDS = 60.0
"""How long the server must have waited for a client in one statement. Each sends or fetches one batch: seconds at most."""

END_SECONDS = 5.0
"""How long a session is waited for that was told to end."""

# What a session of another role does is hidden: then it is null.
SILENT_HOLDERS = """
select activity.pid, activity.usename::text, coalesce(activity.client_addr::text, 'this machine'), activity.xact_start,
       case when activity.query_start is not null
            then coalesce(activity.wait_event, '') in ('ClientRead', 'ClientWrite')
                 and activity.query_start < clock_timestamp() - %(silent)s * interval '1 s' end,
       pg_has_role(activity.usesysid, 'MEMBER')
  from pg_locks as held
  join pg_stat_activity as activity using (pid)
  join aggregator.meter on meter.id = %(meter_id)s
 where held.locktype = 'advisory' and held.granted and held.objsubid = 2
   and held.classid = %(class)s and held.objid = %(meter_id)s
   and held.database = (select oid from pg_database where datname = current_database())
   and meter.lease_until <= clock_timestamp()
"""

# The very transaction that was found: behind a pooler the session may serve somebody else by now.
END_HOLDER = """
select pg_terminate_backend(pid, %(patience)s) from pg_stat_activity
 where pid = %(pid)s and xact_start = %(xact_start)s and wait_event in ('ClientRead', 'ClientWrite')
   and query_start < clock_timestamp() - %(silent)s * interval '1 s'
"""


def end(connection: Connection, meter_id: int, meter: str) -> str | None:
    """End the session that holds a meter although its lease has run out and its client is silent; say whose it was.

    None if there is none. Raises LeaseLost, saying who it is, if this role may not end it.
    """
    values = {"class": HOLDERS, "meter_id": meter_id, "silent": SILENT_SECONDS}
    for pid, role, client, xact_start, silent, may in connection.execute(SILENT_HOLDERS, values).fetchall():
        who = f"session {pid} of role {role} from {client}, in a transaction since {xact_start or 'an unknown time'}"
        if silent is None or (silent and not may):
            raise LeaseLost(
                f"Meter {meter} is held by {who}. Its lease has run out, and this role may not see what it "
                "does, or not end it. If that process is stuck, end it, or say `select "
                f"pg_terminate_backend({pid})` as its role."
            )
        values |= {"pid": pid, "xact_start": xact_start, "patience": int(END_SECONDS * 1_000)}
        if silent and connection.execute(END_HOLDER, values).fetchone() == (True,):
            return who
    return None
