"""Reading a SQLite application database, and databases of a kind we know nothing about."""

import datetime as dt
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from decimal import Decimal
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from aggregator.core import query_text
from aggregator.core.model import Reading, Span
from aggregator.errors import QueryRejected, QueryTimedOut, SourceUnreachable
from aggregator.source import Shape, Source, sqlite

HOUR = dt.timedelta(hours=1)
NOON = dt.datetime(2026, 6, 1, 12, tzinfo=dt.UTC)
ONE = Span(NOON, NOON + HOUR)
TWO = Span(NOON, NOON + 2 * HOUR)
MINUTE = dt.timedelta(minutes=1)

USAGE = """
select customer, sum(quantity) as quantity -- from :start on
  from usage where created_at >= :start and created_at < :end group by 1
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the application keeps its database; the name needs quoting in a URI."""
    return tmp_path / "my app 100%?#.db"


@pytest.fixture
def app(path: Path) -> Iterator[sqlite3.Connection]:
    """The application at work on its database."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("pragma journal_mode = wal")
        connection.execute("create table usage (customer, quantity, created_at)")
        yield connection


@pytest.fixture
def source(app: sqlite3.Connection, path: Path) -> Source:
    """The database as a source."""
    return at_path(path)


def at_path(path: Path, timeout: dt.timedelta = HOUR) -> Source:
    url = sa.URL.create("sqlite", database=str(path)).render_as_string()
    return Source("app", url, statement_timeout=timeout)


def readings(source: Source, query: str, span: Span = ONE, window: dt.timedelta = HOUR) -> list[Reading]:
    return [reading for batch in source.read(query, span, window) for reading in batch]


def refusal(source: Source, query: str) -> str:
    with pytest.raises(QueryRejected) as caught:
        readings(source, query)
    return str(caught.value)


@pytest.mark.parametrize("form", ["", ".000", "Z", "+00:00"])
def test_rows_on_a_boundary_belong_to_exactly_one_window(
    source: Source, app: sqlite3.Connection, form: str
) -> None:
    """Text compares right with and without fractions or an offset behind it."""
    for time in ("12:00:00", "12:59:59", "13:00:00", "14:00:00"):
        app.execute("insert into usage values ('cus_a', 1, ?)", [f"2026-06-01 {time}{form}"])
    assert readings(source, USAGE, TWO) == [
        Reading(NOON, "cus_a", Decimal(2), None),
        Reading(NOON + HOUR, "cus_a", Decimal(1), None),
    ]


def test_all_windows_of_a_span_see_one_state(source: Source, app: sqlite3.Connection) -> None:
    """What is committed between two windows' questions is not seen by the second."""
    for hour in (12, 13):
        app.execute("insert into usage values ('cus_a', 1, ?)", [f"2026-06-01 {hour}:30:00"])
    read = source.read(USAGE, TWO, HOUR)
    assert next(read) == [Reading(NOON, "cus_a", Decimal(1), None)]
    app.execute("insert into usage values ('cus_late', 9, '2026-06-01 13:30:00')")
    assert list(read) == [[Reading(NOON + HOUR, "cus_a", Decimal(1), None)]]
    assert len(readings(source, USAGE, TWO)) == 3


def test_a_query_that_returns_window_is_asked_once(source: Source) -> None:
    """`window` may be a truncated text; a missing zone means UTC, as in SQLite's own functions."""
    query = "select :start || '/' || :end as customer, 1 as quantity, strftime('%Y-%m-%d %H:00', :start) as \"window\""
    assert readings(source, query, TWO) == [
        Reading(NOON, "2026-06-01 12:00:00/2026-06-01 14:00:00", Decimal(1), None)
    ]
    assert source.columns(query, ONE) == Shape(returns_window=True, returns_at=False)


@pytest.mark.parametrize(
    ("text", "minutes"),
    [
        ("2026-06-01 12:07:00", 7),
        ("2026-06-01T12:07:00", 7),
        ("2026-06-01 12:07", 7),
        ("2026-06-01 12:07:00.000", 7),
        ("2026-06-01T12:07:00.000000000Z", 7),
        ("2026-06-01 14:07:00+02:00", 7),
        ("2026-06-01 12", 0),
    ],
)
def test_instants_are_read_as_iso_text(source: Source, text: str, minutes: int) -> None:
    """With a blank or a T, a fraction, a Z or an offset."""
    found = readings(source, f"select 'a' as customer, 1 as quantity, '{text}' as at")
    assert found == [Reading(NOON, "a", Decimal(1), NOON + minutes * MINUTE)]


