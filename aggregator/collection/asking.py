"""What collection asks: of a source, and of what takes samples of one."""

import datetime as dt
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from aggregator.core.freshness import Reads
from aggregator.core.model import Differing, Doubts, Fence, Span
from aggregator.ledger.meters import Lease


class Shape(Protocol):
    """What columns a query gives."""

    @property
    def returns_window(self) -> bool: ...  # noqa: D102


class OfAllWindows(NamedTuple):
    """What columns readings have that are kept in the ledger: all windows are read at once."""

    returns_window: bool = True
    returns_at: bool = True


class Source(Reads, Protocol):
    """What collection asks of an application database besides."""

    def reread(
        self, query: str, span: Span, window: dt.timedelta, dimensions: Sequence[str] = ()
    ) -> Differing | None:
        """Read a window again, and return what the query itself changes; None if nothing or if that cannot be told."""
        ...

    def fence(self) -> Fence | None:
        """Say which transactions are open; None if the database cannot tell."""
        ...

    def columns(self, query: str, span: Span, dimensions: Sequence[str] = ()) -> Shape:
        """Try the query and say what it gives."""
        ...


class ShowsRows(Protocol):
    """What an application database shows of a number: the query that gave it, and the rows behind it."""

    name: str

    def filled(self, query: str, span: Span) -> str:
        """Return a query with a span filled in, ready to be pasted."""
        ...

    def rows_behind(
        self, query: str, span: Span, customer: str, most: int
    ) -> tuple[list[str], list[tuple[object, ...]], bool]:
        """Return the columns and rows behind what a customer used, and whether there are more."""
        ...


class Sampler(Protocol):
    """Takes the samples of a meter whose source tells a state and no history."""

    @property
    def doubts(self) -> Doubts: ...  # noqa: D102 - what the latest reading found that a person is to see

    def sample(self, lease: Lease, now: dt.datetime) -> object:
        """Take the sample that is due, if one is."""
        ...
