"""`check --offline`, and who runs it before a change is merged: a hook of pre-commit, and an action of GitHub."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from ruamel.yaml import YAML

from aggregator.cli import cli
from aggregator.cli.exit_codes import ExitCode
from aggregator.errors import ConfigError, UsageError

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "config" / "minimal.yaml"
NOWHERE = {"APP_DATABASE_URL": "postgresql://nobody@127.0.0.1:1/app", "SANDBOX_URL": "http://127.0.0.1:1"}
"""Addresses at which nobody answers, so that who asks there says so."""


def checked(path: Path, *options: str) -> Result:
    """Run the command within this process."""
    return CliRunner(env=NOWHERE).invoke(cli, ["check", "--config", str(path), *options])


def read(name: str) -> Any:
    """Return what a YAML file says."""
    return YAML(typ="safe").load(ROOT / name)


def test_it_asks_nobody_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither source nor sink answers, and no ledger is made; all the same the configuration is right."""
    monkeypatch.chdir(tmp_path)
    ran = checked(CONFIG, "--offline", "--json")
    assert ran.exit_code == ExitCode.DONE, ran.output
    answer = json.loads(ran.stdout)
    assert answer["ok"]
    assert [each["verdict"] for each in answer["findings"]] == ["ok", "note"]
    assert "no source, ledger or sink was asked" in answer["findings"][1]["text"]
    assert list(tmp_path.iterdir()) == []


def test_it_finds_what_is_wrong_in_the_files(tmp_path: Path) -> None:
    """As every command does."""
    wrong = tmp_path / "aggregator.yaml"
    wrong.write_text(CONFIG.read_text().replace("window: 1h", "window: 7h"))
    ran = checked(wrong, "--offline")
    assert isinstance(ran.exception, ConfigError)
    assert "window" in str(ran.exception)


@pytest.mark.parametrize("option", [["--prove-source", "app"], ["--send-test-event"]])
def test_it_goes_with_nothing_that_asks(option: list[str]) -> None:
    """Rather than leave out what was called for."""
    ran = checked(CONFIG, "--offline", *option)
    assert isinstance(ran.exception, UsageError)
    assert "--offline asks nobody" in str(ran.exception)


def run(words: list[str], folder: Path, **env: str) -> "subprocess.CompletedProcess[str]":
    """Run a command as a hook or an action does, with the program of this environment."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        words,
        cwd=folder,
        env={"PATH": path, "HOME": str(folder), **NOWHERE, **env},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_hook_checks_the_configuration(tmp_path: Path) -> None:
    """It fails where the configuration is wrong, and is called without the names of files."""
    [hook] = read(".pre-commit-hooks.yaml")
    assert not hook["pass_filenames"]
    config = tmp_path / "aggregator.yaml"
    config.write_text(CONFIG.read_text())
    well = run(shlex.split(hook["entry"]), tmp_path)
    assert well.returncode == ExitCode.DONE, well.stderr
    config.write_text("meters: {}\n")
    assert run(shlex.split(hook["entry"]), tmp_path).returncode == ExitCode.WRONG_CALL


def installed(temporary: Path) -> None:
    """Put the program of this environment where the action's first step does."""
    programs = temporary / "aggregator" / "bin"
    programs.mkdir(parents=True)
    (programs / "aggregator").symlink_to(Path(sys.executable).parent / "aggregator")


GH = """#!/bin/sh
for each in "$@"; do printf '%s\\n' "$each" >> "$RUNNER_TEMP/called"; done
"""


def test_the_action_shows_what_a_pull_request_changes(tmp_path: Path) -> None:
    """Compared with the branch that it goes to: in the summary, as an output and in a comment."""
    *_, plan, comment = read("action.yml")["runs"]["steps"]
    for step in (plan, comment):
        assert "inputs.plan == 'true'" in step["if"]
        assert "github.base_ref != ''" in step["if"]
    assert "inputs.comment == 'true'" in comment["if"]
    temporary, origin, clone = tmp_path / "temporary", tmp_path / "origin", tmp_path / "clone"
    installed(temporary)
    (tmp_path / "gh").write_text(GH)
    (tmp_path / "gh").chmod(0o755)
    git(tmp_path, "init", "-q", "-b", "main", "origin")
    git(origin, "commit", "-q", "--allow-empty", "-m", "nothing yet")
    git(tmp_path, "clone", "-q", "origin", "clone")
    config = clone / "our usage.yaml"
    config.write_text(CONFIG.read_text())
    where = {"GITHUB_STEP_SUMMARY": str(tmp_path / "summary"), "GITHUB_OUTPUT": str(tmp_path / "output")}
    where |= {"RUNNER_TEMP": str(temporary), "CONFIG": config.name, "BASE": "main", "NUMBER": "7"}

    def said() -> str:
        ran = run([plan["shell"], "-e", "-c", plan["run"]], clone, **where)
        assert ran.returncode == ExitCode.DONE, ran.stderr
        git(clone, "worktree", "remove", str(temporary / "base"))
        return (temporary / "plan.md").read_text()

    assert said() == "### This configuration is new\n"
    (origin / config.name).write_text(config.read_text())
    git(origin, "add", ".")
    git(origin, "commit", "-q", "-m", "the configuration")
    assert "Nothing changes" in said()
    config.write_text(config.read_text().replace("window: 1h", "window: 1d"))
    assert "window 1d (was 1h)" in said()
    assert "window 1d (was 1h)" in (tmp_path / "summary").read_text()
    assert f"plan={temporary}/plan.md\n" in (tmp_path / "output").read_text()
    ran = run([comment["shell"], "-e", "-c", f'PATH="{tmp_path}:$PATH"\n{comment["run"]}'], clone, **where)
    assert ran.returncode == ExitCode.DONE, ran.stderr
    assert (temporary / "called").read_text().split() == [
        *("pr", "comment", "7", "--edit-last", "--create-if-none"),
        *("--body-file", f"{temporary}/plan.md"),
    ]


def git(folder: Path, *words: str) -> None:
    """Do something to a repository."""
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    ran = run(["git", *who, *words], folder)
    assert ran.returncode == 0, ran.stderr


def test_the_action_checks_the_configuration_that_it_is_given(tmp_path: Path) -> None:
    """By the steps of the file, the installation apart; a name with a blank and a quote in it is no more than a name."""
    action = read("action.yml")
    install, check, *_ = action["runs"]["steps"]
    assert install["env"] == {"SOURCE": "${{ github.action_path }}"}
    assert check["env"] == {"CONFIG": "${{ inputs.config }}"}
    assert action["inputs"].keys() == {"config", "plan", "comment"}
    installed(tmp_path)
    config = tmp_path / 'our "usage"; exit 0.yaml'
    for text, code in ((CONFIG.read_text(), ExitCode.DONE), ("meters: {}\n", ExitCode.WRONG_CALL)):
        config.write_text(text)
        words = [check["shell"], "-e", "-c", check["run"]]
        ran = run(words, tmp_path, RUNNER_TEMP=str(tmp_path), CONFIG=config.name)
        assert ran.returncode == code, ran.stderr
