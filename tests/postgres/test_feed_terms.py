"""Several sinks of one meter, each on its own terms: what is billed where, and what is only planned, on a real ledger."""

import datetime as dt
import threading
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal

import psycopg
import pytest

from aggregator.collection.backfill import span_of
from aggregator.core.model import (
    Answer,
    Decreases,
    Definition,
    Event,
    Meter,
    Span,
    Terms,
)
from aggregator.delivery.sender import Sender
from aggregator.errors import InvariantBroken, LeaseLost, UsageError
from aggregator.ledger.database import Database
from aggregator.ledger.passes.passes import Pass
from aggregator.ledger.passes.spool import Spool
from aggregator.ledger.reports import Reports
from tests.fakes import LIMITS, FakeSink, FakeSource
from tests.postgres.world import HOUR, METER, MINUTE, START, World

NAME = METER.name
T = START + 5 * HOUR
DAY = dt.timedelta(days=1)


class Two:
    """A meter that feeds an old and a new sink; `on` starts a process on other terms."""

    def __init__(self, database: Database, *terms: Terms, meter: Meter = METER) -> None:
        self.database = database
        self.source = FakeSource()
        self.old, self.new = FakeSink("old"), FakeSink("new")
        self.meter = meter
        self.now = START
        self.world = self._start(terms, [self.old, self.new])

    def _start(self, terms: Sequence[Terms], sinks: Sequence[FakeSink]) -> World:
        meter = replace(self.meter, terms=tuple(terms))
        world = World(self.database, meter=meter, source=self.source, sinks=sinks)
        world.now = self.now
        return world

    def on(self, *terms: Terms, sinks: Sequence[FakeSink] | None = None) -> World:
        """Start a process on these terms, in place of the one before."""
        self.now = self.world.now
        self.world = self._start(terms, sinks or [self.old, self.new])
        return self.world

    def round(self, hours: float, minutes: float = 5) -> None:
        """Read and send, at a time."""
        self.world.at(hours, minutes)
        self.world.collect()
        self.world.deliver()
        self.world.check_balance()

    def held(self, sink: FakeSink, customer: str = "cus_a") -> dict[int, Decimal]:
        """What a sink holds of a customer, by hours since the start."""
        return {
            int((start - START) / HOUR): much
            for (_, who, start), much in sink.slots.items()
            if who == customer and much
        }

    def states(self, sink: str) -> list[tuple[int, str, Decimal]]:
        """The events of a sink that were not withdrawn: hour, state and delta, in the order they were planned."""
        rows = self.world.rows(
            "select window_start, state::text, delta from aggregator.event join aggregator.feed on feed.id = feed_id"
            " join aggregator.sink on sink.id = sink_id where sink.name = %s and state <> 'void' order by event.id",
            sink,
        )
        return [(int((start - START) / HOUR), state, delta) for start, state, delta in rows]


@pytest.fixture
def moving(database: Database) -> Two:
    """A meter that moves from the old sink to the new one at T."""
    return Two(database, Terms("old", bill_until=T), Terms("new", bill_from=T))


def test_a_move_leaves_no_gap_and_bills_nothing_twice(moving: Two) -> None:
    """Every window is billed by one sink: before T by the old one, from T on by the new one, right up to the boundary."""
    for hour in range(10):
        moving.source.use("cus_a", START + hour * HOUR, hour + 1)
    moving.source.use("cus_a", T - dt.timedelta(microseconds=1), 100)
    moving.source.use("cus_a", T, 1_000)
    for hour in range(1, 11):
        moving.round(hour)
    assert moving.held(moving.old) == {0: 1, 1: 2, 2: 3, 3: 4, 4: 105}
    assert moving.held(moving.new) == {5: 1006, 6: 7, 7: 8, 8: 9, 9: 10}


def test_late_rows_are_corrected_on_their_own_side(moving: Two) -> None:
    """Long after T, a row of before still goes to the old sink, and one of after to the new one; restarts change nothing."""
    for hour in (4, 5):
        moving.source.use("cus_a", START + hour * HOUR, 10)
    moving.round(8)
    moving.source.use("cus_a", T - MINUTE, 1)
    moving.source.use("cus_a", T, 2)
    moving.source.use("cus_b", T - HOUR, 7)
    moving.on(Terms("old", bill_until=T), Terms("new", bill_from=T))
    moving.round(9)
    assert (moving.held(moving.old), moving.held(moving.new)) == ({4: 11}, {5: 12})
    assert (moving.held(moving.old, "cus_b"), moving.held(moving.new, "cus_b")) == ({4: 7}, {})


