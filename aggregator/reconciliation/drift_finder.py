"""Finds where source, ledger and sink differ: days of every customer first, and hours only where a day differs.

Rules
- A sink is asked for as little as that needs: one read for all days of a customer, and one for each four days whose hours
  are to be told apart. Reads are counted, and the sink itself keeps to what it may be asked.
- Where a sink tells combinations of dimensions apart, it is asked for those instead, by as many reads: what is too much of
  one and too little of another comes to nothing in their sum.
- Where a sink has a quick look at customers, that comes first. Who is there as booked, by a look that is fresher than all
  that was accepted of them, is not asked about again. Of everybody else the quick look says nothing: only what proves
  something is judged.
- The ledger is read first, by customer and day, and its transaction is over before a sink is asked. Only a few customers
  are in memory at once.
- What a sink has of a time that the feed does not bill is somebody else's affair: another sink of ours, or whoever billed
  before. It is compared only where something of ours is on record.
- What the source says is handed in: nothing in here sees a source. Why figures differ is for `core.drift`.
- A sink that cannot say anything of a customer leaves that one unchecked, and says why; one that cannot be reached, or may
  not be asked any more today, ends it. A sink that does not know a customer holds nothing of that one, which is as it should
  be where it has accepted nothing: those who move to it later need not be there yet.
"""

import datetime as dt
from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import NamedTuple

from aggregator.core import definitions
from aggregator.core.dimensions import Dimensions
from aggregator.core.drift import (
    Cause,
    Difference,
    Place,
    Terms,
    judge,
    meant,
    reads_by_day,
    reads_by_hour,
    same,
)
from aggregator.core.model import ZERO, Definition, Limits, Span, WriteModel
from aggregator.core.planner import add, plain, subtract
from aggregator.core.windows import DAY, HOUR
from aggregator.errors import AccountRefused, CustomerUnknown, MetersMixed, NoOverview
from aggregator.ledger.drift import DayLine, DriftReport, FeedLine
from aggregator.sinks.asking import by_customer
from aggregator.sinks.protocol import GivesOverviews, TellsCombinations, Totals

ASKED_AT_ONCE = 16
"""Customers that are asked about beside each other: as many connections as a sink keeps for what is only read."""

PROOF = dt.timedelta(hours=26)
"""How long a sink may need to count what it accepted, where it says nothing of that."""

CLOCKS_APART = dt.timedelta(minutes=5)
"""A quick look is taken to have what was sent so long before it: the sink's clock need not be ours."""

FUTURE = DAY
"""A look that is fresher than this is not believed. Less would not do: a comparison goes on for hours with the instant at
which it began."""

MOST_UNASKED = 20
"""How many customers are named of whom a sink could say nothing."""


Apart = dict[Dimensions, dict[dt.datetime, Decimal]]
"""Figures of combinations, by the starts of days or hours."""


class Line(NamedTuple):
    """A feed that is compared, and by what."""

    meter: str
    sink: str
    feed: FeedLine
    span: Span
    """Whole UTC days."""
    known: Sequence[Definition]
    unit: Decimal
    read_again_from: dt.datetime
    shadow: bool = False
    """Whether nothing of it is sent, so that what its sink holds is not ours."""
    is_apart: bool = False
    """Whether combinations of dimensions are compared one by one, where the sink tells them apart."""


class Found(NamedTuple):
    """A place that differs, and how."""

    meter: str
    sink: str
    place: Place
    differences: tuple[Difference, ...]


class CustomerLine(NamedTuple):
    """What all three say of one customer, over all that was compared."""

    customer: str
    source: Decimal = ZERO
    ledger: Decimal = ZERO
    billed: Decimal = ZERO
    in_sink: Decimal = ZERO
    carried: Decimal = ZERO
    """What was read, and is too little to be billed yet."""
    differing: int = 0
    """Places that differ."""

    def plus(self, other: "CustomerLine") -> "CustomerLine":
        """Add another line to it."""
        return self._by(add, other, other.differing)

    def minus(self, other: "CustomerLine") -> "CustomerLine":
        """Take another line from it."""
        return self._by(subtract, other, -other.differing)

    def _by(
        self, how: Callable[[Decimal, Decimal], Decimal], other: "CustomerLine", differing: int
    ) -> "CustomerLine":
        return CustomerLine(
            self.customer,
            how(self.source, other.source),
            how(self.ledger, other.ledger),
            how(self.billed, other.billed),
            how(self.in_sink, other.in_sink),
            how(self.carried, other.carried),
            self.differing + differing,
        )


