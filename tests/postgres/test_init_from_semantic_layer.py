"""`aggregator init --from-dbt` and `--from-ossie`: a meter that bills what the semantic layer says, or a sentence why not.

`semantic/manifest.json` was written by dbt 1.12.6 with MetricFlow 0.213, from `semantic/dbt.yml`, over the rows below; keys
that are not read were left out. `BY_METRICFLOW` is what `mf query` answered over the same rows. The model in
`semantic/gateway.ossie.yaml` passes `azem validate` (azem 0.2.0), and `BY_AZEM` is what the SQL that azem compiled gave.
"""

import datetime as dt
import json
import sqlite3
from collections import Counter
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
from aggregator.core.table_guess import Column
from aggregator.errors import UsageError
from aggregator.semantic import dbt, ossie
from aggregator.semantic.expressions import rewritten
from aggregator.wiring.sources import build_source

pytestmark = pytest.mark.direct

HERE = Path(__file__).parent / "semantic"
MANIFEST = HERE / "manifest.json"
MODEL = HERE / "gateway.ossie.yaml"

DAY = dt.datetime(2026, 11, 1, tzinfo=dt.UTC)
DAYS = Span(DAY, DAY + dt.timedelta(days=2))

TABLES = """
create table {schema}account (id integer primary key, stripe_customer_id text);
create table {schema}label (call_id integer, stripe_id text);
create table {schema}{name} (id integer primary key, stripe_customer_id text, tokens integer, status text, cached boolean,
    seconds {double}, created_at timestamp, created_on date, account_id integer references {schema}account (id));
insert into {schema}account values (1, 'cus_ada'), (2, 'cus_bea'), (3, null);
insert into {schema}{name} values
    (1, 'cus_ada', 10, 'completed', true, 1.5, '2026-11-01 00:00:00', '2026-11-01', 1),
    (2, 'cus_ada', 20, 'failed', false, 2.5, '2026-11-01 12:59:59.999999', '2026-11-01', 1),
    (3, 'cus_bea', 5, 'completed', false, 3.5, '2026-11-01 23:59:59.999999', '2026-11-01', 2),
    (4, 'cus_ada', 7, 'completed', true, 4.5, '2026-11-02 00:00:00', '2026-11-02', 1),
    (5, null, 100, 'completed', true, 4.5, '2026-11-02 01:00:00', '2026-11-02', 3);
"""

BY_METRICFLOW = {
    "tokens": {("cus_ada", 1): 30, ("cus_bea", 1): 5, ("cus_ada", 2): 7},
    "completed_tokens": {("cus_bea", 1): 5, ("cus_ada", 2): 7},
    "calls": {("cus_ada", 1): 2, ("cus_bea", 1): 1, ("cus_ada", 2): 1},
    "cached_calls": {("cus_ada", 1): 1, ("cus_bea", 1): 0, ("cus_ada", 2): 1},
    "seconds": {
        ("cus_ada", 1): Decimal("4.0"),
        ("cus_bea", 1): Decimal("3.5"),
        ("cus_ada", 2): Decimal("4.5"),
    },
    "event_tokens": {("cus_ada", 1): 10, ("cus_bea", 1): 5, ("cus_ada", 2): 7},
    "events": {("cus_ada", 1): 2, ("cus_bea", 1): 1, ("cus_ada", 2): 1},
}
"""By customer and day of November."""

BY_AZEM = {"cus_ada": 17, "cus_bea": 5}
"""completed_tokens `between '2026-11-01' and '2026-11-02'`: both ends of a range count there."""


def filled(path: Path, kind: str) -> str:
    """Make a database with the rows in it, and return its URL."""
    if kind == "sqlite":
        with sqlite3.connect(path / "app.db") as database:
            database.executescript(TABLES.format(schema="", name="api_calls", double="real"))
            database.execute("create view api_events as select * from api_calls")
        return f"sqlite:///{path / 'app.db'}"
    with duckdb.connect(str(path / "app.duckdb")) as database:
        database.execute(TABLES.format(schema="main.", name="api_calls", double="double"))
        database.execute("create view api_events as select * from api_calls")
    return f"duckdb:///{path / 'app.duckdb'}"


