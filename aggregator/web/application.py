"""What answers a call: routes, and in one place what is said where there is none or where something goes wrong."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from aggregator.runtime import log

MOST_HEADERS = 100
BODY_SECONDS = 10.0

Result = TypeVar("Result")
Render = Callable[[Request, int, str], Response]
"""How an error is shown to whoever made a call: the request, the status, and the words."""


class Refused(HTTPException):
    """A call that is not answered, and why."""

    def __init__(self, status: int, reason: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status, reason, dict(headers or {}))


class Workers:
    """Threads in which the ledger and others are waited for; who is one too many is told to come again."""

    def __init__(self, name: str, at_work: int, waiting: int) -> None:
        self._threads = ThreadPoolExecutor(at_work, name)
        self._most = waiting
        self._count = 0

    async def do(self, work: Callable[[], Result]) -> Result:
        """Do it in a thread. Raises Refused where there is too much at once."""
        if self._count >= self._most:
            raise Refused(503, "too much at once, try again", {"retry-after": "1"})
        self._count += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        finally:
            self._count -= 1

    def close(self) -> None:
        """Give the threads back."""
        self._threads.shutdown(wait=False, cancel_futures=True)


class Application(Starlette):
    """Answers HTTP calls by its routes. Errors are said in JSON, unless `render` makes a page of one."""

    def __init__(self, routes: Sequence[BaseRoute], render: Render | None = None) -> None:
        super().__init__(routes=routes)
        self.router.redirect_slashes = False
        self._render = render

    def build_middleware_stack(self) -> ASGIApp:
        """Return what answers: nothing but routes and what is said of errors. Ours is the outermost, and raises nothing."""
        handlers: dict[Any, Any] = {HTTPException: self._failed, ClientDisconnect: self._gone}
        return ExceptionMiddleware(self.router, handlers=handlers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one call."""
        if scope["type"] != "http":
            return
        begun = False

        async def sending(message: Any) -> None:
            nonlocal begun
            begun = True
            await send(message)

        request = Request(scope, receive)
        try:
            if len(scope["headers"]) > MOST_HEADERS:
                await self._said(request, 431, "too many headers")(scope, receive, sending)
                return
            await super().__call__(scope, receive, sending)
        except Exception:  # noqa: BLE001 - the outermost loop: whoever called is told to come again
            log.logger().exception(log.UNEXPECTED, part="web")
            if not begun:
                await self._said(request, 503, "try again")(scope, receive, send)

    async def _failed(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        words = {404: "nothing is here"}.get(error.status_code, error.detail)
        if error.status_code == 405 and not isinstance(error, Refused):
            words = f"only {(error.headers or {}).get('Allow', '')}"
        if isinstance(error, Refused):
            words = error.detail
        return self._said(request, error.status_code, words, error.headers)

    async def _gone(self, request: Request, _error: Exception) -> Response:
        return self._said(request, 400, "gone")

    def _said(
        self, request: Request, status: int, words: str, headers: Mapping[str, str] | None = None
    ) -> Response:
        response = (self._render or _in_json)(request, status, words)
        response.headers.update(headers or {})
        return response


def _in_json(_request: Request, status: int, words: str) -> Response:
    return said(status, words)


def said(status: int, words: str) -> Response:
    """Return an error for programs. What of a body has not come is not waited for."""
    return JSONResponse({"error": words}, status, {"connection": "close"})


async def read_body(request: Request, most: int) -> bytes:
    """Read a body as it came: what is signed is its bytes. Raises Refused where it is too large, or too slow."""
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length) > most:
        raise Refused(413, "too large", {"connection": "close"})
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for part in request.stream():
                body += part
                if len(body) > most:
                    raise Refused(413, "too large", {"connection": "close"})
    except TimeoutError:
        raise Refused(408, "too slow", {"connection": "close"}) from None
    return bytes(body)
