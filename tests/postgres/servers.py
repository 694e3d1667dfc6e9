"""Postgres servers with settings of their own, and a standby that streams from one.

Rules
- The shared server of the tests stays as it is: what takes a restart, or a second server, is done to one of these.
- The programs run as the user who owns the server's directory: as root, the wheel runs its servers as somebody else.
"""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import psycopg
from psycopg import sql

from aggregator.runtime.embedded_postgres import EmbeddedPostgres

IN_MEMORY = Path("/dev/shm")

OF_THE_OTHER_SERVER = (".s.PGSQL.5432.lock", ".handle_pids.json", "log")
"""Its socket lies in its directory, so pg_basebackup copies the lock on that, and what the wheel keeps there."""


@contextmanager
def home() -> Iterator[Path]:
    """Give a directory that the server's user can reach, and clear it away."""
    directory = Path(
        tempfile.mkdtemp(prefix="aggregator-server-", dir=IN_MEMORY if IN_MEMORY.is_dir() else None)
    )
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def server(directory: Path, **settings: str) -> Iterator[EmbeddedPostgres]:
    """Run a server of one's own with settings that take a restart."""
    with EmbeddedPostgres(directory) as fresh:
        _set(fresh, {"fsync": "off", **settings})
    with EmbeddedPostgres(directory) as running:
        yield running


@contextmanager
def standby(primary: EmbeddedPostgres, directory: Path) -> Iterator[EmbeddedPostgres]:
    """Run a hot standby of a server, streaming from it."""
    owner = primary.directory.stat().st_uid
    directory.mkdir(mode=0o700)
    os.chown(directory, owner, -1)
    told = urlsplit(primary.url())
    [socket_directory] = parse_qs(told.query)["host"]
    subprocess.run(
        [
            str(primary.programs / "pg_basebackup"),
            *("--host", socket_directory, "--username", told.username or "postgres"),
            *("--pgdata", str(directory), "--write-recovery-conf", "--checkpoint=fast"),
        ],
        check=True,
        capture_output=True,
        cwd="/",
        user=owner if os.geteuid() == 0 else None,
    )
    for name in OF_THE_OTHER_SERVER:
        (directory / name).unlink(missing_ok=True)
    with EmbeddedPostgres(directory) as running:
        yield running


def _set(running: EmbeddedPostgres, settings: dict[str, str]) -> None:
    with psycopg.connect(running.url(), autocommit=True) as connection:
        for name, value in settings.items():
            assert re.fullmatch(r"\w+", name)
            connection.execute(
                sql.SQL("alter system set {} = {}").format(sql.Identifier(name), sql.Literal(value))
            )


def as_role(url: str, role: str) -> str:
    """Return a URL of the tests' server for another role; that server asks nobody for a password."""
    return re.sub(r"//[^@/]*@", f"//{role}@", url)
