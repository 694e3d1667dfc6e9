"""The ledger lets an event go the steps of the table, and no others."""

from contextlib import suppress
from itertools import product

import pytest

from aggregator.core.model import State
from aggregator.core.states import CancellationState, is_settled, may_follow
from aggregator.errors import InvariantBroken
from tests.postgres.world import START, World

TRIED = {"untried": (0, None), "attempted": (1, None), "exposed": (0, START), "both": (1, START)}
"""Attempts and first exposure of an event."""


def test_the_ledger_knows_the_states_of_the_table(world: World) -> None:
    """The type of the column has each state once."""
    known = world.rows("select unnest(enum_range(null::aggregator.event_state))::text")
    assert sorted(state for (state,) in known) == sorted(State)


@pytest.mark.parametrize("tried", TRIED)
def test_an_event_goes_the_steps_of_the_table(world: World, tried: str) -> None:
    """Each pair of states, with and without an attempt on record: the trigger lets pass what the table has."""
    world.source.use("acme", world.at(0, 10), 3)
    world.at(2)
    world.collect()
    attempts, exposed_at = TRIED[tried]
    allowed, passed = set[tuple[State, State]](), set[tuple[State, State]]()
    for revision, (old, new) in enumerate(product(State, State), 1):
        [(event,)] = world.rows(
            """
            insert into aggregator.event
                   (id, slot_id, pass_id, feed_id, revision, window_start, at, planned_at, customer, identifier, delta,
                    total, state, attempts, exposed_at)
            select nextval('aggregator.event_id'), slot_id, pass_id, feed_id, %s, window_start, at, planned_at, customer,
                   identifier, delta, total, %s, %s, %s
              from aggregator.event where revision = 0 returning id
            """,
            revision, old, attempts, exposed_at,
        )  # fmt: skip
        with suppress(InvariantBroken):
            world.execute("update aggregator.event set state = %s where id = %s", new, event)
            passed.add((old, new))
        if may_follow(old, new, untried=tried == "untried"):
            allowed.add((old, new))
    assert passed == allowed


@pytest.mark.parametrize("state", list(CancellationState))
def test_a_cancellation_is_settled_by_the_table(world: World, state: CancellationState) -> None:
    """The ledger takes each state, with the time at which it was settled if, and only if, nothing more comes of it."""
    world.source.use("acme", world.at(0, 10), 3)
    world.at(2)
    world.collect()
    taken = []
    for settled_at in (None, START):
        with suppress(InvariantBroken):
            world.execute(
                "insert into aggregator.cancellation (event_id, sink_id, state, asked_at, next_at, settled_at)"
                " select event.id, feed.sink_id, %s, %s, %s, %s"
                " from aggregator.event join aggregator.feed on feed.id = event.feed_id",
                state, START, START, settled_at,
            )  # fmt: skip
            taken.append(settled_at)
    assert taken == [START if is_settled(state) else None]
