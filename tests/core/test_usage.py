"""The figures of usage, the months it is asked for by, and what is asked of a source for windows that are not read yet."""

import datetime as dt
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal

import pytest

from aggregator.collection.open_windows import read_open
from aggregator.core.model import Definition, Fence, Reading, Span
from aggregator.core.usage import Line, Sum, Usage, month, month_of
from aggregator.ledger.passes.spool import Spool

HOUR = dt.timedelta(hours=1)
START = dt.datetime(2026, 11, 1, tzinfo=dt.UTC)
D = Decimal


@pytest.mark.parametrize(
    ("text", "first", "after"),
    [
        ("2026-11", "2026-11-01", "2026-12-01"),
        ("2026-12", "2026-12-01", "2027-01-01"),
        ("2028-02", "2028-02-01", "2028-03-01"),
    ],
)
def test_a_month_ends_where_the_next_begins(text: str, first: str, after: str) -> None:
    """In UTC, also at the end of a year; and each of its instants lies in it."""
    span = month(text)
    assert (f"{span.start:%Y-%m-%dT%H:%M%z}", f"{span.end:%Y-%m-%dT%H:%M%z}") == (
        f"{first}T00:00+0000",
        f"{after}T00:00+0000",
    )
    for instant in (
        span.start,
        span.start + dt.timedelta(days=20, hours=5),
        span.end - dt.timedelta(microseconds=1),
    ):
        assert month_of(instant) == span


@pytest.mark.parametrize("text", ["2026", "2026-13", "2026-11-01", "november", ""])
def test_what_is_no_month_is_refused(text: str) -> None:
    """Nothing is guessed."""
    with pytest.raises(ValueError, match=r".+"):
        month(text)


def test_a_unit_that_stands_nowhere_is_noticed() -> None:
    """Figures add up, or they do not; fractions count, too."""
    usage = Usage(D("10.5"), billed=D(7), held=D(-1), refused=D(4), carried=D("0.5"))
    assert usage.adds_up
    assert not usage._replace(carried=D("0.4")).adds_up
    assert not usage._replace(open=D(1)).adds_up


def test_lines_are_summed_as_they_pass() -> None:
    """Their number, their total, and which figures any of them has, even if they cancel each other out."""
    lines = [
        Line("cus_a", None, Usage(D(1), billed=D(2), held=D(-1))),
        Line("cus_b", None, Usage(D(4), billed=D(3), held=D(1))),
    ]
    found = Sum(adds_up=True)
    assert list(found.counting(lines)) == lines
    assert (found.lines, found.total) == (2, Usage(D(5), billed=D(5)))
    assert found.found == {"used", "billed", "held"}


class Asked:
    """A source that has one row in each window, and notes what it is asked."""

    def __init__(self, fence: Fence | None = None) -> None:
        self.fence = fence
        self.spans: list[tuple[str, Span]] = []

    def read(
        self,
        query: str,
        span: Span,
        window: dt.timedelta,
        *,
        dimensions: Sequence[str] = (),
        step: dt.timedelta | None = None,
        allow: Callable[[Fence | None], dt.datetime] | None = None,
    ) -> Iterator[list[Reading]]:
        """Yield them as far as is allowed."""
        assert allow is not None
        until = allow(self.fence)
        self.spans.append((query, Span(span.start, until)))
        yield [
            Reading(span.start + number * window, "cus_a", D(1), None)
            for number in range((until - span.start) // window)
        ]


def fence(*, standby: bool, fresh_until: dt.datetime | None) -> Fence:
    return Fence(START, 1, 1, None, sees_starts=True, standby=standby, fresh_until=fresh_until, holder=None)


def test_open_windows_are_asked_for_whole_and_by_their_definitions() -> None:
    """From the first that is not read to the one that is open, which ends later than now; nothing is waited for."""
    known = [Definition(START, "f", "old", HOUR), Definition(START + 2 * HOUR, "g", "new", 2 * HOUR)]
    source = Asked(fence(standby=False, fresh_until=None))
    with Spool() as spool:
        assert read_open(source, known, Span(START, START + 3 * HOUR), spool) is None
        assert source.spans == [
            ("old", Span(START, START + 2 * HOUR)),
            ("new", Span(START + 2 * HOUR, START + 4 * HOUR)),
        ]
        assert spool.rows == 3


def test_a_standby_tells_up_to_when_it_shows_everything() -> None:
    """It is read all the same, since nothing is planned from it; whoever looks is told."""
    shown = START + HOUR / 2
    source = Asked(fence(standby=True, fresh_until=shown))
    with Spool() as spool:
        known = [Definition(START, "f", "q", HOUR)]
        assert read_open(source, known, Span(START, START + 2 * HOUR), spool) == shown
        assert spool.rows == 2