@pytest.fixture(params=["postgres", "sqlite", "duckdb"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The rows, on the engine that dbt had them on and on two others."""
    if request.param != "postgres":
        return filled(tmp_path, request.param)
    url: str = request.getfixturevalue("source_url")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("create schema main")
        connection.execute(TABLES.format(schema="main.", name="api_calls", double="double precision"))
        connection.execute("create view main.api_events as select * from main.api_calls")
    return url


@pytest.fixture
def init(url: str, tmp_path: Path) -> Callable[..., Result]:
    """Run the command over the rows; what it writes is new each time."""
    return lambda *arguments: run(url, tmp_path, *arguments)


@pytest.fixture
def beside(tmp_path: Path) -> Callable[..., Result]:
    """Run the command over the rows in DuckDB, where the engine makes no difference."""
    url = filled(tmp_path, "duckdb")
    return lambda *arguments: run(url, tmp_path, *arguments)


def run(url: str, tmp_path: Path, *arguments: object) -> Result:
    path = tmp_path / "aggregator.yaml"
    path.unlink(missing_ok=True)
    return CliRunner().invoke(
        cli, ["init", *map(str, arguments), "--config", str(path)], env={"APP_DATABASE_URL": url}
    )


def billed(tmp_path: Path, url: str, meter: str) -> dict[tuple[str, int], Decimal]:
    """Read two days by the meter that was written, by customer and day."""
    config = load(tmp_path / "aggregator.yaml", {"APP_DATABASE_URL": url, "STRIPE_API_KEY": "sk_test_x"})
    found: Counter[tuple[str, int]] = Counter()
    with closing(build_source(config, "app", "test")) as source:
        for batch in source.read(config.meters[meter].query_text, DAYS, config.meters[meter].window):
            for each in batch:
                if each.customer is not None and each.quantity is not None:
                    found[each.customer, each.window_start.day] += each.quantity  # type: ignore[assignment]
    return dict(found)  # type: ignore[arg-type]


def said(result: Result) -> str:
    """The error, as a person reads it."""
    assert isinstance(result.exception, UsageError), result.output
    return str(result.exception)


def test_it_bills_what_metricflow_answers(init: Callable[..., Result], url: str, tmp_path: Path) -> None:
    """For each metric that is a sum, in both forms of dbt, by customer and day; windows of an hour add up to it."""
    for metric, answer in BY_METRICFLOW.items():
        result = init("--from-dbt", MANIFEST, "--metric", metric, "--customer", "account")
        assert result.exit_code == 0, result.exception
        assert billed(tmp_path, url, metric) == answer, (metric, (tmp_path / "aggregator.yaml").read_text())


def test_what_was_assumed_is_said(beside: Callable[..., Result], tmp_path: Path) -> None:
    """Time, filter, time spine, database and customer; and the query keeps the words of the measure and of its filters."""
    result = beside("--from-dbt", MANIFEST, "--metric", "completed_tokens")
    assert result.exit_code == 0, result.exception
    for reason in (
        "`called_at` of the semantic model calls is `created_at`",
        "windows are half-open, where dbt counts the last instant of a range in",
        "its filter is kept: {{ Dimension('call__status') }} = 'completed' and {{ Dimension('call__is_slow') }}",
        "what the time spine fills in for days without rows is left out",
        "dbt has it in app",
        "`stripe_customer_id` is the customer",
        "`created_at` has no time zone, and is taken for UTC",
    ):
        assert reason in result.output
    text = (tmp_path / "aggregator.yaml").read_text()
    assert "and (used.status = 'completed')" in text
    assert "and ((used.seconds > 3))" in text
    assert "used.created_at >= :start\n         and used.created_at < :end" in text


def test_rows_that_are_made_anew_are_named(beside: Callable[..., Result]) -> None:
    """A model that is a table has the rows of the last run only."""
    result = beside("--from-dbt", MANIFEST, "--metric", "events")
    assert "`api_events` has the rows of the last `dbt run` (table): set `freshness`" in result.output


REFUSED = {
    "payers": "who is counted in two windows would be billed twice",
    "event_payers": "who is counted in two windows would be billed twice",
    "mean_tokens": "its aggregation is `average`",
    "stored": "not additive over time",
    "event_stored": "not additive over time",
    "by_day": "goes by `date_trunc('day', created_at)`, which is computed",
    "recent": "only `Dimension` and `Entity` are read there",
    "tokens_to_date": "adds up over more than a window, and dbt takes the first value of a period",
    "event_to_date": "adds up over more than a window, and dbt takes the first value of a period",
    "tokens_per_call": "divides one metric by another",
    "growth": "made of other metrics",
    "conversion": "joins events over time",
}


@pytest.mark.parametrize("metric", REFUSED)
def test_what_is_no_sum_is_refused(metric: str) -> None:
    """With a sentence that says which metric, and why."""
    with pytest.raises(UsageError) as refused:
        dbt.metric(dbt.read(MANIFEST), metric)
    assert REFUSED[metric] in str(refused.value)
    assert f"The metric {metric} " in str(refused.value)


def test_each_metric_of_the_manifest_is_tried() -> None:
    """None is forgotten: what is no sum is refused, and all else is billed above."""
    assert {each["name"] for each in dbt.read(MANIFEST)["metrics"].values()} == {*REFUSED, *BY_METRICFLOW}


def test_dbts_other_document_is_never_read(beside: Callable[..., Result], tmp_path: Path) -> None:
    """It has offsets as `SUM - SUM` and names columns that do not exist."""
    path = tmp_path / "osi_document.json"
    path.write_text(
        json.dumps({"version": "0.1.1", "dialects": ["ANSI_SQL"], "semantic_model": [{"name": "m"}]})
    )
    assert "osi_document.json above all" in said(beside("--from-dbt", path))
    assert "give dbt's manifest.json to `--from-dbt`" in said(beside("--from-ossie", path))


def test_a_column_that_is_not_there_is_named(beside: Callable[..., Result], tmp_path: Path) -> None:
    """A manifest may be older than the table."""
    manifest = json.loads(MANIFEST.read_text())
    manifest["semantic_models"]["semantic_model.usage.calls"]["measures"][0]["expr"] = "tokens_out"
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps(manifest))
    assert "names a column `tokens_out` that the table does not have" in said(
        beside("--from-dbt", path, "--metric", "tokens")
    )
    assert "knows no org for `--customer`: it has call, account, status" in said(
        beside("--from-dbt", MANIFEST, "--metric", "tokens", "--customer", "org")
    )


def test_a_filter_of_another_table_is_refused() -> None:
    """A meter reads one table."""
    manifest = json.loads(MANIFEST.read_text())
    filters = [{"where_sql_template": "{{ Dimension('account__plan') }} = 'pro'"}]
    manifest["metrics"]["metric.usage.tokens"]["filter"] = {"where_filters": filters}
    with pytest.raises(UsageError, match="filtered by `account__plan`, which is not of calls"):
        dbt.metric(manifest, "tokens")


def test_an_ossie_metric_is_billed(init: Callable[..., Result], url: str, tmp_path: Path) -> None:
    """With the customer of the dataset that a relationship leads to; a range's last instant counts once, and not twice."""
    result = init("--from-ossie", MODEL, "--metric", "completed_tokens")
    assert result.exit_code == 0, result.exception
    assert "a metric of an Ossie model has no time of its own: `called_at` of calls is taken" in result.output
    assert "`account_id` leads to main.account, whose `stripe_customer_id` is the customer" in result.output
    assert "its SQL, standard, was translated" in result.output
    found = billed(tmp_path, url, "completed_tokens")
    assert found == {("cus_ada", 1): 10, ("cus_bea", 1): 5, ("cus_ada", 2): 7}
    until_midnight = {who: amount for (who, day), amount in found.items() if day == 1}
    assert {"cus_ada": until_midnight["cus_ada"] + 7, "cus_bea": 5} == BY_AZEM


def test_a_grain_of_a_day_makes_windows_of_a_day(
    init: Callable[..., Result], url: str, tmp_path: Path
) -> None:
    """Where the time is a date, no hour of it is known."""
    result = init("--from-ossie", MODEL, "--metric", "tokens", "--when", "called_on")
    assert result.exit_code == 0, result.exception
    text = (tmp_path / "aggregator.yaml").read_text()
    assert "window: 1d" in text
    assert "event_time_window: day" in text
    assert billed(tmp_path, url, "tokens") == {("cus_ada", 1): 30, ("cus_bea", 1): 5, ("cus_ada", 2): 7}


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("--metric", "payers"), "who is counted in two windows would be billed twice"),
        (("--metric", "growth"), "is not one sum or count"),
        (("--metric", "kilo"), "Div may come to something else on another engine"),
        (("--metric", "tokens", "--customer", "stripe_id"), "knows no stripe_id"),
        (("--metric", "tokens", "--when", "sent_at"), "no field of calls that is a column is called sent_at"),
        ((), "say which metric, with `--metric`; it has: completed_tokens, growth"),
    ],
)
def test_what_an_ossie_model_does_not_say_is_refused(
    beside: Callable[..., Result], arguments: tuple[str, ...], why: str
) -> None:
    """A join that would copy rows, too: the label of a call is none of its columns."""
    assert why in said(beside("--from-ossie", MODEL, *arguments))


