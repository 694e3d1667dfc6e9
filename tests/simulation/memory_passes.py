"""The ledger in memory: passes, with the shrink guard and what is set aside."""

import datetime as dt
from collections import defaultdict
from collections.abc import Container, Iterator, Sequence
from decimal import Decimal
from functools import lru_cache

from aggregator.core import definitions, windows
from aggregator.core.archive import closed
from aggregator.core.changed import Touched
from aggregator.core.commit_barrier import Noted
from aggregator.core.cutover import Cutover, is_shadow
from aggregator.core.dimensions import number
from aggregator.core.model import (
    ZERO,
    Change,
    Decision,
    Decreases,
    Definition,
    EventId,
    Guard,
    Reading,
    SlotId,
    Span,
    State,
    Tail,
    WriteModel,
)
from aggregator.core.planner import LOWERS
from aggregator.errors import InvariantBroken, LeaseLost, LedgerStopped, MonthClosed
from aggregator.ledger.feeds import as_it_is
from aggregator.ledger.meters import Feed, Lease, Registered
from aggregator.ledger.passes.passes import RESUME_WITHIN, Decide, Held, Pass
from aggregator.ledger.passes.shrink_guard import BELIEVED_AFTER, Fallen, Shrunk
from aggregator.ledger.passes.spool import Spool
from aggregator.ledger.passes.stats import Tally
from aggregator.ledger.passes.unchanged import NOBODY, LeftAs, Unchanged
from aggregator.ledger.passes.usual import Past, Swelled, past_of
from aggregator.ledger.review.moves import may_move
from tests.simulation import memory_customers
from tests.simulation import memory_moves as moves
from tests.simulation.apart import SIGN, customer_of, dimensions_of, name_of, named
from tests.simulation.conditions import HOUR
from tests.simulation.memory import (
    EventRow,
    MemoryLedger,
    MeterRow,
    OutboxRow,
    ParkedRow,
    PieceRow,
    SlotRow,
    Tables,
    UnreadRow,
)
from tests.simulation.memory_identity import MemoryIdentity
from tests.simulation.memory_reassert import (
    note_given_up,
    note_newer,
    note_newer_than,
    taking_up,
    waiting,
    waits_for_a_word,
)
from tests.simulation.memory_usual import (
    asked,
    let_customers_go,
    let_go,
    let_go_of,
    of_slot,
    swollen,
    together,
    within_limits,
)


