"""What the ledger's own work costs does not grow with the ledger: no statement of it looks at all slots or events."""

import uuid

import psycopg
import pytest

from aggregator.ledger.database import Database
from aggregator.ledger.meters import Meters
from bench.grown import customers_of, grow
from bench.growth import UNTIL, WORK, Work
from bench.million import LEASE
from bench.plans import Explained, explaining

EVENTS, CUSTOMERS = 90_000, 300

GROWS_BY_USE = {"slot", "event_at_rest", "claim", "attempt", "pass", "evidence", "usage_of_day"}

MOST = EVENTS // 3
"""Rows that one step of a plan may look at. The widest work is a pass over two days, which are a sixth of the ledger."""


@pytest.mark.direct
def test_no_statement_of_the_hot_work_looks_at_the_whole_ledger(ledger_url: str) -> None:
    """Not even where the server is kept from reading whole tables: then what has no index for it shows."""
    with psycopg.connect(ledger_url, autocommit=True) as connection:
        connection.execute(f"alter database {connection.info.dbname} set enable_seqscan = off")
        with Database(ledger_url) as database:
            meters = Meters(database, uuid.uuid4(), LEASE)
            grown = grow(connection, meters, EVENTS, CUSTOMERS, UNTIL)
            work = Work(database, grown, customers_of(connection))
            explained: dict[str, list[Explained]] = {}
            for name, done in WORK.items():
                with explaining() as explained[name]:
                    done(work)
    steps = [
        (name, each.name[:100], node)
        for name, found in explained.items()
        for each in found
        for node in each.nodes
    ]
    whole = [
        step
        for step in steps
        if step[2].kind == "Seq Scan" and step[2].table in GROWS_BY_USE and step[2].rows > 1
    ]
    assert whole == []
    assert [step for step in steps if step[2].rows > MOST] == []
    read = {node.table for _, _, node in steps}
    assert read >= {"slot", "event_at_rest", "claim", "pass", "evidence"}, "all of that was looked at"
