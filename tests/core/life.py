"""A source, a ledger and a sink in memory, and what happens to them: passes, deliveries, and death at any moment.

The ledger keeps the rules of the real one (what is committed stays, a claim outlives its process, an event is never
rewritten) and checks the invariants each time something is written.
"""

import datetime as dt
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import count

from aggregator.core import retry
from aggregator.core.model import (
    ZERO,
    Answer,
    Change,
    Decision,
    Event,
    EventId,
    Outcome,
    Planned,
    SlotId,
    State,
    Tail,
    Verdict,
)
from aggregator.core.planner import Policy, plain, plan
from aggregator.core.states import PLANNED, UNDER_WAY, may_follow
from tests.core.usage import MINUTE, POLICY, TOMORROW, floored, instant, table

Key = tuple[str, dt.datetime]
"""Customer and window."""


@dataclass
class Use:
    """What the source says of one slot."""

    quantity: Decimal
    at: dt.datetime | None = None


Truth = dict[Key, Use]
"""All that the source says; a slot that is not in it stands at zero."""


@dataclass
class Slot:
    """What the ledger holds of one slot."""

    id: SlotId
    quantity: Decimal = ZERO
    total: Decimal = ZERO
    revision: int = 0
    stamped_at: dt.datetime | None = None
    tail: EventId | None = None


@dataclass
class Row:
    """One event in the ledger, with what may change about it."""

    planned: Planned
    key: Key
    state: State
    attempts: int = 0
    exposed_at: dt.datetime | None = None
    due_at: dt.datetime | None = None

    def move(self, state: State) -> None:
        """Go one step, if there is one."""
        untried = self.attempts == 0 and self.exposed_at is None
        assert may_follow(self.state, state, untried=untried), f"no step from {self.state} to {state}"
        self.state = state


UNSETTLED = UNDER_WAY | {State.IN_DOUBT}
PARKED = frozenset({State.HELD, State.REFUSED})


