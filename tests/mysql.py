"""MySQL's own server, for tests of that kind of source: on loopback, in New York, without a password, as MariaDB's is.

Rules
- `make tools` fetches it (mysql_tools.py). Where it is missing, tests that need it are skipped and say so.
- It has no tables of numbers like MariaDB's `seq_1_to_10`, which tests are written with: views of such names stand in.
"""

import os
import shutil
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from aggregator.runtime.clock import monotonic
from tests.mariadb import IN_MEMORY, LOOK_SECONDS, NEW_YORK, START_SECONDS, Maria, mariadb, with_reader
from tests.mysql_tools import HOME, command

COMMAND = command()
MISSING = (
    None
    if COMMAND is not None
    else "MySQL is not installed: `make tools` fetches it from Debian, where apt is"
)

SMALL = (
    "--no-defaults",
    f"--lc-messages-dir={HOME / 'usr/share/mysql'}",
    f"--character-sets-dir={HOME / 'usr/share/mysql/charsets'}",
    "--innodb-buffer-pool-size=32M",
    "--innodb-redo-log-capacity=8M",
    "--innodb-flush-log-at-trx-commit=0",
    "--performance-schema=OFF",
    "--secure-file-priv=NULL",
    "--table-open-cache=100",
    *(("--user=root",) if os.geteuid() == 0 else ()),
)

DIGITS = 6
NUMBERS = (3, 5, 10, 100, 1000, 10_000, 100_000, 120_000, 10**DIGITS)
"""What the views of numbers go up to."""


@contextmanager
def mysql() -> Iterator[Maria]:
    """Run a server of one's own."""
    assert COMMAND is not None, MISSING
    directory = Path(
        tempfile.mkdtemp(prefix="aggregator-mysql-", dir=IN_MEMORY if IN_MEMORY.is_dir() else None)
    )
    try:
        data = f"--datadir={directory / 'data'}"
        made = subprocess.run(
            [*COMMAND, *SMALL, data, "--initialize-insecure"], capture_output=True, text=True, check=False
        )
        assert made.returncode == 0, made.stderr
        with with_reader(*_started(directory, data), *_numbers()) as server:
            yield server
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _started(directory: Path, data: str) -> tuple[subprocess.Popen[bytes], Maria]:
    assert COMMAND is not None
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = Maria(directory / "s", listener.getsockname()[1], "mysql")
    log = directory / "log"
    with log.open("wb") as told:
        process = subprocess.Popen(
            [
                *("setpriv", "--pdeathsig=TERM", *COMMAND, *SMALL, data, f"--socket={server.socket}"),
                *("--bind-address=127.0.0.1", f"--port={server.port}", "--mysqlx=OFF", "--skip-log-bin"),
                *("--log-bin-trust-function-creators=ON", f"--pid-file={directory / 'pid'}"),
            ],
            stdout=told,
            stderr=told,
            cwd="/",
            env={"TZ": NEW_YORK},
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
    raise AssertionError(f"mysqld does not start: {log.read_text()}")


def _numbers() -> Iterator[str]:
    yield "create table app.digits (digit int primary key)"
    yield f"insert into app.digits values {', '.join(f'({digit})' for digit in range(10))}"
    for last in NUMBERS:
        places = range(len(str(last - 1)))
        seq = " + ".join(["1", *(f"{10**place} * d{place}.digit" for place in places)])
        names = ", ".join(f"app.digits d{place}" for place in places)
        yield f"create view app.seq_1_to_{last} as select {seq} as seq from {names} where {seq} <= {last}"


BOTH = [
    pytest.param(mariadb, id="mariadb", marks=pytest.mark.xdist_group("mariadb")),
    pytest.param(
        mysql,
        id="mysql",
        marks=[
            pytest.mark.xdist_group("mysql"),
            pytest.mark.skipif(MISSING is not None, reason=str(MISSING)),
        ],
    ),
]
"""For a fixture of a test that both servers are to pass."""
