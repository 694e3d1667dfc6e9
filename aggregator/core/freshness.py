"""Which part of a span a reading may use: what the very transaction that gives its rows has proven to see. Pure.

A proof that was asked for on another connection is none: behind one address there may be several standbys, each further
behind than the one before. So each reading is judged by what its own transaction says, before the query is asked.

Rules
- Where freshness must be proven, nothing beyond the proof is read: not for the first time, not again, not by a backfill.
- A source that shows less than was read from it before is not compared with that: usage would seem to have been taken back.
- A window is first read only once the commit barrier has passed it, as far as that transaction sees.
"""

import datetime as dt
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from aggregator.core import commit_barrier, definitions, windows
from aggregator.core.commit_barrier import Noted, Passed
from aggregator.core.model import Definition, Fence, Reading, Span


class Reads(Protocol):
    """What can be read, such as an application database."""

    def read(
        self,
        query: str,
        span: Span,
        window: dt.timedelta,
        *,
        dimensions: Sequence[str] = (),
        step: dt.timedelta | None = None,
        allow: Callable[[Fence | None], dt.datetime] | None = None,
    ) -> Iterator[list[Reading]]:
        """Yield all readings of the span in batches, from one snapshot; asked for in pieces of `step`, if given.

        `dimensions` are the further columns that keep usage apart.

        `allow` is told what that snapshot proves, and says up to when it is read.
        """
        ...


class Admission:
    """Judges one reading of a span. Called with what its transaction says; returns up to when it may read.

    `mark` is up to when windows have been read before, None for whoever only looks. `settled` is up to when windows have
    settled; `seen_until`, up to when the source had surely shown everything at an earlier reading.
    """

    def __init__(
        self,
        span: Span,
        window: dt.timedelta,
        *,
        known: Sequence[Definition],
        mark: dt.datetime | None,
        noted: Sequence[Noted] = (),
        seen_until: dt.datetime | None = None,
        settled: dt.datetime,
        patience: dt.timedelta,
        now: dt.datetime,
    ) -> None:
        self._span = span
        self._window = window
        self._known = known
        self._mark = mark
        self._noted = noted
        self._seen_until = seen_until
        self._settled = settled
        self._patience = patience
        self._now = now
        self.until = span.end
        """Up to when the reading goes."""
        self.seen: dt.datetime | None = None
        """Up to when it surely shows everything, if the database says so."""
        self.reason: str | None = None
        """Why it does not go to the end."""

    @property
    def is_cut(self) -> bool:
        """Whether it does not go to the end of its span."""
        return self.until < self._span.end

    def __call__(self, fence: Fence | None) -> dt.datetime:
        """Judge, and return up to when may be read: the start of the span, if nothing."""
        self.until, self.reason = self._span.end, None
        if fence is None:
            return self.until
        fence = commit_barrier.trusted(fence, self._seen_until)
        proven = commit_barrier.proven_until(fence)
        limit = self._span.end if proven is None else min(self._span.end, proven)
        if limit < self._span.end:
            self.reason = commit_barrier.unproven(fence)
        if self._mark is not None and self._span.end > self._mark and (self._patience or fence.must_prove):
            limit = min(limit, max(self._mark, self._first_read(fence, self._mark)))
        if limit < self._span.end:
            self.until = max(self._span.start, windows.floor(max(limit, self._span.start), self._window))
            self.reason = self.reason or fence.holder or "transactions that are open in the source"
        shown = fence.fresh_until if fence.must_prove else fence.at
        self.seen = None if shown is None else min(shown, self._now)
        return self.until

    def _first_read(self, fence: Fence, mark: dt.datetime) -> dt.datetime:
        """Return up to when windows may be read for the first time."""
        moved = passed(fence, self._known, mark, self._noted, self._seen_until)
        return commit_barrier.ready(self._settled, moved, self._patience, bounded=not fence.standby).until


def passed(
    fence: Fence,
    known: Sequence[Definition],
    mark: dt.datetime,
    noted: Sequence[Noted],
    seen_until: dt.datetime | None,
) -> Passed:
    """Say how far the barrier has moved for a meter that is read up to a mark, by what its source says of its transactions.

    `noted` and `seen_until` are what was noted of the source before.
    """
    fence = commit_barrier.trusted(fence, seen_until)
    boundary = windows.floor(fence.at, definitions.grid(known, mark))
    return commit_barrier.judge(fence, noted, boundary)
