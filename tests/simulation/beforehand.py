"""What a service holds already when a ledger begins: usage that another ledger, or another job, billed there and is gone.

Rules
- It is what the application showed then: nobody billed more than there was.
- Nobody starts before that; and what is held is long among the service's own totals.
- Whoever finds a feed that stands still for it stops the ledger and adopts it, as a person does who is asked to decide.
"""

import random
from decimal import ROUND_FLOOR, Decimal
from typing import TYPE_CHECKING

from aggregator.core.model import Event, EventId
from tests.simulation.conditions import HOUR, SECOND

if TYPE_CHECKING:
    from tests.simulation.life import Life

LOOKS_EVERY = 3 * HOUR


class Beforehand:
    """Books usage at the service that the ledger of a life knows nothing of, and looks after what that stops."""

    def __init__(self, life: "Life", random: random.Random) -> None:
        self._life = life
        self._random = random
        self.begins_after = HOUR * (random.randint(3, 30) if life.conditions.held_before else 0)
        """When the daemons of the life start."""

    def book(self) -> None:
        """Let the service hold what the application shows just now, of some windows and customers."""
        life, unit = self._life, Decimal(1).scaleb(-self._life.conditions.decimals)
        meters = self._random.sample(life.meters, self._random.randint(1, len(life.meters)))
        kept, number = self._random.choice([0.1, 0.5, 1.0]), 0
        for meter in meters:
            for (customer, start), used in sorted(life.application.tables[meter.name].truth().items()):
                much = used.quantize(unit, ROUND_FLOOR)
                if not much or start + meter.window > life.scheduler.now or self._random.random() >= kept:
                    continue
                number += 1
                at = start + meter.window - SECOND
                name = f"another_{number}"
                event = Event(EventId(0), meter.name, customer, start, 0, much, much, at, name, 1, None)
                life.service.hold(event)
        life.marks["a sink holds usage that is not ours"] += bool(number)
        life.trace.tell("the service holds", number, "events of another ledger")

    def look(self) -> None:
        """Let a person look whether a feed stands still, and come again."""
        life = self._life
        if life.ended or not life.conditions.held_before:
            return
        stands_still = any(feed.stopped for feed in life.ledger.tables().feeds.values())
        if stands_still and life.restoring is not None:
            life.marks.saw("a feed stands still for what its sink holds")
            life.restoring.stop_by_hand()
        life.scheduler.after(LOOKS_EVERY * (0.5 + self._random.random()), self.look)
