"""Definitions over time: every instant is read by one of them, in windows that never overlap."""

import datetime as dt
from itertools import pairwise
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator.core.definitions import (
    at,
    begins,
    ceiling,
    grid,
    pieces,
    ready_until,
    restated,
)
from aggregator.core.model import EPOCH, Definition, Span
from aggregator.core.windows import is_boundary, lookback

MINUTE, HOUR, DAY = dt.timedelta(minutes=1), dt.timedelta(hours=1), dt.timedelta(days=1)
START = dt.datetime(2026, 11, 1, tzinfo=dt.UTC)
LENGTHS = [MINUTE, 5 * MINUTE, 15 * MINUTE, 45 * MINUTE, HOUR, 4 * HOUR, DAY]

OLD = Definition(EPOCH, "old", "select 1", HOUR)
NEW = Definition(START + 5 * HOUR, "new", "select 2", 15 * MINUTE)


def test_each_stretch_is_read_by_its_own_definition() -> None:
    """A span over a change is read in two pieces, each in the windows of its time."""
    assert list(pieces((OLD, NEW), Span(START + 3 * HOUR, START + 6 * HOUR))) == [
        (OLD, Span(START + 3 * HOUR, START + 5 * HOUR)),
        (NEW, Span(START + 5 * HOUR, START + 6 * HOUR)),
    ]
    assert at((OLD, NEW), START) is OLD
    assert at((OLD, NEW), NEW.since) is NEW
    assert at((NEW,), START) is NEW, "the first one holds for what lies before it, too"


def test_a_span_is_widened_to_whole_windows() -> None:
    """A part of a window is no question one can ask."""
    assert list(pieces((OLD,), Span(START + 30 * MINUTE, START + 90 * MINUTE))) == [
        (OLD, Span(START, START + 2 * HOUR))
    ]


def test_windows_are_ready_in_the_grid_of_their_time() -> None:
    """Up to the change in the old length, from there in the new one."""
    both = (OLD, NEW)
    assert ready_until(both, START + 3 * HOUR, START + 4 * HOUR + 59 * MINUTE) == START + 4 * HOUR
    assert (
        ready_until(both, START + 3 * HOUR, START + 5 * HOUR + 20 * MINUTE) == START + 5 * HOUR + 15 * MINUTE
    )
    assert ready_until(both, START + 3 * HOUR, START) == START + 3 * HOUR


def test_another_length_begins_where_both_grids_have_a_boundary() -> None:
    """So no instant is in two windows, and none in no window (invariant 11)."""
    assert begins(OLD, HOUR, START + 2 * HOUR) == START + 2 * HOUR
    assert begins(OLD, 15 * MINUTE, START + 2 * HOUR) == START + 2 * HOUR
    assert begins(OLD, 45 * MINUTE, START + 2 * HOUR) == START + 3 * HOUR
    assert begins(OLD, DAY, START + 2 * HOUR) == START + DAY


@settings(max_examples=200)
@given(
    st.lists(st.tuples(st.sampled_from(LENGTHS), st.integers(0, 3000)), min_size=1, max_size=5),
    st.integers(0, 3000),
)
def test_windows_tile_time_whatever_lengths_follow_each_other(
    changes: list[tuple[dt.timedelta, int]], ahead: int
) -> None:
    """However often the length changes, pieces follow each other without gap or overlap, on whole windows."""
    known = [Definition(EPOCH, "0", "", HOUR)]
    mark = START
    for number, (length, minutes) in enumerate(changes):
        mark = max(mark, ready_until(known, mark, mark + minutes * MINUTE))
        known = [each for each in known if each.since < mark] or known[:1]
        since = begins(known[-1], length, mark)
        known.append(Definition(since, str(number), "", length))
    cut = list(pieces(known, Span(START, mark + ahead * MINUTE + MINUTE)))
    assert cut[0][1].start == START
    for (_, one), (_, following) in pairwise(cut):
        assert one.end == following.start
    for definition, span in cut:
        assert is_boundary(span.start, definition.window)
        assert is_boundary(span.end, definition.window)


def test_a_restatement_holds_for_its_span_only() -> None:
    """What lies around it is read as before, and saying the same twice changes nothing."""
    new = NEW._replace(window=HOUR)
    known = restated((OLD, new), Span(START, START + 2 * HOUR), new)
    assert [(each.since, each.fingerprint) for each in known] == [
        (EPOCH, "old"),
        (START, "new"),
        (START + 2 * HOUR, "old"),
        (START + 5 * HOUR, "new"),
    ]
    assert restated(known, Span(START, START + 2 * HOUR), new) == known
    joined = restated(known, Span(START + 2 * HOUR, START + 5 * HOUR), new)
    assert [(each.since, each.fingerprint) for each in joined] == [(EPOCH, "old"), (START, "new")]


def test_the_grid_has_every_boundary_to_come() -> None:
    """Definitions that are over no longer count, those that have not begun do."""
    longer = NEW._replace(window=45 * MINUTE)
    assert grid((OLD, longer), START) == 15 * MINUTE
    assert grid((OLD, longer), longer.since) == 45 * MINUTE
    assert grid((OLD, NEW._replace(window=DAY)), START) == HOUR


def test_ceiling() -> None:
    """The boundary at an instant, or the next one."""
    assert ceiling(START, HOUR) == START
    assert ceiling(START + MINUTE, HOUR) == START + HOUR


def test_the_ladder_of_revisits() -> None:
    """Two hours in every pass, two days every hour, everything every day."""
    now = mark = START + 40 * DAY
    every = {"mark": mark, "revisit": 35 * DAY, "length": HOUR}
    just = lookback(now=now, hourly_at=now - MINUTE, daily_at=now - HOUR, **every)  # type: ignore[arg-type]
    assert just == (mark - 2 * HOUR, mark - 2 * HOUR, False, False)
    hourly = lookback(now=now, hourly_at=now - HOUR, daily_at=now - HOUR, **every)  # type: ignore[arg-type]
    assert hourly == (mark - 2 * HOUR, mark - 2 * DAY, True, False)
    daily = lookback(now=now, hourly_at=now - MINUTE, daily_at=now - DAY, **every)  # type: ignore[arg-type]
    assert daily == (mark - 2 * HOUR, mark - 35 * DAY, True, True)
    first = lookback(now=now, hourly_at=None, daily_at=None, **every)  # type: ignore[arg-type]
    assert first == daily


def test_the_ladder_after_a_clock_was_set_back() -> None:
    """What was last read at a time that is still to come is read now, and not a day after that time."""
    now = mark = START + 40 * DAY
    every = {"mark": mark, "revisit": 35 * DAY, "length": HOUR}
    hourly = lookback(now=now, hourly_at=now + 3 * DAY, daily_at=now - HOUR, **every)  # type: ignore[arg-type]
    assert hourly == (mark - 2 * HOUR, mark - 2 * DAY, True, False)
    daily = lookback(now=now, hourly_at=now - MINUTE, daily_at=now + 3 * DAY, **every)  # type: ignore[arg-type]
    assert daily == (mark - 2 * HOUR, mark - 35 * DAY, True, True)


def test_the_ladder_of_long_windows_and_short_revisits() -> None:
    """At least two windows are read again, and never more than the meter asks for."""
    now = mark = START
    args: dict[str, Any] = {"now": now, "mark": mark, "hourly_at": now, "daily_at": now}
    assert lookback(revisit=35 * DAY, length=DAY, **args).near == mark - 2 * DAY
    assert lookback(revisit=HOUR, length=MINUTE, **args).near == mark - HOUR
    assert lookback(revisit=dt.timedelta(0), length=MINUTE, **args).deep == mark
