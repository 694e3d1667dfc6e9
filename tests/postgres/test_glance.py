"""A glance stands for a round that would do nothing; whatever else there is to do is left to the round."""

import datetime as dt
from collections.abc import Callable
from dataclasses import replace

import pytest

from aggregator.collection import glance as glances
from aggregator.collection.glance import Glance
from aggregator.collection.rounds import Collected
from aggregator.core.model import Decreases, Fence, Span, Terms
from aggregator.errors import LedgerStopped, SourceUnreachable
from aggregator.ledger.database import Database
from tests.fakes import FakeSink
from tests.postgres.world import HOUR, METER, MINUTE, START, World

Seconds = list[float]


@pytest.fixture
def world(database: Database) -> World:
    """A daemon that has read the first window, and sent what was used in it."""
    world = World(database)
    world.source.use("cus_a", START, 10)
    world.at(1, 6)
    world.collect()
    world.deliver()
    return world


def look(world: World, *others: World, seconds: Seconds | None = None) -> Collected | None:
    """Let a world have a glance at its meter, and at others with it; it stands for the round of its own."""
    return glance(world, *others, seconds=seconds).unchanged(world.meter.name)


def glance(*worlds: World, seconds: Seconds | None = None) -> Glance:
    return Glance(
        [world.collection for world in worlds],
        worlds[0].source,
        worlds[0].passes,
        present=lambda: worlds[0].now,
        elapsed=lambda: seconds[0] if seconds else 0.0,
    )


def epoch(world: World) -> int:
    return int(world.one("select epoch from aggregator.meter where name = %s", world.meter.name))


def passes(world: World) -> list[tuple[object, ...]]:
    return world.rows("select started_at, changed, rows from aggregator.pass order by id")


def fence(at: dt.datetime, xid: int = 100, proven: dt.datetime | None = None) -> Fence:
    return Fence(
        at=at, xmin=xid, xmax=xid, oldest_start=None, sees_starts=True, standby=proven is not None, fresh_until=proven,
        holder=None, declared=False,
    )  # fmt: skip


def test_nothing_new_takes_no_lease_and_no_round(world: World) -> None:
    """The windows are read again, and nobody is kept from the meter meanwhile."""
    before, read = epoch(world), len(world.source.reads)
    world.at(1, 11)
    found = look(world)
    assert found == Collected("api_requests", START + HOUR, rows=1)
    assert world.source.glimpsed == [("", Span(START, START + HOUR))]
    assert (epoch(world), len(world.source.reads)) == (before, read)


def settled(world: World) -> None:
    """Let the next round find nothing new; a glance is enough from then on."""
    world.collect()
    assert look(world)


def test_a_round_of_another_process_that_found_the_same_changes_nothing(world: World) -> None:
    """Whoever has seen what the last round left needs no round of its own, whosever round that was."""
    others = [world.beside(), world.beside()]
    worlds = (world, *others)
    for each in worlds:
        each.at(1, 11)
        each.collect()
    before = epoch(world)
    for minute in (16, 21):
        for each in worlds:
            each.at(1, minute)
            assert look(each) == Collected("api_requests", START + HOUR, rows=1)
    assert epoch(world) == before


def test_what_another_process_has_billed_is_seen_by_a_round_first(world: World) -> None:
    """Then a glance at it is enough for both again."""
    other = world.beside()
    for each in (world, other):
        each.at(1, 11)
        each.collect()
    world.source.use("cus_a", START + MINUTE, 5)
    assert other.collect().corrections == 1
    assert look(world) is None
    for each in (other, world):
        assert each.collect().changed == 0
    assert look(other)
    assert look(world)


def test_the_turns_that_another_process_took_are_known_by_a_round_first(world: World) -> None:
    """When old windows were last read again in full is part of what a glance goes by."""
    other = world.beside()
    for each in (world, other):
        each.collect()
    world.execute("update aggregator.meter set daily_at = daily_at + interval '1 min'")
    assert look(world) is None
    world.collect()
    assert look(world)


