"""Reads a mapping from the application's own keys to billing customers, again and again, and lets the ledger take it over.

Rules
- It is read in one snapshot, before the ledger's transaction begins to compare it: what cannot be read to its end changes
  nothing.
- Several processes may read it; each looks first whether one has just done so.
- A read that fails leaves what is known as it is. That is noted, so that whoever looks at the ledger sees it.
"""

import datetime as dt
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

from aggregator.core.counts import Counts
from aggregator.core.customers import Listed, Moved
from aggregator.errors import SourceError
from aggregator.ledger.customers import Customers
from aggregator.runtime import failpoints
from aggregator.runtime.disk_list import DiskList

AT_ONCE = 5_000


@dataclass(slots=True)
class Looked(Counts):
    """What one reading of a mapping came to. `doubt` says why it is not believed yet."""

    gained: int = 0
    """Keys that have a customer now, and had none."""
    lost: int = 0
    changed: int = 0
    doubt: str | None = None

    @property
    def needs_person(self) -> bool:
        """Whether somebody should look at the mapping."""
        return self.doubt is not None


class Mapping:
    """One mapping. `read` gives its rows in batches; all sinks of its meters take usage that is no older than `past`."""

    def __init__(
        self,
        name: str,
        read: Callable[[], Iterator[list[Listed]]],
        customers: Customers,
        *,
        moved: Moved,
        every: dt.timedelta,
        past: dt.timedelta,
    ) -> None:
        self._name = name
        self._read = read
        self._customers = customers
        self._moved = moved
        self._every = every
        self._past = past

    def run_once(self, now: dt.datetime) -> Looked:
        """Read it, unless that was just done. Raises SourceError if it cannot be read, or contradicts itself."""
        before = self._customers.looked_at(self._name)
        if before is not None and before > now - self._every / 2:
            return Looked()
        try:
            with DiskList[Listed]() as rows:
                rows.keep(each for batch in self._read() for each in batch)
                failpoints.passing("customers_read")
                adopted = self._customers.take_over(
                    self._name,
                    _batches(rows.all()),
                    self._moved,
                    now,
                    oldest=now - self._past,
                    apart=self._every / 2,
                )
        except SourceError as error:
            self._customers.note_failure(self._name, str(error), now)
            raise
        failpoints.passing("customers_taken_over")
        if adopted.doubt is not None:
            return Looked(doubt=adopted.doubt)
        return Looked(adopted.gained, adopted.difference.lost, adopted.difference.changed)

    def stop(self) -> None:
        """A read that is under way comes to its end."""


def _batches(rows: Iterator[Listed]) -> Iterator[list[Listed]]:
    while batch := list(islice(rows, AT_ONCE)):
        yield batch
