"""From changed slots to events and refusals. Pure: values in, values out, no clock, no I/O, no logging.

Rules
- What is owed is truth minus what is planned already: `now - before`, plus the customer's carry, plus a held correction
  that this plan replaces. Where a meter has dimensions, each combination of their values is counted by itself.
- What is billed is always the floor of what was used, at the meter's decimals: never more, and never a unit less. The
  remainder stays with the customer as carry.
- `total(r) = total(r-1) + delta(r)`; revisions count 0, 1, 2, ... without a hole.
- A slot has at most one unsettled event. While it has one, a change waits: the slot stays as it is and is read again.
- Where a sink keeps the newest number, where a slot stands can be sent again, by an event that changes nothing; before a
  decrease that is held, too. Where it bills the last number of a customer, each window is floored for itself, and each is
  sent, zero too; whatever is sent of an older window is followed by all newer ones, in their order.
- A decrease is held for a person, or for a cancellation, unless the meter says `decreases: apply`; one that is suspiciously
  large is held anyway, and one that replaces the proposal of a repair only a person releases.
- What is planned in shadow is decided as if it were sent, and never is. A slot that was begun in shadow stays there: its
  sink has nothing that a correction could correct. Of a slot that is new, `cutover` may say so.
- An increase that runs into one of the meter's guards is held for a person (see `guards`). All else goes out.
- What a person is to see of a reading (a gap, a counter that fell) is held with the reason that came with it.
- Where a query is proven to change by itself, five events of a slot go; then a person is asked, and the slot stands still.
- An event's identifier is a function of what it names, so that planning the same thing again gives the same one.
- Its instant lies inside its window and is frozen here. Stripe bills by it, so the window's end or the time of sending
  would move usage into the next period (docs.stripe.com/billing/subscriptions/usage-based/recording-usage-api).
"""

import datetime as dt
from binascii import b2a_base64
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from decimal import ROUND_FLOOR, Context, Decimal, Inexact, InvalidOperation
from hashlib import sha256

from aggregator.core import dimensions as apart_by
from aggregator.core import guards
from aggregator.core.dimensions import Dimensions
from aggregator.core.model import (
    NO_GUARDS,
    ZERO,
    Change,
    Decision,
    Decreases,
    Doubts,
    Guard,
    Guards,
    Limits,
    Planned,
    Span,
    State,
    Swollen,
    Tail,
    WriteModel,
)
from aggregator.core.windows import MINUTE

SECOND = dt.timedelta(seconds=1)

EXACT = Context(prec=200, traps=[InvalidOperation, Inexact])
"""A reading has at most 60 digits, so a sum of them fits in 200. Anything that would not is a bug, and stops us."""

FLOOR = Context(prec=200, rounding=ROUND_FLOOR)

# Reached a million times in a pass: an attribute of a context or an enum costs as much as the sum it is for, and a named
# tuple's own constructor twice as much as this one.
add, subtract, floor = EXACT.add, EXACT.subtract, FLOOR.quantize
CLEAR, DUE = Tail.CLEAR, State.DUE
PARKED = frozenset({Tail.PARKED, Tail.GUARDED, Tail.LIMITED, Tail.PROPOSED})
build = tuple.__new__

LOWERS = "lowers what was planned before"
GUARDED = "a window shrank too much at once: held until a second read confirms it"
PROPOSED = "too much by a reconciliation, and planned anew since: held whatever `decreases` says"
"""Why events are held. The second says that nobody is needed, if the source says the same again."""

FORGOTTEN = (
    "a sink held more of this window for a customer than the mapping said when the ledger was adopted: it may be billed "
    "already"
)
"""Whoever decides about it finds what was billed too much beside it."""

UNSTABLE = "its query gives another number each time it is read: mend it, or release this to let it go on"
FREE_REVISIONS = 5
"""So many events of a slot go out before its query is looked at, and between two that wait for a person once it is proven to
change by itself. Usage that comes late makes more than these, and is never held for it."""

