"""Customers who ask the API, in a process of their own: so many a second, or as fast as they are answered."""

import datetime as dt
import http.client
import multiprocessing
import statistics
import threading
import time
import urllib.parse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from aggregator.web.tokens import Scope, issue

CALLERS = 32
LASTS = dt.timedelta(hours=1)


class Asking(NamedTuple):
    """Whom to ask, for whom, and how."""

    address: str
    secret: str
    now: dt.datetime
    """When it is, by the clock of whoever is asked."""
    customers: Sequence[str]
    seconds: float
    rate: float | None = None
    """Answers a second in all; without it, each caller asks again at once."""


class Answered(NamedTuple):
    """How many answers there were, and within how many seconds 95 % of them came."""

    answers: int
    within: float


@contextmanager
def asked(asking: Asking) -> Iterator["Result"]:
    """Ask from another process while the block lasts, which may wait for what it comes to."""
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    process = context.Process(target=_call, args=(asking, results))
    process.start()
    try:
        yield Result(results)
    finally:
        process.join()


class Result:
    """What asking comes to, once it is over."""

    def __init__(self, results: Any) -> None:
        self._results = results

    def begun(self) -> None:
        """Wait until the callers have what they need: tokens of their own make work before the first call."""
        assert self._results.get() == "begun"

    def wait(self) -> Answered:
        """Wait for the end."""
        return Answered(*self._results.get())


def _call(asking: Asking, results: Any) -> None:
    """Ask with several callers at once, each over a connection that it keeps."""
    tokens = {whose: issue(asking.secret, Scope(whose), asking.now, LASTS) for whose in asking.customers}
    host = urllib.parse.urlsplit(asking.address).netloc
    results.put("begun")
    began = time.monotonic()
    took: list[float] = []

    def one(number: int) -> None:
        connection = http.client.HTTPConnection(host, timeout=60)
        calls = number
        while (now := time.monotonic()) < began + asking.seconds:
            due = began + calls / asking.rate if asking.rate else now
            if due > now:
                time.sleep(due - now)  # noqa: TID251 - a benchmark lets time pass
            customer = asking.customers[calls * 617 % len(asking.customers)]
            calls += CALLERS
            at = time.monotonic()
            headers = {"authorization": f"Bearer {tokens[customer]}"}
            connection.request("GET", f"/api/usage?customer={customer}", headers=headers)
            answer = connection.getresponse()
            body = answer.read()
            assert answer.status == 200, body
            assert customer.encode() in body
            took.append(time.monotonic() - at)

    callers = [threading.Thread(target=one, args=(number,)) for number in range(CALLERS)]
    for each in callers:
        each.start()
    for each in callers:
        each.join()
    results.put((len(took), statistics.quantiles(took, n=20)[-1]))
