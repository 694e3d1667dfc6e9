"""What commands say of a meter that is read by a cursor."""

import datetime as dt
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner, Result

from aggregator.cli import cli
from aggregator.cli.check import Finding, _sources
from aggregator.config import load
from aggregator.errors import MeterRefused

pytestmark = pytest.mark.direct

CONFIG = """
ledger: {{url: '{ledger}'}}
state_dir: '{directory}/state'
sources: {{app: {{url: '{app}'}}}}
sinks: {{files: {{type: csv, directory: '{directory}/files'}}}}
meters:
  calls:
    source: app
    sinks: [files]
    window: 1h
    start_at: {start}
    read: deltas
    deltas:
      start_after: 0
      upto_query: {upto}
{more}
    query: select customer, quantity, used_at as at, id as cursor from usage where id > :after and id <= :upto
"""

UPTO = "select max(id) from (select id from usage where id > :after order by id limit 100) as next"
RECOUNT = """
      recount: 7d
      recount_query: |
        select customer, sum(quantity) as quantity, date_trunc('hour', used_at, 'UTC') as window from usage
         where used_at >= :start and used_at < :end and id <= :upto group by 1, 3
"""

Write = Callable[..., Path]


@pytest.fixture
def application(source_url: str) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
    """An application database with rows of four hours ago."""
    with psycopg.connect(source_url, autocommit=True) as connection:
        connection.execute(
            "create table usage (id bigint generated always as identity primary key, customer text, quantity int,"
            " used_at timestamptz not null default date_trunc('hour', now()) - interval '4 hours')"
        )
        connection.execute(
            "insert into usage (customer, quantity) values ('cus_1', 3), ('cus_1', 4), ('cus_2', 1)"
        )
        yield connection


@pytest.fixture
def write(
    application: psycopg.Connection[tuple[Any, ...]], ledger_url: str, source_url: str, tmp_path: Path
) -> Write:
    """Write a configuration."""
    [[start]] = application.execute("select date_trunc('hour', now()) - interval '5 hours'").fetchall()

    def written(*, upto: str = UPTO, more: str = "") -> Path:
        path = tmp_path / "aggregator.yaml"
        path.write_text(
            CONFIG.format(
                ledger=ledger_url,
                app=source_url,
                directory=tmp_path,
                upto=upto,
                more=more,
                start=f"{start:%Y-%m-%dT%H:%M%z}",
            )
        )
        return path

    return written


def findings(path: Path) -> list[tuple[str, str]]:
    """Return what check says of the meter."""
    found: list[Finding] = [each for each in _sources(load(path, {}), None, {}) if each.what == "meter calls"]
    return [(each.verdict, each.text) for each in found]


def test_check_says_what_protects_a_cursor(write: Write) -> None:
    """On Postgres it is what open transactions show; a query without a limit is pointed out."""
    found = findings(write(more=RECOUNT))
    assert ("ok", "its cursor waits for open transactions, which postgresql shows") in found
    whole = write(upto="select max(id) from usage where id > :after")
    [note] = [text for verdict, text in findings(whole) if verdict == "note"]
    assert note.startswith("`upto_query` has no limit")


def test_check_refuses_ids_that_are_dealt_in_blocks(
    write: Write, application: psycopg.Connection[tuple[Any, ...]]
) -> None:
    """It says what cures it; with a lag it is a note, and so is that nothing recounts."""
    application.execute("alter table usage alter id set cache 20")
    [(verdict, text)] = findings(write())
    assert verdict == "wrong"
    assert "cache 1" in text
    noted = findings(write(more="      lag: 5m"))
    assert [text.split(":")[0] for verdict, text in noted if verdict == "note"] == [
        "only the `lag` protects its cursor",
        "nothing would find what its cursor misses",
    ]


def test_commands_tell_of_a_cursor(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pass reads it, status says how far it is, a number is explained by what gives it, and a recount is a backfill."""
    monkeypatch.setattr("aggregator.wiring.opening.unfit", lambda database: [])
    path = str(write(more=RECOUNT))

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(cli, [*arguments, "--config", path])

    once = run("run", "--once", "--json")
    assert once.exit_code == 0, once.output
    status = run("status")
    assert "calls is read by a cursor: 3 rows up to 3, complete up to" in status.output
    explained = run("explain", "calls", "--customer", "cus_1", "--window", _start(path, hours=1), "--live")
    assert "id <= 3" in explained.output, explained.output
    refused = run("restate", "calls", "--from", _start(path))
    assert refused.exit_code != 0
    assert "is read by a cursor" in str(refused.exception)
    filled = run("backfill", "calls", "--from", _start(path), "--no-send")
    assert filled.exit_code == 0, filled.output
    live = run("usage", "calls", "--live")
    assert live.exit_code == 0, live.output
    by_windows = (
        "select customer, quantity, used_at as at from usage where used_at >= :start and used_at < :end"
    )
    text = Path(path).read_text()
    text = text[: text.index("    read: deltas")] + f"    query: {by_windows}\n"
    Path(path).write_text(text)
    refused = run("check", "--no-trial")
    assert "is read by `read: deltas`, and is to be read by `read: windows`" in " ".join(
        refused.output.split()
    )
    assert isinstance(run("run", "--once").exception, MeterRefused)


def _start(path: str, *, hours: int = 0) -> str:
    start = load(Path(path), {}).meters["calls"].start_at + dt.timedelta(hours=hours)
    return f"{start:%Y-%m-%dT%H:%MZ}"