NOBODY = CustomerLine("")
"""No usage of nobody."""


@dataclass(slots=True)
class Summary:
    """What was compared, and what that came to."""

    meter: str
    sink: str
    asked: bool
    """Whether the sink was asked."""
    customers: int = 0
    days: int = 0
    """Customers and days."""
    events: int = 0
    """Accepted events among them."""
    reads: int = 0
    whole: CustomerLine = NOBODY
    """All customers together."""
    shows: int = 0
    """How many customers have a line of their own: those with the most usage."""
    greatest: list[CustomerLine] = field(default_factory=list)
    causes: dict[str, tuple[int, Decimal]] = field(default_factory=dict)
    """How many differences of each cause, and what they come to."""
    changed: set[str] = field(default_factory=set)
    """Customers of whom the source says something else than when it was billed."""
    rose: Decimal = ZERO
    """By how much those have changed."""
    left_out: int = 0
    """Customers that were not looked at, since the sink may not be asked any more today."""
    unasked: list[str] = field(default_factory=list)
    """Why the sink could say nothing of a customer."""
    by_overview: int = 0
    """Customers of whom a quick look was enough."""
    asked_again: int = 0
    """Customers of whom it was not: something differs, or is newer than the look."""
    fresh_to: dt.datetime | None = None
    """Up to when the looks that were enough are fresh, the least fresh of them."""
    no_overview: str | None = None
    """Why there was no quick look, although the sink is set to have one."""

    @property
    def differing(self) -> int:
        """How many places differ."""
        return self.whole.differing

    def count(self, line: CustomerLine) -> None:
        """Take a customer into account. A list of the greatest is cut back now and then, so that it stays short."""
        self.customers += 1
        self.whole = self.whole.plus(line)
        if self.shows:
            self.greatest.append(line)
            if len(self.greatest) > 2 * self.shows:
                self.rank()

    def rank(self) -> None:
        """Keep the customers with the most usage, the most first."""
        self.greatest.sort(key=lambda line: (-line.source, line.customer))
        del self.greatest[self.shows :]

    def take(self, found: Found) -> None:
        """Take a place that differs into account."""
        for each in found.differences:
            count, amount = self.causes.get(each.cause, (0, ZERO))
            self.causes[each.cause] = count + 1, add(amount, each.amount)
            if each.cause in (Cause.LATE, Cause.CHANGED):
                self.changed.add(found.place.customer)
                self.rose = add(self.rose, each.amount)


class _Asked(NamedTuple):
    """What came of looking at one customer."""

    lines: Sequence[DayLine]
    in_sink: Decimal
    reads: int
    found: tuple[Found, ...]
    unasked: str | None
    fresh_to: dt.datetime | None
    again: bool


class _Figures(NamedTuple):
    """What a sink has of a customer's days; None, and why, if it could say nothing of them."""

    counted: Mapping[dt.datetime, Decimal] | None = None
    apart: Apart | None = None
    reads: int = 0
    unasked: str | None = None
    fresh_to: dt.datetime | None = None
    """Up to when a quick look is fresh that was enough."""
    again: bool = False
    """Whether there was a quick look that was not."""


