"""The largest shares of a flame graph, in words: who was at work in the samples of a profiler.

    py-spy record --gil --rate 250 --format raw -o v1.raw -- python -m bench.one v1
    python -m bench.shares v1.raw [--under Sender.run_once --under LoopThread] [--most 10]

py-spy (github.com/benfred/py-spy) is asked for the threads that hold the interpreter, so that who waits is not counted. Each
sample is a line of frames and a count. With `--under`, only samples count in which such a frame stands. A sample belongs to
the innermost module of a package: what the standard library does for somebody is that one's.
"""

import argparse
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

FRAME = re.compile(r"^(?P<function>.+) \((?P<file>[^()]+?)(:\d+)?\)$")

OURS = ("aggregator", "psycopg", "stripe", "aiohttp", "metronome", "httpx", "structlog", "logging", "uvloop")
"""Packages whose work has a name of its own; whatever else is below one of them is its doing."""


def owner(frames: Sequence[str]) -> str:
    """Return whose work a sample shows: the package and the module, or of a library the package alone."""
    for frame in reversed(frames):
        found = FRAME.match(frame)
        parts = found["file"].split("/") if found else []
        for package in OURS:
            if package in parts:
                inside = parts[parts.index(package) :]
                return "/".join(inside) if package == "aggregator" else package
    return "the interpreter"


def shares(lines: Iterable[str], under: Sequence[str]) -> tuple[int, Counter[str]]:
    """Return how many samples count, and how many of them belong to whom."""
    counted: Counter[str] = Counter()
    for line in lines:
        stack, _, count = line.rpartition(" ")
        if not under or any(name in stack for name in under):
            counted[owner(stack.split(";"))] += int(count)
    return counted.total(), counted


def main() -> None:
    """Print the largest shares."""
    parser = argparse.ArgumentParser(prog="bench.shares", description="The largest shares of a flame graph.")
    parser.add_argument("raw", type=Path, help="What `py-spy record --format raw` wrote.")
    parser.add_argument(
        "--under", action="append", default=[], help="Only samples with a frame of this name."
    )
    parser.add_argument("--most", type=int, default=10, help="How many are shown.")
    given = parser.parse_args()
    total, counted = shares(given.raw.read_text().splitlines(), given.under)
    if not total:
        raise SystemExit(f"bench.shares: {given.raw} has no such samples.")
    print(f"{total:,} samples")
    for name, count in counted.most_common(given.most):
        print(f"{count / total:6.1%}  {name}")


if __name__ == "__main__":
    main()
