"""`aggregator ledger`: real processes that are killed at each step of an archive, and what a person sees of it."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from aggregator.cli import cli
from aggregator.errors import UsageError
from aggregator.ledger.database import Database
from aggregator.runtime.failpoints import ARCHIVE_POINTS
from tests.postgres.archived_world import History, after_history, in_directory, without_claims

CONFIG = """
ledger:
  url: {url}
  archive: archive
  keep: 3mo
sources:
  app: {{url: "sqlite:///app.db"}}
sinks:
  fake: {{type: csv, directory: files}}
meters:
  other:
    source: app
    sinks: [fake]
    window: 1h
    start_at: 2026-11-01T00:00Z
    stripe: {{event_name: other}}
    query: select 'c' as customer, 1 as quantity, :start as at, :end as e
"""


@pytest.fixture
def url(lived: str, create_database: Callable[[str | None], str], reached: Callable[[str], str]) -> str:
    """A ledger of four months that is to be archived."""
    return reached(create_database(lived))


@pytest.fixture
def history(url: str, tmp_path: Path) -> Iterator[History]:
    """Its questions."""
    with Database(url) as database:
        yield in_directory(after_history(database), tmp_path / "archive")


@pytest.fixture
def config(url: str, tmp_path: Path) -> Path:
    """A configuration that archives."""
    path = tmp_path / "aggregator.yaml"
    path.write_text(CONFIG.format(url=url))
    return path


def ledger(config: Path, *arguments: str, kill_at: str | None = None) -> "subprocess.CompletedProcess[str]":
    """Run a command on its own, to be killed where it is told."""
    environment = {**os.environ, **({"AGGREGATOR_KILL_AT": kill_at} if kill_at else {})}
    return subprocess.run(
        [sys.executable, "-m", "aggregator", "ledger", *arguments, "--config", str(config)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def test_killed_at_every_step_nothing_is_lost_and_nothing_twice(config: Path, history: History) -> None:
    """One process after the other goes on where the last one was killed; each question is answered as before, always."""
    before = without_claims(history.answers())
    for point in ARCHIVE_POINTS:
        restores = point == "archive_restored"
        arguments = ("restore", "api_requests", "2026-07") if restores else ("archive",)
        killed = ledger(config, *arguments, kill_at=point)
        assert killed.returncode == -signal.SIGKILL, (point, killed)
        between = without_claims(history.answers())
        assert {question for question in before if before[question] != between[question]} == set(), point
    ended = ledger(config, "archive", "--restored", "--json")
    assert ended.returncode == 0, ended
    assert json.loads(ended.stdout)["troubles"] == []
    months = [f"{each.month:%Y-%m}" for each in history.archives.listed() if each.removed_at is not None]
    assert months[:2] == ["2026-07", "2026-08"]
    after = without_claims(history.answers())
    assert {question for question in before if before[question] != after[question]} == set()
    verified = ledger(config, "verify")
    assert verified.returncode == 0, verified
    assert "hold what left the ledger, to the last row" in verified.stdout


def run(config: Path, *arguments: str) -> tuple[int, str]:
    """Run a command in this process; return its exit code, and what it said."""
    found = CliRunner().invoke(cli, ["ledger", *arguments, "--config", str(config)])
    if isinstance(found.exception, UsageError):
        return 2, str(found.exception)
    assert found.exception is None or isinstance(found.exception, SystemExit), found.exception
    return found.exit_code, found.output


def test_a_person_sees_what_is_archived_and_where(config: Path, history: History, tmp_path: Path) -> None:
    """Sizes, months and files; what waits; what is damaged; and a month that is brought back."""
    code, said = run(config, "size")
    assert code == 0
    assert "The ledger takes" in said
    assert "archived months" not in said
    history.world.execute("update aggregator.meter set reread_from = '2026-07-20Z'")
    code, said = run(config, "archive")
    assert code == 3
    assert "api_requests of 2026-07 stays open: waiting to be read again" in said
    history.world.execute("update aggregator.meter set reread_from = null")
    code, said = run(config, "archive", "api_requests")
    assert code == 0
    assert f"written to {tmp_path / 'archive'}, and" in said
    _, said = run(config, "size", "--json")
    archives = json.loads(said)["archives"]
    assert [each["state"].split()[0] for each in archives] == ["archived"] * len(archives)
    (tmp_path / "archive" / archives[0]["name"]).rename(tmp_path / "archive" / "elsewhere.parquet")
    code, said = run(config, "verify")
    assert code == 1
    assert "is not there" in said
    assert "elsewhere.parquet lies there too" in said
    (tmp_path / "archive" / "elsewhere.parquet").rename(tmp_path / "archive" / archives[0]["name"])
    assert run(config, "restore", "api_requests", "2026-07") == (
        0,
        "2026-07 of api_requests is in the ledger again: 66 slots and 66 events.\n",
    )
    assert run(config, "restore", "api_requests", "2026-07")[1].endswith("is in the ledger already.\n")
    _, said = run(config, "size")
    assert "brought back" in said


def test_status_tells_which_months_should_have_left_and_what_keeps_them(
    config: Path, history: History
) -> None:
    """And nothing of it where months are not archived, or all have left."""

    def status(*arguments: str) -> str:
        found = CliRunner().invoke(cli, ["status", *arguments, "--config", str(config)])
        assert found.exit_code == 0, found
        return found.output

    history.world.execute("update aggregator.meter set reread_from = '2026-07-20Z'")
    assert "cannot be archived: waiting to be read again." in status()
    [old] = json.loads(status("--json"))["old_months"]
    assert (old["meter"], old["first"][:7], old["reasons"]) == (
        "api_requests",
        "2026-07",
        ["waiting to be read again"],
    )
    history.world.execute("update aggregator.meter set reread_from = null")
    said = status()
    assert "api_requests: 2026-07 and " in said
    assert "`aggregator ledger archive api_requests` does it now." in said
    assert run(config, "archive")[0] == 0
    assert json.loads(status("--json"))["old_months"] == []
    config.write_text(config.read_text().replace("  keep: 3mo\n", ""))
    assert "older than `ledger.keep`" not in status()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("archive", "api_request"), "The ledger knows no meter api_request; it knows: api_requests."),
        (("restore", "api_requests", "2026-7-1"), "'2026-7-1' is no month; write it as 2026-03."),
        (("restore", "api_requests", "2020-01"), "2020-01 of api_requests is not archived"),
    ],
)
def test_what_is_not_there_is_named(config: Path, arguments: tuple[str, ...], said: str) -> None:
    """With what to do instead."""
    code, found = run(config, *arguments)
    assert code == 2
    assert said in found


def test_a_configuration_that_archives_nothing_says_what_to_write(config: Path) -> None:
    """Neither where, nor what is kept."""
    config.write_text(config.read_text().replace("  keep: 3mo\n", ""))
    assert "`ledger.keep` does not say how long" in run(config, "archive")[1]
    config.write_text(config.read_text().replace("  archive: archive\n", ""))
    assert "`ledger.archive` does not say where" in run(config, "verify")[1]
    assert "Every month stays in the ledger" in run(config, "size")[1]
