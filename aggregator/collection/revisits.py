"""Revisits of a meter whose source can say which windows were touched: once an hour it is asked, and only those are read.

Rules
- It is asked before anything is read, and what cannot be asked delays no new window: those are read, and then it is said.
- An answer that proves nothing, of a standby that is behind, names nothing and moves nothing.
- What a full reading finds beyond all answers is counted. It is asked once more before that: what was touched while it
  was being read is no omission.
"""

import datetime as dt
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager
from typing import Protocol

from aggregator.core import changed, freshness
from aggregator.core.changed import Asked
from aggregator.core.model import Changed, Fence, Meter, Span
from aggregator.ledger.meters import Lease


class Touching(Protocol):
    """An open snapshot of a source: what it proves, and what was touched."""

    @property
    def fence(self) -> Fence | None: ...  # noqa: D102

    def since(self, instant: dt.datetime, /) -> Iterator[list[dt.datetime]]:
        """Yield instants inside of the windows that were touched since an instant, in batches."""
        ...


class Touches(Protocol):
    """What is asked of an application database."""

    def fence(self) -> Fence | None:
        """Say which transactions are open; None if the database cannot tell."""
        ...

    def touched(self, query: str, /) -> AbstractContextManager[Touching]:
        """Open a snapshot to be asked."""
        ...


class Revisits:
    """Asks for one meter. `patience` is how long transactions that are open are waited for."""

    def __init__(self, meter: Meter, source: Touches, patience: dt.timedelta) -> None:
        self._meter = meter
        self._source = source
        self._patience = patience

    def ask(self, question: Changed, lease: Lease, now: dt.datetime) -> Asked | None:
        """Return what was touched since the mark; None if the answer proves nothing. Raises as a reading does."""
        fence, barrier = self._source.fence(), None
        if fence is not None:
            barrier = freshness.passed(fence, lease.definitions, lease.mark, lease.noted, lease.seen_until)
        since = changed.held(question, lease.touched)
        asked_from = (now if since is None else since) - question.lag
        with self._source.touched(question.query) as touching:
            until = changed.shown_until(now, barrier, self._patience, touching.fence, lease.seen_until)
            found = self._starts(lease, touching, asked_from)
        return None if until is None else Asked(since, asked_from, until, found)

    def beyond(
        self,
        question: Changed,
        lease: Lease,
        asked: Asked,
        differed: Collection[dt.datetime],
        read_anyway_from: dt.datetime,
    ) -> frozenset[dt.datetime]:
        """Return the windows in which a full reading found what no answer named. Raises as a reading does."""
        found = changed.beyond(asked, differed, read_anyway_from)
        if not found:
            return found
        with self._source.touched(question.query) as touching:
            return found - self._starts(lease, touching, asked.asked_from)

    def _starts(self, lease: Lease, touching: Touching, since: dt.datetime) -> frozenset[dt.datetime]:
        """Return the starts of the windows that were touched, of all that were read already."""
        read = Span(self._meter.start_at, lease.mark)
        return frozenset(
            start
            for batch in touching.since(since)
            for start in changed.starts_of(lease.definitions, read, batch)
        )
