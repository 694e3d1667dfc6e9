"""Delivery: claim what is due, send it, judge the answers, settle. It never sees a source.

Rules
- The claim is committed before the first byte leaves, and no ledger transaction is open while a sink is talked to.
- Every judgement is made by the ledger's clock: as of the claim, and as of each answer. What this host's wall clock shows
  changes nothing.
- Verdicts are settled in small batches as they arrive, so that a crash leaves few events in question.
- What a claim left unsaid, because the sink broke off, is not guessed at: the rows stay claimed, and go out again as the
  same bytes when the claim runs out.
- A library that breaks over a batch in a way nobody foresaw has said nothing of what it was sent: that is unknown.
"""

import datetime as dt
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol

from aggregator.core import retry
from aggregator.core.counts import Counts
from aggregator.core.model import Answer, Event, EventId, Outcome, State, Verdict, Written
from aggregator.core.tracing import NO_TRACING, ClaimTrace, Tracing
from aggregator.delivery.first_use import Clear, FirstUseState
from aggregator.errors import AggregatorError, SinkHalted
from aggregator.ledger.outbox.outbox import Claim, Outbox
from aggregator.runtime import failpoints
from aggregator.runtime.clock import Clock, boottime
from aggregator.runtime.redact import named, redacted
from aggregator.sinks.protocol import Sink

SETTLE_FROM, SETTLE_AFTER_SECONDS = 200, 0.1
"""So many outcomes are a settling transaction, once the first of them is so old: they are on disk within a fraction of a
second of their arrival, and what comes faster is settled by more at once."""

SETTLE_AT_MOST = 1_000
"""Outcomes per settling transaction, however fast they come."""

SETTLE_WITHIN_SECONDS = 2.0
"""Verdicts wait no longer than this for others to be settled with: it keeps the claim alive, too."""

RENEW_AFTER = 1 / 4
"""A claim is renewed with the first settling after so much of the time in which its events may leave. Each renewal writes
every row that is left of it; most claims are settled before they need one."""

CLEARING_SECONDS = 1.0
"""So late the instant may be that a claim goes by."""

AWAY_SECONDS = 60.0
"""A sink that has taken nothing for so long is away: who runs once, or sends a backfill, is told, and comes again."""

LOOK_SECONDS = 1.0
"""How soon a lane that waits for what another one clears looks by itself."""


@dataclass(slots=True)
class Delivered(Counts):
    """What one round of delivery did. `stale` counts outcomes that came too late to change anything."""

    claimed: int = 0
    accepted: int = 0
    duplicates: int = 0
    refused: int = 0
    again: int = 0
    in_doubt: int = 0
    unsent: int = 0
    stale: int = 0
    halted: str | None = None
    waits_for: str | None = None
    """Why the last of those that are due again are."""
    refusals: dict[EventId, str] = field(default_factory=dict)
    files: list[Written] = field(default_factory=list)
    """What was written, where a sink writes files."""
    first_uses: list[FirstUseState] = field(default_factory=list)
    """What became of feeds that had not sent anything before."""
    more_to_come: bool = False
    """Whether another one is asking a sink what it holds, and may let more go."""
    waiting: int | None = None
    """How many events wait for later, and until when, where somebody looked at the end."""
    next_at: dt.datetime | None = None

    @property
    def fruitless(self) -> bool:
        """Whether all that was claimed was given back, and would be claimed again."""
        return bool(self.claimed) and self.again + self.unsent == self.claimed

    @property
    def needs_person(self) -> bool:
        """Whether events wait for somebody, or the sink lets in nobody or nothing of a feed."""
        stopped = any(state.kind == "stopped" for state in self.first_uses)
        return bool(self.refused or self.in_doubt or self.halted or stopped)

    @property
    def leaves_work(self) -> bool:
        """Whether events wait for later."""
        return bool(self.waiting)

    def summary(self) -> dict[str, object]:
        """Return the figures, and how many events wait."""
        return {**self.figures(), "waiting": self.waiting}

    def report(self, trace: ClaimTrace) -> None:
        """Say of a claim, to whoever traces it, what became of it."""
        if trace.claim is None:
            return
        trace.figures = self.figures()
        trace.outcome = "halted" if self.halted else "nothing_taken" if self.fruitless else "settled"

    def add(self, other: "Delivered") -> None:
        """Take another round into account."""
        self.add_counts(other)
        self.refusals |= other.refusals
        self.files += other.files
        self.first_uses += other.first_uses
        self.halted = other.halted or self.halted
        self.waits_for = other.waits_for or self.waits_for

    def count(self, outcome: Outcome, answer: Answer | None) -> None:
        """Take one outcome into account."""
        match outcome.state:
            case State.ACCEPTED:
                self.accepted += 1
                self.duplicates += answer is Answer.DUPLICATE
            case State.REFUSED:
                self.refused += 1
                self.refusals[outcome.event] = outcome.reason or ""
            case State.IN_DOUBT:
                self.in_doubt += 1
            case _:
                self.unsent += not outcome.counts
                self.again += outcome.counts
                self.waits_for = outcome.reason or self.waits_for


