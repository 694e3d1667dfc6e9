"""Intake: what a sink tells by itself comes into the ledger, asked for from time to time or delivered to us.

Rules
- The sink is asked, then the ledger is written: no ledger transaction is open while the sink is talked to.
- A message counts once, however often and by whichever way it comes.
- What was made within the last hour before is asked for again each time: a message may appear after one that is newer.
- A stretch of time is asked for in pieces, each taken whole before the next: in which order the sink lists does not matter.
- A message that cannot be read is put on record as such and said; it does not hold up those after it.
- A sink that does not let itself be asked is said once. Everything else goes on, and it is asked again an hour later.
- Where customers name their accounts, those are asked by turns, so many a round. One that does not let itself be asked, or
  gives no answer, holds up nobody else. What is said for one account says nothing of the events of another.
- How imports went is asked for by itself, and refused by itself.
"""

import datetime as dt
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from aggregator.core.counts import Counts
from aggregator.core.model import Limits, Span
from aggregator.core.notifications import Notification, ParsedNotification, Unimported
from aggregator.errors import AccountRefused, SinkCrowded, SinkError, SinkHalted, SinkUnreachable
from aggregator.ledger.notifications import Notifications, Origin, Origins

OVERLAP = dt.timedelta(hours=1)
"""How late a message may appear. Those that it asks for again cost one call as long as they fit a page."""

LOOKBACK = dt.timedelta(days=29)
"""How far back the first question goes: Stripe keeps messages for 30 days (docs.stripe.com/api/v2/core/events)."""

PIECE = LOOKBACK
LEAST_PIECE = dt.timedelta(seconds=10)
"""How much time is asked for at once, and how little if that was too much: mostly one question is enough."""

MOST_PIECES = 50
"""Questions per round. What is left comes in the next, which goes on from there."""

MOST_ACCOUNTS_ASKED = 50
"""Questions per round to accounts that customers name: at an answer each 200 ms, ten seconds of a round of five minutes."""

MOST_SILENT = 3
"""Accounts in a row that give no answer: then it is the sink that is away, and the round ends."""

IMPORTS = "imports"
"""The name under which the ledger keeps how far imports were heard."""

AGAIN_AFTER = dt.timedelta(hours=1)
"""When a sink is asked again that refused to be: what a person grants is noticed by then."""


class NotificationClient(Protocol):
    """What intake asks of a sink."""

    @property
    def takes_deliveries(self) -> bool: ...  # noqa: D102
    def listed(self, span: Span, account: str | None = None) -> list[Notification]: ...  # noqa: D102
    def fetched(self, name: str, account: str | None = None) -> ParsedNotification | None: ...  # noqa: D102
    def imports(self, span: Span) -> list[ParsedNotification]: ...  # noqa: D102
    def delivered(self, body: bytes, signature: str) -> Notification | ParsedNotification | None: ...  # noqa: D102


@dataclass(slots=True)
class Taken(Counts):
    """What one round, or one delivery, came to. `refused` says why the sink does not let itself be asked, if it does not."""

    messages: int = 0
    rejected: int = 0
    readbacks: int = 0
    unreadable: int = 0
    refused: str | None = None
    refusals: dict[str, str] = field(default_factory=dict)
    """The same of what is asked by itself: by account, or for `imports`."""
    troubles: list[str] = field(default_factory=list)
    """What a person should look at: messages that make no sense, events that nobody can find."""
    unimported: list[Unimported] = field(default_factory=list)

    @property
    def needs_person(self) -> bool:
        """Whether events were rejected, files not imported, or a message makes no sense."""
        return bool(self.rejected or self.troubles or self.unimported)