IDENTIFIER_LENGTH = 24
"""`agg_` and 20 letters and digits, which hold nearly 120 bits: short, since every event keeps and sends one, and far above
any collision, even one that somebody looks for."""
HASHED = 15
"""Bytes of the hash that make 20 characters in base64."""
LETTERS = bytes.maketrans(b"+/", b"xy")
"""In the place of what is no letter or digit in base64."""


class Identifiers:
    """Names the events of one meter at one sink, for ever, whose windows have one length."""

    __slots__ = ("_begins", "_length", "_windows")

    def __init__(self, ledger: str, sink: str, meter: str, window: dt.timedelta) -> None:
        self._begins = "".join(f"{len(text)}:{text}" for text in (ledger, sink, meter))
        self._length = int(window.total_seconds())
        self._windows: dict[dt.datetime, str] = {}
        """How windows stand in identifiers, by their start: each serves up to a million events."""

    def of(self, customer: str, window_start: dt.datetime, revision: int, dimensions: Dimensions = ()) -> str:
        """Name an event: the hash of ledger, sink, meter, customer, window start and length, revision, and dimensions.

        Lengths precede texts, so that no two different names can run together into the same bytes.
        """
        window = self._windows.get(window_start)
        if window is None:
            window = self._windows[window_start] = f"{int(window_start.timestamp())}:{self._length}"
        named = f"{self._begins}{len(customer)}:{customer}{window}:{revision}"
        if dimensions:
            named = f"{named};{apart_by.named(dimensions)}"
        made = b2a_base64(sha256(named.encode()).digest()[:HASHED], newline=False)
        return "agg_" + made.translate(LETTERS).decode("ascii")


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
    guarded: bool = False
    """Whether every decrease is held, whatever the meter says, because windows shrank too much at once."""
    guards: Guards = NO_GUARDS
    swollen: Mapping[dt.datetime, Swollen] = field(default_factory=dict)
    """Windows in which all customers together use unusually much, by their start: their increases are held."""
    shadow: bool = False
    """Whether nothing of what is planned is ever sent."""
    doubts: Doubts = field(default_factory=dict)
    """Whose increases are held for a person to see, and why."""
    doubtful: AbstractSet[dt.datetime] = frozenset()
    """Starts of windows in which whatever changes is held: the ledger has forgotten whose usage they hold."""
    unstable: bool = False
    """Whether the query is proven to give another number each time it is read."""
    oldest: dt.datetime = field(init=False, repr=False)
    """The earliest instant that the sink takes. It and what follows serve a million events, and are made once."""
    sends_total: bool = field(init=False, repr=False)
    watches: bool = field(init=False, repr=False)
    """Whether any guard could hold an increase."""
    plain: bool = field(init=False, repr=False)
    """Whether nothing holds an increase, so that an ordinary one is simply due."""
    surely_fits: Decimal = field(init=False, repr=False)
    """What is below this has no more digits than the sink takes, since it has no more decimals than are billed."""
    latest: bool = field(init=False, repr=False)
    identifiers: Identifiers = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        named = Identifiers(self.ledger, self.sink, self.meter, self.window)
        object.__setattr__(self, "identifiers", named)
        object.__setattr__(self, "oldest", self.now - self.limits.past)
        object.__setattr__(self, "sends_total", self.limits.write_model is not WriteModel.DELTA)
        object.__setattr__(self, "watches", self.guards.holds)
        held = self.guarded or self.watches or self.shadow or self.unstable or self.doubts or self.doubtful
        object.__setattr__(self, "plain", not held)
        fits = Decimal(1).scaleb(self.limits.significant_digits - self.decimals)
        object.__setattr__(self, "surely_fits", fits)
        object.__setattr__(self, "latest", self.limits.write_model is WriteModel.LAST)

    def doubt(self, change: Change) -> str | None:
        """Return why a person is to see a change; None if nobody needs to."""
        start = change.window_start
        return self.doubts.get((start, change.customer)) or self.doubts.get((start, None))

    def takes(self, sent: Decimal) -> bool:
        """Tell whether the sink takes a quantity that is not above zero."""
        return self.limits.negatives if sent else self.limits.zeros