class MemoryPasses:
    """The verbs about passes."""

    def __init__(self, ledger: MemoryLedger, lease: dt.timedelta, identity: MemoryIdentity) -> None:
        self._ledger = ledger
        self._identity = identity
        self._lease = lease

    def commit(self, lease: Lease, spool: Spool, this: Pass, decide: Decide) -> Tally:
        """Compare what was read with the ledger, plan, and commit it all with the mark.

        If windows shrink too much at once, it is planned again with every decrease held, and the mark stays.
        """
        with taking_up(self._ledger, lease.registered, this):
            return self._commit(lease, spool, this, decide)

    def _commit(self, lease: Lease, spool: Spool, this: Pass, decide: Decide) -> Tally:
        readings = list(readings_of(spool))
        held = Held()
        while True:
            try:
                tally, decided, over = self._plan(lease, spool, this, decide, readings, held)
                break
            except Shrunk as found:
                held = held._replace(fallen=found.windows)
            except Swelled as swelled:
                held = held.and_swollen(swelled)
        shrunk = [each.start for each in held.fallen]
        tables, meter = self._ledger.tables, self._held(lease)
        tables.combinations.update(spool.combinations)
        for event in tally.voided:
            if event not in tables.parked or tables.parked[event].state is State.IN_DOUBT:
                raise LeaseLost(
                    "A parked event was released while it was being replaced; nothing was written."
                )
        for feed, decisions in decided:
            _check(self._ledger, feed, decisions)
        for feed, decisions in decided:
            behind = this.kind == "backfill" and feed.model is not WriteModel.LAST
            fell = moves.fallen(tables, feed, decisions) if may_move(lease.registered, feed) else []
            self._write(feed, decisions, meter.name, this.now, backfill=behind)
            planned = [decision.event.id for decision in decisions if decision.event is not None]
            tally.held += moves.hold(self._ledger, feed, fell, planned, this.now)
            note_newer(self._ledger, feed, decisions, this.now)
            let_go(self._ledger, feed, over.get(feed.id, []), tally.voided, this.now)
            self._let_customers_go(lease, feed, this, decisions, held.swollen.get(feed.id, {}))
        note_given_up(self._ledger, lease.registered, tally.voided, this.now)
        moves.keep(self._ledger, lease.registered, tally.voided, this.now)
        once_more = self._void(tally.voided, this.now)
        moves.part(self._ledger, lease.registered, this.now)
        self._set_aside(meter.id, this.span, readings)
        since = meter.reread_from
        self._guard(lease.registered, this, shrunk, readings)
        for key in [key for key in tables.unread if key[0] == meter.id and key[1] in this.span]:
            del tables.unread[key]
        feeds = {feed.id for feed in lease.registered.feeds}
        guarded = [
            tables.events[event].window_start
            for event, parked in tables.parked.items()
            if parked.guard is Guard.SHRINK and parked.feed_id in feeds
        ]
        guarded += [start for meter_id, start in tables.guarded if meter_id == meter.id]
        oldest = [
            _left_to_read(since, this, meter.mark),
            tally.oldest_deferred,
            once_more,
            waiting(self._ledger, lease.registered, this.now),
            memory_customers.ready(tables, meter.id) if lease.is_mapped else None,
            *guarded,
        ]
        meter.reread_from = min((each for each in oldest if each is not None), default=None)
        self._move_mark(meter, lease, this, moves=not shrunk)
        near = windows.near(tally.mark, lease.registered.meter.revisit, this.definition.window)
        if this.kind == "live" and this.span.end > near:
            readings_of_day, seconds = tables.costs.get((meter.id, this.now.date()), (0, 0.0))
            tables.costs[meter.id, this.now.date()] = readings_of_day + 1, seconds + this.read_seconds
        if this.kind == "backfill":
            fingerprint = this.definition.fingerprint
            tables.pieces[meter.id, this.goal] = PieceRow(this.span, this.now, fingerprint)
        return tally

    def note_unchanged(self, found: Sequence[Unchanged], now: dt.datetime, seconds: float) -> set[int]:
        """Return the ids of the meters that were looked at without a lease and have nothing else to do."""
        assert seconds >= 0
        stopped = self._identity.stopped()
        if stopped is not None:
            raise LedgerStopped(stopped)
        tables, noted = self._ledger.tables, set()
        for each in found:
            row = tables.meters[each.lease.registered.id]
            feeds = {feed for feed, line in tables.feeds.items() if line.meter_id == row.id}
            if (row.left_epoch, row.left_as) != (row.epoch, each.left_as):
                continue
            turns = (each.lease.hourly_at, each.lease.daily_at)
            if (row.reread_from, row.swept, row.hourly_at, row.daily_at) != (None, None, *turns):
                continue
            if any(meter == row.id for meter, _ in tables.guarded):
                continue
            if any(key[0] in feeds for key in tables.reassertions):
                continue
            if any(parked.feed_id in feeds and parked.moved_with for parked in tables.parked.values()):
                continue
            if each.this.seen is not None:
                row.seen_until = max(row.seen_until or each.this.seen, each.this.seen)
            noted.add(row.id)
        return noted

    def doubtful_windows(self, registered: Registered) -> frozenset[dt.datetime]:
        """Return none: nobody adopts in lives in which usage is billed by keys."""
        return frozenset()

    def left_as(self, registered: Sequence[Registered]) -> dict[str, LeftAs]:
        """Return, by name, how the last rounds left those of these meters in which they left nothing to be done."""
        tables, found = self._ledger.tables, {}
        for each in registered:
            row = tables.meters[each.id]
            if row.left_as is None or row.left_epoch != row.epoch or row.reread_from or row.swept:
                continue
            coverages = tuple(tables.feeds[feed.id].coverage for feed in each.feeds)
            lease = Lease(
                each._replace(feeds=tuple(map(as_it_is, each.feeds, coverages))),
                NOBODY,
                row.epoch,
                row.mark,
                reread_from=None,
                swept=None,
                fed_until=row.mark,
                given_at=self._ledger.clock(),
                hourly_at=row.hourly_at,
                daily_at=row.daily_at,
                waits_for=None,
                definitions=tuple(tables.definitions[row.id]),
                noted=tuple(Noted(until, xid) for until, xid in sorted(tables.fences[row.id].items())),
                seen_until=row.seen_until,
                coverages=coverages,
            )
            days = [day for meter, day in tables.costs if meter == row.id]
            readings, seconds = tables.costs[row.id, max(days)] if days else (1, 0.0)
            found[each.meter.name] = LeftAs(lease, row.left_as, seconds / readings)
        return found

    def resume_backfill(
        self, registered: Registered, goal: Span, known: Sequence[Definition], now: dt.datetime
    ) -> dt.datetime | None:
        """Return how far a backfill of exactly this range came that was interrupted just now, or None."""
        piece = self._ledger.tables.pieces.get((registered.id, goal))
        if piece is None or piece.started_at <= now - RESUME_WITHIN or piece.span.end >= goal.end:
            return None
        held = definitions.at(known, piece.span.start)
        return piece.span.end if held.fingerprint == piece.fingerprint else None

    def _plan(
        self, lease: Lease, spool: Spool, this: Pass, decide: Decide, readings: list[Reading], held: Held
    ) -> tuple[Tally, list[tuple[Feed, list[Decision]]], dict[int, list[dt.datetime]]]:
        """Decide, and say in which windows what waits may go, by feed; raises what is to be held only now."""
        meter, guarded = self._held(lease, this.span), len(held.fallen)
        past = past_of(lease.registered.meter, lease.definitions, this.span.start)
        tally = Tally(
            rows=spool.rows,
            unmapped_rows=spool.unmapped_rows,
            mark=meter.mark,
            guarded=guarded,
            adds_up=past is not None and past.sums,
        )
        decided: list[tuple[Feed, list[Decision]]] = []
        over: dict[int, list[dt.datetime]] = {}
        for feed, coverage in zip(lease.registered.feeds, lease.coverages, strict=True):
            tally.mark = min(meter.mark, coverage.read_until)
            changes = _changes(self._ledger, feed, this.span, readings, more=this.more, past=past)
            windows = held.swollen.get(feed.id, {})
            decisions = list(tally.counting(decide(feed, changes, guarded=bool(guarded), swollen=windows)))
            decided.append((feed, decisions))
            shrunk = [] if guarded else self._shrunk(lease.registered, feed, tally)
            if shrunk:
                raise Shrunk(shrunk)
            if past is not None and past.sums:
                found, over[feed.id] = swollen(self._ledger.tables, feed, this.span, past, tally, decisions)
                if found:
                    raise Swelled(feed, found)
        return tally, decided, over

    def _let_customers_go(
        self,
        lease: Lease,
        feed: Feed,
        this: Pass,
        decisions: Sequence[Decision],
        swollen: Container[dt.datetime],
    ) -> None:
        """Let go what guards hold of customers who came within the limits, of whom a combination came to less."""
        past = past_of(lease.registered.meter, lease.definitions, this.span.start)
        if past is None or not past.watches_customers or not _apart(self._ledger.tables, lease.registered):
            return
        written = [each for each in decisions if not each.deferred]
        planned = [each.event.id for each in written if each.event is not None]
        voided = [each.voids for each in written if each.voids is not None]
        lowered = {
            (change.window_start, change.customer)
            for change, *_ in written
            if change.now < change.before and change.window_start not in swollen
        }
        found = within_limits(self._ledger.tables, feed, past, lowered, planned, voided)
        let_customers_go(self._ledger, feed, found, [*planned, *voided], this.now)

    def _shrunk(self, registered: Registered, feed: Feed, tally: Tally) -> list[Fallen]:
        """Return the windows that were read before and lose too much: all of it, or more than the meter's share."""
        moved = {start: each for start, each in tally.moved.items() if each < 0}
        tally.moved.clear()
        shrunk = []
        for start, fallen in moved.items():
            slots = self._ledger.tables.slots[feed.id].get(start, {})
            before = sum((let_go_of(self._ledger.tables, slot) for slot in slots.values()), ZERO)
            if before + fallen == 0 or -fallen > registered.meter.shrink_guard * before:
                shrunk.append(Fallen(start, before, before + fallen))
        return shrunk

    def _guard(
        self, registered: Registered, this: Pass, shrunk: list[dt.datetime], readings: list[Reading]
    ) -> None:
        """Note which windows shrank; or, of a pass in which none did, believe what was held for a second reading."""
        tables, ripe = self._ledger.tables, this.now - BELIEVED_AFTER
        if shrunk:
            tables.guarded.update({(registered.id, start): this.now for start in shrunk})
            return
        feeds = {feed.id: feed for feed in registered.feeds}
        spoilt = {(each.window_start, each.customer) for each in readings if each.reason is not None}
        gone = []
        for event_id, parked in list(tables.parked.items()):
            event = tables.events[event_id]
            if not (
                parked.guard is Guard.SHRINK and parked.since <= ripe and event.window_start in this.span
            ):
                continue
            if parked.feed_id not in feeds or (event.window_start, event.customer) in spoilt:
                continue
            if registered.meter.decreases is Decreases.APPLY:
                del tables.parked[event_id]
                self._ledger.move(event, State.DUE)
                event.reason = None
                tables.outbox[event_id] = OutboxRow(feeds[parked.feed_id].sink_id, this.now)
                gone.append(event_id)
            else:
                parked.guard, parked.reason = None, LOWERS
        for key, since in list(tables.guarded.items()):
            if key[0] == registered.id and key[1] in this.span and since <= ripe:
                del tables.guarded[key]
        note_newer_than(self._ledger, gone, this.now)

    def set_unread(self, lease: Lease, this: Pass, reason: str) -> None:
        """Note one window as unread that the source could not give; the mark goes on behind it. Raises LeaseLost."""
        meter, unread = self._held(lease, this.span), self._ledger.tables.unread
        before = unread.get((meter.id, this.span.start))
        if before is None:
            unread[meter.id, this.span.start] = UnreadRow(1, this.now + HOUR)
        else:
            wait = min(HOUR * 2**before.tries, dt.timedelta(days=1))
            unread[meter.id, this.span.start] = UnreadRow(before.tries + 1, this.now + wait)
        self._move_mark(meter, lease, this._replace(hourly=False, daily=False, touched=None), moves=True)

    def record_failure(self, lease: Lease, this: Pass, seconds: float, error: str) -> None:
        """Note that a pass failed; nobody here reads it."""

    def _held(self, lease: Lease, span: Span | None = None) -> MeterRow:
        row = self._ledger.tables.meters[lease.registered.id]
        if (row.epoch, row.lease_owner) != (lease.epoch, lease.owner):
            raise LeaseLost
        stopped = self._identity.stopped()
        if stopped is not None:
            raise LedgerStopped(stopped)
        if span is not None and row.archived_until is not None and span.start < row.archived_until:
            raise MonthClosed(closed(row.name, row.archived_until))
        return row

    def _write(
        self, feed: Feed, decisions: list[Decision], meter: str, now: dt.datetime, *, backfill: bool = False
    ) -> None:
        ledger, tables = self._ledger, self._ledger.tables
        for change, deferred, total, carry, _, event in decisions:
            name = name_of(change)
            _carry(tables.carries, (feed.id, name), carry)
            if deferred:
                continue
            revision, at, tail = change.revision, change.stamped_at, None
            if event is not None:
                slot = change.slot if revision else SlotId(event.id)  # a slot goes by its first event
                row = EventRow(
                    event.id,
                    slot,
                    feed.id,
                    meter,
                    feed.sink_id,
                    name,
                    change.window_start,
                    revision,
                    event.delta,
                    event.total,
                    event.at,
                    event.identifier,
                    event.state,
                    event.reason,
                    now,
                )
                tables.events[event.id] = row
                ledger.touched.append(row)
                if event.state is State.DUE:
                    tables.outbox[event.id] = OutboxRow(feed.sink_id, now, backfill=backfill)
                elif event.state is not State.SHADOW:
                    tables.parked[event.id] = ParkedRow(
                        feed.id, event.state, event.reason or "", now, guard=event.guard
                    )
                revision, at, tail = revision + 1, at or event.at, event.id
            customers = tables.slots[feed.id].setdefault(change.window_start, {})
            known = customers.get(name)
            if known is None:
                customers[name] = SlotRow(
                    change.slot,
                    feed.id,
                    change.window_start,
                    name,
                    change.now,
                    total,
                    revision,
                    at,
                    tail,
                )
            else:
                if tail is not None and not known.revision:
                    known.id = SlotId(tail)
                known.quantity, known.total, known.revision, known.stamped_at = (
                    change.now,
                    total,
                    revision,
                    at,
                )
                known.tail = known.tail if tail is None else tail
                known.replan = False

    def _void(self, events: list[EventId], now: dt.datetime) -> dt.datetime | None:
        """Withdraw what newer plans replace; return the oldest window with more that was rejected, to be planned anew."""
        tables = self._ledger.tables
        rejected = [event for event in events if tables.parked[event].was_accepted]
        for event in events:
            del tables.parked[event]
            row = tables.events[event]
            self._ledger.move(row, State.VOID)
            row.settled_at, row.reason = now, "replaced by a newer plan"
        again = []
        for event in rejected:
            slot = self._ledger.slot_of(tables.events[event])
            tail = None if slot.tail is None else tables.parked.get(slot.tail)
            if _rejected(tables, slot) is not None and (tail is None or tail.state is not State.HELD):
                slot.replan = True
                again.append(slot.window_start)
        return min(again, default=None)

    def _set_aside(self, meter_id: int, span: Span, readings: list[Reading]) -> None:
        unmapped_rows = self._ledger.tables.unmapped_rows
        for key in [key for key in unmapped_rows if key[0] == meter_id and key[1] in span]:
            del unmapped_rows[key]
        spoilt = {(each.window_start, each.customer) for each in readings if each.reason and each.customer}
        for each in readings:
            if each.reason is not None or (spoilt and (each.window_start, each.customer) in spoilt):
                unmapped_rows.setdefault((meter_id, each.window_start), []).append(each)

    def _move_touched(self, lease: Lease, since: dt.datetime) -> None:
        """Note up to when what was named has been read; never back, unless it is about another question."""
        question = lease.registered.meter.changed
        assert question is not None
        before = self._ledger.tables.touched.get(lease.registered.id)
        if before is not None and before.fingerprint == question.fingerprint:
            since = max(since, before.since)
        self._ledger.tables.touched[lease.registered.id] = Touched(since, question.fingerprint)

    def note_missed(self, lease: Lease, windows: int, now: dt.datetime) -> None:
        """Count nothing: nobody here reads it."""
        self._held(lease)

    def _move_mark(self, meter: MeterRow, lease: Lease, this: Pass, *, moves: bool) -> None:
        start, end = this.span
        if moves and start <= meter.mark < end:
            meter.mark = end
        if moves and this.hourly:
            meter.hourly_at = this.now
        if moves and this.daily:
            meter.daily_at = this.now
        if moves and this.touched is not None:
            self._move_touched(lease, this.touched)
        meter.swept = this.swept
        if this.seen is not None:
            meter.seen_until = max(meter.seen_until or this.seen, this.seen)
        until = self._ledger.clock() + self._lease
        meter.lease_until = max(meter.lease_until or until, until)
        for feed in lease.registered.feeds:
            row = self._ledger.tables.feeds[feed.id]
            goal = end if row.until is None else min(end, row.until)
            if moves and start <= row.read_until < goal:
                row.read_until = goal


