"""What is delivered to us over HTTP: a sink's messages, signed; and whether we are alive.

    POST /webhooks/stripe/{sink}    200 taken, or nothing to us; 400 not signed by one of the sink's secrets; 503 come again
    GET  /readyz, /healthz          200 if the ledger answers, and some meter is read in time and some sink takes; else 503
    GET  /livez                     200 while the process answers at all
    GET  /metrics                   200 with the figures of `monitoring`, whatever works or not

Rules
- 200 is said once what was delivered is committed in the ledger. What could not be fetched or written is 503, and the sender
  delivers it again.
- Nothing is believed, nor looked at, before its signature is. Why one is not is not said.
- Everything has a bound: head and body, the time each takes to come, the connections (`connections`), and how many
  deliveries are worked on at once. Whoever is one too many is told to come again. Probes have a thread of their own.
- The socket is bound once, before anything else, and lasts over a reload: whoever calls meanwhile waits in its backlog.
"""

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from aggregator.daemon.readiness import Readiness, Reason
from aggregator.daemon.reporting import report_taken
from aggregator.errors import AggregatorError, LedgerError
from aggregator.ledger.notifications import Notifications
from aggregator.monitoring.response import Response as Scraped
from aggregator.reconciliation.notification_poller import NotificationPoller, NotSigned
from aggregator.runtime import log
from aggregator.runtime.clock import Clock
from aggregator.web.application import Application, Refused, Render, Workers, read_body, said
from aggregator.web.listener import Address, Listener
from aggregator.web.metrics import Metrics
from aggregator.web.serving import Served

PREFIX = "/webhooks/stripe/"
PROBES = {"/healthz", "/livez", "/metrics", "/readyz"}

LARGEST_BODY = 256 * 1024
"""A notification has a few hundred bytes, an import set's a few thousand."""

MOST_AT_WORK = 4
"""Deliveries worked on at once: each may hold a connection to the ledger, of which collection needs its share."""

MOST_WAITING = 32
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


class Web:
    """What is listened to: deliveries, probes, and whatever else has routes, on a thread of its own."""

    def __init__(
        self,
        address: Address,
        takers: Mapping[str, NotificationPoller],
        notifications: Notifications,
        clock: Clock,
        slow: Callable[[], str | None] = lambda: None,
        readiness: Readiness | None = None,
        pages: Served | None = None,
        scrape: Callable[[], Scraped] | None = None,
        scrape_token: str | None = None,
    ) -> None:
        """`clock` is the ledger's; `slow` says what takes too long there, and asks nobody.

        `scrape` gives what `/metrics` is answered with, from elsewhere to whoever sends `scrape_token`.
        """
        self._deliveries = Deliveries(takers, clock)
        self._probes = Probes(notifications, clock, slow, readiness or Readiness())
        self._metrics = Metrics(scrape, pages.access if pages else None, scrape_token) if scrape else None
        own = [*self._deliveries.routes(), *self._probes.routes()]
        own += self._metrics.routes() if self._metrics else []
        self._pages = pages
        routes, errors = (pages.routes(), _json_for_ours(pages.error)) if pages else ([], None)
        self._listener = Listener(address, Application([*own, *routes], errors))

    def start(self) -> None:
        """Begin to answer."""
        self._listener.start()

    def stop(self) -> None:
        """Take nothing more, wait for what is being worked on, and come back."""
        self._listener.stop()
        self._deliveries.close()
        self._probes.close()
        if self._metrics:
            self._metrics.close()
        if self._pages:
            self._pages.close()


def _json_for_ours(render: Render) -> Render:
    """Show errors as pages, but to senders and probes as they expect them."""

    def shown(request: Request, status: int, words: str) -> Response:
        path = request.scope["path"]
        ours = path in PROBES or path.startswith(PREFIX)
        return said(status, words) if ours else render(request, status, words)

    return shown


class Deliveries:
    """Takes what is delivered, in threads, since the ledger and the sinks are waited for there."""

    def __init__(self, takers: Mapping[str, NotificationPoller], clock: Clock) -> None:
        self._takers = takers
        self._clock = clock
        self._workers = Workers("web", MOST_AT_WORK, MOST_WAITING)
        self._log = log.logger()

    def routes(self) -> list[BaseRoute]:
        """Return where deliveries are taken. A sink that is not there and one without a secret look alike."""
        return [
            Route(f"{PREFIX}{{sink:path}}", self._deliver, methods=["GET", "POST", "PUT", "PATCH", "DELETE"])
        ]

    def close(self) -> None:
        """Give the threads back."""
        self._workers.close()

    async def _deliver(self, request: Request) -> Response:
        sink = request.path_params["sink"]
        taker = self._takers.get(sink)
        if taker is None or not taker.takes_deliveries:
            raise Refused(404, "nothing is here")
        if request.method != "POST":
            raise Refused(405, "only POST", {"allow": "POST"})
        body = await read_body(request, LARGEST_BODY)
        signature = request.headers.get("stripe-signature", "")
        reply = await self._workers.do(lambda: self._take(sink, taker, body, signature))
        return reply.response()

    def _take(self, sink: str, taker: NotificationPoller, body: bytes, signature: str) -> Reply:
        try:
            taken = taker.deliver(body, signature, self._clock())
        except NotSigned:
            self._log.warning(log.WEBHOOK_REFUSED, sink=sink, bytes=len(body))
            return Reply(400, {"error": "not a signed message of this sink"})
        except AggregatorError as error:
            self._log.error(log.WEBHOOK_FAILED, sink=sink, reason=str(error))
            return Reply(503, {"error": "try again"})
        report_taken(self._log, sink, taken)
        return Reply(200, {"taken": taken.messages})


class Probes:
    """Says whether we are alive, and ready; on a thread of its own, so that nothing else keeps a probe waiting."""

    def __init__(
        self,
        notifications: Notifications,
        clock: Clock,
        slow: Callable[[], str | None],
        readiness: Readiness,
    ) -> None:
        self._slow = slow
        self._notifications = notifications
        self._clock = clock
        self._readiness = readiness
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
            ready, reasons = self._readiness.state(self._clock())
        except LedgerError as error:
            return self._unready("does not answer", str(error))
        said = {"ready": ready, "ledger": "answers", "last_pass_seconds_ago": age}
        return Reply(200 if ready else 503, {**said, "reasons": [each._asdict() for each in reasons]})

    def _unready(self, ledger: str, why: str | None) -> Reply:
        reason = Reason("ledger", None, why or f"the ledger {ledger}")
        return Reply(503, {"ready": False, "ledger": ledger, "reasons": [reason._asdict()]})
