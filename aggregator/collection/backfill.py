"""Backfill: the live code over a range of one's own choosing, in pieces, as often as one likes.

Rules
- A range is read completely and compared with the ledger, so what is billed already is not billed again: a backfill run
  three times has the effect of one, and over a range that live has covered it has none.
- Each piece commits by itself. An interrupted backfill of the same range goes on where it stopped.
- A range that cannot be billed is refused before anything is read, with the reason.
"""

import datetime as dt
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields

from aggregator.collection.collector import Collector
from aggregator.collection.rounds import Collected
from aggregator.core import definitions, windows
from aggregator.core.forecast import Forecast
from aggregator.core.model import Definition, Limits, Meter, Span
from aggregator.errors import UsageError
from aggregator.ledger.passes.stats import PassCounts, Tally

PIECES = 40
"""A backfill begins with about so small a part, and goes on with larger ones as long as the source has time for them."""


@dataclass(slots=True)
class Backfilled(PassCounts):
    """What a backfill came to, or would come to. From `left_from` on, if it has one, nothing was read."""

    meter: str
    span: Span
    resumed_at: dt.datetime | None = None
    windows: int = 0
    unchanged: int = 0
    """Events of the range that the ledger had before."""
    new: int = 0
    forecast: Forecast = field(default_factory=Forecast)
    """Whom it would move, if it is only looked at."""

    def figures(self) -> dict[str, object]:
        """Return all but the forecast, for programs."""
        counts = [each.name for each in fields(self) if each.name not in ("more", "forecast")]
        return {name: getattr(self, name) for name in counts} | {"span": list(self.span)}

    def add(self, piece: Collected | Tally) -> None:
        """Take one piece into account, be it committed or only looked at."""
        self.add_counts(piece)
        self.new += piece.planned - piece.corrections
        if piece.left_from is not None:
            self.leave(piece.left_from, piece.left_why)


def refuse_parts_of_windows(meter: str, known: Sequence[Definition], span: Span) -> None:
    """Raise UsageError if a range does not begin and end where windows do."""
    for name, instant in (("--from", span.start), ("--to", span.end)):
        length = definitions.at(known, instant).window
        if not windows.is_boundary(instant, length):
            near = windows.floor(instant, length)
            raise UsageError(
                f"{name} {instant:%Y-%m-%dT%H:%M:%SZ} is not a window boundary of {meter}; "
                f"use {near:%Y-%m-%dT%H:%MZ} or {near + length:%Y-%m-%dT%H:%MZ}."
            )


def refuse_what_a_cursor_passed(meter: Meter, doing: str, *, recounts: bool) -> None:
    """Raise UsageError for a meter whose rows are read once, unless a recount can read them again."""
    if meter.deltas is None or (recounts and meter.deltas.recount_query is not None):
        return
    counted = "" if recounts else ", or by `aggregator backfill` once it has"
    raise UsageError(
        f"{meter.name} is read by a cursor, so that its rows are not read again, and {doing} cannot be done. They are "
        f"counted anew by `deltas: recount:` and `recount_query:`{counted}; see docs/deltas.md."
    )


def read_by_older(known: Sequence[Definition], span: Span) -> list[Span]:
    """Return the parts of a range whose windows are read by an older query than the present one."""
    present = known[-1].fingerprint
    return [piece for held, piece in definitions.pieces(known, span) if held.fingerprint != present]


def report_older(meter: str, older: Sequence[Span]) -> str:
    """Say which windows are read by an older query, and by which command the present one can read them."""
    first, last = older[0].start, older[-1].end
    return (
        f"{meter}: the windows from {first:%Y-%m-%dT%H:%MZ} to {last:%Y-%m-%dT%H:%MZ} belong to an older query, and are "
        f"read by that. To see what the present query would change there: `aggregator restate {meter} --from "
        f"{first:%Y-%m-%dT%H:%MZ} --to {last:%Y-%m-%dT%H:%MZ}`."
    )


def _ahead(meter: Meter, start: dt.datetime, ready: dt.datetime) -> str:
    return (
        f"--from {start:%Y-%m-%dT%H:%MZ} lies behind the last window of {meter.name} that is ready, which ends at "
        f"{ready:%Y-%m-%dT%H:%MZ}; give an earlier one, and leave the rest to the daemon."
    )


