"""A ledger that is backed up and restored by the very commands of docs/backup.md: it stops, is adopted, and ends equal."""

import datetime as dt
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from aggregator.ledger.database import migrate
from aggregator.runtime.embedded_postgres import EmbeddedPostgres
from tests.postgres.servers import OF_THE_OTHER_SERVER, home, server
from tests.system.harness import Sandbox, World

PAGE = (Path(__file__).parents[2] / "docs" / "backup.md").read_text()
IN_SETTINGS = "/var/backups/ledger"


def commands(heading: str) -> list[str]:
    """Return the blocks of commands below a heading of the page, each as a script."""
    text = re.split(r"^## ", PAGE.partition(f"\n## {heading}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [re.sub(r"^\$ ", "", block, flags=re.MULTILINE) for kind, block in blocks if not kind]


class Shell:
    """Runs scripts of the page with the programs of a server, as the user who owns its directory."""

    def __init__(self, postgres: EmbeddedPostgres, **environment: str) -> None:
        self._owner = postgres.directory.stat().st_uid if os.geteuid() == 0 else None
        self._environment = {"PATH": f"{postgres.programs}:{os.environ['PATH']}", **environment}

    def __call__(self, script: str, **more: str) -> None:
        """Run one; each of its commands has to end well."""
        done = subprocess.run(
            ["sh", "-eu", "-c", script],
            env=self._environment | more,
            user=self._owner,
            cwd="/",
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, done.stderr


@pytest.fixture
def backups() -> Iterator[Path]:
    """Where backups go: a directory that the server's user can reach."""
    with home() as directory:
        directory.chmod(0o777)
        (directory / "wal").mkdir()
        (directory / "wal").chmod(0o777)
        yield directory


def goes_on_without_loss(world: World, restore: Callable[[], None]) -> None:
    """Send more than the backup knows, restore it, and find everything billed once."""
    world.use("cus_1", 7, 4)
    world.use("cus_2", 3, 5)
    world.once()
    assert world.billed() == world.used()
    restore()
    world.use("cus_3", 2, 6)
    sent = world.sent()
    stopped = world.once()
    assert (stopped.code, world.sent()) == (1, sent), stopped.said
    assert "wound back" in stopped.said
    adopted = world.run("adopt", "--yes", "--quiet", "0s", "--json")
    assert adopted.code == 0, adopted.said
    assert world.once().code == 0
    assert world.billed() == world.used()


def test_a_dump(world: World, postgres: EmbeddedPostgres, backups: Path) -> None:
    """Restored at once, it goes on where it was; restored after more was sent, it stops by itself and is adopted."""
    assert world.ledger_url is not None
    take, restore = commands("By pg_dump")
    shell = Shell(postgres, LEDGER_URL=world.ledger_url, BACKUPS=str(backups))
    world.use("cus_1", 5, 1)
    assert world.once().code == 0
    shell(take)
    shell(restore)
    world.use("cus_1", 5, 2)
    assert world.once().code == 0
    assert world.billed() == world.used()
    goes_on_without_loss(world, lambda: shell(restore))


def settings(backups: Path) -> dict[str, str]:
    """Return what the page tells to set, for a directory of ours."""
    [block] = re.findall(r"^```ini\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    found = dict(line.split(" = ", 1) for line in block.splitlines())
    return {name: value.strip("'").replace(IN_SETTINGS, str(backups)) for name, value in found.items()}


def test_a_point_in_time(tmp_path: Path, source_url: str, sandbox: Sandbox, backups: Path) -> None:
    """The server goes back to before the latest claims, on another timeline: the ledger stops by itself and is adopted."""
    take, restore = commands("To a point in time")
    with home() as directory, ExitStack() as running:
        data = directory / "pg"
        primary = running.enter_context(server(data, fsync="on", **settings(backups)))
        url = primary.url()
        migrate(url)
        os.chown(directory, data.stat().st_uid, -1)
        shell = Shell(primary, LEDGER_URL=url, BACKUPS=str(backups), PGDATA=str(data))
        with World(tmp_path, source_url, url, sandbox) as world:
            world.create_usage()
            world.use("cus_1", 5, 1)
            assert world.once().code == 0
            shell(take)
            world.use("cus_1", 4, 2)
            assert world.once().code == 0
            until = world.one("select clock_timestamp()").astimezone(dt.UTC).isoformat(" ")

            def set_back() -> None:
                running.close()  # a server that is stopped in order has archived all it wrote
                shell(restore, UNTIL=until)
                for name in OF_THE_OTHER_SERVER:
                    (data / name).unlink(missing_ok=True)
                running.enter_context(EmbeddedPostgres(data))

            goes_on_without_loss(world, set_back)
