"""What months have to say that are old enough to be archived, and are still in the ledger."""

import datetime as dt
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from aggregator.core.shown import counted

if TYPE_CHECKING:
    from aggregator.config import Config
    from aggregator.ledger.ledger import Ledger


class OldMonths(NamedTuple):
    """Months of a meter that are older than `ledger.keep`, and what speaks against closing the oldest."""

    meter: str
    first: dt.datetime
    months: int
    reasons: list[str]

    def describe(self) -> str:
        """Say it to a person, with what to do."""
        others = f" and {counted(self.months - 1, 'later month')}" if self.months > 1 else ""
        begins = (
            f"{self.meter}: {self.first:%Y-%m}{others} {'are' if others else 'is'} older than `ledger.keep`"
        )
        if self.reasons:
            return f"{begins}, and cannot be archived: {', '.join(self.reasons)}."
        return (
            f"{begins}, and not archived yet: the daemon works at it once an hour, "
            f"`aggregator ledger archive {self.meter}` does it now."
        )


def old_months(config: "Config", ledger: "Ledger", now: dt.datetime) -> Iterator[OldMonths]:
    """Yield them by meter, where the configuration says how long months stay."""
    if config.ledger.keep is None:
        return
    from aggregator.core.archive import closed_before, span_of

    for meter_id, meter, first, months in ledger.archives.old(closed_before(now, config.ledger.keep)):
        begins = first.astimezone(dt.UTC)
        yield OldMonths(meter, begins, months, ledger.archives.open(meter_id, span_of(begins).end))
