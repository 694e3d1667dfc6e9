"""Windows tile time, and no pattern of wake-ups loses one."""

import datetime as dt
import zoneinfo
from collections import Counter
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from aggregator.core.model import EPOCH, Span
from aggregator.core.windows import (
    DAY,
    WINDOWS_ASKED_SINGLY,
    WINDOWS_PER_READ,
    Reads,
    count,
    cut,
    floor,
    is_boundary,
    reads,
    settled_until,
    tile,
)

MINUTE = dt.timedelta(minutes=1)
HOUR = dt.timedelta(hours=1)
INSTANT = dt.timedelta(microseconds=1)
ZERO = dt.timedelta(0)

LENGTHS = [minutes * MINUTE for minutes in range(1, 1441) if 1440 % minutes == 0] + [
    dt.timedelta(seconds=seconds) for seconds in (90, 675, 1350)
]

length_of_window = st.sampled_from(LENGTHS)
some_instant = st.integers(0, 4 * 10**15).map(lambda number: EPOCH + number * INSTANT)


@cache
def transitions() -> frozenset[dt.datetime]:
    """Return the instants, in UTC and to the minute, at which a clock on some wall was moved from 2000 to 2037."""
    found: set[dt.datetime] = set()
    years = [dt.datetime(2000, 1, 1, tzinfo=dt.UTC) + number * 14 * DAY for number in range(38 * 26 + 20)]
    for name in zoneinfo.available_timezones():
        zone = zoneinfo.ZoneInfo(name)
        offsets = [instant.astimezone(zone).utcoffset() for instant in years]
        for (early, before), (late, after) in pairwise(zip(years, offsets, strict=True)):
            if before != after:
                found.add(_moved(zone, early, late))
    return frozenset(found)


def _moved(zone: zoneinfo.ZoneInfo, early: dt.datetime, late: dt.datetime) -> dt.datetime:
    """Return the first minute at which the offset is no longer what it was."""
    before = early.astimezone(zone).utcoffset()
    while late - early > MINUTE:
        middle = early + (late - early) // (2 * MINUTE) * MINUTE
        if middle.astimezone(zone).utcoffset() == before:
            early = middle
        else:
            late = middle
    return late


@settings(max_examples=300)
@given(some_instant, length_of_window)
def test_every_instant_is_in_one_window(instant: dt.datetime, length: dt.timedelta) -> None:
    """A window is half-open: every instant is in exactly one, that of its floor."""
    start = floor(instant, length)
    here = Span(start, start + length)
    assert instant in here
    assert instant not in Span(start - length, start)
    assert instant not in Span(start + length, start + 2 * length)
    assert floor(start, length) == start
    assert floor(start + length - INSTANT, length) == start
    assert floor(start - INSTANT, length) == start - length
    assert is_boundary(instant, length) == (instant == start)
    assert start.tzinfo is dt.UTC


@settings(max_examples=100)
@given(some_instant, length_of_window)
def test_every_day_begins_a_window(instant: dt.datetime, length: dt.timedelta) -> None:
    """Lengths divide a day, so that windows begin with the day in UTC, and it has the same ones every day."""
    midnight = instant.replace(hour=0, minute=0, second=0, microsecond=0)
    day = list(tile(Span(midnight, midnight + DAY), length))
    assert day[0].start == midnight
    assert day[-1].end == midnight + DAY
    assert len(day) == DAY // length


@settings(max_examples=150)
@given(some_instant, length_of_window, st.integers(0, 200), st.integers(1, 50))
def test_tile_cut_and_count_agree(start: dt.datetime, length: dt.timedelta, many: int, most: int) -> None:
    """A span's windows follow each other without gap or overlap; so do the pieces it is cut into, and they are as many."""
    start = floor(start, length)
    span = Span(start, start + many * length)
    tiles = list(tile(span, length))
    pieces = list(cut(span, length, most))
    assert len(tiles) == count(span, length) == many
    assert all(one.end - one.start == length and is_boundary(one.start, length) for one in tiles)
    for parts in (tiles, pieces):
        assert all(one.end == next_.start for one, next_ in pairwise(parts))
        assert not parts or (parts[0].start, parts[-1].end) == span
    assert [one for piece in pieces for one in tile(piece, length)] == tiles
    assert all(1 <= count(piece, length) <= most for piece in pieces)
    assert count(Span(span.end, span.start), length) == 0


