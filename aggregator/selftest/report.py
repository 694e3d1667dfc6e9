"""How the proof is told: one line that moves while it runs, then a table.

Where nobody watches (a pipe, CI) nothing moves: what would have been redrawn becomes a plain line now and then. For programs
there is JSON, and everything else goes to standard error.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Column, Table
from rich.text import Text

from aggregator.runtime.clock import monotonic
from aggregator.runtime.failpoints import ARCHIVE_POINTS, POINTS
from aggregator.runtime.terminal import console
from aggregator.selftest.killing import Struck
from aggregator.selftest.schedule import ARCHIVING, STARTED_WITHIN_SECONDS
from aggregator.selftest.verdict import Difference, Outcome

STRUCK = {**POINTS, **{name: ARCHIVE_POINTS[name] for name in ARCHIVING}}
"""Every point at which daemons are killed, and what it is."""

PLAIN_WIDTH = 110
PLAIN_SECONDS = 10.0
"""How often the moving line is written where it cannot move."""

MOST_WRONG = 20
"""So many findings, and so many customers who differ, are printed; all of them with --verbose, and in the JSON."""


class Report:
    """Tells on standard output, or on standard error if that is for JSON."""

    def __init__(self, kills: int, seed: int, *, as_json: bool, verbose: bool) -> None:
        found = console(stderr=as_json)
        self._console = found if found.is_terminal else console(stderr=as_json, width=PLAIN_WIDTH, plain=True)
        self._kills = kills
        self._seed = seed
        self._as_json = as_json
        self._verbose = verbose
        self._moving: tuple[Progress, TaskID] | None = None
        self._shown_at = 0.0
        self._texts: dict[int, str] = {}

    def title(self, path: Path, worlds: int) -> None:
        """Say what this is, before anything runs."""
        self._console.print(
            Text.assemble(
                ("aggregator selftest", "bold"),
                ("  everything below is real, and runs on this machine only", "dim"),
            )
        )
        self._fact("kills", f"{self._kills} of the daemon, by SIGKILL; seed {self._seed}")
        self._fact("worlds", f"{worlds}" if worlds > 1 else "")
        self._fact("postgres", f"embedded, in {path / 'postgres'}: the application's database and the ledger")

    def ready(self, urls: Sequence[str]) -> None:
        """Say what runs before the first kill."""
        self._fact("sandbox", f"{', '.join(urls)}: one call in four goes wrong")

    @contextmanager
    def moving(self) -> Iterator[None]:
        """Keep a line for how far it is, for the length of a `with` block."""
        if not self._console.is_terminal:
            yield
            return
        # Only what it waits for may be cut where a terminal is narrow.
        whole = Column(no_wrap=True, min_width=len(f"  {self._kills} of {self._kills} kills"))
        columns = (
            TextColumn("  {task.completed:.0f} of {task.total:.0f} kills", table_column=whole),
            BarColumn(20, table_column=Column(min_width=20)),
            TimeElapsedColumn(table_column=Column(min_width=7)),
            TextColumn("{task.description}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")),
        )
        with Progress(*columns, console=self._console, transient=True, expand=True) as progress:
            self._moving = progress, progress.add_task("", total=self._kills)
            yield
        self._moving = None

    def progress(self, struck: Sequence[Struck], says: Sequence[str]) -> None:
        """Say how far it is."""
        done, text = sum(each.kills for each in struck), next((each for each in says if each), "")
        if self._verbose:
            self._print_each(says)
        if self._moving is not None:
            bar, task = self._moving
            bar.update(task, completed=done, description=text)
        elif monotonic() - self._shown_at >= PLAIN_SECONDS:
            self._shown_at = monotonic()
            self._console.print(f"  {done} of {self._kills} kills" + (f"; {text}" if text else ""))

    def _print_each(self, says: Sequence[str]) -> None:
        for number, text in enumerate(says, 1):
            if text and text != self._texts.get(number):
                self._texts[number] = text
                self._console.print(
                    Text(f"  world {number}: {text}" if len(says) > 1 else f"  {text}", style="dim")
                )

    def outcome(self, outcome: Outcome, *, kept: Path | None) -> None:
        """Print what it came to."""
        if self._as_json:
            sys.stdout.write(json.dumps(as_json(outcome, self._seed), indent=2) + "\n")
        else:
            self._kills_table(outcome.struck)
            self._figures(outcome)
        self._differences(outcome)
        self._end(outcome, kept)

    def _kills_table(self, struck: Struck) -> None:
        table = _table("  killed", "when", "died there", "missed")
        for name, meaning in STRUCK.items():
            died, missed = struck.died[name], struck.missed[name]
            table.add_row(f"  {name}", meaning, f"{died:,}", f"{missed:,}" if missed else "")
        moment = f"while it starts, or within {STARTED_WITHIN_SECONDS:g} s of having started"
        table.add_row("  at random", moment, f"{struck.at_random:,}", "")
        table.add_row(
            f"  {'all'}",
            "",
            f"{struck.kills - struck.missed.total():,}",
            f"{struck.missed.total():,}",
            style="bold",
        )
        self._console.print(Text(""), table)

    def _figures(self, outcome: Outcome) -> None:
        struck, verdict = outcome.struck, outcome.verdict
        faults = _table("  faults", "")
        faults.add_row("  calls to the sandbox", f"{outcome.calls:,}")
        for name, count in struck.faults.items():
            faults.add_row(f"  {name}", f"{count:,}")
        faults.add_row("  connections to the ledger cut", f"{struck.connections_cut:,}")
        came_to = _table("  outcome", "")
        for name, figure in {
            "rows of usage": outcome.rows,
            "units used": verdict.used,
            "events booked": verdict.events,
            "of them corrections": verdict.corrections,
        }.items():
            came_to.add_row(f"  {name}", f"{figure:,}")
        for name, wrong in {
            "lost units": verdict.lost,
            "doubled units": verdict.doubled,
            "identifiers with two contents": verdict.two_contents,
            "moments above the source": verdict.over,
        }.items():
            came_to.add_row(f"  {name}", Text(f"{wrong:,}", style="bold red" if wrong else "bold green"))
        self._console.print(Text(""), faults, Text(""), came_to)

    def _differences(self, outcome: Outcome) -> None:
        found, wrong = outcome.verdict.differences, outcome.wrong
        most = max(len(found), len(wrong)) if self._verbose else MOST_WRONG
        if found:
            table = _table("  differs", *Difference._fields[2:])
            for each in found[:most]:
                table.add_row(f"  {each.customer} of {each.meter}", *(f"{value:,}" for value in each[2:]))
            self._console.print(Text(""), table)
            self._rest(len(found) - most, "customers")
        self._console.print()
        for one in wrong[:most]:
            self._console.print(Text(f"  wrong: {one}", style="red"), soft_wrap=True)
        self._rest(len(wrong) - most, "findings")
        if wrong:
            self._console.print()

    def _rest(self, count: int, what: str) -> None:
        if count > 0:
            self._console.print(f"  and {count:,} more {what}; --verbose shows them all")

    def _end(self, outcome: Outcome, kept: Path | None) -> None:
        answer = ("yes", "bold green") if outcome.good else ("NO", "bold red")
        claim = f"  source = ledger = sandbox for {outcome.verdict.customers:,} customers, to the unit: "
        self._console.print(Text.assemble((claim, "bold"), answer), soft_wrap=True)
        aside = f"  after {outcome.seconds:.0f} seconds; exit code {0 if outcome.good else 1}"
        self._console.print(Text(aside, style="dim"))
        if kept is not None:
            self._console.print(
                Text(f"  databases, configuration and logs are in {kept}", style="dim"), soft_wrap=True
            )

    def _fact(self, name: str, text: str) -> None:
        if text:
            self._console.print(Text.assemble((f"  {name:<10}", "dim"), text), soft_wrap=True)


def _table(first: str, *others: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", show_edge=False)
    table.add_column(Text(first, style="bold"), no_wrap=True)
    for heading in others:
        table.add_column(heading, justify="left" if heading == "when" else "right", no_wrap=heading != "when")
    return table


def as_json(outcome: Outcome, seed: int) -> dict[str, object]:
    """Return everything for programs: quantities as exact texts."""
    struck, verdict = outcome.struck, outcome.verdict
    return {
        "good": outcome.good,
        "seed": seed,
        "seconds": round(outcome.seconds, 1),
        "kills": {
            "all": struck.kills,
            "at_points": {name: struck.died[name] for name in STRUCK},
            "missed": dict(struck.missed),
            "at_random": struck.at_random,
        },
        "connections_cut": struck.connections_cut,
        "calls": outcome.calls,
        "faults": dict(struck.faults),
        "rows": outcome.rows,
        "customers": verdict.customers,
        "used": str(verdict.used),
        "events": verdict.events,
        "corrections": verdict.corrections,
        "lost": str(verdict.lost),
        "doubled": str(verdict.doubled),
        "two_contents": verdict.two_contents,
        "over": verdict.over,
        "differences": [
            {name: str(value) for name, value in each._asdict().items()} for each in verdict.differences
        ],
        "wrong": outcome.wrong,
    }
