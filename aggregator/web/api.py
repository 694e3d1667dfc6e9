"""The API of a customer's own usage, for the usage page of your product: exact, small, and cheap to ask again.

    GET /api/usage?customer=C [&meter=M ...] [&period=2026-11 | &from=2026-11-01&to=2026-11-08] [&by=day|hour|month]
    GET /api/usage?customer=C&meter=M&by=DIMENSION[&page=2] [...]
    GET /api/openapi.json

Rules
- A customer's token reads that customer's usage, of its meters, and nothing else; the operator's token and whoever signed in
  read everybody's. On this machine alone no token is needed to look, as on the pages.
- Numbers are texts, exact: a browser's own numbers round. Nothing in an answer changes that did not change in the ledger, so
  its ETag tells whether there is anything new.
- What was made is kept for `KEPT_SECONDS`, and whoever asks for the same meanwhile waits for the one that is made already.
- Customers who ask at about the same time are looked up together, in one transaction. Each answer is made of its own lines.
- By a dimension there may be thousands of lines: `ON_A_PAGE` of them are in an answer. Beside them stand the sums of all.
- No source is asked: how far a meter is read stands beside its figures.
"""

import asyncio
import datetime as dt
import hashlib
import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from aggregator.core.model import Span
from aggregator.core.planner import plain
from aggregator.core.usage import By, Usage, month, month_of
from aggregator.core.windows import DAY, is_boundary
from aggregator.errors import AggregatorError
from aggregator.ledger.usage import OfCustomers, UsageFeed, ValuesOfDimension
from aggregator.runtime.clock import monotonic
from aggregator.web.application import Refused, Workers
from aggregator.web.asking import MOST_PAGES
from aggregator.web.breakdowns import ON_A_PAGE, values_of
from aggregator.web.gathering import Gathering
from aggregator.web.openapi import document
from aggregator.web.sessions import Access
from aggregator.web.site import Backend
from aggregator.web.token_secrets import TokenSecrets
from aggregator.web.tokens import NotGood, Scope

KEPT_SECONDS = 5.0
MOST_KEPT = 5_000
"""Answers that are kept: a few KiB each."""

MOST_AT_WORK = 4
MOST_WAITING = 512
LONGEST_SPAN = dt.timedelta(days=366)
MOST_METERS = 50
LONGEST_CUSTOMER = 500
LONGEST_NAME = 100
HEADERS = {
    "cache-control": "private, max-age=5",
    "vary": "authorization, cookie, origin",
    "x-content-type-options": "nosniff",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "cross-origin-resource-policy": "cross-origin",
}


Json = Mapping[str, object]
Found = tuple[Mapping[str, str], Mapping[str, list[Json]]]
"""What customers are called, and of each what is told of its usage."""

OVER_TIME = ("hour", "day", "month")
WHAT_BY_IS = "`by` is hour, day or month; or a dimension of a meter, which `meter` names"


class Wanted(NamedTuple):
    """What is asked for."""

    customer: str
    meters: tuple[str, ...] | None
    span: Span
    by: By | None
    dimension: str | None = None
    """In the place of `by`."""
    page: int = 1
    """Of the lines by a dimension."""


class Kind(NamedTuple):
    """What is asked for, but for whose it is."""

    meters: tuple[str, ...] | None
    span: Span
    by: By | None
    dimension: str | None
    page: int


class Answer(NamedTuple):
    """What is answered, and the mark by which it is known again."""

    body: bytes
    etag: str


