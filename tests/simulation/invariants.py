"""What must be true at every moment, looked at from outside: source, ledger and service together.

Nothing here trusts the code that is watched. What the ledger's verbs did is looked up in its tables, what was booked in the
service's own books, and what was used in the application's rows. A violation stops the life at that step.
"""

import datetime as dt
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from decimal import ROUND_FLOOR, Decimal

from aggregator.core.model import (
    ZERO,
    Answer,
    Event,
    EventId,
    SlotId,
    Span,
    State,
    WriteModel,
)
from aggregator.core.readbacks import EventsInSpan, Finding
from aggregator.core.states import BOOKED, PARKED, PLANNED, UNDER_WAY, CancellationState, may_follow
from aggregator.core.windows import tile
from aggregator.ledger.adoption import WITHDRAWN
from aggregator.ledger.meters import Lease, Registered
from aggregator.ledger.passes.passes import Pass
from aggregator.ledger.passes.spool import Spool
from aggregator.ledger.passes.stats import Tally
from aggregator.ledger.review.cancellations import Wanted
from aggregator.ledger.review.in_doubt import Settled
from tests.simulation.apart import customer_of
from tests.simulation.application import Application
from tests.simulation.conditions import DAY, HOUR, MINUTE, Conditions
from tests.simulation.hosts import Host
from tests.simulation.invariants_archived import ArchivedMonths
from tests.simulation.invariants_files import Filed
from tests.simulation.invariants_guard import Guarded
from tests.simulation.invariants_moved import Moved
from tests.simulation.invariants_newest import Newest
from tests.simulation.invariants_ranges import Ranges
from tests.simulation.marks import Marks
from tests.simulation.memory import CancellationRow, EventRow, MeterRow, SlotRow, Tables
from tests.simulation.memory_passes import readings_of
from tests.simulation.names import called, outward
from tests.simulation.scheduler import Process, Scheduler
from tests.simulation.service import Service

UNSETTLED = UNDER_WAY | {State.IN_DOUBT}

CANCELLED = "cancelled:"
"""How the reason of a refusal begins that a cancellation has brought about."""

LEAVES_WITHIN = MINUTE
"""An attempt may leave this long after it was judged fit to."""


class Violation(BaseException):
    """Something was true that must never be. `rule` names what was broken.

    No code that is watched can catch it and go on: some of that takes whatever a library raises for a lost answer.
    """

    def __init__(self, rule: str, facts: str) -> None:
        super().__init__(f"{rule}: {facts}")
        self.rule = rule
        self.facts = facts


def require(holds: object, rule: str, *facts: object) -> None:
    """Raise Violation unless it holds."""
    if not holds:
        raise Violation(rule, " ".join(map(str, facts)))