def _carry(carries: dict[tuple[int, str], Decimal], key: tuple[int, str], amount: Decimal) -> None:
    if amount:
        carries[key] = amount
    else:
        carries.pop(key, None)


def _left_to_read(since: dt.datetime | None, this: Pass, mark: dt.datetime) -> dt.datetime | None:
    if since is None or since not in this.span:
        return since
    if this.rest_read:
        return this.rest_waits
    return this.span.end if this.span.end < mark else None


def _apart(tables: Tables, registered: Registered) -> bool:
    """Tell whether usage of a meter is kept apart anywhere."""
    slots = (tables.slots[feed.id] for feed in registered.feeds)
    return any(SIGN in name for windows in slots for names in windows.values() for name in names)


def _check(ledger: MemoryLedger, feed: Feed, decisions: list[Decision]) -> None:
    """Refuse what Postgres would refuse by its constraints."""
    tables = ledger.tables
    for change, deferred, _, carry, _, event in decisions:
        if carry < 0 or not change.customer:
            raise InvariantBroken("a carry is never negative, and a customer has a name")
        if deferred or event is None:
            continue
        known = tables.slots[feed.id].get(change.window_start, {}).get(name_of(change))
        if event.id in tables.events or (known is not None and event.revision < known.revision):
            raise InvariantBroken(f"revision {event.revision} of slot {change.slot} is there already")
        says = event.delta or event.revision or not event.total
        if not says or event.at < change.window_start or not 1 <= len(event.identifier) <= 100:
            raise InvariantBroken("an event says something, inside its window, under a name")


