"""How commands print: lines, tables and JSON."""

import datetime as dt
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING

import click

from aggregator.cli.drawing import drawn
from aggregator.core.shown import shown
from aggregator.errors import ConfigError
from aggregator.runtime.terminal import coloured, console, printable

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

PROSE = {"finding", "reason", "error"}
"""Columns that may run over several lines. Numbers and names may not."""

PROSE_WIDTHS = 70, 55, 40
"""How wide they may be, the first that the terminal has room for."""

WIDE = 200

COLUMN = re.compile(r"([^=>#]+)([>#]?)(?:=(.+))?")
"""How `show_rows` is told of a column."""


def say(text: str = "", *, err: bool = False) -> None:
    """Print one line for people. Whatever is in it that a terminal would obey is shown instead, line ends included."""
    click.echo(printable(text), err=err)


def say_error(error: Exception) -> None:
    """Print why a command failed; what goes on in another line is set back, so that it cannot pass for a line of ours."""
    if isinstance(error, ConfigError):
        first, *others = map(str, error.problems)
        between = ""
    else:
        first, *others = str(error).split("\n")
        between = "  "
    say(f"aggregator: {first}", err=True)
    for line in others:
        say(between + line, err=True)


def write_json(value: object) -> None:
    """Print JSON: exact numbers as texts, instants in ISO 8601, durations in seconds."""
    write_raw(json_text(value, indent=2) + "\n")


def write_json_line(value: object) -> None:
    """Print JSON as one line, which is also the last: some schedulers keep the last line of what a command wrote."""
    write_raw(json_text(value) + "\n")


def answer(value: object, *lines: str, as_json: bool) -> None:
    """Print JSON for programs, or these lines for people; an empty one is left out."""
    if as_json:
        write_json(value)
    else:
        for line in filter(None, lines):
            say(line)


def json_text(value: object, indent: int | None = None) -> str:
    """Return JSON in printable ASCII; json itself escapes all control characters but one."""
    return json.dumps(value, default=plain_value, indent=indent).replace("\x7f", "\\u007f")


def write_raw(text: str) -> None:
    """Print what programs read, as it is."""
    click.echo(text, nl=False)


def plain_value(value: object) -> object:
    """Return a value as JSON has it."""
    match value:
        case Decimal():
            return format(value, "f")
        case dt.datetime():
            return value.isoformat().replace("+00:00", "Z")
        case dt.timedelta():
            return value.total_seconds()
        case _:
            return str(value)


def show_rows(title: str, columns: str, rows: Iterable[Mapping[str, object]]) -> None:
    """Print a table of the same rows that programs get as JSON.

    `columns` has a word for each: the heading, with `_` for a space; `>` if it holds numbers, or `#` for an ID, which is
    typed in again and so gets no separators; then `=` and the key of the rows, if that is another than the heading.
    """
    found = [COLUMN.fullmatch(each) for each in columns.split()]
    parts = [each.groups() for each in found if each]
    assert len(parts) == len(found), columns
    show_table(
        title,
        {heading.replace("_", " ").strip(): "right" if kind else "left" for heading, kind, _ in parts},
        (
            [str(row[key or heading]) if kind == "#" else row[key or heading] for heading, kind, key in parts]
            for row in rows
        ),
    )


def show_table(title: str, columns: Mapping[str, str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table. `columns` maps each heading to how it is aligned: left or right.

    A cut number would be a wrong number, and a line that a terminal breaks is read in the wrong column. So where one is too
    narrow, prose gets narrower first, and then each column of a row has a line of its own. What a terminal would obey is
    shown instead.
    """
    import sys

    lines = [[printable(shown(value)) for value in row] for row in rows]
    width = console().width if sys.stdout.isatty() else WIDE
    prose = [place for place, heading in enumerate(columns) if heading in PROSE]
    if all(len(line[place]) <= PROSE_WIDTHS[-1] for place in prose for line in lines):
        headed = {printable(heading): justify for heading, justify in columns.items()}
        at_once = drawn(printable(title), headed, lines, width, styled=coloured(sys.stdout))
        if at_once is not None:
            click.echo(at_once, nl=False, color=True)
            return
    ruler = console(width=max(width, WIDE))
    tables = (_table(title, columns, lines, prose) for prose in PROSE_WIDTHS)
    fitting = (table for table in tables if ruler.measure(table).maximum <= width)
    console(width=width).print(next(fitting, None) or _records(title, columns, lines))


def _table(
    title: str, columns: Mapping[str, str], lines: Sequence[Sequence[str]], prose_width: int
) -> "Table":
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(
        title=Text(printable(title), "bold"),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    for heading, justify in columns.items():
        prose = heading in PROSE
        table.add_column(
            Text(printable(heading)),
            justify=justify,  # type: ignore[arg-type]
            overflow="fold",
            no_wrap=not prose,
            max_width=prose_width if prose else None,
        )
    for line in lines:
        table.add_row(*(Text(value) for value in line))
    return table


def _records(title: str, columns: Mapping[str, str], lines: Sequence[Sequence[str]]) -> "Group":
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for line in lines:
        table.add_row("")
        for heading, value in zip(columns, line, strict=True):
            table.add_row(Text(printable(heading)), Text(value))
    return Group(Text(printable(title), "bold"), table, "")
