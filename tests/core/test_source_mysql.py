"""Reading a MariaDB or MySQL application database: the right hours in any zone, one snapshot, and nothing touched."""

import datetime as dt
import importlib.util
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from decimal import Decimal
from functools import partial

import pytest
import sqlalchemy as sa

from aggregator.core.model import Reading, Span
from aggregator.errors import QueryRejected, QueryTimedOut, SourceError, SourceUnreachable
from aggregator.source import Shape, Source
from aggregator.source.dialects import Reading as HowToRead
from aggregator.source.mysql import MYSQL
from aggregator.source.stand_ins import Rows
from tests.mariadb import Maria
from tests.mysql import BOTH
from tests.source_reader import REPEATED, came, error_of, expected, grown, reading, rows_of_two_days

HOUR = dt.timedelta(hours=1)
MICROSECOND = dt.timedelta(microseconds=1)
NOON = dt.datetime(2026, 6, 1, 12, tzinfo=dt.UTC)
ONE = Span(NOON, NOON + HOUR)
TWO = Span(NOON, NOON + 2 * HOUR)

DRIVERS = {"mysql": "pymysql", "mysql+mysqldb": "MySQLdb", "mariadb+mariadbconnector": "mariadb"}
INSTALLED = [
    pytest.param(
        name,
        marks=pytest.mark.skipif(
            importlib.util.find_spec(module) is None,
            reason=f"{module} is not installed: `make tools` builds it where there is a compiler",
        ),
    )
    for name, module in DRIVERS.items()
]

USAGE = (
    "select customer, sum(quantity) as quantity from used where at >= :start and at < :end group by customer"
)
SLOW = "select 'cus_a' as customer, count(*) as quantity from seq_1_to_100000 a join seq_1_to_100000 b where a.seq <> b.seq"
MANY = "select concat('cus_', seq) as customer, 1 as quantity from seq_1_to_{}"


@pytest.fixture(scope="module", params=BOTH)
def server(request: pytest.FixtureRequest) -> Iterator[Maria]:
    """Each of the two, in New York's zone."""
    with request.param() as server:
        [[zone, offset]] = server.run("select @@global.time_zone, @@system_time_zone")
        assert (zone, offset) in {("SYSTEM", "EST"), ("SYSTEM", "EDT")}
        server.run(
            "use app",
            "create table used (customer varchar(40), quantity decimal(30, 6), at timestamp(6) null, written datetime(6))",
            "create table victim (a int)",
            "insert into victim values (1), (2)",
            "create table victim_myisam (a int) engine = myisam",
            "insert into victim_myisam values (1), (2)",
            *(["create sequence numbers"] if server.kind == "mariadb" else []),
            "create function writes() returns int begin insert into victim values (9); return 1; end",
            "create function writes_myisam() returns int begin insert into victim_myisam values (9); return 1; end",
            "grant execute on app.* to reader@localhost",
        )
        yield server


@pytest.fixture
def app(server: Maria) -> Iterator[Maria]:
    """The server with no usage, and whatever is set for it as it was."""
    server.run("truncate app.used")
    before = server.run("select @@global.time_zone, @@global.sql_mode, @@global.sql_select_limit")[0]
    yield server
    server.run("set global time_zone = %s, sql_mode = %s, sql_select_limit = %s", values=before)


def source_at(
    app: Maria, driver: str = "mysql", *, user: str = "reader", seconds: float = 30, zone: str | None = None
) -> Source:
    return Source(
        "app", app.url(driver, user), statement_timeout=dt.timedelta(seconds=seconds), timezone=zone
    )


def readings(source: Source, query: str, span: Span = ONE) -> list[Reading]:
    return [reading for batch in source.read(query, span, HOUR) for reading in batch]


def refusal(source: Source, query: str) -> str:
    with pytest.raises(QueryRejected) as caught:
        readings(source, query)
    return str(caught.value)


# Hours

SHAPES = {
    "one question per hour": """
        select customer, sum(quantity) as quantity from used where {} >= :start and {} < :end group by 1
    """,
    "with at": """
        select customer, sum(quantity) as quantity, max({}) as at
          from used where {} >= :start and {} < :end group by 1
    """,
    "any instant of the hour": """
        select customer, sum(quantity) as quantity, max({}) as at, min({}) as `window`
          from used where {} >= :start and {} < :end group by customer, floor(unix_timestamp({}) / 3600)
    """,
    "text with a zone": """
        select customer, sum(quantity) as quantity, date_format({}, '%Y-%m-%dT%H:00:00Z') as `window`
          from used where {} >= :start and {} < :end group by 1, 3
    """,
}


