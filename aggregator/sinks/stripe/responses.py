"""What each of Stripe's answers means for one event. Pure: descriptions in, judgements out.

Rules
- Only an answer whose echo agrees with what was sent is an acceptance.
- What certainly was not carried out is BUSY or REFUSED; what may have been is UNKNOWN. In doubt it may have been.
- A refusal of the key, the permission or the address is no word on the event: it halts the sink, and the event counts as
  never having left.
- An answer that is not in the table is refused with Stripe's own words, so that it is neither lost nor repeated for ever.

The statuses and codes are those of docs.stripe.com/api/errors, docs.stripe.com/error-codes, docs.stripe.com/rate-limits
and, for meter events, docs.stripe.com/api/v2/billing/meter-event/create and .../meter-event-stream/create. An error of
version 2 may have no type: only its code and its message are sure.
"""

from typing import NamedTuple

from aggregator.core.model import Answer
from aggregator.sinks.responses import Response, wished_seconds

KEY_CODES = frozenset(
    {"api_key_expired", "platform_api_key_expired", "secret_key_required", "tls_version_unsupported"}
)
"""Codes that are about the caller, not the call, on whatever status (docs.stripe.com/error-codes)."""

TURNED_AWAY = frozenset({"rate_limit", "lock_timeout", "too_many_concurrent_requests"})
"""Codes and types of calls that were turned away before anything was done, on whatever status."""

WRONG_ACCOUNT = "account_invalid"
"""The account named beside the key does not exist, or no longer lets the platform in (docs.stripe.com/error-codes)."""

EXPIRED_SESSION = frozenset({"billing_meter_event_session_expired", "temporary_session_expired"})
"""Code and type (docs.stripe.com/api/v2/billing/meter-event-stream/create). The status is 401 there and 400 elsewhere."""

TOO_MANY = 429
UNAUTHORIZED = 401
CONFLICT = 409
REQUEST_TIMEOUT = 408


class Echo(NamedTuple):
    """What the answer to an accepted event repeats of it, or what it ought to repeat."""

    identifier: str | None
    event_name: str | None
    livemode: bool | None
    request_id: str | None = None


class Refusal(NamedTuple):
    """An answer that is not a usable 2xx. `readable` says whether its body was an error in Stripe's shape."""

    status: int
    message: str = ""
    kind: str | None = None
    code: str | None = None
    readable: bool = True
    retry_after: str | None = None
    should_retry: str | None = None
    request_id: str | None = None


def judge_echo(echo: Echo, sent: Echo, sink: str) -> Response:
    """Judge an answer that says the event was taken."""
    if (echo.identifier, echo.event_name) != (sent.identifier, sent.event_name) or echo.livemode is None:
        echoed = f"{echo.event_name!r} with identifier {echo.identifier!r}"
        return Response(
            Answer.UNKNOWN, f"the answer is not about this event but about {echoed}", echo.request_id
        )
    if echo.livemode != sent.livemode:
        is_, should = _mode(live=echo.livemode), _mode(live=sent.livemode)
        return Response(
            Answer.UNKNOWN,
            f"recorded in {is_} mode instead of {should} mode",
            echo.request_id,
            halt=wrong_mode(sink, live=echo.livemode),
        )
    return Response(Answer.ACCEPTED, request_id=echo.request_id)


def wrong_mode(sink: str, *, live: bool) -> str:
    """Say that Stripe records in another mode than the sink is set to, and what to do about it."""
    return (
        f"Sink {sink} is set to {_mode(live=not live)} mode, but Stripe records its events in {_mode(live=live)} mode. "
        "Correct `mode` or `api_key`, then restart or send SIGHUP."
    )


def is_expired_session(refusal: Refusal) -> bool:
    """Recognise a stream's session that is not accepted (any more): nothing of the request was taken."""
    return (
        refusal.code in EXPIRED_SESSION
        or refusal.kind in EXPIRED_SESSION
        or (refusal.status == UNAUTHORIZED and refusal.code not in KEY_CODES)
    )


