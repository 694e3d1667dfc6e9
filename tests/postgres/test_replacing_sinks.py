"""Sinks that keep the newest number, on a real ledger: what they end up with, whatever comes late."""

import datetime as dt
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal

import pytest

from aggregator.core.model import (
    Answer,
    Decreases,
    Event,
    Rejection,
    Span,
    Verdict,
    WriteModel,
)
from aggregator.ledger.database import Database
from aggregator.ledger.review.decisions import Decider, Decisions
from aggregator.ledger.review.in_doubt import InDoubt
from aggregator.ledger.review.parked import ParkedEvents
from tests.fakes import LIMITS, FakeSink
from tests.postgres.rejecting import reject_by_report
from tests.postgres.world import HOUR, METER, MINUTE, START, World

SECOND = dt.timedelta(seconds=1)
PARKED = "select event_id from aggregator.parked"


class ReplacingSink(FakeSink):
    """Keeps, for each customer and UTC hour, the number it was told last, as a pre-aggregated Stripe meter does.

    A request that is `delayed` leaves without an answer, and arrives when `arrive` is called.
    """

    def __init__(self, model: WriteModel = WriteModel.OVERWRITE) -> None:
        super().__init__("fake", replace(LIMITS, write_model=model))
        self.told: list[Event] = []
        self.delayed: Callable[[Event], bool] = lambda event: False
        self.under_way: list[Event] = []

    def _take(self, event: Event) -> Verdict:
        if self.delayed(event):
            self.received.append(event)
            self.under_way.append(event)
            return Verdict(event.id, Answer.UNKNOWN, "no answer")
        known = event.identifier in self.identifiers
        verdict = super()._take(event)
        if not known and event.identifier in self.identifiers:
            self.told.append(event)
        return verdict

    def arrive(self) -> None:
        """Let what is under way arrive; what the sink has already is turned away there, and nobody hears of it."""
        arriving, self.under_way = self.under_way, []
        for event in arriving:
            if event.identifier not in self.identifiers:
                self.identifiers[event.identifier] = event
                self.told.append(event)

    def kept(self, customer: str) -> dict[dt.datetime, Decimal]:
        """Return what is kept per hour: by order of arrival."""
        return {
            event.at.replace(minute=0, second=0): event.total
            for event in self.told
            if event.customer == customer
        }

    def last(self, customer: str, *, by_arrival: bool) -> Decimal:
        """Return the one number that is billed: the newest by arrival, or by its instant."""
        mine = [(n, event) for n, event in enumerate(self.told) if event.customer == customer]
        return max(mine, key=lambda each: each[0] if by_arrival else (each[1].at, each[0]))[1].total


class Replacing(World):
    """A world whose sink replaces, and whose passes know that."""

    def __init__(
        self,
        database: Database,
        model: WriteModel,
        revisit: dt.timedelta = METER.revisit,
        decreases: Decreases = Decreases.APPLY,
        *,
        keeps_order: bool = True,
    ) -> None:
        meter = replace(METER, decreases=decreases, latest=model is WriteModel.LAST, revisit=revisit)
        super().__init__(database, meter=meter, sinks=[ReplacingSink(model)])
        feeds = tuple(feed._replace(model=model, keeps_order=keeps_order) for feed in self.registered.feeds)
        self.registered = self.registered._replace(feeds=feeds)
        self.collection.registered = self.registered

    @property
    def told(self) -> ReplacingSink:
        """The sink."""
        assert isinstance(self.sink, ReplacingSink)
        return self.sink

    def round(self, hours: float, minutes: float = 6) -> None:
        """Collect and deliver, at a time."""
        self.at(hours, minutes)
        self.collect()
        self.deliver()


@pytest.fixture
def overwriting(database: Database) -> Replacing:
    """A sink that keeps one number per hour."""
    return Replacing(database, WriteModel.OVERWRITE)


