"""On what terms a sink is fed: which windows of a meter it bills, and what changes when the terms do. Pure.

Rules
- A feed bills the windows in `[since, until)`. Outside nothing is planned for it, and what was planned there before stays
  as it is: what was sent is sent.
- `bill_from` says since when, be it before the mark or after it, and never before the meter's `start_at`. Without it a sink
  begins at the mark, so that nothing is billed again that was billed before, elsewhere.
- Windows that terms open are planned by the next passes: `read_until` is how far a feed is, and lags behind the mark then.
- A feed whose shadow ends begins with the first window that was not read yet, unless `bill_from` says otherwise; or, where
  customers moved to it one by one, where it began: what each of them is billed through it is for `cutover` to say.
- Windows that a feed lacks and its source no longer has are lost to it: named until the rows are back, or until `bill_from`
  gives them up.
"""

import datetime as dt
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from aggregator.core.model import Span, Terms


class FeedCoverage(NamedTuple):
    """Which windows a feed bills, in which way, and up to where it was planned for."""

    since: dt.datetime
    until: dt.datetime | None
    shadow: bool
    shadow_until: dt.datetime | None
    """Up to where the meter had been read when the shadow ended; None if there was none, or it has not ended yet."""
    read_until: dt.datetime
    lost: Span | None = None
    """Windows that were never planned for it, and that its source no longer has."""
    parted: bool = False
    """Whether customers move to it, or away, at times of their own."""

    @property
    def done(self) -> bool:
        """Whether every window it bills was planned for."""
        return self.until is not None and self.read_until >= self.until


def joined(terms: Terms, mark: dt.datetime, start_at: dt.datetime) -> FeedCoverage:
    """Return the reach of a feed that begins now."""
    since = mark if terms.bill_from is None else max(terms.bill_from, start_at)
    return FeedCoverage(since, terms.bill_until, terms.shadow, None, _within(since, terms.bill_until))


def changed(coverage: FeedCoverage, terms: Terms, mark: dt.datetime, start_at: dt.datetime) -> FeedCoverage:
    """Return the reach that a feed has under these terms. Under the terms that it has, that is the reach as it is."""
    ends = coverage.shadow and not terms.shadow
    if terms.bill_from is not None:
        since = max(terms.bill_from, start_at)
    else:
        since = max(coverage.since, mark) if ends and not coverage.parted else coverage.since
    read_until = since if since < coverage.since else max(_within(coverage.read_until, coverage.until), since)
    return FeedCoverage(
        since,
        terms.bill_until,
        terms.shadow,
        mark if ends else coverage.shadow_until,
        _within(read_until, terms.bill_until),
        None if since < coverage.since else _cut(coverage.lost, since, terms.bill_until),
        coverage.parted,
    )


def sealed(coverage: FeedCoverage, first: dt.datetime) -> FeedCoverage:
    """Return the reach of a feed whose source has rows from `first` on only."""
    read_until, lost = coverage.read_until, coverage.lost
    if lost is not None and first < lost.end:
        read_until, lost = min(read_until, lost.start), None
    if read_until < first and not coverage.done:
        end = _within(first, coverage.until)
        lost = Span(read_until if lost is None else min(lost.start, read_until), end)
        read_until = end
    return coverage._replace(read_until=read_until, lost=lost)


def read_up_to(coverage: FeedCoverage, mark: dt.datetime) -> FeedCoverage:
    """Return the reach of a feed that lags behind nothing, once its meter is read up to a mark."""
    return coverage._replace(read_until=max(coverage.read_until, _within(mark, coverage.until)))


def report_lost(meter: str, sink: str, lost: Span, until: dt.datetime | None) -> str:
    """Say which windows a sink never gets, and what can be done about it."""
    give_up = f"with `bill_from: {lost.end:%Y-%m-%dT%H:%MZ}` for that sink"
    if until is not None and until <= lost.end:
        give_up = "by taking that sink off the meter"
    return (
        f"{sink} lacks the windows {lost} of {meter}: they were never planned for it, and the source no longer has their "
        f"rows (`data_retained_from`). Restore the rows and correct `data_retained_from`, or give the windows up {give_up}."
    )


class Stretch(NamedTuple):
    """From when until when a sink bills a meter; without an end, for ever."""

    sink: str
    start: dt.datetime
    end: dt.datetime | None


class Clash(NamedTuple):
    """A stretch of time that several sinks bill, or, without a sink, none."""

    sinks: tuple[str, ...]
    start: dt.datetime
    end: dt.datetime | None


def clashes(stretches: Iterable[Stretch]) -> Iterator[Clash]:
    """Yield, in the order of time, what two sinks of a meter bill, and what none of them does between two that do."""
    found = sorted(
        (each for each in stretches if each.end is None or each.start < each.end),
        key=lambda each: (each.start, each.sink),
    )
    for number, each in enumerate(found):
        for other in found[number + 1 :]:
            if each.end is None or other.start < each.end:
                end = min((end for end in (each.end, other.end) if end is not None), default=None)
                yield Clash((each.sink, other.sink), other.start, end)
        ends = [before.end for before in found[: number + 1]]
        after = found[number + 1 : number + 2]
        covered = None if None in ends else max(end for end in ends if end is not None)
        if covered is not None and after and covered < after[0].start:
            yield Clash((), covered, after[0].start)


def _cut(lost: Span | None, since: dt.datetime, until: dt.datetime | None) -> Span | None:
    """Return what of a stretch lies in a feed."""
    if lost is None:
        return None
    within = Span(max(lost.start, since), _within(lost.end, until))
    return within if within.start < within.end else None


def _within(instant: dt.datetime, until: dt.datetime | None) -> dt.datetime:
    return instant if until is None else min(instant, until)