def test_no_relationship_copies_rows() -> None:
    """One that leads to a key which is not declared to be one is not followed."""
    model = ossie.read(MODEL)
    assert [each.table for each in ossie.metric(model, "tokens", "duckdb", None).references] == [
        "main.account"
    ]
    accounts = next(each for each in model["datasets"] if each["name"] == "accounts")
    accounts["primary_key"] = ["stripe_customer_id"]
    assert ossie.metric(model, "tokens", "duckdb", None).references == ()


COLUMNS = [
    Column("tokens", "number"),
    Column("seconds", "float"),
    Column("status", "text"),
    Column("cached", "other"),
    Column("created_at", "local"),
    Column("ended_at", "instant"),
    Column("created_on", "date"),
]


@pytest.mark.parametrize(
    "text",
    [
        "tokens / 1000",
        "cast(tokens as integer)",
        "seconds::int",
        "datediff(week, created_at, ended_at)",
        "date_trunc('week', created_at) = '2026-11-02'",
        "ended_at - created_at",
        "created_on - 1",
        "created_at at time zone 'Europe/Paris'",
        "created_at >= '2026-11-01 00:00:00.5'",
        "status like 'comp%'",
        "status || 'x'",
        "tokens % 3",
    ],
)
@pytest.mark.parametrize("engine", ["postgres", "mysql", "sqlite", "clickhouse"])
def test_what_engines_take_differently_is_not_translated(text: str, engine: str) -> None:
    """Division, casts, weeks, differences of dates, zones and fractions of a bound: a translator changes them in silence."""
    with pytest.raises(UsageError, match="is not translated"):
        rewritten(text, COLUMNS, "snowflake", engine)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("sum(tokens)", "looks at several rows"),
        ("(select max(tokens) from other)", "looks at several rows"),
        ("tokens > :start", "has a parameter"),
        ("created_at < now()", "looks at the present instant"),
        ("other.tokens", "reads another table, other"),
        ("tokens -- of all kinds", "has a comment"),
        ("tokens +", "cannot be read as SQL of duckdb"),
    ],
)
def test_what_is_no_value_of_a_row_is_refused(text: str, why: str) -> None:
    """Also for the engine that it was written for."""
    with pytest.raises(UsageError) as refused:
        rewritten(text, COLUMNS, "duckdb", "duckdb")
    assert why in str(refused.value)


def test_what_was_written_for_the_engine_stays_as_it_is() -> None:
    """Only the table is put before its columns; what another engine would take differently is the engine's own here."""
    text = "case when Status = 'tokens' then tokens::decimal / 7 end"
    assert (
        rewritten(text, COLUMNS, "duckdb", "duckdb")
        == "case when used.Status = 'tokens' then used.tokens::decimal / 7 end"
    )
    assert rewritten("calls.tokens * 2", COLUMNS, "duckdb", "duckdb", {"calls"}) == "used.tokens * 2"


def test_one_thing_is_begun_with(beside: Callable[..., Result]) -> None:
    """And what does not go with it is named."""
    assert "begins with one of" in said(beside("--from-dbt", MANIFEST, "--from-ossie", MODEL))
    assert "leave out `--when`" in said(beside("--from-dbt", MANIFEST, "--metric", "tokens", "--when", "id"))
    assert "leave out `--quantity`" in said(
        beside("--from-dbt", MANIFEST, "--metric", "tokens", "--quantity", "id")
    )
    assert "also name its file" in said(beside("--metric", "tokens"))
