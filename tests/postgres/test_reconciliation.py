"""Doubts settled by the sink's own figures, and reports that come after the answer: never lost, never twice, never over."""

import datetime as dt
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from decimal import Decimal

import pytest

from aggregator.core.model import (
    Answer,
    Event,
    EventId,
    Rejection,
    Report,
    Span,
    Verdict,
    WriteModel,
)
from aggregator.core.readbacks import LOOK_AGAIN, Finding
from aggregator.errors import AggregatorError, LedgerUnreachable, SinkError, SinkHalted, SinkUnreachable
from aggregator.ledger.database import Database
from aggregator.ledger.review.in_doubt import InDoubt
from aggregator.ledger.review.parked import Choice, ParkedEvents
from aggregator.reconciliation.reconciler import Reconciled, Reconciler
from tests.fakes import LIMITS, FakeSink
from tests.postgres.world import HOUR, METER, MINUTE, START, World

SECOND = dt.timedelta(seconds=1)
REMEMBERS = dt.timedelta(hours=24)


class Sink(FakeSink):
    """Remembers identifiers for a day, shows what it booked after a while, and may reject later what it accepted.

    Whatever it books is compared at once with what the source says: never over, not even briefly.
    """

    def __init__(self, **limits: object) -> None:
        super().__init__(limits=replace(LIMITS, **limits))  # type: ignore[arg-type]
        self.world: World
        self.lag = dt.timedelta(0)
        self.journal: list[tuple[Event, dt.datetime]] = []
        self.rejected: set[str] = set()
        self.asked: list[tuple[str, Span]] = []
        self.during_total: Callable[[str], None] = lambda customer: None

    def _take(self, event: Event) -> Verdict:
        for known, at in self.journal:
            if self.world.now - at >= REMEMBERS:
                self.identifiers.pop(known.identifier, None)
        before = len(self.identifiers)
        verdict = super()._take(event)
        if len(self.identifiers) > before:
            self.journal.append((event, self.world.now))
        truth = self.world.source.totals().get(event.customer, Decimal(0))
        assert self.holds(event.customer) <= truth, "never over, not even briefly"
        return verdict

    def holds(self, customer: str) -> Decimal:
        """Return what it bills a customer for."""
        return sum(
            (
                event.delta
                for event, _ in self.journal
                if event.customer == customer and event.identifier not in self.rejected
            ),
            Decimal(0),
        )

    def total(self, meter: str, customer: str, span: Span) -> Decimal:
        """Return what it has counted by now, as the float that it is."""
        self.asked.append((customer, span))
        self.during_total(customer)
        counted = sum(
            (
                event.delta
                for event, at in self.journal
                if (event.meter, event.customer) == (meter, customer)
                and event.at in span
                and event.identifier not in self.rejected
                and self.world.now - at >= self.lag
            ),
            Decimal(0),
        )
        return Decimal(repr(float(counted)))


def build(database: Database, sink: Sink, **meter: object) -> World:
    """Return a world around a sink."""
    world = World(database, meter=replace(METER, **meter), sinks=[sink])  # type: ignore[arg-type]
    sink.world = world
    return world


@pytest.fixture
def sink() -> Sink:
    """A sink that keeps the rules of the real one."""
    return Sink()


@pytest.fixture
def owing(database: Database, sink: Sink) -> World:
    """A world that owes three customers one event each."""
    world = build(database, sink)
    for number in range(3):
        world.source.use(f"cus_{number}", START, number + 1)
    world.at(1, 5)
    world.collect()
    return world


def reconciliation(world: World) -> Reconciler:
    """Return what reads the one sink back."""
    return Reconciler(InDoubt(world.database), world.sink, world.registered.feeds[0].sink_id)


def reconcile(world: World) -> Reconciled:
    """Let one round run."""
    return reconciliation(world).run_once(world.now)


def states(world: World) -> dict[str, str]:
    """Return the state of each customer's latest event."""
    return dict(world.rows("select customer, state::text from aggregator.event order by id"))


def report(world: World, *identifiers: str, rejected: int | None = None, name: str = "evt_1") -> Report:
    """Make a report about what the sink just received."""
    span = Span(world.now - 10 * SECOND, world.now)
    named = tuple(Rejection(identifier, "no such customer") for identifier in identifiers)
    return Report(name, METER.name, span, len(named) if rejected is None else rejected, named)


