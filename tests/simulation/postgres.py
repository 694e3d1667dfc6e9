"""The real ledger in a simulated world: the same lives over Postgres, and its tables as the watch wants to see them.

The ledger goes by its own clock. Here that clock is simulated time: a function of the same name stands before Postgres's
own in the search path of each transaction, so that not a statement is changed.
"""

import datetime as dt
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import Any

import psycopg
from psycopg import sql

from aggregator.core.changed import Touched
from aggregator.core.dimensions import of_mapping
from aggregator.core.model import (
    ClaimId,
    Definition,
    EventId,
    Guard,
    SlotId,
    Span,
    State,
)
from aggregator.core.states import CancellationState
from aggregator.ledger.archives import Archives
from aggregator.ledger.clock import LedgerClock
from aggregator.ledger.database import Connection, Database
from aggregator.ledger.ledger import Ledger
from aggregator.ledger.meters import Meters
from aggregator.ledger.notifications import Notifications
from aggregator.ledger.outbox.files import Files
from aggregator.ledger.outbox.first_use import FirstUses
from aggregator.ledger.outbox.moved_files import Places
from aggregator.ledger.outbox.outbox import Outbox
from aggregator.ledger.outbox.uploads import Uploads
from aggregator.ledger.passes.passes import Passes
from aggregator.ledger.review.cancellations import Cancellations
from aggregator.ledger.review.in_doubt import InDoubt
from aggregator.ledger.review.parked import ParkedEvents
from aggregator.ledger.samples import Samples
from tests.simulation.apart import DIMENSION, SIGN
from tests.simulation.life import ANSWER, HOLD, LEASE, LEAVE
from tests.simulation.memory import (
    ArchiveRow,
    CancellationRow,
    ClaimRow,
    CutoverRow,
    EventRow,
    FeedRow,
    FileRow,
    HeardRow,
    MeterRow,
    NoticeRow,
    OutboxRow,
    ParkedRow,
    ReadbackRow,
    SampleRow,
    SamplingRow,
    SeriesRow,
    SlotRow,
    Sums,
    Tables,
    UnreadRow,
)
from tests.simulation.memory_identity import LEDGER_ID, Disk
from tests.simulation.scheduler import Scheduler
from tests.simulation.twins import as_ledger

SIMULATED_CLOCK = """
create schema simulated;
create table simulated.clock (at timestamptz not null);
insert into simulated.clock values ('2026-11-01T00:00Z');
create function simulated.clock_timestamp() returns timestamptz language sql volatile as 'select at from simulated.clock';
"""

SET_CLOCK = "update simulated.clock set at = %s"


NAME = f"""
its.customer || coalesce((select '{SIGN}' || (dimensions ->> '{DIMENSION}') from aggregator.combination
                           where combination.id = its.combination limit 1), '')
"""
"""By what name the tables in memory have a customer with its combination."""


class SimulatedDatabase(Database):
    """A ledger whose transactions find the simulated clock before Postgres's own."""

    def _begin(self, connection: Connection, now: dt.datetime | None) -> None:
        super()._begin(connection, now)
        connection.execute("set local search_path = simulated, pg_catalog, pg_temp")


