"""A meter whose source tells a state and no history: sampled in each round, and read from its samples.

Rules
- A sample is taken by whoever holds the meter, once for each instant at which one is due, and committed before windows are
  read. A round that cannot take one fails: its windows wait until the source answers again.
- What a window comes to is worked out of the samples, whenever it is read. So a meter that is sampled has revisits, guards
  and corrections like any other, and the same samples always come to the same.
- A gap is named, and comes to what is declared. What is to be seen by a person is handed on with its reason.
"""

import datetime as dt
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from itertools import groupby, islice
from typing import Protocol

from aggregator.collection.asking import OfAllWindows
from aggregator.core import samples, windows
from aggregator.core.model import ZERO, Differing, Fence, Meter, Reading, Span
from aggregator.core.sampling import Counters, Gauges, Missing, Resets, Sampled, Sampling, declared
from aggregator.core.shown import counted
from aggregator.core.story import moment
from aggregator.errors import SourceError
from aggregator.ledger.meters import Lease
from aggregator.ledger.samples import CounterSample, GaugeSample, Samples, SampleSpool
from aggregator.runtime import failpoints

BATCH = 5_000
"""Readings that are handed on at once."""

NOBODY = "no customer"


class Asking(Protocol):
    """An open snapshot, and the instant that it shows."""

    @property
    def at(self) -> dt.datetime: ...  # noqa: D102

    def batches(self) -> Iterator[list[Sampled]]:
        """Yield all rows of a sample."""
        ...


class Source(Protocol):
    """What is asked of an application database."""

    name: str

    def sampling(self, query: str, now: dt.datetime, *, counters: bool) -> AbstractContextManager[Asking]:
        """Hold a snapshot open in which the query is asked for what there is now."""
        ...


class KeptSamples:
    """What the samples of one meter come to, as far as they are kept. `present` tells the ledger's instant.

    `latest` says whether customers are billed for the newest window's number.
    """

    def __init__(
        self, meter: str, meter_id: int, taken: Samples, present: Callable[[], dt.datetime], *, latest: bool
    ) -> None:
        self._called = meter
        self._meter_id = meter_id
        self._samples = taken
        self._present = present
        self._latest = latest
        self.doubts: dict[tuple[dt.datetime, str | None], str] = {}
        """What the latest reading found that a person is to see."""

    def first(self) -> dt.datetime | None:
        """Return the instant of the first sample; None if there is none."""
        return self._samples.first(self._meter_id)

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
        """Yield what the samples of a span come to, by what its definition declares.

        Raises SourceError for a span of which samples are not kept any more.
        """
        assert step is None, "samples are read at once"
        assert not dimensions, "the configuration refuses dimensions of samples"
        if allow is not None:
            span = Span(span.start, allow(None))
        self.doubts = {}
        if span.start >= span.end:
            return
        kept_from = self._samples.dropped_until(self._meter_id)
        if kept_from is not None and span.start <= kept_from:
            raise SourceError(
                f"{self._called}: samples up to {moment(kept_from)} are not kept any more (`keep_samples`), so windows "
                "of that time cannot be read again."
            )
        how = declared(query)
        found = (
            self._counters(how, span, window)
            if isinstance(how, Counters)
            else self._gauges(how, span, window)
        )
        batch: list[Reading] = []
        for reading in found:
            batch.append(reading)
            if len(batch) >= BATCH:
                yield batch
                batch = []
        yield batch

    def _counters(self, how: Counters, span: Span, window: dt.timedelta) -> Iterator[Reading]:
        for each in self._samples.counters(self._meter_id, span):
            start = windows.floor(each.at, window)
            rose = samples.increase(each.value, each.previous, how)
            why = _to_be_seen(each, how, rose)
            if why is not None:
                self.doubts.setdefault((start, each.customer), why)
            if rose.amount:
                nobody = None if each.customer else NOBODY
                yield Reading(start, each.customer or None, rose.amount, each.at, nobody)

    def _gauges(self, how: Gauges, span: Span, window: dt.timedelta) -> Iterator[Reading]:
        sampled = self._samples.sampled(self._meter_id, span)
        if not sampled:
            return
        present = self._seen_until(sampled)
        covered = [_covered(each, sampled, how, present) for each in windows.tile(span, window)]
        if how.missing is Missing.HOLD:
            for each in covered:
                if each.has_gap:
                    self.doubts[each.window.start, None] = gap_of(each)
        rows = self._samples.gauges(self._meter_id, sampled[0], span.end)
        for customer, of_customer in groupby(rows, lambda row: row.customer):
            for reading in _gauge_readings(customer, list(of_customer), covered, how):
                if (
                    reading.quantity != 0 or self._latest
                ):  # who is billed by the last number is billed a zero, too
                    yield reading

    def newest(self) -> dt.datetime | None:
        """Return the instant of the newest sample; None if there is none."""
        return self._samples.newest(self._meter_id)

    def _seen_until(self, sampled: Sequence[dt.datetime]) -> dt.datetime:
        """Return the present, which no sample lies behind: a source's clock may be a little ahead of the ledger's."""
        return max([self._present(), *(at + dt.timedelta.resolution for at in sampled[-1:])])


