"""Filing: delivery to a sink that writes files. Claim a file's events as a whole, write it, settle it as a whole.

Rules
- Which events a file holds is committed before a byte of it is written; no ledger transaction is open while it is written.
- A file that was begun belongs to its place for ever. So none is begun where none can be: a misspelt place would keep what
  was begun for it.
- What somebody began and left is taken over, whole, before anything new is begun: the same events make the same file.
- Whether a member may be written is judged as of when the file was claimed. What may not is settled by name, and the rest
  goes on; whoever takes the file over judges the same.
- A file is closed once it is full, or once what waits for it has waited long enough. Whoever runs once closes at once.
"""

import datetime as dt
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress

from aggregator.core import retry
from aggregator.core.model import Event, Outcome, Span, State
from aggregator.core.tracing import NO_TRACING, ClaimTrace, Tracing
from aggregator.core.windows import is_ahead
from aggregator.delivery.sender import Delivered
from aggregator.errors import SinkError, SinkHalted, SinkUnreachable
from aggregator.ledger.outbox.files import Due, FileClaim, Files
from aggregator.ledger.outbox.outbox import Outbox
from aggregator.runtime.clock import Clock, boottime
from aggregator.sinks.protocol import Batch, FileSink

LOOKS = 10
"""How often it is looked whether a file is to be closed, while the oldest of its events waits."""

SOONEST, LATEST = dt.timedelta(seconds=1), dt.timedelta(minutes=1)
"""Between two looks: a look reads the sink's outbox."""

LEAST_BYTES = 20
"""What a record surely has besides what is around it: a customer and a digit."""

RENEW_AFTER = 1 / 3
"""A claim is renewed once so much of its time is over."""


class FileWriter:
    """Writes the files of one sink. Several may run beside each other: a file belongs to one of them.

    With `at_once`, whatever is due is written, however little and young. With `only`, that much of it: a meter, and a range.
    `tracing` is told of each file that is claimed.
    """

    def __init__(
        self,
        files: Files,
        outbox: Outbox,
        sink: FileSink,
        sink_id: int,
        clock: Clock,
        *,
        at_once: bool = False,
        only: tuple[str, Span] | None = None,
        elapsed: Callable[[], float] = boottime,
        tracing: Tracing = NO_TRACING,
    ) -> None:
        self._files = files
        self._outbox = outbox
        self._tracing = tracing
        self._sink = sink
        self._sink_id = sink_id
        self._clock = clock
        self._meter = only[0] if only else None
        self._span = only[1] if only else None
        self._bounds = sink.bounds._replace(wait=dt.timedelta(0)) if at_once or only else sink.bounds
        self._pause = min(max(self._bounds.wait / LOOKS, SOONEST), LATEST) if self._bounds.wait else None
        self._elapsed = elapsed
        self._look_at: dt.datetime | None = None
        self._turn = 0
        self._known_to_take = False

    def run_once(self, now: dt.datetime) -> Delivered:
        """Write one file, if one was left or is to be closed by `now`."""
        with self._tracing.a_claim(self._sink.name) as trace:
            result = self._run(now, trace)
            result.report(trace)
        return result

    def _run(self, now: dt.datetime, trace: ClaimTrace) -> Delivered:
        result = Delivered()
        try:
            claim = self._files.take_over(self._sink_id, self._sink.place, now) or self._close(now)
        except SinkHalted as halted:
            result.halted = str(halted)
            self._note_halted(result.halted)
            return result
        if claim is not None:
            result.claimed = claim.events
            trace.claim, trace.planned_by = claim.id, lambda: self._outbox.planned_by(claim.id)
            _Writing(self._files, self._sink, claim, self._clock, self._elapsed, result).work(
                self._note_halted
            )
        return result

    def stop(self) -> None:
        """Let nothing more get its name: what is being made is left to whoever comes next."""
        self._sink.stop()

    def _close(self, now: dt.datetime) -> FileClaim | None:
        """Claim the next file that is to be closed. Looks from time to time, not whenever it is asked.

        Meters with files of their own take turns: a long backfill of one does not keep the others waiting.

        Raises SinkHalted if no file can be made at the place, as far as it says; then nothing is claimed.
        """
        if (
            self._pause is not None
            and self._look_at is not None
            and is_ahead(self._look_at, now, self._pause)
        ):
            return None
        due = {each.meter: each for each in self._files.due(self._sink_id, now)}
        bundles = self._sink.bundles()
        for turn in range(self._turn, self._turn + len(bundles)):
            bundle = bundles[turn % len(bundles)]
            waiting = [due[meter] for meter in bundle if meter in due and self._meter in (None, meter)]
            if waiting and self._is_closed(waiting, bundle, now):
                if not self._known_to_take:
                    with suppress(SinkUnreachable):  # it may be there by the time the file is written
                        self._sink.preflight(bundle)
                around = {each.feed: bundle[each.meter] for each in waiting}
                claim = self._files.claim_whole(
                    self._sink_id,
                    self._sink.place,
                    around,
                    self._bounds,
                    now,
                    by_hand=self._sink.by_hand,
                    span=self._span,
                )
                if claim is not None:
                    self._turn = (turn + 1) % len(bundles)
                    return claim
        self._look_at = now + self._pause if self._pause is not None else None
        return None

    def _is_closed(self, waiting: Sequence[Due], bundle: Mapping[str, int], now: dt.datetime) -> bool:
        return (
            min(each.oldest for each in waiting) + self._bounds.wait <= now
            or sum(each.events for each in waiting) >= self._bounds.records
            or sum(each.events * (bundle[each.meter] + LEAST_BYTES) for each in waiting) >= self._bounds.bytes
        )

    def _note_halted(self, halted: str | None) -> None:
        """Note that the sink refuses us as a whole, or takes files (again)."""
        if halted is not None:
            self._outbox.halt(self._sink_id, halted, self._clock())
        elif not self._known_to_take:
            self._outbox.resume(self._sink_id)
        self._known_to_take = halted is None


