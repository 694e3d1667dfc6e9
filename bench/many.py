"""What very many meters and feeds on one ledger cost: registering, passes, leases, status, metrics and pages.

    python -m bench.many [--meters 1000] [--sinks 5] [--against CHECKOUT]

Each meter is a query of its own and goes to each of the sinks, which are folders for files, so that no far side is measured.
Every step but the pages and the metrics is a command of its own, as somebody would call it. Seconds are by the clock; beside
them stands the processor time of the command, and of Postgres, which holds the ledger and the application's database.
"""

import argparse
import json
import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple
from urllib.request import urlopen

import psycopg

from bench.beside import address_in
from bench.checkouts import HOME, Checkout, checkout, python_of
from bench.idle import prepare
from bench.processor import tree_seconds
from bench.stand import Stand, first_day, stand

LONGEST_SECONDS = 900.0
LOOKS = 9
FINE = (0, 3)
"""How a command may end: 3 says that something waits for a person, such as files."""


class Cost(NamedTuple):
    """Seconds: by the clock, of our processor time, of that of Postgres."""

    clock: float
    ours: float
    postgres: float

    def __str__(self) -> str:
        return f"{self.clock:8.2f} s, processor time {self.ours:7.2f} s ours, {self.postgres:7.2f} s Postgres"


def main() -> None:
    """Print what each step took."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.many", description="Measure many meters and feeds."
    )
    parser.add_argument("--meters", type=int, default=1_000)
    parser.add_argument("--sinks", type=int, default=5, help="To how many of them each meter goes.")
    parser.add_argument("--against", type=Path, help="Another checkout, measured first.")
    given = parser.parse_args()
    for root in filter(None, (given.against, HOME)):
        with checkout(root) as side, stand() as stood:
            print(f"{side.root}: {given.meters:,} meters, {given.meters * given.sinks:,} feeds", flush=True)
            measure(side, stood, given.meters, given.sinks)


def measure(side: Checkout, stood: Stand, meters: int, sinks: int) -> None:
    """Go through a ledger's first day, step by step, and print what each took."""
    prepare(stood.server, meters)
    path = stood.directory / "aggregator.yaml"
    path.write_text(json.dumps(configuration(stood, meters, sinks)))
    postgres = stood.processes["ledger"]
    for what, command in (
        ("check --offline", ("check", "--offline")),
        ("first pass: registers, reads and plans", ("run", "--first-time", "--once")),
        ("pass with nothing new", ("run", "--once")),
        ("status", ("status",)),
        ("status --json", ("status", "--json")),
        ("usage", ("usage", "--by", "day")),
    ):
        print(f"  {what:<42} {called(side, postgres, path, command)}", flush=True)
    with psycopg.connect(stood.server.url("ledger")) as ledger:
        print(f"  {counted(ledger)}", flush=True)
    with serving(side, path) as (process, address):
        for page in ("/", "/metrics", "/meters/meter_1", "/readyz"):
            print(f"  {'GET ' + page:<42} {looked(process, postgres, address + page)}", flush=True)


def configuration(stood: Stand, meters: int, sinks: int) -> dict[str, Any]:
    """Return a configuration with so many meters, each for all of so many sinks."""
    server, names = stood.server, [f"files_{number}" for number in range(1, sinks + 1)]
    return {
        "ledger": {"url": server.url("ledger")},
        "state_dir": str(stood.directory / "state"),
        "sources": {"app": {"url": server.url("app")}},
        "sinks": {
            name: {"type": "directory", "directory": str(stood.directory / "out" / name)} for name in names
        },
        "defaults": {
            "source": "app",
            "sinks": names,
            "window": "1h",
            "start_at": first_day(server),
            "delay": "0s",
            "revisit": "3d",
        },
        "meters": {
            f"meter_{kind}": {
                "query": "select customer, count(*) as quantity, max(used_at) as at, date_trunc('hour', used_at) as "
                f'"window" from usage where kind = {kind} and used_at >= :start and used_at < :end group by 1, 4'
            }
            for kind in range(1, meters + 1)
        },
    }


def called(side: Checkout, postgres: int, path: Path, command: Sequence[str]) -> Cost:
    """Run a command to its end. Raises SystemExit with its last words where it fails."""
    ledger, began, ended = tree_seconds(postgres), time.monotonic(), os.times()
    call = [str(python_of(side.root)), "-m", "aggregator", *command, "--config", str(path)]
    ran = subprocess.run(
        call, cwd=side.place, env=side.environment, capture_output=True, check=False, timeout=LONGEST_SECONDS
    )
    if ran.returncode not in FINE:
        raise SystemExit(f"{' '.join(command)} ended with {ran.returncode}: {ran.stderr.decode()[-2000:]}")
    took, after = time.monotonic() - began, os.times()
    ours = after.children_user + after.children_system - ended.children_user - ended.children_system
    return Cost(took, ours, tree_seconds(postgres) - ledger)


def counted(ledger: psycopg.Connection[tuple[Any, ...]]) -> str:
    """Return what the ledger holds by now."""
    names = ("meter", "feed", "slot", "event", "pass")
    counts = [
        ledger.execute(f"select count(*) from aggregator.{name}".encode()).fetchall()[0][0] for name in names
    ]
    [[leases]] = ledger.execute("select coalesce(sum(epoch), 0)::bigint from aggregator.meter").fetchall()
    return (
        ", ".join(f"{count:,} {name}" for name, count in zip(names, counts, strict=True))
        + f", {leases:,} leases"
    )


@contextmanager
def serving(side: Checkout, path: Path) -> Iterator[tuple[int, str]]:
    """Serve the page and the metrics by a process of their own."""
    log = path.parent / "web"
    call = [
        str(python_of(side.root)),
        "-m",
        "aggregator",
        "web",
        "--listen",
        "127.0.0.1:0",
        "--config",
        str(path),
    ]
    with (
        log.open("wb") as to,
        subprocess.Popen(call, stdout=to, stderr=to, cwd=side.place, env=side.environment) as process,
    ):
        try:
            yield process.pid, address_in(log)
        finally:
            process.terminate()


def looked(process: int, postgres: int, url: str) -> Cost:
    """Ask for a page some times, after once; return the middle of the clock, and the rest per call."""
    seconds = []
    for number in range(LOOKS + 1):
        if number == 1:
            ours, ledger = tree_seconds(process), tree_seconds(postgres)
        began = time.monotonic()
        with urlopen(url, timeout=LONGEST_SECONDS) as answer:
            answer.read()
        seconds.append(time.monotonic() - began)
    spent, theirs = tree_seconds(process) - ours, tree_seconds(postgres) - ledger
    return Cost(median(seconds[1:]), spent / LOOKS, theirs / LOOKS)


if __name__ == "__main__":
    main()
