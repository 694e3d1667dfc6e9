"""The trial of a query: each way of not meaning what it says is named, and what means what it says comes through silent."""

import datetime as dt
import itertools
import re
import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from textwrap import dedent

import psycopg
import pytest

from aggregator.config import starter
from aggregator.core.model import NO_GUARDS, Guards
from aggregator.errors import SinkError, SinkUnreachable, SinkUnreadable
from aggregator.runtime.embedded_postgres import EmbeddedPostgres
from aggregator.source import Source
from aggregator.trial import Finding, Kind, Register, Severity, Trial
from tests.postgres.world import HOUR, METER

NOW = dt.datetime(2026, 11, 20, 12, 34, 20, tzinfo=dt.UTC)
PLENTY = 600.0

MADE = """
create table customer (id integer primary key, stripe text, seats integer);
insert into customer select c, 'cus_' || c, 3 + c from generate_series(1, 6) c;
create table crm (account integer, stripe text);
insert into crm select id, stripe from customer union all select 2, 'cus_2';
create table doubled as select account as customer_id, stripe from crm;
create table usage (
    id bigint generated always as identity primary key, customer_id integer, used_at timestamptz, utc_at timestamp,
    paris_at timestamp, day date, quantity numeric, amount double precision, single real, price money, took interval,
    worked boolean, label text, ip text
);
insert into usage (customer_id, used_at, utc_at, paris_at, day, quantity, amount, single, price, took, worked, label, ip)
select c, t, t at time zone 'UTC', t at time zone 'Europe/Paris', (t at time zone 'UTC')::date, q, q / 10.0, q / 10.0,
       q::money, q * interval '1 second', q % 2 = 0, q::text, 'ip' || q % 3
  from generate_series(1, 6) c, generate_series(0, 700) n,
       lateral (select timestamptz '2026-11-20 12:33Z' - n * interval '7 minutes' - c * interval '11.317 seconds' as t,
                       1 + (c * 7919 + n * 104729) % 10 as q) as each;
create index on usage (used_at);
create table meter_reading (customer text, read_at timestamptz, total bigint);
insert into meter_reading
select 'cus_' || c, timestamptz '2026-11-20 12:30Z' - n * interval '20 minutes', 10000 - n * (10 + c)
  from generate_series(1, 3) c, generate_series(0, 200) n;
create table seat (customer text, created_at timestamptz, removed_at timestamptz);
insert into seat select 'cus_' || s % 4, timestamptz '2026-10-01Z' + s * interval '1 day',
       case when s % 5 = 0 then timestamptz '2026-11-01Z' + s * interval '9 hours' end from generate_series(1, 40) s;
create table idle (customer text, used_at timestamptz, quantity integer);
insert into idle
select 'cus_1', timestamptz '2026-11-12 05:00Z' + n * interval '10 minutes', 1 from generate_series(1, 50) n;
create table line (usage_id bigint, pieces integer);
insert into line select id, 1 + n from usage, generate_series(1, 2) n;
create table by_day (customer text, day date, n integer);
insert into by_day select 'cus_' || customer_id, (used_at at time zone 'UTC')::date, count(*) from usage group by 1, 2;
create table login (customer text, began_at timestamptz, ended_at timestamptz);
insert into login
select 'cus_' || n % 4, at, nullif(least(at + interval '3 hours', '2026-11-20 12:33Z'), '2026-11-20 12:33Z')
  from generate_series(1, 200) n, lateral (select timestamptz '2026-11-20 12:31Z' - n * interval '17 minutes') each (at);
create table weekly (customer text, used_at timestamptz, quantity integer);
insert into weekly
select 'cus_' || c, timestamptz '2026-11-20 12:30Z' - week * interval '7 days' - n * interval '1 hour', 10 + week
  from generate_series(1, 3) c, generate_series(0, 4) week, generate_series(0, 47) n;
insert into weekly values ('cus_2', '2026-11-19 07:10Z', 500), ('cus_9', '2026-11-19 07:20Z', 5000);
insert into weekly values (null, '2026-11-19 07:20Z', 9999);
create table nobody (customer text, used_at timestamptz, quantity integer);
"""

SUM = """
select c.stripe as customer, sum(u.quantity) as quantity, max(u.used_at) as at, date_trunc('hour', u.used_at) as "window"
  from usage u
  join customer c on c.id = u.customer_id
 where u.used_at >= :start and u.used_at < :end
 group by 1, 4
"""
PLAIN = """
select c.stripe as customer, sum(u.quantity) as quantity
  from usage u
  join customer c on c.id = u.customer_id
 where u.used_at >= :start and u.used_at < :end
 group by 1
"""
BOUNDS = "u.used_at >= :start and u.used_at < :end"
STEPS = """
select customer, sum(step) as quantity, date_trunc('hour', read_at) as "window"
  from (select customer, read_at, total - lag(total) over (partition by customer order by read_at) as step
          from meter_reading where read_at >= :start - interval '1 hour' and read_at < :end) as steps
 where read_at >= :start and step is not null
 group by 1, 3
"""
SEATS = """
select customer, count(*) as quantity from seat
 where created_at < :end and (removed_at is null or removed_at >= :end) and :start < :end
 group by 1
"""
UP_TO_NOW = """
select customer, sum(extract(epoch from coalesce(ended_at, now()) - began_at)) as quantity from login
 where began_at >= :start and began_at < :end group by 1
"""


