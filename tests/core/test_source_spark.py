"""Reading from a real Spark, whose process and sessions are in other zones."""

import datetime as dt
import sys
import threading
from contextlib import closing
from decimal import Decimal
from pathlib import Path

import pytest
from click.testing import CliRunner

from aggregator.cli import cli
from aggregator.config import load
from aggregator.core.model import Reading, Span
from aggregator.errors import QueryRejected, QueryTimedOut, SourceUnreachable
from aggregator.source import Source
from aggregator.source.stand_ins import Rows
from aggregator.wiring.sources import build_source
from tests.core import duckdb_slots
from tests.postgres.test_trial import shown
from tests.source_reader import reading
from tests.spark import Spark, free_port

pytestmark = pytest.mark.xdist_group("spark")

HOUR = dt.timedelta(hours=1)
NOON = dt.datetime(2026, 6, 1, 12, tzinfo=dt.UTC)
ONE = Span(NOON, NOON + HOUR)

SHAPES = {
    "without a zone": "select customer, sum(quantity) as quantity from night where ts >= :start and ts < :end group by 1",
    "instants": "select customer, sum(quantity) as quantity from night where tz >= :start and tz < :end group by 1",
    "raw": "select customer, quantity, tz as at from night where tz >= :start and tz < :end",
    "windows": """
        select customer, sum(quantity) as quantity, max(tz) as at, date_trunc('hour', tz) as window
          from night where tz >= :start and tz < :end group by customer, date_trunc('hour', tz)
    """,
    "windows without a zone": """
        select customer, sum(quantity) as quantity, max(ts) as at, date_trunc('hour', ts) as window
          from night where ts >= :start and ts < :end group by customer, date_trunc('hour', ts)
    """,
}
"""Ways to ask for the same, with and without a zone in the column, a window and an instant."""

LONG = "select 'a' as customer, sum(sqrt(id) * pow(id, 0.3)) as quantity from range(100000000000)"
"""What would take hours."""


@pytest.fixture(scope="module")
def night(spark_server: Spark) -> Spark:
    """A server with the usage of the night in which New York's clocks go back."""
    rows = ", ".join(
        f"('{use.customer}', {use.quantity}BD, timestamp'{use.at:%Y-%m-%d %H:%M:%S.%f}Z')"
        for use in duckdb_slots.uses()
    )
    spark_server.run(
        "drop table if exists night",
        "create table night using parquet as select customer, cast(quantity as decimal(30, 6)) as quantity, tz, "
        f"cast(tz as timestamp_ntz) as ts, cast(tz as date) as day from values {rows} as given (customer, quantity, tz)",
    )
    return spark_server


def source(
    server: Spark, timeout: dt.timedelta = HOUR, timezone: str | None = None, accepts: tuple[str, ...] = ()
) -> Source:
    return Source("app", server.url, statement_timeout=timeout, timezone=timezone, accepts=accepts)


def readings(of: Source, query: str, span: Span = ONE) -> list[Reading]:
    return [reading for batch in of.read(query, span, HOUR) for reading in batch]


def refusal(of: Source, query: str, span: Span = ONE) -> str:
    with pytest.raises(QueryRejected) as caught:
        readings(of, query, span)
    return str(caught.value)


@pytest.mark.parametrize("query", [query for query in shown() if "to_date(:start)" in query])
def test_what_the_documentation_shows_is_read(night: Spark, tmp_path: Path, query: str) -> None:
    """Each query counts what there is, from a table and from files in folders by day."""
    lake = tmp_path / "usage"
    night.run(
        "drop table if exists api_usage",
        "create table api_usage using parquet as select customer as customer_id, quantity, tz as used_at, day from night",
        f"insert overwrite directory '{lake}' using parquet "
        "select customer, quantity, tz as used_at, day from night distribute by day",
    )
    span = Span(duckdb_slots.START, duckdb_slots.START + 48 * HOUR)
    found = readings(source(night), query.replace("/lake/usage", str(lake)), span)
    assert sum(each.quantity or 0 for each in found) == sum(
        use.quantity for use in duckdb_slots.uses() if use.at in span
    )


