"""The edge to a database driver: whatever it raises is an error of that source, in its own words and without secrets."""

import datetime as dt
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from aggregator.core.model import Span
from aggregator.errors import SourceError, SourceUnreachable
from aggregator.source import Source
from aggregator.source.dialects import Dialect, Reading, Renew

NOON = dt.datetime(2026, 6, 1, 12, tzinfo=dt.UTC)
HOUR = dt.timedelta(hours=1)
ONE = Span(NOON, NOON + HOUR)
QUERY = "select 'cus_a' as customer, 1 as quantity where :start < :end"
SECRET = "s3cr3t-of-the-source"

UNUSUAL = [
    NotImplementedError(f"can't parse interval with {SECRET}"),
    TypeError("cannot use a string pattern on a bytes-like object"),
    KeyError("plan"),
    ValueError("year 10000 is out of range"),
    OverflowError("date value out of range"),
    RecursionError("maximum recursion depth exceeded"),
    AttributeError("'NoneType' object has no attribute 'fetch'"),
    AssertionError(),
    RuntimeError("a driver's own\x00thread died"),
]


@pytest.fixture
def source(tmp_path: Path) -> Source:
    """A source whose URL holds a secret."""
    path = tmp_path / "app.db"
    sqlite3.connect(path).close()
    found = Source("app", f"sqlite:///{path}", statement_timeout=dt.timedelta(seconds=20))
    found._secrets = [SECRET]
    return found


def breaking(dialect: Dialect, error: BaseException, at: str) -> Dialect:
    """The same kind of database, whose driver raises this when a transaction begins, or at the first statement in it."""

    def begin(connection: sa.Connection, reading: Reading) -> Renew:
        if at == "begin":
            raise error
        renew = dialect.begin(connection, reading)

        def now() -> None:
            renew()
            raise error

        return now

    def connect(url: sa.URL, name: str) -> sa.Engine:
        if at == "connect":
            raise error
        return dialect.engine(url, name)

    return replace(dialect, begin=begin, engine=connect, unsafe=lambda _: [])


VERBS: dict[str, Callable[[Source], object]] = {
    "read": lambda source: list(source.read(QUERY, ONE, HOUR)),
    "columns": lambda source: source.columns(QUERY, ONE),
}


@pytest.mark.parametrize("verb", list(VERBS))
@pytest.mark.parametrize("at", ["connect", "begin", "ask"])
@pytest.mark.parametrize("error", UNUSUAL, ids=lambda error: type(error).__name__)
def test_whatever_a_driver_raises_is_an_error_of_the_source(
    source: Source, error: Exception, at: str, verb: str
) -> None:
    """It names the source and the kind of the error, and neither repeats the secret nor holds what cannot be stored."""
    source._dialect = breaking(source._dialect, error, at)
    with pytest.raises(SourceError) as caught:
        VERBS[verb](source)
    said = str(caught.value)
    assert "Source app" in said
    assert type(error).__name__ in said
    assert SECRET not in said
    assert "\x00" not in said
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("verb", ["ping", "unsafe"])
def test_what_is_asked_beside_the_query_is_no_different(source: Source, verb: str) -> None:
    """`check` and the daemon's start ask these."""
    source._dialect = breaking(source._dialect, TypeError("bytes"), "begin")
    with pytest.raises(SourceError, match="TypeError: bytes"):
        getattr(source, verb)()


@pytest.mark.parametrize("error", [MemoryError(), SystemExit(3), KeyboardInterrupt()])
def test_what_is_not_about_the_source_goes_on_as_it_is(source: Source, error: BaseException) -> None:
    """Being told to end, and having no memory, are nobody's fault there."""
    source._dialect = breaking(source._dialect, error, "ask")
    with pytest.raises(type(error)):
        list(source.read(QUERY, ONE, HOUR))


def test_a_driver_that_is_missing_is_named() -> None:
    """Its import is the first thing that fails, at the first use and for that source alone."""
    source = Source("app", "oracle://u:p@host/db", statement_timeout=dt.timedelta(seconds=20))
    with pytest.raises(SourceUnreachable, match="the driver for oracle is not installed"):
        source.ping()