def about_to_look(world: World) -> Reconciler:
    """Return what was told of one rejection that it does not know, when it is time to read the sink back for it."""
    reading = reconciliation(world)
    reading.take(report(world, rejected=1)._replace(span=Span(world.now, world.now + 10 * SECOND)), world.now)
    world.now += 27 * HOUR
    return reading


def identifier_of(world: World, customer: str) -> str:
    """Return the identifier of a customer's first event."""
    name: str = world.rows(
        "select identifier from aggregator.event where customer = %s order by id", customer
    )[0][0]
    return name


@pytest.mark.parametrize("arrived", [True, False])
def test_a_day_later_the_sink_is_asked_before_anything_is_sent(
    owing: World, sink: Sink, arrived: bool
) -> None:
    """A lost answer and a clock 25 hours ahead: the sink's own figure decides, and nothing is billed twice (B4)."""
    if arrived:
        sink.lost_after_booking = lambda event: event.customer == "cus_1"
    else:
        sink.fault = lambda event: Answer.UNKNOWN if event.customer == "cus_1" else None
    owing.deliver()
    sent = len(sink.received)
    owing.at(26, 5)
    assert owing.deliver().in_doubt == 1
    assert reconcile(owing) == Reconciled(), "too early: the figure proves nothing yet"
    assert sink.asked == []
    sink.lost_after_booking, sink.fault = lambda event: False, lambda event: None
    owing.at(26 + 26, 5)
    result = reconcile(owing)
    assert (result.present, result.absent) == ((1, 0) if arrived else (0, 1))
    assert sink.asked == [("cus_1", Span(START, START + MINUTE))]
    assert len(sink.received) == sent
    assert owing.deliver().accepted == (0 if arrived else 1)
    assert len(sink.received) == sent + (not arrived)
    assert len({event[:9] for event in sink.received if event.customer == "cus_1"}) == 1, "the same bytes"
    assert sink.holds("cus_1") == 2
    assert set(states(owing).values()) == {"accepted"}
    assert owing.one("select count(*) from aggregator.parked") == 0
    owing.check_balance()
    [(found, done)] = owing.rows("select found, done_at from aggregator.readback")
    assert f"the sink has {2.0 if arrived else 0.0} for api_requests of cus_1" in found, (
        "the proof stays on record"
    )
    assert done == owing.now


@pytest.mark.parametrize("hours", [1, 8, 30])
@pytest.mark.parametrize("arrives", ["all of it", "nothing", "one customer"])
def test_a_black_hole(owing: World, sink: Sink, hours: int, arrives: str) -> None:
    """No answer for hours, whatever arrived meanwhile: each use is billed once in the end, and never twice (B1, B4)."""

    def lands(event: Event) -> bool:
        return arrives == "all of it" or (arrives == "one customer" and event.customer == "cus_1")

    sink.fault = lambda event: (
        None if lands(event) and event.identifier not in sink.identifiers else Answer.UNKNOWN
    )
    sink.lost_after_booking = lambda event: True
    until = owing.now + hours * HOUR
    while owing.now < until:
        owing.deliver()
        owing.now += 30 * MINUTE
    sink.fault, sink.lost_after_booking = lambda event: None, lambda event: False
    owing.deliver()
    for _ in range(3):
        owing.now += 26 * HOUR
        reconcile(owing)
        owing.deliver()
    assert [sink.holds(f"cus_{n}") for n in range(3)] == [1, 2, 3]
    assert states(owing) == dict.fromkeys(["cus_0", "cus_1", "cus_2"], "accepted")
    owing.check_balance()


def two_in_one_minute(database: Database, sink: Sink, first: int, second: int) -> World:
    """Return a world that owes one customer two events in one minute, of windows that meet within it."""
    world = build(database, sink, window=90 * SECOND)
    world.source.use("cus_a", START + 80 * SECOND, first)
    world.source.use("cus_a", START + 100 * SECOND, second)
    world.at(1)
    world.collect()
    return world


