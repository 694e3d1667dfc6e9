"""Backfills as people run them: the product's own over a range, beside the daemons, and again when one was interrupted.

Rules
- A range is any that somebody may ask for: old windows, what lies ahead of the mark, or one that cannot be billed.
- A process that dies or fails in the middle is started again a little or long after, over the same range.
"""

import datetime as dt
import random
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING

from aggregator.collection.backfill import Backfilled
from aggregator.core.model import Meter
from aggregator.core.windows import floor
from aggregator.errors import AggregatorError, InvariantBroken, UsageError
from tests.simulation.conditions import HOUR, MINUTE, SECOND
from tests.simulation.names import called
from tests.simulation.scheduler import Process

if TYPE_CHECKING:
    from tests.simulation.life import Life

RUNS = 5
"""How often a backfill is started at most, until it is done."""


class Backfilling:
    """The backfills of one life, drawn by dice of their own."""

    def __init__(self, life: "Life", random: random.Random) -> None:
        self._life = life
        self._random = random

    def plan(self, start: dt.datetime, end: dt.datetime) -> None:
        """Draw when somebody asks for one."""
        for _ in range(self._life.conditions.backfills):
            self._life.scheduler.at(start + (end - start) * self._random.random(), self._ask)

    def _ask(self) -> None:
        life, dice = self._life, self._random
        meter = dice.choice(life.meters)
        start, end = self._range(meter)
        self._begin(meter, start, end, RUNS)

    def _range(self, meter: Meter) -> tuple[dt.datetime, dt.datetime | None]:
        """Draw a range: without an end, up to what is ready."""
        now, dice, window = self._life.scheduler.now, self._random, meter.window
        start = floor(meter.start_at + (now - meter.start_at) * dice.random(), window)
        end = floor(now - meter.delay, window)
        mark = next(
            (row.mark for row in self._life.ledger.tables().meters.values() if row.name == meter.name), start
        )
        return dice.choice(
            [
                (start, None),
                (start, end),
                (start, end),
                (meter.start_at, end),
                (start, start + 3 * window),
                (mark + window, end),
                (start, end + window),
                (start - window / 2, end),
                (meter.start_at - window, end),
            ]
        )

    def _begin(self, meter: Meter, start: dt.datetime, end: dt.datetime | None, runs: int) -> None:
        """Start a process for it; one that dies is started again."""
        life, dice = self._life, self._random
        known = next((each for each in life.meters if each.query == meter.query), None)
        if life.ended or not runs or known is None:
            return
        meter = known
        again = dice.choice([SECOND, 20 * MINUTE, 3 * HOUR])
        process = Process("backfill", uuid.UUID(int=dice.getrandbits(128)))

        def once_more() -> None:
            life.scheduler.after(again, lambda: self._begin(meter, start, end, runs - 1))

        process.died = once_more
        life.scheduler.spawn(process, "backfill", lambda: self._run(process, meter, start, end, once_more))

    def _run(
        self,
        process: Process,
        meter: Meter,
        start: dt.datetime,
        end: dt.datetime | None,
        once_more: Callable[[], None],
    ) -> None:
        life, began = self._life, self._life.scheduler.now
        try:
            daemon = life.process(process, "backfill", life.meters)
            done = daemon.backfill(meter, start, end)
        except InvariantBroken:
            raise
        except UsageError as error:
            life.marks.saw("a range that cannot be billed is refused")
            life.trace.tell("backfill:", error)
        except AggregatorError as error:
            life.trace.tell("backfill failed:", error)
            once_more()
        else:
            self._look(meter, done, began)
            daemon.send_what_was_backfilled(meter, done.span)
            if self._random.random() < 0.3:
                once_more()

    def _look(self, meter: Meter, done: Backfilled, began: dt.datetime) -> None:
        life = self._life
        life.trace.tell("backfill of", done.span, "done; it went on at", done.resumed_at)
        life.marks["a backfill goes on where it stopped"] += done.resumed_at is not None
        life.marks["a backfill finds nothing new"] += bool(done.rows) and not done.new + done.corrections
        life.watch.ranges.done(called(meter.name), done, began)
