"""The official library, set up our way, and the requests that carry events beside it.

Rules
- It repeats nothing by itself: each attempt is ours, recorded beforehand. Whatever breaks once a call has begun leaves open
  what arrived of it.
- Nothing of it comes from the environment: neither the address, nor the token, nor a proxy.
- It follows no redirect: events go to the address that is configured, or nowhere.
- It writes no log below a warning.
- Events go past it (`http_calls`): it takes longer over a request than making it does.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from aggregator import __version__
from aggregator.core.model import Encoding, Event
from aggregator.runtime import failpoints
from aggregator.sinks.credentials import APP_NAME, Credentials
from aggregator.sinks.dispatch import Queued
from aggregator.sinks.metronome import event as wire
from aggregator.sinks.metronome.event import Form, MetronomeMeter
from aggregator.sinks.metronome.responses import Refusal, judge_refusal, judge_success
from aggregator.sinks.responses import NoResponse, Response, judge_silence

MOST_EVENTS = 100
"""As many as one request takes (docs.metronome.com, send usage events)."""

API_BASE = "https://api.metronome.com"

REQUEST_ID_HEADERS = ("x-request-id", "request-id", "x-amzn-requestid")
"""Which of them Metronome sends is not documented; it is kept for whoever asks its support."""

INGEST = "/v1/ingest"


class Answered(NamedTuple):
    """A 2xx: its body, and by what name Metronome knows the call."""

    body: bytes
    request_id: str | None


class Client:
    """One pool of connections. Made, used and closed on one event loop."""

    def __init__(self, token: str, *, api_base: str | None, timeout_seconds: float, connections: int) -> None:
        import certifi
        import httpx

        from aggregator.sinks.http_calls import KEEP_ALIVE_SECONDS, HttpCalls

        for name in ("httpx", "httpcore", "metronome"):
            logging.getLogger(name).setLevel(logging.WARNING)
        self._credentials = Credentials(token)
        self._api_base = api_base or API_BASE
        self._calls = HttpCalls(self._api_base, ca_file=certifi.where(), timeout_seconds=timeout_seconds)
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

        from aggregator.sinks.http_calls import CONNECT_SHARE

        self._credentials.use(api_key)
        self._head: bytes | None = None
        self.api = metronome.AsyncMetronome(
            bearer_token=api_key,
            base_url=self._api_base,
            timeout=httpx.Timeout(self.timeout_seconds, connect=self.timeout_seconds * CONNECT_SHARE),
            max_retries=0,
            default_headers={"Authorization": f"Bearer {api_key}"},  # or the environment could replace it
            http_client=self._http,
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()
        await self._calls.close()

    async def ingest(self, body: bytes) -> Answered | Refusal | NoResponse:
        """Send a request of events as these bytes, and return what came of it. Never repeats the token."""
        received = await self._calls.post(self._made_head, body)
        if isinstance(received, NoResponse):
            return received._replace(what=self.hide(received.what))
        request_id = self.request_id(received.headers)
        if 200 <= received.status < 300:
            return Answered(received.body, request_id)
        words = self.hide(_words(_document(received.body)))
        return Refusal(received.status, words, received.headers.get("retry-after"), request_id)

    def _made_head(self) -> bytes:
        if self._head is None:
            self._head = self._calls.head(INGEST, headers(self._credentials.key))
        return self._head

    def describe(self, error: Exception) -> Refusal | NoResponse:
        """Say what an error of a call tells: an answer that refuses, or none. Never repeats the token."""
        import metronome

        if isinstance(error, metronome.APIStatusError):
            response = error.response
            return Refusal(
                response.status_code,
                self.hide(_words(error.body)),
                response.headers.get("retry-after"),
                self.request_id(response.headers),
            )
        wrapped = isinstance(error, metronome.APIConnectionError) and error.__cause__
        silent = silence(wrapped or error, self.timeout_seconds)
        return silent._replace(what=self.hide(silent.what))

    def request_id(self, headers: Mapping[str, str]) -> str | None:
        """Return by what name Metronome knows a call, if it says so."""
        found = next((headers[name] for name in REQUEST_ID_HEADERS if name in headers), None)
        return None if found is None else self.hide(found)

    def hide(self, text: str) -> str:
        """Return what somebody else wrote without our token: who answers may repeat what was sent."""
        return self._credentials.hide(text)


def headers(token: str) -> dict[str, str]:
    """Return what every request of events says, as the official library does and beside its body."""
    import metronome

    return {
        "Authorization": f"Bearer {token}",
        "User-Agent": f"AsyncMetronome/Python {metronome.__version__} {APP_NAME}/{__version__}",
        "Content-Type": "application/json",
    }


def _document(body: bytes) -> object:
    """Return what a body says: as JSON, or as it is."""
    try:
        return json.loads(body)
    except ValueError:
        return body.decode(errors="replace")


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
        self._forms = {name: Form(meter, encoding) for name, meter in meters.items()}

    async def deliver(self, queued: Sequence[Queued]) -> list[Response]:
        """Send events in one request and judge the answer, which holds for all of them."""
        return [await self.send([each.event for each in queued])] * len(queued)

    async def send(self, events: Sequence[Event]) -> Response:
        """Send events in one request and judge the answer."""
        forms = self._forms
        body = wire.body([forms[each.meter].written(each) for each in events])
        failpoints.passing("event_leaving")
        answer = await self._client.ingest(body)
        match answer:
            case NoResponse():
                return judge_silence(answer)
            case Refusal():
                return judge_refusal(answer, self._sink)
        failpoints.passing("answer_unread")
        return judge_success(answer.body, answer.request_id)
