"""The ledger in memory: months that leave it for an archive, and come back.

What a row says, and the digest of it, is made here once more, from the words of `core.archive`: the file that the real code
writes and reads back must come to the same.
"""

import datetime as dt
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from decimal import Decimal

from aggregator.core.archive import Day, Row, digest_of, span_of
from aggregator.core.dimensions import number
from aggregator.core.model import ZERO, Definition, EventId, SlotId, Span, State
from aggregator.errors import InvariantBroken, LedgerStopped
from aggregator.ledger.archives import Archive, ArchivedMeter, Written
from tests.simulation.apart import customer_of, dimensions_of, named
from tests.simulation.conditions import DAY
from tests.simulation.memory import ArchiveRow, EventRow, MemoryLedger, MeterRow, SlotRow, Sums, Tables
from tests.simulation.memory_identity import MemoryIdentity

EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
MICROSECOND = dt.timedelta(microseconds=1)
CLAIMS_AT_ONCE = 2000
BY_A_PASS, BY_AN_ADOPTION = 0, -1
"""What stands for the number of a pass here: which kind it was of. None has such a number."""


class MemoryArchives:
    """The verbs about archives."""

    def __init__(self, ledger: MemoryLedger, identity: MemoryIdentity) -> None:
        self._ledger = ledger
        self._identity = identity

    def meters(self, names: Iterable[str] | None = None) -> list[ArchivedMeter]:
        """Return every meter that the ledger knows, or some, by name."""
        wanted = None if names is None else set(names)
        rows = sorted(self._ledger.tables.meters.values(), key=lambda row: row.name)
        return [
            ArchivedMeter(row.id, row.name, row.formerly[0] if row.formerly else row.name, row.archived_until)
            for row in rows
            if wanted is None or row.name in wanted
        ]

    def listed(self, meters: Iterable[str] | None = None) -> list[Archive]:
        """Return the archives of all meters, or of some, by meter and month."""
        tables, wanted = self._ledger.tables, None if meters is None else set(meters)
        found = [
            Archive(
                row.id, row.meter_id, tables.meters[row.meter_id].name, row.month, row.place, row.name, row.bytes,
                row.sha256, row.slots, row.events, row.first_event, row.last_event, row.written_at, row.verified_at,
                row.removed_until, row.removed_at, row.restored_at,
            )
            for row in tables.archives.values()
            if wanted is None or tables.meters[row.meter_id].name in wanted
        ]  # fmt: skip
        return sorted(found, key=lambda each: (each.meter, each.month))

    def unwritten(self, meter_id: int, before: dt.datetime) -> list[dt.datetime]:
        """Return the months of a meter before an instant that have slots and no archive, the oldest first."""
        tables = self._ledger.tables
        archived = {row.month for row in tables.archives.values() if row.meter_id == meter_id}
        starts = {
            start
            for feed in tables.feeds.values()
            if feed.meter_id == meter_id
            for start, slots in tables.slots[feed.id].items()
            if slots and start < before
        }
        return sorted({start.replace(day=1, hour=0, minute=0, second=0) for start in starts} - archived)

    def definitions(self, meter_id: int) -> tuple[Definition, ...]:
        """Return by which queries, and in which windows, a meter is read, in the order of time."""
        return tuple(self._ledger.tables.definitions[meter_id])

    def feeds(self, meter_id: int) -> dict[int, str]:
        """Return the sinks of a meter by the number of its feed."""
        tables = self._ledger.tables
        sinks = {number: name for name, number in tables.sinks.items()}
        return {feed.id: sinks[feed.sink_id] for feed in tables.feeds.values() if feed.meter_id == meter_id}

    def combinations(self, meter_id: int) -> dict[int, dict[str, str]]:
        """Return what the meter's combinations of dimensions stand for, by number."""
        return {number(each): dict(each) for each in self._ledger.tables.combinations if each}

    def close(self, meter_id: int, end: dt.datetime) -> list[str]:
        """Close a meter up to an instant, unless something speaks against it, which is returned."""
        self._go_on()
        meter = self._ledger.tables.meters[meter_id]
        if meter.archived_until is not None and meter.archived_until >= end:
            return []
        speaks_against = list(_open(self._ledger.tables, meter, end))
        if not speaks_against:
            meter.archived_until = end
        return speaks_against

    def _go_on(self) -> None:
        stopped = self._identity.stopped()
        if stopped is not None:
            raise LedgerStopped(stopped)

    def rows(self, meter_id: int, span: Span) -> Iterator[Row]:
        """Yield what of a span can leave, all as it stands at one instant; nothing if another process is writing it."""
        if meter_id in self._ledger.archiving:
            return
        self._ledger.archiving.add(meter_id)
        try:
            yield from archivable(self._ledger.tables, meter_id, span)
        finally:
            self._ledger.archiving.discard(meter_id)

    def record(self, meter_id: int, month: dt.datetime, written: Written) -> None:
        """Record a file that was written, if there is none of that month."""
        tables = self._ledger.tables
        if any((row.meter_id, row.month) == (meter_id, month) for row in tables.archives.values()):
            return
        made = ArchiveRow(
            next(self._ledger.archive_ids), meter_id, month, month, self._ledger.clock(), **written._asdict()
        )
        tables.archives[made.id] = made

    def forget(self, archive: Archive) -> None:
        """Forget a file of which nothing was removed yet, so that the month is written again."""
        row = self._ledger.tables.archives.get(archive.id)
        if row is not None and row.removed_until == row.month:
            del self._ledger.tables.archives[archive.id]

    def verified(self, archive: Archive, days: Mapping[dt.datetime, Day]) -> None:
        """Record what was found in a file that was read back."""
        row = self._ledger.tables.archives.get(archive.id)
        if row is None:
            raise InvariantBroken("days of an archive that is not there")
        row.days = dict(days)
        if row.sha256 == archive.sha256:
            row.verified_at = self._ledger.clock()

    def days(self, archive: Archive) -> dict[dt.datetime, Day]:
        """Return what was found in it."""
        return dict(self._ledger.tables.archives[archive.id].days)

    def remove(self, archive: Archive, day: dt.datetime) -> bool:
        """Remove one day, the first that is left; False if another process is at it, or was. Raises InvariantBroken."""
        self._go_on()
        tables = self._ledger.tables
        row = tables.archives.get(archive.id)
        if row is None or row.removed_until != day or row.restored_at is not None:
            return False
        if row.verified_at is None:
            raise InvariantBroken("this day of the archive is not to be removed now")
        leaving = list(archivable(tables, row.meter_id, Span(day, day + DAY)))
        found, known = day_of(leaving), row.days.get(day, Day())
        if _differ(found, known):
            raise InvariantBroken(f"{day} is not as it was archived")
        for each in leaving:
            _add_up(tables, row.month, each)
            _take_out(tables, each)
        for key in [
            key for key in tables.totals if key[0] == row.meter_id and key[1] in Span(day, day + DAY)
        ]:
            del tables.totals[key]
        row.removed_until = day + DAY
        return True

    def removed(self, archive: Archive) -> None:
        """Record that all days are removed."""
        row = self._ledger.tables.archives.get(archive.id)
        if row is not None:
            row.removed_at = row.removed_at or self._ledger.clock()

    def remove_spent_claims(self, before: dt.datetime, going_on: Iterator[bool]) -> None:
        """Remove claims made before an instant of which no event is left, for as long as `going_on` says so."""
        tables, after = self._ledger.tables, 0
        newest = {claim.sink_id: number for number, claim in sorted(tables.claims.items())}
        while next(going_on):
            kept_from = tables.identity.claims_kept_from
            tables.identity.claims_kept_from = before if kept_from is None else max(kept_from, before)
            several = [
                number
                for number, claim in sorted(tables.claims.items())
                if number > after and claim.claimed_at < before and claim.settled_at
                and number < newest[claim.sink_id]
            ][:CLAIMS_AT_ONCE]  # fmt: skip
            for spent in several:
                kept = spent in tables.files or any(
                    event in tables.events for event in tables.claims[spent].events
                )
                if not kept:
                    del tables.claims[spent]
            if not several:
                return
            after = max(several)

    def let_go(self, meter: str, month: dt.datetime) -> bool:
        """Let a month that was brought back be archived anew; False if none was."""
        tables = self._ledger.tables
        for row in list(tables.archives.values()):
            if (tables.meters[row.meter_id].name, row.month) == (meter, month):
                if row.restored_at is None or row.removed_until != row.month:
                    return False
                del tables.archives[row.id]
                return True
        return False

    def restore(self, archive: Archive, rows: Iterable[Row]) -> bool:
        """Bring back what was removed, as a whole; False if it is here. Raises InvariantBroken."""
        tables = self._ledger.tables
        row = tables.archives.get(archive.id)
        if row is None or row.removed_until == row.month:
            return False
        coming: dict[dt.datetime, list[Row]] = {}
        for each in rows:
            if each.window_start < row.removed_until:
                day = each.window_start.replace(hour=0, minute=0, second=0)
                coming.setdefault(day, []).append(each)
        came = {day: day_of(of_day).digest for day, of_day in coming.items()}
        known = {day: found.digest for day, found in row.days.items() if day < row.removed_until}
        if came != known:
            raise InvariantBroken(f"{archive.name} is not what was removed from the ledger")
        for each in (each for of_day in coming.values() for each in of_day):
            _put_back(tables, each)
        _forget_sums(tables, row)
        row.removed_until, row.removed_at, row.restored_at = row.month, None, self._ledger.clock()
        return True