def span_of(
    meter: Meter,
    known: Sequence[Definition],
    limits: dict[str, Limits],
    start: dt.datetime,
    end: dt.datetime | None,
    now: dt.datetime,
) -> Span:
    """Return the range to backfill; without an end, up to the last window that is ready. Raises UsageError.

    `known` are the meter's definitions, whose windows the range must be made of.
    """
    if end is None and start > now - meter.delay:
        length = definitions.at(known, now).window
        raise UsageError(_ahead(meter, start, windows.floor(now - meter.delay, length)))
    ready = definitions.ready_until(known, min(start, now), now - meter.delay)
    span = Span(start, ready if end is None else end)
    refuse_parts_of_windows(meter.name, known, span)
    if end is None and span.start >= ready:
        raise UsageError(_ahead(meter, start, ready))
    if span.start >= span.end:
        raise UsageError(f"The range {span} of {meter.name} is empty; give --from a time before --to.")
    if span.end > ready:
        raise UsageError(
            f"Windows of {meter.name} are ready up to {ready:%Y-%m-%dT%H:%MZ} (delay is {meter.delay}); "
            f"give --to that or earlier, and leave the rest to the daemon."
        )
    if span.start < meter.start_at:
        raise UsageError(
            f"{meter.name} has start_at {meter.start_at:%Y-%m-%dT%H:%MZ}, and nothing before it is ever billed; "
            f"begin there, or move start_at in the configuration."
        )
    _young_enough(meter, limits, span, now)
    _still_there(meter, known, span, now)
    return span


def _young_enough(meter: Meter, limits: dict[str, Limits], span: Span, now: dt.datetime) -> None:
    for sink in meter.sinks:
        terms = meter.terms_of(sink)
        oldest = now - limits[sink].past
        begins = max(span.start, terms.bill_from or span.start)
        ends = min(span.end, terms.bill_until or span.end)
        if begins < min(oldest, ends) and not terms.shadow:
            first = windows.floor(oldest, meter.window) + meter.window
            raise UsageError(
                f"Sink {sink} takes nothing older than {limits[sink].past_days} days, so windows of {meter.name} before "
                f"{first:%Y-%m-%dT%H:%MZ} cannot be billed; begin there."
            )


def _still_there(meter: Meter, known: Sequence[Definition], span: Span, now: dt.datetime) -> None:
    sealed = meter.sealed_until(now)
    if sealed is not None and span.start < sealed:
        first = definitions.ceiling(sealed, definitions.at(known, sealed).window)
        raise UsageError(
            f"The source of {meter.name} keeps rows only from {first:%Y-%m-%dT%H:%MZ} on (`data_retained_from`), so "
            "older windows are sealed: what is missing there would be taken for usage that was taken back. Begin there."
        )


class Backfill:
    """One range of one meter, read by the definitions that hold there: or, to be restated, by one of them throughout."""

    def __init__(
        self,
        collection: Collector,
        known: Sequence[Definition],
        span: Span,
        restated_by: Definition | None = None,
    ) -> None:
        self._collection = collection
        self.meter = collection.meter
        self.span = span
        self._known = [restated_by] if restated_by else known

    def windows_in(self, span: Span) -> int:
        """Return how many windows a part of the range holds."""
        return sum(windows.count(piece, held.window) for held, piece in definitions.pieces(self._known, span))

    def piece(self, start: dt.datetime) -> Span:
        """Return what is read next of the range, from `start` on."""
        held, stretch = next(definitions.pieces(self._known, Span(start, self.span.end)))
        sizes = self._collection.sizes
        sizes.begin(held.fingerprint, max(1, self.windows_in(self.span) // PIECES))
        return next(windows.cut(stretch, held.window, sizes.most(held.fingerprint)))

    def run(
        self, now: dt.datetime, wait: Callable[[], object], progress: Callable[[int], None] = lambda _: None
    ) -> Backfilled:
        """Read, plan and commit the range; `progress` hears how many windows each piece had.

        `wait` is called while another process holds the meter. Raises what collection raises; what was committed stays.
        """
        resumed_at = self._collection.resumed_at(self.span, self._known, now)
        result = Backfilled(self.meter.name, self.span, resumed_at)
        return self._through(result, lambda piece: self._piece(piece, now, wait), progress)

    def _piece(self, piece: Span, now: dt.datetime, wait: Callable[[], object]) -> Collected:
        while True:
            done = self._collection.backfill(piece, self.span, now)
            if not done.busy:
                return done
            wait()

    def dry_run(self, now: dt.datetime, progress: Callable[[int], None] = lambda _: None) -> Backfilled:
        """Say what a run would do, and write nothing."""
        result = Backfilled(self.meter.name, self.span)

        def look(piece: Span) -> Tally:
            tally = Tally()
            for _ in self._collection.preview(piece, now, tally, self._known, result.forecast):
                pass
            return tally

        return self._through(result, look, progress)

    def _through(
        self,
        result: Backfilled,
        read: Callable[[Span], Collected | Tally],
        progress: Callable[[int], None],
    ) -> Backfilled:
        """Read what is left of the range, piece by piece, as far as its source proves to show everything."""
        first = start = result.resumed_at or self.span.start
        while start < self.span.end:
            piece = self.piece(start)
            start = piece.end
            done = read(piece)
            result.add(done)
            progress(self.windows_in(piece))
            if done.left_from is not None:
                break
        result.windows = self.windows_in(Span(first, result.left_from or self.span.end))
        return result
