"""The billing service, as Stripe documents it and a little worse: what it books, what it remembers, what it says.

- An identifier is remembered for 24 hours, and not a minute longer (docs.stripe.com/api/billing/meter-event/create).
- An instant may lie 35 days back and 5 minutes ahead.
- What turns out invalid later was answered with success, is never counted, and is reported, by name or only by number.
- Its own totals lag behind.
- It takes an event back within 24 hours of its receipt (docs.stripe.com/api/billing/meter-event-adjustment), at once or a
  little later, and says only that there is no such event to whoever asks for it again.
- A customer that it does not know is refused, for ever.
- Where the last number is billed it keeps one per customer: the one that arrived last in some lives, the one with the newest
  instant in others, since that is not documented.
"""

import datetime as dt
import random
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from itertools import chain

from aggregator.core.model import (
    ZERO,
    Answer,
    Event,
    Rejection,
    Report,
    Span,
    WriteModel,
)
from aggregator.core.windows import floor
from tests.simulation.apart import customer_of
from tests.simulation.conditions import DAY, HOUR, MINUTE, Conditions
from tests.simulation.scheduler import Scheduler

REMEMBERS = CANCELS_WITHIN = 24 * HOUR
OLDEST, AHEAD = 35 * DAY, 5 * MINUTE


@dataclass(slots=True)
class Booked:
    """One event that the service counts from `at` on."""

    event: Event
    booked_at: dt.datetime
    visible_at: dt.datetime
    amount: Decimal
    """By how much the sum of the slot changed."""


