"""A source that is asked which windows were touched: one column of instants, each inside of a window.

It is asked as everything else is: in one read-only transaction that sees one state, within the statement timeout, and by the
user's own text. What that state proves of itself is told with the answer.
"""

import datetime as dt
from collections.abc import Iterator
from contextlib import closing

import sqlalchemy as sa

from aggregator.core.model import Fence
from aggregator.source.rows import Instants, OutOfRange, Refuse
from aggregator.source.snapshot import BATCH, Snapshot, names_of

SINCE = "since"
"""What is filled in of the query."""


class TouchedWindows:
    """The open snapshot, and the question."""

    def __init__(
        self,
        snapshot: Snapshot,
        statement: sa.TextClause,
        instants: Instants,
        refuse: Refuse,
        fence: Fence | None,
    ) -> None:
        self.fence = fence
        """What the snapshot proves."""
        self._snapshot = snapshot
        self._statement = statement
        self._instants = instants
        self._refuse = refuse

    def since(self, instant: dt.datetime) -> Iterator[list[dt.datetime]]:
        """Yield what was touched since an instant, batch by batch.

        Raises QueryRejected for another shape than one column `window`, and for a row without an instant.
        """
        self._snapshot.renew()
        values = {SINCE: self._snapshot.dialect.bound(instant)}
        asked = self._snapshot.connection.execute(
            self._statement, values, execution_options={"yield_per": BATCH}
        )
        with closing(asked) as result:
            self._check(names_of(result, self._refuse, "the `changed` query"))
            for batch in self._snapshot.batches(result):
                yield [self._instant(value) for value in {row[0] for row in batch}]

    def _check(self, names: list[str]) -> None:
        if [name.lower() for name in names] != ["window"]:
            raise self._refuse(
                "the `changed` query must return one column, `window`: any instant inside of each window that was touched; "
                f"found: {', '.join(names)}"
            )

    def _instant(self, value: object) -> dt.datetime:
        if value is None:
            raise self._refuse(
                "the `changed` query returned NULL as `window`, and nobody knows which window that is: leave such rows out "
                "if nothing of them is billed"
            )
        instant = self._instants.read("window", value)
        if isinstance(instant, OutOfRange):
            raise self._refuse(
                f"the `changed` query returned {instant} as `window`: return the instant of a use"
            )
        return instant
