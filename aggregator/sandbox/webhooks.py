"""Webhooks: who is told of events, thin or snapshots, what is still to be sent, and how that is signed.

From docs.stripe.com/webhooks: the header `Stripe-Signature: t=...,v1=...` has the HMAC-SHA256 of `t.body` under the
endpoint's secret; any other status than a 2xx is no delivery, and it is tried again; an event may come twice, and in any
order. How often and how fast it is tried is Stripe's own; here both are settings, small enough to wait for.

A webhook of an account gets the events of that account and mode from its registration on, and with `connect` those of every
account. The URL must be on this machine: a sandbox makes no calls into the world. `t` is the machine's time, whatever the
sandbox's clock says, because the receiver compares it with his own.
"""

import hmac
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from heapq import heappop, heappush
from ipaddress import ip_address
from itertools import count
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from aggregator.sandbox.checks import at_least_zero, is_count, refuse_unknown, require
from aggregator.sandbox.journal import Note, Record
from aggregator.sandbox.paging import Row
from aggregator.sandbox.times import read_instant

# Of what became of deliveries the latest are shown.
MAX_SENT = 1000

Cursor = tuple[int, int]


@dataclass(frozen=True)
class Webhook:
    """One registered URL.

    `snapshots`: told of the snapshot events of import sets, whole, in place of thin events.
    `attempts` and `retry_seconds`: how often at most, and how long after a failure. `twice`: each notification is delivered
    a second time. `out_of_order`: every other one is held back for `hold_seconds`, so that the next overtakes it.
    """

    url: str
    secret: str
    connect: bool = False
    snapshots: bool = False
    enabled: bool = True
    attempts: int = 4
    retry_seconds: float = 0.5
    timeout_seconds: float = 5.0
    twice: bool = False
    out_of_order: bool = False
    hold_seconds: float = 0.5

    def __post_init__(self) -> None:
        require(_is_local(self.url), "url", "an http:// URL on this machine, with its port")
        require(_is_text(self.secret), "secret", "a text such as whsec_...")
        for name in ("connect", "snapshots", "enabled", "twice", "out_of_order"):
            require(isinstance(getattr(self, name), bool), name, "true or false")
        require(is_count(self.attempts) and 1 <= self.attempts <= 20, "attempts", "from 1 to 20")
        for name in ("retry_seconds", "timeout_seconds", "hold_seconds"):
            value = getattr(self, name)
            require(at_least_zero(value) and value <= 60, name, "a number of seconds up to 60")


class Attempt(NamedTuple):
    """One try to deliver one event; `at` is monotonic, `number` counts from 1."""

    at: float
    order: int
    webhook: Webhook
    event: Row
    number: int = 1


class Webhooks:
    """The webhooks of one account and mode, and the deliveries they wait for."""

    def __init__(self, note: Note) -> None:
        self._note = note
        self._by_url: dict[str, tuple[Webhook, float]] = {}
        self._cursors: dict[tuple[str, str], Cursor] = {}
        self._delivered: set[tuple[str, str]] = set()
        self._waiting: list[Attempt] = []
        self._order = count()
        self.sent: list[Row] = []

    def __len__(self) -> int:
        return len(self._by_url)

    def add(self, webhook: Webhook, now: float) -> None:
        """Register a webhook, in place of one with the same URL. What one that was switched off has missed is lost."""
        before, since = self._by_url.get(webhook.url, (webhook, now))
        if not before.enabled:
            since = now
        self._note("webhook", {"webhook": asdict(webhook), "since": since})
        self._by_url[webhook.url] = webhook, since

    def all(self) -> list[Webhook]:
        """Return every webhook."""
        return [webhook for webhook, _ in self._by_url.values()]

    def cursor(self, webhook: Webhook, source: str) -> Cursor:
        """Return how far a webhook is in the events of an account."""
        return self._cursors.get((webhook.url, source), (0, 0))

    def queue(self, webhook: Webhook, source: str, events: Sequence[Row], cursor: Cursor, at: float) -> None:
        """Put events of an account on their way, once each, and remember how far the webhook is."""
        self._cursors[webhook.url, source] = cursor
        _, since = self._by_url[webhook.url]
        for event in events:
            # Thin events are dated to the millisecond, snapshots to the second.
            if (
                _made_at(event) < since - (0.001 if event["object"] == "v2.core.event" else 1)
                or (webhook.url, str(event["id"])) in self._delivered
            ):
                continue
            for _ in range(2 if webhook.twice else 1):
                order = next(self._order)
                held = webhook.out_of_order and order % 2 == 0
                heappush(self._waiting, Attempt(at + webhook.hold_seconds * held, order, webhook, event))

    def due(self, at: float) -> Iterator[Attempt]:
        """Take out what is due, the earliest first."""
        while self._waiting and self._waiting[0].at <= at:
            attempt = heappop(self._waiting)
            webhook, _ = self._by_url[attempt.webhook.url]
            if webhook.enabled:
                yield attempt._replace(webhook=webhook)

    def settle(self, attempt: Attempt, status: int | None, at: float) -> None:
        """Keep what became of a try, and put the next one on its way if there is to be one."""
        webhook, event, number = attempt.webhook, str(attempt.event["id"]), attempt.number
        delivered = status is not None and 200 <= status < 300
        self.sent.append({"url": webhook.url, "event": event, "attempt": number, "status": status})
        del self.sent[:-MAX_SENT]
        if not delivered and number < webhook.attempts:
            again = Attempt(at + webhook.retry_seconds, next(self._order), webhook, attempt.event, number + 1)
            heappush(self._waiting, again)
        elif (webhook.url, event) not in self._delivered:
            self._note("delivered", {"url": webhook.url, "event": event})
            self._delivered.add((webhook.url, event))

    def restore(self, kind: str, record: Record) -> None:
        """Take a webhook, or the end of a delivery, back from the state file."""
        if kind == "webhook":
            webhook = Webhook(**record["webhook"])
            self._by_url[webhook.url] = webhook, record["since"]
        else:
            self._delivered.add((record["url"], record["event"]))


def read_webhook(data: Mapping[str, Any]) -> Webhook:
    """Build a webhook from JSON. Raise ValueError for a name or a value that is not one."""
    refuse_unknown(data, Webhook)
    for name in ("url", "secret"):
        require(name in data, name, "given")
    return Webhook(**data)


def signature(body: bytes, secret: str, at: int) -> str:
    """Return the header that proves who sent a body, and when."""
    digest = hmac.new(secret.encode(), f"{at}.".encode() + body, sha256).hexdigest()
    return f"t={at},v1={digest}"


def _made_at(event: Row) -> float:
    created = event["created"]
    seconds = created if isinstance(created, int) else read_instant(str(created))
    assert seconds is not None
    return seconds


def _is_text(value: object) -> bool:
    return isinstance(value, str) and value != ""


def _is_local(url: object) -> bool:
    if not isinstance(url, str):
        return False
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        return (
            parts.scheme == "http"
            and parts.port is not None
            and (host == "localhost" or ip_address(host).is_loopback)
        )
    except ValueError:
        return False