class InPostgres:
    """A fresh ledger at a URL."""

    def __init__(self, scheduler: Scheduler, url: str) -> None:
        self._scheduler = scheduler
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(SIMULATED_CLOCK)
            name = sql.Identifier(connection.info.dbname)
            connection.execute(
                sql.SQL("alter database {} set search_path = simulated, pg_catalog, public").format(name)
            )
        self._database = SimulatedDatabase(
            url, clock=LedgerClock(LEAVE, lambda: scheduler.now, self._elapsed)
        )
        self._connection = psycopg.connect(url, autocommit=True)
        self._known: Tables | None = None

    def close(self) -> None:
        """Give every connection back."""
        self._connection.close()
        self._database.close()

    def verbs(self, owner: uuid.UUID, disk: Disk) -> Ledger:
        """Return the real verbs; each finds the ledger's clock set, and makes what is known of the tables stale."""
        database = self._database
        parts = {
            "meters": Meters(database, owner, LEASE),
            "passes": Passes(database, LEASE, self._elapsed),
            "samples": Samples(database),
            "outbox": Outbox(database, owner, LEAVE, ANSWER),
            "in_doubt": InDoubt(database),
            "files": Files(database, owner, HOLD),
            "cancellations": Cancellations(database),
            "notifications": Notifications(database),
            "first_uses": FirstUses(database),
            "uploads": Uploads(database),
            "places": Places(database),
            "archives": Archives(database),
            "parked": ParkedEvents(database),
        }
        clocked = {name: _Clocked(part, self._about_to_write) for name, part in parts.items()}
        return as_ledger(**clocked, identity=Unpinned())

    def _elapsed(self) -> float:
        return self._scheduler.now.timestamp()

    def _about_to_write(self) -> None:
        self._known = None
        self._connection.execute(SET_CLOCK, [self._scheduler.now])

    def tables(self) -> Tables:
        """Return what is committed."""
        if self._known is None:
            self._known = read(self._connection)
        return self._known


class Unpinned:
    """A ledger that is never set back."""

    def name(self) -> str:
        """Return what the names of events begin with."""
        return LEDGER_ID


class _Clocked:
    def __init__(self, part: object, before: Callable[[], None]) -> None:
        self._part = part
        self._before = before

    def __getattr__(self, name: str) -> Any:
        verb = getattr(self._part, name)
        if not callable(verb):
            return verb

        def call(*values: Any, **named: Any) -> Any:
            self._before()
            return verb(*values, **named)

        return call


@contextmanager
def in_postgres(url: str) -> Iterator[Callable[[Scheduler], InPostgres]]:
    """Give what makes the ledger of a life; its connections are given back at the end."""
    made: list[InPostgres] = []

    def make(scheduler: Scheduler) -> InPostgres:
        made.append(InPostgres(scheduler, url))
        return made[-1]

    try:
        yield make
    finally:
        for each in made:
            each.close()


def read(connection: psycopg.Connection[Any]) -> Tables:
    """Read a ledger as the tables that it has in memory."""
    connection.execute("set timezone = 'UTC'")

    def rows(statement: str) -> list[tuple[Any, ...]]:
        return connection.execute(statement).fetchall()

    tables = Tables()
    tables.sinks = dict(rows("select name, id from aggregator.sink"))
    tables.halted = dict(rows("select id, halted_reason from aggregator.sink where halted_at is not null"))
    for row in rows(
        "select id, name, fingerprint, start_at, mark, reread_from, swept, hourly_at, daily_at, waits_for,"
        " lease_owner, lease_until, epoch, seen_until, left_epoch, left_as, formerly, read, doubtful_until, '{}',"
        " archived_until"
        " from aggregator.meter order by id"
    ):
        tables.meters[row[0]] = MeterRow(*row)
        tables.meters[row[0]].formerly = tuple(tables.meters[row[0]].formerly)
        tables.meters[row[0]].adopted = ()
        tables.fences[row[0]] = {}
    for row in rows(
        "select id, meter_id, sink_id, since, until, shadow, shadow_until, read_until, lost, ordered,"
        " cleared_until, asked, asked_at, cleared_at, stopped_reason, coalesce(called, ''), parted"
        " from aggregator.feed order by id"
    ):
        tables.feeds[row[0]] = FeedRow(*row)
        lost = row[8]
        tables.feeds[row[0]].asked = tuple(tables.feeds[row[0]].asked)
        tables.feeds[row[0]].lost = None if lost is None else Span(lost.lower, lost.upper)
        tables.slots[row[0]] = {}
    for row in rows(
        f"select id, feed_id, window_start, {NAME}, quantity, total, revision, stamped_at, tail, replan"
        " from aggregator.slot as its"
    ):
        slot = SlotRow(SlotId(row[0]), *row[1:])
        tables.slots[slot.feed_id].setdefault(slot.window_start, {})[slot.customer] = slot
    _read_events(rows, tables)
    _read_beside(rows, tables)
    for meter, since, fingerprint in rows("select meter_id, since, fingerprint from aggregator.touched"):
        tables.touched[meter] = Touched(since, fingerprint)
    _read_samples(rows, tables)
    _read_archives(rows, tables)
    return tables


