"""What is delivered to us over HTTP: a sink's messages, signed; and whether we are alive.

    POST /webhooks/stripe/{sink}    200 taken, or nothing to us; 400 not signed by one of the sink's secrets; 503 come again
    GET  /readyz, /livez, /metrics  what others watch us by (`web/watched.py`)

Rules
- 200 is said once what was delivered is committed in the ledger. What could not be fetched or written is 503, and the sender
  delivers it again.
- Nothing is believed, nor looked at, before its signature is. Why one is not is not said.
- Everything has a bound: head and body, the time each takes to come, the connections (`connections`), and how many
  deliveries are worked on at once. Whoever is one too many is told to come again.
- The socket is bound once, before anything else, and lasts over a reload: whoever calls meanwhile waits in its backlog.
"""

from collections.abc import Callable, Mapping

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from aggregator.daemon.reporting import report_taken
from aggregator.errors import AggregatorError
from aggregator.ledger.notifications import Notifications
from aggregator.monitoring.readiness import Readiness
from aggregator.monitoring.response import Response as Scraped
from aggregator.reconciliation.notification_poller import NotificationPoller, NotSigned
from aggregator.runtime import log
from aggregator.runtime.clock import Clock
from aggregator.web.application import Application, Refused, Workers, read_body
from aggregator.web.listener import Address, Listener
from aggregator.web.serving import Served
from aggregator.web.watched import Reply, Watched, for_programs

PREFIX = "/webhooks/stripe/"

LARGEST_BODY = 256 * 1024
"""A notification has a few hundred bytes, an import set's a few thousand."""

MOST_AT_WORK = 4
"""Deliveries worked on at once: each may hold a connection to the ledger, of which collection needs its share."""

MOST_WAITING = 32


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
        self._watched = Watched(
            notifications,
            clock,
            slow,
            (readiness or Readiness()).state,
            scrape=scrape,
            access=pages.access if pages else None,
            scrape_token=scrape_token,
        )
        own = [*self._deliveries.routes(), *self._watched.routes()]
        self._pages = pages
        routes, errors = (pages.routes(), for_programs(pages.error, PREFIX)) if pages else ([], None)
        self._listener = Listener(address, Application([*own, *routes], errors))

    def start(self) -> None:
        """Begin to answer."""
        self._listener.start()

    def stop(self) -> None:
        """Take nothing more, wait for what is being worked on, and come back."""
        self._listener.stop()
        self._deliveries.close()
        self._watched.close()
        if self._pages:
            self._pages.close()


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