def test_it_is_on_record_when_a_meter_was_looked_at(world: World) -> None:
    """What a pass did stays; what comes after it and finds nothing is one record, of the last time."""
    first = passes(world)
    for minute in (11, 16, 21):
        world.at(1, minute)
        assert look(world)
        assert passes(world) == [*first, (world.now, 0, 1)]


def test_what_came_late_is_left_to_a_round(world: World) -> None:
    """And the round bills it; only after one that found nothing late a glance is enough again."""
    world.source.use("cus_a", START + MINUTE, 5)
    world.at(1, 11)
    assert look(world) is None
    assert world.collect().corrections == 1
    world.deliver()
    assert world.booked("cus_a") == 15
    world.at(1, 16)
    assert look(world) is None, "where something came late, more may come"
    world.collect()
    world.at(1, 21)
    assert look(world)


def a_window_is_ready(world: World) -> None:
    world.at(2, 5)


def another_process_bills_what_is_gone_again(world: World) -> None:
    settled(world)
    world.source.use("cus_a", START + MINUTE, 5)
    assert world.beside().collect().changed == 1
    world.source.uses.pop()


def another_process_names_what_is_gone_again(world: World) -> None:
    settled(world)
    world.source.use(None, START + MINUTE, 5)
    assert world.beside().collect().changed == 0
    world.source.uses.pop()


def another_process_is_configured_otherwise(world: World) -> None:
    settled(world)
    other = World(world.database, meter=replace(METER, decreases=Decreases.APPLY), source=world.source)
    other.now = world.now
    other.collect()


def another_process_failed(world: World) -> None:
    settled(world)
    world.source.failure = SourceUnreachable("no route")
    with pytest.raises(SourceUnreachable):
        world.beside().collect()
    world.source.failure = None


def another_process_has_it_no_more(world: World) -> None:
    settled(world)
    assert world.beside().hold()
    world.execute("update aggregator.meter set lease_owner = null, lease_until = null")


def another_process_has_it(world: World) -> None:
    assert world.beside().hold()


def something_is_to_be_read_again(world: World) -> None:
    world.execute("update aggregator.meter set reread_from = start_at")


def all_is_to_be_read_again(world: World) -> None:
    world.execute("update aggregator.meter set hourly_at = null")


def something_is_to_be_said_again(world: World) -> None:
    world.execute(
        "insert into aggregator.reassertion (feed_id, window_start, customer, due_at)"
        " select id, since, 'cus_a', now() from aggregator.feed"
    )


def a_window_shrank(world: World) -> None:
    world.execute(
        "insert into aggregator.guarded (meter_id, window_start, before, now, since)"
        " select id, start_at, 2, 1, now() from aggregator.meter"
    )


def usage_has_moved(world: World) -> None:
    world.execute(
        "insert into aggregator.parked (event_id, feed_id, state, reason, since, moved_with)"
        " select id, feed_id, 'held', 'moved', now(), id from aggregator.event"
    )


@pytest.mark.parametrize(
    "happens",
    [
        a_window_is_ready,
        another_process_bills_what_is_gone_again,
        another_process_names_what_is_gone_again,
        another_process_is_configured_otherwise,
        another_process_failed,
        another_process_has_it_no_more,
        another_process_has_it,
        something_is_to_be_read_again,
        all_is_to_be_read_again,
        something_is_to_be_said_again,
        a_window_shrank,
        usage_has_moved,
    ],
)
@pytest.mark.parametrize("anew", [False, True], ids=["goes_on", "begins"])
def test_whatever_else_there_is_to_do_is_left_to_a_round(
    world: World, happens: Callable[[World], None], anew: bool
) -> None:
    """The ledger says so, or the clock; nothing is noted then, by a process that goes on or by one that begins."""
    world.at(1, 11)
    happens(world)
    before = passes(world)
    assert look(world.beside() if anew else world) is None
    assert passes(world) == before