class SampledSource(KeptSamples):
    """One meter's source as its samples show it, and whoever takes them."""

    def __init__(
        self, meter: Meter, meter_id: int, source: Source, taken: Samples, present: Callable[[], dt.datetime]
    ) -> None:
        assert meter.sampling is not None, "only a meter that is sampled has samples"
        super().__init__(meter.name, meter_id, taken, present, latest=meter.latest)
        self.name = source.name
        self._sampling: Sampling = meter.sampling
        self._source = source

    def sample(self, lease: Lease, now: dt.datetime) -> bool:
        """Take the sample that is due, if one is. Raises what asking the source does, and what writing it does."""
        due = windows.floor(now, self._sampling.every)
        last = self._samples.last_due(self._meter_id)
        if last is not None and last >= due:
            return False
        reads = self._sampling.reads
        with SampleSpool(reads) as spool:
            with self._source.sampling(
                self._sampling.query, now, counters=isinstance(reads, Counters)
            ) as asking:
                at = asking.at
                for batch in asking.batches():
                    spool.add(batch, at)
            failpoints.passing("sample_read")
            return self._samples.take(lease, spool, due=due, at=at, keep_from=now - self._sampling.kept)

    def filled(self, query: str, span: Span) -> str:
        """Return a definition as it is: it has no bounds, and what it gives now is not what it gave then."""
        return f"{query}\n-- what it gave in {span} is in aggregator.sample"

    def rows_behind(
        self, query: str, span: Span, customer: str, most: int
    ) -> tuple[list[str], list[tuple[object, ...]], bool]:
        """Return the samples behind what a customer used in a window, and what each comes to; `query` is a definition."""
        how = declared(query)
        rows: list[tuple[object, ...]]
        if isinstance(how, Counters):
            columns = ["at", "series", "value", "before", "before_at", "came_to"]
            found = islice(self._samples.counters(self._meter_id, span, customer), most + 1)
            rows = [
                (*each[:1], *each[2:6], samples.increase(each.value, each.previous, how).amount)
                for each in found
            ]
        else:
            columns = ["from", "to", "sampled_at", "value"]
            sampled = self._samples.sampled(self._meter_id, span)
            covered = _covered(span, sampled, how, self._seen_until(sampled))
            since = sampled[0] if sampled else span.start
            values = {
                row.at: row.value for row in self._samples.gauges(self._meter_id, since, span.end, customer)
            }
            rows = [
                (*each.span, each.sampled_at, values.get(each.sampled_at, ZERO)) for each in covered.stretches
            ]
        return columns, rows[:most], len(rows) > most

    def columns(self, *_: object, **__: object) -> OfAllWindows:
        """Say that all windows are read at once; nothing is asked."""
        return OfAllWindows()

    def fence(self) -> Fence | None:
        """Say nothing of transactions: what is read is in the ledger."""
        return None

    def reread(self, *_: object, **__: object) -> Differing | None:
        """Find nothing: the same samples come to the same."""
        return None


def gap_of(covered: samples.Coverage) -> str:
    """Say what is missing of a window."""
    minutes = -(-covered.missing // dt.timedelta(minutes=1))
    last = covered.stretches[-1].sampled_at if covered.stretches else None
    since = f", the last one is of {moment(last)}" if last is not None else ""
    return f"{counted(minutes, 'minute')} of the window have no sample{since}"


def _covered(window: Span, sampled: list[dt.datetime], how: Gauges, present: dt.datetime) -> samples.Coverage:
    first, end = bisect_left(sampled, window.start), bisect_left(sampled, window.end)
    return samples.coverage(window, sampled[max(first - 1, 0) : end], how, present)


def _gauge_readings(
    customer: str, rows: list[GaugeSample], covered: list[samples.Coverage], how: Gauges
) -> Iterator[Reading]:
    """Yield what each window comes to of one customer; a window with an unusable sample is left as it is."""
    values = {row.at: row.value for row in rows if row.value is not None}
    unusable = {row.at: row.reason for row in rows if row.value is None}
    for each in covered:
        flawed = [
            unusable[stretch.sampled_at] for stretch in each.stretches if stretch.sampled_at in unusable
        ]
        if flawed:
            yield Reading(each.window.start, customer or None, None, None, flawed[0])
        elif each.stretches:
            quantity = samples.gauge(each, values, how)
            yield Reading(each.window.start, customer or None, quantity, None, None if customer else NOBODY)


def _to_be_seen(sample: CounterSample, how: Counters, rose: samples.Increase) -> str | None:
    """Say why a person is to see what a customer used in a window; None if nobody needs to.

    A counter that fell to zero comes to nothing, and is to be seen all the same: it is a reset as any other.
    """
    which = f"counter {sample.series!r}" if sample.series else "its counter"
    if sample.adopted and rose.amount:
        if sample.previous is None or sample.previous_at is None:
            rises = f"was first seen at {sample.value:f}"
        else:
            rises = f"rose from {sample.previous:f} at {moment(sample.previous_at)} to {sample.value:f}"
        return f"{which} {rises}, and the ledger was adopted since: some of it may be billed already"
    if rose.reset and how.resets is Resets.HOLD:
        return f"{which} fell from {sample.previous:f} to {sample.value:f} at {moment(sample.at)} (`resets: hold`)"
    return None
