"""The pages as a whole: how one is made of what the ledger says, who gets to see it, and what goes with it over the wire.

Rules
- A page is a function from the ledger to figures, which runs in a thread, and a template that shows them.
- Every answer forbids what it does not need: scripts and styles of others, frames, forms that lead elsewhere.
- What changes something is a POST, and ends in a redirect to a page that tells what was done.
"""

import datetime as dt
import hashlib
import importlib.resources
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode, urlsplit

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from aggregator import __version__
from aggregator.collection.usage import MeterSource
from aggregator.config import Config
from aggregator.core.shown import duration, shown
from aggregator.errors import AggregatorError, UsageError
from aggregator.ledger.ledger import Ledger
from aggregator.runtime.clock import monotonic
from aggregator.web.application import Refused, Workers, read_body, said
from aggregator.web.sessions import LONGEST_NAME, Access, Session, path_of_ours

MOST_AT_WORK = 4
"""Pages worked on at once: each holds a connection to the ledger, of which collection and delivery need theirs."""

MOST_WAITING = 64
LONGEST_FORM = 256 * 1024
"""A form that decides about a page of events has a few KiB."""

POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "cache-control": "no-store",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "interest-cohort=()",
    "referrer-policy": "same-origin",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
STATIC = {"style.css": "text/css", "page.js": "text/javascript", "icon.svg": "image/svg+xml"}

Values = Mapping[str, Any]


class Backend(NamedTuple):
    """What stands behind the pages. Without `source_of` no source can be asked."""

    config: Config
    ledger: Ledger
    source_of: Callable[[str], MeterSource | None] | None = None


class Asked(NamedTuple):
    """What a page is asked for: what stands in its address, and who asks."""

    path: Values
    query: Mapping[str, str]
    session: Session | None
    now: dt.datetime


class Page(NamedTuple):
    """A template, and what it shows."""

    template: str
    values: Values


View = Callable[[Backend, Asked], Page]
Action = Callable[[Backend, Session, Mapping[str, list[str]]], str]
"""What a form does; returns what was done, in a sentence."""


