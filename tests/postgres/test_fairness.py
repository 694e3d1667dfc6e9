"""Whose events leave first, and whose do not leave at all: turns of meters, backfills, and meters that were removed."""

import datetime as dt
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from aggregator.core.model import Answer, Event, Span, Verdict
from aggregator.daemon.daemon import EVER
from aggregator.delivery.sender import Delivered, Sender, drain
from aggregator.ledger.at_rest import to_rest
from aggregator.ledger.database import Database
from aggregator.ledger.outbox.turns import LEAST_SHARE, NEWEST_EVERY, PICK, PICK_NEWEST
from aggregator.ledger.reports import Reports
from aggregator.ledger.review.decisions import Decider, Decisions, Verb
from tests.fakes import FakeSink
from tests.postgres.world import HOUR, START, World

MANY = 50_000


def add_feeds(world: World, count: int) -> list[int]:
    """Let the sink have so many feeds in all, of as many meters; return them."""
    sink_id = world.registered.feeds[0].sink_id
    for number in range(1, count):
        world.execute(
            """
            with meter as (
                insert into aggregator.meter (name, fingerprint, window_seconds, start_at, mark)
                values (%s, 'f', 3600, %s, %s) returning id
            )
            insert into aggregator.feed (meter_id, sink_id, since, read_until, cleared_at)
            select id, %s, %s, %s, now() from meter
            """,
            f"meter_{number}",
            START,
            START,
            sink_id,
            START,
            START,
        )
    return [row[0] for row in world.rows("select id from aggregator.feed order by id")]


def owe(world: World, feed: int, events: range, *, backfill: bool = False) -> None:
    """Put events of a feed into the outbox, as a pass would."""
    world.execute(
        """
        insert into aggregator.outbox (event_id, slot_id, pass_id, sink_id, feed_id, revision, window_start, at, planned_at,
                                       due_at, backfill, customer, identifier, delta, total)
        select n, n, 1, %s, %s, 0, %s, %s, %s, %s, %s, 'cus_' || n, 'agg_' || n, 2, 2
          from generate_series(%s::int, %s::int) as n
        """,
        world.registered.feeds[0].sink_id, feed, START, START, START, START, backfill, events.start, events.stop - 1,
    )  # fmt: skip
    world.execute("analyze aggregator.outbox")


def claimed(world: World, limit: int, feeds: Sequence[int] | None = None) -> list[int]:
    """Claim, and return the events."""
    claim = world.outbox.claim(world.registered.feeds[0].sink_id, limit, world.now, "", feeds)
    return [] if claim is None else [event.id for event in claim.events]


def test_meters_take_turns(world: World) -> None:
    """A meter with few events does not wait behind another's many; of each the oldest go first, and a batch is filled."""
    first, second, third = add_feeds(world, 3)
    owe(world, first, range(1, 1001))
    owe(world, second, range(1001, 1041))
    owe(world, third, range(1041, 1046))
    assert len(claimed(world, 30)) == 30
    taken = world.rows(
        "select feed_id, count(*)::int from aggregator.outbox where claim_id is not null group by 1 order by 1"
    )
    assert dict(taken) == {first: 15, second: 10, third: 5}
    assert len(claimed(world, 300)) == 300
    assert claimed(world, 5_000)[-1] == 1000


def test_what_is_new_goes_before_a_backfill(world: World) -> None:
    """Of whichever meter; what a batch still has room for is filled from the backfill."""
    first, second = add_feeds(world, 2)
    owe(world, first, range(1, 501), backfill=True)
    owe(world, first, range(501, 511))
    owe(world, second, range(511, 521))
    assert claimed(world, 15) == [*range(501, 509), *range(511, 518)]
    assert claimed(world, 10) == [*range(1, 6), *range(509, 511), *range(518, 521)]
    assert claimed(world, 10) == [*range(6, 16)]
    owe(world, first, range(521, 523))
    owe(world, second, range(523, 543))
    assert claimed(world, 10) == [521, 522, *range(535, 543)], (
        "what one leaves is for what is new of the other"
    )