@pytest.mark.parametrize("arrived", [(), (80,), (100,), (80, 100)])
def test_several_in_doubt_in_one_minute(database: Database, sink: Sink, arrived: tuple[int, ...]) -> None:
    """Two events of one minute are told apart by their sizes (B4)."""
    world = two_in_one_minute(database, sink, 1, 2)
    landing = {START + each * SECOND for each in arrived}
    sink.fault = lambda event: None if event.at in landing else Answer.UNKNOWN
    sink.lost_after_booking = lambda event: True
    world.deliver()
    sink.fault, sink.lost_after_booking = lambda event: None, lambda event: False
    world.now += 25 * HOUR
    assert world.deliver().in_doubt == 2
    world.now += 26 * HOUR
    result = reconcile(world)
    assert (result.present, result.absent, len(sink.asked)) == (len(arrived), 2 - len(arrived), 1)
    world.deliver()
    assert sink.holds("cus_a") == 3
    assert states(world) == {"cus_a": "accepted"}
    world.check_balance()


def test_what_cannot_be_told_apart_waits_for_a_person(database: Database, sink: Sink) -> None:
    """Two events of one size, one of them there: nothing is sent, the figures are shown, and a person's word settles it."""
    world = two_in_one_minute(database, sink, 5, 5)
    sink.fault = lambda event: None if event.at == START + 80 * SECOND else Answer.UNKNOWN
    sink.lost_after_booking = lambda event: True
    world.deliver()
    sink.fault, sink.lost_after_booking = lambda event: None, lambda event: False
    world.now += 25 * HOUR
    world.deliver()
    world.now += 26 * HOUR
    sent = len(sink.received)
    result = reconcile(world)
    assert (result.unclear, result.present, result.absent) == (2, 0, 0)
    [sentence] = result.unsettled
    assert "the sink has 5.0" in sentence
    assert sentence.endswith("2 ways explain this")
    parked = ParkedEvents(world.database)
    waiting = parked.waiting(Choice(state="in_doubt"), 10)
    assert [each.reason for each in waiting] == [sentence, sentence]
    assert reconcile(world) == Reconciled(), "not before some hours have passed"
    world.now += LOOK_AGAIN
    assert reconcile(world).unclear == 2
    world.deliver()
    assert len(sink.received) == sent
    first, second = sorted(each.event for each in waiting)
    assert parked.settle_by_hand([first], Finding.PRESENT, world.now) == [first]
    assert parked.settle_by_hand([second, first], Finding.ABSENT, world.now) == [second]
    world.deliver()
    assert sink.holds("cus_a") == 10
    assert world.one("select count(*) from aggregator.readback where found like '%%on a person''s word'") == 2
    world.check_balance()


def test_a_figure_that_lags_behind(owing: World, sink: Sink) -> None:
    """What the sink counts a day late is not taken for absent: it is asked late enough (B4)."""
    sink.lag = dt.timedelta(hours=25)
    began = owing.now
    sink.lost_after_booking = lambda event: True
    sink.fault = lambda event: (
        Answer.UNKNOWN if event.identifier in sink.identifiers or owing.now < began + 19 * HOUR else None
    )
    while owing.deliver().in_doubt == 0:
        owing.now += 30 * MINUTE
    assert set(states(owing).values()) == {"in_doubt"}
    while owing.one("select count(*) from aggregator.parked"):
        result = reconcile(owing)
        assert (result.absent, result.unclear) == (0, 0)
        owing.now += HOUR
    assert [sink.holds(f"cus_{n}") for n in range(3)] == [1, 2, 3]


def test_a_neighbour_on_its_way_is_waited_for(database: Database, sink: Sink) -> None:
    """While another event may arrive in the same minute, and until it is sure to be counted, nothing is concluded."""
    world = two_in_one_minute(database, sink, 1, 2)
    sink.fault = lambda event: Answer.UNKNOWN if event.delta == 1 else Answer.BUSY
    world.deliver()
    world.now += 25 * HOUR
    world.deliver()
    world.now += 26 * HOUR
    assert reconcile(world).waiting == 1
    assert reconcile(world) == Reconciled(), "not at once again"
    sink.fault = lambda event: None
    world.deliver()
    world.now += HOUR
    assert reconcile(world).waiting == 1, "the other one was sent just now"
    assert sink.asked == []
    world.now += 26 * HOUR
    assert reconcile(world).absent == 1
    world.deliver()
    assert sink.holds("cus_a") == 3


