"""A source whose query returns the application's own keys: whoever reads it gets readings of billing customers.

Rules
- Keys are looked up in the ledger, batch by batch, as they are read: what the source itself knows of customers is read by a
  job of its own (`mapping`).
- Each stretch of time is read by the definition that holds for it, and so by the mapping of that one, if it has any.
- A key without a customer stays a key, and its usage waits. Before a mapping was read once, nothing is read at all: all of
  it would seem to wait.
"""

import datetime as dt
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Protocol

from aggregator.collection import asking
from aggregator.core import definitions
from aggregator.core.customers import Held, resolved
from aggregator.core.freshness import Reads
from aggregator.core.model import Definition, Differing, Fence, Reading, Span
from aggregator.errors import SourceError


class LookUp(Protocol):
    """What is known of mappings."""

    def is_known(self, name: str) -> bool:
        """Tell whether a mapping was ever read."""
        ...

    def look_up(self, name: str, keys: Iterable[str]) -> Mapping[str, Sequence[Held]]:
        """Return which customers keys had and have."""
        ...

    def keys(self, name: str, customer: str, start: dt.datetime) -> list[str]:
        """Return whose usage is a customer's in a window."""
        ...


class Source(asking.Source, asking.ShowsRows, Protocol):
    """What is asked of an application database that is read by keys: for usage, and for why it is what it is."""


class MappedReads:
    """What gives the readings of one meter. `known` gives the meter's definitions, as they are by now."""

    def __init__(self, reads: Reads, customers: LookUp, known: Callable[[], Sequence[Definition]]) -> None:
        self._reads = reads
        self._customers = customers
        self._known = known

    def read(
        self,
        query: str,
        span: Span,
        window: dt.timedelta,
        *,
        dimensions: Sequence[str] = (),
        step: dt.timedelta | None = None,
        allow: Callable[[Fence | None], dt.datetime] | None = None,
    ) -> Iterator[list[Reading]]:
        """Yield all readings of a span that one definition holds for, under their customers. Raises as the source does."""
        mapping = self._mapping(span.start)
        for batch in self._reads.read(query, span, window, dimensions=dimensions, step=step, allow=allow):
            yield self._resolved(mapping, batch)

    def under_customers(self, span: Span, batch: list[Reading]) -> list[Reading]:
        """Return what was read of a span some other way as `read` gives it."""
        return self._resolved(self._mapping(span.start), batch)

    def _mapping(self, start: dt.datetime) -> str | None:
        """Return by which mapping a span is read. Raises SourceError before that was read for the first time."""
        name = definitions.at(self._known(), start).customers
        if name is not None and not self._customers.is_known(name):
            raise SourceError(
                f"Mapping {name} was never read, so nobody is known to bill; `aggregator check` tries it."
            )
        return name

    def _resolved(self, mapping: str | None, batch: list[Reading]) -> list[Reading]:
        if mapping is None:
            return batch
        keys = {each.customer for each in batch if each.customer is not None}
        return resolved(batch, self._customers.look_up(mapping, keys) if keys else {})

    def keys(self, customer: str, start: dt.datetime) -> list[str]:
        """Return by which keys a query has what a customer used in a window that begins at `start`; itself without any."""
        mapping = definitions.at(self._known(), start).customers
        found = [] if mapping is None else self._customers.keys(mapping, customer, start)
        return found or [customer]

    def over(self, reads: Reads) -> "MappedReads":
        """Return what gives other readings of the same meter."""
        return MappedReads(reads, self._customers, self._known)


class MappedSource(MappedReads):
    """One meter's source."""

    def __init__(self, source: Source, customers: LookUp, known: Callable[[], Sequence[Definition]]) -> None:
        super().__init__(source, customers, known)
        self.name = source.name
        self._source = source

    def reread(
        self, query: str, span: Span, window: dt.timedelta, dimensions: Sequence[str] = ()
    ) -> Differing | None:
        """Read a window again, and return what the query itself changes, by key."""
        return self._source.reread(query, span, window, dimensions)

    def fence(self) -> Fence | None:
        """Say which transactions are open."""
        return self._source.fence()

    def columns(self, query: str, span: Span, dimensions: Sequence[str] = ()) -> asking.Shape:
        """Try the query and say what it gives."""
        return self._source.columns(query, span, dimensions)

    def filled(self, query: str, span: Span) -> str:
        """Return a query with a span filled in, ready to be pasted."""
        return self._source.filled(query, span)

    def rows_behind(
        self, query: str, span: Span, customer: str, most: int
    ) -> tuple[list[str], list[tuple[object, ...]], bool]:
        """Return the rows behind what a customer used, by each of its keys: columns, rows, and whether there are more."""
        columns: list[str] = []
        found: list[tuple[object, ...]] = []
        for key in self.keys(customer, span.start):
            columns, rows, more = self._source.rows_behind(query, span, key, most)
            found += rows
            if more or len(found) > most:
                return columns, found[:most], True
        return columns, found, False


def under_customers(source: Reads, span: Span, batch: list[Reading]) -> list[Reading]:
    """Return what was read of a span elsewhere as a source gives it: by customers, where its queries return keys."""
    return source.under_customers(span, batch) if isinstance(source, MappedSource) else batch