@pytest.fixture
def seats(database: Database) -> Replacing:
    """A sink that bills a customer's last number."""
    return Replacing(database, WriteModel.LAST)


def test_corrections_replace_and_never_add(overwriting: Replacing) -> None:
    """Whatever comes late or goes away, each hour stands where the source says."""
    overwriting.source.use("cus_a", START, 5)
    overwriting.source.use("cus_a", START + HOUR, 7)
    overwriting.round(2)
    overwriting.source.use("cus_a", START + 20 * MINUTE, 3)
    del overwriting.source.uses[1]
    overwriting.source.use("cus_a", START + HOUR, 6)
    overwriting.round(2, 12)
    assert overwriting.told.kept("cus_a") == {START: 8, START + HOUR: 6}
    overwriting.check_balance()


@pytest.mark.parametrize("keeps_order", [True, False])
def test_a_total_that_followed_closely_is_said_once_more_where_order_is_not_kept(
    database: Database, keeps_order: bool
) -> None:
    """Two files with one hour's totals may be taken in any order: hours later it is sent again, and then not any more."""
    world = Replacing(database, WriteModel.OVERWRITE, keeps_order=keeps_order)
    world.source.use("cus_a", START, 5)
    world.round(1)
    world.source.use("cus_a", START + MINUTE, 2)
    world.round(1, 20)
    world.source.use("cus_b", START, 1)
    world.round(1, 30)
    for hours in range(2, 30):
        world.round(hours, 20)
        world.round(hours, 40)
    said = [event.total for event in world.told.told if event.customer == "cus_a"]
    assert said == ([5, 7] if keeps_order else [5, 7, 7])
    assert [event.total for event in world.told.told if event.customer == "cus_b"] == [1]
    world.check_balance()


def test_a_total_is_said_once_more_however_long_its_file_was_not_closed(database: Database) -> None:
    """A file is written some time after its events were planned; hours later that is no reason to say a total yet again."""
    world = Replacing(database, WriteModel.OVERWRITE, keeps_order=False)
    world.source.use("cus_a", START, 5)
    for minutes in range(66, 30 * 60, 12):
        world.at(0, minutes)
        world.collect()
        if minutes == 78:
            world.source.use("cus_a", START + MINUTE, 2)
        if minutes % 30 == 0:
            world.deliver()
    assert [event.total for event in world.told.told] == [5, 7, 7]
    world.check_balance()


def test_what_the_sink_rejected_is_not_said_again_by_itself(overwriting: Replacing) -> None:
    """It arrived, and was found invalid: nothing of it comes late, and the total that replaced it may be as invalid."""
    overwriting.source.use("cus_a", START, 5)
    for minutes in range(66, 30 * 60, 18):
        overwriting.at(0, minutes)
        overwriting.collect()
        overwriting.deliver()
        accepted = overwriting.rows("select identifier from aggregator.event where state = 'accepted'")
        rejections = [Rejection(identifier, "no such customer") for (identifier,) in accepted]
        reject_by_report(
            InDoubt(overwriting.database),
            overwriting.registered.feeds[0].sink_id,
            rejections,
            overwriting.now,
        )
        if minutes == 84:
            overwriting.source.use("cus_a", START + MINUTE, 2)
    said = overwriting.rows("select total::int, state::text from aggregator.event order by revision")
    assert said == [(5, "void"), (7, "refused")]
    overwriting.check_balance()


def test_a_total_of_which_one_copy_was_rejected_does_not_stay_by_another(overwriting: Replacing) -> None:
    """The sink counted a first copy whose answer was lost, and rejected a later one: what is gone is said to be gone."""
    sink = overwriting.told
    overwriting.source.use("cus_a", START, 5)
    sink.lost_after_booking = lambda event: len(sink.received) == 1
    overwriting.round(1)
    overwriting.deliver_later()
    [(identifier,)] = overwriting.rows("select identifier from aggregator.event where state = 'accepted'")
    sink_id = overwriting.registered.feeds[0].sink_id
    reject_by_report(
        InDoubt(overwriting.database), sink_id, [Rejection(identifier, "no such customer")], overwriting.now
    )
    overwriting.source.uses.clear()
    for hours in range(2, 12):
        overwriting.round(hours)
    assert sink.kept("cus_a") == {START: 0}
    overwriting.check_balance()


