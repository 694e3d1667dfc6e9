"""What we send is what Stripe's official library sends: each call is made by both, and captured as it comes."""

import asyncio
import datetime as dt
import json
import os
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import Any

import pytest
import stripe

from aggregator import __version__
from aggregator.core.model import Span
from aggregator.core.windows import DAY
from aggregator.errors import SinkUnreachable
from aggregator.sinks.responses import NoResponse
from aggregator.sinks.stripe import wire
from aggregator.sinks.stripe.account import Account
from aggregator.sinks.stripe.account_context import AccountContext
from aggregator.sinks.stripe.client import Client
from aggregator.sinks.stripe.invalid_events import HEALTH
from aggregator.sinks.stripe.notifications import Messages
from aggregator.sinks.stripe_meter import StripeMeter
from tests.contract.scripted import EVENTS_V1, EVENTS_V2, STREAM, Asked, Server, Told, serving

KEY = "sk_test_0123456789abcdefghij"

NAMES = (
    "cus_123",
    "Zoë & Söhne",
    "a b+c%20d",
    "[brackets] {braces}",
    "%5Bescaped%5D",
    'quote"s and \\ and /',
    "日本 🙂",
    "=;,&?#~!*'()",
)

DIFFERENT = {"idempotency-key", "host", "accept-encoding", "connection"}
"""Each call has a key of its own; the rest is the connection's own business."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server that takes everything. The library's word on which program runs it is not ours to say."""
    for name in [*os.environ]:
        if name not in ("PATH", "HOME", "TMPDIR"):
            monkeypatch.delenv(name)
    with serving() as server:
        yield server


def called(server: Server, *calls: Callable[[Client], Awaitable[object]]) -> list[object]:
    """Make calls, one after the other, and return what came of them."""

    async def all_of_them() -> list[object]:
        client = Client(KEY, api_base=server.url, timeout_seconds=20, connections=4)
        try:
            return [await call(client) for call in calls]
        finally:
            await client.close()

    return asyncio.run(all_of_them())


def said(asked: Asked) -> tuple[object, ...]:
    """Return a call byte by byte, but for what differs from call to call."""
    headers = {name: value for name, value in asked.headers.items() if name not in DIFFERENT}
    return asked.method, asked.path, asked.raw, asked.body, headers


def assert_alike(first: Asked, second: Asked) -> None:
    """Compare two calls that carry something."""
    assert said(first) == said(second)
    assert first.headers["idempotency-key"]
    assert second.headers["idempotency-key"]


@pytest.mark.parametrize("account", [None, "acct_123"])
@pytest.mark.parametrize("name", NAMES)
def test_version_1_is_written_as_the_library_writes_it(
    server: Server, name: str, account: str | None
) -> None:
    """Whatever the names hold, for the own account and a connected one."""
    payload = {"stripe_customer_id": name, "value": "12.5", f"model[{name}]": name}
    at = 1_764_000_000
    options: Any = {"stripe_account": account} if account else {}
    called(
        server,
        lambda client: client.api.v1.billing.meter_events.create_async(
            {"event_name": name, "identifier": "id-1", "timestamp": at, "payload": payload}, options
        ),
        lambda client: client.post(wire.Path.V1, wire.form(name, "id-1", at, payload), "key", account),
    )
    first, second = server.to(EVENTS_V1)
    assert_alike(first, second)


@pytest.mark.parametrize("account", [None, "acct_123"])
@pytest.mark.parametrize("name", NAMES)
def test_version_2_is_written_as_the_library_writes_it(
    server: Server, name: str, account: str | None
) -> None:
    """The same as JSON."""
    event: wire.Document = {
        "event_name": name,
        "identifier": "id-1",
        "timestamp": "2026-11-29T12:00:00Z",
        "payload": {"stripe_customer_id": name, "value": "-3"},
    }
    options: Any = {"stripe_account": account} if account else {}
    called(
        server,
        lambda client: client.api.v2.billing.meter_events.create_async({**event}, options),  # type: ignore[typeddict-item]  # a mapping
        lambda client: client.post(wire.Path.V2, wire.document(event), "key", account),
    )
    first, second = server.to(EVENTS_V2)
    assert_alike(first, second)


@pytest.mark.parametrize("account", [None, "acct_123"])
def test_the_stream_is_written_as_the_library_writes_it(server: Server, account: str | None) -> None:
    """Many events, under the token of a session."""
    events: list[wire.Document] = [
        {
            "event_name": "api",
            "identifier": f"id-{number}",
            "timestamp": "2026-11-29T12:00:00Z",
            "payload": {"stripe_customer_id": name, "value": "1"},
        }
        for number, name in enumerate(NAMES)
    ]
    options: Any = {"stripe_account": account} if account else {}
    called(
        server,
        lambda client: client.api.raw_request_async(
            "post", STREAM, base="meter_events", events=events, api_key="token_1", **options
        ),
        lambda client: client.post(wire.Path.STREAM, wire.stream(events), "key", account, "token_1"),
    )
    first, second = server.to(STREAM)
    assert second.headers["authorization"] == "Bearer token_1"
    assert_alike(first, second)


