"""Sinks that take events without a word on each: what they took is read back by itself, stretch by stretch."""

import datetime as dt
from collections.abc import Callable, Iterator
from dataclasses import replace
from decimal import Decimal
from itertools import pairwise
from typing import Any

import pytest

from aggregator.core.model import (
    Answer,
    Bulk,
    Event,
    Span,
    WriteModel,
)
from aggregator.ledger.database import Database
from aggregator.ledger.review.in_doubt import InDoubt
from aggregator.ledger.review.unacknowledged import SENT_SILENTLY
from aggregator.reconciliation.reconciler import Reconciled, Reconciler
from tests.fakes import LIMITS, FakeSink
from tests.postgres.world import HOUR, METER, START, World

PROOF = LIMITS.proof or HOUR


class Silent(FakeSink):
    """Says of whatever it is given that it took it, and drops what it finds invalid without a word."""

    def __init__(self, **limits: object) -> None:
        super().__init__(limits=replace(LIMITS, answers=False, **limits))  # type: ignore[arg-type]
        self.drops: Callable[[Event], bool] = lambda event: False
        self.asked: list[tuple[str, Span]] = []

    def total(self, meter: str, customer: str, span: Span) -> Decimal:
        """Return what counts in a span; where events replace each other, the newest one of each window."""
        self.asked.append((customer, span))
        counts = [
            event
            for event in self.identifiers.values()
            if event.customer == customer and event.at in span and not self.drops(event)
        ]
        if self.limits.write_model is WriteModel.OVERWRITE:
            return sum({event.window_start: event.total for event in counts}.values(), Decimal(0))
        return sum((event.delta for event in counts), Decimal(0))


def build(database: Database, sink: Silent, customers: int = 3) -> World:
    """Return a world in which some customers' first hour was sent at once."""
    world = World(database, meter=METER, sinks=[sink])
    for number in range(customers):
        world.source.use(f"cus_{number}", START, number + 1)
    world.at(1, 5)
    world.collect()
    assert world.deliver().accepted == customers
    return world


def reconcile(world: World) -> Reconciled:
    """Read the sink back once."""
    return Reconciler(InDoubt(world.database), world.sink, world.registered.feeds[0].sink_id).run_once(
        world.now
    )


def states(world: World) -> dict[str, str]:
    """How the newest event of each customer stands."""
    newest = (
        "select distinct on (customer) customer, state::text from aggregator.event order by customer, id desc"
    )
    return dict(world.rows(newest))


def spans(world: World) -> list[tuple[dt.datetime, dt.datetime]]:
    """The stretches that were asked for, in order."""
    asked = "select lower(span), upper(span) from aggregator.readback where unacknowledged order by id"
    return [(start, end) for start, end in world.rows(asked)]


def test_what_is_in_the_totals_is_confirmed(database: Database) -> None:
    """Accepted until the sink's own figures show it, and not before they must."""
    sink = Silent()
    world = build(database, sink)
    world.now += PROOF - HOUR
    assert reconcile(world) == Reconciled()
    assert set(states(world).values()) == {"accepted"}
    assert sink.asked == []
    world.now += 2 * HOUR
    done = reconcile(world)
    assert (done.confirmed, done.rejected) == (3, 0)
    assert set(states(world).values()) == {"confirmed"}
    assert len(sink.asked) == 3, "an hour of a customer is one question"


def test_what_is_missing_is_refused_and_planned_anew(database: Database) -> None:
    """Nobody said that it was invalid; the figures do."""
    sink = Silent()
    world = build(database, sink)
    sink.drops = lambda event: event.customer == "cus_1" and event.revision == 0
    world.now += PROOF + HOUR
    done = reconcile(world)
    assert (done.confirmed, done.rejected) == (2, 1)
    assert states(world) == {"cus_0": "confirmed", "cus_1": "refused", "cus_2": "confirmed"}
    ((event, reason),) = world.rows("select id, reason from aggregator.event where state = 'refused'")
    assert "not in the sink's own totals" in reason
    assert world.outbox.release([event], world.now) == [event]
    world.collect()
    assert world.deliver().accepted == 1
    assert states(world)["cus_1"] == "accepted"
    assert sink.total("api_requests", "cus_1", Span(START, START + HOUR)) == 2


def test_a_sink_with_answers_is_not_read_back(database: Database) -> None:
    """It said of each event what became of it."""
    sink = Silent()
    sink.limits = LIMITS
    world = build(database, sink)
    world.now += 3 * PROOF
    assert reconcile(world) == Reconciled()
    assert spans(world) == []


