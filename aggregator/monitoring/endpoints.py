"""What any listener answers to whoever watches us: each function gives a status, a content type and a body.

They may wait for the ledger for some seconds, so a listener that must not wait calls them on a thread of its own.
"""

from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from aggregator.monitoring.exposition import CONTENT_TYPE, Exposition
from aggregator.monitoring.response import Response


class MetricsEndpoint:
    """`GET /metrics`: figures of the ledger, and what the system says of this process. Never an error, never empty."""

    def __init__(self, ledger: Collector) -> None:
        self._ledger = ledger
        self._process = ProcessCollector(registry=None)
        self._exposition = Exposition()

    def __call__(self) -> Response:
        """Read the figures, and write them down."""
        found = [*self._ledger.collect(), *self._process.collect()]
        return Response(200, CONTENT_TYPE, self._exposition.render(found))