def bounded(bounds: str, query: str = PLAIN) -> str:
    return query.replace(BOUNDS, bounds)


def of(column: str, query: str = PLAIN) -> str:
    return query.replace("sum(u.quantity)", column)


BAD: dict[str, tuple[str, Kind, Severity]] = {
    "bounds ignored": (bounded(":start < :end"), Kind.BOUNDS_IGNORED, Severity.ERROR),
    "bounds named only": (
        bounded(":start is not null and :end is not null"),
        Kind.BOUNDS_IGNORED,
        Severity.ERROR,
    ),
    "start ignored": (bounded("u.used_at < :end and :start is not null"), Kind.START_IGNORED, Severity.ERROR),
    "rounded to days": (
        bounded("u.used_at >= :start::date and u.used_at < :end::date + 1"),
        Kind.ROUNDED,
        Severity.ERROR,
    ),
    "truncated to days": (
        bounded(
            "u.used_at >= date_trunc('day', :start) and u.used_at < date_trunc('day', :end) + interval '1 day'"
        ),
        Kind.ROUNDED,
        Severity.ERROR,
    ),
    "the day of the window": (
        bounded("u.day between date(:start) and date(:end)"),
        Kind.ROUNDED,
        Severity.ERROR,
    ),
    "rounded down to days": (
        bounded("u.used_at >= date_trunc('day', :start) and u.used_at < date_trunc('day', :end)"),
        Kind.ROUNDED,
        Severity.ERROR,
    ),
    "beyond the end": (
        bounded("u.used_at >= :start and u.used_at < :end + interval '1 hour'"),
        Kind.ROUNDED,
        Severity.ERROR,
    ),
    "from before the start": (
        bounded("u.used_at >= :start::timestamptz - interval '10 minutes' and u.used_at < :end"),
        Kind.ROUNDED,
        Severity.ERROR,
    ),
    "up to the last second": (
        bounded("u.used_at between :start and :end - interval '1 second'"),
        Kind.EDGE,
        Severity.ERROR,
    ),
    "up to the last second, with at and window": (
        bounded("u.used_at between :start and :end - interval '1 second'", SUM),
        Kind.EDGE,
        Severity.ERROR,
    ),
    "between": (bounded("u.used_at between :start and :end"), Kind.EDGE, Severity.ERROR),
    "between, with at and window": (
        bounded("u.used_at between :start and :end", SUM),
        Kind.EDGE,
        Severity.ERROR,
    ),
    "up to the end": (bounded("u.used_at >= :start and u.used_at <= :end"), Kind.EDGE, Severity.ERROR),
    "from behind the start": (bounded("u.used_at > :start and u.used_at < :end"), Kind.EDGE, Severity.ERROR),
    "limit": (PLAIN + " order by 2 desc limit 3", Kind.LIMIT, Severity.ERROR),
    "limit, by windows": (SUM + " order by 4, 2 desc limit 20", Kind.LIMIT, Severity.ERROR),
    "current seats": (
        "select customer, count(*) as quantity from seat where removed_at is null and :start < :end group by 1",
        Kind.BOUNDS_IGNORED,
        Severity.ERROR,
    ),
    "current seats, created before the end": (
        (
            "select customer, count(*) as quantity from seat where removed_at is null and created_at < :end"
            " and :start < :end"
            " group by 1"
        ),
        Kind.SAME,
        Severity.ERROR,
    ),
    "seats as of the end, summed": (
        SEATS.replace("and :start < :end", "and :start <= :end"),
        Kind.STATE,
        Severity.WARNING,
    ),
    "lag without looking back": (STEPS.replace(" - interval '1 hour'", ""), Kind.DEPENDS, Severity.ERROR),
    "first to last, by window": (
        (
            "select customer, max(total) - min(total) as quantity from meter_reading"
            " where read_at >= :start and read_at < :end"
            " group by 1"
        ),
        Kind.DEPENDS,
        Severity.ERROR,
    ),
    "random": (bounded(f"{BOUNDS} and random() < 0.5"), Kind.RANDOM, Severity.ERROR),
    "random, by windows": (of("sum(u.quantity * (1 + random())::numeric)", SUM), Kind.RANDOM, Severity.ERROR),
    "up to now": (UP_TO_NOW, Kind.PRESENT, Severity.ERROR),
    "up to now, by window": (
        UP_TO_NOW.replace(" as quantity", " as quantity, date_trunc('hour', began_at) as \"window\"").replace(
            "group by 1", "group by 1, 3"
        ),
        Kind.PRESENT,
        Severity.ERROR,
    ),
    "days up to today": (
        (
            "select customer, sum(current_date - began_at::date) as quantity from login"
            " where began_at >= :start and began_at < :end group by 1"
        ),
        Kind.PRESENT,
        Severity.WARNING,
    ),
    "the age of a row": (
        (
            "select customer, sum(extract(epoch from age(began_at))) as quantity from login"
            " where began_at >= :start and began_at < :end group by 1"
        ),
        Kind.PRESENT,
        Severity.WARNING,
    ),
    "no customer at all": (
        "select null::text as customer, count(*) as quantity from usage where used_at >= :start and used_at < :end",
        Kind.UNMAPPED,
        Severity.WARNING,
    ),
    "offset": (PLAIN + " order by 2 desc offset 2", Kind.LIMIT, Severity.ERROR),
    "local times": (
        bounded("u.paris_at >= :start and u.paris_at < :end").replace(
            " as quantity", " as quantity, max(u.paris_at) as at"
        ),
        Kind.AHEAD,
        Severity.ERROR,
    ),
    "text": (of("max(u.label)"), Kind.TYPE, Severity.ERROR),
    "boolean": (of("bool_or(u.worked)"), Kind.TYPE, Severity.ERROR),
    "interval": (of("sum(u.took)"), Kind.TYPE, Severity.ERROR),
    "money": (of("sum(u.price)"), Kind.TYPE, Severity.ERROR),
    "double": (of("sum(u.amount)"), Kind.FLOAT, Severity.WARNING),
    "real": (of("sum(u.single)"), Kind.FLOAT, Severity.WARNING),
    "another id": (PLAIN.replace("c.stripe as", "c.id as"), Kind.CUSTOMER_FORM, Severity.ERROR),
    "some other ids": (
        PLAIN.replace("c.stripe as", "case when c.id = 3 then 'three' else c.stripe end as"),
        Kind.CUSTOMER_FORM,
        Severity.WARNING,
    ),
    "a customer twice": (
        PLAIN.replace("join customer c on c.id", "join crm c on c.account"),
        Kind.MULTIPLIED,
        Severity.ERROR,
    ),
    "a customer twice, by using": (
        PLAIN.replace("join customer c on c.id = u.customer_id", "join doubled c using (customer_id)"),
        Kind.MULTIPLIED,
        Severity.ERROR,
    ),
    "a sum beside lines": (
        PLAIN.replace("join customer", "join line l on l.usage_id = u.id join customer"),
        Kind.MULTIPLIED,
        Severity.ERROR,
    ),
    "lines or usage": (
        of("count(*)").replace("join customer", "join line l on l.usage_id = u.id join customer"),
        Kind.MULTIPLIED,
        Severity.WARNING,
    ),
    "grouped by more": (
        SUM.replace("group by 1, 4", "group by 1, 4, r.n").replace(
            "join customer", "join generate_series(1, 2) r (n) on true join customer"
        ),
        Kind.REPEATED,
        Severity.ERROR,
    ),
    "at outside": (
        SUM.replace("max(u.used_at)", "max(u.used_at) + interval '1 day'"),
        Kind.REFUSED,
        Severity.ERROR,
    ),
    "idle for days": (
        "select customer, sum(quantity) as quantity from idle where used_at >= :start and used_at < :end group by 1",
        Kind.NO_RECENT_ROWS,
        Severity.WARNING,
    ),
    "nothing at all": (
        "select customer, sum(quantity) as quantity from nobody where used_at >= :start and used_at < :end group by 1",
        Kind.NO_ROWS,
        Severity.WARNING,
    ),
}

