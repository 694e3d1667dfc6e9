"""What a terminal gets to see: words that are not ours made harmless, and colour only where it is wanted.

Rules
- A word from a database, a sink, a file or a library may hold anything: sequences that repaint the screen, line ends that
  forge a line, marks that turn the order of reading around. What is no printable character is shown as its escape: `\\x1b`.
- Whatever is printed for people goes through here once: the tables and lines of commands, and the log where it is readable.
- No colour with NO_COLOR (no-color.org), on a dumb terminal, or where nobody watches, unless FORCE_COLOR says so.
"""

import os
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.console import Console

DUMB = {"dumb", "unknown"}
"""What terminals that know no colours call themselves in TERM."""


JOINERS = "\u200c\u200d"
"""What Persian and Indic words and composed emoji are spelled with. Beside any other sign they would hide in a name."""


def printable(text: str) -> str:
    """Return a text in one line and without anything that a terminal would obey."""
    if text.isprintable():
        return text
    return "".join(
        sign
        if sign.isprintable()
        or (sign in JOINERS and _joined(text[place - 1 : place] + text[place + 1 : place + 2]))
        else sign.encode("unicode_escape").decode("ascii")
        for place, sign in enumerate(text)
    )


def _joined(neighbours: str) -> bool:
    return (
        len(neighbours) == 2 and neighbours.isprintable() and all(not sign.isascii() for sign in neighbours)
    )


def coloured(stream: TextIO) -> bool:
    """Tell whether what is written there may have colours and other styles."""
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return stream.isatty() and os.environ.get("TERM", "").lower() not in DUMB


def console(
    *, stderr: bool = False, width: int | None = None, plain: bool = False, highlight: bool = False
) -> "Console":
    """Return where rich prints to; `plain` for one that is no terminal, whatever it looks like."""
    import sys

    from rich.console import Console

    styles = not plain and coloured(sys.stderr if stderr else sys.stdout)
    return Console(
        stderr=stderr,
        width=width,
        highlight=highlight,
        markup=False,
        emoji=False,
        color_system="auto" if styles else None,
        force_terminal=False if plain else None,
    )
