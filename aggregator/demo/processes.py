"""The demo's directory, and the processes that work in it.

Rules
- A demo holds its directory by a lock, and makes it anew. Nothing is ever removed that is not a demo's.
- A process holds a lock on the file with its pid, and the kernel drops the lock when the process ends. So a pid whose file
  is locked is surely that process, and what a killed demo left behind can be ended safely by the next.
- A background process has a session of its own: Ctrl-C reaches the demo, which ends the others in order.
"""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import threading
import types
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Self

from aggregator.errors import AggregatorError, UsageError
from aggregator.runtime.clock import monotonic
from aggregator.runtime.embedded_postgres import EmbeddedPostgres

STOP_SECONDS = 25.0
"""How long a process may take to end after SIGTERM; the daemon allows itself 20 for what is in the air."""

LEAVE_SECONDS = 3.0
LOOK_SECONDS = 0.05

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_pause = threading.Event()


class DemoFailed(AggregatorError):
    """The demo could not go on."""


@contextmanager
def one_signal_ends() -> Iterator[None]:
    """Turn the first signal to stop into an exception; while that is being cleaned up after, further ones wait."""

    def end(number: int, _frame: types.FrameType | None) -> None:
        for each in SIGNALS:
            signal.signal(each, signal.SIG_IGN)
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        sys.exit(128 + number)

    before = {number: signal.signal(number, end) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def fresh(directory: Path, what: str = "demo") -> Iterator[None]:
    """Hold a directory, emptied of an older demo. Raises UsageError if it is in use, or is not a demo's.

    `what` says what it is for, if not for a demo.
    """
    lock = directory / f"{what}.lock"
    if directory.exists() and any(directory.iterdir()) and not lock.exists():
        raise UsageError(f"{directory} holds something else than a {what}; move it away, or begin elsewhere.")
    directory.mkdir(parents=True, exist_ok=True)
    with lock.open("a") as held:
        if not _lock(held):
            raise UsageError(f"Another {what} runs in {directory}; stop it first, or begin elsewhere.")
        _clear(directory, lock)
        yield


def _clear(directory: Path, lock: Path) -> None:
    for path in directory.rglob("*.pid"):  # Postgres has one, too, and holds no lock on it
        _end_leftover(path)
    postgres = directory / "postgres"
    if (postgres / "postmaster.pid").exists():
        with EmbeddedPostgres(postgres):
            pass  # the last one to leave stops it
        if (postgres / "postmaster.pid").exists():
            raise UsageError(
                f"Another process uses the database in {postgres}; stop it first, or begin elsewhere."
            )
    for path in directory.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path != lock:
            path.unlink()


def _end_leftover(path: Path) -> None:
    with path.open() as file:
        if _lock(file):
            return
        text = file.read()
        if not text:  # whoever began it was killed in that very moment
            raise UsageError(f"A process that holds {path} was left behind; end it, or begin elsewhere.")
        pid = int(text)
        for number in (signal.SIGTERM, signal.SIGKILL):
            os.kill(pid, number)
            until = monotonic() + STOP_SECONDS
            while monotonic() < until:
                if _lock(file):
                    return
                _pause.wait(LOOK_SECONDS)
    raise UsageError(f"Process {pid}, left by an earlier one, does not end; see {path}.")


def _lock(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def start(
    name: str, arguments: Sequence[str], directory: Path, environment: Mapping[str, str], **how: Any
) -> subprocess.Popen[bytes]:
    """Start one of our commands with this interpreter; it holds the lock on the file with its pid."""
    with (directory / f"{name}.pid").open("w") as held:
        assert _lock(held), f"{held.name} belongs to another process"
        process = subprocess.Popen(  # noqa: S603 - ourselves
            [sys.executable, "-m", "aggregator", name, *arguments],
            env=environment,
            pass_fds=[held.fileno()],
            **how,
        )
        held.write(str(process.pid))
        held.flush()
    return process


def run(name: str, arguments: Sequence[str], directory: Path, environment: Mapping[str, str]) -> int:
    """Run one of our commands in the foreground, on our terminal; return how it ended."""
    with start(name, arguments, directory, environment) as process:
        try:
            return process.wait()
        except BaseException:
            _leave(process)
            raise


def _leave(process: subprocess.Popen[bytes]) -> None:
    """Let a command in the foreground end: a Ctrl-C has reached it too, so it is killed only if it takes no notice."""
    try:
        process.wait(LEAVE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()  # no harm: what it does is made to be interrupted


class Background:
    """One of our commands in the background. Its output goes to a file; leaving the `with` block ends it."""

    def __init__(
        self, name: str, arguments: Sequence[str], directory: Path, environment: Mapping[str, str]
    ) -> None:
        self.name = name
        self.log = directory / f"{name}.log"
        with self.log.open("w") as log:
            self._process = start(
                name,
                arguments,
                directory,
                environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def must_run(self) -> None:
        """Raise DemoFailed if it has ended."""
        if self._process.poll() is not None:
            lines = self.log.read_text().splitlines()
            raise DemoFailed(
                f"`aggregator {self.name}` ended by itself ({ending(self._process.returncode)}); its last words in "
                f"{self.log}: {lines[-1] if lines else 'none'}"
            )

    def stop(self) -> str:
        """End it, if it runs, and say how it ended."""
        if self._process.poll() is None:
            self._process.terminate()
        try:
            code = self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        return ending(code)


def ending(code: int) -> str:
    """Say how a process ended."""
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def wait_seconds(seconds: float) -> None:
    """Let time pass; a signal ends it."""
    _pause.wait(seconds)
