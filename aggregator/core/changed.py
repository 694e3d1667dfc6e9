"""Which old windows are read again, where a source can say which of them were touched. Pure.

A row is stamped when it is written and becomes visible when its transaction commits, which may be much later: the newest
stamp that is visible is no place to go on from. So what is remembered is not a stamp. It is an instant by which every
transaction had ended, as far as the source can tell; and from there it is asked again, a declared lag earlier.

Rules
- What is asked first is read after: a reading sees at least what the question saw.
- The mark stands for readings. It moves in the transaction that commits the last of them, and no further than each of them
  was proven to see; so whoever dies in between asks from the same instant again.
- The mark never runs ahead of our clock, nor backwards: a source's clock that was set back must not leave time out.
- Another question, or another lag, names other windows: it begins with a full reading, as the first one does.
- A window that is named is read whole, for all its customers, so that a customer who is not there any more has zero.
"""

import datetime as dt
from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from typing import NamedTuple

from aggregator.core import commit_barrier, definitions, windows
from aggregator.core.commit_barrier import NEVER, Passed
from aggregator.core.model import Changed, Definition, Fence, Span


class Touched(NamedTuple):
    """How far a meter is: what was touched before `since`, by the question of that fingerprint, has been read again."""

    since: dt.datetime
    fingerprint: str


class Asked(NamedTuple):
    """What a source named, and up to when it has told all."""

    since: dt.datetime | None
    """Up to where the answers before had come; None if this is the first one, which stands for nothing."""
    asked_from: dt.datetime
    until: dt.datetime
    windows: frozenset[dt.datetime]
    """Their starts."""


def held(changed: Changed, touched: Touched | None) -> dt.datetime | None:
    """Return the mark, if it was made by this very question."""
    if touched is None or touched.fingerprint != changed.fingerprint:
        return None
    return touched.since


def shown_until(
    now: dt.datetime,
    barrier: Passed | None,
    patience: dt.timedelta,
    answers: Fence | None,
    seen_until: dt.datetime | None,
) -> dt.datetime | None:
    """Return up to when an answer names everything; None if it proves nothing.

    `barrier` is how far the commit barrier had come before the question, None of a source that cannot be asked for it;
    `answers`, what the snapshot says that the answer is from. Of a primary, nobody waits longer than `patience` for what is
    open. `seen_until` is up to when an earlier reading had surely shown everything.
    """
    until = now
    if barrier is not None:
        bounded = barrier.proven_until is None
        until = min(now, max(barrier.until, now - patience) if bounded else barrier.until)
    if answers is not None:
        proven = commit_barrier.proven_until(commit_barrier.trusted(answers, seen_until))
        until = until if proven is None else min(until, proven)
    return None if until <= NEVER else until


def starts_of(
    known: Sequence[Definition], span: Span, instants: Iterable[dt.datetime]
) -> Iterator[dt.datetime]:
    """Yield the starts of the windows that hold these instants, as far as they lie in a span."""
    for instant in instants:
        if instant in span:
            yield windows.floor(instant, definitions.at(known, instant).window)


def spans(known: Sequence[Definition], starts: AbstractSet[dt.datetime], within: Span) -> list[Span]:
    """Return the windows that begin at these instants as stretches of time, in order; those that begin within a span."""
    found: list[Span] = []
    for start in sorted(each for each in starts if each in within):
        end = start + definitions.at(known, start).window
        if found and found[-1].end == start:
            found[-1] = Span(found[-1].start, end)
        else:
            found.append(Span(start, end))
    return found


def beyond(
    asked: Asked, differed: Iterable[dt.datetime], read_anyway_from: dt.datetime
) -> frozenset[dt.datetime]:
    """Return the windows in which a full reading found something that no answer had named.

    What is read anyway, being young or because something waits, tells nothing of the question. Nor does the first answer.
    """
    if asked.since is None:
        return frozenset()
    return frozenset(start for start in differed if start < read_anyway_from and start not in asked.windows)
