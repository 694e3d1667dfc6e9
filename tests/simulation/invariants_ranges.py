"""What must be true of backfills: one that says that it is done has read all of its range, and nothing of that long ago."""

import datetime as dt
from collections import defaultdict
from collections.abc import Callable

from aggregator.collection.backfill import Backfilled
from aggregator.core.model import Span
from aggregator.core.windows import tile
from aggregator.ledger.passes.passes import Pass
from tests.simulation.conditions import DAY, HOUR

Require = Callable[..., None]

GOES_ON_WITHIN = HOUR
"""One that was interrupted longer ago begins anew: what was read may no longer be what there is."""


class Ranges:
    """Knows which windows were read for which backfill, and when."""

    def __init__(self, window: dt.timedelta, require: Require) -> None:
        self._window = window
        self._require = require
        self._read: dict[tuple[str, Span], dict[dt.datetime, dt.datetime]] = defaultdict(dict)
        self._times: dict[tuple[str, Span], list[dt.datetime]] = defaultdict(list)
        self._since: dt.datetime | None = None
        """Since when the ledger is what it is: a restore has forgotten what was read."""

    def restored(self, now: dt.datetime) -> None:
        """Know that a ledger was set back."""
        self._since = now

    def committed(self, meter: str, this: Pass, now: dt.datetime) -> None:
        """Take note of a pass, or of a window that the source could not give: that one is known to be read later."""
        if this.kind == "backfill":
            key = meter, this.goal
            self._times[key].append(now)
            self._read[key].update((window.start, now) for window in tile(this.span, self._window))

    def resumed(self, meter: str, goal: Span, now: dt.datetime) -> None:
        """Look at a backfill that goes on where an earlier run of it stopped."""
        recent = any(at >= now - GOES_ON_WITHIN for at in self._times[meter, goal])
        facts = (meter, goal, "at", now)
        self._require(recent, "a backfill goes on only where it just stopped", *facts)

    def done(self, meter: str, what: Backfilled, began: dt.datetime) -> None:
        """Look at a backfill that is done, or has said where it ended."""
        if self._since is not None and began - self._since < DAY:
            return
        facts = (meter, what.span, "went on at", what.resumed_at)
        key = meter, what.span
        for window in tile(Span(what.span.start, what.left_from or what.span.end), self._window):
            at, before = (
                self._read[key].get(window.start),
                window.start < (what.resumed_at or what.span.start),
            )
            holds = at is not None and (before or at >= began)
            self._require(holds, "a backfill reads all of it", *facts, "and read", window, "at", at)
