"""Collection on a real ledger: what is read, what it becomes, and what the mark says."""

import datetime as dt
from dataclasses import replace
from decimal import Decimal
from functools import partial

import pytest

from aggregator.core.forecast import Forecast
from aggregator.core.model import Decreases, Reading, Span
from aggregator.errors import QueryRejected, SourceUnreachable
from aggregator.ledger.database import Database
from aggregator.ledger.passes.stats import Tally
from tests.fakes import FakeSink, FakeSource
from tests.postgres.world import HOUR, METER, MINUTE, START, World

pytestmark = pytest.mark.usefixtures("says_what_changed")


def test_each_customer_gets_one_event_per_window(world: World) -> None:
    """Many uses become one summarized event per customer, meter and window."""
    for minute in range(0, 120, 10):
        world.source.use("cus_a", START + minute * MINUTE)
        world.source.use("cus_b", START + minute * MINUTE, 3)
    world.at(2, 6)
    assert world.collect().planned == 4
    assert world.deliver().accepted == 4
    assert (world.booked("cus_a"), world.booked("cus_b")) == (12, 36)
    world.check_balance()


def test_nothing_is_read_before_start_at(world: World) -> None:
    """History is not billed at first start (B22)."""
    world.source.use("cus_a", START - HOUR, 1_000)
    world.source.use("cus_a", START, 1)
    world.at(1, 6)
    world.collect()
    world.deliver()
    assert world.booked("cus_a") == 1


def test_a_window_is_read_only_when_it_has_settled(world: World) -> None:
    """A window is left alone until `delay` has passed since its end."""
    world.source.use("cus_a", START)
    world.at(1, 4.9)
    assert world.collect().planned == 0
    world.at(1, 5)
    assert world.collect().planned == 1


def test_missed_wake_ups_cost_delay_and_nothing_else(world: World) -> None:
    """One wake-up after a long sleep reads every window that became ready meanwhile (B20)."""
    for hour in range(100):
        world.source.use("cus_a", START + hour * HOUR)
    world.at(100, 5)
    assert world.collect().planned == 100
    world.deliver()
    assert world.booked("cus_a") == 100


def test_reading_again_changes_nothing(world: World) -> None:
    """An unchanged window is compared, and planned never again (B13)."""
    world.source.use("cus_a", START)
    world.at(1, 5)
    world.collect()
    again = world.collect()
    assert (again.rows, again.changed, again.planned) == (1, 0, 0)


def test_late_rows_become_a_correction(world: World) -> None:
    """Rows that arrive after their window was sent are billed as revision 1, once (B7)."""
    world.source.use("cus_a", START, 10)
    world.at(1, 5)
    world.collect()
    world.deliver()
    world.source.use("cus_a", START + MINUTE, 5)
    world.at(2, 5)
    assert world.collect().corrections == 1
    world.deliver()
    assert world.booked("cus_a") == 15
    assert world.rows("select revision, delta, total from aggregator.event order by id") == [
        (0, 10, 10),
        (1, 5, 15),
    ]
    world.check_balance()


def test_deleted_rows_are_held_for_a_person(world: World) -> None:
    """A decrease is neither applied in silence nor ignored; a person releases it (B14)."""
    world.source.use("cus_a", START, 10)
    world.source.use("cus_a", START, 4)
    world.at(1, 5)
    world.collect()
    world.deliver()
    world.source.uses.pop()
    assert world.collect().held == 1
    assert world.deliver().claimed == 0
    assert world.booked("cus_a") == 14
    [event] = world.rows("select id, state, delta from aggregator.event where state = 'held'")
    assert event[1:] == ("held", -4)
    assert world.outbox.release([event[0]], world.now) == [event[0]]
    world.deliver()
    assert world.booked("cus_a") == 10
    world.check_balance()


def test_decreases_are_applied_where_the_meter_says_so(database: Database) -> None:
    """`decreases: apply` sends the correction at once."""
    world = World(database, meter=replace(METER, decreases=Decreases.APPLY))
    world.source.use("cus_a", START, 9)
    world.source.use("cus_a", START, 1)
    world.at(1, 5)
    world.collect()
    world.deliver()
    world.source.uses.pop()
    world.collect()
    world.deliver()
    assert world.booked("cus_a") == 9
    world.check_balance()


def test_a_newer_plan_replaces_a_held_one(world: World) -> None:
    """A held decrease is withdrawn when the rows come back, and more if there are more."""
    world.source.use("cus_a", START, 10)
    world.at(1, 5)
    world.collect()
    world.deliver()
    world.source.uses.clear()
    world.collect()
    world.source.use("cus_a", START, 12)
    world.collect()
    world.deliver()
    assert world.booked("cus_a") == 12
    states = world.rows("select revision, state, delta, total from aggregator.event order by revision")
    assert states == [(0, "accepted", 10, 10), (1, "void", -10, 0), (2, "accepted", 2, 12)]
    assert world.one("select count(*) from aggregator.parked") == 0
    world.check_balance()


