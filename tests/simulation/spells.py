"""Spells in which a source shows something else than what is there: rights that were taken away, a policy that hides rows, a
join that doubles them. Later it is right again, and nobody has told us.
"""

import datetime as dt
import random
from enum import Enum
from typing import NamedTuple

from aggregator.core.model import Reading, Span
from aggregator.errors import QueryRejected
from tests.simulation.application import Table
from tests.simulation.conditions import DAY, HOUR, MINUTE, Conditions
from tests.simulation.marks import Marks


class Shown(Enum):
    """What a source shows in a spell."""

    NOTHING = "nothing"
    PART = "part"
    DOUBLED = "doubled"
    REFUSED = "refused"


class Spell(NamedTuple):
    """A stretch of time, what is shown in it, and of one customer what a part lacks."""

    span: Span
    shown: Shown
    hidden: str


class Spells:
    """The spells of one life, drawn by dice of their own."""

    def __init__(
        self, conditions: Conditions, random: random.Random, marks: Marks, whole: Span, customers: list[str]
    ) -> None:
        self._marks = marks
        self._spells: list[Spell] = []
        for _ in range(conditions.spells):
            start = whole.start + (whole.end - whole.start) * random.random()
            length = random.choice([10 * MINUTE, 2 * HOUR, 9 * HOUR, 30 * HOUR])
            kind, hidden = random.choice(list(Shown)), random.choice(customers)
            self._spells.append(Spell(Span(start, min(start + length, whole.end + DAY)), kind, hidden))

    def end(self) -> None:
        """Let the source be right from now on."""
        self._spells.clear()

    def show(
        self, table: Table, read: Table, readings: list[Reading], span: Span, now: dt.datetime
    ) -> list[Reading]:
        """Return what a query over a span gives just now; it may `read` a copy. Raises QueryRejected where it is refused."""
        for spell in self._spells:
            if now in spell.span:
                self._marks.saw(f"a source shows {spell.shown.value}")
                return _shown(spell, table, read, readings, span)
        return readings


def _shown(spell: Spell, table: Table, read: Table, readings: list[Reading], span: Span) -> list[Reading]:
    match spell.shown:
        case Shown.NOTHING:
            return []
        case Shown.PART:
            return [each for each in readings if each.customer != spell.hidden]
        case Shown.DOUBLED:
            table.shown(span, 2, read)
            return [*readings, *readings]
        case Shown.REFUSED:
            raise QueryRejected("permission denied for table usage")