def test_decreases_are_corrected_on_their_own_side(database: Database) -> None:
    """Rows that go away lower the sink that was billed for them, and no other."""
    meter = replace(METER, decreases=Decreases.APPLY, shrink_guard=Decimal(1))
    moving = Two(database, Terms("old", bill_until=T), Terms("new", bill_from=T), meter=meter)
    for hour in (4, 5):
        moving.source.use("cus_a", START + hour * HOUR, 10)
        moving.source.use("cus_a", START + hour * HOUR, 3)
    moving.round(6)
    moving.source.uses = [use for use in moving.source.uses if use[2] == 10]
    moving.round(7)
    assert (moving.held(moving.old), moving.held(moving.new)) == ({4: 10}, {5: 10})


def test_a_backfill_over_the_boundary_bills_each_side_once(moving: Two) -> None:
    """A range that holds T goes to both sinks, each its part, however often it is read."""
    for hour in range(10):
        moving.source.use("cus_a", START + hour * HOUR)
    moving.world.at(10, 5)
    planned = [moving.world.backfill(Span(START, START + 10 * HOUR)).planned for _ in range(3)]
    moving.world.deliver()
    assert planned == [10, 0, 0]
    assert sorted(moving.held(moving.old)) == [0, 1, 2, 3, 4]
    assert sorted(moving.held(moving.new)) == [5, 6, 7, 8, 9]
    assert moving.world.collect().planned == 0


def test_both_sinks_are_fed_from_one_read(moving: Two) -> None:
    """The source is asked once for whatever several sinks are to get."""
    moving.source.use("cus_a", START + 4 * HOUR)
    moving.source.use("cus_a", START + 5 * HOUR)
    moving.world.at(6, 5)
    moving.world.collect()
    assert moving.source.reads == [Span(START, START + 6 * HOUR)]


@pytest.mark.parametrize("days", [1, 10])
def test_bill_from_may_lie_in_the_past(database: Database, days: int) -> None:
    """What was read before a sink joined is planned for it by the next passes, beyond `revisit` too, and never before."""
    two = Two(database)
    for day in range(20):
        two.source.use("cus_a", START + day * DAY, day + 1)
    two.on(sinks=[two.old])
    two.round(20 * 24)
    begin = START + (20 - days) * DAY
    two.on(Terms("new", bill_from=begin))
    for _ in range(2):
        two.round(20 * 24, 10)
    assert sorted(two.held(two.new).values()) == [day + 1 for day in range(20 - days, 20)]
    assert len(two.held(two.old)) == 20, "what the other one has is not sent again"


def test_nothing_is_billed_before_start_at(database: Database) -> None:
    """A `bill_from` before the meter's beginning opens nothing before it."""
    two = Two(database, Terms("new", bill_from=START - DAY))
    two.source.use("cus_a", START - HOUR, 100)
    two.source.use("cus_a", START, 1)
    two.world.at(1, 5)
    two.world.backfill(Span(START - DAY, START + HOUR))
    two.round(1)
    assert two.held(two.new) == {0: 1}


def test_a_bill_from_in_the_future_waits(database: Database) -> None:
    """The sink gets its first window when that has come, and the other sinks are not held up meanwhile."""
    two = Two(database, Terms("new", bill_from=T))
    for hour in range(7):
        two.source.use("cus_a", START + hour * HOUR)
        two.round(hour + 1)
        assert len(two.held(two.old)) == hour + 1
    assert sorted(two.held(two.new)) == [5, 6]


