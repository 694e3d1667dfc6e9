"""Reading a Postgres application database: what is seen, set aside and refused, and that nothing is touched."""

import datetime as dt
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from decimal import Decimal
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from aggregator.core.model import Reading, Span
from aggregator.errors import QueryRejected, QueryTimedOut, SourceError, SourceUnreachable
from aggregator.source import Shape, Source, postgres
from aggregator.source.dialects import Reading as HowToRead

pytestmark = pytest.mark.sessions

HOUR = dt.timedelta(hours=1)
NOON = dt.datetime(2026, 6, 1, 12, tzinfo=dt.UTC)
ONE = Span(NOON, NOON + HOUR)
THREE = Span(NOON, NOON + 3 * HOUR)
CANARY = "canary-7319"

USAGE = """
select customer, sum(quantity) as quantity
  from usage where created_at >= :start and created_at < :end group by 1
"""
USAGE_BY_WINDOW = """
select customer, sum(quantity) as quantity, date_trunc('hour', created_at) as "window"
  from usage where created_at >= :start and created_at < :end group by 1, 3
"""

Run = Callable[..., list[tuple[Any, ...]]]


@pytest.fixture
def run(source_url: str) -> Iterator[Run]:
    """Run a statement in the application database as somebody else, committed at once.

    Nothing is prepared: behind a pooler the next statement may come to a session that does not know of it.
    """
    with psycopg.connect(source_url, autocommit=True, prepare_threshold=None) as connection:

        def execute(statement: str, *values: object) -> list[tuple[Any, ...]]:
            cursor = connection.execute(statement, values)
            return cursor.fetchall() if cursor.description else []

        execute("create table usage (customer text, quantity numeric, created_at timestamptz)")
        yield execute


@pytest.fixture
def source(source_url: str) -> Source:
    """The application database as a source."""
    return Source("app", source_url, statement_timeout=dt.timedelta(seconds=20))


def readings(source: Source, query: str, span: Span = ONE) -> list[Reading]:
    return [reading for batch in source.read(query, span, HOUR) for reading in batch]


def refusal(source: Source, query: str, span: Span = ONE) -> str:
    with pytest.raises(QueryRejected) as caught:
        readings(source, query, span)
    return str(caught.value)


# Windows


@pytest.mark.parametrize("query", [USAGE, USAGE_BY_WINDOW])
def test_rows_on_a_boundary_belong_to_exactly_one_window(source: Source, run: Run, query: str) -> None:
    """Usage at the start counts in that window, at the end in the next, a microsecond before the end in this one."""
    for place in (THREE.start, ONE.end - dt.timedelta(microseconds=1), ONE.end, THREE.end):
        run("insert into usage values ('cus_a', 1, %s)", place)
    found = readings(source, query, THREE)
    assert sorted(found) == [
        Reading(NOON, "cus_a", Decimal(2), None),
        Reading(NOON + HOUR, "cus_a", Decimal(1), None),
    ]


def test_a_query_that_returns_window_is_asked_once(source: Source) -> None:
    """With `window`, one question covers the span; without it, each window is asked for."""
    query = "select (:end - :start)::text as customer, 1 as quantity {}"
    assert [r.customer for r in readings(source, query.format(", :start as window"), THREE)] == ["03:00:00"]
    assert [r.customer for r in readings(source, query.format(""), THREE)] == ["01:00:00"] * 3


def test_any_instant_names_its_window(source: Source) -> None:
    """A `window` column may hold the row's own instant, and a time zone of its own."""
    query = """
        select 'cus_a' as customer, 1 as quantity,
               :start + interval '61 minutes' as "window", :start + interval '1 hour' as at
    """
    assert readings(source, query, THREE) == [Reading(NOON + HOUR, "cus_a", Decimal(1), NOON + HOUR)]


@pytest.mark.parametrize("value", [":end", ":start - interval '1 us'", "'infinity'::timestamptz"])
def test_a_row_outside_of_the_span_refuses_the_query(source: Source, value: str) -> None:
    """Its WHERE clause disagrees with `:start` and `:end`, so its absences cannot be trusted either."""
    said = refusal(source, f"select 'cus_a' as customer, 1 as quantity, {value} as \"window\"")
    assert "`window` is " in said
    assert str(ONE) in said


