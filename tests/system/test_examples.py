"""The example configurations, run as they lie in config/: only dates, addresses and secrets are a test's own."""

import datetime as dt
import shutil
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import psycopg
import pytest

from aggregator.core.windows import floor
from aggregator.runtime.clock import utcnow
from tests.system.harness import Sandbox, World, sandbox_process

EXAMPLES = Path(__file__).parents[2] / "config"
WRITTEN_START = "2026-11-01T00:00Z"
DAY = dt.timedelta(days=1)

TABLES = """
create table api_usage (customer_id text, quantity numeric, used_at timestamp);
create table customer (id int primary key, stripe_customer_id text, name text);
create table account (id int primary key, stripe_customer_id text);
create table api_request (customer_id int, created_at timestamptz, updated_at timestamptz default now());
create table seat_use (account_id int, user_id int, used_at timestamptz);
create table data_export (stripe_customer_id text, created_at timestamptz);
create table storage_sample (stripe_customer_id text, stored_bytes numeric, sampled_at timestamptz);
create table pgbench_history (tid int, bid int, aid int, delta int, mtime timestamp, filler char(22));
create table heartbeat (beat_at timestamptz);
create table ingested (id bigserial primary key, customer text, used_at timestamptz);
"""

USAGE = """
insert into api_usage values ('cus_a', 5, %(at)s at time zone 'UTC'), ('cus_a', 2, %(at)s at time zone 'UTC');
insert into customer values (1, 'cus_a', 'Ada'), (2, null, 'Bob');
insert into account values (1, 'cus_a');
insert into api_request values (1, %(at)s), (1, %(at)s), (2, %(at)s);
insert into seat_use values (1, 10, %(at)s), (1, 11, %(at)s), (1, 10, %(at)s);
insert into data_export values ('cus_a', %(at)s), ('cus_a', %(at)s), ('cus_a', %(at)s);
insert into storage_sample values ('cus_a', 1.5 * 1024 ^ 3, %(at)s), ('cus_a', 0.25 * 1024 ^ 3, %(at)s);
insert into pgbench_history values (1, 7, 70, -40, %(at)s at time zone 'UTC', '');
insert into heartbeat values (now());
insert into ingested (customer, used_at) values ('cus_a', %(at)s), ('cus_a', %(at)s);
insert into pgbench_history values (1, 7, 71, 2, %(at)s at time zone 'UTC', '');
"""


@pytest.fixture(scope="module")
def sandbox_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """A sandbox without meters: each example makes its own."""
    with sandbox_process(tmp_path_factory.mktemp("sandbox")) as sandbox:
        yield sandbox


@pytest.fixture
def example(tmp_path: Path, source_url: str, ledger_url: str, sandbox: Sandbox) -> Iterator[World]:
    """A copy of config/ whose usage began three days ago, and an application database with some of it."""
    start = floor(utcnow(), DAY) - 3 * DAY
    shutil.copytree(EXAMPLES, tmp_path, dirs_exist_ok=True)
    for file in tmp_path.rglob("*.yaml"):
        text = file.read_text().replace(WRITTEN_START, f"{start:%Y-%m-%dT%H:%MZ}")
        # The live sink of full.yaml leaves out its address, which means Stripe's own.
        file.write_text(text.replace("    mode: live ", "    api_base: ${SANDBOX_URL}\n    mode: live "))
    (tmp_path / "partners.csv").write_text("key,customer,name\nada,cus_a,Ada\n")
    (tmp_path / "warehouse_url").write_text(source_url)
    (tmp_path / "stripe_test_key").write_text("sk_test_sandbox")
    with World(tmp_path, source_url, ledger_url, sandbox) as world:
        world.start = start
        world.source(TABLES)
        with psycopg.connect(source_url) as connection:
            for statement in USAGE.strip().split(";\n"):
                connection.execute(statement, {"at": start + 1.5 * DAY})
        yield world


def once(example: World, name: str) -> None:
    """Make the Stripe meters of an example, and run one pass of it."""
    secrets = {
        "APP_DATABASE_URL": example.source_url,
        "LEDGER_URL": example.ledger_url or "",
        "SANDBOX_URL": example.sandbox.url,
        "STRIPE_API_KEY": "sk_live_sandbox",
        "STRIPE_WEBHOOK_SECRET": "whsec_of_a_test",
        "METRONOME_TOKEN": "token",
        "CREDENTIALS_DIRECTORY": str(example.directory),
        "START_AT": f"{example.start:%Y-%m-%dT%H:%MZ}",
    }
    for command in (["meters", "apply", "--yes"], ["meters", "diff"], ["run", "--once"]):
        ran = example.run(*command, "--config", name, **secrets)
        assert ran.code == 0, ran.said


def test_the_minimal_example_bills(example: World) -> None:
    """The smallest configuration there is bills what was used, with the embedded ledger it implies."""
    once(example, "minimal.yaml")
    assert example.sandbox.totals("api_requests") == {"cus_a": 7}


def test_the_full_example_bills(example: World) -> None:
    """Every key at work: sources, sinks, a mapping of customers, a cursor, an included meter, a query in a file."""
    once(example, "full.yaml")
    totals = {
        name: example.sandbox.totals(name, livemode=True)
        for name in ("api_requests", "storage_gib_hours", "seat_hours", "events_ingested")
    }
    assert totals == {
        "api_requests": {"cus_a": 2},
        "storage_gib_hours": {"cus_a": Decimal("1.75")},
        "seat_hours": {"cus_a": 2},
        "events_ingested": {"cus_a": 2},
    }
    assert example.sandbox.totals("api_requests") == {"cus_a": 2}, "the rehearsal gets every event, too"


def test_the_pgbench_example_bills(example: World) -> None:
    """The meters over pgbench's own table."""
    once(example, "pgbench.yaml")
    assert example.sandbox.totals("branch_turnover") == {"cus_7": 42}
    assert example.sandbox.totals("account_transactions") == {"cus_70": 1, "cus_71": 1}


def test_the_stripe_meters_page_bills(example: World) -> None:
    """Its configuration makes four kinds of meters at Stripe, and each bills what it says it does."""
    page = (EXAMPLES.parent / "docs" / "stripe-meters.md").read_text()
    text = (
        page.split("```yaml\n")[1].split("```")[0].replace(WRITTEN_START, f"{example.start:%Y-%m-%dT%H:%MZ}")
    )
    text = text.replace("    mode: live", "    mode: live\n    api_base: ${SANDBOX_URL}")
    (example.directory / "page.yaml").write_text(text)
    once(example, "page.yaml")
    names = ("api_requests", "storage_gib_days", "seats", "data_exports")
    assert {name: example.sandbox.totals(name, livemode=True) for name in names} == {
        "api_requests": {"cus_a": 2},
        "storage_gib_days": {"cus_a": Decimal("0.875")},
        "seats": {"cus_a": 2},
        "data_exports": {"cus_a": 3},
    }
