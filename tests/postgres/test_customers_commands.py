"""Commands over a meter whose query returns keys: what they say of customers, names, and what waits for an id."""

import datetime as dt
import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from aggregator.cli import cli

CONFIG = """
ledger: {{url: '{ledger}'}}
state_dir: '{directory}'
sources:
  app: {{url: 'sqlite:///{directory}/app.db'}}
  crm: {{url: 'sqlite:///{directory}/crm.db'}}
sinks: {{files: {{type: csv, directory: '{directory}/files'}}}}
customers:
  accounts: {{source: crm, query: 'select account as key, cus as customer, name from account', moved: all, every: 10s}}
  partners: {{file: partners.csv, moved: future}}
meters:
  api_requests:
    source: app
    sinks: [files]
    customers: {mapping}
    window: 1h
    start_at: {day:%Y-%m-%dT%H:%MZ}
    query: select account as customer, quantity, at, at as window from used where at >= :start and at < :end
    detail_query: select account, quantity from used where account = :customer and at >= :start and at < :end
"""

DAY = dt.datetime.now(dt.UTC).replace(hour=0, minute=0, second=0, microsecond=0) - dt.timedelta(days=1)  # noqa: TID251 - commands go by the clock
SINCE = ("--from", f"{DAY:%Y-%m-%dT%H:%MZ}")
"""What a command is asked for: yesterday may lie in another month than today."""

Call = Callable[..., Result]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """An application that knows accounts 1, 2 and 3, and another database that knows two of them."""
    with sqlite3.connect(tmp_path / "app.db") as app:
        app.execute("create table used (account int, quantity int, at text)")
        rows = [
            (account, account * 10, f"{DAY:%Y-%m-%d} 0{hour}:30:00")
            for account in (1, 2, 3)
            for hour in (1, 2)
        ]
        app.executemany("insert into used values (?, ?, ?)", rows)
    with sqlite3.connect(tmp_path / "crm.db") as crm:
        crm.execute("create table account (account int, cus text, name text)")
        crm.executemany(
            "insert into account values (?, ?, ?)", [(1, "cus_1", "Ada Ltd"), (2, None, "Bo Inc")]
        )
    (tmp_path / "partners.csv").write_text("key,customer,name\n1,cus_1,Ada Ltd\n2,cus_1,\n3,cus_3,\n")
    return tmp_path


@pytest.fixture
def call(ledger_url: str, directory: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    """Run a command over the ledger of this test, whose server is fast for not being durable."""
    monkeypatch.setattr("aggregator.wiring.opening.unfit", lambda database: [])

    def run(*arguments: str, mapping: str = "accounts") -> Result:
        path = directory / "aggregator.yaml"
        path.write_text(CONFIG.format(ledger=ledger_url, directory=directory, mapping=mapping, day=DAY))
        return CliRunner().invoke(cli, [*arguments, "--config", str(path)])

    return run


def told(result: Result) -> Any:
    """Return what a command printed for programs."""
    return json.loads(result.stdout)


def test_check_counts_keys_and_customers(call: Call, directory: Path) -> None:
    """Each mapping is read once; keys that used something and have no customer are named."""
    found = told(call("check", "--json"))["findings"]
    said = {(each["what"], each["verdict"]): each["text"] for each in found}
    assert said["customers accounts", "ok"] == "2 keys, 1 customer, 1 without one"
    assert said["customers partners", "ok"] == "3 keys, 2 customers, 0 without one"
    assert "2 of 3 keys with usage in" in " ".join(
        each["text"] for each in found if (each["what"], each["verdict"]) == ("meter api_requests", "note")
    )
    (directory / "partners.csv").write_text("key,customer\n1,cus_1\n1,cus_2\n")
    wrong = [each["text"] for each in told(call("check", "--json"))["findings"] if each["verdict"] == "wrong"]
    assert "gives key '1' two customers, 'cus_1' and 'cus_2': let it give one for each key" in wrong


def test_one_pass_reads_the_mapping_first(call: Call) -> None:
    """What has a customer becomes an event; `status` says how much waits, whose, and until when it can be billed."""
    first = call("run", "--once")
    assert first.exit_code in (0, 3), first.output
    status = call("status").output
    assert "api_requests: 100 of 2 keys without a customer id wait since" in status
    assert "The oldest gets too old for its sinks in 3" in status
    assert told(call("status", "--json"))["mappings"][0]["keys"] == 1
    [files] = told(call("usage", *SINCE, "--json"))["feeds"]
    assert (files["total"]["used"], files["total"]["unmapped"]) == ("120", "100")
    assert "customers accounts" not in status


def test_finance_sees_names(call: Call) -> None:
    """Whoever has a name is shown with it: customers, and keys that wait."""
    call("run", "--once")
    table = call("usage", *SINCE, "--by", "customer").output
    assert "Ada Ltd" in table
    assert "Bo Inc" in table
    lines = told(call("usage", *SINCE, "--by", "customer", "--json"))["feeds"][0]["lines"]
    assert {(each["customer"], each["name"]) for each in lines} == {
        ("cus_1", "Ada Ltd"),
        ("2", "Bo Inc"),
        ("3", None),
    }
    assert call("usage", *SINCE, "--by", "customer", "--csv").output.startswith(
        "meter,sink,customer,name,used"
    )
    assert call("statement", "cus_1", *SINCE).output.startswith("Statement for Ada Ltd (cus_1), ")
    window = f"{DAY:%Y-%m-%dT01:00Z}"
    story = call("explain", "api_requests", "--customer", "cus_1", "--window", window)
    assert "Ada Ltd" in story.output
    assert "where customer = '1';" in story.output, "the query is shown as the source has it"
    story_told = told(call("explain", "api_requests", "--customer", "cus_1", "--window", window, "--json"))
    assert (story_told["name"], story_told["windows"][0]["rows"]["rows"]) == ("Ada Ltd", [[1, 10]])
