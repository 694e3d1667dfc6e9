"""What source, ledger and sink say of one customer and stretch of time, and why they differ. Pure.

Rules
- Between what the source says and what the sink holds stands the ledger: what it read, and which of it the sink has taken.
  Each step that does not fit is a difference, with its amount, its cause, and the events that it is about.
- Of what the ledger knows first: what is on its way, was refused, or was given up explains a difference before anybody
  else is suspected. An amount names events only if exactly one selection of them has it.
- Nothing is called missing before the sink's totals must show it, nor while the sink says that they are late. While anything
  of a place need not be shown yet, how much differs there is not known either, and no repair is built on it.
- Where source and sink agree and the ledger alone does not, nothing is owed to anybody: the ledger is put right.
- A ledger that contradicts itself is a bug: it is named, and nothing is built on it.
- A sink's figure may be a binary fraction: it is compared to within half a unit, and not where it has no room for one.
"""

import datetime as dt
from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal
from enum import StrEnum
from itertools import combinations
from typing import NamedTuple

from aggregator.core import planner
from aggregator.core.dimensions import Dimensions
from aggregator.core.model import ZERO, EventId, Span, State, WriteModel
from aggregator.core.planner import add, plain, subtract
from aggregator.core.readbacks import MOST_IN_QUESTION, MOST_UNITS
from aggregator.core.shown import minute
from aggregator.core.states import BOOKED
from aggregator.core.windows import DAY, HOUR, floor

ROWS_AT_ONCE = 96
"""Hours that one read gives: four days of them. A page of Stripe's summaries holds a hundred rows
(docs.stripe.com/api/billing/meter-event-summary/list)."""

DAYS_AT_ONCE = 100
"""Days that one read gives, for the same reason."""


MOST_PLACES = 13
"""So many places more than the meter's own are tried to find which number a sink's figure stands for."""


class Cause(StrEnum):
    """Why two of the three differ."""

    PENDING = "pending"
    """It is on its way, waits to be released, or is too fresh to be judged."""
    LATE = "late"
    """Usage turned up in the source after its window was read; the next passes find it by themselves."""
    CHANGED = "changed"
    """The source says something else than when it was read, and no pass will look there by itself; or it says less."""
    REJECTED = "rejected"
    """The sink refused it, or rejected it later."""
    DUPLICATE = "duplicate"
    """The sink has counted an event of ours twice, or one that was given up."""
    FOREIGN = "foreign"
    """Somebody else sent it."""
    MISSING = "missing"
    """The sink accepted it, and its totals lack it."""
    UNEXPLAINED = "unexplained"
    """Nothing of the above."""


NAMES = {
    Cause.FOREIGN: "sent by somebody else",
    Cause.CHANGED: "changed at the source since",
}
"""How causes are called where that takes more than a word."""


class Repair(StrEnum):
    """How a difference is put right, if that is asked for."""

    NONE = ""
    """By itself, or by a person."""
    READ = "read again"
    """The next pass reads the window, and plans what is owed."""
    PLAN = "planned anew"
    """The events are taken for rejected, and the next pass plans them anew."""
    TAKE_OVER = "taken over"
    """The ledger takes the sink's word; what is owed beyond that the next pass plans."""
    PROPOSE = "proposed"
    """The ledger takes the sink's word, and what is too much becomes an event that is held."""


class KnownEvent(NamedTuple):
    """An event of ours that lies in the stretch."""

    id: EventId
    revision: int
    delta: Decimal
    total: Decimal
    state: State
    attempts: int
    attempted_at: dt.datetime | None
    """When the latest attempt began, or when it was settled where that is not on record."""
    exposed: bool
    """Whether an attempt was made that may have reached the sink."""
    rejected: bool = False
    """Whether the sink rejected it, so that it is not there."""
    dismissed: bool = False

    @property
    def may_be_there(self) -> bool:
        """Whether the sink may have it although it is not booked."""
        return (
            self.exposed and not self.rejected and self.state not in BOOKED and self.state is not State.SHADOW
        )