@pytest.mark.parametrize("driver", INSTALLED)
@pytest.mark.parametrize("zone", ["SYSTEM", "+05:45", "+00:00"])
def test_every_hour_is_right_in_any_zone(app: Maria, zone: str, driver: str) -> None:
    """All 144 slots over New York's repeated hour, to the last decimal, by either type of column, in every shape."""
    rows = rows_of_two_days()
    listed = [f"('{customer}', {amount}, '{at:%F %T.%f}', '{at:%F %T.%f}')" for customer, amount, at in rows]
    app.run(f"insert into app.used values {', '.join(listed)}")
    app.run("set global time_zone = %s", values=[zone])
    wanted = expected(rows)
    assert len(wanted) == 144
    for column, declared in (("at", None), ("written", "UTC")):
        for shape, query in SHAPES.items():
            found = readings(source_at(app, driver, zone=declared), query.replace("{}", column), REPEATED)
            slots = {(reading.customer, reading.window_start): reading.quantity for reading in found}
            assert slots == wanted, (column, shape)
            assert len(found) == 144


def test_a_datetime_has_no_zone_until_one_is_declared(app: Maria) -> None:
    """A TIMESTAMP is an instant without any word; the refusal says what to return on this kind of database."""
    app.run("insert into app.used values ('cus_a', 1, '2026-06-01 12:07:00', '2026-06-01 12:07:00')")
    query = "select customer, quantity, {} as at from used where {} >= :start and {} < :end"
    plain, declared = source_at(app), source_at(app, zone="UTC")
    by_instant = query.replace("{}", "at")
    assert readings(plain, by_instant) == [Reading(NOON, "cus_a", Decimal(1), NOON + dt.timedelta(minutes=7))]
    said = refusal(plain, query.replace("{}", "written"))
    assert "2026-06-01 12:07:00, which has no time zone" in said
    assert "date_format(at, '%Y-%m-%dT%H:%i:%sZ')" in said
    assert "timestamptz" not in said
    by_local = query.replace("{}", "written")
    assert readings(declared, by_local) == readings(plain, by_instant)


def test_an_instant_that_is_none_is_set_aside(app: Maria) -> None:
    """The zero date, which Python has not, makes its row unusable and no other."""
    app.run(
        "set sql_mode = ''",
        "insert into app.used values ('cus_a', 1, 0, 0), ('cus_b', 2, '2026-06-01 12:00:00', null)",
    )
    for column in ("at", "written"):
        found = readings(source_at(app, zone="UTC"), f"select customer, quantity, {column} as at from used")
        assert [each.reason for each in found] == ["at is out of range: 0000-00-00 00:00:00.000000", None]


def test_all_windows_of_a_span_see_one_state(app: Maria) -> None:
    """What is committed between two windows' questions is not seen by the second."""
    at = "'2026-06-01 {}:30:00', null"
    app.run(*(f"insert into app.used values ('cus_a', 1, {at.format(hour)})" for hour in (12, 13)))
    read = source_at(app).read(USAGE, TWO, HOUR)
    assert next(read) == [Reading(NOON, "cus_a", Decimal(1), None)]
    app.run(f"insert into app.used values ('cus_late', 9, {at.format(13)})")
    assert list(read) == [[Reading(NOON + HOUR, "cus_a", Decimal(1), None)]]
    assert len(readings(source_at(app), USAGE, TWO)) == 3


def test_the_trial_tells_types_before_there_is_a_row(app: Maria) -> None:
    """By the names that it knows: a TIMESTAMP has a zone, a DATETIME has none, and FLOAT has seven digits."""
    query = "select customer, cast(quantity as float) as quantity, at, written as `window` from used"
    with source_at(app).trying(query, HOUR) as trying:
        answer = trying.ask(ONE)
    assert answer.kinds == ("varchar", "float4", "timestamptz", "datetime")