@pytest.mark.parametrize("edge", ["start", "end"])
def test_tile_wants_whole_windows(edge: str) -> None:
    """A span that begins or ends within a window is a bug."""
    span = Span(EPOCH, EPOCH + DAY)._replace(**{edge: EPOCH + DAY - 61 * MINUTE})
    with pytest.raises(
        AssertionError, match=f"does not {'begin' if edge == 'start' else 'end'} at a window boundary"
    ):
        list(tile(span, HOUR))


@pytest.mark.skipif(not zoneinfo.available_timezones(), reason="this machine has no time zone database")
def test_clocks_on_walls_change_nothing() -> None:
    """Around every moment from 2000 to 2037 at which some zone moves its clocks, windows lie as they always do."""
    moments = transitions()
    assert len(moments) > 1000
    for moment in moments:
        since = int((moment - EPOCH).total_seconds())
        for length in (MINUTE, 15 * MINUTE, HOUR, DAY):
            seconds = int(length.total_seconds())
            start = EPOCH + dt.timedelta(seconds=since - since % seconds)
            assert floor(moment, length) == start
            assert floor(moment - INSTANT, length) == (start if start < moment else start - length)
            assert is_boundary(moment, length) == (since % seconds == 0)
        midnight = floor(moment, DAY)
        assert len(list(tile(Span(midnight, midnight + DAY), HOUR))) == 24


