"""A source: one application database, asked with the user's own SQL.

Rules
- One span is read in one read-only transaction, which sees one state of the database. It is rolled back at the end.
- The SQL is the user's text; `:start` and `:end` are bound values. No SQL is ever made of strings.
- A read that fails raises, and whatever it yielded before is worth nothing.
- No message holds the URL or its password: a source is known by its configured name.
- Whatever a driver raises comes out as a SourceError, also what no driver should: it stays with the meter that was read.
"""

import datetime as dt
import re
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import partial
from itertools import combinations
from typing import Any, assert_never

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, DBAPIError

from aggregator.core import query_text
from aggregator.core.model import Differing, Fence, Reading, Span
from aggregator.core.table_guess import TableShape
from aggregator.core.windows import tile
from aggregator.errors import (
    AggregatorError,
    QueryRejected,
    QueryTimedOut,
    Rejected,
    SourceError,
    SourceUnreachable,
)
from aggregator.runtime import clock
from aggregator.runtime.redact import named, redacted
from aggregator.source import listed, stand_ins
from aggregator.source.by_cursor import ByCursor
from aggregator.source.described import described
from aggregator.source.dialects import SEVERAL_STATES, Fault, Table, pasted
from aggregator.source.dialects import Reading as HowToRead
from aggregator.source.file_views import Files
from aggregator.source.kinds import dialect_of
from aggregator.source.rows import (
    PADDED,
    Instants,
    OutOfRange,
    Places,
    Rows,
    noise_of,
    places,
)
from aggregator.source.samples import Asking, instant_of
from aggregator.source.snapshot import (
    SHORTEST_STEP,
    Glimpse,
    Shape,
    SideBySide,
    Snapshot,
    declared_fence,
    names_of,
    pieces,
)
from aggregator.source.touched import SINCE, TouchedWindows
from aggregator.source.trying import LATER, Trying, differing
from aggregator.source.urls import parsed, secrets_of

BOUNDS = "start|end"
BOUNDS_AND_CUSTOMER = "start|end|customer"
"""What is filled in of a usage query, and of a query for the rows behind one customer's usage."""

CAST_OF_BOUND = r"(?<![:\w\\])(:(?:{names}))(?=::)"
"""`:start::date`, which SQLAlchemy does not take for a parameter and a cast."""

OTHER_COLON = r"(?<![:\w\\]):(?!(?:{names})\b)(?=\w+(?![:\w]))"
"""A colon that is the text's own, as in the JSON `{{"paid":true}}`, where SQLAlchemy would take it for a parameter's.
It takes none before a word that another colon follows, as in `':paid:'`, and would leave a backslash there in the text.
"""

OURS = (AggregatorError, MemoryError)
"""What goes on as it is: our own words, and what says nothing about the source. All else is the driver's."""


