"""A table whose cells all stand in one line, drawn at once: as rich draws it, at a fiftieth of the cost of each row."""

from collections.abc import Mapping, Sequence

from aggregator.runtime.terminal import console

BOLD, AS_BEFORE = "\x1b[1m", "\x1b[0m"


def drawn(
    title: str, columns: Mapping[str, str], lines: Sequence[Sequence[str]], width: int, *, styled: bool
) -> str | None:
    """Return a table, ended by a line end; None if it is wider than that. `columns` says how each is aligned.

    With `styled`, the title and the headings are in bold.
    """
    from rich.cells import cell_len

    bold, plain = (BOLD, AS_BEFORE) if styled else ("", "")
    sizes = [max(map(cell_len, column)) for column in zip(columns, *lines, strict=True)]
    whole = 2 * len(sizes) + sum(sizes) + 1
    if whole > width:
        return None
    sides = list(columns.values())
    headings = (
        f"{bold}{_aligned(heading, size, side)}{plain}{bold} {plain}"
        for heading, size, side in zip(columns, sizes, sides, strict=True)
    )
    parts = [
        *(f"{bold}{line}{plain}" for line in _titled(title, whole)),
        " " * whole,
        f" {' '.join(headings)} ",
        f" {'─' * (whole - 2)} ",
    ]
    parts += (f" {'  '.join(map(_aligned, line, sizes, sides))}  " for line in lines)
    parts += (" " * whole, "")
    return "\n".join(parts)


def _aligned(text: str, size: int, side: str = "left") -> str:
    """Return a text filled up with spaces, as it is aligned."""
    if text.isascii():
        return text.rjust(size) if side == "right" else text.ljust(size)
    from rich.cells import cell_len

    spaces = " " * (size - cell_len(text))
    return spaces + text if side == "right" else text + spaces


def _titled(title: str, width: int) -> list[str]:
    """Return the lines of a title that is as wide as the table below it."""
    from rich.cells import cell_len

    if cell_len(title) <= width:
        return [_aligned(title, width)]
    from rich.text import Text

    lines = Text(title).wrap(console(width=width, plain=True), width)
    return [_aligned(line.plain.rstrip(), width) for line in lines]
