"""What others watch a process by: probes, and figures for Prometheus. A daemon answers them, and so does the page alone.

    GET  /readyz, /healthz          200 if the ledger answers, and whoever does the work says that it is ready; else 503
    GET  /livez                     200 while the process answers at all
    GET  /metrics                   200 with the figures of `monitoring`, whatever works or not

Rules
- Probes have a thread of their own: neither a page nor a scrape keeps one waiting, and no probe waits for long.
- What went wrong is said in JSON: whoever asks is a program.
"""

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import NamedTuple

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from aggregator.errors import LedgerError
from aggregator.ledger.notifications import Notifications
from aggregator.monitoring.readiness import Reason, State
from aggregator.monitoring.response import Response as Scraped
from aggregator.runtime.clock import Clock
from aggregator.web.application import Render, said
from aggregator.web.metrics import Metrics
from aggregator.web.sessions import Access

PATHS = frozenset({"/healthz", "/livez", "/metrics", "/readyz"})

READY_SECONDS = 3.0
"""How long a probe waits for the ledger: less than most probes wait for us."""


class Reply(NamedTuple):
    """A status, and a few words."""

    status: int
    words: Mapping[str, object]

    def response(self) -> Response:
        """Return it as it is sent."""
        close = {"connection": "close"} if self.status >= 400 else None
        return JSONResponse(self.words, self.status, close)


def nothing_amiss(_now: datetime) -> State:
    """Say that nothing is amiss: for whoever only looks, and does no work that could fail."""
    return State(ready=True, reasons=[])


class Watched:
    """Probes, and `/metrics` where there is something to scrape, as routes. Close it."""

    def __init__(
        self,
        notifications: Notifications,
        clock: Clock,
        slow: Callable[[], str | None] = lambda: None,
        state: Callable[[datetime], State] = nothing_amiss,
        *,
        scrape: Callable[[], Scraped] | None = None,
        access: Access | None = None,
        scrape_token: str | None = None,
    ) -> None:
        """`clock` is the ledger's; `slow` says what takes too long there, and asks nobody; `state` how the work does.

        `scrape` gives what `/metrics` is answered with, from elsewhere to whoever sends `scrape_token`.
        """
        self._probes = Probes(notifications, clock, slow, state)
        self._metrics = Metrics(scrape, access, scrape_token) if scrape else None

    def routes(self) -> list[BaseRoute]:
        """Return what is answered where."""
        return [*self._probes.routes(), *(self._metrics.routes() if self._metrics else [])]

    def close(self) -> None:
        """Give the threads back."""
        self._probes.close()
        if self._metrics:
            self._metrics.close()


def for_programs(render: Render, *beginnings: str) -> Render:
    """Show errors as pages, but in JSON to whoever watches us, and below paths that begin so."""

    def shown(request: Request, status: int, words: str) -> Response:
        path = request.scope["path"]
        program = path in PATHS or path.startswith(beginnings)
        return said(status, words) if program else render(request, status, words)

    return shown


class Probes:
    """Says whether we are alive, and ready; on a thread of its own, so that nothing else keeps a probe waiting."""

    def __init__(
        self,
        notifications: Notifications,
        clock: Clock,
        slow: Callable[[], str | None],
        state: Callable[[datetime], State],
    ) -> None:
        self._slow = slow
        self._notifications = notifications
        self._clock = clock
        self._state = state
        self._prober = ThreadPoolExecutor(1, "web-ready")
        self._probing: asyncio.Future[Reply] | None = None

    def routes(self) -> list[BaseRoute]:
        """Return where probes are answered."""
        return [
            Route("/livez", self._livez, methods=["GET"]),
            Route("/readyz", self._readyz, methods=["GET"]),
            Route("/healthz", self._readyz, methods=["GET"]),
        ]

    def close(self) -> None:
        """Give the thread back."""
        self._prober.shutdown(wait=False, cancel_futures=True)

    async def _livez(self, _: Request) -> Response:
        return Reply(200, {"alive": True}).response()

    async def _readyz(self, _: Request) -> Response:
        return (await self._ready()).response()

    async def _ready(self) -> Reply:
        """Answer a probe. Those that come at once share one look, which outlasts a probe that gives up."""
        if (slow := self._slow()) is not None:
            return self._unready("does not answer in time", slow)
        if self._probing is None or self._probing.done():
            self._probing = asyncio.get_running_loop().run_in_executor(self._prober, self._look)
        try:
            return await asyncio.wait_for(asyncio.shield(self._probing), READY_SECONDS)
        except TimeoutError:
            return self._unready(f"does not answer within {READY_SECONDS:g} seconds", None)

    def _look(self) -> Reply:
        try:
            last = self._notifications.last_pass_at()
            age = (self._clock() - last).total_seconds() if last else None
            ready, reasons = self._state(self._clock())
        except LedgerError as error:
            return self._unready("does not answer", str(error))
        said = {"ready": ready, "ledger": "answers", "last_pass_seconds_ago": age}
        return Reply(200 if ready else 503, {**said, "reasons": [each._asdict() for each in reasons]})

    def _unready(self, ledger: str, why: str | None) -> Reply:
        reason = Reason("ledger", None, why or f"the ledger {ledger}")
        return Reply(503, {"ready": False, "ledger": ledger, "reasons": [reason._asdict()]})
