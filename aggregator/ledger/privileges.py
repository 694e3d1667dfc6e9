"""What each role of the ledger's database may do, and no more: who owns the tables, who bills, and who only looks.

Rules
- `INSERTED`, `UPDATED` and `DELETED` name what the statements of this package write; a test reads those and holds the lists
  to them. So whoever bills can lower no count of claims, and delete no attempt or decision.
- Whoever bills moves events between the outbox and where they rest; triggers of the owner's refuse to lose one, or to change
  it. One leaves only by a function of the owner's, which the daemon may call: it removes what is in an archive.
- A row that is locked counts as updated: Postgres asks the same right for both.
- Of a role is told what is missing and what is too much. A superuser may do everything, and of one nothing else is told.
"""

from collections.abc import Iterator
from enum import StrEnum
from textwrap import fill
from typing import NamedTuple

from psycopg import sql

from aggregator.ledger.database import Connection


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


INSERTED = _words("""
    archive archive_day attempt cancellation carry checking claim combination configuration cursor customer
    customer_change cutover decision definition doubtful_window drift event_at_rest evidence feed fence file guarded host
    lateness mapping meter notification origin outbox parked pass pass_count poll rate_share read_count readback
    reading_cost reassertion rejection running_total sample sampling series silent_customer sink slot touched
    unchecked unmapped unread unstable usage_day usage_of_combination usage_of_day usage_of_hour verdict_count
""")
UPDATED = _words("""
    archive cancellation carry checking claim cursor customer cutover drift event_at_rest feed fence file guarded identity
    lateness mapping meter origin outbox parked pass pass_count poll rate_share read_count readback reading_cost
    reassertion rejection running_total sampling series sink slot touched unchecked unread usage_day verdict_count
""")
DELETED = _words("""
    archive archive_day archived_hour archived_usage carry customer cutover definition doubtful_window drift
    event_at_rest fence file guarded lateness notification outbox parked pass rate_share reading_cost reassertion rejection
    running_total sample silent_customer slot unchecked unmapped unread usage_of_combination usage_of_day
    usage_of_hour
""")

SEQUENCE = "event_id"
"""The one sequence that statements draw from; those of identity columns need no right of their own."""

FUNCTIONS = _words("remove_archived remove_spent_claims")
"""What lets the daemon remove from the ledger what is in an archive, and nothing else. They run as the owner."""

HARMLESS = ("pg_monitor", "pg_read_all_settings", "pg_read_all_stats", "pg_stat_scan_tables")
"""Roles that a role may be a member of: they show what the server does, and change nothing
(postgresql.org/docs/current/predefined-roles.html)."""


WIDTH = 100
"""How long the lines of printed SQL are, more or less."""


class Kind(StrEnum):
    """What a role is for."""

    OWNER = "owner"
    DAEMON = "daemon"
    READER = "reader"


class Names(NamedTuple):
    """How the roles are called."""

    owner: str = "aggregator_owner"
    daemon: str = "aggregator_daemon"
    reader: str = "aggregator_reader"

    def of(self, kind: Kind) -> str:
        """Return the name of one of them."""
        return str(getattr(self, kind.value))


class Difference(NamedTuple):
    """One thing in which a role is not what it is for: something it lacks, or something it should not be able to do."""

    role: str
    kind: Kind
    missing: bool
    what: str


# What is asked of a role that does not exist is an error, so it is looked for first.
ROLE = """
select oid, rolsuper, rolcreaterole, rolcreatedb, rolreplication from pg_roles where rolname = %(role)s
"""

MEMBER_OF = """
select rolname from pg_roles
 where oid <> %(oid)s::oid and pg_has_role(%(oid)s::oid, oid, 'member') and not rolname = any(%(harmless)s) order by 1
"""

