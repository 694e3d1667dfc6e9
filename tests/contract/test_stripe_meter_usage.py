"""A quick look at Stripe by meter usage: several meters of a customer by one call, on the sandbox and by script."""

import datetime as dt
import json
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from decimal import Decimal
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import repeat
from threading import Thread
from typing import Any
from urllib.parse import unquote

import pytest

from aggregator.core.model import Span
from aggregator.errors import CustomerUnknown, NoOverview, SinkUnreachable
from aggregator.runtime.clock import utcnow
from aggregator.sandbox import MeterSpec, RunningSandbox, SandboxOptions, running
from aggregator.sinks.protocol import GivesOverviews, Overview
from aggregator.sinks.read_allowance import ReadAllowance
from aggregator.sinks.stripe import StripeMeter, StripeSink
from aggregator.sinks.stripe.limits import Rates
from aggregator.sinks.stripe.meter_usage import VERSION, RememberedUsage, Usage
from aggregator.sinks.stripe.wire import API_VERSION
from aggregator.sinks.stripe_meter import Mapped
from tests.contract.events import about_to_leave, send
from tests.contract.making import making

DAY, HOUR = dt.timedelta(days=1), dt.timedelta(hours=1)
NOW = utcnow().replace(second=0, microsecond=0)
FIRST = NOW.replace(hour=0, minute=0) - 4 * DAY
SPAN = Span(FIRST, FIRST + 4 * DAY)
NAMES = ("api", "bytes", "jobs", "seats", "tokens_small", "tokens_large")

METERS = {
    "api": StripeMeter(event_name="api"),
    "bytes": StripeMeter(event_name="bytes"),
    "jobs": StripeMeter(event_name="jobs"),
    "seats": StripeMeter(event_name="seats", formula="last"),
    "tokens": StripeMeter(
        event_name="tokens",
        event_names=(Mapped("tokens_small", {"model": "s"}), Mapped("tokens_large", {"model": "l"})),
    ),
}

MakeSink = Callable[..., StripeSink]


@pytest.fixture(scope="module")
def shared_sandbox() -> Iterator[RunningSandbox]:
    """One sandbox for all tests here."""
    specs = [MeterSpec(name, "last" if name == "seats" else "sum") for name in NAMES]
    with running(SandboxOptions(meters=tuple(specs))) as sandbox:
        yield sandbox


@pytest.fixture
def sandbox(shared_sandbox: RunningSandbox) -> RunningSandbox:
    """The sandbox as at the start, whose account has the preview."""
    shared_sandbox.reset()
    shared_sandbox.set_rules(meter_usage=True)
    return shared_sandbox


@pytest.fixture
def make_sink() -> Iterator[MakeSink]:
    """Make sinks that look at totals by meter usage."""
    with making(
        partial(StripeSink, "stripe"),
        api_key="sk_test_0123456789abcdefghij",
        mode="test",
        timeout=dt.timedelta(seconds=20),
        max_in_flight=16,
        rates=Rates(10_000.0, 10_000.0, stream_by_event=True),
        meters=METERS,
        totals_by="meter_usage",
    ) as made:
        yield made


def used(
    sink: StripeSink, meter: str, quantity: str, at: dt.datetime, customer: str = "cus_1", **more: Any
) -> None:
    """Let a customer have used something."""
    send(sink, about_to_leave(at, customer, quantity)._replace(meter=meter, **more))


def look(sink: StripeSink, meter: str, customer: str = "cus_1", span: Span = SPAN) -> Overview:
    """Have a quick look at a customer's days."""
    seen = sink.overview(meter, customer, span, DAY)
    assert seen is not None
    return seen


def asked(sandbox: RunningSandbox) -> int:
    """Return how many calls the sandbox answered."""
    count: int = sandbox.stats()["requests"]
    return count


def test_all_meters_of_a_customer_take_one_call(sandbox: RunningSandbox, make_sink: MakeSink) -> None:
    """Each shows what its summaries show, day by day; a meter that was told with another takes no call, once."""
    sink = make_sink(sandbox.url)
    for number, meter in enumerate(("api", "bytes", "jobs")):
        used(sink, meter, f"{number}.5", FIRST + HOUR)
        used(sink, meter, "7", FIRST + 2 * DAY + HOUR)
    look(sink, "api", "cus_2")  # so that ids are known
    before = asked(sandbox)
    looks = {meter: look(sink, meter) for meter in ("api", "bytes", "jobs")}
    assert asked(sandbox) == before + 1
    assert [seen.reads for seen in looks.values()] == [1, 0, 0]
    for meter, seen in looks.items():
        assert seen.figures == sink.breakdown(meter, "cus_1", SPAN, DAY)
    assert looks["bytes"].figures == {FIRST: Decimal("1.5"), FIRST + 2 * DAY: 7}
    assert look(sink, "bytes").reads == 1


