"""Spans, by OpenTelemetry's real SDK to a real collector; and that nothing of it is felt where it is off, or fails."""

import datetime as dt
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from aggregator.config import load
from aggregator.core.model import Span
from aggregator.core.tracing import NO_TRACING, Tracing
from aggregator.errors import ConfigError, LedgerUnreachable, QueryTimedOut, SourceUnreachable, UsageError
from aggregator.runtime import log
from aggregator.runtime.tracing import tracing
from tests.collector import OtelCollector, otel_collector

NINE = dt.datetime(2026, 11, 20, 9, tzinfo=dt.UTC)
HOUR = Span(NINE, NINE + dt.timedelta(hours=1))
SECRET = "s3cret-of-the-collector"


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[OtelCollector]:
    """A collector, to which spans go as soon as they may."""
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
    with otel_collector() as collector:
        yield collector


@pytest.fixture
def lines() -> Iterator[Callable[[str], list[dict[str, Any]]]]:
    """The lines of the log, by their event."""
    out = StringIO()
    log.configure(verbose=False, stream=out)
    yield lambda event: [
        line for line in map(json.loads, out.getvalue().splitlines()) if line["event"] == event
    ]
    log.configure(verbose=False)


def opened(collector: OtelCollector, ledger: Callable[[], str] = lambda: "ledger-1") -> Any:
    """Open what traces, to this collector."""
    return tracing(on=True, endpoint=collector.url, ledger=ledger)


def a_pass(traces: Tracing, pass_id: int | None = 7, **figures: object) -> None:
    """Trace a pass that was committed."""
    with traces.a_pass("api", "live", HOUR) as trace:
        trace.outcome, trace.pass_id, trace.read_seconds, trace.figures = "committed", pass_id, 0.5, figures


def a_claim(traces: Tracing, planned_by: Callable[[], list[int]], outcome: str = "settled") -> None:
    """Trace a claim that was made."""
    with traces.a_claim("stripe") as trace:
        trace.claim, trace.planned_by, trace.outcome = 3, planned_by, outcome
        trace.meters, trace.figures = (lambda: {"api"}), {"claimed": 5, "accepted": 4, "refused": 1}


def test_a_pass_and_the_claim_that_sends_its_events_are_linked(collector: OtelCollector) -> None:
    """By nothing but the ledger's name and the pass's number: another process, on another host, links to the same."""
    with opened(collector) as first:
        a_pass(first, rows=40, planned=5)
    with opened(collector) as second:
        a_claim(second, lambda: [7, 8])
    [read], [sent] = collector.spans("pass"), collector.spans("claim")
    assert (read.name, read.parent, read.failed) == ("pass api", b"", False)
    assert read.attributes == {
        "aggregator.meter": "api",
        "aggregator.kind": "live",
        "aggregator.window.start": "2026-11-20T09:00:00+00:00",
        "aggregator.window.end": "2026-11-20T10:00:00+00:00",
        "aggregator.pass": 7,
        "aggregator.read_seconds": 0.5,
        "aggregator.outcome": "committed",
        "aggregator.rows": 40,
        "aggregator.planned": 5,
    }
    assert read.begun <= read.ended <= sent.begun <= sent.ended
    assert sent.links[0] == (read.trace, read.id)
    assert len(set(sent.links)) == 2
    assert sent.trace != read.trace
    assert sent.attributes == {
        "aggregator.sink": "stripe",
        "aggregator.claim": 3,
        "aggregator.meters": ["api"],
        "aggregator.outcome": "settled",
        "aggregator.claimed": 5,
        "aggregator.accepted": 4,
        "aggregator.refused": 1,
    }
    assert read.resource["service.name"] == "aggregator"


def test_passes_of_another_ledger_are_others(collector: OtelCollector) -> None:
    """Each ledger counts its passes from one, and an adopted one goes on under a new name."""
    with opened(collector) as one:
        a_pass(one)
    with opened(collector, lambda: "ledger-1/1") as adopted:
        a_pass(adopted)
    first, second = collector.spans("pass")
    assert (first.trace, first.id) != (second.trace, second.id)