def test_a_slot_with_an_unsettled_event_waits(world: World) -> None:
    """While an event of a slot is not settled no other is planned; the change is found again later, however old."""
    world.source.use("cus_a", START, 10)
    world.at(1, 5)
    world.collect()
    world.source.use("cus_a", START, 5)
    assert world.collect().deferred == 1
    assert world.one("select reread_from from aggregator.meter") == START
    world.at(24 * 10)
    assert world.collect().deferred == 1, "ten days later it is still read again, far beyond `revisit`"
    world.deliver()
    world.at(24 * 10 + 1)
    assert world.collect().planned == 1
    world.deliver()
    assert world.booked("cus_a") == 15
    assert world.one("select reread_from from aggregator.meter") is None
    world.check_balance()


def test_fractions_are_carried_and_never_lost(world: World) -> None:
    """Parts too small to bill stay with the customer: 40 windows of 0.4 bill 16 (B16)."""
    for hour in range(40):
        world.source.use("cus_a", START + hour * HOUR, Decimal("0.4"))
        world.source.use("cus_b", START + hour * HOUR, Decimal("0.3"))
    for hour in range(1, 41):
        world.at(hour, 5)
        world.collect()
        world.deliver()
    assert (world.booked("cus_a"), world.booked("cus_b")) == (16, 12)
    assert world.one("select count(*) from aggregator.carry") == 0
    world.check_balance()


def test_a_slot_goes_by_its_first_event_whenever_that_comes(world: World) -> None:
    """Its first reading is too little to bill; what comes later is found by the number of the slot, first and next alike."""
    found = "select count(*) from aggregator.slot cross join lateral aggregator.events_of(slot.id)"
    for used, events in (("0.4", 0), ("1", 1), ("2", 2)):
        world.source.use("acme", START, Decimal(used))
        world.at(1, 5)
        world.collect()
        world.deliver()
        assert world.one("select count(*) from aggregator.event") == events
        assert world.one(found) == events
        world.check_balance()


def test_fractions_in_one_pass_flow_from_window_to_window(world: World) -> None:
    """The carry flows through a customer's windows within a pass as it does between passes."""
    for hour in range(41):
        world.source.use("cus_a", START + hour * HOUR, Decimal("0.4"))
    world.at(41, 5)
    world.collect()
    world.deliver()
    assert world.booked("cus_a") == 16
    assert world.one("select amount from aggregator.carry") == Decimal("0.4")
    world.check_balance()


def test_rows_without_a_customer_are_counted_and_shown(world: World) -> None:
    """What can be billed to nobody is named per window, and corrected when its rows are (B21)."""
    world.source.use(None, START, 7)
    world.source.use(None, START + MINUTE, 8)
    world.source.use("cus_a", START, 1)
    world.at(1, 5)
    world.collect()
    assert world.rows("select reason, rows, quantity from aggregator.unmapped") == [("no customer", 2, 15)]
    world.source.uses[0] = ("cus_a", START, Decimal(7))
    world.deliver()
    world.collect()
    assert world.rows("select rows, quantity from aggregator.unmapped") == [(1, 8)]
    world.deliver()
    assert world.booked("cus_a") == 8


def test_an_unusable_number_leaves_its_slot_as_it_is(world: World) -> None:
    """A customer whose rows turn bad is set aside with a name; nothing of it is lowered, and the others go on (B11)."""
    world.source.use("cus_a", START, 10)
    world.source.use("cus_b", START, 10)
    world.at(1, 5)
    world.collect()
    world.deliver()
    world.source.uses[1] = ("cus_b", START, Decimal(12))
    spoilt = _Spoilt(world.source, "cus_a")
    world.collection.source = spoilt
    assert world.collect().changed == 1
    world.deliver()
    assert (world.booked("cus_a"), world.booked("cus_b")) == (10, 12)
    assert world.rows("select customer, reason from aggregator.unmapped") == [("cus_a", "quantity is NaN")]


class _Spoilt(FakeSource):
    """A source in which one customer's numbers cannot be used."""

    def __init__(self, source: FakeSource, customer: str) -> None:
        super().__init__(source.uses)
        self.customer = customer

    def answer(
        self, query: str, span: Span, window: dt.timedelta, step: dt.timedelta | None = None
    ) -> list[Reading]:
        """Return the readings, that customer's spoilt."""
        return [
            reading._replace(quantity=None, reason="quantity is NaN")
            if reading.customer == self.customer
            else reading
            for reading in super().answer(query, span, window, step)
        ]