def test_a_process_that_begins_goes_by_what_the_last_round_left(world: World) -> None:
    """Though it has read nothing itself: what it reads comes to the same digest. Afterwards it goes on like any other."""
    before = epoch(world)
    for minute in (11, 16):
        other = world.beside()
        other.at(1, minute)
        assert look(other) == Collected("api_requests", START + HOUR, rows=1)
        other.at(1, minute + 1)
        assert look(other)
    assert epoch(world) == before
    assert not other.source.reads[1:], "no round has read anything since the first"


def test_what_came_late_is_seen_by_a_process_that_begins(world: World) -> None:
    """A use that no round has read makes another digest, and so does one that is gone."""
    world.source.use("cus_a", START + MINUTE, 5)
    assert look(world.beside()) is None
    used = world.source.uses[:]
    world.source.uses.clear()
    assert look(world.beside()) is None
    world.source.uses += used
    assert world.beside().collect().corrections == 1


def test_it_makes_no_difference_from_where_the_mark_came(world: World) -> None:
    """What a round read behind the two hours is no part of what the next one reads, nor how far its feeds were before."""
    for hour in (2, 3, 4, 5):
        world.source.use("cus_a", START + (hour - 1) * HOUR, hour)
        world.at(hour, 6)
        world.collect()
        other = world.beside()
        other.at(hour, 11)
        assert look(other) == Collected("api_requests", START + hour * HOUR, rows=min(hour, 2))


def test_a_process_that_begins_says_of_a_silent_meter_that_it_is_silent(world: World) -> None:
    """Each round says so, and whoever runs once is to hear of it."""
    world.execute("update aggregator.meter set silent_since = mark")
    found = look(world.beside())
    assert found
    assert found.silent_since == START + HOUR
    assert found.needs_person
    world.execute("update aggregator.meter set silent_since = null")
    world.execute(
        "insert into aggregator.silent_customer (meter_id, customer, since, usual) select id, 'cus_a', mark, 1"
        " from aggregator.meter"
    )
    found = look(world.beside())
    assert found
    assert found.silent_customers == 1
    assert found.needs_person
    world.execute("delete from aggregator.silent_customer")
    found = look(world.beside())
    assert found
    assert not found.needs_person


def test_what_took_the_source_long_is_not_tried_by_a_process_that_begins(world: World) -> None:
    """How long a reading took of late is on record."""
    world.execute("update aggregator.reading_cost set seconds = readings * 2")
    assert look(world.beside()) is None
    assert not world.source.glimpses


def test_a_feed_that_was_reread_from_its_beginning_is_the_same_to_all(world: World) -> None:
    """Two sinks, one of which ends with the mark: how far each is follows from the mark and its terms."""
    meter = replace(METER, name="two_sinks", terms=(Terms("first"), Terms("second", bill_until=START + HOUR)))
    two = World(
        world.database, meter=meter, source=world.source, sinks=[FakeSink("first"), FakeSink("second")]
    )
    for hour in (1, 2):
        two.at(hour, 6)
        two.collect()
        assert look(two.beside(), seconds=None)


def test_old_windows_are_read_again_by_a_round_when_their_turn_comes(world: World) -> None:
    """Glances do not put off the hourly turn."""
    world = World(world.database, meter=replace(METER, name="daily", window=24 * HOUR))
    world.at(24, 5)
    world.collect()
    world.at(25, 4)
    assert look(world)
    world.at(25, 5)
    assert look(world) is None


def test_a_window_that_ended_is_fenced_by_a_round(world: World) -> None:
    """A glance notes nothing of the source's transactions: what began before the window's end is to be waited for."""
    world.collection.patience = HOUR
    world.source.transactions = fence(world.at(1, 11))
    world.collect()
    world.source.transactions = fence(world.at(1, 59))
    assert look(world)
    world.source.transactions = fence(world.at(2, 1))
    assert look(world) is None


def test_a_snapshot_that_shows_less_than_before_proves_nothing(world: World) -> None:
    """Behind one address there may be several standbys; a glance at one of them is on record for the others."""
    world.source.transactions = fence(world.at(1, 11), proven=START + HOUR + 10 * MINUTE)
    world.collect()
    world.source.transactions = fence(world.at(1, 12), proven=START + HOUR + 9 * MINUTE)
    assert look(world) is None
    world.source.transactions = fence(world.at(1, 13), proven=START + HOUR + 12 * MINUTE)
    assert look(world)
    assert world.one("select seen_until from aggregator.meter") == START + HOUR + 12 * MINUTE


