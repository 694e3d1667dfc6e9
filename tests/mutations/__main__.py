"""Make each mistake of the catalogue in a copy of the code, and see whether the tests that are named for it fail.

python -m tests.mutations                 every mistake, one after the other
python -m tests.mutations settle epoch    those whose names hold one of these words
python -m tests.mutations --list          only name them

A mistake that no test notices has survived: the command says so and exits with 1. All runs share one Postgres, since to
start one takes longer than most of these tests; so no mistake is made in a migration.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterable
from pathlib import Path

from tests.conftest import UNSAFE_AND_FAST, shared_postgres
from tests.mutations.catalogue import MISTAKES, Mistake

ROOT = Path(__file__).parents[2]
SPARK = Path(__file__).parents[2] / ".spark"
"""What `make tools` puts there is too large to be copied."""

COPIED = (
    "aggregator",
    "tests",
    "migrations",
    "config",
    "docs",
    "pyproject.toml",
    "README.md",
    "CHANGELOG.md",
)
LONGEST_SECONDS = 300
"""A mistake that makes a test hang is noticed, too."""

LONGEST_AT_FIRST = 1200
"""How long all the tests together may take without a mistake."""

RUN = "PYTEST_XDIST_TESTRUNUID"
"""By what processes of one run of the tests know each other, and share a Postgres."""

FAILED = 1
"""What pytest exits with when a test failed; anything else says that the tests were not run as they are meant."""


def say(*words: object) -> None:
    """Write a line."""
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


def run(directory: Path, tests: Iterable[str], longest: float = LONGEST_SECONDS) -> int:
    """Run tests on the copy; return pytest's exit code, FAILED too where they take too long."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:randomly", "-n", "0", *tests]
    try:
        return subprocess.run(
            command, cwd=directory, capture_output=True, timeout=longest, check=False
        ).returncode
    except subprocess.TimeoutExpired:
        return FAILED


def noticed(directory: Path, mistake: Mistake) -> bool:
    """Make one mistake, run its tests, and take it back."""
    path = directory / mistake.file
    text = path.read_text()
    path.write_text(mistake.made_in(text))
    try:
        code = run(directory, mistake.tests)
    finally:
        path.write_text(text)
    if code not in (0, FAILED):
        raise SystemExit(f"{mistake.name}: pytest exited with {code}; are {mistake.tests} there?")
    return code == FAILED


def main() -> int:
    """Return 1 if a mistake survives, or if its tests fail without it."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutations")
    parser.add_argument("words", nargs="*", help="only mistakes whose names hold one of these words")
    parser.add_argument("--list", action="store_true", help="only name them")
    options = parser.parse_args()
    chosen = [
        mistake
        for mistake in MISTAKES
        if not options.words or any(word in mistake.name for word in options.words)
    ]
    if options.list:
        for mistake in chosen:
            say(f"{mistake.name:<48}{mistake.file}")
        return 0
    os.environ[RUN] = uuid.uuid4().hex
    with (
        shared_postgres("fast", UNSAFE_AND_FAST),
        tempfile.TemporaryDirectory(prefix="mutations-") as name,
    ):
        directory = Path(name)
        for part in COPIED:
            source = ROOT / part
            copy = shutil.copytree if source.is_dir() else shutil.copy
            copy(source, directory / part)
        if SPARK.is_dir():
            (directory / SPARK.name).symlink_to(SPARK)
        tests = sorted({test for mistake in chosen for test in mistake.tests})
        if run(directory, tests, LONGEST_AT_FIRST):
            say("The tests fail without any mistake: mend that first.")
            return 1
        survived = []
        for mistake in chosen:
            caught = noticed(directory, mistake)
            say(f"{mistake.name:<60}{'noticed' if caught else 'SURVIVED'}")
            survived += [] if caught else [mistake.name]
    say(f"\n{len(chosen)} mistakes, {len(survived)} survived")
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