@pytest.mark.parametrize("query_window", ["", ', :start as "window"'])
def test_a_use_outside_of_its_window_refuses_the_query(source: Source, query_window: str) -> None:
    """An event stamped with it would land in another window's bill."""
    said = refusal(source, f"select 'cus_a' as customer, 1 as quantity, :end as at {query_window}")
    assert "'cus_a'" in said
    assert "2026-06-01 13:00:00+00:00" in said
    assert str(ONE) in said


# Pieces of windows

QUARTER = dt.timedelta(minutes=15)
MINUTE = dt.timedelta(minutes=1)

ASKED = "select (:end - :start)::text as customer, extract(epoch from :start - '2026-06-01 12:00Z') / 60 as quantity {}"


def by_pieces(source: Source, query: str, span: Span, step: dt.timedelta) -> list[Reading]:
    return [reading for batch in source.read(query, span, HOUR, step=step) for reading in batch]


@pytest.mark.parametrize("column", ["", ", date_trunc('hour', :start) as \"window\""])
def test_a_window_is_asked_for_in_pieces(source: Source, column: str) -> None:
    """Consecutive pieces, none longer than the step and the last as short as need be; all belong to their window."""
    found = by_pieces(source, ASKED.format(column), ONE, 25 * MINUTE)
    assert [(r.window_start, r.customer, r.quantity) for r in found] == [
        (NOON, "00:25:00", 0),
        (NOON, "00:25:00", 25),
        (NOON, "00:10:00", 50),
    ]


def test_pieces_of_a_query_without_window_stay_inside_of_one(source: Source) -> None:
    """Nothing else says which window their rows belong to; a step longer than the window asks window by window."""
    found = by_pieces(source, ASKED.format(""), THREE, 45 * MINUTE)
    assert [(r.window_start, r.customer) for r in found] == [
        (NOON + n * HOUR, length) for n in range(3) for length in ("00:45:00", "00:15:00")
    ]
    assert [r.customer for r in by_pieces(source, ASKED.format(""), THREE, 2 * HOUR)] == ["01:00:00"] * 3


def test_pieces_of_a_query_with_window_may_cross_windows(source: Source) -> None:
    """A piece is any stretch then: each row says where it belongs, though that window began before the piece."""
    found = by_pieces(source, ASKED.format(', :start as "window"'), THREE, 90 * MINUTE)
    assert [(r.window_start, r.customer) for r in found] == [(NOON, "01:30:00"), (NOON + HOUR, "01:30:00")]


@pytest.mark.parametrize("query", [USAGE, USAGE_BY_WINDOW])
@pytest.mark.parametrize("step", [MINUTE, 7 * MINUTE, QUARTER, HOUR, 5 * HOUR])
def test_pieces_add_up_to_the_whole(source: Source, run: Run, query: str, step: dt.timedelta) -> None:
    """Usage at every edge of every piece is in exactly one of them: the sums are those of a read in one piece."""
    run(
        "insert into usage select 'cus_' || mod(n, 3), n, t from generate_series(0, 180) n, "
        "lateral (values (%s + n * interval '1 min'), (%s + (n + 1) * interval '1 min' - interval '1 us')) v(t)",
        NOON,
        NOON,
    )

    def sums(found: list[Reading]) -> dict[tuple[dt.datetime, str | None], Decimal]:
        total: dict[tuple[dt.datetime, str | None], Decimal] = {}
        for each in found:
            assert each.quantity is not None
            key = each.window_start, each.customer
            total[key] = total.get(key, Decimal(0)) + each.quantity
        return total

    whole = readings(source, query, THREE)
    assert len(whole) == 9
    assert sums(by_pieces(source, query, THREE, step)) == sums(whole)


def test_all_pieces_see_one_state(source: Source, run: Run) -> None:
    """What is committed between two pieces is not seen by the second."""
    run("insert into usage values ('cus_a', 1, %s)", NOON)
    read = source.read(USAGE, ONE, HOUR, step=QUARTER)
    assert next(read) == [Reading(NOON, "cus_a", Decimal(1), None)]
    run("insert into usage values ('cus_late', 9, %s)", NOON + 3 * QUARTER)
    assert list(read) == []


