"""The keys of a meter whose source tells a state and no history: which go with which, and what they come to."""

import datetime as dt
from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, Field, ValidationInfo

from aggregator.config.durations import format_duration, parse_duration
from aggregator.config.values import Duration, refuse
from aggregator.core.sampling import Counters, FirstValue, Gauges, Missing, Resets, Sample, Sampling

SHORTEST_PERIOD, LONGEST_PERIOD = parse_duration("5s"), parse_duration("5m")

READS = ("counters", "gauges")
"""How a source is read that is sampled."""

Value = TypeVar("Value")


def goes_with(
    read: Literal["counters", "gauges"], choices: str = ""
) -> Callable[[Value, ValidationInfo], Value]:
    """Return what refuses a key with any other `read`, and with this one that it is left out, if it has `choices`."""

    def check(value: Value, info: ValidationInfo) -> Value:
        found = info.data.get("read", read)
        if value is not None and found != read:
            raise refuse(f"goes with `read: {read}` only: leave it out, or read the source that way")
        if value is None and found == read and choices:
            raise refuse(f"is missing, and decides what is billed: with `read: {read}` write {choices}")
        return value

    return check


def goes_with_samples(value: Value, info: ValidationInfo) -> Value:
    """Refuse a key that says something of samples where there are none."""
    if value is not None and info.data.get("read", READS[0]) not in READS:
        raise refuse("goes with `read: counters` or `read: gauges` only: leave it out")
    return value


ResetsOfCounters = Annotated[
    Literal["restart", "hold", "ignore"] | None,
    Field(
        validate_default=True,
        description=(
            "What a falling counter means. `restart`: it began again at zero. `hold`: the same, but "
            "what that customer used in the window waits for a person. `ignore`: the fall bills "
            "nothing, and counting goes on from there. With `read: counters`."
        ),
        examples=["restart"],
    ),
    AfterValidator(goes_with("counters", "`resets: restart`, `hold` or `ignore`, for a counter that fell")),
]

FirstValueOfCounters = Annotated[
    Literal["nothing", "whole"] | None,
    Field(
        description=(
            "How much the first value of a counter bills: `nothing`, because nobody knows when it "
            "grew, or the `whole` value. Left out: nothing. With `read: counters`."
        ),
        examples=["nothing"],
    ),
    AfterValidator(goes_with("counters")),
]

SampleOfGauges = Annotated[
    Literal["last", "max", "average"] | None,
    Field(
        validate_default=True,
        description=(
            "The quantity of a window: its `last` sample, its highest (`max`), or the `average` "
            "over its time. With `read: gauges`."
        ),
        examples=["average"],
    ),
    AfterValidator(goes_with("gauges", "`sample: last`, `max` or `average`")),
]

MissingOfGauges = Annotated[
    Literal["carry_last", "hold", "nothing"] | None,
    Field(
        validate_default=True,
        description=(
            "What counts for time without a sample. `carry_last`: the last sample goes on. `hold`: "
            "the same, but the window waits for a person. `nothing`: no usage. Each gap is named. "
            "With `read: gauges`."
        ),
        examples=["carry_last"],
    ),
    AfterValidator(
        goes_with("gauges", "`missing: carry_last`, `hold` or `nothing`, for time without a sample")
    ),
]

KeepSamples = Annotated[
    Duration | None,
    Field(
        description=(
            "How long samples are kept as evidence; at least `revisit`. Left out: 35d. With `read: "
            "counters` and "
            "`read: gauges`."
        ),
        examples=["35d"],
    ),
    AfterValidator(goes_with_samples),
]

SAMPLES_ARE_KEPT = "what a window comes to is made of samples, which are kept for `keep_samples`"
SHOWN = "`aggregator explain` shows the samples themselves"
ONE_NUMBER = "samples are kept by customer"
NOT_BY_WINDOWS = "the query is not asked for windows"
USE_EVERY = "samples are taken by `every`, so that it is known when one was due"


def not_with_samples(why: str) -> Callable[[Value, ValidationInfo], Value]:
    """Return what refuses a key where windows are made of samples; `why` ends the sentence."""

    def check(value: Value, info: ValidationInfo) -> Value:
        read = info.data.get("read")
        if value not in (None, ()) and read in READS:
            raise refuse(f"does not go with `read: {read}`: {why}; leave it out")
        return value

    return check


def not_with_customers(read: str, info: ValidationInfo) -> str:
    """Refuse samples of a meter whose customers are looked up: what a sample is about must stay what it is."""
    if read in READS and info.data.get("customers") is not None:
        raise refuse(f"is `{read}`, and does not go with `customers`: let the query return billing customers")
    return read


def often_enough(every: dt.timedelta | None, info: ValidationInfo) -> dt.timedelta | None:
    """Refuse what would leave windows of a gauge without a sample."""
    window = info.data.get("window")
    if every is not None and window is not None and info.data.get("read") == "gauges" and every > window:
        raise refuse(
            f"is longer than `window`, so that windows would have no sample: use at most `{format_duration(window)}`"
        )
    return every


def period(every: dt.timedelta | None, window: dt.timedelta) -> dt.timedelta:
    """Return how often a meter is looked after, and a source is sampled: as configured, or a quarter of its window."""
    return every or min(max(window / 4, SHORTEST_PERIOD), LONGEST_PERIOD)


def sampling_of(meter: Any) -> Sampling | None:
    """Return what a configured meter declares of its samples; None if it has none."""
    every = period(meter.every, meter.window)
    if meter.read == "counters":
        first = FirstValue(meter.first_value or FirstValue.NOTHING)
        reads: Counters | Gauges = Counters(Resets(meter.resets), first)
    elif meter.read == "gauges":
        reads = Gauges(Sample(meter.sample), Missing(meter.missing), every)
    else:
        return None
    kept = max(meter.keep_samples or parse_duration("35d"), meter.revisit)
    return Sampling(reads, meter.query_text, every, kept)
