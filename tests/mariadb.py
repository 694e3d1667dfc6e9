"""Debian's MariaDB server, for tests of that kind of source: as an unprivileged process, on loopback, without a password.

Rules
- It is a package of the system that CI installs. Where it is missing, tests that need it fail and say how to get it: nothing
  else shows that a source of this kind is read right.
- Its zone is New York's, given as a rule and not by name, so that it is what the test says on any host.
- It refuses to run as root, so it runs as nobody then. It ends with whoever started it, killed or not.
"""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pymysql

from aggregator.runtime.clock import monotonic

PROGRAM = shutil.which("mariadbd", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"]))
MISSING = "mariadbd is not installed: `make tools`, or apt-get install mariadb-server-core"

NEW_YORK = "EST5EDT,M3.2.0,M11.1.0"

SYSTEM_TABLES = (
    "mysql_system_tables.sql",
    "mysql_performance_tables.sql",
    "mysql_system_tables_data.sql",
)
SHARED = (Path("/usr/share/mysql"), Path("/usr/share/mariadb"))

SMALL = (
    "--no-defaults",
    "--innodb-buffer-pool-size=32M",
    "--innodb-log-file-size=8M",
    "--innodb-flush-log-at-trx-commit=0",
)

IN_MEMORY = Path("/dev/shm")
START_SECONDS = 60.0
LOOK_SECONDS = 0.05


class Maria(NamedTuple):
    """A server that runs."""

    socket: Path
    port: int
    kind: str = "mariadb"
    """Or `mysql`: tests/mysql.py runs one that is asked in the same way."""

    def url(self, driver: str = "mysql", user: str = "reader", database: str = "app") -> str:
        """Return the URL of a source in it."""
        return f"{driver}://{user}@localhost/{database}?unix_socket={self.socket}"

    def run(self, *statements: str, values: Sequence[object] = ()) -> Any:
        """Run statements as its administrator, with a session in UTC; return the rows of the last one."""
        with pymysql.connect(unix_socket=str(self.socket), user="root", autocommit=True) as connection:
            cursor = connection.cursor()
            cursor.execute("set time_zone = '+00:00'")
            for statement in statements:
                cursor.execute(statement, values or None)
            return cursor.fetchall()

    def running(self) -> int:
        """Return how many statements of the reader it works on."""
        [[many]] = self.run(
            "select count(*) from information_schema.processlist where user = 'reader' and command = 'Query'"
        )
        return int(many)


@contextmanager
def mariadb() -> Iterator[Maria]:
    """Run a server of one's own."""
    assert PROGRAM is not None, MISSING
    directory = Path(
        tempfile.mkdtemp(prefix="aggregator-mariadb-", dir=IN_MEMORY if IN_MEMORY.is_dir() else None)
    )
    owner = pwd.getpwnam("nobody").pw_uid if os.geteuid() == 0 else os.geteuid()
    os.chown(directory, owner, -1)
    directory.chmod(0o711)
    try:
        _made(directory, owner)
        with with_reader(*_started(directory, owner)) as server:
            yield server
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def with_reader(process: subprocess.Popen[bytes], server: Maria, *also: str) -> Iterator[Maria]:
    """Give a server its database, a user who may only read there, and what `also` says; end it with the `with` block."""
    try:
        server.run(
            "create database app",
            "create user reader@localhost",
            "grant select on app.* to reader@localhost",
            *also,
        )
        yield server
    finally:
        process.terminate()
        process.wait()


def _made(directory: Path, owner: int) -> None:
    """Make its system tables; Debian's script for that is in the package of the clients."""
    assert PROGRAM is not None
    [shared] = [each for each in SHARED if (each / SYSTEM_TABLES[0]).exists()]
    statements = "create database mysql;\nuse mysql;\n" + "".join(
        (shared / name).read_text() for name in SYSTEM_TABLES
    )
    made = subprocess.run(
        [PROGRAM, *SMALL, "--bootstrap", f"--datadir={directory}", "--enforce-storage-engine="],
        input=statements,
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
        user=owner,
    )
    assert made.returncode == 0, made.stderr


def _started(directory: Path, owner: int) -> tuple[subprocess.Popen[bytes], Maria]:
    assert PROGRAM is not None
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = Maria(directory / "s", listener.getsockname()[1])
    log = directory / "log"
    with log.open("wb") as told:
        process = subprocess.Popen(
            [
                *("setpriv", "--pdeathsig=TERM"),
                *(PROGRAM, *SMALL, f"--datadir={directory}", f"--socket={server.socket}"),
                *("--bind-address=127.0.0.1", f"--port={server.port}", "--skip-name-resolve"),
                f"--pid-file={directory / 'pid'}",
            ],
            stdout=told,
            stderr=told,
            cwd="/",
            env={"TZ": NEW_YORK},
            user=owner,
            start_new_session=True,
        )
    pause, end = threading.Event(), monotonic() + START_SECONDS
    while process.poll() is None and monotonic() < end:
        with socket.socket(socket.AF_UNIX) as knock:
            if knock.connect_ex(str(server.socket)) == 0:
                return process, server
        pause.wait(LOOK_SECONDS)
    process.kill()
    process.wait()
    raise AssertionError(f"mariadbd does not start: {log.read_text()}")
