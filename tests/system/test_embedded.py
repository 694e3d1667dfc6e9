"""With no `ledger:` at all: a Postgres of our own in the state directory, for as long as somebody uses it."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from aggregator.runtime.embedded_postgres import EmbeddedPostgres
from tests.system.harness import Sandbox, World, until

STATE = ".aggregator"


@pytest.fixture
def world(tmp_path: Path, source_url: str, sandbox: Sandbox) -> Iterator[World]:
    """A world without a ledger of its own."""
    with World(tmp_path, source_url, None, sandbox) as world:
        world.create_usage()
        yield world
    with EmbeddedPostgres(tmp_path / STATE / "postgres"):
        pass  # the last one to leave stops it


def server(world: World) -> int | None:
    """Return the process id of the server in the state directory, if one runs."""
    path = world.directory / STATE / "postgres" / "postmaster.pid"
    if not path.exists():
        return None
    pid = int(path.read_text().split()[0])
    return pid if Path(f"/proc/{pid}").exists() else None


def left_of(world: World) -> list[str]:
    """Return the command lines of all processes that work in the state directory."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if str(world.directory / STATE) in line:
            found.append(line)
    return found


def billed(world: World) -> None:
    """Wait until what is billed is what was used."""
    until(lambda: world.billed() == world.used(), "what is billed is what was used", seen=world.billed)


def test_everything_works_in_the_state_directory_and_nothing_is_left_running(world: World) -> None:
    """Daemon, `status` beside it, a killed daemon, the next one; a clean end stops the server and loses nothing."""
    world.use_much(customers=5, minutes=5)
    first = world.daemon()
    billed(world)
    beside = world.run("status", "--json")
    assert (beside.code, beside.json["meters"][0]["due"]) == (0, 0)
    pid = server(world)
    assert left_of(world)
    assert pid is not None, "a visitor does not stop the server under the daemon"

    first.kill()
    assert server(world) == pid, "a server outlives a daemon that was killed"
    world.use("cus_1", 5, minute=3)
    second = world.daemon()
    assert server(world) == pid, "the next daemon joins it"
    billed(world)
    assert second.stop() == -signal.SIGTERM
    until(lambda: not left_of(world), "no process of it is left", seen=lambda: left_of(world))
    assert server(world) is None

    world.use("cus_2", 7, minute=4)
    ran = world.once()
    assert ran.code == 0, ran.said
    assert world.billed() == world.used()
    assert not left_of(world)
    assert world.sandbox.stats()["double_counted"] == 0


def test_ctrl_c_in_a_terminal_ends_the_daemon_before_its_server(world: World) -> None:
    """A terminal signals the whole group; the server must not go before what is in the air is settled."""
    world.use_much(customers=20, minutes=5)
    world.sink["timeout"] = "10s"
    world.sandbox.set_faults(latency_seconds=1.0)
    daemon = world.daemon()
    until(lambda: world.sandbox.stats()["in_flight"] >= 20, "calls are in the air")
    os.killpg(daemon.pid, signal.SIGINT)
    assert daemon.ended() == -signal.SIGINT
    assert not daemon.log("delivery_failed")
    assert not left_of(world)
    with (
        EmbeddedPostgres(world.directory / STATE / "postgres") as again,
        psycopg.connect(again.url()) as connection,
    ):
        [(open_claims,)] = connection.execute(
            "select count(*) from aggregator.claim where settled_at is null"
        )
    assert open_claims == 0
    world.sandbox.set_faults()
    assert world.once().code == 0
    assert world.billed() == world.used()
    assert world.sandbox.stats()["duplicates_refused"] == 0


def test_a_server_that_died_while_it_started_does_not_keep_the_next_from_starting(world: World) -> None:
    """It leaves a postmaster.pid without its last lines, as a machine that lost its power then may."""
    world.use("cus_a", 1, minute=1)
    assert world.once().code == 0
    dead = world.start_process("schema")
    dead.ended()
    directory = world.directory / STATE / "postgres"
    (directory / "postmaster.pid").write_text(f"{dead.pid}\n{directory}\n1700000000\n5432\n")
    world.use("cus_a", 2, minute=1)
    ran = world.once()
    assert ran.code == 0, ran.said
    assert world.billed() == world.used()
