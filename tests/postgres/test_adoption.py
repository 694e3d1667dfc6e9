"""Adoption on a real ledger: whatever the restore point, the sink ends with what the source says, and never holds more."""

import datetime as dt
import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from decimal import ROUND_FLOOR, Decimal
from functools import partial
from pathlib import Path

import psycopg
import pytest

from aggregator.core.model import (
    Decreases,
    Fence,
    Meter,
    Span,
    State,
    Terms,
)
from aggregator.core.readbacks import Finding, decide
from aggregator.errors import (
    CustomerUnknown,
    LedgerError,
    LedgerStopped,
    SinkUnreachable,
    SourceError,
    UsageError,
)
from aggregator.ledger.database import Database
from aggregator.ledger.review.in_doubt import events_in_span
from tests.fakes import LIMITS, FakeSink
from tests.postgres.restore import (
    DAY,
    FATES,
    Backup,
    PinnedWorld,
    StripeLike,
    any_use,
    back_up,
    half_hours,
    restore,
)
from tests.postgres.world import HOUR, METER, MINUTE, START

pytestmark = pytest.mark.usefixtures("says_what_changed")

APPLY = replace(METER, decreases=Decreases.APPLY, shrink_guard=Decimal(1))


@pytest.fixture
def world(database: Database, tmp_path: Path) -> PinnedWorld:
    """A daemon with a state directory, on a sink that keeps Stripe's rules."""
    return begin(database, tmp_path)


def begin(database: Database, directory: Path, meter: Meter = METER) -> PinnedWorld:
    world = PinnedWorld(database, directory / "state", meter=meter)
    assert world.identity.check(world.now) is None
    world.like.most = lambda customer: world.source.totals().get(customer, Decimal(0))
    return world


def use(world: PinnedWorld, hour: int, quantity: int | str = 1, customer: str = "cus_1") -> None:
    """Let a customer use something in an hour."""
    world.source.use(customer, START + hour * HOUR + 10 * MINUTE, Decimal(quantity))


def cycle(world: PinnedWorld, hours: float) -> None:
    """Let a daemon read and send, so many hours after the start."""
    world.at(hours, 10)
    world.collect()
    world.deliver()


def quiet_down(world: PinnedWorld) -> None:
    """Let a daemon go on without faults until nothing is left to do."""
    world.like.fate = lambda event: "book"
    for _ in range(4):
        world.now += 35 * MINUTE
        world.like.land()
        world.collect()
        world.deliver()


def lose(world: PinnedWorld, backup: Backup) -> None:
    """Put a backup back, and let a daemon find out."""
    restore(world.database, backup)
    use(world, int((world.now - START) / HOUR) - 1, customer="cus_straw")
    world.collect()
    with pytest.raises(LedgerStopped):
        world.deliver()


def equal(world: PinnedWorld) -> None:
    """Assert that the sink has what the source says, that the ledger says so too, and that its balance holds."""
    world.check_balance()
    unit = Decimal(1).scaleb(-world.meter.decimals)
    truth = {name: used.quantize(unit, ROUND_FLOOR) for name, used in world.source.totals().items()}
    assert {name: world.booked(name) for name in truth} == truth
    total = "select coalesce(sum(total), 0) from aggregator.slot where customer = %s"
    assert {name: world.one(total, name) for name in truth} == truth
    open_events = "select count(*) from aggregator.event where state not in ('accepted', 'confirmed', 'void')"
    assert world.one(open_events) == 0


def windows_equal(world: PinnedWorld) -> None:
    """Assert the same window by window, where nothing is carried from one to the next."""
    slots: dict[tuple[str, dt.datetime], Decimal] = {}
    for customer, at, quantity in world.source.uses:
        key = str(customer), at.replace(minute=0, second=0, microsecond=0)
        slots[key] = slots.get(key, Decimal(0)) + quantity
    assert {(key[1], key[2]): much for key, much in world.like.slots.items() if much} == slots