class Book:
    """Slots, events and carries of one feed. `commit` writes all of a plan; a process may die before it, not within."""

    def __init__(self, policy: Policy = POLICY) -> None:
        self.policy = policy
        self.slots: dict[Key, Slot] = {}
        self.events: dict[EventId, Row] = {}
        self.carries: dict[str, Decimal] = defaultdict(Decimal)
        self._ids = count(1)

    def changes(self, truth: Truth) -> list[Change]:
        """Compare a complete reading with the slots, customer by customer."""
        return [
            self._change(key, use)
            for key in sorted(truth.keys() | self.slots.keys())
            for use in [truth.get(key, Use(ZERO))]
            if use.quantity != (self.slots[key].quantity if key in self.slots else ZERO)
        ]

    def _change(self, key: Key, use: Use) -> Change:
        slot = self.slots.get(key) or Slot(SlotId(next(self._ids)))
        row = self.events[slot.tail] if slot.tail is not None else None
        parked = slot.tail if row is not None and row.state in PARKED else None
        tail = Tail.PARKED if parked is not None else Tail.CLEAR
        return Change(
            slot=slot.id,
            event=EventId(next(self._ids)),
            customer=key[0],
            window_start=key[1],
            before=slot.quantity,
            now=use.quantity,
            at=use.at,
            total=slot.total,
            revision=slot.revision,
            stamped_at=slot.stamped_at,
            carry=self.carries[key[0]],
            tail=Tail.UNSETTLED if row is not None and row.state in UNSETTLED else tail,
            parked=parked,
            parked_delta=row.planned.delta if row is not None and parked is not None else ZERO,
            known=key in self.slots,
        )

    def plan(self, truth: Truth) -> list[Decision]:
        """Decide about all that changed; nothing is written."""
        return self.decide(self.changes(truth))

    def decide(self, changed: Iterable[Change]) -> list[Decision]:
        """Decide about changed slots; nothing is written."""
        return list(plan(changed, self.policy))

    def commit(self, decisions: Iterable[Decision]) -> None:
        """Write a plan."""
        for decision in decisions:
            if not decision.deferred:
                self._write(decision)
        self.check()

    def _write(self, decision: Decision) -> None:
        change, event = decision.change, decision.event
        key = change.customer, change.window_start
        slot = self.slots.setdefault(key, Slot(change.slot))
        slot.quantity, slot.total = change.now, decision.total
        self.carries[change.customer] = decision.carry
        if decision.voids is not None:
            assert self.events[decision.voids].state in PARKED
            self.events[decision.voids].move(State.VOID)
        if event is not None:
            assert event.id not in self.events
            assert event.state in PLANNED, f"no event begins as {event.state}"
            self.events[event.id] = Row(event, key, event.state, due_at=self.policy.now)
            slot.revision, slot.tail, slot.stamped_at = (
                slot.revision + 1,
                event.id,
                slot.stamped_at or event.at,
            )

    def claim(self, now: dt.datetime) -> list[Event]:
        """Take what is due, and what a process that died had taken; the attempt is on record before anything is sent."""
        taken = []
        for id_, row in self.events.items():
            if row.state in UNDER_WAY and row.due_at is not None and row.due_at <= now:
                taken.append(self._event(id_, row))
                row.move(State.SENDING)
                row.attempts += 1
                row.exposed_at, row.due_at = row.exposed_at or now, now + 5 * MINUTE
        return taken

    def _event(self, id_: EventId, row: Row) -> Event:
        planned, (customer, start) = row.planned, row.key
        names = (id_, self.policy.meter, customer, start, planned.revision, planned.delta, planned.total)
        return Event(*names, planned.at, planned.identifier, row.attempts + 1, row.exposed_at)

    def settle(self, outcomes: Iterable[Outcome]) -> None:
        """Record what became of claimed events."""
        for outcome in outcomes:
            row = self.events[outcome.event]
            assert row.state is State.SENDING
            row.move(outcome.state)
            row.due_at, row.exposed_at = outcome.due_at, outcome.exposed_at
            row.attempts -= not outcome.counts
        self.check()

    def release(self, now: dt.datetime) -> None:
        """Let everything held go out, on a person's word."""
        for row in self.events.values():
            if row.state is State.HELD:
                row.move(State.DUE)
                row.due_at = now

    def meter_state(self, *states: State) -> dict[str, Decimal]:
        """Return the sum of deltas per customer, of events in these states."""
        sums: dict[str, Decimal] = defaultdict(Decimal)
        for row in self.events.values():
            if row.state in states:
                sums[row.key[0]] += row.planned.delta
        return sums

    def used(self) -> dict[str, Decimal]:
        """Return what each customer used, as far as it is committed."""
        sums: dict[str, Decimal] = defaultdict(Decimal)
        for (customer, _), slot in self.slots.items():
            sums[customer] += slot.quantity
        return sums

    def check(self) -> None:
        """Assert what must be true of a ledger at every moment."""
        unit = Decimal(1).scaleb(-self.policy.decimals)
        booked = self.meter_state(*(state for state in State if state is not State.VOID))
        for customer, quantity in self.used().items():
            carry = self.carries[customer]
            assert booked[customer] + carry == quantity, (
                "balance: what is planned and the carry are what was used"
            )
            assert ZERO <= carry < unit, "the carry is too small to bill"
        identifiers = {row.planned.identifier for row in self.events.values()}
        assert len(identifiers) == len(self.events), "one identifier, one content"
        for key, slot in self.slots.items():
            self._check_slot(slot, [row for row in self.events.values() if row.key == key])

    def _check_slot(self, slot: Slot, rows: Sequence[Row]) -> None:
        total = ZERO
        for revision, row in enumerate(rows):
            assert row.planned.revision == revision, "revisions have no hole"
            assert row.planned.delta != 0, "an event changes something"
            assert row.key[1] <= row.planned.at < row.key[1] + self.policy.window, "stamped inside its window"
            if row.state is not State.VOID:
                total += row.planned.delta
                assert row.planned.total == total, "a total is the one before it and the delta"
        assert slot.revision == len(rows)
        assert slot.total == total, "a slot stands where its last event leaves it"
        assert sum(row.state in UNSETTLED for row in rows) <= 1, "one unsettled event at a time"


