"""How many windows a query is asked for at once, by how long the last ones took."""

import datetime as dt

import pytest

from aggregator.core.piece_size import PieceSizes, grown, shrunk
from aggregator.core.windows import WINDOWS_PER_READ

MINUTE = dt.timedelta(minutes=1)


@pytest.mark.parametrize(
    ("most", "windows", "seconds", "then"),
    [
        (20, 20, 1.0, 40),
        (20, 20, 40.0, 24),
        (20, 20, 55.0, 17),
        (20, 20, 0.0, 40),
        (WINDOWS_PER_READ, WINDOWS_PER_READ, 1.0, WINDOWS_PER_READ),
        (20, 3, 1.0, 20),
        (20, 3, 50.0, 3),
        (1, 1, 59.0, 1),
    ],
    ids=(
        "quick",
        "twice would take too long",
        "nearly too long",
        "no time at all",
        "never more than one transaction takes",
        "a rest tells nothing",
        "a rest that takes long does",
        "never less than one",
    ),
)
def test_pieces_grow_as_far_as_their_time_goes(most: int, windows: int, seconds: float, then: int) -> None:
    """Of a minute, four fifths are planned with."""
    assert grown(most, windows, seconds, MINUTE) == then


def test_what_takes_too_long_is_tried_by_halves() -> None:
    """Down to one window."""
    assert [shrunk(each) for each in (1_440, 3, 1)] == [720, 1, 1]


def test_a_slow_source_is_asked_for_what_it_can_give() -> None:
    """Twenty windows to the minute: it is stopped as often as halving takes, and then not again while all is read."""
    sizes, stopped, left, sure = PieceSizes(MINUTE), 0, 5_000, []
    while left:
        windows = min(sizes.most("a"), left)
        if windows > 20:
            stopped += 1
            sizes.took_too_long("a", windows)
            continue
        sizes.went_well("a", windows, 3.0 * windows)
        left -= windows
        sure.append(windows)
    assert stopped == 7
    assert set(sure[1:-1]) == {16}
    assert sizes.most("b") == WINDOWS_PER_READ
