"""Cron lines: five fields or a macro to the minutes they mean, which is what they mean in a crontab.

Rules (crontab(5), man7.org/linux/man-pages/man5/crontab.5.html)
- 0 and 7 are Sunday, 1 is Monday. Names of weekdays and months have three letters, in any case.
- If both the day of the month and the weekday are restricted, which is to say that neither begins with `*`, a day that fits
  either of them will do. Otherwise it has to fit both.
- What crons differ about, or would never come, is refused with what to write instead.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")

DAYS_OF_MONTH = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
"""How many there are at most."""

MACROS = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}

SHAPE = (
    "must be five fields (minute, hour, day, month, weekday) of digits, names and * / , -, such as `*/5 * * * *`, or one of "
    + ", ".join(MACROS)
)


@dataclass(frozen=True, slots=True)
class Days:
    """The days on which a line wakes: those of these months that are of these days and of these weekdays (0 is Sunday)."""

    months: frozenset[int]
    days: frozenset[int]
    weekdays: frozenset[int]


@dataclass(frozen=True, slots=True)
class Cron:
    """When a line wakes, in UTC: at each of these hours and minutes of a day that any of `days` has."""

    minutes: frozenset[int]
    hours: frozenset[int]
    days: tuple[Days, ...]


@dataclass(frozen=True, slots=True)
class _Field:
    name: str
    least: int
    most: int
    names: tuple[str, ...] = ()
    named_from: int = 0

    @property
    def all(self) -> frozenset[int]:
        return frozenset(range(self.least, self.most + 1))

    def read(self, text: str) -> frozenset[int]:
        """Return the values of a list such as `1-5,10-20/2`. Raises ValueError with what is wrong, in our own words."""
        return frozenset(value for part in text.split(",") for value in self._part(part))

    def _part(self, part: str) -> Iterator[int]:
        span, slash, step = part.partition("/")
        first, dash, last = span.partition("-")
        if span == "*":
            low, high = self.least, self.most
        else:
            low = self._value(first)
            high = self._last(low, last) if dash else low
        if not slash:
            return iter(range(low, high + 1))
        if span != "*" and not dash:
            raise ValueError(
                f"has a {self.name} with a step and no range, about which crons differ: write `{first}-{self.most}/{step}`"
            )
        return iter(range(low, high + 1, self._step(step)))

    def _step(self, step: str) -> int:
        size = self.most - self.least + 1
        if not re.fullmatch(r"\d{1,2}", step, re.ASCII) or not 1 <= int(step) <= size:
            raise ValueError(f"has a {self.name} whose step is not from 1 to {size}")
        return int(step)

    def _value(self, text: str) -> int:
        if text.lower() in self.names:
            return self.names.index(text.lower()) + self.named_from
        if not re.fullmatch(r"\d{1,2}", text, re.ASCII) or not self.least <= int(text) <= self.most:
            names = f", or {self.names[0]} to {self.names[-1]}" if self.names else ""
            raise ValueError(f"has a {self.name} that is not from {self.least} to {self.most}{names}")
        return int(text)

    def _last(self, low: int, text: str) -> int:
        high = self._value(text)
        if self.most == SUNDAY and high == 0 and low > 0:
            return SUNDAY  # as in `fri-sun`: the week has an end as well
        if high < low:
            raise ValueError(
                f"has a {self.name} that runs backwards: write two ranges with a comma between them"
            )
        return high


SUNDAY = 7
"""The other number of Sunday, at the end of the week."""

MINUTE = _Field("minute", 0, 59)
HOUR = _Field("hour", 0, 23)
DAY = _Field("day of the month", 1, 31)
MONTH = _Field("month", 1, 12, MONTHS, 1)
WEEKDAY = _Field("weekday", 0, SUNDAY, WEEKDAYS)


def parse(line: str) -> Cron:
    """Return when a line wakes; ValueError says what is wrong with it, without repeating it."""
    fields = normalised(line).split()
    if fields[0].startswith("@"):
        fields = MACROS[fields[0]].split()
    minute, hour, day, month, weekday = fields
    minutes, hours = MINUTE.read(minute), HOUR.read(hour)
    months, days = MONTH.read(month), DAY.read(day)
    weekdays = frozenset(each % SUNDAY for each in WEEKDAY.read(weekday))
    every_day, every_weekday = DAY.all, frozenset(range(SUNDAY))
    if day.startswith("*") or weekday.startswith("*"):
        either = [Days(months, days, weekdays)]
    else:
        either = [Days(months, days, every_weekday), Days(months, every_day, weekdays)]
    come = tuple(each for each in either if _comes(each))
    if not come:
        raise ValueError("never comes: none of its months has such a day")
    return Cron(minutes, hours, come)


def _comes(days: Days) -> bool:
    return any(day <= DAYS_OF_MONTH[month - 1] for month in days.months for day in days.days)


def normalised(line: str) -> str:
    """Return a line with single spaces, a macro in small letters; ValueError if it has not the shape of one."""
    text = " ".join(line.split())
    if text.startswith("@"):
        if text.lower() not in MACROS:
            raise ValueError(
                f"is a macro that is not known; there are {', '.join(MACROS)}, and `every` for an interval"
            )
        return text.lower()
    if len(text.split()) != 5 or not re.fullmatch(r"[0-9A-Za-z*/,\- ]+", text):
        raise ValueError(SHAPE)
    return text
