"""A database that nobody here knows: it is read once it has shown what its bounds mean, and not before."""

import datetime as dt
import sqlite3
import tomllib
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import sqlalchemy as sa

from aggregator.core.model import Reading, Span
from aggregator.errors import QueryRejected, SourceError, SourceUnreachable
from aggregator.source import Source
from aggregator.source.other import EXTRAS, by_server
from aggregator.wiring.app import App
from tests.contract.engines import ZonedDialect, register

ROOT = Path(__file__).parents[2]
HOUR = dt.timedelta(hours=1)
NOON = dt.datetime(2026, 6, 1, 12, tzinfo=dt.UTC)
ONE, THREE = Span(NOON, NOON + HOUR), Span(NOON, NOON + 3 * HOUR)
USAGE = (
    "select customer, sum(quantity) as quantity from usage where at >= :start and at < :end group by customer"
)
BY_WINDOW = """
    select customer, sum(quantity) as quantity, strftime('%Y-%m-%dT%H:00:00+00:00', at) as window
      from usage where at >= :start and at < :end group by 1, 3
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file with a row at each border of three hours."""
    found = tmp_path / "app.db"
    with sqlite3.connect(found) as connection:
        connection.execute("create table usage (customer text, quantity integer, at text)")
        rows = [("cus_a", hour, f"2026-06-01 {hour}:00:00") for hour in (12, 13, 14, 15)]
        connection.executemany("insert into usage values (?, ?, ?)", rows)
    connection.close()
    return found


def source_of(kind: str, path: Path, **settings: object) -> Source:
    register()
    return Source("app", f"{kind}:///{path}", statement_timeout=HOUR, **settings)  # type: ignore[arg-type]


def readings(source: Source, query: str, span: Span = ONE, step: dt.timedelta | None = None) -> list[Reading]:
    return [each for batch in source.read(query, span, HOUR, step=step) for each in batch]


def one_each(*hours: int) -> list[Reading]:
    return [Reading(NOON + hour * HOUR, "cus_a", Decimal(12 + hour), None) for hour in hours]


# Bounds


def test_a_bound_is_handed_over_as_what_arrives(path: Path) -> None:
    """With an offset behind it SQLite would leave out the row on the border: so an instant is bound without."""
    assert readings(source_of("otherdb", path), USAGE) == one_each(0)


