"""What a round of collection is to read: which spans, in which order, by which definition. No I/O.

Rules
- What is new is read first, then the old windows whose turn it is. So a long look back delays nothing. Where a customer is
  billed for the newest window, all is read in the order of time: what is said of an old one must not come last.
- Nothing before `start_at` is read, nor before where the source still has its rows, nor of months that are archived.
- A change that waits for an unsettled event is read again: in every round if it is younger than two days, else every hour.
- Windows that the source could not give are left out until their time has come.
- Where the source says which windows were touched, the old ones are read that it names: all of them at a declared pace, and
  from wherever something waits on.
"""

import datetime as dt
from collections.abc import Iterable, Iterator

from aggregator.core import changed, definitions, windows
from aggregator.core.changed import Asked
from aggregator.core.model import Definition, Meter, Span
from aggregator.core.windows import Lookback
from aggregator.errors import SourceError
from aggregator.ledger.meters import Lease
from aggregator.ledger.passes.passes import Pass


def live(span: Span, now: dt.datetime, definition: Definition) -> Pass:
    """Return a pass of a live round over a span."""
    return Pass("live", span, span, now, definition)


def turn(meter: Meter, lease: Lease, now: dt.datetime) -> Lookback:
    """Return how far back this round looks by the calendar; `hourly` where the source is to be asked what was touched."""
    return windows.lookback(
        now=now,
        mark=lease.mark,
        revisit=meter.revisit,
        length=definitions.at(lease.definitions, lease.mark).window,
        hourly_at=lease.hourly_at,
        daily_at=lease.daily_at,
        fully=None if meter.changed is None else meter.changed.fully,
    )


def passes(
    meter: Meter,
    lease: Lease,
    now: dt.datetime,
    first: dt.datetime,
    ready: dt.datetime,
    *,
    at_once: bool,
    asked: Asked | None = None,
) -> Iterator[Pass]:
    """Yield what a round reads, in pieces that one transaction takes.

    Nothing before `first` is read, which is the `earliest`. Windows are new up to `ready`. `at_once` says that the query
    returns `window`, so that one serves many windows. `asked` is what the source named, of a meter whose source is asked.
    """
    if meter.changed is not None:
        yield from _passes_by_answer(meter, lease, now, first, ready, asked, at_once=at_once)
        return
    known, mark = lease.definitions, lease.mark
    lookback = turn(meter, lease, now)
    near, deep = max(lookback.near, first), max(_waiting_from(lease, lookback), first)
    plan = windows.reads(
        mark=mark,
        ready=ready,
        horizon=_horizon(meter, near, deep, first, mark, at_once=at_once),
        length=definitions.at(known, mark).window,
        at_once=at_once,
        swept=lease.swept,
    )
    newest_first = at_once and deep < near and not meter.latest
    spans = [*plan.spans, Span(deep, near)] if newest_first else plan.spans
    cut = list(_once_more(lease, first, spans))
    for span in spans:
        cut += definitions.readable(known, span, lease.unread)
    for number, (definition, piece) in enumerate(cut, 1):
        done = number == len(cut)
        yield live(piece, now, definition)._replace(
            swept=plan.swept,
            hourly=done and lookback.hourly,
            daily=done and lookback.daily,
            rest_read=done and newest_first,
            more=not done and meter.latest,
        )


def _waiting_from(lease: Lease, lookback: Lookback) -> dt.datetime:
    """Return from where on windows are read again: by the calendar, or since something of them waits."""
    deep, mark = lookback.deep, lease.mark
    for behind in (lease.fed_until, lease.reread_from or mark):
        if mark - behind <= windows.HOURLY or lookback.hourly:
            deep = min(deep, behind)
    return deep


def read_anyway_from(meter: Meter, lease: Lease, now: dt.datetime) -> dt.datetime:
    """Return from where on windows are read whether they were touched or not, but for a full reading."""
    near = turn(meter, lease, now).near
    return min(near, lease.fed_until, lease.reread_from or near)


def _passes_by_answer(
    meter: Meter,
    lease: Lease,
    now: dt.datetime,
    first: dt.datetime,
    ready: dt.datetime,
    asked: Asked | None,
    *,
    at_once: bool,
) -> Iterator[Pass]:
    """Yield what is new and young, and the old windows that were named; all, if it is time or nothing was asked before."""
    known, mark, lookback = lease.definitions, lease.mark, turn(meter, lease, now)
    whole = lookback.daily or (asked is not None and asked.since is None)
    near, deep = max(lookback.near, first), _waiting_from(lease, lookback)
    oldest = max(mark - meter.revisit, first)
    deep = max(min(deep, oldest) if whole else deep, first)
    starts = asked.windows if asked is not None else frozenset[dt.datetime]()
    named = changed.spans(known, starts, Span(oldest, min(deep, near)))
    young = [Span(min(deep, near), max(mark, ready))]
    newest_first = deep < near and not meter.latest
    if newest_first:
        young = [Span(near, max(mark, ready))]
    spans = (
        [*named, *young] if meter.latest else [*young, *named, *([Span(deep, near)] if newest_first else [])]
    )
    most = windows.WINDOWS_PER_READ if at_once else windows.WINDOWS_ASKED_SINGLY
    cut = list(_once_more(lease, first, spans))
    for span in spans:
        cut += definitions.readable(known, span, lease.unread, most)
    for number, (definition, piece) in enumerate(cut, 1):
        done = number == len(cut)
        yield live(piece, now, definition)._replace(
            hourly=done and lookback.hourly,
            daily=done and whole,
            rest_read=done and newest_first and piece.end > deep,
            more=not done and meter.latest and cut[number][1].start == piece.end,
            touched=asked.until if done and asked is not None else None,
        )


def _horizon(
    meter: Meter,
    near: dt.datetime,
    deep: dt.datetime,
    first: dt.datetime,
    mark: dt.datetime,
    *,
    at_once: bool,
) -> dt.datetime:
    """Return from where on old windows are read together with what is new."""
    if not at_once:
        return max(min(deep, mark - meter.revisit), first)
    return min(deep, near) if meter.latest else near


def _once_more(lease: Lease, first: dt.datetime, spans: Iterable[Span]) -> Iterator[tuple[Definition, Span]]:
    """Yield the windows whose time to be asked for again has come, as far as this round does not read them anyway."""
    for start in lease.unread_due:
        if start >= first and not any(start in span for span in spans):
            definition = definitions.at(lease.definitions, start)
            yield definition, Span(start, start + definition.window)


def earliest(meter: Meter, lease: Lease, now: dt.datetime) -> dt.datetime:
    """Return before when nothing is read. Raises SourceError if windows that were never read lie before that."""
    begins = max(meter.start_at, lease.archived_until or meter.start_at)
    sealed = meter.sealed_until(now)
    if sealed is None:
        return begins
    first = definitions.ceiling(sealed, definitions.at(lease.definitions, sealed).window)
    if first > lease.mark:
        raise SourceError(
            f"{meter.name} was read up to {lease.mark:%Y-%m-%dT%H:%MZ}, but its source keeps rows only from "
            f"{first:%Y-%m-%dT%H:%MZ} on (`data_retained_from`), so the windows between cannot be billed. Restore the "
            f"rows and correct `data_retained_from`, or give them up with `start_at: {first:%Y-%m-%dT%H:%MZ}`."
        )
    return max(begins, first)
