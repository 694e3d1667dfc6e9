"""What a verdict means: done, refused, again later, or in doubt. Pure: the present instant is an argument.

Rules
- An answer that leaves open whether the event was booked is never a failure and never a success: the same bytes go out
  again under the same identifier while the sink surely remembers it, and not once after that.
- "I have this identifier already" means accepted if an earlier attempt may have put it there. Without one, the ledger has
  forgotten that it was sent, or a copy of it sends: that is refused, and nothing more is sent.
- An attempt that never left this process, or that the sink turned away before doing anything, exposes nothing.
- Where a sink books the total, sending it again changes nothing: there, nothing is ever in doubt.
"""

import datetime as dt
from hashlib import sha256
from typing import assert_never

from aggregator.core.model import Answer, Event, Limits, Outcome, State, Verdict, WriteModel

FIRST_WAIT_SECONDS = 1.0
"""Long enough for a sink to recover from a hiccup, short enough that nobody waits for it."""

LONGEST_WAIT_SECONDS = 300.0
"""A sink that was away for hours is noticed within five minutes of its return."""

CLOCK_TURNED = dt.timedelta(minutes=10)
"""An attempt that is stamped so much later than now was stamped by a clock that has been set back since. Longer than a claim
takes to be committed, and far less than what lies between our memory of identifiers and a sink's."""

LONGEST_WISH_SECONDS = 3600.0
"""What a sink asks for is granted up to an hour: a nonsensical `Retry-After` does not put an event off for ever."""


def before_sending(event: Event, now: dt.datetime, limits: Limits) -> Outcome | None:
    """Say why an event may not be sent (again) now; None if it may.

    An event first exposed longer ago than the sink's safe memory of identifiers might be booked twice, unless it is a total.
    One that has become too old for the sink would only be turned away; it is set down as what cannot be billed.
    """
    adds = limits.write_model is WriteModel.DELTA
    exposed = _longer_ago_than_remembered(event.exposed_at, now, limits.memory) if adds else None
    if exposed is not None:
        latest = event.attempted_at
        return Outcome(
            event.id,
            State.IN_DOUBT,
            reason=exposed,
            exposed_at=event.exposed_at,
            counts=False,
            attempted_at=min(latest, now) if latest is not None else None,
        )
    if event.at - now > limits.future:
        return Outcome(
            event.id,
            State.DUE,
            event.at - limits.future,
            "lies further ahead than the sink takes: is this host's clock behind?",
            exposed_at=event.exposed_at,
            counts=False,
            attempted_at=event.attempted_at,
        )
    if event.exposed_at is None and now - event.at > limits.past:
        reason = f"became older than the {limits.past_days} days that the sink takes"
        return Outcome(event.id, State.REFUSED, reason=reason, counts=False, attempted_at=event.attempted_at)
    return None


def _longer_ago_than_remembered(
    exposed_at: dt.datetime | None, now: dt.datetime, memory: dt.timedelta
) -> str | None:
    """Say why the sink may not recognise an event any more that was first exposed then; None if it surely does."""
    if exposed_at is None:
        return None
    if exposed_at - now > CLOCK_TURNED:
        return (
            f"no answer, and the first attempt is stamped {exposed_at:%Y-%m-%d %H:%M}Z, which is still to come: the "
            "ledger's clock was set back, and how long ago the attempt was, nobody can tell"
        )
    if now - exposed_at > memory:
        hours = memory // dt.timedelta(hours=1)
        return f"no answer, and {hours} h after the first attempt a resend might be booked twice"
    return None


