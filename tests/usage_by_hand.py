"""What became of usage, worked out row by row from everything in a ledger: what `UsageReport` is held against.

It goes by the state of every event and knows nothing of the outbox, of what is parked, or of where slots stand.
"""

import datetime as dt
from collections import defaultdict
from collections.abc import Iterable, Iterator
from decimal import Decimal
from typing import Any, NamedTuple

import psycopg

from aggregator.core.model import Span
from aggregator.core.usage import By, Line, Usage
from aggregator.ledger.usage import UsageFeed

PARTS = Usage._fields[1:]
OF_STATE = {
    "accepted": "billed",
    "confirmed": "billed",
    "due": "under_way",
    "sending": "under_way",
    "in_doubt": "under_way",
    "held": "held",
    "refused": "refused",
    "shadow": "shadow",
}
AFTER_EVENTS, AFTER_SLOT, NEWEST = 1_000_000, 2_000_000, 3_000_000

Key = tuple[str | None, dt.datetime]
"""Customer and window."""


class Seen(NamedTuple):
    """A row of a source that was read just now."""

    window_start: dt.datetime
    customer: str | None
    quantity: Decimal | None
    reason: str | None = None


class Ledger(NamedTuple):
    """What a ledger has of a feed, over a span."""

    slots: dict[Key, Decimal]
    """What was read of each."""
    events: list[tuple[Key, int, str, Decimal, Decimal]]
    """Of which slot, revision, part, delta and total."""
    unmapped: dict[Key, Decimal]
    opened: dict[Key, tuple[Decimal, str]]
    """What the source has now of windows that were not read, and which part that is."""


def lines(
    connection: psycopg.Connection[Any],
    feed: UsageFeed,
    span: Span,
    by: By | None,
    customer: str | None = None,
    opened: tuple[dt.datetime, list[Seen]] | None = None,
) -> list[Line]:
    """Return the lines of a feed, in their order."""
    ledger = _ledger(connection, feed, span, customer, opened)
    found = _last(ledger, by) if feed.last else _added(ledger, by)
    summed = {
        place: Usage(sum(parts.values(), Decimal()), *(parts[each] for each in PARTS))
        for place, parts in found
    }
    order = sorted(
        summed,
        key=lambda place: (place[1] or span.start, place[0] is None, -summed[place].used, place[0] or ""),
    )
    return [Line(*place, summed[place]) for place in order]


Place = tuple[str | None, dt.datetime | None]


def place_of(key: Key, by: By | None) -> Place:
    """Return the line that a window of a customer is a part of."""
    customer, start = key
    match by:
        case None:
            return None, None
        case By.CUSTOMER:
            return customer, None
        case By.HOUR:
            return None, start.replace(minute=0)
        case By.DAY:
            return None, start.replace(hour=0, minute=0)
        case By.MONTH:
            return None, start.replace(day=1, hour=0, minute=0)


def _added(ledger: Ledger, by: By | None) -> Iterable[tuple[Place, dict[str, Decimal]]]:
    """Sum up deltas. What was read and is in no event is carried."""
    found: dict[Place, dict[str, Decimal]] = defaultdict(lambda: defaultdict(Decimal))
    for key, quantity in ledger.slots.items():
        found[place_of(key, by)]["carried"] += quantity
    for key, _, part, delta, _ in ledger.events:
        found[place_of(key, by)][part] += delta
        found[place_of(key, by)]["carried"] -= delta
    for key, quantity in ledger.unmapped.items():
        found[place_of(key, by)]["unmapped"] += quantity - ledger.slots.get(key, Decimal())
    for key, (quantity, part) in ledger.opened.items():
        found[place_of(key, by)][part] += quantity - ledger.slots.get(key, Decimal())
    return found.items()


def _last(ledger: Ledger, by: By | None) -> Iterable[tuple[Place, dict[str, Decimal]]]:
    """Follow each customer's number from what the sink has to what the source says, part by part."""
    said: dict[tuple[Place, str | None], list[tuple[dt.datetime, int, str, Decimal]]] = defaultdict(list)

    def say(key: Key, place: int, part: str, number: Decimal) -> None:
        said[place_of(key, by), key[0]].append((key[1], place, part, number))

    for key, revision, part, _, total in ledger.events:
        say(key, revision, part, total)
    for key, quantity in ledger.slots.items():
        say(key, AFTER_EVENTS, "carried", quantity)
    for key, quantity in ledger.unmapped.items():
        say(key, AFTER_SLOT, "unmapped", quantity)
    for key, (quantity, part) in ledger.opened.items():
        say(key, NEWEST, part, quantity)
    found: dict[Place, dict[str, Decimal]] = defaultdict(lambda: defaultdict(Decimal))
    for (place, _), numbers in said.items():
        before = Decimal()
        for certain in range(1, len(PARTS) + 1):
            so_far = [each for each in sorted(numbers) if each[2] in PARTS[:certain]]
            now = so_far[-1][3] if so_far else Decimal()
            found[place][PARTS[certain - 1]] += now - before
            before = now
    return found.items()


def _ledger(
    connection: psycopg.Connection[Any],
    feed: UsageFeed,
    span: Span,
    customer: str | None,
    opened: tuple[dt.datetime, list[Seen]] | None,
) -> Ledger:
    def rows(statement: str, *values: object) -> Iterator[tuple[Any, ...]]:
        for whose, start, *others in connection.execute(statement.encode(), values).fetchall():
            if start in span and customer in (None, whose):
                yield (whose, start.astimezone(dt.UTC)), *others

    slots = dict(
        rows("select customer, window_start, quantity from aggregator.slot where feed_id = %s", feed.id)
    )
    events = [
        (key, revision, "dismissed" if dismissed else OF_STATE[state], delta, total)
        for key, revision, state, delta, total, dismissed in rows(
            "select event.customer, event.window_start, event.revision, event.state::text, delta, event.total,"
            " dismissed_at is not null from aggregator.event join aggregator.slot on slot.id = event.slot_id"
            " left join aggregator.parked on event_id = event.id where event.feed_id = %s and event.state <> 'void'",
            feed.id,
        )
    ]
    unmapped: dict[Key, Decimal] = defaultdict(Decimal)
    within = Span(feed.since, min(feed.until or span.end, opened[0] if opened else span.end))
    for key, quantity in rows(
        "select customer, window_start, quantity from aggregator.unmapped where quantity is not null and meter_id = %s",
        feed.meter_id,
    ):
        if key[1] in within:
            unmapped[key] += quantity
    return Ledger(slots, events, unmapped, _opened(feed, span, customer, slots, opened))


def _opened(
    feed: UsageFeed,
    span: Span,
    customer: str | None,
    slots: dict[Key, Decimal],
    opened: tuple[dt.datetime, list[Seen]] | None,
) -> dict[Key, tuple[Decimal, str]]:
    """Return what each window that was not read stands at now: a slot of which nothing was seen, at zero."""
    if opened is None:
        return {}
    since, seen = opened
    within = Span(max(since, span.start, feed.since), min(feed.until or span.end, span.end))
    found: dict[Key, list[Seen]] = {key: [] for key in slots if key[1] in within}
    for each in seen:
        if each.window_start in within and customer in (None, each.customer):
            found.setdefault((each.customer, each.window_start), []).append(each)
    result = {}
    for key, readings in found.items():
        usable = [each.quantity for each in readings if each.quantity is not None]
        spoilt = any(each.reason for each in readings)
        quantity = slots.get(key, Decimal()) if spoilt and not usable else sum(usable, Decimal())
        result[key] = quantity, "unmapped" if key[0] is None or spoilt else "open"
    return result
