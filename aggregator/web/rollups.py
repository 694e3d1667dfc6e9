"""What each hour of a feed holds, kept as long as no pass changed it: a month of many customers is summed once only.

What is asked of the ledger each time is small: which passes there were since, and what is not billed yet.
"""

import datetime as dt
import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field

from aggregator.core.model import ZERO, Span
from aggregator.core.windows import DAY, HOUR, floor
from aggregator.ledger.usage import UsageFeed
from aggregator.ledger.usage_windows import HourSums, UsageWindows
from aggregator.web.charts import Point

MOST_KEPT = 64
"""Months of feeds that are kept: 744 hours each, a few hundred bytes an hour."""


@dataclass(slots=True)
class _Kept:
    lock: threading.Lock = field(default_factory=threading.Lock)
    newest: int | None = None
    hours: dict[dt.datetime, HourSums] = field(default_factory=dict)


class Rollups:
    """Sums by hour. Threads may ask at any time; one of them at a time reads what is new of a feed and a span."""

    def __init__(self, windows: UsageWindows) -> None:
        self._windows = windows
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[int, Span], _Kept] = OrderedDict()

    def points(self, feed: UsageFeed, span: Span, step: dt.timedelta) -> list[Point]:
        """Return what was used and billed in each step of a span, which begins and ends at midnight."""
        hours = self.hours(feed, span)
        not_billed = self._windows.not_billed(feed.id, span)
        sums = {start: Point(start, ZERO, ZERO) for start in _steps(span, step)}
        for start, its in hours.items():
            place = floor(start, step)
            if place in sums:
                before = sums[place]
                sums[place] = Point(place, before.used + its.used, before.billed + its.total)
        for start, amount in not_billed.items():
            place = floor(start, step)
            if place in sums:
                sums[place] = sums[place]._replace(billed=sums[place].billed - amount)
        return list(sums.values())

    def hours(self, feed: UsageFeed, span: Span) -> dict[dt.datetime, HourSums]:
        """Return the hours of a span that hold anything."""
        kept = self._of(feed.id, span)
        with kept.lock:
            if kept.newest is None:
                newest = self._windows.newest_pass(feed.meter_id)
                kept.hours = {each.start: each for each in self._windows.sums(feed.id, span)}
                kept.newest = newest
                return dict(kept.hours)
            changes = self._windows.changed(feed.meter_id, kept.newest)
            if changes.span is not None:
                again = Span(
                    max(span.start, floor(changes.span.start, HOUR)),
                    min(span.end, floor(changes.span.end, HOUR) + HOUR),
                )
                kept.hours = {start: each for start, each in kept.hours.items() if start not in again}
                if again.start < again.end:
                    kept.hours |= {each.start: each for each in self._windows.sums(feed.id, again)}
            kept.newest = changes.newest
            return dict(kept.hours)

    def _of(self, feed: int, span: Span) -> _Kept:
        with self._lock:
            kept = self._kept.setdefault((feed, span), _Kept())
            self._kept.move_to_end((feed, span))
            while len(self._kept) > MOST_KEPT:
                self._kept.popitem(last=False)
            return kept


def _steps(span: Span, step: dt.timedelta) -> Iterator[dt.datetime]:
    assert step in (HOUR, DAY)
    start = span.start
    while start < span.end:
        yield start
        start += step
