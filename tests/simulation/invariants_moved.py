"""What must be true of usage that moves from one customer to another: no sink is told of both, and it is one decision."""

import datetime as dt
from collections import defaultdict
from collections.abc import Callable
from decimal import Decimal
from typing import NamedTuple

from aggregator.core.model import Decreases, EventId, State, WriteModel
from aggregator.ledger.passes.passes import Pass
from tests.simulation.conditions import Conditions
from tests.simulation.marks import Marks
from tests.simulation.memory import EventRow, SlotRow, Tables

Require = Callable[..., None]
Windows = dict[dt.datetime, tuple[Decimal, EventRow]]


class Pair(NamedTuple):
    """A decrease and the increase that waits with it."""

    lowers: EventRow
    raises: EventRow

    @property
    def move(self) -> tuple[int, frozenset[str]]:
        """What it is part of: all that moved between two customers."""
        return self.lowers.feed_id, frozenset({self.lowers.customer, self.raises.customer})


class Moved:
    """Knows where each slot stood after the pass before, and which events waited for each other."""

    def __init__(self, conditions: Conditions, marks: Marks, require: Require) -> None:
        held = conditions.decreases is Decreases.HOLD and conditions.write_model is not WriteModel.LAST
        self._may_move = held
        self._marks = marks
        self._require = require
        self._stood: dict[tuple[int, dt.datetime, str], Decimal] = defaultdict(Decimal)
        self._pairs: list[Pair] = []

    def restored(self, tables: Tables) -> None:
        """Begin anew with what a restore or an adoption has left."""
        self._pairs = pairs_of(tables)
        self._stood.clear()
        for feed, windows in tables.slots.items():
            for start, customers in windows.items():
                for customer, slot in customers.items():
                    self._stood[feed, start, customer] = slot.quantity

    def committed(self, tables: Tables, meter: int, this: Pass) -> None:
        """Look at the pass that was just committed."""
        for feed in tables.feeds.values() if self._may_move else ():
            if feed.meter_id == meter:
                self._wait_for_each_other(tables, feed.id, this)
        for pair in self._pairs:
            self._stays_one(tables, pair)
        self._pairs = pairs_of(tables)
        for event, parked in tables.parked.items():
            if parked.moved_with is not None and tables.feeds[parked.feed_id].meter_id == meter:
                other = tables.parked.get(parked.moved_with)
                paired = other is not None and other.moved_with == event
                self._require(paired, "what moved waits on both sides", tables.events[event], "waits alone")

    def _wait_for_each_other(self, tables: Tables, feed: int, this: Pass) -> None:
        """If all that a pass takes from one customer it gives to one other, both wait for a word."""
        lost, gained = dict[str, Windows](), dict[str, Windows]()
        for start in tables.slots[feed]:
            for customer, slot in tables.slots[feed][start].items() if start in this.span else ():
                before = self._stood[feed, start, customer]
                self._stood[feed, start, customer] = slot.quantity
                event = _planned(tables, slot, this)
                if event is None or event.state not in {State.DUE, State.HELD}:
                    continue
                if before > 0 and not slot.quantity and event.state is State.HELD and event.delta < 0:
                    lost.setdefault(customer, {})[start] = before, event
                elif not before and slot.quantity > 0 and event.delta == event.total > 0:
                    gained.setdefault(customer, {})[start] = slot.quantity, event
        if len(lost) == len(gained) == 1:
            [mine], [theirs] = lost.values(), gained.values()
            same = {start: each[0] for start, each in mine.items()} == {
                start: each[0] for start, each in theirs.items()
            }
            first = all(event.revision == 0 for _, event in theirs.values())
            for _, event in theirs.values() if same and first else ():
                self._marks.saw("a new id waits with the old one")
                facts = (event, "leaves while", [each for _, each in mine.values()], "wait")
                self._require(event.state is State.HELD, "what moved waits on both sides", *facts)

    def _stays_one(self, tables: Tables, pair: Pair) -> None:
        """An increase does not leave while what was taken from the other customer there is still held.

        Unless that waits with a third customer by now, to whom the usage has moved on: what is left was used anew.
        """
        lost, gained = (_tail(tables, event) for event in pair)
        if lost is None or gained is None:
            return
        parked = tables.parked.get(lost.id)
        if parked is not None and parked.moved_with not in {None, pair.raises.id, gained.id}:
            return
        leaves = gained.state is State.DUE and gained.delta > 0
        stays = lost.state is State.HELD and lost.delta < 0
        self._require(
            not (leaves and stays), "what moved waits on both sides", gained, "leaves, and waits:", lost
        )

    def decided(self, events: set[EventId], tables: Tables, *, dismissed: bool = False) -> None:
        """Look at the ledger right after a person's word on some events: it is about all that moved with them."""
        moves = {pair.move for pair in self._pairs if events & {pair.lowers.id, pair.raises.id}}
        for pair in self._pairs if moves else ():
            for event in pair if pair.move in moves else ():
                parked = tables.parked.get(event.id)
                left = parked is None or (dismissed and parked.dismissed_at is not None)
                self._require(
                    left, "a move is decided as a whole", event, "is left of what was decided", events
                )
        self._marks["a move is decided as a whole"] += bool(moves)
        self._pairs = pairs_of(tables)


def pairs_of(tables: Tables) -> list[Pair]:
    """Return the events that wait for each other."""
    return [
        Pair(tables.events[event], tables.events[parked.moved_with])
        for event, parked in tables.parked.items()
        if parked.moved_with is not None and tables.events[event].delta < 0
    ]


def _planned(tables: Tables, slot: SlotRow, this: Pass) -> EventRow | None:
    """Return what a pass has planned for a slot."""
    event = tables.events[slot.tail] if slot.tail is not None else None
    return event if event is not None and event.planned_at == this.now else None


def _tail(tables: Tables, event: EventRow) -> EventRow | None:
    slot = tables.slots[event.feed_id].get(event.window_start, {}).get(event.customer)
    return tables.events[slot.tail] if slot is not None and slot.tail is not None else None