@pytest.mark.sessions
def test_no_transaction_is_open_while_the_sink_is_asked(owing: World, sink: Sink) -> None:
    """The ledger is read, then the sink is asked, then the ledger is written: never two of them at once."""
    seen = []

    def look(customer: str) -> None:
        seen.append(
            owing.one("""
                select count(*) from pg_stat_activity
                 where datname = current_database() and state like 'idle in transaction%%' and pid <> pg_backend_pid()
            """)
        )

    sink.lost_after_booking = lambda event: True
    owing.deliver()
    sink.during_total = look
    owing.at(30)
    owing.deliver()
    owing.at(60)
    assert reconcile(owing).present == 3
    assert seen == [0, 0, 0]


def test_a_figure_that_was_overtaken_changes_nothing(owing: World, sink: Sink) -> None:
    """What was decided while the sink was being asked stands; the figure is not applied to what it did not show."""
    sink.fault = lambda event: Answer.UNKNOWN
    owing.deliver()
    owing.at(30)
    owing.deliver()
    owing.at(60)

    def decide(customer: str) -> None:
        [each] = ParkedEvents(owing.database).waiting(Choice(customer=customer), 10)
        ParkedEvents(owing.database).settle_by_hand([each.event], Finding.PRESENT, owing.now)

    sink.during_total = decide
    result = reconcile(owing)
    assert (result.stale, result.absent) == (3, 0)
    assert set(states(owing).values()) == {"accepted"}
    assert owing.one("select count(*) from aggregator.outbox") == 0


def test_one_customers_trouble_stops_nobody(owing: World, sink: Sink) -> None:
    """A sink that has no figure for one customer leaves that one in doubt, with the reason; the others are settled (B11)."""
    sink.lost_after_booking = lambda event: True
    owing.deliver()
    owing.at(30)
    owing.deliver()
    owing.at(60)

    def fail(customer: str) -> None:
        if customer == "cus_0":
            raise SinkError("No such customer.")

    sink.during_total = fail
    result = reconcile(owing)
    assert (result.present, result.unclear) == (2, 1)
    [each] = ParkedEvents(owing.database).waiting(Choice(state="in_doubt"), 10)
    assert (each.customer, each.look_at) == ("cus_0", owing.now + LOOK_AGAIN)
    assert "has no figure" in each.reason
    assert "No such customer." in each.reason


@pytest.mark.parametrize("error", [SinkUnreachable, SinkHalted])
def test_a_sink_that_does_not_answer_ends_the_round(owing: World, sink: Sink, error: type[SinkError]) -> None:
    """The error is raised for this sink; the next round begins with somebody else."""
    sink.lost_after_booking = lambda event: True
    owing.deliver()
    owing.at(30)
    owing.deliver()
    owing.at(60)

    def fail(customer: str) -> None:
        if customer == "cus_0":
            raise error

    sink.during_total = fail
    with pytest.raises(error):
        reconcile(owing)
    assert reconcile(owing).present == 2
    sink.during_total = lambda customer: None
    owing.now += HOUR
    assert reconcile(owing).present == 1


def test_being_stopped(owing: World, sink: Sink) -> None:
    """Told to stop, it asks nothing more, and nothing is settled by halves."""
    sink.lost_after_booking = lambda event: True
    owing.deliver()
    owing.at(30)
    owing.deliver()
    owing.at(60)
    reading = reconciliation(owing)
    sink.during_total = lambda customer: reading.stop()
    assert reading.run_once(owing.now).present == 1
    assert len(sink.asked) == 1


def test_a_sink_that_cannot_be_read_back(database: Database) -> None:
    """There, a person decides: nothing is asked, and the event stays in doubt."""
    sink = Sink(proof=None)
    world = build(database, sink)
    world.source.use("cus_a", START, 5)
    world.at(1, 5)
    world.collect()
    sink.lost_after_booking = lambda event: True
    world.deliver()
    world.at(30)
    world.deliver()
    world.at(90)
    assert reconcile(world) == Reconciled()
    assert (states(world), sink.asked) == ({"cus_a": "in_doubt"}, [])
    many = reconciliation(world).take(report(world, rejected=5), world.now)
    assert many == Reconciled(), "and no read-back is asked for"


class Overwriting(Sink):
    """Books the total of a window: the newest event of it wins."""

    def __init__(self) -> None:
        super().__init__(write_model=WriteModel.OVERWRITE)

    def holds(self, customer: str) -> Decimal:
        """Return the sum of the latest totals."""
        latest = {event.window_start: event.total for event, _ in self.journal if event.customer == customer}
        return sum(latest.values(), Decimal(0))


