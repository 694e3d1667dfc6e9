"""`make bench`: print the figures that the documentation quotes.

    python -m bench [--runs N] [--small]

Each figure is the median of the runs. Machines differ and are noisy: compare ratios, and say on what it was measured.
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys

from bench import claims, end_to_end


def main() -> None:
    """Run every benchmark and print a line for each figure."""
    parser = argparse.ArgumentParser(prog="bench", description="Print measured figures.")
    parser.add_argument("--runs", type=int, default=3, help="How often each is measured (default 3).")
    parser.add_argument("--small", action="store_true", help="A tenth of the size, to see that it works.")
    given = parser.parse_args()
    scale = 10 if given.small else 1
    print(f"{os.cpu_count()} cores, Python {platform.python_version()}, median of {given.runs} run(s)\n")

    quick = [
        end_to_end.measure(1_000_000 // scale, 1_000, 20, latency_seconds=0, rate=100_000)
        for _ in range(given.runs)
    ]
    events = quick[0].events
    rows = 1_000_000 // scale
    _line(
        f"{rows:,} raw rows -> {events:,} events: read, plan, commit", "s", [f.collect_seconds for f in quick]
    )
    _line("  ... and deliver to the sandbox at 0 ms", "s", [f.deliver_seconds for f in quick])
    _line("  ... which is, v1 calls", "events/s", [f.events / f.deliver_seconds for f in quick])
    slow = [
        end_to_end.measure(100_000 // scale, 1_000, 20, latency_seconds=0.05, rate=1_000)
        for _ in range(given.runs)
    ]
    _line(
        "v1 calls at 50 ms latency, limited to 1,000/s",
        "events/s",
        [f.events / f.deliver_seconds for f in slow],
    )
    for transport, far in (("stream", "the stream"), ("metronome", "Metronome")):
        bulk = [
            end_to_end.measure(
                200_000 // scale, 10_000 // scale, 20, latency_seconds=0.05, rate=100_000, transport=transport
            )
            for _ in range(given.runs)
        ]
        _line(
            f"{far} at 50 ms latency, {bulk[0].events:,} events, ledger included",
            "events/s",
            [f.events / f.deliver_seconds for f in bulk],
        )
    passes = [_million(1_000_000 // scale) for _ in range(given.runs)]
    customers = f"{1_000_000 // scale:,} customers"
    _line(f"{customers}, one window: stage, plan, commit", "s", [first for first, _, _ in passes])
    _line(f"{customers}, the same window unchanged", "s", [again for _, again, _ in passes])
    _line("peak memory of the process", "MB", [peak for _, _, peak in passes])
    for kind in ("directory", "s3"):
        written = [_files(kind, 1_000_000 // scale) for _ in range(given.runs)]
        many = f"{1_000_000 // scale:,} events"
        _line(f"{many} to a file, {kind}: claim, write, settle", "s", [seconds for seconds, _ in written])
        _line("peak memory of the process", "MB", [peak for _, peak in written])
    waiting = 1_000_000 // scale
    with claims.worker(waiting) as worker:
        for feeds in claims.FEEDS:
            for batch in claims.BATCHES:
                [used] = claims.compare([worker], feeds, batch, given.runs)
                name = f"claim {batch:,} of {waiting:,} events that wait of {feeds} meter(s), settle them"
                _line(name, "us/event", [each.whole for each in used])


def _line(name: str, unit: str, figures: list[float]) -> None:
    spread = f"{min(figures):,.1f} to {max(figures):,.1f}"
    print(f"{name:<78} {statistics.median(figures):>9,.1f} {unit:<9} ({spread})", flush=True)


def _million(customers: int) -> tuple[float, float, float]:
    """Measure in a process of its own, so that its peak memory is its own."""
    call = [sys.executable, "-m", "bench.million", str(customers)]
    done = subprocess.run(call, capture_output=True, text=True, check=True)
    first, again, peak = (float(word) for word in done.stdout.split())
    return first, again, peak


def _files(kind: str, events: int) -> tuple[float, float]:
    """Write files in a process of its own, and have them validated."""
    call = [sys.executable, "-m", "bench.files", kind, str(events)]
    done = subprocess.run(call, capture_output=True, text=True, check=True)
    _, seconds, _, peak = (float(word) for word in done.stdout.split())
    return seconds, peak


if __name__ == "__main__":
    main()
