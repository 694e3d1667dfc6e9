"""The table of an event's states holds together, and what decides about events keeps to it."""

from dataclasses import replace
from decimal import Decimal
from itertools import product

import pytest

from aggregator.core.model import Answer, Decreases, Event, EventId, State, Verdict, WriteModel
from aggregator.core.planner import Policy
from aggregator.core.retry import before_sending, judge
from aggregator.core.states import (
    BEGINNINGS,
    BOOKED,
    CANCELLATION_STEPS,
    PARKED,
    PLANNED,
    STEPS,
    UNDER_WAY,
    CancellationState,
    following,
    is_settled,
    may_follow,
    may_go_on,
)
from tests.core.usage import HOUR, LIMITS, POLICY, TODAY, TOMORROW, decided

GIVEN = """
customer | window | before | now    | revisions | billed
acme     | 10:00  | 0      | 5      | 0         | 0
bolt     | 10:00  | 9      | 5      | 1         | 9
"""


def test_each_step_stands_once() -> None:
    """No two steps are the same, none stays where it is, and each says what causes it."""
    assert len({(step.old, step.new) for step in STEPS}) == len(STEPS)
    assert [step for step in STEPS if step.old is step.new or not step.cause] == []


def test_each_state_is_reached() -> None:
    """From the beginnings, every state is reached."""
    reached = set(BEGINNINGS)
    while more := {step.new for step in STEPS if step.old in reached} - reached:
        reached |= more
    assert reached == set(State)


def test_what_nobody_is_to_see_stays_so() -> None:
    """No step leads to shadow, and none from it or from void; what the sink has is never due again."""
    assert [step for step in STEPS if State.SHADOW in step[:2] or step.old is State.VOID] == []
    assert all(following(state) <= BOOKED | {State.REFUSED} for state in BOOKED)


def test_only_what_was_never_tried_may_wait_for_another_customer() -> None:
    """The one step with a condition."""
    assert [(step.old, step.new) for step in STEPS if step.untried] == [(State.DUE, State.HELD)]
    assert may_follow(State.DUE, State.HELD, untried=True)
    assert not may_follow(State.DUE, State.HELD)


def test_every_event_is_somewhere() -> None:
    """What is neither under way, parked nor booked is an end; nothing is in two of them."""
    ends = {state for state in State if not following(state)}
    assert sorted([*UNDER_WAY, *PARKED, *BOOKED, *ends]) == sorted(State)


@pytest.mark.parametrize(
    ("policy", "begins"),
    [
        (POLICY, {State.DUE, State.HELD}),
        (replace(POLICY, decreases=Decreases.APPLY), {State.DUE}),
        (replace(POLICY, limits=replace(LIMITS, past=HOUR)), {State.REFUSED}),
        (replace(POLICY, limits=replace(LIMITS, negatives=False)), {State.DUE, State.REFUSED}),
        (replace(POLICY, shadow=True), {State.SHADOW}),
    ],
)
def test_the_planner_begins_events_by_the_table(policy: Policy, begins: set[State]) -> None:
    """More usage and less of it, under policies by which that is sent, held, refused or planned in shadow."""
    found = {decision.event.state for decision in decided(GIVEN, policy) if decision.event is not None}
    assert (found, found <= PLANNED) == (begins, True)


def test_attempts_end_by_the_table() -> None:
    """Whatever a sink says, and however an attempt is judged before it, is a step from `sending`; each of them occurs."""
    found = set()
    models, exposures, tries = list(WriteModel), (None, TOMORROW - HOUR, TODAY), (1, 2)
    for model, exposed_at, attempts, age in product(models, exposures, tries, (HOUR, LIMITS.past + HOUR)):
        one = Decimal(1)
        at = TOMORROW - age
        event = Event(EventId(1), "m", "acme", at, 0, one, one, at, "agg_1", attempts, exposed_at)
        found |= {
            judge(Verdict(event.id, answer), event, TOMORROW, TOMORROW, model).state for answer in Answer
        }
        before = before_sending(event, TOMORROW, replace(LIMITS, write_model=model))
        found |= set() if before is None else {before.state}
    assert found == following(State.SENDING)


@pytest.mark.parametrize("state", list(CancellationState))
def test_what_is_settled_stays_settled(state: CancellationState) -> None:
    """A cancellation may be put off where it stands until it is settled; every state has its line in the table."""
    assert may_go_on(state, state) != is_settled(state)
    assert set(CancellationState) == set(CANCELLATION_STEPS)
    assert {new for new in CancellationState if may_go_on(state, new)} - {state} == set(
        CANCELLATION_STEPS[state]
    )