def test_a_failed_read_writes_nothing_but_the_reason(world: World) -> None:
    """The mark stays, the next pass reads the same span, and `run` says what was wrong (B18)."""
    world.source.use("cus_a", START)
    world.at(1, 5)
    world.source.failure = SourceUnreachable("app is away")
    with pytest.raises(SourceUnreachable):
        world.collect()
    assert world.one("select mark from aggregator.meter") == START
    assert world.rows("select error from aggregator.pass") == [("app is away",)]
    world.source.failure = None
    assert world.collect().planned == 1


def test_a_rejected_query_is_recorded(world: World) -> None:
    """A query that does not fit is an error with its text in the ledger."""
    world.at(1, 5)
    world.source.failure = QueryRejected("column x does not exist")
    with pytest.raises(QueryRejected):
        world.collect()
    assert world.rows("select error from aggregator.pass") == [("column x does not exist",)]


def test_the_mark_never_jumps_a_gap(world: World) -> None:
    """A backfill beyond the mark leaves the mark; one that touches it moves it."""
    world.at(10, 5)
    world.backfill(Span(START + 5 * HOUR, START + 6 * HOUR))
    assert world.one("select mark from aggregator.meter") == START
    world.backfill(Span(START, START + 2 * HOUR))
    assert world.one("select mark from aggregator.meter") == START + 2 * HOUR


def test_the_same_backfill_three_times_has_the_effect_of_one(world: World) -> None:
    """The second and third send nothing; nor does one over a range that live covered (B13)."""
    for hour in range(48):
        world.source.use("cus_a", START + hour * HOUR, hour + 1)
    world.at(48, 5)
    span = Span(START, START + 48 * HOUR)
    assert [world.backfill(span).planned for _ in range(3)] == [48, 0, 0]
    assert world.deliver().accepted == 48
    assert world.collect().planned == 0
    assert world.backfill(span).planned == 0
    assert world.booked("cus_a") == sum(range(1, 49))


def test_an_interrupted_backfill_is_resumed(world: World) -> None:
    """The ledger knows how far a backfill of the same range came, and that a finished one is finished."""
    goal = Span(START, START + 4 * HOUR)
    resume = partial(
        world.passes.resume_backfill,
        world.registered,
        known=world.meters.definitions(world.registered),
        now=world.at(5),
    )
    assert resume(goal) is None
    world.collection.backfill(Span(START, START + HOUR), goal, world.now)
    assert resume(goal) == START + HOUR
    assert resume(Span(START, START + 5 * HOUR)) is None
    world.collection.backfill(Span(START + HOUR, goal.end), goal, world.now)
    assert resume(goal) is None


def test_preview_writes_nothing(world: World) -> None:
    """Preview decides as a pass would, and leaves every table as it was."""
    world.source.use("cus_a", START, 10)
    world.at(1, 5)
    [(feed, decision)] = list(
        world.collection.preview(
            Span(START, START + HOUR),
            world.now,
            Tally(),
            world.meters.definitions(world.registered),
            Forecast(),
        )
    )
    assert decision.event is not None
    assert (feed.sink, decision.event.delta) == ("fake", 10)
    for table in ("slot", "event", "outbox", "pass", "unmapped"):
        assert world.one(f"select count(*) from aggregator.{table}") == 0
    assert world.one("select mark from aggregator.meter") == START


def test_what_is_too_old_is_refused_with_the_reason(database: Database) -> None:
    """Usage that the sink takes no more is visible debt, never dropped and never sent under another date (B19)."""
    world = World(database, meter=replace(METER, revisit=dt.timedelta(days=60)))
    world.source.use("cus_a", START, 10)
    world.at(24 * 40)
    world.collect()
    assert world.deliver().claimed == 0
    [(state, reason)] = world.rows("select state, reason from aggregator.parked")
    assert state == "refused"
    assert "older than the 35 days" in reason


def test_two_sinks_are_fed_from_one_read(database: Database) -> None:
    """Each sink has its own outbox and totals; one that refuses does not delay the other."""
    good, bad = FakeSink("good"), FakeSink("bad")
    bad.refused.add("cus_a")
    world = World(database, sinks=[good, bad])
    world.source.use("cus_a", START, 10)
    world.at(1, 5)
    world.collect()
    world.deliver()
    world.source.use("cus_a", START, 1)
    world.collect()
    world.deliver()
    assert good.booked["api_requests", "cus_a"] == 11
    assert bad.booked["api_requests", "cus_a"] == 0
    world.check_balance()


