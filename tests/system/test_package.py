"""What is released: built twice it is the same, it holds what it needs, and it runs by itself, with no checkout near it."""

import ast
import importlib.metadata
import os
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import aggregator
from tests.system.test_demo import left_running

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "aggregator"
SECONDS = 600


def build(source: Path, into: Path, *kinds: str) -> list[Path]:
    """Build what is released, without a network, and return the files by name."""
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(into), *kinds, str(source)]
    built = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    return sorted(into.iterdir())


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The wheel, and the source distribution."""
    return build(ROOT, tmp_path_factory.mktemp("dist"))


def names_of(archive: Path) -> set[str]:
    """Return what is in a wheel or a source distribution, the latter without its own folder."""
    if archive.suffix == ".whl":
        return set(zipfile.ZipFile(archive).namelist())
    with tarfile.open(archive) as opened:
        return {name.partition("/")[2] for name in opened.getnames()}


def test_built_again_it_is_the_same(built: list[Path], tmp_path: Path) -> None:
    """Byte for byte, also where files are made with other rights. The source distribution gives the same wheel, too."""
    before = os.umask(0o077)
    try:
        again = build(ROOT, tmp_path / "again")
        unpacked = tmp_path / "unpacked"
        with tarfile.open(built[1]) as opened:
            opened.extractall(unpacked, filter="data")
        of_source = build(next(unpacked.iterdir()), tmp_path / "of_source", "--wheel")
    finally:
        os.umask(before)
    assert [path.name for path in again] == [path.name for path in built]
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in built]
    assert of_source[0].read_bytes() == built[0].read_bytes()


def test_it_holds_everything_and_nothing_else(built: list[Path]) -> None:
    """Every file of the package and every migration is in the wheel; no test, no benchmark and no finding is."""
    wheel = names_of(built[0])
    own = {path.relative_to(ROOT).as_posix() for path in files_below(PACKAGE)}
    moved = {f"aggregator/{path.relative_to(ROOT).as_posix()}" for path in files_below(ROOT / "migrations")}
    assert {name for name in wheel if ".dist-info/" not in name} == own | moved
    outer = {name.partition("/")[0] for name in names_of(built[1])}
    assert not outer & {"tests", "bench", "findings", ".ci", ".venv"}


def files_below(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)


def test_the_demo_runs_from_the_wheel(built: list[Path], tmp_path: Path) -> None:
    """With no checkout on its path: a backfill, rows that arrive, a late transaction, a stop by signal, the proof.

    Then nothing runs any more.
    """
    place, home = tmp_path / "installed", tmp_path / "home"
    home.mkdir()
    install = [
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--target",
        str(place),
        str(built[0]),
    ]
    subprocess.run([sys.executable, *install], check=True, timeout=SECONDS)
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "PYTHONPATH": str(place)}

    def run(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, *words],
            cwd=home,
            env=environment,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Traceback" not in done.stdout + done.stderr
        return done.stdout

    assert run("-c", "import aggregator; print(aggregator.__file__)").startswith(str(place))
    assert aggregator.__version__ in run("-m", "aggregator", "--version")
    shown = run("-m", "aggregator", "demo", "--seconds", "1")
    assert "source = ledger = sandbox for 23 customers and 2 meters: yes" in shown
    assert "ended by SIGTERM" in shown
    assert "a transaction of" in shown
    assert "$ aggregator reconcile --customers 5" in shown
    assert "all 23 customers" in shown
    assert "(no customer) is Kestrel Robotics" in shown
    assert "DIFFERS" not in shown
    assert "\x1b" not in shown, "nobody watches, so nothing is coloured or moves"
    assert left_running(home / ".aggregator" / "demo") == []


OURS = {"aggregator"}


def imports(path: Path) -> set[str]:
    """Return the outermost packages that a module imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.Import(names=names):
                found |= {each.name.partition(".")[0] for each in names}
            case ast.ImportFrom(module=str(module), level=0):
                found.add(module.partition(".")[0])
    return found - OURS - set(sys.stdlib_module_names)


def declared() -> set[str]:
    """Return what the project asks for, by itself or in an extra, with what each of those asks for itself."""
    named = {
        canonicalize_name(each.name)
        for each in map(Requirement, importlib.metadata.requires("usage-aggregator") or [])
        if 'extra == "dev"' not in str(each.marker or "").replace("'", '"')
    }
    known = {name for names in importlib.metadata.packages_distributions().values() for name in names}
    return named | {
        canonicalize_name(Requirement(each).name)
        for name in named & {canonicalize_name(each) for each in known}
        for each in importlib.metadata.requires(name) or []
    }


BUILT_ON_REQUEST = {"MySQLdb": "mysqlclient", "mariadb": "mariadb"}
"""Drivers that a person may use in place of ours, and installs without a word from us: they need a compiler."""

INSTALLED_ELSEWHERE = {"airflow": ["apache-airflow"], "dagster": ["dagster"], "prefect": ["prefect"]}
"""Orchestrators, which are tried in environments of their own: what ships a package is asked of nobody here."""


def test_what_is_imported_is_declared() -> None:
    """Each package that a module imports comes with one of those that the project asks for."""
    asked_for, shipped_by = declared(), {**importlib.metadata.packages_distributions(), **INSTALLED_ELSEWHERE}
    undeclared = {
        (path.relative_to(ROOT).as_posix(), name)
        for path in PACKAGE.rglob("*.py")
        for name in imports(path) - BUILT_ON_REQUEST.keys()
        if not asked_for & {canonicalize_name(each) for each in shipped_by.get(name, [])}
    }
    assert undeclared == set()