GOOD: dict[str, str] = {
    "by window": SUM,
    "window by window": PLAIN,
    "rows as they are": """
select c.stripe as customer, u.quantity, u.used_at as at, u.used_at as "window"
  from usage u left join customer c on c.id = u.customer_id where u.used_at >= :start and u.used_at < :end""",
    "rows without window": "select 'cus_' || customer_id as customer, quantity, used_at as at from usage"
    " where used_at >= :start and used_at < :end",
    "different ones": of("count(distinct u.ip)"),
    "different ones, by window": of("count(distinct u.ip)", SUM),
    "the most": of("max(u.quantity)"),
    "a threshold": PLAIN + " having sum(u.quantity) > 5",
    "one tenant": "select 'cus_1' as customer, count(*) as quantity from usage where used_at >= :start and used_at < :end",
    "everybody, with zeros": """
select c.stripe as customer, count(u.id) as quantity from customer c
  left join usage u on u.customer_id = c.id and u.used_at >= :start and u.used_at < :end group by 1""",
    "steps with looking back": STEPS,
    "partitions by day": bounded(f"u.day >= :start::date and u.day <= :end::date and {BOUNDS}"),
    "up to the last microsecond": bounded("u.used_at between :start and :end - interval '1 microsecond'"),
    "cast of a bound": bounded("u.used_at >= :start::timestamptz and u.used_at < cast(:end as timestamptz)"),
    "UTC without a zone": bounded("u.utc_at >= :start at time zone 'UTC' and u.utc_at < :end at time zone 'UTC'").replace(
        " as quantity", " as quantity, max(u.utc_at at time zone 'UTC') as at"
    ),
    "local time, converted": bounded(
        "u.paris_at >= :start at time zone 'Europe/Paris' and u.paris_at < :end at time zone 'Europe/Paris'"
    ).replace(" as quantity", " as quantity, max(u.paris_at at time zone 'Europe/Paris') as at"),
    "with a common table": f"with picked as (select * from usage u where {BOUNDS}) select 'cus_' || customer_id as customer,"
    " sum(quantity) as quantity, max(used_at) as at, date_trunc('hour', used_at) as \"window\" from picked group by 1, 4",
    "several sums of a customer": SUM.replace("group by 1, 4", "group by 1, 4, u.ip"),
    "cast floats": of("sum(u.amount::numeric)", SUM),
    "words in text": PLAIN.replace("where", "where u.label <> 'limit 3 random() between' and"),
    "the lines of an order": of("sum(l.pieces)", SUM).replace(
        "join customer", "join line l on l.usage_id = u.id join customer"
    ),
    "different ones that have lines": of("count(distinct u.id)").replace(
        "join customer", "join line l on l.usage_id = u.id join customer"
    ),
    "windows made by the query": """
select 'cus_' || c as customer, count(u.id) as quantity, w as "window"
  from generate_series(:start, :end::timestamptz - interval '1 hour', interval '1 hour') w cross join generate_series(1, 6) c
  left join usage u on u.customer_id = c and u.used_at >= w and u.used_at < w + interval '1 hour' group by 1, 3""",
    "the share of what is still open": """
select customer, sum(extract(epoch from least(coalesce(ended_at, :end), :end) - greatest(began_at, :start))) as quantity
  from login where began_at < :end and coalesce(ended_at, :end) > :start group by 1""",
    "the share up to now, and no further than the end": """
select customer, sum(extract(epoch from least(coalesce(ended_at, now() + interval '99 years'), :end)
                                         - greatest(began_at, :start))) as quantity
  from login where began_at < :end and coalesce(ended_at, :end) > :start group by 1""",
    "what was there by now": bounded(f"{BOUNDS} and u.used_at <> now()"),
    "gone customers": SUM.replace("join", "left join"),
}  # fmt: skip


