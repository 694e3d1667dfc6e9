"""Bugs on purpose in files whose place changes, or whose ledger was set back."""

import datetime as dt
from typing import Any

from aggregator.core.model import State
from tests.simulation import memory_uploads
from tests.simulation.carrying import Carrying
from tests.simulation.memory_adopting import MemoryAdopting
from tests.simulation.memory_files import MemoryFiles
from tests.simulation.mutation import mutant


@mutant("a file that was begun in one place is written in another")
def file_follows_its_sink() -> list[tuple[object, str, object]]:
    real = MemoryFiles.take_over

    def take_over(self: MemoryFiles, sink_id: int, place: str, now: dt.datetime) -> Any:
        for row in self._ledger.tables.files.values():
            if row.written_at is None:
                row.place = place
        return real(self, sink_id, place, now)

    return [(MemoryFiles, "take_over", take_over)]


@mutant("a file is given up while its writer may still finish it")
def moved_at_once() -> list[tuple[object, str, object]]:
    long_ago = -dt.timedelta(days=365)
    return [(memory_uploads, "LATEST_WRITE", long_ago)]


@mutant("an adoption gives up what lies in files that are open, as if nobody had written them")
def adoption_gives_open_files_up() -> list[tuple[object, str, object]]:
    real = MemoryAdopting.adopt

    def adopt(self: MemoryAdopting, *values: Any) -> None:
        real(self, *values)
        tables, now = self._ledger.tables, self._ledger.clock()
        for claim in [each for each, row in tables.files.items() if row.written_at is None]:
            for event, row in tables.outbox.items():
                if row.claim_id == claim:
                    row.claim_id, row.due_at = None, now
                    self._ledger.move(tables.events[event], State.DUE)
            del tables.files[claim]

    return [(MemoryAdopting, "adopt", adopt)]


@mutant("nobody looks which files are newer than a ledger that was set back")
def nobody_looks_at_files() -> list[tuple[object, str, object]]:
    return [(Carrying, "put_away_what_was_forgotten", lambda self: None)]