AROUND = """
select current_database(), has_database_privilege(%(oid)s::oid, current_database(), 'connect'),
       has_database_privilege(%(oid)s::oid, current_database(), 'create'),
       has_database_privilege(%(oid)s::oid, current_database(), 'temporary'),
       has_schema_privilege(%(oid)s::oid, nspname, 'usage'), has_schema_privilege(%(oid)s::oid, nspname, 'create'),
       nspowner = %(oid)s::oid
  from pg_namespace where nspname = 'aggregator'
"""

# Some rights can also be given for columns of a table.
TABLES = """
select relname, relowner = %(oid)s::oid, wanted.privilege,
       has_table_privilege(%(oid)s::oid, pg_class.oid, wanted.privilege),
       wanted.by_column and has_any_column_privilege(%(oid)s::oid, pg_class.oid, wanted.privilege)
  from pg_class
 cross join (values ('select', true), ('insert', true), ('update', true), ('delete', false), ('truncate', false),
                    ('references', true), ('trigger', false)) as wanted (privilege, by_column)
 where relnamespace = to_regnamespace('aggregator') and relkind in ('r', 'p', 'v')
 order by relname, wanted.privilege
"""

DRAWS = """
select has_sequence_privilege(%(oid)s::oid, oid, 'usage'), has_sequence_privilege(%(oid)s::oid, oid, 'update')
  from pg_class where relnamespace = to_regnamespace('aggregator') and relname = %(sequence)s
"""

CALLS = """
select proname, has_function_privilege(%(oid)s::oid, oid, 'execute')
  from pg_proc where pronamespace = to_regnamespace('aggregator') and proname = any(%(functions)s) order by 1
"""

CREATE_ROLES = """
create role {owner} login;
create role {daemon} login;
create role {reader} login;
grant connect, create on database {database} to {owner};
grant connect, temporary on database {database} to {daemon};
grant connect, temporary on database {database} to {reader};
"""

GRANT = """
begin;
grant usage on schema aggregator to {daemon}, {reader};
revoke all on all tables in schema aggregator from {daemon}, {reader};
grant select on all tables in schema aggregator to {daemon}, {reader};
grant insert on {inserted} to {daemon};
grant update on {updated} to {daemon};
grant delete on {deleted} to {daemon};
revoke all on all sequences in schema aggregator from {daemon}, {reader};
grant usage on sequence {sequence} to {daemon};
grant execute on function {functions} to {daemon};
commit;
"""


def roles_sql(names: Names, database: str) -> str:
    """Return what makes the roles and lets them into a database. Whoever may create roles runs it, once."""
    return _composed(CREATE_ROLES, names, database=sql.Identifier(database))


def tables_sql(names: Names) -> str:
    """Return what gives the roles their rights, and takes what they have beyond. The owner runs it after each migration."""
    return _composed(
        GRANT,
        names,
        inserted=_tables(INSERTED),
        updated=_tables(UPDATED),
        deleted=_tables(DELETED),
        sequence=sql.SQL(f"aggregator.{SEQUENCE}"),
        functions=_tables(FUNCTIONS),
    )


def _composed(text: str, names: Names, **parts: sql.Composable) -> str:
    roles = {kind.value: sql.Identifier(names.of(kind)) for kind in Kind}
    return sql.SQL(text).format(**roles, **parts).as_string(None).strip()


def _tables(names: frozenset[str]) -> sql.Composable:
    """Return names of ours, which need no quotes, on lines that a person can read."""
    listed = ", ".join(f"aggregator.{name}" for name in sorted(names))
    return sql.SQL(fill(listed, WIDTH, subsequent_indent="    ", break_long_words=False))


def wanted(kind: Kind, table: str) -> frozenset[str]:
    """Return which rights on a table a role of this kind has. The owner's are not counted: they come with owning it."""
    if kind is Kind.READER:
        return frozenset({"select"})
    writes = {"insert": INSERTED, "update": UPDATED, "delete": DELETED}
    return frozenset({"select"} | {right for right, tables in writes.items() if table in tables})


