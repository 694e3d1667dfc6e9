"""A meter's definitions over time: by which query, and in which windows, each stretch of time is read. Pure.

Rules
- A definition holds from its `since` on, until the next one. What was billed under a query is read again under that query.
- A new definition holds for windows that nobody has read yet. Only a restatement, which a person asks for, moves it back.
- Windows of two lengths never overlap: a new length begins where both grids have a boundary. Every length divides a day, so
  there is one each midnight at the latest.
"""

import datetime as dt
from collections.abc import Iterable, Iterator, Sequence
from math import gcd, lcm

from aggregator.core.model import EPOCH, Definition, Span
from aggregator.core.windows import WINDOWS_PER_READ, cut, floor

SECOND = dt.timedelta(seconds=1)


def at(definitions: Sequence[Definition], instant: dt.datetime) -> Definition:
    """Return the definition that holds at an instant; the first one holds for whatever lies before it, too."""
    assert definitions, "a meter has a definition"
    held = definitions[0]
    for definition in definitions[1:]:
        if definition.since > instant:
            break
        held = definition
    return held


def are_mapped(definitions: Iterable[Definition]) -> bool:
    """Tell whether the query of any of them returns keys, which a mapping makes customers."""
    return any(each.customers for each in definitions)


def same_windows_since(definitions: Sequence[Definition], instant: dt.datetime) -> dt.datetime:
    """Return since when windows have been as long as at an instant, whatever the query was."""
    held = at(definitions, instant)
    since = definitions[0].since
    for definition in definitions:
        if definition.since <= instant and definition.window != held.window:
            since = next(each.since for each in definitions if each.since > definition.since)
    return since


def pieces(definitions: Sequence[Definition], span: Span) -> Iterator[tuple[Definition, Span]]:
    """Yield a span in pieces of one definition each, in order, widened to whole windows of that definition."""
    start = span.start
    while start < span.end:
        definition = at(definitions, start)
        until = next((later.since for later in definitions if later.since > start), None)
        end = span.end if until is None else min(span.end, until)
        widened = ceiling(end, definition.window)
        assert until is None or widened <= until, "a definition begins at a boundary of the one before it"
        yield definition, Span(floor(start, definition.window), widened)
        start = widened


def readable(
    definitions: Sequence[Definition],
    span: Span,
    unread: Sequence[dt.datetime],
    most: int = WINDOWS_PER_READ,
) -> Iterator[tuple[Definition, Span]]:
    """Yield a span in pieces that are read at once, each by its definition, without the windows that begin at `unread`.

    A piece has at most `most` windows.
    """
    for definition, piece in pieces(definitions, span):
        start = piece.start
        for gap in (*(each for each in unread if each in piece), piece.end):
            for part in cut(Span(start, gap), definition.window, most):
                yield definition, part
            start = gap + definition.window


def ready_until(definitions: Sequence[Definition], mark: dt.datetime, limit: dt.datetime) -> dt.datetime:
    """Return the end of the last window from the mark on that ends by `limit`; the mark itself if none does."""
    ready = mark
    while True:
        definition = at(definitions, ready)
        until = next((later.since for later in definitions if later.since > ready), None)
        whole = floor(limit, definition.window)
        if until is None or whole < until:
            return max(ready, whole)
        ready = until


def begins(current: Definition, window: dt.timedelta, unread: dt.datetime) -> dt.datetime:
    """Return from where on windows of another length can follow `current`: a boundary of both, not before `unread`."""
    both = lcm(current.window // SECOND, window // SECOND) * SECOND
    return ceiling(max(unread, current.since), both)


def grid(definitions: Sequence[Definition], mark: dt.datetime) -> dt.timedelta:
    """Return the longest step on whose boundaries every window from the mark on ends."""
    coming = [at(definitions, mark), *(each for each in definitions if each.since > mark)]
    return gcd(*(each.window // SECOND for each in coming)) * SECOND


def restated(definitions: Sequence[Definition], span: Span, new: Definition) -> list[Definition]:
    """Return the definitions once `new` holds for a span as well. The span lies on boundaries of what holds around it."""
    after = at(definitions, span.end)
    kept = [each for each in definitions if each.since < span.start or each.since > span.end]
    changed = [*kept, new._replace(since=span.start), after._replace(since=span.end)]
    if span.start <= definitions[0].since:
        changed = [each for each in changed if each.since >= span.start]
    return _without_repeats(sorted(changed, key=lambda each: each.since))


def _without_repeats(definitions: list[Definition]) -> list[Definition]:
    """Leave out a definition that says what the one before it says."""
    shortened: list[Definition] = []
    for definition in definitions:
        if not shortened or shortened[-1][1:] != definition[1:]:
            shortened.append(definition)
    return shortened


def ceiling(instant: dt.datetime, length: dt.timedelta) -> dt.datetime:
    """Return the first boundary of windows of this length at the instant or after it."""
    return EPOCH - (EPOCH - instant) // length * length