def test_all_queries_of_a_glimpse_see_one_state(source: Source, run: Run) -> None:
    """What is committed after it was opened is not in it, whichever query is asked."""
    run("insert into usage values ('cus_a', 1, %s)", NOON)
    with source.glimpse(dt.timedelta(seconds=20)) as glimpse:
        assert glimpse.fence is not None
        run("insert into usage values ('cus_a', 1, %s)", NOON)
        for query in (USAGE_BY_WINDOW, USAGE_BY_WINDOW.replace("sum(quantity)", "count(*)")):
            [[found]] = glimpse.read(query, THREE, HOUR)
            assert found == Reading(NOON, "cus_a", Decimal(1), None)


def test_a_glimpse_takes_queries_that_return_window(source: Source, run: Run) -> None:
    """What another query gave could not be told apart."""
    run("insert into usage values ('cus_a', 1, %s)", NOON)
    with (
        pytest.raises(QueryRejected, match="returned `window` before"),
        source.glimpse(dt.timedelta(seconds=20)) as glimpse,
    ):
        list(glimpse.read(USAGE, ONE, HOUR))


def test_a_slow_query_ends_a_glimpse(source: Source, run: Run) -> None:
    """It has a time limit of its own, since others wait for it."""
    run("insert into usage values ('cus_a', 1, %s)", NOON)
    slow = USAGE_BY_WINDOW.replace("from usage", "from usage, pg_sleep(20)")
    with (
        pytest.raises(QueryTimedOut, match="it may take"),
        source.glimpse(dt.timedelta(milliseconds=50)) as glimpse,
    ):
        list(glimpse.read(slow, ONE, HOUR))


def test_a_piece_too_heavy_for_the_whole_is_read(source_url: str) -> None:
    """The timeout bounds each piece, and the first question is one piece long: a window too long for it is still read."""
    slow = Source("app", source_url, statement_timeout=dt.timedelta(seconds=1))
    query = """
        select 'cus_a' as customer, 1 as quantity
         where case when :end - :start > interval '12 min' then pg_sleep(60)::text else '' end = ''
    """
    with pytest.raises(QueryTimedOut):
        readings(slow, query, THREE)
    assert len(by_pieces(slow, query, ONE, 12 * MINUTE)) == 5


@pytest.mark.parametrize(
    ("column", "said"),
    [
        ("least(:end, '2026-06-01 12:59Z') as at", "outside of the span asked for"),
        ("greatest(:start - interval '1 us', '2026-06-01 12:00Z') as at", "outside of the span asked for"),
        (":start as at, :start + interval '1 hour' as \"window\"", "`window` is "),
        (":start as at, :start - interval '1 hour' as \"window\"", "`window` is "),
    ],
)
def test_a_row_outside_of_its_piece_refuses_the_query(source: Source, column: str, said: str) -> None:
    """It would be counted in its own piece as well, though it lies in the same window."""
    query = f"select 'cus_a' as customer, 1 as quantity, {column}"
    with pytest.raises(QueryRejected, match=said):
        by_pieces(source, query, ONE, 30 * MINUTE)


def test_a_piece_is_a_minute_long_at_least(source: Source) -> None:
    """Events have their instants by the minute."""
    with pytest.raises(AssertionError, match="a minute"):
        by_pieces(source, USAGE, ONE, dt.timedelta(seconds=59))


# Columns


def test_columns_come_in_any_order_and_letter_case(source: Source) -> None:
    """Names decide, not places."""
    query = 'select :start as "At", 2 as "QUANTITY", \'cus_a\' as "Customer" where :end is not null'
    assert readings(source, query) == [Reading(NOON, "cus_a", Decimal(2), NOON)]


@pytest.mark.parametrize(
    ("columns", "fault"),
    [
        ("1 as customer, 1 as quantity, 1 as qty", "may not, `qty`"),
        ("1 as quantity", "no column `customer`"),
        ("1 as customer, 1 as amount", "`amount`"),
        ("1 as customer, 1 as quantity, 2 as quantity", "more than once"),
    ],
)
def test_other_columns_are_refused(source: Source, columns: str, fault: str) -> None:
    """The refusal lists what was found and what is known."""
    said = refusal(source, f"select {columns}")
    assert fault in said
    assert "found: " in said
    assert "known: customer, quantity, at, window" in said


