"""What `--help` says, and what shells complete: by the command as it is installed."""

import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from aggregator.cli import cli
from aggregator.cli.help import Commands


def completed(line: str, directory: Path) -> list[str]:
    """Return what bash would offer at the end of a line."""
    words = line.split(" ")
    ran = subprocess.run(
        [sys.executable, "-m", "aggregator"],
        cwd=directory,
        capture_output=True,
        text=True,
        check=True,
        env={
            **os.environ,
            "_AGGREGATOR_COMPLETE": "bash_complete",
            "COMP_WORDS": line,
            "COMP_CWORD": str(len(words) - 1),
        },
    )
    return [row.partition(",")[2] for row in ran.stdout.split()]


def test_meters_are_completed_from_the_configuration(tmp_path: Path) -> None:
    """Those of included files, too; and nothing is said where there is no file, or none that can be read."""
    assert completed("aggregator preview ", tmp_path) == []
    (tmp_path / "aggregator.yaml").write_text("include: [more/*.yaml]\nmeters: {requests: {}, seats: {}}\n")
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "one.yaml").write_text("meters: {replies: {}}\n")
    assert completed("aggregator preview re", tmp_path) == ["replies", "requests"]
    assert completed("aggregator backfill requests se", tmp_path) == ["seats"]
    (tmp_path / "other.yaml").write_text("meters: {storage: {}}\n")
    assert completed("aggregator preview --config other.yaml ", tmp_path) == ["storage"]
    (tmp_path / "aggregator.yaml").write_text("meters: [")
    assert completed("aggregator preview ", tmp_path) == []
    assert "preview" in completed("aggregator pre", tmp_path)


def groups(group: click.Group) -> list[click.Group]:
    """Return a group and the groups below it."""
    below = [each for each in group.commands.values() if isinstance(each, click.Group)]
    return [group, *(more for each in below for more in groups(each))]


@pytest.mark.parametrize("group", groups(cli), ids=lambda group: group.name)
def test_help_lists_every_command_by_a_whole_sentence(group: click.Group) -> None:
    """None is cut, none is left out, and each ends as a sentence does."""
    assert isinstance(group, Commands)
    said = " ".join(group.get_help(click.Context(group, info_name="aggregator")).split())
    for name, command in group.commands.items():
        sentence = command.get_short_help_str(limit=1_000)
        assert f"{name} {sentence}" in said
        assert sentence.endswith(".")
        assert not sentence.endswith("...")
