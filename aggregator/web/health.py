"""How a meter stands with a sink, in a word and a sentence. Pure.

The gravest is said: what stops sending, then what keeps the meter from being read, then what waits for a person.
"""

import datetime as dt
from enum import StrEnum
from typing import NamedTuple

from aggregator.core.shown import counted, duration
from aggregator.core.windows import DAY
from aggregator.ledger.reports import FeedStatus

LATE_AFTER = dt.timedelta(minutes=15)
"""Beyond when a window is ready and looked for: what a busy machine may take."""


class Level(StrEnum):
    """How good it is."""

    GOOD = "good"
    WAITS = "waits"
    BAD = "bad"


class Health(NamedTuple):
    """A level, a word, and why; nothing more is to be said of what is good."""

    level: Level
    word: str
    why: str = ""


class Pace(NamedTuple):
    """How soon a meter is read by its configuration: after its window's end, and how often one looks."""

    delay: dt.timedelta
    every: dt.timedelta


def health(row: FeedStatus, now: dt.datetime, pace: Pace | None) -> Health:
    """Say how a meter stands with a sink; without `pace` the meter is not configured."""
    if row.halted:
        return Health(Level.BAD, "halted", f"{row.sink} refuses every call: {row.halted}")
    if row.stopped:
        return Health(Level.BAD, "stopped", row.stopped)
    if row.error:
        return Health(Level.BAD, "failed", row.error)
    if pace is None:
        return Health(
            Level.WAITS, "not configured", "The meter is in the ledger, but not in the configuration."
        )
    ended = row.until is not None and row.mark >= row.until
    due = dt.timedelta(seconds=row.window_seconds) + pace.delay + pace.every + LATE_AFTER
    if now - row.mark > due and not ended:
        behind = duration(now - row.mark)
        waits = f" It waits for {row.waits_for} in its source." if row.waits_for else ""
        return Health(Level.BAD, "late", f"The last {behind} have not been read yet.{waits}")
    waiting = {"held": row.held, "refused": row.refused, "in doubt": row.in_doubt}
    found = ", ".join(f"{count:,} {what}" for what, count in waiting.items() if count)
    if found:
        return Health(Level.WAITS, "needs you", f"Events wait for your decision: {found}.")
    if row.silent_since:
        return Health(Level.WAITS, "silent", f"No usage since {row.silent_since:%Y-%m-%d %H:%M} UTC.")
    if row.unread:
        return Health(Level.WAITS, "gaps", f"The source could not give {counted(row.unread, 'window')}.")
    if row.shadow:
        return Health(Level.GOOD, "in shadow", "Events are planned and recorded, but not sent.")
    return Health(Level.GOOD, "in time")


def pace_of(delay: dt.timedelta, every: dt.timedelta | None, window: dt.timedelta, *, by_cron: bool) -> Pace:
    """Return how soon a meter is read; one that is read by a calendar may be read once a day only."""
    return Pace(delay, DAY if by_cron else (every or min(window / 4, dt.timedelta(minutes=5))))
