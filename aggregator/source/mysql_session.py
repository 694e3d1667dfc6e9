"""MySQL and MariaDB: a driver's connection, with what the drivers lack.

Rules
- A query is looked at before it is sent, and what the server warned of after its last row: a number that does not fit its
  type is cut to what does, and a text that is no number becomes one, with a warning and without an error.
- MySQL does not even warn of a negative number that is made an unsigned one, as MariaDB does: -1 is 2^64 - 1 there. So no
  query for MySQL may do that.
- A driver may end a result that broke off as if that were all (MariaDB Connector/Python 1.1 does). So the server is asked.
- Whoever gives up a query has it stopped on the server. The server does not look whether its client is still there, and
  each driver would fetch all that is left of a result before it lets go of it.
- This stands between SQLAlchemy and the driver, and is as the driver in everything else.
"""

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

from aggregator.source.mysql_text import casts_to_unsigned, not_a_read

REST = 100
"""So many rows are fetched of a result that nobody wants any more, before the server is asked to stop: it may be all."""

WARNED = 64
"""How many warnings the server keeps of one statement."""

ALTERING = {
    1260: "group_concat() was cut off",
    1264: "a number does not fit its type",
    1265: "a value was cut off",
    1292: "a text is not what it is taken for",
    1366: "a text is not what it is taken for",
    1441: "an instant does not fit its type",
    1916: "a number does not fit its type",
    1918: "a text is not what it is taken for",
    3156: "a text is not what it is taken for",
}
"""Warnings that mean another result than the query asks for (mariadb.com/kb/en/mariadb-error-code-reference/)."""


NOTED = {1916}
"""Those that count as notes, too: `cast(1e30 as signed)` is cut with no more than that."""

SOMETHING = 1105
"""The number of much that has none of its own, such as the note on a negative number that is made an unsigned one."""


UNSIGNED = (
    "`unsigned` makes 18446744073709551615 of -1, and MySQL does not warn of it: write `cast(... as signed)`, or "
    "`as decimal(38, 9)`"
)


class Warned(NamedTuple):
    """A line of the server's list."""

    level: str
    code: int
    words: str


class NotARead(Exception):
    """A text that is not sent, as it is no one statement that reads."""


class Altered(Exception):
    """The server said that a result is not what was asked for."""


class BrokenOff(Exception):
    """A result ended by an error that its driver kept to itself; `errno` is the server's number of it."""

    def __init__(self, errno: int, words: str) -> None:
        super().__init__(errno, words)
        self.errno = errno


class Sessions:
    """All connections of one source that are open."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: set[Session] = set()

    def connect(self, driver: Callable[[], Any]) -> "Session":
        """Return a new one; `driver` connects."""
        session = Session(driver, self._closed)
        with self._lock:
            self._open.add(session)
        return session

    def stop(self) -> None:
        """Have the server stop what any of them asks."""
        with self._lock:
            sessions = list(self._open)
        for session in sessions:
            session.stop()

    def _closed(self, session: "Session") -> None:
        with self._lock:
            self._open.discard(session)


class Session:
    """A connection of a driver. From `begun` on, what runs in it is somebody's query."""

    def __init__(self, connect: Callable[[], Any], closed: "Callable[[Session], None]") -> None:
        self.driver = connect()
        self._connect = connect
        self._closed = closed
        self._id: int | None = None
        self._known: list[Warned] | None = None
        self.backslashes = True
        self.unsigned = True

    def begun(self, number: int, *, backslashes: bool, unsigned: bool) -> None:
        """Take note that the snapshot is open, by what number the server knows us, how it reads quotes, and whether it
        warns of negative numbers that are made unsigned ones."""
        self._id, self.backslashes, self.unsigned = number, backslashes, unsigned

    def stop(self) -> None:
        """Have the server stop what it does for us; where it cannot be told, its own timeout does that later."""
        if self._id is None:
            return
        with suppress(Exception):
            other = self._connect()
            try:
                other.cursor().execute(f"kill query {self._id:d}")
            finally:
                other.close()

    def close(self) -> None:
        """End it."""
        self._closed(self)
        self.driver.close()

    def cursor(self, *args: Any, **options: Any) -> Any:
        """Return a cursor; one that streams, as a query's does, looks after what it runs."""
        cursor = self.driver.cursor(*args, **options)
        if self._id is not None and (args or options.get("buffered") is False):
            return Streaming(self, cursor)
        self._known = None
        return cursor

    def look(self) -> "list[Warned]":
        """Return what the server warned of since the last look. A statement that names no table leaves the list as it is."""
        before, now = self._known, self._warnings()
        self._known = now
        return [] if now == before else now

    def look_first(self) -> None:
        """Take note of what is on the list already, if that is not known."""
        if self._known is None:
            self._known = self._warnings()

    def _warnings(self) -> "list[Warned]":
        cursor = self.driver.cursor()
        try:
            cursor.execute("show warnings")
            return [Warned(level, int(code), words) for level, code, words in cursor.fetchall()]
        finally:
            cursor.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.driver, name)


