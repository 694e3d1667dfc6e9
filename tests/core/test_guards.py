"""Guards against too much, as decisions: what is held, what goes, and what is not asked about again."""

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.core.guards import beyond
from aggregator.core.model import (
    ZERO,
    Decreases,
    Guard,
    Guards,
    State,
    Swollen,
    Tail,
    Together,
    WriteModel,
)
from aggregator.core.planner import Policy, plan
from tests.core.usage import LIMITS, POLICY, changes, instant

MOST = replace(POLICY, guards=Guards(max_per_customer_window=Decimal(100)))
BOTH = replace(POLICY, guards=replace(MOST.guards, max_total_change=Decimal(3)))
CHANGE = replace(POLICY, guards=Guards(max_change=Decimal(10), unusual_from=Decimal(50)))
NEW = "customer | window | now \n"
KNOWN = "customer | window | before | now | billed | revisions | first at | waits \n"


def held_by(text: str, policy: Policy = MOST, **more: Any) -> list[Guard | None]:
    """Return by which guard each changed slot of a table is held; `more` is known of all of them."""
    found = [change._replace(**more) for change in changes(text)]
    decided = list(plan(found, policy))
    events = [each.event for each in decided if each.event is not None]
    assert all((event.guard is None) == (event.state is not State.HELD) for event in events)
    return [event.guard for event in events]


def test_who_uses_too_much_in_a_window_is_held_and_everybody_else_goes() -> None:
    """The limit itself may be used; the rest of the same customer's windows go, too."""
    found = held_by(NEW + "acme | 10:00 | 101 \n acme | 11:00 | 100 \n bolt | 10:00 | 7")
    assert found == [Guard.CUSTOMER, None, None]


def test_a_decrease_is_never_held_by_a_limit() -> None:
    """What lowers a bill is a matter of `decreases`, however much is left."""
    applying = replace(MOST, decreases=Decreases.APPLY)
    assert held_by(KNOWN + "acme | 10:00 | 900 | 800 | 900 | 1 | 10:01 |", applying) == [None]


@pytest.mark.parametrize(
    ("now", "usual", "guard"),
    [
        (101, 10, Guard.CHANGE),
        (100, 10, None),
        (50, 1, None),
        (51, 1, Guard.CHANGE),
        (1_000_000, None, None),
    ],
    ids=["beyond", "at the limit", "little in all", "more than little", "no history"],
)
def test_usage_is_compared_with_what_was_usual(now: int, usual: int | None, guard: Guard | None) -> None:
    """Ten times as much is too much; up to `unusual_from` nothing is, and who has no history has nothing unusual."""
    was = None if usual is None else Decimal(usual)
    assert held_by(NEW + f"acme | 10:00 | {now}", CHANGE, usual=was) == [guard]


def test_a_guard_names_itself_and_its_figures() -> None:
    """A person reads how much it was, what was usual, and which key to look at."""
    [change] = changes(NEW + "acme | 10:00 | 1200.5")
    [decision] = plan([change._replace(usual=Decimal(90))], CHANGE)
    assert decision.event is not None
    assert decision.event.reason == (
        "1200.5 units in one window, and 90 at most at this hour of the past 4 weeks: above `max_change: 10x`"
    )


def test_what_was_let_go_is_not_asked_about_again_for_every_late_row() -> None:
    """Of a window that stands at 250, of which a person knows, another 100 go; what is beyond that is asked about."""
    assert held_by(KNOWN + "acme | 10:00 | 250 | 251 | 250 | 1 | 10:01 |") == [None]
    assert held_by(KNOWN + "acme | 10:00 | 250 | 350 | 250 | 1 | 10:01 |") == [None]
    assert held_by(KNOWN + "acme | 10:00 | 250 | 351 | 250 | 1 | 10:01 |") == [Guard.CUSTOMER]


def test_what_is_held_was_not_let_go() -> None:
    """Of 250, all of which waits, 251 wait as well; of which nothing is too much any more, they go."""
    assert held_by(KNOWN + "acme | 10:00 | 250 | 251 | 250 | 1 | 10:01 | 250") == [Guard.CUSTOMER]
    assert held_by(KNOWN + "acme | 10:00 | 250 | 90 | 250 | 1 | 10:01 | 250") == [None]


def test_what_had_left_before_was_let_go() -> None:
    """What a sink rejected after a person had let it go is planned anew without another word."""
    again = KNOWN + "acme | 10:00 | 250 | 251 | 250 | 1 | 10:01 | 250"
    assert held_by(again, passed=True) == [None]


def test_a_swollen_window_holds_its_increases_alone() -> None:
    """All that it raises waits; who is unusual by himself is said to be so."""
    swollen = {instant("10:00"): Swollen(Decimal(700), Decimal(20))}
    found = held_by(
        NEW + "acme | 10:00 | 7 \n bolt | 10:00 | 101 \n cord | 11:00 | 7", replace(BOTH, swollen=swollen)
    )
    assert found == [Guard.TOTAL, Guard.CUSTOMER, None]
    lowered = held_by(
        KNOWN + "acme | 10:00 | 9 | 8 | 9 | 1 | 10:01 |",
        replace(BOTH, swollen=swollen, decreases=Decreases.APPLY),
    )
    assert lowered == [None]


def test_in_shadow_nothing_is_held_and_it_is_said_that_it_would_be() -> None:
    """Nothing of a shadow is ever sent."""
    [decision] = plan(changes(NEW + "acme | 10:00 | 101"), replace(MOST, shadow=True))
    event = decision.event
    assert event is not None
    assert (event.state, event.guard) == (State.SHADOW, None)
    assert event.reason is not None
    assert event.reason.startswith("would be held: 101 units")


