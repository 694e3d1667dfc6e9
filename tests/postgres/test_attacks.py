"""Usage queries that attack the database they read: what stops each, and what only a role without the privilege stops.

A query is run as DECLARE CURSOR in a read-only transaction that is rolled back. That keeps even a role that may write from
writing to tables and sequences. It does not keep a role from what reaches outside of the transaction: the server's files and
programs, other sessions. `check` refuses roles that may do that.
"""

import datetime as dt
import re
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from decimal import Decimal
from typing import Any, NamedTuple

import psycopg
import pytest
from psycopg import sql

from aggregator.core.model import Reading, Span
from aggregator.errors import SourceError
from aggregator.runtime.embedded_postgres import EmbeddedPostgres
from aggregator.source import Source
from tests.postgres.servers import as_role

pytestmark = pytest.mark.direct

HOUR = dt.timedelta(hours=1)
NOON = dt.datetime(2026, 6, 1, 12, tzinfo=dt.UTC)
ONE = Span(NOON, NOON + HOUR)

OF_A_FILE = "root:"
"""What /etc/passwd says, and no answer may."""

STATEMENTS = {
    "leave the transaction": "select 1; commit; delete from victim where :start < :end",
    "begin another one": "select 1; rollback; begin read write; delete from victim; commit",
    "a second statement": "select 1 as customer, 1 as quantity where :start < :end; delete from victim",
    "behind a comment": "select 1 as customer, 1 as quantity -- of :start\n; delete from victim; --",
    "behind a block comment": "select 1 as customer /* ; */, 1 as quantity /*/* */ */; delete from victim /*",
    "behind dollar quotes": "select $a$;$a$ as customer, 1 as quantity; delete from victim; select $$",
    "out of a bound value": "select ':start'::text as customer, 1 as quantity; delete from victim; --'",
    "out of our cursor": "select 1) to stdout; delete from victim; --",
    "close our cursor": "close all",
    "read-write": "set transaction read write",
    "read-write for the session": "set session characteristics as transaction read write",
    "another role": "set role postgres",
    "another user": "set session authorization postgres",
    "settings back": "reset all",
    "discard": "discard all",
    "commit": "commit",
    "two-phase": "prepare transaction 'stolen'",
    "delete": "delete from victim",
    "delete returning": "delete from victim returning 1 as customer, 1 as quantity",
    "insert": "insert into victim values (2)",
    "update": "update victim set id = 2",
    "merge": "merge into victim using victim v on true when matched then delete",
    "truncate": "truncate victim",
    "drop": "drop table victim",
    "create": "create table stolen as select * from victim",
    "select into": "select 1 as customer, 1 as quantity into stolen from victim",
    "cte": "with gone as (delete from victim returning id) select id as customer, 1 as quantity from gone",
    "lock rows": "select id as customer, 1 as quantity from victim for update",
    "lock table": "lock table victim in access exclusive mode",
    "vacuum": "vacuum full victim",
    "analyze": "analyze victim",
    "reindex": "reindex table victim",
    "explain": "explain analyze delete from victim",
    "program": "copy victim to program 'true'",
    "program's output": "copy (select 1) to program 'true'",
    "file out": "copy victim to '/tmp/stolen'",
    "file in": "copy victim from '/etc/passwd'",
    "do": "do $$ begin delete from victim; commit; end $$",
    "call": "call erase()",
    "prepare": "prepare p as delete from victim",
    "execute": "execute p",
    "listen": "listen bell",
    "notify": "notify bell",
    "grant": "grant all on victim to public",
    "load": "load 'plpgsql'",
}
"""No SELECT, or more than one statement: never begun, whoever asks."""

EXPRESSIONS = {
    "read-write": "set_config('transaction_read_only', 'off', true)",
    "read-write by a function": "unlocked()",
    "another role": "set_config('role', 'postgres', false)",
    "another user": "set_config('session_authorization', 'postgres', false)",
    "function that deletes": "erased()",
    "function with its owner's rights": "erased_as_owner()",
    "function that commits": "committed()",
    "sql in sql": "query_to_xml('delete from victim returning id', true, true, '')",
    "nextval": "nextval('victim_sequence')",
    "setval": "setval('victim_sequence', 99)",
    "read a file": "pg_read_file('/etc/passwd')",
    "read a file as bytes": "pg_read_binary_file('/etc/passwd')",
    "list files": "pg_ls_dir('/etc')",
    "file into an object": "lo_import('/etc/passwd')",
    "object into a file": "lo_export(1, '/tmp/stolen')",
    "make an object": "lo_create(4711)",
    "end a session": "pg_terminate_backend({bystander})",
    "cancel a session": "pg_cancel_backend({bystander})",
    "advisory lock": "pg_advisory_lock(4711)",
    "notify": "pg_notify('bell', 'rung')",
    "reload": "pg_reload_conf()",
    "rotate the log": "pg_rotate_logfile()",
    "switch the log": "pg_switch_wal()",
    "forget statistics": "pg_stat_reset()",
    "replication slot": "pg_create_physical_replication_slot('stolen', true)",
}
"""Within one SELECT: READ ONLY, or a missing privilege, or the rollback keeps it from doing harm."""

