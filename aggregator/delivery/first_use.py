"""The first use of a feed: before its first events leave, the sink is asked what it holds already of what they bill.

A ledger that begins anew knows nothing of what another one, or another job, has billed, and would bill all of it again. So
would a meter that begins where something else ended a little later than was thought.

Rules
- Every customer whose events are about to leave is asked about, until enough were (`ledger.first_use.ENOUGH`): by one call
  each, over all that the feed may bill until now.
- Usage that the sink holds and this ledger did not send stops that feed, and nothing else. It goes on once a person has
  decided: by an adoption, by another beginning, or by saying that it may stay.
- A sink that cannot be asked now is asked again, and nothing of the feed leaves meanwhile. One that never can be has nothing
  to say.
- The ledger is read, the sink is asked, the ledger is written: no ledger transaction is open while the sink is talked to.
"""

import datetime as dt
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from decimal import Decimal
from typing import NamedTuple

from aggregator.core import planner
from aggregator.core.model import ZERO, Span, WriteModel
from aggregator.core.windows import floor, is_ahead
from aggregator.errors import (
    AccountRefused,
    CustomerUnknown,
    MeterMissing,
    SinkError,
    SinkHalted,
    SinkUnreachable,
    SinkUnreadable,
)
from aggregator.ledger.outbox.first_use import FirstUses, Pending
from aggregator.sinks.protocol import Totals

ASKED_AT_ONCE = 4
"""Customers that are asked about beside each other: at a sink's usual pace of answering less than the least of the limits,
25 calls a second (docs.stripe.com/rate-limits)."""

ENOUGH_FOUND = 5
"""After so many customers with usage nobody needs more to see that it is not ours."""

ASK_AGAIN = dt.timedelta(seconds=30)
"""How soon a sink that could not be asked is asked again."""

LOOK_AGAIN = dt.timedelta(minutes=10)
"""How soon it is asked again about a feed that stands still: somebody may have put things right there."""

LOOK_FOR_NEW = dt.timedelta(seconds=5)
"""How soon it is looked for feeds that are to be cleared, after there were none."""

NAMED = 3
"""Customers that one sentence names."""

NOTHING_OF_OTHERS = "the sink holds nothing that this ledger did not send"

NOTHING_THERE = AccountRefused, CustomerUnknown, MeterMissing
"""A sink that says so holds nothing that counts: what it does not know it has not billed."""


class FirstUseState(NamedTuple):
    """What became of a feed: `cleared`, `stopped`, or `waiting` because its sink could not be asked."""

    kind: str
    meter: str
    text: str


@dataclass(slots=True)
class Found:
    """What a sink said of the customers it was asked about."""

    holds: dict[str, Decimal] = field(default_factory=dict)
    """What it has counted of each, where that is something."""
    silent: str | None = None
    """Why it could not be asked, or not about anybody."""
    unreadable: str | None = None
    """Why it never lets itself be asked by this key."""
    fault: str | None = None
    """What it said of a customer that made no sense."""
    answered: set[str] = field(default_factory=set)

    @property
    def enough(self) -> bool:
        """Whether nothing more needs to be asked."""
        return bool(self.unreadable or self.silent) or len(self.holds) >= ENOUGH_FOUND

    def take(self, customer: str, said: Decimal | SinkError) -> None:
        """Take what it said of a customer, or why it did not."""
        match said:
            case SinkUnreadable():
                self.unreadable = str(said)
            case SinkUnreachable() | SinkHalted():
                self.silent = str(said)
            case SinkError():
                self.fault = str(said)
            case _:
                self.answered.add(customer)
                if said:
                    self.holds[customer] = said


def asked_span(
    since: dt.datetime, until: dt.datetime | None, oldest: dt.datetime, now: dt.datetime, step: dt.timedelta
) -> Span | None:
    """Return what a sink is asked for: all that a feed may bill until now, in whole steps; None if that is nothing."""
    start = floor(max(since, oldest), step)
    end = now if until is None else min(now, until)
    end = floor(end + step - dt.timedelta(microseconds=1), step)
    return Span(start, end) if start < end else None


def holds(
    figures: Mapping[str, Decimal], asked: int, meter: str, sink: str, span: Span, *, adds_up: bool
) -> str:
    """Say what a sink holds that this ledger did not send, and what a person can do about it."""
    named = ", ".join(f"{planner.plain(much)} of {who}" for who, much in list(figures.items())[:NAMED])
    more = f" and of {len(figures) - NAMED} more" if len(figures) > NAMED else ""
    total = f": {planner.plain(sum(figures.values(), ZERO))} in all" if adds_up and len(figures) > 1 else ""
    return (
        f"Sink {sink} holds usage of {meter} in {span} that this ledger never sent: {named}{more}{total} ({asked} customers "
        f"were asked about). The same usage might be billed twice, so nothing of {meter} is sent there. If another ledger "
        "or job billed it, take it over: `aggregator adopt --stop`, then `aggregator adopt --yes`; or let this sink begin "
        "where that ended, with `bill_from`. If it may stay beside what this ledger sends: `aggregator run --first-time`."
    )