class Api:
    """Answers what a customer used."""

    def __init__(
        self, backend: Backend, access: Access, token_secrets: TokenSecrets, origins: Sequence[str]
    ) -> None:
        self._backend = backend
        self._access = access
        self._secrets = token_secrets
        self._origins = frozenset(origins)
        self._workers = Workers("api", MOST_AT_WORK, MOST_WAITING)
        self._gathering: Gathering[Kind, Answer] = Gathering(self._workers, self._made, MOST_WAITING)
        self._kept: OrderedDict[Wanted, tuple[float, asyncio.Future[Answer]]] = OrderedDict()

    def routes(self) -> list[BaseRoute]:
        """Return where it is asked."""
        return [
            Route("/api/usage", self._usage, methods=["GET"]),
            Route("/api/usage", self._preflight, methods=["OPTIONS"]),
            Route("/api/openapi.json", self._document, methods=["GET"]),
        ]

    def close(self) -> None:
        """Give the threads back."""
        self._workers.close()

    async def _usage(self, request: Request) -> Response:
        self._access.check_host(request)
        now = self._backend.ledger.instant()
        try:
            wanted = _of_one_meter(self._allowed(request, wanted_of(request.query_params, now), now))
            answer = await self._answer(wanted)
        except Refused as refused:
            refused.headers = {
                **(refused.headers or {}),
                **self._shared(request),
                "cache-control": "no-store",
            }
            raise
        headers = {**HEADERS, **self._shared(request), "etag": answer.etag}
        if _known(request.headers.get("if-none-match", ""), answer.etag):
            return Response(None, 304, headers)
        return Response(answer.body, 200, headers, "application/json")

    async def _preflight(self, request: Request) -> Response:
        """Answer a browser that asks whether a page of another origin may ask us."""
        shared = self._shared(request)
        if not shared:
            raise Refused(403, "this origin is not in `web: allow_origins`")
        allowed = {
            "access-control-allow-methods": "GET",
            "access-control-allow-headers": "authorization, if-none-match",
            "access-control-max-age": "600",
        }
        return Response(None, 204, {**shared, **allowed})

    async def _document(self, _: Request) -> Response:
        return JSONResponse(document(), headers={**HEADERS, "cache-control": "public, max-age=300"})

    def _allowed(self, request: Request, wanted: Wanted, now: dt.datetime) -> Wanted:
        """Return what of it whoever asks may read. Raises Refused."""
        kind, _, bearer = request.headers.get("authorization", "").partition(" ")
        if not kind:
            if not self._access.may_look(request, self._access.session(request, now)):
                raise _unknown("give a token: `Authorization: Bearer TOKEN`")
            return wanted
        bearer = bearer.strip()
        if kind.lower() != "bearer" or not bearer:
            raise _unknown("give a token: `Authorization: Bearer TOKEN`")
        if self._access.is_operator(bearer):
            return wanted
        return _within(self._scope(bearer, now), wanted)

    def _scope(self, bearer: str, now: dt.datetime) -> Scope:
        try:
            return self._secrets.scope(bearer, now)
        except NotGood:
            raise _unknown("this token is not good, or not any more") from None

    def _shared(self, request: Request) -> dict[str, str]:
        """Return what lets a page of an origin of yours read the answer. Its cookies are never taken."""
        origin = request.headers.get("origin", "")
        return {"access-control-allow-origin": origin} if origin in self._origins else {}

    async def _answer(self, wanted: Wanted) -> Answer:
        """Return what was made a moment ago, or make it; one at a time makes the same."""
        now = monotonic()
        made, found = self._kept.get(wanted, (0.0, None))
        if found is None or now - made > KEPT_SECONDS or _failed(found):
            kind = Kind(*wanted[1:])
            found = asyncio.ensure_future(self._gathering.ask(kind, wanted.customer))
            self._kept[wanted] = (now, found)
            self._kept.move_to_end(wanted)
            while len(self._kept) > MOST_KEPT:
                self._kept.popitem(last=False)
        return await asyncio.shield(found)

    def _made(self, kind: Kind, customers: Sequence[str]) -> Mapping[str, Answer]:
        """Return the answer for each of some customers."""
        try:
            names, found = (self._by_dimension if kind.dimension else self._found)(kind, customers)
        except AggregatorError:
            raise Refused(503, "the ledger does not answer, try again", {"retry-after": "5"}) from None
        return {
            customer: _answer(kind, customer, names.get(customer), found[customer]) for customer in customers
        }

    def _found(self, kind: Kind, customers: Sequence[str]) -> Found:
        """Return what each customer used of each meter and sink."""
        names, found = self._backend.ledger.usage.of_customers(
            kind.span, customers, kind.by, kind.meters, MOST_METERS
        )
        if len(found) > MOST_METERS:
            raise Refused(400, f"that is more than {MOST_METERS} meters and sinks: choose some with `meter`")
        return names, {
            customer: [_of_feed(each, customer, kind.by) for each in found] for customer in customers
        }

    def _by_dimension(self, kind: Kind, customers: Sequence[str]) -> Found:
        """Return a page of what each customer used by a dimension of the meter, for each sink."""
        ledger, (meter,) = self._backend.ledger, kind.meters or ()
        feeds = ledger.usage.feeds(meter, kind.span)
        return ledger.customers.names(customers), {
            customer: [
                _of_values(
                    feed,
                    values_of(ledger, feed, kind.span, kind.dimension or "", ON_A_PAGE, kind.page, customer),
                )
                for feed in feeds
            ]
            for customer in customers
        }


def _answer(kind: Kind, customer: str, name: str | None, usage: Sequence[Json]) -> Answer:
    figures = {
        "customer": customer,
        "name": name,
        "from": _instant(kind.span.start),
        "to": _instant(kind.span.end),
        "by": kind.by or kind.dimension,
        "usage": usage,
    }
    body = json.dumps(figures, ensure_ascii=True, separators=(",", ":")).encode()
    return Answer(body, f'"{hashlib.sha256(body).hexdigest()[:32]}"')


def _of_feed(found: OfCustomers, customer: str, by: By | None) -> Json:
    answer = _head(found.feed, found.totals.get(customer, Usage()))
    if by is not None:
        answer["lines"] = [
            {"from": _instant(line.start), **_usage(line.usage)}
            for line in found.lines.get(customer, ())
            if line.start
        ]
    return answer


def _of_values(feed: UsageFeed, found: ValuesOfDimension) -> Json:
    lines = [{"value": line.value, **_usage(line.usage)} for line in found.lines]
    return {**_head(feed, found.total), "lines": lines, "count": found.lines_in_all}