def test_a_table_that_is_read_whole_is_named(app: Maria) -> None:
    """By its name, not by its alias; with an index none is named."""
    query = "select u.customer, 1 as quantity from used u where u.at >= :start and u.at < :end"
    with source_at(app).trying(query, HOUR) as trying:
        assert trying.read_whole(ONE) == "used"
    app.run("create index at on app.used (at)")
    try:
        with source_at(app).trying(query, HOUR) as trying:
            assert trying.read_whole(ONE) is None
    finally:
        app.run("drop index at on app.used")


@pytest.mark.parametrize("driver", INSTALLED)
def test_the_rows_behind_a_customer_are_shown(app: Maria, driver: str) -> None:
    """Whatever characters its key has; up to a number."""
    for key in ("cus_1", "o'neil \\ % :start"):
        app.run("insert into app.used values (%s, 1, '2026-06-01 12:00:00', null)", values=[key])
    detail = "select quantity, '{\"a\":1}' as note from used where customer = :customer and at >= :start and at < :end"
    source = source_at(app, driver)
    for key in ("cus_1", "o'neil \\ % :start"):
        assert source.rows_behind(detail, ONE, key, 2) == (["quantity", "note"], [(1, '{"a":1}')], False)
    assert source.rows_behind(detail, ONE, "' or 1 = 1 -- ", 2)[1] == []


# What is set for a server


def test_keys_of_fixed_length_come_without_blanks(app: Maria) -> None:
    """Also where the server pads them."""
    app.run(
        "set global sql_mode = 'PAD_CHAR_TO_FULL_LENGTH'",
        "drop table if exists app.fixed",
        "create table app.fixed (c char(20))",
    )
    app.run("insert into app.fixed values ('cus_1')")
    assert readings(source_at(app), "select c as customer, 1 as quantity from fixed")[0].customer == "cus_1"


def test_no_result_is_cut_off(app: Maria) -> None:
    """A limit that is set for the server does not hold for us."""
    app.run("set global sql_select_limit = 1")
    assert len(readings(source_at(app), MANY.format(3))) == 3


# Numbers


@pytest.mark.parametrize("driver", INSTALLED)
@pytest.mark.parametrize(
    ("number", "words"),
    [
        ("sum(cast(q as decimal(10, 2)))", "a number does not fit its type: Out of range value"),
        ("cast(sum(q) as decimal(10, 2))", "a number does not fit its type: Out of range value"),
        ("cast(sum(q) * 1e10 as unsigned)", "a number does not fit its type: Got overflow"),
        ("cast(-1 as unsigned)", "is taken for a large one"),
        ("sum('12abc')", "a text is not what it is taken for: Truncated incorrect DOUBLE value: '12abc'"),
        ("sum(cast(1 as unsigned) - cast(q as unsigned))", "BIGINT UNSIGNED value is out of range"),
        ("sum(q + 9223372036854775807)", "BIGINT value is out of range"),
    ],
)
def test_a_number_that_was_cut_to_fit_is_no_reading(app: Maria, driver: str, number: str, words: str) -> None:
    """The server only warns of most of these, and would have it that 12,345,678,901 is 99,999,999.99."""
    app.run(
        "drop table if exists app.large", "create table app.large as select cast(12345678901 as signed) as q"
    )
    if app.kind == "mysql" and "unsigned)" in number:
        words = "`unsigned` makes 18446744073709551615 of -1"
    said = refusal(source_at(app, driver), f"select 'cus_a' as customer, {number} as quantity from large")
    assert words in said, said


def test_a_server_that_keeps_no_warnings_is_refused(app: Maria) -> None:
    """MySQL lets nobody set that for a session who may only read; MariaDB does."""
    app.run("set global max_error_count = 0")
    try:
        error = error_of(lambda: readings(source_at(app), "select 'cus_a' as customer, 1 as quantity"))
    finally:
        app.run("set global max_error_count = default")
    if app.kind == "mariadb":
        assert error is None
    else:
        assert "would go unnoticed: `set persist max_error_count = 1024`" in str(error)


def test_what_is_worth_no_word_is_a_reading(app: Maria) -> None:
    """A NULL for a division by zero, and an empty text that counts as nothing, are as the query says."""
    query = "select 'cus_a' as customer, coalesce(1 / 0, 3) + coalesce(null, '') as quantity"
    assert readings(source_at(app), query)[0].quantity == 3