class DriftFinder:
    """Compares one feed. `sink` is asked if it can be; without it, only source and ledger are compared.

    `late` is what the sink says of its totals being late: then nothing is called missing. With `every_hour`, hours are
    asked for of every day: two differences of one day that come to nothing are seen no other way.
    """

    def __init__(
        self,
        report: DriftReport,
        line: Line,
        sink: Totals | None,
        now: dt.datetime,
        late: str | None = None,
        *,
        every_hour: bool = False,
        shows: int = 0,
        may_ask: Callable[[], bool] = lambda: True,
    ) -> None:
        limits = sink.limits_for(line.meter) if sink is not None else None
        self._sink = sink if limits is not None and not line.shadow and readable(limits) else None
        self.late = late
        self._every_hour = every_hour
        self._tells_apart = line.is_apart and isinstance(self._sink, TellsCombinations)
        self._may_ask = may_ask
        self._fresh_to: dt.datetime | None = None
        self._report = report
        self._line = line
        self._newest_of = limits.newest_of if limits else None
        self._terms = Terms(
            now,
            line.unit,
            limits.write_model if limits else WriteModel.DELTA,
            (limits.proof if limits else None) or PROOF,
            line.read_again_from,
            late,
        )
        self.unseen: list[str] = []
        """Customers of whom nothing is known: the sink could say nothing, or may not be asked."""
        self.summary = Summary(line.meter, line.sink, self._sink is not None, shows=shows)

    def compare(self, lines: Iterable[DayLine]) -> Iterator[Found]:
        """Yield what differs, customer by customer. Raises SinkError."""
        for asked in by_customer(lines, self._look, at_once=ASKED_AT_ONCE if self._sink else 1):
            if isinstance(asked, str):
                self.summary.left_out += 1
                self.unseen.append(asked)
                continue
            self._count(asked)
            for found in asked.found:
                self.summary.take(found)
                yield found
        self.summary.rank()

    def _count(self, asked: _Asked) -> None:
        summary = self.summary
        summary.reads += asked.reads
        summary.asked_again += asked.again
        if asked.fresh_to is not None:
            summary.by_overview += 1
            summary.fresh_to = min(summary.fresh_to or asked.fresh_to, asked.fresh_to)
        if asked.unasked is not None:
            self.unseen.append(asked.lines[0].customer)
            if len(summary.unasked) < MOST_UNASKED:
                summary.unasked.append(asked.unasked)
        source = read = booked = planned = ZERO
        for line in asked.lines:
            summary.days += line.start is not None
            summary.events += line.events
            source, read = add(source, line.source), add(read, line.read)
            booked, planned = add(booked, line.booked), add(planned, line.planned)
        carried, whose = subtract(read, planned), asked.lines[0].customer
        summary.count(CustomerLine(whose, source, read, booked, asked.in_sink, carried, len(asked.found)))

    def _look(self, lines: list[DayLine]) -> _Asked | str:
        """Look at one customer: at its days, and at windows where one of them is odd.

        Return the customer alone if the sink may not be asked.
        """
        customer = lines[0].customer
        if self._sink is not None and not self._may_ask():
            return customer
        known = {line.start: line for line in lines if line.start is not None}
        figures = self._figures(lines, known)
        apart, reads = figures.apart, figures.reads
        counted = None if figures.counted is None else self._billed(known, figures.counted)
        booked: Apart = {}
        if apart is not None:
            booked = self._report.combinations(self._line.feed.feed, customer, self._line.span)
        within = set() if apart is None else self._differing_apart(known, apart, booked)
        odd, differing = self._days_to_look_at(known, counted, within)
        hours: Mapping[dt.datetime, Decimal] = {}
        if counted is not None:
            finer = [day for day in differing if self._step(day) < DAY]
            hours, more = self._counted(customer, reads_by_hour(finer), HOUR)
            reads += more
        found, in_sink, more = self._places_apart(customer, sorted(within), known, apart or {}, booked)
        reads += more
        for day in sorted([*odd, *differing]):
            figure = (counted or {}).get(day, ZERO) if day in differing else None
            source = dict(known[day].changed) if day in known else {}
            places, outside = self._places(customer, day, source, figure, hours)
            found += places
            in_sink = subtract(in_sink, outside)
        for much in (counted or {}).values():
            in_sink = add(in_sink, much)
        return _Asked(lines, in_sink, reads, tuple(found), figures.unasked, figures.fresh_to, figures.again)

    def _figures(self, lines: Sequence[DayLine], known: Mapping[dt.datetime, DayLine]) -> _Figures:
        """Ask the sink for a customer's days: all together, and by combinations if it tells them."""
        if self._sink is None:
            return _Figures()
        customer, days = lines[0].customer, reads_by_day(self._line.span)
        try:
            apart, reads = self._counted_apart(customer, days, DAY)
            if self._tells_apart:
                return _Figures(_summed(apart), apart, reads)
            seen = self._overview(customer, days, known)
            if seen.counted is not None:
                return seen
            counted, reads = self._counted(customer, days, DAY)
        except CustomerUnknown as error:
            accepted = any(line.events for line in lines)
            return _Figures(unasked=str(error)) if accepted else _Figures({})
        except (AccountRefused, MetersMixed) as error:
            return _Figures(unasked=str(error))
        return _Figures(counted, None, seen.reads + reads, again=seen.again)

    def _overview(
        self, customer: str, spans: Sequence[Span], known: Mapping[dt.datetime, DayLine]
    ) -> _Figures:
        """Have a quick look at a customer's days; return its figures only if all is there as booked, by a fresh look."""
        sink: object = self._sink
        sent_at = max((line.sent_at for line in known.values() if line.sent_at is not None), default=None)
        stale = sent_at is not None and self._fresh_to is not None and not _covers(self._fresh_to, sent_at)
        if not isinstance(sink, GivesOverviews) or self._every_hour or stale:
            return _Figures(again=stale)
        counted: dict[dt.datetime, Decimal] = {}
        reads, fresh_to = 0, self._terms.now + FUTURE
        try:
            for span in spans:
                seen = sink.overview(self._line.meter, customer, span, DAY)
                if seen is None:
                    return _Figures()
                counted |= seen.figures
                reads, fresh_to = reads + seen.reads, min(fresh_to, seen.fresh_to)
        except NoOverview as error:
            self.summary.no_overview = str(error)
            return _Figures(reads=reads)
        except CustomerUnknown:  # which is said again by what proves something
            return _Figures(reads=reads + 1, again=True)
        self._fresh_to = max(fresh_to, self._fresh_to or fresh_to)
        _, differing = self._days_to_look_at(known, self._billed(known, counted), ())
        behind = sent_at is not None and not _covers(fresh_to, sent_at)
        if differing or behind or fresh_to >= self._terms.now + FUTURE:
            return _Figures(reads=reads, again=True)
        return _Figures(counted, None, reads, fresh_to=fresh_to)

    def _billed(
        self, known: Mapping[dt.datetime, DayLine], counted: Mapping[dt.datetime, Decimal]
    ) -> dict[dt.datetime, Decimal]:
        """Return what a sink has of days that the feed bills, or has anything of."""
        return {day: much for day, much in counted.items() if day in known or self._bills(day, DAY)}

    def _days_to_look_at(
        self,
        known: Mapping[dt.datetime, DayLine],
        counted: Mapping[dt.datetime, Decimal] | None,
        within: Container[dt.datetime],
    ) -> tuple[list[dt.datetime], list[dt.datetime]]:
        """Return the days that are odd by the ledger's word, and those of which the sink says something else.

        Those `within` which combinations differ are neither.
        """
        odd, differing = [], []
        for day in sorted(known.keys() | (counted or {}).keys()):
            line = known.get(day)
            booked = line.booked if line else ZERO
            if day in within:
                continue
            if counted is not None and (
                self._every_hour
                or (line is not None and line.changed)
                or not same(counted.get(day, ZERO), booked, self._line.unit)
            ):
                differing.append(day)
            elif line is not None and line.odd:
                odd.append(day)
        return odd, differing

    def _counted(
        self, customer: str, spans: Sequence[Span], step: dt.timedelta
    ) -> tuple[dict[dt.datetime, Decimal], int]:
        """Ask the sink for each step of some spans; return that, and how many reads it took."""
        assert self._sink is not None, "there is a sink to be asked"
        counted: dict[dt.datetime, Decimal] = {}
        for span in spans:
            counted |= self._sink.breakdown(self._line.meter, customer, span, step)
        return counted, len(spans)

    def _counted_apart(self, customer: str, spans: Sequence[Span], step: dt.timedelta) -> tuple[Apart, int]:
        """Ask the sink for each combination in each step of some spans; it is remembered if it does not tell them apart."""
        counted: Apart = {}
        sink: object = self._sink
        if not self._tells_apart or not isinstance(sink, TellsCombinations):
            return {}, 0
        for span in spans:
            said = sink.by_combination(self._line.meter, customer, span, step)
            if said is None:
                self._tells_apart = False
                return {}, 0
            for combination, figures in said.items():
                counted.setdefault(combination, {}).update(figures)
        return counted, len(spans)

    def _differing_apart(
        self, known: Mapping[dt.datetime, DayLine], apart: Apart, booked: Apart
    ) -> set[dt.datetime]:
        """Return the days in which sink or source have something else of a combination than is on record."""
        changed = {day for day, line in known.items() if line.changed_apart}
        days = {
            (combination, day)
            for figures in (apart, booked)
            for combination, of in figures.items()
            for day in of
        }
        return changed | {
            day
            for combination, day in days
            if (day in known or self._bills(day, DAY))
            and not same(
                apart.get(combination, {}).get(day, ZERO),
                booked.get(combination, {}).get(day, ZERO),
                self._line.unit,
            )
        }

    def _places_apart(
        self,
        customer: str,
        days: Sequence[dt.datetime],
        known: Mapping[dt.datetime, DayLine],
        apart: Apart,
        booked: Apart,
    ) -> tuple[list[Found], Decimal, int]:
        """Return what differs in some days, combination by combination, as `_places` does; and how many reads it took."""
        finer = [
            Span(day, day + DAY) for day in days if self._step(day) < DAY
        ]  # a day's hours: there are many combinations
        hours, reads = self._counted_apart(customer, finer, HOUR)
        found: list[Found] = []
        in_sink = ZERO
        for day in days:
            changed: dict[Dimensions, dict[dt.datetime, Decimal]] = defaultdict(dict)
            for which, start, says in known[day].changed_apart if day in known else ():
                changed[which][start] = says
            those = {each for each, of in booked.items() if day in of} | apart.keys() | changed.keys()
            for combination in sorted(those):
                figure = apart.get(combination, {}).get(day, ZERO)
                agrees = same(figure, booked.get(combination, {}).get(day, ZERO), self._line.unit)
                its_own = None if agrees and combination not in changed else figure
                by_hour, source = hours.get(combination, {}), changed.get(combination, {})
                places, outside = self._places(customer, day, source, its_own, by_hour, combination)
                found += places
                in_sink = subtract(in_sink, outside)
        return found, in_sink, reads

    def _bills(self, start: dt.datetime, length: dt.timedelta) -> bool:
        """Tell whether the feed bills any of a stretch of time."""
        feed = self._line.feed
        return start + length > feed.since and (feed.until is None or start < feed.until)

    def _step(self, instant: dt.datetime) -> dt.timedelta:
        """Return what is compared at once: a window, or an hour of shorter ones."""
        window = definitions.at(self._line.known, instant).window
        return max(window, HOUR, self._newest_of or HOUR)

    def _places(
        self,
        customer: str,
        day: dt.datetime,
        source: dict[dt.datetime, Decimal],
        figure: Decimal | None,
        hours: Mapping[dt.datetime, Decimal],
        combination: Dimensions | None = None,
    ) -> tuple[list[Found], Decimal]:
        """Return what differs in one day, and how much of the sink's figure is of a time that the feed does not bill.

        `source` is what it says of windows that have changed since they were read; `figure` what the sink has of the day,
        if it differs from what is booked.
        """
        rows = self._report.customer(self._line.feed.feed, customer, Span(day, day + DAY), combination)
        step = self._step(day)
        sums: dict[dt.datetime, Decimal] = defaultdict(Decimal)
        if figure is not None:
            of_day = {start: much for start, much in hours.items() if start in Span(day, day + DAY)}
            for start, much in ({day: figure} if step >= DAY else of_day).items():
                sums[day + (start - day) // step * step] += much
        starts = {
            day + (each - day) // step * step
            for each in (*(slot.window_start for slot in rows.slots), *source)
        }
        found: list[Found] = []
        whole = outside = ZERO
        for start in sorted(starts | sums.keys()):
            span = Span(start, start + step)
            if start not in starts and not self._bills(start, step):
                outside = add(outside, sums[start])
                whole = add(whole, sums[start])
                continue
            whole = add(whole, sums.get(start, ZERO))
            its_own = None if figure is None else meant(sums.get(start, ZERO), self._line.unit)
            place = rows.place(span, its_own, source)
            differences = judge(place, self._terms)
            if differences:
                found.append(Found(self._line.meter, self._line.sink, place, tuple(differences)))
        if figure is not None and not same(whole, figure, self._line.unit):
            reason = f"the sink has {plain(figure)} for the day, and {plain(whole)} by its hours: ask again"
            place = rows.place(Span(day, day + DAY), figure, source)
            unexplained = Difference(Cause.UNEXPLAINED, subtract(whole, figure), (), reason)
            found.append(Found(self._line.meter, self._line.sink, place, (unexplained,)))
        return found, outside


def _covers(fresh_to: dt.datetime, sent_at: dt.datetime) -> bool:
    """Tell whether a look that is fresh to an instant surely has what was sent at another."""
    return sent_at <= fresh_to - CLOCKS_APART


def _summed(apart: Apart) -> dict[dt.datetime, Decimal]:
    """Return what all combinations come to."""
    sums: dict[dt.datetime, Decimal] = {}
    for figures in apart.values():
        for start, much in figures.items():
            sums[start] = add(sums.get(start, ZERO), much)
    return sums


def readable(limits: Limits) -> bool:
    """Tell whether a sink's totals can be compared with what the ledger has of a meter."""
    if limits.reads_by is None:
        return False
    if limits.write_model is WriteModel.LAST:
        return False
    return limits.write_model is WriteModel.DELTA or limits.newest_of is not None
