"""`make bench`: print the figures that the documentation quotes.

    python -m bench [NAME]... [--runs N] [--small | --scale N] [--against CHECKOUT]

`table` stands for what the README's ratios are from, others on the same work included.

Beside the seconds by the clock stands the processor time per event, in microseconds: of the client, which is the process
that is measured, of the ledger, which is Postgres with the query of the source, and of the sandbox or store. Machines differ
and are noisy: compare ratios, and say on what they were measured. With another checkout, both are measured in turns by the
same files, and ratios are taken run by run.
"""

import argparse
import os
import platform
from contextlib import ExitStack
from pathlib import Path

from bench import claims
from bench.checkouts import HOME, Checkout, checkout
from bench.figures import Figure, Missing, heading, line, loaded, ratios
from bench.one import MEASURES
from bench.peers.__main__ import compare

CLAIMS, PEERS = "claims", "peers"

TABLE = ("v1", "v1-limited", "stream", "metronome", "million", "start", PEERS)
"""What `table` stands for."""

KNOWN = (*MEASURES, CLAIMS, PEERS)


def main() -> None:
    """Run the benchmarks and print a line for each figure."""
    parser = argparse.ArgumentParser(prog="bench", description="Print measured figures.")
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"Of: {', '.join(KNOWN)}; table. Without: all but peers."
    )
    parser.add_argument("--runs", type=int, default=3, help="How often each is measured (default 3).")
    parser.add_argument("--small", action="store_true", help="A tenth of the size, to see that it works.")
    parser.add_argument("--scale", type=int, help="Divide the size by this.")
    parser.add_argument("--against", type=Path, help="Another checkout, measured in turns with this one.")
    given = parser.parse_args()
    if unknown := set(given.names) - {*KNOWN, "table"}:
        parser.error(f"there is no {', '.join(sorted(unknown))}")
    scale = given.scale or (10 if given.small else 1)
    wanted = given.names or [*MEASURES, CLAIMS]
    names = dict.fromkeys(each for name in wanted for each in (TABLE if name == "table" else (name,)))
    with ExitStack() as stack:
        here = stack.enter_context(checkout(HOME))
        there = stack.enter_context(checkout(given.against)) if given.against else None
        print(f"{os.cpu_count()} cores, Python {platform.python_version()}, median of {given.runs} run(s)")
        print("processor time of client, ledger, sandbox and all of them in microseconds per event")
        print(heading())
        for name in names:
            if name == CLAIMS:
                claims.report(1_000_000 // scale, given.runs, claims.PIECE, here, there)
            elif name == PEERS:
                compare(scale, given.runs, here, there)
            else:
                _measure(name, scale, given.runs, here, there)


def _measure(name: str, scale: int, runs: int, here: Checkout, there: Checkout | None) -> None:
    """Measure both in turns; print our figures, and theirs with the ratios."""
    ours: list[list[Figure]] = []
    theirs: list[list[Figure]] = []
    for _ in range(runs):
        found = _one(here, name, scale)
        if isinstance(found, Missing):
            raise SystemExit(f"bench: {name} cannot be measured ({found.why})")
        ours.append(found)
        if there is None:
            continue
        found = _one(there, name, scale)
        if isinstance(found, Missing):
            print(f"{name}: no figure of {there.root} ({found.why})")
            there = None
        else:
            theirs.append(found)
    for figures in zip(*ours, strict=True):
        print(line(figures[0].name, figures), flush=True)
        others = [each for found in theirs for each in found if each.name == figures[0].name]
        if there is not None and len(others) == len(figures):
            print(line(f"  {there.root}", others))
            print(ratios("  times as much as here", others, figures), flush=True)


def _one(side: Checkout, name: str, scale: int) -> list[Figure] | Missing:
    done = side.call("bench.one", name, "--scale", str(scale))
    if done.returncode:
        return Missing((done.stderr.strip().splitlines() or ["it said nothing"])[-1])
    return loaded(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