def test_every_slot_is_right_in_whatever_zone_the_server_is(night: Spark) -> None:
    """Over the hour that New York has twice, to the last digit, in each shape of query."""
    read = source(night, timezone="UTC", accepts=("several_states",))
    hours = [
        Span(duckdb_slots.START + hour * HOUR, duckdb_slots.START + (hour + 1) * HOUR)
        for hour in range(17, 20)
    ]
    expected = duckdb_slots.expected()
    slots = {f"{customer} {hour.start:%m-%d %H}" for customer in ("001", "cus_b", "cus_c") for hour in hours}
    for name, query in SHAPES.items():
        if "window" in query:
            assert duckdb_slots.slots(read, query) == expected, name
        else:
            found = duckdb_slots.slots(read, query, Span(hours[0].start, hours[-1].end))
            assert found == {slot: expected[slot] for slot in slots}, name


def test_a_day_begins_at_midnight_in_utc(night: Spark) -> None:
    """A DATE is compared with bounds as such."""
    query = "select customer, count(*) as quantity from night where day >= :start and day < :end group by 1"
    midnight = dt.datetime(2026, 11, 1, tzinfo=dt.UTC)
    day = dt.timedelta(days=1)
    found = [
        each for batch in source(night).read(query, Span(midnight, midnight + day), day) for each in batch
    ]
    assert {each.quantity for each in found} == {Decimal(54)}


def test_times_without_a_zone_need_to_be_declared(night: Spark) -> None:
    """The protocol calls both kinds of timestamps the same; Spark is asked which one it is."""
    query = "select 'a' as customer, 1 as quantity, timestamp_ntz'2026-06-01 12:30:00' as at"
    assert "has no time zone: return a TIMESTAMP (`to_utc_timestamp(at, 'UTC')`" in refusal(
        source(night), query
    )
    assert readings(source(night, timezone="UTC"), query)[0].at == NOON + HOUR / 2
    zoned = query.replace(
        "timestamp_ntz'2026-06-01 12:30:00'", "to_utc_timestamp('2026-06-01 08:30:00', 'America/New_York')"
    )
    assert readings(source(night), zoned)[0].at == NOON + HOUR / 2


def test_a_span_that_takes_several_queries_is_refused_until_that_is_accepted(night: Spark) -> None:
    """There is no snapshot, so they would see several states."""
    two = Span(NOON, NOON + 2 * HOUR)
    assert "would see several states of spark: return `window`" in refusal(
        source(night), SHAPES["instants"], two
    )
    assert readings(source(night, accepts=("several_states",)), SHAPES["instants"], two) == []


@pytest.mark.parametrize(
    "attack",
    [
        "insert into night select * from night",
        "with a as (select * from night) insert into night select * from a",
        "from night insert into night select *",
        "drop table night",
        "create table other as select 1",
        "select 'a' as customer, 1 as quantity; drop table night",
        "begin drop table night; end",
        "set spark.sql.ansi.enabled=false",
        "truncate table night",
        "cache table night",
        "add jar '/tmp/x.jar'",
        "",
    ],
)
def test_no_query_can_write(night: Spark, attack: str) -> None:
    """It is one query, or is not sent."""
    assert "is one statement and may only read" in refusal(source(night), attack)


