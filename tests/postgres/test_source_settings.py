"""A Postgres source whose role or database has settings of its own: what is read is the same, also through a pooler."""

import datetime as dt
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from decimal import Decimal

import psycopg
import pytest

from aggregator.core.model import Fence, Reading, Span
from aggregator.errors import QueryRejected
from aggregator.runtime.embedded_postgres import EmbeddedPostgres
from aggregator.source import Source
from tests.pooler import SESSIONS, Pooler
from tests.postgres.servers import as_role

pytestmark = pytest.mark.sessions

HOUR = dt.timedelta(hours=1)
NOON = dt.datetime(2026, 6, 1, 12, tzinfo=dt.UTC)
ONE = Span(NOON, NOON + HOUR)

QUERY = r"""
select customer, sum(quantity) + sum(extract(epoch from took))::numeric + max(length(raw::text)) as quantity,
       max(used_at) as at, date_trunc('hour', used_at) as "window"
  from usage
 where used_at >= :start and used_at < :end and customer <> 'a\b' and not coalesce(customer = null, false)
 group by 1, 4
"""

SETTINGS = [
    ("datestyle", "German"),
    ("datestyle", "SQL, DMY"),
    ("datestyle", "Postgres, YMD"),
    ("intervalstyle", "iso_8601"),
    ("intervalstyle", "sql_standard"),
    ("timezone", "America/St_Johns"),
    ("client_encoding", "LATIN1"),
    ("client_encoding", "SQL_ASCII"),
    ("default_transaction_isolation", "serializable"),
    ("default_transaction_isolation", "read uncommitted"),
    ("default_transaction_read_only", "on"),
    ("default_transaction_deferrable", "on"),
    ("extra_float_digits", "-15"),
    ("bytea_output", "escape"),
    ("standard_conforming_strings", "off"),
    ("transform_null_equals", "on"),
    ("statement_timeout", "150"),
    ("lock_timeout", "1"),
    ("idle_in_transaction_session_timeout", "50"),
    ("transaction_timeout", "150"),
    ("cursor_tuple_fraction", "0.0001"),
    ("search_path", "tables, pg_catalog"),
]


@pytest.fixture
def usage(create_database: Callable[[str | None], str]) -> Callable[[str, str], str]:
    """Make an application database with a setting of its own; return its URL."""

    def make(name: str, value: str) -> str:
        url = create_database(None)
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("create schema tables")
            connection.execute(
                "create table tables.usage (customer text, quantity numeric, used_at timestamptz, took interval, raw bytea)"
            )
            connection.execute(f"alter database {connection.info.dbname} set search_path = tables, public")
            connection.execute(
                "insert into tables.usage values ('cus_ä', 40, %s, '1 day 2 minutes', '\\x00ff')",
                [NOON + HOUR / 2],
            )
            quoted = value if name == "search_path" else f"'{value}'"
            connection.execute(f"alter database {connection.info.dbname} set {name} = {quoted}")
        return url

    return make


EXPECTED = [Reading(NOON, "cus_ä", Decimal(40 + 86_520 + 6), NOON + HOUR / 2)]


def read(url: str) -> tuple[list[Reading], Fence | None]:
    """Read an hour, slowly enough for a timeout that is set too short, and ask how far transactions are."""
    source = Source("app", url, statement_timeout=dt.timedelta(seconds=20))
    slow = QUERY.replace("from usage", "from usage, lateral (select pg_sleep(0.2)) as slowly")
    found = [reading for batch in source.read(slow, ONE, HOUR) for reading in batch]
    return found, source.fence()


@pytest.mark.direct
@pytest.mark.parametrize(("name", "value"), SETTINGS)
def test_settings_of_a_database_change_nothing(
    usage: Callable[[str, str], str], name: str, value: str
) -> None:
    """Whatever is set there, what we rely on is set by us, within the transaction."""
    found, fence = read(usage(name, value))
    assert found == EXPECTED
    assert fence is not None
    assert fence.at.utcoffset() == dt.timedelta(0)


