"""How the demo tells what it does: few words, the real commands, and one line that moves while something happens.

Where nobody watches (a pipe, CI) nothing moves: what would have been redrawn becomes a plain line now and then.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from decimal import Decimal

from rich.status import Status
from rich.table import Table
from rich.text import Text

from aggregator.demo.proof import NAMES, Line, Proof, summed
from aggregator.runtime.clock import monotonic
from aggregator.runtime.terminal import console

PLAIN_WIDTH = 110
"""How wide to write where there is no terminal to fit into."""

PLAIN_SECONDS = 10.0
"""How often the moving line is written where it cannot move."""

MOST_LINES = 5
"""Customers that a proof names; those that differ are always named."""


class Story:
    """Tells on standard output."""

    def __init__(self) -> None:
        found = console()
        self._console = found if found.is_terminal else console(width=PLAIN_WIDTH)
        self._moving: Status | None = None
        self._told_at = 0.0

    def title(self, text: str, aside: str) -> None:
        """Say what this is."""
        self._console.print(Text.assemble((text, "bold"), "  ", (aside, "dim")))

    def scene(self, text: str) -> None:
        """Begin the next part."""
        self._console.print(Text.assemble("\n", (text, "bold")))

    def fact(self, name: str, text: str) -> None:
        """Say one thing about something; what is too long for a line goes on below itself."""
        grid = Table.grid(padding=(0, 1))
        grid.add_column(width=11, style="dim")
        grid.add_column(overflow="fold")
        grid.add_row(f"  {name}", Text(text))
        self._console.print(grid)

    def say(self, text: str, style: str = "") -> None:
        """Say something."""
        self._console.print(Text(f"  {text}" if text else "", style=style), soft_wrap=True)

    def command(self, line: str) -> None:
        """Show a command that is run next, as a person would type it."""
        self._console.print(Text.assemble(("  $ ", "dim"), (line, "cyan")), soft_wrap=True)

    @contextmanager
    def moving(self) -> Iterator[None]:
        """Keep a line for what changes all the time, for the length of a `with` block."""
        if not self._console.is_terminal:
            yield
            return
        with self._console.status("", spinner="line", spinner_style="dim") as self._moving:
            yield
        self._moving = None

    def now(self, text: str) -> None:
        """Say how things are at this moment."""
        if self._moving is not None:
            self._moving.update(Text(text))
        elif monotonic() - self._told_at >= PLAIN_SECONDS:
            self._told_at = monotonic()
            self.say(text)

    def proof(self, proof: Proof) -> None:
        """Show what the three parties answered about one meter."""
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", show_edge=False)
        table.add_column(Text(f"  {proof.meter}", style="bold"), min_width=26)
        for heading in ("source", "ledger", "billed", "sandbox", "carried"):
            table.add_column(heading, justify="right", no_wrap=True)
        table.add_column("")
        for line in shortened(proof.lines):
            table.add_row(*_cells(line))
        table.add_row(*_cells(proof.whole), style="bold")
        source, aside = proof.unmapped
        if source or aside:
            verdict = "unmapped" if source == aside else _verdict(equal=False)
            table.add_row(f"  {NAMES[None]} *", number(source), number(aside), "-", "-", "-", verdict)
        self._console.print(Text(""), table)

    def verdict(self, proofs: list[Proof]) -> None:
        """Say what the proofs come to, and what stays outside of them."""
        self._console.print()
        holds = bool(proofs) and all(proof.holds for proof in proofs)
        customers = max((len(proof.lines) for proof in proofs), default=0)
        claim = f"\n  source = ledger = sandbox for {customers} customers and {len(proofs)} meters: "
        answer = ("yes", "bold green") if holds else ("NO", "bold red")
        self.say(
            f"* {NAMES[None]} has no Stripe customer yet: its usage is unmapped: kept and named, never lost.",
            "dim",
        )
        self.say(
            "carried: used, but less than the last decimal billed; it counts towards the next window.", "dim"
        )
        self._console.print(Text.assemble((claim, "bold"), answer), soft_wrap=True)


def shortened(lines: list[Line]) -> Iterable[Line]:
    """Yield the first customers and those that differ, and sum up the others."""
    shown = [line for place, line in enumerate(lines) if place < MOST_LINES or not line.equal]
    rest = [line for line in lines if line not in shown]
    yield from shown
    if rest:
        yield summed(f"{len(rest)} more", rest)


def number(value: Decimal | int) -> str:
    """Write a number for a person: thousands apart, no zeros at the end of a fraction."""
    text = f"{Decimal(value):,f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _cells(line: Line) -> list[Text | str]:
    figures = (line.source, line.ledger, line.billed, line.sandbox, line.carried)
    return [Text(f"  {line.name}"), *map(number, figures), _verdict(equal=line.equal)]


def _verdict(*, equal: bool) -> Text:
    return Text("equal", style="green") if equal else Text("DIFFERS", style="bold red")