def test_what_was_sent_silently_is_read_back_by_a_sink_that_answers_now(database: Database) -> None:
    """The way was changed within the day: what went before is confirmed or refused all the same, and nothing else is."""
    sink = Silent(transport="stream", silent_way="stream")
    world = build(database, sink)
    sink.drops = lambda event: event.customer == "cus_1" and event.revision == 0
    sink.limits = replace(sink.limits, answers=True, transport="v1")
    world.source.use("cus_3", START + HOUR, 7)
    world.at(2, 5)
    world.collect()
    world.deliver()
    reading = Reconciler(InDoubt(database), sink, world.registered.feeds[0].sink_id)
    assert reading.run_once(world.now).rejected == 0
    assert sink.asked == [], "too early to prove anything"
    for _ in range(6):
        world.now += 6 * HOUR
        reading.run_once(world.now)
    assert states(world) == {
        "cus_0": "confirmed",
        "cus_1": "refused",
        "cus_2": "confirmed",
        "cus_3": "accepted",
    }
    assert spans(world) == [(START + HOUR, START + 2 * HOUR)]
    reconcile(world)
    assert len(spans(world)) == 1, "once, whoever looks"


def test_what_never_went_silently_is_not_looked_through(database: Database) -> None:
    """Claims are known by their first and last events: a million that went another way are not looked up one by one."""
    sink = Silent(transport="v1", silent_way="stream")
    world = build(database, sink, customers=50)
    values = {
        "sink_id": world.registered.feeds[0].sink_id,
        "transport": "stream",
        "earliest": START,
    }
    with database.transaction() as connection:
        for other in ("hashjoin", "mergejoin", "seqscan", "bitmapscan"):
            connection.execute("select set_config(%s, 'off', true)", (f"enable_{other}",))
        explained = connection.execute(f"explain (analyze, format json) {SENT_SILENTLY}", values).fetchone()
    assert explained is not None
    looked_up = [
        node["Actual Loops"]
        for node in nodes(explained[0][0]["Plan"])
        if node.get("Relation Name") == "event_at_rest"
    ]
    assert looked_up
    assert sum(looked_up) <= 2 * world.one("select count(*) from aggregator.claim")


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield a plan's node, and all below it."""
    yield plan
    for each in plan.get("Plans", ()):
        yield from nodes(each)


def test_what_still_goes_the_silent_way_is_read_back_later(database: Database) -> None:
    """Its answer was lost before the way was changed, so it goes again the way it went, and is taken without a word."""
    sink = Silent(transport="stream", silent_way="stream")
    world = World(database, meter=METER, sinks=[sink])
    world.source.use("cus_0", START, 1)
    sink.fault = lambda event: Answer.UNKNOWN
    world.at(1, 5)
    world.collect()
    world.deliver()
    sink.limits = replace(sink.limits, answers=True, transport="v1")
    reading = Reconciler(InDoubt(database), sink, world.registered.feeds[0].sink_id)
    reading.run_once(world.now)
    sink.fault = lambda event: None
    sink.drops = lambda event: True
    world.now += 3 * HOUR
    assert world.deliver().accepted == 1
    for _ in range(12):
        world.now += 6 * HOUR
        reading.run_once(world.now)
    assert states(world) == {"cus_0": "refused"}


def test_every_event_lies_in_one_stretch(database: Database) -> None:
    """Whenever the daemon was up, each is confirmed in the end; no two stretches overlap or are shorter than an hour."""
    sink = Silent()
    world = build(database, sink)
    world.now += PROOF
    for number in range(30):
        world.source.use("cus_0", world.now - 2 * HOUR, 1)
        world.collect()
        world.deliver()
        world.now += HOUR * (1 if number % 3 else 4)
        reconcile(world)
        reconcile(world)
    world.now += PROOF + HOUR
    for _ in range(3):
        reconcile(world)
    assert set(states(world).values()) == {"confirmed"}
    assert world.one("select count(*) from aggregator.event where state <> 'confirmed'") == 0
    found = spans(world)
    assert len(found) > 5
    assert all(end <= start for (_, end), (start, _) in pairwise(found))
    assert all(end - start >= HOUR for start, end in found)


def test_a_stretch_in_which_nothing_was_sent_leaves_no_record(database: Database) -> None:
    """A feed that is idle for a month has one, which moves along."""
    world = build(database, Silent())
    world.now += PROOF + HOUR
    reconcile(world)
    for _ in range(30):
        world.now += 24 * HOUR
        reconcile(world)
    assert len(spans(world)) == 2
    assert spans(world)[-1][1] > world.now - PROOF - 2 * HOUR