def test_a_date_is_its_midnight(source: Source) -> None:
    """`date(created_at)` names a day's window."""
    midnight = NOON.replace(hour=0)
    query = "select 'a' as customer, 1 as quantity, date(:start) as \"window\""
    assert (
        readings(source, query, Span(midnight, midnight + 24 * HOUR), 24 * HOUR)[0].window_start == midnight
    )


@pytest.mark.parametrize("value", ["1780315200", "1780315200.5"])
@pytest.mark.parametrize("column", ["at", "window"])
def test_epoch_numbers_are_refused_with_the_remedy(source: Source, value: str, column: str) -> None:
    """The query can say what they are."""
    said = refusal(source, f"select 'a' as customer, 1 as quantity, {value} as \"{column}\"")
    assert f"`{column}` holds a number" in said
    assert "datetime(column, 'unixepoch')" in said


@pytest.mark.parametrize(
    "value", ["'soon'", "'20260601'", "'2026-06-31 12:00'", "x'00'", "'2026-06-01 12:00:00 CET'"]
)
def test_what_is_no_instant_is_refused(source: Source, value: str) -> None:
    """Nothing is guessed."""
    assert "is no instant" in refusal(source, f"select 'a' as customer, 1 as quantity, {value} as at")


def test_a_window_that_is_null_is_refused(source: Source) -> None:
    """A row without a window cannot be counted anywhere."""
    assert "`window` holds NULL" in refusal(source, 'select 1 as customer, 1 as quantity, null as "window"')


@pytest.mark.parametrize("value", ["9999-12-31 23:59:59-02:00", "0001-01-01 00:00:00+02:00"])
def test_an_instant_beyond_all_calendars_is_set_aside(source: Source, value: str) -> None:
    """It voids its own row and no other."""
    found = readings(source, f"select 'a' as customer, 1 as quantity, '{value}' as at")
    assert found == [Reading(NOON, "a", None, None, f"at is out of range: {value}")]


def test_numbers_are_what_they_look_like(source: Source, app: sqlite3.Connection) -> None:
    """A REAL becomes the shortest decimal that stands for it; integers are exact."""
    for value in (7, 0.1, 2.5e-7, 1e21, 2**62):
        app.execute("insert into usage values ('a', ?, '2026-06-01 12:00:00')", [value])
    found = readings(source, "select customer, quantity from usage where created_at between :start and :end")
    assert [str(reading.quantity) for reading in found] == ["7", "0.1", "2.5E-7", "1E+21", str(2**62)]


def test_poison_rows_do_not_stop_the_others(source: Source, app: sqlite3.Connection) -> None:
    """Each is set aside with its reason; a type that turns up late is still seen."""
    app.executescript("""
        insert into usage values ('good', 1, ''), (null, 1, ''), ('', 1, ''), ('nul' || char(0), 1, '');
        insert into usage values (cast(x'ff41' as text), 1, ''), ('inf', 9e999, ''), ('none', null, '');
        insert into usage values ('huge', 1e300, ''), ('tiny', 1e-300, ''), (7, 2, '');
    """)
    found = [
        (reading.customer, reading.quantity, (reading.reason or "").split(" (")[0])
        for reading in readings(source, "select customer, quantity from usage where :start < :end")
    ]
    broken = "customer key is unusable: holds control characters or broken text"
    assert found == [
        ("good", Decimal(1), ""),
        (None, Decimal(1), "no customer"),
        (None, Decimal(1), "no customer"),
        (None, Decimal(1), broken),
        (None, Decimal(1), broken),
        ("inf", None, "quantity is Infinity"),
        ("none", None, "quantity is NULL"),
        ("huge", None, "quantity has more than 60 digits"),
        ("tiny", None, "quantity has more than 60 digits"),
        ("7", Decimal(2), ""),
    ]


