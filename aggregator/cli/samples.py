"""What commands say of meters that are sampled: when that was, what is missing, and what a query for samples gives now."""

import datetime as dt
from collections.abc import Iterator
from typing import TYPE_CHECKING

from aggregator.core import age_limits
from aggregator.core.shown import counted, duration, shown
from aggregator.errors import UsageError

if TYPE_CHECKING:
    from aggregator.config import Config, Meter
    from aggregator.core.model import Span
    from aggregator.ledger.meters import Registered
    from aggregator.ledger.samples import Samples
    from aggregator.source import Source


def report_samples(config: "Config", samples: "Samples", now: dt.datetime) -> Iterator[str]:
    """Say of each meter that is sampled when it last was, and which gaps there are."""
    from aggregator.config.sampling import period
    from aggregator.core.sampling import STANDS

    for state in samples.states():
        meter = config.meters.get(state.meter)
        if meter is None or meter.read not in ("counters", "gauges"):
            continue
        every = period(meter.every, meter.window)
        rows = counted(state.rows, "row")
        yield f"{state.meter} was sampled at {shown(state.at)}: {rows}; one is due every {duration(every)}."
        if now - state.at > STANDS * every:
            since = duration(now - state.at)
            yield f"{state.meter} has had no sample for {since}: what is not sampled cannot be read later."
        if state.unusable:
            yield (
                f"{state.meter}: {counted(state.unusable, 'row')} of that sample could not be used, such as one where "
                f"{state.unusable_reason}."
            )
        if state.stale:
            yield f"{state.meter}: {counted(state.stale, 'value')} of that sample were no newer than what was known."
        if state.silent:
            yield (
                f"{state.meter}: {counted(state.silent, 'counter')} had no newer value for a day; what they rise by "
                "meanwhile is billed in the window of the next one."
            )
        for gap in samples.gaps(state.meter, STANDS * every, now - age_limits.FURTHEST):
            yield f"{state.meter} was not sampled from {shown(gap.start)} to {shown(gap.end)}; {_comes_to(meter)}."


def _comes_to(meter: "Meter") -> str:
    """Say what a gap comes to."""
    if meter.read == "counters":
        return "what its counters rose by meanwhile is in the window of the later sample"
    said = {
        "carry_last": "the last sample stands for that time",
        "hold": "windows of that time wait for a person",
        "nothing": "that time comes to nothing",
    }
    return f"{said[meter.missing or 'hold']} (`missing: {meter.missing}`)"


def try_sample(meter: "Meter", source: "Source", now: dt.datetime) -> tuple[str, str]:
    """Ask the query once, write nothing, and return a verdict for `check` and what was found. Raises SourceError."""
    from aggregator.config.sampling import period

    counters = meter.read == "counters"
    rows = known = unusable = nobody = 0
    example: str | None = None
    keys: set[tuple[str | None, str, dt.datetime | None]] = set()
    with source.sampling(meter.query_text, now, counters=counters) as asking:
        for batch in asking.batches():
            for row in batch:
                rows += 1
                unusable += row.value is None
                nobody += row.value is not None and row.customer is None
                example = example or row.reason
                if row.value is not None and (row.customer is not None or row.series):
                    known += 1
                    keys.add((row.customer, row.series, row.at))
    every = f"a sample is due every {duration(period(meter.every, meter.window))}"
    if counters and len(keys) < known:
        return "wrong", (
            f"the query gives {counted(rows, 'row')} and only {counted(len(keys), 'counter')}: return as `series` what "
            "tells a customer's counters apart, such as the id of a device"
        )
    if not rows:
        return "note", f"the query works, and gives no row now; {every}"
    if unusable or nobody:
        return "note", (
            f"the query gives {counted(rows, 'row')}, of which {unusable + nobody:,} can be billed to nobody, such as one "
            f"where {example}; {every}"
        )
    return "ok", f"the query gives {counted(rows, 'row')} now; {every}"


def refuse_unsampled(samples: "Samples", known: "Registered", span: "Span") -> None:
    """Raise UsageError for a range of a meter that begins before its first sample."""
    meter = known.meter
    if meter.sampling is None:
        return
    first = samples.first(known.id)
    if first is None or span.start + meter.window <= first:
        since = f"it was first sampled at {shown(first)}" if first else "it was never sampled"
        raise UsageError(
            f"{meter.name} is read from samples, and {since}: what was not sampled then cannot be read now. Give a later "
            "--from, or leave it to the daemon, which reads its samples again by itself."
        )
