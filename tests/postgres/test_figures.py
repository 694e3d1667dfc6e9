"""The figures of monitoring are what the ledger holds: held against the rows of events, whatever became of them."""

from decimal import Decimal

import pytest

from aggregator.core.model import Answer, Event
from aggregator.core.sampling import Counters, Resets
from aggregator.errors import SourceUnreachable
from aggregator.ledger.database import Database
from aggregator.ledger.figures import WAITING, Figures, SampleFigures, WithoutIdFigures
from tests.postgres.accounts import Accounts
from tests.postgres.sampled_world import EVERY, SampledWorld
from tests.postgres.world import HOUR, MINUTE, START, World

BY_STATE = "select state::text, count(*), sum(delta) from aggregator.event group by 1"
MANY_EVENTS = """
insert into aggregator.event_at_rest (id, pass_id, feed_id, window_start, at, planned_at, state, customer, identifier, delta)
select n, 1, %(feed)s, %(at)s, %(at)s, %(at)s, 'accepted', 'cus', 'made ' || n, 1
  from generate_series(1000000, 1030000) as n
"""


@pytest.fixture
def figures(database: Database) -> Figures:
    """The figures of the ledger."""
    return Figures(database)


@pytest.fixture
def owing(world: World) -> World:
    """A world that owes ten customers one event each."""
    return owing_world(world)


def owing_world(world: World) -> World:
    for number in range(10):
        world.source.use(f"cus_{number}", START, number + 1)
    world.at(1, 5)
    world.collect()
    return world


def answer(event: Event) -> Answer | None:
    """Refuse two, do not answer three, and be busy for one."""
    number = int(event.customer[-1])
    return {1: Answer.REFUSED, 2: Answer.REFUSED, 7: Answer.BUSY}.get(number) or (
        Answer.UNKNOWN if number in {3, 4, 5} else None
    )


def held_events(world: World) -> None:
    """Lower what two customers have, so that it waits for a person."""
    world.source.uses = [use for use in world.source.uses if use[0] not in {"cus_8", "cus_9"}]
    world.at(2, 5)
    world.collect()


def test_what_waits_is_what_the_events_say(owing: World, figures: Figures) -> None:
    """In each state as many events and units as there are such events, whoever has them."""
    owing.sink.fault = answer
    owing.deliver()
    held_events(owing)
    owing.source.use("cus_0", START + 2 * HOUR, 50)
    owing.at(3, 5)
    owing.collect()
    sink_id = owing.registered.feeds[0].sink_id
    assert owing.outbox.claim(sink_id, 1, owing.now) is not None
    waiting = {its.state: (its.events, its.units) for its in figures.waiting()}
    told = {state: (events, units) for state, events, units in owing.rows(BY_STATE)}
    assert waiting == {state: of for state, of in told.items() if state not in {"accepted", "void"}}
    assert waiting.keys() >= {"due", "sending", "held", "refused"}


def test_what_is_dismissed_does_not_wait(owing: World, figures: Figures) -> None:
    """A person has said that it is well so."""
    owing.sink.fault = lambda _: Answer.REFUSED
    owing.deliver()
    assert [(its.state, its.events) for its in figures.waiting()] == [("refused", 10)]
    owing.execute("update aggregator.parked set dismissed_at = now()")
    assert figures.waiting() == []


def test_what_waits_tells_since_when(owing: World, figures: Figures) -> None:
    """Since when the oldest does, when it was first used, and when the first attempt began that may have arrived."""
    planned = owing.now
    [due] = figures.waiting()
    assert (due.oldest_at, due.first_use_at, due.first_sent_at) == (planned, START, None)
    owing.sink.fault = lambda _: Answer.UNKNOWN
    owing.at(4)
    owing.deliver()
    [again] = figures.waiting()
    assert (again.state, again.oldest_at, again.first_sent_at) == ("due", planned, owing.now)


@pytest.mark.parametrize("sessions", [1, 16])
def test_attempts_are_counted_by_what_became_of_them(ledger_url: str, sessions: int) -> None:
    """Each once, by however many sessions: one that is to be tried again as such, and then as what it came to."""
    with Database(ledger_url, size=sessions) as database:
        world = owing_world(World(database))
        world.sink.fault = answer
        world.deliver()
        figures = Figures(database)
        [first] = figures.progress().feeds
        assert (first.accepted, first.refused, first.in_doubt, first.due) == (4, 2, 0, 4)
        world.sink.fault = lambda _: None
        world.deliver_later()
        assert figures.progress().feeds == [first._replace(accepted=8)]
        assert world.one("select count(*) from aggregator.event where state = 'accepted'") == 8


def test_who_comes_too_late_counts_nothing(owing: World, figures: Figures) -> None:
    """What another process has settled meanwhile is counted once."""
    feed = owing.registered.feeds[0]
    claim = owing.outbox.claim(feed.sink_id, 100, owing.now)
    assert claim is not None
    other = owing.beside()
    other.at(3)
    other.deliver()
    owing.deliver()
    assert [its.accepted for its in figures.progress().feeds] == [10]


