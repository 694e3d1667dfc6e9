"""Bugs on purpose. Each is a small patch of the real core or shells, or of the ledger in memory where the rule lives in SQL.

The simulation must find every one of them within a bounded number of lives: what it cannot find, it does not prove.
"""

import datetime as dt
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from decimal import ROUND_CEILING, Context, Decimal
from typing import Any

from aggregator.adoption import adopter, comparison
from aggregator.core import (
    commit_barrier,
    definitions,
    planner,
    readbacks,
    rebase,
    retry,
    windows,
)
from aggregator.core.model import (
    ZERO,
    Answer,
    Change,
    ClaimId,
    Event,
    EventId,
    Limits,
    Outcome,
    Span,
    State,
    Tail,
    Verdict,
)
from aggregator.delivery import sender
from aggregator.delivery.sender import Sender
from aggregator.errors import AggregatorError, LedgerUnreachable, SinkError
from aggregator.ledger import identity
from aggregator.ledger.outbox.outbox import Claim
from aggregator.ledger.passes.stats import Tally
from aggregator.reconciliation import reconciler
from tests.simulation import memory, memory_adopting, memory_identity
from tests.simulation.gates import SourceGate
from tests.simulation.memory import MeterRow, OutboxRow
from tests.simulation.memory_adopting import MemoryAdopting
from tests.simulation.memory_in_doubt import MemoryInDoubt
from tests.simulation.memory_outbox import MemoryOutbox
from tests.simulation.memory_passes import MemoryPasses
from tests.simulation.mutation import mutant


def judging(answer: Answer, becomes: Callable[[Outcome, Event], Outcome]) -> list[tuple[object, str, object]]:
    """Let one answer mean something else."""
    real = retry.judge

    def judge(verdict: Verdict, event: Event, *rest: Any) -> Outcome:
        outcome = real(verdict, event, *rest)
        return becomes(outcome, event) if verdict.answer is answer else outcome

    return [(retry, "judge", judge)]


def deciding(change: Callable[[Any], Any]) -> list[tuple[object, str, object]]:
    """Let the planner decide otherwise."""
    real = planner.decide

    def decide(*values: Any, **named: Any) -> Any:
        return change(real(*values, **named))

    return [(planner, "decide", decide)]


# Identifiers and content.


@mutant("every attempt has an identifier of its own")
def new_identifier_per_attempt() -> list[tuple[object, str, object]]:
    real = memory.EventRow.as_event

    def as_event(self: memory.EventRow, *latest: dt.datetime | None) -> Event:
        event = real(self, *latest)
        return event._replace(identifier=f"{event.identifier[:40]}{event.attempts}")

    return [(memory.EventRow, "as_event", as_event)]


@mutant("revisions of a slot share an identifier")
def identifier_without_revision() -> list[tuple[object, str, object]]:
    real = planner.Identifiers.of
    return [
        (
            planner.Identifiers,
            "of",
            lambda self, customer, start, revision: real(self, customer, start, 0),
        )
    ]


@mutant("what waits to be sent is brought up to date with what is read meanwhile")
def recomputed_payload() -> list[tuple[object, str, object]]:
    real = MemoryPasses._write

    def write(self: MemoryPasses, feed: Any, decisions: Any, *rest: Any, **more: Any) -> None:
        real(self, feed, decisions, *rest, **more)
        for change, deferred, *_ in decisions:
            slot = self._ledger.tables.slots[feed.id].get(change.window_start, {}).get(change.customer)
            if deferred and slot is not None and slot.tail in self._ledger.tables.outbox:
                assert slot.tail is not None
                row, extra = self._ledger.tables.events[slot.tail], change.now - change.before
                extra -= extra % 1
                row.delta, row.total, slot.total = row.delta + extra, row.total + extra, slot.total + extra
                slot.quantity += extra

    return [(MemoryPasses, "_write", write)]


# Write ahead, and answers.


