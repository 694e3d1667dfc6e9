"""`aggregator test`: queries read given rows on the engines that they run on, in a role that may only read."""

import json
import sqlite3
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner, Result

from aggregator.cli import cli
from tests.postgres.servers import as_role

pytestmark = pytest.mark.direct

CONFIG = """
sources:
  app: {{url: "{url}"}}
sinks:
  stripe: {{type: stripe, api_key: sk_test_x, mode: test}}
meters:
  requests:
    source: app
    sinks: [stripe]
    window: 1h
    start_at: 2026-11-01T00:00Z
    query: |
{query}
    tests: {tests}
"""

QUERY = """
-- app.usage: only what was answered, "app.usage" in quotes and 'app.usage' as text are none of it
with answered as (select * from APP . usage where status < 500)
select account.billed_to as customer, sum(answered.quantity) as quantity, {hour} as window
  from answered join app."Account" as account on account.id = answered.account
 where answered.at >= :start and answered.at < :end and answered.note <> 'app.Usage at 10:00'
 group by 1, 3
"""

POSTGRES = QUERY.format(hour="date_trunc('hour', answered.at)")
SQLITE = (
    QUERY.replace("APP . usage", "usage")
    .replace('app."Account"', "account")
    .format(hour="strftime('%Y-%m-%d %H:00:00', answered.at)")
)

TEN, ELEVEN = "2026-11-02T10:00Z", "2026-11-02T11:00Z"

ACCOUNTS = [
    {"id": 1, "billed_to": "cus_1"},
    {"id": 2, "billed_to": "cus_2"},
    {"id": 3},
    {"id": 4, "billed_to": "org :end, :start"},
]


def used(
    account: int, at: str, quantity: object = 1, status: int = 200, note: str = ': 100% it\'s :start \\ "x"'
) -> dict[str, object]:
    """One row of usage, with a note that no engine may take for anything but text."""
    return {"account": account, "at": at, "quantity": quantity, "status": status, "note": note}


def expected(customer: str | None, window: str, quantity: object) -> dict[str, object]:
    """One line of expected usage."""
    return ({} if customer is None else {"customer": customer}) | {"window": window, "quantity": quantity}


def case(rows: list[dict[str, object]], *usage: dict[str, object], **more: object) -> dict[str, object]:
    """One test, with accounts beside the usage."""
    return {
        "name": "it adds up",
        "rows": {"app.usage": rows, 'app."Account"': ACCOUNTS},
        "usage": list(usage),
        **more,
    }


def number(text: str | None) -> Decimal | None:
    """Return an exact number of the JSON."""
    return None if text is None else Decimal(text)


Tested = Callable[..., Result]


@pytest.fixture
def role(source_url: str) -> Iterator[str]:
    """A role that may read the tables, and nothing else; what they really hold must never show."""
    name = f"reader_{source_url.rpartition('test_')[2][:12]}"
    with psycopg.connect(source_url, autocommit=True) as connection:
        connection.execute(
            f"""
            create schema app;
            create table app.usage
                (account int, at timestamptz, quantity numeric(20, 6), status int not null, note text);
            create table app."Account" (id int primary key, billed_to text);
            insert into app.usage values (1, '2026-11-02 10:30Z', 1000, 200, 'real');
            insert into app."Account" values (1, 'cus_real');
            create role {name} login;
            grant usage on schema app to {name};
            grant select on all tables in schema app to {name}
            """
        )
        yield name
        connection.execute(f"drop owned by {name} cascade; drop role {name}")


