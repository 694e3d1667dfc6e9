"""Spark SQL: a session over the protocol of HiveServer2, as a driver (PEP 249) has one.

Rules
- What is called is impyla's connection and the protocol itself (TCLIService.thrift), of which each answer says by a code of
  its own whether a statement has ended, failed or was stopped. Errors keep the server's words, and its SQLSTATE.
- A query is described before it is run. That parses it as a query, which nothing that writes is, and tells its types: in
  a result both kinds of timestamps, with a zone and without, have one name.
- Each statement and each fetch has its time. The socket keeps it: the server's own limit ends with the statement, and most
  of the work on a result that is collected as it is fetched comes later.
- Whoever gives up a query has it stopped on the server, by another connection where this one waits for its answer.
"""

import datetime as dt
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from decimal import Decimal
from typing import Any, NamedTuple

from aggregator.runtime import clock
from aggregator.source.rows import OutOfRange
from aggregator.source.spark_text import not_a_read

logging.getLogger("thrift").addHandler(logging.NullHandler())  # it would print what is raised all the same

CONNECT_SECONDS = 30.0

CLOSE_SECONDS = 5.0
"""How long it may take to have work stopped, or a result let go."""

FAREWELL_SECONDS = 0.5
"""How long the end of a session may take: a server without a metastore may look for one for twenty seconds, each time. It
ends the session all the same once nobody listens any more."""

TIMED_OUT = 3
"""TTransportException.TIMED_OUT (github.com/apache/thrift, lib/py/src/transport/TTransport.py)."""


class NotARead(Exception):
    """A text that is not run, as it is no one statement that reads."""


class TooSlow(Exception):
    """A statement had its time."""


class Stopped(Exception):
    """The source was closed while it was read."""


class ServerError(Exception):
    """The server's words for what went wrong, and its SQLSTATE if it has one."""

    def __init__(self, words: str, state: str | None) -> None:
        super().__init__(words)
        self.state = state


class Address(NamedTuple):
    """Where a server is, and how one logs in."""

    host: str
    port: int
    user: str | None
    password: str | None
    mechanism: str
    ssl: bool
    ca_cert: str | None
    kerberos_service: str


class Wire:
    """A connection that carries one call at a time."""

    def __init__(self, address: Address) -> None:
        from impala import hiveserver2 as impyla

        self._socket = impyla.get_socket(
            address.host, address.port, address.ssl, address.ca_cert, address.ssl and not address.ca_cert
        )
        self._socket.setTimeout(CONNECT_SECONDS * 1000)
        self._transport = impyla.get_transport(
            self._socket,
            address.host,
            address.kerberos_service,
            address.mechanism,
            address.user,
            address.password,
        )
        self._transport.open()
        self._client = impyla.ThriftClient(impyla.TBinaryProtocolAccelerated(self._transport))

    def call(self, name: str, request: Any, seconds: float) -> Any:
        """Return the answer. Raises ServerError, and thrift's errors where there is none in time."""
        self._socket.setTimeout(max(seconds, 0.001) * 1000)
        answer = getattr(self._client, name)(request)
        status = answer.status
        if status.statusCode not in {0, 1, 2}:  # SUCCESS, SUCCESS_WITH_INFO, STILL_EXECUTING
            raise ServerError(status.errorMessage or f"{name} failed", status.sqlState)
        return answer

    def close(self) -> None:
        """Hang up."""
        with suppress(Exception):
            self._transport.close()