@mutant("an attempt is recorded after it was made")
def claim_after_send() -> list[tuple[object, str, object]]:
    claim_for_real, settle_for_real = MemoryOutbox.claim, MemoryOutbox.settle

    def claim(self: MemoryOutbox, sink_id: int, limit: int, now: dt.datetime, *rest: Any) -> Claim | None:
        claimed = claim_for_real(self, sink_id, limit, now, *rest)
        for event in claimed.events if claimed else ():
            row = self._ledger.tables.events[event.id]
            row.state, row.attempts, row.exposed_at = State.DUE, row.attempts - 1, event.exposed_at
            self._ledger.tables.outbox[event.id] = OutboxRow(sink_id, now)
        return claimed

    def settle(self: MemoryOutbox, claim: ClaimId, outcomes: Sequence[Outcome], now: dt.datetime) -> int:
        for outcome in outcomes:
            row = self._ledger.tables.outbox.get(outcome.event)
            if row is not None:
                row.claim_id = claim
                self._ledger.tables.events[outcome.event].state = State.SENDING
        return settle_for_real(self, claim, outcomes, now)

    return [(MemoryOutbox, "claim", claim), (MemoryOutbox, "settle", settle)]


@mutant("no answer counts as success")
def timeout_is_accepted() -> list[tuple[object, str, object]]:
    return judging(Answer.UNKNOWN, lambda outcome, _: outcome._replace(state=State.ACCEPTED))


@mutant("no answer counts as a refusal")
def timeout_is_refused() -> list[tuple[object, str, object]]:
    return judging(Answer.UNKNOWN, lambda outcome, _: outcome._replace(state=State.REFUSED))


@mutant("'I have this identifier already' counts as a failure")
def duplicate_is_refused() -> list[tuple[object, str, object]]:
    return judging(Answer.DUPLICATE, lambda outcome, _: outcome._replace(state=State.REFUSED))


@mutant("'I have this identifier already' is tried again")
def duplicate_is_tried_again() -> list[tuple[object, str, object]]:
    def again(outcome: Outcome, event: Event) -> Outcome:
        due_at = event.window_start + dt.timedelta(days=400)
        return outcome._replace(state=State.DUE, due_at=due_at)

    return judging(Answer.DUPLICATE, again)


@mutant("a refusal after a lost answer settles the matter")
def refused_though_exposed() -> list[tuple[object, str, object]]:
    return judging(Answer.REFUSED, lambda outcome, _: outcome._replace(state=State.REFUSED))


@mutant("busy counts as a refusal that stays")
def busy_is_accepted() -> list[tuple[object, str, object]]:
    return judging(Answer.BUSY, lambda outcome, _: outcome._replace(state=State.ACCEPTED))


@mutant("a lost answer leaves no trace")
def exposure_forgotten() -> list[tuple[object, str, object]]:
    return judging(Answer.UNKNOWN, lambda outcome, _: outcome._replace(exposed_at=None))


@mutant("an event is sent again however long ago it first was")
def resend_after_25_hours() -> list[tuple[object, str, object]]:
    real = retry.before_sending

    def before_sending(event: Event, now: dt.datetime, limits: Limits, *rest: Any) -> Outcome | None:
        return real(event, now, replace(limits, memory=dt.timedelta(days=40)), *rest)

    return [(retry, "before_sending", before_sending)]


@mutant("a claim that was renewed too late lets the rest leave")
def renewed_too_late() -> list[tuple[object, str, object]]:
    real = Sender._settle

    def settle(self: Sender, hold: Any, outcomes: Any, now: Any, result: Any) -> None:
        stale = result.stale
        real(self, hold, outcomes, now, result)
        if outcomes and result.stale == stale:
            hold.until = self._elapsed() + hold.claim.leave_seconds

    return [(Sender, "_settle", settle)]


# Claims.