class _Writing:
    """One claim on its way to being a file."""

    def __init__(
        self,
        files: Files,
        sink: FileSink,
        claim: FileClaim,
        clock: Clock,
        elapsed: Callable[[], float],
        result: Delivered,
    ) -> None:
        self._files = files
        self._sink = sink
        self._claim = claim
        self._clock = clock
        self._elapsed = elapsed
        self._result = result
        self._renewed = elapsed()
        self._fitting = 0
        self._unfit = 0
        self._all_seen = False

    def work(self, note_halted: Callable[[str | None], None]) -> None:
        """Write the file, and settle it or leave it."""
        try:
            written = self._sink.write(Batch(self._members(), self._claim.tries > 1), self._may_go_on)
        except SinkHalted as halted:
            self._result.halted = str(halted)
            self._leave(str(halted))
            note_halted(self._result.halted)
        except (SinkUnreachable, SinkError) as error:
            self._result.again += self._claim.events - self._unfit
            self._result.waits_for = str(error)
            self._leave(str(error))
        else:
            if written is None and (self._fitting or not self._all_seen):
                self._result.unsent += self._claim.events - self._unfit
                self._files.put_off(self._claim, self._clock(), None)
                return
            accepted = self._files.settle(self._claim, written, self._clock())
            self._result.accepted += accepted
            if written is not None and accepted:
                self._result.files.append(written)
                note_halted(None)
            self._result.stale += self._fitting - accepted

    def _leave(self, reason: str) -> None:
        """Leave the file to a later try."""
        wait = retry.backoff_seconds(self._claim.tries, str(self._claim.id))
        self._files.put_off(self._claim, self._clock() + dt.timedelta(seconds=wait), reason)

    def _may_go_on(self) -> bool:
        """Renew the claim as time passes; False once it is somebody else's."""
        now = self._elapsed()
        if now - self._renewed < self._files.hold.total_seconds() * RENEW_AFTER:
            return True
        self._renewed = now
        return self._files.renew(self._claim, self._clock())

    def _members(self) -> Iterator[Event]:
        """Yield the events that may be written; what may not is settled, page by page."""
        for page in self._files.members(self._claim):
            unfit = []
            for event in page:
                outcome = self._outcome(event)
                if outcome is None:
                    self._fitting += 1
                    yield event
                else:
                    unfit.append(outcome)
            if unfit:
                self._unfit += len(unfit)
                if self._files.settle_unfit(self._claim, unfit, self._clock()):
                    for outcome in unfit:
                        self._result.count(outcome, None)
        self._all_seen = True

    def _outcome(self, event: Event) -> Outcome | None:
        """Judge an event as of when its file was claimed: whoever takes the file over comes to the same."""
        reason = self._sink.misfit(event)
        if reason is not None:
            return Outcome(event.id, State.REFUSED, reason=reason, counts=False)
        return retry.before_sending(event, self._claim.claimed_at, self._sink.limits_for(event.meter))
