"""The trial of a query on MariaDB and MySQL: what is wrong is named in words that hold there, a good query comes through."""

import datetime as dt
from collections.abc import Iterator

import pytest

from aggregator.trial.findings import Kind, Severity
from tests.mariadb import Maria
from tests.mysql import BOTH
from tests.postgres.test_trial import NOW, shown, tried

SHOP = (
    "use app",
    "create table customer (id int primary key, stripe_customer_id varchar(40))",
    "insert into customer select seq, concat('cus_', seq) from seq_1_to_5",
    "create table api_request (customer_id int, created_at timestamp not null, written_at datetime, units double)",
    """
    insert into api_request
    select seq % 5 + 1, '{}' - interval seq * 109 second, '{}' - interval seq * 109 second, 0.1 from seq_1_to_10000
    """,
)

PLAIN = """
select customer.stripe_customer_id as customer, count(*) as quantity, max({column}) as at
  from api_request request left join customer on customer.id = request.customer_id
 where {column} {rest}
 group by 1
"""
WITHIN = "created_at >= :start and created_at < :end"


@pytest.fixture(scope="module", params=BOTH)
def shop(request: pytest.FixtureRequest) -> Iterator[Maria]:
    """A shop whose server is in New York's zone."""
    with request.param() as server:
        last = (NOW - dt.timedelta(minutes=2)).replace(tzinfo=None)
        server.run(*(statement.replace("{}", str(last)) for statement in SHOP))
        yield server


@pytest.mark.parametrize(
    "query", [query for query in shown() if "date_format" in query and ":start" in query]
)
def test_what_the_documentation_shows_comes_through_silent(shop: Maria, query: str) -> None:
    """Its query is a good one, with no word on zones in the source."""
    assert tried(shop.url(), query, stripe=None, utc=False) == []


@pytest.mark.parametrize(
    "rest", [">= :start and created_at < :end", "between :start and timestampadd(second, -1, :end)"]
)
def test_a_good_query_comes_through_silent(shop: Maria, rest: str) -> None:
    """Seconds are the shortest time that this column knows."""
    assert tried(shop.url(), PLAIN.format(column="created_at", rest=rest), utc=False) == []


BAD = {
    "an edge": (PLAIN.format(column="created_at", rest="between :start and :end"), Kind.EDGE, Severity.ERROR),
    "bounds ignored": (
        "select 'cus_1' as customer, count(*) as quantity from api_request where '' <> :start and '' <> :end",
        Kind.BOUNDS_IGNORED,
        Severity.ERROR,
    ),
    "a column without a zone": (
        PLAIN.format(column="written_at", rest=">= :start and written_at < :end"),
        Kind.TYPE,
        Severity.ERROR,
    ),
    "a float": (
        f"select 'cus_1' as customer, sum(units) as quantity from api_request where {WITHIN}",
        Kind.FLOAT,
        Severity.WARNING,
    ),
    "a number as text": (
        f"select 'cus_1' as customer, format(count(*), 2) as quantity from api_request where {WITHIN}",
        Kind.TYPE,
        Severity.ERROR,
    ),
    "random": (
        f"select 'cus_1' as customer, floor(1000000 * rand()) as quantity from api_request where {WITHIN} group by 1",
        Kind.RANDOM,
        Severity.ERROR,
    ),
    "a number that was cut": (
        f"select 'cus_1' as customer, cast(1e9 as decimal(5, 2)) as quantity from api_request where {WITHIN} group by 1",
        Kind.REFUSED,
        Severity.ERROR,
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_a_query_does_not_mean_is_named(shop: Maria, name: str) -> None:
    """Each has the finding that belongs to it, and nothing of it is advice for another database."""
    query, kind, severity = BAD[name]
    found = tried(shop.url(), query, utc=False)
    assert [each.severity for each in found if each.kind is kind] == [severity], found
    assert not any("timestamptz" in each.text for each in found)