def test_a_sink_that_joins_later_begins_at_the_mark(database: Database) -> None:
    """What was billed through one sink is not billed again through another that is added."""
    world = World(database)
    world.source.use("cus_a", START, 10)
    world.at(1, 5)
    world.collect()
    late = FakeSink("late")
    both = World(database, source=world.source, sinks=[world.sink, late])
    both.source.use("cus_a", START + HOUR, 3)
    both.at(2, 5)
    both.collect()
    both.deliver()
    assert late.booked["api_requests", "cus_a"] == 3
    assert world.booked("cus_a") == 13


def test_a_query_without_window_sweeps_the_old_windows(database: Database) -> None:
    """Old windows of a query that is asked once per window are read again in turns, and all of them come round."""
    source = FakeSource(returns_window=False)
    world = World(database, source=source, meter=replace(METER, revisit=dt.timedelta(days=10)))
    world.at(24 * 10, 5)
    world.collect()
    world.deliver()
    source.use("cus_a", START + HOUR, 5)
    source.reads.clear()
    for _ in range(12):
        world.collect()
        world.deliver()
    assert world.booked("cus_a") == 5
    assert max(span.end - span.start for span in source.reads) <= 30 * HOUR


def test_long_spans_are_committed_in_pieces(database: Database) -> None:
    """A month of minutes is not one transaction."""
    world = World(database, meter=replace(METER, window=MINUTE, delay=dt.timedelta(0)))
    world.at(24 * 3)
    result = world.collect()
    assert result.spans == 3
    assert world.one("select mark from aggregator.meter") == START + 72 * HOUR


def test_a_change_that_waits_is_not_forgotten_by_a_backfill_elsewhere(world: World) -> None:
    """Reading another range, or a part, leaves what waits outside of it to be read again."""
    for hour in (2, 20):
        world.source.use("cus_a", START + hour * HOUR, 10)
    world.at(24, 5)
    world.collect()
    for hour in (2, 20):
        world.source.use("cus_a", START + hour * HOUR, 5)
    world.at(25, 6)
    assert world.collect().deferred == 2
    world.backfill(Span(START, START + HOUR))
    assert world.one("select reread_from from aggregator.meter") == START + 2 * HOUR
    world.deliver()
    world.backfill(Span(START + 2 * HOUR, START + 3 * HOUR))
    assert world.one("select reread_from from aggregator.meter") == START + 3 * HOUR
    world.at(24 * 20)
    world.deliver()
    world.collect()
    world.deliver()
    assert world.booked("cus_a") == 30
    assert world.one("select reread_from from aggregator.meter") is None


def test_a_refused_event_gives_way_to_a_newer_plan(world: World) -> None:
    """Nothing of a refused event is booked, so a correction of its slot bills what the source says now, not the change."""
    world.sink.refused.add("cus_a")
    world.source.use("cus_a", START, 10)
    world.at(1, 5)
    world.collect()
    world.deliver()
    world.sink.refused.clear()
    world.source.uses[0] = ("cus_a", START, Decimal(7))
    assert world.collect().held == 0, "7 is not a decrease: nothing was booked"
    world.deliver()
    assert world.booked("cus_a") == 7
    assert world.one("select count(*) from aggregator.parked") == 0
    world.check_balance()


def test_a_later_start_at_takes_the_mark_with_it(database: Database) -> None:
    """Nothing before `start_at` is billed, also when it is moved after the ledger first saw the meter (B22)."""
    world = World(database)
    later = World(database, source=world.source, meter=replace(METER, start_at=START + 4 * HOUR))
    for hour in range(6):
        world.source.use("cus_a", START + hour * HOUR)
    later.at(6, 5)
    assert later.collect().planned == 2


def test_an_earlier_start_at_opens_what_lies_before_to_a_backfill(database: Database) -> None:
    """Live goes on where it is; a backfill bills the windows that the earlier `start_at` allows."""
    world = World(database, meter=replace(METER, start_at=START + 4 * HOUR))
    for hour in range(6):
        world.source.use("cus_a", START + hour * HOUR)
    world.at(6, 5)
    world.collect()
    earlier = World(database, source=world.source)
    earlier.now = world.now
    assert earlier.collect().planned == 4, "revisit reaches back to start_at"
    assert earlier.backfill(Span(START, START + 4 * HOUR)).planned == 0


def test_passes_that_did_nothing_leave_one_row(world: World) -> None:
    """A meter that is looked at every second does not fill the ledger with passes that found nothing, or failed alike."""
    world.source.use("cus_a", START)
    world.at(1, 5)
    for _ in range(5):
        world.collect()
    assert world.rows("select changed from aggregator.pass order by id") == [(1,), (0,)]
    world.source.failure = SourceUnreachable("app is away")
    for _ in range(3):
        with pytest.raises(SourceUnreachable):
            world.collect()
    assert world.rows("select changed, error from aggregator.pass order by id") == [
        (1, None),
        (0, None),
        (0, "app is away"),
    ]
