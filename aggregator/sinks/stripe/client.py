"""The official library, set up our way, and what its errors say.

Rules
- It repeats nothing by itself: each attempt is ours, recorded beforehand. It makes a new Idempotency-Key for every call that
  brings none of its own.
- The API version is pinned here, not by the release of the library that happens to be installed.
- All its addresses follow `api_base`, so that nothing meant for a sandbox can reach Stripe.
- It writes no log below a warning: at INFO it has two lines per call, with customers' ids in Stripe's messages.
- Certificates are verified against the library's own list of authorities.
"""

import logging
import ssl
from collections.abc import Mapping
from typing import TYPE_CHECKING

from aggregator.sinks.responses import NoResponse
from aggregator.sinks.stripe.responses import Refusal

if TYPE_CHECKING:
    import stripe
    from stripe._base_address import BaseAddresses

API_VERSION = "2026-10-28.endive"
"""docs.stripe.com/api/versioning; raised on purpose, together with the tests."""

CONNECT_SHARE = 0.5
"""Share of the timeout for making a connection, name look-up and TLS included.

Below 1, so that a call which never left can be told from one that did.
"""

KEEP_ALIVE_SECONDS = 15.0
"""An idle connection is closed by us before Stripe closes it, which would leave a call on it without an answer."""

KEYS_HIDDEN = 2
"""The key, and the one before it: an answer may still repeat that."""


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
        import aiohttp
        import stripe

        stripe.enable_telemetry = False  # a fifth of the time of a call goes into it
        logging.getLogger("stripe").setLevel(logging.WARNING)
        timeout = aiohttp.ClientTimeout(total=timeout_seconds, connect=timeout_seconds * CONNECT_SHARE)
        connector = aiohttp.TCPConnector(
            limit=connections,
            ssl=ssl.create_default_context(cafile=stripe.ca_bundle_path),
            keepalive_timeout=KEEP_ALIVE_SECONDS,
        )
        self._http = stripe.AIOHTTPClient(timeout=timeout, connector=connector)
        self._secrets: tuple[str, ...] = ()
        self._api_base = api_base
        self.timeout_seconds = timeout_seconds
        self.use_key(api_key)

    def use_key(self, api_key: str) -> None:
        """Make every call from now on with this key; those that are under way end with the one they began with."""
        import stripe

        self._secrets = tuple(dict.fromkeys([api_key, *self._secrets]))[:KEYS_HIDDEN]
        self.api = stripe.StripeClient(
            api_key,
            http_client=self._http,
            stripe_version=API_VERSION,
            max_network_retries=0,
            base_addresses=_addresses(self._api_base.rstrip("/")) if self._api_base else None,
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._http.close_async()  # type: ignore[no-untyped-call]  # as the library has it

    def describe(self, error: Exception, token: str | None = None) -> Refusal | NoResponse:
        """Say what an error of a call tells: an answer that refuses, or none. Never repeats the key, or a session's."""
        import stripe

        if isinstance(error, stripe.StripeError) and error.http_status is not None:
            told = _refusal(error, error.http_status)
            return told._replace(
                message=self.hide(told.message, token) or "",
                code=self.hide(told.code, token),
                request_id=self.hide(told.request_id, token),
            )
        silent = silence(error.__cause__ or error, self.timeout_seconds)
        return silent._replace(what=self.hide(silent.what, token) or "")

    def hide(self, text: str | None, token: str | None = None) -> str | None:
        """Return what somebody else wrote without our key, or a session's: who answers may repeat what was sent."""
        if text is None:
            return None
        hidden = str(text)
        for secret in self._secrets:
            hidden = hidden.replace(secret, "[key]")
        return hidden.replace(token, "[session]") if token else hidden


def _addresses(base: str) -> "BaseAddresses":
    return {"api": base, "meter_events": base, "files": base, "connect": base}


def _refusal(error: "stripe.StripeError", status: int) -> Refusal:
    """Read an error that carries a status. Its body is in Stripe's shape, or it is somebody else's."""
    body = error.json_body
    told = body.get("error") if isinstance(body, Mapping) else None
    headers = error.headers or {}
    retry_after, should_retry = headers.get("retry-after"), headers.get("stripe-should-retry")
    if not isinstance(told, Mapping):
        return Refusal(status, readable=False, retry_after=retry_after, request_id=error.request_id)
    return Refusal(
        status,
        str(told.get("message") or ""),
        told.get("type"),
        told.get("code"),
        retry_after=retry_after,
        should_retry=should_retry,
        request_id=error.request_id,
    )


def silence(cause: BaseException, timeout_seconds: float) -> NoResponse:
    """Tell a call that never left from one that may have. Only a failure to connect is proof."""
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