def test_decreases_that_are_held_have_nothing_said_again_for_them(seats: Replacing) -> None:
    """A correction behind which several are held has each newer window said once more, and each decrease held once more."""
    hold_decreases(seats)
    hours = range(12)
    for hour in hours:
        seats.source.use("cus_a", START + hour * HOUR, 10 + hour)
    seats.round(len(hours))
    lowered = (2, 4, 6, 8, 11)
    for hour in lowered:
        seats.source.uses[hour] = ("cus_a", START + hour * HOUR, Decimal(1))
    seats.round(len(hours) + 1)
    assert len(held(seats)) == len(lowered)
    said = len(seats.told.told)
    assert said == len(hours)
    seats.source.uses[0] = ("cus_a", START, Decimal(11))
    for minutes in range(120, 360, 15):
        seats.round(len(hours), minutes)
    assert len(seats.told.told) == said + len(hours)
    assert held(seats) == [(START + hour * HOUR, 1) for hour in lowered]
    assert seats.told.last("cus_a", by_arrival=True) == seats.told.last("cus_a", by_arrival=False) == 21
    seats.check_balance()


def test_a_decrease_that_is_held_does_not_stand_for_its_window(seats: Replacing) -> None:
    """It is found in the same pass as a correction of an older window: what is booked is sent again behind that."""
    hold_decreases(seats)
    seats.source.use("cus_a", START, 3)
    seats.source.use("cus_a", START + HOUR, 7)
    seats.round(2)
    seats.source.uses[:] = [("cus_a", START, Decimal(4)), ("cus_a", START + HOUR, Decimal(5))]
    for minutes in (8, 10, 12, 14, 16):
        seats.round(2, minutes)
    assert seats.told.last("cus_a", by_arrival=True) == seats.told.last("cus_a", by_arrival=False) == 7
    assert held(seats) == [(START + HOUR, 5)]
    assert len(seats.told.told) == 4
    seats.check_balance()


def test_a_late_total_does_not_stay_where_a_decrease_is_found_just_then(overwriting: Replacing) -> None:
    """The pass that is to send where the slot stands finds it lower for the first time: the one, and then the other."""
    sink = overwriting.told
    hold_decreases(overwriting)
    overwriting.source.use("cus_a", START, 5)
    sink.delayed = lambda event: not sink.received
    overwriting.round(1)
    sink.refused = {"cus_a"}
    overwriting.deliver_later()
    sink.refused = set()
    overwriting.source.use("cus_a", START + MINUTE, 2)
    overwriting.round(1, 20)
    sink.arrive()
    assert sink.kept("cus_a") == {START: 5}
    for hour in range(2, 7):
        overwriting.round(hour, 20)
    overwriting.source.uses[:] = [("cus_a", START, Decimal(6))]
    for hour in range(7, 12):
        overwriting.round(hour, 30)
    assert sink.kept("cus_a") == {START: 7}
    assert held(overwriting) == [(START, 6)]
    overwriting.check_balance()


