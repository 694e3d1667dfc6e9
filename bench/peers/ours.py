"""Our own: `aggregator run --once`, its ledger beside the rows. Its tables are there before."""

import subprocess

import psycopg

from bench.checkouts import Checkout, python_of
from bench.figures import Figure
from bench.peers.work import Work, timed
from bench.stand import CONFIG, STRIPE, first_day

NAME = "aggregator"


def measure(on: Work, side: Checkout) -> Figure:
    """Read, plan, record and send once. `--first-time` says that nobody sent any of it."""
    with psycopg.connect(on.postgres.url(), autocommit=True) as connection:
        connection.execute("create database ledger")
    sink = STRIPE.format(sandbox=on.server, rate=100_000, transport="v1")
    config = CONFIG.format(
        ledger=on.postgres.url("ledger"), source=on.source, sink=sink, start=first_day(on.postgres)
    )
    (on.directory / "aggregator.yaml").write_text(config)
    environment = side.environment
    program = [str(python_of(side.root)), "-m", "aggregator"]
    made = subprocess.run(
        [*program, "migrate"], cwd=on.directory, env=environment, capture_output=True, text=True, check=False
    )
    if made.returncode:
        raise SystemExit(f"bench.peers: {side.root} makes no ledger: {made.stderr[-2_000:]}")
    return timed(NAME, on, [*program, "run", "--once", "--first-time"], environment)
