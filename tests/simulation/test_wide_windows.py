"""Lives with windows of several hours, where the service keeps each hour's newest number, and ledgers are set back."""

import random

import pytest

from aggregator.adoption import comparison
from aggregator.core.model import WriteModel
from tests.simulation.conditions import HOUR, Conditions, draw, with_restores
from tests.simulation.life import Life, Lived, outcome

SEEDS = range(1, 31)


def wide(seed: int) -> Conditions:
    """Draw a life of this kind."""
    dice = random.Random(f"{seed}: wide")
    conditions = with_restores(draw(dice), dice)
    conditions.restores = max(1, conditions.restores)
    conditions.lag = min(conditions.lag, HOUR)
    conditions.write_model, conditions.named = WriteModel.OVERWRITE, 1.0
    conditions.window = max(conditions.window, 3 * HOUR)
    return conditions


def lived(seed: int) -> Lived:
    return outcome(Life(seed, conditions=wide(seed)))


@pytest.mark.parametrize("seed", SEEDS)
def test_a_window_goes_on_in_the_hour_of_its_number(seed: int) -> None:
    """Nothing is billed beside what the service has, whatever was forgotten."""
    found = lived(seed)
    assert found.rule is None, f"{found.trace}\n\n{found.rule}: {found.facts}"


def test_a_window_that_goes_on_elsewhere_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug on purpose: adopted windows are stamped at their start. A life that shows it is lived first."""
    monkeypatch.setattr(comparison, "_kept_at", lambda comparison, places, stretch: None)
    assert any(lived(seed).rule for seed in (5, *SEEDS))
