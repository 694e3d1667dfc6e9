"""The ledger lets an event go the steps of the table, and no others."""

from contextlib import suppress
from itertools import product

import pytest

from aggregator.core.model import State
from aggregator.core.states import UNDER_WAY, CancellationState, is_settled, may_follow
from aggregator.errors import InvariantBroken
from aggregator.ledger.at_rest import to_outbox, to_rest
from tests.postgres.world import START, World

TRIED = {"untried": (0, None), "attempted": (1, None), "exposed": (0, START), "both": (1, START)}
"""Attempts and first exposure of an event."""

SAID = "slot_id, pass_id, feed_id, window_start, at, planned_at, customer, identifier, delta, total"
BEGIN = {
    True: f"""
        insert into aggregator.outbox (event_id, {SAID}, sink_id, due_at, revision, attempts, exposed_at, claim_id)
        select nextval('aggregator.event_id'), {SAID}, 1, at, %(revision)s, %(attempts)s, %(exposed_at)s,
               case %(old)s when 'sending' then 1 end
          from aggregator.event where revision = 0
    """,
    False: f"""
        insert into aggregator.event_at_rest (id, {SAID}, revision, attempts, exposed_at, state)
        select nextval('aggregator.event_id'), {SAID}, %(revision)s, nullif(%(attempts)s, 1), %(exposed_at)s, %(old)s
          from aggregator.event where revision = 0
    """,
}
"""How an event comes to be in a state, by whether the outbox has it."""

THIS = "where revision = %(revision)s"
GONE = f"with gone as (delete from aggregator.outbox {THIS} returning *)"
TAKEN = f"with taken as (delete from aggregator.event_at_rest {THIS} returning *)"
AS_SENT = (
    to_outbox("taken", sink="1", due_at="now()", reason="null")
    .replace("(event_id", "(claim_id, event_id")
    .replace("select ", "select case %(new)s when 'sending' then 1 end, ")
)
STEP = {
    (True, True): f"update aggregator.outbox set claim_id = case %(new)s when 'sending' then 1 end {THIS}",
    (True, False): f"{GONE} {to_rest('gone', state='%(new)s', reason='null', settled_at='null')} from gone",
    (False, True): f"{TAKEN} {AS_SENT} from taken",
    (False, False): f"update aggregator.event_at_rest set state = %(new)s {THIS}",
}
"""How it leaves that state for another one."""


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
        values = {
            "revision": revision,
            "old": old,
            "new": new,
            "attempts": attempts,
            "exposed_at": exposed_at,
        }
        with world.database.transaction() as connection:
            connection.execute(BEGIN[old in UNDER_WAY], values)
        with suppress(InvariantBroken), world.database.transaction() as connection:
            connection.execute(STEP[old in UNDER_WAY, new in UNDER_WAY], values)
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
    world.deliver()
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