def _changes(
    ledger: MemoryLedger, feed: Feed, span: Span, readings: list[Reading], *, more: bool, past: Past | None
) -> Iterator[Change]:
    """Yield what differs between what was read and what the ledger holds, customer by customer."""
    tables = ledger.tables
    seen: dict[tuple[str, dt.datetime], tuple[Decimal, dt.datetime | None]] = {}
    spoilt: set[tuple[str, dt.datetime]] = set()
    for start, customer, quantity, at, reason, *_ in readings:
        if customer is None or start < feed.since or (feed.until is not None and start >= feed.until):
            continue
        key = (customer, start)
        if reason is not None:
            spoilt.add(key)
        before, last = seen.get(key, (ZERO, None))
        latest = at if last is None or (at is not None and at > last) else last
        seen[key] = (before + (quantity or ZERO), latest)
    slots, says_zero = tables.slots[feed.id], feed.model is WriteModel.LAST
    found: list[tuple[str, dt.datetime, Decimal, dt.datetime | None, SlotRow | None]] = []
    for (customer, start), (quantity, at) in seen.items():
        slot = slots.get(start, {}).get(customer)
        differs = slot.replan or quantity != slot.quantity if slot else quantity or says_zero
        if differs and (customer, start) not in spoilt:
            found.append((customer, start, quantity, at, slot))
    for start, customers in slots.items():
        if max(span.start, feed.since) <= start < min(span.end, feed.until or span.end):
            found.extend(
                (customer, start, ZERO, None, slot)
                for customer, slot in customers.items()
                if (slot.quantity or slot.replan) and (customer, start) not in seen
            )
    until = span.end if more else feed.until
    newer = set(_newer(tables, feed, found, until)) if says_zero else set()
    moved: dict[tuple[str, dt.datetime], Decimal] = defaultdict(Decimal)
    for customer, start, quantity, _, slot in found:
        moved[customer_of(customer), start] += quantity - (slot.quantity if slot else ZERO)
    found.extend(
        (customer, start, slots[start][customer].quantity, None, slots[start][customer])
        for customer, start in newer
    )
    found.sort(key=lambda each: (customer_of(each[0]), number(dimensions_of(each[0])), each[1]))
    for customer, start, quantity, at, slot in found:
        event = EventId(next(ledger.event_ids))
        carry = tables.carries.get((feed.id, customer), ZERO)
        whose, apart = customer_of(customer), dimensions_of(customer)
        of_all = None
        if past is not None and (whose, start) in moved:
            of_all = together(tables, feed, start, whose, moved[whose, start])
        usual = asked(tables, feed, start, whose, of_all.now if of_all else quantity, past)
        if slot is None:
            yield Change(
                SlotId(event), event, whose, start, ZERO, quantity, at, ZERO, 0, None, carry, Tail.CLEAR, None, ZERO,
                known=False, shadow=_moved(tables, feed, whose, start), usual=usual, dimensions=apart, together=of_all,
            )  # fmt: skip
            continue
        tail, parked, delta = _tail(tables, slot)
        unsaid, passed = of_slot(tables, slot, parked)
        yield Change(
            slot.id, event, whose, start, slot.quantity, quantity, at, slot.total, slot.revision, slot.stamped_at,
            carry, tail, parked, delta, True, slot.replan, _in_shadow(tables, feed, slot, whose, start),
            (customer, start) in newer,
            unsaid, usual, passed, apart, of_all,
        )  # fmt: skip


