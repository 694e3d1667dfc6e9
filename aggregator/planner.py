"""From changed slots to events and refusals. Pure: values in, values out, no clock, no I/O, no logging.

Rules
- What is owed is truth minus what is planned already: `now - before`, plus the customer's carry, plus a held correction
  that this plan replaces.
- What is billed is always the floor of what was used, at the meter's decimals: never more, and never a unit less. The
  remainder stays with the customer as carry.
- `total(r) = total(r-1) + delta(r)`; revisions count 0, 1, 2, ... without a hole.
- A slot has at most one unsettled event. While it has one, a change waits: the slot stays as it is and is read again.
- A decrease is held for a person unless the meter says `decreases: apply`.
- An event's identifier is a function of what it names, so that planning the same thing again gives the same one.
- Its instant lies inside its window and is frozen here. Stripe bills by it, so the window's end or the time of sending
  would move usage into the next period (docs.stripe.com/billing/subscriptions/usage-based/recording-usage-api).
"""

import datetime as dt
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from decimal import ROUND_FLOOR, Context, Decimal, Inexact, InvalidOperation
from hashlib import sha256

from aggregator.model import ZERO, Change, Decision, Decreases, Limits, Planned, Span, State, Tail

MINUTE = dt.timedelta(minutes=1)
SECOND = dt.timedelta(seconds=1)

EXACT = Context(prec=200, traps=[InvalidOperation, Inexact])
"""A reading has at most 60 digits, so a sum of them fits in 200. Anything that would not is a bug, and stops us."""

FLOOR = Context(prec=200, rounding=ROUND_FLOOR)

IDENTIFIER_LENGTH = 44
"""`agg_` and 160 bits in hexadecimal: far below the 100 characters that Stripe allows, far above any collision."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """All that the planner needs to know besides the changed slots: whose they are, and what is allowed."""

    ledger: str
    sink: str
    meter: str
    window: dt.timedelta
    decimals: int
    decreases: Decreases
    limits: Limits
    now: dt.datetime


def plan(changes: Iterable[Change], policy: Policy) -> Iterator[Decision]:
    """Decide about each changed slot, in the order given: all slots of one customer stand together.

    The carry of a customer flows from each of its slots to the next; `Change.carry` is its value before the pass.
    """
    unit = Decimal(1).scaleb(-policy.decimals)
    customer, carry = None, ZERO
    for change in changes:
        if change.customer != customer:
            customer, carry = change.customer, change.carry
        decision = decide(change, carry, unit, policy)
        carry = decision.carry
        yield decision


def decide(change: Change, carry: Decimal, unit: Decimal, policy: Policy) -> Decision:
    """Decide about one changed slot, given what its customer is owed in parts too small to bill."""
    if change.tail is Tail.UNSETTLED:
        return Decision(change, deferred=True, total=change.total, carry=carry, voids=None, event=None)
    replaced = change.held_delta if change.tail is Tail.HELD else ZERO
    owed = EXACT.add(EXACT.add(EXACT.subtract(change.now, change.before), carry), replaced)
    delta = FLOOR.quantize(owed, unit)
    rest = EXACT.subtract(owed, delta)
    assert ZERO <= rest < unit, f"carry {rest} of {change.customer} is not a fraction of {unit}"
    total = EXACT.add(EXACT.subtract(change.total, replaced), delta)
    event = _event(change, delta, total, policy) if delta else None
    return Decision(change, deferred=False, total=total, carry=rest, voids=change.held, event=event)


def _event(change: Change, delta: Decimal, total: Decimal, policy: Policy) -> Planned:
    """Complete the event that changes what a slot stands at by `delta`, to `total`."""
    at = stamp(change, policy.window)
    state, reason = _standing(delta, total, at, policy)
    name = identifier(policy, change.customer, change.window_start, change.revision)
    return Planned(change.event, change.revision, delta, total, at, name, state, reason)


def _standing(delta: Decimal, total: Decimal, at: dt.datetime, policy: Policy) -> tuple[State, str | None]:
    """Say in which state an event begins: due, held for a person, or refused because the sink cannot take it."""
    limits = policy.limits
    if at < policy.now - limits.past:
        return State.REFUSED, f"older than the {limits.past.days} days that {policy.sink} takes"
    if max(significant_digits(delta), significant_digits(total)) > limits.significant_digits:
        return State.REFUSED, f"has more than the {limits.significant_digits} digits that {policy.sink} takes"
    if delta < 0 and policy.decreases is Decreases.HOLD:
        return State.HELD, "lowers what was planned before"
    return State.DUE, None


def significant_digits(value: Decimal) -> int:
    """Return how many digits the value has when written plainly, without leading zeros and trailing decimal zeros."""
    return len(plain(abs(value)).replace(".", "").lstrip("0")) or 1


def plain(value: Decimal) -> str:
    """Write a number in plain digits: no exponent, no trailing zeros after the point, no minus zero."""
    text = format(value, "f")
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text in ("-0", "") else text


def stamp(change: Change, window: dt.timedelta) -> dt.datetime:
    """Give an event its instant inside its window.

    Revision 0 takes the last real use that the source names, else one second before the window's end. Each later
    revision takes an earlier minute of its own (coming round from the first to the last): Stripe's summaries are aligned
    to minutes (docs.stripe.com/api/billing/meter-event-summary), so a minute with one event in it can prove whether that
    event arrived. A window of one minute has room for one.
    """
    start, end = change.window_start, change.window_start + window
    if change.revision == 0 or change.stamped_at is None:
        at = change.at if change.at is not None else end - SECOND
        assert start <= at < end, f"{at} lies outside of {Span(start, end)}"
        return at.replace(microsecond=0)
    minutes = window // MINUTE
    first = min((change.stamped_at - start) // MINUTE, minutes - 1)
    return start + (first - change.revision) % minutes * MINUTE


def identifier(policy: Policy, customer: str, window_start: dt.datetime, revision: int) -> str:
    """Name an event for ever: the hash of ledger, sink, meter, customer, window start and length, and revision.

    Lengths precede texts, so that no two different names can run together into the same bytes.
    """
    texts = (policy.ledger, policy.sink, policy.meter, customer)
    numbers = (int(window_start.timestamp()), int(policy.window.total_seconds()), revision)
    named = "".join(f"{len(text)}:{text}" for text in texts) + ":".join(map(str, numbers))
    return "agg_" + sha256(named.encode()).hexdigest()[: IDENTIFIER_LENGTH - 4]