HARMLESS = {"advisory lock", "notify", "make an object"}
"""These may give rows, according to the version; what they did is gone with the transaction or the session."""


class Database(NamedTuple):
    """The database under attack: who attacks it, and what could tell."""

    admin: psycopg.Connection[tuple[Any, ...]]
    bystander: psycopg.Connection[tuple[Any, ...]]
    reader: str
    writer: str
    url: str

    def ask(self, statement: str) -> list[tuple[Any, ...]]:
        return self.admin.execute(statement).fetchall()

    def read(self, role: str, query: str) -> list[Reading] | SourceError:
        """Return what a read as the role gives, or the error it raises."""
        source = Source("app", as_role(self.url, role), statement_timeout=dt.timedelta(seconds=20))
        try:
            return [reading for batch in source.read(query, ONE, HOUR) for reading in batch]
        except SourceError as error:
            return error

    def quantity(self, role: str, query: str) -> Decimal:
        """Return the quantity of the one row that a read as the role gives."""
        said = self.read(role, query)
        assert not isinstance(said, SourceError), said
        [reading] = said
        assert reading.quantity is not None
        return reading.quantity

    def check_unharmed(self) -> None:
        """Assert that nothing of all that could have happened did."""
        assert self.ask("select id from victim") == [(1,)]
        assert self.ask("select last_value, is_called from victim_sequence") == [(1, False)]
        assert self.ask("select to_regclass('stolen')") == [(None,)]
        assert self.ask("select count(*) from pg_largeobject_metadata") == [(0,)]
        assert self.ask("select count(*) from pg_replication_slots where slot_name = 'stolen'") == [(0,)]
        assert self.ask("select count(*) from pg_prepared_xacts") == [(0,)]
        assert self.bystander.execute("select 'still here'").fetchall() == [("still here",)]
        assert list(self.bystander.notifies(timeout=0)) == []
        locks = "select count(*) = 0 from pg_locks where locktype = 'advisory' and objid = 4711"
        for _ in range(200):
            if self.ask(locks) == [(True,)]:
                break
            self.admin.execute("select pg_sleep(0.05)")
        else:
            raise AssertionError("an advisory lock is still held")


SETUP = """
create table victim (id int);
insert into victim values (1);
create sequence victim_sequence;
create function erased() returns int language sql as 'delete from victim returning id';
create function erased_as_owner() returns int security definer language sql as 'delete from victim returning id';
create function committed() returns int language plpgsql as $$ begin commit; delete from victim; return 1; end $$;
create function unlocked() returns text language plpgsql as $$
    begin perform set_config('transaction_read_only', 'off', true); return 'on'; end $$;
create procedure erase() language plpgsql as $$ begin delete from victim; commit; end $$;
"""


@pytest.fixture
def database(source_url: str) -> Iterator[Database]:
    """A database with something to lose, the documented role (reader), and one that may write, as applications have."""
    reader, writer = (f"{kind}_{uuid.uuid4().hex[:8]}" for kind in ("reader", "writer"))
    with ExitStack() as stack:
        admin = stack.enter_context(psycopg.connect(source_url, autocommit=True))
        admin.execute(SETUP)
        for role in (reader, writer):
            admin.execute(f"create role {role} login")
            admin.execute(f"grant usage on schema public to {role}; grant select on victim to {role}")
        admin.execute(f"alter role {reader} set default_transaction_read_only = on")
        admin.execute(f"grant insert, update, delete, truncate on victim to {writer}")
        admin.execute(
            f"grant all on sequence victim_sequence to {writer}; grant create on schema public to {writer}"
        )
        bystander = stack.enter_context(psycopg.connect(source_url, autocommit=True))
        bystander.execute("listen bell")
        yield Database(admin, bystander, reader, writer, source_url)
        for role in (reader, writer):
            name = sql.Identifier(role)
            admin.execute(sql.SQL("drop owned by {}").format(name))
            admin.execute(sql.SQL("drop role {}").format(name))


def clear(error: SourceError) -> bool:
    """Tell whether an error says on one line which source it is about."""
    return re.fullmatch(r"Source app[: ].{20,}", str(error)) is not None


@pytest.mark.parametrize("role", ["reader", "writer"])
@pytest.mark.parametrize("attack", STATEMENTS)
def test_what_is_no_single_select_is_refused(database: Database, role: str, attack: str) -> None:
    """Before it has begun, with one clear sentence, even for a role that may write."""
    said = database.read(getattr(database, role), STATEMENTS[attack])
    assert isinstance(said, SourceError), said
    assert clear(said), said
    database.check_unharmed()


@pytest.mark.parametrize("role", ["reader", "writer"])
@pytest.mark.parametrize("attack", EXPRESSIONS)
def test_a_select_does_no_harm(database: Database, role: str, attack: str) -> None:
    """It is refused, or gives rows and leaves nothing behind; no file's content comes out."""
    expression = EXPRESSIONS[attack].format(bystander=database.bystander.info.backend_pid)
    query = f"select ({expression})::text as customer, 1 as quantity where :start < :end"
    said = database.read(getattr(database, role), query)
    if isinstance(said, SourceError):
        assert clear(said), said
    else:
        assert attack in HARMLESS, said
    assert OF_A_FILE not in str(said)
    database.check_unharmed()


