"""Bugs on purpose in what is believed of a source."""

import datetime as dt
from collections.abc import Sequence
from typing import Any

from aggregator.core import commit_barrier
from aggregator.core.freshness import Admission
from aggregator.core.model import Fence
from aggregator.ledger.passes.shrink_guard import Fallen
from tests.simulation import memory_passes
from tests.simulation.memory_passes import MemoryPasses
from tests.simulation.mutation import mutant
from tests.simulation.standbys import Standby, Standbys


@mutant("a window that loses everything is believed at the first reading")
def shrinking_believed() -> Sequence[tuple[object, str, object]]:
    return [(MemoryPasses, "_shrunk", lambda self, registered, feed, tally: [])]


@mutant("only a window that loses everything is held, not one that loses much")
def only_nothing_is_suspicious() -> Sequence[tuple[object, str, object]]:
    real = MemoryPasses._shrunk

    def shrunk(self: MemoryPasses, registered: Any, feed: Any, tally: Any) -> list[Fallen]:
        return [fallen for fallen in real(self, registered, feed, tally) if not fallen.after]

    return [(MemoryPasses, "_shrunk", shrunk)]


@mutant("what is held for a second reading is believed at the next one, however soon")
def believed_at_once() -> Sequence[tuple[object, str, object]]:
    return [(memory_passes, "BELIEVED_AFTER", dt.timedelta(0))]


# Standbys.


@mutant("whatever a standby shows is believed, without a proof")
def standby_believed() -> Sequence[tuple[object, str, object]]:
    def call(self: Admission, fence: Fence | None) -> dt.datetime:
        self.until, self.reason = self._span.end, None
        return self.until

    return [(Admission, "__call__", call)]


@mutant("a proof from one connection holds for the rows of another")
def proof_of_another_connection() -> Sequence[tuple[object, str, object]]:
    real = Standbys.fence

    def fence(self: Standbys, standby: Standby) -> Fence:
        other = self._random.choice(self.all)
        other.catch_up()
        return real(self, other)

    return [(Standbys, "fence", fence)]


@mutant("a standby that shows less than was read before is compared with that")
def back_in_time() -> Sequence[tuple[object, str, object]]:
    return [(commit_barrier, "trusted", lambda fence, seen_until: fence)]