class NotificationPoller:
    """Hears one sink. One at a time per sink is enough; several do no harm."""

    def __init__(
        self,
        ledger: Notifications,
        notification_client: NotificationClient,
        limits_for: Callable[[str], Limits],
        sink_id: int,
        origins: Origins | None = None,
        *,
        account_of: Callable[[str], str | None] | None = None,
        imports: bool = False,
    ) -> None:
        """`account_of` if each customer's account is heard by itself, `imports` if files may not be imported."""
        assert origins or not (account_of or imports), "what is asked by itself is kept by itself"
        self._ledger = ledger
        self._notification_client = notification_client
        self._limits_for = limits_for
        self._sink_id = sink_id
        self._origins = origins
        self._account_of = account_of
        self._imports = imports
        self._stopping = threading.Event()
        self._not_before: dt.datetime | None = None
        self._goes_on_at: dt.datetime | None = None

    @property
    def takes_deliveries(self) -> bool:
        """Whether deliveries can be told from forgeries."""
        return self._notification_client.takes_deliveries

    def run_once(self, now: dt.datetime) -> Taken:
        """Ask for what was told since the last time, and take it. Raises SinkUnreachable or SinkError."""
        taken = Taken()
        try:
            self._hear_sink(now, taken)
        finally:
            if self._imports and self._origins:
                self._hear_imports(self._origins, now, taken)
        return taken

    def deliver(self, body: bytes, signature: str, now: dt.datetime) -> Taken:
        """Take what was delivered, if it concerns us; once this returns, it is in the ledger.

        Raises NotSigned if it does not come from the sink, SinkError if the sink cannot be asked for it, and LedgerError.
        """
        taken = Taken()
        try:
            found = self._notification_client.delivered(body, signature)
        except SinkError as error:
            raise NotSigned(str(error)) from error
        if isinstance(found, Notification):
            notification = found
            if self._ledger.known(self._sink_id, [notification.id]):
                return taken
            try:
                found = self._notification_client.fetched(notification.id, notification.account)
            except AccountRefused as refused:
                # To be told again helps nobody. Who delivers in vain gives up in the end, and then all accounts go unheard.
                taken.troubles.append(f"{notification.id}: {refused}")
                return taken
        if found is not None:
            self._take(found, "webhook", now, taken)
        return taken

    def stop(self) -> None:
        """Ask nothing more; a round that is under way ends after the call it waits for."""
        self._stopping.set()

    def _hear_sink(self, now: dt.datetime, taken: Taken) -> None:
        """Hear the sink as a whole, or its customers' accounts by turns, unless it is too early to be refused again."""
        if self._not_before is not None and now < self._not_before:
            return
        try:
            self._not_before = None
            if self._account_of and self._origins:
                self._hear_accounts(self._origins, self._account_of, now, taken)
            else:
                self._hear_whole(now, taken)
        except SinkHalted as halted:
            self._not_before = now + AGAIN_AFTER
            taken.refused = str(halted)
            self._ledger.refused(self._sink_id, taken.refused, now)

    def _hear_whole(self, now: dt.datetime, taken: Taken) -> None:
        polled = self._ledger.polled_until(self._sink_id)
        # A round that goes on with the one before asks for nothing again: else it might never come to an end.
        start = (
            max(self._goes_on_at, now - LOOKBACK) if polled and self._goes_on_at else start_of(polled, now)
        )
        self._goes_on_at = None
        came_to = self._in_pieces(
            start,
            now,
            lambda span: self._take_all(self._notification_client.listed(span), now, taken),
            lambda until: self._ledger.polled(self._sink_id, until, now),
            iter(range(MOST_PIECES)),
        )
        if came_to < now and not self._stopping.is_set():
            taken.more = True
            self._goes_on_at = came_to

    def _hear_accounts(
        self, origins: Origins, account_of: Callable[[str], str | None], now: dt.datetime, taken: Taken
    ) -> None:
        """Ask the accounts whose turn it is, as many as a round has questions for."""
        origins.find(self._sink_id, account_of, now)
        questions = iter(range(MOST_ACCOUNTS_ASKED))
        silent = 0
        for origin in origins.due(self._sink_id, now, AGAIN_AFTER, MOST_ACCOUNTS_ASKED):
            if self._stopping.is_set():
                return
            try:
                self._hear_account(origins, origin, questions, now, taken)
                silent = 0
            except SinkHalted:
                raise  # it is about the key, and so about all of them
            except SinkUnreachable as error:
                silent += 1
                origins.not_polled(self._sink_id, origin.name, None, now)
                if silent == MOST_SILENT:
                    raise
                taken.refusals[origin.name] = str(error)
            except SinkError as error:
                taken.refusals[origin.name] = str(error)
                origins.not_polled(self._sink_id, origin.name, str(error), now)
        self._ledger.polled(self._sink_id, None, now)

    def _hear_account(
        self, origins: Origins, origin: Origin, questions: Iterator[int], now: dt.datetime, taken: Taken
    ) -> None:
        self._in_pieces(
            start_of(origin.polled_until, now),
            now,
            lambda span: self._take_all(self._notification_client.listed(span, origin.name), now, taken),
            lambda until: origins.polled(self._sink_id, origin.name, until, now),
            questions,
        )

    def _hear_imports(self, origins: Origins, now: dt.datetime, taken: Taken) -> None:
        """Ask what was not imported. That it cannot be asked is said, and holds up nothing."""
        origin = origins.named(self._sink_id, IMPORTS, now, AGAIN_AFTER)
        if origin is None:
            return
        try:
            came_to = self._in_pieces(
                start_of(origin.polled_until, now),
                now,
                lambda span: self._take_imports(self._notification_client.imports(span), now, taken),
                lambda until: origins.polled(self._sink_id, IMPORTS, until, now),
                iter(range(MOST_PIECES)),
            )
        except SinkError as error:
            reason = f"how imports went cannot be asked: {error}"
            taken.refusals[IMPORTS] = reason
            refused = None if isinstance(error, SinkUnreachable) else reason
            origins.not_polled(self._sink_id, IMPORTS, refused, now)
        else:
            taken.more |= came_to < now and not self._stopping.is_set()

    def _in_pieces(
        self,
        start: dt.datetime,
        now: dt.datetime,
        take: Callable[[Span], None],
        note: Callable[[dt.datetime], None],
        questions: Iterator[int],
    ) -> dt.datetime:
        """Take a stretch of time piece by piece, note each, and return how far that came; each piece is a question."""
        piece = PIECE
        for _ in questions:
            if self._stopping.is_set():
                break
            span = Span(start, min(start + piece, now))
            try:
                take(span)
            except SinkCrowded:
                if piece <= LEAST_PIECE:
                    raise
                piece = max(piece / 4, LEAST_PIECE)
                continue
            if self._stopping.is_set():
                break  # it may not have been taken whole
            note(span.end)
            start = span.end
            if start >= now:
                break
        return start

    def _take_all(self, notifications: Sequence[Notification], now: dt.datetime, taken: Taken) -> None:
        known = self._ledger.known(self._sink_id, [notification.id for notification in notifications])
        for notification in sorted(notifications, key=lambda each: each.created_at):
            if notification.id not in known and not self._stopping.is_set():
                self._take(self._fetched(notification), "poll", now, taken)

    def _take_imports(self, imports: Sequence[ParsedNotification], now: dt.datetime, taken: Taken) -> None:
        known = self._ledger.known(self._sink_id, [parsed.notification.id for parsed in imports])
        for parsed in sorted(imports, key=lambda each: each.notification.created_at):
            if parsed.notification.id not in known:
                self._take(parsed, "poll", now, taken)

    def _fetched(self, notification: Notification) -> ParsedNotification:
        try:
            parsed = self._notification_client.fetched(notification.id, notification.account)
        except (SinkHalted, SinkUnreachable):
            raise
        except SinkError as error:
            return ParsedNotification(notification, trouble=str(error))
        return parsed or ParsedNotification(
            notification, trouble="it is of another account than the one that listed it"
        )

    def _take(self, parsed: ParsedNotification, came_by: str, now: dt.datetime, taken: Taken) -> None:
        proofs = [self._limits_for(report.meter).proof_of_one for report in parsed.reports]
        done = self._ledger.take(self._sink_id, parsed, came_by, now, proofs)
        if not done.fresh:
            return
        taken.messages += 1
        taken.rejected += len(done.refused)
        taken.readbacks += len(done.readbacks)
        taken.unimported += parsed.unimported
        if parsed.trouble:
            taken.unreadable += 1
            taken.troubles.append(f"{parsed.notification.id}: {parsed.trouble}")
        taken.troubles += [
            f"{parsed.notification.id}: it counts more invalid events of {meter} than it names, and no figure of the sink "
            "can show which; look at the meter there"
            for meter in done.unseen
        ]


def start_of(polled_until: dt.datetime | None, now: dt.datetime) -> dt.datetime:
    """Return where a question begins: some time before what was heard, as far back as it goes if nothing was."""
    return max(polled_until - OVERLAP, now - LOOKBACK) if polled_until else now - LOOKBACK


class NotSigned(SinkError):
    """What was delivered does not come from the sink."""
