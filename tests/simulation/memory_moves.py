"""The ledger in memory: usage that moved from one customer to another, which waits on both sides."""

import datetime as dt
from collections import defaultdict
from collections.abc import Collection, Iterable
from decimal import Decimal
from typing import NamedTuple

from aggregator.core.dimensions import Dimensions
from aggregator.core.model import Decision, EventId, State, WriteModel
from aggregator.ledger.meters import Feed, Registered
from aggregator.ledger.review.moves import MOVED
from tests.simulation.apart import customer_of, dimensions_of, name_of
from tests.simulation.memory import EventRow, MemoryLedger, OutboxRow, ParkedRow, Tables

Start = tuple[dt.datetime, Dimensions]
"""The start of a window, and the combination: what moves keeps both."""


def _side(start: dt.datetime, name: str, quantity: Decimal, event: EventId) -> "Side":
    return Side((start, dimensions_of(name)), customer_of(name), quantity, event)


class Side(NamedTuple):
    """A slot that fell to zero, or began: how much of it, and the event that waits for it or is due."""

    start: Start
    customer: str
    quantity: Decimal
    event: EventId


def fallen(tables: Tables, feed: Feed, decisions: list[Decision]) -> list[Side]:
    """Return what a pass is about to set to zero and holds a decrease for; what waits already and moves on, too."""
    found = []
    for change, deferred, _, _, _, event in decisions:
        slot = tables.slots[feed.id].get(change.window_start, {}).get(name_of(change))
        if deferred or change.now or slot is None or slot.quantity <= 0:
            continue
        if event is not None and event.state is State.HELD:
            found.append(_side(change.window_start, name_of(change), slot.quantity, event.id))
        found.extend(
            _side(change.window_start, tables.events[lowers].customer, slot.quantity, lowers)
            for lowers, parked in tables.parked.items()
            if slot.tail is not None and parked.moved_with == slot.tail and tables.events[lowers].delta < 0
        )
    return found


def hold(
    ledger: MemoryLedger, feed: Feed, lost: list[Side], planned: Iterable[EventId], now: dt.datetime
) -> int:
    """Have increases wait with the decreases that they belong to; return how many."""
    if not lost:
        return 0
    tables = ledger.tables
    starts = {side.start[0] for side in lost}
    gained = [
        side
        for side in (_begun(tables, feed, tables.events[event]) for event in planned)
        if side is not None and side.start[0] in starts
    ]
    ways: dict[str, set[str]] = defaultdict(set)
    back: dict[str, set[str]] = defaultdict(set)
    for one, other in [*_in_one_window(lost, gained), *_in_all_windows(lost, gained)]:
        ways[one].add(other)
        back[other].add(one)
    held = 0
    for one, others in ways.items():
        [other, *more] = others
        if more or len(back[other]) > 1:
            continue
        mine = [side for side in lost if side.customer == one]
        theirs = {(side.start, side.quantity): side.event for side in gained if side.customer == other}
        pairs = [
            (side.event, theirs[side.start, side.quantity])
            for side in mine
            if (side.start, side.quantity) in theirs
        ]
        if 2 * len(pairs) > len(mine):
            held += len(pairs)
            for lowers, raises in pairs:
                tables.parked[lowers].moved_with = raises
                _wait(ledger, raises, lowers, now)
    return held


def _begun(tables: Tables, feed: Feed, event: EventRow) -> Side | None:
    slot = tables.slots[feed.id][event.window_start][event.customer]
    alone = feed.model is WriteModel.DELTA or event.revision == 0
    begins = event.state is State.DUE and event.delta > 0 and event.total == event.delta and alone
    return (
        _side(event.window_start, event.customer, slot.quantity, event.id)
        if begins and slot.quantity > 0
        else None
    )


def _in_one_window(lost: list[Side], gained: list[Side]) -> Iterable[tuple[str, str]]:
    ones, others = _by_window(lost), _by_window(gained)
    for key, [one, *more] in ones.items():
        if not more and len(others.get(key, [])) == 1:
            yield one, others[key][0]