def test_what_the_text_lets_through_is_parsed_as_a_query_before_it_is_run(
    night: Spark, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Spark's own parser has the last word: nothing that writes is a query to it."""
    before = night.run("select count(*) from night")
    monkeypatch.setattr("aggregator.source.spark_session.not_a_read", lambda _: None)
    attacks = (
        "insert into night select * from night",
        "with a as (select * from night) insert into night select * from a",
        "drop table night",
        "select 1; drop table night",
        "begin drop table night; end",
    )
    for attack in attacks:
        assert "Syntax error at or near" in refusal(source(night), attack)
    assert night.run("select count(*) from night") == before


WIDE = "select 'a' as customer, sum(cast(9e37 as decimal(38)) + id) as quantity from range(9)"
LARGE = "select 'a' as customer, sum(id + 9223372036854775000) as quantity from range(1000)"
NULLS = LARGE.replace("sum(", "try_sum(")


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("select nope\n  from night", "or function parameter with name `nope` cannot be resolved"),
        ("select 1 as customer,\n 1 as quantity\n from nowhere", "`nowhere` cannot be found"),
        ("select 1 as customer,\n 1 as quantity\n from nowhere", "(line 3)"),
        ("select 1 as quantity as customer", "Syntax error at or near 'as'"),
        ("select 'a' as customer, cast('many' as int) as quantity", "cannot be cast to"),
        ("select 'a' as customer, 1 / 0 as quantity", "[DIVIDE_BY_ZERO] Division by zero"),
        (LARGE, "sum(cast(... as decimal(38, 0)))"),
        (WIDE, "sum(cast(... as decimal(38, 0)))"),
    ],
)
def test_what_is_wrong_with_a_query_is_told_in_spark_s_words(night: Spark, query: str, said: str) -> None:
    """On one line, with the line of the query, without a stack or advice to lose what does not fit."""
    told = refusal(source(night), query)
    assert said in told
    for unwanted in ("\n", "\tat ", "java.", "org.apache", "return NULL", "ansi.enabled"):
        assert unwanted not in told


def test_a_product_keeps_its_decimal_places_or_is_refused(night: Spark) -> None:
    """By default Spark would make 0.000000 of it."""
    tiny = "cast('0.0000000001' as decimal(38, {0})) * cast('0.0000000001' as decimal(38, {0}))"
    found = readings(source(night), f"select 'a' as customer, {tiny.format(18)} as quantity")
    assert found[0].quantity == Decimal("1e-20")
    large = "cast('123456789.5' as decimal(38, 18)) * cast('123456789.5' as decimal(38, 18))"
    assert "cannot be represented as Decimal(38, 36)" in refusal(
        source(night), f"select 'a' as customer, {large} as quantity"
    )


def test_usage_that_does_not_fit_and_is_made_null_is_set_aside_by_name(night: Spark) -> None:
    """As `try_sum` makes it: it is kept, and billed to nobody."""
    found = readings(source(night), NULLS)
    assert [(each.quantity, each.reason) for each in found] == [(None, "quantity is NULL")]


def test_a_slow_query_is_stopped_on_the_server(night: Spark) -> None:
    """Before its first row, and between later ones."""
    with pytest.raises(QueryTimedOut, match="may take 1 s"):
        readings(source(night, dt.timedelta(seconds=1)), LONG)
    later = "select 'a' as customer, id as quantity from range(0, 100000000000, 1, 1000) where id < 20000 or sqrt(id) < 0"
    with pytest.raises(QueryTimedOut, match="may take 1 s"):
        readings(source(night, dt.timedelta(seconds=1)), later)
    wait_until_idle(night)


def wait_until_idle(server: Spark) -> None:
    pause = threading.Event()
    while server.running():
        pause.wait(0.05)


def test_a_source_that_is_closed_stops_what_it_reads(night: Spark) -> None:
    """On the server as well."""
    read = source(night)
    said: list[str] = []

    def ask() -> None:
        try:
            readings(read, LONG)
        except SourceUnreachable as error:
            said.append(str(error))

    reader = threading.Thread(target=ask)
    reader.start()
    while not night.running():
        reader.join(0.05)
    read.close()
    reader.join()
    assert said == ["Source app cannot be read: the source is closed"]
    wait_until_idle(night)
    read.ping()


def test_a_reader_that_is_killed_leaves_no_query_running(night: Spark) -> None:
    """Its session ends with its connection."""
    with reading(night.url, LONG) as process:
        pause = threading.Event()
        while not night.running():
            assert process.poll() is None
            pause.wait(0.05)
        process.kill()
    wait_until_idle(night)


