"""Raw rows become events in the sandbox: what it takes to read, plan and commit them, and to send them."""

from aggregator.daemon.jobs import WORKERS
from aggregator.delivery.sender import drain
from aggregator.runtime.clock import utcnow
from bench.figures import Figure, measured
from bench.stand import seldom_collected, stand


def measure(
    rows: int, customers: int, hours: int, *, latency_seconds: float, rate: int, transport: str = "v1"
) -> list[Figure]:
    """Collect a source with so many rows, then deliver what they come to.

    What a sink holds already is asked of it before the first event leaves, which has a pace of its own; it stands apart.
    """
    with (
        stand(latency_seconds=latency_seconds) as on,
        on.app(on.source(rows, customers, hours), rate, transport) as app,
        seldom_collected(),
    ):
        with measured(Figure("read, plan, commit"), on.processes) as collected:
            planned = app.collections["api_requests"].run_once(utcnow()).planned
        asked = Figure("first use", events=customers)
        if clear := getattr(app, "first_uses", {}).get("far"):
            with measured(asked, on.processes):
                clear.run_once(utcnow())
        with measured(Figure("send"), on.processes) as sent:
            delivered = drain([app.delivery("far") for _ in range(WORKERS)], utcnow)
    assert delivered.accepted == planned, delivered
    collected.events = sent.events = planned
    collected.name = f"{rows:,} rows -> {planned:,} events: read, plan, commit"
    limit = f", limited to {rate:,}/s" if rate < planned else ""
    sent.name = f"{planned:,} events to {transport} at {1_000 * latency_seconds:.0f} ms{limit}: send"
    asked.name = f"{customers:,} customers: what {transport} holds of some is asked, once (per customer)"
    return [collected, sent, *([asked] if asked.seconds else [])]
