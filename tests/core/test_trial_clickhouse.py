"""The trial of a query on ClickHouse's engine: a good query comes through, and what is named is named in words that hold."""

import datetime as dt
from collections.abc import Iterator

import pytest

from aggregator.trial.columns import Column, types
from tests.clickhouse import ClickHouse, clickhouse
from tests.postgres.test_trial import NOW, shown, tried

pytestmark = pytest.mark.xdist_group("clickhouse")

SHOP = (
    "create table customer (id UInt32, stripe_customer_id String) engine = MergeTree order by id",
    "insert into customer select number, concat('cus_', toString(number)) from numbers(1, 5)",
    """
    create table api_request (customer_id UInt32, created_at DateTime64(6)) engine = MergeTree order by created_at
    """,
    """
    insert into api_request
    select number % 5 + 1, toDateTime64('{}', 6, 'UTC') - toIntervalSecond(number * 109) from numbers(10000)
    """,
)


@pytest.fixture(scope="module")
def shop() -> Iterator[ClickHouse]:
    """A shop whose sessions begin in New York."""
    with clickhouse() as server:
        last = (NOW - dt.timedelta(minutes=2)).replace(tzinfo=None)
        server.run(*(statement.replace("{}", str(last)) for statement in SHOP))
        yield server


@pytest.mark.parametrize(
    "query", [query for query in shown() if "toStartOfHour" in query and ":start" in query]
)
def test_what_the_documentation_shows_comes_through_silent(shop: ClickHouse, query: str) -> None:
    """Its query is a good one, with no word on zones in the source."""
    assert tried(shop.url(), query, stripe=None, utc=False) == []


def test_a_float_is_named_with_a_cast_that_keeps_fractions() -> None:
    """A `numeric` has none there."""
    [found] = types([Column("quantity", "float64")], naive_is_utc=False, zoned="", dialect="clickhouse")
    assert "sum(x::decimal(76, 9))" in found.text