def is_wrong_account(refusal: Refusal) -> bool:
    """Recognise that the account named beside the key cannot be used."""
    return refusal.code == WRONG_ACCOUNT


def judge_refusal(refusal: Refusal, sink: str) -> Response:
    """Judge an answer that is not a usable 2xx."""
    halt = why_halt(refusal, sink)
    if halt is not None:
        return Response(Answer.UNSENT, describe(refusal), refusal.request_id, halt=halt)
    answer = _answer(refusal)
    again = answer in (Answer.BUSY, Answer.UNKNOWN)
    return Response(
        answer,
        describe(refusal),
        refusal.request_id,
        retry_after=wished_seconds(refusal.retry_after) if again else None,
        throttled=_is_rate_limit(refusal),
    )


def why_halt(refusal: Refusal, sink: str) -> str | None:
    """Say why the sink as a whole is refused, and what to do about it; None if only the call is."""
    described = describe(refusal)
    then = "then restart or send SIGHUP."
    if refusal.code in EXPIRED_SESSION or refusal.kind in EXPIRED_SESSION:
        return None
    if is_wrong_account(refusal):
        asked = "Correct `stripe_account` or `api_key`"
        return f"Stripe does not let sink {sink} into its account: {described}. {asked}, {then}"
    if refusal.status == UNAUTHORIZED or refusal.code in KEY_CODES:
        return f"Stripe does not accept the API key of sink {sink}: {described}. Correct `api_key`, {then}"
    if refusal.status == 403:
        return f"The API key of sink {sink} lacks a permission: {described}. Grant it or change `api_key`, {then}"
    if refusal.status == 404 and not is_missing_object(refusal):
        return f"Stripe's API is not at the address of sink {sink}: {described}. Correct `api_base`, {then}"
    return None


def describe(refusal: Refusal) -> str:
    """Put a refusal into one line: Stripe's own words, the status, the code."""
    words = refusal.message.strip().removesuffix(".") if refusal.readable else "unreadable answer"
    code = f", {refusal.code}" if refusal.code else ""
    return f"{words or 'no message'} ({refusal.status}{code})"


def _answer(refusal: Refusal) -> Answer:
    """Say what a refusal of one call means for its event. The order matters: what leaves it open comes first."""
    status = refusal.status
    if not refusal.readable or not 400 <= status < 500 or status == REQUEST_TIMEOUT:
        return Answer.UNKNOWN
    if refusal.kind == "idempotency_error":
        return (
            Answer.UNKNOWN
        )  # cannot happen with a fresh key per attempt; if it does, we do not know what was done
    if _is_duplicate(refusal):
        return Answer.DUPLICATE
    if status in (CONFLICT, TOO_MANY) or {refusal.code, refusal.kind} & (TURNED_AWAY | EXPIRED_SESSION):
        return Answer.BUSY  # turned away before anything was done
    if refusal.should_retry == "true":
        return Answer.UNKNOWN
    return Answer.REFUSED


def _is_duplicate(refusal: Refusal) -> bool:
    """Recognise a repeated identifier. Version 1 of the API gives it no code; only the message tells."""
    return refusal.code == "duplicate_meter_event" or (
        refusal.status == 400 and "already exists with identifier" in refusal.message
    )


def is_missing_object(refusal: Refusal) -> bool:
    """Tell a customer or meter that does not exist from an endpoint that does not."""
    return refusal.code == "resource_missing" or refusal.message.startswith("No such")


def _is_rate_limit(refusal: Refusal) -> bool:
    """Tell a limit on the account's calls from a lock on one object, which slower calls elsewhere would not loosen."""
    limited = refusal.status == TOO_MANY or "rate_limit" in (refusal.code, refusal.kind)
    return limited and refusal.code != "lock_timeout"


def _mode(*, live: bool | None) -> str:
    return "live" if live else "test"
