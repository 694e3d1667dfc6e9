"""Cancelling: events that a person wants back from a sink are asked for, until it is known what became of them.

Rules
- The try is on record before the sink is asked, and no ledger transaction is open meanwhile.
- Nothing is planned again before the cancellation is known to be done: by the sink's word that it is complete, or because
  its own totals no longer show the event. So the sink may hold less for a while, and never more.
- A sink's totals lag behind. That they lack the event proves something if they showed it before, or once the time has passed
  within which they surely would.
- What brought no usable answer is asked again for as long as the sink can cancel. After that its totals decide; and if they
  cannot tell, a person does, with the figures.
"""

import datetime as dt
import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Protocol

from aggregator.core import readbacks
from aggregator.core.counts import Counts
from aggregator.core.model import ZERO, Answer
from aggregator.core.notifications import CancelResult
from aggregator.core.readbacks import EventsInSpan, Finding
from aggregator.core.states import CancellationState
from aggregator.errors import SinkError
from aggregator.ledger.review.cancellations import Cancellations, Candidate, Wanted
from aggregator.sinks.protocol import Totals

CANCELS_WITHIN = dt.timedelta(hours=23)
"""Stripe cancels what it received within 24 hours (docs.stripe.com/billing/subscriptions/usage-based/meters/configure).

The hour is for clocks that differ and for requests that arrive late.
"""

TRY_HOLD = dt.timedelta(minutes=2)
"""How long nobody else tries: longer than any answer takes."""

TRY_AGAIN = dt.timedelta(minutes=1)
LOOK_AGAIN = dt.timedelta(minutes=15)
"""How soon the totals are looked at again, and how long they have at least to move after the sink was asked."""

AT_ONCE = 100


class CancelClient(Protocol):
    """What cancelling asks of a sink."""

    def cannot_cancel(self, meter: str) -> str | None: ...  # noqa: D102
    def cancel(self, meter: str, identifier: str, transport: str) -> CancelResult: ...  # noqa: D102


@dataclass(slots=True)
class Round(Counts):
    """What one round did: how many events were taken back, how many the sink has taken on, and so on."""

    done: int = 0
    taken: int = 0
    refused: int = 0
    again: int = 0
    lapsed: int = 0
    troubles: list[str] = field(default_factory=list)
    """What a person should look at: what the sink refused, and what nobody can tell."""

    @property
    def needs_person(self) -> bool:
        """Whether an event stays that was to go, or nobody can tell."""
        return bool(self.lapsed or self.refused)


def why_not_cancellable(
    candidate: Candidate, notification_client: CancelClient, now: dt.datetime
) -> str | None:
    """Say why an event cannot be cancelled; None if it can."""
    if candidate.open:
        return "it is being cancelled already"
    if candidate.state not in ("accepted", "confirmed"):
        return f"it is {candidate.state.replace('_', ' ')}: only what the sink has accepted can be cancelled"
    if not candidate.left:
        return "it stands for what an adoption found at the sink, and was never sent under its name"
    if candidate.delta < 0:
        return "it lowers a bill: without it the sink would hold more than was used"
    if now - candidate.received_at > CANCELS_WITHIN:
        return (
            f"the sink may have received it at {candidate.received_at:%Y-%m-%d %H:%M}Z, and cancels nothing older than "
            "a day: correct the source, and release the correction"
        )
    return notification_client.cannot_cancel(candidate.meter)


