"""Meters that are sampled, by commands over a real source: taken once whatever is killed, tried by `check`, and told."""

import datetime as dt
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner, Result
from ruamel.yaml import YAML

from aggregator.cli import cli
from aggregator.runtime.failpoints import SAMPLE_POINTS
from tests.system.harness import until

pytestmark = pytest.mark.direct

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "sampling.md").read_text()
SHOWN = [
    YAML(typ="safe").load(block)["meters"] for block in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
]
RECIPES = {name: meter for block in SHOWN for name, meter in block.items()}

TABLES = """
create table account (id int primary key, stripe_customer_id text);
insert into account values (1, 'cus_1'), (2, 'cus_2'), (3, null);
create table device (id int primary key, account_id int, bytes_total numeric, reported_at timestamptz default now());
insert into device values (1, 1, 1000), (2, 1, 500), (3, 2, 70), (4, 3, 9);
create table seat (account_id int, active bool);
insert into seat values (1, true), (1, true), (2, true), (2, false);
create table bucket (account_id int, bytes bigint);
insert into bucket values (1, 2500000000), (2, 1), (1, 500000000);
"""


def yesterday() -> dt.date:
    """Return a day whose windows are over, whatever the hour."""
    return dt.datetime.now(dt.UTC).date() - dt.timedelta(days=1)  # noqa: TID251 - the host's day, as the ledger's


@pytest.fixture
def app(source_url: str) -> Iterator[psycopg.Connection[Any]]:
    """The application at work on its database."""
    with psycopg.connect(source_url, autocommit=True) as connection:
        connection.execute(TABLES)
        yield connection


@pytest.fixture
def config(tmp_path: Path, ledger_url: str, source_url: str, app: psycopg.Connection[Any]) -> Path:
    """The page's recipes, sampled once a second, in a file."""
    meters = {name: {**meter, "every": "1s", "sinks": ["files"]} for name, meter in RECIPES.items()}
    for meter in meters.values():
        meter["start_at"] = f"{yesterday()}T00:00Z"
    path = tmp_path / "aggregator.yaml"
    path.write_text(
        json.dumps(
            {
                "ledger": {"url": ledger_url, "lease": "5s"},
                "state_dir": str(tmp_path / "state"),
                "sources": {"app": {"url": source_url}},
                "sinks": {"files": {"type": "directory", "directory": str(tmp_path / "out")}},
                "meters": meters,
            }
        )
    )
    return path


@pytest.fixture
def call(config: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Run a command in this process; the ledger's server is fast for not being durable."""
    monkeypatch.setattr("aggregator.wiring.opening.unfit", lambda database: [])

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(cli, [*arguments, "--config", str(config)])

    return run


RUN = "import aggregator.wiring.opening as opening; opening.unfit = lambda _: []; from aggregator.cli import cli; cli()"


def pass_once(config: Path, kill_at: str = "") -> int:
    """Run one pass in a process of its own, which is killed at a point if one is named; return how it ended."""
    environment = {**os.environ, **({"AGGREGATOR_KILL_AT": kill_at} if kill_at else {})}
    command = [sys.executable, "-c", RUN, "run", "--once", "--config", str(config)]
    done = subprocess.run(command, env=environment, capture_output=True, timeout=120, check=False, text=True)
    return done.returncode


def opened(call: Callable[..., Result], meter: str) -> dict[str, Decimal]:
    """Return what the samples of the open window come to, by customer."""
    result = call("usage", meter, "--by", "customer", "--live", "--json")
    assert result.exit_code == 0, (result.output, result.exception)
    told = json.loads(result.output)
    return {line["customer"]: Decimal(line["open"]) for line in told["feeds"][0]["lines"] if line["customer"]}


def test_check_tries_each_query_and_says_what_is_sampled_when(
    call: Callable[..., Result], app: psycopg.Connection[Any]
) -> None:
    """The page's recipes work; a counter that cannot be told from another one is wrong before anything is billed."""
    found = json.loads(call("check", "--json").output)["findings"]
    said = {each["what"]: each for each in found if each["what"].startswith("meter ")}
    assert {name.removeprefix("meter ") for name in said} == RECIPES.keys(), found
    assert said["meter seat_hours"]["text"] == "the query gives 2 rows now; a sample is due every 1s"
    assert (
        "of which 1 can be billed to nobody, such as one where no customer"
        in said["meter egress_bytes"]["text"]
    )
    app.execute("alter table device drop column id; alter table device add column id int default 1")
    app.execute("update device set reported_at = now()")
    found = json.loads(call("check", "--json").output)["findings"]
    [wrong] = [each for each in found if each["verdict"] == "wrong" and each["what"].startswith("meter")]
    assert (
        "4 rows and only 3 counters: return as `series` what tells a customer's counters apart"
        in wrong["text"]
    )


def test_a_process_that_is_killed_loses_and_doubles_no_sample(
    config: Path, call: Callable[..., Result], app: psycopg.Connection[Any]
) -> None:
    """Killed with SIGKILL before, within and after the transaction of a sample: increases come to what counters rose by."""
    assert pass_once(config) == 0
    for point in SAMPLE_POINTS:
        app.execute("update device set bytes_total = bytes_total + id, reported_at = clock_timestamp()")
        assert pass_once(config, f"{point}:1") == -signal.SIGKILL
        app.execute("update device set bytes_total = bytes_total + 10, reported_at = clock_timestamp()")
        until(lambda: pass_once(config) == 0, "the lease of the process that was killed has ended")
    assert opened(call, "egress_bytes") == {"cus_1": 3 * (1 + 2 + 20), "cus_2": 3 * (3 + 10)}


def test_commands_tell_of_samples(
    config: Path, call: Callable[..., Result], app: psycopg.Connection[Any]
) -> None:
    """`status` says when each was sampled; `backfill` refuses what was not; `usage` and `explain` show what there is."""
    assert pass_once(config) == 0
    notes = json.loads(call("status", "--json").output)["notes"]
    assert [
        note
        for note in notes
        if "seat_hours was sampled at" in note and "2 rows; one is due every 1s" in note
    ]
    assert [note for note in notes if "egress_bytes" in note and "was sampled at" in note]
    refused = call("backfill", "seat_hours", "--from", f"{yesterday()}T00:00Z")
    assert "is read from samples, and it was first sampled at" in str(refused.exception)
    reported = app.execute(
        "update device set bytes_total = bytes_total + 40, reported_at = clock_timestamp() where id = 2 "
        "returning reported_at"
    ).fetchone()
    assert reported is not None
    assert pass_once(config) == 0
    window = f"{reported[0].astimezone(dt.UTC):%Y-%m-%dT%H:%M}Z"
    told = json.loads(
        call("explain", "egress_bytes", "--customer", "cus_1", "--window", window, "--json").output
    )
    [story] = told["windows"]
    detail = story["rows"]
    assert detail["columns"] == ["at", "series", "value", "before", "before_at", "came_to"]
    assert [row[1:4] + row[5:] for row in detail["rows"]][-1] == ["2", "540", "500", "40"]