def test_moving_bill_from_later_takes_nothing_back_and_earlier_opens_windows(database: Database) -> None:
    """What was sent stays sent, without a correction; the windows an earlier time opens are billed once."""
    two = Two(database, Terms("new", bill_from=START + 2 * HOUR))
    for hour in range(4):
        two.source.use("cus_a", START + hour * HOUR, 10)
    two.round(4)
    assert sorted(two.held(two.new)) == [2, 3]
    two.on(Terms("new", bill_from=START + 4 * HOUR))
    two.source.use("cus_a", START + 3 * HOUR, 1)
    two.round(5)
    assert two.held(two.new) == {2: 10, 3: 10}, "it is shut out, corrections included"
    two.on(Terms("new", bill_from=START))
    two.round(6)
    assert two.held(two.new) == {0: 10, 1: 10, 2: 10, 3: 11}


def test_moving_bill_until_later_opens_what_was_shut_out(database: Database) -> None:
    """The windows between the old end and the new one are billed by the next passes; those before are billed already."""
    two = Two(database, Terms("old", bill_until=START + 2 * HOUR))
    for hour in range(100):
        two.source.use("cus_a", START + hour * HOUR)
    two.round(100)
    assert sorted(two.held(two.old)) == [0, 1]
    two.on(Terms("old", bill_until=START + 4 * HOUR))
    for _ in range(2):
        two.round(100, 10)
    assert sorted(two.held(two.old)) == [0, 1, 2, 3]
    two.on()
    for _ in range(2):
        two.round(100, 20)
    assert sorted(two.held(two.old)) == list(range(100))


def test_an_end_in_the_past_takes_nothing_back_and_is_told(database: Database) -> None:
    """Windows that were planned before the end was set stay billed; the ledger says up to where that is."""
    two = Two(database)
    for hour in range(4):
        two.source.use("cus_a", START + hour * HOUR)
    two.round(4)
    two.on(Terms("old", bill_until=START + 2 * HOUR))
    two.source.use("cus_a", START + 3 * HOUR)
    two.round(5)
    assert two.held(two.old) == {0: 1, 1: 1, 2: 1, 3: 1}
    beyond = {row.sink: row.last_beyond for row in Reports(database).status()}
    assert beyond == {"old": START + 3 * HOUR, "new": None}


def test_nothing_planned_in_shadow_is_ever_sent(database: Database) -> None:
    """Events, corrections and decreases are planned with all that belongs to them, and leave neither now nor later."""
    two = Two(database, Terms("new", shadow=True))
    two.source.use("cus_a", START, 30)
    two.source.use("cus_a", START, 4)
    two.round(1)
    two.source.use("cus_a", START, 5)
    two.round(2)
    two.source.uses = [use for use in two.source.uses if use[2] != 4]
    two.round(3)
    assert two.states("new") == [(0, "shadow", 34), (0, "shadow", 5), (0, "shadow", -4)]
    assert two.new.received == []
    assert two.held(two.old) == {0: 39}, "there it waits for a person"
    for table in ("parked", "outbox"):
        waiting = f"select from aggregator.{table} join aggregator.event on event.id = event_id"
        assert two.world.rows(f"{waiting} where event.state = 'shadow'") == []
    [reason] = two.world.rows("select reason from aggregator.event where state = 'shadow' and delta < 0")
    assert reason == ("would be held: lowers what was planned before",)
    identifiers = two.world.one("select count(distinct identifier) from aggregator.event")
    assert identifiers == 6


def test_what_a_sink_would_refuse_is_said_in_shadow_too(database: Database) -> None:
    """A shadow shows what would be turned away, and nobody can release it."""
    two = Two(database, Terms("new", shadow=True))
    two.new.limits = replace(LIMITS, significant_digits=2)
    two.on(Terms("new", shadow=True))
    two.source.use("cus_a", START, 1_234)
    two.round(1)
    rows = two.world.rows("select id, reason from aggregator.event where state = 'shadow'")
    assert [reason for _, reason in rows] == ["would be refused: has more than the 2 digits that new takes"]
    assert two.world.outbox.release([rows[0][0]], two.world.now) == []


@pytest.mark.parametrize("state", ["due", "sending", "accepted", "void"])
def test_a_shadow_stays_a_shadow(database: Database, state: str) -> None:
    """Postgres itself refuses every step from there, and every step to it."""
    two = Two(database, Terms("new", shadow=True))
    two.source.use("cus_a", START)
    two.round(1)
    with pytest.raises(InvariantBroken):
        two.world.execute("update aggregator.event_at_rest set state = %s where state = 'shadow'", state)
    with pytest.raises(InvariantBroken):
        two.world.execute("update aggregator.event_at_rest set state = 'shadow' where state = 'accepted'")


