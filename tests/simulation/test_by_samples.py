"""Counters and gauges, through kills between sample and commit, gaps, resets, two daemons and ledgers that are set back."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from decimal import Decimal

import pytest

from aggregator.collection import sampled
from aggregator.core import samples
from aggregator.core.model import Span
from aggregator.core.sampling import Counters, Gauges
from aggregator.ledger.samples import CounterSample
from tests.simulation.by_samples import drawn_sampled
from tests.simulation.conditions import drawn
from tests.simulation.life import Life, Lived, outcome
from tests.simulation.memory import SamplingRow, SeriesRow
from tests.simulation.memory_samples import Line, MemorySamples
from tests.simulation.mutation import Made, made

SEEDS = range(1, 16)

BILL_NOTHING = {1, 15}
"""Lives that end without an event: what their samples came to is held, set aside, or too small to bill."""

real_increase, real_coverage, real_gauge = samples.increase, samples.coverage, samples.gauge
real_add, real_counters = MemorySamples._add_counters, MemorySamples.counters


def lived(seed: int) -> Lived:
    """Live the life of a seed with a meter that is sampled."""
    return outcome(Life(seed, conditions=drawn_sampled(seed, drawn)))


@pytest.mark.parametrize("seed", SEEDS)
def test_a_life_by_samples_ends_with_everything_equal(seed: int) -> None:
    """What is billed is what the samples in the ledger come to, by what was declared, whoever was killed or set back."""
    life = lived(seed)
    assert life.rule is None, f"{life.trace}\n\n{life.rule}: {life.facts}"
    assert life.events or seed in BILL_NOTHING, "nothing was billed"


def first_value_bills() -> Made:
    """What a counter shows at first is billed, though nothing of it is to be."""

    def increase(value: Decimal, previous: Decimal | None, how: Counters) -> samples.Increase:
        return samples.Increase(value) if previous is None else real_increase(value, previous, how)

    return [(samples, "increase", increase)]


def resets_are_decreases() -> Made:
    """A counter that fell takes away by how much."""

    def increase(value: Decimal, previous: Decimal | None, how: Counters) -> samples.Increase:
        return samples.Increase(value - previous) if previous is not None else real_increase(value, None, how)

    return [(samples, "increase", increase)]


def resets_by_another_policy() -> Made:
    """A counter that fell goes on from there, whatever is declared."""

    def increase(value: Decimal, previous: Decimal | None, how: Counters) -> samples.Increase:
        return (
            samples.Increase(max(value - previous, Decimal(0)))
            if previous
            else real_increase(value, previous, how)
        )

    return [(samples, "increase", increase)]


def nobody_is_asked() -> Made:
    """What a person is to see is billed at once."""
    return [(sampled, "_to_be_seen", lambda *_, **__: None)]


def in_the_window_of_the_older_sample() -> Made:
    """An increase is billed where the older sample lies."""

    def counters(
        self: MemorySamples, meter_id: int, span: Span, customer: str | None = None
    ) -> Iterator[CounterSample]:
        whole = Span(
            span.start.min.replace(tzinfo=span.start.tzinfo), span.end.max.replace(tzinfo=span.end.tzinfo)
        )
        found = (
            each._replace(at=each.previous_at or each.at) for each in real_counters(self, meter_id, whole)
        )
        return iter([each for each in found if each.at in span])

    return [(MemorySamples, "counters", counters)]


def samples_without_values() -> Made:
    """The last value of a counter is kept in a transaction of its own, and now and then its process ends before that."""

    def add(self: MemorySamples, meter_id: int, lines: list[Line], sampling: SamplingRow) -> None:
        series = self._ledger.tables.series
        before = {key: SeriesRow(row.at, row.value, row.generation) for key, row in series.items()}
        real_add(self, meter_id, lines, sampling)
        if sampling.at.second % 5 == 0:
            series.update(before)

    return [(MemorySamples, "_add_counters", add)]


def values_without_samples() -> Made:
    """A sample is written in a transaction of its own, and now and then its process ends before that."""

    def add(self: MemorySamples, meter_id: int, lines: list[Line], sampling: SamplingRow) -> None:
        there = len(self._samples(meter_id))
        real_add(self, meter_id, lines, sampling)
        if sampling.at.second % 5 == 0:
            del self._samples(meter_id)[there:]

    return [(MemorySamples, "_add_counters", add)]


def adoptions_forgotten() -> Made:
    """After an adoption increases are billed at once, though some of them may be billed already."""

    def counters(
        self: MemorySamples, meter_id: int, span: Span, customer: str | None = None
    ) -> Iterator[CounterSample]:
        return iter([each._replace(adopted=False) for each in real_counters(self, meter_id, span, customer)])

    return [(MemorySamples, "counters", counters)]


def believed_before_an_adoption() -> Made:
    """What was sampled before an adoption is billed at once, though the ledger may have been set back before that."""

    def counters(
        self: MemorySamples, meter_id: int, span: Span, customer: str | None = None
    ) -> Iterator[CounterSample]:
        meter = self._ledger.tables.meters[meter_id]
        since, meter.doubtful_until = meter.doubtful_until, None
        found = [*real_counters(self, meter_id, span, customer)]
        meter.doubtful_until = since
        return iter(found)

    return [(MemorySamples, "counters", counters)]


def gaps_stand_on() -> Made:
    """A gauge stands on through a gap, whatever is declared."""

    def coverage(window: Span, taken: Sequence[datetime], how: Gauges, until: datetime) -> samples.Coverage:
        return real_coverage(window, taken, how._replace(every=how.every * 1000), until)

    return [(samples, "coverage", coverage)]


def who_is_missing_stands_on() -> Made:
    """A customer without a row goes on with what stood there before."""

    def gauge(covered: samples.Coverage, values: Mapping[datetime, Decimal], how: Gauges) -> Decimal:
        stood, filled = Decimal(0), dict(values)
        for stretch in covered.stretches:
            stood = filled.setdefault(stretch.sampled_at, stood)
        return real_gauge(covered, filled, how)

    return [(samples, "gauge", gauge)]


def averages_of_what_was_seen() -> Made:
    """An average is one over the samples, however long each of them stood."""

    def gauge(covered: samples.Coverage, values: Mapping[datetime, Decimal], how: Gauges) -> Decimal:
        window = covered.window
        length = (window.end - window.start) / max(len(covered.stretches), 1)
        even = [
            stretch._replace(span=Span(window.start + number * length, window.start + (number + 1) * length))
            for number, stretch in enumerate(covered.stretches)
        ]
        return real_gauge(covered._replace(stretches=tuple(even)), values, how)

    return [(samples, "gauge", gauge)]


BUGS = {
    first_value_bills: 2,
    resets_are_decreases: 2,
    resets_by_another_policy: 2,
    nobody_is_asked: 2,
    in_the_window_of_the_older_sample: 2,
    samples_without_values: 2,
    values_without_samples: 2,
    adoptions_forgotten: 2,
    believed_before_an_adoption: 2,
    gaps_stand_on: 1,
    who_is_missing_stands_on: 1,
    averages_of_what_was_seen: 9,
}
"""What goes wrong, and a life that shows it, which is lived first."""


@pytest.mark.parametrize(("bug", "shown_by"), BUGS.items(), ids=lambda each: getattr(each, "__name__", ""))
def test_a_bug_made_on_purpose_is_found(bug: Callable[[], Made], shown_by: int) -> None:
    """What these lives cannot find, they do not prove."""
    with made(bug()):
        found = any(lived(seed).rule for seed in (shown_by, *SEEDS))
    assert found, f"{bug.__doc__} Nobody noticed."