class Window(NamedTuple):
    """A slot of the stretch, as the ledger and the source have it."""

    start: dt.datetime
    source: Decimal | None
    """What the source says now; None if it was not asked, or cannot say."""
    read: Decimal
    """What it said when the window was last read."""
    total: Decimal
    """Where the slot stands once every event of it is settled."""


class Place(NamedTuple):
    """One customer of one feed in one stretch of time, as all three have it."""

    customer: str
    span: Span
    windows: tuple[Window, ...]
    events: tuple[KnownEvent, ...]
    sink: Decimal | None
    """What the sink has counted; None if it was not asked, or agrees by a coarser figure."""
    dimensions: Dimensions | None = None
    """Which combination it is, where the sink tells one from another; None if all are meant."""

    @property
    def source(self) -> Decimal:
        """What the source says, as far as it was asked; else what it said."""
        return planner.total(
            window.read if window.source is None else window.source for window in self.windows
        )

    @property
    def read(self) -> Decimal:
        """What the ledger read."""
        return planner.total(window.read for window in self.windows)

    @property
    def booked(self) -> Decimal:
        """What the sink has taken, by the ledger's word."""
        return planner.total(event.delta for event in self.events if event.state in BOOKED)

    @property
    def held_by_sink(self) -> Decimal:
        """What the sink has."""
        return self.booked if self.sink is None else self.sink


class Terms(NamedTuple):
    """By what a place is judged."""

    now: dt.datetime
    unit: Decimal
    """The least that is billed."""
    model: WriteModel
    proof: dt.timedelta
    """How long after an attempt the sink's totals surely show it."""
    read_again_from: dt.datetime
    """From here on passes read windows again by themselves."""
    late: str | None = None
    """What the sink says of its totals being late; None if it says nothing."""


class Difference(NamedTuple):
    """One step between source and sink that does not fit."""

    cause: Cause
    amount: Decimal
    """By how much the sink has too little by it; below zero: too much."""
    events: tuple[EventId, ...]
    reason: str
    repair: Repair = Repair.NONE
    held: bool = False
    """Whether it waits for somebody to release it."""


def judge(place: Place, terms: Terms) -> list[Difference]:
    """Return every difference of a place; none if all three agree and nothing is on its way."""
    contradiction = _contradiction(place)
    if contradiction is not None:
        return [contradiction]
    more = _beyond(place, terms)
    alone = _ledger_alone(place, more, terms)
    if alone is not None:
        return [alone, *_waiting(place, ())]
    found = list(_at_the_source(place, terms))
    explained: tuple[EventId, ...] = ()
    if more:
        difference = _explain(place, more, terms)
        explained = difference.events
        found.append(difference)
    return [*found, *_waiting(place, explained)]


def _contradiction(place: Place) -> Difference | None:
    """Find a slot that does not stand where its events lead."""
    stands = planner.total(window.total for window in place.windows)
    planned = planner.total(event.delta for event in place.events if event.state is not State.VOID)
    if stands == planned:
        return None
    reason = f"the ledger contradicts itself: its events come to {plain(planned)}, and it stands at {plain(stands)}"
    return Difference(Cause.UNEXPLAINED, subtract(stands, planned), (), reason)


def _beyond(place: Place, terms: Terms) -> Decimal:
    """Return how much more the sink has than is booked."""
    if place.sink is None or same(place.sink, place.booked, terms.unit):
        return ZERO
    return subtract(place.sink, place.booked)


def _ledger_alone(place: Place, more: Decimal, terms: Terms) -> Difference | None:
    """Find out whether source and sink agree where the ledger alone says something else."""
    unsure = any(event.may_be_there or _uncounted(event, terms) for event in place.events)
    if not more or unsure or subtract(place.source, place.read) != more:
        return None
    reason = (
        f"source and sink agree, and the ledger alone has {plain(abs(more))} {'less' if more > 0 else 'more'}"
    )
    return Difference(Cause.UNEXPLAINED, ZERO, (), reason, Repair.TAKE_OVER)


