"""Dimensions of a query on a database: what a pass reads, what a trial says of them, and tests of the query."""

import datetime as dt
import itertools
import json
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner

from aggregator.cli import cli
from aggregator.core.model import Meter, Span
from aggregator.errors import ConfigError, QueryRejected
from aggregator.source import Source
from aggregator.trial import Finding, Kind, Severity, Trial

NOON = dt.datetime(2026, 11, 1, 12, tzinfo=dt.UTC)
HOUR = dt.timedelta(hours=1)
QUERY = """
select customer, model, cached, sum(tokens) as quantity, strftime('%Y-%m-%d %H:00:00', at) as "window"
  from spend where at >= :start and at < :end group by 1, 2, 3, 5
"""
CONFIG = """
sources: {{app: {{url: "{url}"}}}}
sinks: {{stripe: {{type: stripe, api_key: sk_test_x, mode: test}}}}
meters:
  tokens:
    source: app
    sinks: [stripe]
    window: 1h
    start_at: 2026-11-01T00:00Z
    dimensions: [model, cached]
    query: |
{query}
    tests: {tests}
"""


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A database with tokens spent by three models, in one row without one."""
    path = tmp_path / "app.db"
    rows = [
        ("cus_a", "large", 0, 5, "2026-11-01 12:10:00"),
        ("cus_a", "large", 1, 7, "2026-11-01 12:20:00"),
        ("cus_a", "large", 0, 1, "2026-11-01 12:30:00"),
        ("cus_b", "small", 0, 2, "2026-11-01 12:40:00"),
        ("cus_b", None, 0, 3, "2026-11-01 12:50:00"),
    ]
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(
            "create table spend (customer text, model text, cached integer, tokens integer, at text)"
        )
        connection.executemany("insert into spend values (?, ?, ?, ?, ?)", rows)
    connection.close()
    return f"sqlite:///{path}"


def source_at(url: str) -> Source:
    """Return the source."""
    return Source("app", url, statement_timeout=dt.timedelta(seconds=30))


def tried(url: str, most: int, dimensions: Sequence[str] = ("cached", "model")) -> list[Finding]:
    """Return what a trial finds."""
    meter = Meter(
        name="tokens",
        source="app",
        query=QUERY,
        fingerprint="f" * 64,
        sinks=("stripe",),
        window=HOUR,
        start_at=NOON,
        delay=dt.timedelta(minutes=5),
        revisit=dt.timedelta(days=3),
        dimensions=tuple(dimensions),
        max_combinations=most,
    )
    ticks = itertools.count(0, 0.001)
    return Trial(meter, source_at(url), seconds=60.0, elapsed=lambda: next(ticks)).run(NOON + 2 * HOUR)


def test_a_read_keeps_usage_apart(url: str) -> None:
    """Asked once for the span or once per window, in pieces, or at a glance: by the same columns."""
    span, named = Span(NOON, NOON + HOUR), ("cached", "model")
    source = source_at(url)
    found = {
        (each.customer, each.dimensions): each.quantity
        for batch in source.read(QUERY, span, HOUR, dimensions=named)
        for each in batch
    }
    assert found == {
        ("cus_a", (("cached", "0"), ("model", "large"))): 6,
        ("cus_a", (("cached", "1"), ("model", "large"))): 7,
        ("cus_b", (("cached", "0"), ("model", "small"))): 2,
        ("cus_b", None): 3,
    }
    with source.glimpse(HOUR) as glimpse:
        glimpsed = [each for batch in glimpse.read(QUERY, span, HOUR, named) for each in batch]
    assert {(each.customer, each.dimensions): each.quantity for each in glimpsed} == found
    assert source.columns(QUERY, span, named).returns_window
    assert source.reread(QUERY, span, HOUR, named) is None
    with pytest.raises(QueryRejected, match="a column it may not, `model`"):
        source.columns(QUERY, span)
    with pytest.raises(QueryRejected, match="no column `region`, which `dimensions`"):
        list(source.read(QUERY, span, HOUR, dimensions=("cached", "model", "region")))


def test_a_trial_counts_combinations_and_names_the_column_that_explodes(url: str) -> None:
    """How many there are in a window, what lacks a value, and what would be refused."""
    [lacking, few] = tried(url, most=100)
    assert (lacking.kind, lacking.severity) == (Kind.UNMAPPED, Severity.WARNING)
    assert "1 row of" in lacking.text
    assert "dimension `model` is NULL or blank" in lacking.text
    assert (few.kind, few.severity) == (Kind.COMBINATIONS, Severity.NOTE)
    assert "has 3 combinations of `cached` and `model`" in few.text
    assert tried(url, most=5)[1].severity is Severity.WARNING
    [much, _] = tried(url, most=2)
    assert (much.kind, much.severity) == (Kind.COMBINATIONS, Severity.ERROR)
    assert "more than 2 combinations; `cached` alone has 2 values" in much.text


def run(tmp_path: Path, url: str, usage: list[dict[str, object]]) -> tuple[int, str]:
    """Run the test of the query, which expects such usage; return the exit code and what it said."""
    row = {"customer": "cus_1", "cached": 0, "tokens": 4, "at": "2026-11-01 12:10:00"}
    rows = [row | {"model": "large"}, row | {"model": "small"}, row]
    case = {"name": "tokens go by model", "rows": {"spend": rows}, "usage": usage}
    query = "\n".join("      " + line for line in QUERY.strip().splitlines())
    path = tmp_path / "aggregator.yaml"
    path.write_text(CONFIG.format(url=url, query=query, tests=json.dumps([case])))
    ran = CliRunner().invoke(cli, ["test", "--config", str(path)])
    mistake = f"{ran.exception}" if isinstance(ran.exception, ConfigError) else ""
    return ran.exit_code, ran.output + mistake


def test_a_test_of_a_query_expects_usage_by_dimension(tmp_path: Path, url: str) -> None:
    """What is expected says a value for each dimension, or none for rows that lack one."""
    line: dict[str, object] = {"customer": "cus_1", "window": "2026-11-01T12:00Z", "quantity": 4}
    large, small = (line | {"dimensions": {"model": model, "cached": "0"}} for model in ("large", "small"))
    assert run(tmp_path, url, [large, small, line]) == (0, "1 test of 1 passed.\n")
    code, said = run(tmp_path, url, [large | {"quantity": 8}, line])
    assert code == 3
    assert "cached=0, model=large" in said
    assert "cached=0, model=small" in said
    code, said = run(tmp_path, url, [large | {"dimensions": {"model": "large"}}])
    assert code != 0
    assert "has other `dimensions` than the meter, which has `model`, `cached`" in " ".join(said.split())
