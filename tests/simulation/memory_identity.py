"""The ledger in memory: its pin, the heartbeat beside it, and backups of everything that a restore sets back."""

import datetime as dt
import itertools
import pickle
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from aggregator.core.model import ClaimId
from aggregator.errors import LedgerFailedOver, LedgerStopped
from aggregator.ledger import identity
from aggregator.ledger.identity import Pinned, named
from aggregator.runtime.claim_counter import ClaimCount, ClaimCounter
from tests.simulation.memory import MemoryLedger

LEDGER_ID = "simulated"
SERVER, DATABASE = 1, 1
"""Where it always lies: only the same ledger is restored here, in place."""


class Backup(NamedTuple):
    """Every row, and how far every sequence was."""

    rows: bytes
    sequences: list[int]
    claims_made: int
    at: dt.datetime
    notifications: int
    cancellations: int
    open_files: tuple[ClaimId, ...]
    hosts: int


def back_up(ledger: MemoryLedger) -> Backup:
    """Copy everything out."""
    sequences = [each.latest for each in ledger.sequences()]
    tables = ledger.tables
    counts = len(tables.notifications), len(tables.cancellations)
    begun = tuple(claim for claim, row in tables.files.items() if row.written_at is None)
    return Backup(
        pickle.dumps(tables),
        sequences,
        tables.identity.claims_made,
        ledger.clock(),
        *counts,
        begun,
        len(tables.hosts),
    )


def restore(ledger: MemoryLedger, backup: Backup) -> None:
    """Put everything back. What came after the backup is gone, and its numbers are given out again."""
    ledger.timeline = None if ledger.timeline is None else ledger.timeline + 1
    ledger.server_starts += 1
    ledger.tables = pickle.loads(backup.rows)
    ledger.touched = []
    for sequence, latest in zip(ledger.sequences(), backup.sequences, strict=True):
        sequence.latest = latest


class Disk:
    """The state directory of a host: no restore of a ledger reaches it."""

    made = itertools.count()

    def __init__(self) -> None:
        self.claims_made: ClaimCount | None = None
        self.host = next(Disk.made)
        """By what name the host is known, as long as it keeps the directory."""


class MemoryClaimCounter(ClaimCounter):
    """The real heartbeat of one process, with its file in memory."""

    def __init__(self, disk: Disk) -> None:
        super().__init__(Path("state"))
        self._disk = disk

    def unusable(self) -> str | None:
        """Can always be kept."""
        return None

    @contextmanager
    def _held(self) -> Iterator[None]:
        yield

    def _read(self) -> ClaimCount | None:
        return self._disk.claims_made

    def _write(self, count: ClaimCount) -> None:
        self._disk.claims_made = count


class MemoryIdentity:
    """The verbs about the pin, for one process."""

    def __init__(self, ledger: MemoryLedger, disk: Disk) -> None:
        self._ledger = ledger
        self._disk = disk
        self._claim_counter = MemoryClaimCounter(disk)
        self._generation = ledger.tables.identity.generation
        self.stopped_seen = False

    def name(self) -> str:
        """Return what the names of events begin with."""
        return named(LEDGER_ID, self._generation)

    def pinned(self) -> Pinned:
        """Return what the ledger says of itself."""
        row, known = self._ledger.tables.identity, self.known()
        return Pinned(
            LEDGER_ID,
            row.generation,
            row.claims_made,
            SERVER,
            DATABASE,
            row.stopped_at,
            row.stopped_reason,
            DATABASE,
            timeline=row.timeline,
            lies_on=SERVER,
            runs_on=self._ledger.timeline,
            mine=known is None or self._has(known),
            alone=self._ledger.tables.hosts <= {self._disk.host},
        )

    def _has(self, known: ClaimCount) -> bool:
        """Tell whether the last claim of this host is there."""
        if known.claim_id is None:
            return True
        kept_from = self._ledger.tables.identity.claims_kept_from
        if kept_from is not None and known.claimed_at is not None and known.claimed_at < kept_from:
            return True
        row = self._ledger.tables.claims.get(ClaimId(known.claim_id))
        if row is None or row.claimed_at != known.claimed_at:
            return False
        return known.owner in (None, str(row.owner))

    def check(self, now: dt.datetime, *, stops: bool = False, adopting: bool = False) -> str | None:
        """Return why nothing may be read or sent, None if all is well."""
        found = self.pinned()
        self._generation = found.generation
        trouble = found.stopped_reason or identity._mismatch(found, self.known(), where=self._claim_counter)
        self.stopped_seen = trouble is not None
        if trouble is not None and stops:
            self.stop(trouble, now)
        after = None if trouble else identity.failed_over(found, self._ledger.failover)
        if after is not None and adopting:
            self.stop(after, now)
        return trouble or after

    def account(self, sink: str, account: str | None, now: dt.datetime, *, stops: bool = False) -> str | None:
        """Find every sink at its account."""
        return None

    def count_claim(
        self,
        now: dt.datetime,
        claim: ClaimId,
        owner: uuid.UUID | None = None,
        made_at: dt.datetime | None = None,
    ) -> ClaimCount:
        """Count a claim, before any of it is written. Raises LedgerStopped."""
        found = self.pinned()
        found = found._replace(claims_made=found.claims_made + 1)
        self._generation = found.generation
        trouble = found.stopped_reason or identity._mismatch(
            found, self.known(), where=self._claim_counter, counted=True
        )
        self.stopped_seen = trouble is not None
        if trouble is not None:
            self.stop(trouble, now)
            raise LedgerStopped(trouble)
        after = identity.failed_over(found, self._ledger.failover)
        if after is not None:
            raise LedgerFailedOver(after)
        self._ledger.tables.hosts.add(self._disk.host)
        row = self._ledger.tables.identity
        row.claims_made, row.timeline = found.claims_made, found.runs_on or found.timeline
        made = made_at or now
        return ClaimCount(
            LEDGER_ID,
            found.generation,
            found.claims_made,
            SERVER,
            now,
            claim,
            str(owner) if owner else None,
            made,
        )

    def noted(self, count: ClaimCount) -> None:
        """Write the count of a committed claim beside the ledger."""
        self._claim_counter.note(count)

    def stop(self, reason: str, now: dt.datetime, *, failover: bool = False) -> None:
        """Mark the ledger as stopped; the first reason stays, and its time, unless it was set back since."""
        self.stopped_seen = True
        row, known = self._ledger.tables.identity, self.known()
        sent_since = known is not None and row.stopped_at is not None and row.stopped_at < known.at
        if row.stopped_at is None or sent_since or row.stopped_on != self._ledger.server_starts:
            row.stopped_at, row.stopped_reason = now, row.stopped_reason or reason
            row.stopped_on = self._ledger.server_starts

    def stopped(self) -> str | None:
        """Return why the ledger is stopped, None if it is not; and learn its generation."""
        found = self.pinned()
        self._generation = found.generation
        return found.stopped_reason or identity.failed_over(found, self._ledger.failover)

    def known(self) -> ClaimCount | None:
        """Return what stands beside the ledger."""
        return self._claim_counter.known()

    def adopted(self, pinned: Pinned, now: dt.datetime) -> None:
        """Begin to count anew beside the ledger."""
        self._generation = pinned.generation
        self._claim_counter.replace(
            ClaimCount(pinned.ledger_id, pinned.generation, pinned.claims_made, pinned.cluster, now)
        )
