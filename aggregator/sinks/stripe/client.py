"""The official library, set up our way, what its errors say, and the calls that carry events beside it.

Rules
- It repeats nothing by itself: each attempt is ours, recorded beforehand. It makes a new Idempotency-Key for every call that
  brings none of its own.
- The API version is pinned by us (`wire`), not by the release of the library that happens to be installed.
- All its addresses follow `api_base`, so that nothing meant for a sandbox can reach Stripe.
- It writes no log below a warning: at INFO it has two lines per call, with customers' ids in Stripe's messages.
- Certificates are verified against the library's own list of authorities.
- It is loaded when it is first needed: events, and the questions before each start, go past it (`http_calls`).
"""

import json
import logging
import ssl
from collections.abc import Mapping
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

from aggregator import __version__
from aggregator.sinks.credentials import APP_NAME, Credentials
from aggregator.sinks.responses import NoResponse
from aggregator.sinks.stripe import wire
from aggregator.sinks.stripe.responses import Refusal

if TYPE_CHECKING:
    import stripe
    from stripe._base_address import BaseAddresses

    from aggregator.sinks.http_calls import Received


class Answered(NamedTuple):
    """A 2xx: what its body says, and by what name Stripe knows the call."""

    body: Any
    request_id: str | None


class NoAnswer(Exception):
    """What was asked past the library was not answered: `failure` says how."""

    def __init__(self, failure: Refusal | NoResponse) -> None:
        super().__init__(str(failure))
        self.failure = failure


class Client:
    """One pool of connections. Made, used and closed on one event loop."""

    def __init__(
        self,
        api_key: str,
        *,
        api_base: str | None,
        timeout_seconds: float,
        connections: int,
    ) -> None:
        from aggregator.sinks.http_calls import HttpCalls

        self._api_base = api_base.rstrip("/") if api_base else None
        self._timeout_seconds = timeout_seconds
        self._connections = connections
        bases = {
            path: self._api_base or (wire.STREAM_BASE if path is wire.Path.STREAM else wire.API_BASE)
            for path in wire.Path
        }
        calls = {
            base: HttpCalls(base, ca_file=wire.authorities(), timeout_seconds=timeout_seconds)
            for base in set(bases.values())
        }
        self._calls = {path: calls[base] for path, base in bases.items()}
        self._heads: dict[tuple[wire.Path, str | None], tuple[str, bytes]] = {}
        """What calls to a path for an account have in common, and for which key or token."""
        self._credentials = Credentials(api_key)
        self._http: stripe.AIOHTTPClient | None = None
        self._api: stripe.StripeClient | None = None
        self.use_key(api_key)

    def use_key(self, api_key: str) -> None:
        """Make every call from now on with this key; those that are under way end with the one they began with."""
        self._credentials.use(api_key)
        self._api = None

    @property
    def api(self) -> "stripe.StripeClient":
        """The library, loaded at the first call that needs it."""
        if self._api is None:
            import stripe

            self._http = self._http or self._opened()
            self._api = stripe.StripeClient(
                self._credentials.key,
                http_client=self._http,
                stripe_version=wire.API_VERSION,
                max_network_retries=0,
                base_addresses=_addresses(self._api_base) if self._api_base else None,
            )
        return self._api

    def _opened(self) -> "stripe.AIOHTTPClient":
        import aiohttp
        import stripe

        from aggregator.sinks.http_calls import CONNECT_SHARE, KEEP_ALIVE_SECONDS

        stripe.enable_telemetry = False  # a fifth of the time of a call goes into it
        stripe.set_app_info(APP_NAME, version=__version__)
        logging.getLogger("stripe").setLevel(logging.WARNING)
        allowed = self._timeout_seconds
        connector = aiohttp.TCPConnector(
            limit=self._connections,
            ssl=ssl.create_default_context(cafile=wire.authorities()),
            keepalive_timeout=KEEP_ALIVE_SECONDS,
        )
        timeout = aiohttp.ClientTimeout(total=allowed, connect=allowed * CONNECT_SHARE)
        return stripe.AIOHTTPClient(timeout=timeout, connector=connector)

    async def close(self) -> None:
        """Close the connections."""
        if self._http is not None:
            await self._http.close_async()  # type: ignore[no-untyped-call]  # as the library has it
        for calls in set(self._calls.values()):
            await calls.close()

    async def post(
        self,
        path: wire.Path,
        body: bytes,
        idempotency_key: str,
        account: str | None = None,
        token: str | None = None,
    ) -> Answered | Refusal | NoResponse:
        """Make one call that carries events. `token` is that of a session; it stands in for the key.

        Never repeats the key, or the token.
        """
        key = token or self._credentials.key
        received = await self._calls[path].post(
            lambda: self._head(path, account, key), body, Idempotency_Key=idempotency_key
        )
        answer = received if isinstance(received, NoResponse) else _read(received)
        match answer:
            case NoResponse():
                return answer._replace(what=self.hide(answer.what, token) or "")
            case Refusal():
                return self._hidden(answer, token)
        return Answered(answer.body, self.hide(answer.request_id, token))

    async def get(self, path: str, whose: Mapping[str, str], *, fields: bool = False) -> Any:
        """Return what is at a path, with its query; `whose` says in which account. Raises NoAnswer.

        With `fields`, objects have attributes instead of keys, as the library's have.
        """
        said = {**wire.asking(path, self._credentials.key), **whose}
        received = await self._calls[wire.Path.V1].get(path, said)
        answer = received if isinstance(received, NoResponse) else _read(received, fields=fields)
        match answer:
            case NoResponse():
                raise NoAnswer(answer._replace(what=self.hide(answer.what) or ""))
            case Refusal():
                raise NoAnswer(self._hidden(answer))
        return answer.body

    def describe(self, error: Exception) -> Refusal | NoResponse:
        """Say what the error of a call tells: an answer that refuses, or none. Never repeats the key."""
        if isinstance(error, NoAnswer):
            return error.failure
        import stripe

        if isinstance(error, stripe.StripeError) and error.http_status is not None:
            return self._hidden(_refusal(error.http_status, error.json_body, error.headers or {}))
        silent = silence(error.__cause__ or error, self._timeout_seconds)
        return silent._replace(what=self.hide(silent.what) or "")

    def hide(self, text: str | None, token: str | None = None) -> str | None:
        """Return what somebody else wrote without our key, or a session's: who answers may repeat what was sent."""
        if text is None:
            return None
        hidden = self._credentials.hide(str(text))
        return hidden.replace(token, "[session]") if token else hidden

    def _head(self, path: wire.Path, account: str | None, key: str) -> bytes:
        made_for, head = self._heads.get((path, account), (None, None))
        if head is None or made_for != key:
            head = self._calls[path].head(path, wire.headers(path, key, account))
            self._heads[path, account] = key, head
        return head

    def _hidden(self, refusal: Refusal, token: str | None = None) -> Refusal:
        return refusal._replace(
            message=self.hide(refusal.message, token) or "",
            code=self.hide(refusal.code, token),
            request_id=self.hide(refusal.request_id, token),
        )


