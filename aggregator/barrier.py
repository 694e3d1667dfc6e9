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
- On a standby nothing is ready without proof that it has seen what the primary committed by then.
- Waiting is bounded by a declared time, since a forgotten transaction elsewhere holds the ids back for ever. What comes
  after that is found by reading again. On a standby it is not bounded: there, what is missing may be anything.
"""

import datetime as dt
from collections.abc import Sequence
from typing import NamedTuple

from aggregator.model import Fence

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


def judge(fence: Fence, noted: Sequence[Noted], boundary: dt.datetime) -> Passed:
    """Say how far the barrier has moved.

    `boundary` is the end of the last window that had ended at `fence.at`. `noted` is what was noted before, in order.
    """
    assert boundary <= fence.at, "a fence is noted after the window's end"
    known = [each for each in noted if each.xid <= fence.xmax]
    # On a standby, who wrote after what it has replayed may have any id.
    fresh = min(boundary, fence.fresh_until or NEVER) if fence.standby else boundary
    if fresh > NEVER and (not known or known[-1].until < fresh) and len(known) < MOST_NOTED:
        known.append(Noted(fresh, fence.xmax))
    ended = max((each.until for each in known if each.xid <= fence.xmin), default=NEVER)
    until, holder = ended, fence.holder
    if fence.oldest_start is not None:
        until = min(until, fence.oldest_start)
    if fresh < boundary and fresh <= until:
        until = fresh
        holder = "the standby has not shown that it has seen what the primary committed"
    return Passed(until, tuple(each for each in known if each.until >= ended), holder)


class Ready(NamedTuple):
    """Up to when windows may be read; and up to when without having waited long enough, if that is further."""

    until: dt.datetime
    fenced_until: dt.datetime


def ready(settled: dt.datetime, passed: Passed | None, patience: dt.timedelta, *, bounded: bool) -> Ready:
    """Say up to when windows may be read: what has settled, and the barrier has passed or kept for too long."""
    if passed is None:
        return Ready(settled, settled)
    fenced_until = min(settled, passed.until)
    return Ready(max(fenced_until, settled - patience) if bounded else fenced_until, fenced_until)
