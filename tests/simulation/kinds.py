"""Kinds of lives with dice of their own, beside those that are drawn: by how a meter is read, and by how long it goes on."""

from collections.abc import Callable
from typing import Any

from tests.simulation.by_cursor import drawn_by_cursor
from tests.simulation.by_mapping import drawn_by_mapping
from tests.simulation.by_months import drawn_by_months
from tests.simulation.by_samples import drawn_sampled
from tests.simulation.conditions import Conditions, drawn
from tests.simulation.life import Life, Lived, live, outcome

Drawn = Callable[[int, Any, Any], Conditions]

KINDS: dict[str, Callable[[int, Drawn], Conditions]] = {
    "cursor": drawn_by_cursor,
    "mapping": drawn_by_mapping,
    "months": drawn_by_months,
    "samples": drawn_sampled,
}


def live_kind(seed: int, kind: str = "", kept: int = 60) -> Lived:
    """Live the life of a seed of a kind; without one, as it is drawn."""
    return outcome(Life(seed, conditions=KINDS[kind](seed, drawn), kept=kept)) if kind else live(seed, kept)
