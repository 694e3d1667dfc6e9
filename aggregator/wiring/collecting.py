"""What collects a meter: from its source, or from what was taken in of that, sums of rows or samples."""

from collections.abc import Mapping

from aggregator.collection.collector import Collector
from aggregator.collection.cursor_source import CursorSource
from aggregator.collection.mapped_source import MappedSource
from aggregator.collection.revisits import Revisits
from aggregator.collection.sampled import SampledSource
from aggregator.config import Config
from aggregator.core.tracing import Tracing
from aggregator.ledger.ledger import Ledger
from aggregator.ledger.meters import Registered
from aggregator.runtime.clock import monotonic
from aggregator.sinks.protocol import Destination
from aggregator.source import Source
from aggregator.wiring.sources import reads_of


def collector_of(
    config: Config,
    mapped: Mapping[str, MappedSource],
    by_cursor: Mapping[str, CursorSource],
    sources: Mapping[str, Source],
    sinks: Mapping[str, Destination],
    ledger: Ledger,
    traces: Tracing,
    known: Registered,
) -> Collector:
    """Return what collects a meter. It connects to the source when it is first asked to."""
    taking_in = by_cursor.get(known.meter.name)
    source, patience = sources[known.meter.source], config.sources[known.meter.source].wait_for_writers
    reads = reads_of(known.meter, known.id, source, ledger)
    return Collector(
        known,
        mapped.get(known.meter.name) or taking_in or reads,
        ledger.meters,
        ledger.passes,
        ledger_name=ledger.identity.name,
        limits={feed.sink: sinks[feed.sink].limits_for(known.meter.name) for feed in known.feeds},
        elapsed=monotonic,
        check_clock=ledger.now,
        patience=patience,
        allowed=config.sources[known.meter.source].statement_timeout,
        tracing=traces,
        by_cursor=taking_in,
        sampler=reads if isinstance(reads, SampledSource) else None,
        revisits=None if known.meter.changed is None else Revisits(known.meter, source, patience),
    )