Fault = Callable[[Event], Answer | None]


class Sink:
    """Books what it is sent, once per identifier. `fault` may answer in its place, `lost` lose the answer after booking."""

    def __init__(self) -> None:
        self.bytes: dict[str, Event] = {}
        self.booked: dict[str, Decimal] = defaultdict(Decimal)
        self.slots: dict[Key, Decimal] = defaultdict(Decimal)

    def send(self, event: Event, fault: Fault, lost: bool) -> Verdict:
        """Take one event."""
        answer = fault(event)
        if answer is not None:
            return Verdict(event.id, answer, "told so")
        if event.identifier in self.bytes:
            # All but how often it was tried, and since when.
            assert self.bytes[event.identifier][:9] == event[:9], "the same bytes go out again"
            return Verdict(event.id, Answer.UNKNOWN if lost else Answer.DUPLICATE)
        self.bytes[event.identifier] = event
        self.booked[event.customer] += event.delta
        self.slots[event.customer, event.window_start] += event.delta
        return Verdict(event.id, Answer.UNKNOWN if lost else Answer.ACCEPTED)


@dataclass
class World:
    """A source, a ledger and a sink. Of these the process remembers nothing, so that it may die at any moment."""

    book: Book
    sink: Sink = field(default_factory=Sink)
    truth: Truth = field(default_factory=dict)
    now: dt.datetime = TOMORROW
    most: dict[Key, Decimal] = field(default_factory=lambda: defaultdict(Decimal))
    """The most that the source ever said of a slot."""
    whole: bool = True
    """Whether the source only ever spoke of whole units of what is billed: then no slot lends another a fraction."""

    def say(self, truth: Truth) -> None:
        """Let the source say something new."""
        self.truth = truth
        for key, use in truth.items():
            self.most[key] = max(self.most[key], use.quantity)
            self.whole &= use.quantity == floored(use.quantity, self.book.policy.decimals)

    def later(self) -> None:
        """Let so much time pass that claims have run out and what was put off is due."""
        self.now += 10 * MINUTE

    def check(self) -> None:
        """Assert what must be true of ledger and sink together at every moment, also between a byte and its answer."""
        self.book.check()
        rows = self.book.events.values()
        there = {row.planned.identifier for row in rows if row.planned.identifier in self.sink.bytes}
        assert there == self.sink.bytes.keys(), "nothing is sent that is not in the ledger"
        missing: dict[str, Decimal] = defaultdict(Decimal)
        for row in rows:
            here = row.planned.identifier in there
            assert here or row.state is not State.ACCEPTED, "accepted means booked"
            assert not here or row.state not in {State.HELD, State.VOID, State.REFUSED}
            if not here and row.state is not State.VOID:
                missing[row.key[0]] += row.planned.delta
        for customer, quantity in self.book.used().items():
            owed = floored(quantity, self.book.policy.decimals)
            assert self.sink.booked[customer] + missing[customer] == owed, (
                "the floor of what was used, to the unit"
            )
        if self.whole:
            over = [key for key, booked in self.sink.slots.items() if booked > self.most[key]]
            assert not over, "never more than the source ever said, not even briefly"


class Step:
    """Something that happens. `perform` yields wherever the process may die."""

    lasting = False
    """Whether somebody outside does it, so that it happens whatever dies here."""

    def perform(self, world: World) -> Iterator[None]:
        """Do it."""
        raise NotImplementedError


