"""Bugs on purpose where usage goes out as files."""

import datetime as dt
import itertools
from collections.abc import Iterator
from typing import Any

from aggregator.core.model import ClaimId, EventId, Outcome, State
from aggregator.delivery import file_writer
from aggregator.ledger.outbox.files import FileClaim
from aggregator.sinks.files import making
from tests.simulation.memory_files import MemoryFiles
from tests.simulation.mutation import mutant


@mutant("whoever takes a file over adds what has become due since")
def file_grows_when_taken_over() -> list[tuple[object, str, object]]:
    real = MemoryFiles.take_over

    def take_over(self: MemoryFiles, sink_id: int, place: str, now: dt.datetime) -> FileClaim | None:
        claim, tables = real(self, sink_id, place, now), self._ledger.tables
        if claim is None:
            return None
        more = [event for event, row in tables.outbox.items() if row.claim_id is None and row.due_at <= now]
        for event in more:
            tables.outbox[event].claim_id = claim.id
            self._ledger.move(tables.events[event], State.SENDING)
            tables.events[event].attempts, tables.events[event].exposed_at = 1, now
        held = tables.claims[claim.id]
        held.events = tuple(sorted({*held.events, *more}))
        return claim._replace(events=len(held.events))

    return [(MemoryFiles, "take_over", take_over)]


@mutant("a file has another name each time it is made")
def file_named_anew() -> list[tuple[object, str, object]]:
    real, count = making.make, itertools.count()

    def make(*values: Any) -> Any:
        written = real(*values)
        return written and written._replace(name=f"{next(count)}-{written.name}")

    return [(making, "make", make)]


@mutant("a file that nobody answered for is given up, and its events go into another one")
def file_given_up_when_unanswered() -> list[tuple[object, str, object]]:
    def leave(self: Any, reason: str) -> None:
        files = self._files._inner
        tables, claim = files._ledger.tables, self._claim.id
        if files._mine(self._claim) is None:
            return
        del tables.files[claim]
        for row in tables.outbox.values():
            if row.claim_id == claim:
                row.claim_id, row.due_at = None, self._clock()

    return [(file_writer._Writing, "_leave", leave)]


@mutant("a file that was left without a name is settled")
def unnamed_file_settled() -> list[tuple[object, str, object]]:
    def put_off(self: MemoryFiles, claim: FileClaim, until: dt.datetime, reason: str | None) -> None:
        if self._mine(claim) is not None:
            events = self._ledger.tables.claims[claim.id].events
            accepted = [Outcome(event, State.ACCEPTED, exposed_at=until) for event in events]
            self._outbox.settle_members(claim.id, accepted, until)
            del self._ledger.tables.files[claim.id]

    return [(MemoryFiles, "put_off", put_off)]


@mutant("the events of a file that is being made are due to others too")
def open_file_open_to_all() -> list[tuple[object, str, object]]:
    def fits(
        self: MemoryFiles, event: EventId, sink_id: int, feeds: Any, now: dt.datetime, span: Any
    ) -> bool:
        return self._ledger.tables.events[event].feed_id in feeds

    return [(MemoryFiles, "_fits", fits)]


@mutant("which events a file holds is not recorded before it is made")
def file_without_a_claim() -> list[tuple[object, str, object]]:
    real = MemoryFiles.members

    def members(self: MemoryFiles, claim: FileClaim) -> Iterator[Any]:
        for event in self._ledger.tables.claims[ClaimId(claim.id)].events:
            self._ledger.tables.events[event].attempts = 0
        return real(self, claim)

    return [(MemoryFiles, "members", members)]
