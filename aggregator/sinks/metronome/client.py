"""The official library, set up our way, and one request through it.

Rules
- It repeats nothing by itself: each attempt is ours, recorded beforehand. Whatever breaks once a call has begun leaves open
  what arrived of it.
- Nothing of it comes from the environment: neither the address, nor the token, nor a proxy.
- It follows no redirect: events go to the address that is configured, or nowhere.
- A call ends within its time as a whole; the library's own limits are for each read or write.
- It writes no log below a warning.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from aggregator.core.model import Encoding, Event
from aggregator.runtime import failpoints
from aggregator.sinks.dispatch import Queued
from aggregator.sinks.metronome import event as wire
from aggregator.sinks.metronome.event import MetronomeMeter
from aggregator.sinks.metronome.responses import Refusal, judge_refusal, judge_success
from aggregator.sinks.responses import NoResponse, Response, judge_silence

if TYPE_CHECKING:
    import httpx

MOST_EVENTS = 100
"""As many as one request takes (docs.metronome.com, send usage events)."""

API_BASE = "https://api.metronome.com"

CONNECT_SHARE = 0.5
"""Share of the timeout for making a connection, so that a call which never left can be told from one that did."""

KEEP_ALIVE_SECONDS = 15.0
"""An idle connection is closed by us before Metronome closes it, which would leave a call on it without an answer."""

REQUEST_ID_HEADERS = ("x-request-id", "request-id", "x-amzn-requestid")
"""Which of them Metronome sends is not documented; it is kept for whoever asks its support."""

TOKENS_HIDDEN = 2
"""The token, and the one before it: an answer may still repeat that."""


class Client:
    """One pool of connections. Made, used and closed on one event loop."""

    def __init__(self, token: str, *, api_base: str | None, timeout_seconds: float, connections: int) -> None:
        import httpx

        for name in ("httpx", "httpcore", "metronome"):
            logging.getLogger(name).setLevel(logging.WARNING)
        self._secrets: tuple[str, ...] = ()
        self._api_base = api_base
        self.timeout_seconds = timeout_seconds
        self._http = httpx.AsyncClient(
            limits=httpx.Limits(
                max_connections=connections,
                max_keepalive_connections=connections,
                keepalive_expiry=KEEP_ALIVE_SECONDS,
            ),
            trust_env=False,
            follow_redirects=False,
        )
        self.use_key(token)

    def use_key(self, api_key: str) -> None:
        """Make every call from now on with this token; those that are under way end with the one they began with."""
        import httpx
        import metronome

        self._secrets = tuple(dict.fromkeys([api_key, *self._secrets]))[:TOKENS_HIDDEN]
        self.api = metronome.AsyncMetronome(
            bearer_token=api_key,
            base_url=self._api_base or API_BASE,
            timeout=httpx.Timeout(self.timeout_seconds, connect=self.timeout_seconds * CONNECT_SHARE),
            max_retries=0,
            default_headers={"Authorization": f"Bearer {api_key}"},  # or the environment could replace it
            http_client=self._http,
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def ingest(self, body: bytes) -> "httpx.Response":
        """Send a request of events as these bytes, and return the answer if it is a 2xx."""
        import httpx

        async with asyncio.timeout(self.timeout_seconds):
            return await self.api.post("/v1/ingest", content=body, cast_to=httpx.Response)

    def describe(self, error: Exception) -> Refusal | NoResponse:
        """Say what an error of a call tells: an answer that refuses, or none. Never repeats the token."""
        import metronome

        if isinstance(error, metronome.APIStatusError):
            response = error.response
            return Refusal(
                response.status_code,
                self.hide(_words(error.body)),
                response.headers.get("retry-after"),
                self.request_id(response),
            )
        wrapped = isinstance(error, metronome.APIConnectionError) and error.__cause__
        silent = silence(wrapped or error, self.timeout_seconds)
        return silent._replace(what=self.hide(silent.what))

    def request_id(self, response: "httpx.Response") -> str | None:
        """Return by what name Metronome knows a call, if it says so."""
        found = next(
            (response.headers[name] for name in REQUEST_ID_HEADERS if name in response.headers), None
        )
        return None if found is None else self.hide(found)

    def hide(self, text: str) -> str:
        """Return what somebody else wrote without our token: who answers may repeat what was sent."""
        for secret in self._secrets:
            text = text.replace(secret, "[key]")
        return text


def _words(body: object) -> str:
    """Return what the body of a refusal says: its message, or all of it unless it is a web page."""
    if isinstance(body, Mapping):
        return str(body.get("message") or body)
    text = "" if body is None else str(body)
    return "unreadable answer" if text.lstrip().startswith("<") else text


def silence(cause: BaseException, timeout_seconds: float) -> NoResponse:
    """Tell a call that never left from one that may have. Only a failure to connect is proof."""
    import httpx

    match cause:
        case httpx.ConnectTimeout():
            return NoResponse(left=False, what="cannot be reached: connecting took too long")
        case httpx.ConnectError() | httpx.UnsupportedProtocol():
            return NoResponse(left=False, what=f"cannot be reached: {cause}")
        case TimeoutError() | httpx.TimeoutException():
            return NoResponse(left=True, what=f"no answer within {timeout_seconds:g} s")
        case httpx.TransportError():
            return NoResponse(
                left=True, what=f"the connection broke before the answer came ({type(cause).__name__})"
            )
        case _:
            return NoResponse(left=True, what=f"the answer could not be read ({type(cause).__name__})")


class RequestSender:
    """Takes events to Metronome, many at a time. Each belongs to a meter that feeds the sink."""

    def __init__(
        self, client: Client, sink: str, meters: Mapping[str, MetronomeMeter], encoding: Encoding
    ) -> None:
        self._client = client
        self._sink = sink
        self._meters = meters
        self._encoding = encoding

    async def deliver(self, queued: Sequence[Queued]) -> list[Response]:
        """Send events in one request and judge the answer, which holds for all of them."""
        return [await self.send([each.event for each in queued])] * len(queued)

    async def send(self, events: Sequence[Event]) -> Response:
        """Send events in one request and judge the answer."""
        body = wire.body(wire.written(each, self._meters[each.meter], self._encoding) for each in events)
        failpoints.passing("event_leaving")
        try:
            response = await self._client.ingest(body)
        except Exception as error:  # noqa: BLE001 - whatever broke in the library, the call may have arrived
            told = self._client.describe(error)
            return judge_silence(told) if isinstance(told, NoResponse) else judge_refusal(told, self._sink)
        failpoints.passing("answer_unread")
        return judge_success(response.content, self._client.request_id(response))
