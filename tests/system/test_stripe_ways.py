"""The configurations of docs/stripe-meter-events.md, run as they stand but for dates and addresses."""

import datetime as dt
import re
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from aggregator.core.windows import floor
from aggregator.runtime.clock import utcnow
from tests.system.harness import Sandbox, World, sandbox_process

PAGE = Path(__file__).parents[2] / "docs" / "stripe-meter-events.md"
CONFIGURATIONS = re.findall(r"^```yaml\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)

WRITTEN_START = "2026-11-01T00:00Z"
DAY = dt.timedelta(days=1)
ACCOUNT = "acct_1ABC"

TABLES = """
create table customer (id int primary key, stripe_account text, stripe_customer_id text);
create table api_request (customer_id int, created_at timestamptz);
insert into customer values (1, 'acct_1ABC', 'cus_a'), (2, 'acct_1ABC', 'cus_b');
"""


def way_of(text: str) -> str:
    """Name a configuration by the line that makes it another one."""
    named = re.search(r"^    (transport|stripe_account|accounts): (\w+)$", text, re.MULTILINE)
    assert named is not None
    return named[2]


@pytest.fixture(scope="module")
def sandbox_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """A sandbox with the meter that they name, in every account."""
    with sandbox_process(tmp_path_factory.mktemp("sandbox"), "--meter=api_requests:sum") as sandbox:
        yield sandbox


@pytest.fixture
def world(tmp_path: Path, source_url: str, ledger_url: str, sandbox: Sandbox) -> Iterator[World]:
    """An application database with three uses of one customer, and one of another."""
    start = floor(utcnow(), DAY) - 3 * DAY
    with World(tmp_path, source_url, ledger_url, sandbox) as world:
        world.start = start
        world.source(TABLES)
        with psycopg.connect(source_url) as connection:
            for customer in (1, 1, 1, 2):
                at = start + 1.5 * DAY
                connection.execute("insert into api_request values (%s, %s)", (customer, at))
        yield world


@pytest.mark.parametrize("text", CONFIGURATIONS, ids=way_of)
def test_the_configuration_bills(world: World, text: str) -> None:
    """What was used is at Stripe, in the account that the configuration says."""
    address = f"    api_base: {world.sandbox.url}\n    mode: live\n"
    text = text.replace(WRITTEN_START, f"{world.start:%Y-%m-%dT%H:%MZ}").replace("    mode: live\n", address)
    (world.directory / "way.yaml").write_text(f"ledger:\n  url: ${{LEDGER_URL}}\n{text}")
    secrets = {
        "APP_DATABASE_URL": world.source_url,
        "LEDGER_URL": world.ledger_url or "",
        "STRIPE_API_KEY": "sk_live_sandbox",
    }
    ran = world.run("run", "--once", "--config", "way.yaml", **secrets)
    assert ran.code == 0, ran.said
    account = ACCOUNT if way_of(text) in {ACCOUNT, "by_customer"} else None
    found = world.sandbox.totals("api_requests", livemode=True, account=account)
    assert found == {"cus_a": 3, "cus_b": 1}
    if account:
        assert world.sandbox.totals("api_requests", livemode=True) == {}


def test_every_way_is_shown() -> None:
    """Each transport, and each kind of connected account, has a configuration on the page."""
    assert [way_of(text) for text in CONFIGURATIONS] == ["v1", "v2", "stream", "auto", ACCOUNT, "by_customer"]
