"""PGlite behind its socket server, for tests of that kind of source: Postgres as WebAssembly, on loopback, in memory.

Rules
- Its server is a program of Node's. `make tools` fetches it with npm into .pglite (30 MB). Where it is missing, tests that
  need it are skipped and say so.
- It takes one connection at a time, and needs a moment to see that the last one has gone.
- One session serves every connection: what one of them sets is what the next one finds.
"""

import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from aggregator.runtime.clock import monotonic

HOME = Path(__file__).parents[1] / ".pglite"
PROGRAM = HOME / "node_modules" / ".bin" / "pglite-server"

MISSING = next(
    (
        f"{what}: `make tools` installs it, where npm is"
        for there, what in (
            (shutil.which("node"), "Node is not installed"),
            (PROGRAM.exists(), "PGlite is not installed"),
        )
        if not there
    ),
    None,
)

PATIENCE_SECONDS = 60.0
LOOK_SECONDS = 0.05


@contextmanager
def pglite(zone: str) -> Iterator[str]:
    """Run one whose process and sessions begin in a zone, and give its URL."""
    assert MISSING is None, MISSING
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    process = subprocess.Popen(
        ["setpriv", "--pdeathsig=KILL", "node", str(PROGRAM.resolve()), f"--port={port}"],
        stdout=subprocess.DEVNULL,
        env={**os.environ, "TZ": zone},
    )
    url = f"postgresql://postgres@127.0.0.1:{port}/postgres?sslmode=disable"
    try:
        with let_in(url) as connection:
            connection.execute(sql.SQL("set timezone = {}").format(sql.Literal(zone)))
        yield url
    finally:
        process.kill()
        process.wait()


def let_in(url: str) -> psycopg.Connection[tuple[Any, ...]]:
    """Connect as soon as it lets somebody in."""
    pause, end = threading.Event(), monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return psycopg.connect(url, autocommit=True)
        except psycopg.OperationalError:
            if monotonic() > end:
                raise
        pause.wait(LOOK_SECONDS)
