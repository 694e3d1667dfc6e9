"""Spans for OpenTelemetry: one for each pass, and one for each claim. Where it is off, nothing of it is imported.

Rules
- Nobody waits for a collector: spans are sent by a thread of the SDK, those that find no room are dropped, and what is not
  sent within `FLUSH_SECONDS` at the end is given up. The SDK by itself would hold an exit up for 15 to 20 seconds.
- A span is made once its work is over, so that it has the number of the pass's record for a name: the claim that sends the
  pass's events links to it, whichever process does, and nothing more is kept in the ledger for that.
- What goes wrong here is said in the log once, and stays here.
- Everything that has a variable of OpenTelemetry's own is set by that (opentelemetry.io/docs/specs/otel/configuration/
  sdk-environment-variables); the configuration has the endpoint, if it is to stand there.
"""

import hashlib
import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import aggregator
from aggregator.core.model import Span
from aggregator.core.tracing import NO_TRACING, ClaimTrace, PassTrace, Tracing
from aggregator.errors import LedgerError, QueryTimedOut, UsageError
from aggregator.runtime import log
from aggregator.runtime.clock import wall_nanoseconds

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

FLUSH_SECONDS = 2.0
"""How long the end waits for what was not sent yet: what stops us, such as Kubernetes, does not wait for long either."""

MOST_LINKS = 32
"""Passes that a claim names. Most have one or two; those after an outage may have hundreds."""

LONGEST_REASON = 200
SPOKEN = {"http/protobuf", ""}
EXTRA = "`pip install 'usage-aggregator[opentelemetry]'`"


@contextmanager
def tracing(*, on: bool, endpoint: str | None, ledger: Callable[[], str]) -> Iterator[Tracing]:
    """Give what traces passes and claims; nothing is traced unless it is `on`. `ledger` is what the ledger is called.

    Raises UsageError where OpenTelemetry is not installed, or set up in a way that cannot be.
    """
    if not on or _is_off(os.environ):
        yield NO_TRACING
        return
    for name in ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"):
        if (protocol := os.environ.get(name, "").strip()) not in SPOKEN:
            raise UsageError(
                f"Spans are sent as http/protobuf, and {name} is {protocol!r}: set it to http/protobuf."
            )
    traces = _opened(endpoint, ledger)
    try:
        yield traces
    finally:
        traces.close()


def _is_off(env: Mapping[str, str]) -> bool:
    """Tell whether OpenTelemetry's own variables say that there are to be no spans."""
    disabled = env.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    return disabled or env.get("OTEL_TRACES_EXPORTER", "").strip().lower() == "none"


def _opened(endpoint: str | None, ledger: Callable[[], str]) -> "Traces":
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise UsageError(
            f"`monitoring: {{opentelemetry: true}}` needs OpenTelemetry, and {error.name} is not installed: {EXTRA}, or "
            "take the key out."
        ) from None
    words = _LastWords()
    url = None if endpoint is None else f"{endpoint.rstrip('/')}/v1/traces"
    try:
        exporter = _reporting(OTLPSpanExporter(endpoint=url), words)
        return Traces(BatchSpanProcessor(exporter), ledger)
    except ValueError as error:
        raise UsageError(f"OpenTelemetry cannot be set up by its OTEL_ variables: {error}.") from None


class _LastWords(logging.Handler):
    """Keeps what the SDK said last, instead of letting it write into our log: there it is said once, by us."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.text = ""
        library = logging.getLogger("opentelemetry")
        library.handlers, library.propagate = [self], False

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record's text."""
        self.text = record.getMessage()[:LONGEST_REASON]


def _reporting(exporter: "SpanExporter", words: _LastWords) -> "SpanExporter":
    """Return an exporter that says in the log when it begins to fail, and when that is over."""
    from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

    class Reporting(SpanExporter):
        failing = False

        def export(self, spans: "Sequence[ReadableSpan]") -> "SpanExportResult":
            result = exporter.export(spans)
            failed = result is not SpanExportResult.SUCCESS
            if failed and not self.failing:
                log.logger().warning(
                    log.TRACES_FAILED, reason=words.text or "the collector did not take them"
                )
            elif self.failing and not failed:
                log.logger().info(log.TRACES_RESUMED)
            self.failing = failed
            return result

        def shutdown(self) -> None:
            exporter.shutdown()

    return Reporting()


