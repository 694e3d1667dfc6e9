"""Mistakes seen in comparable jobs that have no better place: each test names its row."""

import datetime as dt
from dataclasses import replace
from decimal import Decimal

import pytest

from aggregator.core.model import Decreases, Span
from aggregator.errors import SourceUnreachable
from aggregator.ledger.database import Database
from aggregator.ledger.reports import Reports
from tests.postgres.world import HOUR, METER, MINUTE, START, World


@pytest.mark.parametrize("before", [dt.timedelta(microseconds=1), MINUTE, 59 * MINUTE])
def test_usage_on_either_side_of_a_billing_anchor_stays_there(world: World, before: dt.timedelta) -> None:
    """An anchor on a window boundary splits usage: each event lies on the side on which it was used (B9)."""
    anchor = START + 5 * HOUR
    world.source.use("cus_a", anchor - before, 3)
    world.source.use("cus_a", anchor, 4)
    world.at(6, 5)
    world.collect()
    rows = world.rows("select at < %s, delta from aggregator.event order by at", anchor)
    assert rows == [(True, 3), (False, 4)]
    world.source.use("cus_a", anchor - before, 1)
    world.deliver()
    world.collect()
    [(at, delta)] = world.rows("select at, delta from aggregator.event where revision = 1")
    assert (at < anchor, delta) == (True, 1), "so does a correction"


def test_nothing_used_and_nothing_read_are_told_apart(world: World) -> None:
    """An empty window moves the mark and is on record; one that could not be read does not, and says why (B15)."""
    world.at(1, 5)
    world.collect()
    assert world.one("select mark from aggregator.meter") == START + HOUR
    assert world.rows("select rows, error from aggregator.pass") == [(0, None)]
    world.at(2, 5)
    world.source.failure = SourceUnreachable("app is away")
    with pytest.raises(SourceUnreachable):
        world.collect()
    assert world.one("select mark from aggregator.meter") == START + HOUR
    assert world.one("select error from aggregator.pass order by id desc limit 1") == "app is away"


def test_what_is_shown_is_counted_from_the_events_themselves(world: World) -> None:
    """Passes and batches that are repeated, lost or late count nothing twice: no counter is kept beside the rows (B24)."""
    for number in range(3):
        world.source.use(f"cus_{number}", START, 5)
    world.at(1, 5)
    world.sink.lost_after_booking = lambda event: event.attempts < 3
    for _ in range(6):
        world.collect()
        world.deliver()
        world.now += 10 * MINUTE
    span = Span(START, START + HOUR)
    reports = Reports(world.database)
    assert [total.billed for total in reports.totals(METER.name, "fake", span)] == [5, 5, 5]
    assert reports.known_events(METER.name, span) == 3
    [meter_state] = reports.status()
    assert (meter_state.due, meter_state.sending, meter_state.refused) == (0, 0, 0)


def test_a_source_that_changes_its_mind_leaves_a_trace_for_every_change(database: Database) -> None:
    """A query that gives other numbers each time gives corrections, each with the pass that read it (B25)."""
    world = World(database, meter=replace(METER, decreases=Decreases.APPLY, shrink_guard=Decimal(1)))
    said = [10, 12, 11, 15]
    for minutes, quantity in enumerate(said):
        world.source.uses = [("cus_a", START, Decimal(quantity))]
        world.at(1, 5 + minutes)
        world.collect()
        world.deliver()
    rows = world.rows("""
        select event.total, pass.rows, pass.fingerprint from aggregator.event
          join aggregator.pass on pass.id = event.pass_id order by revision
    """)
    assert rows == [(quantity, 1, METER.fingerprint) for quantity in said]
    assert world.booked("cus_a") == 15


def test_the_last_usage_of_a_cancelled_subscription_lies_before_the_cancellation(world: World) -> None:
    """Billed by the time of use and not of sending, it is on the final invoice, if that waits for `delay` (B10).

    The window goes on after the cancellation, and is read at its own time: nothing has to be flushed.
    """
    cancelled_at = START + 17 * MINUTE
    for minute in (3, 9, 16):
        world.source.use("cus_a", START + minute * MINUTE, 2)
    world.source.use("cus_b", START + 40 * MINUTE)
    world.at(1, 5)
    world.collect()
    world.deliver()
    [sent] = [event for event in world.sink.received if event.customer == "cus_a"]
    assert (sent.at < cancelled_at, sent.delta) == (True, 6)
