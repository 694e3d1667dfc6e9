"""Mappings of customers, put together: what reads each of them, and what reads the meters that go by one."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

from aggregator.collection.cursor_source import CursorSource
from aggregator.collection.mapped_source import MappedSource
from aggregator.collection.mapping import Mapping as CustomerMapping
from aggregator.config import Config
from aggregator.core import age_limits
from aggregator.core.customers import Listed, Moved
from aggregator.core.model import Definition, Limits
from aggregator.ledger.customers import Customers
from aggregator.ledger.ledger import Ledger
from aggregator.ledger.meters import Registered
from aggregator.source import Source
from aggregator.source.listed import from_csv


def listing(config: Config, name: str, source: Source | None) -> Iterator[list[Listed]]:
    """Yield what a mapping lists now, in batches. Raises SourceError."""
    configured = config.customers[name]
    if configured.file is not None:
        return from_csv(name, configured.file)
    assert source is not None, "a mapping has a file or a source"
    assert configured.query is not None, "and with a source a query"
    return source.customers(configured.query)


def build_mapping(
    config: Config, name: str, sources: Mapping[str, Source], customers: Customers, limits: Sequence[Limits]
) -> CustomerMapping:
    """Return what reads a mapping; `limits` are of all sinks of the meters that go by it."""
    configured = config.customers[name]
    source = sources[configured.source] if configured.source else None
    past = min([age_limits.FURTHEST, *(each.past for each in limits)])
    return CustomerMapping(
        name,
        partial(listing, config, name, source),
        customers,
        moved=Moved(configured.moved),
        every=configured.every,
        past=past,
    )


def mapped_sources(
    registered: Mapping[str, Registered],
    sources: Mapping[str, Source],
    by_cursor: Mapping[str, CursorSource],
    ledger: Ledger,
    looked: Mapping[str, tuple[Definition, ...]],
) -> dict[str, MappedSource]:
    """Return what reads the meters that go by a mapping, now or in some stretch of time.

    `looked` has the definitions that the ledger has not.
    """
    ids = ledger.customers.mapped_meters()
    found = {}
    for name, known in registered.items():
        if known.meter.customers is None and known.id not in ids:
            continue
        held = looked.get(name)
        definitions = partial(ledger.meters.definitions, known) if held is None else partial(tuple, held)
        source = by_cursor.get(name) or sources[known.meter.source]
        found[name] = MappedSource(source, ledger.customers, definitions)
    return found