@pytest.mark.parametrize("dismissed", [True, False])
@pytest.mark.parametrize("model", [WriteModel.OVERWRITE, WriteModel.LAST])
def test_what_waits_for_a_person_is_not_said_again_without_a_word(
    database: Database,
    model: WriteModel,
    dismissed: bool,
) -> None:
    """A total was rejected that followed another closely, or stands behind a correction; once it is released, it is said."""
    world = Replacing(database, model, keeps_order=False)
    world.source.use("cus_a", START, 5)
    world.source.use("cus_a", START + HOUR, 2)
    world.round(2)
    world.source.use("cus_a", START + HOUR + MINUTE, 5)
    world.round(2, 20)
    [(event, identifier)] = world.rows("select id, identifier from aggregator.event where total = 7")
    sink_id = world.registered.feeds[0].sink_id
    reject_by_report(InDoubt(database), sink_id, [Rejection(identifier, "no such customer")], world.now)
    if dismissed:
        ParkedEvents(database).dismiss([event], world.now)
    world.source.use("cus_a", START + MINUTE, 1)
    for hours in range(3, 20):
        world.round(hours)
    assert [each.total for each in world.told.told if each.window_start == START + HOUR] == [2, 7]
    assert world.one("select state::text from aggregator.event where id = %s", event) == "refused"
    assert world.outbox.release([event], world.now) == [event]
    world.round(20)
    assert world.told.kept("cus_a")[START + HOUR] == 7
    assert world.one("select state::text from aggregator.event where id = %s", event) == "void"
    world.check_balance()


def test_what_was_dismissed_stays_so_though_its_window_is_said_again(seats: Replacing) -> None:
    """However often; by whom and why stays on record. Another number is a new question."""
    hold_decreases(seats)
    parked = ParkedEvents(seats.database)
    ada = Decider("ada", "they keep their seats")
    for hour, number in enumerate((10, 12)):
        seats.source.use("cus_a", START + hour * HOUR, number)
    seats.round(2)

    def say_again(minutes: int) -> None:
        """Correct the older window; the next pass finds what was withdrawn for that."""
        _, _, quantity = seats.source.uses[0]
        seats.source.uses[0] = ("cus_a", START, quantity + 1)
        for more in (0, 2, 4):
            seats.round(2, minutes + more)
        assert [seats.told.last("cus_a", by_arrival=by) for by in (True, False)] == [12, 12]

    def stand() -> list[tuple[int, bool]]:
        """Return what the newer window would be lowered to, and whether a person has left it at that."""
        return seats.rows(
            "select event.total::int, dismissed_at is not null from aggregator.parked join aggregator.event on id = event_id"
        )

    seats.source.uses[1] = ("cus_a", START + HOUR, Decimal(9))
    seats.round(2, 12)
    parked.dismiss([event for (event,) in seats.rows(PARKED)], seats.now, ada)
    for minutes in (14, 20, 26):
        say_again(minutes)
        assert stand() == [(9, True)]
    [(event,)] = seats.rows(PARKED)
    [decided] = Decisions(seats.database).about([event]).values()
    assert (decided.who, decided.reason, decided.at) == (
        "ada",
        "they keep their seats",
        START + 2 * HOUR + 12 * MINUTE,
    )
    seats.source.uses[0] = ("cus_a", START, Decimal(20))
    seats.round(2, 32)
    assert stand() == [], "it is withdrawn, and what is booked said again"
    seats.source.uses[1] = ("cus_a", START + HOUR, Decimal(8))
    seats.round(2, 34)
    assert stand() == [(8, False)]
    say_again(36)
    assert stand() == [(8, False)]
    parked.dismiss([event for (event,) in seats.rows(PARKED)], seats.now, ada)
    seats.source.uses[1] = ("cus_a", START + HOUR, Decimal(14))
    seats.round(2, 42)
    seats.source.uses[1] = ("cus_a", START + HOUR, Decimal(8))
    seats.round(2, 44)
    assert stand() == [(8, False)], "more has been billed since"
    seats.check_balance()


