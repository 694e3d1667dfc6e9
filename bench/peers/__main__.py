"""Print what others take for the same work, and how many times as much as ours that is.

    python -m bench.peers [NAME]... [--runs N] [--small | --scale N] [--latency SECONDS]

A million rows become 20,000 events, all of which are sent by one call each. Processor time is that of the peer's process
from its start to its end, of Postgres, and of the server; ours includes the ledger, which the others do not have.
"""

import argparse
import os
import platform

from bench.figures import Figure, heading, line, ratios
from bench.peers import dlt, drt, ours
from bench.peers.work import work

PEERS = {"ours": ours, "drt": drt, "dlt": dlt}


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.peers", description="Measure others on the same work.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"Of: {', '.join(PEERS)}. Without: all.")
    parser.add_argument(
        "--runs", type=int, default=3, help="How often each is measured, in turns (default 3)."
    )
    parser.add_argument("--small", action="store_true", help="A tenth of the size.")
    parser.add_argument("--scale", type=int, help="Divide the size by this.")
    parser.add_argument(
        "--latency", type=float, default=0.0, help="Let the server answer after so many seconds."
    )
    given = parser.parse_args()
    if unknown := set(given.names) - PEERS.keys():
        parser.error(f"there is no {', '.join(sorted(unknown))}")
    scale = given.scale or (10 if given.small else 1)
    found: dict[str, list[Figure]] = {name: [] for name in given.names or PEERS}
    for _ in range(given.runs):
        for name, figures in found.items():
            with work(1_000_000 // scale, max(1_000 // scale, 1), given.latency) as on:
                figures.append(PEERS[name].measure(on))
    print(f"{os.cpu_count()} cores, Python {platform.python_version()}, median of {given.runs} run(s)")
    events = next(iter(found.values()))[0].events
    print(
        f"{1_000_000 // scale:,} rows -> {events:,} events, v1 calls, {1_000 * given.latency:.0f} ms;",
        end=" ",
    )
    print("processor time of client, Postgres and server in microseconds per event")
    print(heading())
    for name, figures in found.items():
        print(line(figures[0].name, figures))
        if name != "ours" and "ours" in found:
            print(ratios("  times as much as ours", figures, found["ours"]))


if __name__ == "__main__":
    main()