def test_the_shape_is_told_from_one_row(source: Source) -> None:
    """Trying a query fetches one row: here the second would divide by zero."""
    query = "select 'cus_a' as customer, 1 / (2 - g) as quantity, :start as at from generate_series(1, 9) g"
    assert source.columns(query, ONE) == Shape(returns_window=False, returns_at=True)
    assert source.columns(
        USAGE_BY_WINDOW.replace("usage", "(values ('a', 1, now())) u(customer, quantity, created_at)"), ONE
    ) == (Shape(returns_window=True, returns_at=False))


def test_trying_a_query_finds_a_missing_time_zone(source: Source) -> None:
    """A check tells before the first pass does."""
    with pytest.raises(QueryRejected, match="has no time zone"):
        source.columns("select 'a' as customer, 1 as quantity, now()::timestamp as at", ONE)


# The user's text


def test_colons_and_percents_stay_what_they_are(source: Source) -> None:
    """Casts, slices, JSON, formats and patterns arrive as written; only :start and :end are filled in."""
    query = """
        -- from :start on
        select to_char(:start::timestamptz, 'HH24:MI :x') || ('{"paid":true,"n":7}'::jsonb ->> 'n') as customer,
               (array[1,2,3])[2:3]::int[] = '{2,3}' and 'a%b' like 'a%' as quantity
    """
    assert readings(source, f"select customer, quantity::int from ({query}) q where :end > :start") == [
        Reading(NOON, "12:00 :x7", Decimal(1), None)
    ]


def test_an_error_in_the_text_is_told_on_one_line(source: Source) -> None:
    """The database's own words, and the line of the query they are about."""
    said = refusal(source, "select 'a' as customer,\n       nope as quantity\n where :start < :end")
    assert said == 'Source app: the query is refused: column "nope" does not exist (line 2: nope as quantity)'
    assert 'relation "nowhere" does not exist' in refusal(source, "select 1 from nowhere")
    assert "NUL" in refusal(source, "select 1 as customer, 1 as quantity \0 where :start < :end")


# Values


def test_numbers_are_exact(source: Source) -> None:
    """Integers, numerics and floats become decimals; a float has the 15 digits that it surely holds."""
    query = "select 'a' as customer, {} as quantity where :start < :end"
    for text, expected in [
        ("9223372036854775807::bigint", "9223372036854775807"),
        ("12345678901234567890.000000001", "12345678901234567890.000000001"),
        ("0.1::float8", "0.1"),
        ("0.9999999999999999::float8", "1"),
        ("123456789.123457::float8", "123456789.123457"),
        ("9007199254740991::float8", "9007199254740991"),
        ("1e20::float8", "1E+20"),
        ("0.000::numeric", "0.000"),
        ("-3", "-3"),
    ]:
        assert str(readings(source, query.format(text))[0].quantity) == expected


@pytest.mark.parametrize(
    ("value", "kind"), [("true", "boolean"), ("'7'::text", "text"), ("now()", "timestamp")]
)
def test_a_quantity_that_is_no_number_refuses_the_query(source: Source, value: str, kind: str) -> None:
    """The type is named; nothing is guessed."""
    assert f"`quantity` holds {kind}" in refusal(source, f"select 'a' as customer, {value} as quantity")


def test_the_padding_of_a_char_key_is_no_part_of_it(source: Source, run: Run) -> None:
    """By the type that Postgres names, so also where a whole column is that; blanks alone are nobody."""
    run("create table padded (key char(20))")
    run("insert into padded values ('cus_1'), (''), (' b')")
    query = "select key as customer, 1 as quantity from padded where :start < :end"
    assert sorted(str(each.customer) for each in readings(source, query)) == [" b", "None", "cus_1"]
    assert readings(source, "select '  '::text as customer, 1 as quantity")[0].reason == "no customer"


def test_customers_may_be_integers_and_uuids(source: Source) -> None:
    """Keys are text to us, whatever they are there; blanks inside them are kept."""
    for value, key in [
        ("42", "42"),
        ("'6f0c8a3e-0000-4000-8000-000000000001'::uuid", "6f0c8a3e-0000-4000-8000-000000000001"),
        ("' ä\u00a0'", " ä\u00a0"),
    ]:
        assert readings(source, f"select {value} as customer, 1 as quantity")[0].customer == key