def beside(world: World, count: int) -> list[World]:
    """Return other meters of the same source, which have read their first window."""
    others = [
        World(world.database, meter=replace(METER, name=f"meter_{number}"), source=world.source)
        for number in range(count)
    ]
    for each in others:
        each.at(1, 6)
        each.collect()
    return others


def test_many_meters_are_looked_at_in_one_snapshot(world: World) -> None:
    """Each stands for its own round, once."""
    others = beside(world, 3)
    world.at(1, 11)
    found = glance(world, *others)
    names = [each.meter.name for each in (world, *others)]
    assert [found.unchanged(name) for name in names] == [
        Collected(name, START + HOUR, rows=1) for name in names
    ]
    assert (world.source.glimpses, len(world.source.glimpsed)) == (1, 4)
    assert found.unchanged(names[0])
    assert world.source.glimpses == 2, "what was found counts once"


def test_one_query_that_fails_spoils_nobody_else_s_glance(world: World, database: Database) -> None:
    """Its own round says what is wrong; whoever comes after it is looked at in another snapshot."""
    broken = World(database, meter=replace(METER, name="broken", query="broken"), source=world.source)
    after = World(database, meter=replace(METER, name="after"), source=world.source)
    for each in (broken, after):
        each.at(1, 6)
        each.collect()
    world.at(1, 11)
    world.source.failing.add("broken")
    found = glance(world, broken, after)
    assert found.unchanged("api_requests")
    assert found.unchanged("broken") is None
    assert found.unchanged("after")


def test_what_takes_the_source_long_is_left_to_its_rounds(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others do not wait for it again before an hour is over."""
    seconds = [0.0]
    found, real = glance(world, seconds=seconds), glances._unchanged  # fmt: skip

    def slow(*values: object) -> object:
        seconds[0] += 2 * glances.QUICK_SECONDS
        return real(*values)  # type: ignore[arg-type]

    monkeypatch.setattr(glances, "_unchanged", slow)
    world.at(1, 11)
    assert found.unchanged("api_requests")
    assert found.unchanged("api_requests") is None
    seconds[0] += glances.SLOW_FOR_SECONDS
    assert found.unchanged("api_requests")


def test_a_glance_comes_to_an_end(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever is not reached in time is looked at by the next one, and none is passed over."""
    seconds = [0.0]
    others = beside(world, 2)
    world.at(1, 11)
    found = glance(world, *others, seconds=seconds)
    fence = world.source.fence

    def late() -> Fence | None:
        seconds[0] += 1.5 * glances.LONGEST_SECONDS
        return fence()

    monkeypatch.setattr(world.source, "fence", late)
    assert found.unchanged("api_requests") is None, "the source took all the time there is"
    monkeypatch.undo()
    assert found.unchanged("meter_0")
    assert found.unchanged("meter_1")


def test_a_source_that_cannot_be_read_is_left_to_the_rounds(world: World) -> None:
    """They say why, each of its own meter."""
    world.source.failure = SourceUnreachable("no route")
    world.at(1, 11)
    assert look(world) is None


def test_a_ledger_that_is_stopped_is_not_written(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its rounds say that it is stopped."""
    before = passes(world)

    class Stopped:
        def stopped(self, _: object) -> str:
            return "it was wound back"

    monkeypatch.setattr(world.passes, "_identity", Stopped())
    world.at(1, 11)
    assert look(world) is None
    assert passes(world) == before
    with pytest.raises(LedgerStopped):
        world.collect()


def test_a_query_that_does_not_return_window_is_read_by_rounds(database: Database) -> None:
    """Its old windows are read by turns."""
    world = World(database)
    world.source.returns_window = False
    world.at(1, 6)
    world.collect()
    world.at(1, 11)
    assert look(world) is None
    assert not world.source.glimpses