@pytest.mark.parametrize(("path", "version"), [(EVENTS_V1, "v1"), (EVENTS_V2, "v2")])
def test_who_is_calling_is_said(server: Server, path: str, version: str) -> None:
    """By the name that the package index knows."""
    body = wire.form("api", "id-1", 0, {}) if version == "v1" else b"{}"
    called(server, lambda client: client.post(wire.Path(path), body, "key"))
    [asked] = server.asked
    assert asked.headers["user-agent"].endswith(f" usage-aggregator/{__version__}")
    told = json.loads(asked.headers["x-stripe-client-user-agent"])
    assert told["application"]["name"] == "usage-aggregator"
    assert told["lang"] == "python"


def test_a_session_token_that_is_no_header_is_never_sent(server: Server) -> None:
    """It comes from an answer: with a line break in it, what follows would be a header of somebody else's choosing."""

    [told] = called(
        server, lambda client: client.post(wire.Path.STREAM, b"{}", "key", None, "token\r\nX-Other: 1")
    )
    assert isinstance(told, NoResponse)
    assert not told.left
    assert "token" not in told.what
    assert not server.asked


def test_a_rotated_key_is_used_from_the_next_call_on(server: Server) -> None:
    """On the connection that is open."""

    async def rotate(client: Client) -> None:
        client.use_key("sk_test_other")

    call = partial(Client.post, path=wire.Path.V2, body=b"{}", idempotency_key="key")
    called(server, call, rotate, call)
    keys = [asked.headers["authorization"] for asked in server.asked]
    assert keys == [f"Bearer {KEY}", "Bearer sk_test_other"]


@pytest.mark.parametrize("account", [None, "acct_123"])
def test_questions_are_asked_as_the_library_asks_them(server: Server, account: str | None) -> None:
    """Those before each start: whose key it is, which meters there are, what is told by itself; and what a customer used."""
    options: Any = {"stripe_account": account} if account else {}
    context: Any = {"stripe_context": account} if account else {}
    span = Span(dt.datetime(2026, 11, 1, tzinfo=dt.UTC), dt.datetime(2026, 11, 2, tzinfo=dt.UTC))
    grouped: Any = {
        "customer": "Zoë & 1",
        "start_time": int(span.start.timestamp()),
        "end_time": int(span.end.timestamp()),
        "limit": 100,
        "value_grouping_window": "day",
    }
    created: Any = {"gte": "2026-11-01T00:00:00.000Z", "lt": "2026-11-02T00:00:00.000Z"}

    def listed(asked: Asked) -> Told | None:
        return {
            "/v1/account": Told(200, {"object": "account", "id": "acct_1"}),
            "/v1/billing/meters": Told(
                200, {"object": "list", "data": [{"event_name": "api", "id": "mtr 1"}], "has_more": False}
            ),
            "/v1/billing/meters/mtr+1/event_summaries": Told(
                200, {"object": "list", "data": [], "has_more": False}
            ),
            "/v2/core/events": Told(200, {"object": "list", "data": [], "next_page_url": None}),
        }.get(asked.path)

    def asking(client: Client) -> Account:
        meters = {"api": StripeMeter(event_name="api")}
        return Account(AccountContext(client, "stripe", meters, livemode=False, account=account))

    server.answer = listed
    called(
        server,
        lambda client: client.api.v1.accounts.retrieve_current_async(None, options),
        lambda client: asking(client).identity(),
        lambda client: client.api.v1.billing.meters.list_async({"status": "active", "limit": 100}, options),
        lambda client: client.api.v1.billing.meters.event_summaries.list_async("mtr 1", grouped, options),
        lambda client: asking(client).breakdown("api", "Zoë & 1", span, DAY),
        lambda client: client.api.v2.core.events.list_async(
            {"types": [*HEALTH], "created": created, "limit": 100}, context
        ),
        lambda client: Messages(asking(client)).health(span),
    )
    for path in (
        "/v1/account",
        "/v1/billing/meters",
        "/v1/billing/meters/mtr+1/event_summaries",
        "/v2/core/events",
    ):
        first, second = server.to(path)
        assert said(first) == said(second)


def test_pages_are_read_as_the_answers_name_them(server: Server) -> None:
    """In the same context, to the last one; one that is no path is not asked for."""
    named = iter(["/v2/core/events?page=2", "/v2/core/events?page=3 HTTP/1.1\r\nX-Other: 1"])
    server.answer = lambda _: Told(200, {"object": "list", "data": [], "next_page_url": next(named)})

    async def listed(client: Client) -> None:
        context = AccountContext(client, "stripe", {}, livemode=False, account="acct_1")
        day = dt.datetime(2026, 11, 1, tzinfo=dt.UTC)
        with pytest.raises(SinkUnreachable, match="not sent"):
            await Messages(Account(context)).health(Span(day, day + dt.timedelta(days=1)))

    called(server, listed)
    assert [asked.headers["stripe-context"] for asked in server.asked] == ["acct_1", "acct_1"]
    assert server.asked[1].body == {"page": "2"}


def test_where_stripe_is_and_who_vouches_for_it_is_as_the_library_has_it() -> None:
    """They are written down, or found, without loading it."""
    assert (wire.API_BASE, wire.STREAM_BASE) == (
        stripe.DEFAULT_API_BASE,
        stripe.DEFAULT_METER_EVENTS_API_BASE,
    )
    assert wire.authorities() == stripe.ca_bundle_path
    assert wire.library() == stripe.VERSION
