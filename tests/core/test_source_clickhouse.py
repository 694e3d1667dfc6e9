"""Reading ClickHouse's engine: the right hours in any zone, sums that fit, no part of a result, and nothing touched.

The engine is the real one, by chdb, behind a front of ours: see tests/clickhouse.py.
"""

import datetime as dt
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing
from decimal import Decimal, localcontext
from functools import partial
from pathlib import Path

import pytest
import sqlalchemy as sa
from click.testing import CliRunner

from aggregator.cli import cli
from aggregator.config import load
from aggregator.core.model import Reading, Span
from aggregator.errors import QueryRejected, QueryTimedOut, Rejected, SourceError, SourceUnreachable
from aggregator.source import Shape, Source
from aggregator.source.clickhouse import CLICKHOUSE
from aggregator.source.clickhouse_grants import beyond_reading
from aggregator.source.dialects import Fault
from aggregator.source.stand_ins import Rows
from tests.clickhouse import ClickHouse, clickhouse
from tests.source_reader import REPEATED, Row, came, error_of, expected, grown, reading, rows_of_two_days

pytestmark = pytest.mark.xdist_group("clickhouse")

HOUR = dt.timedelta(hours=1)
MICROSECOND = dt.timedelta(microseconds=1)
NOON = dt.datetime(2026, 6, 1, 12, tzinfo=dt.UTC)
ONE = Span(NOON, NOON + HOUR)
TWO = Span(NOON, NOON + 2 * HOUR)

SLOW = "select 'cus_a' as customer, sum(toInt128(sipHash64(number))) as quantity from numbers(1000000000000)"
ENDLESS = "select toString(number) as customer, 1 as quantity from numbers(1000000000000)"
MANY = "select concat('cus_', toString(number)) as customer, number as quantity from numbers({})"


@pytest.fixture(scope="module")
def server() -> Iterator[ClickHouse]:
    """The engine, with sessions that begin in New York, and two days of usage."""
    with clickhouse() as server:
        assert server.run("select timezone(), serverTimezone()", session_timezone="") == [
            ["America/New_York"] * 2
        ]
        server.run(
            """
            create table used (
                customer String, quantity Decimal(30, 6), instant DateTime64(6), seconds DateTime,
                ny DateTime64(6, 'America/New_York'), ny_seconds DateTime('America/New_York'),
                kathmandu DateTime64(9, 'Asia/Kathmandu'), utc DateTime64(6, 'UTC'), day Date
            ) engine = MergeTree order by utc partition by toYYYYMM(utc)
            """,
            "insert into used select customer, quantity, at, at, at, at, at, at, at from values("
            "'customer String, quantity Decimal(30, 6), at DateTime64(6, \\'UTC\\')', "
            + _values(rows_of_two_days())
            + ")",
            "create table victim (a Int32) engine = MergeTree order by a",
            "insert into victim values (1), (2)",
        )
        yield server


def source_at(
    server: ClickHouse, user: str = "reader", *, seconds: float = 60, accepts: Sequence[str] = ()
) -> Source:
    return Source("app", server.url(user), statement_timeout=dt.timedelta(seconds=seconds), accepts=accepts)


def readings(source: Source, query: str, span: Span = ONE) -> list[Reading]:
    return [reading for batch in source.read(query, span, HOUR) for reading in batch]


def refusal(source: Source, query: str, span: Span = ONE) -> str:
    with pytest.raises(QueryRejected) as caught:
        readings(source, query, span)
    return str(caught.value)


# Hours


def _values(rows: list[Row]) -> str:
    return ", ".join(
        f"('{customer}', '{amount}', '{at:%Y-%m-%d %H:%M:%S.%f}')" for customer, amount, at in rows
    )


