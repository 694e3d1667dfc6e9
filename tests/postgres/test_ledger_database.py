from collections.abc import Callable

import psycopg
import pytest

from aggregator.errors import AggregatorError, LeaseLost, LedgerOutdated, LedgerUnreachable
from aggregator.ledger.database import (
    REVISION,
    Connection,
    Database,
    _is_current,
    ledger_id_of,
    migrate,
    unfit,
)

pytestmark = pytest.mark.sessions


def test_a_fresh_ledger_is_migrated_and_has_an_identity(ledger_url: str) -> None:
    """Each test's ledger is at the newest revision."""
    with Database(ledger_url) as database:
        assert ledger_id_of(database).revision == REVISION
        assert unfit(database) == [
            "The ledger's Postgres may lose commits in a crash; set fsync and full_page_writes on."
        ]


def test_a_ledger_is_made_once(source_url: str) -> None:
    """An empty database gets its tables; a second time there is nothing to do."""
    assert not _is_current(source_url)
    migrate(source_url)
    assert _is_current(source_url)
    migrate(source_url)


@pytest.mark.parametrize("revision", ["0010", "a_later_one"])
def test_a_ledger_at_an_unknown_revision_is_left_as_it_is(ledger_url: str, revision: str) -> None:
    """Whoever made it knows more of it: it is named with what to do, and nothing of it is changed."""
    said = f"The ledger is at revision {revision}, which this version does not know: install the version"
    with psycopg.connect(ledger_url) as connection:
        connection.execute("update aggregator.alembic_version set version_num = %s", [revision])
    with pytest.raises(LedgerOutdated, match=said):
        migrate(ledger_url)
    with psycopg.connect(ledger_url) as connection:
        assert connection.execute("select version_num from aggregator.alembic_version").fetchall() == [
            (revision,)
        ]


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
        assert ledger_id_of(database).revision == REVISION


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
