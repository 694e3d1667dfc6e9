"""What is said of roles of the ledger's server: nothing of those that were made as printed, and each thing that differs."""

import uuid
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from psycopg import sql

from aggregator.errors import LedgerError
from aggregator.ledger.database import Database, migrate
from aggregator.ledger.privileges import Difference, Kind, Names, differences, roles_sql, tables_sql
from tests.postgres.servers import as_role

pytestmark = pytest.mark.direct

Run = Callable[[str], list[Any]]


@pytest.fixture
def run(ledger_url: str) -> Iterator[Run]:
    """A way to change the ledger's database as its superuser."""
    with psycopg.connect(ledger_url, autocommit=True) as connection:

        def execute(statements: str) -> list[Any]:
            done = connection.execute(statements)
            return done.fetchall() if done.description else []

        yield execute


@pytest.fixture
def names(run: Run) -> Iterator[Names]:
    """Three roles of this test's own, as the printed SQL makes them; the owner owns all there is."""
    its = uuid.uuid4().hex[:8]
    names = Names(f"owner_{its}", f"daemon_{its}", f"reader_{its}")
    [(database,)] = run("select current_database()")
    run(roles_sql(names, database))
    run(f"alter schema aggregator owner to {names.owner}")
    for (table,) in run(
        "select relname from pg_class where relnamespace = 'aggregator'::regnamespace and relkind in ('r', 'v')"
    ):
        run(f"alter table aggregator.{table} owner to {names.owner}")
    run(tables_sql(names))
    yield names
    for name in names:
        run(f"drop owned by {name} cascade")
        run(sql.SQL("drop role {}").format(sql.Identifier(name)).as_string(None))


@pytest.fixture
def said(ledger_url: str, names: Names) -> Iterator[Callable[[], list[Difference]]]:
    """What is said of all three."""
    with Database(ledger_url, size=1) as database:

        def ask() -> list[Difference]:
            with database.transaction() as connection:
                return [each for kind in Kind for each in differences(connection, names.of(kind), kind)]

        yield ask


def test_of_roles_as_printed_there_is_nothing_to_say(
    run: Run, names: Names, said: Callable[[], list[Difference]]
) -> None:
    """Also when the SQL runs once more; and what came in addition, it takes away."""
    assert said() == []
    run(f"grant truncate on aggregator.event_at_rest to {names.daemon}")
    assert said() == [Difference(names.daemon, Kind.DAEMON, False, "truncate on table event_at_rest")]
    run(tables_sql(names))
    assert said() == []


def test_who_may_not_migrate_is_told_who_may(run: Run, names: Names, ledger_url: str) -> None:
    """In the server's words and ours, without those of a library."""
    run("update aggregator.alembic_version set version_num = '0000'")
    said = "cannot be migrated by this role: permission denied for .*; run `aggregator migrate` as the role that owns"
    with pytest.raises(LedgerError, match=said):
        migrate(as_role(ledger_url, names.daemon))


@pytest.mark.parametrize(
    ("change", "kind", "missing", "what"),
    [
        ("grant insert on aggregator.outbox to {reader}", Kind.READER, False, "insert on table outbox"),
        ("grant update (state) on aggregator.event_at_rest to {reader}", Kind.READER, False,
         "update on table event_at_rest"),
        ("grant usage on sequence aggregator.event_id to {reader}", Kind.READER, False, "usage on sequence event_id"),
        ("grant delete on aggregator.event to public", Kind.READER, False, "delete on table event"),
        ("grant create on schema aggregator to {reader}", Kind.READER, False, "create on schema aggregator"),
        ("grant {owner} to {reader} with inherit false", Kind.READER, False, "can become {owner}"),
        ("alter table aggregator.event owner to {reader}", Kind.READER, False, "owns table event"),
        ("alter role {reader} createrole", Kind.READER, False, "may make roles"),
        ("alter role {reader} superuser", Kind.READER, False, "is a superuser"),
        ("revoke select on aggregator.event, aggregator.slot from {reader}", Kind.READER, True,
         "select on 2 tables (event, slot)"),
        ("revoke usage on schema aggregator from {reader}", Kind.READER, True, "usage on schema aggregator"),
        ("revoke usage on sequence aggregator.event_id from {daemon}", Kind.DAEMON, True, "usage on sequence event_id"),
        ("revoke insert on aggregator.outbox from {daemon}", Kind.DAEMON, True, "insert on table outbox"),
        ("alter table aggregator.event owner to postgres", Kind.OWNER, True, "does not own table event"),
    ],
)  # fmt: skip
def test_each_difference_is_named(
    run: Run,
    names: Names,
    said: Callable[[], list[Difference]],
    change: str,
    kind: Kind,
    what: str,
    *,
    missing: bool,
) -> None:
    """Of whose it is, whether something is missing or too much, and what."""
    run(change.format(**names._asdict()))
    assert Difference(names.of(kind), kind, missing, what.format(**names._asdict())) in said()


def test_a_role_that_is_not_there_is_named(ledger_url: str) -> None:
    """And nothing else is asked of it."""
    with Database(ledger_url, size=1) as database, database.transaction() as connection:
        assert differences(connection, "nobody", Kind.READER) == [
            Difference("nobody", Kind.READER, True, "there is no such role")
        ]
