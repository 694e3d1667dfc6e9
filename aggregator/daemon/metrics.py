"""What a process adds to the figures of the ledger: which sources it reached, and by when each meter should be read."""

from collections.abc import Callable
from datetime import datetime

from aggregator.core.model import Limits
from aggregator.daemon.jobs import alarm
from aggregator.monitoring.endpoints import MetricsEndpoint
from aggregator.monitoring.metrics import Context, Figures, LedgerCollector
from aggregator.monitoring.readiness import Readiness
from aggregator.monitoring.response import Response
from aggregator.wiring.app import App


def context_of(app: App, readiness: Readiness, part: str = "daemon") -> Context:
    """Return what a process of this part knows besides its ledger."""
    alarms = {name: alarm(meter) for name, meter in app.config.meters.items()}

    def read_by(meter: str, ready: datetime) -> datetime | None:
        due: datetime | None = alarms[meter].get_next_fire_time(ready, ready)
        return due

    def limits(meter: str, sink: str) -> Limits | None:
        destination = app.sinks.get(sink)
        return destination.limits_for(meter) if destination is not None else None

    return Context(readiness.sources, read_by, limits, part)


def metrics_of(app: App, readiness: Readiness, part: str = "daemon") -> Callable[[], Response]:
    """Return what answers `/metrics` for a daemon, or for another part that answers."""
    context = context_of(app, readiness, part)
    return MetricsEndpoint(LedgerCollector(app.config, Figures(app.ledger, app.config), context))
