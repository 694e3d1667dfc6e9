"""A million raw rows become twenty thousand events in the sandbox: seconds to read and plan, and to deliver."""

import time
from typing import NamedTuple

from aggregator.daemon.jobs import WORKERS
from aggregator.delivery.sender import drain
from aggregator.runtime.clock import utcnow
from bench.stand import stand


class Figures(NamedTuple):
    """Seconds, and how many events it came to."""

    events: int
    collect_seconds: float
    deliver_seconds: float


def measure(
    rows: int, customers: int, hours: int, *, latency_seconds: float, rate: int, transport: str = "v1"
) -> Figures:
    """Collect a source with so many rows, then deliver what they come to."""
    with (
        stand(latency_seconds=latency_seconds) as on,
        on.app(on.source(rows, customers, hours), rate, transport) as app,
    ):
        began = time.monotonic()
        planned = app.collections["api_requests"].run_once(utcnow()).planned
        collected = time.monotonic()
        delivered = drain([app.delivery("far") for _ in range(WORKERS)], utcnow)
        done = time.monotonic()
    assert delivered.accepted == planned, delivered
    return Figures(planned, collected - began, done - collected)
