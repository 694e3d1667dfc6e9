"""Collection: read a span of a meter, stage it, plan, commit. It never sees a sink.

Rules
- Live and backfill are the same code over different spans: a pass reads its span completely, so that what is not there is
  zero, and books the difference to what the ledger holds. Reading the same span again changes nothing.
- The source's transaction is over before the ledger's begins.
- What is due is computed from the ledger and `now`. A failed pass is recorded, and its span is due again.
"""

import datetime as dt
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Protocol

from aggregator import planner, windows
from aggregator.errors import AggregatorError, InvariantBroken, LeaseLost, LedgerError, LedgerUnreachable
from aggregator.ledger.meters import Feed, Lease, Meters, Registered
from aggregator.ledger.passes import Pass, Passes
from aggregator.ledger.spool import Spool
from aggregator.ledger.tally import Tally
from aggregator.model import Change, Decision, Limits, Meter, Reading, Span

SIGN_OF_LIFE_SECONDS = 1.0
"""How often a long read renews its lease: often enough for the shortest lease, seldom enough to cost nothing."""


class Shape(Protocol):
    """What columns a query gives."""

    @property
    def returns_window(self) -> bool: ...  # noqa: D102


class Source(Protocol):
    """What collection asks of an application database."""

    def read(self, query: str, span: Span, window: dt.timedelta) -> Iterator[list[Reading]]:
        """Yield all readings of the span in batches, from one snapshot."""
        ...

    def columns(self, query: str, span: Span) -> Shape:
        """Try the query and say what it gives."""
        ...


@dataclass(slots=True)
class Collected:
    """What one round of collection did for one meter."""

    meter: str
    mark: dt.datetime | None = None
    spans: int = 0
    rows: int = 0
    changed: int = 0
    planned: int = 0
    corrections: int = 0
    held: int = 0
    refused: int = 0
    deferred: int = 0
    aside: int = 0
    """Rows that can be billed to nobody."""
    moved: bool = False
    """The mark moved."""
    busy: bool = False
    """Another process has the meter."""

    def figures(self) -> dict[str, object]:
        """Return what is worth a line in the log."""
        return {
            "meter": self.meter,
            "mark": self.mark.isoformat() if self.mark else None,
            "rows": self.rows,
            "changed": self.changed,
            "planned": self.planned,
            **{name: count for name in ("held", "refused", "deferred") if (count := getattr(self, name))},
        }

    def add(self, span: Span, tally: Tally) -> None:
        """Take one committed pass into account."""
        self.spans += 1
        self.rows += tally.rows
        self.changed += tally.changed
        self.planned += tally.planned
        self.corrections += tally.corrections
        self.held += tally.held
        self.refused += tally.refused
        self.deferred += tally.deferred
        self.aside += tally.aside
        if self.mark is not None and span.start <= self.mark < span.end:
            self.mark = span.end
            self.moved = True


