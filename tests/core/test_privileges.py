"""What roles of the ledger's database get is what our statements need, and the SQL that is printed says so."""

import re
from itertools import chain
from pathlib import Path

from aggregator.ledger.privileges import (
    DELETED,
    INSERTED,
    SEQUENCE,
    UPDATED,
    Kind,
    Names,
    roles_sql,
    tables_sql,
    wanted,
)

ROOT = Path(__file__).parents[2]
STATEMENTS = "\n".join(path.read_text() for path in sorted((ROOT / "aggregator" / "ledger").rglob("*.py")))
SCHEMA = "\n".join(path.read_text() for path in sorted((ROOT / "migrations" / "versions").glob("*.py")))
TABLES = set(re.findall(r"create table aggregator\.(\w+)", SCHEMA))

UPSERT = r"insert into aggregator\.(\w+)(?:(?!\"\"\"|\binsert into\b)[\s\S])*?\bdo update\b"


def named(*patterns: str) -> set[str]:
    """Return the tables that statements name so."""
    return set(chain.from_iterable(re.findall(pattern, STATEMENTS) for pattern in patterns)) & TABLES


def test_the_daemon_inserts_where_statements_do() -> None:
    """Into no other table: one that is new in a migration is named here, or nobody may fill it."""
    assert named(r"insert into aggregator\.(\w+)") == INSERTED


def test_the_daemon_updates_where_statements_do() -> None:
    """One that is there already when it is inserted counts, too. Each that is locked is also updated."""
    assert named(r"(?<!for )update aggregator\.(\w+)", UPSERT) == UPDATED


def test_the_daemon_deletes_where_statements_do() -> None:
    """So no role of ours can delete an event, a claim, an attempt or a decision: they are what a bill rests on."""
    assert named(r"delete from aggregator\.(\w+)") == DELETED
    assert not DELETED & {"event", "claim", "attempt", "decision", "identity", "configuration"}


def test_a_reader_may_read_and_nothing_else() -> None:
    """Whatever the table is; the daemon reads each as well."""
    assert {wanted(Kind.READER, table) for table in TABLES} == {frozenset({"select"})}
    assert wanted(Kind.DAEMON, "attempt") == {"select", "insert"}
    assert wanted(Kind.DAEMON, "outbox") == {"select", "insert", "update", "delete"}


def test_one_sequence_is_drawn_from() -> None:
    """Those of identity columns need no right."""
    assert re.findall(r"create sequence aggregator\.(\w+)", SCHEMA) == [SEQUENCE]


def test_the_sql_names_roles_as_they_are_called() -> None:
    """Whatever is in a name, it stays a name."""
    names = Names("o", 'a "daemon"; drop table x', "r")
    assert 'create role "a ""daemon""; drop table x" login;' in roles_sql(names, "ledger")
    said = tables_sql(names)
    assert 'grant usage on sequence aggregator.event_id to "a ""daemon""; drop table x";' in said
    assert re.findall(r'to .*"r"', said) == ['to "a ""daemon""; drop table x", "r"'] * 2
