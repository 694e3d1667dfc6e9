import psycopg
from alembic import command
from alembic.config import Config
from sqlalchemy import create_engine

from aggregator.ledger.database import (
    REVISION,
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
