"""Print what others take for the same work, and how many times as much as ours that is.

    python -m bench.peers [NAME]... [--runs N] [--small | --scale N] [--latency SECONDS] [--against CHECKOUT]

A million rows become 20,000 events, all of which are sent by one call each. Processor time is that of the peer's process
from its start to its end, of Postgres, and of the server; ours includes the ledger, which the others do not have.
"""

import argparse
import os
import platform
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from bench.checkouts import HOME, Checkout, checkout
from bench.figures import Figure, heading, line, ratios
from bench.peers import dlt, drt, ours
from bench.peers.work import Work, work

PEERS = {"drt": drt.measure, "dlt": dlt.measure}
OURS, BEFORE = "ours", "before"


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.peers", description="Measure others on the same work.")
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"Of: {', '.join((OURS, *PEERS))}. Without: all."
    )
    parser.add_argument(
        "--runs", type=int, default=3, help="How often each is measured, in turns (default 3)."
    )
    parser.add_argument("--small", action="store_true", help="A tenth of the size.")
    parser.add_argument("--scale", type=int, help="Divide the size by this.")
    parser.add_argument(
        "--latency", type=float, default=0.0, help="Let the server answer after so many seconds."
    )
    parser.add_argument("--against", type=Path, help="Another checkout of ours, measured as one more.")
    given = parser.parse_args()
    if unknown := set(given.names) - {OURS, *PEERS}:
        parser.error(f"there is no {', '.join(sorted(unknown))}")
    with ExitStack() as stack:
        here = stack.enter_context(checkout(HOME))
        there = stack.enter_context(checkout(given.against)) if given.against else None
        print(f"{os.cpu_count()} cores, Python {platform.python_version()}, median of {given.runs} run(s)")
        print(
            "processor time of client, Postgres, server and all of them in microseconds per event",
            heading(),
            sep="\n",
        )
        scale = given.scale or (10 if given.small else 1)
        compare(scale, given.runs, here, there, given.names or (OURS, *PEERS), given.latency)


def compare(
    scale: int,
    runs: int,
    here: Checkout,
    there: Checkout | None,
    names: Iterable[str] = (OURS, *PEERS),
    latency: float = 0.0,
) -> None:
    """Measure all in turns; print a line for each, and how many times as much as ours that is."""
    measures: dict[str, Callable[[Work], Figure]] = {
        **({OURS: partial(ours.measure, side=here)} if OURS in names else {}),
        **({BEFORE: partial(ours.measure, side=there)} if there else {}),
        **{name: measure for name, measure in PEERS.items() if name in names},
    }
    found: dict[str, list[Figure]] = {name: [] for name in measures}
    for _ in range(runs):
        for name, figures in found.items():
            with work(1_000_000 // scale, max(1_000 // scale, 1), latency) as on:
                figures.append(measures[name](on))
    events = next(iter(found.values()))[0].events
    print(f"{1_000_000 // scale:,} rows -> {events:,} events, one call each, {1_000 * latency:.0f} ms:")
    for name, figures in found.items():
        print(line(f"  {there.root}" if there and name == BEFORE else f"  {figures[0].name}", figures))
        if name != OURS and OURS in found:
            print(ratios("    times as much as ours", figures, found[OURS]), flush=True)


if __name__ == "__main__":
    main()