@pytest.mark.parametrize("model", [WriteModel.OVERWRITE, WriteModel.LAST])
def test_of_a_window_that_was_never_said_nothing_is_said_again(model: WriteModel) -> None:
    """A zero in its place would be billed: where the last number counts, as the number of all."""
    policy = replace(MOST, limits=replace(LIMITS, write_model=model))
    [change] = changes(KNOWN + "acme | 10:00 | 250 | 250 | 250 | 1 | 10:01 | 250")
    [decision] = plan([change._replace(again=True, unsaid=True)], policy)
    assert decision.event is not None
    assert (decision.event.state, decision.event.total) == (State.HELD, 250)


def test_a_window_that_was_said_is_said_again_without_what_is_held() -> None:
    """It stood at 40 before 210 more were held: behind an older window 40 is sent again."""
    policy = replace(MOST, limits=replace(LIMITS, write_model=WriteModel.LAST))
    [change] = changes(KNOWN + "acme | 10:00 | 250 | 250 | 250 | 2 | 10:01 | 210")
    [decision] = plan([change._replace(again=True)], policy)
    assert decision.event is not None
    assert (decision.event.state, decision.event.total, decision.voids) == (State.DUE, 40, change.parked)


def test_a_held_window_is_passed_over_when_an_older_one_is_said() -> None:
    """Where the last number counts, newer windows follow an older one; not what nobody was ever told."""
    policy = replace(MOST, limits=replace(LIMITS, write_model=WriteModel.LAST))
    older, newer = changes(
        KNOWN
        + "acme | 09:00 | 5 | 6 | 5 | 1 | 09:00 | \n"
        + "acme | 10:00 | 250 | 250 | 250 | 1 | 10:00 | 250"
    )
    decided = list(plan([older, newer._replace(newer=True, unsaid=True)], policy))
    assert [each.change.window_start for each in decided] == [older.window_start]


amounts = st.decimals(0, 1000, places=1)


@given(now=amounts, limit=st.decimals("0.1", 1000, places=1), passed=amounts)
def test_once_let_go_a_window_is_quiet_until_it_grows_by_the_limit(
    now: Decimal, limit: Decimal, passed: Decimal
) -> None:
    """Nothing up to the limit is too much; what was released is not, nor is that and as much as the limit more."""
    if now <= limit or (passed > limit and now <= passed + limit):
        assert not beyond(now, limit, passed)
    else:
        assert beyond(now, limit, passed)
    assert not beyond(now, limit, now)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 300)), min_size=1, max_size=8))
def test_a_guard_changes_no_number(rows: list[tuple[str, int]]) -> None:
    """Each slot is planned as without guards: the same delta, total and carry; only the state differs."""
    text = NEW + "\n".join(f"{who} | {hour:02}:00 | {much}" for hour, (who, much) in enumerate(sorted(rows)))
    guarded, free = plan(changes(text), MOST), plan(changes(text), POLICY)
    for one, other in zip(guarded, free, strict=True):
        assert one.event is not None
        assert other.event is not None
        assert one.event._replace(state=State.DUE, reason=None, guard=None) == other.event
        assert (one.total, one.carry) == (other.total, other.carry)
        assert (one.event.state is State.HELD) == (one.change.now > 100)


@pytest.mark.parametrize("model", [WriteModel.DELTA, WriteModel.OVERWRITE])
def test_what_replaces_the_proposal_of_a_repair_waits_for_a_person(model: WriteModel) -> None:
    """Whatever `decreases` says, however much shrank, and if the slot is to be said once more; what raises it goes."""
    policy = replace(
        POLICY, decreases=Decreases.APPLY, guarded=True, limits=replace(LIMITS, write_model=model)
    )
    proposed: dict[str, Any] = {"tail": Tail.PROPOSED}
    less = KNOWN + "acme | 10:00 | 4 | 3 | 4 | 3 | 10:01 | -500"
    assert held_by(less, policy, **proposed) == [Guard.REPAIR]
    assert held_by(less, policy, **proposed, again=True) == [Guard.REPAIR]
    assert held_by(KNOWN + "acme | 10:00 | 4 | 600 | 4 | 3 | 10:01 | -500", policy, **proposed) == [None]
    limited = replace(policy, guards=MOST.guards)
    assert held_by(KNOWN + "acme | 10:00 | 4 | 6000 | 4 | 3 | 10:01 | -50", limited, **proposed) == [
        Guard.REPAIR
    ]


def test_of_usage_that_is_kept_apart_all_combinations_count() -> None:
    """One unit of a combination waits if its customer is beyond; a hundred go where that much was let go before."""
    beyond_ = Together(Decimal(101), ZERO)
    assert held_by(NEW + "acme | 10:00 | 1", together=beyond_) == [Guard.CUSTOMER]
    assert held_by(NEW + "acme | 10:00 | 100", together=Together(Decimal(300), Decimal(200))) == [None]
    assert held_by(NEW + "acme | 10:00 | 1", CHANGE, usual=Decimal(10), together=beyond_) == [Guard.CHANGE]
    applying = replace(MOST, decreases=Decreases.APPLY)
    less = KNOWN + "acme | 10:00 | 9 | 8 | 9 | 1 | 10:01 |"
    assert held_by(less, applying, together=beyond_) == [None], "what lowers a bill is no matter of a limit"