SUM = "sum(toDecimal256(quantity, 6)) as quantity"
SHAPES = {
    "neither": "select customer, {sum} from used where {at} >= :start and {at} < :end group by 1",
    "at": "select customer, {sum}, max({at}) as at from used where {at} >= :start and {at} < :end group by 1",
    "window": """
        select customer, {sum}, toStartOfHour({at}, 'UTC') as window
          from used where {at} >= :start and {at} < :end group by 1, 3
    """,
    "window and at": """
        select customer, {sum}, max({at}) as at, toStartOfHour({at}, 'UTC') as window
          from used where {at} >= :start and {at} < :end group by 1, 4
    """,
}
COLUMNS = ("instant", "seconds", "ny", "ny_seconds", "kathmandu", "utc")


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("user", ["reader", "in_kathmandu", "in_utc"])
def test_every_hour_is_right_in_any_zone(server: ClickHouse, user: str, shape: str) -> None:
    """144 of 144, to the last digit: whatever zone the session begins in, and each kind of column has."""
    by_window = "window" in shape
    source = source_at(server, user, accepts=() if by_window else ["several_states"])
    with closing(source):
        for column in COLUMNS if by_window else COLUMNS[2:3]:
            found: dict[tuple[str, dt.datetime], Decimal] = {}
            for reading in readings(source, SHAPES[shape].format(at=column, sum=SUM), REPEATED):
                assert reading.customer is not None
                assert reading.quantity is not None
                assert (reading.customer, reading.window_start) not in found
                found[reading.customer, reading.window_start] = reading.quantity
            assert len(found) == 144
            assert found == expected(rows_of_two_days()), column


def test_an_instant_comes_back_as_it_is(server: ClickHouse) -> None:
    """Also in the hour that its column's zone has twice."""
    for column in ("instant", "ny", "kathmandu", "utc"):
        query = f"""
            select customer, quantity, {column} as at, toTimeZone({column}, 'UTC') as window
              from used where {column} >= :start and {column} < :end
        """
        found = {
            (each.customer, each.quantity, each.at) for each in readings(source_at(server), query, REPEATED)
        }
        assert found == set(rows_of_two_days()), column


def test_a_day_is_compared_as_its_midnight_in_utc(server: ClickHouse) -> None:
    """A Date has no zone, and none is made up for what comes back."""
    source = source_at(server, "in_kathmandu")
    midnight = dt.datetime(2026, 11, 1, tzinfo=dt.UTC)
    query = "select customer, count(*) as quantity from used where day >= :start and day < :end group by 1"
    assert {each.quantity for each in readings(source, query, Span(midnight, midnight + HOUR))} == {72}
    assert readings(source, query, Span(midnight + HOUR, midnight + 2 * HOUR)) == []
    said = refusal(
        source, "select customer, 1 as quantity, day as at from used", Span(midnight, midnight + HOUR)
    )
    assert "return a DateTime (`toDateTime(at, 'UTC')`)" in said


def test_a_window_that_is_cut_off_in_another_zone_is_refused(server: ClickHouse) -> None:
    """Its days are not UTC's, and in Kathmandu its hours neither: rows would be in the window before."""
    shape = "select customer, count(*) as quantity, {} as window from used where ny >= :start and ny < :end group by 1, 3"
    said = refusal(source_at(server), shape.format("toStartOfDay(ny)"), REPEATED)
    assert "`window` is made in the zone America/New_York" in said
    assert "toStartOfHour(used_at, 'UTC')" in said
    assert "Asia/Kathmandu" in refusal(source_at(server), shape.format("toStartOfHour(kathmandu)"), REPEATED)


def test_what_takes_several_queries_is_refused(server: ClickHouse) -> None:
    """Each would see another state; with `window` it is one query, and one that is accepted is asked."""
    query = SHAPES["neither"].format(at="utc", sum=SUM)
    assert "return `window`" in refusal(source_at(server), query, TWO)
    assert readings(source_at(server), query) == []
    assert readings(source_at(server, accepts=["several_states"]), query, TWO) == []


# Numbers and keys


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("UInt64", str(2**64 - 1)),
        ("Int64", str(2**63 - 1)),
        ("UInt8", "200"),
        ("Nullable(Int32)", "5"),
        ("Decimal(38, 0)", "9" * 38),
        ("Decimal(18, 6)", "1.5"),
    ],
)
def test_a_sum_that_may_go_round_is_refused(server: ClickHouse, kind: str, value: str) -> None:
    """By its type, with the cast that has room; with it the sum is right to the last digit."""
    rows = f"(select cast('{value}' as {kind}) as x union all select cast('{value}' as {kind}))"
    assert "cast what is added up" in refusal(
        source_at(server), f"select 'a' as customer, sum(x) as quantity from {rows}"
    )
    cast = f"toDecimal256(x, {kind[-2]})" if "Decimal" in kind else "toInt128(x)"
    said = refusal(source_at(server), f"select 'a' as customer, sumIf(x, x > 0) as quantity from {rows}")
    assert f"`sum({cast})`" in said
    [reading] = readings(source_at(server), f"select 'a' as customer, sum({cast}) as quantity from {rows}")
    with localcontext(prec=60):
        assert reading.quantity == 2 * Decimal(value)