def test_an_adoption_lets_nothing_go_that_it_has_not_compared(world: PinnedWorld) -> None:
    """A meter that is not configured just now may have usage at its sink, too: that is asked once it is back."""
    use(world, 0, 5)
    cycle(world, 1)
    world.execute(
        """
        with meter as (
            insert into aggregator.meter (name, fingerprint, window_seconds, start_at, mark)
            values ('elsewhere', 'f', 3600, %s, %s) returning id
        )
        insert into aggregator.feed (meter_id, sink_id, since, read_until)
        select id, %s, %s, %s from meter
        """,
        START,
        START,
        world.registered.feeds[0].sink_id,
        START,
        START,
    )
    backup = back_up(world.database)
    use(world, 2, 10)
    cycle(world, 3)
    lose(world, backup)
    world.execute("update aggregator.feed set cleared_at = null, cleared_until = 0")
    world.adopt()
    cleared = "select meter.name, cleared_by from aggregator.feed join aggregator.meter on meter.id = meter_id order by 1"
    assert world.rows(cleared) == [(world.meter.name, "an adoption"), ("elsewhere", None)]


def test_what_a_lost_future_sent_is_taken_over(world: PinnedWorld) -> None:
    """A ledger restored from three hours ago stops, adopts, sends what is missing, and nothing twice."""
    use(world, 0, 5)
    cycle(world, 1)
    backup = back_up(world.database)
    for hour in (1, 2, 3):
        use(world, hour, 10 * hour)
        cycle(world, hour + 1)
    use(world, 2, 7, "cus_2")
    cycle(world, 5)
    lose(world, backup)
    use(world, 1, 3)
    [compared] = world.adopt()
    assert (compared.customers, compared.windows, compared.taken_over, compared.missing) == (3, 5, 67, 0)
    assert world.rows("select generation > 0, stopped_at from aggregator.identity") == [(True, None)]
    assert world.one("select reread_from from aggregator.meter") == START
    sent = len(world.sink.received)
    quiet_down(world)
    later = {(event.customer, event.delta) for event in world.sink.received[sent:]}
    assert later == {("cus_1", 3), ("cus_straw", 1)}
    equal(world)
    windows_equal(world)


def test_taken_over_events_say_so(world: PinnedWorld) -> None:
    """The audit trail names what the sink's totals added: confirmed, never sent, with a reason, of an adoption."""
    backup = back_up(world.database)
    use(world, 0, 5)
    cycle(world, 1)
    lose(world, backup)
    world.adopt()
    assert world.rows("""
        select event.revision, event.delta, event.total, state::text, attempts, exposed_at, reason, kind
          from aggregator.event join aggregator.pass on pass.id = pass_id where customer = 'cus_1' and state <> 'void'
    """) == [(1, 5, 5, "confirmed", 0, None, "taken over from the sink's own totals", "adoption")]
    [identifier] = world.rows("select identifier from aggregator.event where state = 'confirmed'")
    assert identifier[0] not in world.like.seen


def test_what_was_forgotten_is_compared_by_whole_windows(database: Database, tmp_path: Path) -> None:
    """Ten more and ten less come to nothing, so nothing was taken over; in one minute the sink has ten all the same.

    They must not prove that another ten, planned since, have arrived.
    """
    world = begin(database, tmp_path, APPLY)
    use(world, 0, 5, "cus_2")
    cycle(world, 1)
    backup = back_up(world.database)
    for quantity in (10, -10):
        use(world, 0, quantity)
        world.now += 20 * MINUTE
        world.collect()
        world.deliver()
    assert [event.delta for event in world.sink.received if event.customer == "cus_1"] == [10, -10]
    lose(world, backup)
    world.adopt()
    use(world, 0, 10)
    world.collect()
    world.like.fate = lambda event: "request"
    world.deliver()
    [(feed, at)] = world.rows(
        "select feed_id, at from aggregator.event where customer = 'cus_1' and state = 'due' and attempts = 1"
    )
    minute = at.replace(second=0)
    with world.database.transaction() as connection:
        seen = events_in_span(connection, feed, "api_requests", "cus_1", Span(minute, minute + MINUTE))
    assert seen.span == Span(START, START + HOUR)
    assert not seen.imprecise
    asked = tuple(
        event._replace(state=State.IN_DOUBT, asked=event.state is State.DUE) for event in seen.events
    )
    figure = sum(world.like.breakdown("api_requests", "cus_1", seen.span, HOUR).values(), Decimal(0))
    assert [found.finding for found in decide(seen._replace(events=asked), figure)] == [Finding.ABSENT]


