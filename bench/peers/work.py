"""What every peer is given, and what it must have done in the end."""

import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import psycopg

from aggregator.runtime.embedded_postgres import EmbeddedPostgres
from bench.checkouts import HOME, installed
from bench.figures import Figure
from bench.processor import tree_seconds
from bench.stand import make_source, postmaster

EVENT = "api_requests"
KEY = "sk_test_bench"

QUERY = """
select customer, count(*) as quantity, max(created_at) as at, date_trunc('hour', created_at) as "window"
  from api_request
 group by customer, date_trunc('hour', created_at)
"""
"""What is billed, for those who keep no windows of their own: all that is there."""


class Work(NamedTuple):
    """Where a peer finds its rows, where it sends them, and a directory of its own."""

    postgres: EmbeddedPostgres
    source: str
    server: str
    directory: Path
    processes: dict[str, int]


@contextmanager
def work(rows: int, customers: int, latency_seconds: float) -> Iterator[Work]:
    """Make the rows, and run Postgres and the server, until the end of the block."""
    with (
        tempfile.TemporaryDirectory() as directory,
        EmbeddedPostgres(Path(directory) / "pg") as postgres,
        _server(latency_seconds) as (url, server),
    ):
        source = make_source(postgres, rows, customers, hours=20)
        own = Path(directory) / "peer"
        own.mkdir()
        processes = {"ledger": postmaster(postgres), "sandbox": server}
        yield Work(postgres, source, url, own, processes)


def timed(name: str, on: Work, call: Sequence[str], environment: dict[str, str]) -> Figure:
    """Run a peer to its end, and return what it took. Raises SystemExit with its words if it failed or left events out."""
    before = {part: tree_seconds(root) for part, root in on.processes.items()}
    log = on.directory / "output"
    began = time.monotonic()
    with (
        log.open("w") as output,
        subprocess.Popen(
            call, cwd=on.directory, env={**installed(), **environment}, stdout=output, stderr=output
        ) as process,
    ):
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    wall = time.monotonic() - began
    if process.returncode:
        raise SystemExit(f"bench.peers: {name} failed: {log.read_text()[-2_000:]}")
    figure = Figure(name, _checked(name, on), wall, {"client": used.ru_utime + used.ru_stime})
    figure.seconds |= {part: tree_seconds(root) - before[part] for part, root in on.processes.items()}
    return figure


def _checked(name: str, on: Work) -> int:
    """Return how many events the server holds, once it is sure that they are what was used."""
    with urllib.request.urlopen(f"{on.server}/held") as answer:
        held = json.load(answer)
    with psycopg.connect(on.source) as connection:
        wanted = connection.execute(
            f"select count(*), sum(quantity) from ({QUERY}) as used".encode()
        ).fetchone()
    assert wanted is not None
    if (held["events"], held["total"]) != (wanted[0], str(wanted[1])):
        raise SystemExit(
            f"bench.peers: {name} sent {held}, and {wanted[0]} events of {wanted[1]} were to be sent"
        )
    return int(held["events"])


@contextmanager
def _server(latency_seconds: float) -> Iterator[tuple[str, int]]:
    """Run the server; yield its URL and process."""
    call = [sys.executable, "-m", "bench.light", "--latency", str(latency_seconds)]
    with subprocess.Popen(
        call, cwd=HOME, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip(), process.pid
        assert process.stdin is not None
        process.stdin.close()