def plan(changes: Iterable[Change], policy: Policy) -> Iterator[Decision]:
    """Decide about each changed slot, in the order given: all slots of one customer and combination stand together.

    The carry of these flows from each of their slots to the next; `Change.carry` is its value before the pass. A slot
    that is only `newer` than one that changed is passed over unless something older is said, and while its event is owed.
    """
    unit = Decimal(1).scaleb(-policy.decimals)
    customer, apart, carry, older_said = None, None, ZERO, False
    for change in changes:
        if policy.unstable and _stands_still(change, policy):
            continue  # a newer number is worth no more than the one that waits
        if change.customer != customer or change.dimensions != apart:
            customer, apart, carry, older_said = change.customer, change.dimensions, change.carry, False
        if change.newer and (
            not older_said or change.shadow or change.unsaid or change.tail is Tail.UNSETTLED
        ):
            continue
        if older_said and change.revision:
            change = change._replace(again=True)  # noqa: PLW2901 - it is to be said behind the older one
        if change.known or carry or policy.latest or change.tail is not CLEAR:
            decision = decide(change, carry, unit, policy)
        else:
            decision = _decide_new(change, unit, policy)
        carry = decision.carry
        if policy.latest and decision.event is not None and decision.event.state is DUE:
            older_said = True
        yield decision


def decide(change: Change, carry: Decimal, unit: Decimal, policy: Policy) -> Decision:
    """Decide about one changed slot, given what its customer is owed in parts too small to bill."""
    if policy.latest:
        return _decide_last(change, carry, unit, policy)
    owed, booked = change.now, change.total
    if change.before:
        owed = subtract(owed, change.before)
    if carry:
        owed = add(owed, carry)
    if change.tail is not CLEAR:
        if change.tail is Tail.UNSETTLED:
            return Decision(change, deferred=True, total=booked, carry=carry, voids=None, event=None)
        owed, booked = add(owed, change.parked_delta), subtract(booked, change.parked_delta)
    delta, rest = floor(owed, unit), ZERO
    if delta != owed:
        rest = subtract(owed, delta)
        assert ZERO <= rest < unit, f"carry {rest} of {change.customer} is not a fraction of {unit}"
    total = add(booked, delta) if booked else delta
    says = delta or (change.again and policy.sends_total)
    event = _event(change, delta, total, policy) if says else None
    if change.again and event is not None and _stays_unsaid(change, event, policy):
        return _send_again(change, carry, booked, policy)
    return build(Decision, (change, False, total, rest, change.parked, event))


def _decide_new(change: Change, unit: Decimal, policy: Policy) -> Decision:
    """Decide about a slot that the ledger does not have, of a customer who is owed nothing: a million of them are usual.

    It comes to what `decide` says of it, where nothing is subtracted and nothing stands in the way.
    """
    used = change.now
    delta, rest = floor(used, unit), ZERO
    if delta != used:
        rest = subtract(used, delta)
        assert ZERO <= rest < unit, f"carry {rest} of {change.customer} is not a fraction of {unit}"
    event = None
    if delta:
        at = stamp(change.window_start, policy.window, 0, used_at=change.at, stamped_at=None)
        if policy.plain and not change.shadow and at >= policy.oldest and ZERO < delta < policy.surely_fits:
            name = policy.identifiers.of(change.customer, change.window_start, 0, change.dimensions)
            event = build(Planned, (change.event, 0, delta, delta, at, name, DUE, None, None))
        else:
            event = _event(change, delta, delta, policy)
    return build(Decision, (change, False, delta, rest, None, event))


