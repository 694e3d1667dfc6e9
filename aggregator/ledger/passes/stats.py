"""What one pass did, counted from its decisions as they go by."""

import datetime as dt
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal

from aggregator.core.counts import Counts
from aggregator.core.lateness import Late, step_of
from aggregator.core.model import ZERO, Decision, EventId, State, Tail
from aggregator.core.planner import is_restless
from aggregator.ledger.meters import Feed

DUE, HELD, REFUSED, SHADOW = State.DUE, State.HELD, State.REFUSED, State.SHADOW
LIMITED = Tail.LIMITED
"""Looked up once: a million decisions come by here, and each look at an Enum costs as much as a sum."""

BEGINNING = dt.datetime.min.replace(tzinfo=dt.UTC)


@dataclass(slots=True, kw_only=True)
class PassCounts(Counts):
    """What is counted of a pass, of a round of passes, and of a backfill."""

    rows: int = 0
    unmapped_rows: int = 0
    """Rows that can be billed to nobody."""
    corrections: int = 0
    held: int = 0
    refused: int = 0
    shadow: int = 0
    """Events that are never sent."""
    deferred: int = 0
    beyond: int = 0
    """Events that a guard against too much holds; and how many units they come to."""
    beyond_units: Decimal = ZERO
    left_from: dt.datetime | None = None
    """From where on something was left that the source has not proven to show; and why."""
    left_why: str | None = None

    def leave(self, since: dt.datetime, why: str | None) -> None:
        """Note that a reading left what lies behind an instant."""
        if self.left_from is None or since < self.left_from:
            self.left_from, self.left_why = since, why


@dataclass(slots=True, kw_only=True)
class Tally(PassCounts):
    """What one pass did, or would do."""

    unmapped_quantity: Decimal = ZERO
    """What rows come to that can be billed to nobody, as far as they have a usable number; only a preview counts it."""
    changed: int = 0
    planned: int = 0
    guarded: int = 0
    """Windows that shrank so much that decreases are held until a second reading confirms them."""
    adds_up: bool = False
    """Whether it is to be counted by how much windows are raised."""
    raised: dict[dt.datetime, Decimal] = field(default_factory=dict)
    """By how much, in events that are due; counted for one feed."""
    lowered: set[tuple[dt.datetime, str]] = field(default_factory=set)
    """Windows and customers of which a combination came to less, where guards look at all of them; counted for one feed."""
    pass_id: int | None = None
    """The number of the pass's record, once it is written."""
    mark: dt.datetime = BEGINNING
    """The mark before the pass: what lies before it had been read."""
    moved: dict[dt.datetime, Decimal] = field(default_factory=dict)
    """By how much windows that had been read, or written ahead of the mark, moved; counted for one feed.

    What a guard against too much holds is in none of it: it was never believed, so nothing is lost when it goes.
    """
    reread: set[dt.datetime] = field(default_factory=set)
    """Those windows of all feeds: what was read of them is no longer what was read before."""
    differed: set[dt.datetime] = field(default_factory=set)
    """Windows that had been read, and of which the source says another number by now."""
    late: dict[dt.datetime, tuple[int, Decimal]] = field(default_factory=dict)
    on_time: int = 0
    on_time_quantity: Decimal = ZERO
    oldest_deferred: dt.datetime | None = None
    restless: dt.datetime | None = None
    """The newest window that changed so often that its query is to be looked at."""
    voided: list[EventId] = field(default_factory=list)

    def counting(self, decisions: Iterable[Decision]) -> Iterator[Decision]:
        """Pass decisions on, and take each into account."""
        for decision in decisions:
            self.count(decision)
            yield decision

    def counting_pairs(self, pairs: Iterable[tuple[Feed, Decision]]) -> Iterator[tuple[Feed, Decision]]:
        """Do the same for decisions that come with their feed."""
        for feed, decision in pairs:
            self.count(decision)
            yield feed, decision

    def count(self, decision: Decision) -> None:
        """Take one decision into account."""
        if decision.deferred:
            self.deferred += 1
            self._read_again(decision)
            return
        self.changed += 1
        self._time(decision)
        if decision.voids is not None:
            self.voided.append(decision.voids)
        change = decision.change
        if change.together is not None and change.now < change.before:
            self.lowered.add((change.window_start, change.customer))
        event = decision.event
        if event is None:
            return
        if not event.delta:
            self._read_again(decision)  # a decrease may be left for later by it, and has to be found anew
        self.planned += 1
        if event.revision:
            self.corrections += 1
            if is_restless(event.revision):
                self.restless = max(decision.change.window_start, self.restless or BEGINNING)
        if event.state is not DUE:
            self.held += event.state is HELD
            self.refused += event.state is REFUSED
            self.shadow += event.state is SHADOW
        if event.guard is not None and event.guard.limits:
            self.beyond += 1
            self.beyond_units += event.delta
        elif self.adds_up and event.delta > 0 and event.state is DUE:
            start = decision.change.window_start
            self.raised[start] = self.raised.get(start, ZERO) + event.delta

    def _read_again(self, decision: Decision) -> None:
        start = decision.change.window_start
        self.oldest_deferred = min(start, self.oldest_deferred or start)

    def _time(self, decision: Decision) -> None:
        """Note whether a change was in time, and how windows that had been read move."""
        change = decision.change
        start, more = change.window_start, change.now - change.before
        if change.known or start < self.mark:
            self.moved[start] = self.moved.get(start, ZERO) + more + _held_less(decision)
            if more:
                self.differed.add(start)
        if start >= self.mark:
            self.on_time += 1
            self.on_time_quantity += more
        elif more > 0:
            slots, quantity = self.late.get(start, (0, ZERO))
            self.late[start] = slots + 1, quantity + more

    def lateness(self, now: dt.datetime, window: dt.timedelta) -> dict[int, Late]:
        """Return slots and quantity by how late they were found, as a step in seconds; what was in time stands under 0."""
        found = {0: Late(self.on_time, self.on_time_quantity)} if self.on_time else {}
        for start, (slots, quantity) in self.late.items():
            step = step_of(now - start - window)
            before = found.get(step, Late(0, ZERO))
            found[step] = Late(before.slots + slots, before.quantity + quantity)
        return found


def _held_less(decision: Decision) -> Decimal:
    """Return how much less of a slot a guard against too much holds after a decision."""
    change, event = decision.change, decision.event
    less = change.parked_delta if change.tail is LIMITED else ZERO
    if event is not None and event.guard is not None and event.guard.limits:
        less -= event.delta
    return less
