"""Checkouts of the product that are measured by the same files of `bench/`, each in processes of its own.

The package of a checkout is put beside these files in a directory of links, which is where the measuring process runs. So a
checkout needs no `bench/`, and an older one is measured by the newer way. It is run by its own `.venv`, if it has one.

It is compiled before, as an installed package is: what an environment without bytecode takes to start is not our figure.
"""

import compileall
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

HOME = Path(__file__).resolve().parents[1]
"""The checkout that these files are from."""


class Checkout(NamedTuple):
    """A checkout, and where its package is linked beside these files."""

    root: Path
    place: Path

    def call(self, module: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Run a module of `bench/` over its package, and return what it said."""
        call = [str(python_of(self.root)), "-m", module, *arguments]
        return subprocess.run(
            call, cwd=self.place, env=self.environment, capture_output=True, text=True, check=False
        )

    @property
    def environment(self) -> dict[str, str]:
        """What a process over its package is given."""
        return {**installed(), "PYTHONPATH": str(self.place)}


def installed() -> dict[str, str]:
    """Return this environment, with bytecode as it is where a package is installed."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def python_of(root: Path) -> Path:
    """Return the interpreter of a checkout's own environment, or this one."""
    own = root / ".venv" / "bin" / "python"
    return own if own.exists() else Path(sys.executable)


@contextmanager
def checkout(root: Path) -> Iterator[Checkout]:
    """Link the package of a checkout beside these files until the end of the block. Raises SystemExit if it has none."""
    root = root.resolve()
    if not (root / "aggregator").is_dir():
        raise SystemExit(f"bench: {root} is no checkout: it has no directory `aggregator`.")
    compileall.compile_dir(root / "aggregator", quiet=2)
    with tempfile.TemporaryDirectory(prefix="bench-") as place:
        for owner, name in ((HOME, "bench"), (HOME, "tests"), (root, "aggregator"), (root, "migrations")):
            if (owner / name).exists():
                (Path(place) / name).symlink_to(owner / name)
        yield Checkout(root, Path(place))