class Site:
    """The pages of a ledger."""

    def __init__(
        self, backend: Backend, access: Access, views: Mapping[str, View], actions: Mapping[str, Action]
    ) -> None:
        self.backend = backend
        self.access = access
        self.workers = Workers("pages", MOST_AT_WORK, MOST_WAITING)
        self._views = views
        self._actions = actions
        self._static = {name: _static(name) for name in STATIC}
        self._templates = Environment(
            loader=PackageLoader("aggregator.web"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters |= {
            "shown": shown,
            "duration": duration,
            "part": lambda text: quote(str(text), safe=""),
            "sentence": lambda text: text[:1].upper() + text[1:],
            "instant": lambda at: f"{at:%Y-%m-%dT%H:%MZ}",
        }
        self._templates.globals |= {
            "version": __version__,
            "static": lambda name: f"/static/{self._static[name][1]}/{name}",
            "address": _address,
        }

    def routes(self) -> list[BaseRoute]:
        """Return where the pages are."""
        return [
            *(Route(path, self._viewer(view), methods=["GET"]) for path, view in self._views.items()),
            *(Route(path, self._actor(action), methods=["POST"]) for path, action in self._actions.items()),
            Route("/sign-in", self._sign_in_page, methods=["GET"]),
            Route("/sign-in", self._sign_in, methods=["POST"]),
            Route("/sign-out", self._sign_out, methods=["POST"]),
            Route("/static/{digest}/{name}", self._file, methods=["GET"]),
        ]

    def close(self) -> None:
        """Give the threads back."""
        self.workers.close()

    def error(self, request: Request, status: int, words: str) -> Response:
        """Show an error as a page to people, in JSON to programs."""
        if "text/html" not in request.headers.get("accept", ""):
            return said(status, words)
        return self._html(Page("error.html", {"status": status, "words": words}), None, "/", status)

    def now(self) -> dt.datetime:
        """Return the present instant by the ledger's clock."""
        return self.backend.ledger.instant()

    def _viewer(self, view: View) -> Callable[[Request], Any]:
        async def answer(request: Request) -> Response:
            self.access.check_host(request)
            now = self.now()
            session = self.access.session(request, now)
            here = request.url.path + (f"?{request.url.query}" if request.url.query else "")
            if not self.access.may_look(request, session):
                return self._to_sign_in(here)
            if "\0" in "".join([*request.path_params.values(), *request.query_params.values()]):
                raise Refused(400, "the address has a character that no name has")
            asked = Asked(request.path_params, request.query_params, session, now)
            page = await self.workers.do(lambda: self._made(view, asked))
            response = self._html(page, session, here)
            if session is not None:
                self.access.keep(response, session, now)
            return response

        return answer

    def _made(self, view: View, asked: Asked) -> Page:
        try:
            return view(self.backend, asked)
        except UsageError as error:
            raise Refused(404, str(error)) from None
        except AggregatorError as error:
            raise Refused(503, str(error)) from None

    def _actor(self, action: Action) -> Callable[[Request], Any]:
        async def answer(request: Request) -> Response:
            session, form = await self._form(request)
            done = await self.workers.do(lambda: self._done(action, session, form))
            back = path_of_ours(_first(form, "back"))
            parts = urlsplit(back)
            return RedirectResponse(f"{parts.path}?{urlencode({'done': done})}", 303, HEADERS)

        return answer

    def _done(self, action: Action, session: Session, form: Mapping[str, list[str]]) -> str:
        try:
            return action(self.backend, session, form)
        except AggregatorError as error:
            raise Refused(409, str(error)) from None

    async def _form(self, request: Request) -> tuple[Session, Mapping[str, list[str]]]:
        """Return who sent a form and what it says. Raises Refused unless it is of a page of theirs."""
        self.access.check_host(request)
        self.access.check_sender(request)
        session = self.access.session(request, self.now())
        if session is None:
            raise Refused(401, "sign in first: to decide needs the operator's token")
        form = await _read_form(request)
        self.access.check_form(session, _first(form, "form_token"))
        return session, form

    def _to_sign_in(self, here: str) -> Response:
        if self.access.operator_token is None:
            raise Refused(403, "nobody can sign in: set `web: operator_token` in the configuration")
        return RedirectResponse(f"/sign-in?{urlencode({'next': here})}", 303, HEADERS)

    async def _sign_in_page(self, request: Request) -> Response:
        self.access.check_host(request)
        return self._sign_in_form(request.query_params.get("next", "/"))

    def _sign_in_form(self, following: str, wrong: str = "", who: str = "", status: int = 200) -> Response:
        values = {
            "next": path_of_ours(following),
            "wrong": wrong,
            "who": who,
            "possible": self.access.operator_token is not None,
        }
        return self._html(Page("sign_in.html", values), None, "/sign-in", status)

    async def _sign_in(self, request: Request) -> Response:
        self.access.check_host(request)
        self.access.check_sender(request)
        form = await _read_form(request)
        who, following, now = _first(form, "who").strip(), _first(form, "next"), self.now()
        if not who or len(who) > LONGEST_NAME:
            wrong = f"Enter your name, in {LONGEST_NAME} characters at most: it is recorded with each of your decisions."
            return self._sign_in_form(following, wrong, who[:LONGEST_NAME], 400)
        session = self.access.sign_in(_first(form, "token"), who, now, monotonic())
        if session is None:
            return self._sign_in_form(following, "That is not the operator token.", who, 403)
        response = RedirectResponse(path_of_ours(following), 303, HEADERS)
        self.access.keep(response, session, now)
        return response

    async def _sign_out(self, request: Request) -> Response:
        await self._form(request)
        response = RedirectResponse("/", 303, HEADERS)
        self.access.forget(response)
        return response

    async def _file(self, request: Request) -> Response:
        name, digest = request.path_params["name"], request.path_params["digest"]
        if name not in self._static or self._static[name][1] != digest:
            raise Refused(404, "nothing is here")
        headers = {**HEADERS, "cache-control": "public, max-age=31536000, immutable"}
        return Response(self._static[name][0], media_type=STATIC[name], headers=headers)

    def _html(self, page: Page, session: Session | None, here: str, status: int = 200) -> Response:
        known = {
            "session": session,
            "form_token": self.access.form_token(session) if session else "",
            "can_sign_in": self.access.operator_token is not None,
            "here": here,
            "done": "",
        }
        text = self._templates.get_template(page.template).render({**known, **page.values})
        return HTMLResponse(text, status, HEADERS)


async def _read_form(request: Request) -> Mapping[str, list[str]]:
    from urllib.parse import parse_qs

    kind = request.headers.get("content-type", "").partition(";")[0].strip()
    if kind != "application/x-www-form-urlencoded":
        raise Refused(415, "only a form's own encoding is read", {"connection": "close"})
    body = await read_body(request, LONGEST_FORM)
    try:
        return parse_qs(body.decode(), keep_blank_values=True, max_num_fields=2_000)
    except ValueError:
        raise Refused(400, "this form cannot be read") from None


def _first(form: Mapping[str, list[str]], name: str) -> str:
    return form.get(name, [""])[0]


def _static(name: str) -> tuple[bytes, str]:
    """Return a file of ours, and a word that changes with its content."""
    content = importlib.resources.files("aggregator.web").joinpath("static", name).read_bytes()
    return content, hashlib.sha256(content).hexdigest()[:12]


def _address(path: str, **query: object) -> str:
    """Return a path with what is given of a query."""
    given = {name: str(value) for name, value in query.items() if value not in (None, "")}
    return f"{path}?{urlencode(given)}" if given else path
