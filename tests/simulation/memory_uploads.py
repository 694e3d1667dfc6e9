"""The ledger in memory: a person's word about files, that they are uploaded, or not where they were begun."""

import datetime as dt
from collections.abc import Mapping, Sequence

from aggregator.core.model import ClaimId, State
from aggregator.errors import UsageError
from aggregator.ledger.outbox.moved_files import LATEST_WRITE, MovedFile
from aggregator.ledger.review.decisions import Decider
from tests.simulation.memory import FileRow, MemoryLedger, OutboxRow


class MemoryUploads:
    """The verbs about files that are written."""

    def __init__(self, ledger: MemoryLedger) -> None:
        self._ledger = ledger

    def confirm(self, names: Sequence[str], now: dt.datetime, decider: Decider | None = None) -> int:
        """Take a person's word that files were uploaded; return how many events are confirmed. Raises UsageError."""
        tables, confirmed = self._ledger.tables, 0
        known = {row.name: claim for claim, row in tables.files.items() if row.written_at is not None}
        if any(name not in known or tables.files[known[name]].confirmed_at for name in names):
            raise UsageError("Nothing was confirmed.")
        for name in names:
            for event in (tables.events[each] for each in tables.claims[known[name]].events):
                if event.state is State.ACCEPTED and event.request_id == name:
                    self._ledger.move(event, State.CONFIRMED)
                    confirmed += 1
            tables.files[known[name]].confirmed_at = now
        return confirmed


class MemoryPlaces:
    """The verbs about files that were begun elsewhere."""

    def __init__(self, ledger: MemoryLedger) -> None:
        self._ledger = ledger

    def moved_files(self, places: Mapping[str, str]) -> list[MovedFile]:
        """Return the open files of sinks that write elsewhere by now."""
        found, tables = [], self._ledger.tables
        for sink, place in places.items():
            left = {row.place for _, row in self._open(sink) if row.place != place}
            for begun_in in sorted(left):
                rows = [(claim, row) for claim, row in self._open(sink) if row.place == begun_in]
                events = [event for claim, _ in rows for event in tables.claims[claim].events]
                until = max(row.held_until for _, row in rows)
                found.append(
                    MovedFile(sink, place, begun_in, len(rows), len(events), min(events), max(events), until)
                )
        return found

    def events_in(self, sink: str, place: str) -> set[int]:
        """Return the events of the open files of a sink that were begun in a place."""
        claims = [claim for claim, row in self._open(sink) if row.place == place]
        return {int(event) for claim in claims for event in self._ledger.tables.claims[claim].events}

    def move(
        self, sink: str, place: str, now: dt.datetime, decider: Decider | None = None
    ) -> tuple[int, int]:
        """Take a person's word that no open file of a sink lies in a place: its events are due again. Raises UsageError."""
        tables, given = self._ledger.tables, 0
        rows = [(claim, row) for claim, row in self._open(sink) if row.place == place]
        if not rows or now < max(row.held_until for _, row in rows) + LATEST_WRITE:
            raise UsageError("Nothing was moved.")
        for claim, _ in rows:
            for event in tables.claims[claim].events:
                held, row = tables.outbox.get(event), tables.events[event]
                if held is None or held.claim_id != claim or row.state is not State.SENDING:
                    continue
                self._ledger.move(row, State.DUE)
                row.exposed_at = row.settled_at = None
                tables.outbox[event] = OutboxRow(held.sink_id, now, None, held.backfill)
                given += 1
            del tables.files[claim]
            tables.claims[claim].settled_at = now
        return len(rows), given

    def _open(self, sink: str) -> list[tuple[ClaimId, FileRow]]:
        tables = self._ledger.tables
        number = tables.sinks[sink]
        return [
            (claim, row)
            for claim, row in sorted(tables.files.items())
            if row.sink_id == number and row.written_at is None
        ]
