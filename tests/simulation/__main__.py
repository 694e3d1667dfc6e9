"""Many lives, or one again. `make sim` and `make mutants` come here.

python -m tests.simulation --seeds 2000     live 2,000 lives on all cores, and print a table
python -m tests.simulation --seed 17        live one again, and tell its story
python -m tests.simulation --kind samples   live lives of one kind: samples, mapping or cursor
python -m tests.simulation --mutants        let the simulation find every bug of a list
"""

import argparse
import os
import statistics
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context

from tests.simulation.hunting import MOST_LIVES, MUTANTS, concerned, hunt
from tests.simulation.kinds import KINDS, live_kind
from tests.simulation.life import Lived
from tests.simulation.marks import RARE, Marks
from tests.simulation.mutation import Mutant

WHOLE_STORY = 100_000
ENOUGH_FOR_EVERY_MARK = 1_000
"""A run of so many lives must have met every rare path."""

OFFSETS = (1, 1001, 2001)
"""Where the search for each mutant begins, several times."""


def say(*words: object) -> None:
    """Write a line."""
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


def pool() -> ProcessPoolExecutor:
    """Return a process per core."""
    return ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn"))


def many(first: int, seeds: int, kind: str) -> int:
    """Live many lives, of a kind, or as drawn and a tenth of each kind beside; return 1 unless all was as it must be."""
    began, marks, broken = time.monotonic(), Marks(), list[Lived]()
    days, events = 0.0, 0
    with pool() as workers:
        kinds = {kind: seeds} if kind else {"": seeds, **dict.fromkeys(KINDS, seeds // 10)}
        futures = {
            workers.submit(live_kind, seed, each): each
            for each, number in kinds.items()
            for seed in range(first, first + number)
        }
        for future in as_completed(futures):
            lived, its = future.result(), futures[future]
            marks.update(lived.marks)
            days, events = days + lived.days, events + lived.events
            if lived.rule:
                broken.append(lived)
                say(f"seed {lived.seed}: {lived.rule}: {lived.facts}\n  again: {_again(lived.seed, its)}")
    seconds = time.monotonic() - began
    say()
    for name, figure in (
        ("seeds", seeds),
        ("simulated days", round(days)),
        ("requests that reached the service", events),
        ("violations", len(broken)),
        ("seconds", round(seconds)),
        ("seeds per second", round(seeds / seconds, 1)),
    ):
        say(f"{name:<44}{figure:>14,}")
    say(f"\n{'met on the transport':<44}{'times':>14}")
    for name in RARE:
        say(f"{name:<44}{marks[name]:>14,}")
    enough = seeds >= ENOUGH_FOR_EVERY_MARK and not kind
    missed = [name for name in RARE if not marks[name]] if enough else []
    if missed:
        say(f"\nnever met, so nothing is proven about: {', '.join(missed)}")
    return 1 if broken or missed else 0


def _again(seed: int, kind: str) -> str:
    return f"make sim SEED={seed}" + (f" ARGS='--kind {kind}'" if kind else "")


def one(seed: int, kind: str) -> int:
    """Live one life again, and tell what happened."""
    lived = live_kind(seed, kind, kept=WHOLE_STORY if not os.environ.get("SHORT") else 60)
    say(lived.trace or f"seed {seed}: {lived.days:.0f} days, {lived.events} requests, nothing to tell")
    if lived.rule:
        say(f"\n{lived.rule}: {lived.facts}")
    return 1 if lived.rule else 0


def mutants(only: str | None) -> int:
    """Let the simulation find every mutant, from several beginnings; return 1 if one survives.

    Lives that a mutant cannot change count as lived, but are not lived again.
    """
    chosen = [each for each in MUTANTS if not only or each.name in only.split(",")]
    survivors: list[Mutant] = []
    with pool() as workers:
        seeds = [seed for first in OFFSETS for seed in range(first, first + MOST_LIVES)]
        concern = dict(zip(seeds, workers.map(concerned, seeds, chunksize=10), strict=True))
        hunts = {
            each.name: {
                first: workers.submit(
                    hunt,
                    each.name,
                    [
                        seed
                        for seed in seeds
                        if first <= seed < first + MOST_LIVES and each.name in concern[seed]
                    ],
                )
                for first in OFFSETS
            }
            for each in chosen
        }
        say(f"{'mutant':<38}{'lives it can change':>20}{'median lives':>13}{'most':>6}  found by")
        for each in chosen:
            found = {first: future.result() for first, future in hunts[each.name].items()}
            lives = [seed - first + 1 for first, (seed, _) in found.items() if seed]
            rules = Counter(rule for _, rule in found.values() if rule)
            if len(lives) < len(found):
                survivors.append(each)
            said = ", ".join(f"{rule} ({times})" for rule, times in rules.most_common())
            median = f"{statistics.median(lives):g}" if lives else "-"
            able = sum(each.name in names for names in concern.values())
            say(
                f"{each.name:<38}{able:>20,}{median:>13}{max(lives, default=0):>6}  {said or 'nothing: it survives'}"
            )
    say(
        f"\n{len(chosen) - len(survivors)} of {len(chosen)} mutants found from each of {len(OFFSETS)} beginnings"
    )
    for each in survivors:
        say(f"survives somewhere: {each.name}: {each.says}")
    return 1 if survivors else 0


def main() -> int:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--first", type=int, default=1)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--kind", default="", choices=["", *KINDS])
    parser.add_argument("--mutants", nargs="?", const="")
    given = parser.parse_args()
    if given.mutants is not None:
        return mutants(given.mutants)
    if given.seed is not None:
        return one(given.seed, given.kind)
    return many(given.first, given.seeds, given.kind)


if __name__ == "__main__":
    sys.exit(main())
