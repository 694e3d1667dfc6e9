"""A real ledger whose synchronous standby goes away: what waits for it is said, and so is that it is over."""

import io
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, LiteralString, NamedTuple, cast

import psycopg
import pytest
from click.testing import CliRunner

from aggregator.cli import cli
from aggregator.daemon.watchdog import Watching
from aggregator.ledger.clock import LedgerClock
from aggregator.ledger.database import Database, migrate
from aggregator.ledger.identity import LedgerIdentity
from aggregator.ledger.waits import Phase, Underway
from aggregator.runtime import log
from aggregator.runtime.claim_counter import ClaimCounter
from aggregator.runtime.clock import monotonic, utcnow
from aggregator.runtime.embedded_postgres import EmbeddedPostgres
from tests.postgres.configured import written
from tests.postgres.servers import home, server, standby
from tests.postgres.world import MINUTE

pytestmark = [pytest.mark.xdist_group("slow_ledger"), pytest.mark.sessions]

LONG_SECONDS = 60.0
"""Far longer than anything takes here that takes place at all."""


class Pair(NamedTuple):
    """A ledger's server, whose every commit a standby has to confirm, and the directory of that."""

    primary: EmbeddedPostgres
    follower: Path


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    """A primary and a standby that has confirmed its commits; by now the standby is down."""
    with home() as directory, server(directory / "primary") as primary:
        migrate(primary.url())
        with Database(primary.url()) as database:
            LedgerIdentity(database, ClaimCounter(directory / "state")).check(utcnow())
        with (
            standby(primary, directory / "standby"),
            psycopg.connect(primary.url(), autocommit=True) as connection,
        ):
            connection.execute("alter system set synchronous_standby_names = '*'")
            connection.execute("select pg_reload_conf()")
            connection.execute("create table confirmed ()")
        yield Pair(primary, directory / "standby")


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Call something slow sooner than in earnest."""
    monkeypatch.setattr("aggregator.ledger.waits.SLOW_SECONDS", 0.5)
    monkeypatch.setattr("aggregator.ledger.database.SLOW_SECONDS", 0.5)


@pytest.fixture
def database(pair: Pair) -> Iterator[Database]:
    """The way into that ledger."""
    with Database(pair.primary.url(), clock=LedgerClock(MINUTE)) as opened:
        with opened.transaction():
            pass
        yield opened


@pytest.fixture
def committing(pair: Pair, database: Database) -> Iterator[threading.Thread]:
    """What writes to the ledger until a commit waits, and at the end no more."""
    enough = threading.Event()

    def write() -> None:
        while not enough.is_set():
            with database.transaction() as connection:
                connection.execute("update aggregator.identity set claims_made = claims_made + 1")
            enough.wait(0.05)

    tell(pair, "alter system set synchronous_standby_names = '*'")
    thread = threading.Thread(target=write)
    thread.start()
    until(database.waiting)
    enough.set()
    yield thread
    let_go(pair)
    thread.join(LONG_SECONDS)


def let_go(pair: Pair) -> None:
    """Let the primary do without its standby."""
    tell(pair, "alter system reset synchronous_standby_names")


def tell(pair: Pair, setting: LiteralString) -> None:
    """Change a setting of the primary's."""
    with psycopg.connect(pair.primary.url(), autocommit=True) as connection:
        connection.execute(setting)
        connection.execute("select pg_reload_conf()")


def looked_at(database: Database) -> str | None:
    """Look for waits once, and return what is slow."""
    database.look_for_waits()
    return database.slow()


def until(holds: Callable[[], object]) -> None:
    """Wait until something holds."""
    end = monotonic() + LONG_SECONDS
    while not holds():
        assert monotonic() < end, "it does not come to that"


def test_a_commit_that_no_standby_confirms_is_said_once_and_when_it_is_over(
    pair: Pair, database: Database, committing: threading.Thread
) -> None:
    """With what it waits for, as another session sees it; and readiness turns for as long as it lasts."""
    said = io.StringIO()
    log.configure(stream=said)
    watching = Watching(database, cast("Any", _Quiet()), lambda: None, utcnow)

    def slow() -> str | None:
        watching.look_at_ledger()
        return database.slow()

    until(slow)
    reason = slow()
    assert reason is not None
    assert "SyncRep" in reason
    assert "synchronous_standby_names" in reason
    assert committing.is_alive()
    let_go(pair)
    committing.join(LONG_SECONDS)
    assert slow() is None
    lines = [json.loads(line) for line in said.getvalue().splitlines()]
    assert [line["event"] for line in lines] == [log.LEDGER_SLOW, log.LEDGER_IN_TIME]
    assert "to be committed" in lines[0]["reason"]


@pytest.mark.parametrize("command", ["status", "check"])
def test_another_process_shows_what_waits(
    pair: Pair,
    database: Database,
    committing: threading.Thread,
    command: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`status` and `check` see the sessions of ours that wait in the ledger, whoever's they are."""
    monkeypatch.setattr("aggregator.wiring.opening.unfit", lambda opened: [])
    assert committing.is_alive()
    path = written(tmp_path, pair.primary.url(), f"type: directory, directory: '{tmp_path}/folder'")
    shown = CliRunner().invoke(cli, [command, "--config", str(path), "--json"])
    assert "SyncRep" in shown.output
    assert '"aggregator"' in shown.output or "aggregator has waited" in shown.output


def test_a_lock_that_is_waited_for_is_seen_and_long_work_is_not(pair: Pair, database: Database) -> None:
    """What a transaction does may take its time: it is slow only if the server says that it waits."""
    let_go(pair)
    with psycopg.connect(pair.primary.url()) as holder:
        holder.execute("lock table aggregator.meter")

        def wait() -> None:
            with database.transaction() as connection:
                connection.execute("select count(*) from aggregator.meter")

        thread = threading.Thread(target=wait)
        thread.start()
        until(database.waiting)
        until(lambda: looked_at(database))
        assert "Lock: relation" in str(database.slow())
    thread.join(LONG_SECONDS)
    database.look_for_waits()
    assert database.slow() is None

    def work() -> None:
        with database.transaction() as connection:
            connection.execute("select pg_sleep(1.5)")

    thread = threading.Thread(target=work)
    thread.start()
    until(database._underway.overdue)
    database.look_for_waits()
    assert database.slow() is None
    thread.join(LONG_SECONDS)


def test_where_a_transaction_stands_is_counted_from_there() -> None:
    """A commit is not called slow because the work before it took long."""
    now = [0.0]
    underway = Underway(lambda: now[0])
    with underway.transaction() as comparisons:
        now[0] = 5.0
        assert "to be opened" in str(underway.slow())
        comparisons(Phase.WORKING)
        now[0] = 100.0
        assert underway.slow() is None
        assert underway.overdue()
        underway.found("It waits for a lock.")
        assert underway.slow() == "It waits for a lock."
        comparisons(Phase.COMMITTING)
        assert underway.slow() is None
        now[0] = 107.0
        assert str(underway.slow()).startswith(
            "A transaction of the ledger has waited for 7 s to be committed."
        )
    assert underway.slow() is None
    assert not underway.overdue()


class _Quiet:
    """A ledger whose clock goes forward."""

    def clock_set_back(self, now: object) -> str | None:
        """Go forward."""
        assert now is not None
        return None
