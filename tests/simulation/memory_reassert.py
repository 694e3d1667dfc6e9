"""The ledger in memory: what a sink that keeps the newest number is to be told again."""

import datetime as dt
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from aggregator.core.model import Decision, EventId, State, WriteModel
from aggregator.ledger.meters import Feed, Registered
from aggregator.ledger.passes.passes import Pass
from aggregator.ledger.passes.reassert import LATEST_ARRIVAL
from tests.simulation.apart import name_of
from tests.simulation.memory import MemoryLedger, SlotRow, Tables


@contextmanager
def taking_up(ledger: MemoryLedger, registered: Registered, this: Pass) -> Iterator[None]:
    """Mark what of the span is to be sent again by now; if nothing is written, everything is as it was."""
    tables, feeds = ledger.tables, {feed.id for feed in registered.feeds}
    due = [
        (key, at)
        for key, at in tables.reassertions.items()
        if key[0] in feeds and key[1] in this.span and at <= this.now
    ]
    marked = []
    for key, _ in due:
        slot = tables.slots[key[0]].get(key[1], {}).get(key[2])
        del tables.reassertions[key]
        if slot is None or waits_for_a_word(tables, slot):
            continue
        if slot.revision and not slot.replan:
            slot.replan = True
            marked.append(slot)
    try:
        yield
    except Exception:
        tables.reassertions.update(due)
        for slot in marked:
            slot.replan = False
        raise


def waits_for_a_word(tables: Tables, slot: SlotRow) -> bool:
    """Tell whether where a slot stands was rejected, or left at that by a person: to say it again takes a word of theirs."""
    tail = tables.parked.get(slot.tail) if slot.tail is not None else None
    if tail is None or tail.state is not State.REFUSED:
        return False
    return tail.was_accepted or tail.dismissed_at is not None


def note_given_up(
    ledger: MemoryLedger, registered: Registered, voided: list[EventId], now: dt.datetime
) -> None:
    """Note the slots of events that were given up though they may have left, where a sink keeps the newest number."""
    replacing = {feed.id for feed in registered.feeds if feed.model is not WriteModel.DELTA}
    for event_id in voided:
        event = ledger.tables.events[event_id]
        if event.feed_id not in replacing or event.exposed_at is None:
            continue
        copies = event.attempted_at is not None and event.exposed_at < event.attempted_at
        if copies or not ledger.tables.parked[event_id].was_accepted:
            key = (event.feed_id, event.window_start, event.customer)
            ledger.tables.reassertions[key] = now + LATEST_ARRIVAL


def note_newer(ledger: MemoryLedger, feed: Feed, decisions: list[Decision], now: dt.datetime) -> None:
    """Note the windows that are newer than what a pass has just said, as far as it has not said them again itself."""
    if feed.model is not WriteModel.LAST:
        return
    said: dict[str, dt.datetime] = {}
    with_it: set[EventId | None] = set()
    for change, _, _, _, _, event in decisions:
        if event is not None:
            with_it.add(event.id)
        if event is not None and event.state is State.DUE:
            key = (feed.id, change.window_start, name_of(change))
            if ledger.tables.reassertions.get(key, now) <= now:
                ledger.tables.reassertions.pop(key, None)
            name = name_of(change)
            said[name] = min(change.window_start, said.get(name, change.window_start))
    for start, customers in ledger.tables.slots[feed.id].items():
        for customer, slot in customers.items():
            newer = customer in said and start > said[customer] and slot.revision
            key = (feed.id, start, customer)
            if newer and slot.tail not in with_it and key not in ledger.tables.reassertions:
                ledger.tables.reassertions[key] = now


def waiting(ledger: MemoryLedger, registered: Registered, now: dt.datetime) -> dt.datetime | None:
    """Return the oldest window that is to be sent again: once it is due, or at once where order counts. None for none."""
    feeds = {feed.id for feed in registered.feeds}
    return min(
        (
            start
            for (feed, start, _), at in ledger.tables.reassertions.items()
            if feed in feeds and (ledger.tables.feeds[feed].ordered or at <= now)
        ),
        default=None,
    )


def note_newer_than(ledger: MemoryLedger, events: Sequence[EventId], now: dt.datetime) -> None:
    """Note the windows that are newer than events that were held, and leave only now; they are to be read again."""
    tables = ledger.tables
    said: dict[tuple[int, str], dt.datetime] = {}
    for each in events:
        event = tables.events[each]
        key = (event.feed_id, event.customer)
        if tables.feeds[event.feed_id].ordered:
            said[key] = min(event.window_start, said.get(key, event.window_start))
    for (feed, customer), since in said.items():
        meter = tables.meters[tables.feeds[feed].meter_id]
        for start, customers in tables.slots[feed].items():
            slot = customers.get(customer)
            if slot is not None and start > since and slot.revision and slot.tail not in events:
                tables.reassertions[feed, start, customer] = now
                meter.reread_from = min(meter.reread_from or start, start)
