"""Which windows exist, and which are to be read. Pure: the present instant is an argument.

Rules
- Windows lie on the UTC grid: a window begins where the seconds since 1970 divide by its length. Lengths divide a day,
  so every day begins a window, and windows tile time without gap or overlap whatever the clocks on walls do.
- What is due is computed from the mark and the present instant, never from when we were last woken: a missed wake-up
  costs delay and nothing else.
"""

import datetime as dt
from collections.abc import Iterator
from typing import NamedTuple

from aggregator.core.model import EPOCH, Span

MINUTE = dt.timedelta(minutes=1)
HOUR = dt.timedelta(hours=1)
DAY = dt.timedelta(days=1)

WINDOWS_PER_READ = 1_440
"""A span read at once has at most this many windows (a day of minutes): it bounds a transaction, and what a crash
costs."""

WINDOWS_ASKED_SINGLY = 60
"""A query without a `window` column is asked once per window, so a pass asks it for no more old ones than these, or than
twice as many as it has new ones to ask for."""


def floor(instant: dt.datetime, length: dt.timedelta) -> dt.datetime:
    """Return the start of the window of this length that holds the instant."""
    return EPOCH + (instant - EPOCH) // length * length


def is_boundary(instant: dt.datetime, length: dt.timedelta) -> bool:
    """Tell whether a window of this length begins at the instant."""
    return not (instant - EPOCH) % length


def is_whole(span: Span, length: dt.timedelta) -> bool:
    """Tell whether a span begins and ends where windows of this length do."""
    return is_boundary(span.start, length) and is_boundary(span.end, length)


def tile(span: Span, length: dt.timedelta) -> Iterator[Span]:
    """Yield the windows of a span in order. The span begins and ends on boundaries."""
    assert is_boundary(span.start, length), f"{span} does not begin at a window boundary"
    assert is_boundary(span.end, length), f"{span} does not end at a window boundary"
    start = span.start
    while start < span.end:
        yield Span(start, start + length)
        start += length


def count(span: Span, length: dt.timedelta) -> int:
    """Return how many windows a span holds."""
    return max(0, (span.end - span.start) // length)


def cut(span: Span, length: dt.timedelta, most: int) -> Iterator[Span]:
    """Yield the span in consecutive pieces of at most `most` windows."""
    assert most >= 1
    start = span.start
    while start < span.end:
        end = min(start + most * length, span.end)
        yield Span(start, end)
        start = end


def settled_until(now: dt.datetime, delay: dt.timedelta, length: dt.timedelta) -> dt.datetime:
    """Return the end of the last window that is ready: one whose end lies `delay` or longer in the past."""
    return floor(now - delay, length)


class Reads(NamedTuple):
    """The spans one pass is to read, in order. `swept` is where the sweep through old windows has come to."""

    spans: tuple[Span, ...]
    swept: dt.datetime | None


def reads(
    *,
    mark: dt.datetime,
    ready: dt.datetime,
    horizon: dt.datetime,
    length: dt.timedelta,
    at_once: bool,
    swept: dt.datetime | None,
) -> Reads:
    """Decide what a live pass reads: every window that became ready, and old ones again from `horizon` on.

    With `at_once` (the query returns `window`) the whole stretch is one query. Otherwise each window costs a query, so a
    pass takes the newest old windows and the next stretch of a sweep that comes round to all of them; `swept` carries the
    sweep from pass to pass. The sweep goes at least as far as the mark does, so that it reaches every window before the
    horizon has passed it, however seldom we are woken.
    """
    horizon = min(horizon, mark)
    end = max(mark, ready)
    if at_once or count(Span(horizon, mark), length) <= WINDOWS_ASKED_SINGLY:
        whole = Span(horizon, end)
        return Reads((whole,) if whole.start < whole.end else (), None)
    half = WINDOWS_ASKED_SINGLY // 2
    recent = mark - half * length
    sweep_from = swept if swept is not None and horizon <= swept < recent else horizon
    stretch = max(half, count(Span(mark, end), length))
    sweep = Span(sweep_from, min(sweep_from + stretch * length, recent))
    # One that has come to the end begins anew, even if the mark goes on meanwhile: it must not follow the mark for ever.
    return Reads((sweep, Span(recent, end)), sweep.end if sweep.end < recent else None)


NEAR, HOURLY, DAILY = dt.timedelta(hours=2), dt.timedelta(days=2), DAY
"""Every pass reads the last two hours again, once an hour the last two days, once a day all that can still be billed: most
of what comes late comes soon."""


class Lookback(NamedTuple):
    """How far back a pass reads: `near` in any case, `deep` this time; and which rungs of the ladder that serves."""

    near: dt.datetime
    deep: dt.datetime
    hourly: bool
    daily: bool


def near(mark: dt.datetime, revisit: dt.timedelta, length: dt.timedelta) -> dt.datetime:
    """Return from where on every pass reads windows again that were read before."""
    return mark - min(revisit, max(NEAR, 2 * length))


def lookback(
    *,
    now: dt.datetime,
    mark: dt.datetime,
    revisit: dt.timedelta,
    length: dt.timedelta,
    hourly_at: dt.datetime | None,
    daily_at: dt.datetime | None,
    fully: dt.timedelta | None = None,
) -> Lookback:
    """Decide how far back a pass reads, given when the longer stretches were last read in full.

    With `fully`, the source says each hour what was touched, and all is read at that pace instead of daily.
    """
    near_from = near(mark, revisit, length)
    daily = _is_over(daily_at, now, DAILY if fully is None else fully)
    hourly = daily or _is_over(hourly_at, now, HOUR)
    two_days = hourly and fully is None
    deep = mark - revisit if daily else mark - min(revisit, HOURLY) if two_days else near_from
    return Lookback(near_from, min(deep, near_from), hourly, daily)


def _is_over(since: dt.datetime | None, now: dt.datetime, time: dt.timedelta) -> bool:
    """Tell whether so much time is over, or nobody knows: what lies ahead was stamped by a clock that was set back since."""
    return since is None or not dt.timedelta(0) <= now - since < time


def is_ahead(at: dt.datetime, now: dt.datetime, most: dt.timedelta) -> bool:
    """Tell whether an instant that lies so far ahead at most is to be waited for; not if a clock was set back since."""
    return now < at <= now + most
