"""The ledger in memory: the verbs of `aggregator.ledger` with the same meaning, for a thousand simulated lives a minute.

Each verb is one transaction: it works on the tables when nothing can fail any more, or it raises and has changed nothing.
What Postgres refuses by constraint or trigger is refused here too. Ids are given as its sequences give them, so that the
same life over either ledger ends in the same rows; a test compares them.
"""

import datetime as dt
import uuid
from collections.abc import Callable, Iterable, Mapping
from collections.abc import Sequence as Values
from dataclasses import dataclass, field
from decimal import Decimal
from typing import NamedTuple

from aggregator.core import definitions, renaming
from aggregator.core.archive import Day, Row
from aggregator.core.changed import Touched
from aggregator.core.commit_barrier import Noted
from aggregator.core.dimensions import Dimensions
from aggregator.core.feed_terms import FeedCoverage, changed, joined
from aggregator.core.model import (
    EPOCH,
    ZERO,
    ClaimId,
    Definition,
    Event,
    EventId,
    Guard,
    Meter,
    Reading,
    SlotId,
    Span,
    State,
)
from aggregator.core.renaming import KnownLine, KnownMeter, Memory, Outlet
from aggregator.core.states import CancellationState, may_follow
from aggregator.errors import InvariantBroken, LeaseLost, MeterRefused
from aggregator.ledger import meter_names
from aggregator.ledger.feeds import as_it_is, fed_until
from aggregator.ledger.identity import Failover
from aggregator.ledger.meters import Feed, Lease, Left, Registered
from aggregator.ledger.outbox.first_use import TAKEN_BACK
from aggregator.ledger.passes.running_totals import CursorState
from aggregator.ledger.passes.silence import Silence
from aggregator.ledger.passes.silent_customers import SilentCustomers
from tests.simulation.apart import customer_of, dimensions_of


@dataclass(slots=True)
class MeterRow:
    """A row of `meter`."""

    id: int
    name: str
    fingerprint: str
    start_at: dt.datetime
    mark: dt.datetime
    reread_from: dt.datetime | None = None
    swept: dt.datetime | None = None
    hourly_at: dt.datetime | None = None
    daily_at: dt.datetime | None = None
    waits_for: str | None = None
    lease_owner: uuid.UUID | None = None
    lease_until: dt.datetime | None = None
    epoch: int = 0
    seen_until: dt.datetime | None = None
    left_epoch: int = 0
    left_as: bytes | None = None
    formerly: tuple[str, ...] = ()
    read: str = "windows"
    doubtful_until: dt.datetime | None = None
    adopted: tuple[tuple[Span, dt.datetime], ...] = ()
    """What adoptions have compared."""
    archived_until: dt.datetime | None = None


@dataclass(slots=True)
class FeedRow:
    """A row of `feed`."""

    id: int
    meter_id: int
    sink_id: int
    since: dt.datetime
    until: dt.datetime | None
    shadow: bool
    shadow_until: dt.datetime | None
    read_until: dt.datetime
    lost: Span | None = None
    ordered: bool = False
    """Whether a customer's events leave one after the other."""
    cleared_until: int = 0
    """Events up to this one may leave."""
    asked: tuple[str, ...] = ()
    asked_at: dt.datetime | None = None
    cleared_at: dt.datetime | None = None
    stopped: str | None = None
    """What the sink holds that is not ours."""
    called: str = ""
    """By what name the sink counts it."""
    parted: bool = False
    """Whether customers move to it, or away, at times of their own."""

    @property
    def coverage(self) -> FeedCoverage:
        """What the feed bills, and how far it is."""
        return FeedCoverage(
            self.since,
            self.until,
            self.shadow,
            self.shadow_until,
            self.read_until,
            self.lost,
            self.parted,
        )

    @coverage.setter
    def coverage(self, coverage: FeedCoverage) -> None:
        for name, value in coverage._asdict().items():
            setattr(self, name, value)


class CutoverRow(NamedTuple):
    """A row of `cutover`."""

    to_feed: int
    at: dt.datetime
    parallel: bool


@dataclass(slots=True)
class SlotRow:
    """A row of `slot`."""

    id: SlotId
    feed_id: int
    window_start: dt.datetime
    customer: str
    quantity: Decimal
    total: Decimal
    revision: int
    stamped_at: dt.datetime | None
    tail: EventId | None
    replan: bool = False


