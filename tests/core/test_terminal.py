"""What people see at a terminal: no word that is not ours makes it do anything, and colours come where they are wanted."""

import io
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Literal, NoReturn

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from aggregator.cli.drawing import drawn
from aggregator.cli.printing import _table, json_text, say, say_error, show_table
from aggregator.errors import ConfigError, Problem, SinkError
from aggregator.runtime import log
from aggregator.runtime.terminal import JOINERS, printable

ROOT = Path(__file__).parents[2]

EVIL = "\x1b]0;owned\x07\x1b[2J[red]cus\u202e\r\nAll is well.\x7f\x9b1m\u2028"
SHOWN = r"\x1b]0;owned\x07\x1b[2J[red]cus\u202e\r\nAll is well.\x7f\x9b1m\u2028"


CELLS = st.text(st.characters(exclude_categories=("C", "Z", "M")), max_size=12)
TABLES = st.integers(1, 4).flatmap(
    lambda count: st.tuples(
        st.lists(CELLS.filter(bool), min_size=count, max_size=count, unique=True),
        st.lists(st.sampled_from(["left", "right"]), min_size=count, max_size=count),
        st.lists(st.lists(CELLS, min_size=count, max_size=count), max_size=3),
    )
)


@given(st.lists(CELLS.filter(bool), min_size=1).map(" ".join), TABLES, st.booleans())
def test_a_table_that_is_drawn_at_once_looks_as_rich_draws_it(
    title: str, table: tuple[list[str], list[str], list[list[str]]], styled: bool
) -> None:
    """Byte by byte, in bold or not, whatever the width of its signs; one that is too wide is left to rich."""
    headings, alignments, lines = table
    columns = dict(zip(headings, alignments, strict=True))
    out = io.StringIO()
    system: Literal["standard"] | None = "standard" if styled else None
    rich = Console(width=200, file=out, force_terminal=styled, color_system=system, highlight=False)
    rich.print(_table(title, columns, lines, 70))
    at_once = drawn(title, columns, lines, 200, styled=styled)
    assert at_once == out.getvalue()
    assert drawn(title, columns, lines, 2, styled=styled) is None


@given(st.text())
def test_nothing_that_a_terminal_obeys_is_left(text: str) -> None:
    """Whatever it holds comes out in one line of printable characters; what was printable stays as it was."""
    shown = printable(text)
    assert all(sign.isprintable() or sign in JOINERS for sign in shown)
    assert printable(shown) == shown
    assert shown == text or not text.isprintable()


@pytest.mark.parametrize(
    "name",
    [
        "Müller & Söhne",
        "客户",
        "\u05d7\u05d1\u05e8\u05d4",
        "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
        "\U0001f469\u200d\U0001f4bb",
    ],
)
def test_an_honest_name_stays_readable(name: str) -> None:
    """Letters of any script, and the joiners that some are spelled with, come out as they are."""
    assert printable(name) == name


@pytest.mark.parametrize(
    "name", ["cus_\u200d1", "\u200dcus", "cus\u200c", "\u00fc\u200d", "\u202e\u200d\u202e"]
)
def test_a_joiner_that_joins_nothing_is_shown(name: str) -> None:
    """Two customers that look alike would be taken for one."""
    assert printable(name).isascii() or "\\u200" in printable(name)
    assert printable(name).isprintable()


@pytest.mark.parametrize("columns", [200, 20])
def test_a_table_shows_what_it_holds(
    columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Escapes, line ends, marks of direction and rich's own markup are shown, in title, heading and cell, wide or narrow."""
    monkeypatch.setattr("aggregator.cli.printing.WIDE", columns)
    show_table(f"title {EVIL}", {f"customer {EVIL}": "left", "n": "right"}, [[EVIL, Decimal(-5)]])
    out = capsys.readouterr().out
    assert all(line.isprintable() for line in out.split("\n"))
    assert "".join(SHOWN.split()) in "".join(out.split())
    assert "-5" in out or columns == 20


def test_a_line_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """A reason that brings its own line ends cannot forge a line."""
    say(f"Not released: {EVIL}", err=True)
    assert capsys.readouterr().err == f"Not released: {SHOWN}\n"


def test_an_error_of_several_lines_forges_none(capsys: pytest.CaptureFixture[str]) -> None:
    """Our own further lines are set back; each problem of a configuration has a line of its own."""
    say_error(SinkError(f"first {EVIL}"))
    assert "\nAll is well" not in capsys.readouterr().err
    say_error(ConfigError([Problem("a.yaml", 1, "x", EVIL), Problem("a.yaml", 2, "y", "is wrong")]))
    assert capsys.readouterr().err == f"aggregator: a.yaml:1: x: {SHOWN}\na.yaml:2: y: is wrong\n"


def test_json_is_printable() -> None:
    """It is for programs, and yet it is looked at."""
    assert json_text({"customer": EVIL}).isprintable()


def fail() -> NoReturn:
    """Raise what a sink said."""
    raise SinkError(EVIL)


class Terminal(io.StringIO):
    """A stream that somebody watches."""

    def isatty(self) -> bool:
        """It is one."""
        return True


@pytest.fixture
def watched() -> Iterator[Terminal]:
    """The log, on a terminal."""
    stream = Terminal()
    log.configure(stream=stream)
    yield stream
    log.configure()


def test_the_readable_log_shows_what_it_holds(watched: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    """In values, in the message of an exception and in what libraries warn of."""
    monkeypatch.setenv("NO_COLOR", "1")
    log.configure(stream=watched)
    log.logger().warning(log.EVENT_REFUSED, reason=EVIL, lost=[EVIL])
    try:
        fail()
    except SinkError:
        log.logger().exception(log.UNEXPECTED)
    said = watched.getvalue()
    assert all(line.isprintable() for line in said.split("\n"))
    assert not any(line.startswith("All is well") for line in said.split("\n"))
    assert SHOWN in said


SHOW = """
import sys
from aggregator.runtime import log
from aggregator.cli.printing import show_table
log.configure(stream=sys.stdout)
show_table("title", {"a": "left"}, [["1"]])
log.logger().warning(log.EVENT_REFUSED, reason="x")
"""


def written_to_a_terminal(**environment: str) -> bytes:
    """Return what a pseudo-terminal gets of a table and a line of the log."""
    keeper, given_end = pty.openpty()
    clean = {key: value for key, value in os.environ.items() if key not in {"NO_COLOR", "FORCE_COLOR"}}
    done = subprocess.Popen(
        [sys.executable, "-c", SHOW],
        stdout=given_end,
        cwd=ROOT,
        env={**clean, "TERM": "xterm-256color", **environment},
    )
    os.close(given_end)
    said = b""
    while True:
        try:
            part = os.read(keeper, 4096)
        except OSError:  # Linux says so at the end
            break
        if not part:
            break
        said += part
    os.close(keeper)
    assert done.wait() == 0
    assert b"event_refused" in said
    return said


@pytest.mark.parametrize(
    ("environment", "styled"),
    [
        ({}, True),
        ({"NO_COLOR": "1"}, False),
        ({"NO_COLOR": ""}, True),
        ({"NO_COLOR": "1", "FORCE_COLOR": "1"}, False),
        ({"TERM": "dumb"}, False),
    ],
)
def test_colours_come_where_they_are_wanted(environment: dict[str, str], styled: bool) -> None:
    """At a terminal there are some, unless NO_COLOR has any value, or the terminal is a dumb one."""
    assert (b"\x1b" in written_to_a_terminal(**environment)) is styled
