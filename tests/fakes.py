"""Honest fakes: each keeps the rules of the real thing."""

import datetime as dt
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal

from aggregator.core.dimensions import Dimensions, of_mapping
from aggregator.core.model import (
    Answer,
    Differing,
    Event,
    Fence,
    Limits,
    Reading,
    Span,
    Verdict,
    WriteModel,
)
from aggregator.core.windows import floor
from aggregator.errors import QueryTimedOut, SinkHalted
from aggregator.source.snapshot import Glimpse

LIMITS = Limits(
    write_model=WriteModel.DELTA,
    memory=dt.timedelta(hours=20),
    proof=dt.timedelta(hours=26),
    past=dt.timedelta(days=35),
    significant_digits=15,
    identifier_length=100,
    batch=100,
    rate=1_000.0,
)


class FakeSink:
    """A sink in memory that books what it accepts, and remembers identifiers as Stripe does.

    `fault` is asked before each event: it may name the answer to give instead, after booking or before.
    """

    def __init__(self, name: str = "fake", limits: Limits = LIMITS) -> None:
        self.name = name
        self.limits = limits
        self.booked: dict[tuple[str, str], Decimal] = defaultdict(Decimal)
        self.slots: dict[tuple[str, str, dt.datetime], Decimal] = defaultdict(Decimal)
        self.received: list[Event] = []
        self.identifiers: dict[str, Event] = {}
        self.refused: set[str] = set()
        self.halted: str | None = None
        self.stopped = False
        self.belongs_to: str | None = "acct_fake test"
        self.fault: Callable[[Event], Answer | None] = lambda event: None
        self.says: Callable[[Event], tuple[str, str] | None] = lambda event: None
        self.lost_after_booking: Callable[[Event], bool] = lambda event: False
        self.during_send: Callable[[], None] = lambda: None

    def send(self, events: Sequence[Event], may_leave: Callable[[], bool]) -> Iterator[Verdict]:
        """Book each event, or answer as told."""
        self.during_send()
        if self.halted:
            raise SinkHalted(self.halted)
        for event in events:
            yield self._take(event) if may_leave() and not self.stopped else Verdict(event.id, Answer.UNSENT)

    def limits_for(self, meter: str) -> Limits:
        """Say the same for every meter."""
        return self.limits

    def _take(self, event: Event) -> Verdict:
        self.received.append(event)
        fault = self.fault(event)
        if fault is not None:
            return Verdict(event.id, fault, *(self.says(event) or (f"told to answer {fault}",)))
        if event.customer in self.refused:
            return Verdict(event.id, Answer.REFUSED, "no such customer")
        if event.identifier in self.identifiers:
            before = self.identifiers[event.identifier]
            same = before[:9] == event[:9] and before.dimensions == event.dimensions
            assert same, "one identifier, one content, for ever"
            return Verdict(event.id, Answer.DUPLICATE, "exists already")
        self.identifiers[event.identifier] = event
        self.booked[event.meter, event.customer] += event.delta
        self.slots[event.meter, event.customer, event.window_start] += event.delta
        if self.lost_after_booking(event):
            return Verdict(event.id, Answer.UNKNOWN, "the answer was lost")
        return Verdict(event.id, Answer.ACCEPTED, request_id=f"req_{len(self.received)}")

    def resume(self) -> None:
        """Take events again, unless still told not to."""
        if self.halted:
            raise SinkHalted(self.halted)

    def preflight(self, meters: Iterable[str]) -> list[str]:
        """Fit every meter."""
        return []

    def account(self) -> str | None:
        """Belong to an account that a test may change."""
        return self.belongs_to

    def total(self, meter: str, customer: str, span: Span) -> Decimal:
        """Return what was booked in the span."""
        return sum(self.breakdown(meter, customer, span, dt.timedelta(minutes=1)).values(), Decimal(0))

    def breakdown(
        self, meter: str, customer: str, span: Span, step: dt.timedelta
    ) -> Mapping[dt.datetime, Decimal]:
        """Return what was booked in the span, step by step."""
        steps: dict[dt.datetime, Decimal] = defaultdict(Decimal)
        for event in self.identifiers.values():
            if (event.meter, event.customer) == (meter, customer) and event.at in span:
                steps[floor(event.at, step)] += event.delta
        return {start: much for start, much in steps.items() if much}

    def stop(self) -> None:
        """Let nothing more in; nothing is ever in the air."""
        self.stopped = True

    def close(self) -> None:
        """There is nothing to give back."""


@dataclass(frozen=True)
class FakeShape:
    """What columns a query gives."""

    returns_window: bool = True


@dataclass(frozen=True)
class FakeTouching:
    """What was touched, as of one instant."""

    fence: Fence | None
    touches: list[tuple[dt.datetime, dt.datetime]]
    asked_since: list[dt.datetime]

    def since(self, instant: dt.datetime) -> Iterator[list[dt.datetime]]:
        """Yield what was touched since then."""
        self.asked_since.append(instant)
        yield [window for at, window in self.touches if at >= instant]


