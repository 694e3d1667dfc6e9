"""Figures that are asked of a sink from many threads at once, whose shares of the limits are kept in the ledger."""

import asyncio
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from aggregator.core.model import Answer
from aggregator.core.rate_limit import Pace
from aggregator.core.rate_shares import Asked
from aggregator.errors import LedgerUnreachable, SinkUnreachable
from aggregator.sinks import http_sink
from aggregator.sinks.dispatch import Dispatcher, Pacer
from aggregator.sinks.http_sink import Connection, HttpSink
from aggregator.sinks.read_allowance import ReadAllowance
from aggregator.sinks.responses import Response
from aggregator.sinks.shared_rate import SharedRate

SECONDS = 20.0
THREADS = 8


class Ledger:
    """Grants each route all of its limit, once it is there; and notes what it was asked for."""

    def __init__(self, *, away: bool = False) -> None:
        self.away = away
        self.routes: list[str] = []
        self.asked = threading.Event()

    def renew(self, asked: Sequence[Asked]) -> list[float]:
        """Grant, or raise."""
        self.routes += [each.route for each in asked]
        self.asked.set()
        if self.away:
            raise LedgerUnreachable("connection refused")
        return [each.limit if each.wanted else 0.0 for each in asked]


class Meeting(SharedRate):
    """Shares whose pacers are made slowly: threads that make one each would meet here."""

    met = threading.Barrier(2)

    def pacer(
        self, route: str, pace: Pace, monotonic: Callable[[], float], *, by_event: bool = False
    ) -> Pacer:
        """Make one, after a moment."""
        try:
            self.met.wait(0.2)
        except threading.BrokenBarrierError:
            self.met.reset()
        return super().pacer(route, pace, monotonic, by_event=by_event)


class Client:
    """No connections."""

    def use_key(self, api_key: str) -> None:
        """Do nothing."""

    async def close(self) -> None:
        """Do nothing."""


class Sink(HttpSink[str]):
    """Sends nothing, and knows one figure."""

    def figure(self) -> str:
        """Ask for it."""
        return self._read(self._answered)

    async def _answered(self, far: str) -> str:
        return far

    async def _connect(self) -> Connection[str]:
        refused = Response(Answer.REFUSED)
        return Connection(Client(), Dispatcher(lambda _: refused, max_in_flight=1, patience_seconds=1), "7")


def sink(ledger: Ledger, shared: type[SharedRate] = SharedRate) -> Sink:
    """Return a sink whose limits are shared through a ledger."""
    made = Sink("stripe", "sk_none")
    made.share_rate(shared(ledger.renew, lambda: None))
    made.limit_reads(ReadAllowance(1_000.0, None, lambda reads: reads))
    return made


def test_many_threads_ask_by_one_route() -> None:
    """Two pacers of one route would be asked for together: no ledger writes one row twice, and nothing would ever leave."""
    ledger = Ledger()
    with closing(sink(ledger, Meeting)) as asked, ThreadPoolExecutor(THREADS) as threads:
        assert [each.result(SECONDS) for each in [threads.submit(asked.figure) for _ in range(THREADS)]] == [
            "7"
        ] * THREADS
    assert ledger.routes == ["reads"]


def test_a_route_has_one_pacer() -> None:
    """A second one is a mistake that shows at once; after closing a route is a new one."""
    shared = SharedRate(Ledger().renew, lambda: None)
    shared.pacer("v1", Pace(1.0), lambda: 0.0)
    with pytest.raises(AssertionError, match="v1 is paced already"):
        shared.pacer("v1", Pace(1.0), lambda: 0.0)
    asyncio.run(shared.close())
    shared.pacer("v1", Pace(1.0), lambda: 0.0)


def test_a_figure_waits_no_longer_for_a_ledger_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who asked is told why, may do something else, and gets it once the ledger is back."""
    monkeypatch.setattr(http_sink, "READ_PATIENCE_SECONDS", 0.1)
    ledger = Ledger(away=True)
    with closing(sink(ledger)) as asked:
        with pytest.raises(
            SinkUnreachable, match="how much of the rate limit may be used here: connection refused"
        ):
            asked.figure()
        ledger.away = False
        monkeypatch.setattr(http_sink, "READ_PATIENCE_SECONDS", SECONDS)
        assert asked.figure() == "7"


def test_closing_ends_what_waits_for_a_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that waited for ever would keep the process from ending."""
    monkeypatch.setattr(http_sink, "READ_PATIENCE_SECONDS", 10 * SECONDS)
    ledger = Ledger(away=True)
    with ThreadPoolExecutor(1) as threads:
        asked = sink(ledger)
        waiting = threads.submit(asked.figure)
        assert ledger.asked.wait(SECONDS)
        asked.close()
        with pytest.raises(SinkUnreachable, match="sink stripe is closed"):
            waiting.result(SECONDS)