def test_event_names_of_one_meter_add_up_to_its_digits(sandbox: RunningSandbox, make_sink: MakeSink) -> None:
    """As decimals, though Stripe shows floats."""
    sink = make_sink(sandbox.url)
    used(sink, "tokens", "0.1", FIRST + HOUR, dimensions=(("model", "s"),))
    used(sink, "tokens", "0.2", FIRST + HOUR, dimensions=(("model", "l"),))
    assert look(sink, "tokens").figures == {FIRST: Decimal("0.3")}


def test_it_says_how_fresh_it_is(sandbox: RunningSandbox, make_sink: MakeSink) -> None:
    """What the account took later is not in it."""
    sink = make_sink(sandbox.url)
    used(sink, "api", "5", FIRST + HOUR)
    sandbox.set_rules(meter_usage=True, meter_usage_lag_seconds=3600)
    seen = look(sink, "api")
    assert seen.figures == {}
    assert NOW - 2 * HOUR < seen.fresh_to <= utcnow() - HOUR
    assert sink.breakdown("api", "cus_1", SPAN, DAY) == {FIRST: 5}


@pytest.mark.parametrize("most", [4, 5, 8, 9])
def test_an_answer_that_is_not_whole_is_asked_for_in_parts(
    sandbox: RunningSandbox, make_sink: MakeSink, most: int
) -> None:
    """No row is lost or doubled; calls after that name as many meters as an answer has room for."""
    sink = make_sink(sandbox.url)
    for day in range(4):
        for number, meter in enumerate(("api", "bytes", "jobs")):
            for customer in ("cus_1", "cus_2"):
                used(sink, meter, str(10 * number + day + 1), FIRST + day * DAY, customer)
    sandbox.set_rules(meter_usage=True, meter_usage_rows=most)
    count = []
    for customer in ("cus_1", "cus_2"):
        before = look(sink, "jobs", customer)
        count.append(before.reads)
        for number, meter in enumerate(("api", "bytes")):
            seen = look(sink, meter, customer)
            assert (seen.figures, seen.reads) == (
                {FIRST + day * DAY: 10 * number + day + 1 for day in range(4)},
                0,
            )
    names = 5  # of Stripe meters: `seats` is not looked at, and `tokens` has two that are there
    assert count == [1 + -(-names // (most // 4)), -(-names // (most // 4))]


def test_where_an_answer_has_no_room_for_one_meter_summaries_are_read(
    sandbox: RunningSandbox, make_sink: MakeSink
) -> None:
    """It says so, and that is no trouble of shorter spans."""
    sink = make_sink(sandbox.url)
    for day in range(4):
        used(sink, "api", "1", FIRST + day * DAY)
    sandbox.set_rules(meter_usage=True, meter_usage_rows=3)
    with pytest.raises(NoOverview, match="hold 3 rows, and 4 are asked for"):
        look(sink, "api")
    assert len(look(sink, "api", span=Span(FIRST, FIRST + 3 * DAY)).figures) == 3


def test_it_is_as_fresh_as_the_least_fresh_answer(make_sink: MakeSink) -> None:
    """Where several calls are needed, what the first does not show may be what counts."""
    first = {**meter_usage_answer([]), "refreshed_at": 1_000_000}
    more = {**first, "rows": {**first["rows"], "data": rows_of("mtr_api"), "has_more": True}}
    later = [
        {**meter_usage_answer([]), "refreshed_at": 1_000_000 + 60 * number} for number in (9, 3, 5, 7, 8)
    ]
    with scripted(more, then=later) as (url, _):
        assert look(make_sink(url), "api").fresh_to == dt.datetime.fromtimestamp(1_000_180, dt.UTC)


@pytest.mark.parametrize("status", [400, 403, 404])
def test_an_account_without_the_preview_says_so_once(
    sandbox: RunningSandbox, make_sink: MakeSink, status: int
) -> None:
    """One sentence says what to do; for an hour it is not asked again, and then it is."""
    sandbox.set_rules(meter_usage=False, meter_usage_status=status)
    now = [0.0]
    sink = make_sink(sandbox.url, monotonic=lambda: now[0])
    [sentence] = sink.cannot_promise()
    assert "Ask Stripe for the preview. Event summaries are read instead" in sentence
    assert f"({status}" in sentence
    assert "take `totals_by: meter_usage` off" in sentence
    before = asked(sandbox)
    for _ in range(3):
        with pytest.raises(NoOverview, match="Ask Stripe for the preview"):
            look(sink, "api")
    assert asked(sandbox) == before
    assert sink.breakdown("api", "cus_1", SPAN, DAY) == {}
    sandbox.set_rules(meter_usage=True)
    now[0] += 3601
    assert look(sink, "api").figures == {}
    assert sink.cannot_promise() == []


def test_only_these_calls_name_a_preview_version(make_sink: MakeSink) -> None:
    """With the parameters that the preview documents; everything else goes by the version that all calls go by."""
    with scripted(meter_usage_answer([])) as (url, calls):
        sink = make_sink(url)
        look(sink, "api")
        sink.account()
    versions = {path.split("?")[0]: version for path, version in calls}
    assert versions.pop("/v1/billing/analytics/meter_usage") == VERSION
    assert set(versions.values()) == {API_VERSION}
    assert not API_VERSION.endswith("preview")
    [query] = [unquote(path.split("?")[1]) for path, _ in calls if "meter_usage" in path]
    start, end = (int(each.timestamp()) for each in (FIRST - DAY, FIRST + 5 * DAY))
    assert query.startswith(f"customer=cus_1&starts_at={start}&ends_at={end}&meters[0][meter]=mtr_api")
    assert query.endswith("&value_grouping_window=day")


def test_a_sink_that_is_not_set_to_it_has_no_quick_look(sandbox: RunningSandbox, make_sink: MakeSink) -> None:
    """It asks for nothing."""
    sink = make_sink(sandbox.url, totals_by="event_summaries")
    assert isinstance(sink, GivesOverviews)
    assert sink.overview("api", "cus_1", SPAN, DAY) is None
    assert sink.cannot_promise() == []
    assert asked(sandbox) == 0


def test_every_call_counts_for_the_read_allowance(sandbox: RunningSandbox, make_sink: MakeSink) -> None:
    """Also those that follow an answer that was not whole."""
    sink = make_sink(sandbox.url)
    allowance = ReadAllowance(10_000.0, None, lambda _: 0)
    sink.limit_reads(allowance)
    for day in range(4):
        for meter in ("api", "bytes"):
            used(sink, meter, "1", FIRST + day * DAY)
    sandbox.set_rules(meter_usage=True, meter_usage_rows=4)
    assert look(sink, "api").reads == 6 == allowance.reads
    assert look(sink, "bytes").reads == 0
    assert allowance.reads == 6


def test_a_customer_whom_stripe_does_not_know(make_sink: MakeSink) -> None:
    """Is said to be unknown as summaries say it; the account goes on being asked about others."""
    unknown = {
        "error": {
            "type": "invalid_request_error",
            "code": "resource_missing",
            "message": "No such customer: 'cus_1'",
        }
    }
    with scripted(unknown, status=400) as (url, _):
        sink = make_sink(url)
        for _ in range(2):
            with pytest.raises(CustomerUnknown):
                look(sink, "api")
        assert sink.cannot_promise() == []


def test_a_server_that_fails_is_tried_again_later(make_sink: MakeSink) -> None:
    """It is no word on the preview."""
    with scripted({"error": {"type": "api_error", "message": "Oops"}}, status=500) as (url, _):
        sink = make_sink(url)
        with pytest.raises(SinkUnreachable):
            look(sink, "api")


ROW = {"meter": "mtr_api", "starts_at": int(FIRST.timestamp()), "value": 1.0}


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ({"rows": {"data": [], "has_more": False}}, "does not say how fresh"),
        ({"refreshed_at": 10**15, "rows": {"data": [], "has_more": False}}, "does not say how fresh"),
        ({"refreshed_at": 1}, "no list of rows"),
        ({"data_refreshed_at": 1, "data": []}, "no list of rows"),
        ({"refreshed_at": 1, "rows": {"data": []}}, "whether there are more"),
        ({"refreshed_at": 1, "rows": {"data": [], "has_more": True}}, "says there are more"),
        ({"refreshed_at": 1, "rows": {"data": [ROW, ROW], "has_more": False}}, "a row twice"),
        (
            {"refreshed_at": 1, "rows": {"data": [{**ROW, "meter": "mtr_x"}], "has_more": False}},
            "not asked for",
        ),
        (
            {"refreshed_at": 1, "rows": {"data": [{**ROW, "meter": None}], "has_more": False}},
            "makes no sense",
        ),
        ({"refreshed_at": 1, "rows": {"data": [{**ROW, "value": "1"}], "has_more": False}}, "makes no sense"),
        (
            {"refreshed_at": 1, "rows": {"data": [{**ROW, "starts_at": 60}], "has_more": False}},
            "not asked for",
        ),
        (
            {
                "refreshed_at": 1,
                "rows": {"data": [{**ROW, "starts_at": int(FIRST.timestamp()) + 60}], "has_more": False},
            },
            "not asked for",
        ),
    ],
)
def test_an_answer_that_makes_no_sense_is_left_aside(
    make_sink: MakeSink, answer: dict[str, Any], said: str
) -> None:
    """It is said which, and that summaries are read instead; the account is left alone for a while."""
    with scripted(answer) as (url, calls):
        sink = make_sink(url)
        for _ in range(2):
            with pytest.raises(NoOverview, match=f"{said}.*Event summaries are read instead"):
                look(sink, "api")
    assert len([path for path, _ in calls if "meter_usage" in path]) == 1


