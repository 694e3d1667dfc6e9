"""Where and when each daemon is killed. Pure: the same seed gives the same kills.

Rules
- Reading, sending, archiving and chance take turns. Whoever is killed while it reads keeps its meters for as long as their
  leases last; meanwhile the next ones are killed elsewhere.
- Points are dealt like cards: none comes again before every other one of its kind has come.
- Every daemon that is to die at random either dies while it starts, or within moments of having started.
"""

from collections.abc import Iterator, Sequence
from itertools import cycle, islice
from random import Random
from typing import NamedTuple

from aggregator.runtime.failpoints import ARCHIVE_POINTS, POINTS

SENDING = tuple(POINTS)[tuple(POINTS).index("claim_written") :]
READING = tuple(name for name in POINTS if name not in SENDING)
ARCHIVING = tuple(name for name in ARCHIVE_POINTS if name != "archive_restored")
"""A daemon brings nothing back."""

LATEST_PASSING = {"event_leaving": 30, "answer_unread": 30, **dict.fromkeys(ARCHIVING, 1)}
"""Points that are passed once per event: any of the first so many; and those that a month passes once. The others are passed
once per meter or batch."""

LATEST_OTHER_PASSING = 2

STARTED_WITHIN_SECONDS = 2.0
"""At random: so soon after it said that it had started, in the middle of reading, committing, sending."""

STARTING_SECONDS = 1.0
"""At random, every fourth time: so soon after its process began, when it may not have started yet."""

STARTING, CUT = 4, 3
"""One in so many random kills strikes while it starts; before one in so many its connections to the ledger are cut."""


class AtPoint(NamedTuple):
    """Death at a named point, when it is passed for the nth time."""

    name: str
    nth: int

    @property
    def variable(self) -> str:
        """What the process is told."""
        return f"{self.name}:{self.nth}"


class AtRandom(NamedTuple):
    """Death some seconds after the daemon has started, or after its process has begun."""

    seconds: float
    starting: bool
    cut: bool
    """Its connections to the ledger are cut first."""


Kill = AtPoint | AtRandom


def schedule(kills: int, seed: int, *, archives: bool = True) -> list[Kill]:
    """Return so many kills, in their order; none on the way to an archive where there are no `archives`."""
    random = Random(seed)  # noqa: S311 - chance for tests, no secret
    points = (READING, SENDING, ARCHIVING) if archives else (READING, SENDING)
    turns = cycle((*(_at_points(names, random) for names in points), _at_random(random)))
    return [next(turn) for turn in islice(turns, kills)]


def _at_points(names: Sequence[str], random: Random) -> Iterator[Kill]:
    while True:
        for name in random.sample(names, len(names)):
            yield AtPoint(name, random.randint(1, LATEST_PASSING.get(name, LATEST_OTHER_PASSING)))


def _at_random(random: Random) -> Iterator[Kill]:
    number = 0
    while True:
        number += 1
        starting = number % STARTING == 0
        latest = STARTING_SECONDS if starting else STARTED_WITHIN_SECONDS
        yield AtRandom(random.uniform(0, latest), starting, not starting and number % CUT == 0)
