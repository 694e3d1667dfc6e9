"""How a meter is sampled whose source tells a state and no history: what is declared, and how a definition keeps it. Pure.

Rules
- A definition of such a meter begins with a line that says how its samples are read, in front of the query: so each stretch
  of time is read by what was declared for it, and whoever reads the definition sees that.
- What the line says can be read back exactly. No query that a user writes is taken for one: only definitions of meters that
  are sampled are looked at.
"""

import datetime as dt
import re
from decimal import Decimal
from enum import StrEnum
from typing import NamedTuple

SECOND = dt.timedelta(seconds=1)

STANDS = 2
"""For how many times its `every` a sample of a gauge stands if none follows: one may come late, or be missed."""

OF_COUNTERS = re.compile(r"-- read: counters, resets: (?P<resets>\w+), first_value: (?P<first_value>\w+)\n")
OF_GAUGES = re.compile(
    r"-- read: gauges, sample: (?P<sample>\w+), missing: (?P<missing>\w+), every: (?P<every>\d+)s\n"
)
"""With what the definition of a meter that is sampled begins."""


class Resets(StrEnum):
    """What it means that a counter fell."""

    RESTART = "restart"  # it began again at zero: what it shows is what was used since
    HOLD = "hold"  # the same, but a person is asked
    IGNORE = "ignore"  # it goes on from there: nothing was used


class FirstValue(StrEnum):
    """What the first value of a counter comes to."""

    NOTHING = "nothing"
    WHOLE = "whole"


class Sample(StrEnum):
    """What a window of a gauge comes to: its last sample, its highest, or the average over its time."""

    LAST = "last"
    MAX = "max"
    AVERAGE = "average"


class Missing(StrEnum):
    """What a window of a gauge comes to where samples are missing."""

    CARRY_LAST = "carry_last"  # the last sample before stands on
    HOLD = "hold"  # the same, but a person is asked
    NOTHING = "nothing"  # that time counts as zero


class Counters(NamedTuple):
    """How a meter of counters is read."""

    resets: Resets
    first_value: FirstValue = FirstValue.NOTHING


class Gauges(NamedTuple):
    """How a meter of gauges is read, which is sampled `every` so often."""

    sample: Sample
    missing: Missing
    every: dt.timedelta

    @property
    def stands(self) -> dt.timedelta:
        """For how long a sample stands if no other follows."""
        return STANDS * self.every


Reads = Counters | Gauges


class Sampling(NamedTuple):
    """What is declared of a meter that is sampled."""

    reads: Reads
    query: str
    """What gives the samples."""
    every: dt.timedelta
    kept: dt.timedelta
    """For how long samples are kept, as evidence and to be read again."""


class Sampled(NamedTuple):
    """One row of a sample. `customer` is None where nobody can be billed, `value` where the number is unusable."""

    customer: str | None
    series: str
    """Which of several counters of a customer it is; empty, if there is one."""
    value: Decimal | None
    at: dt.datetime | None
    """When a counter stood there, if the source says so."""
    reason: str | None = None


def definition(reads: Reads, query: str) -> str:
    """Return the text of a definition."""
    if isinstance(reads, Counters):
        said = f"read: counters, resets: {reads.resets}, first_value: {reads.first_value}"
    else:
        seconds = reads.every // SECOND
        said = f"read: gauges, sample: {reads.sample}, missing: {reads.missing}, every: {seconds}s"
    return f"-- {said}\n{query}"


def declared(text: str) -> Reads:
    """Return what the definition of a meter that is sampled declares. Raises ValueError for the text of any other."""
    counters, gauges = OF_COUNTERS.match(text), OF_GAUGES.match(text)
    if counters is not None:
        return Counters(Resets(counters["resets"]), FirstValue(counters["first_value"]))
    if gauges is not None:
        every = int(gauges["every"]) * SECOND
        return Gauges(Sample(gauges["sample"]), Missing(gauges["missing"]), every)
    raise ValueError("is no definition of a meter that is sampled")