def test_what_was_told_with_another_meter_is_kept_for_a_while() -> None:
    """For a part of its span, too; nothing older than an hour, and no more than there is room for."""
    now = [0.0]
    kept = RememberedUsage(lambda: now[0], most=8)
    usage = Usage(SPAN, DAY, NOW, {each: array("d", [1, 0, 2, 3]) for each in ("a", "b", "c")})
    kept.keep("cus_1", usage, "a")
    kept.keep("cus_2", usage, "a")
    assert kept.take("b", "cus_2", SPAN, DAY) is None
    assert kept.take("a", "cus_1", SPAN, DAY) is None
    assert kept.take("b", "cus_1", Span(FIRST - DAY, FIRST + DAY), DAY) is None
    assert kept.take("b", "cus_1", SPAN, HOUR) is None
    part = Span(FIRST + DAY, FIRST + 3 * DAY)
    assert kept.take("b", "cus_1", part, DAY) == ({FIRST + 2 * DAY: 2}, NOW)
    assert kept.take("b", "cus_1", part, DAY) is None
    now[0] = 3600.0
    assert kept.take("c", "cus_1", SPAN, DAY) is None
    kept.keep("cus_2", usage, "a")
    assert kept.take("c", "cus_2", SPAN, DAY) is not None
    assert kept.take("b", "cus_2", SPAN, DAY) is not None
    kept.keep("cus_3", usage, "a")
    assert kept.take("b", "cus_3", SPAN, DAY) is not None


