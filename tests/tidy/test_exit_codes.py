"""Exit codes: every command ends with one of the enumeration, and the pages tell of them as it does."""

import ast
import re
from pathlib import Path

import pytest

from aggregator.cli.accounts import code_of
from aggregator.cli.exit_codes import MEANINGS, ExitCode, gravest
from aggregator.sinks.stripe.differences import MeterState
from tests.tidy.test_docs import COMMANDS, PAGES, ROOT, page, rows, section

CLI = sorted((ROOT / "aggregator" / "cli").glob("*.py"))

FOUND: dict[str, list[MeterState | None]] = {
    "equal": [MeterState.EQUAL],
    "missing, or another display name": [MeterState.MISSING, MeterState.RENAMED],
    "something differs that cannot be changed": [MeterState.FIXED],
    "inactive": [MeterState.INACTIVE],
    "wrong mode": [MeterState.WRONG_MODE],
    "an account that does not answer": [None],
}
"""What stands in the docs for how a meter compares; None if it could not be asked."""

SAID = re.compile(r"(?:exit codes?(?: of [`\w -]+)?:?|exits?(?: with)?|ends with) (\d+)\b", re.IGNORECASE)


def test_the_docs_list_every_exit_code() -> None:
    """With the meaning that it has of any command, and nothing else."""
    told = rows(section(page("operations.md"), "## Exit codes"), "exit code")
    assert told == [[str(code.value), MEANINGS[code]] for code in ExitCode]


def test_the_docs_say_what_each_means_of_a_pass() -> None:
    """Whoever schedules `run --once` finds each of them, and what to do."""
    told = rows(section(page("operations.md"), "## One pass at a time: cron, CI, a CronJob"), "exit code")
    assert [code for code, *_ in told] == [str(code.value) for code in ExitCode]


def test_the_docs_say_what_each_means_of_meters() -> None:
    """Each way in which a meter may compare stands there, with the code that it gives."""
    told = {finds: code for finds, code, _ in rows(page("stripe-meters.md"), "what it finds")}
    assert told.keys() == FOUND.keys()
    assert {meter_state for each in FOUND.values() for meter_state in each} == {*MeterState, None}
    for finds, code in told.items():
        assert {str(code_of(meter_state).value) for meter_state in FOUND[finds]} == {code}, finds


@pytest.mark.parametrize("name", [path.name for path in PAGES])
def test_a_page_names_no_other_code(name: str) -> None:
    """Wherever a page says with what a command ends, it is one of the enumeration."""
    text = next(path for path in PAGES if path.name == name).read_text()
    assert {int(code) for code in SAID.findall(text)} <= set(ExitCode)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_names_no_other_code(name: str) -> None:
    """Nor does the help of a command."""
    text = " ".join((COMMANDS[name].help or "").split())
    assert {int(code) for code in SAID.findall(text)} <= set(ExitCode)


@pytest.mark.parametrize("path", CLI, ids=[path.name for path in CLI])
def test_no_command_has_a_code_of_its_own(path: Path) -> None:
    """It ends with a member of the enumeration, not with a number, and no other constant stands for one."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in {"Exit", "exit"}:
            assert not any(isinstance(given, ast.Constant) for given in node.args), ast.unparse(node)
            assert not any(isinstance(given, ast.Name) and given.id.isupper() for given in node.args), (
                ast.unparse(node)
            )


def test_a_failure_is_the_gravest() -> None:
    """Then the highest; of nothing at all it is that it is done."""
    assert gravest([]) is ExitCode.DONE
    assert gravest([ExitCode.PERSON_NEEDED, ExitCode.FAILED, ExitCode.DONE]) is ExitCode.FAILED
    assert gravest([ExitCode.WORK_LEFT, ExitCode.PERSON_NEEDED, ExitCode.DONE]) is ExitCode.PERSON_NEEDED