@pytest.mark.direct
@pytest.mark.parametrize(("name", "value"), SETTINGS)
def test_settings_change_nothing_through_a_pooler(
    usage: Callable[[str, str], str], pooler: Pooler, name: str, value: str
) -> None:
    """A session that belongs to the pooler has them too, and keeps nothing of ours."""
    url = usage(name, value)
    found, _ = read(pooler.url(url))
    assert found == EXPECTED
    with psycopg.connect(pooler.url(url), autocommit=True) as connection:
        shown = connection.execute(f"show {name}").fetchone()
    assert shown is not None
    with psycopg.connect(url, autocommit=True) as connection:
        assert connection.execute(f"show {name}").fetchone() == shown or name == "client_encoding"


@pytest.mark.direct
def test_what_another_client_left_on_a_poolers_session_changes_nothing(
    usage: Callable[[str, str], str], pooler: Pooler
) -> None:
    """It chose other tables of the same names for itself, and the pooler hands its session on to us."""
    url = usage("datestyle", "ISO")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("create schema elsewhere")
        connection.execute("create table elsewhere.usage (like tables.usage)")
    with ExitStack() as stack:
        for _ in range(
            SESSIONS
        ):  # each is in a transaction until the end: so they have all sessions there are
            connection = stack.enter_context(psycopg.connect(pooler.url(url)))
            connection.execute("set search_path = elsewhere")
    found, _ = read(pooler.url(url))
    assert found == EXPECTED


@pytest.mark.direct
def test_settings_of_a_role_change_nothing(
    usage: Callable[[str, str], str], postgres: EmbeddedPostgres
) -> None:
    """They go before those of the database."""
    url = usage("datestyle", "German")
    with psycopg.connect(url, autocommit=True) as connection:
        role = f"reader_{connection.info.dbname}"
        connection.execute(f"create role {role} login")
        connection.execute(f"grant usage on schema tables to {role}")
        connection.execute(f"grant select on tables.usage to {role}")
        for name, value in SETTINGS[:-1]:
            connection.execute(f"alter role {role} set {name} = '{value}'")
    try:
        found, _ = read(as_role(url, role))
        assert found == EXPECTED
    finally:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(f"drop owned by {role}")
            connection.execute(f"drop role {role}")


@pytest.fixture
def ascii_url(postgres: EmbeddedPostgres) -> Iterator[str]:
    """A database that knows no encoding, with text in UTF-8 and in Latin-1."""
    name = f"ascii_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(postgres.url(), autocommit=True) as connection:
        connection.execute(
            f"create database {name} encoding 'SQL_ASCII' template template0 lc_collate 'C' lc_ctype 'C'"
        )
    url = postgres.url(name)
    with psycopg.connect(url, autocommit=True, client_encoding="utf8") as connection:
        connection.execute("create table usage (customer text, quantity numeric, used_at timestamptz)")
        connection.execute("insert into usage values ('cus_ä', 40, %s)", [NOON])
    yield url
    with psycopg.connect(postgres.url(), autocommit=True) as connection:
        connection.execute(f"drop database {name} with (force)")


SIMPLE = "select customer, quantity from usage where used_at >= :start and used_at < :end"


def test_a_database_without_an_encoding_is_read_as_utf_8(ascii_url: str) -> None:
    """SQL_ASCII is what a server has that was made under the C locale; most of what is in there is UTF-8."""
    source = Source("app", ascii_url, statement_timeout=dt.timedelta(seconds=20))
    assert [reading.customer for batch in source.read(SIMPLE, ONE, HOUR) for reading in batch] == ["cus_ä"]


def test_text_that_is_not_of_the_encoding_is_refused_in_words(ascii_url: str) -> None:
    """The URL may say what the bytes are; every text is of that encoding then."""
    with psycopg.connect(ascii_url, autocommit=True) as connection:
        connection.execute(b"insert into usage values ('cus_\xe4', 1, '2026-06-01 12:10Z')")
    source = Source("app", ascii_url, statement_timeout=dt.timedelta(seconds=20))
    with pytest.raises(QueryRejected, match='invalid byte sequence for encoding "UTF8"'):
        list(source.read(SIMPLE, ONE, HOUR))
    joined = "&" if "?" in ascii_url else "?"
    latin = Source(
        "app", f"{ascii_url}{joined}client_encoding=latin1", statement_timeout=dt.timedelta(seconds=20)
    )
    found = {reading.customer for batch in latin.read(SIMPLE, ONE, HOUR) for reading in batch}
    assert "cus_ä" in found
