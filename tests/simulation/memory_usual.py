"""The ledger in memory: what was usual, and windows that are swollen."""

import datetime as dt
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from decimal import Decimal

from aggregator.core import guards
from aggregator.core.guards import LEAST_WEEKS, WEEK, WEEKS
from aggregator.core.model import EPOCH, ZERO, Decision, EventId, Guard, Span, State, Swollen, Together
from aggregator.ledger.meters import Feed
from aggregator.ledger.passes.stats import Tally
from aggregator.ledger.passes.usual import Past
from tests.simulation.apart import customer_of, name_of
from tests.simulation.memory import MemoryLedger, OutboxRow, ParkedRow, SlotRow, Tables
from tests.simulation.memory_reassert import note_newer_than

SAID = frozenset({State.ACCEPTED, State.CONFIRMED})


def asked(
    tables: Tables, feed: Feed, start: dt.datetime, customer: str, now: Decimal, past: Past | None
) -> Decimal | None:
    """Return what was usual for a customer at the hour of a window, of all combinations, if a guard asks."""
    if past is None or past.guards.max_change is None or now <= past.guards.unusual_from:
        return None
    weeks = []
    for windows in _weeks(start, past):
        used = [
            [slot.quantity for slot in of_customer(tables, feed, each, customer) if _counts(tables, slot)]
            for each in windows
        ]
        weeks += [max(sum(each, ZERO) for each in used)] if any(used) else []
    return max(weeks) if len(weeks) >= LEAST_WEEKS else None


def of_customer(tables: Tables, feed: Feed, start: dt.datetime, customer: str) -> list[SlotRow]:
    """Return the slots of a customer in a window, one for each combination."""
    return [
        slot for name, slot in tables.slots[feed.id].get(start, {}).items() if customer_of(name) == customer
    ]


def together(
    tables: Tables,
    feed: Feed,
    start: dt.datetime,
    customer: str,
    more: Decimal = ZERO,
    voided: Collection[EventId] = (),
) -> Together:
    """Return what a customer uses in a window that is `more` than the ledger has, and how much of it was let go."""
    slots = of_customer(tables, feed, start, customer)
    return Together(
        sum((slot.quantity for slot in slots), more),
        sum((slot.total - _not_let_go(tables, slot, voided) for slot in slots), ZERO),
    )


def within_limits(
    tables: Tables,
    feed: Feed,
    past: Past,
    lowered: Collection[tuple[dt.datetime, str]],
    planned: Collection[EventId],
    voided: Collection[EventId],
) -> list[tuple[dt.datetime, str]]:
    """Return whose increases are held without a need, of those who came to less, but for what was planned just now."""
    waits = {
        (tables.events[event].window_start, customer_of(tables.events[event].customer))
        for event, parked in tables.parked.items()
        if parked.feed_id == feed.id and _of_customers(parked) and event not in {*planned, *voided}
    }
    found = []
    for start, customer in sorted(waits.intersection(lowered)):
        used = together(tables, feed, start, customer, voided=voided)
        usual = asked(tables, feed, start, customer, used.now, past)
        if guards.of_customer(used, usual, past.guards) is None:
            found.append((start, customer))
    return found


def of_slot(tables: Tables, slot: SlotRow, parked: EventId | None) -> tuple[bool, bool]:
    """Tell of a slot whether a guard holds all that it ever had, and whether what waits had left before."""
    row = tables.parked.get(parked) if parked is not None else None
    if row is None or parked is None:
        return False, False
    events = [event for event in tables.events.values() if event.slot_id == slot.id]
    said = any(event.exposed_at is not None or event.state in SAID for event in events)
    passed = row.state is State.REFUSED and tables.events[parked].attempted_at is not None
    return _by_limit(row) and not said, passed


def swollen(
    tables: Tables, feed: Feed, span: Span, past: Past, tally: Tally, decisions: Sequence[Decision]
) -> tuple[dict[dt.datetime, Swollen], list[dt.datetime]]:
    """Return which windows are swollen that a plan raises, and in which others what waits may go."""
    raised, tally.raised = tally.raised, {}
    waits = {
        tables.events[event].window_start
        for event, parked in tables.parked.items()
        if parked.feed_id == feed.id and _swelled(parked) and tables.events[event].window_start in span
    }
    planned: dict[dt.datetime, dict[str, Decision]] = defaultdict(dict)
    for decision in decisions:
        if not decision.deferred:
            planned[decision.change.window_start][name_of(decision.change)] = decision
    found, over = {}, []
    for start in sorted({*raised, *waits}):
        counted, waiting = _summed(tables, feed, start, planned[start])
        usual = _usual(tables, feed, start, past, planned)
        passed = counted - waiting - raised.get(start, ZERO)
        if usual is not None and guards.is_swollen(counted, passed, usual, past.guards):
            if start in raised:
                found[start] = Swollen(counted, usual)
        elif waiting:
            over.append(start)
    return found, over


def let_go(
    ledger: MemoryLedger,
    feed: Feed,
    windows: Sequence[dt.datetime],
    voided: Sequence[EventId],
    now: dt.datetime,
) -> None:
    """Let go what waits because these windows were swollen, unless a newer plan replaces it."""
    slots = [slot for start in windows for slot in ledger.tables.slots[feed.id].get(start, {}).values()]
    _let_go(ledger, feed, slots, _swelled, voided, now)