def _by_window(sides: list[Side]) -> dict[tuple[Start, Decimal], list[str]]:
    found: dict[tuple[Start, Decimal], list[str]] = defaultdict(list)
    for side in sides:
        found[side.start, side.quantity].append(side.customer)
    return found


def _in_all_windows(lost: list[Side], gained: list[Side]) -> Iterable[tuple[str, str]]:
    ones, others = _by_all(lost), _by_all(gained)
    for key, [one, *more] in ones.items():
        if not more and len(others.get(key, [])) == 1:
            yield one, others[key][0]


def _by_all(sides: list[Side]) -> dict[tuple[tuple[Start, Decimal], ...], list[str]]:
    of_each: dict[str, list[tuple[Start, Decimal]]] = defaultdict(list)
    for side in sides:
        of_each[side.customer].append((side.start, side.quantity))
    found: dict[tuple[tuple[Start, Decimal], ...], list[str]] = defaultdict(list)
    for customer, windows in of_each.items():
        found[tuple(sorted(windows))].append(customer)
    return found


def _wait(ledger: MemoryLedger, raises: EventId, lowers: EventId, now: dt.datetime) -> None:
    """Have an increase that was planned just now wait: nobody has seen it due."""
    event = ledger.tables.events[raises]
    ledger.move(event, State.HELD)
    event.reason = MOVED
    del ledger.tables.outbox[raises]
    ledger.tables.parked[raises] = ParkedRow(event.feed_id, State.HELD, MOVED, now, moved_with=lowers)


def keep(ledger: MemoryLedger, registered: Registered, voided: Collection[EventId], now: dt.datetime) -> None:
    """Let what was planned anew for a side of a pair take its place."""
    tables, feeds = ledger.tables, {feed.id for feed in registered.feeds}
    for event_id, parked in list(tables.parked.items()):
        lowered = tables.events[event_id]
        if parked.feed_id not in feeds or parked.moved_with is None or lowered.delta > 0:
            continue
        if not {event_id, parked.moved_with} & set(voided):
            continue
        tails = [ledger.slot_of(each).tail for each in (lowered, tables.events[parked.moved_with])]
        if None in tails or set(tails) & set(voided):
            continue
        lost, gained = (tables.events[EventId(tail)] for tail in tails if tail is not None)
        anew = gained.state is State.DUE and gained.planned_at == now
        if lost.state is not State.HELD or lost.delta > 0 or gained.delta < 0:
            continue
        if anew:
            _wait(ledger, gained.id, lost.id, now)
        elif gained.state is not State.HELD:
            continue
        tables.parked[lost.id].moved_with, tables.parked[gained.id].moved_with = gained.id, lost.id


def part(ledger: MemoryLedger, registered: Registered, now: dt.datetime) -> None:
    """Release what waits for a decrease that does not wait any more."""
    tables, feeds = ledger.tables, {feed.id: feed for feed in registered.feeds}
    alone = []
    for event_id, parked in tables.parked.items():
        if parked.feed_id in feeds and parked.moved_with is not None:
            other = tables.parked.get(parked.moved_with)
            if other is None or other.moved_with != event_id:
                alone.append(event_id)
    for event_id in alone:
        event = tables.events[event_id]
        if event.delta < 0 or tables.parked[event_id].guard is not None:
            tables.parked[event_id].moved_with = None
            continue
        del tables.parked[event_id]
        ledger.move(event, State.DUE)
        event.reason = None
        tables.outbox[event_id] = OutboxRow(feeds[event.feed_id].sink_id, now)


def whole(tables: Tables, events: Iterable[EventId]) -> list[EventId]:
    """Return these events, and all others of the moves that they belong to."""
    meant = set(events)
    moves = {named for event in meant if (named := _named(tables, event)) is not None}
    more = (event for event in tables.parked if _named(tables, event) in moves)
    return sorted({*meant, *more}) if moves else sorted(meant)


def _named(tables: Tables, event: EventId) -> tuple[int, frozenset[str]] | None:
    parked = tables.parked.get(event)
    if parked is None or parked.moved_with is None:
        return None
    names = tables.events[event].customer, tables.events[parked.moved_with].customer
    return parked.feed_id, frozenset(map(customer_of, names))
