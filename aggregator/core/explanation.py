"""What there is to know of a billed number: facts as the ledger and the source have them, and the report made of them. Pure.

Rules
- A fact is what is on record, with its instant. Nothing is concluded here; `story` puts it into sentences.
- A report holds all that a page, a terminal or a program needs, so that each of them only has to show it.
"""

import datetime as dt
from collections.abc import Sequence
from decimal import Decimal
from typing import NamedTuple

from aggregator.core.dimensions import Dimensions
from aggregator.core.model import ZERO, Definition, Span, State
from aggregator.core.planner import add, subtract
from aggregator.core.states import BOOKED, UNDER_WAY


class PassFact(NamedTuple):
    """The pass that planned an event."""

    id: int
    kind: str
    at: dt.datetime
    seconds: float


class Evidence(NamedTuple):
    """What was read of a whole window, all customers together."""

    pass_id: int
    at: dt.datetime
    rows: int
    quantity: Decimal
    checksum: int

    @property
    def digest(self) -> str:
        """The checksum as it is shown."""
        return f"{self.checksum & 0xFFFFFFFFFFFFFFFF:016x}"


class Try(NamedTuple):
    """A try that did not end well: which state followed, and what the sink said."""

    at: dt.datetime
    state: State
    reason: str | None
    request_id: str | None


class Parked(NamedTuple):
    """Why an event waits for a person or for proof, since when, and whether it was given up."""

    since: dt.datetime
    reason: str
    look_at: dt.datetime | None
    dismissed_at: dt.datetime | None
    was_accepted: bool
    moved_with: int | None


class CancelFact(NamedTuple):
    """A request that a sink take an event back."""

    asked_at: dt.datetime
    state: str
    settled_at: dt.datetime | None
    answer: str | None


class Decided(NamedTuple):
    """What a person decided about an event: `release`, `dismiss` and the other verbs of the ledger's decisions."""

    at: dt.datetime
    verb: str
    who: str
    reason: str | None


class EventFact(NamedTuple):
    """An event, and all that is on record of it."""

    id: int
    revision: int
    delta: Decimal
    total: Decimal
    quantity: Decimal
    """What the source said of the customer and window when it was planned."""
    at: dt.datetime
    """The instant by which the sink bills it."""
    identifier: str
    planned_at: dt.datetime
    state: State
    reason: str | None
    attempts: int
    exposed_at: dt.datetime | None
    attempted_at: dt.datetime | None
    settled_at: dt.datetime | None
    transport: str | None
    request_id: str | None
    planned_by: PassFact | None
    tries: Sequence[Try] = ()
    parked: Parked | None = None
    rejected_at: dt.datetime | None = None
    """When the sink reported it as invalid, after it had accepted it; and why."""
    rejected_reason: str | None = None
    cancelling: Sequence[CancelFact] = ()
    delivery: int | None = None
    """The claim of its latest attempt, and the file that it became."""
    file: str | None = None
    due_at: dt.datetime | None = None
    """When it is sent next, or its claim runs out."""
    decided: Sequence[Decided] = ()


class WindowFacts(NamedTuple):
    """One customer's window of a meter at one sink, and all that is on record of it: of one combination, if it has any."""

    meter: str
    sink: str
    customer: str
    window: Span
    quantity: Decimal | None
    """What the source said when it was last read; None if it never said anything."""
    total: Decimal
    definition: Definition
    last: bool
    """Whether a customer is billed by the last number, so that totals are sent."""
    mark: dt.datetime
    bills: Span | None
    """Which windows the feed bills."""
    events: Sequence[EventFact] = ()
    evidence: Sequence[Evidence] = ()
    unread: str | None = None
    """Why the source could not give the window, if it could not."""
    unusable: str | None = None
    """Why what the source said of it cannot be billed, if it cannot."""
    dimensions: Dimensions = ()
    """The combination that it is about."""
    without_value: str | None = None
    """Why rows of the customer and window belong to no combination, if any do."""

    def sum_of(self, *states: State) -> Decimal:
        """Return what the events in some states come to."""
        total = ZERO
        for event in self.events:
            if event.state in states:
                total = add(total, event.delta)
        return total

    @property
    def billed(self) -> Decimal:
        """What the sink has."""
        if self.last:
            return next((each.total for each in reversed(self.events) if each.state in BOOKED), ZERO)
        return self.sum_of(*BOOKED)

    @property
    def under_way(self) -> Decimal:
        """What is due, being sent or in doubt."""
        return self.sum_of(*UNDER_WAY, State.IN_DOUBT)

    @property
    def waiting(self) -> Decimal:
        """What is held or refused, dismissed or not."""
        return self.sum_of(State.HELD, State.REFUSED)

    @property
    def carried(self) -> Decimal:
        """What is too small to bill, less what was billed for other windows."""
        return ZERO if self.quantity is None else subtract(self.quantity, self.total)


class Now(NamedTuple):
    """What the source says now of a window, or why it could not be asked."""

    at: dt.datetime
    source: str
    trouble: str | None = None
    quantity: Decimal = ZERO
    """Of the customer, and of one combination."""
    rows: int = 0
    """Of the whole window: rows, their sum, and the checksum of customers and quantities."""
    sum: Decimal = ZERO
    checksum: int = 0
    customers: int = 0
    """How many customers have changed since the window was last read, and by how much all of them together."""
    change: Decimal = ZERO
    proven_until: dt.datetime | None = None
    """Up to when the source has proven to show everything, where it must prove that."""


class Detail(NamedTuple):
    """The rows behind a number, or some of them; or why they could not be had."""

    columns: Sequence[str]
    rows: Sequence[Sequence[object]]
    more: bool
    trouble: str | None = None


class Sentence(NamedTuple):
    """What happened, and when; without an instant, how it stands."""

    at: dt.datetime | None
    text: str


class Story(NamedTuple):
    """A window of a customer at a sink, explained."""

    facts: WindowFacts
    sentences: Sequence[Sentence]
    query: str
    """The definition's query, filled in, that gives this number when it is pasted."""
    now: Now | None = None
    detail: Detail | None = None


class Plain(NamedTuple):
    """Windows of which there is nothing to say: read once, billed at once, and the same ever since."""

    meter: str
    sink: str
    windows: int
    quantity: Decimal
    billed: Decimal


class Explanation(NamedTuple):
    """What was asked, and all that there is to say."""

    as_of: dt.datetime
    meter: str
    customer: str
    span: Span
    stories: Sequence[Story]
    plain: Sequence[Plain] = ()
    left_out: int = 0
    """How many windows with a story are not told, since there are too many."""
    notes: Sequence[str] = ()