@pytest.mark.parametrize("hours", [1, 8, 30])
def test_a_total_is_simply_sent_again(database: Database, hours: int) -> None:
    """Where the sink books the total, a lost answer leaves nothing in doubt, however long it takes (B4)."""
    sink = Overwriting()
    world = build(database, sink)
    world.source.use("cus_a", START, 5)
    world.at(1, 5)
    world.collect()
    sink.lost_after_booking = lambda event: True
    sink.fault = lambda event: Answer.UNKNOWN if event.identifier in sink.identifiers else None
    until = world.now + hours * HOUR
    while world.now < until:
        assert world.deliver().in_doubt == 0
        world.now += HOUR
    sink.lost_after_booking, sink.fault = lambda event: False, lambda event: None
    assert world.deliver().accepted == 1
    assert sink.holds("cus_a") == 5
    world.source.use("cus_a", START, 3)
    world.collect()
    world.deliver()
    assert sink.holds("cus_a") == 8
    assert reconcile(world) == Reconciled()
    assert sink.asked == []


def test_a_total_that_is_refused_after_a_lost_answer(database: Database) -> None:
    """There, a refusal leaves no doubt either: the next total replaces whatever the earlier attempt did (B4)."""
    sink = Overwriting()
    world = build(database, sink)
    world.source.use("cus_a", START, 5)
    world.at(1, 5)
    world.collect()
    sink.fault = lambda event: Answer.UNKNOWN
    world.deliver()
    sink.fault = lambda event: Answer.REFUSED
    world.now += HOUR
    done = world.deliver()
    assert (done.refused, done.in_doubt) == (1, 0)


def test_rejected_after_it_was_accepted(owing: World, sink: Sink) -> None:
    """A rejection after the 200 puts the event back into the balance; its identifier is never used again (B5)."""
    owing.deliver()
    name = identifier_of(owing, "cus_1")
    sink.rejected.add(name)
    reading = reconciliation(owing)
    assert reading.take(report(owing, name), owing.now) == Reconciled(rejected=1)
    assert reading.take(report(owing, name), owing.now) == Reconciled(), (
        "a report that comes twice counts once"
    )
    [each] = ParkedEvents(owing.database).waiting(Choice(), 10)
    assert (each.customer, each.state, each.reason, each.was_accepted) == (
        "cus_1",
        "refused",
        "no such customer",
        True,
    )
    sent = len(sink.received)
    assert owing.outbox.release([each.event], owing.now) == [each.event]
    assert owing.one("select count(*) from aggregator.outbox") == 0
    assert owing.rows("select customer from aggregator.slot where replan") == [("cus_1",)]
    assert owing.one("select reread_from from aggregator.meter") == START
    assert owing.deliver().claimed == 0
    assert len(sink.received) == sent
    assert sink.holds("cus_1") == 0
    owing.check_balance()


def test_repaired_once(owing: World, sink: Sink) -> None:
    """Released, the rejected usage is planned anew under another identifier, and billed once (B5)."""
    owing.deliver()
    name = identifier_of(owing, "cus_1")
    sink.rejected.add(name)
    reconciliation(owing).take(report(owing, name), owing.now)
    [each] = ParkedEvents(owing.database).waiting(Choice(), 10)
    owing.outbox.release([each.event], owing.now)
    owing.now += HOUR
    owing.collect()
    owing.collect()
    owing.deliver()
    assert sink.holds("cus_1") == 2
    assert owing.one("select count(distinct identifier) from aggregator.event where customer = 'cus_1'") == 2
    assert owing.one("select state::text from aggregator.event where identifier = %s", name) == "void"
    assert reconciliation(owing).take(report(owing, name, name="evt_2"), owing.now) == Reconciled()
    owing.check_balance()


def test_rejected_before_the_answer_came(owing: World, sink: Sink) -> None:
    """A 200 that is recorded after the rejection does not erase it (B5)."""

    def reject(event: Event) -> Answer | None:
        if event.customer == "cus_1":
            sink.rejected.add(event.identifier)
            reconciliation(owing).take(report(owing, event.identifier), owing.now)
        return None

    sink.fault = reject
    done = owing.deliver()
    assert done.stale == 1
    assert states(owing) == {"cus_0": "accepted", "cus_1": "refused", "cus_2": "accepted"}
    assert owing.one("select count(*) from aggregator.outbox") == 0
    assert owing.one("select count(*) from aggregator.parked") == 1
    assert owing.one("select count(*) from aggregator.claim where settled_at is null") == 0
    owing.now += HOUR
    assert owing.deliver().claimed == 0
    owing.check_balance()