@dataclass
class FakeSource:
    """An application database in memory: uses, each with its customer, instant and quantity."""

    uses: list[tuple[str | None, dt.datetime, Decimal]] = field(default_factory=list)
    kept_apart: list[tuple[str | None, dt.datetime, Decimal, dict[str, str | None]]] = field(
        default_factory=list
    )
    """Uses with values of dimensions; None stands for NULL."""
    returns_window: bool = True
    reads: list[Span] = field(default_factory=list)
    failure: Exception | None = None
    transactions: Fence | None = None
    differing: Differing | None = None
    reread_spans: list[Span] = field(default_factory=list)
    glimpses: int = 0
    glimpsed: list[tuple[str, Span]] = field(default_factory=list)
    failing: set[str] = field(default_factory=set)
    """Queries that are not answered in a glimpse."""
    touches: list[tuple[dt.datetime, dt.datetime]] = field(default_factory=list)
    """When something was touched, and an instant in its window."""
    asked_since: list[dt.datetime] = field(default_factory=list)
    unanswered: Exception | None = None
    """Why it does not say what was touched."""

    def use(
        self, customer: str | None, at: dt.datetime, quantity: Decimal | int = 1, **dimensions: str | None
    ) -> None:
        """Let a customer use something, of such dimensions."""
        if dimensions:
            self.kept_apart.append((customer, at, Decimal(quantity), dimensions))
        else:
            self.uses.append((customer, at, Decimal(quantity)))

    def read(
        self,
        query: str,
        span: Span,
        window: dt.timedelta,
        *,
        dimensions: Sequence[str] = (),
        step: dt.timedelta | None = None,
        allow: Callable[[Fence | None], dt.datetime] | None = None,
    ) -> Iterator[list[Reading]]:
        """Yield the uses of the span as readings, as far as it may be read."""
        self.reads.append(span)
        if self.failure:
            raise self.failure
        if allow is not None:
            span = Span(span.start, allow(self.fence()))
        yield [*self.answer(query, span, window, step), *self._readings_apart(span, window, dimensions)]

    def answer(
        self, query: str, span: Span, window: dt.timedelta, step: dt.timedelta | None = None
    ) -> list[Reading]:
        """Return what a query gives. A source with ways of its own answers otherwise."""
        return self._readings(span, window)

    def _readings(self, span: Span, window: dt.timedelta) -> list[Reading]:
        epoch = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
        return [
            Reading(at - (at - epoch) % window, customer, quantity, at, None if customer else "no customer")
            for customer, at, quantity in self.uses
            if at in span
        ]

    def _readings_apart(
        self, span: Span, window: dt.timedelta, dimensions: Sequence[str]
    ) -> Iterator[Reading]:
        """Yield the uses that have dimensions, kept apart by those that are asked for."""
        for customer, at, quantity, values in self.kept_apart:
            if at not in span:
                continue
            start = floor(at, window)
            lacks = next((name for name in dimensions if not values[name]), None)
            reason = "no customer" if customer is None else None
            apart: Dimensions | None = of_mapping({name: values[name] or "" for name in dimensions})
            if lacks is not None:
                apart, reason = None, f"dimension `{lacks}` is NULL or blank"
            yield Reading(start, customer, quantity, at, reason, dimensions=apart)

    @contextmanager
    def glimpse(self, timeout: dt.timedelta) -> Iterator[Glimpse]:
        """Hold a snapshot open, and count it."""
        assert timeout > dt.timedelta(0)
        if self.failure:
            raise self.failure
        self.glimpses += 1
        yield Glimpse(self.fence(), self._glimpsed)

    def _glimpsed(
        self, query: str, span: Span, window: dt.timedelta, dimensions: Sequence[str] = ()
    ) -> Iterator[list[Reading]]:
        self.glimpsed.append((query, span))
        if query in self.failing:
            raise QueryTimedOut(f"{query!r} takes too long")
        yield [*self._readings(span, window), *self._readings_apart(span, window, dimensions)]

    @contextmanager
    def touched(self, query: str) -> Iterator["FakeTouching"]:
        """Hold a snapshot open that is asked what was touched."""
        if self.unanswered:
            raise self.unanswered
        yield FakeTouching(self.fence(), list(self.touches), self.asked_since)

    def columns(self, query: str, span: Span, dimensions: Sequence[str] = ()) -> FakeShape:
        """Say whether it tells windows apart by itself."""
        return FakeShape(self.returns_window)

    def reread(
        self, query: str, span: Span, window: dt.timedelta, dimensions: Sequence[str] = ()
    ) -> Differing | None:
        """Say what differs by itself, if a test has set it."""
        self.reread_spans.append(span)
        return self.differing

    def fence(self) -> Fence | None:
        """Tell of the transactions, if a test has set them."""
        return self.transactions

    def totals(self) -> dict[str, Decimal]:
        """Return what each customer used."""
        sums: dict[str, Decimal] = defaultdict(Decimal)
        for customer, _, quantity in self.uses:
            if customer:
                sums[customer] += quantity
        return dict(sums)
