"""What pages and answers of the API cost, over a month of hours of many customers: time, and processor time of both sides.

    python -m bench.web [--customers 10000] [--looks 40] [--seconds 10] [--turns 3] [--against CHECKOUT]

The ledger is made up, in an embedded Postgres; all days but the newest are summed up, as a daemon does. Calls go over HTTP
on this machine, to a process that serves nothing else. A page is asked for again and again by one caller; the API by many
in a process of their own, each time for another customer, 500 times a second and as fast as they are answered, and then for
a few customers only, whose answers are kept for some seconds. With another checkout, both serve the same ledger in turns.
"""

import argparse
import http.client
import statistics
import sys
import tempfile
import time
import urllib.parse
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import psycopg

from aggregator.core.usage import month_of
from aggregator.ledger.database import Database, migrate
from aggregator.runtime.claim_counter import ClaimCounter
from aggregator.runtime.embedded_postgres import EmbeddedPostgres
from aggregator.web.listener import Address, Listener
from bench.callers import Asking, asked
from bench.checkouts import HOME, checkout
from bench.processor import tree_seconds
from bench.stand import postmaster
from bench.turns import Ask, asked_by_lines
from tests.postgres import web_ledger
from tests.postgres.web_site import HOUR, NOW, SECRET, TOKENS, AsOfThen, Site, configured

FEW = 50
RATE = 500.0


class Cost(NamedTuple):
    """What one call took: milliseconds within which 95 % were answered, and of both processors; and calls a second."""

    within: float
    ours: float
    postgres: float
    rate: float


def main() -> None:
    """Measure, and print a line for each."""
    parser = argparse.ArgumentParser(prog="python -m bench.web", description="Measure pages and the API.")
    parser.add_argument("--customers", type=int, default=10_000)
    parser.add_argument("--looks", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--against", type=Path, help="Another checkout, measured in turns with this one.")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    wanted = parser.parse_args()
    if wanted.work is not None:
        work(wanted.work)
        return
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = stack.enter_context(EmbeddedPostgres(home / "pg"))
        url = filled(server, wanted.customers)
        sides = [stack.enter_context(checkout(root)) for root in (HOME, wanted.against) if root]
        workers = [stack.enter_context(asked_by_lines(side, "bench.web", "--work", url)) for side in sides]
        measure(workers, [str(side.root) for side in sides], postmaster(server), wanted)


def measure(workers: Sequence[Ask], names: Sequence[str], postgres: int, wanted: argparse.Namespace) -> None:
    """Ask each in turns, kind by kind of calls, and print the medians."""
    kinds: dict[str, Callable[[Ask], Cost]] = {
        name: lambda ask, path=path: looked(ask, postgres, path, wanted.looks)  # type: ignore[misc]
        for name, path in pages().items()
    }
    for name, whose, rate in (
        (f"API, every customer, {RATE:.0f}/s", wanted.customers, RATE),
        ("API, every customer", wanted.customers, None),
        (f"API, {FEW} customers", FEW + 10, None),
    ):
        kinds[name] = lambda ask, whose=whose, rate=rate: answered(ask, postgres, whose, rate, wanted.seconds)  # type: ignore[misc]
    for kind, how in kinds.items():
        found: list[list[Cost]] = [[] for _ in workers]
        for _ in range(wanted.turns):
            for those, ask in zip(found, workers, strict=True):
                those.append(how(ask))
        for name, those in zip(names, found, strict=True):
            within, ours, theirs, rate = (statistics.median(column) for column in zip(*those, strict=True))
            print(
                f"{kind:<28} {rate:7,.0f} a second, 95 % within {within:5.0f} ms; processor time {ours:6.2f} ms ours, "
                f"{theirs:6.2f} ms Postgres, {ours + theirs:6.2f} ms both   {name}",
                flush=True,
            )


def filled(server: EmbeddedPostgres, customers: int) -> str:
    """Make a ledger with a month of one meter, and sum up its days but for the newest."""
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute("create database bench")
    url = server.url("bench")
    migrate(url)
    began = time.monotonic()
    with psycopg.connect(url) as connection:
        start = month_of(NOW).start
        connection.execute("insert into aggregator.sink (name) values ('stripe')")
        web_ledger.meter(connection, "api_requests", 40, start, start + 720 * HOUR, customers, events=False)
    with tempfile.TemporaryDirectory() as home, opened(url, Path(home)) as ledger:
        days = ledger.usage_days.sum_up(1).days
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "update aggregator.usage_day set made_at = null where day = (select max(day) from aggregator.usage_day)"
        )
        for table in ("slot", "usage_day", "usage_of_day", "usage_of_hour"):
            connection.execute(f"vacuum analyze aggregator.{table}".encode())
        slots = connection.execute("select count(*) from aggregator.slot").fetchone()
    assert slots is not None
    print(f"{slots[0]:,} slots made, {days} days summed up in {time.monotonic() - began:.0f} s", flush=True)
    return url


