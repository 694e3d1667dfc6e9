"""The sandbox as an ASGI application: the order in which the rules meet a request.

1. route, key and parameters; 2. faults that strike before anything is done; 3. an answer kept under the same
`Idempotency-Key`; 4. one call at a time per customer and meter; 5. injected latency; 6. the endpoint; 7. the answer is
kept and the state file written; 8. faults that strike afterwards.

A request that is delivered late meets 3, 4, 6 and 7 when the sandbox's clock has come that far, and nobody hears the answer.
One that is delivered a second time is not known again by its `Idempotency-Key`, the worst case: only the identifier of the
event keeps it from counting twice.

No framework and no middleware: the path of a meter event is the sandbox's speed, and a sender is measured against it.
The same application plays api.stripe.com and meter-events.stripe.com; their paths do not overlap.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from secrets import token_hex
from typing import NamedTuple

from aggregator.sandbox.api import ACCOUNT_PATH, EVENTS_PATH, Handler, Request, find_route
from aggregator.sandbox.control import PREFIX, control
from aggregator.sandbox.errors import ApiError, concurrent_events, server_error
from aggregator.sandbox.faults import SPARED, Luck
from aggregator.sandbox.form import Params, parse_form
from aggregator.sandbox.idempotency import fingerprint
from aggregator.sandbox.metronome import PREFIX as METRONOME
from aggregator.sandbox.metronome import Metronome
from aggregator.sandbox.reports import Invalid
from aggregator.sandbox.store import Store
from aggregator.sandbox.wire import (
    DROP_CONNECTION,
    ClientGone,
    Receive,
    Reply,
    Scope,
    Send,
    ok,
    read_body,
    read_headers,
    refusal,
    send_reply,
)


class Task(NamedTuple):
    """A call that passed the gate: what to run, and the key and digest to keep its answer under."""

    request: Request
    handler: Handler
    is_event: bool
    key: str
    digest: str

    @property
    def customer(self) -> str | None:
        """Return whose event this is."""
        return None if self.request.draft is None else self.request.draft.customer


class Application:
    """Answers HTTP calls from a store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._metronome = Metronome(store)
        self._request_ids = f"req_{token_hex(4)}"
        self._count = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one call, or close its connection."""
        self._count += 1
        request_id = f"{self._request_ids}{self._count:010d}".encode()
        try:
            reply = await self._answer(scope, receive)
        except ClientGone:
            return
        except Exception:
            await send_reply(send, refusal(server_error("sandbox_bug")), request_id)
            raise
        if reply is None:
            self._store.stats.dropped += 1
            scope["extensions"][DROP_CONNECTION]()
        else:
            await send_reply(send, reply, request_id)

    async def _answer(self, scope: Scope, receive: Receive) -> Reply | None:
        try:
            body = await read_body(receive)
            if scope["path"].startswith(f"{METRONOME}/"):
                return await self._metronome.answer(scope, body)
            if scope["path"].startswith(PREFIX):
                query = scope["query_string"].decode("latin-1")
                self._store.catch_up()
                return ok(control(self._store, scope["method"], scope["path"], query, body))
        except ApiError as error:
            return refusal(error)
        return await self._counted(scope, body)

    async def _counted(self, scope: Scope, body: bytes) -> Reply | None:
        """Answer a Stripe call and count what became of it."""
        stats = self._store.stats
        stats.requests += 1
        stats.in_flight += 1
        if self._store.later:
            self._store.catch_up()
        try:
            return await self._perform(self._read(scope, body))
        except ApiError as error:
            stats.refuse(error)
            return None if self._store.faults.settings.black_hole else refusal(error)
        finally:
            stats.in_flight -= 1

    def _read(self, scope: Scope, body: bytes) -> Task:
        """Check route and key, read parameters."""
        method, path = scope["method"], scope["path"]
        route = find_route(method, path)
        headers = read_headers(scope["headers"])
        livemode = self._store.keys.livemode(headers.authorization)
        account = self._store.account(headers.account.decode("latin-1") or None, livemode=livemode)
        encoded = body if method == "POST" else scope["query_string"]
        request = Request(
            self._store, account, Params(parse_form(encoded.decode("utf-8", "replace"))), route.name
        )
        is_event = path == EVENTS_PATH
        if is_event:
            request.draft = account.events.draft(request.params)
        elif path == ACCOUNT_PATH:
            self._store.keys.require_account(headers.authorization)
        key = headers.idempotency_key.decode("latin-1") if method == "POST" else ""
        return Task(request, route.handler, is_event, key, fingerprint(method, path, body) if key else "")

    async def _perform(self, task: Task) -> Reply | None:
        luck = self._store.faults.draw(task.customer, is_event=task.is_event)
        if luck is not SPARED:
            return await self._struck(task, luck)
        reply = self._kept(task)
        if reply is None:
            with self._alone(task):
                reply = self._run(task)
        return reply

    async def _struck(self, task: Task, luck: Luck) -> Reply | None:
        """Perform a task that something happens to."""
        if luck.drop_before:
            return None
        if luck.arrives_after_seconds is not None:
            self._put_off(task, luck.arrives_after_seconds, luck)
            return None
        try:
            reply = self._kept(task)
            if reply is None:
                with self._alone(task):
                    await self._wait(luck.latency_seconds)
                    reply = self._run(task, luck)
        finally:
            if luck.again_after_seconds is not None:
                self._put_off(task._replace(key="", digest=""), luck.again_after_seconds, SPARED)
        await self._wait(luck.late_seconds)
        return None if luck.drop_after else reply

    async def _wait(self, seconds: float) -> None:
        if seconds:
            await asyncio.sleep(seconds)
            self._store.catch_up()

    def _put_off(self, task: Task, seconds: float, luck: Luck) -> None:
        at = self._store.clock.now() + seconds
        self._store.later.put_off(at, partial(self._deliver, task, luck))

    def _deliver(self, task: Task, luck: Luck) -> None:
        """Perform a task that nobody waits for any more; its meter may be another by now."""
        request = task.request
        self._store.stats.delivered_late += 1
        try:
            if task.is_event:
                request.draft = request.account.events.draft(request.params)
            if self._kept(task) is None:
                with self._alone(task):
                    self._run(task, luck)
        except ApiError as error:
            self._store.stats.refuse(error)

    def _kept(self, task: Task) -> Reply | None:
        if not task.key:
            return None
        reply = task.request.account.idempotency.find(task.key, task.digest, self._store.clock.now())
        self._store.stats.replayed += reply is not None
        return reply

    @contextmanager
    def _alone(self, task: Task) -> Iterator[None]:
        """Hold the customer's place at the meter, and the idempotency key, until the endpoint has run."""
        account, draft = task.request.account, task.request.draft
        place = None if draft is None or draft.customer is None else (draft.meter.id, draft.customer)
        if place in account.in_flight:
            raise concurrent_events()
        if task.key:
            account.idempotency.begin(task.key)
        if place is not None:
            account.in_flight.add(place)
        try:
            yield
        finally:
            account.idempotency.finish(task.key)
            if place is not None:
                account.in_flight.discard(place)

    def _run(self, task: Task, luck: Luck = SPARED) -> Reply:
        """Run the endpoint, keep its answer and write the state file, all before anything is sent."""
        reply = ok(task.handler(task.request))
        if luck is not SPARED:
            reply = self._spoilt(task, luck, reply)
        if task.key:
            now = self._store.clock.now()
            task.request.account.idempotency.save(task.key, task.digest, reply, now)
        self._store.journal.flush()
        return reply

    def _spoilt(self, task: Task, luck: Luck, reply: Reply) -> Reply:
        """Have the event found invalid, and its answer replaced by a 500, if that is its luck."""
        if luck.found_invalid_after_seconds is not None:
            settings, store = self._store.faults.settings, self._store
            wrong = Invalid(settings.reject_code, settings.reject_message)
            found_at = store.clock.now() + luck.found_invalid_after_seconds
            counts = settings.count_until_rejected
            task.request.account.events.reject_last(wrong, found_at, store.rules, counts=counts)
        if luck.error_after:
            error = server_error("error_after")
            self._store.stats.refuse(error)
            return refusal(error)
        return reply
