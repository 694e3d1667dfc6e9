"""What the role of a Postgres source may do beyond reading, one sentence each with its remedy.

Rules
- A read-only transaction keeps a role from writing to tables. It does not keep it from reading the server's files, running
  its programs, ending others' sessions, or calling a function that reaches outside: only missing privileges do.
- What counts is every role that the session's role is a member of: a query may become any of them
  (`set_config('role', ...)`), inherited or not.
- That a role bypasses row-level security is no power too much: what is hidden from it would not be billed.
- Objects of the system itself are left out: what everybody may do there is Postgres's own affair.
"""

from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa

GUIDE = 'docs/queries.md, "A role that may only read"'

SHOWN = 3
"""Enough names to know what it is about."""

ATTRIBUTES = sa.text("""
select quote_ident(session_user) as me,
       array_agg(quote_ident(rolname) order by rolname) filter (where rolsuper) as superuser,
       array_agg(quote_ident(rolname) order by rolname) filter (where rolcreaterole) as createrole,
       array_agg(quote_ident(rolname) order by rolname) filter (where rolreplication) as replication,
       array_agg(quote_ident(rolname) order by rolname) filter (where rolname = any(:powers)) as powers
  from pg_roles
 where pg_has_role(session_user, oid, 'member')
""")

SCHEMAS = sa.text("""
with mine as (select oid from pg_roles where pg_has_role(session_user, oid, 'member'))
select quote_ident(current_database()) as database,
       exists (select from mine where has_database_privilege(oid, current_database(), 'CREATE')) as creates_in_database,
       array(select quote_ident(nspname) from pg_namespace
              where nspname !~ '^pg_' and nspname <> 'information_schema'
                and exists (select from mine where has_schema_privilege(mine.oid, pg_namespace.oid, 'CREATE'))
              order by 1) as creates_in,
       coalesce((select has_schema_privilege('public', oid, 'CREATE') from pg_namespace where nspname = 'public'),
                false) as everybody_creates_in_public
""")

TABLES = sa.text("""
with mine as (select oid from pg_roles where pg_has_role(session_user, oid, 'member')),
thing as (
    select relation.oid, relkind, format('%I.%I', nspname, relname) as name, relowner in (select oid from mine) as owned
      from pg_class relation join pg_namespace on pg_namespace.oid = relnamespace
     where relkind in ('r', 'p', 'v', 'm', 'f', 'S') and nspname !~ '^pg_' and nspname <> 'information_schema'
)
select owned, count(*) as many, (array_agg(name order by name))[1:3] as names
  from thing
 where owned or exists (
       select from mine where case relkind
         when 'S' then has_sequence_privilege(mine.oid, thing.oid, 'USAGE, UPDATE')
         else has_any_column_privilege(mine.oid, thing.oid, 'INSERT, UPDATE')
           or has_table_privilege(mine.oid, thing.oid, 'DELETE, TRUNCATE') end)
 group by owned order by owned desc
""")

POWERS = {
    "pg_write_all_data": "write to every table",
    "pg_execute_server_program": "run programs on the server",
    "pg_read_server_files": "read the server's files",
    "pg_write_server_files": "write the server's files",
    "pg_signal_backend": "end others' sessions",
}
"""postgresql.org/docs/current/predefined-roles.html"""


def unsafe(connection: sa.Connection) -> list[str]:
    """Say what the role may do beyond reading; empty for a role that may only read."""
    role = connection.execute(ATTRIBUTES, {"powers": list(POWERS)}).one()
    if role.superuser:
        who = "is a superuser" if role.me in role.superuser else f"can become superuser {role.superuser[0]}"
        sentence = (
            f"Role {role.me} {who}: no read-only transaction keeps it from the server's files and programs, so give "
            f"aggregator a role of its own ({GUIDE})."
        )
        return [sentence]
    return [*_attributes(role), *_schemas(connection, role.me), *_tables(connection, role.me)]


def _attributes(role: Any) -> Iterator[str]:
    for attribute, can in (
        ("createrole", "may make and change roles"),
        ("replication", "may make replication slots, which fill the server's disk"),
    ):
        for name in getattr(role, attribute) or ():
            yield f"Role {_becoming(role.me, name)} {can}: `alter role {name} no{attribute}`."
    for name in role.powers or ():
        yield f"Role {role.me} may {POWERS[name]}, as a member of {name}: `revoke {name} from {role.me}`."


def _becoming(me: str, name: str) -> str:
    return me if me == name else f"{me} can become {name}, which"


def _schemas(connection: sa.Connection, me: str) -> Iterator[str]:
    found = connection.execute(SCHEMAS).one()
    if found.creates_in_database:
        yield (
            f"Role {me} may create schemas in database {found.database}: `revoke create on database {found.database} "
            f"from {me}`; a database it owns needs another owner."
        )
    if found.creates_in:
        everybody = (
            " (everybody may in `public`, as before Postgres 15)" if found.everybody_creates_in_public else ""
        )
        whom = f"{me}, public" if found.everybody_creates_in_public else me
        yield (
            f"Role {me} may create objects in {_some(found.creates_in, len(found.creates_in), 'schema')}{everybody}: "
            f"`revoke create on schema {', '.join(found.creates_in[:SHOWN])} from {whom}`."
        )


def _tables(connection: sa.Connection, me: str) -> Iterator[str]:
    for found in connection.execute(TABLES):
        which = _some(found.names, found.many, "table or sequence", "tables and sequences")
        if found.owned:
            yield f"Role {me} owns {which}, so it may do anything to them: read with another role ({GUIDE})."
        else:
            yield (
                f"Role {me} may write to {which}: `revoke insert, update, delete, truncate on all tables in schema ... "
                f"from {me}`, and usage and update on all sequences; then grant select alone ({GUIDE})."
            )


def _some(names: list[str], many: int, one: str, more: str | None = None) -> str:
    """Return a few names and, if there are others, how many there are."""
    listed = ", ".join(names[:SHOWN])
    if many == 1:
        return f"{one} {listed}"
    return f"{many} {more or one + 's'} ({listed}{', ...' if many > SHOWN else ''})"
