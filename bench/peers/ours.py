"""Our own: `aggregator run --once`, its ledger beside the rows."""

import sys

import psycopg

from aggregator.ledger.database import migrate
from bench.figures import Figure
from bench.peers.work import Work, timed
from bench.stand import CONFIG, STRIPE, first_day

NAME = "aggregator"


def measure(on: Work) -> Figure:
    """Read, plan, record and send once. The ledger's tables are there; `--first-time` says that nobody sent any of it."""
    with psycopg.connect(on.postgres.url(), autocommit=True) as connection:
        connection.execute("create database ledger")
    sink = STRIPE.format(sandbox=on.server, rate=100_000, transport="v1")
    config = CONFIG.format(
        ledger=on.postgres.url("ledger"), source=on.source, sink=sink, start=first_day(on.postgres)
    )
    (on.directory / "aggregator.yaml").write_text(config)
    migrate(on.postgres.url("ledger"))
    call = [sys.executable, "-m", "aggregator", "run", "--once", "--first-time"]
    return timed(NAME, on, call, {})
