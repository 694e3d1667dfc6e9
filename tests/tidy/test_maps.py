"""The maps lead somewhere: what they name exists, and each package says what it is for and where to begin."""

import ast
import builtins
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CODE = ROOT / "aggregator"
MAPS = [ROOT / "docs" / "internals.md", ROOT / "CONTRIBUTING.md"]
PACKAGES = sorted(path.parent for path in CODE.rglob("__init__.py") if path.parent != CODE)

FILE = re.compile(r"(?<![\w/.-])([\w-]+(?:/[\w-]+)*(?:\.\w+)+)(?::([A-Za-z_][\w.]*))?")
"""A file, and what is defined in it: `core/planner.py:plan`, `source/engine.py:Source.read`."""

FOLDER = re.compile(r"(?<![\w/.*-])((?:[\w-]+/)+)(?![\w.])")
WRITTEN_BY_THE_READER = {"0002_what_it_does.py"}


def here(name: str) -> Path | None:
    """Return where a name leads, from the repository or from the package."""
    return next(
        (base / name for base in (ROOT, CODE, CODE / "ledger", ROOT / "tests") if (base / name).exists()),
        None,
    )


def defines(path: Path, name: str) -> bool:
    """Tell whether a module defines a function, class, method or constant of this qualified name."""
    body: list[ast.stmt] = ast.parse(path.read_text()).body
    for part in name.split("."):
        found = [node for node in body if part in names_of(node)]
        if not found:
            return False
        body = found[0].body if isinstance(found[0], ast.ClassDef) else []
    return True


def names_of(node: ast.stmt) -> set[str]:
    """Return what a statement gives a name to."""
    if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        return {node.name}
    targets = (
        node.targets
        if isinstance(node, ast.Assign)
        else [node.target]
        if isinstance(node, ast.AnnAssign)
        else []
    )
    return {target.id for target in targets if isinstance(target, ast.Name)}


def relative(package: Path) -> str:
    return package.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", MAPS, ids=lambda path: path.name)
def test_a_map_names_what_is_there(page: Path) -> None:
    """Every file, folder and function that it names exists."""
    text = re.sub(r"\]\([^)]*\)|https?://\S+", "", page.read_text())
    wrong = []
    for name, inside in FILE.findall(text):
        there = here(name)
        if Path(name).name in WRITTEN_BY_THE_READER or ("/" not in name and not inside):
            continue
        if there is None or (inside and not defines(there, inside)):
            wrong.append(f"{name}:{inside}" if inside else name)
    for block in re.findall(r"`([^`\n]+)`", text):
        wrong += [name for name in FOLDER.findall(block) if here(name) is None and "*" not in block]
    assert wrong == []


@pytest.mark.parametrize("page", MAPS, ids=lambda path: path.name)
def test_a_map_names_classes_that_are_there(page: Path) -> None:
    """Every class that stands there by its name alone is one of ours, or Python's."""
    named = set(re.findall(r"`((?:[A-Z][a-z]+)+)`", page.read_text()))
    modules = [*CODE.rglob("*.py"), *(ROOT / "tests" / "contract").glob("*.py")]
    ours = {
        node.name
        for path in modules
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
    }
    assert named
    assert named - ours - set(dir(builtins)) == set()


def test_the_tour_has_ten_stops() -> None:
    """Each stop of docs/internals.md is a file and a function."""
    stops = re.findall(r"^## (\d+)\. .*\n\n`([\w/]+\.py):([\w.]+)`", MAPS[0].read_text(), re.MULTILINE)
    assert [int(number) for number, _, _ in stops] == list(range(1, 11))


def test_every_package_is_on_the_map() -> None:
    """CONTRIBUTING.md says under "Where things are" what each package is, and names no other."""
    found = re.search(r"^## Where things are\n+```\n(.*?)```", MAPS[1].read_text(), re.MULTILINE | re.DOTALL)
    assert found is not None
    inside, outside = re.search(r"^aggregator/\n((?:  .*\n)+)((?:.*\n)+)", found[1], re.MULTILINE).groups()  # type: ignore[union-attr]
    named = {name for line in re.findall(r"^  (\S.*?)  +\S", inside, re.MULTILINE) for name in line.split()}
    assert {name.strip("/") for name in named if name.endswith("/")} == {
        package.name for package in PACKAGES if package.parent == CODE
    }
    assert [name for name in re.findall(r"^(\S+)", outside, re.MULTILINE) if not (ROOT / name).is_dir()] == []


@pytest.mark.parametrize("package", PACKAGES, ids=relative)
def test_a_package_says_what_it_is_for(package: Path) -> None:
    """Its docstring begins with that in a sentence, says what may import it, and names a module to begin with."""
    said = ast.get_docstring(ast.parse((package / "__init__.py").read_text())) or ""
    assert said.split("\n\n")[0].endswith("."), f"{relative(package)} does not say what it is for"
    prose = " ".join(said.split())
    assert re.search(r"\bimports? it\b", prose), f"{relative(package)} does not say what may import it"
    begin = re.search(r"Begin with (.+?)\.(?: |$)", prose)
    assert begin is not None, f"{relative(package)} does not say where to begin"
    modules = re.findall(r"`([\w/]+)`", begin[1])
    assert modules
    assert [name for name in modules if not (package / f"{name}.py").exists()] == []


@pytest.mark.parametrize("package", PACKAGES, ids=relative)
def test_a_package_that_lists_its_modules_lists_all(package: Path) -> None:
    """And no other: a list with a hole sends the reader on a search."""
    said = ast.get_docstring(ast.parse((package / "__init__.py").read_text())) or ""
    lines = re.findall(r"^([a-z_0-9]+(?:\.\w+|/)?(?:, [a-z_0-9]+(?:\.\w+|/)?)*)  +\S", said, re.MULTILINE)
    listed = {name.strip() for line in lines for name in line.split(",")}
    if listed:
        files = {
            path.name.removesuffix(".py") for path in package.iterdir() if path.suffix in {".py", ".yaml"}
        }
        folders = {f"{path.name}/" for path in package.iterdir() if (path / "__init__.py").exists()}
        assert {name.removesuffix(".py") for name in listed} == (files | folders) - {"__init__", "__main__"}
