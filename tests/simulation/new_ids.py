"""Customers whose id changes in the application: from then on it shows all they ever used under another one.

Rules
- It changes at once, in every table and for what is still to commit, as a key of the customer's own row does.
- People release what waits, as in every life; in these they leave some of it at that, too.
"""

import datetime as dt
import random
from typing import TYPE_CHECKING

from aggregator.core.model import EventId
from tests.simulation.memory import MemoryLedger
from tests.simulation.memory_parked import MemoryParked

if TYPE_CHECKING:
    from tests.simulation.life import Life


class NewIds:
    """The changes of one life, drawn by dice of their own; only a ledger in memory has events dismissed."""

    def __init__(self, life: "Life", ledger: MemoryLedger | None, random: random.Random) -> None:
        self._life = life
        self._ledger = ledger
        self._random = random

    def plan(self, start: dt.datetime, end: dt.datetime) -> None:
        """Draw when an id changes, and when somebody leaves a move at that."""
        for _ in range(self._life.conditions.new_ids):
            for what in (self._change, self._dismiss):
                self._life.scheduler.at(start + (end - start) * (0.2 + 0.8 * self._random.random()), what)

    def _change(self) -> None:
        life = self._life
        before = self._random.choice(life.application.customers())
        after = life.application.rename(before)
        life.trace.tell(before, "has the id", after, "from now on")
        life.marks.saw("a customer's id changes")

    def _dismiss(self) -> None:
        life = self._life
        if self._ledger is None:
            return
        moving = [event for event, row in sorted(self._ledger.tables.parked.items()) if row.moved_with]
        if moving:
            chosen = self._random.choice(moving)
            done = MemoryParked(self._ledger).dismiss([chosen], life.scheduler.now)
            life.trace.tell("a person leaves at that:", done)
            life.marks.saw("a move is dismissed")
            life.watch.moved.decided(set(map(EventId, done)), self._ledger.tables, dismissed=True)
