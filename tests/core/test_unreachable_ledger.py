"""How long a command waits for a ledger that cannot be reached: for how long it decides to, whatever the clock shows."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from psycopg_pool import ConnectionPool, PoolTimeout

from aggregator.cli import cli
from aggregator.errors import LedgerUnreachable
from aggregator.ledger.database import Database, ledger_id_of

NOWHERE = "postgresql://app@127.0.0.1:1/ledger"
"""Nobody listens there, and the system says so at once."""

CONFIG = f"""
ledger: {{url: "{NOWHERE}", migrate: false}}
sources: {{app: {{url: "sqlite:///app.db"}}}}
sinks: {{stripe: {{type: stripe, mode: test, api_key: sk_test_1}}}}
meters:
  requests:
    source: app
    sinks: [stripe]
    window: 1h
    delay: 5m
    start_at: 2026-11-01T00:00Z
    query: "select customer, 1 as quantity from usage where used_at >= :start and used_at < :end"
"""

AT_MOST_SECONDS = 10
"""What documentation and people count with."""


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """Let no session be had, and note for how long each was to be waited for."""
    noted: list[float] = []

    def connection(pool: ConnectionPool, timeout: float | None = None) -> None:
        noted.append(pool.timeout if timeout is None else timeout)
        raise PoolTimeout

    monkeypatch.setattr(ConnectionPool, "connection", connection)
    yield noted
    assert noted, "nobody asked for a session"
    assert max(noted) <= AT_MOST_SECONDS


def test_which_ledger_it_is_is_asked_with_little_patience(waits: list[float]) -> None:
    """That is asked first of all: no session can be in use by then, so there is nothing to wait for but one try."""
    with Database(NOWHERE) as database, pytest.raises(LedgerUnreachable):
        ledger_id_of(database)


@pytest.mark.parametrize(
    "command", ["status", "usage", "meters diff --ledger", "grants --check", "run --once"]
)
def test_a_command_that_cannot_reach_its_ledger_says_so_soon(
    waits: list[float], tmp_path: Path, command: str
) -> None:
    """Whichever it is, and it waits once."""
    path = tmp_path / "aggregator.yaml"
    path.write_text(CONFIG)
    ran = CliRunner().invoke(cli, [*command.split(), "--config", str(path)])
    assert isinstance(ran.exception, LedgerUnreachable), ran.output
    assert "check `ledger.url`" in str(ran.exception)
    assert len(waits) == 1
