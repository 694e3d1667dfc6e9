"""Adoption: a ledger that is not what it was is re-based on what the sinks themselves have counted, and goes on.

Rules
- Nothing is re-based before a quiet time has passed without a send: requests may still be on their way, and a sink counts
  with some delay. A ledger that is not stopped is never re-based.
- Every window that can still be billed is compared, of every customer that the ledger or the source knows: days first, and
  hours and windows where a day does not fit.
- Sources and sinks are asked first, then the ledger is written in one transaction. Until then nothing has changed.
- A source that must prove what it shows, such as a standby, has to show all that may have been sent: whom it hides nobody
  would ask about.
- A sink that cannot be read back is left as the ledger has it, and only if a person says so. So is a customer that a sink
  does not know, or whose combinations of dimensions it cannot tell apart: what it was sent since the backup is sent again
  under new names, and might be billed twice.
- Nothing is re-based while a sink has several numbers of one window where a total overwrites one of them alone: the next
  total would be billed beside the others. A person overwrites those with zero first.
"""

import datetime as dt
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import NamedTuple, cast

from aggregator.adoption.comparison import Comparison, Found, TotalsApart, compare_apart
from aggregator.adoption.survey import Compared, Left, SplitWindow, Survey
from aggregator.collection.mapping import Looked
from aggregator.core import age_limits, commit_barrier, definitions, planner
from aggregator.core.freshness import Reads
from aggregator.core.model import EPOCH, Definition, Fence, Meter, Span
from aggregator.core.rebase import SlotComparison
from aggregator.core.windows import HOUR, MINUTE, floor
from aggregator.errors import CustomerUnknown, LedgerError, SinkUnreachable, SourceError, UsageError
from aggregator.ledger.adoption import Counted, Line, Rebased
from aggregator.ledger.identity import Pinned, named
from aggregator.ledger.ledger import Ledger
from aggregator.ledger.meters import Feed, Registered
from aggregator.ledger.passes.spool import Spool
from aggregator.runtime.disk_list import DiskList
from aggregator.sinks.asking import by_customer
from aggregator.sinks.protocol import Destination, TellsCombinations

QUIET = dt.timedelta(hours=2)
"""How long nothing must have been sent: far longer than a request can be on its way, and than a sink needs to count it."""

TRIES = 3
"""How often a sink is asked for one customer before the adoption is given up, with nothing changed."""


NO_MAPPINGS: Mapping[str, Callable[[dt.datetime], Looked]] = {}

APART = "its usage is kept apart by dimensions"

ONE_FIGURE = f"{APART}, and the sink has one figure for all combinations"

SHORT_WINDOWS = f"{APART}, and the sink tells combinations by whole hours, but the windows are shorter"

FORMER_DIMENSIONS = (
    f"{APART}, by some that the meter no longer has, so the sink has no figure for each combination"
)
"""Why a customer is left as the ledger has it."""


class Situation(NamedTuple):
    """How a ledger stands: why it is stopped, and from when on it can be adopted."""

    pinned: Pinned
    reason: str | None
    """Why nothing is read or sent; None if all is well."""
    quiet_until: dt.datetime | None
    """Before this requests may still be on their way; None if the ledger is not stopped."""
    by_hand: tuple[str, ...]
    """Sinks that cannot be read back, about which a person must decide."""
    unknown: tuple[tuple[str, str], ...]
    """Meters and sinks that the ledger knows and the configuration does not: they keep the ledger's word."""