def test_a_report_that_counts_more_than_it_names(database: Database, sink: Sink) -> None:
    """Five named of fifty rejected: what the sink received in the span is read back, and the other 45 are found (B5)."""
    world = build(database, sink)
    for number in range(60):
        world.source.use(f"cus_{number:02}", START, number + 1)
    world.at(1, 5)
    world.collect()
    world.deliver()
    names = [identifier_of(world, f"cus_{number:02}") for number in range(50)]
    sink.rejected |= set(names)
    reading = reconciliation(world)
    told = report(world, *names[:5], rejected=50)._replace(span=Span(world.now, world.now + 10 * SECOND))
    assert reading.take(told, world.now) == Reconciled(rejected=5, readbacks=1)
    assert reading.take(told, world.now) == Reconciled()
    assert reading.run_once(world.now) == Reconciled(), "its totals do not show it yet"
    world.now += 27 * HOUR
    result = reading.run_once(world.now)
    assert (result.rejected, result.confirmed, result.unclear, result.readbacks) == (45, 10, 0, 1)
    assert reading.run_once(world.now) == Reconciled()
    waiting = ParkedEvents(world.database).waiting(Choice(), 100)
    assert len(waiting) == 50
    assert all(each.was_accepted for each in waiting)
    reasons = {each.reason.partition(":")[0] for each in waiting}
    assert reasons == {"no such customer", "accepted, but not in the sink's own totals"}
    assert "10 confirmed, 45 rejected, 0 unclear" in world.one(
        "select found from aggregator.readback where reason like 'report%%'"
    )
    world.check_balance()


def test_a_read_back_of_a_minute_with_several(database: Database, sink: Sink) -> None:
    """Where figures differ, each minute is looked at: what can be told apart is, the rest is on record for a person (B5)."""
    world = build(database, sink, window=MINUTE)
    for number, much in enumerate([1, 2, 5]):
        world.source.use("cus_a", START + number * MINUTE, much)
    world.at(1)
    world.collect()
    world.deliver()
    world.source.use("cus_a", START + 2 * MINUTE, 5)
    world.collect()
    world.deliver()
    rows = world.rows("select identifier, window_start, revision from aggregator.event order by id")
    assert len(rows) == 4
    sink.rejected |= {rows[1][0], rows[3][0]}
    reading = reconciliation(world)
    reading.take(report(world, rejected=2)._replace(span=Span(world.now, world.now + 10 * SECOND)), world.now)
    world.now += 27 * HOUR
    result = reading.run_once(world.now)
    assert (result.confirmed, result.rejected, result.readbacks) == (1, 1, 1)
    assert world.rows("select state::text from aggregator.event order by id") == [
        ("confirmed",),
        ("refused",),
        ("accepted",),
        ("accepted",),
    ]
    [sentence] = result.unsettled
    assert "2 ways explain this" in sentence
    found = world.one("select found from aggregator.readback where reason like 'report%%'")
    assert sentence in found
    assert "1 confirmed, 1 rejected, 2 unclear" in found
    world.check_balance()


def test_a_read_back_waits_for_what_is_on_its_way(database: Database, sink: Sink) -> None:
    """A read-back is not done while a minute cannot be judged; it comes back to it later, and then it is."""
    world = build(database, sink, window=MINUTE)
    world.source.use("cus_a", START, 5)
    world.at(1)
    world.collect()
    world.deliver()
    reading = about_to_look(world)
    world.source.use("cus_a", START, 2)
    world.collect()
    assert (reading.run_once(world.now).waiting, sink.asked) == (1, [])
    world.deliver()
    world.now += 27 * HOUR
    result = reading.run_once(world.now)
    assert (result.confirmed, result.readbacks) == (1, 1)


def test_a_read_back_survives_a_sink_that_does_not_answer(owing: World, sink: Sink) -> None:
    """What was looked at stays settled; the rest is looked at in a later round, or after a restart."""
    owing.deliver()
    reading = about_to_look(owing)

    def fail(customer: str) -> None:
        if customer == "cus_1":
            raise SinkUnreachable

    sink.during_total = fail
    for _ in range(2):
        with pytest.raises(SinkUnreachable):
            reading.run_once(owing.now)
    assert states(owing) == {"cus_0": "confirmed", "cus_1": "accepted", "cus_2": "confirmed"}
    sink.during_total = lambda customer: None
    assert reconcile(owing).confirmed == 1