def test_the_newest_do_not_wait_until_a_backlog_has_left(world: World) -> None:
    """Of each four claims one takes the newest; what is planned meanwhile leaves with the next such claim."""
    [feed] = add_feeds(world, 1)
    owe(world, feed, range(1, 1001))
    assert [claimed(world, 10)[0] for _ in range(NEWEST_EVERY)] == [1, 11, 21, 991]
    owe(world, feed, range(1001, 1006))
    assert [claimed(world, 10)[0] for _ in range(NEWEST_EVERY - 1)] == [31, 41, 51]
    assert claimed(world, 10) == [*range(986, 991), *range(1001, 1006)]


def test_a_feed_that_keeps_an_order_begins_with_the_oldest_each_time(world: World) -> None:
    """And so does whatever goes to the same sink."""
    [feed] = add_feeds(world, 1)
    owe(world, feed, range(1, 1001))
    world.execute("update aggregator.feed set ordered = true")
    assert [claimed(world, 10)[0] for _ in range(NEWEST_EVERY)] == [1, 11, 21, 31]


def test_a_backfill_says_that_it_is_one(world: World) -> None:
    """What a range planned goes out behind what is new; what a revisit corrects is new."""
    world.source.use("cus_a", START, 1)
    world.at(30, 6)
    world.collect()
    world.source.use("cus_a", START + HOUR, 1)
    world.backfill(Span(START, START + 2 * HOUR))
    assert world.rows("select backfill from aggregator.outbox order by event_id") == [(False,), (True,)]


