"""How long pages and answers of the API take, over a month of hours of many customers.

    python -m bench.web [--customers 10000] [--looks 40] [--seconds 10]

The ledger is made up, in an embedded Postgres; calls go over HTTP on this machine. A page is asked for again and again
by one caller; the API from another process by sixteen at once, each time for another customer, and then for a few
customers only, whose answers are kept for some seconds.
"""

import argparse
import http.client
import multiprocessing
import statistics
import tempfile
import threading
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from aggregator.core.usage import month_of
from aggregator.ledger.database import Database, migrate
from aggregator.runtime.claim_counter import ClaimCounter
from aggregator.runtime.clock import monotonic
from aggregator.runtime.embedded_postgres import EmbeddedPostgres
from aggregator.web.listener import Address, Listener
from aggregator.web.tokens import Scope, issue
from tests.postgres import web_ledger
from tests.postgres.web_site import HOUR, NOW, SECRET, TOKENS, AsOfThen, Site, configured

CALLERS = 16
FEW = 50


def main() -> None:
    """Measure, and print a line for each."""
    parser = argparse.ArgumentParser(prog="python -m bench.web", description="Measure pages and the API.")
    parser.add_argument("--customers", type=int, default=10_000)
    parser.add_argument("--looks", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=10.0)
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as home, EmbeddedPostgres(Path(home) / "pg") as server:
        url = filled(server, wanted.customers)
        with served(url, Path(home)) as address:
            for name, path in pages().items():
                print(f"{name:<28} {looked(address, path, wanted.looks)}", flush=True)
            for name, whose in (("API, every customer", wanted.customers), (f"API, {FEW} customers", FEW)):
                print(f"{name:<28} {asked(address, whose, wanted.seconds)}", flush=True)


def filled(server: EmbeddedPostgres, customers: int) -> str:
    """Make a ledger with a month of one meter."""
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute("create database bench")
    url = server.url("bench")
    migrate(url)
    began = monotonic()
    with psycopg.connect(url) as connection:
        start = month_of(NOW).start
        connection.execute("insert into aggregator.sink (name) values ('stripe')")
        web_ledger.meter(connection, "api_requests", 40, start, start + 720 * HOUR, customers, events=False)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("vacuum analyze aggregator.slot")
        slots = connection.execute("select count(*) from aggregator.slot").fetchone()
    assert slots is not None
    print(f"{slots[0]:,} slots made in {monotonic() - began:.0f} s", flush=True)
    return url


@contextmanager
def served(url: str, home: Path) -> Iterator[str]:
    """Serve it from this process."""
    with Database(url) as database:
        ledger = AsOfThen(
            database, ClaimCounter(home), "may_lose", lease=HOUR, leave=HOUR, answer=HOUR, hold=HOUR
        )
        address = Address("127.0.0.1:0")
        began = monotonic()
        days = ledger.usage_days.sum_up(1).days
        print(f"{days} days summed up in {monotonic() - began:.1f} s", flush=True)
        site = Site(ledger, configured(url, home, TOKENS), address)
        listener = Listener(address, site.application)
        listener.start()
        yield address.url
        listener.stop()
        site.close()
        address.close()


def pages() -> dict[str, str]:
    """Return what is looked at."""
    window = f"{NOW.replace(minute=0):%Y-%m-%dT%H:%MZ}"
    return {
        "meters": "/",
        "a meter's month": "/meters/api_requests",
        "a meter's day": f"/meters/api_requests?day={NOW:%Y-%m-%d}",
        "a window's customers": f"/meters/api_requests/{window}",
        "customers": "/customers?begins=cus_a",
        "a customer": "/customers/cus_acme_11",
    }


def looked(address: str, path: str, looks: int) -> str:
    """Look at a page; the first look is told apart, since it may have to sum up what later ones have kept."""
    host = urllib.parse.urlsplit(address).netloc
    seconds = []
    for _ in range(looks + 1):
        connection = http.client.HTTPConnection(host, timeout=60)
        began = monotonic()
        connection.request("GET", path, headers={"accept": "text/html"})
        answer = connection.getresponse()
        size = len(answer.read())
        seconds.append(monotonic() - began)
        assert answer.status == 200, answer.status
        connection.close()
    first, rest = seconds[0], seconds[1:]
    highest = statistics.quantiles(rest, n=20)[-1]
    return (
        f"first {first * 1000:6.0f} ms, then median {statistics.median(rest) * 1000:5.0f} ms, 95 % within "
        f"{highest * 1000:5.0f} ms, {size / 1024:.0f} KiB"
    )


def asked(address: str, customers: int, seconds: float) -> str:
    """Ask the API from another process for as long as this, and say how many answers there were."""
    results = multiprocessing.get_context("spawn").Queue()
    caller = multiprocessing.get_context("spawn").Process(
        target=call, args=(address, customers, seconds, results)
    )
    caller.start()
    count, slow = results.get()
    caller.join()
    return f"{count / seconds:,.0f} answers a second, 95 % within {slow * 1000:.0f} ms"


def call(
    address: str, customers: int, seconds: float, results: "multiprocessing.Queue[tuple[int, float]]"
) -> None:
    """Ask with several callers at once, each over a connection that it keeps."""
    names = [f"cus_{web_ledger.FIRST[n % 10]}_{n + 1}" for n in range(10, customers)]
    host, until = urllib.parse.urlsplit(address).netloc, monotonic() + seconds
    took: list[float] = []

    def one(number: int) -> None:
        connection = http.client.HTTPConnection(host, timeout=60)
        place = number * 617
        while monotonic() < until:
            customer = names[place % len(names)]
            token = issue(SECRET, Scope(customer), NOW, HOUR)
            began = monotonic()
            connection.request(
                "GET", f"/api/usage?customer={customer}", headers={"authorization": f"Bearer {token}"}
            )
            answer = connection.getresponse()
            answer.read()
            took.append(monotonic() - began)
            assert answer.status == 200, answer.status
            place += CALLERS

    callers = [threading.Thread(target=one, args=(number,)) for number in range(CALLERS)]
    for each in callers:
        each.start()
    for each in callers:
        each.join()
    results.put((len(took), statistics.quantiles(took, n=20)[-1]))


if __name__ == "__main__":
    main()
