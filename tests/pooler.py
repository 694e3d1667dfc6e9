"""pgbouncer in transaction mode, in front of the tests' Postgres: between two transactions a client keeps nothing.

Rules
- Fewer server connections than clients, so that transactions of one client meet different sessions all the time.
- It is Debian's package. Where it is missing, `missing` says so, and a test that needs it is skipped with that.
- It refuses to run as root, so it runs as the user whose server it stands in front of.
"""

import os
import re
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qs, urlsplit

from aggregator.runtime.clock import monotonic
from aggregator.runtime.embedded_postgres import EmbeddedPostgres

PROGRAM = shutil.which("pgbouncer", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"]))

SESSIONS = 3
"""Server connections per database: the ledger alone is asked by more threads than that."""

START_SECONDS = 20.0
START_TRIES = 3
"""Somebody else may take the port between our asking for one and pgbouncer's taking it."""

LOOK_SECONDS = 0.05

PREPARES = (1, 21)
"""From this version on, pgbouncer can carry prepared statements over; here it must not (pgbouncer.org/changelog.html)."""

SETTINGS = """
[databases]
* = host={socket_directory} user={user}

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = {sessions}
max_client_conn = 500
{more}
"""


class Pooler(NamedTuple):
    """A pgbouncer that runs."""

    port: int
    user: str
    log: Path

    def url(self, direct: str) -> str:
        """Return the URL by which a database of its server is reached through it."""
        return f"postgresql://{self.user}:@127.0.0.1:{self.port}{urlsplit(direct).path}"


def missing() -> str | None:
    """Say why there can be no pooler here; None if there can."""
    if PROGRAM is None:
        return "pgbouncer is not installed: apt-get install pgbouncer"
    return None


@contextmanager
def pgbouncer(server: EmbeddedPostgres, directory: Path) -> Iterator[Pooler]:
    """Run one in front of a server, for the length of a `with` block; its files go to the directory."""
    process, pooler = _started(server, directory)
    try:
        yield pooler
    finally:
        process.terminate()
        process.wait()


def _started(server: EmbeddedPostgres, directory: Path) -> tuple[subprocess.Popen[bytes], Pooler]:
    said = ""
    for _ in range(START_TRIES):
        process, pooler = _start(server, directory)
        if _answers(process, pooler.port):
            return process, pooler
        process.kill()
        process.wait()
        said = pooler.log.read_text()
    raise AssertionError(f"pgbouncer does not start: {said}")


def _start(server: EmbeddedPostgres, directory: Path) -> tuple[subprocess.Popen[bytes], Pooler]:
    assert PROGRAM is not None, missing()
    direct = urlsplit(server.url())
    [socket_directory] = parse_qs(direct.query)["host"]
    pooler = Pooler(_free_port(), direct.username or "postgres", directory / "pgbouncer.log")
    settings = directory / "pgbouncer.ini"
    settings.write_text(
        SETTINGS.format(
            socket_directory=socket_directory,
            user=pooler.user,
            port=pooler.port,
            sessions=SESSIONS,
            more="max_prepared_statements = 0" if _version() >= PREPARES else "",
        )
    )
    owner = Path(socket_directory).stat().st_uid
    # It reads its settings from our hands: its user need not be able to open a file of ours.
    with settings.open("rb") as told, pooler.log.open("wb") as log:
        process = subprocess.Popen(
            [PROGRAM, "-q", "/dev/stdin"],
            cwd="/",
            stdin=told,
            stdout=log,
            stderr=log,
            user=owner if os.geteuid() == 0 else None,
            start_new_session=True,
        )
    return process, pooler


def _version() -> tuple[int, ...]:
    assert PROGRAM is not None, missing()
    told = subprocess.run([PROGRAM, "--version"], check=True, capture_output=True, text=True).stdout
    found = re.search(r"(\d+)\.(\d+)", told)
    assert found, told
    return int(found[1]), int(found[2])


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def _answers(process: subprocess.Popen[bytes], port: int) -> bool:
    """Wait until it listens, or has given up."""
    pause, end = threading.Event(), monotonic() + START_SECONDS
    while process.poll() is None and monotonic() < end:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            pause.wait(LOOK_SECONDS)
        else:
            return True
    return False