@dataclass(slots=True)
class EventRow:
    """A row of `event`, with its name in the tables it refers to."""

    id: EventId
    slot_id: SlotId
    feed_id: int
    meter: str
    sink_id: int
    customer: str
    window_start: dt.datetime
    revision: int
    delta: Decimal
    total: Decimal
    at: dt.datetime
    identifier: str
    state: State
    reason: str | None
    planned_at: dt.datetime
    attempts: int = 0
    exposed_at: dt.datetime | None = None
    attempted_at: dt.datetime | None = None
    settled_at: dt.datetime | None = None
    request_id: str | None = None
    transport: str = ""
    taken_over: bool = False
    """Whether an adoption wrote it."""

    def as_event(self, exposed_at: dt.datetime | None, attempted_at: dt.datetime | None = None) -> Event:
        """Return what a claim gives of it."""
        return Event(
            self.id,
            self.meter,
            customer_of(self.customer),
            self.window_start,
            self.revision,
            self.delta,
            self.total,
            self.at,
            self.identifier,
            self.attempts,
            exposed_at,
            attempted_at,
            self.transport,
            dimensions_of(self.customer),
        )


@dataclass(slots=True)
class OutboxRow:
    """A row of `outbox`."""

    sink_id: int
    due_at: dt.datetime
    claim_id: ClaimId | None = None
    backfill: bool = False


@dataclass(slots=True)
class ParkedRow:
    """A row of `parked`."""

    feed_id: int
    state: State
    reason: str
    since: dt.datetime
    guard: Guard | None = None
    was_accepted: bool = False
    look_at: dt.datetime | None = None
    moved_with: EventId | None = None
    dismissed_at: dt.datetime | None = None


@dataclass(slots=True)
class UnreadRow:
    """A row of `unread`."""

    tries: int
    next_at: dt.datetime


@dataclass(slots=True)
class ReadbackRow:
    """A row of `readback`."""

    id: int
    feed_id: int
    span: Span
    report: str
    """By which report it was asked for."""
    due_at: dt.datetime
    done_at: dt.datetime | None = None
    found: str | None = None


@dataclass(slots=True)
class ClaimRow:
    """A row of `claim`."""

    sink_id: int
    owner: uuid.UUID
    claimed_at: dt.datetime
    events: tuple[EventId, ...]
    settled_at: dt.datetime | None = None


@dataclass(slots=True)
class CancellationRow:
    """A row of `cancellation`."""

    id: int
    event_id: EventId
    sink_id: int
    state: CancellationState
    asked_at: dt.datetime
    next_at: dt.datetime
    others: int
    tries: int = 0
    tried_at: dt.datetime | None = None
    unsure: bool = False
    seen_at: dt.datetime | None = None
    answer: str | None = None
    settled_at: dt.datetime | None = None


@dataclass(slots=True)
class NoticeRow:
    """A row of `notice`."""

    kind: str
    created_at: dt.datetime
    came_by: str
    taken_at: dt.datetime


@dataclass(slots=True)
class HeardRow:
    """A row of `intake`."""

    polled_until: dt.datetime | None = None
    polled_at: dt.datetime | None = None
    refused_at: dt.datetime | None = None
    refused_reason: str | None = None


@dataclass(slots=True)
class FileRow:
    """A row of `file`."""

    sink_id: int
    place: str
    by_hand: bool
    held_until: dt.datetime
    tries: int = 1
    reason: str | None = None
    name: str | None = None
    sha256: str | None = None
    written_at: dt.datetime | None = None
    confirmed_at: dt.datetime | None = None


@dataclass(slots=True)
class PieceRow:
    """The newest row of `run` about a piece of a backfill that was read."""

    span: Span
    started_at: dt.datetime
    fingerprint: str


@dataclass(slots=True)
class SamplingRow:
    """A row of `sampling`."""

    due: dt.datetime
    at: dt.datetime
    rows: int
    unusable: int
    stale: int = 0
    is_dropped: bool = False
    """Whether its samples are kept no more."""
    generation: int = 0
    """Which generation of the ledger took it: the real ledger has that with each counter."""
    is_first_since: bool = False
    """Whether it is the first one after an adoption."""


@dataclass(slots=True)
class SeriesRow:
    """A row of `series`."""

    at: dt.datetime | None = None
    value: Decimal | None = None
    generation: int | None = None


@dataclass(slots=True)
class SampleRow:
    """A row of `sample`, with the names of its series."""

    at: dt.datetime
    customer: str
    series: str
    value: Decimal | None
    previous: Decimal | None = None
    previous_at: dt.datetime | None = None
    adopted: bool = False
    reason: str | None = None