class Adopter:
    """Adopts one ledger. `reads` are what is read, by meter; `mappings` take over whose usage each key's is, by their names.

    What is left as the ledger has it: `without_readback` names sinks, which cannot be read back, and
    `leave` customers, whom a sink does not know.
    """

    def __init__(
        self,
        ledger: Ledger,
        registered: Iterable[Registered],
        reads: Mapping[str, Reads],
        sinks: Mapping[str, Destination],
        *,
        quiet: dt.timedelta = QUIET,
        without_readback: Sequence[str] = (),
        leave: Iterable[str] = (),
        wait: Callable[[float], object] = lambda _: None,
        mappings: Mapping[str, Callable[[dt.datetime], Looked]] = NO_MAPPINGS,
    ) -> None:
        self._ledger = ledger
        self._mappings = mappings
        self._adopting = ledger.adoption
        self._identity = ledger.identity
        self._meters = ledger.meters
        self._registered = sorted(registered, key=lambda known: known.meter.name)
        self._sources = reads
        self._sinks = sinks
        self._quiet = quiet
        self._without_readback = frozenset(without_readback)
        self._leave = frozenset(leave)
        self._wait = wait
        needless = sorted(
            name for name in self._without_readback if name not in self._fed or self._readable(name)
        )
        if needless:
            raise UsageError(f"{', '.join(needless)} can be read back, or is not a sink of any meter.")

    @property
    def _fed(self) -> set[str]:
        return {feed.sink for known in self._registered for feed in known.feeds}

    def _readable(self, sink: str) -> bool:
        return self._sinks[sink].limits.proof is not None

    def situation(self, now: dt.datetime) -> Situation:
        """Say how the ledger stands, and from when on it can be adopted. One that is not what it was is stopped by this.

        Raises SinkError if a sink does not say to which account it goes.
        """
        reason = self._identity.check(now, stops=True, adopting=True)
        for sink in sorted(self._fed):
            reason = reason or self._identity.account(sink, self._sinks[sink].account(), now, stops=True)
        pinned, known = self._identity.pinned(), self._identity.known()
        lines = {(known.meter.name, feed.sink) for known in self._registered for feed in known.feeds}
        last = [pinned.stopped_at, self._adopting.last_claim(), known.at if known else None]
        return Situation(
            pinned,
            reason,
            None if pinned.stopped_at is None else max(at for at in last if at is not None) + self._quiet,
            tuple(sorted(name for name in self._fed if not self._readable(name))),
            tuple(each for each in self._adopting.feeds() if each not in lines),
        )

    def stop(self, now: dt.datetime) -> None:
        """Stop a ledger of which nothing but a person knows that it was set back."""
        self._identity.stop("Stopped by a person, to be adopted.", now)

    def survey(self, now: dt.datetime, done: Callable[[Compared], None] = lambda _: None) -> Survey:
        """Compare every window that can still be billed. `done` is told of each meter and sink; nothing is written.

        Raises SourceError or SinkError if one of them does not answer, LedgerError if a mapping is not believed.
        """
        self._look_up_customers(now)
        survey = Survey()
        try:
            for known in self._registered:
                self._survey_meter(known, survey, now, done)
        except BaseException:
            survey.stack.close()
            raise
        return survey

    def _look_up_customers(self, now: dt.datetime) -> None:
        """Take mappings over: the ledger may have forgotten a customer, whom a sink can be asked about only by name."""
        for read in self._mappings.values():
            read(now)
        known = self._ledger.customers.states() if self._mappings else []
        for state in known:
            if state.mapping in self._mappings and state.doubted is not None:
                raise LedgerError(
                    f"Mapping {state.mapping} is not believed yet: {state.doubted}. If it is right, adopt again once half "
                    "of its `every` is over, and it says the same: until then it is not known about whom to ask the "
                    "sinks. Nothing was adopted."
                )

    def ready(self, now: dt.datetime) -> Situation:
        """Return the situation if the ledger can be adopted now. Raises LedgerError with what speaks against it."""
        situation = self.situation(now)
        if situation.quiet_until is None:
            raise LedgerError("The ledger is not stopped, so it needs no adoption; nothing was changed.")
        if now < situation.quiet_until:
            raise LedgerError(
                f"Too early: requests may still be on their way. Adopt at {situation.quiet_until:%Y-%m-%d %H:%M:%S} UTC or "
                "later; nothing was changed."
            )
        cancelling = self._adopting.being_cancelled()
        if cancelling:
            raise LedgerError(
                f"Nobody knows yet whether these events are cancelled: {', '.join(map(str, cancelling))}. Look at the sink, "
                "and say it by `aggregator events cancel ID --gone` or `--still-there`; nothing was changed."
            )
        undecided = sorted(set(situation.by_hand) - self._without_readback)
        if undecided:
            raise LedgerError(
                f"{', '.join(undecided)} cannot be read back. Look there what has arrived, and say --without-readback with "
                "its name if the ledger's word is to be taken; nothing was changed."
            )
        return situation

    def adopt(self, survey: Survey, now: dt.datetime) -> None:
        """Write what a survey found, and let the ledger go on under names of a new generation.

        Raises LedgerError if it is too early, if a sink or a customer needs a person's word or hand, or if the ledger
        changed meanwhile.
        """
        situation = self.ready(now)
        survey.approve(self._leave)
        count = self._identity.known()
        pinned = situation.pinned
        generation = _generation(pinned.generation, count.generation if count else 0, now)
        accounts = {name: account for name in sorted(self._fed) if (account := self._sinks[name].account())}

        def name(line: Line, comparison: SlotComparison) -> str:
            """Name the event that takes a slot over, as the planner would name it in the new generation."""
            known = next(known for known in self._registered if known.id == line.meter_id)
            ledger, window = named(pinned.ledger_id, generation), known.meter.window
            names = planner.Identifiers(ledger, line.feed.sink, known.identity, window)
            return names.of(
                comparison.customer, comparison.window_start, comparison.revision, comparison.dimensions
            )

        feeds = [feed.id for known in self._registered for feed in known.feeds]
        self._adopting.adopt(survey.rebased, pinned, generation, accounts, feeds, name, now)
        self._identity.adopted(pinned._replace(generation=generation, cluster=pinned.lies_on), now)

    def _survey_meter(
        self, known: Registered, survey: Survey, now: dt.datetime, done: Callable[[Compared], None]
    ) -> None:
        feeds = [feed for feed in known.feeds if self._readable(feed.sink)]
        if not feeds:
            return
        meter, holding = known.meter, self._meters.definitions(known)
        unread = self._adopting.unread(known.id)
        spans = {feed.id: self._span(meter, feed, holding, now) for feed in feeds}
        whole = Span(min(span.start for span in spans.values()), max(span.end for span in spans.values()))
        sealed = meter.sealed_until(now)
        readable = whole.start
        if sealed is not None and sealed > readable:
            readable = definitions.ceiling(sealed, definitions.at(holding, sealed).window)
        readings = survey.stack.enter_context(Spool())
        for definition, span in definitions.readable(
            holding, Span(min(readable, whole.end), whole.end), unread
        ):
            allow = _shows(meter, span, now - self._quiet)
            source = self._sources[meter.name]
            for batch in source.read(
                definition.query, span, definition.window, dimensions=definition.dimensions, allow=allow
            ):
                readings.add(batch)
        for feed in feeds:
            unit = Decimal(1).scaleb(-meter.decimals)
            line = Line(known.id, feed, spans[feed.id], unit, readable, unread)
            compared = Compared(meter.name, feed.sink, line.span)
            counted = survey.stack.enter_context(DiskList[Counted]())
            left: list[Left] = []
            counted.keep(self._compare(line, meter, holding, readings, compared, left))
            survey.compared.append(compared)
            survey.left += left
            survey.rebased.append(
                Rebased(line, readings, counted.all, frozenset(each.customer for each in left))
            )
            done(compared)

    def _span(self, meter: Meter, feed: Feed, holding: Sequence[Definition], now: dt.datetime) -> Span:
        """Return the windows that can still be billed, the one that is open now included; and those that once could."""
        age = now - min(self._sinks[feed.sink].limits_for(meter.name).past, age_limits.FURTHEST)
        oldest = floor(age, definitions.at(holding, age).window)
        present = definitions.ceiling(now, definitions.at(holding, now).window)
        since, until = max(meter.start_at, feed.since), min(feed.until or present, present)
        planned = self._adopting.outermost(feed.id, oldest, present)
        if planned is not None:
            since = min(since, planned.start)
            until = max(until, planned.end + definitions.at(holding, planned.end).window)
        start = max(since, oldest)
        return Span(start, max(start, until))

    def _compare(
        self,
        line: Line,
        meter: Meter,
        holding: Sequence[Definition],
        readings: Spool,
        compared: Compared,
        left: list[Left],
    ) -> Iterator[Counted]:
        """Yield what the sink has counted where it differs from what is booked, or where something was not settled.

        Customers of whom it has no figures are added to `left`, and nothing is said of them.
        """
        pieces = list(definitions.pieces(holding, line.span))
        no_figures = _why_no_figures(self._sinks[line.feed.sink], meter, pieces)

        def ask(comparisons: list[SlotComparison]) -> list[Found] | Left:
            if no_figures is not None:
                return _left(line, meter, comparisons, no_figures)
            return self._ask(line, meter, pieces, comparisons)

        # The ledger's transaction is over before a sink is asked.
        with DiskList[SlotComparison]() as kept:
            kept.keep(self._adopting.comparisons(line, readings))
            for found in by_customer(kept.all(), ask):
                if isinstance(found, Left):
                    left.append(found)
                    continue
                compared.customers += 1
                for comparison, places in found:
                    compared.count(comparison)
                    if len(places) > 1:
                        names = meter.name, line.feed.sink, comparison.customer
                        compared.split_windows.append(SplitWindow(*names, places))
                    if comparison.differs:
                        much = Decimal(planner.plain(comparison.stands_at))
                        yield Counted(
                            comparison.window_start,
                            comparison.customer,
                            much,
                            comparison.kept_at,
                            comparison.dimensions,
                        )

    def _ask(
        self,
        line: Line,
        meter: Meter,
        pieces: Sequence[tuple[Definition, Span]],
        comparisons: list[SlotComparison],
    ) -> list[Found] | Left:
        """Look one customer up, or say why that cannot be done. Raises SinkError if the sink gives no answer."""
        for tried in range(1, TRIES + 1):
            try:
                found = _look(self._sinks[line.feed.sink], meter.name, pieces, comparisons, line.unit)
                return _left(line, meter, comparisons, ONE_FIGURE) if found is None else found
            except CustomerUnknown as unknown:
                return _left(line, meter, comparisons, str(unknown))
            except SinkUnreachable:
                if tried == TRIES:
                    raise
                self._wait(float(tried))
        raise AssertionError("a try ends in an answer or an error")