def test_a_read_that_is_given_up_ends_on_the_server(night: Spark) -> None:
    """After its first batch; the server holds one part of a result at a time, and makes no further one."""
    rows = "select 'a' as customer, id as quantity from range(0, 100000000, 1, 1000)"
    with closing(source(night).ask(rows, ONE, HOUR)) as read:
        assert len(next(read)) == 5000
    wait_until_idle(night)


def test_trouble_that_passes_is_told_from_mistakes() -> None:
    """Nobody listens there."""
    away = Spark(free_port(), 0)
    with pytest.raises(SourceUnreachable, match="Source app cannot be read: Could not connect to any of"):
        source(away).ping()


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("spark:///default", "names its host: spark://reader@host:10000/schema"),
        ("spark://127.0.0.1/default?auth=MAGIC", "`auth` of a Spark URL is one of PLAIN"),
        ("spark://127.0.0.1/default?timeout=1", "and not `timeout`"),
    ],
)
def test_a_url_that_means_something_else_is_refused(url: str, said: str) -> None:
    """With what can be written instead."""
    with pytest.raises(SourceUnreachable, match=said):
        Source("app", url, statement_timeout=HOUR).ping()


def test_a_missing_driver_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the extra of ours."""
    monkeypatch.setitem(sys.modules, "impala", None)
    with pytest.raises(SourceUnreachable, match=r"pip install 'usage-aggregator\[spark\]'"):
        Source("app", "spark://127.0.0.1/default", statement_timeout=HOUR).ping()


def test_a_query_is_tested_on_rows_that_are_given(night: Spark) -> None:
    """They hide the table, have its types, and nothing is written."""
    rows: Rows = {"night": [{"customer": "cus_a", "quantity": "1.5", "tz": "2026-06-01T12:30:00Z"}]}
    read = source(night)
    [found] = readings(read, read.over(SHAPES["windows"], rows, ONE))
    assert found == Reading(NOON, "cus_a", Decimal("1.5"), NOON + HOUR / 2)
    assert readings(read, read.over(SHAPES["windows"], {"night": []}, ONE)) == []
    night.run("create table if not exists account (id int)")
    assert "also reads account" in refusal_of_test(
        read, "select id as customer, quantity from night, account", rows
    )


def refusal_of_test(read: Source, query: str, rows: Rows) -> str:
    with pytest.raises(QueryRejected) as caught:
        read.over(query, rows, ONE)
    return str(caught.value)


def test_a_table_is_described_to_who_begins_a_meter_over_it(night: Spark) -> None:
    """With the types that say what a column may mean."""
    shape = source(night).shape("default.night")
    assert [(each.name, each.kind) for each in shape.columns] == [
        ("customer", "text"), ("quantity", "number"), ("tz", "instant"), ("ts", "local"), ("day", "other"),
    ]  # fmt: skip
    assert source(night).quoted("per cent") == "`per cent`"
    assert (
        readings(source(night), "select '100 % :sure' as customer, 5 % 3 as quantity -- %(start)s")[
            0
        ].customer
        == "100 % :sure"
    )


@pytest.mark.parametrize("when", ["tz", "ts"])
def test_a_meter_over_a_table_reads_it(night: Spark, tmp_path: Path, when: str) -> None:
    """As `init --from-table` writes it, by an instant or a time without a zone: one query for the night, in hours of UTC."""
    path, env = tmp_path / "aggregator.yaml", {"APP_DATABASE_URL": night.url, "STRIPE_API_KEY": "sk_test_x"}
    table = ["--from-table", "default.night", "--when", when, "--config", str(path)]
    done = CliRunner().invoke(cli, ["init", *table], env=env)
    assert done.exit_code == 0, done.output
    config = load(path, env)
    [meter] = config.meters.values()
    with closing(build_source(config, "app", "test")) as read:
        assert read.columns(meter.query_text, duckdb_slots.NIGHT).returns_window
        assert duckdb_slots.slots(read, meter.query_text) == duckdb_slots.expected()