@dataclass(slots=True)
class ArchiveRow:
    """A row of `archive`, with those of `archive_day`."""

    id: int
    meter_id: int
    month: dt.datetime
    removed_until: dt.datetime
    written_at: dt.datetime
    place: str
    name: str
    bytes: int
    sha256: str
    slots: int
    events: int
    first_event: int | None
    last_event: int | None
    verified_at: dt.datetime | None = None
    removed_at: dt.datetime | None = None
    restored_at: dt.datetime | None = None
    days: dict[dt.datetime, Day] = field(default_factory=dict)


class Sums(NamedTuple):
    """What slots come to that are archived: a row of `archived_usage` or of `archived_hour`."""

    slots: int = 0
    quantity: Decimal = ZERO
    total: Decimal = ZERO

    def and_slot(self, row: Row) -> "Sums":
        """Return the same with one more slot."""
        return Sums(self.slots + 1, self.quantity + row.quantity, self.total + row.total)


@dataclass(slots=True)
class PinRow:
    """The row of `pin`."""

    generation: int = 0
    claims_made: int = 0
    stopped_at: dt.datetime | None = None
    stopped_reason: str | None = None
    stopped_on: int | None = None
    timeline: int | None = None
    claims_kept_from: dt.datetime | None = None


class Spell(NamedTuple):
    """From when a key has a customer, or none. It has it until the next one begins."""

    since: dt.datetime
    customer: str | None


@dataclass(slots=True)
class MappingRow:
    """A mapping: when it was looked at and believed, and what was not believed of it."""

    looked_at: dt.datetime | None = None
    read_at: dt.datetime | None = None
    doubted_at: dt.datetime | None = None
    differing: int | None = None
    keys: dict[str, list[Spell]] = field(default_factory=dict)


@dataclass(slots=True)
class Tables:
    """All that is committed."""

    costs: dict[tuple[int, dt.date], tuple[int, float]] = field(default_factory=dict)
    """How many live readings of new windows there were, and how long they took, by meter and day."""
    meters: dict[int, MeterRow] = field(default_factory=dict)
    sinks: dict[str, int] = field(default_factory=dict)
    halted: dict[int, str] = field(default_factory=dict)
    adopted: list[dt.datetime] = field(default_factory=list)
    """When the ledger was adopted."""
    feeds: dict[int, FeedRow] = field(default_factory=dict)
    slots: dict[int, dict[dt.datetime, dict[str, SlotRow]]] = field(default_factory=dict)
    """By feed, window and customer."""
    events: dict[EventId, EventRow] = field(default_factory=dict)
    outbox: dict[EventId, OutboxRow] = field(default_factory=dict)
    parked: dict[EventId, ParkedRow] = field(default_factory=dict)
    claims: dict[ClaimId, ClaimRow] = field(default_factory=dict)
    files: dict[ClaimId, FileRow] = field(default_factory=dict)
    cancellations: dict[int, CancellationRow] = field(default_factory=dict)
    notifications: dict[tuple[int, str], NoticeRow] = field(default_factory=dict)
    polled: dict[int, HeardRow] = field(default_factory=dict)
    carries: dict[tuple[int, str], Decimal] = field(default_factory=dict)
    definitions: dict[int, list[Definition]] = field(default_factory=dict)
    fences: dict[int, dict[dt.datetime, int]] = field(default_factory=dict)
    unread: dict[tuple[int, dt.datetime], UnreadRow] = field(default_factory=dict)
    guarded: dict[tuple[int, dt.datetime], dt.datetime] = field(default_factory=dict)
    rejections: dict[tuple[int, str], str] = field(default_factory=dict)
    readbacks: dict[int, ReadbackRow] = field(default_factory=dict)
    unmapped_rows: dict[tuple[int, dt.datetime], list[Reading]] = field(default_factory=dict)
    cursors: dict[int, CursorState] = field(default_factory=dict)
    totals: dict[tuple[int, dt.datetime, str, str], tuple[Decimal | None, int, dt.datetime | None]] = field(
        default_factory=dict
    )
    """Of meter, window, customer and flaw: the sum of rows, how many, and the last use."""
    samplings: dict[tuple[int, dt.datetime], SamplingRow] = field(default_factory=dict)
    """By meter and the instant at which it was due."""
    series: dict[tuple[int, str, str], SeriesRow] = field(default_factory=dict)
    """By meter, customer and name."""
    samples: dict[int, list[SampleRow]] = field(default_factory=dict)
    """By meter."""
    cutovers: dict[tuple[int, str | None], CutoverRow] = field(default_factory=dict)
    """By the feed that customers leave, and the customer; None: everybody else."""
    reassertions: dict[tuple[int, dt.datetime, str], dt.datetime] = field(default_factory=dict)
    """Of feed, window and customer: from when on the slot is to be sent again."""
    mappings: dict[str, MappingRow] = field(default_factory=dict)
    """What is known of whose keys are."""
    touched: dict[int, Touched] = field(default_factory=dict)
    """By meter, up to when what the source named has been read again."""
    pieces: dict[tuple[int, Span], PieceRow] = field(default_factory=dict)
    """By meter and goal of a backfill."""
    combinations: set[Dimensions] = field(default_factory=set)
    archives: dict[int, ArchiveRow] = field(default_factory=dict)
    archived_usage: dict[tuple[int, dt.datetime, str], Sums] = field(default_factory=dict)
    """By feed, month and customer."""
    archived_hours: dict[tuple[int, dt.datetime], Sums] = field(default_factory=dict)
    """By feed and hour."""
    identity: PinRow = field(default_factory=PinRow)
    hosts: set[int] = field(default_factory=set)
    """Who has ever claimed anything."""


