"""Delivers notifications to webhooks, in the background, as long as there is a webhook.

The one thing in the sandbox that happens without being asked. What is due is worked out anew each time from the events
there are, so a late or missed wake-up costs delay and nothing else. Each webhook gets one notification after the other;
webhooks do not wait for each other.
"""

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from urllib.parse import urlsplit

from aggregator.sandbox.clock import machine_time, monotonic
from aggregator.sandbox.notifications import notification
from aggregator.sandbox.paging import Row
from aggregator.sandbox.store import Account, Store
from aggregator.sandbox.webhooks import Attempt, Webhook, Webhooks, signature
from aggregator.sandbox.wire import to_json

# How often somebody looks whether there is something to tell. Short, so that tests wait little.
POLL_SECONDS = 0.05


class Deliveries:
    """The background task of one sandbox."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Start delivering if there is a webhook and nobody does yet."""
        if self._has_webhooks() and (self._task is None or self._task.done()):
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def deliver_due(self) -> None:
        """Deliver all that is due now."""
        for account in list(self._store.accounts()):
            if account.webhooks:
                self._store.catch_up()
                self._queue(account)
                by_url: dict[str, list[Attempt]] = {}
                for attempt in account.webhooks.due(monotonic()):
                    by_url.setdefault(attempt.webhook.url, []).append(attempt)
                await asyncio.gather(*(_deliver(account.webhooks, each) for each in by_url.values()))
                self._store.journal.flush()

    async def _run(self) -> None:
        while self._has_webhooks():
            await self.deliver_due()
            await asyncio.sleep(POLL_SECONDS)

    def _has_webhooks(self) -> bool:
        return any(account.webhooks for account in self._store.accounts())

    def _queue(self, owner: Account) -> None:
        now, rules = self._store.clock.now(), self._store.rules
        for webhook in owner.webhooks.all():
            for source in self._sources(owner, webhook):
                cursor = owner.webhooks.cursor(webhook, source.name)
                events, cursor = (
                    source.imports.since(cursor)
                    if webhook.snapshots
                    else source.notifications.since(cursor, now, rules)
                )
                owner.webhooks.queue(webhook, source.name, events, cursor, monotonic())

    def _sources(self, owner: Account, webhook: Webhook) -> Iterable[Account]:
        if not webhook.connect:
            return [owner]
        return [account for account in self._store.accounts() if account.livemode == owner.livemode]


async def _deliver(webhooks: Webhooks, attempts: Iterable[Attempt]) -> None:
    for attempt in attempts:
        webhooks.settle(attempt, await _post(attempt), monotonic())


def _shown(event: Row) -> Row:
    """Return what is delivered of an event: of a thin one no more than that it is there."""
    return notification(event) if event["object"] == "v2.core.event" else event


async def _post(attempt: Attempt) -> int | None:
    """Deliver one notification; return the status, or None when none came."""
    webhook, body = attempt.webhook, to_json(_shown(attempt.event))
    parts = urlsplit(webhook.url)
    path = parts.path or "/"
    head = (
        f"POST {path}{'?' + parts.query if parts.query else ''} HTTP/1.1\r\n"
        f"Host: {parts.netloc}\r\n"
        "User-Agent: Stripe/1.0 (sandbox)\r\n"
        "Content-Type: application/json; charset=utf-8\r\n"
        f"Content-Length: {len(body)}\r\n"
        f"Stripe-Signature: {signature(body, webhook.secret, machine_time())}\r\n"
        "Connection: close\r\n\r\n"
    )
    with suppress(OSError, ValueError, IndexError):
        async with asyncio.timeout(webhook.timeout_seconds):
            reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
            try:
                writer.write(head.encode() + body)
                return int((await reader.readline()).split()[1])
            finally:
                writer.close()
    return None
