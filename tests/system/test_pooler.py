"""Ledger and source behind pgbouncer in transaction mode: nothing of ours may live longer than a transaction."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest

from aggregator.core.windows import floor
from aggregator.errors import LedgerUnreachable
from aggregator.ledger.database import Database
from aggregator.runtime.clock import utcnow
from tests.pooler import SESSIONS, Pooler
from tests.system.harness import METER, MINUTE, Load, Process, Sandbox, Watch, World, until

CUSTOMERS = 20

LEFT_BEHIND = """
select 'setting ' || name from pg_settings
 where source = 'session' and name not in ('application_name', 'client_encoding', 'DateStyle', 'TimeZone',
                                           'IntervalStyle', 'standard_conforming_strings')
union all select 'statement ' || statement from pg_prepared_statements
union all select 'lock' from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()
union all select 'cursor ' || name from pg_cursors
"""
"""What a transaction left on its session. The parameters that pgbouncer itself carries over are not ours
(pgbouncer.org/config.html, "track_extra_parameters")."""


@pytest.fixture
def pooled(
    tmp_path: Path,
    create_database: Callable[[str | None], str],
    sandbox: Sandbox,
    pooler: Pooler,
) -> Iterator[World]:
    """A world whose processes reach both databases through the pooler; we look at them directly. The ledger is empty."""
    source_url, ledger_url = create_database(None), create_database(None)
    with World(tmp_path, source_url, ledger_url, sandbox) as world:
        world.config["sources"]["app"]["url"] = pooler.url(source_url)
        world.config["ledger"]["url"] = pooler.url(ledger_url)
        world.create_usage()
        yield world


def left_behind(url: str) -> list[str]:
    """Look at every session that the pooler has of a database, each held by a transaction of its own meanwhile."""
    found = []
    with ExitStack() as stack:
        for _ in range(SESSIONS):
            connection = stack.enter_context(psycopg.connect(url, prepare_threshold=None))
            found += [what for (what,) in connection.execute(LEFT_BEHIND)]
    return found


def test_all_that_is_done_once_goes_through_a_pooler(pooled: World, pooler: Pooler) -> None:
    """Migrating, backfilling twice and a single pass bill what was used, and leave nothing on any session."""
    pooled.use_much(CUSTOMERS, minutes=60)
    pooled.write()
    assert pooled.run("migrate").code == 0
    found = {each["what"]: each["verdict"] for each in pooled.run("check", "--json").json["findings"]}
    assert (found["ledger"], found[f"meter {METER}"]) == ("ok", "ok")
    first, second = (
        pooled.run("backfill", "--from", f"{pooled.start:%Y-%m-%dT%H:%MZ}", "--json").json["meters"][0]
        for _ in range(2)
    )
    assert (first["new"], second["new"], second["corrections"]) == (CUSTOMERS * 60, 0, 0)
    pooled.use("cus_1", 5, minute=61)
    assert pooled.once().code == 0
    assert pooled.run("status", "--json").json["meters"][0]["meter"] == METER
    pooled.quiet()
    assert [*left_behind(pooler.url(pooled.source_url)), *left_behind(pooled.config["ledger"]["url"])] == []


def test_two_daemons_under_load_share_a_ledger_through_a_pooler(pooled: World, pooler: Pooler) -> None:
    """What each holds is held by rows, not by sessions: nothing is lost, doubled, or ever too much."""
    pooled.write()
    assert pooled.run("migrate").code == 0
    pooled.use_much(CUSTOMERS, minutes=60)
    newest = floor(utcnow(), MINUTE) - MINUTE
    load = Load(pooled, customers=CUSTOMERS, rows_per_second=150, newest=newest, seed=7)
    with Watch(pooled) as watch, load:
        daemons = [pooled.daemon() for _ in range(2)]
        until(
            lambda: all(map(works, daemons)) and corrections(pooled) > 1_000,
            "both daemons have read or sent, and a thousand corrections were sent",
            seen=lambda: f"{corrections(pooled)} corrections; {daemons[0].err[-1000:]}",
        )
        load.stop()
        pooled.quiet()
        watch.look()
    assert watch.wrong == []
    assert pooled.sandbox.stats()["double_counted"] == 0
    for daemon in daemons:
        assert daemon.stop() == -15
        assert [daemon.log(event) for event in ("unexpected_error", "pass_failed", "delivery_failed")] == [
            [],
            [],
            [],
        ]
    assert [*left_behind(pooler.url(pooled.source_url)), *left_behind(pooled.config["ledger"]["url"])] == []


def works(daemon: Process) -> bool:
    """Say whether a daemon has done its share: which of them reads and which sends is left to them."""
    return bool(daemon.log("pass_committed") or daemon.log("batch_delivered"))


def corrections(world: World) -> int:
    """How many events were accepted that change what was billed before."""
    found = world.one("select count(*) from aggregator.event where revision > 0 and state = 'accepted'")
    return int(found)


def test_a_session_that_dies_behind_the_pooler_is_an_outage(pooled: World) -> None:
    """It may pass by itself, so it is said to be unreachable, not to refuse; the next transaction finds another session."""
    pooled.write()
    assert pooled.run("migrate").code == 0
    with Database(pooled.config["ledger"]["url"]) as database:

        def die() -> None:
            with database.transaction() as connection:
                [(pid,)] = connection.execute("select pg_backend_pid()").fetchall()
                pooled.ledger("select pg_terminate_backend(%s, 5000)", pid)

        with pytest.raises(LedgerUnreachable):
            die()
        with database.transaction() as connection:
            assert connection.execute("select 1").fetchall() == [(1,)]