def test_proven_absent_and_yet_known_to_the_sink(owing: World, sink: Sink) -> None:
    """A word that was wrong after all is noticed by the duplicate it leads to: in doubt again, not billed twice (B2)."""
    sink.lost_after_booking = lambda event: event.customer == "cus_1"
    owing.deliver()
    owing.at(22)
    owing.deliver()
    sink.lost_after_booking = lambda event: False
    [each] = ParkedEvents(owing.database).waiting(Choice(state="in_doubt"), 10)
    ParkedEvents(owing.database).settle_by_hand([each.event], Finding.ABSENT, owing.now)
    assert owing.deliver().in_doubt == 1
    assert sink.holds("cus_1") == 2
    owing.now += 27 * HOUR
    assert reconcile(owing).present == 1
    assert states(owing)["cus_1"] == "accepted"
    assert EventId(each.event) not in owing.rows("select event_id from aggregator.parked")


@pytest.mark.parametrize("both", [True, False])
def test_a_rejected_event_that_is_not_the_latest_is_planned_anew(
    owing: World, sink: Sink, both: bool
) -> None:
    """An event before the last, or both of them, came to nothing: what is released is billed once, by new events (B5)."""
    owing.deliver()
    first = identifier_of(owing, "cus_1")
    owing.source.use("cus_1", START, 5)
    owing.collect()
    owing.deliver()
    [(second,)] = owing.rows(
        "select identifier from aggregator.event where customer = 'cus_1' and revision = 1"
    )
    sink.rejected |= {first, second} if both else {first}
    reconciliation(owing).take(report(owing, *([first, second] if both else [first])), owing.now)
    waiting = ParkedEvents(owing.database).waiting(Choice(), 10)
    owing.outbox.release([each.event for each in waiting], owing.now)
    for _ in range(4):
        owing.now += HOUR
        owing.collect()
        owing.deliver()
    assert sink.holds("cus_1") == 7
    owing.check_balance()
    assert owing.rows("select replan from aggregator.slot where customer = 'cus_1'") == [(False,)]
    assert owing.one("select count(*) from aggregator.parked") == 0


def test_what_is_refused_at_once_is_not_planned_anew_by_every_pass(owing: World, sink: Sink) -> None:
    """Two events came to nothing, and what replaces the first is too old to be sent: it stays, and the other waits."""
    owing.deliver()
    owing.source.use("cus_1", START, 5)
    owing.collect()
    owing.deliver()
    came_to_nothing = [
        name for (name,) in owing.rows("select identifier from aggregator.event where customer = 'cus_1'")
    ]
    assert len(came_to_nothing) == 2
    sink.rejected |= set(came_to_nothing)
    reconciliation(owing).take(report(owing, *came_to_nothing), owing.now)
    waiting = ParkedEvents(owing.database).waiting(Choice(), 10)
    owing.outbox.release([each.event for each in waiting], owing.now)
    owing.now += 40 * 24 * HOUR
    revisions = []
    for _ in range(5):
        owing.now += HOUR
        owing.collect()
        revisions.append(owing.one("select max(revision) from aggregator.event where customer = 'cus_1'"))
    assert revisions[0] > 1, "the first is planned anew"
    assert revisions[-1] == revisions[2], revisions


@pytest.mark.parametrize(
    "trouble", [SinkError("No such customer."), LedgerUnreachable("The ledger did not answer.")]
)
def test_a_read_back_is_not_taken_for_done_while_a_figure_is_missing(
    owing: World, sink: Sink, trouble: AggregatorError
) -> None:
    """A figure that cannot be had, or written down, is asked for again: an absent event must not stay accepted (B5)."""
    owing.deliver()
    sink.rejected.add(identifier_of(owing, "cus_1"))
    reading = about_to_look(owing)

    def fail(customer: str) -> None:
        if customer == "cus_1":
            raise trouble

    sink.during_total = fail
    with suppress(LedgerUnreachable):
        assert reading.run_once(owing.now).readbacks == 0
    sink.during_total = lambda customer: None
    owing.now += LOOK_AGAIN
    assert reading.run_once(owing.now).rejected == 1
    assert states(owing)["cus_1"] == "refused"
