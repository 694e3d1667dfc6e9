"""Charts: bars stand for figures, whatever these are."""

import datetime as dt
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.web.charts import BOTTOM, HEIGHT, TOP, WIDTH, Point, chart

START = dt.datetime(2026, 11, 1, tzinfo=dt.UTC)
BASE = HEIGHT - BOTTOM
amounts = st.decimals("-1e12", "1e24", places=3)


def points(*figures: tuple[Decimal, Decimal]) -> list[Point]:
    return [Point(START + dt.timedelta(days=n), used, billed) for n, (used, billed) in enumerate(figures)]


@given(st.lists(st.tuples(amounts, amounts), max_size=40))
def test_every_bar_lies_in_the_drawing(figures: list[tuple[Decimal, Decimal]]) -> None:
    """And what is billed in what was used; few lines, the highest of which no bar overtops."""
    drawn = chart(points(*figures), "it", "%d %b")
    assert len(drawn.bars) == len(figures)
    for bar in drawn.bars:
        assert 0 <= bar.x <= bar.x + bar.width <= WIDTH
        assert TOP - 0.02 <= bar.y <= BASE
        assert 0 <= bar.billed_height <= bar.height + 0.02
        assert bar.y + bar.height == pytest.approx(BASE, abs=0.02)
    assert 2 <= len(drawn.ticks) <= 6
    assert len(drawn.labels) <= 10


def test_a_bar_is_as_high_as_its_figure() -> None:
    """Half as much is half as high, and it says its exact figure."""
    drawn = chart(points((Decimal("0.3"), Decimal("0.1")), (Decimal("0.6"), Decimal("0.6"))), "it", "%d %b")
    first, second = drawn.bars
    assert first.height == pytest.approx(second.height / 2, abs=0.02)
    assert first.billed_height == pytest.approx(first.height / 3, abs=0.02)
    assert first.title == "01 Nov: 0.3 used, 0.1 billed"
    assert (
        drawn.title
        == "it, 2 bars from 2026-11-01 00:00 UTC on: 0.9 in total; the highest, 0.6, at 2026-11-02 00:00"
    )


def test_nothing_is_drawn_of_nothing() -> None:
    """And that is said."""
    assert chart([], "it", "%d").title == "it: nothing yet"
