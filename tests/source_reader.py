"""What tests of several engines read, and the processes that read it for them."""

import datetime as dt
import subprocess
import sys
import threading
from collections.abc import Callable
from decimal import Decimal

from aggregator.core.model import Span
from aggregator.errors import SourceError

HOUR = dt.timedelta(hours=1)
MICROSECOND = dt.timedelta(microseconds=1)

REPEATED = Span(dt.datetime(2026, 10, 31, 12, tzinfo=dt.UTC), dt.datetime(2026, 11, 2, 12, tzinfo=dt.UTC))
"""Two days around the hour that New York has twice."""

Row = tuple[str, Decimal, dt.datetime]

READER = """
import datetime as dt, resource
from aggregator.core.model import Span
from aggregator.source import Source
start, hour = dt.datetime(2026, 6, 1, tzinfo=dt.UTC), dt.timedelta(hours=1)
source = Source("app", {url!r}, statement_timeout=dt.timedelta(minutes=5))
def rows(query):
    return sum(len(batch) for batch in source.read(query, Span(start, start + hour), hour))
"""


def rows_of_two_days() -> list[Row]:
    """Uses of three customers: on each border of an hour, right before it, and in between."""
    rows = []
    for place in range(48):
        start = REPEATED.start + place * HOUR
        for number, customer in enumerate(("cus_a", "cus_b", "cus_c")):
            for piece, offset in enumerate((dt.timedelta(0), HOUR / 3, HOUR - MICROSECOND)):
                amount = Decimal(place * 1_000_003 + number * 101 + piece) + Decimal("0.000001") * (
                    place + piece
                )
                rows.append((customer, amount * Decimal("86420975.309"), start + offset))
    return [(customer, round(amount, 6), at) for customer, amount, at in rows]


def expected(rows: list[Row]) -> dict[tuple[str, dt.datetime], Decimal]:
    """Add up what each customer used in each hour."""
    sums: dict[tuple[str, dt.datetime], Decimal] = {}
    for customer, amount, at in rows:
        slot = customer, at.replace(minute=0, second=0, microsecond=0)
        sums[slot] = sums.get(slot, Decimal(0)) + amount
    return sums


def grown(url: str, query: str, few: int, many: int) -> int:
    """Return by how many kilobytes a process grows that reads many rows after few; `query` has their number as MANY."""
    program = READER.format(url=url) + (
        "peaks = []\n"
        f"for many in {few}, {many}:\n"
        f"    assert rows({query!r}.replace('MANY', str(many))) == many\n"
        "    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
        "print(peaks[1] - peaks[0])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def reading(url: str, query: str) -> "subprocess.Popen[str]":
    """Start a process that reads one query."""
    program = READER.format(url=url) + f"rows({query!r})\n"
    return subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE, text=True)


def error_of(do: Callable[[], object]) -> Exception | None:
    """Return what reading ends in."""
    try:
        do()
    except SourceError as error:
        return error
    return None


def came(true: Callable[[], bool]) -> bool:
    """Wait until something is so."""
    pause = threading.Event()
    return any(true() or pause.wait(0.05) for _ in range(600))