@mutant("what a dead process had claimed is forgotten")
def claim_forgotten_after_a_crash() -> list[tuple[object, str, object]]:
    real = MemoryOutbox.claim

    def claim(self: MemoryOutbox, sink_id: int, limit: int, now: dt.datetime, *rest: Any) -> Claim | None:
        outbox = self._ledger.tables.outbox
        taken = {event: row for event, row in outbox.items() if row.claim_id is not None}
        for event in taken:
            del outbox[event]
        claimed = real(self, sink_id, limit, now, *rest)
        outbox.update(taken)
        return claimed

    return [(MemoryOutbox, "claim", claim)]


@mutant("whoever comes late settles all the same")
def settle_without_compare_and_set() -> list[tuple[object, str, object]]:
    def is_mine(self: MemoryOutbox, event: EventId, claim: ClaimId) -> bool:
        row = self._ledger.tables.outbox.get(event)
        if row is None:
            row = self._ledger.tables.outbox[event] = OutboxRow(1, self._ledger.clock(), claim)
            self._ledger.tables.parked.pop(event, None)
        return True

    return [(MemoryOutbox, "_is_mine", is_mine)]


# Passes.


@mutant("a pass commits without comparing the epoch")
def commit_without_epoch() -> list[tuple[object, str, object]]:
    def held(self: MemoryPasses, lease: Any) -> MeterRow:
        return self._ledger.tables.meters[lease.registered.id]

    return [(MemoryPasses, "_held", held)]


@mutant("a slot with an unsettled event is planned for")
def stale_plan() -> list[tuple[object, str, object]]:
    real = planner.decide

    def decide(change: Change, *rest: Any) -> Any:
        return real(change._replace(tail=Tail.CLEAR) if change.tail is Tail.UNSETTLED else change, *rest)

    return [(planner, "decide", decide)]


@mutant("changes that wait are not read again")
def deferred_and_forgotten() -> list[tuple[object, str, object]]:
    real = MemoryPasses._move_mark

    def move_mark(self: MemoryPasses, meter: MeterRow, lease: Any, this: Any, *, moves: bool) -> None:
        real(self, meter, lease, this, moves=moves)
        meter.reread_from = None

    return [(MemoryPasses, "_move_mark", move_mark)]


@mutant("the mark goes a window further than what was read")
def mark_jumps_a_gap() -> list[tuple[object, str, object]]:
    real = MemoryPasses._move_mark

    def move_mark(self: MemoryPasses, meter: MeterRow, lease: Any, this: Any, *, moves: bool) -> None:
        before = meter.mark
        real(self, meter, lease, this, moves=moves)
        if meter.mark > before:
            meter.mark += this.definition.window

    return [(MemoryPasses, "_move_mark", move_mark)]


@mutant("the mark is committed before the events")
def mark_before_events() -> list[tuple[object, str, object]]:
    real = MemoryPasses.commit

    def commit(
        self: MemoryPasses, lease: Any, spool: Any, this: Any, decide: Any, *rest: Any, **named: Any
    ) -> Tally:
        meter = self._held(lease)
        if this.span.start <= meter.mark < this.span.end:
            meter.mark = this.span.end
            if lease.epoch % 7 == 0:
                raise LedgerUnreachable
        return real(self, lease, spool, this, decide, *rest, **named)

    return [(MemoryPasses, "commit", commit)]


@mutant("a parked event that a newer plan replaces stays")
def parked_not_voided() -> list[tuple[object, str, object]]:
    return [(MemoryPasses, "_void", lambda self, events, now: None)]


@mutant("a read that failed halfway is committed")
def partial_read_committed() -> list[tuple[object, str, object]]:
    real = SourceGate.read

    def read(self: SourceGate, query: str, span: Span, window: dt.timedelta, **named: Any) -> Iterator[Any]:
        try:
            yield from real(self, query, span, window, **named)
        except AggregatorError:
            return

    return [(SourceGate, "read", read)]


