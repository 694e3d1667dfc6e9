"""Usage over time as bars: where each lies in a drawing of a fixed size. Pure.

Colours are the stylesheet's, by class: a strict policy lets a page bring no styles of its own.
"""

import datetime as dt
from collections.abc import Sequence
from decimal import Decimal
from typing import NamedTuple

from aggregator.core.model import ZERO
from aggregator.core.shown import shown

WIDTH, HEIGHT = 960, 240
LEFT, RIGHT, TOP, BOTTOM = 8, 84, 12, 28
"""Room around the bars: figures stand at the right, where the newest bar is."""

GAP = Decimal("0.28")
"""The part of a bar's place that is left empty."""

STEPS = (Decimal(1), Decimal(2), Decimal("2.5"), Decimal(5), Decimal(10))
MOST_TICKS = 4
MOST_LABELS = 10


class Point(NamedTuple):
    """What was used in a stretch of time that begins at an instant, and how much of it is billed."""

    start: dt.datetime
    used: Decimal
    billed: Decimal


class Bar(NamedTuple):
    """A bar: where it lies, the part of it that is billed, and what it says."""

    x: float
    width: float
    y: float
    height: float
    billed_y: float
    billed_height: float
    title: str


class Label(NamedTuple):
    """A line or a label: where, and what it says."""

    at: float
    text: str


class Chart(NamedTuple):
    """A drawing, and what somebody is told who does not see it."""

    bars: list[Bar]
    ticks: list[Label]
    labels: list[Label]
    title: str
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    base: int = HEIGHT - BOTTOM


def chart(points: Sequence[Point], what: str, label: str) -> Chart:
    """Draw bars; `label` is how an instant is written below them."""
    top = max((point.used for point in points), default=ZERO)
    step = _step(top)
    highest = step * max(1, int(top / step) + (top % step > 0))
    room = Decimal(HEIGHT - TOP - BOTTOM)
    place = Decimal(WIDTH - LEFT - RIGHT) / max(1, len(points))

    def height(amount: Decimal) -> Decimal:
        return max(ZERO, amount) * room / highest + 0

    bars = []
    for number, point in enumerate(points):
        tall, billed = height(point.used), height(min(point.billed, point.used))
        x = LEFT + place * number + place * GAP / 2
        bars.append(
            Bar(
                _place(x),
                _place(max(Decimal(1), place * (1 - GAP))),
                _place(HEIGHT - BOTTOM - tall),
                _place(tall),
                _place(HEIGHT - BOTTOM - billed),
                _place(billed),
                f"{point.start:{label}}: {shown(point.used)} used, {shown(point.billed)} billed",
            )
        )
    ticks = [
        Label(_place(HEIGHT - BOTTOM - height(step * number)), shown(step * number))
        for number in range(int(highest / step) + 1)
    ]
    every = max(1, -(-len(points) // MOST_LABELS))
    labels = [
        Label(_place(LEFT + place * number + place / 2), f"{point.start:{label}}")
        for number, point in enumerate(points)
        if number % every == 0
    ]
    return Chart(bars, ticks, labels, _described(points, what))


def _described(points: Sequence[Point], what: str) -> str:
    if not points:
        return f"{what}: nothing yet"
    most = max(points, key=lambda point: point.used)
    total = sum((point.used for point in points), ZERO)
    return (
        f"{what}, {len(points)} bars from {points[0].start:%Y-%m-%d %H:%M} UTC on: {shown(total)} in total; the highest, "
        f"{shown(most.used)}, at {most.start:%Y-%m-%d %H:%M}"
    )


def _step(top: Decimal) -> Decimal:
    """Return a round step of which few reach up to the top."""
    if top <= 0:
        return Decimal(1)
    power = Decimal(1).scaleb((top / MOST_TICKS).adjusted())
    return next(power * each for each in STEPS if power * each * MOST_TICKS >= top)


def _place(value: Decimal) -> float:
    return float(round(value, 2)) + 0.0  # which is never minus zero