def test_what_is_no_sum_needs_no_cast(server: ClickHouse) -> None:
    """A count has 64 bits, which nobody counts up to; a name or a text with `sum` in it adds nothing up."""
    for quantity in ("count(*)", "max(x)", "length('sum(x)') + 0 * max(x)"):
        query = f"select 'a' as customer, {quantity} as quantity from (select 7 as x) -- no sum(x)"
        assert len(readings(source_at(server), query)) == 1


def test_keys_arrive_as_they_are(server: ClickHouse) -> None:
    """What fills up a FixedString is no part of it. What is no text is set aside, and never another one's key."""
    keys = {
        "toFixedString('cus_a', 20)": "cus_a",
        "toLowCardinality(toNullable('cus_b'))": "cus_b",
        "cast('cus_c' as Enum8('cus_c' = 1))": "cus_c",
        "toUUID('61f0c404-5cb3-11e7-907b-a6006ad3dba0')": "61f0c404-5cb3-11e7-907b-a6006ad3dba0",
        "unhex('6375735FCEA9')": "cus_Ω",
        "toUInt64(7)": "7",
        "unhex('ff')": None,
        "''": None,
    }
    for key, meant in keys.items():
        [reading] = readings(source_at(server), f"select {key} as customer, 1 as quantity")
        assert reading.customer == meant, key


def test_a_join_without_a_match_names_nobody(server: ClickHouse) -> None:
    """It would be customer 0."""
    query = """
        select b.k as customer, count(*) as quantity
          from (select toUInt32(1) as n) a left join (select toUInt32(2) as n, toUInt32(9) as k) b on b.n = a.n group by 1
    """
    assert [(each.customer, each.reason) for each in readings(source_at(server), query)] == [
        (None, "no customer")
    ]


# Whole results


def test_a_profile_that_ends_results_early_does_not(server: ClickHouse) -> None:
    """With `break`, ten thousand rows would arrive as a few, without an error."""
    said = refusal(source_at(server, "hasty"), MANY.format(1_000_000))
    assert "TOO_MANY_ROWS" in said
    said = refusal(source_at(server, "cautious"), MANY.format(1_000_000))
    assert "may not set" in said


def test_a_query_sets_nothing_that_a_read_relies_on(server: ClickHouse) -> None:
    """Others it may set."""
    for setting in ("session_timezone = 'Asia/Kathmandu'", "max_execution_time = 1000", "join_use_nulls = 0"):
        said = refusal(source_at(server), f"select 'a' as customer, 1 as quantity settings {setting}")
        assert f"`{setting.split()[0]}` is what a read relies on" in said
    query = "select 'a' as customer, 1 as quantity -- readonly\n settings max_threads = 1"
    assert len(readings(source_at(server), query)) == 1


def test_a_user_who_may_set_nothing_is_refused(server: ClickHouse) -> None:
    """With what its profile should have; one that may only read, and set the rest, is read."""
    said = refusal(source_at(server, "locked"), "select 'a' as customer, 1 as quantity")
    assert "may not set `session_timezone`, which is America/New_York and must be UTC" in said
    assert "readonly = 2" in said
    assert len(readings(source_at(server, "only_reads"), "select 'a' as customer, 1 as quantity")) == 1


def test_a_result_without_rows_has_its_columns(server: ClickHouse) -> None:
    """The format has none then, so the server is asked for them."""
    query = SHAPES["window and at"].format(at="utc", sum=SUM)
    assert source_at(server).columns(query, Span(NOON, NOON)) == Shape(returns_window=True, returns_at=True)
    for limited in (
        "select 'a' as customer, 1 as quantity limit 0",
        "select 'a' as customer, 1 as quantity limit 0;",
    ):
        assert readings(source_at(server), limited) == []


