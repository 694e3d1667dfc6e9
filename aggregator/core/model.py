"""The values that travel between the parts. Frozen, typed, and without behaviour that reaches outside.

Rules
- An instant is an aware UTC datetime. A window is half-open: `start <= instant < end`.
- A quantity is a Decimal. Nothing in here is ever a float.
- What is created a million times in a pass is a NamedTuple, which costs a third of a frozen dataclass.
"""

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import NamedTuple, NewType

from aggregator.core.deltas import Deltas
from aggregator.core.dimensions import Dimensions
from aggregator.core.renaming import Outlet
from aggregator.core.sampling import Counters, Sampling

SlotId = NewType("SlotId", int)
EventId = NewType("EventId", int)
ClaimId = NewType("ClaimId", int)

ZERO = Decimal(0)
EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


class Span(NamedTuple):
    """A half-open stretch of time `[start, end)`, made of whole windows of the meter it is used with."""

    start: dt.datetime
    end: dt.datetime

    def __contains__(self, instant: object) -> bool:
        return isinstance(instant, dt.datetime) and self.start <= instant < self.end

    def __str__(self) -> str:
        return f"[{self.start:%Y-%m-%dT%H:%M}Z, {self.end:%Y-%m-%dT%H:%M}Z)"


class Decreases(StrEnum):
    """What becomes of a correction that lowers what was already planned."""

    HOLD = "hold"
    APPLY = "apply"
    CANCEL = "cancel"  # held, and what it corrects is taken back from the sink, as long as that can be done


class Guard(StrEnum):
    """Which guard holds an event: the key of the meter that set it; or that a repair proposed it."""

    SHRINK = "shrink_guard"
    CUSTOMER = "max_per_customer_window"
    CHANGE = "max_change"
    TOTAL = "max_total_change"
    REPAIR = "repair"

    @property
    def limits(self) -> bool:
        """Whether it is against too much: it holds what raises a bill."""
        return self not in (Guard.SHRINK, Guard.REPAIR)


@dataclass(frozen=True, slots=True, kw_only=True)
class Guards:
    """What is too much to be sent without a person's word, in units; None: nothing is."""

    max_per_customer_window: Decimal | None = None
    """The most that a customer may use in a window."""
    max_change: Decimal | None = None
    """How many times what was usual a customer may use in a window."""
    max_total_change: Decimal | None = None
    """How many times what was usual all customers together may use in a window."""
    unusual_from: Decimal = ZERO
    """Up to how many units nothing is unusual, however little was usual."""
    unusual_zero: bool = False
    """Whether a customer is told of that always had usage and has none."""

    @property
    def holds(self) -> bool:
        """Whether anything is ever held by them."""
        limits = (self.max_per_customer_window, self.max_change, self.max_total_change)
        return any(limit is not None for limit in limits)


NO_GUARDS = Guards()


class Swollen(NamedTuple):
    """A window in which all customers together use unusually much: how much, and what was usual."""

    now: Decimal
    usual: Decimal


class WriteModel(StrEnum):
    """Which number of an event a sink books: the change, or where the slot stands after it.

    Of the latter, a sink that overwrites keeps one number per slot. One that bills the last keeps a customer's newest number
    of all: there, the windows must arrive in their order.
    """

    DELTA = "delta"
    OVERWRITE = "overwrite"
    LAST = "last"


class Encoding(StrEnum):
    """How a sink wants quantities written: as text in quotes, or as a JSON number. Plain digits either way."""

    TEXT = "text"
    NUMBER = "number"


class State(StrEnum):
    """Where an event stands. `states` has every step from one to another, with what causes it."""

    DUE = "due"
    SENDING = "sending"
    ACCEPTED = "accepted"
    CONFIRMED = "confirmed"
    REFUSED = "refused"
    IN_DOUBT = "in_doubt"
    HELD = "held"
    VOID = "void"
    SHADOW = "shadow"


