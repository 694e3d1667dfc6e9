"""Three roles with what is printed for them, and nothing else: the owner migrates, the daemon bills, the reader looks."""

import json
import re
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest
from click.testing import CliRunner, Result

from aggregator.cli import cli
from aggregator.ledger.privileges import Names
from tests.postgres.servers import as_role
from tests.system.harness import METER, MINUTE, Sandbox, World
from tests.system.test_metrics import figures
from tests.system.test_page_alone import asked, page


@pytest.fixture
def names() -> Names:
    """Three names that no other test has: roles belong to the server."""
    its = uuid.uuid4().hex[:8]
    return Names(f"owner_{its}", f"daemon_{its}", f"reader_{its}")


def options(names: Names) -> list[str]:
    """Return how the command is told what the roles are called."""
    return [word for kind, name in names._asdict().items() for word in (f"--{kind}", name)]


def granted(part: str, names: Names, database: str) -> str:
    """Return what `aggregator grants` prints."""
    words = ["grants", part, *options(names), "--database", database]
    printed = CliRunner().invoke(cli, words, catch_exceptions=False)
    assert printed.exit_code == 0
    return printed.output


def execute(url: str, statements: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(statements)


@pytest.fixture
def world(
    tmp_path: Path,
    source_url: str,
    create_database: Callable[[str | None], str],
    sandbox: Sandbox,
    names: Names,
) -> Iterator[World]:
    """A ledger that was set up as the page says: by its owner, in a database of somebody else's."""
    url = create_database(None)
    database = urlsplit(url).path.lstrip("/")
    execute(url, granted("roles", names, database))
    with World(tmp_path, source_url, url, sandbox) as world:
        world.create_usage()
        write(world, as_role(url, names.owner))
        Run(world.write())("migrate")
        execute(as_role(url, names.owner), granted("tables", names, database))
        yield world


def write(world: World, ledger: str) -> None:
    """Let the configuration name a role's ledger."""
    world.config["ledger"]["url"] = ledger
    world.write()


class Run:
    """Runs commands as a role of the ledger."""

    def __init__(self, config: Path) -> None:
        self._config = str(config)

    def __call__(self, *words: str) -> Result:
        """Run one that ends well."""
        result = CliRunner().invoke(cli, [*words, "--config", self._config])
        assert result.exit_code == 0, f"{words}: {result.output} {result.exception!r}"
        return result

    def fails(self, *words: str) -> str:
        """Return why one fails."""
        result = CliRunner().invoke(cli, [*words, "--config", self._config])
        assert result.exit_code == 1, f"{words}: {result.output}"
        return f"{result.output} {result.exception}"


def as_the(world: World, role: str) -> Run:
    """Return how commands are run by a role of the ledger."""
    assert world.ledger_url is not None
    write(world, as_role(world.ledger_url, role))
    return Run(world.write())


def rows_of(world: World) -> list[tuple[str, int]]:
    """Return how many rows each table of the ledger has."""
    tables = world.ledger("select tablename from pg_tables where schemaname = 'aggregator' order by 1")
    return [(name, world.one(f"select count(*) from aggregator.{name}")) for (name,) in tables]


def test_each_role_can_do_its_part(world: World, names: Names) -> None:
    """The daemon's bills, corrects, decides and adopts; the reader's shows all of it, and writes nothing."""
    begin, end = f"{world.start:%Y-%m-%dT%H:%MZ}", f"{world.start + 9 * MINUTE:%Y-%m-%dT%H:%MZ}"
    for minute in range(5):
        world.use("cus_1", 5, minute)
        world.use("cus_2", 7, minute)
    daemon = as_the(world, names.daemon)
    findings = json.loads(daemon("check", "--json").stdout)["findings"]
    assert not [each for each in findings if each["what"] == "role of ledger"]
    daemon("run", "--once")
    assert world.billed() == world.used()
    world.source("update usage set quantity = 6 where customer = 'cus_2'")
    daemon("backfill", "--from", begin, "--to", end, "--no-send")
    held = [str(row["event"]) for row in json.loads(daemon("events", "list", "--json").stdout)["events"]]
    assert len(held) == 5
    daemon("events", "dismiss", held[0], "--reason", "tried")
    daemon("events", "release", *held)
    daemon("run", "--once")
    assert world.billed() == world.used()
    billing: list[tuple[str, ...]] = [
        ("preview", METER, "--from", begin),
        ("reconcile", METER, "--json"),
        ("adopt", "--stop"),
        ("adopt", "--yes", "--quiet", "0s"),
        ("run", "--once"),
    ]
    for words in billing:
        daemon(*words)
    assert world.billed() == world.used()
    before = rows_of(world)
    reader = as_the(world, names.reader)
    looking: list[tuple[str, ...]] = [
        ("status",),
        ("usage",),
        ("usage", METER, "--from", begin, "--live"),
        ("runs",),
        ("events", "list"),
        ("files", "list"),
        ("lateness",),
        ("statement", "cus_1"),
        ("explain", METER, "--customer", "cus_1", "--window", begin),
        ("notify",),
        ("migrate",),
        ("grants", "--check", *options(names)),
    ]
    for words in looking:
        reader(*words)
    with page(world) as (_, url):
        status, shown = asked(f"{url}/")
        links = sorted({link for link in re.findall(r'href="(/[^"#]*)"', str(shown)) if "logout" not in link})
        assert status == 200
        assert [(link, asked(url + link)[0]) for link in links] == [(link, 200) for link in links]
        assert figures(url)["aggregator_ledger_up"] == "1"
    for refused in (("run", "--once"), ("events", "dismiss", held[0]), ("adopt", "--stop")):
        said = reader.fails(*refused)
        assert "permission denied" in said
        assert "`aggregator grants` prints what each role of the ledger needs" in said
    assert rows_of(world) == before


def test_a_role_that_only_looks_needs_no_daemon_before_it(world: World, names: Names) -> None:
    """A ledger that nobody has used yet is shown as it is: empty."""
    reader = as_the(world, names.reader)
    assert "knows no meter yet" in reader("status").output
    assert "does not know yet" in reader.fails("notify")
