"""ClickHouse: a client's connection as SQLAlchemy wants it (PEP 249), in which one query at a time is asked.

Rules
- A query is looked at before it is sent, and by the server before it runs: DESCRIBE takes one SELECT and nothing else, and
  gives the columns of a result that has no rows.
- Rows are taken from the blocks that the server sends. What is left of a result that nobody wants any more is stopped on the
  server first: the client would fetch all of it.
- Text arrives as bytes and is decoded here: the client makes hexadecimal digits of what is no UTF-8, so that two keys
  could be one.
- Instants come in UTC whatever zone a column has.
"""

import datetime as dt
import re
import threading
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from decimal import Decimal
from typing import Any

from aggregator.source.clickhouse_text import setting_named, sum_that_goes_round, without_end
from aggregator.source.mysql_text import not_a_read

MARK = "\x01"
"""Stands around the name of a value in what SQLAlchemy makes of a query."""

MARKED = re.compile(rf"{MARK}(\w+){MARK}")

INSTANT = "DateTime64(6, 'UTC')"
"""As what a bound arrives: with its zone, so that neither the session's nor a column's counts."""

AS_BYTES = {"String": "bytes", "FixedString": "bytes"}

WRAPPED = re.compile(r"(?:Nullable|LowCardinality)\((.*)\)", re.DOTALL)

ZONE = re.compile(r"DateTime(?:64\(\d+, |\()'(?P<zone>[^']+)'\)")

UTC = {"UTC", "Etc/UTC", "Etc/UCT", "UCT", "Etc/Zulu", "Zulu", "Universal", "Etc/Universal", "GMT", "Etc/GMT"}


AGAIN_SECONDS, TIMES = 0.1, 20
"""A word to stop that comes before the query is known to the server is forgotten, so it is said again."""


class NotARead(Exception):
    """A text that is not sent, as it is no one statement that reads."""


class Unfit(Exception):
    """A server or a query that cannot be read rightly; its text says why, and what to do."""


class Stopped(Exception):
    """The source was closed while it was read."""


def unwrapped(kind: str) -> str:
    """Return a type without what says that it may be NULL, or how it is stored."""
    while (found := WRAPPED.fullmatch(kind)) is not None:
        kind = found[1]
    return kind


class Connection:
    """A client, and the query that it asks. `ours` are settings that no query may name."""

    def __init__(self, client: Any, ours: Sequence[str]) -> None:
        self.client = client
        self.ours = ours
        self.asked: Cursor | None = None
        self._stopped = False
        self._query_id: str | None = None
        self._idle = threading.Event()
        self._described: tuple[str, list[tuple[str, str]]] | None = None

    def described(self, text: str, values: Mapping[str, object]) -> list[tuple[str, str]]:
        """Return the columns of a query and their types, as the server sees them before it runs; asked once for one text."""
        if self._described is None or self._described[0] != text:
            found = self.client.query(f"describe table ({text}\n)", dict(values) or None)
            self._described = text, [(str(row[0]), str(row[1])) for row in found.result_rows]
        return self._described[1]

    def busy(self) -> str:
        """Take note that a query is about to run; return its id. Raises Stopped."""
        self._idle.clear()
        self._query_id = uuid.uuid4().hex
        self.still_open()
        return self._query_id

    def idle(self) -> None:
        """Take note that none is running any more."""
        self._query_id = None
        self._idle.set()

    def stop(self) -> None:
        """Have the server stop what it does for us, and ask nothing more; where it cannot be told, its timeout does that."""
        self._stopped = True
        for _ in range(TIMES):
            self.kill()
            if self._query_id is None or self._idle.wait(AGAIN_SECONDS):
                return

    def kill(self) -> None:
        """Have the server stop the query that is under way; a user may always stop its own."""
        query_id = self._query_id
        if query_id is not None:
            with suppress(Exception):  # hexadecimal digits of ours
                self.client.command(f"kill query where query_id = '{query_id}' async")

    def still_open(self) -> None:
        """Raise Stopped once it is to ask nothing more."""
        if self._stopped:
            raise Stopped("the source is closed")

    def cursor(self) -> "Cursor":
        """Return what asks one statement."""
        return Cursor(self)

    def commit(self) -> None:
        """There is nothing to commit."""

    def rollback(self) -> None:
        """There is nothing to undo."""

    def close(self) -> None:
        """End it."""
        if self.asked is not None:
            self.asked.close()
        self.client.close()


