"""How the server goes about each statement of some work: what its plan reads, and how many pages it touches.

Each statement is explained right before it is done, in its own transaction and with its own values, and what that changed is
taken back. So the plans are those of the work itself, temporary tables included. COPY has no plan.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import psycopg
from psycopg import Cursor, ServerCursor
from psycopg.pq import TransactionStatus

VERBS = ("select", "insert", "update", "delete", "with")

NO_PLAN = ("set_config", "pg_advisory", "explain")
"""Settings and locks: no table is read by them."""


class Node(NamedTuple):
    """A step of a plan that reads a table: how, by which index, and at how many rows it looked, all in all."""

    kind: str
    table: str
    by: str
    rows: int

    def __str__(self) -> str:
        by = f" by {self.by}" if self.by else ""
        return f"{self.kind} on {self.table}{by}"


class Explained(NamedTuple):
    """A statement, what its plan reads, and how many pages of 8 KiB it touched."""

    statement: str
    nodes: tuple[Node, ...]
    pages: int

    @property
    def name(self) -> str:
        """Its words, without what is the same in all."""
        return " ".join(_words(self.statement)).replace("aggregator.", "")


@contextmanager
def explaining() -> Iterator[list[Explained]]:
    """Explain every statement that is done meanwhile, by whatever connection."""
    found: list[Explained] = []
    plain, streamed = Cursor.execute, ServerCursor.execute

    def execute(self: Any, query: Any, params: Any = None, **settings: Any) -> Any:
        found.extend(_explained(plain, self.connection, query, params))
        return plain(self, query, params, **settings)

    def stream(self: Any, query: Any, params: Any = None, **settings: Any) -> Any:
        found.extend(_explained(plain, self.connection, query, params))
        return streamed(self, query, params, **settings)

    Cursor.execute, ServerCursor.execute = execute, stream  # type: ignore[method-assign]
    try:
        yield found
    finally:
        Cursor.execute, ServerCursor.execute = plain, streamed  # type: ignore[method-assign]


def _words(statement: str) -> list[str]:
    return [
        word for line in statement.splitlines() if not line.lstrip().startswith("--") for word in line.split()
    ]


def _explained(
    execute: Any, connection: psycopg.Connection[Any], query: Any, params: Any
) -> Iterator[Explained]:
    text = query.decode() if isinstance(query, bytes) else str(query)
    words = _words(text)
    if not words or words[0].lower() not in VERBS or any(word in text for word in NO_PLAN):
        return
    if connection.info.transaction_status != TransactionStatus.INTRANS:
        return
    with Cursor(connection) as asking:
        execute(asking, "savepoint explained")
        execute(asking, f"explain (analyze, buffers, timing off, format json) {text}", params)
        [[[plan]]] = asking.fetchall()
        execute(asking, "rollback to savepoint explained")
        execute(asking, "release savepoint explained")
    top = plan["Plan"]
    pages = top.get("Shared Hit Blocks", 0) + top.get("Shared Read Blocks", 0)
    yield Explained(text, tuple(_nodes(top)), pages)


def _nodes(plan: dict[str, Any]) -> Iterator[Node]:
    table = plan.get("Relation Name", "")
    index = plan.get("Index Name", "")
    if (table or index) and "Scan" in plan["Node Type"]:
        rows = (
            plan["Actual Rows"]
            + plan.get("Rows Removed by Filter", 0)
            + plan.get("Rows Removed by Index Recheck", 0)
        )
        yield Node(plan["Node Type"], table, index, int(rows * plan["Actual Loops"]))
    for below in plan.get("Plans", ()):
        yield from _nodes(below)
