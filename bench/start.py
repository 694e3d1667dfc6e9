"""What it takes to start: the help, and the daemon to the end of its first pass, its ledger and source there already."""

import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

from aggregator.ledger.database import migrate
from bench.figures import Figure
from bench.processor import tree_seconds
from bench.stand import stand

ENDED = {"pass_committed", "pass_unchanged"}

AGGREGATOR = (sys.executable, "-m", "aggregator")


def measure(times: int) -> list[Figure]:
    """Start each so many times, and take the medians. An event is a start."""
    with stand() as on:
        path = on.configure(on.source(1_000, 10, 20), 1_000, "v1")
        migrate(on.server.url("ledger"))
        daemon = [*AGGREGATOR, "run", "--first-time", "--verbose", "--config", str(path)]
        return [
            _median("aggregator --help", times, _help),
            _median("aggregator run, to the end of its first pass", times, lambda: _first_pass(daemon)),
        ]


def _median(name: str, times: int, start: Callable[[], tuple[float, float]]) -> Figure:
    wall, client = zip(*(start() for _ in range(times)), strict=True)
    return Figure(name, 1, statistics.median(wall), {"client": statistics.median(client)})


def _help() -> tuple[float, float]:
    """Return seconds by the clock and of the processor."""
    used, began = _children(), time.monotonic()
    subprocess.run([*AGGREGATOR, "--help"], stdout=subprocess.DEVNULL, check=True)
    return time.monotonic() - began, _children() - used


def _children() -> float:
    """Return the processor time of all that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _first_pass(daemon: Sequence[str]) -> tuple[float, float]:
    """Return the same of a daemon, at the end of its first pass."""
    began = time.monotonic()
    with subprocess.Popen(daemon, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        ended = any(json.loads(line)["event"] in ENDED for line in process.stderr)
        wall, client = time.monotonic() - began, tree_seconds(process.pid)
        process.terminate()
        process.stderr.read()
    assert ended, "the daemon ended before its first pass did"
    return wall, client
