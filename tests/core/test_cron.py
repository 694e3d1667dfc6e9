"""Cron lines wake as a crontab's do, whatever the scheduler behind them thinks of weekdays."""

import datetime as dt
from itertools import islice
from types import SimpleNamespace
from typing import cast

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from aggregator.config import Meter, cron
from aggregator.daemon.jobs import alarm

BEGIN = dt.datetime(2026, 11, 1, tzinfo=dt.UTC)  # a Sunday
NAMES = {
    "month": ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"],
    "weekday": ["sun", "mon", "tue", "wed", "thu", "fri", "sat"],
}
BOUNDS = {"minute": (0, 59), "hour": (0, 23), "day": (1, 31), "month": (1, 12), "weekday": (0, 7)}


def wakes(line: str, count: int = 1, since: dt.datetime = BEGIN) -> list[dt.datetime]:
    """Return when a meter with this line is woken next, by the daemon's own alarm."""
    trigger = alarm(cast("Meter", SimpleNamespace(cron=line)))
    times: list[dt.datetime] = []
    last = None
    for _ in range(count):
        last = trigger.get_next_fire_time(last, last or since)
        assert last is not None
        times.append(last)
    return times


def member(text: str, value: int, kind: str) -> bool:
    """Tell whether a field of a crontab has a value: crontab(5), read literally."""
    low, high = BOUNDS[kind]

    def number(word: str) -> int:
        names = NAMES.get(kind, [])
        return names.index(word.lower()) + (kind == "month") if word.lower() in names else int(word)

    for part in text.split(","):
        span, _, step = part.partition("/")
        begin, _, end = span.partition("-")
        first = low if span == "*" else number(begin)
        last = high if span == "*" else number(end or begin)
        if kind == "weekday" and end and last == 0 < first:
            last = 7
        if value in range(first, last + 1, int(step or 1)):
            return True
    return False


def due(line: str, at: dt.datetime) -> bool:
    """Tell whether cron would run a line in a minute."""
    minute, hour, day, month, weekday = line.split()
    today = at.isoweekday() % 7
    by_day = member(day, at.day, "day")
    by_weekday = member(weekday, today, "weekday") or (today == 0 and member(weekday, 7, "weekday"))
    either = not day.startswith("*") and not weekday.startswith("*")
    return (
        member(minute, at.minute, "minute")
        and member(hour, at.hour, "hour")
        and member(month, at.month, "month")
        and ((by_day or by_weekday) if either else (by_day and by_weekday))
    )


@st.composite
def fields(draw: st.DrawFn, kind: str) -> str:
    """Any list of values, ranges, names and steps of one field."""
    low, high = BOUNDS[kind]
    names = NAMES.get(kind, [])

    def word(value: int) -> str:
        index = value % 7 if kind == "weekday" else value - 1
        if names and draw(st.sampled_from(["name", "number"])) == "name":
            return draw(st.sampled_from([names[index], names[index].upper(), names[index].title()]))
        return str(value)

    def part() -> str:
        first = draw(st.integers(low, high))
        last = draw(st.integers(first, high))
        step = draw(st.integers(1, high - low + 1))
        return draw(
            st.sampled_from(
                ["*", f"*/{step}", word(first), f"{word(first)}-{word(last)}", f"{first}-{last}/{step}"]
            )
        )

    return ",".join(part() for _ in range(draw(st.integers(1, 3))))


LINES = st.tuples(*(fields(kind) for kind in BOUNDS)).map(" ".join)


@given(line=LINES, hours=st.integers(0, 24 * 365 * 4))
@example(line="* * * * 0", hours=0)
@example(line="* * * * 7", hours=0)
@example(line="0 0 * * 5-7", hours=0)
@example(line="0 0 * * fri-SUN", hours=0)
@example(line="0 0 * * */2", hours=0)
@example(line="0 0 13 * 5", hours=0)
@example(line="0 0 */2 * 1", hours=0)
@example(line="0 0 30 2 1", hours=0)
@example(line="0 12 29 2 *", hours=0)
def test_a_line_wakes_when_a_crontab_would(line: str, hours: int) -> None:
    """Of any line that is taken, the next times are those, and only those, that cron itself would run it at."""
    try:
        cron.parse(line)
    except ValueError:
        assume(False)
    since = BEGIN + dt.timedelta(hours=hours)
    times = wakes(line, 3, since)
    assert all(due(line, at) for at in times)
    between = (since + dt.timedelta(minutes=minute) for minute in range(3 * 24 * 60))
    expected = list(islice((at for at in between if due(line, at)), 3))
    assert times[: len(expected)] == expected
    if len(expected) < 3:
        assert all(at >= since + dt.timedelta(days=3) for at in times[len(expected) :])


@given(st.text(alphabet="0123456789*/,- amonsujl@#?LW%", max_size=24) | LINES)
@example("*/90 * * * *")
@example("0 0 * * 8")
@example("0 0 30 2 *")
@example("60 * * * *")
@example("5/15 * * * *")
@example("1-99 * * * *")
@example("*/0 * * * *")
@example("00000000000000000000000001 * * * *")
def test_whatever_line_is_taken_wakes_somebody(line: str) -> None:
    """No line is taken out of which no alarm can be made, or none that ever rings."""
    try:
        cron.parse(line)
    except ValueError:
        return
    assert wakes(line, 2)


@pytest.mark.parametrize(("macro", "line"), [(macro.upper(), line) for macro, line in cron.MACROS.items()])
def test_a_macro_is_a_line(macro: str, line: str) -> None:
    """Each of them stands for five fields, in small letters or not."""
    assert wakes(macro, 3) == wakes(line, 3)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("@reboot", "there are @hourly"),
        ("@every 5m", "`every` for an interval"),
        ("5/15 * * * *", "write `5-59/15`"),
        ("*/90 * * * *", "minute whose step is not from 1 to 60"),
        ("*/0 * * * *", "minute whose step is not from 1 to 60"),
        ("60 * * * *", "minute that is not from 0 to 59"),
        ("0 22-4 * * *", "hour that runs backwards"),
        ("0 0 0 * *", "day of the month that is not from 1 to 31"),
        ("0 0 * 13 *", "month that is not from 1 to 12, or jan to dec"),
        ("0 0 * * 8", "weekday that is not from 0 to 7, or sun to sat"),
        ("0 0 * * monday", "weekday that is not from 0 to 7, or sun to sat"),
        ("0 0 30 2 *", "never comes"),
        ("0 0 31 4,6,9,11 */2", "never comes"),
        ("0 0 last * *", "day of the month that is not"),
        ("0 0 * * 5#2", "must be five fields"),
        ("0 0 L * *", "day of the month that is not"),
        ("0 0 * * * *", "must be five fields"),
        ("", "must be five fields"),
    ],
)
def test_a_line_that_is_refused(line: str, reason: str) -> None:
    """It says which field is wrong, or what to write instead."""
    with pytest.raises(ValueError, match=reason):
        cron.parse(line)