class Cursor:
    """One statement and its rows."""

    arraysize = 1
    rowcount = -1
    lastrowid = None

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stream: Any = None
        self._kinds: list[str] = []
        self._rows: deque[tuple[Any, ...]] = deque()
        self.description: Any = None

    def execute(self, statement: str, values: Mapping[str, object] | None = None) -> None:
        """Ask. Raises NotARead for anything but one SELECT, and Unfit for what would not be right."""
        connection = self._connection
        connection.still_open()
        self._look_at(statement)
        given = dict(values or {})
        statement = without_end(statement)
        text = MARKED.sub(lambda found: f"{{{found[1]}:{_kind(given[found[1]])}}}", statement)
        named = {name: _text(given[name]) for name in MARKED.findall(statement)}
        columns = self._watched(lambda: connection.described(text, named))
        _check_columns(statement, columns)
        self.description = [(name, kind, None, None, None, None, None) for name, kind in columns]
        self._kinds = [unwrapped(kind) for _, kind in columns]
        connection.asked = self
        query_id = connection.busy()
        self._stream = self._watched(
            lambda: connection.client.query_column_block_stream(
                text,
                named or None,
                settings={"query_id": query_id},
                query_formats=AS_BYTES,
                query_tz=dt.UTC,
                tz_mode="aware",
            )
        )
        self._stream.__enter__()

    def _look_at(self, statement: str) -> None:
        reason = not_a_read(statement)
        if reason is not None:
            raise NotARead(reason)
        setting = setting_named(statement, self._connection.ours)
        if setting is not None:
            raise Unfit(
                f"`{setting}` is what a read relies on, and is set by aggregator: leave it out of the query"
            )

    def fetchmany(self, size: int = 1) -> list[Any]:
        """Return the next rows, fewer at the end."""
        assert self._connection.asked is self, "one statement at a time"
        while len(self._rows) < size and self._stream is not None:
            self._next_block()
        return [self._rows.popleft() for _ in range(min(size, len(self._rows)))]

    def fetchone(self) -> Any:
        """Return the next row, or None."""
        return next(iter(self.fetchmany(1)), None)

    def fetchall(self) -> list[Any]:
        """Return all rows that are left."""
        return list(self._left())

    def _left(self) -> Iterator[Any]:
        while rows := self.fetchmany(1000):
            yield from rows

    def _next_block(self) -> None:
        self._connection.still_open()
        block = self._watched(lambda: next(self._stream, None))
        if block is None:
            self._ended()
            return
        self._rows.extend(zip(*map(_plain, self._kinds, block), strict=True))

    def _watched(self, do: Callable[[], Any]) -> Any:
        """Do what waits for the server; have it stop if whoever waits is interrupted, or if it is stopped meanwhile."""
        try:
            return do()
        except Exception:
            self._connection.idle()
            self._connection.still_open()
            raise
        except BaseException:
            self._connection.kill()
            raise

    def _ended(self) -> None:
        stream, self._stream = self._stream, None
        self._connection.idle()
        if stream is not None:
            with suppress(Exception):  # it is not wanted any more, whatever is wrong with it
                stream.__exit__(None, None, None)

    def close(self) -> None:
        """Let go of what is left; the client fetches it before it lets go, so the server is told to stop first."""
        if self._stream is not None:
            self._connection.kill()
            self._ended()
        self._rows.clear()


def _kind(value: object) -> str:
    """Return as what a value is bound."""
    match value:
        case dt.datetime():
            return INSTANT
        case bool() | int():
            return "Int64"
        case Decimal():
            return "Decimal(76, 20)"
        case None:
            return "Nullable(String)"
    return "String"


def _text(value: object) -> object:
    """Return a value as the server reads it; the client would write an instant in the server's zone."""
    if isinstance(value, dt.datetime):
        return f"{value.astimezone(dt.UTC):%Y-%m-%d %H:%M:%S.%f}"
    return value


def _plain(kind: str, column: Sequence[Any]) -> Sequence[Any]:
    """Return a column's values, its text as such. What fills up a FixedString is no part of its value."""
    if kind == "String":
        return [value if value is None else value.decode("utf-8", "surrogateescape") for value in column]
    if kind.startswith("FixedString("):
        return [
            value if value is None else value.rstrip(b"\0").decode("utf-8", "surrogateescape")
            for value in column
        ]
    return column


def _check_columns(statement: str, columns: Sequence[tuple[str, str]]) -> None:
    """Raise Unfit for a quantity that may be the rest of a sum, and for a `window` of a type in another zone than UTC.

    There `toStartOfHour` cuts off at other instants than UTC's.
    """
    for name, wrapped in columns:
        kind = unwrapped(wrapped)
        if name.lower() == "quantity" and (reason := sum_that_goes_round(statement, kind)) is not None:
            raise Unfit(reason)
        found = ZONE.fullmatch(kind)
        if name.lower() == "window" and found is not None and found["zone"] not in UTC:
            raise Unfit(
                f"`{name}` is made in the zone {found['zone']}, whose hours and days may begin at other instants than those "
                "of windows, which are UTC's: name the zone where it is cut off, as in `toStartOfHour(used_at, 'UTC')`"
            )
