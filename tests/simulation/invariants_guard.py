"""What must be true of windows that lose much at once: no bill is lowered before the source has said it twice."""

import datetime as dt
from collections import defaultdict
from collections.abc import Callable
from decimal import Decimal

from aggregator.core.model import ZERO, Span, State
from tests.simulation.conditions import HOUR
from tests.simulation.memory import EventRow, Tables

Require = Callable[..., None]

SHARE = Decimal("0.2")
"""A window that was read before may lose so much of its total at once, and not all of it."""


class Guarded:
    """Knows where each window stood after the pass before."""

    def __init__(self, require: Require) -> None:
        self._require = require
        self._stood: dict[tuple[int, dt.datetime], Decimal] = defaultdict(Decimal)
        self._shrunk: list[tuple[int, dt.datetime]] = []
        """What the latest pass found to be far less than before."""

    def restored(self, tables: Tables) -> None:
        """Begin anew with what a restore or an adoption has left."""
        self._stood.clear()
        for feed in tables.slots:
            for start in tables.slots[feed]:
                self._stood[feed, start] = _sum(tables, feed, start)

    def committed(self, tables: Tables, meter: int, span: Span) -> None:
        """Note which windows shrank by the pass that was just committed."""
        self._shrunk.clear()
        for feed in tables.feeds.values():
            for start in tables.slots[feed.id] if feed.meter_id == meter else ():
                if start in span:
                    before, now = self._stood[feed.id, start], _sum(tables, feed.id, start)
                    self._stood[feed.id, start] = now
                    if now < before and (not now or before - now > SHARE * before):
                        self._shrunk.append((feed.id, start))

    def planned(self, event: EventRow) -> None:
        """Look at an event that the latest pass has planned."""
        held = event.delta >= 0 or event.state is not State.DUE
        facts = (event, "lowers a bill at once, and these shrank:", self._shrunk)
        self._require(held or not self._shrunk, "what shrinks is held", *facts)

    def believed(self, event: EventRow, now: dt.datetime) -> None:
        """Look at a held event that a pass releases."""
        facts = (event, "was planned only at", event.planned_at)
        self._require(now - event.planned_at >= HOUR, "what shrinks is read twice", *facts)


def _sum(tables: Tables, feed: int, start: dt.datetime) -> Decimal:
    return sum((slot.quantity for slot in tables.slots[feed][start].values()), ZERO)