def test_what_was_owed_and_never_arrived_is_planned_again(world: PinnedWorld) -> None:
    """Unsettled events are withdrawn: those the sink has are taken over, the others go out under new names."""
    use(world, 0, 5, "cus_here")
    use(world, 0, 6, "cus_gone")
    world.at(1, 10)
    world.collect()
    backup = back_up(world.database)
    world.like.fate = lambda event: "request" if event.customer == "cus_gone" else "answer"
    world.deliver()
    lose(world, backup)
    old = set(world.like.seen)
    [compared] = world.adopt()
    assert (compared.taken_over, compared.withdrawn) == (5, 3)
    assert world.one("select count(*) from aggregator.outbox") == 0
    quiet_down(world)
    assert {event.customer for _, event in world.like.seen.values() if event.identifier not in old} == {
        "cus_gone",
        "cus_straw",
    }
    equal(world)


def test_nothing_is_adopted_while_requests_may_be_on_their_way(world: PinnedWorld) -> None:
    """Until two quiet hours have passed since the stop and the last claim, an adoption is refused and says until when."""
    backup = back_up(world.database)
    use(world, 0, 5)
    world.at(1, 10)
    world.collect()
    world.like.fate = lambda event: "late"
    world.deliver()
    lose(world, backup)
    stopped_at = world.now
    adoption = world.adoption()
    assert adoption.situation(world.now).quiet_until == stopped_at + 2 * HOUR
    world.now += 2 * HOUR - MINUTE
    with (
        adoption.survey(world.now) as survey,
        pytest.raises(LedgerError, match="Adopt at 2026-11-01 03:10:00 UTC or later"),
    ):
        adoption.adopt(survey, world.now)
    assert world.rows("select generation, stopped_at from aggregator.identity") == [(0, stopped_at)]
    world.adopt()
    quiet_down(world)
    equal(world)


def test_the_quiet_time_counts_from_the_last_send_known(world: PinnedWorld) -> None:
    """The file beside the ledger knows of sends that the restored ledger has forgotten; a later stop counts as well."""
    backup = back_up(world.database)
    use(world, 0, 5)
    cycle(world, 1)
    sent_at = world.now
    restore(world.database, backup)
    world.execute("update aggregator.identity set stopped_at = %s, stopped_reason = 'x'", START)
    assert world.adoption().situation(world.now).quiet_until == sent_at + 2 * HOUR


def test_a_sound_ledger_is_left_alone(world: PinnedWorld) -> None:
    """A ledger that nothing is wrong with is not adopted; a person can stop one, and then it changes nothing."""
    use(world, 0, 5)
    cycle(world, 1)
    adoption = world.adoption()
    assert adoption.situation(world.now).quiet_until is None
    with adoption.survey(world.now) as survey, pytest.raises(LedgerError, match="is not stopped"):
        adoption.adopt(survey, world.now)
    before = everything(world)
    adoption.stop(world.now)
    [compared] = world.adopt()
    assert (compared.windows, compared.taken_over, compared.missing, compared.withdrawn) == (0, 0, 0, 0)
    assert everything(world) == before


def everything(world: PinnedWorld) -> list[list[tuple[object, ...]]]:
    """What an adoption may change besides the pin."""
    return [
        world.rows(f"select * from aggregator.{table} order by 1, 2")
        for table in ("slot", "event", "outbox", "parked", "carry")
    ]


def test_adopting_again_changes_nothing(world: PinnedWorld) -> None:
    """A second adoption finds what the first one wrote."""
    backup = back_up(world.database)
    for hour in range(4):
        use(world, hour, hour + 1)
        cycle(world, hour + 1)
    lose(world, backup)
    world.adopt()
    first = world.one("select generation from aggregator.identity")
    before = everything(world)
    world.adoption().stop(world.now)
    [compared] = world.adopt()
    assert (compared.windows, compared.taken_over, compared.missing) == (0, 0, 0)
    assert everything(world) == before
    assert world.one("select generation from aggregator.identity") > first
    quiet_down(world)
    equal(world)


def test_a_daemon_that_runs_on_plans_under_new_names(world: PinnedWorld) -> None:
    """After an adoption nothing has a name that the lost future used, so a slot's next event is no duplicate."""
    use(world, 0, 5)
    backup = back_up(world.database)
    cycle(world, 1)
    use(world, 0, 5)
    cycle(world, 2)
    lose(world, backup)
    names = set(world.like.seen)
    world.adopt()
    use(world, 0, 4)
    quiet_down(world)
    assert not names & {event.identifier for event in world.sink.received[-2:]}
    equal(world)


