"""`aggregator init --from-table`: a meter over a table that is there, which reads what is in it."""

import datetime as dt
import sqlite3
from collections.abc import Callable
from contextlib import closing
from decimal import Decimal
from pathlib import Path

import duckdb
import psycopg
import pytest
from click.testing import CliRunner, Result

from aggregator.cli import cli
from aggregator.config import load
from aggregator.core.model import Span
from aggregator.wiring.sources import build_source

pytestmark = pytest.mark.direct

NOON = dt.datetime(2026, 11, 2, 12, tzinfo=dt.UTC)
HOUR = dt.timedelta(hours=1)

TABLES = """
create table account (id integer primary key, "Stripe_Id" text);
create table "Api Calls"
    (id integer primary key, account_id integer references account (id), tokens {number}, created_at {instant});
create index calls_at on "Api Calls" (created_at);
insert into account values (1, 'cus_1'), (2, null);
insert into "Api Calls" values
    (1, 1, 2.5, '2026-11-02 12:00:00'), (2, 1, 1.25, '2026-11-02 12:59:59'), (3, 2, 9, '2026-11-02 12:30:00'),
    (4, 1, 100, '2026-11-02 13:00:00');
"""


@pytest.fixture(params=["timestamptz", "timestamp", "sqlite", "duckdb"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database with usage in it, of two calls and an unknown customer's."""
    if request.param == "sqlite":
        path = tmp_path / "app.db"
        with sqlite3.connect(path) as database:
            database.executescript(TABLES.format(number="real", instant="timestamp"))
        return f"sqlite:///{path}"
    if request.param == "duckdb":
        with duckdb.connect(str(tmp_path / "app.duckdb")) as database:
            database.execute(TABLES.format(number="double", instant="timestamp"))
        return f"duckdb:///{tmp_path / 'app.duckdb'}"
    url: str = request.getfixturevalue("source_url")
    with psycopg.connect(url, autocommit=True, options="-c timezone=UTC") as connection:
        connection.execute(TABLES.format(number="double precision", instant=request.param))
    return url


@pytest.fixture
def init(url: str, tmp_path: Path) -> Callable[..., Result]:
    """Run the command where the database is."""

    def run(*arguments: str, **env: str) -> Result:
        path = str(tmp_path / "aggregator.yaml")
        return CliRunner().invoke(
            cli, ["init", *arguments, "--config", path], env={"APP_DATABASE_URL": url} | env
        )

    return run


def test_its_meter_reads_what_is_there(init: Callable[..., Result], url: str, tmp_path: Path) -> None:
    """By customer and hour, with the customer of the table that a foreign key leads to; and it is said why."""
    result = init("--from-table", "Api Calls")
    assert result.exit_code == 0, result.output
    for reason in (
        "`created_at` says when",
        "`Stripe_Id` is the customer",
        "`tokens` is summed",
        "cast to an exact",
    ):
        assert reason in result.output
    config = load(tmp_path / "aggregator.yaml", {"APP_DATABASE_URL": url, "STRIPE_API_KEY": "sk_test_x"})
    meter = config.meters["api_calls"]
    with closing(build_source(config, "app", "test")) as source:
        assert source.columns(meter.query_text, Span(NOON, NOON + HOUR)) == (True, True)
        read = [
            each for batch in source.read(meter.query_text, Span(NOON, NOON + HOUR), HOUR) for each in batch
        ]
    assert sorted((each.customer or "", each.quantity, each.window_start) for each in read) == [
        ("", Decimal(9), NOON),
        ("cus_1", Decimal("3.75"), NOON),
    ]


def test_a_table_that_is_none_is_named_with_those_that_are(
    init: Callable[..., Result], tmp_path: Path
) -> None:
    """Nothing is written then."""
    result = init("--from-table", "calls")
    assert result.exit_code != 0
    assert "there is no table calls; here has: Api Calls, account" in str(result.exception)
    assert not (tmp_path / "aggregator.yaml").exists()


def test_what_is_chosen_is_taken(init: Callable[..., Result], tmp_path: Path) -> None:
    """And a column without a table is a mistake."""
    assert init("--from-table", "Api Calls", "--quantity", "id", "--customer", "account_id").exit_code == 0
    text = (tmp_path / "aggregator.yaml").read_text()
    assert "sum(used.id)" in text
    assert "join" not in text
    (tmp_path / "aggregator.yaml").unlink()
    assert "also name its table" in str(init("--quantity", "id").exception)


def test_without_a_database_it_says_how_it_is_named(init: Callable[..., Result]) -> None:
    """By the variable that the configuration will take it from."""
    assert "set APP_DATABASE_URL to its URL" in str(
        init("--from-table", "usage", APP_DATABASE_URL="").exception
    )