def _open(tables: Tables, meter: MeterRow, end: dt.datetime) -> Iterator[str]:
    """Yield what speaks against closing a meter up to an instant, in the words of the real ledger."""
    feeds = {feed.id: feed for feed in tables.feeds.values() if feed.meter_id == meter.id}

    def old(events: Iterable[EventId]) -> int:
        known = (tables.events[event] for event in events if event in tables.events)
        return sum(event.feed_id in feeds and event.window_start < end for event in known)

    behind = sum(
        feed.read_until < min(end, feed.until or end) and feed.since < end for feed in feeds.values()
    )
    counted = {
        "events waiting to be sent": old(tables.outbox),
        "events waiting for a person, or for proof": old(
            event for event, row in tables.parked.items() if row.dismissed_at is None
        ),
        "events being taken back": old(
            row.event_id for row in tables.cancellations.values() if row.settled_at is None
        ),
        "spans to be compared with a sink": sum(
            row.feed_id in feeds and row.done_at is None and row.span.start < end
            for row in tables.readbacks.values()
        ),
        "totals to be said again": sum(key[0] in feeds and key[1] < end for key in tables.reassertions),
        "windows that shrank, and are to be read once more": sum(
            key[0] == meter.id and key[1] < end for key in tables.guarded
        ),
        "files to be uploaded and confirmed": sum(
            row.by_hand
            and row.written_at is not None
            and row.confirmed_at is None
            and bool(old(claimed.events))
            for claim, row in tables.files.items()
            for claimed in (tables.claims[claim],)
        ),
    }
    if meter.mark < end:
        yield "not read to its end"
    if behind:
        yield "not planned to its end for a sink"
    if meter.reread_from is not None and meter.reread_from < end:
        yield "waiting to be read again"
    yield from (f"{many:,} {what}" for what, many in counted.items() if many)


