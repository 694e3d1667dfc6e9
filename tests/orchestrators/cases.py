"""What an orchestrator has to do about each exit code, the same for all three."""

import json
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

SAID = os.fdopen(os.dup(1), "w", buffering=1)
"""Where this is told: an orchestrator may have its log on standard output."""

METERS = ["api_requests", "stored_gb"]


class Case(NamedTuple):
    """The codes that calls in turn end with, how often the command is to be called, and whether all ends well."""

    codes: tuple[int, ...]
    calls: int
    ends_well: bool


CASES = (
    Case((0,), 1, ends_well=True),
    Case((1, 0), 2, ends_well=True),
    Case((3, 0), 2, ends_well=True),
    Case((-9, 0), 2, ends_well=True),
    Case((1, 1, 1, 1), 3, ends_well=False),
    Case((2, 0), 1, ends_well=False),
    Case((4, 0), 1, ends_well=False),
)
"""With two tries after the first."""

RETRIES = 2


class StandIn:
    """A program in place of `aggregator` that ends with codes given beforehand, and remembers its calls."""

    def __init__(self, folder: Path, codes: tuple[int, ...]) -> None:
        self.folder = folder
        (folder / "codes").write_text(json.dumps(codes))
        self.command = [sys.executable, str(Path(__file__).with_name("ends_with.py")), str(folder)]

    def calls(self) -> list[list[str]]:
        """Return the arguments of each call."""
        noted = self.folder / "calls"
        return [json.loads(line) for line in noted.read_text().splitlines()] if noted.exists() else []


@contextmanager
def stand_in(codes: tuple[int, ...]) -> Iterator[StandIn]:
    """Yield a program of its own."""
    with tempfile.TemporaryDirectory() as folder:
        yield StandIn(Path(folder), codes)


def example(name: str) -> dict[str, Any]:
    """Run what the page shows of an orchestrator, as a module that is imported; return what it defines."""
    page = Path(__file__).parents[2] / "docs" / "orchestrators.md"
    [block] = re.findall(
        rf"^```python\n((?:(?!^```).)*?aggregator\.orchestrators\.{name}.*?)^```",
        page.read_text(),
        re.MULTILINE | re.DOTALL,
    )
    defined: dict[str, Any] = {"__name__": "usage"}
    exec(compile(block, page.name, "exec"), defined)
    tell("  the example of the page: runs")
    return defined


def report(case: Case, program: StandIn, *, ended_well: bool) -> None:
    """Hold what happened against what was to happen, and print it."""
    calls = program.calls()
    assert (len(calls), ended_well) == (case.calls, case.ends_well), (case, calls, ended_well)
    codes = ", ".join(map(str, case.codes[: len(calls)]))
    tries = "one try" if len(calls) == 1 else f"{len(calls)} tries"
    tell(f"  exit codes {codes}: {tries}, {'success' if ended_well else 'failed'}")


def tell(line: str) -> None:
    """Print a line."""
    SAID.write(line + "\n")
