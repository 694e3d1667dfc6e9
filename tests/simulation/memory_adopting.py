"""The ledger in memory: what an adoption asks of it and writes into it."""

import datetime as dt
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from decimal import Decimal
from itertools import groupby
from operator import attrgetter

from aggregator.core.model import (
    ZERO,
    EventId,
    SlotId,
    Span,
    State,
)
from aggregator.core.rebase import Moved, SlotComparison, rebase
from aggregator.core.states import CancellationState
from aggregator.errors import LedgerError
from aggregator.ledger.adoption import (
    TAKEN_OVER,
    WITHDRAWN,
    Counted,
    Line,
    Naming,
    Rebased,
)
from aggregator.ledger.identity import Pinned
from aggregator.ledger.passes.spool import Spool
from tests.simulation.memory import EventRow, MemoryLedger, MeterRow, SlotRow
from tests.simulation.memory_first_use import clear_for_good
from tests.simulation.memory_passes import readings_of

Place = tuple[str, dt.datetime]
"""A customer and the start of a window."""


class MemoryAdopting:
    """The verbs about adopting a ledger."""

    def __init__(self, ledger: MemoryLedger) -> None:
        self._ledger = ledger

    def being_cancelled(self) -> list[int]:
        """Return events of which it is not known whether a sink has taken them back."""
        rows = self._ledger.tables.cancellations.values()
        open_ones = [row for row in rows if row.settled_at is None]
        return sorted(
            int(row.event_id)
            for row in open_ones
            if row.unsure or row.state in {CancellationState.TAKEN, CancellationState.LAPSED}
        )[:20]

    def last_claim(self) -> dt.datetime | None:
        """Return when the ledger last claimed events, as far as it knows."""
        claims = self._ledger.tables.claims
        return claims[max(claims)].claimed_at if claims else None

    def feeds(self) -> list[tuple[str, str]]:
        """Return the meter and the sink of every feed."""
        tables = self._ledger.tables
        sinks = {number: name for name, number in tables.sinks.items()}
        return sorted(
            (tables.meters[feed.meter_id].name, sinks[feed.sink_id]) for feed in tables.feeds.values()
        )

    def unread(self, meter_id: int) -> tuple[dt.datetime, ...]:
        """Return the windows of a meter that the source could not give."""
        return tuple(sorted(start for meter, start in self._ledger.tables.unread if meter == meter_id))

    def outermost(self, feed_id: int, oldest: dt.datetime, end: dt.datetime) -> Span | None:
        """Return the starts of the first and the last window in which a feed has a slot; None if it has none."""
        slots = self._ledger.tables.slots[feed_id]
        starts = [start for start, customers in slots.items() if customers and oldest <= start < end]
        return Span(min(starts), max(starts)) if starts else None

    def comparisons(self, line: Line, readings: Spool) -> Iterator[SlotComparison]:
        """Yield every slot of a line that the ledger or the source knows, by customer."""
        return iter(self._comparisons(line, readings, {}))

    def adopt(
        self,
        rebased: Sequence[Rebased],
        pinned: Pinned,
        generation: int,
        accounts: Mapping[str, str],
        feeds: Collection[int],
        name: Naming,
        now: dt.datetime,
    ) -> None:
        """Re-base every line, and let the ledger go on under a new generation. Raises LedgerError, and changes nothing."""
        tables = self._ledger.tables
        identity = tables.identity
        if (identity.stopped_at, identity.generation, identity.claims_made) != (
            pinned.stopped_at,
            pinned.generation,
            pinned.claims_made,
        ):
            raise LedgerError("The ledger was adopted or stopped by somebody else meanwhile.")
        if identity.stopped_at is None:
            raise LedgerError("The ledger is not stopped.")
        for meter in tables.meters.values():
            meter.epoch, meter.lease_owner, meter.lease_until = meter.epoch + 1, None, None
            self._doubt_sampled(meter)
        tables.adopted.append(now)
        for each in rebased:
            self._rebase(each, name, now)
        for number, claim in tables.claims.items():
            held = (tables.outbox.get(event) for event in claim.events)
            if claim.settled_at is None and not any(row and row.claim_id == number for row in held):
                claim.settled_at = now
        for feed in (tables.feeds[each] for each in feeds):
            if feed.cleared_at is None:
                clear_for_good(feed, now)
        identity.generation, identity.stopped_at, identity.stopped_reason = generation, None, None
        identity.stopped_on = None
        identity.timeline = pinned.runs_on

    def _doubt_sampled(self, meter: MeterRow) -> None:
        tables = self._ledger.tables
        if meter.read == "counters":
            taken = [row.at for (number, _), row in tables.samplings.items() if number == meter.id]
            known = [row.at for (number, *_), row in tables.series.items() if number == meter.id and row.at]
            before = [meter.doubtful_until] if meter.doubtful_until else []
            meter.doubtful_until = max([meter.start_at, *before, *taken, *known])

    def _rebase(self, rebased: Rebased, name: Naming, now: dt.datetime) -> None:
        line, carries = rebased.line, self._ledger.tables.carries
        counted = {(each.customer, each.window_start): each for each in rebased.counted()}
        moved: list[Moved] = []
        for customer, comparisons in groupby(
            self._comparisons(line, rebased.readings, counted), attrgetter("customer")
        ):
            found = None if customer in rebased.left else rebase(list(comparisons), line.unit)
            if found is not None:
                slots, carry = found
                moved += slots
                carries.pop((line.feed.id, customer), None)
                if carry:
                    carries[line.feed.id, customer] = carry
        self._ledger.tables.meters[line.meter_id].adopted += ((line.span, now),)
        self._withdraw(line, rebased.left, now)
        numbers = [EventId(next(self._ledger.event_ids)) if each.delta else None for each in moved]
        for each, number in zip(moved, numbers, strict=True):
            self._take_over(line, each, number, name(line, each.comparison), now)
        self._read_again(line)

    def _withdraw(self, line: Line, left: frozenset[str], now: dt.datetime) -> None:
        """Void what is not settled, in the windows that are re-based."""
        tables, feed = self._ledger.tables, line.feed.id
        for event_id in sorted(tables.outbox.keys() | tables.parked.keys()):
            event = tables.events[event_id]
            if event.feed_id != feed or event.window_start not in line.span or self._in_shadow(event):
                continue
            if event.customer in left:
                continue
            if event.state is State.SENDING:
                self._ledger.move(event, State.DUE)
            self._ledger.move(event, State.VOID)
            event.settled_at, event.reason = now, WITHDRAWN
            tables.outbox.pop(event_id, None)
            tables.parked.pop(event_id, None)
        for start, customers in tables.slots[feed].items():
            for slot in customers.values() if start in line.span else ():
                slot.replan = slot.replan and slot.customer in left
        for readback in tables.readbacks.values():
            if readback.feed_id == feed and readback.done_at is None:
                readback.done_at, readback.found = now, "settled by an adoption"

    def _in_shadow(self, event: EventRow) -> bool:
        """Tell whether the latest event of its slot was planned in shadow."""
        tail = self._ledger.slot_of(event).tail
        return tail is not None and self._ledger.tables.events[tail].state is State.SHADOW

    def _take_over(
        self, line: Line, moved: Moved, number: EventId | None, identifier: str, now: dt.datetime
    ) -> None:
        """Let one slot stand where its sink stands."""
        ledger, tables, comparison, feed = self._ledger, self._ledger.tables, moved.comparison, line.feed
        customers = tables.slots[feed.id].setdefault(comparison.window_start, {})
        slot = customers.get(comparison.customer)
        if slot is None:
            slot = customers[comparison.customer] = SlotRow(
                SlotId(number or next(ledger.event_ids)),
                feed.id,
                comparison.window_start,
                comparison.customer,
                ZERO,
                ZERO,
                0,
                None,
                None,
            )
        slot.quantity, slot.total = moved.quantity, moved.total
        slot.stamped_at = comparison.kept_at or slot.stamped_at
        if number is None:
            return
        if not slot.revision:
            slot.id = SlotId(number)
        event = EventRow(
            number,
            slot.id,
            feed.id,
            tables.meters[line.meter_id].name,
            feed.sink_id,
            comparison.customer,
            comparison.window_start,
            comparison.revision,
            moved.delta,
            moved.total,
            comparison.kept_at or comparison.window_start,
            identifier,
            State.CONFIRMED,
            TAKEN_OVER,
            now,
            settled_at=now,
            taken_over=True,
        )
        tables.events[event.id] = event
        ledger.touched.append(event)
        slot.revision, slot.tail = slot.revision + 1, event.id
        slot.stamped_at = slot.stamped_at or comparison.window_start

    def _read_again(self, line: Line) -> None:
        tables, start = self._ledger.tables, line.span.start
        meter = tables.meters[line.meter_id]
        if start < meter.mark:
            meter.reread_from = min(meter.reread_from or start, start)
        meter.hourly_at = meter.daily_at = meter.swept = None
        for key in [key for key in tables.guarded if key[0] == line.meter_id and key[1] >= start]:
            del tables.guarded[key]

    def _comparisons(
        self, line: Line, readings: Spool, counted: Mapping[Place, Counted]
    ) -> list[SlotComparison]:
        """Return every slot of a line, as the ledger, the source and the sink have it, by customer and window."""
        tables, feed = self._ledger.tables, line.feed.id
        billed = Span(line.feed.since, line.feed.until or line.span.end)
        seen: dict[Place, Decimal] = defaultdict(Decimal)
        spoilt: set[Place] = set()
        for each in readings_of(readings):
            inside = each.window_start in billed and each.window_start >= line.span.start
            if each.customer is not None and inside:
                seen[each.customer, each.window_start] += each.quantity or ZERO
                if each.reason is not None:
                    spoilt.add((each.customer, each.window_start))
        waiting: dict[SlotId, list[Decimal]] = defaultdict(list)
        for event_id in tables.outbox.keys() | tables.parked.keys():
            event = tables.events[event_id]
            waiting[event.slot_id].append(event.delta)
        slots = {
            (customer, start): slot
            for start, customers in tables.slots[feed].items()
            if start in line.span
            for customer, slot in customers.items()
        }
        found = []
        for customer, start in sorted(seen.keys() | slots.keys() | counted.keys()):
            place = customer, start
            slot = slots.get(place)
            open_deltas = waiting[slot.id] if slot else []
            unknown = start < line.readable or start in line.unread or place in spoilt or start not in billed
            found.append(
                SlotComparison(
                    customer,
                    start,
                    slot.id if slot else None,
                    slot.revision if slot else 0,
                    slot.quantity if slot else ZERO,
                    slot.total if slot else ZERO,
                    sum(open_deltas, ZERO),
                    len(open_deltas),
                    tables.carries.get((feed, customer), ZERO),
                    None if unknown else seen.get(place, ZERO),
                    counted[place].total if place in counted else None,
                    slot is not None
                    and slot.tail is not None
                    and tables.events[slot.tail].state is State.SHADOW,
                    slot.stamped_at if slot else None,
                    counted[place].kept_at if place in counted else None,
                )
            )
        return found
