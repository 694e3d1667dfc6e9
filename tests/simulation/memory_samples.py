"""Samples in memory: the verbs of `ledger.samples` with the same meaning."""

import datetime as dt
from collections import defaultdict
from collections.abc import Iterable, Iterator
from decimal import Decimal
from typing import NamedTuple

from aggregator.core.model import ZERO, Span
from aggregator.errors import LeaseLost, LedgerStopped, QueryRejected
from aggregator.ledger.meters import Lease
from aggregator.ledger.samples import MARGIN, CounterSample, GaugeSample, SampleSpool
from tests.simulation.memory import MemoryLedger, MeterRow, SampleRow, SamplingRow, SeriesRow
from tests.simulation.memory_identity import MemoryIdentity


class Line(NamedTuple):
    """A row of a sample on its way. `customer` is empty where nobody can be billed."""

    customer: str
    series: str
    at: dt.datetime
    value: Decimal | None
    reason: str | None


class MemorySamples:
    """The verbs about samples."""

    def __init__(self, ledger: MemoryLedger, identity: MemoryIdentity) -> None:
        self._ledger = ledger
        self._identity = identity

    def last_due(self, meter_id: int) -> dt.datetime | None:
        """Return for which instant the last sample was taken."""
        return max((due for meter, due in self._ledger.tables.samplings if meter == meter_id), default=None)

    def take(
        self, lease: Lease, spool: SampleSpool, *, due: dt.datetime, at: dt.datetime, keep_from: dt.datetime
    ) -> bool:
        """Write a sample; False if one of that instant, or a newer one, is there. Raises LeaseLost, QueryRejected."""
        row, tables, meter_id = self._held(lease), self._ledger.tables, lease.registered.id
        taken = self._of(meter_id)
        if any(each.at >= at for each in taken) or (meter_id, due) in tables.samplings:
            return False
        lines = list(lines_of(spool))
        if spool.counters:
            _refuse_twice(lines)
        sampling = SamplingRow(due, at, spool.rows, spool.unusable, generation=tables.identity.generation)
        since = row.doubtful_until
        sampling.is_first_since = since is not None and not any(each.at > since for each in taken)
        tables.samplings[meter_id, due] = sampling
        self._add_series(meter_id, (each for each in lines if each.value is not None or not spool.counters))
        if spool.counters:
            self._add_counters(meter_id, lines, sampling)
        else:
            self._add_gauges(meter_id, lines)
        self._drop(meter_id, min(keep_from, row.mark) - MARGIN)
        return True

    def _add_series(self, meter_id: int, lines: Iterable[Line]) -> None:
        series = self._ledger.tables.series
        for customer, name in sorted({(each.customer, each.series) for each in lines}):
            series.setdefault((meter_id, customer, name), SeriesRow())

    def _add_counters(self, meter_id: int, lines: list[Line], sampling: SamplingRow) -> None:
        series = self._ledger.tables.series
        for each in sorted((each for each in lines if each.value is not None), key=lambda each: each.at):
            row = series[meter_id, each.customer, each.series]
            assert each.value is not None
            if row.at is not None and each.at <= row.at:
                sampling.stale += each.at < row.at or each.value != row.value
                continue
            adopted = sampling.is_first_since
            if row.generation is not None:
                adopted = row.generation != sampling.generation
            self._samples(meter_id).append(
                SampleRow(each.at, each.customer, each.series, each.value, row.value, row.at, adopted=adopted)
            )
            row.at, row.value, row.generation = each.at, each.value, sampling.generation

    def _add_gauges(self, meter_id: int, lines: list[Line]) -> None:
        together: dict[tuple[str, dt.datetime], list[Line]] = defaultdict(list)
        for each in lines:
            together[each.customer, each.at].append(each)
        for (customer, at), several in sorted(together.items()):
            values = [each.value for each in several if each.value is not None]
            usable = not customer or len(values) == len(several)
            value = sum(values, ZERO) if usable else None
            reason = min((each.reason for each in several if each.reason), default=None)
            self._samples(meter_id).append(SampleRow(at, customer, "", value, reason=reason))

    def _drop(self, meter_id: int, before: dt.datetime) -> None:
        taken = self._of(meter_id)
        last = max((each.at for each in taken if each.at <= before), default=None)
        if last is None:
            return
        for each in taken:
            each.is_dropped = each.is_dropped or each.at < last
        kept = [each for each in self._samples(meter_id) if each.at >= last]
        self._ledger.tables.samples[meter_id] = kept

    def first(self, meter_id: int) -> dt.datetime | None:
        """Return when a meter was first sampled."""
        return min((each.at for each in self._of(meter_id)), default=None)

    def newest(self, meter_id: int) -> dt.datetime | None:
        """Return the instant of a meter's newest sample."""
        return max((each.at for each in self._of(meter_id)), default=None)

    def dropped_until(self, meter_id: int) -> dt.datetime | None:
        """Return up to when samples are kept no more."""
        return max((each.at for each in self._of(meter_id) if each.is_dropped), default=None)

    def counters(self, meter_id: int, span: Span, customer: str | None = None) -> Iterator[CounterSample]:
        """Yield what counters stood at within a span, as one transaction sees it."""
        since = self._ledger.tables.meters[meter_id].doubtful_until
        found = [
            CounterSample(
                each.at,
                each.customer,
                each.series,
                each.value,
                each.previous,
                each.previous_at,
                each.adopted or (since is not None and each.at <= since),
            )
            for each in self._samples(meter_id)
            if each.at in span and customer in (None, each.customer) and each.value is not None
        ]
        return iter(sorted(found, key=lambda each: (each.at, each.series)))

    def sampled(self, meter_id: int, span: Span) -> list[dt.datetime]:
        """Return the instants of samples, from the last one at the start of a span or before it to its end."""
        taken = sorted(each.at for each in self._of(meter_id))
        since = max((at for at in taken if at <= span.start), default=span.start)
        return [at for at in taken if since <= at < span.end]

    def gauges(
        self, meter_id: int, since: dt.datetime, end: dt.datetime, customer: str | None = None
    ) -> Iterator[GaugeSample]:
        """Yield what gauges stood at, customer by customer, as one transaction sees it."""
        found = [
            GaugeSample(each.customer, each.at, each.value, each.reason)
            for each in self._samples(meter_id)
            if since <= each.at < end and customer in (None, each.customer)
        ]
        return iter(sorted(found, key=lambda each: (each.customer, each.at)))

    def _of(self, meter_id: int) -> list[SamplingRow]:
        return [row for (meter, _), row in self._ledger.tables.samplings.items() if meter == meter_id]

    def _samples(self, meter_id: int) -> list[SampleRow]:
        return self._ledger.tables.samples.setdefault(meter_id, [])

    def _held(self, lease: Lease) -> MeterRow:
        row = self._ledger.tables.meters[lease.registered.id]
        if (row.epoch, row.lease_owner) != (lease.epoch, lease.owner):
            raise LeaseLost
        stopped = self._identity.stopped()
        if stopped is not None:
            raise LedgerStopped(stopped)
        return row


def lines_of(spool: SampleSpool) -> Iterator[Line]:
    """Read back what was written for COPY."""
    for line in b"".join(spool.blocks()).decode().splitlines():
        customer, series, at, value, reason = (None if cell == "\\N" else cell for cell in line.split("\t"))
        assert customer is not None
        assert series is not None
        assert at is not None
        yield Line(
            customer,
            series,
            dt.datetime.fromisoformat(at),
            None if value is None else Decimal(value),
            reason,
        )


def _refuse_twice(lines: Iterable[Line]) -> None:
    seen = set[tuple[str, str, dt.datetime]]()
    for each in lines:
        if each.value is None:
            continue
        if each[:3] in seen:
            raise QueryRejected(f"two values of {each[:3]}")
        seen.add(each[:3])
