"""A world per test: an application database, a ledger, a sandbox. One Postgres and one sandbox per worker serve them all."""

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from aggregator.runtime.embedded_postgres import EmbeddedPostgres
from tests.conftest import shared_postgres
from tests.postgres.archived_world import lived
from tests.system.harness import METER, OTHER_METER, Sandbox, World, sandbox_process

__all__ = ["lived"]


@pytest.fixture(scope="session")
def postgres() -> Iterator[EmbeddedPostgres]:
    """A Postgres that keeps its promises: on the fast one of the other tests no daemon would keep a ledger."""
    with shared_postgres("safe", ()) as server:
        yield server


@pytest.fixture
def create_database(postgres: EmbeddedPostgres) -> Callable[[str | None], str]:
    """Make fresh databases; they go with their server, since dropping one waits for a checkpoint."""

    def create(template: str | None = None) -> str:
        name = f"test_{uuid.uuid4().hex[:12]}"
        statement = sql.SQL("create database {}").format(sql.Identifier(name))
        if template:
            statement += sql.SQL(" template {}").format(sql.Identifier(template))
        with psycopg.connect(postgres.url(), autocommit=True) as connection:
            connection.execute(statement)
        return postgres.url(name)

    return create


@pytest.fixture(scope="session")
def sandbox_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """A sandbox process with the two meters."""
    meters = (f"--meter={name}:sum" for name in (METER, OTHER_METER))
    with sandbox_process(tmp_path_factory.mktemp("sandbox"), *meters) as sandbox:
        yield sandbox


@pytest.fixture
def sandbox(sandbox_server: Sandbox) -> Sandbox:
    """The sandbox, with nothing in it but its meters."""
    sandbox_server.reset()
    return sandbox_server


@pytest.fixture
def world(tmp_path: Path, source_url: str, ledger_url: str, sandbox: Sandbox) -> Iterator[World]:
    """Everything there is, and nothing running yet but the sandbox."""
    with World(tmp_path, source_url, ledger_url, sandbox) as world:
        world.create_usage()
        yield world
