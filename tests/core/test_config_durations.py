"""Durations in, `timedelta` out, and back."""

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.config import format_duration, parse_duration

TEXTS = [
    ("30s", dt.timedelta(seconds=30)),
    ("5m", dt.timedelta(minutes=5)),
    ("1h", dt.timedelta(hours=1)),
    ("3d", dt.timedelta(days=3)),
    ("1h30m", dt.timedelta(minutes=90)),
    ("1d2h3m4s", dt.timedelta(days=1, hours=2, minutes=3, seconds=4)),
    ("90m", dt.timedelta(minutes=90)),
    ("0s", dt.timedelta(0)),
    (" 5m\n", dt.timedelta(minutes=5)),
]


@pytest.mark.parametrize(("text", "duration"), TEXTS)
def test_a_text_means_a_duration(text: str, duration: dt.timedelta) -> None:
    """Numbers with units, largest first, add up."""
    assert parse_duration(text) == duration


@pytest.mark.parametrize(
    "text", ["", "60", "m", "5 m", "30m1h", "1h1h", "1.5h", "-5m", "5M", "٣d", "12345678s", "P1D"]
)
def test_a_text_that_is_no_duration(text: str) -> None:
    """Anything else is refused with the way to write it, and without repeating what was written."""
    with pytest.raises(ValueError, match="write a number and s, m, h or d") as caught:
        parse_duration(text)
    assert len(text) < 2 or text not in str(caught.value)


@pytest.mark.parametrize("text", ["36501d", "9999999d", "1000000h"])
def test_a_duration_beyond_any_calendar(text: str) -> None:
    """What no instant could be counted on or back by is refused: the scheduler would fall over it."""
    with pytest.raises(ValueError, match="longer than a hundred years"):
        parse_duration(text)


@given(st.integers(min_value=0, max_value=10**9).map(lambda seconds: dt.timedelta(seconds=seconds)))
def test_what_is_written_reads_the_same(duration: dt.timedelta) -> None:
    """Every duration of whole seconds survives being written and read."""
    assert parse_duration(format_duration(duration)) == duration


@pytest.mark.parametrize("duration", [dt.timedelta(seconds=-1), dt.timedelta(milliseconds=1)])
def test_what_cannot_be_written(duration: dt.timedelta) -> None:
    """A duration that is negative or has a fraction of a second has no text."""
    with pytest.raises(ValueError, match="whole seconds"):
        format_duration(duration)
