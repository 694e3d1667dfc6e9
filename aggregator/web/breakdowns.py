"""Usage by the values of a dimension, as pages and the API show it: some lines of many, and what all of them come to."""

from typing import NamedTuple

from aggregator.core.model import Span
from aggregator.core.usage import Line, Usage
from aggregator.ledger.ledger import Ledger
from aggregator.ledger.usage import UsageFeed, ValuesOfDimension
from aggregator.web.application import Refused
from aggregator.web.asking import number_of
from aggregator.web.site import Asked

ON_A_PAGE = 1_000
"""Lines by a dimension in one answer of the API: some hundred KiB."""


class Breakdown(NamedTuple):
    """One page of a table by a dimension."""

    dimension: str
    lines: list[Line]
    total: Usage
    lines_in_all: int
    figures: list[str]
    page: int
    more: bool


def breakdown(
    ledger: Ledger, asked: Asked, feed: UsageFeed, span: Span, size: int, customer: str | None = None
) -> Breakdown | None:
    """Return the page of a feed's usage by a dimension that is asked for, of a customer or of all; None if none is."""
    name, page = asked.query.get("by"), number_of(asked)
    if not name:
        return None
    found = values_of(ledger, feed, span, name, size, page, customer)
    used = {each for each, amount in found.total._asdict().items() if amount}
    used |= {each for line in found.lines for each, amount in line.usage._asdict().items() if amount}
    figures = [each for each in Usage._fields if each in used | {"used", "billed"}]
    return Breakdown(
        name, found.lines, found.total, found.lines_in_all, figures, page, found.lines_in_all > page * size
    )


def values_of(
    ledger: Ledger, feed: UsageFeed, span: Span, dimension: str, size: int, page: int, customer: str | None
) -> ValuesOfDimension:
    """Return a page of so many lines. Raises Refused for what is no dimension of the feed's meter."""
    if dimension not in feed.dimensions:
        had = ", ".join(feed.dimensions) or "none"
        raise Refused(400, f"{feed.meter} has no dimension {dimension[:100]}; its dimensions: {had}")
    if feed.last:
        raise Refused(
            400, f"{feed.meter} bills the last number of each customer, so dimensions cannot split it"
        )
    return ledger.usage.some_values(feed, span, dimension, size, (page - 1) * size, customer)