def _decide_last(change: Change, carry: Decimal, unit: Decimal, policy: Policy) -> Decision:
    """Decide about a slot whose number is billed as it is: nothing flows from one window to the next.

    What replaces a parked event is said even if nothing changes by it: the parked one may have been to say it, or to say it
    once more after an older window, which is last as long as nobody does.
    """
    booked = change.total
    if change.tail is Tail.UNSETTLED:
        return Decision(change, deferred=True, total=booked, carry=carry, voids=None, event=None)
    if change.tail is not CLEAR:
        booked = subtract(booked, change.parked_delta)
    total = floor(change.now, unit)
    delta = subtract(total, booked)
    unsaid = not change.known or change.tail is not CLEAR
    says = delta or change.again or unsaid
    event = _event(change, delta, total, policy) if says else None
    if change.again and event is not None and _stays_unsaid(change, event, policy):
        return _send_again(change, carry, booked, policy)
    return Decision(change, deferred=False, total=total, carry=carry, voids=change.parked, event=event)


def _stays_unsaid(change: Change, event: Planned, policy: Policy) -> bool:
    """Tell whether a change is to be held, by which it is not said where the slot stands; if it stands anywhere."""
    proposed = change.tail is Tail.PROPOSED  # withdrawn, it would be nothing but a decrease to the next pass
    return policy.sends_total and event.state is State.HELD and not change.unsaid and not proposed


def _send_again(change: Change, carry: Decimal, booked: Decimal, policy: Policy) -> Decision:
    """Take back what is held, if it is, and say where the slot stands. The next pass finds the change, and holds that."""
    back = change._replace(now=subtract(change.before, change.parked_delta))
    event = _event(change, ZERO, booked, policy)
    return Decision(back, deferred=False, total=booked, carry=carry, voids=change.parked, event=event)


def _event(change: Change, delta: Decimal, total: Decimal, policy: Policy) -> Planned:
    """Complete the event that changes what a slot stands at by `delta`, to `total`."""
    at = stamp(
        change.window_start,
        policy.window,
        change.revision,
        used_at=change.at,
        stamped_at=change.stamped_at,
        model=policy.limits.write_model,
    )
    proposed = change.tail is Tail.PROPOSED
    guarded = policy.guarded or change.tail is Tail.GUARDED or proposed
    state, reason = _initial_state(delta, total, at, policy, guarded=guarded)
    guard = Guard.SHRINK if guarded and state is State.HELD else None
    if proposed and guard is not None:
        reason = PROPOSED
    if policy.watches and delta > 0 and state is DUE:
        guard = guards.tripped_by(change, subtract(total, delta), policy.guards, policy.swollen)
        if guard is not None:
            state, reason = State.HELD, guards.reason(guard, change, policy.guards, policy.swollen)
    if policy.doubts and delta > 0 and state is DUE:
        doubt = policy.doubt(change)
        state, reason = (state, reason) if doubt is None else (State.HELD, doubt)
    if state is DUE and delta and change.window_start in policy.doubtful:
        state, reason = State.HELD, FORGOTTEN
    if state is DUE and delta and policy.unstable and asks_a_person(change.revision):
        state, reason = State.HELD, UNSTABLE
    if proposed and state is not DUE:
        guard = (
            Guard.REPAIR
        )  # whatever holds this one: what replaces it may lower the bill, and is a proposal still
    if policy.shadow or change.shadow:
        state, reason, guard = State.SHADOW, reason and f"would be {state.value}: {reason}", None
    name = policy.identifiers.of(change.customer, change.window_start, change.revision, change.dimensions)
    return build(Planned, (change.event, change.revision, delta, total, at, name, state, reason, guard))