@mutant("old windows are never read again")
def no_revisit() -> list[tuple[object, str, object]]:
    real = windows.lookback

    def lookback(**named: Any) -> Any:
        return real(**named)._replace(near=named["mark"], deep=named["mark"])

    return [(windows, "lookback", lookback)]


@mutant("the sweep through old windows follows the mark and never begins anew")
def sweep_follows_the_mark() -> list[tuple[object, str, object]]:
    real = windows.reads

    def reads(**named: Any) -> Any:
        found = real(**named)
        return found._replace(swept=found.spans[0].end) if len(found.spans) > 1 else found

    return [(windows, "reads", reads)]


@mutant("windows are read without waiting for transactions that are open")
def barrier_ignored() -> list[tuple[object, str, object]]:
    def ready(settled: dt.datetime, passed: Any, patience: Any, *, bounded: bool) -> commit_barrier.Ready:
        return commit_barrier.Ready(settled, settled)

    return [(commit_barrier, "ready", ready)]


@mutant("the barrier counts only transactions that have ended, not those that have begun since")
def barrier_notes_too_little() -> list[tuple[object, str, object]]:
    real = commit_barrier.judge

    def judge(fence: Any, noted: Any, boundary: Any) -> Any:
        return real(fence._replace(xmax=fence.xmin, oldest_start=None), noted, boundary)

    return [(commit_barrier, "judge", judge)]


# What the sink reports, and what it counts.


@mutant("what a sink rejects after it had accepted it is ignored")
def rejection_ignored() -> list[tuple[object, str, object]]:
    return [(MemoryInDoubt, "take_report", lambda self, sink_id, report, now, proof: ([], False))]


@mutant("a report that names nothing is not followed up")
def unnamed_report_ignored() -> list[tuple[object, str, object]]:
    def take_report(self: MemoryInDoubt, sink_id: int, report: Any, now: Any, proof: Any) -> Any:
        return self._reject(sink_id, report.named, now), False

    return [(MemoryInDoubt, "take_report", take_report)]


@mutant("an answer that comes late overrides a rejection")
def late_answer_overrides_a_rejection() -> list[tuple[object, str, object]]:
    def is_mine(self: MemoryOutbox, event: EventId, claim: ClaimId) -> bool:
        tables = self._ledger.tables
        row = tables.events[event]
        if row.state is State.REFUSED and event in tables.parked and tables.parked[event].was_accepted:
            del tables.parked[event]
            row.state = State.SENDING
            tables.outbox[event] = OutboxRow(row.sink_id, self._ledger.clock(), claim)
        held = tables.outbox.get(event)
        return held is not None and held.claim_id == claim

    return [(MemoryOutbox, "_is_mine", is_mine)]


@mutant("a place that could not be looked at is left out of the read-back")
def readback_loses_a_place() -> list[tuple[object, str, object]]:
    real = reconciler.Reconciler._look

    def look(self: Any, *values: Any) -> None:
        with suppress(LedgerUnreachable, SinkError):
            real(self, *values)

    return [(reconciler.Reconciler, "_look", look)]


@mutant("what is in doubt counts as absent without asking")
def doubt_is_absence() -> list[tuple[object, str, object]]:
    def decide(in_span: Any, figure: Decimal) -> Any:
        return [
            readbacks.Conclusion(event.id, readbacks.Finding.ABSENT, "as we hope") for event in in_span.asked
        ]

    return [(readbacks, "decide", decide)]


# Arithmetic and instants.


@mutant("the rest of a division is dropped")
def carry_dropped() -> list[tuple[object, str, object]]:
    return deciding(lambda decision: decision._replace(carry=ZERO))


@mutant("every slot of a customer takes the same carry")
def carry_spent_twice() -> list[tuple[object, str, object]]:
    real = planner.decide

    def decide(change: Change, carry: Decimal, *rest: Any) -> Any:
        return real(change, change.carry, *rest)

    return [(planner, "decide", decide)]