def test_a_warning_of_before_is_not_the_query_s(app: Maria) -> None:
    """The server's list stays as it is while no table is named; what was on it already says nothing of the next result."""
    with source_at(app).trying("select 'cus_a' as customer, 1 as quantity", HOUR) as trying:
        assert trying.sample("nowhere", "nothing") is None
        assert trying.ask(ONE).whole


def test_sums_of_integers_go_beyond_any_integer(app: Maria) -> None:
    """They are decimals, and exact."""
    query = "select 'cus_a' as customer, sum(18446744073709551615) as quantity from seq_1_to_1000"
    assert readings(source_at(app), query)[0].quantity == Decimal(18446744073709551615) * 1000


# Streams


@pytest.mark.parametrize("driver", INSTALLED)
def test_a_query_is_stopped_when_its_time_is_over(app: Maria, driver: str) -> None:
    """By the server, in every driver; what was stopped never looks like a short result."""
    for query in (SLOW, "select seq as customer, sleep(0.01) as quantity from seq_1_to_100000"):
        with pytest.raises(
            QueryTimedOut, match=r"may take 1 s .*(time exceeded\) \(1969|time exceeded \(3024)\)"
        ):
            readings(source_at(app, driver, seconds=1), query)


@pytest.mark.parametrize("driver", INSTALLED)
def test_a_stream_that_breaks_off_is_never_a_short_result(app: Maria, driver: str) -> None:
    """The session is ended in the middle: it may pass, and nothing was read."""
    read = source_at(app, driver).read(MANY.format(1_000_000), ONE, HOUR)
    next(read)
    for [number] in app.run("select id from information_schema.processlist where user = 'reader'"):
        app.run(f"kill connection {number}")
    with pytest.raises(SourceUnreachable):
        list(read)


@pytest.mark.parametrize("driver", INSTALLED)
def test_what_nobody_wants_any_more_is_stopped(app: Maria, driver: str) -> None:
    """A read that is given up fetches no rest, and leaves no query behind."""
    source = source_at(app, driver)
    endless = "select a.seq as customer, 1 as quantity from seq_1_to_1000000 a join seq_1_to_100 b"
    with closing(source.read(endless, ONE, HOUR)) as read:  # type: ignore[type-var]
        next(read)
        assert app.running() == 1
    assert came(lambda: app.running() == 0)
    assert source.columns(endless, ONE) == Shape(returns_window=False, returns_at=False)
    assert came(lambda: app.running() == 0)


@pytest.mark.parametrize("driver", INSTALLED)
def test_closing_a_source_stops_what_it_asks(app: Maria, driver: str) -> None:
    """So that a process that ends does not wait for a query, nor leaves one on the server."""
    source, ended = source_at(app, driver, seconds=300), []
    reader = threading.Thread(target=lambda: ended.append(error_of(partial(readings, source, SLOW))))
    reader.start()
    assert came(lambda: app.running() == 1)
    source.close()
    reader.join()
    assert isinstance(ended[0], QueryTimedOut)
    assert "interrupted" in str(ended[0])
    assert app.running() == 0
    assert readings(source, "select 'cus_a' as customer, 1 as quantity")


def test_rows_stream(app: Maria) -> None:
    """A hundred and twenty thousand rows take no more memory than ten thousand."""
    query = "select concat('cus_', seq) as customer, seq as quantity from seq_1_to_MANY"
    assert grown(app.url(), query, 10_000, 120_000) < 8_000


def test_an_interrupted_reader_leaves_no_query_running(app: Maria) -> None:
    """By Ctrl-C, in the middle of a query: the server is told."""
    with reading(app.url(), SLOW) as reader:
        assert came(lambda: app.running() == 1)
        reader.send_signal(signal.SIGINT)
        assert reader.stderr is not None
        said = reader.stderr.read()
    assert "KeyboardInterrupt" in said
    assert "Exception ignored" not in said
    assert app.running() == 0


# Nothing is touched