@pytest.fixture(scope="module")
def shop_url(postgres: EmbeddedPostgres) -> Iterator[str]:
    """An application database for all trials: they only read."""
    with made(postgres, MADE) as url:
        yield url


@pytest.fixture(scope="module")
def example_url(postgres: EmbeddedPostgres) -> Iterator[str]:
    """An application database with what our examples bill."""
    with made(postgres, SHOWN) as url:
        yield url


@contextmanager
def made(postgres: EmbeddedPostgres, tables: str) -> Iterator[str]:
    url, name = postgres.url(), f"trial_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"create database {name}".encode())
    with psycopg.connect(postgres.url(name), autocommit=True) as connection:
        connection.execute(tables.encode())
    yield postgres.url(name)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"drop database {name} with (force)".encode())


def tried(
    url: str,
    query: str,
    *,
    now: dt.datetime = NOW,
    seconds: float = PLENTY,
    latest: bool = False,
    utc: bool = True,
    window: dt.timedelta = HOUR,
    stripe: str | None = "stripe",
    guards: Guards = NO_GUARDS,
    dimensions: tuple[str, ...] = (),
) -> list[Finding]:
    source = Source("app", url, statement_timeout=dt.timedelta(seconds=60), timezone="UTC" if utc else None)
    meter = replace(METER, query=query, latest=latest, window=window, guards=guards, dimensions=dimensions)
    ticks = itertools.count(0, 0.001)
    return Trial(meter, source, seconds=seconds, elapsed=lambda: next(ticks), stripe=stripe).run(now)


WEEKLY = "select customer, sum(quantity) as quantity from weekly where used_at >= :start and used_at < :end group by 1"
WEEKLY_BY_WINDOW = (
    WEEKLY.replace("as quantity", "as quantity, date_trunc('hour', used_at) as \"window\"") + ", 3"
)


@pytest.mark.parametrize("query", [WEEKLY, WEEKLY_BY_WINDOW])
def test_guards_are_tried_out_on_past_usage(shop_url: str, query: str) -> None:
    """Against the same hours of real weeks before: who is new is held by the most of a window alone."""
    most, times, total = Decimal(1_000), Decimal(3), Decimal(30)
    guards = Guards(
        max_per_customer_window=most, max_change=times, max_total_change=total, unusual_from=Decimal(20)
    )
    found = tried(shop_url, query, guards=guards)
    assert {(each.kind, each.severity) for each in found} == {(Kind.GUARD, Severity.NOTE)}, found
    customer, change, whole = [each.text for each in found]
    assert customer.startswith(
        "`max_per_customer_window: 1000` would have held 1 event of 1 customer in the last 7d"
    )
    assert change.startswith("`max_change: 3x` would have held 1 event of 1 customer")
    assert "in 1 of 48 windows: 510 units at most" in change
    assert whole.startswith("`max_total_change: 30x` would have held nothing")
    [low] = tried(shop_url, query, guards=Guards(max_per_customer_window=Decimal(9)))
    assert (low.kind, low.severity) == (Kind.GUARD, Severity.WARNING)
    assert "`max_per_customer_window: 9` would have held 145 events of 4 customers" in low.text
    assert "in 48 of 48 windows" in low.text


