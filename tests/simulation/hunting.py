"""Looks for bugs made on purpose: lives one life after the other with a bug in the code until one breaks a rule."""

from collections.abc import Sequence

from tests.simulation import (
    mutants,
    mutants_backfill,
    mutants_cancelling,
    mutants_clocks,
    mutants_dimensions,
    mutants_failover,
    mutants_files,
    mutants_first_use,
    mutants_moves,
    mutants_newest,
    mutants_notifications,
    mutants_places,
    mutants_renaming,
    mutants_source,
)
from tests.simulation.life import live
from tests.simulation.mutation import MUTANTS, watching

__all__ = [
    "MUTANTS",
    "concerned",
    "hunt",
    "mutants",
    "mutants_backfill",
    "mutants_cancelling",
    "mutants_clocks",
    "mutants_dimensions",
    "mutants_failover",
    "mutants_files",
    "mutants_first_use",
    "mutants_moves",
    "mutants_newest",
    "mutants_notifications",
    "mutants_places",
    "mutants_renaming",
    "mutants_source",
]

MOST_LIVES = 600
"""In how many lives a mutant must be found."""


def concerned(seed: int) -> set[str]:
    """Return the mutants that can change a life: it calls, as the code is, something that each replaces.

    Until the first such call a life with the bug is the same, step by step.
    """
    with watching() as called:
        live(seed)
        return called()


def hunt(name: str, lives: Sequence[int]) -> tuple[int, str]:
    """Return the first of these lives in which a mutant is found, and by what; (0, "") if it is in none."""
    chosen = next(each for each in MUTANTS if each.name == name)
    with chosen.patch():
        for seed in lives:
            lived = live(seed)
            if lived.rule:
                return seed, lived.rule
    return 0, ""
