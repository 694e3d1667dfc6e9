"""How several processes share one rate limit: who may use how much of it, and until when.

Each process that sends by a route holds a share of the route's limit. The ledger has the shares: see
`ledger.outbox.rate_shares`. A share that is not renewed is over after a while, by the clock of its process and, no sooner,
by the ledger's.

Rules
- What is granted is what nobody else holds, and nobody else is due. So the shares never exceed the limit together.
- A process is due an equal part, or less if it wants less: what one does not want, the others have.
- A process uses less before the ledger has it down with less, and more only after the ledger has it down with more: whatever
  becomes of an answer, what is on record is at least what is used.
- Who is alone has all of it, whatever it wants.
"""

from collections.abc import Sequence
from typing import NamedTuple

LEASE_SECONDS = 5.0
"""How long a share lasts that is not renewed: so soon the share of a killed process is back. It outlasts a ledger that
stalls for a moment."""

RENEW_SECONDS = 1.0
"""How often a share is renewed while it is used, and so how soon others get theirs."""

LEAST_WANTED = 0.1
"""The part of its limit that a process wants at least: with it, what it wants next is seen."""


class Asked(NamedTuple):
    """What a process says of one route. Rates are per second: calls or events, as the route counts."""

    route: str
    limit: float
    """What the far side takes of all processes together."""
    wanted: float
    """What it could use; zero if nothing: then it gives back what it has."""
    used: float
    """The share that it uses, at most, until it has the answer."""


class Other(NamedTuple):
    """What the ledger has down for another process."""

    wanted: float
    held: float


def fair(limit: float, wanted: Sequence[float]) -> list[float]:
    """Divide a limit so that each has what it wants, or at least as much as anybody else."""
    parts = [0.0] * len(wanted)
    left = limit
    by_want = sorted(range(len(wanted)), key=wanted.__getitem__)
    for number, each in enumerate(by_want):
        parts[each] = min(wanted[each], left / (len(wanted) - number))
        left -= parts[each]
    return parts


def granted(asked: Asked, others: Sequence[Other]) -> float:
    """Return the share that a process may use from now on: less than it uses, if others are due more than they hold."""
    _, *due = fair(asked.limit, [asked.wanted, *(other.wanted for other in others)])
    return max(0.0, asked.limit - sum(max(other.held, part) for other, part in zip(others, due, strict=True)))


class Share:
    """What this process holds of one route. Instants are seconds on a clock that nobody sets."""

    def __init__(self) -> None:
        self._rate = 0.0
        self._until = 0.0

    def at(self, now: float) -> float:
        """Return the rate that may be used now; zero once the share is over."""
        return self._rate if now < self._until else 0.0

    def answered(self, asked_at: float, rate: float) -> None:
        """Take what was granted to who asked at an instant: the ledger had the question later, and counts from there."""
        self._rate = rate
        self._until = asked_at + LEASE_SECONDS