class Invariants:
    """Looks at everything that happens."""

    service: Service
    mail: Mapping[str, object]
    """What the service has told, by name."""

    def __init__(
        self,
        scheduler: Scheduler,
        conditions: Conditions,
        application: Application,
        marks: Marks,
        tables: Callable[[], Tables],
    ) -> None:
        self._scheduler = scheduler
        self._conditions = conditions
        self._application = application
        self._marks = marks
        self._tables = tables
        self._adds = conditions.write_model is WriteModel.DELTA
        self._unit = Decimal(1).scaleb(-conditions.decimals)
        latest = conditions.write_model is WriteModel.LAST
        self._newest = Newest(scheduler, application, self._unit, marks, require) if latest else None
        self.unconfigured: Callable[[], set[str]] = set
        """Names the meters that were removed."""
        self.latest = ""
        """The verb that was used last."""
        self.filed = Filed(self.leaving, require)
        self.months = ArchivedMonths(application, require)
        self._guarded = Guarded(require)
        self.ranges = Ranges(conditions.window, require)
        self.moved = Moved(conditions, marks, require)
        self._content: dict[str, tuple[object, ...]] = {}
        self._first_left: dict[str, dt.datetime] = {}
        self._epochs: dict[int, int] = defaultdict(int)
        self._open: set[str] = set()
        self._states: dict[EventId, State] = {}
        self._by_slot: dict[SlotId, list[EventRow]] = defaultdict(list)
        self._read: dict[tuple[int, str, dt.datetime], Decimal] = {}
        self._marked: dict[str, dt.datetime] = {}
        self._shown_until: dict[tuple[str, dt.datetime], dt.datetime] = {}
        self._covered: dict[str, set[dt.datetime]] = defaultdict(set)
        self._allowance: dict[tuple[str, str, dt.datetime], Decimal] = defaultdict(Decimal)
        self.wound_back = False
        """The ledger was set back, and is not adopted yet."""
        self._adopted_at: dt.datetime | None = None
        """When the ledger was adopted last: what was planned before may have lost an earlier revision by it."""
        self._in_hand: set[str] = set()
        """Identifiers whose claim a restore has forgotten: it was committed all the same."""
        self._unsure: set[EventId] = set()
        """Events about which something was concluded while the ledger was wound back."""
        self._shifted: set[tuple[str, str, dt.date]] = set()
        """Days that agreed at an adoption though their windows did not: what was moved within a day, and back."""
        self._taken: set[str] = set()
        """Messages that were on record whenever all was quiet: a ledger forgets them after months."""
        self._nobody: set[tuple[str, str]] = set()
        """Meters and customers that neither ledger nor source knew at an adoption: what was billed stays billed."""

    # A ledger that is set back.

    def restored(self, before: Tables, tables: Tables) -> None:
        """Begin anew with what a restore has left."""
        self.wound_back = True
        self.months.restored(tables)
        tables = self.months.whole(tables)
        for claim in before.claims.values():
            if claim.settled_at is None:
                self._in_hand.update(
                    before.events[event].identifier for event in claim.events if event in before.outbox
                )
        self._states = {event.id: event.state for event in tables.events.values()}
        self._by_slot = defaultdict(list)
        for event in sorted(tables.events.values(), key=lambda event: event.id):
            self._by_slot[event.slot_id].append(event)
        self._marked = {called(row.name): row.mark for row in tables.meters.values()}
        self._covered = defaultdict(set)
        self._epochs = defaultdict(int, {row.id: row.epoch for row in tables.meters.values()})
        self._unsure &= tables.events.keys()
        self._guarded.restored(tables)
        self.moved.restored(tables)
        self.ranges.restored(self._scheduler.now)
        self._shown_until.clear()

    def failed_over(self, before: Tables, tables: Tables) -> None:
        """Look at a ledger that lies on another server now, and has lost nothing: everything holds on."""
        covered = self._covered
        self.restored(before, tables)
        self._in_hand.clear()
        self.wound_back, self._covered = False, covered

    def adopted(self, tables: Tables) -> None:
        """Hold the ledger against the service's books, day by day, right after an adoption."""
        self.wound_back = False
        self._in_hand.clear()
        self._guarded.restored(tables)
        self.moved.restored(tables)
        self._adopted_at = self._scheduler.now
        self._epochs.update({row.id: row.epoch for row in tables.meters.values()})
        if self._conditions.files:
            self.filed.adopted(tables)
            return
        names = {feed.id: called(tables.meters[feed.meter_id].name) for feed in tables.feeds.values()}
        tables = self.months.whole(tables)
        is_settled = self.months.is_settled
        comparisons: dict[tuple[str, str, dt.date], Decimal] = defaultdict(Decimal)
        slots = [slot for slot in slots_of(tables) if not is_settled(slot.window_start)]
        for slot in slots:
            comparisons[names[slot.feed_id], slot.customer, slot.window_start.date()] += slot.total
        held: dict[tuple[str, str, dt.date], Decimal] = defaultdict(Decimal)
        booked = {place: much for place, much in self.service.by_slot.items() if not is_settled(place[2])}
        for (meter, customer, start), much in booked.items():
            held[meter, customer, start.date()] += much
        known = {(names[slot.feed_id], slot.customer) for slot in slots_of(tables)}
        for key in comparisons.keys() | held.keys():
            if key[:2] not in known:
                self._nobody.add(key[:2])
                self._marks.saw("billed to nobody that is known")
                continue
            require(
                comparisons[key] == held[key],
                "adopted as the service has it",
                key,
                comparisons[key],
                ", not",
                held[key],
            )
        windows = {(names[each.feed_id], each.customer, each.window_start): each.total for each in slots}
        for place in windows.keys() | booked.keys():
            if windows.get(place, ZERO) != booked.get(place, ZERO) and place[:2] in known:
                self._shifted.add((*place[:2], place[2].date()))
                self._marks.saw("moved within a day, and back")
        owed = [event for event in tables.outbox if not is_settled(tables.events[event].window_start)]
        require(not owed, "adopted as the service has it", "something is still owed")

    def put_away(self, path: str, identifiers: Collection[str]) -> None:
        """Forget a file that a person has taken away: what was in it was undone."""
        self.filed.put_away(path, identifiers)
        for each in identifiers:
            self._content.pop(each, None)

    # What leaves, and what is booked.

    def leaving(self, event: Event) -> None:
        """Look at an event that is about to leave."""
        now = self._scheduler.now
        row = self._tables().events.get(event.id)
        if not event.delta:
            self._marks.saw("sent again")
        if self._newest:
            self._newest.leaving(outward(event))
        if event.identifier in self._in_hand:
            first = self._content.setdefault(event.identifier, outward(event)[:9])
            require(
                first == outward(event)[:9], "one identifier, one content", event, "went out before as", first
            )
            return
        require(not self.wound_back, "nothing leaves a ledger that was wound back", event)
        require(row is not None, "write ahead", event, "is not in the ledger")
        assert row is not None
        require(
            row.attempts >= 1 and row.exposed_at is not None, "write ahead", event, "leaves without a claim"
        )
        require(row.state is not State.HELD, "write ahead", event, "is held")
        require(
            outward(event)[:9] == outward(row.as_event(None))[:9],
            "one identifier, one content",
            event,
            "is not",
            row,
        )
        first = self._content.setdefault(event.identifier, outward(event)[:9])
        require(
            first == outward(event)[:9], "one identifier, one content", event, "went out before as", first
        )
        end = event.window_start + self._conditions.window
        require(event.window_start <= event.at < end, "inside its window", event, "is stamped", event.at)
        settled = end + self._conditions.delay
        require(
            row.planned_at >= settled, "not before its window ended", event, "was planned at", row.planned_at
        )
        oldest = now - 35 * DAY if row.attempts == 1 else event.at - DAY
        # What may have left, by a process that died, is asked for once more however old it is: it may be there.
        require(oldest < event.at <= now + 5 * MINUTE, "within the limits", event)
        if self._adds and not self._conditions.files:
            left = self._first_left.setdefault(event.identifier, now)
            proven = now - left <= 20 * HOUR + LEAVES_WITHIN
            require(proven, "no resend after 20 h without proof", event, "first left", left)

    def answered(self, event: Event, answer: Answer) -> None:
        """Look at an answer on its way back: a plain no to the first attempt leaves nothing open."""
        if self._adds and answer in {Answer.REFUSED, Answer.BUSY} and event.identifier not in self._open:
            self._first_left.pop(event.identifier, None)
        else:
            self._open.add(event.identifier)

    def booked(self, event: Event, amount: Decimal) -> None:
        """Look at what the service has just booked."""
        closed = self.months.closed_until(event.meter)
        again = closed is not None and event.window_start < closed
        require(not again, "nothing of a closed month is billed again", event)
        if (event.meter, event.customer) in self._nobody:
            return
        table = self._application.tables[event.meter]
        slot = (event.meter, event.customer, event.window_start)
        service = self.service
        once = service.times[event.identifier] <= 1 or not self._adds
        require(once, "never twice", event, "is booked", service.times[event.identifier], "times")
        shifted = (event.meter, event.customer, event.window_start.date()) in self._shifted
        if (self._newest or not self._conditions.fractions) and not shifted:
            most = table.most[event.customer, event.window_start]
            held = service.by_slot[slot]
            require(
                held <= most + self._unread(event),
                "never over",
                slot,
                "stands at",
                held,
                ", and the source never said more than",
                most,
            )
        if self._newest:
            self._newest.booked(service, event)
            return
        most = table.most_of[event.customer]
        held = service.by_customer[event.meter, event.customer]
        require(
            held <= most + self._lowered(event),
            "never over",
            event.customer,
            "stands at",
            held,
            ", and never used more than",
            most,
        )

    def _lowered(self, event: Event) -> Decimal:
        """Return what decreases of a customer have still to take away: with fractions, others may have used their rest."""
        if not (self._conditions.fractions or self._conditions.files):
            return ZERO
        return self._waiting_decreases(event, lambda row: row.state is not State.VOID)

    def _unread(self, event: Event) -> Decimal:
        """Return what files that nobody has imported take away of a window.

        They are imported in the order of their names, which is that of each one's oldest event: a later correction may
        stand in one before.
        """
        if not self._conditions.files:
            return ZERO
        window = event.window_start
        return self._waiting_decreases(
            event, lambda row: row.state is State.ACCEPTED and row.window_start == window
        )

    def _waiting_decreases(self, event: Event, counts: Callable[[EventRow], bool]) -> Decimal:
        waiting = (
            row.delta
            for row in self._tables().events.values()
            if row.delta < 0
            and (called(row.meter), row.customer) == (event.meter, event.customer)
            and counts(row)
            and not row.taken_over
            and not self.service.times.get(row.identifier)
        )
        return -sum(waiting, ZERO)

    # What the ledger's verbs did.

    def verb(self, process: Process, name: str, values: tuple[object, ...], done: object) -> None:
        """Look at the ledger right after a transaction of it."""
        self.latest = name
        self.months.verb(name, values, self._tables)
        if self._newest:
            self._newest.verb(name, self._tables())
        if name == "settle" and isinstance(values[0], Wanted) and done:
            self._corrects_nothing_cancelled(self._tables(), values[0])
        if name == "settle" and not isinstance(values[0], EventsInSpan):
            for each in values[1] if isinstance(values[1], list) else ():
                broke = (getattr(each, "reason", None) or "").startswith("the sink's library failed")
                require(not broke, "no simulated library breaks", each)
        if name == "acquire" and isinstance(done, Lease):
            row = self._tables().meters[done.registered.id]
            known = row.name == done.registered.meter.name
            require(known, "who knows a former name stands back", process.name, "takes", row.name, "as", done)
            self._epochs[done.registered.id] = max(done.epoch, self._epochs[done.registered.id])
        if name == "resume_backfill" and done is not None:
            registered, goal, _, now = values
            assert isinstance(registered, Registered)
            assert isinstance(goal, Span)
            assert isinstance(now, dt.datetime)
            self.ranges.resumed(called(registered.meter.name), goal, now)
        if name == "set_unread":
            lease, this, _ = values
            assert isinstance(lease, Lease)
            assert isinstance(this, Pass)
            self._covered[called(lease.registered.meter.name)].add(this.span.start)
            self.ranges.committed(called(lease.registered.meter.name), this, self._scheduler.now)
        if (
            name == "settle"
            and isinstance(values[0], EventsInSpan)
            and isinstance(done, Settled)
            and not done.stale
        ):
            self._ruled(values[0], values[1])
        if name == "commit":
            lease, spool, this, _ = values
            assert isinstance(lease, Lease)
            assert isinstance(spool, Spool)
            assert isinstance(this, Pass)
            newest, query = self._epochs[lease.registered.id], this.definition.query
            require(
                lease.epoch == newest, "only the holder commits", process.name, lease.epoch, "is not", newest
            )
            require(query in process.complete, "only a complete read is committed", this.span)
            closed = self.months.closed_until(called(lease.registered.meter.name))
            is_open = closed is None or this.span.start >= closed
            require(
                is_open,
                "nothing of a closed month is read again",
                this.span,
                "and it is closed until",
                closed,
            )
            assert isinstance(done, Tally)
            self._shown(called(lease.registered.meter.name), process.shown[query], this)
            self._committed(called(lease.registered.meter.name), spool, this, done)
            self.ranges.committed(called(lease.registered.meter.name), this, self._scheduler.now)
        if name in {"acquire", "commit", "set_unread"}:
            for row in self._tables().meters.values():
                self._marks_forward(row)

    def claimed(self, host: Host, claim: object, configured: set[int]) -> None:
        """Look at a claim that was just committed: by the ledger's clock, from a host whose clock agrees with it.

        It holds only what is owed of the feeds that its process has in its configuration.
        """
        number = getattr(claim, "id", None)
        assert number is not None
        row = self._tables().claims[number]
        require(host.is_right, "nothing is claimed by a wrong clock", host.name, "is ahead by", host.ahead)
        feeds = {self._tables().events[event].feed_id for event in row.events}
        require(
            feeds <= configured, "what was removed waits", number, "takes of the feeds", feeds - configured
        )
        stamped = row.claimed_at <= self._scheduler.now
        require(stamped, "claims go by the ledger's clock", number, "is stamped", row.claimed_at)

    def released(self, events: Iterable[int]) -> None:
        """Look at the ledger right after a person let events go."""
        self.moved.decided(set(map(EventId, events)), self._tables())
        self._said("release")

    def by_person(self, verb: str) -> None:
        """Look at the ledger right after a person has said something of files."""
        self._said(verb)

    def _said(self, verb: str) -> None:
        self.latest = verb
        if self._newest:
            self._newest.verb(verb, self._tables())

    def _ruled(self, in_span: EventsInSpan, conclusions: object) -> None:
        """Look at what was concluded from the service's own figures."""
        assert isinstance(conclusions, list)
        doubted = {event.id for event in in_span.asked if event.state is State.IN_DOUBT}
        for conclusion in conclusions:
            event = self._tables().events[conclusion.event]
            newer = self._by_slot[event.slot_id][event.revision + 1 :]
            compared = self._adopted_at is not None and event.planned_at <= self._adopted_at
            if self.wound_back or compared or any(each.taken_over for each in newer):
                self._unsure.add(event.id)  # an adoption puts right what is concluded wrongly, or has done so
                continue
            there = self.service.times.get(event.identifier, 0)
            if conclusion.finding is Finding.PRESENT:
                require(there, "what is proven is so", event, "is not there, and is said to be")
            if conclusion.finding is Finding.ABSENT:
                require(not there, "what is proven is so", event, "is there, and is said not to be")
                self._first_left.pop(event.identifier, None)
                self._open.discard(event.identifier)
            self._marks.saw(
                f"{'in doubt' if conclusion.event in doubted else 'accepted'}, proven {conclusion.finding}"
            )

    def _committed(self, meter: str, spool: Spool, this: Pass, tally: Tally) -> None:
        marks = self._marks
        for name, count in (
            ("change deferred", tally.deferred),
            ("parked event replaced", len(tally.voided)),
            ("decrease held", tally.held),
            ("set aside", tally.unmapped_rows),
            ("shrink guard held", tally.guarded),
            ("late commit found", tally.corrections),
            ("backfill", this.kind == "backfill"),
        ):
            if count:
                marks[name] += int(count)
        tables, window = self._tables(), self._conditions.window
        row = next(row for row in tables.meters.values() if called(row.name) == meter)
        covered = self._covered[meter]
        start = this.span.start
        while start < this.span.end:
            covered.add(start)
            start += window
        self._compare(tables, row.id, row.reread_from, spool, this)
        if self._adds:
            self._guarded.committed(tables, row.id, this.span)
        self.moved.committed(tables, row.id, this)
        if tables.carries:
            marks.saw("carried")

    def _shown(self, meter: str, until: dt.datetime, this: Pass) -> None:
        """What was read had been shown by the very connection it was read from, and nothing less than before."""
        facts = (meter, this.span, "was read from a source that shows what there was at", until)
        require(this.span.end <= until, "nothing unproven is believed", *facts)
        for window in tile(this.span, self._conditions.window):
            before = self._shown_until.get((meter, window.start), until)
            require(until >= before, "no reading goes back in time", *facts, ", and before at", before)
            self._shown_until[meter, window.start] = min(until, this.now)

    def _marks_forward(self, row: MeterRow) -> None:
        before, covered, window = (
            self._marked.get(called(row.name), row.start_at),
            self._covered[called(row.name)],
            self._conditions.window,
        )
        require(row.mark >= before, "the mark goes forward", row.name, "from", before, "to", row.mark)
        while before < row.mark:
            require(
                before in covered, "the mark jumps no gap", row.name, before, "was not read; it is", row.mark
            )
            before += window
        self._marked[called(row.name)] = row.mark

    def _compare(
        self, tables: Tables, meter_id: int, reread_from: dt.datetime | None, spool: Spool, this: Pass
    ) -> None:
        """Hold what was read against what the ledger holds now: together, or waiting and known to wait."""
        read: dict[tuple[str, dt.datetime], Decimal] = defaultdict(Decimal)
        spoilt = set()
        for each in readings_of(spool):
            if each.customer is not None:
                read[each.customer, each.window_start] += each.quantity or ZERO
                if each.reason is not None:
                    spoilt.add((each.customer, each.window_start))
        for feed in tables.feeds.values():
            if feed.meter_id != meter_id:
                continue
            slots = tables.slots[feed.id]
            keys = dict.fromkeys(read)
            for start, customers in slots.items():
                if start in this.span:
                    keys.update(dict.fromkeys((customer, start) for customer in customers))
            for key in keys:
                if key in spoilt or key[1] < feed.since:
                    continue
                slot = slots.get(key[1], {}).get(key[0])
                quantity = slot.quantity if slot else ZERO
                if quantity == read.get(key, ZERO):
                    continue
                waits = slot is not None and slot.tail is not None and self._waits(tables, slot.tail)
                known = reread_from is not None and reread_from <= key[1]
                require(
                    waits,
                    "together or not at all",
                    key,
                    "was read as",
                    read.get(key),
                    ", the ledger has",
                    quantity,
                )
                require(known, "what waits is read again", key, "waits, and is read again from", reread_from)

    def _waits(self, tables: Tables, event: EventId) -> bool:
        return event in tables.outbox or (
            event in tables.parked and tables.parked[event].state is State.IN_DOUBT
        )

    def changed(self, events: Iterable[EventRow], tables: Tables) -> None:
        """Look at events that have just changed, and at their slots."""
        for event in events:
            self._move(event)
        for slot in {event.slot_id: event for event in events}.values():
            row = tables.slots[slot.feed_id][slot.window_start][slot.customer]
            self._slot(row, self._by_slot[slot.slot_id])

    def _move(self, event: EventRow) -> None:
        before = self._states.get(event.id)
        if before is None:
            shadowed = self._tables().feeds[event.feed_id].shadow
            begins = PLANNED if shadowed else PLANNED - {State.SHADOW}
            if event.taken_over:
                begins = frozenset({State.CONFIRMED})
            require(event.state in begins, "states go forward", "event", event.id, "begins", event.state)
            self._by_slot[event.slot_id].append(event)
            if self.latest == "commit":
                self._guarded.planned(event)
        elif before is not event.state:
            self._mark(event, before, event.state)
            if self.wound_back and event.state is State.VOID:
                self._unsure.add(event.id)
            withdrawn = before is State.SENDING and event.reason == WITHDRAWN
            untried = event.attempts == 0 and event.exposed_at is None
            require(
                may_follow(before, event.state, untried=untried) or withdrawn,
                "states go forward",
                "event",
                event.id,
                ":",
                before,
                "to",
                event.state,
            )
        elif event.state is State.SENDING:
            self._marks.saw("takeover during a send")
        self._states[event.id] = event.state

    def _mark(self, event: EventRow, before: State, now: State) -> None:
        if (before, now) == (State.HELD, State.DUE) and self.latest == "commit" and event.delta < 0:
            self._marks.saw("shrink guard confirmed")
            self._guarded.believed(event, self._scheduler.now)
        if now is State.REFUSED and self.latest in {"take_report", "take"}:
            answered = before in BOOKED
            self._marks.saw("rejected after its answer" if answered else "rejected before its answer")

    def _slot(self, slot: SlotRow, events: list[EventRow]) -> None:
        total = ZERO
        for revision, event in enumerate(events):
            require(
                event.revision == revision, "revisions have no hole", event, "should be revision", revision
            )
            if event.state is not State.VOID:
                total += event.delta
                rebased = self._adopted_at is not None and event.planned_at < self._adopted_at
                comparisons = event.total == total or rebased or _is_overtaken(event, events[:revision])
                require(comparisons, "totals add up", event, "should stand at", total)
        require(slot.total == total, "totals add up", slot, "should stand at", total)
        require(slot.revision == len(events), "revisions have no hole", slot, "has", len(events), "events")
        unsettled = sum(event.state in UNSETTLED for event in events)
        require(unsettled <= 1, "one unsettled event at a time", slot, "has", unsettled)

    # The whole, now and then.

    def all(self, tables: Tables) -> None:
        """Look at everything the ledger holds, and at what it has let go."""
        self.months.look(tables)
        tables = self.months.whole(tables)
        by_slot: dict[SlotId, list[EventRow]] = defaultdict(list)
        for event in sorted(tables.events.values(), key=lambda event: event.id):
            by_slot[event.slot_id].append(event)
        used: dict[tuple[int, str], Decimal] = defaultdict(Decimal)
        booked: dict[tuple[int, str], Decimal] = defaultdict(Decimal)
        for slot in slots_of(tables):
            self._slot(slot, by_slot[slot.id])
            used[slot.feed_id, slot.customer] += slot.quantity
            booked[slot.feed_id, slot.customer] += slot.total
        if self._newest:
            self._newest.whole(tables, self.service)
            used.clear()  # windows do not add up
        for key, quantity in used.items():
            carry = tables.carries.get(key, ZERO)
            require(ZERO <= carry < self._unit, "a carry is less than a unit", key, "carries", carry)
            require(
                quantity == booked[key] + carry,
                "balance",
                key,
                "used",
                quantity,
                ", planned",
                booked[key],
                "and",
                carry,
            )
        identifiers = {event.identifier for event in tables.events.values()}
        require(
            len(identifiers) == len(tables.events),
            "one identifier, one content",
            "an identifier occurs twice",
        )
        self._filed(tables)
        self._agrees(tables)

    def _filed(self, tables: Tables) -> None:
        """The outbox and what is parked are what the events' states say."""
        for event in tables.events.values():
            due = event.state in UNDER_WAY
            require(due == (event.id in tables.outbox), "the outbox holds what is owed", event)
            parked = tables.parked.get(event.id)
            comparisons = event.state in PARKED
            require(comparisons == (parked is not None), "what is parked is listed", event, parked)
            require(parked is None or parked.state is event.state, "what is parked is listed", event, parked)

    def _corrects_nothing_cancelled(self, tables: Tables, wanted: Wanted) -> None:
        """Nothing is held of a slot at the moment at which an event of it is known to be cancelled: it was made for that.

        It is that moment that counts. A pass that began earlier, and comes to compare the slot only after it, knows of the
        cancellation, though the time of what it plans says otherwise. What the sink itself had rejected by then was owed
        again from that moment on: what was held since accounts for it.
        """
        row = tables.cancellations.get(wanted.id)
        if row is None or row.state is not CancellationState.DONE or not _took_it_back(tables, row):
            return
        slot = tables.events[row.event_id].slot_id
        for event in tables.events.values():
            held = event.slot_id == slot and event.state is State.HELD
            require(
                not held, "what is held corrects what stands", event, "corrects what was cancelled by", row
            )

    def _agrees(self, tables: Tables) -> None:
        """The service booked what is accepted, once, and nothing of what never left."""
        service = self.service
        for event in tables.events.values():
            if self.wound_back or event.reason == WITHDRAWN or event.id in self._unsure:
                continue
            if event.state in BOOKED and event.identifier in service.cancelled:
                known = event.id in being_cancelled(tables) or self._was_compared(event)
                require(known, "what is cancelled is known to be wanted back", event)
                continue
            times = self._times(event.identifier)
            if event.taken_over:
                require(times == 0, "what is taken over is never sent", event)
                continue
            if event.state in BOOKED and event.identifier not in service.rejected:
                once = times == 1 if self._adds else times >= 1
                require(once, "accepted means booked", event, "is booked", times, "times")
            if event.state is State.HELD or (event.state is State.VOID and event.exposed_at is None):
                require(times == 0, "held means not booked", event, "is booked", times, "times")
            exposed = event.exposed_at is not None
            if (
                event.state is State.REFUSED
                and event.identifier not in service.rejected
                and (self._adds or not exposed)
            ):
                require(times == 0, "refused means not booked", event, "is booked", times, "times")

    def _was_compared(self, event: EventRow) -> bool:
        """Tell whether an adoption has found that an event was taken back, of which the ledger knew nothing any more."""
        return self._adopted_at is not None and self.service.cancelled[event.identifier] <= self._adopted_at

    def _times(self, identifier: str) -> int:
        """Return how often an event was booked, or lies in a file, which is imported once."""
        if self._conditions.files:
            return int(identifier in self.filed.file_of)
        return self.service.times.get(identifier, 0)

    def at_the_end(self, tables: Tables) -> None:
        """When all is quiet: service = ledger = source, to the unit, but for what is listed by name."""
        self.all(tables)
        self._rests(tables)
        tables = self.months.whole(tables)
        parked: dict[tuple[str, str, dt.datetime], Decimal] = defaultdict(Decimal)
        last: dict[tuple[str, str, dt.datetime], Decimal] = {}
        for event in tables.events.values():
            named = (called(event.meter), event.customer, event.window_start)
            if event.state in PARKED and not self.service.times.get(event.identifier):
                parked[named] += event.delta
            if event.state in BOOKED or (
                event.state in {State.REFUSED, State.IN_DOUBT} and self.service.times.get(event.identifier)
            ):
                last[named] = event.total
        names = {feed.id: called(tables.meters[feed.meter_id].name) for feed in tables.feeds.values()}
        slots = {(names[slot.feed_id], slot.customer, slot.window_start) for slot in slots_of(tables)}
        for key, much in self.service.by_slot.items():
            shifted = (*key[:2], key[2].date()) in self._shifted
            known = key in slots or key[:2] in self._nobody or not much or shifted
            require(known, "the service holds what the ledger says", key, "is not in the ledger:", much)
        lapsed = set(being_cancelled(tables))
        for slot in slots_of(tables):
            meter = names[slot.feed_id]
            if (meter, slot.customer) in self._nobody:
                continue
            key = (meter, slot.customer, slot.window_start)
            held = self.service.by_slot[key]
            if self._is_on_record(tables, meter, slot.customer):
                continue
            if lapsed.intersection(self._ids_of(slot)):
                self._marks.saw("cancellation lapsed")
                continue
            if (*key[:2], key[2].date()) in self._shifted:
                continue
            owed = slot.total - parked[key] if self._adds else last.get(key, ZERO)
            require(held == owed, "the service holds what the ledger says", key, ":", held, ", not", owed)
        self._days_agree(tables, names, parked)
        for meter, table in self._application.tables.items():
            if meter not in {called(each) for each in self.unconfigured()}:
                truth = self.months.truth(meter, table.truth())
                self._settled(tables, meter, truth, self.months.spoilt(meter, table.spoilt(), truth))

    def _rests(self, tables: Tables) -> None:
        """Nothing is owed, begun or asked for any more."""
        require(not self.wound_back, "it comes to rest", "the ledger was never adopted")
        require(not tables.outbox, "it comes to rest", len(tables.outbox), "events are still owed")
        asked = [
            row
            for row in tables.cancellations.values()
            if row.state in {CancellationState.ASKED, CancellationState.TAKEN}
        ]
        require(not asked, "it comes to rest", "cancellations are open:", asked)
        self._taken.update(name for _, name in tables.notifications)
        require(self._taken == set(self.mail), "every message is taken", self._taken ^ set(self.mail))
        if self._conditions.files:
            self.filed.at_the_end(tables)
        if self._newest:
            self._newest.at_the_end(tables, self.service)

    def _ids_of(self, slot: SlotRow) -> set[EventId]:
        return {event.id for event in self._by_slot[slot.id]}

    def _days_agree(
        self, tables: Tables, names: dict[int, str], parked: dict[tuple[str, str, dt.datetime], Decimal]
    ) -> None:
        """Hold the days that are right as a whole against the service, where its totals add up."""
        for meter, customer, day in self._shifted if self._adds else ():
            if (meter, customer) in self._nobody or self._is_on_record(tables, meter, customer):
                continue
            same = (meter, customer, day)
            held = sum(
                (much for key, much in self.service.by_slot.items() if (*key[:2], key[2].date()) == same),
                ZERO,
            )
            owed = sum(
                (
                    each.total - parked[meter, customer, each.window_start]
                    for each in slots_of(tables)
                    if (names[each.feed_id], each.customer, each.window_start.date()) == same
                ),
                ZERO,
            )
            require(held == owed, "the service holds what the ledger says", same, ":", held, ", not", owed)

    def _is_on_record(self, tables: Tables, meter: str, customer: str) -> bool:
        """Tell whether a read-back has said of a customer, with the figures, that nobody can tell what is missing.

        Of a minute in which events of several combinations lie, a figure may well not tell.
        """
        row = next(row for row in tables.meters.values() if called(row.name) == meter)
        words = [f"{name} of {customer_of(customer)} in" for name in (row.name, *row.formerly)]
        said = [
            row.found
            for row in tables.readbacks.values()
            if row.found and any(each in row.found for each in words)
        ]
        why = ("no figure", "explain", "took over")
        return any(word in found for found in said for word in why)

    def _settled(
        self,
        tables: Tables,
        meter: str,
        truth: dict[tuple[str, dt.datetime], Decimal],
        spoilt: set[tuple[str, dt.datetime]],
    ) -> None:
        row = next(row for row in tables.meters.values() if called(row.name) == meter)
        feeds = [feed for feed in tables.feeds.values() if feed.meter_id == row.id]
        require(
            self._scheduler.now - row.mark < 2 * self._conditions.window + self._conditions.delay + 6 * HOUR,
            "the mark comes forward",
            meter,
            "is read until",
            row.mark,
        )
        for feed in feeds:
            slots = tables.slots[feed.id]
            keys = dict.fromkeys(truth)
            keys.update(
                dict.fromkeys((customer, start) for start, held in slots.items() for customer in held)
            )
            in_doubt = {
                (tables.events[event].customer, tables.events[event].window_start)
                for event, parked in tables.parked.items()
                if parked.state is State.IN_DOUBT and tables.events[event].feed_id == feed.id
            }
            for key in keys:
                if key in spoilt or key in in_doubt or key[1] >= row.mark:
                    continue
                slot = slots.get(key[1], {}).get(key[0])
                quantity = slot.quantity if slot else ZERO
                used = truth.get(key, ZERO)
                require(
                    quantity == used,
                    "the ledger holds what was used",
                    meter,
                    key,
                    ":",
                    quantity,
                    ", not",
                    used,
                )
            if not self._newest:
                self._floor(tables, feed.id)

    def _floor(self, tables: Tables, feed: int) -> None:
        """What is planned for a customer is the floor of what they used."""
        used: dict[str, Decimal] = defaultdict(Decimal)
        booked: dict[str, Decimal] = defaultdict(Decimal)
        for customers in tables.slots[feed].values():
            for customer, slot in customers.items():
                used[customer] += slot.quantity
                booked[customer] += slot.total
        for customer, quantity in used.items():
            owed = quantity.quantize(self._unit, ROUND_FLOOR)
            require(
                booked[customer] == owed,
                "the floor of what was used",
                customer,
                ":",
                booked[customer],
                ", not",
                owed,
            )


def _is_overtaken(event: EventRow, earlier: list[EventRow]) -> bool:
    """Tell whether an earlier revision, which the service rejected, was replaced after this one had been planned."""
    return any(
        each.state is State.VOID and each.settled_at is not None and each.settled_at > event.planned_at
        for each in earlier
    )


def _took_it_back(tables: Tables, row: CancellationRow) -> bool:
    """Tell whether it is by the cancellation that the event counts as refused, and not by a report that came before."""
    event = tables.events[row.event_id]
    reason = tables.rejections.get((event.sink_id, event.identifier), CANCELLED)
    return reason.startswith(CANCELLED)


def being_cancelled(tables: Tables) -> set[EventId]:
    """Return the events that are wanted back, and of which it is not known that they are."""
    return {row.event_id for row in tables.cancellations.values() if row.settled_at is None}


def slots_of(tables: Tables) -> Iterable[SlotRow]:
    """Yield every slot."""
    for windows in tables.slots.values():
        for customers in windows.values():
            yield from customers.values()