@pytest.mark.parametrize(
    ("value", "kind"), [("'x'::bytea", "bytes"), ("1.5::float8", "floating point"), ("true", "boolean")]
)
def test_other_customer_keys_refuse_the_query(source: Source, value: str, kind: str) -> None:
    """A key that two databases would write differently is no key."""
    assert f"`customer` holds {kind}" in refusal(source, f"select {value} as customer, 1 as quantity")


POISON = [
    ("null", "5", "null", (None, Decimal(5), "no customer")),
    ("''", "5", "null", (None, Decimal(5), "no customer")),
    ("E'a\\x01'", "5", ":start", (None, Decimal(5), "customer key is unusable: holds control characters")),
    ("'cus_a  '", "5", ":start", (None, Decimal(5), "customer key is unusable: blanks behind it")),
    ("repeat('x', 501)", "5", "null", (None, Decimal(5), "customer key is unusable: 501 characters long")),
    ("'cus_p'", "null", "null", ("cus_p", None, "quantity is NULL")),
    ("'cus_p'", "'NaN'", "null", ("cus_p", None, "quantity is NaN")),
    ("'cus_p'", "'-Infinity'", "null", ("cus_p", None, "quantity is -Infinity")),
    ("'cus_p'", "repeat('9', 61)::numeric", "null", ("cus_p", None, "quantity has more than 60 digits")),
    ("'cus_p'", "5", "'infinity'::timestamptz", ("cus_p", None, "at is infinite")),
    ("'cus_p'", "5", "'20000-01-01'::timestamptz", ("cus_p", None, "at is out of range")),
    (
        "null",
        "'NaN'",
        "'-infinity'::timestamptz",
        (None, None, "no customer; quantity is NaN; at is infinite"),
    ),
]


@pytest.mark.parametrize(("customer", "quantity", "at", "expected"), POISON)
def test_a_poison_row_does_not_stop_the_others(
    source: Source, customer: str, quantity: str, at: str, expected: tuple[str | None, Decimal | None, str]
) -> None:
    """It is set aside with its reason, and a thousand good rows around it go on."""
    query = f"""
        select 'cus_' || g as customer, g::numeric as quantity, :start as at from generate_series(1, 500) g
        union all select {customer}, {quantity}::numeric, {at}
        union all select 'cus_' || g, g, :start from generate_series(501, 1000) g
    """
    found = readings(source, query)
    assert found[:500] + found[501:] == [Reading(NOON, f"cus_{n}", Decimal(n), NOON) for n in range(1, 1001)]
    window_start, key, number, instant, reason, *_ = found[500]
    assert (window_start, key, number, instant) == (NOON, *expected[:2], None)
    assert reason is not None
    assert reason.startswith(expected[2])


# Time


@pytest.mark.parametrize("column", ["at", "window"])
@pytest.mark.parametrize("kind", ["timestamp", "date", "text"])
def test_an_instant_without_a_time_zone_is_refused(source: Source, column: str, kind: str) -> None:
    """Both remedies are named: a time zone in the query, or a declaration on the source."""
    said = refusal(
        source, f"select 'a' as customer, 1 as quantity, '2026-06-01 12:00'::{kind} as \"{column}\""
    )
    assert f"`{column}` holds 2026-06-01" in said
    assert "at time zone" in said
    assert "`timezone: UTC`" in said


def test_an_instant_without_a_time_zone_is_utc_where_the_source_says_so(source_url: str) -> None:
    """Declared, a timestamp counts as UTC and a date as its midnight."""
    declared = Source("app", source_url, statement_timeout=HOUR, timezone="UTC")
    midnight = NOON.replace(hour=0)
    query = """
        select 'a' as customer, 1 as quantity, '2026-06-01 05:00'::timestamp as at, '2026-06-01'::date as "window"
    """
    (batch,) = declared.read(query, Span(midnight, midnight + 24 * HOUR), 24 * HOUR)
    assert batch == [Reading(midnight, "a", Decimal(1), midnight + 5 * HOUR)]


