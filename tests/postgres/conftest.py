from collections.abc import Callable, Iterator
from contextlib import ExitStack

import psycopg
import pytest
from psycopg import sql

from aggregator.ledger.database import Database
from tests.conftest import TEMPLATE
from tests.pooler import Pooler, missing
from tests.postgres.archived_world import lived
from tests.postgres.replication import Connection, Pair, administered, at_work
from tests.postgres.servers import as_role
from tests.postgres.world import World

__all__ = ["lived"]

DIRECTLY, POOLED = "directly", "pooled"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Say how a test reaches its databases: with `--through-pgbouncer` through the pooler, which promises less.

    A test marked `sessions` looks at them itself, and may meet another than it means behind a pooler: it goes both ways.
    One marked `direct` is about a role of its own, and the pooler gives everybody one; or it copies a database, which
    nobody else may be connected to.
    """
    pooled = metafunc.config.getoption("--through-pgbouncer") and missing() is None
    if pooled and "reached" in metafunc.fixturenames and not _is(metafunc, "direct"):
        ways = [DIRECTLY, POOLED] if _is(metafunc, "sessions") else [POOLED]
        metafunc.parametrize("reached", ways, indirect=True)


def _is(metafunc: pytest.Metafunc, marker: str) -> bool:
    return metafunc.definition.get_closest_marker(marker) is not None


@pytest.fixture
def reached(request: pytest.FixtureRequest) -> Callable[[str], str]:
    """How a test reaches a database, by its URL."""
    if getattr(request, "param", DIRECTLY) == DIRECTLY:
        return str
    running: Pooler = request.getfixturevalue("pooler")
    return running.url


@pytest.fixture
def database(ledger_url: str) -> Iterator[Database]:
    """A fresh ledger, open."""
    with Database(ledger_url) as database:
        yield database


@pytest.fixture
def fresh_databases(create_database: Callable[[str | None], str]) -> Iterator[Callable[[], Database]]:
    """Open as many fresh ledgers as a test wants."""
    with ExitStack() as opened:
        yield lambda: opened.enter_context(Database(create_database(TEMPLATE)))


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


NOTE_SLOTS = """
create table public.slot_changed (tx xid8, feed_id int, day timestamptz);
create table public.day_said (like public.slot_changed);
create function public.note_slot() returns trigger language plpgsql set search_path = pg_catalog as $$ begin
    insert into public.slot_changed
    values (pg_current_xact_id(), new.feed_id, date_trunc('day', new.window_start, 'UTC'));
    return null;
end $$;
create function public.note_day() returns trigger language plpgsql set search_path = pg_catalog as $$ begin
    if new.made_at is null then
        insert into public.day_said values (pg_current_xact_id(), new.feed_id, new.day);
    end if;
    return null;
end $$;
create trigger inserted after insert on aggregator.slot for each row execute function public.note_slot();
create trigger updated after update on aggregator.slot for each row
    when (old.quantity <> new.quantity or old.total <> new.total) execute function public.note_slot();
create trigger said after insert or update on aggregator.usage_day for each row execute function public.note_day();
"""


@pytest.fixture
def says_what_changed(ledger_url: str) -> Iterator[None]:
    """Whatever a test does to slots in this ledger, it is said of their days in the same transaction."""
    with psycopg.connect(ledger_url, autocommit=True) as connection:
        connection.execute(NOTE_SLOTS)
    yield
    with psycopg.connect(ledger_url, autocommit=True) as connection:
        unsaid = connection.execute("table public.slot_changed except table public.day_said").fetchall()
        assert unsaid == [], "sums of these days would be taken for good"