def differences(connection: Connection, role: str, kind: Kind) -> list[Difference]:
    """Return in what a role of the ledger's server is not what a role of this kind is: each once, what is missing first."""
    found = sorted(_differences(connection, role, kind), key=lambda each: not each[0])
    return [Difference(role, kind, missing, what) for missing, what in found]


def _differences(connection: Connection, role: str, kind: Kind) -> Iterator[tuple[bool, str]]:
    row = connection.execute(ROLE, {"role": role}).fetchone()
    if row is None:
        yield True, "there is no such role"
        return
    oid, superuser, *powers = row
    if superuser:
        yield False, "is a superuser"
        return
    for power, what in zip(powers, ("may make roles", "may make databases", "may replicate"), strict=True):
        if power:
            yield False, what
    members = connection.execute(MEMBER_OF, {"oid": oid, "harmless": list(HARMLESS)}).fetchall()
    yield from ((False, f"can become {name}") for (name,) in members)
    yield from _around(connection, oid, kind)
    yield from _rights(connection, oid, kind)


def _around(connection: Connection, oid: int, kind: Kind) -> Iterator[tuple[bool, str]]:
    """Compare what a role may do in the database and the schema."""
    row = connection.execute(AROUND, {"oid": oid}).fetchone()
    if row is None:
        yield True, "there is no schema `aggregator`: run `aggregator migrate` as the owner"
        return
    database, connects, creates, makes_temporary, uses, adds, owns = row
    if not connects:
        yield True, f"connect on database {database}"
    if kind is Kind.OWNER:
        if not creates:
            yield True, f"create on database {database}"
        if not owns:
            yield True, "does not own the schema aggregator"
        return
    if not uses:
        yield True, "usage on schema aggregator"
    if not makes_temporary:
        yield True, f"temporary on database {database}"
    if creates:
        yield False, f"create on database {database}"
    if owns:
        yield False, "owns the schema aggregator"
    elif adds:
        yield False, "create on schema aggregator"


def _rights(connection: Connection, oid: int, kind: Kind) -> Iterator[tuple[bool, str]]:
    """Compare its rights on tables, and on the sequence of events."""
    missing: dict[str, list[str]] = {}
    excess: dict[str, list[str]] = {}
    owned, strange = set[str](), set[str]()
    for table, owns, right, whole, partly in connection.execute(TABLES, {"oid": oid}).fetchall():
        (owned if owns else strange).add(table)
        if right in wanted(kind, table):
            if not whole:
                missing.setdefault(right, []).append(table)
        elif whole or partly:
            excess.setdefault(right, []).append(table)
    if kind is Kind.OWNER:
        if strange:
            yield True, f"does not own {_some(strange)}"
        return
    yield from ((True, f"{right} on {_some(tables)}") for right, tables in missing.items())
    if owned:
        yield False, f"owns {_some(owned)}"
        return
    yield from ((False, f"{right} on {_some(tables)}") for right, tables in excess.items())
    row = connection.execute(DRAWS, {"oid": oid, "sequence": SEQUENCE}).fetchone()
    draws, sets = row or (False, False)
    if kind is Kind.DAEMON and not draws:
        yield True, f"usage on sequence {SEQUENCE}"
    for function, calls in connection.execute(CALLS, {"oid": oid, "functions": sorted(FUNCTIONS)}).fetchall():
        if calls != (kind is Kind.DAEMON):
            yield not calls, f"execute on function {function}"
    if sets or (draws and kind is Kind.READER):
        yield False, f"{'update' if sets else 'usage'} on sequence {SEQUENCE}"


def _some(tables: "set[str] | list[str]") -> str:
    """Name a few tables, and say how many there are."""
    named = sorted(tables)
    shown = ", ".join(named[:3])
    return (
        f"table {shown}" if len(named) == 1 else f"{len(named)} tables ({shown}{', ...' * (len(named) > 3)})"
    )