ATTACKS = [
    "select 1 as customer, 1 as quantity; delete from victim; commit",
    "delete from victim",
    "delete from victim returning a as customer, 1 as quantity",
    "delete from victim_myisam returning a as customer, 1 as quantity",
    "create table made as select 1 as customer, 1 as quantity",
    "drop table victim",
    "truncate victim_myisam",
    "set global max_connections = 7",
    "lock tables victim read",
    "call sys.version_major()",
    "select 1 as customer, 1 as quantity into outfile '/tmp/aggregator-test-outfile'",
    "select a as customer, 1 as quantity from victim lock in share mode",
    "select writes() as customer, 1 as quantity",
    "select writes_myisam() as customer, 1 as quantity",
    "select nextval(numbers) as customer, 1 as quantity",
]


@pytest.mark.parametrize("driver", INSTALLED)
@pytest.mark.parametrize("attack", ATTACKS)
def test_a_query_only_reads(app: Maria, driver: str, attack: str) -> None:
    """Even as somebody who may do anything."""
    if "nextval" in attack and app.kind == "mysql":
        pytest.skip("it has no sequences")
    before = state(app)
    said = refusal(source_at(app, driver, user="root"), attack)
    assert "is one statement and may only read: " in said
    assert state(app) == before


@pytest.mark.parametrize("driver", INSTALLED)
@pytest.mark.parametrize(
    "statement", ["delete from victim", "delete from victim_myisam", "create table made (a int)"]
)
def test_the_session_itself_is_read_only(app: Maria, driver: str, statement: str) -> None:
    """A statement that were sent all the same is refused by the server, whatever holds the table."""
    engine = MYSQL.engine(sa.make_url(app.url(driver, "root")), "aggregator")
    before = state(app)
    with engine.connect() as connection:
        MYSQL.begin(connection, HowToRead(HOUR))
        with pytest.raises(sa.exc.DBAPIError, match=r"1792|READ ONLY"):
            connection.exec_driver_sql(statement)
    assert state(app) == before


@pytest.mark.parametrize("driver", INSTALLED)
def test_a_driver_sends_one_statement_only(app: Maria, driver: str) -> None:
    """Not only the look at the text keeps a second one away."""
    engine = MYSQL.engine(sa.make_url(app.url(driver, "root")), "aggregator")
    before = state(app)
    with engine.connect() as connection, pytest.raises(sa.exc.DBAPIError, match=r"1064|syntax"):
        connection.exec_driver_sql("select 1; delete from victim_myisam")
    assert state(app) == before


def state(app: Maria) -> object:
    return [
        app.run(statement)
        for statement in (
            "select count(*) from app.victim",
            "select count(*) from app.victim_myisam",
            *(["select next_not_cached_value from app.numbers"] if app.kind == "mariadb" else []),
            "select table_name from information_schema.tables where table_schema = 'app' order by 1",
            "select @@global.max_connections",
        )
    ]


def test_a_role_that_only_reads_is_safe(app: Maria) -> None:
    """With select and execute, nothing is said; each other grant is, by a role as well, and the sentence takes it away."""
    source, to = source_at(app), "for" if app.kind == "mariadb" else "to"
    assert source.unsafe() == []
    try:
        app.run(
            "create role writers",
            "grant insert on app.victim to writers",
            "grant writers to reader@localhost",
            f"set default role writers {to} reader@localhost",
            "grant file on *.* to reader@localhost",
        )
        said = source.unsafe()
        assert len(said) == 2
        assert any("has insert on app.victim, by role writers: " in each for each in said), said
        for sentence in said:
            app.run(sentence.split("`")[1])
        assert source.unsafe() == []
    finally:
        app.run(
            f"set default role none {to} reader@localhost",
            "drop role writers",
            "revoke file on *.* from reader@localhost",
        )
    assert "may do anything on *.*" in source_at(app, user="root").unsafe()[0]


def test_tables_without_a_snapshot_are_named(app: Maria) -> None:
    """Those that the user may read: each query of a span sees another state of them."""
    [said] = source_at(app).limits()
    assert said.startswith(
        "Tables without a snapshot show what is there when each query runs: app.victim_myisam (MyISAM). "
    )


# Faults


