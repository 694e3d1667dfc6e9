"""What the benchmarks stand on: an embedded Postgres, a sandbox in a process of its own, and an App over them."""

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import NamedTuple

import psycopg

from aggregator.config import load
from aggregator.runtime.embedded_postgres import EmbeddedPostgres
from aggregator.sandbox.metronome import MetronomeControl
from aggregator.wiring.app import App, build
from bench.checkouts import HOME, python_of

try:
    from aggregator.runtime.garbage import seldom_collected
except ImportError:  # a checkout that does not know it
    seldom_collected = nullcontext  # type: ignore[assignment]

__all__ = ["Stand", "first_day", "postmaster", "seldom_collected", "stand"]

CONFIG = """
ledger: {{url: '{ledger}', lease: 10m}}
sources: {{app: {{url: '{source}'}}}}
sinks:
  far: {sink}
meters:
  api_requests:
    source: app
    sinks: [far]
    window: 1h
    start_at: {start}
    delay: 0s
    revisit: 3d
    query: |
      select customer, count(*) as quantity, max(created_at) as at, date_trunc('hour', created_at) as "window"
        from api_request where created_at >= :start and created_at < :end
       group by customer, date_trunc('hour', created_at)
"""


STRIPE = """{{type: stripe, api_key: sk_test_bench, mode: test, api_base: '{sandbox}', rate_limit: {rate},
    transport: {transport}}}"""

METRONOME = """{{type: metronome, api_key: bench, quantity_encoding: text, api_base: '{sandbox}/metronome',
    rate_limit: {rate}}}"""


class Stand(NamedTuple):
    """Where things are, and which processes they run in."""

    directory: Path
    server: EmbeddedPostgres
    sandbox: str
    latency_seconds: float
    processes: dict[str, int]

    def source(self, rows: int, customers: int, hours: int) -> str:
        """Make an application database with so many raw rows; return its URL."""
        return make_source(self.server, rows, customers, hours)

    @contextmanager
    def app(self, source: str, rate: int, transport: str = "v1") -> Iterator[App]:
        """Build the App over a source, with the sink `far`; `transport` is one of Stripe's, or `metronome`."""
        if transport == "metronome":
            metronome = MetronomeControl(self.sandbox)
            metronome.add_metric("api_requests")
            metronome.set_faults(latency_seconds=self.latency_seconds)
        with build(load(self.configure(source, rate, transport), {}), name="bench") as app:
            yield app

    def configure(self, source: str, rate: int, transport: str) -> Path:
        """Make an empty ledger, and return the configuration of all."""
        sink = METRONOME if transport == "metronome" else STRIPE
        with psycopg.connect(self.server.url(), autocommit=True) as connection:
            connection.execute("create database ledger")
        path = self.directory / "aggregator.yaml"
        path.write_text(
            CONFIG.format(
                ledger=self.server.url("ledger"),
                source=source,
                sink=sink.format(sandbox=self.sandbox, rate=rate, transport=transport),
                start=first_day(self.server),
            )
        )
        return path


def make_source(server: EmbeddedPostgres, rows: int, customers: int, hours: int) -> str:
    """Make an application database with so many raw rows, spread evenly; return its URL."""
    url = server.url("app")
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute("create database app")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("create table api_request (customer text, created_at timestamptz)")
        connection.execute(
            """
            insert into api_request
            select 'cus_' || (n %% %(customers)s),
                   date_trunc('hour', now()) - (n / %(customers)s %% %(hours)s + 1) * interval '1 hour'
                   + (n / %(customers)s %% 3600) * interval '1 second'
              from generate_series(1, %(rows)s) as n
            """,
            {"customers": customers, "hours": hours, "rows": rows},
        )
        connection.execute("create index on api_request (created_at)")
        connection.execute("vacuum (analyze) api_request")
        connection.execute("checkpoint")
    return url


def first_day(server: EmbeddedPostgres) -> str:
    """Return midnight three days ago, before all of the rows."""
    with psycopg.connect(server.url(), autocommit=True) as connection:
        found = connection.execute(
            "select to_char(date_trunc('day', now() at time zone 'UTC') - interval '3 days', 'YYYY-MM-DD')"
        ).fetchone()
    assert found is not None
    return f"{found[0]}T00:00Z"


@contextmanager
def stand(*, latency_seconds: float = 0.0) -> Iterator[Stand]:
    """Put up a server and a sandbox that answers after `latency_seconds`; take them down at the end."""
    with (
        tempfile.TemporaryDirectory() as directory,
        EmbeddedPostgres(Path(directory) / "pg") as server,
        _sandbox(latency_seconds) as (url, sandbox),
    ):
        processes = {"ledger": postmaster(server), "sandbox": sandbox}
        yield Stand(Path(directory), server, url, latency_seconds, processes)


def postmaster(server: EmbeddedPostgres) -> int:
    """Return the process that all others of a server are below."""
    return int((server.directory / "postmaster.pid").read_text().split()[0])


@contextmanager
def _sandbox(latency_seconds: float) -> Iterator[tuple[str, int]]:
    """Run the sandbox of our own checkout, whichever package is measured; yield its URL and process."""
    call = [str(python_of(HOME)), "-m", "aggregator.sandbox", "--port", "0", "--meter", "api_requests:sum"]
    with subprocess.Popen(
        [*call, "--latency", str(latency_seconds)],
        cwd=HOME,
        env={**os.environ, "PYTHONPATH": str(HOME)},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            url = next(word.rstrip(".,;") for word in line.split() if word.startswith("http://"))
            yield url, process.pid
        finally:
            process.terminate()