def test_a_generation_is_never_used_twice(world: PinnedWorld) -> None:
    """A ledger restored to before an adoption gets a generation above the one that this host has seen."""
    first = back_up(world.database)
    use(world, 0, 5)
    cycle(world, 1)
    lose(world, first)
    world.adopt()
    lost = world.one("select generation from aggregator.identity")
    use(world, 4, 2)
    world.at(8)
    quiet_down(world)
    lose(world, first)
    world.adopt()
    assert world.one("select generation from aggregator.identity") > lost
    quiet_down(world)
    equal(world)


def test_a_generation_that_everybody_forgot_is_not_used_again(world: PinnedWorld, tmp_path: Path) -> None:
    """Adopted again on another host, after a restore to before the first adoption, a ledger has names of its own."""
    backup = back_up(world.database)
    use(world, 0, 5)
    cycle(world, 1)
    lose(world, backup)
    world.adopt()
    use(world, 0, 2)
    use(world, 4, 2)
    world.at(8)
    quiet_down(world)
    restore(world.database, backup)
    other = world.on(tmp_path / "elsewhere")
    world.like.clock = lambda: other.now
    names = set(world.like.seen)
    use(other, 0, 7)
    use(other, 4, 7)
    other.adoption().stop(other.now)
    other.adopt()
    booked = {row[0] for row in other.rows("select identifier from aggregator.event")}
    assert not names & booked
    quiet_down(other)
    equal(other)
    windows_equal(other)


def test_a_generation_ahead_of_the_clock_is_counted_on_from(world: PinnedWorld) -> None:
    """A ledger adopted while a clock was ahead counts on from there."""
    ahead = 2_000_000_000
    world.execute(f"update aggregator.identity set generation = {ahead}")
    world.adoption().stop(world.now)
    world.adopt()
    assert world.one("select generation from aggregator.identity") == ahead + 1


def test_what_the_sink_lacks_is_sent(world: PinnedWorld) -> None:
    """Where the sink has less than was booked, as in another account, the difference is planned again."""
    for hour in range(3):
        use(world, hour, 5)
        cycle(world, hour + 1)
    world.like.bookings.clear()
    world.like.booked.clear()
    world.like.slots.clear()
    world.like.belongs_to = "acct_other test"
    assert world.identity.account("fake", "acct_fake test", world.now) is None
    [compared] = world.adopt()
    assert (compared.taken_over, compared.missing) == (0, 15)
    assert world.one("select account from aggregator.sink") == "acct_other test"
    quiet_down(world)
    equal(world)
    windows_equal(world)


def test_a_ledger_created_anew_takes_everything_over(
    world: PinnedWorld, create_database: Callable[[str | None], str]
) -> None:
    """A ledger that was lost altogether: the new one bills nothing of what the old one did."""
    for hour in range(3):
        use(world, hour, 5)
        cycle(world, hour + 1)
    with Database(create_database("ledger_template")) as fresh:
        with fresh.transaction() as connection:
            connection.execute("update aggregator.identity set ledger_id = gen_random_uuid()")
        anew = world.on(world.directory, fresh)
        anew.like.clock = lambda: anew.now
        use(anew, 2, 1)
        anew.collect()
        with pytest.raises(LedgerStopped, match="would send all of it again"):
            anew.deliver()
        [compared] = anew.adopt()
        assert compared.taken_over == 15
        quiet_down(anew)
        equal(anew)


@pytest.mark.direct
def test_a_copy_that_is_meant_is_adopted(
    ledger_url: str, create_database: Callable[[str | None], str], tmp_path: Path
) -> None:
    """A ledger that was moved to another database goes on there; its new place is pinned."""
    with Database(ledger_url) as original:
        world = begin(original, tmp_path)
        use(world, 0, 5)
        cycle(world, 1)
        use(world, 1, 6)
        world.at(2, 10)
        world.collect()
    copy_url = create_database(psycopg.conninfo.conninfo_to_dict(ledger_url)["dbname"])  # type: ignore[arg-type]
    with Database(copy_url) as copy:
        moved = world.on(tmp_path / "fresh", copy)
        moved.like.clock = lambda: moved.now
        with pytest.raises(LedgerStopped, match="it is a copy, or was moved"):
            moved.deliver()
        moved.adopt()
        assert moved.identity.check(moved.now) is None
        quiet_down(moved)
        equal(moved)


