"""The rows of a query that is asked for what there is now: samples of counters and gauges.

Rules
- What is wrong with one row is set aside with its reason, as in `rows`; what is wrong with the query refuses it.
- An instant of a counter that lies ahead of the source's own clock makes its row unusable: a counter that is known from the
  future would never rise again.
"""

import datetime as dt
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from typing import Any

import sqlalchemy as sa

from aggregator.core.model import Fence, Reading, Span
from aggregator.core.sampling import Sampled
from aggregator.core.windows import DAY
from aggregator.errors import SourceUnreachable
from aggregator.source.rows import PADDED, Column, Instants, OutOfRange, Places, Refuse, Rows, columns
from aggregator.source.snapshot import Snapshot, names_of

OF_COUNTERS = ("customer", "quantity", "series", "at")
OF_GAUGES = ("customer", "quantity")

AHEAD = dt.timedelta(minutes=5)
"""By how much the clocks of devices may differ from the source's."""


def instant_of(fence: Fence | None, now: dt.datetime, source: str) -> dt.datetime:
    """Return the instant of what a snapshot shows: the database's own, as far as it has proven to show everything.

    `now` is for a database without a clock. Raises SourceUnreachable where something must be proven, and nothing is.
    """
    if fence is None:
        return now
    if not fence.must_prove:
        return fence.at
    if fence.fresh_until is None:
        raise SourceUnreachable(
            f"Source {source} has to prove how fresh it is, and has proven nothing yet: no sample is taken before it does."
        )
    return min(fence.fresh_until, fence.at)


class Asking:
    """Asks one query for samples, within the snapshot that is open; `at` is the instant of that."""

    def __init__(
        self,
        snapshot: Snapshot,
        statement: sa.TextClause,
        kinds_of: Callable[[sa.CursorResult[Any]], Sequence[str | None]],
        instants: Instants,
        *,
        counters: bool,
        at: dt.datetime,
    ) -> None:
        self._snapshot = snapshot
        self._statement = statement
        self._kinds_of = kinds_of
        self._instants = instants
        self._known = OF_COUNTERS if counters else OF_GAUGES
        self.at = at

    def batches(self) -> Iterator[list[Sampled]]:
        """Yield all rows. Raises QueryRejected, or what the driver raises."""
        nothing = Span(self.at, self.at)  # no bound is filled in
        with closing(self._snapshot.ask(self._statement, nothing)) as result:
            refuse = self._instants.refuse
            place = columns(names_of(result, refuse), refuse, self._known)
            kinds = self._kinds_of(result)
            padded = kinds[place["customer"]] in PADDED
            found = Places(place["customer"], place["quantity"], None, None)
            rows = Rows(found, self._instants, nothing, DAY, self._instants.refuse, padded=padded)
            for fetched in self._snapshot.batches(result):
                yield self._samples(fetched, rows.readings(fetched), place)

    def _samples(
        self, fetched: Sequence[Sequence[object]], readings: Sequence[Reading], place: dict[str, int]
    ) -> list[Sampled]:
        samples = [Sampled(each.customer, "", each.quantity, None, each.reason) for each in readings]
        if "series" in place:
            names = _series([row[place["series"]] for row in fetched], self._instants.refuse)
            samples = [each._replace(series=name) for each, name in zip(samples, names, strict=True)]
        if "at" in place:
            values = (row[place["at"]] for row in fetched)
            samples = [self._dated(each, value) for each, value in zip(samples, values, strict=True)]
        return samples

    def _dated(self, sample: Sampled, value: object) -> Sampled:
        """Return a sample with an instant of its own; unusable, if that is none."""
        if value is None:
            return sample
        at = self._instants.read("at", value)
        if isinstance(at, OutOfRange):
            return sample._replace(value=None, reason=f"at is out of range: {at}")
        if at > self.at + AHEAD:
            return sample._replace(value=None, reason=f"at lies ahead: {at:%Y-%m-%dT%H:%M:%SZ}")
        return sample._replace(at=at)


def _series(column: Column, refuse: Refuse) -> list[str]:
    for value in column:
        if isinstance(value, bool | OutOfRange) or not isinstance(value, str | int | uuid.UUID | None):
            raise refuse("column `series` holds something else than a key: return it as text")
    return ["" if value is None else _plain(str(value)) for value in column]


def _plain(key: str) -> str:
    """Return a key as the ledger can hold it: the same one always comes out the same."""
    with suppress(UnicodeEncodeError):
        key.encode()
        return key.replace("\0", "\\0")
    return ascii(key)