def _look(
    sink: Destination,
    meter: str,
    pieces: Sequence[tuple[Definition, Span]],
    comparisons: list[SlotComparison],
    unit: Decimal,
) -> list[Found] | None:
    """Look one customer up at a sink; None if that has one figure for all combinations."""
    if _kept_apart(pieces):
        return compare_apart(cast("TotalsApart", sink), meter, comparisons, unit, pieces)
    who = Comparison(sink, meter, comparisons, unit)
    return [each for definition, piece in pieces for each in who.compare(piece, definition.window)]


def _kept_apart(pieces: Sequence[tuple[Definition, Span]]) -> bool:
    """Tell whether usage is kept apart by dimensions, in any of some time."""
    return any(definition.dimensions for definition, _ in pieces)


def _why_no_figures(sink: Destination, meter: Meter, pieces: Sequence[tuple[Definition, Span]]) -> str | None:
    """Say why a sink cannot tell combinations of a meter's dimensions apart; None if it may, or if there are none."""
    if not _kept_apart(pieces):
        return None
    if not isinstance(sink, TellsCombinations):
        return ONE_FIGURE
    if any(definition.window % HOUR for definition, _ in pieces):
        return SHORT_WINDOWS
    former = {name for definition, _ in pieces for name in definition.dimensions} - set(meter.dimensions)
    return FORMER_DIMENSIONS if former else None