def test_another_host_goes_on_after_an_adoption(world: PinnedWorld, tmp_path: Path) -> None:
    """A host whose file has a higher count of the old generation accepts the adopted ledger."""
    other = world.on(tmp_path / "elsewhere")
    backup = back_up(world.database)
    for hour in range(3):
        use(world, hour, 5)
        cycle(world, hour + 1)
        other.now = world.now
        use(world, hour, 1, "cus_2")
        other.collect()
        other.deliver()
    lose(world, backup)
    world.adopt()
    other.now = world.now + HOUR
    world.like.clock = lambda: other.now
    assert other.identity.check(other.now) is None
    quiet_down(other)
    equal(other)


def test_fractions_are_not_spread_anew(database: Database, tmp_path: Path) -> None:
    """Carried fractions that a lost future had billed in other windows raise none of them again, not even for a while."""
    world = begin(database, tmp_path)
    backup = back_up(world.database)
    for hour, quantity in enumerate(("0.9", "0.9", "0.9")):
        use(world, hour, quantity)
        cycle(world, hour + 1)
    use(world, 0, "0.2")
    cycle(world, 4)
    assert world.booked("cus_1") == 2
    lose(world, backup)
    world.adopt()
    quiet_down(world)
    equal(world)


def test_a_day_whose_sum_agrees_is_looked_into(database: Database, tmp_path: Path) -> None:
    """Too much in one window and as much too little in another cancel out in a day's sum, and are found all the same."""
    world = begin(database, tmp_path, APPLY)
    world.like.most = lambda customer: Decimal(10)
    for hour in (0, 1):
        use(world, hour, 5)
        cycle(world, hour + 1)
    backup = back_up(world.database)
    world.source.uses[:] = []
    use(world, 0, 4)
    use(world, 1, 6)
    cycle(world, 3)
    assert world.booked("cus_1") == 10
    lose(world, backup)
    [compared] = world.adopt()
    assert compared.windows == 3
    sent = len(world.like.bookings)
    quiet_down(world)
    assert [event.customer for _, event in world.like.bookings[sent:]] == ["cus_straw"]
    windows_equal(world)


@pytest.mark.parametrize("minutes", [1, 15, 45, 60, 90, 360, 1440])
def test_windows_of_every_length(database: Database, tmp_path: Path, minutes: int) -> None:
    """Days, hours and single windows are asked for, as the length allows, and each window ends right."""
    meter = replace(METER, window=minutes * MINUTE)
    world = begin(database, tmp_path, meter)
    backup = back_up(world.database)
    for day in range(3):
        for hour in (0, 5, 23):
            use(world, 24 * day + hour, 24 * day + hour + 1)
    cycle(world, 74)
    restore(world.database, backup)
    use(world, 71, 1, "cus_straw")
    world.collect()
    with pytest.raises(LedgerStopped):
        world.deliver()
    [compared] = world.adopt()
    assert compared.taken_over == sum(quantity for _, _, quantity in world.source.uses) - 1
    sent = len(world.like.bookings)
    quiet_down(world)
    assert [event.customer for _, event in world.like.bookings[sent:]] == ["cus_straw"]
    equal(world)


def test_a_day_that_agrees_costs_one_question(world: PinnedWorld) -> None:
    """A customer whose days agree is asked for once, however many windows they have."""
    for hour in range(60):
        use(world, hour, 2)
    cycle(world, 61)
    world.now += HOUR
    world.adoption().stop(world.now)
    world.like.calls = 0
    world.now = START + 72 * HOUR
    world.adopt()
    assert world.like.calls <= 2


def test_held_events_are_planned_again(world: PinnedWorld) -> None:
    """A decrease that waits for a person is withdrawn with the rest, and held again by the next pass."""
    use(world, 0, 5)
    cycle(world, 1)
    use(world, 1, 5)
    backup_before = back_up(world.database)
    cycle(world, 2)
    world.like.most = lambda customer: Decimal(10)
    restore(world.database, backup_before)
    world.source.uses[0] = ("cus_1", START, Decimal(4))
    world.collect()
    assert world.one("select count(*) from aggregator.parked") == 1
    with pytest.raises(LedgerStopped):
        world.deliver()
    world.adopt()
    assert world.one("select count(*) from aggregator.parked") == 0
    quiet_down(world)
    assert world.rows("select delta, state::text from aggregator.event where state = 'held'") == [
        (-1, "held")
    ]
    world.check_balance()
    assert world.booked("cus_1") == 10