@pytest.mark.parametrize("driver", INSTALLED)
def test_faults_are_told_apart(app: Maria, driver: str) -> None:
    """By the server's number, in its words: a mistake is not taken for trouble that passes, nor the other way round."""
    source = source_at(app, driver)
    app.run(
        "drop user if exists mute@localhost, locked@localhost",
        "create user mute@localhost",
        "create user locked@localhost identified by 'canary-7319'",
    )
    assert "Unknown column 'nope' in" in refusal(source, "select nope as customer, 1 as quantity")
    assert refusal(source, "select 'a' as customer, 1 as quantity from nowhere").endswith(
        "the query is refused: Table 'app.nowhere' doesn't exist (1146)"
    )
    assert "near 'frm used' at line 2 (1064)" in refusal(
        source, "select 1 as customer,\n1 as quantity frm used"
    )
    assert "command denied" in refusal(source, "select user as customer, 1 as quantity from mysql.user")
    away = Source("app", f"{driver}://reader@127.0.0.1:1/app", statement_timeout=HOUR)
    for other, words in (
        (source_at(app, driver, user="locked:canary-7319x"), r"Access denied .*\(1045\)"),
        (source_at(app, driver, user="mute"), r"Access denied .*\(1044\)"),
        (away, "Can't connect to"),
    ):
        with pytest.raises(SourceUnreachable, match=f"^Source app cannot be read: {words}") as caught:
            other.ping()
        assert "canary" not in str(caught.value)


@pytest.mark.parametrize(("driver", "module"), DRIVERS.items())
def test_a_driver_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, driver: str, module: str) -> None:
    """With the command that installs it."""
    source = Source("app", f"{driver}://reader@127.0.0.1:1/app", statement_timeout=HOUR)
    package = {"mysql": "'usage-aggregator[mysql]'", "mysql+mysqldb": "mysqlclient"}.get(driver, "mariadb")
    with monkeypatch.context() as without:
        for name in [module, *(name for name in sys.modules if name.startswith(f"{module}."))]:
            without.setitem(sys.modules, name, None)
        with pytest.raises(SourceUnreachable) as caught:
            source.ping()
    assert "is not installed" in str(caught.value)
    assert f"`pip install {package}`" in str(caught.value)


def test_whatever_a_driver_is_asked_with_becomes_our_error(app: Maria) -> None:
    """An option in the URL that it does not know."""
    source = Source("app", f"{app.url()}&nonsense=1", statement_timeout=HOUR)
    with pytest.raises(SourceError, match="nonsense"):
        source.ping()


# Tests of queries

TESTED = """
select used.customer, sum(quantity) as quantity, max(at) as at, date_format(at, '%Y-%m-%dT%H:00:00Z') as `window`
  from `app` . used join victim on victim.a = 1
 where at >= :start and at < :end and used.customer not in ('app.used: x', 'x\\"y')
 group by 1, 4
"""


def test_a_query_reads_rows_that_are_given(app: Maria) -> None:
    """With the types of the columns, and of the tables nothing: a TIMESTAMP is an instant, and a text is what it is."""
    app.run(
        "insert into app.used (customer, quantity, at) values ('cus_real', 1, %s)",
        values=[NOON.replace(tzinfo=None)],
    )
    rows: Rows = {
        "app.used": [
            {"customer": name, "quantity": quantity, "at": "2026-06-01 12:10:00.5"}
            for name, quantity in (("it's :start 10:00 \\", "1.000001"), ("app.used: x", 5), ('x"y', 6))
        ],
        "victim": [{"a": 1}],
    }
    with closing(source_at(app)) as source:
        [reading] = readings(source, source.over(TESTED, rows, ONE))
        assert (reading.customer, reading.quantity) == ("it's :start 10:00 \\", Decimal("1.000001"))
        assert reading.at == NOON + dt.timedelta(minutes=10, microseconds=500_000)
        assert readings(source, source.over(TESTED, {**rows, "victim": []}, ONE)) == []


def test_a_table_that_is_not_given_is_not_read(app: Maria) -> None:
    """Its plans name no tables: what the text names is gone by."""
    with closing(source_at(app)) as source, pytest.raises(QueryRejected, match="also reads victim"):
        source.over(TESTED, {"app.used": []}, ONE)


def test_a_table_is_described(app: Maria) -> None:
    """A TIMESTAMP is an instant by itself, a DATETIME is not."""
    with closing(source_at(app)) as source:
        kinds = {column.name: column.kind for column in source.shape("app.used").columns}
    assert kinds == {"customer": "text", "quantity": "number", "at": "instant", "written": "local"}
