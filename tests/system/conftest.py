"""A world per test: an application database, a ledger, a sandbox process."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from aggregator.embedded import EmbeddedPostgres
from tests.conftest import shared_postgres
from tests.system.harness import METER, Sandbox, World, sandbox_process




@pytest.fixture(scope="session")
def postgres() -> Iterator[EmbeddedPostgres]:
    """A Postgres that keeps its promises: on the fast one of the other tests no daemon would keep a ledger."""
    with shared_postgres("safe", ()) as server:
        yield server


@pytest.fixture
def sandbox(tmp_path: Path) -> Iterator[Sandbox]:
    """A sandbox process with the meter."""
    with sandbox_process(tmp_path, "--meter", f"{METER}:sum") as sandbox:
        yield sandbox


@pytest.fixture
def world(tmp_path: Path, source_url: str, ledger_url: str, sandbox: Sandbox) -> Iterator[World]:
    """Everything there is, and nothing running yet but the sandbox."""
    with World(tmp_path, source_url, ledger_url, sandbox) as world:
        world.create_usage()
        yield world