def test_the_trial_tells_types_before_there_is_a_row(server: ClickHouse) -> None:
    """By names that it knows."""
    query = "select customer, quantity, instant as at, toFloat32(1) as window from used where utc >= :start and utc < :end"
    with source_at(server).trying(query, HOUR) as trying:
        assert trying.ask(ONE).kinds == ("varchar", "numeric", "timestamptz", "float32")


def test_a_table_that_is_read_whole_is_named(server: ClickHouse) -> None:
    """Where neither its key nor its partitions leave anything out."""
    for column, whole in (("utc", None), ("ny", "default.used")):
        query = f"select customer, quantity from used where {column} >= :start and {column} < :end"
        with source_at(server).trying(query, HOUR) as trying:
            assert trying.read_whole(REPEATED) == whole
            assert trying.sample("used", "customer") in {"cus_a", "cus_b", "cus_c"}
            assert trying.keys_more_than_once("used", "customer") == (3, "cus_a")


def test_the_rows_behind_a_customer_are_shown(server: ClickHouse) -> None:
    """With the customer bound as a value, whatever is in it."""
    query = "select :customer as who, utc, {x: 1} as m from used where customer = :customer and utc >= :start and utc < :end"
    query = query.replace("{x: 1}", "'{x: 1} %s'")
    names, rows, more = source_at(server).rows_behind(query, REPEATED, "cus_a", 2)
    assert (names, len(rows), more) == (["who", "utc", "m"], 2, True)
    assert rows[0][0] == "cus_a"
    assert rows[0][2] == "{x: 1} %s"
    assert source_at(server).rows_behind(query, REPEATED, "it's \\ 'x' {y:String}", 2)[1:] == ([], False)


def test_a_query_is_filled_in_as_clickhouse_takes_it(server: ClickHouse) -> None:
    """A literal that carries its zone: pasted anywhere, it finds the same rows."""
    source = source_at(server)
    span = Span(REPEATED.start, REPEATED.start + HOUR)
    filled = source.filled("select count() from used where ny >= :start and ny < :end", span)
    assert "toDateTime64('2026-10-31 12:00:00', 6, 'UTC')" in filled
    assert server.run(filled, session_timezone="Asia/Kathmandu") == [["9"]]


# Streams


def test_a_query_is_stopped_when_its_time_is_over(server: ClickHouse) -> None:
    """By the server; what was stopped never looks like a short result."""
    for query in (
        SLOW,
        "select number as customer, sleepEachRow(0.01) as quantity from numbers(100000) settings max_block_size = 10",
    ):
        with pytest.raises(QueryTimedOut, match=r"may take 1 s .*Timeout exceeded.*\(159\)"):
            readings(source_at(server, seconds=1), query)


def test_a_stream_that_breaks_off_is_never_a_short_result(server: ClickHouse) -> None:
    """An error behind many rows is one; a server that is gone in the middle of it, too."""
    failing = (
        "select toString(number) as customer, 1 + throwIf(number = 99999) as quantity from numbers(100000)"
    )
    assert "throwIf" in refusal(source_at(server), failing)
    with clickhouse() as other, closing(source_at(other)) as source:
        wide = ENDLESS.replace("toString(number)", "concat(toString(number), repeat('x', 400))")
        read = source.read(wide, ONE, HOUR)
        next(read)
        other.process.kill()
        other.process.wait()
        with pytest.raises(SourceUnreachable):
            list(read)


def test_what_nobody_wants_any_more_is_stopped(server: ClickHouse) -> None:
    """A read that is given up fetches no rest, and leaves no query behind."""
    source = source_at(server)
    with closing(source.read(ENDLESS, ONE, HOUR)) as read:  # type: ignore[type-var]
        next(read)
        assert server.running() == 1
    assert came(lambda: server.running() == 0)
    assert source.columns(ENDLESS, ONE) == Shape(returns_window=False, returns_at=False)
    assert came(lambda: server.running() == 0)