class Canceller:
    """Looks after the cancellations at one sink. Several at once do no harm: a try belongs to one of them.

    `lowering` are the meters whose decreases are to be done by taking back what they correct. Each of a slot's events is
    taken back in turn until what the sink holds is no more than the source says; then the rest is planned anew.
    `late` is what the sink says of its totals being late: until it says no more, nothing is judged by them.
    """

    def __init__(
        self,
        ledger: Cancellations,
        notification_client: CancelClient,
        sink: Totals,
        sink_id: int,
        lowering: Collection[str] = (),
        late: Callable[[], str | None] = lambda: None,
    ) -> None:
        self._lowering = [meter for meter in lowering if notification_client.cannot_cancel(meter) is None]
        self._ledger = ledger
        self._notification_client = notification_client
        self._sink = sink
        self._sink_id = sink_id
        self._late = late
        self._stopping = threading.Event()

    def run_once(self, now: dt.datetime, events: Sequence[int] | None = None) -> Round:
        """Look after what is due by `now`; with `events`, after these only."""
        result = Round()
        if self._lowering and events is None:
            self._ledger.ask_lowered(self._sink_id, self._lowering, now - CANCELS_WITHIN, now, AT_ONCE)
        for wanted in self._ledger.wanted(self._sink_id, now=now, events=events, limit=AT_ONCE):
            if self._stopping.is_set():
                break
            if wanted.state is CancellationState.ASKED:
                self._try(wanted, now, result)
            else:
                self._look(wanted, now, result)
        return result

    def stop(self) -> None:
        """Ask nothing more."""
        self._stopping.set()

    def _try(self, wanted: Wanted, now: dt.datetime, result: Round) -> None:
        if now - wanted.received_at > CANCELS_WITHIN:
            self._too_late(wanted, now, result)
            return
        if not wanted.unsure and wanted.seen_at is None:
            self._see(wanted, now)
        begun = self._ledger.begin(wanted, now, now + TRY_HOLD)
        if begun is not None:
            self._judge(
                begun,
                self._notification_client.cancel(wanted.meter, wanted.identifier, wanted.transport),
                now,
                result,
            )

    def _judge(self, wanted: Wanted, said: CancelResult, now: dt.datetime, result: Round) -> None:
        """Record what the sink said. `wanted.unsure` is from before this try."""
        match said.answer:
            case Answer.ACCEPTED if said.complete:
                result.done += self._ledger.settle(wanted, said.reason, now)
            case Answer.ACCEPTED:
                result.taken += 1
                self._leave(wanted, CancellationState.TAKEN, said.reason, now, now + LOOK_AGAIN)
            case Answer.REFUSED if wanted.unsure:
                # An earlier try may have been carried out, and this may be the sink's way to say so.
                result.taken += 1
                self._leave(
                    wanted,
                    CancellationState.TAKEN,
                    f"an earlier try may be done: {said.reason}",
                    now,
                    now + LOOK_AGAIN,
                )
            case Answer.REFUSED:
                result.refused += 1
                result.troubles.append(f"event {wanted.event} stays as it is: {said.reason}")
                self._ledger.answered(wanted, CancellationState.REFUSED, said.reason, now, now, unsure=False)
            case Answer.BUSY | Answer.UNSENT:
                result.again += 1
                result.troubles.append(f"event {wanted.event} is asked for again: {said.reason}")
                self._leave(wanted, CancellationState.ASKED, said.reason, now, now + TRY_AGAIN)
            case _:
                result.again += 1
                self._ledger.answered(
                    wanted, CancellationState.ASKED, said.reason, now, now + TRY_AGAIN, unsure=True
                )

    def _leave(
        self, wanted: Wanted, state: CancellationState, answer: str, now: dt.datetime, next_at: dt.datetime
    ) -> None:
        self._ledger.answered(wanted, state, answer, now, next_at, unsure=wanted.unsure)

    def _too_late(self, wanted: Wanted, now: dt.datetime, result: Round) -> None:
        if wanted.unsure:
            result.taken += 1
            reason = f"no usable answer while it could be cancelled: {wanted.answer}"
            self._leave(wanted, CancellationState.TAKEN, reason, now, now)
        else:
            result.refused += 1
            reason = f"it could not be asked for within a day: {wanted.answer or 'nobody did'}"
            result.troubles.append(f"event {wanted.event} stays as it is: {reason}")
            self._ledger.answered(wanted, CancellationState.REFUSED, reason, now, now, unsure=False)

    def _see(self, wanted: Wanted, now: dt.datetime) -> None:
        """Note whether the sink's totals show the event, if that can be told. It costs a call, and saves a day's wait."""
        in_span = self._ledger.look(wanted)
        figure = self._figure(in_span) if len(in_span.events) == 1 else None
        if figure is not None and readbacks.agrees(in_span, figure):
            self._ledger.seen(wanted, now)

    def _look(self, wanted: Wanted, now: dt.datetime, result: Round) -> None:
        """See by the totals whether it is done."""
        in_span = self._ledger.look(wanted)
        wait = self._sink.limits_for(wanted.meter).proof
        figure = self._figure(in_span) if wait is not None and self._late() is None else None
        if figure is None or wait is None:
            self._leave(wanted, wanted.state, wanted.answer or "", now, now + LOOK_AGAIN)
            return
        if self._gone(wanted, in_span, figure, now, wait):
            result.done += self._ledger.settle(wanted, f"the sink has {figure} for {in_span}", now)
            return
        if len(in_span.events) == 1 and readbacks.agrees(in_span, figure):
            self._ledger.seen(wanted, now)
        tried_at = wanted.tried_at or wanted.asked_at
        if now < max(tried_at + wait, readbacks.proves_at(in_span, now, wait)):
            self._leave(wanted, wanted.state, wanted.answer or "", now, now + LOOK_AGAIN)
            return
        reason = f"the sink has {figure} for {in_span}, and was asked to take {wanted.delta} back ({wanted.answer})"
        result.lapsed += 1
        result.troubles.append(f"nobody can tell whether event {wanted.event} is cancelled: {reason}")
        self._leave(wanted, CancellationState.LAPSED, reason, now, now)

    def _gone(
        self, wanted: Wanted, in_span: EventsInSpan, figure: Decimal, now: dt.datetime, wait: dt.timedelta
    ) -> bool:
        """Tell whether the sink's figure proves that the event does not count any more."""
        if readbacks.proves_at(in_span, now, wait) <= now:
            # A ledger that was wound back since may not have the event any more: then nothing is known of it.
            return any(
                found.event == wanted.event and found.finding is Finding.ABSENT
                for found in readbacks.decide(in_span, figure)
            )
        had_time = wanted.tried_at is not None and now - wanted.tried_at >= LOOK_AGAIN
        return len(in_span.events) == 1 and wanted.seen_at is not None and had_time and figure == ZERO

    def _figure(self, in_span: EventsInSpan) -> Decimal | None:
        try:
            return self._sink.total(in_span.meter, in_span.customer, in_span.span)
        except SinkError:
            return None
