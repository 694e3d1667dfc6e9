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

from aggregator.sandbox.control import PREFIX, control
from aggregator.sandbox.deliveries import Deliveries
from aggregator.sandbox.errors import ApiError, concurrent_events, server_error
from aggregator.sandbox.faults import SPARED, Luck, Victim
from aggregator.sandbox.intake import Task, is_v2, read_task
from aggregator.sandbox.reports import Invalid
from aggregator.sandbox.series import Event
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
    refusal,
    refusal_v2,
    send_reply,
)


class Application:
    """Answers HTTP calls from a store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._deliveries = Deliveries(store)
        self._request_ids = f"req_{token_hex(4)}"
        self._count = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one call, or close its connection."""
        self._count += 1
        if self._count == 1:
            # Webhooks of the state file.
            self._deliveries.begin()
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
            if scope["path"].startswith(PREFIX):
                query = scope["query_string"].decode("latin-1")
                self._store.catch_up()
                reply = ok(control(self._store, scope["method"], scope["path"], query, body))
                self._deliveries.begin()
                return reply
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
            return await self._perform(read_task(self._store, scope, body))
        except ApiError as error:
            stats.refuse(error)
            black_hole = self._store.faults.settings.black_hole
            return None if black_hole else self._refusal(error, v2=is_v2(scope["path"]))
        finally:
            stats.in_flight -= 1

    def _refusal(self, error: ApiError, *, v2: bool) -> Reply:
        return refusal_v2(error, typed=self._store.rules.v2_error_types) if v2 else refusal(error)

    async def _perform(self, task: Task) -> Reply | None:
        luck = SPARED if self._store.faults.calm else self._store.faults.draw(_victim(task))
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
            if task.endpoint.read is not None:
                task.endpoint.read(request)
            if self._kept(task) is None:
                with self._alone(task):
                    self._run(task, luck)
        except ApiError as error:
            self._store.stats.refuse(error)

    def _kept(self, task: Task) -> Reply | None:
        if not task.key:
            return None
        reply = task.kept.find(task.key, task.digest, self._store.clock.now())
        self._store.stats.replayed += reply is not None
        return reply

    @contextmanager
    def _alone(self, task: Task) -> Iterator[None]:
        """Hold the customer's place at the meter, and the idempotency key, until the endpoint has run."""
        account, place = task.request.account, task.place
        if place in account.in_flight:
            raise concurrent_events()
        if task.key:
            task.kept.begin(task.key)
        if place is not None:
            account.in_flight.add(place)
        try:
            yield
        finally:
            task.kept.finish(task.key)
            if place is not None:
                account.in_flight.discard(place)

    def _run(self, task: Task, luck: Luck = SPARED) -> Reply:
        """Run the endpoint, keep its answer and write the state file, all before anything is sent."""
        reply = ok(task.endpoint.handler(task.request))
        if luck is not SPARED:
            reply = self._spoilt(task, luck, reply)
        if task.key and (reply.status < 500 or not task.v2 or self._store.rules.v2_keeps_errors):
            task.kept.save(task.key, task.digest, reply, self._store.clock.now())
        self._store.journal.flush()
        return reply

    def _spoilt(self, task: Task, luck: Luck, reply: Reply) -> Reply:
        """Have events found invalid, and the answer replaced by a 500, if that is its luck."""
        for event in task.request.taken:
            after = luck.found_invalid_after_seconds
            if luck.each_may_be_found_invalid:
                after = self._store.faults.rejection(event.customer)
            if after is not None and event.reason is None:
                self._reject(task, event, after)
        if luck.error_after:
            error = server_error("error_after")
            self._store.stats.refuse(error)
            return self._refusal(error, v2=task.v2)
        return reply

    def _reject(self, task: Task, event: Event, after_seconds: float) -> None:
        settings, store = self._store.faults.settings, self._store
        wrong = Invalid(settings.reject_code, settings.reject_message)
        found_at, counts = store.clock.now() + after_seconds, settings.count_until_rejected
        task.request.account.events.find(
            event, wrong, found_at, store.rules, counts=counts, key=task.request.key
        )


def _victim(task: Task) -> Victim:
    account = task.request.account
    whose = f"{account.name} {'live' if account.livemode else 'test'}"
    # A call of the stream brings events even where an empty one is taken.
    events = max(len(task.request.drafts), 1) if task.brings_events else 0
    return Victim(whose, task.customers, events, task.endpoint.streams, account.connected)