def test_a_total_that_was_replaced_and_arrives_late_does_not_stay(overwriting: Replacing) -> None:
    """Its event was refused after an attempt without an answer. Once nothing can be on its way, the total is sent again."""
    sink = overwriting.told
    overwriting.source.use("cus_a", START, 5)
    sink.delayed = lambda event: not sink.received
    overwriting.round(1)
    sink.refused = {"cus_a"}
    overwriting.deliver_later()
    assert overwriting.one("select state::text from aggregator.event") == "refused"
    sink.refused = set()
    overwriting.source.use("cus_a", START + MINUTE, 2)
    overwriting.round(1, 20)
    assert sink.kept("cus_a") == {START: 7}
    sink.arrive()
    assert sink.kept("cus_a") == {START: 5}, "the late total has taken the place of the newer one"
    overwriting.round(7, 10)
    assert sink.kept("cus_a") == {START: 5}, "not yet: another request may still be on its way"
    overwriting.round(7, 30)
    overwriting.round(7, 40)
    assert sink.kept("cus_a") == {START: 7}
    said = len(sink.told)
    overwriting.round(9, 30)
    overwriting.round(9, 40)
    assert len(sink.told) == said, "sent again once, and not for ever"
    overwriting.check_balance()


def test_an_old_window_is_said_again_though_nothing_reads_it_by_itself(overwriting: Replacing) -> None:
    """It was booked by a backfill, and lies far behind what is read again; its late total must not stay either."""
    sink = overwriting.told
    overwriting.collection.meter = replace(overwriting.meter, revisit=2 * HOUR)
    overwriting.round(240)
    overwriting.source.use("cus_a", START, 5)
    sink.delayed = lambda event: not sink.received
    overwriting.backfill(Span(START, START + HOUR))
    overwriting.deliver()
    sink.refused = {"cus_a"}
    overwriting.deliver_later()
    sink.refused = set()
    overwriting.source.use("cus_a", START + MINUTE, 2)
    overwriting.backfill(Span(START, START + HOUR))
    overwriting.deliver()
    sink.arrive()
    assert sink.kept("cus_a") == {START: 5}
    for hour in range(241, 250):
        overwriting.round(hour)
    assert sink.kept("cus_a") == {START: 7}
    assert overwriting.one("select reread_from from aggregator.meter") is None
    overwriting.check_balance()


def test_a_lost_answer_is_repeated_for_ever_and_never_in_doubt(overwriting: Replacing) -> None:
    """Sending a total again changes nothing, so there is no cliff."""
    sink = overwriting.told
    overwriting.source.use("cus_a", START, 5)
    sink.lost_after_booking = lambda event: len(sink.received) == 1
    overwriting.round(1)
    overwriting.round(31)
    assert overwriting.rows("select state::text, attempts from aggregator.event") == [("accepted", 2)]
    assert sink.kept("cus_a") == {START: 5}


def hold_decreases(world: Replacing) -> None:
    meter = replace(world.collection.meter, decreases=Decreases.HOLD, shrink_guard=Decimal(1))
    world.collection.meter = meter
    world.registered = world.registered._replace(meter=meter)
    world.collection.registered = world.registered


def held(world: Replacing) -> list[tuple[dt.datetime, int]]:
    """The decreases that wait for a person: their window, and to what they would lower it."""
    return world.rows(
        "select window_start, total::int from aggregator.parked join aggregator.event on event.id = event_id"
        " where parked.state = 'held'"
    )


@pytest.mark.parametrize("base", [1, 240])
def test_a_late_total_does_not_stay_while_a_decrease_is_held(overwriting: Replacing, base: int) -> None:
    """What is booked is sent again, and the decrease still waits for a person, however old the window is."""
    sink = overwriting.told
    overwriting.collection.meter = replace(overwriting.meter, revisit=2 * HOUR)
    overwriting.round(base)

    def booked(quantity: int, minutes: int) -> None:
        overwriting.source.uses[:] = [("cus_a", START, Decimal(quantity))]
        overwriting.at(base, minutes)
        overwriting.backfill(Span(START, START + HOUR))
        overwriting.deliver()

    booked(7, 10)
    sink.delayed = lambda event: event.total == 9 and not sink.under_way
    booked(9, 20)
    sink.refused = {"cus_a"}
    overwriting.deliver_later()
    sink.refused = set()
    hold_decreases(overwriting)
    booked(5, 40)
    sink.arrive()
    assert sink.kept("cus_a") == {START: 9}
    for hour in range(1, 12):
        overwriting.round(base + hour)
        overwriting.check_balance()
    assert sink.kept("cus_a") == {START: 7}
    assert held(overwriting) == [(START, 5)]
    said = overwriting.one("select count(*) from aggregator.event")
    for hour in range(12, 20):
        overwriting.round(base + hour)
    assert overwriting.one("select count(*) from aggregator.event") == said, "once, and not for ever"


