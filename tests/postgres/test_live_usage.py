"""Usage with what the source has of open windows, asked for just as a window turns: what was used is there, once."""

import datetime as dt
from contextlib import ExitStack
from decimal import Decimal

import pytest

from aggregator.collection.sampled import SampledSource
from aggregator.collection.usage import MeterSource, Question, ask
from aggregator.core.model import Span
from aggregator.core.sampling import Counters, FirstValue, Gauges, Missing, Resets, Sample
from aggregator.core.usage import By
from aggregator.ledger.database import Database
from aggregator.ledger.usage import UsageReport
from tests.postgres.sampled_world import EVERY, SampledWorld
from tests.postgres.world import HOUR, START, World

SECOND = dt.timedelta(seconds=1)
MICROSECOND = dt.timedelta(microseconds=1)

TURNS = [
    HOUR - MICROSECOND,
    HOUR,
    HOUR + MICROSECOND,
    HOUR + SECOND,
    HOUR + 300 * SECOND - MICROSECOND,
    HOUR + 300 * SECOND,
    HOUR + 301 * SECOND,
]
"""Around the end of a window, and around the instant at which it is read, five minutes later."""


LAG = dt.timedelta(milliseconds=200)
"""By how much the ledger's clock, as a process has it, is behind another one: what its answer took on the way."""


def used(world: World, database: Database) -> dict[str | None, Decimal]:
    """Return all that each customer used, whatever became of it, as `usage --live --by customer` says it."""
    source = world.collection.source
    definitions = world.meters.definitions(world.registered)
    question = Question(Span(START, START + 720 * HOUR), world.now, By.CUSTOMER)
    with ExitStack() as stack:
        asked = ask(
            UsageReport(database),
            question,
            [world.meter.name],
            stack,
            lambda _: MeterSource(
                "app",
                source,
                definitions,
                world.meter.unit,
                source.newest() if isinstance(source, SampledSource) else None,
            ),
        )
        [found] = asked
        return {line.customer: line.usage.used for line in found.lines.all()}


@pytest.mark.parametrize("passes", [True, False])
def test_increases_of_a_counter_are_there_as_the_hour_turns(database: Database, *, passes: bool) -> None:
    """Sampled a while before, and perhaps again at that very instant."""
    world = SampledWorld(database, Counters(Resets.RESTART))
    for minutes, value in ((40, 100), (50, 107)):
        world.application.set("cus_a", value)
        world.pass_by(0, minutes)
    for turn in TURNS:
        world.now = START + turn
        if passes:
            world.collect()
        assert used(world, database) == {"cus_a": 7}, turn


@pytest.mark.parametrize("passes", [True, False])
def test_usage_of_windows_is_there_as_the_hour_turns(database: Database, *, passes: bool) -> None:
    """Of a source that is asked itself."""
    world = World(database)
    world.source.use("cus_a", START + HOUR - SECOND, 7)
    for turn in TURNS:
        world.now = START + turn
        if passes:
            world.collect()
        assert used(world, database) == {"cus_a": 7}, turn


@pytest.mark.parametrize("passes", [True, False])
def test_a_gauge_is_there_as_the_hour_turns(database: Database, *, passes: bool) -> None:
    """What stood when the hour began counts in the new window from its first moment on."""
    world = SampledWorld(database, Gauges(Sample.MAX, Missing.CARRY_LAST, EVERY))
    world.application.set("cus_a", 7)
    world.pass_by(0, 50)
    for turn in TURNS:
        world.now = START + turn
        if passes:
            world.collect()
        begun = turn > HOUR or (passes and turn == HOUR)  # by a sample of that very instant
        assert used(world, database) == {"cus_a": 14 if begun else 7}, turn


@pytest.mark.parametrize("after", [dt.timedelta(0), MICROSECOND, LAG / 2])
@pytest.mark.parametrize("counts", [True, False])
def test_a_sample_from_beyond_the_turn_is_there_at_once(
    database: Database, after: dt.timedelta, *, counts: bool
) -> None:
    """The source's clock is in the new hour already, and the ledger's, as this process has it, still in the old one."""
    gauges = Gauges(Sample.LAST, Missing.CARRY_LAST, EVERY)
    world = SampledWorld(database, Counters(Resets.RESTART, FirstValue.WHOLE) if counts else gauges)
    world.application.set("cus_a", 7)
    world.now = START + HOUR + after
    world.collect()
    world.now -= LAG  # what `present` tells, too
    assert used(world, database) == {"cus_a": 7}