def test_what_failed_says_so_and_not_why(collector: OtelCollector) -> None:
    """The kind of an error is told; its words may hold what is a customer's, or a secret."""
    with opened(collector) as traces:
        with (
            pytest.raises(SourceUnreachable, match="cus_ada"),
            traces.a_pass("api", "live", HOUR),
        ):
            raise SourceUnreachable(f"no route to cus_ada with {SECRET}")
        with pytest.raises(QueryTimedOut), traces.a_pass("api", "live", HOUR):
            raise QueryTimedOut("after 60 s")
        a_claim(traces, list, "halted")
    away, slow = collector.spans("pass")
    [claim] = collector.spans("claim")
    assert (away.failed, away.attributes["error.type"]) == (True, "SourceUnreachable")
    assert away.attributes["aggregator.outcome"] == "failed"
    assert slow.attributes["aggregator.outcome"] == "too_long"
    assert (claim.failed, claim.attributes["aggregator.outcome"]) == (True, "halted")
    assert not any(b"cus_ada" in body or SECRET.encode() in body for body in collector.bodies)


def test_who_looks_and_claims_nothing_makes_no_span(collector: OtelCollector) -> None:
    """A worker looks each second; that is told to nobody."""
    with opened(collector) as traces:
        for _ in range(50):
            with traces.a_claim("stripe"):
                pass
        a_claim(traces, list)
    assert [span.name for span in collector.spans()] == ["claim stripe"]


def test_its_own_variables_have_the_last_word(
    collector: OtelCollector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where spans go, with which headers, and what they are said to be of, as for any program."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", f"api-key={SECRET}")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "usage")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=staging")
    with tracing(on=True, endpoint=None, ledger=lambda: "ledger-1") as traces:
        a_pass(traces)
    [span] = collector.spans()
    assert span.resource["service.name"] == "usage"
    assert span.resource["deployment.environment.name"] == "staging"
    assert collector.headers[0]["api-key"] == SECRET
    assert collector.headers[0]["content-encoding"] == "gzip"
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    with tracing(on=True, endpoint=None, ledger=lambda: "ledger-1") as traces:
        a_pass(traces)
    assert len(collector.spans()) == 1


@pytest.mark.parametrize(("name", "value"), [("OTEL_SDK_DISABLED", "true"), ("OTEL_TRACES_EXPORTER", "none")])
def test_they_can_also_switch_it_off(
    collector: OtelCollector, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    """Whoever runs it need not change the configuration for that."""
    monkeypatch.setenv(name, value)
    with opened(collector) as traces:
        assert traces is NO_TRACING


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        (
            "OTEL_EXPORTER_OTLP_PROTOCOL",
            "grpc",
            "OTEL_EXPORTER_OTLP_PROTOCOL is 'grpc': set it to http/protobuf",
        ),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "0", "cannot be set up by its OTEL_ variables"),
    ],
)
def test_what_cannot_be_set_up_is_said_at_the_start(
    collector: OtelCollector, monkeypatch: pytest.MonkeyPatch, name: str, value: str, told: str
) -> None:
    """And not by spans that never arrive."""
    monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=told), opened(collector):
        pass


