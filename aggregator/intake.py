"""Intake: what a sink tells by itself comes into the ledger, asked for from time to time or delivered to us.

Rules
- The sink is asked, then the ledger is written: no ledger transaction is open while the sink is talked to.
- A message counts once, however often and by whichever way it comes.
- What was made within the last hour before is asked for again each time: a message may appear after one that is newer.
- A stretch of time is asked for in pieces, each taken whole before the next: in which order the sink lists does not matter.
- A message that cannot be read is put on record as such and said; it does not hold up those after it.
- A sink that does not let itself be asked is said once. Everything else goes on, and it is asked again an hour later.
"""

import datetime as dt
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from aggregator.errors import SinkError, SinkHalted, SinkUnreachable
from aggregator.ledger.intake import Taking
from aggregator.model import Limits, Span, WriteModel
from aggregator.told import Notice, Told, Unimported

OVERLAP = dt.timedelta(hours=1)
"""How late a message may appear. Those that it asks for again cost one call as long as they fit a page."""

REACH = dt.timedelta(days=29)
"""How far back the first question goes: Stripe keeps messages for 30 days (docs.stripe.com/api/v2/core/events)."""

PIECE = REACH
LEAST_PIECE = dt.timedelta(seconds=10)
"""How much time is asked for at once, and how little if that was too much: mostly one question is enough."""

MOST_PIECES = 50
"""Questions per round. What is left comes in the next, which goes on from there."""

AGAIN_AFTER = dt.timedelta(hours=1)
"""When a sink is asked again that refused to be: what a person grants is noticed by then."""

COUNTS = ("messages", "rejected", "readbacks", "unreadable")


class Teller(Protocol):
    """What intake asks of a sink."""

    @property
    def takes_deliveries(self) -> bool: ...  # noqa: D102
    def listed(self, span: Span) -> list[Notice]: ...  # noqa: D102
    def fetched(self, name: str) -> Told: ...  # noqa: D102
    def delivered(self, body: bytes, signature: str) -> Notice | Told | None: ...  # noqa: D102


class Sink(Protocol):
    """What intake asks of a sink about its meters."""

    def limits_for(self, meter: str) -> Limits: ...  # noqa: D102


class Ledger(Protocol):
    """What intake asks of the ledger."""

    def take(  # noqa: D102
        self,
        sink_id: int,
        told: Told,
        came_by: str,
        now: dt.datetime,
        proofs: Sequence[dt.timedelta | None],
    ) -> Taking: ...
    def known(self, sink_id: int, ids: Sequence[str]) -> set[str]: ...  # noqa: D102
    def heard_until(self, sink_id: int) -> dt.datetime | None: ...  # noqa: D102
    def heard(self, sink_id: int, until: dt.datetime, now: dt.datetime) -> None: ...  # noqa: D102
    def refused(self, sink_id: int, reason: str, now: dt.datetime) -> None: ...  # noqa: D102


@dataclass(slots=True)
class Taken:
    """What one round, or one delivery, came to. `refused` says why the sink does not let itself be asked, if it does not."""

    messages: int = 0
    rejected: int = 0
    readbacks: int = 0
    unreadable: int = 0
    more: bool = False
    refused: str | None = None
    troubles: list[str] = field(default_factory=list)
    """What a person should look at: messages that make no sense, events that nobody can find."""
    unimported: list[Unimported] = field(default_factory=list)

    def figures(self) -> dict[str, int]:
        """Return what is worth a line in the log."""
        return {name: count for name in COUNTS if (count := getattr(self, name))}


