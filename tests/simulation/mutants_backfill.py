"""Bugs on purpose in backfills."""

import datetime as dt
from collections.abc import Callable, Sequence
from typing import Any

from aggregator.collection.backfill import Backfill
from aggregator.collection.rounds import Collected
from aggregator.core.model import Span
from tests.simulation import memory_passes
from tests.simulation.memory import MeterRow
from tests.simulation.memory_passes import MemoryPasses
from tests.simulation.mutation import mutant

Patches = Sequence[tuple[object, str, object]]


@mutant("a piece counts as read although another process holds the meter")
def busy_counts_as_read() -> Patches:
    def piece(self: Backfill, piece: Span, now: dt.datetime, wait: Callable[[], object]) -> Collected:
        return self._collection.backfill(piece, self.span, now)

    return [(Backfill, "_piece", piece)]


@mutant("a backfill that was interrupted long ago goes on where it stopped")
def resumed_however_late() -> Patches:
    return [(memory_passes, "RESUME_WITHIN", dt.timedelta(days=30))]


@mutant("a backfill goes on behind the last piece that another range had")
def resumed_from_another_range() -> Patches:
    real = MemoryPasses.resume_backfill

    def resume(self: MemoryPasses, registered: Any, goal: Span, *rest: Any) -> dt.datetime | None:
        pieces = self._ledger.tables.pieces
        for key in [key for key in pieces if key[1] != goal and goal.start < pieces[key].span.end < goal.end]:
            pieces[key[0], goal] = pieces[key]
        return real(self, registered, goal, *rest)

    return [(MemoryPasses, "resume_backfill", resume)]


@mutant("the last piece of a range is left out")
def last_piece_left_out() -> Patches:
    real = Backfill.piece

    def piece(self: Backfill, start: dt.datetime) -> Span:
        found = real(self, start)
        is_last = found.end == self.span.end and found.start > self.span.start
        return Span(found.end, found.end) if is_last else found

    return [(Backfill, "piece", piece)]


@mutant("a backfill ahead of the mark takes the mark with it")
def backfill_takes_the_mark() -> Patches:
    real = MemoryPasses._move_mark

    def move_mark(self: MemoryPasses, meter: MeterRow, lease: Any, this: Any, *, moves: bool) -> None:
        real(self, meter, lease, this, moves=moves)
        if moves and this.kind == "backfill":
            meter.mark = max(meter.mark, this.span.end)

    return [(MemoryPasses, "_move_mark", move_mark)]