class Session:
    """A session, as SQLAlchemy wants a connection; one statement at a time is asked."""

    def __init__(self, address: Address, settings: Mapping[str, str], database: str | None = None) -> None:
        from impala.hiveserver2 import TOpenSessionReq, TProtocolVersion

        self._address = address
        self._seconds = CONNECT_SECONDS
        self._operation: Any = None
        """What the server works on, or holds a result of."""
        self._stopped = threading.Event()
        self._wire = Wire(address)
        try:
            # The last version whose columns impyla's classes have, and the first with columns at all.
            opening = TOpenSessionReq(
                client_protocol=TProtocolVersion.HIVE_CLI_SERVICE_PROTOCOL_V6,
                username=address.user,
                configuration={f"set:hiveconf:{name}": value for name, value in settings.items()}
                | ({"use:database": database} if database else {}),
            )
            self._handle = self._wire.call("OpenSession", opening, CONNECT_SECONDS).sessionHandle
        except BaseException:
            self._wire.close()
            raise

    def begin(self, seconds: float) -> None:
        """Let each statement and each fetch take so long from now on."""
        self._seconds = seconds

    def ask(self, statement: str) -> list[tuple[object, ...]]:
        """Ask something of our own and return all rows, whose values are texts."""
        self.run(statement)
        try:
            rows: list[tuple[object, ...]] = []
            while found := self.fetch(1000, None):
                rows += found
            return rows
        finally:
            self.end()

    def described(self, query: str) -> list[tuple[str, str]]:
        """Return names and types of the columns of what must be a query. Raises ServerError for what is none."""
        return [(str(name), str(kind)) for name, kind, _ in self.ask(f"describe query {query}")]

    def run(self, statement: str) -> None:
        """Have it run until its result begins. Raises TooSlow, Stopped, ServerError."""
        from impala.hiveserver2 import TExecuteStatementReq, TGetOperationStatusReq, TOperationState

        until = clock.monotonic() + self._seconds
        request = TExecuteStatementReq(sessionHandle=self._handle, statement=statement, runAsync=True)
        self._operation = self._call("ExecuteStatement", request, until).operationHandle
        asked = TGetOperationStatusReq(operationHandle=self._operation)
        waiting = {
            TOperationState.INITIALIZED_STATE,
            TOperationState.RUNNING_STATE,
            TOperationState.PENDING_STATE,
        }
        while (found := self._call("GetOperationStatus", asked, until)).operationState in waiting:
            pass  # the server answers once there is news, or after some seconds
        if found.operationState == TOperationState.FINISHED_STATE:
            return
        self.end()
        if self._stopped.is_set():
            raise Stopped("the source is closed")
        if found.operationState == TOperationState.ERROR_STATE:
            raise ServerError(found.errorMessage or "it failed", found.sqlState)
        if found.operationState in {TOperationState.CANCELED_STATE, TOperationState.CLOSED_STATE}:
            raise ServerError("it was stopped on the server", None)
        raise TooSlow("it was stopped on the server")  # TIMEDOUT_STATE, which this version has no name for

    def fetch(self, size: int, kinds: Sequence[str] | None) -> list[tuple[object, ...]]:
        """Return the next rows, none at the end; without `kinds`, as texts. Raises as `run` does."""
        from impala.hiveserver2 import TFetchResultsReq

        request = TFetchResultsReq(operationHandle=self._operation, maxRows=size, orientation=0)
        until = clock.monotonic() + self._seconds
        columns = self._call("FetchResults", request, until).results.columns
        values = [
            _values(column, "string" if kinds is None else kinds[place])
            for place, column in enumerate(columns)
        ]
        return list(zip(*values, strict=True))

    def end(self) -> None:
        """Let go of the result, and of the work on it."""
        from impala.hiveserver2 import TCloseOperationReq

        operation, self._operation = self._operation, None
        if operation is not None:
            with suppress(Exception):
                self._wire.call(
                    "CloseOperation", TCloseOperationReq(operationHandle=operation), CLOSE_SECONDS
                )

    def stop(self) -> None:
        """Have the server stop what it does for us, and let nothing more begin."""
        self._stopped.set()
        self._cancel()

    def _cancel(self) -> None:
        """Have the server stop, by another connection: this one may wait for its answer."""
        from impala.hiveserver2 import TCancelOperationReq

        operation = self._operation
        if operation is None:
            return
        with suppress(Exception):
            other = Wire(self._address)
            try:
                other.call("CancelOperation", TCancelOperationReq(operationHandle=operation), CLOSE_SECONDS)
            finally:
                other.close()

    def _call(self, name: str, request: Any, until: float) -> Any:
        if self._stopped.is_set():
            raise Stopped("the source is closed")
        try:
            return self._wire.call(name, request, until - clock.monotonic())
        except Exception as error:
            if self._stopped.is_set():
                raise Stopped("the source is closed") from None
            if getattr(error, "type", None) == TIMED_OUT:
                self._give_up()
                raise TooSlow("it was stopped") from None
            raise
        except BaseException:  # whoever asked is interrupted, and the server does not know
            self._give_up()
            raise

    def _give_up(self) -> None:
        """Stop the work, and hang up: an answer that comes late would be taken for the next one."""
        self._cancel()
        self._operation = None
        self._wire.close()

    def cursor(self) -> "Cursor":
        """Return what asks one query."""
        return Cursor(self)

    def commit(self) -> None:
        """There is nothing to commit."""

    def rollback(self) -> None:
        """There is nothing to take back."""

    def close(self) -> None:
        """End the session."""
        from impala.hiveserver2 import TCloseSessionReq

        self.end()
        with suppress(Exception):
            self._wire.call("CloseSession", TCloseSessionReq(sessionHandle=self._handle), FAREWELL_SECONDS)
        self._wire.close()