def test_two_processes_ask_for_a_stretch_once(database: Database) -> None:
    """Whoever comes second finds it asked for."""
    world = build(database, Silent())
    world.now += PROOF + HOUR
    in_doubt, feed = InDoubt(database), world.registered.feeds[0]
    (waiting,) = in_doubt.uncovered(feed.sink_id, START)
    span = Span(waiting.since, world.now.replace(minute=0) - PROOF)
    assert [in_doubt.ask_readback(waiting.feed, span, world.now) for _ in range(2)] == [True, False]
    assert spans(world) == [span]


def test_what_was_sent_again_waits_for_its_time(database: Database) -> None:
    """The figures must show the last attempt, not the first."""
    sink = Silent()
    world = World(database, meter=METER, sinks=[sink])
    world.source.use("cus_0", START, 1)
    world.at(1, 5)
    world.collect()
    sink.lost_after_booking = lambda event: True
    world.deliver()
    world.now += 6 * HOUR
    sink.lost_after_booking = lambda event: False
    sink.fault = lambda event: Answer.ACCEPTED
    assert world.deliver().accepted == 1
    world.now += PROOF - 4 * HOUR
    assert reconcile(world).confirmed == 0
    world.now += 12 * HOUR
    assert reconcile(world).confirmed == 1
    assert states(world) == {"cus_0": "confirmed"}


@pytest.mark.parametrize(("stretch", "confirmed"), [(HOUR, 3), (24 * HOUR, 3), (None, 0)])
def test_where_the_newest_event_counts(
    database: Database, stretch: dt.timedelta | None, confirmed: int
) -> None:
    """A figure is compared with the newest total of the stretch; where that is not known, nothing is concluded."""
    sink = Silent(write_model=WriteModel.OVERWRITE, newest_of=stretch)
    world = build(database, sink)
    world.source.use("cus_1", START, 5)
    world.collect()
    assert world.deliver().accepted == 1
    world.now += PROOF + HOUR
    done = reconcile(world)
    assert (done.confirmed, done.rejected) == ((confirmed + 1) if confirmed else 0, 0)
    assert {span.end - span.start for _, span in sink.asked} == ({stretch} if stretch else set())


def test_a_newest_total_that_is_missing_is_refused(database: Database) -> None:
    """What stood there before it is what the sink shows."""
    sink = Silent(write_model=WriteModel.OVERWRITE, newest_of=HOUR)
    world = build(database, sink)
    world.source.use("cus_1", START, 5)
    world.collect()
    world.deliver()
    sink.drops = lambda event: event.revision == 1
    world.now += PROOF + HOUR
    done = reconcile(world)
    assert (done.confirmed, done.rejected) == (3, 1)
    assert states(world)["cus_1"] == "refused"


# -- which way ------------------------------------------------------------------------------------


def ways(world: World) -> list[tuple[str, str | None]]:
    """How each customer's event went, as the ledger has it."""
    return [
        (who, transport)
        for who, transport in world.rows("select customer, transport from aggregator.event order by customer")
    ]


def test_many_go_in_bulk_and_few_do_not(database: Database) -> None:
    """Decided per claim, by how many wait, and recorded before anything leaves."""
    sink = Silent(transport="v1", batch=2, bulk=Bulk("stream", above=5, batch=4))
    world = World(database, meter=METER, sinks=[sink])
    for number in range(8):
        world.source.use(f"cus_{number}", START, 1)
    world.at(1, 5)
    world.collect()
    assert world.deliver().accepted == 8
    assert [event.transport for event in sink.received] == ["stream"] * 4 + ["v1"] * 4
    assert [transport for _, transport in ways(world)] == ["stream"] * 4 + ["v1"] * 4


def test_what_may_have_arrived_goes_the_way_it_went(database: Database) -> None:
    """However many wait by then; what was turned away before anything was done is free to go either way."""
    sink = Silent(transport="v1", batch=10, bulk=Bulk("stream", above=1, batch=10))
    world = World(database, meter=METER, sinks=[sink])
    for number in range(2):
        world.source.use(f"cus_{number}", START, 1)
    world.at(1, 5)
    world.collect()
    sink.fault = lambda event: Answer.UNKNOWN if event.customer == "cus_0" else Answer.BUSY
    world.deliver()
    assert [transport for _, transport in ways(world)] == ["stream", "stream"]
    sink.limits = replace(sink.limits, bulk=None)
    sink.fault = lambda event: None
    world.now += HOUR
    world.deliver()
    assert ways(world) == [("cus_0", "stream"), ("cus_1", "v1")]
    assert [event.transport for event in sink.received[2:]] == ["stream", "v1"]
