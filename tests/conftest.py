"""What every test may ask for: a real Postgres, and databases of its own in it.

One embedded server serves the whole run, shared by the workers. A ledger is cloned from a migrated template, so that each
test has its own and none sees another's rows.
"""

import gc
import os
import shutil
import signal
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psycopg
import pytest
import structlog
from hypothesis import HealthCheck, settings
from psycopg import sql

from aggregator.ledger.database import migrate
from aggregator.runtime.embedded_postgres import EmbeddedPostgres
from tests.object_store import Store, bucket_in, store_running
from tests.pooler import Pooler, missing, pgbouncer
from tests.spark import MISSING as WITHOUT_SPARK
from tests.spark import Spark, spark

settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

HERE, LONG = Path(__file__).parent, {"system", "simulation"}
LAST_SHARE = 0.25
"""The part at the end of a run in which nothing long begins."""

TEMPLATE = "ledger_template"
IN_MEMORY, ROOM_NEEDED = Path("/dev/shm"), 4 << 30
"""Where a database costs no disk: a database of a test is gone before it need be written."""

UNSAFE_AND_FAST = ("fsync = off", "synchronous_commit = off", "full_page_writes = off")


def pytest_configure(config: pytest.Config) -> None:
    """Declare our markers, and hear signals: who starts us in the background may have some ignored, and so our children."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGQUIT, signal.SIG_DFL)
    gc.disable()
    config.addinivalue_line("markers", "direct: reaches its databases without a pooler in any case")
    config.addinivalue_line(
        "markers", "sessions: is about sessions; with a pooler, it runs without one as well"
    )


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add what the proofs take from the command line."""
    parser.addoption("--kills", type=int, default=4, help="How often `aggregator selftest` kills the daemon.")
    parser.addoption(
        "--changes", type=int, default=24, help="How many units are changed for a reconciliation to find."
    )
    parser.addoption("--seed", type=int, default=1, help="At which places they are changed.")
    parser.addoption(
        "--through-pgbouncer",
        action="store_true",
        help="Let tests/postgres reach every ledger and source through pgbouncer in transaction mode, if it is installed.",
    )


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Spread those that take long, in whatever order otherwise.

    Most of them wait for processes, and so belong beside others that compute. Short ones fill up the end of a run by several
    workers.
    """
    long = [item for item in items if item.path.relative_to(HERE).parts[0] in LONG]
    others = [item for item in items if item.path.relative_to(HERE).parts[0] not in LONG]
    spread = [(number / len(long) * (1 - LAST_SHARE), item) for number, item in enumerate(long)]
    spread += [(number / len(others), item) for number, item in enumerate(others)]
    items[:] = [item for _, item in sorted(spread, key=lambda each: each[0])]


def pytest_collection_finish() -> None:
    """All that was collected stays until the end: nobody need look for garbage in it, neither meanwhile nor ever after."""
    gc.freeze()
    gc.enable()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say that a run which should have gone through a pooler did not."""
    if config.getoption("--through-pgbouncer") and (reason := missing()):
        terminalreporter.write_line(f"Ledgers and sources were reached directly: {reason}")


@pytest.fixture(scope="session")
def spark_server() -> Iterator[Spark]:
    """Give the one server of Spark that a run has; tests that ask for it belong to the group `spark`."""
    if WITHOUT_SPARK is not None:
        pytest.skip(WITHOUT_SPARK)
    with spark() as server:
        yield server


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing in the environment of whoever runs the tests reaches them."""
    for name in list(os.environ):
        if name.startswith(("AGGREGATOR_", "AWS_", "STRIPE_", "METRONOME_", "PG")):
            monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def _log_as_before() -> Iterator[None]:
    """Whatever a test does with the log of this process, the next one finds it as it was."""
    before = structlog.get_config()
    yield
    structlog.configure(**before)


@pytest.fixture(scope="session")
def postgres() -> Iterator[EmbeddedPostgres]:
    """A running Postgres, shared by all workers of this run; the last one to leave clears it away."""
    with shared_postgres("fast", UNSAFE_AND_FAST) as server:
        yield server


def in_memory() -> Path:
    """Return where what lasts as long as a test costs no disk; without room there, where all files of a moment are."""
    roomy = IN_MEMORY.is_dir() and shutil.disk_usage(IN_MEMORY).free > ROOM_NEEDED
    return IN_MEMORY if roomy else Path(tempfile.gettempdir())


@contextmanager
def shared_postgres(name: str, settings: Sequence[str]) -> Iterator[EmbeddedPostgres]:
    """Run or join this run's Postgres of a name; `settings` are made by whoever comes first."""
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID") or str(os.getpid())
    home = in_memory() / f"aggregator-tests-{run[:12]}-{name}"
    home.mkdir(exist_ok=True)
    with EmbeddedPostgres(home / "pg") as server:
        _prepare(server, settings)
        yield server
    if not (home / "pg" / "postmaster.pid").exists():
        shutil.rmtree(home, ignore_errors=True)