def test_epoch_seconds_are_refused_with_the_remedy(source: Source) -> None:
    """Seconds or milliseconds: nobody can tell from the number."""
    assert "to_timestamp(" in refusal(source, "select 'a' as customer, 1 as quantity, 1780315200 as at")


def test_only_utc_can_be_declared(source_url: str) -> None:
    """A zone with summer time would make an hour a year ambiguous."""
    with pytest.raises(SourceError, match="convert"):
        Source("app", source_url, statement_timeout=HOUR, timezone="Europe/Berlin")


def test_the_session_is_in_utc_whatever_the_database_says(source: Source, run: Run) -> None:
    """A column without a time zone is compared in UTC, though the database's own zone is Tokyo."""
    run(f"alter database {run('select current_database()')[0][0]} set timezone to 'Asia/Tokyo'")
    run("create table local (at timestamp)")
    run("insert into local values ('2026-06-01 12:00'), ('2026-06-01 21:00')")
    query = """
        select current_setting('TimeZone') as customer, count(*) as quantity
          from local where at >= :start and at < :end
    """
    assert readings(source, query) == [Reading(NOON, "UTC", Decimal(1), None)]


# The transaction


def test_all_windows_of_a_span_see_one_state(source: Source, run: Run) -> None:
    """What is committed between two windows' questions is not seen by the second, and is by the next read."""
    for start in (NOON, NOON + HOUR):
        run("insert into usage values ('cus_a', 1, %s)", start)
    read = source.read(USAGE, THREE, HOUR)
    assert next(read) == [Reading(NOON, "cus_a", Decimal(1), None)]
    run("insert into usage values ('cus_late', 9, %s)", NOON + HOUR)
    assert list(read) == [[Reading(NOON + HOUR, "cus_a", Decimal(1), None)]]
    assert "cus_late" in {reading.customer for reading in readings(source, USAGE, THREE)}


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("transaction_isolation", "repeatable read"),
        ("transaction_read_only", "on"),
        ("statement_timeout", "20s"),
        ("lock_timeout", "5s"),
        ("idle_in_transaction_session_timeout", "1min"),
        ("client_connection_check_interval", "2s"),
        ("application_name", "aggregator"),
    ],
)
def test_a_read_burdens_the_database_within_limits(source: Source, setting: str, value: str) -> None:
    """It ends by itself, gives way to schema changes, and can be recognised."""
    query = f"select current_setting('{setting}') as customer, 1 as quantity"
    assert readings(source, query)[0].customer == value


def test_nothing_outlives_the_transaction(source_url: str) -> None:
    """A pooler may hand the server connection to somebody else: no setting of ours and no prepared statement is on it."""
    settings = sa.text("select name, setting from pg_settings where name !~ '^transaction_' order by 1")
    prepared = sa.text("select count(*) from pg_prepared_statements")
    engine = postgres.POSTGRES.engine(sa.make_url(source_url), "aggregator")
    with engine.connect() as connection:
        before = connection.execute(settings).all()
        connection.rollback()
        for _ in range(8):
            postgres.POSTGRES.begin(connection, HowToRead(HOUR))
            assert connection.execute(settings).all() != before
            connection.commit()
        assert connection.execute(settings).all() == before
        assert connection.scalar(prepared) == 0


def test_rows_stream_in_batches(source: Source) -> None:
    """A result is never held whole: two batches have arrived before the row that fails is computed."""
    query = "select 'cus_' || g as customer, 1 / (11000 - g) as quantity from generate_series(1, 12001) g"
    assert [len(b) for b in source.read(query.replace("11000", "13000"), ONE, HOUR)] == [5000, 5000, 2001]
    arrived: list[int] = []
    with pytest.raises(QueryRejected, match="division by zero"):
        arrived.extend(len(batch) for batch in source.read(query, ONE, HOUR))
    read = source.read(query, ONE, HOUR)
    assert [len(next(read)), len(next(read))] == [5000, 5000]
    with pytest.raises(QueryRejected):
        next(read)


SESSIONS = "from pg_stat_activity where application_name = 'aggregator' and datname = current_database()"