def archivable(tables: Tables, meter_id: int, span: Span) -> Iterator[Row]:
    """Yield every row that can leave, in the order in which archives hold them."""
    events: dict[SlotId, list[EventRow]] = {}
    parked = set()
    for event in tables.events.values():
        if event.window_start in span:
            events.setdefault(event.slot_id, []).append(event)
            if event.id in tables.parked:
                parked.add((event.feed_id, event.window_start, event.customer))
    stays = parked | {
        (feed.id, reading.window_start, reading.customer)
        for (meter, start), readings in tables.unmapped_rows.items()
        for reading in readings
        for feed in tables.feeds.values()
        if meter == meter_id and feed.meter_id == meter_id and start in span
    }
    slots = sorted(
        (
            slot
            for feed in tables.feeds.values()
            if feed.meter_id == meter_id
            for start, customers in tables.slots[feed.id].items()
            if start in span
            for slot in customers.values()
            if not slot.replan and (slot.feed_id, start, slot.customer) not in stays
        ),
        key=lambda slot: (
            customer_of(slot.customer), slot.window_start, slot.feed_id, number(dimensions_of(slot.customer)),
        ),
    )  # fmt: skip
    for slot in slots:
        its = sorted(events.get(slot.id, []), key=lambda event: event.revision)
        yield from (_row(slot, event) for event in its)
        if not its:
            yield _row(slot, None)


def _row(slot: SlotRow, event: EventRow | None) -> Row:
    alone = Row(
        slot.feed_id, customer_of(slot.customer), slot.window_start, number(dimensions_of(slot.customer)), slot.id,
        slot.revision, slot.quantity, slot.total, slot.stamped_at, slot.tail,
    )  # fmt: skip
    if event is None:
        return alone
    return alone._replace(
        event_id=event.id,
        pass_id=BY_AN_ADOPTION if event.taken_over else BY_A_PASS,
        revision=event.revision,
        at=event.at,
        planned_at=event.planned_at,
        exposed_at=event.exposed_at,
        attempted_at=event.attempted_at,
        settled_at=event.settled_at,
        state=str(event.state),
        attempts=event.attempts,
        identifier=event.identifier,
        delta=event.delta,
        event_total=event.total,
        transport=event.transport or None,
        request_id=event.request_id,
        reason=event.reason,
    )