class Bulk(NamedTuple):
    """Another way of a sink, for many at once: taken while more than `above` events wait, `batch` of them per `send`."""

    transport: str
    above: int
    batch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a sink can take. Each sink declares its own, with the page the figures come from."""

    write_model: WriteModel
    memory: dt.timedelta
    """How long after the first attempt a resend under the same identifier is surely recognised."""
    past: dt.timedelta
    """How old an event's instant may be when it is sent."""
    proof: dt.timedelta | None
    """How long after the last attempt the sink's own totals prove whether it arrived; None if it cannot be read back."""
    significant_digits: int
    identifier_length: int
    batch: int
    """How many events one `send` should be given to keep the sink busy."""
    rate: float
    """How many events a second it takes."""
    future: dt.timedelta = dt.timedelta(minutes=5)
    """How far ahead of the clock an event's instant may lie when it is sent."""
    negatives: bool = True
    """Whether it takes a quantity below zero; where it does not, what lowers a bill is refused and named."""
    zeros: bool = True
    """Whether it takes a total of zero."""
    encoding: Encoding = Encoding.TEXT
    """How quantities are written."""
    answers: bool = True
    """Whether it says of each event what it made of it; else its totals must show that an event was counted."""
    reads_by: dt.timedelta | None = dt.timedelta(minutes=1)
    """In steps of what length its totals can be asked for; None if it has none to be asked for."""
    silent_way: str = ""
    """By which way it says nothing of single events, taken now or not: what went by it is to be read back all the same."""
    newest_of: dt.timedelta | None = None
    """Of totals: the stretch of time, from UTC midnight on, of which the newest event counts; None if that is not known."""
    keeps_order: bool = True
    """Whether what was given first counts first: files lie in a folder, and are taken from there in any order."""
    transport: str = ""
    """How events go there, in the sink's own word. It is recorded with the attempt: see `Event.way`."""
    bulk: Bulk | None = None
    """How they go instead while many wait."""

    @property
    def proof_of_one(self) -> dt.timedelta | None:
        """Return `proof` of a single event; None where the totals show only the newest of several."""
        return self.proof if self.write_model is WriteModel.DELTA else None

    @property
    def past_days(self) -> int:
        """Return `past` for a sentence: in days, rounded up, as the sink's own documentation has it."""
        return -(-self.past // dt.timedelta(days=1))


class Terms(NamedTuple):
    """On what terms a meter feeds a sink: which windows it bills there, and whether anything is sent."""

    sink: str
    bill_from: dt.datetime | None = None
    """The first window that is billed through this sink; None: the first that was not read when the sink joined."""
    bill_until: dt.datetime | None = None
    """Windows at or after it are not billed through this sink; None: without end."""
    shadow: bool = False
    """Whether events are planned and recorded, and never sent."""


class Changed(NamedTuple):
    """How a source says which windows were touched, so that revisits need to read no others."""

    query: str
    fingerprint: str
    """Of all that decides what is named."""
    lag: dt.timedelta
    """How far before the mark is asked."""
    fully: dt.timedelta
    """How often all that can be billed is read again, whatever was named."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Meter:
    """One billable thing: what is read, how it is cut into windows, and where it goes."""

    name: str
    source: str
    query: str
    fingerprint: str
    sinks: tuple[str, ...]
    window: dt.timedelta
    start_at: dt.datetime
    delay: dt.timedelta
    revisit: dt.timedelta
    decimals: int = 0
    decreases: Decreases = Decreases.HOLD
    shrink_guard: Decimal = Decimal("0.2")
    """A window that loses more than this share of its quantity at once must be read twice before it is lowered."""
    guards: Guards = NO_GUARDS
    """What is too much to be sent without a person's word."""
    retained: dt.datetime | dt.timedelta | None = None
    """Since when, or for how long, the source keeps its rows. Windows before that are sealed; None: it keeps them all."""
    latest: bool = False
    """Whether a customer is billed for the newest window's quantity, as for seats, and not for the sum of them."""
    split: dt.timedelta | None = None
    """How short a piece of a window the query may be asked for, if it only counts or sums; None: whole windows."""
    terms: tuple[Terms, ...] = ()
    """Of those sinks that have terms of their own."""
    renamed_from: str | None = None
    """What it was called before."""
    customers: str | None = None
    """By which mapping the keys that its query returns become billing customers; None: they are those themselves."""
    sampling: Sampling | None = None
    """How it is sampled, if its source tells a state and no history."""
    outlets: tuple[Outlet, ...] = ()
    """What it feeds at each of its sinks, as far as somebody who knows them has said so."""
    dimensions: tuple[str, ...] = ()
    """By what usage is kept apart besides its customer: further columns of the query, in alphabetical order."""
    max_combinations: int = 1_000
    """How many combinations of their values there may be before somebody is asked whether they are meant."""
    deltas: Deltas | None = None
    """How it is read by a cursor; None if it is read by windows."""
    changed: Changed | None = None
    """By what question its source says which old windows are to be read again; None: all are, by the calendar."""

    @property
    def read(self) -> str:
        """Return how its source is read, in the configuration's word for it."""
        if self.sampling is not None:
            return "counters" if isinstance(self.sampling.reads, Counters) else "gauges"
        return "windows" if self.deltas is None else "deltas"

    @property
    def unit(self) -> Decimal:
        """Return the least that is billed: one of the last of its decimals."""
        return Decimal(1).scaleb(-self.decimals)

    def terms_of(self, sink: str) -> Terms:
        """Return on what terms a sink is fed."""
        return next((each for each in self.terms if each.sink == sink), Terms(sink))

    def outlet_of(self, sink: str) -> Outlet | None:
        """Return what it feeds at a sink, if that is known."""
        return next((each for each in self.outlets if each.sink == sink), None)

    def sealed_until(self, now: dt.datetime) -> dt.datetime | None:
        """Return before when rows are gone from the source."""
        return now - self.retained if isinstance(self.retained, dt.timedelta) else self.retained


class Definition(NamedTuple):
    """By which query, and in which windows, a meter is read from `since` on, until the next definition."""

    since: dt.datetime
    fingerprint: str
    query: str
    window: dt.timedelta
    dimensions: tuple[str, ...] = ()
    """Which further columns of the query keep usage apart."""
    customers: str | None = None
    """The mapping from keys to billing customers, by its name; None: the query returns billing customers."""


class Fence(NamedTuple):
    """What an application database says of its transactions at one instant, for the commit barrier."""

    at: dt.datetime
    """The database's own clock."""
    xmin: int
    """Every transaction with a lower id has ended."""
    xmax: int
    """No transaction with this id or a higher one had begun to write."""
    oldest_start: dt.datetime | None
    """When the oldest transaction that is open began; None if none is, or the role may not see it."""
    sees_starts: bool
    standby: bool
    fresh_until: dt.datetime | None
    """Up to when the source surely has all rows, where that must be proven; None without proof, and elsewhere."""
    holder: str | None
    """Who keeps `xmin` or `oldest_start` back, in words."""
    declared: bool = False
    """Whether `freshness` is configured: rows come from elsewhere, so that being a primary proves nothing."""
    lacking: str | None = None
    """Why nothing is proven beyond `fresh_until`, in words, if that is known."""

    @property
    def must_prove(self) -> bool:
        """Whether nothing is believed beyond `fresh_until`."""
        return self.standby or self.declared


class Reading(NamedTuple):
    """What the source says one customer used in one window, or a part of it: what arrives for a slot is summed.

    `customer` is None where the row could not be mapped, and `dimensions` where it has no usable value for each of them: it
    belongs to no slot. `quantity` is None where the row's number is unusable; the slot it belongs to stays as it is.
    `reason` says what of it is the matter.
    """

    window_start: dt.datetime
    customer: str | None
    quantity: Decimal | None
    at: dt.datetime | None
    reason: str | None = None
    noise: Decimal = ZERO
    """Of a floating-point number: by what share of it the same rows may come out differently; of an exact one, none."""
    dimensions: Dimensions | None = ()


class Differing(NamedTuple):
    """What two readings of one window said of a customer, though none of its rows had changed."""

    customer: str | None
    first: Decimal
    second: Decimal
    how: str = "in one snapshot"
    """How the second one was made."""


Doubts = Mapping[tuple[dt.datetime, str | None], str]
"""Why a person is to see what a customer used in a window, by its start; by None, what every one did."""


class Tail(StrEnum):
    """What stands in the way of planning another event for a slot: the state of its latest one."""

    CLEAR = "clear"
    UNSETTLED = "unsettled"  # or that of the slot in which its usage was billed to another customer is
    PARKED = "parked"  # held, or refused: nothing of it is booked, and a newer plan replaces it
    GUARDED = "guarded"  # parked by the shrink guard: what replaces it is guarded as well
    LIMITED = "limited"  # parked by a guard against too much: without it its window has not lost anything
    PROPOSED = (
        "proposed"  # parked by a repair: what replaces it waits for a person as well, whatever the meter says
    )


class Together(NamedTuple):
    """What a customer uses in a window of all combinations together, and how much of that was let go before."""

    now: Decimal
    passed: Decimal


class Change(NamedTuple):
    """A slot whose quantity is no longer what the ledger holds, with all that is needed to decide about it."""

    slot: SlotId
    event: EventId
    """Reserved for the event, should there be one."""
    customer: str
    window_start: dt.datetime
    before: Decimal
    now: Decimal
    at: dt.datetime | None
    total: Decimal
    revision: int
    """The revision of the next event: how many this slot has had."""
    stamped_at: dt.datetime | None
    """The instant of revision 0."""
    carry: Decimal
    """What the customer is owed of this meter in parts too small to bill, before this pass."""
    tail: Tail
    parked: EventId | None
    parked_delta: Decimal
    known: bool
    """Whether the ledger has the slot already."""
    again: bool = False
    """Whether its latest event came to nothing, or may have been undone: where it stands is to be said once more."""
    shadow: bool = False
    """Whether the slot's latest event was planned in shadow: the sink has nothing for a correction to correct. Of a new
    slot, whether another sink bills it."""
    newer: bool = False
    """Whether it has not changed, and is here because an older window of the customer has: it may have to follow that."""
    unsaid: bool = False
    """Whether a guard holds all that it ever had: there is nothing at the sink that could be sent again."""
    usual: Decimal | None = None
    """What was usual for its customer at this hour; None if nothing was, or if nobody asks."""
    passed: bool = False
    """Whether what is planned anew had left before: the guards had let it go."""
    dimensions: Dimensions = ()
    together: Together | None = None
    """Of its customer and window, where usage is kept apart and guards ask; None: its own figures are all there is."""


class Planned(NamedTuple):
    """The event that a change calls for, complete: these values are written once and sent as they are."""

    id: EventId
    revision: int
    delta: Decimal
    total: Decimal
    at: dt.datetime
    identifier: str
    state: State
    reason: str | None
    guard: Guard | None = None
    """Which guard holds it: the shrink guard until the window is read again, any other until a person says so."""


class Decision(NamedTuple):
    """What to do about one changed slot.

    `deferred` leaves the slot untouched, to be read again once what is unsettled is settled: its own event, or that of the
    customer whose usage moved to this one.
    """

    change: Change
    deferred: bool
    total: Decimal
    carry: Decimal
    voids: EventId | None
    event: Planned | None


class Event(NamedTuple):
    """One message owed to a sink, as it was planned, with what the ledger knows of earlier attempts."""

    id: EventId
    meter: str
    customer: str
    window_start: dt.datetime
    revision: int
    delta: Decimal
    total: Decimal
    at: dt.datetime
    identifier: str
    attempts: int
    """How many attempts there have been, the one about to be made included."""
    exposed_at: dt.datetime | None
    """When the first attempt began that may have reached the sink; None if none has."""
    attempted_at: dt.datetime | None = None
    """When the latest attempt before this one began."""
    transport: str = ""
    """How it is to go: as the first attempt went that may have arrived, since only there it is surely recognised."""
    dimensions: Dimensions = ()
    """What its usage is kept apart by besides the customer: names and values, in the order of the names."""


class Answer(StrEnum):
    """What a sink said of one event, by what follows from it."""

    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"  # the sink has this identifier already
    REFUSED = "refused"  # no, and it will stay no
    BUSY = "busy"  # not now, and nothing was done
    UNKNOWN = "unknown"  # no usable answer: it may or may not have been done
    UNSENT = "unsent"  # never left this process


class Verdict(NamedTuple):
    """A sink's word on one event. `retry_after` is the sink's own wish for when to come again, in seconds."""

    event: EventId
    answer: Answer
    reason: str | None = None
    request_id: str | None = None
    retry_after: float | None = None


class Outcome(NamedTuple):
    """What a verdict means for the ledger: the event's next state and, if it is due again, when."""

    event: EventId
    state: State
    due_at: dt.datetime | None = None
    reason: str | None = None
    request_id: str | None = None
    exposed_at: dt.datetime | None = None
    counts: bool = True
    """Whether the attempt counts; one that never left does not."""
    attempted_at: dt.datetime | None = None
    """Of an attempt that does not count: when the one before it began, which is the latest one still."""


class Rejection(NamedTuple):
    """One event that a sink reports as invalid after it had accepted it."""

    identifier: str
    reason: str


class Report(NamedTuple):
    """What a sink reports of a meter: how many events received within the span were invalid, and some of them by name."""

    id: str
    meter: str
    span: Span
    rejected: int
    named: tuple[Rejection, ...]
    whose: str = ""
    """What the customers' names begin with that it can be about: `acct_1/`; nothing if it can be any."""


class Bounds(NamedTuple):
    """When a file is closed: once it holds so much, or once the oldest event that is due has waited so long."""

    records: int
    bytes: int
    wait: dt.timedelta


class Written(NamedTuple):
    """A file that lies under its name, and what it holds."""

    name: str
    meters: tuple[str, ...]
    first_window: dt.datetime
    last_window: dt.datetime
    records: int
    bytes: int
    sha256: str