class FirstUse:
    """Clears the feeds of one sink. Shared by all that deliver to it: while one asks, the others go on with what may leave.

    `feeds` are those of the configuration, by what their meters are called there: of another meter, or one that has another
    name by now, the sink cannot be asked from here. Left out, all are meant. `late` is what the sink
    says of its totals being late: they may lack what it holds.
    """

    def __init__(
        self,
        ledger: FirstUses,
        sink: Totals,
        sink_id: int,
        feeds: Mapping[int, str] | None = None,
        late: Callable[[], str | None] = lambda: None,
    ) -> None:
        self._ledger = ledger
        self._sink = sink
        self._sink_id = sink_id
        self._feeds = feeds
        self._late = late
        self._lock = threading.Lock()
        self._look_at: dt.datetime | None = None
        self._again_at: dict[int, dt.datetime] = {}
        self._answered: dict[int, set[str]] = {}
        self._said: dict[int, str] = {}
        self._stopping = False

    def stop(self) -> None:
        """Ask nothing more."""
        self._stopping = True

    def run_once(self, now: dt.datetime) -> list[FirstUseState] | None:
        """Clear what may leave, and return what is worth a word: each thing once. None: another one is about it.

        Nobody waits for that: a slow sink takes minutes for the customers of many feeds, and what was cleared before, or
        never had to be, is to leave meanwhile.
        """
        if not self._lock.acquire(blocking=False):
            return None
        try:
            if self._stopping or (self._look_at is not None and is_ahead(self._look_at, now, LOOK_FOR_NEW)):
                return []
            but = [feed for feed, at in self._again_at.items() if is_ahead(at, now, LOOK_AGAIN)]
            pending = self._ledger.pending(self._sink_id, but, self._feeds)
            if not pending and not but and not self._ledger.open(self._sink_id, self._feeds):
                self._look_at = now + LOOK_FOR_NEW
            known = [each for each in pending if self._knows(each)]
            return [state for each in known if (state := self._decide(each, now)) is not None]
        finally:
            self._lock.release()

    def _knows(self, pending: Pending) -> bool:
        return self._feeds is None or self._feeds.get(pending.feed) == pending.meter

    def _decide(self, pending: Pending, now: dt.datetime) -> FirstUseState | None:
        """Ask the sink about the customers of some events; let them go, or stop the feed."""
        limits, late = self._sink.limits_for(pending.meter), self._late()
        if limits.reads_by is None:
            return self._for_good(pending, f"sink {self._sink.name} cannot be asked what it holds", now)
        span = asked_span(pending.since, pending.until, now - limits.past, now, limits.reads_by)
        found = Found() if span is None else Found(silent=late) if late else self._ask(pending, span)
        if span is None:
            pending = pending._replace(customers=())
        elif found.holds:
            return self._stop(pending, found, span, now)
        if found.unreadable is not None:
            return self._for_good(pending, f"sink {self._sink.name} cannot be asked: {found.unreadable}", now)
        if found.silent is not None:
            self._again_at[pending.feed] = now + ASK_AGAIN
            sink = self._sink.name
            reason = (
                f"nothing of {pending.meter} leaves before sink {sink} has said what it holds: {found.silent}"
            )
            return self._once(pending, FirstUseState("waiting", pending.meter, reason))
        if self._ledger.clear(pending, now):
            return self._forget(pending, FirstUseState("cleared", pending.meter, NOTHING_OF_OTHERS))
        said = pending.feed in self._said
        cleared = self._forget(pending, FirstUseState("cleared", pending.meter, NOTHING_OF_OTHERS))
        return cleared if said else None

    def _stop(self, pending: Pending, found: Found, span: Span, now: dt.datetime) -> FirstUseState | None:
        adds_up = self._sink.limits_for(pending.meter).write_model is not WriteModel.LAST
        asked = len(self._answered.pop(pending.feed))
        reason = holds(found.holds, asked, pending.meter, self._sink.name, span, adds_up=adds_up)
        if not self._ledger.stop(pending, list(found.holds), reason, now):
            return self._for_good(pending, "it had sent before", now)
        self._again_at[pending.feed] = now + LOOK_AGAIN
        return self._once(pending, FirstUseState("stopped", pending.meter, reason))

    def _for_good(self, pending: Pending, by: str, now: dt.datetime) -> FirstUseState | None:
        cleared = self._ledger.clear_for_good([pending.feed], by, now)
        return self._forget(pending, FirstUseState("cleared", pending.meter, by)) if cleared else None

    def _forget(self, pending: Pending, state: FirstUseState) -> FirstUseState:
        for known in (self._again_at, self._answered, self._said):
            known.pop(pending.feed, None)
        return state

    def _once(self, pending: Pending, state: FirstUseState) -> FirstUseState | None:
        """Say how a feed stands, unless that has been said: its figures may be others each time."""
        before = self._said.get(pending.feed)
        self._said[pending.feed] = state.kind
        return None if before == state.kind else state

    def _ask(self, pending: Pending, span: Span) -> Found:
        """Ask about every customer that has not been answered for yet, until enough is known."""
        found = Found()
        answered = self._answered.setdefault(pending.feed, set())
        left = [each for each in pending.customers if each not in answered]

        def ask(customer: str) -> Decimal | SinkError:
            try:
                return self._sink.total(pending.meter, customer, span)
            except NOTHING_THERE:
                return ZERO
            except SinkError as error:
                return error

        with ThreadPoolExecutor(ASKED_AT_ONCE, "first-use") as pool:
            for first in range(0, len(left), ASKED_AT_ONCE):
                some = left[first : first + ASKED_AT_ONCE]
                for customer, said in zip(some, pool.map(ask, some), strict=True):
                    found.take(customer, said)
                if self._stopping or found.enough:
                    break
        if self._stopping:
            found.silent = found.silent or "told to stop"
        answered |= found.answered
        if found.fault:  # what it answers of others says nothing about this one
            found.silent = (
                found.silent or f"{found.fault}. If it may leave all the same: `aggregator run --first-time`"
            )
        return found


Clear = Callable[[dt.datetime], list[FirstUseState] | None]
"""Clears what may leave, before anything is claimed; None if another one is about it."""