def _read_archives(rows: Callable[[str], list[tuple[Any, ...]]], tables: Tables) -> None:
    """Read what has left; of an archive, all but when what was done, and what a row of a pass says in it."""
    for (dimensions,) in rows("select dimensions from aggregator.combination"):
        tables.combinations.add(of_mapping(dimensions))
    for row in rows(
        "select id, meter_id, month, removed_until, written_at, place, name, bytes, sha256, slots, events, first_event,"
        " last_event, verified_at, removed_at, restored_at from aggregator.archive order by id"
    ):
        tables.archives[row[0]] = ArchiveRow(*row)
    for feed, month, customer, *sums in rows(
        f"select feed_id, month, {NAME}, slots, quantity, total from aggregator.archived_usage as its"
    ):
        tables.archived_usage[feed, month, customer] = Sums(*sums)
    for feed, hour, *sums in rows(
        "select feed_id, hour, slots, quantity, total from aggregator.archived_hour"
    ):
        tables.archived_hours[feed, hour] = Sums(*sums)


def _read_samples(rows: Callable[[str], list[tuple[Any, ...]]], tables: Tables) -> None:
    for meter, *row in rows(
        "select meter_id, due, at, rows, unusable, stale, dropped_at is not null from aggregator.sampling order by id"
    ):
        sampling = SamplingRow(*row)
        tables.samplings[meter, sampling.due] = sampling
    for meter, customer, name, *row in rows(
        "select meter_id, customer, name, at, value, generation from aggregator.series order by id"
    ):
        tables.series[meter, customer, name] = SeriesRow(*row)
    for meter, *row in rows(
        "select sample.meter_id, sample.at, customer, name, sample.value, previous, previous_at, adopted, reason"
        " from aggregator.sample join aggregator.series on series.id = series_id order by sample.at, customer, name"
    ):
        tables.samples.setdefault(meter, []).append(SampleRow(*row))


def _read_beside(rows: Callable[[str], list[tuple[Any, ...]]], tables: Tables) -> None:
    for meter, since, fingerprint, query, seconds, dimensions in rows(
        "select meter_id, since, fingerprint, query, window_seconds, dimensions from aggregator.definition"
        " order by meter_id, since"
    ):
        definition = Definition(since, fingerprint, query, dt.timedelta(seconds=seconds), tuple(dimensions))
        tables.definitions.setdefault(meter, []).append(definition)
    for meter, until, xid in rows("select meter_id, until, xid::bigint from aggregator.fence order by 1, 2"):
        tables.fences[meter][until] = xid
    for meter, start, tries, next_at in rows(
        "select meter_id, window_start, tries, next_at from aggregator.unread"
    ):
        tables.unread[meter, start] = UnreadRow(tries, next_at)
    for meter, start, since in rows("select meter_id, window_start, since from aggregator.guarded"):
        tables.guarded[meter, start] = since
    for sink, identifier, reason in rows("select sink_id, identifier, reason from aggregator.rejection"):
        tables.rejections[sink, identifier] = reason
    for row in rows(
        "select claim_id, sink_id, place, by_hand, held_until, tries, reason, name, sha256, written_at, confirmed_at"
        " from aggregator.file"
    ):
        tables.files[ClaimId(row[0])] = FileRow(*row[1:])
    for row in rows(
        "select id, event_id, sink_id, state, asked_at, next_at, others, tries, tried_at, unsure, seen_at, answer,"
        " settled_at from aggregator.cancellation order by id"
    ):
        cancellation = CancellationRow(*row)
        cancellation.state = CancellationState(cancellation.state)
        tables.cancellations[row[0]] = cancellation
    for sink, name, *notification in rows(
        "select sink_id, id, kind, created_at, came_by, taken_at from aggregator.notification"
    ):
        tables.notifications[sink, name] = NoticeRow(*notification)
    for sink, *polled in rows(
        "select sink_id, polled_until, polled_at, refused_at, refused_reason from aggregator.poll"
    ):
        tables.polled[sink] = HeardRow(*polled)
    for leaves, leads, customer, at, parallel in rows(
        "select from_feed, to_feed, customer, at, parallel from aggregator.cutover"
    ):
        tables.cutovers[leaves, customer] = CutoverRow(leads, at, parallel)
    for feed, start, customer, due_at in rows(
        f"select feed_id, window_start, {NAME}, due_at from aggregator.reassertion as its"
    ):
        tables.reassertions[feed, start, customer] = due_at


