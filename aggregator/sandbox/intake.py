"""From bytes to a task: route, key, permission, account, parameters, and the events that a call brings.

The account is the one that `Stripe-Account` names, or `Stripe-Context`, which is how Stripe's library fetches the event that
a notification of another account tells of; else the sandbox's own. A stream's account is that of its session.
"""

from typing import NamedTuple

from aggregator.sandbox.errors import ApiError
from aggregator.sandbox.form import Params, parse_form
from aggregator.sandbox.idempotency import Idempotency, fingerprint
from aggregator.sandbox.keys import RESTRICTED, Key
from aggregator.sandbox.request import Endpoint, Request, Route
from aggregator.sandbox.routes import find_route
from aggregator.sandbox.store import Account, Store
from aggregator.sandbox.wire import Headers, Scope, read_headers, read_object

NO_PARAMS = Params({})


class Task(NamedTuple):
    """A call that passed the gate: what to run, and the key and digest to keep its answer under."""

    request: Request
    endpoint: Endpoint
    v2: bool
    key: str
    digest: str

    @property
    def brings_events(self) -> bool:
        """Say whether this is a call that brings meter events."""
        return self.endpoint.read is not None

    @property
    def customers(self) -> set[str | None]:
        """Return whose events these are."""
        return {draft.customer for draft in self.request.drafts}

    @property
    def place(self) -> tuple[str, str] | None:
        """Return the meter and the customer of which one call at a time is taken; None where there is no such limit."""
        if self.endpoint.streams or not self.request.drafts:
            return None
        draft = self.request.drafts[0]
        if draft.meter is None or draft.customer is None:
            return None
        return draft.meter.id, draft.customer

    @property
    def kept(self) -> Idempotency:
        """Return where the answer is kept."""
        account = self.request.account
        return account.idempotency_v2 if self.v2 else account.idempotency


def is_v2(path: str) -> bool:
    """Say whether a path belongs to version 2."""
    return path.startswith("/v2/")


def read_task(store: Store, scope: Scope, body: bytes) -> Task:
    """Check route and key, read parameters and events. Raise ApiError when the call is refused."""
    method, path = scope["method"], scope["path"]
    route = find_route(method, path)
    endpoint, headers, v2 = route.endpoint, read_headers(scope["headers"]), is_v2(path)
    request = (
        _streaming(store, headers, body)
        if endpoint.streams
        else _ordinary(store, route, headers, scope, body)
    )
    request.version = headers.version.decode("latin-1")
    if endpoint.read is not None:
        endpoint.read(request)
    key = request.key = headers.idempotency_key.decode("latin-1") if method == "POST" else ""
    if endpoint.streams and not store.rules.stream_keeps_answers:
        key = ""
    return Task(request, endpoint, v2, key, fingerprint(method, path, body) if key else "")


def _streaming(store: Store, headers: Headers, body: bytes) -> Request:
    session = store.sessions.find(headers.authorization)
    account = store.account(session.account, livemode=session.livemode)
    return Request(store, account, NO_PARAMS, read_object(body), session=session)


def _ordinary(store: Store, route: Route, headers: Headers, scope: Scope, body: bytes) -> Request:
    key = store.keys.let_in(headers.authorization)
    account = _account(store, headers, key)
    v2 = is_v2(scope["path"])
    if v2 and not store.rules.v2_restricted_keys and key.secret.startswith(RESTRICTED):
        raise ApiError(
            403, "Version 2 takes secret keys, and this one is restricted.", reason="restricted_key"
        )
    store.keys.require(key, route.endpoint.permission, account.name)
    if scope["method"] == "POST" and v2:
        return Request(store, account, NO_PARAMS, read_object(body), route.name)
    encoded = body if scope["method"] == "POST" else scope["query_string"]
    return Request(store, account, Params(parse_form(encoded.decode("utf-8", "replace"))), {}, route.name)


def _account(store: Store, headers: Headers, key: Key) -> Account:
    named = (headers.account or headers.context).decode("latin-1")
    return store.account(named or None, livemode=key.livemode)