def test_the_last_number_stays_the_newest_while_its_decrease_is_held(seats: Replacing) -> None:
    """An older window is corrected: the newer one is sent again as it is booked, by arrival and by instant."""
    seats.source.use("cus_a", START, 10)
    seats.source.use("cus_a", START + HOUR, 12)
    seats.round(2)
    hold_decreases(seats)
    seats.source.uses[1] = ("cus_a", START + HOUR, Decimal(9))
    seats.round(2, 12)
    seats.source.uses[0] = ("cus_a", START, Decimal(11))
    for minutes in range(20, 60, 6):
        seats.round(2, minutes)
    assert [seats.told.last("cus_a", by_arrival=by) for by in (True, False)] == [12, 12]
    assert held(seats) == [(START + HOUR, 9)]
    said = seats.one("select count(*) from aggregator.event")
    seats.round(3, 10)
    seats.round(3, 20)
    assert seats.one("select count(*) from aggregator.event") == said, "once, and not for ever"


def test_the_last_number_is_what_the_newest_window_says(seats: Replacing) -> None:
    """By arrival and by instant, in whatever order the windows were corrected."""
    for hour, number in ((0, 5), (1, 6), (2, 4)):
        seats.source.use("cus_a", START + hour * HOUR, number)
    seats.round(3)
    seats.source.use("cus_a", START, 10)
    seats.round(4, 10)
    seats.round(4, 16)
    seats.round(4, 22)
    assert [seats.told.last("cus_a", by_arrival=by) for by in (True, False)] == [4, 4]
    assert seats.told.kept("cus_a") == {START: 15, START + HOUR: 6, START + 2 * HOUR: 4}
    said = len(seats.told.told)
    seats.round(5, 30)
    seats.round(5, 40)
    assert len(seats.told.told) == said, "what is newer was sent again once"


@pytest.mark.parametrize("windows", [20, 40])
def test_many_corrections_come_to_rest_at_once(seats: Replacing, windows: int) -> None:
    """Every second window has changed: each is said, with all that is newer than the oldest, in one pass and in order."""
    for hour in range(windows):
        seats.source.use("cus_a", START + hour * HOUR, 100 + hour)
    seats.round(windows)
    for hour in range(0, windows - 1, 2):
        seats.source.use("cus_a", START + hour * HOUR, 5)
    seats.round(windows + 1, 12)
    said = [event.window_start for event in seats.told.told[windows:]]
    assert said == [START + hour * HOUR for hour in range(windows)]
    for minutes in (18, 24, 80):
        seats.round(windows + 1, minutes)
    assert [event.total for event in seats.told.told[2 * windows :]] == []
    assert seats.one("select count(*) from aggregator.reassertion") == 0
    seats.check_balance()


def test_what_is_newer_is_said_again_though_the_pass_did_not_read_it(seats: Replacing) -> None:
    """A backfill of one old window has the newer ones said behind it by the same pass, and nothing is left to say."""
    for hour in range(4):
        seats.source.use("cus_a", START + hour * HOUR, 10 + hour)
        seats.source.use("cus_b", START + hour * HOUR, 1)
    seats.round(4)
    before = len(seats.told.told)
    seats.source.use("cus_a", START + HOUR, 1)
    seats.at(4, 12)
    seats.backfill(Span(START + HOUR, START + 2 * HOUR))
    seats.deliver()
    again = [(event.customer, event.window_start, event.total) for event in seats.told.told[before:]]
    assert again == [("cus_a", START + hour * HOUR, total) for hour, total in ((1, 12), (2, 12), (3, 13))]
    assert seats.one("select count(*) from aggregator.reassertion") == 0
    for minutes in (20, 30):
        seats.round(4, minutes)
    assert len(seats.told.told) == before + 3
    seats.check_balance()