def test_closing_a_source_stops_what_it_asks(server: ClickHouse) -> None:
    """So that a process that ends does not wait for a query, nor leaves one on the server."""
    source, ended = source_at(server, seconds=300), []
    reader = threading.Thread(target=lambda: ended.append(error_of(partial(readings, source, SLOW))))
    reader.start()
    assert came(lambda: server.running() == 1)
    source.close()
    reader.join()
    assert isinstance(ended[0], SourceUnreachable)
    assert "the source is closed" in str(ended[0])
    assert came(lambda: server.running() == 0)
    assert len(readings(source, "select 'cus_a' as customer, 1 as quantity")) == 1


def test_a_query_that_somebody_stops_is_tried_again(server: ClickHouse) -> None:
    """It may pass by itself."""
    source, ended = source_at(server), []
    reader = threading.Thread(target=lambda: ended.append(error_of(partial(readings, source, SLOW))))
    reader.start()
    assert came(lambda: server.running() == 1)
    for [comment] in server.run(
        "select Settings['log_comment'] from system.processes"
        " where query like '%sipHash64%' and query not like '%processes%'"
    ):
        server.run(f"kill query where query_id = '{comment}'")
    reader.join()
    assert isinstance(ended[0], SourceUnreachable)
    assert "(394)" in str(ended[0])


def test_rows_stream(server: ClickHouse) -> None:
    """Twice as many rows take no more memory, once there are more than one block."""
    query = "select concat('cus_', toString(number)) as customer, number as quantity from numbers(MANY)"
    assert grown(server.url(), query, 80_000, 160_000) < 12_000


def test_an_interrupted_reader_leaves_no_query_running(server: ClickHouse) -> None:
    """By Ctrl-C, in the middle of a query: the server is told."""
    with reading(server.url(), SLOW) as reader:
        assert came(lambda: server.running() == 1)
        reader.send_signal(signal.SIGINT)
        assert reader.stderr is not None
        said = reader.stderr.read()
    assert "KeyboardInterrupt" in said
    assert came(lambda: server.running() == 0)


# Nothing is touched

ATTACKS = [
    "select 1 as customer, 1 as quantity; drop table victim",
    "select 1 as customer, 1 as quantity;; truncate table victim",
    "insert into victim select 3",
    "insert into victim select 3 as customer",
    "drop table victim",
    "truncate table victim",
    "alter table victim delete where 1",
    "optimize table victim final",
    "create table made engine = Memory as select 1 as customer, 1 as quantity",
    "set readonly = 0",
    "system flush logs",
    "kill query where 1",
    "select 1 as customer, 1 as quantity into outfile '/tmp/aggregator-test-outfile'",
    "with x as (select 1) insert into victim select 3",
    "select 1 as customer, 1 as quantity) ; drop table victim; select (1",
]


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_query_only_reads(server: ClickHouse, attack: str) -> None:
    """What is no one statement that reads is refused before it is sent, and the table is as it was."""
    with pytest.raises(QueryRejected) as caught:
        readings(source_at(server), attack)
    assert caught.value.rejected is Rejected.AS_A_WRITE
    assert server.run("select count(), sum(a) from victim") == [["2", "3"]]
    assert ["made"] not in server.run("show tables")


@pytest.mark.parametrize(
    "statement",
    ["insert into victim select 3", "truncate table victim", "create table made (a Int8) engine = Memory"],
)
def test_the_session_itself_is_read_only(server: ClickHouse, statement: str) -> None:
    """Should a write ever get that far."""
    source = source_at(server)
    with source._snapshot() as snapshot:
        client = snapshot.connection.connection.driver_connection.client  # type: ignore[union-attr]
        with pytest.raises(Exception, match=r"\(READONLY\)") as caught:
            client.command(statement)
        assert CLICKHOUSE.fault(caught.value) is Fault.NOT_A_READ
    assert server.run("select count(), sum(a) from victim") == [["2", "3"]]


GRANTS = {
    ("GRANT SELECT ON app.* TO reader",): None,
    ("GRANT SELECT(a, b) ON app.used TO reader", "GRANT SHOW DATABASES, dictGet ON *.* TO reader"): None,
    ("GRANT SELECT, INSERT ON app.* TO reader",): "INSERT on app.*",
    ("GRANT SELECT ON app.* TO reader WITH GRANT OPTION",): "GRANT OPTION on app.*",
    (
        "GRANT SELECT ON app.* TO reader",
        "GRANT FILE, URL, REMOTE, S3 ON *.* TO reader",
    ): "FILE on *.*, URL on *.*, REMOTE on *.* and 1 more",
}


