"""What a command's end means to an orchestrator. The real ones are tried by `python -m tests.orchestrators`."""

import ast
import importlib
import logging
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from aggregator.cli.exit_codes import ExitCode
from aggregator.orchestrators.process import (
    NEEDS_A_PERSON,
    WORTH_ANOTHER_TRY,
    Command,
    CommandFailed,
    PersonNeeded,
    TryAgain,
)
from tests.orchestrators.cases import StandIn
from tests.orchestrators.ends_with import WAITS

ROOT = Path(__file__).parents[2]


def unheard(_level: int, _line: str) -> None:
    """Take a line of the log, and do nothing."""


def one_pass(folder: Path, *codes: int) -> Command:
    """Return a pass that ends with the codes in turn."""
    return Command("run", "--once", config=folder / "a.yaml", command=StandIn(folder, codes).command)


def test_the_answer_is_that_of_standard_output(tmp_path: Path) -> None:
    """The log is no part of it: each line is passed on with its level, as what the orchestrator calls a warning."""
    logged: list[tuple[int, str]] = []
    answer = one_pass(tmp_path, 0).run(lambda level, line: logged.append((level, line)))
    assert answer["outcome"] == "done"
    assert answer["meters"]["api_requests"]["planned"] == 18
    assert [level for level, _ in logged] == [logging.INFO, logging.WARNING]
    assert "rows_unmapped" in logged[1][1]


def test_every_exit_code_has_a_meaning() -> None:
    """Those that the commands end with are those that are told apart here, where nothing of theirs is imported."""
    assert {*WORTH_ANOTHER_TRY, *NEEDS_A_PERSON} == set(ExitCode) - {ExitCode.DONE}


@pytest.mark.parametrize(
    ("code", "kind", "says"),
    [
        (1, TryAgain, "may pass by itself"),
        (2, PersonNeeded, "aggregator check.*there is no such file"),
        (3, TryAgain, "busy sink"),
        (4, PersonNeeded, "aggregator status"),
        (7, PersonNeeded, "is it the right program"),
        (-9, TryAgain, "signal"),
        (143, TryAgain, "signal"),
    ],
)
def test_how_it_ended_tells_whether_another_try_helps(
    tmp_path: Path, code: int, kind: type[CommandFailed], says: str
) -> None:
    """Each names the command, its exit code, and what to do; what was done of a pass is not lost."""
    with pytest.raises(
        kind, match=f"(?s)run --once --json --config .*a.yaml.* ended with {code}.*{says}"
    ) as raised:
        one_pass(tmp_path, code).run(unheard)
    assert raised.value.code == code
    if code in {1, 3, 4}:
        assert raised.value.answer["meters"]["api_requests"]["planned"] == 18
    again = pickle.loads(pickle.dumps(raised.value))
    assert (type(again), str(again), again.answer) == (kind, str(raised.value), raised.value.answer)


def test_a_program_that_is_not_there_needs_a_person(tmp_path: Path) -> None:
    """So does one that ends well and says nothing, which is another program."""
    with pytest.raises(PersonNeeded, match=r"nowhere` cannot be started: No such file.*as `command`"):
        Command("run", "--once", command=[str(tmp_path / "nowhere")]).run(unheard)
    with pytest.raises(PersonNeeded, match="without an answer"):
        Command("run", "--once", command=["true"]).run(unheard)
    with pytest.raises(TypeError, match="list of words"):
        Command("run", "--once", command="aggregator")


def test_whoever_is_stopped_stops_it(tmp_path: Path) -> None:
    """And has waited for it: no process is left behind that goes on alone."""
    processes: list[int] = []

    def interrupted(_level: int, line: str) -> None:
        processes.append(int(line.partition('"process": ')[2].rstrip("}")))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        one_pass(tmp_path, WAITS).run(interrupted)
    with pytest.raises(ProcessLookupError):
        os.kill(processes[0], 0)


