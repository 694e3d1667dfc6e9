"""What a server, a database or a role sets by default makes no difference to what we do on a session."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal

import psycopg
import pytest
from psycopg import sql

from aggregator.errors import LedgerError, LedgerUnreachable
from aggregator.ledger.database import Database, ledger_id_of, migrate, remarks
from tests.conftest import TEMPLATE
from tests.postgres.servers import as_role
from tests.postgres.world import World

pytestmark = pytest.mark.sessions

STRANGE = {
    "default_transaction_isolation": "serializable",
    "default_transaction_read_only": "on",
    "default_transaction_deferrable": "on",
    "TimeZone": "Asia/Kathmandu",
    "DateStyle": "German, DMY",
    "IntervalStyle": "sql_standard",
    "client_encoding": "LATIN1",
    "extra_float_digits": "-15",
    "bytea_output": "escape",
    "standard_conforming_strings": "off",
    "array_nulls": "off",
    "search_path": "nowhere",
    "synchronous_commit": "off",
    "statement_timeout": "7s",
    "lock_timeout": "3s",
    "idle_in_transaction_session_timeout": "5s",
    "transaction_timeout": "9s",
}
"""What another program of the same database may have asked for."""

OURS = {
    "transaction_isolation": "read committed",
    "transaction_read_only": "off",
    "transaction_deferrable": "off",
    "TimeZone": "UTC",
    "DateStyle": "ISO, MDY",
    "IntervalStyle": "postgres",
    "client_encoding": "UTF8",
    "extra_float_digits": "1",
    "bytea_output": "hex",
    "standard_conforming_strings": "on",
    "array_nulls": "on",
    "search_path": "pg_catalog, pg_temp",
    "row_security": "off",
    "synchronous_commit": "on",
    "statement_timeout": "5min",
    "lock_timeout": "30s",
    "idle_in_transaction_session_timeout": "1min",
    "transaction_timeout": "0",
}
"""What holds in each of our transactions whatever that is."""

SCOPES = {
    "database": "alter database {database} set {name} = {value}",
    "role": "alter role current_user in database {database} set {name} = {value}",
}

Create = Callable[[str | None], str]


def set_all(url: str, settings: dict[str, str], scope: str) -> None:
    """Let a database, or a role in it, have settings of its own. On a connection of its own, around any pooler."""
    with psycopg.connect(url, autocommit=True) as connection:
        for name, value in settings.items():
            statement = sql.SQL(SCOPES[scope]).format(
                database=sql.Identifier(connection.info.dbname),
                name=sql.Identifier(name),
                value=sql.SQL(", ").join(map(sql.Literal, value.split(", "))),
            )
            connection.execute(statement)


def work(url: str) -> None:
    """Let two daemons do a whole round: read, plan, send, correct what changed, and be told of a lost answer."""
    with Database(url) as database:
        world = World(database)
        world.source.use("cus_ä", world.at(0.5), 3)
        world.at(2)
        world.collect()
        assert world.deliver().accepted == 1
        other = world.beside()
        other.source.use("cus_ä", world.at(0.7), Decimal("0.25"))
        other.source.use("cus_b", world.at(0.7), 4)
        other.at(3)
        other.collect()
        other.deliver()
        assert (world.booked("cus_ä"), world.booked("cus_b")) == (3, 4)
        world.check_balance()


def until_gone(database: Database, pid: int) -> None:
    """Wait until the server has ended a session."""
    for _ in range(2_000):
        with database.transaction() as other:
            gone = other.execute("select from pg_stat_activity where pid = %s", [pid]).fetchone() is None
        if gone:
            return
    raise AssertionError("the session is still there")


@pytest.mark.parametrize("scope", SCOPES)
def test_what_we_rely_on_is_set_with_every_transaction(
    create_database: Create, reached: Callable[[str], str], scope: str
) -> None:
    """Whatever the database or the role defaults to, each transaction has what we need, and a round comes out right."""
    direct = create_database(TEMPLATE)
    set_all(direct, STRANGE, scope)
    with Database(reached(direct)) as database, database.transaction() as connection:
        found = {name: connection.execute(f"show {name}").fetchone() for name in OURS}
    assert found == {name: (value,) for name, value in OURS.items()}
    work(reached(direct))


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("name", STRANGE)
def test_no_single_setting_makes_a_difference(
    create_database: Create, reached: Callable[[str], str], name: str, scope: str
) -> None:
    """Each of them alone: none is hidden behind another."""
    direct = create_database(TEMPLATE)
    set_all(direct, {name: STRANGE[name]}, scope)
    work(reached(direct))


@pytest.mark.parametrize("scope", SCOPES)
def test_a_ledger_is_made_whatever_the_defaults(
    create_database: Create, reached: Callable[[str], str], scope: str
) -> None:
    """Migrations set for themselves what they rely on, too."""
    direct = create_database(None)
    set_all(direct, STRANGE, scope)
    migrate(reached(direct))
    migrate(reached(direct))
    work(reached(direct))


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
def test_two_that_count_a_claim_at_once_do_not_fail_each_other(
    create_database: Create, reached: Callable[[str], str], level: str
) -> None:
    """Whatever isolation a database defaults to, the second goes on from what the first has committed."""
    direct = create_database(TEMPLATE)
    set_all(direct, {"default_transaction_isolation": level}, "database")
    look, count = (
        "select claims_made from aggregator.identity",
        "update aggregator.identity set claims_made = claims_made + 1 returning claims_made",
    )
    with Database(reached(direct)) as database, database.transaction() as second:
        assert second.execute(look).fetchone() == (0,)
        with database.transaction() as first:
            first.execute(count)
        assert second.execute(count).fetchone() == (2,)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        (
            "idle_in_transaction_session_timeout",
            "it stood idle for too long, as when this process was paused",
        ),
        ("transaction_timeout", "because of a `transaction_timeout`"),
    ],
)
def test_a_transaction_that_the_server_ended_is_told_as_that(
    ledger_url: str, setting: str, words: str
) -> None:
    """It may pass by itself, whatever we asked just then; and the next transaction works."""

    def wait_and_ask(database: Database) -> None:
        with database.transaction() as connection:
            row = connection.execute(
                "select pg_backend_pid(), set_config(%s, '20ms', true)", [setting]
            ).fetchone()
            assert row is not None
            until_gone(database, row[0])
            connection.execute("select 1")

    with Database(ledger_url) as database:
        with pytest.raises(LedgerUnreachable, match=f"{words}; nothing of it was written"):
            wait_and_ask(database)
        assert ledger_id_of(database)


def test_a_pool_that_is_used_up_says_since_when(ledger_url: str) -> None:
    """What is said is what is the case: all in use, and for how long."""
    with Database(ledger_url, size=1) as database:
        database._pool.timeout = 0.05
        with (
            database.transaction(),
            pytest.raises(LedgerUnreachable, match=r"all 1 connections .* the oldest for \d+ s"),
        ):
            remarks(database)


def test_a_default_of_reading_only_is_worth_a_word(
    create_database: Create, reached: Callable[[str], str]
) -> None:
    """Somebody may have frozen the database on purpose: the ledger is written all the same, and that is said."""
    direct = create_database(TEMPLATE)
    with Database(reached(direct)) as database:
        assert remarks(database) == []
    set_all(direct, {"default_transaction_read_only": "on"}, "role")
    with psycopg.connect(direct, autocommit=True) as connection:
        connection.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where datname = current_database() and pid <> pg_backend_pid()"
        )
    with Database(reached(direct)) as database:
        assert "default_transaction_read_only" in " ".join(remarks(database))


def test_connections_that_were_lost_are_not_said_to_be_in_use(ledger_url: str) -> None:
    """The server is there again, and the pool is only about to find that out."""
    with Database(ledger_url, size=1) as database:
        assert "those we had were lost" in database._reason()


@pytest.mark.direct
def test_rows_that_a_policy_would_hide_are_an_error(postgres_role: tuple[str, str]) -> None:
    """A ledger whose rows its role may not all see says so, and is not taken for one that has none."""
    direct, url = postgres_role
    with psycopg.connect(direct, autocommit=True) as owner:
        owner.execute("alter table aggregator.identity enable row level security")
    with (
        Database(url) as database,
        pytest.raises(LedgerError, match="let the role own the tables, or give it `bypassrls`"),
    ):
        ledger_id_of(database)


@pytest.fixture
def postgres_role(create_database: Create) -> Iterator[tuple[str, str]]:
    """A ledger, as its owner and as a role that may use it and does not own it."""
    direct = create_database(TEMPLATE)
    with _role(direct) as role:
        yield direct, as_role(direct, role)


@contextmanager
def _role(direct: str) -> Iterator[str]:
    with psycopg.connect(direct, autocommit=True) as owner:
        role = f"plain_{owner.info.dbname}"
        owner.execute(sql.SQL("create role {} login").format(sql.Identifier(role)))
        owner.execute(sql.SQL("grant usage on schema aggregator to {}").format(sql.Identifier(role)))
        owner.execute(
            sql.SQL("grant all on all tables in schema aggregator to {}").format(sql.Identifier(role))
        )
        try:
            yield role
        finally:
            owner.execute(sql.SQL("drop owned by {}").format(sql.Identifier(role)))
            owner.execute(sql.SQL("drop role {}").format(sql.Identifier(role)))
