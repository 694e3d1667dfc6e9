"""What must be true of months that leave the ledger: nothing of them is lost, counted twice, changed, or billed again.

Files are read once, as they get their names. A ledger is looked at with what of them it has let go: as a question sees it.
"""

import datetime as dt
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path

from aggregator.archive import parquet
from aggregator.core.archive import Row
from aggregator.core.dimensions import number
from aggregator.core.model import EventId
from tests.simulation.apart import named
from tests.simulation.application import Application, Key
from tests.simulation.memory import EventRow, SlotRow, Sums, Tables
from tests.simulation.memory_archives import event_of, slot_of
from tests.simulation.names import called

Require = Callable[..., None]


@dataclass
class Closed:
    """What a meter had when it was closed up to an instant."""

    meter: str
    until: dt.datetime
    slots: dict[tuple[int, str, dt.datetime], tuple[object, ...]] = field(default_factory=dict)
    events: dict[EventId, tuple[object, ...]] = field(default_factory=dict)


class ArchivedMonths:
    """Looks at months that are closed, and at what became of them."""

    def __init__(self, application: Application, require: Require) -> None:
        self._application = application
        self._require = require
        self.settled_until: dt.datetime | None = None
        """Windows before this were billed and quiet before months went by; then their usage does not change any more."""
        self._truth: dict[str, dict[Key, Decimal]] = {}
        self._spoilt: dict[str, set[Key]] = {}
        self._unread: dict[str, set[dt.datetime]] = {}
        self._files: dict[str, list[Row]] = {}
        self._closed: dict[int, Closed] = {}

    def settle(self, now: dt.datetime, tables: Tables) -> None:
        """Take down what was used until now: the source may show what it likes of it later."""
        self.settled_until = now
        for meter, table in self._application.tables.items():
            self._truth[meter], self._spoilt[meter] = dict(table.truth()), table.spoilt()
        for meter_id, start in tables.unread:
            self._unread.setdefault(called(tables.meters[meter_id].name), set()).add(start)

    def truth(self, meter: str, now: dict[Key, Decimal]) -> dict[Key, Decimal]:
        """Return what was used, as it was said in time."""
        until = self.settled_until
        if until is None:
            return now
        return self._truth[meter] | {key: much for key, much in now.items() if key[1] >= until}

    def spoilt(self, meter: str, now: set[Key], truth: dict[Key, Decimal]) -> set[Key]:
        """Return the slots of which nobody can say what was used: with unusable rows, or never shown."""
        until = self.settled_until
        if until is None:
            return now
        unread = {key for key in truth if key[1] in self._unread.get(meter, ())}
        return self._spoilt[meter] | unread | {key for key in now if key[1] >= until}

    def is_settled(self, start: dt.datetime) -> bool:
        """Tell whether a window was quiet before months went by: an adoption does not look at it any more."""
        return self.settled_until is not None and start < self.settled_until

    # Files.

    def published(self, path: Path, name: str) -> None:
        """Look at a file that is about to get its name."""
        rows = list(parquet.read(path))
        before = self._files.setdefault(name, rows)
        self._require(before == rows, "a file is never rewritten", name)

    def whole(self, tables: Tables) -> Tables:
        """Return a ledger with what it has let go."""
        gone = [row for row in tables.archives.values() if row.removed_until > row.month]
        if not gone:
            return tables
        slots = {
            feed: {start: dict(names) for start, names in windows.items()}
            for feed, windows in tables.slots.items()
        }
        events = dict(tables.events)
        usage: dict[tuple[int, dt.datetime, str], Sums] = defaultdict(Sums)
        hours: dict[tuple[int, dt.datetime], Sums] = defaultdict(Sums)
        names = {number(each): each for each in tables.combinations}
        for archive in gone:
            self._require(archive.name in self._files, "what left is in a file", archive)
            for row in self._files[archive.name]:
                if row.window_start >= archive.removed_until:
                    continue
                name = named(row.customer, names.get(row.combination, ()))
                window = slots[row.feed_id].setdefault(row.window_start, {})
                if row.begins_slot:
                    self._require(name not in window, "nothing is there twice", "slot", row)
                    window[name] = slot_of(row, name)
                    month, hour = (
                        (row.feed_id, archive.month, name),
                        (row.feed_id, row.window_start.replace(minute=0)),
                    )
                    usage[month], hours[hour] = usage[month].and_slot(row), hours[hour].and_slot(row)
                if row.event_id is not None:
                    self._require(row.event_id not in events, "nothing is there twice", "event", row)
                    feed = tables.feeds[row.feed_id]
                    event = event_of(row, name, tables.meters[feed.meter_id].name, feed.sink_id)
                    events[event.id] = event
        for what, known, summed in (
            ("month", tables.archived_usage, usage),
            ("hour", tables.archived_hours, hours),
        ):
            self._require(
                known == summed, "sums of what left stay", f"by {what}:", known, ", not", dict(summed)
            )
        return replace(tables, slots=slots, events=dict(sorted(events.items())))

    # Steps.

    def verb(self, name: str, values: tuple[object, ...], tables: Callable[[], Tables]) -> None:
        """Look at the ledger right after a transaction about archives."""
        if name == "close":
            self._close(tables())
        elif name in {"restore", "let_go", "forget"} or (name == "remove" and self._held(values)):
            self.look(tables())

    def _held(self, values: tuple[object, ...]) -> bool:
        """Tell whether there was anything of a day that was removed."""
        archive, day = values
        rows = self._files.get(getattr(archive, "name", ""), [])
        return any(row.window_start.date() == day.date() for row in rows)  # type: ignore[attr-defined]

    def _close(self, tables: Tables) -> None:
        whole = None
        for meter in tables.meters.values():
            until, before = meter.archived_until, self._closed.get(meter.id)
            if until is None or (before is not None and before.until == until):
                continue
            forward = before is None or until > before.until
            self._require(forward, "what is closed stays closed", meter.name, "up to", until)
            whole = whole or self.whole(tables)
            self._closed[meter.id] = _closed(whole, meter.id, until)

    def look(self, tables: Tables) -> None:
        """Hold all that is closed against what it was when it was closed."""
        if not self._closed:
            return
        whole = self.whole(tables)
        for meter_id, then in self._closed.items():
            until = tables.meters[meter_id].archived_until
            self._require(
                until == then.until, "what is closed stays closed", meter_id, until, ", not", then.until
            )
            now = _closed(whole, meter_id, then.until)
            for before, after in ((then.slots, now.slots), (then.events, now.events)):
                self._same(before, after)

    def _same(self, before: dict, after: dict) -> None:  # type: ignore[type-arg]
        if before == after:
            return
        key = next(key for key in {**before, **after} if before.get(key) != after.get(key))
        rule = "what left is there as it was" if key in before else "nothing is planned of a closed month"
        self._require(False, rule, key, after.get(key), ", not", before.get(key))

    def closed_until(self, meter: str) -> dt.datetime | None:
        """Return up to when a meter is closed, by what the application calls it."""
        return next((then.until for then in self._closed.values() if then.meter == meter), None)

    def noted_by_hand(self, event: EventRow) -> None:
        """Take note that a person has written something beside an event of a closed month."""
        for then in self._closed.values():
            if event.id in then.events:
                then.events[event.id] = _said(event)

    def restored(self, tables: Tables) -> None:
        """Begin anew with what a ledger has left that was set back: it may not know yet that months were closed."""
        for meter_id in list(self._closed):
            until = tables.meters[meter_id].archived_until if meter_id in tables.meters else None
            if until is None:
                del self._closed[meter_id]
            else:
                self._closed[meter_id] = _closed(self.whole(tables), meter_id, until)


def _closed(whole: Tables, meter_id: int, until: dt.datetime) -> Closed:
    feeds = {feed.id for feed in whole.feeds.values() if feed.meter_id == meter_id}
    found = Closed(called(whole.meters[meter_id].name), until)
    for feed in feeds:
        for start, names in whole.slots[feed].items():
            if start < until:
                found.slots.update({(feed, name, start): _stands(slot) for name, slot in names.items()})
    for event in whole.events.values():
        if event.feed_id in feeds and event.window_start < until:
            found.events[event.id] = _said(event)
    return found


def _stands(slot: SlotRow) -> tuple[object, ...]:
    return slot.id, slot.quantity, slot.total, slot.revision, slot.stamped_at, slot.tail, slot.replan


def _said(event: EventRow) -> tuple[object, ...]:
    """Return all that an event says, but for the name of its meter, which may change."""
    return (
        event.slot_id, event.feed_id, event.customer, event.window_start, event.revision, event.delta, event.total, event.at,
        event.identifier, event.state, event.reason, event.planned_at, event.attempts, event.exposed_at, event.attempted_at,
        event.settled_at, event.request_id, event.transport, event.taken_over,
    )  # fmt: skip