class Cursor:
    """One query and its rows."""

    arraysize = 1
    rowcount = -1
    lastrowid = None

    def __init__(self, session: Session) -> None:
        self._session = session
        self._kinds: list[str] = []
        self.description: Any = None

    def execute(self, statement: str, values: Any = None) -> None:
        """Ask. Raises NotARead for anything but one query."""
        query = statement % {name: literal(value) for name, value in (values or {}).items()}
        reason = not_a_read(query)
        if reason is not None:
            raise NotARead(reason)
        columns = self._session.described(query)
        self._session.run(query)
        self._kinds = [kind for _, kind in columns]
        self.description = [(name, kind, None, None, None, None, True) for name, kind in columns]

    def fetchmany(self, size: int = 1) -> list[tuple[object, ...]]:
        """Return the next rows."""
        return self._session.fetch(size, self._kinds)

    def fetchone(self) -> Any:
        """Return the next row, or None."""
        return next(iter(self.fetchmany(1)), None)

    def fetchall(self) -> list[tuple[object, ...]]:
        """Return all rows that are left."""
        rows: list[tuple[object, ...]] = []
        while found := self.fetchmany(1000):
            rows += found
        return rows

    def close(self) -> None:
        """Let go of the rows that are left."""
        self._session.end()


def quoted(name: str) -> str:
    """Return a name in back quotes."""
    return "`" + name.replace("`", "``") + "`"


def literal(value: object) -> str:
    """Return a value as Spark reads it: there are no values beside a statement in this protocol.

    An instant has its zone, so that it is compared rightly with a timestamp of either kind and with a date
    (spark.apache.org/docs/latest/sql-ref-literals.html).
    """
    match value:
        case None:
            return "null"
        case dt.datetime():
            return f"timestamp'{value.astimezone(dt.UTC).replace(tzinfo=None).isoformat(sep=' ')}Z'"
        case int():
            return str(value).lower()
        case str():
            return f"cast(x'{value.encode().hex()}' as string)"
    raise TypeError(f"no literal for {type(value).__name__}")


def _instant(text: str) -> object:
    """Return a timestamp as Spark writes it; a year beyond 9999 has a sign before it."""
    try:
        return dt.datetime.fromisoformat(text)
    except ValueError:
        return OutOfRange(text)


def _zoned(text: str) -> object:
    found = _instant(text)
    return found.replace(tzinfo=dt.UTC) if isinstance(found, dt.datetime) else found


def _day(text: str) -> object:
    try:
        return dt.date.fromisoformat(text)
    except ValueError:
        return OutOfRange(text)


READERS: dict[str, Callable[[str], object]] = {
    "decimal": Decimal,
    "timestamp": _zoned,
    "timestamp_ltz": _zoned,
    "timestamp_ntz": _instant,
    "date": _day,
}
"""What makes a value of the text that it is sent as; other texts are what they are."""

COLUMNS = ("boolVal", "byteVal", "i16Val", "i32Val", "i64Val", "doubleVal", "stringVal", "binaryVal")


def _values(column: Any, kind: str) -> list[object]:
    """Return one column of a batch: its values are of one type, and bits say which are none."""
    name, holder = next((name, held) for name in COLUMNS if (held := getattr(column, name)) is not None)
    values, nulls = list(holder.values), holder.nulls
    if name == "stringVal":
        read = READERS.get(kind.partition("(")[0], str)
        values = [
            None if _is_null(nulls, place) else read(each if isinstance(each, str) else each.decode())
            for place, each in enumerate(values)
        ]
    elif any(nulls):
        values = [None if _is_null(nulls, place) else each for place, each in enumerate(values)]
    return values


def _is_null(nulls: bytes, place: int) -> bool:
    byte, bit = divmod(place, 8)
    return byte < len(nulls) and bool(nulls[byte] >> bit & 1)
