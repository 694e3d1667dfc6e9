"""Who is told of passes and claims as spans, as configured."""

from contextlib import AbstractContextManager

from aggregator.config import Config
from aggregator.core.tracing import Tracing
from aggregator.ledger.ledger import Ledger
from aggregator.runtime.tracing import tracing


def tracing_of(config: Config, ledger: Ledger, *, on: bool) -> AbstractContextManager[Tracing]:
    """Return what traces passes and claims, if that is configured; whoever only looks makes neither."""
    monitoring = config.monitoring
    return tracing(
        on=on and monitoring.opentelemetry,
        endpoint=monitoring.opentelemetry_endpoint,
        ledger=ledger.identity.name,
    )