@contextmanager
def opened(url: str, home: Path) -> Iterator[AsOfThen]:
    """Open the ledger as of the instant at which it was made up."""
    with Database(url) as database:
        yield AsOfThen(
            database, ClaimCounter(home), "may_lose", lease=HOUR, leave=HOUR, answer=HOUR, hold=HOUR
        )


def work(url: str) -> None:
    """Serve it; answer each line with the address, and with the seconds of processor time this process has used."""
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        ledger = stack.enter_context(opened(url, home))
        address = Address("127.0.0.1:0")
        stack.callback(address.close)
        site = Site(ledger, configured(url, home, TOKENS), address)
        stack.callback(site.close)
        listener = Listener(address, site.application)
        with_log_elsewhere(listener)
        stack.callback(listener.stop)
        for _ in sys.stdin:
            print(address.url, time.process_time(), flush=True)


def with_log_elsewhere(listener: Listener) -> None:
    """Begin to serve; what is logged then is no answer."""
    answers, sys.stdout = sys.stdout, sys.stderr
    listener.start()
    sys.stdout = answers


def pages() -> dict[str, str]:
    """Return what is looked at."""
    window = f"{NOW.replace(minute=0):%Y-%m-%dT%H:%MZ}"
    return {
        "meters": "/",
        "a meter's month": "/meters/api_requests",
        "a meter's day": f"/meters/api_requests?day={NOW:%Y-%m-%d}",
        "a meter's day, not summed up": "/meters/api_requests?day=2026-11-30",
        "a window's customers": f"/meters/api_requests/{window}",
        "customers": "/customers?begins=cus_a",
        "a customer": "/customers/cus_acme_11",
    }


@contextmanager
def spent(ask: Ask, postgres: int) -> Iterator[Callable[[int], tuple[float, float]]]:
    """Give what tells, for so many calls, the milliseconds of processor time that each took here and in Postgres."""
    before, theirs = float(ask("").split()[1]), tree_seconds(postgres)

    def each(calls: int) -> tuple[float, float]:
        ours = float(ask("").split()[1]) - before
        return 1000 * ours / calls, 1000 * (tree_seconds(postgres) - theirs) / calls

    yield each


def looked(ask: Ask, postgres: int, path: str, looks: int) -> Cost:
    """Look at a page again and again; the first look, at which a connection begins, does not count."""
    address = ask("").split()[0]
    look(address, path)
    began = time.monotonic()
    with spent(ask, postgres) as each:
        seconds = [look(address, path) for _ in range(looks)]
        ours, theirs = each(looks)
    return Cost(
        1000 * statistics.quantiles(seconds, n=20)[-1], ours, theirs, looks / (time.monotonic() - began)
    )


def look(address: str, path: str) -> float:
    """Look at a page once; return how long it took."""
    began = time.monotonic()
    connection = http.client.HTTPConnection(urllib.parse.urlsplit(address).netloc, timeout=60)
    connection.request("GET", path, headers={"accept": "text/html"})
    answer = connection.getresponse()
    answer.read()
    connection.close()
    assert answer.status == 200, answer.status
    return time.monotonic() - began


def answered(ask: Ask, postgres: int, customers: int, rate: float | None, seconds: float) -> Cost:
    """Ask the API for as long as this."""
    names = [f"cus_{web_ledger.FIRST[n % 10]}_{n + 1}" for n in range(10, customers)]
    asking = Asking(ask("").split()[0], SECRET, NOW, names, seconds, rate)
    with asked(asking) as result:
        result.begun()
        with spent(ask, postgres) as each:
            found = result.wait()
            ours, theirs = each(found.answers)
    return Cost(1000 * found.within, ours, theirs, found.answers / seconds)


if __name__ == "__main__":
    main()