def _at_the_source(place: Place, terms: Terms) -> Iterator[Difference]:
    """Yield what the source has now and had not when it was read, and the other way round."""
    late = changed = ZERO
    differs = False
    for window in place.windows:
        if window.source is None or window.source == window.read:
            continue
        rose = subtract(window.source, window.read)
        if rose > 0 and window.start >= terms.read_again_from:
            late = add(late, rose)
        else:
            changed, differs = add(changed, rose), True
    if late:
        yield Difference(
            Cause.LATE, late, (), f"the source has {plain(late)} more than when it was read", Repair.READ
        )
    if differs:
        way = f"{plain(abs(changed))} {'less' if changed < 0 else 'more'}"
        yield Difference(
            Cause.CHANGED, changed, (), f"the source has {way} than when it was read", Repair.READ
        )


def _waiting(place: Place, explained: Sequence[EventId]) -> Iterator[Difference]:
    """Yield what was planned and the sink does not have: on its way, held, or refused."""
    open_ones = [event for event in place.events if event.id not in explained and not event.dismissed]
    groups = (
        (Cause.PENDING, (State.DUE, State.SENDING), "on the way"),
        (Cause.PENDING, (State.IN_DOUBT,), "in doubt, until the sink is read back"),
        (Cause.PENDING, (State.HELD,), "held, until somebody releases or dismisses it"),
        (Cause.REJECTED, (State.REFUSED,), "refused by the sink"),
    )
    for cause, states, what in groups:
        events = [event for event in open_ones if event.state in states]
        if events:
            amount = planner.total(event.delta for event in events)
            held = State.HELD in states
            yield Difference(cause, amount, _ids(events), f"{plain(amount)} {what}", held=held)


def _explain(place: Place, more: Decimal, terms: Terms) -> Difference:
    """Say why the sink has more than is booked, or less."""
    story = f"the sink has {plain(place.held_by_sink)}, and {plain(place.booked)} was accepted"
    if place.sink is None or not comparable(place.sink, terms.unit):
        reason = f"{story}: too large to be compared to the unit"
        return Difference(Cause.UNEXPLAINED, subtract(ZERO, more), (), reason)
    if terms.model is WriteModel.OVERWRITE:
        return _explain_overwritten(place, more, terms, story)
    lacks = subtract(ZERO, more)
    arrived = selection(
        [event for event in place.events if event.may_be_there and _owed(event)], more, terms.unit
    )
    if arrived is not None:
        return Difference(
            Cause.PENDING, lacks, _ids(arrived), f"{story}: an answer was lost, and is looked for"
        )
    effects = _effects(place, terms)
    least, most = (
        planner.total(each for each in effects if each < 0),
        planner.total(each for each in effects if each > 0),
    )
    if 2 * least - terms.unit < 2 * more < 2 * most + terms.unit:
        why = terms.late or "not counted yet, as far as anybody knows"
        return Difference(Cause.PENDING, lacks, (), f"{story}: {why}")
    difference = (
        _explain_more(place, more, terms, story) if more > 0 else _explain_lack(place, lacks, terms, story)
    )
    if effects:
        reason = (
            f"{difference.reason}; how much it is will be known once the sink must show all that was sent"
        )
        return difference._replace(events=(), reason=reason, repair=Repair.NONE)
    return difference


def _explain_more(place: Place, more: Decimal, terms: Terms, story: str) -> Difference:
    """Say why the sink has more than is booked, where it adds up."""
    lacks = subtract(ZERO, more)
    twice = selection([event for event in place.events if _maybe_twice(event)], more, terms.unit)
    if twice:
        return Difference(
            Cause.DUPLICATE, lacks, _ids(twice), f"{story}: an event counts twice", Repair.PROPOSE
        )
    return Difference(Cause.FOREIGN, lacks, (), f"{story}: the rest is not ours", Repair.PROPOSE)