@dataclass
class Read(Step):
    """A pass. The table says all that the source has: customer, window, quantity, and perhaps the last use (`at`)."""

    usage: str | Truth

    def perform(self, world: World) -> Iterator[None]:
        """Read, plan, commit."""
        world.say(uses(self.usage) if isinstance(self.usage, str) else self.usage)
        yield
        decisions = world.book.plan(world.truth)
        yield
        world.book.commit(decisions)
        yield


def uses(text: str) -> Truth:
    """Read a table of usage."""
    return {
        (row["customer"], instant(row["window"])): Use(
            Decimal(row["quantity"]), instant(row["at"]) if row.get("at") else None
        )
        for row in table(text)
    }


@dataclass
class Deliver(Step):
    """A round of delivery; `fault` and `lost` say what goes wrong."""

    fault: Fault = lambda event: None
    lost: bool = False

    def perform(self, world: World) -> Iterator[None]:
        """Claim, send, settle."""
        world.later()
        began = world.now
        events = world.book.claim(began)
        yield
        outcomes = []
        for event in events:
            outcome = retry.before_sending(event, began, world.book.policy.limits)
            if outcome is None:
                verdict = world.sink.send(event, self.fault, self.lost)
                outcome = retry.judge(verdict, event, world.now, began)
            outcomes.append(outcome)
            yield
        world.book.settle(outcomes)
        yield


@dataclass
class Release(Step):
    """A person lets everything held go out."""

    lasting = True

    def perform(self, world: World) -> Iterator[None]:
        """Release."""
        world.book.release(world.now)
        yield


def live(
    world: World, steps: Sequence[Step], dies_at: frozenset[int] = frozenset(), *, goes_on: bool = False
) -> int:
    """Let the steps happen, and return how many moments there were to die at.

    At each moment in `dies_at` the process dies: all it knows is gone, and a new one begins the step again, or `goes_on`
    to the next, as if the source had said something new meanwhile.
    """
    moments, at = 0, 0
    while at < len(steps):
        died = False
        for _ in steps[at].perform(world):
            moments += 1
            world.check()
            if moments in dies_at:
                died = True
                break
        at += not died or goes_on or steps[at].lasting
    return moments


def settle_down(world: World, *, released: bool = False) -> None:
    """Read and deliver until nothing moves any more."""
    for _ in range(12):
        live(world, [Read(world.truth), Deliver()])
        if released:
            live(world, [Release(), Deliver()])
        unsettled = [row for row in world.book.events.values() if row.state in UNDER_WAY]
        if not unsettled and not world.book.changes(world.truth):
            return
    raise AssertionError("it does not come to rest")


def ended(world: World) -> None:
    """Assert that the sink holds the floor of what the source says, but for events that stand by name: held or parked."""
    used: dict[str, Decimal] = defaultdict(Decimal)
    for (customer, _), use in world.truth.items():
        used[customer] += use.quantity
    named: dict[str, Decimal] = defaultdict(Decimal)
    for row in world.book.events.values():
        if row.state is not State.VOID and row.planned.identifier not in world.sink.bytes:
            assert row.state in {State.HELD, State.REFUSED, State.IN_DOUBT}, (
                "at rest, whatever is not sent says why"
            )
            named[row.key[0]] += row.planned.delta
    for customer in used.keys() | world.book.used().keys():
        owed = floored(used[customer], world.book.policy.decimals)
        assert world.sink.booked[customer] == owed - named[customer], (
            f"{customer} is not billed what was used"
        )


def states(world: World) -> list[State]:
    """Return the states of all events, in the order in which they were planned."""
    return [row.state for _, row in sorted(world.book.events.items())]


def history(world: World) -> list[dict[str, str]]:
    """Write the events of a ledger as rows of a table, in the order in which they were planned."""
    return [
        {
            "customer": row.key[0],
            "window": f"{row.key[1]:%H:%M}",
            "revision": str(row.planned.revision),
            "delta": plain(row.planned.delta),
            "total": plain(row.planned.total),
            "at": f"{row.planned.at:%H:%M:%S}",
            "state": row.state.value,
        }
        for _, row in sorted(world.book.events.items())
    ]