def comes_true(run: Run, condition: str) -> bool:
    """Ask the server until it says so, for 75 seconds at least before it counts as never.

    On a busy machine, half a minute was too little once. What these tests start would run for two minutes.
    """
    for _ in range(1_500):
        if run(f"select {condition}") == [(True,)]:
            return True
        run("select pg_sleep(0.05)")
    return False


def test_giving_up_a_read_ends_its_session(source: Source, run: Run, reached: Callable[[str], str]) -> None:
    """Closing the iterator early leaves no session behind, and none in a transaction where a pooler keeps it."""
    query = "select g as customer, 1 as quantity from generate_series(1, 20000) g"
    held = f"{SESSIONS} and state <> 'idle' and pid <> pg_backend_pid()"
    left = SESSIONS if reached is str else held
    with closing(source.read(query, ONE, HOUR)) as read:  # type: ignore[type-var]
        next(read)
        assert run(f"select count(*) {left}") == [(1,)]
    assert comes_true(run, f"count(*) = 0 {left}")


def test_a_killed_reader_leaves_no_query_running(source_url: str, run: Run) -> None:
    """The server looks after its client every two seconds."""
    program = f"""
import datetime as dt
from aggregator.core.model import Span
from aggregator.source import Source
start = dt.datetime(2026, 6, 1, tzinfo=dt.UTC)
source = Source("app", {source_url!r}, statement_timeout=dt.timedelta(minutes=5))
hour = dt.timedelta(hours=1)
list(source.read("select pg_sleep(120)::text as customer, 1 as quantity", Span(start, start + hour), hour))
"""
    with subprocess.Popen([sys.executable, "-c", program]) as reader:
        assert comes_true(run, f"count(*) = 1 {SESSIONS} and wait_event = 'PgSleep'")
        os.kill(reader.pid, signal.SIGKILL)
    assert comes_true(run, f"count(*) = 0 {SESSIONS}")


