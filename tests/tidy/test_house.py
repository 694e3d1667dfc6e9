"""The house is in order: versions, migrations, make targets, and sizes that fit a screen and a head."""

import ast
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from alembic.script import ScriptDirectory

import aggregator
from aggregator.ledger.database import REVISION, migrate

ROOT = Path(__file__).parents[2]
MODULES = sorted((ROOT / "aggregator").rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("test_*.py"))
SOURCES = [*MODULES, *sorted((ROOT / "migrations").rglob("*.py")), *sorted((ROOT / "bench").rglob("*.py"))]

MOST_LINES = 600
MOST_LINES_OF_A_FUNCTION = 70
MOST_METHODS_OF_A_PROTOCOL = 5

LONG_MODULES: dict[str, str] = {}
"""Modules that may be longer, each with its reason."""

LONG_FUNCTIONS: dict[str, str] = {
    "aggregator/cli/status.py:status": "one table after the other, in the order they are printed",
}
"""Functions that may be longer, each with its reason."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def functions(path: Path) -> Iterator[Function]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, Function):
            yield node


def length(node: Function) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def scripts() -> ScriptDirectory:
    return ScriptDirectory(str(ROOT / "migrations"))


def test_the_changelog_tells_of_this_version() -> None:
    """The newest entry of CHANGELOG.md is this version, or what is not released yet."""
    newest = re.search(r"^## \[?([\w.]+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest is not None
    assert newest[1] in {aggregator.__version__, "Unreleased"}


def test_the_changelog_tells_of_every_migration() -> None:
    """Each migration stands in a Migrations section of CHANGELOG.md."""
    told = "".join(
        re.findall(
            r"^### Migrations\n(.*?)(?=^##|\Z)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE | re.DOTALL
        )
    )
    assert [step.revision for step in scripts().walk_revisions() if f"`{step.revision}`" not in told] == []


def test_the_code_knows_the_newest_migration() -> None:
    """The revision that the code works with is the only head of the migrations."""
    newest = scripts().get_current_head()
    assert newest == REVISION, f"REVISION is {REVISION}, the newest migration is {newest}"


def test_migrations_have_one_history() -> None:
    """They follow one another without a fork, in files that begin with their number."""
    steps = list(scripts().walk_revisions())
    assert [step.down_revision for step in steps] == [*[step.revision for step in steps[1:]], None]
    for step in steps:
        assert Path(step.path).name.startswith(f"{step.revision}_")


def test_migrating_twice_is_harmless(source_url: str) -> None:
    """An empty database is brought to the newest revision; doing it again changes nothing, not even the ledger's id."""
    asked = "select ledger_id, version_num from aggregator.identity, aggregator.alembic_version"
    found = []
    for _ in range(2):
        migrate(source_url)
        with psycopg.connect(source_url) as connection:
            found.append(connection.execute(asked).fetchall())
    assert found[0] == found[1]
    assert [revision for _, revision in found[0]] == [REVISION]


def test_every_make_target_says_what_it_does() -> None:
    """`make help` lists each target, and CONTRIBUTING.md has each."""
    text = (ROOT / "Makefile").read_text()
    targets = re.findall(r"^\.PHONY: ([\w-]+)$", text, re.MULTILINE)
    helped = re.findall(r"^([\w-]+):.*## \S", text, re.MULTILINE)
    assert targets == helped
    told = re.findall(r"^\| `make ([\w-]+)` \|", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    assert sorted(told) == sorted(targets)


def test_ci_calls_make_only() -> None:
    """What CI does, anybody can do with the same targets."""
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    commands = [line for line in lines if line and not line.startswith(("#", "set ", "cd "))]
    assert all(line.startswith("make ") for line in commands), commands
    words = {word for line in commands for word in line.split()[1:]}
    assert {word for word in words if word.isalpha()} == {"check", "test", "tools"}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_fits_a_head(path: Path) -> None:
    """No module is longer than 600 lines, unless it has a reason."""
    lines = len(path.read_text().splitlines())
    may = name_of(path) in LONG_MODULES
    assert may == (lines > MOST_LINES), f"{name_of(path)} has {lines} lines; split it by what it is about"


def test_a_function_fits_a_screen() -> None:
    """No function is longer than 70 lines, unless it has a reason; and who has one needs it."""
    long = {
        f"{name_of(path)}:{function.name}": length(function)
        for path in SOURCES
        for function in functions(path)
        if length(function) > MOST_LINES_OF_A_FUNCTION
    }
    assert long.keys() == LONG_FUNCTIONS.keys(), long


def test_a_protocol_asks_for_little() -> None:
    """None has more than five methods of its own: who needs more of a class takes the class."""
    wide = [
        f"{name_of(path)}: {node.name}"
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
        and any(isinstance(base, ast.Name) and base.id == "Protocol" for base in node.bases)
        and sum(isinstance(each, Function) for each in node.body) > MOST_METHODS_OF_A_PROTOCOL
    ]
    assert wide == []


@pytest.mark.parametrize("path", TESTS, ids=name_of)
def test_a_test_says_what_it_shows(path: Path) -> None:
    """Each test has a docstring whose first line is a sentence."""
    for function in functions(path):
        if function.name.startswith("test_"):
            said = ast.get_docstring(function)
            assert said, f"{name_of(path)}: {function.name} has no docstring"
            first = said.split("\n\n")[0]
            assert first.endswith((".", ":", "?")), (
                f"{name_of(path)}: {function.name}: {first!r} is no sentence"
            )


def test_every_module_says_what_it_is_for() -> None:
    """Each module of the package begins with a docstring."""
    assert [name_of(path) for path in MODULES if not ast.get_docstring(ast.parse(path.read_text()))] == []


@pytest.mark.xdist_group("together")
def test_tests_of_one_group_stay_together(request: pytest.FixtureRequest) -> None:
    """Tests that share a server are given to one process: pytest-xdist knows them by what it adds to their names."""
    if "PYTEST_XDIST_WORKER" in os.environ and request.config.getoption("loadgroup"):
        assert request.node.nodeid.endswith("@together")


def test_every_file_has_a_plain_name() -> None:
    """Nothing that a program left behind under an odd name is part of the project."""
    listed = subprocess.run(["git", "ls-files", "-z"], check=False, cwd=ROOT, capture_output=True, text=True)
    names = listed.stdout.split("\0")[:-1] if listed.returncode == 0 else [name_of(path) for path in SOURCES]
    assert len(names) > 100
    assert [name for name in names if not re.fullmatch(r"[\w./-]+", name, re.ASCII)] == []


PRINTING = {"aggregator/cli/printing.py", "aggregator/sandbox"}
"""What may print by itself: where it is made harmless, and a program of its own."""


def test_what_commands_print_goes_through_one_place() -> None:
    """A word that is not ours may hold what a terminal obeys: `say` and `show_table` of `cli/printing.py` show it."""
    bare = re.compile(r"click\.s?echo\(|(?<![\w.])print\(|(?<![\w.])Console\(")
    found = [
        f"{name_of(path)}:{number}"
        for path in MODULES
        if not any(name_of(path).startswith(known) for known in PRINTING)
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if bare.search(line) and name_of(path) != "aggregator/runtime/terminal.py"
    ]
    assert found == [], f"print by `say` or `show_table` of aggregator/cli/printing.py: {found}"