def _head(feed: UsageFeed, total: Usage) -> dict[str, object]:
    return {
        "meter": feed.meter,
        "sink": feed.sink,
        "read_until": _instant(feed.mark),
        **_usage(total),
    }


def wanted_of(query: QueryParams, now: dt.datetime) -> Wanted:
    """Return what a query asks for. Raises Refused for what cannot be asked."""
    unknown = query.keys() - {"customer", "meter", "period", "from", "to", "by", "page"}
    if unknown:
        raise Refused(400, f"there is no parameter {min(unknown)[:40]}")
    customer = query.get("customer", "")
    if not customer or len(customer) > LONGEST_CUSTOMER or "\0" in customer:
        raise Refused(400, "say whose usage: `customer`")
    meters = query.getlist("meter")
    if len(meters) > MOST_METERS:
        raise Refused(400, f"name {MOST_METERS} meters at most")
    if any(not meter or len(meter) > LONGEST_NAME or "\0" in meter for meter in meters):
        raise Refused(400, "`meter` is the name of a meter")
    by, dimension = _by(query.get("by"))
    return Wanted(
        customer,
        tuple(sorted(set(meters))) or None,
        _span(query, now),
        by,
        dimension,
        _page(query.get("page"), dimension),
    )


def _by(text: str | None) -> tuple[By | None, str | None]:
    """Return by what of time lines are to be, or by which dimension."""
    if text is None or text in OVER_TIME:
        return (By(text) if text else None), None
    if not text or len(text) > LONGEST_NAME or "\0" in text:
        raise Refused(400, WHAT_BY_IS)
    return None, text


def _page(text: str | None, dimension: str | None) -> int:
    if text is None:
        return 1
    if dimension is None:
        raise Refused(400, "`page` goes with `by` and a dimension: otherwise an answer has all lines")
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= MOST_PAGES):
        raise Refused(400, f"`page` is a number from 1 to {MOST_PAGES:,}")
    return int(text)


def _of_one_meter(wanted: Wanted) -> Wanted:
    """Return what is asked for, if lines by a dimension are of one meter. Raises Refused."""
    if wanted.dimension is not None and (wanted.meters is None or len(wanted.meters) != 1):
        raise Refused(400, WHAT_BY_IS)
    return wanted


def _span(query: Mapping[str, str], now: dt.datetime) -> Span:
    period, start, end = query.get("period"), query.get("from"), query.get("to")
    if period is not None and (start or end):
        raise Refused(400, "give `period`, or `from` and `to`")
    if period is not None:
        return _month(period)
    if start is None and end is None:
        return month_of(now)
    if start is None or end is None:
        raise Refused(400, "give both `from` and `to`")
    span = Span(_day(start), _day(end))
    if not span.start < span.end <= span.start + LONGEST_SPAN:
        raise Refused(400, "`from` is before `to`, and a year at most")
    return span


def _month(text: str) -> Span:
    wrong = Refused(400, "`period` is a month such as 2026-11")
    try:
        span = month(text)
    except ValueError:
        raise wrong from None
    if not 2000 <= span.start.year < 3000:
        raise wrong
    return span


def _day(text: str) -> dt.datetime:
    try:
        instant = dt.datetime.fromisoformat(text)
    except ValueError:
        raise Refused(400, "`from` and `to` are days such as 2026-11-01") from None
    instant = instant.replace(tzinfo=dt.UTC) if instant.tzinfo is None else instant.astimezone(dt.UTC)
    if not 2000 <= instant.year < 3000 or not is_boundary(instant, DAY):
        raise Refused(400, "`from` and `to` are midnights in UTC")
    return instant


def _within(scope: Scope, wanted: Wanted) -> Wanted:
    """Return what of it is in a token's scope; all that is asked for must be. Raises Refused."""
    if wanted.customer != scope.customer:
        raise Refused(403, "this token is for another customer")
    if scope.meters is None:
        return wanted
    if wanted.meters is not None and not set(wanted.meters) <= set(scope.meters):
        raise Refused(403, "this token is for other meters")
    return wanted._replace(meters=wanted.meters or tuple(sorted(scope.meters)))


def _failed(made: asyncio.Future[Answer]) -> bool:
    return made.done() and (made.cancelled() or made.exception() is not None)


def _unknown(words: str) -> Refused:
    return Refused(401, words, {"www-authenticate": 'Bearer realm="usage"'})


def _known(header: str, etag: str) -> bool:
    """Tell whether whoever asks has the answer already (RFC 9110, section 13.1.2: compared weakly)."""
    given = [each.strip().removeprefix("W/") for each in header.split(",")]
    return "*" in given or etag in given


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "used": plain(usage.used),
        "billed": plain(usage.billed),
        "not_billed_yet": plain(usage.not_billed),
    }


def _instant(instant: dt.datetime) -> str:
    return f"{instant:%Y-%m-%dT%H:%M:%SZ}"