def test_a_collector_that_refuses_is_said_once_and_when_it_is_over(
    collector: OtelCollector, lines: Callable[[str], list[dict[str, Any]]]
) -> None:
    """What the SDK says of each try stays out of the log, and with it what a collector answers."""
    arrived = threading.Event()
    taking = collector.take

    def take(path: str, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
        answer = taking(path, headers, body)
        arrived.set()
        return answer

    collector.take = take  # type: ignore[method-assign]
    collector.status = 400
    with opened(collector) as traces:
        for _ in range(3):
            arrived.clear()
            a_pass(traces)
            assert arrived.wait(60)
        collector.status = 200
        a_pass(traces)
    [failed], [_] = lines("traces_failed"), lines("traces_resumed")
    assert "400" in failed["reason"]
    assert lines("library_warned") == []


@pytest.mark.parametrize("way", ["silent", "gone"])
def test_a_collector_that_is_away_holds_nobody_up(
    monkeypatch: pytest.MonkeyPatch, collector: OtelCollector, way: str
) -> None:
    """Neither a pass waits for it nor the end, where the SDK by itself would wait for 15 seconds and more."""
    if way == "silent":
        collector.answering.clear()
        url = collector.url
    else:
        url = "http://127.0.0.1:1"
    before = set(threading.enumerate())
    with tracing(on=True, endpoint=url, ledger=lambda: "ledger-1") as traces:
        for number in range(3_000):  # more than it keeps
            a_pass(traces, number)
        [sender] = [each for each in {*threading.enumerate()} - before if each.name.startswith("Otel")]
    assert sender.is_alive(), "it still tries, and was not waited for"
    assert sender.daemon, "and no process waits for it"


def test_a_ledger_that_is_away_makes_a_span_without_links(collector: OtelCollector) -> None:
    """The claim was made all the same, and is told."""

    def away() -> list[int]:
        raise LedgerUnreachable

    with opened(collector) as traces:
        a_claim(traces, away)
    [span] = collector.spans()
    assert span.links == []


def test_what_breaks_in_it_breaks_nothing_else(
    collector: OtelCollector, lines: Callable[[str], list[dict[str, Any]]]
) -> None:
    """It is said once; passes and claims go on."""

    def broken() -> str:
        raise RuntimeError("a bug")

    with opened(collector, broken) as traces:
        a_pass(traces)
        a_pass(traces)
        a_pass(traces, None)
    assert [line["part"] for line in lines("unexpected_error")] == ["opentelemetry"]
    assert len(collector.spans()) == 1


IMPORTED = """
import sys
from aggregator.cli import main
import aggregator.daemon.daemon, aggregator.wiring.app, aggregator.runtime.tracing
with aggregator.runtime.tracing.tracing(on=False, endpoint=None, ledger=str) as traces:
    with traces.a_claim('stripe') as trace:
        trace.claim = 1
print(sorted(name for name in sys.modules if name.startswith(('opentelemetry', 'google.protobuf'))))
"""


def test_where_it_is_off_nothing_of_it_is_imported() -> None:
    """It costs neither the start nor memory."""
    ran = subprocess.run([sys.executable, "-c", IMPORTED], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def test_without_the_extra_it_is_said_which(monkeypatch: pytest.MonkeyPatch) -> None:
    """One sentence with the command, and no traceback."""
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with (
        pytest.raises(UsageError, match=r"pip install 'usage-aggregator\[opentelemetry\]'"),
        tracing(on=True, endpoint=None, ledger=str),
    ):
        pass


CONFIG = """
ledger: {{url: 'postgresql:///nowhere'}}
sources: {{app: {{url: 'sqlite:////nowhere'}}}}
sinks: {{it: {{type: stripe, api_key: sk_test_1, mode: test}}}}
monitoring: {{{monitoring}}}
meters:
  api_requests:
    source: app
    sinks: [it]
    window: 1h
    start_at: 2026-11-01T00:00Z
    query: select customer, 1 as quantity from use where at >= :start and at < :end
"""


@pytest.mark.parametrize(
    ("monitoring", "told"),
    [
        ("opentelemetry_endpoint: 'http://127.0.0.1:4318'", "set `opentelemetry: true` as well"),
        ("opentelemetry: true, opentelemetry_endpoint: '127.0.0.1:4318'", "must be an address"),
        ("opentelemetry: true, opentelemetry_endpoint: 'http://me:pw@h:4318'", "OTEL_EXPORTER_OTLP_HEADERS"),
        (
            "opentelemetry: true, opentelemetry_endpoint: 'http://h:4318/v1/traces'",
            "stands without `/v1/traces`",
        ),
    ],
)
def test_an_endpoint_that_is_none_is_refused(tmp_path: Path, monitoring: str, told: str) -> None:
    """In one sentence, with what to write."""
    path = tmp_path / "aggregator.yaml"
    path.write_text(CONFIG.format(monitoring=monitoring))
    with pytest.raises(ConfigError, match=told):
        load(path, {})