def test_a_shadow_that_ends_begins_with_the_first_window_not_read_yet(database: Database) -> None:
    """What was shadowed stays unsent, late rows of that time included; what comes after is billed."""
    two = Two(database, Terms("new", shadow=True))
    two.source.use("cus_a", START, 10)
    two.round(1)
    two.on()
    two.source.use("cus_a", START, 1)
    two.source.use("cus_b", START, 1)
    two.source.use("cus_a", START + HOUR, 3)
    two.round(2)
    two.on()
    two.round(3)
    assert two.held(two.new) == {1: 3}
    assert two.held(two.new, "cus_b") == {}
    [meter_state] = [row for row in Reports(database).status() if row.sink == "new"]
    assert (meter_state.shadow, meter_state.since, meter_state.shadow_until) == (
        False,
        START + HOUR,
        START + HOUR,
    )


def test_bill_from_in_the_past_does_not_send_what_was_shadowed(database: Database) -> None:
    """A slot that was begun in shadow stays there with its corrections; what has no slot yet is billed."""
    two = Two(database, Terms("new", bill_from=START, shadow=True))
    two.source.use("cus_a", START, 10)
    two.round(1)
    two.on(Terms("new", bill_from=START))
    two.source.use("cus_a", START, 1)
    two.source.use("cus_b", START, 7)
    two.round(2)
    two.round(3)
    assert two.states("new") == [(0, "shadow", 10), (0, "shadow", 1), (0, "accepted", 7)]
    assert (two.held(two.new), two.held(two.new, "cus_b")) == ({}, {0: 7})


def test_what_was_due_before_a_shadow_began_is_still_sent(database: Database) -> None:
    """A shadow is about what is planned from then on: an event that is committed goes out."""
    two = Two(database)
    two.source.use("cus_a", START, 10)
    two.world.at(1, 5)
    two.world.collect()
    two.on(Terms("new", shadow=True))
    two.world.deliver()
    two.source.use("cus_a", START, 1)
    two.source.use("cus_a", START + HOUR, 2)
    two.round(2)
    assert two.held(two.new) == {0: 10}
    assert two.states("new") == [(0, "accepted", 10), (0, "shadow", 1), (1, "shadow", 2)]


def test_what_a_sink_holds_is_summed_without_the_shadow(database: Database) -> None:
    """The ledger's totals tell what is billed from what is only planned."""
    two = Two(database, Terms("new", shadow=True))
    two.source.use("cus_a", START, 10)
    two.round(1)
    span = Span(START, START + HOUR)
    [total] = Reports(database).totals(NAME, "new", span)
    assert (total.quantity, total.billed, total.parked, total.shadow) == (10, 0, 0, 10)
    [total] = Reports(database).totals(NAME, "old", span)
    assert (total.quantity, total.billed, total.parked, total.shadow) == (10, 10, 0, 0)


def test_fractions_are_carried_in_shadow_as_they_would_be(database: Database) -> None:
    """The carry flows through a shadow, so that it plans to the unit what would have been sent."""
    two = Two(database, Terms("new", shadow=True))
    for hour in range(5):
        two.source.use("cus_a", START + hour * HOUR, Decimal("0.4"))
        two.round(hour + 1)
    assert (
        [each[::2] for each in two.states("new")]
        == [each[::2] for each in two.states("old")]
        == [(2, 1), (4, 1)]
    )


def test_a_process_on_older_terms_goes_by_those_of_the_ledger(database: Database) -> None:
    """The terms that were registered last hold for every process, also for one that was started before."""
    two = Two(database)
    before = two.world
    before.at(1)
    two.on(Terms("new", shadow=True))
    two.source.use("cus_a", START, 10)
    before.at(1, 5)
    before.collect()
    before.deliver()
    assert two.states("new") == [(0, "shadow", 10)]
    assert two.new.received == []


def test_a_pass_under_way_is_lost_when_the_terms_change(database: Database) -> None:
    """What was read under the old terms is not planned by them: the window is read again."""
    two = Two(database)
    two.world.at(1, 5)
    lease = two.world.hold()
    assert lease is not None
    before = two.world
    two.on(Terms("new", shadow=True))
    [definition] = lease.definitions
    span = Span(START, START + HOUR)
    with Spool() as spool, pytest.raises(LeaseLost):
        before.passes.commit(
            lease,
            spool,
            Pass("live", span, span, before.now, definition),
            before.collection._decide(before.now, definition),
        )
    assert two.world.collect().busy is False