@pytest.mark.parametrize("grants", GRANTS)
def test_what_a_user_may_do_beyond_reading_is_named(grants: tuple[str, ...]) -> None:
    """Nothing is said of one who may only read."""
    said, meant = list(beyond_reading("reader", grants)), GRANTS[grants]
    assert said == [] if meant is None else f"User reader has {meant}: " in said[0]


def test_grants_are_asked_of_the_server(server: ClickHouse) -> None:
    """chdb's only user may do anything."""
    [said] = source_at(server).unsafe()
    assert said.startswith("User default has ")


def test_tables_that_are_merged_later_are_named(server: ClickHouse) -> None:
    """They hold rows twice until then."""
    assert source_at(server).limits() == []
    server.run("create table events (id Int32, at DateTime) engine = ReplacingMergeTree order by id")
    [said] = source_at(server).limits()
    assert "default.events (ReplacingMergeTree)" in said
    assert "final" in said
    server.run("drop table events")


# Faults


@pytest.mark.parametrize(
    ("query", "fault", "words"),
    [
        ("select no_such_column as customer, 1 as quantity", QueryRejected, r"`no_such_column`.*\(47\)"),
        ("select customer, 1 as quantity from no_such_table", QueryRejected, r"no_such_table.*\(60\)"),
        ("select customer,\n 1 as quantity frm used", QueryRejected, r"Syntax error.*line 2.*\(62\)"),
        (
            "select customer, 1 as quantity from used where max(utc) > :start",
            QueryRejected,
            r"WHERE.*\(184\)",
        ),
        (f"{SLOW} settings max_memory_usage = 1", SourceUnreachable, r"memory limit.*\(241\)"),
    ],
)
def test_faults_are_told_apart(server: ClickHouse, query: str, fault: type[SourceError], words: str) -> None:
    """By the server's own numbers, in its own words."""
    with pytest.raises(fault, match=f"(?is){words}") as caught:
        readings(source_at(server), query)
    assert "http" not in str(caught.value)


class Coded(Exception):
    """An error as the client raises one."""

    def __init__(self, code: int | None) -> None:
        super().__init__("x")
        self.code = code


@pytest.mark.parametrize(
    ("code", "fault"),
    [
        (159, Fault.TIMED_OUT),
        (160, Fault.TIMED_OUT),
        (164, Fault.NOT_A_READ),
        *((code, Fault.REFUSED) for code in (43, 47, 60, 62, 184, 386, 395, 407, 497)),
        *((code, Fault.TRANSIENT) for code in (202, 209, 210, 241, 394, 516)),
        (None, Fault.UNEXPECTED),
    ],
)
def test_each_number_means_what_it_says(code: int | None, fault: Fault) -> None:
    """What is not known to pass by itself is the query's."""
    assert CLICKHOUSE.fault(Coded(code)) is fault


def test_a_server_that_is_away_is_tried_again(server: ClickHouse) -> None:
    """So is a login that is refused; no message has a password in it."""
    away = Source("app", "clickhouse://reader:canary@127.0.0.1:1/app", statement_timeout=HOUR)
    wrong = Source("app", server.url("keyed:canary"), statement_timeout=HOUR)
    for source in (away, wrong):
        with pytest.raises(SourceUnreachable) as caught:
            source.ping()
        assert "canary" not in str(caught.value)
    Source("app", server.url("keyed:se%3Acret%2F1"), statement_timeout=HOUR).ping()
    assert "Database nowhere does not exist" in str(
        error_of(Source("app", server.url(database="nowhere"), statement_timeout=HOUR).ping)
    )


@pytest.mark.parametrize(
    ("url", "scheme", "port"),
    [
        ("clickhouse://reader@db.internal/app", "http", 8123),
        ("clickhouse://reader@db.internal:8124/app", "http", 8124),
        ("clickhouse://reader@db.internal/app?secure=true", "https", 8443),
        ("clickhouses://reader@db.internal/app", "https", 8443),
        ("clickhousedb://reader@db.internal/app?secure=false", "http", 8123),
    ],
)
def test_a_url_says_where_it_is(url: str, scheme: str, port: int) -> None:
    """The usual ports, with TLS and without."""
    from aggregator.source.clickhouse import _arguments

    found = _arguments(sa.make_url(url))
    assert (found["interface"], found["host"], found["port"]) == (scheme, "db.internal", port)
    assert (found["username"], found["database"]) == ("reader", "app")


