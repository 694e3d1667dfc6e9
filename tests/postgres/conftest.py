from collections.abc import Iterator

import pytest

from aggregator.ledger.database import Database
from tests.postgres.world import World


@pytest.fixture
def database(ledger_url: str) -> Iterator[Database]:
    """A fresh ledger, open."""
    with Database(ledger_url) as database:
        yield database


@pytest.fixture
def world(database: Database) -> World:
    """One daemon on a fresh ledger."""
    return World(database)