def test_a_sink_that_cannot_be_read_back_needs_a_word(database: Database, tmp_path: Path) -> None:
    """Without its own totals nothing proves what arrived: a person says whether the ledger's word is taken."""
    blind = FakeSink("files", replace(LIMITS, proof=None))
    world = PinnedWorld(database, tmp_path / "state", sinks=[blind])
    assert world.identity.check(world.now) is None
    use(world, 0, 5)
    world.at(1, 10)
    world.collect()
    adoption = world.adoption()
    adoption.stop(world.now)
    world.now += 3 * HOUR
    assert adoption.situation(world.now).by_hand == ("files",)
    with adoption.survey(world.now) as survey, pytest.raises(LedgerError, match="files cannot be read back"):
        adoption.adopt(survey, world.now)
    decided = world.adoption(without_readback=["files"])
    with decided.survey(world.now) as survey:
        assert survey.compared == []
        decided.adopt(survey, world.now)
    assert world.deliver().accepted == 1


def unconfigured_meter(name: str, *, known: list[bool]) -> type[StripeLike]:
    """A sink that does not know one customer yet: what it is sent of it waits, and nobody is told how much that is."""

    class Forgetful(StripeLike):
        def breakdown(
            self, meter: str, customer: str, span: Span, step: dt.timedelta
        ) -> Mapping[dt.datetime, Decimal]:
            if customer == name and not known:
                raise CustomerUnknown(f"Nobody is called {name}.")
            return super().breakdown(meter, customer, span, step)

    return Forgetful


def set_back_with_a_stranger(database: Database, directory: Path, known: list[bool]) -> PinnedWorld:
    """A ledger that forgot 10 sent to each of two customers, one of whom the sink does not know; and has 5 due to both."""
    sink = unconfigured_meter("cus_new", known=known)
    lost = PinnedWorld(database, directory / "state", sinks=[sink(lambda: lost.now)])
    assert lost.identity.check(lost.now) is None
    for customer in ("cus_1", "cus_new"):
        use(lost, 0, 5, customer)
    lost.at(1, 10)
    lost.collect()
    backup = back_up(lost.database)
    lost.deliver()
    for customer in ("cus_1", "cus_new"):
        use(lost, 1, 10, customer)
    cycle(lost, 2)
    restore(lost.database, backup)
    with pytest.raises(LedgerStopped):
        lost.deliver()
    lost.now += 3 * HOUR
    return lost


def test_a_customer_that_the_sink_does_not_know_needs_a_word(database: Database, tmp_path: Path) -> None:
    """The survey goes on and names it; without a word nothing is adopted, since what it was sent is not to be found out."""
    world = set_back_with_a_stranger(database, tmp_path, known=[])
    before = everything(world)
    with world.adoption().survey(world.now) as survey:
        assert [(each.customer, each.reason) for each in survey.left] == [
            ("cus_new", "Nobody is called cus_new.")
        ]
        [compared] = survey.compared
        assert (compared.customers, compared.taken_over) == (1, 15)
        with pytest.raises(LedgerError, match=r"cus_new: a sink does not know them.*--leave"):
            world.adoption().adopt(survey, world.now)
        with pytest.raises(LedgerError, match="--leave"):
            world.adoption(leave=["cus_1"]).adopt(survey, world.now)
    assert everything(world) == before


def test_a_customer_that_became_known_is_adopted_like_any_other(database: Database, tmp_path: Path) -> None:
    """Made known at the sink before the adoption, it is billed to the unit."""
    known: list[bool] = []
    world = set_back_with_a_stranger(database, tmp_path, known=known)
    known.append(True)
    world.adopt()
    quiet_down(world)
    equal(world)


def test_a_customer_that_is_left_keeps_its_events(database: Database, tmp_path: Path) -> None:
    """What the ledger has goes out under its old name, which the sink knows; only what it forgot is sent under new ones."""
    world = set_back_with_a_stranger(database, tmp_path, known=[])
    world.like.most = lambda customer: Decimal("Infinity")
    open_events = (
        "select identifier, state::text from aggregator.event where customer = 'cus_new' order by id"
    )
    before = world.rows(open_events)
    assert len(before) == 1, "the one that was due when the backup was made"
    sent = {event.identifier for event in world.sink.received if event.customer == "cus_new"}
    world.adopt(leave=["cus_new"])
    assert world.rows(open_events) == before
    quiet_down(world)
    world.check_balance()
    assert world.booked("cus_1") == 15
    assert world.booked("cus_new") == 25, "5 once, and the forgotten 10 twice, as was said"
    later = [event for _, event in world.like.bookings if event.customer == "cus_new"]
    assert [(event.delta, event.identifier in sent) for event in later] == [
        (5, True),
        (10, True),
        (10, False),
    ]


