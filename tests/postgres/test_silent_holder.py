"""A process that is paused in the middle of writing a pass: it holds nobody up for long, and changes nothing later."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from aggregator.collection.rounds import Collected
from aggregator.errors import LeaseLost
from aggregator.ledger.database import Database
from aggregator.runtime.clock import monotonic
from tests.postgres.world import World

pytestmark = pytest.mark.sessions

SOON_SECONDS = 30.0

SLEEPER = """
import datetime as dt, os, signal, sys
from aggregator.ledger.passes import changes, copy_format, writer
from aggregator.ledger.database import Database
from tests.postgres.world import World

kind, url, lease = sys.argv[1:]
plain = writer.copy_binary

def slowly(blocks):
    for block in blocks:
        yield block[: len(block) // 2]
        os.kill(os.getpid(), signal.SIGSTOP)
        yield block[len(block) // 2 :]

def copy(connection, table, columns, fields):
    if table != "aggregator.outbox":
        return plain(connection, table, columns, fields)
    whole = b"".join((copy_format.BINARY_BEGINS, *fields, copy_format.BINARY_ENDS))
    with connection.cursor().copy(f"copy {table} ({columns}) from stdin with (format binary)") as stream:
        for part in slowly([whole]):
            stream.write(part)

with Database(url) as database:
    world = World(database, lease=dt.timedelta(seconds=float(lease)))
    for customer in range(500):
        world.source.use(f"cus_{customer}", world.at(0.5), 1)
    world.at(2)
    if kind == "result":
        writer.copy_binary = copy
    else:
        from aggregator.ledger.passes.spool import Spool
        whole = Spool.blocks
        Spool.blocks = lambda self: slowly(whole(self))
    try:
        world.collect()
    except Exception as error:
        print(type(error).__name__, flush=True)
    else:
        print("committed", flush=True)
"""


@contextmanager
def sleeping(kind: str, url: str, lease: float = 0.1) -> Iterator[subprocess.Popen[str]]:
    """Run a process that reads a meter, under a lease of so many seconds, and stops in the middle of a COPY."""
    told = [sys.executable, "-c", SLEEPER, kind, url, str(lease)]
    with subprocess.Popen(told, stdout=subprocess.PIPE, text=True) as process:
        try:
            _, status = os.waitpid(process.pid, os.WUNTRACED)
            assert os.WIFSTOPPED(status), "it ended before it came so far"
            yield process
        finally:
            process.kill()


def until(condition: Callable[[], bool]) -> None:
    """Wait for what is about to be so."""
    pause, end = threading.Event(), monotonic() + SOON_SECONDS
    while not condition():
        assert monotonic() < end, "it did not come about"
        pause.wait(0.05)


def woken(process: subprocess.Popen[str]) -> str:
    """Let it go on, and return how it ended."""
    process.send_signal(signal.SIGCONT)
    said, _ = process.communicate(timeout=SOON_SECONDS)
    return said.strip()


def test_who_sleeps_while_readings_are_brought_over_holds_nothing(ledger_url: str) -> None:
    """The meter is read by another as soon as the lease has run out; the sleeper finds it lost."""
    with sleeping("readings", ledger_url) as sleeper, Database(ledger_url) as database:
        world = World(database)
        world.source.use("cus_1", world.at(0.5), 3)
        world.at(2)
        until(lambda: not world.collect().busy)
        assert world.deliver().accepted == 1
        assert woken(sleeper) == "LeaseLost"
        assert world.one("select count(*) from aggregator.event") == 1


def test_who_sleeps_while_the_result_is_written_is_ended(
    ledger_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No time limit of the server does it. Its client must have been silent for a while, and it is said whose it was."""
    with sleeping("result", ledger_url) as sleeper, Database(ledger_url) as database:
        world = World(database)
        world.source.use("cus_1", world.at(0.5), 3)
        world.at(2)
        expired = "select lease_until < clock_timestamp() from aggregator.meter"
        until(lambda: bool(world.one(expired)))
        assert world.collect().busy, "it may be slow, and not silent"
        monkeypatch.setattr("aggregator.ledger.silent_holder.SILENT_SECONDS", 0.1)
        results: list[Collected] = []

        def taken() -> bool:
            results.append(world.collect())
            return not results[-1].busy

        until(taken)
        assert "of role postgres" in (results[-1].took_from or "")
        assert world.deliver().accepted == 1
        assert woken(sleeper) in {"LedgerUnreachable", "LedgerError"}, (
            "behind a pooler it has several words for it"
        )
        assert world.one("select count(*) from aggregator.event") == 1


def test_who_has_its_lease_is_not_ended_however_silent(
    ledger_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pause that is shorter than the lease costs nothing: it commits once it wakes."""
    with sleeping("result", ledger_url, lease=3_600) as sleeper, Database(ledger_url) as database:
        world = World(database)
        world.at(2)
        monkeypatch.setattr("aggregator.ledger.silent_holder.SILENT_SECONDS", 0.0)
        silent = (
            "select exists (select from pg_stat_activity where wait_event = 'ClientRead' and query ~ '^copy')"
        )
        until(lambda: bool(world.one(silent)))
        assert world.collect().busy
        assert woken(sleeper) == "committed"
        assert world.one("select count(*) from aggregator.event") == 500


@pytest.mark.direct
def test_who_may_not_be_ended_is_named(
    ledger_url: str, plain_role_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A role that is no member of the sleeper's can neither see nor end it: a person is told which session it is."""
    monkeypatch.setattr("aggregator.ledger.silent_holder.SILENT_SECONDS", 0.1)
    with sleeping("result", ledger_url), Database(plain_role_url) as database:
        world = World(database)
        until(lambda: bool(world.one("select lease_until < clock_timestamp() from aggregator.meter")))
        with pytest.raises(
            LeaseLost,
            match=r"Meter api_requests is held by session \d+ of role postgres.*pg_terminate_backend",
        ):
            world.collect()