class Intake:
    """Hears one sink. One at a time per sink is enough; several do no harm."""

    def __init__(self, ledger: Ledger, teller: Teller, sink: Sink, sink_id: int) -> None:
        self._ledger = ledger
        self._teller = teller
        self._sink = sink
        self._sink_id = sink_id
        self._stopping = threading.Event()
        self._not_before: dt.datetime | None = None
        self._goes_on_at: dt.datetime | None = None

    @property
    def takes_deliveries(self) -> bool:
        """Whether deliveries can be told from forgeries."""
        return self._teller.takes_deliveries

    def run_once(self, now: dt.datetime) -> Taken:
        """Ask for what was told since the last time, and take it. Raises SinkUnreachable or SinkError."""
        taken = Taken()
        if self._not_before is not None and now < self._not_before:
            return taken
        heard = self._ledger.heard_until(self._sink_id)
        # A round that goes on with the one before asks for nothing again: else it might never come to an end.
        start = max(self._goes_on_at or (heard - OVERLAP), now - REACH) if heard else now - REACH
        self._goes_on_at = None
        try:
            self._not_before = None
            self._hear(start, now, taken)
        except SinkHalted as halted:
            self._not_before = now + AGAIN_AFTER
            taken.refused = str(halted)
            self._ledger.refused(self._sink_id, taken.refused, now)
        return taken

    def deliver(self, body: bytes, signature: str, now: dt.datetime) -> Taken:
        """Take what was delivered, if it concerns us; once this returns, it is in the ledger.

        Raises NotSigned if it does not come from the sink, SinkError if the sink cannot be asked for it, and LedgerError.
        """
        taken = Taken()
        try:
            found = self._teller.delivered(body, signature)
        except SinkError as error:
            raise NotSigned(str(error)) from error
        if isinstance(found, Notice):
            if self._ledger.known(self._sink_id, [found.id]):
                return taken
            found = self._teller.fetched(found.id)
        if found is not None:
            self._take(found, "webhook", now, taken)
        return taken

    def stop(self) -> None:
        """Ask nothing more; a round that is under way ends after the call it waits for."""
        self._stopping.set()

    def _hear(self, start: dt.datetime, now: dt.datetime, taken: Taken) -> None:
        piece = PIECE
        for _ in range(MOST_PIECES):
            if self._stopping.is_set():
                return
            span = Span(start, min(start + piece, now))
            try:
                notices = self._teller.listed(span)
            except (SinkHalted, SinkUnreachable):
                raise
            except SinkError:
                if piece <= LEAST_PIECE:
                    raise
                piece = max(piece / 4, LEAST_PIECE)
                continue
            self._take_all(notices, now, taken)
            if self._stopping.is_set():
                return
            self._ledger.heard(self._sink_id, span.end, now)
            start = span.end
            if start >= now:
                return
        taken.more = True
        self._goes_on_at = start

    def _take_all(self, notices: Sequence[Notice], now: dt.datetime, taken: Taken) -> None:
        known = self._ledger.known(self._sink_id, [notice.id for notice in notices])
        for notice in sorted(notices, key=lambda each: each.created_at):
            if notice.id not in known and not self._stopping.is_set():
                self._take(self._fetched(notice), "poll", now, taken)

    def _fetched(self, notice: Notice) -> Told:
        try:
            return self._teller.fetched(notice.id)
        except (SinkHalted, SinkUnreachable):
            raise
        except SinkError as error:
            return Told(notice, trouble=str(error))

    def _take(self, told: Told, came_by: str, now: dt.datetime, taken: Taken) -> None:
        proofs = [self._proof(report.meter) for report in told.reports]
        done = self._ledger.take(self._sink_id, told, came_by, now, proofs)
        if not done.fresh:
            return
        taken.messages += 1
        taken.rejected += len(done.refused)
        taken.readbacks += len(done.readbacks)
        taken.unimported += told.unimported
        if told.trouble:
            taken.unreadable += 1
            taken.troubles.append(f"{told.notice.id}: {told.trouble}")
        taken.troubles += [
            f"{told.notice.id}: it counts more invalid events of {meter} than it names, and no figure of the sink can show "
            "which; look at the meter there"
            for meter in done.unseen
        ]

    def _proof(self, meter: str) -> dt.timedelta | None:
        """Return how long the sink needs to count; None where its figures prove nothing about single events."""
        limits = self._sink.limits_for(meter)
        return limits.proof if limits.write_model is WriteModel.DELTA else None


class NotSigned(SinkError):
    """What was delivered does not come from the sink."""
