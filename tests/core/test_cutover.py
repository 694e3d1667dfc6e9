"""Customers who move from one sink to another: which of the two sends a window, and what is in the way of a move."""

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.core.cutover import Crossing, Cutover, Moves, is_shadow, obstacles, why_not_terms
from aggregator.core.feed_terms import FeedCoverage, changed
from aggregator.core.model import Terms

HOUR = dt.timedelta(hours=1)
START = dt.datetime(2026, 11, 1, tzinfo=dt.UTC)
T = dt.datetime(2026, 12, 1, tzinfo=dt.UTC)
OLD = FeedCoverage(START, None, False, None, START)
SHADOW = FeedCoverage(START, None, True, None, START)
CROSSING = Crossing("api_requests", HOUR, T - 3 * HOUR, OLD, SHADOW)
SINKS = ("stripe", "metronome")

instants = st.integers(-5_000, 5_000).map(lambda hours: T + hours * HOUR)


@given(instants, instants)
def test_each_window_is_sent_by_one_of_the_two(start: dt.datetime, at: dt.datetime) -> None:
    """Right up to the boundary: the old one before it, the new one from it on."""
    cutover = Cutover("cus_a", at)
    old = is_shadow(cutover, start, leaves=True, rest_shadowed=False)
    new = is_shadow(cutover, start, leaves=False, rest_shadowed=True)
    assert old != new
    assert old == (start >= at)


@given(instants, instants)
def test_in_a_parallel_run_the_new_one_gets_all_and_the_old_one_ends(
    start: dt.datetime, at: dt.datetime
) -> None:
    """What is sent to both is on one invoice only: the new sink makes none of what lies before."""
    cutover = Cutover("cus_a", at, parallel=True)
    assert is_shadow(cutover, start, leaves=True, rest_shadowed=False) == (start >= at)
    assert not is_shadow(cutover, start, leaves=False, rest_shadowed=False)


def test_who_does_not_move_is_billed_as_before() -> None:
    """By the terms of the feed."""
    assert not is_shadow(None, T, leaves=True, rest_shadowed=False)
    assert is_shadow(None, T, leaves=False, rest_shadowed=True)


CASES = [
    (T, CROSSING, False, ""),
    (T - 3 * HOUR, CROSSING, False, ""),
    (T - 4 * HOUR, CROSSING, False, "was read up to 2026-11-30T21:00Z"),
    (T + dt.timedelta(minutes=30), CROSSING, False, "no window begins at 2026-12-01T00:30Z"),
    (T, CROSSING._replace(old=SHADOW), False, "stripe does not bill it right up to"),
    (T, CROSSING._replace(old=OLD._replace(until=T - HOUR)), False, "stripe does not bill it right up to"),
    (T, CROSSING._replace(old=OLD._replace(until=T)), False, ""),
    (T, CROSSING._replace(old=OLD._replace(since=T + HOUR)), False, "stripe does not bill it right up to"),
    (T, CROSSING._replace(new=SHADOW._replace(since=T + HOUR)), False, "metronome does not take it from"),
    (T, CROSSING._replace(new=SHADOW._replace(until=T)), False, "metronome does not take it from"),
    (T, CROSSING, True, "leave out --parallel"),
    (T, CROSSING._replace(new=OLD), False, "say --parallel; else let it feed that sink with `shadow: true`"),
    (T, CROSSING._replace(new=OLD), True, ""),
    (T, CROSSING._replace(new=OLD._replace(since=T)), False, ""),
]


@pytest.mark.parametrize(("at", "crossing", "parallel", "said"), CASES)
def test_what_is_in_the_way(at: dt.datetime, crossing: Crossing, parallel: bool, said: str) -> None:
    """One sentence for what keeps the old sink from billing up to it, or the new one from it on."""
    found = obstacles(at, [crossing], SINKS, parallel=parallel)
    assert [said in each for each in found] == [True] * bool(said), found


def test_each_meter_has_its_say() -> None:
    """All that is in the way is told at once."""
    late = CROSSING._replace(meter="exports", mark=T + HOUR)
    found = obstacles(T, [CROSSING, late, late._replace(meter="seats")], SINKS, parallel=False)
    assert [each.split()[1] for each in found] == ["exports", "seats"]


TO, FROM = Moves(T, None, False), Moves(None, T, False)


@pytest.mark.parametrize(
    ("coverage", "moves", "said"),
    [
        (SHADOW, TO, None),
        (SHADOW._replace(since=T + HOUR), TO, "its `bill_from` and `bill_until` must leave that to it"),
        (SHADOW._replace(until=T), TO, "its `bill_from` and `bill_until` must leave that to it"),
        (OLD._replace(shadow_until=T), TO, "`aggregator cutover set --all`"),
        (OLD._replace(shadow_until=T), TO._replace(everybody=True), None),
        (OLD, TO, None),
        (OLD, FROM, None),
        (OLD._replace(until=T), FROM, None),
        (OLD._replace(until=T - HOUR), FROM, "must not end before, nor become a shadow"),
        (SHADOW, FROM, "must not end before, nor become a shadow"),
    ],
)
def test_terms_leave_to_each_sink_what_customers_brought_it(
    coverage: FeedCoverage, moves: Moves, said: str | None
) -> None:
    """Terms by which windows of who has moved would be billed by nobody, or twice, are refused with what to do."""
    found = why_not_terms("api_requests", "metronome", coverage, moves)
    assert (found is None) if said is None else (found is not None and said in found)


def test_a_shadow_that_customers_moved_to_goes_on_where_it_began() -> None:
    """Its windows from before the present stay its own: of those who have moved, late usage still belongs there."""
    parted = SHADOW._replace(parted=True)
    ended = changed(parted, Terms("metronome"), T, START)
    assert (ended.since, ended.shadow, ended.shadow_until, ended.parted) == (START, False, T, True)
    assert changed(SHADOW, Terms("metronome"), T, START).since == T
