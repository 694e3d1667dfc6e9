"""A password that is rotated in its file: it is read again, and nothing has to be restarted."""

import datetime as dt
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from aggregator.config import load
from aggregator.config.rotated import url_now
from aggregator.errors import LedgerUnreachable, SourceUnreachable
from aggregator.ledger.database import Database
from aggregator.runtime.embedded_postgres import EmbeddedPostgres
from aggregator.source import Source
from tests.postgres.servers import home

pytestmark = pytest.mark.direct

ROLE = "rotating"

CONFIG = """
ledger: {url_file: secret}
sources:
  app: {url_file: secret}
sinks:
  stripe: {type: stripe, api_key: sk_test_1, mode: test}
meters:
  requests:
    source: app
    sinks: [stripe]
    window: 1h
    start_at: 2026-11-01T00:00Z
    query: "select customer, quantity from usage where used_at >= :start and used_at < :end"
"""


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of its own that asks one role for its password; gives what stands behind the password in its URL."""
    with home() as directory, EmbeddedPostgres(directory / "pg") as server:
        with psycopg.connect(server.url(), autocommit=True) as connection:
            connection.execute(f"create role {ROLE} superuser login password 'first-password'")
            [(path,)] = connection.execute("show hba_file").fetchall()
            text = Path(path).read_text()
            Path(path).write_text(
                f"local all {ROLE} scram-sha-256\nhost all {ROLE} all scram-sha-256\n{text}"
            )
            connection.execute("select pg_reload_conf()")
        yield server.url()


def with_password(url: str, password: str) -> str:
    """Return the URL for the role that is asked for its password."""
    return "postgresql://" + f"{ROLE}:{password}@" + url.partition("://")[2].rpartition("@")[2]


def rotate(url: str, file: Path, password: str) -> None:
    """Change the password, and then what stands in the file."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"alter role {ROLE} password '{password}'")
    file.write_text(with_password(url, password) + "\n")


def test_a_source_takes_up_a_password_that_was_rotated(guarded: str, tmp_path: Path) -> None:
    """Its login fails, the file is read again, and the new password is neither shown nor the old one used."""
    file = tmp_path / "secret"
    rotate(guarded, file, "first-password")
    (tmp_path / "aggregator.yaml").write_text(CONFIG)
    configured = load(tmp_path / "aggregator.yaml", {}).sources["app"]
    source = Source(
        "app",
        configured.url_revealed(),
        statement_timeout=dt.timedelta(seconds=20),
        url_now=lambda: url_now(configured),
    )
    source.ping()
    rotate(guarded, file, "second-password")
    source.ping()
    file.write_text(with_password(guarded, "third-password"))
    with psycopg.connect(guarded, autocommit=True) as connection:
        connection.execute(f"alter role {ROLE} password 'fourth-password'")
    with pytest.raises(SourceUnreachable, match="password authentication failed") as caught:
        source.ping()
    assert "third-password" not in str(caught.value)
    file.write_text("no URL at all")
    with pytest.raises(SourceUnreachable):
        source.ping()


def test_a_ledger_takes_up_a_password_that_was_rotated(guarded: str, tmp_path: Path) -> None:
    """New connections are made with what the file holds by then; those that are open go on."""
    file = tmp_path / "secret"
    rotate(guarded, file, "first-password")
    (tmp_path / "aggregator.yaml").write_text(CONFIG)
    configured = load(tmp_path / "aggregator.yaml", {}).ledger
    url = configured.url_revealed()
    assert url is not None
    with Database(url, size=1, url_now=lambda: url_now(configured)) as database:
        with database.transaction() as connection:
            assert connection.execute("select 1").fetchone() == (1,)
        rotate(guarded, file, "second-password")
        with psycopg.connect(guarded, autocommit=True) as boss:
            boss.execute("select pg_terminate_backend(pid) from pg_stat_activity where usename = %s", [ROLE])
        for _ in range(3):  # the first may still be given the session that was ended
            try:
                with database.transaction() as connection:
                    assert connection.execute("select 2").fetchone() == (2,)
                break
            except LedgerUnreachable:
                continue
        else:
            pytest.fail("no connection by the new password")
