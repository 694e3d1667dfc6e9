"""An OpenTelemetry collector: takes OTLP over HTTP on this machine, reads the protobuf, and keeps the spans.

It answers as the protocol asks (opentelemetry.io/docs/specs/otlp, "OTLP/HTTP"): only POST to its own path, only protobuf
that can be read, and a response that is protobuf as well. It can be told to refuse, or to be silent.
"""

import datetime as dt
import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue

PATH = "/v1/traces"
EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


class Span(NamedTuple):
    """A span, as it arrived."""

    name: str
    trace: bytes
    id: bytes
    parent: bytes
    kind: int
    failed: bool
    begun: dt.datetime
    ended: dt.datetime
    attributes: dict[str, Any]
    links: list[tuple[bytes, bytes]]
    resource: dict[str, Any]


class OtelCollector:
    """What arrived, and how it answers."""

    def __init__(self) -> None:
        self.status = 200
        self.headers: list[dict[str, str]] = []
        self.bodies: list[bytes] = []
        self.answering = threading.Event()
        self.answering.set()
        """Cleared: it takes calls, and says nothing."""
        self._spans: list[Span] = []
        self._lock = threading.Lock()
        self.url = ""

    def spans(self, beginning: str = "", **attributes: object) -> list[Span]:
        """Return the spans whose names begin so, and that have these attributes, in the order in which they came."""
        with self._lock:
            return [
                span
                for span in self._spans
                if span.name.startswith(beginning)
                and all(
                    span.attributes.get(f"aggregator.{key}") == value for key, value in attributes.items()
                )
            ]

    def take(self, path: str, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
        """Take a call; return what is answered."""
        if path != PATH:
            return 404, b""
        if headers.get("content-type") != "application/x-protobuf":
            return 415, b""
        if self.status != 200:
            return self.status, b""
        plain = gzip.decompress(body) if headers.get("content-encoding") == "gzip" else body
        try:
            asked = ExportTraceServiceRequest.FromString(plain)
        except DecodeError:
            return 400, b""
        with self._lock:
            self.headers.append(headers)
            self.bodies.append(plain)
            self._spans += _spans(asked)
        return 200, ExportTraceServiceResponse().SerializeToString()


def _spans(asked: ExportTraceServiceRequest) -> Iterator[Span]:
    for of_resource in asked.resource_spans:
        resource = {each.key: _value(each.value) for each in of_resource.resource.attributes}
        for scope in of_resource.scope_spans:
            for span in scope.spans:
                yield Span(
                    span.name,
                    span.trace_id,
                    span.span_id,
                    span.parent_span_id,
                    span.kind,
                    span.status.code == 2,
                    EPOCH + dt.timedelta(microseconds=span.start_time_unix_nano / 1000),
                    EPOCH + dt.timedelta(microseconds=span.end_time_unix_nano / 1000),
                    {each.key: _value(each.value) for each in span.attributes},
                    [(link.trace_id, link.span_id) for link in span.links],
                    resource,
                )


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(each) for each in value.array_value.values]
    return None if kind is None else getattr(value, kind)


@contextmanager
def otel_collector() -> Iterator[OtelCollector]:
    """Run one on a free port, for the length of a `with` block."""
    collector = OtelCollector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            collector.answering.wait()
            headers = {name.lower(): value for name, value in self.headers.items()}
            status, said = collector.take(self.path, headers, body)
            self.send_response(status)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
            """Say nothing."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            """Whoever hung up has."""

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, name="otel-collector", daemon=True)
    thread.start()
    collector.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield collector
    finally:
        collector.answering.set()
        server.shutdown()
        server.server_close()
        thread.join()