def rows_of(meter: str) -> list[dict[str, Any]]:
    """Return a row for each day."""
    return [
        {"meter": meter, "starts_at": int((FIRST + day * DAY).timestamp()), "value": 1.0} for day in range(4)
    ]


def meter_usage_answer(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return an answer as Stripe documents it."""
    listed = {"object": "list", "data": rows, "has_more": False, "total": len(rows), "url": "/v1/x"}
    return {
        "object": "billing.analytics.meter_usage",
        "livemode": False,
        "refreshed_at": int(NOW.timestamp()),
        "rows": listed,
    }


@contextmanager
def scripted(
    answer: dict[str, Any], status: int = 200, then: Sequence[dict[str, Any]] = ()
) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Answer each call for meter usage like this, those after the first as `then` says; yield the address and the calls.

    A call is what was asked, and by which version.
    """
    calls: list[tuple[str, str]] = []
    answers = iter([answer, *then] if then else repeat(answer))
    meters = [
        {
            "id": f"mtr_{name}",
            "object": "billing.meter",
            "event_name": name,
            "status": "active",
            "livemode": False,
            "display_name": name,
        }
        for name in NAMES
    ]

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            calls.append((self.path, self.headers["Stripe-Version"]))
            code, said = 200, {"object": "list", "data": meters, "has_more": False}
            if "meter_usage" in self.path:
                code, said = status, next(answers)
            elif self.path.startswith("/v1/account"):
                said = {"id": "acct_1", "object": "account"}
            body = json.dumps(said).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ExitStack() as stack:
        server = stack.enter_context(ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        thread = Thread(target=server.serve_forever)
        thread.start()
        stack.callback(thread.join)
        stack.callback(server.shutdown)
        yield f"http://127.0.0.1:{server.server_port}", calls
