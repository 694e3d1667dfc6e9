"""On what terms a sink is fed: what a change of them opens and shuts, and where two sinks bill the same, or none does."""

import datetime as dt
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.core.feed_terms import (
    Clash,
    FeedCoverage,
    Stretch,
    changed,
    clashes,
    joined,
    report_lost,
    sealed,
)
from aggregator.core.model import Span, Terms

START = dt.datetime(2026, 11, 1, tzinfo=dt.UTC)
HOUR = dt.timedelta(hours=1)

instants = st.integers(0, 12).map(lambda hours: START + hours * HOUR)
maybe = st.none() | instants


@st.composite
def terms(draw: st.DrawFn) -> Terms:
    """Any terms that a configuration allows."""
    begin, end = draw(maybe), draw(maybe)
    if begin is not None and end is not None and end <= begin:
        end = None
    return Terms("sink", begin, end, draw(st.booleans()))


def at(hours: int) -> dt.datetime:
    return START + hours * HOUR


@given(first=terms(), mark=instants)
def test_the_same_terms_change_nothing(first: Terms, mark: dt.datetime) -> None:
    """Whoever starts again on the terms that hold already finds the feed as it is."""
    coverage = joined(first, mark, START)
    assert changed(coverage, first, mark, START) == coverage
    later = coverage._replace(read_until=max(coverage.read_until, mark))
    settled = changed(later, first, mark, START)
    assert changed(settled, first, mark + HOUR, START) == settled


@given(first=terms(), then=st.lists(terms(), max_size=4), mark=instants, known=instants)
def test_no_window_inside_is_taken_for_planned_that_never_could_be(
    first: Terms, then: list[Terms], mark: dt.datetime, known: dt.datetime
) -> None:
    """Whatever the terms become, `read_until` never lies beyond the feed's end, nor before its begin."""
    coverage = joined(first, mark, known)
    for each in then:
        before = coverage
        coverage = changed(coverage, each, mark, known)
        assert coverage.since >= min(known, before.since)
        assert coverage.until is None or coverage.read_until <= coverage.until
        assert coverage.read_until >= min(coverage.since, coverage.until or coverage.since)
        if coverage.since < before.since:
            assert coverage.read_until == min(coverage.since, coverage.until or coverage.since), (
                "what was opened is planned"
            )


def test_an_end_that_moves_later_opens_what_was_beyond_it() -> None:
    """A feed that had an end was planned up to there and no further."""
    coverage = joined(Terms("sink", START, at(3)), at(8), START)._replace(read_until=at(3))
    assert coverage.done
    open_again = changed(coverage, Terms("sink", START, at(6)), at(8), START)
    assert (open_again.read_until, open_again.done) == (at(3), False)


def test_a_shadow_ends_at_the_mark_or_where_it_is_told_to() -> None:
    """Without `bill_from` a feed begins with what was not read; with it, there, and the shadow's end is on record."""
    shadow = joined(Terms("sink", START, shadow=True), at(2), START)._replace(read_until=at(5))
    assert changed(shadow, Terms("sink"), at(5), START)[:5] == (at(5), None, False, at(5), at(5))
    assert changed(shadow, Terms("sink", at(3)), at(5), START)[:5] == (at(3), None, False, at(5), at(5))


def test_what_the_source_no_longer_has_is_lost_until_it_is_back_or_given_up() -> None:
    """Sealed windows are named, not forgotten as time goes on, and leave when rows are back or `bill_from` says so."""
    coverage = joined(Terms("sink", at(1)), at(9), START)
    lost = sealed(coverage, at(4))
    assert (lost.lost, lost.read_until) == (Span(at(1), at(4)), at(4))
    assert sealed(lost._replace(read_until=at(9)), at(6)).lost == Span(at(1), at(4)), (
        "later windows were planned in time"
    )
    assert sealed(lost, START) == coverage._replace(read_until=at(1))
    assert changed(lost, Terms("sink", at(4)), at(9), START).lost is None
    assert changed(lost, Terms("sink", at(3)), at(9), START).lost == Span(at(3), at(4))
    done = joined(Terms("sink", at(1), at(3)), at(9), START)._replace(read_until=at(3))
    assert sealed(done, at(4)).lost is None


def test_a_feed_that_ends_before_the_rows_begin_is_given_up_as_a_whole() -> None:
    """The remedy that is named is one that the configuration takes."""
    assert "by taking that sink off the meter" in report_lost("m", "s", Span(at(1), at(3)), at(3))
    assert "with `bill_from: 2026-11-01T03:00Z`" in report_lost("m", "s", Span(at(1), at(3)), at(5))


@pytest.mark.parametrize(
    ("stretches", "expected"),
    [
        ([("a", 0, 5), ("b", 5, None)], []),
        ([("a", 0, 6), ("b", 5, None)], [(("a", "b"), 5, 6)]),
        ([("a", 0, 4), ("b", 5, None)], [((), 4, 5)]),
        ([("a", 0, None), ("b", 0, None)], [(("a", "b"), 0, None)]),
        ([("a", 0, 9), ("b", 2, 3), ("c", 5, None)], [(("a", "b"), 2, 3), (("a", "c"), 5, 9)]),
        ([("a", 0, 9), ("b", 2, 3), ("c", 10, None)], [(("a", "b"), 2, 3), ((), 9, 10)]),
        ([("a", 3, 3), ("b", 0, None)], []),
    ],
)
def test_overlaps_and_gaps_are_found(
    stretches: list[tuple[str, int, int | None]], expected: list[tuple[tuple[str, ...], int, int | None]]
) -> None:
    """Two sinks that bill the same time, and a time between two that none bills."""
    found = clashes(
        Stretch(sink, at(start), None if end is None else at(end)) for sink, start, end in stretches
    )
    assert list(found) == [
        Clash(sinks, at(start), None if end is None else at(end)) for sinks, start, end in expected
    ]


@given(st.lists(st.tuples(st.integers(0, 8), st.none() | st.integers(0, 9)), min_size=1, max_size=4))
def test_overlaps_and_gaps_are_what_counting_by_the_hour_finds(found: list[tuple[int, int | None]]) -> None:
    """For each hour between the first begin and the last: none bills it, or more than one, exactly where it is said."""
    stretches = [
        Stretch(f"s{number}", at(start), None if end is None else at(end))
        for number, (start, end) in enumerate(found)
    ]
    told = list(clashes(stretches))
    real = [each for each in stretches if each.end is None or each.start < each.end]
    for hour, _ in pairwise(range(11)):
        billing = {
            each.sink for each in real if each.start <= at(hour) and (each.end is None or at(hour) < each.end)
        }
        there = [
            each for each in told if each.start <= at(hour) and (each.end is None or at(hour) < each.end)
        ]
        pairs = {frozenset(each.sinks) for each in there if each.sinks}
        assert pairs == {frozenset((a, b)) for a in billing for b in billing if a < b}
        inside = any(each.start <= at(hour) for each in real) and any(each.start > at(hour) for each in real)
        assert any(not each.sinks for each in there) == (inside and not billing)


def test_a_reach_without_an_end_is_never_done() -> None:
    """There is always another window."""
    assert not FeedCoverage(START, None, shadow=False, shadow_until=None, read_until=at(5)).done
