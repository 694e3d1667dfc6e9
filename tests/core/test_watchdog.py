"""What a daemon watches: a wall clock that is set is told from a process or a machine that slept."""

import datetime as dt

import pytest

from aggregator.daemon.watchdog import (
    AT_ONE_MOMENT_SECONDS,
    JUMP,
    ClockWatch,
    Moment,
    Trouble,
    jumped,
)

NOON = dt.datetime(2026, 11, 1, 12, tzinfo=dt.UTC)
HOUR = dt.timedelta(hours=1)


class Clocks:
    """A wall clock, and one that nobody sets, which may move while they are read."""

    def __init__(self) -> None:
        self.wall, self.elapsed = NOON, 100.0
        self.stands_still = dt.timedelta(0)

    def pass_by(self, time: dt.timedelta) -> None:
        """Let time pass, for both."""
        self.wall += time
        self.elapsed += time.total_seconds()

    def read_wall(self) -> dt.datetime:
        """Read the wall clock; the process may stand still right afterwards."""
        wall = self.wall
        self.pass_by(self.stands_still)
        return wall

    def watch(self) -> ClockWatch:
        """Begin to watch."""
        return ClockWatch(self.read_wall, lambda: self.elapsed)


@pytest.mark.parametrize("by", [6 * HOUR, -6 * HOUR, 2 * JUMP, -2 * JUMP])
def test_a_clock_that_is_set_is_noticed_once(by: dt.timedelta) -> None:
    """Forward or back: by how much is told, and the next look finds nothing."""
    clocks = Clocks()
    watch = clocks.watch()
    assert watch.jumped() is None
    clocks.pass_by(HOUR)
    clocks.wall += by
    assert watch.jumped() == by
    assert watch.jumped() is None


@pytest.mark.parametrize("slept", [dt.timedelta(seconds=1), HOUR, 1000 * HOUR])
def test_what_slept_is_no_clock_that_was_set(slept: dt.timedelta) -> None:
    """A stopped process, or a laptop with its lid closed, finds both clocks where they should be."""
    clocks = Clocks()
    watch = clocks.watch()
    clocks.pass_by(slept)
    assert watch.jumped() is None


def test_a_process_that_is_stopped_between_two_clocks_raises_no_alarm() -> None:
    """What was read of them belongs to two moments; a clock that is set meanwhile is found by the next look."""
    clocks = Clocks()
    watch = clocks.watch()
    clocks.stands_still = 10 * dt.timedelta(seconds=AT_ONE_MOMENT_SECONDS)
    clocks.wall += HOUR
    assert watch.jumped() is None
    clocks.stands_still = dt.timedelta(0)
    assert watch.jumped() == HOUR


def test_a_small_correction_is_no_jump() -> None:
    """NTP steps a clock by fractions of a second."""
    clocks = Clocks()
    watch = clocks.watch()
    clocks.wall += JUMP / 2
    assert watch.jumped() is None
    assert jumped(Moment(NOON, 0.0), Moment(NOON + HOUR, 3_600.0)) == dt.timedelta(0)


def test_a_trouble_is_said_when_it_begins_and_when_it_is_over() -> None:
    """Once each, however often one looks."""
    said: list[str] = []
    trouble = Trouble(said.append, lambda: said.append("over"))
    for reason in (None, "slow", "slower", None, None, "slow again", None):
        trouble.stands(reason)
    assert said == ["slow", "over", "slow again", "over"]
