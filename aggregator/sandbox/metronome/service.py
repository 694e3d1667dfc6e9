"""The order in which the rules meet a call: 1. control calls; 2. the token; 3. faults that strike before anything is done;
4. injected latency; 5. the endpoint; 6. faults that strike afterwards.

Any token is good but those that are revoked (401), restricted (403), or may not read invoices (403 for those). What each
fault means is told at `FaultSettings`; of those, what is about single customers, late delivery and later rejection has no
effect here.
"""

import asyncio
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl

from aggregator.sandbox.errors import ApiError, server_error
from aggregator.sandbox.faults import Faults, Victim
from aggregator.sandbox.metronome.api import INGEST, Handler, Request, State, find_route, list_invoices
from aggregator.sandbox.metronome.metrics import number
from aggregator.sandbox.metronome.settings import read_metronome_rules
from aggregator.sandbox.metronome.wire import bad_request, dumps
from aggregator.sandbox.settings import FaultSettings, read_faults
from aggregator.sandbox.stats import Stats
from aggregator.sandbox.store import Store
from aggregator.sandbox.values import EXACT, plain
from aggregator.sandbox.wire import Reply, Scope, read_headers

PREFIX = "/metronome"
CONTROL = "/_sandbox/"


class Metronome:
    """Answers the calls below `/metronome`."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._start_afresh()

    def _start_afresh(self) -> None:
        self._state = State()
        self._stats = Stats()
        self._faults = Faults(FaultSettings())
        self._revoked: frozenset[str] = frozenset()
        self._restricted: frozenset[str] = frozenset()
        self._without_invoices: frozenset[str] = frozenset()

    async def answer(self, scope: Scope, body: bytes) -> Reply | None:
        """Answer one call; None closes its connection."""
        path = scope["path"].removeprefix(PREFIX)
        query = dict(parse_qsl(scope["query_string"].decode("latin-1")))
        try:
            if path.startswith(CONTROL):
                return Reply(
                    200, dumps(self._control(scope["method"], path.removeprefix(CONTROL), query, body))
                )
            return await self._call(scope, path, query, body)
        except ApiError as error:
            return self._refusal(error)

    async def _call(self, scope: Scope, path: str, query: Mapping[str, str], body: bytes) -> Reply | None:
        self._stats.requests += 1
        handler, name = find_route(scope["method"], path)
        self._let_in(read_headers(scope["headers"]).authorization.decode("latin-1"), handler)
        luck = self._faults.draw(Victim("metronome", events=int(path == INGEST)))
        if luck.drop_before:
            self._stats.dropped += 1
            return None
        if luck.latency_seconds:
            await asyncio.sleep(luck.latency_seconds)
        spoilt = luck.error_after or luck.drop_after
        most = self._state.rules.ingested_before_error if spoilt else None
        request = Request(self._state, body, query, self._store.clock.now(), name, most)
        answer = handler(request)
        if luck.late_seconds:
            await asyncio.sleep(luck.late_seconds)
        if luck.drop_after:
            self._stats.dropped += 1
            return None
        if luck.error_after:
            raise server_error("error_after")
        return Reply(200, dumps(answer))

    def _let_in(self, authorization: str, handler: Handler) -> None:
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or not token or token in self._revoked:
            raise ApiError(401, "Unauthorized", reason="bad_token")
        if token in self._restricted or (handler is list_invoices and token in self._without_invoices):
            raise ApiError(403, "Forbidden", reason="restricted_token")

    def _refusal(self, error: ApiError) -> Reply:
        self._stats.refuse(error)
        wish = self._state.rules.retry_after_seconds
        headers = ((b"retry-after", str(wish).encode()),) if error.status == 429 and wish is not None else ()
        return Reply(error.status, dumps({"message": error.message}), headers)

    def _control(self, method: str, name: str, query: Mapping[str, str], body: bytes) -> object:
        try:
            given = json.loads(body or b"{}")
            match method, name:
                case "GET", "totals":
                    return {"totals": self._totals(query)}
                case "GET", "events":
                    return {"events": [each._asdict() for each in self._state.log.events]}
                case "GET", "stats":
                    return self._counters()
                case "PUT", "rules":
                    self._state.rules = read_metronome_rules(given)
                    return self._state.rules.json()
                case "PUT", "faults":
                    self._faults.replace(read_faults(given))
                    return self._faults.settings.json()
                case "PUT", "keys":
                    self._revoked, self._restricted = _tokens(given, "revoked"), _tokens(given, "restricted")
                    self._without_invoices = _tokens(given, "without_invoices")
                    return given
                case "POST", "reset":
                    self._start_afresh()
                    return {"reset": True}
        except ValueError as error:
            raise bad_request(f"The control call cannot be used: {error}") from error
        raise ApiError(404, f"There is no control call {method} {name}.", reason="unknown_route")

    def _counters(self) -> dict[str, object]:
        log = self._state.log
        return {
            **self._stats.json(),
            "accepted": len(log.events),
            "duplicates": sum(each.duplicate for each in log.events),
            "double_counted": log.double_counted,
            "faults_struck": self._faults.struck,
        }

    def _totals(self, query: Mapping[str, str]) -> dict[str, str]:
        """Return what every customer was sent of one type of event, exactly; texts count whatever the rule says."""
        wanted, key = query.get("event_type"), query.get("property", "quantity")
        if not wanted:
            raise ValueError("event_type is required")
        rules = read_metronome_rules({})
        totals = {}
        for customer, events in self._state.log.by_customer.items():
            total = number(None, rules)
            for each in events:
                if each.event_type == wanted:
                    total = EXACT.add(total, number(each.properties.get(key), rules))
            if any(each.event_type == wanted for each in events):
                totals[customer] = plain(total)
        return totals


def _tokens(given: Mapping[str, Any], name: str) -> frozenset[str]:
    tokens = given.get(name, [])
    if not isinstance(tokens, list) or not all(isinstance(each, str) for each in tokens):
        raise ValueError(f"{name} must be a list of tokens")
    return frozenset(tokens)
