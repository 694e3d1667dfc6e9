"""Starts processes of ours without a second of imports each: forks them from one that has imported everything.

What is forked is a process like any other: an id, files, an environment and a session of its own, ended by signals. The
interpreter reads its own variables when it begins, so whoever asks for others than the last gets a process to fork from that
began with them. What is read as a library is loaded needs a fresh interpreter each time.
"""

import atexit
import gc
import importlib
import json
import os
import pkgutil
import runpy
import select
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

FRESH = ("LD_", "PYTHONPROFILE", "AGGREGATOR_KILL_AT")
"""How variables begin that are about what is imported, or are read by then."""

INTERPRETER = "PYTHON"
"""How those begin that the interpreter reads as it begins, and keeps in what is forked."""

LONGEST_MESSAGE = 1 << 20
PACKAGES = (
    "aggregator.cli",
    "aggregator.wiring",
    "aggregator.daemon",
    "aggregator.source",
    "aggregator.sandbox",
    "aggregator.sinks",
)

LIBRARIES = ("aiohttp", "alembic.command", "alembic.runtime.migration", "stripe", "mako.template")
"""What our modules import only once they need it."""


class Forked:
    """A forked process, as `subprocess.Popen` would show it."""

    def __init__(self, pid: int, watched: int, told: socket.socket) -> None:
        self.pid = pid
        self._watched, self._told = watched, told
        self._code: int | None = None

    def poll(self) -> int | None:
        """Return how it ended, negative for a signal; None while it runs."""
        return self._look(socket.MSG_DONTWAIT)

    def wait(self, timeout: float | None = None) -> int:
        """Wait until it has ended, and return how. Raises TimeoutExpired if it has not within so many seconds."""
        if self._code is None and not select.select([self._told], [], [], timeout)[0]:
            raise subprocess.TimeoutExpired(str(self.pid), timeout or 0.0)
        code = self._look(0)
        assert code is not None
        return code

    def send_signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        if self.poll() is None:
            try:
                signal.pidfd_send_signal(self._watched, number)
            except ProcessLookupError:
                self.wait()

    def _look(self, how: int) -> int | None:
        if self._code is None:
            try:
                told = self._told.recv(64, how)
            except BlockingIOError:
                return None
            assert told, "the starter of the tests' processes has died"
            self._code = int(told)
            self._told.close()
            os.close(self._watched)
        return self._code


class Starter:
    """One process that has imported everything, and forks when it is asked to; it began with these variables of Python's."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with its:
            self._process = subprocess.Popen(
                [sys.executable, "-u", "-m", __name__, str(its.fileno())],
                env={k: v for k, v in os.environ.items() if not k.startswith(INTERPRETER)} | dict(variables),
                pass_fds=[its.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        self._asked = ours
        atexit.register(self.close)

    def close(self) -> None:
        """End it, and with it what it has forked and nobody has ended."""
        self._asked.close()
        self._process.wait()

    def start(
        self,
        module: str,
        arguments: Sequence[str],
        directory: Path,
        env: Mapping[str, str],
        out: BinaryIO,
        err: BinaryIO,
    ) -> Forked:
        """Fork a process that runs a module as `python -m` does."""
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        asked = json.dumps([module, [*arguments], str(directory), dict(env)]).encode()
        assert len(asked) < LONGEST_MESSAGE
        with its:
            socket.send_fds(self._asked, [asked], [its.fileno(), out.fileno(), err.fileno()])
        message, [watched], _, _ = socket.recv_fds(ours, 64, 1)
        return Forked(int(message), watched, ours)


_starters: dict[frozenset[tuple[str, str]], Starter] = {}


def start(
    module: str,
    arguments: Sequence[str],
    directory: Path,
    env: Mapping[str, str],
    out: BinaryIO,
    err: BinaryIO,
) -> Forked | subprocess.Popen[bytes]:
    """Start a process of ours that runs a module, forked where that shows no difference."""
    if any(name.startswith(FRESH) for name in env):
        return subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=directory,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            start_new_session=True,
        )
    variables = {name: value for name, value in env.items() if name.startswith(INTERPRETER)}
    key = frozenset(variables.items())
    if key not in _starters:
        _starters[key] = Starter(variables)
    return _starters[key].start(module, arguments, directory, env, out, err)


def _import_all() -> None:
    """Import everything, as what is never garbage: to look for some in it as it ends takes a process half a second."""
    for name in LIBRARIES:
        importlib.import_module(name)
    for name in PACKAGES:
        package = importlib.import_module(name)
        for found in pkgutil.walk_packages(package.__path__, f"{name}."):
            if not found.name.endswith("__main__"):
                importlib.import_module(found.name)
    gc.collect()
    gc.freeze()


def _become(asked: Sequence[Any], out: int, err: int) -> None:
    """In the forked process: be what `python -m module` would be there."""
    module, arguments, directory, env = asked
    os.setsid()
    os.dup2(out, 1)
    os.dup2(err, 2)
    os.closerange(3, max(out, err) + 64)
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(env)
    time.tzset()
    sys.path[0] = directory
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _end_all(watching: selectors.BaseSelector) -> None:
    """Whoever asked is gone, so nobody else will end what was forked."""
    for key in watching.get_map().values():
        if key.data is not None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(key.fd, signal.SIGKILL)


def _serve(asked: socket.socket) -> None:
    """Fork for whoever asks, and say how each ended. Returns in the forked processes, too, once they are done."""
    watching = selectors.DefaultSelector()
    watching.register(asked, selectors.EVENT_READ)
    while True:
        for key, _ in watching.select():
            if key.data is not None:
                pid, told = key.data
                _, status = os.waitpid(pid, 0)
                watching.unregister(key.fd)
                os.close(key.fd)
                with told:
                    try:
                        told.send(str(os.waitstatus_to_exitcode(status)).encode())
                    except BrokenPipeError:
                        continue
                continue
            message, descriptors, _, _ = socket.recv_fds(asked, LONGEST_MESSAGE, 3)
            if not message:
                _end_all(watching)
                return
            told_fd, out, err = descriptors
            pid = os.fork()
            if not pid:
                watching.close()
                asked.close()
                _become(json.loads(message), out, err)
                return
            os.close(out)
            os.close(err)
            watched, told = os.pidfd_open(pid), socket.socket(fileno=told_fd)
            socket.send_fds(told, [str(pid).encode()], [watched])
            watching.register(watched, selectors.EVENT_READ, (pid, told))


if __name__ == "__main__":
    _import_all()
    _serve(socket.socket(fileno=int(sys.argv[1])))
