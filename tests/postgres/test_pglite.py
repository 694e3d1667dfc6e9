"""PGlite as a source, as far as it differs from Postgres: known by its version, and slow to let go of its one connection.

What it says of itself is said by a Postgres here; a door before that one hangs up as PGlite does. The real one, which is a
program of Node's, is asked for all facts in tests/contract/test_every_source.py.
"""

import datetime as dt
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg
import pytest

from aggregator.errors import SourceUnreachable
from aggregator.source import Source
from aggregator.source.postgres import HUNG_UP_PAUSES, PGLITE_LIMITS
from tests.postgres.test_roles import findings

pytestmark = pytest.mark.direct

VERSION = "PostgreSQL 18.6 (PGlite 0.5.14) on wasm32-unknown-emscripten, compiled by emcc, 32-bit"


def source_of(url: str) -> Source:
    return Source("app", url, statement_timeout=dt.timedelta(seconds=20))


def test_it_is_known_by_its_version_and_its_limits_are_named(source_url: str, tmp_path: Path) -> None:
    """`check` says them; of Postgres there is nothing to say."""
    assert source_of(source_url).limits() == []
    with psycopg.connect(source_url, autocommit=True) as app:
        app.execute("create schema disguise")
        app.execute(
            f"create function disguise.version() returns text language sql as $$ select '{VERSION}' $$"
        )
        app.execute(f"alter database {app.info.dbname} set search_path = disguise, pg_catalog, public")
    assert tuple(source_of(source_url).limits()) == PGLITE_LIMITS
    notes = [each.text for each in findings(tmp_path, source_url) if each.verdict == "note"]
    assert set(PGLITE_LIMITS) <= set(notes)


@contextmanager
def door(hangs_up: int) -> Iterator[tuple[int, list[int]]]:
    """Listen on a port, and hang up on the first connections, and on every one after; count them."""
    seen: list[int] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = listening.accept()
                    with connection:
                        seen.append(1)
                        connection.recv(1024)

        thread = threading.Thread(target=answer)
        thread.start()
        try:
            yield listening.getsockname()[1], seen
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()


def test_a_server_that_hangs_up_is_tried_a_few_times() -> None:
    """PGlite turns a connection away that comes right after the last one. What stays so is trouble that may pass."""
    with door(4) as (port, seen):
        url = f"postgresql://reader@127.0.0.1:{port}/app?sslmode=disable&gssencmode=disable"
        with pytest.raises(SourceUnreachable, match="closed the connection unexpectedly"):
            source_of(url).ping()
    assert len(seen) == len(HUNG_UP_PAUSES) + 1


def test_a_server_that_is_not_there_is_tried_once() -> None:
    """Only who hangs up is asked again."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(SourceUnreachable, match="refused"):
        source_of(f"postgresql://reader@127.0.0.1:{port}/app").ping()