def _read_events(rows: Callable[[str], list[tuple[Any, ...]]], tables: Tables) -> None:
    for row in rows(
        f"select its.id, slot_id, feed_id, meter.name, feed.sink_id, {NAME}, its.window_start, revision, delta, total,"
        " at, identifier, state::text, reason, planned_at, attempts, exposed_at, attempted_at, settled_at, request_id,"
        " coalesce(its.transport, ''), pass.kind = 'adoption'"
        " from aggregator.event as its join aggregator.pass on pass.id = its.pass_id"
        " join aggregator.feed on feed.id = its.feed_id"
        " join aggregator.meter on meter.id = feed.meter_id order by its.id"
    ):
        event = EventRow(*row)
        event.state = State(event.state)
        tables.events[event.id] = event
    for row in rows("select event_id, sink_id, due_at, claim_id from aggregator.outbox order by event_id"):
        tables.outbox[EventId(row[0])] = OutboxRow(*row[1:])
    for row in rows(
        "select event_id, feed_id, state::text, reason, since, guard, was_accepted, look_at, moved_with, dismissed_at"
        " from aggregator.parked order by 1"
    ):
        parked = ParkedRow(*row[1:])
        parked.state = State(parked.state)
        parked.guard = Guard(parked.guard) if parked.guard is not None else None
        tables.parked[EventId(row[0])] = parked
    for row in rows(
        "select id, sink_id, owner, claimed_at, events, settled_at from aggregator.claim order by id"
    ):
        claim = ClaimRow(*row[1:])
        claim.events = tuple(claim.events)
        tables.claims[ClaimId(row[0])] = claim
    for feed, customer, amount in rows(
        f"select feed_id, {NAME}, amount from aggregator.carry as its order by 1, 2"
    ):
        tables.carries[feed, customer] = Decimal(amount)
    for number, feed, span, report, due_at, done_at, found in rows(
        "select id, feed_id, span, report, due_at, done_at, found from aggregator.readback"
        " where report is not null order by id"
    ):
        tables.readbacks[number] = ReadbackRow(
            number, feed, Span(span.lower, span.upper), report, due_at, done_at, found
        )


def differences(one: Tables, other: Tables) -> list[str]:
    """Say in what two ledgers differ, a few of each kind. What the source could not bill is counted, not compared."""
    found: list[str] = []
    for name in (
        "meters", "sinks", "halted", "feeds", "slots", "events", "outbox", "parked", "claims", "carries", "definitions",
        "samplings", "series", "fences", "unread", "guarded", "rejections", "reassertions", "files", "cancellations",
        "notifications", "polled", "touched", "archived_usage", "archived_hours",
    ):  # fmt: skip
        left, right = getattr(one, name), getattr(other, name)
        keys = [key for key in {**left, **right} if left.get(key) != right.get(key)]
        found += [f"{name} {key}: {left.get(key)} and {right.get(key)}" for key in keys[:3]]
    sampled = [
        {meter: sorted(map(repr, rows)) for meter, rows in each.samples.items()} for each in (one, other)
    ]
    archived = [
        [
            (row.meter_id, row.month, row.slots, row.events, row.first_event, row.last_event, row.removed_until,
             bool(row.removed_at), bool(row.restored_at))
            for row in sorted(each.archives.values(), key=lambda row: (row.meter_id, row.month))
        ]
        for each in (one, other)
    ]  # fmt: skip
    found += [] if archived[0] == archived[1] else [f"archives: {archived[0]} and {archived[1]}"]
    return found + (["samples"] if sampled[0] != sampled[1] else [])