def test_whoever_only_looks_changes_no_terms(database: Database) -> None:
    """A preview with another configuration shows what would be, and a daemon goes on by what it has."""
    two = Two(database)
    known, _ = two.world.meters.look([replace(two.world.meter, terms=(Terms("new", START, T, shadow=True),))])
    [_, feed] = known[NAME].feeds
    assert (feed.until, feed.shadow) == (T, True)
    assert two.world.rows("select until, shadow from aggregator.feed") == [(None, False), (None, False)]


def test_starting_again_on_the_same_terms_changes_nothing(moving: Two) -> None:
    """A restart takes the meter from nobody and reads nothing anew."""
    moving.round(2)
    asked = "select epoch, hourly_at from aggregator.meter"
    before = moving.world.rows(asked)
    moving.on(Terms("old", bill_until=T), Terms("new", bill_from=T))
    assert moving.world.rows(asked) == before


@pytest.mark.parametrize("trouble", ["halted", "away"])
def test_a_failing_sink_never_delays_the_other(database: Database, trouble: str) -> None:
    """Each sink has a lane of its own: one that is halted or away keeps its events, and the other gets its own at once."""
    two = Two(database)

    def away(_: Event) -> Answer:
        return Answer.BUSY

    if trouble == "halted":
        two.old.halted = "the key is revoked"
    else:
        two.old.fault = away
    for hour in range(3):
        two.source.use("cus_a", START + hour * HOUR, hour + 1)
        two.world.at(hour + 1, 5)
        two.world.collect()
        two.world.deliver()
        assert two.held(two.new) == {each: each + 1 for each in range(hour + 1)}
    assert two.held(two.old) == {}
    assert two.world.one("select count(*) from aggregator.outbox") == 3
    two.old.halted, two.old.fault = None, lambda _: None
    two.round(4)
    assert two.held(two.old) == two.held(two.new)


def put_back_too_late(database: Database) -> Two:
    """The old sink was away for the hours 2 to 8 and is back, when the source holds nothing from before the hour 6."""
    two = Two(database)
    for hour in range(10):
        two.source.use("cus_a", START + hour * HOUR, hour + 1)
    two.round(2)
    two.on(sinks=[two.new])
    two.round(8)
    two.meter = replace(METER, retained=START + 6 * HOUR)
    two.on()
    return two


def test_windows_that_a_sink_lacks_and_the_source_too_are_named(database: Database) -> None:
    """A sink that is put back too late is told of, once in the log and always in the status, until they are given up."""
    two = put_back_too_late(database)
    two.world.at(9, 5)
    [told] = two.world.collect().lost
    assert told == (
        "old lacks the windows [2026-11-01T02:00Z, 2026-11-01T06:00Z) of api_requests: they were never planned for it, and "
        "the source no longer has their rows (`data_retained_from`). Restore the rows and correct `data_retained_from`, or "
        "give the windows up with `bill_from: 2026-11-01T06:00Z` for that sink."
    )
    assert two.world.collect().lost == [], "it is said once"
    two.round(10)
    assert sorted(two.held(two.old)) == [0, 1, 6, 7, 8, 9], "those that are there still are billed"
    lost = {row.sink: (row.lost_from, row.lost_until) for row in Reports(database).status()}
    assert lost == {"old": (START + 2 * HOUR, START + 6 * HOUR), "new": (None, None)}
    two.on(Terms("old", bill_from=START + 6 * HOUR))
    assert two.world.collect().lost == []
    assert two.world.one("select count(*) from aggregator.feed where lost is not null") == 0


def test_windows_that_were_lost_are_billed_when_their_rows_are_back(database: Database) -> None:
    """The first remedy works too: with `data_retained_from` corrected, the next passes plan what was lacking."""
    two = put_back_too_late(database)
    two.round(9)
    two.meter = METER
    two.on()
    two.world.at(10, 5)
    assert two.world.collect().lost == []
    two.round(11)
    two.round(12)
    assert two.held(two.old) == {hour: hour + 1 for hour in range(10)} == two.held(two.new)
    assert two.world.one("select count(*) from aggregator.feed where lost is not null") == 0


