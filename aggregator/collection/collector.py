"""Collection: read a span of a meter, stage it, plan, commit. It never sees a sink.

Rules
- Live and backfill are the same code over different spans: a pass reads its span completely, so that what is not there is
  zero, and books the difference to what the ledger holds. Reading the same span again changes nothing.
- The source's transaction is over before the ledger's begins.
- What is due is computed from the ledger and `now`. A failed pass is recorded, and its span is due again.
- A window is first read once it has settled and the source's commit barrier has passed it, or kept it for too long.
- Every stretch of time is read by the definition that holds for it, in the windows of that definition.
- A window that changes again and again is read again at once. If that differs by the query's own doing, its corrections
  wait for a person.
- Each reading is judged by what its own transaction proves; what it has not proven to see is left for later.
- Where the source says which old windows were touched, it is asked before anything is read. What it cannot say holds up no
  new window: that is said once those are read.
- A span that takes the source too long is read in halves, down to single windows; a window that still does stays unread.
"""

import datetime as dt
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

from aggregator.collection import schedule, sight
from aggregator.collection.asking import Sampler, Source
from aggregator.collection.cursor_source import CursorSource
from aggregator.collection.revisits import Revisits
from aggregator.collection.rounds import Collected
from aggregator.collection.sight import Seen, Sight
from aggregator.core import commit_barrier, definitions, freshness, planner, windows
from aggregator.core.archive import closed
from aggregator.core.changed import Asked
from aggregator.core.feed_terms import report_lost, sealed
from aggregator.core.forecast import Forecast
from aggregator.core.freshness import Admission
from aggregator.core.model import (
    Change,
    Decision,
    Definition,
    Limits,
    Meter,
    Span,
    Swollen,
)
from aggregator.core.piece_size import PieceSizes, steps
from aggregator.core.tracing import NO_TRACING, Tracing
from aggregator.errors import (
    AggregatorError,
    InvariantBroken,
    LeaseLost,
    LedgerStopped,
    LedgerUnreachable,
    MonthClosed,
    QueryTimedOut,
    SourceError,
)
from aggregator.ledger.meters import Feed, Lease, Left, Meters, Registered
from aggregator.ledger.passes.passes import Decide, Pass, Passes
from aggregator.ledger.passes.spool import Spool
from aggregator.ledger.passes.stats import Tally
from aggregator.runtime import failpoints
from aggregator.runtime.redact import named, storable

TRACED = (
    "rows",
    "unmapped_rows",
    "changed",
    "planned",
    "corrections",
    "held",
    "refused",
    "shadow",
    "deferred",
)
"""What is told of a pass to whoever traces it."""

SIGN_OF_LIFE_SECONDS = 1.0
"""How often a long read renews its lease: often enough for the shortest lease, seldom enough to cost nothing."""


