"""What one pass did, counted from its decisions as they go by."""

import datetime as dt
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from aggregator.ledger.meters import Feed
from aggregator.model import Decision, EventId, State


@dataclass(slots=True)
class Tally:
    """What one pass did."""

    rows: int = 0
    aside: int = 0
    changed: int = 0
    planned: int = 0
    corrections: int = 0
    held: int = 0
    refused: int = 0
    deferred: int = 0
    oldest_deferred: dt.datetime | None = None
    voided: list[EventId] = field(default_factory=list)

    def counting(self, decisions: Iterable[Decision]) -> Iterator[Decision]:
        """Pass decisions on, and take each into account."""
        for decision in decisions:
            self.count(decision)
            yield decision

    def counting_pairs(self, pairs: Iterable[tuple[Feed, Decision]]) -> Iterator[tuple[Feed, Decision]]:
        """Do the same for decisions that come with their feed."""
        for feed, decision in pairs:
            self.count(decision)
            yield feed, decision

    def count(self, decision: Decision) -> None:
        """Take one decision into account."""
        if decision.deferred:
            start = decision.change.window_start
            self.deferred += 1
            self.oldest_deferred = min(start, self.oldest_deferred or start)
            return
        self.changed += 1
        if decision.voids is not None:
            self.voided.append(decision.voids)
        if decision.event is not None:
            self.planned += 1
            self.corrections += decision.event.revision > 0
            self.held += decision.event.state is State.HELD
            self.refused += decision.event.state is State.REFUSED