def _initial_state(
    delta: Decimal, total: Decimal, at: dt.datetime, policy: Policy, *, guarded: bool
) -> tuple[State, str | None]:
    """Say in which state an event begins: due, held for a person, or refused because the sink cannot take it."""
    digits = policy.limits.significant_digits
    if at < policy.oldest:
        return State.REFUSED, f"older than the {policy.limits.past_days} days that {policy.sink} takes"
    sent = total if policy.sends_total else delta
    if not _fits(sent, digits):
        return State.REFUSED, f"has more than the {digits} digits that {policy.sink} takes"
    if sent <= 0 and not policy.takes(sent):
        return State.REFUSED, f"{policy.sink} takes no quantity {'below' if sent else 'of'} zero"
    if delta < 0 and guarded:
        return State.HELD, GUARDED
    if delta < 0 and policy.decreases is not Decreases.APPLY:
        return State.HELD, LOWERS
    return DUE, None


def asks_a_person(revision: int) -> bool:
    """Tell whether an event of a slot is to wait, if its query changes by itself; a person's word lets as many go again."""
    return revision >= FREE_REVISIONS and revision % FREE_REVISIONS == 0


def _stands_still(change: Change, policy: Policy) -> bool:
    """Tell whether nothing more is planned of a slot while something of it waits. What a person released is planned anew."""
    released = change.again and not policy.sends_total
    return change.revision > FREE_REVISIONS and change.tail in PARKED and not released


def is_restless(revision: int) -> bool:
    """Tell whether a slot has had so many events that its query is to be looked at: at the 5th, and ever less often."""
    return revision >= FREE_REVISIONS - 1 and revision & (revision - 1) == 0


def _fits(value: Decimal, digits: int) -> bool:
    """Tell whether a billed number has at most so many digits; counting its characters is cheap, and mostly enough."""
    return len(str(value)) <= digits or significant_digits(value) <= digits


def total(values: Iterable[Decimal]) -> Decimal:
    """Return an exact sum."""
    come_to = ZERO
    for value in values:
        come_to = add(come_to, value)
    return come_to


def significant_digits(value: Decimal) -> int:
    """Return how many digits the value has when written plainly, without leading zeros and trailing decimal zeros."""
    return len(plain(abs(value)).replace(".", "").lstrip("0")) or 1


def plain(value: Decimal) -> str:
    """Write a number in plain digits: no exponent, no trailing zeros after the point, no minus zero."""
    text = format(value, "f")
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text in ("-0", "") else text


def stamp(
    start: dt.datetime,
    window: dt.timedelta,
    revision: int,
    *,
    used_at: dt.datetime | None,
    stamped_at: dt.datetime | None,
    model: WriteModel = WriteModel.DELTA,
) -> dt.datetime:
    """Give an event its instant inside the window that begins at `start`.

    Revision 0 takes `used_at`, the last real use that the source names, else one second before the window's end; later ones
    know it as `stamped_at`. Each of them takes an earlier minute of its own (coming round from the first to the last):
    Stripe's summaries are aligned to minutes (docs.stripe.com/api/billing/meter-event-summary), so a minute with one event
    in it can prove whether that event arrived. A window of one minute has room for one.

    What overwrites must meet what it overwrites, which Stripe looks for in the UTC hour or day of the event
    (docs.stripe.com/billing/subscriptions/usage-based/meters/configure): each revision takes the instant of the first. Where
    the last number is billed, whether by instant or by arrival is not documented: each revision is a second later than the
    one before it, so that both agree.
    """
    end = start + window
    if model is WriteModel.LAST:
        return min(start + revision * SECOND, end - SECOND)
    if revision == 0 or stamped_at is None:
        at = used_at if used_at is not None else end - SECOND
        assert start <= at < end, f"{at} lies outside of {Span(start, end)}"
        return at - dt.timedelta(0, 0, at.microsecond) if at.microsecond else at
    if model is WriteModel.OVERWRITE:
        return stamped_at
    minutes = window // MINUTE
    first = min((stamped_at - start) // MINUTE, minutes - 1)
    return start + (first - revision) % minutes * MINUTE