def test_it_can_be_terminated(tmp_path: Path) -> None:
    """As by a handler of a signal; the command's end is then one by a signal, and worth another try."""
    running = one_pass(tmp_path, WAITS)
    running.terminate()  # nothing runs yet
    with pytest.raises(TryAgain, match="signal"):
        running.run(lambda _level, _line: running.terminate())
    running.terminate()


@pytest.mark.parametrize(
    ("name", "package"), [("airflow", "airflow.sdk"), ("dagster", "dagster"), ("prefect", "prefect")]
)
def test_a_missing_package_is_named_with_its_extra(
    name: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever imports the module is told what to install."""
    monkeypatch.setitem(sys.modules, package.partition(".")[0], None)
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, f"aggregator.orchestrators.{name}", raising=False)
    with pytest.raises(ImportError, match=rf"pip install 'usage-aggregator\[{name}\]'"):
        importlib.import_module(f"aggregator.orchestrators.{name}")


def test_it_needs_nothing_but_python() -> None:
    """So the command may be installed elsewhere, with versions of its own of what an orchestrator uses too."""
    asked = (
        "import sys; sys.path.insert(0, sys.argv[1]); import aggregator.orchestrators.process; print('found')"
    )
    ran = subprocess.run(
        [sys.executable, "-I", "-S", "-c", asked, str(ROOT)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.stdout == "found\n", ran.stderr


class BaseOperator:
    """As much of Airflow's as an operator of ours uses: it refuses what it does not know, and has a log."""

    def __init__(self, *, task_id: str, retries: int = 0) -> None:
        self.task_id, self.retries = task_id, retries
        self.log = logging.getLogger("tests.airflow")


class AirflowException(Exception):
    """The task has failed, and is tried again if tries are left."""


class AirflowFailException(AirflowException):
    """The task has failed, whatever tries are left."""


@pytest.mark.parametrize(
    ("code", "raises"),
    [(1, AirflowException), (2, AirflowFailException), (3, AirflowException), (4, AirflowFailException)],
)
def test_airflow_is_told_what_it_may_try_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, raises: type[Exception]
) -> None:
    """By the exception it has for that; the answer of a pass that ends well is what a task returns."""
    sdk: Any = ModuleType("airflow.sdk")
    sdk.BaseOperator = BaseOperator
    exceptions: Any = ModuleType("airflow.sdk.exceptions")
    exceptions.AirflowException, exceptions.AirflowFailException = AirflowException, AirflowFailException
    for each in (ModuleType("airflow"), sdk, exceptions):
        monkeypatch.setitem(sys.modules, each.__name__, each)
    monkeypatch.delitem(sys.modules, "aggregator.orchestrators.airflow", raising=False)
    operator = importlib.import_module("aggregator.orchestrators.airflow").AggregatorOperator
    monkeypatch.delitem(sys.modules, "aggregator.orchestrators.airflow")
    command = StandIn(tmp_path, (code, 0)).command
    task = operator(task_id="pass", retries=1, config=tmp_path / "a.yaml", command=command)
    with pytest.raises(raises) as raised:
        task.execute({})
    assert type(raised.value) is raises
    assert task.execute({})["outcome"] == "done"


PAGE = (ROOT / "docs" / "orchestrators.md").read_text()


def test_the_page_shows_what_is_there() -> None:
    """What its examples import of ours exists; they are run where the real packages are."""
    shown: dict[str, str] = {}
    for block in re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL):
        tree = ast.parse(block)
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("aggregator.orchestrators."):
                shown |= {each.name: str(node.module) for each in node.names}
    assert shown.keys() == {"AggregatorOperator", "meter_assets", "aggregator_flow"}
    for name, module in shown.items():
        path = ROOT.joinpath(*module.split(".")).with_suffix(".py")
        assert re.search(rf"^(?:class|def) {name}\b", path.read_text(), re.MULTILINE), (
            f"{module} has no {name}"
        )