def test_several_threads_read_at_once(source: Source, run: Run) -> None:
    """Each read has a connection of its own."""
    run("insert into usage select 'cus_' || g, g, %s from generate_series(1, 6000) g", NOON)
    with ThreadPoolExecutor(4) as pool:
        totals = list(pool.map(lambda _: sum(r.quantity or 0 for r in readings(source, USAGE)), range(8)))
    assert set(totals) == {Decimal(6000 * 6001 // 2)}
    source.close()
    assert len(readings(source, USAGE)) == 6000


# Nothing is touched

ATTACKS = [
    "select 1; commit; delete from victim where :start < :end",
    "select 1 as customer, 1 as quantity where :start < :end; delete from victim",
    "select 1; rollback; begin read write; delete from victim; commit",
    "commit",
    "delete from victim",
    "delete from victim returning 1 as customer, 1 as quantity",
    "insert into victim values (2)",
    "update victim set id = 2",
    "truncate victim",
    "drop table victim",
    "set transaction read write",
    "set session characteristics as transaction read write",
    "with gone as (delete from victim returning id) select id as customer, 1 as quantity from gone",
    "select id as customer, 1 as quantity from victim for update",
    "select 1 as customer, 1 as quantity into stolen from victim",
    "create table stolen as select * from victim",
    "copy victim to program 'true'",
    "do $$ begin delete from victim; commit; end $$",
    "call erase()",
    "select erased() as customer, 1 as quantity",
    "select set_config('transaction_read_only', 'off', true) as customer, erased() as quantity",
    "explain analyze delete from victim",
    "prepare p as delete from victim",
    "lock table victim",
    "select nextval('victim_sequence') as customer, 1 as quantity",
    "select 1) to stdout; delete from victim; --",
]


@pytest.mark.parametrize("attack", ATTACKS)
def test_no_query_can_write(source: Source, run: Run, attack: str) -> None:
    """Even for a role that may write, a usage query changes nothing and gets one clear refusal."""
    run("create table victim (id int)")
    run("insert into victim values (1)")
    run("create sequence victim_sequence")
    run("create function erased() returns int language sql as 'delete from victim returning id'")
    run("create procedure erase() language plpgsql as $$ begin delete from victim; commit; end $$")
    for call in (lambda: readings(source, attack), lambda: source.columns(attack, ONE)):
        with pytest.raises(QueryRejected, match=r"^Source app: .*may only read"):
            call()
    assert run("select id from victim") == [(1,)]
    assert run("select to_regclass('stolen'), (select last_value from victim_sequence)") == [(None, 1)]


# Trouble


def test_a_slow_query_is_stopped(source_url: str) -> None:
    """By the server, at the statement timeout, and the message says what to do."""
    hasty = Source("app", source_url, statement_timeout=dt.timedelta(milliseconds=50))
    with pytest.raises(QueryTimedOut, match=r"may take 0\.05 s .*statement timeout.*an index"):
        readings(hasty, "select pg_sleep(60)::text as customer, 1 as quantity")


def test_a_locked_table_is_tried_again_later(
    source: Source, run: Run, source_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A schema change in progress is no fault of the query."""
    monkeypatch.setattr(postgres, "LOCK_SECONDS", 0.05)
    with psycopg.connect(source_url) as other:
        other.execute("lock table usage in access exclusive mode")
        with pytest.raises(SourceUnreachable, match="lock timeout"):
            readings(source, USAGE)


def test_a_lost_connection_discards_the_read(source: Source, run: Run) -> None:
    """What was yielded before is worth nothing: the iterator raises, it does not just end."""
    read = source.read("select g as customer, 1 as quantity from generate_series(1, 200000) g", ONE, HOUR)
    next(read)
    run(f"select pg_terminate_backend(pid) {SESSIONS}")
    with pytest.raises(SourceUnreachable, match="cannot be read"):
        list(read)


def test_ping_says_why_a_database_cannot_be_read(source: Source, source_url: str) -> None:
    """A reachable database is silent; others name the source and the reason."""
    source.ping()
    for url, reason in [
        ("postgres://127.0.0.1:1/app", "refused"),
        (source_url.replace("/test_", "/absent_"), "does not exist"),
        ("nosuch://host/app", "not installed"),
    ]:
        with pytest.raises(SourceUnreachable, match=f"Source app.*{reason}") as caught:
            Source("app", url, statement_timeout=HOUR).ping()
        assert "\n" not in str(caught.value)


def test_no_message_holds_the_password(source_url: str, run: Run) -> None:
    """Not on failing to connect, not on a refused query, not in a traceback, not in the repr."""
    inside = str(source_url).replace("postgres:@", f"postgres:{CANARY}@")
    assert CANARY in inside
    attempts = [
        (f"postgresql://bob:{CANARY}@127.0.0.1:1/app", "select 1"),
        (f"postgresql://127.0.0.1:1/app?password={CANARY}", "select 1"),
        (f"postgresql://bob:{CANARY}@127.0.0.1:port/app", "select 1"),
        (f"nosuch://bob:{CANARY}@host/app", "select 1"),
        (f"postgresql://bob:{CANARY}@127.0.0.1/app?nosuch=1", "select 1"),
        (inside, "select nope"),
        (inside, f"select '{CANARY}'::int as customer, 1 as quantity"),
        (inside, "select 1; select 2"),
        (inside, "select 1 as nope"),
    ]
    for url, query in attempts:
        with pytest.raises(SourceError) as caught:
            readings(Source("app", url, statement_timeout=HOUR), query)
        assert CANARY not in "".join(traceback.format_exception(caught.value))
    assert repr(Source("app", inside, statement_timeout=HOUR)) == "Source('app', postgresql)"


@pytest.mark.direct
def test_closing_a_source_stops_what_it_asks(source_url: str, run: Run) -> None:
    """So that a process that ends does not wait for a query, nor leaves one on the server; and it can be asked again."""
    source = Source("app", source_url, statement_timeout=HOUR)
    slow = "select 'cus_a' as customer, 1 as quantity, pg_sleep(600)::text as at"
    asks = "(select count(*) from pg_stat_activity where wait_event = 'PgSleep' and datname = current_database())"

    def ask() -> SourceError:
        with pytest.raises(SourceError) as failed:
            readings(source, slow)
        return failed.value

    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(ask)
        assert comes_true(run, f"{asks} = 1")
        source.close()
        assert isinstance(asked.result(), QueryTimedOut)
    assert comes_true(run, f"{asks} = 0")
    assert readings(source, "select 'cus_a' as customer, 1 as quantity")
