"""Answers kept by `Idempotency-Key`, so that a repeated request is answered and not done again.

From docs.stripe.com/api/idempotent_requests: status and body of a finished request are kept for 24 hours, a 500
included; the same key with other parameters is refused; a request that was refused before it began, or that met another
one, leaves nothing behind and may be sent again under its key.
"""

from collections import OrderedDict
from hashlib import blake2b
from typing import NamedTuple

from aggregator.sandbox.errors import ApiError
from aggregator.sandbox.journal import Note, Record
from aggregator.sandbox.wire import Reply

# Version 1 keeps an answer for a day at least. The thirty days of version 2 are from users, not from Stripe's documents.
KEEP_SECONDS = 24 * 3600.0
KEEP_SECONDS_V2 = 30 * 24 * 3600.0
MAX_KEY_CHARACTERS = 255
REPLAYED = ((b"idempotent-replayed", b"true"),)


class Saved(NamedTuple):
    """One kept answer and a digest of the request it belongs to."""

    fingerprint: str
    status: int
    body: bytes
    saved_at: float


class Idempotency:
    """The kept answers of one account, mode and version, the oldest forgotten first."""

    def __init__(
        self, *, limit: int, note: Note, keep_seconds: float = KEEP_SECONDS, kind: str = "reply"
    ) -> None:
        self._limit = limit
        self._keep_seconds = keep_seconds
        self._kind = kind
        self._note = note
        self._saved: OrderedDict[str, Saved] = OrderedDict()
        self._in_flight: set[str] = set()

    def find(self, key: str, fingerprint: str, now: float) -> Reply | None:
        """Return the answer kept under a key. Raise ApiError if the key belongs to another request."""
        if len(key) > MAX_KEY_CHARACTERS:
            message = (
                f"The Idempotency-Key has {len(key)} characters; at most {MAX_KEY_CHARACTERS} are allowed."
            )
            raise ApiError(400, message, reason="idempotency_key_too_long")
        saved = self._saved.get(key)
        if saved is None or now - saved.saved_at >= self._keep_seconds:
            return None
        if saved.fingerprint != fingerprint:
            raise _other_parameters(key)
        return Reply(saved.status, saved.body, REPLAYED)

    def begin(self, key: str) -> None:
        """Mark a key as being worked on. Raise ApiError if it is already."""
        if key in self._in_flight:
            message = (
                f"A request with the Idempotency-Key '{key}' is still being worked on. Try again shortly."
            )
            raise ApiError(409, message, reason="idempotency_key_in_use", code="idempotency_key_in_use")
        self._in_flight.add(key)

    def finish(self, key: str) -> None:
        """Mark a key as no longer being worked on."""
        self._in_flight.discard(key)

    def save(self, key: str, fingerprint: str, reply: Reply, now: float) -> None:
        """Keep an answer and forget what is too old or too much."""
        saved = Saved(fingerprint, reply.status, reply.body, now)
        self._note(self._kind, {"key": key, **saved._asdict(), "body": reply.body.decode()})
        self._remember(key, saved)
        self._forget(now)

    def restore(self, record: Record) -> None:
        """Take an answer back from the state file."""
        key, body = record.pop("key"), record.pop("body")
        self._remember(key, Saved(body=body.encode(), **record))

    def _remember(self, key: str, saved: Saved) -> None:
        self._saved[key] = saved
        self._saved.move_to_end(key)

    def _forget(self, now: float) -> None:
        while self._saved:
            oldest = next(iter(self._saved.values()))
            if len(self._saved) <= self._limit and now - oldest.saved_at < self._keep_seconds:
                return
            self._saved.popitem(last=False)


def fingerprint(method: str, path: str, body: bytes) -> str:
    """Return a digest of everything that makes a request the same request."""
    digest = blake2b(body, digest_size=12)
    digest.update(f"\n{method} {path}".encode())
    return digest.hexdigest()


def _other_parameters(key: str) -> ApiError:
    message = (
        "Keys for idempotent requests can only be used with the same parameters they were first used with. "
        f"Try using a key other than '{key}' if you meant to execute a different request."
    )
    return ApiError(400, message, reason="idempotency_error", kind="idempotency_error")
