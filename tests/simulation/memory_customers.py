"""The ledger in memory: whose the usage of a key is, by mappings as they were read."""

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest

from aggregator.core import definitions
from aggregator.core.customers import WAITS, Difference, Held, Listed, Moved, customer_of
from aggregator.ledger.customers import Adopted
from tests.simulation.memory import MappingRow, MemoryLedger, Spell, Tables

EVER = dt.datetime.min.replace(tzinfo=dt.UTC)
"""Before anything: from when a key has its first customer."""


class MemoryCustomers:
    """The verbs about mappings."""

    def __init__(self, ledger: MemoryLedger) -> None:
        self._ledger = ledger

    def looked_at(self, name: str) -> dt.datetime | None:
        """Return when a mapping was last read by any process."""
        row = self._ledger.tables.mappings.get(name)
        return row.looked_at if row else None

    def is_known(self, name: str) -> bool:
        """Tell whether a mapping was ever read and believed."""
        row = self._ledger.tables.mappings.get(name)
        return row is not None and row.read_at is not None

    def take_over(
        self,
        name: str,
        listed: Iterable[Sequence[Listed]],
        moved: Moved,
        now: dt.datetime,
        *,
        oldest: dt.datetime,
        apart: dt.timedelta,
    ) -> Adopted:
        """Let what a mapping lists hold, unless it is to be read once more."""
        row = self._ledger.tables.mappings.setdefault(name, MappingRow())
        said = {each.key: each.customer for batch in listed for each in batch}
        held = {key: spells[-1].customer for key, spells in row.keys.items()}
        differing = {key for key in said.keys() | held if said.get(key) != held.get(key)}
        before = {key for key in differing if held.get(key) is not None}
        lost = {key for key in before if said.get(key) is None}
        difference = Difference(_with(held), _with(said), len(lost), len(before - lost))
        gained = len(differing - before)
        old = row.doubted_at is not None and row.doubted_at <= now - apart
        doubt = difference.doubt(row.differing if old else None)
        row.looked_at = now
        if doubt is not None:
            row.doubted_at = row.doubted_at if row.differing == difference.differing else now
            row.differing = difference.differing
            return Adopted(difference, gained, doubt)
        row.read_at, row.doubted_at, row.differing = now, None, None
        unread = max([now, *(self._ledger.tables.meters[meter].mark for meter in self._meters(name))])
        begins = {key: self._begins(row, key, said.get(key), moved, unread, oldest) for key in differing}
        for key, since in begins.items():
            spells = row.keys.setdefault(key, [])
            spells[:] = [each for each in spells if each.since < since]
            spells.append(Spell(since, said.get(key)))
        self._bill_what_waited(name, {key: since for key, since in begins.items() if key not in before})
        if before - lost and moved is Moved.ALL:
            self._move_what_was_billed(name, oldest)
        if before:
            self._let_nobody_go_on(name)
        return Adopted(difference, gained, None)

    def _begins(
        self,
        row: MappingRow,
        key: str,
        after: str | None,
        moved: Moved,
        unread: dt.datetime,
        oldest: dt.datetime,
    ) -> dt.datetime:
        """Return from which windows on a key has what was read."""
        spells = row.keys.get(key)
        if not spells:
            return EVER
        if spells[-1].customer is None:
            return spells[-1].since
        return oldest if after is not None and moved is Moved.ALL else unread

    def _bill_what_waited(self, name: str, begins: Mapping[str, dt.datetime]) -> None:
        for meter in self._meters(name):
            starts = [
                start
                for (of, start), rows in self._ledger.tables.unmapped_rows.items()
                for each in rows
                if of == meter and each.reason == WAITS and start >= begins.get(each.customer or "", NEVER)
            ]
            self._reread(meter, min(starts, default=None))

    def _move_what_was_billed(self, name: str, oldest: dt.datetime) -> None:
        for meter in self._meters(name):
            row = self._ledger.tables.meters[meter]
            self._reread(meter, max(row.start_at, oldest))

    def _let_nobody_go_on(self, name: str) -> None:
        for meter in self._meters(name):
            row = self._ledger.tables.meters[meter]
            row.epoch, row.lease_owner, row.lease_until = row.epoch + 1, None, None

    def _reread(self, meter: int, start: dt.datetime | None) -> None:
        row = self._ledger.tables.meters[meter]
        row.reread_from = min(filter(None, (row.reread_from, start)), default=None)

    def _meters(self, name: str) -> list[int]:
        known = self._ledger.tables.definitions
        return [meter for meter, held in known.items() if any(each.customers == name for each in held)]

    def note_failure(self, name: str, reason: str, now: dt.datetime) -> None:
        """Note that a mapping cannot be read; what is known of it goes on."""
        self._ledger.tables.mappings.setdefault(name, MappingRow()).looked_at = now

    def look_up(self, name: str, keys: Iterable[str]) -> Mapping[str, Sequence[Held]]:
        """Return which customers these keys had and have, by a mapping."""
        return {key: held_of(self._ledger.tables, name, key) for key in keys}


NEVER = dt.datetime.max.replace(tzinfo=dt.UTC)


def _with(keys: Mapping[str, str | None]) -> int:
    return sum(each is not None for each in keys.values())


def held_of(tables: Tables, name: str, key: str) -> list[Held]:
    """Return which customers a key had and has."""
    row = tables.mappings.get(name)
    spells = row.keys.get(key, []) if row else []
    ends: list[dt.datetime | None] = [each.since for each in spells[1:]]
    return [
        Held(None if each.since == EVER else each.since, end, each.customer)
        for each, end in zip_longest(spells, ends)
        if each.customer is not None
    ]


def ready(tables: Tables, meter: int) -> dt.datetime | None:
    """Return the oldest window of a meter that waits for a customer whom its key has by now."""
    known = tables.definitions[meter]
    found = [
        start
        for (of, start), rows in tables.unmapped_rows.items()
        for each in rows
        if of == meter
        and each.reason == WAITS
        and (name := definitions.at(known, start).customers) is not None
        and customer_of(held_of(tables, name, each.customer or ""), start) is not None
    ]
    return min(found, default=None)