def test_guards_take_what_is_left_of_the_time(shop_url: str) -> None:
    """Half of it, and say how far back they came; a meter without guards costs nothing of it."""
    [whole] = tried(shop_url, WEEKLY_BY_WINDOW, guards=Guards(max_per_customer_window=Decimal(1_000)))
    assert "in the last 7d" in whole.text
    [part] = tried(
        shop_url, WEEKLY_BY_WINDOW, guards=Guards(max_per_customer_window=Decimal(1_000)), seconds=0.3
    )
    assert "in the last 7d" not in part.text
    assert "would have held nothing in the last" in part.text or "would have held 1 event" in part.text
    assert tried(shop_url, WEEKLY_BY_WINDOW) == []


def named(url: str, query: str, kind: Kind, severity: Severity) -> None:
    """Look that a trial has the finding that belongs to a query, of the right severity, and nothing graver beside it."""
    found = tried(url, query)
    assert [each.severity for each in found if each.kind is kind] == [severity], found
    assert found[0].kind is kind, found


@pytest.mark.parametrize("name", BAD)
def test_what_a_query_does_not_mean_is_named(shop_url: str, name: str) -> None:
    """Each has the finding that belongs to it, of the right severity, and nothing graver beside it."""
    named(shop_url, *BAD[name])


@pytest.mark.parametrize("name", GOOD)
def test_a_good_query_comes_through_silent(shop_url: str, name: str) -> None:
    """A false alarm is as bad as none."""
    assert tried(shop_url, GOOD[name]) == []


@pytest.mark.parametrize("window", [dt.timedelta(minutes=5), dt.timedelta(days=1)])
def test_other_windows_come_through_silent(shop_url: str, window: dt.timedelta) -> None:
    """Windows of minutes and of days are tried as well."""
    assert tried(shop_url, PLAIN, window=window) == []
    unit = "day" if window > HOUR else "minute"
    assert tried(shop_url, SUM.replace("'hour'", f"'{unit}'"), window=window) == []


def test_a_table_of_days_has_bounds_of_days(shop_url: str) -> None:
    """Bounds of whole days are right where the windows are days; where they are hours, they overlap."""
    query = (
        "select customer, n as quantity, day::timestamp at time zone 'UTC' as at from by_day"
        " where day >= :start::date and day < :end::date"
    )
    assert tried(shop_url, query, window=dt.timedelta(days=1)) == []
    by_hours = query.replace(", day::timestamp at time zone 'UTC' as at", "")
    assert [each.kind for each in tried(shop_url, by_hours)] == [Kind.ROUNDED]


def test_seats_of_which_the_last_number_is_billed_are_no_usage(shop_url: str) -> None:
    """A state is what such a meter is for."""
    assert tried(shop_url, SEATS, latest=True) == []


# What we show others

SHOWN = """
create table account (id int primary key, stripe_customer_id text, metronome_alias text);
insert into account select c, 'cus_' || c, 'acme-' || c from generate_series(1, 5) c;
create table customer (id int primary key, stripe_customer_id text, stripe_account text);
insert into customer select c, 'cus_' || c, 'acct_' || c from generate_series(1, 5) c;
create table used as
select c, timestamptz '2026-11-20 12:33Z' - n * interval '9 minutes' - c * interval '7.3 seconds' as at
  from generate_series(1, 5) c, generate_series(0, 2000) n;
create table api_request as
select c as account_id, c as customer_id, at as created_at, at at time zone 'Europe/Paris' as local_at from used;
create table usage as select 'cus_' || c as customer, 1.5 as quantity, at as used_at from used;
create table api_usage as select 'cus_' || c as customer_id, 2.5 as quantity, at at time zone 'UTC' as used_at from used;
create table seat_use as select c as account_id, extract(minute from at)::int % 7 as user_id, at as used_at from used;
create table customers as select 'key_' || c as key, 'cus_' || c as stripe_id from generate_series(1, 5) c;
create table events as select 'key_' || c as customer, c * 1000 as bytes, at as used_at from used;
create schema app;
create table app.api_request as select 'cus_' || c as customer, 200 as status, at from used;
create table data_export as select 'cus_' || c as stripe_customer_id, at as created_at from used;
create table storage_sample as
select 'cus_' || c as stripe_customer_id, (c * 1024 ^ 3)::numeric as stored_bytes, at as sampled_at from used;
create table stored_object as select c as account_id, 123456 as bytes, at as stored_at from used;
create table spend as
select c as account_id, 'large' as model, 'input' as token_type, c as tokens, at as happened_at from used;
create table "LiteLLM_SpendLogs" as select 'cus_' || c as end_user, 'large' as model_group, '' as model, c as prompt_tokens,
    7 as completion_tokens, at at time zone 'UTC' as "startTime" from used;
create table machine as
select c as account_id, at - interval '25 minutes' as started_at, at as stopped_at from used union all
select c, timestamptz '2026-11-20 09:10Z', null from generate_series(1, 5) c;
create table pgbench_history as select 1 as tid, c as bid, c as aid, 5 as delta, at at time zone 'UTC' as mtime from used;
"""
ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```(?:sql|yaml)\n(.*?)^```", re.MULTILINE | re.DOTALL)
IN_YAML = re.compile(r"^( *)query: \|\n((?:\1 +.*\n|\n)+)", re.MULTILINE)


