"""Sources of the configuration, as working parts."""

import threading
from collections.abc import Iterable, Mapping

from aggregator.collection.cursor_source import CursorSource
from aggregator.collection.sampled import SampledSource
from aggregator.config import Config
from aggregator.config.rotated import url_now
from aggregator.core.model import Meter
from aggregator.ledger.ledger import Ledger
from aggregator.ledger.meters import Registered
from aggregator.source import Files, Source


def build_source(config: Config, name: str, application_name: str, *, accepts: Iterable[str] = ()) -> Source:
    """Return a source as configured; it connects when it is first used. Raises SourceError if its URL is of no use.

    `accepts` is what need not be proven, beside what the configuration accepts.
    """
    source = config.sources[name]
    return Source(
        name,
        source.url_revealed(),
        **source.named("statement_timeout", "timezone", "freshness"),
        filtered=source.row_security == "allowed",
        accepts=(*source.accepts, *accepts),
        files={
            table: Files(**files.named("path", "columns", "delimiter"), optional=frozenset(files.optional))
            for table, files in source.files.items()
        },
        application_name=application_name,
        url_now=lambda: url_now(source),
    )


def reads_of(meter: Meter, meter_id: int, source: Source, ledger: Ledger) -> Source | SampledSource:
    """Return what a meter is read from: its source, or the samples that were taken of that."""
    if meter.sampling is None:
        return source
    return SampledSource(meter, meter_id, source, ledger.samples, ledger.instant)


def by_cursors(
    registered: Iterable[Registered], sources: Mapping[str, Source], ledger: Ledger
) -> dict[str, CursorSource]:
    """Return what takes in the rows of each meter that is read by a cursor."""
    return {
        known.meter.name: by_cursor(known.meter, known.id, sources[known.meter.source], ledger)
        for known in registered
        if known.meter.deltas is not None
    }


def by_cursor(meter: Meter, meter_id: int, source: Source, ledger: Ledger) -> CursorSource:
    """Return what takes in the rows of a meter that is read by a cursor."""
    return CursorSource(
        meter,
        meter_id,
        source,
        ledger.running_totals,
        pause=threading.Event().wait,
        present=ledger.instant,
    )
