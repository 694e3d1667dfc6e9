"""Which roles may read for us: what one may do beyond reading is named, and what is told to put it right does so."""

import datetime as dt
import re
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from aggregator.cli.check import Finding, _sources
from aggregator.config import load
from aggregator.source import Source
from tests.postgres.servers import as_role

Run = Callable[..., list[tuple[Any, ...]]]

CONFIG = """
sources:
  app: {{url: "{url}"}}
sinks:
  stripe: {{type: stripe, api_key: sk_test_x, mode: test}}
meters:
  requests:
    source: app
    sinks: [stripe]
    window: 1h
    start_at: 2026-11-01T00:00Z
    delay: 5m
    query: select customer, quantity, at, at as window from usage where at >= :start and at < :end
"""
pytestmark = pytest.mark.direct


@pytest.fixture
def run(source_url: str) -> Iterator[Run]:
    """Run a statement in the application database as its administrator."""
    with psycopg.connect(source_url, autocommit=True) as connection:

        def execute(statement: str, *values: object) -> list[tuple[Any, ...]]:
            cursor = connection.execute(statement, values or None)
            return cursor.fetchall() if cursor.description else []

        execute("create table usage (customer text, quantity int, at timestamptz)")
        execute("create sequence numbers")
        yield execute


@pytest.fixture
def role(run: Run) -> Iterator[Callable[[str], str]]:
    """Make roles, and clear them away."""
    made: list[sql.Identifier] = []

    def make(more: str = "") -> str:
        name = f"role_{uuid.uuid4().hex[:8]}"
        run(f"create role {name} login {more}")
        made.append(sql.Identifier(name))
        return name

    yield make
    for name in reversed(made):
        for statement in ("reassign owned by {} to current_user", "drop owned by {}", "drop role {}"):
            run(sql.SQL(statement).format(name).as_string(None))


@pytest.fixture
def reader(run: Run, role: Callable[[str], str]) -> str:
    """The role that docs/queries.md shows how to make."""
    name = role("password 'x' connection limit 10")
    [(database,)] = run("select current_database()")
    run(f"alter role {name} set default_transaction_read_only = on")
    run(f"grant connect on database {database} to {name}")
    run(f"grant usage on schema public to {name}")
    run(f"grant select on usage to {name}")
    run(f"grant pg_read_all_stats to {name}")
    return name


@pytest.fixture
def unsafe(source_url: str, reader: str) -> Callable[[], list[str]]:
    """Say what the reader may do beyond reading."""
    return lambda: at(as_role(source_url, reader)).unsafe()


def at(url: str) -> Source:
    return Source("app", url, statement_timeout=dt.timedelta(seconds=20))


def test_a_role_that_may_only_read_is_fit(unsafe: Callable[[], list[str]]) -> None:
    """The role of the documentation, and nothing is said of it."""
    assert unsafe() == []


def test_a_superuser_is_told_one_thing(source_url: str) -> None:
    """That it may write to each table as well would only hide it."""
    [sentence] = at(source_url).unsafe()
    assert "is a superuser" in sentence
    assert "a role of its own" in sentence


@pytest.mark.parametrize(
    ("grant", "said"),
    [
        ("grant insert on usage to {role}", "may write to table or sequence public.usage"),
        ("grant update (quantity) on usage to {role}", "may write to table or sequence public.usage"),
        ("grant delete on usage to public", "may write to table or sequence public.usage"),
        ("grant truncate on usage to {role}", "may write to table or sequence public.usage"),
        ("grant usage on sequence numbers to {role}", "may write to table or sequence public.numbers"),
        ("grant create on schema public to {role}", "may create objects in schema public"),
        ("grant create on schema public to public", "everybody may in `public`"),
        ("grant create on database {database} to {role}", "may create schemas in database {database}"),
        ("alter database {database} owner to {role}", "may create schemas in database {database}"),
        ("alter table usage owner to {role}", "owns table or sequence public.usage"),
        ("alter role {role} createrole", "make and change roles"),
        ("alter role {role} replication", "replication slots"),
        ("grant pg_write_all_data to {role}", "may write to every table"),
        ("grant pg_execute_server_program to {role}", "may run programs"),
        ("grant pg_read_server_files to {role}", "may read the server's files"),
        ("grant pg_write_server_files to {role}", "may write the server's files"),
        ("grant pg_signal_backend to {role}", "may end others' sessions"),
    ],
)
def test_each_power_beyond_reading_is_named(
    run: Run, reader: str, unsafe: Callable[[], list[str]], grant: str, said: str
) -> None:
    """One sentence says what, and how to take it away."""
    [(database,)] = run("select current_database()")
    run(grant.format(role=reader, database=database))
    found = unsafe()
    assert any(said.format(database=database) in sentence for sentence in found), found
    assert all(sentence.startswith(f"Role {reader} ") and sentence.endswith(".") for sentence in found)


