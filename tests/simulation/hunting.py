"""Looks for bugs made on purpose: lives one life after the other with a bug in the code until one breaks a rule."""

from tests.simulation import (
    mutants,
    mutants_backfill,
    mutants_cancelling,
    mutants_clocks,
    mutants_failover,
    mutants_files,
    mutants_first_use,
    mutants_intake,
    mutants_moves,
    mutants_newest,
    mutants_places,
    mutants_renaming,
    mutants_source,
)
from tests.simulation.life import live
from tests.simulation.mutation import MUTANTS

__all__ = [
    "MUTANTS",
    "hunt",
    "mutants",
    "mutants_backfill",
    "mutants_cancelling",
    "mutants_clocks",
    "mutants_failover",
    "mutants_files",
    "mutants_first_use",
    "mutants_intake",
    "mutants_moves",
    "mutants_newest",
    "mutants_places",
    "mutants_renaming",
    "mutants_source",
]

MOST_LIVES = 600
"""In how many lives a mutant must be found."""


def hunt(name: str, first: int, most: int = MOST_LIVES) -> tuple[int, str]:
    """Return after how many lives a mutant was found, and by what; (0, "") if it was not."""
    chosen = next(each for each in MUTANTS if each.name == name)
    with chosen.patch():
        for number in range(1, most + 1):
            try:
                lived = live(first + number - 1)
            except KeyError as error:  # it has done what the ledger has no answer to, which nobody overlooks
                return number, f"the ledger breaks: {error!r}"
            if lived.rule:
                return number, lived.rule
    return 0, ""