def test_what_is_still_owed_is_said_again_once_it_is_settled(seats: Replacing) -> None:
    """Newer windows whose events wait while an older one is corrected: each is said behind it once, all by one pass."""
    seats.source.use("cus_a", START, 10)
    seats.round(1)
    for hour in (1, 2, 3):
        seats.source.use("cus_a", START + hour * HOUR, 10 + hour)
    seats.at(4, 6)
    seats.collect()
    seats.source.use("cus_a", START, 5)
    seats.backfill(Span(START, START + HOUR))
    seats.deliver()
    assert seats.told.last("cus_a", by_arrival=True) == 15
    for minutes in (18, 24, 30):
        seats.round(4, minutes)
    assert [event.total for event in seats.told.told] == [10, 11, 12, 13, 15, 11, 12, 13]
    assert seats.one("select count(*) from aggregator.reassertion") == 0
    seats.check_balance()


def test_a_release_in_the_middle_of_a_round_is_followed_up(database: Database) -> None:
    """What is released after a round began, and before it commits, is sent again by the next one, though nothing is due."""
    seats = Replacing(database, WriteModel.LAST, revisit=dt.timedelta(0), decreases=Decreases.HOLD)
    for hour, number in ((0, 50), (1, 60), (2, 40)):
        seats.source.use("cus_a", START + hour * HOUR, number)
    seats.round(3)
    del seats.source.uses[0]
    seats.source.use("cus_a", START, 45)
    seats.backfill(Span(START, START + HOUR))
    [(held,)] = seats.rows("select event_id from aggregator.parked where state = 'held'")
    seats.at(4, 6)
    assert seats.outbox.release([held], seats.now + MINUTE) == [held]
    seats.collect()
    seats.at(4, 8)
    seats.deliver()
    assert seats.told.last("cus_a", by_arrival=True) == 45, (
        "an old window stands last, where the sink goes by arrival"
    )
    for minute in (10, 20):
        seats.round(4, minute)
    assert seats.told.last("cus_a", by_arrival=True) == 40
    assert seats.one("select count(*) from aggregator.reassertion") == 0


def test_nobody_who_gave_up_their_seats_is_billed_for_them(seats: Replacing) -> None:
    """A zero that the source says is an event; a customer it does not name is left as it was."""
    seats.source.use("cus_a", START, 5)
    seats.source.use("cus_b", START, 2)
    seats.source.use("cus_a", START + HOUR, 0)
    seats.round(2)
    assert seats.told.last("cus_a", by_arrival=False) == 0
    assert seats.told.last("cus_b", by_arrival=False) == 2


def test_a_customers_windows_arrive_in_their_order(seats: Replacing) -> None:
    """While an event waits to be tried again, the next of its customer waits behind it; those of others do not."""
    sink = seats.told
    sink.fault = lambda event: Answer.BUSY if event.customer == "cus_a" and len(sink.received) < 3 else None
    for hour in range(3):
        seats.source.use("cus_a", START + hour * HOUR, hour + 1)
        seats.source.use("cus_b", START + hour * HOUR, hour + 1)
    seats.round(3)
    assert [event.window_start for event in sink.told if event.customer == "cus_b"] == [
        START + hour * HOUR for hour in range(3)
    ]
    seats.deliver_later()
    assert [event.window_start for event in sink.told if event.customer == "cus_a"] == [
        START + hour * HOUR for hour in range(3)
    ]