class Sender:
    """Sends what one sink is owed. Several may run beside each other on one sink: a claim belongs to one of them.

    `clock` is the ledger's, `elapsed` one that nobody sets.
    `clear` clears what may leave; without it only what others cleared is sent.
    `feeds` are those of the configuration: what is owed of others is nobody's here. `tracing` is told of each claim.
    """

    def __init__(
        self,
        outbox: Outbox,
        sink: Sink,
        sink_id: int,
        clock: Clock,
        elapsed: Callable[[], float] = boottime,
        clear: Clear = lambda _: [],
        *,
        feeds: Sequence[int] | None = None,
        tracing: Tracing = NO_TRACING,
    ) -> None:
        self._outbox = outbox
        self._sink = sink
        self._sink_id = sink_id
        self._clock = clock
        self._elapsed = elapsed
        self._clear = clear
        self._feeds = feeds
        self._tracing = tracing
        self._known_to_take = False

    def run_once(self, now: dt.datetime) -> Delivered:
        """Claim one batch that is due by `now`, send it, and settle it."""
        with self._tracing.a_claim(self._sink.name) as trace:
            result = self._run(now, trace)
            result.report(trace)
        return result

    def _run(self, now: dt.datetime, trace: ClaimTrace) -> Delivered:
        began = self._elapsed()
        states = self._clear(now)
        result = Delivered(first_uses=states or [], more_to_come=states is None)
        if self._elapsed() - began > CLEARING_SECONDS:  # by now it is later, by as long as a sink was asked
            began, now = self._elapsed(), self._clock()
        claim = self._claim(now)
        if claim is None:
            return result
        result.claimed = len(claim.events)
        trace.claim, trace.planned_by = claim.id, lambda: self._outbox.planned_by(claim.id)
        trace.meters = lambda: {event.meter for event in claim.events}
        held_back = [
            retry.before_sending(event, claim.at, self._sink.limits_for(event.meter))
            for event in claim.events
        ]
        unfit = [outcome for outcome in held_back if outcome is not None]
        for outcome in unfit:
            result.count(outcome, None)
        hold = _Hold(claim, began)
        self._settle(hold, unfit, claim.at, result)
        fit = [event for event, outcome in zip(claim.events, held_back, strict=True) if outcome is None]
        self._send(hold, fit, result)
        return result

    def _claim(self, now: dt.datetime) -> Claim | None:
        """Claim as many events as the sink wants at once; it may want more, and another way for them, while many wait."""
        limits, bulk = self._sink.limits, self._sink.limits.bulk
        if bulk is not None and self._outbox.more_due(self._sink_id, bulk.above, now, self._feeds):
            return self._outbox.claim(self._sink_id, bulk.batch, now, bulk.transport, self._feeds)
        return self._outbox.claim(self._sink_id, limits.batch, now, limits.transport, self._feeds)

    def stop(self) -> None:
        """Let nothing more leave: what has not left is handed back, what has is waited for."""
        self._sink.stop()

    def _send(self, hold: "_Hold", events: list[Event], result: Delivered) -> None:
        by_id = {event.id: event for event in events}

        def may_leave() -> bool:
            return self._elapsed() < hold.until and not self._outbox.stopped

        try:
            said = self._watched(_all_said(self._sink.send(events, may_leave), events), by_id)
            for verdicts in _batches(said, self._elapsed):
                failpoints.passing("answer_read")
                now = self._clock()
                outcomes = [
                    self._judge(verdict, by_id[verdict.event], now, hold.claim.at) for verdict in verdicts
                ]
                for verdict, outcome in zip(verdicts, outcomes, strict=True):
                    result.count(outcome, verdict.answer)
                self._settle(hold, outcomes, now, result)
        except SinkHalted as halted:
            result.halted = str(halted)
            self._outbox.halt(self._sink_id, result.halted, self._clock())
            self._known_to_take = False
        else:
            if result.accepted and not self._known_to_take:
                self._outbox.resume(self._sink_id)
                self._known_to_take = True

    def _watched(self, verdicts: Iterator[Verdict], by_id: Mapping[EventId, Event]) -> Iterator[Verdict]:
        """Pass verdicts on; stop the ledger at once, for every process, if one shows that it has forgotten what it sent."""
        for verdict in verdicts:
            reason = retry.forgotten(verdict, by_id[verdict.event])
            if reason is not None and not self._outbox.stopped:
                self._outbox.stop(verdict.event, reason, self._clock())
            yield verdict

    def _judge(self, verdict: Verdict, event: Event, now: dt.datetime, began: dt.datetime) -> Outcome:
        return retry.judge(verdict, event, now, began, self._sink.limits_for(event.meter).write_model)

    def _settle(self, hold: "_Hold", outcomes: list[Outcome], now: dt.datetime, result: Delivered) -> None:
        """Settle a part of a claim, and renew the rest if it is time to.

        A claim that lost a row to another, or was too late, lets nothing more leave: after a long pause even the sink's
        memory may have run out, and whether the rest may be sent is to be judged anew.
        """
        if not outcomes:
            return
        began = self._elapsed()
        renew = hold.is_to_be_renewed(began)
        settled = self._outbox.settle(hold.claim.id, outcomes, now, renew=renew)
        result.stale += len(outcomes) - settled
        if began >= hold.until or settled < len(outcomes):
            hold.until = began
        elif renew:
            hold.until = began + hold.claim.leave_seconds


