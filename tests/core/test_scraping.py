"""Who may read /metrics: everybody on this machine, and from elsewhere who sends a token."""

import asyncio
from typing import Any

import pytest

from aggregator.monitoring.response import Response
from aggregator.web.application import Application
from aggregator.web.metrics import Metrics
from aggregator.web.sessions import Access

OPERATOR, SCRAPER = "o" * 24, "s" * 24
PASSED_ON = (b"x-forwarded-for", b"203.0.113.9")


def status_of(access: Access, token: str | None, *headers: tuple[bytes, bytes]) -> int:
    """Scrape with these headers, and return the status."""
    metrics = Metrics(lambda: Response(200, "text/plain", b"aggregator_ledger_up 1\n"), access, token)
    sent: list[Any] = []

    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "GET",
        "path": "/metrics",
        "raw_path": b"/metrics",
        "query_string": b"",
        "headers": [*headers] if any(name == b"host" for name, _ in headers) else [HERE, *headers],
        "server": ("127.0.0.1", 80),
    }
    asyncio.run(Application(metrics.routes())(scope, receive, send))
    metrics.close()
    assert (b"aggregator_ledger_up" in sent[-1]["body"]) == (sent[0]["status"] == 200)
    return int(sent[0]["status"])


HERE = (b"host", b"127.0.0.1:8080")


def bearer(token: str) -> tuple[bytes, bytes]:
    return b"authorization", f"Bearer {token}".encode()


@pytest.mark.parametrize(
    ("token", "headers", "status"),
    [
        (None, [], 200),
        (None, [PASSED_ON], 401),
        (None, [(b"host", b"localhost:8080")], 200),
        (None, [(b"host", b"rebound.example:8080")], 421),
        (None, [(b"host", b"")], 421),
        (SCRAPER, [PASSED_ON, bearer(SCRAPER)], 200),
        (SCRAPER, [bearer("x" * 24)], 401),
    ],
)
def test_on_this_machine_everybody_may(
    token: str | None, headers: list[tuple[bytes, bytes]], status: int
) -> None:
    """But not by another name, what a web server passed on, nor whoever sends a wrong token."""
    assert status_of(Access(None, open=True, host="127.0.0.1"), token, *headers) == status


@pytest.mark.parametrize(
    ("token", "headers", "status"),
    [
        (SCRAPER, [], 401),
        (None, [], 401),
        (SCRAPER, [bearer(SCRAPER)], 200),
        (SCRAPER, [bearer(OPERATOR)], 200),
        (None, [bearer(OPERATOR)], 200),
        (SCRAPER, [bearer("")], 401),
        (None, [bearer("")], 401),
        (SCRAPER, [bearer(SCRAPER + "x")], 401),
        (SCRAPER, [(b"authorization", b"Basic " + SCRAPER.encode())], 401),
    ],
)
def test_from_elsewhere_a_token_is_needed(
    token: str | None, headers: list[tuple[bytes, bytes]], status: int
) -> None:
    """The scraper's, or the operator's: no other, none at all, and in no other way."""
    assert status_of(Access(OPERATOR, open=False, host="0.0.0.0"), token, *headers) == status