class Sequence:
    """Gives numbers from 1 on; a restore sets it back."""

    def __init__(self) -> None:
        self.latest = 0

    def __next__(self) -> int:
        self.latest += 1
        return self.latest


class MemoryLedger:
    """The tables, the sequences, and a clock. `touched` collects the events that changed, for whoever looks on."""

    def __init__(self, clock: Callable[[], dt.datetime]) -> None:
        self.clock = clock
        self.tables = Tables()
        self.timeline: int | None = None
        """On which timeline its server is; None where it does not say."""
        self.server_starts = 1
        """How often its server was started, or another one took its place."""
        self.failover: Failover = "may_lose"
        """What is declared of a standby that takes over."""
        self.touched: list[EventRow] = []
        self.event_ids = Sequence()
        self.claim_ids = Sequence()
        self.readback_ids = Sequence()
        self.cancellation_ids = Sequence()
        self.archive_ids = Sequence()
        self.archiving: set[int] = set()
        """The meters of which somebody is writing a month just now."""

    def sequences(self) -> list[Sequence]:
        """Return every sequence."""
        return [self.event_ids, self.claim_ids, self.readback_ids, self.cancellation_ids, self.archive_ids]

    def move(self, event: EventRow, state: State) -> None:
        """Change an event's state, as far as the trigger lets it."""
        untried = event.attempts == 0 and event.exposed_at is None
        if not may_follow(event.state, state, untried=untried):
            raise InvariantBroken(f"an event moves forward only: {event.id} from {event.state} to {state}")
        event.state = state
        self.touched.append(event)

    def take_back(self, feed: FeedRow) -> bool:
        """Take back what was planned for a feed that was never cleared, if some of it lies before its beginning."""
        tables = self.tables
        planned = tables.slots[feed.id]
        if feed.cleared_until or not any(start < feed.since for start, slots in planned.items() if slots):
            return False
        for event in [event for event in tables.events.values() if event.feed_id == feed.id]:
            tables.outbox.pop(event.id, None)
            tables.parked.pop(event.id, None)
            if event.state in {State.DUE, State.HELD, State.REFUSED}:
                self.move(event, State.VOID)
                event.settled_at, event.reason = self.clock(), TAKEN_BACK
        planned.clear()
        for key in [key for key in tables.carries if key[0] == feed.id]:
            del tables.carries[key]
        feed.read_until, feed.stopped = feed.since, None
        return True

    def slot_of(self, event: EventRow) -> SlotRow:
        """Return the slot an event belongs to."""
        return self.tables.slots[event.feed_id][event.window_start][event.customer]


