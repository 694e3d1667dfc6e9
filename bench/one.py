"""One measurement in a process of its own, over whichever package is on the path.

    python -m bench.one NAME [--scale N]

It prints a line of JSON: the figures, or under `missing` why this package has none, as when it has no such function.
"""

import argparse
import traceback
from collections.abc import Callable

from bench.figures import Figure, Missing, dumped

Measure = Callable[[int], list[Figure]]


def v1(scale: int) -> list[Figure]:
    """A million rows, sent by version 1 of the API."""
    from bench.end_to_end import measure

    return measure(1_000_000 // scale, 1_000, 20, latency_seconds=0, rate=100_000)


def v1_limited(scale: int) -> list[Figure]:
    """The same calls with a latency, at Stripe's rate."""
    from bench.end_to_end import measure

    return measure(100_000 // scale, 1_000, 20, latency_seconds=0.05, rate=1_000)


def _bulk(scale: int, transport: str) -> list[Figure]:
    from bench.end_to_end import measure

    rows, customers = 200_000 // scale, 10_000 // scale
    return measure(rows, customers, 20, latency_seconds=0.05, rate=100_000, transport=transport)


def stream(scale: int) -> list[Figure]:
    """Many events by the stream."""
    return _bulk(scale, "stream")


def metronome(scale: int) -> list[Figure]:
    """As many to Metronome."""
    return _bulk(scale, "metronome")


def million(scale: int) -> list[Figure]:
    """One window of very many customers."""
    from bench.million import measure

    return measure(1_000_000 // scale)


def dimensions(scale: int) -> list[Figure]:
    """As many slots of fewer customers, kept apart by two dimensions."""
    from bench.million import measure_apart

    return measure_apart(1_000_000 // scale)


def directory(scale: int) -> list[Figure]:
    """Very many events into a file."""
    from bench.files import measure

    return measure("directory", 1_000_000 // scale)


def s3(scale: int) -> list[Figure]:
    """As many into an object."""
    from bench.files import measure

    return measure("s3", 1_000_000 // scale)


def reconcile(scale: int) -> list[Figure]:
    """A million accepted events of ten thousand customers, compared with the sink's totals."""
    from bench.reconcile import measure

    return measure(max(10_000 // scale, 2))


def reconcile_together(scale: int) -> list[Figure]:
    """As many events of four meters, by event summaries and by meter usage."""
    from bench.reconcile import measure_together

    return measure_together(max(10_000 // scale, 2))


def start(scale: int) -> list[Figure]:
    """The help and the daemon, some times over."""
    from bench.start import measure

    return measure(max(10 // scale, 1))


MEASURES: dict[str, Measure] = {
    "v1": v1,
    "v1-limited": v1_limited,
    "stream": stream,
    "metronome": metronome,
    "million": million,
    "dimensions": dimensions,
    "directory": directory,
    "s3": s3,
    "reconcile": reconcile,
    "reconcile-together": reconcile_together,
    "start": start,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.one", description="Make one measurement.")
    parser.add_argument("name", choices=MEASURES)
    parser.add_argument("--scale", type=int, default=1, help="Divide the size by this.")
    given = parser.parse_args()
    found: list[Figure] | Missing
    try:
        found = MEASURES[given.name](given.scale)
    except (ImportError, AttributeError, TypeError) as error:
        traceback.print_exc()
        found = Missing(f"{type(error).__name__}: {error}")
    print(dumped(found))


if __name__ == "__main__":
    main()