@pytest.mark.parametrize("length", [15 * MINUTE, HOUR, DAY])
@pytest.mark.parametrize(
    "zone", ["America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "Africa/Casablanca"]
)
def test_floor_of_an_instant_told_in_another_zone(zone: str, length: dt.timedelta) -> None:
    """An instant has the same window in whatever zone it is told, in the hour that a wall clock has twice as well."""
    there = zoneinfo.ZoneInfo(zone)
    for hours in range(366 * 24):
        instant = dt.datetime(2024, 1, 1, 0, 31, tzinfo=dt.UTC) + hours * HOUR
        assert floor(instant.astimezone(there), length) == floor(instant, length)


@settings(max_examples=200)
@given(
    some_instant, st.integers(0, 10**7).map(lambda seconds: dt.timedelta(seconds=seconds)), length_of_window
)
def test_settled_until(now: dt.datetime, delay: dt.timedelta, length: dt.timedelta) -> None:
    """A window is ready from `delay` after its end on, and not an instant earlier."""
    end = settled_until(now, delay, length)
    assert is_boundary(end, length)
    assert end + delay <= now < end + length + delay
    assert settled_until(end + delay, delay, length) == end
    assert settled_until(end + delay - INSTANT, delay, length) == end - length


@dataclass
class Reader:
    """Reads a meter pass by pass, as collection does: what one pass leaves to the next is the mark and the sweep."""

    length: dt.timedelta
    revisit: dt.timedelta
    at_once: bool
    start_at: dt.datetime = EPOCH + 20_000 * DAY
    delay: dt.timedelta = 5 * MINUTE
    mark: dt.datetime = field(init=False)
    swept: dt.datetime | None = None
    times: Counter[dt.datetime] = field(default_factory=Counter)
    """How often each window was read."""

    def __post_init__(self) -> None:
        self.mark = self.start_at

    @property
    def horizon(self) -> dt.datetime:
        """How far back windows are read again."""
        return max(self.start_at, floor(self.mark - self.revisit, self.length))

    def plan(self, now: dt.datetime) -> Reads:
        """Say what a pass is to read."""
        return reads(
            mark=self.mark,
            ready=settled_until(now, self.delay, self.length),
            horizon=self.horizon,
            length=self.length,
            at_once=self.at_once,
            swept=self.swept,
        )

    def wake(self, now: dt.datetime, dies_after: int | None = None) -> None:
        """Make a pass; it may die after so many pieces."""
        whole = self.plan(now)
        pieces = [piece for span in whole.spans for piece in cut(span, self.length, WINDOWS_PER_READ)]
        for piece in pieces[:dies_after]:
            self._commit(piece, whole.swept)

    def _commit(self, piece: Span, swept: dt.datetime | None) -> None:
        assert piece.start < piece.end
        assert self.start_at <= piece.start <= self.mark, "the mark never jumps a gap"
        if piece.start <= self.mark < piece.end:
            self.mark = piece.end
        self.swept = swept
        self.times.update(one.start for one in tile(piece, self.length))


naps = st.one_of(
    st.just(ZERO),
    st.integers(0, 600).map(lambda seconds: dt.timedelta(seconds=seconds)),
    st.integers(0, 48).map(lambda hours: hours * HOUR),
    st.integers(0, 40).map(lambda days: days * DAY),
)


@settings(max_examples=100)
@given(
    st.lists(st.tuples(naps, st.none() | st.integers(0, 3)), max_size=20),
    st.sampled_from([15 * MINUTE, HOUR, 4 * HOUR, DAY]),
    st.sampled_from([ZERO, HOUR, DAY, 35 * DAY]),
    st.booleans(),
)
def test_no_wake_up_pattern_loses_a_window(
    wakes: list[tuple[dt.timedelta, int | None]], length: dt.timedelta, revisit: dt.timedelta, at_once: bool
) -> None:
    """However long it sleeps and wherever it dies, a pass that ends has read all that is settled, and no more."""
    reader = Reader(length, revisit, at_once)
    now = reader.start_at
    for nap, dies_after in [*wakes, (ZERO, None)]:
        now += nap
        reader.wake(now, dies_after)
        ready = max(reader.start_at, settled_until(now, reader.delay, length))
        assert reader.mark <= ready
        assert reader.mark == ready or dies_after is not None
        assert reader.times.keys() == {one.start for one in tile(Span(reader.start_at, reader.mark), length)}


@settings(max_examples=60)
@given(st.lists(st.integers(0, 200), min_size=1, max_size=40), st.sampled_from([10, 61, 95, 240, 1000]))
def test_sweep_comes_round_to_every_old_window(news: list[int], revisit: int) -> None:
    """A query asked window by window is asked again for each old one before the horizon has passed it."""
    reader = Reader(MINUTE, revisit * MINUTE, at_once=False)
    now, old = reader.start_at + reader.delay, set[dt.datetime]()
    for new in news:
        now += new * MINUTE
        asked = sum(count(span, MINUTE) for span in reader.plan(now).spans)
        assert asked <= WINDOWS_ASKED_SINGLY + 2 * new, "a pass asks for a bounded number"
        old.update(one.start for one in tile(Span(reader.horizon, reader.mark), MINUTE))
        reader.wake(now)
    passed = {start for start in old if start < reader.horizon}
    assert {start for start in passed if reader.times[start] < 2} == set()


def test_sweep_comes_round_while_nothing_is_new() -> None:
    """Passes that find nothing new still come round to every old window, and begin again."""
    reader = Reader(MINUTE, 500 * MINUTE, at_once=False)
    now = reader.start_at + reader.delay + 400 * MINUTE
    for _ in range(1 + 2 * (400 // (WINDOWS_ASKED_SINGLY // 2))):
        reader.wake(now)
    assert min(reader.times.values()) >= 3


@settings(max_examples=50)
@given(
    some_instant,
    st.integers(0, 300),
    st.integers(-400, 400),
    st.booleans(),
    st.none() | st.integers(-500, 500),
)
def test_any_reads(instant: dt.datetime, old: int, new: int, at_once: bool, swept: int | None) -> None:
    """Whatever a pass finds, also a clock that was set back: its spans are in order and end with all that is ready."""
    mark = floor(instant, HOUR)
    ready, horizon = mark + new * HOUR, mark - old * HOUR
    spans, next_swept = reads(
        mark=mark,
        ready=ready,
        horizon=horizon,
        length=HOUR,
        at_once=at_once,
        swept=None if swept is None else mark + swept * HOUR,
    )
    assert all(horizon <= span.start < span.end and is_boundary(span.start, HOUR) for span in spans)
    assert all(one.end <= next_.start for one, next_ in pairwise(spans))
    assume(spans)
    assert spans[-1].start <= mark
    assert spans[-1].end == max(mark, ready)
    assert next_swept is None or next_swept in Span(horizon, mark)


def test_a_sweep_begins_anew_though_the_mark_moves_between_all_passes() -> None:
    """An hourly clock with hourly windows: the mark is further on at each pass, and old windows still come round."""
    reader = Reader(HOUR, 10 * DAY, at_once=False)
    now = reader.start_at + reader.delay + 10 * DAY
    reader.wake(now)
    first = reader.start_at
    for _ in range(60):
        now += HOUR
        reader.wake(now)
    assert min(times for start, times in reader.times.items() if first + 3 * DAY <= start < now - DAY) >= 3