def test_only_what_cannot_be_read_back_may_be_left_out(world: PinnedWorld) -> None:
    """A sink that can prove what it has is always asked."""
    with pytest.raises(UsageError, match="can be read back"):
        world.adoption(without_readback=["fake"])


def test_a_pass_from_before_commits_nothing(world: PinnedWorld) -> None:
    """A process that held the meter when the ledger was adopted has lost it: it planned under the old names."""
    use(world, 0, 5)
    world.at(1, 10)
    lease = world.hold()
    assert lease is not None
    world.adoption().stop(world.now)
    world.adopt()
    assert world.meters.renew(lease) is False


def test_a_ledger_that_changed_meanwhile_is_not_written(world: PinnedWorld) -> None:
    """Two people adopt at the same time: the second one changes nothing."""
    backup = back_up(world.database)
    use(world, 0, 5)
    cycle(world, 1)
    lose(world, backup)
    world.now += 3 * HOUR
    adoption = world.adoption()
    with adoption.survey(world.now) as survey:
        world.adopt()
        before = everything(world)
        world.identity.stop("again", world.now - 3 * HOUR)
        world.now += 3 * HOUR
        # As if the first one had read the pin before the second one was done.
        stale = adoption.situation(world.now).pinned._replace(generation=0)
        with pytest.raises(LedgerError, match="by somebody else"):
            adoption._adopting.adopt(
                survey.rebased, stale, 9, {}, [], lambda line, comparison: "x", world.now
            )
    assert everything(world) == before