def _generation(ledger: int, host: int, now: dt.datetime) -> int:
    """Return a generation that no adoption was given before: neither one that is known here, nor one that is forgotten.

    A ledger can be restored to before an adoption, and adopted again where nobody remembers that: on another host, or on one
    whose disk is new. A number counted from what is known would be given twice, and a name of it could be sent with another
    quantity, which a sink takes for a duplicate. Minutes, since seconds exceed an integer in 2038; an adoption waits longer
    than one for the quiet time.
    """
    return max(ledger + 1, host + 1, int((now - EPOCH) / MINUTE))


def _shows(meter: Meter, span: Span, sent_until: dt.datetime) -> Callable[[Fence | None], dt.datetime]:
    """Let a span be read if its source proves to show what may have been sent. It raises SourceError if it does not."""

    def allow(fence: Fence | None) -> dt.datetime:
        proven = None if fence is None else commit_barrier.proven_until(fence)
        if fence is not None and proven is not None and proven < min(span.end, sent_until):
            raise SourceError(
                f"Source {meter.source}: {commit_barrier.unproven(fence)}, and {meter.name} needs it up to "
                f"{min(span.end, sent_until):%Y-%m-%dT%H:%MZ}. Nothing was adopted; try again once it has caught up."
            )
        return span.end

    return allow


def _left(line: Line, meter: Meter, comparisons: Sequence[SlotComparison], why: str) -> list[Found] | Left:
    """Leave a customer as the ledger has it; of one whom only a mapping names, there is nothing to leave."""
    if all(each.is_nothing for each in comparisons):
        return []
    return Left(meter.name, line.feed.sink, comparisons[0].customer, why)
