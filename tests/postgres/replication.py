"""An application whose database has a standby: its primary at work, and the standby's replay in an administrator's hand."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

from aggregator.runtime.embedded_postgres import EmbeddedPostgres
from tests.postgres.servers import home, server, standby

HEARTBEAT = "select max(beat_at) from heartbeat"

Connection = psycopg.Connection[tuple[Any, ...]]
Pair = tuple[EmbeddedPostgres, EmbeddedPostgres]
"""A primary, and a standby that streams from it."""


@contextmanager
def replicated(**settings: str) -> Iterator[Pair]:
    """Run both, with the application's tables, and a role that may read them."""
    with home() as directory, server(directory / "primary", **settings) as primary:
        with psycopg.connect(primary.url(), autocommit=True) as connection:
            connection.execute("create table heartbeat (beat_at timestamptz)")
            connection.execute("create table usage (customer text, quantity int, used_at timestamptz)")
            connection.execute("create role reader login")
            connection.execute("grant select on usage, heartbeat to reader")
        with standby(primary, directory / "standby") as follower:
            yield primary, follower


@contextmanager
def at_work(pair: Pair) -> Iterator[Connection]:
    """Be the application on the primary, with nothing left by another test."""
    with psycopg.connect(pair[0].url(), autocommit=True) as connection:
        connection.execute("truncate usage, heartbeat")
        yield connection


@contextmanager
def administered(pair: Pair) -> Iterator[Connection]:
    """Be an administrator of the standby; its replay goes on at the end."""
    with psycopg.connect(pair[1].url(), autocommit=True) as connection:
        yield connection
        connection.execute("select pg_wal_replay_resume()")


def until(connection: Connection, question: str, *values: object) -> None:
    """Wait until the answer is yes."""
    for _ in range(400):
        if connection.execute(question, values).fetchone() == (True,):
            return
        connection.execute("select pg_sleep(0.05)")
    raise AssertionError(question)


def caught_up(primary: Connection, follower: Connection) -> None:
    """Wait until the standby has replayed all that was written so far."""
    [(position,)] = primary.execute("select pg_current_wal_insert_lsn()").fetchall()
    until(follower, "select pg_last_wal_replay_lsn() >= %s::pg_lsn", position)


def paused(follower: Connection) -> None:
    """Stop the replay, and wait until it stands."""
    follower.execute("select pg_wal_replay_pause()")
    until(follower, "select pg_get_wal_replay_pause_state() = 'paused'")