def judge(
    verdict: Verdict,
    event: Event,
    now: dt.datetime,
    began: dt.datetime,
    model: WriteModel = WriteModel.DELTA,
) -> Outcome:
    """Turn a sink's word on one event into what the ledger is to record. `model` is what the sink books of an event.

    `event.exposed_at` is the instant before this attempt: None means that no earlier attempt can have arrived. `began` is
    when this attempt began. A sink's memory counts from there: between the request and a lost answer there may be a night
    of suspension, after which a resend would be booked twice.
    """
    exposed_at = event.exposed_at or began
    match verdict.answer:
        case Answer.ACCEPTED:
            return Outcome(event.id, State.ACCEPTED, request_id=verdict.request_id, exposed_at=exposed_at)
        case Answer.DUPLICATE if event.exposed_at is not None:
            return Outcome(
                event.id, State.ACCEPTED, request_id=verdict.request_id, exposed_at=event.exposed_at
            )
        case Answer.DUPLICATE if event.attempts > 1 and model is WriteModel.DELTA:
            # Read back, it was not there; or it was turned away before. Only the sink's own totals can tell now.
            reason = "the sink has this identifier already, though no earlier attempt should have arrived"
            return Outcome(
                event.id,
                State.IN_DOUBT,
                reason=f"{reason}: {verdict.reason or 'no reason given'}",
                request_id=verdict.request_id,
                exposed_at=began,
            )
        case Answer.DUPLICATE:
            reason = "the sink has this identifier already, though we never sent it: " + (
                verdict.reason or ""
            )
            return Outcome(event.id, State.REFUSED, reason=reason, request_id=verdict.request_id)
        case Answer.REFUSED if event.exposed_at is not None and model is WriteModel.DELTA:
            reason = (
                f"refused ({verdict.reason}), but an earlier attempt without an answer may have been booked"
            )
            return Outcome(
                event.id,
                State.IN_DOUBT,
                reason=reason,
                request_id=verdict.request_id,
                exposed_at=event.exposed_at,
            )
        case Answer.REFUSED:
            return Outcome(
                event.id,
                State.REFUSED,
                reason=verdict.reason,
                request_id=verdict.request_id,
                exposed_at=event.exposed_at,
            )
        case Answer.BUSY:
            return _again(verdict, event, now, exposed_at=event.exposed_at)
        case Answer.UNKNOWN:
            return _again(verdict, event, now, exposed_at=exposed_at)
        case Answer.UNSENT:
            return Outcome(
                event.id,
                State.DUE,
                due_at=now,
                exposed_at=event.exposed_at,
                counts=False,
                attempted_at=event.attempted_at,
            )
        case _:
            assert_never(verdict.answer)


def forgotten(verdict: Verdict, event: Event) -> str | None:
    """Say what a verdict shows that the ledger has forgotten; None if it shows nothing of the kind.

    Identifiers are derived from the ledger's own, so nobody else has them. An event that was never tried and that the sink
    knows was sent by this ledger, at a time that is not in it any more, or by a copy of it. A sink that takes one twice
    without a word shows nothing.
    """
    if verdict.answer is not Answer.DUPLICATE or event.exposed_at is not None or event.attempts > 1:
        return None
    return (
        f"The sink has event {event.id} already ({event.meter} of {event.customer}, window "
        f"{event.window_start:%Y-%m-%dT%H:%MZ}, identifier {event.identifier}), and the ledger knows of no attempt to "
        "send it. So the ledger was set back and has forgotten what it sent, or a copy of it sends the same."
    )


def _again(verdict: Verdict, event: Event, now: dt.datetime, exposed_at: dt.datetime | None) -> Outcome:
    wish = min(verdict.retry_after or 0.0, LONGEST_WISH_SECONDS)
    wait = max(backoff_seconds(event.attempts, event.identifier), wish)
    due_at = now + dt.timedelta(seconds=wait)
    return Outcome(event.id, State.DUE, due_at, verdict.reason, verdict.request_id, exposed_at)


def backoff_seconds(attempts: int, identifier: str) -> float:
    """Return how long to wait after this many attempts: doubling, bounded, and spread by half so that crowds part.

    The spread is taken from the identifier and the attempt, which makes it as good as chance and yet repeatable.
    """
    assert attempts >= 1
    full = min(FIRST_WAIT_SECONDS * 2.0 ** min(attempts - 1, 20), LONGEST_WAIT_SECONDS)
    dice = sha256(f"{identifier}/{attempts}".encode()).digest()
    return full * (0.5 + int.from_bytes(dice[:4]) / 2**33)