class Source:
    """One application database. Connects when first asked, once per read; any number of threads may read at once.

    `statement_timeout` bounds every statement and every fetch of a batch. `timezone="UTC"` declares that timestamps without
    a time zone are UTC; SQLite's are by its own convention. Any `postgresql://` or `postgres://` URL is served by psycopg 3.
    `freshness` is a SELECT of one instant up to which the source surely has all rows, such as the last heartbeat of the
    server they come from.
    `filtered` says that row-level security may hide rows from the role; else a query over such a table is refused.
    `accepts` names what of this kind of database need not be proven: `unproven_bounds`, `several_states`.
    `files` are folders of files that DuckDB shows as tables, by their names.
    `url_now` gives the URL as it is by now, if it stands in a file: it is asked when no connection can be had.
    """

    def __init__(
        self,
        name: str,
        url: str,
        *,
        statement_timeout: dt.timedelta,
        timezone: str | None = None,
        freshness: str | None = None,
        filtered: bool = False,
        accepts: Iterable[str] = (),
        files: Mapping[str, Files] | None = None,
        application_name: str = "aggregator",
        url_now: Callable[[], str | None] = lambda: None,
    ) -> None:
        assert statement_timeout > dt.timedelta(0), "zero would mean no timeout"
        if timezone not in {None, "UTC"}:
            raise SourceError(
                f"Source {name}: `timezone` can only be UTC; convert other columns in the query."
            )
        self.name = name
        self._url = parsed(name, url)
        self._dialect = dialect_of(self._url, files or {})
        self._how = HowToRead(statement_timeout, filtered, frozenset(accepts))
        self._freshness = freshness
        self._application_name, self._url_now = application_name, url_now
        self._instants = Instants(
            self._dialect.naive_is_utc or timezone == "UTC",
            self._dialect.from_number,
            self._refusal,
            self._dialect.zoned,
        )
        self._asked_by = self._statement, self._kinds, self._instants, self._refusal
        self._secrets = secrets_of(self._url, url)
        self._lock = threading.Lock()
        self._engine: sa.Engine | None = None
        self._engine_url: sa.URL | None = None

    def __repr__(self) -> str:
        return f"Source({self.name!r}, {self._dialect.name})"

    @property
    def kind(self) -> str:
        """What SQLAlchemy calls this kind of database."""
        return self._dialect.name

    @property
    def cannot_promise(self) -> tuple[str, ...]:
        """What is not certain with this kind of database, one sentence each; empty for Postgres and SQLite."""
        return self._dialect.cannot_promise

    def limits(self) -> list[str]:
        """Say what is not certain with this very server, beside `cannot_promise`. Raises SourceUnreachable."""
        return self._remarks(self._dialect.limits)

    def fence(self) -> Fence | None:
        """Return what the database's transactions have come to, for the commit barrier; None if it cannot be asked.

        Takes no privileges, but sees more with some. Raises QueryRejected for a bad `freshness`, and as `read` does.
        """
        if self._dialect.fence is None and self._freshness is None:
            return None
        with self._snapshot(proving=True) as snapshot:
            return self._fence(snapshot)

    def _fence(self, snapshot: Snapshot) -> Fence | None:
        """Return what a snapshot proves of its own rows."""
        query = self._freshness
        freshness = None if query is None else partial(self._fresh_until, snapshot, query)
        if self._dialect.fence is not None:
            return self._dialect.fence(snapshot.connection, freshness, snapshot.asked)
        return None if freshness is None else declared_fence(clock.utcnow(), freshness())

    def unseen(self) -> list[str]:
        """Say whose transactions cannot be seen, so that they are not waited for; empty where that cannot be asked."""
        return self._remarks(self._dialect.unseen)

    def unsafe(self) -> list[str]:
        """Say what the role may do beyond reading, one sentence each with its remedy. Raises SourceUnreachable.

        Empty for a role that may only read, for SQLite, and where it cannot be asked (see `cannot_promise`)."""
        return self._remarks(self._dialect.unsafe)

    def _remarks(self, ask: Callable[[sa.Connection], list[str]] | None) -> list[str]:
        if ask is None:
            return []
        with self._snapshot() as snapshot:
            return ask(snapshot.connection)

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
        """Yield all readings of a span in batches, from one snapshot; `dimensions` are columns that keep usage apart.

        `allow` is told what that very snapshot proves, before anything is asked of it, and says up to when the span may be
        read; what lies behind is left out.

        A query that returns `window` is asked once, any other once per window. With `step`, a minute or longer, it is asked
        for consecutive pieces no longer than that: what a window has in several of them is several readings, to be summed.
        So a quantity that does not add up over time, as count(distinct ...) does not, comes out too high by pieces.

        Raises QueryRejected, QueryTimedOut or SourceUnreachable; only a read that came to its end is complete. Closing the
        iterator early ends the transaction.
        """
        assert step is None or step >= SHORTEST_STEP, "a piece is a minute long at least"
        with self._snapshot(proving=allow is not None) as snapshot:
            if allow is not None:
                span = Span(span.start, allow(self._fence(snapshot)))
            if span.start >= span.end:
                return
            yield from self._read_in(snapshot, query, span, window, dimensions, step)

    def ask(
        self, query: str, span: Span, window: dt.timedelta, timeout: dt.timedelta | None = None
    ) -> Generator[list[Reading], None, None]:
        """Ask once, for whatever stretch of time, and yield what it gives in batches. Raises as `read` does."""
        statement = self._statement(query)
        with self._snapshot(timeout) as snapshot:
            yield from self._readings(snapshot, statement, span, window)

    def _readings(
        self,
        snapshot: Snapshot,
        statement: sa.TextClause,
        asked: Span,
        window: dt.timedelta,
        dimensions: Sequence[str] = (),
        *,
        by_window: bool = False,
    ) -> Iterator[list[Reading]]:
        """Ask one question and yield its readings in batches.

        Raises QueryRejected if it has to return `window`, and does not; and as `read` does.
        """
        with closing(snapshot.ask(statement, asked)) as result:
            found = self._places(result, dimensions)
            if by_window and found.window is None:
                raise self._refusal("the query returned `window` before, and does not any more")
            kinds = self._kinds(result)
            noise = noise_of(kinds[found.quantity])
            padded = kinds[found.customer] in PADDED
            rows = Rows(found, self._instants, asked, window, self._refusal, noise, padded=padded)
            for batch in snapshot.batches(result):
                yield rows.readings(batch)

    def columns(self, query: str, span: Span, dimensions: Sequence[str] = ()) -> Shape:
        """Try the query over a span, fetching one row at most, and say what it returns. Raises as `read` does."""
        statement = self._statement(query)
        with self._snapshot() as snapshot, closing(snapshot.ask(statement, span, batch=1)) as result:
            found = self._places(result, dimensions)
            row = result.fetchone()
            for column, place in (("at", found.at), ("window", found.window)):
                if row is not None and place is not None and row[place] is not None:
                    self._instants.read(column, row[place])
        return Shape(found.window is not None, found.at is not None)

    def filled(self, query: str, span: Span, **beside: int | dt.datetime) -> str:
        """Return a usage query with a span filled in, and cursors, as this kind of database takes it, ready to be pasted."""
        values = {"start": span.start, "end": span.end, **beside}
        return query_text.filled(
            query, {name: pasted(self._dialect, value) for name, value in values.items()}
        )

    def rows_behind(
        self, query: str, span: Span, customer: str, most: int
    ) -> tuple[list[str], list[tuple[object, ...]], bool]:
        """Ask for the rows behind what a customer used: their columns, up to `most` of them, and whether there are more.

        Raises QueryRejected, QueryTimedOut or SourceUnreachable.
        """
        statement = self._statement(query, BOUNDS_AND_CUSTOMER)
        with self._snapshot() as snapshot:
            snapshot.renew()
            bound = snapshot.dialect.bound
            values = {"start": bound(span.start), "end": bound(span.end), "customer": customer}
            asked = snapshot.connection.execute(statement, values, execution_options={"yield_per": most + 1})
            with closing(asked) as result:
                names = names_of(result, self._refusal, "a `detail_query`")
                snapshot.renew()
                found = [tuple(row) for row in result.fetchmany(most + 1)]
                return names, found[:most], len(found) > most

    def tables(self, query: str, span: Span) -> list[Table]:
        """Return which tables a query reads, by its plan; none where that cannot be asked. Raises as `read` does."""
        if self._dialect.tables is None:
            return []
        with self._snapshot() as snapshot:
            return self._tables(snapshot, query, span)

    def _tables(self, snapshot: Snapshot, query: str, span: Span) -> list[Table]:
        if self._dialect.tables is None:
            return []
        values = {"start": self._dialect.bound(span.start), "end": self._dialect.bound(span.end)}
        return self._dialect.tables(snapshot.connection, self._statement(query).text, values)

    def over(self, query: str, rows: stand_ins.Rows, span: Span) -> str:
        """Return the query as it reads these rows instead of its tables; nothing is written.

        Raises QueryRejected for a table or column that is none, or a table that is missing in `rows`; else as `read` does.
        """
        stand_in = self._dialect.stand_in
        if stand_in is None:
            raise self._refusal(f"a query cannot be tested on {self.kind} yet: it would read its tables")
        with self._snapshot() as snapshot:
            snapshot.renew()
            text = stand_ins.standing_in(snapshot.connection, query, rows, stand_in, self._refusal)
            named = [] if self._dialect.tables else stand_ins.named_beside(snapshot.connection, query, rows)
            planned = [table.name for table in self._tables(snapshot, text, span)]
        for beside in (*named, *planned):
            raise self._refusal(stand_ins.NOT_GIVEN.format(table=beside))
        return text

    def shape(self, table: str) -> TableShape:
        """Return what a table looks like. Raises SourceError if there is none such, or as `read` does."""
        with self._snapshot() as snapshot:
            snapshot.renew()
            try:
                return described(snapshot.connection, table)
            except LookupError as error:
                raise SourceError(f"Source {self.name}: {error}.") from None

    def quoted(self, name: str) -> str:
        """Return a name as the database takes it, in quotes if it needs them."""
        return self._engine_of(self._url).dialect.identifier_preparer.quote(name)

    @contextmanager
    def glimpse(self, timeout: dt.timedelta) -> Iterator["Glimpse"]:
        """Hold a snapshot open in which several queries are asked, each for as long as `timeout` at most.

        Raises, from within as well, as `read` does.
        """
        with self._snapshot(min(timeout, self._how.statement_timeout), proving=True) as snapshot:
            yield Glimpse(self._fence(snapshot), partial(self._read_in, snapshot, by_window=True))

    @contextmanager
    def side_by_side(self) -> Iterator["SideBySide"]:
        """Hold a snapshot open in which several spans are read as `read` does. Raises, from within as well, as that does."""
        with self._snapshot(proving=True) as snapshot:
            read, by_cursor = partial(self._read_in, snapshot), ByCursor(snapshot, *self._asked_by)
            yield SideBySide(self._fence(snapshot), read, self._dialect.snapshot, by_cursor)

    def customers(self, query: str) -> listed.Batches:
        """Yield the rows of a mapping from keys to customers in batches, from one snapshot. Raises as `read` does."""
        with self._snapshot() as snapshot:
            yield from listed.from_snapshot(snapshot, self._statement(query), self._refusal)

    def _read_in(
        self,
        snapshot: Snapshot,
        query: str,
        span: Span,
        window: dt.timedelta,
        dimensions: Sequence[str] = (),
        step: dt.timedelta | None = None,
        *,
        by_window: bool = False,
    ) -> Iterator[list[Reading]]:
        """Yield all readings of a span in batches, from a snapshot that is open; with `by_window`, by one question."""
        statement = self._statement(query)
        questions = self._questions(snapshot, statement, span, window, step, dimensions)
        for asked in [span] if by_window else questions:
            yield from self._readings(snapshot, statement, asked, window, dimensions, by_window=by_window)

    @contextmanager
    def sampling(self, query: str, now: dt.datetime, *, counters: bool) -> Iterator[Asking]:
        """Open a snapshot in which a query is asked for what there is now: `now`, if the database has no clock to ask."""
        statement = self._statement(query)
        with self._snapshot(proving=True) as snapshot:
            at = instant_of(self._fence(snapshot), now, self.name)
            yield Asking(snapshot, statement, self._kinds, self._instants, counters=counters, at=at)

    @contextmanager
    def trying(self, query: str, timeout: dt.timedelta, dimensions: Sequence[str] = ()) -> Iterator[Trying]:
        """Open a snapshot in which the query can be asked for any stretch of time, each for as long as `timeout` at most.

        Raises, from within as well, as `read` does.
        """
        statement = self._statement(query)
        with self._snapshot(min(timeout, self._how.statement_timeout)) as snapshot:
            found = partial(self._places, dimensions=dimensions)
            yield Trying(snapshot, statement, found, self._kinds, self._instants)

    @contextmanager
    def by_cursor(self) -> Iterator[ByCursor]:
        """Open a snapshot that is asked for rows by their cursor. Raises, from within as well, as `read` does."""
        with self._snapshot() as snapshot:
            yield ByCursor(snapshot, *self._asked_by)

    @contextmanager
    def touched(self, query: str) -> Iterator[TouchedWindows]:
        """Open a snapshot that is asked which windows were touched. Raises, from within as well, as `read` does."""
        statement = self._statement(query, SINCE)
        with self._snapshot(proving=True) as opened:
            yield TouchedWindows(opened, statement, self._instants, self._refusal, self._fence(opened))

    def reread(
        self, query: str, span: Span, window: dt.timedelta, dimensions: Sequence[str] = ()
    ) -> Differing | None:
        """Read a window again; return what differs and is the query's own doing, or None.

        It is read twice in one snapshot. What names the present instant is the same throughout that, and so is read in
        three of its own as well, which all differ: rows that come meanwhile hardly change one window twice in a moment.
        None as well where there is no such snapshot, or the window is too large to tell. Raises as `read` does.
        """
        if not self._dialect.snapshot:
            return None
        with self.trying(query, self._how.statement_timeout, dimensions) as trying:
            found = differing(trying.whole(span, window), trying.whole(span, window))
        if found is not None or query_text.present(query) is None:
            return found
        readings = []
        for _ in range(3):
            with self.trying(query, self._how.statement_timeout, dimensions) as trying:
                readings.append(trying.whole(span, window))
        first, *others = (differing(one, other) for one, other in combinations(readings, 2))
        return None if first is None or None in others else first._replace(how=LATER)

    def ping(self) -> None:
        """Raise SourceUnreachable with the reason if the database cannot be read."""
        with self._snapshot() as snapshot:
            snapshot.connection.execute(sa.select(sa.literal(1)))

    def close(self) -> None:
        """Let go of the engine, and stop what is asked by now; a driver that cannot be told ends its read by itself."""
        with self._lock:
            if self._engine is not None:
                self._engine.dispose()
            self._engine = None

    def _questions(
        self,
        snapshot: Snapshot,
        statement: sa.TextClause,
        span: Span,
        window: dt.timedelta,
        step: dt.timedelta | None,
        dimensions: Sequence[str],
    ) -> Iterator[Span]:
        """Yield the spans to ask the query for. Which columns it returns is tried on no time at all, which costs little."""
        by_window = [piece for each in tile(span, window) for piece in pieces(each, step)]
        at_once = list(pieces(span, step))
        if at_once != by_window:
            with closing(snapshot.ask(statement, Span(span.start, span.start), batch=1)) as result:
                if self._places(result, dimensions).window is not None:
                    by_window = at_once
        if len(by_window) > 1 and self.several_queries is not None:
            raise self._refusal(self.several_queries)
        yield from by_window

    @property
    def several_queries(self) -> str | None:
        """Why no span may take several queries; None if it may. Each would see another state, unless there is a snapshot."""
        if self._dialect.snapshot or SEVERAL_STATES in self._how.accepts:
            return None
        return (
            f"a span that takes several queries would see several states of {self.kind}: return `window`, and leave out "
            f"`split`, so that it is one query; or accept that, by `accepts: [{SEVERAL_STATES}]` on the source"
        )

    def _fresh_until(self, snapshot: Snapshot, query: str) -> dt.datetime | None:
        """Ask the `freshness` query; None where it gives no row, or NULL."""
        try:
            with closing(
                snapshot.connection.execute(self._statement(query), execution_options={"yield_per": 2})
            ) as result:
                rows = result.fetchmany(2) if result.returns_rows else []
                columns = len(result.keys()) if result.returns_rows else 0
        except OURS:
            raise
        except Exception as error:  # noqa: BLE001 - whatever a driver raises
            raise self._explained(error, "the `freshness` query") from None
        if columns != 1 or len(rows) > 1:
            raise self._refusal("the `freshness` query must return one instant: one column and one row")
        if not rows or rows[0][0] is None:
            return None
        instant = self._instants.read("freshness", rows[0][0])
        if isinstance(instant, OutOfRange):
            raise self._refusal(f"the `freshness` query returns {instant}")
        return instant

    @contextmanager
    def _snapshot(self, timeout: dt.timedelta | None = None, *, proving: bool = False) -> Iterator[Snapshot]:
        """Hold one transaction open; whatever the driver raises meanwhile comes out as one of our errors.

        `timeout` is how long each statement may take, if not as long as ever; `proving`, whether it is to be fenced.
        """
        try:
            with self._connect() as connection:
                asked = None
                if proving and self._dialect.before is not None:
                    asked = self._dialect.before(connection)
                    connection.rollback()
                how = self._how if timeout is None else self._how._replace(statement_timeout=timeout)
                yield Snapshot(connection, self._dialect, self._dialect.begin(connection, how), asked)
        except OURS:
            raise
        except Exception as error:  # noqa: BLE001 - drivers raise more than they document: it stays with its meter
            # Not chained: the driver's text may hold what ours must not.
            raise self._explained(error) from None

    def _connect(self) -> sa.Connection:
        url = self._url
        try:
            return self._engine_of(url).connect()
        except OURS:
            raise
        except Exception:
            if not self._renewed(url):
                raise
        return self._engine_of(self._url).connect()

    def _engine_of(self, url: sa.URL) -> sa.Engine:
        """Return the engine that connects by a URL; it is kept until the next one."""
        with self._lock:
            if self._engine is None or self._engine_url != url:
                try:
                    self._engine = self._dialect.engine(url, self._application_name)
                except (ArgumentError, ImportError) as error:
                    extra = self._dialect.extra
                    install = f": `pip install 'usage-aggregator[{extra}]'`" if extra else ""
                    raise SourceUnreachable(
                        f"Source {self.name}: the driver for {self._dialect.name} is not installed "
                        f"({self._clean(str(error))}){install}"
                    ) from None
                self._engine_url = url
            return self._engine

    def _renewed(self, tried: sa.URL) -> bool:
        """Take up the URL that stands in the file by now; False if it is the one that was tried, or cannot be used."""
        text = self._url_now()
        if text is None:
            return False
        try:
            now = parsed(self.name, text)
        except SourceError:
            return False
        if now == tried or now.get_backend_name() != tried.get_backend_name():
            return False
        with self._lock:
            self._url = now
            self._secrets = sorted({*self._secrets, *secrets_of(now, text)}, key=len, reverse=True)
        return True

    def _statement(self, query: str, names: str = BOUNDS) -> sa.TextClause:
        """Return the text with `:start` and `:end` as its only parameters, or with other names."""
        if "\0" in query:
            raise self._refusal("the query holds a NUL character")
        bound = re.sub(CAST_OF_BOUND.format(names=names), r"(\1)", query)
        text = re.sub(OTHER_COLON.format(names=names), r"\:", bound)
        # On a line of its own, so that line numbers in the server's errors can be told.
        return sa.text("\n" + text)

    def _places(self, result: sa.CursorResult[Any], dimensions: Sequence[str] = ()) -> Places:
        refuse = partial(self._refusal, rejected=Rejected.AFTER_IT_RAN)
        return places(names_of(result, refuse), refuse, dimensions)

    def _kinds(self, result: sa.CursorResult[Any]) -> list[str | None]:
        """Return the database's name for the type of each column; None where it does not say."""
        return [self._dialect.kind(column[1]) for column in result.cursor.description]

    def _refusal(self, reason: str, rejected: Rejected = Rejected.OTHERWISE) -> QueryRejected:
        return QueryRejected(f"Source {self.name}: {reason}", rejected=rejected)

    def _explained(self, error: Exception, asked: str | None = None) -> SourceError:
        """Return our error for a driver's: what happened, to which source, what to do. `asked`: what, if not the query."""
        if isinstance(error, OSError):
            return SourceUnreachable(f"Source {self.name} cannot be read: {self._clean(str(error))}")
        doing = asked or "the query"
        cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
        fault = self._dialect.fault(cause)
        if fault is Fault.UNEXPECTED:
            return SourceError(
                f"Source {self.name}: the database driver failed over {doing} ({self._clean(named(cause))}); it is "
                "tried again. Return text, numbers and instants only, and look at what is set for the role and the database."
            )
        said = self._clean(self._dialect.said(cause))
        match fault:
            case Fault.TRANSIENT:
                return SourceUnreachable(f"Source {self.name} cannot be read: {said}")
            case Fault.TIMED_OUT:
                seconds = self._how.statement_timeout.total_seconds()
                return QueryTimedOut(
                    f"Source {self.name}: {doing} was stopped, it may take {seconds:g} s ({said}): give its time column "
                    "an index, let it return `window`, or raise `statement_timeout`"
                )
            case Fault.NOT_A_READ:
                reason = f"{asked or 'a usage query'} is one statement and may only read: {said}"
                return self._refusal(reason, Rejected.AS_A_WRITE)
            case Fault.UNPROVEN:
                return self._refusal(said)
            case Fault.REFUSED:
                return self._refusal(f"{doing} is refused: {said}")
            case _:
                assert_never(fault)

    def _clean(self, text: str) -> str:
        """Return the text without the secrets of our URL."""
        return redacted(text, self._secrets)
