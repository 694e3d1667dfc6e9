"""The ledger in memory: since when a customer is billed through another sink."""

import datetime as dt
from collections.abc import Iterable, Iterator, Sequence

from aggregator.core import definitions
from aggregator.core.cutover import Crossing, obstacles
from aggregator.errors import UsageError
from tests.simulation.apart import customer_of
from tests.simulation.memory import CutoverRow, FeedRow, MemoryLedger, MeterRow


class MemoryCutovers:
    """The verbs about cutovers."""

    def __init__(self, ledger: MemoryLedger) -> None:
        self._ledger = ledger

    def set(
        self,
        old: str,
        new: str,
        meters: Iterable[str],
        at: dt.datetime,
        customers: Sequence[str] | None,
        *,
        parallel: bool,
        by: str,
        reason: str | None,
    ) -> int:
        """Let customers, or all others (None), move at an instant; return for how many that is new. Raises UsageError."""
        pairs = list(self._pairs(old, new, meters))
        whose: list[str | None] = [None] if customers is None else [*sorted(set(customers))]
        crossings = [self._crossing(meter, *feeds) for meter, *feeds in pairs]
        refused = obstacles(at, crossings, (old, new), parallel=parallel)
        refused += [said for each in pairs for said in self._in_the_way(*each, at, whose)]
        if refused or not pairs:
            raise UsageError("\n".join(refused))
        changed: set[str | None] = set()
        for meter, leaves, leads in pairs:
            row = CutoverRow(leads.id, at, parallel)
            for customer in whose:
                if self._ledger.tables.cutovers.get((leaves.id, customer)) != row:
                    self._ledger.tables.cutovers[leaves.id, customer] = row
                    changed.add(customer)
            leaves.parted = leads.parted = True
            if changed:
                _take_away(meter)
        return len(changed)

    def withdraw(self, old: str, new: str, meters: Iterable[str], customers: Sequence[str] | None) -> int:
        """Take back cutovers that lie ahead of all that was read; return of how many customers. Raises UsageError."""
        tables = self._ledger.tables
        gone: set[str | None] = set()
        pairs = list(self._pairs(old, new, meters))
        whose: list[str | None] = [None] if customers is None else [*sorted(set(customers))]
        keys = [(meter, (leaves.id, customer)) for meter, leaves, _ in pairs for customer in whose]
        if any(key in tables.cutovers and tables.cutovers[key].at < meter.mark for meter, key in keys):
            raise UsageError("it is planned by already")
        for _, key in keys:
            if tables.cutovers.pop(key, None) is not None:
                gone.add(key[1])
        if gone:
            for meter, *_ in pairs:
                _take_away(meter)
        return len(gone)

    def _pairs(
        self, old: str, new: str, meters: Iterable[str]
    ) -> Iterator[tuple[MeterRow, FeedRow, FeedRow]]:
        tables, names = self._ledger.tables, set(meters)
        for meter in tables.meters.values():
            feeds = {feed.sink_id: feed for feed in tables.feeds.values() if feed.meter_id == meter.id}
            leaves, leads = (feeds.get(tables.sinks.get(name, 0)) for name in (old, new))
            if meter.name in names and leaves is not None and leads is not None:
                yield meter, leaves, leads

    def _crossing(self, meter: MeterRow, leaves: FeedRow, leads: FeedRow) -> Crossing:
        window = definitions.at(self._ledger.tables.definitions[meter.id], meter.mark).window
        return Crossing(meter.name, window, meter.mark, leaves.coverage, leads.coverage)

    def _in_the_way(
        self,
        meter: MeterRow,
        leaves: FeedRow,
        leads: FeedRow,
        at: dt.datetime,
        whose: Sequence[str | None],
    ) -> Iterator[str]:
        tables = self._ledger.tables
        for customer in whose:
            before = tables.cutovers.get((leaves.id, customer))
            if before is not None and before.at != at and before.at < meter.mark:
                yield f"{customer} moved already"
        for feed in (leaves, leads):
            for start, slots in tables.slots[feed.id].items():
                if start >= at and (None in whose or {customer_of(name) for name in slots} & set(whose)):
                    yield f"planned at {start}"


def _take_away(meter: MeterRow) -> None:
    """Whoever is in the middle of a pass loses the meter."""
    meter.epoch, meter.lease_owner, meter.lease_until = meter.epoch + 1, None, None
