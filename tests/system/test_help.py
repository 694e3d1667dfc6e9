"""What `--help` says, and what shells complete: by the command as it is installed."""

import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from aggregator.cli import COMMANDS, cli
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


IMPORTED = """
import atexit, sys
before = set(sys.modules)
atexit.register(lambda: print(*sorted(set(sys.modules) - before), file=sys.stderr))
from aggregator.cli import main
sys.argv[1:] = {arguments}
main()
"""


def imported(*arguments: str) -> set[str]:
    """Return what is imported by a command line: our modules, and of others the packages, without Python's own."""
    call = [sys.executable, "-c", IMPORTED.format(arguments=list(arguments))]
    names = subprocess.run(call, capture_output=True, text=True, check=True).stderr.split()
    whole = {name if name.startswith("aggregator") else name.partition(".")[0] for name in names}
    return whole - sys.stdlib_module_names


def test_help_imports_no_command_and_no_library_but_click() -> None:
    """So it answers at once, however slow the machine."""
    ours = {
        "aggregator",
        "aggregator.cli",
        "aggregator.cli.exit_codes",
        "aggregator.cli.help",
        "aggregator.errors",
    }
    assert imported("--help") == ours | {"click"}
    assert imported("--version") - {"importlib_metadata"} == ours | {"click"}


@pytest.mark.parametrize("name", [name for part in COMMANDS.values() for name in part if name != "sandbox"])
def test_the_help_of_a_command_imports_nothing_that_it_works_with(name: str) -> None:
    """No library but click, and of ours only what commands share with one another."""
    found = imported(name, "--help")
    assert {each for each in found if not each.startswith("aggregator")} == {"click"}
    parts = {each for each in found if not each.startswith("aggregator.cli")}
    assert parts - {"click"} <= {
        "aggregator",
        "aggregator.core",
        "aggregator.core.age_limits",
        "aggregator.core.shown",
        "aggregator.errors",
        "aggregator.runtime",
        "aggregator.runtime.terminal",
    }


def test_the_list_of_commands_says_what_each_says_of_itself() -> None:
    """It is written down apart from them, so that none is imported to be listed."""
    listed = {name: sentence for part in COMMANDS.values() for name, sentence in part.items()}
    said = {name: command.get_short_help_str(limit=1_000) for name, command in cli.commands.items()}
    assert listed == said


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


@pytest.mark.parametrize("asked", ["-h", "--help"])
def test_help_is_asked_for_alike_of_every_command(asked: str) -> None:
    """The sandbox too, whose options are its own."""
    said = subprocess.run(
        [sys.executable, "-m", "aggregator", "sandbox", asked],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert said.stdout.startswith("Usage: aggregator sandbox [OPTIONS]")
