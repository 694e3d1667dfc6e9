"""What must be true where a customer is billed for the newest window: once things are quiet, no older one stands last.

Quiet for a customer is: nothing is owed, nothing waits to be sent again, and no request of theirs is on its way any more. A
newest window of which something is parked is listed by name, and stands where it can.
"""

import datetime as dt
from collections.abc import Callable, Iterator
from decimal import ROUND_FLOOR, Decimal

from aggregator.core.model import ZERO, Event, EventId, State
from tests.simulation.application import Application
from tests.simulation.conditions import HOUR
from tests.simulation.marks import Marks
from tests.simulation.memory import FeedRow, SlotRow, Tables
from tests.simulation.names import called
from tests.simulation.scheduler import Scheduler
from tests.simulation.service import Service

ON_ITS_WAY = HOUR
"""No request arrives later than this after it left."""

AHEAD, OLDER = "another of the customer is ahead", "an older window arrived last"
"""Marks that are looked for until they are found, since that takes long."""

Require = Callable[..., None]


class Newest:
    """Holds the service's last value of every customer against the newest window of ledger and source."""

    def __init__(
        self, scheduler: Scheduler, application: Application, unit: Decimal, marks: Marks, require: Require
    ) -> None:
        self._scheduler = scheduler
        self._marks = marks
        self._noted: set[tuple[int, dt.datetime, str]] = set()
        self._application = application
        self._unit = unit
        self._require = require

    def verb(self, name: str, tables: Tables) -> None:
        """Look at what is to be sent again, and count what is rare, right after a transaction of the ledger."""
        self._is_read_again(tables)
        noted = set(tables.reassertions)
        if name in {"commit", "release"} and noted - self._noted:
            self._marks.saw(
                "newer windows to be sent again" + (" after a release" if name == "release" else "")
            )
        self._noted = noted
        if (
            name == "claim"
            and not self._marks[AHEAD]
            and any(_is_behind(tables, event, self._scheduler.now) for event in tables.outbox)
        ):
            self._marks.saw(AHEAD)

    def _is_read_again(self, tables: Tables) -> None:
        """What is to be sent again is not left to chance: its meter is read again from there."""
        for start, meter in {
            (start, feed.meter_id)
            for feed_id, start, _ in tables.reassertions
            if (feed := tables.feeds[feed_id]).ordered
        }:
            since = tables.meters[meter].reread_from
            known = since is not None and since <= start
            self._require(
                known, "what is to be sent again is read again", meter, start, "and not from", since
            )

    def leaving(self, event: Event) -> None:
        """Look at an event that is about to leave."""
        if not event.total and not event.revision:
            self._marks.saw("a window of nothing said")

    def booked(self, service: Service, event: Event) -> None:
        """Look at what the service has just booked."""
        place = (called(event.meter), event.customer)
        if (
            not self._marks[OLDER]
            and service.last[place] is event
            and any(
                (meter, customer) == place and start > event.window_start
                for meter, customer, start in service.by_slot
            )
        ):
            self._marks.saw(OLDER)

    def whole(self, tables: Tables, service: Service) -> None:
        """Look at every customer who is quiet."""
        self._require(not tables.carries, "the floor of what was used", "windows add up:", tables.carries)
        for feed, meter, slot in self._newest(tables):
            self._floors(slot)
            counts = not _is_rejected(tables, service, slot)
            if counts and self._is_quiet(tables, feed, slot) and not _is_listed(tables, slot):
                self._is_last(service, meter, slot)

    def at_the_end(self, tables: Tables, service: Service) -> None:
        """Look at every customer: all is quiet, and the service has what the source says of the newest window."""
        self._require(not tables.reassertions, "it comes to rest", "still to be said:", tables.reassertions)
        for _, meter, slot in self._newest(tables):
            self._require(not slot.replan, "it comes to rest", "still to be planned anew:", slot)
            if _is_listed(tables, slot):
                self._marks.saw("newest window is listed")
                continue
            self._is_last(service, meter, slot)
            table = self._application.tables[meter]
            if (slot.customer, slot.window_start) not in table.spoilt():
                used = table.truth_of(slot.window_start).get(slot.customer, ZERO)
                said = service.last[meter, slot.customer].total
                facts = (slot.customer, slot.window_start, "is last at", said, ", and the source says", used)
                self._require(said == self._floor(used), "the newest window is last", *facts)

    def _is_last(self, service: Service, meter: str, slot: SlotRow) -> None:
        last = service.last.get((meter, slot.customer))
        facts = (slot, "is the newest, and the service has", last)
        comparisons = last is not None and (last.window_start, last.total) == (slot.window_start, slot.total)
        self._require(comparisons, "the newest window is last", *facts)

    def _newest(self, tables: Tables) -> Iterator[tuple[FeedRow, str, SlotRow]]:
        """Yield the newest slot of each customer: of each something was planned, be it a zero."""
        for feed in tables.feeds.values():
            newest: dict[str, SlotRow] = {}
            for start in sorted(tables.slots[feed.id]):
                newest |= {slot.customer: slot for slot in tables.slots[feed.id][start].values()}
            for slot in newest.values():
                yield feed, called(tables.meters[feed.meter_id].name), slot

    def _is_quiet(self, tables: Tables, feed: FeedRow, slot: SlotRow) -> bool:
        customer = (feed.id, slot.customer)
        owed = any(
            (tables.events[each].feed_id, tables.events[each].customer) == customer for each in tables.outbox
        )
        waits = any((key[0], key[2]) == customer for key in tables.reassertions)
        replanned = any(
            held.replan
            for each in tables.slots[feed.id].values()
            if (held := each.get(slot.customer)) is not None
        )
        return not (owed or waits or replanned or self._under_way(tables, customer))

    def _under_way(self, tables: Tables, customer: tuple[int, str]) -> bool:
        since: dt.datetime = self._scheduler.now - ON_ITS_WAY
        return any(
            (event.feed_id, event.customer) == customer
            and event.attempted_at is not None
            and event.attempted_at >= since
            for event in tables.events.values()
        )

    def _floors(self, slot: SlotRow) -> None:
        comparisons = slot.total == self._floor(slot.quantity)
        self._require(comparisons, "the floor of what was used", slot, "is not the floor of its own window")

    def _floor(self, quantity: Decimal) -> Decimal:
        return quantity.quantize(self._unit, ROUND_FLOOR)


def _is_behind(tables: Tables, event: EventId, now: dt.datetime) -> bool:
    """Tell whether an event that is due waits for another one of its customer."""
    row, held = tables.events[event], tables.outbox[event]
    return (
        held.claim_id is None
        and held.due_at <= now
        and any(
            (tables.events[each].feed_id, tables.events[each].customer) == (row.feed_id, row.customer)
            for each in tables.outbox
            if each < event
        )
    )


def _is_listed(tables: Tables, slot: SlotRow) -> bool:
    """Tell whether something of a slot is parked."""
    return any(tables.events[each].slot_id == slot.id for each in tables.parked)


def _is_rejected(tables: Tables, service: Service, slot: SlotRow) -> bool:
    """Tell whether the service will never count the latest event of a slot that left; its report may be on its way."""
    left = [
        each.id for each in tables.events.values() if each.slot_id == slot.id and each.state is not State.VOID
    ]
    return bool(left) and tables.events[max(left)].identifier in service.rejected
