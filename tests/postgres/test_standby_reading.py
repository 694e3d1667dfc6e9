"""Collecting from a real standby and a real subscriber: what has not arrived there is never taken for no usage."""

import datetime as dt
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from typing import Any

import psycopg
import pytest

from aggregator.core import windows
from aggregator.core.model import Decreases, Span
from aggregator.ledger.database import Database
from aggregator.source import Source
from tests.postgres.replication import (
    HEARTBEAT,
    Connection,
    Pair,
    caught_up,
    paused,
    replicated,
    until,
)
from tests.postgres.servers import home, server
from tests.postgres.world import HOUR, METER, MINUTE, World

pytestmark = [pytest.mark.xdist_group("transactions"), pytest.mark.direct]

QUERY = """
select customer, sum(quantity) as quantity, max(used_at) as at, date_trunc('hour', used_at) as "window"
  from usage where used_at >= :start and used_at < :end group by 1, 4
"""


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    """A primary, and a standby that streams from it."""
    with replicated(wal_level="logical") as pair:
        yield pair


def beat(primary: Connection) -> None:
    primary.execute("insert into heartbeat values (clock_timestamp())")


def world(database: Database, url: str, freshness: str | None) -> World:
    """A daemon that reads a server by a meter whose three last hours have just settled."""
    end = windows.floor(dt.datetime.now(dt.UTC), HOUR)  # noqa: TID251 - the servers' clocks are real
    meter = replace(
        METER,
        query=QUERY,
        start_at=end - 3 * HOUR,
        decreases=Decreases.APPLY,
        shrink_guard=Decimal(1),
        delay=dt.timedelta(0),
    )
    source: Any = Source("app", url, statement_timeout=MINUTE, freshness=freshness)
    made = World(database, meter=meter, source=source)
    made.now = dt.datetime.now(dt.UTC)  # noqa: TID251 - the same
    return made


def use(connection: Connection, world: World, hour: int, quantity: int) -> None:
    """Let a customer use something in one of the three hours."""
    at = world.meter.start_at + hour * HOUR + MINUTE
    connection.execute("insert into usage values ('cus_a', %s, %s)", [quantity, at])


@pytest.mark.parametrize("freshness", [None, HEARTBEAT])
def test_a_lagging_standby_lowers_no_bill_and_passes_no_window_over(
    pair: Pair,
    primary: Connection,
    follower: Connection,
    database: Database,
    freshness: str | None,
) -> None:
    """It answers in the primary's place: no revisit, no backfill and no first reading goes beyond what it has replayed."""
    beat(primary)
    caught_up(primary, follower)
    paused(follower)
    before = world(database, pair[0].url(), None)
    for hour in range(3):
        use(primary, before, hour, 100)
    beat(primary)
    before.collect()
    before.deliver()
    assert before.booked("cus_a") == 300

    after = world(database, pair[1].url(), freshness)
    after.sinks = before.sinks
    span = Span(after.meter.start_at, after.meter.start_at + 3 * HOUR)
    for result in (after.collect(), after.backfill(span)):
        assert (result.rows, result.planned, result.mark) == (0, 0, span.end)
        assert result.left_from is not None
    follower.execute("select pg_wal_replay_resume()")
    use(primary, after, 1, 5)
    for _ in range(200):  # its last commit proves all but the last second
        beat(primary)
        caught_up(primary, follower)
        result = after.backfill(span)
        if result.left_from is None:
            break
    assert (result.left_from, result.rows) == (None, 3)
    after.deliver()
    assert before.booked("cus_a") == 305


def test_a_subscriber_is_read_up_to_its_heartbeat(
    pair: Pair, primary: Connection, database: Database
) -> None:
    """Logical replication shows nothing of a lag, and the subscriber is no standby: only `freshness` tells."""
    with (
        home() as directory,
        server(directory / "subscriber") as subscriber,
        psycopg.connect(subscriber.url(), autocommit=True) as copy,
    ):
        copy.execute("create table heartbeat (beat_at timestamptz)")
        copy.execute("create table usage (customer text, quantity int, used_at timestamptz)")
        primary.execute("create publication app for table usage, heartbeat")
        told = psycopg.conninfo.make_conninfo(pair[0].url())
        copy.execute(f"create subscription app connection {psycopg.sql.quote(told)} publication app")
        try:
            until(copy, "select bool_and(srsubstate = 'r') from pg_subscription_rel")
            seen = world(database, subscriber.url(), HEARTBEAT)
            for hour in range(3):
                use(primary, seen, hour, 100)
            until(copy, "select count(*) = 3 from usage")
            assert seen.collect().mark == seen.meter.start_at, "no heartbeat has arrived"
            copy.execute("alter subscription app disable")
            until(
                copy,
                "select not exists (select from pg_stat_subscription where subname = 'app' and pid is not null)",
            )
            use(primary, seen, 2, 11)
            beat(primary)
            assert seen.collect().mark == seen.meter.start_at
            copy.execute("alter subscription app enable")
            until(copy, "select count(*) > 0 from heartbeat")
            seen.now = dt.datetime.now(dt.UTC)  # noqa: TID251 - the servers' clocks are real
            result = seen.collect()
            assert (result.mark, result.rows) == (seen.meter.start_at + 3 * HOUR, 3)
            seen.deliver()
            assert seen.booked("cus_a") == 311
            names = {each.name for each in seen.source.tables(QUERY, Span(seen.now - HOUR, seen.now))}  # type: ignore[attr-defined]  # it is a real one here
            assert names == {"public.usage"}
        finally:
            copy.execute("alter subscription app disable")
            copy.execute("alter subscription app set (slot_name = none)")
            copy.execute("drop subscription app")
            primary.execute("drop publication app")
            primary.execute(
                "select pg_terminate_backend(active_pid) from pg_replication_slots where slot_name = 'app' and active"
            )
            until(primary, "select not active from pg_replication_slots where slot_name = 'app'")
            primary.execute("select pg_drop_replication_slot('app')")
