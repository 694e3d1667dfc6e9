"""Durations as people write them: `30s`, `5m`, `1h`, `3d`, and together, largest unit first, `1h30m`.

A plain number is refused, because 60 may mean seconds to one reader and minutes to the next.
"""

import datetime as dt
import re

SECONDS_PER_UNIT = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}

LONGEST = dt.timedelta(days=36_500)
"""A hundred years: more than anybody means, and no instant from which a calendar could not count so far."""

# Seven digits are less than `timedelta` can hold.
DURATION_PATTERN = "".join(rf"(?:(\d{{1,7}}){unit})?" for unit in SECONDS_PER_UNIT)
_DURATION = re.compile(DURATION_PATTERN, re.ASCII)


def parse_duration(text: str) -> dt.timedelta:
    """Return what a text such as `1h30m` means; ValueError says how to write it, without repeating it."""
    match = _DURATION.fullmatch(text.strip())
    if match is None or not any(match.groups()):
        raise ValueError(
            "is not a duration: write a number and s, m, h or d, such as `30s`, `5m`, `1h30m` or `3d`"
        )
    amounts = zip(match.groups(default="0"), SECONDS_PER_UNIT.values(), strict=True)
    duration = dt.timedelta(seconds=sum(int(amount) * seconds for amount, seconds in amounts))
    if duration > LONGEST:
        raise ValueError("is longer than a hundred years: write a shorter one")
    return duration


def format_duration(duration: dt.timedelta) -> str:
    """Return the shortest text that means this duration; only whole seconds, zero or more, have one."""
    left, fraction = divmod(duration, dt.timedelta(seconds=1))
    if left < 0 or fraction:
        raise ValueError("only a duration of whole seconds, zero or more, can be written")
    parts = []
    for unit, seconds in SECONDS_PER_UNIT.items():
        amount, left = divmod(left, seconds)
        if amount:
            parts.append(f"{amount}{unit}")
    return "".join(parts) or "0s"
