"""What tables look like in terminals of different widths."""

import io

import pytest
from rich.text import Text

from aggregator.cli.printing import show_table

COLUMNS = {"meter": "left", "window": "left", "delta": "right", "reason": "left"}
NAME = "usage-000000000000001-20261122T0000Z-15.csv"
ROWS = [
    (
        NAME,
        "2026-11-22 00:00",
        1234567,
        "a window shrank too much at once: held until a second read confirms it",
    )
]


class Terminal(io.StringIO):
    """A terminal that keeps what it shows."""

    def isatty(self) -> bool:
        """Say that it is one."""
        return True


def shown_in(width: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the lines that a terminal of that width shows."""
    terminal = Terminal()
    monkeypatch.setattr("sys.stdout", terminal)
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "xterm")
    show_table("events", COLUMNS, ROWS)
    return [line.rstrip() for line in Text.from_ansi(terminal.getvalue()).plain.splitlines()]


@pytest.mark.parametrize("width", [40, 60, 80, 100, 120, 140, 200])
def test_no_line_is_wider_than_the_terminal(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """And no number is cut, however narrow it is."""
    lines = shown_in(width, monkeypatch)
    assert max(map(len, lines)) <= width
    assert any("1,234,567" in line for line in lines)


def test_prose_gets_narrower_before_a_table_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """At 120 columns all stands in one row; at 80 each column has a line of its own."""
    [row] = [line for line in shown_in(120, monkeypatch) if NAME in line]
    assert "1,234,567  a window shrank" in row
    assert f"meter   {NAME}" in shown_in(80, monkeypatch)
    assert "delta   1,234,567" in shown_in(80, monkeypatch)
