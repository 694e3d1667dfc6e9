"""`GET /metrics`, on threads of its own: neither a page nor a probe waits for a scrape, nor a scrape for them."""

from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from aggregator.monitoring import response as monitoring
from aggregator.web.application import Workers

AT_WORK, WAITING = 2, 8


class Metrics:
    """Answers scrapes by a function that gives the page. Close it."""

    def __init__(self, scrape: Callable[[], monitoring.Response]) -> None:
        self._scrape = scrape
        self._workers = Workers("web-metrics", AT_WORK, WAITING)

    def routes(self) -> list[BaseRoute]:
        """Return where scrapes are answered."""
        return [Route("/metrics", self._metrics, methods=["GET"])]

    def close(self) -> None:
        """Give the threads back."""
        self._workers.close()

    async def _metrics(self, _: Request) -> Response:
        status, content_type, body = await self._workers.do(self._scrape)
        return Response(body, status, {"content-type": content_type})