def test_passes_are_counted(owing: World, figures: Figures) -> None:
    """Those that came to something and those that failed, though the record keeps the newest of a row of them only."""
    owing.source.failure = SourceUnreachable("away")
    for minute in range(10, 14):
        owing.at(2, minute)
        with pytest.raises(SourceUnreachable):
            owing.collect()
    found = {its.failed: (its.passes, its.rows, its.planned) for its in figures.progress().passes}
    assert found[False][1:] == (10, 10)
    assert found[True] == (4, 0, 0)
    assert owing.one("select count(*) from aggregator.pass where error is not null") == 1
    [meter] = figures.progress().meters
    assert (meter.failing, meter.last_pass_at) == (True, owing.now)


def test_a_halted_sink_is_told(owing: World, figures: Figures) -> None:
    """For as long as it is halted."""
    sink_id = owing.registered.feeds[0].sink_id
    owing.outbox.halt(sink_id, "no such key", owing.now)
    assert [its.halted_at for its in figures.progress().sinks] == [owing.now]
    owing.outbox.resume(sink_id)
    assert [its.halted_at for its in figures.progress().sinks] == [None]


def test_unmapped_usage_is_told(world: World, figures: Figures) -> None:
    """Rows and units, by meter."""
    world.source.use(None, START, 7)
    world.source.use(None, START, Decimal("0.5"))
    world.at(1, 5)
    world.collect()
    assert figures.usage(START, {}, START).unmapped == [("api_requests", "unusable", 2, Decimal("7.5"))]


def test_what_waits_costs_nothing_for_what_does_not(owing: World, figures: Figures) -> None:
    """Of many events that are settled none is looked at, though the server believes that the outbox is as long."""
    with owing.database.transaction() as connection:
        connection.execute(MANY_EVENTS, {"feed": owing.registered.feeds[0].id, "at": START})
        connection.execute(
            "update pg_class set reltuples = 1000000, relpages = 1 where oid = 'aggregator.outbox'::regclass"
        )
        plan = "\n".join(row[0] for row in connection.execute("explain " + WAITING))
    assert "Seq Scan on event_at_rest" not in plan, plan
    assert "Index Scan using event_at_rest_pkey on event_at_rest" in plan, plan


def test_samples_tell_for_how_long_there_was_none(database: Database, figures: Figures) -> None:
    """Of time that is looked at only: a gap that began before counts from there on, and one that goes on does not."""
    world = SampledWorld(database, Counters(Resets.RESTART))
    world.application.set("cus_a", 1)
    for minutes in (0, 10, 50, 60, 130, 140):
        world.pass_by(0, minutes)
    meter, stands = world.meter.name, 2 * EVERY
    for since, missing in ((0, 40 + 70), (30, 20 + 70), (60, 70), (100, 30), (135, 0)):
        [found] = figures.usage(START, {meter: stands}, START + since * MINUTE).samples
        assert found == SampleFigures(meter, START + 140 * MINUTE, missing * MINUTE), since
    for none in ({"another": stands}, {}):
        assert not figures.usage(START, none, START).samples


def test_what_waits_for_an_id_is_told_by_its_oldest_window(database: Database, figures: Figures) -> None:
    """And how much it is; what is unmapped for another reason is not a part of that."""
    world = Accounts(database)
    world.says(("a", "cus_a"))
    for hour, key in enumerate(("a", "b", "c")):
        world.source.use(key, START + hour * HOUR, hour + 1)
    world.source.use(None, START, 9)
    world.at(4)
    world.round()
    found = figures.usage(START, {}, START)
    assert found.without_id == [WithoutIdFigures(world.meter.name, Decimal(5), START + HOUR)]
    name = world.meter.name
    assert found.unmapped == [(name, "unusable", 1, 9), (name, "without_id", 2, 5)]


def test_what_few_meters_have_is_told_of_them_alone(world: World, figures: Figures) -> None:
    """Windows that could not be read, or shrank too much, and a query that gave two numbers, by the definition of now."""
    world.at(1, 5)
    world.collect()
    with world.database.transaction() as connection:
        connection.execute(
            "insert into aggregator.meter (name, fingerprint, window_seconds, start_at, mark) "
            "select 'another', 'theirs', window_seconds, start_at, mark from aggregator.meter"
        )
        connection.execute(
            "insert into aggregator.unread (meter_id, window_start, reason, since, next_at) "
            "select id, start_at + n * interval '1 hour', 'why', start_at, start_at "
            "from aggregator.meter, generate_series(1, 3) as n "
            "where name <> 'another'"
        )
        connection.execute(
            "insert into aggregator.unstable (meter_id, fingerprint, window_start, first, second) "
            "select id, case name when 'another' then 'an older' else fingerprint end, start_at, 1, 2 "
            "from aggregator.meter"
        )
    found = {its.meter: (its.unread, its.guarded, its.unstable) for its in figures.progress().meters}
    assert found == {"another": (0, 0, False), world.meter.name: (3, 0, True)}


def test_lateness_is_told_from_a_day_on(world: World, figures: Figures) -> None:
    """By meter and step, summed over the days."""
    world.at(1, 5)
    world.collect()
    with world.database.transaction() as connection:
        connection.execute(
            "insert into aggregator.lateness (meter_id, day, seconds, slots, quantity) "
            "select id, %(day)s::date - n, step, 10, 1 from aggregator.meter, generate_series(0, 3) as n, "
            "unnest(array[0, 60]) as step",
            {"day": START.date()},
        )
    for hour, slots in ((0, 20), (23, 20), (24, 10), (-1, 30)):
        late = figures.usage(START - 24 * HOUR + hour * HOUR, {}, START).lateness
        assert late == {world.meter.name: {0: slots, 60: slots}}, hour