def _explain_lack(place: Place, lacks: Decimal, terms: Terms, story: str) -> Difference:
    """Say why the sink has less than is booked, where it adds up."""
    booked = [event for event in place.events if event.state in BOOKED]
    missing = selection(booked, lacks, terms.unit)
    if missing:
        return Difference(
            Cause.MISSING, lacks, _ids(missing), f"{story}: accepted, and not there", Repair.PLAN
        )
    if missing is not None:
        return Difference(
            Cause.MISSING, lacks, (), f"{story}: several selections of events are that much", Repair.TAKE_OVER
        )
    reason = f"{story}: no event of ours is that much, so somebody else lowered it"
    return Difference(Cause.FOREIGN, lacks, (), reason, Repair.TAKE_OVER)


def _explain_overwritten(place: Place, more: Decimal, terms: Terms, story: str) -> Difference:
    """Say why a sink that keeps the newest total has another one than was accepted last."""
    lacks, shown = subtract(ZERO, more), place.held_by_sink
    newest_first = sorted(place.events, key=lambda event: event.revision, reverse=True)
    if terms.late is not None:
        return Difference(Cause.PENDING, lacks, (), f"{story}: {terms.late}")
    for event in newest_first:
        if event.may_be_there and _owed(event) and same(shown, event.total, terms.unit):
            return Difference(
                Cause.PENDING, lacks, (event.id,), f"{story}: an answer was lost, and is looked for"
            )
    booked = [event for event in newest_first if event.state in BOOKED]
    if any(_uncounted(event, terms) for event in booked):
        return Difference(Cause.PENDING, lacks, (), f"{story}: not counted yet, as far as anybody knows")
    for number, event in enumerate(booked):
        if number and same(shown, event.total, terms.unit):
            lost = _ids(booked[:number])
            return Difference(Cause.MISSING, lacks, lost, f"{story}: it has an older total", Repair.PLAN)
    if booked and not shown and lacks > 0:
        return Difference(
            Cause.MISSING, lacks, _ids(booked), f"{story}: accepted, and not there", Repair.PLAN
        )
    if any(same(shown, event.total, terms.unit) for event in newest_first if event.may_be_there):
        return Difference(
            Cause.DUPLICATE, lacks, (), f"{story}: one that was given up came last", Repair.PROPOSE
        )
    repair = Repair.TAKE_OVER if lacks > 0 else Repair.PROPOSE
    return Difference(Cause.FOREIGN, lacks, (), f"{story}: that total is not ours", repair)


def _owed(event: KnownEvent) -> bool:
    """Tell whether an event is still to be settled."""
    return event.state in (State.DUE, State.SENDING, State.IN_DOUBT)


def _maybe_twice(event: KnownEvent) -> bool:
    """Tell whether the sink may have counted an event once more than is booked: sent again, or given up and there."""
    if event.may_be_there:
        return not _owed(event)
    return event.state in BOOKED and event.attempts > 1


def _effects(place: Place, terms: Terms) -> list[Decimal]:
    """Return by how much each event of which the sink need not show anything yet may make it differ from what is booked."""
    uncounted = [subtract(ZERO, event.delta) for event in place.events if _uncounted(event, terms)]
    return uncounted + [event.delta for event in place.events if event.may_be_there and _owed(event)]


def _uncounted(event: KnownEvent, terms: Terms) -> bool:
    """Tell whether an event was accepted that the sink's totals need not show yet. What was taken over stood in them."""
    return event.state in BOOKED and event.attempts > 0 and (terms.late is not None or _fresh(event, terms))


def _fresh(event: KnownEvent, terms: Terms) -> bool:
    return event.attempted_at is not None and event.attempted_at > terms.now - terms.proof