def test_a_url_sets_nothing_else(server: ClickHouse) -> None:
    """What it says a query means is refused by name."""
    source = Source("app", f"{server.url()}?session_timezone=Asia/Kathmandu", statement_timeout=HOUR)
    with pytest.raises(SourceError, match="and not `session_timezone`"):
        source.ping()


def test_a_driver_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the command that installs it."""
    source = Source("app", "clickhouse://reader@127.0.0.1:1/app", statement_timeout=HOUR)
    with monkeypatch.context() as without:
        for name in [
            "clickhouse_connect",
            *(name for name in sys.modules if name.startswith("clickhouse_connect.")),
        ]:
            without.setitem(sys.modules, name, None)
        with pytest.raises(SourceUnreachable) as caught:
            source.ping()
    assert "is not installed" in str(caught.value)
    assert "`pip install 'usage-aggregator[clickhouse]'`" in str(caught.value)


# Tests of queries

TESTED = """
select used.customer as customer, sum(toDecimal256(quantity, 6)) as quantity, max(utc) as at, toStartOfHour(utc) as window
  from `default` . used join victim on victim.a = 1
 where utc >= :start and utc < :end and customer not in ('default.used: x', 'x\\"y')
 group by customer, window
"""


def test_a_query_reads_rows_that_are_given(server: ClickHouse) -> None:
    """With the types of the columns, and of the tables nothing; what is left out is what its type has for nothing."""
    rows: Rows = {
        "default.used": [
            {"customer": name, "quantity": quantity, "utc": "2026-06-01T12:10:00.5Z"}
            for name, quantity in (("it's :start 10:00 \\", "1.000001"), ("default.used: x", 5), ('x"y', 6))
        ],
        "victim": [{"a": 1}],
    }
    with closing(source_at(server)) as source:
        [reading] = readings(source, source.over(TESTED, rows, ONE))
        assert (reading.customer, reading.quantity) == ("it's :start 10:00 \\", Decimal("1.000001"))
        assert reading.at == NOON + dt.timedelta(minutes=10, microseconds=500_000)
        assert readings(source, source.over(TESTED, {**rows, "victim": []}, ONE)) == []
        with pytest.raises(QueryRejected, match="also reads victim"):
            source.over(TESTED, {"default.used": []}, ONE)


def test_a_table_is_described(server: ClickHouse) -> None:
    """A DateTime is an instant by itself; its key and its partitions are what an index is elsewhere."""
    with closing(source_at(server)) as source:
        shape = source.shape("default.used")
    kinds = {column.name: column.kind for column in shape.columns}
    assert kinds == {"customer": "text", "quantity": "number", "day": "other"} | dict.fromkeys(
        COLUMNS, "instant"
    )
    assert shape.indexed == {"utc"}


def test_a_meter_over_a_table_reads_it(server: ClickHouse, tmp_path: Path) -> None:
    """As `init --from-table` writes it: the sum has room, and hours are cut off in UTC."""
    server.run(
        "create table calls (customer_id String, tokens UInt64, created_at DateTime('Asia/Kathmandu')) engine = Memory",
        f"insert into calls values ('cus_a', {2**64 - 1}, '2026-06-01 12:59:59'), ('cus_a', 1, '2026-06-01 13:00:00')",
    )
    url, path = server.url(), tmp_path / "aggregator.yaml"
    done = CliRunner().invoke(
        cli, ["init", "--from-table", "calls", "--config", str(path)], env={"APP_DATABASE_URL": url}
    )
    assert done.exit_code == 0, done.output
    config = load(path, {"APP_DATABASE_URL": url, "STRIPE_API_KEY": "sk_test_x"})
    [meter] = config.meters.values()
    begin = dt.datetime(2026, 6, 1, 7, tzinfo=dt.UTC)
    found = readings(source_at(server), meter.query_text, Span(begin, begin + HOUR))
    assert [(each.customer, each.quantity, each.window_start) for each in found] == [("cus_a", 2**64, begin)]