def _addresses(base: str) -> "BaseAddresses":
    return {"api": base, "meter_events": base, "files": base, "connect": base}


def _read(received: "Received", *, fields: bool = False) -> Answered | Refusal:
    """Read an answer; with `fields`, objects of one that is usable have attributes instead of keys."""
    taken = 200 <= received.status < 300
    hook = (lambda found: SimpleNamespace(**found)) if fields and taken else None
    try:
        body = json.loads(received.body, object_hook=hook)
    except ValueError:
        return _refusal(received.status, None, received.headers)
    if taken:
        return Answered(body, received.headers.get("request-id"))
    return _refusal(received.status, body, received.headers)


def _refusal(status: int, body: object, headers: Mapping[str, str]) -> Refusal:
    """Read an answer that is not a usable 2xx. Its body is in Stripe's shape, or it is somebody else's."""
    fault = body.get("error") if isinstance(body, Mapping) else None
    retry_after, request_id = headers.get("retry-after"), headers.get("request-id")
    if not isinstance(fault, Mapping):
        return Refusal(status, readable=False, retry_after=retry_after, request_id=request_id)
    return Refusal(
        status,
        str(fault.get("message") or ""),
        fault.get("type"),
        fault.get("code"),
        retry_after=retry_after,
        should_retry=headers.get("stripe-should-retry"),
        request_id=request_id,
    )


def silence(cause: BaseException, timeout_seconds: float) -> NoResponse:
    """Tell a call of the library's that never left from one that may have. Only a failure to connect is proof."""
    import aiohttp

    match cause:
        case aiohttp.ClientConnectorError() | aiohttp.ClientHttpProxyError() | aiohttp.InvalidURL():
            return NoResponse(left=False, what=f"cannot be reached: {cause}")
        case aiohttp.ConnectionTimeoutError():
            return NoResponse(left=False, what="cannot be reached: connecting took too long")
        case TimeoutError():
            return NoResponse(left=True, what=f"no answer within {timeout_seconds:g} s")
        case aiohttp.ClientError() | OSError():
            return NoResponse(
                left=True, what=f"the connection broke before the answer came ({type(cause).__name__})"
            )
        case _:
            return NoResponse(left=True, what=f"the answer could not be read ({type(cause).__name__})")
