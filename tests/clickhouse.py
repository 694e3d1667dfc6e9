"""ClickHouse's engine behind a front of ours, for tests of that kind of source: see clickhouse_front.py.

Rules
- It is the engine, by chdb, and no server: none can be installed here. What is shown is what the engine and the client do.
- It works in a process of its own, on loopback, in New York, so that neither its zone nor its memory is ours.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

ROOT = Path(__file__).parents[1]
IN_MEMORY = Path("/dev/shm")
NEW_YORK = "America/New_York"


class ClickHouse(NamedTuple):
    """A front that runs."""

    port: int
    process: "subprocess.Popen[str]"

    def url(self, user: str = "reader", database: str = "default", scheme: str = "clickhouse") -> str:
        """Return the URL of a source in it."""
        return f"{scheme}://{user}@127.0.0.1:{self.port}/{database}"

    def run(self, *statements: str, user: str = "admin", **settings: str) -> list[list[str]]:
        """Run statements as its administrator, in UTC; return the rows of the last one, as text."""
        text = ""
        for statement in statements:
            named = "&".join(
                f"{key}={quote(value)}" for key, value in {"session_timezone": "UTC", **settings}.items()
            )
            request = urllib.request.Request(
                f"http://127.0.0.1:{self.port}/?{named}",
                data=statement.encode(),
                headers={"X-ClickHouse-User": user},
            )
            with urllib.request.urlopen(request, timeout=60) as answer:
                text = answer.read().decode()
        return [line.split("\t") for line in text.splitlines()]

    def running(self) -> int:
        """Return how many queries over very many numbers it works on."""
        [[many]] = self.run(
            "select count() from system.processes where query like '%numbers(1000000000000)%' and query not like 'describe%'"
            " and query not like '%system.processes%'"
        )
        return int(many)


@contextmanager
def clickhouse(zone: str = NEW_YORK) -> Iterator[ClickHouse]:
    """Run one; its sessions begin in a zone."""
    directory = Path(
        tempfile.mkdtemp(prefix="aggregator-clickhouse-", dir=IN_MEMORY if IN_MEMORY.is_dir() else None)
    )
    process = subprocess.Popen(
        ["setpriv", "--pdeathsig=KILL", sys.executable, "-m", "tests.clickhouse_front", str(directory), zone],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "TZ": zone},
    )
    try:
        assert process.stdout is not None
        port = process.stdout.readline()
        assert port, "the front does not start: is chdb installed? `make venv` does it"
        yield ClickHouse(int(port), process)
    finally:
        process.kill()
        process.communicate()
        shutil.rmtree(directory, ignore_errors=True)
