"""What a row of the ledger comes to among the figures, as far as no clock changes it: most rows are the same at the next
scrape, and nothing is made or written anew of those. Pure."""

import datetime as dt
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from decimal import Decimal
from itertools import accumulate
from typing import NamedTuple

from aggregator.ledger.figures import FeedFigures, MeterFigures, PassFigures, UnmappedFigures, WaitingFigures
from aggregator.monitoring.exposition import Part, RowCache, labels, labels_for_each

WAITING_STATES = ("due", "sending", "held", "refused", "in_doubt")
NOTHING = (None,) * len(WAITING_STATES)
VERDICTS = ("accepted", "refused", "in_doubt", "due")
PERCENTILES = ("50", "90", "99")

SINK, METER, FEED = ("sink",), ("meter",), ("meter", "sink")
BY_WHY, UNMAPPED = ("meter", "kind"), ("unusable", "without_id")
BY_STATE, BY_OUTCOME, BY_KIND = (*FEED, "state"), (*FEED, "outcome"), ("meter", "kind", "outcome")
NONE = labels(())


OF_METER = (
    "mark_timestamp_seconds",
    "pass_failing",
    "unread_windows",
    "guarded_windows",
    "query_unstable",
    "barrier_waiting_seconds",
    "silent_seconds",
)
"""What is told of each meter that no clock changes, the last two where nothing waits, and nothing is silent."""


class Parts(NamedTuple):
    """What a row of the ledger comes to that no clock changes: for each of some families a part, if it has one."""

    families: Sequence[Part | None]
    due: dt.datetime | None = None
    """Of a meter, by when it should be read next."""


class RowCaches:
    """What was made of the ledger's rows at the last scrape of one configuration: most rows are the same at the next."""

    def __init__(self) -> None:
        self.meters: RowCache[MeterFigures, Parts] = RowCache()
        self.feeds: RowCache[FeedFigures, Parts] = RowCache()
        self.passes: RowCache[PassFigures, Parts] = RowCache()
        self.totals: RowCache[tuple[str, int, int], Parts] = RowCache()
        self.waiting: RowCache[tuple[str, str, tuple[WaitingFigures | None, ...]], Parts] = RowCache()
        self.unmapped: RowCache[tuple[str, tuple[UnmappedFigures | None, ...]], Parts] = RowCache()
        self.late: RowCache[tuple[str, Mapping[int, int]], Parts] = RowCache()


def of_feed(row: FeedFigures, *, configured: bool) -> Parts:
    """Return whether a feed is stopped, if it is configured, and what its attempts came to."""
    where = row.meter, row.sink
    stopped = Part((labels(FEED, *where),), (row.stopped,)) if configured else None
    ended = row.accepted, row.refused, row.in_doubt, row.due
    return Parts((stopped, Part(labels_for_each(BY_OUTCOME, VERDICTS, *where), ended)))


def of_meter(row: MeterFigures, due: dt.datetime | None) -> Parts:
    """Return what of `OF_METER` a meter has, which should be read by then."""
    of = (labels(METER, row.meter),)
    values = (_timestamp(row.mark), row.failing, row.unread, row.guarded, row.unstable)
    zeros = [None if since else Part(of, (0,)) for since in (row.waits_since, row.silent_since)]
    return Parts((*(Part(of, (value,)) for value in values), *zeros), due)


def of_pass(row: PassFigures) -> Parts:
    """Return how many passes of a kind there were, and how long they took."""
    of = (labels(BY_KIND, row.meter, row.kind, "failed" if row.failed else "committed"),)
    return Parts((Part(of, (row.passes,)), Part(of, (row.seconds,))))


def of_total(row: tuple[str, int, int]) -> Parts:
    """Return what all passes of a meter read and planned."""
    meter, rows, planned = row
    of = (labels(METER, meter),)
    return Parts((Part(of, (rows,)), Part(of, (planned,))))


def of_waiting(row: tuple[str, str, tuple[WaitingFigures | None, ...]]) -> Parts:
    """Return what of a feed waits, by state."""
    meter, sink, found = row
    every = labels_for_each(BY_STATE, WAITING_STATES, meter, sink)
    events = Part(every, [each.events if each else 0 for each in found])
    return Parts((events, Part(every, [each.units if each else 0 for each in found])))


def of_unmapped(row: tuple[str, tuple[UnmappedFigures | None, ...]]) -> Parts:
    """Return what of a meter can be billed to nobody."""
    meter, found = row
    every = labels_for_each(BY_WHY, UNMAPPED, meter)
    rows = Part(every, [each.rows if each else 0 for each in found])
    return Parts((rows, Part(every, [each.units if each else 0 for each in found])))


def of_lateness(row: tuple[str, Mapping[int, int]]) -> Parts:
    """Return how late a meter's usage comes."""
    meter, histogram = row
    steps = _steps(histogram)
    return Parts(
        (Part(labels_for_each(("meter", "percentile"), PERCENTILES, meter), steps) if steps else None,)
    )


def _steps(histogram: Mapping[int, int]) -> list[int]:
    """Return, for each of `PERCENTILES`, the shortest step within which so many percent of the slots were found."""
    steps, whole = sorted(histogram), sum(histogram.values())
    covered = list(accumulate([100 * histogram[step] for step in steps]))
    return [steps[bisect_left(covered, int(each) * whole)] for each in PERCENTILES] if whole else []


def _timestamp(instant: dt.datetime) -> Decimal | int:
    seconds = instant.timestamp()
    return Decimal(str(seconds)) if instant.microsecond else int(seconds)
