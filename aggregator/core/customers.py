"""From the application's own keys to billing customers: what a mapping is worth that was read, and whose a reading is. Pure.

Rules
- A key has one customer at a time. Windows go by the instant at which they begin, so that no window is split.
- A key without a customer waits: its usage is kept under the key, and billed once it has one.
- A mapping that says so much else at once, by which many keys would lose or change their customers, is believed at the
  second read: a join that broke, or a table that is being filled, must not put everybody's usage elsewhere.
"""

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from enum import StrEnum
from typing import NamedTuple

from aggregator.core.model import Reading
from aggregator.core.shown import counted

WAITS = "waits for a customer id"
"""Why a reading is billed to nobody whose key has no customer yet."""

SAME_SHARE = Decimal("0.01")
"""By what share of the keys two reads may differ and still say the same: meanwhile some customers came or went."""

BELIEVED_SHARE = Decimal("0.2")
"""What share of the keys may lose or change their customers at once: as much as a window may lose, by the shrink guard."""


class Moved(StrEnum):
    """What becomes of usage when a key's customer changes."""

    FUTURE = "future"  # what was used before stays with the old one
    ALL = "all"  # all that the sinks still take moves to the new one


class Listed(NamedTuple):
    """One row of a mapping: a key, its billing customer if it has one, and what people call it."""

    key: str
    customer: str | None
    name: str | None


class Held(NamedTuple):
    """Which customer a key has in windows that begin from `since` to before `until`; None: without bound."""

    since: dt.datetime | None
    until: dt.datetime | None
    customer: str


class Difference(NamedTuple):
    """How a mapping that was read differs from what is known, in keys that have a customer."""

    known: int
    """That had one."""
    listed: int
    """That have one by what was read."""
    lost: int
    """That have none any more."""
    changed: int
    """That have another one."""

    @property
    def differing(self) -> int:
        """How many keys would not have the customer that they had."""
        return self.lost + self.changed

    def doubt(self, before: int | None = None) -> str | None:
        """Say why this is to be read once more before it is believed; None if it is believed.

        `before` is how many keys differed when it was read and not believed, long enough ago: saying the same again, it is.
        """
        if not self.known or (before is not None and abs(self.differing - before) <= SAME_SHARE * self.known):
            return None
        if not self.listed:
            return f"it lists no customer any more, and had {self.known:,}"
        if self.differing > 1 and self.differing > BELIEVED_SHARE * self.known:
            return (
                f"of {counted(self.known, 'key')} with a customer, {self.lost:,} would lose it and {self.changed:,} would "
                "get another one, all at once"
            )
        return None


def customer_of(held: Sequence[Held], start: dt.datetime) -> str | None:
    """Return whose the usage of a window is that begins at `start`, by what a key has had; None if nobody's yet."""
    for each in held:
        if (each.since is None or each.since <= start) and (each.until is None or start < each.until):
            return each.customer
    return None


def resolved(readings: Iterable[Reading], known: Mapping[str, Sequence[Held]]) -> list[Reading]:
    """Return readings of keys as readings of customers; what has none is kept under its key, and waits.

    A row that is unusable stays so: under its customer, whose window waits with it, if the key has one.
    """
    found = []
    for reading in readings:
        if reading.customer is not None:
            customer = customer_of(known.get(reading.customer, ()), reading.window_start)
            if customer is not None:
                reading = reading._replace(customer=customer)  # noqa: PLW2901 - the same one, under its customer
            elif reading.reason is None:
                reading = reading._replace(reason=WAITS)  # noqa: PLW2901 - the same one, for nobody yet
        found.append(reading)
    return found