class Collection:
    """Collects one meter. `limits` holds what each of its sinks can take."""

    def __init__(
        self,
        registered: Registered,
        source: Source,
        meters: Meters,
        passes: Passes,
        *,
        ledger_id: str,
        limits: dict[str, Limits],
        elapsed: Callable[[], float],
        skew: dt.timedelta | None = None,
    ) -> None:
        self.meter: Meter = registered.meter
        self._registered = registered
        self._source = source
        self._meters = meters
        self._passes = passes
        self._ledger_id = ledger_id
        self._limits = limits
        self._elapsed = elapsed
        self._skew = skew
        self._at_once: bool | None = None
        self._stopping = False

    def stop(self) -> None:
        """Begin no new span, and give up a read that is under way: nothing of it is written."""
        self._stopping = True

    def run_once(self, now: dt.datetime) -> Collected:
        """Read all that became ready, and old windows again, and commit it span by span."""
        with self._round() as (lease, result):
            if lease is not None:
                self._read_due(lease, now, result)
        return result

    def backfill(self, span: Span, goal: Span, now: dt.datetime) -> Collected:
        """Read one piece of a backfill towards `goal`, and commit it."""
        with self._round() as (lease, result):
            if lease is not None:
                self._check_clock(lease, now)
                self._pass(lease, Pass("backfill", span, goal, now, lease.swept), result)
        return result

    @contextmanager
    def _round(self) -> Iterator[tuple[Lease | None, Collected]]:
        """Hold the meter for a round, unless another process has it; give it back at the end."""
        lease = self._meters.acquire(self._registered)
        try:
            yield lease, Collected(self.meter.name, lease.mark if lease else None, busy=lease is None)
        finally:
            if lease:
                with suppress(LedgerUnreachable):  # then it runs out by itself
                    self._meters.release(lease)

    def preview(self, span: Span, now: dt.datetime, tally: Tally) -> Iterator[tuple[Feed, Decision]]:
        """Yield what a pass over the span would decide, counted in `tally`; nothing is written."""
        with Spool() as spool:
            for batch in self._source.read(self.meter.query, span, self.meter.window):
                spool.add(batch)
            tally.rows += spool.rows
            tally.aside += spool.aside
            decided = self._passes.preview(self._registered, spool, span, self._decide(now))
            yield from tally.counting_pairs(decided)

    def at_once(self, span: Span) -> bool:
        """Tell whether the query returns `window`, so that one query serves many windows; asked once."""
        if self._at_once is None:
            self._at_once = self._source.columns(self.meter.query, span).returns_window
        return self._at_once

    def _due(self, lease: Lease, now: dt.datetime) -> Iterator[tuple[Span, dt.datetime | None]]:
        """Yield the spans this round is to read, cut to what one transaction takes."""
        meter = self.meter
        self._check_clock(lease, now)
        ready = windows.settled_until(now, meter.settle, meter.window)
        horizon = max(meter.start_at, windows.floor(lease.mark - meter.revisit, meter.window))
        horizon = min(horizon, lease.fed_until, lease.reread_from or horizon)
        horizon = max(horizon, meter.start_at)
        probe = Span(lease.mark, lease.mark + meter.window)
        with self._noting_failure(lease, Pass("live", probe, probe, now)), self._alive(lease):
            at_once = self.at_once(probe)
        plan = windows.reads(
            mark=lease.mark,
            ready=ready,
            horizon=horizon,
            length=meter.window,
            at_once=at_once,
            swept=lease.swept,
        )
        for whole in plan.spans:
            for span in windows.cut(whole, meter.window, windows.WINDOWS_PER_READ):
                yield span, plan.swept

    def _read_due(self, lease: Lease, now: dt.datetime, result: Collected) -> None:
        for span, swept in self._due(lease, now):
            if self._stopping:
                return
            self._pass(lease, Pass("live", span, span, now, swept), result)

    def _check_clock(self, lease: Lease, now: dt.datetime) -> None:
        """Raise LedgerError if this host's clock is far from the ledger's: it would read windows that are still open."""
        apart = abs(lease.given_at - now)
        if self._skew is not None and apart > self._skew:
            raise LedgerError(
                f"The clocks of this host and of the ledger are {apart.total_seconds():.0f} s apart; nothing of "
                f"{self.meter.name} was read. Set the clock right (NTP)."
            )

    def _pass(self, lease: Lease, this: Pass, result: Collected) -> None:
        with self._noting_failure(lease, this), Spool() as spool:
            with self._alive(lease) as lost:
                for batch in self._source.read(self.meter.query, this.span, self.meter.window):
                    spool.add(batch)
                    self._go_on(lost)
            tally = self._passes.commit(lease, spool, this, self._decide(this.now))
        result.add(this.span, tally)

    @contextmanager
    def _noting_failure(self, lease: Lease, this: Pass) -> Iterator[None]:
        """Record in the ledger, for `status` to show, that a pass failed and why."""
        began = self._elapsed()
        try:
            yield
        except (LeaseLost, LedgerUnreachable, InvariantBroken):
            raise
        except AggregatorError as error:
            self._passes.record_failure(lease, this, self._elapsed() - began, str(error))
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

    def _decide(self, now: dt.datetime) -> Callable[[Feed, Iterable[Change]], Iterable[Decision]]:
        def decide(feed: Feed, changes: Iterable[Change]) -> Iterable[Decision]:
            return planner.plan(changes, self._policy(feed.sink, now))

        return decide

    def _policy(self, sink: str, now: dt.datetime) -> planner.Policy:
        return planner.Policy(
            ledger=self._ledger_id,
            sink=sink,
            meter=self.meter.name,
            window=self.meter.window,
            decimals=self.meter.decimals,
            decreases=self.meter.decreases,
            limits=self._limits[sink],
            now=now,
        )