def _prepare(server: EmbeddedPostgres, settings: Sequence[str]) -> None:
    """Set the server up and give it the template, once; the first worker does it while the others wait."""
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute("select pg_advisory_lock(1)")
        if connection.execute("select 1 from pg_database where datname = %s", [TEMPLATE]).fetchone():
            return
        for setting in settings:
            connection.execute(f"alter system set {setting}")
        connection.execute("select pg_reload_conf()")
        connection.execute("create database in_the_making")
        migrate(server.url("in_the_making"))
        connection.execute(f"alter database in_the_making rename to {TEMPLATE}")


@pytest.fixture
def create_database(postgres: EmbeddedPostgres) -> Iterator[Callable[[str | None], str]]:
    """Make fresh databases, by template or empty, and drop them when the test ends."""
    names: list[str] = []

    def create(template: str | None = None) -> str:
        name = f"test_{uuid.uuid4().hex[:12]}"
        statement = sql.SQL("create database {}").format(sql.Identifier(name))
        if template:
            # Nothing is synced here, so to copy its files costs less than to write them to the log page by page.
            statement += sql.SQL(" template {} strategy file_copy").format(sql.Identifier(template))
        with psycopg.connect(postgres.url(), autocommit=True) as connection:
            connection.execute(statement)
        names.append(name)
        return postgres.url(name)

    yield create
    with psycopg.connect(postgres.url(), autocommit=True) as connection:
        for name in names:
            connection.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


@pytest.fixture(scope="session")
def poolers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[EmbeddedPostgres], Pooler]]:
    """Run poolers, one per server that is asked for."""
    running: dict[Path, Pooler] = {}
    with ExitStack() as stack:

        def pooler_of(server: EmbeddedPostgres) -> Pooler:
            if server.directory not in running:
                files = tmp_path_factory.mktemp("pooler")
                running[server.directory] = stack.enter_context(pgbouncer(server, files))
            return running[server.directory]

        yield pooler_of


@pytest.fixture
def pooler(postgres: EmbeddedPostgres, poolers: Callable[[EmbeddedPostgres], Pooler]) -> Pooler:
    """A pgbouncer in transaction mode in front of the Postgres; skips where there is none, and says why."""
    reason = missing()
    if reason is not None:
        pytest.skip(reason)
    return poolers(postgres)


@pytest.fixture
def reached() -> Callable[[str], str]:
    """How a test reaches a database, by its URL: directly. Those of `tests/postgres` have another way."""
    return str


@pytest.fixture
def ledger_url(create_database: Callable[[str | None], str], reached: Callable[[str], str]) -> str:
    """A fresh, migrated ledger."""
    return reached(create_database(TEMPLATE))


@pytest.fixture
def source_url(create_database: Callable[[str | None], str], reached: Callable[[str], str]) -> str:
    """A fresh, empty application database."""
    return reached(create_database(None))


@pytest.fixture
def state_directory(tmp_path: Path) -> Path:
    """A state directory of the test's own."""
    return tmp_path / "state"


@pytest.fixture(scope="session")
def store_url() -> Iterator[str]:
    """A running object store."""
    with store_running() as url:
        yield url


@pytest.fixture
def store(store_url: str) -> Iterator[Store]:
    """A bucket of the test's own."""
    with bucket_in(store_url) as store:
        yield store