@mutant("parts of a unit are rounded up")
def rounded_up() -> list[tuple[object, str, object]]:
    up = Context(prec=200, rounding=ROUND_CEILING)
    return [(planner, "floor", up.quantize)]


@mutant("decreases are left out")
def decreases_never_planned() -> list[tuple[object, str, object]]:
    def leave_out(decision: Any) -> Any:
        event = decision.event
        return decision._replace(event=None) if event is not None and event.delta < 0 else decision

    return deciding(leave_out)


@mutant("decreases are taken off twice")
def decreases_doubled() -> list[tuple[object, str, object]]:
    def twice(decision: Any) -> Any:
        event = decision.event
        if event is None or event.delta > 0:
            return decision
        total = event.total + event.delta
        return decision._replace(total=total, event=event._replace(delta=2 * event.delta, total=total))

    return deciding(twice)


@mutant("an event is stamped with its window's end")
def window_end_as_instant() -> list[tuple[object, str, object]]:
    return [(planner, "stamp", lambda start, window, *_, **__: start + window)]


@mutant("a window is read before it has ended")
def open_window_read() -> list[tuple[object, str, object]]:
    real = definitions.ready_until

    def ready_until(known: Any, mark: dt.datetime, limit: dt.datetime) -> dt.datetime:
        return real(known, mark, limit + known[-1].window)

    return [(definitions, "ready_until", ready_until)]


@mutant("whatever a claim holds may leave, however long ago it was taken")
def may_always_leave() -> list[tuple[object, str, object]]:
    class Forever(sender._Hold):
        @property
        def until(self) -> float:
            return float("inf")

        @until.setter
        def until(self, value: float) -> None:
            pass

    return [(sender, "_Hold", Forever)]


# A ledger that is set back.


@mutant("nobody compares how many claims were counted")
def beat_not_compared() -> list[tuple[object, str, object]]:
    return [(identity, "_mismatch", lambda *_, **__: None)]


@mutant("an adopted ledger goes on under the names of before")
def generation_not_raised() -> list[tuple[object, str, object]]:
    def named(ledger_id: str, generation: int) -> str:
        return ledger_id

    return [(memory_identity, "named", named), (adopter, "named", named)]


@mutant("a ledger is adopted while requests may still be on their way")
def adopted_at_once() -> list[tuple[object, str, object]]:
    real = adopter.Adopter.situation

    def situation(self: adopter.Adopter, now: dt.datetime) -> adopter.Situation:
        found = real(self, now)
        return found._replace(quiet_until=found.pinned.stopped_at)

    return [(adopter.Adopter, "situation", situation)]


@mutant("what is not settled stays owed when a ledger is adopted")
def unsettled_not_withdrawn() -> list[tuple[object, str, object]]:
    return [(MemoryAdopting, "_withdraw", lambda self, line, left, now: None)]


@mutant("an adoption takes the ledger's word for what the sink has")
def sink_not_believed() -> list[tuple[object, str, object]]:
    real = comparison.Comparison.compare

    def compare(self: comparison.Comparison, *values: Any) -> Iterator[Any]:
        for found in real(self, *values):
            yield found._replace(comparison=found.comparison._replace(counted=found.comparison.booked))

    return [(comparison.Comparison, "compare", compare)]


@mutant("an adopted ledger does not read again what it was re-based on")
def not_read_again() -> list[tuple[object, str, object]]:
    return [(MemoryAdopting, "_read_again", lambda self, line: None)]


@mutant("the parts of a unit that are owed are forgotten when a ledger is adopted")
def carry_lost_in_an_adoption() -> list[tuple[object, str, object]]:
    real = rebase.rebase

    def rebased(*values: Any) -> Any:
        found = real(*values)
        return None if found is None else (found[0], ZERO)

    return [(memory_adopting, "rebase", rebased)]
