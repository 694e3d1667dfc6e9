"""The ledger in memory: what sinks tell by themselves."""

import datetime as dt
from collections.abc import Sequence

from aggregator.core.model import EventId
from aggregator.core.notifications import ParsedNotification
from aggregator.ledger.notifications import KEPT, Taking
from tests.simulation.memory import HeardRow, MemoryLedger, NoticeRow
from tests.simulation.memory_in_doubt import MemoryInDoubt


class MemoryNotifications:
    """The verbs about what sinks tell."""

    def __init__(self, ledger: MemoryLedger, in_doubt: MemoryInDoubt) -> None:
        self._ledger = ledger
        self._in_doubt = in_doubt

    def take(
        self,
        sink_id: int,
        parsed: ParsedNotification,
        came_by: str,
        now: dt.datetime,
        proofs: Sequence[dt.timedelta | None],
    ) -> Taking:
        """Take a message with all that follows from it; nothing if it was taken before."""
        tables, notification = self._ledger.tables, parsed.notification
        if (sink_id, notification.id) in tables.notifications:
            return Taking(fresh=False)
        tables.notifications[sink_id, notification.id] = NoticeRow(
            notification.kind, notification.created_at, came_by, now
        )
        refused: list[EventId] = []
        readbacks, unseen = [], []
        for report, proof in zip(parsed.reports, proofs, strict=True):
            found, asked = self._in_doubt.take_report(sink_id, report, now, proof)
            refused += found
            if asked:
                readbacks.append(report.meter)
            elif proof is None and report.meter and report.rejected > len(report.named):
                unseen.append(report.meter)
        return Taking(fresh=True, refused=tuple(refused), readbacks=tuple(readbacks), unseen=tuple(unseen))

    def known(self, sink_id: int, ids: Sequence[str]) -> set[str]:
        """Return which of these messages were taken already."""
        return {each for each in ids if (sink_id, each) in self._ledger.tables.notifications}

    def polled_until(self, sink_id: int) -> dt.datetime | None:
        """Return up to where a sink was polled; None if it never was."""
        row = self._ledger.tables.polled.get(sink_id)
        return row.polled_until if row else None

    def polled(self, sink_id: int, until: dt.datetime | None, now: dt.datetime) -> None:
        """Note that everything a sink told before an instant is taken, and forget what nobody can bring again."""
        tables = self._ledger.tables
        assert until is not None, "no account is polled by itself here"
        before = self.polled_until(sink_id)
        tables.polled[sink_id] = HeardRow(max(before or until, until), now)
        for key in [key for key, row in tables.notifications.items() if row.taken_at < now - KEPT]:
            del tables.notifications[key]

    def refused(self, sink_id: int, reason: str, now: dt.datetime) -> None:
        """Note that a sink does not let itself be asked."""
        row = self._ledger.tables.polled.setdefault(sink_id, HeardRow())
        row.refused_at, row.refused_reason = row.refused_at or now, reason