class MemoryMeters:
    """The verbs about meters."""

    def __init__(self, ledger: MemoryLedger, owner: uuid.UUID, lease: dt.timedelta) -> None:
        self._ledger = ledger
        self._owner = owner
        self._lease = lease

    def register(self, meters: Iterable[Meter]) -> Mapping[str, Registered]:
        """Make meters, sinks and feeds known; what is known already stays as it is."""
        tables = self._ledger.tables
        ordered = sorted(meters, key=lambda meter: meter.name)
        self._settle_names(ordered)
        for name in sorted({sink for meter in ordered for sink in meter.sinks}):
            tables.sinks.setdefault(name, len(tables.sinks) + 1)
        return {meter.name: self._register(meter) for meter in ordered}

    def _register(self, meter: Meter) -> Registered:
        tables = self._ledger.tables
        row = next((row for row in tables.meters.values() if row.name == meter.name), None)
        if row is None:
            meter_id = len(tables.meters) + 1
            row = MeterRow(meter_id, meter.name, meter.fingerprint, meter.start_at, meter.start_at)
            row.read = meter.read
            tables.meters[meter_id] = row
            tables.fences[meter_id] = {}
        self._define(row, meter)
        feeds = []
        for sink in meter.sinks:
            sink_id = tables.sinks[sink]
            key = (row.id, sink_id)
            feed = next(
                (feed for feed in tables.feeds.values() if (feed.meter_id, feed.sink_id) == key), None
            )
            if feed is None:
                coverage = joined(meter.terms_of(sink), row.mark, meter.start_at)
                feed = FeedRow(len(tables.feeds) + 1, row.id, sink_id, *coverage[:-1])
                tables.feeds[feed.id] = feed
                tables.slots[feed.id] = {}
                if coverage.read_until < row.mark:
                    row.hourly_at = row.swept = None
            feed.ordered = meter.latest
            outlet = meter.outlet_of(sink)
            feed.called = outlet.called if outlet is not None else feed.called
            coverage = changed(feed.coverage, meter.terms_of(sink), row.mark, meter.start_at)
            if coverage != feed.coverage:
                feed.coverage = coverage
                row.hourly_at = row.swept = row.lease_owner = row.lease_until = None
                row.epoch += 1
            if self._ledger.take_back(feed):
                coverage = feed.coverage
                row.hourly_at = row.swept = row.lease_owner = row.lease_until = None
                row.epoch += 1
            feeds.append(as_it_is(Feed(feed.id, sink, sink_id, feed.since), coverage))
        return Registered(row.id, meter, tuple(feeds), row.formerly[0] if row.formerly else "")

    def _settle_names(self, meters: Values[Meter]) -> None:
        """Give meters the names that they have now. Raises MeterRefused if one would bill again what was billed already."""
        known, configured = self._memory(), meter_names.wanted(meters)
        refused = [said for _, said in renaming.refusals(configured, known)]
        if refused:
            raise MeterRefused("\n".join(refused))
        for old, new in renaming.renames(configured, known).items():
            self._rename(old, new)

    def _memory(self) -> Memory:
        """Return what is known of all meters."""
        tables, lines = self._ledger.tables, list[KnownLine]()
        for feed in tables.feeds.values():
            sink = next(name for name, number in tables.sinks.items() if number == feed.sink_id)
            planned = any(
                slot.tail for customers in tables.slots[feed.id].values() for slot in customers.values()
            ) or any(key[0] == feed.id for key in tables.archived_usage)
            sent = feed.cleared_until > 0 and any(
                claim.sink_id == feed.sink_id for claim in tables.claims.values()
            )
            until = feed.read_until if planned and not feed.shadow else None
            outlet = Outlet(sink, None, feed.called)
            lines.append(KnownLine(tables.meters[feed.meter_id].name, outlet, until, sent))
        with_slots = {feed.meter_id for feed in tables.feeds.values() if any(tables.slots[feed.id].values())}
        with_slots |= {row.id for row in tables.meters.values() if row.archived_until is not None}
        meters = {
            row.name: KnownMeter(row.name, row.mark, row.formerly, row.read, row.id in with_slots)
            for row in tables.meters.values()
        }
        return Memory(meters, lines)

    def _rename(self, old: str, new: str) -> None:
        """Give a meter another name; whoever works under the old one loses it."""
        tables = self._ledger.tables
        row = next(row for row in tables.meters.values() if row.name == old)
        row.name, row.formerly = new, (*row.formerly, old)
        row.epoch, row.lease_owner, row.lease_until = row.epoch + 1, None, None
        for event in tables.events.values():
            if event.meter == old:
                event.meter = new

    def _define(self, row: MeterRow, meter: Meter) -> None:
        """Let the configured definition hold from the first window on that nobody has read; the first one, for ever."""
        known = self._ledger.tables.definitions.setdefault(row.id, [])
        if known and known[-1].fingerprint == meter.fingerprint:
            return
        since = EPOCH
        if known:
            since = definitions.begins(definitions.at(known, row.mark), meter.window, row.mark)
        known[:] = [each for each in known if each.since < since]
        if not known or known[-1].fingerprint != meter.fingerprint:
            known.append(
                Definition(
                    since,
                    meter.fingerprint,
                    meter.query,
                    meter.window,
                    meter.dimensions,
                    customers=meter.customers,
                )
            )
        row.fingerprint = meter.fingerprint

    def acquire(self, registered: Registered) -> Lease | None:
        """Take the meter for this process; None while another one has it."""
        now = self._ledger.clock()
        row = self._ledger.tables.meters[registered.id]
        if row.name != registered.meter.name:
            raise LeaseLost(f"Meter {registered.meter.name} is called {row.name} now.")
        if row.lease_until is not None and row.lease_until > now:
            return None
        row.lease_owner, row.lease_until, row.epoch = self._owner, now + self._lease, row.epoch + 1
        tables = self._ledger.tables
        coverages = [tables.feeds[feed.id].coverage for feed in registered.feeds]
        return Lease(
            registered._replace(feeds=tuple(map(as_it_is, registered.feeds, coverages))),
            self._owner,
            row.epoch,
            row.mark,
            row.reread_from,
            row.swept,
            fed_until(coverages, row.mark),
            now,
            row.hourly_at,
            row.daily_at,
            row.waits_for,
            seen_until=row.seen_until,
            definitions=tuple(tables.definitions[row.id]),
            noted=tuple(Noted(until, xid) for until, xid in sorted(tables.fences[row.id].items())),
            unread=tuple(
                sorted(
                    start
                    for (meter, start), each in tables.unread.items()
                    if meter == row.id and each.next_at > now
                )
            ),
            unread_due=tuple(
                sorted(
                    start
                    for (meter, start), each in tables.unread.items()
                    if meter == row.id and each.next_at <= now
                )
            ),
            coverages=tuple(coverages),
            touched=tables.touched.get(row.id),
            archived_until=row.archived_until,
        )

    def note(
        self, lease: Lease, noted: Values[Noted], *, waits_for: str | None, given_up: bool, now: dt.datetime
    ) -> None:
        """Remember what the commit barrier is to wait for. Raises LeaseLost."""
        row = self._own(lease)
        if row is None:
            raise LeaseLost
        row.waits_for = waits_for
        self._ledger.tables.fences[row.id] = {each.until: each.xid for each in noted}

    def silence(self, lease: Lease) -> Silence:
        """Say nothing: whether a meter is silent is told to a person, and changes no bill."""
        return Silence(None, is_new=False)

    def silent_customers(self, lease: Lease) -> SilentCustomers:
        """Say nothing, for the same reason."""
        return SilentCustomers()

    def seal(self, lease: Lease, coverages: Values[FeedCoverage]) -> Lease:
        """Note what the feeds lack that the source no longer has; return the lease as it is then. Raises LeaseLost."""
        if self._own(lease) is None:
            raise LeaseLost
        feeds = self._ledger.tables.feeds
        for feed, coverage in zip(lease.registered.feeds, coverages, strict=True):
            feeds[feed.id].coverage = coverage
        return lease._replace(coverages=tuple(coverages), fed_until=fed_until(coverages, lease.mark))

    def renew(self, lease: Lease) -> bool:
        """Give a sign of life; False if the lease is lost already."""
        row = self._own(lease)
        if row is not None:
            row.lease_until = self._ledger.clock() + self._lease
        return row is not None

    def release(self, lease: Lease, left_as: bytes | None = None) -> Left | None:
        """Give the meter back, and return how it stands by then; None if the lease was lost already."""
        row = self._own(lease)
        if row is None:
            return None
        row.lease_owner = row.lease_until = None
        row.left_epoch, row.left_as = row.epoch, left_as
        return Left(row.mark, row.reread_from, row.swept, row.seen_until, row.hourly_at, row.daily_at)

    def definitions(self, registered: Registered) -> tuple[Definition, ...]:
        """Return by which queries the meter is read, in the order of time."""
        return tuple(self._ledger.tables.definitions[registered.id])

    def _own(self, lease: Lease) -> MeterRow | None:
        row = self._ledger.tables.meters[lease.registered.id]
        return row if (row.epoch, row.lease_owner) == (lease.epoch, lease.owner) else None