def test_what_a_person_dismissed_does_not_wait(world: World) -> None:
    """Status counts and lists what `events list` does: neither shows an event that was dismissed."""
    from aggregator.ledger.review.parked import Choice, ParkedEvents

    world.sink.refused |= {"cus_a", "cus_b"}
    world.source.use("cus_a", START)
    world.source.use("cus_b", START)
    world.at(1, 5)
    world.collect()
    world.deliver()
    parked, reports = ParkedEvents(world.database), Reports(world.database)
    waiting = [each.event for each in parked.waiting(Choice(), 10)]
    assert sorted(each.event for each in parked.waiting(Choice(), 10, newest_first=True)) == waiting
    assert [each.event for each in parked.waiting(Choice(), 1, newest_first=True)] == waiting[-1:], (
        "the newest first"
    )
    parked.dismiss(waiting[:1], world.now)
    assert [each.event for each in parked.waiting(Choice(), 10, newest_first=True)] == waiting[1:]
    assert [row.refused for row in reports.status()] == [1]


def test_the_release_before_goes_on_over_the_new_tables(ledger_url: str, world: World) -> None:
    """Its statements that write a feed work as they did, and a feed it makes has no end and no shadow."""
    with psycopg.connect(ledger_url) as connection:
        connection.execute("insert into aggregator.sink (name) values ('other')")
        connection.execute(
            "insert into aggregator.feed (meter_id, sink_id, since, read_until)"
            " select meter.id, sink.id, mark, mark from aggregator.meter, aggregator.sink where sink.name = 'other'"
        )
    other = World(world.database, source=world.source, sinks=[world.sink, FakeSink("other")])
    other.source.use("cus_a", START)
    other.at(1, 5)
    other.collect()
    other.deliver()
    assert {sink.booked[NAME, "cus_a"] for sink in other.sinks.values()} == {1}


def test_a_sink_that_does_not_answer_delays_no_other(database: Database) -> None:
    """While one sink keeps its lane waiting in the middle of a call, the other lane sends what is due to it."""
    two = Two(database)
    two.source.use("cus_a", START, 5)
    two.world.at(1, 5)
    two.world.collect()
    called, answer = threading.Event(), threading.Event()

    def hang() -> None:
        called.set()
        assert answer.wait(30), "nobody let the sink answer"

    two.old.during_send = hang
    workers = {
        feed.sink: Sender(two.world.outbox, two.world.sinks[feed.sink], feed.sink_id, lambda: two.world.now)
        for feed in two.world.registered.feeds
    }
    waiting = threading.Thread(target=workers["old"].run_once, args=(two.world.now,))
    waiting.start()
    try:
        assert called.wait(30)
        assert workers["new"].run_once(two.world.now).accepted == 1
        assert (two.held(two.old), two.held(two.new)) == ({}, {0: 5})
    finally:
        answer.set()
        waiting.join()
    assert two.held(two.old) == {0: 5}


def test_a_backfill_asks_of_each_sink_only_what_it_bills() -> None:
    """A range is too old only for a sink that bills something in its old part, and sends it."""
    now = START + 60 * DAY
    old = START + 5 * DAY
    limits = {"old": LIMITS, "new": LIMITS}
    known = (Definition(START, METER.fingerprint, "", HOUR),)

    def span_for(*terms: Terms) -> Span:
        meter = replace(METER, sinks=("old", "new"), terms=terms)
        return span_of(meter, known, limits, old, START + 59 * DAY, now)

    recent = START + 40 * DAY
    with pytest.raises(UsageError, match="Sink old takes nothing older than 35 days"):
        span_for(Terms("new", bill_from=recent))
    with pytest.raises(UsageError, match="Sink old takes nothing older"):
        span_for(Terms("old", bill_until=recent), Terms("new", bill_from=recent))
    shadow = Terms("old", bill_until=recent, shadow=True)
    assert span_for(shadow, Terms("new", bill_from=recent)).start == old
    assert span_for(Terms("old", bill_until=START + 2 * DAY), Terms("new", bill_from=recent)).start == old
