"""After an outage: how fast a backlog leaves, in how much memory, and whether its newest windows wait until the end.

    python -m bench.outage [--events 1000000] [--transport stream] [--rate N] [--away 20]

The transport is one of Stripe's, or `metronome`.

The ledger is filled with events of 24 windows, in the order in which passes would have planned them. A daemon is started
while the sandbox answers everything with an error, the sandbox recovers, and the backlog is watched until it has left.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import psycopg

from aggregator.sandbox import ControlClient
from aggregator.sandbox.metronome import MetronomeControl
from bench.processor import tree_seconds
from bench.stand import Stand, first_day, stand

METRONOME = "metronome"
WINDOWS = 24
LOOK_SECONDS = 0.5
LONGEST_SECONDS = 1_800.0

OUTBOX = """
insert into aggregator.outbox (event_id, slot_id, pass_id, sink_id, feed_id, revision, window_start, at, planned_at, due_at,
                               customer, identifier, delta, total)
select n, n, 1, feed.sink_id, feed.id, 0, start, start + interval '5 min', now(), now(), 'cus_' || n, 'bench_' || n, 2, 2
  from aggregator.feed, generate_series(1, %(events)s) as n
 cross join lateral (
        select date_trunc('hour', now())
               - (%(windows)s - (n - 1)::bigint * %(windows)s / %(events)s) * interval '1 hour' as start
       ) as its
 order by n
"""

# For each window, after how long half of its events had left.
HALVES = """
select window_start, extract(epoch from percentile_disc(0.5) within group (order by settled_at) - %(since)s)::float8
  from aggregator.event where state = 'accepted' group by 1 order by 1
"""

Ledger = psycopg.Connection[tuple[Any, ...]]


class Drained(NamedTuple):
    """What a drain came to: seconds by the clock and of the daemon's processor time, and its megabytes at the peak."""

    seconds: float
    processor_seconds: float
    peak_megabytes: float
    halves: list[float]
    """Seconds until half of each window had left, the oldest window first."""


def measure(events: int, transport: str, rate: int | None, away: float) -> Drained:
    """Fill a ledger, let a daemon meet a sink that is away, and watch what it does when the sink is back."""
    with stand() as stood:
        path = stood.directory / "aggregator.yaml"
        path.write_text(json.dumps(config(stood, transport, rate)))
        call = [sys.executable, "-m", "aggregator", "run", "--first-time", "--config", str(path)]
        subprocess.run([*call, "--once"], check=True, stdout=subprocess.DEVNULL)
        with psycopg.connect(stood.server.url("ledger"), autocommit=True) as ledger:
            ledger.execute(OUTBOX, {"events": events, "windows": WINDOWS})
            ledger.execute("vacuum (analyze)")
            sink = (MetronomeControl if transport == METRONOME else ControlClient)(stood.sandbox)
            sink.set_faults(error_before=1.0)
            with (
                (stood.directory / "log").open("wb") as log,
                subprocess.Popen(call, stdout=log, stderr=log) as daemon,
            ):
                try:
                    time.sleep(away)  # noqa: TID251 - a benchmark lets time pass
                    sink.set_faults()
                    return watch(daemon.pid, ledger)
                finally:
                    daemon.terminate()


def config(stood: Stand, transport: str, rate: int | None) -> dict[str, Any]:
    """Return a configuration whose source has no usage: all that is sent is in the ledger."""
    with psycopg.connect(stood.server.url(), autocommit=True) as connection:
        connection.execute("create database ledger")
        connection.execute("create database app")
    with psycopg.connect(stood.server.url("app"), autocommit=True) as connection:
        connection.execute("create table usage (customer text, used_at timestamptz)")
    sink: dict[str, Any] = {
        "type": "stripe",
        "api_key": "sk_test_bench",
        "mode": "test",
        "api_base": stood.sandbox,
        "transport": transport,
    }
    if transport == METRONOME:
        MetronomeControl(stood.sandbox).add_metric("api_requests")
        sink = {
            "type": "metronome",
            "api_key": "bench",
            "quantity_encoding": "text",
            "api_base": f"{stood.sandbox}/metronome",
        }
    return {
        "ledger": {"url": stood.server.url("ledger")},
        "sources": {"app": {"url": stood.server.url("app")}},
        "sinks": {"far": sink if rate is None else {**sink, "rate_limit": rate}},
        "meters": {
            "api_requests": {
                "source": "app",
                "sinks": ["far"],
                "window": "1h",
                "start_at": first_day(stood.server),
                "query": "select customer, count(*) as quantity, max(used_at) as at, date_trunc('hour', used_at) as "
                '"window" from usage where used_at >= :start and used_at < :end group by 1, 4',
            }
        },
    }


def watch(daemon: int, ledger: Ledger) -> Drained:
    """Wait until nothing is owed any more."""
    began, processor = time.monotonic(), tree_seconds(daemon)
    row = ledger.execute("select clock_timestamp()").fetchone()
    assert row is not None
    while ledger.execute("select exists (select from aggregator.outbox)").fetchone() == (True,):
        if time.monotonic() - began > LONGEST_SECONDS:
            raise SystemExit("The backlog did not leave.")
        time.sleep(LOOK_SECONDS)  # noqa: TID251 - a benchmark lets time pass
    seconds, spent = time.monotonic() - began, tree_seconds(daemon) - processor
    status = Path(f"/proc/{daemon}/status").read_text().splitlines()
    peak = int(next(line for line in status if line.startswith("VmHWM:")).split()[1]) / 1024
    return Drained(seconds, spent, peak, [half for _, half in ledger.execute(HALVES, {"since": row[0]})])


def main() -> None:
    """Print what it came to."""
    parser = argparse.ArgumentParser(prog="bench.outage", description="How a backlog leaves after an outage.")
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--transport", default="stream")
    parser.add_argument("--rate", type=int, help="The sink's rate_limit; left out: none.")
    parser.add_argument("--away", type=float, default=20.0, help="Seconds for which the sink is away.")
    given = parser.parse_args()
    found = measure(given.events, given.transport, given.rate, given.away)
    print(
        f"{given.events:,} events by {given.transport}: {found.seconds:.1f} s, "
        f"{given.events / found.seconds:,.0f} events/s, "
        f"{1e6 * found.processor_seconds / given.events:.0f} us CPU per event, {found.peak_megabytes:.0f} MB at the peak"
    )
    parts = [
        f"{half / found.seconds:.0%}"
        for half in (found.halves[0], found.halves[WINDOWS // 2], found.halves[-1])
    ]
    print(
        "half had left after this part of the time, of the oldest, middle, newest window: " + ", ".join(parts)
    )


if __name__ == "__main__":
    main()