def _newer(
    tables: Tables,
    feed: Feed,
    found: list[tuple[str, dt.datetime, Decimal, dt.datetime | None, SlotRow | None]],
    until: dt.datetime | None,
) -> Iterator[tuple[str, dt.datetime]]:
    """Yield what is newer than the oldest window of its customer that differs, and does not differ itself."""
    oldest: dict[str, dt.datetime] = {}
    for customer, start, *_ in found:
        oldest[customer] = min(start, oldest.get(customer, start))
    differing = {each[:2] for each in found}
    for start, customers in tables.slots[feed.id].items():
        if start < feed.since or (until is not None and start >= until):
            continue
        for customer in customers.keys() & oldest.keys():
            slot = customers[customer]
            newer = start > oldest[customer] and slot.revision and (customer, start) not in differing
            if newer and not waits_for_a_word(tables, slot):
                yield customer, start


def _tail(tables: Tables, slot: SlotRow) -> tuple[Tail, EventId | None, Decimal]:
    """Say what stands in the way of planning another event for a slot."""
    if slot.tail is None:
        return Tail.CLEAR, None, ZERO
    if slot.tail in tables.outbox:
        return Tail.UNSETTLED, None, ZERO
    last = slot.tail if slot.tail in tables.parked else _rejected(tables, slot) if slot.replan else None
    if last is None:
        return Tail.CLEAR, None, ZERO
    parked = tables.parked[last]
    if parked.state is State.IN_DOUBT:
        return Tail.UNSETTLED, None, ZERO
    tails = {None: Tail.PARKED, Guard.SHRINK: Tail.GUARDED, Guard.REPAIR: Tail.PROPOSED}
    tail = tails.get(parked.guard, Tail.LIMITED)
    return tail, last, tables.events[last].delta


