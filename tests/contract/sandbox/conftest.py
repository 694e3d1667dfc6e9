"""One sandbox per test run over real HTTP, as new for each test, its clock at noon."""

from collections.abc import Iterator

import pytest
from stripe import StripeClient

from aggregator.sandbox import MeterSpec, RunningSandbox, SandboxOptions, running
from tests.contract.sandbox.sandbox_calls import LIVE_KEY, NOON, connect

METERS = (
    MeterSpec("api_requests"),
    MeterSpec("logins", "count"),
    MeterSpec("seats", "last"),
    MeterSpec("stored_gb", "sum", "hour"),
    MeterSpec("peak_gb", "sum", "day"),
)


@pytest.fixture(scope="session")
def sandbox_server() -> Iterator[RunningSandbox]:
    """The one server."""
    with running(SandboxOptions(meters=METERS)) as server:
        yield server


@pytest.fixture
def sandbox(sandbox_server: RunningSandbox) -> RunningSandbox:
    """The server with nothing in it but its meters."""
    sandbox_server.reset()
    sandbox_server.set_time(NOON)
    return sandbox_server


@pytest.fixture
def stripe_client(sandbox: RunningSandbox) -> StripeClient:
    """Stripe's library in test mode."""
    return connect(sandbox.url)


@pytest.fixture
def live_client(sandbox: RunningSandbox) -> StripeClient:
    """Stripe's library in live mode."""
    return connect(sandbox.url, LIVE_KEY)
