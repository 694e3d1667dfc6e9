"""What the daemon adds to the figures of the ledger: which sources it reached, and by when each meter should be read."""

from collections.abc import Callable, Mapping
from datetime import datetime

from aggregator.core.model import Limits
from aggregator.daemon.jobs import alarm
from aggregator.daemon.readiness import Readiness
from aggregator.monitoring.endpoints import MetricsEndpoint
from aggregator.monitoring.metrics import Context, Figures, LedgerCollector
from aggregator.monitoring.response import Response
from aggregator.wiring.app import App


def metrics_of(app: App, readiness: Readiness) -> Callable[[], Response]:
    """Return what answers `/metrics` for a daemon."""
    alarms = {name: alarm(meter) for name, meter in app.config.meters.items()}

    def read_by(meter: str, ready: datetime) -> datetime | None:
        due: datetime | None = alarms[meter].get_next_fire_time(ready, ready)
        return due

    def limits(meter: str, sink: str) -> Limits | None:
        its = app.sinks.get(sink)
        return its.limits_for(meter) if its is not None else None

    def source_up() -> Mapping[str, bool]:
        return readiness.sources()

    return MetricsEndpoint(
        LedgerCollector(app.config, Figures(app.ledger), Context(source_up, read_by, limits))
    )
