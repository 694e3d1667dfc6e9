"""Reading by a cursor: what a cursor is, and up to where rows may be read for good. Pure.

A cursor moves past a row once and for ever, and rows become visible in another order than their ids: a transaction takes its
id, works on, and commits after others that took later ones. So where the rows end now is not where the cursor may go now.

Rules
- The goal is noted first: the highest cursor that is visible, and after that which transactions are open. Every row with
  a lower cursor is of a transaction that had taken it by then. Once those have ended, a new snapshot shows all of them.
- Which of them can still write such a row, the database must show. Otherwise a declared `lag` stands for that: a bet on
  the longest transaction. Where neither is to be had, nothing is read.
- A transaction that is prepared goes on under another name. Those that are prepared once the others have ended are waited
  for as well.
- Waiting is not bounded: what a cursor has passed over is found by a recount only.
- All usage before an instant is there once every transaction that was open then has ended, and all that was visible after
  that has been read. Windows that end later wait.
"""

import datetime as dt
from typing import NamedTuple

Cursor = int | dt.datetime
"""A whole number, or an instant."""

TICK = dt.timedelta(seconds=2)
"""An instant is a cursor only once it lies this far back: a column may round to the next second, and the rows of one tick of
the clock may come one after the other."""


class Deltas(NamedTuple):
    """How a meter is read by a cursor."""

    start_after: Cursor
    upto_query: str
    lag: dt.timedelta | None = None
    recount: dt.timedelta | None = None
    recount_query: str | None = None


class Writers(NamedTuple):
    """What a database says of the transactions that may still commit rows which it numbered before."""

    open: frozenset[str]
    prepared: frozenset[str]
    """Those among them that no session has: they were prepared, and wait to be committed."""
    holder: str | None = None
    """The oldest of them, in words."""


class Top(NamedTuple):
    """Where the rows end, as one snapshot shows it, and who was writing after that."""

    at: dt.datetime
    """The database's clock, or ours where it is not asked."""
    upto: Cursor
    """The highest cursor that was looked at; the mark itself if no row lies after it."""
    is_newest: bool
    """Whether no row lies after that, or only rows that are too new to be read."""
    writers: Writers | None
    """None where the database cannot tell."""


class Goal(NamedTuple):
    """Up to where rows will be read, once all that is waited for has ended."""

    upto: Cursor
    noted_at: dt.datetime
    complete_until: dt.datetime | None
    """All usage before this instant is there once the goal is reached; None: that is not known."""
    waits_for: frozenset[str] = frozenset()
    looked_again: bool = False
    """Whether what was prepared meanwhile has been added to what is waited for."""


def goal(top: Top, ended_until: dt.datetime | None) -> Goal:
    """Return the goal to be noted for what a snapshot shows.

    All transactions that were open at `ended_until` had ended before that snapshot; None: nothing is known.
    """
    waits = frozenset[str]() if top.writers is None else top.writers.open | top.writers.prepared
    complete_until = ended_until if top.is_newest else None
    if complete_until is not None and isinstance(top.upto, dt.datetime):
        complete_until = min(complete_until, top.at - TICK)
    return Goal(top.upto, top.at, complete_until, waits)


def waited(noted: Goal, now: Writers) -> Goal:
    """Return a goal as it stands now, by who is writing now."""
    left = noted.waits_for & (now.open | now.prepared)
    if left or noted.looked_again:
        return noted._replace(waits_for=left)
    return noted._replace(waits_for=now.prepared, looked_again=True)


def may_go(noted: Goal, at: dt.datetime, lag: dt.timedelta | None) -> bool:
    """Tell whether the rows up to a goal can be read for good, by the clock that it was noted by."""
    return not noted.waits_for and (lag is None or at >= noted.noted_at + lag)


def written(cursor: Cursor) -> str:
    """Return a cursor as the ledger keeps it."""
    return cursor.isoformat() if isinstance(cursor, dt.datetime) else str(cursor)


def read(text: str) -> Cursor:
    """Return a cursor that the ledger keeps."""
    return int(text) if text.lstrip("-").isdigit() else dt.datetime.fromisoformat(text)


def is_after(cursor: Cursor, other: Cursor) -> bool:
    """Tell whether a cursor lies after another one. Raises TypeError if they are of two kinds."""
    if isinstance(cursor, dt.datetime) and isinstance(other, dt.datetime):
        return cursor > other
    if isinstance(cursor, int) and isinstance(other, int):
        return cursor > other
    raise TypeError("a number and an instant do not follow each other")