def shown() -> Iterator[str]:
    """Yield the queries of the documentation, the examples and the demo."""
    pages = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md"]
    blocks = [block for page in pages for block in BLOCK.findall(page.read_text())]
    files = [*(ROOT / "config").rglob("*.yaml"), ROOT / "aggregator" / "demo" / "aggregator.yaml"]
    for text in (*blocks, *(file.read_text() for file in sorted(files)), starter()):
        found = [dedent(query) for _, query in IN_YAML.findall(text)]
        yield from found or ([text] if text.lstrip().startswith("select") else [])
    yield from (file.read_text().rstrip().rstrip(";") for file in (ROOT / "config" / "queries").glob("*.sql"))


OF_OTHERS = ("strftime", "date_format", "toStartOfHour", "to_date(:start)")
"""Which words only SQLite, MySQL, ClickHouse and Spark know; tests/core tries all but the first on their own engine."""

QUERIES = sorted(
    {query for query in shown() if ":start" in query and not any(word in query for word in OF_OTHERS)}
)


@pytest.mark.parametrize("query", QUERIES)
def test_what_we_show_others_comes_through_silent(example_url: str, query: str) -> None:
    """Every query of the documentation, the examples and the demo is a good one."""
    latest = "seat_use" in query
    dimensions = tuple(name for name in ("model", "token_type") if f"as {name}" in query)
    window = dt.timedelta(days=1) if "'day'" in query or "avg(" in query else HOUR
    found = tried(example_url, query, latest=latest, window=window, stripe=None, dimensions=dimensions)
    assert [
        each for each in found if each.kind is not Kind.COMBINATIONS
    ] == []  # how many there are is always said


def test_there_are_queries_to_show() -> None:
    """The test above finds them all."""
    assert len(QUERIES) >= 15


# SQLite

LITE = """
create table customer (id integer primary key, stripe text);
insert into customer values (1, 'cus_1'), (2, 'cus_2'), (3, 'cus_3');
create table crm (account integer, stripe text);
insert into crm select id, stripe from customer union all select 2, 'cus_2';
create table usage (
    customer_id integer, used_at text, iso_at text, epoch integer, paris_at text, quantity numeric, label text
);
"""

LITE_SUM = """
select c.stripe as customer, sum(u.quantity) as quantity, max(u.used_at) as at,
       strftime('%Y-%m-%d %H:00:00', u.used_at) as "window"
  from usage u
  join customer c on c.id = u.customer_id
 where u.used_at >= :start and u.used_at < :end
 group by 1, 4
"""
LITE_PLAIN = """
select c.stripe as customer, sum(u.quantity) as quantity
  from usage u
  join customer c on c.id = u.customer_id
 where u.used_at >= :start and u.used_at < :end
 group by 1
"""

LITE_BAD: dict[str, tuple[str, Kind, Severity]] = {
    "cast of both bounds": (
        bounded("u.used_at >= cast(:start as timestamp) and u.used_at < cast(:end as timestamp)", LITE_PLAIN),
        Kind.CAST,
        Severity.ERROR,
    ),
    "cast of the start": (bounded("u.used_at >= cast(:start as timestamp) and u.used_at < :end", LITE_PLAIN), Kind.CAST,
                          Severity.ERROR),
    "cast of the end": (bounded("u.used_at >= :start and u.used_at < cast(:end as timestamptz)", LITE_PLAIN), Kind.CAST,
                        Severity.ERROR),
    "a T in the text": (bounded("u.iso_at >= :start and u.iso_at < :end", LITE_PLAIN), Kind.TEXT_TIMES, Severity.ERROR),
    "a T in the text of a part": (
        ("select customer, sum(quantity) as quantity from (select 'cus_1' as customer, quantity, iso_at as t "
        "from usage) as part"
        " where t >= :start and t < :end group by 1"),
        Kind.TEXT_TIMES,
        Severity.ERROR,
    ),
    "seconds since 1970": (bounded("u.epoch >= :start and u.epoch < :end", LITE_PLAIN), Kind.TEXT_TIMES, Severity.ERROR),
    "milliseconds since 1970": (
        bounded("u.epoch * 1000 >= :start and u.epoch * 1000 < :end", LITE_PLAIN),
        Kind.NO_ROWS,
        Severity.WARNING,
    ),
    "between": (bounded("u.used_at between :start and :end", LITE_PLAIN), Kind.EDGE, Severity.ERROR),
    "from behind the start": (bounded("u.used_at > :start and u.used_at < :end", LITE_PLAIN), Kind.EDGE, Severity.ERROR),
    "rounded to days": (
        bounded("date(u.used_at) >= date(:start) and date(u.used_at) <= date(:end)", LITE_PLAIN),
        Kind.ROUNDED,
        Severity.ERROR,
    ),
    "bounds ignored": (bounded(":start < :end", LITE_PLAIN), Kind.BOUNDS_IGNORED, Severity.ERROR),
    "start ignored": (bounded("u.used_at < :end and :start > ''", LITE_PLAIN), Kind.START_IGNORED, Severity.ERROR),
    "local times": (bounded("u.paris_at >= :start and u.paris_at < :end", LITE_PLAIN), Kind.AHEAD, Severity.ERROR),
    "random": (bounded(f"{BOUNDS} and random() % 2 = 0", LITE_PLAIN), Kind.RANDOM, Severity.ERROR),
    "text": (LITE_PLAIN.replace("sum(u.quantity)", "max(u.label)"), Kind.REFUSED, Severity.ERROR),
    "another id": (LITE_PLAIN.replace("c.stripe as", "c.id as"), Kind.CUSTOMER_FORM, Severity.ERROR),
    "a customer twice": (
        LITE_PLAIN.replace("join customer c on c.id", "join crm c on c.account"), Kind.MULTIPLIED, Severity.ERROR
    ),
    "limit": (LITE_PLAIN + " limit 2", Kind.LIMIT, Severity.ERROR),
}  # fmt: skip