@pytest.mark.parametrize("zone", ["America/New_York", "Europe/London", "Asia/Kathmandu"])
def test_a_session_in_another_zone_is_refused_with_what_to_write(
    path: Path, zone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything is read, whatever is asked first, and also where winter's time is that of UTC."""
    monkeypatch.setattr(ZonedDialect, "zone", zone)
    source = source_of("zonedb", path)
    for ask in (source.ping, lambda: readings(source, USAGE), lambda: source.columns(USAGE, ONE)):
        with pytest.raises(
            QueryRejected, match="does not show that `:start` arrives as the instant meant"
        ) as said:
            ask()
        assert "set the session's time zone to UTC" in str(said.value)
        assert "`accepts: [unproven_bounds]` on the source" in str(said.value)


def test_a_session_in_utc_is_read_until_it_is_not_any_more(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each transaction shows its own bounds: a server that is set to another zone is noticed by its next session."""
    source = source_of("zonedb", path)
    assert readings(source, "select 'cus_a' as customer, 12 as quantity where :start < :end") == one_each(0)
    monkeypatch.setattr(ZonedDialect, "zone", "America/New_York")
    with pytest.raises(QueryRejected, match="it did, and does not any more"):
        readings(source, USAGE)
    monkeypatch.setattr(ZonedDialect, "zone", "UTC")
    source.ping()


@pytest.mark.filterwarnings(
    "ignore:The default datetime adapter:DeprecationWarning"
)  # of SQLite's driver, from 3.12 on
def test_a_database_that_can_show_nothing_is_refused(path: Path) -> None:
    """Until its user says that each query converts its bounds itself."""
    with pytest.raises(QueryRejected, match="no way known here makes an instant of seconds since 1970"):
        readings(source_of("mutedb", path), USAGE)
    accepted = source_of("mutedb", path, accepts=["unproven_bounds"])
    assert readings(accepted, "select 'cus_a' as customer, 12 as quantity where :start < :end") == one_each(0)


def test_a_database_that_is_away_is_no_question_of_bounds(tmp_path: Path) -> None:
    """What passes by itself is called so."""
    with pytest.raises(SourceUnreachable, match="unable to open database file"):
        source_of("otherdb", tmp_path / "nowhere" / "app.db").ping()


def test_the_start_says_what_is_not_read_and_what_is_not_certain(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once, by the source's name; a source that is away is said by whoever reads it."""
    monkeypatch.setattr(ZonedDialect, "zone", "America/New_York")
    sources = {
        "zoned": source_of("zonedb", path),
        "other": source_of("otherdb", path),
        "away": source_of("otherdb", path / "nowhere.db"),
        "lite": source_of("sqlite", path),
    }
    app = cast("App", SimpleNamespace(sources=sources))
    refused, limited = App.refused_sources(app), App.limited_sources(app)
    assert list(refused) == ["zoned"]
    assert "does not show that `:start` arrives" in refused["zoned"]
    assert list(limited) == ["zoned", "other", "away"]


# Several states


def test_several_queries_for_one_span_are_refused_where_each_sees_another_state(path: Path) -> None:
    """With what to write. One query is none of them, be it for one window or by `window` for many."""
    source = source_of("otherdb", path)
    with pytest.raises(
        QueryRejected, match=r"several states of otherdb: return `window`.*`accepts: \[several_states\]`"
    ):
        readings(source, USAGE, THREE)
    assert readings(source, USAGE, ONE) == one_each(0)
    assert sorted(readings(source, BY_WINDOW, THREE)) == one_each(0, 1, 2)
    with pytest.raises(QueryRejected, match="leave out `split`"):
        readings(source, BY_WINDOW, ONE, step=HOUR / 2)
    accepted = source_of("otherdb", path, accepts=["several_states"])
    assert readings(accepted, USAGE, THREE) == one_each(0, 1, 2)
    assert readings(source_of("sqlite", path), USAGE, THREE) == one_each(0, 1, 2)


# Words


def test_two_servers_with_one_path_are_two_databases() -> None:
    """Firebird's driver keeps what it knows by path: so the server is made part of it."""
    urls = [sa.make_url(f"firebird+firebird://rd:pw@127.0.0.1:{port}//data/app.fdb") for port in (3051, 3052)]
    named = [by_server(url) for url in urls]
    assert [url.database for url in named] == [f"127.0.0.1/{port}:/data/app.fdb" for port in (3051, 3052)]
    assert {url.host for url in named} == {None}
    assert by_server(sa.make_url("firebird+firebird://rd:pw@h//a.fdb")).database == "h/3050:/a.fdb"
    trino = sa.make_url("trino://rd@127.0.0.1:8080/app")
    assert by_server(trino) == trino


@pytest.mark.parametrize("kind", ["firebird", "mssql", "oracle", "trino", "snowflake"])
def test_a_missing_driver_names_the_extra_that_brings_it(kind: str) -> None:
    """One line to paste, which this package knows."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    with pytest.raises(SourceUnreachable, match=r"pip install 'usage-aggregator\[(\w+)\]'") as said:
        Source("app", f"{kind}://rd:pw@127.0.0.1/app", statement_timeout=HOUR).ping()
    assert EXTRAS[kind] in str(said.value)
    assert set(EXTRAS.values()) <= set(extras)


def test_a_driver_for_asyncio_is_named(tmp_path: Path) -> None:
    """It would fail deep below, over every query."""
    with pytest.raises(SourceError, match="made for asyncio; name another one"):
        source_of("asyncdb", tmp_path / "app.db").ping()
