"""Usage over the night in which New York's clocks go back, as DuckDB holds it; run as a program, what a process reads of it.

The program is told a URL, the files of a source and queries as JSON, and prints the slots of each query. So a test can
read in a process whose zone is not UTC.
"""

import datetime as dt
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any, NamedTuple

from aggregator.core.model import Span
from aggregator.source import Files, Source

HOUR = dt.timedelta(hours=1)
START = dt.datetime(2026, 10, 31, 12, tzinfo=dt.UTC)
NIGHT = Span(START, START + 30 * HOUR)
"""The clocks go back at 2026-11-01 06:00Z; Kathmandu is 5:45 ahead."""

Slots = dict[str, str]


class Use(NamedTuple):
    """One row."""

    customer: str
    quantity: Decimal
    at: dt.datetime


def uses() -> Iterator[Use]:
    """Yield rows on, shortly after, and a microsecond before each hour, with more digits than a double has."""
    for hour in range(30):
        for place, customer in enumerate(("001", "cus_b", "cus_c")):
            for offset in (
                dt.timedelta(0),
                20 * dt.timedelta(minutes=1),
                HOUR - dt.timedelta(microseconds=1),
            ):
                quantity = Decimal(123456789012 * (place + 1) + hour) + Decimal("0.000131")
                yield Use(customer, quantity, START + hour * HOUR + offset)


def expected() -> Slots:
    """Return what is in each slot, added up here."""
    sums: dict[str, Decimal] = {}
    for use in uses():
        slot = f"{use.customer} {use.at.replace(minute=0, second=0, microsecond=0):%m-%d %H}"
        sums[slot] = sums.get(slot, Decimal(0)) + use.quantity
    return {slot: str(each) for slot, each in sums.items()}


def slots(source: Source, query: str, span: Span = NIGHT) -> Slots:
    """Return what a source says of each slot."""
    sums: dict[str, Decimal] = {}
    for batch in source.read(query, span, HOUR):
        for reading in batch:
            assert reading.quantity is not None, reading.reason
            slot = f"{reading.customer} {reading.window_start:%m-%d %H}"
            sums[slot] = sums.get(slot, Decimal(0)) + reading.quantity
    return {slot: str(each) for slot, each in sums.items()}


def read_elsewhere(
    zone: str, url: str, queries: Mapping[str, str], files: Mapping[str, Mapping[str, Any]] | None = None
) -> dict[str, Slots]:
    """Return the slots of each query as a process in another zone reads them."""
    told = json.dumps({"url": url, "queries": dict(queries), "files": {**(files or {})}})
    done = subprocess.run(
        [sys.executable, "-m", "tests.core.duckdb_slots"],
        input=told,
        env={**os.environ, "TZ": zone},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Slots] = json.loads(done.stdout)
    return found


def main() -> None:
    """Read what standard input tells to read."""
    told = json.load(sys.stdin)
    files = {name: Files(**each) for name, each in told["files"].items()}
    source = Source("app", told["url"], statement_timeout=HOUR, timezone="UTC", files=files)
    json.dump({name: slots(source, query) for name, query in told["queries"].items()}, sys.stdout)


if __name__ == "__main__":
    main()