LITE_GOOD = {
    "by window": LITE_SUM,
    "window by window": LITE_PLAIN,
    "floats": LITE_SUM.replace("sum(u.quantity)", "sum(u.quantity / 10.0)"),
    "a T, converted": bounded("datetime(u.iso_at) >= :start and datetime(u.iso_at) < :end", LITE_PLAIN),
    "seconds, converted": bounded("u.epoch >= unixepoch(:start) and u.epoch < unixepoch(:end)", LITE_PLAIN),
    "cast to text": bounded("u.used_at >= cast(:start as text) and u.used_at < cast(:end as text)", LITE_PLAIN),
    "bounds as times": bounded(
        "datetime(u.used_at) >= datetime(:start) and datetime(u.used_at) < datetime(:end)", LITE_PLAIN
    ),
    "different ones": LITE_PLAIN.replace("sum(u.quantity)", "count(distinct u.label)"),
    "rows as they are": "select 'cus_' || customer_id as customer, quantity, used_at as at, used_at as \"window\" from usage"
    " where used_at >= :start and used_at < :end",
}  # fmt: skip


@pytest.fixture(scope="module")
def lite_url(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A SQLite database for all trials."""
    path = tmp_path_factory.mktemp("trial") / "app.db"
    with closing(sqlite3.connect(path)) as app:
        app.executescript(LITE)
        for c in range(1, 4):
            for n in range(400):
                at = NOW.replace(microsecond=0) - dt.timedelta(minutes=1 + n * 11, seconds=c * 13)
                much = 1 + (c * 7919 + n * 104729) % 10
                values = (
                    c,
                    f"{at:%Y-%m-%d %H:%M:%S}",
                    f"{at:%Y-%m-%dT%H:%M:%SZ}",
                    int(at.timestamp()),
                    f"{at + HOUR:%Y-%m-%d %H:%M:%S}",
                    much,
                    str(much),
                )
                app.execute("insert into usage values (?, ?, ?, ?, ?, ?, ?)", values)
        app.commit()
    return f"sqlite:///{path}"


@pytest.mark.parametrize("name", LITE_BAD)
def test_what_a_query_of_sqlite_does_not_mean_is_named(lite_url: str, name: str) -> None:
    """SQLite compares text, and takes a cast for a number: each has its finding."""
    named(lite_url, *LITE_BAD[name])


@pytest.mark.parametrize("name", LITE_GOOD)
def test_a_good_query_of_sqlite_comes_through_silent(lite_url: str, name: str) -> None:
    """A false alarm is as bad as none."""
    assert tried(lite_url, LITE_GOOD[name]) == []


# What a trial says and costs


def test_a_finding_names_the_line_to_change(shop_url: str, lite_url: str) -> None:
    """What happened, by how much, and where."""
    [between] = tried(shop_url, bounded("u.used_at between :start and :end"))
    assert "billed twice" in between.text
    assert "line 5: `where u.used_at between :start and :end`" in between.text
    [cast] = tried(lite_url, LITE_BAD["cast of the start"][0])
    assert "line 5: `where u.used_at >= cast(:start as timestamp)" in cast.text


def test_what_the_time_does_not_allow_is_said(shop_url: str) -> None:
    """A trial that runs out of time says what it has tried, and warns of nothing else."""
    ran_out = tried(shop_url, SUM, seconds=0.005)
    assert [each.kind for each in ran_out] == [Kind.UNTRIED]
    assert "ran out; tried before that: whether there is usage" in ran_out[0].text


def test_the_time_may_run_out_anywhere(shop_url: str) -> None:
    """Also while a stretch is read again later: what was tried is said, and no trouble with the source."""
    for thousandths in range(1, 40):
        found = tried(shop_url, UP_TO_NOW, seconds=thousandths / 1000)
        assert {each.kind for each in found} <= {Kind.UNTRIED, Kind.PRESENT}, found


def test_a_missing_time_zone_is_seen_without_rows(shop_url: str) -> None:
    """The type of a column tells, though there is no row at all."""
    query = "select 'cus_1' as customer, 1 as quantity, utc_at as at from usage where used_at >= :start and used_at < :end"
    [found] = tried(shop_url, query, utc=False, now=NOW - 300 * dt.timedelta(days=1))
    assert (found.kind, found.severity) == (Kind.TYPE, Severity.ERROR)
    assert "no time zone" in found.text


def test_usage_that_ends_hours_ago_may_be_local(shop_url: str) -> None:
    """Times of New York that are read as UTC end five hours ago, though usage comes all the time."""
    query = bounded("u.utc_at >= :start and u.utc_at < :end").replace(
        " as quantity", " as quantity, max(u.utc_at) as at"
    )
    assert [each.kind for each in tried(shop_url, query, now=NOW + 5 * HOUR)] == [Kind.BEHIND]
    assert tried(shop_url, query, now=NOW + 5.5 * HOUR + dt.timedelta(minutes=5)) == []
    assert tried(shop_url, query, now=NOW + 2 * HOUR) == []


def test_a_whole_table_is_named_where_it_takes_long(shop_url: str) -> None:
    """With the seconds that a window took, and the index to make."""
    slow = PLAIN.replace("u.used_at", "u.utc_at")
    source = Source("app", shop_url, statement_timeout=dt.timedelta(seconds=60), timezone="UTC")
    meter = replace(METER, query=slow)
    ticks = itertools.count(0, 0.6)
    found = Trial(meter, source, seconds=PLENTY, elapsed=lambda: next(ticks), stripe="stripe").run(NOW)
    assert [each.kind for each in found] == [Kind.SLOW]
    assert "(utc_at)" in found[0].text
    indexed = replace(METER, query=slow.replace("u.utc_at", "u.used_at"))
    assert Trial(indexed, source, seconds=PLENTY, elapsed=lambda: next(ticks), stripe="stripe").run(NOW) == []


class Crowd:
    """A sink that knows the first three customers."""

    name = "stripe"

    def __init__(self, trouble: SinkError | None = None) -> None:
        self.asked: list[str] = []
        self._trouble = trouble

    def knows_by_name(self, customer: str) -> bool:
        """All of them."""
        return customer.startswith("cus_")

    def why_unknown(self, customer: str) -> str | None:
        """Say who is not there."""
        self.asked.append(customer)
        if self._trouble:
            raise self._trouble
        return None if customer in {"cus_1", "cus_2", "cus_3"} else f"There is no {customer}."


def looked_up(
    url: str, query: str, crowd: Crowd, *, seconds: float = PLENTY, tick: float = 0.001
) -> list[Finding]:
    """Try a query out at a sink that knows customers."""
    source = Source("app", url, statement_timeout=dt.timedelta(seconds=60), timezone="UTC")
    ticks = itertools.count(0, tick)
    meter = replace(METER, query=query)
    trial = Trial(
        meter,
        source,
        seconds=seconds,
        elapsed=lambda: next(ticks),
        stripe="stripe",
        registers=[Register(crowd)],
    )
    return trial.run(NOW)


def test_customers_are_looked_up_at_a_sink_that_knows_them(shop_url: str) -> None:
    """Five of the six, once each; who is not there is named."""
    crowd = Crowd()
    [found] = looked_up(shop_url, SUM, crowd)
    assert (found.kind, found.severity) == (Kind.CUSTOMER_UNKNOWN, Severity.WARNING)
    assert len(crowd.asked) == len(set(crowd.asked)) == 5
    assert [each for each in ("cus_4", "cus_5", "cus_6") if each in found.text] == [
        each for each in ("cus_4", "cus_5", "cus_6") if each in crowd.asked
    ]
    few = Crowd()
    assert looked_up(shop_url, SUM.replace("where", "where c.id <= 3 and"), few) == []
    assert sorted(few.asked) == ["cus_1", "cus_2", "cus_3"]


def test_a_sink_that_does_not_say_is_a_note_and_asked_once(shop_url: str) -> None:
    """Whatever the reason; the query is as good as it was."""
    for trouble in (SinkUnreadable("Not you."), SinkUnreachable("Nobody there.")):
        crowd = Crowd(trouble)
        [found] = looked_up(shop_url, SUM, crowd)
        assert (found.severity, str(trouble) in found.text) == (Severity.NOTE, True)
        assert len(crowd.asked) == 1


def test_customers_are_looked_up_within_the_time_of_the_trial(shop_url: str) -> None:
    """What ran out of time asks for nobody, and says so."""
    counted = itertools.count(0)
    source = Source("app", shop_url, statement_timeout=dt.timedelta(seconds=60), timezone="UTC")
    meter, whole = replace(METER, query=SUM), Crowd()
    Trial(
        meter, source, seconds=PLENTY, elapsed=lambda: float(next(counted)), registers=[Register(whole)]
    ).run(NOW)
    looks = next(counted) - 1
    counted, late = itertools.count(0), Crowd()
    trial = Trial(
        meter,
        source,
        seconds=looks - 3.0,
        elapsed=lambda: float(next(counted)),
        registers=[Register(late)],
    )
    found = trial.run(NOW)
    assert late.asked == whole.asked[: len(late.asked)]
    assert len(late.asked) < len(whole.asked)
    assert any("ran out before its customers were looked up at stripe" in each.text for each in found)