def test_a_sink_that_does_not_answer_changes_nothing(
    world: PinnedWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer that does not come is asked for again a few times; then nothing has changed."""
    backup = back_up(world.database)
    use(world, 0, 5)
    cycle(world, 1)
    lose(world, backup)
    failures = [2]
    breakdown = StripeLike.breakdown

    def failing(self: StripeLike, meter: str, customer: str, span: Span, step: dt.timedelta) -> object:
        if customer == "cus_1" and failures[0]:
            failures[0] -= 1
            raise SinkUnreachable
        return breakdown(self, meter, customer, span, step)

    monkeypatch.setattr(StripeLike, "breakdown", failing)
    before = everything(world)
    failures[0] = 3
    with pytest.raises(SinkUnreachable):
        world.adopt()
    assert everything(world) == before
    failures[0] = 2
    world.adopt()
    quiet_down(world)
    equal(world)


def test_windows_that_the_source_cannot_give_keep_their_difference(world: PinnedWorld) -> None:
    """A window that cannot be read is not asked for; it takes the sink's total over, and ends right once it can be."""
    use(world, 0, 5)
    cycle(world, 1)
    backup = back_up(world.database)
    use(world, 1, 6)
    use(world, 0, 1)
    cycle(world, 2)
    lose(world, backup)
    world.execute(
        "insert into aggregator.unread (meter_id, window_start, reason, since, next_at) values (%s, %s, 'slow', %s, %s)",
        world.registered.id, START, START, START,
    )  # fmt: skip
    world.source.reads.clear()
    world.adopt()
    assert all(START not in span for span in world.source.reads)
    quiet_down(world)
    equal(world)


def use_by_chance(world: PinnedWorld, chance: random.Random, *, whole: bool) -> None:
    """Use something, some of it late."""
    for _ in range(chance.randrange(3)):
        at, quantity = any_use(world.now, chance, whole=whole)
        world.source.use(f"cus_{chance.randrange(3)}", at, quantity)


SEEDS = range(12)


@pytest.mark.parametrize("seed", SEEDS)
def test_whatever_the_restore_point(
    fresh_databases: Callable[[], Database], tmp_path: Path, seed: int
) -> None:
    """Restored at any moment, with requests in the air and answers lost: the sink ends equal, and never holds too much."""
    chance = random.Random(seed)
    whole = seed % 3 > 0
    world = begin(fresh_databases(), tmp_path)
    world.like.fate = lambda event: chance.choice(FATES)
    backups: list[Backup] = []

    def in_the_middle() -> None:
        if chance.random() < 0.2:
            backups.append(back_up(world.database))

    world.like.during_send = in_the_middle
    for _ in range(3):
        backups += [
            back_up(world.database)
            for _ in half_hours(world, chance, 20, partial(use_by_chance, world, chance, whole=whole))
            if chance.random() < 0.3
        ]
        backup = chance.choice(backups)
        restore(world.database, backup)
        if chance.random() < 0.5:
            world = world.again()
            world.like.clock = lambda world=world: world.now  # type: ignore[misc]
        world.like.most = lambda customer, world=world: world.source.totals()[customer]  # type: ignore[misc]
        try:
            for _ in half_hours(world, chance, 8, partial(use_by_chance, world, chance, whole=whole)):
                pass
        except LedgerStopped:
            world.adopt()
            assert world.one("select generation from aggregator.identity") > 0
    quiet_down(world)
    world.now += DAY
    quiet_down(world)
    equal(world)
    if whole:
        windows_equal(world)


def test_what_was_planned_in_shadow_is_no_part_of_an_adoption(database: Database, tmp_path: Path) -> None:
    """A sink lacks what was shadowed: that is not missing there, and is not sent after the adoption either."""
    terms = Terms("fake", bill_from=START, shadow=True)
    shadow = PinnedWorld(database, tmp_path, meter=replace(METER, terms=(terms,)))
    shadow.source.use("cus_a", START, 10)
    shadow.at(1, 5)
    shadow.collect()
    world = PinnedWorld(
        database,
        tmp_path,
        meter=replace(METER, terms=(terms._replace(shadow=False),)),
        source=shadow.source,
        sinks=list(shadow.sinks.values()),
    )
    world.source.use("cus_a", START + HOUR, 3)
    world.source.use("cus_b", START, 2)
    world.at(2, 5)
    world.collect()
    world.deliver()
    world.adoption().stop(world.now)
    shadow.now = world.now + DAY  # by whose clock the sink counts
    [compared] = world.adopt()
    assert (compared.missing, compared.taken_over, compared.windows) == (0, 0, 0)
    world.source.use("cus_a", START + HOUR, 1)
    world.source.use("cus_a", START, 1)
    world.at(30, 5)
    world.collect()
    world.deliver()
    assert (world.booked("cus_a"), world.booked("cus_b")) == (4, 2)
    states = "select window_start, delta from aggregator.event where state = 'shadow' order by id"
    assert world.rows(states) == [(START, 10), (START, 1)]
    world.check_balance()


def test_what_terms_have_shut_out_since_is_adopted_too(database: Database, tmp_path: Path) -> None:
    """An event that is due in a window that the sink no longer bills is withdrawn with the others, and not planned again."""
    world = PinnedWorld(database, tmp_path)
    for hour in range(3):
        world.source.use("cus_a", START + hour * HOUR, 5)
    world.at(3, 5)
    world.collect()
    ended = PinnedWorld(
        database,
        tmp_path,
        meter=replace(METER, terms=(Terms("fake", bill_until=START + HOUR),)),
        source=world.source,
        sinks=list(world.sinks.values()),
    )
    ended.now = world.now
    ended.adoption().stop(ended.now)
    [compared] = ended.adopt()
    assert (compared.missing, compared.withdrawn) == (0, 3)
    ended.at(30, 5)
    ended.collect()
    ended.deliver()
    assert ended.booked("cus_a") == 5, "only what is billed there is planned again"
    ended.check_balance()


def test_a_standby_that_lags_hides_nobody_from_an_adoption(world: PinnedWorld) -> None:
    """Who was sent what it does not show yet would not be asked about, and be billed again: nothing is adopted so."""
    cycle(world, 1)
    backup = back_up(world.database)
    use(world, 1, 5, "cus_2")
    cycle(world, 2)
    lose(world, backup)
    fence = Fence(world.now, 5, 5, None, True, standby=True, fresh_until=START + HOUR, holder=None)
    world.source.transactions = fence
    with pytest.raises(SourceError, match=r"the standby has not shown .* try again once"):
        world.adopt()
    assert world.one("select stopped_at is not null from aggregator.identity")
    world.source.transactions = fence._replace(fresh_until=START + DAY)
    world.adopt()
    quiet_down(world)
    assert world.like.booked[METER.name, "cus_2"] == 5