def test_many_windows_are_converted_alike(
    source: Source, app: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Emptying the cache of windows changes nothing."""
    monkeypatch.setattr("aggregator.source.rows.CACHED_WINDOWS", 10)
    monkeypatch.setattr("aggregator.source.snapshot.BATCH", 7)
    for minute in range(60):
        app.execute("insert into usage values (?, 1, ?)", [minute, f"2026-06-01 12:{minute:02}:30"])
    query = 'select customer, quantity, created_at as at, created_at as "window" from usage where created_at < :end'
    found = readings(source, query, ONE, MINUTE)
    assert [reading.window_start for reading in found] == [NOON + n * MINUTE for n in range(60)]
    assert [reading.at for reading in found] == [NOON + (n + 0.5) * MINUTE for n in range(60)]


@pytest.mark.parametrize(
    "attack",
    [
        "delete from usage",
        "delete from usage returning 1 as customer, 1 as quantity",
        "insert into usage values (1, 1, 1)",
        "drop table usage",
        "pragma query_only = off",
        "pragma journal_mode = delete",
        "attach database '{other}' as other",
        "vacuum into '{other}'",
        "select 1 as customer, 1 as quantity; delete from usage",
        "commit",
        "create temp table mine as select 1",
        "reindex",
        "analyze",
    ],
)
def test_no_query_can_write(source: Source, app: sqlite3.Connection, tmp_path: Path, attack: str) -> None:
    """Neither this database nor any other file."""
    app.execute("insert into usage values ('cus_a', 1, '2026-06-01 12:00:00')")
    other = tmp_path / "other.db"
    said = refusal(source, attack.format(other=other))
    assert "may only read" in said or "cannot VACUUM" in said
    assert app.execute("select count(*) from usage").fetchall() == [(1,)]
    assert not other.exists()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.text(alphabet=":ab1_ .%-", max_size=12))
@example(":api:")
@example(" :a:b: ::a a::b:")
def test_colons_stay_what_they_are(source: Source, text: str) -> None:
    """Only `:start` and `:end` are filled in: whatever colons a text holds, the database is asked for that text."""
    [found] = readings(source, f"select 'x{text}x' as customer, 1 as quantity where :start < :end")
    assert found.customer == f"x{text}x"


def test_an_error_in_the_text_is_told_on_one_line(source: Source) -> None:
    """In the database's own words."""
    assert (
        refusal(source, "select nope\nfrom usage") == "Source app: the query is refused: no such column: nope"
    )


@pytest.mark.parametrize("rows", ["count(*)", "x"])
def test_a_slow_query_is_stopped(app: sqlite3.Connection, path: Path, rows: str) -> None:
    """SQLite has no statement timeout, so we look at the clock while it works, in its first row and in later ones."""
    query = f"""
        with recursive n(x) as (select 1 union all select x + 1 from n)
        select 'a' as customer, {rows} as quantity from n where x < 2 or x > 1000000000 or :start > :end
    """
    with pytest.raises(QueryTimedOut, match=r"may take 0\.05 s"):
        readings(at_path(path, dt.timedelta(milliseconds=50)), query)


def test_giving_up_a_read_ends_its_transaction(source: Source, app: sqlite3.Connection) -> None:
    """The application can have its database to itself again."""
    app.execute("pragma journal_mode = delete")
    query = """
        with recursive n(x) as (select 1 union all select x + 1 from n limit 20000)
        select x as customer, 1 as quantity from n
    """
    with closing(source.read(query, ONE, HOUR)) as read:  # type: ignore[type-var]
        assert len(next(read)) == 5000
        app.execute("pragma busy_timeout = 0")
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            app.execute("begin exclusive")
    app.execute("begin exclusive")


def test_a_locked_database_is_tried_again_later(
    app: sqlite3.Connection, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writer that has it to itself is no fault of the query."""
    monkeypatch.setattr(sqlite, "LOCK_SECONDS", 0)
    app.execute("pragma journal_mode = delete")
    app.execute("begin exclusive")
    with pytest.raises(SourceUnreachable, match="locked"):
        readings(at_path(path), USAGE)


def test_ping_says_why_a_database_cannot_be_read(source: Source, tmp_path: Path) -> None:
    """A missing file is named, and none is made; a file of another kind is told apart."""
    source.ping()
    missing = tmp_path / "missing.db"
    with pytest.raises(SourceUnreachable, match=f"Source app cannot be read: there is no file {missing}"):
        at_path(missing).ping()
    assert not missing.exists()
    text = tmp_path / "text.db"
    text.write_text("not a database, but long enough to be taken for one\n" * 40)
    with pytest.raises(SourceUnreachable, match="not a database"):
        at_path(text).ping()


def test_an_unknown_kind_of_database_says_what_it_cannot_promise(
    app: sqlite3.Connection, path: Path, source: Source
) -> None:
    """It is read with generic means; whoever runs it is told what those leave open."""
    sa.dialects.registry.register("otherdb", "sqlalchemy.dialects.sqlite.pysqlite", "SQLiteDialect_pysqlite")
    other = Source(
        "app", sa.URL.create("otherdb", database=str(path)).render_as_string(), statement_timeout=HOUR
    )
    assert readings(other, "select 'a' as customer, 1 as quantity") == [Reading(NOON, "a", Decimal(1), None)]
    assert "otherdb: no statement timeout is set; set one for the role." in other.cannot_promise
    assert source.cannot_promise == ()
    with pytest.raises(QueryRejected, match="has no time zone"):
        readings(other, "select 'a' as customer, 1 as quantity, '2026-06-01 12:00' as at")
    with pytest.raises(SourceUnreachable, match="no such column"):
        readings(other, "select nope as customer, 1 as quantity")


def test_a_query_is_filled_in_as_the_database_takes_it(source: Source, app: sqlite3.Connection) -> None:
    """So that it gives the same when it is pasted; of an unknown kind, with instants in UTC and no zone."""
    for customer, time in (("cus_a", "12:00:00"), ("cus_b", "12:59:59"), ("cus_a", "13:00:00")):
        app.execute("insert into usage values (?, 2, ?)", [customer, f"2026-06-01 {time}"])
    filled = source.filled(USAGE, ONE)
    assert app.execute(filled).fetchall() == [("cus_a", 2), ("cus_b", 2)]
    pasted = query_text.of_customer(filled, "cus_b").rstrip(";")
    assert app.execute(pasted).fetchall() == [("cus_b", 2)]
    other = Source("app", "oracle+oracledb://nobody@127.0.0.1:1/x", statement_timeout=HOUR)
    assert "created_at >= timestamp '2026-06-01 12:00:00' and" in other.filled(USAGE, ONE)


def test_the_rows_behind_a_customer_are_shown_up_to_a_number(source: Source, app: sqlite3.Connection) -> None:
    """With whatever columns the query has, and whether there are more; a query that writes is refused."""
    for number in range(5):
        app.execute("insert into usage values (?, ?, '2026-06-01 12:00:00')", [f"cus_{number % 2}", number])
    within = "where customer = :customer and created_at >= :start and created_at < :end"
    detail = f"select quantity, '{{\"a\":1}}' as note from usage {within}"
    assert source.rows_behind(detail, ONE, "cus_0", 2) == (
        ["quantity", "note"],
        [(0, '{"a":1}'), (2, '{"a":1}')],
        True,
    )
    assert source.rows_behind(detail, ONE, "cus_1", 2)[2] is False
    with pytest.raises(QueryRejected):
        source.rows_behind("delete from usage where customer = :customer", ONE, "cus_0", 2)
    assert app.execute("select count(*) from usage").fetchone() == (5,)


ENDLESS = """
with recursive c(n) as (select 1 union all select n + 1 from c) select 'cus_a' as customer, count(*) as quantity from c
"""


def test_closing_a_source_stops_what_it_asks(source: Source) -> None:
    """So that a process that ends does not wait for a query; and it can be asked again."""
    begun, ended = threading.Event(), []

    def ask() -> None:
        with pytest.raises((QueryTimedOut, SourceUnreachable)) as failed:
            readings(source, ENDLESS)
        ended.append(failed.value)

    reader = threading.Thread(target=ask, daemon=True)
    engine = source._engine_of(source._url)

    def note(*given: object) -> None:
        if "recursive" in str(given[2]):
            begun.set()

    sa.event.listen(engine, "before_cursor_execute", note)
    reader.start()
    assert begun.wait(30)
    source.close()
    reader.join(30)
    assert ended
    assert readings(source, "select 'cus_a' as customer, 1 as quantity")


def test_ids_that_are_used_again_are_no_cursor(tmp_path: Path) -> None:
    """SQLite deals the id of a deleted row again, unless the key says otherwise; instants are compared by the second."""
    path = tmp_path / "app.db"
    with closing(sqlite3.connect(path)) as writing:
        writing.execute("create table kept (id integer primary key autoincrement, customer text)")
        writing.execute("create table reused (id integer primary key, customer text)")
    query = "select customer, 1 as quantity, id as cursor from {} where id > :after and id <= :upto"
    source = Source("app", f"sqlite:///{path}", statement_timeout=dt.timedelta(seconds=5))
    with closing(source), source.by_cursor() as rows:
        assert rows.disordered(query.format("kept"), 0) == []
        assert "autoincrement" in rows.disordered(query.format("reused"), 0)[0]
        assert "by the second" in rows.disordered(query.format("kept"), NOON)[0]
        writers, _ = rows.writers(by_instant=False)
        assert writers is not None
        assert not writers.open
        assert rows.writers(by_instant=True)[0] is None