@pytest.mark.parametrize(
    "grant",
    [
        "grant create on schema public to {role}",
        "grant create on schema public to public",
        "grant create on database {database} to {role}",
        "alter role {role} createrole",
        "alter role {role} replication",
        "grant pg_execute_server_program to {role}",
        "grant pg_read_server_files to {role}",
        "grant pg_write_server_files to {role}",
        "grant pg_signal_backend to {role}",
    ],
)
def test_the_remedy_puts_it_right(run: Run, reader: str, unsafe: Callable[[], list[str]], grant: str) -> None:
    """Whoever runs what stands between the backticks has a role that is fit."""
    [(database,)] = run("select current_database()")
    run(grant.format(role=reader, database=database))
    [sentence] = unsafe()
    [remedy] = [text for text in re.findall(r"`([^`]+)`", sentence) if " " in text]
    run(remedy)
    assert unsafe() == []


def test_to_see_every_row_is_no_power_too_much(
    run: Run, reader: str, unsafe: Callable[[], list[str]]
) -> None:
    """What row-level security hides from the role would never be billed, so it may be let past it."""
    run(f"alter role {reader} bypassrls")
    assert unsafe() == []


def test_of_many_tables_some_are_named(run: Run, reader: str, unsafe: Callable[[], list[str]]) -> None:
    """Three names and the count: nobody reads a list of hundreds."""
    for number in range(1, 6):
        run(f'create table "Log {number}" (id int)')
    run(f"grant insert on all tables in schema public to {reader}")
    [sentence] = unsafe()
    assert (
        'may write to 6 tables and sequences (public."Log 1", public."Log 2", public."Log 3", ...)'
        in sentence
    )


@pytest.mark.parametrize("inherits", ["inherit true", "inherit false"])
def test_a_role_is_what_it_can_become(
    run: Run, role: Callable[[str], str], reader: str, unsafe: Callable[[], list[str]], inherits: str
) -> None:
    """A query may take another role with set_config: what that one may do counts, inherited or not."""
    boss = role("")
    run(f"grant insert on usage to {boss}")
    run(f"grant {boss} to {reader} with {inherits}")
    [sentence] = unsafe()
    assert "may write to" in sentence
    run(f"alter role {boss} createrole")
    assert any(f"can become {boss}, which may make" in sentence for sentence in unsafe())
    run(f"alter role {boss} superuser")
    [sentence] = unsafe()
    assert f"can become superuser {boss}" in sentence


def test_what_everybody_may_do_to_the_system_is_left_out(
    run: Run, reader: str, unsafe: Callable[[], list[str]]
) -> None:
    """Views of the catalogue are updatable by all, and other sessions' temporary tables are theirs."""
    run("create temporary table scratch (id int)")
    run("grant insert on scratch to public")
    assert unsafe() == []


# What `check` makes of it


def findings(directory: Path, url: str) -> list[Finding]:
    path = directory / "config.yaml"
    path.write_text(CONFIG.format(url=url))
    return list(_sources(load(path, {}), None, {}))


def test_check_refuses_a_role_that_may_write(tmp_path: Path, source_url: str, run: Run, reader: str) -> None:
    """Each power is one thing to put right; the queries are tried all the same."""
    run(f"grant insert on usage to {reader}")
    run(f"grant pg_signal_backend to {reader}")
    found = findings(tmp_path, as_role(source_url, reader))
    assert [(each.what, each.verdict) for each in found] == [
        ("source app", "wrong"),
        ("source app", "wrong"),
        ("meter requests", "ok"),
    ]


def test_check_is_content_with_the_documented_role(tmp_path: Path, source_url: str, reader: str) -> None:
    """It reads, it sees when transactions began, and nothing else is to be said."""
    found = findings(tmp_path, as_role(source_url, reader))
    assert [(each.what, each.verdict) for each in found] == [("source app", "ok"), ("meter requests", "ok")]


def test_check_tells_that_starts_are_not_seen(tmp_path: Path, source_url: str, run: Run, reader: str) -> None:
    """A note and no fault: reading again finds what it does not wait for."""
    run(f"revoke pg_read_all_stats from {reader}")
    found = findings(tmp_path, as_role(source_url, reader))
    assert [each.verdict for each in found] == ["ok", "note", "ok"]
    assert "`grant pg_read_all_stats`" in found[1].text


def test_check_names_what_another_database_cannot_promise(tmp_path: Path) -> None:
    """SQLite is only ever read; of it there is nothing to tell."""
    (tmp_path / "app.db").touch()
    found = findings(tmp_path, f"sqlite:///{tmp_path / 'app.db'}")
    assert found[0][:2] == ("source app", "ok")
    assert not any(each.verdict == "note" and each.what == "source app" for each in found)