class _Hold:
    """How long events of a claim may still leave, on a clock that goes on while the machine sleeps."""

    def __init__(self, claim: Claim, began: float) -> None:
        self.claim = claim
        self.until = began + claim.leave_seconds

    def is_to_be_renewed(self, now: float) -> bool:
        """Tell whether enough of the time is over that the claim is worth a renewal."""
        return self.until - now <= self.claim.leave_seconds * (1 - RENEW_AFTER)


def _all_said(verdicts: Iterator[Verdict], events: Sequence[Event]) -> Iterator[Verdict]:
    """Yield what a sink says; if its library breaks meanwhile, the rest of the events is unknown."""
    open_ids = {event.id: None for event in events}
    try:
        for verdict in verdicts:
            open_ids.pop(verdict.event, None)
            yield verdict
    except (AggregatorError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001 - whatever broke: what left may have arrived
        reason = f"the sink's library failed ({redacted(named(error), ())})"
        yield from (Verdict(event, Answer.UNKNOWN, reason) for event in open_ids)


def _batches(verdicts: Iterator[Verdict], elapsed: Callable[[], float]) -> Iterator[list[Verdict]]:
    """Yield verdicts in lists to settle at once; what has arrived when the sink breaks off comes before its error."""
    batch: list[Verdict] = []
    first = 0.0
    try:
        for verdict in verdicts:
            now = elapsed()
            first = first if batch else now
            batch.append(verdict)
            enough = SETTLE_AFTER_SECONDS if len(batch) >= SETTLE_FROM else SETTLE_WITHIN_SECONDS
            if now - first >= enough or len(batch) >= SETTLE_AT_MOST:
                yield batch
                batch = []
    except SinkHalted:
        if batch:
            yield batch
        raise
    if batch:
        yield batch


class Worker(Protocol):
    """One of several that work off a sink's outbox beside each other."""

    def run_once(self, now: dt.datetime) -> Delivered: ...  # noqa: D102
    def stop(self) -> None: ...  # noqa: D102


def drain(
    workers: Sequence[Worker],
    clock: Clock,
    progress: Callable[[Delivered], None] = lambda _: None,
    elapsed: Callable[[], float] = boottime,
) -> Delivered:
    """Deliver until nothing is due any more, with several lanes beside each other; return what it came to.

    What a sink wants later stays in the outbox. A lane that finds nothing while another one asks the sink what it holds
    waits until a round of another has ended. A lane ends as well once everything has been given back to it for a while,
    or at once where nothing of it left: the same events would come again for ever. Raises what a lane raises, or an
    interruption, after what has left was answered and the rest was handed back.
    """
    whole = Delivered()
    rounds = threading.Condition()
    stopping = threading.Event()

    def work(worker: Worker) -> None:
        useful = elapsed()
        while not stopping.is_set():
            part = worker.run_once(clock())
            with rounds:
                whole.add(part)
                progress(part)
                rounds.notify_all()
                if part.more_to_come and not part.claimed:
                    rounds.wait(LOOK_SECONDS)
                    continue
            if part.halted or not part.claimed or part.unsent == part.claimed:
                return
            if not part.fruitless:
                useful = elapsed()
            elif elapsed() - useful > AWAY_SECONDS:
                return

    with ThreadPoolExecutor(max(1, len(workers)), "drain") as pool:
        working = [pool.submit(work, worker) for worker in workers]
        try:
            for done in working:
                done.result()
        except BaseException:
            stopping.set()
            for worker in workers:
                worker.stop()
            raise
    return whole