class Traces(Tracing):
    """Makes a span of each pass and each claim. Close it."""

    def __init__(self, processor: Any, ledger: Callable[[], str]) -> None:
        from opentelemetry.sdk.trace import TracerProvider

        self._ids = _ids()
        self._provider = TracerProvider(resource=_resource(), id_generator=self._ids, shutdown_on_exit=False)
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("aggregator", aggregator.__version__)
        self._ledger = ledger
        self._lock = threading.Lock()
        self._broke = False

    @contextmanager
    def a_pass(self, meter: str, kind: str, span: Span) -> Iterator[PassTrace]:
        """Trace one pass, for as long as it takes."""
        trace, begun, error = PassTrace(meter, kind, span), wall_nanoseconds(), None
        try:
            yield trace
        except BaseException as raised:
            error = type(raised).__name__
            trace.outcome = "too_long" if isinstance(raised, QueryTimedOut) else "failed"
            raise
        finally:
            if trace.outcome is not None:
                self._safely(lambda: self._note_pass(trace, begun, error))

    @contextmanager
    def a_claim(self, sink: str) -> Iterator[ClaimTrace]:
        """Trace one claim, for as long as it takes."""
        trace, begun, error = ClaimTrace(sink), wall_nanoseconds(), None
        try:
            yield trace
        except BaseException as raised:
            error = type(raised).__name__
            raise
        finally:
            if trace.claim is not None:
                self._safely(lambda: self._note_claim(trace, begun, error))

    def close(self) -> None:
        """Send what was not sent yet, within bounds. A collector that does not answer is left to itself."""
        closing = threading.Thread(target=self._provider.shutdown, name="opentelemetry-end", daemon=True)
        closing.start()
        closing.join(FLUSH_SECONDS)

    def _safely(self, note: Callable[[], None]) -> None:
        """Note a span; what goes wrong with that is nobody else's trouble."""
        try:
            note()
        except Exception:  # noqa: BLE001 - whatever breaks here, passes and deliveries go on
            if not self._broke:
                log.logger().exception(log.UNEXPECTED, part="opentelemetry")
            self._broke = True

    def _note_pass(self, trace: PassTrace, begun: int, error: str | None) -> None:
        attributes = {
            "meter": trace.meter,
            "kind": trace.kind,
            "window.start": trace.span.start.isoformat(),
            "window.end": trace.span.end.isoformat(),
            "pass": trace.pass_id,
            "read_seconds": trace.read_seconds,
            "outcome": trace.outcome,
            **trace.figures,
        }
        ids = None if trace.pass_id is None else _named(self._ledger(), trace.pass_id)
        failed = trace.outcome in {"failed", "too_long"}
        self._span(f"pass {trace.meter}", begun, attributes, error, ids=ids, failed=failed)

    def _note_claim(self, trace: ClaimTrace, begun: int, error: str | None) -> None:
        from opentelemetry.trace import Link, SpanContext, SpanKind, TraceFlags

        ended = wall_nanoseconds()
        links = []
        try:
            for pass_id in list(trace.planned_by())[:MOST_LINKS]:
                trace_id, span_id = _named(self._ledger(), pass_id)
                flags = TraceFlags(TraceFlags.SAMPLED)
                links.append(Link(SpanContext(trace_id, span_id, is_remote=True, trace_flags=flags)))
        except LedgerError:  # whatever it is, delivery says it
            links = []
        attributes = {
            "sink": trace.sink,
            "claim": trace.claim,
            "meters": sorted(trace.meters()) or None,
            "outcome": trace.outcome,
            **trace.figures,
        }
        failed, kind = trace.outcome != "settled", SpanKind.CLIENT
        self._span(
            f"claim {trace.sink}",
            begun,
            attributes,
            error,
            failed=failed,
            kind=kind,
            links=links,
            ended=ended,
        )

    def _span(
        self,
        name: str,
        begun: int,
        attributes: Mapping[str, object],
        error: str | None,
        *,
        failed: bool,
        ids: tuple[int, int] | None = None,
        ended: int | None = None,
        **more: Any,
    ) -> None:
        """Make a span of what is over; `ids` are its trace's and its own, if they are to be known elsewhere."""
        from opentelemetry.context import Context
        from opentelemetry.trace import StatusCode

        known: dict[str, Any] = {
            f"aggregator.{key}": value for key, value in attributes.items() if value is not None
        }
        if error is not None:
            known["error.type"] = error
        with self._lock:
            self._ids.next = ids
            span = self._tracer.start_span(name, Context(), start_time=begun, attributes=known, **more)
        if failed:
            span.set_status(StatusCode.ERROR)
        span.end(wall_nanoseconds() if ended is None else ended)


def _named(ledger: str, pass_id: int) -> tuple[int, int]:
    """Return the trace and the span of a pass, by what it is called in all processes: its ledger, and its number there."""
    digest = hashlib.sha256(f"aggregator pass {ledger} {pass_id}".encode()).digest()
    return int.from_bytes(digest[:16]), int.from_bytes(digest[16:24])


def _ids() -> Any:
    """Return what names the next span as it is told, or at random."""
    from opentelemetry.sdk.trace.id_generator import RandomIdGenerator

    class Ids(RandomIdGenerator):
        next: tuple[int, int] | None = None

        def generate_trace_id(self) -> int:
            return super().generate_trace_id() if self.next is None else self.next[0]

        def generate_span_id(self) -> int:
            return super().generate_span_id() if self.next is None else self.next[1]

    return Ids()


def _resource() -> Any:
    """Return what all spans say of this process; OpenTelemetry's own variables have the last word."""
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource

    ours = Resource.create({"service.name": "aggregator", "service.version": aggregator.__version__})
    return ours.merge(OTELResourceDetector().detect())