class Collector:
    """Collects one meter. `limits` holds what each of its sinks can take, `ledger_name` is part of every identifier.

    `check_clock` returns the ledger's present instant, if it knows it, and raises while this host's clock differs from that:
    it might take open windows for closed ones.
    `patience` is how long a window waits for transactions that are open in the source; zero: not at all.
    `tracing` is told of each pass. `by_cursor` is the source again, if its rows are to be taken in by a cursor first, and
    `sampler` takes the samples that `source` reads, of a meter that is sampled. `revisits` asks which windows were touched.
    `allowed` is how long the source may take over one query.
    """

    def __init__(
        self,
        registered: Registered,
        source: Source,
        meters: Meters,
        passes: Passes,
        *,
        ledger_name: Callable[[], str],
        limits: dict[str, Limits],
        elapsed: Callable[[], float],
        check_clock: Callable[[], dt.datetime | None] = lambda: None,
        patience: dt.timedelta = dt.timedelta(0),
        tracing: Tracing = NO_TRACING,
        by_cursor: CursorSource | None = None,
        sampler: Sampler | None = None,
        revisits: Revisits | None = None,
        allowed: dt.timedelta | None = None,
    ) -> None:
        self.meter: Meter = registered.meter
        self.registered = registered
        self.source = source
        self._meters = meters
        self._passes = passes
        self._ledger_name = ledger_name
        self.limits = limits
        self._elapsed = elapsed
        self._check_clock = check_clock
        self.patience = patience
        self._tracing = tracing
        self._by_cursor = by_cursor
        self._sampler = sampler
        self._revisits = revisits
        self.sizes = PieceSizes(allowed)
        self.seen: Seen | None = None
        """What the last round saw, if the next one may see just the same; `fresh` before this process has begun any."""
        self.fresh = True
        self._sight: Sight | None = None
        self._seen: Seen | None = None
        self._left: Left | None = None
        self._at_once: dict[str, bool] = {}
        self._unstable: frozenset[str] = frozenset()
        self._doubtful: frozenset[dt.datetime] = frozenset()
        self._stopping = False

    def stop(self) -> None:
        """Begin no new span, and give up a read that is under way: nothing of it is written."""
        self._stopping = True

    def run_once(self, now: dt.datetime) -> Collected:
        """Read all that became ready, and old windows again, and commit it span by span."""
        with self._round() as (lease, result):
            if lease is not None:
                self._read_due(lease, now, result)
                if self._sight is not None and not self._stopping:
                    self._seen = sight.seen(self.meter, self._sight, result)
        if self._seen is not None and self._left is not None:
            self.seen = self._seen.given_back(self._left)
        return result

    def backfill(self, span: Span, goal: Span, now: dt.datetime) -> Collected:
        """Read one piece of a backfill towards `goal`, and commit it. Raises MonthClosed where some of it is archived."""
        with self._round() as (lease, result):
            if lease is not None:
                if lease.archived_until is not None and span.start < lease.archived_until:
                    raise MonthClosed(closed(self.meter.name, lease.archived_until))
                now = self._present(now)
                if self._by_cursor is not None:
                    self._take_in(self._by_cursor, lease, result)
                    self._recount(self._by_cursor, lease, span, now, result)
                for definition, piece in definitions.pieces(lease.definitions, span):
                    this = Pass("backfill", piece, goal, now, definition, lease.swept)
                    self._pass(lease, this._replace(more=piece.end < goal.end), result)
        return result

    def resumed_at(self, goal: Span, known: Sequence[Definition], now: dt.datetime) -> dt.datetime | None:
        """Return how far a backfill of exactly this range by these definitions came that was interrupted just now."""
        return self._passes.resume_backfill(self.registered, goal, known, now)

    def _present(self, now: dt.datetime) -> dt.datetime:
        """Return what is the present by now, once the meter is held: a process may have stood still before that.

        Others may have read on meanwhile. Judged by an instant from before, a plan would seem older than what it rests on.
        """
        present = self._check_clock()
        return now if present is None else max(now, present)

    @contextmanager
    def _round(self) -> Iterator[tuple[Lease | None, Collected]]:
        """Hold the meter for a round, unless another process has it; give it back at the end."""
        self.fresh = False
        self.seen = self._sight = self._seen = self._left = None
        lease = self._meters.acquire(self.registered)
        failpoints.passing("lease_taken")
        if lease is not None:
            self._unstable = lease.unstable
            self._doubtful = (
                self._passes.doubtful_windows(self.registered) if lease.is_mapped else frozenset()
            )
        try:
            yield (
                lease,
                Collected(
                    self.meter.name,
                    lease.mark if lease else None,
                    took_from=lease.took_from if lease else None,
                    busy=lease is None,
                ),
            )
        finally:
            if lease:
                with suppress(LedgerUnreachable):  # then it runs out by itself
                    self._left = self._meters.release(lease, self._left_as())

    def _left_as(self) -> bytes | None:
        return self._seen.left_as if self._seen is not None else None

    def preview(
        self, span: Span, now: dt.datetime, tally: Tally, known: Sequence[Definition], forecast: Forecast
    ) -> Iterator[tuple[Feed, Decision]]:
        """Yield what a pass over the span by these definitions would decide; nothing is written.

        It is counted in `tally` and `forecast`, which may know of pieces before this one.
        """
        for held, piece in definitions.pieces(known, span):
            with self._spool() as spool:
                allow = self.admission(piece, held, now, known)
                for batch in self.source.read(
                    held.query, piece, held.window, dimensions=held.dimensions, allow=allow
                ):
                    spool.add(batch)
                if allow.is_cut:
                    tally.leave(allow.until, allow.reason)
                    piece = Span(piece.start, allow.until)  # noqa: PLW2901 - the rest is not looked at
                if piece.start == piece.end:
                    return
                tally.rows += spool.rows
                tally.unmapped_rows += spool.unmapped_rows
                tally.unmapped_quantity += spool.unmapped_quantity
                decide = self._decide(now, held, forecast)
                decided = self._passes.preview(self.registered, spool, piece, decide, known)
                for feed, decision in tally.counting_pairs(decided):
                    forecast.count(feed.sink, decision)
                    yield feed, decision

    def restate(self, span: Span, definition: Definition) -> bool:
        """Let another definition hold for a span that was read, and read it again by that; False if the meter is busy.

        What differs is booked by the next passes and by the caller's backfill of the span, like any correction.
        """
        with self._round() as (lease, _):
            if lease is not None:
                self._check_clock()
                self._meters.redefine(lease, definitions.restated(lease.definitions, span, definition))
        return lease is not None

    def _read_due(self, lease: Lease, now: dt.datetime, result: Collected) -> None:
        now = self._present(now)
        mark = lease.mark
        held = definitions.at(lease.definitions, mark)
        begins = schedule.live(Span(mark, mark), now, held)
        with (
            self._tracing.a_pass(self.meter.name, begins.kind, begins.span),
            self._noting_failure(lease, begins),
        ):
            if self._sampler is not None:
                with self._alive(lease):
                    self._sampler.sample(lease, now)
            first = schedule.earliest(self.meter, lease, now)
            lease = self._seal(lease, first, result)
            if self._by_cursor is not None:
                lease = self._take_in(self._by_cursor, lease, result)
            ready, lease = self._ready(lease, now, result)
            at_once = self._at_once.get(held.fingerprint)
            if at_once is None:
                with self._alive(lease):
                    at_once = self.at_once(held, Span(mark, mark))
        if at_once and self._by_cursor is None and self._sampler is None:
            self._sight = Sight(self.meter, lease)
        asked, unanswered = self._ask(lease, begins, result)
        coming = schedule.passes(self.meter, lease, now, first, ready, at_once=at_once, asked=asked)
        for this in coming:
            if self._stopping:
                return
            this = self._completing(this, asked, mark, result)  # noqa: PLW2901 - no more than is true by now
            self._pass(lease, this, result)
            if this.daily and asked is not None:
                self._count_missed(lease, this, asked, result)
        if unanswered is not None:
            raise unanswered
        silence = self._meters.silence(lease)
        result.silent_since, result.silent_anew = silence
        if self.meter.guards.unusual_zero:
            found = self._meters.silent_customers(lease)
            result.silent_customers, result.silent_customers_anew = found
        if self._by_cursor is not None and not self._stopping:
            self._recount_if_due(self._by_cursor, lease, now, result)

    def _completing(self, this: Pass, asked: Asked | None, mark: dt.datetime, result: Collected) -> Pass:
        """Return a pass with what it completes, now that others of its round have been read, and of what they left."""
        this = this._replace(rest_waits=result.oldest_deferred)
        if self._revisits is not None and asked is None:
            this = this._replace(hourly=False)
        if result.left_from is None:
            return this
        # What was left is read in a later round: what this one was to complete, it does not.
        daily = this.daily and mark - result.left_from <= windows.HOURLY and self._revisits is None
        return this._replace(hourly=False, daily=daily, rest_read=False, touched=None)

    def _ask(self, lease: Lease, begins: Pass, result: Collected) -> tuple[Asked | None, SourceError | None]:
        """Return what the source names as touched, if it is time to ask; or what went wrong, for later."""
        question = self.meter.changed
        if self._revisits is None or question is None:
            return None, None
        if not schedule.turn(self.meter, lease, begins.now).hourly:
            return None, None
        try:
            with self._noting_failure(lease, begins), self._alive(lease):
                asked = self._revisits.ask(question, lease, begins.now)
        except SourceError as error:
            return None, error
        if asked is not None:
            result.touched = len(asked.windows)
        return asked, None

    def _count_missed(self, lease: Lease, this: Pass, asked: Asked, result: Collected) -> None:
        """Count in which windows a full reading found something that was never named."""
        question = self.meter.changed
        assert self._revisits is not None
        assert question is not None
        until = schedule.read_anyway_from(self.meter, lease, this.now)
        with self._noting_failure(lease, this), self._alive(lease):
            found = self._revisits.beyond(question, lease, asked, result.differed, until)
        if found:
            self._passes.note_missed(lease, len(found), this.now)
            result.missed_by_changed, result.missed_from = len(found), min(found)

    def _take_in(self, source: CursorSource, lease: Lease, result: Collected) -> Lease:
        """Take in the rows that may be read by now; return the lease with what is to be read again for them."""
        with self._alive(lease) as lost:
            taken = source.take_in(lease, lambda: self._go_on(lost))
        result.taken = taken.rows
        since = min(filter(None, (lease.reread_from, taken.reread_from)), default=None)
        return lease._replace(reread_from=since)

    def _recount_if_due(
        self, source: CursorSource, lease: Lease, now: dt.datetime, result: Collected
    ) -> None:
        """Count windows anew once a day. What differs is planned by the next round."""
        span = source.recount_due(now)
        if span is None:
            return
        with self._noting_failure(lease, schedule.live(span, now, lease.definitions[-1])):
            self._recount(source, lease, span, now, result)
            source.recounted(lease, now)

    def _recount(
        self, source: CursorSource, lease: Lease, span: Span, now: dt.datetime, result: Collected
    ) -> None:
        with self._alive(lease) as lost:
            differs, _ = source.recount(lease, span, now, lambda: self._go_on(lost))
        result.missed += differs.missed
        result.taken_back += differs.taken_back

    def _seal(self, lease: Lease, first: dt.datetime, result: Collected) -> Lease:
        """Note, and tell once, which windows sinks lack that the source no longer has; return the lease as it is then."""
        coverages = [sealed(coverage, first) for coverage in lease.coverages]
        if coverages == list(lease.coverages):
            return lease
        for feed, before, coverage in zip(lease.registered.feeds, lease.coverages, coverages, strict=True):
            if coverage.lost is not None and coverage.lost != before.lost:
                result.lost.append(report_lost(self.meter.name, feed.sink, coverage.lost, coverage.until))
        return self._meters.seal(lease, coverages)

    def _ready(self, lease: Lease, now: dt.datetime, result: Collected) -> tuple[dt.datetime, Lease]:
        """Return up to when windows may be read for the first time; note what the barrier waits for, also in the lease."""
        known, mark = lease.definitions, lease.mark
        settled = definitions.ready_until(known, mark, now - self.meter.delay)
        fence = self.source.fence()
        if fence is None or not (self.patience or fence.must_prove):
            return settled, lease
        passed = freshness.passed(fence, known, mark, lease.noted, lease.seen_until)
        ready = commit_barrier.ready(now - self.meter.delay, passed, self.patience, bounded=not fence.standby)
        until = definitions.ready_until(known, mark, ready.until)
        fenced_until = definitions.ready_until(known, mark, ready.fenced_until)
        if fenced_until < settled:
            result.waits_for = passed.holder or "a transaction that has just ended"
        result.waits_anew = result.waits_for is not None and lease.waits_for is None
        result.unfenced = until > fenced_until and bool(self.patience)
        if passed.noted != lease.noted or result.waits_for != lease.waits_for or result.unfenced:
            self._meters.note(
                lease, passed.noted, waits_for=result.waits_for, given_up=result.unfenced, now=now
            )
        return until, lease._replace(noted=passed.noted)

    def at_once(self, definition: Definition, span: Span) -> bool:
        """Tell whether the query returns `window`, so that one query serves many windows; asked once."""
        known = self._at_once.get(definition.fingerprint)
        if known is None:
            known = self.source.columns(definition.query, span, definition.dimensions).returns_window
            self._at_once[definition.fingerprint] = known
        return known

    def _pass(self, lease: Lease, this: Pass, result: Collected) -> None:
        """Read a span and commit it, in the largest pieces that the source seems to have time for."""
        start, (_, end), held = this.span.start, this.span, this.definition
        while start < end:
            until = min(start + self.sizes.most(held.fingerprint) * held.window, end)
            piece = Span(start, until)
            self._piece(lease, this._replace(span=piece) if until == end else _part(this, piece), result)
            start = until

    def _piece(self, lease: Lease, this: Pass, result: Collected) -> None:
        """Read a piece and commit it; in halves, if it takes the source too long as a whole."""
        try:
            self._read(lease, this, result)
        except QueryTimedOut as error:
            span, window = this.span, this.definition.window
            if (count := windows.count(span, window)) > 1:
                self.sizes.took_too_long(this.definition.fingerprint, count)
                middle = windows.floor(span.start + (span.end - span.start) / 2, window)
                self._pass(lease, _part(this, Span(span.start, middle)), result)
                self._pass(lease, this._replace(span=Span(middle, span.end)), result)
            elif not self._read_split(lease, this, result):
                self._passes.set_unread(lease, this, str(error))
                result.unread += 1
                result.move(span)

    def _read_split(self, lease: Lease, this: Pass, result: Collected) -> bool:
        """Read one window in ever shorter pieces, if its query allows that; False if none is short enough."""
        for step in steps(this.definition.window, self.meter.split):
            with suppress(QueryTimedOut):
                self._read(lease, this, result, step)
                return True
        return False

    def _read(self, lease: Lease, this: Pass, result: Collected, step: dt.timedelta | None = None) -> None:
        definition = this.definition
        allow = self.admission(this.span, definition, this.now, lease.definitions, lease)
        since = self._sight.since if self._sight is not None else None
        with (
            self._tracing.a_pass(self.meter.name, this.kind, this.span) as trace,
            self._noting_failure(lease, this, but=QueryTimedOut),
            self._spool(since) as spool,
        ):
            began = self._elapsed()
            with self._alive(lease) as lost:
                for batch in self.source.read(
                    definition.query,
                    this.span,
                    definition.window,
                    dimensions=definition.dimensions,
                    step=step,
                    allow=allow,
                ):
                    failpoints.passing("reading_begun")
                    spool.add(batch)
                    self._go_on(lost)
            trace.read_seconds = took = self._elapsed() - began
            if step is None and self._at_once.get(definition.fingerprint, True):
                self.sizes.went_well(
                    definition.fingerprint, windows.count(this.span, definition.window), took
                )
            failpoints.passing("readings_taken")
            touched = result.shown(allow.seen, this.touched)
            this = this._replace(seen=allow.seen, read_seconds=took, touched=touched)
            if allow.is_cut:
                result.leave(allow.until, allow.reason)
                this = _shortened(this, lease, allow.until)
                trace.span = this.span
                if this.span.start == this.span.end:
                    trace.outcome = "nothing"
                    return
            tally = self._passes.commit(lease, spool, this, self._decide(this.now, definition))
            trace.outcome, trace.pass_id = "committed", tally.pass_id
            trace.figures = {name: getattr(tally, name) for name in TRACED}
        result.add(this.span, tally)
        if self._sight is not None:
            self._sight.took(spool, took)
        if tally.restless is not None and definition.fingerprint not in self._unstable:
            self._prove(lease, definition, tally.restless, result)

    def _spool(self, digest_from: dt.datetime | None = None) -> Spool:
        return Spool(digest_from, meter=self.meter.name, most_combinations=self.meter.max_combinations)

    def _prove(self, lease: Lease, definition: Definition, start: dt.datetime, result: Collected) -> None:
        """Find out whether a window that keeps changing does so by its query alone; what cannot be told now, can later."""
        window = Span(start, start + definition.window)
        with suppress(SourceError), self._alive(lease):
            differing = self.source.reread(definition.query, window, definition.window, definition.dimensions)
            if differing is not None:
                self._meters.note_unstable(lease, definition.fingerprint, start, differing)
                self._unstable |= {definition.fingerprint}
                result.unstable.append(
                    f"customer {differing.customer!r} had {differing.first:f} in {window}, and {differing.second:f} when it "
                    f"was read again {differing.how}"
                )

    def admission(
        self,
        span: Span,
        definition: Definition,
        now: dt.datetime,
        known: Sequence[Definition],
        lease: Lease | None = None,
    ) -> Admission:
        """Return what judges one reading; without a lease it is only looked at."""
        return Admission(
            span,
            definition.window,
            known=known,
            mark=lease.mark if lease else None,
            noted=lease.noted if lease else (),
            seen_until=lease.seen_until if lease else None,
            settled=now - self.meter.delay,
            patience=self.patience,
            now=now,
        )

    @contextmanager
    def _noting_failure(
        self, lease: Lease, this: Pass, but: type[AggregatorError] = LeaseLost
    ) -> Iterator[None]:
        """Record in the ledger, for `status` to show, that a pass failed and why; `but` is dealt with otherwise.

        That holds for what nobody foresaw, too: a meter that stands still for it says so.
        """
        began = self._elapsed()
        try:
            yield
        except (LeaseLost, LedgerUnreachable, LedgerStopped, InvariantBroken, but):
            raise
        except AggregatorError as error:
            self._passes.record_failure(lease, this, self._elapsed() - began, str(error))
            raise
        except Exception as error:
            with suppress(AggregatorError):  # the error itself is what counts
                self._passes.record_failure(lease, this, self._elapsed() - began, storable(named(error)))
            raise

    @contextmanager
    def _alive(self, lease: Lease) -> Iterator[threading.Event]:
        """Renew the lease meanwhile, on a thread of its own: nothing comes from a source while it works on a query.

        Without it two processes would take the meter from each other for ever, once a query lasts longer than the lease.
        What it yields is set when another process has the meter.
        """
        done, lost = threading.Event(), threading.Event()

        def renew() -> None:
            while not done.wait(SIGN_OF_LIFE_SECONDS):
                with suppress(LedgerUnreachable):
                    if not self._meters.renew(lease):
                        lost.set()
                        return

        thread = threading.Thread(target=renew, name=f"lease-{self.meter.name}", daemon=True)
        thread.start()
        try:
            yield lost
        finally:
            done.set()
            thread.join()

    def _go_on(self, lost: threading.Event) -> None:
        """Raise LeaseLost if a long read is of no use any more."""
        if self._stopping:
            raise LeaseLost(f"Told to stop in the middle of reading {self.meter.name}; nothing was written.")
        if lost.is_set():
            raise LeaseLost(
                f"Another process took meter {self.meter.name} during a long read; nothing was written."
            )

    def _decide(self, now: dt.datetime, definition: Definition, forecast: Forecast | None = None) -> Decide:
        def decide(
            feed: Feed, changes: Iterable[Change], *, guarded: bool, swollen: Mapping[dt.datetime, Swollen]
        ) -> Iterable[Decision]:
            coming = changes if forecast is None else forecast.carrying(feed.sink, changes)
            policy = planner.Policy(
                ledger=self._ledger_name(),
                sink=feed.sink,
                meter=self.registered.identity,
                window=definition.window,
                decimals=self.meter.decimals,
                decreases=self.meter.decreases,
                limits=self.limits[feed.sink],
                now=now,
                guarded=guarded,
                guards=self.meter.guards,
                swollen=swollen,
                shadow=feed.shadow,
                unstable=definition.fingerprint in self._unstable,
                doubts=self._sampler.doubts if self._sampler is not None else {},
                doubtful=self._doubtful,
            )
            return planner.plan(coming, policy)

        return decide


def _shortened(this: Pass, lease: Lease, until: dt.datetime) -> Pass:
    """Return a pass over the part of its span that could be read: it completes nothing of what it was to complete."""
    span = Span(this.span.start, until)
    return _part(this, span)._replace(swept=lease.swept, more=False)


def _part(this: Pass, span: Span) -> Pass:
    """Return a pass over a part of its span, which others follow: what it was to complete, the last of them does."""
    return this._replace(span=span, hourly=False, daily=False, rest_read=False, touched=None, more=True)
