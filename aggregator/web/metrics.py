"""`GET /metrics`, on threads of its own: neither a page nor a probe waits for a scrape, nor a scrape for them."""

from collections.abc import Callable
from hmac import compare_digest

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from aggregator.monitoring import response as monitoring
from aggregator.web.application import Refused, Workers
from aggregator.web.sessions import Access

AT_WORK, WAITING = 2, 8


class Metrics:
    """Answers scrapes by a function that gives the page, to whoever may look at pages or sends the token. Close it."""

    def __init__(
        self,
        scrape: Callable[[], monitoring.Response],
        access: Access | None = None,
        token: str | None = None,
    ) -> None:
        self._scrape = scrape
        self._access = access
        self._token = token
        self._workers = Workers("web-metrics", AT_WORK, WAITING)

    def routes(self) -> list[BaseRoute]:
        """Return where scrapes are answered."""
        return [Route("/metrics", self._metrics, methods=["GET"])]

    def close(self) -> None:
        """Give the threads back."""
        self._workers.close()

    def _may_read(self, request: Request) -> bool:
        scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            if self._access is None:
                return True
            self._access.check_host(request)
            return self._access.may_look(request, None)
        known = self._token is not None and compare_digest(bearer.encode(), self._token.encode())
        return known or (self._access is not None and self._access.is_operator(bearer))

    async def _metrics(self, request: Request) -> Response:
        if not self._may_read(request):
            raise Refused(401, "send the scrape_token as the bearer", {"www-authenticate": "Bearer"})
        status, content_type, body = await self._workers.do(self._scrape)
        return Response(body, status, {"content-type": content_type})
