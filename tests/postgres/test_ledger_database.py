from collections.abc import Callable

import psycopg
import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import create_engine

from aggregator.errors import AggregatorError, LeaseLost, LedgerUnreachable
from aggregator.ledger.database import (
    REVISION,
    Connection,
    Database,
    _is_current,
    _scripts,
    identity,
    migrate,
    unfit,
)


def test_a_fresh_ledger_is_migrated_and_has_an_identity(ledger_url: str) -> None:
    """Each test's ledger is at the newest revision."""
    with Database(ledger_url) as database:
        assert identity(database).revision == REVISION
        assert unfit(database) == [
            "The ledger's Postgres may lose commits in a crash; set fsync and full_page_writes on."
        ]


def test_a_ledger_of_the_first_release_is_brought_up_to_date(source_url: str) -> None:
    """What it holds stays, meters keep the definition they had, and a second time there is nothing to do."""
    settings = Config()
    settings.set_main_option("script_location", str(_scripts()))
    engine = create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(source_url))
    with engine.begin() as connection:
        settings.attributes["connection"] = connection
        command.upgrade(settings, "0001")
    engine.dispose()
    with psycopg.connect(source_url) as connection:
        connection.execute(
            "insert into aggregator.meter (name, fingerprint, window_seconds, start_at, mark)"
            " values ('m', 'f', 3600, '2026-11-01Z', '2026-11-02Z')"
        )
    assert not _is_current(source_url)
    migrate(source_url)
    assert _is_current(source_url)
    migrate(source_url)
    with psycopg.connect(source_url) as connection:
        rows = connection.execute(
            "select since = 'epoch', fingerprint, query, window_seconds from aggregator.definition"
        ).fetchall()
    assert rows == [(True, "f", None, 3600)]


def ends(connection: Connection, error: Exception) -> None:
    """Let an administrator end the session, and then raise."""
    row = connection.execute("select pg_backend_pid()").fetchone()
    with psycopg.connect(connection.info.dsn, autocommit=True) as other:
        other.execute("select pg_terminate_backend(%s, 10000)", row)
    raise error


def raises_at_once(_: Connection, error: Exception) -> None:
    """Raise, and nothing else."""
    raise error


def raises_in_a_copy(connection: Connection, error: Exception) -> None:
    """Raise where the server waits for more."""
    with connection.cursor().copy("copy aggregator.meter (name) from stdin") as stream:
        stream.write("half a li")
        raise error


def raises_after_a_refusal(connection: Connection, error: Exception) -> None:
    """Raise where the server takes nothing more but the end."""
    with pytest.raises(psycopg.DataError):
        connection.execute("select 1 / 0")
    raise error


Act = Callable[[Connection, Exception], None]


def what_comes_of(database: Database, act: Act, error: Exception) -> Exception:
    """Return what a transaction raises in which this happens."""

    def transaction() -> None:
        with database.transaction() as connection:
            act(connection, error)

    with pytest.raises(Exception) as raised:  # noqa: PT011 - which one it is, is what we ask
        transaction()
    return raised.value


@pytest.mark.parametrize("error", [ValueError("too many values"), psycopg.ProgrammingError("no result")])
def test_a_session_that_ended_is_said_whatever_the_library_makes_of_it(
    ledger_url: str, error: Exception
) -> None:
    """Who calls may try again, and the next transaction has a session that lives."""
    with Database(ledger_url) as database:
        found = what_comes_of(database, ends, error)
        assert isinstance(found, LedgerUnreachable)
        assert f"session ended while it was used: {type(error).__name__}: {error}" in str(found)
        assert found.__cause__ is error
        assert identity(database).revision == REVISION


def test_our_own_word_is_kept_on_a_session_that_ended(ledger_url: str) -> None:
    """A lease that is lost is lost."""
    with Database(ledger_url) as database:
        lost = LeaseLost()
        assert what_comes_of(database, ends, lost) is lost


@pytest.mark.parametrize("act", [raises_at_once, raises_in_a_copy, raises_after_a_refusal])
@pytest.mark.parametrize("error", [ValueError("ours"), AggregatorError("ours")])
def test_what_our_code_raises_on_a_session_that_lives_is_kept(
    ledger_url: str, act: Act, error: Exception
) -> None:
    """A mistake of ours must not look like a server that is away."""
    with Database(ledger_url) as database:
        assert what_comes_of(database, act, error) is error