def test_there_are_many_attacks() -> None:
    """Fewer would be easy to withstand."""
    assert len(STATEMENTS) + len(EXPRESSIONS) >= 60


@pytest.mark.parametrize("attack", ["set_config('statement_timeout', '0', false)", "pg_advisory_lock(4711)"])
def test_what_a_query_sets_ends_with_its_read(database: Database, attack: str) -> None:
    """Every read has a session of its own: the next one finds nothing of the last."""
    told = database.read(database.reader, f"select ({attack})::text as customer, 1 as quantity")
    assert not isinstance(told, SourceError)
    database.check_unharmed()
    query = "select 'x' as customer, (current_setting('statement_timeout') = '20s')::int as quantity"
    assert database.quantity(database.reader, query) == 1


# What only privileges stop


def test_only_privileges_keep_files_from_being_read(database: Database) -> None:
    """A superuser's query reads them, READ ONLY or not: so `check` refuses superusers, and whoever is let read them."""
    query = "select 'x' as customer, length(pg_read_file('/etc/passwd')) as quantity"
    assert database.quantity("postgres", query) > 0
    assert "permission denied" in str(database.read(database.reader, query))
    database.admin.execute(f"grant pg_read_server_files to {database.reader}")
    database.admin.execute(f"grant execute on function pg_read_file(text) to {database.reader}")
    assert database.quantity(database.reader, query) > 0
    assert any("read the server's files" in sentence for sentence in unsafe(database, database.reader))
    assert unsafe(database, "postgres")


def test_only_privileges_keep_programs_from_running(database: Database, postgres: EmbeddedPostgres) -> None:
    """COPY TO PROGRAM writes no table, so a function may do it in a read-only transaction: `check` refuses who may."""
    proof = postgres.directory / f"ran_{uuid.uuid4().hex}"
    database.admin.execute(f"""
        create function runs() returns int language plpgsql as
        $$ begin copy (select 1) to program 'cat > {proof.name}'; return 1; end $$
    """)
    query = "select runs() as customer, 1 as quantity"
    assert "permission denied" in str(database.read(database.reader, query))
    assert not proof.exists()
    assert not isinstance(database.read("postgres", query), SourceError)
    assert proof.exists()
    proof.unlink()
    database.admin.execute(f"grant pg_execute_server_program to {database.reader}")
    assert any("run programs" in sentence for sentence in unsafe(database, database.reader))


def test_only_privileges_keep_other_sessions_alive(database: Database) -> None:
    """Whoever shares the application's role may end its sessions: the reason for a role of its own."""
    with psycopg.connect(as_role(database.url, database.writer), autocommit=True) as application:
        query = (
            f"select pg_terminate_backend({application.info.backend_pid})::text as customer, 1 as quantity"
        )
        assert "permission denied" in str(database.read(database.reader, query))
        assert application.execute("select 1").fetchall() == [(1,)]
        assert not isinstance(database.read(database.writer, query), SourceError)
        with pytest.raises(psycopg.OperationalError):
            application.execute("select 1")
    assert unsafe(database, database.writer), "check refuses the application's own role, since it may write"


def unsafe(database: Database, role: str) -> list[str]:
    return Source("app", as_role(database.url, role), statement_timeout=HOUR).unsafe()


def test_the_attackers_are_what_they_are_said_to_be(database: Database) -> None:
    """The reader is fit to read for us; the writer is refused, and could do all this with a connection of its own."""
    assert unsafe(database, database.reader) == []
    assert len(unsafe(database, database.writer)) >= 2
    with psycopg.connect(as_role(database.url, database.writer)) as connection:
        assert connection.execute("delete from victim returning id").fetchall() == [(1,)]
        connection.rollback()


# The source is untouched


ROWS_WRITTEN = """
select coalesce(sum(n_tup_ins + n_tup_upd + n_tup_del + n_tup_hot_upd), 0)::int, sum(seq_scan)::int
  from pg_stat_user_tables
"""


def test_many_reads_write_nothing(database: Database) -> None:
    """The server's own count of rows inserted, updated and deleted stays as it was, while that of scans grows."""
    database.admin.execute(
        "select pg_stat_force_next_flush()"
    )  # what made the tables is to be counted before
    [(written, scans)] = database.ask(ROWS_WRITTEN)
    source = Source("app", as_role(database.url, database.reader), statement_timeout=HOUR)
    query = "select id as customer, 1 as quantity from victim where :start < :end"
    for _ in range(25):
        assert len(list(source.read(query, Span(NOON, NOON + 3 * HOUR), HOUR, step=HOUR / 2))) == 6
        source.columns(query, ONE)
        source.fence()
        source.unsafe()
    for _ in range(200):
        [(now_written, now_scans)] = database.ask(ROWS_WRITTEN)
        if now_scans >= scans + 25 * 7:
            break
        database.admin.execute("select pg_sleep(0.05)")
    assert now_scans >= scans + 25 * 7
    assert now_written == written