class Streaming:
    """A cursor that fetches as it goes."""

    def __init__(self, session: Session, cursor: Any) -> None:
        self._session = session
        self._cursor = cursor
        self._left = False
        """Whether rows may be left on the server."""

    def execute(self, statement: str, parameters: Any = None) -> Any:
        """Run a query, if it is one. Raises NotARead, Altered."""
        reason = not_a_read(statement, backslashes=self._session.backslashes)
        if reason is not None:
            raise NotARead(reason)
        if not self._session.unsigned and casts_to_unsigned(statement, backslashes=self._session.backslashes):
            raise Altered(UNSIGNED)
        self._session.look_first()
        done = self._watched(self._cursor.execute, statement, parameters)
        self._left = self._cursor.description is not None
        return done

    def fetchone(self) -> Any:
        """Fetch a row, None behind the last one."""
        row = self._watched(self._cursor.fetchone)
        if row is None:
            self._ended()
        return row

    def fetchmany(self, size: int | None = None) -> Any:
        """Fetch so many rows, fewer at the end. Raises Altered there."""
        size = self._cursor.arraysize if size is None else size
        rows = self._watched(self._cursor.fetchmany, size)
        if len(rows) < size:
            self._ended()
        return rows

    def fetchall(self) -> Any:
        """Fetch what is left. Raises Altered."""
        rows = self._watched(self._cursor.fetchall)
        self._ended()
        return rows

    def close(self) -> None:
        """Let go of what is left; have it stopped where that is a lot."""
        if self._left:
            try:
                self._left = len(self._watched(self._cursor.fetchmany, REST)) == REST
            except Exception:  # noqa: BLE001 - it is not wanted any more, whatever is wrong with it
                self._left = False
        if self._left:
            self._session.stop()
        self._left = False
        result: Any = getattr(self._cursor, "_result", None)
        if not getattr(self._session.driver, "open", True) and hasattr(result, "unbuffered_active"):
            # PyMySQL would try to fetch the rest from a connection that is gone, and again whenever it is collected.
            result.unbuffered_active = False
        with suppress(Exception):
            self._cursor.close()

    def _watched(self, do: Callable[..., Any], *values: Any) -> Any:
        try:
            return do(*values)
        except Exception:
            self._left = False
            raise
        except BaseException:  # whoever asked is interrupted; the server knows nothing of that
            self._left = False
            self._session.stop()
            raise

    def _ended(self) -> None:
        """Look at what the server warned of, once. Raises BrokenOff, Altered."""
        if not self._left:
            return
        self._left = False
        warnings = self._session.look()
        for level, code, words in warnings:
            if level == "Error":
                raise BrokenOff(code, words)
        for warned in warnings:
            if (meant := _altered(*warned)) is not None:
                raise Altered(f"{meant}: {warned.words} ({warned.code})")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cursor, name)


def _altered(level: str, code: int, words: str) -> str | None:
    """Say what a warning means for a result; None if it leaves it as it is."""
    if code == SOMETHING and "negative" in words:
        return "a negative number is taken for a large one"
    if words.endswith("''"):  # an empty text counts as nothing, and nothing is what it says
        return None
    return None if level == "Note" and code not in NOTED else ALTERING.get(code)