@pytest.fixture(params=["postgres", "sqlite"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Tested:
    """Run the command over some tests of a meter."""
    if request.param == "postgres":
        url = as_role(request.getfixturevalue("source_url"), request.getfixturevalue("role"))
        query = POSTGRES
    else:
        file = tmp_path / "app.db"
        with sqlite3.connect(file) as database:
            database.executescript(
                """
                create table usage (account int, at text, quantity numeric, status int not null, note text);
                create table account (id integer primary key, billed_to text);
                insert into usage values (1, '2026-11-02 10:30:00', 1000, 200, 'real');
                insert into account values (1, 'cus_real');
                """
            )
        url, query = f"sqlite:///{file}", SQLITE

    def tested(
        *tests: dict[str, Any], options: tuple[str, ...] = ("--json",), changed: tuple[str, str] = ("", "")
    ) -> Result:
        text = json.dumps(tests)
        if request.param == "sqlite":
            text = text.replace("app.usage", "usage").replace('app.\\"Account\\"', "account")
            text = text.replace("T10:", " 10:").replace("T11:", " 11:").replace("T09:", " 09:")
        path = tmp_path / "aggregator.yaml"
        indented = "\n".join(f"      {line}" for line in query.strip().replace(*changed).splitlines())
        path.write_text(CONFIG.format(url=url, query=indented, tests=text))
        return CliRunner().invoke(cli, ["test", "--config", str(path), *options])

    return tested


def test_a_query_that_does_as_it_says_passes(run: Tested) -> None:
    """Given rows take the place of the tables, in a role that could write nothing: what these hold does not show."""
    result = run(
        case(
            [
                used(1, "2026-11-02T10:00:00Z", 1.5),
                used(1, "2026-11-02T10:59:59Z", "2.25"),
                used(1, "2026-11-02T10:20:00Z", 7, status=503),
                used(2, "2026-11-02T11:00:00Z", 4),
                used(3, "2026-11-02T11:00:00Z", 5),
                used(4, "2026-11-02T11:00:00Z", 6),
                used(4, "2026-11-02T11:00:00Z", 7, note="app.Usage at 10:00"),
            ],
            expected("cus_1", TEN, 3.75),
            expected("cus_2", ELEVEN, 4),
            expected(None, ELEVEN, "5.0"),
            expected("org :end, :start", ELEVEN, 6),
        )
    )
    assert result.exit_code == 0, result.output
    assert json.loads(result.output)["tests"] == [
        {"meter": "requests", "test": "it adds up", "passed": True, "error": None, "differences": []}
    ]


def test_what_differs_is_shown_and_nothing_beside_it_is_missed(run: Tested) -> None:
    """Usage that is expected and does not come, that comes and is not expected, and another number."""
    result = run(
        case(
            [used(1, "2026-11-02T10:10:00Z", 2), used(2, "2026-11-02T09:10:00Z", 1)],
            expected("cus_1", TEN, 3),
            expected("cus_1", ELEVEN, 1),
        ),
    )
    assert result.exit_code == 3
    [tested] = json.loads(result.output)["tests"]
    told = [
        (each["customer"], each["window"][11:16], number(each["expected"]), number(each["given"]))
        for each in tested["differences"]
    ]
    assert told == [
        ("cus_2", "09:00", None, 1),
        ("cus_1", "10:00", 3, 2),
        ("cus_1", "11:00", 1, None),
    ]


def test_people_are_shown_a_table_and_how_many_passed(run: Tested) -> None:
    """Each difference on a line of its own."""
    passes = case([used(1, "2026-11-02T10:10:00Z", 2)], expected("cus_1", TEN, 2))
    differs = case([used(1, "2026-11-02T10:10:00Z", 2)], expected("cus_1", TEN, 3), name="it does not")
    lines = run(passes, differs, options=()).output.splitlines()
    assert [line.split() for line in lines if "cus_1" in line] == [
        ["requests", "it", "does", "not", "cus_1", "2026-11-02", "10:00", "3", "2", "-"]
    ]
    assert lines[-1] == "1 test of 2 passed."


def test_a_table_without_rows_is_not_read(run: Tested) -> None:
    """Else a test would go by what the table holds today."""
    result = run({"name": "one is missing", "rows": {"app.usage": []}, "usage": [expected("cus_1", TEN, 1)]})
    assert result.exit_code == 1
    assert "the query also reads " in json.loads(result.output)["tests"][0]["error"]


def test_no_rows_give_nothing(run: Tested) -> None:
    """It is said where that is looked for."""
    empty = case([], **{"from": TEN, "to": ELEVEN})
    assert run(empty).exit_code == 0


def test_a_column_that_is_none_is_named(run: Tested) -> None:
    """A value that goes nowhere would make a test that shows nothing."""
    result = run(case([{"acount": 1}], expected("cus_1", TEN, 1)))
    assert result.exit_code == 1
    error = json.loads(result.output)["tests"][0]["error"]
    assert "has no column acount; it has: account, at, quantity, status, note" in error


def test_a_table_that_is_none_is_named_by_the_engine(run: Tested) -> None:
    """And the other tests go on."""
    wrong = {"name": "wrong", "rows": {"nowhere": []}, "usage": [expected("cus_1", TEN, 1)]}
    right = case([used(1, "2026-11-02T10:00:00Z")], expected("cus_1", TEN, 1))
    result = run(wrong, right)
    assert result.exit_code == 1
    tests = json.loads(result.output)["tests"]
    assert "nowhere" in tests[0]["error"]
    assert [each["passed"] for each in tests] == [False, True]


def test_a_mistake_in_the_query_shows(run: Tested) -> None:
    """What a pull request would bill: failures too."""
    test = case(
        [used(1, "2026-11-02T10:00:00Z"), used(1, "2026-11-02T10:00:00Z", status=500)],
        expected("cus_1", TEN, 1),
    )
    assert run(test).exit_code == 0
    result = run(test, changed=("< 500", "<= 500"))
    assert result.exit_code == 3
    [tested] = json.loads(result.output)["tests"]
    assert [number(each["given"]) for each in tested["differences"]] == [2]


def test_without_tests_it_says_where_they_go(run: Tested) -> None:
    """Nothing failed."""
    result = run(options=())
    assert result.exit_code == 0
    assert "No test is configured" in result.output
