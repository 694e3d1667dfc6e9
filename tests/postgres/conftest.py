from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql

from aggregator.ledger.database import Database
from tests.postgres.replication import Connection, Pair, administered, at_work
from tests.postgres.servers import as_role
from tests.postgres.world import World


@pytest.fixture
def database(ledger_url: str) -> Iterator[Database]:
    """A fresh ledger, open."""
    with Database(ledger_url) as database:
        yield database


@pytest.fixture
def world(database: Database) -> World:
    """One daemon on a fresh ledger."""
    return World(database)


@pytest.fixture
def primary(pair: Pair) -> Iterator[Connection]:
    """The application at work on the primary of a module's pair of servers."""
    with at_work(pair) as connection:
        yield connection


@pytest.fixture
def follower(pair: Pair) -> Iterator[Connection]:
    """An administrator of the standby."""
    with administered(pair) as connection:
        yield connection


@pytest.fixture
def plain_role_url(ledger_url: str) -> Iterator[str]:
    """The ledger, as a role that may use it, does not own it, and sees no session but its own. For tests marked `direct`."""
    with psycopg.connect(ledger_url, autocommit=True) as owner:
        name = f"plain_{owner.info.dbname}"
        role = sql.Identifier(name)
        owner.execute(sql.SQL("create role {} login").format(role))
        owner.execute(sql.SQL("grant usage on schema aggregator to {}").format(role))
        for what in ("tables", "sequences"):
            owner.execute(
                sql.SQL("grant all on all {} in schema aggregator to {}").format(sql.SQL(what), role)
            )
        yield as_role(ledger_url, name)
        owner.execute(sql.SQL("drop owned by {}").format(role))
        owner.execute(sql.SQL("drop role {}").format(role))
