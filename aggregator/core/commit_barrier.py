"""The commit barrier: up to when has an application database told all that was written in time? Pure.

A row gets its time when it is written and becomes visible when its transaction commits, which may be much later. So a window
is first read only when every transaction that could still commit into it has ended. We note what the next transaction id was
after a window's end, and wait until every transaction with a lower one has ended; that takes no privileges
(postgresql.org/docs/current/functions-info.html, "Transaction ID and Snapshot Information Functions").

Rules
- A fence is noted after the window's end, by the database's own clock: whoever wrote a row before had its id by then.
- A row stamped with `now()` carries its transaction's start, which may lie before its id: where the role may see when
  transactions began, the oldest of them holds windows back as well.
- Ids that run backwards are another server's (a failover, a restore): what was noted before means nothing there.
- On a standby, and wherever `freshness` is configured, nothing is ready without proof that all rows have arrived by then.
- Waiting is bounded by a declared time, since a forgotten transaction elsewhere holds the ids back for ever. What comes
  after that is found by reading again. On a standby it is not bounded: there, what is missing may be anything. Nor does any
  patience replace a proof of freshness.
"""

import datetime as dt
from collections.abc import Sequence
from typing import NamedTuple

from aggregator.core.model import Fence

MOST_NOTED = 2_000
"""More windows than could be waited for at once; what is beyond is covered by the last one."""


NEVER = dt.datetime.min.replace(tzinfo=dt.UTC)


class Noted(NamedTuple):
    """Windows that end by `until` are complete once every transaction below `xid` has ended."""

    until: dt.datetime
    xid: int


class Passed(NamedTuple):
    """How far the barrier has moved, what is to be noted for later, and who holds it back."""

    until: dt.datetime
    """Windows that end by then are complete, as far as the database can tell."""
    noted: tuple[Noted, ...]
    holder: str | None
    proven_until: dt.datetime | None = None
    """Up to when the source has proven to have all rows; None where that need not be proven."""


def trusted(fence: Fence, seen_until: dt.datetime | None) -> Fence:
    """Return what a source says, without its proof if that falls behind what was read from it before.

    Another standby may answer by the same address: what the one before had shown is not gone because this one lacks it.
    """
    if fence.must_prove and seen_until is not None and (fence.fresh_until or NEVER) < seen_until:
        return fence._replace(fresh_until=None)
    return fence


def proven_until(fence: Fence) -> dt.datetime | None:
    """Return up to when a source has proven to have all rows; None where that need not be proven."""
    return (fence.fresh_until or NEVER) if fence.must_prove else None


def unproven(fence: Fence) -> str:
    """Say what is lacking."""
    if fence.lacking is not None:
        return fence.lacking
    if fence.standby:
        return "the standby has not shown that it has seen what the primary committed"
    return "the source has not shown, by `freshness`, that all rows have arrived"


def judge(fence: Fence, noted: Sequence[Noted], boundary: dt.datetime) -> Passed:
    """Say how far the barrier has moved.

    `boundary` is the end of the last window that had ended at `fence.at`. `noted` is what was noted before, in order.
    """
    assert boundary <= fence.at, "a fence is noted after the window's end"
    known = [each for each in noted if each.xid <= fence.xmax]
    # On a standby, who wrote after what it has replayed may have any id.
    proven = proven_until(fence)
    fresh = boundary if proven is None else min(boundary, proven)
    if fresh > NEVER and (not known or known[-1].until < fresh) and len(known) < MOST_NOTED:
        known.append(Noted(fresh, fence.xmax))
    ended = max((each.until for each in known if each.xid <= fence.xmin), default=NEVER)
    until, holder = ended, fence.holder
    if fence.oldest_start is not None:
        until = min(until, fence.oldest_start)
    if fresh < boundary and fresh <= until:
        until = fresh
        holder = unproven(fence)
    return Passed(until, tuple(each for each in known if each.until >= ended), holder, proven)


class Ready(NamedTuple):
    """Up to when windows may be read; and up to when without having waited long enough, if that is further."""

    until: dt.datetime
    fenced_until: dt.datetime


def ready(settled: dt.datetime, passed: Passed | None, patience: dt.timedelta, *, bounded: bool) -> Ready:
    """Say up to when windows may be read: what has settled, and the barrier has passed or kept for too long."""
    if passed is None:
        return Ready(settled, settled)
    fenced_until = min(settled, passed.until)
    until = max(fenced_until, settled - patience) if bounded else fenced_until
    return Ready(until if passed.proven_until is None else min(until, passed.proven_until), fenced_until)
