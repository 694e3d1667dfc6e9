"""What `aggregator check` says of the tables that a query reads: whose rows may come later, or not be seen at all."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aggregator.core.model import Span
    from aggregator.source import Source
    from aggregator.source.dialects import Table

SHOWN = 3
"""Enough names to know what it is about."""


def table_notes(
    source: "Source", query: str, span: "Span", *, freshness: bool, filtered: bool
) -> Iterator[str]:
    """Say in sentences what is worth knowing of a query's tables. Raises SourceError as a reading does."""
    tables = source.tables(query, span)
    behind = {
        "are foreign tables": [each for each in tables if each.foreign],
        "are filled by logical replication": [each for each in tables if each.subscribed],
        "are materialised views": [each for each in tables if each.materialised],
    }
    for what, found in behind.items():
        if found and not freshness:
            yield (
                f"{_named(found)} {what}: rows may come there later than a window is read, and nothing tells. Give the "
                "source `freshness`, a select of up to when they surely have all rows; see docs/queries.md"
            )
    for each in tables:
        for column in each.stamped:
            yield (
                f"{each.name}.{column} is stamped by default when a statement begins: in a procedure that commits, that may "
                "be long before the transaction that writes the row, and no wait for open transactions covers it. Use "
                "clock_timestamp()"
            )
    decided = [each for each in tables if each.filtered]
    if (
        decided and filtered
    ):  # otherwise the server would have refused the query: it reads by a view, with its owner's rights
        yield f"row-level security decides which rows of {_named(decided)} are billed (`row_security: allowed`)"
    if filtered and not tables:
        yield "its plan reads no table at all: a table with row-level security and no policy for the role hides every row"


def _named(tables: Sequence["Table"]) -> str:
    """Return a few names and, if there are others, how many."""
    beyond = len(tables) - SHOWN
    return ", ".join(each.name for each in tables[:SHOWN]) + (f" and {beyond} more" if beyond > 0 else "")