def day_of(rows: Iterable[Row]) -> Day:
    """Return what rows come to."""
    sums = Day()
    for row in rows:
        first = row.begins_slot
        sums = Day(
            sums.slots + first,
            sums.events + (row.event_id is not None),
            sums.quantity + (row.quantity if first else ZERO),
            sums.total + (row.total if first else ZERO),
            sums.digest + digest_of(" ".join(_said(value) for value in row)),
        )
    return sums


def _differ(found: Day, known: Day) -> bool:
    return (found.slots, found.events, found.digest) != (known.slots, known.events, known.digest)


def _said(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, Decimal):
        plain = format(value, "f")
        return plain.rstrip("0").rstrip(".") if "." in plain else plain
    if isinstance(value, dt.datetime):
        return str((value - EPOCH) // MICROSECOND)
    return f'"{value}"' if isinstance(value, str) else str(value)


def _keys(tables: Tables, row: Row) -> tuple[str, dict[str, SlotRow]]:
    """Return by what name a row's slot goes here, and the slots of its window."""
    apart = next(
        (dimensions for dimensions in tables.combinations if number(dimensions) == row.combination), ()
    )
    slots = tables.slots[row.feed_id].setdefault(row.window_start, {})
    return named(row.customer, apart), slots


def _add_up(tables: Tables, month: dt.datetime, row: Row) -> None:
    """Add a slot that leaves to the sums that stay."""
    if not row.begins_slot:
        return
    name, _ = _keys(tables, row)
    of_month, hour = (row.feed_id, month, name), (row.feed_id, row.window_start.replace(minute=0, second=0))
    tables.archived_usage[of_month] = tables.archived_usage.get(of_month, Sums()).and_slot(row)
    tables.archived_hours[hour] = tables.archived_hours.get(hour, Sums()).and_slot(row)


def _forget_sums(tables: Tables, archive: ArchiveRow) -> None:
    """Forget the sums of a month that is back."""
    month = span_of(archive.month)
    feeds = {feed.id for feed in tables.feeds.values() if feed.meter_id == archive.meter_id}
    for key in [key for key in tables.archived_usage if key[0] in feeds and key[1] == archive.month]:
        del tables.archived_usage[key]
    for hour in [key for key in tables.archived_hours if key[0] in feeds and key[1] in month]:
        del tables.archived_hours[hour]


def _take_out(tables: Tables, row: Row) -> None:
    name, slots = _keys(tables, row)
    slots.pop(name, None)
    if not slots:
        del tables.slots[row.feed_id][row.window_start]
    if row.event_id is not None:
        del tables.events[EventId(row.event_id)]


def _put_back(tables: Tables, row: Row) -> None:
    name, slots = _keys(tables, row)
    if row.begins_slot:
        if name in slots:
            raise InvariantBroken(f"the slot of {name} at {row.window_start} is there already")
        slots[name] = slot_of(row, name)
    if row.event_id is not None:
        feed = tables.feeds[row.feed_id]
        event = event_of(row, name, tables.meters[feed.meter_id].name, feed.sink_id)
        tables.events[event.id] = event


def slot_of(row: Row, name: str) -> SlotRow:
    """Return the slot of a row."""
    tail = None if row.tail is None else EventId(row.tail)
    return SlotRow(
        SlotId(row.slot_id), row.feed_id, row.window_start, name, row.quantity, row.total, row.slot_revision,
        row.stamped_at, tail,
    )  # fmt: skip


def event_of(row: Row, name: str, meter: str, sink_id: int) -> EventRow:
    """Return the event of a row."""
    assert row.event_id is not None
    assert row.revision is not None
    assert row.delta is not None
    assert row.event_total is not None
    assert row.at is not None
    assert row.planned_at is not None
    assert row.identifier is not None
    assert row.state is not None
    made = EventRow(
        EventId(row.event_id), SlotId(row.slot_id), row.feed_id, meter, sink_id, name, row.window_start, row.revision,
        row.delta, row.event_total, row.at, row.identifier, State(row.state), row.reason, row.planned_at,
    )  # fmt: skip
    return replace(
        made,
        attempts=row.attempts or 0,
        exposed_at=row.exposed_at,
        attempted_at=row.attempted_at,
        settled_at=row.settled_at,
        request_id=row.request_id,
        transport=row.transport or "",
        taken_over=row.pass_id == BY_AN_ADOPTION,
    )