def let_customers_go(
    ledger: MemoryLedger,
    feed: Feed,
    customers: Sequence[tuple[dt.datetime, str]],
    untouched: Sequence[EventId],
    now: dt.datetime,
) -> None:
    """Let go what waits of customers in windows, but for what was planned just now or is replaced."""
    slots = [
        slot for start, customer in customers for slot in of_customer(ledger.tables, feed, start, customer)
    ]
    _let_go(ledger, feed, slots, _of_customers, untouched, now)


def _let_go(
    ledger: MemoryLedger,
    feed: Feed,
    slots: Sequence[SlotRow],
    which: Callable[[ParkedRow], bool],
    untouched: Sequence[EventId],
    now: dt.datetime,
) -> None:
    tables, gone = ledger.tables, []
    for slot in slots:
        parked = tables.parked.get(slot.tail) if slot.tail is not None else None
        if parked is None or slot.tail is None or not which(parked) or parked.moved_with is not None:
            continue
        if slot.tail in untouched:
            continue
        del tables.parked[slot.tail]
        event = tables.events[slot.tail]
        ledger.move(event, State.DUE)
        event.reason = None
        tables.outbox[slot.tail] = OutboxRow(feed.sink_id, now)
        gone.append(slot.tail)
    note_newer_than(ledger, gone, now)


def _weeks(start: dt.datetime, past: Past) -> list[list[dt.datetime]]:
    """Return the windows of the same hour of each week before, as far as they are compared."""
    stretch = max(guards.STRETCH, past.window)
    first = start - (start - EPOCH) % stretch
    return [
        [
            each
            for number in range(stretch // past.window)
            if (each := first - week * WEEK + number * past.window) >= past.since
        ]
        for week in range(1, WEEKS + 1)
    ]


def _usual(
    tables: Tables,
    feed: Feed,
    start: dt.datetime,
    past: Past,
    planned: Mapping[dt.datetime, Mapping[str, Decision]],
) -> Decimal | None:
    weeks = []
    for windows in _weeks(start, past):
        summed = (_summed(tables, feed, each, planned.get(each, {})) for each in windows)
        sums = [counted - waiting for counted, waiting in summed]
        weeks += [max(sums)] if any(each > 0 for each in sums) else []
    return max(weeks) if len(weeks) >= LEAST_WEEKS else None


def _summed(
    tables: Tables, feed: Feed, start: dt.datetime, planned: Mapping[str, Decision]
) -> tuple[Decimal, Decimal]:
    """Return what a window comes to without what a guard holds of single customers; and how much of that waits."""
    counted = waiting = ZERO
    slots = tables.slots[feed.id].get(start, {})
    for customer in {*slots, *planned}:
        total, delta, swelled = _stands(tables, slots.get(customer), planned.get(customer))
        counted += total if swelled else total - delta
        waiting += delta if swelled else ZERO
    return counted, waiting


def _stands(tables: Tables, slot: SlotRow | None, decision: Decision | None) -> tuple[Decimal, Decimal, bool]:
    """Return where a slot stands by a plan, what of that a guard holds, and whether that is for the window as a whole."""
    total = decision.total if decision is not None else slot.total if slot is not None else ZERO
    if decision is not None and decision.event is not None:
        guard = decision.event.guard
        limited = guard is not None and guard.limits
        return total, decision.event.delta if limited else ZERO, guard is Guard.TOTAL
    parked = tables.parked.get(slot.tail) if slot is not None and slot.tail is not None else None
    withdrawn = decision is not None and slot is not None and decision.voids == slot.tail
    if parked is None or slot is None or slot.tail is None or withdrawn or not _by_limit(parked):
        return total, ZERO, False
    return total, tables.events[slot.tail].delta, _swelled(parked)


def let_go_of(tables: Tables, slot: SlotRow) -> Decimal:
    """Return what a slot stands at without what a guard against too much holds of it."""
    held = slot.tail if slot.tail is not None and _held(tables, slot) else None
    return slot.quantity if held is None else slot.quantity - tables.events[held].delta


def _held(tables: Tables, slot: SlotRow) -> bool:
    parked = tables.parked.get(slot.tail) if slot.tail is not None else None
    return parked is not None and _by_limit(parked)


def _by_limit(parked: ParkedRow) -> bool:
    return parked.guard is not None and parked.guard.limits


def _counts(tables: Tables, slot: SlotRow) -> bool:
    return slot.quantity > 0 and not _held(tables, slot)


def _not_let_go(tables: Tables, slot: SlotRow, voided: Collection[EventId]) -> Decimal:
    """Return how much of where a slot stands waits, or was refused before it left."""
    parked = tables.parked.get(slot.tail) if slot.tail is not None else None
    if parked is None or slot.tail is None or slot.tail in voided:
        return ZERO
    event = tables.events[slot.tail]
    waits = parked.state is State.HELD or (parked.state is State.REFUSED and event.attempted_at is None)
    return event.delta if waits else ZERO


def _of_customers(parked: ParkedRow) -> bool:
    return parked.guard in (Guard.CUSTOMER, Guard.CHANGE) and parked.dismissed_at is None


def _swelled(parked: ParkedRow) -> bool:
    return parked.guard is Guard.TOTAL and parked.dismissed_at is None
