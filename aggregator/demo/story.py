"""How the demo tells what it does: few words, the real commands, and one line that moves while something happens.

Where nobody watches (a pipe, CI) nothing moves: what would have been redrawn becomes a plain line now and then.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.status import Status
from rich.table import Table
from rich.text import Text

from aggregator.runtime.clock import monotonic
from aggregator.runtime.terminal import console

PLAIN_WIDTH = 110
"""How wide to write where there is no terminal to fit into."""

PLAIN_SECONDS = 10.0
"""How often the moving line is written where it cannot move."""


class Story:
    """Tells on standard output."""

    def __init__(self) -> None:
        found = console()
        self._console = found if found.is_terminal else console(width=PLAIN_WIDTH)
        self._moving: Status | None = None
        self._asked_at = 0.0

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
        elif monotonic() - self._asked_at >= PLAIN_SECONDS:
            self._asked_at = monotonic()
            self.say(text)