def _rejected(tables: Tables, slot: SlotRow) -> EventId | None:
    """Return the oldest event of a slot that the sink took and rejected later, and that nothing has replaced."""
    found = (
        event
        for event, parked in tables.parked.items()
        if parked.was_accepted and tables.events[event].slot_id == slot.id
    )
    return min(found, default=None)


def _in_shadow(tables: Tables, feed: Feed, slot: SlotRow, whose: str, start: dt.datetime) -> bool:
    if feed.shadowed and slot.tail is not None:
        return tables.events[slot.tail].state is State.SHADOW
    return _moved(tables, feed, whose, start)


def _moved(tables: Tables, feed: Feed, whose: str, start: dt.datetime) -> bool:
    """Tell whether another feed bills a customer's window, where customers move."""
    if not feed.parted:
        return False
    for customer in (whose, None):
        for (leaves, mover), row in tables.cutovers.items():
            if mover == customer and feed.id in (leaves, row.to_feed):
                cutover = Cutover(customer, row.at, row.parallel)
                return is_shadow(cutover, start, leaves=feed.id == leaves, rest_shadowed=feed.rest_shadowed)
    return is_shadow(None, start, leaves=False, rest_shadowed=feed.rest_shadowed)


def readings_of(spool: Spool) -> Iterator[Reading]:
    """Read back what was written for COPY, each customer by the name that it has here with its combination."""
    text = b"".join(spool.blocks()).decode()
    combinations = {str(number): each for each, number in spool.combinations.items()}
    for line in text.splitlines():
        reading = _reading(line)
        number = line.split("\t", 3)[2]
        if number in combinations and reading.customer is not None:
            reading = reading._replace(customer=named(reading.customer, combinations[number]))
        yield reading


@lru_cache(maxsize=100_000)
def _reading(line: str) -> Reading:
    start, customer, _, quantity, at, reason = (None if cell == "\\N" else cell for cell in line.split("\t"))
    assert start is not None
    return Reading(
        dt.datetime.fromisoformat(start),
        customer,
        None if quantity is None else Decimal(quantity),
        None if at is None else dt.datetime.fromisoformat(at),
        reason,
    )