def selection(events: Sequence[KnownEvent], amount: Decimal, unit: Decimal) -> tuple[KnownEvent, ...] | None:
    """Return the one selection of events that comes to an amount; an empty one if several do, None if none does."""
    some = [event for event in events if event.delta]
    whole = planner.total(event.delta for event in some)
    if some and same(whole, amount, unit) and all(event.delta * amount > 0 for event in some):
        return tuple(some)
    if len(some) > MOST_IN_QUESTION:
        alone = [event for event in some if same(event.delta, amount, unit)]
        return None if not alone else tuple(alone) if len(alone) == 1 else ()
    fitting = [
        chosen
        for count in range(1, len(some) + 1)
        for chosen in combinations(some, count)
        if same(planner.total(event.delta for event in chosen), amount, unit)
    ]
    if not fitting:
        return None
    return fitting[0] if len(fitting) == 1 else ()


def same(one: Decimal, other: Decimal, unit: Decimal) -> bool:
    """Tell whether two figures are the same to within half a unit."""
    return one.is_finite() and 2 * abs(one - other) < unit


def meant(figure: Decimal, unit: Decimal) -> Decimal:
    """Return the decimal that a sink's binary fraction stands for: the shortest that rounding may have led to it."""
    places = max(0, -unit.adjusted())
    for more in range(MOST_PLACES) if figure.is_finite() else ():
        rounded = round(figure, places + more)
        if abs(rounded - figure) * MOST_UNITS <= abs(figure):
            return rounded
    return figure


def comparable(figure: Decimal, unit: Decimal) -> bool:
    """Tell whether a sink's figure is a number that has room for the unit."""
    return figure.is_finite() and abs(figure) < MOST_UNITS * unit


def next_command(difference: Difference, meter: str, customer: str, span: Span) -> str:
    """Return what to type next about a difference of a meter's customer, ready to paste."""
    days = Span(floor(span.start, DAY), floor(span.end - dt.timedelta(microseconds=1), DAY) + DAY)
    whose = f"{quoted(meter)} --customer {quoted(customer)}"
    ids = " ".join(map(str, difference.events))
    match difference.cause:
        case Cause.PENDING if difference.held:
            return f"aggregator events release {ids}"
        case Cause.REJECTED:
            return f"aggregator events list --meter {whose}"
        case Cause.PENDING | Cause.LATE:
            return "aggregator run --once"
        case Cause.CHANGED:
            return f"aggregator backfill {quoted(meter)} --from {minute(span.start)} --to {minute(span.end)}"
        case _ if difference.repair is not Repair.NONE:
            return (
                f"aggregator reconcile {whose} --from {days.start:%Y-%m-%d} --to {days.end:%Y-%m-%d} --repair"
            )
        case _:
            return f"aggregator events list --meter {whose}"


def quoted(text: str) -> str:
    """Return a word for a shell."""
    plain_word = text.replace("_", "").replace("-", "").replace("/", "").replace(".", "")
    return text if plain_word.isalnum() else "'" + text.replace("'", "'\\''") + "'"


def reads_by_hour(days: Iterable[dt.datetime]) -> list[Span]:
    """Return the fewest spans whose hours tell all of these days apart: each read gives `ROWS_AT_ONCE` hours."""
    spans: list[Span] = []
    length = ROWS_AT_ONCE * HOUR
    for day in sorted(days):
        if spans and day + DAY - spans[-1].start <= length:
            spans[-1] = Span(spans[-1].start, day + DAY)
        else:
            spans.append(Span(day, day + DAY))
    return spans


def reads_by_day(span: Span) -> list[Span]:
    """Return the fewest spans that cover a span, each of which is one read by day."""
    spans, start = [], span.start
    while start < span.end:
        end = min(span.end, start + DAYS_AT_ONCE * DAY)
        spans.append(Span(start, end))
        start = end
    return spans


def _ids(events: Iterable[KnownEvent]) -> tuple[EventId, ...]:
    return tuple(event.id for event in events)