class Service:
    """The far side. `process` is what happens to a request that arrives."""

    def __init__(
        self,
        scheduler: Scheduler,
        conditions: Conditions,
        random: random.Random,
        saw: Callable[[str], None],
        watch: Callable[[Event, Decimal], None],
    ) -> None:
        self.booked: list[Booked] = []
        self.by_slot: dict[tuple[str, str, dt.datetime], Decimal] = defaultdict(Decimal)
        self.by_customer: dict[tuple[str, str], Decimal] = defaultdict(Decimal)
        self.last: dict[tuple[str, str], Event] = {}
        """Where the last number is billed: the event it is from."""
        self._kept: dict[tuple[str, str, dt.datetime], Decimal] = defaultdict(Decimal)
        """Where the newest number of each hour is billed: that number."""
        self.times: dict[str, int] = defaultdict(int)
        """How often each identifier was booked."""
        self.cancelled: dict[str, dt.datetime] = {}
        """What was taken back, and when."""
        self.rejected: dict[str, Event] = {}
        self.tell: Callable[[Report], None] = lambda report: None
        """Where reports go."""
        self.received = 0
        self.black_holes: list[Span] = []
        self.halted = False
        self.unknown_customers: set[str] = set()
        self.gone: list[tuple[str, Span]] = []
        """Customers that are unknown for a while."""
        self._events: dict[tuple[str, str], list[Booked]] = defaultdict(list)
        self._memory: dict[str, dt.datetime] = {}
        self._scheduler = scheduler
        self._conditions = conditions
        self._random = random
        self._saw = saw
        self._watch = watch

    def process(self, event: Event) -> tuple[Answer, str | None]:
        """Take one request that arrived, and answer it."""
        now = self._scheduler.now
        self.received += 1
        seen = self._memory.get(event.identifier)
        known = seen is not None and now - seen < REMEMBERS
        gone = any(event.customer == customer and now in span for customer, span in self.gone)
        gone = gone or event.customer in self.unknown_customers
        if known and not (gone and self._conditions.customer_first):
            return Answer.DUPLICATE, f"An event already exists with identifier {event.identifier}."
        if gone:
            if known:
                self._saw("a customer is gone after its event was taken")
            return Answer.REFUSED, f"No such customer: {event.customer}"
        if not now - OLDEST < event.at <= now + AHEAD:
            return Answer.REFUSED, f"The timestamp {event.at} is out of bounds."
        self._memory[event.identifier] = now
        if self._random.random() < self._conditions.rejects and event.delta > 0:
            self.rejected[event.identifier] = event
            self._report(event)
            return Answer.ACCEPTED, None
        self.book(event)
        return Answer.ACCEPTED, None

    def _report(self, event: Event) -> None:
        """Report an event as invalid, at once or a day later, by name or only by number."""
        now, random = self._scheduler.now, self._random
        received = floor(now, MINUTE)
        named = random.random() < self._conditions.named
        rejections = (Rejection(event.identifier, "no such customer"),) if named else ()
        span = Span(received, received + MINUTE)
        report = Report(f"rep_{len(self.rejected)}", event.meter, span, 1, rejections)
        delay = random.choice([0 * MINUTE, MINUTE / 20, 10 * MINUTE, 5 * HOUR, 26 * HOUR])
        self._scheduler.after(delay, lambda: self.tell(report))

    def book(self, event: Event) -> None:
        """Count an event."""
        now = self._scheduler.now
        slot = (event.meter, event.customer, event.window_start)
        amount = self._amount(event)
        before = self.last.get((event.meter, event.customer))
        if before is None or self._conditions.by_arrival or event.at >= before.at:
            self.last[event.meter, event.customer] = event
        self.times[event.identifier] += 1
        self.by_slot[slot] += amount
        self.by_customer[event.meter, event.customer] += amount
        booked = Booked(event, now, now + self._conditions.lag * self._random.random(), amount)
        self.booked.append(booked)
        self._events[event.meter, event.customer].append(booked)
        self._watch(event, amount)

    def hold(self, event: Event) -> None:
        """Count an event that somebody else sent long ago: its totals show it."""
        self.book(event)
        self.booked[-1].visible_at = self._scheduler.now

    def credit(self, identifier: str) -> None:
        """Undo what was billed of an event, on a person's word."""
        [booked] = [each for each in self.booked if each.event.identifier == identifier]
        self.booked.remove(booked)
        self._undo(booked)

    def _undo(self, booked: Booked) -> None:
        event = booked.event
        self.times[event.identifier] -= 1
        self.by_slot[event.meter, event.customer, event.window_start] -= booked.amount
        self.by_customer[event.meter, event.customer] -= booked.amount
        self._kept[_place(event)] -= booked.amount

    def cannot_cancel(self, identifier: str) -> str | None:
        """Say why an event is not taken back; None if it is."""
        if identifier in self.cancelled or not self.times[identifier]:
            return "no such event"
        received = next(each.booked_at for each in self.booked if each.event.identifier == identifier)
        return None if self._scheduler.now - received <= CANCELS_WITHIN else "older than 24 hours"

    def cancel(self, identifier: str) -> None:
        """Take an event back, if that can be done. Its identifier stays known; the totals show it later."""
        if self.cannot_cancel(identifier) is not None:
            return
        booked = next(each for each in self.booked if each.event.identifier == identifier)
        event, now = booked.event, self._scheduler.now
        self.cancelled[identifier] = now
        self._undo(booked)
        visible_at = max(booked.visible_at, now + self._conditions.lag * self._random.random())
        self._events[event.meter, event.customer].append(Booked(event, now, visible_at, -booked.amount))
        self._saw("cancelled")

    def _amount(self, event: Event) -> Decimal:
        """Return by how much an event changes the sum of its slot."""
        match self._conditions.write_model:
            case WriteModel.OVERWRITE:
                before, self._kept[_place(event)] = self._kept[_place(event)], event.total
                return event.total - before
            case WriteModel.DELTA:
                return event.delta
            case _:
                return event.total - self.by_slot[event.meter, event.customer, event.window_start]

    def halt(self, *, halted: bool) -> None:
        """Refuse us as a whole, or no longer."""
        self.halted = halted

    def in_black_hole(self) -> bool:
        """Tell whether answers are being lost just now."""
        return any(self._scheduler.now in hole for hole in self.black_holes)

    def total(self, meter: str, customer: str, span: Span) -> Decimal:
        """Return what is counted of a span, as far as the service's totals have caught up."""
        return sum(self.breakdown(meter, customer, span, MINUTE).values(), ZERO)

    def breakdown(
        self, meter: str, customer: str, span: Span, step: dt.timedelta
    ) -> dict[dt.datetime, Decimal]:
        """Return the same, step by step: a customer's figure is of all its combinations."""
        steps: dict[dt.datetime, Decimal] = defaultdict(Decimal)
        of_all = [
            its for (of, name), its in self._events.items() if (of, customer_of(name)) == (meter, customer)
        ]
        for each in chain.from_iterable(of_all):
            if each.event.at in span and each.visible_at <= self._scheduler.now:
                steps[floor(each.event.at, step)] += each.amount
        return {start: much for start, much in steps.items() if much}


def _place(event: Event) -> tuple[str, str, dt.datetime]:
    """Return the hour of which the newest number counts."""
    return event.meter, event.customer, floor(event.at, HOUR)