def test_few_events_among_feeds_each_have_their_turn(world: World) -> None:
    """A sink that takes one event at a time takes it of another meter each time."""
    feeds = add_feeds(world, 3)
    for number, feed in enumerate(feeds):
        owe(world, feed, range(1 + 10 * number, 11 + 10 * number))
    taken = [(claimed(world, 1)[0] - 1) // 10 for _ in range(6)]
    assert sorted(taken) == [0, 0, 1, 1, 2, 2]


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield a plan and all below it."""
    yield plan
    for child in plan.get("Plans", []):
        yield from nodes(child)


def scanned(world: World, feeds: Sequence[int], limit: int, pick: str = PICK) -> list[dict[str, Any]]:
    """Return how a claim that takes all of its events from these feeds reads the outbox, as Postgres tells it."""
    turns = -(-limit // LEAST_SHARE)
    values = {"feeds": feeds, "now": world.now, "limit": limit, "most": 2 * limit, "turns": turns}
    with world.database.transaction() as connection:
        row = connection.execute(f"explain (analyze, format json) {pick}", values).fetchone()
    assert row is not None
    [explained] = row[0]
    return [
        node
        for node in nodes(explained["Plan"])
        if node.get("Relation Name") == "outbox" and node["Actual Loops"]
    ]


@pytest.mark.parametrize("pick", [PICK, PICK_NEWEST], ids=["oldest", "newest"])
@pytest.mark.parametrize("limit", [100, 5_000])
def test_a_claim_looks_at_what_it_takes(world: World, limit: int, pick: str) -> None:
    """Among very many events that wait, of this meter, of others, and of one that is not configured: it passes over none."""
    feeds = add_feeds(world, 3)
    owe(world, feeds[0], range(1, MANY + 1), backfill=True)
    owe(world, feeds[1], range(MANY + 1, 2 * MANY + 1))
    owe(world, feeds[2], range(2 * MANY + 1, 2 * MANY + 101))
    scans = scanned(world, feeds[1:], limit, pick)
    assert {node["Node Type"] for node in scans} == {"Index Scan"}
    assert {node["Index Name"] for node in scans} == {"outbox_by_feed"}
    assert sum(node["Actual Rows"] * node["Actual Loops"] for node in scans) <= 2 * limit + 10
    assert not any(node.get("Rows Removed by Filter") for node in scans)


def test_of_very_many_meters_some_have_their_turn_with_the_next_claim(world: World) -> None:
    """A small batch is not looked for in as many places; all of them have had the same in the end."""
    feeds = add_feeds(world, 30)
    for number, feed in enumerate(feeds):
        owe(world, feed, range(1 + 100 * number, 101 + 100 * number), backfill=number % 2 == 1)
    limit = 3 * LEAST_SHARE
    assert sum(node["Actual Loops"] for node in scanned(world, feeds, limit)) <= 10
    for _ in range(5):
        assert len(claimed(world, limit)) == limit
    taken = "select feed_id, count(*)::int from aggregator.outbox where claim_id is not null group by 1 order by 1"
    assert dict(world.rows(taken)) == dict.fromkeys(feeds[::2], LEAST_SHARE)
    assert len(claimed(world, 15 * (100 - LEAST_SHARE))) == 15 * (100 - LEAST_SHARE)
    for _ in range(10):
        assert len(claimed(world, limit)) == limit
    assert dict(world.rows(taken)) == {
        **dict.fromkeys(feeds[::2], 100),
        **dict.fromkeys(feeds[1::2], 2 * LEAST_SHARE),
    }


def test_a_batch_is_filled_from_meters_whose_turn_is_later(world: World) -> None:
    """Where those whose turn it is have few events, what is new of all the others goes before a backfill."""
    feeds = add_feeds(world, 30)
    for number, feed in enumerate(feeds):
        owe(world, feed, range(1 + number, 2 + number))
    owe(world, feeds[0], range(101, 201), backfill=True)
    assert claimed(world, 2 * LEAST_SHARE) == [*range(1, 2 * LEAST_SHARE + 1)]
    assert claimed(world, 20) == [*range(2 * LEAST_SHARE + 1, 31), *range(101, 107)]


def test_a_removed_meter_waits_by_name_and_costs_nothing(world: World) -> None:
    """Its events are claimed by nobody, no attempt is recorded, and the ledger says whose they are and how many."""
    known, removed = add_feeds(world, 2)
    owe(world, removed, range(1, 101))
    owe(world, known, range(101, 104))
    sink_id = world.registered.feeds[0].sink_id
    delivery = Sender(world.outbox, world.sink, sink_id, lambda: world.now, feeds=[known])
    assert drain([delivery], lambda: world.now).accepted == 3
    assert world.outbox.waiting(sink_id, [known]) == (None, 0)
    assert not world.outbox.more_due(sink_id, 0, world.now, [known])
    assert world.one("select sum(attempts) from aggregator.event where feed_id = %s", removed) == 0
    assert world.one("select count(*) from aggregator.claim") == 1
    [waits] = Reports(world.database).unconfigured([(world.meter.name, "fake")])
    assert waits[1:6] == ("meter_1", "fake", 100, 200, START)
    assert Reports(world.database).unconfigured([(world.meter.name, "fake"), ("meter_1", "fake")]) == []
    assert world.outbox.give_up([removed], world.now) == (100, 0)
    assert Reports(world.database).unconfigured([(world.meter.name, "fake")]) == []
    assert world.one("select count(*) from aggregator.parked where dismissed_at is null") == 0


def test_what_may_not_leave_yet_does_not_change_the_way_of_the_rest(world: World) -> None:
    """A sink goes another way while very much waits for it; what waits for a person's word is not waiting for the sink."""
    cleared, stopped = add_feeds(world, 2)
    world.execute("update aggregator.feed set cleared_at = null, cleared_until = 102 where id = %s", stopped)
    owe(world, cleared, range(1, 4))
    owe(world, stopped, range(101, 201), backfill=True)
    owe(world, stopped, range(201, 301))
    sink_id = world.registered.feeds[0].sink_id
    assert world.outbox.more_due(sink_id, 4, world.now)
    assert not world.outbox.more_due(sink_id, 5, world.now)
    assert claimed(world, 10) == [1, 2, 3, 101, 102]
    assert not world.outbox.more_due(sink_id, 0, world.now)
    assert world.outbox.more_due(sink_id, 4, EVER, [cleared, stopped])
    world.execute(
        "with gone as (delete from aggregator.outbox where claim_id is not null returning *)"
        + to_rest("gone", state="'refused'", reason="null", settled_at="null")
        + "from gone"
    )
    assert not world.outbox.more_due(sink_id, 0, EVER, [cleared, stopped])


def test_what_may_have_left_is_not_given_up_unseen(world: World) -> None:
    """An event with an attempt of which nobody knows the end is in doubt."""
    [feed] = add_feeds(world, 1)
    owe(world, feed, range(1, 3))
    assert claimed(world, 1) == [1]
    assert world.outbox.give_up([feed], world.now) == (1, 0)
    world.now += dt.timedelta(hours=1)
    assert world.outbox.give_up([feed], world.now, Decider("Ada", "it is gone")) == (0, 1)
    [decision] = Decisions(world.database).latest(9)
    assert (decision.verb, decision.who, decision.reason) == (Verb.GIVE_UP, "Ada", "it is gone")
    assert world.rows("select state::text from aggregator.event order by id") == [("in_doubt",), ("refused",)]


class HandingBack(FakeSink):
    """Lets nothing leave."""

    def send(self, events: Sequence[Event], may_leave: Any) -> Iterator[Verdict]:
        """Hand everything back."""
        yield from (Verdict(event.id, Answer.UNSENT) for event in events)


def test_what_is_handed_back_is_not_claimed_for_ever(database: Database) -> None:
    """A sink that lets nothing leave is asked once by whoever sends until nothing is due."""
    world = World(database, sinks=[HandingBack()])
    owe(world, world.registered.feeds[0].id, range(1, 301))
    rounds: list[Delivered] = []
    delivery = Sender(world.outbox, world.sink, world.registered.feeds[0].sink_id, lambda: world.now)
    assert drain([delivery], lambda: world.now, rounds.append).unsent == rounds[0].claimed
    assert len(rounds) == 1


def test_a_sink_that_takes_nothing_for_a_while_is_left(database: Database) -> None:
    """Its events come due again faster than so many are tried: it would never end."""
    world = World(database)
    world.sink.fault = lambda event: Answer.BUSY
    owe(world, world.registered.feeds[0].id, range(1, 301))
    seconds = iter(range(0, 100_000, 7))
    rounds: list[Delivered] = []

    def later() -> dt.datetime:
        world.now += dt.timedelta(minutes=10)
        return world.now

    delivery = Sender(world.outbox, world.sink, world.registered.feeds[0].sink_id, lambda: world.now)
    drain([delivery], later, rounds.append, lambda: next(seconds))
    assert 1 < len(rounds) < 20


def test_the_estimate_is_by_what_was_sent_lately(world: World) -> None:
    """What waits at a sink, how much of it a backfill planned, and how many events a second it took."""
    [feed] = add_feeds(world, 1)
    owe(world, feed, range(1, 301), backfill=True)
    world.at(1)
    sink_id = world.registered.feeds[0].sink_id
    world.execute(
        "insert into aggregator.claim (sink_id, owner, claimed_at, events, settled_at)"
        " select %s, gen_random_uuid(), %s, array(select generate_series(1, 500)), %s",
        sink_id,
        world.now - dt.timedelta(seconds=60),
        world.now - dt.timedelta(seconds=10),
    )
    [backlog] = Reports(world.database).backlogs(world.now - 10 * dt.timedelta(minutes=1), world.now)
    assert backlog == ("fake", 300, 300, 10.0)
